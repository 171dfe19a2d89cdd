//! A core's registered buffers: one anonymous mapping, cut into equal pieces.
//!
//! Anonymous memory, because the kernel refuses to register shared mappings of files. A buffer is
//! owned by exactly one [`FixedBuffer`]; while the kernel reads into it, the ring owns that.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::task::{Poll, Waker};

use memmap2::MmapMut;

/// Bytes of one buffer, with its room in front.
pub const BUFFER_BYTES: usize = 256 << 10;
/// Room in front of the data for a response head or a chunk header.
pub const HEADROOM_BYTES: usize = 4 << 10;
/// Data bytes of one buffer.
pub const DATA_BYTES: usize = BUFFER_BYTES - HEADROOM_BYTES - TAILROOM_BYTES;
/// Room behind the data for the end of a chunk.
const TAILROOM_BYTES: usize = 64;

pub struct BufferPool {
    memory: MmapMut,
    free: RefCell<Vec<u16>>,
    waiting: RefCell<Vec<Waker>>,
}

impl BufferPool {
    pub fn new(buffers: u16) -> io::Result<Rc<BufferPool>> {
        assert!(buffers > 0);
        let memory = MmapMut::map_anon(buffers as usize * BUFFER_BYTES)?;
        let free = RefCell::new((0..buffers).collect());
        Ok(Rc::new(BufferPool { memory, free, waiting: RefCell::default() }))
    }

    /// Where the buffers lie, for registration: address and length of each.
    pub(super) fn regions(&self) -> Vec<libc::iovec> {
        let base = self.memory.as_ptr();
        let at = |i: usize| base.wrapping_add(i * BUFFER_BYTES).cast_mut().cast();
        let count = self.memory.len() / BUFFER_BYTES;
        (0..count).map(|i| libc::iovec { iov_base: at(i), iov_len: BUFFER_BYTES }).collect()
    }

    /// A buffer, as soon as one is free. They are held for one disk read and one send, never while
    /// a peer is waited for.
    pub async fn take(self: &Rc<Self>) -> FixedBuffer {
        std::future::poll_fn(|context| {
            if let Some(index) = self.free.borrow_mut().pop() {
                return Poll::Ready(FixedBuffer {
                    pool: self.clone(),
                    index,
                    start: HEADROOM_BYTES,
                    end: HEADROOM_BYTES,
                });
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// One buffer of the pool, given back on drop.
pub struct FixedBuffer {
    pool: Rc<BufferPool>,
    index: u16,
    start: usize,
    end: usize,
}

impl FixedBuffer {
    pub(super) fn index(&self) -> u16 {
        self.index
    }

    /// Where data is read to.
    pub(super) fn data_ptr(&self) -> *mut u8 {
        let offset = self.index as usize * BUFFER_BYTES + HEADROOM_BYTES;
        self.pool.memory.as_ptr().wrapping_add(offset).cast_mut()
    }

    /// The kernel has read `bytes` to `data_ptr`.
    pub(super) fn set_data(&mut self, bytes: usize) {
        assert!(bytes <= DATA_BYTES);
        self.start = HEADROOM_BYTES;
        self.end = HEADROOM_BYTES + bytes;
    }

    /// The bytes to send: what was put in front, the data, what was put behind.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the range lies in this buffer's piece of the mapping, which is initialised
        // (anonymous memory is zero) and used by nobody else while this `FixedBuffer` exists; the
        // kernel writes to it only while the ring owns the `FixedBuffer`.
        unsafe {
            std::slice::from_raw_parts(self.base().wrapping_add(self.start), self.end - self.start)
        }
    }

    /// Put a head in front of the data. It must fit the room that is left there.
    pub fn put_before(&mut self, head: &[u8]) {
        assert!(head.len() <= self.start);
        self.start -= head.len();
        self.write(self.start, head);
    }

    /// Put an end behind the data.
    pub fn put_behind(&mut self, tail: &[u8]) {
        assert!(tail.len() <= BUFFER_BYTES - self.end);
        self.write(self.end, tail);
        self.end += tail.len();
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= BUFFER_BYTES);
        // SAFETY: the target lies in this buffer's piece (asserted), which only this `FixedBuffer`
        // uses; `bytes` cannot overlap it, since no `&[u8]` into it outlives a `&mut self`.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base().wrapping_add(at), bytes.len())
        };
    }

    fn base(&self) -> *mut u8 {
        self.pool.memory.as_ptr().wrapping_add(self.index as usize * BUFFER_BYTES).cast_mut()
    }
}

impl Drop for FixedBuffer {
    fn drop(&mut self) {
        self.pool.free.borrow_mut().push(self.index);
        for waker in self.pool.waiting.borrow_mut().drain(..) {
            waker.wake();
        }
    }
}
