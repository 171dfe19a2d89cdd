//! Boxes (ISO/IEC 14496-12, 4.2) as they lie in memory: heads, neighbours, children, and numbers in
//! their payloads. The other files of this folder read through it; it knows no box by its meaning
//! beyond who may stand where.
//!
//! Every read is checked against the bytes at hand, and no length that a peer announces is allocated.

use super::Fmp4Error;

/// The head of a box: its type, how many bytes its head has and how many the whole box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoxHead {
    pub kind: [u8; 4],
    pub head_bytes: usize,
    /// `None`: up to the end of the stream (size field 0).
    pub total_bytes: Option<u64>,
}

impl BoxHead {
    /// The longest head: 32-bit size, type, 64-bit size.
    pub const BYTES_MAX: usize = 16;

    /// `Ok(None)`: more bytes are needed.
    pub fn parse(bytes: &[u8]) -> Result<Option<BoxHead>, Fmp4Error> {
        let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let Some((kind, rest)) = rest.split_first_chunk::<4>() else {
            return Ok(None);
        };
        let (head_bytes, total_bytes) = match u32::from_be_bytes(*size) {
            0 => (8, None),
            1 => match rest.first_chunk::<8>() {
                Some(large) => (16, Some(u64::from_be_bytes(*large))),
                None => return Ok(None),
            },
            size => (8, Some(u64::from(size))),
        };
        // A box type is four printable characters; anything else means that framing was lost.
        let printable = kind.iter().all(|&byte| byte == 0xa9 || (0x20..0x7f).contains(&byte));
        if !printable || total_bytes.is_some_and(|total| total < head_bytes as u64) {
            return Err(Fmp4Error::BoxSize);
        }
        Ok(Some(BoxHead { kind: *kind, head_bytes, total_bytes }))
    }
}

/// Box types that a fragmented MP4, or a segment of one, begins with.
pub fn may_begin_stream(kind: &[u8; 4]) -> bool {
    matches!(kind, b"ftyp" | b"moov" | b"free" | b"skip" | b"moof" | b"mfra") || is_prefix_box(kind)
}

/// Boxes that belong to the chunk whose moof they precede (23000-19, 7.3.2.3).
pub fn is_prefix_box(kind: &[u8; 4]) -> bool {
    matches!(kind, b"styp" | b"prft" | b"emsg" | b"sidx")
}

/// A number in a box that can be replaced in place, of 32 or 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeField {
    pub position: usize,
    pub wide: bool,
    pub value: u64,
}

impl TimeField {
    pub(super) fn read(
        data: &[u8],
        at: usize,
        base: usize,
        wide: bool,
    ) -> Result<TimeField, Fmp4Error> {
        let value = if wide { u64_at(data, at)? } else { u64::from(u32_at(data, at)?) };
        Ok(TimeField { position: base.saturating_add(at), wide, value })
    }

    /// Writes `value` where this field is. The width stays: widening would move every byte behind
    /// it.
    pub fn rewrite(&self, bytes: &mut [u8], value: u64) -> Result<(), Fmp4Error> {
        if self.wide {
            put(bytes, self.position, &value.to_be_bytes())
        } else {
            let value = u32::try_from(value).map_err(|_| Fmp4Error::TimeOverflow)?;
            put(bytes, self.position, &value.to_be_bytes())
        }
    }
}

/// A box inside some bytes; `position` is that of its payload.
pub(super) struct BoxRef<'a> {
    pub(super) kind: [u8; 4],
    pub(super) position: usize,
    pub(super) payload: &'a [u8],
    /// Head and payload.
    pub(super) whole: &'a [u8],
}

/// The boxes that lie side by side in `data`; after an error there are no more.
pub(super) fn boxes(data: &[u8]) -> impl Iterator<Item = Result<BoxRef<'_>, Fmp4Error>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = data.get(at..).filter(|rest| !rest.is_empty())?;
        let start = at;
        at = data.len();
        let found = split_box(rest, start);
        if let Ok(found) = &found {
            at = start + found.whole.len();
        }
        Some(found)
    })
}

fn split_box(data: &[u8], start: usize) -> Result<BoxRef<'_>, Fmp4Error> {
    let head = BoxHead::parse(data)?.ok_or(Fmp4Error::BoxSize)?;
    let total = head.total_bytes.unwrap_or(data.len() as u64);
    let end = usize::try_from(total).map_err(|_| Fmp4Error::BoxSize)?;
    let whole = data.get(..end).ok_or(Fmp4Error::BoxSize)?;
    let payload = whole.get(head.head_bytes..).ok_or(Fmp4Error::BoxSize)?;
    Ok(BoxRef { kind: head.kind, position: start + head.head_bytes, payload, whole })
}

/// The children of one kind up to the first malformed one.
pub(super) fn children<'a>(
    data: &'a [u8],
    kind: &'static [u8; 4],
) -> impl Iterator<Item = BoxRef<'a>> {
    boxes(data).map_while(Result::ok).filter(move |child| &child.kind == kind)
}

/// The payload of the first child of one kind.
pub(super) fn child<'a>(data: &'a [u8], kind: &'static [u8; 4]) -> Option<&'a [u8]> {
    children(data, kind).next().map(|child| child.payload)
}

pub(super) fn u16_at(data: &[u8], at: usize) -> Result<u16, Fmp4Error> {
    let bytes = data.get(at..).and_then(<[u8]>::first_chunk::<2>);
    bytes.map(|bytes| u16::from_be_bytes(*bytes)).ok_or(Fmp4Error::BoxSize)
}

pub(super) fn u32_at(data: &[u8], at: usize) -> Result<u32, Fmp4Error> {
    let bytes = data.get(at..).and_then(<[u8]>::first_chunk::<4>);
    bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(Fmp4Error::BoxSize)
}

pub(super) fn u64_at(data: &[u8], at: usize) -> Result<u64, Fmp4Error> {
    let bytes = data.get(at..).and_then(<[u8]>::first_chunk::<8>);
    bytes.map(|bytes| u64::from_be_bytes(*bytes)).ok_or(Fmp4Error::BoxSize)
}

pub(super) fn put(data: &mut [u8], at: usize, value: &[u8]) -> Result<(), Fmp4Error> {
    let end = at.checked_add(value.len()).ok_or(Fmp4Error::BoxSize)?;
    data.get_mut(at..end).ok_or(Fmp4Error::BoxSize)?.copy_from_slice(value);
    Ok(())
}
