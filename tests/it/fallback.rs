//! Where io_uring is forbidden the epoll driver takes over, says so, and everything still works.

use crate::client::{Chunk, Client, Upload, ask, assert_same, get, noise, put};
use crate::server::{Server, Setup, needs};

/// A server to which the kernel refuses every ring, as the seccomp profile of a container does.
fn without_rings(setup: Setup, error: &str) -> Server {
    needs("strace");
    let inject = format!("inject=io_uring_setup:error={error}");
    let wrapper = [
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-qq",
        "-o",
        "/dev/null",
        "-e",
        "trace=io_uring_setup",
        "-e",
        &inject,
    ];
    setup.under(&wrapper).start()
}

/// A small scene of everything: live, sealed, ranges, replacement, abort.
fn play(server: &Server) {
    let body = noise(1, 3 << 20);
    let mut upload = Upload::open(server.address, "/live.ts", "");
    let mut readers: Vec<Client> = (0..20).map(|_| Client::connect(server.address)).collect();
    for reader in &mut readers {
        assert_eq!(reader.get("/live.ts", "").status, 200);
    }
    for part in body.chunks(200_000) {
        upload.append(part);
        for reader in &mut readers {
            assert_same(&reader.data_of(part.len()), part);
        }
    }
    assert_eq!(upload.seal().status, 201);
    for reader in &mut readers {
        assert_eq!(reader.chunk(), Chunk::Last);
        reader.ask("GET", "/live.ts", "").assert_body(200, &body);
    }
    let range = ask(server.address, "GET", "/live.ts", "Range: bytes=1000000-2000000\r\n");
    range.assert_body(206, &body[1_000_000..=2_000_000]);
    put(server.address, "/live.ts", b"small");
    get(server.address, "/live.ts").assert_body(200, b"small");
    let mut torn = Upload::open(server.address, "/torn.ts", "");
    torn.append(b"data");
    let mut reader = Client::connect(server.address);
    reader.get("/torn.ts", "");
    assert_eq!(reader.data(), b"data");
    drop(torn);
    assert!(matches!(reader.chunk(), Chunk::Cut(_)));
}

/// Goal: EPERM (seccomp, sysctl) and ENOSYS (old kernels) of io_uring_setup are survived. Method:
/// a tracer that injects them; the log must say what happened.
#[test]
fn refused_rings_fall_back_to_epoll() {
    for error in ["EPERM", "ENOSYS"] {
        let server = without_rings(Setup::new(), error);
        play(&server);
        let log = server.log();
        assert!(log.contains("io_uring"), "{error}: the log does not say so:\n{log}");
        let (status, setup) = server.terminate();
        assert!(status.success(), "{error}: {status}");
        let server = setup.under(&[]).start();
        get(server.address, "/live.ts").assert_body(200, b"small");
    }
}

/// Goal: the fall-back is as good at ending as the ring. Method: the scene after a kill.
#[test]
fn the_fallback_survives_a_kill() {
    let server = without_rings(Setup::new(), "EPERM");
    put(server.address, "/a.ts", &noise(2, 500_000));
    let server = without_rings(server.kill(), "EPERM");
    get(server.address, "/a.ts").assert_body(200, &noise(2, 500_000));
    play(&server);
}
