//! PUT and POST: a request body becomes an object.
//!
//! The path of a byte: received into the core's buffer, unframed in place, written to the extent's
//! file (and so into the page cache that readers are sent from), then the tail moves and readers are
//! woken. The buffer belongs to no connection: receive, unframe and write happen without a wait.
//! Below a live prefix the packager's feed looks at the bytes last; it may refuse them.

use std::io::IoSlice;

use httparse::Header;

use super::upload::{STORED_BYTES_MAX, UploadError, Watcher, seal};
use super::{Ingest, Options, TURN_BYTES_MAX};
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::worker::yield_now;
use crate::store::{
    Ending, MessageEnd, MessageKind, NewObject, ObjectInfo, Partial, Visibility, WriteError,
    WriteRule, Writer,
};
use crate::wire::http1::{BodyDecoder, Framing};
use crate::wire::media_type::{self, Class};
use crate::wire::websocket::Utf8;

/// Header fields kept from every upload. Credentials and hop-by-hop fields are not among them.
const STORED_HEADERS: [&str; 5] = [
    "Content-Type",
    "Cache-Control",
    "Content-Encoding",
    "Content-Language",
    "Content-Disposition",
];

/// Never kept, whatever the configuration says.
const SECRET_HEADERS: [&str; 4] = ["Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie"];

/// Sent when the uploader waits for it (RFC 9110 §10.1.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// An upload that a request asks for.
pub struct Upload {
    name: String,
    info: ObjectInfo,
    framing: Framing,
    /// 100-continue has to be sent before anything is received.
    expects_continue: bool,
}

/// A completed upload.
pub struct Received {
    pub outcome: Outcome,
    /// Bytes behind the body: the next request.
    pub leftover: Vec<u8>,
}

pub enum Outcome {
    Created {
        etag: String,
    },
    Replaced {
        etag: String,
    },
    /// An empty body below a live prefix: an encoder that only asks whether it may come (DASH-IF Live
    /// Media Ingest). There is no object.
    Probed,
}

