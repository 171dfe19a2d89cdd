//! Live presentations through real caches: what 200 players cost the origin, and that whoever waits
//! for a playlist version or a hinted part waits at the cache. The stream is pushed by ffmpeg; the
//! caches and the tap that counts are those of `caches`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::caches::{Cache, Kind, gzip};
use crate::client::{Client, ask, get};
use crate::server::{Server, needs, wait_until};

const PLAYERS: usize = 200;
/// Playlist versions that each player asks for: about six seconds of 200 ms parts.
const RELOADS: usize = 30;
/// Requests for one playlist that is not asked for by version: once for each second, generously.
const PLAIN_REQUESTS_MAX: usize = 30;

const MULTIVARIANT: &str = "/live/cam/index.m3u8";

#[test]
fn two_hundred_players_behind_varnish() {
    let live = Live::start();
    let cache = Cache::start(Kind::Varnish, live.address);
    let parts: Arc<Mutex<HashMap<String, Vec<u8>>>> = Arc::default();
    let players: Vec<_> = (0..PLAYERS)
        .map(|number| {
            let (address, parts) = (cache.address, Arc::clone(&parts));
            let builder = thread::Builder::new().stack_size(256 << 10);
            builder.spawn(move || watch(address, number % 2 == 0, &parts)).unwrap()
        })
        .collect();
    for player in players {
        player.join().unwrap();
    }
    let mut counts: HashMap<String, usize> = HashMap::new();
    for target in cache.tap.targets() {
        *counts.entry(target).or_default() += 1;
    }
    for (target, count) in &counts {
        let is_plain_playlist = target.ends_with(".m3u8");
        let count_max = if is_plain_playlist { PLAIN_REQUESTS_MAX } else { 1 };
        assert!(*count <= count_max, "{target} was asked for {count} times");
    }
    let versions = counts.keys().filter(|target| target.contains("_HLS_msn=")).count();
    let parts = parts.lock().unwrap().len();
    assert!(versions >= RELOADS, "{versions} versions: {counts:?}");
    // Beside those: two playlists and an init segment, whose repeats are bounded above.
    assert!(counts.len() <= versions + parts + 3, "{versions} + {parts}: {counts:?}");
    let total: usize = counts.values().sum();
    println!("{PLAYERS} players: {versions} versions, {parts} parts, {total} requests");
}

#[test]
fn versions_and_hints_are_held_at_varnish() {
    held_for_all(Kind::Varnish);
}

#[test]
fn versions_and_hints_are_held_at_nginx() {
    held_for_all(Kind::Nginx);
}

#[test]
fn versions_and_hints_are_held_at_traffic_server() {
    held_for_all(Kind::TrafficServer);
}

/// Eight clients each for the next version, the hinted part, and the growing segment.
fn held_for_all(kind: Kind) {
    let live = Live::start();
    let cache = Cache::start(kind, live.address);
    let address = cache.address;
    let playlist = live.playlist(address);
    let edge = Edge::of(&playlist, &get(live.address, &playlist).text());
    // A version and a part that are not there for some parts to come yet would be refused; the next
    // ones may be there before the last client asks, which changes no count.
    let hint = edge.hint.clone().expect("the playlist names the next part");
    let targets = [format!("{playlist}?_HLS_msn={}&_HLS_part={}", edge.msn, edge.part), hint];
    for target in targets {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                let target = target.clone();
                thread::spawn(move || get(address, &target))
            })
            .collect();
        let answers: Vec<_> = clients.into_iter().map(|client| client.join().unwrap()).collect();
        for answer in &answers {
            answer.assert_body(200, &answers[0].body);
        }
        let late = get(address, &target);
        late.assert_body(200, &answers[0].body);
        assert_eq!(cache.tap.count(&target), 1, "{target}: {:?}", cache.tap.targets());
    }
    both_encodings_are_right(&cache, &playlist, &edge);
}

/// gzip or not, whoever asked first. (A cache with a copy of each may have fetched them at two times.)
fn both_encodings_are_right(cache: &Cache, playlist: &str, edge: &Edge) {
    let target = format!("{playlist}?_HLS_msn={}&_HLS_part={}", edge.msn, edge.part);
    let plain = get(cache.address, &target);
    assert_eq!(plain.field("content-encoding"), None, "{plain:?}");
    let packed = ask(cache.address, "GET", &target, "Accept-Encoding: gzip\r\n");
    assert_eq!(packed.field("content-encoding"), Some("gzip"), "{packed:?}");
    let unpacked = gzip(&["-dc"], &packed.body);
    for text in [plain.text(), String::from_utf8(unpacked).unwrap()] {
        let got = Edge::of(playlist, &text);
        assert!((got.msn, got.part) > (edge.msn, edge.part), "{text}");
    }
}

