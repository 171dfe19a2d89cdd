//! Bodies on their way out: ranges of objects, views that gather slices of several, and segments in
//! progress. Heads are the doors' business; a head comes here as a prefix and leaves with the first
//! bytes of the body in one call.
//!
//! The path of a byte: bytes are sent from the mapping when their pages are in memory; otherwise they
//! are read into a registered buffer, behind the prefix, and sent from there. Slices that are all
//! there are gathered and leave together. An open object is sent from its mapping as it grows, a
//! chunk per append.
//!
//! | a transfer is at | left by |
//! |---|---|
//! | bytes of one reader | `Sender::frame` |
//! | a slice that is all there | `Sender::put_slice`: into the batch, which `flush_batch` sends |
//! | the tail of an object | `wait_at_tail`: news, or the peer is gone |
//! | the end of what a segment has yet | `wait_for_next`: news, or the peer is gone |
//! | the end of a piece | the next piece, or the end of the framing |
//! | an aborted, torn or lagged place | the connection is cut, so that nobody takes it for complete |

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;

use super::Egress;
use super::packets_out::PacketsOut;
use super::pictures_out::Pictures;
use crate::packager::{Growing, Next, Slice};
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::timers;
use crate::runtime::worker::yield_now;
use crate::store::{Available, Life, Object, Reader, StorageError};
use crate::wire::http1::{Chunk, LAST_CHUNK};

/// Bytes handed to the kernel in one call: what a core cache holds beside everything else.
pub(super) const SEND_BYTES_MAX: u64 = 1 << 19;
/// Slices gathered into one call.
const BATCH_SLICES_MAX: usize = 24;
/// Bytes sent without waiting before other tasks of the core have their turn. Short turns keep what is
/// in flight in the cache: 16 MiB objects leave at 12 GB/s so, at 7.5 with turns of 4 MiB.
const TURN_BYTES_MAX: u64 = 1 << 19;
/// A send takes as long as sending so many bytes, however few it has.
const SEND_COST_BYTES: usize = 1 << 10;
/// Bytes this close to the tail were just written: their pages are in memory.
const FRESH_BYTES: u64 = 8 << 20;
/// Heads that fit in front of the data in a registered buffer.
const PREFIX_BYTES_MAX: usize = 3 << 10;
/// Longer bytes that no object has are not copied behind the head.
const MADE_COPIED_BYTES_MAX: usize = 16 << 10;
/// What the kernel keeps for a camera's viewer beside what is under way: more would only make what it
/// sees older.
const UNSENT_BYTES: u32 = 128 << 10;
/// Times of `send_stall_timeout_s` in which such a viewer takes nothing, and yet answers.
const VIEWER_STALLS_MAX: u32 = 10;

/// A body that is sent by [`stream`].
pub struct Transfer {
    pub(super) body: Body,
    pub(super) framing: BodyFraming,
}

pub(super) enum Body {
    /// In this order.
    Pieces(Vec<Piece>),
    /// So many bytes of a segment in progress, or all that come.
    Growing { growing: Box<Growing>, bytes_max: u64 },
    /// The pictures of a camera.
    Pictures(Box<Pictures>),
    /// Those of a pulled stream.
    Packets(Box<PacketsOut>),
}

pub(super) enum Piece {
    /// Bytes that no object has.
    Made(Bytes),
    /// The bytes `[start, end)` of an object; one that is open is followed.
    Object { object: Arc<Object>, start: u64, end: u64 },
    /// Bytes that are all there, whatever becomes of their object.
    Slice(Slice),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFraming {
    Length,
    Chunked,
    UntilClose,
}

impl BodyFraming {
    /// What stands before and behind the data of one chunk.
    fn around(self, chunk: &Chunk) -> (&[u8], &'static [u8]) {
        match self {
            BodyFraming::Chunked => (chunk.as_bytes(), Chunk::END),
            BodyFraming::Length | BodyFraming::UntilClose => (&[], &[]),
        }
    }
}

impl Transfer {
    /// The body's end is the connection's end: HTTP/1.0.
    pub fn ends_by_close(&self) -> bool {
        self.framing == BodyFraming::UntilClose
    }

