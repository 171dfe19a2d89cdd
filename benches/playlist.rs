//! What it costs to write a playlist for each new part: a minute of low latency, two hours of
//! segments, and the delta update of both. Segments are shared, as the packager holds them. Gzip is
//! not in it.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use headwater::wire::playlist::{
    Hint, Map, MediaPlaylist, Part, Pushed, Report, Segment, ServerControl, delta_text,
};

const TARGET_S: u64 = 2;
const PARTS: u64 = 10;
const FIRST_MSN: u64 = 897_627_600;
const START_MS: i64 = 1_795_255_200_000;

fn segment(msn: u64, map: &Map) -> Segment {
    let part = |n| Part {
        uri: format!("video/18f3a2c4/{msn}.{n}.m4s"),
        duration_s: 0.2,
        independent: n == 0,
        ..Part::default()
    };
    Segment {
        uri: format!("video/18f3a2c4/{msn}.m4s"),
        duration_s: TARGET_S as f64,
        map: Some(map.clone()),
        program_date_time_ms: Some(START_MS + 2000 * (msn - FIRST_MSN) as i64),
        parts: (0..PARTS).map(part).collect(),
        ..Segment::default()
    }
}

fn playlist(segments: u64) -> MediaPlaylist<Arc<Segment>> {
    let map = Map { uri: "video/18f3a2c4/init.mp4".to_owned(), byte_range: None };
    let last = FIRST_MSN + segments;
    let mut open = segment(last, &map);
    open.parts.truncate(5);
    MediaPlaylist {
        target_duration_s: TARGET_S,
        media_sequence: FIRST_MSN,
        server_control: ServerControl {
            can_block: true,
            part_hold_back_s: Some(0.6),
            can_skip_until_s: Some(12.0),
            ..ServerControl::default()
        },
        part_target_s: Some(0.2),
        segments: (FIRST_MSN..last).map(|msn| Arc::new(segment(msn, &map))).collect(),
        open: Some(Arc::new(open)),
        hints: vec![Hint::Part { uri: format!("video/18f3a2c4/{last}.5.m4s"), byte_start: None }],
        reports: vec![Report { uri: "audio.m3u8".to_owned(), last_msn: last, last_part: Some(4) }],
        ..MediaPlaylist::default()
    }
}

fn write(criterion: &mut Criterion) {
    for segments in [30, 3600] {
        let playlist = playlist(segments);
        let mut text = String::new();
        playlist.write(&mut text);
        let mut group = criterion.benchmark_group(format!("playlist/{segments} segments"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("write", |bencher| {
            bencher.iter(|| {
                let mut out = String::new();
                black_box(&playlist).write(&mut out);
                out
            });
        });
        group.bench_function("delta", |bencher| {
            bencher.iter(|| {
                let mut out = String::new();
                let delta = black_box(&playlist).delta(false, START_MS);
                delta.expect("there is something to skip").write(&mut out);
                out
            });
        });
        group.bench_function("delta of the pushed text", |bencher| {
            bencher.iter(|| {
                let pushed = Pushed::parse(black_box(&text)).expect("it is ours");
                delta_text(&text, &pushed, false).expect("there is something to skip")
            });
        });
        group.finish();
    }
}

criterion_group!(benches, write);
criterion_main!(benches);
