//! What is special below a live prefix whatever is pushed there: probes, DELETE, queries, the clock.
//! What the packager makes of media is not here.

use crate::client::{Client, Upload, ask, get, put, put_with};
use crate::server::{Server, Setup};

/// Goal: an encoder that asks with an empty body (DASH-IF Live Media Ingest) gets 200, and nothing
/// is made or replaced. Method: both framings, in one piece and in two; the same elsewhere is an
/// object.
#[test]
fn an_empty_upload_below_a_live_prefix_is_a_probe() {
    let server = Server::start();
    let address = server.address;
    put(address, "/live/cam/kept.json", b"kept");
    for target in ["/live/cam/new.cmfv", "/live/cam/kept.json", "/live/cam/"] {
        assert_eq!(put_with(address, target, "", b"").status, 200, "{target}");
    }
    let chunked = "Host: it\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut client = Client::connect(address);
    client.send(format!("POST /live/cam/kept.json HTTP/1.1\r\n{chunked}0\r\n\r\n"));
    assert_eq!(client.answer_to("POST").status, 200);
    get(address, "/live/cam/kept.json").assert_body(200, b"kept");
    let mut upload = Upload::begin(address, "/live/cam/slow.cmfv", "");
    assert_eq!(upload.seal().status, 200);
    for target in ["/live/cam/new.cmfv", "/live/cam/slow.cmfv"] {
        assert_eq!(get(address, target).status, 404, "{target}");
    }
    assert_eq!(put(address, "/other/empty", b"").status, 201);
    get(address, "/other/empty").assert_body(200, b"");
}

/// Goal: DELETE is 200 where DASH-IF wants it, and 204 elsewhere.
#[test]
fn delete_is_200_below_a_live_prefix() {
    let server = Server::start();
    for (target, status) in [("/live/a.json", 200), ("/other/a.json", 204)] {
        put(server.address, target, b"a");
        assert_eq!(ask(server.address, "DELETE", target, "").status, status, "{target}");
        assert_eq!(ask(server.address, "DELETE", target, "").status, 404, "{target}");
    }
}

/// Goal: `compat.query_in_name` does not reach below a live prefix, where queries mean something.
#[test]
fn a_query_is_no_name_below_a_live_prefix() {
    let server = Setup::new().key("compat.query_in_name", "true").start();
    for (target, other) in [("/live/a.json?x=1", 200), ("/other/a.json?x=1", 404)] {
        put(server.address, target, b"a");
        let plain = target.split('?').next().unwrap();
        assert_eq!(get(server.address, plain).status, other, "{target}");
    }
}

/// Goal: the time, for players that set their clock. Method: root and publishing points; an object
/// of that name comes first; no such name elsewhere, or with `live = []` below the default prefix.
#[test]
fn the_time_is_told() {
    let server = Server::start();
    for target in ["/time", "/live/cam/time", "/live/a/b/time?x"] {
        let answer = get(server.address, target);
        assert_eq!(answer.status, 200, "{target}");
        assert_eq!(answer.field("cache-control"), Some("no-store"));
        let text = answer.text();
        let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        assert_eq!(form, "0000-00-00T00:00:00.000Z", "{text}");
    }
    for target in ["/live/time", "/other/time", "/live/cam/time/"] {
        assert_eq!(get(server.address, target).status, 404, "{target}");
    }
    put(server.address, "/live/cam/time", b"mine");
    get(server.address, "/live/cam/time").assert_body(200, b"mine");
    let without = Setup::new().key("live", "[]").start();
    assert_eq!(get(without.address, "/live/cam/time").status, 404);
    assert_eq!(put(without.address, "/live/cam/empty", b"").status, 201);
}

/// Goal: players' reports (CMCD) are lines of the log, in number limited. Method: twenty requests with
/// a limit of two; what breaks lines must not.
#[test]
fn reports_of_players_are_logged() {
    let server = Setup::new().key("limits.cmcd_lines_per_s_max", "2").cores(1).start();
    put(server.address, "/live/cam/a.json", b"a");
    let mut client = Client::connect(server.address);
    for _ in 0..20 {
        let target = "/live/cam/a.json?CMCD=bl%3D100%2Csid%3D%22x%0Ay%22";
        assert_eq!(client.ask("GET", target, "").status, 200);
    }
    let metrics = get(server.admin, "/metrics").text();
    let line = metrics.lines().find(|line| line.contains("cmcd_lines_dropped_total "));
    let dropped: u32 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((10..=18).contains(&dropped), "{dropped} of 20 dropped");
    crate::server::wait_until("the log has it", || {
        server.log().contains(r#"object="live/cam/a.json" report="bl=100,sid=\"x\ny\"""#)
    });
}