    /// It waits for bytes that are still to come.
    fn is_following(&self) -> bool {
        let is_open = |piece: &Piece| matches!(piece, Piece::Object { object, .. } if object.seal().is_none());
        match &self.body {
            Body::Pieces(pieces) => pieces.iter().any(is_open),
            Body::Growing { .. } | Body::Pictures(_) | Body::Packets(_) => true,
        }
    }
}

/// How a transfer ended.
#[derive(Debug)]
pub enum Ended {
    /// The framing was completed; the connection can go on if the head said so.
    Complete,
    /// The answer could not be completed: the connection must be closed.
    Cut(CutReason),
    /// The object cannot be read or is gone, and nothing was sent yet: there is room for an error.
    Unsent(CutReason),
}

#[derive(Debug)]
pub enum CutReason {
    /// The peer went away, or took nothing until its deadline.
    Peer,
    /// The upload was aborted.
    Aborted,
    /// The reader fell behind by more than it may.
    Lagged,
    Storage(StorageError),
}

/// Send `prefix` (the head) and then the body.
pub async fn stream(
    egress: &Egress,
    transfer: Transfer,
    prefix: Vec<u8>,
    socket: &Socket,
    deadline: &Deadline,
) -> Ended {
    deadline.phase(if transfer.is_following() { Phase::Following } else { Phase::Sending });
    let framing = transfer.framing;
    let mut sender = Sender::new(egress, socket, deadline, framing);
    sender.prefix = prefix;
    let outcome = send_body(&mut sender, transfer.body).await;
    deadline.clear();
    deadline.phase(Phase::Idle);
    let Err(reason) = outcome else {
        return Ended::Complete;
    };
    match &reason {
        CutReason::Aborted => egress.counters.add(Counter::ReadersCutAbort, 1),
        CutReason::Lagged => egress.counters.add(Counter::ReadersCutLag, 1),
        CutReason::Storage(_) => egress.counters.add(Counter::StorageErrors, 1),
        CutReason::Peer => {}
    }
    match reason {
        CutReason::Storage(_) | CutReason::Aborted if !sender.has_sent => {
            return Ended::Unsent(reason);
        }
        _ if framing == BodyFraming::UntilClose => socket.reset_on_close(),
        _ => {}
    }
    Ended::Cut(reason)
}

async fn send_body(sender: &mut Sender<'_>, body: Body) -> Result<(), CutReason> {
    // One readiness serves all waits for the peer's end.
    let socket = sender.socket;
    let mut peer_gone = pin!(socket.peer_gone());
    match body {
        Body::Pieces(pieces) => {
            for piece in pieces {
                match piece {
                    Piece::Made(bytes) => sender.put_made(&bytes).await?,
                    Piece::Slice(slice) => sender.put_slice(slice).await?,
                    Piece::Object { object, start, end } => {
                        let (store, core) = (&sender.egress.store, sender.egress.core);
                        let mut reader = Reader::new(store, object, core, start, end);
                        sender.follow(&mut reader, peer_gone.as_mut()).await?;
                    }
                }
            }
        }
        Body::Growing { growing, bytes_max } => {
            send_growing(sender, *growing, bytes_max, peer_gone.as_mut()).await?
        }
        Body::Pictures(pictures) => pictures.send(sender, peer_gone.as_mut()).await?,
        Body::Packets(packets) => packets.send(sender, peer_gone.as_mut()).await?,
    }
    sender.flush_batch().await?;
    if sender.framing == BodyFraming::Chunked {
        sender.prefix.extend_from_slice(LAST_CHUNK);
    }
    sender.flush_prefix().await
}

/// Send what a segment has, then what comes, up to `left` bytes or its end.
async fn send_growing(
    sender: &mut Sender<'_>,
    mut growing: Growing,
    mut left: u64,
    mut peer_gone: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), CutReason> {
    let core = sender.egress.core;
    while left > 0 {
        let now = std::future::poll_fn(|context| Poll::Ready(growing.poll_next(core, context)));
        let next = match now.await {
            Poll::Ready(next) => next,
            Poll::Pending => {
                // What was gathered goes out before anything is waited for.
                sender.flush_batch().await?;
                sender.flush_prefix().await?;
                // An encoder that went away without a word must not keep its readers for ever.
                sender.deadline.set(growing.silence_s_max);
                let next = wait_for_next(&mut growing, core, peer_gone.as_mut()).await?;
                sender.deadline.clear();
                next
            }
        };
        match next {
            Next::Made(bytes) => {
                let bytes =
                    bytes.slice(..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
                left -= bytes.len() as u64;
                sender.put_made(&bytes).await?;
            }
            Next::Slice(slice) => {
                let slice = first_bytes(slice, left);
                left -= slice.bytes();
                sender.put_slice(slice).await?;
            }
            Next::Arriving(slice) => {
                let slice = first_bytes(slice, left);
                left -= slice.bytes();
                send_arriving(sender, slice, peer_gone.as_mut()).await?;
            }
            Next::End => return Ok(()),
            Next::Torn => {
                sender.flush_batch().await?;
                return Err(CutReason::Aborted);
            }
        }
    }
    Ok(())
}

fn first_bytes(slice: Slice, bytes_max: u64) -> Slice {
    let end = slice.end.min(slice.start.saturating_add(bytes_max));
    Slice { end, ..slice }
}

/// Follow a chunk at the object's tail. Once all of it is there it is good, even if its upload is
/// torn before this reader has sent it.
async fn send_arriving(
    sender: &mut Sender<'_>,
    slice: Slice,
    peer_gone: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), CutReason> {
    let Slice { object, start, end } = slice;
    let (store, core) = (&sender.egress.store, sender.egress.core);
    let mut reader = Reader::new(store, object.clone(), core, start, end);
    let outcome = sender.follow(&mut reader, peer_gone).await;
    let start = reader.offset();
    match outcome {
        Err(CutReason::Aborted) if object.tail() >= end => {
            sender.lag_max = u64::MAX;
            sender.put_slice(Slice { object, start, end }).await
        }
        // The object ended in the middle of what it had promised.
        Ok(()) if start < end => Err(CutReason::Aborted),
        outcome => outcome,
    }
}

/// Wait for news of the object, or for the peer to go away.
async fn wait_at_tail(
    reader: &mut Reader,
    mut peer_gone: Pin<&mut impl Future<Output = ()>>,
) -> Result<(), CutReason> {
    std::future::poll_fn(|context| {
        if reader.poll_news(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        peer_gone.as_mut().poll(context).map(|()| Err(CutReason::Peer))
    })
    .await
}

/// Wait for the next bytes of a segment, or for the peer to go away.
async fn wait_for_next(
    growing: &mut Growing,
    core: usize,
    mut peer_gone: Pin<&mut impl Future<Output = ()>>,
) -> Result<Next, CutReason> {
    std::future::poll_fn(|context| {
        if let Poll::Ready(next) = growing.poll_next(core, context) {
            return Poll::Ready(Ok(next));
        }
        peer_gone.as_mut().poll(context).map(|()| Err(CutReason::Peer))
    })
    .await
}

/// Slices that leave in one call.
#[derive(Default)]
struct Batch {
    readers: Vec<Reader>,
    bytes: u64,
}

/// Sends frames: what stands before the data, the data, what stands behind it, in one call.
pub(super) struct Sender<'a> {
    pub(super) egress: &'a Egress,
    pub(super) socket: &'a Socket,
    deadline: &'a Deadline,
    framing: BodyFraming,
    /// Bytes that go out in front of the next data.
    pub(super) prefix: Vec<u8>,
    /// Goes out behind the prefix.
    batch: Batch,
    turn_bytes: u64,
    has_sent: bool,
    /// The peer may be as slow as it likes, as long as anything reaches it.
    is_patient: bool,
    /// Bytes behind the tail at which the reader is cut; the largest number for what is all there.
    pub(super) lag_max: u64,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        egress: &'a Egress,
        socket: &'a Socket,
        deadline: &'a Deadline,
        framing: BodyFraming,
    ) -> Sender<'a> {
        Sender {
            egress,
            socket,
            deadline,
            framing,
            prefix: Vec::new(),
            batch: Batch::default(),
            turn_bytes: 0,
            has_sent: false,
            is_patient: false,
            lag_max: u64::MAX,
        }
    }

