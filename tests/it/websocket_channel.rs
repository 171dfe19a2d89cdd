//! Channels, as ws-stream-server has them: what answers the handshake and in which order, heartbeats
//! and silence, keys, how a session ends, the same over plain HTTP, and where the doors are.

use std::net::SocketAddr;
use std::thread;

use rustix::process::Signal;

use crate::client::{Chunk, Client, End, assert_same, get, noise, put, raw};
use crate::server::{Server, Setup, wait_until};
use crate::websocket_client::{
    ACCEPT, APPEND, BINARY, CLOSE, CONTINUATION, Closing, Event, FIN, Frame, KEY, Message, PING,
    TEXT, WebSocket, accepted, appender, assert_refused, assert_sealed, chunk, chunks_to_end,
    close_payload, frame, handshake, on, publish, publish_when_free, refused,
};

const KINDS: [&str; 4] = ["publish", "receive", "receive-clear-cache", "probe"];
const PLAYERS: [&str; 3] = ["receive", "receive-clear-cache", "probe"];

const BUSY: (u16, &str) = (403, "Already publishing.");
const TOO_MANY: (u16, &str) = (429, "Too many requests.");
const WRONG_CHANNEL: (u16, &str) = (404, "Invalid channel.");
const WRONG_KEY: (u16, &str) = (404, "Invalid key.");
const WRONG_KIND: (u16, &str) = (404, "Invalid connection kind.");
const NOT_LISTED: (u16, &str) = (403, "Cannot play: Not whitelisted.");

fn publisher(address: SocketAddr) -> WebSocket {
    on(address, "cam/key", "publish")
}

fn receiver(address: SocketAddr) -> WebSocket {
    on(address, "cam/key", "receive")
}

// The handshake.

/// Goal: exactly the fields of the original; any origin, no subprotocol, no compression.
#[test]
fn the_answer_has_exactly_three_fields() {
    let server = Server::start();
    let offers = "Origin: https://elsewhere.example\r\nSec-WebSocket-Protocol: binary\r\n\
                  Sec-WebSocket-Extensions: permessage-deflate\r\n";
    for (index, kind) in KINDS.into_iter().enumerate() {
        for (other, fields) in ["", offers, "Origin: null\r\n", APPEND].into_iter().enumerate() {
            let target = format!("/c{index}{other}/key/{kind}");
            assert_eq!(accepted(server.address, &handshake(&target, fields)), ACCEPT);
            // A channel is no object, whatever the verb.
            wait_until("no object", || get(server.address, &target).status == 404);
        }
    }
}

/// Goal: names are looked at first, the channel before the key, each up to its length. Method: each
/// kind with each mistake.
#[test]
fn names_are_checked_in_order() {
    let server = Server::start();
    let long = "x".repeat(129);
    let cases = [
        ("ch.an/key".to_owned(), WRONG_CHANNEL),
        ("ch.an/k.y".to_owned(), WRONG_CHANNEL),
        ("ch%61n/key".to_owned(), WRONG_CHANNEL),
        ("ch@n/key".to_owned(), WRONG_CHANNEL),
        (format!("{long}/key"), WRONG_CHANNEL),
        ("chan/k.y".to_owned(), WRONG_KEY),
        ("chan/k~y".to_owned(), WRONG_KEY),
        (format!("chan/{long}"), WRONG_KEY),
    ];
    for (place, wrong) in cases {
        for kind in KINDS {
            assert_refused(server.address, &format!("/{place}/{kind}"), "", wrong);
        }
    }
    for place in ["AZaz09_-/AZaz09_-", "-/_", &format!("{0}/{0}", &long[1..])] {
        let mut publisher = on(server.address, place, "publish");
        let mut receiver = on(server.address, place, "receive");
        publish(&mut publisher, &mut receiver, b"chunk");
    }
    let server = Setup::new().key("channels.id_length_max", "8").start();
    assert_refused(server.address, "/123456789/key/publish", "", WRONG_CHANNEL);
    assert_refused(server.address, "/12345678/123456789/publish", "", WRONG_KEY);
    on(server.address, "12345678/12345678", "publish");
}

