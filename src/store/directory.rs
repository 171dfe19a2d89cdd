//! Names to objects: the one table that all cores share, and the moves between states that touch it.
//!
//! | move | function | on disk |
//! |---|---|---|
//! | → Open | `begin` | new file in the open folder, with its record |
//! | Open → Sealed | `commit` | renamed to its name: the commit point |
//! | Open → Aborted | `end_without_seal` | deleted, and with it the version it had hidden |
//! | Sealed → gone | `remove`, `retire` | unlinked; readers in flight keep the bytes |
//! | Sealed → Open | `resume` in `reopening` | stays under its name, and its record says so |
//!
//! Lookups take a shard's read lock for the length of a hash probe. Moves that wait for the file
//! system are ordered by the shard's commit lock and hold the table's write lock only to change it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::Millis;
use super::error::{BeginError, RemoveError, StorageError, WriteError};
use super::extent::{Extent, HandleSets, Place};
use super::format::{self, Layout, Record};
use super::object::{Ending, Life, Object, ObjectInfo, Seal};
use super::retention::{Retention, RetentionRule, Swept};
use super::sealed_caches::{BodyCache, SealedIndexes};
use super::wake_list::{CoreList, Signal, WakeList};
use super::writer::Writer;

const SHARDS: usize = 64;

pub struct StoreOptions {
    /// The data directory; `None` keeps everything in memory (`-r`).
    pub data: Option<PathBuf>,
    /// Bytes of a full extent; a longer object has several. A multiple of the page size.
    pub extent_bytes: u64,
    /// Keep the bytes of an upload that lost its writer instead of dropping them.
    pub keep_aborted: bool,
    pub objects_max: usize,
    pub object_bytes_max: u64,
    pub open_files_max: usize,
    pub mappings_max: usize,
    /// Bodies of small sealed objects held in memory, all together.
    pub body_cache_bytes_max: u64,
    /// All objects together; the oldest sealed ones go first.
    pub total_bytes_max: Option<u64>,
    /// Names waited for at once.
    pub watched_names_max: usize,
    pub retention: Vec<RetentionRule>,
    pub clock: fn() -> Millis,
    pub signal: Box<Signal>,
}

#[cfg(test)]
impl StoreOptions {
    /// What most tests need: small, and nothing on disk.
    pub(crate) fn in_memory() -> StoreOptions {
        StoreOptions {
            data: None,
            extent_bytes: 4096,
            keep_aborted: false,
            objects_max: 100_000,
            object_bytes_max: 1 << 20,
            open_files_max: 10,
            mappings_max: 10,
            body_cache_bytes_max: 0,
            total_bytes_max: None,
            watched_names_max: 1,
            retention: Vec::new(),
            clock: || 1,
            signal: Box::new(|_core, list| list.fire()),
        }
    }
}

/// When readers see a new version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Visibility {
    /// From its first byte: media.
    AtOnce,
    /// When it is sealed, the old version until then: manifests.
    WhenSealed,
}

/// What a second writer of an open object gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteRule {
    /// The object; the first writer is told with its next append.
    TakeOver,
    Refuse,
}

pub struct NewObject<'a> {
    pub name: &'a str,
    pub info: ObjectInfo,
    pub visibility: Visibility,
    pub rule: WriteRule,
    pub ending: Ending,
    /// The core of the caller, `None` on a thread that is no core.
    pub core: Option<usize>,
}

/// The outcome of a commit.
#[derive(Debug)]
pub struct Committed {
    /// A sealed version of the same name existed before.
    pub replaced: bool,
    /// Folders whose entries must be on disk before the upload is acknowledged as durable.
    pub folders: Vec<PathBuf>,
}

#[derive(Default)]
pub(super) struct Entry {
    /// What a lookup finds.
    pub(super) visible: Option<Arc<Object>>,
    /// A manifest's next version while it is written.
    pending: Option<Arc<Object>>,
    /// What an open media object hides, while its file still has the name: a sealed version, or one
    /// that was continued and then taken over.
    hidden: Option<Arc<Object>>,
}

impl Entry {
    pub(super) fn open_object(&self) -> Option<&Arc<Object>> {
        self.pending.as_ref().or(self.visible.as_ref().filter(|object| object.is_open()))
    }

