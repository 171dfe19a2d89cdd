//! The answers of one section that are kept, and the flights for those that are not: what a request
//! finds, and what has to go. Nothing is fetched here.
//!
//! | a request finds | and gets |
//! |---|---|
//! | an answer that is fresh, or arrives | it |
//! | a flight | the flight; the older answer if the last flight failed and this one may be stale |
//! | a failure of this moment | the older answer if it may be stale, or the failure |
//! | nothing of this | a new flight, if there is room for one more |

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::fetched::{Fetched, STALE_MS_MAX};
use super::flight::{Failure, Flight, Outcome};
use crate::store::Millis;

/// A failure is kept so long, so that a crowd does not ask a dead upstream each for itself.
pub(super) const FAILURE_MS: Millis = 1000;
/// An answer that is not fresh any more is kept so long, to be confirmed.
const CONFIRMABLE_MS_MAX: Millis = 60_000;
/// Limits of one table, and whether it gives away what is over.
#[derive(Debug, Clone, Copy)]
pub(super) struct TableRules {
    pub(super) answers_max: usize,
    pub(super) flights_max: usize,
    /// An older answer stands in while the upstream is down.
    pub(super) keeps_stale: bool,
}

pub(super) struct AnswerTable {
    rules: TableRules,
    entries: HashMap<String, Entry>,
    /// From the one that was fetched longest ago.
    order: BTreeMap<u64, String>,
    next_stamp: u64,
    /// With those whose answer is known and still arrives.
    flights: usize,
}

#[derive(Default)]
struct Entry {
    stamp: u64,
    flight: Option<Arc<Flight>>,
    fetched: Option<Arc<Fetched>>,
    /// With the time until which nobody tries again.
    failure: Option<(Failure, Millis)>,
    /// A newer version of it is known under another key.
    is_superseded: bool,
}

/// What a request finds.
pub(super) enum Found {
    Here(Arc<Fetched>),
    /// Not fresh any more. With a flight that is to be begun in the background.
    Stale(Arc<Fetched>, Option<Arc<Flight>>),
    Coming(Arc<Flight>),
    /// A new flight: the caller begins it.
    Begin(Arc<Flight>),
    Failed(Failure),
}

/// What was taken out. To be dropped where nobody waits: with it files may go.
pub(super) type Gone = Vec<Arc<Fetched>>;

impl AnswerTable {
    pub(super) fn new(rules: TableRules) -> AnswerTable {
        AnswerTable {
            rules,
            entries: HashMap::new(),
            order: BTreeMap::new(),
            next_stamp: 0,
            flights: 0,
        }
    }

    pub(super) fn look(
        &mut self,
        key: &str,
        now_ms: Millis,
        new_flight: impl FnOnce() -> Arc<Flight>,
        gone: &mut Gone,
    ) -> Found {
        let entry = self.entries.get(key);
        let fetched = entry.and_then(|entry| entry.fetched.as_ref()).filter(|f| f.is_sound());
        let is_newest = entry.is_some_and(|entry| !entry.is_superseded);
        if let Some(fetched) = fetched
            && (fetched.is_arriving() || (is_newest && fetched.is_fresh(now_ms)))
        {
            return Found::Here(fetched.clone());
        }
        let may_be_stale =
            |fetched: &&Arc<Fetched>| self.rules.keeps_stale && fetched.may_stand_in(now_ms);
        let stale = fetched.filter(may_be_stale).cloned();
        let failure = entry.and_then(|entry| entry.failure);
        if let Some(flight) = entry.and_then(|entry| entry.flight.clone()) {
            return match stale.filter(|_| failure.is_some()) {
                Some(stale) => Found::Stale(stale, None),
                None => Found::Coming(flight),
            };
        }
        if let Some((failure, until_ms)) = failure
            && now_ms < until_ms
        {
            return stale.map_or(Found::Failed(failure), |stale| Found::Stale(stale, None));
        }
        if self.flights >= self.rules.flights_max || !self.make_room(key, gone) {
            return stale.map_or(Found::Failed(Failure::Busy), |stale| Found::Stale(stale, None));
        }
        let flight = new_flight();
        self.flights += 1;
        self.enter(key).flight = Some(flight.clone());
        match stale.filter(|_| failure.is_some()) {
            Some(stale) => Found::Stale(stale, Some(flight)),
            None => Found::Begin(flight),
        }
    }

