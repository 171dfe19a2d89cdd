//! SIGTERM and SIGINT: no new connections, readers of finished objects finish, uploads end as
//! configured, exit 0 within the grace.

use std::net::{SocketAddr, TcpStream};
use std::thread;

use rustix::process::Signal;

use crate::client::{Client, Upload, ask, assert_same, get, noise, put};
use crate::server::{Server, Setup, wait_until};

/// A server of one large object with a reader that has read the head of it and stalls.
fn with_a_stalled_reader(body: &[u8]) -> (Server, Client) {
    let server = Setup::new().key("shutdown_grace_s", "50").start();
    put(server.address, "/large.mp4", body);
    let mut reader = Client::with_small_window(server.address);
    assert_eq!(reader.get("/large.mp4", "").status, 200);
    (server, reader)
}

/// Waits until a new connection gets no answer any more.
fn wait_until_refused(address: SocketAddr) {
    wait_until("new connections are refused", || {
        let Some(mut client) = Client::try_connect(address) else {
            return true;
        };
        let _ = client.try_send("GET /large.mp4 HTTP/1.0\r\nRange: bytes=0-0\r\n\r\n");
        client.try_head().is_err()
    });
}

/// Goal: a stop in good order gives nobody reason to worry.
#[test]
fn a_stop_warns_of_nothing() {
    let mut server = Setup::new().cores(1).start();
    assert_eq!(get(server.admin, "/healthz").status, 200);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(!server.log().contains("WARN"), "{}", server.log());
}

/// Goal: a reader in flight gets everything, new ones are refused, exit is 0. Method: a stalled
/// reader of 16 MiB that goes on only after the signal.
#[test]
fn readers_of_finished_objects_finish() {
    let body = noise(1, 16 << 20);
    let (mut server, mut reader) = with_a_stalled_reader(&body);
    server.signal(Signal::TERM);
    wait_until_refused(server.address);
    assert!(server.is_running(), "it did not wait for its reader");
    assert_same(&reader.exactly(body.len()).unwrap(), &body);
    reader.assert_closed();
    assert!(server.wait().success());
}

/// Goal: while the last readers finish, the admin address says so: alive, but not ready. Method:
/// the same reader; a load balancer's questions before and after the signal.
#[test]
fn a_draining_server_is_alive_but_not_ready() {
    let (mut server, reader) = with_a_stalled_reader(&noise(1, 16 << 20));
    assert_eq!(ask(server.admin, "GET", "/readyz", "").status, 200);
    server.signal(Signal::TERM);
    wait_until_refused(server.address);
    assert_eq!(ask(server.admin, "GET", "/readyz", "").status, 503);
    assert_eq!(ask(server.admin, "GET", "/healthz", "").status, 200);
    drop(reader);
    assert!(server.wait().success());
}

/// Goal: idle connections do not hold the server up. Method: fifty of them, used and unused, and
/// a grace that is longer than the hang guard.
#[test]
fn idle_connections_do_not_delay_the_end() {
    let mut server = Setup::new().key("shutdown_grace_s", "600").start();
    put(server.address, "/x", b"x");
    let mut idle: Vec<Client> = (0..50).map(|_| Client::connect(server.address)).collect();
    for client in &mut idle[..25] {
        client.ask("GET", "/x", "").assert_body(200, b"x");
    }
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}

/// Goal: open uploads are aborted, their readers cut; both learn it at once. Method: an upload
/// with a reader, then the signal, then a restart.
#[test]
fn open_uploads_are_aborted() {
    let mut server = Setup::new().key("shutdown_grace_s", "600").start();
    let mut upload = Upload::open(server.address, "/open.ts", "");
    upload.append(b"data");
    let mut reader = Client::connect(server.address);
    reader.get("/open.ts", "Connection: close\r\n");
    assert_eq!(reader.data(), b"data");
    server.signal(Signal::TERM);
    let (rest, _) = reader.read_to_end();
    assert!(!rest.ends_with(b"0\r\n\r\n"), "the reader saw a proper end: {rest:?}");
    upload.client.read_to_end();
    assert!(server.wait().success());
    let server = server.setup.clone().start();
    assert_eq!(get(server.address, "/open.ts").status, 404);
}

/// Goal: the grace is a limit. Method: readers that never read, a waiting GET, a slow head, and a
/// grace of one second; the exit is still 0.
#[test]
fn the_grace_ends_everything() {
    let mut server = Setup::new().argument("-w").key("shutdown_grace_s", "1").start();
    put(server.address, "/large.mp4", &noise(2, 16 << 20));
    let mut stalled = Client::with_small_window(server.address);
    stalled.get("/large.mp4", "");
    let mut waiting = Client::connect(server.address);
    waiting.request("GET", "/never", "Expires: in=50\r\n");
    let mut slow = Client::connect(server.address);
    slow.send("GET /");
    server.signal(Signal::TERM);
    let status = server.wait();
    assert!(status.success(), "{status}");
}

/// Goal: Ctrl-C is the same as SIGTERM. Method: SIGINT on a busy server.
#[test]
fn an_interrupt_ends_it_too() {
    let mut server = Server::start();
    put(server.address, "/x", b"x");
    server.signal(Signal::INT);
    assert!(server.wait().success());
    assert!(TcpStream::connect(server.address).is_err());
    let server = server.setup.clone().start();
    get(server.address, "/x").assert_body(200, b"x");
}

/// Goal: no acknowledged upload is lost by a stop under load. Method: four uploaders at work when
/// SIGTERM comes; every 201 is compared after the restart.
#[test]
fn a_stop_under_load_loses_nothing() {
    let mut server = Server::start();
    let address = server.address;
    let uploaders: Vec<_> = (0..4_u64)
        .map(|owner| {
            thread::spawn(move || {
                let mut acknowledged = Vec::new();
                let Some(mut client) = Client::try_connect(address) else {
                    return acknowledged;
                };
                for index in 0..5000_u64 {
                    let body = noise(owner * 10_000 + index, 3_000);
                    let target = format!("/u{owner}/{index}");
                    let head = format!(
                        "PUT {target} HTTP/1.1\r\nHost: it\r\nContent-Length: 3000\r\n\r\n"
                    );
                    let sent = client.try_send([head.as_bytes(), &body].concat());
                    match sent.ok().and_then(|()| client.try_head().ok()) {
                        Some(head) if head.status == 201 => acknowledged.push((target, body)),
                        _ => break,
                    }
                }
                acknowledged
            })
        })
        .collect();
    wait_until("the load runs", || get(address, "/u3/20").status == 200);
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    let server = server.setup.clone().start();
    let mut client = Client::connect(server.address);
    for uploader in uploaders {
        for (target, body) in uploader.join().unwrap() {
            client.ask("GET", &target, "").assert_body(200, &body);
        }
    }
}
