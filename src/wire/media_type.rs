//! Content types by file extension, and the class that decides visibility and caching.

/// What kind of thing an object is, for visibility and cache rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Playlists and MPDs: replaced as a whole.
    Manifest,
    /// Media: visible while it is written, never changed under its name.
    Segment,
    Other,
}

use Class::{Manifest, Other, Segment};

/// Extension, content type, class. Sources: RFC 8216 §4, ISO/IEC 23000-19, IANA.
const TYPES: &[(&str, &str, Class)] = &[
    ("m3u8", "application/vnd.apple.mpegurl", Manifest),
    ("mpd", "application/dash+xml", Manifest),
    ("m3u", "audio/mpegurl", Manifest),
    ("ism", "application/vnd.ms-sstr+xml", Manifest),
    ("mp4", "video/mp4", Segment),
    ("m4v", "video/mp4", Segment),
    ("m4a", "audio/mp4", Segment),
    ("m4s", "video/iso.segment", Segment),
    ("cmfv", "video/mp4", Segment),
    ("cmfa", "audio/mp4", Segment),
    ("cmft", "application/mp4", Segment),
    ("cmfm", "application/mp4", Segment),
    ("init", "video/mp4", Segment),
    ("ts", "video/mp2t", Segment),
    ("m2ts", "video/mp2t", Segment),
    ("aac", "audio/aac", Segment),
    ("mp3", "audio/mpeg", Segment),
    ("ac3", "audio/ac3", Segment),
    ("ec3", "audio/eac3", Segment),
    ("ogg", "audio/ogg", Segment),
    ("opus", "audio/ogg", Segment),
    ("webm", "video/webm", Segment),
    ("mkv", "video/x-matroska", Segment),
    ("h264", "video/h264", Segment),
    ("vtt", "text/vtt", Segment),
    ("ttml", "application/ttml+xml", Segment),
    ("mjpeg", "video/x-motion-jpeg", Segment),
    ("key", "application/octet-stream", Other),
    ("jpg", "image/jpeg", Other),
    ("jpeg", "image/jpeg", Other),
    ("png", "image/png", Other),
    ("webp", "image/webp", Other),
    ("svg", "image/svg+xml", Other),
    ("json", "application/json", Other),
    ("xml", "application/xml", Other),
    ("html", "text/html; charset=utf-8", Other),
    ("css", "text/css", Other),
    ("js", "text/javascript", Other),
    ("txt", "text/plain; charset=utf-8", Other),
];

fn row_of(name: &str) -> Option<&'static (&'static str, &'static str, Class)> {
    // With `compat.query_in_name` a query stands behind the path.
    let path = name.split('?').next()?;
    let file = path.rsplit('/').next()?;
    let (_, extension) = file.rsplit_once('.')?;
    // `Streams(video.cmfv)` of DASH-IF ingest names its track in parentheses.
    let extension = extension.trim_end_matches(')');
    TYPES.iter().find(|(known, _, _)| known.eq_ignore_ascii_case(extension))
}

/// The content type that the name suggests.
pub fn by_extension(name: &str) -> Option<&'static str> {
    row_of(name).map(|(_, content_type, _)| *content_type)
}

/// The class, by what the uploader said first, and by the name otherwise.
pub fn class_of(name: &str, content_type: Option<&str>) -> Class {
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    let is = |known: &str| essence.is_some_and(|essence| essence.eq_ignore_ascii_case(known));
    let manifests = [
        "application/vnd.apple.mpegurl",
        "application/x-mpegurl",
        "audio/mpegurl",
        "audio/x-mpegurl",
        "application/dash+xml",
        "application/vnd.ms-sstr+xml",
    ];
    if manifests.iter().any(|known| is(known)) {
        return Manifest;
    }
    if let Some((_, _, class)) = row_of(name) {
        return *class;
    }
    let is_media = |essence: &str| {
        let kind = essence.split('/').next().unwrap_or_default();
        kind.eq_ignore_ascii_case("video") || kind.eq_ignore_ascii_case("audio")
    };
    if essence.is_some_and(is_media) { Segment } else { Other }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_give_the_class() {
        assert_eq!(by_extension("live/a.M3U8"), Some("application/vnd.apple.mpegurl"));
        assert_eq!(by_extension("live/Streams(v.cmfv)"), Some("video/mp4"));
        assert_eq!(by_extension("a.b/c"), None);
        assert_eq!(class_of("a.m3u8", None), Manifest);
        assert_eq!(class_of("a", Some("Application/X-mpegURL; charset=utf-8")), Manifest);
        assert_eq!(class_of("a.ts", Some("application/octet-stream")), Segment);
        assert_eq!(class_of("a", Some("video/mp4")), Segment);
        assert_eq!(class_of("a", None), Other);
    }
}
