//! Writers of the store against a model: hidden bytes, messages, unnamed objects, and what is counted.
//! Everything is done twice, on disk and in memory.

use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use xxhash_rust::xxh3::xxh3_64;

use super::directory::{NewObject, Store, StoreOptions, Visibility, WriteRule};
use super::error::{BeginError, WriteError};
use super::messages::{Message, MessageEnd, MessageKind, MessageLook, MessageWindow, Partial};
use super::object::{Ending, Life, Object, ObjectInfo};
use super::reader::{Available, Reader};
use super::writer::Writer;

pub(super) const EXTENT_BYTES: u64 = 4096;
const TEXT: MessageKind = MessageKind::Text { pending: 0 };

/// Ahead of every modification time, so that no file looks changed after its seal.
pub(super) fn clock() -> u64 {
    static NOW_MS: AtomicU64 = AtomicU64::new(4_000_000_000_000);
    NOW_MS.fetch_add(1, Ordering::Relaxed)
}

pub(super) fn options(data: Option<PathBuf>) -> StoreOptions {
    StoreOptions {
        data,
        extent_bytes: EXTENT_BYTES,
        object_bytes_max: 1 << 30,
        open_files_max: 2,
        mappings_max: 2,
        body_cache_bytes_max: 1 << 20,
        watched_names_max: 10,
        clock,
        ..StoreOptions::in_memory()
    }
}

pub(super) fn new_object(name: &str) -> NewObject<'_> {
    NewObject {
        name,
        info: ObjectInfo { created_ms: 7, ..ObjectInfo::default() },
        visibility: Visibility::AtOnce,
        rule: WriteRule::TakeOver,
        ending: Ending::Torn,
        core: None,
    }
}

/// A store on disk and one in memory, one after the other.
fn on_disk_and_in_memory(test: impl Fn(&Arc<Store>, Option<&Path>)) {
    let folder = tempfile::tempdir().unwrap();
    test(&Store::open(options(Some(folder.path().to_owned()))).unwrap(), Some(folder.path()));
    test(&Store::open(options(None)).unwrap(), None);
}

/// So many bytes, different at each place.
pub(super) fn pattern(start: usize, len: usize) -> Vec<u8> {
    (start..start + len).map(|at| (at * 31 + at / 251) as u8).collect()
}

pub(super) fn put(writer: &mut Writer, bytes: &[u8]) {
    writer.append(&[IoSlice::new(bytes)]).unwrap();
}

pub(super) fn seal(writer: Writer) -> Arc<Object> {
    let object = writer.object().clone();
    writer.finish().unwrap().commit().unwrap();
    object
}

/// What readers of the object see.
pub(super) fn content(store: &Arc<Store>, object: &Arc<Object>) -> Vec<u8> {
    let mut reader = Reader::new(store, object.clone(), 0, object.head(), object.tail());
    let mut found = Vec::new();
    while let Available::Bytes(left) = reader.available() {
        let got = reader.mapped(left).unwrap().to_vec();
        if !store.is_memory_only() {
            let at = reader.read_at(left).unwrap();
            let mut read = vec![0; got.len()];
            std::os::unix::fs::FileExt::read_exact_at(&*at.file, &mut read, at.offset).unwrap();
            assert_eq!(read, got, "file and mapping agree");
        }
        reader.advance(got.len() as u64);
        found.extend(got);
    }
    assert_eq!(reader.available(), Available::End);
    found
}

pub(super) fn etag(length: usize, digest: u64) -> String {
    format!("\"{length:x}-{digest:016x}\"")
}

pub(super) fn used_bytes(store: &Store) -> u64 {
    store.used_bytes.load(Ordering::Relaxed)
}

/// Files below the folder and their lengths, without the lock.
pub(super) fn files(folder: &Path) -> Vec<(String, u64)> {
    let mut left = vec![folder.to_owned()];
    let mut found = Vec::new();
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let relative = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            match path.is_dir() {
                true => left.push(path),
                false if relative == ".headwater/lock" => {}
                false => found.push((relative, path.metadata().unwrap().len())),
            }
        }
    }
    found.sort();
    found
}

fn end(offset: u64, kind: MessageKind) -> MessageEnd {
    MessageEnd { offset, kind }
}

