//! GET and HEAD of the media of a presentation: parts, segments and init segments, which are slices of
//! what was pushed. What is complete has its length and leaves with its head in few calls; a segment
//! in progress is sent as it grows. No media byte is copied on the way.

use super::Egress;
use super::answer::{Ask, Got, Validators, end_after, finish_head};
use super::transfer::{Body, BodyFraming, Piece, Transfer};
use crate::packager::{About, Growing, Slice, View};
use crate::runtime::counters::Counter;
use crate::wire::http1::{HeadWriter, Precondition, Ranges};

/// A view whose bytes are all there. Several ranges are answered with the whole.
pub(super) fn respond(egress: &Egress, ask: &Ask<'_>, view: View, out: &mut Vec<u8>) -> Got {
    let (about, length) = (&view.about, view.bytes());
    let version = Validators { etag: &about.etag, modified_ms: about.modified_ms };
    match Precondition::of(ask.fields, &about.etag, about.modified_ms) {
        Precondition::Failed => return Got::PreconditionFailed,
        Precondition::NotModified => {
            let mut head = HeadWriter::new(out, 304);
            version.write(&mut head);
            write_about(egress, ask, &mut head, about);
            finish_head(egress, ask, out);
            return Got::Answered;
        }
        Precondition::Proceed => {}
    }
    let part = match ask.wanted_ranges(version, length) {
        Ranges::Unsatisfiable => return Got::Unsatisfiable(Some(length)),
        Ranges::Parts(parts) if parts.len() == 1 => Some(parts[0]),
        Ranges::Parts(_) | Ranges::Whole => None,
    };
    let (start, end) = part.unwrap_or((0, length));
    let mut head = HeadWriter::new(out, if part.is_some() { 206 } else { 200 });
    head.field("Content-Type", about.content_type);
    head.number("Content-Length", end - start);
    if part.is_some() {
        head.field("Content-Range", &format!("bytes {start}-{}/{length}", end - 1));
    }
    version.write(&mut head);
    write_about(egress, ask, &mut head, about);
    finish_head(egress, ask, out);
    egress.counters.add(Counter::LiveViews, 1);
    if ask.is_head {
        return Got::Answered;
    }
    let body = Body::Pieces(pieces_of(&view, start, end));
    Got::Transfer(Box::new(Transfer { body, framing: BodyFraming::Length }))
}

/// A segment in progress: no length and no tag, which it would outgrow (RFC 9110 §8.8).
pub(super) fn respond_growing(
    egress: &Egress,
    ask: &Ask<'_>,
    mut growing: Box<Growing>,
    out: &mut Vec<u8>,
) -> Got {
    let range = ask.open_range();
    if range.is_some_and(|(first, last)| first > last) {
        return Got::Unsatisfiable(None);
    }
    // A part of the segment that is whole already: an ordinary range, of an unknown length.
    let there = range.and_then(|(first, last)| growing.view(first, end_after(last)));
    let mut head = HeadWriter::new(out, if range.is_some() { 206 } else { 200 });
    head.field("Content-Type", growing.about.content_type);
    let framing = if let Some(view) = &there {
        head.number("Content-Length", view.bytes());
        BodyFraming::Length
    } else if ask.is_http10 {
        BodyFraming::UntilClose
    } else {
        head.field("Transfer-Encoding", "chunked");
        BodyFraming::Chunked
    };
    if let Some((first, last)) = range {
        head.field("Content-Range", &format!("bytes {first}-{last}/*"));
    }
    write_about(egress, ask, &mut head, &growing.about);
    let keep_alive = ask.keep_alive && framing != BodyFraming::UntilClose;
    finish_head(egress, &Ask { keep_alive, body: None, ..*ask }, out);
    if ask.is_head {
        return Got::Answered;
    }
    if let Some(view) = there {
        egress.counters.add(Counter::LiveViews, 1);
        let body = Body::Pieces(pieces_of(&view, 0, view.bytes()));
        return Got::Transfer(Box::new(Transfer { body, framing }));
    }
    egress.counters.add(Counter::LiveSegmentsFollowed, 1);
    let mut bytes_max = u64::MAX;
    if let Some((first, last)) = range {
        growing.skip_to(first);
        bytes_max = end_after(last) - first;
    }
    Got::Transfer(Box::new(Transfer { body: Body::Growing { growing, bytes_max }, framing }))
}

