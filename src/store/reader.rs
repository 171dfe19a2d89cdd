//! A position in an object: what is available there, and a promise to be woken when there is more.
//!
//! A reader never blocks a writer: it looks at the tail, leases bytes below it, and waits. It holds
//! no buffer. What a reader does about its lag is its door's decision; here lag is only a number.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::directory::Store;
use super::error::StorageError;
use super::extent::{Extent, ReadAt};
use super::mapping::Mapping;
use super::messages::MessageLook;
use super::object::{Life, Object};
use super::wake_list::CoreList;

/// What a reader finds at its offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Available {
    /// So many bytes can be had now.
    Bytes(u64),
    /// Nothing yet: `poll_news` wakes when there is.
    AtTail,
    /// The object is sealed and everything was read, or the reader's limit is reached.
    End,
    /// The object ended without a proper end.
    Aborted,
    /// The reader's offset was trimmed away.
    Lagged,
}

pub struct Reader {
    object: Arc<Object>,
    store: Arc<Store>,
    core: usize,
    offset: u64,
    limit: u64,
    /// All of its bytes were accepted: what became of the object since does not matter.
    is_view: bool,
    /// The reader's place in the wake list, once it has waited.
    waiting: Option<(Arc<CoreList>, Option<usize>)>,
    current: Option<Current>,
    /// Extents behind the current one whose bytes were asked to stay.
    held: VecDeque<Arc<Extent>>,
}

/// The extent that the reader is in, held so that eviction, trimming and removal do not matter.
struct Current {
    extent: Arc<Extent>,
    mapping: Option<Arc<Mapping>>,
    file: Option<Arc<File>>,
}

impl Reader {
    /// A reader on `core` of the bytes `[offset, limit)`.
    pub fn new(
        store: &Arc<Store>,
        object: Arc<Object>,
        core: usize,
        offset: u64,
        limit: u64,
    ) -> Reader {
        assert!(offset <= limit);
        object.enter_reader();
        Reader {
            object,
            store: store.clone(),
            core,
            offset,
            limit,
            is_view: false,
            waiting: None,
            current: None,
            held: VecDeque::new(),
        }
    }

    /// A reader of bytes that are there. They stay readable when the upload that brought them is
    /// torn or replaced, as long as the object is held and was not trimmed.
    pub fn of_view(
        store: &Arc<Store>,
        object: Arc<Object>,
        core: usize,
        offset: u64,
        limit: u64,
    ) -> Reader {
        assert!(limit <= object.tail());
        let mut reader = Reader::new(store, object, core, offset, limit);
        reader.is_view = true;
        reader
    }

    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes between the reader and the tail.
    pub fn lag_bytes(&self) -> u64 {
        self.object.tail().saturating_sub(self.offset)
    }

    pub fn available(&self) -> Available {
        if self.offset >= self.limit {
            return Available::End;
        }
        if self.is_view {
            return Available::Bytes(self.limit - self.offset);
        }
        // The state before the tail: an object that is sealed now has its final tail.
        let life = self.object.life();
        let tail = self.object.tail();
        if !matches!(life, Life::Open | Life::Sealed) {
            return Available::Aborted;
        }
        let is_held = || self.held.back().is_some_and(|last| self.offset < last.end());
        if self.offset < self.object.head() && !self.is_inside_current() && !is_held() {
            return Available::Lagged;
        }
        if self.offset < tail {
            return Available::Bytes(tail.min(self.limit) - self.offset);
        }
        if life == Life::Sealed { Available::End } else { Available::AtTail }
    }

