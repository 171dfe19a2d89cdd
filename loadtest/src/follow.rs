//! The reading side of a live object: followers that read, decode and verify every byte, and the
//! tally they share. All scenarios with followers use this one loop, whatever the door, so that
//! what waking a reader costs the sender is the same in all of them. When to join and when to stop
//! is decided by the scenarios.

use std::cell::{Cell, RefCell};
use std::os::fd::AsRawFd as _;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_uring::net::TcpStream;

use crate::door::{Egress, ReadDoor};
use crate::http::{Event, Response};
use crate::outcome::{Fault, Outcome};
use crate::pattern::{Plan, Verifier};
use crate::report;
use crate::session::{Got, HEARTBEAT, Session};
use crate::sys;
use crate::websocket::{self, Keys, Opcode};

/// Enough joins at a time to be quick, few enough for any accept queue.
const JOINS_AT_A_TIME_MAX: usize = 128;
const JOIN_SECONDS_MAX: u64 = 30;
/// After the last append, so long a pause means that the missing deliveries will not come.
const QUIET_MS_MAX: u64 = 1000;
const SETTLE_NS_MAX: u64 = 10_000_000_000;
/// How long a new object may take to become visible to readers.
const APPEAR_MS_MAX: u64 = 3000;
/// What ws-stream-server's own clients do.
pub(crate) const HEARTBEAT_INTERVAL_S: u64 = 20;

/// What all followers of a run received.
pub(crate) struct Tally {
    pub(crate) latency: RefCell<Histogram<u64>>,
    pub(crate) deliveries: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
    /// Pings and heartbeats of the server.
    pub(crate) heartbeats: Cell<u64>,
    /// Pictures that a viewer of a camera did not get, although it got later ones.
    pub(crate) skipped: Cell<u64>,
}

impl Tally {
    pub(crate) fn new() -> Rc<Tally> {
        Rc::new(Tally {
            latency: RefCell::new(report::latency_histogram()),
            deliveries: Cell::new(0),
            bytes: Cell::new(0),
            heartbeats: Cell::new(0),
            skipped: Cell::new(0),
        })
    }

