//! One `[[static]]` or `[[mirror]]`: what a request for one of its names gets, and the flights that
//! fetch what is missing. Requests come on the cores, flights run on the thread of [`Outside`].
//!
//! The body of an answer is an unnamed object of the store: while it arrives, readers follow it as
//! any object that grows, and when all of it is here they get lengths, tags and ranges.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use tokio::sync::Semaphore;

use super::answer_table::{AnswerTable, Found, Gone, TableRules};
use super::fetched::Share;
use super::fetching::UnderWay;
use super::flight::{Flight, Outcome};
use super::{Counts, Outside};
use crate::runtime::clock;
use crate::store::Store;
use crate::wire::upstream_url::HttpUrl;

/// An answer that does not say how long it may be kept.
const DEFAULT_LIFETIME_S: u64 = 1;
/// Errors are kept no longer, whatever they say.
const ERROR_LIFETIME_S_MAX: u64 = 10;
/// Where answers come from.
#[derive(Debug, Clone)]
pub enum Source {
    File(PathBuf),
    /// One resource.
    Resource(HttpUrl),
    /// A folder with all that is below; its target ends in a slash.
    Folder(HttpUrl),
}

/// What the operator decides about one section.
#[derive(Debug, Clone)]
pub struct SectionOptions {
    /// Of the requests; a folder with a slash at its end.
    pub path: String,
    pub source: Source,
    /// As long as an answer's Cache-Control says, without it.
    pub cache_s: Option<u64>,
    pub timeout: Duration,
    /// Of one answer.
    pub bytes_max: u64,
    /// Of all that are kept or arrive.
    pub cache_bytes_max: u64,
    pub answers_max: usize,
    /// Requests to the upstream at once.
    pub fetches_max: usize,
    /// Bodies up to this size are held in memory.
    pub small_bytes_max: u64,
}

pub struct Section {
    pub(super) options: SectionOptions,
    pub(super) outside: Outside,
    pub(super) store: Arc<Store>,
    pub(super) counts: Arc<Counts>,
    pub(super) table: Mutex<AnswerTable>,
    /// Bytes of all answers that are kept or arrive.
    pub(super) used: Arc<AtomicU64>,
    /// A file is read by one thread at a time, also by one that nobody waits for any more.
    pub(super) file_turn: Arc<Semaphore>,
    /// The last flight has failed: said once.
    is_down: AtomicBool,
}

/// What a request gets.
pub enum Look {
    Now {
        outcome: Outcome,
        is_stale: bool,
    },
    /// Wait for it. True if somebody else waits for it already.
    Coming(Arc<Flight>, bool),
}

/// What of a path cannot stand in a URL as it is (RFC 3986 §3.3).
const PATH_SET: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');
/// The same of a query, which is encoded already.
const QUERY_SET: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'#').add(b'<').add(b'>');
/// The parameter in which players talk about themselves: a different one with each request, and of no
/// interest to the upstream.
const CMCD: &str = "CMCD";

impl Section {
    pub(super) fn new(
        options: SectionOptions,
        outside: Outside,
        store: Arc<Store>,
        counts: Arc<Counts>,
    ) -> Arc<Section> {
        let rules = TableRules {
            answers_max: options.answers_max,
            flights_max: options.fetches_max,
            keeps_stale: options.is_static(),
        };
        Arc::new(Section {
            options,
            outside,
            store,
            counts,
            table: Mutex::new(AnswerTable::new(rules)),
            used: Arc::default(),
            file_turn: Arc::new(Semaphore::new(1)),
            is_down: AtomicBool::new(false),
        })
    }

    /// The answer to a request for what is left of its name behind the section's folder. Begins a
    /// flight if need be.
    pub fn look(self: &Arc<Self>, rest: &str, is_folder: bool, query: Option<&str>) -> Look {
        let key = self.options.key(rest, is_folder, query);
        let mut gone = Gone::new();
        let new_flight = || Flight::new(self.options.wait_ms_max());
        let found = self.table.lock().look(&key, clock::tick_ms(), new_flight, &mut gone);
        self.drop_outside(gone);
        let now = |outcome| Look::Now { outcome, is_stale: false };
        match found {
            Found::Here(fetched) => now(Outcome::Answer(fetched)),
            Found::Failed(failure) => now(Outcome::Failed(failure)),
            Found::Coming(flight) => Look::Coming(flight, true),
            Found::Begin(flight) => {
                self.begin(key, flight.clone());
                Look::Coming(flight, false)
            }
            Found::Stale(fetched, flight) => {
                if let Some(flight) = flight {
                    self.begin(key, flight);
                }
                Look::Now { outcome: Outcome::Answer(fetched), is_stale: true }
            }
        }
    }

