//! Sealed objects that are continued: what readers see, what is on disk at every step, and what a start
//! makes of it. A crash is a copy of the data directory, taken while the store is at work.

use std::fs::File;
use std::io::IoSlice;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

use super::digest::Fingerprint;
use super::directory::{NewObject, Store, StoreOptions, Visibility, WriteRule};
use super::error::BeginError;
use super::format::Record;
use super::messages::{MessageEnd, MessageKind, Partial};
use super::object::{Ending, Life, Object, ObjectInfo};
use super::reader::{Available, Reader};
use super::recovery::Recovered;
use super::retention::RetentionRule;
use super::writer::Writer;
use super::writer_tests::{
    EXTENT_BYTES, content, etag, files, new_object, options, pattern, put, seal, used_bytes,
};

const E: usize = EXTENT_BYTES as usize;
/// Lengths around the ends of extents.
const LENGTHS: [usize; 7] = [1, 100, E - 1, E, E + 1, 2 * E, 10_000];

struct Disk {
    folder: TempDir,
    store: Arc<Store>,
    recovered: Recovered,
}

impl Disk {
    fn new() -> Disk {
        Disk::open(tempfile::tempdir().unwrap(), |options| options)
    }

    fn open(folder: TempDir, change: impl Fn(StoreOptions) -> StoreOptions) -> Disk {
        let store = Store::open(change(options(Some(folder.path().to_owned())))).unwrap();
        let recovered = store.recover().unwrap();
        Disk { folder, store, recovered }
    }

    /// The data directory as it is now.
    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        let from = self.folder.path().join(".");
        assert!(
            Command::new("cp").arg("-a").arg(from).arg(copy.path()).status().unwrap().success()
        );
        copy
    }

    /// What a start finds if the server dies now.
    fn crash(&self) -> Disk {
        Disk::open(self.copy(), |options| options)
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn record(&self, name: &str) -> Option<Record> {
        Record::read_from(&self.path().join(name))
    }

    /// The object is sealed with these bytes and this tag, and stays so over another start.
    fn holds(&self, name: &str, bytes: &[u8], tag: &str) {
        let object = self.store.lookup(name).unwrap_or_else(|| panic!("{name} is gone"));
        assert_eq!(object.seal().expect("sealed").etag, tag);
        assert_eq!(content(&self.store, &object), bytes);
        let record = self.record(name).expect("it has a record");
        assert_eq!(record.open_base(), None);
        assert_eq!(record.sealed.map(|sealed| sealed.length), Some(bytes.len() as u64));
        assert_eq!(check(&self.path().join(name), bytes), tag);
        let again = self.crash();
        let object = again.store.lookup(name).expect("it is there after another start");
        assert_eq!(object.seal().unwrap().etag, tag);
        assert_eq!(files(again.path()), files(self.path()));
        assert_eq!(used_bytes(&self.store), self.store.gauges().sealed_bytes);
    }
}

/// The tag as the document says that it can be checked: from base to base.
fn check(path: &Path, bytes: &[u8]) -> String {
    let record = Record::read_from(path).unwrap();
    let sealed = record.sealed.unwrap();
    let mut steps: Vec<_> = record.bases.iter().map(|base| base.length as usize).collect();
    steps.push(bytes.len());
    for (at, base) in record.bases.iter().enumerate() {
        let digest = chain(base.fingerprint, base.length as usize, &bytes[..steps[at + 1]]);
        match record.bases.get(at + 1) {
            Some(next) => assert_eq!(next.fingerprint, Fingerprint::Digest(digest)),
            None => assert_eq!(digest, sealed.digest),
        }
    }
    if record.bases.is_empty() {
        assert_eq!(xxh3_64(bytes), sealed.digest);
    }
    etag(bytes.len(), sealed.digest)
}

/// The digest of `bytes`, of which the first `length` were sealed before.
fn chain(fingerprint: Fingerprint, length: usize, bytes: &[u8]) -> u64 {
    let (Fingerprint::Digest(value) | Fingerprint::Modified(value)) = fingerprint;
    let mut hashed = value.to_le_bytes().to_vec();
    hashed.extend((length as u64).to_le_bytes());
    hashed.extend(&bytes[length..]);
    xxh3_64(&hashed)
}

/// The tag of `bytes` that were sealed in these steps.
fn chained_etag(bytes: &[u8], steps: &[usize]) -> String {
    let mut digest = xxh3_64(&bytes[..steps[0]]);
    for step in steps.windows(2) {
        digest = chain(Fingerprint::Digest(digest), step[0], &bytes[..step[1]]);
    }
    etag(bytes.len(), digest)
}

