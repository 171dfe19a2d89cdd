//! What a flight does, on the thread of [`Outside`]: ask the upstream, tell who waits as soon as there is
//! something to answer with, and take the body to its end.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::header::{self, CONTENT_ENCODING, HeaderMap, HeaderValue};
use rustix::fs::OFlags;
use tokio::time::{sleep, timeout};

use super::VIA;
use super::fetched::{Fetched, FetchedBody, Memory, Share, Times, passed_fields, validators_of};
use super::flight::{Failure, Flight, Outcome};
use super::freshness::{age_s, lifetime_s};
use super::http_client::{Answer, HttpError};
use super::section::{Section, Source};
use crate::runtime::clock;
use crate::store::{Object, ObjectInfo, Writer};
use crate::wire::media_type::{self, Class};
use crate::wire::upstream_url::HttpUrl;

/// The text of an error; a longer one is left out.
const ERROR_BYTES_MAX: usize = 16 << 10;
/// An answer of this length, or a manifest, is given when all of it is here: with length and tag.
const WHOLE_FIRST_BYTES_MAX: u64 = 64 << 10;
/// Manifests are held in memory, where they can be had in gzip; longer ones are not.
pub const MANIFEST_BYTES_MAX: usize = 1 << 20;
/// An answer counts for so many bytes more.
const ANSWER_COST_BYTES: u64 = 2 << 10;
/// Bytes of a file read in one piece.
const FILE_PIECE_BYTES: usize = 256 << 10;
const FILE_PIECES_WAITING_MAX: usize = 4;
/// So many looks in a row find no reader of what arrives: it is given up.
const ABANDONED_LOOKS: u32 = 8;
/// The status of a file that is not there.
const NOT_FOUND: u16 = 404;

/// Why a flight has brought nothing, or not all.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("it takes too long")]
    TooSlow,
    #[error("it answers {0}")]
    Status(u16),
    #[error("it has more than {0} bytes")]
    TooLarge(u64),
    #[error("no room is left for it: what arrives fills the cache")]
    CacheFull,
    #[error("it cannot be kept: {0}")]
    Storage(String),
    #[error("it cannot be read: {0}")]
    File(#[from] std::io::Error),
    #[error("it is no file")]
    NoFile,
    #[error("nobody reads it any more")]
    Abandoned,
}

impl FetchError {
    fn failure(&self, is_static: bool) -> Failure {
        match self {
            FetchError::Http(HttpError::TimedOut | HttpError::Silent) | FetchError::TooSlow => {
                if is_static {
                    Failure::TooSlow
                } else {
                    Failure::TimedOut
                }
            }
            FetchError::Http(HttpError::Unreachable(_)) => Failure::Unreachable,
            FetchError::Http(HttpError::Broken(_) | HttpError::Closed | HttpError::Redirects) => {
                Failure::Broken
            }
            FetchError::Status(401 | 407) => Failure::Refused,
            FetchError::Status(_) => Failure::Broken,
            FetchError::TooLarge(_) => Failure::TooLarge,
            FetchError::CacheFull | FetchError::Storage(_) | FetchError::Abandoned => {
                Failure::NoRoom
            }
            FetchError::File(_) | FetchError::NoFile => Failure::Unreachable,
        }
    }
}

/// An answer whose body arrives.
struct Arrival {
    writer: Writer,
    fetched: Arc<Fetched>,
    share: Arc<Share>,
    /// Where a small body goes at its end.
    memory: Arc<Memory>,
    /// The body, for as long as it is small.
    kept: Option<BytesMut>,
    kept_bytes_max: usize,
}

impl Arrival {
    fn keep(&mut self, piece: &[u8]) {
        let max = self.kept_bytes_max;
        self.kept = self.kept.take().filter(|kept| kept.len() + piece.len() <= max);
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(piece);
        }
    }

    /// All of it is here.
    fn end(self) {
        if let Some(kept) = self.kept {
            self.share.add(kept.len() as u64);
            // Before the seal: from then on a small body is wanted from memory.
            self.memory.fill(kept.freeze());
        }
        self.writer.end_unnamed();
    }
}

/// A flight on its way. Dropped, it has landed, whatever happened.
pub(super) struct UnderWay {
    section: Arc<Section>,
    key: String,
    flight: Arc<Flight>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.land(Outcome::Failed(Failure::Unreachable));
        self.section.table.lock().end_flight();
    }
}

impl UnderWay {
    pub(super) fn new(section: Arc<Section>, key: String, flight: Arc<Flight>) -> UnderWay {
        UnderWay { section, key, flight }
    }

