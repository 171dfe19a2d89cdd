//! Upstreams of pulled streams that come and go: what readers notice of it, and who takes over.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Chunk, assert_same, get};
use crate::pull_kit::{
    FIGURES, PACKET, Reader, Upstream, has_flag, is_key, pids, pulling, received, sample,
    sample_with_sound,
};
use crate::server::{HANG, Setup, wait_until};

const NULL_PID: u16 = 0x1fff;
const READERS: usize = 4;

/// What one connection brings: a part of a stream, and a packet that is nowhere else.
struct Piece {
    bytes: Vec<u8>,
    /// Where readers of the connection before begin.
    start: usize,
}

fn packets(bytes: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    bytes.chunks_exact(PACKET)
}

/// Stuffing with a number in it.
fn tag(number: u32) -> Vec<u8> {
    let mut packet = [&[0x47, 0x1f, 0xff, 0x10][..], &number.to_be_bytes()].concat();
    packet.resize(PACKET, 0xff);
    packet
}

impl Piece {
    /// From another packet of the sample each time, so that counters leap; up to some pictures behind the
    /// first key picture whose program is known.
    fn new(sample: &[u8], number: u32) -> Piece {
        let from = number as usize * 7 % (sample.len() / PACKET / 2);
        let place = |from: usize, what: &dyn Fn(&[u8]) -> bool| {
            from + packets(&sample[from * PACKET..]).position(what).unwrap()
        };
        let program = place(from, &|packet| pids(packet) == [0]);
        let key = place(program, &is_key);
        let end = key + 40 + number as usize % 13;
        let bytes = [&sample[from * PACKET..end * PACKET], &tag(number)].concat();
        Piece { bytes, start: (key - from) * PACKET }
    }
}

/// Who reads all the time.
struct Follower {
    body: Arc<Mutex<Vec<u8>>>,
}

impl Follower {
    fn start(address: SocketAddr) -> Follower {
        let mut reader = Reader::open(address);
        let body = Arc::<Mutex<Vec<u8>>>::default();
        let gathered = body.clone();
        thread::spawn(move || {
            while let Chunk::Data(data) = reader.client.chunk() {
                gathered.lock().unwrap().extend(data);
            }
        });
        Follower { body }
    }

    fn has(&self, tag: &[u8]) -> bool {
        self.body.lock().unwrap().ends_with(tag)
    }
}

/// Goal: an upstream that is killed a hundred times costs no reader its answer: each gets every byte from
/// the first key picture of each connection on, with exactly one statement of each gap for each PID, and
/// no counter leaps without one; log and figures say each gap too. Method: connections end in order, within
/// a packet, with a reset, and with nobody listening for a while; the next one begins with other counters.
#[test]
fn readers_stay_through_a_hundred_restarts() {
    restart(100, "live = \"\"");
}

/// Goal: the same of a stream that is listed too, for whose packets others look.
#[test]
fn readers_of_a_listed_stream_stay_too() {
    restart(12, "[[live]]\nprefix = \"/live/\"");
}

fn restart(restarts: u32, more: &str) {
    let setup = Setup::new();
    let sample = std::fs::read(sample_with_sound(&setup, 3)).unwrap();
    let upstream = Upstream::with_own_port();
    let options = format!("reconnect_s = 0.05\nhold_over_s = 60\n{more}\n{FIGURES}");
    let server = pulling(setup, &upstream.url(), &options);
    let mut connection = upstream.accept();
    let first = Piece::new(&sample, 0);
    connection.write_all(&first.bytes).unwrap();
    wait_until("all of it came", || received(&server) == first.bytes.len() / PACKET);
    let readers: Vec<_> = (0..READERS).map(|_| Follower::start(server.address)).collect();
    // Readers begin at a place that comes after them.
    connection.write_all(&first.bytes).unwrap();
    let mut pieces = vec![first];
    for number in 1..=restarts {
        let last = tag(number - 1);
        wait_until("all have all of it", || readers.iter().all(|reader| reader.has(&last)));
        lose(connection, &upstream, number, || server.log());
        connection = upstream.accept();
        pieces.push(Piece::new(&sample, number));
        connection.write_all(&pieces.last().unwrap().bytes).unwrap();
    }
    wait_until("the last one", || readers.iter().all(|reader| reader.has(&tag(restarts))));
    for reader in &readers {
        let body = reader.body.lock().unwrap();
        assert_gaps(&body, &pieces);
        assert_counters(&body);
    }
    let log = server.log();
    assert_eq!(log.matches("gap_ms=Some(").count(), restarts as usize);
    let figures = get(server.address, "/figures").text();
    let gaps = format!("streaming_gaps{{stream=\"/cam.ts\"}} {restarts}\n");
    assert!(figures.contains(&gaps), "{figures}");
    assert!(figures.contains("streaming_connections{stream=\"/cam.ts\"} 4\n"), "{figures}");
}

