//! Encoders and packagers as they are: Shaka Packager, ffmpeg in all its ways, GStreamer.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::client::get;
use crate::hls_checker::{Follower, Plan, Summary, follow, multivariant, resolve};
use crate::hls_playlist::{Multivariant, Playlist};
use crate::hls_probe::check_refusal;
use crate::hls_rules::origin;
use crate::live_kit::{Encoder, Node, attribute, until_text};
use crate::server::{Server, needs, run, wait_until};

const WINDOW: &str = "window_s = 60\n";
const POINT: &str = "/live/cam/";
/// Test pictures and a tone at their own speed.
const PICTURES: &str = "-re -f lavfi -i testsrc2=size=192x108:rate=25";
const TONE: &str = "-re -f lavfi -i sine=sample_rate=48000";
const X264: &str = "-c:v libx264 -preset ultrafast -tune zerolatency -sc_threshold 0 \
                    -pix_fmt yuv420p -b:v 200k";
const FRAGMENTS: &str = "-f mp4 -movflags cmaf+empty_moov+default_base_moof+separate_moof \
                         -frag_duration 200000";

fn base(server: &Server) -> String {
    format!("http://{}{POINT}", server.address)
}

/// The strict client saw parts, and one run, in every playlist.
fn assert_followed(found: &[Summary]) {
    for one in found {
        assert!(one.parts > 10 && one.playlist.part_target.is_some(), "{}", one.url);
        assert_eq!(one.zeros.len(), 1, "{}: runs of one push", one.url);
    }
}

/// Nothing of what the encoder sent was refused.
fn assert_nothing_refused(server: &Server, encoder: &Encoder) {
    let page = get(server.admin, "/metrics").text();
    let refused = page.lines().find(|line| line.starts_with("headwater_live_refused"));
    assert!(refused.is_some_and(|line| line.ends_with(" 0")), "{refused:?} {}", encoder.log());
    let log = server.log();
    assert!(!log.contains("WARN") && !log.contains("ERROR") && !log.contains("panic"), "{log}");
}

/// Goal: an encoder that is killed does not end anything: no EXT-X-ENDLIST, then 503, for players and
/// caches to look elsewhere. Method: the strict client asks for the next part until it is refused.
fn assert_interrupted(server: &Server, name: &str, encoders: impl IntoIterator<Item = Encoder>) {
    let mut follower = Follower::open(server.address, &format!("{POINT}{name}.m3u8"));
    while follower.playlist.segments.len() < 3 {
        assert!(follower.advance(), "it ended");
    }
    let target_s = follower.playlist.target_duration;
    encoders.into_iter().for_each(Encoder::kill);
    loop {
        let (msn, part) = follower.playlist.next();
        let answer = follower.ask(&format!("?_HLS_msn={msn}&_HLS_part={part}"));
        if answer.status != 200 {
            check_refusal(&answer, ("S16", 503), 0.0).unwrap_or_else(|why| panic!("{why}"));
            break;
        }
        follower.playlist = Playlist::checked(&answer.text()).unwrap_or_else(|why| panic!("{why}"));
        assert!(!follower.playlist.ended, "EXT-X-ENDLIST after {name} was killed");
    }
    // What is old is not answered either: it would look like a live playlist. Another track may have
    // ended a little later than this one.
    let mut answer = follower.ask("");
    wait_until("the playlist of a silent encoder is refused", || {
        answer.status != 200 || {
            answer = follower.ask("");
            false
        }
    });
    check_refusal(&answer, ("S16", 503), target_s).unwrap_or_else(|why| panic!("{why}"));
}

// Shaka Packager.

/// Where `scripts/check` puts it.
fn packager() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/pushers/node_modules");
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let found = folder.join(format!("shaka-packager/bin/packager-linux-{machine}"));
    assert!(found.is_file(), "{} is missing; run scripts/check", found.display());
    found
}

/// ffmpeg into a named pipe, Shaka Packager behind it: low-latency DASH by HTTP.
fn shaka(server: &Server, seconds: u32) -> [Encoder; 2] {
    let pipe = server.setup.home().join("pipe.ts");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RWXU).unwrap();
    let pipe = pipe.display();
    let source = Encoder::ffmpeg(&format!(
        "{PICTURES} {TONE} -t {seconds} {X264} -g 25 -c:a aac -f mpegts -y {pipe}"
    ));
    let base = base(server);
    let stream = |name: &str| {
        format!(
            "in={pipe},stream={name},init_segment={base}{name}_init.mp4,\
             segment_template={base}{name}_$Number$.m4s"
        )
    };
    let mut command = Command::new(packager());
    command.args([stream("video"), stream("audio")]);
    command.args("--segment_duration 1 --low_latency_dash_mode --io_block_size 65536".split(' '));
    command.args(["--time_shift_buffer_depth", "30", "--utc_timings"]);
    command.arg(format!("urn:mpeg:dash:utc:http-iso:2014=http://{}/time", server.address));
    command.args(["--mpd_output".to_owned(), format!("{base}live.mpd")]);
    [source, Encoder::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))]
}