    /// The peer watches a camera: little waits for it in the kernel, and however slowly it takes that, it
    /// is not thrown out.
    pub(super) fn serve_viewer(&mut self) {
        self.is_patient = true;
        self.socket.limit_unsent(UNSENT_BYTES);
        self.socket.allow_slow_peer();
    }

    pub(super) fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Bytes of the body that do not come from an object: framed like data.
    pub(super) async fn put_made(&mut self, bytes: &Bytes) -> Result<(), CutReason> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.flush_batch().await?;
        let chunk = Chunk::header(bytes.len() as u64);
        let (before, behind) = self.framing.around(&chunk);
        self.prefix.extend_from_slice(before);
        if bytes.len() <= MADE_COPIED_BYTES_MAX {
            self.prefix.extend_from_slice(bytes);
            self.prefix.extend_from_slice(behind);
            return Ok(());
        }
        let total = self.prefix.len() + bytes.len();
        let mut sent = 0;
        while sent < total {
            match send_from(self.socket, [&self.prefix[..], bytes], sent) {
                Ok(Some(bytes)) => sent += self.count(bytes),
                Ok(None) => self.wait_writable().await,
                Err(_) => return Err(CutReason::Peer),
            }
        }
        self.prefix = behind.to_vec();
        Ok(())
    }

    pub(super) async fn flush_prefix(&mut self) -> Result<(), CutReason> {
        let mut sent = 0;
        while sent < self.prefix.len() {
            match self.socket.try_send(&self.prefix[sent..]) {
                Ok(Some(bytes)) => sent += self.count(bytes),
                Ok(None) => self.wait_writable().await,
                Err(_) => return Err(CutReason::Peer),
            }
        }
        self.prefix = Vec::new();
        Ok(())
    }

    /// Send the next bytes in one frame; false if they reach into another extent.
    pub(super) async fn whole_frame(
        &mut self,
        reader: &mut Reader,
        bytes: u64,
    ) -> Result<bool, CutReason> {
        if lease(reader, bytes)?.len() as u64 != bytes {
            return Ok(false);
        }
        let stop = reader.offset() + bytes;
        while reader.offset() < stop {
            let left = stop - reader.offset();
            self.frame(reader, left).await?;
        }
        Ok(true)
    }

    /// Wait for news of an open object, or for the peer to go away.
    pub(super) async fn wait_at_tail(
        &mut self,
        reader: &mut Reader,
        peer_gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), CutReason> {
        self.turn_bytes = 0;
        wait_at_tail(reader, peer_gone).await
    }

    /// Send a slice that is all there: with others, if it fits and its pages are in memory.
    pub(super) async fn put_slice(&mut self, slice: Slice) -> Result<(), CutReason> {
        let bytes = slice.bytes();
        if bytes == 0 {
            return Ok(());
        }
        let (store, core) = (&self.egress.store, self.egress.core);
        let mut reader = Reader::of_view(store, slice.object, core, slice.start, slice.end);
        let here = lease(&mut reader, SEND_BYTES_MAX)?.len() as u64;
        if here < bytes || self.is_cold(&mut reader, bytes) {
            self.flush_batch().await?;
            while let Available::Bytes(_) = reader.available() {
                self.frame(&mut reader, SEND_BYTES_MAX).await?;
            }
            return Ok(());
        }
        let is_full = self.batch.readers.len() == BATCH_SLICES_MAX;
        if is_full || self.batch.bytes + bytes > SEND_BYTES_MAX {
            self.flush_batch().await?;
        }
        self.batch.readers.push(reader);
        self.batch.bytes += bytes;
        Ok(())
    }

    /// Send prefix and batch.
    pub(super) async fn flush_batch(&mut self) -> Result<(), CutReason> {
        if self.batch.bytes == 0 {
            return Ok(());
        }
        self.give_turn().await;
        let Batch { mut readers, bytes } = std::mem::take(&mut self.batch);
        let chunk = Chunk::header(bytes);
        let (before, behind) = self.framing.around(&chunk);
        let total = self.prefix.len() + before.len() + bytes as usize + behind.len();
        let mut sent = 0;
        while sent < total {
            match self.try_send_batch(&mut readers, (before, behind), sent)? {
                Some(bytes) => sent += self.count(bytes),
                None => self.wait_writable().await,
            }
        }
        self.prefix = Vec::new();
        Ok(())
    }

    fn try_send_batch(
        &self,
        readers: &mut [Reader],
        (before, behind): (&[u8], &[u8]),
        skip: usize,
    ) -> Result<Option<usize>, CutReason> {
        let mut pieces: [&[u8]; BATCH_SLICES_MAX + 3] = [&[]; BATCH_SLICES_MAX + 3];
        (pieces[0], pieces[1]) = (&self.prefix, before);
        let count = readers.len();
        for (piece, reader) in pieces[2..].iter_mut().zip(readers) {
            *piece = lease(reader, SEND_BYTES_MAX)?;
        }
        pieces[2 + count] = behind;
        send_from(self.socket, pieces, skip).map_err(send_error)
    }

    /// Send what a reader has, and what comes, to its limit or to the object's end.
    async fn follow(
        &mut self,
        reader: &mut Reader,
        mut peer_gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), CutReason> {
        self.flush_batch().await?;
        self.lag_max = u64::MAX;
        self.note_lag(reader);
        loop {
            match reader.available() {
                Available::Bytes(_) => self.frame(reader, SEND_BYTES_MAX).await?,
                Available::AtTail => {
                    self.flush_prefix().await?;
                    wait_at_tail(reader, peer_gone.as_mut()).await?;
                }
                Available::End => {
                    self.lag_max = u64::MAX;
                    return Ok(());
                }
                Available::Aborted => return Err(CutReason::Aborted),
                Available::Lagged => return Err(CutReason::Lagged),
            }
            self.note_lag(reader);
        }
    }

    /// A late joiner starts far behind: only what it loses from there on counts.
    pub(super) fn note_lag(&mut self, reader: &Reader) {
        let max = self.egress.options.lag_bytes_max;
        self.lag_max = self.lag_max.min(reader.lag_bytes().saturating_add(max));
    }

    /// Begin a frame of `bytes` bytes, which are all available: its head goes out with the first of
    /// them, now if nothing is in the way. True if all of it went out; otherwise `frame` sends the rest,
    /// and what is left of the head goes in front of that.
    ///
    /// Most frames leave here, and touch nothing of what a longer sending keeps: that is 7 % of a
    /// delivery's CPU.
    pub(super) fn begin_frame(
        &mut self,
        head: [&[u8]; 2],
        reader: &mut Reader,
        bytes: u64,
    ) -> Result<bool, CutReason> {
        let ahead = self.prefix.len() + head[0].len() + head[1].len();
        let is_my_turn = self.turn_bytes <= TURN_BYTES_MAX && bytes <= SEND_BYTES_MAX;
        let may_send = is_my_turn && !self.is_cold(reader, bytes);
        let data = if may_send && bytes > 0 { lease(reader, bytes)? } else { &[] };
        let mut sent = 0;
        if may_send && data.len() as u64 == bytes {
            let outcome = send_from(self.socket, [&self.prefix, head[0], head[1], data], 0);
            sent = outcome.map_err(send_error)?.unwrap_or(0);
            self.count(sent);
        }
        reader.advance(sent.saturating_sub(ahead) as u64);
        if sent < ahead {
            self.prefix.extend_from_slice(head[0]);
            self.prefix.extend_from_slice(head[1]);
            self.prefix.drain(..sent);
        } else if !self.prefix.is_empty() {
            self.prefix = Vec::new();
        }
        Ok(sent as u64 == ahead as u64 + bytes)
    }

    /// Send the next available bytes of one reader with their framing, at most so many.
    pub(super) async fn frame(
        &mut self,
        reader: &mut Reader,
        bytes_max: u64,
    ) -> Result<(), CutReason> {
        self.give_turn().await;
        let len = lease(reader, bytes_max.min(SEND_BYTES_MAX))?.len() as u64;
        let cold = self.is_cold(reader, len);
        let (len, sent) = if cold { self.send_read(reader, len).await? } else { (len, 0) };
        self.send_mapped(reader, len, sent).await?;
        reader.advance(len);
        Ok(())
    }

    /// Send the next `bytes` bytes, which were appended lately, with something around them that is no
    /// frame of the body: `prefix` and this head before them, `behind` right behind them.
    pub(super) async fn enclosed(
        &mut self,
        head: &[u8],
        (reader, bytes): (&mut Reader, u64),
        behind: &[u8],
    ) -> Result<(), CutReason> {
        self.prefix.extend_from_slice(head);
        let stop = reader.offset() + bytes;
        loop {
            self.give_turn().await;
            let left = (stop - reader.offset()).min(SEND_BYTES_MAX);
            let len = lease(reader, left)?.len() as u64;
            let is_last = reader.offset() + len == stop;
            let behind = if is_last { behind } else { &[] };
            let total = self.prefix.len() + len as usize + behind.len();
            let mut sent = 0;
            while sent < total {
                let data = lease(reader, len)?;
                match send_from(self.socket, [&self.prefix, data, behind], sent) {
                    Ok(Some(bytes)) => sent += self.count(bytes),
                    Ok(None) => self.wait_writable().await,
                    Err(error) => return Err(send_error(error)),
                }
            }
            self.prefix.clear();
            reader.advance(len);
            if is_last {
                return Ok(());
            }
        }
    }

    /// Let other tasks have their turn, if this one has sent much without waiting.
    pub(super) async fn give_turn(&mut self) {
        if self.turn_bytes > TURN_BYTES_MAX {
            self.turn_bytes = 0;
            yield_now().await;
        }
    }

    /// Sending the next `len` bytes from the mapping might wait for the disk.
    fn is_cold(&self, reader: &mut Reader, len: u64) -> bool {
        let is_fresh = reader.object().seal().is_none() && reader.lag_bytes() < FRESH_BYTES;
        !is_fresh && !reader.is_resident(len) && !self.egress.store.is_memory_only()
    }

    /// Read cold bytes into a registered buffer and send what the kernel takes of it. Returns the
    /// bytes read, and how much of prefix, framing and data was sent: the pages are in memory now,
    /// so the rest goes from the mapping, and the buffer never waits for a slow peer.
    async fn send_read(
        &mut self,
        reader: &mut Reader,
        len: u64,
    ) -> Result<(u64, usize), CutReason> {
        if self.prefix.len() > PREFIX_BYTES_MAX {
            self.flush_prefix().await?;
        }
        let at = reader.read_at(len).map_err(CutReason::Storage)?;
        self.egress.counters.add(Counter::FileReads, 1);
        let read = self.egress.ring.read(at.file, at.offset, at.len as usize).await;
        let mut buffer = read.map_err(|error| CutReason::Storage(error.into()))?;
        let got = buffer.bytes().len() as u64;
        if got == 0 {
            return Err(CutReason::Storage(StorageError::Changed));
        }
        if self.framing == BodyFraming::Chunked {
            buffer.put_before(Chunk::header(got).as_bytes());
            buffer.put_behind(Chunk::END);
        }
        buffer.put_before(&self.prefix);
        match self.socket.try_send(buffer.bytes()) {
            Ok(sent) => Ok((got, self.count(sent.unwrap_or(0)))),
            Err(_) => Err(CutReason::Peer),
        }
    }

    /// Send prefix, framing and `len` bytes from the mapping, of which `sent` are sent already.
    async fn send_mapped(
        &mut self,
        reader: &mut Reader,
        len: u64,
        mut sent: usize,
    ) -> Result<(), CutReason> {
        let chunk = Chunk::header(len);
        let (before, behind) = self.framing.around(&chunk);
        let total = self.prefix.len() + before.len() + len as usize + behind.len();
        while sent < total {
            let data = lease(reader, len)?;
            let outcome = send_from(self.socket, [&self.prefix, before, data, behind], sent);
            match outcome.map_err(send_error)? {
                Some(bytes) => sent += self.count(bytes),
                None => self.wait_writable_or_lag(reader).await?,
            }
        }
        if !self.prefix.is_empty() {
            self.prefix = Vec::new();
        }
        Ok(())
    }

    async fn wait_writable(&mut self) {
        self.turn_bytes = 0;
        if self.is_patient {
            return self.wait_for_viewer().await;
        }
        self.deadline.set(self.egress.options.send_stall_timeout_s);
        self.socket.writable().await;
        self.deadline.clear();
    }

    /// As `wait_writable`. The kernel finds room only when a good part of what waits was acknowledged, and
    /// the peer's kernel makes room in steps of up to 64 KiB: a viewer that reads little has not stalled
    /// while anything was acknowledged now and then. One that answers nothing has.
    async fn wait_for_viewer(&mut self) {
        let stall_s = self.egress.options.send_stall_timeout_s;
        let stall_ms = u32::try_from(stall_s.saturating_mul(1000)).unwrap_or(u32::MAX);
        let (mut before, mut stalls) = (self.socket.unacknowledged(), 0);
        let stall = Duration::from_secs(stall_s);
        while timers::within(stall, self.socket.writable()).await.is_none() {
            let now = self.socket.unacknowledged();
            stalls = if now < before { 0 } else { stalls + 1 };
            before = now;
            if stalls >= VIEWER_STALLS_MAX || self.socket.is_unanswered(stall_ms) {
                self.egress.counters.add(Counter::ConnectionsTimedOut, 1);
                // The next send says so.
                return self.socket.shut();
            }
        }
    }

    /// As `wait_writable`, with an eye on how far an open object runs ahead.
    async fn wait_writable_or_lag(&mut self, reader: &mut Reader) -> Result<(), CutReason> {
        if self.lag_max == u64::MAX || reader.object().seal().is_some() {
            self.wait_writable().await;
            return Ok(());
        }
        self.turn_bytes = 0;
        self.deadline.set(self.egress.options.send_stall_timeout_s);
        let mut writable = pin!(self.socket.writable());
        let outcome = std::future::poll_fn(|context| {
            reader.wake_at_growth(context);
            if reader.lag_bytes() > self.lag_max {
                return Poll::Ready(Err(CutReason::Lagged));
            }
            writable.as_mut().poll(context).map(Ok)
        })
        .await;
        self.deadline.clear();
        outcome
    }

    fn count(&mut self, bytes: usize) -> usize {
        self.turn_bytes += bytes.max(SEND_COST_BYTES) as u64;
        self.has_sent |= bytes > 0;
        self.egress.counters.add(Counter::BytesOut, bytes as u64);
        bytes
    }
}

