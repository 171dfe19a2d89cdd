//! `slow`: what bad readers do to good ones. Stalled readers never read, dripping ones read one
//! byte per second, good ones are verified and timed as in `live`. At the end the bad ones are
//! read dry, which shows whether the server had cut them or kept everything for them.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_uring::net::TcpStream;

use super::{Context, Load};
use crate::door::{Egress, Ingress};
use crate::follow::{self, Audience, Follower, Reads as _, Tally};
use crate::outcome::{Fault, Outcome};
use crate::pattern::Plan;
use crate::publish::{self, Publisher};
use crate::report::{self, ClientShare, LatencyMs, Report};
use crate::target::Target;

const END_SECONDS_MAX: u64 = 5;
/// Small, so that the lag builds up in the server and not in this machine's receive buffers.
const RECEIVE_BYTES: usize = 16 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The object to PUT and GET
    url: String,
    /// Readers that ask for the object and never read
    #[arg(long, default_value_t = 10, value_name = "N")]
    stalled: u16,
    /// Readers that read one byte per second
    #[arg(long, default_value_t = 10, value_name = "N")]
    one_byte: u16,
    /// Readers that read everything at once
    #[arg(long, default_value_t = 100, value_name = "N")]
    good: u16,
    #[command(flatten)]
    load: Load,
}

#[derive(Serialize)]
pub(crate) struct SlowReport {
    rate: f64,
    size: usize,
    appends: u32,
    good: u16,
    good_deliveries: u64,
    /// The good readers' only.
    #[serde(flatten)]
    outcome: Outcome,
    latency_ms: LatencyMs,
    stalled: Bad,
    one_byte: Bad,
    server_cpu_us_per_delivery: Option<f64>,
    #[serde(flatten)]
    client: ClientShare,
    publisher_late_max_ms: f64,
}

/// What became of the bad readers of one kind.
#[derive(Debug, Default, Serialize)]
struct Bad {
    readers: u64,
    /// The connection ended, without a proper end of the response, before all bytes had come.
    cut: u64,
    /// Everything came, and properly, once it was read.
    served: u64,
    /// Neither: bytes were still outstanding when the patience ended.
    pending: u64,
    /// Wrong bytes before the cut: never right, whatever the policy.
    corrupt: u64,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<SlowReport> {
    let target = Target::parse(&args.url)?;
    if args.good == 0 {
        bail!("--good must be at least 1: bad readers alone show nothing");
    }
    let readers = [args.stalled, args.one_byte, args.good].map(usize::from);
    context.check_sockets(readers.iter().sum::<usize>() + 2)?;
    let plan = args.load.plan();
    let tally = Tally::new();
    let egress = Egress::http(target.clone());
    let publisher = Publisher::create(&Ingress::http(target), &plan).await?;
    follow::wait_until_visible(&egress, &plan).await?;
    let stalled = BadReaders::connect(&egress, &plan, readers[0]).await?;
    let one_byte = BadReaders::connect(&egress, &plan, readers[1]).await?;
    let joined = follow::join_all(&egress, &plan, readers[2], Duration::ZERO, &tally);
    let good = Audience::start(joined.await?, &tally);
    let dripping = one_byte.drip();

    let progress = context.progress(u64::from(plan.appends()), "appends");
    let expected = u64::from(args.good) * u64::from(plan.appends());
    let (paced, publishers) = publish::publish_paced(
        vec![publisher],
        args.load.period_ns(),
        expected,
        &tally,
        &context.server,
        &progress,
    )
    .await?;
    let good_deliveries = tally.deliveries.get();
    for publisher in publishers {
        publisher.finish().await?;
    }
    let outcome = good.finish(Duration::from_secs(END_SECONDS_MAX)).await;
    let one_byte = dripping.stop().await?;
    let stalled = stalled.read_dry().await;
    let one_byte = one_byte.read_dry().await;
    progress.finish_and_clear();
    Ok(SlowReport {
        rate: args.load.rate,
        size: args.load.size,
        appends: plan.appends(),
        good: args.good,
        good_deliveries,
        outcome,
        latency_ms: LatencyMs::of(&tally.latency.borrow()),
        stalled,
        one_byte,
        server_cpu_us_per_delivery: report::us_per(paced.server_ns, good_deliveries as f64),
        client: ClientShare::new(paced.client_busy),
        publisher_late_max_ms: paced.late_max_ns as f64 / 1e6,
    })
}

/// Readers that have sent their request and read nothing yet, or a fault in reading.
struct BadReaders {
    readers: Vec<(Follower, Result<(), Fault>)>,
    /// Those whose read never returned: neither data nor an end came.
    stuck: u64,
}

impl BadReaders {
    async fn connect(egress: &Egress, plan: &Arc<Plan>, count: usize) -> Result<BadReaders> {
        let mut readers = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = egress.target.connect_blocking(Some(RECEIVE_BYTES))?;
            let follower = Follower::new(TcpStream::from_std(socket.into()), egress, plan);
            follower.request(egress).await?;
            readers.push((follower, Ok(())));
        }
        Ok(BadReaders { readers, stuck: 0 })
    }

