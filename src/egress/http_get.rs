//! GET and HEAD: sealed objects whole and in ranges, open objects from a place and then live.
//!
//! The path of a byte: a small sealed object is copied from memory behind its head and leaves in one
//! send. A larger one is sent from its mapping when its pages are in memory, head and first slice in
//! one call; otherwise it is read into a registered buffer, behind the head, and sent from there. An
//! open object is sent from its mapping as it grows, a chunk per append.
//!
//! | a transfer is at | left by |
//! |---|---|
//! | bytes available | `Sender::frame` |
//! | the tail | `wait_at_tail`: news, or the peer is gone |
//! | the end of a part | the next part, or the end of the framing |
//! | an aborted or lagged place | the connection is cut, so that nobody takes it for complete |

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use super::Egress;
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::worker::yield_now;
use crate::store::{Available, Object, Reader, Seal, StorageError};
use crate::wire::http1::{
    Chunk, FOLLOW_LAST_BYTE, Fields, HeadWriter, LAST_CHUNK, Precondition, RangeSpec, Ranges,
    if_range_holds, parse_range, write_date,
};
use crate::wire::media_type::{self, Class};
use crate::wire::multipart::Byteranges;

/// Bytes handed to the kernel in one call: what a core cache holds beside everything else.
const SLICE_BYTES_MAX: u64 = 1 << 19;
/// Bytes sent without waiting before other tasks of the core have their turn. Short turns keep what is
/// in flight in the cache: 16 MiB objects leave at 12 GB/s so, at 7.5 with turns of 4 MiB.
const TURN_BYTES_MAX: u64 = 1 << 19;
/// Bytes this close to the tail were just written: their pages are in memory.
const FRESH_BYTES: u64 = 8 << 20;
/// Heads that fit in front of the data in a registered buffer.
const PREFIX_BYTES_MAX: usize = 3 << 10;

/// What the door needs of a request.
pub struct Ask<'r> {
    pub fields: &'r Fields<'r>,
    pub is_head: bool,
    pub is_http10: bool,
    pub keep_alive: bool,
    /// The request waited for the object so long.
    pub waited_ms: Option<u64>,
    /// The body, if it was just loaded for this request.
    pub body: Option<Bytes>,
    /// Lines that only this request gets.
    pub own_lines: &'r [u8],
}

impl Ask<'_> {
    /// The commonest request: no condition, no range, and the connection stays.
    fn is_plain(&self) -> bool {
        let f = self.fields;
        let conditional = f.if_none_match.is_some()
            || f.if_modified_since.is_some()
            || f.if_match.is_some()
            || f.if_unmodified_since.is_some();
        let usual = self.keep_alive
            && !self.is_http10
            && self.waited_ms.is_none()
            && self.own_lines.is_empty();
        usual && !conditional && f.range.is_none()
    }
}

/// How the answer goes on.
pub enum Got {
    /// It is complete in the output buffer.
    Answered,
    /// The object is small and not in memory: load it, then ask again.
    Load(Arc<Object>),
    /// The head is in the output buffer; the body is this.
    Transfer(Box<Transfer>),
    /// 416 with this complete length, if it is known.
    Unsatisfiable(Option<u64>),
    /// 412.
    PreconditionFailed,
}

/// A body that is sent by [`stream`].
pub struct Transfer {
    object: Arc<Object>,
    parts: Vec<Part>,
    /// Sent behind the last part.
    closing: Vec<u8>,
    framing: BodyFraming,
}