    fn is_empty(&self) -> bool {
        self.visible.is_none() && self.pending.is_none() && self.hidden.is_none()
    }
}

#[derive(Default)]
pub(super) struct Shard {
    pub(super) entries: RwLock<HashMap<Box<str>, Entry, foldhash::fast::RandomState>>,
    pub(super) commit: Mutex<()>,
}

/// Counts for the metrics page.
#[derive(Debug, Clone, Copy, Default)]
pub struct Gauges {
    pub objects: usize,
    pub open_objects: usize,
    pub sealed_bytes: u64,
    pub body_cache_bytes: u64,
    pub watched_names: usize,
}

pub struct Store {
    pub(super) options: StoreOptions,
    pub(super) layout: Option<Layout>,
    pub(super) handle_sets: HandleSets,
    shards: Box<[Shard]>,
    hasher: foldhash::fast::RandomState,
    next_id: AtomicU64,
    pub(super) objects: AtomicUsize,
    pub(super) open_objects: AtomicUsize,
    /// Bytes of open and sealed objects together.
    pub(super) used_bytes: AtomicU64,
    pub(super) retention: Mutex<Retention>,
    pub(super) bodies: BodyCache,
    indexes: SealedIndexes,
    watched: Mutex<HashMap<Box<str>, Arc<WakeList>>>,
    watched_count: AtomicUsize,
    /// Held open: the lock that keeps a second server out of the data directory.
    lock: Option<File>,
}

impl Store {
    /// Open the data directory, or start empty in memory. Recovery is a separate step.
    pub fn open(options: StoreOptions) -> io::Result<Arc<Store>> {
        assert!(options.extent_bytes > 0 && options.extent_bytes.is_multiple_of(4096));
        let layout = options.data.as_deref().map(Layout::new);
        let lock = layout.as_ref().map(prepare_folders).transpose()?;
        let retention = Retention::new(options.retention.clone(), options.total_bytes_max);
        Ok(Arc::new(Store {
            layout,
            handle_sets: HandleSets::new(options.open_files_max, options.mappings_max),
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: foldhash::fast::RandomState::default(),
            // Unique over restarts as long as fewer than a million objects begin per millisecond.
            next_id: AtomicU64::new((options.clock)() << 20),
            objects: AtomicUsize::new(0),
            open_objects: AtomicUsize::new(0),
            used_bytes: AtomicU64::new(0),
            retention: Mutex::new(retention),
            bodies: BodyCache::new(options.body_cache_bytes_max),
            indexes: SealedIndexes::default(),
            watched: Mutex::default(),
            watched_count: AtomicUsize::new(0),
            lock,
            options,
        }))
    }

    /// True in RAM-only mode: bytes are always in memory and have no file once they are sealed.
    pub fn is_memory_only(&self) -> bool {
        self.layout.is_none()
    }

    /// Let another server have the data directory. For after the end: this one must not touch it
    /// any more, whoever still holds it.
    pub fn release(&self) {
        // A file that cannot be unlocked stays locked: nobody is let in who should not be.
        let _ = self.lock.as_ref().map(File::unlock);
    }

    pub fn gauges(&self) -> Gauges {
        Gauges {
            objects: self.objects.load(Ordering::Relaxed),
            open_objects: self.open_objects.load(Ordering::Relaxed),
            sealed_bytes: self.retention.lock().total_bytes(),
            body_cache_bytes: self.bodies.bytes(),
            watched_names: self.watched_count.load(Ordering::Relaxed),
        }
    }

