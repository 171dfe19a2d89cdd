//! Readers of pulled streams: what they get first, who is let in, and how many.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use crate::client::{Answer, Client, ask, assert_same, get};
use crate::pull_kit::{
    FIGURES, PACKET, PICTURES, Reader, TS, Upstream, is_key, pids, pulling, pump, received, sample,
};
use crate::server::{Server, Setup, wait_until};

/// The parts of a stream from one key picture to the next, each with its tables in front.
fn parts(stream: &[u8]) -> Vec<&[u8]> {
    let packets: Vec<_> = stream.chunks_exact(PACKET).collect();
    let begins = |at: &usize| pids(packets[*at]) == [0] && is_key(packets[*at + 2]);
    let mut starts: Vec<_> = (0..packets.len() - 2).filter(begins).collect();
    starts.push(packets.len());
    starts.windows(2).map(|ends| &stream[ends[0] * PACKET..ends[1] * PACKET]).collect()
}

/// What a part has from its key picture on.
fn from_key(part: &[u8]) -> &[u8] {
    &part[2 * PACKET..]
}

/// Sends to a server that then has it all, as its own figures say.
struct Feeder<'s> {
    server: &'s Server,
    connection: TcpStream,
    sent: usize,
}

impl Feeder<'_> {
    fn send(&mut self, bytes: &[u8]) {
        self.connection.write_all(bytes).unwrap();
        self.sent += bytes.len() / PACKET;
        wait_until("all of it came", || received(self.server) == self.sent);
    }
}

/// Goal: with `burst_s` a new reader gets the last seconds at once: tables, then everything from a place
/// where decoders may begin, which is not older than that.
#[test]
fn a_new_reader_gets_the_last_seconds() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let parts = parts(&bytes);
    for burst_s in [3600, 1] {
        let upstream = Upstream::new();
        let options = format!("burst_s = {burst_s}\n{FIGURES}");
        let server = pulling(Setup::new(), &upstream.url(), &options);
        let mut feeder = Feeder { server: &server, connection: upstream.accept(), sent: 0 };
        feeder.send(parts[0]);
        thread::sleep(Duration::from_millis(2500));
        feeder.send(parts[1]);
        let mut reader = Reader::open(server.address);
        if burst_s == 3600 {
            let wanted = [from_key(parts[0]), parts[1]].concat();
            let got = reader.packets(2 + wanted.len() / PACKET);
            assert_eq!(pids(got)[..2], [0, 4096]);
            assert_same(&got[2 * PACKET..], &wanted);
        }
        feeder.send(parts[2]);
        feeder.send(parts[3]);
        if burst_s == 1 {
            // On a slow machine that second may have passed.
            let got = reader.packets(10)[2 * PACKET..].to_vec();
            let is_at = |part: &&[u8]| from_key(part)[..8 * PACKET] == got[..8 * PACKET];
            assert!(!is_at(&parts[0]) && parts[1..].iter().any(is_at));
        }
    }
}

/// Goal: what is kept for new readers is bounded by `window_bytes`; who begins in it is not taken for one
/// who has fallen behind, and gets every byte from there on.
#[test]
fn the_past_is_bounded_by_the_window() {
    const WINDOW: usize = 1 << 20;
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let upstream = Upstream::new();
    let options = format!("burst_s = 3600\nwindow_bytes = {WINDOW}\n{FIGURES}");
    let server = pulling(setup, &upstream.url(), &options);
    let mut feeder = Feeder { server: &server, connection: upstream.accept(), sent: 0 };
    let mut sent = Vec::new();
    let mut number = 0_u32;
    while sent.len() < 3 * WINDOW {
        // Each round ends with a packet of its own.
        let mut tag = [&[0x47, 0x1f, 0xff, 0x10][..], &number.to_be_bytes()].concat();
        tag.resize(PACKET, 0xff);
        let round = [&bytes[..], &tag].concat();
        feeder.send(&round);
        sent.extend(round);
        number += 1;
    }
    let mut reader = Reader::open(server.address);
    let last = &sent[sent.len() - PACKET..];
    let mut count = 3;
    while !reader.packets(count).ends_with(last) {
        count = reader.body.len() / PACKET + 1;
    }
    let got = &reader.body[2 * PACKET..];
    assert!(is_key(&got[..PACKET]));
    assert_same(got, &sent[sent.len() - got.len()..]);
    assert!((WINDOW / 4..=WINDOW).contains(&got.len()), "{} bytes of the past", got.len());
    let page = get(server.admin, "/metrics").text();
    assert!(page.contains("headwater_pull_readers_lagged_total 0"), "{page}");
}