struct Part {
    preface: Vec<u8>,
    start: u64,
    end: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyFraming {
    Length,
    Chunked,
    UntilClose,
}

impl Transfer {
    /// The body's end is the connection's end: HTTP/1.0.
    pub fn ends_by_close(&self) -> bool {
        self.framing == BodyFraming::UntilClose
    }
}

/// Write the answer's head, and the body if it is in memory.
pub fn respond(egress: &Egress, ask: &Ask<'_>, object: &Arc<Object>, out: &mut Vec<u8>) -> Got {
    match object.seal() {
        Some(seal) => respond_sealed(egress, ask, object, seal, out),
        None => respond_open(egress, ask, object, out),
    }
}

fn respond_sealed(
    egress: &Egress,
    ask: &Ask<'_>,
    object: &Arc<Object>,
    seal: &Seal,
    out: &mut Vec<u8>,
) -> Got {
    if !ask.is_plain() {
        return respond_sealed_unusual(egress, ask, object, seal, out);
    }
    let answer_start = out.len();
    out.extend_from_slice(object.memo.get_or_init(|| whole_head(egress, object, seal)));
    egress.write_date(out);
    out.extend_from_slice(b"\r\n");
    if ask.is_head {
        return Got::Answered;
    }
    if seal.length > egress.options.small_object_bytes_max {
        return transfer_of(object, 0, seal.length);
    }
    if copy_small_body(egress, ask, object, (0, seal.length), out) {
        return Got::Answered;
    }
    out.truncate(answer_start);
    Got::Load(object.clone())
}

/// Append a part of the body if it is in memory.
fn copy_small_body(
    egress: &Egress,
    ask: &Ask<'_>,
    object: &Object,
    (start, end): (u64, u64),
    out: &mut Vec<u8>,
) -> bool {
    if let Some(body) = &ask.body {
        out.extend_from_slice(&body[start as usize..end as usize]);
        return true;
    }
    let is_hot = start == end || object.copy_hot_body(start, end, out);
    egress.counters.add(Counter::BodyCacheHits, u64::from(is_hot));
    is_hot
}

/// A body of known length: the bytes `[start, end)`.
fn transfer_of(object: &Arc<Object>, start: u64, end: u64) -> Got {
    Got::Transfer(Box::new(Transfer {
        object: object.clone(),
        parts: vec![Part { preface: Vec::new(), start, end }],
        closing: Vec::new(),
        framing: BodyFraming::Length,
    }))
}

/// All of a 200's head that does not change from request to request.
fn whole_head(egress: &Egress, object: &Object, seal: &Seal) -> Bytes {
    let mut out = Vec::with_capacity(512);
    let mut head = HeadWriter::new(&mut out, 200);
    write_content_type(&mut head, object);
    head.number("Content-Length", seal.length);
    write_sealed_fields(egress, &mut head, object, seal);
    out.into()
}

/// Conditions, ranges, HTTP/1.0, HEAD of those, a last request.
fn respond_sealed_unusual(
    egress: &Egress,
    ask: &Ask<'_>,
    object: &Arc<Object>,
    seal: &Seal,
    out: &mut Vec<u8>,
) -> Got {
    match Precondition::of(ask.fields, &seal.etag, seal.modified_ms) {
        Precondition::Failed => return Got::PreconditionFailed,
        Precondition::NotModified => {
            let mut head = HeadWriter::new(out, 304);
            write_sealed_fields(egress, &mut head, object, seal);
            finish_head(egress, ask, out);
            return Got::Answered;
        }
        Precondition::Proceed => {}
    }
    let parts = match wanted_ranges(ask, seal) {
        Ranges::Unsatisfiable => return Got::Unsatisfiable(Some(seal.length)),
        Ranges::Whole => vec![(0, seal.length)],
        Ranges::Parts(parts) if parts.len() == 1 => parts,
        Ranges::Parts(parts) => return respond_multipart(egress, ask, object, seal, &parts, out),
    };
    let (start, end) = parts[0];
    let is_partial = (start, end) != (0, seal.length) || has_usable_range(ask, seal);
    let mut head = HeadWriter::new(out, if is_partial { 206 } else { 200 });
    write_content_type(&mut head, object);
    head.number("Content-Length", end - start);
    if is_partial {
        head.field("Content-Range", &format!("bytes {start}-{}/{}", end - 1, seal.length));
    }
    write_sealed_fields(egress, &mut head, object, seal);
    finish_head(egress, ask, out);
    if ask.is_head {
        return Got::Answered;
    }
    if copy_small_body(egress, ask, object, (start, end), out) {
        return Got::Answered;
    }
    transfer_of(object, start, end)
}

/// Range only counts for GET (RFC 9110 §14.2), and only if If-Range holds.
fn wanted_ranges(ask: &Ask<'_>, seal: &Seal) -> Ranges {
    let Some(value) = ask.fields.range.filter(|_| !ask.is_head) else {
        return Ranges::Whole;
    };
    if ask
        .fields
        .if_range
        .is_some_and(|v| !if_range_holds(v, &seal.etag, seal.modified_ms, clock::unix_ms()))
    {
        return Ranges::Whole;
    }
    parse_range(value).map_or(Ranges::Whole, |specs| Ranges::of(&specs, seal.length))
}

fn has_usable_range(ask: &Ask<'_>, seal: &Seal) -> bool {
    matches!(wanted_ranges(ask, seal), Ranges::Parts(_))
}

fn respond_multipart(
    egress: &Egress,
    ask: &Ask<'_>,
    object: &Arc<Object>,
    seal: &Seal,
    ranges: &[(u64, u64)],
    out: &mut Vec<u8>,
) -> Got {
    let unique = object.id ^ clock::unix_ms().rotate_left(32);
    let layout = Byteranges::new(unique, content_type_of(object), seal.length);
    let mut head = HeadWriter::new(out, 206);
    head.field("Content-Type", &layout.content_type());
    head.number("Content-Length", layout.length(ranges));
    write_sealed_fields(egress, &mut head, object, seal);
    finish_head(egress, ask, out);
    let part = |(start, end): &(u64, u64)| Part {
        preface: layout.part_head(*start, *end).into_bytes(),
        start: *start,
        end: *end,
    };
    Got::Transfer(Box::new(Transfer {
        object: object.clone(),
        parts: ranges.iter().map(part).collect(),
        closing: layout.close().into_bytes(),
        framing: BodyFraming::Length,
    }))
}

/// An object that still grows: no length, no tag that would change later (RFC 9110 §8.8).
fn respond_open(egress: &Egress, ask: &Ask<'_>, object: &Arc<Object>, out: &mut Vec<u8>) -> Got {
    let place = match open_place(ask, object) {
        Ok(place) => place,
        Err(TrimmedAway) => return Got::Unsatisfiable(None),
    };
    let is_whole_here = place.end <= object.tail();
    let mut head = HeadWriter::new(out, if place.range.is_some() { 206 } else { 200 });
    write_content_type(&mut head, object);
    let framing = if is_whole_here {
        head.number("Content-Length", place.end - place.start);
        BodyFraming::Length
    } else if ask.is_http10 {
        BodyFraming::UntilClose
    } else {
        head.field("Transfer-Encoding", "chunked");
        BodyFraming::Chunked
    };
    if let Some((first, last)) = place.range {
        head.field("Content-Range", &format!("bytes {first}-{last}/*"));
    }
    write_stored_fields(egress, &mut head, object);
    let keep_alive = ask.keep_alive && framing != BodyFraming::UntilClose;
    finish_head(egress, &Ask { keep_alive, body: None, ..*ask }, out);
    if ask.is_head {
        return Got::Answered;
    }
    egress.counters.add(Counter::ReadersFollowing, 1);
    let part = Part { preface: place.preamble.to_vec(), start: place.start, end: place.end };
    Got::Transfer(Box::new(Transfer {
        object: object.clone(),
        parts: vec![part],
        closing: Vec::new(),
        framing,
    }))
}

/// Where a reader of an open object starts and stops.
struct OpenPlace {
    preamble: Bytes,
    start: u64,
    end: u64,
    /// First and last byte position for Content-Range.
    range: Option<(u64, u64)>,
}

struct TrimmedAway;

/// A range with a first byte position is taken as RFC 8673 says: it may lie beyond the tail, and
/// without a last position, or with 2^53 − 1, it follows to the end. `bytes=0-` asks for the whole,
/// which is what 200 gives: players send it with every request and cannot do with an unknown length
/// in Content-Range. Suffix and several ranges mean nothing yet: the whole.
fn open_place(ask: &Ask<'_>, object: &Object) -> Result<OpenPlace, TrimmedAway> {
    let usable = ask.fields.range.filter(|_| !ask.is_head && ask.fields.if_range.is_none());
    let specs = usable.and_then(parse_range).unwrap_or_default();
    let (start, last) = match specs.as_slice() {
        [RangeSpec::From(first, last)] if *first > 0 || last.is_some() => {
            (*first, last.unwrap_or(FOLLOW_LAST_BYTE).min(FOLLOW_LAST_BYTE))
        }
        _ => return Ok(whole_place(object)),
    };
    if start < object.head() || start > last {
        return Err(TrimmedAway);
    }
    let end = if last == FOLLOW_LAST_BYTE { u64::MAX } else { last + 1 };
    Ok(OpenPlace { preamble: Bytes::new(), start, end, range: Some((start, last)) })
}

/// From the first byte; of a trimmed object its preamble and the last place to start decoding.
fn whole_place(object: &Object) -> OpenPlace {
    let head = object.head();
    if head == 0 {
        return OpenPlace { preamble: Bytes::new(), start: 0, end: u64::MAX, range: None };
    }
    let start = object.last_random_access().unwrap_or(head);
    OpenPlace { preamble: object.preamble().unwrap_or_default(), start, end: u64::MAX, range: None }
}

fn content_type_of(object: &Object) -> Option<&str> {
    object.info.header("Content-Type").or_else(|| media_type::by_extension(&object.name))
}

fn write_content_type(head: &mut HeadWriter<'_>, object: &Object) {
    head.field("Content-Type", content_type_of(object).unwrap_or("application/octet-stream"));
}

fn write_sealed_fields(egress: &Egress, head: &mut HeadWriter<'_>, object: &Object, seal: &Seal) {
    let mut modified = Vec::with_capacity(32);
    write_date(&mut modified, seal.modified_ms / 1000);
    head.field("ETag", &seal.etag);
    head.field("Last-Modified", &String::from_utf8_lossy(&modified));
    head.field("Accept-Ranges", "bytes");
    write_stored_fields(egress, head, object);
}

/// What the uploader sent and is kept, the cache rule where it sent none, and the common lines.
fn write_stored_fields(egress: &Egress, head: &mut HeadWriter<'_>, object: &Object) {
    let stored =
        object.info.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("Content-Type"));
    for (name, value) in stored {
        head.field(name, value);
    }
    if object.info.header("Cache-Control").is_none() {
        head.field("Cache-Control", egress.options.cache_rule(class_of(object)));
    }
    head.lines(&egress.options.common_lines);
}

