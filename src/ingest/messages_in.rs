//! Messages on their way in: taken out of what the peer sends by its [`Framing`], appended, and their
//! ends noted as messages of the object. What the object is, and when it ends, is the door's business.
//!
//! | the intake is at | left by |
//! |---|---|
//! | bytes in the socket | `Intake::take`: take apart, append, tell who watches |
//! | nothing in the socket | more of it, a beat of the pulse, the door's stop |
//! | the end | `Ended`: the peer's close, its silence, what it did wrong, a stop, a failed append |

use std::future::Future;
use std::io::IoSlice;
use std::pin::pin;
use std::task::{Context, Poll};

use super::upload::{UploadError, Watcher};
use super::{Ingest, TURN_BYTES_MAX};
use crate::runtime::counters::Counter;
use crate::runtime::socket::Socket;
use crate::runtime::timers::{Beat, Pulse};
use crate::runtime::worker::yield_now;
use crate::store::{MessageEnd, MessageKind, Partial, Writer};
use crate::wire::tcp_framing::CameraError;
use crate::wire::websocket::close_code::{GOING_AWAY, POLICY, SERVER_ERROR};
use crate::wire::websocket::{Violation, close_frame};

/// A peer that lets so much of our frames lie does not read.
const OUTBOX_BYTES_MAX: usize = 16 << 10;

/// How messages lie in what a peer sends.
pub(super) trait Framing: Send + 'static {
    /// Of messages.
    const COUNTER: Counter;

    /// Take the next bytes apart.
    fn read<'b>(&mut self, input: &'b mut [u8], batch: &mut Batch<'b>);

    fn partial(&self) -> Partial;

    /// Bytes below are text, if anybody asks.
    fn text_end(&self) -> Option<u64> {
        None
    }
}

/// What one look at the socket brought.
pub(super) struct Batch<'b> {
    /// The end of the object, with these bytes.
    at: u64,
    pieces: Vec<IoSlice<'b>>,
    ends: Vec<MessageEnd>,
    /// The peer is there.
    pub(super) is_heard: bool,
    /// The peer says, or makes, an end.
    pub(super) ended: Option<Ended>,
    /// Bytes that answer the peer's.
    pub(super) answers: Vec<u8>,
}

impl<'b> Batch<'b> {
    fn new(at: u64) -> Batch<'b> {
        let (pieces, ends, answers) = (Vec::new(), Vec::new(), Vec::new());
        Batch { at, pieces, ends, is_heard: false, ended: None, answers }
    }

    /// The next bytes of a message; returns where they end.
    pub(super) fn put(&mut self, bytes: &'b [u8]) -> u64 {
        if !bytes.is_empty() {
            self.pieces.push(IoSlice::new(bytes));
        }
        self.at += bytes.len() as u64;
        self.at
    }

    /// A message ends in it.
    pub(super) fn has_message(&self) -> bool {
        !self.ends.is_empty()
    }

    /// The message ends here.
    pub(super) fn end_message(&mut self, kind: MessageKind) {
        self.end_message_at(self.at, kind);
    }

    /// The message ended at this offset of the object, behind the one before.
    pub(super) fn end_message_at(&mut self, offset: u64, kind: MessageKind) {
        self.ends.push(MessageEnd { offset, kind });
    }
}

/// Look at bytes from offset `at` on, which are taken later: whether a message ends in them, and what
/// ends all.
pub(super) fn look_ahead<F: Framing>(
    framing: &mut F,
    at: u64,
    input: &mut [u8],
) -> (bool, Option<Ended>) {
    let mut batch = Batch::new(at);
    framing.read(input, &mut batch);
    (batch.has_message(), batch.ended)
}

/// What became of a batch.
struct Taken {
    is_heard: bool,
    /// Off the socket, with all that is no message.
    received: u64,
    messages: u64,
    bytes: u64,
    ended: Option<Ended>,
    answers: Vec<u8>,
}

