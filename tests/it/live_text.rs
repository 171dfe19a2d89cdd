//! Events and subtitles: what travels with the media and is no picture.

use std::net::SocketAddr;

use crate::client::{Upload, get};
use crate::hls_fmp4::{Film, container, full, make};
use crate::hls_playlist::{Multivariant, Playlist, date_ms};
use crate::hls_rules::{PART, PUSHED, SEGMENT, origin, playlist, until};
use crate::live_kit::{Node, attribute, crc32, emsg, hexadecimal, splice_out, styp, until_text};
use crate::server::{Server, needs, run};

const WINDOW: &str = "window_s = 60\n";
const LIST: &str = "/live/cam/video.m3u8";
const MPD: &str = "/live/cam/manifest.mpd";
const SCTE35: &str = "urn:scte:scte35:2013:bin";
const OTHER: &str = "urn:example:quiz:2026";

/// An endless push whose events are put before some of its fragments.
struct Show {
    server: Server,
    upload: Upload,
    /// Of the subtitles.
    beside: Option<Upload>,
    film: Film,
    count: u64,
    /// Number of the first segment, once it is known.
    base: Option<u64>,
}

impl Show {
    fn start(keys: &str) -> Show {
        let server = origin(keys);
        let film = Film::video(7);
        let mut upload = Upload::open(server.address, PUSHED, "");
        upload.append(&film.init());
        Show { server, upload, beside: None, film, count: 0, base: None }
    }

    fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// The next fragment, with these boxes in front of its moof.
    fn push_with(&mut self, boxes: &[u8]) {
        let fragment = self.film.fragment(PART, self.count.is_multiple_of(SEGMENT));
        self.upload.append(&[boxes, &fragment].concat());
        self.count += 1;
    }

    fn push(&mut self, fragments: usize) {
        for _ in 0..fragments {
            self.push_with(&[]);
        }
    }

    /// Waits until everything is listed.
    fn shown(&mut self) -> Playlist {
        let first = until(self.address(), LIST, "a segment", |list| !list.segments.is_empty());
        let (count, base) = (self.count, *self.base.get_or_insert(first.media_sequence));
        until(self.address(), LIST, "all parts", |list| {
            (list.open_msn() - base) * SEGMENT + list.open_parts().len() as u64 >= count
        })
    }
}

/// Where media time 0 is, by the dates of a playlist.
fn zero_ms(list: &Playlist) -> i64 {
    list.segments[0].date_ms.unwrap()
}

/// START-DATE of a date range as media time.
fn start_of(text: &str, has: &str, list: &Playlist) -> i64 {
    let date = attribute(text, "#EXT-X-DATERANGE", has, "START-DATE");
    let date = date.unwrap_or_else(|| panic!("no date range with {has} in {text}"));
    date_ms(&date).unwrap() - zero_ms(list)
}

/// Goal: emsg of SCTE 35 and of another scheme are date ranges in the playlist, at their times, and
/// events in the MPD, with scheme, value, time and what they carry.
#[test]
fn event_messages_become_date_ranges_and_events() {
    let mut show = Show::start(WINDOW);
    show.push(12);
    let section = splice_out(77, 4 * 90_000);
    let quiz = emsg(OTHER, "round-2", 3 * 90_000 + 9_000, 5, b"question 8");
    let events = [emsg(SCTE35, "", 4 * 90_000, 9, &section), quiz].concat();
    show.push_with(&[styp(&["msdh"]), events].concat());
    show.push(8);
    let list = show.shown();
    let text = get(show.address(), LIST).text();
    let out = format!("SCTE35-OUT=0x{}", hexadecimal(&section));
    assert_eq!(start_of(&text, &out, &list), 4_000, "{text}");
    let planned = attribute(&text, "#EXT-X-DATERANGE", &out, "PLANNED-DURATION").unwrap();
    assert_eq!(planned.parse::<f64>(), Ok(10.0), "{text}");
    let class = format!("CLASS=\"{OTHER}\"");
    assert_eq!(start_of(&text, &class, &list), 3_100, "{text}");
    let data = hexadecimal(b"question 8");
    assert!(text.contains(&data) && text.contains("round-2"), "{text}");
    assert_eq!(text.matches("#EXT-X-DATERANGE").count(), 2, "{text}");
}

