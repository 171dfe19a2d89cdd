//! What every door out knows of a request, what it answers, and the lines that stand in every head.
//! No door is named here.

use std::sync::Arc;

use bytes::Bytes;

use super::Egress;
use super::transfer::{BodyFraming, Transfer};
use crate::runtime::clock;
use crate::store::{Millis, Object};
use crate::wire::http1::{
    FOLLOW_LAST_BYTE, Fields, HeadWriter, RangeSpec, Ranges, if_range_holds, parse_range,
};

/// What a door needs of a request.
pub struct Ask<'r> {
    pub fields: &'r Fields<'r>,
    pub is_head: bool,
    pub is_http10: bool,
    pub keep_alive: bool,
    /// The request waited for the object so long.
    pub waited_ms: Option<u64>,
    /// The request was held so long until there was something to answer.
    pub held_ms: Option<u64>,
    /// The body, if it was just loaded for this request.
    pub body: Option<Bytes>,
    /// Lines that only this request gets.
    pub own_lines: &'r [u8],
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

/// What identifies a version: strong tag and time of change.
#[derive(Clone, Copy)]
pub(super) struct Validators<'v> {
    pub(super) etag: &'v str,
    pub(super) modified_ms: Millis,
}

impl Validators<'_> {
    pub(super) fn write(&self, head: &mut HeadWriter<'_>) {
        head.field("ETag", self.etag);
        head.date("Last-Modified", self.modified_ms / 1000);
    }
}

impl Ask<'_> {
    /// The commonest request: no condition, no range, and the connection stays.
    pub(super) fn is_plain(&self) -> bool {
        let f = self.fields;
        let conditional = f.if_none_match.is_some()
            || f.if_modified_since.is_some()
            || f.if_match.is_some()
            || f.if_unmodified_since.is_some();
        let usual = self.keep_alive
            && !self.is_http10
            && self.waited_ms.is_none()
            && self.held_ms.is_none()
            && self.own_lines.is_empty();
        usual && !conditional && f.range.is_none()
    }

    /// The ranges of something complete. Range only counts for GET (RFC 9110 §14.2), and only if
    /// If-Range holds.
    pub(super) fn wanted_ranges(&self, version: Validators<'_>, length: u64) -> Ranges {
        let Some(value) = self.fields.range.filter(|_| !self.is_head) else {
            return Ranges::Whole;
        };
        let Validators { etag, modified_ms } = version;
        let holds = |value| if_range_holds(value, etag, modified_ms, clock::unix_ms());
        if !self.fields.if_range.is_none_or(holds) {
            return Ranges::Whole;
        }
        parse_range(value).map_or(Ranges::Whole, |specs| Ranges::of(&specs, length))
    }

    /// First and last byte that are wanted of something that still grows; `None` for the whole.
    ///
    /// A range with a first byte position is taken as RFC 8673 says: it may lie beyond the tail, and
    /// without a last position, or with 2^53 − 1, it follows to the end. `bytes=0-` asks for the
    /// whole, which is what 200 gives: players send it with every request and cannot do with an
    /// unknown length in Content-Range. Suffix and several ranges mean nothing yet: the whole. What
    /// grows has no tag, so If-Range never holds.
    pub(super) fn open_range(&self) -> Option<(u64, u64)> {
        let value = self.fields.range.filter(|_| self.may_have_open_range())?;
        match parse_range(value)?.as_slice() {
            [RangeSpec::From(first, last)] if *first > 0 || last.is_some() => {
                Some((*first, last.unwrap_or(FOLLOW_LAST_BYTE).min(FOLLOW_LAST_BYTE)))
            }
            _ => None,
        }
    }

    pub(super) fn may_have_open_range(&self) -> bool {
        self.fields.range.is_some() && !self.is_head && self.fields.if_range.is_none()
    }
}

/// The end of what `open_range` asked for, as an offset.
pub(super) fn end_after(last: u64) -> u64 {
    if last >= FOLLOW_LAST_BYTE { u64::MAX } else { last + 1 }
}

/// What a reader that comes late gets first, and where it begins: at the first byte, or of a trimmed
/// object with its preamble at the last place to start decoding.
pub(super) fn late_start(object: &Object) -> (Bytes, u64) {
    match object.head() {
        0 => (Bytes::new(), 0),
        head => {
            let start = object.last_random_access().unwrap_or(head);
            (object.preamble().unwrap_or_default(), start)
        }
    }
}

/// The last lines of a head, and the empty one.
pub(super) fn finish_head(egress: &Egress, ask: &Ask<'_>, out: &mut Vec<u8>) {
    let mut head = HeadWriter::resume(out);
    head.lines(ask.own_lines);
    if let Some(waited_ms) = ask.waited_ms {
        head.number("Waited-For-Data-Ms", waited_ms);
    }
    if let Some(held_ms) = ask.held_ms {
        head.field("Server-Timing", &format!("held;dur={held_ms}"));
    }
    if !ask.keep_alive {
        head.field("Connection", "close");
    } else if ask.is_http10 {
        head.field("Connection", "keep-alive");
    }
    egress.write_date(out);
    out.extend_from_slice(b"\r\n");
}

/// The head of what is followed and never kept: how its body is framed.
pub(super) fn endless_head(
    egress: &Egress,
    ask: &Ask<'_>,
    content_type: &str,
    out: &mut Vec<u8>,
) -> BodyFraming {
    let mut head = HeadWriter::new(out, 200);
    head.field("Content-Type", content_type);
    head.field("Cache-Control", "no-store");
    let framing = if ask.is_http10 {
        BodyFraming::UntilClose
    } else {
        head.field("Transfer-Encoding", "chunked");
        BodyFraming::Chunked
    };
    head.lines(&egress.options.common_lines);
    let keep_alive = ask.keep_alive && framing != BodyFraming::UntilClose;
    finish_head(egress, &Ask { keep_alive, body: None, ..*ask }, out);
    framing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_range(range: &str, if_range: Option<&str>, is_head: bool) -> Option<(u64, u64)> {
        let fields = Fields { range: Some(range), if_range, ..Fields::default() };
        let ask = Ask {
            fields: &fields,
            is_head,
            is_http10: false,
            keep_alive: true,
            waited_ms: None,
            held_ms: None,
            body: None,
            own_lines: &[],
        };
        ask.open_range()
    }

    #[test]
    fn ranges_of_what_grows() {
        assert_eq!(open_range("bytes=5-9", None, false), Some((5, 9)));
        assert_eq!(open_range("bytes=0-9", None, false), Some((0, 9)));
        assert_eq!(open_range("bytes=5-", None, false), Some((5, FOLLOW_LAST_BYTE)));
        let follow = format!("bytes=5-{FOLLOW_LAST_BYTE}");
        assert_eq!(open_range(&follow, None, false), Some((5, FOLLOW_LAST_BYTE)));
        assert_eq!(end_after(FOLLOW_LAST_BYTE), u64::MAX);
        assert_eq!(end_after(9), 10);
        for whole in ["bytes=0-", "bytes=-5", "bytes=0-1,4-5", "lines=0-1", "bytes=9-5"] {
            assert_eq!(open_range(whole, None, false), None, "{whole}");
        }
        assert_eq!(open_range("bytes=5-9", Some("\"a\""), false), None, "it has no tag");
        assert_eq!(open_range("bytes=5-9", None, true), None, "HEAD");
    }
}
