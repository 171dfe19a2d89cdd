//! Named limits: slow heads, stalled bodies, readers that never read, too many connections; and
//! what must never be cut: an idle pusher.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::{Client, Upload, ask, assert_same, get, noise, put};
use crate::server::{Server, Setup, wait_until};

/// Whether the server's side of a connection is still established, by the kernel's own table.
fn is_established(server: SocketAddr, client: SocketAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let ends = |local: u16, remote: u16| {
        table.lines().skip(1).any(|line| {
            let mut words = line.split_whitespace().skip(1);
            let port = |word: &str| u16::from_str_radix(word.rsplit(':').next().unwrap(), 16).ok();
            let (from, to) = (port(words.next().unwrap()), port(words.next().unwrap()));
            (from, to, words.next().unwrap()) == (Some(local), Some(remote), "01")
        })
    };
    ends(server.port(), client.port())
}

/// A reader that reads the head and then nothing; the address of its side too.
fn stalled(server: &Server, target: &str) -> (Client, SocketAddr) {
    let mut client = Client::with_small_window(server.address);
    assert_eq!(client.get(target, "").status, 200);
    let address = client.local_address();
    (client, address)
}

/// Goal: a head that does not complete is 408 and closed. Method: half a head; also one that
/// drips one byte at a time, which must not extend its time.
#[test]
fn a_slow_head_is_408() {
    let server = Setup::new().key("limits.head_timeout_s", "1").start();
    let mut half = Client::connect(server.address);
    half.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(half.answer().status, 408);
    half.assert_closed();
    let mut drip = Client::connect(server.address);
    drip.send("GET /");
    let deadline = Instant::now() + Duration::from_secs(30);
    while drip.try_send("x").is_ok() {
        assert!(Instant::now() < deadline, "a dripping head was never cut");
        thread::sleep(Duration::from_millis(50));
    }
}

/// Goal: `--set` overrides the file, here for a limit. Method: a head timeout of an hour in the
/// file, of a second on the command line.
#[test]
fn set_overrides_the_file() {
    let server = Setup::new()
        .key("limits.head_timeout_s", "3600")
        .argument("--set")
        .argument("limits.head_timeout_s=1")
        .start();
    let mut half = Client::connect(server.address);
    half.send("GET / HTTP/1.1\r\n");
    assert_eq!(half.answer().status, 408);
}

/// Goal: slow clients do not touch others. Method: 100 connections that send a byte now and then,
/// while one client uploads and reads 200 objects.
#[test]
fn slow_clients_do_not_disturb_others() {
    let server = Server::start();
    let mut slow: Vec<Client> = (0..100).map(|_| Client::connect(server.address)).collect();
    let request = "PUT /slow HTTP/1.1\r\nHost: it\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let mut client = Client::connect(server.address);
    for (round, byte) in (0..200_usize).zip(request.bytes().cycle()) {
        if round < request.len() {
            slow.iter_mut().for_each(|client| drop(client.try_send([byte])));
        }
        let body = noise(round as u64, 2_000);
        put(server.address, &format!("/fast/{round}"), &body);
        client.ask("GET", &format!("/fast/{round}"), "").assert_body(200, &body);
    }
}

/// Goal: an idle connection is closed silently: nobody asked anything. Method: one that never
/// sent a byte, one that was answered before.
#[test]
fn idle_connections_are_closed_without_a_word() {
    let server = Setup::new()
        .key("limits.keep_alive_timeout_s", "1")
        .key("limits.head_timeout_s", "1")
        .start();
    put(server.address, "/x", b"x");
    let mut used = Client::connect(server.address);
    used.ask("GET", "/x", "").assert_body(200, b"x");
    used.assert_closed();
    let mut fresh = Client::connect(server.address);
    fresh.read_to_end();
}

/// Goal: an idle keep-alive pusher is not closed in under 75 s: ffmpeg would lose its playlists
/// silently. Method: default limits, 76 s between two PUTs on one connection.
#[test]
fn an_idle_pusher_is_kept_for_75_seconds() {
    let server = Server::start();
    let mut pusher = Client::connect(server.address);
    for (pause, status) in [(76, 201), (0, 204)] {
        pusher.send("PUT /list.m3u8 HTTP/1.1\r\nHost: it\r\nContent-Length: 7\r\n\r\n#EXTM3U");
        assert_eq!(pusher.answer_to("PUT").status, status);
        thread::sleep(Duration::from_secs(pause));
    }
}

