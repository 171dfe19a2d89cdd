//! `get`: whole objects back to back over keep-alive connections. One way sleeps in the event
//! loop and times every request; the other, `--busy-poll`, spins over the sockets and discards
//! bodies in the kernel, so that large bodies measure the server and not the waking of a client.
//! Content is not verified here, only status and length.

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use hdrhistogram::Histogram;
use serde::Serialize;
use socket2::Socket;
use tokio::time::{sleep, timeout};
use tokio_uring::net::TcpStream;

use super::{Context, parse_count};
use crate::cpu::{ClientClock, ServerCpu};
use crate::http::{Event, Head, Response};
use crate::report::{self, ClientShare, Faults, LatencyMs, Report};
use crate::sys;
use crate::target::Target;

/// For requests under way when the time is over, and for the first one of each connection.
const DRAIN_SECONDS_MAX: u64 = 10;
/// All read buffers together should stay in a core's cache.
const READ_BYTES_ALL: usize = 4 * 1024 * 1024;
/// One call may discard this much; a socket buffer never holds more.
const DISCARD_BYTES_MAX: u64 = 1 << 30;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The object to GET
    url: String,
    /// Connections, each with one request at a time
    #[arg(long, default_value_t = 16, value_parser = parse_count)]
    connections: usize,
    /// Length of the measurement
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds: u32,
    /// Spin over the sockets and discard bodies instead of sleeping and reading them
    #[arg(long)]
    pub(crate) busy_poll: bool,
}

#[derive(Serialize)]
pub(crate) struct GetReport {
    connections: usize,
    busy_poll: bool,
    seconds: f64,
    requests: u64,
    bytes: u64,
    errors: u64,
    faults: Faults,
    /// Connections the server closed in good order and that were opened again.
    reconnects: u64,
    requests_per_second: f64,
    gb_per_second: f64,
    server_cpu_ns: Option<u64>,
    server_cpu_us_per_request: Option<f64>,
    server_cpu_us_per_mib: Option<f64>,
    /// Absent when busy-polling.
    latency_ms: Option<LatencyMs>,
    /// Absent when busy-polling, which takes the whole core by design.
    #[serde(flatten)]
    client: Option<ClientShare>,
}

/// Sums over all connections; requests before the measurement are taken off at its start.
struct Totals {
    requests: Cell<u64>,
    bytes: Cell<u64>,
    errors: Cell<u64>,
    reconnects: Cell<u64>,
    faults: RefCell<Faults>,
    latency: RefCell<Histogram<u64>>,
}

impl Totals {
    fn new() -> Totals {
        Totals {
            requests: Cell::new(0),
            bytes: Cell::new(0),
            errors: Cell::new(0),
            reconnects: Cell::new(0),
            faults: RefCell::default(),
            latency: RefCell::new(report::latency_histogram()),
        }
    }

    fn clear(&self) {
        self.requests.set(0);
        self.bytes.set(0);
        self.latency.borrow_mut().reset();
    }

    fn complete(&self, bytes: u64) {
        self.requests.set(self.requests.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
    }

    fn error(&self, error: &anyhow::Error) {
        self.errors.set(self.errors.get() + 1);
        self.faults.borrow_mut().add(format!("{error:#}"));
    }

    fn reconnected(&self) {
        self.reconnects.set(self.reconnects.get() + 1);
    }
}

/// What was running while the totals grew.
struct Window {
    clock: ClientClock,
    server_before: Option<ServerCpu>,
}

impl Window {
    fn open(context: &Context) -> Result<Window> {
        let server_before = context.server.cpu()?;
        Ok(Window { clock: ClientClock::start(), server_before })
    }

