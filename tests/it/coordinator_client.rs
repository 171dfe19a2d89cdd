//! The coordinator's client as a library: against the program, against fakes that do not answer or
//! that kill, through TLS, and over restarts.

use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use headwater::channels::{Gatekeeper, PublishRequest, Publishers, Running, Verdict};
use headwater::coordinator::{ClientOptions, ControlClient};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use tokio_tungstenite::Connector;
use tungstenite::{Message, WebSocket};

use crate::coordinator_kit::{COMMANDS, COMMANDS_LINE, HookServer, Program, about, token};
use crate::server::{HANG, wait_until};

/// What the doors would know of publishers, and what was done to them.
#[derive(Default)]
struct Doors {
    running: Mutex<Vec<Running>>,
    done: Mutex<Vec<String>>,
}

impl Publishers for Doors {
    fn kill(&self, channel: &str, stream_id: Option<&str>) {
        self.done.lock().unwrap().push(format!("kill {channel} {}", stream_id.unwrap_or("any")));
    }

    fn running(&self) -> Vec<Running> {
        self.running.lock().unwrap().clone()
    }

    fn rename(&self, channel: &str, from: &str, to: &str) {
        let mut running = self.running.lock().unwrap();
        let own = running.iter_mut().find(|one| one.request.channel == channel).unwrap();
        assert_eq!(own.stream_id, from);
        own.stream_id = to.to_owned();
        self.done.lock().unwrap().push(format!("rename {channel}"));
    }
}

impl Doors {
    fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }
}

fn options(url: &str) -> ClientOptions {
    ClientOptions {
        reconnect_pause: Duration::from_millis(50),
        external_port: Some(8080),
        external_ip: Some("192.0.2.9".to_owned()),
        ..ClientOptions::new(url)
    }
}

fn start(options: ClientOptions) -> (Arc<ControlClient>, Arc<Doors>) {
    let doors = Arc::new(Doors::default());
    (ControlClient::start(options, doors.clone()).unwrap(), doors)
}

fn request(channel: &str) -> PublishRequest {
    let ip = IpAddr::from([198, 51, 100, 1]);
    PublishRequest { channel: channel.to_owned(), key: "k".to_owned(), ip }
}

fn ask(client: &ControlClient, channel: &str) -> Verdict {
    let (sender, receiver) = mpsc::channel();
    let answer = Box::new(move |verdict| sender.send(verdict).unwrap());
    client.ask(request(channel), answer);
    receiver.recv_timeout(HANG).expect("an answer that is given, not dropped")
}

/// Ask until it is accepted, and run.
fn publish(client: &ControlClient, doors: &Doors, channel: &str) -> Running {
    let mut verdict = Verdict::Deny;
    wait_until("accepted", || {
        verdict = ask(client, channel);
        verdict != Verdict::Deny
    });
    let Verdict::Accept { stream_id } = verdict else { unreachable!() };
    let running = Running { request: request(channel), stream_id };
    doors.running.lock().unwrap().push(running.clone());
    running
}

fn wait_for_report(program: &Program, what: &str, is_so: impl Fn(&str) -> bool) {
    wait_until(what, || is_so(&program.shows("report")));
}

#[test]
fn it_waits_for_a_coordinator_and_asks_it() {
    let mut program = Program::start(&format!("{COMMANDS}secret = \"s\""));
    program.kill();
    let options = ClientOptions { secret: Some("s".to_owned()), ..options(&program.url()) };
    let (client, doors) = start(options);
    assert_eq!(ask(&client, "a"), Verdict::Deny);
    let program = program.again();
    let running = publish(&client, &doors, "a");
    assert_eq!(ask(&client, "a"), Verdict::Deny, "somebody publishes there");
    let row = "\"ip\":\"192.0.2.9\",\"port\":8080,\"ssl\":false,\"serverType\":\"WS\"";
    let report = program.shows("report");
    assert!(report.contains(row) && report.contains(&running.stream_id), "{report}");
    let lines = format!("{COMMANDS_LINE}x-streaming-channel: a\r\nx-streaming-id: *\r\n");
    program.http("POST /commands/close", &lines);
    let kill = format!("kill a {}", running.stream_id);
    wait_until("the kill", || doors.done() == [kill.clone()]);
    client.ended(&running);
    wait_for_report(&program, "its end", |report| report.ends_with("\"activeStreams\":[]}"));
    client.stop();
    wait_for_report(&program, "it has left", |report| report.contains("\"streamingServers\":[]"));
}

