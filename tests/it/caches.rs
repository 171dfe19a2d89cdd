//! The server behind real caches: Varnish, nginx and Traffic Server, each with the very files of
//! `docs/caches`, in which only addresses and folders are replaced. What reaches the origin is
//! written down by a [`Tap`] between the two, so a test counts requests and sees what they ask.
//!
//! A stream "published by hand" is one whose playlist versions are objects of their own: the query
//! belongs to the name, and a GET of an absent name is held until it is uploaded. To a cache that
//! looks exactly like a blocking playlist and a hinted part.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::client::{Client, Upload, ask, assert_same, get, noise, put, put_with};
use crate::server::{HANG, Server, Setup, collect, needs, run, wait_until};

/// Long enough for every client to have asked; what is asserted after it holds however long it is.
const A_MOMENT: Duration = Duration::from_millis(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Varnish,
    Nginx,
    TrafficServer,
}

/// One test of each check for one cache.
macro_rules! through {
    ($cache:ident, $kind:expr, [$($check:ident),* $(,)?]) => {
        mod $cache {
            $(
                #[test]
                fn $check() {
                    super::$check($kind);
                }
            )*
        }
    };
}

through!(
    varnish,
    super::Kind::Varnish,
    [
        growing_object_is_fetched_once_and_followed,
        first_reader_may_leave,
        torso_is_not_kept,
        held_playlist_is_asked_for_once,
        hinted_part_is_asked_for_once,
        absence_is_kept_for_a_short_time,
        stale_playlist_is_not_answered,
        refusal_is_not_kept,
        age_is_told,
        ranges_of_whole_objects,
        encodings_do_not_mix,
        queries_of_the_protocol_are_the_key,
        viewers_share_one_copy,
        readers_cannot_write,
    ]
);

through!(
    nginx,
    super::Kind::Nginx,
    [
        growing_object_is_fetched_once_but_followed_by_one,
        first_reader_may_leave,
        torso_is_not_kept,
        held_playlist_is_asked_for_once,
        hinted_part_is_asked_for_once,
        absence_is_kept_for_a_short_time,
        stale_playlist_is_not_answered,
        refusal_is_not_kept,
        ranges_of_whole_objects,
        encodings_do_not_mix,
        queries_of_the_protocol_are_the_key,
        viewers_share_one_copy,
        readers_cannot_write,
    ]
);

through!(
    traffic_server,
    super::Kind::TrafficServer,
    [
        growing_object_is_fetched_once_and_followed,
        first_reader_may_leave,
        torso_is_not_kept,
        held_playlist_is_asked_for_once,
        hinted_part_is_asked_for_once,
        absence_is_kept_for_a_short_time,
        stale_playlist_is_not_answered,
        refusal_is_not_kept,
        age_is_told,
        ranges_of_whole_objects,
        encodings_do_not_mix,
        queries_of_the_protocol_are_the_key,
        viewers_share_one_copy,
        readers_cannot_write,
    ]
);

// The checks.

/// Three readers, two of them late, of one upload: all see its bytes while it is open.
fn growing_object_is_fetched_once_and_followed(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    let target = SEGMENT;
    let body = noise(1, 6 * GROWTH);
    let mut upload = Upload::open(origin.address, target, "");
    let mut readers = Vec::new();
    for (count, part) in body.chunks(GROWTH).enumerate() {
        upload.append(part);
        if count < 3 {
            let mut client = Client::connect(cache.address);
            let head = client.get(target, "");
            assert_eq!(head.status, 200, "{head:?}");
            readers.push((client, Vec::new()));
        }
        let sent = (count + 1) * GROWTH;
        for (client, got) in &mut readers {
            // A cache may keep back what does not fill its unit.
            while got.len() + GROWTH / 2 < sent {
                got.extend(client.data());
            }
        }
    }
    assert_eq!(upload.seal().status, 201);
    for (client, mut got) in readers {
        got.extend(rest_of(client));
        assert_same(&got, &body);
    }
    assert_eq!(cache.tap.count(target), 1, "{:?}", cache.tap.targets());
}

