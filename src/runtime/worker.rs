//! One thread of a core: its ring, and the tasks on it.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use monoio::net::UnixStream;
use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use parking_lot::Mutex;

use super::{affinity, clock};

/// Entries of a core's submission queue; the completion queue has twice as many and overflows into
/// kernel memory, so a burst larger than this costs a little and loses nothing.
const RING_ENTRIES: u32 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    IoUring,
    /// Where io_uring is forbidden or missing.
    Epoll,
}

/// The best driver that this machine allows.
pub fn detect_driver() -> Driver {
    let forced = std::env::var_os("MONOIO_FORCE_LEGACY_DRIVER").is_some_and(|value| value == "1");
    if !forced && io_uring::IoUring::new(8).is_ok() && monoio::utils::detect_uring() {
        Driver::IoUring
    } else {
        Driver::Epoll
    }
}

/// Run `make`'s future to its end on this thread, bound to `cpu`.
pub fn run<F: Future>(
    driver: Driver,
    cpu: Option<usize>,
    make: impl FnOnce() -> F,
) -> io::Result<F::Output> {
    if let Some(cpu) = cpu
        && let Err(error) = affinity::bind_to(cpu)
    {
        tracing::warn!(cpu, %error, "cannot bind a worker to its processor");
    }
    match driver {
        Driver::IoUring => {
            let mut runtime = ring_runtime()?;
            let output = runtime.block_on(async {
                if let Err(error) = make_turn() {
                    tracing::warn!(%error, "tasks of a core take turns in the plain way");
                }
                make().await
            });
            // Dropping it would free buffers that the kernel may still write to.
            std::mem::forget(runtime);
            Ok(output)
        }
        Driver::Epoll => {
            let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
            let output = runtime.block_on(async { make().await });
            std::mem::forget(runtime);
            Ok(output)
        }
    }
}

fn ring_runtime() -> io::Result<monoio::Runtime<monoio::time::TimeDriver<IoUringDriver>>> {
    // 40 % less CPU per request than the default ring (docs/DECISIONS.md).
    let mut tuned = io_uring::IoUring::builder();
    tuned.setup_single_issuer().setup_coop_taskrun();
    let builder = RuntimeBuilder::<IoUringDriver>::new().enable_timer().with_entries(RING_ENTRIES);
    builder.uring_builder(tuned).build().or_else(|_| {
        // Linux before 6.0 refuses the flags.
        RuntimeBuilder::<IoUringDriver>::new().enable_timer().with_entries(RING_ENTRIES).build()
    })
}

/// Start a task on this core.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(task));
}

/// Let other tasks and the ring have their turn, and now and then the timers.
///
/// Mostly a task goes to the end of the queue (one that wakes itself is worse in monoio 0.2.4). That
/// keeps the queue from running empty, and monoio looks at timers only when it does. So for 4 ms of
/// each 16 all tasks that give way wait for a descriptor that is always ready instead.
pub async fn yield_now() {
    let is_for_timers = clock::tick_ms() % TIMER_PERIOD_MS < TIMER_PART_MS;
    let ready = is_for_timers.then(|| TURN.with(|turn| turn.borrow().clone())).flatten();
    match ready {
        Some(ready) => drop(ready.readable(false).await),
        None => monoio::spawn(async {}).await,
    }
}

const TIMER_PERIOD_MS: u64 = 16;
const TIMER_PART_MS: u64 = 4;

thread_local! {
    /// Always ready; where the driver is a ring.
    static TURN: RefCell<Option<Rc<UnixStream>>> = const { RefCell::new(None) };
}

fn make_turn() -> io::Result<()> {
    let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
    let event = rustix::event::eventfd(1, flags)?;
    // monoio waits for readiness only on its own types; nobody reads from this one.
    let stream = UnixStream::from_std(std::os::unix::net::UnixStream::from(event))?;
    TURN.with(|turn| *turn.borrow_mut() = Some(Rc::new(stream)));
    Ok(())
}

/// A task's waker that another thread may use.
///
/// monoio looks at wake-ups from other threads only when a core has nothing left to do, so a busy core
/// would not hear them. Here they go to an inbox that the core looks into with each turn.
pub struct RemoteWaker {
    waker: Waker,
    inbox: Option<Arc<Inbox>>,
}

impl RemoteWaker {
    /// Of the task that is polled now.
    pub fn of(context: &Context<'_>) -> RemoteWaker {
        let inbox = INBOX.with(|inbox| inbox.borrow().clone());
        RemoteWaker { waker: context.waker().clone(), inbox }
    }

    pub fn wake(self) {
        match self.inbox {
            Some(inbox) => inbox.put(self.waker),
            None => self.waker.wake(),
        }
    }
}

/// Tasks of a core that other threads want to wake.
#[derive(Default)]
pub(super) struct Inbox {
    state: Mutex<InboxState>,
    has_some: AtomicBool,
}

#[derive(Default)]
struct InboxState {
    wakers: Vec<Waker>,
    /// The task that empties the inbox, if it sleeps.
    sleeper: Option<Waker>,
}

thread_local! {
    static INBOX: RefCell<Option<Arc<Inbox>>> = const { RefCell::new(None) };
}

impl Inbox {
    /// The inbox of the calling core, which has to be emptied from now on.
    pub(super) fn of_this_core() -> Arc<Inbox> {
        INBOX.with(|inbox| inbox.borrow_mut().get_or_insert_default().clone())
    }

    fn put(&self, waker: Waker) {
        let sleeper = {
            let mut state = self.state.lock();
            state.wakers.push(waker);
            self.has_some.store(true, Ordering::SeqCst);
            state.sleeper.take()
        };
        if let Some(sleeper) = sleeper {
            sleeper.wake();
        }
    }

    /// Wake whoever is to be woken; true if there was somebody.
    pub(super) fn empty(&self) -> bool {
        if !self.has_some.load(Ordering::SeqCst) {
            return false;
        }
        self.has_some.store(false, Ordering::SeqCst);
        let wakers = std::mem::take(&mut self.state.lock().wakers);
        wakers.into_iter().for_each(Waker::wake);
        true
    }

    /// Ready when there is somebody to wake.
    pub(super) fn poll_some(&self, context: &Context<'_>) -> Poll<()> {
        let mut state = self.state.lock();
        if !state.wakers.is_empty() {
            return Poll::Ready(());
        }
        state.sleeper = Some(context.waker().clone());
        Poll::Pending
    }
}
