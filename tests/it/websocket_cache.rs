//! What a player of a channel gets, and when: cache first, then live, each chunk once; limits of the
//! cache; probes; players that fall behind, and those that come and go.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Chunk, Client, End, Noise, assert_same, get};
use crate::server::{Server, Setup, wait_until};
use crate::websocket_client::{
    BINARY, FIN, WebSocket, chunk, chunks_to_end, frame, handshake, number_of, numbered, on,
    publish, publish_when_free,
};

const PLACE: &str = "cam/key";

fn publisher(address: SocketAddr) -> WebSocket {
    on(address, PLACE, "publish")
}

fn receiver(address: SocketAddr) -> WebSocket {
    on(address, PLACE, "receive")
}

/// A receiver with a small window, which reads nothing until it is asked to.
fn stalled(address: SocketAddr) -> WebSocket {
    WebSocket::over(Client::with_small_window(address), "/cam/key/receive", "")
}

fn numbers(chunks: &[Vec<u8>]) -> Vec<usize> {
    chunks.iter().map(|chunk| number_of(chunk)).collect()
}

/// The next chunks have these numbers.
fn assert_numbers(receiver: &mut WebSocket, expected: std::ops::Range<usize>) {
    for number in expected {
        assert_eq!(number_of(&chunk(receiver)), number);
    }
}

/// Publishes numbered chunks of this length, each seen by the witness before the next.
fn publish_numbers(
    publisher: &mut WebSocket,
    witness: &mut WebSocket,
    these: std::ops::Range<usize>,
    length: usize,
) {
    for number in these {
        publish(publisher, witness, &numbered(number, length));
    }
}

// Cache first, then live.

/// Goal: whenever a receiver comes, it gets every chunk of the session, once and in order. Method: 30
/// receivers at any moment of a running publisher.
#[test]
fn every_receiver_gets_every_chunk_once() {
    let server = Setup::new().cores(4).start();
    let address = server.address;
    let mut random = Noise::new(Noise::printed_seed());
    let all_are_there = AtomicBool::new(false);
    let mut publisher = publisher(address);
    thread::scope(|scope| {
        let all_are_there = &all_are_there;
        let publishing = scope.spawn(move || {
            let mut count = 0;
            while count < 500 || !all_are_there.load(Ordering::Relaxed) {
                publisher.binary(&numbered(count, 10 + count * 7919 % 300));
                count += 1;
                thread::sleep(Duration::from_millis(1));
            }
            publisher.close(1000, "");
            publisher.closing();
            count
        });
        let receivers = (0..30).map(|_| {
            thread::sleep(Duration::from_micros(random.below(15_000) as u64));
            receiver(address)
        });
        let receivers: Vec<_> = receivers.collect();
        all_are_there.store(true, Ordering::Relaxed);
        let count = publishing.join().unwrap();
        for mut receiver in receivers {
            let (chunks, closing) = chunks_to_end(&mut receiver);
            assert!(numbers(&chunks).into_iter().eq(0..count), "not 0 to {count}");
            assert!(chunks.iter().enumerate().all(|(at, one)| one.len() == 10 + at * 7919 % 300));
            closing.assert_told();
        }
    });
}

/// Goal: the cache counts each chunk with 16 bytes more and drops the oldest above its limit. Method:
/// limits of exactly ten chunks, and of one byte less.
#[test]
fn the_cache_is_limited_by_size() {
    for (limit, first) in [(10 * 116, 15), (10 * 116 - 1, 16), (1 << 20, 0)] {
        let server = Setup::new().key("channels.cache_bytes_max", &limit.to_string()).start();
        let mut publisher = publisher(server.address);
        let mut witness = receiver(server.address);
        publish_numbers(&mut publisher, &mut witness, 0..25, 100);
        let mut late = receiver(server.address);
        assert_numbers(&mut late, first..25);
        let mut plain = Client::connect(server.address);
        assert_eq!(plain.get("/cam/key/receive", "").status, 200);
        let cached: Vec<u8> = (first..25).flat_map(|number| numbered(number, 100)).collect();
        assert_same(&plain.data_of(cached.len()), &cached);
        publish_numbers(&mut publisher, &mut witness, 25..30, 100);
        assert_numbers(&mut late, 25..30);
        let first = if first == 0 { 0 } else { first + 5 };
        assert_numbers(&mut receiver(server.address), first..30);
    }
}