/// nginx lets one reader follow; the others get the object when it is finished.
fn growing_object_is_fetched_once_but_followed_by_one(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    let target = SEGMENT;
    let body = noise(1, 2 * GROWTH);
    let mut upload = Upload::open(origin.address, target, "");
    upload.append(&body[..GROWTH]);
    let mut first = Client::connect(cache.address);
    assert_eq!(first.get(target, "").status, 200);
    let mut got = Vec::new();
    while got.len() < GROWTH / 2 {
        got.extend(first.data());
    }
    let address = cache.address;
    let late = thread::spawn(move || get(address, target));
    thread::sleep(A_MOMENT);
    assert!(
        !late.is_finished(),
        "nginx has learned to follow: docs/caches/README.md is out of date"
    );
    upload.append(&body[GROWTH..]);
    assert_eq!(upload.seal().status, 201);
    got.extend(rest_of(first));
    assert_same(&got, &body);
    late.join().unwrap().assert_body(200, &body);
    assert_eq!(cache.tap.count(target), 1, "{:?}", cache.tap.targets());
}

/// The reader for whom the object is fetched leaves; the next one gets all of it all the same.
fn first_reader_may_leave(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    let target = SEGMENT;
    let body = noise(4, 4 * GROWTH);
    let mut upload = Upload::open(origin.address, target, "");
    upload.append(&body[..GROWTH]);
    let mut first = Client::connect(cache.address);
    assert_eq!(first.get(target, "").status, 200);
    first.data();
    first.reset();
    for part in body[GROWTH..].chunks(GROWTH) {
        upload.append(part);
        thread::sleep(A_MOMENT / 3);
    }
    assert_eq!(upload.seal().status, 201);
    get(cache.address, target).assert_body(200, &body);
    assert_eq!(cache.tap.count(target), 1, "{:?}", cache.tap.targets());
}

/// An upload that loses its encoder: readers see the cut, and no cache keeps the torso.
fn torso_is_not_kept(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    let target = SEGMENT;
    let body = noise(5, 2 * GROWTH);
    let mut upload = Upload::open(origin.address, target, "");
    upload.append(&body[..GROWTH]);
    let mut reader = Client::connect(cache.address);
    let head = reader.get(target, "");
    reader.data();
    upload.cut();
    let answer = reader.body(head, "GET");
    assert!(!answer.complete, "a torso of {} bytes looks whole", answer.body.len());
    put(origin.address, target, &body);
    wait_until("the 404 of the cut is forgotten", || get(cache.address, target).status == 200);
    get(cache.address, target).assert_body(200, &body);
}

fn held_playlist_is_asked_for_once(kind: Kind) {
    // As long as a playlist may be held that has a target duration of two seconds.
    held_once(kind, "/show/cam/video.m3u8?_HLS_msn=4&_HLS_part=1", Duration::from_secs(6));
}

fn hinted_part_is_asked_for_once(kind: Kind) {
    held_once(kind, "/show/cam/video/e1/4.1.m4s", A_MOMENT);
}

/// Eight clients wait for what is not there yet: the origin holds one request, and all get it.
fn held_once(kind: Kind, target: &'static str, hold: Duration) {
    let origin = published_by_hand().start();
    let cache = Cache::start(kind, origin.address);
    let address = cache.address;
    let waiting: Vec<_> =
        (0..8).map(|_| thread::spawn(move || ask(address, "GET", target, PATIENT))).collect();
    wait_until("the origin holds the request", || gauge(&origin, "watched_names") == 1);
    thread::sleep(hold);
    let body = noise(2, 5000);
    let answer = put_with(origin.address, target, "Cache-Control: max-age=12\r\n", &body);
    assert_eq!(answer.status, 201);
    for client in waiting {
        client.join().unwrap().assert_body(200, &body);
    }
    get(address, target).assert_body(200, &body);
    assert_eq!(cache.tap.count(target), 1, "{:?}", cache.tap.targets());
}

/// A 404 is answered from the cache, but not for longer than the origin said.
fn absence_is_kept_for_a_short_time(kind: Kind) {
    let origin = Setup::new().key("cache_control.not_found", "\"max-age=2\"").start();
    let cache = Cache::start(kind, origin.address);
    let target = "/show/cam/video/9.m4s";
    for _ in 0..3 {
        assert_eq!(get(cache.address, target).status, 404);
    }
    // One, if the three did not happen to straddle the end of its life.
    assert!(cache.tap.count(target) <= 2, "{:?}", cache.tap.targets());
    put(origin.address, target, b"here");
    wait_until("the 404 is forgotten", || get(cache.address, target).status == 200);
}

