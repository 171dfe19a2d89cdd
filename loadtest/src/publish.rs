//! The publishing side of a live object: one chunked PUT with an HTTP chunk per append, or a WebSocket
//! with a message per append, and the pace it is kept at. Does not know who reads, except for
//! how many deliveries to wait for.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use indicatif::ProgressBar;
use tokio::time::timeout;
use tokio_uring::net::TcpStream;

use crate::cpu::{ClientClock, Server};
use crate::door::{Ingress, WriteDoor};
use crate::follow::Tally;
use crate::http::{Event, Response};
use crate::pattern::{HEADER_BYTES, PREAMBLE_BYTES, Plan};
use crate::sys;
use crate::uplink::Uplink;
use crate::websocket::{self, Keys, Opcode};

const ANSWER_SECONDS_MAX: u64 = 10;
/// How far a publisher may fall behind its pace before the run is given up.
const OVERRUN_SECONDS_MAX: u64 = 10;

/// What an object or channel is published through.
enum Line {
    Upload(TcpStream),
    WebSocket(Uplink),
}

/// Whatever appends of a plan are sent with, one after the other.
pub(crate) trait Source {
    /// How many there are.
    fn appends(&self) -> u64;

    /// Sends the next one and returns the moment it was stamped with.
    async fn append(&mut self) -> Result<u64>;
}

/// One object being published.
pub(crate) struct Publisher {
    line: Line,
    plan: Arc<Plan>,
    /// A chunk or frame; only the body, and a frame's mask, changes between appends.
    chunk: Vec<u8>,
    body_at: usize,
    sequence: u32,
    keys: Keys,
}

impl Publisher {
    /// Opens the object with the preamble.
    pub(crate) async fn create(ingress: &Ingress, plan: &Arc<Plan>) -> Result<Publisher> {
        let mut keys = Keys::new();
        let mut preamble = vec![0; PREAMBLE_BYTES];
        plan.fill(0, &mut preamble);
        let line = if ingress.door == WriteDoor::Http {
            let stream = ingress.target.connect().await?;
            plan.stamp(0, sys::monotonic_ns(), &mut preamble);
            let first = [ingress.request(), chunk(&preamble).0].concat();
            let (result, _) = stream.write_all(first).await;
            result.context("the PUT request could not be sent")?;
            Line::Upload(stream)
        } else {
            let mut uplink = Uplink::open(ingress).await?;
            plan.stamp(0, sys::monotonic_ns(), &mut preamble);
            let first = websocket::frame(Opcode::Binary, &preamble, &mut keys);
            uplink.send(first).await.0.context("the first message could not be sent")?;
            Line::WebSocket(uplink)
        };
        let (chunk, body_at) = match line {
            Line::Upload(_) => chunk(&vec![0; plan.append_bytes()]),
            Line::WebSocket(_) => websocket::room(Opcode::Binary, plan.append_bytes()),
        };
        Ok(Publisher { line, plan: plan.clone(), chunk, body_at, sequence: 1, keys })
    }

    /// Ends the object properly and waits for the server's word on it: a status, or the code of a
    /// close frame.
    pub(crate) async fn finish(self) -> Result<u16> {
        let stream = match self.line {
            Line::Upload(stream) => stream,
            Line::WebSocket(uplink) => return uplink.close().await,
        };
        let (result, _) = stream.write_all(b"0\r\n\r\n".to_vec()).await;
        result.context("the end of the PUT could not be sent")?;
        let status = read_answer(&stream).await?;
        if !(200..300).contains(&status) {
            bail!("the server answered {status} to the PUT");
        }
        Ok(status)
    }
}

impl Source for Publisher {
    fn appends(&self) -> u64 {
        u64::from(self.plan.appends())
    }

    async fn append(&mut self) -> Result<u64> {
        let end = self.body_at + self.plan.append_bytes();
        let body = &mut self.chunk[self.body_at..end];
        self.plan.fill(self.sequence, body);
        let now = sys::monotonic_ns();
        self.plan.stamp(self.sequence, now, &mut body[..HEADER_BYTES]);
        self.sequence += 1;
        let chunk = std::mem::take(&mut self.chunk);
        let (result, chunk) = match &mut self.line {
            Line::Upload(stream) => upload(stream, chunk).await,
            Line::WebSocket(uplink) => {
                let mut frame = chunk;
                websocket::seal(&mut frame, self.body_at, &mut self.keys);
                uplink.send(frame).await
            }
        };
        self.chunk = chunk;
        result.with_context(|| format!("append {} could not be sent", self.sequence - 1))?;
        Ok(now)
    }
}

/// Sends a chunk and gives it back.
async fn upload(stream: &TcpStream, chunk: Vec<u8>) -> (Result<()>, Vec<u8>) {
    let (result, chunk) = stream.write_all(chunk).await;
    let Err(error) = result else { return (Ok(()), chunk) };
    // A server that refuses says why before it closes.
    let why = match read_answer(stream).await {
        Ok(status) => anyhow!("the server answered {status} in the middle of the PUT"),
        Err(_) => anyhow!("the PUT was cut: {error}"),
    };
    (Err(why), chunk)
}

/// Reads the status of an answer without a body of interest.
async fn read_answer(stream: &TcpStream) -> Result<u16> {
    let mut response = Response::new();
    let mut buffer = vec![0; 4096];
    let read = async {
        loop {
            let (result, back) = stream.read(buffer).await;
            buffer = back;
            let length = result?;
            if length == 0 {
                bail!("the server closed the connection without an answer to the PUT");
            }
            let mut input = &buffer[..length];
            if let Event::Head(head) = response.next(&mut input)? {
                return Ok(head.status);
            }
        }
    };
    let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
    timeout(limit, read)
        .await
        .unwrap_or_else(|_| Err(anyhow!("no answer to the PUT within {ANSWER_SECONDS_MAX} s")))
}

