//! The life of a pulled stream: connect, receive, align, append; and again, with the next upstream.

use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::Place;
use super::pull_table::{Gap, Pull, Pulls};
use super::pushed_stream::Pushed;
use super::upstream::{self, Received, Source};
use crate::fetch::HttpClient;
use crate::packager::marks::Marker;
use crate::packager::{Feed, Packager, Refusal};
use crate::store::{BeginError, ObjectInfo, WriteError, Writer};
use crate::wire::mpegts::{Continuity, PacketAligner, Resumption};

/// Packets are gathered so long, or up to so many bytes, before readers are woken for them.
const GATHER: Duration = Duration::from_millis(10);
const GATHER_BYTES: usize = 32 << 10;

/// What a stream's task works with.
pub(super) struct PullTask {
    pub(super) pulls: Arc<Pulls>,
    pub(super) pull: Arc<Pull>,
    pub(super) packager: Arc<Packager>,
    pub(super) http: HttpClient,
    /// Between two senders of a stream that is pushed.
    pub(super) pushed: Mutex<Option<Pushed>>,
}

/// Why nothing more comes from an upstream.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("it cannot be reached: {0}")]
    Connect(io::Error),
    #[error("no answer within pull.connect_timeout_s")]
    ConnectTimeout,
    #[error("it broke: {0}")]
    Broke(#[from] io::Error),
    #[error("it has ended")]
    Ended,
    #[error("no whole packet within pull.read_timeout_s")]
    Silent,
    #[error("it is not wanted any more")]
    Unwanted,
    #[error("it cannot be stored: {0}")]
    Begin(#[from] BeginError),
    #[error("it cannot be stored: {0}")]
    Write(#[from] WriteError),
    #[error("it cannot be listed: {}", .0.text)]
    Refused(Refusal),
}

impl PullTask {
    /// Runs until it is dropped.
    pub(super) async fn run(self) {
        let options = &self.pull.options;
        let (mut upstream, mut failures) = (0, 0);
        let mut continuity = Continuity::default();
        loop {
            self.until_wanted().await;
            let began = self.now();
            let (was_live, lost) = self.attend(upstream, &mut continuity).await;
            let shown = &options.upstreams[upstream].shown;
            tracing::info!(stream = options.name, upstream = shown, %lost, "an upstream was lost");
            if matches!(lost, Lost::Unwanted) {
                failures = 0;
                continue;
            }
            upstream = (upstream + 1) % options.upstreams.len();
            if was_live {
                // One that comes and goes at once does so in its own time.
                failures = 0;
                self.pause(options.reconnect.saturating_sub(self.now() - began)).await;
                continue;
            }
            failures += 1;
            // All others are tried before anything is waited for.
            let rounds = failures / options.upstreams.len() as u32;
            if rounds > 0 && failures.is_multiple_of(options.upstreams.len() as u32) {
                let pause = options.reconnect.saturating_mul(1 << (rounds - 1).min(16));
                self.pause(pause.min(options.reconnect_max)).await;
            }
        }
    }

    fn now(&self) -> Instant {
        (self.pull.options.now)().into()
    }

    async fn until_wanted(&self) {
        while !self.pull.is_wanted() {
            self.pull.told.notified().await;
        }
    }

    /// Wait, unless nobody wants it any more.
    async fn pause(&self, pause: Duration) {
        let _ = timeout(pause, self.until_unwanted()).await;
    }

    /// On demand: ready when the last reader has been gone for long enough.
    async fn until_unwanted(&self) {
        loop {
            // Asked in between too: a wait that is over is not told.
            let told = timeout(Duration::from_secs(1), self.pull.told.notified());
            let _ = told.await;
            if !self.pull.is_wanted() {
                return;
            }
        }
    }

    /// One connection, from its attempt to its end.
    async fn attend(&self, upstream: usize, continuity: &mut Continuity) -> (bool, Lost) {
        let options = &self.pull.options;
        let mut source = match self.connect(upstream).await {
            Ok(source) => source,
            Err(lost) => return (false, lost),
        };
        self.pulls.connected(&self.pull, Some(upstream));
        let shown = &options.upstreams[upstream].shown;
        tracing::info!(stream = options.name, upstream = shown, "an upstream is connected");
        let mut live = None;
        let outcome = tokio::select! {
            outcome = self.receive(&mut source, (upstream, &mut live), continuity) => outcome,
            () = self.until_unwanted() => Err(Lost::Unwanted),
        };
        self.pulls.connected(&self.pull, None);
        if let Source::Pushed(mut pushed) = source {
            pushed.let_go();
            *self.pushed.lock() = Some(pushed);
        }
        let was_live = live.is_some();
        let lost = outcome.err().unwrap_or(Lost::Ended);
        self.end(&mut live, !matches!(lost, Lost::Unwanted));
        (was_live, lost)
    }

    async fn connect(&self, upstream: usize) -> Result<Source, Lost> {
        let options = &self.pull.options;
        match &options.upstreams[upstream].place {
            Place::Listener(listener) => {
                let pushed = self.pushed.lock().take();
                let new = || Pushed::new(listener, options.connect_timeout);
                let mut pushed = pushed.map_or_else(new, Ok).map_err(Lost::Connect)?;
                // However long nobody comes.
                pushed.until_live().await.map_err(Lost::Connect)?;
                Ok(Source::Pushed(pushed))
            }
            Place::Url(url) => {
                let opening = upstream::open(url, options, &self.http);
                let opened = timeout(options.connect_timeout, opening).await;
                opened.map_err(|_| Lost::ConnectTimeout)?.map_err(Lost::Connect)
            }
        }
    }

    async fn receive(
        &self,
        source: &mut Source,
        (upstream, live): (usize, &mut Option<LiveStream>),
        continuity: &mut Continuity,
    ) -> Result<(), Lost> {
        let read_timeout = self.pull.options.read_timeout;
        let (mut aligner, mut received, mut packets) =
            (PacketAligner::default(), Vec::new(), Vec::new());
        let mut heard = self.now();
        let mut due: Option<Instant> = None;
        loop {
            let outcome = tokio::select! {
                outcome = source.receive(&mut received) => Some(outcome?),
                () = sleep_until(due.unwrap_or(heard + read_timeout)) => None,
            };
            if let Some(Received::Restarted) = outcome {
                // What was received is of the sender that has begun now.
                self.restart((upstream, live), &mut packets, continuity).await?;
                (aligner, due) = (PacketAligner::default(), None);
            }
            if !received.is_empty() {
                aligner.push(&received, &mut |run| packets.extend_from_slice(run));
                received.clear();
            }
            if !packets.is_empty() {
                heard = self.now();
            }
            let is_due = outcome.is_none() || packets.len() >= GATHER_BYTES;
            let is_end = outcome == Some(Received::End);
            if is_due || is_end {
                self.append((upstream, live), &mut packets, continuity)?;
            }
            due = if packets.is_empty() { None } else { due.or(Some(heard + GATHER)) };
            match outcome {
                Some(Received::End) => return Ok(()),
                None if self.now() - heard >= read_timeout => return Err(Lost::Silent),
                None | Some(Received::Bytes | Received::Restarted) => {}
            }
        }
    }

    /// Another sender has taken over, or the same has begun anew: the next object is the new one's.
    async fn restart(
        &self,
        (upstream, live): (usize, &mut Option<LiveStream>),
        packets: &mut Vec<u8>,
        continuity: &mut Continuity,
    ) -> Result<(), Lost> {
        self.append((upstream, live), packets, continuity)?;
        tracing::info!(stream = self.pull.options.name, "another sender has taken over");
        if let Some(live) = live {
            // Two at a time take turns, and not packet by packet.
            sleep_until(live.began + self.pull.options.reconnect).await;
        }
        self.end(live, true);
        Ok(())
    }

    fn end(&self, live: &mut Option<LiveStream>, is_gap: bool) {
        if let Some(live) = live.take() {
            self.pulls.end(&self.pull, is_gap);
            live.end();
        }
    }

    /// Append what was gathered, if there is anything; the stream is live with the first of it.
    fn append(
        &self,
        (upstream, live): (usize, &mut Option<LiveStream>),
        packets: &mut Vec<u8>,
        continuity: &mut Continuity,
    ) -> Result<(), Lost> {
        if packets.is_empty() {
            return Ok(());
        }
        let live = match live {
            Some(live) => live,
            None => live.insert(self.begin(continuity)?),
        };
        continuity.note(packets);
        live.append(packets, self.pull.options.window_bytes)?;
        self.pulls.note(&self.pull);
        self.pull.figures.note_received(upstream, packets.len() as u64);
        packets.clear();
        Ok(())
    }

    fn begin(&self, continuity: &Continuity) -> Result<LiveStream, Lost> {
        let options = &self.pull.options;
        let feed = if options.live_name.is_empty() {
            None
        } else {
            self.packager.feed(&options.live_name).map_err(Lost::Refused)?
        };
        let label = format!("pull {}", options.name);
        let info = ObjectInfo { created_ms: self.pulls.now_ms(), ..ObjectInfo::default() };
        let writer = self.pulls.store.begin_unnamed(&label, info, None)?;
        let gap = Gap::new(continuity.break_packets().into());
        let gap_ms = self.pulls.begin(&self.pull, writer.object().clone(), gap.clone());
        tracing::info!(stream = options.name, ?gap_ms, "a stream is live");
        let watcher = match feed {
            Some(feed) => Watcher::Feed(Box::new(feed)),
            None => Watcher::Marker(Box::default()),
        };
        let resuming = Some((continuity.resume(), gap));
        Ok(LiveStream { writer, watcher, resuming, began: self.now() })
    }
}

/// Who looks at packets once they are appended.
enum Watcher {
    /// Of a publishing point. Dropped, it leads to a discontinuity.
    Feed(Box<Feed>),
    Marker(Box<Marker>),
}

/// What a connection brings.
struct LiveStream {
    writer: Writer,
    watcher: Watcher,
    /// Until the place is known where readers of the connection before go on.
    resuming: Option<(Resumption, Arc<Gap>)>,
    began: Instant,
}

impl LiveStream {
    fn append(&mut self, packets: &[u8], window_bytes: u64) -> Result<(), Lost> {
        self.writer.append(&[IoSlice::new(packets)])?;
        let before = self.writer.object().last_random_access();
        self.look(packets, window_bytes);
        self.resume(packets);
        if self.writer.object().last_random_access() != before {
            self.writer.tell_marks();
        }
        Ok(())
    }

    /// Say the gap in front of this connection, as soon as it is known how.
    fn resume(&mut self, packets: &[u8]) {
        let Some((resumption, gap)) = &mut self.resuming else { return };
        let (goes_on, object) = (resumption.note(packets), self.writer.object());
        let exact = object.random_access_from(0).map(|start| {
            let tables = object.preamble().unwrap_or_default();
            resumption.break_packets(start, &tables).into()
        });
        if exact.is_some() || !goes_on {
            gap.settle(exact);
            self.resuming = None;
        }
    }

    /// Show them to who lists them, or note where decoders may begin; and give up what is old.
    fn look(&mut self, packets: &[u8], window_bytes: u64) {
        let keep_from = self.writer.object().tail().saturating_sub(window_bytes);
        self.writer.keep_from(keep_from);
        match &mut self.watcher {
            Watcher::Feed(feed) => {
                if feed.note(packets, &mut self.writer).is_err() {
                    // That is in the log. Readers of the stream itself have nothing to do with it.
                    self.watcher = Watcher::Marker(Box::default());
                } else if self.writer.object().last_mark().unwrap_or(0) < keep_from {
                    // Nothing in all this can be listed.
                    self.writer.trim(keep_from);
                }
            }
            Watcher::Marker(marker) => {
                marker.note(packets, &mut self.writer);
                self.writer.trim(keep_from);
            }
        }
    }

    fn end(self) {
        self.writer.end_unnamed();
    }
}
