//! The table of channels: one publisher each, found by its receivers, decided on by a gatekeeper.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use subtle::ConstantTimeEq;

use super::Options;
use super::admission::{self, Addresses, Admission, TooManyConnections};
use super::gatekeeper::{Gatekeeper, PublishRequest, Publishers, Running, Verdict};
use crate::store::{MESSAGE_OVERHEAD_BYTES, MessageLook, Millis, News, NewsWait, Object, Store};

/// How finely the age of chunks is remembered.
const AGE_STEP_MS: Millis = 100;

/// All channels of the origin.
pub struct Channels {
    pub options: Options,
    store: Arc<Store>,
    gatekeeper: OnceLock<Arc<dyn Gatekeeper>>,
    addresses: Arc<Addresses>,
    table: Mutex<HashMap<Box<str>, Entry>>,
}

/// A channel is forgotten with the last of its seats.
struct Entry {
    channel: Arc<Channel>,
    seats: usize,
}

/// One channel that somebody publishes to, or waits for.
struct Channel {
    name: Box<str>,
    news: Arc<News>,
    state: Mutex<State>,
}

enum State {
    Free,
    Claimed(Arc<Candidate>),
    Live(Session),
}

/// A publisher that is being decided on, or was let in and has not begun.
struct Candidate {
    request: PublishRequest,
    slot: Mutex<Slot>,
}

/// From a publisher's coming to its going.
struct Session {
    running: Running,
    object: Arc<Object>,
    /// A receiver took the cache for itself: later ones get what comes.
    is_cache_over: bool,
    is_killed: bool,
    /// When chunks came: a time, and the number of the first chunk from then on.
    ages: VecDeque<(Millis, u64)>,
}

/// What a receiver finds.
pub enum Look {
    /// Nobody publishes.
    Free,
    WrongKey,
    Live(Start),
}

/// Where a receiver begins.
pub struct Start {
    pub object: Arc<Object>,
    /// The first message for it.
    pub number: u64,
}

impl Channels {
    pub fn new(options: Options, store: Arc<Store>) -> Arc<Channels> {
        Arc::new(Channels {
            options,
            store,
            gatekeeper: OnceLock::new(),
            addresses: Arc::default(),
            table: Mutex::default(),
        })
    }

    /// From now on this one decides; before, and without it, each key is good. Said once.
    pub fn set_gatekeeper(&self, gatekeeper: Arc<dyn Gatekeeper>) {
        let is_first = self.gatekeeper.set(gatekeeper).is_ok();
        assert!(is_first, "there is one gatekeeper");
    }

    /// Count a connection of `ip`.
    pub fn admit(&self, ip: IpAddr) -> Result<Admission, TooManyConnections> {
        let is_unlimited = admission::contains(&self.options.unlimited_from, ip);
        let max = if is_unlimited { 0 } else { self.options.connections_per_ip_max };
        self.addresses.admit(ip, max)
    }

    pub fn may_play(&self, ip: IpAddr) -> bool {
        let ranges = &self.options.play_from;
        ranges.is_empty() || admission::contains(ranges, ip)
    }

    /// Live channels and receivers' channels, for the metrics page.
    pub fn gauges(&self) -> (usize, usize) {
        let table = self.table.lock();
        let live = table.values().filter(|entry| entry.channel.is_live()).count();
        (table.len(), live)
    }

    /// Take the channel for a publisher; `None` if it is taken.
    pub fn claim(self: &Arc<Self>, request: PublishRequest) -> Option<Claim> {
        let seat = self.seat(&request.channel);
        let candidate = {
            let mut state = seat.channel.state.lock();
            if !matches!(*state, State::Free) {
                return None;
            }
            let candidate = Arc::new(Candidate { request, slot: Mutex::default() });
            *state = State::Claimed(candidate.clone());
            candidate
        };
        Some(Claim { seat, candidate })
    }

    /// A receiver's place, whether somebody publishes or not.
    pub fn seat(self: &Arc<Self>, name: &str) -> Seat {
        let mut table = self.table.lock();
        let entry = table.entry(name.into()).or_insert_with(|| {
            let state = Mutex::new(State::Free);
            let channel = Arc::new(Channel { name: name.into(), news: Arc::default(), state });
            Entry { channel, seats: 0 }
        });
        entry.seats += 1;
        Seat { channels: self.clone(), channel: entry.channel.clone() }
    }

