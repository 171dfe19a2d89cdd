//! What a start finds in the data directory, and what it makes of it.
//!
//! Every file outside the store's own folder is a sealed object: with a record if Headwater wrote
//! it, plain otherwise. Files in the open folder are uploads that a dead process left: deleted, or
//! sealed as torn (`on_abort = "keep"`). A sealed file that is shorter than its record says was torn
//! by a power cut; it is moved to the damaged folder and never served.

use std::collections::{HashSet, VecDeque};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use xxhash_rust::xxh3::Xxh3;

use super::Millis;
use super::directory::Store;
use super::extent::{Extent, Place};
use super::format::{self, Layout, Record, SealRecord};
use super::object::{Object, ObjectInfo, Seal};

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
        let mut ids = HashSet::new();
        let mut folders = vec![layout.root().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let kind = entry.file_type()?;
                if kind.is_dir() && entry.file_name() != format::OWN_FOLDER {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    self.recover_file(layout, &entry.path(), &mut ids, &mut found);
                }
            }
        }
        recover_extents(layout, &ids, &mut found)?;
        Ok(found)
    }

    fn recover_file(
        &self,
        layout: &Layout,
        path: &Path,
        ids: &mut HashSet<u64>,
        found: &mut Recovered,
    ) {
        let Some(name) = name_of_path(layout, path) else {
            return;
        };
        match sealed_object(layout, &name, path) {
            Ok(Some(object)) => {
                ids.insert(object.id);
                found.objects += 1;
                found.bytes += object.tail();
                self.insert_sealed(object);
            }
            Ok(None) => {}
            Err(Damaged) => {
                found.damaged += 1;
                let target = layout.damaged_folder().join(name.replace('/', "%2F"));
                tracing::error!(object = %name, moved_to = %target.display(),
                    "bytes of a sealed object are missing (power cut?): not served");
                let _ = std::fs::rename(path, target);
            }
        }
    }

    fn recover_open(&self, layout: &Layout, found: &mut Recovered) -> io::Result<()> {
        for entry in std::fs::read_dir(layout.open_folder())? {
            let path = entry?.path();
            let now_ms = (self.options.clock)();
            if self.options.keep_aborted && keep_open_file(layout, &path, None, now_ms).is_some() {
                found.kept += 1;
                continue;
            }
            std::fs::remove_file(&path)?;
            found.aborted += 1;
        }
        Ok(())
    }
}

/// Seal what an interrupted upload left at `path` in the open folder, and give it its name. One that
/// was complete but for its name is complete. `None` if nothing of it can be kept.
pub(super) fn keep_open_file(
    layout: &Layout,
    path: &Path,
    digest: Option<u64>,
    sealed_ms: Millis,
) -> Option<Object> {
    let record = Record::read_from(path).filter(|record| format::is_object_name(&record.name))?;
    let target = layout.object(&record.name);
    if std::fs::symlink_metadata(&target).is_ok_and(|found| found.is_dir()) {
        return None;
    }
    if record.sealed.is_none() {
        let (digest, length) = measure_extents(layout, &record, path, digest).ok()?;
        if length == 0 {
            return None;
        }
        let sealed = Some(SealRecord { length, digest, sealed_ms, torn: true });
        let file = std::fs::File::options().write(true).open(path).ok()?;
        Record { sealed, ..record.clone() }.write_to(&file).ok()?;
    }
    std::fs::create_dir_all(target.parent()?).ok()?;
    std::fs::rename(path, &target).ok()?;
    sealed_object(layout, &record.name, &target).ok().flatten()
}

/// Delete extents whose object is not there.
fn recover_extents(layout: &Layout, ids: &HashSet<u64>, found: &mut Recovered) -> io::Result<()> {
    for entry in std::fs::read_dir(layout.extents_folder())? {
        let entry = entry?;
        let owner = entry.file_name().to_str().and_then(format::parse_extent_name);
        if owner.is_none_or(|(id, _)| !ids.contains(&id)) {
            std::fs::remove_file(entry.path())?;
            found.orphans += 1;
        }
    }
    Ok(())
}