    pub(super) fn shard(&self, name: &str) -> &Shard {
        use std::hash::BuildHasher;
        let hash = self.hasher.hash_one(name);
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// The object that readers of `name` get now.
    pub fn lookup(&self, name: &str) -> Option<Arc<Object>> {
        self.shard(name).entries.read().get(name)?.visible.clone()
    }

    /// As `lookup`, and a plain file that appeared below the data directory since the start.
    pub fn lookup_or_adopt(&self, name: &str) -> Option<Arc<Object>> {
        if let Some(object) = self.lookup(name) {
            return Some(object);
        }
        let layout = self.layout.as_ref()?;
        if !format::is_object_name(name) {
            return None;
        }
        layout.object(name).symlink_metadata().ok()?;
        // A file without an entry may be one that is being deleted: wait for who does that.
        let _order = self.shard(name).commit.lock();
        self.adopt(name)
    }

    /// The plain file of this name as an object. The commit lock is held.
    pub(super) fn adopt(&self, name: &str) -> Option<Arc<Object>> {
        if let Some(entry) = self.shard(name).entries.read().get(name) {
            // The file belongs to what is in the table.
            return entry.visible.clone();
        }
        let layout = self.layout.as_ref()?;
        let now_ms = (self.options.clock)();
        let object = super::recovery::adopt_file(layout, name, now_ms)?;
        self.insert_sealed(object)
    }

    /// Enter a sealed object found on disk. `None` if the name is taken.
    pub(super) fn insert_sealed(&self, object: Object) -> Option<Arc<Object>> {
        let object = Arc::new(object);
        let mut entries = self.shard(&object.name).entries.write();
        let entry = entries.entry(object.name.clone()).or_default();
        if !entry.is_empty() {
            return entry.visible.clone();
        }
        entry.visible = Some(object.clone());
        drop(entries);
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.used_bytes.fetch_add(object.tail(), Ordering::Relaxed);
        self.retention.lock().add(&object);
        Some(object)
    }

    /// Start an object. Its writer appends; what dropping the writer does is its `ending`.
    pub fn begin(self: &Arc<Self>, new: NewObject<'_>) -> Result<Writer, BeginError> {
        if !format::is_object_name(new.name) {
            return Err(BeginError::NoName);
        }
        let shard = self.shard(new.name);
        let order = shard.commit.lock();
        let (name, core) = (new.name, new.core);
        let writer = self.begin_ordered(shard, new)?;
        drop(order);
        self.tell_watchers(name, core);
        Ok(writer)
    }

    /// As `begin`, while the commit lock is held.
    pub(super) fn begin_ordered(
        self: &Arc<Self>,
        shard: &Shard,
        new: NewObject<'_>,
    ) -> Result<Writer, BeginError> {
        if self.is_full() && self.lookup(new.name).is_none() {
            return Err(BeginError::TooManyObjects);
        }
        if new.rule == WriteRule::Refuse
            && shard.entries.read().get(new.name).is_some_and(|e| e.open_object().is_some())
        {
            return Err(BeginError::WriterActive);
        }
        if let Some(layout) = &self.layout {
            claim_path(layout, new.name)?;
        }
        let mut object = Object::open(new.name, self.new_id(), new.info, self.options.extent_bytes);
        object.ending = new.ending;
        let object = Arc::new(object);
        let first = self.first_extent(&object)?;
        self.enter_open(shard, &object, new.visibility, new.core);
        let window_bytes = self.retention.lock().window_bytes(new.name);
        Ok(Writer::new(self.clone(), object, new.core, first, window_bytes))
    }

    /// A rule of retention says what becomes of objects of this name.
    pub fn has_retention(&self, name: &str) -> bool {
        self.retention.lock().has_rule(name)
    }

    pub(super) fn is_full(&self) -> bool {
        self.objects.load(Ordering::Relaxed) >= self.options.objects_max
    }

    pub(super) fn new_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// The first extent of a new object, with its record.
    pub(super) fn first_extent(&self, object: &Arc<Object>) -> Result<Arc<File>, StorageError> {
        let first = self.add_extent(object, 0)?;
        if self.layout.is_some()
            && let Err(error) = self.open_record(object).write_to(&first)
        {
            self.doom_extents(object);
            return Err(error.into());
        }
        Ok(first)
    }

    /// Put a new open object into the table; the one that was open before is taken over.
    fn enter_open(
        &self,
        shard: &Shard,
        object: &Arc<Object>,
        visibility: Visibility,
        core: Option<usize>,
    ) {
        let mut entries = shard.entries.write();
        let entry = entries.entry(object.name.clone()).or_default();
        let overtaken = entry.open_object().cloned();
        if let Some(previous) = &overtaken {
            previous.abort(Life::TakenOver, core, &*self.options.signal);
        }
        self.count_open();
        match visibility {
            Visibility::WhenSealed => {
                // An open version was just taken over; what it hid is the present one again.
                if entry.visible.as_ref().is_some_and(|visible| visible.is_open_or_lost()) {
                    entry.visible = entry.hidden.take_if(|hidden| hidden.seal().is_some());
                }
                entry.pending = Some(object.clone());
            }
            Visibility::AtOnce => {
                entry.pending = None;
                let previous = entry.visible.replace(object.clone());
                if let Some(previous) = previous.filter(|previous| previous.seal().is_some()) {
                    entry.hidden = Some(previous);
                }
            }
        }
        // The file of a continued one has the name until the new object is sealed or given up.
        let stays = overtaken.as_ref().filter(|previous| previous.is_placed());
        if let Some(previous) = stays {
            entry.hidden = Some(previous.clone());
        }
        drop(entries);
        // Outside the table's lock: dooming may delete files.
        if let Some(previous) = overtaken {
            self.doom_extents(&previous);
        }
    }

    pub(super) fn count_open(&self) {
        self.objects.fetch_add(1, Ordering::Relaxed);
        self.open_objects.fetch_add(1, Ordering::Relaxed);
    }

    /// An open object has ended without a seal.
    pub(super) fn count_out_open(&self, object: &Object) {
        self.objects.fetch_sub(1, Ordering::Relaxed);
        self.open_objects.fetch_sub(1, Ordering::Relaxed);
        self.used_bytes.fetch_sub(object.kept_bytes(), Ordering::Relaxed);
    }

    /// A new extent of an open object, entered behind its last.
    pub(super) fn add_extent(
        &self,
        object: &Object,
        start: u64,
    ) -> Result<Arc<File>, StorageError> {
        let index = start / object.extent_bytes;
        let (place, file) = match &self.layout {
            None => (Place::Memory, memory_file()?),
            Some(layout) => {
                let path = layout.extent(object.id, index);
                let file = File::options().read(true).write(true).create_new(true).open(&path)?;
                (Place::Path(path), file)
            }
        };
        let file = Arc::new(file);
        let extent = Arc::new(Extent::new(start, object.extent_bytes, place, Some(file.clone())));
        self.handle_sets.admit_file(&extent);
        object.extents.write().list.push_back(extent);
        Ok(file)
    }

    pub(super) fn open_record(&self, object: &Object) -> Record {
        Record {
            id: object.id,
            // Recovery keeps nothing that has no name.
            name: if object.is_unnamed { String::new() } else { object.name.to_string() },
            info: object.info.clone(),
            extent_bytes: object.extent_bytes,
            ending: object.ending,
            sealed: None,
            bases: Vec::new(),
        }
    }

    /// Count an append; sweep when the store is over its size, refuse when that does not help.
    pub(super) fn account_append(&self, bytes: u64) -> Result<(), StorageError> {
        let used = self.used_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let Some(max) = self.options.total_bytes_max else {
            return Ok(());
        };
        if used > max {
            self.sweep();
            if self.used_bytes.load(Ordering::Relaxed) > max {
                self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
                let error = io::Error::other("total_bytes_max is reached by open objects");
                return Err(StorageError::NoSpace(error));
            }
        }
        Ok(())
    }

    /// Bytes were trimmed away, or counted and then not written.
    pub(super) fn account_gone(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Give a finished object its name and make it the visible version.
    pub(super) fn commit(
        &self,
        object: &Arc<Object>,
        seal: Seal,
        core: Option<usize>,
    ) -> Result<Committed, WriteError> {
        let shard = self.shard(&object.name);
        let order = shard.commit.lock();
        let mut previous = {
            let entries = shard.entries.read();
            let entry = entries.get(&object.name);
            // Taken over or removed between the last append and now.
            let entry =
                entry.filter(|entry| entry.open_object().is_some_and(|o| Arc::ptr_eq(o, object)));
            let entry = entry.ok_or(WriteError::TakenOver)?;
            entry.hidden.clone().or(entry.visible.clone().filter(|v| v.seal().is_some()))
        };
        if let Some(previous) = &previous {
            self.pin_for_readers(previous);
        }
        let folders = self.place_sealed(object)?;
        let trimmed = object.head() > 0;
        object.set_placed(false);
        object.set_sealed(seal);
        {
            let mut entries = shard.entries.write();
            let entry = entries.entry(object.name.clone()).or_default();
            entry.hidden = None;
            entry.pending = None;
            entry.visible = Some(object.clone());
        }
        object.wake_list.wake(core, &*self.options.signal);
        self.open_objects.fetch_sub(1, Ordering::Relaxed);
        self.indexes.keep(object);
        if !trimmed {
            self.retention.lock().add(object);
        }
        let replaced = previous.is_some();
        if let Some(previous) = previous.take() {
            self.retire(&previous);
        }
        drop(order);
        if trimmed {
            // Only the window of an endless object was kept: with its end the window is over.
            let _ = self.remove_version(object);
        }
        self.tell_watchers(&object.name, core);
        Ok(Committed { replaced, folders })
    }

    /// Move extent 0 to the object's name. Returns the folders that changed.
    fn place_sealed(&self, object: &Arc<Object>) -> Result<Vec<PathBuf>, WriteError> {
        let extents: Vec<_> = object.extents.read().list.iter().cloned().collect();
        let Some(layout) = &self.layout else {
            for extent in &extents {
                match extent.keep_only_mapping(&self.handle_sets) {
                    // It can be read from its files as well.
                    Err(_) if object.ending == Ending::Sealed => {}
                    kept => kept?,
                }
            }
            return Ok(Vec::new());
        };
        if object.is_placed() {
            let further = extents.len() > 1;
            return Ok(further.then(|| layout.extents_folder()).into_iter().collect());
        }
        let Some(first) = extents.first().filter(|first| first.start == 0) else {
            return Ok(Vec::new());
        };
        let (from, to) = (layout.extent(object.id, 0), layout.object(&object.name));
        let renamed = std::fs::rename(&from, &to).or_else(|error| {
            if error.kind() != io::ErrorKind::NotFound {
                return Err(error);
            }
            // The folder went away with the last object in it: make it again.
            std::fs::create_dir_all(to.parent().unwrap_or(layout.root()))?;
            std::fs::rename(&from, &to)
        });
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::AlreadyExists
            | io::ErrorKind::DirectoryNotEmpty => WriteError::NameTaken,
            _ => StorageError::from(error).into(),
        })?;
        first.moved_to(to.clone());
        let up_to_root = |path: &&Path| path.starts_with(layout.root());
        let mut folders: Vec<_> =
            to.ancestors().skip(1).take_while(up_to_root).map(Path::to_owned).collect();
        if extents.len() > 1 {
            folders.push(layout.extents_folder());
        }
        Ok(folders)
    }