/// Goal: too many connections from one address is said before anything else; some may have more.
#[test]
fn connections_of_one_address_are_limited() {
    let server = Setup::new().key("channels.connections_per_ip_max", "2").start();
    let address = server.address;
    let first = receiver(address);
    let mut second = publisher(address);
    for kind in KINDS {
        for place in ["cam/key", "other/key", "ch.an/key", "cam/k.y"] {
            assert_refused(address, &format!("/{place}/{kind}"), "", TOO_MANY);
        }
    }
    let broken = raw(address, handshake("/cam/key/receive", "").replace(KEY, "short"));
    assert_eq!((broken.status, &*broken.text()), TOO_MANY);
    drop(first);
    let mut client = Client::connect(address);
    wait_until("there is room again", || {
        client = Client::connect(address);
        client.send(handshake("/cam/key/receive", ""));
        client.head().status == 101
    });
    assert_refused(address, "/cam/key/receive", "", TOO_MANY);
    second.close(1000, "");
    second.closing();

    let limited = || Setup::new().key("channels.connections_per_ip_max", "1");
    for unlimited in ["127.0.0.1", "127.0.0.0/8"] {
        let server = limited().key("channels.unlimited_from", &format!("[{unlimited:?}]")).start();
        let _receivers: Vec<_> = (0..10).map(|_| receiver(server.address)).collect();
    }
    let server = limited().key("channels.unlimited_from", "[\"10.0.0.0/8\"]").start();
    let _receiver = receiver(server.address);
    assert_refused(server.address, "/cam/key/receive", "", TOO_MANY);
}

/// Goal: a channel has one publisher, whatever the key, and the next when it has gone.
#[test]
fn a_second_publisher_is_refused() {
    let server = Server::start();
    let address = server.address;
    let mut first = publisher(address);
    let mut receiver = receiver(address);
    publish(&mut first, &mut receiver, b"one");
    assert_refused(address, "/cam/key/publish", "", BUSY);
    assert_refused(address, "/cam/another/publish", "", BUSY);
    let broken = raw(address, handshake("/cam/key/publish", "").replace(KEY, "short"));
    assert_eq!((broken.status, &*broken.text()), BUSY, "said before the handshake is looked at");
    let mut other = on(address, "Cam/key", "publish");
    publish(&mut first, &mut receiver, b"two");
    first.close(1000, "");
    first.closing();
    receiver.closing().assert_told();
    let mut next = publish_when_free(address, "cam/another");
    for publisher in [&mut next, &mut other] {
        publisher.binary(b"both are there");
        publisher.send(FIN | PING, b"");
        publisher.assert_pong(b"");
    }
}

/// Goal: a race has one winner; the original could let two in. Method: rounds of 20 handshakes at
/// once, of different keys; the winner's chunks arrive, and only they.
#[test]
fn one_of_twenty_publishers_wins() {
    let server = Setup::new().cores(4).start();
    for round in 0..10 {
        let mut clients: Vec<_> = (0..20).map(|_| Client::connect(server.address)).collect();
        thread::scope(|scope| {
            for (index, client) in clients.iter_mut().enumerate() {
                let key = if index % 2 == 0 { "a" } else { "b" };
                let request = handshake(&format!("/race{round}/{key}/publish"), "");
                scope.spawn(move || client.send(request));
            }
        });
        let answers = clients.iter_mut().map(|client| {
            let head = client.head();
            client.body(head, "GET")
        });
        let answers: Vec<_> = answers.collect();
        let won: Vec<_> = (0..20).filter(|&index| answers[index].status == 101).collect();
        let lost = answers.iter().filter(|lost| (lost.status, &*lost.text()) == BUSY).count();
        assert_eq!((won.len(), lost), (1, 19), "{answers:?}");
        let mut publisher = WebSocket::opened(clients.swap_remove(won[0]));
        let key = if won[0] % 2 == 0 { "a" } else { "b" };
        let mut receiver = on(server.address, &format!("race{round}/{key}"), "receive");
        publish(&mut publisher, &mut receiver, b"the winner's");
    }
}