/// Digest and length of an interrupted upload: its extents as long as they are full. A digest that is
/// known already is taken.
fn measure_extents(
    layout: &Layout,
    record: &Record,
    first: &Path,
    known: Option<u64>,
) -> io::Result<(u64, u64)> {
    let (mut digest, mut length) = (Xxh3::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    for index in 0.. {
        let path = if index == 0 { first.to_owned() } else { layout.extent(record.id, index) };
        let mut file = match std::fs::File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(error),
        };
        let extent_length = file.metadata()?.len();
        while known.is_none() {
            let got = file.read(&mut buffer)?;
            if got == 0 {
                break;
            }
            digest.update(&buffer[..got]);
        }
        length += extent_length;
        if extent_length < record.extent_bytes {
            break;
        }
    }
    Ok((known.unwrap_or_else(|| digest.digest()), length))
}

fn name_of_path(layout: &Layout, path: &Path) -> Option<String> {
    let relative = path.strip_prefix(layout.root()).ok()?.to_str()?;
    let name = format::name_of_file(relative);
    format::is_object_name(&name).then_some(name)
}

/// A plain file that appeared since the start, as an object.
pub(super) fn adopt_file(layout: &Layout, name: &str, path: &Path) -> Option<Object> {
    sealed_object(layout, name, path).ok().flatten()
}

struct Damaged;

/// The object that the file at `path` is; `None` if there is none (gone, or not a regular file).
fn sealed_object(layout: &Layout, name: &str, path: &Path) -> Result<Option<Object>, Damaged> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(None);
    };
    if !metadata.is_file() {
        return Ok(None);
    }
    let record = Record::read_from(path).filter(|record| record.name == name);
    let Some((record, seal)) = record.and_then(|mut r| r.sealed.take().map(|seal| (r, seal)))
    else {
        return Ok(Some(plain_object(name, path, &metadata)));
    };
    let first_length = seal.length.min(record.extent_bytes);
    if metadata.len() != first_length {
        // Changed on purpose after the seal, or torn by a power cut?
        let changed_later = modified_ms(&metadata) > seal.sealed_ms + 2000;
        let plain = changed_later.then(|| plain_object(name, path, &metadata));
        return plain.map(Some).ok_or(Damaged);
    }
    let mut extents = VecDeque::new();
    for index in 0..seal.length.div_ceil(record.extent_bytes).max(1) {
        let start = index * record.extent_bytes;
        let at = if index == 0 { path.to_owned() } else { layout.extent(record.id, index) };
        let length = (seal.length - start).min(record.extent_bytes);
        if index > 0 && !std::fs::metadata(&at).is_ok_and(|found| found.len() >= length) {
            return Err(Damaged);
        }
        extents.push_back(Arc::new(Extent::new(start, record.extent_bytes, Place::Path(at), None)));
    }
    let etag = Seal::content_etag(seal.length, seal.digest);
    let seal = Seal { etag, modified_ms: seal.sealed_ms, length: seal.length };
    Ok(Some(Object::sealed(name, record.id, record.info, extents, seal)))
}

/// A file without a record: its entity tag is made of what the file system knows.
fn plain_object(name: &str, path: &Path, metadata: &std::fs::Metadata) -> Object {
    let length = metadata.len();
    let modified_ns = metadata.mtime() as i128 * 1_000_000_000 + i128::from(metadata.mtime_nsec());
    let seal = Seal {
        etag: format!("\"{length:x}-m{modified_ns:x}\""),
        modified_ms: modified_ms(metadata),
        length,
    };
    let extent = Extent::new(0, length.max(1), Place::Path(path.to_owned()), None);
    let info = ObjectInfo { created_ms: seal.modified_ms, ..ObjectInfo::default() };
    let id = PLAIN_ID.fetch_add(1, Ordering::Relaxed);
    Object::sealed(name, id, info, VecDeque::from([Arc::new(extent)]), seal)
}

/// Ids of plain files: below every id made of a time.
static PLAIN_ID: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);

fn modified_ms(metadata: &std::fs::Metadata) -> u64 {
    let ms = metadata.mtime() * 1000 + metadata.mtime_nsec() / 1_000_000;
    u64::try_from(ms).unwrap_or(0)
}