/// Data as an HTTP chunk, and where in it the data begins.
pub(crate) fn chunk(data: &[u8]) -> (Vec<u8>, usize) {
    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
    let data_at = chunk.len();
    chunk.extend_from_slice(data);
    chunk.extend_from_slice(b"\r\n");
    (chunk, data_at)
}

/// Waits for the ticks of a steady pace without drifting.
struct Pacer {
    timer: tokio_uring::fs::File,
    buffer: Vec<u8>,
}

impl Pacer {
    fn new(start_ns: u64, period_ns: u64) -> Result<Pacer> {
        let timer: OwnedFd = sys::periodic_timer(start_ns, period_ns).context("no timer")?;
        let timer = tokio_uring::fs::File::from_std(std::fs::File::from(timer));
        Ok(Pacer { timer, buffer: Vec::with_capacity(8) })
    }

    /// How many ticks have come since the last call; waits for the first.
    async fn ticks(&mut self) -> Result<u64> {
        let (result, buffer) = self.timer.read_at(std::mem::take(&mut self.buffer), 0).await;
        self.buffer = buffer;
        result.context("the timer cannot be read")?;
        let (words, _) = self.buffer.as_chunks::<8>();
        let ticks = words.first().ok_or_else(|| anyhow!("the timer gave too few bytes"))?;
        Ok(u64::from_ne_bytes(*ticks))
    }
}

/// What the paced phase of a run showed, the joins before and the end after it left out.
pub(crate) struct Paced {
    pub(crate) server_ns: Option<u64>,
    pub(crate) client_busy: f64,
    /// How late the latest append was against its pace.
    pub(crate) late_max_ns: u64,
}

/// Sends every append of all sources at the same pace, the sources evenly apart from each other, and waits
/// until all deliveries have been made or it is clear that they will not. Gives the sources back.
pub(crate) async fn publish_paced<S: Source + 'static>(
    sources: Vec<S>,
    period_ns: u64,
    expected: u64,
    tally: &Rc<Tally>,
    server: &Server,
    progress: &ProgressBar,
) -> Result<(Paced, Vec<S>)> {
    // Far enough ahead for the first append to be on time.
    let start_ns = sys::monotonic_ns() + 2_000_000;
    let (count, appends) = (sources.len() as u64, sources.first().map_or(0, Source::appends));
    let own_start_ns = |index: u64| start_ns + period_ns * index / count;
    let end_ns = own_start_ns(count.saturating_sub(1)) + period_ns * appends;
    let start = |(index, mut source): (u64, S)| {
        let progress = if index == 0 { progress.clone() } else { ProgressBar::hidden() };
        let start_ns = own_start_ns(index);
        tokio_uring::spawn(async move {
            let never = Cell::new(false);
            let late_max_ns = pace(&mut source, start_ns, period_ns, &never, &progress).await?;
            anyhow::Ok((late_max_ns, source))
        })
    };
    let tasks: Vec<_> = (0..).zip(sources).map(start).collect();
    let pacing = async {
        let (mut late_max_ns, mut back) = (0, Vec::new());
        for task in tasks {
            let (late_ns, source) = task.await??;
            late_max_ns = u64::max(late_max_ns, late_ns);
            back.push(source);
        }
        anyhow::Ok((late_max_ns, back))
    };
    let server_before = server.cpu()?;
    let clock = ClientClock::start();
    let run = Duration::from_nanos(end_ns.saturating_sub(sys::monotonic_ns()));
    let limit = run + Duration::from_secs(OVERRUN_SECONDS_MAX);
    let (late_max_ns, sources) = timeout(limit, pacing).await.map_err(|_| {
        anyhow!("the server took the appends more than {OVERRUN_SECONDS_MAX} s late")
    })??;
    // The last period belongs to the measurement, and so does the way of the last append.
    tally.settle(end_ns, expected).await;
    let (_, client_busy) = clock.stop();
    let server_after = server.cpu()?;
    let server_ns = server_after.zip(server_before).map(|(after, before)| after.since(&before));
    Ok((Paced { server_ns, client_busy, late_max_ns }, sources))
}

/// Publishes appends at their pace until told to stop, and makes the last of them the last of the
/// plan. False if the plan was at its end before that.
pub(crate) async fn publish_until(
    publisher: &mut Publisher,
    period_ns: u64,
    stop: &Cell<bool>,
) -> Result<bool> {
    let start_ns = sys::monotonic_ns() + 2_000_000;
    pace(publisher, start_ns, period_ns, stop, &ProgressBar::hidden()).await?;
    publisher.plan.end_after(publisher.sequence - 1);
    Ok(stop.get())
}

async fn pace(
    source: &mut impl Source,
    start_ns: u64,
    period_ns: u64,
    stop: &Cell<bool>,
    progress: &ProgressBar,
) -> Result<u64> {
    let appends = source.appends();
    let mut pacer = Pacer::new(start_ns, period_ns)?;
    let (mut due, mut sent, mut late_max_ns) = (0, 0, 0);
    while sent < appends && !stop.get() {
        due = u64::min(due + pacer.ticks().await?, appends);
        while sent < due {
            let sent_ns = source.append().await?;
            let late_ns = sent_ns.saturating_sub(start_ns + sent * period_ns);
            late_max_ns = u64::max(late_max_ns, late_ns);
            sent += 1;
            progress.set_position(sent);
        }
    }
    Ok(late_max_ns)
}
