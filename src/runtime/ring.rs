//! A core's second ring, beside monoio's: what monoio does not offer. Multishot readiness of sockets
//! (one submission for the life of a connection), reads into registered buffers, syncs.
//!
//! Whatever the kernel may still write to, and every file it works on, is owned by the operation's
//! entry here until its last completion was seen, whatever becomes of the future that waits for it.
//! Completions are reaped by one task of the core, in batches: the kernel defers its work on them
//! (DEFER_TASKRUN) until that task asks, instead of doing it between the core's other calls. That flag
//! starves monoio's own ring, which never asks; here it saves 5 % of the CPU per request. While there
//! are no completions, the task waits for the ring's eventfd.
//!
//! | an operation | left by |
//! |---|---|
//! | File, running | its completion → done, or forgotten if its future was dropped |
//! | Watch, armed | a completion without "more": armed again, or forgotten if its socket was dropped |

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use monoio::net::UnixStream;
use slab::Slab;

use super::buffers::{BufferPool, FixedBuffer};
use super::worker::{self, Inbox};

/// The kernel runs 20 pieces of deferred work in a call (since 6.13). What is left waits for the next
/// one: with a call for each turn of the core, a crowd of new connections kept the events of all others
/// back for as long as it lasted.
const REAP_ROUNDS_MAX: usize = 256;
/// Submission entries; each submission is taken by the kernel at once. Completions have eight times
/// as many entries and overflow into kernel memory.
const ENTRIES: u32 = 512;
/// File operations under way at once.
const FILE_OPERATIONS_MAX: usize = 256;

const READ_EVENTS: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
const WRITE_EVENTS: u32 = libc::POLLOUT as u32;
/// The peer sends nothing more.
const END_EVENTS: u32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as u32;
/// Nothing can be sent any more either.
const BROKEN_EVENTS: u32 = (libc::POLLHUP | libc::POLLERR) as u32;

pub struct Ring {
    state: RefCell<State>,
    waiting_for_room: RefCell<Vec<Waker>>,
    /// The buffers are registered; otherwise (RLIMIT_MEMLOCK) reads go to the same memory unregistered.
    pub(super) has_fixed_buffers: bool,
}

struct State {
    io: IoUring,
    operations: Slab<Operation>,
    file_operations: usize,
}

enum Operation {
    File(FileOperation),
    Watch(Rc<WatchState>),
}

struct FileOperation {
    /// What the kernel uses until the completion: kept here, not in the future.
    buffer: Option<FixedBuffer>,
    _file: Arc<File>,
    progress: Progress,
}

enum Progress {
    Running(Option<Waker>),
    Done(i32),
    /// The future was dropped: forget the operation when it completes.
    Abandoned,
}

/// What is known of a socket's readiness.
pub(super) struct WatchState {
    fd: i32,
    readable: Cell<bool>,
    writable: Cell<bool>,
    /// The peer's end or an error was seen: from now on a receive never blocks.
    ended: Cell<bool>,
    /// Sending fails from now on, so it never blocks either.
    broken: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    /// The read watch and, while somebody waits to send, the write watch.
    read_key: Cell<Option<usize>>,
    write_key: Cell<Option<usize>>,
}

