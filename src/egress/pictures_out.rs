//! The pictures of a camera on their way out, each whole, as parts that replace one another.
//!
//! | a viewer is at | left by |
//! |---|---|
//! | a picture | the picture, or the newest one if the viewer is too slow (`Pace`) |
//! | the newest picture | the next one, or its own going |
//! | the end of a track | another track of the camera; none comes: the end of the body |

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;

use super::transfer::{BodyFraming, CutReason, Sender};
use crate::cameras::{Pace, Track, Wanted, Watch};
use crate::runtime::counters::Counter;
use crate::runtime::{clock, timers};
use crate::store::{Message, MessageLook, Object, Reader};
use crate::wire::http1::Chunk;
use crate::wire::multipart::MixedReplace;
use crate::wire::tcp_framing::PictureKind;

/// A viewer looks so often whether there is a track that suits it better.
const LOOK_PICTURES: u64 = 64;

/// What a viewer watches.
pub(super) struct Pictures {
    watch: Watch,
    wanted: Wanted,
}

impl Pictures {
    pub(super) fn new(watch: Watch, wanted: Wanted) -> Pictures {
        Pictures { watch, wanted }
    }

    /// Send pictures until the camera has been gone for a while.
    pub(super) async fn send(
        self,
        sender: &mut Sender<'_>,
        mut peer_gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), CutReason> {
        let egress = sender.egress;
        egress.counters.add(Counter::CameraViewers, 1);
        sender.serve_viewer();
        // A viewer waits for the first delimiter to know what comes.
        sender.put_made(&Bytes::from_static(MixedReplace::BEGIN)).await?;
        sender.flush_prefix().await?;
        let lag_pictures_max = egress.cameras.options.lag_pictures_max;
        let mut pace = Pace::new(self.wanted, lag_pictures_max, now_ms());
        loop {
            let Some(track) = self.track(&pace, egress.core, peer_gone.as_mut()).await? else {
                return Ok(());
            };
            self.follow(sender, &track, &mut pace, peer_gone.as_mut()).await?;
        }
    }

    /// The track that suits now; `None` if none comes in time.
    async fn track(
        &self,
        pace: &Pace,
        core: usize,
        mut peer_gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Option<Track>, CutReason> {
        let mut news = self.watch.news();
        let wanted = (PictureKind::Mjpeg, pace.quality());
        let found = std::future::poll_fn(|context| {
            match self.watch.poll_track(wanted, (&mut news, core), context) {
                Poll::Ready(found) => Poll::Ready(Ok(found)),
                Poll::Pending => peer_gone.as_mut().poll(context).map(|()| Err(CutReason::Peer)),
            }
        });
        timers::within(self.watch.patience(), found).await.unwrap_or(Ok(None))
    }

    /// Send the pictures of a track, from the newest on, until it ends or another one suits better.
    async fn follow(
        &self,
        sender: &mut Sender<'_>,
        track: &Track,
        pace: &mut Pace,
        mut peer_gone: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), CutReason> {
        let object = &track.object;
        let (store, core) = (&sender.egress.store, sender.egress.core);
        let mut reader = Reader::new(store, object.clone(), core, object.head(), u64::MAX);
        let mut next = newest(object);
        let mut quality = pace.quality();
        self.watch.note_track(track, next);
        loop {
            let look = std::future::poll_fn(|context| {
                if let Poll::Ready(look) = reader.poll_message(next, context) {
                    return Poll::Ready(Ok(look));
                }
                peer_gone.as_mut().poll(context).map(|()| Err(CutReason::Peer))
            });
            let picture = match self.choose(sender, object, look.await?, (next, pace)) {
                ControlFlow::Break(()) => return Ok(()),
                ControlFlow::Continue(None) => {
                    next = newest(object);
                    continue;
                }
                ControlFlow::Continue(Some(picture)) => picture,
            };
            if pace.quality() != quality || picture.number.is_multiple_of(LOOK_PICTURES) {
                if self.watch.has_better(track, pace.quality()) {
                    return Ok(());
                }
                quality = pace.quality();
            }
            reader.advance(picture.start - reader.offset());
            if !reader.hold(picture.end) {
                // Trimmed since it was looked at.
                next = newest(object);
                continue;
            }
            send_picture(sender, &mut reader, picture.end).await?;
            next = picture.number + 1;
            self.watch.note_next(next);
        }
    }

    /// Which picture to send, having looked for `next`; `None` to look for the newest, an end if none
    /// comes.
    fn choose(
        &self,
        sender: &Sender<'_>,
        object: &Arc<Object>,
        look: MessageLook,
        (next, pace): (u64, &mut Pace),
    ) -> ControlFlow<(), Option<Message>> {
        let (first, end) = object.messages();
        let behind = end.saturating_sub(next + 1);
        let (picture, skipped) = match look {
            MessageLook::NotYet => return ControlFlow::Break(()),
            MessageLook::Forgotten { .. } => (None, first.saturating_sub(next)),
            MessageLook::Here(_) if pace.is_too_far(behind) => {
                match object.message(next + behind) {
                    MessageLook::Here(newest) => (Some(newest), behind),
                    _ => (None, behind),
                }
            }
            MessageLook::Here(picture) => (Some(picture), 0),
        };
        pace.note(skipped, now_ms());
        self.watch.note_skipped(skipped);
        sender.egress.counters.add(Counter::PicturesSkipped, skipped);
        ControlFlow::Continue(picture)
    }
}

/// The number of the newest picture, or of the first one.
fn newest(object: &Object) -> u64 {
    let (first, end) = object.messages();
    end.saturating_sub(1).max(first)
}

/// Send what lies between the reader and `end` as one part.
async fn send_picture(
    sender: &mut Sender<'_>,
    reader: &mut Reader,
    end: u64,
) -> Result<(), CutReason> {
    let bytes = end - reader.offset();
    let part = MixedReplace::part_head("image/jpeg", bytes);
    sender.egress.counters.add(Counter::PicturesSent, 1);
    if sender.framing() != BodyFraming::Chunked {
        return sender.enclosed(part.as_bytes(), (reader, bytes), MixedReplace::NEXT).await;
    }
    let chunk = Chunk::header(part.len() as u64 + bytes + MixedReplace::NEXT.len() as u64);
    let head = [chunk.as_bytes(), part.as_bytes()].concat();
    sender.enclosed(&head, (reader, bytes), MixedReplace::NEXT_CHUNKED).await
}

fn now_ms() -> u64 {
    clock::tick_ms()
}