/// Goal: what Shaka Packager pushes for DASH is LL-HLS; its own MPD is served as it is, beside ours.
#[test]
fn shaka_packager_pushes_low_latency_dash() {
    let server = origin(WINDOW);
    let [source, packager] = shaka(&server, 12);
    let found = follow(server.address, POINT, Plan { tracks: 2, seconds: 7.0, ends: false });
    assert_followed(&found);
    let own = until_text(server.address, "/live/cam/live.mpd", "pushed", |text| {
        text.contains("shaka-packager") && text.contains("AudioChannelConfiguration")
    });
    assert!(own.contains("video_$Number$.m4s"), "{own}");
    let first = get(server.address, "/live/cam/video_1.m4s");
    assert_eq!((first.status, first.body.get(4..8)), (200, Some(&b"styp"[..])), "{first:?}");
    let ours = get(server.address, "/live/cam/manifest.mpd").text();
    assert_eq!(Node::parse(&ours).all("AdaptationSet").len(), 2, "{ours}");
    source.succeed();
    assert_nothing_refused(&server, &packager);
    packager.succeed();
}

#[test]
fn shaka_packager_that_is_killed_ends_nothing() {
    let server = origin(WINDOW);
    let [source, packager] = shaka(&server, 60);
    assert_interrupted(&server, "video", [packager, source]);
}

#[test]
fn ffmpeg_that_is_killed_ends_nothing() {
    let server = origin(WINDOW);
    let output = format!("{X264} -g 25 {FRAGMENTS} -method PUT {}video.mp4", base(&server));
    let encoder = Encoder::ffmpeg(&format!("{PICTURES} -t 60 {output}"));
    assert_interrupted(&server, "video", [encoder]);
}