/// Goal: empty chunks are counted too, and come out of the cache.
#[test]
fn empty_chunks_are_cached() {
    let server = Setup::new().key("channels.cache_bytes_max", "160").start();
    let mut publisher = publisher(server.address);
    let mut witness = receiver(server.address);
    publish(&mut publisher, &mut witness, b"forgotten");
    for _ in 0..10 {
        publish(&mut publisher, &mut witness, b"");
    }
    let mut late = receiver(server.address);
    for _ in 0..10 {
        assert_eq!(chunk(&mut late), b"");
    }
    publish(&mut publisher, &mut witness, b"live");
    assert_eq!(chunk(&mut late), b"live");
}

/// Goal: with a limit by time, what is older is not given to newcomers. Method: a chunk a moment, until
/// newcomers no longer get the first.
#[test]
fn the_cache_is_limited_by_time() {
    let server = Setup::new().key("channels.cache_s", "2").start();
    let mut publisher = publisher(server.address);
    let mut witness = receiver(server.address);
    let (mut count, mut cached) = (0, false);
    wait_until("the first chunk is too old", || {
        publish_numbers(&mut publisher, &mut witness, count..count + 1, 20);
        let mut late = receiver(server.address);
        publish_numbers(&mut publisher, &mut witness, count + 1..count + 2, 20);
        let first = number_of(&chunk(&mut late));
        assert_numbers(&mut late, first + 1..count + 2);
        cached |= first <= count;
        count += 2;
        first > 0 && cached
    });
}

/// Goal: the cache by time has all chunks of a burst, and a heartbeat makes none younger. Method: six
/// chunks in one write, three seconds after the first; then three seconds of heartbeats.
#[test]
fn a_burst_is_as_young_as_its_last_chunk() {
    let server = Setup::new().key("channels.cache_s", "2").start();
    let mut publisher = publisher(server.address);
    let mut witness = receiver(server.address);
    publish_numbers(&mut publisher, &mut witness, 0..1, 20);
    thread::sleep(Duration::from_secs(3));
    let frames = (1..7).map(|number| frame(FIN | BINARY, [1, 2, 3, 4], &numbered(number, 20)));
    publisher.raw(frames.collect::<Vec<_>>().concat());
    assert_numbers(&mut witness, 1..7);
    let mut late = receiver(server.address);
    assert_numbers(&mut late, 1..7);
    for _ in 0..6 {
        thread::sleep(Duration::from_millis(500));
        publisher.text("h");
    }
    let mut later = receiver(server.address);
    publish_numbers(&mut publisher, &mut witness, 7..8, 20);
    assert_numbers(&mut later, 7..8);
}

/// Goal: one chunk that is longer than the lag is no lag.
#[test]
fn a_long_chunk_is_no_lag() {
    let setup = Setup::new().key("channels.lag_bytes_max", "1000000");
    let server = setup.key("channels.on_lag", "\"close\"").start();
    let mut publisher = publisher(server.address);
    let mut witness = receiver(server.address);
    publish_numbers(&mut publisher, &mut witness, 0..1, 20);
    publish_numbers(&mut publisher, &mut witness, 1..4, 3_000_000);
}

/// Goal: without a cache a newcomer gets what comes after it, all of it.
#[test]
fn without_a_cache_there_is_only_live() {
    let server = Setup::new().key("channels.cache_bytes_max", "0").start();
    let mut all = vec![receiver(server.address)];
    let mut publisher = publisher(server.address);
    let mut witness = receiver(server.address);
    for number in 0..20 {
        publish_numbers(&mut publisher, &mut witness, number..number + 1, 1000);
        for late in &mut all {
            assert_numbers(late, number..number + 1);
        }
        all.push(receiver(server.address));
    }
    let probe = on(server.address, PLACE, "probe");
    publish_numbers(&mut publisher, &mut witness, 20..22, 1000);
    assert_probed(probe, 20);
}