    /// Waits until `end_ns`, and on until `expected` deliveries are there or no more are coming.
    pub(crate) async fn settle(&self, end_ns: u64, expected: u64) {
        let mut seen = self.deliveries.get();
        let mut quiet_since_ns = end_ns;
        loop {
            let (now, deliveries) = (sys::monotonic_ns(), self.deliveries.get());
            if deliveries != seen {
                (seen, quiet_since_ns) = (deliveries, now);
            }
            let quiet = now > quiet_since_ns.saturating_add(QUIET_MS_MAX * 1_000_000);
            if now >= end_ns && (deliveries >= expected || quiet || now > end_ns + SETTLE_NS_MAX) {
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    pub(crate) fn delivered(&self, stamp_ns: u64) {
        let latency = sys::monotonic_ns().saturating_sub(stamp_ns);
        self.latency.borrow_mut().saturating_record(latency);
        self.deliveries.set(self.deliveries.get() + 1);
    }
}

/// Whoever reads a stream to its end.
pub(crate) trait Reads {
    /// The connection, to cut short a reader that waits for ever.
    fn stream(&self) -> Rc<TcpStream>;

    /// Reads to the end of the response.
    async fn follow(&mut self, tally: &Tally) -> Result<(), Fault>;
}

/// What stands between the socket and the bytes of the object.
enum Wire {
    Http(Response),
    WebSocket(Box<Session>),
}

/// What has been seen of the messages of a WebSocket whose appends came in as messages.
#[derive(Debug)]
struct Messages {
    /// Appends before the current message, the preamble counted.
    before: u32,
    /// Behind what a follower is given as one message, each append is one.
    is_single: bool,
}

/// One reader: a connection and how far it has come.
pub(crate) struct Follower {
    stream: Rc<TcpStream>,
    buffer: Vec<u8>,
    wire: Wire,
    plan: Arc<Plan>,
    verifier: Verifier,
    messages: Option<Messages>,
    /// It ends the connection itself, and needs not get everything.
    is_leaving: bool,
    ended: bool,
}

impl Follower {
    /// A reader on a connection over which the request has not gone out yet.
    pub(crate) fn new(stream: TcpStream, egress: &Egress, plan: &Arc<Plan>) -> Follower {
        // One read takes a whole append and its framing; much larger ones would only spoil the
        // cache. Filled with ones because zeroed memory would fault in during the measurement.
        let buffer_bytes = (plan.append_bytes() + 512).next_multiple_of(4096).min(256 * 1024);
        let wire = match egress.door {
            ReadDoor::Http => Wire::Http(Response::new()),
            _ => Wire::WebSocket(Box::new(Session::new(egress))),
        };
        let messages = Messages { before: 0, is_single: egress.door == ReadDoor::Receive };
        Follower {
            stream: Rc::new(stream),
            buffer: vec![1; buffer_bytes],
            wire,
            plan: plan.clone(),
            verifier: Verifier::new(plan.clone()),
            messages: egress.in_messages.then_some(messages),
            is_leaving: false,
            ended: false,
        }
    }

    /// Connects and reads until the preamble is there.
    pub(crate) async fn join(egress: &Egress, plan: &Arc<Plan>, tally: &Tally) -> Result<Follower> {
        let mut follower = Follower::new(egress.target.connect().await?, egress, plan);
        follower.request(egress).await?;
        while follower.verifier.appends_received().is_none() && !follower.ended {
            follower.step(tally).await?;
        }
        if egress.door == ReadDoor::Receive {
            tokio_uring::spawn(heartbeats(Rc::downgrade(&follower.stream)));
        }
        Ok(follower)
    }

    pub(crate) async fn request(&self, egress: &Egress) -> Result<()> {
        let (result, _) = self.stream.write_all(egress.request()).await;
        result.context("the request could not be sent")
    }

    /// Shortens every read to one byte.
    pub(crate) fn read_single_bytes(&mut self) {
        self.buffer = Vec::with_capacity(1);
    }

    /// Lengthens the reads again after `read_single_bytes`.
    pub(crate) fn read_normally(&mut self) {
        self.buffer = vec![1; 64 * 1024];
    }

    /// Closes a WebSocket as its protocol has it: a close frame, and all that comes before the
    /// server's. In HTTP there is no such thing.
    pub(crate) async fn leave(&mut self, tally: &Tally) -> Result<(), Fault> {
        if let Wire::WebSocket(_) = self.wire {
            self.is_leaving = true;
            self.send(websocket::close_frame(1000, &mut Keys::new())).await?;
            self.follow(tally).await?;
        }
        Ok(())
    }

    /// One read and what is in it.
    pub(crate) async fn step(&mut self, tally: &Tally) -> Result<(), Fault> {
        let (result, buffer) = self.stream.read(std::mem::take(&mut self.buffer)).await;
        self.buffer = buffer;
        match result {
            Ok(0) if self.ends_with_connection() => self.end(),
            Ok(0) => Err(self.lost("the connection was closed")),
            Ok(length) => {
                self.take(length, tally)?;
                self.answer().await
            }
            Err(error) => Err(self.lost(&error.to_string())),
        }
    }

    /// The end of a WebSocket is a close frame.
    fn ends_with_connection(&self) -> bool {
        match &self.wire {
            Wire::Http(response) => response.ends_with_connection(),
            Wire::WebSocket(_) => false,
        }
    }

    /// Decodes and verifies the first bytes of the buffer.
    fn take(&mut self, length: usize, tally: &Tally) -> Result<(), Fault> {
        match self.wire {
            Wire::Http(_) => self.take_http(length, tally),
            Wire::WebSocket(_) => self.take_frames(length, tally),
        }
    }

    fn take_http(&mut self, length: usize, tally: &Tally) -> Result<(), Fault> {
        let Wire::Http(response) = &mut self.wire else { return Ok(()) };
        let mut input = &self.buffer[..length];
        loop {
            match response.next(&mut input) {
                Ok(Event::Head(head)) if head.status == 200 => {}
                Ok(Event::Head(head)) => {
                    return Err(Fault::Lost(format!("the server answered {}", head.status)));
                }
                Ok(Event::Body(body)) => verify(&mut self.verifier, body, tally)?,
                Ok(Event::End) => return self.end(),
                Ok(Event::NeedMore) => return Ok(()),
                Err(error) => return Err(Fault::Corrupt(error.to_string())),
            }
        }
    }

    fn take_frames(&mut self, length: usize, tally: &Tally) -> Result<(), Fault> {
        let Wire::WebSocket(session) = &mut self.wire else { return Ok(()) };
        let mut input = &self.buffer[..length];
        loop {
            match session.next(&mut input)? {
                Got::Body { bytes, is_last } => {
                    verify(&mut self.verifier, bytes, tally)?;
                    if let Some(messages) = self.messages.as_mut().filter(|_| is_last) {
                        messages.end(&self.verifier)?;
                    }
                }
                Got::Heartbeat => tally.heartbeats.set(tally.heartbeats.get() + 1),
                Got::Closed { code, reason } => return self.closed(code, &reason),
                Got::NeedMore => return Ok(()),
            }
        }
    }

    fn closed(&mut self, code: Option<u16>, reason: &str) -> Result<(), Fault> {
        match code {
            _ if self.is_leaving => {
                self.ended = true;
                Ok(())
            }
            Some(1000 | 1001) => self.end(),
            Some(code) => Err(self.lost(&format!("the server closed with {code} \"{reason}\""))),
            None => Err(self.lost("the server closed without a code")),
        }
    }

    /// A proper end is only good after everything that was published.
    fn end(&mut self) -> Result<(), Fault> {
        self.ended = true;
        if self.verifier.offset() == self.plan.object_bytes(self.plan.appends()) {
            Ok(())
        } else {
            Err(self.lost("the response ended"))
        }
    }

    /// Sends pongs and the like, where any are due.
    async fn answer(&mut self) -> Result<(), Fault> {
        let Wire::WebSocket(session) = &mut self.wire else { return Ok(()) };
        let answers = session.take_answers();
        if answers.is_empty() {
            return Ok(());
        }
        match self.send(answers).await {
            // A server that has said its last word may be gone before it hears ours.
            Err(_) if self.ended => Ok(()),
            sent => sent,
        }
    }

    /// After a frame of ours the kernel would delay acknowledgements, as for a dialogue: over loopback
    /// they are then made while the server sends, and charged to it (1.4 µs per delivery with 1000
    /// readers of 4 KiB, November 2026). A reader that never sends, as over HTTP, makes them itself.
    async fn send(&self, frames: Vec<u8>) -> Result<(), Fault> {
        let sent = send_small(&self.stream, frames).await;
        sent.map_err(|error| self.lost(&error.to_string()))?;
        let told = sys::acknowledge_at_once(self.stream.as_raw_fd());
        told.map_err(|error| self.lost(&error.to_string()))
    }

    fn lost(&self, why: &str) -> Fault {
        let total = self.plan.object_bytes(self.plan.appends());
        Fault::Lost(format!("{why} after {} of {total} bytes", self.verifier.offset()))
    }
}

impl Reads for Follower {
    fn stream(&self) -> Rc<TcpStream> {
        self.stream.clone()
    }

    async fn follow(&mut self, tally: &Tally) -> Result<(), Fault> {
        while !self.ended {
            self.step(tally).await?;
        }
        Ok(())
    }
}

impl Messages {
    /// To be called where a message ends.
    fn end(&mut self, verifier: &Verifier) -> Result<(), Fault> {
        let now = verifier.appends_received().map_or(0, |appends| appends + 1);
        let count = now - std::mem::replace(&mut self.before, now);
        if !verifier.is_between_appends() {
            return Err(Fault::Corrupt(format!("a message ends within append {now}")));
        }
        if self.is_single && count != 1 {
            return Err(Fault::Corrupt(format!("a message of {count} appends before {now}")));
        }
        // The empty one behind what was there.
        self.is_single |= count == 0;
        Ok(())
    }
}

fn verify(verifier: &mut Verifier, bytes: &[u8], tally: &Tally) -> Result<(), Fault> {
    verifier
        .push(bytes, |stamp_ns| tally.delivered(stamp_ns))
        .map_err(|corrupt| Fault::Corrupt(corrupt.to_string()))?;
    tally.bytes.set(tally.bytes.get() + bytes.len() as u64);
    Ok(())
}

/// Sends a few bytes from the side that otherwise only reads: whole, or the connection is of no use
/// any more. Two at a time cannot mix, for each is one call with a send buffer that is all but empty.
async fn send_small(stream: &TcpStream, bytes: Vec<u8>) -> std::io::Result<()> {
    let length = bytes.len();
    let (result, _) = stream.write(bytes).submit().await;
    if result? < length {
        let _ = stream.shutdown(std::net::Shutdown::Both);
        return Err(std::io::ErrorKind::WriteZero.into());
    }
    Ok(())
}

/// What keeps a receiver from being taken for dead, for as long as it exists.
async fn heartbeats(stream: Weak<TcpStream>) {
    let mut keys = Keys::new();
    loop {
        sleep(Duration::from_secs(HEARTBEAT_INTERVAL_S)).await;
        let Some(stream) = stream.upgrade() else { return };
        let heartbeat = websocket::frame(Opcode::Text, HEARTBEAT, &mut keys);
        // Whoever reads notices it too.
        if send_small(&stream, heartbeat).await.is_err() {
            return;
        }
    }
}

/// Waits until readers are given the new object and not, for instance, its predecessor.
pub(crate) async fn wait_until_visible(egress: &Egress, plan: &Arc<Plan>) -> Result<()> {
    let deadline = sys::monotonic_ns() + APPEAR_MS_MAX * 1_000_000;
    loop {
        let tally = Tally::new();
        let scout = Follower::join(egress, plan, &tally);
        let seen = timeout(Duration::from_millis(APPEAR_MS_MAX), scout).await;
        match seen {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) if error.downcast_ref::<Fault>().is_none() => return Err(error),
            Ok(Err(_)) if sys::monotonic_ns() < deadline => sleep(Duration::from_millis(20)).await,
            Ok(Err(error)) => {
                return Err(error.context("the published object cannot be read back"));
            }
            Err(_) => bail!("a reader got no first bytes within {APPEAR_MS_MAX} ms"),
        }
    }
}

/// Joins followers of an object, as `join_readers` has it. Returns when every one of them has the preamble.
pub(crate) async fn join_all(
    egress: &Egress,
    plan: &Arc<Plan>,
    readers: usize,
    spread: Duration,
    tally: &Rc<Tally>,
) -> Result<Vec<Follower>> {
    let join = |_| {
        let (egress, plan, tally) = (egress.clone(), plan.clone(), tally.clone());
        async move { Follower::join(&egress, &plan, &tally).await }
    };
    join_readers(readers, spread, join).await
}

/// Joins readers, a limited number at a time, spread over `spread` if that is longer. `join` makes the one
/// with this number.
pub(crate) async fn join_readers<R: 'static, J: Future<Output = Result<R>> + 'static>(
    readers: usize,
    spread: Duration,
    join: impl Fn(usize) -> J,
) -> Result<Vec<R>> {
    let permits = Arc::new(Semaphore::new(JOINS_AT_A_TIME_MAX));
    let mut tasks: Vec<JoinHandle<Result<R>>> = Vec::with_capacity(readers);
    for index in 0..readers {
        let (joining, permits) = (join(index), permits.clone());
        let delay = spread.mul_f64(index as f64 / readers as f64);
        tasks.push(tokio_uring::spawn(async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            let _permit = permits.acquire().await?;
            joining.await
        }));
    }
    let collect = async {
        let mut joined_all = Vec::with_capacity(readers);
        for (index, task) in tasks.into_iter().enumerate() {
            let joined = task.await.map_err(|error| anyhow!("reader {index}: {error}"))?;
            let number = index + 1;
            joined_all.push(
                joined.with_context(|| format!("reader {number} of {readers} could not join"))?,
            );
        }
        Ok(joined_all)
    };
    let limit = Duration::from_secs(JOIN_SECONDS_MAX) + spread;
    timeout(limit, collect).await.unwrap_or_else(|_| {
        Err(anyhow!("the {readers} readers did not all get their first bytes within {limit:?}"))
    })
}

/// Readers under way.
pub(crate) struct Audience {
    tasks: Vec<JoinHandle<Result<(), Fault>>>,
    streams: Vec<Rc<TcpStream>>,
}

impl Audience {
    pub(crate) fn start<R: Reads + 'static>(readers: Vec<R>, tally: &Rc<Tally>) -> Audience {
        let streams = readers.iter().map(Reads::stream).collect();
        let start = |mut reader: R| {
            let tally = tally.clone();
            tokio_uring::spawn(async move { reader.follow(&tally).await })
        };
        Audience { tasks: readers.into_iter().map(start).collect(), streams }
    }

