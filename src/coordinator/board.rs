//! What the coordinator knows: streaming servers, encoders, streams, and who is responsible for
//! which. Messages, answers and expired timers come in, [`Effect`]s go out; there is no I/O and no
//! clock here. The [`super::hub`] carries out what it says.
//!
//! A stream (`Stream`), one for each channel:
//!
//! | state | left by |
//! |---|---|
//! | being checked (`Check`) | `verified` → attached, or denied |
//! | attached (`at` is a connection) | `server_left` → away; `end` |
//! | away (`at` is none) | `keep` when its server asks for it again → attached; its timer → `end` |
//! | killed (`is_killed`) | the server says PUBLISH-END, asks anew, or stays silent: `end` |
//!
//! When `end` has taken a stream off its channel, its encoder may still have to finish (`Ending`):
//! until it says STREAM-CLOSED, goes, or the timer expires. Load is counted from the streams and kept
//! nowhere, so that it cannot be forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::addresses::{ServerAddress, ServerKind};
use super::outbox::{Event, EventKind, Outbox};
use super::settings::StreamSettings;
use super::snapshot::{ActiveRecord, Capacity, EndingRecord, Report, Snapshot};
use super::stream_id::StreamIds;
use crate::wire::channel_messages::{self, ChannelMessage};

/// Streams at once, those that are ending included; more are denied.
pub const STREAMS_MAX: usize = 65_536;
/// Publishers whose keys are being checked; more are denied.
pub const KEY_CHECKS_WAITING_MAX: usize = 16_384;
/// How long an encoder may take to finish a stream that was stopped (it may have a film to write).
const FINISH_TIMEOUT: Duration = Duration::from_secs(600);

/// A control connection.
pub(super) type PeerId = u64;

#[derive(Debug, Clone)]
pub(super) struct Rules {
    pub(super) require_encoder: bool,
    pub(super) id_length_max: usize,
    pub(super) reconnect_grace: Duration,
    pub(super) event_retry: Duration,
    pub(super) checks_keys: bool,
    pub(super) tells_events: bool,
}

/// What the outside has to do.
#[derive(Debug, PartialEq)]
pub(super) enum Effect {
    Send {
        to: PeerId,
        message: ChannelMessage,
    },
    /// Ask the web-hook, then call [`Board::verified`].
    Verify {
        check: u64,
        key: KeyQuestion,
    },
    /// Tell the web-hook, then call [`Board::delivered`] or [`Board::undelivered`].
    Deliver(Event),
    /// Call [`Board::expire`] after this time.
    Arm {
        after: Duration,
        timer: Timer,
    },
    /// The snapshot has changed.
    Save,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyQuestion {
    pub(super) channel: String,
    pub(super) key: String,
    pub(super) user_ip: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Timer {
    /// A stream's server stayed away, or did not end what was to be killed.
    Stream {
        channel: String,
        epoch: u64,
    },
    /// The encoder of a stream did not come back after our restart.
    EncoderAway {
        channel: String,
        stream_id: String,
    },
    Ending {
        stream_id: String,
    },
    Retry {
        stream_id: String,
    },
}

/// Who encodes a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seat {
    Empty,
    At(PeerId),
    /// From a snapshot: an encoder of this address, if it registers again.
    Away(IpAddr),
}

#[derive(Debug)]
struct Stream {
    id: String,
    server: ServerAddress,
    at: Option<PeerId>,
    seat: Seat,
    /// The event hook has heard of it, and will hear of its end.
    is_announced: bool,
    is_killed: bool,
    /// A timer of another epoch is void.
    epoch: u64,
    settings: StreamSettings,
    /// As its server has said; not in a snapshot.
    key: Option<String>,
    /// Its encoder has not spoken of it, or been told again, since our restart.
    is_from_snapshot: bool,
}

#[derive(Debug)]
struct Ending {
    channel: String,
    seat: Seat,
    is_announced: bool,
}

struct Encoder {
    ip: IpAddr,
    /// `None` until REGISTER; negative is without limit.
    capacity: Option<i32>,
}

struct Check {
    from: PeerId,
    request_id: String,
    key: KeyQuestion,
}

pub(super) struct Board {
    rules: Rules,
    servers: HashMap<PeerId, ServerAddress>,
    encoders: HashMap<PeerId, Encoder>,
    /// By channel.
    streams: HashMap<String, Stream>,
    /// By stream id.
    endings: HashMap<String, Ending>,
    checks: HashMap<u64, Check>,
    checks_so_far: u64,
    epochs_so_far: u64,
    ids: StreamIds,
    outbox: Outbox,
    effects: Vec<Effect>,
}

impl Board {
    pub(super) fn new(rules: Rules, clock: fn() -> u64) -> Board {
        Board {
            rules,
            servers: HashMap::new(),
            encoders: HashMap::new(),
            streams: HashMap::new(),
            endings: HashMap::new(),
            checks: HashMap::new(),
            checks_so_far: 0,
            epochs_so_far: 0,
            ids: StreamIds::new(clock),
            outbox: Outbox::default(),
            effects: Vec::new(),
        }
    }

