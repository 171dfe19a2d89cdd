//! The disk fails: full, limited, broken, changed behind our back. The uploader is told, readers
//! of other objects are untouched, and the server lives.
//!
//! Faults are made by the kernel (a small tmpfs in a mount name space, RLIMIT_FSIZE) or by
//! `strace -e inject`, because injectors by LD_PRELOAD are blind to a server that is not libc.

use std::fs::{self, File};
use std::path::Path;

use crate::client::{Client, Upload, ask, assert_same, get, noise, put, put_with};
use crate::server::{Server, Setup, files_below, needs, needs_root, wait_until};

/// Mounts a tmpfs on `$0` in a private name space and becomes the server.
const MOUNT: &str = r#"mount -t tmpfs -o size=8m headwater-it "$0" && exec "$@""#;

/// A server whose data directory is a tmpfs of 8 MiB that only it can see.
fn on_a_small_disk(setup: Setup) -> Server {
    needs_root();
    needs("unshare");
    fs::create_dir_all(setup.data()).unwrap();
    let data = setup.data().display().to_string();
    let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNT, &data];
    setup.under(&wrapper).start()
}

/// A server under a tracer that makes some system calls fail; also those of the ring, where the
/// kernel would do them unseen.
fn with_injected(setup: Setup, calls: &str, fault: &str) -> Server {
    needs("strace");
    let trace = format!("trace={calls},io_uring_setup");
    let inject = format!("inject={calls}:{fault}");
    let no_ring = "inject=io_uring_setup:error=EPERM";
    let tracer = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null"];
    let faults = ["-e", &trace, "-e", &inject, "-e", no_ring];
    setup.under(&[&tracer[..], &faults].concat()).start()
}

/// Uploads until the server refuses or everything is sent; the status.
fn push(server: &Server, target: &str, body: &[u8], chunked: bool) -> u16 {
    if chunked {
        let mut upload = Upload::begin(server.address, target, "");
        for part in body.chunks(64 * 1024) {
            if upload.try_append(part).is_err() {
                break;
            }
        }
        let _ = upload.client.try_send("0\r\n\r\n");
        return upload.client.answer_to("PUT").status;
    }
    let mut client = Client::connect(server.address);
    client.request("PUT", target, &format!("Content-Length: {}\r\n", body.len()));
    let _ = client.try_send(body);
    client.answer_to("PUT").status
}

