//! What is on disk: where files lie and what their record says. The prose is `docs/FORMAT.md`; a
//! test compares the two.
//!
//! ```text
//! DATA/live/a.m4s                  a sealed object: extent 0, a plain file
//! DATA/.headwater/lock             held by the running server
//! DATA/.headwater/open/ID.0        extent 0 of an object that is being written
//! DATA/.headwater/extents/ID.N     extents 1… of an object longer than one extent
//! DATA/.headwater/damaged/…        what recovery found shorter than its record says
//! ```
//!
//! The record of an object is the extended attribute `user.headwater` of extent 0: lines of text.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, fremovexattr, fsetxattr, lgetxattr};

use super::Millis;
use super::digest::{Base, Fingerprint};
use super::object::{Ending, ObjectInfo};

/// A longer path component is refused: no Linux file system takes it.
pub const NAME_PART_BYTES_MAX: usize = 255;
/// A longer object name is refused.
pub const NAME_BYTES_MAX: usize = 2048;
/// An ext4 attribute must fit one block beside the others.
pub const RECORD_BYTES_MAX: usize = 3500;

/// The folder of the store's own files in the data directory; no object may be named below it.
pub(super) const OWN_FOLDER: &str = ".headwater";
const RECORD_ATTRIBUTE: &str = "user.headwater";
const RECORD_VERSION: &str = "headwater 1";
/// Of an object that was continued more often, the newest places are kept.
const BASES_MAX: usize = 16;

/// What the store knows about an object that its bytes do not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub id: u64,
    pub name: String,
    pub info: ObjectInfo,
    /// Bytes a full extent holds; the object's extents are cut at its multiples.
    pub extent_bytes: u64,
    /// What recovery makes of it if it was open.
    pub ending: Ending,
    /// Present once the object is sealed.
    pub sealed: Option<SealRecord>,
    /// Where the object was continued, ascending. A last one that is not below the sealed length
    /// says that it is open again, or was when the server died.
    pub bases: Vec<Base>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealRecord {
    /// Accepted length, in bytes.
    pub length: u64,
    /// XXH3-64 of all bytes.
    pub digest: u64,
    pub sealed_ms: Millis,
    /// The upload ended without its proper end and was kept (`on_abort = "keep"`).
    pub torn: bool,
}

impl Record {
    pub fn encode(&self) -> String {
        let mut text = format!(
            "{RECORD_VERSION}\nid {:016x}\nname {}\nextent {}\ncreated {}\n",
            self.id, self.name, self.extent_bytes, self.info.created_ms
        );
        if self.ending == Ending::Sealed {
            text += "ending sealed\n";
        }
        if let Some(seal) = &self.sealed {
            text += &format!(
                "sealed {}\nlength {}\ndigest {:016x}\n",
                seal.sealed_ms, seal.length, seal.digest
            );
            if seal.torn {
                text += "torn 1\n";
            }
        }
        for base in &self.bases {
            text += &match base.fingerprint {
                Fingerprint::Digest(digest) => format!("base {} {digest:016x}\n", base.length),
                Fingerprint::Modified(ns) => format!("base {} m{ns:016x}\n", base.length),
            };
        }
        if let Some(expires_ms) = self.info.expires_ms {
            text += &format!("expires {expires_ms}\n");
        }
        for (name, value) in &self.info.headers {
            text += &format!("header {name}: {value}\n");
        }
        text
    }

    /// `None` for anything that is not a whole record of this version.
    pub fn decode(text: &str) -> Option<Record> {
        let mut lines = text.lines();
        if lines.next()? != RECORD_VERSION {
            return None;
        }
        let mut fields = Fields::default();
        for line in lines {
            let (key, value) = line.split_once(' ')?;
            fields.set(key, value)?;
        }
        fields.into_record()
    }

