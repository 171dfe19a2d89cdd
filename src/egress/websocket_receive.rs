//! Receivers of a channel: `receive`, `receive-clear-cache` and `probe` of ws-stream-server, and the
//! live tail of a channel over HTTP.
//!
//! | the receiver is at | left by |
//! |---|---|
//! | a channel that nobody publishes to | news of the channel: then its key is looked at |
//! | a chunk | the chunk as one binary message |
//! | the newest chunk | the next one, something heard, a heartbeat, or the publisher's end |
//! | chunks that are gone: it fell behind | the newest chunk, or a close, as the `LagRule` says |

use std::convert::Infallible;

use super::Egress;
use super::answer::{Ask, Got, endless_head};
use super::messages_out::{MessagesOut, Over};
use super::transfer::{Body, Piece, Transfer};
use crate::channels::{HEARTBEAT, LagRule, Look, Seat, Start};
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::timers::Pulse;
use crate::store::{MESSAGE_OVERHEAD_BYTES, Message, MessageLook, Object};
use crate::wire::websocket::close_code::{GOING_AWAY, NORMAL, POLICY};
use crate::wire::websocket::{FrameHead, Opcode};

/// What a receiver wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The cache, then what comes.
    Receive,
    /// The same, and nobody else gets the cache until the publisher goes.
    ReceiveClearCache,
    /// One chunk.
    Probe,
}

/// A receiver that a request asks for.
pub struct Receive {
    pub channel: String,
    pub key: String,
    pub kind: Kind,
    /// The answer to its handshake.
    pub head: Vec<u8>,
}

const WRONG_KEY: &str = "ERROR: Invalid streaming key";

/// Send the channel to whoever comes in time for it. Returns the last words, for the connection to
/// say.
pub async fn receive(
    egress: &Egress,
    receive: Receive,
    input: Vec<u8>,
    socket: &Socket,
    deadline: &Deadline,
) -> Vec<u8> {
    let Err(over) = run(egress, receive, input, (socket, deadline)).await;
    deadline.clear();
    over.into_words()
}

async fn run(
    egress: &Egress,
    receive: Receive,
    input: Vec<u8>,
    (socket, deadline): (&Socket, &Deadline),
) -> Result<Infallible, Over> {
    let Receive { channel, key, kind, head } = receive;
    let options = &egress.channels.options;
    let pulse = Pulse::new(options.heartbeat_interval_s, Some(options.silence_timeout_s));
    let pulse = (pulse, HEARTBEAT);
    let mut out = MessagesOut::start(egress, (socket, deadline), pulse, (head, input)).await?;
    let seat = egress.channels.seat(&channel);
    deadline.phase(Phase::Waiting);
    let start = wait_for_publisher(egress, &mut out, &seat, &key).await?;
    if kind == Kind::ReceiveClearCache {
        seat.end_cache();
    }
    deadline.phase(Phase::Following);
    let offset = start_offset(&start);
    let mut reader = out.reader(&start.object, offset);
    let mut number = start.number;
    let mut lag = Lag { bytes_max: u64::MAX, beyond: options.lag_bytes_max };
    loop {
        let mut look = out.wait(|context| reader.poll_message(number, context)).await?;
        if let MessageLook::Here(message) = look
            && lag.is_too_far(reader.object(), &message)
        {
            look = MessageLook::Forgotten { first: number };
        }
        match look {
            MessageLook::Here(message) => {
                reader.advance(message.start - reader.offset());
                let sent = out.message(Opcode::Binary, &[], &mut reader, message.end)?;
                if let Some(unsent) = sent {
                    out.finish(unsent, &mut reader).await?;
                }
                number += 1;
                if kind == Kind::Probe {
                    return Err(out.close(NORMAL, "one chunk was asked for"));
                }
                if out.is_on_a_streak() {
                    out.look_aside().await?;
                }
            }
            MessageLook::Forgotten { .. } => {
                egress.counters.add(Counter::ReceiversLagged, 1);
                if options.lag_rule == LagRule::Close {
                    return Err(out.close(POLICY, "too slow: chunks were lost"));
                }
                number = newest(reader.object());
                lag.bytes_max = u64::MAX;
            }
            MessageLook::NotYet => return Err(out.close(GOING_AWAY, "the publisher has gone")),
        }
    }
}

/// How far a receiver may be behind. One that starts with the cache starts behind: only what it loses
/// from there on counts.
struct Lag {
    bytes_max: u64,
    beyond: u64,
}

impl Lag {
    /// `message` is the next one for the receiver; what comes behind it counts.
    fn is_too_far(&mut self, object: &Object, message: &Message) -> bool {
        let Some((next, last)) = object.message_edge() else { return false };
        let overhead = (next - message.number - 1) * MESSAGE_OVERHEAD_BYTES;
        let bytes = last.offset - message.end + overhead;
        if bytes > self.bytes_max {
            return true;
        }
        self.bytes_max = self.bytes_max.min(bytes.saturating_add(self.beyond));
        false
    }
}

/// Where the first message lies, or will lie.
fn start_offset(start: &Start) -> u64 {
    match start.object.message(start.number) {
        MessageLook::Here(message) => message.start,
        MessageLook::Forgotten { .. } => start.object.head(),
        MessageLook::NotYet => match start.object.message(start.number.wrapping_sub(1)) {
            MessageLook::Here(before) => before.end,
            _ => start.object.head(),
        },
    }
}

fn newest(object: &Object) -> u64 {
    let (first, next) = object.messages();
    next.saturating_sub(1).max(first)
}

async fn wait_for_publisher(
    egress: &Egress,
    out: &mut MessagesOut<'_>,
    seat: &Seat,
    key: &str,
) -> Result<Start, Over> {
    let mut look = seat.look(key);
    loop {
        match look {
            Look::Live(start) => {
                // Not before: who has the answer gets every chunk from then on.
                out.flush().await?;
                return Ok(start);
            }
            Look::WrongKey => {
                out.put(FrameHead::new(Opcode::Text, true, WRONG_KEY.len() as u64).as_bytes());
                out.put(WRONG_KEY.as_bytes());
                return Err(out.close(POLICY, "Invalid streaming key"));
            }
            Look::Free => out.flush().await?,
        }
        let mut news = seat.news();
        look = seat.look_again(key);
        if matches!(look, Look::Free) {
            out.wait(|context| news.poll_news(egress.core, context)).await?;
        }
    }
}

/// A channel over HTTP: the cache, then what comes.
pub fn respond(egress: &Egress, ask: &Ask<'_>, start: &Start, out: &mut Vec<u8>) -> Got {
    let framing = endless_head(egress, ask, "application/octet-stream", out);
    if ask.is_head {
        return Got::Answered;
    }
    egress.counters.add(Counter::ReadersFollowing, 1);
    let object = start.object.clone();
    let body = vec![Piece::Object { object, start: start_offset(start), end: u64::MAX }];
    Got::Transfer(Box::new(Transfer { body: Body::Pieces(body), framing }))
}
