//! APPEND of httpfstream: each message of a WebSocket is appended to an object, which is continued at
//! its end if it is there already, and sealed when the appender goes, however it goes.
//!
//! | an appender is | left by |
//! |---|---|
//! | asking for its object | the object, or a refusal: it has an active writer, its path is taken |
//! | appending | its close or its loss, silence (pings keep it alive), DELETE, a PUT of the same name |
//! | lost, and able to resume | its next connection, which gets the object, or `append.idle_timeout_s` |
//! | over | the object is sealed as far as whole messages came |

use std::task::{Context, Poll};
use std::time::Duration;

use super::Ingest;
use super::append_sessions::{Earlier, Legacy, Session};
use super::frames_in::{Frames, Wanted};
use super::messages_in::{Door, Ended, Intake, Link};
use super::upload::{UploadError, Watcher, seal};
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::timers::{self, Pulse};
use crate::store::{
    BeginError, Ending, MessageKind, MessageWindow, NewObject, ObjectInfo, Partial, StorageError,
    Visibility, WriteRule, Writer,
};
use crate::wire::media_type;
use crate::wire::websocket::{Opcode, STOPPING, Utf8, control_frame};

/// Messages whose ends are remembered for followers that fall behind, with 8 bytes each.
const MESSAGES_KEPT_MAX: usize = 1 << 18;
/// What an object has is looked through for text up to this; a longer one is taken for binary.
const TEXT_CHECK_BYTES_MAX: u64 = 64 << 20;
/// An appender that keeps what is not confirmed hears of it after so many bytes, for its room is small.
const CONFIRMED_AFTER_BYTES: u64 = 4 << 20;
/// How often a connection looks whether the one before it has handed over.
const LEGACY_LOOKS_MAX: usize = 100;
const LEGACY_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// An appender that a request asks for.
pub struct Append {
    pub name: String,
    /// Names the appender over all its connections, if it can resume.
    pub session: Option<String>,
    /// The answer to its handshake, without the empty line.
    pub head: Vec<u8>,
}

/// A client that can resume says with this from which byte on, or `*`, and is told.
pub const OFFSET: &str = "Headwater-Offset";