    pub(super) async fn fly(self) {
        let section = &self.section;
        section.counts.fetches.fetch_add(1, Ordering::Relaxed);
        let previous = section.table.lock().previous(&self.key);
        let fetched = match &section.options.source {
            Source::File(path) => self.fetch_file(path).await,
            Source::Resource(url) => self.fetch(url.clone(), previous.as_ref()).await,
            Source::Folder(url) => {
                let url = HttpUrl { target: self.key.clone(), ..url.clone() };
                self.fetch(url, previous.as_ref()).await
            }
        };
        let fetched = fetched.and_then(|fetched| match fetched.status {
            500.. if section.options.is_static() && previous.is_some() => {
                Err(FetchError::Status(fetched.status))
            }
            _ => Ok(fetched),
        });
        match fetched {
            Ok(fetched) => {
                let is_theirs = fetched.status >= 500;
                section.note(is_theirs.then_some(&FetchError::Status(fetched.status) as _));
                self.land(Outcome::Answer(fetched));
            }
            Err(error) => self.fail(&error, previous),
        }
    }

    fn fail(&self, error: &FetchError, previous: Option<Arc<Fetched>>) {
        let section = &self.section;
        if matches!(error, FetchError::Abandoned) {
            // Not the upstream's fault. It has landed, so nobody waits for an outcome.
            section.counts.abandoned.fetch_add(1, Ordering::Relaxed);
            return;
        }
        section.counts.errors.fetch_add(1, Ordering::Relaxed);
        section.note(Some(error));
        let is_static = section.options.is_static();
        let now_ms = clock::tick_ms();
        let failed = Outcome::Failed(error.failure(is_static));
        match previous.filter(|previous| is_static && previous.may_stand_in(now_ms)) {
            None => self.land(failed),
            // Whoever waits gets the older answer, and the table knows of the failure.
            Some(previous) => {
                section.table.lock().land(&self.key, &failed, now_ms);
                self.flight.land(Outcome::Answer(previous), &section.store);
            }
        }
    }

    /// The first outcome counts.
    fn land(&self, outcome: Outcome) {
        if self.flight.outcome().is_some() {
            return;
        }
        let before = self.section.table.lock().land(&self.key, &outcome, clock::tick_ms());
        // Not under the lock: with it files may go.
        drop(before);
        self.flight.land(outcome, &self.section.store);
    }

    /// Ask, and take all of the answer; the flight may land before its end.
    async fn fetch(
        &self,
        url: HttpUrl,
        previous: Option<&Arc<Fetched>>,
    ) -> Result<Arc<Fetched>, FetchError> {
        let options = &self.section.options;
        let mut fields = vec![
            (header::VIA, HeaderValue::from_static(VIA)),
            (header::ACCEPT_ENCODING, HeaderValue::from_static("identity")),
        ];
        fields.extend(previous.into_iter().flat_map(|previous| previous.validators()).cloned());
        let client = self.section.outside.client();
        let answer = client.get(&url, &fields, options.timeout).await?;
        match (answer.status, previous) {
            // RFC 9110 §15.3.4: a proxy in between has changed it, and it is whole.
            (200 | 203, _) => self.receive(answer, &url).await,
            (304, Some(previous)) => {
                self.section.counts.confirmed.fetch_add(1, Ordering::Relaxed);
                let times = self.times(200, &answer.headers);
                // RFC 9111 §3.2: what it does not say again stays.
                let is_said = lifetime_s(&answer.headers).is_some();
                Ok(Arc::new(previous.renewed(times, is_said)))
            }
            (status @ (204 | 300 | 400..), _) if status != 401 && status != 407 => {
                self.receive_text(answer).await
            }
            (status, _) => Err(FetchError::Status(status)),
        }
    }

    fn times(&self, status: u16, headers: &HeaderMap) -> Times {
        let lifetime_s = self.section.options.lifetime_s(status, lifetime_s(headers));
        // What the operator says counts from now.
        let is_own_rule = self.section.options.cache_s.is_some();
        Times {
            received_ms: clock::tick_ms(),
            age_ms: if is_own_rule { 0 } else { age_s(headers) * 1000 },
            lifetime_ms: lifetime_s.saturating_mul(1000),
        }
    }

