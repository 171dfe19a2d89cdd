//! Tests only: what an independent reader (`quick-m3u8`) makes of what is written here, for any
//! value a packager could fill in, and whether the lines stand in the order that the draft wants.

use proptest::prelude::*;
use quick_m3u8::config::ParsingOptionsBuilder;
use quick_m3u8::tag::KnownTag;
use quick_m3u8::tag::hls::{self, Tag};
use quick_m3u8::{HlsLine, Reader};

use super::*;

/// Parses every line; a line that the reader does not know, or cannot read, fails the test.
fn tags<'t>(text: &'t str, mut each: impl FnMut(Result<Tag<'t>, String>)) {
    let options = ParsingOptionsBuilder::new().with_parsing_for_all_tags().build();
    let mut reader = Reader::from_str(text, options);
    loop {
        match reader.read_line() {
            Ok(None) => return,
            Ok(Some(HlsLine::KnownTag(KnownTag::Hls(tag)))) => each(Ok(tag)),
            Ok(Some(HlsLine::Uri(uri))) => each(Err(uri.into_owned())),
            other => panic!("not written by us: {other:?}"),
        }
    }
}

fn range_of(range: Option<hls::MapByterange>) -> Option<ByteRange> {
    range.map(|range| ByteRange { length: range.length, offset: range.offset })
}

fn unix_ms(time: quick_m3u8::date::DateTime) -> i64 {
    let text = time.to_string();
    let seconds = text.split_once('.').expect("it has milliseconds").0;
    let http = httpdate_of(seconds);
    http * 1000 + (time.time_second.fract() * 1000.0).round() as i64
}

/// Days by plain counting, unlike the writer's arithmetic.
fn httpdate_of(text: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| text[range].parse::<i64>().expect("digits");
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    let is_leap = |year: i64| (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let mut days: i64 = (1970..year).map(|year| 365 + i64::from(is_leap(year))).sum();
    let lengths = [31, 28 + i64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    days += lengths.iter().take(month as usize - 1).sum::<i64>() + day - 1;
    days * 86_400 + number(11..13) * 3600 + number(14..16) * 60 + number(17..19)
}

/// The value again. MAP and BITRATE are put where the text has them.
fn read(text: &str) -> MediaPlaylist {
    let mut playlist = MediaPlaylist::default();
    let mut segment = Segment::default();
    let mut is_last = false;
    tags(text, |line| {
        assert!(!is_last, "nothing stands behind ENDLIST");
        match line {
            Err(uri) => {
                segment.uri = uri;
                playlist.segments.push(std::mem::take(&mut segment));
            }
            Ok(tag) => {
                is_last = matches!(tag, Tag::Endlist(_));
                if let Some(tag) = read_segment(tag, &mut segment) {
                    read_playlist(tag, &mut playlist);
                }
            }
        }
    });
    playlist.open = (!segment.parts.is_empty()).then_some(segment);
    playlist
}

/// Gives the tag back if it is not of a segment.
fn read_segment<'t>(tag: Tag<'t>, segment: &mut Segment) -> Option<Tag<'t>> {
    match tag {
        Tag::Inf(inf) => segment.duration_s = inf.duration(),
        Tag::Gap(_) => segment.gap = true,
        Tag::Bitrate(bitrate) => segment.bitrate = Some(bitrate.bitrate()),
        Tag::Byterange(range) => {
            let offset = range.offset().expect("it is always written");
            segment.byte_range = Some(ByteRange { length: range.length(), offset });
        }
        Tag::Discontinuity(_) => {
            assert!(segment.parts.is_empty() && segment.map.is_none(), "it stands first");
            segment.discontinuity = true;
        }
        Tag::Map(map) => {
            assert!(segment.parts.is_empty(), "it stands before the parts");
            let byte_range = range_of(map.byterange());
            segment.map = Some(Map { uri: map.uri().to_owned(), byte_range });
        }
        Tag::ProgramDateTime(time) => {
            assert!(segment.parts.is_empty(), "it stands before the parts");
            segment.program_date_time_ms = Some(unix_ms(time.program_date_time()));
        }
        Tag::Part(part) => segment.parts.push(Part {
            uri: part.uri().to_owned(),
            duration_s: part.duration(),
            independent: part.independent(),
            gap: part.gap(),
            byte_range: part.byterange().map(|range| ByteRange {
                length: range.length,
                offset: range.offset.expect("it is always written"),
            }),
        }),
        other => return Some(other),
    }
    None
}