/// Goal: `receive-clear-cache` gets the cache, then nobody gets it any more in that session; the next
/// session has one.
#[test]
fn receive_clear_cache_ends_the_cache() {
    let server = Server::start();
    let mut first = publisher(server.address);
    let mut witness = receiver(server.address);
    publish_numbers(&mut first, &mut witness, 0..10, 1000);
    let mut clears = on(server.address, PLACE, "receive-clear-cache");
    assert_numbers(&mut clears, 0..10);
    publish_numbers(&mut first, &mut witness, 10..11, 1000);
    assert_numbers(&mut clears, 10..11);
    let mut late = [receiver(server.address), on(server.address, PLACE, "receive-clear-cache")];
    let probe = on(server.address, PLACE, "probe");
    publish_numbers(&mut first, &mut witness, 11..20, 1000);
    for receiver in late.iter_mut().chain([&mut clears]) {
        assert_numbers(receiver, 11..20);
    }
    assert_probed(probe, 11);
    let mut later = receiver(server.address);
    publish_numbers(&mut first, &mut witness, 20..21, 1000);
    assert_numbers(&mut later, 20..21);
    first.close(1000, "");
    first.closing();
    for receiver in late.iter_mut().chain([&mut clears]) {
        assert_numbers(receiver, 20..21);
        receiver.closing().assert_told();
    }

    let mut waits = receiver(server.address);
    let mut second = publish_when_free(server.address, PLACE);
    publish_numbers(&mut second, &mut waits, 0..5, 1000);
    assert_numbers(&mut receiver(server.address), 0..5);
}

/// Goal: whoever came before the cache was cleared gets all of it, however slowly. Method: 8 MiB for a
/// receiver with a small window that has not read yet.
#[test]
fn clearing_the_cache_robs_nobody() {
    let server = Server::start();
    let mut publisher = publisher(server.address);
    let mut witness = receiver(server.address);
    publish_numbers(&mut publisher, &mut witness, 0..128, 64 << 10);
    let mut slow = stalled(server.address);
    let mut clears = on(server.address, PLACE, "receive-clear-cache");
    assert_numbers(&mut clears, 0..128);
    publish_numbers(&mut publisher, &mut witness, 128..130, 64 << 10);
    assert_numbers(&mut slow, 0..130);
}

/// Goal: what a receiver may fall behind is not bounded by what newcomers get. Method: no cache, 8 MiB
/// behind a receiver that has not read yet, at a lag of 64 MiB.
#[test]
fn a_small_cache_robs_nobody() {
    for cache in ["0", "100000"] {
        let server = Setup::new().key("channels.cache_bytes_max", cache).start();
        let mut slow = stalled(server.address);
        let mut witness = receiver(server.address);
        let mut publisher = publisher(server.address);
        publish_numbers(&mut publisher, &mut witness, 0..128, 64 << 10);
        assert_numbers(&mut slow, 0..128);
        publish_numbers(&mut publisher, &mut witness, 128..130, 64 << 10);
        assert_numbers(&mut slow, 128..130);
    }
}

// Probes.

/// One chunk with this number, then a close frame that tells why.
fn assert_probed(mut probe: WebSocket, number: usize) {
    let (chunks, closing) = chunks_to_end(&mut probe);
    assert_eq!((numbers(&chunks), closing.end), (vec![number], End::Fin));
    closing.assert_told();
}

/// Goal: a probe gets one chunk and is closed: the first of the cache, or else the next. Method: a probe
/// before the publisher, before its first chunk, and afterwards.
#[test]
fn a_probe_gets_one_chunk() {
    let server = Server::start();
    let before = on(server.address, PLACE, "probe");
    let mut witness = receiver(server.address);
    let mut publisher = publisher(server.address);
    let early = on(server.address, PLACE, "probe");
    publish_numbers(&mut publisher, &mut witness, 0..3, 1000);
    assert_probed(before, 0);
    assert_probed(early, 0);
    for _ in 0..3 {
        assert_probed(on(server.address, PLACE, "probe"), 0);
    }
    publish_numbers(&mut publisher, &mut witness, 3..5, 1000);
    assert_numbers(&mut receiver(server.address), 0..5);
}

