//! Objects that begin in another way than by an upload: a sealed one that is opened again at its end,
//! and one without a name.
//!
//! A sealed object that is continued leaves the table for a new open one with the same extents, so
//! readers that hold the old one keep its end. Its file stays under its name, where the bytes come to
//! stand behind those that were sealed; from the first of them on its record says that it is open.
//!
//! | on disk | after a crash |
//! |---|---|
//! | the sealed record | nothing was appended: the object is what it was |
//! | the record with a `base` at its own length | sealed again by recovery, as far as its bytes go |
//! | the record with the new length | the object as it was continued |

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use super::digest::{Base, Fingerprint};
use super::directory::{NewObject, Shard, Store, Visibility, WriteRule};
use super::error::{BeginError, StorageError};
use super::extent::{Extent, Place};
use super::format::{self, Layout, Record, SealRecord};
use super::object::{Ending, Object, ObjectInfo, Seal};
use super::writer::{Continued, Writer};

/// A sealed object as an open one, not yet in the table.
struct Reopened {
    object: Object,
    /// The extent that grows; `None` if all are full.
    last: Option<Arc<File>>,
    record: Option<Record>,
}

impl Store {
    /// Continue the sealed object `new.name` at its end, with the header fields that it has, or begin
    /// it. Readers see it from its first byte on, whatever `new.visibility` says.
    pub fn resume(self: &Arc<Self>, new: NewObject<'_>) -> Result<Writer, BeginError> {
        if !format::is_object_name(new.name) {
            return Err(BeginError::NoName);
        }
        let (name, core) = (new.name, new.core);
        let shard = self.shard(name);
        let order = shard.commit.lock();
        let new = NewObject { visibility: Visibility::AtOnce, ending: Ending::Sealed, ..new };
        let writer = match self.sealed_version(shard, &new)? {
            Some(sealed) => self.continue_sealed(shard, &sealed, core)?,
            None => self.begin_ordered(shard, new)?,
        };
        drop(order);
        self.tell_watchers(name, core);
        Ok(writer)
    }

    /// The version to continue; `None` if the object has to begin.
    fn sealed_version(
        &self,
        shard: &Shard,
        new: &NewObject<'_>,
    ) -> Result<Option<Arc<Object>>, BeginError> {
        if let Some(entry) = shard.entries.read().get(new.name) {
            return match (entry.open_object(), new.rule) {
                (Some(_), WriteRule::Refuse) => Err(BeginError::WriterActive),
                (Some(_), WriteRule::TakeOver) => Ok(None),
                (None, _) => Ok(entry.visible.clone().filter(|visible| visible.seal().is_some())),
            };
        }
        Ok(self.adopt(new.name))
    }

    fn continue_sealed(
        self: &Arc<Self>,
        shard: &Shard,
        sealed: &Arc<Object>,
        core: Option<usize>,
    ) -> Result<Writer, BeginError> {
        let seal = sealed.seal().ok_or(StorageError::Changed)?.clone();
        let Reopened { object, last, record } = match &self.layout {
            Some(layout) => self.reopen_file(layout, sealed, &seal)?,
            None => self.reopen_memory(sealed)?,
        };
        let object = Arc::new(object);
        object.set_placed(self.layout.is_some());
        shard.entries.write().entry(object.name.clone()).or_default().visible =
            Some(object.clone());
        // Its bytes count on; the sealed object is no more than what its readers hold.
        self.retention.lock().remove(sealed);
        self.bodies.forget(sealed);
        self.open_objects.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (length, fingerprint) = (seal.length, seal.fingerprint);
        let base = (length > 0).then_some(Base { length, fingerprint });
        let continued = Continued { seal, base, record, is_marked: false };
        let window_bytes = self.retention.lock().window_bytes(&object.name);
        Ok(Writer::of_continued(self.clone(), object, core, last, continued, window_bytes))
    }