#[test]
fn who_asks_too_early_spoils_nothing_at_varnish() {
    too_early(Kind::Varnish);
}

#[test]
fn who_asks_too_early_spoils_nothing_at_nginx() {
    too_early(Kind::Nginx);
}

/// One viewer asks for what will be there soon, and is refused; when it is there, the others get it.
fn too_early(kind: Kind) {
    let live = Live::start();
    let cache = Cache::start(kind, live.address);
    let playlist = live.playlist(cache.address);
    // The next part is in the first half of its segment, so the one three later is in it too.
    let mut edge = Edge::of(&playlist, "");
    wait_until("the edge is early in a segment", || {
        edge = Edge::of(&playlist, &get(live.address, &playlist).text());
        (1..=4).contains(&edge.part)
    });
    let hint = edge.hint.expect("the playlist names the next part");
    let (folder, _) = hint.rsplit_once('/').unwrap();
    let part = format!("{folder}/{}.{}.m4s", edge.msn, edge.part + 3);
    let segment = format!("{folder}/{}.m4s", edge.msn + 1);
    let version = format!("{playlist}?_HLS_msn={}&_HLS_part=0", edge.msn + 3);
    let waiting: Vec<_> = [part.clone(), segment.clone(), version.clone()]
        .into_iter()
        .map(|target| {
            let address = cache.address;
            // Held until it is there, or refused: both are right.
            thread::spawn(move || get(address, &target).status)
        })
        .collect();
    for (target, until) in [(part, "a part"), (segment, "a segment"), (version, "a version")] {
        wait_until(until, || get(live.address, &target).status == 200);
        let answer = get(cache.address, &target);
        assert_eq!(answer.status, 200, "{target} is there, but not here: {answer:?}");
    }
    for asked in waiting {
        let status = asked.join().unwrap();
        assert!([200, 400, 404].contains(&status), "{status}");
    }
}

/// Readers of a segment in progress, as an LL-DASH player has them.
#[test]
fn segments_in_progress_are_followed_through_varnish() {
    followed(Kind::Varnish);
}

#[test]
fn segments_in_progress_are_followed_through_traffic_server() {
    followed(Kind::TrafficServer);
}

fn followed(kind: Kind) {
    let live = Live::start();
    let cache = Cache::start(kind, live.address);
    let playlist = live.playlist(cache.address);
    // The segment of the next part, whether that is its first or not.
    let edge = Edge::of(&playlist, &get(live.address, &playlist).text());
    let hint = edge.hint.expect("the playlist names the next part");
    let (folder, file) = hint.rsplit_once('/').unwrap();
    let target = format!("{folder}/{}.m4s", file.split('.').next().unwrap());
    let address = cache.address;
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let target = target.clone();
            thread::spawn(move || {
                let mut client = Client::connect(address);
                let head = client.get(&target, "");
                assert_eq!(head.status, 200, "{target}: {head:?}");
                client.body(head, "GET")
            })
        })
        .collect();
    let answers: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
    for answer in &answers {
        assert!(answer.complete, "{answer:?}");
        answer.assert_body(200, &answers[0].body);
    }
    assert_eq!(cache.tap.count(&target), 1, "{:?}", cache.tap.targets());
}

/// A player: its own init segment, then for each version of the playlist all new parts.
fn watch(address: SocketAddr, takes_hints: bool, seen: &Mutex<HashMap<String, Vec<u8>>>) {
    let mut client = Client::connect(address);
    let multivariant = client.ask("GET", MULTIVARIANT, "Accept-Encoding: gzip\r\n");
    assert_eq!(multivariant.status, 200, "{multivariant:?}");
    let playlist = first_variant(&get(address, MULTIVARIANT).text());
    let mut had: Vec<String> = Vec::new();
    let mut target = playlist.clone();
    for _ in 0..=RELOADS {
        let answer = client.ask("GET", &target, "");
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        let edge = Edge::of(&playlist, &answer.text());
        let hint = edge.hint.filter(|_| takes_hints);
        for uri in edge.inits.into_iter().chain(edge.parts).chain(hint) {
            if had.contains(&uri) {
                continue;
            }
            let part = client.ask("GET", &uri, "");
            assert!(part.status == 200 && part.complete, "{uri}: {part:?}");
            assert!(part.field("content-length").is_some(), "{uri}: {part:?}");
            let mut seen = seen.lock().unwrap();
            let same = seen.entry(uri.clone()).or_insert_with(|| part.body.clone());
            assert_eq!(*same, part.body, "{uri} is not the same for all");
            had.push(uri);
        }
        target = format!("{playlist}?_HLS_msn={}&_HLS_part={}", edge.msn, edge.part);
    }
}

