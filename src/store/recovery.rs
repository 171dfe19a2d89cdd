//! What a start finds in the data directory, and what it makes of it.
//!
//! Every file outside the store's own folder is a sealed object: with a record if Headwater wrote
//! it, plain otherwise. Files in the open folder are uploads that a dead process left: deleted, or
//! sealed as torn (`on_abort = "keep"`). What was appended to is sealed as far as its bytes go, in the
//! open folder or under its name. A sealed file that is shorter than its record says was torn by a
//! power cut; it is moved to the damaged folder and never served, unless it was continued and is all
//! there up to a place where it was sealed before.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Millis;
use super::digest::{Base, Fingerprint, hasher_behind};
use super::directory::Store;
use super::extent::{Extent, Place};
use super::format::{self, Layout, Record, SealRecord};
use super::object::{Ending, Object, ObjectInfo, Seal};

/// What recovery did, for the log and the metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    pub objects: usize,
    pub bytes: u64,
    /// Uploads that had not ended: deleted.
    pub aborted: usize,
    /// Uploads that had not ended: sealed as far as they came.
    pub kept: usize,
    /// Sealed objects whose bytes are missing.
    pub damaged: usize,
    /// Extents whose object is gone: deleted.
    pub orphans: usize,
}

impl Store {
    /// Read the data directory. Called once, before readers and writers.
    pub fn recover(&self) -> io::Result<Recovered> {
        let mut found = Recovered::default();
        let Some(layout) = &self.layout else {
            return Ok(found);
        };
        self.recover_open(layout, &mut found)?;
        let mut owners = HashMap::new();
        let mut folders = vec![layout.root().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() && entry.file_name() != format::OWN_FOLDER {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    self.recover_file(layout, &entry.path(), &mut owners, &mut found);
                }
            }
        }
        recover_extents(layout, &owners, &mut found)?;
        Ok(found)
    }

    fn recover_file(
        &self,
        layout: &Layout,
        path: &Path,
        owners: &mut HashMap<u64, u64>,
        found: &mut Recovered,
    ) {
        let Some(name) = name_of_path(layout, path) else {
            return;
        };
        match sealed_object(layout, &name, path, (self.options.clock)()) {
            Ok(Some(object)) => {
                owners.insert(object.id, object.extents.read().list.len() as u64);
                found.objects += 1;
                found.bytes += object.tail();
                self.insert_sealed(object);
            }
            Ok(None) => {}
            Err(Damaged) => {
                found.damaged += 1;
                set_aside(layout, path, &name, "its bytes are missing (power cut?)");
            }
        }
    }

    fn recover_open(&self, layout: &Layout, found: &mut Recovered) -> io::Result<()> {
        for entry in std::fs::read_dir(layout.open_folder())? {
            let path = entry?.path();
            let now_ms = (self.options.clock)();
            let record = Record::read_from(&path).filter(|r| format::is_object_name(&r.name));
            let must_stay = |record: &Record| record.ending == Ending::Sealed;
            let wanted = record.filter(|record| must_stay(record) || self.options.keep_aborted);
            match wanted {
                Some(record) if place_open_file(layout, &record, &path, None, now_ms).is_some() => {
                    found.kept += 1;
                }
                Some(record) if must_stay(&record) => {
                    set_aside(layout, &path, &record.name, "its name is taken, or cannot be had");
                    found.damaged += 1;
                }
                _ => {
                    std::fs::remove_file(&path)?;
                    found.aborted += 1;
                }
            }
        }
        Ok(())
    }
}

/// Take a file out of service.
fn set_aside(layout: &Layout, path: &Path, name: &str, reason: &str) {
    let target = layout.damaged_folder().join(name.replace('/', "%2F"));
    tracing::error!(object = %name, moved_to = %target.display(), "not served: {reason}");
    let _ = std::fs::rename(path, target);
}

/// The sealed object that an aborted upload is made, whose file lies at `path` in the open folder.
pub(super) fn keep_open_file(
    layout: &Layout,
    path: &Path,
    digest: u64,
    sealed_ms: Millis,
) -> Option<Object> {
    let record = Record::read_from(path)?;
    let target = place_open_file(layout, &record, path, Some(digest), sealed_ms)?;
    sealed_object(layout, &record.name, &target, sealed_ms).ok().flatten()
}

