//! What the key hook may say about a stream beside "yes": recording, previews, resolutions.

use serde::{Deserialize, Serialize};

/// As an encoder is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StreamSettings {
    pub(super) is_recorded: bool,
    /// `WxH,S`.
    pub(super) previews: Option<String>,
    /// `ORIGINAL,WxH-FPS~KBIT,…`.
    pub(super) resolutions: String,
}

impl Default for StreamSettings {
    fn default() -> Self {
        StreamSettings { is_recorded: false, previews: None, resolutions: ORIGINAL.to_owned() }
    }
}

const ORIGINAL: &str = "ORIGINAL";

impl StreamSettings {
    /// From the values of `x-record`, `x-previews` and `x-resolutions`, empty if absent.
    pub(super) fn new(record: &str, previews: &str, resolutions: &str) -> StreamSettings {
        StreamSettings {
            is_recorded: record.trim().eq_ignore_ascii_case("true"),
            previews: read_previews(previews),
            resolutions: read_resolutions(resolutions),
        }
    }
}

/// Without any: the original alone. What is no resolution is left out.
fn read_resolutions(text: &str) -> String {
    if text.trim().is_empty() {
        return ORIGINAL.to_owned();
    }
    let all: Vec<&str> = text.split(',').map(str::trim).collect();
    let original = all.iter().find(|one| one.eq_ignore_ascii_case(ORIGINAL)).map(|_| ORIGINAL);
    let sizes = all.into_iter().filter(|one| is_resolution(one));
    let list: Vec<&str> = original.into_iter().chain(sizes).collect();
    list.join(",")
}

/// `WxH`, `WxH-FPS`, `WxH~KBIT`, `WxH-FPS~KBIT`.
fn is_resolution(text: &str) -> bool {
    let (rest, kbit) = text.split_once('~').unwrap_or((text, "1"));
    let (size, fps) = rest.split_once('-').unwrap_or((rest, "1"));
    is_size(size) && is_number(fps) && is_number(kbit)
}

fn is_size(text: &str) -> bool {
    text.split_once('x').is_some_and(|(width, height)| is_number(width) && is_number(height))
}

fn is_number(text: &str) -> bool {
    text.bytes().all(|c| c.is_ascii_digit()) && text.parse::<i32>().is_ok_and(|n| n > 0)
}

fn read_previews(text: &str) -> Option<String> {
    let (size, seconds) = text.split_once(',')?;
    let (size, seconds) = (size.trim(), seconds.trim());
    (is_size(size) && is_number(seconds)).then(|| format!("{size},{seconds}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolutions_are_trimmed_and_checked() {
        let cases = [
            ("", "ORIGINAL"),
            ("original", "ORIGINAL"),
            ("1280x720-30, ORIGINAL , 640x360~800", "ORIGINAL,1280x720-30,640x360~800"),
            ("1280x720-30~2500,nonsense,1x-1,x,0x1", "1280x720-30~2500"),
            ("nonsense", ""),
        ];
        for (text, wanted) in cases {
            assert_eq!(StreamSettings::new("", "", text).resolutions, wanted, "{text}");
        }
    }

    #[test]
    fn recording_and_previews_are_read() {
        let all = StreamSettings::new("TRUE", " 256x144 , 3 ", "");
        assert_eq!((all.is_recorded, all.previews.as_deref()), (true, Some("256x144,3")));
        for previews in ["", "False", "256x144", "256x144,0", "256x144,a", "256,3", "1x1,2,3"] {
            assert_eq!(StreamSettings::new("yes", previews, "").previews, None, "{previews}");
        }
        assert_eq!(StreamSettings::new("", "", ""), StreamSettings::default());
    }
}
