//! A pulled transport stream on its way out: whole packets only, from a place where decoders may begin.
//!
//! | a reader is at | left by |
//! |---|---|
//! | the place where it joined | the first place behind where a decoder may begin; after a while without one: from here; the end of its object: the next one |
//! | packets | the packets |
//! | the tail | more of them, its own going, or the stream's end |
//! | too far behind | the newest place where a decoder may begin |
//! | the end of an object: its upstream was lost | the next object, with packets that say so; `hold_over_s` is over: the end |

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use super::transfer::{CutReason, SEND_BYTES_MAX, Sender};
use crate::packager::Slice;
use crate::pulls::{Reading, Start};
use crate::runtime::counters::Counter;
use crate::runtime::timers;
use crate::store::{Available, Object, Reader};
use crate::wire::mpegts::PACKET_BYTES;

const PACKET: u64 = PACKET_BYTES as u64;
/// Sent at once: whole packets.
const RUN_BYTES_MAX: u64 = SEND_BYTES_MAX / PACKET * PACKET;
/// A stream without a program in so long has no place to begin.
const PROGRAM_WAIT: Duration = Duration::from_secs(2);
/// One with a program is expected to name a place in so long.
const START_WAIT: Duration = Duration::from_secs(20);
/// What was sent is added to the stream's figures each so many bytes.
const NOTE_BYTES: u64 = 64 << 10;

/// What a reader gets.
pub(super) struct PacketsOut {
    reading: Reading,
    /// It has packets, to which a gap must be said.
    has_begun: bool,
    /// Not yet among the stream's figures.
    sent: u64,
}

/// Why an object is left.
enum Left {
    Ended,
    Off,
}

impl PacketsOut {
    pub(super) fn new(reading: Reading) -> PacketsOut {
        PacketsOut { reading, has_begun: false, sent: 0 }
    }

    pub(super) async fn send(
        mut self,
        sender: &mut Sender<'_>,
        mut peer_gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), CutReason> {
        sender.put_made(&self.reading.pull.options.preamble.clone()).await?;
        sender.flush_prefix().await?;
        loop {
            match self.follow(sender, peer_gone.as_mut()).await? {
                Left::Off => return Ok(()),
                Left::Ended => {}
            }
            sender.flush_prefix().await?;
            let (mut news, core) = (self.reading.pull.news(), sender.egress.core);
            let patience = self.reading.pull.options.hold_over;
            let next = std::future::poll_fn(|context| {
                match self.reading.poll_next(&mut news, core, context) {
                    Poll::Ready(next) => Poll::Ready(Ok(next)),
                    Poll::Pending => {
                        peer_gone.as_mut().poll(context).map(|()| Err(CutReason::Peer))
                    }
                }
            });
            if !timers::within(patience, next).await.unwrap_or(Ok(false))? {
                return Ok(());
            }
        }
    }

    /// Send an object to its end.
    async fn follow(
        &mut self,
        sender: &mut Sender<'_>,
        mut peer_gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Left, CutReason> {
        let object = self.reading.object.clone();
        let (store, core) = (&sender.egress.store, sender.egress.core);
        let Some(start) = self.start(sender, peer_gone.as_mut()).await? else {
            return Ok(Left::Ended);
        };
        let gap = self.reading.gap.take().filter(|_| self.has_begun);
        if let Some(gap) = gap {
            sender.put_made(gap.packets()).await?;
        }
        put_tables(sender, &object).await?;
        let mut reader = Reader::new(store, object.clone(), core, start, u64::MAX);
        let lag_max = self.reading.pull.options.lag_bytes_max();
        loop {
            if self.reading.is_off() {
                return Ok(Left::Off);
            }
            match reader.available() {
                Available::AtTail => {
                    sender.flush_prefix().await?;
                    sender.wait_at_tail(&mut reader, peer_gone.as_mut()).await?;
                }
                Available::Bytes(_) | Available::Lagged if self.is_lost(&reader, lag_max) => {
                    let newest = object.last_random_access().unwrap_or(object.tail());
                    let from = newest.max(reader.offset());
                    let dropped = from - reader.offset();
                    if dropped == 0 {
                        return Err(CutReason::Lagged);
                    }
                    self.reading.note_dropped(dropped);
                    sender.egress.counters.add(Counter::PullReadersLagged, 1);
                    put_tables(sender, &object).await?;
                    reader = Reader::new(store, object.clone(), core, from, u64::MAX);
                }
                Available::Bytes(bytes) => self.run(sender, &mut reader, bytes).await?,
                Available::Lagged => return Err(CutReason::Lagged),
                Available::End | Available::Aborted => return Ok(Left::Ended),
            }
        }
    }

    /// What comes next is gone, or too old; and there is something newer.
    fn is_lost(&self, reader: &Reader, lag_max: u64) -> bool {
        let object = reader.object();
        let is_newer = |start: u64| start > reader.offset();
        let has_newer = object.last_random_access().is_some_and(is_newer);
        reader.offset() < object.head() || reader.lag_bytes() > lag_max && has_newer
    }

    /// Where to begin; `None` if the object ended before.
    async fn start(
        &self,
        sender: &Sender<'_>,
        mut peer_gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<u64>, CutReason> {
        let object = &self.reading.object;
        let behind = match self.reading.start {
            Start::At(offset) if offset >= object.head() => return Ok(Some(offset)),
            Start::At(_) => 0,
            Start::Behind(offset) => offset,
        };
        let (store, core) = (&sender.egress.store, sender.egress.core);
        let mut reader = Reader::new(store, object.clone(), core, behind, u64::MAX);
        let mut found = pin!(std::future::poll_fn(|context| {
            reader.wake_at_growth(context);
            let is_open = object.is_open() && !self.reading.is_off();
            let is_said = self.reading.gap.as_ref().is_none_or(|gap| gap.is_settled());
            match object.random_access_from(behind).filter(|_| is_said || !is_open) {
                Some(start) => Poll::Ready(Ok(Some(start))),
                None if !is_open => Poll::Ready(Ok(None)),
                None => peer_gone.as_mut().poll(context).map(|()| Err(CutReason::Peer)),
            }
        }));
        let mut started = timers::within(PROGRAM_WAIT, found.as_mut()).await;
        if started.is_none() && object.preamble().is_some() {
            started = timers::within(START_WAIT, found).await;
        }
        started.unwrap_or(Ok(Some(object.tail())))
    }

    /// Send whole packets.
    async fn run(
        &mut self,
        sender: &mut Sender<'_>,
        reader: &mut Reader,
        available: u64,
    ) -> Result<(), CutReason> {
        let bytes = (available - available % PACKET).min(RUN_BYTES_MAX);
        let start = reader.offset();
        if !sender.whole_frame(reader, bytes).await? {
            // It reaches into another extent: both are held until all of it is sent.
            let object = reader.object().clone();
            sender.put_slice(Slice { object, start, end: start + bytes }).await?;
            sender.flush_batch().await?;
            reader.advance(bytes);
        }
        self.has_begun = true;
        self.sent += bytes;
        if self.sent >= NOTE_BYTES {
            self.reading.note_sent(std::mem::take(&mut self.sent));
        }
        Ok(())
    }
}

impl Drop for PacketsOut {
    fn drop(&mut self) {
        self.reading.note_sent(self.sent);
    }
}

/// PAT and PMT, as far as they are known.
async fn put_tables(sender: &mut Sender<'_>, object: &Object) -> Result<(), CutReason> {
    match object.preamble() {
        Some(tables) => sender.put_made(&tables).await,
        None => Ok(()),
    }
}