/// A playlist past its time is not answered, not even once while the new one is fetched.
fn stale_playlist_is_not_answered(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    let target = "/show/cam/video.m3u8";
    for version in [b"#EXTM3U\n#1\n", b"#EXTM3U\n#2\n", b"#EXTM3U\n#3\n"] {
        put_with(origin.address, target, "Cache-Control: max-age=1\r\n", version);
        get(cache.address, target).assert_body(200, version);
        // Caches count whole seconds.
        thread::sleep(Duration::from_millis(2100));
    }
    assert_eq!(cache.tap.count(target), 3, "{:?}", cache.tap.targets());
}

/// A 503 is never answered from the cache.
fn refusal_is_not_kept(kind: Kind) {
    let setup = published_by_hand().key("limits.watched_names_max", "1");
    let origin = setup.start();
    let cache = Cache::start(kind, origin.address);
    let mut other = Client::connect(origin.address);
    other.request("GET", "/other", PATIENT);
    wait_until("the only place is taken", || gauge(&origin, "watched_names") == 1);
    let target = "/show/cam/video.m3u8?_HLS_msn=7";
    let refused = get(cache.address, target);
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.needed("cache-control"), "no-store");
    put(origin.address, target, b"#EXTM3U\n");
    get(cache.address, target).assert_body(200, b"#EXTM3U\n");
    assert_eq!(cache.tap.count(target), 2, "{:?}", cache.tap.targets());
}

/// The cache tells how old its copy is; the origin, whose answers are new, does not.
fn age_is_told(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    let target = "/show/cam/video/2.m4s";
    put(origin.address, target, b"media");
    assert_eq!(get(origin.address, target).field("age"), None);
    wait_until("Age grows", || {
        let answer = get(cache.address, target);
        answer.assert_body(200, b"media");
        answer.field("age").is_some_and(|age| age.parse::<u64>().unwrap() >= 2)
    });
    assert_eq!(cache.tap.count(target), 1, "{:?}", cache.tap.targets());
}

fn ranges_of_whole_objects(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    let body = noise(3, 300_000);
    for (target, is_cold) in [("/show/cam/cold.m4s", true), ("/show/cam/warm.m4s", false)] {
        put(origin.address, target, &body);
        if !is_cold {
            get(cache.address, target).assert_body(200, &body);
        }
        for (range, from, to) in [
            ("100-199", 100, 200),
            ("299900-9007199254740991", 299_900, 300_000),
            ("-10", 299_990, 300_000),
            ("65536-199999", 65_536, 200_000),
        ] {
            let answer = ask(cache.address, "GET", target, &format!("Range: bytes={range}\r\n"));
            answer.assert_body(206, &body[from..to]);
            let expected = format!("bytes {from}-{}/300000", to - 1);
            assert_eq!(answer.needed("content-range"), expected, "{answer:?}");
        }
        let beyond = ask(cache.address, "GET", target, "Range: bytes=300000-\r\n");
        assert_eq!(beyond.status, 416, "{beyond:?}");
    }
}

/// Who cannot read gzip never gets it, whoever asked first.
fn encodings_do_not_mix(kind: Kind) {
    let text = "#EXTM3U\n".repeat(100);
    let packed = gzip(&["-c"], text.as_bytes());
    let origin = two_encodings(text.clone().into_bytes(), packed);
    let cache = Cache::start(kind, origin);
    let orders = [["gzip, deflate, br", ""], ["", "gzip"], ["identity", "gzip, br"]];
    for (count, accepted) in orders.into_iter().enumerate() {
        for accepts in [accepted, accepted].concat() {
            let field = format!("Accept-Encoding: {accepts}\r\n");
            let field = if accepts.is_empty() { "" } else { &field };
            let answer = ask(cache.address, "GET", &format!("/show/{count}.m3u8"), field);
            assert_eq!(answer.status, 200, "{answer:?}");
            let body = match answer.field("content-encoding") {
                Some(coding) => {
                    assert_eq!(coding, "gzip");
                    assert!(accepts.contains("gzip"), "{accepts:?} got {answer:?}");
                    gzip(&["-dc"], &answer.body)
                }
                None => answer.body.clone(),
            };
            assert_eq!(String::from_utf8_lossy(&body), text);
        }
    }
    // Some are kept. (Traffic Server may ask again while it writes the other encoding.)
    assert!(cache.tap.targets().len() < 4 * orders.len(), "{:?}", cache.tap.targets());
}