/// How the messages of a peer become an object.
pub(super) struct Intake<F> {
    pub(super) writer: Writer,
    pub(super) watcher: Watcher,
    pub(super) framing: F,
    /// Bytes that the packager refused end the upload; if not, they are no longer shown to it.
    pub(super) is_refusal_fatal: bool,
}

/// Why the messages ended.
pub(super) enum Ended {
    /// In good order; of a close frame this is the echo.
    Closed(Vec<u8>),
    /// Without a word.
    PeerGone,
    Silent,
    Violation(Violation),
    /// What no camera may send.
    Camera(CameraError),
    Stopped,
    Failed(UploadError),
}

/// What a door does while messages come.
pub(super) trait Door<F: Framing> {
    /// The frame that says that this side is alive.
    fn beat(&mut self, intake: &Intake<F>) -> impl Future<Output = Vec<u8>>;
    /// So many messages were appended.
    fn note(&mut self, intake: &mut Intake<F>, messages: u64);
    /// After so many bytes a beat is due, whatever the time.
    fn beat_bytes(&self) -> u64;
    /// Ready when the door wants an end.
    fn poll_stop(&mut self, context: &mut Context<'_>) -> Poll<()>;
}

impl<F: Framing> Intake<F> {
    /// Take apart, append, and show what was appended to who watches.
    fn take(&mut self, input: &mut [u8]) -> (Taken, Result<(), UploadError>) {
        let (received, before) = (input.len() as u64, self.writer.written());
        let mut batch = Batch::new(before);
        self.framing.read(input, &mut batch);
        let appended = self.append(&batch.pieces, &batch.ends);
        let Batch { at, ends, is_heard, ended, answers, .. } = batch;
        let (messages, bytes) = (ends.len() as u64, at - before);
        (Taken { is_heard, received, messages, bytes, ended, answers }, appended)
    }

