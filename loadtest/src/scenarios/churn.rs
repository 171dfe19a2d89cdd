//! `churn`: readers that come and go, in every way a connection can end, while someone publishes and
//! others stay. Those who stay are verified as in `live` and must lose nothing; memory and
//! descriptors of the server are taken before and after, which shows what the others left behind.

use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::{Context, parse_append_bytes, parse_count, parse_rate};
use crate::cpu::{ClientClock, Footprint, Server};
use crate::door::{Doors, Egress, ReadDoor, WriteDoor};
use crate::follow::{self, Audience, Follower, Reads as _, Tally};
use crate::outcome::Outcome;
use crate::pattern::Plan;
use crate::publish::{self, Publisher};
use crate::report::{self, ClientShare, Faults, LatencyMs, Report};
use crate::sys;

const END_SECONDS_MAX: u64 = 10;
/// Nobody waits longer for the first bytes and for the answer to a close frame.
const CYCLE_SECONDS_MAX: u64 = 10;
/// What connections stir up in the server has died down after this.
const SETTLE_MS: u64 = 2000;
/// So long the server may take to close what was left to it.
const CLOSE_SECONDS_MAX: u64 = 15;
/// Beyond --seconds-max, for joins, warm-up and settling.
const SPARE_SECONDS: u32 = 120;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The object to publish and read; http://HOST:PORT/CHANNEL/KEY with --door receive
    url: String,
    #[command(flatten)]
    doors: Doors,
    /// Connections that are opened and ended again: a quarter each by a close frame, by the end of
    /// TCP, by a reset, and within the handshake
    #[arg(long, default_value_t = 10_000, value_parser = parse_count)]
    cycles: usize,
    /// The same before the first look at the server, so that what it keeps for later is there
    #[arg(long, default_value_t = 1000, value_parser = parse_count)]
    warm_up: usize,
    /// Clients that do this side by side
    #[arg(long, default_value_t = 50, value_parser = parse_count)]
    clients: usize,
    /// Readers that stay
    #[arg(long, default_value_t = 20, value_parser = parse_count)]
    readers: usize,
    /// Appends per second
    #[arg(long, default_value_t = 30.0, value_parser = parse_rate)]
    rate: f64,
    /// Bytes of each append (K and M are understood)
    #[arg(long, default_value = "4K", value_parser = parse_append_bytes)]
    size: usize,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds_max: u32,
}

#[derive(Serialize)]
pub(crate) struct ChurnReport {
    door: ReadDoor,
    publish: WriteDoor,
    cycles: usize,
    clients: usize,
    seconds: f64,
    cycles_per_second: f64,
    /// No connection, no first bytes, wrong ones, or no answer to a close frame.
    cycles_failed: u64,
    cycle_faults: Faults,
    /// Those who stay.
    readers: usize,
    rate: f64,
    size: usize,
    appends: u32,
    deliveries: u64,
    #[serde(flatten)]
    outcome: Outcome,
    latency_ms: LatencyMs,
    /// Absent without --server-pid, as is all that follows from it.
    before: Option<Footprint>,
    after: Option<Footprint>,
    rss_anon_bytes_per_cycle: Option<f64>,
    descriptors_left: Option<i64>,
    server_cpu_us_per_cycle: Option<f64>,
    #[serde(flatten)]
    client: ClientShare,
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// By a close frame, answered by one.
    Close,
    Tcp,
    Reset,
    /// After so many bytes of the request, which may be none or all of them.
    Handshake {
        bytes: usize,
    },
}

impl Ending {
    /// Each in turn; every place of the request in turn too.
    fn of(cycle: usize, request_bytes: usize) -> Ending {
        match cycle % 4 {
            0 => Ending::Close,
            1 => Ending::Tcp,
            2 => Ending::Reset,
            _ => Ending::Handshake { bytes: cycle / 4 % (request_bytes + 1) },
        }
    }
}