    /// What is to be done since the last call, in this order.
    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    // Streaming servers.

    pub(super) fn server_joined(&mut self, peer: PeerId, address: ServerAddress) {
        self.servers.insert(peer, address);
    }

    pub(super) fn server_left(&mut self, peer: PeerId) {
        self.servers.remove(&peer);
        self.checks.retain(|_, check| check.from != peer);
        let left = self.streams.iter().filter(|(_, stream)| stream.at == Some(peer));
        let channels: Vec<String> = left.map(|(channel, _)| channel.clone()).collect();
        for channel in channels {
            self.detach(&channel);
        }
    }

    pub(super) fn server_says(&mut self, peer: PeerId, message: &ChannelMessage) {
        match message.method() {
            "PUBLISH-REQUEST" => self.publish_request(peer, message),
            "PUBLISH-END" => self.publish_end(peer, message),
            _ => {}
        }
    }

    fn publish_request(&mut self, peer: PeerId, message: &ChannelMessage) {
        let key = KeyQuestion {
            channel: message.get("Stream-Channel").to_owned(),
            key: message.get("Stream-Key").to_owned(),
            user_ip: message.get("User-IP").to_owned(),
        };
        let check = Check { from: peer, request_id: message.get("Request-ID").to_owned(), key };
        if !self.is_id(&check.key.channel) || !self.is_id(&check.key.key) {
            return self.deny(&check, "its channel or key is no id");
        }
        if self.ask_again(&check, message.get("Stream-ID")) {
            return;
        }
        if !self.rules.checks_keys {
            return self.admit(&check, &StreamSettings::default());
        }
        if self.checks.len() >= KEY_CHECKS_WAITING_MAX {
            return self.deny(&check, "too many keys are being checked");
        }
        self.checks_so_far += 1;
        self.effects.push(Effect::Verify { check: self.checks_so_far, key: check.key.clone() });
        self.checks.insert(self.checks_so_far, check);
    }

    /// After a reconnect a server asks for what it has running, and names the stream: is it ours?
    fn ask_again(&mut self, check: &Check, stream_id: &str) -> bool {
        let Some(server) = self.servers.get(&check.from) else { return false };
        let Some(stream) = self.streams.get_mut(&check.key.channel) else {
            return false;
        };
        // The id is proof enough: the address may be another since (IPv6 and IPv4, NAT).
        if stream_id.is_empty() || stream.id != stream_id || stream.server.kind != server.kind {
            return false;
        }
        stream.server = server.clone();
        stream.key = Some(check.key.key.clone());
        if stream.is_killed {
            self.deny(check, "its stream was killed while it was away");
            self.end(&check.key.channel);
            return true;
        }
        self.epochs_so_far += 1;
        stream.epoch = self.epochs_so_far;
        stream.at = Some(check.from);
        tracing::info!(channel = check.key.channel, stream_id, "a stream goes on");
        self.accept(check, stream_id);
        self.start_again(&check.key.channel);
        true
    }

    /// The web-hook has decided; `None` is a refusal.
    pub(super) fn verified(&mut self, check: u64, settings: Option<&StreamSettings>) {
        // Not there: the server has gone meanwhile.
        let Some(check) = self.checks.remove(&check) else { return };
        match settings {
            Some(settings) => self.admit(&check, settings),
            None => self.deny(&check, "its key is wrong, or could not be checked"),
        }
    }