/// Seal what an interrupted upload left at `path` in the open folder, and give it its name. One that
/// was complete but for its name is complete. `None` if nothing of it can be kept.
fn place_open_file(
    layout: &Layout,
    record: &Record,
    path: &Path,
    digest: Option<u64>,
    sealed_ms: Millis,
) -> Option<PathBuf> {
    let target = layout.object(&record.name);
    match std::fs::symlink_metadata(&target) {
        // An empty folder is a left-over of objects that are gone.
        Ok(found) if found.is_dir() => std::fs::remove_dir(&target).ok()?,
        // The name was given to something newer.
        Ok(found) if changed_at(&found) > changed_at(&path.symlink_metadata().ok()?) => {
            return None;
        }
        _ => {}
    }
    if record.sealed.is_none() {
        let (digest, length) = measure(layout, record, path, None, digest).ok()?;
        let torn = record.ending == Ending::Torn;
        if length == 0 && torn {
            return None;
        }
        let sealed = Some(SealRecord { length, digest, sealed_ms, torn });
        write_record(&Record { sealed, ..record.clone() }, path).ok()?;
    }
    std::fs::create_dir_all(target.parent()?).ok()?;
    std::fs::rename(path, &target).ok()?;
    Some(target)
}

fn write_record(record: &Record, path: &Path) -> io::Result<()> {
    record.write_to(&std::fs::File::options().write(true).open(path)?)
}

/// Delete extents whose object is not there, or does not reach so far.
fn recover_extents(
    layout: &Layout,
    owners: &HashMap<u64, u64>,
    found: &mut Recovered,
) -> io::Result<()> {
    for entry in std::fs::read_dir(layout.extents_folder())? {
        let entry = entry?;
        let named = entry.file_name().to_str().and_then(format::parse_extent_name);
        let is_owned =
            named.is_some_and(|(id, index)| owners.get(&id).is_some_and(|count| index < *count));
        if !is_owned {
            std::fs::remove_file(entry.path())?;
            found.orphans += 1;
        }
    }
    Ok(())
}

/// Digest and length of what is there of an object: its extents as long as they are full. Bytes below
/// `base` are not read. A digest that is known already is taken.
fn measure(
    layout: &Layout,
    record: &Record,
    first: &Path,
    base: Option<&Base>,
    known: Option<u64>,
) -> io::Result<(u64, u64)> {
    let (mut hasher, mut length) = (hasher_behind(base), 0);
    let unread = base.map_or(0, |base| base.length);
    let mut buffer = vec![0; 1 << 20];
    for index in 0.. {
        let path = if index == 0 { first.to_owned() } else { layout.extent(record.id, index) };
        let mut file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let extent_length = file.metadata()?.len().min(record.extent_bytes);
        file.seek(SeekFrom::Start(unread.saturating_sub(length).min(extent_length)))?;
        while known.is_none() {
            let got = file.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            hasher.update(&buffer[..got]);
        }
        length += extent_length;
        if extent_length < record.extent_bytes {
            break;
        }
    }
    Ok((known.unwrap_or_else(|| hasher.digest()), length))
}

fn name_of_path(layout: &Layout, path: &Path) -> Option<String> {
    let relative = path.strip_prefix(layout.root()).ok()?.to_str()?;
    let name = format::name_of_file(relative);
    format::is_object_name(&name).then_some(name)
}

/// A plain file that appeared since the start, as an object.
pub(super) fn adopt_file(layout: &Layout, name: &str, now_ms: Millis) -> Option<Object> {
    sealed_object(layout, name, &layout.object(name), now_ms).ok().flatten()
}

struct Damaged;

/// The object that the file at `path` is; `None` if there is none (gone, or not a regular file).
fn sealed_object(
    layout: &Layout,
    name: &str,
    path: &Path,
    now_ms: Millis,
) -> Result<Option<Object>, Damaged> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(None);
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    let plain = || Ok(Some(plain_object(name, path, &metadata)));
    let Some(mut record) = Record::read_from(path).filter(|record| record.name == name) else {
        return plain();
    };
    if let Some(base) = record.open_base() {
        return seal_behind(layout, record, path, base, now_ms);
    }
    let Some(seal) = record.sealed.take() else {
        return match record.ending {
            Ending::Torn => plain(),
            Ending::Sealed => seal_now(layout, record, path, None, now_ms),
        };
    };
    let first_length = seal.length.min(record.extent_bytes);
    // Changed on purpose after the seal, or torn by a power cut?
    if metadata.len() != first_length && modified_ms(&metadata) > seal.sealed_ms + 2000 {
        return plain();
    }
    let is_whole = metadata.len() == first_length && has_extents(layout, &record, seal.length);
    match record.bases.last().copied() {
        _ if is_whole => Ok(Some(object_of(layout, record, path, seal))),
        // What came behind its last continuation is not all there, what was sealed before it is.
        Some(base) => {
            tracing::error!(object = %name, length = seal.length,
                "bytes of a continued object are missing (power cut?): sealed as far as they go");
            seal_behind(layout, record, path, base, now_ms)
        }
        None => Err(Damaged),
    }
}