/// Goal: a coordinator that is killed and comes back finds all publishers running under their ids.
#[test]
fn a_restart_of_the_coordinator_kills_nobody() {
    let mut program = Program::start(COMMANDS);
    let (client, doors) = start(options(&program.url()));
    let ids: Vec<String> = ["a", "b", "c"]
        .into_iter()
        .map(|channel| publish(&client, &doors, channel).stream_id)
        .collect();
    for _ in 0..3 {
        program.kill();
        assert_eq!(ask(&client, "new"), Verdict::Deny);
        program = program.again();
        wait_for_report(&program, "all are back", |report| {
            !report.contains("\"streamServer\":0") && ids.iter().all(|id| report.contains(id))
        });
    }
    // What ends while there is no coordinator is told afterwards.
    program.kill();
    let gone = doors.running.lock().unwrap().remove(0);
    assert_eq!(ask(&client, "new"), Verdict::Deny);
    client.ended(&gone);
    let program = program.again();
    wait_for_report(&program, "two are left", |report| {
        !report.contains(&ids[0]) && ids[1..].iter().all(|id| report.contains(id))
    });
    assert!(doors.done().is_empty(), "{:?}", doors.done());
}

/// Goal: a coordinator that has forgotten all accepts what runs under new ids, if the key is good.
#[test]
fn a_coordinator_without_memory_renames_or_kills() {
    let is_strict = Arc::new(Mutex::new(false));
    let strict = is_strict.clone();
    let hook = HookServer::start(move |_, head| {
        let is_refused = *strict.lock().unwrap() && head.contains("x-streaming-channel: bad\n");
        Some(if is_refused { "403 Forbidden" } else { "200 OK" })
    });
    let options_of = format!("{COMMANDS}key_verification = {{ url = \"{}\" }}", hook.url);
    let mut program = Program::start(&options_of);
    let (client, doors) = start(options(&program.url()));
    let good = publish(&client, &doors, "good");
    let bad = publish(&client, &doors, "bad");
    program.kill();
    std::fs::remove_file(program.state_file()).unwrap();
    *is_strict.lock().unwrap() = true;
    let program = program.again();
    wait_until("both have an answer", || doors.done().len() == 2);
    let mut done = doors.done();
    done.sort();
    assert_eq!(done, [format!("kill bad {}", bad.stream_id), "rename good".to_owned()]);
    let renamed = doors.running.lock().unwrap()[0].clone();
    assert_ne!(renamed.stream_id, good.stream_id);
    assert!(program.shows("report").contains(&renamed.stream_id));
    // A door that has not heard of the new name yet.
    client.ended(&good);
    wait_for_report(&program, "its end", |report| report.ends_with("\"activeStreams\":[]}"));
}

/// A coordinator of the test's own.
fn fake() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/some/path?a=b", listener.local_addr().unwrap());
    (listener, url)
}

fn hear(socket: &mut WebSocket<TcpStream>) -> String {
    loop {
        let message = socket.read().unwrap();
        match message {
            Message::Text(text) if text.as_str() != "HEARTBEAT\n" => return text.to_string(),
            _ => {}
        }
    }
}

