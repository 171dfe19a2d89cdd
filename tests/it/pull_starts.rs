//! Where readers of pulled streams begin and end, and what a stream may take of the disk.

use std::io::Write;
use std::net::{TcpStream, UdpSocket};
use std::time::Duration;

use rustix::process::Signal;

use crate::client::{Chunk, Client, assert_same, get};
use crate::pull_kit::{
    PACKET, Reader, Upstream, assert_start, free_udp_port, has_flag, is_key, pids, pulling, pump,
    sample,
};
use crate::server::{Server, Setup, files_below, wait_until};

/// A stream in pieces: tables, pictures where no decoder begins, and the rest from a key picture on.
struct Cut {
    tables: Vec<u8>,
    pictures: Vec<u8>,
    from_key: Vec<u8>,
}

fn cut(setup: &Setup) -> Cut {
    let bytes = std::fs::read(sample(setup, 2)).unwrap();
    let (packets, _) = bytes.as_chunks::<PACKET>();
    let keys: Vec<_> = (0..packets.len()).filter(|at| is_key(&packets[*at])).collect();
    let pictures = packets[..keys[1]].iter().skip(keys[0] + 1).filter(|p| pids(&p[..]) == [256]);
    let pictures = pictures.skip_while(|packet| packet[1] & 0x40 == 0).flatten().copied();
    let at = |pid: u16| packets.iter().find(|packet| pids(&packet[..]) == [pid]).unwrap();
    Cut {
        tables: [*at(0), *at(4096)].concat(),
        pictures: pictures.collect(),
        from_key: packets[keys[1]..].concat(),
    }
}

fn line_of(server: &Server, page: &str, name: &str) -> String {
    let page = get(server.address, page);
    let found = page.text().lines().find(|line| line.starts_with(name)).map(str::to_owned);
    found.unwrap_or_else(|| panic!("{name}: {}", page.text()))
}

/// Goal: where key pictures are far apart, readers wait for one. Method: none comes for longer than a
/// stream without a program is waited for.
#[test]
fn readers_wait_for_a_key_picture() {
    let setup = Setup::new();
    let Cut { tables, pictures, from_key } = cut(&setup);
    let upstream = Upstream::new();
    let server = pulling(setup, &upstream.url(), "");
    let mut connection = upstream.accept();
    connection.write_all(&[&tables[..], &pictures].concat()).unwrap();
    let mut reader = Reader::open(server.address);
    for _ in 0..25 {
        connection.write_all(&pictures).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    connection.write_all(&from_key).unwrap();
    assert_start(reader.packets(20));
}

/// Goal: a reader that has nothing yet is told of no gap, and gets nothing of what is over. Method: the
/// upstream is lost while it waits for a place to begin.
#[test]
fn who_waits_for_a_beginning_sees_no_gap() {
    let setup = Setup::new();
    let Cut { tables, pictures, from_key } = cut(&setup);
    let upstream = Upstream::new();
    let server = pulling(setup, &upstream.url(), "reconnect_s = 0.05");
    let mut connection = upstream.accept();
    connection.write_all(&[&tables[..], &pictures].concat()).unwrap();
    let mut reader = Reader::open(server.address);
    drop(connection);
    let mut connection = upstream.accept();
    let bytes = [tables, from_key].concat();
    connection.write_all(&bytes).unwrap();
    let got = reader.packets(20);
    let count = got.len().min(bytes.len());
    assert_same(&got[..count], &bytes[..count]);
}

/// Goal: who reads slowly is sent away too when a stream is switched off.
#[test]
fn a_reader_that_is_behind_is_sent_away() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let upstream = Upstream::new();
    let more = "[[api]]\npath = \"/switch\"\nkind = \"control\"\npull = \"/cam.ts\"";
    let server = pulling(setup, &upstream.url(), more);
    pump(upstream.accept(), bytes);
    let mut slow = Reader::open(server.address);
    slow.packets(10);
    assert_eq!(get(server.address, "/switch?offline").status, 202);
    // It takes what was on its way, and is at the end: nothing more is made for it.
    while let Chunk::Data(_) = slow.client.chunk() {}
}

/// Goal: a server that is stopped does not wait for upstreams that cannot come back.
#[test]
fn readers_in_a_gap_do_not_hold_up_the_end() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let upstream = Upstream::with_own_port();
    let mut server = pulling(setup, &upstream.url(), "hold_over_s = 3600");
    let mut connection = upstream.accept();
    connection.write_all(&bytes).unwrap();
    let mut reader = Reader::open(server.address);
    connection.write_all(&bytes).unwrap();
    reader.packets(10);
    upstream.away();
    drop(connection);
    wait_until("the gap", || server.log().contains("an upstream was lost"));
    server.signal(Signal::TERM);
    while let Chunk::Data(_) = reader.client.chunk() {}
    assert!(server.wait().success());
    assert!(!server.log().contains("grace"), "{}", server.log());
}

/// Goal: an on-demand stream that nobody wants has no gap.
#[test]
fn a_rest_is_no_gap() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let upstream = Upstream::new();
    let api = "[[api]]\npath = \"/figures\"\nkind = \"prometheus\"";
    let options = format!("on_demand = true\nstop_after_s = 1\n{api}");
    let server = pulling(setup, &upstream.url(), &options);
    let address = server.address;
    for round in 0..2 {
        let reader = std::thread::spawn(move || Reader::open(address).packets(10).len());
        pump(upstream.accept(), bytes.clone());
        assert!(reader.join().unwrap() > 0);
        let rests = || server.log().matches("it is not wanted any more").count() > round;
        wait_until("nobody wants it", rests);
    }
    assert!(line_of(&server, "/figures", "streaming_gaps").ends_with(" 0"));
    assert_eq!(server.log().matches("gap_ms=None").count(), 2, "{}", server.log());
}