    /// Room for one more key; false if all of them are under way.
    fn make_room(&mut self, key: &str, gone: &mut Gone) -> bool {
        self.entries.contains_key(key)
            || self.entries.len() < self.rules.answers_max
            || self.remove_oldest(gone)
    }

    /// The entry of this key, as the newest.
    fn enter(&mut self, key: &str) -> &mut Entry {
        let entry = self.entries.entry(key.to_owned()).or_default();
        self.order.remove(&entry.stamp);
        self.next_stamp += 1;
        entry.stamp = self.next_stamp;
        self.order.insert(self.next_stamp, key.to_owned());
        entry
    }

    /// The answer that a flight may ask the upstream to confirm, or that may stand in for another.
    pub(super) fn previous(&self, key: &str) -> Option<Arc<Fetched>> {
        self.entries.get(key)?.fetched.clone().filter(|fetched| fetched.is_sound())
    }

    /// What a flight has come to. Nothing is lost: a failure leaves an older answer where it is.
    pub(super) fn land(
        &mut self,
        key: &str,
        outcome: &Outcome,
        now_ms: Millis,
    ) -> Option<Arc<Fetched>> {
        let entry = self.enter(key);
        entry.flight = None;
        match outcome {
            Outcome::Answer(fetched) => {
                entry.failure = None;
                entry.is_superseded = false;
                let before = entry.fetched.replace(fetched.clone());
                self.supersede(key);
                before
            }
            Outcome::Failed(failure) => {
                entry.failure = Some((*failure, now_ms + FAILURE_MS));
                None
            }
        }
    }

    /// A blocking reload brought a newer version of a playlist: without directives it must not be older
    /// from now on, or who asks for it both ways would see it go backwards.
    fn supersede(&mut self, key: &str) {
        for plain in plain_keys(key) {
            if let Some(entry) = self.entries.get_mut(&plain) {
                entry.is_superseded = true;
            }
        }
    }

    /// All of a flight's answer is here, or will never be.
    pub(super) fn end_flight(&mut self) {
        self.flights -= 1;
    }

    /// Take out the oldest answers until so many bytes are gone, but for what arrives.
    pub(super) fn free(&mut self, bytes: u64, gone: &mut Gone) {
        let mut freed = 0;
        while freed < bytes {
            let before = gone.len();
            if !self.remove_oldest(gone) {
                return;
            }
            freed += gone[before..].iter().map(|fetched| fetched.bytes()).sum::<u64>();
        }
    }

    fn remove_oldest(&mut self, gone: &mut Gone) -> bool {
        let entries = &self.entries;
        let is_idle = |key: &&String| entries.get(*key).is_none_or(Entry::is_idle);
        let Some(key) = self.order.values().find(is_idle).cloned() else { return false };
        self.remove(&key, gone);
        true
    }

    fn remove(&mut self, key: &str, gone: &mut Gone) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.stamp);
            gone.extend(entry.fetched);
        }
    }

    /// Take out what is of no more use.
    pub(super) fn sweep(&mut self, now_ms: Millis, gone: &mut Gone) {
        let stale_ms_max = if self.rules.keeps_stale { STALE_MS_MAX } else { CONFIRMABLE_MS_MAX };
        let is_useless = |entry: &Entry| {
            let is_over = |fetched: &Arc<Fetched>| {
                let kept_ms = match fetched.validators().is_empty() && !self.rules.keeps_stale {
                    true => 0,
                    false => stale_ms_max,
                };
                !fetched.is_fresh(now_ms) && fetched.stale_ms(now_ms) >= kept_ms
            };
            let has_failed_lately = entry.failure.is_some_and(|(_, until_ms)| now_ms < until_ms);
            entry.is_idle() && !has_failed_lately && entry.fetched.as_ref().is_none_or(is_over)
        };
        let useless = self.entries.iter().filter(|(_, entry)| is_useless(entry));
        let keys: Vec<String> = useless.map(|(key, _)| key.clone()).collect();
        for key in keys {
            self.remove(&key, gone);
        }
    }
}

