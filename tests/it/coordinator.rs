//! The coordinator as a program: control sockets byte by byte, web-hooks, commands, and what
//! outlives a restart.

use rustix::process::Signal;

use crate::coordinator_kit::{
    COMMANDS, COMMANDS_LINE, HookServer, Peer, Program, about, field, http, token,
};
use crate::server::{Setup, headwater, wait_until};

const SERVER_SUBJECT: &str = "{\"sub\":\"wss-control\"}";

fn status_and_body(answer: &str) -> (&str, &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split("\r\n").next().unwrap(), body)
}

#[test]
fn pages_are_those_of_the_original() {
    let program = Program::start("secret = \"s\"");
    let socket = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: abc\r\n";
    let greeting = "Coordinator streaming server - Version 1.0.0";
    let cases = [
        ("GET /", "", "HTTP/1.1 200 OK", greeting),
        ("GET /x", "", "HTTP/1.1 404 Not Found", "Not found."),
        ("GET /commands/close", "", "HTTP/1.1 404 Not Found", "Not found."),
        ("GET /ws/control/other", socket, "HTTP/1.1 404 Not Found", "Not found."),
        ("GET /ws/control/wss", socket, "HTTP/1.1 403 Forbidden", "Invalid authentication token."),
    ];
    for (request, lines, status, body) in cases {
        assert_eq!(status_and_body(&program.http(request, lines)), (status, body), "{request}");
    }
    let open = Program::start("");
    let answer = open.http("GET /ws/control/wss", "");
    assert_eq!(status_and_body(&answer), ("HTTP/1.1 400 Bad Request", "Bad Request"));
    assert!(answer.to_lowercase().contains("\r\nsec-websocket-version: 13\r\n"), "{answer}");
}

#[test]
fn tokens_of_all_hmac_algorithms_are_good_and_others_are_not() {
    let program = Program::start("secret = \"s3cret\"");
    let sockets = [("wss", "wss-control"), ("rtmp", "rtmp-control"), ("hls", "hls-control")];
    let connect = |socket: &str, token: &str| {
        let path = format!("/ws/control/{socket}");
        Peer::connect(program.address, &path, &[("x-control-auth-token", token)])
    };
    for (socket, subject) in sockets {
        for alg in ["HS256", "HS384", "HS512"] {
            let token = token(alg, &format!("{{\"sub\":\"{subject}\"}}"), "s3cret");
            assert!(connect(socket, &token).is_ok(), "{socket} {alg}");
        }
    }
    let wrong = [
        token("HS256", SERVER_SUBJECT, "secret"),
        token("HS256", "{\"sub\":\"hls-control\"}", "s3cret"),
        token("HS256", "{}", "s3cret"),
        token("HS256", "{\"sub\":\"wss-control\",\"exp\":1}", "s3cret"),
        token("none", SERVER_SUBJECT, "s3cret"),
        String::new(),
        "a.b.c".to_owned(),
    ];
    for token in wrong {
        let refused = connect("wss", &token).err().unwrap_or_else(|| panic!("{token}"));
        assert_eq!(refused, (403, "Invalid authentication token.".to_owned()));
    }
}

