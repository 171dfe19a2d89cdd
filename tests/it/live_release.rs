//! One part, thousands of held requests: all are answered with the same bytes, which were made once.
//!
//! The requests are sockets that are written and then left alone, so that the test costs one thread
//! and the server does the work.

use std::net::SocketAddr;

use crate::client::{Answer, Client, assert_same, get};
use crate::hls_playlist::Playlist;
use crate::hls_rules::{SEGMENT, Stage};
use crate::server::{Server, wait_until};

/// Requests held at once, if this process may open as many sockets.
const HELD_MAX: usize = 4000;
/// What a held request may cost the server beside its socket.
const HELD_BYTES_MAX: u64 = 8192;

/// As many as the limit of open files allows, in this process and in the server, which inherits it.
fn held() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let room = limit.unwrap_or(u64::MAX).saturating_sub(300);
    let held = HELD_MAX.min(usize::try_from(room).unwrap_or(HELD_MAX));
    assert!(held >= 500, "only {limit:?} open files are allowed");
    held
}

/// A number from the metrics.
fn metric(server: &Server, name: &str) -> u64 {
    let text = get(server.admin, "/metrics").text();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let line = line.unwrap_or_else(|| panic!("no {name} in\n{text}"));
    line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64
}

/// Memory of the server that is its own, in bytes.
fn anonymous_bytes(server: &Server) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
}

/// Connections, each with the same request, once the server holds them all.
fn hold(stage: &Stage, target: &str, count: usize) -> Vec<Client> {
    let before = metric(&stage.server, HELD);
    let address: SocketAddr = stage.address();
    let clients = (0..count).map(|_| {
        let mut client = Client::connect(address);
        client.request("GET", target, "");
        client
    });
    let clients = clients.collect();
    wait_until(&format!("{count} requests are held"), || {
        metric(&stage.server, HELD) == before + count as u64
    });
    clients
}

/// Pushes the next part, and the bytes of it.
fn release(stage: &mut Stage) -> Vec<u8> {
    let fragment = stage.next_fragment();
    stage.upload.append(&fragment);
    stage.pushed.push(fragment.clone());
    fragment
}

/// The answers of all, which are one and the same.
fn same_answers(clients: &mut [Client]) -> Answer {
    let mut answers = clients.iter_mut().map(Client::answer);
    let first = answers.next().unwrap();
    assert_eq!(first.status, 200, "{first:?}");
    for answer in answers {
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_same(&answer.body, &first.body);
        assert_eq!(answer.needed("etag"), first.needed("etag"));
    }
    first
}

const HELD: &str = "headwater_held_requests_total";
const RENDERS: &str = "headwater_live_renders_total";

/// Goal: releasing thousands of blocking reloads is one render, the same bytes for all, and a held
/// request costs little memory. Method: as many connections as may be, then one part, three times.
#[test]
fn thousands_of_held_playlists_are_rendered_once() {
    let mut stage = Stage::start(12);
    let count = held();
    let mut memory = Vec::new();
    for _ in 0..3 {
        let parts = stage.pushed.len() as u64;
        let (msn, part) = (stage.list().media_sequence + parts / SEGMENT, parts % SEGMENT);
        let target = format!("{}?_HLS_msn={msn}&_HLS_part={part}", stage.url);
        let (renders, before) = (metric(&stage.server, RENDERS), anonymous_bytes(&stage.server));
        let mut clients = hold(&stage, &target, count);
        memory.push(anonymous_bytes(&stage.server).saturating_sub(before) / count as u64);
        release(&mut stage);
        let answer = same_answers(&mut clients);
        let list = Playlist::checked(&answer.text()).unwrap_or_else(|why| panic!("{why}"));
        let last = list.open_parts().len() as u64;
        assert_eq!((list.open_msn() - msn) * SEGMENT + last, part + 1, "{}", answer.text());
        assert_eq!(metric(&stage.server, RENDERS), renders + 1, "one version, one render");
    }
    println!("{count} held requests, bytes for each: {memory:?}");
    assert!(memory[0] <= HELD_BYTES_MAX, "{memory:?} bytes for each held request");
}

/// Goal: those that wait on the hinted part itself get its bytes. Method: many connections, one part.
#[test]
fn thousands_of_held_parts_are_the_bytes_that_were_pushed() {
    let mut stage = Stage::start(12);
    let hint = stage.hint();
    let mut clients = hold(&stage, &hint, held());
    let fragment = release(&mut stage);
    assert_same(&same_answers(&mut clients).body, &fragment);
}
