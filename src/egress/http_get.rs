//! GET and HEAD: sealed objects whole and in ranges, open objects from a place and then live.
//!
//! The path of a byte: a small sealed object is copied from memory behind its head and leaves in one
//! send. Everything else leaves as a `Transfer`.

use std::sync::Arc;

use bytes::Bytes;

use super::Egress;
use super::answer::{Ask, Got, Validators, end_after, finish_head, late_start};
use super::transfer::{Body, BodyFraming, Piece, Transfer};
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::store::{Available, Object, Reader, Seal, StorageError};
use crate::wire::http1::{HeadWriter, Precondition, Ranges};
use crate::wire::media_type::{self, Class};
use crate::wire::multipart::Byteranges;

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
    let body = Body::Pieces(vec![Piece::Object { object: object.clone(), start, end }]);
    Got::Transfer(Box::new(Transfer { body, framing: BodyFraming::Length }))
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
    let parts = match ask.wanted_ranges(version_of(seal), seal.length) {
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

fn has_usable_range(ask: &Ask<'_>, seal: &Seal) -> bool {
    matches!(ask.wanted_ranges(version_of(seal), seal.length), Ranges::Parts(_))
}

fn version_of(seal: &Seal) -> Validators<'_> {
    Validators { etag: &seal.etag, modified_ms: seal.modified_ms }
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
    let mut pieces = Vec::with_capacity(2 * ranges.len() + 1);
    for &(start, end) in ranges {
        pieces.push(Piece::Made(layout.part_head(start, end).into()));
        pieces.push(Piece::Object { object: object.clone(), start, end });
    }
    pieces.push(Piece::Made(layout.close().into()));
    let body = Body::Pieces(pieces);
    Got::Transfer(Box::new(Transfer { body, framing: BodyFraming::Length }))
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
    let OpenPlace { preamble, start, end, .. } = place;
    let object = Piece::Object { object: object.clone(), start, end };
    let body = Body::Pieces(vec![Piece::Made(preamble), object]);
    Got::Transfer(Box::new(Transfer { body, framing }))
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

fn open_place(ask: &Ask<'_>, object: &Object) -> Result<OpenPlace, TrimmedAway> {
    let Some((start, last)) = ask.open_range() else {
        let (preamble, start) = late_start(object);
        return Ok(OpenPlace { preamble, start, end: u64::MAX, range: None });
    };
    if start < object.head() || start > last {
        return Err(TrimmedAway);
    }
    let range = Some((start, last));
    Ok(OpenPlace { preamble: Bytes::new(), start, end: end_after(last), range })
}

fn content_type_of(object: &Object) -> Option<&str> {
    object.info.header("Content-Type").or_else(|| media_type::by_extension(&object.name))
}

fn write_content_type(head: &mut HeadWriter<'_>, object: &Object) {
    head.field("Content-Type", content_type_of(object).unwrap_or("application/octet-stream"));
}

fn write_sealed_fields(egress: &Egress, head: &mut HeadWriter<'_>, object: &Object, seal: &Seal) {
    version_of(seal).write(head);
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