/// Ends a connection in one of four ways.
fn lose(mut connection: TcpStream, upstream: &Upstream, number: u32, log: impl Fn() -> String) {
    match number % 4 {
        0 => {}
        1 => connection.write_all(&[0x47; PACKET / 2]).unwrap(),
        2 => rustix::net::sockopt::set_socket_linger(&connection, Some(Duration::ZERO)).unwrap(),
        _ => {
            let refusals = || log().matches("it cannot be reached").count();
            let before = refusals();
            upstream.away();
            drop(connection);
            wait_until("it is refused", || refusals() > before);
            upstream.back();
        }
    }
}

/// A packet that says that its PID does not go on from the one before, and nothing else.
fn is_break(packet: &[u8]) -> bool {
    packet[3] & 0x30 == 0x20 && has_flag(packet, 0x80)
}

fn assert_gaps(body: &[u8], pieces: &[Piece]) {
    assert_eq!(body.len() % PACKET, 0, "packets are whole");
    let mut noted = BTreeSet::new();
    let mut rest = body;
    for (number, piece) in pieces.iter().enumerate() {
        let breaks: usize = packets(rest).take_while(|packet| is_break(packet)).count();
        let (breaks, behind) = rest.split_at(breaks * PACKET);
        let length = packets(behind).position(is_break).map_or(behind.len(), |at| at * PACKET);
        let (tables, packets) = behind[..length].split_at(2 * PACKET);
        rest = &behind[length..];
        assert_eq!(pids(breaks).len(), noted.len(), "gap {number}: each PID once");
        assert_eq!(pids(breaks).into_iter().collect::<BTreeSet<_>>(), noted, "gap {number}");
        assert_eq!(pids(tables), [0, 4096], "gap {number}");
        if number == 0 {
            assert!(
                piece.bytes.repeat(2).ends_with(packets),
                "{}: {:?}",
                packets.len(),
                &pids(packets)
            );
            assert!(is_key(&packets[..PACKET]));
        } else {
            assert_same(packets, &piece.bytes[piece.start..]);
        }
        noted.extend(pids(&piece.bytes).into_iter().filter(|pid| *pid != NULL_PID));
    }
    assert!(rest.is_empty(), "a gap too many");
}

/// Goal: nothing leaps but packets that say so, as ISO/IEC 13818-1, 2.4.3.3 and 2.4.3.4 have it; a packet
/// may come twice.
fn assert_counters(body: &[u8]) {
    let mut before: HashMap<u16, &[u8]> = HashMap::new();
    for (at, packet) in packets(body).enumerate() {
        let (pid, counter) = (pids(packet)[0], packet[3] & 0x0f);
        let Some(last) = before.insert(pid, packet).filter(|_| pid != NULL_PID) else { continue };
        let wanted = last[3].wrapping_add(packet[3] >> 4 & 1) & 0x0f;
        let is_right = counter == wanted || packet == last || has_flag(packet, 0x80);
        assert!(is_right, "packet {at}, PID {pid}: {counter} for {wanted}");
    }
}

/// Goal: readers are sent away when the hold-over is over, and new ones get 404 until it is back.
#[test]
fn a_gap_that_is_too_long_ends_the_answer() {
    for hold_over_s in [0, 1] {
        is_too_long(hold_over_s);
    }
}

