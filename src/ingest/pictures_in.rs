//! The pictures of a camera, as messages.

use super::messages_in::{Batch, Ended, Framing};
use crate::runtime::counters::Counter;
use crate::store::{MessageKind, Partial};
use crate::wire::h264::{NalEvent, NalSplitter};
use crate::wire::jpeg::{JpegEvent, JpegSplitter};
use crate::wire::tcp_framing::{CameraError, PictureEvent, PictureReader};

/// Where one picture ends and the next begins.
pub(super) enum Pictures {
    /// A length stands before each.
    Lengths(PictureReader),
    /// JPEGs, one behind the other.
    Jpegs(Jpegs),
    /// NAL units of H.264, each behind its start code.
    NalUnits(NalUnits),
}

pub(super) struct NalUnits {
    splitter: NalSplitter,
    /// Where the present unit begins; the stream is all of the object.
    start: Option<u64>,
    bytes_max: u32,
}

pub(super) struct Jpegs {
    splitter: JpegSplitter,
    /// Of the present picture.
    bytes: u64,
    picture_bytes_max: u32,
}

impl Pictures {
    pub(super) fn jpegs(picture_bytes_max: u32) -> Pictures {
        Pictures::Jpegs(Jpegs { splitter: JpegSplitter::default(), bytes: 0, picture_bytes_max })
    }

    pub(super) fn nal_units(bytes_max: u32) -> Pictures {
        let splitter = NalSplitter::default();
        Pictures::NalUnits(NalUnits { splitter, start: None, bytes_max })
    }
}

impl Framing for Pictures {
    const COUNTER: Counter = Counter::CameraPictures;

    fn read<'b>(&mut self, input: &'b mut [u8], batch: &mut Batch<'b>) {
        let ended = match self {
            Pictures::Lengths(reader) => read_lengths(reader, input, batch),
            Pictures::Jpegs(jpegs) => jpegs.read(input, batch),
            Pictures::NalUnits(units) => units.read(input, batch),
        };
        // A camera is there as long as its pictures become whole, however many bytes it sends.
        batch.is_heard = batch.has_message();
        batch.ended = ended;
    }

    fn partial(&self) -> Partial {
        Partial::Hidden
    }
}

fn read_lengths<'b>(
    reader: &mut PictureReader,
    input: &'b [u8],
    batch: &mut Batch<'b>,
) -> Option<Ended> {
    let mut is_over = false;
    let outcome = reader.push(input, &mut |event| match event {
        PictureEvent::Bytes { bytes, is_last } => {
            batch.put(bytes);
            if is_last {
                batch.end_message(MessageKind::Binary);
            }
        }
        PictureEvent::End => is_over = true,
    });
    match outcome {
        Err(error) => Some(Ended::Camera(error)),
        Ok(()) => is_over.then(|| Ended::Closed(Vec::new())),
    }
}

impl Jpegs {
    fn read<'b>(&mut self, input: &'b [u8], batch: &mut Batch<'b>) -> Option<Ended> {
        let Jpegs { splitter, bytes, picture_bytes_max } = self;
        let mut error = None;
        splitter.push(input, &mut |event| match event {
            // Nothing behind a broken picture: its bytes are written, and would be part of the next.
            _ if error.is_some() => {}
            JpegEvent::Bytes(piece) => {
                *bytes += piece.len() as u64;
                if *bytes > u64::from(*picture_bytes_max) {
                    error = Some(CameraError::Endless { max: *picture_bytes_max });
                }
                batch.put(piece);
            }
            JpegEvent::End => {
                *bytes = 0;
                batch.end_message(MessageKind::Binary);
            }
            JpegEvent::Broken => error = Some(CameraError::BrokenPicture),
        });
        error.map(Ended::Camera)
    }
}

impl NalUnits {
    fn read<'b>(&mut self, input: &'b [u8], batch: &mut Batch<'b>) -> Option<Ended> {
        let NalUnits { splitter, start, bytes_max } = self;
        let end = batch.put(input);
        splitter.push(input, &mut |event| {
            if let NalEvent::Start { offset } = event {
                // What stands in front of the first unit goes along with it.
                if start.replace(offset).is_some() {
                    batch.end_message_at(offset, MessageKind::Binary);
                }
            }
        });
        let is_endless = end - start.unwrap_or(0) > u64::from(*bytes_max);
        is_endless.then_some(Ended::Camera(CameraError::Endless { max: *bytes_max }))
    }
}
