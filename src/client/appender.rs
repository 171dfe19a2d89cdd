//! An appender: what the program writes becomes messages, which are kept until the server has said
//! that it stored them. The handle is a file for the program; the session behind it runs on the
//! event loop.
//!
//! | session | left when |
//! |---|---|
//! | connected (`serve`) | the server has echoed the close frame: done; the connection is lost |
//! | lost (`reconnect`) | a new connection has said how long the object is; nothing helps |

use std::io::{self, Write};
use std::pin::pin;
use std::sync::mpsc;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_tungstenite::tungstenite::handshake::client::generate_key;

use super::Options;
use super::dial::{self, Answer, Connection};
use super::endpoint::Endpoint;
use super::event_loop::EventLoop;
use super::failure::ClientError;
use super::frames::{FrameReader, FrameWriter, Said};
use super::resume::{MESSAGE_BYTES_MAX, Outbox};
use super::retry::Retry;

/// httpfstream cuts an appender that says nothing for 25 s, and does not ping; a pong is enough.
const PONG_INTERVAL: Duration = Duration::from_secs(10);

/// What was appended when all was well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    pub bytes: u64,
}

/// An object that is being appended to. Each `write` is one message (of 1 MiB at most; what is longer
/// is written in parts). Writing waits while 16 MiB are not confirmed; `flush` waits for nothing.
///
/// Dropped without [`finish`](Appender::finish), it leaves at once: messages that the server does
/// not have yet are lost, and what it has stays.
pub struct Appender {
    messages: UnboundedSender<Bytes>,
    finish: oneshot::Sender<()>,
    /// One for each message that found room, and one for the first connection.
    taken: mpsc::Receiver<()>,
    thread: Option<EventLoop<Appended>>,
}

impl Appender {
    pub(super) fn open(url: &str, options: &Options) -> Result<Appender, ClientError> {
        let (endpoint, options) = (Endpoint::parse(url)?, options.clone());
        let (messages, inbox) = unbounded_channel();
        let (finish, finished) = oneshot::channel();
        let (taker, taken) = mpsc::channel();
        let input = Input { inbox, finished, taker };
        let thread = EventLoop::start("append", move || run(endpoint, options, input))?;
        let mut appender = Appender { messages, finish, taken, thread: Some(thread) };
        appender.wait()?;
        Ok(appender)
    }

    /// End in good order: returns when the server has everything and says so.
    pub fn finish(self) -> Result<Appended, ClientError> {
        let _ = self.finish.send(());
        self.thread.map_or(Err(ClientError::Ended), EventLoop::join)
    }

    /// Messages of `bytes`, one if they are not too long.
    pub(super) fn send(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        for message in bytes.chunks(MESSAGE_BYTES_MAX) {
            let _ = self.messages.send(Bytes::copy_from_slice(message));
            self.wait()?;
        }
        Ok(())
    }

    /// Until the session has taken what it was given. One that has ended says why, once.
    fn wait(&mut self) -> Result<(), ClientError> {
        if self.taken.recv().is_ok() {
            return Ok(());
        }
        let outcome = self.thread.take().map(EventLoop::join);
        Err(outcome.and_then(Result::err).unwrap_or(ClientError::Ended))
    }
}