    /// Somebody publishes to it, or is being looked at.
    pub fn is_taken(&self, name: &str) -> bool {
        self.find(name).is_some_and(|channel| !matches!(*channel.state.lock(), State::Free))
    }

    fn find(&self, name: &str) -> Option<Arc<Channel>> {
        self.table.lock().get(name).map(|entry| entry.channel.clone())
    }

    /// What a receiver with this key finds now, without waiting for a publisher.
    pub fn look(&self, name: &str, key: &str) -> Look {
        self.find(name).map_or(Look::Free, |channel| channel.look(&self.options, key))
    }

    /// The first chunk of the cache as it is now.
    fn cache_start(options: &Options, session: &Session) -> u64 {
        let (first, next) = session.object.messages();
        if session.is_cache_over || options.cache_bytes_max == 0 {
            return next;
        }
        let by_size = first_within(&session.object, (first, next), options.cache_bytes_max);
        let Some(cache_ms) = options.cache_ms else { return by_size };
        let oldest_ms = (options.clock)().saturating_sub(cache_ms);
        let young = session.ages.partition_point(|(at_ms, _)| *at_ms < oldest_ms);
        by_size.max(session.ages.get(young).map_or(next, |(_, number)| *number))
    }
}

/// The first of the messages `[first, next)` from which all together cost at most `bytes_max`.
fn first_within(object: &Object, (first, next): (u64, u64), bytes_max: u64) -> u64 {
    let MessageLook::Here(newest) = object.message(next.wrapping_sub(1)) else { return next };
    let fits = |number: u64| match object.message(number) {
        MessageLook::Here(message) => {
            let overhead = (next - number) * MESSAGE_OVERHEAD_BYTES;
            newest.end - message.start + overhead <= bytes_max
        }
        MessageLook::Forgotten { .. } => false,
        MessageLook::NotYet => true,
    };
    let (mut low, mut high) = (first, next);
    while low < high {
        let middle = low + (high - low) / 2;
        if fits(middle) { high = middle } else { low = middle + 1 }
    }
    low
}

impl Publishers for Channels {
    fn kill(&self, channel: &str, stream_id: Option<&str>) {
        let Some(channel) = self.find(channel) else { return };
        {
            let is_it = |own: &str| stream_id.is_none_or(|id| id == own);
            match &mut *channel.state.lock() {
                State::Live(session) if is_it(&session.running.stream_id) => {
                    session.is_killed = true;
                }
                State::Claimed(candidate) => {
                    let mut slot = candidate.slot.lock();
                    slot.is_killed |= slot.stream_id().is_some_and(is_it);
                }
                State::Free | State::Live(_) => {}
            }
        }
        channel.news.tell(&self.store, None);
    }

    fn running(&self) -> Vec<Running> {
        let channels: Vec<_> =
            self.table.lock().values().map(|entry| entry.channel.clone()).collect();
        channels.iter().filter_map(|channel| channel.running()).collect()
    }

    fn rename(&self, channel: &str, from: &str, to: &str) {
        let Some(channel) = self.find(channel) else { return };
        match &mut *channel.state.lock() {
            State::Live(session) if session.running.stream_id == from => {
                session.running.stream_id = to.to_owned();
            }
            State::Claimed(candidate) => {
                let mut slot = candidate.slot.lock();
                if slot.stream_id() == Some(from) {
                    slot.verdict = Some(Verdict::Accept { stream_id: to.to_owned() });
                }
            }
            State::Free | State::Live(_) => {}
        }
    }
}

impl Channel {
    fn is_live(&self) -> bool {
        matches!(*self.state.lock(), State::Live(_))
    }

    fn running(&self) -> Option<Running> {
        match &*self.state.lock() {
            State::Free => None,
            State::Claimed(candidate) => {
                let slot = candidate.slot.lock();
                let stream_id = slot.stream_id()?.to_owned();
                Some(Running { request: candidate.request.clone(), stream_id })
            }
            State::Live(session) => Some(session.running.clone()),
        }
    }