/// Goal: pictures and sound keep the same numbers: a player that changes between them, or reads
/// them together, counts segments of about the same time.
#[test]
fn shaka_packager_sound_is_cut_at_the_beat_of_its_pictures() {
    let server = origin(WINDOW);
    let [source, packager] = shaka(&server, 9);
    source.succeed();
    packager.succeed();
    let list = |name: &str| {
        let text = get(server.address, &format!("{POINT}{name}.m3u8")).text();
        Playlist::checked(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
    };
    let (video, audio) = (list("video"), list("audio"));
    for segment in &audio.segments[1..audio.segments.len() - 1] {
        let lasted = segment.duration.unwrap();
        assert!((0.7..1.3).contains(&lasted), "{} lasts {lasted} s", segment.uri);
        let other = video.segment(segment.msn).unwrap_or_else(|| panic!("no video {segment:?}"));
        let apart = segment.date_ms.unwrap().abs_diff(other.date_ms.unwrap());
        assert!(apart <= 300, "{} begins {apart} ms away from {}", segment.uri, other.uri);
    }
}

// ffmpeg -f dash.

/// Goal: two qualities and two languages: the multivariant playlist tells codecs, resolution, frame
/// rate and bandwidth of each, and the languages that only the pushed MPD knows; our MPD has the
/// qualities in one set.
#[test]
fn ffmpeg_dash_with_two_qualities_and_two_languages() {
    let server = origin(WINDOW);
    let (base, root) = (base(&server), format!("http://{}", server.address));
    let encoder = Encoder::ffmpeg(&format!(
        "{PICTURES} {TONE} -map 0:v -map 0:v -map 1:a -map 1:a -t 12 {X264} -g 25 \
         -s:v:0 192x108 -s:v:1 384x216 -b:v:1 800k -c:a aac -metadata:s:a:0 language=eng \
         -metadata:s:a:1 language=deu -adaptation_sets id=0,streams=0,1~id=1,streams=2~id=2,streams=3 \
         -f dash -ldash 1 -streaming 1 -seg_duration 1 -frag_type duration -frag_duration 0.2 \
         -use_template 1 -use_timeline 0 -write_prft 1 -strict experimental -method PUT \
         -utc_timing_url {root}/time -http_persistent 1 {base}m.mpd"
    ));
    let found = follow(server.address, POINT, Plan { tracks: 4, seconds: 6.0, ends: false });
    assert_followed(&found);
    let text = get(server.address, &format!("{POINT}index.m3u8")).text();
    let list = Multivariant::parse(&text).unwrap();
    assert_eq!(list.variants.len(), 2, "{text}");
    let mut rates = Vec::new();
    for variant in &list.variants {
        let at = text.lines().position(|line| line == variant.uri).unwrap();
        let line = text.lines().nth(at - 1).unwrap();
        let of = |name| attribute(line, "#EXT-X-STREAM-INF", "", name).unwrap();
        assert_eq!(of("FRAME-RATE"), "25.000", "{line}");
        assert!(variant.codecs.starts_with("avc1.42") && variant.codecs.ends_with("mp4a.40.2"));
        rates.push((of("BANDWIDTH").parse::<u64>().unwrap(), variant.resolution.clone().unwrap()));
    }
    rates.sort();
    assert_eq!((&*rates[0].1, &*rates[1].1), ("192x108", "384x216"), "{text}");
    assert!(rates[0].0 > 150_000 && rates[1].0 < 4_000_000, "{text}");
    let mut languages: Vec<_> = text
        .lines()
        .filter_map(|line| attribute(line, "#EXT-X-MEDIA:TYPE=AUDIO", "", "LANGUAGE"))
        .collect();
    languages.sort();
    let german = languages.first().is_some_and(|one| one == "de" || one == "deu");
    let english = languages.last().is_some_and(|one| one == "en" || one == "eng");
    assert!(languages.len() == 2 && german && english, "{languages:?}\n{text}");
    let text = get(server.address, &format!("{POINT}manifest.mpd")).text();
    let ours = Node::parse(&text);
    let sets = ours.all("AdaptationSet");
    let mut sizes: Vec<_> = sets.iter().map(|set| set.all("Representation").len()).collect();
    sizes.sort();
    assert_eq!(sizes, [1, 1, 2], "{text}");
    let spoken: Vec<_> = sets.iter().filter_map(|set| set.get("lang")).collect();
    assert_eq!(spoken.len(), 2, "{text}");
    let pushed = get(server.address, &format!("{POINT}m.mpd"));
    assert!(pushed.text().contains("Lavf") || pushed.text().contains("ProgramInformation"));
    assert_nothing_refused(&server, &encoder);
    encoder.succeed();
}

// Codecs.

/// Pushes three seconds as fast as they can be made; what CODECS says.
fn codecs_of(output: &str, file: &str) -> String {
    let server = origin(WINDOW);
    let pictures = PICTURES.replace("-re ", "");
    let tone = TONE.replace("-re ", "");
    let line = format!("{pictures} {tone} -t 3 {output} -method PUT {}{file}", base(&server));
    let encoder = Encoder::ffmpeg(&line);
    let index = format!("{POINT}index.m3u8");
    let text = until_text(server.address, &index, output, |text| {
        attribute(text, "#EXT-X-STREAM-INF", "", "CODECS").is_some()
    });
    encoder.succeed();
    multivariant(server.address, &index, 1);
    for uri in Multivariant::parse(&text).unwrap().playlists() {
        let answer = get(server.address, &resolve(&index, &uri));
        Playlist::checked(&answer.text()).unwrap_or_else(|why| panic!("{uri}: {why}"));
    }
    let text = get(server.address, &index).text();
    attribute(&text, "#EXT-X-STREAM-INF", "", "CODECS").unwrap()
}

/// The codecs of a set, whatever their order.
fn assert_codecs(output: &str, file: &str, beginnings: &[&str]) {
    let found = codecs_of(output, file);
    let mut codecs: Vec<_> = found.split(',').collect();
    for beginning in beginnings {
        let place = codecs.iter().position(|codec| codec.starts_with(beginning));
        let place = place.unwrap_or_else(|| panic!("{output}: {beginning} is not in {found}"));
        codecs.remove(place);
    }
    assert!(codecs.is_empty(), "{output}: {codecs:?} too");
}

fn x265() -> String {
    "-c:v libx265 -preset ultrafast -x265-params log-level=none:keyint=25:scenecut=0:bframes=0 \
     -pix_fmt yuv420p"
        .to_owned()
}

/// Goal: H.265 is told with profile, tier and level, whichever way its parameters are sent.
#[test]
fn h265_in_cmaf_is_told() {
    let video = |tag: &str| format!("-map 0:v {} -tag:v {tag} {FRAGMENTS}", x265());
    assert_codecs(&video("hvc1"), "cam.mp4", &["hvc1.1.6.L"]);
    assert_codecs(&video("hev1"), "cam.mp4", &["hev1.1.6.L"]);
}

#[test]
fn av1_in_cmaf_is_told() {
    let video = "-map 0:v -c:v libsvtav1 -preset 12 -g 25 -pix_fmt yuv420p";
    assert_codecs(&format!("{video} {FRAGMENTS}"), "cam.mp4", &["av01.0."]);
}

#[test]
fn sound_codecs_in_cmaf_are_told() {
    // ffmpeg writes the header of AC-3 only when it has seen some.
    let fragments = FRAGMENTS.replace("empty_moov", "delay_moov");
    let tone = |codec: &str| format!("-map 1:a -c:a {codec} -ac 2 {fragments}");
    assert_codecs(&tone("libopus"), "cam.mp4", &["Opus"]);
    assert_codecs(&tone("ac3"), "cam.mp4", &["ac-3"]);
    assert_codecs(&tone("eac3"), "cam.mp4", &["ec-3"]);
    assert_codecs(&tone("aac"), "cam.mp4", &["mp4a.40.2"]);
}

#[test]
fn codecs_of_a_transport_stream_are_told() {
    let both = |sound: &str| format!("-map 0:v -map 1:a {} -c:a {sound} -f mpegts", x265());
    assert_codecs(&both("ac3"), "cam.ts", &["hvc1.1.6.L", "ac-3"]);
    assert_codecs(&both("eac3"), "cam.ts", &["hvc1.1.6.L", "ec-3"]);
    assert_codecs(&both("libmp3lame"), "cam.ts", &["hvc1.1.6.L", "mp4a.40.34"]);
    let x264 = format!("-map 0:v -map 1:a {X264} -g 25 -c:a aac -f mpegts");
    assert_codecs(&x264, "cam.ts", &["avc1.42", "mp4a.40.2"]);
}

// ffmpeg -f hls.

/// Goal: playlists that ffmpeg makes are served as they are, with all that they list, and nothing is
/// refused; without a promise to block `_HLS_msn` is answered at once.
fn ffmpeg_hls(kind: &str) {
    let server = origin(WINDOW);
    let extension = if kind == "fmp4" { "m4s" } else { "ts" };
    let base = base(&server);
    let encoder = Encoder::ffmpeg(&format!(
        "{PICTURES} {TONE} -t 8 {X264} -g 25 -c:a aac -f hls -method PUT -http_persistent 1 \
         -hls_time 1 -hls_list_size 4 -hls_flags delete_segments -hls_segment_type {kind} \
         -hls_segment_filename {base}a%d.{extension} {base}a.m3u8"
    ));
    let url = "/live/cam/a.m3u8";
    let first = until_text(server.address, url, "three segments", |text| {
        text.matches("#EXTINF").count() >= 3
    });
    assert!(!first.contains("EXT-X-PART") && !first.contains("SERVER-CONTROL"), "{first}");
    let asked = get(server.address, &format!("{url}?_HLS_msn=999999&_HLS_part=3"));
    assert_eq!(asked.status, 200, "{asked:?}");
    assert!(asked.text().contains("#EXTM3U"), "{}", asked.text());
    let listed = first.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
    let map = attribute(&first, "#EXT-X-MAP", "", "URI");
    for uri in listed.chain(map) {
        let path =
            uri.split_once("://").map_or(&*uri, |(_, rest)| &rest[rest.find('/').unwrap()..]);
        let answer = get(server.address, &resolve(url, path));
        assert!(answer.status == 200 && answer.body.len() > 500, "{uri}: {answer:?}");
    }
    assert_nothing_refused(&server, &encoder);
    encoder.succeed();
    let last = until_text(server.address, url, "the end", |text| text.contains("#EXT-X-ENDLIST"));
    let probe =
        format!("-v error -nostdin -live_start_index 0 -i {base}a.m3u8 -map 0:v -f framecrc -");
    let played = run(Command::new("ffmpeg").args(probe.split_whitespace()));
    let frames = played.stdout.lines().filter(|line| !line.starts_with('#')).count();
    assert!(played.status.success() && frames >= 75, "{frames} {} {last}", played.stderr);
}

#[test]
fn ffmpeg_hls_with_transport_streams_is_served_as_it_is() {
    ffmpeg_hls("mpegts");
}

#[test]
fn ffmpeg_hls_with_fmp4_is_served_as_it_is() {
    ffmpeg_hls("fmp4");
}

// GStreamer.

/// Goal: GStreamer's curlhttpsink is one endless POST with Expect: it is followed as any other.
#[test]
fn gstreamer_curlhttpsink_is_followed() {
    needs("gst-launch-1.0");
    let server = origin(WINDOW);
    let line = format!(
        "-q videotestsrc is-live=true num-buffers=300 ! video/x-raw,width=192,height=108,framerate=25/1 \
         ! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=25 ! h264parse \
         ! mpegtsmux alignment=7 ! curlhttpsink use-content-length=false location={}cam.ts",
        base(&server)
    );
    let mut command = Command::new("gst-launch-1.0");
    command.args(line.split_whitespace()).stdin(Stdio::null()).stdout(Stdio::null());
    let encoder = Encoder::spawn(&mut command);
    let found = follow(server.address, POINT, Plan { tracks: 1, seconds: 6.0, ends: false });
    assert_followed(&found);
    wait_until("it is an object", || get(server.address, "/live/cam/index.m3u8").status == 200);
    drop(encoder);
}