fn read_playlist(tag: Tag<'_>, playlist: &mut MediaPlaylist) {
    match tag {
        Tag::M3u(_) | Tag::Version(_) => {}
        Tag::Targetduration(tag) => playlist.target_duration_s = tag.target_duration(),
        Tag::MediaSequence(tag) => playlist.media_sequence = tag.media_sequence(),
        Tag::DiscontinuitySequence(tag) => {
            playlist.discontinuity_sequence = tag.discontinuity_sequence();
        }
        Tag::IndependentSegments(_) => playlist.independent_segments = true,
        Tag::PartInf(tag) => playlist.part_target_s = Some(tag.part_target()),
        Tag::ServerControl(tag) => {
            playlist.server_control = ServerControl {
                can_block: tag.can_block_reload(),
                hold_back_s: tag.hold_back(),
                part_hold_back_s: tag.part_hold_back(),
                can_skip_until_s: tag.can_skip_until(),
                can_skip_dateranges: tag.can_skip_dateranges(),
            };
        }
        Tag::Skip(tag) => {
            let removed = tag.recently_removed_dateranges();
            let list = |text: &str| text.split('\t').map(str::to_owned).collect();
            playlist.skip = Some(Skip {
                segments: tag.skipped_segments(),
                removed_dateranges: removed.map(list),
                ..Skip::default()
            });
        }
        Tag::PreloadHint(tag) => playlist.hints.push(match tag.hint_type().to_string().as_str() {
            "PART" => {
                let byte_start = Some(tag.byterange_start()).filter(|start| *start > 0);
                Hint::Part { uri: tag.uri().to_owned(), byte_start }
            }
            _ => Hint::Map { uri: tag.uri().to_owned() },
        }),
        Tag::RenditionReport(tag) => playlist.reports.push(Report {
            uri: tag.uri().to_owned(),
            last_msn: tag.last_msn(),
            last_part: tag.last_part(),
        }),
        Tag::Endlist(_) => playlist.ended = true,
        other => panic!("not in these values: {other:?}"),
    }
}

/// In steps of 10 µs, which is what a text can say.
fn seconds() -> impl Strategy<Value = f64> {
    (1..1_000_000_u64).prop_map(|steps| steps as f64 / 1e5)
}

fn byte_range() -> impl Strategy<Value = Option<ByteRange>> {
    prop::option::of(
        (1..1_u64 << 40, 0..1_u64 << 40).prop_map(|(length, offset)| ByteRange { length, offset }),
    )
}

fn uri() -> impl Strategy<Value = String> {
    "[a-z0-9][a-zA-Z0-9/._~%?&=-]{0,20}"
}

fn part() -> impl Strategy<Value = Part> {
    (uri(), seconds(), any::<(bool, bool)>(), byte_range()).prop_map(
        |(uri, duration_s, (independent, gap), byte_range)| Part {
            uri,
            duration_s,
            independent,
            gap,
            byte_range,
        },
    )
}

fn segment() -> impl Strategy<Value = Segment> {
    let map = (0..3, byte_range())
        .prop_map(|(n, byte_range)| Map { uri: format!("{n}.mp4"), byte_range });
    let about = (any::<(bool, bool)>(), prop::option::of(0..9999_u64));
    let time = prop::option::of(0..4_102_444_800_000_i64);
    let parts = prop::collection::vec(part(), 0..4);
    (uri(), seconds(), about, prop::option::of(map), time, byte_range(), parts).prop_map(
        |(uri, duration_s, ((discontinuity, gap), bitrate), map, time, byte_range, parts)| {
            Segment {
                uri,
                duration_s,
                discontinuity,
                map,
                program_date_time_ms: time,
                gap,
                byte_range,
                parts,
                bitrate,
            }
        },
    )
}

fn playlist() -> impl Strategy<Value = MediaPlaylist> {
    let numbers = (1..9_u64, 0..1_u64 << 40, any::<u16>(), any::<(bool, bool, bool, bool)>());
    let times = prop::collection::vec(prop::option::of(seconds()), 4);
    let segments = prop::collection::vec(segment(), 0..30);
    let open = prop::option::of(segment());
    let report = (uri(), any::<u32>(), prop::option::of(0..9_u64));
    let about = (prop::collection::vec(report, 0..3), prop::option::of((uri(), any::<bool>())));
    (numbers, times, segments, open, about).prop_map(
        |(
            (target_duration_s, media_sequence, discontinuities, flags),
            times,
            segments,
            open,
            about,
        )| {
            MediaPlaylist {
                target_duration_s,
                media_sequence,
                discontinuity_sequence: discontinuities.into(),
                independent_segments: flags.0,
                server_control: ServerControl {
                    can_block: flags.1,
                    hold_back_s: times[0],
                    part_hold_back_s: times[1],
                    can_skip_until_s: times[2],
                    can_skip_dateranges: flags.2,
                },
                part_target_s: times[3],
                segments,
                open,
                reports: about
                    .0
                    .into_iter()
                    .map(|(uri, last_msn, last_part)| Report {
                        uri,
                        last_msn: last_msn.into(),
                        last_part,
                    })
                    .collect(),
                hints: about
                    .1
                    .into_iter()
                    .map(|(uri, is_map)| match is_map {
                        true => Hint::Map { uri },
                        false => Hint::Part { byte_start: Some(uri.len() as u64), uri },
                    })
                    .collect(),
                ended: flags.3,
                ..MediaPlaylist::default()
            }
        },
    )
}

