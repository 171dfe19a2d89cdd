//! H.264 cameras over HTTP: the byte stream as it comes, from parameter sets and a key picture on.

use super::Egress;
use super::answer::{Ask, Got, endless_head};
use super::transfer::{Body, Piece, Transfer};
use crate::cameras::Track;
use crate::runtime::counters::Counter;

pub fn respond(egress: &Egress, ask: &Ask<'_>, track: &Track, out: &mut Vec<u8>) -> Got {
    let framing = endless_head(egress, ask, track.kind.stream_type(), out);
    if ask.is_head {
        return Got::Answered;
    }
    egress.counters.add(Counter::CameraViewers, 1);
    let object = track.object.clone();
    let mut pieces = Vec::new();
    let start = match object.last_key() {
        Some((start, preamble)) => {
            pieces.push(Piece::Made(preamble));
            start
        }
        None => object.head(),
    };
    pieces.push(Piece::Object { object, start, end: u64::MAX });
    Got::Transfer(Box::new(Transfer { body: Body::Pieces(pieces), framing }))
}
