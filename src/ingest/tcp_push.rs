//! Cameras that push over TCP, as MultiStreamingServer has them (a greeting, and a length before each
//! picture), or as they come, on a listener of their own.
//!
//! | a camera's connection is | left by |
//! |---|---|
//! | greeting | 12 bytes; the head's time-out; what no greeting may say |
//! | unknown: what it sends is in memory only | its first whole picture; the head's time-out; what no camera may send |
//! | waiting | what sends this track now has ended; another one that came behind it |
//! | live: each picture is a message of an object | a length of 0, its going, no whole picture in time, another camera that waits for its place, what no camera may send, a failing disk |
//! | over | viewers wait for it a little |
//!
//! Nothing is ever said to a camera. What was wrong is said in the log.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Ingest;
use super::camera_watch::{H264Watch, MOVIE_LINES_PER_S_MAX, MovieUpload};
use super::messages_in::{Door, Ended, Intake, Link, look_ahead};
use super::pictures_in::Pictures;
use super::upload::{UploadError, Watcher, seal};
use crate::cameras::{FirstBytes, Place, Push, Sending, TURN_S_MAX, TooManyBytes};
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::line_budget::LineBudget;
use crate::runtime::socket::Socket;
use crate::runtime::timers::{self, Pulse};
use crate::store::{
    BeginError, Ending, MessageLook, MessageWindow, Millis, NewObject, ObjectInfo, Visibility,
    WriteRule, Writer,
};
use crate::wire::numbers::push_time;
use crate::wire::tcp_framing::{
    CameraError, GREETING_BYTES, Greeting, PictureKind, PictureReader, Quality,
};

/// Nothing has to be said to a camera: its pulse only looks, so often, whether its object is open.
const LOOK_S: u64 = 60;
/// What may stand in front of a first picture, and behind it until its end is seen.
const BESIDE_BYTES_MAX: u64 = 64 << 10;

/// Take what a camera sends, to its end. The deadline is that of its first picture: until that is
/// whole the connection is nobody, and disturbs nobody.
pub async fn push(ingest: &Ingest, push: &Push, socket: &Socket, deadline: &Deadline) {
    let ip = socket.peer_ip().ok();
    let greeted = match push {
        Push::Raw(raw) => {
            let stream = Stream { name: raw.name.clone(), kind: raw.kind, quality: raw.quality };
            Some((stream, Vec::new()))
        }
        Push::Greeted => greeting(ingest, socket, ip).await,
    };
    let Some((stream, input)) = greeted else { return };
    let first = match stream.first_picture(ingest, push, input, socket).await {
        Ok(first) => first,
        Err(why) => return why.into_iter().for_each(|why| refuse(ingest, &stream.name, ip, &*why)),
    };
    deadline.clear();
    deadline.phase(Phase::Uploading);
    let Some(place) = stream.place(ingest, ip).await else { return };
    let intake = match stream.begin(ingest, push).await {
        Ok(intake) => intake,
        Err(error) => {
            ingest.counters.add(Counter::StorageErrors, 1);
            return refuse(ingest, &stream.name, ip, &error);
        }
    };
    stream.run(ingest, (intake, place), first.take(), socket).await;
}

/// What a connection brings.
struct Stream {
    name: String,
    kind: PictureKind,
    quality: Quality,
}

/// The greeting, and what came behind it.
async fn greeting(
    ingest: &Ingest,
    socket: &Socket,
    ip: Option<IpAddr>,
) -> Option<(Stream, Vec<u8>)> {
    let mut start = Vec::new();
    while start.len() < GREETING_BYTES {
        let received = {
            let mut buffer = ingest.receive_buffer.borrow_mut();
            let received = socket.try_recv(&mut buffer);
            if let Ok(Some(got)) = received {
                start.extend_from_slice(&buffer[..got]);
            }
            received
        };
        match received {
            Ok(Some(0)) | Err(_) => {
                let came = start.len();
                let why = format!("{came} bytes of a greeting came, and no more in time");
                refuse(ingest, "unknown", ip, &why);
                return None;
            }
            Ok(Some(_)) => {}
            Ok(None) => socket.readable().await,
        }
    }
    let (head, input) = start.split_first_chunk::<GREETING_BYTES>()?;
    match Greeting::parse(head) {
        Ok(greeting) => {
            let Greeting { kind, quality, .. } = greeting;
            Some((Stream { name: greeting.stream_name(), kind, quality }, input.to_vec()))
        }
        Err(error) => {
            refuse(ingest, "unknown", ip, &error);
            None
        }
    }
}

fn refuse(ingest: &Ingest, camera: &str, ip: Option<IpAddr>, why: &dyn Display) {
    ingest.counters.add(Counter::CamerasRefused, 1);
    if let Some(left_out) = line(ingest) {
        tracing::warn!(camera, ?ip, %why, left_out, "a camera was refused");
    }
}