/// Goal: each reader gets the preamble first, whole and once; who only asks for the head gets none, and
/// one that cannot be read is none, with a line in the log.
#[test]
fn a_preamble_comes_first() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let preamble: Vec<u8> = (0..3_u8)
        .flat_map(|number| [&[0x47, 0x1f, 0xff, 0x10][..], &[number; PACKET - 4]].concat())
        .collect();
    let path = setup.home().join("preamble.ts");
    std::fs::write(&path, &preamble).unwrap();
    let upstream = Upstream::new();
    let options = format!("preamble = \"{}\"\nreconnect_s = 0.05", path.display());
    let server = pulling(setup, &upstream.url(), &options);
    let mut connection = upstream.accept();
    connection.write_all(&bytes).unwrap();
    let mut readers = [Reader::open(server.address), Reader::open(server.address)];
    let head = ask(server.address, "HEAD", "/cam.ts", "");
    assert_eq!((head.status, head.body.len()), (200, 0));
    connection.write_all(&bytes).unwrap();
    for reader in &mut readers {
        let got = reader.packets(20);
        assert_same(&got[..3 * PACKET], &preamble);
        assert_eq!(pids(got)[3..5], [0, 4096]);
        assert!(is_key(&got[5 * PACKET..][..PACKET]));
    }
    drop(connection);
    let mut connection = upstream.accept();
    connection.write_all(&bytes).unwrap();
    let [reader, _] = &mut readers;
    let before = reader.body.len();
    let count = before / PACKET + 2 * bytes.len() / PACKET;
    wait_until("enough behind the gap", || {
        let more = reader.client.data();
        reader.body.extend(more);
        reader.body.len() > before && reader.body.len() > count * PACKET / 2
    });
    assert!(!reader.body[before..].windows(PACKET).any(|run| run == &preamble[..PACKET]));

    let upstream = Upstream::new();
    let missing = pulling(Setup::new(), &upstream.url(), "preamble = \"/nowhere/preamble.ts\"");
    pump(upstream.accept(), bytes);
    crate::pull_kit::assert_start(Reader::open(missing.address).packets(20));
    assert!(missing.log().contains("a preamble cannot be read"), "{}", missing.log());
}

/// Ways to write the same path, and words to ask for it with.
fn ways(path: &str) -> Vec<(&'static str, String, &'static str)> {
    let letter = path.rfind(|c: char| c.is_ascii_alphabetic()).unwrap();
    let code = |at: usize| {
        let byte = path.as_bytes()[at];
        [format!("%{byte:02x}"), format!("%{byte:02X}")]
            .map(|code| format!("{}{code}{}", &path[..at], &path[at + 1..]))
    };
    let mut paths = vec![
        path.to_owned(),
        format!("/{path}"),
        path.replace('/', "//"),
        format!("/.{path}"),
        format!("/x/..{path}"),
        path.replacen('/', "/./", 2),
        format!("{path}/"),
        format!("{path}?a=b"),
        format!("{path}#a"),
        format!("http://it{path}"),
        format!("HTTP://other.example:1{path}"),
    ];
    paths.extend(code(1));
    paths.extend(code(letter));
    let mut ways: Vec<_> = paths.into_iter().map(|path| ("GET", path, "")).collect();
    for (method, fields) in [
        ("HEAD", ""),
        ("GET", "Range: bytes=0-10\r\n"),
        ("GET", "If-None-Match: *\r\n"),
        (
            "GET",
            "Upgrade: websocket\r\nConnection: Upgrade\r\n\
          Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n",
        ),
        ("DELETE", ""),
        ("PUT", "Content-Length: 0\r\n"),
        ("POST", "Content-Length: 0\r\n"),
    ] {
        ways.push((method, path.to_owned(), fields));
    }
    ways
}

/// A server with a stream that ffmpeg makes, listed, for whom `access` says.
fn guarded(access: &str) -> Server {
    let line = format!("-loglevel error {PICTURES} {TS} -").replace(' ', "+");
    let tables = "[users]\nalice = \"secret\"\nbob = \"t0ken\"\n\
        [[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = 1.0";
    let url = format!("\"fork://ffmpeg?{line}\"");
    pulling(Setup::new(), &url, &format!("access = {access}\n{tables}"))
}

