//! `live`: one publisher, many followers of the same object, every byte verified and the way of
//! every append timed; or several of them, side by side. Broken readers are `slow`'s subject, silent ones `idle`'s.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;

use super::{Context, Load, parse_count};
use crate::door::{Doors, ReadDoor, WriteDoor};
use crate::follow::{self, Audience, Follower, Tally};
use crate::outcome::Outcome;
use crate::publish::{self, Publisher};
use crate::report::{self, ClientShare, LatencyMs, Report};

const END_SECONDS_MAX: u64 = 5;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The object to publish and read; http://HOST:PORT/CHANNEL/KEY with --door receive
    url: String,
    #[command(flatten)]
    doors: Doors,
    /// Objects, each below the URL and evenly apart in time, that share the readers
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    objects: usize,
    /// Readers that follow the object
    #[arg(long, default_value_t = 100, value_parser = parse_count)]
    readers: usize,
    #[command(flatten)]
    load: Load,
    /// Let the readers join evenly over so many milliseconds instead of as fast as they can
    #[arg(long, value_name = "MS", num_args = 0..=1, default_value_t = 0, default_missing_value = "1000",
        value_parser = clap::value_parser!(u64).range(0..=60_000))]
    start_spread: u64,
}

#[derive(Serialize)]
pub(crate) struct LiveReport {
    door: ReadDoor,
    publish: WriteDoor,
    objects: usize,
    readers: usize,
    rate: f64,
    size: usize,
    appends: u32,
    deliveries: u64,
    bytes: u64,
    /// Pings and heartbeats to readers.
    heartbeats: u64,
    #[serde(flatten)]
    outcome: Outcome,
    latency_ms: LatencyMs,
    server_cpu_ns: Option<u64>,
    server_cpu_us_per_delivery: Option<f64>,
    #[serde(flatten)]
    client: ClientShare,
    publisher_late_max_ms: f64,
    publisher_status: u16,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<LiveReport> {
    // Besides the readers, the publishers and a scout.
    context.check_sockets(args.readers + args.objects + 1)?;
    let tally = Tally::new();
    let (mut publishers, mut scenes) = (Vec::new(), Vec::new());
    for index in 0..args.objects {
        let is_one = args.objects == 1;
        let url = if is_one { args.url.clone() } else { format!("{}/{index}", args.url) };
        let (ingress, egress) = args.doors.of(&url)?;
        let plan = args.load.plan();
        publishers.push(Publisher::create(&ingress, &plan).await?);
        follow::wait_until_visible(&egress, &plan).await?;
        scenes.push((egress, plan));
    }
    let spread = Duration::from_millis(args.start_spread);
    let join = |reader: usize| {
        let ((egress, plan), tally) = (scenes[reader % scenes.len()].clone(), tally.clone());
        async move { Follower::join(&egress, &plan, &tally).await }
    };
    let followers = follow::join_readers(args.readers, spread, join).await?;

    let appends = args.load.plan().appends();
    let progress = context.progress(u64::from(appends), "appends");
    let expected = followers.len() as u64 * u64::from(appends);
    let audience = Audience::start(followers, &tally);
    let (paced, publishers) = publish::publish_paced(
        publishers,
        args.load.period_ns(),
        expected,
        &tally,
        &context.server,
        &progress,
    )
    .await?;
    // Taken before the end of the object, which is not part of the measurement.
    let deliveries = tally.deliveries.get();
    let mut publisher_status = 0;
    for publisher in publishers {
        publisher_status = publisher.finish().await?;
    }
    let outcome = audience.finish(Duration::from_secs(END_SECONDS_MAX)).await;
    progress.finish_and_clear();

    Ok(LiveReport {
        door: args.doors.read(),
        publish: args.doors.write(),
        objects: args.objects,
        readers: args.readers,
        rate: args.load.rate,
        size: args.load.size,
        appends,
        deliveries,
        bytes: tally.bytes.get(),
        heartbeats: tally.heartbeats.get(),
        outcome,
        latency_ms: LatencyMs::of(&tally.latency.borrow()),
        server_cpu_ns: paced.server_ns,
        server_cpu_us_per_delivery: report::us_per(paced.server_ns, deliveries as f64),
        client: ClientShare::new(paced.client_busy),
        publisher_late_max_ms: paced.late_max_ns as f64 / 1e6,
        publisher_status,
    })
}

impl Report for LiveReport {
    const MODE: &'static str = "live";

    fn line(&self) -> String {
        format!(
            "{} readers × {} appends of {} B at {}/s: {} deliveries, {}, {}; {}; {}; {}",
            self.readers,
            self.appends,
            self.size,
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