impl Write for Appender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let message = &bytes[..bytes.len().min(MESSAGE_BYTES_MAX)];
        self.send(message)?;
        Ok(message.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The program's side, as the session sees it.
struct Input {
    inbox: UnboundedReceiver<Bytes>,
    /// Comes after the last message was taken, and needs no room.
    finished: oneshot::Receiver<()>,
    taker: mpsc::Sender<()>,
}

struct Session {
    endpoint: Endpoint,
    options: Options,
    /// The same for all connections: by it the server knows that the appender has come back.
    id: String,
    outbox: Outbox,
    can_resume: bool,
    is_finishing: bool,
}

/// A connection with its codec.
struct Line {
    connection: Connection,
    reader: FrameReader,
    writer: FrameWriter,
    write_timeout_s: u64,
}

impl Line {
    /// The next event. Nothing is lost if this is dropped while it waits.
    async fn hear(&mut self) -> Result<Said, ClientError> {
        loop {
            if let Some(said) = self.reader.next(&mut self.connection.received)? {
                return Ok(said);
            }
            if !self.connection.fill().await? {
                return Err(ClientError::Lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    async fn send(&mut self, frame: Vec<u8>) -> Result<(), ClientError> {
        self.connection.send(&frame, self.write_timeout_s).await
    }
}

async fn run(
    endpoint: Endpoint,
    options: Options,
    mut input: Input,
) -> Result<Appended, ClientError> {
    let id = session_id();
    let (first, connection) = dial(&endpoint, &options, &id).await?;
    tracing::info!(address = endpoint.authority, can_resume = first.is_some(), "appending");
    let can_resume = first.is_some();
    let kept = first.filter(|_| options.resume);
    let outbox = Outbox::new(kept);
    let mut retry = Retry::new(options.reconnect_max_s);
    let mut line = line(connection, &options);
    let mut session = Session { endpoint, options, id, outbox, can_resume, is_finishing: false };
    let _ = input.taker.send(());
    loop {
        let lost = match session.serve(&mut line, &mut input, &mut retry).await {
            Ok(()) => return Ok(Appended { bytes: session.outbox.end() }),
            Err(error) => error,
        };
        if kept.is_none() {
            return Err(lost);
        }
        let is_lost = matches!(lost, ClientError::Lost(_));
        if is_lost && session.is_finishing && session.outbox.is_confirmed() {
            // Everything is stored; only the answer to the end was lost.
            return Ok(Appended { bytes: session.outbox.end() });
        }
        line = session.reconnect(lost, &mut input, &mut retry).await?;
    }
}

/// Connect; says the length of the object if the server tells it.
async fn dial(
    endpoint: &Endpoint,
    options: &Options,
    id: &str,
) -> Result<(Option<u64>, Connection), ClientError> {
    let fields = [("X-Verb", "APPEND"), ("Headwater-Offset", "*"), ("Headwater-Session", id)];
    let (answer, connection): (Answer, _) = dial::ask(endpoint, options, &fields).await?;
    if answer.status != 101 {
        return Err(answer.refusal());
    }
    Ok((answer.number("Headwater-Offset"), connection))
}

fn line(connection: Connection, options: &Options) -> Line {
    let (reader, writer) = (FrameReader::default(), FrameWriter::default());
    Line { connection, reader, writer, write_timeout_s: options.write_timeout_s }
}

impl Session {
    /// Send and hear until the end is answered.
    async fn serve(
        &mut self,
        line: &mut Line,
        input: &mut Input,
        retry: &mut Retry,
    ) -> Result<(), ClientError> {
        let mut silent_at = self.silent_at();
        let mut close_sent: Option<Instant> = None;
        let mut pings = 0;
        loop {
            let is_done = self.is_finishing && !self.outbox.has_unsent();
            if is_done && close_sent.is_none() {
                let frame = line.writer.close(1000);
                line.send(frame).await?;
                let limit = Duration::from_secs(self.options.close_timeout_s);
                close_sent = Some(sleep(limit).deadline());
            }
            let has_room = !self.is_finishing && self.outbox.has_room();
            let late_at = close_sent.unwrap_or(silent_at);
            tokio::select! {
                biased;
                said = line.hear() => {
                    silent_at = self.silent_at();
                    match said {
                        Ok(Said::Ping(payload)) => {
                            pings += 1;
                            let is_news = self.confirm(&payload)?;
                            // The first ping comes with the connection, and proves nothing yet.
                            if is_news || (pings > 1 && self.outbox.is_confirmed()) {
                                retry.succeeded();
                            }
                            if close_sent.is_none() {
                                let frame = line.writer.pong(&payload);
                                line.send(frame).await?;
                            }
                        }
                        // httpfstream's echo has no code; any other says that the end is not well.
                        Ok(Said::Close { code: None | Some(1000), .. }) if close_sent.is_some() => {
                            return Ok(());
                        }
                        Ok(Said::Close { code, reason }) => {
                            let echo = line.writer.close(code.unwrap_or(1000));
                            let _ = line.send(echo).await;
                            return Err(ClientError::Closed { code, reason });
                        }
                        Ok(Said::Data(_) | Said::Pong) => {}
                        Err(error) if close_sent.is_some() => return self.ended_by(error),
                        Err(error) => return Err(error),
                    }
                }
                () = std::future::ready(()), if self.outbox.has_unsent() => {
                    self.send_next(line).await?;
                }
                message = input.inbox.recv(), if has_room => self.take(message, input)?,
                finished = &mut input.finished, if !self.is_finishing => self.finish(finished)?,
                () = sleep_until(late_at), if close_sent.is_some() || self.can_resume => {
                    return Err(ClientError::Lost(io::ErrorKind::TimedOut.into()));
                }
                () = sleep(PONG_INTERVAL), if close_sent.is_none() => {
                    let frame = line.writer.pong(b"");
                    line.send(frame).await?;
                }
            }
        }
    }

    /// A server that confirms nothing may also answer the end by ending the connection.
    fn ended_by(&self, error: ClientError) -> Result<(), ClientError> {
        match error {
            ClientError::Lost(lost)
                if lost.kind() == io::ErrorKind::UnexpectedEof && !self.can_resume =>
            {
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Attempts, during which the program may go on writing as far as there is room.
    async fn reconnect(
        &mut self,
        lost: ClientError,
        input: &mut Input,
        retry: &mut Retry,
    ) -> Result<Line, ClientError> {
        let (endpoint, options, id) =
            (self.endpoint.clone(), self.options.clone(), self.id.clone());
        let (length, connection) = {
            let attempts = retry.again(lost, async || dial(&endpoint, &options, &id).await);
            let mut attempts = pin!(attempts);
            loop {
                let has_room = !self.is_finishing && self.outbox.has_room();
                tokio::select! {
                    connected = &mut attempts => break connected?,
                    message = input.inbox.recv(), if has_room => self.take(message, input)?,
                    finished = &mut input.finished, if !self.is_finishing => {
                        self.finish(finished)?;
                    }
                }
            }
        };
        let length = length.ok_or(ClientError::BadAnswer("it tells no offset any more"))?;
        if self.outbox.reconnected(length)? {
            retry.succeeded();
        }
        tracing::warn!(length, "going on");
        Ok(line(connection, &options))
    }

    fn take(&mut self, message: Option<Bytes>, input: &Input) -> Result<(), ClientError> {
        self.outbox.push(message.ok_or(ClientError::Ended)?);
        let _ = input.taker.send(());
        Ok(())
    }

    /// A program that has dropped its appender has not finished.
    fn finish(
        &mut self,
        finished: Result<(), oneshot::error::RecvError>,
    ) -> Result<(), ClientError> {
        self.is_finishing = finished.is_ok();
        finished.map_err(|_| ClientError::Ended)
    }

    async fn send_next(&mut self, line: &mut Line) -> Result<(), ClientError> {
        let Some(message) = self.outbox.take_unsent() else {
            return Ok(());
        };
        // httpfstream drops binary messages, and does not check what a text message is.
        let is_text =
            !self.options.binary && (!self.can_resume || std::str::from_utf8(&message).is_ok());
        let frame = line.writer.message(is_text, &message);
        line.send(frame).await
    }

    /// The pings of a Headwater say what it has stored.
    fn confirm(&mut self, payload: &[u8]) -> Result<bool, ClientError> {
        let length = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        length.map_or(Ok(false), |length| self.outbox.confirm(length))
    }

    fn silent_at(&self) -> Instant {
        sleep(Duration::from_secs(self.options.silence_timeout_s)).deadline()
    }
}

/// 32 hexadecimal digits that nobody else has.
fn session_id() -> String {
    let random = base64::engine::general_purpose::STANDARD.decode(generate_key());
    let random = random.expect("a key is base64 of 16 random bytes");
    random.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_32_random_digits() {
        let (one, other) = (session_id(), session_id());
        assert_eq!(one.len(), 32);
        assert!(one.bytes().all(|byte| byte.is_ascii_hexdigit()) && one != other);
    }
}
