//! `put`: whole objects uploaded with chunked coding, as fast as the server takes them. The
//! content is fixed and sent from one prebuilt buffer, so that the client costs little; nothing
//! is read back (`live` verifies).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::Serialize;
use tokio::time::sleep;
use tokio_uring::net::TcpStream;

use super::{Context, parse_bytes, parse_count};
use crate::cpu::ClientClock;
use crate::http::{Event, Response};
use crate::pattern::{HEADER_BYTES, Plan};
use crate::publish::chunk;
use crate::report::{self, ClientShare, Faults, Report};
use crate::sys;
use crate::target::Target;

/// Chunks are sent many at a time, as far as they fit this.
const WRITE_BYTES: usize = 1024 * 1024;
/// A body of up to this length is copied behind the request head.
const SMALL_BYTES: usize = 64 * 1024;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// The objects to PUT; {n} in it, or else a suffix /0, /1 …, tells several apart
    url: String,
    /// Bytes of each object (K, M and G are understood)
    #[arg(long, default_value = "64M", value_parser = parse_bytes)]
    size: u64,
    /// Bytes of each HTTP chunk
    #[arg(long, default_value = "64K", value_parser = parse_chunk_bytes)]
    chunk: u64,
    /// Objects in all
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    count: usize,
    /// Connections, each with one object at a time
    #[arg(long, default_value_t = 1, value_parser = parse_count)]
    connections: usize,
    /// Give up after so many seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    seconds_max: u32,
}

fn parse_chunk_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        bytes @ 1..=67_108_864 => Ok(bytes),
        _ => Err("not within 1 byte and 64 MiB".to_owned()),
    }
}

#[derive(Serialize)]
pub(crate) struct PutReport {
    size: u64,
    chunk: u64,
    connections: usize,
    objects: u64,
    objects_failed: u64,
    faults: Faults,
    seconds: f64,
    bytes: u64,
    gb_per_second: f64,
    objects_per_second: f64,
    server_cpu_ns: Option<u64>,
    server_cpu_us_per_mib: Option<f64>,
    server_cpu_us_per_object: Option<f64>,
    #[serde(flatten)]
    client: ClientShare,
}

/// What every connection sends, and what has come of it.
struct Upload {
    target: Target,
    count: u32,
    next: Cell<u32>,
    body: Body,
    stored: Cell<u64>,
    faults: RefCell<Faults>,
}

pub(crate) async fn run(args: &Args, context: &Context) -> Result<PutReport> {
    let target = Target::parse(&args.url)?;
    context.check_sockets(args.connections)?;
    let mut streams = Vec::with_capacity(args.connections);
    for _ in 0..args.connections.min(args.count) {
        streams.push(Rc::new(target.connect().await?));
    }
    let upload = Rc::new(Upload {
        target,
        count: args.count as u32,
        next: Cell::new(0),
        body: Body::new(args.size, args.chunk),
        stored: Cell::new(0),
        faults: RefCell::default(),
    });
    let server_before = context.server.cpu()?;
    let clock = ClientClock::start();
    let start =
        |stream: &Rc<TcpStream>| tokio_uring::spawn(put_objects(stream.clone(), upload.clone()));
    let tasks: Vec<_> = streams.iter().map(start).collect();
    let progress = context.progress(args.count as u64, "objects");
    let deadline_ns = sys::monotonic_ns() + u64::from(args.seconds_max) * 1_000_000_000;
    while tasks.iter().any(|task| !task.is_finished()) {
        // Also the resolution of the duration that the result is computed with.
        sleep(Duration::from_millis(1)).await;
        progress.set_position(upload.stored.get());
        if sys::monotonic_ns() > deadline_ns {
            upload.faults.borrow_mut().add(format!("not done after {} s", args.seconds_max));
            break;
        }
    }
    let (seconds, busy) = clock.stop();
    let server_after = context.server.cpu()?;
    progress.finish_and_clear();
    let server_ns = server_after.zip(server_before).map(|(after, before)| after.since(&before));
    let stored = upload.stored.get();
    let bytes = stored * args.size;
    Ok(PutReport {
        size: args.size,
        chunk: args.chunk,
        connections: streams.len(),
        objects: stored,
        objects_failed: args.count as u64 - stored,
        faults: upload.faults.take(),
        seconds,
        bytes,
        gb_per_second: bytes as f64 / 1e9 / seconds,
        objects_per_second: stored as f64 / seconds,
        server_cpu_ns: server_ns,
        server_cpu_us_per_mib: report::us_per(server_ns, report::mib(bytes)),
        server_cpu_us_per_object: report::us_per(server_ns, stored as f64),
        client: ClientShare::new(busy),
    })
}

/// Uploads objects over one connection until there are none left.
async fn put_objects(mut stream: Rc<TcpStream>, upload: Rc<Upload>) {
    let mut closed = false;
    while upload.next.get() < upload.count {
        let index = upload.next.replace(upload.next.get() + 1);
        let target = upload.target.numbered(index, upload.count);
        let put = async {
            if closed {
                stream = Rc::new(target.connect().await?);
            }
            put_object(&stream, &target, &upload.body).await
        };
        match put.await {
            Ok(close) => {
                closed = close;
                upload.stored.set(upload.stored.get() + 1);
            }
            Err(error) => {
                upload.faults.borrow_mut().add(format!("{error:#}"));
                closed = true;
            }
        }
    }
}

