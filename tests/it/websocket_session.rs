//! Appenders that come back: the part of `headwater append` that plain clients do not see. A session
//! takes over from its own earlier connection, and what it left is sealed in time.

use crate::client::Client;
use crate::server::{Server, Setup, wait_until};
use crate::websocket_client::{
    APPEND, Event, FIN, Message, TEXT, WebSocket, assert_sealed, handshake, refused, tail,
};
use crate::websocket_follow::{assert_ends, follower, opening};

/// One connection of an appender with this session; how long the object is.
fn session(server: &Server, target: &str, name: &str) -> (WebSocket, u64) {
    let mut client = Client::connect(server.address);
    let fields = format!("{APPEND}Headwater-Session: {name}\r\nHeadwater-Offset: *\r\n");
    client.send(handshake(target, &fields));
    let head = client.head();
    assert_eq!(head.status, 101, "{head:?}");
    let length = head.needed("headwater-offset").parse().unwrap();
    (WebSocket::opened(client), length)
}

/// Goal: the next connection of a session goes on where whole messages ended, the object stays open in
/// between, and nobody else gets it; without one it is sealed in time.
#[test]
fn a_session_takes_over_from_itself() {
    let keys = [("append.ping_interval_s", "1"), ("append.idle_timeout_s", "3")];
    let setup = keys.iter().fold(Setup::new(), |setup, (key, value)| setup.key(key, value));
    let server = setup.start();
    let (mut first, length) = session(&server, "/log", "a1");
    assert_eq!(length, 0);
    first.text("whole, é");
    let mut reader = tail(server.address, "/log", "whole, é".as_bytes());
    let mut follower = follower(server.address, "/log");
    assert_eq!(opening(&mut follower), "whole, é".as_bytes());
    first.send(TEXT, b"not whole");
    drop(first);
    let other = refused(server.address, "/log", &format!("{APPEND}Headwater-Session: b2\r\n"));
    assert_eq!(other.status, 403);
    let (mut second, length) = session(&server, "/log", "a1");
    assert_eq!(length, "whole, é".len() as u64);
    second.text("and on");
    assert_eq!(follower.message(), Message::text("and on"));
    assert_eq!(reader.data(), b"and on");
    // While the second is alive, too: it may be its server that has not noticed.
    let (mut third, length) = session(&server, "/log", "a1");
    assert_eq!(length, "whole, éand on".len() as u64);
    second.closing().assert_told();
    third.text("!");
    assert_eq!(follower.message(), Message::text("!"));
    // A ping says how much is stored.
    wait_until("the server tells what it has", || match third.event() {
        Event::Ping(payload) => payload == (length + 1).to_string().as_bytes(),
        other => panic!("{other:?}"),
    });
    third.reset();
    let (messages, closing) = follower.drain();
    assert_eq!((messages.len(), closing.code), (0, 1000));
    assert_sealed(server.address, "/log", "whole, éand on!".as_bytes());
}

/// Goal: a server that stops does not wait for an appender that may come back.
#[test]
fn a_stop_seals_what_a_session_left() {
    let setup = Setup::new().key("append.idle_timeout_s", "3600");
    let server = setup.key("shutdown_grace_s", "3600").start();
    let (mut first, _) = session(&server, "/log", "a1");
    first.text("stored");
    drop(tail(server.address, "/log", b"stored"));
    let mut follower = follower(server.address, "/log");
    opening(&mut follower);
    drop(first);
    let (second, _) = session(&server, "/log", "a1");
    second.reset();
    let server = server.restart();
    assert_ends(&mut follower, &[]);
    assert_sealed(server.address, "/log", b"stored");
}

/// Goal: an appender that keeps what is not confirmed hears of it before its room is full, whatever the
/// interval of pings.
#[test]
fn many_bytes_are_confirmed_at_once() {
    let server = Setup::new().key("append.ping_interval_s", "20").start();
    let (mut appender, _) = session(&server, "/much", "a1");
    let message = "x".repeat(1 << 20);
    for _ in 0..6 {
        appender.text(&message);
    }
    let Event::Ping(payload) = appender.event() else { panic!("not a ping") };
    let length: u64 = String::from_utf8(payload).unwrap().parse().unwrap();
    assert!((4 << 20..6 << 20).contains(&length), "{length}");
}

/// Goal: what is text stays text for late followers, though a connection was lost in the middle of a
/// message, and of a character.
#[test]
fn text_goes_on_after_a_loss_inside_a_message() {
    let server = Server::start();
    let (mut first, _) = session(&server, "/text", "a1");
    let text = "twelve euro: €".as_bytes();
    let cut = text.len() - 2;
    first.send(FIN | TEXT, &text[..cut]);
    drop(tail(server.address, "/text", &text[..cut]));
    first.send(TEXT, b"\x82\xac lost");
    drop(first);
    let (mut second, length) = session(&server, "/text", "a1");
    assert_eq!(length, cut as u64);
    second.send(FIN | TEXT, &text[cut..]);
    second.text(", and not a cent more");
    let whole = "twelve euro: €, and not a cent more";
    drop(tail(server.address, "/text", whole.as_bytes()));
    let mut late = follower(server.address, "/text");
    assert_eq!(late.message(), Message::text(whole));
}