/// Append messages until the appender goes. Returns the last words, for the connection to say.
pub async fn append(
    ingest: &Ingest,
    append: Append,
    input: Vec<u8>,
    socket: &Socket,
    deadline: &Deadline,
) -> Result<Vec<u8>, UploadError> {
    let Append { name, session, mut head } = append;
    deadline.phase(Phase::Uploading);
    let Legacy { writer, watcher, synced } = begin(ingest, &name, session.as_deref()).await?;
    let session = session.map(|session| ingest.append_sessions.enter(&name, &session));
    ingest.counters.add(Counter::WebsocketAppenders, 1);
    let mut door = Appending { ingest, session, synced };
    if door.session.is_some() {
        let length = door.confirmed(&writer).await?;
        head.extend_from_slice(format!("{OFFSET}: {length}\r\n").as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    let intake = begin_intake(ingest, writer, watcher).await;
    let options = &ingest.options;
    let pulse = Pulse::new(options.ping_interval_s, Some(options.append_idle_timeout_s));
    let mut link = Link { ingest, socket, pulse, outbox: head };
    deadline.parting(Some(STOPPING));
    let (intake, ended) = link.run(intake, &mut door, input).await;
    let is_lost = matches!(ended, Ended::PeerGone | Ended::Silent | Ended::Stopped);
    let Intake { writer, watcher, .. } = intake;
    let legacy = Legacy { writer, watcher, synced: door.synced };
    let finished = match door.leave(legacy, is_lost) {
        Some(legacy) => finish(ingest, legacy).await,
        None => Ok(()),
    };
    let ended = finished.err().map_or(ended, Ended::Failed);
    link.note_failure(&name, &ended);
    Ok(link.last_words(&ended))
}

/// The end of the object, as far as whole messages came.
async fn finish(ingest: &Ingest, legacy: Legacy) -> Result<(), UploadError> {
    if !legacy.writer.object().is_open() {
        ingest.counters.add(Counter::UploadsAborted, 1);
        return Ok(());
    }
    seal(ingest, legacy.writer, legacy.watcher).await?;
    ingest.counters.add(Counter::UploadsSealed, 1);
    Ok(())
}

async fn begin_intake(ingest: &Ingest, writer: Writer, watcher: Watcher) -> Intake<Frames> {
    let is_atomic = matches!(watcher, Watcher::Nobody);
    let partial = if is_atomic { Partial::Hidden } else { Partial::Visible };
    let (writer, whole) = look_through(ingest, writer).await;
    let message = if whole.is_valid() { whole } else { begun_character(&writer) };
    let bytes_max = ingest.options.append_message_bytes_max;
    let mut intake = Intake::of_frames((writer, watcher), (Wanted::All, partial), bytes_max);
    intake.judge_text(message, whole);
    intake
}

/// What the message before left of a character.
fn begun_character(writer: &Writer) -> Utf8 {
    let mut message = Utf8::default();
    if let Some((_, end)) = writer.object().message_edge()
        && let MessageKind::Text { pending } = end.kind
    {
        let start = end.offset - u64::from(pending);
        let read = writer.read_back(start, end.offset, &mut |bytes| {
            message.push(bytes);
        });
        // Not to be had: it will show as a message that is no text.
        drop(read);
    }
    message
}

/// The object: of an earlier connection of the same appender, or continued, or new.
async fn begin(ingest: &Ingest, name: &str, session: Option<&str>) -> Result<Legacy, UploadError> {
    if let Some(session) = session
        && let Some(legacy) = inherit(ingest, name, session).await
    {
        return Ok(legacy);
    }
    // Asked first: what is refused leaves nothing behind.
    let feed = ingest.packager.feed(name).map_err(UploadError::Refused)?;
    let mut writer = resume(ingest, name).await?;
    writer.keep_messages(MessageWindow { bytes_max: u64::MAX, count_max: MESSAGES_KEPT_MAX });
    let class = media_type::class_of(name, writer.object().info.header("Content-Type"));
    let synced = writer.object().tail();
    Ok(Legacy { writer, watcher: Watcher::new(feed, class), synced })
}

/// Take over from an earlier connection, if there is one.
async fn inherit(ingest: &Ingest, name: &str, session: &str) -> Option<Legacy> {
    for _ in 0..LEGACY_LOOKS_MAX {
        match ingest.append_sessions.look(&ingest.store, name, session) {
            Earlier::Nothing => return None,
            Earlier::Legacy(mut legacy) => {
                legacy.writer.move_to(Some(ingest.core));
                return Some(*legacy);
            }
            Earlier::Told => timers::sleep(LEGACY_LOOK_INTERVAL).await,
        }
    }
    None
}

async fn resume(ingest: &Ingest, name: &str) -> Result<Writer, BeginError> {
    let (store, core, name) = (ingest.store.clone(), Some(ingest.core), name.to_owned());
    let info = ObjectInfo { created_ms: clock::unix_ms(), ..ObjectInfo::default() };
    let resume = move || {
        let (visibility, rule) = (Visibility::AtOnce, WriteRule::Refuse);
        let ending = Ending::Sealed;
        store.resume(NewObject { name: &name, info, visibility, rule, ending, core })
    };
    ingest.disk.run(resume).await
}

/// Whether what the object has is text: known, or looked through.
async fn look_through(ingest: &Ingest, mut writer: Writer) -> (Writer, Utf8) {
    let length = writer.object().tail();
    let known = writer.object().text_end();
    if length == 0 || length - known.min(length) <= Utf8::PENDING_BYTES_MAX && known > 0 {
        let mut whole = Utf8::default();
        // The beginning of a character that is going to be completed.
        let read = writer.read_back(known.min(length), length, &mut |bytes| {
            whole.push(bytes);
        });
        return (writer, if read.is_ok() { whole } else { Utf8::broken() });
    }
    if length > TEXT_CHECK_BYTES_MAX {
        return (writer, Utf8::broken());
    }
    let look = move || {
        let mut whole = Utf8::default();
        let read = writer.read_back(0, length, &mut |bytes| {
            whole.push(bytes);
        });
        if read.is_ok() && whole.is_valid() {
            writer.set_text_end(length - u64::from(whole.pending()));
            return (writer, whole);
        }
        (writer, Utf8::broken())
    };
    ingest.disk.run(look).await
}

struct Appending<'a> {
    ingest: &'a Ingest,
    session: Option<Session>,
    /// As far as the object is on disk, where that is asked for.
    synced: u64,
}

impl Appending<'_> {
    /// Leave the object to the next connection of this appender, if this one was lost. Back comes
    /// what is to be sealed now.
    fn leave(&mut self, mut legacy: Legacy, is_lost: bool) -> Option<Legacy> {
        let is_whole = is_lost && legacy.writer.object().is_open() && legacy.writer.drop_hidden();
        let Some(session) = self.session.take().filter(|_| is_whole) else { return Some(legacy) };
        let core = self.ingest.core;
        legacy.writer.move_to(None);
        let patience_s = self.ingest.options.append_idle_timeout_s;
        let mut back = session.leave(legacy, clock::monotonic_s() + patience_s)?;
        back.writer.move_to(Some(core));
        Some(back)
    }

    /// How much of the object cannot be lost any more.
    async fn confirmed(&mut self, writer: &Writer) -> Result<u64, StorageError> {
        let tail = writer.object().tail();
        let ingest = self.ingest;
        if ingest.options.is_durable && !ingest.store.is_memory_only() && tail > self.synced {
            for file in writer.files_from(self.synced)? {
                ingest.ring.sync(file).await.map_err(StorageError::from)?;
            }
            self.synced = tail;
        }
        Ok(tail)
    }
}

impl Door<Frames> for Appending<'_> {
    /// A ping; to an appender that can resume it says how long the object is.
    async fn beat(&mut self, intake: &Intake<Frames>) -> Vec<u8> {
        if self.session.is_none() {
            return control_frame(Opcode::Ping, &[]);
        }
        match self.confirmed(&intake.writer).await {
            Ok(length) => control_frame(Opcode::Ping, length.to_string().as_bytes()),
            Err(error) => {
                tracing::error!(%error, "an object that is appended to cannot be synced");
                control_frame(Opcode::Ping, self.synced.to_string().as_bytes())
            }
        }
    }

    fn note(&mut self, _intake: &mut Intake<Frames>, _messages: u64) {}

    fn beat_bytes(&self) -> u64 {
        if self.session.is_some() { CONFIRMED_AFTER_BYTES } else { u64::MAX }
    }

    fn poll_stop(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let core = self.ingest.core;
        self.session.as_mut().map_or(Poll::Pending, |session| session.wait.poll_news(core, context))
    }
}
