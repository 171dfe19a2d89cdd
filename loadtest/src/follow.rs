//! The reading side of a live object: followers that read, decode and verify every byte, and the
//! tally they share. `live`, `limit`, `slow` and `idle` use this one loop, so that what waking a
//! reader costs the sender is the same in all of them. When to join and when to stop is decided
//! by the scenarios.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use hdrhistogram::Histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_uring::net::TcpStream;

use crate::http::{Event, Response};
use crate::outcome::{Fault, Outcome};
use crate::pattern::{Plan, Verifier};
use crate::report;
use crate::sys;
use crate::target::Target;

/// Enough joins at a time to be quick, few enough for any accept queue.
const JOINS_AT_A_TIME_MAX: usize = 128;
const JOIN_SECONDS_MAX: u64 = 30;
/// After the last append, so long a pause means that the missing deliveries will not come.
const QUIET_MS_MAX: u64 = 1000;
const SETTLE_NS_MAX: u64 = 10_000_000_000;
/// How long a new object may take to become visible to readers.
const APPEAR_MS_MAX: u64 = 3000;

/// What all followers of a run received.
pub(crate) struct Tally {
    pub(crate) latency: RefCell<Histogram<u64>>,
    pub(crate) deliveries: Cell<u64>,
    pub(crate) bytes: Cell<u64>,
}