fn class_of(object: &Object) -> Class {
    media_type::class_of(&object.name, object.info.header("Content-Type"))
}

fn finish_head(egress: &Egress, ask: &Ask<'_>, out: &mut Vec<u8>) {
    let mut head = HeadWriter::resume(out);
    head.lines(ask.own_lines);
    if let Some(waited_ms) = ask.waited_ms {
        head.number("Waited-For-Data-Ms", waited_ms);
    }
    if !ask.keep_alive {
        head.field("Connection", "close");
    } else if ask.is_http10 {
        head.field("Connection", "keep-alive");
    }
    egress.write_date(out);
    out.extend_from_slice(b"\r\n");
}

/// Read the body of a small sealed object into memory.
pub async fn load(egress: &Egress, object: &Arc<Object>) -> Result<Bytes, StorageError> {
    let mut reader = Reader::new(&egress.store, object.clone(), egress.core, 0, object.tail());
    let mut body = Vec::with_capacity(object.tail() as usize);
    while let Available::Bytes(left) = reader.available() {
        let at = match reader.read_at(left) {
            Ok(at) => at,
            // RAM-only objects have no file any more: their mapping is memory for sure.
            Err(_) if egress.store.is_memory_only() => {
                let slice = reader.mapped(left)?;
                body.extend_from_slice(slice);
                let got = slice.len() as u64;
                reader.advance(got);
                continue;
            }
            Err(error) => return Err(error),
        };
        egress.counters.add(Counter::FileReads, 1);
        let data = egress.ring.read(at.file, at.offset, at.len as usize).await?;
        if data.bytes().is_empty() {
            return Err(StorageError::Changed);
        }
        body.extend_from_slice(data.bytes());
        reader.advance(data.bytes().len() as u64);
    }
    let body = Bytes::from(body);
    egress.store.keep_body(object, body.clone());
    Ok(body)
}