/// An object that was open behind `base` when the server died, or could not be sealed there.
fn seal_behind(
    layout: &Layout,
    mut record: Record,
    path: &Path,
    base: Base,
    now_ms: Millis,
) -> Result<Option<Object>, Damaged> {
    let (_, length) = measure(layout, &record, path, None, Some(0)).map_err(|_| Damaged)?;
    if length > base.length {
        return seal_now(layout, record, path, Some(&base), now_ms);
    }
    if length < base.length {
        return Err(Damaged);
    }
    // Nothing came: it is what it was.
    record.bases.pop();
    let before = match (record.sealed.take().filter(|seal| seal.length == length), base.fingerprint)
    {
        (Some(seal), _) => seal,
        (None, Fingerprint::Digest(digest)) => {
            SealRecord { length, digest, sealed_ms: now_ms, torn: false }
        }
        (None, Fingerprint::Modified(_)) => {
            let file = std::fs::File::options().write(true).open(path);
            let _ = file.and_then(|file| format::remove_record(&file));
            let metadata = std::fs::symlink_metadata(path).map_err(|_| Damaged)?;
            return Ok(Some(plain_object(&record.name, path, &metadata)));
        }
    };
    Ok(Some(sealed_with(layout, record, path, before)))
}

/// Seal all that is there; bytes below `base` are not read.
fn seal_now(
    layout: &Layout,
    record: Record,
    path: &Path,
    base: Option<&Base>,
    now_ms: Millis,
) -> Result<Option<Object>, Damaged> {
    let (digest, length) = measure(layout, &record, path, base, None).map_err(|_| Damaged)?;
    tracing::info!(object = %record.name, length, "was open: sealed as far as its bytes go");
    let seal = SealRecord { length, digest, sealed_ms: now_ms, torn: false };
    Ok(Some(sealed_with(layout, record, path, seal)))
}

fn sealed_with(layout: &Layout, record: Record, path: &Path, seal: SealRecord) -> Object {
    let record = Record { sealed: Some(seal.clone()), ..record };
    if let Err(error) = write_record(&record, path) {
        tracing::error!(object = %record.name, %error, "the record of an appended object cannot be written");
    }
    object_of(layout, record, path, seal)
}

/// All extents but the first are there.
fn has_extents(layout: &Layout, record: &Record, length: u64) -> bool {
    (1..length.div_ceil(record.extent_bytes)).all(|index| {
        let wanted = (length - index * record.extent_bytes).min(record.extent_bytes);
        let found = std::fs::metadata(layout.extent(record.id, index));
        found.is_ok_and(|found| found.len() >= wanted)
    })
}

fn object_of(layout: &Layout, record: Record, path: &Path, seal: SealRecord) -> Object {
    let count = seal.length.div_ceil(record.extent_bytes).max(1);
    let extent = |index| {
        let at = if index == 0 { path.to_owned() } else { layout.extent(record.id, index) };
        let start = index * record.extent_bytes;
        Arc::new(Extent::new(start, record.extent_bytes, Place::Path(at), None))
    };
    let extents: VecDeque<_> = (0..count).map(extent).collect();
    let seal = Seal::of_content(seal.length, seal.digest, seal.sealed_ms);
    Object::sealed(&record.name, record.id, record.info, extents, seal)
}

/// A file without a record: its entity tag is made of what the file system knows.
fn plain_object(name: &str, path: &Path, metadata: &std::fs::Metadata) -> Object {
    let length = metadata.len();
    let modified_ns = changed_at(metadata);
    let seal = Seal {
        etag: format!("\"{length:x}-m{modified_ns:x}\""),
        modified_ms: modified_ms(metadata),
        length,
        fingerprint: Fingerprint::Modified(modified_ns as u64),
    };
    let extent = Extent::new(0, length.max(1), Place::Path(path.to_owned()), None);
    let info = ObjectInfo { created_ms: seal.modified_ms, ..ObjectInfo::default() };
    let id = PLAIN_ID.fetch_add(1, Ordering::Relaxed);
    Object::sealed(name, id, info, VecDeque::from([Arc::new(extent)]), seal)
}

/// Ids of plain files: below every id made of a time.
static PLAIN_ID: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

/// Nanoseconds since the Unix epoch.
fn changed_at(metadata: &std::fs::Metadata) -> i128 {
    i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec())
}

fn modified_ms(metadata: &std::fs::Metadata) -> u64 {
    let ms = metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
    u64::try_from(ms).unwrap_or(0)
}