/// What tells versions apart is in the key; what tells viewers apart is not.
fn queries_of_the_protocol_are_the_key(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    let path = "/show/cam/video.m3u8";
    let answer = put_with(origin.address, path, "Cache-Control: max-age=60\r\n", b"#EXTM3U\n");
    assert_eq!(answer.status, 201);
    let groups: [&[&str]; 5] = [
        &["", "?CMCD=bl%3D2100%2Csid%3D%22a%22", "?_HLS_pathway=A&_HLS_throughput=5000000", "?x"],
        &["?_HLS_msn=3", "?CMCD=bl%3D1&_HLS_msn=3", "?_HLS_msn=3&CMCD=bl%3D2", "?a=1&_HLS_msn=3&b"],
        &["?_HLS_msn=3&_HLS_part=1", "?_HLS_msn=3&CMCD=x&_HLS_part=1&_HLS_pathway=B"],
        &["?_HLS_msn=3&_HLS_part=2", "?_HLS_part=2&_HLS_msn=3"],
        &["?_HLS_msn=3&_HLS_part=2&_HLS_skip=YES", "?_HLS_skip=YES&_HLS_part=2&_HLS_msn=3"],
    ];
    for (count, group) in groups.iter().enumerate() {
        for query in *group {
            get(cache.address, &format!("{path}{query}")).assert_body(200, b"#EXTM3U\n");
            let targets = cache.tap.targets();
            assert_eq!(targets.len(), count + 1, "{query:?} of {group:?}: {targets:?}");
        }
    }
}

/// Nothing that a viewer carries with him makes the cache ask again.
fn viewers_share_one_copy(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    for target in ["/show/cam/video.m3u8", "/show/cam/1.m4s", "/show/cam/words.vtt"] {
        let answer = put_with(origin.address, target, "Cache-Control: max-age=60\r\n", b"same");
        assert_eq!(answer.status, 201);
        // nginx answers before the copy has its name.
        let mut asked = 0;
        wait_until("a copy is kept", || {
            ask(cache.address, "GET", target, "").assert_body(200, b"same");
            std::mem::replace(&mut asked, cache.tap.count(target)) == cache.tap.count(target)
        });
        for fields in [
            "Cookie: viewer=1\r\n",
            "Authorization: Bearer 2\r\n",
            "CMCD-Session: sid=\"3\"\r\n",
            "User-Agent: four\r\nOrigin: http://four.example\r\n",
            "Cache-Control: no-cache\r\nPragma: no-cache\r\n",
        ] {
            ask(cache.address, "GET", target, fields).assert_body(200, b"same");
        }
        assert_eq!(cache.tap.count(target), asked, "{:?}", cache.tap.targets());
    }
}

/// Encoders go to the origin; a cache that passed uploads on would let every reader publish.
fn readers_cannot_write(kind: Kind) {
    let origin = Server::start();
    let cache = Cache::start(kind, origin.address);
    for method in ["PUT", "POST", "DELETE"] {
        let fields = "Content-Length: 0\r\nConnection: close\r\n";
        let answer = ask(cache.address, method, "/show/cam/1.m4s", fields);
        assert!([403, 405].contains(&answer.status), "{method}: {answer:?}");
    }
    assert_eq!(cache.tap.targets(), Vec::<String>::new());
}

// The figure: what an origin behind Varnish is asked while 200 players watch.

const PLAYERS: usize = 200;
const PARTS: usize = 30;
const PARTS_OF_SEGMENT: usize = 10;
const PART_MS: u64 = 200;

/// Requests beside parts and blocking playlists: the first playlist, once for each second.
const FIRST_REQUESTS_MAX: usize = 20;