    /// The key is good: is the channel free, and is there an encoder?
    fn admit(&mut self, check: &Check, settings: &StreamSettings) {
        let channel = &check.key.channel;
        let Some(server) = self.servers.get(&check.from).cloned() else { return };
        if let Some(stream) = self.streams.get(channel) {
            // A server that asks anew for what it had has lost the publisher meanwhile; maybe its
            // old connection is not missed yet.
            let is_over = stream.at != Some(check.from) || stream.is_killed;
            if stream.server != server || !is_over {
                return self.deny(check, "somebody publishes there already");
            }
            self.end(channel);
        }
        if self.streams.len() + self.endings.len() >= STREAMS_MAX {
            return self.deny(check, "there are too many streams");
        }
        let encoder = self.free_encoder();
        if encoder.is_none() && self.rules.require_encoder {
            return self.deny(check, "no encoder has room");
        }
        let stream_id = self.ids.next();
        tracing::info!(channel, stream_id, server = check.from, ?encoder, "a stream begins");
        self.epochs_so_far += 1;
        let stream = Stream {
            id: stream_id.clone(),
            server,
            at: Some(check.from),
            seat: encoder.map_or(Seat::Empty, Seat::At),
            is_announced: false,
            is_killed: false,
            epoch: self.epochs_so_far,
            settings: settings.clone(),
            key: Some(check.key.key.clone()),
            is_from_snapshot: false,
        };
        if let Some(encoder) = encoder {
            self.send(encoder, encode_start(channel, &check.key.key, &stream));
        }
        self.streams.insert(channel.clone(), stream);
        self.effects.push(Effect::Save);
        self.accept(check, &stream_id);
    }

    fn publish_end(&mut self, peer: PeerId, message: &ChannelMessage) {
        let (channel, stream_id) = (message.get("Stream-Channel"), message.get("Stream-ID"));
        let Some(stream) = self.streams.get(channel) else { return };
        let is_its_server = self.servers.get(&peer) == Some(&stream.server);
        if is_its_server && names(stream_id, &stream.id) {
            tracing::info!(channel, stream_id = stream.id, "its publisher has gone");
            self.end(channel);
        }
    }

    // Encoders.

    pub(super) fn encoder_joined(&mut self, peer: PeerId, ip: IpAddr) {
        self.encoders.insert(peer, Encoder { ip, capacity: None });
    }

    pub(super) fn encoder_left(&mut self, peer: PeerId) {
        self.encoders.remove(&peer);
        let is_its = |seat| seat == Seat::At(peer);
        let streams = self.streams.iter().filter(|(_, stream)| is_its(stream.seat));
        let endings = self.endings.iter().filter(|(_, ending)| is_its(ending.seat));
        let streams = streams.map(|(channel, stream)| (channel.clone(), stream.id.clone()));
        let endings = endings.map(|(id, ending)| (ending.channel.clone(), id.clone()));
        let lost: Vec<_> = streams.chain(endings).collect();
        for (channel, stream_id) in lost {
            self.lose_encoder(&channel, &stream_id);
        }
    }

    pub(super) fn encoder_says(&mut self, peer: PeerId, message: &ChannelMessage) {
        match message.method() {
            "REGISTER" => self.register(peer, message.get("Capacity")),
            "STREAM-AVAILABLE" => self.stream_available(peer, message),
            "STREAM-CLOSED" => self.stream_closed(peer, message),
            _ => {}
        }
    }