/// Goal: receiving can be kept to some addresses; publishing is not touched.
#[test]
fn players_can_be_limited_to_addresses() {
    let from = |list: &str| Setup::new().key("channels.play_from", list).start();
    for list in ["[\"10.0.0.0/8\"]", "[\"10.0.0.1\", \"192.168.0.0/16\", \"::1\"]"] {
        let server = from(list);
        let mut publisher = publisher(server.address);
        publisher.binary(b"chunk");
        for kind in PLAYERS {
            let target = format!("/cam/key/{kind}");
            assert_refused(server.address, &target, "", NOT_LISTED);
            let broken = raw(server.address, handshake(&target, "").replace(KEY, "short"));
            assert_eq!((broken.status, &*broken.text()), NOT_LISTED);
            assert_refused(server.address, &format!("/cam/k.y/{kind}"), "", WRONG_KEY);
        }
        assert_eq!(get(server.address, "/cam/key/receive").status, 403);
    }
    // A plain address counts too: the original's documentation promised it.
    for list in ["[\"127.0.0.1\"]", "[\"10.0.0.1\", \"127.0.0.0/8\"]", "[]"] {
        let server = from(list);
        let mut publisher = publisher(server.address);
        let mut receiver = receiver(server.address);
        publish(&mut publisher, &mut receiver, b"chunk");
    }
}

/// Goal: a valid name without a valid handshake is 400, and takes no publisher's place.
#[test]
fn a_broken_handshake_is_400() {
    let server = Server::start();
    for kind in KINDS {
        let good = handshake(&format!("/cam/key/{kind}"), "");
        for request in [
            good.replace(KEY, "short"),
            good.replace(&format!("Sec-WebSocket-Key: {KEY}\r\n"), ""),
            good.replace("Sec-WebSocket-Version: 13\r\n", ""),
            good.replace("Version: 13", "Version: 8"),
            good.replace("Connection: Upgrade", "Connection: close"),
        ] {
            let answer = raw(server.address, &request);
            assert_eq!(
                (answer.status, answer.text().trim_end()),
                (400, "Bad Request"),
                "{request}"
            );
            assert_eq!(answer.needed("sec-websocket-version"), "13");
        }
    }
    publisher(server.address);
}

// Messages.

/// Goal: the heartbeat `81 01 68` comes on every connection, from the start and without an end.
#[test]
fn everybody_gets_heartbeats() {
    let server = Setup::new().key("channels.heartbeat_interval_s", "1").start();
    let running = on(server.address, "runs/key", "publish");
    let mut peers = vec![running, on(server.address, "runs/key", "receive")];
    for kind in PLAYERS {
        peers.push(on(server.address, "waits/key", kind));
    }
    for peer in &mut peers {
        let mut beats = 0;
        while beats < 3 {
            let frame = peer.frame();
            if frame.opcode != PING {
                assert_eq!(frame, Frame::whole(TEXT, b"h"));
                beats += 1;
            }
        }
    }
}

/// A server that soon takes silence for an end.
fn impatient() -> Server {
    let setup = Setup::new().key("channels.heartbeat_interval_s", "1");
    setup.key("channels.silence_timeout_s", "3").start()
}