/// What the clients share.
struct Comings {
    egress: Egress,
    request: Vec<u8>,
    plan: Arc<Plan>,
    /// Counts for nobody: those who go may miss what they like.
    tally: Rc<Tally>,
    next: Cell<usize>,
    end: Cell<usize>,
    deadline_ns: u64,
    failed: Cell<u64>,
    faults: RefCell<Faults>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<ChurnReport> {
    let (ingress, egress) = args.doors.of(&args.url)?;
    // Besides the readers, the publisher and the scout; closed sockets go a little later.
    context.check_sockets(args.readers + 2 * args.clients + 2)?;
    let seconds = f64::from(args.seconds_max + SPARE_SECONDS);
    let plan = Plan::new(args.size, (args.rate * seconds) as u32);
    let tally = Tally::new();
    let publisher = Publisher::create(&ingress, &plan).await?;
    follow::wait_until_visible(&egress, &plan).await?;
    let joined = follow::join_all(&egress, &plan, args.readers, Duration::ZERO, &tally);
    let audience = Audience::start(joined.await?, &tally);
    let publishing = Publishing::start(publisher, (1e9 / args.rate) as u64);

    let comings = Rc::new(Comings::new(egress, &plan, args.seconds_max));
    comings.go_on(args.warm_up, args.clients, context, "warm-up").await?;
    let settle = Duration::from_millis(SETTLE_MS);
    sleep(settle).await;
    let before = context.server.footprint()?;
    let cpu_before = context.server.cpu()?;
    let clock = ClientClock::start();
    comings.go_on(args.cycles, args.clients, context, "cycles").await?;
    let (seconds, client_busy) = clock.stop();
    let cpu_after = context.server.cpu()?;
    let after = settled(&context.server, before, settle).await?;

    let publisher = publishing.stop().await?;
    tally.settle(sys::monotonic_ns(), args.readers as u64 * u64::from(plan.appends())).await;
    publisher.finish().await?;
    let outcome = audience.finish(Duration::from_secs(END_SECONDS_MAX)).await;
    let server_ns = cpu_after.zip(cpu_before).map(|(after, before)| after.since(&before));
    let grown = before.zip(after);
    let cycles = args.cycles as f64;
    Ok(ChurnReport {
        door: args.doors.read(),
        publish: args.doors.write(),
        cycles: args.cycles,
        clients: args.clients,
        seconds,
        cycles_per_second: cycles / seconds,
        cycles_failed: comings.failed.get(),
        cycle_faults: comings.faults.take(),
        readers: args.readers,
        rate: args.rate,
        size: args.size,
        appends: plan.appends(),
        deliveries: tally.deliveries.get(),
        outcome,
        latency_ms: LatencyMs::of(&tally.latency.borrow()),
        before,
        after,
        rss_anon_bytes_per_cycle: grown.map(|(before, after)| {
            (after.rss_anon_bytes as f64 - before.rss_anon_bytes as f64) / cycles
        }),
        descriptors_left: grown
            .map(|(before, after)| after.descriptors as i64 - before.descriptors as i64),
        server_cpu_us_per_cycle: report::us_per(server_ns, cycles),
        client: ClientShare::new(client_busy),
    })
}

/// The server after it has had time to close what was left to it.
async fn settled(
    server: &Server,
    before: Option<Footprint>,
    settle: Duration,
) -> Result<Option<Footprint>> {
    let deadline_ns = sys::monotonic_ns() + CLOSE_SECONDS_MAX * 1_000_000_000;
    loop {
        sleep(settle).await;
        let after = server.footprint()?;
        let open =
            before.zip(after).is_some_and(|(before, after)| after.descriptors > before.descriptors);
        if !open || sys::monotonic_ns() > deadline_ns {
            return Ok(after);
        }
    }
}

/// A publisher that works beside everything else.
struct Publishing {
    stop: Rc<Cell<bool>>,
    task: JoinHandle<Result<Publisher>>,
}

impl Publishing {
    fn start(mut publisher: Publisher, period_ns: u64) -> Publishing {
        let stop = Rc::new(Cell::new(false));
        let stopped = stop.clone();
        let task = tokio_uring::spawn(async move {
            if !publish::publish_until(&mut publisher, period_ns, &stopped).await? {
                bail!("there is nothing more to publish: see --seconds-max");
            }
            Ok(publisher)
        });
        Publishing { stop, task }
    }

    async fn stop(self) -> Result<Publisher> {
        self.stop.set(true);
        let limit = Duration::from_secs(END_SECONDS_MAX);
        let late = |_| anyhow!("the server has not taken an append for {END_SECONDS_MAX} s");
        timeout(limit, self.task).await.map_err(late)??
    }
}

impl Comings {
    fn new(egress: Egress, plan: &Arc<Plan>, seconds_max: u32) -> Comings {
        Comings {
            request: egress.request(),
            egress,
            plan: plan.clone(),
            tally: Tally::new(),
            next: Cell::new(0),
            end: Cell::new(0),
            deadline_ns: sys::monotonic_ns() + u64::from(seconds_max) * 1_000_000_000,
            failed: Cell::new(0),
            faults: RefCell::default(),
        }
    }

