//! `[[static]]`: one file from elsewhere, fetched when it is asked for.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::client::{Client, ask, get, noise, put_with};
use crate::server::{Setup, wait_until};
use crate::upstream_kit::{Gate, Upstream, chunk, counter, ok, section, serving, until_counted};

/// Goal: what restreamer cut at 4 KB is whole, however it comes, with all that a file has.
#[test]
fn a_resource_is_whole_with_tag_and_ranges() {
    let body = noise(1, 300_000);
    let (sized, pieces) =
        (ok("Content-Type: image/x-odd\r\nSet-Cookie: a=b\r\n", &body), body.clone());
    let upstream = Upstream::start(move |seen, stream| match seen.target.as_str() {
        "/sized" => stream.write_all(&sized).is_ok(),
        "/chunked" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
            pieces.chunks(1000).for_each(|piece| stream.write_all(&chunk(piece)).unwrap());
            stream.write_all(b"0\r\n\r\n").is_ok()
        }
        _ => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").unwrap();
            pieces.chunks(999).for_each(|piece| stream.write_all(piece).unwrap());
            false
        }
    });
    let sections = ["sized", "chunked", "endless"].map(|name| {
        section(
            "static",
            &format!("/{name}.png"),
            &upstream.url(&format!("/{name}")),
            "cache_s = 600",
        )
    });
    let server = serving(&sections.concat());
    let mut tags = Vec::new();
    for name in ["sized", "chunked", "endless"] {
        let path = format!("/{name}.png");
        let whole = get(server.address, &path);
        whole.assert_body(200, &body);
        assert_eq!(whole.needed("content-length"), "300000");
        assert_eq!(whole.needed("cache-control"), "max-age=600");
        assert!(whole.field("set-cookie").is_none());
        let tag = whole.needed("etag").to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{tag}");
        let same = ask(server.address, "GET", &path, &format!("If-None-Match: {tag}\r\n"));
        same.assert_body(304, b"");
        let head = ask(server.address, "HEAD", &path, "");
        assert_eq!((head.status, head.needed("content-length")), (200, "300000"));
        let part = ask(server.address, "GET", &path, "Range: bytes=1000-1999\r\n");
        part.assert_body(206, &body[1000..2000]);
        tags.push(tag);
    }
    assert!(tags.iter().all(|tag| *tag == tags[0]), "made of the content");
    assert_eq!(get(server.address, "/sized.png").needed("content-type"), "image/x-odd");
    assert_eq!(upstream.seen().len(), 3, "each once");
    let seen = &upstream.seen()[0];
    assert_eq!(seen.field("via"), Some("1.1 headwater"));
    assert_eq!(seen.field("host"), Some(&*upstream.address.to_string()));
    assert!(seen.field("user-agent").is_some_and(|agent| agent.starts_with("headwater/")));
}

/// Goal: bytes come with what says how to read them.
#[test]
fn a_coding_is_told() {
    let lines = "Content-Type: text/css\r\nContent-Encoding: gzip\r\nContent-Language: de\r\n\
        X-Odd: 1\r\n";
    let upstream = Upstream::saying(ok(lines, b"\x1f\x8b..."));
    let server = serving(&section("static", "/a.css", &upstream.url("/a"), ""));
    let answer = get(server.address, "/a.css");
    answer.assert_body(200, b"\x1f\x8b...");
    assert_eq!(answer.needed("content-type"), "text/css");
    assert_eq!(answer.needed("content-encoding"), "gzip");
    assert_eq!(answer.needed("content-language"), "de");
    assert!(answer.field("x-odd").is_none());
}

/// Goal: a crowd is one request. Method: the upstream answers when all 200 wait.
#[test]
fn all_who_wait_share_one_request() {
    let gate = Gate::default();
    let held = gate.clone();
    let upstream = Upstream::start(move |_, stream| {
        held.wait();
        stream.write_all(&ok("", b"once")).is_ok()
    });
    // Kept for no time at all: still one request for all of them.
    let server = serving(&section("static", "/a", &upstream.url("/a"), "timeout_s = 60"));
    let mut clients: Vec<_> = (0..200).map(|_| Client::connect(server.address)).collect();
    clients.iter_mut().for_each(|client| client.request("GET", "/a", ""));
    until_counted(&server, "fetches_collapsed", 199);
    gate.open();
    clients.iter_mut().for_each(|client| client.answer().assert_body(200, b"once"));
    assert_eq!(upstream.count("/a"), 1);
    get(server.address, "/a").assert_body(200, b"once");
    assert_eq!(upstream.count("/a"), 2, "cache_s = 0: again for the next one");
    assert_eq!(counter(&server, "fetches"), 2);
}