/// Goal: any message is a sign of life. Method: eight heartbeats, a second apart, at a limit of three
/// seconds; one peer answers them, one sends other text, one publishes and says nothing else.
#[test]
fn who_says_something_stays() {
    let server = impatient();
    let mut answers = on(server.address, "a/key", "receive");
    let mut talks = on(server.address, "b/key", "publish");
    let mut publishes = on(server.address, "c/key", "publish");
    let mut receives = on(server.address, "c/key", "receive");
    for round in 0..8 {
        for peer in [&mut answers, &mut talks, &mut publishes, &mut receives] {
            let message = peer.message();
            assert_eq!(message, Message::text("h"), "round {round}");
        }
        answers.text("h");
        talks.text("anything");
        publishes.binary(b"chunk");
        receives.binary(b"");
        assert_eq!(chunk(&mut receives), b"chunk");
    }
    for mut peer in [answers, talks, publishes] {
        peer.close(1000, "");
        assert_eq!(chunks_to_end(&mut peer), (vec![], orderly()));
    }
}

fn orderly() -> Closing {
    Closing { code: 1000, reason: String::new(), end: End::Fin }
}

/// Says nothing to the end, but pings if so wanted.
fn assert_falls_silent(mut peer: WebSocket, pings: bool) {
    let mut beats = 0;
    let (code, reason) = loop {
        match peer.event() {
            Event::Message(message) => {
                assert_eq!(message, Message::text("h"));
                beats += 1;
                assert!(beats < 30, "it is still there");
                if pings {
                    let _ = peer.try_send(FIN | PING, b"here");
                }
            }
            Event::Close(code, reason) => break (code, reason),
            Event::End(end) => panic!("{end:?} without a close frame"),
            Event::Ping(_) | Event::Pong(_) => {}
        }
    };
    Closing { code, reason, end: End::Fin }.assert_told();
    // It does not say goodbye either.
    assert!(matches!(peer.event(), Event::End(_)));
}

/// Goal: who says nothing is closed and told so; pings and pongs of the protocol are nothing said.
#[test]
fn who_says_nothing_is_closed() {
    let server = impatient();
    thread::scope(|scope| {
        for kind in KINDS {
            for pings in [false, true] {
                let peer = on(server.address, &format!("{kind}{pings}/key"), kind);
                scope.spawn(move || assert_falls_silent(peer, pings));
            }
        }
    });
    let mut silent = publisher(server.address);
    let mut receiver = receiver(server.address);
    silent.binary(b"last");
    assert_eq!(chunk(&mut receiver), b"last");
    let closing = loop {
        match receiver.answering() {
            Event::Message(_) => receiver.text("h"),
            Event::Close(code, reason) => break Closing { code, reason, end: End::Fin },
            other => panic!("{other:?}"),
        }
    };
    closing.assert_told();
    publish_when_free(server.address, "cam/key");
}

/// Goal: chunks are relayed unchanged, one message each. Method: all lengths, in pieces, empty, with
/// text and pings of the publisher between them that are nobody's.
#[test]
fn chunks_are_relayed_unchanged() {
    let server = Server::start();
    let mut publisher = publisher(server.address);
    let mut receivers = [0; 3].map(|_| receiver(server.address));
    let mut sent = Vec::new();
    for (index, length) in [0, 1, 125, 126, 65_535, 65_536, 1_000_000, 0, 3].into_iter().enumerate()
    {
        let data = noise(index as u64, length);
        publisher.text("not for anybody");
        publisher.text("h");
        publisher.send(FIN | PING, b"ping");
        publisher.assert_pong(b"ping");
        publisher.binary(&data);
        let (start, end) = data.split_at(length / 3);
        publisher.send(BINARY, start);
        publisher.send(FIN | PING, b"in between");
        publisher.send(CONTINUATION, b"");
        publisher.send(FIN | CONTINUATION, end);
        publisher.assert_pong(b"in between");
        publisher.fragments(TEXT, &[b"text in", b" pieces"]);
        for receiver in &mut receivers {
            for _ in 0..2 {
                assert_same(&chunk(receiver), &data);
            }
        }
        sent.extend([data.clone(), data]);
    }
    let mut late = receiver(server.address);
    publisher.close(1000, "");
    assert_eq!(chunks_to_end(&mut publisher), (vec![], orderly()));
    assert!(chunks_to_end(&mut late).0 == sent, "the cache differs");
    for receiver in &mut receivers {
        assert_eq!(chunks_to_end(receiver).0.len(), 0);
    }
}

