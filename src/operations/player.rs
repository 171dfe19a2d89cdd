//! The page to watch, `/player` on the admin address, and the libraries that it can use.
//!
//! Page, script and style are part of the program. The libraries (hls.js, dash.js, shaka-player) are
//! not: `scripts/player/build` fetches them into a directory, `player_dir`. They are read once, at
//! start, so that no worker waits for a disk; what is not there is answered by 404, and the page then
//! says how to build it and plays fragmented MP4 by itself. Only the names below exist.

use std::path::Path;

use bytes::Bytes;

use super::admin::Answer;

const HTML: &str = include_str!("player/player.html");
const SCRIPT: &str = include_str!("player/player.js");
const STYLE: &str = include_str!("player/player.css");

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// Files of the directory, each served as `/player/lib/FILE`.
pub const LIBRARIES: [&str; 3] = ["hls.js", "dash.js", "shaka.js"];

/// A longer file is none of these libraries.
const LIBRARY_BYTES_MAX: u64 = 16 << 20;

/// The page with the libraries that were found.
#[derive(Default)]
pub struct Player {
    libraries: [Option<Bytes>; LIBRARIES.len()],
}

impl Player {
    /// Read what is in `directory`; a file that is missing is no error.
    pub fn read(directory: &Path) -> Player {
        Player { libraries: LIBRARIES.map(|name| read_library(&directory.join(name))) }
    }

    /// The page at `path`, which begins with `player`.
    pub fn page(&self, path: &str) -> Option<Answer> {
        let text =
            |kind, text: &'static str| Some((200, kind, Bytes::from_static(text.as_bytes())));
        match path {
            "player" => text("text/html; charset=utf-8", HTML),
            "player.js" => text(JAVASCRIPT, SCRIPT),
            "player.css" => text("text/css; charset=utf-8", STYLE),
            _ => {
                let name = path.strip_prefix("player/lib/")?;
                let index = LIBRARIES.iter().position(|library| *library == name)?;
                Some((200, JAVASCRIPT, self.libraries[index].clone()?))
            }
        }
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
        let player = Player::read(dir.path());
        assert_eq!(player.found(), ["hls.js"]);
        let body = |path: &str| player.page(path).map(|(_, _, body)| body);
        assert_eq!(body("player/lib/hls.js").unwrap(), "hls.js");
        for path in ["player/lib/dash.js", "player/lib/other.js", "player/lib/../hls.js"] {
            assert!(body(path).is_none(), "{path}");
        }
        assert!(body("player").unwrap().starts_with(b"<!doctype html>"));
    }

    /// The page is whole by itself: what it loads is served here, by paths that are right with and
    /// without a slash at the end of its own, and nothing comes from elsewhere.
    #[test]
    fn the_page_names_nothing_foreign() {
        for (file, text) in [("html", HTML), ("css", STYLE)] {
            let foreign = ["src=\"http", "href=\"http", "url(", "@import"];
            assert!(!foreign.iter().any(|mark| text.contains(mark)), "{file}");
        }
        for link in ["href=\"/player.css\"", "src=\"/player.js\""] {
            assert!(HTML.contains(link), "{link}");
        }
        for name in LIBRARIES {
            assert!(SCRIPT.contains(&format!("lib/{name}")), "{name}");
        }
    }
}