    fn look(&self, options: &Options, key: &str) -> Look {
        let state = self.state.lock();
        let State::Live(session) = &*state else { return Look::Free };
        let is_right: bool = session.running.request.key.as_bytes().ct_eq(key.as_bytes()).into();
        if !is_right {
            return Look::WrongKey;
        }
        let number = Channels::cache_start(options, session);
        Look::Live(Start { object: session.object.clone(), number })
    }
}

/// Somebody's hold on a channel.
pub struct Seat {
    channels: Arc<Channels>,
    channel: Arc<Channel>,
}

impl Seat {
    pub fn look(&self, key: &str) -> Look {
        self.channel.look(&self.channels.options, key)
    }

    /// As `look`, for who was here before the publisher: every chunk came since, whatever the cache
    /// gives to others.
    pub fn look_again(&self, key: &str) -> Look {
        match self.look(key) {
            Look::Live(start) => {
                let number = start.object.messages().0;
                Look::Live(Start { number, ..start })
            }
            other => other,
        }
    }

    /// Those who come later get no cache, until the publisher goes.
    pub fn end_cache(&self) {
        if let State::Live(session) = &mut *self.channel.state.lock() {
            session.is_cache_over = true;
        }
    }

    /// Waits for the next change of the channel after this call.
    pub fn news(&self) -> NewsWait {
        NewsWait::new(self.channel.news.clone(), self.channel.news.version())
    }

    fn tell(&self, core: Option<usize>) {
        self.channel.news.tell(&self.channels.store, core);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut table = self.channels.table.lock();
        if let Some(entry) = table.get_mut(&self.channel.name) {
            entry.seats -= 1;
            if entry.seats == 0 {
                table.remove(&self.channel.name);
            }
        }
    }
}

/// A channel that is kept for a publisher until it is decided on. Dropped, the channel is free again.
pub struct Claim {
    seat: Seat,
    candidate: Arc<Candidate>,
}

/// A verdict on its way from who decides to who waits.
#[derive(Default)]
struct Slot {
    verdict: Option<Verdict>,
    waiter: Option<Waker>,
    /// The publisher did not wait, or could not begin: one that is accepted has gone already.
    is_given_up: bool,
    /// Since it was let in.
    is_killed: bool,
}

impl Slot {
    /// Of a publisher that was let in.
    fn stream_id(&self) -> Option<&str> {
        match &self.verdict {
            Some(Verdict::Accept { stream_id }) => Some(stream_id),
            Some(Verdict::Deny) | None => None,
        }
    }
}

impl Claim {
    /// Ask whoever decides.
    pub fn ask(&self) {
        let Some(gatekeeper) = self.seat.channels.gatekeeper.get() else {
            let verdict = Verdict::Accept { stream_id: String::new() };
            self.candidate.slot.lock().verdict = Some(verdict);
            return;
        };
        let candidate = self.candidate.clone();
        let promise = Promise { candidate, gatekeeper: gatekeeper.clone() };
        let answer = move |verdict| promise.keep(verdict);
        gatekeeper.ask(self.candidate.request.clone(), Box::new(answer));
    }

    /// The answer to `ask`.
    pub fn poll_verdict(&self, context: &mut Context<'_>) -> Poll<Verdict> {
        let mut slot = self.candidate.slot.lock();
        if let Some(verdict) = &slot.verdict {
            return Poll::Ready(verdict.clone());
        }
        slot.waiter = Some(context.waker().clone());
        Poll::Pending
    }

    /// The publisher begins: its chunks are the messages of `object`.
    pub fn go_live(self, object: Arc<Object>, core: Option<usize>) -> Publication {
        let seat = self.seat.channels.seat(&self.seat.channel.name);
        {
            let mut state = seat.channel.state.lock();
            let mut slot = self.candidate.slot.lock();
            let stream_id = slot.stream_id().unwrap_or_default().to_owned();
            // From here on its end is the publication's to tell.
            slot.verdict = Some(Verdict::Deny);
            *state = State::Live(Session {
                running: Running { request: self.candidate.request.clone(), stream_id },
                object,
                is_cache_over: false,
                is_killed: slot.is_killed,
                ages: VecDeque::new(),
            });
        }
        let news = seat.news();
        seat.tell(core);
        Publication { seat, news, core }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        {
            let mut state = self.seat.channel.state.lock();
            if matches!(*state, State::Claimed(_)) {
                *state = State::Free;
            }
        }
        let verdict = {
            let mut slot = self.candidate.slot.lock();
            slot.is_given_up = true;
            slot.verdict.take()
        };
        if let (Some(gatekeeper), Some(verdict)) = (self.seat.channels.gatekeeper.get(), verdict) {
            tell_end(&**gatekeeper, &self.candidate.request, verdict);
        }
    }
}

