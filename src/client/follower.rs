//! A follower: the bytes of an object as they come, by a WebSocket while it is appended to, by a
//! plain answer when it is whole. The handle is a file for the program; the connection is held on
//! the event loop, which is at most a few pieces ahead.

use std::io::{self, Read};
use std::sync::mpsc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::time::timeout;

use super::Options;
use super::dial::{self, Answer, Connection};
use super::endpoint::Endpoint;
use super::event_loop::EventLoop;
use super::failure::ClientError;
use super::frames::{FrameReader, FrameWriter, Said};
use super::plain_body::{Piece, PlainBody};
use super::resume::Place;
use super::retry::Retry;

/// Pieces, each of one read at most, that wait for the program.
const PIECES_AHEAD_MAX: usize = 8;

/// An object that is being read, to its end: then `read` returns 0. A connection that is cut is an
/// error where it cannot be resumed, never an end.
pub struct Follower {
    /// The first is empty: there is an answer.
    pieces: mpsc::Receiver<Bytes>,
    current: Bytes,
    thread: Option<EventLoop<()>>,
    has_failed: bool,
}

impl Follower {
    pub(super) fn open(url: &str, options: &Options) -> Result<Follower, ClientError> {
        let (endpoint, options) = (Endpoint::parse(url)?, options.clone());
        let (sender, pieces) = mpsc::sync_channel(PIECES_AHEAD_MAX);
        let thread = EventLoop::start("follow", move || run(endpoint, options, sender))?;
        let thread = Some(thread);
        let mut follower = Follower { pieces, current: Bytes::new(), thread, has_failed: false };
        follower.next_piece()?;
        Ok(follower)
    }

    /// False at the end.
    fn next_piece(&mut self) -> Result<bool, ClientError> {
        if let Ok(piece) = self.pieces.recv() {
            self.current = piece;
            return Ok(true);
        }
        if self.has_failed {
            return Err(ClientError::Ended);
        }
        let outcome = self.thread.take().map_or(Ok(()), EventLoop::join);
        self.has_failed = outcome.is_err();
        outcome.map(|()| false)
    }
}

impl Read for Follower {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() && !buffer.is_empty() {
            if !self.next_piece()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

/// Where the bytes come from.
enum Source {
    Frames(FrameReader, FrameWriter),
    Plain(PlainBody),
}

struct Session {
    endpoint: Endpoint,
    options: Options,
    place: Place,
    /// The newest answer names its object, as only a Headwater does.
    is_headwater: bool,
    pieces: mpsc::SyncSender<Bytes>,
}

async fn run(
    endpoint: Endpoint,
    options: Options,
    pieces: mpsc::SyncSender<Bytes>,
) -> Result<(), ClientError> {
    let mut retry = Retry::new(options.reconnect_max_s);
    let place = Place::default();
    let mut session = Session { endpoint, options, place, is_headwater: false, pieces };
    let answered = dial(&session.endpoint, &session.options, &session.place).await?;
    let mut source = session.source_of(answered)?;
    let can_resume = session.place.can_resume();
    tracing::info!(address = session.endpoint.authority, can_resume, "following");
    let _ = session.pieces.send(Bytes::new());
    while let Some((from, connection)) = source {
        let Err(lost) = session.drain(from, connection, &mut retry).await else {
            return Ok(());
        };
        if !can_resume || !session.options.resume {
            return Err(lost);
        }
        let (endpoint, options, place) = (&session.endpoint, &session.options, &session.place);
        let answered = retry.again(lost, async || dial(endpoint, options, place).await).await?;
        source = session.source_of(answered)?;
        tracing::warn!(offset = session.place.next(), "going on");
    }
    Ok(())
}

/// Ask for everything from `place` on.
async fn dial(
    endpoint: &Endpoint,
    options: &Options,
    place: &Place,
) -> Result<(Answer, Connection), ClientError> {
    let offset = place.next().to_string();
    let range = format!("bytes={offset}-");
    let mut fields =
        vec![("Sec-WebSocket-Protocol", "binary"), ("Headwater-Offset", offset.as_str())];
    if place.next() > 0 {
        fields.push(("Range", range.as_str()));
    }
    let (answer, connection) = dial::ask(endpoint, options, &fields).await?;
    match answer.status {
        101 | 200 => Ok((answer, connection)),
        206 | 416 if place.next() > 0 => Ok((answer, connection)),
        _ => Err(answer.refusal()),
    }
}

impl Session {
    /// What an answer leads to; nothing if the object has no more bytes.
    fn source_of(
        &mut self,
        (answer, connection): (Answer, Connection),
    ) -> Result<Option<(Source, Connection)>, ClientError> {
        let object = answer.field("Headwater-Object");
        self.is_headwater = object.is_some();
        let start = match answer.status {
            101 => answer.number("Headwater-Offset"),
            206 => Some(range_start(&answer).ok_or(ClientError::BadAnswer("it has no range"))?),
            416 => {
                self.place.answered(self.place.next(), object)?;
                self.place.ended(whole_length(&answer))?;
                return Ok(None);
            }
            _ => Some(0),
        };
        // Without an offset the answer is not Headwater's, whatever else it says.
        self.place.answered(start.unwrap_or(0), object.filter(|_| start.is_some()))?;
        let source = match answer.status {
            101 => Source::Frames(FrameReader::default(), FrameWriter::default()),
            _ => Source::Plain(PlainBody::of(&answer)?),
        };
        Ok(Some((source, connection)))
    }

