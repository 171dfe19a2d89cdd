//! The page to watch, `/player` on the admin address, the page to publish from a browser, `/publish`,
//! the wall of cameras, `/cameras`, and the libraries that the player can use.
//!
//! Pages, scripts and style are part of the program. The libraries (hls.js, dash.js, shaka-player) are
//! not: `scripts/player/build` fetches them into a directory, `player_dir`. They are read once, at
//! start, so that no worker waits for a disk; what is not there is answered by 404, and the page then
//! says how to build it and plays fragmented MP4 by itself. Only the names below exist.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;

use super::admin::Answer;

const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JSON: &str = "application/json";

/// Path, content type and text of each file that is part of the program.
const FILES: [(&str, &str, &str); 18] = [
    ("player", HTML, include_str!("player/player.html")),
    ("player.js", JAVASCRIPT, include_str!("player/player.js")),
    ("player.css", CSS, include_str!("player/player.css")),
    ("player/page.js", JAVASCRIPT, include_str!("player/page.js")),
    ("player/edge.js", JAVASCRIPT, include_str!("player/edge.js")),
    ("player/mp4.js", JAVASCRIPT, include_str!("player/mp4.js")),
    ("player/webm.js", JAVASCRIPT, include_str!("player/webm.js")),
    ("player/address.js", JAVASCRIPT, include_str!("player/address.js")),
    ("player/channel.js", JAVASCRIPT, include_str!("player/channel.js")),
    ("publish", HTML, include_str!("player/publish.html")),
    ("publish.js", JAVASCRIPT, include_str!("player/publish.js")),
    ("cameras", HTML, include_str!("player/cameras.html")),
    ("cameras.js", JAVASCRIPT, include_str!("player/cameras.js")),
    ("cameras.css", CSS, include_str!("player/cameras.css")),
    ("player/annexb.js", JAVASCRIPT, include_str!("player/annexb.js")),
    ("player/pictures.js", JAVASCRIPT, include_str!("player/pictures.js")),
    ("player/h264.js", JAVASCRIPT, include_str!("player/h264.js")),
    ("player/mjpeg.js", JAVASCRIPT, include_str!("player/mjpeg.js")),
];

/// Files of the directory, each served as `/player/lib/FILE`.
pub const LIBRARIES: [&str; 3] = ["hls.js", "dash.js", "shaka.js"];

/// A longer file is none of these libraries.
const LIBRARY_BYTES_MAX: u64 = 16 << 20;

/// Where channels are, for pages that were not told.
#[derive(Debug, Default, serde::Serialize)]
pub struct Door {
    /// Empty where channels are switched off.
    pub listen: Vec<SocketAddr>,
    /// Path before CHANNEL/KEY/KIND.
    pub prefix: String,
}

/// The pages with the libraries that were found.
#[derive(Default)]
pub struct Player {
    libraries: [Option<Bytes>; LIBRARIES.len()],
    door: Bytes,
}

impl Player {
    /// Read what is in `directory`; a file that is missing is no error.
    pub fn read(directory: &Path, door: &Door) -> Player {
        let door = serde_json::to_vec(door).expect("addresses and a path are JSON");
        let libraries = LIBRARIES.map(|name| read_library(&directory.join(name)));
        Player { libraries, door: door.into() }
    }

    /// The file at `path`, which may be none of these.
    pub fn page(&self, path: &str) -> Option<Answer> {
        if let Some((_, kind, text)) = FILES.iter().find(|(name, ..)| *name == path) {
            return Some((200, kind, Bytes::from_static(text.as_bytes())));
        }
        if path == "player/door.json" {
            return Some((200, JSON, self.door.clone()));
        }
        let name = path.strip_prefix("player/lib/")?;
        let index = LIBRARIES.iter().position(|library| *library == name)?;
        Some((200, JAVASCRIPT, self.libraries[index].clone()?))
    }

    /// Which of [`LIBRARIES`] are there.
    pub fn found(&self) -> Vec<&'static str> {
        let pairs = LIBRARIES.iter().zip(&self.libraries);
        pairs.filter(|(_, library)| library.is_some()).map(|(name, _)| *name).collect()
    }
}

fn read_library(path: &Path) -> Option<Bytes> {
    let is_fitting = std::fs::metadata(path)
        .is_ok_and(|about| about.is_file() && about.len() <= LIBRARY_BYTES_MAX);
    if !is_fitting {
        return None;
    }
    match std::fs::read(path) {
        Ok(bytes) => Some(bytes.into()),
        Err(cause) => {
            tracing::warn!(path = %path.display(), %cause, "a library of the player cannot be read");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_named_files_are_served() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["hls.js", "other.js"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        let player = Player::read(dir.path(), &Door::default());
        assert_eq!(player.found(), ["hls.js"]);
        let body = |path: &str| player.page(path).map(|(_, _, body)| body);
        assert_eq!(body("player/lib/hls.js").unwrap(), "hls.js");
        for path in ["player/lib/dash.js", "player/lib/other.js", "player/lib/../hls.js"] {
            assert!(body(path).is_none(), "{path}");
        }
        for page in ["player", "publish", "cameras"] {
            assert!(body(page).unwrap().starts_with(b"<!doctype html>"), "{page}");
        }
    }

    /// The pages are whole by themselves: what they load is served here, by paths that are right with and
    /// without a slash at the end of their own, and nothing comes from elsewhere.
    #[test]
    fn the_pages_name_nothing_foreign() {
        let served = |path: &str| FILES.iter().any(|(name, ..)| path == *name);
        for (file, kind, text) in FILES {
            let foreign = ["src=\"http", "href=\"http", "url(", "@import"];
            assert!(
                kind == JAVASCRIPT || !foreign.iter().any(|mark| text.contains(mark)),
                "{file}"
            );
            let links = [("href=\"/", HTML), ("src=\"/", HTML), (" from \"./", JAVASCRIPT)];
            for (mark, _) in links.iter().filter(|(_, of)| *of == kind) {
                // A module's path counts from its own.
                let folder = match file.rsplit_once('/') {
                    Some((folder, _)) if kind == JAVASCRIPT => format!("{folder}/"),
                    _ => String::new(),
                };
                for rest in text.split(mark).skip(1) {
                    let path = rest.split('"').next().unwrap();
                    assert!(served(&format!("{folder}{path}")), "{file} names {path}");
                }
            }
        }
        for name in LIBRARIES {
            assert!(FILES[1].2.contains(&format!("lib/{name}")), "{name}");
        }
    }

    #[test]
    fn the_door_is_told_as_json() {
        let door =
            Door { listen: vec![SocketAddr::from(([127, 0, 0, 1], 9094))], prefix: "/c/".into() };
        let player = Player::read(Path::new("/nonexistent"), &door);
        let (status, kind, body) = player.page("player/door.json").unwrap();
        assert_eq!((status, kind), (200, JSON));
        assert_eq!(body, r#"{"listen":["127.0.0.1:9094"],"prefix":"/c/"}"#);
    }
}
