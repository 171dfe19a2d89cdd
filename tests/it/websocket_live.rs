//! Channels and appended objects as publishing points: `[[live]]` with a `source`.

use crate::client::{Client, get};
use crate::hls_checker::{Plan, follow};
use crate::live_kit::{Encoder, until_text};
use crate::server::{Server, Setup, wait_until};
use crate::websocket_client::{
    WebSocket, appender, chunk, chunks_to_end, on, publish_when_free, pump,
};

const PICTURES: &str = "-re -f lavfi -i testsrc2=size=192x108:rate=25";
const X264: &str = "-c:v libx264 -preset ultrafast -tune zerolatency -sc_threshold 0 \
                    -pix_fmt yuv420p -b:v 200k -g 25";
const CMAF: &str = "-f mp4 -movflags cmaf+empty_moov+default_base_moof+separate_moof \
                    -frag_duration 200000";
const PLAN: Plan = Plan { tracks: 1, seconds: 6.0, ends: false };

/// A server with a publishing point that has this source.
fn server_with(prefix: &str, source: &str) -> Server {
    let rule = format!("[[live]]\nprefix = \"{prefix}\"\nsource = \"{source}\"\n");
    Setup::new().table(&format!("{rule}part_ms = 200\nsegment_s = 1.0\nwindow_s = 60\n")).start()
}

/// The strict client is content with a publishing point, and there is an MPD.
fn assert_listed(server: &Server, point: &str) {
    for one in follow(server.address, point, PLAN) {
        assert!(one.parts > 10 && one.zeros.len() == 1, "{}: {} parts", one.url, one.parts);
    }
    let mpd = get(server.address, &format!("{point}manifest.mpd"));
    assert!(mpd.status == 200 && mpd.text().contains("<MPD"), "{mpd:?}");
}

/// Ends what a pump has sent into.
fn end(mut socket: WebSocket) {
    socket.close(1000, "");
    assert_eq!(chunks_to_end(&mut socket).1.code, 1000);
}

/// Goal: CMAF that is published into a channel is LL-HLS and LL-DASH, while receivers get it as it is;
/// other channels are not listed.
#[test]
fn cmaf_of_a_channel_is_listed() {
    let server = server_with("/live/ch/", "ch");
    let address = server.address;
    let mut other = on(address, "other/key", "publish");
    other.binary(b"nothing that is listed");
    let mut receiver = on(address, "ch/key", "receive");
    let line = format!("{PICTURES} -t 12 {X264} {CMAF} pipe:1");
    let pump = pump(&line, on(address, "ch/key", "publish"));
    assert_eq!(chunk(&mut receiver).get(4..8), Some(&b"ftyp"[..]));
    let mut reader = Client::connect(address);
    assert!(reader.get("/ch/key/receive", "").is_chunked());
    assert_eq!(reader.data().get(4..8), Some(&b"ftyp"[..]));
    assert_listed(&server, "/live/ch/");
    assert_eq!(get(address, "/live/other/index.m3u8").status, 404);
    end(pump.join().unwrap());
    wait_until("it is over", || get(address, "/ch/key/receive").status == 404);
}

/// Goal: MPEG-TS in a channel is listed too, whatever the size of its chunks.
#[test]
fn a_transport_stream_of_a_channel_is_listed() {
    let server = server_with("/live/ts/", "tv");
    let line = format!(
        "{PICTURES} -re -f lavfi -i sine=sample_rate=48000 -t 12 {X264} -c:a aac \
         -f mpegts -mpegts_flags pat_pmt_at_frames pipe:1"
    );
    let pump = pump(&line, on(server.address, "tv/key", "publish"));
    assert_listed(&server, "/live/ts/");
    end(pump.join().unwrap());
}

/// Goal: the next session of a channel is listed at the same place.
#[test]
fn a_channel_is_listed_again() {
    let server = server_with("/live/ch/", "ch");
    let segments = |text: &str| text.matches("#EXTINF").count();
    for session in 0..2 {
        let line = format!("{PICTURES} -t 8 {X264} {CMAF} pipe:1");
        let pump = pump(&line, publish_when_free(server.address, "ch/key"));
        let index = until_text(server.address, "/live/ch/index.m3u8", "a playlist", |text| {
            text.contains("#EXT-X-STREAM-INF")
        });
        let uri = index.lines().rfind(|line| !line.is_empty() && !line.starts_with('#')).unwrap();
        let list = crate::hls_checker::resolve("/live/ch/index.m3u8", uri);
        let wanted = 3 + 5 * session;
        until_text(server.address, &list, "segments", |text| segments(text) >= wanted);
        end(pump.join().unwrap());
    }
}

/// Goal: an object outside the prefix is listed under it when it is appended.
#[test]
fn an_appended_object_is_listed_elsewhere() {
    let server = server_with("/live/obj/", "/some/object.mp4");
    let line = format!("{PICTURES} -t 12 {X264} {CMAF} pipe:1");
    let pump = pump(&line, appender(server.address, "/some/object.mp4"));
    assert_listed(&server, "/live/obj/");
    assert_eq!(get(server.address, "/some/index.m3u8").status, 404);
    end(pump.join().unwrap());
    wait_until("it is sealed", || {
        let object = get(server.address, "/some/object.mp4");
        object.complete && object.field("etag").is_some()
    });
}

/// Goal: the same for an object that is PUT.
#[test]
fn an_uploaded_object_is_listed_elsewhere() {
    let server = server_with("/live/obj/", "/some/object.mp4");
    let target = format!("http://{}/some/object.mp4", server.address);
    let encoder = Encoder::ffmpeg(&format!("{PICTURES} -t 12 {X264} {CMAF} -method PUT {target}"));
    assert_listed(&server, "/live/obj/");
    encoder.succeed();
}