    /// Waits for every reader's end; after `grace` the connections of those left are shut down,
    /// which makes them end as lost.
    pub(crate) async fn finish(self, grace: Duration) -> Outcome {
        let deadline = sys::monotonic_ns() + grace.as_nanos() as u64;
        while self.tasks.iter().any(|task| !task.is_finished()) {
            if sys::monotonic_ns() > deadline {
                for stream in &self.streams {
                    // A connection that is closed already has nothing to be shut down.
                    let _ = stream.shutdown(std::net::Shutdown::Both);
                }
                break;
            }
            sleep(Duration::from_millis(5)).await;
        }
        let mut outcome = Outcome::default();
        for task in self.tasks {
            let ending = task.await.unwrap_or_else(|error| Err(Fault::Lost(error.to_string())));
            outcome.add(ending);
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A verifier that has seen the preamble and so many appends and bytes.
    fn verifier(plan: &Arc<Plan>, appends: u32, bytes: usize) -> Verifier {
        let mut object = vec![0; crate::pattern::PREAMBLE_BYTES];
        plan.fill(0, &mut object);
        plan.stamp(0, 1, &mut object);
        for sequence in 1..=plan.appends() {
            let mut append = vec![0; plan.append_bytes()];
            plan.fill(sequence, &mut append);
            plan.stamp(sequence, 1, &mut append);
            object.extend(append);
        }
        let mut verifier = Verifier::new(plan.clone());
        let end = plan.object_bytes(appends) as usize + bytes;
        verifier.push(&object[..end], |_| ()).unwrap();
        verifier
    }

    #[test]
    fn a_message_is_an_append() {
        let plan = Plan::new(20, 5);
        let mut messages = Messages { before: 0, is_single: true };
        assert_eq!(messages.end(&verifier(&plan, 0, 0)), Ok(()));
        assert_eq!(messages.end(&verifier(&plan, 1, 0)), Ok(()));
        assert!(messages.end(&verifier(&plan, 1, 0)).is_err(), "an empty one");
        assert!(messages.end(&verifier(&plan, 3, 0)).is_err(), "two in one");
        assert!(messages.end(&verifier(&plan, 3, 7)).is_err(), "a part of one");
    }

    #[test]
    fn a_follower_gets_what_was_there_as_one() {
        let plan = Plan::new(20, 5);
        let mut messages = Messages { before: 0, is_single: false };
        assert_eq!(messages.end(&verifier(&plan, 2, 0)), Ok(()));
        assert_eq!(messages.end(&verifier(&plan, 2, 0)), Ok(()));
        assert_eq!(messages.end(&verifier(&plan, 3, 0)), Ok(()));
        assert!(messages.end(&verifier(&plan, 5, 0)).is_err());
    }
}