fn resume(store: &Arc<Store>, name: &str) -> Writer {
    store.resume(NewObject { rule: WriteRule::Refuse, ..new_object(name) }).unwrap()
}

fn upload(store: &Arc<Store>, name: &str, bytes: &[u8]) -> Arc<Object> {
    let mut writer = store.begin(new_object(name)).unwrap();
    put(&mut writer, bytes);
    seal(writer)
}

fn stores() -> [(Option<TempDir>, Arc<Store>); 2] {
    let folder = tempfile::tempdir().unwrap();
    let disk = Store::open(options(Some(folder.path().to_owned()))).unwrap();
    [(Some(folder), disk), (None, Store::open(options(None)).unwrap())]
}

/// Goal: a continued object is the old bytes with the new ones behind them, under the same name and
/// with the same header fields; who holds the old one keeps it; the counts are right all the time.
/// Method: old and new lengths around the ends of extents, on disk and in memory, twice over.
#[test]
fn a_sealed_object_is_continued_at_its_end() {
    for (folder, store) in stores() {
        for old in LENGTHS {
            for new in [1, E - 1, E, 3 * E + 5] {
                let all = pattern(0, old + 2 * new);
                let info = ObjectInfo {
                    headers: vec![("Content-Type".into(), "text/x".into())],
                    created_ms: 5,
                    expires_ms: None,
                };
                let mut writer = store.begin(NewObject { info, ..new_object("log/a") }).unwrap();
                put(&mut writer, &all[..old]);
                let first = seal(writer);
                let mut versions = vec![first];
                for end in [old + new, old + 2 * new] {
                    let before = versions.last().unwrap().clone();
                    let mut writer = resume(&store, "log/a");
                    let object = writer.object().clone();
                    let start = object.tail() as usize;
                    assert!(Arc::ptr_eq(&store.lookup("log/a").unwrap(), &object));
                    assert_eq!((object.life(), object.tail()), (Life::Open, before.tail()));
                    let gauges = store.gauges();
                    assert_eq!((gauges.objects, gauges.open_objects), (1, 1));
                    assert_eq!((used_bytes(&store), gauges.sealed_bytes), (start as u64, 0));
                    put(&mut writer, &all[start..end]);
                    assert_eq!(content(&store, &before), all[..start]);
                    assert_eq!(used_bytes(&store), end as u64);
                    seal(writer);
                    assert_eq!(object.info, before.info);
                    assert_eq!(content(&store, &object), all[..end]);
                    versions.push(object);
                }
                let tag = chained_etag(&all, &[old, old + new, old + 2 * new]);
                assert_eq!(versions[2].seal().unwrap().etag, tag);
                assert_eq!(store.gauges().sealed_bytes, all.len() as u64);
                // Nobody is harmed by the end of the name, whichever version he holds.
                store.remove("log/a", None).unwrap();
                for version in &versions {
                    assert_eq!(content(&store, version), all[..version.tail() as usize]);
                }
                drop(versions);
                assert_eq!((used_bytes(&store), store.gauges().objects), (0, 0));
                assert_eq!(folder.as_ref().map(|f| files(f.path())).unwrap_or_default(), []);
            }
        }
    }
}

#[test]
fn an_absent_object_begins_and_an_empty_one_has_no_base() {
    for (_folder, store) in stores() {
        let mut writer = resume(&store, "a/b");
        assert_eq!(writer.object().tail(), 0);
        drop(writer);
        assert_eq!(store.lookup("a/b").unwrap().seal().unwrap().length, 0);
        writer = resume(&store, "a/b");
        put(&mut writer, b"text");
        drop(writer);
        let tag = etag(4, xxh3_64(b"text"));
        assert_eq!(store.lookup("a/b").unwrap().seal().unwrap().etag, tag);
    }
}

#[test]
fn a_second_writer_is_refused_or_takes_over() {
    for (_folder, store) in stores() {
        upload(&store, "a", b"old");
        let first = resume(&store, "a");
        let refused = store.resume(NewObject { rule: WriteRule::Refuse, ..new_object("a") });
        assert!(matches!(refused, Err(BeginError::WriterActive)));
        let mut second = store.resume(new_object("a")).unwrap();
        assert_eq!(first.object().life(), Life::TakenOver);
        assert_eq!(second.object().tail(), 0);
        put(&mut second, b"new");
        drop(first);
        drop(second);
        assert_eq!(content(&store, &store.lookup("a").unwrap()), b"new");
        assert_eq!((store.gauges().objects, store.gauges().open_objects), (1, 0));
        assert_eq!(used_bytes(&store), 3);
    }
}