/// Goal: an on-demand stream has as long as any to connect, however soon it stops when nobody reads.
#[test]
fn who_waits_wants_the_stream() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let upstream = Upstream::new();
    let options = "on_demand = true\nstop_after_s = 0";
    let server = pulling(setup, &upstream.url(), options);
    let address = server.address;
    let reader = std::thread::spawn(move || {
        let mut client = Client::connect(address);
        client.get("/cam.ts", "").status
    });
    let connection = upstream.accept();
    // Longer than the task looks again whether it is wanted.
    std::thread::sleep(Duration::from_millis(2500));
    pump(connection, bytes);
    assert_eq!(reader.join().unwrap(), 200);
}

/// Goal: a sender of RTP that begins anew is the same upstream: its first packets are not lost, and the
/// next upstream is left alone.
#[test]
fn a_sender_that_begins_anew_goes_on() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let (port, backup) = (free_udp_port(), Upstream::new());
    let urls = format!("\"rtp://127.0.0.1:{port}\", {}", backup.url());
    let server = pulling(setup, &urls, "reconnect_s = 0.05");
    wait_until("it listens", || server.log().contains("an upstream is connected"));
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    let mut sequence = 0_u16;
    let mut send = |source: u8, bytes: &[u8]| {
        for payload in bytes.chunks(7 * PACKET) {
            let [high, low] = sequence.to_be_bytes();
            let head = [0x80, 33, high, low, 0, 0, 0, 9, 0, 0, 0, source];
            socket.send(&[&head[..], payload].concat()).unwrap();
            sequence = sequence.wrapping_add(1);
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    let whole = bytes.len() / PACKET / 7 * 7 * PACKET;
    send(1, &bytes[..whole]);
    let mut reader = Reader::open(server.address);
    send(1, &bytes[..whole]);
    reader.packets(10);
    send(2, &bytes[..whole]);
    let (packets, _) = bytes.as_chunks::<PACKET>();
    let key_at = packets.iter().position(|packet| is_key(packet)).unwrap() * PACKET;
    let begin = &bytes[key_at..key_at + 20 * PACKET];
    wait_until("the first picture of the new one, behind a gap", || {
        reader.body.extend(reader.client.data());
        let gap_at = reader.body.chunks_exact(PACKET).rposition(|packet| has_flag(packet, 0x80));
        let behind = gap_at.map(|at| &reader.body[at * PACKET..]).unwrap_or_default();
        behind.windows(begin.len()).any(|window| window == begin)
    });
    assert!(server.log().contains("another sender has taken over"), "{}", server.log());
    backup.listener.set_nonblocking(true).unwrap();
    assert!(backup.listener.accept().is_err(), "the next upstream was asked");
}

/// Goal: what cannot be listed takes no more of the disk than what can. Method: a stream of which nothing
/// is known but that it is packets, many times as long as its window.
#[test]
fn what_cannot_be_listed_is_bounded() {
    let setup = Setup::new();
    let upstream = Upstream::new();
    let (window, extent) = (1 << 20, 1 << 20);
    let options = format!("window_bytes = {window}\n[store]\nextent_bytes = {extent}");
    let server = pulling(setup, &upstream.url(), &options);
    let mut connection = upstream.accept();
    let mut packet = vec![0x47, 0x01, 0x23, 0x10];
    packet.resize(PACKET, 0x55);
    let run = packet.repeat(1000);
    for _ in 0..100 {
        connection.write_all(&run).unwrap();
    }
    let folder = server.setup.home().join("data/.headwater");
    wait_until("most of it is given up", || {
        let files = files_below(&folder);
        let received = server.log().contains("a stream is live");
        let bytes: u64 = files.iter().map(|path| path.metadata().map_or(0, |m| m.len())).sum();
        let newest = newest_extent(&files);
        received && newest > 15 && bytes <= window + 2 * extent
    });
}

/// The highest number behind a dot.
fn newest_extent(files: &[std::path::PathBuf]) -> u64 {
    let number = |path: &std::path::PathBuf| path.extension()?.to_str()?.parse().ok();
    files.iter().filter_map(number).max().unwrap_or(0)
}

/// Goal: who connects where a stream is pushed, and sends no packets, disturbs neither who sends nor who
/// comes to send; who does send takes over.
#[test]
fn who_pushes_nothing_disturbs_nobody() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let raw = "raw = [{ listen = \"127.0.0.1:0\", format = \"mpegts\", path = \"/cam.ts\" }]";
    let server = setup.table(&format!("[cameras]\n{raw}")).start();
    let door = server.camera_door("camera /cam.ts");
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(door).unwrap()).collect();
    let mut garbage = TcpStream::connect(door).unwrap();
    let _ = garbage.write_all(&[0; 100_000]);
    pump(TcpStream::connect(door).unwrap(), bytes.clone());
    let mut reader = Reader::open(server.address);
    assert_start(reader.packets(100));
    drop(silent);
    let more: Vec<_> = (0..40).map(|_| TcpStream::connect(door).unwrap()).collect();
    let so_far = reader.body.len() / PACKET;
    reader.packets(so_far + 500);
    assert!(!reader.body.chunks(PACKET).any(|packet| has_flag(packet, 0x80)), "no gap");
    assert_eq!(server.log().matches("a stream is live").count(), 1, "{}", server.log());
    drop(more);
    let mut second = TcpStream::connect(door).unwrap();
    second.write_all(&bytes).unwrap();
    wait_until("another one sends", || server.log().matches("a stream is live").count() == 2);
}
