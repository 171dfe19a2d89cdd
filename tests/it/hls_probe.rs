//! What a strict client asks beside following, of every presentation that it follows: wrong and stale
//! directives, conditions, names that are not there; and whether the multivariant playlist promised
//! what came. The rules go by their numbers, as `hls_playlist` says.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::client::{Answer, Client};
use crate::hls_checker::{Summary, check_answer, gunzip, max_age, multivariant, resolve};
use crate::hls_playlist::{Multivariant, Playlist, Variant, Verdict, demand};

/// A live playlist may change between two questions about one version, but not so often in a row.
const TRIES_MAX: usize = 50;
/// Segments are summed up by their EXTINF, which has five decimals.
const DURATION_ROUNDING: f64 = 2e-5;
/// Of the frame rate that the samples show.
const FRAME_RATE_SLACK: f64 = 0.02;
/// Codecs of pictures.
const PICTURES: [&str; 6] = ["avc1", "avc3", "hvc1", "hev1", "av01", "vp09"];

/// What every refusal has: players on pages can read it, caches keep it for this long or not at all.
pub(crate) fn check_refusal(
    answer: &Answer,
    (rule, status): (&str, u16),
    keep_s: f64,
) -> Verdict<()> {
    demand!(answer.status == status, rule, "{} where {status} is due", answer.status);
    let cors = answer.field("access-control-allow-origin");
    demand!(cors.is_some(), "CORS", "{status} without Access-Control-Allow-Origin");
    let control = answer.field("cache-control").unwrap_or("");
    let age = max_age(answer);
    let short = control == "no-store" || age.as_ref().is_ok_and(|age| *age <= keep_s);
    demand!(short, "B1", "{status} with Cache-Control {control:?}, {keep_s} s at most");
    let retry = answer.field("retry-after").and_then(|after| after.parse::<u32>().ok());
    demand!(status != 503 || retry.is_some(), "S16", "503 without Retry-After");
    demand!(status != 503 || control == "no-store", "S16", "503 with {control:?}");
    demand!(!answer.body.is_empty(), rule, "{status} without a reason");
    demand!(answer.field("age").is_none(), "B1", "an origin sent Age");
    demand!(answer.field("set-cookie").is_none(), "CACHE", "a cookie");
    Ok(())
}

/// All questions about one live media playlist.
pub(crate) fn probe(address: SocketAddr, url: &str, list: &Playlist) -> Verdict<()> {
    let mut client = Client::connect(address);
    let of = |why| format!("{why} ({url})");
    ask_wrongly(&mut client, url, list).map_err(of)?;
    ask_for_the_past(&mut client, url, list).map_err(of)?;
    ask_for_nothing(&mut client, url, list).map_err(of)?;
    ask_again(&mut client, url).map_err(of)?;
    ask_for_the_head(&mut client, url, list).map_err(of)
}

/// S14, S15.
fn ask_wrongly(client: &mut Client, url: &str, list: &Playlist) -> Verdict<()> {
    let far = list.open_msn() + 1000;
    let keep_s = 4.0 * list.target_duration;
    for (rule, query) in [
        ("S14", "?_HLS_part=0".to_owned()),
        ("S14", "?_HLS_msn=1x".to_owned()),
        ("S15", format!("?_HLS_msn={far}")),
        ("S15", format!("?_HLS_part=0&_HLS_msn={far}")),
    ] {
        let answer = client.ask("GET", &format!("{url}{query}"), "");
        check_refusal(&answer, (rule, 400), keep_s).map_err(|why| format!("{why}: {query}"))?;
    }
    Ok(())
}

/// S12, S20.
fn ask_for_the_past(client: &mut Client, url: &str, list: &Playlist) -> Verdict<()> {
    let first = list.media_sequence;
    for query in [
        "?_HLS_msn=0".to_owned(),
        format!("?_HLS_msn={first}&_HLS_part=0"),
        format!("?_HLS_part=1&CMCD=bl%3D1&_HLS_msn={first}"),
    ] {
        let answer = client.ask("GET", &format!("{url}{query}"), "");
        demand!(answer.status == 200, "S12", "{query}: {}", answer.status);
        check_answer(&answer, &["application/vnd.apple.mpegurl"])?;
        let new = Playlist::checked(&answer.text())?;
        demand!(new.last() >= list.last() || new.ended, "S12", "{query}: not the newest");
        let right = max_age(&answer)? == 6.0 * new.target_duration;
        demand!(right, "CACHE", "{query}: {:?}", answer.field("cache-control"));
    }
    Ok(())
}

/// S18: a name like those of the segments, but far ahead; a name like no other.
fn ask_for_nothing(client: &mut Client, url: &str, list: &Playlist) -> Verdict<()> {
    let Some(last) = list.segments.last() else {
        return Ok(());
    };
    let (folder, name) = last.uri.rsplit_once('/').unwrap_or((".", &last.uri));
    let ahead = name.replace(&last.msn.to_string(), &(last.msn + 1000).to_string());
    for name in [ahead, format!("absent-{name}")] {
        let target = resolve(url, &format!("{folder}/{name}"));
        let answer = client.ask("GET", &target, "");
        check_refusal(&answer, ("S18", 404), list.target_duration)
            .map_err(|why| format!("{why}: {target}"))?;
    }
    Ok(())
}