/// Goal: an object that was opened and brought nothing is what it was, in memory and on disk.
/// Method: a writer that appends nothing, and one whose bytes all stay hidden; a recorded object and a
/// plain file; also if the server dies meanwhile.
#[test]
fn an_object_that_brought_nothing_is_what_it_was() {
    for length in [0, 5, E, 9000] {
        let disk = Disk::new();
        let bytes = pattern(0, length);
        upload(&disk.store, "made", &bytes);
        std::fs::write(disk.path().join("plain"), &bytes).unwrap();
        for name in ["made", "plain"] {
            for hidden in [0, 3, 2 * E] {
                let before = disk.store.lookup_or_adopt(name).unwrap();
                let (seal_before, record) = (before.seal().unwrap().clone(), disk.record(name));
                let mut writer = resume(&disk.store, name);
                let more = pattern(length, hidden);
                writer.append_messages(&[IoSlice::new(&more)], &[], Partial::Hidden).unwrap();
                assert_eq!(
                    used_bytes(&disk.store),
                    disk.bytes_of_others(name) + (length + hidden) as u64
                );
                let is_open = disk.record(name) != record;
                assert_eq!(is_open, hidden > 0, "the record is touched with the first byte");
                drop(writer);
                let after = disk.store.lookup(name).unwrap();
                assert_eq!(after.seal().unwrap(), &seal_before);
                assert_eq!(content(&disk.store, &after), bytes);
                assert_eq!(disk.record(name), record);
                assert_eq!(
                    disk.path().join(name).metadata().unwrap().len(),
                    length.min(if name == "plain" { length } else { E }) as u64
                );
            }
        }
        assert_eq!(disk.crash().recovered.objects, 2);
        assert_eq!(
            files(&disk.path().join(".headwater/extents")).len(),
            length.saturating_sub(1) / E
        );
    }
}

impl Disk {
    fn bytes_of_others(&self, name: &str) -> u64 {
        let others = ["made", "plain"].into_iter().filter(|other| *other != name);
        others.filter_map(|other| self.store.lookup(other)).map(|object| object.tail()).sum()
    }
}

/// Goal: a plain file can be continued, also one that is longer than an extent.
#[test]
fn a_plain_file_gets_a_record_when_it_grows() {
    for length in [0, 1, E - 1, E, E + 1, 10_000] {
        let disk = Disk::new();
        let all = pattern(0, length + 20_000);
        let path = disk.path().join("plain.log");
        std::fs::write(&path, &all[..length]).unwrap();
        let found = disk.store.lookup_or_adopt("plain.log").unwrap();
        let mut writer = resume(&disk.store, "plain.log");
        for piece in all[length..].chunks(3000) {
            put(&mut writer, piece);
        }
        let crashed = disk.crash();
        let object = seal(writer);
        let tag = object.seal().unwrap().etag.clone();
        disk.holds("plain.log", &all, &tag);
        crashed.holds("plain.log", &all, &tag);
        let record = disk.record("plain.log").unwrap();
        let is_based = matches!(record.bases[..], [base] if matches!(base.fingerprint, Fingerprint::Modified(_)));
        assert_eq!(is_based, length > 0);
        assert_eq!(record.extent_bytes as usize, length.next_multiple_of(4096).max(E));
        // Who found the plain file still reads it, also when its name leads elsewhere.
        upload(&disk.store, "plain.log", b"other");
        assert_eq!(content(&disk.store, &found), all[..length]);
        assert_eq!(content(&disk.store, &object), all);
    }
}

