//! The ways to an upstream: TLS, proxies of the environment, connections that are used again.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::client::{Client, get, noise};
use crate::server::{HANG, Server, Setup, lines_of, needs, run, wait_until};
use crate::upstream_kit::{Upstream, ok, section};

/// `openssl s_server` with a certificate of its own for `localhost`; it serves its folder.
struct TlsServer {
    port: u16,
    child: Child,
}

impl TlsServer {
    fn start(home: &Path) -> TlsServer {
        needs("openssl");
        let request = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
            -subj /CN=localhost -addext subjectAltName=DNS:localhost \
            -addext basicConstraints=critical,CA:FALSE -keyout key.pem -out cert.pem";
        let made = run(Command::new("openssl").args(request.split_whitespace()).current_dir(home));
        assert!(made.status.success(), "{}", made.stderr);
        let serve = "s_server -accept 127.0.0.1:0 -cert cert.pem -key key.pem -WWW";
        let mut child = Command::new("openssl")
            .args(serve.split_whitespace())
            .current_dir(home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = lines_of(child.stdout.take().unwrap());
        let port = loop {
            let line = lines.recv_timeout(HANG).expect("openssl says where it listens");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.rsplit(':').next().unwrap().parse().unwrap();
            }
        };
        TlsServer { port, child }
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server with these variables in its environment, and no proxy of the test's own.
fn with_environment(setup: Setup, variables: &[&str]) -> Server {
    let unset = "-u http_proxy -u https_proxy -u no_proxy -u HTTP_PROXY -u HTTPS_PROXY -u NO_PROXY \
        -u ALL_PROXY -u all_proxy";
    let words: Vec<&str> = ["env"]
        .into_iter()
        .chain(unset.split_whitespace())
        .chain(variables.iter().copied())
        .collect();
    setup.under(&words).start()
}

/// Goal: TLS is checked: a certificate that the environment names is good, for its own name only, and one
/// that nobody knows is 502. Through a tunnel of a proxy it is the same.
#[test]
fn tls_is_checked() {
    let home = tempfile::tempdir().unwrap();
    let body = noise(1, 300_000);
    std::fs::write(home.path().join("file.txt"), &body).unwrap();
    let tls = TlsServer::start(home.path());
    let setup = || {
        let url = |host: &str| format!("https://{host}:{}/file.txt", tls.port);
        Setup::new().table(&section("static", "/named", &url("localhost"), "")).table(&section(
            "static",
            "/other",
            &url("127.0.0.1"),
            "",
        ))
    };
    let file = format!("SSL_CERT_FILE={}", home.path().join("cert.pem").display());
    let trusting = with_environment(setup(), &[&file]);
    get(trusting.address, "/named").assert_body(200, &body);
    assert_eq!(get(trusting.address, "/other").status, 502, "it has another name");
    let doubting = with_environment(setup(), &[]);
    assert_eq!(get(doubting.address, "/named").status, 502);
    wait_until("the log says why", || doubting.log().contains("certificate"));
    let (proxy, heads) = tunnel();
    let through = format!("HTTPS_PROXY=http://al:ice@{proxy}");
    let tunneled = with_environment(setup(), &[&file, &through]);
    get(tunneled.address, "/named").assert_body(200, &body);
    let head = heads.recv_timeout(HANG).unwrap();
    assert!(head.starts_with(&format!("CONNECT localhost:{} HTTP/1.1", tls.port)), "{head}");
    assert!(head.contains("Basic YWw6aWNl"), "{head}");
}

/// A proxy that only knows CONNECT; it tells what it was asked.
fn tunnel() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, heads) = mpsc::channel();
    thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut reader = BufReader::new(client.try_clone().unwrap());
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).unwrap() > 0 {}
            let host = head.split(' ').nth(1).unwrap().to_owned();
            let mut server = TcpStream::connect(host).unwrap();
            client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
            let _ = sender.send(head);
            let mut back = (server.try_clone().unwrap(), client.try_clone().unwrap());
            thread::spawn(move || std::io::copy(&mut back.0, &mut back.1));
            thread::spawn(move || std::io::copy(&mut reader, &mut server));
        }
    });
    (address, heads)
}

/// Goal: a proxy of the environment gets whole URLs and its own credentials; what it is not for is asked
/// directly.
#[test]
fn proxies_of_the_environment_are_used() {
    let proxy = Upstream::saying(ok("Cache-Control: max-age=600\r\n", b"from the proxy"));
    let direct = Upstream::saying(ok("", b"direct"));
    let setup = Setup::new()
        .table(&section("static", "/far", "http://al:ice@origin.invalid/a?b", ""))
        .table(&section("mirror", "/m/", "http://origin.invalid:8080/x/", ""))
        .table(&section("static", "/near", &direct.url("/"), ""));
    let through = format!("HTTP_PROXY=http://bob:secret@{}", proxy.address);
    let server = with_environment(setup, &[&through, "NO_PROXY=127.0.0.1"]);
    get(server.address, "/far").assert_body(200, b"from the proxy");
    get(server.address, "/m/y?z").assert_body(200, b"from the proxy");
    get(server.address, "/near").assert_body(200, b"direct");
    let seen = proxy.seen();
    assert_eq!(seen[0].target, "http://origin.invalid:80/a?b");
    assert_eq!(seen[0].field("host"), Some("origin.invalid"));
    assert_eq!(seen[0].field("authorization"), Some("Basic YWw6aWNl"));
    assert_eq!(seen[1].target, "http://origin.invalid:8080/x/y?z");
    assert_eq!(seen[1].field("authorization"), None);
    for seen in seen {
        assert_eq!(seen.field("proxy-authorization"), Some("Basic Ym9iOnNlY3JldA=="));
    }
    assert_eq!(direct.seen().len(), 1);
}

/// Goal: a certificate file that cannot be read ends the start, with its name.
#[test]
fn a_bad_certificate_file_is_said_at_the_start() {
    let file = "/nowhere/cert.pem";
    let home = tempfile::tempdir().unwrap();
    let config = home.path().join("headwater.toml");
    std::fs::write(&config, section("static", "/a", "https://localhost/", "")).unwrap();
    let mut command = Command::new(crate::server::HEADWATER);
    command.args(["serve", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--config"]);
    command.arg(&config).arg("--data").arg(home.path().join("data")).env("SSL_CERT_FILE", file);
    let ended = run(&mut command);
    assert!(!ended.status.success() && ended.stderr.contains(file), "{}", ended.stderr);
}

/// Goal: connections to an upstream are used again, and one that it has closed meanwhile harms nobody.
#[test]
fn connections_are_used_again() {
    let (sender, connections) = mpsc::channel();
    let upstream = Upstream::start(move |seen, stream| {
        sender.send(stream.peer_addr().unwrap()).unwrap();
        stream.write_all(&ok("", b"x")).unwrap();
        // It closes some without having said so.
        !seen.target.ends_with('9')
    });
    let upstream_url = upstream.url("/m/");
    let server = Setup::new().table(&section("mirror", "/m/", &upstream_url, "")).start();
    let mut client = Client::connect(server.address);
    for number in 0..50 {
        client.ask("GET", &format!("/m/{number}"), "").assert_body(200, b"x");
    }
    let requests: Vec<SocketAddr> = connections.try_iter().collect();
    let used: HashSet<_> = requests.iter().collect();
    assert_eq!(requests.len(), 50);
    assert!((5..25).contains(&used.len()), "{} connections", used.len());
}