#[test]
fn two_hundred_players_cost_one_request_for_each_part_and_version() {
    let origin = published_by_hand().start();
    let cache = Cache::start(Kind::Varnish, origin.address);
    let stream = Arc::new(Stream { address: origin.address });
    // Before the first player comes there is something to watch.
    stream.publish_up_to(0, 3);
    let before = gauge(&origin, "requests_total");
    let publisher = {
        let stream = Arc::clone(&stream);
        thread::spawn(move || {
            for part in 3..PARTS {
                thread::sleep(Duration::from_millis(PART_MS));
                stream.publish_up_to(part, part + 1);
            }
        })
    };
    let address = cache.address;
    let players: Vec<_> = (0..PLAYERS)
        .map(|number| {
            let builder = thread::Builder::new().stack_size(256 << 10);
            builder.spawn(move || watch(address, number % 2 == 0)).unwrap()
        })
        .collect();
    publisher.join().unwrap();
    for player in players {
        assert_eq!(player.join().unwrap(), PARTS, "parts seen by a player");
    }
    let mut counts: HashMap<String, usize> = HashMap::new();
    for target in cache.tap.targets() {
        *counts.entry(target).or_default() += 1;
    }
    let first = counts.remove(Stream::PLAYLIST).unwrap_or(0);
    assert!((1..=FIRST_REQUESTS_MAX).contains(&first), "{first} requests for the first playlist");
    let repeated: Vec<_> = counts.iter().filter(|(_, count)| **count != 1).collect();
    assert!(repeated.is_empty(), "asked more than once: {repeated:?}");
    let versions = counts.keys().filter(|target| target.contains("_HLS_msn")).count();
    assert!(versions < PARTS, "{versions} playlist versions for {PARTS} parts");
    assert!(counts.len() - versions <= PARTS, "{counts:?}");
    // The server's own count agrees: this, the uploads, and the first look at its metrics.
    let uploads = (PARTS - 3) * Stream::UPLOADS_OF_PART;
    let asked = gauge(&origin, "requests_total") - before - 1;
    assert_eq!(asked, counts.len() + first + uploads, "the tap missed requests");
    println!("{PLAYERS} players, {PARTS} parts, {versions} versions: {first} first requests");
}

/// A live stream that is published by hand: one part, then the playlist that lists it.
struct Stream {
    address: SocketAddr,
}

impl Stream {
    const PLAYLIST: &str = "/show/cam/video.m3u8";
    const UPLOADS_OF_PART: usize = 3;

    fn publish_up_to(&self, from: usize, to: usize) {
        let mut client = Client::connect(self.address);
        for part in from..to {
            let (msn, index) = (part / PARTS_OF_SEGMENT, part % PARTS_OF_SEGMENT);
            let target = format!("/show/cam/video/e1/{msn}.{index}.m4s");
            upload(&mut client, &target, 12, &part_bytes(&target));
            let playlist = Stream::playlist(part + 1);
            upload(&mut client, Stream::PLAYLIST, 1, playlist.as_bytes());
            let version = format!("{}?_HLS_msn={msn}&_HLS_part={index}", Stream::PLAYLIST);
            upload(&mut client, &version, 12, playlist.as_bytes());
        }
    }

    /// The playlist with the first `parts` parts; with all of them it is ended.
    fn playlist(parts: usize) -> String {
        let target_s = PARTS_OF_SEGMENT as u64 * PART_MS / 1000;
        let mut text = format!("#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:{target_s}\n");
        text += "#EXT-X-PART-INF:PART-TARGET=0.2\n";
        text += "#EXT-X-SERVER-CONTROL:CAN-BLOCK-RELOAD=YES,PART-HOLD-BACK=0.6\n";
        for part in 0..parts {
            let (msn, index) = (part / PARTS_OF_SEGMENT, part % PARTS_OF_SEGMENT);
            text += &format!("#EXT-X-PART:DURATION=0.2,URI=\"video/e1/{msn}.{index}.m4s\"\n");
            if index + 1 == PARTS_OF_SEGMENT {
                text += &format!("#EXTINF:{target_s},\nvideo/e1/{msn}.m4s\n");
            }
        }
        if parts == PARTS {
            return text + "#EXT-X-ENDLIST\n";
        }
        let (msn, index) = (parts / PARTS_OF_SEGMENT, parts % PARTS_OF_SEGMENT);
        text + &format!("#EXT-X-PRELOAD-HINT:TYPE=PART,URI=\"video/e1/{msn}.{index}.m4s\"\n")
    }
}

/// What a part consists of follows from its name.
fn part_bytes(target: &str) -> Vec<u8> {
    let seed = target.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    noise(seed, 4000)
}