    fn append(&mut self, pieces: &[IoSlice<'_>], ends: &[MessageEnd]) -> Result<(), UploadError> {
        if pieces.is_empty() && ends.is_empty() {
            return Ok(());
        }
        if let Some(end) = self.framing.text_end() {
            self.writer.set_text_end(end);
        }
        self.writer.append_messages(pieces, ends, self.framing.partial())?;
        let noted = pieces.iter().try_for_each(|piece| self.watcher.note(piece, &mut self.writer));
        match noted {
            Err(UploadError::Refused(_)) if !self.is_refusal_fatal => {
                self.watcher = Watcher::Nobody;
                Ok(())
            }
            noted => noted,
        }
    }

    /// Receive once; `None` if there is nothing now.
    fn receive_some(&mut self, ingest: &Ingest, socket: &Socket) -> Result<Option<Taken>, Ended> {
        let mut buffer = ingest.receive_buffer.borrow_mut();
        match socket.try_recv(&mut buffer) {
            Ok(Some(0)) | Err(_) => Err(Ended::PeerGone),
            Ok(None) => Ok(None),
            Ok(Some(got)) => self.take_here(ingest, &mut buffer[..got]).map(Some),
        }
    }

    fn take_here(&mut self, ingest: &Ingest, input: &mut [u8]) -> Result<Taken, Ended> {
        let (taken, outcome) = ingest.disk.run_here(|| self.take(input));
        count::<F>(ingest, &taken);
        outcome.map(|()| taken).map_err(Ended::Failed)
    }

    /// As `receive_some`, with the write on another thread: the disk is slow.
    async fn receive_aside(
        mut self,
        ingest: &Ingest,
        socket: &Socket,
    ) -> (Intake<F>, Result<Option<Taken>, Ended>) {
        let mut buffer = ingest.aside.take().await;
        let got = match socket.try_recv(&mut buffer.bytes) {
            Ok(Some(0)) | Err(_) => return (self, Err(Ended::PeerGone)),
            Ok(None) => return (self, Ok(None)),
            Ok(Some(got)) => got,
        };
        self.writer.move_to(None);
        let mut input = buffer.lend();
        let job = move || {
            let (taken, outcome) = self.take(&mut input[..got]);
            (self, taken, outcome, input)
        };
        let (mut intake, taken, outcome, input) = ingest.disk.run(job).await;
        intake.writer.move_to(Some(ingest.core));
        buffer.bytes = input;
        count::<F>(ingest, &taken);
        (intake, outcome.map(|()| Some(taken)).map_err(Ended::Failed))
    }
}

fn count<F: Framing>(ingest: &Ingest, taken: &Taken) {
    ingest.counters.add(Counter::BytesIn, taken.bytes);
    ingest.counters.add(F::COUNTER, taken.messages);
}

/// The connection of an intake.
pub(super) struct Link<'a> {
    pub(super) ingest: &'a Ingest,
    pub(super) socket: &'a Socket,
    pub(super) pulse: Pulse,
    /// Frames of ours that the socket had no room for.
    pub(super) outbox: Vec<u8>,
}

impl Link<'_> {
    /// Receive messages to their end. `input` is what came behind the request.
    pub(super) async fn run<F: Framing>(
        &mut self,
        mut intake: Intake<F>,
        door: &mut impl Door<F>,
        mut input: Vec<u8>,
    ) -> (Intake<F>, Ended) {
        let mut first = Some(intake.take_here(self.ingest, &mut input));
        let (mut turn_bytes, mut unconfirmed) = (0, 0);
        loop {
            let received = match first.take() {
                Some(first) => first.map(Some),
                None if self.ingest.disk.is_wary() => {
                    let (back, received) = intake.receive_aside(self.ingest, self.socket).await;
                    intake = back;
                    received
                }
                None => intake.receive_some(self.ingest, self.socket),
            };
            let outcome = match received {
                Ok(Some(taken)) => {
                    turn_bytes += taken.received;
                    unconfirmed += taken.bytes;
                    door.note(&mut intake, taken.messages);
                    self.attend(taken)
                }
                Ok(None) => {
                    turn_bytes = 0;
                    self.wait(&intake, door).await
                }
                Err(ended) => Err(ended),
            };
            let outcome = match outcome {
                Ok(()) if unconfirmed >= door.beat_bytes() => {
                    unconfirmed = 0;
                    self.beat(&intake, door).await
                }
                Ok(()) if turn_bytes > TURN_BYTES_MAX => {
                    turn_bytes = 0;
                    self.give_turn(&intake, door).await
                }
                outcome => outcome,
            };
            if let Err(ended) = outcome {
                return (intake, ended);
            }
        }
    }

    /// A fast peer never makes its core wait: let the others have their turn, and look at what a wait
    /// would have looked at.
    async fn give_turn<F: Framing>(
        &mut self,
        intake: &Intake<F>,
        door: &mut impl Door<F>,
    ) -> Result<(), Ended> {
        yield_now().await;
        let pulse = &mut self.pulse;
        let aside = std::future::poll_fn(|context| Poll::Ready(poll_aside(pulse, door, context)));
        match aside.await {
            Poll::Ready(Ok(Beat::Speak)) => self.beat(intake, door).await,
            Poll::Ready(Ok(Beat::Silent)) => Err(Ended::Silent),
            Poll::Ready(Err(ended)) => Err(ended),
            Poll::Pending => Ok(()),
        }
    }

    fn attend(&mut self, taken: Taken) -> Result<(), Ended> {
        if taken.is_heard {
            self.pulse.heard();
        }
        match taken.ended {
            Some(ended) => Err(ended),
            None => self.send(&taken.answers),
        }
    }

    /// Send frames of ours, or keep what does not fit.
    pub(super) fn send(&mut self, frames: &[u8]) -> Result<(), Ended> {
        self.outbox.extend_from_slice(frames);
        if self.outbox.is_empty() {
            return Ok(());
        }
        match self.socket.try_send(&self.outbox) {
            Ok(sent) => drop(self.outbox.drain(..sent.unwrap_or(0))),
            Err(_) => return Err(Ended::PeerGone),
        }
        if self.outbox.len() > OUTBOX_BYTES_MAX {
            return Err(Ended::PeerGone);
        }
        if self.outbox.is_empty() {
            self.outbox = Vec::new();
        }
        Ok(())
    }