    /// The writer went away without sealing: abort the object. Its readers are cut; afterwards it is
    /// gone, or with `keep_aborted` what had arrived is a sealed object (a manifest never).
    pub(super) fn end_without_seal(&self, writer: &mut Writer) {
        writer.forget_hidden();
        let object = writer.object().clone();
        object.abort(Life::Aborted, writer.core(), &*self.options.signal);
        let shard = self.shard(&object.name);
        let order = shard.commit.lock();
        let (was_visible, hidden) = leave_table(shard, &object);
        hidden.iter().for_each(|hidden| self.pin_for_readers(hidden));
        let kept = if was_visible { self.keep_torn(&object, writer.digest()) } else { None };
        match (&kept, hidden) {
            // The rename has taken the hidden version's place.
            (Some(_), Some(hidden)) => self.retire(&hidden),
            (None, Some(hidden)) => {
                self.unlink(&hidden);
                self.retire(&hidden);
            }
            (_, None) => {}
        }
        if kept.is_none() {
            self.doom_extents(&object);
        }
        self.count_out_open(&object);
        if let Some(kept) = kept {
            self.insert_sealed(kept);
        }
        drop(order);
    }

    /// The object cannot be sealed now, and its bytes must not be lost: its files stay for the next
    /// start, and a version that it hid is what it was.
    pub(super) fn leave_for_recovery(&self, object: &Arc<Object>, core: Option<usize>) {
        object.abort(Life::Aborted, core, &*self.options.signal);
        let shard = self.shard(&object.name);
        let order = shard.commit.lock();
        let (_, hidden) = leave_table(shard, object);
        if let Some(hidden) = hidden.filter(|hidden| hidden.seal().is_some()) {
            let mut entries = shard.entries.write();
            entries.entry(object.name.clone()).or_default().visible = Some(hidden);
        }
        self.count_out_open(object);
        drop(order);
    }

