//! Tests of the board: messages in, effects out, without a socket.

use std::collections::HashMap;

use super::*;

const SERVER: PeerId = 1;
const OTHER_SERVER: PeerId = 2;
const ENCODER: PeerId = 11;
const OTHER_ENCODER: PeerId = 12;

fn rules() -> Rules {
    Rules {
        require_encoder: false,
        id_length_max: 8,
        reconnect_grace: Duration::from_secs(30),
        event_retry: Duration::from_secs(10),
        checks_keys: false,
        tells_events: true,
    }
}

fn address(port: u16) -> ServerAddress {
    ServerAddress { kind: ServerKind::Ws, ip: ip(1), port, is_tls: false }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([192, 0, 2, last])
}

/// A board with two servers.
fn board(rules: Rules) -> Board {
    let mut board = Board::new(rules, || 0);
    board.server_joined(SERVER, address(1));
    board.server_joined(OTHER_SERVER, address(2));
    board
}

fn message(method: &str, fields: &[(&str, &str)]) -> ChannelMessage {
    let empty = ChannelMessage::new(method);
    fields.iter().fold(empty, |message, (name, value)| message.with(name, value))
}

impl Board {
    fn request(&mut self, server: PeerId, channel: &str, stream_id: &str) {
        let fields = [
            ("Request-ID", "7"),
            ("Stream-Channel", channel),
            ("Stream-Key", "k"),
            ("User-IP", "::1"),
            ("Stream-ID", stream_id),
        ];
        self.server_says(server, &message("PUBLISH-REQUEST", &fields));
    }

    /// Publish, which must be accepted; returns the stream id.
    fn publish(&mut self, server: PeerId, channel: &str) -> String {
        self.request(server, channel, "");
        let sent = self.sent();
        let accept = sent.iter().find(|(_, message)| message.method() == "PUBLISH-ACCEPT");
        accept.expect("accepted").1.get("Stream-ID").to_owned()
    }

    fn unpublish(&mut self, server: PeerId, channel: &str, id: &str) {
        let fields = [("Stream-Channel", channel), ("Stream-ID", id)];
        self.server_says(server, &message("PUBLISH-END", &fields));
    }

    fn encoder(&mut self, peer: PeerId, capacity: &str) {
        self.encoder_joined(peer, ip(peer as u8));
        self.encoder_says(peer, &message("REGISTER", &[("Capacity", capacity)]));
    }

    fn encoder_tells(&mut self, peer: PeerId, method: &str, channel: &str, id: &str) {
        let fields = [("Stream-Channel", channel), ("Stream-ID", id)];
        self.encoder_says(peer, &message(method, &fields));
    }

    fn sent(&mut self) -> Vec<(PeerId, ChannelMessage)> {
        self.split().0
    }

    /// To whom which methods went.
    fn methods(&mut self) -> Vec<(PeerId, String)> {
        let sent = self.sent().into_iter();
        sent.map(|(peer, message)| (peer, message.method().to_owned())).collect()
    }

