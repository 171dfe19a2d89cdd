//! The one writer of an open object: append, mark, then seal or abort.
//!
//! Bytes go to the extent's file by ordinary writes, so a full or failing disk is an error here and
//! never a signal; the tail moves after the write, and readers are woken after the tail. A writer
//! that is dropped without `finish` aborts its object (or keeps the bytes, `on_abort = "keep"`).

use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use rustix::fs::FallocateFlags;
use xxhash_rust::xxh3::Xxh3;

use super::directory::{Committed, Store};
use super::error::{StorageError, WriteError};
use super::format::{Record, SealRecord};
use super::object::{Life, Mark, MarkKind, Object, Seal};

/// Smaller files are left to the file system's delayed allocation.
const PREALLOCATE_FROM_BYTES: u64 = 256 << 10;
/// Pieces handed to one `pwritev`.
const PIECES_MAX: usize = 64;

pub struct Writer {
    store: Arc<Store>,
    object: Arc<Object>,
    core: Option<usize>,
    current: Option<CurrentFile>,
    digest: Box<Xxh3>,
    /// Bytes that went into the digest.
    hashed_bytes: u64,
    /// Trim the head so that about this many bytes are kept.
    window_bytes: Option<u64>,
    finished: bool,
}

/// The file that grows: one extent of the object.
struct CurrentFile {
    file: Arc<File>,
    start: u64,
    end: u64,
    allocated: u64,
}

impl Writer {
    pub(super) fn new(
        store: Arc<Store>,
        object: Arc<Object>,
        core: Option<usize>,
        first: Arc<File>,
        window_bytes: Option<u64>,
    ) -> Writer {
        let end = object.extent_bytes;
        let current = Some(CurrentFile { file: first, start: 0, end, allocated: 0 });
        let digest = Box::new(Xxh3::new());
        Writer {
            store,
            object,
            core,
            current,
            digest,
            hashed_bytes: 0,
            window_bytes,
            finished: false,
        }
    }

    pub fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// The writer is used on this core from now on; `None` is a thread that is no core.
    pub fn move_to(&mut self, core: Option<usize>) {
        self.core = core;
    }