    /// Take out what is of no more use. Not on a core.
    pub(super) fn sweep(&self) {
        let mut gone = Gone::new();
        self.table.lock().sweep(clock::tick_ms(), &mut gone);
    }

    pub(super) fn forget_all(&self) {
        let mut gone = Gone::new();
        self.table.lock().free(u64::MAX, &mut gone);
    }

    /// With an answer files may go, which takes its time.
    fn drop_outside(&self, gone: Gone) {
        if !gone.is_empty() {
            self.outside.spawn(async move { drop(gone) });
        }
    }

    fn begin(self: &Arc<Self>, key: String, flight: Arc<Flight>) {
        let under_way = UnderWay::new(self.clone(), key, flight);
        self.outside.spawn(async move { under_way.fly().await });
    }

    /// Say once that the upstream fails, and once that it does not any more.
    pub(super) fn note(&self, failure: Option<&dyn std::fmt::Display>) {
        let path = &*self.options.path;
        match failure {
            Some(why) if !self.is_down.swap(true, Ordering::Relaxed) => {
                tracing::warn!(path, %why, "an upstream fails");
            }
            Some(why) => tracing::debug!(path, %why, "an upstream fails"),
            None if self.is_down.swap(false, Ordering::Relaxed) => {
                tracing::info!(path, "an upstream answers again");
            }
            None => {}
        }
    }

    /// Count so many bytes more of one answer, and make room for them; false if there is none.
    pub(super) fn charge(&self, share: &Share, bytes: u64) -> bool {
        let max = self.options.cache_bytes_max;
        let used = share.add(bytes);
        if used <= max {
            return true;
        }
        let mut gone = Gone::new();
        self.table.lock().free(used - max, &mut gone);
        drop(gone);
        self.used.load(Ordering::Relaxed) <= max
    }
}

impl SectionOptions {
    /// One resource, given as a whole or not at all.
    pub(super) fn is_static(&self) -> bool {
        !matches!(self.source, Source::Folder(_))
    }

    /// What is asked of the upstream, and what answers are known by: one resource has one.
    fn key(&self, rest: &str, is_folder: bool, query: Option<&str>) -> String {
        let Source::Folder(url) = &self.source else { return String::new() };
        let mut key = format!("{}{}", url.target, utf8_percent_encode(rest, PATH_SET));
        if is_folder && !rest.is_empty() {
            key.push('/');
        }
        let parameters = query.into_iter().flat_map(|query| query.split('&'));
        let is_ours = |parameter: &&str| parameter.split('=').next() != Some(CMCD);
        for (index, parameter) in parameters.filter(is_ours).enumerate() {
            key.push(if index == 0 { '?' } else { '&' });
            key.extend(utf8_percent_encode(parameter, QUERY_SET));
        }
        key
    }

    /// Until the head, and if need be until the end of the body.
    fn wait_ms_max(&self) -> u64 {
        let timeout_ms = self.timeout.as_millis() as u64;
        timeout_ms.saturating_mul(3).saturating_add(5000)
    }

    pub(super) fn lifetime_s(&self, status: u16, said_s: Option<u64>) -> u64 {
        match self.cache_s {
            // Of one file its absence is an answer like any other.
            Some(seconds) if status < 400 => seconds,
            Some(seconds) if self.is_static() && status < 500 => seconds,
            Some(seconds) => seconds.min(DEFAULT_LIFETIME_S),
            None if status >= 400 => said_s.unwrap_or(DEFAULT_LIFETIME_S).min(ERROR_LIFETIME_S_MAX),
            None => said_s.unwrap_or(DEFAULT_LIFETIME_S),
        }
    }
}