/// Goal: an upload that stops is aborted, told so, and its readers are cut; one that is slow is
/// not. Method: an idle limit of two seconds, one upload that appends every half second.
#[test]
fn a_stalled_upload_is_aborted() {
    let server = Setup::new().key("limits.body_idle_timeout_s", "2").start();
    let mut stops = Upload::open(server.address, "/stops.ts", "");
    stops.append(b"data");
    let mut reader = Client::connect(server.address);
    reader.get("/stops.ts", "");
    assert_eq!(reader.data(), b"data");
    let mut slow = Upload::open(server.address, "/slow.ts", "");
    for _ in 0..10 {
        slow.append(b"slow ");
        thread::sleep(Duration::from_millis(500));
    }
    assert_eq!(slow.seal().status, 201);
    get(server.address, "/slow.ts").assert_body(200, &b"slow ".repeat(10));
    if let Ok(head) = stops.client.try_head() {
        assert_eq!(head.status, 408, "{head:?}");
    }
    assert!(matches!(reader.chunk(), crate::client::Chunk::Cut(_)));
    wait_until("it goes", || get(server.address, "/stops.ts").status == 404);
}

/// Goal: an idle reader of an idle Open object is not cut: it waits for the encoder. Method:
/// short limits, a pause longer than all of them but the upload's own.
#[test]
fn a_reader_at_the_tail_is_not_idle() {
    let server = Setup::new()
        .key("limits.send_stall_timeout_s", "1")
        .key("limits.keep_alive_timeout_s", "1")
        .key("limits.head_timeout_s", "1")
        .start();
    let mut upload = Upload::open(server.address, "/calm.ts", "");
    let mut reader = Client::connect(server.address);
    reader.get("/calm.ts", "");
    thread::sleep(Duration::from_secs(4));
    upload.append(b"after a pause");
    assert_eq!(reader.data(), b"after a pause");
    assert_eq!(upload.seal().status, 201);
}

/// Goal: a reader that never reads is cut after `send_stall_timeout_s`, of a live and of a
/// finished object, and nobody else notices. Method: the kernel's table says when it is cut.
#[test]
fn a_reader_that_never_reads_is_cut() {
    let server = Setup::new().key("limits.send_stall_timeout_s", "1").start();
    let body = noise(1, 24 << 20);
    let mut upload = Upload::open(server.address, "/live.ts", "");
    let (_live, live_side) = stalled(&server, "/live.ts");
    let address = server.address;
    let good = thread::spawn(move || get(address, "/live.ts"));
    for part in body.chunks(256 * 1024) {
        upload.append(part);
    }
    assert_eq!(upload.seal().status, 201);
    good.join().unwrap().assert_body(200, &body);
    let (_sealed, sealed_side) = stalled(&server, "/live.ts");
    for (kind, side) in [("live", live_side), ("sealed", sealed_side)] {
        wait_until(&format!("the stalled {kind} reader is cut"), || {
            !is_established(server.address, side)
        });
    }
    get(server.address, "/live.ts").assert_body(200, &body);
}