/// What a player reads in a media playlist.
struct Edge {
    /// Number of the next part, and of its segment.
    msn: u64,
    part: u64,
    /// Paths of the parts that are listed, of init segments, and of the part that comes next.
    parts: Vec<String>,
    inits: Vec<String>,
    hint: Option<String>,
}

impl Edge {
    fn of(playlist: &str, text: &str) -> Edge {
        let (mut msn, mut part) = (0, 0);
        let (mut parts, mut inits, mut hint) = (Vec::new(), Vec::new(), None);
        for line in text.lines() {
            if let Some(first) = line.strip_prefix("#EXT-X-MEDIA-SEQUENCE:") {
                msn = first.parse().unwrap();
            } else if line.starts_with("#EXT-X-PART:") {
                part += 1;
                parts.push(uri_in(playlist, line));
            } else if line.starts_with("#EXT-X-MAP:") {
                inits.push(uri_in(playlist, line));
            } else if line.starts_with("#EXT-X-PRELOAD-HINT:TYPE=PART") {
                hint = Some(uri_in(playlist, line));
            } else if !line.is_empty() && !line.starts_with('#') {
                (msn, part) = (msn + 1, 0);
            }
        }
        Edge { msn, part, parts, inits, hint }
    }
}

/// The path that the `URI` of a tag means.
fn uri_in(playlist: &str, line: &str) -> String {
    let (_, rest) = line.split_once("URI=\"").unwrap_or_else(|| panic!("no URI in {line}"));
    resolve(playlist, rest.split('"').next().unwrap())
}

fn resolve(base: &str, uri: &str) -> String {
    let (folder, _) = base.rsplit_once('/').unwrap();
    if uri.starts_with('/') { uri.to_owned() } else { format!("{folder}/{uri}") }
}

fn first_variant(multivariant: &str) -> String {
    let mut lines = multivariant.lines().skip_while(|line| !line.starts_with("#EXT-X-STREAM-INF"));
    let uri = lines.nth(1).unwrap_or_else(|| panic!("no variant in {multivariant}"));
    resolve(MULTIVARIANT, uri)
}

/// An origin to which ffmpeg pushes one video track, in real time.
struct Live {
    address: SocketAddr,
    ffmpeg: Child,
    // After ffmpeg: the origin outlives its encoder.
    _origin: Server,
}

impl Live {
    /// Returns when there is a playlist.
    fn start() -> Live {
        needs("ffmpeg");
        let origin = Server::start();
        let address = origin.address;
        let mut command = Command::new("ffmpeg");
        command.args("-v error -re -f lavfi -i testsrc2=size=320x180:rate=25 -t 120".split(' '));
        command.args("-c:v libx264 -preset ultrafast -tune zerolatency -b:v 300k".split(' '));
        command
            .args("-g 50 -keyint_min 50 -sc_threshold 0 -f mp4 -frag_duration 200000".split(' '));
        command.args("-movflags cmaf+empty_moov+default_base_moof -method PUT".split(' '));
        command.arg(format!("http://{address}/live/cam/Streams(video.cmfv)"));
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let ffmpeg = quiet.spawn().unwrap();
        let live = Live { address, ffmpeg, _origin: origin };
        wait_until("the stream has a playlist", || get(address, MULTIVARIANT).status == 200);
        live
    }

    /// The path of the media playlist, and the edge is in the middle of the stream.
    fn playlist(&self, cache: SocketAddr) -> String {
        let multivariant = get(cache, MULTIVARIANT);
        assert_eq!(multivariant.status, 200, "{multivariant:?}");
        first_variant(&multivariant.text())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.ffmpeg.kill();
        let _ = self.ffmpeg.wait();
    }
}
