//! kill -9 at random moments under load, a hundred times: every acknowledged object is there, byte
//! for byte, and no torn one is visible.
//!
//! The bytes of an object follow from its name and version, so that a reader of any answer knows
//! whether it is whole. Each uploader owns its names. The seed of a run is printed;
//! `HEADWATER_SEED` repeats its choices (the moments of the kernel are its own).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use crate::client::{Answer, Client, Noise, noise};
use crate::server::Setup;

/// What is known of one name: the version acknowledged last, and one that was under way.
#[derive(Clone, Copy, Default, Debug)]
struct Known {
    acknowledged: Option<u64>,
    under_way: Option<u64>,
}

type Ledger = HashMap<String, Known>;

/// The bytes of one version of one name.
fn version_of(name: &str, version: u64) -> Vec<u8> {
    let seed = name.bytes().fold(version, |sum, byte| sum.wrapping_mul(31) + u64::from(byte));
    let length = match seed % 16 {
        0 => 200_000 + seed % 700_000,
        1 | 2 => seed % 40_000,
        _ => seed % 3_000,
    };
    let mut bytes = format!("{name} {version} {length}\n").into_bytes();
    bytes.extend(noise(seed, length as usize));
    bytes
}

/// PUTs one version, chunked or with a length; the status, or `None` if the server died.
fn try_put(client: &mut Client, name: &str, version: u64) -> Option<u16> {
    let body = version_of(name, version);
    let start = format!("PUT {name} HTTP/1.1\r\nHost: it\r\n");
    if version.is_multiple_of(2) {
        client.try_send(format!("{start}Content-Length: {}\r\n\r\n", body.len())).ok()?;
        client.try_send(&body).ok()?;
    } else {
        client.try_send(format!("{start}Transfer-Encoding: chunked\r\n\r\n")).ok()?;
        for part in body.chunks(16 * 1024) {
            client.try_send(format!("{:x}\r\n", part.len())).ok()?;
            client.try_send([part, b"\r\n"].concat()).ok()?;
        }
        client.try_send("0\r\n\r\n").ok()?;
    }
    client.try_head().ok().map(|head| head.status)
}

/// The name of an uploader's n-th upload: playlists and media that are replaced again and again,
/// and at first also new names.
fn name_of(round: u64, owner: usize, index: usize) -> String {
    match index % 3 {
        0 => format!("/same/{owner}/list{}.m3u8", index % 4),
        2 if index < 40 => format!("/r{round}/u{owner}/n{index}.m4s"),
        _ => format!("/same/{owner}/media{}.m4s", index % 5),
    }
}

/// One uploader: PUTs until the server dies, and keeps the books.
fn upload(address: SocketAddr, mut ledger: Ledger, names: &dyn Fn(usize) -> String) -> Ledger {
    let Some(mut client) = Client::try_connect(address) else {
        return ledger;
    };
    for index in 0.. {
        let name = names(index);
        let known = ledger.entry(name.clone()).or_default();
        let version = known.acknowledged.map_or(index as u64 % 2, |version| version + 1);
        known.under_way = Some(version);
        match try_put(&mut client, &name, version) {
            Some(201 | 204) => {
                *known = Known { acknowledged: Some(version), under_way: None };
            }
            Some(status) => panic!("PUT {name} was answered {status}"),
            None => break,
        }
    }
    ledger
}

/// Compares one answer with what is known, and writes down what is true now.
fn check(name: &str, known: &mut Known, answer: &Answer) {
    let candidates = [known.acknowledged, known.under_way];
    if answer.status == 200 {
        assert!(answer.complete, "{name}: cut");
        let found = candidates.into_iter().flatten();
        let found = found.into_iter().find(|&version| version_of(name, version) == answer.body);
        let version = found.unwrap_or_else(|| {
            let first = String::from_utf8_lossy(&answer.body[..answer.body.len().min(60)]);
            panic!("{name}: {} bytes of no known version: {first:?} {known:?}", answer.body.len())
        });
        *known = Known { acknowledged: Some(version), under_way: None };
        return;
    }
    assert_eq!(answer.status, 404, "{name}: {answer:?}");
    // Media is replaced at once, so a torn new version may have taken the old one along; a
    // manifest, and anything that was not being replaced, must be there.
    let replaceable = known.under_way.is_some() && !name.ends_with(".m3u8");
    assert!(known.acknowledged.is_none() || replaceable, "{name} is lost: {known:?}");
    *known = Known::default();
}

/// One life of the server: uploaders at work, killed at a random moment.
fn live_and_die(setup: Setup, ledgers: &mut [Ledger], round: u64, random: &mut Noise) -> Setup {
    let server = setup.start();
    let address = server.address;
    for ledger in ledgers.iter_mut() {
        let mut client = Client::connect(address);
        for (name, known) in ledger.iter_mut().filter(|(_, known)| known.under_way.is_some()) {
            check(name, known, &client.ask("GET", name, ""));
        }
        let last_round = format!("/r{}/", round.wrapping_sub(1));
        for (name, known) in ledger.iter_mut().filter(|(name, _)| name.starts_with(&last_round)) {
            check(name, known, &client.ask("GET", name, ""));
        }
    }
    let pause = Duration::from_millis(random.below(250) as u64);
    thread::scope(|scope| {
        let mut uploaders = Vec::new();
        for (owner, ledger) in ledgers.iter_mut().enumerate() {
            let books = std::mem::take(ledger);
            let names = move |index| name_of(round, owner, index);
            uploaders.push((ledger, scope.spawn(move || upload(address, books, &names))));
        }
        thread::sleep(pause);
        let setup = server.kill();
        for (ledger, uploader) in uploaders {
            *ledger = uploader.join().unwrap();
        }
        setup
    })
}

/// Runs `kills` lives on one directory and checks every name at the end.
fn kill_again_and_again(mut setup: Setup, kills: u64) {
    let mut random = Noise::new(Noise::printed_seed());
    let mut ledgers = vec![Ledger::new(); 4];
    for round in 0..kills {
        setup = live_and_die(setup, &mut ledgers, round, &mut random);
    }
    let server = setup.start();
    let mut client = Client::connect(server.address);
    let mut acknowledged = 0;
    for (name, known) in ledgers.iter_mut().flat_map(Ledger::iter_mut) {
        check(name, known, &client.ask("GET", name, ""));
        acknowledged += usize::from(known.acknowledged.is_some());
    }
    println!("{kills} kills, {acknowledged} objects compared at the end");
    assert!(acknowledged > kills as usize, "the load was too small to say anything");
}

/// Goal and method: fifty kills with the default durability and extents.
#[test]
fn fifty_kills_with_cache_durability() {
    kill_again_and_again(Setup::new(), 50);
}

/// Goal and method: fifty kills with `durability = "sync"` and objects of many small extents.
#[test]
fn fifty_kills_with_sync_durability_and_small_extents() {
    let setup = Setup::new().key("durability", "\"sync\"").key("store.extent_bytes", "65536");
    kill_again_and_again(setup, 50);
}