/// Goal: slow is not stalled. Method: a reader that takes 50 kB every quarter second of 3 MiB, far
/// longer than `send_stall_timeout_s` in all, of a finished and of an Open object.
#[test]
fn a_slow_but_steady_reader_is_not_cut() {
    let server = Setup::new().key("limits.send_stall_timeout_s", "3").start();
    let body = noise(2, 3 << 20);
    put(server.address, "/sealed.ts", &body);
    let mut upload = Upload::open(server.address, "/live.ts", "");
    upload.append(&body);
    let mut readers = [stalled(&server, "/sealed.ts").0, stalled(&server, "/live.ts").0];
    let mut taken = 0;
    while taken + 50_000 < body.len() {
        for reader in &mut readers {
            let part = reader.exactly(50_000);
            assert!(part.is_ok(), "cut after {taken} of {} bytes", body.len());
        }
        taken += 50_000;
        thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(upload.seal().status, 201);
    readers[0].exactly(body.len() - taken).unwrap();
    readers[1].exactly(body.len() - taken).unwrap();
}

/// Goal: what a slow reader may lag behind is limited by name. Method: `lag_bytes_max` of 1 MiB,
/// an Open object of 24 MiB, a stalled reader and one that keeps up.
#[test]
fn a_reader_that_lags_too_far_is_cut() {
    let server = Setup::new()
        .key("limits.lag_bytes_max", "1048576")
        .key("limits.send_stall_timeout_s", "3600")
        .start();
    let mut upload = Upload::open(server.address, "/live.ts", "");
    let (_stalled, side) = stalled(&server, "/live.ts");
    let mut good = Client::connect(server.address);
    good.get("/live.ts", "");
    for step in 0..96 {
        let part = noise(step, 256 * 1024);
        upload.append(&part);
        assert_same(&good.data_of(part.len()), &part);
    }
    wait_until("the lagging reader is cut", || !is_established(server.address, side));
    let metrics = get(server.admin, "/metrics").text();
    assert!(metrics.contains("headwater_readers_cut_lag_total 1"), "cut, but not for its lag");
    upload.append(b"the end");
    assert_eq!(good.data_of(7), b"the end");
    assert_eq!(upload.seal().status, 201);
}

/// Goal: connections are limited by name, and the limit lets go. Method: one core (each has its
/// share of the limit); hold eight, try more, free them, use the server.
#[test]
fn connections_beyond_the_limit_are_refused() {
    let setup = Setup::new().key("limits.connections_max", "8");
    let server = setup.cores(1).start();
    let mut held = Vec::new();
    for _ in 0..8 {
        let mut client = Client::connect(server.address);
        assert_eq!(client.ask("GET", "/x", "").status, 404);
        held.push(client);
    }
    for _ in 0..4 {
        let mut more = Client::connect(server.address);
        let _ = more.try_send("GET /x HTTP/1.1\r\nHost: it\r\n\r\n");
        if let Ok(head) = more.try_head() {
            assert_eq!(head.status, 503, "{head:?}");
            more.body(head, "GET");
        }
        more.read_to_end();
    }
    assert_eq!(held[7].ask("GET", "/x", "").status, 404, "those inside are served on");
    held.clear();
    wait_until("the limit lets go", || {
        let mut client = Client::connect(server.address);
        let _ = client.try_send("GET /x HTTP/1.1\r\nHost: it\r\n\r\n");
        client.try_head().is_ok_and(|head| head.status == 404)
    });
}

/// Goal: the number of objects is limited by name. Method: `objects_max` of three; a fourth is
/// refused, a replaced and a deleted one make no difference and room.
#[test]
fn objects_beyond_the_limit_are_refused() {
    let server = Setup::new().key("store.objects_max", "3").start();
    for index in 0..3 {
        put(server.address, &format!("/{index}.ts"), b"x");
    }
    let refused = crate::client::put_with(server.address, "/more.ts", "", b"x");
    assert!([429, 503, 507].contains(&refused.status), "{refused:?}");
    put(server.address, "/2.ts", b"replaced");
    assert_eq!(ask(server.address, "DELETE", "/0.ts", "").status, 204);
    put(server.address, "/more.ts", b"now");
    get(server.address, "/more.ts").assert_body(200, b"now");
}

/// Goal: thousands of idle connections cost nothing that stays. Method: 2000 of them with half a
/// head, a good client among them, and the descriptors before and after.
#[test]
fn half_open_connections_leave_nothing_behind() {
    let server = Server::start();
    put(server.address, "/x", b"x");
    wait_until("the first connection goes", || server.descriptors() > 0);
    let before = server.descriptors();
    let mut idle: Vec<Client> = (0..2000).map(|_| Client::connect(server.address)).collect();
    idle.iter_mut().for_each(|client| client.send("GET /half"));
    get(server.address, "/x").assert_body(200, b"x");
    idle.clear();
    // A core that was still starting may have opened its rings since.
    wait_until("the descriptors return", || server.descriptors() <= before + 20);
    get(server.address, "/x").assert_body(200, b"x");
}
