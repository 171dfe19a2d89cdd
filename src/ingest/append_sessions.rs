//! Appenders that come back: a connection may break without its server noticing, so an appender that
//! names its session ends its own earlier connection instead of being refused.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::store::{News, NewsWait, Store};

/// The sessions of active appenders, by object name; of all cores.
#[derive(Default)]
pub struct AppendSessions {
    table: Mutex<HashMap<String, Active>>,
}

struct Active {
    session: String,
    news: Arc<News>,
}

impl AppendSessions {
    /// The active appender of `name` has this session: tell it to make room.
    pub(super) fn displace(&self, store: &Store, name: &str, session: &str) -> bool {
        let table = self.table.lock();
        let Some(active) = table.get(name).filter(|active| active.session == session) else {
            return false;
        };
        active.news.tell(store, None);
        true
    }

    pub(super) fn enter(self: &Arc<Self>, name: &str, session: &str) -> Session {
        let news: Arc<News> = Arc::default();
        let wait = NewsWait::new(news.clone(), news.version());
        let active = Active { session: session.to_owned(), news: news.clone() };
        self.table.lock().insert(name.to_owned(), active);
        Session { sessions: self.clone(), name: name.to_owned(), news, wait }
    }
}

/// An active appender's entry.
pub(super) struct Session {
    sessions: Arc<AppendSessions>,
    name: String,
    news: Arc<News>,
    /// Ready when it has to make room.
    pub(super) wait: NewsWait,
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut table = self.sessions.table.lock();
        if table.get(&self.name).is_some_and(|active| Arc::ptr_eq(&active.news, &self.news)) {
            table.remove(&self.name);
        }
    }
}
