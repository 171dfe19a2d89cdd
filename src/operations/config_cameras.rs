//! The options of cameras.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::config::{ConfigError, options};

options! {
    /// `[cameras]`: cameras that push over TCP, as MultiStreamingServer has them
    CamerasSection {
        /// Addresses that take cameras with a greeting (id, type, quality), as IP:PORT; none takes none.
        listen: Vec<SocketAddr> = Vec::new();
        /// Addresses that take one camera each without a greeting: `[[cameras.raw]]` with `listen = "IP:PORT"`, `format = "mjpeg"` (`ffmpeg … -f mjpeg tcp://…`), `"h264"` or `"mpegts"` (served as a `[[pull]]` is), `path = "/door"`, and `quality = "high"` or `"low"`.
        raw: Vec<RawSection> = Vec::new();
        /// Names of cameras that send at once; one more is refused.
        streams_max: usize = 64;
        /// Bytes of a picture; a longer one ends its camera.
        picture_bytes_max: u32 = 8 << 20;
        /// Bytes kept of each track for viewers that fall behind, and of its movie below `live_below`, whose playlist is shorter where that is less than its `window_s`. With `record_below`, or a `[[retention]]` rule for it, the movie is kept as a whole.
        window_bytes: u64 = 32 << 20;
        /// Pictures that a viewer may be behind before whole ones are skipped.
        lag_pictures_max: u64 = 25;
        /// Seconds without a whole picture after which a camera is gone; the first one must be whole within `limits.head_timeout_s`.
        silence_timeout_s: u64 = 30;
        /// Seconds that viewers wait for a camera to come back.
        hold_over_s: u64 = 5;
        /// Folder of recordings, such as "/recordings/": each track is then an object there, for ever (see `[[retention]]`); without it what lies behind the window is given up.
        record_below: Option<String> = None;
        /// Publishing points of H.264 cameras are below this folder, which a `[[live]]` prefix must hold, each under its camera's whole name; "" lists none.
        live_below: String = "/live/".into();
    }
}

/// `[[cameras.raw]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawSection {
    pub listen: SocketAddr,
    pub format: RawFormat,
    pub path: String,
    #[serde(default)]
    pub quality: RawQuality,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawFormat {
    Mjpeg,
    H264,
    /// A transport stream: served and listed as one that is pulled.
    Mpegts,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RawQuality {
    Low,
    #[default]
    High,
}

impl CamerasSection {
    /// Whether anything may push.
    pub fn is_enabled(&self) -> bool {
        !self.listen.is_empty() || !self.raw.is_empty()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let wrong = |key, why: String| Err(ConfigError::Value { key, why });
        if self.streams_max == 0 || self.picture_bytes_max == 0 || self.silence_timeout_s == 0 {
            let why = "streams_max, picture_bytes_max and silence_timeout_s are at least 1";
            return wrong("cameras", why.to_owned());
        }
        if self.picture_bytes_max > i32::MAX as u32 {
            return wrong("cameras.picture_bytes_max", format!("{} at most", i32::MAX));
        }
        if self.window_bytes < 2 * u64::from(self.picture_bytes_max) {
            let why = "two pictures must fit: at least twice picture_bytes_max".to_owned();
            return wrong("cameras.window_bytes", why);
        }
        for (index, raw) in self.raw.iter().enumerate() {
            if !is_path(&raw.path) {
                let why = format!("{:?} is not a path such as \"/door\"", raw.path);
                return wrong("cameras.raw.path", why);
            }
            let is_same =
                |other: &RawSection| other.path == raw.path && other.quality == raw.quality;
            if self.raw[..index].iter().any(is_same) {
                let why = format!("{} is there twice in the same quality", raw.path);
                return wrong("cameras.raw.path", why);
            }
        }
        let folders = [
            ("cameras.record_below", self.record_below.as_deref()),
            (
                "cameras.live_below",
                Some(self.live_below.as_str()).filter(|below| !below.is_empty()),
            ),
        ];
        for (key, folder) in folders {
            let Some(folder) = folder else { continue };
            if !folder.ends_with('/') || !is_path(folder.trim_end_matches('/')) {
                return wrong(key, format!("{folder:?} is not a folder such as \"/live/\""));
            }
        }
        Ok(())
    }
}

/// Begins with a slash, does not end with one, and names nothing twice or upwards.
fn is_path(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    let is_sound = |part: &str| !matches!(part, "" | "." | ".." | ".headwater");
    rest.split('/').all(is_sound)
        && !rest.contains(['?', '#', '%'])
        && !rest.contains(char::is_control)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_cameras_are_told_apart() {
        let raw = |path: &str| {
            format!("raw = [{{ listen = \"127.0.0.1:0\", format = \"mjpeg\", path = \"{path}\" }}]")
        };
        let cases = [
            ("streams_max = 0".to_owned(), "cameras"),
            ("silence_timeout_s = 0".to_owned(), "cameras"),
            ("picture_bytes_max = 4000000000".to_owned(), "cameras.picture_bytes_max"),
            ("window_bytes = 8388608".to_owned(), "cameras.window_bytes"),
            ("record_below = \"/a\"".to_owned(), "cameras.record_below"),
            ("live_below = \"a/\"".to_owned(), "cameras.live_below"),
            (raw("door"), "cameras.raw.path"),
            (raw("/door/"), "cameras.raw.path"),
            (raw("/a/../b"), "cameras.raw.path"),
            (raw("/.headwater"), "cameras.raw.path"),
        ];
        for (line, key) in cases {
            let section: CamerasSection = toml::from_str(&line).unwrap();
            let error = section.check().unwrap_err().to_string();
            assert!(error.contains(&format!("option {key} is wrong")), "{line}: {error}");
        }
        let good: CamerasSection = toml::from_str(&raw("/door/front")).unwrap();
        assert!(good.check().is_ok() && good.is_enabled());
        assert!(!CamerasSection::default().is_enabled());
        let twice = CamerasSection { raw: [good.raw.clone(), good.raw].concat(), ..good };
        assert!(twice.check().is_err());
    }
}
