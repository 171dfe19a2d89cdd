//! The wall of cameras: what its scripts make of H.264 in messages, which `browser/annexb.mjs` checks
//! without a browser.

use std::path::Path;
use std::process::Command;

use crate::server::{needs, run};

/// Goal: access units are found however H.264 is cut into messages.
#[test]
fn access_units_are_gathered_from_messages() {
    needs("node");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/browser/annexb.mjs");
    let ended = run(Command::new("node").arg(script));
    assert!(ended.status.success(), "{}", ended.stderr);
}
