//! `idle`: readers that wait at the tail of an object nobody appends to. Tells what each costs
//! the server in memory, and what all of them cost in processor time while nothing happens.

use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use super::{Context, parse_count};
use crate::door::{Doors, ReadDoor, WriteDoor};
use crate::follow::{self, Audience, Tally};
use crate::outcome::Outcome;
use crate::pattern::Plan;
use crate::publish::Publisher;
use crate::report::{self, Report};

const END_SECONDS_MAX: u64 = 10;
/// What a join stirs up in the server has died down after this.
const SETTLE_MS: u64 = 1000;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The object to publish and read; http://HOST:PORT/CHANNEL/KEY with --door receive
    url: String,
    #[command(flatten)]
    doors: Doors,
    /// Readers that join and wait
    #[arg(long, default_value_t = 1000, value_parser = parse_count)]
    readers: usize,
    /// Length of the silence
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
}

#[derive(Serialize)]
pub(crate) struct IdleReport {
    door: ReadDoor,
    publish: WriteDoor,
    readers: usize,
    seconds: u32,
    #[serde(flatten)]
    outcome: Outcome,
    /// Growth of the server's own memory over the joins; absent without --server-pid.
    rss_anon_bytes_per_reader: Option<f64>,
    pss_anon_bytes_per_reader: Option<f64>,
    /// Over all threads of the server, during the silence.
    server_cpu_ns: Option<u64>,
    server_cpu_ns_per_reader_second: Option<f64>,
    /// Pings and heartbeats to readers, during the silence: all that an idle WebSocket should cost.
    heartbeats: u64,
    server_cpu_us_per_heartbeat: Option<f64>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<IdleReport> {
    let (ingress, egress) = args.doors.of(&args.url)?;
    // Besides the readers, the publisher and the scout.
    context.check_sockets(args.readers + 2)?;
    // The preamble is the one small append.
    let plan = Plan::new(16, 0);
    let tally = Tally::new();
    let publisher = Publisher::create(&ingress, &plan).await?;
    follow::wait_until_visible(&egress, &plan).await?;
    let settle = Duration::from_millis(SETTLE_MS);
    sleep(settle).await;
    let memory_before = context.server.memory()?;
    let joined = follow::join_all(&egress, &plan, args.readers, Duration::ZERO, &tally);
    let audience = Audience::start(joined.await?, &tally);
    sleep(settle).await;
    let memory_after = context.server.memory()?;

    let progress = context.progress(u64::from(args.seconds), "silent seconds");
    let cpu_before = context.server.cpu()?;
    let heartbeats_before = tally.heartbeats.get();
    for second in 0..args.seconds {
        sleep(Duration::from_secs(1)).await;
        progress.set_position(u64::from(second) + 1);
    }
    let cpu_after = context.server.cpu()?;
    let heartbeats = tally.heartbeats.get() - heartbeats_before;
    // Only now: their proper end shows that all of them were still there.
    publisher.finish().await?;
    let outcome = audience.finish(Duration::from_secs(END_SECONDS_MAX)).await;
    progress.finish_and_clear();

    let server_cpu_ns = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
    let readers = args.readers as f64;
    let per_reader = |before: u64, after: u64| (after as f64 - before as f64) / readers;
    let memory = memory_before.zip(memory_after);
    Ok(IdleReport {
        door: args.doors.read(),
        publish: args.doors.write(),
        readers: args.readers,
        seconds: args.seconds,
        outcome,
        rss_anon_bytes_per_reader: memory
            .map(|(before, after)| per_reader(before.rss_anon_bytes, after.rss_anon_bytes)),
        pss_anon_bytes_per_reader: memory
            .map(|(before, after)| per_reader(before.pss_anon_bytes, after.pss_anon_bytes)),
        server_cpu_ns,
        server_cpu_ns_per_reader_second: server_cpu_ns
            .map(|ns| ns as f64 / readers / f64::from(args.seconds)),
        heartbeats,
        server_cpu_us_per_heartbeat: report::us_per(server_cpu_ns, heartbeats as f64),
    })
}

impl Report for IdleReport {
    const MODE: &'static str = "idle";

    fn line(&self) -> String {
        let server = match (self.rss_anon_bytes_per_reader, self.pss_anon_bytes_per_reader) {
            (Some(rss), Some(pss)) => format!(
                "server memory {rss:.0} B per reader (RSS anonymous; PSS {pss:.0} B), server {:.3} ms of CPU in the silence, {:.0} ns per reader and second",
                self.server_cpu_ns.unwrap_or_default() as f64 / 1e6,
                self.server_cpu_ns_per_reader_second.unwrap_or_default(),
            ),
            _ => report::server_text(None, "reader"),
        };
        let heartbeats = match self.server_cpu_us_per_heartbeat {
            Some(us) => format!("; {} heartbeats, {us:.2} µs of it for each", self.heartbeats),
            None => String::new(),
        };
        format!(
            "{} readers silent for {} s: {}; {server}{heartbeats}",
            self.readers,
            self.seconds,
            self.outcome.text(),
        )
    }

    fn failed(&self) -> bool {
        self.outcome.failed()
    }
}
