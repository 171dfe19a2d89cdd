//! One file of an object: opened and mapped when somebody needs it, closed again when too many are.
//!
//! Descriptors and mappings are both scarce (`vm.max_map_count` is 65,530), so each kind sits in a
//! bounded set with a second chance (CLOCK): [`HandleSets`]. A reader that is inside an extent holds
//! its own reference, so eviction never hurts it.

use std::collections::VecDeque;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::Millis;
use super::error::StorageError;
use super::mapping::{Mapping, RESIDENT_BYTES_MAX};

/// How long the page cache is trusted to keep what it had.
const RESIDENT_FOR_MS: Millis = 1000;

/// A file and an offset in it: what a ring read needs.
pub struct ReadAt {
    pub file: Arc<File>,
    pub offset: u64,
    pub len: u64,
}

/// Where an extent's bytes are kept.
pub(super) enum Place {
    /// A file below the data directory.
    Path(PathBuf),
    /// Anonymous memory (RAM-only mode): it cannot be opened again, so nothing evicts it.
    Memory,
    /// The path leads to other bytes now; only handles that are still open reach these.
    Lost,
}

pub(super) struct Extent {
    /// Offset of its first byte in the object.
    pub(super) start: u64,
    /// Bytes it can hold; the length of its mapping.
    pub(super) capacity: u64,
    state: Mutex<State>,
    used: AtomicBool,
    /// All its bytes were found in memory at this time, in milliseconds.
    resident_at_ms: AtomicU64,
    /// Delete the file when the last reader has let go: the object was removed or replaced.
    doomed: AtomicBool,
}

struct State {
    place: Place,
    file: Option<Arc<File>>,
    mapping: Option<Arc<Mapping>>,
    /// The path no longer leads to these bytes: the handles here are the only way to them.
    pinned: bool,
}

impl Extent {
    pub(super) fn new(start: u64, capacity: u64, place: Place, file: Option<Arc<File>>) -> Extent {
        let pinned = matches!(place, Place::Memory);
        let state = Mutex::new(State { place, file, mapping: None, pinned });
        Extent {
            start,
            capacity,
            state,
            used: AtomicBool::new(true),
            resident_at_ms: AtomicU64::new(0),
            doomed: AtomicBool::new(false),
        }
    }

    pub(super) fn end(&self) -> u64 {
        self.start.saturating_add(self.capacity)
    }

    /// The open file. `expected_bytes` is checked when it has to be opened again: a file that is
    /// shorter was changed below us and must not be served as the sealed object.
    pub(super) fn file(
        self: &Arc<Self>,
        sets: &HandleSets,
        expected_bytes: u64,
    ) -> Result<Arc<File>, StorageError> {
        self.used.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        if let Some(file) = &state.file {
            return Ok(file.clone());
        }
        let Place::Path(path) = &state.place else {
            return Err(StorageError::Changed);
        };
        let file = Arc::new(File::open(path)?);
        if file.metadata()?.len() < expected_bytes {
            return Err(StorageError::Changed);
        }
        state.file = Some(file.clone());
        drop(state);
        sets.files.admit(self);
        Ok(file)
    }

    /// The file to write to: what readers had opened again may not be.
    pub(super) fn file_to_write(&self) -> Result<Arc<File>, StorageError> {
        let state = self.state.lock();
        match (&state.place, &state.file) {
            (Place::Path(path), _) => {
                Ok(Arc::new(File::options().read(true).write(true).open(path)?))
            }
            (Place::Memory, Some(file)) => Ok(file.clone()),
            (Place::Memory, None) | (Place::Lost, _) => Err(StorageError::Changed),
        }
    }

    pub(super) fn mapping(
        self: &Arc<Self>,
        sets: &HandleSets,
        expected_bytes: u64,
    ) -> Result<Arc<Mapping>, StorageError> {
        self.used.store(true, Ordering::Relaxed);
        if let Some(mapping) = &self.state.lock().mapping {
            return Ok(mapping.clone());
        }
        let file = self.file(sets, expected_bytes)?;
        let len = usize::try_from(self.capacity).map_err(|_| StorageError::Changed)?;
        let mapping = Arc::new(Mapping::new(&file, len)?);
        self.state.lock().mapping = Some(mapping.clone());
        sets.mappings.admit(self);
        Ok(mapping)
    }

    /// All its bytes were in memory less than a second ago.
    pub(super) fn was_resident_lately(&self, now_ms: Millis) -> bool {
        now_ms.saturating_sub(self.resident_at_ms.load(Ordering::Relaxed)) < RESIDENT_FOR_MS
    }

    /// Look whether the first `length` bytes are in memory, and remember it.
    pub(super) fn is_resident(&self, mapping: &Mapping, length: u64, now_ms: Millis) -> bool {
        let piece = RESIDENT_BYTES_MAX as u64;
        let mut pieces = (0..length.div_ceil(piece)).map(|index| index * piece);
        let is_resident =
            pieces.all(|at| mapping.is_resident(at as usize, piece.min(length - at) as usize));
        if is_resident {
            self.resident_at_ms.store(now_ms, Ordering::Relaxed);
        }
        is_resident
    }