impl Tally {
    pub(crate) fn new() -> Rc<Tally> {
        Rc::new(Tally {
            latency: RefCell::new(report::latency_histogram()),
            deliveries: Cell::new(0),
            bytes: Cell::new(0),
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

    fn delivered(&self, stamp_ns: u64) {
        let latency = sys::monotonic_ns().saturating_sub(stamp_ns);
        self.latency.borrow_mut().saturating_record(latency);
        self.deliveries.set(self.deliveries.get() + 1);
    }
}

/// One reader: a connection and how far it has come.
pub(crate) struct Follower {
    stream: Rc<TcpStream>,
    buffer: Vec<u8>,
    response: Response,
    plan: Arc<Plan>,
    verifier: Verifier,
    ended: bool,
}

impl Follower {
    /// A reader on a connection over which the request has not gone out yet.
    pub(crate) fn new(stream: TcpStream, plan: &Arc<Plan>) -> Follower {
        // One read takes a whole append and its framing; much larger ones would only spoil the
        // cache. Filled with ones because zeroed memory would fault in during the measurement.
        let buffer_bytes = (plan.append_bytes() + 512).next_multiple_of(4096).min(256 * 1024);
        Follower {
            stream: Rc::new(stream),
            buffer: vec![1; buffer_bytes],
            response: Response::new(),
            plan: plan.clone(),
            verifier: Verifier::new(plan.clone()),
            ended: false,
        }
    }

    /// Connects and reads until the preamble is there.
    async fn join(target: &Target, plan: &Arc<Plan>, tally: &Tally) -> Result<Follower> {
        let mut follower = Follower::new(target.connect().await?, plan);
        follower.request(target).await?;
        while follower.verifier.appends_received().is_none() && !follower.ended {
            follower.step(tally).await?;
        }
        Ok(follower)
    }

    pub(crate) async fn request(&self, target: &Target) -> Result<()> {
        let (result, _) = self.stream.write_all(target.get_request()).await;
        result.context("the request could not be sent")
    }

    /// The connection, to cut short a reader that waits for ever.
    pub(crate) fn stream(&self) -> Rc<TcpStream> {
        self.stream.clone()
    }

    /// Shortens every read to one byte.
    pub(crate) fn read_single_bytes(&mut self) {
        self.buffer = Vec::with_capacity(1);
    }

    /// Lengthens the reads again after `read_single_bytes`.
    pub(crate) fn read_normally(&mut self) {
        self.buffer = vec![1; 64 * 1024];
    }

    /// Reads to the end of the response.
    pub(crate) async fn follow(&mut self, tally: &Tally) -> Result<(), Fault> {
        while !self.ended {
            self.step(tally).await?;
        }
        Ok(())
    }

    /// One read and what is in it.
    pub(crate) async fn step(&mut self, tally: &Tally) -> Result<(), Fault> {
        let (result, buffer) = self.stream.read(std::mem::take(&mut self.buffer)).await;
        self.buffer = buffer;
        match result {
            Ok(0) if self.response.ends_with_connection() => self.end(),
            Ok(0) => Err(self.lost("the connection was closed")),
            Ok(length) => self.take(length, tally),
            Err(error) => Err(self.lost(&error.to_string())),
        }
    }

    /// Decodes and verifies the first bytes of the buffer.
    fn take(&mut self, length: usize, tally: &Tally) -> Result<(), Fault> {
        let mut input = &self.buffer[..length];
        loop {
            match self.response.next(&mut input) {
                Ok(Event::Head(head)) if head.status == 200 => {}
                Ok(Event::Head(head)) => {
                    return Err(Fault::Lost(format!("the server answered {}", head.status)));
                }
                Ok(Event::Body(body)) => {
                    self.verifier
                        .push(body, |stamp_ns| tally.delivered(stamp_ns))
                        .map_err(|corrupt| Fault::Corrupt(corrupt.to_string()))?;
                    tally.bytes.set(tally.bytes.get() + body.len() as u64);
                }
                Ok(Event::End) => return self.end(),
                Ok(Event::NeedMore) => return Ok(()),
                Err(error) => return Err(Fault::Corrupt(error.to_string())),
            }
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

    fn lost(&self, why: &str) -> Fault {
        let total = self.plan.object_bytes(self.plan.appends());
        Fault::Lost(format!("{why} after {} of {total} bytes", self.verifier.offset()))
    }
}

/// Waits until readers are given the new object and not, for instance, its predecessor.
pub(crate) async fn wait_until_visible(target: &Target, plan: &Arc<Plan>) -> Result<()> {
    let deadline = sys::monotonic_ns() + APPEAR_MS_MAX * 1_000_000;
    loop {
        let tally = Tally::new();
        let scout = Follower::join(target, plan, &tally);
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

/// Joins readers, a limited number at a time, spread over `spread` if that is longer. Returns
/// when every one of them has the preamble.
pub(crate) async fn join_all(
    target: &Target,
    plan: &Arc<Plan>,
    readers: usize,
    spread: Duration,
    tally: &Rc<Tally>,
) -> Result<Vec<Follower>> {
    let permits = Arc::new(Semaphore::new(JOINS_AT_A_TIME_MAX));
    let mut tasks: Vec<JoinHandle<Result<Follower>>> = Vec::with_capacity(readers);
    for index in 0..readers {
        let (target, plan, tally) = (target.clone(), plan.clone(), tally.clone());
        let permits = permits.clone();
        let delay = spread.mul_f64(index as f64 / readers as f64);
        tasks.push(tokio_uring::spawn(async move {
            if !delay.is_zero() {
                sleep(delay).await;
            }
            let _permit = permits.acquire().await?;
            Follower::join(&target, &plan, &tally).await
        }));
    }
    let collect = async {
        let mut followers = Vec::with_capacity(readers);
        for (index, task) in tasks.into_iter().enumerate() {
            let joined = task.await.map_err(|error| anyhow!("reader {index}: {error}"))?;
            let number = index + 1;
            followers.push(
                joined.with_context(|| format!("reader {number} of {readers} could not join"))?,
            );
        }
        Ok(followers)
    };
    let limit = Duration::from_secs(JOIN_SECONDS_MAX) + spread;
    timeout(limit, collect).await.unwrap_or_else(|_| {
        Err(anyhow!("the {readers} readers did not all get their first bytes within {limit:?}"))
    })
}

/// Followers under way.
pub(crate) struct Audience {
    tasks: Vec<JoinHandle<Result<(), Fault>>>,
    streams: Vec<Rc<TcpStream>>,
}

impl Audience {
    pub(crate) fn start(followers: Vec<Follower>, tally: &Rc<Tally>) -> Audience {
        let streams = followers.iter().map(Follower::stream).collect();
        let start = |mut follower: Follower| {
            let tally = tally.clone();
            tokio_uring::spawn(async move { follower.follow(&tally).await })
        };
        Audience { tasks: followers.into_iter().map(start).collect(), streams }
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
