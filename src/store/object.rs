//! One named append-only byte sequence, shared by its writer and its readers.
//!
//! | state | left by | the function |
//! |---|---|---|
//! | Open | seal | `Sealing::commit` |
//! | Open | abort: writer lost, taken over, removed | `Object::abort` |
//! | Sealed | replace, remove: it leaves the directory, its bytes live until the last reader goes | `Store::retire` |
//! | Sealed | continue: it leaves the directory for a new open object with the same extents | `Store::resume` |
//!
//! `Aborted` is final; a sealed object never changes again: one that is continued shares its bytes
//! with the object that grows, and keeps its own end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::Millis;
use super::digest::Fingerprint;
use super::extent::Extent;
use super::messages::{Message, MessageEnd, MessageLook, Messages};
use super::wake_list::{Signal, WakeList};

/// What the uploader said about the object, as far as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Stored header fields, in the order in which they are replayed.
    pub headers: Vec<(String, String)>,
    pub created_ms: Millis,
    /// From `Cache-Control: max-age` of the upload: remove the object after this time.
    pub expires_ms: Option<Millis>,
}

impl ObjectInfo {
    /// The stored value of a header field, by its usual spelling.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// What becomes of an object whose writer goes away without a word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ending {
    /// It is aborted.
    #[default]
    Torn,
    /// It is sealed as far as it came, also by recovery after a crash.
    Sealed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Life {
    Open = 0,
    Sealed = 1,
    /// The writer was lost, or its framing was bad.
    Aborted = 2,
    /// A newer writer took the name over.
    TakenOver = 3,
    /// Deleted while it was written.
    Removed = 4,
}

impl Life {
    fn from_u8(value: u8) -> Life {
        match value {
            0 => Life::Open,
            1 => Life::Sealed,
            2 => Life::Aborted,
            3 => Life::TakenOver,
            4 => Life::Removed,
            _ => unreachable!("only Life values are stored"),
        }
    }
}

/// What is fixed when an object is sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    /// A strong entity tag with its quotes (RFC 9110 §8.8.3).
    pub etag: String,
    /// Time of the seal: Last-Modified.
    pub modified_ms: Millis,
    pub length: u64,
    pub(super) fingerprint: Fingerprint,
}

impl Seal {
    pub(super) fn of_content(length: u64, digest: u64, modified_ms: Millis) -> Seal {
        let (etag, fingerprint) = (Seal::content_etag(length, digest), Fingerprint::Digest(digest));
        Seal { etag, modified_ms, length, fingerprint }
    }

