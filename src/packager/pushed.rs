//! Playlists and manifests that somebody else's packager pushed: they are served as they are, and their
//! promises (blocking reload, delta updates, preload hints) are kept here.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use super::reload::Edge;
use super::view::Text;
use crate::store::Millis;
use crate::wire::playlist::{Hint, PlaylistError, Pushed, delta_text};

/// Pushed playlists of one publishing point.
const LISTS_MAX: usize = 64;
/// Identifiers of date ranges that left a playlist, remembered for its delta updates.
const REMOVED_MAX: usize = 256;
const CONTENT_TYPE: &str = "application/vnd.apple.mpegurl";

/// One version of a pushed media playlist.
pub(super) struct PushedList {
    pub(super) facts: Pushed,
    pub(super) text: Arc<Text>,
    plain: String,
    delta: Option<Option<Arc<Text>>>,
    delta_v2: Option<Option<Arc<Text>>>,
    removed: VecDeque<(Millis, String)>,
}

#[derive(Default)]
pub(super) struct PushedLists {
    /// By path below the publishing point.
    lists: HashMap<String, PushedList>,
    /// Paths that preload hints name and that have not come.
    hinted: HashSet<String>,
    /// Paths of multivariant playlists and MPDs.
    manifests: HashSet<String>,
}

impl PushedLists {
    /// Somebody pushes playlists or manifests here.
    pub(super) fn has_any(&self) -> bool {
        !self.manifests.is_empty() || !self.lists.is_empty()
    }

    pub(super) fn note_manifest(&mut self, rest: &str) {
        if self.manifests.len() < LISTS_MAX {
            self.manifests.insert(rest.to_owned());
        }
    }

    /// Paths of all that was pushed.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.lists.keys().chain(&self.manifests).map(String::as_str)
    }

    pub(super) fn get(&mut self, rest: &str) -> Option<&mut PushedList> {
        self.lists.get_mut(rest)
    }

    pub(super) fn is_hinted(&self, rest: &str) -> bool {
        self.hinted.contains(rest)
    }

    /// A new version was sealed.
    pub(super) fn take(
        &mut self,
        point: &str,
        rest: &str,
        plain: &str,
        now_ms: Millis,
    ) -> Result<(), PlaylistError> {
        let mut facts = Pushed::parse(plain)?;
        if facts.multivariant || self.lists.len() >= LISTS_MAX && !self.lists.contains_key(rest) {
            self.note_manifest(rest);
            return Ok(());
        }
        let mut removed = VecDeque::new();
        if let Some(before) = self.lists.remove(rest) {
            removed = before.removed;
            let gone =
                before.facts.dateranges.into_iter().filter(|id| !facts.dateranges.contains(id));
            removed.extend(gone.map(|id| (now_ms, id)));
            let keep_ms = facts.server_control.can_skip_until_s.map_or(0.0, |s| s * 1000.0) as u64;
            removed.retain(|(at, _)| now_ms.saturating_sub(*at) <= keep_ms);
            removed.drain(..removed.len().saturating_sub(REMOVED_MAX));
            for hint in &before.facts.hints {
                if let Some(path) = hint_path(point, rest, hint) {
                    self.hinted.remove(&path);
                }
            }
        }
        facts.removed_dateranges = removed.iter().map(|(_, id)| id.clone()).collect();
        self.hinted.extend(facts.hints.iter().filter_map(|hint| hint_path(point, rest, hint)));
        let text = Text::new(CONTENT_TYPE, plain.to_owned(), now_ms);
        let list = PushedList {
            facts,
            text,
            plain: plain.to_owned(),
            delta: None,
            delta_v2: None,
            removed,
        };
        self.lists.insert(rest.to_owned(), list);
        Ok(())
    }
}

impl PushedList {
    pub(super) fn edge(&self) -> Edge {
        Edge {
            next_msn: self.facts.next_msn(),
            open_parts: self.facts.open_parts(),
            part_target_ms: self.facts.part_target_s.map(|seconds| (seconds * 1000.0) as u64),
        }
    }

    pub(super) fn parts_of(&self, msn: u64) -> Option<u64> {
        self.facts.parts.iter().find(|(of, _)| *of == msn).map(|(_, count)| *count)
    }

    /// The delta update, made once, or the playlist itself.
    pub(super) fn delta(&mut self, v2: bool) -> Arc<Text> {
        let modified_ms = self.text.modified_ms;
        let slot = if v2 { &mut self.delta_v2 } else { &mut self.delta };
        let made = slot.get_or_insert_with(|| {
            let delta = delta_text(&self.plain, &self.facts, v2)?;
            Some(Text::new(CONTENT_TYPE, delta, modified_ms))
        });
        made.clone().unwrap_or_else(|| self.text.clone())
    }
}

/// The path of a hinted URI below the publishing point, if it leads there (RFC 3986 §5.2).
fn hint_path(point: &str, playlist: &str, hint: &Hint) -> Option<String> {
    let (Hint::Part { uri, .. } | Hint::Map { uri }) = hint;
    let uri = uri.split(['?', '#']).next().unwrap_or_default();
    if uri.contains("://") {
        return None;
    }
    if let Some(path) = uri.strip_prefix('/') {
        return Some(path.strip_prefix(point)?.strip_prefix('/')?.to_owned());
    }
    let folder = playlist.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut path: Vec<&str> = folder.split('/').filter(|step| !step.is_empty()).collect();
    for step in uri.split('/') {
        match step {
            "" | "." => {}
            ".." => path.pop().map(|_| ())?,
            step => path.push(step),
        }
    }
    Some(path.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_lead_to_paths_of_the_publishing_point() {
        let path =
            |uri: &str| hint_path("live/cam", "v/index.m3u8", &Hint::Map { uri: uri.to_owned() });
        assert_eq!(path("p1.m4s?x=1").as_deref(), Some("v/p1.m4s"));
        assert_eq!(path("./p1.m4s").as_deref(), Some("v/p1.m4s"));
        assert_eq!(path("../a/p1.m4s").as_deref(), Some("a/p1.m4s"));
        assert_eq!(path("/live/cam/a/p1.m4s").as_deref(), Some("a/p1.m4s"));
        for elsewhere in ["../../p1.m4s", "/live/camera/p1.m4s", "http://a/live/cam/p1.m4s"] {
            assert_eq!(path(elsewhere), None, "{elsewhere}");
        }
    }
}