    /// Make what arrived of an aborted object a sealed one, if that is wanted and can be done.
    fn keep_torn(&self, object: &Arc<Object>, digest: u64) -> Option<Object> {
        let layout = self.layout.as_ref().filter(|_| self.options.keep_aborted)?;
        if object.life() != Life::Aborted || object.head() > 0 || object.tail() == 0 {
            return None;
        }
        // A refused append may have left bytes behind the tail.
        for extent in &object.extents.read().list {
            let length = object.tail().saturating_sub(extent.start).min(extent.capacity);
            let path = layout.extent(object.id, extent.start / object.extent_bytes);
            File::options().write(true).open(path).and_then(|file| file.set_len(length)).ok()?;
        }
        let first = layout.extent(object.id, 0);
        if let Some(previous) = object.extents.read().list.front() {
            previous.pin(&self.handle_sets);
        }
        super::recovery::keep_open_file(layout, &first, digest, (self.options.clock)())
    }

    /// Remove what readers of `name` see. An upload in progress of a visible object is cut; a
    /// manifest's next version, not yet visible, stays.
    pub fn remove(&self, name: &str, core: Option<usize>) -> Result<(), RemoveError> {
        let object = self.lookup_or_adopt(name).ok_or(RemoveError::Absent)?;
        match self.remove_open(&object, core) {
            // Sealed, by now perhaps. One that was aborted leaves the table with its writer.
            Err(_) if object.seal().is_some() => self.remove_version(&object),
            removed => removed,
        }
    }