/// Goal: of hidden bytes nothing is seen, counted, hashed or kept unless their message is completed.
/// Method: messages in pieces of several sizes, so that ends fall in front of, on and behind the ends
/// of extents, and in bytes that an earlier call wrote; then the seal.
#[test]
fn hidden_bytes_are_seen_with_the_end_of_their_message() {
    on_disk_and_in_memory(|store, folder| {
        for piece in [1000, 4096, 5000, 20_000] {
            let mut writer = store.begin(new_object("a/b")).unwrap();
            let object = writer.object().clone();
            let mut seen = 0;
            for step in 0..11 {
                let written = writer.written();
                let bytes = pattern(written as usize, piece);
                let (one, two) = bytes.split_at(piece / 3);
                let after = written + piece as u64;
                let ends = match step % 4 {
                    0 => vec![],
                    1 => vec![end(written, TEXT), end(written + 10, TEXT)],
                    // In bytes that the last call wrote.
                    2 => vec![end(written - 7, TEXT)],
                    _ => vec![end(written + 1, TEXT), end(after, MessageKind::Binary)],
                };
                let pieces = [IoSlice::new(one), IoSlice::new(two)];
                writer.append_messages(&pieces, &ends, Partial::Hidden).unwrap();
                seen = ends.last().map_or(seen, |end| end.offset);
                assert_eq!((object.tail(), writer.written()), (seen, after));
                assert_eq!(used_bytes(store), after);
            }
            let rest = pattern(writer.written() as usize, piece);
            writer.append_messages(&[IoSlice::new(&rest)], &[], Partial::Hidden).unwrap();
            assert_eq!(object.tail(), seen);
            let expected = pattern(0, seen as usize);
            assert_eq!(content_so_far(store, &object), expected);
            seal(writer);
            assert_eq!(content(store, &object), expected);
            let tag = etag(expected.len(), xxh3_64(&expected));
            assert_eq!(object.seal().unwrap().etag, tag);
            assert_eq!((used_bytes(store), store.gauges().sealed_bytes), (seen, seen));
            if let Some(folder) = folder {
                let on_disk: u64 = files(folder).iter().map(|(_, len)| len).sum();
                assert_eq!((on_disk, files(folder).len() as u64), (seen, seen.div_ceil(4096)));
            }
            store.remove("a/b", None).unwrap();
            drop(object);
            assert_eq!(folder.map(files).unwrap_or_default(), []);
            assert_eq!(used_bytes(store), 0);
        }
    });
}

/// The bytes of an open object.
fn content_so_far(store: &Arc<Store>, object: &Arc<Object>) -> Vec<u8> {
    let mut reader = Reader::new(store, object.clone(), 0, 0, u64::MAX);
    let mut found = Vec::new();
    while let Available::Bytes(left) = reader.available() {
        let got = reader.mapped(left).unwrap().to_vec();
        reader.advance(got.len() as u64);
        found.extend(got);
    }
    assert_eq!(reader.available(), Available::AtTail);
    found
}

#[test]
fn hidden_bytes_of_an_aborted_object_are_not_counted() {
    on_disk_and_in_memory(|store, folder| {
        let mut writer = store.begin(new_object("a")).unwrap();
        let bytes = pattern(0, 10_000);
        let ends = [end(100, TEXT)];
        writer.append_messages(&[IoSlice::new(&bytes)], &ends, Partial::Hidden).unwrap();
        drop(writer);
        assert_eq!(used_bytes(store), 0);
        assert_eq!(folder.map(files).unwrap_or_default(), []);
    });
}

#[test]
fn bytes_that_were_hidden_can_be_made_visible_as_they_are() {
    on_disk_and_in_memory(|store, _| {
        let mut writer = store.begin(new_object("a")).unwrap();
        let ends = [end(3, TEXT)];
        writer.append_messages(&[IoSlice::new(b"abcde")], &ends, Partial::Hidden).unwrap();
        writer.append_messages(&[IoSlice::new(b"f")], &[], Partial::Visible).unwrap();
        assert_eq!(writer.object().tail(), 6);
        let object = seal(writer);
        assert_eq!(content(store, &object), b"abcdef");
        assert_eq!(object.seal().unwrap().etag, etag(6, xxh3_64(b"abcdef")));
    });
}

