//! A core's second ring: reads of files into registered buffers, and syncs.
//!
//! monoio exposes neither registered buffers nor its ring. A read of cached pages completes inside
//! the submit call and is reaped at once; a cold one completes later and wakes the core through an
//! eventfd that is signalled for those only. An operation owns its buffer and its file until its
//! completion has been seen, whatever becomes of the future that waits for it.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use io_uring::{IoUring, opcode, squeue, types};
use slab::Slab;

use super::buffers::{BufferPool, DATA_BYTES, FixedBuffer};
use super::worker::{self, Driver};

/// Operations under way at once; the completion queue has twice as many entries.
const OPERATIONS_MAX: usize = 256;

pub struct FileRing {
    ring: Option<RefCell<Ring>>,
    pool: Rc<BufferPool>,
    waiting_for_room: RefCell<Vec<Waker>>,
    reads: Cell<u64>,
}

struct Ring {
    io: IoUring,
    operations: Slab<Operation>,
    event: OwnedFd,
    /// The buffers could not be registered (RLIMIT_MEMLOCK): plain reads into the same memory.
    is_registered: bool,
}

struct Operation {
    /// What the kernel uses until the completion: kept here, not in the future.
    buffer: Option<FixedBuffer>,
    _file: Arc<File>,
    state: OperationState,
}

enum OperationState {
    Running(Option<Waker>),
    Done(i32),
    /// The future was dropped: forget the operation when it completes.
    Abandoned,
}

impl FileRing {
    /// A ring with `buffers` registered buffers for the calling core. Without io_uring, reads and
    /// syncs are ordinary blocking calls.
    pub fn new(driver: Driver, buffers: u16) -> io::Result<Rc<FileRing>> {
        let pool = BufferPool::new(buffers)?;
        let ring = match driver {
            Driver::IoUring => Some(RefCell::new(Ring::new(&pool)?)),
            Driver::Epoll => None,
        };
        let file_ring = Rc::new(FileRing {
            ring,
            pool,
            waiting_for_room: RefCell::default(),
            reads: Cell::new(0),
        });
        if file_ring.ring.is_some() {
            worker::spawn(file_ring.clone().drain_on_events());
        }
        Ok(file_ring)
    }

    /// Reads done so far.
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// Read up to `len` bytes (at most a buffer's worth) at `offset`. A short read is the end of the
    /// file.
    pub async fn read(&self, file: Arc<File>, offset: u64, len: usize) -> io::Result<FixedBuffer> {
        let len = len.min(DATA_BYTES);
        self.reads.set(self.reads.get() + 1);
        let mut buffer = self.pool.take().await;
        let Some(ring) = &self.ring else {
            let mut data = vec![0; len];
            let got = file.read_at(&mut data, offset)?;
            buffer.set_data(0);
            buffer.put_behind(&data[..got]);
            return Ok(buffer);
        };
        let fd = types::Fd(file.as_raw_fd());
        let entry = if ring.borrow().is_registered {
            opcode::ReadFixed::new(fd, buffer.data_ptr(), len as u32, buffer.index())
                .offset(offset)
                .build()
        } else {
            opcode::Read::new(fd, buffer.data_ptr(), len as u32)
                .offset(offset)
                .build()
        };
        let (result, buffer) = self.run(ring, entry, file, Some(buffer)).await;
        let got = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))?;
        let mut buffer = buffer.ok_or(io::ErrorKind::Other)?;
        buffer.set_data(got);
        Ok(buffer)
    }

    /// Data, length and attributes of the file are on disk when this returns. An error is final:
    /// the kernel reports it once, so the caller must give the file up.
    pub async fn sync(&self, file: Arc<File>) -> io::Result<()> {
        let Some(ring) = &self.ring else {
            return file.sync_all();
        };
        let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd())).build();
        let (result, _) = self.run(ring, entry, file, None).await;
        if result < 0 {
            Err(io::Error::from_raw_os_error(-result))
        } else {
            Ok(())
        }
    }

    async fn run(
        &self,
        ring: &RefCell<Ring>,
        entry: squeue::Entry,
        file: Arc<File>,
        buffer: Option<FixedBuffer>,
    ) -> (i32, Option<FixedBuffer>) {
        std::future::poll_fn(|context| {
            if ring.borrow().operations.len() < OPERATIONS_MAX {
                return Poll::Ready(());
            }
            self.waiting_for_room
                .borrow_mut()
                .push(context.waker().clone());
            Poll::Pending
        })
        .await;
        let key = ring.borrow_mut().submit(entry, file, buffer);
        let mut pending = Pending {
            ring,
            key,
            is_done: false,
        };
        let outcome = std::future::poll_fn(|context| pending.poll(context.waker())).await;
        for waker in self.waiting_for_room.borrow_mut().drain(..) {
            waker.wake();
        }
        outcome
    }

    /// Reap what completes later; runs for the life of the core.
    async fn drain_on_events(self: Rc<Self>) {
        let Some(ring) = &self.ring else { return };
        let Ok(event) = ring.borrow().event.try_clone() else {
            return;
        };
        let Ok(event) = monoio::fs::File::from_std(File::from(event)) else {
            return;
        };
        let mut count = vec![0u8; 8];
        loop {
            let (result, returned) = event.read_at(count, 0).await;
            count = returned;
            if let Err(error) = result
                && error.kind() != io::ErrorKind::Interrupted
            {
                tracing::error!(%error, "the file ring's event is lost: cold reads will hang");
                return;
            }
            ring.borrow_mut().drain();
        }
    }
}

