//! Messages on their way out through a WebSocket: frames whose payload is sent from the object's
//! pages, and what the reader says meanwhile. Where a reader begins and what it loses is its door's
//! business.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Egress;
use super::transfer::{BodyFraming, CutReason, Sender};
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::Deadline;
use crate::runtime::socket::Socket;
use crate::runtime::timers::{Beat, Pulse};
use crate::runtime::worker::yield_now;
use crate::store::{Object, Reader};
use crate::wire::websocket::close_code::POLICY;
use crate::wire::websocket::{
    FrameHead, Opcode, Peer, PeerEvent, PeerLimits, STOPPING, Violation, close_frame,
};

/// A longer message is sent in fragments of so many bytes: many clients limit the length of a frame.
const FRAGMENT_BYTES_MAX: u64 = 1 << 20;
/// Readers have nothing to say but heartbeats; what else they send is dropped as it comes.
const HEARD_MESSAGE_BYTES_MAX: u64 = 1 << 30;
/// Received at once from a reader.
const RECEIVE_BYTES: usize = 4096;
/// Messages sent in a row before the reader is listened to.
const STREAK_MAX: u32 = 16;
/// Received in a row before the reader is sent to again.
const RECEIVE_ROUNDS_MAX: usize = 16;

/// Why nothing more is sent; the last words are for the connection to say.
pub(super) enum Over {
    /// The peer is gone, or in the middle of a frame: nothing can be said.
    Cut,
    Say(Vec<u8>),
}

/// A message that did not go out at once.
pub(super) struct Unsent {
    /// Of the frame that was begun.
    frame_end: u64,
    end: u64,
}

/// What ends a wait.
enum Wake<T> {
    News(T),
    /// The reader said something.
    Heard,
    Beat(Beat),
}

/// A WebSocket that an object's messages are sent through.
pub(super) struct MessagesOut<'a> {
    sender: Sender<'a>,
    peer: Peer,
    pulse: Pulse,
    /// The frame that says that this side is alive.
    beat: &'static [u8],
    /// Messages sent since there was nothing to send.
    streak: u32,
}

impl<'a> MessagesOut<'a> {
    /// `head` is the answer to the handshake; it leaves with the first frame. `input` is what the
    /// peer has sent behind its request.
    pub(super) async fn start(
        egress: &'a Egress,
        (socket, deadline): (&'a Socket, &'a Deadline),
        (pulse, beat): (Pulse, &'static [u8]),
        (head, mut input): (Vec<u8>, Vec<u8>),
    ) -> Result<MessagesOut<'a>, Over> {
        deadline.parting(Some(STOPPING));
        let mut sender = Sender::new(egress, socket, deadline, BodyFraming::Length);
        sender.prefix = head;
        let limits = PeerLimits { message_bytes_max: HEARD_MESSAGE_BYTES_MAX, checks_text: false };
        let peer = Peer::new(limits);
        let mut out = MessagesOut { sender, peer, pulse, beat, streak: 0 };
        egress.counters.add(Counter::WebsocketReaders, 1);
        let answers = out.take(&mut input)?;
        out.put(&answers);
        Ok(out)
    }

    pub(super) fn reader(&self, object: &Arc<Object>, offset: u64) -> Reader {
        let egress = self.sender.egress;
        Reader::new(&egress.store, object.clone(), egress.core, offset, u64::MAX)
    }

    /// Cut a reader of an open object that falls back by more than the option allows.
    pub(super) fn watch_lag(&mut self, reader: &Reader) {
        self.sender.note_lag(reader);
    }

    /// The reader watches a camera: however slow it is, it stays.
    pub(super) fn serve_viewer(&mut self) {
        self.sender.serve_viewer();
    }

    /// A frame of our own: it leaves with what comes next, or with `flush`.
    pub(super) fn put(&mut self, frame: &[u8]) {
        self.sender.prefix.extend_from_slice(frame);
    }

    pub(super) async fn flush(&mut self) -> Result<(), Over> {
        self.sender.flush_prefix().await.map_err(|_| Over::Cut)
    }

    /// Send what lies between the reader and `end` as one message, with `preamble` in front: as much as
    /// can go out at once. What is left is for `finish`.
    pub(super) fn message(
        &mut self,
        kind: Opcode,
        preamble: &[u8],
        reader: &mut Reader,
        end: u64,
    ) -> Result<Option<Unsent>, Over> {
        self.sender.egress.counters.add(Counter::WebsocketMessagesOut, 1);
        if self.pulse.may_speak_early() {
            self.beat();
        }
        let bytes = (end - reader.offset()).min(FRAGMENT_BYTES_MAX);
        let frame_end = reader.offset() + bytes;
        let head = FrameHead::new(kind, frame_end == end, bytes + preamble.len() as u64);
        let begun = self.sender.begin_frame([head.as_bytes(), preamble], reader, bytes);
        let is_sent = begun.map_err(|reason| self.cut(&reason))?;
        Ok((!is_sent || frame_end < end).then_some(Unsent { frame_end, end }))
    }

    /// Send such a message to its end: for what is rare. Who sends one after the other calls the two
    /// others itself, and `finish` only if there is something left.
    pub(super) async fn whole_message(
        &mut self,
        kind: Opcode,
        preamble: &[u8],
        reader: &mut Reader,
        end: u64,
    ) -> Result<(), Over> {
        match self.message(kind, preamble, reader, end)? {
            Some(unsent) => self.finish(unsent, reader).await,
            None => Ok(()),
        }
    }

