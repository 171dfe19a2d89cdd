//! What the APIs of pulled streams say, and who is told of events.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::client::{Client, ask, get};
use crate::server::{Server, Setup, wait_until};

const PACKET: usize = 188;

/// Packets with a program and a picture that decoders may begin with in each run of four.
fn packets(runs: usize) -> Vec<u8> {
    let packet = |pid: u16, flags: u8, payload: &[u8]| {
        let mut packet = vec![0x47, 0x40 | (pid >> 8) as u8, pid as u8, 0x30];
        packet.extend([(PACKET - 5 - payload.len()) as u8, flags]);
        packet.resize(PACKET - payload.len(), 0xff);
        packet.extend(payload);
        packet
    };
    let null = [&[0x47, 0x1f, 0xff, 0x10][..], &[0xff; PACKET - 4]].concat();
    let pes = [0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, 0, 1, 0, 1];
    let run = [packet(256, 0x40, &pes), null.clone(), null.clone(), null].concat();
    run.repeat(runs)
}

const APIS: &str = "[[api]]\npath = \"/health\"\nkind = \"health\"\n\
    [[api]]\npath = \"/statistics\"\nkind = \"statistics\"\n\
    [[api]]\npath = \"/prometheus\"\nkind = \"prometheus\"\n\
    [[api]]\npath = \"/check\"\nkind = \"check\"\npull = \"/cam.ts\"\n\
    [[api]]\npath = \"/control\"\nkind = \"control\"\npull = \"/cam.ts\"\n";

fn pulling(upstream: &TcpListener, more: &str) -> Server {
    let address = upstream.local_addr().unwrap();
    Setup::new()
        .table(&format!(
            "[[pull]]\npath = \"/cam.ts\"\nupstreams = [\"tcp://{address}\"]\nlive = \"\"\n{APIS}{more}"
        ))
        .start()
}