/// Goal: after cache_s seconds it is asked for again, with the upstream's own tag, and a new version is
/// seen.
#[test]
fn an_old_copy_is_confirmed_or_replaced() {
    let version = Arc::new(AtomicUsize::new(1));
    let present = version.clone();
    let upstream = Upstream::start(move |seen, stream| {
        let tag = format!("\"v{}\"", present.load(Ordering::SeqCst));
        let is_same = seen.field("if-none-match") == Some(&*tag);
        let answer = match is_same {
            true => b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec(),
            false => ok(&format!("ETag: {tag}\r\n"), tag.as_bytes()),
        };
        stream.write_all(&answer).is_ok()
    });
    let server = serving(&section("static", "/a", &upstream.url("/a"), "cache_s = 1"));
    get(server.address, "/a").assert_body(200, b"\"v1\"");
    wait_until("it is confirmed", || {
        get(server.address, "/a").assert_body(200, b"\"v1\"");
        counter(&server, "fetches_confirmed") > 0
    });
    version.store(2, Ordering::SeqCst);
    wait_until("the new one is there", || get(server.address, "/a").text() == "\"v2\"");
    assert!(upstream.seen()[0].field("if-none-match").is_none());
}

/// Goal: what is wrong with an upstream is 502 for that request alone, and the process lives.
#[test]
fn bad_upstreams_are_502() {
    let cut = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf").unwrap();
        false
    });
    let large = Upstream::saying(ok("", &[7; 2000]));
    let endless = Upstream::start(|_, stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        while stream.write_all(&chunk(&[7; 1000])).is_ok() {}
        false
    });
    let odd = Upstream::saying(*b"SSH-2.0-odd\r\n\r\n");
    let gone = Upstream::start(|_, _| false);
    let around =
        Upstream::saying(*b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n");
    let fat = Upstream::start(|_, stream| {
        let line = format!("X-A: {}\r\n", "x".repeat(1000));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
        for _ in 0..200 {
            let _ = stream.write_all(line.as_bytes());
        }
        false
    });
    let locked = Upstream::saying(*b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n");
    let unasked = Upstream::saying(*b"HTTP/1.1 304 Not Modified\r\n\r\n");
    let urls = [&cut, &large, &endless, &odd, &gone, &around, &fat, &locked, &unasked];
    let mut urls = urls.map(|upstream| upstream.url("/")).to_vec();
    urls.extend(["http://127.0.0.1:1/".to_owned(), "http://nowhere.invalid/".to_owned()]);
    urls.extend([format!("https://{}/", cut.address), "file:///etc".to_owned()]);
    let sections = urls.iter().enumerate().map(|(index, url)| {
        section("static", &format!("/{index}"), url, "bytes_max = 1500\ntimeout_s = 30")
    });
    let mut server = serving(&sections.collect::<String>());
    let mut client = Client::connect(server.address);
    for (index, url) in urls.iter().enumerate() {
        let answer = client.ask("GET", &format!("/{index}"), "");
        assert_eq!(answer.status, 502, "{url}: {answer:?} {}", answer.text());
        assert!(!answer.text().contains("127.0.0.1"), "{}", answer.text());
    }
    assert_eq!(around.count("/x"), 5, "redirects have an end");
    assert!(server.is_running());
    assert_eq!(put_with(server.address, "/other", "", b"x").status, 201);
    wait_until("it is said", || server.log().contains("an upstream fails"));
}

/// Goal: one that hangs is 502 when its time is over, and stops nobody else meanwhile.
#[test]
fn a_hanging_upstream_stops_nobody_else() {
    let gate = Gate::default();
    let held = gate.clone();
    let hanging = Upstream::start(move |seen, stream| {
        if seen.target == "/late" {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf").unwrap();
        }
        held.wait();
        false
    });
    let good = Upstream::saying(ok("", b"good"));
    let server = serving(
        &[
            section("static", "/slow", &hanging.url("/"), "timeout_s = 1"),
            section("static", "/late", &hanging.url("/late"), "timeout_s = 1"),
            section("static", "/hangs", &hanging.url("/"), "timeout_s = 600"),
            section("static", "/good", &good.url("/"), ""),
        ]
        .concat(),
    );
    let mut waiting: Vec<_> = (0..50).map(|_| Client::connect(server.address)).collect();
    waiting.iter_mut().for_each(|client| client.request("GET", "/hangs", ""));
    for _ in 0..20 {
        get(server.address, "/good").assert_body(200, b"good");
    }
    for path in ["/slow", "/late"] {
        let answer = get(server.address, path);
        assert_eq!(answer.status, 502, "{answer:?}");
    }
    assert!(
        waiting.iter_mut().all(|client| client.stays_silent(std::time::Duration::from_millis(1)))
    );
    // Nor does it keep the server from ending.
    let (status, _) = server.terminate();
    assert!(status.success(), "{status}");
}

/// Goal: while the upstream is down an older copy stands in, at once for all but the first.
#[test]
fn an_older_copy_stands_in_for_an_upstream_that_is_down() {
    let state = Arc::new(AtomicUsize::new(0));
    let present = state.clone();
    let upstream = Upstream::start(move |_, stream| match present.load(Ordering::SeqCst) {
        0 => stream.write_all(&ok("Content-Type: text/x\r\n", b"old")).is_ok(),
        1 => false,
        2 => {
            let answer = b"HTTP/1.1 500 Bad\r\nContent-Length: 3\r\n\r\nbad";
            stream.write_all(answer).is_ok()
        }
        _ => stream.write_all(&ok("", b"new")).is_ok(),
    });
    let server = serving(&section("static", "/a", &upstream.url("/"), ""));
    get(server.address, "/a").assert_body(200, b"old");
    for (number, counted) in [(1, 1), (2, 2)] {
        state.store(number, Ordering::SeqCst);
        wait_until("it is tried again", || {
            let answer = get(server.address, "/a");
            answer.assert_body(200, b"old");
            assert_eq!(answer.needed("content-type"), "text/x");
            counter(&server, "fetch_errors") >= counted
        });
    }
    assert!(counter(&server, "fetched_stale") > 0);
    state.store(3, Ordering::SeqCst);
    wait_until("it is back", || get(server.address, "/a").text() == "new");
    wait_until("it is said", || server.log().contains("an upstream answers again"));
    // Without an older copy its status is told.
    state.store(2, Ordering::SeqCst);
    let fresh = serving(&section("static", "/a", &upstream.url("/"), ""));
    get(fresh.address, "/a").assert_body(500, b"bad");
}

/// Goal: files of this machine: type by name, absence is 404 and kept, what is no file is 502.
#[test]
fn files_are_read() {
    let setup = Setup::new();
    let home = setup.home().to_owned();
    let url = |name: &str| format!("file://{}/{name}", home.display());
    let body = noise(2, 700_001);
    std::fs::write(home.join("a b.svg"), &body).unwrap();
    std::fs::write(home.join("empty.txt"), b"").unwrap();
    let (absent, long) = ("cache_s = 1", "bytes_max = 700000");
    let server = setup
        .table(&section("static", "/a", &url("a%20b.svg"), "cache_s = 1"))
        .table(&section("static", "/empty", &url("empty.txt"), ""))
        .table(&section("static", "/absent", &url("absent"), absent))
        .table(&section("static", "/long", &url("a%20b.svg"), long))
        .table(&section("static", "/folder", &url("data"), ""))
        .table(&section("static", "/all/", &url("empty.txt"), ""))
        .start();
    let answer = get(server.address, "/a");
    answer.assert_body(200, &body);
    assert_eq!(answer.needed("content-type"), "image/svg+xml");
    let empty = get(server.address, "/empty");
    empty.assert_body(200, b"");
    assert_eq!(empty.needed("content-length"), "0");
    assert_eq!(empty.needed("content-type"), "text/plain; charset=utf-8");
    ask(server.address, "HEAD", "/empty", "").assert_body(200, b"");
    let absent = get(server.address, "/absent");
    absent.assert_body(404, b"");
    assert_eq!(absent.needed("cache-control"), "max-age=1");
    assert_eq!(get(server.address, "/long").status, 502);
    assert_eq!(get(server.address, "/folder").status, 502);
    for path in ["/all/", "/all/x", "/all/x/y?z"] {
        assert_eq!(get(server.address, path).status, 200, "{path}");
    }
    assert_eq!(get(server.address, "/all").status, 404);
    std::fs::write(home.join("absent"), b"now").unwrap();
    wait_until("it is there", || get(server.address, "/absent").text() == "now");
    std::fs::write(home.join("a b.svg"), b"other").unwrap();
    wait_until("it has changed", || get(server.address, "/a").text() == "other");
}

/// Goal: a path of the configuration has nothing else; what is pushed to live prefixes is not hidden.
#[test]
fn a_static_path_is_nobody_elses() {
    let upstream = Upstream::saying(ok("", b"theirs"));
    let all = section("static", "/", &upstream.url("/all"), "");
    let server = serving(&all);
    get(server.address, "/").assert_body(200, b"theirs");
    get(server.address, "/x/y.txt").assert_body(200, b"theirs");
    let answer = put_with(server.address, "/x", "", b"mine");
    assert_eq!((answer.status, answer.needed("allow")), (405, "GET, HEAD, OPTIONS"));
    assert_eq!(ask(server.address, "DELETE", "/x", "").status, 405);
    assert_eq!(put_with(server.address, "/live/cam/x.txt", "", b"mine").status, 201);
    get(server.address, "/live/cam/x.txt").assert_body(200, b"mine");
}

/// Goal: users of the configuration and nobody else; the folder's rule does not close an open file in it.
#[test]
fn access_is_by_path() {
    let upstream = Upstream::saying(ok("", b"body"));
    let url = upstream.url("/");
    let users = "[users]\nalice = \"secret\"\nbob = \"t0ken\"\n";
    let basic = "access = { scheme = \"basic\", realm = \"R x\", users = [\"alice\"] }";
    let bearer = "access = { scheme = \"bearer\", users = [\"bob\"] }";
    let nobody = "access = { scheme = \"basic\", users = [] }";
    let server = serving(
        &[
            users.to_owned(),
            section("static", "/basic", &url, basic),
            section("static", "/bearer", &url, bearer),
            section("static", "/nobody", &url, nobody),
            section("mirror", "/m/", &url, basic),
            section("static", "/m/open", &url, ""),
        ]
        .concat(),
    );
    let ask = |path: &str, value: &str| {
        let field =
            if value.is_empty() { String::new() } else { format!("Authorization: {value}\r\n") };
        ask(server.address, "GET", path, &field)
    };
    let alice = "Basic YWxpY2U6c2VjcmV0";
    for path in ["/basic", "/m/x", "/m/", "//m//x", "/m/%78"] {
        let refused = ask(path, "");
        assert_eq!(refused.status, 401, "{path}");
        let wanted = "Basic realm=\"R x\", charset=\"UTF-8\"";
        assert_eq!(refused.needed("www-authenticate"), wanted);
        assert_eq!(refused.needed("cache-control"), "no-store");
        for wrong in ["Basic YWxpY2U6c2VjcmV1", "Bearer secret", "Basic", "Basic Ym9iOnQwa2Vu"] {
            assert_eq!(ask(path, wrong).status, 401, "{path} {wrong}");
        }
        ask(path, alice).assert_body(200, b"body");
    }
    for wrong in ["", "Bearer token", alice] {
        let refused = ask("/bearer", wrong);
        assert_eq!((refused.status, refused.field("www-authenticate")), (403, None));
    }
    ask("/bearer", "Bearer t0ken").assert_body(200, b"body");
    for wrong in ["", alice, "Basic Og=="] {
        assert_eq!(ask("/nobody", wrong).status, 401);
    }
    ask("/m/open", "").assert_body(200, b"body");
    // Refused before anything else is looked at, also with a body, and the connection stays.
    let mut client = Client::connect(server.address);
    client.send("PUT /m/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.answer().status, 401);
    assert_eq!(client.ask("GET", "/m/open", "").status, 200);
    assert!(upstream.seen().iter().all(|seen| seen.field("authorization").is_none()));
    assert!(counter(&server, "access_denied") > 10);
    let log = server.log();
    assert!(!log.contains("secret") && !log.contains("YWxp") && !log.contains("t0ken"), "{log}");
}

/// Goal: credentials of an upstream's URL go to it, not to where it redirects, and into no log.
#[test]
fn credentials_of_a_url_stay_with_their_server() {
    let other = Upstream::saying(ok("", b"there"));
    let there = other.url("/there");
    let upstream = Upstream::start(move |seen, stream| {
        let location = if seen.target == "/away" { &*there } else { "b" };
        let head =
            format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n");
        let answer = if seen.target == "/a/b" { ok("", b"here") } else { head.into_bytes() };
        stream.write_all(&answer).is_ok()
    });
    let with_user = |path: &str| upstream.url(path).replace("http://", "http://al:se%20cret@");
    let server = serving(
        &[
            section("static", "/near", &with_user("/a/a"), ""),
            section("static", "/away", &with_user("/away"), ""),
            section("static", "/down", "http://al:se%20cret@127.0.0.1:1/", ""),
        ]
        .concat(),
    );
    get(server.address, "/near").assert_body(200, b"here");
    get(server.address, "/away").assert_body(200, b"there");
    assert_eq!(get(server.address, "/down").status, 502);
    let wanted = Some("Basic YWw6c2UgY3JldA==");
    assert!(upstream.seen().iter().all(|seen| seen.field("authorization") == wanted));
    assert_eq!(other.seen()[0].field("authorization"), None);
    wait_until("the failure is said", || server.log().contains("an upstream fails"));
    assert!(!server.log().contains("cret"), "{}", server.log());
}
