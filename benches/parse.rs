//! What the codecs cost per unit of their work: request heads as clients send them, the chunked
//! coding, targets, ranges, the scanners that find fragments and packets in what is uploaded, and
//! WebSocket frames.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater::wire::fmp4::{self, FragmentScanner};
use headwater::wire::http1::{
    BodyDecoder, Chunk, Framing, HeadLimits, HeaderRoom, Parsed, parse, parse_range, parse_target,
};
use headwater::wire::mpegts::{self, PACKET_BYTES, TsScanner};
use headwater::wire::websocket::{FrameHead, Opcode, Peer, PeerEvent, PeerLimits, unmask};

static SAMPLE: &[u8] = include_bytes!("../src/commands/sample.mp4");

const WRK: &str = "GET /live/seg-17.m4s HTTP/1.1\r\nHost: 127.0.0.1:9094\r\n\r\n";

const CURL: &str = "GET /live/seg-17.m4s HTTP/1.1\r\nHost: origin.example:9094\r\n\
    User-Agent: curl/8.5.0\r\nAccept: */*\r\nRange: bytes=0-65535\r\n\r\n";

const HLS_JS: &str = "GET /live/one/video.m3u8?_HLS_msn=1024&_HLS_part=3 HTTP/1.1\r\n\
    Host: origin.example\r\nConnection: keep-alive\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/131.0.0.0 Safari/537.36\r\n\
    sec-ch-ua: \"Google Chrome\";v=\"131\", \"Chromium\";v=\"131\", \"Not_A Brand\";v=\"24\"\r\n\
    sec-ch-ua-mobile: ?0\r\nAccept: */*\r\nOrigin: https://player.example\r\n\
    Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n\
    Referer: https://player.example/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9\r\n\r\n";

const BODY_BYTES: usize = 64 << 10;
const CHUNK_BYTES: usize = 4 << 10;
const TS_PICTURES: usize = 500;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MESSAGES: usize = 1000;
const MESSAGE_BYTES: usize = 32;

fn heads(criterion: &mut Criterion) {
    let limits = HeadLimits { request_line_bytes_max: 8 << 10, head_bytes_max: 32 << 10 };
    let mut group = criterion.benchmark_group("parse/head");
    for (client, head) in [("wrk", WRK), ("curl", CURL), ("hls.js", HLS_JS)] {
        group.throughput(Throughput::Bytes(head.len() as u64));
        group.bench_function(client, |bencher| {
            bencher.iter(|| {
                let mut room = HeaderRoom::default();
                let parsed = parse(black_box(head.as_bytes()), &mut room, &limits);
                match parsed.expect("the head is good") {
                    Parsed::Request(request) => request.head_bytes,
                    Parsed::Partial => unreachable!("the head is complete"),
                }
            });
        });
    }
}

fn body(criterion: &mut Criterion) {
    let data = [0x5a; CHUNK_BYTES];
    let mut coded = Vec::new();
    for _ in 0..BODY_BYTES / CHUNK_BYTES {
        coded.extend_from_slice(Chunk::header(CHUNK_BYTES as u64).as_bytes());
        coded.extend_from_slice(&data);
        coded.extend_from_slice(Chunk::END);
    }
    coded.extend_from_slice(b"0\r\n\r\n");
    let mut group = criterion.benchmark_group("parse/body");
    group.throughput(Throughput::Bytes(BODY_BYTES as u64));
    group.bench_function("64 KiB in chunks of 4 KiB", |bencher| {
        bencher.iter(|| {
            let mut decoder = BodyDecoder::new(Framing::Chunked);
            let mut payload_bytes = 0;
            let progress = decoder.decode(black_box(&coded), &mut |piece| {
                payload_bytes += black_box(piece).len();
            });
            assert!(progress.expect("the coding is good").finished);
            assert_eq!(payload_bytes, BODY_BYTES);
        });
    });
}

fn targets(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse/target");
    let targets = [
        ("plain", "/live/one/seg-17.m4s"),
        ("to normalise", "/live//one/./two/../seg%2D17.m4s?token=abc"),
    ];
    for (name, target) in targets {
        group.bench_function(name, |bencher| {
            bencher.iter(|| parse_target(black_box(target)).expect("the target is good").is_folder);
        });
    }
    group.finish();
    let mut group = criterion.benchmark_group("parse/range");
    let ranges = [("one", "bytes=1048576-2097151"), ("four", "bytes=0-99, 200-299, 1000-, -500")];
    for (name, range) in ranges {
        group.bench_function(name, |bencher| {
            bencher.iter(|| parse_range(black_box(range)).expect("the range is good"));
        });
    }
}

/// A pass over the sample film, told per fragment.
fn fragments(criterion: &mut Criterion) {
    let scan = |bytes: &[u8]| {
        let (mut scanner, mut count) = (FragmentScanner::new(), 0);
        scanner.push(bytes, &mut |found| {
            count += u64::from(matches!(found, fmp4::Found::Chunk { .. }));
        });
        count
    };
    let count = scan(SAMPLE);
    assert!(count > 1);
    let mut group = criterion.benchmark_group("parse/fmp4");
    group.throughput(Throughput::Elements(count));
    group.bench_function("fragments", |bencher| bencher.iter(|| scan(black_box(SAMPLE))));
}