impl Ring {
    /// The calling core's ring, with the pool's buffers registered.
    pub fn new(pool: &BufferPool) -> io::Result<Rc<Ring>> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let event = rustix::event::eventfd(0, flags)?;
        let mut tuned = IoUring::builder();
        tuned.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
        tuned.setup_cqsize(ENTRIES * 8);
        // Linux before 6.1 refuses the flags.
        let io = tuned.build(ENTRIES).or_else(|_| IoUring::new(ENTRIES))?;
        // SAFETY: the regions are one anonymous mapping that the pool keeps until it is dropped, and
        // cores never drop their pool while their ring lives.
        let registered = unsafe { io.submitter().register_buffers(&pool.regions()) };
        if let Err(error) = &registered {
            tracing::warn!(%error, "cannot register read buffers (RLIMIT_MEMLOCK?): reads of completed \
                files go through unregistered ones; set LimitMEMLOCK=infinity");
        }
        io.submitter().register_eventfd(event.as_raw_fd())?;
        let ring = Rc::new(Ring {
            state: RefCell::new(State { io, operations: Slab::new(), file_operations: 0 }),
            waiting_for_room: RefCell::default(),
            has_fixed_buffers: registered.is_ok(),
        });
        worker::spawn(ring.clone().reap_forever(event));
        Ok(ring)
    }

    /// Reap completions, wake their tasks, and look again after those have run; sleep when there are
    /// none.
    async fn reap_forever(self: Rc<Self>, event: OwnedFd) {
        let stream = std::os::unix::net::UnixStream::from(event);
        // monoio waits for readiness only on its own types; a stream that nobody reads from as one
        // stands for any descriptor.
        let Ok(notice) = UnixStream::from_std(stream) else {
            tracing::error!("a core cannot wait for its second ring");
            std::process::exit(1);
        };
        let inbox = Inbox::of_this_core();
        let mut readable = pin!(notice.readable(false));
        loop {
            let has_woken = inbox.empty();
            if self.reap() || has_woken {
                worker::yield_now().await;
                continue;
            }
            let is_noticed = std::future::poll_fn(|context| match inbox.poll_some(context) {
                Poll::Ready(()) => Poll::Ready(false),
                Poll::Pending => readable.as_mut().poll(context).map(|_| true),
            });
            if is_noticed.await {
                // SAFETY: the stream holds this descriptor open.
                let event = unsafe { BorrowedFd::borrow_raw(notice.as_raw_fd()) };
                let mut count = [0u8; 8];
                // Nothing to read is an answer too: the completions were reaped already.
                let _ = rustix::io::read(event, &mut count);
                readable.set(notice.readable(false));
            }
        }
    }

    /// True if there were completions.
    fn reap(&self) -> bool {
        let mut state = self.state.borrow_mut();
        let mut count = 0;
        for _ in 0..REAP_ROUNDS_MAX {
            let has_work = state.io.submission().taskrun();
            if has_work {
                const ENTER_GETEVENTS: u32 = 1;
                // SAFETY: the call submits nothing, waits for nothing and passes no signal set: it
                // only runs deferred work. An error leaves that work for the next call.
                let _ = unsafe { state.io.submitter().enter::<()>(0, 0, ENTER_GETEVENTS, None) };
            }
            while let Some(completion) = state.next_completion() {
                state.complete(&completion);
                count += 1;
            }
            if !has_work {
                break;
            }
        }
        count > 0
    }

    /// Run a file operation: its result, and the buffer back.
    pub(super) async fn run(
        &self,
        entry: squeue::Entry,
        file: Arc<File>,
        buffer: Option<FixedBuffer>,
    ) -> (i32, Option<FixedBuffer>) {
        std::future::poll_fn(|context| {
            if self.state.borrow().file_operations < FILE_OPERATIONS_MAX {
                return Poll::Ready(());
            }
            self.waiting_for_room.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
        let mut pending =
            Pending { ring: self, key: self.submit_file(entry, file, buffer), is_done: false };
        let outcome = std::future::poll_fn(|context| pending.poll(context.waker())).await;
        self.waiting_for_room.borrow_mut().drain(..).for_each(Waker::wake);
        outcome
    }

    fn submit_file(
        &self,
        entry: squeue::Entry,
        file: Arc<File>,
        buffer: Option<FixedBuffer>,
    ) -> usize {
        let mut state = self.state.borrow_mut();
        let operation = FileOperation { buffer, _file: file, progress: Progress::Running(None) };
        let key = state.operations.insert(Operation::File(operation));
        state.file_operations += 1;
        state.push(entry.user_data(key as u64));
        drop(state);
        // A read of cached pages has completed inside the submission.
        self.reap();
        key
    }

    /// Watch a socket or listener for reading, until the watch is dropped.
    pub(super) fn watch(self: &Rc<Self>, fd: BorrowedFd<'_>) -> Watch {
        let watch = Rc::new(WatchState {
            fd: fd.as_raw_fd(),
            readable: Cell::new(false),
            writable: Cell::new(false),
            ended: Cell::new(false),
            broken: Cell::new(false),
            reader: RefCell::default(),
            writer: RefCell::default(),
            read_key: Cell::new(None),
            write_key: Cell::new(None),
        });
        let mut state = self.state.borrow_mut();
        state.arm_read(&watch);
        Watch { ring: self.clone(), state: watch }
    }
}

impl State {
    /// Hand one entry to the kernel.
    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: whatever the entry points to (a descriptor, a registered buffer) is owned by the
        // operation with its user data, which stays in the slab until its last completion.
        let pushed = unsafe { self.io.submission().push(&entry) };
        pushed.expect("each push is submitted at once, so the queue is never full");
        // EBUSY, EAGAIN and EINTR leave the entry in the queue: the next submission takes it along.
        let _ = self.io.submit();
    }

    fn arm_read(&mut self, watch: &Rc<WatchState>) {
        let key = self.operations.insert(Operation::Watch(watch.clone()));
        watch.read_key.set(Some(key));
        let entry = opcode::PollAdd::new(types::Fd(watch.fd), READ_EVENTS).multi(true).build();
        self.push(entry.user_data(key as u64));
    }

    fn arm_write(&mut self, watch: &Rc<WatchState>) {
        let key = self.operations.insert(Operation::Watch(watch.clone()));
        watch.write_key.set(Some(key));
        let entry = opcode::PollAdd::new(types::Fd(watch.fd), WRITE_EVENTS).build();
        self.push(entry.user_data(key as u64));
    }

    fn next_completion(&mut self) -> Option<cqueue::Entry> {
        self.io.completion().next()
    }

    fn complete(&mut self, completion: &cqueue::Entry) {
        let key = completion.user_data() as usize;
        match self.operations.get_mut(key) {
            Some(Operation::File(_)) => self.complete_file(key, completion.result()),
            Some(Operation::Watch(watch)) => {
                let watch = watch.clone();
                self.complete_watch(key, &watch, completion);
            }
            // The answer to a removal: nobody waits for it.
            None => {}
        }
    }

    fn complete_file(&mut self, key: usize, result: i32) {
        let Some(Operation::File(operation)) = self.operations.get_mut(key) else { return };
        self.file_operations -= 1;
        match std::mem::replace(&mut operation.progress, Progress::Done(result)) {
            Progress::Running(Some(waker)) => waker.wake(),
            Progress::Running(None) => {}
            Progress::Abandoned => drop(self.operations.remove(key)),
            Progress::Done(_) => unreachable!("a file operation completes once"),
        }
    }

    fn complete_watch(&mut self, key: usize, watch: &Rc<WatchState>, completion: &cqueue::Entry) {
        let events = completion.result();
        let has_more = cqueue::more(completion.flags());
        let is_read = watch.read_key.get() == Some(key);
        let is_write = watch.write_key.get() == Some(key);
        if !has_more {
            self.operations.remove(key);
        }
        let has = |wanted: u32| events < 0 || events as u32 & wanted != 0;
        if has(END_EVENTS) {
            watch.ended.set(true);
        }
        if has(BROKEN_EVENTS) {
            watch.broken.set(true);
        }
        if is_read {
            watch.readable.set(true);
            if let Some(waker) = watch.reader.borrow_mut().take() {
                waker.wake();
            }
            if !has_more {
                watch.read_key.set(None);
                // The kernel ends a multishot operation now and then (a full completion queue).
                if !watch.broken.get() {
                    self.arm_read(watch);
                }
            }
        }
        if is_write {
            watch.write_key.set(None);
            watch.writable.set(true);
        }
        if (is_write || watch.broken.get())
            && let Some(waker) = watch.writer.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Take a watch's operation back. Its entry stays until the kernel has answered.
    fn remove(&mut self, key: usize) {
        const NOBODY: u64 = u64::MAX;
        // Not PollRemove: that one gives up (EALREADY) while an event of the operation waits to be
        // taken, and the socket would never close.
        self.push(opcode::AsyncCancel::new(key as u64).build().user_data(NOBODY));
    }
}

/// A file operation that a future waits for.
struct Pending<'r> {
    ring: &'r Ring,
    key: usize,
    is_done: bool,
}