fn upload(client: &mut Client, target: &str, max_age_s: u64, body: &[u8]) {
    let fields =
        format!("Content-Length: {}\r\nCache-Control: max-age={max_age_s}\r\n", body.len());
    client.request("PUT", target, &fields);
    client.send(body);
    let answer = client.answer_to("PUT");
    assert!([201, 204].contains(&answer.status), "PUT {target}: {answer:?}");
}

/// A player: asks for the next version of the playlist, gets each new part (the hinted one too, if
/// it `takes_hints`), and returns how many different parts it had at the end of the stream.
fn watch(address: SocketAddr, takes_hints: bool) -> usize {
    let mut client = Client::connect(address);
    let mut had: Vec<String> = Vec::new();
    let mut target = Stream::PLAYLIST.to_owned();
    loop {
        let answer = client.ask("GET", &target, PATIENT);
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        let text = answer.text();
        let wanted = if takes_hints { "#EXT-X-P" } else { "#EXT-X-PART:" };
        for line in text.lines().filter(|line| line.starts_with(wanted)) {
            let Some((_, rest)) = line.split_once("URI=\"") else { continue };
            let uri = format!("/show/cam/{}", rest.trim_end_matches('"'));
            if !had.contains(&uri) {
                client.ask("GET", &uri, PATIENT).assert_body(200, &part_bytes(&uri));
                had.push(uri);
            }
        }
        if text.contains("#EXT-X-ENDLIST") {
            return had.len();
        }
        let next = text.lines().filter(|line| line.starts_with("#EXT-X-PART:")).count();
        let (msn, index) = (next / PARTS_OF_SEGMENT, next % PARTS_OF_SEGMENT);
        target = format!("{}?_HLS_msn={msn}&_HLS_part={index}", Stream::PLAYLIST);
    }
}

// The caches.

/// One cache in front of one origin, with a tap between the two.
pub(crate) struct Cache {
    pub(crate) address: SocketAddr,
    pub(crate) tap: Tap,
    child: Child,
    log: Arc<Mutex<String>>,
    // Last: the folder goes when the process has gone.
    _home: TempDir,
}

impl Cache {
    /// Starts a cache and returns when it has passed a request on.
    pub(crate) fn start(kind: Kind, origin: SocketAddr) -> Cache {
        let tap = Tap::start(origin);
        // Another process may take the port between the choice and the start.
        for _ in 0..5 {
            let home = tempfile::Builder::new().prefix("headwater-cache-").tempdir().unwrap();
            let address = free_address();
            let mut command = kind.command(home.path(), address, tap.address);
            let mut child = command
                .current_dir(home.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
            let log = collect(child.stderr.take().unwrap());
            let mut cache = Cache { address, tap: tap.clone(), child, log, _home: home };
            if cache.becomes_ready() {
                cache.tap.requests.lock().unwrap().clear();
                return cache;
            }
        }
        panic!("{kind:?} does not start");
    }

    fn becomes_ready(&mut self) -> bool {
        let deadline = Instant::now() + HANG;
        for count in 0.. {
            if self.child.try_wait().unwrap().is_some() || Instant::now() > deadline {
                eprintln!("the cache's log:\n{}", self.log.lock().unwrap());
                return false;
            }
            let target = format!("/is-it-there/{count}");
            if let Some(mut client) = Client::try_connect(self.address) {
                client.request("GET", &target, "Connection: close\r\n");
                client.read_to_end();
                if self.tap.count(&target) > 0 {
                    return true;
                }
            }
            thread::sleep(Duration::from_millis(50));
        }
        false
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        // SIGTERM, so that a master ends its workers; they are its own children, not ours.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the cache's log:\n{}---", self.log.lock().unwrap());
        }
    }
}

impl Kind {
    /// Puts the cache's reference files into `home` and says how it is started with them.
    fn command(self, home: &Path, address: SocketAddr, origin: SocketAddr) -> Command {
        match self {
            Kind::Varnish => varnish(home, address, origin),
            Kind::Nginx => nginx(home, address, origin),
            Kind::TrafficServer => traffic_server(home, address, origin),
        }
    }
}