/// How a transfer ended.
#[derive(Debug)]
pub enum Ended {
    /// The framing was completed; the connection can go on if the head said so.
    Complete,
    /// The answer could not be completed: the connection must be closed.
    Cut(CutReason),
    /// The object cannot be read, and nothing was sent yet: there is room for an error.
    Unsent(StorageError),
}

#[derive(Debug)]
pub enum CutReason {
    /// The peer went away, or took nothing until its deadline.
    Peer,
    /// The upload was aborted.
    Aborted,
    /// The reader fell behind by more than it may.
    Lagged,
    Storage(StorageError),
}

/// Send `prefix` (the head) and then the body.
pub async fn stream(
    egress: &Egress,
    transfer: Transfer,
    prefix: Vec<u8>,
    socket: &Socket,
    deadline: &Deadline,
) -> Ended {
    let following = transfer.object.seal().is_none();
    deadline.phase(if following { Phase::Following } else { Phase::Sending });
    let framing = transfer.framing;
    let mut sender = Sender {
        egress,
        socket,
        deadline,
        framing,
        prefix,
        turn_bytes: 0,
        has_sent: false,
        lag_max: u64::MAX,
    };
    let outcome = send_parts(&mut sender, transfer).await;
    deadline.clear();
    deadline.phase(Phase::Idle);
    let Err(reason) = outcome else {
        return Ended::Complete;
    };
    match &reason {
        CutReason::Aborted => egress.counters.add(Counter::ReadersCutAbort, 1),
        CutReason::Lagged => egress.counters.add(Counter::ReadersCutLag, 1),
        CutReason::Storage(_) => egress.counters.add(Counter::StorageErrors, 1),
        CutReason::Peer => {}
    }
    match reason {
        CutReason::Storage(error) if !sender.has_sent => return Ended::Unsent(error),
        _ if framing == BodyFraming::UntilClose => socket.reset_on_close(),
        _ => {}
    }
    Ended::Cut(reason)
}