/// Goal: at every step of the continuation a crash loses nothing that was sealed or seen.
/// Method: the directory is copied after each step, and recovered.
#[test]
fn a_crash_loses_nothing_that_was_sealed_or_seen() {
    for old in LENGTHS {
        for new in [1, E, 2 * E + 7] {
            let disk = Disk::new();
            let all = pattern(0, old + new);
            upload(&disk.store, "d/a", &all[..old]);
            let sealed = chained_etag(&all[..old], &[old]);
            let mut writer = resume(&disk.store, "d/a");
            disk.crash().holds("d/a", &all[..old], &sealed);
            // The record says that it is open, and nothing has come yet.
            writer.mark_continued().unwrap();
            disk.crash().holds("d/a", &all[..old], &sealed);
            for end in [old + new.div_ceil(2), old + new] {
                let start = writer.written() as usize;
                put(&mut writer, &all[start..end]);
                let crashed = disk.crash();
                crashed.holds("d/a", &all[..end], &chained_etag(&all[..end], &[old, end]));
                assert_eq!(crashed.recovered.damaged + crashed.recovered.aborted, 0);
            }
            let tag = chained_etag(&all, &[old, old + new]);
            let sealing = writer.finish().unwrap();
            disk.crash().holds("d/a", &all, &tag);
            sealing.commit().unwrap();
            disk.holds("d/a", &all, &tag);
        }
    }
}

/// Goal: an appended object that was never sealed comes back after a crash, at every step, whatever
/// `on_abort` says; one that is torn is deleted, and so is one without a name.
#[test]
fn an_appended_object_comes_back_after_a_crash() {
    for length in [0, 1, E, 10_000] {
        let disk = Disk::new();
        let bytes = pattern(0, length);
        let tag = etag(length, xxh3_64(&bytes));
        let _torn = store_some(disk.store.begin(new_object("torn")).unwrap());
        let _unnamed =
            store_some(disk.store.begin_unnamed("label", ObjectInfo::default(), None).unwrap());
        let mut writer = resume(&disk.store, "x/y");
        put(&mut writer, &bytes);
        let keeping =
            Disk::open(disk.copy(), |options| StoreOptions { keep_aborted: true, ..options });
        assert_eq!((keeping.recovered.kept, keeping.recovered.aborted), (2, 1));
        for crashed in [disk.crash(), keeping] {
            assert_eq!(crashed.store.lookup("label").map(|o| o.tail()), None);
            let _ = crashed.store.remove("torn", None);
            crashed.holds("x/y", &bytes, &tag);
            assert!(!crashed.record("x/y").unwrap().sealed.unwrap().torn);
            assert_eq!(files(&crashed.path().join(".headwater/open")), []);
        }
        let sealing = writer.finish().unwrap();
        let crashed = disk.crash();
        assert_eq!((crashed.recovered.kept, crashed.recovered.aborted), (1, 2));
        crashed.holds("x/y", &bytes, &tag);
        sealing.commit().unwrap();
        disk.crash().holds("x/y", &bytes, &tag);
    }
}

fn store_some(mut writer: Writer) -> Writer {
    put(&mut writer, b"some");
    writer
}

/// Goal: bytes that a power cut took from a continued object take nothing that was sealed before.
/// Method: the file is cut after the seal, as one is whose pages were never written.
#[test]
fn a_power_cut_takes_no_more_than_the_last_continuation() {
    let all = pattern(0, 12_000);
    for (left, kept) in [(11_999, 11_999), (9_000, 9_000), (5_000, 5_000), (4_999, 0), (10, 0)] {
        let disk = Disk::new();
        upload(&disk.store, "a", &all[..5000]);
        let mut writer = resume(&disk.store, "a");
        put(&mut writer, &all[5000..]);
        let id = seal(writer).id;
        let copy = disk.copy();
        for index in 0..3_u64 {
            let name = match index {
                0 => "a".to_owned(),
                _ => format!(".headwater/extents/{id:016x}.{index}"),
            };
            let file = File::options().write(true).open(copy.path().join(name)).unwrap();
            let bytes = left.min(12_000 - 1) as u64;
            let there = file.metadata().unwrap().len();
            file.set_len(bytes.saturating_sub(index * EXTENT_BYTES).min(there)).unwrap();
        }
        let cut = Disk::open(copy, |options| options);
        if kept == 0 {
            assert!(cut.store.lookup("a").is_none());
            assert_eq!((cut.recovered.damaged, cut.recovered.objects), (1, 0));
        } else {
            let steps = if kept == 5000 { vec![5000] } else { vec![5000, kept] };
            cut.holds("a", &all[..kept], &chained_etag(&all[..kept], &steps));
        }
    }
}