    /// The file was renamed to its final place.
    pub(super) fn moved_to(&self, path: PathBuf) {
        self.state.lock().place = Place::Path(path);
    }

    /// Hold the file open from now on: its path is about to lead to other bytes.
    pub(super) fn pin(self: &Arc<Self>, sets: &HandleSets) {
        // A failure to open is not this caller's: a reader that needs the file will be told.
        let _ = self.file(sets, 0);
        let mut state = self.state.lock();
        state.pinned = true;
        state.place = Place::Lost;
    }

    /// RAM-only mode: after the seal the mapping alone keeps the bytes; the descriptor goes.
    pub(super) fn keep_only_mapping(
        self: &Arc<Self>,
        sets: &HandleSets,
    ) -> Result<(), StorageError> {
        self.mapping(sets, 0)?;
        self.state.lock().file = None;
        Ok(())
    }

    /// Remove the file of an extent that no reader has seen.
    pub(super) fn delete_file(&self) {
        let place = std::mem::replace(&mut self.state.lock().place, Place::Lost);
        if let Place::Path(path) = place {
            // Left behind, it would be swept at the next start: its object does not reach so far.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Remove the file once nobody reads from it any more.
    pub(super) fn doom(&self) {
        self.doomed.store(true, Ordering::Relaxed);
    }

    fn evict(&self, kind: HandleKind) -> Evicted {
        if self.used.swap(false, Ordering::Relaxed) {
            return Evicted::UsedSince;
        }
        let mut state = self.state.lock();
        if !state.pinned {
            match kind {
                HandleKind::File => state.file = None,
                HandleKind::Mapping => state.mapping = None,
            }
        }
        Evicted::Gone
    }
}

impl Drop for Extent {
    fn drop(&mut self) {
        if self.doomed.load(Ordering::Relaxed)
            && let Place::Path(path) = &self.state.get_mut().place
        {
            // Left behind, it would be swept at the next start (recovery knows its owner is gone).
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The bounded sets of open files and of mappings.
pub(super) struct HandleSets {
    files: HandleSet,
    mappings: HandleSet,
}

impl HandleSets {
    /// Enter an extent that was made with its file open.
    pub(super) fn admit_file(&self, extent: &Arc<Extent>) {
        self.files.admit(extent);
    }

    pub(super) fn new(files_max: usize, mappings_max: usize) -> HandleSets {
        HandleSets {
            files: HandleSet::new(HandleKind::File, files_max),
            mappings: HandleSet::new(HandleKind::Mapping, mappings_max),
        }
    }
}

#[derive(Clone, Copy)]
enum HandleKind {
    File,
    Mapping,
}

enum Evicted {
    UsedSince,
    Gone,
}

struct HandleSet {
    kind: HandleKind,
    max: usize,
    queue: Mutex<VecDeque<Weak<Extent>>>,
}

impl HandleSet {
    fn new(kind: HandleKind, max: usize) -> HandleSet {
        assert!(max > 0);
        HandleSet { kind, max, queue: Mutex::new(VecDeque::new()) }
    }

    /// Enter an extent whose handle was just opened; close others while there are too many.
    fn admit(&self, extent: &Arc<Extent>) {
        let mut queue = self.queue.lock();
        queue.push_back(Arc::downgrade(extent));
        // Each entry gets one second chance, so the walk is bounded by twice the queue.
        let mut steps_left = queue.len() * 2;
        while queue.len() > self.max && steps_left > 0 {
            steps_left -= 1;
            let Some(oldest) = queue.pop_front() else {
                break;
            };
            let Some(oldest_extent) = oldest.upgrade() else {
                continue;
            };
            if matches!(oldest_extent.evict(self.kind), Evicted::UsedSince) {
                queue.push_back(oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a thousand extents never hold more than the allowed descriptors, and each can still
    /// be read afterwards.
    #[test]
    fn open_files_stay_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let sets = HandleSets::new(8, 8);
        let extents: Vec<_> = (0..100)
            .map(|i| {
                let path = dir.path().join(i.to_string());
                std::fs::write(&path, b"x").unwrap();
                Arc::new(Extent::new(0, 1, Place::Path(path), None))
            })
            .collect();
        for _round in 0..2 {
            for extent in &extents {
                extent.file(&sets, 1).unwrap();
            }
        }
        let open = extents.iter().filter(|e| e.state.lock().file.is_some()).count();
        assert!(open <= 8, "{open} files open");
    }

    #[test]
    fn a_shortened_file_is_not_served() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("short");
        std::fs::write(&path, b"abc").unwrap();
        let sets = HandleSets::new(8, 8);
        let extent = Arc::new(Extent::new(0, 4, Place::Path(path), None));
        assert!(matches!(extent.file(&sets, 4), Err(StorageError::Changed)));
    }
}