async fn send_parts(sender: &mut Sender<'_>, transfer: Transfer) -> Result<(), CutReason> {
    let Transfer { object, parts, closing, framing } = transfer;
    let (store, core) = (&sender.egress.store, sender.egress.core);
    for part in parts {
        sender.put_prefix(&part.preface);
        let mut reader = Reader::new(store, object.clone(), core, part.start, part.end);
        send_part(sender, &mut reader).await?;
    }
    sender.prefix.extend_from_slice(&closing);
    if framing == BodyFraming::Chunked {
        sender.prefix.extend_from_slice(LAST_CHUNK);
    }
    sender.flush_prefix().await
}

async fn send_part(sender: &mut Sender<'_>, reader: &mut Reader) -> Result<(), CutReason> {
    // One readiness serves all waits of this part.
    let socket = sender.socket;
    let mut peer_gone = pin!(socket.peer_gone());
    sender.lag_max = reader.lag_bytes().saturating_add(sender.egress.options.lag_bytes_max);
    loop {
        match reader.available() {
            Available::Bytes(_) => sender.frame(reader).await?,
            Available::AtTail => {
                sender.flush_prefix().await?;
                wait_at_tail(reader, peer_gone.as_mut()).await?;
            }
            Available::End => return Ok(()),
            Available::Aborted => return Err(CutReason::Aborted),
            Available::Lagged => return Err(CutReason::Lagged),
        }
        // A late joiner starts far behind: only what it loses from there on counts.
        let max = sender.egress.options.lag_bytes_max;
        sender.lag_max = sender.lag_max.min(reader.lag_bytes().saturating_add(max));
    }
}