/// Goal: a PUT that takes over a continued object replaces it when it is sealed; until then its bytes
/// are safe from a crash; aborted, it leaves nothing, as it does to other sealed versions.
#[test]
fn an_upload_takes_a_continued_object_over() {
    for visibility in [Visibility::AtOnce, Visibility::WhenSealed] {
        for is_sealed in [true, false] {
            for late in [true, false] {
                let disk = Disk::new();
                let store = &disk.store;
                let old = upload(store, "a", &pattern(0, 6000));
                let mut writer = resume(store, "a");
                put(&mut writer, &pattern(6000, 6000));
                let mut next = store.begin(NewObject { visibility, ..new_object("a") }).unwrap();
                put(&mut next, b"next");
                let object = writer.object().clone();
                assert_eq!(object.life(), Life::TakenOver);
                assert!(writer.append(&[IoSlice::new(b"x")]).is_err());
                let tag = chained_etag(&pattern(0, 12_000), &[6000, 12_000]);
                disk.crash().holds("a", &pattern(0, 12_000), &tag);
                let visible = (visibility == Visibility::AtOnce).then(|| next.object().clone());
                assert_eq!(store.lookup_or_adopt("a").map(|o| o.id), visible.map(|o| o.id));
                let mut kept = Some(writer).filter(|_| late);
                if is_sealed {
                    let committed = next.finish().unwrap().commit().unwrap();
                    assert!(committed.replaced);
                    kept.take();
                    // Not `disk` itself: the files of who still reads are there until a start.
                    disk.crash().holds("a", b"next", &etag(4, xxh3_64(b"next")));
                } else {
                    drop(next);
                    kept.take();
                    assert!(store.lookup_or_adopt("a").is_none());
                    assert_eq!(used_bytes(store), 0);
                }
                let counts = (store.gauges().objects, store.gauges().open_objects);
                assert_eq!(counts, (usize::from(is_sealed), 0));
                assert_eq!(content(store, &old), pattern(0, 6000));
                let view = Reader::of_view(store, object, 0, 7000, 9000);
                assert_eq!(view.available(), Available::Bytes(2000));
                drop((old, view));
                assert_eq!(files(disk.path()).len(), usize::from(is_sealed));
            }
        }
    }
}

#[test]
fn an_open_continued_object_can_be_deleted() {
    let disk = Disk::new();
    let old = upload(&disk.store, "d/a", &pattern(0, 6000));
    let mut writer = resume(&disk.store, "d/a");
    put(&mut writer, &pattern(6000, 6000));
    disk.store.remove("d/a", None).unwrap();
    assert_eq!(writer.object().life(), Life::Removed);
    assert!(disk.store.lookup_or_adopt("d/a").is_none());
    assert_eq!(disk.crash().recovered.objects, 0);
    drop(writer);
    assert_eq!(content(&disk.store, &old), pattern(0, 6000));
    drop(old);
    assert_eq!(files(disk.path()), []);
    assert!(!disk.path().join("d").exists());
    assert_eq!((used_bytes(&disk.store), disk.store.gauges().objects), (0, 0));
}

/// Goal: what was replaced or deleted does not come back because its file was still being read when
/// the server died.
#[test]
fn a_dead_open_object_does_not_come_back() {
    for keep_aborted in [true, false] {
        for is_replaced in [true, false] {
            let disk = Disk::new();
            let ending = Ending::Sealed;
            let mut writer = disk.store.begin(NewObject { ending, ..new_object("a") }).unwrap();
            put(&mut writer, &pattern(0, 9000));
            let _held = writer.object().clone();
            if is_replaced {
                upload(&disk.store, "a", b"next");
            } else {
                disk.store.remove("a", None).unwrap();
            }
            drop(writer);
            assert!(!files(&disk.path().join(".headwater/open")).is_empty());
            let crashed =
                Disk::open(disk.copy(), |options| StoreOptions { keep_aborted, ..options });
            match is_replaced {
                true => crashed.holds("a", b"next", &etag(4, xxh3_64(b"next"))),
                false => assert!(crashed.store.lookup("a").is_none()),
            }
            assert_eq!(files(&crashed.path().join(".headwater/extents")), []);
        }
    }
}