    fn close(self, args: &Args, context: &Context, totals: &Totals) -> Result<GetReport> {
        let (seconds, busy) = self.clock.stop();
        let server_after = context.server.cpu()?;
        let server_ns = server_after.zip(self.server_before).map(|(now, then)| now.since(&then));
        let (requests, bytes) = (totals.requests.get(), totals.bytes.get());
        Ok(GetReport {
            connections: args.connections,
            busy_poll: args.busy_poll,
            seconds,
            requests,
            bytes,
            errors: totals.errors.get(),
            faults: totals.faults.take(),
            reconnects: totals.reconnects.get(),
            requests_per_second: requests as f64 / seconds,
            gb_per_second: bytes as f64 / 1e9 / seconds,
            server_cpu_ns: server_ns,
            server_cpu_us_per_request: report::us_per(server_ns, requests as f64),
            server_cpu_us_per_mib: report::us_per(server_ns, report::mib(bytes)),
            latency_ms: (!args.busy_poll).then(|| LatencyMs::of(&totals.latency.borrow())),
            client: (!args.busy_poll).then(|| ClientShare::new(busy)),
        })
    }
}

/// The sleeping way: a task per connection in the event loop.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<GetReport> {
    let target = Target::parse(&args.url)?;
    context.check_sockets(args.connections)?;
    let mut connections = Vec::with_capacity(args.connections);
    let totals = Rc::new(Totals::new());
    let read_bytes = (READ_BYTES_ALL / args.connections).clamp(16 * 1024, 256 * 1024);
    let warm_up = async {
        for _ in 0..args.connections {
            let mut connection = Connection::open(&target, read_bytes).await?;
            connection.get(&totals).await?;
            connections.push(connection);
        }
        anyhow::Ok(())
    };
    let limit = Duration::from_secs(DRAIN_SECONDS_MAX);
    timeout(limit, warm_up).await.context("the first requests were not answered in time")??;

    totals.clear();
    let window = Window::open(context)?;
    let end_ns = sys::monotonic_ns() + u64::from(args.seconds) * 1_000_000_000;
    let streams: Vec<_> = connections.iter().map(|connection| connection.stream.clone()).collect();
    let start = |connection: Connection| {
        let totals = totals.clone();
        tokio_uring::spawn(connection.repeat(end_ns, totals))
    };
    let tasks: Vec<_> = connections.into_iter().map(start).collect();
    let progress = context.progress(u64::from(args.seconds), "seconds");
    let drain_ns = end_ns + DRAIN_SECONDS_MAX * 1_000_000_000;
    while tasks.iter().any(|task| !task.is_finished()) {
        sleep(Duration::from_millis(2)).await;
        let left_ns = end_ns.saturating_sub(sys::monotonic_ns());
        progress.set_position(u64::from(args.seconds) - left_ns / 1_000_000_000);
        if sys::monotonic_ns() > drain_ns {
            totals.error(&anyhow!("a request was not answered within {DRAIN_SECONDS_MAX} s"));
            for stream in &streams {
                // A connection that is closed already has nothing to be shut down.
                let _ = stream.shutdown(std::net::Shutdown::Both);
            }
            break;
        }
    }
    progress.finish_and_clear();
    window.close(args, context, &totals)
}

/// A connection in the event loop.
struct Connection {
    target: Target,
    request: Vec<u8>,
    stream: Rc<TcpStream>,
    response: Response,
    buffer: Vec<u8>,
    /// Whether the server has announced or carried out the end of the connection.
    closed: bool,
}

impl Connection {
    async fn open(target: &Target, read_bytes: usize) -> Result<Connection> {
        Ok(Connection {
            target: target.clone(),
            request: target.get_request(),
            stream: Rc::new(target.connect().await?),
            response: Response::new(),
            buffer: vec![1; read_bytes],
            closed: false,
        })
    }

    async fn repeat(mut self, end_ns: u64, totals: Rc<Totals>) {
        while sys::monotonic_ns() < end_ns {
            let started_ns = sys::monotonic_ns();
            if let Err(error) = self.get(&totals).await {
                totals.error(&error);
                return;
            }
            let latency = sys::monotonic_ns() - started_ns;
            totals.latency.borrow_mut().saturating_record(latency);
        }
    }

    /// One request and its whole response.
    async fn get(&mut self, totals: &Totals) -> Result<()> {
        if !self.closed && self.attempt(totals).await? {
            return Ok(());
        }
        // Servers limit how many requests a connection may carry; that is not an error.
        totals.reconnected();
        self.stream = Rc::new(self.target.connect().await?);
        self.closed = false;
        match self.attempt(totals).await? {
            true => Ok(()),
            false => bail!("the server closed a new connection without an answer"),
        }
    }

