//! Cameras through WebSockets: each picture, or piece of H.264, as the camera framed it. H.264 begins
//! with parameter sets and a key picture; of JPEGs each is a key picture.
//!
//! | a viewer is at | left by |
//! |---|---|
//! | a track without a key picture yet | the first one |
//! | a piece | the piece as one binary message |
//! | the newest piece | the next one, something heard, or the next ping |
//! | too far behind (`Pace`), or at pieces that are gone | the newest key picture, if it is newer |
//! | the end of a track | another track of the camera; none comes: close 1000 |

use std::convert::Infallible;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::Egress;
use super::messages_out::{MessagesOut, Over};
use crate::cameras::{Pace, Track, Wanted, Watch};
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::timers::Pulse;
use crate::runtime::{clock, timers};
use crate::store::{Message, MessageLook, Reader};
use crate::wire::tcp_framing::PictureKind;
use crate::wire::websocket::Opcode;
use crate::wire::websocket::close_code::NORMAL;

/// An empty ping.
const PING: &[u8] = &[0x89, 0];
/// A viewer looks so often whether there is a track that suits it better.
const LOOK_PIECES: u64 = 64;

/// A viewer that a request asks for.
pub struct View {
    pub watch: Watch,
    pub kind: PictureKind,
    pub wanted: Wanted,
    /// The answer to its handshake.
    pub head: Vec<u8>,
}

/// Send the camera until it has been gone for a while. Returns the last words, for the connection to
/// say.
pub async fn follow(
    egress: &Egress,
    view: View,
    input: Vec<u8>,
    socket: &Socket,
    deadline: &Deadline,
) -> Vec<u8> {
    deadline.phase(Phase::Following);
    let Err(over) = run(egress, view, input, (socket, deadline)).await;
    deadline.clear();
    over.into_words()
}

async fn run(
    egress: &Egress,
    View { watch, kind, wanted, head }: View,
    input: Vec<u8>,
    (socket, deadline): (&Socket, &Deadline),
) -> Result<Infallible, Over> {
    let pulse = (Pulse::new(egress.options.ping_interval_s, None), PING);
    let mut out = MessagesOut::start(egress, (socket, deadline), pulse, (head, input)).await?;
    out.flush().await?;
    out.serve_viewer();
    egress.counters.add(Counter::CameraViewers, 1);
    let lag_max = egress.cameras.options.lag_pictures_max;
    let mut pace = Pace::new(wanted, lag_max, clock::tick_ms());
    loop {
        let mut news = watch.news();
        let wanted = (kind, pace.quality());
        let waiting =
            out.wait(|context| watch.poll_track(wanted, (&mut news, egress.core), context));
        let found = timers::within(watch.patience(), waiting).await;
        let Some(track) = found.unwrap_or(Ok(None))? else {
            return Err(out.close(NORMAL, "the camera has gone"));
        };
        follow_track(egress, &mut out, (&watch, &track), &mut pace).await?;
    }
}

/// What a viewer gets as one message.
struct Piece {
    preamble: Bytes,
    /// From there to the end of its message.
    start: u64,
    message: Message,
}

impl Piece {
    /// Behind another one.
    fn behind(message: Message) -> Piece {
        Piece { preamble: Bytes::new(), start: message.start, message }
    }
}

/// The newest key picture that is kept, if there is one behind `after`.
fn key(track: &Track, after: u64) -> Option<Piece> {
    let object = &track.object;
    if track.kind == PictureKind::Mjpeg {
        let newest = object.messages().1.checked_sub(1)?;
        let MessageLook::Here(message) = object.message(newest) else { return None };
        return Some(Piece::behind(message));
    }
    let (start, preamble) = object.last_key().filter(|(start, _)| *start >= after)?;
    let message = object.message_at(start)?;
    // The start code has a fourth byte: the message is sent whole.
    let start = if start == message.start + 1 { message.start } else { start };
    Some(Piece { preamble, start, message })
}

/// Ready with a key, or with `None` at the end of the object.
fn poll_key(track: &Track, reader: &mut Reader, context: &mut Context<'_>) -> Poll<Option<Piece>> {
    reader.wake_at_growth(context);
    let is_open = track.object.is_open();
    match key(track, 0) {
        Some(key) => Poll::Ready(Some(key)),
        None if is_open => Poll::Pending,
        None => Poll::Ready(None),
    }
}

/// Send a track until it ends or another one suits better.
async fn follow_track(
    egress: &Egress,
    out: &mut MessagesOut<'_>,
    (watch, track): (&Watch, &Track),
    pace: &mut Pace,
) -> Result<(), Over> {
    let object = &track.object;
    let mut reader = out.reader(object, object.head());
    let mut quality = pace.quality();
    watch.note_track(track, object.messages().1);
    let first = out.wait(|context| poll_key(track, &mut reader, context)).await?;
    let Some(mut piece) = first else { return Ok(()) };
    loop {
        reader.advance(piece.start - reader.offset());
        let end = piece.message.end;
        if !reader.hold(end) {
            // Trimmed since it was looked at.
            return Ok(());
        }
        if let Some(unsent) = out.message(Opcode::Binary, &piece.preamble, &mut reader, end)? {
            out.finish(unsent, &mut reader).await?;
        }
        let next = piece.message.number + 1;
        watch.note_next(next);
        egress.counters.add(Counter::PicturesSent, 1);
        if out.is_on_a_streak() {
            out.look_aside().await?;
        }
        let look = out.wait(|context| reader.poll_message(next, context)).await?;
        let (_, newest) = object.messages();
        let is_gone = matches!(look, MessageLook::Forgotten { .. });
        let is_late = is_gone || pace.is_too_far(newest.saturating_sub(next + 1));
        let newer = if is_late { key(track, reader.offset()) } else { None };
        piece = match (newer.filter(|key| key.message.number > next), look) {
            (Some(newer), _) => newer,
            (None, MessageLook::Here(message)) => Piece::behind(message),
            // Nothing is left: another start is looked for.
            (None, _) => return Ok(()),
        };
        let skipped = piece.message.number - next;
        pace.note(skipped, clock::tick_ms());
        watch.note_skipped(skipped);
        egress.counters.add(Counter::PicturesSkipped, skipped);
        if pace.quality() != quality || next.is_multiple_of(LOOK_PIECES) {
            if watch.has_better(track, pace.quality()) {
                return Ok(());
            }
            quality = pace.quality();
        }
    }
}