/// What a request asks to upload; nothing is touched yet.
pub fn plan(
    options: &Options,
    name: &str,
    headers: &[Header<'_>],
    framing: Framing,
    expects_continue: bool,
) -> Result<Upload, UploadError> {
    if matches!(framing, Framing::Length(length) if length > options.object_bytes_max) {
        return Err(WriteError::TooLarge.into());
    }
    let info = object_info(options, headers)?;
    Ok(Upload { name: name.to_owned(), info, framing, expects_continue })
}

fn object_info(options: &Options, headers: &[Header<'_>]) -> Result<ObjectInfo, UploadError> {
    let mut info = ObjectInfo { created_ms: clock::unix_ms(), ..ObjectInfo::default() };
    let mut bytes = 0;
    for header in headers {
        if !is_stored(options, header.name) || info.header(header.name).is_some() {
            continue;
        }
        // What is not text cannot be replayed safely.
        let Ok(value) = std::str::from_utf8(header.value) else {
            continue;
        };
        bytes += header.name.len() + value.len();
        if bytes > STORED_BYTES_MAX {
            return Err(UploadError::StoredHeadersTooLarge);
        }
        info.headers.push((header.name.to_owned(), value.to_owned()));
    }
    if options.delete_expired
        && let Some(max_age_s) = info.header("Cache-Control").and_then(max_age)
    {
        info.expires_ms = Some(info.created_ms.saturating_add(max_age_s.saturating_mul(1000)));
    }
    Ok(info)
}

fn is_stored(options: &Options, name: &str) -> bool {
    let is = |known: &&str| known.eq_ignore_ascii_case(name);
    if SECRET_HEADERS.iter().any(is) {
        return false;
    }
    let matches = |wanted: &String| match wanted.strip_suffix('-') {
        Some(_) => name.get(..wanted.len()).is_some_and(|start| start.eq_ignore_ascii_case(wanted)),
        None => wanted.eq_ignore_ascii_case(name),
    };
    STORED_HEADERS.iter().any(is) || options.stored_headers.iter().any(matches)
}

/// The number of seconds in `max-age=N` (RFC 9111 §5.2.2.1).
fn max_age(cache_control: &str) -> Option<u64> {
    let directives = cache_control.split(',').map(str::trim);
    let value = directives.filter_map(|directive| directive.split_once('=')).find_map(
        |(name, value)| name.eq_ignore_ascii_case("max-age").then_some(value.trim_matches('"')),
    )?;
    value.parse().ok()
}

impl Upload {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole request is here, and its body is empty. Returns what follows it.
    fn probe(&self, input: &[u8]) -> Option<Vec<u8>> {
        let mut decoder = BodyDecoder::new(self.framing);
        let mut is_empty = true;
        let progress = decoder.decode(input, &mut |_| is_empty = false).ok()?;
        (progress.finished && is_empty).then(|| input[progress.consumed..].to_vec())
    }

    /// Open the object, if the packager wants it.
    async fn begin(self, ingest: &Ingest) -> Result<Receiving, UploadError> {
        let feed = ingest.packager.feed(&self.name).map_err(UploadError::Refused)?;
        let class = media_type::class_of(&self.name, self.info.header("Content-Type"));
        let visibility =
            if class == Class::Manifest { Visibility::WhenSealed } else { Visibility::AtOnce };
        let (store, core) = (ingest.store.clone(), Some(ingest.core));
        let begin = move || {
            let rule = WriteRule::TakeOver;
            let ending = Ending::Torn;
            store.begin(NewObject {
                name: &self.name,
                info: self.info,
                visibility,
                rule,
                ending,
                core,
            })
        };
        let writer = ingest.disk.run(begin).await?;
        let watcher = Watcher::new(feed, class);
        let decoder = BodyDecoder::new(self.framing);
        Ok(Receiving { writer, decoder, watcher, utf8: Utf8::default() })
    }
}

/// Receive the body to its end and seal the object. `input` is what arrived behind the head.
pub async fn receive(
    ingest: &Ingest,
    upload: Upload,
    input: Vec<u8>,
    socket: &Socket,
    deadline: &Deadline,
) -> Result<Received, UploadError> {
    deadline.phase(Phase::Uploading);
    let is_live = ingest.packager.is_live(&upload.name);
    if let Some(leftover) = upload.probe(&input).filter(|_| is_live) {
        return Ok(Received { outcome: Outcome::Probed, leftover });
    }
    let expects_continue = upload.expects_continue;
    let mut receiving = upload.begin(ingest).await?;
    if expects_continue && input.is_empty() && !receiving.decoder.is_finished() {
        // A dozen bytes on a connection that was idle: they fit the socket's buffer.
        socket.try_send(CONTINUE).map_err(|_| UploadError::PeerGone)?;
    }
    let consumed = receiving.take(ingest, &input)?;
    let mut leftover = input[consumed..].to_vec();
    drop(input);
    let mut turn_start = receiving.writer.object().tail();
    deadline.set(ingest.options.body_idle_timeout_s);
    while !receiving.decoder.is_finished() {
        if receiving.writer.object().tail() - turn_start > TURN_BYTES_MAX {
            // A fast uploader never makes its core wait: let the others have their turn.
            turn_start = receiving.writer.object().tail();
            deadline.set(ingest.options.body_idle_timeout_s);
            yield_now().await;
        }
        if ingest.disk.is_wary() {
            receiving = receiving.receive_aside(ingest, socket, deadline, &mut leftover).await?;
            continue;
        }
        match receiving.receive_some(ingest, socket)? {
            Some(behind) => leftover = behind,
            None => wait_for_bytes(ingest, socket, deadline).await,
        }
    }
    deadline.clear();
    if is_live && receiving.writer.object().tail() == 0 {
        // A probe after all: dropped unfinished, its object is gone.
        return Ok(Received { outcome: Outcome::Probed, leftover });
    }
    let sealed = seal(ingest, receiving.writer, receiving.watcher).await?;
    let etag = sealed.etag;
    let outcome =
        if sealed.replaced { Outcome::Replaced { etag } } else { Outcome::Created { etag } };
    Ok(Received { outcome, leftover })
}

async fn wait_for_bytes(ingest: &Ingest, socket: &Socket, deadline: &Deadline) {
    deadline.set(ingest.options.body_idle_timeout_s);
    socket.readable().await;
}

/// An upload under way.
struct Receiving {
    writer: Writer,
    decoder: BodyDecoder,
    watcher: Watcher,
    /// Whether followers may have it as text.
    utf8: Utf8,
}

impl Receiving {
    /// Receive once and append. `Some` is what lay behind the body; `None` says that nothing has
    /// arrived.
    fn receive_some(
        &mut self,
        ingest: &Ingest,
        socket: &Socket,
    ) -> Result<Option<Vec<u8>>, UploadError> {
        let mut buffer = ingest.receive_buffer.borrow_mut();
        let Some(got) = receive_into(socket, &mut buffer)? else { return Ok(None) };
        let consumed = self.take(ingest, &buffer[..got])?;
        Ok(Some(buffer[consumed..got].to_vec()))
    }

    /// As `receive_some` and the wait, with the write on another thread: the disk is slow.
    async fn receive_aside(
        mut self,
        ingest: &Ingest,
        socket: &Socket,
        deadline: &Deadline,
        leftover: &mut Vec<u8>,
    ) -> Result<Receiving, UploadError> {
        let mut buffer = ingest.aside.take().await;
        let Some(got) = receive_into(socket, &mut buffer.bytes)? else {
            drop(buffer);
            wait_for_bytes(ingest, socket, deadline).await;
            return Ok(self);
        };
        // The peer is not waited for now, the disk is.
        deadline.clear();
        let before = self.writer.object().tail();
        self.writer.move_to(None);
        let input = buffer.lend();
        let (mut receiving, outcome, input) = ingest
            .disk
            .run(move || {
                let outcome = self.append(&input[..got]);
                (self, outcome, input)
            })
            .await;
        ingest.counters.add(Counter::BytesIn, receiving.writer.object().tail() - before);
        receiving.writer.move_to(Some(ingest.core));
        buffer.bytes = input;
        *leftover = buffer.bytes[outcome?..got].to_vec();
        Ok(receiving)
    }

    /// Unframe and append on this core; returns how much of the input belonged to the body.
    fn take(&mut self, ingest: &Ingest, input: &[u8]) -> Result<usize, UploadError> {
        let before = self.writer.object().tail();
        let outcome = ingest.disk.run_here(|| self.append(input));
        ingest.counters.add(Counter::BytesIn, self.writer.object().tail() - before);
        outcome
    }

    fn append(&mut self, input: &[u8]) -> Result<usize, UploadError> {
        let mut pieces = Vec::new();
        let progress = self.decoder.decode(input, &mut |piece| pieces.push(IoSlice::new(piece)));
        self.append_pieces(&pieces)?;
        pieces.iter().try_for_each(|piece| self.watcher.note(piece, &mut self.writer))?;
        // Bytes in front of a framing error were accepted; readers saw them, then the abort.
        Ok(progress?.consumed)
    }
}

impl Receiving {
    /// What came at once is one message for followers through a WebSocket, text as long as all is.
    fn append_pieces(&mut self, pieces: &[IoSlice<'_>]) -> Result<(), UploadError> {
        if pieces.is_empty() {
            return Ok(());
        }
        let bytes: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
        let offset = self.writer.written() + bytes;
        let is_text = self.utf8.is_valid() && pieces.iter().all(|piece| self.utf8.push(piece));
        let kind = if is_text {
            let pending = self.utf8.pending();
            self.writer.set_text_end(offset - u64::from(pending));
            MessageKind::Text { pending }
        } else {
            MessageKind::Binary
        };
        let end = MessageEnd { offset, kind };
        Ok(self.writer.append_messages(pieces, &[end], Partial::Visible)?)
    }
}

/// Bytes received; `None` if there are none now.
fn receive_into(socket: &Socket, buffer: &mut [u8]) -> Result<Option<usize>, UploadError> {
    match socket.try_recv(buffer) {
        Ok(Some(0)) | Err(_) => Err(UploadError::PeerGone),
        Ok(got) => Ok(got),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(stored: &[&str]) -> Options {
        Options {
            stored_headers: stored.iter().map(|name| (*name).to_owned()).collect(),
            delete_expired: true,
            is_durable: false,
            object_bytes_max: 1 << 40,
            body_idle_timeout_s: 1,
            ping_interval_s: 1,
            append_idle_timeout_s: 1,
            append_message_bytes_max: 1,
        }
    }

    #[test]
    fn credentials_are_never_stored() {
        let options = options(&["X-Id", "Joc-", "authorization", "Cookie"]);
        let stored = ["content-type", "Cache-Control", "x-id", "Joc-Seq-Id", "JOC-A"];
        let dropped = ["Authorization", "Cookie", "Host", "User-Agent", "X-Other", "Jo"];
        assert!(stored.iter().all(|name| is_stored(&options, name)));
        assert!(!dropped.iter().any(|name| is_stored(&options, name)));
    }

    #[test]
    fn max_age_sets_the_expiry() {
        assert_eq!(max_age("public, max-age=60"), Some(60));
        assert_eq!(max_age("Max-Age=\"5\""), Some(5));
        assert_eq!(max_age("s-maxage=60"), None);
        assert_eq!(max_age("max-age=x"), None);
        let headers = [Header { name: "Cache-Control", value: b"max-age=2" }];
        let info = object_info(&options(&[]), &headers).unwrap();
        assert_eq!(info.expires_ms, Some(info.created_ms + 2000));
    }
}