/// A reader's next bytes. That they were trimmed away, or their upload aborted, since the reader
/// looked is no fault of the storage.
fn lease(reader: &mut Reader, bytes_max: u64) -> Result<&[u8], CutReason> {
    let is_behind = reader.offset() < reader.object().head();
    let is_torn = !matches!(reader.object().life(), Life::Open | Life::Sealed);
    reader.mapped(bytes_max).map_err(|error| match error {
        StorageError::Changed if is_behind => CutReason::Lagged,
        StorageError::Changed if is_torn => CutReason::Aborted,
        error => CutReason::Storage(error),
    })
}

/// EFAULT says that a mapped page cannot be had: the file was cut below us, or the disk failed.
fn send_error(error: io::Error) -> CutReason {
    if rustix::io::Errno::from_io_error(&error) == Some(rustix::io::Errno::FAULT) {
        CutReason::Storage(StorageError::Io(error))
    } else {
        CutReason::Peer
    }
}

/// Send the pieces from byte `skip` on.
fn send_from<const N: usize>(
    socket: &Socket,
    pieces: [&[u8]; N],
    mut skip: usize,
) -> io::Result<Option<usize>> {
    let mut slices = [IoSlice::new(&[]); N];
    let mut used = 0;
    for piece in pieces {
        let now = skip.min(piece.len());
        skip -= now;
        if now < piece.len() {
            slices[used] = IoSlice::new(&piece[now..]);
            used += 1;
        }
    }
    socket.try_send_pieces(&slices[..used])
}
