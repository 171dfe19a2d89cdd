//! Streams that are pulled: every kind of upstream, and what readers see of its coming and going.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use crate::client::{Answer, Client, get};
use crate::hls_checker::{Plan, follow};
use crate::live_kit::{Encoder, until_text};
use crate::pull_kit::{
    PACKET, PICTURES, Reader, TS, Upstream, assert_decodes, assert_start, free_udp_port, pulling,
    pump, sample,
};
use crate::server::{HANG, Setup, wait_until};

#[test]
fn a_file_is_played_at_its_own_speed() {
    let setup = Setup::new();
    let path = sample(&setup, 4);
    let server = pulling(setup, &format!("\"file://{}\"", path.display()), "");
    let begun = Instant::now();
    let mut reader = Reader::open(server.address);
    let bytes = std::fs::metadata(&path).unwrap().len() as usize;
    let got = reader.packets(bytes / PACKET * 3 / 4).to_vec();
    assert!(begun.elapsed() > Duration::from_secs(1), "three quarters in {:?}", begun.elapsed());
    assert_start(&got);
    assert_decodes(&server, &got, 50);
    let mut client = Client::connect(server.address);
    let head = client.get("/cam.ts", "");
    assert_eq!((head.needed("content-type"), head.is_chunked()), ("video/mp2t", true));
    assert_eq!(head.needed("cache-control"), "no-store");
}

#[test]
fn a_fifo_and_a_command_are_upstreams() {
    let setup = Setup::new();
    let fifo = setup.home().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let server = pulling(setup, &format!("\"file://{}\"", fifo.display()), "");
    assert_eq!(get(server.address, "/cam.ts").status, 404, "nothing has come");
    pump(std::fs::OpenOptions::new().write(true).open(&fifo).unwrap(), bytes);
    assert_start(Reader::open(server.address).packets(500));

    let line = format!("-loglevel error {PICTURES} {TS} -").replace(' ', "+");
    let server = pulling(Setup::new(), &format!("\"fork://ffmpeg?{line}\""), "");
    let got = Reader::open(server.address).packets(500).to_vec();
    assert_start(&got);
    assert_decodes(&server, &got, 20);
}

#[test]
fn sockets_are_upstreams() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let path = setup.home().join("stream.sock");
    let unix = UnixListener::bind(&path).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let of_unix = bytes.clone();
    std::thread::spawn(move || pump(unix.accept().unwrap().0, of_unix));
    let of_tcp = bytes.clone();
    std::thread::spawn(move || pump(tcp.accept().unwrap().0, of_tcp));
    let server = pulling(setup, &format!("\"unix://{}\"", path.display()), "");
    assert_start(Reader::open(server.address).packets(500));
    let server = pulling(Setup::new(), &format!("\"tcp://{address}\""), "");
    assert_start(Reader::open(server.address).packets(500));
    let _ = UnixStream::connect(path);
}

/// Reads a request's head, and answers it.
fn answer_http(listener: &TcpListener, head: &str) -> (String, TcpStream) {
    let mut connection = listener.accept().unwrap().0;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        assert_eq!(connection.read(&mut byte).unwrap(), 1);
        request.push(byte[0]);
    }
    connection.write_all(head.as_bytes()).unwrap();
    (String::from_utf8(request).unwrap(), connection)
}

/// Goal: a body over HTTP is an upstream, also behind a redirect; an error's body is none.
#[test]
fn http_is_an_upstream() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let upstream = Upstream::new();
    let address = upstream.listener.local_addr().unwrap();
    let url = format!("\"http://alice:secret@{address}/first.ts\"");
    let server = pulling(setup, &url, "");
    let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 188\r\nConnection: close\r\n\r\n";
    let (request, mut connection) = answer_http(&upstream.listener, missing);
    assert!(request.starts_with("GET /first.ts HTTP/1.1\r\n"), "{request}");
    assert!(request.to_ascii_lowercase().contains("authorization: basic ywxp"), "{request}");
    let _ = connection.write_all(&[0x47; PACKET]);
    let elsewhere = "HTTP/1.1 302 Found\r\nLocation: /second.ts\r\nContent-Length: 0\r\n\
                     Connection: close\r\n\r\n";
    drop(answer_http(&upstream.listener, elsewhere));
    let (request, connection) =
        answer_http(&upstream.listener, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
    assert!(request.starts_with("GET /second.ts HTTP/1.1\r\n"), "{request}");
    pump(connection, bytes);
    assert_start(Reader::open(server.address).packets(500));
    assert!(!server.log().contains("secret"), "{}", server.log());
}