    fn reopen_file(
        &self,
        layout: &Layout,
        sealed: &Arc<Object>,
        seal: &Seal,
    ) -> Result<Reopened, StorageError> {
        let path = layout.object(&sealed.name);
        let (id, extent_bytes, record, extents) = match seal.fingerprint {
            Fingerprint::Digest(digest) => {
                let record = record_of(&path, sealed, seal, digest).ok_or(StorageError::Changed)?;
                let extents = sealed.extents.read().list.clone();
                (sealed.id, record.extent_bytes, Some(record), extents)
            }
            Fingerprint::Modified(_) => {
                // Its one extent ends with the file: the same file gets one that can grow. An object
                // longer than an extent of today has extents as long as it is.
                let pages = seal.length.next_multiple_of(4096);
                let extent_bytes = self.options.extent_bytes.max(pages);
                let place = Place::Path(path.clone());
                let extent = Arc::new(Extent::new(0, extent_bytes, place, None));
                (self.new_id(), extent_bytes, None, VecDeque::from([extent]))
            }
        };
        let last = extents.back().ok_or(StorageError::Changed)?.clone();
        let file = last.file_to_write()?;
        let there = file.metadata()?.len();
        let expected = seal.length - last.start;
        if there != expected {
            return Err(StorageError::Changed);
        }
        if record.is_none() {
            // From here on two extents have one path: the one of the plain file goes on without it.
            self.pin_for_readers(sealed);
        }
        let object = Object::continued(sealed, id, extent_bytes, extents);
        Ok(Reopened { object, last: (seal.length < last.end()).then_some(file), record })
    }

    /// In memory a sealed object has no files any more, only mappings: full extents are shared, the
    /// last one is copied by the kernel into a file that can grow.
    fn reopen_memory(&self, sealed: &Arc<Object>) -> Result<Reopened, StorageError> {
        let (length, extent_bytes) = (sealed.tail(), sealed.extent_bytes);
        let mut extents = sealed.extents.read().list.clone();
        let Some(last) = extents.back().filter(|last| length < last.end()).cloned() else {
            let object = Object::continued(sealed, sealed.id, extent_bytes, extents);
            return Ok(Reopened { object, last: None, record: None });
        };
        extents.pop_back();
        let object = Object::continued(sealed, sealed.id, extent_bytes, extents);
        let file = self.add_extent(&object, last.start)?;
        let bytes = (length - last.start) as usize;
        if bytes > 0 {
            let mapping = last.mapping(&self.handle_sets, 0)?;
            file.write_all_at(mapping.slice(0, bytes), 0)?;
        }
        Ok(Reopened { object, last: Some(file), record: None })
    }

    /// An object that has no name and no place in the table: nobody finds it, it is never a file under
    /// a name, and recovery deletes what a crash left of it. `label` is its `name`, for logs.
    pub fn begin_unnamed(
        self: &Arc<Self>,
        label: &str,
        info: ObjectInfo,
        core: Option<usize>,
    ) -> Result<Writer, BeginError> {
        if self.is_full() {
            return Err(BeginError::TooManyObjects);
        }
        let mut object = Object::open(label, self.new_id(), info, self.options.extent_bytes);
        object.is_unnamed = true;
        let object = Arc::new(object);
        let first = self.first_extent(&object)?;
        self.count_open();
        Ok(Writer::new(self.clone(), object, core, first, None))
    }

    pub(super) fn end_unnamed(&self, object: &Arc<Object>, seal: Seal, core: Option<usize>) {
        object.messages.settle();
        object.set_sealed(seal);
        object.wake_list.wake(core, &*self.options.signal);
        self.doom_extents(object);
        self.count_out_open(object);
    }
}

/// The record of a sealed object, which must be on disk. One that could not be written at the seal is
/// what it should have been.
fn record_of(path: &Path, sealed: &Object, seal: &Seal, digest: u64) -> Option<Record> {
    let mut record = Record::read_from(path)?;
    let wanted =
        SealRecord { length: seal.length, digest, sealed_ms: seal.modified_ms, torn: false };
    let is_unwritten = record.sealed.is_none() || record.open_base().is_some();
    if is_unwritten {
        record.sealed = Some(wanted);
    }
    let found = record.sealed.as_ref()?;
    let is_it = record.id == sealed.id
        && record.name == *sealed.name
        && (found.length, found.digest) == (seal.length, digest);
    is_it.then_some(record)
}
