//! `held`: clients that wait for the next part of a live presentation, by blocking playlist reload or
//! on the hinted part itself, and a pusher in the same process. Measured is the time from the last
//! bytes of a part to the first byte at each client. Then the same clients again in front of threads
//! that only call send() with as many bytes: what the kernel and this client charge alone.

use std::cell::{Cell, RefCell};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_uring::net::TcpStream;

use super::{Context, parse_append_bytes, parse_count};
use crate::cpu::{self, ClientClock};
use crate::film::Film;
use crate::http::{Event, Response};
use crate::publish::chunk;
use crate::report::{self, ClientShare, Faults, LatencyMs, Report};
use crate::sys;
use crate::target::Target;

/// The end of a part, whose sending is the moment that counts.
const LAST_BYTES: usize = 1024;
/// Rounds that only warm up.
const WARM_UP: u64 = 5;
const ROUND_SECONDS_MAX: u64 = 10;
const PARTS_PER_SEGMENT: u64 = 10;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The publishing point, such as http://127.0.0.1:8080/live/cam
    url: String,
    /// Clients that wait
    #[arg(long, default_value_t = 1000, value_parser = parse_count)]
    clients: usize,
    /// What they wait for
    #[arg(long, value_enum, default_value_t = Hold::Playlist)]
    hold: Hold,
    /// Playlists as players ask for them: gzip
    #[arg(long)]
    gzip: bool,
    /// Playlists as delta updates
    #[arg(long)]
    skip: bool,
    /// Parts that are measured
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    parts: u64,
    /// Bytes of a part (K and M are understood)
    #[arg(long, default_value = "75K", value_parser = parse_append_bytes)]
    part_bytes: usize,
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(50..=10_000))]
    part_ms: u32,
    /// A chunk for each picture, spread over the part's time, instead of one chunk at its end
    #[arg(long)]
    pictures: bool,
    /// Seconds of media that are pushed before, as fast as they go
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(4..=86_400))]
    lead_s: u32,
    /// Milliseconds after a part at which the clients ask for the next one: so their requests do not
    /// disturb the answers that are on their way
    #[arg(long, default_value_t = 60)]
    rejoin_ms: u64,
    /// The admin address: counts the playlists that were rendered
    #[arg(long)]
    admin: Option<String>,
    /// Cores of the threads of the reference, separated by commas
    #[arg(long, value_delimiter = ',')]
    sender_cpus: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Hold {
    Playlist,
    Part,
}

#[derive(Serialize)]
pub(crate) struct HeldReport {
    clients: usize,
    parts: u64,
    answers: u64,
    answer_bytes: usize,
    faults: Faults,
    /// From the last bytes of a part to the first byte at a client.
    latency_ms: LatencyMs,
    /// The fastest and the slowest client of a part, over all parts.
    first_ms: LatencyMs,
    last_ms: LatencyMs,
    bare_latency_ms: LatencyMs,
    bare_first_ms: LatencyMs,
    bare_last_ms: LatencyMs,
    server_cpu_ns: Option<u64>,
    server_cpu_us_per_answer: Option<f64>,
    bare_cpu_us_per_answer: f64,
    renders_per_part: Option<f64>,
    #[serde(flatten)]
    client: ClientShare,
}

/// What all clients of a run share.
struct Room {
    /// One for each round: when its answer became due; 0 before.
    stamps: Arc<Vec<AtomicU64>>,
    latency: RefCell<Histogram<u64>>,
    /// When the first and the last client of the present round got something.
    first_ns: Cell<u64>,
    last_ns: Cell<u64>,
    firsts: RefCell<Histogram<u64>>,
    lasts: RefCell<Histogram<u64>>,
    /// Requests on their way, and answers complete, in the present round.
    waiting: Cell<usize>,
    answered: Cell<usize>,
    answers: Cell<u64>,
    /// What the first client got, or what is known to come: all get the same.
    body: RefCell<Vec<u8>>,
    wire_bytes: Cell<usize>,
    faults: RefCell<Faults>,
    failed: Cell<u64>,
}

impl Room {
    fn new(rounds: u64) -> Rc<Room> {
        Rc::new(Room {
            stamps: Arc::new((0..rounds).map(|_| AtomicU64::new(0)).collect()),
            latency: RefCell::new(report::latency_histogram()),
            first_ns: Cell::new(0),
            last_ns: Cell::new(0),
            firsts: RefCell::new(report::latency_histogram()),
            lasts: RefCell::new(report::latency_histogram()),
            waiting: Cell::new(0),
            answered: Cell::new(0),
            answers: Cell::new(0),
            body: RefCell::default(),
            wire_bytes: Cell::new(0),
            faults: RefCell::default(),
            failed: Cell::new(0),
        })
    }