    fn register(&mut self, peer: PeerId, capacity: &str) {
        let Ok(capacity) = capacity.parse::<i32>() else {
            tracing::warn!(encoder = peer, capacity, "an encoder's capacity is no number");
            return;
        };
        let Some(encoder) = self.encoders.get_mut(&peer) else { return };
        encoder.capacity = Some(capacity);
        let ip = encoder.ip;
        tracing::info!(encoder = peer, %ip, capacity, "an encoder is ready");
        // It may be one of those that a snapshot speaks of; one that has room for them.
        let mut room = usize::try_from(capacity).unwrap_or(usize::MAX);
        let mut adopted = Vec::new();
        for (channel, stream) in self.streams.iter_mut().filter(|(_, s)| s.seat == Seat::Away(ip)) {
            if room > 0 {
                stream.seat = Seat::At(peer);
                room -= 1;
                adopted.push(channel.clone());
            }
        }
        adopted.iter().for_each(|channel| self.start_again(channel));
        let mut stopped = Vec::new();
        for (id, ending) in self.endings.iter_mut().filter(|(_, e)| e.seat == Seat::Away(ip)) {
            ending.seat = Seat::At(peer);
            stopped.push((ending.channel.clone(), id.clone()));
        }
        for (channel, id) in stopped {
            self.stop_encoder(peer, &channel, &id);
        }
    }

    /// Part of a stream can be watched.
    fn stream_available(&mut self, peer: PeerId, message: &ChannelMessage) {
        let (channel, id) = (message.get("Stream-Channel"), message.get("Stream-ID"));
        if channel.is_empty() || id.is_empty() {
            return;
        }
        let is_announced = self.rules.tells_events;
        if !self.adopt(peer, channel, id, is_announced) {
            if self.seat_of(channel, id).is_some() {
                tracing::warn!(encoder = peer, channel, id, "an encoder tells of another's stream");
                return;
            }
            if self.streams.len() + self.endings.len() >= STREAMS_MAX {
                return;
            }
            // Nothing that is known: a film that was finished late. Its end is told as well.
            let seat = Seat::At(peer);
            let ending = Ending { channel: channel.to_owned(), seat, is_announced };
            self.endings.insert(id.to_owned(), ending);
            let timer = Timer::Ending { stream_id: id.to_owned() };
            self.effects.push(Effect::Arm { after: FINISH_TIMEOUT, timer });
        }
        self.effects.push(Effect::Save);
        let kind = EventKind::Available {
            stream_type: message.get("Stream-Type").to_owned(),
            resolution: message.get("Resolution").to_owned(),
            index_file: message.get("Index-file").to_owned(),
            start_time: message.get("Start-Time").to_owned(),
        };
        self.tell(channel, id, kind);
    }

    fn stream_closed(&mut self, peer: PeerId, message: &ChannelMessage) {
        let (channel, id) = (message.get("Stream-Channel"), message.get("Stream-ID"));
        tracing::info!(encoder = peer, channel, stream_id = id, "an encoder has closed a stream");
        if self.adopt(peer, channel, id, false) {
            self.lose_encoder(channel, id);
        }
    }

    /// Whether this encoder speaks of a stream that is its own; or was, before our restart.
    fn adopt(&mut self, peer: PeerId, channel: &str, id: &str, is_announced: bool) -> bool {
        let Some(encoder) = self.encoders.get(&peer) else { return false };
        // One that has come back may be here before its old connection is missed.
        let is_its = |other: PeerId| self.encoders.get(&other).is_some_and(|o| o.ip == encoder.ip);
        let may = |seat: Seat| match seat {
            Seat::Empty => false,
            Seat::At(other) => other == peer || is_its(other),
            Seat::Away(ip) => ip == encoder.ip,
        };
        let stream = self.streams.get_mut(channel).filter(|stream| stream.id == id);
        if let Some(stream) = stream.filter(|stream| may(stream.seat)) {
            stream.seat = Seat::At(peer);
            stream.is_announced |= is_announced;
            stream.is_from_snapshot = false;
            return true;
        }
        let ending = self.endings.get_mut(id).filter(|ending| ending.channel == channel);
        let Some(ending) = ending.filter(|ending| may(ending.seat)) else { return false };
        ending.seat = Seat::At(peer);
        ending.is_announced |= is_announced;
        true
    }

    /// Who encodes a stream that runs or is ending; `None` if there is no such stream.
    fn seat_of(&self, channel: &str, id: &str) -> Option<Seat> {
        let stream = self.streams.get(channel).filter(|stream| stream.id == id);
        stream.map(|stream| stream.seat).or_else(|| self.endings.get(id).map(|e| e.seat))
    }

