//! Which path means what below a live prefix.
//!
//! | path below `/live/` | meaning |
//! |---|---|
//! | `cam/index.m3u8`, `cam/manifest.mpd`, `cam/steering.json` | made of all tracks |
//! | `cam/video.m3u8` | media playlist of the track `video` |
//! | `cam/video/EPOCH/init.mp4` | its init segment |
//! | `cam/video/EPOCH/120.m4s`, `cam/video/EPOCH/120.3.m4s` | segment 120, and part 3 of it |
//! | `cam/anything`, `cam.mp4` | pushed to the publishing point `cam` |

/// The track of a push that says nothing of its name.
pub(super) const MAIN: &str = "main";

/// Words of file names that say what a file is, not which track it belongs to.
const ROLE_WORDS: [&str; 8] =
    ["init", "chunk", "seg", "segment", "header", "frag", "fragment", "part"];

/// A name split at its publishing point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place<'n> {
    /// With the prefix, without a trailing slash: `live/cam`.
    pub(super) point: &'n str,
    /// What follows; of a file directly below the prefix, the file name.
    pub(super) rest: &'n str,
    /// `live/cam.mp4`: the whole publishing point is one file.
    pub(super) is_single: bool,
}

/// `None` if no point is named.
pub(super) fn place_below<'n>(prefix: &str, name: &'n str) -> Option<Place<'n>> {
    let below = name.strip_prefix(prefix)?;
    match below.split_once('/') {
        Some((point, rest)) if !point.is_empty() && !rest.is_empty() => {
            let point = &name[..prefix.len() + point.len()];
            Some(Place { point, rest, is_single: false })
        }
        None if !below.is_empty() => {
            let stem = below.rsplit_once('.').map_or(below, |(stem, _)| stem);
            let stem = if stem.is_empty() { below } else { stem };
            let point = &name[..prefix.len() + stem.len()];
            Some(Place { point, rest: below, is_single: true })
        }
        _ => None,
    }
}

/// Something that the packager makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource<'n> {
    Multivariant,
    Manifest,
    Steering,
    Playlist { track: &'n str },
    Init { track: &'n str, epoch: &'n str },
    Segment { track: &'n str, epoch: &'n str, msn: u64 },
    Part { track: &'n str, epoch: &'n str, msn: u64, part: u64 },
}

pub(super) fn resource(rest: &str) -> Option<Resource<'_>> {
    match rest {
        "index.m3u8" => return Some(Resource::Multivariant),
        "manifest.mpd" => return Some(Resource::Manifest),
        "steering.json" => return Some(Resource::Steering),
        _ => {}
    }
    let mut steps = rest.split('/');
    let (track, epoch, file) = (steps.next()?, steps.next(), steps.next());
    let (Some(epoch), Some(file), None) = (epoch, file, steps.next()) else {
        let track = track.strip_suffix(".m3u8").filter(|_| epoch.is_none())?;
        return Some(Resource::Playlist { track });
    };
    if file == "init.mp4" {
        return Some(Resource::Init { track, epoch });
    }
    let stem = file.strip_suffix(".m4s").or_else(|| file.strip_suffix(".ts"))?;
    match stem.split_once('.') {
        None => Some(Resource::Segment { track, epoch, msn: number(stem)? }),
        Some((msn, part)) => {
            Some(Resource::Part { track, epoch, msn: number(msn)?, part: number(part)? })
        }
    }
}

/// Digits only: `+1` and ` 1` are other names.
fn number(digits: &str) -> Option<u64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| plain)
}

/// What the name of a pushed object says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The same for all objects of a track; empty if the name says nothing.
    pub(super) track: String,
    /// One of a sequence: the name counts.
    pub(super) is_numbered: bool,
}