fn varnish(home: &Path, address: SocketAddr, origin: SocketAddr) -> Command {
    needs("varnishd");
    let port = format!(".port = \"{}\";", origin.port());
    let vcl = install("varnish.vcl", home, &[(".port = \"9094\";", &port)]);
    let mut command = Command::new("varnishd");
    command.args(["-F", "-j", "none", "-T", "none", "-s", "malloc,64m", "-p", "timeout_idle=65"]);
    command.arg("-n").arg(home.join("work"));
    command.arg("-f").arg(vcl).args(["-a", &address.to_string()]);
    command
}

fn nginx(home: &Path, address: SocketAddr, origin: SocketAddr) -> Command {
    needs("nginx");
    let server = format!("server {origin};");
    let listen = format!("listen {address} ");
    let changes = [("server 127.0.0.1:9094;", &*server), ("listen 127.0.0.1:8080 ", &*listen)];
    let file = install("nginx.conf", home, &changes);
    std::fs::create_dir(home.join("temporary")).unwrap();
    let mut command = Command::new("nginx");
    command.arg("-p").arg(home).arg("-c").arg(file).args(["-e", "stderr"]);
    // Workers keep the user of the test: its folder is closed to others.
    let user = if rustix::process::geteuid().is_root() { " user root;" } else { "" };
    command.args(["-g", &format!("daemon off;{user}")]);
    command
}

fn traffic_server(home: &Path, address: SocketAddr, origin: SocketAddr) -> Command {
    needs("traffic_server");
    let map = format!("http://{origin}/");
    install("trafficserver/remap.config", &home.join("etc"), &[("http://127.0.0.1:9094/", &map)]);
    let ports = format!("server_ports STRING {}:ip-in={}", address.port(), address.ip());
    let records = [("server_ports STRING 8080", &*ports)];
    install("trafficserver/records.config", &home.join("etc"), &records);
    for file in ["cache.config", "header_rewrite.config", "ip_allow.yaml", "storage.config"] {
        install(&format!("trafficserver/{file}"), &home.join("etc"), &[]);
    }
    for folder in ["var/cache", "var/log", "var/run"] {
        std::fs::create_dir_all(home.join(folder)).unwrap();
    }
    // Plug-ins and programs stay where the distribution has put them.
    let layout = run(Command::new("traffic_layout").arg("info")).stdout;
    let folder = |name: &str| {
        let line = layout.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {layout}")).trim().to_owned()
    };
    let (programs, plugins) = (folder("BINDIR:"), folder("PLUGINDIR:"));
    let home = home.display();
    let root = format!(
        "prefix: {home}\nexec_prefix: {home}\nbindir: {programs}\nsbindir: {programs}\n\
         sysconfdir: {home}/etc\ndatadir: {home}/var/cache\nincludedir: {home}\nlibdir: {home}\n\
         libexecdir: {plugins}\nlocalstatedir: {home}/var/run\nruntimedir: {home}/var/run\n\
         logdir: {home}/var/log\ncachedir: {home}/var/cache\n"
    );
    std::fs::write(format!("{home}/runroot.yaml"), root).unwrap();
    let mut command = Command::new("traffic_server");
    command.arg(format!("--run-root={home}/runroot.yaml"));
    // It keeps the user of the test: the folder is closed to others.
    command.env("PROXY_CONFIG_ADMIN_USER_ID", "#-1");
    command
}

/// Copies a reference file, with each of the `changes` made exactly once.
fn install(name: &str, folder: &Path, changes: &[(&str, &str)]) -> PathBuf {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/caches").join(name);
    let mut text = std::fs::read_to_string(file).unwrap();
    for (from, to) in changes {
        assert_eq!(text.matches(from).count(), 1, "{from:?} in {name}");
        text = text.replace(from, to);
    }
    std::fs::create_dir_all(folder).unwrap();
    let copy = folder.join(Path::new(name).file_name().unwrap());
    std::fs::write(&copy, text).unwrap();
    copy
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap()
}

// The tap.