    /// So many more cycles, by so many clients.
    async fn go_on(
        self: &Rc<Self>,
        cycles: usize,
        clients: usize,
        context: &Context,
        what: &str,
    ) -> Result<()> {
        let begin = self.next.get();
        self.end.set(begin + cycles);
        let start = |_| {
            let comings = self.clone();
            tokio_uring::spawn(async move { comings.come_and_go().await })
        };
        let tasks: Vec<_> = (0..clients.min(cycles)).map(start).collect();
        let progress = context.progress(cycles as u64, what);
        while tasks.iter().any(|task| !task.is_finished()) {
            // Also the resolution of the duration that the result is computed with.
            sleep(Duration::from_millis(1)).await;
            progress.set_position((self.next.get() - begin) as u64);
        }
        progress.finish_and_clear();
        if self.next.get() < self.end.get() {
            let done = self.next.get() - begin;
            bail!(
                "only {done} of {cycles} {what} within --seconds-max{}",
                self.faults.take().text()
            );
        }
        Ok(())
    }

    async fn come_and_go(&self) {
        while self.next.get() < self.end.get() && sys::monotonic_ns() < self.deadline_ns {
            let cycle = self.next.replace(self.next.get() + 1);
            let ending = Ending::of(cycle, self.request.len());
            let limit = Duration::from_secs(CYCLE_SECONDS_MAX);
            let error = match timeout(limit, self.cycle(ending)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => format!("{ending:?}: {error:#}"),
                Err(_) => format!("{ending:?}: not done within {CYCLE_SECONDS_MAX} s"),
            };
            self.failed.set(self.failed.get() + 1);
            self.faults.borrow_mut().add(error);
        }
    }

    async fn cycle(&self, ending: Ending) -> Result<()> {
        if let Ending::Handshake { bytes } = ending {
            let stream = self.egress.target.connect().await?;
            if bytes > 0 {
                let (sent, _) = stream.write_all(self.request[..bytes].to_vec()).await;
                sent.context("the request could not be sent")?;
            }
            return Ok(());
        }
        let mut follower = Follower::join(&self.egress, &self.plan, &self.tally).await?;
        let stream = follower.stream();
        match ending {
            Ending::Close => follower.leave(&self.tally).await?,
            // The close of a socket with unread bytes would be a reset.
            Ending::Tcp => stream.shutdown(std::net::Shutdown::Write)?,
            _ => sys::reset_on_close(stream.as_raw_fd())?,
        }
        Ok(())
    }
}

impl Report for ChurnReport {
    const MODE: &'static str = "churn";

    fn line(&self) -> String {
        let server = match (self.before, self.after) {
            (Some(before), Some(after)) => format!(
                "server RSS {:.1} MiB before, {:.1} after; anonymous {:.2}, {:.2} ({:.0} B per cycle); descriptors {}, {}",
                report::mib(before.rss_bytes),
                report::mib(after.rss_bytes),
                report::mib(before.rss_anon_bytes),
                report::mib(after.rss_anon_bytes),
                self.rss_anon_bytes_per_cycle.unwrap_or_default(),
                before.descriptors,
                after.descriptors,
            ),
            _ => "server memory not measured".to_owned(),
        };
        format!(
            "{} cycles by {} clients, {:.0} per second, {} failed{}; {} readers stayed × {} appends of {} B at {}/s: {} deliveries, {}; {}; {server}; {}; {}",
            self.cycles,
            self.clients,
            self.cycles_per_second,
            self.cycles_failed,
            self.cycle_faults.text(),
            self.readers,
            self.appends,
            self.size,
            self.rate,
            self.deliveries,
            self.outcome.text(),
            self.latency_ms.text(),
            report::server_text(self.server_cpu_us_per_cycle, "cycle"),
            self.client.text(),
        )
    }

    fn failed(&self) -> bool {
        self.outcome.failed() || self.cycles_failed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ending_and_every_place_of_the_request_has_its_turn() {
        let request_bytes = 7;
        let endings: Vec<Ending> =
            (0..4 * 8).map(|cycle| Ending::of(cycle, request_bytes)).collect();
        for ending in [Ending::Close, Ending::Tcp, Ending::Reset] {
            assert_eq!(endings.iter().filter(|other| **other == ending).count(), 8);
        }
        for bytes in 0..=request_bytes {
            assert!(endings.contains(&Ending::Handshake { bytes }), "{bytes}");
        }
    }
}
