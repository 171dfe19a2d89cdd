//! Carries out what the [`Board`] decides: sends, saves, asks the web-hooks, sets timers. Everything
//! runs on the coordinator's one thread; nothing here waits with the board in its hands.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::board::{Board, Effect, PeerId};
use super::control_link::OUTGOING_MESSAGES_MAX;
use super::snapshot::Snapshot;
use super::web_hooks::WebHooks;
use crate::wire::channel_messages::ChannelMessage;

pub(super) struct Hub {
    board: Mutex<Board>,
    /// Decided and not done yet. While it is not empty, a flush is under way.
    due: Mutex<Vec<Effect>>,
    links: Mutex<Links>,
    hooks: WebHooks,
    state_file: PathBuf,
    /// The last attempt to write the state file failed.
    is_unsaved: AtomicBool,
}

#[derive(Default)]
struct Links {
    by_peer: HashMap<PeerId, mpsc::Sender<ChannelMessage>>,
    so_far: PeerId,
    is_stopping: bool,
}

impl Hub {
    /// Begin with what the state file knows. Called within the runtime.
    pub(super) fn start(
        mut board: Board,
        hooks: WebHooks,
        snapshot: Snapshot,
        state_file: PathBuf,
    ) -> Arc<Hub> {
        board.restore(snapshot);
        let hub = Hub {
            board: Mutex::new(board),
            due: Mutex::default(),
            links: Mutex::default(),
            hooks,
            state_file,
            is_unsaved: AtomicBool::new(false),
        };
        let hub = Arc::new(hub);
        hub.with_board(|_| ());
        hub
    }

    /// A control connection: its id, and what is to be sent on it. `None` while stopping.
    pub(super) fn open_link(&self) -> Option<(PeerId, mpsc::Receiver<ChannelMessage>)> {
        let mut links = self.links.lock();
        if links.is_stopping {
            return None;
        }
        let (sender, receiver) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        links.so_far += 1;
        let peer = links.so_far;
        links.by_peer.insert(peer, sender);
        Some((peer, receiver))
    }

    /// Returns whether the board has to know: not if we close all, since then all shall come back.
    pub(super) fn close_link(&self, peer: PeerId) -> bool {
        let mut links = self.links.lock();
        links.by_peer.remove(&peer);
        !links.is_stopping
    }

    /// Close all control connections, and let no other begin.
    pub(super) fn close_all_links(&self) {
        let mut links = self.links.lock();
        links.is_stopping = true;
        links.by_peer.clear();
    }

    /// Ask or tell the board; what follows from it is done soon, see [`flush`](Self::flush).
    pub(super) fn with_board<T>(self: &Arc<Self>, use_board: impl FnOnce(&mut Board) -> T) -> T {
        let mut board = self.board.lock();
        let value = use_board(&mut board);
        let effects = board.take_effects();
        drop(board);
        let mut due = self.due.lock();
        if due.is_empty() && !effects.is_empty() {
            let hub = self.clone();
            tokio::spawn(async move {
                // Whoever is ready now comes first: a thousand ends at once are one state file.
                tokio::task::yield_now().await;
                hub.flush();
            });
        }
        due.extend(effects);
        value
    }

    /// Do what has been decided, in its order. First the state is saved, so that nobody is told of a
    /// stream that a crash would make unknown.
    pub(super) fn flush(self: &Arc<Self>) {
        let effects = std::mem::take(&mut *self.due.lock());
        if effects.contains(&Effect::Save) {
            self.save(&self.board.lock().snapshot());
        }
        for effect in effects {
            self.carry_out(effect);
        }
    }

    fn carry_out(self: &Arc<Self>, effect: Effect) {
        let hub = self.clone();
        match effect {
            Effect::Save => {}
            Effect::Send { to, message } => self.send(to, message),
            Effect::Verify { check, key } => {
                tokio::spawn(async move {
                    let settings = hub.hooks.verify(&key).await;
                    hub.with_board(|board| board.verified(check, settings.as_ref()));
                });
            }
            Effect::Deliver(event) => {
                tokio::spawn(async move {
                    let is_taken = hub.hooks.deliver(&event).await;
                    hub.with_board(|board| match is_taken {
                        true => board.delivered(&event.stream_id),
                        false => board.undelivered(&event.stream_id),
                    });
                });
            }
            Effect::Arm { after, timer } => {
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    hub.with_board(|board| board.expire(timer));
                });
            }
        }
    }

    fn send(&self, to: PeerId, message: ChannelMessage) {
        let mut links = self.links.lock();
        let Some(link) = links.by_peer.get(&to) else { return };
        if link.try_send(message).is_err() {
            tracing::warn!(peer = to, "a control connection takes nothing: it is closed");
            links.by_peer.remove(&to);
        }
    }

    /// A disk that fails stops nobody; the next change tries again.
    fn save(&self, snapshot: &Snapshot) {
        let saved = snapshot.store(&self.state_file);
        let was_unsaved = self.is_unsaved.swap(saved.is_err(), Ordering::Relaxed);
        match saved {
            Err(error) if !was_unsaved => tracing::error!(%error, "a restart would lose streams"),
            Ok(()) if was_unsaved => tracing::info!("the state file is written again"),
            _ => {}
        }
    }
}
