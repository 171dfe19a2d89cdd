//! `limit`: the reference for `live`. Instead of a server, one thread that calls send() on every
//! socket at the same pace and does nothing else, in front of the very same followers: what it
//! costs is what the kernel charges for the deliveries alone.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use tokio::time::sleep;

use super::{Context, Load, parse_count};
use crate::cpu::{self, ClientClock};
use crate::door::Egress;
use crate::follow::{self, Audience, Tally};
use crate::outcome::Outcome;
use crate::pattern::{PREAMBLE_BYTES, Plan};
use crate::report::{self, ClientShare, LatencyMs, Report};
use crate::sys;
use crate::target::Target;

const END_SECONDS_MAX: u64 = 5;
/// A reader that takes nothing for so long is stuck; the sender gives up on the run.
const SEND_SECONDS_MAX: u64 = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Readers, each with a socket of its own
    #[arg(long, default_value_t = 100, value_parser = parse_count)]
    readers: usize,
    #[command(flatten)]
    load: Load,
    /// Core of the sending thread
    #[arg(long)]
    sender_cpu: Option<usize>,
}

#[derive(Serialize)]
pub(crate) struct LimitReport {
    readers: usize,
    rate: f64,
    size: usize,
    appends: u32,
    deliveries: u64,
    bytes: u64,
    #[serde(flatten)]
    outcome: Outcome,
    latency_ms: LatencyMs,
    sender_cpu_ns: u64,
    sender_cpu_us_per_delivery: f64,
    sender_late_max_ms: f64,
    #[serde(flatten)]
    client: ClientShare,
}

/// What the sending thread found out about itself.
struct Sent {
    cpu_ns: u64,
    late_max_ns: u64,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<LimitReport> {
    // Both ends of every connection are in this process.
    context.check_sockets(args.readers * 2 + 1)?;
    if args.sender_cpu.is_some() && args.sender_cpu == context.cpu {
        bail!("--sender-cpu and --cpu name the same core: the sender needs one of its own");
    }
    let plan = args.load.plan();
    let tally = Tally::new();
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let egress = Egress::http(Target::local(listener.local_addr()?));
    let (start, started) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    let sender = Sender { readers: args.readers, cpu: args.sender_cpu, plan: plan.clone() };
    let period_ns = args.load.period_ns();
    let thread = thread::spawn(move || sender.run(&listener, period_ns, &started, &ended));

    let joined = follow::join_all(&egress, &plan, args.readers, Duration::ZERO, &tally);
    let followers = joined.await?;
    let audience = Audience::start(followers, &tally);
    let appends = u64::from(plan.appends());
    let progress = context.progress(appends, "appends");
    let clock = ClientClock::start();
    let start_ns = sys::monotonic_ns() + 2_000_000;
    start.send(start_ns).map_err(|_| anyhow!("the sending thread has gone"))?;
    let end_ns = start_ns + period_ns * appends;
    let expected = args.readers as u64 * appends;
    while sys::monotonic_ns() < end_ns {
        sleep(Duration::from_millis(20)).await;
        progress.set_position(tally.deliveries.get() / args.readers as u64);
    }
    tally.settle(end_ns, expected).await;
    let (_, client_busy) = clock.stop();
    drop(end);
    let outcome = audience.finish(Duration::from_secs(END_SECONDS_MAX)).await;
    let sent = thread.join().map_err(|_| anyhow!("the sending thread panicked"))??;
    progress.finish_and_clear();
    let deliveries = tally.deliveries.get();
    Ok(LimitReport {
        readers: args.readers,
        rate: args.load.rate,
        size: args.load.size,
        appends: plan.appends(),
        deliveries,
        bytes: tally.bytes.get(),
        outcome,
        latency_ms: LatencyMs::of(&tally.latency.borrow()),
        sender_cpu_ns: sent.cpu_ns,
        sender_cpu_us_per_delivery: sent.cpu_ns as f64 / 1e3 / expected as f64,
        sender_late_max_ms: sent.late_max_ns as f64 / 1e6,
        client: ClientShare::new(client_busy),
    })
}

/// The sending thread.
struct Sender {
    readers: usize,
    cpu: Option<usize>,
    plan: Arc<Plan>,
}

impl Sender {
    fn run(
        &self,
        listener: &TcpListener,
        period_ns: u64,
        start: &mpsc::Receiver<u64>,
        end: &mpsc::Receiver<()>,
    ) -> Result<Sent> {
        if let Some(cpu) = self.cpu {
            cpu::pin(cpu)?;
        }
        let mut sockets = self.accept_all(listener)?;
        // The client hangs up when it has failed to join its readers.
        let start_ns = start.recv().context("the readers did not join")?;
        let sent = self.send_all(&mut sockets, start_ns, period_ns)?;
        // Closing sockets is work for the readers; it waits until their measurement is over.
        let _ = end.recv();
        Ok(sent)
    }

    fn accept_all(&self, listener: &TcpListener) -> Result<Vec<TcpStream>> {
        // Content-Length framing, so that every send is of the append and nothing else.
        let length = self.plan.object_bytes(self.plan.appends());
        let mut first = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n").into_bytes();
        let mut preamble = [0; PREAMBLE_BYTES];
        self.plan.fill(0, &mut preamble);
        self.plan.stamp(0, sys::monotonic_ns(), &mut preamble);
        first.extend(preamble);
        let mut sockets = Vec::with_capacity(self.readers);
        for _ in 0..self.readers {
            let (mut socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            socket.set_write_timeout(Some(Duration::from_secs(SEND_SECONDS_MAX)))?;
            socket.set_read_timeout(Some(Duration::from_secs(SEND_SECONDS_MAX)))?;
            // The request is known: our own followers send it, in one piece.
            let _ = socket.read(&mut [0; 1024])?;
            socket.write_all(&first)?;
            sockets.push(socket);
        }
        Ok(sockets)
    }

    fn send_all(&self, sockets: &mut [TcpStream], start_ns: u64, period_ns: u64) -> Result<Sent> {
        let mut append = vec![0; self.plan.append_bytes()];
        let mut late_max_ns = 0;
        let cpu_before_ns = sys::thread_cpu_ns();
        for sequence in 1..=self.plan.appends() {
            self.plan.fill(sequence, &mut append);
            let due_ns = start_ns + u64::from(sequence - 1) * period_ns;
            sys::sleep_until(due_ns);
            let now = sys::monotonic_ns();
            late_max_ns = u64::max(late_max_ns, now.saturating_sub(due_ns));
            self.plan.stamp(sequence, now, &mut append);
            for socket in &mut *sockets {
                socket.write_all(&append).context("a reader does not take its data")?;
            }
        }
        Ok(Sent { cpu_ns: sys::thread_cpu_ns() - cpu_before_ns, late_max_ns })
    }
}

impl Report for LimitReport {
    const MODE: &'static str = "limit";

    fn line(&self) -> String {
        format!(
            "{} readers × {} appends of {} B at {}/s: {} deliveries, {}, {}; {}; sender {:.2} µs per delivery; {}",
            self.readers,
            self.appends,
            self.size,
            self.rate,
            self.deliveries,
            report::bytes_text(self.bytes),
            self.outcome.text(),
            self.latency_ms.text(),
            self.sender_cpu_us_per_delivery,
            self.client.text(),
        )
    }

    fn failed(&self) -> bool {
        self.outcome.failed()
    }
}