    /// What readers are told of an answer, beside its bytes.
    fn told_fields(&self, status: u16, headers: &HeaderMap) -> Vec<(String, String)> {
        let options = &self.section.options;
        let mut fields = passed_fields(headers, status);
        if options.is_static() {
            // Without its coding a body is not what its type says.
            let is_of_body = |name: &str| name.starts_with("Content-");
            fields.retain(|(name, _)| is_of_body(name));
        }
        if options.cache_s.is_some() {
            fields.retain(|(name, _)| name != "Cache-Control" && name != "Expires");
            let rule = format!("max-age={}", options.lifetime_s(status, None));
            fields.push(("Cache-Control".to_owned(), rule));
        }
        fields.push(("Via".to_owned(), VIA.to_owned()));
        fields
    }

    async fn receive_text(&self, mut answer: Answer) -> Result<Arc<Fetched>, FetchError> {
        let (status, silence) = (answer.status, self.section.options.timeout);
        let mut text = BytesMut::new();
        let received = timeout(silence, async {
            while let Some(piece) = answer.chunk(silence).await? {
                if text.len() + piece.len() > ERROR_BYTES_MAX {
                    text.clear();
                    break;
                }
                text.extend_from_slice(&piece);
            }
            Ok::<_, FetchError>(())
        });
        received.await.unwrap_or(Err(FetchError::TooSlow))?;
        self.text(status, &answer.headers, text.freeze())
    }

    fn text(
        &self,
        status: u16,
        headers: &HeaderMap,
        bytes: Bytes,
    ) -> Result<Arc<Fetched>, FetchError> {
        let share = self.share(bytes.len() as u64)?;
        let fields = self.told_fields(status, headers);
        let body = FetchedBody::Text { fields, bytes };
        let times = self.times(status, headers);
        Ok(Arc::new(Fetched::new(status, body, Vec::new(), times, share)))
    }

    fn share(&self, bytes: u64) -> Result<Arc<Share>, FetchError> {
        let share = Share::new(self.section.used.clone());
        let is_there_room = self.section.charge(&share, bytes + ANSWER_COST_BYTES);
        is_there_room.then_some(share).ok_or(FetchError::CacheFull)
    }

    async fn receive(&self, answer: Answer, url: &HttpUrl) -> Result<Arc<Fetched>, FetchError> {
        let options = &self.section.options;
        let length = answer.length();
        if length.is_some_and(|length| length > options.bytes_max) {
            return Err(FetchError::TooLarge(options.bytes_max));
        }
        let name = url.target.split('?').next().unwrap_or_default();
        let class = media_type::class_of(name, answer.field("content-type"));
        let is_whole_first = options.is_static()
            || class == Class::Manifest
            || length.is_some_and(|length| length <= WHOLE_FIRST_BYTES_MAX);
        let arrival = self.arrival(name, class, &answer.headers)?;
        let (fetched, silence) = (arrival.fetched.clone(), options.timeout);
        if is_whole_first {
            let received = timeout(options.timeout, self.take_body(answer, arrival, silence));
            received.await.unwrap_or(Err(FetchError::TooSlow))?;
            return Ok(fetched);
        }
        self.land(Outcome::Answer(fetched.clone()));
        let object = arrival.writer.object().clone();
        tokio::select! {
            taken = self.take_body(answer, arrival, silence) => taken?,
            () = until_abandoned(&object, options.timeout) => return Err(FetchError::Abandoned),
        }
        Ok(fetched)
    }

    /// An object for a body that begins.
    fn arrival(
        &self,
        name: &str,
        class: Class,
        headers: &HeaderMap,
    ) -> Result<Arrival, FetchError> {
        let section = &self.section;
        let share = self.share(0)?;
        let info = ObjectInfo {
            headers: self.told_fields(200, headers),
            created_ms: clock::unix_ms(),
            expires_ms: None,
        };
        let writer = section.store.begin_unnamed(name, info, None);
        let writer = writer.map_err(|error| FetchError::Storage(error.to_string()))?;
        let is_manifest = class == Class::Manifest && !headers.contains_key(CONTENT_ENCODING);
        let memory = Memory::new(is_manifest);
        let object = writer.object().clone();
        let body = FetchedBody::Object { object, memory: memory.clone() };
        let (validators, times) = (validators_of(headers), self.times(200, headers));
        let fetched = Arc::new(Fetched::new(200, body, validators, times, share.clone()));
        let small_bytes_max = section.options.small_bytes_max as usize;
        let kept_bytes_max =
            if is_manifest { small_bytes_max.max(MANIFEST_BYTES_MAX) } else { small_bytes_max };
        let kept = Some(BytesMut::new());
        Ok(Arrival { writer, fetched, share, memory, kept, kept_bytes_max })
    }