#[test]
fn a_chunk_of_30_mib_is_relayed() {
    let server = Server::start();
    let mut publisher = publisher(server.address);
    let mut early = receiver(server.address);
    let data = noise(1, 30 << 20);
    publish(&mut publisher, &mut early, &data);
    let mut late = receiver(server.address);
    assert_same(&chunk(&mut late), &data);
    publisher.fragments(BINARY, &data.chunks(1 << 20).collect::<Vec<_>>());
    for receiver in [&mut early, &mut late] {
        assert_same(&chunk(receiver), &data);
    }
}

/// Goal: what players say reaches nobody; their pings are answered and their close frames echoed.
#[test]
fn players_are_answered_but_not_heard() {
    let server = Server::start();
    let mut publisher = publisher(server.address);
    let mut speaks = receiver(server.address);
    let mut silent = receiver(server.address);
    for player in ["receive", "probe"] {
        let mut waits = on(server.address, "other/key", player);
        waits.send(FIN | PING, b"there?");
        waits.assert_pong(b"there?");
        waits.close_empty();
        assert_eq!(waits.frame(), Frame::whole(CLOSE, b""));
        assert_eq!(waits.try_frame(), Err(End::Fin));
    }
    speaks.binary(&noise(1, 100_000));
    speaks.text("h");
    speaks.fragments(BINARY, &[b"a", b"b"]);
    speaks.send(FIN | PING, b"here?");
    speaks.assert_pong(b"here?");
    publish(&mut publisher, &mut silent, b"the publisher's");
    assert_eq!(chunk(&mut speaks), b"the publisher's");
    speaks.close(1001, "enough");
    assert_eq!(speaks.closing().code, 1001);
    publish(&mut publisher, &mut silent, b"more");
}

/// Goal: broken frames are told with their code. A publisher's end its session; a chunk that is too
/// long does too.
#[test]
fn broken_frames_are_told() {
    let server = Setup::new().key("channels.message_bytes_max", "1000000").start();
    let mask = [7, 7, 1, 9];
    let most = noise(5, 1_000_000);
    let long = [&most[..], b"x"].concat();
    let mut halves = frame(BINARY, mask, &most);
    halves.extend(frame(FIN | CONTINUATION, mask, b"x"));
    for (what, code, bytes) in [
        ("not masked", 1002, b"\x82\x01x".to_vec()),
        ("a reserved bit", 1002, frame(FIN | 0x40 | BINARY, mask, b"x")),
        ("a reserved opcode", 1002, frame(FIN | 3, mask, b"x")),
        ("a ping in pieces", 1002, frame(PING, mask, b"")),
        ("a continuation of nothing", 1002, frame(FIN | CONTINUATION, mask, b"x")),
        ("a code that is none", 1002, frame(FIN | CLOSE, mask, &close_payload(1005, ""))),
        ("too long", 1009, frame(FIN | BINARY, mask, &long)),
        ("too long in pieces", 1009, halves),
    ] {
        let mut publisher = publish_when_free(server.address, "cam/key");
        let mut stays = receiver(server.address);
        publish(&mut publisher, &mut stays, &most);
        let mut player = receiver(server.address);
        if code == 1002 {
            player.raw(&bytes);
            let (_, closing) = chunks_to_end(&mut player);
            assert_eq!(closing.code, code, "{what} of a receiver: {closing:?}");
        }
        publish(&mut publisher, &mut stays, b"undisturbed");
        let _ = publisher.try_send_raw(&bytes);
        let closing = publisher.closing();
        assert_eq!(closing.code, code, "{what} of a publisher: {closing:?}");
        stays.closing().assert_told();
    }
}

// Keys.