/// Who accepted a publisher is told of its end.
fn tell_end(gatekeeper: &dyn Gatekeeper, request: &PublishRequest, verdict: Verdict) {
    if let Verdict::Accept { stream_id } = verdict {
        gatekeeper.ended(&Running { request: request.clone(), stream_id });
    }
}

/// Dropped before it is kept, it is a refusal.
struct Promise {
    candidate: Arc<Candidate>,
    gatekeeper: Arc<dyn Gatekeeper>,
}

impl Promise {
    fn keep(&self, verdict: Verdict) {
        let mut slot = self.candidate.slot.lock();
        if slot.is_given_up {
            drop(slot);
            return tell_end(&*self.gatekeeper, &self.candidate.request, verdict);
        }
        slot.verdict.get_or_insert(verdict);
        let waiter = slot.waiter.take();
        drop(slot);
        if let Some(waiter) = waiter {
            waiter.wake();
        }
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        // What was kept stays as it is.
        self.keep(Verdict::Deny);
    }
}

/// A publisher that was let in. Dropped, its channel is free.
pub struct Publication {
    seat: Seat,
    news: NewsWait,
    core: Option<usize>,
}

impl Publication {
    /// Messages from `number` on have come.
    pub fn note_messages(&self, number: u64) {
        let options = &self.seat.channels.options;
        let Some(cache_ms) = options.cache_ms else { return };
        if let State::Live(session) = &mut *self.seat.channel.state.lock() {
            note_age(&mut session.ages, (options.clock)(), number, cache_ms);
        }
    }

    /// Ready when somebody wants the publisher to go.
    pub fn poll_killed(&mut self, core: usize, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.is_killed() {
                return Poll::Ready(());
            }
            if self.news.poll_news(core, context).is_pending() {
                return Poll::Pending;
            }
            self.news = self.seat.news();
        }
    }

    fn is_killed(&self) -> bool {
        matches!(&*self.seat.channel.state.lock(), State::Live(session) if session.is_killed)
    }
}

fn note_age(ages: &mut VecDeque<(Millis, u64)>, now_ms: Millis, number: u64, cache_ms: Millis) {
    if ages.back().is_none_or(|(at_ms, _)| at_ms + AGE_STEP_MS <= now_ms) {
        ages.push_back((now_ms, number));
    }
    while ages.front().is_some_and(|(at_ms, _)| at_ms + cache_ms < now_ms) {
        ages.pop_front();
    }
}