/// Passes connections on and writes down the request heads that go through.
#[derive(Clone)]
pub(crate) struct Tap {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Tap {
    fn start(origin: SocketAddr) -> Tap {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let tap = Tap { address, requests: Arc::default() };
        let requests = Arc::clone(&tap.requests);
        thread::spawn(move || {
            for down in listener.incoming().flatten() {
                // An origin that has gone closes what leads to it.
                let Ok(up) = TcpStream::connect(origin) else { continue };
                for stream in [&down, &up] {
                    stream.set_nodelay(true).unwrap();
                }
                let (back_from, back_to) = (up.try_clone().unwrap(), down.try_clone().unwrap());
                thread::spawn(move || copy(back_from, back_to, |_| {}));
                let requests = Arc::clone(&requests);
                thread::spawn(move || copy(down, up, heads_into(&requests)));
            }
        });
        tap
    }

    /// Targets of the requests so far, in their order.
    pub(crate) fn targets(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        let target = |head: &String| head.split(' ').nth(1).unwrap().to_owned();
        requests.iter().map(target).collect()
    }

    /// How many requests there were for a target.
    pub(crate) fn count(&self, target: &str) -> usize {
        self.targets().iter().filter(|asked| *asked == target).count()
    }
}

/// Splits what flows by into request heads; caches send no bodies.
fn heads_into(requests: &Mutex<Vec<String>>) -> impl FnMut(&[u8]) + '_ {
    let mut unread = Vec::new();
    move |bytes| {
        unread.extend_from_slice(bytes);
        while let Some(end) = unread.windows(4).position(|mark| mark == b"\r\n\r\n") {
            let head: Vec<u8> = unread.drain(..end + 4).collect();
            requests.lock().unwrap().push(String::from_utf8_lossy(&head).into_owned());
        }
    }
}

/// Passes one direction on until it ends, and its end with it.
fn copy(mut from: TcpStream, mut to: TcpStream, mut seen: impl FnMut(&[u8])) {
    let mut block = [0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut block) {
        seen(&block[..count]);
        if to.write_all(&block[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}

// Small things.

/// An object as it was pushed: not below a live prefix.
const SEGMENT: &str = "/show/cam/video/1.m4s";

/// Bytes of one step of a growing object.
const GROWTH: usize = 64 * 1024;

/// Asks the server to wait for what is absent longer than it would by itself.
const PATIENT: &str = "Expires: in=50\r\n";

/// A server whose objects can be waited for, each with its query.
fn published_by_hand() -> Setup {
    Setup::new().key("wait_absent", "true").key("compat.query_in_name", "true")
}

/// The chunks up to the end of a body.
fn rest_of(mut client: Client) -> Vec<u8> {
    use crate::client::Chunk;
    let mut rest = Vec::new();
    loop {
        match client.chunk() {
            Chunk::Data(data) => rest.extend(data),
            Chunk::Last => return rest,
            Chunk::Cut(end) => panic!("cut ({end:?}) after {} bytes", rest.len()),
        }
    }
}

/// One value of the metrics page.
fn gauge(server: &Server, name: &str) -> usize {
    let page = get(server.admin, "/metrics").text();
    let name = format!("headwater_{name} ");
    let value = page.lines().find_map(|line| line.strip_prefix(&name));
    value.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

/// Runs gzip over some bytes.
pub(crate) fn gzip(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("gzip");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "gzip says {:?}", output.status);
    output.stdout
}

/// An origin that has everything in two encodings.
fn two_encodings(plain: Vec<u8>, packed: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (plain, packed) = (plain.clone(), packed.clone());
            thread::spawn(move || answer_in_two_encodings(stream, &plain, &packed));
        }
    });
    address
}

fn answer_in_two_encodings(mut stream: TcpStream, plain: &[u8], packed: &[u8]) {
    let requests = Mutex::new(Vec::new());
    let mut seen = heads_into(&requests);
    let mut block = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut block) {
        seen(&block[..count]);
        for head in requests.lock().unwrap().drain(..) {
            let head: String = head.to_ascii_lowercase();
            let takes_gzip = head
                .lines()
                .any(|line| line.starts_with("accept-encoding:") && line.contains("gzip"));
            let (body, coding) =
                if takes_gzip { (packed, "Content-Encoding: gzip\r\n") } else { (plain, "") };
            let mut out = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.apple.mpegurl\r\n\
                 Cache-Control: max-age=60\r\nVary: Accept-Encoding\r\n{coding}\
                 Content-Length: {}\r\n\r\n",
                body.len()
            )
            .into_bytes();
            out.extend_from_slice(body);
            if stream.write_all(&out).is_err() {
                return;
            }
        }
    }
}