fn write_about(egress: &Egress, ask: &Ask<'_>, head: &mut HeadWriter<'_>, about: &About) {
    head.field("Accept-Ranges", "bytes");
    head.field("Cache-Control", &format!("max-age={}", about.max_age_s));
    if let Some(expires_ms) = about.expires_ms {
        head.date("Expires", expires_ms / 1000);
    }
    match ask.held_ms {
        Some(held_ms) => head.field("CMSD-Static", &format!("{},ht={held_ms}", about.cmsd)),
        None => head.field("CMSD-Static", &about.cmsd),
    };
    head.lines(&egress.options.common_lines);
}

/// The bytes `[start, end)` of a view.
fn pieces_of(view: &View, start: u64, end: u64) -> Vec<Piece> {
    let made_bytes = view.made.len() as u64;
    let lengths = [made_bytes].into_iter().chain(view.slices.iter().map(Slice::bytes));
    let piece = |(index, from, to): (usize, u64, u64)| match index.checked_sub(1) {
        None => Piece::Made(view.made.slice(from as usize..to as usize)),
        Some(index) => {
            let Slice { object, start, .. } = &view.slices[index];
            Piece::Slice(Slice { object: object.clone(), start: start + from, end: start + to })
        }
    };
    overlaps(lengths, start, end).map(piece).collect()
}

/// Which of several pieces in a row the bytes `[start, end)` of them all touch: index, and the bytes
/// `[from, to)` inside it.
fn overlaps(
    lengths: impl Iterator<Item = u64>,
    start: u64,
    end: u64,
) -> impl Iterator<Item = (usize, u64, u64)> {
    let places = lengths.scan(0, |at, length| {
        let begin = *at;
        *at += length;
        Some((begin, length))
    });
    places.enumerate().filter_map(move |(index, (begin, length))| {
        let from = start.saturating_sub(begin).min(length);
        let to = end.saturating_sub(begin).min(length);
        (from < to).then_some((index, from, to))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_takes_its_pieces() {
        let of = |start, end| overlaps([3, 0, 5, 2].into_iter(), start, end).collect::<Vec<_>>();
        assert_eq!(of(0, 10), [(0, 0, 3), (2, 0, 5), (3, 0, 2)]);
        assert_eq!(of(1, 2), [(0, 1, 2)]);
        assert_eq!(of(2, 4), [(0, 2, 3), (2, 0, 1)]);
        assert_eq!(of(3, 8), [(2, 0, 5)]);
        assert_eq!(of(9, 10), [(3, 1, 2)]);
        assert_eq!(of(0, 0), []);
    }

    proptest::proptest! {
        /// Goal: any range of a view is the same bytes as that range of the whole.
        #[test]
        fn a_range_of_pieces_is_the_range_of_the_whole(
            lengths in proptest::collection::vec(0_u64..40, 0..8),
            first in 0_u64..200,
            count in 0_u64..200,
        ) {
            let total: u64 = lengths.iter().sum();
            let (start, end) = (first.min(total), (first + count).min(total));
            let starts: Vec<u64> = lengths.iter().scan(0, |at, n| { *at += n; Some(*at - n) }).collect();
            let got: Vec<u64> = overlaps(lengths.iter().copied(), start, end)
                .flat_map(|(index, from, to)| starts[index] + from..starts[index] + to)
                .collect();
            proptest::prop_assert_eq!(got, (start..end).collect::<Vec<_>>());
        }
    }
}