/// How many lines about cameras were left out before this one, if any; `None` if this is one too many.
fn line(ingest: &Ingest) -> Option<Option<u64>> {
    let left_out = ingest.camera_lines.admit(clock::monotonic_s())?;
    Some(Some(left_out).filter(|lines| *lines > 0))
}

/// Why a connection has no first picture; `None` if it just went.
type NoPicture = Option<Box<dyn Display>>;

impl Stream {
    /// What it sends up to its first whole picture, and what came along with that.
    async fn first_picture(
        &self,
        ingest: &Ingest,
        push: &Push,
        input: Vec<u8>,
        socket: &Socket,
    ) -> Result<FirstBytes, NoPicture> {
        let bytes_max = ingest.cameras.options.picture_bytes_max;
        let mut framing = self.framing(push, bytes_max);
        let mut first = FirstBytes::new(&ingest.cameras);
        let said = |why: TooManyBytes| -> NoPicture { Some(Box::new(why)) };
        first.extend(&input).map_err(said)?;
        let mut seen = 0;
        loop {
            let (is_whole, ended) = look_ahead(&mut framing, seen as u64, first.from(seen));
            match ended {
                _ if is_whole => return Ok(first),
                Some(Ended::Camera(error)) => return Err(Some(Box::new(error))),
                Some(_) => return Err(None),
                None => {}
            }
            seen = first.len();
            if seen as u64 > u64::from(bytes_max) + BESIDE_BYTES_MAX {
                return Err(Some(Box::new(CameraError::Endless { max: bytes_max })));
            }
            let received = {
                let mut buffer = ingest.receive_buffer.borrow_mut();
                match socket.try_recv(&mut buffer) {
                    Ok(Some(got)) if got > 0 => Some(first.extend(&buffer[..got]).map_err(said)?),
                    Ok(None) => None,
                    _ if seen == 0 => return Err(None),
                    _ => return Err(Some(Box::new("no whole picture came, or not in time"))),
                }
            };
            if received.is_none() {
                socket.readable().await;
            }
        }
    }

    /// A place among the cameras, once what has it now has ended. Nothing is begun before that.
    async fn place(&self, ingest: &Ingest, ip: Option<IpAddr>) -> Option<Place> {
        let entered = ingest.cameras.enter(&self.name, self.quality, Some(ingest.core));
        let mut place = match entered {
            Ok(place) => place,
            Err(error) => {
                refuse(ingest, &self.name, ip, &error);
                return None;
            }
        };
        let turn = std::future::poll_fn(|context| place.poll_turn(ingest.core, context));
        match timers::within(Duration::from_secs(TURN_S_MAX), turn).await {
            Some(true) => return Some(place),
            Some(false) => refuse(ingest, &self.name, ip, &"another one came behind it"),
            None => refuse(ingest, &self.name, ip, &"the one in its place does not end"),
        }
        None
    }

    fn framing(&self, push: &Push, bytes_max: u32) -> Pictures {
        match (push, self.kind) {
            (Push::Greeted, _) => Pictures::Lengths(PictureReader::new(bytes_max)),
            (Push::Raw(_), PictureKind::Mjpeg) => Pictures::jpegs(bytes_max),
            (Push::Raw(_), PictureKind::H264) => Pictures::nal_units(bytes_max),
        }
    }

    async fn begin(&self, ingest: &Ingest, push: &Push) -> Result<Intake<Pictures>, UploadError> {
        let options = &ingest.cameras.options;
        let mut writer = self.begin_object(ingest).await?;
        let bytes_max = options.window_bytes;
        writer.keep_messages(MessageWindow { bytes_max, count_max: usize::MAX });
        let framing = self.framing(push, options.picture_bytes_max);
        let watcher = match self.kind {
            PictureKind::Mjpeg => Watcher::Nobody,
            PictureKind::H264 => Watcher::H264(Box::new(self.h264_watch(ingest))),
        };
        Ok(Intake { writer, watcher, framing, is_refusal_fatal: false })
    }

    fn h264_watch(&self, ingest: &Ingest) -> H264Watch {
        let options = &ingest.cameras.options;
        let point = options.live_point(&self.name);
        let upload = point.filter(|point| ingest.packager.is_live(point)).map(|point| {
            let file = format!("{}.mp4", self.quality.word());
            let is_kept = !options.record_below.is_empty()
                || ingest.store.has_retention(&format!("{point}/{file}"));
            MovieUpload {
                store: ingest.store.clone(),
                packager: ingest.packager.clone(),
                point,
                file,
                window_bytes: (!is_kept).then_some(options.window_bytes),
                open: None,
                lines: LineBudget::new(MOVIE_LINES_PER_S_MAX),
            }
        });
        H264Watch::new(upload, options.picture_bytes_max)
    }