#[test]
fn messages_carry_their_kinds_and_what_is_pending() {
    on_disk_and_in_memory(|store, _| {
        let mut writer = store.begin(new_object("a")).unwrap();
        let object = writer.object().clone();
        put(&mut writer, b"before");
        assert_eq!(object.message(0), MessageLook::NotYet);
        let cut = MessageKind::Text { pending: 1 };
        let ends = [end(8, cut), end(8, TEXT)];
        let pieces = [IoSlice::new(b"a\xc3"), IoSlice::new(b"\xa9 and so on")];
        writer.append_messages(&pieces, &ends, Partial::Visible).unwrap();
        let first = Message { number: 0, start: 6, end: 8, kind: cut, pending_before: 0 };
        assert_eq!(object.message(0), MessageLook::Here(first));
        let empty = Message { number: 1, start: 8, end: 8, kind: TEXT, pending_before: 1 };
        assert_eq!(object.message(1), MessageLook::Here(empty));
        assert_eq!((object.message(2), object.tail()), (MessageLook::NotYet, 19));
        writer.append_messages(&[], &[end(19, TEXT)], Partial::Visible).unwrap();
        writer.keep_messages(MessageWindow { bytes_max: 27, count_max: 9 });
        assert_eq!(object.messages(), (2, 3));
        writer.set_text_end(19);
        seal(writer);
        assert_eq!((object.messages(), object.text_end()), ((2, 3), 19));
    });
}

/// Goal: the messages of sealed objects do not pile up, and those of the newest are there.
#[test]
fn the_messages_of_sealed_objects_are_bounded() {
    let store = Store::open(options(None)).unwrap();
    let ends: Vec<_> = (1..=4096).map(|offset| end(offset, TEXT)).collect();
    let objects: Vec<_> = (0..256)
        .map(|number| {
            let mut writer = store.begin(new_object(&format!("o{number}"))).unwrap();
            let bytes = pattern(0, 4096);
            writer.append_messages(&[IoSlice::new(&bytes)], &ends, Partial::Visible).unwrap();
            seal(writer)
        })
        .collect();
    let counts = objects.iter().map(|object| object.messages());
    let left = counts.filter(|kept| *kept == (0, 4096)).count();
    assert!((240..256).contains(&left), "{left}");
    assert_eq!(objects[0].message(5), MessageLook::Forgotten { first: 4096 });
    assert_eq!(objects[255].messages(), (0, 4096));
}

#[test]
fn trimmed_messages_are_forgotten_and_a_trimmed_object_goes_on() {
    on_disk_and_in_memory(|store, folder| {
        let store = Store::open(StoreOptions {
            object_bytes_max: 3 * EXTENT_BYTES,
            ..options(folder.map(|_| store.options.data.clone().unwrap().join("inner")))
        })
        .unwrap();
        let mut writer = store.begin_unnamed("endless", ObjectInfo::default(), None).unwrap();
        let object = writer.object().clone();
        for number in 0..100 {
            let offset = writer.written() + 1000;
            let bytes = pattern(0, 1000);
            let ends = [end(offset, MessageKind::Binary)];
            writer.append_messages(&[IoSlice::new(&bytes)], &ends, Partial::Visible).unwrap();
            writer.trim(offset.saturating_sub(2000));
            assert!(object.tail() - object.head() <= 2000 + EXTENT_BYTES);
            assert_eq!(used_bytes(&store), object.tail() - object.head());
            let MessageLook::Here(kept) = object.message(object.messages().0) else { panic!() };
            assert!(kept.start >= object.head() && object.messages().1 == number + 1);
        }
        let all = pattern(0, 3 * EXTENT_BYTES as usize);
        assert!(matches!(writer.append(&[IoSlice::new(&all)]), Err(WriteError::TooLarge)));
        put(&mut writer, b"still");
        writer.end_unnamed();
        assert_eq!(used_bytes(&store), 0);
    });
}

/// Goal: a reader that has begun a message gets all of it, whatever is trimmed meanwhile.
#[test]
fn what_a_reader_holds_stays_when_it_is_trimmed() {
    on_disk_and_in_memory(|store, _| {
        let mut writer = store.begin_unnamed("endless", ObjectInfo::default(), None).unwrap();
        put(&mut writer, &pattern(0, 5 * EXTENT_BYTES as usize));
        let object = writer.object().clone();
        let (start, end) = (EXTENT_BYTES - 10, 3 * EXTENT_BYTES + 10);
        let mut reader = Reader::new(store, object.clone(), 0, start, u64::MAX);
        let mut unheld = Reader::new(store, object.clone(), 0, start, u64::MAX);
        assert!(reader.hold(end) && unheld.mapped(10).is_ok());
        writer.trim(5 * EXTENT_BYTES);
        assert!(object.head() > end);
        while reader.offset() < end {
            let (at, left) = (reader.offset(), end - reader.offset());
            let bytes = reader.mapped(left).unwrap().len();
            assert_eq!(reader.mapped(left).unwrap(), pattern(at as usize, bytes));
            reader.advance(bytes as u64);
        }
        unheld.advance(10);
        assert_eq!(unheld.available(), Available::Lagged);
        assert!(!unheld.hold(end));
        writer.end_unnamed();
    });
}