/// Sends in a thread for as long as somebody takes it.
fn pump(mut connection: TcpStream) {
    std::thread::spawn(move || {
        while connection.write_all(&packets(5)).is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

fn number(json: &str, key: &str) -> u64 {
    let rest = json.split(&format!("\"{key}\":")).nth(1).unwrap_or_else(|| panic!("{key}: {json}"));
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

fn reader(server: &Server) -> Client {
    let mut client = Client::connect(server.address);
    assert_eq!(client.get("/cam.ts", "").status, 200);
    client
}

#[test]
fn the_five_apis_say_what_is_true() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = pulling(&upstream, "[viewers]\nmax = 3\nfull = 2");
    let api = |path: &str| get(server.address, path);
    let connection = upstream.accept().unwrap().0;
    wait_until("the socket is open", || api("/check").status == 200);
    api("/check").assert_body(200, b"200 ok");
    assert_eq!(get(server.address, "/cam.ts").status, 404, "no packet has come");
    let health = api("/health");
    assert_eq!(health.needed("content-type"), "application/json");
    assert_eq!(
        health.text(),
        "{\"status\":\"ok\",\"viewer\":0,\"limit\":2,\"max\":3,\"bandwidth\":0}"
    );
    pump(connection);
    wait_until("it is live", || {
        let mut client = Client::connect(server.address);
        client.get("/cam.ts", "").status == 200
    });
    wait_until("nobody reads", || number(&api("/health").text(), "viewer") == 0);
    let mut readers: Vec<_> = (0..2).map(|_| reader(&server)).collect();
    assert!(api("/health").text().contains("\"status\":\"full\""));
    readers.push(reader(&server));
    assert!(api("/statistics").text().contains("\"status\":\"overload\""));
    assert_eq!(api("/cam.ts").status, 404, "one too many");
    for reader in &mut readers {
        assert_eq!(reader.data()[0], 0x47);
    }
    // Taken by all, or they would fall behind.
    wait_until("figures move", || {
        readers.iter_mut().for_each(|reader| drop(reader.data()));
        let text = api("/statistics").text();
        number(&text, "packets_per_second_sent") > 0
            && number(&text, "bytes_per_second_received") > 0
    });
    let text = api("/statistics").text();
    assert_eq!(number(&text, "connections"), 3);
    let (packets, bytes) = (number(&text, "total_packets_sent"), number(&text, "total_bytes_sent"));
    assert!(packets > 0 && bytes == packets * PACKET as u64, "{text}");
    assert!(number(&api("/health").text(), "bandwidth") > 0);
    let exposition = api("/prometheus").text();
    assert!(exposition.contains("streaming_connections{stream=\"/cam.ts\"} 3\n"), "{exposition}");
    assert!(exposition.contains(",url=\"tcp://127.0.0.1:"), "{exposition}");
    assert!(!exposition.contains("streaming_packets_sent{stream=\"/cam.ts\"} 0\n"), "{exposition}");
    drop(readers);
    wait_until("their time counts", || {
        let text = api("/statistics").text();
        number(&text, "connections") == 0 && number(&text, "total_stream_time_ns") > 0
    });
}

/// Goal: `?offline` sends readers away and refuses new ones until `?online`, also when the upstream comes
/// again in between.
#[test]
fn a_stream_can_be_switched_off() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = pulling(&upstream, "");
    pump(upstream.accept().unwrap().0);
    wait_until("it is live", || {
        let mut client = Client::connect(server.address);
        client.get("/cam.ts", "").status == 200
    });
    let mut reading = reader(&server);
    ask(server.address, "POST", "/control?offline", "Content-Length: 0\r\n")
        .assert_body(202, b"202 accepted");
    assert!(loop {
        match reading.chunk() {
            crate::client::Chunk::Data(_) => {}
            end => break end == crate::client::Chunk::Last,
        }
    });
    assert_eq!(get(server.address, "/cam.ts").status, 404);
    assert_eq!(get(server.address, "/check").status, 200, "its upstream is there");
    assert_eq!(get(server.address, "/control").status, 400);
    get(server.address, "/control?online").assert_body(202, b"202 accepted");
    reader(&server);
    assert_eq!(get(server.address, "/control?offline&online").status, 202);
    assert_eq!(get(server.address, "/cam.ts").status, 404, "both: off");
}

/// The head of the next request, which is answered if there is an answer.
fn request(hook: &TcpListener, answer: &str) -> (String, TcpStream) {
    let mut connection = hook.accept().unwrap().0;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(connection.read(&mut byte).unwrap(), 1);
        head.push(byte[0]);
    }
    connection.write_all(answer.as_bytes()).unwrap();
    (String::from_utf8(head).unwrap(), connection)
}

/// Goal: who wants to know is told, with credentials; a target that never answers stops neither readers
/// nor other targets.
#[test]
fn events_are_told() {
    const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let (hook, hanging) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (told, never) = (hook.local_addr().unwrap(), hanging.local_addr().unwrap());
    let more = format!(
        "[users]\nalice = \"secret\"\n[viewers]\nfull = 1\nheartbeat_interval_s = 3600\n\
         [[notification]]\nevent = \"limit_hit\"\nurl = \"http://{never}/\"\n\
         [[notification]]\nevent = \"limit_hit\"\nurl = \"http://{told}/hit?x=1\"\n\
         user = \"alice\"\nscheme = \"basic\"\n\
         [[notification]]\nevent = \"limit_miss\"\nurl = \"http://{told}/miss\"\n\
         user = \"alice\"\nscheme = \"bearer\"\n\
         [[notification]]\nevent = \"heartbeat\"\nurl = \"http://{told}/alive\""
    );
    let server = pulling(&upstream, &more);
    let (head, _) = request(&hook, OK);
    assert!(head.starts_with("GET /alive HTTP/1.1\r\n"), "{head}");
    pump(upstream.accept().unwrap().0);
    let mut found = None;
    wait_until("it is live", || {
        let mut client = Client::connect(server.address);
        found = (client.get("/cam.ts", "").status == 200).then_some(client);
        found.is_some()
    });
    let (head, _) = request(&hook, OK);
    assert!(head.starts_with("GET /hit?x=1 HTTP/1.1\r\n"), "{head}");
    assert!(
        head.to_ascii_lowercase().contains("authorization: basic ywxpy2u6c2vjcmv0\r\n"),
        "{head}"
    );
    let (_, _kept_waiting) = request(&hanging, "");
    drop(found);
    let (head, _) = request(&hook, OK);
    assert!(head.starts_with("GET /miss HTTP/1.1\r\n"), "{head}");
    assert!(head.to_ascii_lowercase().contains("authorization: bearer secret\r\n"), "{head}");
    drop(reader(&server));
}

/// Goal: heartbeats go on, also while those of somebody else are never answered.
#[test]
fn heartbeats_go_on() {
    let upstream = TcpListener::bind("127.0.0.1:0").unwrap();
    let (hook, hanging) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let target = |listener: &TcpListener| {
        let address = listener.local_addr().unwrap();
        format!("[[notification]]\nevent = \"heartbeat\"\nurl = \"http://{address}/alive\"\n")
    };
    let targets = target(&hanging) + &target(&hook);
    let _server = pulling(&upstream, &format!("[viewers]\nheartbeat_interval_s = 1\n{targets}"));
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let (head, _) = request(&hook, "HTTP/1.1 204 No Content\r\n\r\n");
        assert!(head.starts_with("GET /alive HTTP/1.1\r\n"), "{head}");
        waiting.push(hanging.accept().unwrap());
    }
}