    /// An object that is kept for ever, or one without a name that is trimmed.
    async fn begin_object(&self, ingest: &Ingest) -> Result<Writer, BeginError> {
        let (store, core) = (ingest.store.clone(), Some(ingest.core));
        let created_ms = clock::unix_ms();
        let below = &ingest.cameras.options.record_below;
        let quality = self.quality.word();
        if below.is_empty() {
            let label = format!("camera {} {quality}", self.name);
            let info = ObjectInfo { created_ms, ..ObjectInfo::default() };
            return ingest.disk.run(move || store.begin_unnamed(&label, info, core)).await;
        }
        let headers = vec![("Content-Type".to_owned(), self.kind.stream_type().to_owned())];
        let info = ObjectInfo { headers, created_ms, ..ObjectInfo::default() };
        let name = format!("{below}{}/{}", self.name, self.file_name(created_ms));
        let begin = move || {
            let (visibility, rule) = (Visibility::AtOnce, WriteRule::TakeOver);
            let ending = Ending::Sealed;
            store.begin(NewObject { name: &name, info, visibility, rule, ending, core })
        };
        ingest.disk.run(begin).await
    }

    /// Such as `20261122T031500.250Z-high.mjpeg`: in the order of time.
    fn file_name(&self, unix_ms: Millis) -> String {
        let mut time = String::new();
        push_time(&mut time, unix_ms as i64);
        time.retain(|letter| !matches!(letter, '-' | ':'));
        format!("{time}-{}.{}", self.quality.word(), self.kind.word())
    }

    async fn run(
        &self,
        ingest: &Ingest,
        (intake, place): (Intake<Pictures>, Place),
        input: Vec<u8>,
        socket: &Socket,
    ) {
        let ip = socket.peer_ip().ok();
        let (name, quality) = (&self.name, self.quality.word());
        if let Some(left_out) = line(ingest) {
            tracing::info!(camera = name, quality, kind = ?self.kind, ?ip, left_out, "a camera sends");
        }
        let begun = (intake.writer.object().clone(), clock::unix_ms());
        let sending = place.send(self.kind, begun, Some(ingest.core));
        let pulse = Pulse::new(LOOK_S, Some(ingest.cameras.options.silence_timeout_s));
        let mut link = Link { ingest, socket, pulse, outbox: Vec::new() };
        let is_recorded = !ingest.cameras.options.record_below.is_empty();
        let mut door = Pushing { core: ingest.core, sending, is_recorded };
        let (intake, ended) = link.run(intake, &mut door, input).await;
        let is_orderly = matches!(ended, Ended::Closed(_));
        let finished = finish(ingest, intake, (is_recorded, is_orderly)).await;
        let ended = finished.err().map_or(ended, Ended::Failed);
        link.note_failure(name, &ended);
        self.note_end(ingest, ip, &ended);
    }

    fn note_end(&self, ingest: &Ingest, ip: Option<IpAddr>, ended: &Ended) {
        let (name, quality) = (&self.name, self.quality.word());
        if let Ended::Camera(error) = ended {
            return refuse(ingest, name, ip, error);
        }
        let Some(left_out) = line(ingest) else { return };
        match ended {
            Ended::Closed(_) => {
                tracing::info!(camera = name, quality, left_out, "a camera has ended")
            }
            Ended::Silent => {
                tracing::warn!(camera = name, quality, left_out, "a camera fell silent");
            }
            Ended::Stopped => {
                tracing::info!(camera = name, quality, left_out, "another one is in its place");
            }
            _ => tracing::info!(camera = name, quality, left_out, "a camera has gone"),
        }
    }
}

/// The end of the object, as far as whole pictures came.
async fn finish(
    ingest: &Ingest,
    intake: Intake<Pictures>,
    (is_recorded, is_orderly): (bool, bool),
) -> Result<(), UploadError> {
    let Intake { writer, watcher, .. } = intake;
    if let Watcher::H264(watch) = watcher
        && is_orderly
        && let Some((writer, watcher)) = watch.end()
    {
        if writer.object().is_unnamed() {
            let object = writer.object().clone();
            writer.end_unnamed();
            watcher.end(&object, ingest.core);
        } else {
            seal(ingest, writer, watcher).await?;
        }
    }
    if !is_recorded {
        writer.end_unnamed();
        return Ok(());
    }
    if writer.object().is_open() {
        seal(ingest, writer, Watcher::Nobody).await?;
    }
    Ok(())
}

struct Pushing {
    core: usize,
    sending: Sending,
    is_recorded: bool,
}

impl Door<Pictures> for Pushing {
    async fn beat(&mut self, _intake: &Intake<Pictures>) -> Vec<u8> {
        Vec::new()
    }

    fn note(&mut self, intake: &mut Intake<Pictures>, messages: u64) {
        if messages == 0 {
            return;
        }
        self.sending.note_picture(clock::unix_ms());
        let object = Arc::clone(intake.writer.object());
        let (first, _) = object.messages();
        if let MessageLook::Here(message) = object.message(first)
            && !self.is_recorded
        {
            intake.writer.trim(message.start);
        }
    }

    fn beat_bytes(&self) -> u64 {
        u64::MAX
    }

    fn poll_stop(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.sending.poll_replaced(self.core, context)
    }
}