/// Goal: a transport stream that is pushed is one as any other.
#[test]
fn a_stream_can_be_pushed() {
    let raw = "raw = [{ listen = \"127.0.0.1:0\", format = \"mpegts\", path = \"/cam.ts\" }]";
    let server = Setup::new().table(&format!("[cameras]\n{raw}")).start();
    let door = server.camera_door("camera /cam.ts");
    for _ in 0..2 {
        let encoder = Encoder::ffmpeg(&format!("{PICTURES} {TS} tcp://{door}"));
        let got = Reader::open(server.address).packets(300).to_vec();
        assert_start(&got);
        assert_decodes(&server, &got, 5);
        encoder.kill();
    }
    let _encoder = Encoder::ffmpeg(&format!("{PICTURES} {TS} tcp://{door}"));
    let is_listed = || get(server.address, "/live/cam/index.m3u8").status == 200;
    wait_until("it is listed", is_listed);
}

/// Goal: datagrams of ffmpeg, with RTP and without, to one address and to a group.
#[test]
fn datagrams_are_upstreams() {
    let cases = [
        ("udp", "127.0.0.1", "-f mpegts udp", "?pkt_size=1316"),
        ("udp", "127.0.0.1", "-f rtp_mpegts rtp", "?pkt_size=1328"),
        ("rtp", "127.0.0.1", "-f rtp_mpegts rtp", "?pkt_size=1328"),
        ("udp", "239.255.77.1", "-f mpegts udp", "?pkt_size=1316&ttl=0&localaddr=127.0.0.1"),
    ];
    for (scheme, host, output, query) in cases {
        let port = free_udp_port();
        let options = if host == "127.0.0.1" { "" } else { "interface = \"lo\"" };
        let server = pulling(Setup::new(), &format!("\"{scheme}://{host}:{port}\""), options);
        let codec = TS.trim_end_matches(" -f mpegts");
        let _encoder =
            Encoder::ffmpeg(&format!("{PICTURES} {codec} {output}://{host}:{port}{query}"));
        let got = Reader::open(server.address).packets(400).to_vec();
        assert_start(&got);
        assert_decodes(&server, &got, 10);
    }
}

/// Goal: on demand nothing is connected until somebody reads, whose request waits for it, and nothing
/// stays connected when nobody does.
#[test]
fn on_demand_it_starts_with_the_first_reader() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let upstream = Upstream::new();
    upstream.listener.set_nonblocking(true).unwrap();
    let server = pulling(setup, &upstream.url(), "on_demand = true\nstop_after_s = 1");
    std::thread::sleep(Duration::from_millis(300));
    assert!(upstream.listener.accept().is_err(), "nobody reads");
    let address = server.address;
    let reading = std::thread::spawn(move || {
        let mut client = Client::connect(address);
        let head = client.get("/cam.ts", "");
        assert_eq!(head.status, 200, "the first request waits");
        let first = client.data();
        assert_eq!(first[0], 0x47);
    });
    upstream.listener.set_nonblocking(false).unwrap();
    let connection = upstream.accept();
    let mut watched = connection.try_clone().unwrap();
    pump(connection, bytes);
    reading.join().unwrap();
    watched.set_read_timeout(Some(HANG)).unwrap();
    let ended = watched.read(&mut [0; 8]);
    assert!(matches!(ended, Ok(0) | Err(_)), "the upstream is left");
}

/// Goal: on demand a request for a playlist is enough, and waits for it; a client keeps the stream, and
/// one that goes away does not. It comes back for the next one.
#[test]
fn on_demand_it_starts_with_a_playlist() {
    let line = format!("-loglevel error {PICTURES} {TS} -").replace(' ', "+");
    let options = "on_demand = true\nstop_after_s = 1\nlive = \"/live/cam/\"\n\
        [[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = 1.0";
    let server = pulling(Setup::new(), &format!("\"fork://ffmpeg?{line}\""), options);
    for name in ["segment/1.ts", "video.m4s", "time"] {
        get(server.address, &format!("/live/cam/{name}"));
    }
    std::thread::sleep(Duration::from_millis(500));
    assert!(!server.log().contains("is connected"), "only playlists make it begin");
    let first = |name: &str| {
        let answer = get(server.address, &format!("/live/cam/{name}"));
        assert_eq!(answer.status, 200, "the first request waits: {}", answer.text());
    };
    let followed = |seconds: f64| {
        let plan = Plan { tracks: 1, seconds, ends: false };
        assert!(follow(server.address, "/live/cam/", plan)[0].parts > 10);
    };
    first("index.m3u8");
    // Longer than the lease and stop_after_s together.
    followed(18.0);
    let is_left = || server.log().contains("it is not wanted any more");
    assert!(!is_left(), "{}", server.log());
    let left = Instant::now();
    wait_until("it is left", is_left);
    assert!(left.elapsed() > Duration::from_secs(10), "{:?}", left.elapsed());
    first("manifest.mpd");
    followed(3.0);
    assert_eq!(server.log().matches("an upstream is connected").count(), 2);
}