/// Goal: a full disk is 507 for the uploader and nothing for anybody else; space that returns is
/// used. Method: a tmpfs of 8 MiB, a finished object, a live one with a reader, two uploads that
/// cannot fit, a DELETE, an upload that fits again.
#[test]
fn a_full_disk_is_507_and_recovers() {
    let setup = Setup::new().key("store.extent_bytes", "262144");
    let mut server = on_a_small_disk(setup);
    let body = noise(1, 3 << 20);
    put(server.address, "/kept.mp4", &body);
    let mut live = Upload::open(server.address, "/live.ts", "");
    live.append(b"before ");
    let mut reader = Client::connect(server.address);
    reader.get("/live.ts", "");
    assert_eq!(reader.data(), b"before ");
    for chunked in [true, false] {
        assert_eq!(push(&server, "/big.mp4", &noise(2, 12 << 20), chunked), 507, "{chunked}");
        wait_until("the torn upload goes", || get(server.address, "/big.mp4").status == 404);
        get(server.address, "/kept.mp4").assert_body(200, &body);
    }
    assert_eq!(ask(server.address, "DELETE", "/kept.mp4", "").status, 204);
    let again = noise(3, 4 << 20);
    wait_until("the space returns", || push(&server, "/again.mp4", &again, true) < 300);
    get(server.address, "/again.mp4").assert_body(200, &again);
    live.append(b"after");
    assert_eq!(reader.data_of(5), b"after");
    assert_eq!(live.seal().status, 201);
    assert!(server.is_running());
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Goal: the live upload that fills the disk itself cuts its reader; everything before stays.
/// Method: fill by a live object with a reader that keeps up.
#[test]
fn a_live_upload_that_fills_the_disk_is_cut() {
    let server = on_a_small_disk(Setup::new().key("store.extent_bytes", "262144"));
    put(server.address, "/small.m3u8", b"#EXTM3U\n");
    let mut upload = Upload::open(server.address, "/fills.ts", "");
    let address = server.address;
    let reader = std::thread::spawn(move || get(address, "/fills.ts"));
    let body = noise(4, 12 << 20);
    for part in body.chunks(64 * 1024) {
        if upload.try_append(part).is_err() {
            break;
        }
    }
    assert_eq!(upload.client.answer_to("PUT").status, 507);
    let answer = reader.join().unwrap();
    if answer.status == 200 {
        assert!(!answer.complete, "a torn upload looked complete");
        assert_same(&answer.body, &body[..answer.body.len()]);
    }
    get(server.address, "/small.m3u8").assert_body(200, b"#EXTM3U\n");
}

/// Goal: EFBIG is 507, and the signal that comes with it kills nobody. Method: RLIMIT_FSIZE of
/// 2 MiB, under which small objects are fine and a large one is not.
#[test]
fn a_file_size_limit_is_507() {
    needs("prlimit");
    let mut server = Setup::new().under(&["prlimit", "--fsize=2097152"]).start();
    put(server.address, "/small.ts", b"small");
    for chunked in [true, false] {
        assert_eq!(push(&server, "/large.ts", &noise(5, 6 << 20), chunked), 507, "{chunked}");
    }
    assert!(server.is_running(), "killed by SIGXFSZ?");
    get(server.address, "/small.ts").assert_body(200, b"small");
    put(server.address, "/small2.ts", b"small too");
    get(server.address, "/small2.ts").assert_body(200, b"small too");
}

/// Goal: a write error is 500 for that upload, said in the log, and the next one works. Method:
/// EIO for every 25th write of each thread; every answer must be true.
#[test]
fn a_write_error_is_500_and_the_server_lives() {
    let calls = "pwrite64,pwritev,pwritev2";
    let mut server = with_injected(Setup::new(), calls, "error=EIO:when=25+25");
    let (mut failed, mut stored, mut rounds) = (0, 0, 0);
    // On a busy machine the writes are spread over more threads.
    while rounds < 30 || failed == 0 && rounds < 500 {
        let round = rounds;
        rounds += 1;
        let body = noise(round, 700_000);
        let target = format!("/e{round}.ts");
        match push(&server, &target, &body, true) {
            201 => {
                get(server.address, &target).assert_body(200, &body);
                stored += 1;
            }
            500 => {
                wait_until("it goes", || get(server.address, &target).status == 404);
                failed += 1;
            }
            status => panic!("{target}: {status}"),
        }
    }
    assert!(failed > 0 && stored > 0, "{failed} failed, {stored} stored");
    assert!(server.is_running());
    wait_until("the log says so", || server.log().contains("os error 5"));
    let server = server.kill().under(&[]).start();
    for round in 0..rounds {
        let answer = get(server.address, &format!("/e{round}.ts"));
        if answer.status == 200 {
            assert_same(&answer.body, &noise(round, 700_000));
        } else {
            assert_eq!(answer.status, 404);
        }
    }
}

/// Goal: a failed fsync is never acknowledged. Method: EIO for every second one of each thread in
/// `sync` durability; what was acknowledged is there after a kill.
#[test]
fn a_failed_fsync_is_not_acknowledged() {
    let setup = Setup::new().key("durability", "\"sync\"");
    let server = with_injected(setup, "fsync,fdatasync", "error=EIO:when=3+2");
    let mut acknowledged = Vec::new();
    let mut failed = 0;
    for round in 0..40 {
        let answer = put_with(server.address, &format!("/s{round}"), "", &noise(round, 5_000));
        match answer.status {
            201 => acknowledged.push(round),
            500 => failed += 1,
            _ => panic!("{answer:?}"),
        }
    }
    assert!(failed > 0, "no upload failed");
    let server = server.kill().under(&[]).start();
    for round in acknowledged {
        get(server.address, &format!("/s{round}")).assert_body(200, &noise(round, 5_000));
    }
}

/// Cuts a file short, as an operator's mistake or a file system check would.
fn truncate(path: &Path) {
    File::options().write(true).open(path).unwrap().set_len(0).unwrap();
}

/// Goal: a file cut behind the server's back ends that transfer, not the server (no SIGBUS).
/// Method: a stalled reader, truncation, and reads of every kind afterwards.
#[test]
fn a_truncated_file_does_not_stop_the_server() {
    let mut server = Server::start();
    put(server.address, "/cut.mp4", &noise(6, 8 << 20));
    put(server.address, "/tiny.mp4", &noise(7, 900));
    put(server.address, "/whole.mp4", b"whole");
    let mut reader = Client::with_small_window(server.address);
    reader.get("/cut.mp4", "");
    truncate(&server.data().join("cut.mp4"));
    truncate(&server.data().join("tiny.mp4"));
    let (bytes, _) = {
        reader.finish_sending();
        reader.read_to_end()
    };
    assert!(bytes.len() < 8 << 20);
    for target in ["/cut.mp4", "/tiny.mp4"] {
        for fields in ["", "Range: bytes=100-\r\n", "Range: bytes=0-1,5-6\r\n"] {
            let mut client = Client::connect(server.address);
            client.request("GET", target, &format!("Connection: close\r\n{fields}"));
            client.read_to_end();
        }
    }
    assert!(server.is_running());
    get(server.address, "/whole.mp4").assert_body(200, b"whole");
}

/// Goal: the same for an Open object, whose readers are served from shared pages.
#[test]
fn a_truncated_live_extent_does_not_stop_the_server() {
    let mut server = Setup::new().key("store.extent_bytes", "1048576").start();
    put(server.address, "/whole.mp4", b"whole");
    let mut upload = Upload::open(server.address, "/live.ts", "");
    for part in noise(8, 3 << 20).chunks(64 * 1024) {
        upload.append(part);
    }
    let mut keeps_up = Client::connect(server.address);
    keeps_up.get("/live.ts", "");
    keeps_up.data_of(3 << 20);
    let large = |file: &std::path::PathBuf| file.metadata().is_ok_and(|meta| meta.len() > 300_000);
    let extents: Vec<_> = files_below(&server.data()).into_iter().filter(large).collect();
    assert!(!extents.is_empty(), "no extent on disk");
    extents.iter().for_each(|file| truncate(file));
    let mut late = Client::connect(server.address);
    late.request("GET", "/live.ts", "Range: bytes=0-2000000\r\n");
    let _ = upload.try_append(&noise(9, 100_000));
    drop(upload);
    late.finish_sending();
    late.read_to_end();
    keeps_up.read_to_end();
    assert!(server.is_running());
    get(server.address, "/whole.mp4").assert_body(200, b"whole");
    put(server.address, "/new.ts", b"new");
}

/// Goal: files that vanish are 404 or cut, not a crash. Method: remove a served file by hand.
#[test]
fn a_removed_file_does_not_stop_the_server() {
    let mut server = Server::start();
    put(server.address, "/gone.mp4", &noise(10, 2 << 20));
    fs::remove_file(server.data().join("gone.mp4")).unwrap();
    let mut client = Client::connect(server.address);
    client.request("GET", "/gone.mp4", "Connection: close\r\n");
    client.read_to_end();
    let deleted = ask(server.address, "DELETE", "/gone.mp4", "");
    assert!(deleted.status < 500, "{deleted:?}");
    put(server.address, "/gone.mp4", b"again");
    get(server.address, "/gone.mp4").assert_body(200, b"again");
    assert!(server.is_running());
}