    /// The first bytes of an answer are here.
    fn arrived(&self, round: u64) -> Result<()> {
        let stamp = self.stamps[round as usize].load(Ordering::Acquire);
        ensure!(stamp > 0, "an answer came before its part was pushed");
        let late_ns = sys::monotonic_ns().saturating_sub(stamp);
        if round >= WARM_UP {
            self.latency.borrow_mut().saturating_record(late_ns);
        }
        if self.first_ns.get() == 0 {
            self.first_ns.set(late_ns);
        }
        self.last_ns.set(late_ns);
        Ok(())
    }

    /// An answer is complete.
    fn check(&self, body: &[u8], wire_bytes: usize) -> Result<()> {
        let mut expected = self.body.borrow_mut();
        if expected.is_empty() {
            expected.extend_from_slice(body);
        }
        ensure!(*expected == body, "clients got different bytes");
        self.wire_bytes.set(wire_bytes);
        self.answered.set(self.answered.get() + 1);
        self.answers.set(self.answers.get() + 1);
        Ok(())
    }

    fn begin_round(&self, expected: &[u8]) {
        let mut body = self.body.borrow_mut();
        body.clear();
        body.extend_from_slice(expected);
        self.waiting.set(0);
        self.answered.set(0);
        self.first_ns.set(0);
    }

    fn end_round(&self, round: u64) {
        if round >= WARM_UP {
            self.firsts.borrow_mut().saturating_record(self.first_ns.get());
            self.lasts.borrow_mut().saturating_record(self.last_ns.get());
        }
    }

    fn failed(&self, error: &anyhow::Error) {
        self.failed.set(self.failed.get() + 1);
        self.faults.borrow_mut().add(format!("{error:#}"));
    }

    /// Until `count` says that all clients are there.
    async fn all(&self, count: &Cell<usize>, clients: usize, what: &str) -> Result<()> {
        let deadline = sys::monotonic_ns() + ROUND_SECONDS_MAX * 1_000_000_000;
        while count.get() + (self.failed.get() as usize) < clients {
            ensure!(sys::monotonic_ns() < deadline, "only {} clients {what}", count.get());
            sleep(Duration::from_millis(1)).await;
        }
        ensure!((self.failed.get() as usize) < clients, "no client is left");
        Ok(())
    }
}

/// The requests of the rounds.
type Requests = dyn Fn(u64) -> Vec<u8>;

/// One client to its end: a request for each round that is opened.
async fn follow(
    stream: TcpStream,
    room: &Room,
    requests: &Requests,
    mut open: watch::Receiver<Option<u64>>,
    buffer_bytes: usize,
) -> Result<()> {
    let mut buffer = vec![1; buffer_bytes];
    let (mut response, mut body) = (Response::new(), Vec::new());
    while open.changed().await.is_ok() {
        let Some(round) = *open.borrow() else { continue };
        let (sent, _) = stream.write_all(requests(round)).await;
        sent?;
        room.waiting.set(room.waiting.get() + 1);
        response.reset();
        body.clear();
        let mut wire_bytes = 0;
        while !response.is_done() {
            let (read, back) = stream.read(buffer).await;
            buffer = back;
            let length = read?;
            ensure!(length > 0, "the connection was closed");
            if wire_bytes == 0 {
                room.arrived(round)?;
            }
            wire_bytes += length;
            let mut input = &buffer[..length];
            loop {
                match response.next(&mut input)? {
                    Event::Head(head) if head.status == 200 => {}
                    Event::Head(head) => bail!("the server answered {}", head.status),
                    Event::Body(bytes) => body.extend_from_slice(bytes),
                    Event::End | Event::NeedMore => break,
                }
            }
        }
        room.check(&body, wire_bytes)?;
    }
    Ok(())
}

