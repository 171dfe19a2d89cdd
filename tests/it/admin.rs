//! The admin address: health, readiness, metrics; and nothing of it on the data address.

use std::collections::HashMap;

use crate::client::{Client, Upload, ask, get, noise, put};
use crate::server::{Server, wait_until};

/// The samples of `/metrics`, each with its labels as the key; asserts the text format.
fn metrics(server: &Server) -> HashMap<String, f64> {
    let answer = get(server.admin, "/metrics");
    assert_eq!(answer.status, 200);
    let kind = answer.needed("content-type");
    assert!(kind.contains("text"), "{kind}");
    let mut samples = HashMap::new();
    for line in answer.text().lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        assert!(name.starts_with("headwater_"), "{line:?}");
        let value = value.parse().unwrap_or_else(|_| panic!("{line:?}"));
        assert!(samples.insert(name.to_owned(), value).is_none(), "{name} twice");
    }
    samples
}

/// Goal: liveness and readiness are 200 on a healthy server, for GET and HEAD.
#[test]
fn a_healthy_server_says_so() {
    let server = Server::start();
    let mut client = Client::connect(server.admin);
    for target in ["/healthz", "/readyz"] {
        let answer = client.ask("GET", target, "");
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    assert_eq!(ask(server.admin, "GET", "/nothing-here", "").status, 404);
    let posted = ask(server.admin, "POST", "/metrics", "Content-Length: 0\r\n");
    assert!([404, 405].contains(&posted.status), "{posted:?}");
}

/// Goal: metrics are Prometheus text and count what happens. Method: eight requests between two
/// scrapes, which count themselves; bytes out have grown by the bodies and at most their heads.
#[test]
fn metrics_count_the_traffic() {
    let server = Server::start();
    let before = metrics(&server);
    assert!(before.len() > 5, "{before:?}");
    put(server.address, "/a.bin", &noise(1, 200_000));
    for _ in 0..7 {
        assert_eq!(get(server.address, "/a.bin").status, 200);
    }
    let grown = || {
        let after = metrics(&server);
        ["requests", "uploads_sealed", "bytes_in", "bytes_out"].map(|name| {
            let name = format!("headwater_{name}_total");
            let value = after.get(&name).unwrap_or_else(|| panic!("{name} is missing"));
            (value - before.get(&name).unwrap_or(&0.0)) as usize
        })
    };
    wait_until("the requests are counted", || grown()[0] >= 8);
    let [_, sealed, bytes_in, bytes_out] = grown();
    assert_eq!(sealed, 1);
    assert!((200_000..201_000).contains(&bytes_in), "{bytes_in} bytes in");
    assert!((7 * 200_000..8 * 200_000).contains(&bytes_out), "{bytes_out} bytes out");
}

/// Goal: the metrics answer while the data side is busy. Method: scrape during a live upload with
/// readers.
#[test]
fn metrics_answer_under_load() {
    let server = Server::start();
    let mut upload = Upload::open(server.address, "/live.ts", "");
    let mut readers: Vec<Client> = (0..50).map(|_| Client::connect(server.address)).collect();
    readers.iter_mut().for_each(|reader| drop(reader.get("/live.ts", "")));
    for step in 0..20 {
        upload.append(&noise(step, 10_000));
        assert!(!metrics(&server).is_empty());
    }
    for reader in &mut readers {
        reader.data_of(200_000);
    }
}

/// Goal: the admin pages are not on the data address, nor objects on the admin one.
#[test]
fn the_two_addresses_do_not_mix() {
    let server = Server::start();
    put(server.address, "/object", b"x");
    for target in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(get(server.address, target).status, 404, "{target}");
    }
    assert_eq!(get(server.admin, "/object").status, 404);
    let mut client = Client::connect(server.admin);
    client.send("PUT /evil HTTP/1.1\r\nHost: it\r\nContent-Length: 1\r\n\r\nx");
    assert!(client.answer().status >= 400);
    assert_eq!(get(server.address, "/evil").status, 404);
    put(server.address, "/metrics", b"an object of that name");
    get(server.address, "/metrics").assert_body(200, b"an object of that name");
}

/// Goal: garbage on the admin address is answered or closed, and does no harm.
#[test]
fn garbage_on_the_admin_address_does_no_harm() {
    let mut server = Server::start();
    for bytes in
        ["\r\n\r\n\r\n", "GET\r\n\r\n", "\0\0\0\0\r\n\r\n", "GET /healthz HTTP/9.9\r\n\r\n"]
    {
        let mut client = Client::connect(server.admin);
        client.send(bytes);
        client.finish_sending();
        client.read_to_end();
    }
    let mut endless = Client::connect(server.admin);
    for _ in 0..200 {
        if endless.try_send("X: y\r\n".repeat(1000)).is_err() {
            break;
        }
    }
    drop(endless);
    assert_eq!(get(server.admin, "/healthz").status, 200);
    assert!(server.is_running());
}
