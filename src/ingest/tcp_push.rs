//! Cameras that push over TCP, as MultiStreamingServer has them (a greeting, and a length before each
//! picture), or as they come, on a listener of their own.
//!
//! | a camera's connection is | left by |
//! |---|---|
//! | greeting | 12 bytes; the head's time-out; what no greeting may say |
//! | live: each picture is a message of an object | a length of 0, its going or silence, another camera in its place, what no camera may send, a failing disk |
//! | over | viewers wait for it a little |
//!
//! Nothing is ever said to a camera. What was wrong is said in the log.

use std::fmt::Display;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Ingest;
use super::camera_watch::{H264Watch, MovieUpload};
use super::messages_in::{Door, Ended, Intake, Link};
use super::pictures_in::Pictures;
use super::upload::{UploadError, Watcher, seal};
use crate::cameras::{Place, Push, Sending};
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::timers::Pulse;
use crate::store::{
    BeginError, Ending, MessageLook, MessageWindow, Millis, NewObject, ObjectInfo, Visibility,
    WriteRule, Writer,
};
use crate::wire::numbers::push_time;
use crate::wire::tcp_framing::{GREETING_BYTES, Greeting, PictureKind, PictureReader, Quality};

/// Nothing has to be said to a camera: its pulse only looks, so often, whether its object is open.
const LOOK_S: u64 = 60;

/// Take what a camera sends, to its end. The deadline is the greeting's.
pub async fn push(ingest: &Ingest, push: &Push, socket: &Socket, deadline: &Deadline) {
    let ip = socket.peer_ip().ok();
    let greeted = match push {
        Push::Raw(raw) => {
            let stream = Stream { name: raw.name.clone(), kind: raw.kind, quality: raw.quality };
            Some((stream, Vec::new()))
        }
        Push::Greeted => greeting(ingest, socket, ip).await,
    };
    deadline.clear();
    let Some((stream, input)) = greeted else { return };
    let place = match ingest.cameras.enter(&stream.name) {
        Ok(place) => place,
        Err(error) => return refuse(ingest, &stream.name, ip, &error),
    };
    deadline.phase(Phase::Uploading);
    let intake = match stream.begin(ingest, push).await {
        Ok(intake) => intake,
        Err(error) => {
            ingest.counters.add(Counter::StorageErrors, 1);
            return refuse(ingest, &stream.name, ip, &error);
        }
    };
    stream.run(ingest, (intake, place), input, socket).await;
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
    tracing::warn!(camera, ?ip, %why, "a camera was refused");
}

impl Stream {
    async fn begin(&self, ingest: &Ingest, push: &Push) -> Result<Intake<Pictures>, UploadError> {
        let options = &ingest.cameras.options;
        let mut writer = self.begin_object(ingest).await?;
        let bytes_max = options.window_bytes;
        writer.keep_messages(MessageWindow { bytes_max, count_max: usize::MAX });
        let bytes_max = options.picture_bytes_max;
        let framing = match (push, self.kind) {
            (Push::Greeted, _) => Pictures::Lengths(PictureReader::new(bytes_max)),
            (Push::Raw(_), PictureKind::Mjpeg) => Pictures::jpegs(bytes_max),
            (Push::Raw(_), PictureKind::H264) => Pictures::nal_units(bytes_max),
        };
        let watcher = match self.kind {
            PictureKind::Mjpeg => Watcher::Nobody,
            PictureKind::H264 => Watcher::H264(Box::new(self.h264_watch(ingest))),
        };
        Ok(Intake { writer, watcher, framing, is_refusal_fatal: false })
    }

    fn h264_watch(&self, ingest: &Ingest) -> H264Watch {
        let options = &ingest.cameras.options;
        let own_name = self.name.rsplit('/').next().unwrap_or(&self.name);
        let name = format!("{}{own_name}/{}.mp4", options.live_below, self.quality.word());
        let is_listed = !options.live_below.is_empty() && ingest.packager.is_live(&name);
        let (store, packager) = (ingest.store.clone(), ingest.packager.clone());
        let upload = is_listed.then(|| MovieUpload { store, packager, name, open: None });
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
        tracing::info!(camera = name, quality, kind = ?self.kind, ?ip, "a camera sends");
        let begun = (intake.writer.object().clone(), clock::unix_ms());
        let sending = place.send((self.kind, self.quality), begun, Some(ingest.core));
        let pulse = Pulse::new(LOOK_S, Some(ingest.cameras.options.silence_timeout_s));
        let mut link = Link { ingest, socket, pulse, outbox: Vec::new() };
        let is_recorded = !ingest.cameras.options.record_below.is_empty();
        let mut door = Pushing { core: ingest.core, sending, is_recorded };
        let (intake, ended) = link.run(intake, &mut door, input).await;
        let is_orderly = matches!(ended, Ended::Closed(_));
        let finished = finish(ingest, intake, (is_recorded, is_orderly)).await;
        let ended = finished.err().map_or(ended, Ended::Failed);
        link.note_failure(name, &ended);
        match &ended {
            Ended::Camera(error) => refuse(ingest, name, ip, error),
            Ended::Closed(_) => tracing::info!(camera = name, quality, "a camera has ended"),
            Ended::Silent => tracing::warn!(camera = name, quality, "a camera fell silent"),
            Ended::Stopped => tracing::info!(camera = name, quality, "another one is in its place"),
            _ => tracing::info!(camera = name, quality, "a camera has gone"),
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
        seal(ingest, writer, watcher).await?;
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