/// Goal: the same events in the MPD.
#[test]
fn event_messages_become_events_of_the_mpd() {
    let mut show = Show::start(WINDOW);
    show.push(12);
    let section = splice_out(77, 4 * 90_000);
    let quiz = emsg(OTHER, "round-2", 3 * 90_000 + 9_000, 5, b"question 8");
    show.push_with(&[emsg(SCTE35, "", 4 * 90_000, 9, &section), quiz].concat());
    show.push(8);
    show.shown();
    let text = get(show.address(), MPD).text();
    let mpd = Node::parse(&text);
    let period = mpd.one("Period");
    let stream = |scheme: &str| {
        let all = period.all("EventStream");
        let found = all.iter().find(|one| one.get("schemeIdUri") == Some(scheme));
        (**found.unwrap_or_else(|| panic!("no {scheme} in {text}"))).clone()
    };
    let time = |stream: &Node| {
        let event = stream.one("Event");
        let scale = stream.number("timescale").unwrap_or(1);
        event.number("presentationTime").unwrap_or(0) as f64 / scale as f64
    };
    let splice = stream("urn:scte:scte35:2014:xml+bin");
    assert!((time(&splice) - 4.0).abs() < 0.001, "{text}");
    assert_eq!(splice.all("Signal").len() + splice.all("scte35:Signal").len(), 1, "{text}");
    let quiz = stream(OTHER);
    assert!((time(&quiz) - 3.1).abs() < 0.001, "{text}");
    let event = quiz.one("Event");
    assert_eq!(quiz.get("value"), Some("round-2"), "23009-1 5.10.2: {text}");
    assert_eq!(event.number("id"), Some(5), "{text}");
    // Base64 of "question 8", or the text itself.
    let told = event.text == "question 8" || event.text == "cXVlc3Rpb24gOA==";
    assert!(told || event.get("messageData") == Some("question 8"), "{text}");
}

/// Goal: an event that comes with the very first chunk, before the shape is known, is told as well.
#[test]
fn an_event_of_the_first_chunk_is_told() {
    let mut show = Show::start(WINDOW);
    show.push_with(&emsg(OTHER, "early", 90_000, 1, b"early"));
    show.push(14);
    let list = show.shown();
    let text = get(show.address(), LIST).text();
    assert_eq!(start_of(&text, "early", &list), 1_000, "{text}");
}

/// Goal: P12 with date ranges: v2 leaves out what its reader has, and names what has gone; the
/// ordinary delta and the whole playlist have them all. Method: a window of nine seconds moves on.
#[test]
fn a_delta_update_tells_removed_date_ranges() {
    let mut show = Show::start("window_s = 9\n");
    show.push(11);
    show.shown();
    show.push_with(&emsg(OTHER, "gone", 2 * 90_000, 1, b"gone"));
    show.push(39);
    show.push_with(&emsg(OTHER, "kept", 11 * 90_000, 2, b"kept"));
    let before = show.shown();
    assert!(!before.dateranges.is_empty(), "{before:?}");
    show.push(40);
    let list = show.shown();
    let text = get(show.address(), LIST).text();
    assert!(!text.contains("\"gone\"") && text.contains("\"kept\""), "{text}");
    let delta = get(show.address(), &format!("{LIST}?_HLS_skip=v2")).text();
    let delta = Playlist::parse(&delta).unwrap_or_else(|why| panic!("{why}\n{delta}"));
    let skip = delta.skip.expect("P12: a delta");
    let removed = skip.removed_dateranges.expect("P12: v2 says what has gone");
    assert_eq!(removed.len(), 1, "{removed:?}");
    assert!(!list.dateranges.contains_key(&removed[0]), "{removed:?}");
    let plain = get(show.address(), &format!("{LIST}?_HLS_skip=YES")).text();
    let plain = Playlist::parse(&plain).unwrap();
    assert_eq!((plain.dateranges, plain.skip.unwrap().removed_dateranges), (list.dateranges, None));
}

// SCTE 35 in a transport stream.

/// The PMT of a transport stream of ffmpeg with one stream more, of type 0x86.
fn with_cue_stream(packet: &[u8], pid: u16) -> Vec<u8> {
    let start = 5 + packet[4] as usize;
    let length = (usize::from(packet[start + 1]) << 8 | usize::from(packet[start + 2])) & 0xfff;
    let mut section = packet[start..start + 3 + length - 4].to_vec();
    section.extend([0x86, 0xe0 | (pid >> 8) as u8, pid as u8, 0xf0, 0]);
    let length = section.len() - 3 + 4;
    section[1] = section[1] & 0xf0 | (length >> 8) as u8;
    section[2] = length as u8;
    let crc = crc32(&section);
    section.extend(crc.to_be_bytes());
    let mut made = packet[..start].to_vec();
    made.extend(section);
    made.resize(188, 0xff);
    made
}

