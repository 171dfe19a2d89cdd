//! Load generator for Headwater: parses the command line, starts the event loop, calls one
//! scenario and prints its result. An independent client: it shares no code with the server.

mod camera;
mod cpu;
mod door;
mod film;
mod follow;
mod http;
mod multipart;
mod outcome;
mod pattern;
mod picture_sight;
mod publish;
mod report;
mod scenarios;
mod session;
#[allow(unsafe_code, reason = "the one place for system calls")]
mod sys;
mod target;
mod transport;
mod uplink;
mod viewer;
mod websocket;

use std::future::Future;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use crate::cpu::Server;
use crate::report::Report;
use crate::scenarios::{
    Context, churn, get, held, idle, limit, live, packets, pictures, put, slow,
};

/// Completions of as many readers as a process may have open fit without overflow.
const RING_COMPLETIONS: u32 = 32_768;
const RING_SUBMISSIONS: u32 = 1024;

/// Load generator for a live-stream HTTP origin on this machine
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
    /// Print one JSON object instead of a line
    #[arg(long, global = true)]
    json: bool,
    /// Measure the processor time of these server processes (repeat, or separate by commas)
    #[arg(long, global = true, value_name = "PID", value_delimiter = ',')]
    server_pid: Vec<u32>,
    /// Pin the client to a core
    #[arg(long, global = true, value_name = "N")]
    cpu: Option<usize>,
}

#[derive(Subcommand)]
enum Mode {
    /// One publisher, many followers: verified delivery, latency, server time per delivery
    Live(live::Args),
    /// The kernel's own cost of `live`: plain send() on every socket by one thread
    Limit(limit::Args),
    /// Keep-alive GETs back to back
    Get(get::Args),
    /// Chunked PUTs of whole objects
    Put(put::Args),
    /// Good readers beside stalled and dripping ones
    Slow(slow::Args),
    /// Memory and processor time of readers that wait
    Idle(idle::Args),
    /// Readers that come and go while others stay: lost appends, memory and descriptors left behind
    Churn(churn::Args),
    /// Blocking playlist reload: from the last byte of a part to the first byte at each client
    Held(held::Args),
    /// A transport stream that the server pulls from here, and many readers of it
    Packets(packets::Args),
    /// Cameras and their viewers, some of which take nothing: the others must lose nothing
    Pictures(pictures::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run(&cli).unwrap_or_else(|error| report::print_error(&error, cli.json))
}

fn run(cli: &Cli) -> Result<ExitCode> {
    let context = Context {
        server: Server::new(cli.server_pid.clone()),
        cpu: cli.cpu,
        open_files_max: sys::raise_open_files_max()
            .context("the limit of open files cannot be raised")?,
    };
    if let Some(cpu) = cli.cpu {
        cpu::pin(cpu)?;
    }
    match &cli.mode {
        Mode::Live(args) => drive(live::run(args, &context), cli.json),
        Mode::Limit(args) => drive(limit::run(args, &context), cli.json),
        Mode::Get(args) if args.busy_poll => {
            report::print(&get::run_busy(args, &context)?, cli.json)
        }
        Mode::Get(args) => drive(get::run(args, &context), cli.json),
        Mode::Put(args) => drive(put::run(args, &context), cli.json),
        Mode::Slow(args) => drive(slow::run(args, &context), cli.json),
        Mode::Idle(args) => drive(idle::run(args, &context), cli.json),
        Mode::Churn(args) => drive(churn::run(args, &context), cli.json),
        Mode::Held(args) => drive(held::run(args, &context), cli.json),
        Mode::Packets(args) => drive(packets::run(args, &context), cli.json),
        Mode::Pictures(args) => drive(pictures::run(args, &context), cli.json),
    }
}

/// Runs a scenario on an event loop and prints its result.
fn drive<R: Report>(scenario: impl Future<Output = Result<R>>, json: bool) -> Result<ExitCode> {
    let mut ring = tokio_uring::uring_builder();
    // Without COOP_TASKRUN arriving data interrupts this core from the sender's, which would be
    // charged to the server: 6.1 instead of 4.4 µs per delivery in `limit` with 1000 readers of
    // 4 KiB (November 2026, two virtual cores).
    ring.setup_cqsize(RING_COMPLETIONS).setup_single_issuer().setup_coop_taskrun();
    let mut builder = tokio_uring::builder();
    builder.entries(RING_SUBMISSIONS).uring_builder(&ring);
    let runtime = tokio_uring::Runtime::new(&builder)
        .context("io_uring is not available (it needs Linux 6.0 or later and no seccomp filter)")?;
    let result = runtime.block_on(scenario);
    report::print(&result?, json)
}