    /// Where the object goes on behind its seal, if it is open again.
    pub(super) fn open_base(&self) -> Option<Base> {
        let last = self.bases.last().copied()?;
        let is_open = self.sealed.as_ref().is_none_or(|seal| seal.length <= last.length);
        is_open.then_some(last)
    }

    /// The record of the object while it is continued at `base`.
    pub(super) fn continued_at(mut self, base: Base) -> Record {
        debug_assert!(self.bases.last().is_none_or(|last| last.length < base.length));
        self.bases.push(base);
        while self.bases.len() > BASES_MAX
            || (self.bases.len() > 1 && self.encode().len() > RECORD_BYTES_MAX)
        {
            self.bases.remove(0);
        }
        self
    }

    pub(super) fn write_to(&self, file: &File) -> io::Result<()> {
        let text = self.encode();
        fsetxattr(file, RECORD_ATTRIBUTE, text.as_bytes(), XattrFlags::empty())?;
        Ok(())
    }

    /// The record beside the file at `path`; `None` for a plain file.
    pub(super) fn read_from(path: &Path) -> Option<Record> {
        let mut buffer = [0u8; 4096];
        let len = lgetxattr(path, RECORD_ATTRIBUTE, &mut buffer[..]).ok()?;
        Record::decode(std::str::from_utf8(buffer.get(..len)?).ok()?)
    }
}

/// Make it a plain file.
pub(super) fn remove_record(file: &File) -> io::Result<()> {
    Ok(fremovexattr(file, RECORD_ATTRIBUTE)?)
}

/// Fails where records cannot be written.
pub(super) fn probe_attributes(file: &File) -> io::Result<()> {
    Ok(fsetxattr(file, RECORD_ATTRIBUTE, RECORD_VERSION.as_bytes(), XattrFlags::empty())?)
}

/// The lines of a record while it is decoded.
#[derive(Default)]
struct Fields {
    id: Option<u64>,
    name: Option<String>,
    extent_bytes: Option<u64>,
    length: Option<u64>,
    digest: Option<u64>,
    sealed_ms: Option<Millis>,
    torn: bool,
    ending: Ending,
    bases: Vec<Base>,
    info: ObjectInfo,
}

impl Fields {
    fn set(&mut self, key: &str, value: &str) -> Option<()> {
        match key {
            "id" => self.id = Some(u64::from_str_radix(value, 16).ok()?),
            "name" => self.name = Some(value.to_owned()),
            "extent" => self.extent_bytes = Some(value.parse().ok().filter(|bytes| *bytes > 0)?),
            "created" => self.info.created_ms = value.parse().ok()?,
            "sealed" => self.sealed_ms = Some(value.parse().ok()?),
            "length" => self.length = Some(value.parse().ok()?),
            "digest" => self.digest = Some(u64::from_str_radix(value, 16).ok()?),
            "torn" => self.torn = true,
            "ending" if value == "sealed" => self.ending = Ending::Sealed,
            "base" => self.bases.push(parse_base(value)?),
            "expires" => self.info.expires_ms = Some(value.parse().ok()?),
            "header" => {
                let (name, value) = value.split_once(": ")?;
                self.info.headers.push((name.to_owned(), value.to_owned()));
            }
            // A newer minor writer may add lines; what is not known is not needed.
            _ => {}
        }
        Some(())
    }

    fn into_record(self) -> Option<Record> {
        let sealed = match (self.sealed_ms, self.length, self.digest) {
            (Some(sealed_ms), Some(length), Some(digest)) => {
                Some(SealRecord { length, digest, sealed_ms, torn: self.torn })
            }
            _ => None,
        };
        Some(Record {
            id: self.id?,
            name: self.name?,
            info: self.info,
            extent_bytes: self.extent_bytes?,
            ending: self.ending,
            sealed,
            bases: self.bases,
        })
    }
}