/// Goal: the handshake and the messages, byte by byte; a late ACCEPT is given back.
#[test]
fn its_bytes_are_those_of_the_original() {
    let (listener, url) = fake();
    let options = ClientOptions {
        secret: Some("s".to_owned()),
        external_tls: true,
        answer_timeout: Duration::from_millis(200),
        ..options(&url)
    };
    let doors = Arc::new(Doors::default());
    doors.running.lock().unwrap().push(Running { request: request("r"), stream_id: "7".into() });
    let client = ControlClient::start(options, doors.clone()).unwrap();
    let stream = listener.accept().unwrap().0;
    stream.set_read_timeout(Some(HANG)).unwrap();
    let mut heads = Vec::new();
    let mut socket = tungstenite::accept_hdr(
        stream,
        #[allow(clippy::result_large_err, reason = "tungstenite's signature")]
        |request: &tungstenite::handshake::server::Request, answer| {
            let value =
                |name| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            let names = ["x-control-auth-token", "x-external-ip", "x-custom-port", "x-ssl-use"];
            heads = names.into_iter().map(|name| value(name).unwrap()).collect();
            heads.push(request.uri().to_string());
            Ok(answer)
        },
    )
    .unwrap();
    assert_eq!(heads[1..], ["192.0.2.9", "8080", "true", "/ws/control/wss"]);
    let wanted = token("HS256", "{\"sub\":\"wss-control\"}", "s");
    assert_eq!(heads[0].split('.').nth(1), wanted.split('.').nth(1), "no claim but sub");
    // Who runs is asked about first; after that the connection is there for others.
    let wanted = |id, channel| {
        format!(
            "PUBLISH-REQUEST\nRequest-ID:{id}\nStream-Channel:{channel}\nStream-Key:k\n\
             User-IP:198.51.100.1\n"
        )
    };
    assert_eq!(hear(&mut socket), format!("{}Stream-ID:7\n", wanted(0, "r")));
    // Nobody answers: a refusal, and what comes too late is ended.
    assert_eq!(ask(&client, "a"), Verdict::Deny);
    assert_eq!(hear(&mut socket), wanted(1, "a"));
    let accept = |id, stream_id| {
        Message::text(format!(
            "publish-accept\nrequest-id: {id}\nStream-Channel: a\nStream-ID: {stream_id}\n"
        ))
    };
    socket.send(accept(1, "late")).unwrap();
    assert_eq!(hear(&mut socket), about("PUBLISH-END", "a", "late"));
    for text in ["STREAM-KILL\nStream-Channel:a\nStream-ID:*\n", "STREAM-KILL\nStream-Channel:b\n"]
    {
        socket.send(Message::text(text)).unwrap();
    }
    socket.send(Message::text(about("STREAM-KILL", "c", "7"))).unwrap();
    wait_until("the kills", || doors.done() == ["kill a any", "kill b any", "kill c 7"]);
}

/// Goal: a silent coordinator is left, and asked again at once and about what runs.
#[test]
fn a_silent_coordinator_is_left() {
    let (listener, url) = fake();
    let mut options = options(&url);
    options.pace.heartbeat_interval = Duration::from_millis(100);
    options.pace.silence_timeout = Duration::from_millis(500);
    options.reconnect_pause = Duration::from_millis(10);
    let (client, doors) = start(options);
    doors.running.lock().unwrap().push(Running { request: request("a"), stream_id: "7".into() });
    let mut sockets = Vec::new();
    for round in 0..2 {
        let stream = listener.accept().unwrap().0;
        stream.set_read_timeout(Some(HANG)).unwrap();
        let mut socket = tungstenite::accept(stream).unwrap();
        let text = format!(
            "PUBLISH-REQUEST\nRequest-ID:{round}\nStream-Channel:a\nStream-Key:k\n\
             User-IP:198.51.100.1\nStream-ID:7\n"
        );
        assert_eq!(hear(&mut socket), text);
        let frame = loop {
            match socket.read().unwrap() {
                Message::Close(frame) => break frame.unwrap(),
                message => assert_eq!(message, Message::text("HEARTBEAT\n")),
            }
        };
        assert!(!frame.reason.is_empty());
        sockets.push(socket);
    }
    assert!(doors.done().is_empty(), "who runs, stays");
    client.stop();
}