    async fn take_body(
        &self,
        mut answer: Answer,
        mut arrival: Arrival,
        silence: Duration,
    ) -> Result<(), FetchError> {
        while let Some(piece) = answer.chunk(silence).await? {
            self.take(&mut arrival, &piece)?;
        }
        arrival.end();
        Ok(())
    }

    fn take(&self, arrival: &mut Arrival, piece: &[u8]) -> Result<(), FetchError> {
        let section = &self.section;
        let bytes = piece.len() as u64;
        if arrival.writer.written() + bytes > section.options.bytes_max {
            return Err(FetchError::TooLarge(section.options.bytes_max));
        }
        if !section.charge(&arrival.share, bytes) {
            return Err(FetchError::CacheFull);
        }
        section.counts.bytes.fetch_add(bytes, Ordering::Relaxed);
        let appended = arrival.writer.append(&[IoSlice::new(piece)]);
        appended.map_err(|error| FetchError::Storage(error.to_string()))?;
        arrival.keep(piece);
        Ok(())
    }

    /// A file of this machine, on a thread that may wait for it.
    async fn fetch_file(&self, path: &Path) -> Result<Arc<Fetched>, FetchError> {
        let (options, headers) = (&self.section.options, HeaderMap::new());
        let name = path.to_string_lossy();
        let class = media_type::class_of(&name, None);
        let mut arrival = self.arrival(&name, class, &headers)?;
        let (path, bytes_max) = (path.to_owned(), options.bytes_max);
        let (sender, mut pieces) = tokio::sync::mpsc::channel(FILE_PIECES_WAITING_MAX);
        let taken = timeout(options.timeout, async {
            let turn = self.section.file_turn.clone().acquire_owned().await;
            let turn = turn.map_err(std::io::Error::other)?;
            let reading = self.section.outside.spawn_blocking(move || {
                let read = read_file(&path, bytes_max, |piece| sender.blocking_send(piece).is_ok());
                drop(turn);
                read
            });
            while let Some(piece) = pieces.recv().await {
                self.take(&mut arrival, &piece)?;
            }
            reading.await.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
        });
        match taken.await.unwrap_or(Err(FetchError::TooSlow)) {
            Ok(()) => {
                let fetched = arrival.fetched.clone();
                arrival.end();
                Ok(fetched)
            }
            Err(FetchError::File(error)) if is_absence(&error) => {
                self.text(NOT_FOUND, &headers, Bytes::new())
            }
            Err(error) => Err(error),
        }
    }
}

/// Ready when nobody has read it for so long: then its body is not worth a place among the flights.
async fn until_abandoned(object: &Object, patience: Duration) {
    let mut unread_looks = 0;
    while unread_looks < ABANDONED_LOOKS {
        sleep(patience / ABANDONED_LOOKS).await;
        unread_looks = if object.is_read() { 0 } else { unread_looks + 1 };
    }
}

/// Read an ordinary file in pieces, for as long as somebody takes them. A FIFO is not waited for.
fn read_file(
    path: &Path,
    bytes_max: u64,
    mut give: impl FnMut(Vec<u8>) -> bool,
) -> Result<(), FetchError> {
    let nonblocking = OFlags::NONBLOCK.bits() as i32;
    let mut file = File::options().read(true).custom_flags(nonblocking).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(FetchError::NoFile);
    }
    if metadata.len() > bytes_max {
        return Err(FetchError::TooLarge(bytes_max));
    }
    loop {
        let mut piece = vec![0; FILE_PIECE_BYTES];
        let count = file.read(&mut piece)?;
        piece.truncate(count);
        if count == 0 || !give(piece) {
            return Ok(());
        }
    }
}

fn is_absence(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..FILE_PIECE_BYTES * 2 + 7).map(|at| at as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mut got = Vec::new();
        let take = |piece: Vec<u8>| {
            got.extend(piece);
            true
        };
        read_file(&path, bytes.len() as u64, take).unwrap();
        assert_eq!(got, bytes);
        let read =
            |path: &Path, max| read_file(path, max, |_| true).map_err(|error| error.failure(true));
        assert_eq!(read(&path, bytes.len() as u64 - 1), Err(Failure::TooLarge));
        assert_eq!(read(folder.path(), 1000), Err(Failure::Unreachable));
        let fifo = folder.path().join("fifo");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(read(&fifo, 1000), Err(Failure::Unreachable), "nobody waits for it");
        for absent in ["none", "file/none"] {
            let Err(FetchError::File(error)) = read_file(&folder.path().join(absent), 1, |_| true)
            else {
                panic!("{absent} is there");
            };
            assert!(is_absence(&error), "{absent}: {error}");
        }
    }
}