fn parse_base(value: &str) -> Option<Base> {
    let (length, fingerprint) = value.split_once(' ')?;
    let number = |digits| u64::from_str_radix(digits, 16).ok();
    let fingerprint = match fingerprint.strip_prefix('m') {
        Some(ns) => Fingerprint::Modified(number(ns)?),
        None => Fingerprint::Digest(number(fingerprint)?),
    };
    Some(Base { length: length.parse().ok()?, fingerprint })
}

/// Paths of the data directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Layout {
        Layout { root: root.to_owned() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn object(&self, name: &str) -> PathBuf {
        self.root.join(file_name_of(name))
    }

    pub(super) fn open_folder(&self) -> PathBuf {
        self.root.join(OWN_FOLDER).join("open")
    }

    pub(super) fn extents_folder(&self) -> PathBuf {
        self.root.join(OWN_FOLDER).join("extents")
    }

    pub(super) fn damaged_folder(&self) -> PathBuf {
        self.root.join(OWN_FOLDER).join("damaged")
    }

    pub(super) fn lock_file(&self) -> PathBuf {
        self.root.join(OWN_FOLDER).join("lock")
    }

    /// Where extent `index` lies while the object is open; all but the first stay there.
    pub(super) fn extent(&self, id: u64, index: u64) -> PathBuf {
        let folder = if index == 0 { self.open_folder() } else { self.extents_folder() };
        folder.join(format!("{id:016x}.{index}"))
    }
}

/// `ID.N` of an extent's file name.
pub(super) fn parse_extent_name(file_name: &str) -> Option<(u64, u64)> {
    let (id, index) = file_name.split_once('.')?;
    Some((u64::from_str_radix(id, 16).ok()?, index.parse().ok()?))
}

/// The relative path of an object's file. Names are paths already; only the query of
/// `compat.query_in_name` can hold a slash that is not one, and it is escaped.
fn file_name_of(name: &str) -> String {
    match name.split_once('?') {
        None => name.to_owned(),
        Some((path, query)) => {
            format!("{path}?{}", query.replace('%', "%25").replace('/', "%2F"))
        }
    }
}

/// The name of the object kept in a file at this relative path.
pub(super) fn name_of_file(relative: &str) -> String {
    match relative.split_once('?') {
        None => relative.to_owned(),
        Some((path, query)) => {
            format!("{path}?{}", query.replace("%2F", "/").replace("%25", "%"))
        }
    }
}

/// True if the name is short enough, also in the form in which it is written to disk.
pub fn fits_file_system(name: &str) -> bool {
    if name.len() <= NAME_PART_BYTES_MAX && !name.contains('?') {
        return true;
    }
    let file = file_name_of(name);
    name.len() <= NAME_BYTES_MAX && file.split('/').all(|part| part.len() <= NAME_PART_BYTES_MAX)
}