/// Goal: a probe that never got a chunk is told of the publisher's end.
#[test]
fn a_probe_of_nothing_ends_with_the_publisher() {
    let server = Server::start();
    let mut publisher = publisher(server.address);
    let mut probe = on(server.address, PLACE, "probe");
    publisher.close(1000, "");
    publisher.closing();
    let (chunks, closing) = chunks_to_end(&mut probe);
    assert!(chunks.is_empty());
    closing.assert_told();
}

// Falling behind.

/// Goal: a receiver that reads nothing costs nobody anything, and within its lag it loses nothing
/// itself; the original stops all at 8.6 MB. Method: 24 MiB past one that stalls, a plain GET that
/// stalls too, and others that read.
#[test]
fn a_stalled_receiver_hurts_nobody() {
    let server = Server::start();
    let address = server.address;
    let mut slow = stalled(address);
    let mut publisher = publisher(address);
    let mut witness = receiver(address);
    publish_numbers(&mut publisher, &mut witness, 0..1, 64 << 10);
    let mut plain = Client::with_small_window(address);
    assert_eq!(plain.get("/cam/key/receive", "").status, 200);
    publish_numbers(&mut publisher, &mut witness, 1..384, 64 << 10);
    let mut late = receiver(address);
    assert_numbers(&mut late, 0..384);
    publisher.close(1000, "");
    publisher.closing();
    witness.closing().assert_told();
    let (chunks, closing) = chunks_to_end(&mut slow);
    assert!(numbers(&chunks).into_iter().eq(0..384), "{:?}", numbers(&chunks));
    closing.assert_told();
    let mut body = Vec::new();
    while let Chunk::Data(data) = plain.chunk() {
        body.extend(data);
    }
    let expected: Vec<u8> = (0..384).flat_map(|number| numbered(number, 64 << 10)).collect();
    assert_same(&body, &expected);
}

/// A receiver that has not read 40 MiB, with a lag of 1 MiB, and a witness that has.
fn far_behind(on_lag: &str) -> (Server, [WebSocket; 3]) {
    let setup = Setup::new().key("channels.on_lag", &format!("{on_lag:?}"));
    let server = setup.key("channels.lag_bytes_max", "1000000").start();
    let slow = stalled(server.address);
    let mut witness = receiver(server.address);
    let mut publisher = publisher(server.address);
    publish_numbers(&mut publisher, &mut witness, 0..640, 64 << 10);
    (server, [publisher, witness, slow])
}

/// Goal: `skip` goes on with the newest chunk: whole chunks, rising numbers, a gap, and nothing lost
/// again once the receiver keeps up.
#[test]
fn a_receiver_that_lags_skips_to_the_newest() {
    let (_server, [mut publisher, mut witness, mut slow]) = far_behind("skip");
    let mut got = Vec::new();
    while got.last() != Some(&639) {
        let chunk = chunk(&mut slow);
        assert_eq!(chunk.len(), 64 << 10);
        got.push(number_of(&chunk));
    }
    assert_eq!(got[0], 0);
    assert!(got.is_sorted_by(|one, next| one < next), "{got:?}");
    assert!(got.len() < 600, "it was never behind: {} chunks", got.len());
    for number in 640..700 {
        publish_numbers(&mut publisher, &mut witness, number..number + 1, 64 << 10);
        assert_numbers(&mut slow, number..number + 1);
    }
}

/// Goal: the cache may be longer than the lag, as it is by default: a newcomer starts behind, and gets
/// all of it. Method: 8 MiB of cache at a lag of 1 MB, by both rules; more chunks before it reads.
#[test]
fn a_newcomer_does_not_lag() {
    for on_lag in ["\"skip\"", "\"close\""] {
        let setup = Setup::new().key("channels.lag_bytes_max", "1000000");
        let server = setup.key("channels.on_lag", on_lag).start();
        let mut witness = receiver(server.address);
        let mut publisher = publisher(server.address);
        publish_numbers(&mut publisher, &mut witness, 0..128, 64 << 10);
        let mut late = stalled(server.address);
        publish_numbers(&mut publisher, &mut witness, 128..132, 64 << 10);
        assert_numbers(&mut late, 0..132);
        publish_numbers(&mut publisher, &mut witness, 132..134, 64 << 10);
        assert_numbers(&mut late, 132..134);
    }
}