/// Goal: an appended object that cannot have its name is kept for the next start, and does not take the
/// name from what was stored there since.
#[test]
fn an_object_without_its_name_waits_for_the_next_start() {
    let disk = Disk::new();
    let (bytes, tag) = (pattern(0, 5000), etag(5000, xxh3_64(&pattern(0, 5000))));
    let mut writer = resume(&disk.store, "a");
    put(&mut writer, &bytes);
    // Another program makes a folder where the file should go.
    std::fs::create_dir_all(disk.path().join("a/b")).unwrap();
    drop(writer);
    assert!(disk.store.lookup("a").is_none());
    assert_eq!((used_bytes(&disk.store), disk.store.gauges().open_objects), (0, 0));
    let crashed = disk.crash();
    assert_eq!(crashed.recovered.damaged, 1);
    assert_eq!(files(&crashed.path().join(".headwater/damaged")), [("a".to_owned(), 4096)]);
    std::fs::remove_dir(disk.path().join("a/b")).unwrap();
    disk.crash().holds("a", &bytes, &tag);
    upload(&disk.store, "a", b"newer");
    let crashed = disk.crash();
    crashed.holds("a", b"newer", &etag(5, xxh3_64(b"newer")));
    assert_eq!(crashed.recovered.damaged, 1);
}

/// Goal: an object with a window loses its oldest extents also when they were sealed before, and its
/// name with them, without harm to who reads them, or to what has the name later.
#[test]
fn a_continued_object_keeps_its_window() {
    let window = RetentionRule { window_bytes: Some(3 * EXTENT_BYTES), ..Default::default() };
    let disk = Disk::open(tempfile::tempdir().unwrap(), |options| StoreOptions {
        retention: vec![window.clone()],
        ..options
    });
    let old = upload(&disk.store, "a", &pattern(0, 6000));
    let mut writer = resume(&disk.store, "a");
    let object = writer.object().clone();
    for start in (6000..30_000).step_by(1000) {
        put(&mut writer, &pattern(start, 1000));
        assert_eq!(disk.path().join("a").exists(), object.head() == 0);
        assert_eq!(used_bytes(&disk.store), object.tail() - object.head());
    }
    assert!(object.head() > 6000);
    assert_eq!(content(&disk.store, &old), pattern(0, 6000));
    drop(writer);
    assert!(disk.store.lookup_or_adopt("a").is_none());
    let next = upload(&disk.store, "a", b"next");
    drop(old);
    assert_eq!(content(&disk.store, &next), b"next");
    drop(object);
    assert_eq!(files(disk.path()), [("a".to_owned(), 4)]);
    assert_eq!((used_bytes(&disk.store), disk.store.gauges().objects), (4, 1));
}

#[test]
fn a_continued_object_is_not_swept_and_then_it_is() {
    let rule = RetentionRule { bytes_max: Some(10), ..Default::default() };
    for (_folder, store) in [false, true].map(|in_memory| {
        let folder = tempfile::tempdir().unwrap();
        let data = (!in_memory).then(|| folder.path().to_owned());
        let options = StoreOptions { retention: vec![rule.clone()], ..options(data) };
        (folder, Store::open(options).unwrap())
    }) {
        upload(&store, "a", b"12345678");
        let mut writer = resume(&store, "a");
        put(&mut writer, b"9 10 11 12");
        assert_eq!(store.sweep().objects, 0);
        let object = seal(writer);
        assert_eq!((store.sweep().objects, used_bytes(&store)), (1, 0));
        assert_eq!(content(&store, &object), b"123456789 10 11 12");
    }
}

/// Goal: a full store takes nothing from an appended object but its newest bytes.
#[test]
fn a_full_store_keeps_what_was_appended() {
    let disk = Disk::open(tempfile::tempdir().unwrap(), |options| StoreOptions {
        total_bytes_max: Some(10_000),
        ..options
    });
    upload(&disk.store, "a", &pattern(0, 5000));
    let mut writer = resume(&disk.store, "a");
    put(&mut writer, &pattern(5000, 4000));
    assert!(writer.append(&[IoSlice::new(&pattern(9000, 2000))]).is_err());
    drop(writer);
    let tag = chained_etag(&pattern(0, 9000), &[5000, 9000]);
    disk.holds("a", &pattern(0, 9000), &tag);
}