#[test]
fn a_window_is_kept_where_no_rule_says_otherwise() {
    on_disk_and_in_memory(|store, _| {
        let mut writer = store.begin_unnamed("endless", ObjectInfo::default(), None).unwrap();
        writer.keep_window(2 * EXTENT_BYTES);
        put(&mut writer, &pattern(0, 20 * EXTENT_BYTES as usize));
        assert_eq!(used_bytes(store), 2 * EXTENT_BYTES);
        assert!(!store.has_retention("endless"));
    });
}

#[test]
fn a_key_and_what_it_needs_are_noted_together() {
    let store = Store::open(options(None)).unwrap();
    let mut writer = store.begin_unnamed("camera", ObjectInfo::default(), None).unwrap();
    assert_eq!(writer.object().last_key(), None);
    writer.mark_key(0, "one".into());
    writer.mark_key(7, "two".into());
    assert_eq!(writer.object().last_key(), Some((7, "two".into())));
}

#[test]
fn bytes_are_read_back_over_extents() {
    on_disk_and_in_memory(|store, _| {
        let mut writer = store.begin(new_object("a")).unwrap();
        put(&mut writer, &pattern(0, 10_000));
        drop(seal(writer));
        let mut writer = store.resume(new_object("a")).unwrap();
        let more = pattern(10_000, 600_000);
        writer.append_messages(&[IoSlice::new(&more)], &[], Partial::Hidden).unwrap();
        for (start, end) in [(0, 0), (0, 10_000), (4095, 4097), (9000, 610_000)] {
            let mut found = Vec::new();
            writer.read_back(start, end, &mut |piece| found.extend_from_slice(piece)).unwrap();
            assert_eq!(found, pattern(start as usize, (end - start) as usize));
        }
    });
}

struct Flag(std::sync::mpsc::SyncSender<()>);
impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        let _ = self.0.try_send(());
    }
}

/// Goal: a reader that waits for messages misses none, an empty one neither, nor the end; what it is
/// told of can be read.
/// Method: a writer on another thread; the reader sleeps only when it is told to, and a lost wake-up
/// leaves it asleep until the receive gives up.
#[test]
fn no_message_is_missed_across_threads() {
    const MESSAGES: u64 = 20_000;
    let store = Store::open(options(None)).unwrap();
    let mut writer = store.begin(new_object("a")).unwrap();
    let mut reader = Reader::new(&store, writer.object().clone(), 1, 0, u64::MAX);
    let thread = std::thread::spawn(move || {
        for number in 0..MESSAGES {
            let bytes = if number % 3 == 0 { &b""[..] } else { &[number as u8; 3][..] };
            let ends = [end(writer.written() + bytes.len() as u64, TEXT)];
            let partial = if number % 2 == 0 { Partial::Visible } else { Partial::Hidden };
            writer.append_messages(&[IoSlice::new(bytes)], &ends, partial).unwrap();
        }
        seal(writer);
    });
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let waker = Waker::from(Arc::new(Flag(sender)));
    let mut context = Context::from_waker(&waker);
    let mut number = 0;
    loop {
        let Poll::Ready(look) = reader.poll_message(number, &mut context) else {
            let patience = std::time::Duration::from_secs(20);
            receiver.recv_timeout(patience).expect("a wake-up was lost");
            continue;
        };
        match look {
            MessageLook::Here(message) => {
                assert!(message.end <= reader.object().tail());
                assert_eq!(message.end - message.start, if number % 3 == 0 { 0 } else { 3 });
                number += 1;
            }
            MessageLook::Forgotten { first } => number = first,
            MessageLook::NotYet => break,
        }
    }
    assert_eq!((number, reader.object().life()), (MESSAGES, Life::Sealed));
    thread.join().unwrap();
}