    /// Starts to read one byte per second.
    fn drip(self) -> Dripping {
        let stop = Rc::new(Cell::new(false));
        let mut tasks = Vec::with_capacity(self.readers.len());
        for (mut follower, mut ending) in self.readers {
            let stop = stop.clone();
            tasks.push(tokio_uring::spawn(async move {
                follower.read_single_bytes();
                let tally = Tally::new();
                while ending.is_ok() && !stop.get() {
                    ending = follower.step(&tally).await;
                    sleep(Duration::from_secs(1)).await;
                }
                follower.read_normally();
                (follower, ending)
            }));
        }
        Dripping { stop, tasks }
    }

    /// Reads everything there is and says how it ended.
    async fn read_dry(self) -> Bad {
        let readers = self.readers.len() as u64 + self.stuck;
        let mut bad = Bad { readers, pending: self.stuck, ..Bad::default() };
        let limit = Duration::from_secs(END_SECONDS_MAX);
        let tally = Tally::new();
        let streams: Vec<_> = self.readers.iter().map(|(follower, _)| follower.stream()).collect();
        let read = |(mut follower, ending): (Follower, Result<(), Fault>)| {
            let tally = tally.clone();
            tokio_uring::spawn(async move {
                match ending {
                    Ok(()) => follower.follow(&tally).await,
                    fault => fault,
                }
            })
        };
        let tasks: Vec<_> = self.readers.into_iter().map(read).collect();
        let mut late = false;
        for mut task in tasks {
            let ending = match timeout(if late { Duration::ZERO } else { limit }, &mut task).await {
                Ok(ending) => ending.ok(),
                Err(_) => None,
            };
            late |= ending.is_none();
            match ending {
                Some(Ok(())) => bad.served += 1,
                Some(Err(Fault::Lost(_))) => bad.cut += 1,
                Some(Err(Fault::Corrupt(_))) => bad.corrupt += 1,
                None => bad.pending += 1,
            }
        }
        for stream in &streams {
            // Ends the reads that are still pending; the others' connections are closed already.
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        bad
    }
}

/// One-byte readers under way.
struct Dripping {
    stop: Rc<Cell<bool>>,
    tasks: Vec<JoinHandle<(Follower, Result<(), Fault>)>>,
}

impl Dripping {
    /// Each ends after its second of sleep, unless its read waits for a server that neither
    /// sends nor closes.
    async fn stop(self) -> Result<BadReaders> {
        self.stop.set(true);
        let mut bad = BadReaders { readers: Vec::with_capacity(self.tasks.len()), stuck: 0 };
        for task in self.tasks {
            let limit = if bad.stuck > 0 { 0 } else { END_SECONDS_MAX };
            match timeout(Duration::from_secs(limit), task).await {
                Ok(ended) => bad.readers.push(ended?),
                Err(_) => bad.stuck += 1,
            }
        }
        Ok(bad)
    }
}

impl Bad {
    fn text(&self) -> String {
        let Bad { readers, cut, served, pending, corrupt } = self;
        format!("{readers} ({cut} cut, {served} served, {pending} pending, {corrupt} corrupt)")
    }
}

impl Report for SlowReport {
    const MODE: &'static str = "slow";

    fn line(&self) -> String {
        format!(
            "{} good readers × {} appends of {} B at {}/s: {} deliveries, {}; {}; stalled {}; one-byte {}; {}; {}",
            self.good,
            self.appends,
            self.size,
            self.rate,
            self.good_deliveries,
            self.outcome.text(),
            self.latency_ms.text(),
            self.stalled.text(),
            self.one_byte.text(),
            report::server_text(self.server_cpu_us_per_delivery, "good delivery"),
            self.client.text(),
        )
    }

    fn failed(&self) -> bool {
        self.outcome.failed() || self.stalled.corrupt + self.one_byte.corrupt > 0
    }
}