/// Pictures of 20 packets, the tables before every 25th, which has its parameter set and is one
/// to begin with; told per packet.
fn packets(criterion: &mut Criterion) {
    let stream = transport_stream();
    let scan = |bytes: &[u8]| {
        let (mut scanner, mut count) = (TsScanner::new(), 0);
        scanner.push(bytes, &mut |found| {
            count += usize::from(matches!(found, mpegts::Found::Unit { .. }));
        });
        count
    };
    assert_eq!(scan(&stream), TS_PICTURES);
    let mut group = criterion.benchmark_group("parse/mpegts");
    group.throughput(Throughput::Elements((stream.len() / PACKET_BYTES) as u64));
    group.bench_function("packets", |bencher| bencher.iter(|| scan(black_box(&stream))));
}

fn transport_stream() -> Vec<u8> {
    // Sections with their CRC: program 1 has its PMT at PID 0x1000, with H.264 at PID 0x100 and
    // AAC at PID 0x101.
    let pat = b"\x00\xb0\x0d\x00\x01\xc1\x00\x00\x00\x01\xf0\x00\x2a\xb1\x04\xb2";
    let pmt = b"\x02\xb0\x17\x00\x01\xc1\x00\x00\xe1\x00\xf0\x00\
        \x1b\xe1\x00\xf0\x00\x0f\xe1\x01\xf0\x00\x2f\x44\xb9\x9b";
    let mut stream = Vec::new();
    let mut add = |head: &[u8], payload: &[u8]| {
        let end = stream.len() + PACKET_BYTES;
        stream.extend_from_slice(head);
        stream.extend_from_slice(payload);
        stream.resize(end, 0xff);
    };
    for picture in 0..TS_PICTURES {
        let (key, counter) = (picture % 25 == 0, (picture * 4 % 16) as u8);
        if key {
            let tables = 0x10 | ((picture / 25) as u8 % 16);
            add(&[0x47, 0x40, 0x00, tables, 0], pat);
            add(&[0x47, 0x50, 0x00, tables, 0], pmt);
        }
        // The head of a PES packet of unknown length, with its PTS, and the start of a slice.
        let pts = picture as u32 * 3600;
        let low = [(pts >> 14) as u8 | 1, (pts >> 7) as u8, (pts << 1) as u8 | 1];
        let mut start = vec![0, 0, 1, 0xe0, 0, 0, 0x80, 0x80, 5, 0x21, (pts >> 22) as u8];
        start.extend(low);
        if key {
            start.extend(b"\0\0\x01\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x04\x40\0\0\x03\0\x40");
        }
        start.extend([0, 0, 1, if key { 0x65 } else { 0x41 }]);
        let flags = if key { 0x40 } else { 0 };
        add(&[0x47, 0x41, 0x00, 0x30 | (counter % 16), 1, flags], &start);
        for packet in 1..20 {
            add(&[0x47, 0x01, 0x00, 0x10 | ((counter + packet) % 16)], &[]);
        }
    }
    stream
}

/// The mask alone over what one read can bring, and messages so small that their heads decide.
fn websocket(criterion: &mut Criterion) {
    let mut payload = vec![0x5a; BODY_BYTES];
    let mut group = criterion.benchmark_group("parse/websocket");
    group.throughput(Throughput::Bytes(BODY_BYTES as u64));
    group.bench_function("unmask 64 KiB", |bencher| {
        bencher.iter(|| unmask(black_box(&mut payload), black_box(MASK)));
    });

    let mut frames = Vec::new();
    for _ in 0..MESSAGES {
        let start = frames.len();
        let head = FrameHead::new(Opcode::Text, true, MESSAGE_BYTES as u64);
        frames.extend_from_slice(head.as_bytes());
        frames[start + 1] |= 0x80;
        // A mask of nothing: the frames stay what they are from one round to the next.
        frames.extend_from_slice(&[0; 4]);
        frames.extend_from_slice(&[b'a'; MESSAGE_BYTES]);
    }
    group.throughput(Throughput::Elements(MESSAGES as u64));
    for (name, checks_text) in [("1000 messages", false), ("1000 messages, UTF-8 checked", true)] {
        let mut peer = Peer::new(PeerLimits { message_bytes_max: 1 << 20, checks_text });
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut count = 0;
                let pushed = peer.push(black_box(&mut frames), &mut |event| {
                    count += usize::from(matches!(event, PeerEvent::Data { is_last: true, .. }));
                });
                pushed.expect("the frames are good");
                assert_eq!(count, MESSAGES);
            });
        });
    }
}

criterion_group!(benches, heads, body, targets, fragments, packets, websocket);
criterion_main!(benches);
