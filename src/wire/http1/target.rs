//! From a request target to an object's name: decoded, normalised, and unable to leave its root.
//!
//! One spelling for each object (RFC 3986 §6.2.2): percent-encodings are decoded once, `//` is `/`,
//! literal `.` and `..` are resolved. Encoded dots, slashes and control characters are refused:
//! nobody needs them, and caches read them differently.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

#[derive(Debug, PartialEq, Eq)]
pub struct Target<'b> {
    /// Without the leading slash; empty for the root.
    pub name: Cow<'b, str>,
    pub query: Option<&'b str>,
    /// The path ended in a slash.
    pub is_folder: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    #[error("the path has a broken percent-encoding")]
    BadEscape,
    #[error("the path decodes to something that is not UTF-8")]
    NotUtf8,
    #[error("the path has an encoded control character or slash")]
    Forbidden,
    #[error("the path has an encoded dot segment")]
    EncodedDots,
    #[error("the path leaves its root")]
    AboveRoot,
    #[error("the target is not an http URL or a path")]
    NotHttp,
}

/// Split a target in origin-form or absolute-form (RFC 9112 §3.2.1, §3.2.2; the host is not part of
/// the name) and normalise its path.
pub fn parse_target(target: &str) -> Result<Target<'_>, TargetError> {
    if let Some(plain) = plain_target(target) {
        return Ok(plain);
    }
    let rest = match target.strip_prefix('/') {
        Some(_) => target,
        None => strip_authority(target)?,
    };
    let rest = rest.split('#').next().unwrap_or_default();
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let path = path.strip_prefix('/').unwrap_or(path);
    let name = normalise(path)?;
    let is_folder =
        name.is_empty() || path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..");
    Ok(Target { name: Cow::Owned(name), query, is_folder })
}

/// The usual target, in one pass: a path that is normal already, and no query.
fn plain_target(target: &str) -> Option<Target<'_>> {
    let mut before = 0;
    for byte in target.bytes() {
        let begins_part = before == b'/';
        if matches!(byte, b'%' | b'?' | b'#') || (begins_part && matches!(byte, b'/' | b'.')) {
            return None;
        }
        before = byte;
    }
    let name = target.strip_prefix('/').filter(|_| before != b'/')?;
    Some(Target { name: Cow::Borrowed(name), query: None, is_folder: false })
}

/// `http://host/path` to `/path`.
fn strip_authority(target: &str) -> Result<&str, TargetError> {
    let (scheme, rest) = target.split_once("://").ok_or(TargetError::NotHttp)?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(TargetError::NotHttp);
    }
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    // RFC 9110 §4.2.1: an http URI without a host is invalid.
    if authority.is_empty() || authority.starts_with(':') {
        Err(TargetError::NotHttp)
    } else {
        Ok(path)
    }
}

fn normalise(path: &str) -> Result<String, TargetError> {
    let mut parts: Vec<Cow<'_, str>> = Vec::new();
    for raw in path.split('/') {
        match raw {
            "" | "." => {}
            ".." => {
                parts.pop().ok_or(TargetError::AboveRoot)?;
            }
            _ => parts.push(decode(raw)?),
        }
    }
    Ok(parts.join("/"))
}

fn decode(raw: &str) -> Result<Cow<'_, str>, TargetError> {
    check_escapes(raw.as_bytes())?;
    let part = percent_decode_str(raw).decode_utf8().map_err(|_| TargetError::NotUtf8)?;
    if part == "." || part == ".." {
        return Err(TargetError::EncodedDots);
    }
    if part.contains('/') || part.contains(char::is_control) {
        return Err(TargetError::Forbidden);
    }
    Ok(part)
}

/// Every `%` is followed by two hexadecimal digits (RFC 3986 §2.1).
fn check_escapes(raw: &[u8]) -> Result<(), TargetError> {
    for at in memchr::memchr_iter(b'%', raw) {
        let digits = raw.get(at + 1..at + 3).ok_or(TargetError::BadEscape)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(TargetError::BadEscape);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(target: &str) -> Result<String, TargetError> {
        parse_target(target).map(|target| target.name.into_owned())
    }

    #[test]
    fn one_object_has_one_name() {
        for target in [
            "/a/b.ts",
            "//a//b.ts",
            "/a/./b.ts",
            "/x/../a/b.ts",
            "/a/%62.ts",
            "http://h:1/a/b.ts?q",
        ] {
            assert_eq!(name(target).as_deref(), Ok("a/b.ts"), "{target}");
        }
        assert_eq!(name("/Streams(v.cmfv)").as_deref(), Ok("Streams(v.cmfv)"));
        assert_eq!(name("/%C3%A9").as_deref(), Ok("é"));
        assert_eq!(parse_target("/a?b=/../c").unwrap().query, Some("b=/../c"));
        assert_eq!(name("/.hidden").as_deref(), Ok(".hidden"));
    }

    #[test]
    fn names_that_would_escape_are_refused() {
        use TargetError::*;
        let cases = [
            ("/..", AboveRoot),
            ("/a/../../b", AboveRoot),
            ("/%2e%2e/a", EncodedDots),
            ("/a/%2E", EncodedDots),
            ("/.%2e/a", EncodedDots),
            ("/a%2Fb", Forbidden),
            ("/a%00", Forbidden),
            ("/a%0a", Forbidden),
            ("/%c0%af", NotUtf8),
            ("/%ff", NotUtf8),
            ("/%4", BadEscape),
            ("/%zz", BadEscape),
            ("ftp://h/a", NotHttp),
            ("http:///a", NotHttp),
            ("http://", NotHttp),
        ];
        for (target, wanted) in cases {
            assert_eq!(name(target), Err(wanted), "{target}");
        }
    }

    #[test]
    fn folders_are_told_apart() {
        for target in ["/", "/a/", "/a/.", "/a/..", "http://h", "//"] {
            assert!(parse_target(target).unwrap().is_folder, "{target}");
        }
        assert!(!parse_target("/a").unwrap().is_folder);
    }

    proptest::proptest! {
        #[test]
        fn no_name_leaves_its_root(target in "[/.%a2eEfF?#:]{0,40}") {
            if let Ok(target) = parse_target(&target) {
                assert!(target.name.split('/').all(|part| part != ".." && part != "."));
                assert!(!target.name.starts_with('/'));
            }
        }
    }
}
