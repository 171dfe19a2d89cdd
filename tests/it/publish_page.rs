//! The page to publish from a browser: Debian's chromium sends its fake camera, or the page's own test
//! picture, to a channel, and players in other pages show it (`browser/publish.mjs` drives them all).

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::client::get;
use crate::server::{Server, Setup, needs, run};

fn server() -> Server {
    Setup::new().key("player_dir", "\"/nonexistent\"").start()
}

/// What each page showed; `of` are the scene, the source, the format, and how the late player receives.
fn seen(server: &Server, of: [&str; 4]) -> Value {
    needs("node");
    needs("chromium");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/browser");
    assert!(
        folder.join("node_modules").is_dir(),
        "run npm ci in tests/it/browser, as scripts/check"
    );
    let admin = format!("http://{}", server.admin);
    let mut command = Command::new("node");
    let ended = run(command.arg(folder.join("publish.mjs")).arg(&admin).args(of));
    assert!(ended.status.success(), "{}", ended.stderr);
    let seen: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(seen["faults"], serde_json::json!([]), "{seen:#}");
    seen
}

/// Asserts that the player decoded pictures, that time went on, and that they were different ones.
fn assert_moves(seen: &Value, page: &str) {
    let player = &seen[page];
    let grown = |key: &str| {
        player["after"][key].as_f64().unwrap() - player["before"][key].as_f64().unwrap()
    };
    assert!(player["after"]["error"].is_null(), "{page}: {seen:#}");
    assert!(grown("currentTime") >= 2.0, "{page}: {seen:#}");
    assert!(grown("decoded") >= 20.0, "{page}: {seen:#}");
    assert!(player["looks"].as_u64().unwrap() >= 3, "{page}: {seen:#}");
}

fn assert_says(seen: &Value, page: &str, key: &str, words: &str) {
    let said = seen[page][key].as_str();
    assert!(said.is_some_and(|text| text.contains(words)), "{page}: {words:?} is not in {seen:#}");
}

/// Goal: page and scripts are there, and know where channels are.
#[test]
fn the_publish_page_is_served() {
    let server = server();
    let page = get(server.admin, "/publish?channel=x");
    assert_eq!(page.status, 200);
    assert!(page.needed("content-type").starts_with("text/html"));
    assert!(page.text().contains("src=\"/publish.js\""));
    for name in ["page", "edge", "mp4", "webm", "channel"] {
        let script = get(server.admin, &format!("/player/{name}.js"));
        assert_eq!(script.status, 200, "{name}");
        assert!(script.needed("content-type").starts_with("text/javascript"), "{name}");
    }
    let door: Value = serde_json::from_slice(&get(server.admin, "/player/door.json").body).unwrap();
    assert_eq!(door, serde_json::json!({ "listen": [server.address], "prefix": "/" }));
    assert_eq!(get(server.address, "/publish").status, 404);
}

/// Goal: the page learns a prefix and an address of their own, and that there are no channels.
#[test]
fn the_page_knows_where_channels_are() {
    for (table, listen, prefix) in
        [("prefix = \"/c/\"\nlisten = [\"127.0.0.1:0\"]", 1, "/c/"), ("enabled = false", 0, "/")]
    {
        let server = Setup::new().table(&format!("[channels]\n{table}")).start();
        let door = get(server.admin, "/player/door.json");
        let door: Value = serde_json::from_slice(&door.body).unwrap();
        assert_eq!(door["listen"].as_array().unwrap().len(), listen, "{door}");
        assert_eq!(door["prefix"], prefix, "{door}");
        assert_ne!(door["listen"][0], serde_json::json!(server.address), "{door}");
    }
}

/// Goal: a player that was there first sees who publishes, the end of it, and who publishes next.
#[test]
fn a_waiting_player_sees_each_publisher() {
    for [source, format] in [["camera", ""], ["test", "webm"]] {
        let seen = seen(&server(), ["wait", source, format, "receive"]);
        assert_says(&seen, "waiting", "idle", "Nobody publishes");
        assert_moves(&seen, "early");
        assert_says(&seen, "stopped", "state", "ended");
        assert!(seen["stopped"]["notice"].is_null(), "{seen:#}");
        assert_says(&seen, "ended", "idle", "Nobody publishes");
        assert_moves(&seen, "again");
    }
}

/// Goal: a player joins, with either receiving kind and either format; a second publisher and a player
/// with another key are told why not. The page prefers fragmented MP4.
#[test]
fn a_late_player_joins_and_others_are_refused() {
    for [source, format, kind, container] in [
        ["camera", "", "receive", "video/mp4"],
        ["test", "webm", "receive-clear-cache", "video/webm"],
    ] {
        let seen = seen(&server(), ["join", source, format, kind]);
        assert_says(&seen, "publisher", "state", "live");
        assert_says(&seen, "publisher", "type", container);
        assert!(seen["publisher"]["notice"].is_null(), "{seen:#}");
        assert_moves(&seen, "late");
        assert_says(&seen, "twin", "state", "refused");
        assert_says(&seen, "twin", "notice", "403");
        assert_says(&seen, "stranger", "notice", "The key is not the publisher's");
        assert_eq!(seen["stranger"]["decoded"], 0, "{seen:#}");
    }
}

/// Goal: a player that joins when the cache has lost the beginning waits for the next header, says so,
/// and plays. Method: a cache of the newest chunk alone.
#[test]
fn a_cache_without_its_beginning_is_waited_out() {
    for format in ["webm", "mp4"] {
        let server = Setup::new()
            .key("player_dir", "\"/nonexistent\"")
            .table("[channels]\ncache_bytes_max = 1")
            .start();
        let seen = seen(&server, ["join", "test", format, "receive"]);
        assert_moves(&seen, "late");
        let events = seen["late"]["events"].to_string();
        assert!(events.contains("waiting for the stream's header"), "{seen:#}");
    }
}