/// What the text can say of the value: no map and bitrate twice, no open segment without parts or
/// with what only an end tells, nothing promised at the end, no old parts.
fn as_written(mut playlist: MediaPlaylist) -> MediaPlaylist {
    let skip = playlist.skip.take();
    let mut map = skip.as_ref().and_then(|skip| skip.map.clone());
    let mut bitrate = skip.as_ref().and_then(|skip| skip.bitrate_kbps);
    let mut behind_s = playlist.duration_s();
    let parts_s = 3.0 * playlist.target_duration_s as f64 + 1e-6;
    playlist.open = playlist.open.filter(|open| !open.parts.is_empty()).map(|open| Segment {
        uri: String::new(),
        duration_s: 0.0,
        gap: false,
        byte_range: None,
        ..open
    });
    for segment in playlist.segments.iter_mut() {
        behind_s -= segment.duration_s;
        if behind_s > parts_s {
            segment.parts.clear();
        }
    }
    for segment in playlist.segments.iter_mut().chain(&mut playlist.open) {
        if segment.discontinuity {
            map = None;
        }
        let (new_map, new_bitrate) = (segment.map.take(), segment.bitrate.take());
        if new_map.is_some() && new_map != map {
            map = new_map.clone();
            segment.map = new_map;
        }
        if new_bitrate.is_some() && new_bitrate != bitrate {
            bitrate = new_bitrate;
            segment.bitrate = new_bitrate;
        }
    }
    if playlist.ended {
        playlist.hints.clear();
        playlist.reports.clear();
    }
    playlist.skip = skip.map(|skip| Skip {
        segments: skip.segments,
        removed_dateranges: skip.removed_dateranges.map(|_| vec![String::new()]),
        ..Skip::default()
    });
    playlist
}

proptest! {
    #[test]
    fn another_reader_reads_the_same(playlist in playlist(), v2 in any::<bool>()) {
        let mut text = String::new();
        playlist.write(&mut text);
        prop_assert_eq!(read(&text), as_written(playlist.clone()));
        if let Some(delta) = playlist.delta(v2, 0) {
            let mut text = String::new();
            delta.write(&mut text);
            prop_assert_eq!(read(&text), as_written(delta));
        }
    }

    #[test]
    fn another_reader_reads_the_variants(uri in uri(), name in any::<String>(),
        bandwidth in any::<u64>(), size in any::<(u32, u32)>(), group in "[^\\p{Cc}\"]{1,9}") {
        let variant = Variant {
            uri: uri.clone(), bandwidth, resolution: Some(size), audio_group: Some(group.clone()),
            frame_rate: Some(25.0), ..Variant::default()
        };
        let media = Media {
            kind: MediaKind::Audio, group: group.clone(), name, language: None, default: false,
            autoselect: true, forced: false, channels: Some(6), characteristics: Vec::new(),
            uri: Some(uri.clone()),
        };
        let mut text = String::new();
        MultivariantPlaylist { variants: vec![variant], media: vec![media], ..Default::default() }
            .write(&mut text);
        let mut found = 0;
        tags(&text, |line| match line {
            Err(read) => assert_eq!(read, uri),
            Ok(Tag::Media(media)) => {
                found += 1;
                assert_eq!((media.group_id(), media.uri()), (group.as_str(), Some(uri.as_str())));
                assert!(media.autoselect() && !media.default());
            }
            Ok(Tag::StreamInf(variant)) => {
                found += 1;
                let read = variant.resolution().expect("it was written");
                assert_eq!((read.width, read.height), (size.0.into(), size.1.into()));
                assert_eq!((variant.bandwidth(), variant.audio()), (bandwidth, Some(group.as_str())));
                assert_eq!(variant.frame_rate(), Some(25.0));
            }
            Ok(_) => {}
        });
        prop_assert_eq!(found, 2);
    }
}
