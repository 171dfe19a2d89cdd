//! Calls that may block, away from the core: a few threads shared by all cores, and the judgement when
//! they are needed.
//!
//! A write to the page cache takes microseconds, so a core does it itself; handing it over would cost
//! a wake-up each way. But a disk that cannot keep up makes the kernel stop writers for a while
//! (dirty-page throttling, a full journal), and a core that is stopped serves nobody. So each core
//! watches its own calls: after one that took too long, the next ones go to the threads until the disk
//! has been quick for a while. A stall is felt once, not for its whole length; and where the kernel
//! tells of I/O pressure (`/proc/pressure/io`), cores are warned before they feel it.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;

use super::clock;
use super::counters::{Counter, Counters};
use super::worker::RemoteWaker;

const THREADS: usize = 8;
/// A call that takes longer is a stall.
const STALL: Duration = Duration::from_millis(20);
/// After a stall, calls stay away from the core for so long.
const WARY_S: u64 = 30;
/// Share of the last ten seconds, in percent, in which some task of the machine waited for a disk.
const PRESSURE_PERCENT: f64 = 10.0;

type Job = Box<dyn FnOnce() + Send>;

/// The threads. A job waits in the queue until one is free; each connection has at most one.
pub struct Offload {
    /// None after the end.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    is_under_pressure: AtomicBool,
}

impl Offload {
    pub fn start() -> io::Result<Arc<Offload>> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..THREADS {
            let queue = queue.clone();
            let name = format!("offload-{index}");
            std::thread::Builder::new().name(name).spawn(move || {
                loop {
                    let job = queue.lock().recv();
                    match job {
                        Ok(job) => job(),
                        Err(_) => return,
                    }
                }
            })?;
        }
        let jobs = Mutex::new(Some(jobs));
        Ok(Arc::new(Offload { jobs, is_under_pressure: AtomicBool::new(false) }))
    }

    /// End the threads once their queue is empty. For after the end: nobody may run a job any more.
    pub fn end(&self) {
        drop(self.jobs.lock().take());
    }

    /// Look at the kernel's measure of I/O pressure, if it has one. Called about once a second.
    pub fn look_at_pressure(&self) {
        let text = std::fs::read_to_string("/proc/pressure/io").unwrap_or_default();
        let is_high = some_avg10(&text).is_some_and(|percent| percent > PRESSURE_PERCENT);
        self.is_under_pressure.store(is_high, Ordering::Relaxed);
    }

    /// Run `job` on a thread. It runs to its end even if this future is dropped.
    pub async fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let outcome = Arc::new(Mutex::new(Outcome { value: None, waiter: None }));
        let theirs = outcome.clone();
        let job = Box::new(move || {
            let value = job();
            let mut outcome = theirs.lock();
            outcome.value = Some(value);
            let waiter = outcome.waiter.take();
            drop(outcome);
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        });
        let sent = self.jobs.lock().as_ref().is_some_and(|jobs| jobs.send(job).is_ok());
        assert!(sent, "the threads live as long as the cores");
        std::future::poll_fn(|context| {
            let mut outcome = outcome.lock();
            if let Some(value) = outcome.value.take() {
                return Poll::Ready(value);
            }
            outcome.waiter = Some(RemoteWaker::of(context));
            Poll::Pending
        })
        .await
    }
}

/// `some avg10=1.23 avg60=…` of a pressure file.
fn some_avg10(text: &str) -> Option<f64> {
    let rest = text.strip_prefix("some avg10=")?;
    rest.split(' ').next()?.parse().ok()
}

/// Buffers for writes on other threads that a core uses at once: more than there are threads that write.
pub const ASIDE_BUFFERS_MAX: usize = 32;

struct Outcome<T> {
    value: Option<T>,
    waiter: Option<RemoteWaker>,
}

/// A core's view of the disk.
pub struct Disk {
    offload: Arc<Offload>,
    counters: Arc<Counters>,
    wary_until_s: Cell<u64>,
}

impl Disk {
    pub fn new(offload: Arc<Offload>, counters: Arc<Counters>) -> Disk {
        Disk { offload, counters, wary_until_s: Cell::new(0) }
    }

    /// The disk has stalled lately: use [`run`](Self::run).
    pub fn is_wary(&self) -> bool {
        self.offload.is_under_pressure.load(Ordering::Relaxed)
            || clock::monotonic_s() < self.wary_until_s.get()
    }

    /// Run a call on the core itself, and learn from how long it took.
    pub fn run_here<T>(&self, call: impl FnOnce() -> T) -> T {
        let started = clock::now();
        let value = call();
        self.learn(started.elapsed());
        value
    }

    /// Run a call here or on a thread, as the disk has been.
    pub async fn run<T: Send + 'static>(&self, call: impl FnOnce() -> T + Send + 'static) -> T {
        if !self.is_wary() {
            return self.run_here(call);
        }
        let (value, took) = self
            .offload
            .run(move || {
                let started = clock::now();
                (call(), started.elapsed())
            })
            .await;
        self.learn(took);
        value
    }

    fn learn(&self, took: Duration) {
        if took > STALL {
            self.wary_until_s.set(clock::monotonic_s() + WARY_S);
            self.counters.add(Counter::DiskStalls, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pressure_file_is_read() {
        let text = "some avg10=16.11 avg60=62.68 avg300=73.07 total=1\nfull avg10=4.45 avg60=6.89 avg300=3.42 total=1\n";
        assert_eq!(some_avg10(text), Some(16.11));
        assert_eq!(some_avg10(""), None);
    }
}