/// Uploads one object; true if the server closes the connection after it.
async fn put_object(stream: &TcpStream, target: &Target, body: &Body) -> Result<bool> {
    let mut first = target.put_request();
    if body.is_small() {
        first.extend_from_slice(body.tail);
    }
    let (result, _) = stream.write_all(first).await;
    result.context("the PUT request could not be sent")?;
    let sent = if body.is_small() { Ok(()) } else { body.send(stream).await };
    // A server that refuses in the middle says why before it closes.
    match read_answer(stream).await {
        Ok((201 | 204, close)) => sent.map(|()| close),
        Ok((status, _)) => bail!("the server answered {status}"),
        Err(error) => Err(sent.err().unwrap_or(error)),
    }
}

async fn read_answer(stream: &TcpStream) -> Result<(u16, bool)> {
    let mut response = Response::new();
    let mut buffer = vec![0; 4096];
    let mut answer = None;
    loop {
        let (result, back) = stream.read(buffer).await;
        buffer = back;
        let length = result.context("no answer to the PUT")?;
        let mut input = &buffer[..length];
        loop {
            match response.next(&mut input)? {
                Event::Head(head) => answer = Some((head.status, head.close)),
                Event::Body(_) => {}
                Event::End => break,
                Event::NeedMore => break,
            }
        }
        match answer {
            // A body of no interest, but the next answer of the connection comes behind it.
            Some(answer) if length == 0 || response.is_done() => return Ok(answer),
            None if length == 0 => bail!("the connection was closed without an answer"),
            _ => {}
        }
    }
}

/// The body of every object, framed: equal writes of many whole chunks, then the tail.
struct Body {
    chunks: &'static [u8],
    /// How many times `chunks` is sent.
    writes: u64,
    /// The chunks that are left, at least one if there are any, the last of them perhaps shorter,
    /// and the end of the coding, which thus never travels alone.
    tail: &'static [u8],
}

impl Body {
    fn new(size: u64, chunk_bytes: u64) -> Body {
        let (framed, _) = chunk(&content(chunk_bytes));
        let at_a_time = (WRITE_BYTES / framed.len()).max(1);
        let whole = size / chunk_bytes;
        let writes = whole.saturating_sub(1) / at_a_time as u64;
        let mut tail = framed.repeat((whole - writes * at_a_time as u64) as usize);
        if !size.is_multiple_of(chunk_bytes) {
            tail.extend(chunk(&content(size % chunk_bytes)).0);
        }
        tail.extend_from_slice(b"0\r\n\r\n");
        // Leaked on purpose: once per process, and the ring may write from it without a copy
        // for as long as it likes.
        Body { chunks: Vec::leak(framed.repeat(at_a_time)), writes, tail: Vec::leak(tail) }
    }

    /// Whether the body is best sent together with the head.
    fn is_small(&self) -> bool {
        self.writes == 0 && self.tail.len() <= SMALL_BYTES
    }

    async fn send(&self, stream: &TcpStream) -> Result<()> {
        let cut = |error| anyhow!("the PUT was cut: {error}");
        for _ in 0..self.writes {
            let (result, _) = stream.write_all(self.chunks).await;
            result.map_err(cut)?;
        }
        let (result, _) = stream.write_all(self.tail).await;
        result.map_err(cut)
    }
}

/// Bytes without zero pages or repetition, so that no layer can take a short cut.
fn content(bytes: u64) -> Vec<u8> {
    let bytes = bytes as usize;
    // An append of a plan has at least a header.
    let mut content = vec![0; bytes.max(HEADER_BYTES)];
    Plan::new(content.len(), 1).fill(1, &mut content);
    content.truncate(bytes);
    content
}

impl Report for PutReport {
    const MODE: &'static str = "put";

    fn line(&self) -> String {
        let mut clauses = vec![
            format!(
                "{} objects of {} in chunks of {} B on {} connections: {:.3} GB/s, {:.1} objects/s, {} failed{}",
                self.objects,
                report::bytes_text(self.size),
                self.chunk,
                self.connections,
                self.gb_per_second,
                self.objects_per_second,
                self.objects_failed,
                self.faults.text(),
            ),
            report::server_text(self.server_cpu_us_per_object, "object"),
        ];
        if let Some(us) = self.server_cpu_us_per_mib {
            clauses.push(format!("{us:.1} µs per MiB"));
        }
        clauses.push(self.client.text());
        clauses.join("; ")
    }

    fn failed(&self) -> bool {
        self.objects_failed > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a body looks like on the wire.
    fn wire(size: u64, chunk_bytes: u64) -> Vec<u8> {
        let body = Body::new(size, chunk_bytes);
        let mut wire = body.chunks.repeat(body.writes as usize);
        wire.extend_from_slice(body.tail);
        wire
    }

    #[test]
    fn bodies_are_well_framed_and_of_the_right_length() {
        let sizes =
            [(0, 5), (3, 5), (5, 5), (13, 5), (3 << 20, 64 << 10), ((2 << 20) + 1, 700_000)];
        for (size, chunk_bytes) in sizes {
            let mut response = Response::new();
            let mut wire = wire(size, chunk_bytes);
            wire.splice(0..0, *b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            let (mut input, mut bytes) = (&wire[..], 0);
            while let Event::Head(_) | Event::Body(_) = match response.next(&mut input).unwrap() {
                Event::Body(body) => {
                    bytes += body.len() as u64;
                    Event::Body(body)
                }
                other => other,
            } {}
            assert!(response.is_done() && input.is_empty(), "{size} by {chunk_bytes}");
            assert_eq!(bytes, size);
        }
    }
}