    fn remove_open(&self, object: &Arc<Object>, core: Option<usize>) -> Result<(), RemoveError> {
        let shard = self.shard(&object.name);
        let _order = shard.commit.lock();
        if !object.abort(Life::Removed, core, &*self.options.signal) {
            return Err(RemoveError::Absent);
        }
        let entry = shard.entries.write().remove(&object.name);
        if let Some(hidden) = entry.and_then(|entry| entry.hidden) {
            self.pin_for_readers(&hidden);
            self.unlink(&hidden);
            self.retire(&hidden);
        }
        if object.is_placed() {
            self.take_name_away(object);
        }
        self.doom_extents(object);
        Ok(())
    }

    /// A continued object loses its file's name; readers keep the bytes. The commit lock is held.
    fn take_name_away(&self, object: &Arc<Object>) {
        self.pin_for_readers(object);
        self.unlink(object);
        object.set_placed(false);
    }

    /// Drop what lies before `keep_from`, extent by extent.
    pub(super) fn trim(&self, object: &Arc<Object>, keep_from: u64) {
        if object.is_placed() && object.can_trim(keep_from) {
            let shard = self.shard(&object.name);
            let _order = shard.commit.lock();
            if !object.is_open() {
                // Taken over: what becomes of its files is decided elsewhere.
                return;
            }
            self.take_name_away(object);
        }
        self.account_gone(object.trim(keep_from));
    }

    /// Remove this sealed version if it is still what its name leads to.
    pub fn remove_version(&self, object: &Arc<Object>) -> Result<(), RemoveError> {
        let shard = self.shard(&object.name);
        let _order = shard.commit.lock();
        {
            let mut entries = shard.entries.write();
            let entry = entries.get_mut(&object.name).ok_or(RemoveError::Absent)?;
            let is_visible = |found: &Option<Arc<Object>>| {
                found.as_ref().is_some_and(|found| Arc::ptr_eq(found, object))
            };
            if is_visible(&entry.visible) {
                entry.visible = None;
            } else if is_visible(&entry.hidden) {
                entry.hidden = None;
            } else {
                return Err(RemoveError::Absent);
            }
            if entry.is_empty() {
                entries.remove(&object.name);
            }
        }
        self.pin_for_readers(object);
        self.unlink(object);
        self.retire(object);
        Ok(())
    }

    /// Before the name leads elsewhere: readers that hold the object must still reach its bytes.
    pub(super) fn pin_for_readers(&self, object: &Arc<Object>) {
        if let Some(first) = object.extents.read().list.front().filter(|first| first.start == 0) {
            first.pin(&self.handle_sets);
        }
    }