/// True if `name` can be an object: a normalised relative path outside the store's own folder.
/// Doors check what peers send; this is the same rule on the other side of the boundary.
pub fn is_object_name(name: &str) -> bool {
    let path = name.split_once('?').map_or(name, |(path, _)| path);
    let parts_are_sound =
        path.split('/').all(|part| !part.is_empty() && part != "." && part != "..");
    let own = path == OWN_FOLDER || path.starts_with(".headwater/");
    parts_are_sound && !own && fits_file_system(name) && !name.contains(['\0', '\n', '\r'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Record {
        Record {
            id: 0x18f3_0000_0001,
            name: "live/seg-1.m4s".into(),
            info: ObjectInfo {
                headers: vec![
                    ("Content-Type".into(), "video/mp4".into()),
                    ("Cache-Control".into(), "max-age=60".into()),
                ],
                created_ms: 1_763_711_000_000,
                expires_ms: Some(1_763_711_060_000),
            },
            extent_bytes: 64 << 20,
            ending: Ending::Torn,
            sealed: Some(SealRecord {
                length: 1234,
                digest: 0xabcdef,
                sealed_ms: 1_763_711_001_000,
                torn: false,
            }),
            bases: Vec::new(),
        }
    }

    /// An appended object that was continued twice, once behind a plain file.
    fn continued_example() -> Record {
        let base = |length, fingerprint| Base { length, fingerprint };
        Record {
            name: "log/a.txt".into(),
            info: ObjectInfo { created_ms: 1_763_711_000_000, ..ObjectInfo::default() },
            ending: Ending::Sealed,
            bases: vec![
                base(500, Fingerprint::Modified(0x187a_1b8f_0000_0000)),
                base(1000, Fingerprint::Digest(0x1234_5678)),
            ],
            ..example()
        }
    }

    #[test]
    fn a_record_survives_the_round_trip() {
        let record = example();
        assert_eq!(Record::decode(&record.encode()), Some(record.clone()));
        let open = Record { sealed: None, ..record };
        assert_eq!(Record::decode(&open.encode()), Some(open));
        let continued = continued_example();
        assert_eq!(Record::decode(&continued.encode()), Some(continued));
    }

    #[test]
    fn a_base_at_the_seal_says_that_the_object_is_open() {
        assert_eq!(example().open_base(), None);
        assert_eq!(continued_example().open_base(), None);
        let base = Base { length: 1234, fingerprint: Fingerprint::Digest(0xabcdef) };
        let open = continued_example().continued_at(base);
        assert_eq!(open.open_base(), Some(base));
        assert_eq!(Record { sealed: None, ..open }.open_base(), Some(base));
        assert_eq!(Record { sealed: None, ..example() }.open_base(), None);
    }

    /// Goal: a record fits its attribute however often its object is continued.
    #[test]
    fn the_newest_bases_are_kept() {
        let long = |bytes: usize| vec![("X-Long".to_owned(), "x".repeat(bytes))];
        for (header_bytes, kept_max) in [(10, BASES_MAX), (RECORD_BYTES_MAX - 300, 5)] {
            let info = ObjectInfo { headers: long(header_bytes), ..ObjectInfo::default() };
            let mut record = Record { info, ..example() };
            for length in 2000..2100 {
                record = record.continued_at(Base { length, fingerprint: Fingerprint::Digest(1) });
            }
            assert!(record.encode().len() <= RECORD_BYTES_MAX);
            assert!((1..=kept_max).contains(&record.bases.len()));
            assert_eq!(record.bases.last().map(|base| base.length), Some(2099));
        }
    }

    #[test]
    fn a_cut_record_is_no_record() {
        let text = example().encode();
        assert_eq!(Record::decode(""), None);
        assert_eq!(Record::decode(&text[..20]), None);
        assert_eq!(Record::decode("headwater 2\nid 0\nname a\nextent 1\n"), None);
        assert_eq!(Record::decode("headwater 1\nid 0\nname a\nextent 0\n"), None);
    }

    /// The prose of the format shows exactly what the code writes.
    #[test]
    fn format_document_shows_this_record() {
        let document = include_str!("../../docs/FORMAT.md");
        for record in [example(), continued_example()] {
            let text = record.encode();
            assert!(document.contains(&text), "docs/FORMAT.md lacks:\n{text}");
        }
        for path in
            [".headwater/open/", ".headwater/extents/", ".headwater/damaged/", "user.headwater"]
        {
            assert!(document.contains(path), "docs/FORMAT.md lacks {path}");
        }
    }

    #[test]
    fn a_query_cannot_leave_its_folder() {
        let name = "q?a=/../../x%2F";
        let file = file_name_of(name);
        assert_eq!(file, "q?a=%2F..%2F..%2Fx%252F");
        assert_eq!(name_of_file(&file), name);
    }

    #[test]
    fn names_outside_the_rules_are_refused() {
        assert!(is_object_name("a/b c/é.ts"));
        for name in ["", "/a", "a//b", "a/", "../a", "a/./b", ".headwater/x", ".headwater", "a\nb"]
        {
            assert!(!is_object_name(name), "{name:?}");
        }
    }
}