/// Of a key that waits for a version of a playlist, those that do not (RFC 8216bis §6.2.5).
fn plain_keys(key: &str) -> Vec<String> {
    let Some((path, query)) = key.split_once('?') else { return Vec::new() };
    if !query.split('&').any(|parameter| parameter.starts_with("_HLS_msn=")) {
        return Vec::new();
    }
    let others = query.split('&').filter(|parameter| !parameter.starts_with("_HLS_"));
    let others: Vec<&str> = others.collect();
    let with = |skip: Option<&'static str>| {
        let parameters: Vec<&str> = others.iter().copied().chain(skip).collect();
        if parameters.is_empty() {
            return path.to_owned();
        }
        format!("{path}?{}", parameters.join("&"))
    };
    [None, Some("_HLS_skip=YES"), Some("_HLS_skip=v2")].map(with).to_vec()
}

impl Entry {
    /// Nothing of it is under way.
    fn is_idle(&self) -> bool {
        let is_arriving = |fetched: &Arc<Fetched>| fetched.is_arriving();
        self.flight.is_none() && !self.fetched.as_ref().is_some_and(is_arriving)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::fetch::fetched::{FetchedBody, Share, Times};

    const RULES: TableRules = TableRules { answers_max: 3, flights_max: 2, keeps_stale: false };

    fn text(received_ms: Millis, lifetime_ms: u64, bytes: u64) -> Outcome {
        let body = FetchedBody::Text { fields: Vec::new(), bytes: Bytes::new() };
        let times = Times { received_ms, age_ms: 0, lifetime_ms };
        let share = Share::new(Arc::default());
        share.add(bytes);
        Outcome::Answer(Arc::new(Fetched::new(404, body, Vec::new(), times, share)))
    }

    fn look(table: &mut AnswerTable, key: &str, now_ms: Millis) -> Found {
        table.look(key, now_ms, || Flight::new(0), &mut Gone::new())
    }

    fn fly(table: &mut AnswerTable, key: &str, now_ms: Millis, outcome: &Outcome) {
        assert!(matches!(look(table, key, now_ms), Found::Begin(_)), "{key}");
        table.land(key, outcome, now_ms);
        table.end_flight();
    }

    #[test]
    fn one_flight_serves_all_who_come_meanwhile() {
        let mut table = AnswerTable::new(RULES);
        assert!(matches!(look(&mut table, "a", 0), Found::Begin(_)));
        assert!(matches!(look(&mut table, "a", 0), Found::Coming(_)));
        table.land("a", &text(0, 100, 1), 0);
        table.end_flight();
        assert!(matches!(look(&mut table, "a", 99), Found::Here(_)));
        assert!(matches!(look(&mut table, "a", 100), Found::Begin(_)));
    }

    #[test]
    fn what_may_not_be_kept_is_fetched_for_each_crowd() {
        let mut table = AnswerTable::new(RULES);
        for now_ms in 0..3 {
            fly(&mut table, "a", now_ms, &text(now_ms, 0, 1));
        }
    }

    #[test]
    fn a_failure_is_kept_for_a_moment() {
        let mut table = AnswerTable::new(RULES);
        fly(&mut table, "a", 0, &Outcome::Failed(Failure::Broken));
        assert!(matches!(look(&mut table, "a", FAILURE_MS - 1), Found::Failed(Failure::Broken)));
        assert!(matches!(look(&mut table, "a", FAILURE_MS), Found::Begin(_)));
    }

    /// Goal: while the upstream is down nobody waits for it but the first who found out.
    #[test]
    fn an_older_answer_stands_in() {
        let mut table = AnswerTable::new(TableRules { keeps_stale: true, ..RULES });
        fly(&mut table, "a", 0, &text(0, 10, 1));
        fly(&mut table, "a", 20, &Outcome::Failed(Failure::Broken));
        assert!(matches!(look(&mut table, "a", 21), Found::Stale(_, None)));
        assert!(matches!(look(&mut table, "a", 20 + FAILURE_MS), Found::Stale(_, Some(_))));
        assert!(matches!(look(&mut table, "a", 20 + FAILURE_MS), Found::Stale(_, None)));
        table.land("a", &text(2000, 10, 1), 2000);
        table.end_flight();
        assert!(matches!(look(&mut table, "a", 2001), Found::Here(_)));
        assert!(matches!(look(&mut table, "a", 2010), Found::Begin(_)), "it works again: wait");
        table.land("a", &Outcome::Failed(Failure::Broken), 2010);
        table.end_flight();
        let over = 2010 + STALE_MS_MAX;
        assert!(matches!(look(&mut table, "a", over), Found::Begin(_)), "too old to stand in");
    }

    #[test]
    fn the_oldest_goes_first_and_flights_stay() {
        let mut table = AnswerTable::new(RULES);
        for (key, bytes) in [("a", 10), ("b", 20), ("c", 30)] {
            fly(&mut table, key, 0, &text(0, 1000, bytes));
        }
        fly(&mut table, "d", 0, &text(0, 1000, 40));
        assert!(matches!(look(&mut table, "b", 1), Found::Here(_)));
        assert!(table.previous("a").is_none(), "three are kept");
        let mut gone = Gone::new();
        table.free(21, &mut gone);
        assert_eq!(gone.iter().map(|fetched| fetched.bytes()).sum::<u64>(), 50);
        assert!(table.previous("d").is_some());
        assert!(matches!(look(&mut table, "e", 1), Found::Begin(_)));
        assert!(matches!(look(&mut table, "f", 1), Found::Begin(_)));
        assert!(matches!(look(&mut table, "g", 1), Found::Failed(Failure::Busy)), "two flights");
        table.free(u64::MAX, &mut gone);
        assert_eq!((table.entries.len(), table.order.len()), (2, 2), "flights stay");
    }

    /// Goal: what a blocking reload has brought is not older without its directives.
    #[test]
    fn a_newer_version_supersedes_the_plain_one() {
        let mut table = AnswerTable::new(TableRules { answers_max: 10, ..RULES });
        let fresh = |now_ms| text(now_ms, 1000, 1);
        for key in ["/a", "/a?_HLS_skip=YES", "/a?x=y", "/b"] {
            fly(&mut table, key, 0, &fresh(0));
        }
        fly(&mut table, "/a?_HLS_msn=7&_HLS_part=1", 1, &fresh(1));
        for (key, is_here) in [("/b", true), ("/a?x=y", true), ("/a?_HLS_msn=7&_HLS_part=1", true)]
        {
            assert_eq!(matches!(look(&mut table, key, 2), Found::Here(_)), is_here, "{key}");
        }
        fly(&mut table, "/a", 2, &fresh(2));
        fly(&mut table, "/a?_HLS_skip=YES", 2, &fresh(2));
        assert!(matches!(look(&mut table, "/a", 3), Found::Here(_)));
        fly(&mut table, "/a?x=y&_HLS_msn=8", 3, &fresh(3));
        assert!(matches!(look(&mut table, "/a", 4), Found::Here(_)));
        assert!(matches!(look(&mut table, "/a?x=y", 4), Found::Begin(_)));
    }

    #[test]
    fn what_is_of_no_use_is_swept() {
        let mut table = AnswerTable::new(RULES);
        fly(&mut table, "fresh", 0, &text(0, 100_000, 1));
        fly(&mut table, "over", 0, &text(0, 10, 1));
        fly(&mut table, "failed", 0, &Outcome::Failed(Failure::Broken));
        let mut gone = Gone::new();
        table.sweep(FAILURE_MS, &mut gone);
        assert_eq!((gone.len(), table.entries.len(), table.order.len()), (1, 1, 1));
        table.sweep(200_000, &mut gone);
        assert!(table.entries.is_empty() && table.order.is_empty());
        let mut table = AnswerTable::new(TableRules { keeps_stale: true, ..RULES });
        fly(&mut table, "a", 0, &text(0, 10, 1));
        table.sweep(STALE_MS_MAX, &mut gone);
        assert!(table.previous("a").is_some(), "it may have to stand in");
        table.sweep(STALE_MS_MAX + 10, &mut gone);
        assert!(table.previous("a").is_none());
    }
}