/// Goal: a splice_info_section in a transport stream is a date range. Method: eight seconds of
/// ffmpeg's, with a stream of cues put in: one packet after three seconds.
#[test]
fn cues_in_a_transport_stream_become_date_ranges() {
    needs("ffmpeg");
    let server = origin(WINDOW);
    let file = server.setup.home().join("cues.ts");
    let line = "-v error -nostdin -f lavfi -i testsrc2=size=192x108:rate=25 -t 8 -c:v libx264 \
                -preset ultrafast -tune zerolatency -g 25 -sc_threshold 0 -pix_fmt yuv420p \
                -muxdelay 0 -muxpreload 0 -f mpegts";
    let mut ffmpeg = std::process::Command::new("ffmpeg");
    let ended = run(ffmpeg.args(line.split_whitespace()).arg(&file));
    assert!(ended.status.success(), "{}", ended.stderr);
    let bytes = std::fs::read(&file).unwrap();
    let packets: Vec<_> = bytes.chunks(188).collect();
    let third = packets.len() * 3 / 8;
    let section = splice_out(5, 5 * 90_000);
    let mut upload = Upload::open(server.address, "/live/cam/cam.ts", "");
    let mut is_sent = false;
    for (index, packet) in packets.iter().enumerate() {
        let (pid, starts) =
            (u16::from(packet[1] & 0x1f) << 8 | u16::from(packet[2]), packet[1] & 0x40);
        let is_table = pid == 0x1000 && starts != 0;
        upload.append(&if is_table { with_cue_stream(packet, 0x1f0) } else { packet.to_vec() });
        if index > third && is_table && !is_sent {
            let mut cue = vec![0x47, 0x41, 0xf0, 0x10, 0];
            cue.extend(&section);
            cue.resize(188, 0xff);
            upload.append(&cue);
            is_sent = true;
        }
    }
    assert!(is_sent, "no place for the cue");
    let index = until_text(server.address, "/live/cam/index.m3u8", "a track", |text| {
        Multivariant::parse(text).is_ok()
    });
    let uri = Multivariant::parse(&index).unwrap().playlists().remove(0);
    let url = format!("/live/cam/{uri}");
    let out = format!("SCTE35-OUT=0x{}", hexadecimal(&section));
    let text = until_text(server.address, &url, "the cue", |text| text.contains(&out));
    let list = playlist(server.address, &url);
    // The pictures begin at 0, or as late as ffmpeg delays them.
    let start = start_of(&text, &out, &list);
    assert!((4_900..=5_100).contains(&start), "{start} in {text}");
}

// Subtitles.

/// A text track: `wvtt` or `stpp`, timescale 1000, of this language (`deu`).
fn text_init(kind: &str, language: &str) -> Vec<u8> {
    let matrix = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];
    let mut mvhd = vec![0, 0, 1000, 0, 0x10000, 0x0100_0000, 0, 0];
    mvhd.extend(matrix);
    mvhd.extend([0, 0, 0, 0, 0, 0, 2]);
    let mut tkhd = vec![0, 0, 1, 0, 0, 0, 0, 0, 0];
    tkhd.extend(matrix);
    tkhd.extend([0, 0]);
    let packed = language.bytes().fold(0, |sum, letter| sum << 5 | u32::from(letter - 0x60));
    let start = [0, 0, 0, 0, 0, 0, 0, 1];
    let (handler, header, entry) = if kind == "wvtt" {
        let entry = [&start[..], &make("vttC", b"WEBVTT")].concat();
        (*b"text", full("nmhd", 0, &[]), make("wvtt", &entry))
    } else {
        let entry = [&start[..], b"http://www.w3.org/ns/ttml\0\0\0"].concat();
        (*b"subt", full("sthd", 0, &[]), make("stpp", &entry))
    };
    let dref = [&[0, 0, 0, 0, 0, 0, 0, 1][..], &full("url ", 1, &[])].concat();
    let stbl = [
        make("stsd", &[&start[..], &entry].concat()),
        full("stts", 0, &[0]),
        full("stsc", 0, &[0]),
        full("stsz", 0, &[0, 0]),
        full("stco", 0, &[0]),
    ];
    let dinf = container("dinf", &[make("dref", &dref)]);
    let mdia = container(
        "mdia",
        &[
            full("mdhd", 0, &[0, 0, 1000, 0, packed << 16]),
            make("hdlr", &[&[0; 8][..], &handler, &[0; 13]].concat()),
            container("minf", &[header, dinf, container("stbl", &stbl)]),
        ],
    );
    let moov = container(
        "moov",
        &[
            full("mvhd", 0, &mvhd),
            container("trak", &[full("tkhd", 3, &tkhd), mdia]),
            container("mvex", &[full("trex", 0, &[1, 1, 0, 0, 0])]),
        ],
    );
    [make("ftyp", b"iso6\0\0\0\0iso6cmfc"), moov].concat()
}