    /// The least loaded of those that have room; of several the one that has been here longest.
    fn free_encoder(&self) -> Option<PeerId> {
        let loads = self.loads();
        let with_room = self.encoders.iter().filter_map(|(peer, encoder)| {
            let load = loads.get(peer).copied().unwrap_or(0);
            let capacity = encoder.capacity?;
            let has_room = usize::try_from(capacity).map_or(true, |capacity| load < capacity);
            has_room.then_some((load, *peer))
        });
        with_room.min().map(|(_, peer)| peer)
    }

    /// After our restart an encoder may have ended what it did: it is asked again, once the server has
    /// said the key. One that goes on knows the stream, and does nothing.
    fn start_again(&mut self, channel: &str) {
        let Some(stream) = self.streams.get_mut(channel) else { return };
        let (Seat::At(encoder), Some(key), true) =
            (stream.seat, &stream.key, stream.is_from_snapshot)
        else {
            return;
        };
        let message = encode_start(channel, key, stream);
        stream.is_from_snapshot = false;
        self.send(encoder, message);
    }

    fn loads(&self) -> HashMap<PeerId, usize> {
        let mut loads = HashMap::new();
        for stream in self.streams.values() {
            if let Seat::At(encoder) = stream.seat {
                *loads.entry(encoder).or_default() += 1;
            }
        }
        loads
    }

    /// A stream has no encoder any more: its publisher is killed, or what was stopped is over.
    fn lose_encoder(&mut self, channel: &str, stream_id: &str) {
        self.effects.push(Effect::Save);
        let running = self.streams.get_mut(channel).filter(|stream| stream.id == stream_id);
        let (is_announced, is_running) = match running {
            Some(stream) => {
                stream.seat = Seat::Empty;
                (std::mem::take(&mut stream.is_announced), true)
            }
            None => (self.endings.remove(stream_id).is_some_and(|e| e.is_announced), false),
        };
        if is_announced {
            self.tell(channel, stream_id, EventKind::Closed);
        }
        if is_running {
            self.kill(channel);
        }
    }

    // The end of a stream.

    /// `POST /commands/close`.
    pub(super) fn close_command(&mut self, channel: &str, stream_id: &str) {
        let stream = self.streams.get(channel);
        if stream.is_some_and(|stream| names(stream_id, &stream.id)) {
            tracing::info!(channel, stream_id, "a stream is to be closed by command");
            self.kill(channel);
        }
    }

    /// Tell its server to end it; one that is away is told when it asks. The channel is taken until
    /// it has ended, or for the time of grace.
    fn kill(&mut self, channel: &str) {
        let Some(stream) = self.streams.get_mut(channel) else { return };
        if std::mem::replace(&mut stream.is_killed, true) {
            // Saying it again gives it no longer.
            return;
        }
        self.effects.push(Effect::Save);
        let Some(server) = stream.at else { return };
        self.epochs_so_far += 1;
        stream.epoch = self.epochs_so_far;
        let timer = Timer::Stream { channel: channel.to_owned(), epoch: stream.epoch };
        let message = ChannelMessage::new("STREAM-KILL")
            .with("Stream-Channel", channel)
            .with("Stream-ID", &stream.id);
        self.send(server, message);
        self.effects.push(Effect::Arm { after: self.rules.reconnect_grace, timer });
    }

    /// The server of a stream has gone: it may come back.
    fn detach(&mut self, channel: &str) {
        let Some(stream) = self.streams.get_mut(channel) else { return };
        self.epochs_so_far += 1;
        stream.at = None;
        stream.epoch = self.epochs_so_far;
        let timer = Timer::Stream { channel: channel.to_owned(), epoch: stream.epoch };
        self.effects.push(Effect::Arm { after: self.rules.reconnect_grace, timer });
    }

    /// Take a stream off its channel, and stop its encoder.
    fn end(&mut self, channel: &str) {
        let Some(stream) = self.streams.remove(channel) else { return };
        tracing::info!(channel, stream_id = stream.id, "a stream has ended");
        self.effects.push(Effect::Save);
        if let Seat::At(encoder) = stream.seat {
            self.stop_encoder(encoder, channel, &stream.id);
        }
        if stream.seat == Seat::Empty {
            if stream.is_announced {
                self.tell(channel, &stream.id, EventKind::Closed);
            }
            return;
        }
        let timer = Timer::Ending { stream_id: stream.id.clone() };
        let ending = Ending {
            channel: channel.to_owned(),
            seat: stream.seat,
            is_announced: stream.is_announced,
        };
        self.endings.insert(stream.id, ending);
        self.effects.push(Effect::Arm { after: FINISH_TIMEOUT, timer });
    }