    /// Append the pieces in order and make them visible at once.
    pub fn append(&mut self, pieces: &[IoSlice<'_>]) -> Result<(), WriteError> {
        self.check_open()?;
        let wanted: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        if wanted == 0 {
            return Ok(());
        }
        self.store.account_append(wanted)?;
        let written = pieces
            .chunks(PIECES_MAX)
            .try_fold(self.object.tail(), |tail, group| self.write_group(group, tail));
        let tail = written.inspect_err(|_| self.store.account_gone(wanted))?;
        self.object.set_tail(tail);
        self.object.wake_list.wake(self.core, &*self.store.options.signal);
        if let Some(window) = self.window_bytes {
            self.store.account_gone(self.object.trim(tail.saturating_sub(window)));
        }
        Ok(())
    }

    /// Nobody needs the bytes before `keep_from` any more: drop the extents that end there.
    pub fn trim(&mut self, keep_from: u64) {
        self.store.account_gone(self.object.trim(keep_from.min(self.object.tail())));
    }

    /// Note a boundary at `offset`, which must not lie before an earlier one.
    pub fn mark(&mut self, offset: u64, kind: MarkKind) {
        self.object.add_mark(Mark { offset, kind });
    }

    /// What a late reader of this object needs before a random-access mark.
    pub fn set_preamble(&mut self, preamble: Bytes) {
        self.object.set_preamble(preamble);
    }

    /// As `set_preamble`, with the object's own bytes `[start, end)`, which were appended before.
    pub fn set_preamble_from(&mut self, start: u64, end: u64) {
        assert!(start <= end && end <= self.object.tail());
        let mut preamble = Vec::new();
        let mut at = start;
        while at < end {
            let Some(extent) = self.object.extent_at(at) else {
                return;
            };
            let Ok(file) = extent.file(&self.store.handle_sets, 0) else {
                return;
            };
            let mut piece = vec![0; (end.min(extent.end()) - at) as usize];
            if file.read_exact_at(&mut piece, at - extent.start).is_err() {
                return;
            }
            at += piece.len() as u64;
            preamble.extend_from_slice(&piece);
        }
        self.set_preamble(preamble.into());
    }

    /// All bytes are in: write the record. The object is sealed by [`Sealing::commit`].
    pub fn finish(self) -> Result<Sealing, WriteError> {
        self.check_open()?;
        self.seal_record()
    }

    fn seal_record(mut self) -> Result<Sealing, WriteError> {
        let length = self.object.tail();
        let (digest, sealed_ms) = (self.digest.digest(), (self.store.options.clock)());
        let seal =
            Seal { etag: Seal::content_etag(length, digest), modified_ms: sealed_ms, length };
        let sealed = Some(SealRecord { length, digest, sealed_ms, torn: false });
        self.release_preallocation();
        if self.store.layout.is_some() {
            let record = Record { sealed, ..self.store.open_record(&self.object) };
            let first = self.first_file()?;
            record.write_to(&first).map_err(StorageError::from)?;
        }
        Ok(Sealing { writer: self, seal })
    }

    fn first_file(&self) -> Result<Arc<File>, StorageError> {
        let extent = self.object.extents.read().list.front().cloned();
        extent.ok_or(StorageError::Changed)?.file(&self.store.handle_sets, 0)
    }

    fn check_open(&self) -> Result<(), WriteError> {
        match self.object.life() {
            Life::Open => Ok(()),
            Life::TakenOver => Err(WriteError::TakenOver),
            Life::Removed | Life::Aborted => Err(WriteError::Removed),
            Life::Sealed => unreachable!("sealing consumes the writer"),
        }
    }

    fn write_group(&mut self, group: &[IoSlice<'_>], mut tail: u64) -> Result<u64, WriteError> {
        let total: u64 = group.iter().map(|piece| piece.len() as u64).sum();
        if tail + total > self.store.options.object_bytes_max {
            return Err(WriteError::TooLarge);
        }
        let fits = self.current.as_ref().is_some_and(|current| tail + total <= current.end);
        if fits && group.len() > 1 {
            let current = self.current_at(tail, total)?;
            let at = tail - current.start;
            let written =
                rustix::io::pwritev(&*current.file, group, at).map_err(StorageError::from)?;
            if written as u64 == total {
                group.iter().for_each(|piece| self.digest.update(piece));
                self.hashed_bytes += total;
                return Ok(tail + total);
            }
            // A short write (a signal, the last free block): write again piece by piece, which
            // repeats the same bytes at the same place and meets the error itself.
        }
        for piece in group {
            tail = self.write_piece(piece, tail)?;
        }
        Ok(tail)
    }

    fn write_piece(&mut self, mut piece: &[u8], mut tail: u64) -> Result<u64, WriteError> {
        while !piece.is_empty() {
            let current = self.current_at(tail, piece.len() as u64)?;
            let room = usize::try_from(current.end - tail).unwrap_or(usize::MAX).min(piece.len());
            let (now, later) = piece.split_at(room);
            current.file.write_all_at(now, tail - current.start).map_err(StorageError::from)?;
            self.digest.update(now);
            self.hashed_bytes += room as u64;
            tail += room as u64;
            piece = later;
        }
        Ok(tail)
    }

    /// The file that holds `tail`: the current one, or a new extent behind it.
    fn current_at(
        &mut self,
        tail: u64,
        wanted_bytes: u64,
    ) -> Result<&mut CurrentFile, StorageError> {
        if self.current.as_ref().is_none_or(|current| tail >= current.end) {
            let file = self.store.add_extent(&self.object, tail)?;
            let end = tail + self.object.extent_bytes;
            self.current = Some(CurrentFile { file, start: tail, end, allocated: 0 });
        }
        let current = self.current.as_mut().ok_or(StorageError::Changed)?;
        current.preallocate(tail + wanted_bytes);
        Ok(current)
    }

    /// Give back blocks that were reserved beyond the end.
    fn release_preallocation(&mut self) {
        if let Some(current) = &self.current
            && current.allocated > 0
        {
            let length = self.object.tail() - current.start;
            // Failing leaves some blocks reserved, nothing more.
            let _ = current.file.set_len(length);
        }
    }
}

impl CurrentFile {
    /// Reserve blocks ahead of large files in doubling steps: fewer, longer extents on disk, and
    /// 15–20 % more throughput (docs/DECISIONS.md). The file's length does not change.
    fn preallocate(&mut self, wanted_end: u64) {
        let wanted = wanted_end.min(self.end) - self.start;
        if wanted <= self.allocated.max(PREALLOCATE_FROM_BYTES) {
            return;
        }
        let target = (wanted * 2).max(4 * PREALLOCATE_FROM_BYTES).min(self.end - self.start);
        let ahead = target - self.allocated;
        // A refusal (no support, no room) is not an error: the write itself will tell.
        let _ =
            rustix::fs::fallocate(&*self.file, FallocateFlags::KEEP_SIZE, self.allocated, ahead);
        self.allocated = target;
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            self.finished = true;
            self.store.clone().end_without_seal(self);
        }
    }
}

impl Writer {
    /// The digest of the object's bytes; `None` after an append that failed half-way.
    pub(super) fn digest_of_all(&self) -> Option<u64> {
        (self.hashed_bytes == self.object.tail()).then(|| self.digest.digest())
    }

    /// The core that it is used on; `None` on a thread that is no core.
    pub fn core(&self) -> Option<usize> {
        self.core
    }
}

/// A finished object whose bytes may still have to reach the disk before it is sealed.
///
/// With `durability = "sync"` the caller syncs [`files`](Self::files), commits, then syncs
/// [`Committed::folders`] before it acknowledges.
pub struct Sealing {
    writer: Writer,
    seal: Seal,
}

impl Sealing {
    /// The files whose data and attributes must be on disk before the commit.
    pub fn files(&self) -> Result<Vec<Arc<File>>, StorageError> {
        let extents: Vec<_> = self.writer.object.extents.read().list.iter().cloned().collect();
        extents.iter().map(|extent| extent.file(&self.writer.store.handle_sets, 0)).collect()
    }

    /// Give the object its name and seal it: one rename.
    pub fn commit(mut self) -> Result<Committed, WriteError> {
        self.commit_now()
    }

    fn commit_now(&mut self) -> Result<Committed, WriteError> {
        self.writer.check_open()?;
        let store = self.writer.store.clone();
        let committed = store.commit(&self.writer.object, self.seal.clone(), self.writer.core)?;
        self.writer.finished = true;
        Ok(committed)
    }
}