impl Pending<'_> {
    fn poll(&mut self, waker: &Waker) -> Poll<(i32, Option<FixedBuffer>)> {
        let mut state = self.ring.state.borrow_mut();
        let Some(Operation::File(operation)) = state.operations.get_mut(self.key) else {
            unreachable!("the entry stays until its future takes it")
        };
        match &mut operation.progress {
            Progress::Running(slot) => {
                *slot = Some(waker.clone());
                Poll::Pending
            }
            Progress::Done(result) => {
                let (result, buffer) = (*result, operation.buffer.take());
                self.is_done = true;
                state.operations.remove(self.key);
                Poll::Ready((result, buffer))
            }
            Progress::Abandoned => unreachable!("only a drop abandons"),
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut state = self.ring.state.borrow_mut();
        let Some(Operation::File(operation)) = state.operations.get_mut(self.key) else { return };
        match operation.progress {
            Progress::Done(_) => drop(state.operations.remove(self.key)),
            _ => operation.progress = Progress::Abandoned,
        }
    }
}

/// Watches one socket. Dropped before the socket's descriptor is closed.
pub(super) struct Watch {
    ring: Rc<Ring>,
    state: Rc<WatchState>,
}

impl Watch {
    /// Ready when a receive is worth trying.
    pub(super) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.state.readable.get() || self.state.ended.get() {
            return Poll::Ready(());
        }
        set_waker(&self.state.reader, context.waker());
        Poll::Pending
    }

    /// A receive got less than it asked for, or nothing: wait for the next event. After the peer's
    /// end there is none, so that is remembered.
    pub(super) fn is_drained(&self) {
        self.state.readable.set(false);
    }

    pub(super) fn poll_writable(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.state.writable.take() || self.state.broken.get() {
            return Poll::Ready(());
        }
        set_waker(&self.state.writer, context.waker());
        if self.state.write_key.get().is_none() {
            self.ring.state.borrow_mut().arm_write(&self.state);
        }
        Poll::Pending
    }
}

/// Tasks rarely change: keep the waker that is there if it wakes the same one.
fn set_waker(slot: &RefCell<Option<Waker>>, waker: &Waker) {
    let mut slot = slot.borrow_mut();
    if !slot.as_ref().is_some_and(|present| present.will_wake(waker)) {
        *slot = Some(waker.clone());
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.state.ended.set(true);
        let keys = [self.state.read_key.take(), self.state.write_key.take()];
        let mut state = self.ring.state.borrow_mut();
        keys.into_iter().flatten().for_each(|key| state.remove(key));
    }
}