/// All that a listed stream consists of, as whoever may read it finds it.
fn listed(server: &Server, fields: &str) -> Vec<String> {
    let fetch = |path: &str| -> Answer { ask(server.address, "GET", path, fields) };
    wait_until("it is listed", || fetch("/live/cam/index.m3u8").status == 200);
    wait_until("it is described", || fetch("/live/cam/manifest.mpd").status == 200);
    let mut paths: Vec<String> =
        ["index.m3u8", "manifest.mpd"].map(|file| format!("/live/cam/{file}")).to_vec();
    let text = fetch(&paths[0]).text();
    let list = text.lines().rfind(|line| !line.starts_with('#') && !line.is_empty()).unwrap();
    paths.push(format!("/live/cam/{list}"));
    let mut found = Vec::new();
    wait_until("it has segments and parts", || {
        let text = fetch(&paths[2]).text();
        let quoted = text.lines().filter_map(|line| line.split_once("URI=\"")?.1.split_once('"'));
        let named = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        found =
            named.chain(quoted.map(|(uri, _)| uri)).map(|uri| format!("/live/cam/{uri}")).collect();
        text.contains("#EXTINF") && text.contains("#EXT-X-PART:")
    });
    found.truncate(3);
    [paths, found].concat()
}

/// Goal: what is pulled for some users is for nobody else, as a stream or as playlists, segments and
/// parts of it, however the path is written and whatever is asked of it; they get all of it.
#[test]
fn access_is_for_the_stream_and_its_lists() {
    let basic = "{ scheme = \"basic\", realm = \"R x\", users = [\"alice\"] }";
    let bearer = "{ scheme = \"bearer\", users = [\"bob\"] }";
    let (alice, bob) = ("Basic YWxpY2U6c2VjcmV0", "Bearer t0ken");
    for (access, good, other, status) in [(basic, alice, bob, 401), (bearer, bob, alice, 403)] {
        let server = guarded(access);
        let field = |value: &str| format!("Authorization: {value}\r\n");
        let mut paths = listed(&server, &field(good));
        paths.push("/cam.ts".to_owned());
        for (method, path, fields) in paths.iter().flat_map(|path| ways(path)) {
            for value in ["", other, "Basic YWxpY2U6c2VjcmV1", "Bearer", "Basic "] {
                let own = if value.is_empty() { String::new() } else { field(value) };
                let refused = ask(server.address, method, &path, &format!("{own}{fields}"));
                assert_eq!(refused.status, status, "{method} {path} {value}: {refused:?}");
                let challenge = "Basic realm=\"R x\", charset=\"UTF-8\"";
                let wanted = (status == 401).then_some(challenge);
                assert_eq!(refused.field("www-authenticate"), wanted);
                assert_eq!(refused.needed("cache-control"), "no-store");
            }
        }
        let mut client = Client::connect(server.address);
        assert_eq!(client.get("//%63am.ts", &field(good)).status, 200);
        assert_eq!(client.data()[0], 0x47);
        // What stands beside it is not hidden, only absent.
        for path in ["/cam.tsx", "/CAM.ts", "/live/camera/index.m3u8"] {
            assert_eq!(get(server.address, path).status, 404, "{path}");
        }
        let log = server.log();
        assert!(!log.contains("secret") && !log.contains("t0ken"), "{log}");
    }
}

/// Goal: the place of a reader who leaves is free for the next one. Hooks that never answer are given up
/// in their time; until then they hold so many calls and no more, no reader waits for them, and what
/// happens afterwards is told.
#[test]
fn hanging_hooks_are_bounded() {
    const CALLS: usize = 16;
    let (upstream, hanging, told) =
        (Upstream::new(), Upstream::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let bytes = std::fs::read(sample(&Setup::new(), 2)).unwrap();
    let hook = |event: &str, address: &TcpListener| {
        let address = address.local_addr().unwrap();
        format!(
            "[[notification]]\nevent = \"{event}\"\nurl = \"http://{address}/\"\ntimeout_s = 5\n"
        )
    };
    let hooks = hook("limit_hit", &hanging.listener).repeat(CALLS + 1) + &hook("limit_miss", &told);
    let server =
        pulling(Setup::new(), &upstream.url(), &format!("[viewers]\nmax = 2\nfull = 2\n{hooks}"));
    pump(upstream.accept(), bytes);
    let first = Reader::open(server.address);
    let mut second = None;
    // A request that was answered a moment ago may still hold its place.
    wait_until("the second is let in", || {
        let mut client = Client::connect(server.address);
        second = (client.get("/cam.ts", "").status == 200).then_some(client);
        second.is_some()
    });
    let calls: Vec<_> = (0..CALLS).map(|_| hanging.accept()).collect();
    wait_until("one too many", || server.log().contains("too many notifications wait"));
    assert_eq!(get(server.address, "/cam.ts").status, 404, "two is all");
    let given_up = || server.log().matches("nobody was told").count();
    wait_until("all are given up", || given_up() == CALLS);
    drop((first, calls));
    let mut connection = told.accept().unwrap().0;
    connection.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    wait_until("its place is free", || {
        let mut client = Client::connect(server.address);
        client.get("/cam.ts", "").status == 200
    });
    drop(second);
}