    /// What had the name left the table: forget it everywhere.
    fn retire(&self, object: &Arc<Object>) {
        // Extent 0 has lost its name by rename or unlink; the others go with their last reader.
        for extent in object.extents.read().list.iter().filter(|extent| extent.start > 0) {
            extent.doom();
        }
        if object.seal().is_none() {
            // Continued and then taken over: its writer counts it out, and dooms what it adds meanwhile.
            object.set_placed(false);
            return;
        }
        self.retention.lock().remove(object);
        self.bodies.forget(object);
        self.objects.fetch_sub(1, Ordering::Relaxed);
        self.used_bytes.fetch_sub(object.kept_bytes(), Ordering::Relaxed);
    }

    /// Delete the files of an object without a seal when its last reader has gone; not those of a
    /// continued one that still has its name.
    pub(super) fn doom_extents(&self, object: &Object) {
        if object.is_placed() {
            return;
        }
        for extent in &object.extents.read().list {
            extent.doom();
            if extent.start == 0
                && self.layout.is_some()
                && let Ok(file) = extent.file(&self.handle_sets, 0)
            {
                // Should the server die before its last reader: recovery keeps nothing without a record.
                let _ = format::remove_record(&file);
            }
        }
    }

    /// Delete the file that has the object's name, and folders that became empty.
    fn unlink(&self, object: &Arc<Object>) {
        let Some(layout) = &self.layout else { return };
        let path = layout.object(&object.name);
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::error!(object = %object.name, %error, "cannot delete the file of a removed object");
        }
        for folder in path.ancestors().skip(1).take_while(|folder| *folder != layout.root()) {
            if std::fs::remove_dir(folder).is_err() {
                break;
            }
        }
    }

    /// Remove what retention says is due. Bounded work per call; call again while it removes.
    pub fn sweep(&self) -> Swept {
        let mut swept = Swept::default();
        let due = self
            .retention
            .lock()
            .due((self.options.clock)(), self.used_bytes.load(Ordering::Relaxed));
        for object in due {
            if self.remove_version(&object).is_ok() {
                swept.objects += 1;
                swept.bytes += object.tail();
            }
        }
        swept
    }

    /// Keep the body of a small sealed object that was just read.
    pub fn keep_body(&self, object: &Arc<Object>, body: Bytes) {
        debug_assert_eq!(body.len() as u64, object.tail());
        self.bodies.keep(object, body);
        // It may have left the table while its body was read: then nobody else would forget it.
        if !self.lookup(&object.name).is_some_and(|present| Arc::ptr_eq(&present, object)) {
            self.bodies.forget(object);
        }
    }

    /// Watch for a name that is absent. `None` when too many names are watched already.
    pub fn watch(self: &Arc<Self>, name: &str, core: usize) -> Option<Watch> {
        let mut watched = self.watched.lock();
        if watched.len() >= self.options.watched_names_max && !watched.contains_key(name) {
            return None;
        }
        let list = watched.entry(name.into()).or_default().clone();
        self.watched_count.store(watched.len(), Ordering::SeqCst);
        Some(Watch {
            store: self.clone(),
            name: name.into(),
            core_list: list.of_core(core),
            list,
            key: None,
        })
    }

    pub(super) fn tell_watchers(&self, name: &str, core: Option<usize>) {
        std::sync::atomic::fence(Ordering::SeqCst);
        if self.watched_count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let list = self.watched.lock().get(name).cloned();
        if let Some(list) = list {
            list.wake(core, &*self.options.signal);
        }
    }
}

/// Take an aborted object out of the table. Returns whether readers saw it, and what it hid.
fn leave_table(shard: &Shard, object: &Arc<Object>) -> (bool, Option<Arc<Object>>) {
    let mut entries = shard.entries.write();
    let Some(entry) = entries.get_mut(&object.name) else { return (false, None) };
    let is_it =
        |found: &Option<Arc<Object>>| found.as_ref().is_some_and(|f| Arc::ptr_eq(f, object));
    let was_visible = is_it(&entry.visible);
    let mut hidden = None;
    if was_visible {
        entry.visible = None;
        hidden = entry.hidden.take();
    }
    if is_it(&entry.pending) {
        entry.pending = None;
        if entry.visible.is_none() {
            hidden = entry.hidden.take();
        }
    }
    if entry.is_empty() {
        entries.remove(&object.name);
    }
    (was_visible, hidden)
}

impl Object {
    /// Open, or ended without a seal.
    fn is_open_or_lost(&self) -> bool {
        self.seal().is_none()
    }
}