/// Clients that are connected and wait for the first round.
struct Clients {
    open: watch::Sender<Option<u64>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Clients {
    async fn join(
        target: &Target,
        args: &Args,
        room: &Rc<Room>,
        requests: &Rc<Requests>,
    ) -> Result<Clients> {
        let (open, opened) = watch::channel(None);
        let mut tasks = Vec::with_capacity(args.clients);
        let buffer_bytes = match args.hold {
            Hold::Playlist => 32 << 10,
            Hold::Part => (args.part_bytes + 4096).min(256 << 10),
        };
        for _ in 0..args.clients {
            let stream = target.connect().await?;
            let (room, requests, opened) = (room.clone(), requests.clone(), opened.clone());
            tasks.push(tokio_uring::spawn(async move {
                let ended = follow(stream, &room, &*requests, opened, buffer_bytes).await;
                if let Err(error) = ended {
                    room.failed(&error);
                }
            }));
        }
        Ok(Clients { open, tasks })
    }

    async fn finish(self) {
        drop(self.open);
        for task in self.tasks {
            let _ = timeout(Duration::from_secs(ROUND_SECONDS_MAX), task).await;
        }
    }
}

/// One PUT of a film without end.
struct Pusher {
    stream: TcpStream,
    film: Film,
}

impl Pusher {
    async fn start(point: &str, args: &Args) -> Result<Pusher> {
        let target = Target::parse(&format!("{point}/video.mp4"))?;
        let stream = target.connect().await?;
        let mut first = target.put_request();
        first.extend(chunk(&Film::init()).0);
        stream.write_all(first).await.0.context("the PUT request could not be sent")?;
        let film = Film::new(args.part_ms, args.part_bytes, args.pictures, PARTS_PER_SEGMENT);
        Ok(Pusher { stream, film })
    }

    async fn write(&self, bytes: Vec<u8>) -> Result<()> {
        self.stream.write_all(bytes).await.0.context("the server takes no more parts")
    }

    /// What stands before the answer is due.
    async fn lead(&mut self, parts: u64) -> Result<()> {
        for _ in 0..parts {
            let part = self.film.next_part();
            self.write(chunk(&part.concat()).0).await?;
        }
        Ok(())
    }