const WRONG: &str = "ERROR: Invalid streaming key";

/// Told that the key is wrong, then closed with a reason; no chunk came.
fn assert_wrong_key(player: &mut WebSocket) {
    let (mut messages, closing) = player.drain();
    messages.retain(|message| *message != Message::text("h"));
    assert_eq!(messages, [Message::text(WRONG)]);
    closing.assert_told();
}

/// Goal: no player with another key gets a byte: not those that come later, and not those that were
/// there first, whom the original forgot. Method: keys that nearly match, each kind.
#[test]
fn wrong_keys_are_refused_early_and_late() {
    let server = Server::start();
    let keys = ["ke", "keyy", "Key", "kez", "another"];
    let wrong = || {
        let all = keys.iter().flat_map(|key| PLAYERS.map(|kind| (key, kind)));
        all.map(|(key, kind)| on(server.address, &format!("cam/{key}"), kind)).collect::<Vec<_>>()
    };
    let mut early = wrong();
    let mut right = receiver(server.address);
    let mut publisher = publisher(server.address);
    publisher.binary(b"secret");
    assert_eq!(chunk(&mut right), b"secret");
    for player in early.iter_mut().chain(&mut wrong()) {
        assert_wrong_key(player);
    }
    publish(&mut publisher, &mut right, b"more");
    // Nor has one of them emptied the cache.
    let mut late = receiver(server.address);
    assert_eq!((chunk(&mut late), chunk(&mut late)), (b"secret".to_vec(), b"more".to_vec()));
}

/// Goal: the key is that of the present publisher, not of the last one.
#[test]
fn the_key_is_the_present_publishers() {
    let server = Server::start();
    let mut first = on(server.address, "cam/first", "publish");
    let mut of_first = on(server.address, "cam/first", "receive");
    publish(&mut first, &mut of_first, b"1");
    first.close(1000, "");
    first.closing();
    of_first.closing().assert_told();
    let mut waits_wrongly = on(server.address, "cam/first", "receive");
    let mut waits = on(server.address, "cam/second", "receive");
    let mut second = publish_when_free(server.address, "cam/second");
    publish(&mut second, &mut waits, b"2");
    assert_wrong_key(&mut waits_wrongly);
    assert_wrong_key(&mut on(server.address, "cam/first", "receive"));
}

// The beginning and the end of a session.

/// Goal: who is there first waits, and misses nothing.
#[test]
fn receivers_wait_for_the_publisher() {
    let server = Setup::new().cores(4).start();
    let mut waiting: Vec<_> = (0..20).map(|_| receiver(server.address)).collect();
    let mut publisher = publisher(server.address);
    let chunks: Vec<_> = (0..50).map(|seed| noise(seed, 1000)).collect();
    chunks.iter().for_each(|chunk| publisher.binary(chunk));
    for receiver in &mut waiting {
        for expected in &chunks {
            assert_same(&chunk(receiver), expected);
        }
    }
}

/// Goal: whichever way a publisher ends, each receiver gets all, is closed and told why; the next
/// session has nothing of the last.
#[test]
fn the_end_of_the_publisher_closes_all() {
    let server = Setup::new().cores(4).start();
    let ends: [fn(WebSocket); 4] = [
        |mut publisher| {
            publisher.close(1000, "");
            publisher.drain();
        },
        |mut publisher| {
            publisher.close_empty();
            publisher.drain();
        },
        |mut publisher| {
            publisher.finish_sending();
            publisher.drain();
        },
        |mut publisher| {
            // Not before all is taken: a reset may overtake it.
            publisher.send(FIN | PING, b"");
            publisher.assert_pong(b"");
            publisher.reset();
        },
    ];
    for (session, end) in ends.into_iter().enumerate() {
        let waiting = receiver(server.address);
        let mut publisher = publish_when_free(server.address, "cam/key");
        let mut receivers: Vec<_> = (0..9).map(|_| receiver(server.address)).collect();
        let chunks: Vec<_> =
            (0..200).map(|number| format!("{session} {number}").into_bytes()).collect();
        chunks.iter().for_each(|chunk| publisher.binary(chunk));
        end(publisher);
        receivers.push(waiting);
        for receiver in &mut receivers {
            let (got, closing) = chunks_to_end(receiver);
            assert!(got == chunks, "session {session}: {} chunks, {:?}", got.len(), got.first());
            closing.assert_told();
        }
        let mut after = receiver(server.address);
        after.send(FIN | PING, b"");
        after.assert_pong(b"");
    }
}

