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

use super::digest::{Base, Digests};
use super::directory::{Committed, Store};
use super::error::{StorageError, WriteError};
use super::format::{self, Record, SealRecord};
use super::messages::{MessageEnd, MessageWindow, Partial};
use super::object::{Ending, Life, Mark, MarkKind, Object, Seal};

/// Smaller files are left to the file system's delayed allocation.
const PREALLOCATE_FROM_BYTES: u64 = 256 << 10;
/// Pieces handed to one `pwritev`.
const PIECES_MAX: usize = 64;

/// Bytes read back in one piece.
const READ_BACK_BYTES: u64 = 256 << 10;

pub struct Writer {
    store: Arc<Store>,
    object: Arc<Object>,
    core: Option<usize>,
    current: Option<CurrentFile>,
    /// End of all bytes; those from the tail on are hidden.
    written: u64,
    digests: Digests,
    /// Files may be longer than they should: hidden bytes, or an append that failed half-way.
    has_excess: bool,
    /// What the object was before it was continued.
    continued: Option<Continued>,
    /// Trim the head so that about this many bytes are kept.
    window_bytes: Option<u64>,
    /// Never trim beyond this.
    kept_from: u64,
    finished: bool,
}

/// The sealed state that a writer began with.
pub(super) struct Continued {
    pub(super) seal: Seal,
    /// How the record goes on from there.
    pub(super) base: Option<Base>,
    /// As it was on disk; `None` in memory, and of a plain file.
    pub(super) record: Option<Record>,
    /// The record on disk says that the object is open: so it does from the first new byte on.
    pub(super) is_marked: bool,
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
        let digests = Digests::behind(None);
        Writer {
            store,
            object,
            core,
            current,
            written: 0,
            digests,
            has_excess: false,
            continued: None,
            window_bytes,
            kept_from: u64::MAX,
            finished: false,
        }
    }

    /// The writer of an object that was sealed.
    pub(super) fn of_continued(
        store: Arc<Store>,
        object: Arc<Object>,
        core: Option<usize>,
        last: Option<Arc<File>>,
        continued: Continued,
        window_bytes: Option<u64>,
    ) -> Writer {
        let written = object.tail();
        let start = written / object.extent_bytes * object.extent_bytes;
        let current = last.map(|file| CurrentFile {
            file,
            start,
            end: start + object.extent_bytes,
            allocated: written - start,
        });
        let digests = Digests::behind(continued.base.as_ref());
        let continued = Some(continued);
        Writer {
            store,
            object,
            core,
            current,
            written,
            digests,
            has_excess: false,
            continued,
            window_bytes,
            kept_from: u64::MAX,
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
        let wanted = bytes_of(pieces);
        if wanted == 0 {
            return Ok(());
        }
        let tail = self.written + wanted;
        self.write(pieces, wanted, tail)?;
        self.object.set_tail(tail);
        self.tell();
        Ok(())
    }

    /// Append, and tell where messages end: absolute offsets, ascending (equal for empty messages),
    /// none beyond what this call has written. Readers see bytes and messages at once. A message begins
    /// where the one before it ends, the first one at the tail of its first call.
    ///
    /// With [`Partial::Visible`] the tail is the last byte written. With [`Partial::Hidden`] it is the
    /// end of the last complete message: bytes behind it are written, but nobody sees them until a
    /// later call completes their message, and they are dropped if none does.
    pub fn append_messages(
        &mut self,
        pieces: &[IoSlice<'_>],
        ends: &[MessageEnd],
        partial: Partial,
    ) -> Result<(), WriteError> {
        self.check_open()?;
        let (wanted, before) = (bytes_of(pieces), self.object.tail());
        let written = self.written + wanted;
        let last = ends.last().map_or(before, |end| end.offset);
        assert!(last <= written, "a message ends where its bytes do");
        let tail = match partial {
            Partial::Visible => written,
            Partial::Hidden => last.max(before),
        };
        let written_before = self.written;
        self.write(pieces, wanted, tail)?;
        if tail > before && tail < written_before {
            self.reveal(before, tail)?;
        }
        self.object.messages.extend(before, ends, || self.object.set_tail(tail));
        if tail > before || !ends.is_empty() {
            self.tell();
        }
        Ok(())
    }

    /// End of all bytes, of hidden ones too.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Give up the bytes of a message that is not going to be completed, and go on behind those that
    /// readers see. False if that cannot be done: they reach into another extent.
    pub fn drop_hidden(&mut self) -> bool {
        let tail = self.object.tail();
        if self.written > tail && self.current.as_ref().is_none_or(|current| current.start > tail) {
            return false;
        }
        self.forget_hidden();
        self.digests.forget_hidden();
        true
    }

    /// What of the message index is kept: messages are forgotten from the front while those kept are
    /// too many, or too long together. The newest always stays.
    pub fn keep_messages(&mut self, window: MessageWindow) {
        self.object.messages.set_window(window);
    }

    /// Keep about the last `bytes` bytes of the object, if nothing says so already.
    pub fn keep_window(&mut self, bytes: u64) {
        self.window_bytes.get_or_insert(bytes);
    }

    /// Bytes below `offset` are UTF-8 and end with a whole character. Said before they are appended, so
    /// that who is woken by them knows.
    pub fn set_text_end(&mut self, offset: u64) {
        self.object.set_text_end(offset);
    }

    /// Whoever trims, the bytes from here on stay.
    pub fn keep_from(&mut self, offset: u64) {
        self.kept_from = offset;
    }

    /// The files that hold the bytes from `offset` on.
    pub fn files_from(&self, offset: u64) -> Result<Vec<Arc<File>>, StorageError> {
        let extents: Vec<_> = self.object.extents.read().list.iter().cloned().collect();
        let wanted = extents.iter().filter(|extent| extent.end() > offset);
        wanted.map(|extent| extent.file(&self.store.handle_sets, 0)).collect()
    }

    /// Bytes that were hidden are about to be seen, but not all of them: the digest has to be read.
    fn reveal(&mut self, from: u64, to: u64) -> Result<(), StorageError> {
        let mut visible = self.digests.visible();
        self.read_back(from, to, &mut |piece| visible.update(piece))?;
        self.digests.set_visible(visible);
        Ok(())
    }

    /// There is news: wake the readers, then keep the window.
    fn tell(&mut self) {
        self.object.wake_list.wake(self.core, &*self.store.options.signal);
        if let Some(window) = self.window_bytes {
            self.trim(self.object.tail().saturating_sub(window));
        }
    }

    /// Nobody needs the bytes before `keep_from` any more: drop the extents that end there.
    pub fn trim(&mut self, keep_from: u64) {
        self.store.trim(&self.object, keep_from.min(self.kept_from).min(self.object.tail()));
    }

    /// Note a boundary at `offset`, which must not lie before an earlier one.
    pub fn mark(&mut self, offset: u64, kind: MarkKind) {
        self.object.add_mark(Mark { offset, kind });
    }

    /// Note a random-access mark, and what a late reader needs in front of it.
    pub fn mark_key(&mut self, offset: u64, preamble: Bytes) {
        self.object.add_key(offset, preamble);
    }

    /// Marks were noted behind the append that had woken readers: who waits for one looks again.
    pub fn tell_marks(&self) {
        self.object.wake_list.wake(self.core, &*self.store.options.signal);
    }

    /// What a late reader of this object needs before a random-access mark.
    pub fn set_preamble(&mut self, preamble: Bytes) {
        self.object.set_preamble(preamble);
    }

    /// As `set_preamble`, with the object's own bytes `[start, end)`, which were appended before.
    pub fn set_preamble_from(&mut self, start: u64, end: u64) {
        let mut preamble = Vec::new();
        if self.read_back(start, end, &mut |piece| preamble.extend_from_slice(piece)).is_ok() {
            self.set_preamble(preamble.into());
        }
    }

    /// Read the bytes `[start, end)`, which were written before, in pieces.
    pub fn read_back(
        &self,
        start: u64,
        end: u64,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StorageError> {
        assert!(start <= end && end <= self.written);
        let (mut at, mut buffer) = (start, Vec::new());
        while at < end {
            let extent = self.object.extent_at(at).ok_or(StorageError::Changed)?;
            let bytes = (end.min(extent.end()) - at).min(READ_BACK_BYTES) as usize;
            let inside = at - extent.start;
            match extent.file(&self.store.handle_sets, 0) {
                Ok(file) => {
                    buffer.resize(bytes, 0);
                    file.read_exact_at(&mut buffer, inside)?;
                    take(&buffer);
                }
                // What was sealed in memory has no file any more: the mapping is memory for sure.
                Err(_) if self.store.is_memory_only() => {
                    let mapping = extent.mapping(&self.store.handle_sets, 0)?;
                    take(mapping.slice(inside as usize, bytes));
                }
                Err(error) => return Err(error),
            }
            at += bytes as u64;
        }
        Ok(())
    }

    /// All bytes are in: write the record. The object is sealed by [`Sealing::commit`].
    pub fn finish(mut self) -> Result<Sealing, WriteError> {
        assert!(!self.object.is_unnamed, "an unnamed object has another end");
        self.check_open()?;
        let seal = self.write_seal()?;
        Ok(Sealing { writer: self, seal })
    }

    /// End an unnamed object in order: readers see its end; its files go with the last reader.
    pub fn end_unnamed(mut self) {
        assert!(self.object.is_unnamed);
        self.forget_hidden();
        let seal = self.seal_at_tail();
        self.finished = true;
        self.store.clone().end_unnamed(&self.object, seal, self.core);
    }

    /// The seal of what readers see now.
    fn seal_at_tail(&self) -> Seal {
        let length = self.object.tail();
        match &self.continued {
            // Nothing came: it is what it was.
            Some(continued) if continued.seal.length == length => continued.seal.clone(),
            _ => {
                let now_ms = (self.store.options.clock)();
                Seal::of_content(length, self.digests.of_visible(), now_ms)
            }
        }
    }

    fn write_seal(&mut self) -> Result<Seal, WriteError> {
        self.forget_hidden();
        self.cut()?;
        let seal = self.seal_at_tail();
        if self.store.layout.is_some() {
            self.write_record(&seal)?;
        }
        Ok(seal)
    }

    fn write_record(&self, seal: &Seal) -> Result<(), StorageError> {
        let record = match &self.continued {
            None => self.store.open_record(&self.object),
            Some(continued) if !continued.is_marked => return Ok(()),
            Some(continued) if continued.seal.length == seal.length => match &continued.record {
                Some(before) => return Ok(before.write_to(&*self.first_file()?)?),
                None => return Ok(format::remove_record(&*self.first_file()?)?),
            },
            Some(continued) => self.continued_record(continued),
        };
        let sealed = Some(SealRecord {
            length: seal.length,
            digest: self.digests.of_visible(),
            sealed_ms: seal.modified_ms,
            torn: false,
        });
        Ok(Record { sealed, ..record }.write_to(&*self.first_file()?)?)
    }

    /// The record of the continued object while it is open.
    fn continued_record(&self, continued: &Continued) -> Record {
        let before = continued.record.clone();
        let mut record = before.unwrap_or_else(|| self.store.open_record(&self.object));
        record.ending = Ending::Sealed;
        match continued.base {
            Some(base) => record.continued_at(base),
            None => record,
        }
    }

    /// Say on disk that a continued object is open, before its first new byte.
    pub(super) fn mark_continued(&mut self) -> Result<(), StorageError> {
        let Some(continued) = &self.continued else { return Ok(()) };
        if continued.is_marked || self.store.layout.is_none() {
            return Ok(());
        }
        let mut record = self.continued_record(continued);
        if continued.base.is_none() {
            record.sealed = None;
        }
        record.write_to(&*self.first_file()?)?;
        if let Some(continued) = &mut self.continued {
            continued.is_marked = true;
        }
        Ok(())
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

    /// Write at the end. The digest follows when all is written, so that it stays right when this fails.
    fn write(
        &mut self,
        pieces: &[IoSlice<'_>],
        wanted: u64,
        visible_end: u64,
    ) -> Result<(), WriteError> {
        let end = self.written + wanted;
        if wanted > 0 {
            if end - self.object.head() > self.store.options.object_bytes_max {
                return Err(WriteError::TooLarge);
            }
            self.store.account_append(wanted)?;
            let written = self.mark_continued().and_then(|()| {
                let groups = pieces.chunks(PIECES_MAX);
                groups.into_iter().try_fold(self.written, |at, group| self.write_group(group, at))
            });
            if let Err(error) = written {
                self.store.account_gone(wanted);
                self.has_excess = true;
                return Err(error.into());
            }
        }
        self.digests.take(pieces, wanted, visible_end.checked_sub(self.written));
        self.written = end;
        Ok(())
    }

    fn write_group(&mut self, group: &[IoSlice<'_>], mut at: u64) -> Result<u64, StorageError> {
        let total = bytes_of(group);
        let fits = |current: &CurrentFile| current.start <= at && at + total <= current.end;
        let fits = self.current.as_ref().is_some_and(fits);
        if fits && group.len() > 1 {
            let current = self.current_at(at, total)?;
            let written = rustix::io::pwritev(&*current.file, group, at - current.start)?;
            if written as u64 == total {
                return Ok(at + total);
            }
            // A short write (a signal, the last free block): write again piece by piece, which
            // repeats the same bytes at the same place and meets the error itself.
        }
        for piece in group {
            at = self.write_piece(piece, at)?;
        }
        Ok(at)
    }

    fn write_piece(&mut self, mut piece: &[u8], mut at: u64) -> Result<u64, StorageError> {
        while !piece.is_empty() {
            let current = self.current_at(at, piece.len() as u64)?;
            let room = usize::try_from(current.end - at).unwrap_or(usize::MAX).min(piece.len());
            let (now, later) = piece.split_at(room);
            current.file.write_all_at(now, at - current.start)?;
            at += room as u64;
            piece = later;
        }
        Ok(at)
    }

    /// The file that holds `at`: the current one, or a new extent behind it.
    fn current_at(&mut self, at: u64, wanted_bytes: u64) -> Result<&mut CurrentFile, StorageError> {
        let holds = |current: &CurrentFile| (current.start..current.end).contains(&at);
        if !self.current.as_ref().is_some_and(holds) {
            let start = at / self.object.extent_bytes * self.object.extent_bytes;
            // An append that failed half-way may have left the next extent behind.
            let file = match self.object.extent_at(at) {
                Some(extent) => extent.file_to_write()?,
                None => self.store.add_extent(&self.object, start)?,
            };
            let end = start + self.object.extent_bytes;
            self.current = Some(CurrentFile { file, start, end, allocated: 0 });
        }
        let current = self.current.as_mut().ok_or(StorageError::Changed)?;
        current.preallocate(at + wanted_bytes);
        Ok(current)
    }

    /// Bytes behind the tail are not part of the object. Nothing is appended after this.
    pub(super) fn forget_hidden(&mut self) {
        let hidden = self.written - self.object.tail();
        if hidden > 0 {
            self.store.account_gone(hidden);
            self.written = self.object.tail();
            self.has_excess = true;
        }
    }

    /// Cut the files at the tail: give back what was reserved ahead, and what was written too much.
    fn cut(&mut self) -> Result<(), StorageError> {
        if self.has_excess {
            let last = self.object.drop_behind_tail().ok_or(StorageError::Changed)?;
            self.current = None;
            // A full one needs no cut, and one that was sealed in memory has no file to cut.
            if self.object.tail() < last.end() {
                last.file_to_write()?.set_len(self.object.tail() - last.start)?;
            }
            self.has_excess = false;
        } else if let Some(current) = &self.current
            && current.allocated > 0
        {
            // Failing leaves some blocks reserved, nothing more.
            let _ = current.file.set_len(self.object.tail() - current.start);
        }
        Ok(())
    }
}

fn bytes_of(pieces: &[IoSlice<'_>]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
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
        if self.finished {
            return;
        }
        self.finished = true;
        let end = match self.object.ending {
            Ending::Sealed if self.object.is_open() => self.seal_as_it_is(),
            _ => Unfinished::Lost,
        };
        match end {
            Unfinished::Sealed => {}
            Unfinished::Left => self.store.leave_for_recovery(&self.object, self.core),
            Unfinished::Lost => self.store.clone().end_without_seal(self),
        }
    }
}

/// What a writer that went away without a word leaves.
enum Unfinished {
    Sealed,
    /// It cannot have its name now; the next start tries again.
    Left,
    Lost,
}

impl Writer {
    /// Seal the object as far as it came. Bytes that were seen are never given up here.
    fn seal_as_it_is(&mut self) -> Unfinished {
        let name = &self.object.name.clone();
        let seal = self.write_seal().unwrap_or_else(|error| {
            tracing::error!(object = %name, %error,
                "the seal of an appended object cannot be written: the next start seals it again");
            self.seal_at_tail()
        });
        match self.store.clone().commit(&self.object, seal, self.core) {
            Ok(_) => Unfinished::Sealed,
            Err(WriteError::TakenOver | WriteError::Removed) => Unfinished::Lost,
            Err(error) => {
                tracing::error!(object = %name, %error,
                    "an appended object cannot have its name: the next start tries again");
                Unfinished::Left
            }
        }
    }

    /// Of the bytes that readers see.
    pub(super) fn digest(&self) -> u64 {
        self.digests.of_visible()
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