    pub(super) fn expire(&mut self, timer: Timer) {
        match timer {
            Timer::Stream { channel, epoch } => {
                let is_due = self.streams.get(&channel).is_some_and(|s| s.epoch == epoch);
                if is_due {
                    self.end(&channel);
                }
            }
            Timer::EncoderAway { channel, stream_id } => {
                if matches!(self.seat_of(&channel, &stream_id), Some(Seat::Away(_))) {
                    self.lose_encoder(&channel, &stream_id);
                }
            }
            Timer::Ending { stream_id } => {
                let Some(ending) = self.endings.remove(&stream_id) else { return };
                tracing::warn!(stream_id, "an encoder has not said that it has closed a stream");
                self.effects.push(Effect::Save);
                if ending.is_announced {
                    self.tell(&ending.channel, &stream_id, EventKind::Closed);
                }
            }
            Timer::Retry { stream_id } => {
                let event = self.outbox.first(&stream_id).cloned();
                self.effects.extend(event.map(Effect::Deliver));
            }
        }
    }

    // Events.

    fn tell(&mut self, channel: &str, stream_id: &str, kind: EventKind) {
        if !self.rules.tells_events {
            return;
        }
        let event = Event { channel: channel.to_owned(), stream_id: stream_id.to_owned(), kind };
        let next = self.outbox.add(event);
        self.effects.extend(next.map(Effect::Deliver));
        self.effects.push(Effect::Save);
    }

    pub(super) fn delivered(&mut self, stream_id: &str) {
        let next = self.outbox.delivered(stream_id);
        self.effects.push(Effect::Save);
        self.effects.extend(next.map(Effect::Deliver));
    }

    pub(super) fn undelivered(&mut self, stream_id: &str) {
        let timer = Timer::Retry { stream_id: stream_id.to_owned() };
        self.effects.push(Effect::Arm { after: self.rules.event_retry, timer });
    }

    // What others may know.

    pub(super) fn capacity(&self) -> Capacity {
        let registered: Vec<i32> = self.encoders.values().filter_map(|e| e.capacity).collect();
        let is_infinite = registered.iter().any(|capacity| *capacity < 0);
        let sum = registered.iter().map(|capacity| i64::from(*capacity)).sum();
        Capacity {
            load: self.loads().values().sum(),
            capacity: if is_infinite { -1 } else { sum },
            encoder_count: registered.len(),
        }
    }

    pub(super) fn report(&self) -> Report {
        let loads = self.loads();
        let encoders = self.encoders.iter().filter_map(|(peer, encoder)| {
            Some((*peer, encoder.capacity?, loads.get(peer).copied().unwrap_or(0)))
        });
        let streams = self.streams.iter().map(|(channel, stream)| {
            let encoder = if let Seat::At(peer) = stream.seat { peer } else { 0 };
            (channel.clone(), stream.id.clone(), stream.at.unwrap_or(0), encoder)
        });
        let servers = self.servers.iter().map(|(peer, address)| (*peer, address.clone()));
        Report::new(servers.collect(), encoders.collect(), streams.collect())
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let ip_of = |seat: Seat| match seat {
            Seat::Empty => None,
            Seat::At(peer) => self.encoders.get(&peer).map(|encoder| encoder.ip),
            Seat::Away(ip) => Some(ip),
        };
        let streams = self.streams.iter().map(|(channel, stream)| ActiveRecord {
            channel: channel.clone(),
            stream_id: stream.id.clone(),
            server: stream.server.clone(),
            encoder: ip_of(stream.seat),
            is_announced: stream.is_announced,
            is_killed: stream.is_killed,
            settings: stream.settings.clone(),
        });
        let endings = self.endings.iter().map(|(id, ending)| EndingRecord {
            channel: ending.channel.clone(),
            stream_id: id.clone(),
            encoder: ip_of(ending.seat),
            is_announced: ending.is_announced,
        });
        Snapshot {
            version: Snapshot::VERSION,
            streams: streams.collect(),
            endings: endings.collect(),
            events: self.outbox.all(),
        }
    }