/// Goal: a seal that cannot be written to the disk takes nothing from readers, and the next start makes
/// up for it.
/// Method: the file is taken away after the last byte, and is back for the start.
#[test]
fn a_seal_that_cannot_be_written_is_made_up_for() {
    let disk = Disk::new();
    upload(&disk.store, "a", &pattern(0, 100));
    let mut writer = resume(&disk.store, "a");
    put(&mut writer, &pattern(100, 9000));
    let object = writer.object().clone();
    // Other files take the place of its open file.
    for name in ["b", "c", "d", "e", "f"] {
        upload(&disk.store, name, b"x");
    }
    let (here, away) = (disk.path().join("a"), disk.path().join("away"));
    std::fs::rename(&here, &away).unwrap();
    drop(writer);
    std::fs::rename(&away, &here).unwrap();
    assert!(disk.record("a").unwrap().open_base().is_some());
    assert_eq!(object.life(), Life::Sealed);
    assert_eq!(content(&disk.store, &object), pattern(0, 9100));
    let tag = chained_etag(&pattern(0, 9100), &[100, 9100]);
    assert_eq!(object.seal().unwrap().etag, tag);
    disk.crash().holds("a", &pattern(0, 9100), &tag);
    // And so does the next writer.
    let mut writer = resume(&disk.store, "a");
    put(&mut writer, &pattern(9100, 100));
    drop(writer);
    drop(object);
    let tag = chained_etag(&pattern(0, 9200), &[100, 9100, 9200]);
    disk.crash().holds("a", &pattern(0, 9200), &tag);
}

/// Goal: nothing is left of an object that is removed while its writer gives it up.
/// Method: the abort that is the first thing a dropped writer does.
#[test]
fn an_aborted_object_cannot_be_removed_halfway() {
    for (folder, store) in stores() {
        let mut writer = store.begin(new_object("a")).unwrap();
        put(&mut writer, b"bytes");
        writer.object().abort(Life::Aborted, None, &*store.options.signal);
        assert!(store.remove("a", None).is_err());
        drop(writer);
        assert_eq!((used_bytes(&store), store.gauges().objects), (0, 0));
        assert_eq!(folder.as_ref().map(|f| files(f.path())).unwrap_or_default(), []);
    }
}