    /// Hand on what comes, to the end of the object.
    async fn drain(
        &mut self,
        source: Source,
        mut connection: Connection,
        retry: &mut Retry,
    ) -> Result<(), ClientError> {
        match source {
            Source::Frames(reader, writer) => {
                self.drain_frames(reader, writer, &mut connection, retry).await
            }
            Source::Plain(mut body) => loop {
                match body.next(&mut connection.received)? {
                    Piece::Bytes(bytes) => self.hand_on(bytes, retry)?,
                    Piece::End => return Ok(()),
                    Piece::NotYet if self.fill(&mut connection).await? => {}
                    Piece::NotYet if body.may_end() => return Ok(()),
                    Piece::NotYet => return Err(cut()),
                }
            },
        }
    }

    async fn drain_frames(
        &mut self,
        mut reader: FrameReader,
        mut writer: FrameWriter,
        connection: &mut Connection,
        retry: &mut Retry,
    ) -> Result<(), ClientError> {
        let mut pings = 0;
        loop {
            match reader.next(&mut connection.received)? {
                Some(Said::Data(bytes)) => self.hand_on(bytes, retry)?,
                Some(Said::Ping(payload)) => {
                    pings += 1;
                    // The first ping comes with the connection, and proves nothing yet.
                    if pings > 1 {
                        retry.succeeded();
                    }
                    let pong = writer.pong(&payload);
                    connection.send(&pong, self.options.write_timeout_s).await?;
                }
                Some(Said::Pong) => {}
                Some(Said::Close { code, reason }) => {
                    // Of use to a server that waits for it, and of no use to an answer.
                    let echo = writer.close(code.unwrap_or(1000));
                    let _ = connection.send(&echo, self.options.write_timeout_s).await;
                    return self.closed(code, reason);
                }
                None if self.fill(connection).await? => {}
                None => return Err(cut()),
            }
        }
    }

    /// To httpfstream "going away" (1001) is an end; a Headwater that goes comes back and has the rest.
    fn closed(&self, code: Option<u16>, reason: String) -> Result<(), ClientError> {
        match code {
            Some(1000) => Ok(()),
            Some(1001) if !self.is_headwater => Ok(()),
            code => Err(ClientError::Closed { code, reason }),
        }
    }

    fn hand_on(&mut self, bytes: Bytes, retry: &mut Retry) -> Result<(), ClientError> {
        let new = self.place.take(bytes);
        if new.is_empty() {
            return Ok(());
        }
        retry.succeeded();
        self.pieces.send(new).map_err(|_| ClientError::Ended)
    }

    /// Read more; false at the end. A Headwater pings, so its silence is a loss.
    async fn fill(&self, connection: &mut Connection) -> Result<bool, ClientError> {
        if !self.place.can_resume() {
            return connection.fill().await;
        }
        let limit = Duration::from_secs(self.options.silence_timeout_s);
        let silent = |_| ClientError::Lost(io::ErrorKind::TimedOut.into());
        timeout(limit, connection.fill()).await.map_err(silent)?
    }
}

fn cut() -> ClientError {
    ClientError::Lost(io::ErrorKind::UnexpectedEof.into())
}

/// `Content-Range: bytes START-…`
fn range_start(answer: &Answer) -> Option<u64> {
    let range = answer.field("Content-Range")?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.parse().ok()
}

/// `Content-Range: bytes */LENGTH`
fn whole_length(answer: &Answer) -> Option<u64> {
    answer.field("Content-Range")?.strip_prefix("bytes */")?.parse().ok()
}
