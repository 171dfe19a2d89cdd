//! Appenders that come back: a connection may break, with or without its server noticing, so an
//! appender that names its session takes over from its own earlier connection instead of being refused,
//! and readers see one object that goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::upload::Watcher;
use crate::store::{News, NewsWait, Store, Writer};

/// The sessions of active appenders, by object name; of all cores.
#[derive(Default)]
pub struct AppendSessions {
    /// What is sealed has to be on disk.
    is_durable: bool,
    table: Mutex<HashMap<String, Active>>,
    /// The server stops: nobody will come back.
    is_closed: AtomicBool,
}

struct Active {
    session: String,
    news: Arc<News>,
    /// Left by a connection that was lost, until this time in seconds.
    legacy: Option<(Box<Legacy>, u64)>,
}

/// What goes from one connection of an appender to the next. Dropped, it is sealed.
pub(super) struct Legacy {
    pub(super) writer: Writer,
    pub(super) watcher: Watcher,
    /// As far as the object is on disk, where that is asked for.
    pub(super) synced: u64,
}

/// What a connection finds of an earlier one of its session.
pub(super) enum Earlier {
    Nothing,
    /// It was told to hand over: look again.
    Told,
    Legacy(Box<Legacy>),
}

impl AppendSessions {
    pub fn new(is_durable: bool) -> Arc<AppendSessions> {
        Arc::new(AppendSessions { is_durable, ..AppendSessions::default() })
    }

    /// What an earlier connection of this session has left, or is told to leave.
    pub(super) fn look(&self, store: &Store, name: &str, session: &str) -> Earlier {
        let mut table = self.table.lock();
        let Some(active) = table.get_mut(name).filter(|active| active.session == session) else {
            return Earlier::Nothing;
        };
        match active.legacy.take() {
            Some((legacy, _)) => Earlier::Legacy(legacy),
            None => {
                active.news.tell(store, None);
                Earlier::Told
            }
        }
    }

    pub(super) fn enter(self: &Arc<Self>, name: &str, session: &str) -> Session {
        let news: Arc<News> = Arc::default();
        let wait = NewsWait::new(news.clone(), news.version());
        let active = Active { session: session.to_owned(), news: news.clone(), legacy: None };
        let before = self.table.lock().insert(name.to_owned(), active);
        drop(before);
        Session { sessions: self.clone(), name: name.to_owned(), news, wait }
    }

    /// The server stops: seal what was left, and from now on at once what would be left.
    pub fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.sweep(u64::MAX);
    }

    /// Seal what was left and not fetched until now.
    pub fn sweep(&self, now_s: u64) {
        let is_over = |active: &mut Active| {
            active.legacy.as_ref().is_some_and(|(_, until_s)| *until_s <= now_s)
        };
        let mut table = self.table.lock();
        let names: Vec<String> =
            table.iter_mut().filter_map(|(n, a)| is_over(a).then(|| n.clone())).collect();
        let over: Vec<Active> = names.iter().filter_map(|name| table.remove(name)).collect();
        // Sealing may take its time.
        drop(table);
        let legacies = over.into_iter().filter_map(|active| active.legacy);
        legacies.for_each(|(legacy, _)| self.seal(*legacy));
    }

    /// Who comes next is told the length of the object, and takes it for kept.
    fn seal(&self, legacy: Legacy) {
        if self.is_durable {
            let files = legacy.writer.files_from(legacy.synced);
            let synced = files.map(|files| files.iter().try_for_each(|file| file.sync_data()));
            if !matches!(synced, Ok(Ok(()))) {
                let object = &legacy.writer.object().name;
                tracing::error!(%object, "an object that was left by its appender cannot be synced");
            }
        }
        drop(legacy);
    }
}

/// An active appender's entry.
pub(super) struct Session {
    sessions: Arc<AppendSessions>,
    name: String,
    news: Arc<News>,
    /// Ready when it has to hand over.
    pub(super) wait: NewsWait,
}

impl Session {
    /// Leave the object to the next connection of the session, which has time until `until_s`. Back
    /// comes what nobody will fetch.
    pub(super) fn leave(self, legacy: Legacy, until_s: u64) -> Option<Legacy> {
        let mut table = self.sessions.table.lock();
        let active = table.get_mut(&self.name);
        match active.filter(|active| Arc::ptr_eq(&active.news, &self.news)) {
            Some(active) if !self.sessions.is_closed.load(Ordering::SeqCst) => {
                active.legacy = Some((Box::new(legacy), until_s));
                None
            }
            _ => Some(legacy),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut table = self.sessions.table.lock();
        let is_own = |active: &Active| Arc::ptr_eq(&active.news, &self.news);
        if table.get(&self.name).is_some_and(|active| is_own(active) && active.legacy.is_none()) {
            table.remove(&self.name);
        }
    }
}
