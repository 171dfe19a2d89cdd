//! Upstreams of pulled streams that do harm: they hang, leave processes behind, lose datagrams; and
//! readers who would like to be one.

use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::client::{ask, get};
use crate::server::{Server, Setup, wait_until};
use crate::upstream_kit::{counter, section};

const PACKET: usize = 188;

/// A `[[pull]]` that tries again soon, not listed.
fn pull(path: &str, upstream: &str, more: &str) -> String {
    format!(
        "[[pull]]\npath = \"{path}\"\nupstreams = [\"{upstream}\"]\nreconnect_s = 1\n\
         reconnect_max_s = 1\n{more}\n"
    )
}

/// Stuffing, which is a transport stream too.
fn packets(count: usize) -> Vec<u8> {
    let mut packet = [0; PACKET];
    packet[..4].copy_from_slice(&[0x47, 1, 0, 0x10]);
    packet.repeat(count)
}

fn until_said(server: &Server, stream: &str, words: &str) {
    wait_until(&format!("{stream}: {words}"), || {
        server.log().lines().any(|line| line.contains(stream) && line.contains(words))
    });
}

/// A terminal: what is written to the file can be read at the path.
fn terminal() -> (std::fs::File, String) {
    use rustix::{pty, termios};
    let flags = pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY | pty::OpenptFlags::CLOEXEC;
    let master = pty::openpt(flags).unwrap();
    pty::grantpt(&master).unwrap();
    pty::unlockpt(&master).unwrap();
    let mut modes = termios::tcgetattr(&master).unwrap();
    modes.make_raw();
    termios::tcsetattr(&master, termios::OptionalActions::Now, &modes).unwrap();
    let path = pty::ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
    (master.into(), path)
}

/// Goal: upstreams that hang stop no file and no name; a character device is an upstream. Method: as many
/// silent terminals as would take all threads, then a file and a name that were not there before.
#[test]
fn what_hangs_stops_nobody_else() {
    let (silent, (mut speaking, device)) = (terminal(), terminal());
    let setup = Setup::new();
    let file = setup.home().join("file.ts");
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more = "live = \"\"\nread_timeout_s = 600\nhold_over_s = 600";
    let mut tables: String = (0..30)
        .map(|index| pull(&format!("/silent{index}."), &format!("file://{}", silent.1), more))
        .collect();
    tables += &pull("/file.ts", &format!("file://{}", file.display()), more);
    tables += &pull("/device.ts", &format!("file://{device}"), more);
    tables += &pull("/name.ts", &format!("tcp://localhost:{}", address.port()), more);
    tables += &pull("/folder.ts", &format!("file://{}", setup.home().display()), more);
    let server = setup.table(&tables).start();
    for index in 0..30 {
        until_said(&server, &format!("silent{index}."), "an upstream is connected");
    }
    until_said(&server, "file.ts", "it cannot be reached");
    std::fs::write(&file, packets(100)).unwrap();
    until_said(&server, "stream=\"file.ts\"", "a stream is live");
    let listener = TcpListener::bind(address).unwrap();
    let mut connection = listener.accept().unwrap().0;
    connection.write_all(&packets(100)).unwrap();
    until_said(&server, "name.ts", "a stream is live");
    speaking.write_all(&packets(10)).unwrap();
    until_said(&server, "device.ts", "a stream is live");
    until_said(&server, "folder.ts", "neither a file");
}

/// Whether a process with this number is at work: one that has ended may have nobody who notices.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// The numbers that commands have noted.
fn noted(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_inclusive('\n')
        .filter_map(|line| Some(line.strip_suffix('\n')?.to_owned()))
        .collect()
}

/// Goal: a command that is given up is gone with all that it has started, and none survives the server.
#[test]
fn a_command_ends_with_all_that_it_started() {
    let setup = Setup::new();
    let (script, pids) = (setup.home().join("script"), setup.home().join("pids"));
    let text = format!(
        "#!/bin/sh\nsleep 600 &\nprintf '%s\\n%s\\n' $! $$ >> {}\necho last words >&2\n\
         exec sleep 600\n",
        pids.display()
    );
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
    let upstream = format!("fork://{}", script.display());
    let server = setup.table(&pull("/a.ts", &upstream, "read_timeout_s = 1")).start();
    wait_until("it was begun again", || noted(&pids).len() >= 4);
    wait_until("the first is gone", || noted(&pids)[..2].iter().all(|pid| !is_alive(pid)));
    until_said(&server, "last words", "an upstream's command says");
    let (status, setup) = server.terminate();
    assert!(status.success());
    let left = || noted(&setup.home().join("pids")).iter().any(|pid| is_alive(pid));
    wait_until("all are gone", || !left());
}

/// Goal: datagrams that are lost or come too late are counted. Method: every second number is missing,
/// and comes when it was given up.
#[test]
fn lost_datagrams_are_counted() {
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let upstream = format!("rtp://127.0.0.1:{port}");
    let server = Setup::new().table(&pull("/a.ts", &upstream, "")).start();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |number: u16| {
        let [high, low] = number.to_be_bytes();
        let head = [0x80, 33, high, low, 0, 0, 0, 0, 0, 0, 0, 7];
        let _ = socket.send_to(&[&head[..], &packets(7)].concat(), ("127.0.0.1", port));
    };
    let mut number = 0;
    wait_until("some are lost", || {
        send(number);
        number += 2;
        counter(&server, "pull_datagrams_lost") > 0
    });
    wait_until("some are late", || {
        send(number - 3);
        counter(&server, "pull_datagrams_late") > 0
    });
}

/// Goal: nothing is put where a pulled stream is, with which password ever; other places are as they were.
#[test]
fn a_pulled_stream_takes_nothing_from_elsewhere() {
    let access = "access = { scheme = \"basic\", users = [\"alice\"] }";
    let tables = [
        pull("/cam.ts", "tcp://127.0.0.1:1", access),
        pull("/fold/", "tcp://127.0.0.1:1", ""),
        section("static", "/logo", "file:///none", ""),
        "[users]\nalice = \"secret\"".to_owned(),
        "[append]\nenabled = true".to_owned(),
    ];
    let server = Setup::new().table(&tables.join("\n")).start();
    let credentials = "Authorization: Basic YWxpY2U6c2VjcmV0\r\n";
    let empty = format!("{credentials}Content-Length: 0\r\n");
    for path in ["/cam.ts", "/live/cam/x.ts", "/live/cam/a/b.mp4", "/live/cam/", "/fold/x"] {
        for method in ["PUT", "POST", "DELETE"] {
            let answer = ask(server.address, method, path, &empty);
            assert_eq!(answer.status, 405, "{method} {path}");
            assert_eq!(answer.needed("allow"), "GET, HEAD, OPTIONS");
        }
    }
    let upgrade = format!(
        "{credentials}Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nX-Verb: APPEND\r\n"
    );
    for path in ["/cam.ts", "/live/cam/x.ts"] {
        assert_eq!(ask(server.address, "GET", path, &upgrade).status, 405, "{path}");
    }
    assert_eq!(ask(server.address, "PUT", "/cam.ts", "Content-Length: 0\r\n").status, 401);
    for (path, status) in [("/cam.tsx", 201), ("/live/camera/x.txt", 200), ("/live/cam2/", 200)] {
        assert_eq!(
            ask(server.address, "PUT", path, "Content-Length: 0\r\n").status,
            status,
            "{path}"
        );
    }
    assert_eq!(get(server.address, "/cam.tsx").status, 200);
}