    /// False if the connection was closed before the response began.
    async fn attempt(&mut self, totals: &Totals) -> Result<bool> {
        self.response.reset();
        let (result, request) = self.stream.write_all(std::mem::take(&mut self.request)).await;
        self.request = request;
        if result.is_err() {
            return Ok(false);
        }
        let mut bytes = 0;
        loop {
            let (result, buffer) = self.stream.read(std::mem::take(&mut self.buffer)).await;
            self.buffer = buffer;
            let ended = match result {
                Ok(0) if self.response.ends_with_connection() => true,
                Ok(0) | Err(_) if self.response.is_untouched() => return Ok(false),
                Ok(0) => bail!("short body: the connection was closed after {bytes} bytes"),
                Ok(length) => self.take(length, &mut bytes)?,
                Err(error) => return Err(error).context("short body"),
            };
            if ended {
                totals.complete(bytes);
                return Ok(true);
            }
        }
    }

    /// Counts the body bytes in the buffer; true at the end of the response.
    fn take(&mut self, length: usize, bytes: &mut u64) -> Result<bool> {
        let mut input = &self.buffer[..length];
        loop {
            match self.response.next(&mut input)? {
                Event::Head(head) => {
                    check_status(&head)?;
                    self.closed = head.close;
                }
                Event::Body(body) => *bytes += body.len() as u64,
                Event::End => return Ok(true),
                Event::NeedMore => return Ok(false),
            }
        }
    }
}

fn check_status(head: &Head) -> Result<()> {
    match head.status {
        200..300 => Ok(()),
        status => bail!("the server answered {status}"),
    }
}

/// The spinning way: one thread, no event loop.
pub(crate) fn run_busy(args: &Args, context: &Context) -> Result<GetReport> {
    let target = Target::parse(&args.url)?;
    context.check_sockets(args.connections)?;
    let totals = Totals::new();
    let mut sockets = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        sockets.push(BusySocket::open(&target)?);
    }
    let warm_up_ns = sys::monotonic_ns() + DRAIN_SECONDS_MAX * 1_000_000_000;
    if !spin(&mut sockets, 0, warm_up_ns, &totals) {
        bail!("the first requests were not answered within {DRAIN_SECONDS_MAX} s");
    }
    if totals.errors.get() > 0 {
        bail!("the first requests failed{}", totals.faults.borrow().text());
    }
    totals.clear();
    let progress = context.progress(u64::from(args.seconds), "busy-polling, seconds");
    progress.tick();
    let window = Window::open(context)?;
    for socket in &mut sockets {
        socket.send(&totals);
    }
    let end_ns = sys::monotonic_ns() + u64::from(args.seconds) * 1_000_000_000;
    let drain_ns = end_ns + DRAIN_SECONDS_MAX * 1_000_000_000;
    if !spin(&mut sockets, end_ns, drain_ns, &totals) {
        totals.error(&anyhow!("a request was not answered within {DRAIN_SECONDS_MAX} s"));
    }
    progress.finish_and_clear();
    window.close(args, context, &totals)
}

/// Goes round the sockets; new requests go out until `end_ns`. True when all have come to rest,
/// false when that was not so by `drain_ns`.
fn spin(sockets: &mut [BusySocket], end_ns: u64, drain_ns: u64, totals: &Totals) -> bool {
    loop {
        let now = sys::monotonic_ns();
        let mut under_way = false;
        for socket in &mut *sockets {
            match socket.progress(totals) {
                Ok(true) if now < end_ns => socket.send(totals),
                Ok(_) => {}
                Err(error) => {
                    totals.error(&error);
                    socket.state = BusyState::Failed;
                }
            }
            under_way |= socket.is_under_way();
        }
        if !under_way {
            return true;
        }
        if now > drain_ns {
            return false;
        }
    }
}

/// A socket of the spinning way.
struct BusySocket {
    target: Target,
    request: Vec<u8>,
    socket: Socket,
    state: BusyState,
    response: Response,
    close: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum BusyState {
    /// Left by `send`.
    Rest,
    /// Left by `read_head`.
    Head,
    /// Left by `discard`.
    Body {
        length: u64,
        left: u64,
    },
    Failed,
}

impl BusySocket {
    /// Connects and sends a first request.
    fn open(target: &Target) -> Result<BusySocket> {
        let mut socket = BusySocket {
            target: target.clone(),
            request: target.get_request(),
            socket: target.connect_blocking(None)?,
            state: BusyState::Rest,
            response: Response::new(),
            close: false,
        };
        socket.socket.set_nonblocking(true)?;
        socket.write_request()?;
        Ok(socket)
    }

