//! Two real origins and a fake encoder behind one coordinator: who may publish, what the encoder is
//! told and can fetch, kills, and what outlives the coordinator's restart.

use std::net::SocketAddr;

use rustix::process::Signal;

use crate::client::{Client, ask};
use crate::coordinator_kit::{
    COMMANDS, COMMANDS_LINE, HookServer, Peer, Program, about, field, token,
};
use crate::server::{Server, Setup, wait_until};
use crate::websocket_client::{WebSocket, chunk, handshake, on, refused};

const SECRET: &str = "secret = \"s\"\n";

/// An origin that asks this coordinator, and is connected to it.
fn origin(coordinator: &Program) -> Server {
    let server = Setup::new()
        .key("channels.coordinator_url", &format!("{:?}", coordinator.url()))
        .key("channels.coordinator_secret", "\"s\"")
        .key("channels.coordinator_retry_s", "1")
        .start();
    let port = format!("\"port\":{}", server.address.port());
    wait_until("the coordinator knows the server", || coordinator.shows("report").contains(&port));
    server
}

fn coordinator(options: &str) -> Program {
    Program::start(&format!("{SECRET}{COMMANDS}{options}"))
}

fn encoder(coordinator: &Program, capacity: i32) -> Peer {
    let token = token("HS256", "{\"sub\":\"hls-control\"}", "s");
    let fields = [("x-control-auth-token", token.as_str())];
    let mut peer = Peer::connect(coordinator.address, "/ws/control/hls", &fields).unwrap();
    peer.say(&format!("REGISTER\nCapacity:{capacity}\n\n"));
    peer
}

fn value<'m>(message: &'m str, name: &str) -> &'m str {
    let line = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("{name} in {message:?}")).trim()
}

fn streams(coordinator: &Program) -> String {
    let report = coordinator.shows("report");
    report.split_once("\"activeStreams\":").unwrap().1.to_owned()
}

/// Goal: keys are the application's business, and an encoder can fetch what it is told of.
/// Method: a hook that lets keys in by their name; the encoder does as the original does: a probe,
/// then `receive-clear-cache` of the source it was given.
#[test]
fn publishers_are_let_in_and_encoders_are_fed() {
    let hook = HookServer::start(|_, head| {
        let is_good = field(head, "x-streaming-key") == "good";
        Some(if is_good { "200 OK" } else { "403 Forbidden" })
    });
    let program = coordinator(&format!(
        "require_encoder = true\nkey_verification = {{ url = {:?} }}\n",
        hook.url
    ));
    let (first, second) = (origin(&program), origin(&program));
    let no_room = refused(first.address, "/cam/good/publish", "");
    assert_eq!((no_room.status, no_room.text().as_str()), (403, "Invalid Key."));
    let mut encoder = encoder(&program, 2);
    wait_until("the encoder is known", || program.shows("capacity").contains("\"encoderCount\":1"));
    let wrong = refused(first.address, "/cam/bad/publish", "");
    assert_eq!((wrong.status, wrong.text().as_str()), (403, "Invalid Key."));
    let mut publisher = on(first.address, "cam/good", "publish");
    publisher.binary(b"one");
    let start = encoder.hear();
    assert!(start.starts_with("ENCODE-START\n"), "{start}");
    assert_eq!(
        (value(&start, "Stream-Channel"), value(&start, "Stream-Source-Type")),
        ("cam", "WS")
    );
    let source = value(&start, "Stream-Source-URI");
    let address = source.strip_prefix("ws://").and_then(|rest| rest.strip_suffix("/cam/good"));
    let address: SocketAddr = address.unwrap().parse().unwrap();
    assert_eq!(address, first.address);
    assert_eq!(chunk(&mut on(address, "cam/good", "probe")), b"one");
    let mut fed = on(address, "cam/good", "receive-clear-cache");
    assert_eq!(chunk(&mut fed), b"one");
    publisher.binary(b"two");
    assert_eq!(chunk(&mut fed), b"two");
    // A channel has one publisher, whichever server it comes to.
    let twice = refused(second.address, "/cam/good/publish", "");
    assert_eq!(twice.text(), "Invalid Key.");
    let _other = on(second.address, "other/good", "publish");
    program.wait_for_load(2);
    assert_eq!(value(&encoder.hear(), "Stream-Channel"), "other");
    publisher.close(1000, "");
    let stop = encoder.hear();
    assert!(stop.starts_with("ENCODE-STOP\n") && value(&stop, "Stream-Channel") == "cam", "{stop}");
    encoder.say(&about("STREAM-CLOSED", "cam", value(&start, "Stream-ID")));
    program.wait_for_load(1);
}

