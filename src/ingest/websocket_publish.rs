//! Publishers of channels, as ws-stream-server has them: whoever decides lets one in, and its binary
//! messages are the chunks that receivers get.
//!
//! | a publisher is | left by |
//! |---|---|
//! | waiting for the verdict, its channel claimed | the verdict, 20 s, or its own going |
//! | live: each binary message is a message of an object that has no name | its close or silence, a kill, a failing disk |
//! | over | receivers see the object's end, the channel is free |

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Ingest;
use super::frames_in::{Frames, Wanted};
use super::messages_in::{Door, Ended, Intake, Link};
use super::upload::{UploadError, Watcher};
use crate::channels::{Claim, HEARTBEAT, Publication, PublishRequest, Verdict};
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::timers::{self, Pulse};
use crate::store::{MessageLook, MessageWindow, ObjectInfo, Partial};
use crate::wire::websocket::STOPPING;

/// Who decides on publishers has so much time.
const VERDICT_S_MAX: u64 = 20;

/// A publisher that a request asks for.
pub struct Publish {
    pub request: PublishRequest,
    /// The answer to its handshake.
    pub head: Vec<u8>,
}

/// Why a publisher is not let in.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("the channel has a publisher")]
    AlreadyPublishing,
    /// Or nobody was there to say that it is valid.
    #[error("the key is not valid")]
    InvalidKey,
    #[error("the publisher left before it was let in")]
    PeerGone,
    #[error(transparent)]
    Upload(#[from] UploadError),
}

/// Let a publisher in and take its chunks to the end. Returns the last words, for the connection to
/// say.
pub async fn publish(
    ingest: &Ingest,
    publish: Publish,
    input: Vec<u8>,
    socket: &Socket,
    deadline: &Deadline,
) -> Result<Vec<u8>, PublishError> {
    let Publish { request, head } = publish;
    let name = request.channel.clone();
    let claim = ingest.channels.claim(request).ok_or(PublishError::AlreadyPublishing)?;
    deadline.phase(Phase::Waiting);
    verdict(&claim, socket).await?;
    deadline.phase(Phase::Uploading);
    let (intake, publication) = begin(ingest, claim, &name).await?;
    ingest.counters.add(Counter::WebsocketPublishers, 1);
    let options = &ingest.channels.options;
    let pulse = Pulse::new(options.heartbeat_interval_s, Some(options.silence_timeout_s));
    let mut link = Link { ingest, socket, pulse, outbox: head };
    deadline.parting(Some(STOPPING));
    let mut door = Publishing { core: ingest.core, publication };
    let (intake, ended) = link.run(intake, &mut door, input).await;
    let is_orderly = matches!(ended, Ended::Closed(_));
    finish(ingest, intake, is_orderly);
    link.note_failure(&name, &ended);
    tracing::info!(channel = name, is_orderly, "a publisher has gone");
    drop(door);
    Ok(link.last_words(&ended))
}

async fn verdict(claim: &Claim, socket: &Socket) -> Result<(), PublishError> {
    claim.ask();
    let mut peer_gone = pin!(socket.peer_gone());
    let decided = std::future::poll_fn(|context| {
        if let Poll::Ready(verdict) = claim.poll_verdict(context) {
            return Poll::Ready(Ok(verdict));
        }
        peer_gone.as_mut().poll(context).map(|()| Err(PublishError::PeerGone))
    });
    match timers::within(Duration::from_secs(VERDICT_S_MAX), decided).await {
        Some(Ok(Verdict::Accept { .. })) => Ok(()),
        Some(Err(error)) => Err(error),
        Some(Ok(Verdict::Deny)) | None => Err(PublishError::InvalidKey),
    }
}

async fn begin(
    ingest: &Ingest,
    claim: Claim,
    name: &str,
) -> Result<(Intake<Frames>, Publication), PublishError> {
    let feed = ingest.packager.feed_of_channel(name).map_err(UploadError::Refused)?;
    let (store, core) = (ingest.store.clone(), Some(ingest.core));
    let label = format!("channel {name}");
    let info = ObjectInfo { created_ms: clock::unix_ms(), ..ObjectInfo::default() };
    let begin = move || store.begin_unnamed(&label, info, core);
    let mut writer = ingest.disk.run(begin).await.map_err(UploadError::Begin)?;
    let options = &ingest.channels.options;
    let bytes_max = options.kept_bytes_max();
    writer.keep_messages(MessageWindow { bytes_max, count_max: usize::MAX });
    let object = writer.object().clone();
    tracing::info!(channel = name, "a publisher was let in");
    let publication = claim.go_live(object, core);
    let watcher = feed.map_or(Watcher::Nobody, |feed| Watcher::Feed(Box::new(feed)));
    let rule = (Wanted::Binary, Partial::Visible);
    Ok((Intake::of_frames((writer, watcher), rule, options.message_bytes_max), publication))
}

fn finish(ingest: &Ingest, intake: Intake<Frames>, is_orderly: bool) {
    let Intake { writer, watcher, .. } = intake;
    let object = writer.object().clone();
    writer.end_unnamed();
    if is_orderly {
        watcher.end(&object, ingest.core);
    }
}

struct Publishing {
    core: usize,
    publication: Publication,
}

impl Door<Frames> for Publishing {
    async fn beat(&mut self, _intake: &Intake<Frames>) -> Vec<u8> {
        HEARTBEAT.to_vec()
    }

    fn note(&mut self, intake: &mut Intake<Frames>, messages: u64) {
        let object = Arc::clone(intake.writer.object());
        let (first, next) = object.messages();
        if messages > 0 {
            self.publication.note_messages(next - messages);
        }
        if let MessageLook::Here(message) = object.message(first) {
            intake.writer.keep_from(message.start);
            if matches!(intake.watcher, Watcher::Nobody) {
                intake.writer.trim(message.start);
            }
        }
    }

    fn beat_bytes(&self) -> u64 {
        u64::MAX
    }

    fn poll_stop(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.publication.poll_killed(self.core, context)
    }
}