    /// The tag is made of the content alone, so that two origins with the same bytes agree.
    fn content_etag(length: u64, digest: u64) -> String {
        format!("\"{length:x}-{digest:016x}\"")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkKind {
    /// A boundary inside the object: a fragment, a packet group.
    Boundary,
    /// A boundary at which a reader can start decoding.
    RandomAccess,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub offset: u64,
    pub kind: MarkKind,
}

/// The newest marks of an object; older ones are forgotten.
const MARKS_MAX: usize = 4096;

#[derive(Default)]
struct Marks {
    newest: VecDeque<Mark>,
    /// Bytes a late reader of a trimmed object needs first: init segment, PAT and PMT.
    preamble: Option<Bytes>,
}

impl Marks {
    fn add(&mut self, mark: Mark) {
        debug_assert!(self.newest.back().is_none_or(|last| last.offset <= mark.offset));
        if self.newest.len() == MARKS_MAX {
            self.newest.pop_front();
        }
        self.newest.push_back(mark);
    }

    fn last_random_access(&self, head: u64) -> Option<u64> {
        let usable = |mark: &&Mark| mark.kind == MarkKind::RandomAccess && mark.offset >= head;
        self.newest.iter().rev().find(usable).map(|mark| mark.offset)
    }
}

pub(super) struct Extents {
    pub(super) list: VecDeque<Arc<Extent>>,
}

pub struct Object {
    pub name: Box<str>,
    pub id: u64,
    pub info: ObjectInfo,
    /// Extents are cut at multiples of this.
    pub(super) extent_bytes: u64,
    pub(super) ending: Ending,
    /// In no table and under no name.
    pub(super) is_unnamed: bool,
    /// Extent 0 lies under the object's name already while the object is open: it was continued.
    /// Changed under the commit lock.
    is_placed: AtomicBool,
    life: AtomicU8,
    /// Offset of the first byte still kept; moves only on trimmed objects.
    head: AtomicU64,
    /// End of what readers may see. Bytes below it never change.
    tail: AtomicU64,
    pub(super) extents: RwLock<Extents>,
    seal: OnceLock<Seal>,
    pub(super) wake_list: WakeList,
    readers: AtomicUsize,
    marks: Mutex<Marks>,
    pub(super) messages: Messages,
    text_end: AtomicU64,
    /// Bytes that a door computes once per sealed object, such as its response head.
    pub memo: OnceLock<Bytes>,
    /// The whole body of a small sealed object while it is hot; the store's cache bounds it.
    pub(super) body: RwLock<Option<Bytes>>,
}

impl Object {
    pub(super) fn open(name: &str, id: u64, info: ObjectInfo, extent_bytes: u64) -> Object {
        Object {
            name: name.into(),
            id,
            info,
            extent_bytes,
            ending: Ending::Torn,
            is_unnamed: false,
            is_placed: AtomicBool::new(false),
            life: AtomicU8::new(Life::Open as u8),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            extents: RwLock::new(Extents { list: VecDeque::new() }),
            seal: OnceLock::new(),
            wake_list: WakeList::default(),
            readers: AtomicUsize::new(0),
            marks: Mutex::default(),
            messages: Messages::default(),
            text_end: AtomicU64::new(0),
            memo: OnceLock::new(),
            body: RwLock::new(None),
        }
    }

    pub(super) fn sealed(
        name: &str,
        id: u64,
        info: ObjectInfo,
        extents: VecDeque<Arc<Extent>>,
        seal: Seal,
    ) -> Object {
        let extent_bytes = extents.front().map_or(1, |first| first.capacity.max(1));
        let object = Object::open(name, id, info, extent_bytes);
        object.tail.store(seal.length, Ordering::SeqCst);
        object.extents.write().list = extents;
        object.set_sealed(seal);
        object
    }

    /// The sealed object `before` as it is opened again: the same bytes, to be continued.
    pub(super) fn continued(
        before: &Object,
        id: u64,
        extent_bytes: u64,
        extents: VecDeque<Arc<Extent>>,
    ) -> Object {
        let mut object = Object::open(&before.name, id, before.info.clone(), extent_bytes);
        object.ending = Ending::Sealed;
        object.tail.store(before.tail(), Ordering::SeqCst);
        object.set_text_end(before.text_end());
        object.extents.write().list = extents;
        object
    }

    pub fn life(&self) -> Life {
        Life::from_u8(self.life.load(Ordering::SeqCst))
    }

    pub fn is_open(&self) -> bool {
        self.life() == Life::Open
    }

    /// Whether anybody reads it at this moment: for who could give up what nobody wants. No writer waits
    /// for it, or depends on it.
    pub fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    pub(super) fn enter_reader(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave_reader(&self) {
        let before = self.readers.fetch_sub(1, Ordering::Relaxed);
        assert!(before > 0, "a reader leaves once");
    }

    /// In no table: its bytes go with the last who holds it.
    pub fn is_unnamed(&self) -> bool {
        self.is_unnamed
    }

    /// End of what readers may see, in bytes.
    pub fn tail(&self) -> u64 {
        self.tail.load(Ordering::SeqCst)
    }

    /// First byte still kept, in bytes; 0 unless the object is trimmed.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::SeqCst)
    }

    pub fn seal(&self) -> Option<&Seal> {
        self.seal.get()
    }

    /// What there is of message `number`.
    pub fn message(&self, number: u64) -> MessageLook {
        self.messages.look(number)
    }

    /// The message that has the byte at `offset`, if it is complete and kept.
    pub fn message_at(&self, offset: u64) -> Option<Message> {
        self.messages.at(offset)
    }

    /// Number of the first message that is kept, and of the one that comes next.
    pub fn messages(&self) -> (u64, u64) {
        self.messages.numbers()
    }

    /// Number of the message that comes next, and where the one before it ended; `None` while nothing
    /// is known of messages.
    pub fn message_edge(&self) -> Option<(u64, MessageEnd)> {
        self.messages.edge()
    }

    /// Bytes below are UTF-8 and end with a whole character, as far as their writers said.
    pub fn text_end(&self) -> u64 {
        self.text_end.load(Ordering::SeqCst)
    }

    pub(super) fn set_text_end(&self, offset: u64) {
        self.text_end.store(offset, Ordering::SeqCst);
    }

    pub(super) fn is_placed(&self) -> bool {
        self.is_placed.load(Ordering::SeqCst)
    }

    pub(super) fn set_placed(&self, is_placed: bool) {
        self.is_placed.store(is_placed, Ordering::SeqCst);
    }

    pub(super) fn set_tail(&self, tail: u64) {
        debug_assert!(tail >= self.tail());
        self.tail.store(tail, Ordering::SeqCst);
    }

    pub(super) fn set_sealed(&self, seal: Seal) {
        assert_eq!(seal.length, self.tail());
        self.seal.set(seal).expect("an object is sealed once");
        let before = self.life.swap(Life::Sealed as u8, Ordering::SeqCst);
        assert_eq!(Life::from_u8(before), Life::Open);
    }

    /// Leave Open for a state without a proper end; readers are woken to see it. False if the
    /// object was not open any more.
    pub(super) fn abort(&self, to: Life, from_core: Option<usize>, signal: &Signal) -> bool {
        debug_assert!(!matches!(to, Life::Open | Life::Sealed));
        let moved = self
            .life
            .compare_exchange(Life::Open as u8, to as u8, Ordering::SeqCst, Ordering::SeqCst)
            .is_ok();
        if moved {
            self.wake_list.wake(from_core, signal);
        }
        moved
    }

    pub(super) fn add_mark(&self, mark: Mark) {
        self.marks.lock().add(mark);
    }

    /// A random-access mark and what is needed in front of it, in one step for readers.
    pub(super) fn add_key(&self, offset: u64, preamble: Bytes) {
        let mut marks = self.marks.lock();
        marks.preamble = Some(preamble);
        marks.add(Mark { offset, kind: MarkKind::RandomAccess });
    }

    /// The newest kept mark at which decoding can start, and what is needed in front of it.
    pub fn last_key(&self) -> Option<(u64, Bytes)> {
        let head = self.head();
        let marks = self.marks.lock();
        let offset = marks.last_random_access(head)?;
        Some((offset, marks.preamble.clone().unwrap_or_default()))
    }

    pub(super) fn set_preamble(&self, preamble: Bytes) {
        self.marks.lock().preamble = Some(preamble);
    }

    pub fn preamble(&self) -> Option<Bytes> {
        self.marks.lock().preamble.clone()
    }

    /// The newest kept mark at which decoding can start.
    pub fn last_random_access(&self) -> Option<u64> {
        let head = self.head();
        self.marks.lock().last_random_access(head)
    }

    /// The newest mark of any kind.
    pub fn last_mark(&self) -> Option<u64> {
        self.marks.lock().newest.back().map(|mark| mark.offset)
    }

    /// The first kept mark from `offset` on at which decoding can start.
    pub fn random_access_from(&self, offset: u64) -> Option<u64> {
        let from = offset.max(self.head());
        let marks = self.marks.lock();
        let usable = |mark: &&Mark| mark.kind == MarkKind::RandomAccess && mark.offset >= from;
        marks.newest.iter().find(usable).map(|mark| mark.offset)
    }

    /// Append `[start, end)` of the body to `out` if the body of this small sealed object is hot.
    pub fn copy_hot_body(&self, start: u64, end: u64, out: &mut Vec<u8>) -> bool {
        let body = self.body.read();
        let Some(bytes) = body.as_ref().and_then(|body| body.get(start as usize..end as usize))
        else {
            return false;
        };
        out.extend_from_slice(bytes);
        true
    }

    /// Bytes between head and tail.
    pub(super) fn kept_bytes(&self) -> u64 {
        self.tail() - self.head()
    }

    /// True if `trim` would drop an extent.
    pub(super) fn can_trim(&self, keep_from: u64) -> bool {
        keep_from >= self.head() + self.extent_bytes && self.extents.read().list.len() > 1
    }

    /// Drop extents that end at or before `keep_from`; returns the bytes dropped. Readers inside one
    /// keep it; others that are behind are lagged. An extent 0 that has the object's name must have
    /// lost it before.
    pub(super) fn trim(&self, keep_from: u64) -> u64 {
        if !self.can_trim(keep_from) {
            return 0;
        }
        debug_assert!(!self.is_placed());
        let head_before = self.head();
        let mut extents = self.extents.write();
        while extents.list.len() > 1
            && let Some(first) = extents.list.front()
            && first.end() <= keep_from
        {
            self.head.store(first.end(), Ordering::SeqCst);
            first.doom();
            extents.list.pop_front();
        }
        drop(extents);
        self.messages.forget_before(self.head());
        self.head() - head_before
    }

    /// Give up the extents that lie wholly behind the tail; returns the last that is left.
    pub(super) fn drop_behind_tail(&self) -> Option<Arc<Extent>> {
        let mut extents = self.extents.write();
        while extents.list.len() > 1
            && let Some(last) = extents.list.back()
            && last.start >= self.tail()
        {
            // At once: the next bytes need a file of the same name.
            last.delete_file();
            extents.list.pop_back();
        }
        extents.list.back().cloned()
    }

    /// The extent that holds `offset`, or would hold it next.
    pub(super) fn extent_at(&self, offset: u64) -> Option<Arc<Extent>> {
        let extents = self.extents.read();
        let first = extents.list.front()?;
        let index = offset.checked_sub(first.start)? / self.extent_bytes;
        extents.list.get(usize::try_from(index).ok()?).cloned()
    }
}