/// The track that a pushed object belongs to, by its path below the publishing point:
/// `chunk-stream0-00001.m4s` and `init-stream0.m4s` are of `stream0`, `video/17.cmfv` and
/// `Streams(video.cmfv)` of `video`, `720p/init.mp4` of `720p`.
pub(super) fn key_of(rest: &str) -> Key {
    let rest = rest.split('?').next().unwrap_or(rest);
    let (folder, file) = rest.rsplit_once('/').unwrap_or(("", rest));
    let file =
        file.strip_prefix("Streams(").and_then(|inside| inside.strip_suffix(')')).unwrap_or(file);
    let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem);
    let mut words: Vec<&str> = stem.split(['-', '_', '.']).filter(|w| !w.is_empty()).collect();
    let mut is_numbered = words.last().is_some_and(|word| number(word).is_some());
    if is_numbered {
        words.pop();
    }
    let had_role = words.iter().any(|word| is_role(word));
    words.retain(|word| !is_role(word));
    if !is_numbered
        && !had_role
        && let Some(last) = words.last_mut()
    {
        // `a0.m4s`, `a1.m4s`; but `video2.cmfv` is a track.
        let stem = last.trim_end_matches(|c: char| c.is_ascii_digit());
        let is_segment = file.ends_with(".m4s") || file.ends_with(".ts");
        if is_segment && stem.len() < last.len() {
            is_numbered = true;
            *last = stem;
        }
    }
    let folders = folder.split('/').filter(|step| !step.is_empty());
    let words: Vec<&str> = folders.chain(words).filter(|word| !word.is_empty()).collect();
    Key { track: clean(&words.join("-")), is_numbered }
}

fn is_role(word: &str) -> bool {
    ROLE_WORDS.iter().any(|role| role.eq_ignore_ascii_case(word))
}

/// Letters, digits and a few signs: what needs no escape in a URI, a playlist or an XML id.
fn clean(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    name.chars().map(|c| if is_plain(c) { c } else { '_' }).collect()
}

/// A number as few letters, for epochs.
pub(super) fn base36(mut value: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(value % 36) as usize];
        digits.push(char::from(digit));
        value /= 36;
        if value == 0 {
            return digits.iter().rev().collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_at_their_point() {
        let place = place_below("live/", "live/cam/video/1.m4s").unwrap();
        assert_eq!((place.point, place.rest, place.is_single), ("live/cam", "video/1.m4s", false));
        let single = place_below("live/", "live/cam.mp4").unwrap();
        assert_eq!((single.point, single.rest, single.is_single), ("live/cam", "cam.mp4", true));
        for other in ["live/", "live/cam/", "other/cam.mp4", "live"] {
            assert_eq!(place_below("live/", other), None, "{other}");
        }
    }

    #[test]
    fn resources_are_recognised() {
        let cases = [
            ("index.m3u8", Some(Resource::Multivariant)),
            ("video.m3u8", Some(Resource::Playlist { track: "video" })),
            ("video/e1/init.mp4", Some(Resource::Init { track: "video", epoch: "e1" })),
            ("v/e1/7.m4s", Some(Resource::Segment { track: "v", epoch: "e1", msn: 7 })),
            ("v/e1/7.2.ts", Some(Resource::Part { track: "v", epoch: "e1", msn: 7, part: 2 })),
            ("v/e1/+7.m4s", None),
            ("v/e1/x/7.m4s", None),
            ("v/e1.m3u8", None),
            ("cam.mp4", None),
        ];
        for (rest, expected) in cases {
            assert_eq!(resource(rest), expected, "{rest}");
        }
    }

    #[test]
    fn objects_of_a_track_have_one_key() {
        let cases = [
            ("init-stream0.m4s", "stream0", false),
            ("chunk-stream0-00001.m4s", "stream0", true),
            ("video_init.mp4", "video", false),
            ("video_17.m4s", "video", true),
            ("video/17.cmfv", "video", true),
            ("720p/init.mp4", "720p", false),
            ("720p/seg-9.m4s", "720p", true),
            ("Streams(video.cmfv)", "video", false),
            ("video2.cmfv", "video2", false),
            ("a12.m4s", "a", true),
            ("a12.ts", "a", true),
            ("init.mp4", "", false),
            ("cam.mp4", "cam", false),
        ];
        for (rest, track, is_numbered) in cases {
            assert_eq!(key_of(rest), Key { track: track.into(), is_numbered }, "{rest}");
        }
    }

    #[test]
    fn epochs_are_short() {
        assert_eq!(
            (base36(0).as_str(), base36(35).as_str(), base36(36).as_str()),
            ("0", "z", "10")
        );
    }
}