#[test]
fn an_empty_message_is_no_news_of_bytes() {
    let store = Store::open(options(None)).unwrap();
    let mut writer = store.begin(new_object("a")).unwrap();
    let mut bytes = Reader::new(&store, writer.object().clone(), 0, 0, u64::MAX);
    let mut messages = Reader::new(&store, writer.object().clone(), 0, 0, u64::MAX);
    let (sender, receiver) = std::sync::mpsc::sync_channel(2);
    let waker = Waker::from(Arc::new(Flag(sender)));
    let mut context = Context::from_waker(&waker);
    assert!(bytes.poll_news(&mut context).is_pending());
    assert!(messages.poll_message(0, &mut context).is_pending());
    writer.append_messages(&[], &[end(0, TEXT)], Partial::Hidden).unwrap();
    assert!(receiver.try_recv().is_ok());
    assert!(bytes.poll_news(&mut context).is_pending());
    assert!(matches!(messages.poll_message(0, &mut context), Poll::Ready(MessageLook::Here(_))));
    writer.append_messages(&[IoSlice::new(b"x")], &[], Partial::Hidden).unwrap();
    assert!(bytes.poll_news(&mut context).is_pending());
    assert!(messages.poll_message(1, &mut context).is_pending());
    drop(writer);
    assert_eq!(messages.poll_message(1, &mut context), Poll::Ready(MessageLook::NotYet));
}

/// Goal: an unnamed object is found by nobody, ends in order, and leaves nothing.
#[test]
fn an_unnamed_object_leaves_nothing() {
    on_disk_and_in_memory(|store, folder| {
        put(&mut store.begin(new_object("chan")).unwrap(), b"");
        let before = store.gauges();
        for is_ended in [true, false] {
            let mut writer = store.begin_unnamed("chan", ObjectInfo::default(), None).unwrap();
            put(&mut writer, &pattern(0, 9000));
            assert!(store.lookup_or_adopt("chan").is_none());
            assert_eq!((store.gauges().objects, store.gauges().open_objects), (1, 1));
            let mut reader = Reader::new(store, writer.object().clone(), 0, 8000, u64::MAX);
            let object = writer.object().clone();
            match is_ended {
                true => writer.end_unnamed(),
                false => drop(writer),
            }
            let after = store.gauges();
            assert_eq!((after.objects, after.open_objects), (before.objects, before.open_objects));
            assert_eq!((used_bytes(store), after.sealed_bytes), (0, 0));
            if is_ended {
                assert_eq!(reader.available(), Available::Bytes(1000));
                assert_eq!(content(store, &object), pattern(0, 9000));
                reader.advance(1000);
                assert_eq!(reader.available(), Available::End);
            } else {
                assert_eq!(reader.available(), Available::Aborted);
            }
            drop((reader, object));
            assert_eq!(folder.map(files).unwrap_or_default(), []);
        }
    });
}

#[test]
fn a_full_store_begins_no_unnamed_object() {
    let store = Store::open(StoreOptions { objects_max: 1, ..options(None) }).unwrap();
    let _first = store.begin_unnamed("a", ObjectInfo::default(), None).unwrap();
    let second = store.begin_unnamed("a", ObjectInfo::default(), None);
    assert!(matches!(second, Err(BeginError::TooManyObjects)));
}

/// Goal: an append that fails half-way changes nothing that readers see, and the writer can go on.
/// Method: a file in the place of the next extent, which goes away later.
#[test]
fn a_failed_append_leaves_the_object_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(options(Some(folder.path().to_owned()))).unwrap();
    let new = NewObject { ending: Ending::Sealed, ..new_object("a") };
    let mut writer = store.begin(new).unwrap();
    put(&mut writer, &pattern(0, 100));
    let in_the_way =
        folder.path().join(format!(".headwater/extents/{:016x}.2", writer.object().id));
    std::fs::write(&in_the_way, b"x").unwrap();
    let bytes = pattern(100, 20_000);
    let pieces = [IoSlice::new(&bytes[..50]), IoSlice::new(&bytes[50..])];
    for _attempt in 0..2 {
        assert!(matches!(writer.append(&pieces), Err(WriteError::Storage(_))));
        assert_eq!((writer.object().tail(), used_bytes(&store)), (100, 100));
    }
    std::fs::remove_file(&in_the_way).unwrap();
    put(&mut writer, b"");
    put(&mut writer, &bytes[..10]);
    let object = writer.object().clone();
    drop(writer);
    let expected = pattern(0, 110);
    assert_eq!(object.seal().unwrap().etag, etag(110, xxh3_64(&expected)));
    assert_eq!(content(&store, &object), expected);
    assert_eq!(files(folder.path()), [("a".to_owned(), 110)]);
}