/// Goal: bytes out of step and packets of 204 bytes come out as whole packets of 188.
#[test]
fn packets_are_aligned() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    for parity in [0, 16] {
        let upstream = Upstream::new();
        let server = pulling(setup.clone(), &upstream.url(), "");
        let mut connection = upstream.accept();
        connection.write_all(&[0x47; 100]).unwrap();
        let wide: Vec<u8> = bytes
            .chunks_exact(PACKET)
            .flat_map(|packet| [packet, &vec![0xaa; parity]].concat())
            .collect();
        connection.write_all(&wide).unwrap();
        let mut reader = Reader::open(server.address);
        connection.write_all(&wide[50..]).unwrap();
        connection.write_all(&wide).unwrap();
        let got = reader.packets(bytes.len() / PACKET / 2).to_vec();
        assert_start(&got);
    }
}

/// Goal: a stalled reader skips to a place where decoders may begin; the others notice nothing.
#[test]
fn a_stalled_reader_skips_whole_packets() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let upstream = Upstream::new();
    let server = pulling(setup, &upstream.url(), "window_bytes = 1048576");
    let mut connection = upstream.accept();
    connection.write_all(&bytes).unwrap();
    let mut quick = Reader::open(server.address);
    let mut stalled = Client::with_small_window(server.address);
    assert_eq!(stalled.get("/cam.ts", "").status, 200);
    let mut total = 0;
    while total < 24 << 20 {
        connection.write_all(&bytes).unwrap();
        total += bytes.len();
        let want = total / PACKET * 9 / 10;
        quick.packets(want.saturating_sub(2 * bytes.len() / PACKET));
    }
    let mut late = Reader { client: stalled, body: Vec::new() };
    let skipped = || {
        let page = get(server.admin, "/metrics").text();
        !page.contains("headwater_pull_readers_lagged_total 0")
    };
    wait_until("it has skipped", || {
        let more = late.client.data();
        late.body.extend(more);
        skipped()
    });
    let count = late.body.len() / PACKET;
    late.packets(count);
}

/// Goal: a pulled stream is LL-HLS and LL-DASH too, and a new connection is a discontinuity.
#[test]
fn a_pulled_stream_is_listed() {
    let upstream = Upstream::new();
    let setup = Setup::new().table("[[live]]\nprefix = \"/live/\"\npart_ms = 200\nsegment_s = 1.0");
    let server = pulling(setup, &upstream.url(), "");
    let port = upstream.listener.local_addr().unwrap().port();
    drop(upstream);
    let push = || {
        Encoder::ffmpeg(&format!(
            "{PICTURES} -c:v libx264 -preset ultrafast -tune zerolatency -g 25 -t 60 -f mpegts \
             tcp://127.0.0.1:{port}?listen=1"
        ))
    };
    let encoder = push();
    wait_until("it is listed", || get(server.address, "/live/cam/index.m3u8").status == 200);
    let found = follow(server.address, "/live/cam/", Plan { tracks: 1, seconds: 4.0, ends: false });
    assert!(found[0].parts > 8, "{} parts", found[0].parts);
    let list = media_playlist(&get(server.address, "/live/cam/index.m3u8"));
    encoder.kill();
    let _encoder = push();
    until_text(server.address, &list, "goes on", |text| text.contains("#EXT-X-DISCONTINUITY"));
}

fn media_playlist(multivariant: &Answer) -> String {
    let text = multivariant.text();
    let uri = text.lines().rfind(|line| !line.starts_with('#') && !line.is_empty()).unwrap();
    format!("/live/cam/{uri}")
}