    /// A part within `span`, its last bytes by themselves; their moment is noted.
    async fn push(&self, chunks: &[Vec<u8>], span: Duration, stamp: &AtomicU64) -> Result<()> {
        let Some((last, before)) = chunks.split_last() else { return Ok(()) };
        let pause = span / chunks.len() as u32;
        for early in before {
            self.write(chunk(early).0).await?;
            sleep(pause).await;
        }
        sleep(pause).await;
        let mut first = chunk(last).0;
        let end = first.split_off(first.len() - LAST_BYTES.min(first.len() / 2));
        self.write(first).await?;
        stamp.store(sys::monotonic_ns(), Ordering::Release);
        self.write(end).await
    }
}

/// The whole answer to one request on a connection of its own.
async fn fetch(url: &str) -> Result<Vec<u8>> {
    let target = Target::parse(url)?;
    let stream = target.connect().await?;
    stream.write_all(target.get_request()).await.0?;
    let (mut response, mut body, mut buffer) = (Response::new(), Vec::new(), vec![1; 64 << 10]);
    while !response.is_done() {
        let (read, back) = stream.read(buffer).await;
        buffer = back;
        let length = read?;
        ensure!(length > 0, "{url}: the answer is cut");
        let mut input = &buffer[..length];
        loop {
            match response.next(&mut input)? {
                Event::Head(head) if head.status != 200 => bail!("{url}: {}", head.status),
                Event::Head(_) => {}
                Event::Body(bytes) => body.extend_from_slice(bytes),
                Event::End | Event::NeedMore => break,
            }
        }
    }
    Ok(body)
}

/// The part that a playlist hints at: what its URI begins with, media sequence number, part.
fn hint_of(playlist: &[u8]) -> Result<(String, u64, u64)> {
    let text = std::str::from_utf8(playlist)?;
    let found = || {
        let (_, rest) = text.split_once("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"")?;
        let (uri, _) = rest.split_once('"')?;
        let (folder, file) = uri.rsplit_once('/')?;
        let mut words = file.split('.');
        let (msn, part) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((folder.to_owned(), msn, part))
    };
    found().ok_or_else(|| anyhow!("the playlist hints at no part:\n{text}"))
}

async fn renders(args: &Args) -> Result<Option<u64>> {
    let Some(admin) = &args.admin else { return Ok(None) };
    let page = fetch(&format!("{}/metrics", admin.trim_end_matches('/'))).await?;
    let text = String::from_utf8_lossy(&page);
    let line = text.lines().find(|line| line.starts_with("headwater_live_renders"));
    let value = line.and_then(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(value.map(|value| value as u64))
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<HeldReport> {
    // The reference has both ends in this process.
    context.check_sockets(args.clients * 2 + 2)?;
    let point = args.url.trim_end_matches('/');
    let rounds = args.parts + WARM_UP;
    let mut pusher = Pusher::start(point, args).await?;
    let lead = u64::from(args.lead_s * 1000 / args.part_ms);
    pusher.lead(lead.next_multiple_of(PARTS_PER_SEGMENT) + 2).await?;
    sleep(Duration::from_millis(500)).await;
    let (folder, msn, part) = hint_of(&fetch(&format!("{point}/video.m3u8")).await?)?;
    ensure!(part == pusher.film.parts() % PARTS_PER_SEGMENT, "part {part} is hinted at");

    let target = Target::parse(&format!("{point}/video.m3u8"))?;
    let requests = requests(point, args, &folder, msn, part)?;
    let room = Room::new(rounds);
    let clients = Clients::join(&target, args, &room, &requests).await?;
    let progress = context.progress(rounds, "parts");
    let span = Duration::from_millis(u64::from(args.part_ms).saturating_sub(args.rejoin_ms));
    let mut before = (None, None, None);
    for round in 0..rounds {
        if round == WARM_UP {
            before = (context.server.cpu()?, renders(args).await?, Some(ClientClock::start()));
        }
        let part = pusher.film.next_part();
        let expected = if args.hold == Hold::Part { part.concat() } else { Vec::new() };
        room.begin_round(&expected);
        clients.open.send(Some(round)).map_err(|_| anyhow!("no client is left"))?;
        room.all(&room.waiting, args.clients, "ask").await?;
        pusher.push(&part, span, &room.stamps[round as usize]).await?;
        room.all(&room.answered, args.clients, "were answered").await?;
        room.end_round(round);
        if args.hold == Hold::Playlist && !args.gzip {
            let (_, msn, part) = hint_of(&room.body.borrow())?;
            let next = pusher.film.parts() % PARTS_PER_SEGMENT;
            ensure!(part == next, "the answer hints at {msn}.{part}, not at part {next}");
        }
        sleep(Duration::from_millis(args.rejoin_ms)).await;
        progress.set_position(round);
    }
    let (cpu_before, renders_before, clock) = before;
    let (_, busy) = clock.map_or((0.0, 0.0), ClientClock::stop);
    let server_cpu_ns =
        context.server.cpu()?.zip(cpu_before).map(|(after, before)| after.since(&before));
    let rendered = renders(args).await?.zip(renders_before).map(|(after, before)| after - before);
    clients.finish().await;
    pusher.write(b"0\r\n\r\n".to_vec()).await?;
    progress.finish_and_clear();

    let (bare, bare_cpu_ns) = run_bare(args, room.wire_bytes.get(), rounds).await?;
    let answers = args.parts * args.clients as u64;
    let of = |histogram: &RefCell<Histogram<u64>>| LatencyMs::of(&histogram.borrow());
    Ok(HeldReport {
        clients: args.clients,
        parts: args.parts,
        answers: room.answers.get(),
        answer_bytes: room.wire_bytes.get(),
        faults: room.faults.take(),
        latency_ms: of(&room.latency),
        first_ms: of(&room.firsts),
        last_ms: of(&room.lasts),
        bare_latency_ms: of(&bare.latency),
        bare_first_ms: of(&bare.firsts),
        bare_last_ms: of(&bare.lasts),
        server_cpu_ns,
        server_cpu_us_per_answer: report::us_per(server_cpu_ns, answers as f64),
        bare_cpu_us_per_answer: bare_cpu_ns as f64 / 1e3 / answers as f64,
        renders_per_part: rendered.map(|count| count as f64 / args.parts as f64),
        client: ClientShare::new(busy),
    })
}

/// The request of each round, by counting on from the part that was hinted at.
fn requests(point: &str, args: &Args, folder: &str, msn: u64, part: u64) -> Result<Rc<Requests>> {
    let first = part;
    let target = |round: u64, args: (Hold, bool), point: &str, folder: &str| {
        let (hold, skip) = args;
        let (msn, part) =
            (msn + (first + round) / PARTS_PER_SEGMENT, (first + round) % PARTS_PER_SEGMENT);
        let skip = if skip { "&_HLS_skip=YES" } else { "" };
        match hold {
            Hold::Playlist => {
                format!("{point}/video.m3u8?_HLS_msn={msn}&_HLS_part={part}{skip}")
            }
            Hold::Part => format!("{point}/{folder}/{msn}.{part}.m4s"),
        }
    };
    let (point, folder) = (point.to_owned(), folder.to_owned());
    let (how, gzip) = ((args.hold, args.skip), args.gzip);
    // All of them now: making them is not to be measured.
    let mut made = Vec::new();
    for round in 0..args.parts + WARM_UP {
        let mut request = Target::parse(&target(round, how, &point, &folder))?.get_request();
        if gzip {
            request.truncate(request.len() - 2);
            request.extend_from_slice(b"Accept-Encoding: gzip\r\n\r\n");
        }
        made.push(request);
    }
    Ok(Rc::new(move |round: u64| made[round as usize].clone()))
}

/// The reference: threads that answer all requests of a round with plain sends.
async fn run_bare(args: &Args, wire_bytes: usize, rounds: u64) -> Result<(Rc<Room>, u64)> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    let target = Target::local(listener.local_addr()?);
    let room = Room::new(rounds);
    let threads = args.sender_cpus.len().max(1);
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {:06}\r\n\r\n", 0);
    let body = vec![b'x'; wire_bytes.saturating_sub(head.len()).max(1)];
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {:06}\r\n\r\n", body.len());
    let sender = Arc::new(Sender {
        answer: [head.as_bytes(), &body].concat(),
        stamps: room.stamps.clone(),
        cpu_ns: AtomicU64::new(0),
        barrier: Barrier::new(threads),
        pause_ms: u64::from(args.part_ms).saturating_sub(args.rejoin_ms),
    });
    let counts: Vec<usize> = (0..threads).map(|at| (args.clients + at) / threads).collect();
    let mut handles = Vec::new();
    let listener = Arc::new(listener);
    for (at, count) in counts.into_iter().enumerate() {
        let (sender, listener) = (sender.clone(), listener.clone());
        let cpu = args.sender_cpus.get(at).copied();
        handles.push(thread::spawn(move || sender.run(&listener, count, cpu)));
    }
    let request = target.get_request();
    let requests: Rc<Requests> = Rc::new(move |_| request.clone());
    let clients = Clients::join(&target, args, &room, &requests).await?;
    for round in 0..rounds {
        room.begin_round(&[]);
        clients.open.send(Some(round)).map_err(|_| anyhow!("no client is left"))?;
        room.all(&room.answered, args.clients, "were answered by the reference").await?;
        room.end_round(round);
        sleep(Duration::from_millis(args.rejoin_ms)).await;
    }
    clients.finish().await;
    for handle in handles {
        handle.join().map_err(|_| anyhow!("a sending thread panicked"))??;
    }
    Ok((room, sender.cpu_ns.load(Ordering::Relaxed)))
}

/// What the threads of the reference share.
struct Sender {
    answer: Vec<u8>,
    stamps: Arc<Vec<AtomicU64>>,
    /// Of the sends alone.
    cpu_ns: AtomicU64,
    barrier: Barrier,
    pause_ms: u64,
}

impl Sender {
    fn run(&self, listener: &TcpListener, count: usize, cpu: Option<usize>) -> Result<()> {
        if let Some(cpu) = cpu {
            cpu::pin(cpu)?;
        }
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let (socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            socket.set_read_timeout(Some(Duration::from_secs(ROUND_SECONDS_MAX)))?;
            sockets.push(socket);
        }
        for (round, stamp) in self.stamps.iter().enumerate() {
            for socket in &mut sockets {
                // The request is known: it comes in one piece.
                let got = socket.read(&mut [0; 1024])?;
                ensure!(got > 0, "a client has gone");
            }
            thread::sleep(Duration::from_millis(self.pause_ms));
            self.barrier.wait();
            let _ =
                stamp.compare_exchange(0, sys::monotonic_ns(), Ordering::AcqRel, Ordering::Relaxed);
            let before_ns = sys::thread_cpu_ns();
            for socket in &mut sockets {
                socket.write_all(&self.answer).context("a client does not take its answer")?;
            }
            if round as u64 >= WARM_UP {
                self.cpu_ns.fetch_add(sys::thread_cpu_ns() - before_ns, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

impl Report for HeldReport {
    const MODE: &'static str = "held";

    fn line(&self) -> String {
        let renders =
            self.renders_per_part.map_or(String::new(), |n| format!("; {n:.2} renders per part"));
        format!(
            "{} clients × {} parts, answers of {} B{}; {} (first p50 {}, last p50 {}); bare send {} (last p50 {}); {}, bare {:.2} µs{renders}; {}",
            self.clients,
            self.parts,
            self.answer_bytes,
            self.faults.text(),
            self.latency_ms.text(),
            self.first_ms.p50_text(),
            self.last_ms.p50_text(),
            self.bare_latency_ms.text(),
            self.bare_last_ms.p50_text(),
            report::server_text(self.server_cpu_us_per_answer, "answer"),
            self.bare_cpu_us_per_answer,
            self.client.text(),
        )
    }

    fn failed(&self) -> bool {
        let expected = (self.parts + WARM_UP) * self.clients as u64;
        self.answers != expected
    }
}