impl Ring {
    fn new(pool: &BufferPool) -> io::Result<Ring> {
        let mut tuned = IoUring::builder();
        tuned.setup_single_issuer().setup_coop_taskrun();
        let entries = OPERATIONS_MAX as u32;
        let io = tuned.build(entries).or_else(|_| IoUring::new(entries))?;
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        io.submitter().register_eventfd_async(event.as_raw_fd())?;
        // SAFETY: the regions are one anonymous mapping that the pool keeps until it is dropped; the
        // ring is dropped before it (`FileRing` holds both, and cores never drop either).
        let registered = unsafe { io.submitter().register_buffers(&pool.regions()) };
        if let Err(error) = &registered {
            tracing::warn!(%error, "cannot register read buffers (RLIMIT_MEMLOCK?): reads of \
                completed files copy through plain buffers; set LimitMEMLOCK=infinity");
        }
        let is_registered = registered.is_ok();
        Ok(Ring {
            io,
            operations: Slab::with_capacity(OPERATIONS_MAX),
            event,
            is_registered,
        })
    }

    fn submit(
        &mut self,
        entry: squeue::Entry,
        file: Arc<File>,
        buffer: Option<FixedBuffer>,
    ) -> usize {
        let state = OperationState::Running(None);
        let key = self.operations.insert(Operation {
            buffer,
            _file: file,
            state,
        });
        let entry = entry.user_data(key as u64);
        // SAFETY: the entry's descriptor and memory are owned by the operation just entered, which
        // stays in the slab until its completion is reaped.
        let pushed = unsafe { self.io.submission().push(&entry) };
        pushed.expect("each push is submitted at once, so the queue is never full");
        // EBUSY, EAGAIN and EINTR leave the entry in the queue: the next submit takes it along.
        let _ = self.io.submit();
        self.drain();
        key
    }

    fn drain(&mut self) {
        while let Some(completion) = self.io.completion().next() {
            let key = completion.user_data() as usize;
            let operation = &mut self.operations[key];
            match std::mem::replace(
                &mut operation.state,
                OperationState::Done(completion.result()),
            ) {
                OperationState::Running(waker) => {
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                OperationState::Abandoned => drop(self.operations.remove(key)),
                OperationState::Done(_) => unreachable!("an operation completes once"),
            }
        }
    }
}

/// An operation that a future waits for.
struct Pending<'r> {
    ring: &'r RefCell<Ring>,
    key: usize,
    is_done: bool,
}

impl Pending<'_> {
    fn poll(&mut self, waker: &Waker) -> Poll<(i32, Option<FixedBuffer>)> {
        let mut ring = self.ring.borrow_mut();
        match &mut ring.operations[self.key].state {
            OperationState::Running(slot) => {
                *slot = Some(waker.clone());
                Poll::Pending
            }
            OperationState::Done(result) => {
                let result = *result;
                self.is_done = true;
                Poll::Ready((result, ring.operations.remove(self.key).buffer))
            }
            OperationState::Abandoned => unreachable!("only a drop abandons"),
        }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        let mut ring = self.ring.borrow_mut();
        match ring.operations[self.key].state {
            OperationState::Done(_) => drop(ring.operations.remove(self.key)),
            _ => ring.operations[self.key].state = OperationState::Abandoned,
        }
    }
}