    /// Send what is left of a message.
    pub(super) async fn finish(&mut self, unsent: Unsent, reader: &mut Reader) -> Result<(), Over> {
        let Unsent { mut frame_end, end } = unsent;
        self.sender.give_turn().await;
        loop {
            let left = frame_end - reader.offset();
            self.payload(reader, left).await?;
            if frame_end == end {
                // What has no payload is still in the prefix.
                return self.flush().await;
            }
            let bytes = (end - frame_end).min(FRAGMENT_BYTES_MAX);
            frame_end += bytes;
            self.put(FrameHead::new(Opcode::Continuation, frame_end == end, bytes).as_bytes());
        }
    }

    async fn payload(&mut self, reader: &mut Reader, bytes: u64) -> Result<(), Over> {
        let stop = reader.offset() + bytes;
        while reader.offset() < stop {
            let left = stop - reader.offset();
            if let Err(reason) = self.sender.frame(reader, left).await {
                return Err(self.cut(&reason));
            }
        }
        Ok(())
    }

    fn cut(&self, reason: &CutReason) -> Over {
        let counters = &self.sender.egress.counters;
        match reason {
            CutReason::Aborted => counters.add(Counter::ReadersCutAbort, 1),
            CutReason::Lagged => counters.add(Counter::ReadersCutLag, 1),
            CutReason::Storage(error) => {
                counters.add(Counter::StorageErrors, 1);
                tracing::error!(%error, "a reader was cut: its object cannot be read");
            }
            CutReason::Peer => {}
        }
        // In the middle of a frame nothing else can be said.
        Over::Cut
    }

    /// Wait for news; meanwhile attend to what the reader says, and show that this side is alive.
    pub(super) async fn wait<T>(
        &mut self,
        mut poll_news: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Over> {
        loop {
            let wake = {
                let mut readable = pin!(self.sender.socket.readable());
                let (pulse, streak) = (&mut self.pulse, &mut self.streak);
                std::future::poll_fn(|context| {
                    if let Poll::Ready(news) = poll_news(context) {
                        return Poll::Ready(Wake::News(news));
                    }
                    *streak = 0;
                    if readable.as_mut().poll(context).is_ready() {
                        return Poll::Ready(Wake::Heard);
                    }
                    pulse.poll_beat(context).map(Wake::Beat)
                })
                .await
            };
            match wake {
                Wake::News(news) => return Ok(news),
                Wake::Heard => self.hear().await?,
                Wake::Beat(beat) => self.attend(beat).await?,
            }
        }
    }

    /// Asked after each message: true if it is time for `look_aside`.
    pub(super) fn is_on_a_streak(&mut self) -> bool {
        self.streak += 1;
        self.streak.is_multiple_of(STREAK_MAX)
    }

    /// What a reader that always finds a next message would never come to.
    pub(super) async fn look_aside(&mut self) -> Result<(), Over> {
        self.hear().await?;
        let pulse = &mut self.pulse;
        let beat = std::future::poll_fn(|context| Poll::Ready(pulse.poll_beat(context))).await;
        if let Poll::Ready(beat) = beat { self.attend(beat).await } else { Ok(()) }
    }

    fn beat(&mut self) {
        self.sender.egress.counters.add(Counter::Heartbeats, 1);
        self.put(self.beat);
    }

    async fn attend(&mut self, beat: Beat) -> Result<(), Over> {
        match beat {
            Beat::Speak => {
                self.beat();
                self.flush().await
            }
            Beat::Silent => {
                Err(self.close(POLICY, "silent for too long: send the text message h now and then"))
            }
        }
    }

    /// Receive what the reader says, and answer it. One that never stops does not stop the others.
    async fn hear(&mut self) -> Result<(), Over> {
        for _ in 0..RECEIVE_ROUNDS_MAX {
            let Some(answers) = self.receive()? else { return Ok(()) };
            if !answers.is_empty() {
                self.put(&answers);
                self.flush().await?;
            }
        }
        yield_now().await;
        Ok(())
    }

    /// What is to be said to what came; `None` if nothing came. The buffer is not kept over a wait:
    /// it would be part of each reader's task.
    fn receive(&mut self) -> Result<Option<Vec<u8>>, Over> {
        let mut buffer = [0; RECEIVE_BYTES];
        match self.sender.socket.try_recv(&mut buffer) {
            Ok(Some(0)) | Err(_) => Err(Over::Cut),
            Ok(None) => Ok(None),
            Ok(Some(got)) => self.take(&mut buffer[..got]).map(Some),
        }
    }

    fn take(&mut self, input: &mut [u8]) -> Result<Vec<u8>, Over> {
        let mut has_message = false;
        let outcome = self.peer.push(input, &mut |event| {
            has_message |= matches!(event, PeerEvent::Data { is_last: true, .. });
        });
        if has_message {
            self.pulse.heard();
        }
        let answers = self.peer.take_answers();
        if let Err(violation) = outcome {
            return Err(Over::Say(self.words_of(&violation)));
        }
        if self.peer.is_closed() {
            return Err(Over::Say(self.last_words(&answers)));
        }
        Ok(answers)
    }

    fn words_of(&mut self, violation: &Violation) -> Vec<u8> {
        self.last_words(&close_frame(violation.code(), &violation.to_string()))
    }

    /// What was put and not sent, and then this.
    fn last_words(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut words = std::mem::take(&mut self.sender.prefix);
        words.extend_from_slice(frame);
        words
    }

    /// End the connection with a close frame.
    pub(super) fn close(&mut self, code: u16, reason: &str) -> Over {
        Over::Say(self.last_words(&close_frame(code, reason)))
    }
}

impl Over {
    pub(super) fn into_words(self) -> Vec<u8> {
        match self {
            Over::Cut => Vec::new(),
            Over::Say(words) => words,
        }
    }
}