/// Goal: an incomplete chunk at the end of a publisher reaches nobody.
#[test]
fn half_a_chunk_is_dropped() {
    let server = Server::start();
    let mut publisher = publisher(server.address);
    let mut receiver = receiver(server.address);
    publish(&mut publisher, &mut receiver, b"whole");
    publisher.send(BINARY, &noise(1, 100_000));
    publisher.finish_sending();
    receiver.closing().assert_told();
}

/// Goal: SIGTERM tells all, publishers and players.
#[test]
fn a_stopping_server_says_so() {
    let mut server = Server::start();
    let publisher = publisher(server.address);
    let mut peers = vec![publisher, receiver(server.address)];
    for kind in PLAYERS {
        peers.push(on(server.address, "waits/key", kind));
    }
    server.signal(Signal::TERM);
    for peer in &mut peers {
        chunks_to_end(peer).1.assert_told();
    }
    assert!(server.wait().success());
}

// Plain HTTP.

/// Goal: a channel is live-tailed by plain GET: cached chunks first, then each as it comes, the
/// proper end with the publisher. Text is in no answer.
#[test]
fn a_plain_get_receives_too() {
    let server = Server::start();
    assert_eq!(get(server.address, "/cam/key/receive").status, 404);
    let mut publisher = publisher(server.address);
    let mut witness = receiver(server.address);
    publish(&mut publisher, &mut witness, b"one ");
    publisher.text("not this");
    publish(&mut publisher, &mut witness, b"two ");
    let wrong = get(server.address, "/cam/another/receive");
    assert_eq!(wrong.status, 403, "{wrong:?}");
    let mut reader = Client::connect(server.address);
    let head = reader.get("/cam/key/receive", "");
    assert!(head.status == 200 && head.is_chunked(), "{head:?}");
    assert_eq!((head.field("etag"), head.field("content-length")), (None, None));
    assert_eq!(reader.data_of(8), b"one two ");
    for step in 0..100 {
        let data = noise(step, 1 + 10 * step as usize);
        publish(&mut publisher, &mut witness, &data);
        assert_same(&reader.data_of(data.len()), &data);
    }
    publisher.close(1000, "");
    publisher.closing();
    assert_eq!(reader.chunk(), Chunk::Last);
    wait_until("it is over", || get(server.address, "/cam/key/receive").status == 404);
}

/// Goal: other kinds are no resources of HTTP, and objects may have such names.
#[test]
fn plain_http_may_use_such_names() {
    let server = Server::start();
    let _publisher = publisher(server.address);
    for kind in ["publish", "probe"] {
        assert_eq!(get(server.address, &format!("/cam/key/{kind}")).status, 404);
    }
    put(server.address, "/a/b/publish", b"object");
    get(server.address, "/a/b/publish").assert_body(200, b"object");
    let mut publisher = on(server.address, "a/b", "publish");
    let mut receiver = on(server.address, "a/b", "receive");
    publish(&mut publisher, &mut receiver, b"chunk");
    get(server.address, "/a/b/publish").assert_body(200, b"object");
}

// Where the doors are.