    /// Wait for bytes; beats of the pulse, the door's stop and room for the outbox come in between.
    async fn wait<F: Framing>(
        &mut self,
        intake: &Intake<F>,
        door: &mut impl Door<F>,
    ) -> Result<(), Ended> {
        let waited = {
            let mut readable = pin!(self.socket.readable());
            let mut writable = pin!(self.socket.writable());
            let (pulse, has_outbox) = (&mut self.pulse, !self.outbox.is_empty());
            std::future::poll_fn(|context| {
                if let Poll::Ready(aside) = poll_aside(pulse, door, context) {
                    return Poll::Ready(aside.map(Some));
                }
                if readable.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Ok(None));
                }
                if has_outbox && writable.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Ok(None));
                }
                Poll::Pending
            })
            .await?
        };
        match waited {
            Some(Beat::Silent) => Err(Ended::Silent),
            Some(Beat::Speak) => self.beat(intake, door).await,
            None => self.send(&[]),
        }
    }

    async fn beat<F: Framing>(
        &mut self,
        intake: &Intake<F>,
        door: &mut impl Door<F>,
    ) -> Result<(), Ended> {
        if !intake.writer.object().is_open() {
            // Taken over or removed: the next append would say so.
            return Err(Ended::Stopped);
        }
        let frame = door.beat(intake).await;
        self.ingest.counters.add(Counter::Heartbeats, u64::from(!frame.is_empty()));
        self.send(&frame)
    }

    /// A failure of the storage is ours: count it and say it. What else ends an upload is the peer's.
    pub(super) fn note_failure(&self, name: &str, ended: &Ended) {
        match ended {
            Ended::Failed(error) if code_of(error) == SERVER_ERROR => {
                self.ingest.counters.add(Counter::StorageErrors, 1);
                tracing::error!(object = name, %error, "messages could not be stored");
            }
            Ended::Failed(error) => tracing::info!(object = name, %error, "messages were refused"),
            _ => {}
        }
    }

    /// The frame that says why the connection ends, behind what was not sent yet; nothing for who
    /// is gone.
    pub(super) fn last_words(&mut self, ended: &Ended) -> Vec<u8> {
        let frame = match ended {
            Ended::PeerGone => return Vec::new(),
            Ended::Closed(echo) => echo.clone(),
            Ended::Silent => close_frame(POLICY, "silent for too long"),
            // Nothing is ever said to a camera.
            Ended::Camera(_) => return Vec::new(),
            Ended::Violation(violation) => close_frame(violation.code(), &violation.to_string()),
            Ended::Stopped => close_frame(GOING_AWAY, "the server has ended this stream"),
            Ended::Failed(error) => close_frame(code_of(error), &error.to_string()),
        };
        let mut words = std::mem::take(&mut self.outbox);
        words.extend_from_slice(&frame);
        words
    }
}

/// What a door and a pulse want, beside messages.
fn poll_aside<F: Framing>(
    pulse: &mut Pulse,
    door: &mut impl Door<F>,
    context: &mut Context<'_>,
) -> Poll<Result<Beat, Ended>> {
    if door.poll_stop(context).is_ready() {
        return Poll::Ready(Err(Ended::Stopped));
    }
    pulse.poll_beat(context).map(Ok)
}

fn code_of(error: &UploadError) -> u16 {
    use crate::store::WriteError;
    match error {
        UploadError::Write(WriteError::TakenOver | WriteError::Removed) => GOING_AWAY,
        UploadError::Refused(_) | UploadError::Write(WriteError::TooLarge) => POLICY,
        _ => SERVER_ERROR,
    }
}