/// A reader that waits for a name to appear.
pub struct Watch {
    store: Arc<Store>,
    name: Box<str>,
    list: Arc<WakeList>,
    core_list: Arc<CoreList>,
    key: Option<usize>,
}

impl Watch {
    /// Ready with the object as soon as its upload has started (a manifest's: has ended).
    pub fn poll_present(&mut self, context: &mut Context<'_>) -> Poll<Arc<Object>> {
        self.core_list.arm(&mut self.key, context.waker());
        match self.store.lookup(&self.name) {
            Some(object) => Poll::Ready(object),
            None => Poll::Pending,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.core_list.leave(key);
        }
        let mut watched = self.store.watched.lock();
        // Two references are the table's and ours: nobody else waits for this name.
        if Arc::strong_count(&self.list) <= 2 {
            watched.remove(&self.name);
        }
        self.store.watched_count.store(watched.len(), Ordering::SeqCst);
    }
}

/// Make the store's own folders and lock them against a second server.
fn prepare_folders(layout: &Layout) -> io::Result<File> {
    for folder in [layout.open_folder(), layout.extents_folder(), layout.damaged_folder()] {
        std::fs::create_dir_all(&folder)?;
    }
    let lock = File::create(layout.lock_file())?;
    lock.try_lock().map_err(|_| {
        let text = format!("another server holds the data directory {}", layout.root().display());
        io::Error::new(io::ErrorKind::AddrInUse, text)
    })?;
    format::probe_attributes(&lock).map_err(|error| {
        let text = format!(
            "the file system of {} has no user extended attributes ({error}): use ext4, xfs, btrfs, or \
             tmpfs since Linux 6.6",
            layout.root().display()
        );
        io::Error::new(error.kind(), text)
    })?;
    Ok(lock)
}

/// Check that a file may get the object's name, and make the folders above it.
fn claim_path(layout: &Layout, name: &str) -> Result<(), BeginError> {
    let path = layout.object(name);
    let parent = path.parent().unwrap_or(layout.root());
    if let Err(error) = std::fs::create_dir_all(parent) {
        return Err(match error.kind() {
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => BeginError::BelowObject,
            _ => StorageError::from(error).into(),
        });
    }
    match std::fs::symlink_metadata(&path) {
        // An empty folder is a left-over of objects that are gone.
        Ok(found) if found.is_dir() => std::fs::remove_dir(&path).map_err(|_| BeginError::IsFolder),
        _ => Ok(()),
    }
}

fn memory_file() -> io::Result<File> {
    Ok(File::from(rustix::fs::memfd_create("headwater", rustix::fs::MemfdFlags::CLOEXEC)?))
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::super::reader::Reader;
    use super::*;

    fn upload(store: &Arc<Store>, name: &str, body: &[u8]) -> Writer {
        let mut writer = store
            .begin(NewObject {
                name,
                info: ObjectInfo::default(),
                visibility: Visibility::AtOnce,
                rule: WriteRule::TakeOver,
                ending: Ending::Torn,
                core: None,
            })
            .unwrap();
        writer.append(&[IoSlice::new(body)]).unwrap();
        writer
    }

    /// Goal: who found a sealed version can read it, whatever happens to its name before its file
    /// is opened.
    /// Method: a store that keeps no file open; the next version is torn, removed, or sealed.
    #[test]
    fn a_version_that_was_found_can_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(StoreOptions {
            data: Some(folder.path().to_owned()),
            open_files_max: 1,
            mappings_max: 1,
            ..StoreOptions::in_memory()
        })
        .unwrap();
        type End = fn(&Arc<Store>, Writer);
        let ends: [End; 3] = [
            |_, next| drop(next),
            |store, _next| store.remove("a.mp4", None).unwrap(),
            |_, next| drop(next.finish().unwrap().commit().unwrap()),
        ];
        for end in ends {
            upload(&store, "a.mp4", b"first").finish().unwrap().commit().unwrap();
            let found = store.lookup("a.mp4").unwrap();
            let next = upload(&store, "a.mp4", b"next");
            // Several admissions, since each open file has a second chance.
            drop((upload(&store, "x", b"x"), upload(&store, "y", b"y")));
            end(&store, next);
            let mut reader = Reader::new(&store, found, 0, 0, 5);
            assert_eq!(reader.read_at(5).unwrap().len, 5);
        }
    }
}