/// Goal: on the common listener only the four kinds on three segments are channels; the rest is
/// httpfstream's.
#[test]
fn other_paths_on_the_common_listener_are_httpfstreams() {
    let server = Server::start();
    for target in ["/cam/key/other", "/cam/key/receive/more", "/key/publish", "/a/cam/key/receive"]
    {
        let mut appender = appender(server.address, target);
        appender.text("appended");
        appender.close(1000, "");
        appender.closing();
        assert_sealed(server.address, target, b"appended");
        refused(server.address, target, "").assert_body(200, b"appended");
    }
}

/// What only channels hear: the texts of 5.1.
fn assert_only_channels(address: SocketAddr, base: &str) {
    for (target, wrong) in [
        ("cam/key/other", WRONG_KIND),
        ("cam/key/publish?x=1", WRONG_KIND),
        ("cam/key/receive?", WRONG_KIND),
        ("cam/key/Publish", WRONG_KIND),
        ("ch.an/key/other", WRONG_CHANNEL),
        ("cam/k.y/other", WRONG_KEY),
    ] {
        assert_refused(address, &format!("{base}{target}"), "", wrong);
    }
    for target in ["cam/key", "cam/key/receive/more"] {
        assert_eq!(refused(address, &format!("{base}{target}"), "").status, 404);
    }
    let mut publisher = WebSocket::open(address, &format!("{base}cam/key/publish"), "");
    let mut receiver = WebSocket::open(address, &format!("{base}cam/key/receive"), "");
    publish(&mut publisher, &mut receiver, b"chunk");
    let mut reader = Client::connect(address);
    assert_eq!(reader.get(&format!("{base}cam/key/receive"), "").status, 200);
    assert_eq!(reader.data(), b"chunk");
}

/// Goal: with addresses of their own channels are there and nowhere else, and nothing else is there.
#[test]
fn channels_can_have_their_own_address() {
    let server = Setup::new().key("channels.listen", "[\"127.0.0.1:0\"]").start();
    let own = server.door("channels");
    assert_ne!(own, server.address);
    assert_only_channels(own, "/");
    for kind in KINDS {
        assert_eq!(refused(server.address, &format!("/cam/key/{kind}"), "").status, 404);
    }
    assert_eq!(get(server.address, "/cam/key/receive").status, 404);
    appender(server.address, "/cam/key/publish");
}

#[test]
fn channels_can_be_moved_below_a_prefix() {
    let server = Setup::new().key("channels.prefix", "\"/stream/\"").start();
    assert_only_channels(server.address, "/stream/");
    for kind in KINDS {
        assert_eq!(refused(server.address, &format!("/cam/key/{kind}"), "").status, 404);
    }
    appender(server.address, "/cam/key/publish");
}

/// Goal: both doors can have addresses of their own at once.
#[test]
fn both_doors_can_have_their_own_addresses() {
    let setup = Setup::new().key("channels.listen", "[\"127.0.0.1:0\"]");
    let server = setup.key("append.listen", "[\"127.0.0.1:0\"]").start();
    assert_only_channels(server.door("channels"), "/");
    appender(server.door("append"), "/cam/key/publish");
    for address in [server.address, server.door("append")] {
        assert_eq!(get(address, "/cam/key/receive").status, 404);
    }
    refused(server.address, "/log", APPEND);
}

#[test]
fn channels_can_be_switched_off() {
    let server = Setup::new().key("channels.enabled", "false").start();
    for kind in KINDS {
        assert_eq!(refused(server.address, &format!("/cam/key/{kind}"), "").status, 404);
    }
    let mut appender = appender(server.address, "/cam/key/publish");
    appender.text("an object");
    appender.close(1000, "");
    appender.closing();
    assert_sealed(server.address, "/cam/key/publish", b"an object");
}

#[test]
fn channels_work_without_appending() {
    let server = Setup::new().key("append.enabled", "false").start();
    let mut publisher = publisher(server.address);
    let mut receiver = receiver(server.address);
    publish(&mut publisher, &mut receiver, b"chunk");
    refused(server.address, "/log", APPEND);
    assert_eq!(get(server.address, "/log").status, 404);
}