    fn is_under_way(&self) -> bool {
        matches!(self.state, BusyState::Head | BusyState::Body { .. })
    }

    /// Sends the next request, on a new connection if the server has ended this one.
    fn send(&mut self, totals: &Totals) {
        let sent = if self.close {
            totals.reconnected();
            self.reopen()
        } else {
            self.write_request()
        };
        if let Err(error) = sent {
            totals.error(&error);
            self.state = BusyState::Failed;
        }
    }

    fn reopen(&mut self) -> Result<()> {
        self.socket = self.target.connect_blocking(None)?;
        self.socket.set_nonblocking(true)?;
        self.close = false;
        self.write_request()
    }

    /// A request always fits the send buffer of a connection at rest.
    fn write_request(&mut self) -> Result<()> {
        self.response.reset();
        (&self.socket).write_all(&self.request).context("a request could not be sent")?;
        self.state = BusyState::Head;
        Ok(())
    }

    /// Takes what has arrived; true when that completed a response.
    fn progress(&mut self, totals: &Totals) -> Result<bool> {
        if self.state == BusyState::Head {
            self.read_head()?;
        }
        if let BusyState::Body { length, left } = self.state {
            let left = self.discard(left)?;
            self.state = BusyState::Body { length, left };
            if left == 0 {
                self.state = BusyState::Rest;
                totals.complete(length);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A small ordinary read, which takes the head and perhaps the first bytes of the body.
    fn read_head(&mut self) -> Result<()> {
        let mut buffer = [0; 1024];
        let received = match (&self.socket).read(&mut buffer) {
            Ok(0) => bail!("the connection was closed in the response head"),
            Ok(received) => received,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error).context("no response head"),
        };
        let mut input = &buffer[..received];
        let Event::Head(head) = self.response.next(&mut input)? else {
            return Ok(());
        };
        check_status(&head)?;
        let length = match head.status {
            204 => 0,
            _ => head.content_length.filter(|_| !head.chunked).ok_or_else(|| {
                anyhow!("the response has no Content-Length, which --busy-poll needs")
            })?,
        };
        let left = length.checked_sub(input.len() as u64);
        let left = left.ok_or_else(|| anyhow!("the body is longer than its Content-Length"))?;
        self.close = head.close;
        self.state = BusyState::Body { length, left };
        Ok(())
    }

    /// Discards what has arrived of the body and returns how much is left.
    fn discard(&self, left: u64) -> Result<u64> {
        if left == 0 {
            return Ok(0);
        }
        let most = left.min(DISCARD_BYTES_MAX) as usize;
        match sys::discard(self.socket.as_raw_fd(), most) {
            Ok(0) => bail!("short body: the connection was closed {left} bytes early"),
            Ok(discarded) => Ok(left - discarded as u64),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(left),
            Err(error) => Err(error).context("short body"),
        }
    }
}

impl Report for GetReport {
    const MODE: &'static str = "get";

    fn line(&self) -> String {
        let mut clauses = vec![
            format!(
                "{} requests in {:.1} s on {} connections: {:.0} requests/s, {:.3} GB/s, {} errors{}",
                self.requests,
                self.seconds,
                self.connections,
                self.requests_per_second,
                self.gb_per_second,
                self.errors,
                self.faults.text(),
            ),
            report::server_text(self.server_cpu_us_per_request, "request"),
        ];
        if let Some(us) = self.server_cpu_us_per_mib {
            clauses.push(format!("{us:.1} µs per MiB"));
        }
        if self.reconnects > 0 {
            clauses.push(format!("{} reconnects", self.reconnects));
        }
        clauses.extend(self.latency_ms.map(|latency| latency.text()));
        clauses.push(self.client.map_or("busy-polling client".to_owned(), |client| client.text()));
        clauses.join("; ")
    }

    fn failed(&self) -> bool {
        self.errors > 0 || self.requests == 0
    }
}