    /// Ready when [`available`](Self::available) no longer says `AtTail`.
    pub fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.available() != Available::AtTail {
            return Poll::Ready(());
        }
        self.wake_at_growth(context);
        if self.available() == Available::AtTail { Poll::Pending } else { Poll::Ready(()) }
    }

    /// Message `number`, once it is here or forgotten; "not yet" if the object has ended without it.
    pub fn poll_message(&mut self, number: u64, context: &mut Context<'_>) -> Poll<MessageLook> {
        let look = |object: &Object| {
            // The state before the index: an object that has ended now has all its messages.
            let is_open = object.is_open();
            match object.message(number) {
                MessageLook::NotYet if is_open => Poll::Pending,
                look => Poll::Ready(look),
            }
        };
        let now = look(&self.object);
        if now.is_ready() {
            return now;
        }
        self.wake_at_growth(context);
        look(&self.object)
    }

    /// Wake at the next append, whatever is available now: for a reader that is stuck elsewhere and
    /// has to watch its lag.
    pub fn wake_at_growth(&mut self, context: &mut Context<'_>) {
        let (list, key) =
            self.waiting.get_or_insert_with(|| (self.object.wake_list.of_core(self.core), None));
        list.arm(key, context.waker());
    }

    /// Up to `bytes_max` available bytes as a slice of the shared mapping, cut at the extent's end.
    /// Only the kernel may read through it (see `mapping`).
    pub fn mapped(&mut self, bytes_max: u64) -> Result<&[u8], StorageError> {
        let (start, len) = self.enter_extent(bytes_max)?;
        let expected = self.expected_file_bytes();
        let store = self.store.clone();
        let current = self.current.as_mut().ok_or(StorageError::Changed)?;
        if current.mapping.is_none() {
            current.mapping = Some(current.extent.mapping(&store.handle_sets, expected)?);
        }
        let mapping = current.mapping.as_ref().ok_or(StorageError::Changed)?;
        Ok(mapping.slice(start as usize, len as usize))
    }

    /// True if sending the next `bytes` from the mapping will not wait for the disk, as far as the
    /// page cache says now.
    pub fn is_resident(&mut self, bytes: u64) -> bool {
        if self.mapped(bytes).is_err() {
            return false;
        }
        let now_ms = (self.store.options.clock)();
        let length = self.expected_file_bytes();
        let Some(current) = &self.current else { return false };
        let Some(mapping) = &current.mapping else { return false };
        let start = self.offset - current.extent.start;
        let len = bytes.min(current.extent.end() - self.offset);
        current.extent.was_resident_lately(now_ms)
            // At an extent's beginning all of it is looked at, so that what follows need not be.
            || (start == 0 && current.extent.is_resident(mapping, length, now_ms))
            || mapping.is_resident(start as usize, len as usize)
    }

    /// The same bytes as a place in a file, for a ring read.
    pub fn read_at(&mut self, bytes_max: u64) -> Result<ReadAt, StorageError> {
        let (start, len) = self.enter_extent(bytes_max)?;
        let expected = self.expected_file_bytes();
        let store = self.store.clone();
        let current = self.current.as_mut().ok_or(StorageError::Changed)?;
        if current.file.is_none() {
            current.file = Some(current.extent.file(&store.handle_sets, expected)?);
        }
        let file = current.file.clone().ok_or(StorageError::Changed)?;
        Ok(ReadAt { file, offset: start, len })
    }

    pub fn advance(&mut self, bytes: u64) {
        self.offset += bytes;
        assert!(self.offset <= self.object.tail().min(self.limit));
    }

    /// Whatever is trimmed, the bytes from here to `end` stay readable for this reader. False if they are
    /// gone.
    pub fn hold(&mut self, end: u64) -> bool {
        if !self.is_inside_current() {
            let Some(extent) = self.object.extent_at(self.offset) else { return false };
            self.current = Some(Current { extent, mapping: None, file: None });
        }
        self.held.clear();
        let mut held_to = self.current.as_ref().map_or(0, |current| current.extent.end());
        while held_to < end {
            let Some(extent) = self.object.extent_at(held_to) else { return false };
            held_to = extent.end();
            self.held.push_back(extent);
        }
        true
    }

    /// Make the extent at the offset current; start and length of what can be leased in it.
    fn enter_extent(&mut self, bytes_max: u64) -> Result<(u64, u64), StorageError> {
        let Available::Bytes(available) = self.available() else {
            return Err(StorageError::Changed);
        };
        if !self.is_inside_current() {
            while self.held.pop_front_if(|held| held.end() <= self.offset).is_some() {}
            let held = self.held.pop_front();
            let extent = held.or_else(|| self.object.extent_at(self.offset));
            let extent = extent.ok_or(StorageError::Changed)?;
            self.current = Some(Current { extent, mapping: None, file: None });
        }
        let extent = &self.current.as_ref().ok_or(StorageError::Changed)?.extent;
        let start = self.offset - extent.start;
        Ok((start, available.min(bytes_max).min(extent.end() - self.offset)))
    }

    /// Readers only move forward, so the current extent can only be left at its end.
    fn is_inside_current(&self) -> bool {
        self.current.as_ref().is_some_and(|current| self.offset < current.extent.end())
    }

    /// How long the current extent's file must be at least.
    fn expected_file_bytes(&self) -> u64 {
        let Some(current) = &self.current else {
            return 0;
        };
        self.object.tail().min(current.extent.end()) - current.extent.start
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.object.leave_reader();
        if let Some((list, Some(key))) = self.waiting.take() {
            list.leave(key);
        }
    }
}