/// Goal: whatever happens at the same time, what is counted is what is there, and nothing is left.
/// Method: threads that append, upload, delete, sweep and read under two names; then all is deleted.
#[test]
fn nothing_is_left_after_a_crowd() {
    for (folder, store) in stores() {
        let threads: Vec<_> = (0..6_usize)
            .map(|thread| {
                let store = store.clone();
                std::thread::spawn(move || (0..150).for_each(|round| crowd(&store, thread, round)))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let present: u64 =
            ["a", "d/b"].iter().filter_map(|name| store.lookup(name)).map(|o| o.tail()).sum();
        assert_eq!((used_bytes(&store), store.gauges().sealed_bytes), (present, present));
        assert_eq!(store.gauges().open_objects, 0);
        for name in ["a", "d/b"] {
            let _ = store.remove(name, None);
        }
        assert_eq!((used_bytes(&store), store.gauges().objects), (0, 0));
        assert_eq!(folder.as_ref().map(|f| files(f.path())).unwrap_or_default(), []);
    }
}

fn crowd(store: &Arc<Store>, thread: usize, round: usize) {
    let name = ["a", "d/b"][round % 2];
    let piece = pattern(round, 1 + round * 37 % 6000);
    let rule = if round.is_multiple_of(5) { WriteRule::TakeOver } else { WriteRule::Refuse };
    let found = store.lookup(name);
    match thread {
        0..=2 => {
            let Ok(mut writer) = store.resume(NewObject { rule, ..new_object(name) }) else {
                return;
            };
            for hidden in [false, true] {
                let partial = if hidden { Partial::Hidden } else { Partial::Visible };
                let _ = writer.append_messages(&[IoSlice::new(&piece)], &[], partial);
                std::thread::yield_now();
            }
            if round.is_multiple_of(3) {
                let _ = writer.finish().map(|sealing| sealing.commit());
            }
        }
        3 => {
            let is_late = round.is_multiple_of(4);
            let visibility = if is_late { Visibility::WhenSealed } else { Visibility::AtOnce };
            let mut writer = store.begin(NewObject { visibility, ..new_object(name) }).unwrap();
            let _ = writer.append(&[IoSlice::new(&piece)]);
            if !round.is_multiple_of(7) {
                let _ = writer.finish().map(|sealing| sealing.commit());
            }
        }
        4 if round.is_multiple_of(3) => drop(store.remove(name, None)),
        _ => {
            // What was found can be read, and does not change.
            let Some(object) = found.filter(|object| object.seal().is_some()) else { return };
            let bytes = content(store, &object);
            std::thread::yield_now();
            assert_eq!(content(store, &object), bytes);
        }
    }
}

#[test]
fn extents_that_an_object_does_not_reach_are_orphans() {
    let disk = Disk::new();
    let id = upload(&disk.store, "a", &pattern(0, 5000)).id;
    let orphan = disk.path().join(format!(".headwater/extents/{id:016x}.2"));
    std::fs::write(&orphan, b"x").unwrap();
    let crashed = disk.crash();
    assert_eq!((crashed.recovered.orphans, crashed.recovered.objects), (1, 1));
    // It would be in the way of the bytes that come now.
    let mut writer = resume(&crashed.store, "a");
    put(&mut writer, &pattern(5000, 9000));
    drop(writer);
    let tag = chained_etag(&pattern(0, 14_000), &[5000, 14_000]);
    crashed.holds("a", &pattern(0, 14_000), &tag);
}

#[test]
fn a_continued_object_is_not_in_the_body_cache() {
    for (_folder, store) in stores() {
        let old = upload(&store, "a", b"body");
        store.keep_body(&old, Bytes::from_static(b"body"));
        assert_eq!(store.gauges().body_cache_bytes, 4);
        let writer = resume(&store, "a");
        assert_eq!(store.gauges().body_cache_bytes, 0);
        // Read before, kept after.
        store.keep_body(&old, Bytes::from_static(b"body"));
        assert_eq!(store.gauges().body_cache_bytes, 0);
        drop(writer);
    }
}

#[test]
fn a_file_that_was_changed_is_not_continued() {
    let disk = Disk::new();
    upload(&disk.store, "a", b"first");
    for changed in ["fir", "first and more"] {
        std::fs::write(disk.path().join("a"), changed).unwrap();
        let refused = disk.store.resume(new_object("a"));
        assert!(matches!(refused, Err(BeginError::Storage(_))));
        assert_eq!(disk.store.gauges().open_objects, 0);
    }
}

/// What an appender does.
#[derive(Debug, Clone)]
enum Step {
    /// So many bytes, of which the last are hidden.
    Append { bytes: usize, hidden: usize },
    /// The writer goes, and another comes.
    Again,
    /// The server dies, if it is one with a disk.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let append = (0..9000_usize, 0..5000_usize);
    let append = append.prop_map(|(bytes, hidden)| Step::Append { bytes, hidden });
    let step = prop_oneof![5 => append, 2 => Just(Step::Again), 1 => Just(Step::Crash)];
    prop::collection::vec(step, 1..14)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    /// Goal: whatever an appender does, the object is what the model says. A crash may bring hidden
    /// bytes to light, since no file says where the tail was.
    #[test]
    fn any_history_ends_as_the_model_says(steps in steps(), in_memory in any::<bool>()) {
        let mut disk = Disk::new();
        let memory = Store::open(options(None)).unwrap();
        let mut writer = resume(if in_memory { &memory } else { &disk.store }, "a");
        let mut seals = vec![0];
        for step in steps {
            match step {
                Step::Append { bytes, hidden } => {
                    let written = writer.written();
                    let end = written + bytes as u64;
                    let visible = end.saturating_sub(hidden as u64).max(writer.object().tail());
                    let ends = [MessageEnd { offset: visible, kind: MessageKind::Binary }];
                    let bytes = pattern(written as usize, bytes);
                    writer.append_messages(&[IoSlice::new(&bytes)], &ends, Partial::Hidden).unwrap();
                    prop_assert_eq!((writer.object().tail(), writer.written()), (visible, end));
                }
                Step::Crash if in_memory => {}
                Step::Crash => {
                    disk = disk.crash();
                    let end = disk.store.lookup("a").unwrap().tail();
                    prop_assert!((writer.object().tail()..=writer.written()).contains(&end));
                    seals.push(end as usize);
                    writer = resume(&disk.store, "a");
                }
                Step::Again => {
                    let store = if in_memory { &memory } else { &disk.store };
                    seals.push(writer.object().tail() as usize);
                    drop(writer);
                    writer = resume(store, "a");
                    prop_assert_eq!(used_bytes(store), writer.object().tail());
                }
            }
        }
        let store = if in_memory { &memory } else { &disk.store };
        let object = writer.object().clone();
        seals.push(object.tail() as usize);
        drop(writer);
        seals.retain(|end| *end > 0);
        seals.dedup();
        let all = pattern(0, object.tail() as usize);
        prop_assert_eq!(content(store, &object), all.clone());
        let tag = if seals.is_empty() { etag(0, xxh3_64(b"")) } else { chained_etag(&all, &seals) };
        prop_assert_eq!(&object.seal().unwrap().etag, &tag);
        if !in_memory {
            disk.holds("a", &all, &tag);
        }
    }
}