/// Goal: `close` ends it with a reason, behind whole chunks without a gap.
#[test]
fn a_receiver_that_lags_can_be_closed() {
    let (_server, [mut publisher, mut witness, mut slow]) = far_behind("close");
    let (chunks, closing) = chunks_to_end(&mut slow);
    assert!(chunks.len() < 640, "it was never behind");
    assert!(numbers(&chunks).into_iter().eq(0..chunks.len()), "{:?}", numbers(&chunks));
    closing.assert_refused();
    publish_numbers(&mut publisher, &mut witness, 640..642, 1000);
}

// Coming and going.

/// Connects in one of the ways of players, and leaves in one of theirs.
fn visit(address: SocketAddr, random: &mut Noise) {
    let kind = ["receive", "receive", "probe", "GET"][random.below(4)];
    let way = random.below(5);
    if kind == "GET" {
        let mut reader = Client::connect(address);
        reader.request("GET", "/cam/key/receive", "");
        if way > 0 {
            assert_eq!(reader.head().status, 200);
        }
        if way > 1 {
            assert_eq!(number_of(&reader.data_of(10)[..10]), 0);
        }
        return if way == 2 { drop(reader) } else { reader.reset() };
    }
    let mut client = Client::connect(address);
    if way == 0 {
        client.send(handshake(&format!("/{PLACE}/{kind}"), ""));
        return drop(client);
    }
    let mut player = WebSocket::over(client, &format!("/{PLACE}/{kind}"), "");
    match way {
        1 => drop(player),
        2 => player.reset(),
        3 => assert_eq!(number_of(&chunk(&mut player)), 0),
        _ => {
            player.close(1000, "");
            player.drain();
        }
    }
}

/// Goal: the original dies within a second of this. Method: 8 clients that come and go 200 times each
/// while someone publishes; those that stay lose nothing, and the server keeps no descriptor.
#[test]
fn coming_and_going_does_no_harm() {
    // Those that stay have nothing to say, however long it takes.
    let setup = Setup::new().cores(4).key("channels.silence_timeout_s", "600");
    let server = setup.start();
    let address = server.address;
    let seed = Noise::printed_seed();
    let stop = AtomicBool::new(false);
    let mut publisher = publisher(address);
    let mut stay = [0; 3].map(|_| receiver(address));
    publisher.binary(&numbered(0, 10));
    stay.iter_mut().for_each(|receiver| assert_numbers(receiver, 0..1));
    let before = server.descriptors();
    thread::scope(|scope| {
        let stop = &stop;
        let publishing = scope.spawn(move || {
            let mut count = 1;
            while !stop.load(Ordering::Relaxed) {
                publisher.binary(&numbered(count, 10));
                count += 1;
                thread::sleep(Duration::from_millis(1));
            }
            (publisher, count)
        });
        let visitors = (0..8).map(|visitor| {
            scope.spawn(move || {
                let mut random = Noise::new(seed ^ visitor);
                (0..200).for_each(|_| visit(address, &mut random));
            })
        });
        let visitors: Vec<_> = visitors.collect();
        let outcomes: Vec<_> = visitors.into_iter().map(|visitor| visitor.join()).collect();
        stop.store(true, Ordering::Relaxed);
        let (mut publisher, count) = publishing.join().unwrap();
        assert!(outcomes.iter().all(Result::is_ok), "a visitor was surprised");
        // Some files are opened once by each core that needs them.
        wait_until("the descriptors are back", || server.descriptors() <= before + 8);
        publisher.close(1000, "");
        publisher.closing();
        for receiver in &mut stay {
            let (chunks, closing) = chunks_to_end(receiver);
            assert!(numbers(&chunks).into_iter().eq(1..count), "not 1 to {count}");
            closing.assert_told();
        }
    });
    wait_until("it is over", || get(address, "/cam/key/receive").status == 404);
    assert!(server.log().lines().all(|line| !line.contains("panic")), "{}", server.log());
}
