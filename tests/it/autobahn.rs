//! The Autobahn suite for WebSocket, as it comes from PyPI, against the codec alone: scripts/autobahn
//! runs it and judges its report case by case.

use std::path::Path;
use std::process::Command;

/// The core cases are of framing, control frames, fragments, UTF-8 and closing. The script sets its
/// own limits of time, and builds the echo server itself, so that this test run alone does not meet
/// an old one.
#[test]
fn no_core_case_fails() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/autobahn");
    let mut command = Command::new(script);
    // What cargo tells a test is about this package; dependencies that ask for it would be built anew.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(name);
        }
    }
    let ended = command.output().unwrap();
    let (said, errors) =
        (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success(), "{said}{errors}");
    let sums = said.lines().last().unwrap_or_default();
    assert!(sums.starts_with("autobahn: ") && sums.ends_with(" 0 failed"), "{said}{errors}");
}