impl Drop for Publication {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.seat.channel.state.lock(), State::Free);
        self.seat.tell(self.core);
        let State::Live(session) = before else { return };
        if let Some(gatekeeper) = self.seat.channels.gatekeeper.get() {
            gatekeeper.ended(&session.running);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::channels::{Answer, LagRule};
    use crate::store::{
        MessageEnd, MessageKind, MessageWindow, ObjectInfo, Partial, StoreOptions, Writer,
    };

    static NOW_MS: AtomicU64 = AtomicU64::new(1_000_000);

    fn channels(cache_bytes_max: u64, cache_ms: Option<u64>) -> Arc<Channels> {
        let store = Store::open(StoreOptions::in_memory());
        let options = Options {
            cache_bytes_max,
            cache_ms,
            lag_bytes_max: 1 << 20,
            lag_rule: LagRule::Skip,
            message_bytes_max: 1 << 20,
            id_length_max: 8,
            connections_per_ip_max: 0,
            unlimited_from: Vec::new(),
            play_from: Vec::new(),
            heartbeat_interval_s: 20,
            silence_timeout_s: 60,
            clock: || NOW_MS.load(Ordering::SeqCst),
        };
        Channels::new(options, store.unwrap())
    }

    fn request(channel: &str, key: &str) -> PublishRequest {
        PublishRequest {
            channel: channel.to_owned(),
            key: key.to_owned(),
            ip: IpAddr::from([127, 0, 0, 1]),
        }
    }

    fn accepted(id: &str) -> Verdict {
        Verdict::Accept { stream_id: id.to_owned() }
    }

    fn go_live(channels: &Arc<Channels>, channel: &str, key: &str) -> (Writer, Publication) {
        let (writer, claim) = let_in(channels, channel, key);
        let publication = claim.go_live(writer.object().clone(), None);
        (writer, publication)
    }

    fn let_in(channels: &Arc<Channels>, channel: &str, key: &str) -> (Writer, Claim) {
        let claim = channels.claim(request(channel, key)).unwrap();
        let info = ObjectInfo::default();
        let mut writer = channels.store.begin_unnamed("channel", info, None).unwrap();
        writer.keep_messages(MessageWindow { bytes_max: 1 << 20, count_max: usize::MAX });
        claim.candidate.slot.lock().verdict = Some(accepted("id1"));
        (writer, claim)
    }

    fn send(writer: &mut Writer, publication: &Publication, bytes: usize) {
        let chunk = vec![7; bytes];
        let end = MessageEnd { offset: writer.written() + bytes as u64, kind: MessageKind::Binary };
        writer.append_messages(&[IoSlice::new(&chunk)], &[end], Partial::Visible).unwrap();
        publication.note_messages(writer.object().messages().1 - 1);
    }

    fn start_of(channels: &Arc<Channels>, key: &str) -> u64 {
        match channels.look("a", key) {
            Look::Live(start) => start.number,
            Look::Free => panic!("nobody publishes"),
            Look::WrongKey => panic!("the key is wrong"),
        }
    }

    #[test]
    fn a_channel_has_one_publisher() {
        let channels = channels(1000, None);
        let claim = channels.claim(request("a", "k")).unwrap();
        assert!(channels.claim(request("a", "k")).is_none() && channels.is_taken("a"));
        assert!(channels.claim(request("b", "k")).is_some());
        drop(claim);
        assert!(!channels.is_taken("a"), "a claim that comes to nothing frees its channel");
        let (_writer, publication) = go_live(&channels, "a", "k");
        assert!(channels.claim(request("a", "k")).is_none());
        drop(publication);
        assert!(channels.claim(request("a", "k")).is_some());
        assert_eq!(channels.gauges(), (0, 0), "nobody is left");
    }

    #[test]
    fn the_key_is_that_of_the_publisher() {
        let channels = channels(1000, None);
        let early = channels.seat("a");
        assert!(matches!(early.look("other"), Look::Free));
        let (_writer, _publication) = go_live(&channels, "a", "k");
        for key in ["other", "", "kk", "K"] {
            assert!(matches!(early.look(key), Look::WrongKey), "{key:?}");
        }
        assert!(matches!(early.look("k"), Look::Live(_)));
    }

    #[test]
    fn who_waited_gets_all_even_without_a_cache() {
        let channels = channels(0, None);
        let early = channels.seat("a");
        let (mut writer, publication) = go_live(&channels, "a", "k");
        send(&mut writer, &publication, 10);
        let number = |look| match look {
            Look::Live(start) => start.number,
            Look::Free | Look::WrongKey => panic!("it is live"),
        };
        assert_eq!(number(early.look_again("k")), 0);
        assert_eq!(number(channels.seat("a").look("k")), 1);
        assert!(matches!(early.look_again("other"), Look::WrongKey));
    }

    #[test]
    fn the_cache_is_limited_by_size_and_can_be_cleared() {
        let channels = channels(100, None);
        let (mut writer, publication) = go_live(&channels, "a", "k");
        assert_eq!(start_of(&channels, "k"), 0);
        // Each counts 36: two fit.
        (0..5).for_each(|_| send(&mut writer, &publication, 20));
        assert_eq!(start_of(&channels, "k"), 3);
        send(&mut writer, &publication, 84);
        assert_eq!(start_of(&channels, "k"), 5, "84 and 16 are exactly what fits");
        send(&mut writer, &publication, 85);
        assert_eq!(start_of(&channels, "k"), 7, "what does not fit is not in the cache");
        channels.seat("a").end_cache();
        send(&mut writer, &publication, 1);
        assert_eq!(start_of(&channels, "k"), 8, "nothing but what comes");
    }

    #[test]
    fn the_cache_is_limited_by_time() {
        let channels = channels(1000, Some(500));
        let (mut writer, publication) = go_live(&channels, "a", "k");
        let start = NOW_MS.load(Ordering::SeqCst);
        for step in 0..10 {
            NOW_MS.store(start + step * 200, Ordering::SeqCst);
            send(&mut writer, &publication, 1);
        }
        assert_eq!(start_of(&channels, "k"), 7, "the last 500 ms");
        NOW_MS.store(start + 10_000, Ordering::SeqCst);
        assert_eq!(start_of(&channels, "k"), 10);
    }

    #[derive(Default)]
    struct ByKey {
        late: Mutex<Option<Answer>>,
        ended: Mutex<Vec<String>>,
    }

    impl Gatekeeper for ByKey {
        fn ask(&self, request: PublishRequest, answer: Answer) {
            match request.key.as_str() {
                "dropped" => drop(answer),
                "late" => *self.late.lock() = Some(answer),
                "good" => answer(Verdict::Accept { stream_id: "s".to_owned() }),
                _ => answer(Verdict::Deny),
            }
        }

        fn ended(&self, running: &Running) {
            self.ended.lock().push(running.request.key.clone());
        }
    }

    #[test]
    fn a_gatekeeper_decides_even_by_forgetting_to() {
        let channels = channels(1000, None);
        let verdict = |key| {
            let claim = channels.claim(request("a", key)).unwrap();
            claim.ask();
            claim.poll_verdict(&mut Context::from_waker(Waker::noop()))
        };
        let refusing = "nobody is there to refuse";
        assert_eq!(verdict("any"), Poll::Ready(accepted("")), "{refusing}");
        let gatekeeper: Arc<ByKey> = Arc::default();
        channels.set_gatekeeper(gatekeeper.clone());
        assert_eq!(verdict("good"), Poll::Ready(accepted("s")));
        assert_eq!(verdict("bad"), Poll::Ready(Verdict::Deny));
        assert_eq!(verdict("dropped"), Poll::Ready(Verdict::Deny));
        // Whoever was accepted and did not begin has ended, also who did not wait for it.
        assert_eq!(verdict("late"), Poll::Pending);
        let answer = gatekeeper.late.lock().take().unwrap();
        answer(Verdict::Accept { stream_id: "late".to_owned() });
        assert_eq!(*gatekeeper.ended.lock(), ["good", "late"]);
        let (_writer, publication) = go_live(&channels, "a", "live");
        assert_eq!(gatekeeper.ended.lock().len(), 2);
        drop(publication);
        assert_eq!(gatekeeper.ended.lock()[2..], ["live"]);
    }

    #[test]
    fn a_kill_names_its_stream_or_none() {
        let channels = channels(1000, None);
        let (_writer, mut publication) = go_live(&channels, "a", "k");
        let mut is_killed = || {
            let mut context = Context::from_waker(Waker::noop());
            publication.poll_killed(0, &mut context).is_ready()
        };
        assert!(!is_killed());
        channels.kill("a", Some("other"));
        channels.kill("b", None);
        assert!(!is_killed());
        channels.rename("a", "other", "x");
        channels.rename("a", "id1", "id2");
        assert_eq!(channels.running()[0].stream_id, "id2");
        channels.kill("a", Some("id2"));
        assert!(is_killed());
    }

    /// Goal: who was let in and has not begun can be killed, asked about and renamed as well.
    #[test]
    fn a_kill_finds_who_is_about_to_begin() {
        for (name, is_hit) in [(None, true), (Some("id2"), true), (Some("id1"), false)] {
            let channels = channels(1000, None);
            let (writer, claim) = let_in(&channels, "a", "k");
            channels.rename("a", "id1", "id2");
            assert_eq!(channels.running()[0].stream_id, "id2");
            channels.kill("a", name);
            let mut publication = claim.go_live(writer.object().clone(), None);
            let mut context = Context::from_waker(Waker::noop());
            assert_eq!(publication.poll_killed(0, &mut context).is_ready(), is_hit, "{name:?}");
            assert_eq!(channels.running()[0].stream_id, "id2");
        }
        let channels = channels(1000, None);
        let claim = channels.claim(request("a", "k")).unwrap();
        channels.kill("a", None);
        assert!(channels.running().is_empty(), "nobody has let it in yet");
        drop(claim);
    }
}
