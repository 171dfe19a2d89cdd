//! The multivariant playlist: which variants and renditions there are, as a value and as text.

use super::attributes::{Attributes, push_uri};
use crate::wire::numbers::{push_decimal, push_integer};

/// Of FRAME-RATE (rfc8216bis §4.4.6.2).
const FRAME_RATE_DECIMALS: u32 = 3;

#[derive(Debug, Clone, Default, PartialEq)]
pub struct MultivariantPlaylist {
    /// No segment of any variant needs another.
    pub independent_segments: bool,
    pub variants: Vec<Variant>,
    pub media: Vec<Media>,
    pub content_steering: Option<ContentSteering>,
}

/// EXT-X-STREAM-INF and its URI. Bandwidths are in bit/s.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Variant {
    pub uri: String,
    /// The highest of any segment, of all renditions together.
    pub bandwidth: u64,
    pub average_bandwidth: Option<u64>,
    /// RFC 6381; of all renditions. Left out when empty.
    pub codecs: Vec<String>,
    /// Width and height.
    pub resolution: Option<(u32, u32)>,
    pub frame_rate: Option<f64>,
    /// The group of audio renditions that goes with it.
    pub audio_group: Option<String>,
    pub subtitles_group: Option<String>,
    pub pathway_id: Option<String>,
    /// The same on every pathway.
    pub stable_variant_id: Option<String>,
}

/// EXT-X-MEDIA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    pub kind: MediaKind,
    pub group: String,
    /// Unlike that of every other rendition of the group.
    pub name: String,
    /// RFC 5646.
    pub language: Option<String>,
    pub default: bool,
    /// Is written when `default` is set, even if this is not.
    pub autoselect: bool,
    /// Subtitles only.
    pub forced: bool,
    /// Audio only.
    pub channels: Option<u32>,
    /// Schemes such as `public.accessibility.describes-video`.
    pub characteristics: Vec<String>,
    /// None: the rendition is in the variant's own segments.
    pub uri: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaKind {
    Audio,
    Subtitles,
}

/// EXT-X-CONTENT-STEERING.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContentSteering {
    pub server_uri: String,
    pub pathway_id: Option<String>,
}

impl MultivariantPlaylist {
    /// Appends the text. No EXT-X-VERSION: every tag used here goes with version 1.
    pub fn write(&self, out: &mut String) {
        out.push_str("#EXTM3U\n");
        if self.independent_segments {
            out.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
        }
        if let Some(steering) = &self.content_steering {
            let mut tag = Attributes::new(out, "#EXT-X-CONTENT-STEERING");
            push_quoted_uri(tag.name("SERVER-URI"), &steering.server_uri);
            tag.quoted_if("PATHWAY-ID", steering.pathway_id.as_deref());
            tag.end();
        }
        self.media.iter().for_each(|media| write_media(media, out));
        self.variants.iter().for_each(|variant| write_variant(variant, out));
    }
}

fn push_quoted_uri(out: &mut String, uri: &str) {
    out.push('"');
    push_uri(out, uri);
    out.push('"');
}

fn write_media(media: &Media, out: &mut String) {
    let mut tag = Attributes::new(out, "#EXT-X-MEDIA");
    tag.name("TYPE").push_str(match media.kind {
        MediaKind::Audio => "AUDIO",
        MediaKind::Subtitles => "SUBTITLES",
    });
    tag.quoted("GROUP-ID", &media.group);
    tag.quoted("NAME", &media.name);
    tag.quoted_if("LANGUAGE", media.language.as_deref());
    tag.yes("DEFAULT", media.default);
    // AUTOSELECT must not be NO where DEFAULT is YES (rfc8216bis §4.4.6.1).
    tag.yes("AUTOSELECT", media.autoselect || media.default);
    tag.yes("FORCED", media.forced && media.kind == MediaKind::Subtitles);
    if !media.characteristics.is_empty() {
        tag.quoted("CHARACTERISTICS", &media.characteristics.join(","));
    }
    if let Some(channels) = media.channels.filter(|_| media.kind == MediaKind::Audio) {
        tag.quoted("CHANNELS", itoa::Buffer::new().format(channels));
    }
    if let Some(uri) = &media.uri {
        tag.uri(uri);
    }
    tag.end();
}

fn write_variant(variant: &Variant, out: &mut String) {
    let mut tag = Attributes::new(out, "#EXT-X-STREAM-INF");
    tag.integer("BANDWIDTH", variant.bandwidth);
    if let Some(average) = variant.average_bandwidth {
        tag.integer("AVERAGE-BANDWIDTH", average);
    }
    if !variant.codecs.is_empty() {
        tag.quoted("CODECS", &variant.codecs.join(","));
    }
    if let Some((width, height)) = variant.resolution {
        let out = tag.name("RESOLUTION");
        push_integer(out, width.into());
        out.push('x');
        push_integer(out, height.into());
    }
    if let Some(rate) = variant.frame_rate {
        push_decimal(tag.name("FRAME-RATE"), rate, FRAME_RATE_DECIMALS);
    }
    tag.quoted_if("AUDIO", variant.audio_group.as_deref());
    tag.quoted_if("SUBTITLES", variant.subtitles_group.as_deref());
    tag.quoted_if("STABLE-VARIANT-ID", variant.stable_variant_id.as_deref());
    tag.quoted_if("PATHWAY-ID", variant.pathway_id.as_deref());
    tag.end();
    push_uri(out, &variant.uri);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multivariant_playlist_is_written_so() {
        let playlist = MultivariantPlaylist {
            independent_segments: true,
            variants: vec![Variant {
                uri: "video.m3u8".to_owned(),
                bandwidth: 2_200_000,
                average_bandwidth: Some(1_900_000),
                codecs: vec!["avc1.64001F".to_owned(), "mp4a.40.2".to_owned()],
                resolution: Some((1280, 720)),
                frame_rate: Some(30000.0 / 1001.0),
                audio_group: Some("audio".to_owned()),
                pathway_id: Some("a".to_owned()),
                ..Variant::default()
            }],
            media: vec![Media {
                kind: MediaKind::Audio,
                group: "audio".to_owned(),
                name: "English \"main\"".to_owned(),
                language: Some("en".to_owned()),
                default: true,
                autoselect: false,
                forced: true,
                channels: Some(2),
                characteristics: Vec::new(),
                uri: Some("audio.m3u8".to_owned()),
            }],
            content_steering: Some(ContentSteering {
                server_uri: "/live/cam/steering.json".to_owned(),
                pathway_id: Some("a".to_owned()),
            }),
        };
        let mut out = String::new();
        playlist.write(&mut out);
        let expected = "#EXTM3U\n#EXT-X-INDEPENDENT-SEGMENTS\n\
            #EXT-X-CONTENT-STEERING:SERVER-URI=\"/live/cam/steering.json\",PATHWAY-ID=\"a\"\n\
            #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",NAME=\"English 'main'\",LANGUAGE=\"en\",\
            DEFAULT=YES,AUTOSELECT=YES,CHANNELS=\"2\",URI=\"audio.m3u8\"\n\
            #EXT-X-STREAM-INF:BANDWIDTH=2200000,AVERAGE-BANDWIDTH=1900000,\
            CODECS=\"avc1.64001F,mp4a.40.2\",RESOLUTION=1280x720,FRAME-RATE=29.970,\
            AUDIO=\"audio\",PATHWAY-ID=\"a\"\nvideo.m3u8\n";
        assert_eq!(out, expected);
    }
}