/// Goal: a kill ends the publisher and its receivers, with a close frame that tells; one for another
/// stream ends nobody.
#[test]
fn a_kill_reaches_the_publisher() {
    let program = coordinator("");
    let server = origin(&program);
    let mut publisher = on(server.address, "cam/k", "publish");
    let mut receiver = on(server.address, "cam/k", "receive");
    publisher.binary(b"one");
    assert_eq!(chunk(&mut receiver), b"one");
    let close = |id: &str| {
        let fields = format!("{COMMANDS_LINE}x-streaming-channel: cam\r\nx-streaming-id: {id}\r\n");
        assert!(program.http("POST /commands/close", &fields).ends_with("SUCCESS"));
    };
    close("0123456789abcdef0123456789abcdef");
    publisher.binary(b"two");
    assert_eq!(chunk(&mut receiver), b"two");
    close("*");
    publisher.closing().assert_told();
    receiver.closing().assert_told();
    wait_until("the channel is free", || streams(&program).starts_with("[]"));
}

fn is_open(address: SocketAddr, publisher: &mut WebSocket, receiver: &mut WebSocket, step: &str) {
    publisher.binary(step.as_bytes());
    assert_eq!(chunk(receiver), step.as_bytes());
    assert_eq!(refused(address, "/cam/k/publish", "").status, 403);
}

/// Goal: publishers outlive their coordinator: nobody is killed when it comes back, streams keep their
/// ids, and while it is away nobody new is let in.
/// Method: SIGKILL, a publisher that goes on meanwhile, and the same state file.
#[test]
fn publishers_outlive_the_coordinator() {
    let mut program = coordinator("");
    let server = origin(&program);
    let mut publisher = on(server.address, "cam/k", "publish");
    let mut receiver = on(server.address, "cam/k", "receive");
    is_open(server.address, &mut publisher, &mut receiver, "before");
    wait_until("the stream is known", || streams(&program).contains("\"channel\":\"cam\""));
    let before = streams(&program);
    program.kill();
    wait_until("nobody is let in", || refused(server.address, "/new/k/publish", "").status == 403);
    is_open(server.address, &mut publisher, &mut receiver, "while it is away");
    let program = program.again();
    let mut late = None;
    wait_until("publishers are let in again", || {
        let mut client = crate::client::Client::connect(server.address);
        client.send(handshake("/new/k/publish", ""));
        let is_in = client.head().status == 101;
        late = is_in.then(|| WebSocket::opened(client));
        is_in
    });
    is_open(server.address, &mut publisher, &mut receiver, "after");
    let after = streams(&program);
    let id = |text: &str| {
        let from = text.find("\"channel\":\"cam\"").unwrap_or_else(|| panic!("{text}"));
        text[from..].split("\"streamId\":\"").nth(1).unwrap()[..32].to_owned()
    };
    assert_eq!(id(&before), id(&after));
    publisher.close(1000, "");
    publisher.closing();
    receiver.closing().assert_told();
    wait_until("the channel is free", || !streams(&program).contains("\"channel\":\"cam\""));
    drop(late);
}

/// Goal: an origin does not wait for its coordinator: without one it serves all but publishers.
#[test]
fn without_its_coordinator_an_origin_serves_the_rest() {
    let server = Setup::new().key("channels.coordinator_url", "\"ws://127.0.0.1:1\"").start();
    assert_eq!(refused(server.address, "/cam/k/publish", "").text(), "Invalid Key.");
    crate::client::put(server.address, "/a", b"a");
    assert_eq!(ask(server.address, "GET", "/a", "").status, 200);
}

/// Goal: the coordinator inside an origin is the same, and its own server is let in.
#[test]
fn an_origin_can_be_the_coordinator_too() {
    let setup = Setup::new().key("coordinator.listen", "[\"127.0.0.1:0\"]");
    let state = setup.home().join("state.json");
    let server = setup.key("coordinator.state_file", &format!("{:?}", state.display().to_string()));
    let server = server.start();
    let line = server.next_line();
    let url = line.strip_prefix("coordinator on http://").unwrap_or_else(|| panic!("{line}"));
    let other = Setup::new()
        .key("channels.coordinator_url", &format!("\"ws://{}\"", url.trim()))
        .key("channels.coordinator_retry_s", "1")
        .start();
    wait_until("it is let in", || {
        let mut client = crate::client::Client::connect(other.address);
        client.send(handshake("/cam/k/publish", ""));
        client.head().status == 101
    });
}

/// Goal: a publisher that waits for its verdict when the origin stops has not been upgraded, and gets no
/// frame. Method: a coordinator whose hook never answers.
#[test]
fn a_stop_says_nothing_to_who_still_waits() {
    let hook = HookServer::start(|_, _| None);
    let program = coordinator(&format!("key_verification = {{ url = {:?} }}\n", hook.url));
    let server = origin(&program);
    let mut waiting = Client::connect(server.address);
    waiting.send(handshake("/cam/k/publish", ""));
    hook.wait_for(1);
    server.signal(Signal::TERM);
    let (bytes, _) = waiting.read_to_end();
    assert!(bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 "), "{bytes:?}");
}