    fn split(&mut self) -> (Vec<(PeerId, ChannelMessage)>, Vec<Timer>, Vec<Event>) {
        let (mut sent, mut timers, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for effect in self.take_effects() {
            match effect {
                Effect::Send { to, message } => sent.push((to, message)),
                Effect::Arm { timer, .. } => timers.push(timer),
                Effect::Deliver(event) => events.push(event),
                Effect::Save | Effect::Verify { .. } => {}
            }
        }
        (sent, timers, events)
    }

    fn load(&self) -> usize {
        self.capacity().load
    }

    /// The same board after a restart, with what the state file would have.
    fn restarted(&self) -> Board {
        let text = serde_json::to_vec(&self.snapshot()).unwrap();
        let mut board = Board::new(self.rules.clone(), || 1);
        board.restore(serde_json::from_slice(&text).unwrap());
        board
    }
}

fn pairs(expected: &[(PeerId, &str)]) -> Vec<(PeerId, String)> {
    expected.iter().map(|(peer, method)| (*peer, (*method).to_owned())).collect()
}

#[test]
fn what_is_no_id_is_denied_before_anything_else() {
    let mut board = board(Rules { checks_keys: true, ..rules() });
    for channel in ["", "a/b", "ninechars", "\u{e4}"] {
        board.request(SERVER, channel, "");
        assert_eq!(board.methods(), pairs(&[(SERVER, "PUBLISH-DENY")]), "{channel}");
    }
    board.request(SERVER, "A-b_9", "");
    let effects = board.take_effects();
    assert!(matches!(effects.as_slice(), [Effect::Verify { .. }]), "{effects:?}");
}

#[test]
fn of_two_that_are_being_checked_one_wins() {
    let mut board = board(Rules { checks_keys: true, ..rules() });
    board.request(SERVER, "c", "");
    board.request(OTHER_SERVER, "c", "");
    assert!(board.sent().is_empty());
    board.verified(2, Some(&StreamSettings::default()));
    board.verified(1, Some(&StreamSettings::default()));
    board.verified(1, Some(&StreamSettings::default()));
    let expected = pairs(&[(OTHER_SERVER, "PUBLISH-ACCEPT"), (SERVER, "PUBLISH-DENY")]);
    assert_eq!(board.methods(), expected);
}

#[test]
fn a_server_that_goes_during_a_check_has_no_stream() {
    let mut board = board(Rules { checks_keys: true, ..rules() });
    board.request(SERVER, "c", "");
    board.server_left(SERVER);
    board.verified(1, Some(&StreamSettings::default()));
    assert!(board.streams.is_empty() && board.sent().is_empty());
}

#[test]
fn a_wrong_key_is_denied() {
    let mut board = board(Rules { checks_keys: true, ..rules() });
    board.request(SERVER, "c", "");
    board.verified(1, None);
    assert_eq!(board.methods(), pairs(&[(SERVER, "PUBLISH-DENY")]));
}

#[test]
fn the_least_loaded_encoder_with_room_is_taken() {
    let mut board = board(rules());
    board.encoder(ENCODER, "2");
    board.encoder(OTHER_ENCODER, "-1");
    let mut taken = HashMap::new();
    for channel in ["a", "b", "c", "d", "e", "f"] {
        board.request(SERVER, channel, "");
        let (encoder, message) = board.sent().remove(0);
        assert_eq!(message.method(), "ENCODE-START");
        *taken.entry(encoder).or_insert(0) += 1;
    }
    assert_eq!(taken, HashMap::from([(ENCODER, 2), (OTHER_ENCODER, 4)]));
    let wanted = Capacity { load: 6, capacity: -1, encoder_count: 2 };
    assert_eq!(board.capacity(), wanted);
}

#[test]
fn an_encoder_is_needed_only_where_it_is_said() {
    let mut strict = board(Rules { require_encoder: true, ..rules() });
    strict.request(SERVER, "c", "");
    assert_eq!(strict.methods(), pairs(&[(SERVER, "PUBLISH-DENY")]));
    strict.encoder(ENCODER, "0");
    strict.request(SERVER, "c", "");
    assert_eq!(strict.methods(), pairs(&[(SERVER, "PUBLISH-DENY")]), "no room");
    let mut open = board(rules());
    open.request(SERVER, "c", "");
    assert_eq!(open.methods(), pairs(&[(SERVER, "PUBLISH-ACCEPT")]));
}

/// Goal: load comes back however a stream ends.
#[test]
fn load_is_released_at_every_end() {
    type End = fn(&mut Board, &str);
    let ends: [(&str, End); 5] = [
        ("publisher", |board, id| board.unpublish(SERVER, "c", id)),
        ("closed", |board, id| board.encoder_tells(ENCODER, "STREAM-CLOSED", "c", id)),
        ("encoder", |board, _| {
            board.encoder_left(ENCODER);
            board.encoder(ENCODER, "1");
        }),
        ("server", |board, _| {
            board.server_left(SERVER);
            let (_, timers, _) = board.split();
            timers.into_iter().for_each(|timer| board.expire(timer));
            board.server_joined(SERVER, address(1));
        }),
        ("killed", |board, _| {
            board.close_command("c", "*");
            let (_, timers, _) = board.split();
            timers.into_iter().for_each(|timer| board.expire(timer));
        }),
    ];
    for (name, end) in ends {
        let mut board = board(Rules { require_encoder: true, ..rules() });
        board.encoder(ENCODER, "1");
        let id = board.publish(SERVER, "c");
        assert_eq!(board.load(), 1);
        board.request(OTHER_SERVER, "d", "");
        assert_eq!(board.methods(), pairs(&[(OTHER_SERVER, "PUBLISH-DENY")]), "{name}");
        end(&mut board, &id);
        assert_eq!(board.load(), 0, "{name}");
        board.publish(OTHER_SERVER, "d");
        assert_eq!(board.load(), 1, "{name}");
    }
}

#[test]
fn kills_carry_the_stream_id_and_hold_the_channel() {
    let mut board = board(rules());
    board.encoder(ENCODER, "1");
    let id = board.publish(SERVER, "c");
    board.close_command("c", "another");
    board.close_command("d", "*");
    assert!(board.sent().is_empty());
    board.close_command("c", "");
    let sent = board.sent();
    let wanted = message("STREAM-KILL", &[("Stream-Channel", "c"), ("Stream-ID", &id)]);
    assert_eq!(sent, [(SERVER, wanted)]);
    board.request(OTHER_SERVER, "c", "");
    assert_eq!(board.methods(), pairs(&[(OTHER_SERVER, "PUBLISH-DENY")]));
    board.unpublish(OTHER_SERVER, "c", &id);
    assert!(board.sent().is_empty(), "not its publisher");
    board.unpublish(SERVER, "c", &id);
    assert_eq!(board.methods(), pairs(&[(ENCODER, "ENCODE-STOP")]));
    board.publish(OTHER_SERVER, "c");
}

#[test]
fn an_encoder_that_goes_or_closes_kills_the_publisher() {
    let mut board = board(rules());
    board.encoder(ENCODER, "2");
    let (first, second) = (board.publish(SERVER, "a"), board.publish(SERVER, "b"));
    board.encoder_tells(ENCODER, "STREAM-AVAILABLE", "a", &first);
    board.encoder_tells(ENCODER, "STREAM-AVAILABLE", "b", &second);
    board.delivered(&first);
    board.delivered(&second);
    board.split();
    board.encoder_tells(ENCODER, "STREAM-CLOSED", "a", &first);
    let (sent, _, events) = board.split();
    assert_eq!((sent[0].0, sent[0].1.get("Stream-ID")), (SERVER, first.as_str()));
    assert_eq!((events[0].stream_id.as_str(), &events[0].kind), (&*first, &EventKind::Closed));
    board.encoder_left(ENCODER);
    let (sent, _, events) = board.split();
    assert_eq!((sent.len(), sent[0].1.get("Stream-ID")), (1, second.as_str()));
    assert_eq!((events.len(), &events[0].kind), (1, &EventKind::Closed));
    board.unpublish(SERVER, "b", &second);
    assert!(board.split().2.is_empty(), "its end is told once");
}

#[test]
fn an_encoder_has_no_say_over_anothers_stream() {
    let mut board = board(rules());
    board.encoder(ENCODER, "1");
    board.encoder(OTHER_ENCODER, "0");
    let id = board.publish(SERVER, "c");
    board.encoder_tells(OTHER_ENCODER, "STREAM-AVAILABLE", "c", &id);
    board.encoder_tells(OTHER_ENCODER, "STREAM-CLOSED", "c", &id);
    board.encoder_tells(OTHER_ENCODER, "STREAM-AVAILABLE", "other", &id);
    board.encoder_tells(OTHER_ENCODER, "STREAM-CLOSED", "other", &id);
    assert!(board.sent().is_empty());
    assert_eq!(board.load(), 1);
}

/// Goal: the film that an encoder finishes after the end is announced, and then the end.
#[test]
fn an_encoder_may_finish_after_the_publisher_has_gone() {
    let mut board = board(rules());
    board.encoder(ENCODER, "1");
    let id = board.publish(SERVER, "c");
    board.unpublish(SERVER, "c", &id);
    board.split();
    board.encoder_tells(ENCODER, "STREAM-AVAILABLE", "c", &id);
    let (_, _, events) = board.split();
    assert!(matches!(events[0].kind, EventKind::Available { .. }));
    board.encoder_tells(ENCODER, "STREAM-CLOSED", "c", &id);
    assert!(board.split().2.is_empty(), "the first is on its way");
    board.delivered(&id);
    assert_eq!(board.split().2[0].kind, EventKind::Closed);
    assert!(board.endings.is_empty());
    board.delivered(&id);
    assert!(board.snapshot().events.is_empty());
}

#[test]
fn an_encoder_that_never_finishes_is_given_up() {
    let mut board = board(rules());
    board.encoder(ENCODER, "1");
    let id = board.publish(SERVER, "c");
    board.encoder_tells(ENCODER, "STREAM-AVAILABLE", "c", &id);
    board.delivered(&id);
    board.unpublish(SERVER, "c", &id);
    let (_, timers, _) = board.split();
    timers.into_iter().for_each(|timer| board.expire(timer));
    assert_eq!(board.split().2[0].kind, EventKind::Closed);
    assert!(board.endings.is_empty());
}

#[test]
fn an_event_is_repeated_until_it_is_taken() {
    let mut board = board(rules());
    board.encoder(ENCODER, "1");
    let id = board.publish(SERVER, "c");
    board.encoder_tells(ENCODER, "STREAM-AVAILABLE", "c", &id);
    let first = board.split().2.remove(0);
    for _ in 0..3 {
        board.undelivered(&id);
        let timer = board.split().1.remove(0);
        board.expire(timer);
        assert_eq!(board.split().2, std::slice::from_ref(&first));
    }
    board.delivered(&id);
    assert!(board.split().2.is_empty());
}

#[test]
fn without_a_hook_nothing_is_told_or_kept() {
    let mut board = board(Rules { tells_events: false, ..rules() });
    board.encoder(ENCODER, "1");
    let id = board.publish(SERVER, "c");
    board.encoder_tells(ENCODER, "STREAM-AVAILABLE", "c", &id);
    board.encoder_tells(ENCODER, "STREAM-CLOSED", "c", &id);
    assert!(board.split().2.is_empty());
    assert!(board.snapshot().events.is_empty());
}

#[test]
fn a_server_that_comes_back_keeps_its_streams() {
    let mut board = board(rules());
    board.encoder(ENCODER, "1");
    let id = board.publish(SERVER, "c");
    board.server_left(SERVER);
    let (sent, timers, _) = board.split();
    assert!(sent.is_empty(), "the encoder goes on");
    board.request(OTHER_SERVER, "c", "");
    let denied = pairs(&[(OTHER_SERVER, "PUBLISH-DENY")]);
    assert_eq!(board.methods(), denied, "it is kept for its own server");
    board.server_joined(5, address(1));
    board.request(5, "c", &id);
    let sent = board.sent();
    assert_eq!((sent.len(), sent[0].0, sent[0].1.get("Stream-ID")), (1, 5, id.as_str()));
    timers.into_iter().for_each(|timer| board.expire(timer));
    assert!(board.sent().is_empty(), "the timer is void");
    board.unpublish(5, "c", &id);
    assert_eq!(board.methods(), pairs(&[(ENCODER, "ENCODE-STOP")]));
}

/// Goal: a connection that is not yet known to be dead does not keep its server out.
#[test]
fn a_server_may_come_back_before_it_was_missed() {
    let mut board = board(rules());
    let id = board.publish(SERVER, "c");
    board.server_joined(5, address(1));
    board.request(5, "c", &id);
    assert_eq!(board.methods(), pairs(&[(5, "PUBLISH-ACCEPT")]));
    board.server_left(SERVER);
    let (_, timers, _) = board.split();
    assert!(timers.is_empty() && board.streams["c"].at == Some(5));
}

/// Goal: a server of the original, which has killed all on its own, gets its channels again.
#[test]
fn a_server_that_asks_anew_begins_anew() {
    let mut board = board(rules());
    board.encoder(ENCODER, "1");
    let id = board.publish(SERVER, "c");
    board.server_left(SERVER);
    board.server_joined(5, address(1));
    board.split();
    board.request(5, "c", "");
    let sent = board.sent();
    let methods: Vec<&str> = sent.iter().map(|(_, message)| message.method()).collect();
    assert_eq!(methods, ["ENCODE-STOP", "ENCODE-START", "PUBLISH-ACCEPT"]);
    assert_eq!(sent[0].1.get("Stream-ID"), id);
    assert_ne!(sent[2].1.get("Stream-ID"), id);
}

#[test]
fn what_was_killed_while_its_server_was_away_is_denied() {
    let mut board = board(rules());
    let id = board.publish(SERVER, "c");
    board.server_left(SERVER);
    board.close_command("c", &id);
    board.server_joined(5, address(1));
    board.split();
    board.request(5, "c", &id);
    assert_eq!(board.methods(), pairs(&[(5, "PUBLISH-DENY")]));
    assert!(board.streams.is_empty());
}

#[test]
fn a_restart_forgets_nothing() {
    let mut before = board(rules());
    before.encoder(ENCODER, "1");
    let id = before.publish(SERVER, "c");
    before.encoder_tells(ENCODER, "STREAM-AVAILABLE", "c", &id);
    let mut board = before.restarted();
    let (_, timers, events) = board.split();
    assert!(matches!(events[0].kind, EventKind::Available { .. }), "it was not taken yet");
    board.server_joined(SERVER, address(1));
    board.encoder(ENCODER, "1");
    board.request(SERVER, "c", &id);
    let sent = board.sent();
    let methods: Vec<&str> = sent.iter().map(|(_, message)| message.method()).collect();
    assert_eq!(methods, ["PUBLISH-ACCEPT", "ENCODE-START"], "its encoder may have ended it");
    assert!(sent.iter().all(|(_, message)| message.get("Stream-ID") == id));
    assert_eq!(board.load(), 1);
    timers.into_iter().for_each(|timer| board.expire(timer));
    assert!(board.sent().is_empty(), "the timers are void");
    board.unpublish(SERVER, "c", &id);
    assert_eq!(board.methods(), pairs(&[(ENCODER, "ENCODE-STOP")]));
}

/// Goal: after a restart an encoder is asked to go on, in whatever order those two come back, as it was
/// asked at first; one that speaks of the stream is not.
#[test]
fn an_encoder_is_asked_again_after_a_restart() {
    let mut before = board(rules());
    before.encoder(ENCODER, "1");
    before.request(SERVER, "c", "");
    let first = before.sent();
    let starts = |sent: &[(PeerId, ChannelMessage)]| -> Vec<String> {
        let starts = sent.iter().filter(|(_, message)| message.method() == "ENCODE-START");
        starts.map(|(_, message)| message.to_text()).collect()
    };
    let id = first[0].1.get("Stream-ID").to_owned();
    for speaks in [false, true] {
        let mut board = before.restarted();
        board.server_joined(SERVER, address(1));
        board.encoder_joined(ENCODER, ip(ENCODER as u8));
        if speaks {
            board.encoder_tells(ENCODER, "STREAM-AVAILABLE", "c", &id);
        }
        board.request(SERVER, "c", &id);
        board.encoder_says(ENCODER, &message("REGISTER", &[("Capacity", "1")]));
        board.request(SERVER, "c", &id);
        let expected = if speaks { Vec::new() } else { starts(&first) };
        assert_eq!(starts(&board.sent()), expected);
    }
}

/// Goal: one that comes back at another address, or before its old connection is missed, goes on; one
/// that asks anew then has lost its publisher.
#[test]
fn a_server_is_known_by_the_ids_of_its_streams() {
    let mut board = board(rules());
    board.encoder(ENCODER, "2");
    let id = board.publish(SERVER, "c");
    board.server_joined(5, address(9));
    board.request(5, "c", &id);
    assert_eq!(board.methods(), pairs(&[(5, "PUBLISH-ACCEPT")]));
    board.server_left(SERVER);
    board.server_joined(6, address(9));
    board.split();
    board.request(6, "c", "");
    let methods =
        pairs(&[(ENCODER, "ENCODE-STOP"), (ENCODER, "ENCODE-START"), (6, "PUBLISH-ACCEPT")]);
    assert_eq!(board.methods(), methods);
    board.request(OTHER_SERVER, "c", "");
    assert_eq!(board.methods(), pairs(&[(OTHER_SERVER, "PUBLISH-DENY")]));
}

/// Goal: an encoder that is back before it was missed is believed, and a kill that is repeated gives no
/// more time.
#[test]
fn an_encoder_may_be_here_twice() {
    let mut board = board(rules());
    board.encoder(ENCODER, "2");
    let id = board.publish(SERVER, "c");
    board.encoder_joined(8, ip(ENCODER as u8));
    board.encoder_tells(8, "STREAM-CLOSED", "c", &id);
    let (sent, timers, _) = board.split();
    assert_eq!((sent.len(), timers.len(), sent[0].1.method()), (1, 1, "STREAM-KILL"));
    board.close_command("c", &id);
    assert!(board.take_effects().is_empty());
    board.encoder_left(ENCODER);
    board.split();
    timers.into_iter().for_each(|timer| board.expire(timer));
    assert!(board.streams.is_empty());
}

/// Goal: who does not come back after a restart, server or encoder, takes the stream along.
#[test]
fn after_a_restart_those_that_stay_away_are_ended() {
    let mut before = board(rules());
    before.encoder(ENCODER, "2");
    let id = before.publish(SERVER, "c");
    before.encoder_tells(ENCODER, "STREAM-AVAILABLE", "c", &id);
    before.delivered(&id);
    for reverse in [false, true] {
        let mut board = before.restarted();
        let (_, mut timers, _) = board.split();
        if reverse {
            timers.reverse();
        }
        timers.into_iter().for_each(|timer| board.expire(timer));
        let (_, _, events) = board.split();
        assert_eq!((events.len(), &events[0].kind), (1, &EventKind::Closed));
        assert!(board.streams.is_empty() && board.endings.is_empty());
    }
    let mut board = before.restarted();
    let (_, timers, _) = board.split();
    board.server_joined(SERVER, address(1));
    board.request(SERVER, "c", &id);
    board.split();
    timers.into_iter().for_each(|timer| board.expire(timer));
    assert_eq!(board.methods(), pairs(&[(SERVER, "STREAM-KILL")]), "its encoder stays away");
}

#[test]
fn an_end_that_was_under_way_at_a_restart_comes() {
    let mut before = board(rules());
    before.encoder(ENCODER, "1");
    let id = before.publish(SERVER, "c");
    before.encoder_tells(ENCODER, "STREAM-AVAILABLE", "c", &id);
    before.delivered(&id);
    before.unpublish(SERVER, "c", &id);
    let mut board = before.restarted();
    board.encoder(ENCODER, "1");
    assert_eq!(board.methods(), pairs(&[(ENCODER, "ENCODE-STOP")]), "it may not have heard");
    board.encoder_tells(ENCODER, "STREAM-CLOSED", "c", &id);
    assert_eq!(board.split().2[0].kind, EventKind::Closed);
}

#[test]
fn encoders_are_told_all_they_need() {
    let mut board = board(Rules { checks_keys: true, ..rules() });
    board.encoder(ENCODER, "1");
    board.request(SERVER, "c", "");
    let settings = StreamSettings::new("true", "256x144, 3", "1280x720-30, original");
    board.verified(1, Some(&settings));
    let start = board.sent().remove(0).1;
    let id = start.get("Stream-ID").to_owned();
    let wanted = message(
        "ENCODE-START",
        &[
            ("Stream-Channel", "c"),
            ("Stream-ID", &id),
            ("Stream-Source-Type", "WS"),
            ("Stream-Source-URI", "ws://192.0.2.1:1/c/k"),
            ("Resolutions", "ORIGINAL,1280x720-30"),
            ("Record", "True"),
            ("Previews", "256x144,3"),
        ],
    );
    assert_eq!(start, wanted);
}

#[test]
fn an_encoder_without_register_or_with_nonsense_gets_nothing() {
    let mut board = board(rules());
    board.encoder_joined(ENCODER, ip(11));
    board.encoder_says(ENCODER, &message("REGISTER", &[("Capacity", "many")]));
    board.publish(SERVER, "c");
    let none = Capacity { load: 0, capacity: 0, encoder_count: 0 };
    assert_eq!(board.capacity(), none);
}
