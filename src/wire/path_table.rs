//! To whom a path belongs: what is entered under exactly this path, or else under the longest folder
//! that it lies in. Paths are those of the configuration: absolute, decoded and normalised.

use std::collections::HashMap;

#[derive(Debug, Clone)]
pub struct PathTable<T> {
    /// Without the leading slash.
    exact: HashMap<String, T>,
    /// With the slash at the end; the longest first.
    folders: Vec<(String, T)>,
}

impl<T> Default for PathTable<T> {
    fn default() -> PathTable<T> {
        PathTable { exact: HashMap::new(), folders: Vec::new() }
    }
}

impl<T> PathTable<T> {
    /// A path that ends in a slash is a folder with all that is below. What was there is replaced.
    pub fn insert(&mut self, path: &str, value: T) {
        let path = path.strip_prefix('/').unwrap_or(path);
        if !path.is_empty() && !path.ends_with('/') {
            self.exact.insert(path.to_owned(), value);
            return;
        }
        self.folders.retain(|(folder, _)| folder != path);
        self.folders.push((path.to_owned(), value));
        self.folders.sort_by_key(|(folder, _)| std::cmp::Reverse(folder.len()));
    }

    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.folders.is_empty()
    }

    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.folders.iter().map(|(_, value)| value))
    }

    /// Of a name without the leading slash; `is_folder` as in a [`Target`](super::http1::Target), whose
    /// name has no slash at its end. With it what is left of the name behind the folder; nothing of an
    /// exact one.
    pub fn find<'n>(&self, name: &'n str, is_folder: bool) -> Option<(&T, &'n str)> {
        if self.is_empty() {
            return None;
        }
        // A slash behind the name of a file leads nowhere else.
        if let Some(value) = self.exact.get(name) {
            return Some((value, ""));
        }
        self.folders.iter().find_map(|(folder, value)| {
            let is_it = is_folder && folder.strip_suffix('/') == Some(name);
            let rest = if is_it { Some("") } else { name.strip_prefix(folder.as_str()) };
            rest.map(|rest| (value, rest))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_path_wins() {
        let mut table = PathTable::default();
        assert!(table.is_empty() && table.find("a", false).is_none());
        for path in ["/a/", "/a/b/", "/a/b/c", "/d"] {
            table.insert(path, path);
        }
        let cases = [
            ("a/b/c", false, Some(("/a/b/c", ""))),
            ("a/b/c", true, Some(("/a/b/c", ""))),
            ("a/b/c/d", false, Some(("/a/b/", "c/d"))),
            ("a/b", true, Some(("/a/b/", ""))),
            ("a/b", false, Some(("/a/", "b"))),
            ("a", true, Some(("/a/", ""))),
            ("a", false, None),
            ("ab/c", false, None),
            ("d", false, Some(("/d", ""))),
            ("d/e", false, None),
            ("", true, None),
        ];
        for (name, is_folder, wanted) in cases {
            let found = table.find(name, is_folder).map(|(path, rest)| (*path, rest));
            assert_eq!(found, wanted, "{name} {is_folder}");
        }
        table.insert("/", "/");
        assert_eq!(table.find("", true), Some((&"/", "")));
        assert_eq!(table.find("x/y", false), Some((&"/", "x/y")));
        assert_eq!(table.find("a", false), Some((&"/", "a")));
        table.insert("/a/", "other");
        assert_eq!(table.find("a/x", false), Some((&"other", "x")));
    }
}