/// One sample, from and for so many milliseconds.
fn text_fragment(from_ms: u64, for_ms: u32, words: &[u8]) -> Vec<u8> {
    let moof = |offset: u32| {
        let time = [(from_ms >> 32) as u32, from_ms as u32];
        let traf = [
            full("tfhd", 0x0002_0000, &[1]),
            full("tfdt", 0x0100_0000, &time),
            full("trun", 0x0701, &[1, offset, for_ms, words.len() as u32, 0x0200_0000]),
        ];
        container("moof", &[full("mfhd", 0, &[from_ms as u32 + 1]), container("traf", &traf)])
    };
    let offset = moof(0).len() as u32 + 8;
    [moof(offset), make("mdat", words)].concat()
}

/// A show with a text track beside it.
fn subtitled(kind: &str, fragments: &[Vec<u8>]) -> Show {
    let mut show = Show::start(WINDOW);
    let mut upload = Upload::begin(show.address(), "/live/cam/words.cmft", "");
    upload.append(&text_init(kind, "deu"));
    for fragment in fragments {
        upload.append(fragment);
    }
    show.beside = Some(upload);
    show.push(48);
    show.shown();
    show
}

fn assert_subtitles(kind: &str, codec: &str) {
    let words = |index: u64| text_fragment(index * 1000, 1000, format!("cue {index}").as_bytes());
    let show = subtitled(kind, &(0..9).map(words).collect::<Vec<_>>());
    let index = "/live/cam/index.m3u8";
    let text = until_text(show.address(), index, "subtitles", |text| text.contains("SUBTITLES"));
    let of = |name| attribute(&text, "#EXT-X-MEDIA:TYPE=SUBTITLES", "", name);
    assert!(of("LANGUAGE").is_some_and(|it| it == "de" || it == "deu"), "{text}");
    let group = of("GROUP-ID").unwrap();
    let stream = |name| attribute(&text, "#EXT-X-STREAM-INF", "", name);
    assert_eq!(stream("SUBTITLES"), Some(group), "{text}");
    let codecs = stream("CODECS").unwrap();
    assert!(codecs.split(',').any(|one| one.starts_with(codec)), "RFC 8216bis 4.4.6.2: {codecs}");
    let url = format!("/live/cam/{}", of("URI").unwrap());
    let list = until(show.address(), &url, "some segments", |list| list.length() >= 6.0);
    assert!(list.all().all(|segment| !segment.gap), "{list:?}");
    let mpd = Node::parse(&get(show.address(), MPD).text());
    let set =
        mpd.all("AdaptationSet").into_iter().find(|set| set.get("contentType") == Some("text"));
    let set = set.unwrap_or_else(|| panic!("no text in {mpd:#?}"));
    assert_eq!(set.get("mimeType"), Some("application/mp4"));
    assert!(set.one("Representation").needed("codecs").starts_with(codec), "{set:#?}");
}

/// Goal: WebVTT in CMAF is a group of subtitles, with its language, and a set of the MPD.
#[test]
fn webvtt_in_cmaf_is_a_group_of_subtitles() {
    assert_subtitles("wvtt", "wvtt");
}

#[test]
fn ttml_in_cmaf_is_a_group_of_subtitles() {
    assert_subtitles("stpp", "stpp");
}

/// Goal: a sparse track does not hold up anything and is listed by the rules. Method: three words in
/// nine seconds, far apart.
#[test]
fn sparse_subtitles_are_listed_by_the_rules() {
    let at = |ms: u64| text_fragment(ms, 400, b"a word");
    let show = subtitled("wvtt", &[at(0), at(3000), at(8200)]);
    let list = until(show.address(), LIST, "pictures", |list| list.length() > 9.0);
    assert!(!list.ended && list.segments.iter().all(|one| one.duration == Some(1.0)));
    let index = "/live/cam/index.m3u8";
    let text = until_text(show.address(), index, "subtitles", |text| text.contains("SUBTITLES"));
    let uri = attribute(&text, "#EXT-X-MEDIA:TYPE=SUBTITLES", "", "URI").unwrap();
    let words = until(show.address(), &format!("/live/cam/{uri}"), "all words", |list| {
        let last = list.all().last().and_then(|one| one.date_ms);
        last.is_some_and(|last| last - list.segments[0].date_ms.unwrap() >= 7_000)
    });
    assert_eq!(words.target_duration, list.target_duration);
}