fn is_too_long(hold_over_s: u32) {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 1)).unwrap();
    let upstream = Upstream::new();
    let server = pulling(setup, &upstream.url(), &format!("hold_over_s = {hold_over_s}"));
    let mut connection = upstream.accept();
    connection.write_all(&bytes).unwrap();
    let mut reader = Reader::open(server.address);
    connection.write_all(&bytes).unwrap();
    reader.packets(10);
    drop(upstream);
    drop(connection);
    let started = Instant::now();
    loop {
        assert!(started.elapsed() < HANG);
        match reader.client.chunk() {
            Chunk::Data(_) => {}
            end => {
                assert_eq!(end, Chunk::Last, "a proper end");
                break;
            }
        }
    }
    wait_until("it is 404", || get(server.address, "/cam.ts").status == 404);
}

/// Goal: the next upstream is tried when one fails, at once.
#[test]
fn the_next_upstream_takes_over() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 1)).unwrap();
    let (first, second) = (Upstream::new(), Upstream::new());
    let urls = format!("{}, {}", first.url(), second.url());
    let server = pulling(setup, &urls, "read_timeout_s = 1\nhold_over_s = 60");
    let mut connection = first.accept();
    connection.write_all(&bytes).unwrap();
    let mut reader = Reader::open(server.address);
    connection.write_all(&bytes).unwrap();
    reader.packets(10);
    // The first falls silent, with its connection open.
    let mut other = second.accept();
    let before = reader.body.len();
    other.write_all(&bytes).unwrap();
    wait_until("packets of the second", || {
        let more = reader.client.data();
        reader.body.extend(more);
        reader.body.len() > before + 20 * PACKET
    });
    assert!(server.log().contains("no whole packet"), "{}", server.log());
}

/// Goal: upstreams are tried in their order, each at once when the one before has failed, whether it
/// refuses, says nothing or ends; behind the last one comes the first.
#[test]
fn upstreams_take_turns() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 1)).unwrap();
    let upstreams = [(); 3].map(|()| Upstream::with_own_port());
    let [first, second, third] = &upstreams;
    first.away();
    let urls = upstreams.each_ref().map(Upstream::url).join(", ");
    // A pause before another attempt would be longer than the test may take.
    let options =
        "read_timeout_s = 1\nreconnect_s = 3600\nreconnect_max_s = 3600\nhold_over_s = 3600";
    let server = pulling(setup, &urls, options);
    let silent = second.accept();
    let mut connection = third.accept();
    connection.write_all(&bytes).unwrap();
    let mut reader = Reader::open(server.address);
    connection.write_all(&bytes).unwrap();
    reader.packets(10);
    let said = |upstream: &Upstream, what: &str| {
        let (log, url) = (server.log(), upstream.url());
        log.lines().any(|line| line.contains(&url) && line.contains(what))
    };
    assert!(said(first, "it cannot be reached") && said(second, "no whole packet"));
    assert!(said(third, "is connected") && !said(third, "was lost"));
    drop((silent, connection));
}

/// Goal: one that fails behind the last is followed by the first, after a pause, and so on.
#[test]
fn behind_the_last_upstream_comes_the_first() {
    let upstreams = [(); 3].map(|()| Upstream::new());
    let urls = upstreams.each_ref().map(Upstream::url).join(", ");
    let server = pulling(Setup::new(), &urls, "reconnect_s = 0.05\nreconnect_max_s = 1");
    for upstream in upstreams.iter().cycle().take(9) {
        drop(upstream.accept());
    }
    let ports = upstreams.each_ref().map(|upstream| upstream.listener.local_addr().unwrap().port());
    wait_until("all are said", || server.log().matches("an upstream is connected").count() >= 9);
    let log = server.log();
    let order = log.lines().filter(|line| line.contains("an upstream is connected"));
    for (line, port) in order.zip(ports.iter().cycle()) {
        assert!(line.contains(&format!(":{port}\"")), "{port}: {line}");
    }
}
