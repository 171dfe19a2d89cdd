//! MJPEG cameras over HTTP: their pictures as `multipart/x-mixed-replace`, and the newest one alone.

use super::Egress;
use super::answer::{Ask, Got, endless_head, finish_head};
use super::pictures_out::Pictures;
use super::transfer::{Body, BodyFraming, Piece, Transfer};
use crate::cameras::{Track, Wanted, Watch};
use crate::packager::Slice;
use crate::store::MessageLook;
use crate::wire::http1::HeadWriter;
use crate::wire::multipart::MixedReplace;

/// Pictures from the newest on.
pub fn respond(
    egress: &Egress,
    ask: &Ask<'_>,
    (watch, wanted): (Watch, Wanted),
    out: &mut Vec<u8>,
) -> Got {
    let framing = endless_head(egress, ask, MixedReplace::CONTENT_TYPE, out);
    if ask.is_head {
        return Got::Answered;
    }
    let body = Body::Pictures(Box::new(Pictures::new(watch, wanted)));
    Got::Transfer(Box::new(Transfer { body, framing }))
}

/// The newest picture; `None` if none has come yet.
pub fn respond_newest(
    egress: &Egress,
    ask: &Ask<'_>,
    track: &Track,
    out: &mut Vec<u8>,
) -> Option<Got> {
    let (_, end) = track.object.messages();
    let MessageLook::Here(picture) = track.object.message(end.checked_sub(1)?) else {
        return None;
    };
    let mut head = HeadWriter::new(out, 200);
    head.field("Content-Type", "image/jpeg");
    head.number("Content-Length", picture.end - picture.start);
    head.date("Last-Modified", track.newest_ms() / 1000);
    head.field("Cache-Control", "no-store");
    head.lines(&egress.options.common_lines);
    finish_head(egress, ask, out);
    if ask.is_head {
        return Some(Got::Answered);
    }
    let slice = Slice { object: track.object.clone(), start: picture.start, end: picture.end };
    let body = Body::Pieces(vec![Piece::Slice(slice)]);
    Some(Got::Transfer(Box::new(Transfer { body, framing: BodyFraming::Length })))
}