#[test]
fn options_that_cannot_be_meant_are_an_error() {
    for url in ["", "host", "http://host", "ws://", "ws:///path", "wss://a b"] {
        let started = ControlClient::start(ClientOptions::new(url), Arc::new(Doors::default()));
        assert!(started.is_err(), "{url}");
    }
}

/// A certificate of `localhost` that signs itself, and its key, for this test alone; good until 2126.
const CERTIFICATE: &str = "MIIBkjCCATigAwIBAgIUT0zkXmZ8nTe4vg6md+OgcHAFg2IwCgYIKoZIzj0EAwIwFDES\
    MBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyMTIxMDczOVoYDzIxMjYxMDI4MjEwNzM5WjAUMRIwEAYDVQQDDAlsb2NhbG\
    hvc3QwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASzaIMe3IvDivaydEWKJ7LkoM5CB+Si9gjps2+Al0c4LCPagkdWD8/B\
    0KRvu+xliSh6NDdQaqqfs9960YY2C+LBo2YwZDAdBgNVHQ4EFgQUGQ+C0jFgvCPqwQdwaVsMwPE1qvgwHwYDVR0jBBgwFo\
    AUGQ+C0jFgvCPqwQdwaVsMwPE1qvgwFAYDVR0RBA0wC4IJbG9jYWxob3N0MAwGA1UdEwEB/wQCMAAwCgYIKoZIzj0EAwID\
    SAAwRQIhAPXuCvpbWDDhjLBygnxhGX8ktJRO4npqrd+2Zj+nNkGtAiASOKALL5W3eYlspvJZ8UGgMNmlUI+au32WxT0z5Z\
    rCaQ==";
const PRIVATE_KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgO3/RGGp1tR5xuY1O5Bfs\
    0IVNW/bi8cQssDivoO6c4OqhRANCAASzaIMe3IvDivaydEWKJ7LkoM5CB+Si9gjps2+Al0c4LCPagkdWD8/B0KRvu+xliS\
    h6NDdQaqqfs9960YY2C+LB";

/// Goal: `wss` works where the certificate is trusted, and is refused, without a panic, where not.
#[test]
fn tls_is_spoken_and_certificates_are_checked() {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificate = CertificateDer::from(STANDARD.decode(CERTIFICATE).unwrap());
    let key = PrivateKeyDer::try_from(STANDARD.decode(PRIVATE_KEY).unwrap()).unwrap();
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let server = Arc::new(server);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("wss://localhost:{}", listener.local_addr().unwrap().port());
    let (ends, failed) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let connection = ServerConnection::new(server.clone()).unwrap();
            let Ok(mut socket) = tungstenite::accept(StreamOwned::new(connection, stream)) else {
                ends.send(()).unwrap();
                continue;
            };
            while let Ok(message) = socket.read() {
                if message.to_text().is_ok_and(|text| text.starts_with("PUBLISH-REQUEST\n")) {
                    let text = "PUBLISH-ACCEPT\nRequest-ID:0\nStream-ID:id\n";
                    socket.send(Message::text(text)).unwrap();
                }
            }
        }
    });
    let (stranger, _) = start(options(&url));
    failed.recv_timeout(HANG).expect("a handshake that fails");
    failed.recv_timeout(HANG).expect("and is tried again");
    assert_eq!(ask(&stranger, "a"), Verdict::Deny);
    stranger.stop();
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let trusting = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = Some(Connector::Rustls(Arc::new(trusting)));
    let (client, _) = start(ClientOptions { connector, ..options(&url) });
    // The answer of this server is for the first request that reaches it.
    let mut verdict = Verdict::Deny;
    wait_until("accepted", || {
        verdict = ask(&client, "a");
        verdict != Verdict::Deny
    });
    assert_eq!(verdict, Verdict::Accept { stream_id: "id".to_owned() });
}