/// A version that a client has is not sent again; the two forms of a version have two tags.
fn ask_again(client: &mut Client, url: &str) -> Verdict<()> {
    let wrong = client.ask("GET", url, "If-None-Match: \"other\"\r\n");
    demand!(wrong.status == 200, "CACHE", "{} for a tag of something else", wrong.status);
    for coding in ["", "Accept-Encoding: gzip\r\n"] {
        let unchanged = (0..TRIES_MAX).find_map(|_| {
            let first = client.ask("GET", url, coding);
            let tag = first.field("etag").unwrap_or("").to_owned();
            let fields = format!("{coding}If-None-Match: {tag}\r\n");
            let again = client.ask("GET", url, &fields);
            let same = again.status == 304 || again.field("etag") == first.field("etag");
            same.then_some((first, again))
        });
        let Some((first, again)) = unchanged else {
            return Err("CACHE: no version lasted for two questions".to_owned());
        };
        demand!(first.field("etag").is_some(), "CACHE", "a playlist without ETag");
        demand!(again.status == 304, "CACHE", "{} for what the client has", again.status);
        demand!(again.body.is_empty(), "CACHE", "304 with a body");
        for name in ["etag", "cache-control", "vary", "access-control-allow-origin"] {
            let (one, other) = (first.field(name), again.field(name));
            demand!(one.is_some() && one == other, "CACHE", "304 with {name} {other:?}: {one:?}");
        }
    }
    for _ in 0..TRIES_MAX {
        let plain = client.ask("GET", url, "");
        let packed = client.ask("GET", url, "Accept-Encoding: gzip\r\n");
        if packed.field("content-encoding") == Some("gzip") && gunzip(&packed.body) == plain.body {
            let (one, other) = (plain.field("etag"), packed.field("etag"));
            demand!(one != other, "CACHE", "one tag {one:?} for two forms");
            return Ok(());
        }
    }
    Err("B1: no version came plain and in gzip".to_owned())
}

fn ask_for_the_head(client: &mut Client, url: &str, list: &Playlist) -> Verdict<()> {
    let part = list.all().flat_map(|segment| &segment.parts).rfind(|part| !part.gap);
    let part = part.map(|part| resolve(url, &part.uri));
    for target in std::iter::once(url.to_owned()).chain(part) {
        let (head, got) = (client.ask("HEAD", &target, ""), client.ask("GET", &target, ""));
        demand!(head.status == got.status, "S1", "HEAD {target}: {}", head.status);
        for name in ["content-type", "cache-control", "access-control-allow-origin"] {
            let (one, other) = (head.field(name), got.field(name));
            demand!(one == other, "S1", "HEAD {target}: {name} {one:?}, not {other:?}");
        }
    }
    Ok(())
}

// The multivariant playlist.

/// What the multivariant playlist says of the playlists that were followed is what came.
pub(crate) fn check_promises(address: SocketAddr, index: &str, found: &[Summary]) -> Verdict<()> {
    let list = multivariant(address, index, found.len());
    let of = |uri: &str| {
        let url = resolve(index, uri);
        found.iter().find(|one| one.url == url).ok_or(format!("M: {uri} was not followed"))
    };
    for variant in &list.variants {
        let own = of(&variant.uri)?;
        let groups = group_of(&list, variant).into_iter().map(|uri| of(&uri));
        let sounds = groups.collect::<Verdict<Vec<_>>>()?;
        check_variant(variant, own, &sounds).map_err(|why| format!("{why} ({})", variant.uri))?;
    }
    Ok(())
}

/// Where the renditions of its audio group are.
fn group_of(list: &Multivariant, variant: &Variant) -> Vec<String> {
    let of_group = list
        .media
        .iter()
        .filter(|media| media.kind == "AUDIO" && variant.audio.as_ref() == Some(&media.group));
    of_group.filter_map(|media| media.uri.clone()).collect()
}

fn check_variant(variant: &Variant, own: &Summary, sounds: &[&Summary]) -> Verdict<()> {
    let beside = sounds.iter().map(|sound| sound.peak_bps()).fold(0.0, f64::max);
    let (said, came) = (variant.bandwidth as f64, own.peak_bps() + beside);
    demand!(
        said >= came * (1.0 - DURATION_ROUNDING) - 1.0,
        "M",
        "BANDWIDTH {said}, but {came} came"
    );
    let codecs: BTreeSet<_> =
        variant.codecs.split(',').filter_map(|codec| codec.split('.').next()).collect();
    let formats = std::iter::once(&own).chain(sounds).flat_map(|one| &one.formats);
    for format in formats {
        demand!(codecs.contains(&**format), "M", "CODECS={codecs:?} without {format}");
    }
    if !codecs.iter().any(|codec| PICTURES.contains(codec)) {
        return Ok(());
    }
    let Some(rate) = variant.frame_rate else {
        return Err("M: pictures without FRAME-RATE".to_owned());
    };
    let Some(size) = &variant.resolution else {
        return Err("M: pictures without RESOLUTION".to_owned());
    };
    if let Some((width, height)) = own.size {
        demand!(*size == format!("{width}x{height}"), "M", "RESOLUTION={size}: {width}x{height}");
        let near = (rate - own.frame_rate).abs() <= FRAME_RATE_SLACK * own.frame_rate;
        demand!(near, "M", "FRAME-RATE={rate}, but {} came", own.frame_rate);
    }
    Ok(())
}

impl Summary {
    /// The highest bit rate of any run of segments that lasts half a target duration to one and a
    /// half: 4.4.6.2.
    fn peak_bps(&self) -> f64 {
        let target = self.playlist.target_duration;
        let mut peak = 0.0_f64;
        for first in self.bodies.keys() {
            let (mut bits, mut seconds) = (0.0, 0.0);
            // A number that is missing ends the run: a GAP, or what was not fetched.
            for msn in *first.. {
                let (Some(body), Some(length)) = (self.bodies.get(&msn), self.lengths.get(&msn))
                else {
                    break;
                };
                bits += 8.0 * body.len() as f64;
                seconds += length;
                if seconds > 1.5 * target {
                    break;
                }
                if seconds >= 0.5 * target {
                    peak = peak.max(bits / seconds);
                }
            }
        }
        peak
    }
}
