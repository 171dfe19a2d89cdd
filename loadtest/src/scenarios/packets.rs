//! `packets`: a transport stream that the server pulls from here, and many readers of it, every packet
//! verified. What `live` is to an upload.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tokio_uring::net::TcpListener;

use super::{Context, parse_count, parse_rate};
use crate::follow::{self, Audience, Tally};
use crate::outcome::Outcome;
use crate::pattern::Plan;
use crate::publish;
use crate::report::{self, ClientShare, LatencyMs, Report};
use crate::target::Target;
use crate::transport::{self, PACKET_BYTES, PacketSight, Upstream};
use crate::viewer::{self, Viewer};

/// A server may wait between its attempts.
const PULL_SECONDS_MAX: u64 = 20;
const END_SECONDS_MAX: u64 = 15;
/// Readers that join wait for a picture where they may begin.
const PREAMBLE_EVERY: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the readers come
    url: String,
    /// Wait here for the server that pulls, as tcp://ADDRESS
    #[arg(long, value_name = "ADDRESS")]
    upstream: SocketAddr,
    /// Readers of the stream
    #[arg(long, default_value_t = 100, value_parser = parse_count)]
    readers: usize,
    /// Pictures per second, each sent at once
    #[arg(long, default_value_t = 30.0, value_parser = parse_rate)]
    rate: f64,
    /// Packets of a picture; 177 are 8 Mbit/s at the rate of 30
    #[arg(long, default_value_t = 177, value_parser = clap::value_parser!(u32).range(3..=20_000))]
    packets: u32,
    /// Length of the paced phase
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

#[derive(Serialize)]
pub(crate) struct PacketsReport {
    readers: usize,
    rate: f64,
    packets: u32,
    pictures: u32,
    deliveries: u64,
    bytes: u64,
    #[serde(flatten)]
    outcome: Outcome,
    latency_ms: LatencyMs,
    server_cpu_ns: Option<u64>,
    server_cpu_us_per_delivery: Option<f64>,
    #[serde(flatten)]
    client: ClientShare,
    upstream_late_max_ms: f64,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<PacketsReport> {
    let target = Target::parse(&args.url)?;
    context.check_sockets(args.readers + 2)?;
    let picture_bytes = args.packets as usize * PACKET_BYTES;
    let pictures = (args.rate * f64::from(args.seconds)).round().max(1.0) as u32;
    let plan = Plan::new(transport::append_bytes(picture_bytes)?, pictures);
    let upstream = accept(args.upstream, &plan).await?;
    let is_joined = Rc::new(Cell::new(false));
    let sending = tokio_uring::spawn(send_preambles(upstream, is_joined.clone()));

    let tally = Tally::new();
    let join_with = |tally: Rc<Tally>| {
        let (target, plan) = (target.clone(), plan.clone());
        async move { Viewer::join(&target, PacketSight::new(&plan), picture_bytes, &tally).await }
    };
    let scout = || join_with(Tally::new());
    viewer::wait_until_visible("a stream that was pulled", scout).await?;
    let join = |_| join_with(tally.clone());
    let readers = follow::join_readers(args.readers, Duration::ZERO, join).await?;
    let audience = Audience::start(readers, &tally);
    is_joined.set(true);
    let upstream = sending.await??;

    let progress = context.progress(u64::from(pictures), "pictures");
    let expected = args.readers as u64 * u64::from(pictures);
    let before = tally.bytes.get();
    let period_ns = (1e9 / args.rate) as u64;
    let (paced, upstreams) = publish::publish_paced(
        vec![upstream],
        period_ns,
        expected,
        &tally,
        &context.server,
        &progress,
    )
    .await?;
    let (deliveries, bytes) = (tally.deliveries.get(), tally.bytes.get() - before);
    drop(upstreams);
    let outcome = audience.finish(Duration::from_secs(END_SECONDS_MAX)).await;
    progress.finish_and_clear();
    Ok(PacketsReport {
        readers: args.readers,
        rate: args.rate,
        packets: args.packets,
        pictures,
        deliveries,
        bytes,
        outcome,
        latency_ms: LatencyMs::of(&tally.latency.borrow()),
        server_cpu_ns: paced.server_ns,
        server_cpu_us_per_delivery: report::us_per(paced.server_ns, deliveries as f64),
        client: ClientShare::new(paced.client_busy),
        upstream_late_max_ms: paced.late_max_ns as f64 / 1e6,
    })
}

async fn accept(address: SocketAddr, plan: &Arc<Plan>) -> Result<Upstream> {
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let limit = Duration::from_secs(PULL_SECONDS_MAX);
    let accepted = timeout(limit, listener.accept()).await.map_err(|_| {
        anyhow!("no server has pulled from tcp://{address} within {PULL_SECONDS_MAX} s")
    })?;
    let (stream, _) = accepted?;
    stream.set_nodelay(true)?;
    Ok(Upstream::new(stream, plan))
}

async fn send_preambles(mut upstream: Upstream, is_joined: Rc<Cell<bool>>) -> Result<Upstream> {
    while !is_joined.get() {
        upstream.send_preamble().await?;
        sleep(PREAMBLE_EVERY).await;
    }
    Ok(upstream)
}

impl Report for PacketsReport {
    const MODE: &'static str = "packets";

    fn line(&self) -> String {
        format!(
            "{} readers × {} pictures of {} packets at {}/s: {} deliveries, {}, {}; {}; {}; {}",
            self.readers,
            self.pictures,
            self.packets,
            self.rate,
            self.deliveries,
            report::bytes_text(self.bytes),
            self.outcome.text(),
            self.latency_ms.text(),
            report::server_text(self.server_cpu_us_per_delivery, "delivery"),
            self.client.text(),
        )
    }

    fn failed(&self) -> bool {
        self.outcome.failed()
    }
}