/// Goal: two servers share encoders by load, all bytes are as described, and load comes back.
#[test]
fn streams_are_shared_by_load_and_load_is_released() {
    let program = Program::start(COMMANDS);
    let mut first = Peer::server(&program, "8081");
    let fields = [("x-external-ip", "2001:db8::1"), ("x-ssl-use", "true")];
    let mut second = Peer::connect(program.address, "/ws/control/rtmp", &fields).unwrap();
    let mut small = Peer::encoder(&program, 1);
    let wait_for_encoders = |count: usize| {
        let wanted = format!("\"encoderCount\":{count}}}");
        wait_until(&wanted, || program.shows("capacity").ends_with(&wanted));
    };
    wait_for_encoders(1);
    let a = first.publish(0, "a");
    assert_eq!(
        small.hear(),
        format!(
            "ENCODE-START\nStream-Channel:a\nStream-ID:{a}\nStream-Source-Type:WS\n\
             Stream-Source-URI:ws://192.0.2.1:8081/a/key\nResolutions:ORIGINAL\nRecord:False\n\
             Previews:False\n"
        )
    );
    let mut large = Peer::encoder(&program, -1);
    wait_for_encoders(2);
    let b = second.publish(0, "b");
    let start = large.hear();
    let source = "Stream-Source-Type:RTMP\nStream-Source-URI:rtmps://[2001:db8::1]:1935/b/key\n";
    assert!(start.contains(source), "{start}");
    assert_eq!(program.shows("capacity"), r#"{"load":2,"capacity":-1,"encoderCount":2}"#);
    assert_eq!(
        program.shows("report"),
        format!(
            "{{\"streamingServers\":[{{\"id\":1,\"ip\":\"192.0.2.1\",\"port\":8081,\"ssl\":false,\
             \"serverType\":\"WS\"}},{{\"id\":2,\"ip\":\"2001:db8::1\",\"port\":1935,\"ssl\":true,\
             \"serverType\":\"RTMP\"}}],\"encoders\":[{{\"id\":3,\"capacity\":1,\"load\":1}},\
             {{\"id\":4,\"capacity\":-1,\"load\":1}}],\"activeStreams\":[{{\"channel\":\"a\",\
             \"streamId\":\"{a}\",\"streamServer\":1,\"encoder\":3}},{{\"channel\":\"b\",\
             \"streamId\":\"{b}\",\"streamServer\":2,\"encoder\":4}}]}}"
        )
    );
    second.request(1, "a", "key", "");
    second.hear_deny(1, "a");
    first.tell("PUBLISH-END", "a", &a);
    assert_eq!(small.hear(), about("ENCODE-STOP", "a", &a));
    let c = second.publish(2, "c");
    assert!(small.hear().contains(&c), "the small one is free again, and less loaded");
}

/// Goal: without an encoder publishing goes on, unless one is required. Capacity 2 is 2 for ever.
#[test]
fn an_encoder_is_needed_only_if_required() {
    let open = Program::start("");
    Peer::server(&open, "1").publish(0, "a");
    let strict = Program::start(&format!("{COMMANDS}require_encoder = true"));
    let mut server = Peer::server(&strict, "1");
    server.request(0, "a", "key", "");
    server.hear_deny(0, "a");
    let mut encoder = Peer::encoder(&strict, 2);
    wait_until("the encoder", || strict.shows("capacity").contains("\"encoderCount\":1"));
    for round in 0..3 {
        let ids = [server.publish(1, "a"), server.publish(2, "b")];
        server.request(3, "c", "key", "");
        server.hear_deny(3, "c");
        for id in &ids {
            let start = encoder.hear();
            assert!(start.starts_with("ENCODE-START\n") && start.contains(id), "{start}");
        }
        for (channel, id) in ["a", "b"].into_iter().zip(ids) {
            match round {
                0 => server.tell("PUBLISH-END", channel, &id),
                // "*" is whatever is there.
                1 => server.tell("PUBLISH-END", channel, "*"),
                _ => {
                    encoder.tell("STREAM-CLOSED", channel, &id);
                    assert_eq!(server.hear(), about("STREAM-KILL", channel, &id));
                    server.tell("PUBLISH-END", channel, &id);
                    continue;
                }
            }
            assert_eq!(encoder.hear(), about("ENCODE-STOP", channel, &id));
        }
    }
    strict.wait_for_load(0);
}

#[test]
fn ids_that_are_none_are_denied() {
    let program = Program::start("id_length_max = 4");
    let mut server = Peer::server(&program, "1");
    for (id, channel, key) in [(0, "", "k"), (1, "abcde", "k"), (2, "a.b", "k"), (3, "a", "")] {
        server.request(id, channel, key, "");
        server.hear_deny(id, channel);
    }
    server.request(4, "a-_Z", "9", "");
    server.hear_accept(4, "a-_Z");
}

#[test]
fn an_encoder_that_disconnects_kills_its_publishers() {
    let program = Program::start(COMMANDS);
    let mut server = Peer::server(&program, "1");
    let mut encoder = Peer::encoder(&program, -1);
    wait_until("the encoder", || program.shows("capacity").contains("\"encoderCount\":1"));
    let id = server.publish(0, "a");
    assert!(encoder.hear().starts_with("ENCODE-START\n"));
    encoder.leave();
    assert_eq!(server.hear(), about("STREAM-KILL", "a", &id));
    assert_eq!(program.shows("capacity"), r#"{"load":0,"capacity":0,"encoderCount":0}"#);
}

/// Goal: right, wrong, failing and hanging: only 200 is "yes", and a hanging check is one's own.
#[test]
fn keys_are_verified_by_the_hook() {
    let hook = HookServer::start(|_, head| match field(head, "x-streaming-key") {
        "right" => Some(
            "200 OK\r\nX-Record: true\r\nX-Previews: 256x144, 3\r\nX-Resolutions: 640x360-30~800, original",
        ),
        "wrong" => Some("403 Forbidden"),
        "moved" => Some("302 Found\r\nLocation: /right"),
        "broken" => Some("500 Internal Server Error"),
        "hanging" => None,
        key => panic!("{key}"),
    });
    let auth = "{ type = \"basic\", user = \"u\", password = \"p\" }";
    let program = Program::start(&format!(
        "{COMMANDS}hook_timeout_s = 2\nkey_verification = {{ url = \"{}\", auth = {auth} }}",
        hook.url
    ));
    let mut server = Peer::server(&program, "1");
    let mut encoder = Peer::encoder(&program, -1);
    wait_until("the encoder", || program.shows("capacity").contains("\"encoderCount\":1"));
    server.request(0, "h", "hanging", "");
    hook.wait_for(1);
    server.request(1, "a", "right", "");
    server.hear_accept(1, "a");
    let start = encoder.hear();
    let settings = "Resolutions:ORIGINAL,640x360-30~800\nRecord:True\nPreviews:256x144,3\n";
    assert!(start.ends_with(settings), "{start}");
    for (id, key) in [(2, "wrong"), (3, "moved"), (4, "broken")] {
        server.request(id, "b", key, "");
        server.hear_deny(id, "b");
    }
    server.hear_deny(0, "h");
    let heads = hook.heads();
    assert!(heads[1].starts_with("POST /hook?a=b HTTP/1.1\n"), "{}", heads[1]);
    let wanted = [
        ("x-streaming-channel", "a"),
        ("x-streaming-key", "right"),
        ("x-user-ip", "198.51.100.9"),
        ("authorization", "Basic dTpw"),
        ("content-length", "0"),
    ];
    for (name, value) in wanted {
        assert_eq!(field(&heads[1], name), value, "{}", heads[1]);
    }
}

#[test]
fn a_hook_that_is_not_there_denies() {
    let program = Program::start("key_verification = { url = \"http://127.0.0.1:1/\" }");
    let mut server = Peer::server(&program, "1");
    server.request(0, "a", "k", "");
    server.hear_deny(0, "a");
}

/// Goal: events come in order, each again until 200, with the credentials and fields described.
#[test]
fn events_are_repeated_until_they_are_taken() {
    let hook = HookServer::start(|index, _| match index {
        0 => Some("500 Internal Server Error"),
        1 => Some("201 Created"),
        _ => Some("200 OK"),
    });
    let auth = "{ type = \"custom\", value = \"Key abc\" }";
    let program = Program::start(&format!(
        "{COMMANDS}event_retry_s = 1\nevent_callback = {{ url = \"{}\", auth = {auth} }}",
        hook.url
    ));
    let mut server = Peer::server(&program, "1");
    let mut encoder = Peer::encoder(&program, -1);
    wait_until("the encoder", || program.shows("capacity").contains("\"encoderCount\":1"));
    let id = server.publish(0, "a");
    encoder.hear();
    let live = about("STREAM-AVAILABLE", "a", &id);
    encoder.say(&format!(
        "{live}Stream-Type:HLS-LIVE\nResolution:640x360-30\nStart-Time:12\nIndex-file:/a/live.m3u8\n"
    ));
    server.tell("PUBLISH-END", "a", &id);
    assert_eq!(encoder.hear(), about("ENCODE-STOP", "a", &id));
    encoder.say(&format!("{live}Stream-Type:HLS-VOD\nIndex-file:/a/vod.m3u8\n"));
    encoder.tell("STREAM-CLOSED", "a", &id);
    let heads = hook.wait_for(5);
    let fields = ["x-event-type", "x-stream-type", "x-resolution", "x-index-file", "x-start-time"];
    let live = ["stream-available", "HLS-LIVE", "640x360-30", "/a/live.m3u8", "12"];
    let film = ["stream-available", "HLS-VOD", "", "/a/vod.m3u8", ""];
    let closed = ["stream-closed", "", "", "", ""];
    for (head, wanted) in heads.iter().zip([live, live, live, film, closed]) {
        assert_eq!(fields.map(|name| field(head, name)), wanted, "{head}");
        assert!(head.starts_with("POST /hook?a=b HTTP/1.1\n"));
        assert_eq!(field(head, "x-streaming-channel"), "a");
        assert_eq!(field(head, "x-streaming-id"), id);
        assert_eq!(field(head, "authorization"), "Key abc");
    }
    wait_until("nothing is left to tell", || {
        let state = std::fs::read_to_string(program.state_file()).unwrap();
        state.contains("\"events\": []") && state.contains("\"endings\": []")
    });
    assert_eq!(hook.heads().len(), 5);
}

#[test]
fn commands_answer_as_described() {
    let program =
        Program::start("commands_auth = { type = \"basic\", user = \"u\", password = \"p\" }");
    let good = "Authorization: basic dTpw\r\n";
    let refused = ("HTTP/1.1 401 Unauthorized", "Invalid authorization header.");
    for request in ["POST /commands/close", "GET /commands/capacity", "GET /commands/report"] {
        for wrong in ["", "Authorization: Basic dTpx\r\n", "Authorization: Bearer dTpw\r\n"] {
            assert_eq!(status_and_body(&program.http(request, wrong)), refused, "{request}");
        }
    }
    let answer = program.http("GET /commands/capacity", good);
    let body = "{\"load\":0,\"capacity\":0,\"encoderCount\":0}";
    assert_eq!(status_and_body(&answer), ("HTTP/1.1 200 OK", body));
    let head = answer.to_lowercase();
    for line in ["cache-control: no-cache", "content-type: application/json"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{head}");
    }
    let answer = program.http("GET /commands/report", good);
    let body = "{\"streamingServers\":[],\"encoders\":[],\"activeStreams\":[]}";
    assert_eq!(status_and_body(&answer), ("HTTP/1.1 200 OK", body));
    let success = ("HTTP/1.1 200 OK", "SUCCESS");
    let close = |lines: &str| {
        let answer = program.http("POST /commands/close", &format!("{good}{lines}"));
        assert_eq!(status_and_body(&answer), success);
    };
    let mut server = Peer::server(&program, "1");
    let id = server.publish(0, "a");
    close("");
    close("x-streaming-channel: other\r\nx-streaming-id: *\r\n");
    close("x-streaming-channel: a\r\nx-streaming-id: 00\r\n");
    server.hears_nothing();
    close("x-streaming-channel: a\r\nx-streaming-id: *\r\n");
    assert_eq!(server.hear(), about("STREAM-KILL", "a", &id));
    let unset = Program::start("");
    for lines in ["", good, COMMANDS_LINE, "Authorization: \r\n"] {
        assert_eq!(status_and_body(&unset.http("GET /commands/report", lines)), refused);
    }
}

/// Goal: after an orderly end and after a crash streams keep their ids and encoders.
#[test]
fn streams_outlive_a_restart() {
    for is_orderly in [true, false] {
        let mut program = Program::start(COMMANDS);
        let mut server = Peer::server(&program, "1");
        let mut encoder = Peer::encoder(&program, 5);
        wait_until("the encoder", || program.shows("capacity").contains("\"encoderCount\":1"));
        let ids = [server.publish(0, "a"), server.publish(1, "b")];
        encoder.hear();
        encoder.hear();
        if is_orderly {
            assert!(program.terminate().success());
            let frame = server.hear_any().unwrap_err().expect("a close frame");
            assert_eq!(u16::from(frame.code), 1001, "{frame:?}");
        } else {
            program.kill();
        }
        drop((server, encoder));
        let program = program.again();
        let mut server = Peer::server(&program, "1");
        server.request(0, "a", "key", &ids[0]);
        assert_eq!(server.hear_accept(0, "a"), ids[0]);
        let mut encoder = Peer::encoder(&program, 5);
        program.wait_for_load(2);
        server.request(1, "b", "key", &ids[1]);
        assert_eq!(server.hear_accept(1, "b"), ids[1]);
        // It may have ended what it did.
        for (channel, id) in ["a", "b"].iter().zip(&ids) {
            let start = encoder.hear();
            let about = about("ENCODE-START", channel, id);
            assert!(start.starts_with(&about) && start.contains("192.0.2.1:1"), "{start}");
        }
        server.tell("PUBLISH-END", "a", &ids[0]);
        assert_eq!(encoder.hear(), about("ENCODE-STOP", "a", &ids[0]));
        program.wait_for_load(1);
    }
}

/// Goal: what nobody comes back for is told as closed, and its channel is free.
#[test]
fn what_does_not_come_back_after_a_restart_is_closed() {
    let hook = HookServer::start(|_, _| Some("200 OK"));
    let mut program = Program::start(&format!(
        "{COMMANDS}reconnect_grace_s = 1\nevent_callback = {{ url = \"{}\" }}",
        hook.url
    ));
    let mut server = Peer::server(&program, "1");
    let mut encoder = Peer::encoder(&program, -1);
    wait_until("the encoder", || program.shows("capacity").contains("\"encoderCount\":1"));
    let id = server.publish(0, "a");
    server.publish(1, "never-announced");
    encoder.say(&format!("{}Stream-Type:HLS-LIVE\n", about("STREAM-AVAILABLE", "a", &id)));
    hook.wait_for(1);
    wait_until("it was taken", || {
        let state = std::fs::read_to_string(program.state_file()).unwrap();
        state.contains("\"events\": []") && state.contains("\"is_announced\": true")
    });
    program.kill();
    let program = program.again();
    let heads = hook.wait_for(2);
    let told = ["x-event-type", "x-streaming-channel", "x-streaming-id"];
    assert_eq!(told.map(|name| field(&heads[1], name)), ["stream-closed", "a", &id]);
    wait_until("nothing is active", || program.shows("report").ends_with("\"activeStreams\":[]}"));
    assert_ne!(Peer::server(&program, "2").publish(0, "a"), id);
    assert_eq!(hook.heads().len(), 2);
}

#[test]
fn a_state_file_of_nonsense_does_not_stop_it() {
    let mut program = Program::start("");
    program.kill();
    std::fs::write(program.state_file(), "{\"version\":").unwrap();
    let program = program.again();
    Peer::server(&program, "1").publish(0, "a");
    assert!(program.state_file().with_extension("json.broken").exists());
}

/// Goal: a server that lost its connection finds its streams; one that stays away loses them.
#[test]
fn a_server_that_reconnects_keeps_its_publishers() {
    let program = Program::start(&format!("{COMMANDS}reconnect_grace_s = 2"));
    let mut server = Peer::server(&program, "1");
    let mut encoder = Peer::encoder(&program, -1);
    wait_until("the encoder", || program.shows("capacity").contains("\"encoderCount\":1"));
    let ids = [server.publish(0, "a"), server.publish(1, "b")];
    encoder.hear();
    encoder.hear();
    drop(server);
    let mut server = Peer::server(&program, "1");
    server.request(0, "a", "key", &ids[0]);
    assert_eq!(server.hear_accept(0, "a"), ids[0]);
    assert_eq!(encoder.hear(), about("ENCODE-STOP", "b", &ids[1]), "b did not come back");
    let report = program.shows("report");
    assert!(report.contains(&ids[0]) && !report.contains(&ids[1]), "{report}");
    server.request(1, "b", "key", &ids[1]);
    assert_ne!(server.hear_accept(1, "b"), ids[1], "too late: another stream");
}

/// Goal: heartbeats come, who is silent is closed with a frame, who talks is not.
#[test]
fn silence_closes_a_control_connection() {
    let program =
        Program::start(&format!("{COMMANDS}heartbeat_interval_s = 1\nsilence_timeout_s = 3"));
    let mut silent = Peer::server(&program, "1");
    let mut talking = Peer::server(&program, "2");
    let mut heartbeats = 0;
    let frame = loop {
        match silent.hear_any() {
            Ok(text) => {
                assert_eq!(text, "HEARTBEAT\n");
                heartbeats += 1;
                talking.say("HEARTBEAT\n");
            }
            Err(frame) => break frame.expect("a close frame"),
        }
    };
    assert!(heartbeats >= 1);
    assert!(!frame.reason.is_empty(), "{frame:?}");
    wait_until("one is left", || {
        let report = program.shows("report");
        report.contains("\"port\":2") && !report.contains("\"port\":1,")
    });
    talking.publish(0, "a");
}

#[test]
fn nonsense_on_a_control_socket_harms_nobody() {
    let program = Program::start(COMMANDS);
    let mut server = Peer::server(&program, "1");
    for text in
        ["", "\n", "UNKNOWN\na:b\n", "ERROR\nError-Code:E\nError-Message:m\n", "PUBLISH-END\n"]
    {
        server.say(text);
    }
    server.say("publish-request\nREQUEST-id : 5 \nstream-channel: a\nstream-key:k\n");
    server.hear_accept(5, "a");
    let mut other = Peer::server(&program, "2");
    other.say(&"x".repeat(70_000));
    assert!(other.hear_any().unwrap_err().is_some(), "closed with a frame");
    server.publish(6, "b");
    wait_until("the log has the error", || program.log().contains("code=\"E\""));
}

/// Goal: the same role inside `serve`, with its line, ending with it.
#[test]
fn serve_is_a_coordinator_too() {
    let mut server = Setup::new()
        .table("[coordinator]\nlisten = [\"127.0.0.1:0\"]\nstate_file = \"./state.json\"")
        .start();
    let line = server.next_line();
    let address = line.strip_prefix("coordinator on http://").unwrap().parse().unwrap();
    let answer = http(address, "GET /", "");
    assert!(answer.ends_with("\r\n\r\nCoordinator streaming server - Version 1.0.0"), "{answer}");
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}

#[test]
fn a_start_that_cannot_be_says_why() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = tempfile::tempdir().unwrap();
    let state = format!("coordinator.state_file={}", dir.path().join("s.json").display());
    let ended = headwater(&["coordinator", "--listen", &address, "--set", &state]);
    assert!(!ended.status.success() && ended.stderr.contains(&address), "{}", ended.stderr);
    let state = "coordinator.state_file=/nonexistent/s.json";
    let ended = headwater(&["coordinator", "--listen", "127.0.0.1:0", "--set", state]);
    assert!(!ended.status.success(), "{}", ended.stderr);
    assert!(ended.stderr.contains("/nonexistent/s.json"), "{}", ended.stderr);
}