    /// Begin with what was known before a restart. Everybody has the time of grace to come back.
    pub(super) fn restore(&mut self, snapshot: Snapshot) {
        let away = |encoder: Option<IpAddr>| encoder.map_or(Seat::Empty, Seat::Away);
        let tells_events = self.rules.tells_events;
        for event in snapshot.events.into_iter().filter(|_| tells_events) {
            let next = self.outbox.add(event);
            self.effects.extend(next.map(Effect::Deliver));
        }
        let after = self.rules.reconnect_grace;
        for record in snapshot.streams {
            let stream = Stream {
                id: record.stream_id.clone(),
                server: record.server,
                at: None,
                seat: away(record.encoder),
                is_announced: record.is_announced && tells_events,
                is_killed: record.is_killed,
                epoch: 0,
                settings: record.settings,
                key: None,
                is_from_snapshot: true,
            };
            self.streams.insert(record.channel.clone(), stream);
            self.detach(&record.channel);
            let timer = Timer::EncoderAway { channel: record.channel, stream_id: record.stream_id };
            self.effects.push(Effect::Arm { after, timer });
        }
        for record in snapshot.endings {
            let ending = Ending {
                channel: record.channel.clone(),
                seat: away(record.encoder),
                is_announced: record.is_announced && tells_events,
            };
            self.endings.insert(record.stream_id.clone(), ending);
            let stream_id = record.stream_id.clone();
            let away = Timer::EncoderAway { channel: record.channel, stream_id };
            self.effects.push(Effect::Arm { after, timer: away });
            let timer = Timer::Ending { stream_id: record.stream_id };
            self.effects.push(Effect::Arm { after: FINISH_TIMEOUT, timer });
        }
    }

    // Helpers.

    fn send(&mut self, to: PeerId, message: ChannelMessage) {
        self.effects.push(Effect::Send { to, message });
    }

    fn accept(&mut self, check: &Check, stream_id: &str) {
        let message = ChannelMessage::new("PUBLISH-ACCEPT")
            .with("Request-ID", &check.request_id)
            .with("Stream-Channel", &check.key.channel)
            .with("Stream-ID", stream_id);
        self.send(check.from, message);
    }

    fn deny(&mut self, check: &Check, why: &str) {
        tracing::info!(channel = check.key.channel, server = check.from, why, "publisher denied");
        let message = ChannelMessage::new("PUBLISH-DENY")
            .with("Request-ID", &check.request_id)
            .with("Stream-Channel", &check.key.channel);
        self.send(check.from, message);
    }

    fn stop_encoder(&mut self, encoder: PeerId, channel: &str, stream_id: &str) {
        let message = ChannelMessage::new("ENCODE-STOP")
            .with("Stream-Channel", channel)
            .with("Stream-ID", stream_id);
        self.send(encoder, message);
    }

    fn is_id(&self, text: &str) -> bool {
        channel_messages::is_id(text, self.rules.id_length_max)
    }
}

fn encode_start(channel: &str, key: &str, stream: &Stream) -> ChannelMessage {
    let Stream { id, server, settings, .. } = stream;
    let kind = match server.kind {
        ServerKind::Rtmp => "RTMP",
        ServerKind::Ws => "WS",
    };
    ChannelMessage::new("ENCODE-START")
        .with("Stream-Channel", channel)
        .with("Stream-ID", id)
        .with("Stream-Source-Type", kind)
        .with("Stream-Source-URI", &server.source(channel, key))
        .with("Resolutions", &settings.resolutions)
        .with("Record", if settings.is_recorded { "True" } else { "False" })
        .with("Previews", settings.previews.as_deref().unwrap_or("False"))
}

/// Whether `asked` means the stream with this id; `*` or nothing is whatever is there.
fn names(asked: &str, stream_id: &str) -> bool {
    asked.is_empty() || asked == "*" || asked == stream_id
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
