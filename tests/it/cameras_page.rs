//! The wall of cameras: served whole, and what its scripts make of H.264 in messages, which `browser/annexb.mjs`
//! checks without a browser. `browser/cameras.mjs` drives the page where cameras send.

use std::path::Path;
use std::process::Command;

use crate::client::get;
use crate::server::{Setup, needs, run};

/// Goal: page, scripts and style are there, on the admin address only.
#[test]
fn the_wall_is_served() {
    let server = Setup::new().key("player_dir", "\"/nonexistent\"").start();
    let page = get(server.admin, "/cameras");
    assert_eq!(page.status, 200);
    assert!(page.needed("content-type").starts_with("text/html"));
    assert!(page.text().contains("src=\"/cameras.js\""));
    for name in ["address", "annexb", "pictures", "h264", "mjpeg"] {
        let script = get(server.admin, &format!("/player/{name}.js"));
        assert_eq!(script.status, 200, "{name}");
        assert!(script.needed("content-type").starts_with("text/javascript"), "{name}");
    }
    assert!(get(server.admin, "/cameras.css").needed("content-type").starts_with("text/css"));
    assert!(get(server.admin, "/").text().contains("/cameras"));
    assert_eq!(get(server.address, "/cameras").status, 404);
}

/// Goal: access units are found however H.264 is cut into messages.
#[test]
fn access_units_are_gathered_from_messages() {
    needs("node");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/browser/annexb.mjs");
    let ended = run(Command::new("node").arg(script));
    assert!(ended.status.success(), "{}", ended.stderr);
}