/// Wait for news of the object, or for the peer to go away.
async fn wait_at_tail(
    reader: &mut Reader,
    mut peer_gone: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), CutReason> {
    std::future::poll_fn(|context| {
        if reader.poll_news(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        peer_gone.as_mut().poll(context).map(|()| Err(CutReason::Peer))
    })
    .await
}

/// Sends frames: what stands before the data, the data, what stands behind it, in one call.
struct Sender<'a> {
    egress: &'a Egress,
    socket: &'a Socket,
    deadline: &'a Deadline,
    framing: BodyFraming,
    /// Bytes that go out in front of the next data.
    prefix: Vec<u8>,
    turn_bytes: u64,
    has_sent: bool,
    /// Bytes behind the tail at which the reader is cut.
    lag_max: u64,
}

impl Sender<'_> {
    /// Bytes of the body that do not come from the object: framed like data.
    fn put_prefix(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        if self.framing == BodyFraming::Chunked {
            self.prefix.extend_from_slice(Chunk::header(bytes.len() as u64).as_bytes());
            self.prefix.extend_from_slice(bytes);
            self.prefix.extend_from_slice(Chunk::END);
        } else {
            self.prefix.extend_from_slice(bytes);
        }
    }

    async fn flush_prefix(&mut self) -> Result<(), CutReason> {
        let mut sent = 0;
        while sent < self.prefix.len() {
            match self.socket.try_send(&self.prefix[sent..]) {
                Ok(Some(bytes)) => sent += self.count(bytes),
                Ok(None) => self.wait_writable().await,
                Err(_) => return Err(CutReason::Peer),
            }
        }
        self.prefix = Vec::new();
        Ok(())
    }

    /// Send the next available slice with its framing.
    async fn frame(&mut self, reader: &mut Reader) -> Result<(), CutReason> {
        if self.turn_bytes > TURN_BYTES_MAX {
            self.turn_bytes = 0;
            yield_now().await;
        }
        let len = reader.mapped(SLICE_BYTES_MAX).map_err(CutReason::Storage)?.len() as u64;
        let is_fresh = reader.object().seal().is_none() && reader.lag_bytes() < FRESH_BYTES;
        let cold = !is_fresh && !reader.is_resident(len) && !self.egress.store.is_memory_only();
        let (len, sent) = if cold { self.send_read(reader, len).await? } else { (len, 0) };
        self.send_mapped(reader, len, sent).await?;
        reader.advance(len);
        Ok(())
    }

    /// Read cold bytes into a registered buffer and send what the kernel takes of it. Returns the
    /// bytes read, and how much of prefix, framing and data was sent: the pages are in memory now,
    /// so the rest goes from the mapping, and the buffer never waits for a slow peer.
    async fn send_read(
        &mut self,
        reader: &mut Reader,
        len: u64,
    ) -> Result<(u64, usize), CutReason> {
        if self.prefix.len() > PREFIX_BYTES_MAX {
            self.flush_prefix().await?;
        }
        let at = reader.read_at(len).map_err(CutReason::Storage)?;
        self.egress.counters.add(Counter::FileReads, 1);
        let read = self.egress.ring.read(at.file, at.offset, at.len as usize).await;
        let mut buffer = read.map_err(|error| CutReason::Storage(error.into()))?;
        let got = buffer.bytes().len() as u64;
        if got == 0 {
            return Err(CutReason::Storage(StorageError::Changed));
        }
        if self.framing == BodyFraming::Chunked {
            buffer.put_before(Chunk::header(got).as_bytes());
            buffer.put_behind(Chunk::END);
        }
        buffer.put_before(&self.prefix);
        match self.socket.try_send(buffer.bytes()) {
            Ok(sent) => Ok((got, self.count(sent.unwrap_or(0)))),
            Err(_) => Err(CutReason::Peer),
        }
    }

    /// Send prefix, framing and `len` bytes from the mapping, of which `sent` are sent already.
    async fn send_mapped(
        &mut self,
        reader: &mut Reader,
        len: u64,
        mut sent: usize,
    ) -> Result<(), CutReason> {
        let chunk = Chunk::header(len);
        let (before, behind) = match self.framing {
            BodyFraming::Chunked => (chunk.as_bytes(), Chunk::END),
            BodyFraming::Length | BodyFraming::UntilClose => (&[][..], &[][..]),
        };
        let total = self.prefix.len() + before.len() + len as usize + behind.len();
        while sent < total {
            let data = reader.mapped(len).map_err(CutReason::Storage)?;
            let outcome = send_from(self.socket, [&self.prefix, before, data, behind], sent);
            match outcome {
                Ok(Some(bytes)) => sent += self.count(bytes),
                Ok(None) => self.wait_writable_or_lag(reader).await?,
                Err(error) => return Err(send_error(error)),
            }
        }
        if !self.prefix.is_empty() {
            self.prefix = Vec::new();
        }
        Ok(())
    }

    async fn wait_writable(&mut self) {
        self.turn_bytes = 0;
        self.deadline.set(self.egress.options.send_stall_timeout_s);
        self.socket.writable().await;
        self.deadline.clear();
    }

    /// As `wait_writable`, with an eye on how far an open object runs ahead.
    async fn wait_writable_or_lag(&mut self, reader: &mut Reader) -> Result<(), CutReason> {
        if reader.object().seal().is_some() {
            self.wait_writable().await;
            return Ok(());
        }
        self.turn_bytes = 0;
        self.deadline.set(self.egress.options.send_stall_timeout_s);
        let mut writable = pin!(self.socket.writable());
        let outcome = std::future::poll_fn(|context| {
            reader.wake_at_growth(context);
            if reader.lag_bytes() > self.lag_max {
                return Poll::Ready(Err(CutReason::Lagged));
            }
            writable.as_mut().poll(context).map(Ok)
        })
        .await;
        self.deadline.clear();
        outcome
    }

    fn count(&mut self, bytes: usize) -> usize {
        self.turn_bytes += bytes as u64;
        self.has_sent |= bytes > 0;
        self.egress.counters.add(Counter::BytesOut, bytes as u64);
        bytes
    }
}

/// EFAULT says that a mapped page cannot be had: the file was cut below us, or the disk failed.
fn send_error(error: io::Error) -> CutReason {
    if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::FAULT) {
        CutReason::Storage(StorageError::Io(error))
    } else {
        CutReason::Peer
    }
}

/// Send the pieces from byte `skip` on.
fn send_from(socket: &Socket, pieces: [&[u8]; 4], mut skip: usize) -> io::Result<Option<usize>> {
    let mut slices = [IoSlice::new(&[]); 4];
    let mut used = 0;
    for piece in pieces {
        let now = skip.min(piece.len());
        skip -= now;
        if now < piece.len() {
            slices[used] = IoSlice::new(&piece[now..]);
            used += 1;
        }
    }
    socket.try_send_pieces(&slices[..used])
}
