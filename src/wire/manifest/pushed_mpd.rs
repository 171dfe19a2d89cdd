//! A manifest that a publisher pushed, read as far as sorting its objects into tracks needs: each
//! representation, what it is, and the templates of its objects with the placeholders filled in.
//! What is not understood is passed over. Entities are not expanded beyond the five of XML.

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;
use thiserror::Error;

/// A longer manifest is not read.
pub const MPD_BYTES_MAX: usize = 1 << 20;
/// A longer value is passed over: it would be copied for each representation below.
const ATTRIBUTE_BYTES_MAX: usize = 4096;
const REPRESENTATIONS_MAX: usize = 256;
const ROLES_MAX: usize = 16;
/// Of a URL or template with what is put in for its placeholders.
const URL_BYTES_MAX: usize = 2048;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushedMpd {
    /// The presentation is over, or never was live.
    pub is_static: bool,
    pub tracks: Vec<PushedTrack>,
}

/// One Representation, with what it inherits from its AdaptationSet and Period.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PushedTrack {
    pub id: String,
    /// URL of the init segment, relative to the manifest.
    pub initialization: Option<String>,
    /// URL of the segments, relative to the manifest; `$Number…$` and `$Time…$` are left in it.
    pub media: Option<String>,
    pub content_type: Option<String>,
    pub mime_type: Option<String>,
    pub codecs: Option<String>,
    /// bit/s; 0 if the manifest does not say.
    pub bandwidth: u64,
    pub language: Option<String>,
    pub roles: Vec<String>,
    pub frame_rate: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ManifestError {
    #[error("the manifest is longer than {MPD_BYTES_MAX} bytes")]
    TooLong,
    #[error("the text has no MPD element")]
    NotManifest,
    #[error("the XML is broken at byte {at}")]
    BrokenXml { at: u64 },
    #[error("more than {REPRESENTATIONS_MAX} representations")]
    TooManyRepresentations,
    #[error("a URL is longer than {URL_BYTES_MAX} bytes")]
    UrlTooLong,
}

/// The representations of all periods, in the order of the text.
pub fn pushed_tracks(mpd_text: &str) -> Result<PushedMpd, ManifestError> {
    if mpd_text.len() > MPD_BYTES_MAX {
        return Err(ManifestError::TooLong);
    }
    let mut reader = Reader::from_str(mpd_text);
    let mut reading = Reading::default();
    loop {
        let event = reader.read_event();
        let broken = ManifestError::BrokenXml { at: reader.error_position() };
        match event.map_err(|_| broken)? {
            Event::Start(element) => reading.start(&element).ok_or(broken)?,
            Event::Empty(element) => {
                reading.start(&element).ok_or(broken)?;
                reading.end(element.local_name().as_ref())?;
            }
            Event::End(element) => reading.end(element.local_name().as_ref())?,
            Event::Text(text) if reading.in_base_url => {
                reading.base_url.push_str(&text.xml_content(XmlVersion::Implicit1_0));
            }
            Event::GeneralRef(reference) if reading.in_base_url => {
                let name = reference.into_inner();
                let resolved =
                    quick_xml::escape::unescape(&format!("&{name};")).ok().map(|c| c.into_owned());
                reading.base_url.push_str(&resolved.ok_or(broken)?);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    reading.found.ok_or(ManifestError::NotManifest)
}

/// What a level of the manifest says, and the levels below inherit.
#[derive(Debug, Clone, Default)]
struct Level {
    track: PushedTrack,
    base_url: String,
    has_base_url: bool,
}

/// Where the reading is: `levels` are those of the open MPD, Period, AdaptationSet and
/// Representation elements. Whatever else is open changes nothing.
#[derive(Default)]
struct Reading {
    found: Option<PushedMpd>,
    levels: Vec<Level>,
    in_base_url: bool,
    base_url: String,
}

impl Reading {
    /// `None` if an attribute is broken.
    fn start(&mut self, element: &BytesStart<'_>) -> Option<()> {
        match element.local_name().as_ref() {
            "MPD" if self.found.is_none() => {
                let is_static = attribute(element, "type")?.is_none_or(|kind| kind == "static");
                self.found = Some(PushedMpd { is_static, tracks: Vec::new() });
                self.levels.push(Level::default());
            }
            "Period" if self.levels.len() == 1 => self.levels.push(self.levels[0].below()),
            "AdaptationSet" if self.levels.len() == 2 => {
                let mut level = self.levels[1].below();
                level.read_attributes(element)?;
                self.levels.push(level);
            }
            "Representation" if self.levels.len() == 3 => {
                let mut level = self.levels[2].below();
                level.read_attributes(element)?;
                level.track.id = attribute(element, "id")?.unwrap_or_default();
                let bandwidth = attribute(element, "bandwidth")?;
                level.track.bandwidth =
                    bandwidth.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
                self.levels.push(level);
            }
            "Role" => self.role(element)?,
            "SegmentTemplate" => self.template(element)?,
            "BaseURL" => self.in_base_url = true,
            _ => {}
        }
        Some(())
    }

    fn end(&mut self, name: &str) -> Result<(), ManifestError> {
        let depth = match name {
            "BaseURL" => {
                self.in_base_url = false;
                self.take_base_url();
                return if self.base_url_is_long() {
                    Err(ManifestError::UrlTooLong)
                } else {
                    Ok(())
                };
            }
            "MPD" => 1,
            "Period" => 2,
            "AdaptationSet" => 3,
            "Representation" => 4,
            _ => return Ok(()),
        };
        if self.levels.len() != depth {
            return Ok(());
        }
        let level = self.levels.pop();
        let (Some(level), Some(found), 4) = (level, &mut self.found, depth) else {
            return Ok(());
        };
        if found.tracks.len() == REPRESENTATIONS_MAX {
            return Err(ManifestError::TooManyRepresentations);
        }
        found.tracks.push(level.into_track()?);
        Ok(())
    }

    fn role(&mut self, element: &BytesStart<'_>) -> Option<()> {
        let role = attribute(element, "value")?;
        if let Some(level) = self.levels.get_mut(2)
            && level.track.roles.len() < ROLES_MAX
        {
            level.track.roles.extend(role);
        }
        Some(())
    }

    fn template(&mut self, element: &BytesStart<'_>) -> Option<()> {
        let initialization = attribute(element, "initialization")?;
        let media = attribute(element, "media")?;
        if let Some(level) = self.levels.last_mut() {
            level.track.initialization = initialization.or(level.track.initialization.take());
            level.track.media = media.or(level.track.media.take());
        }
        Some(())
    }

    /// Of several BaseURL elements of a level the first counts; the others are alternatives.
    fn take_base_url(&mut self) {
        let url = std::mem::take(&mut self.base_url);
        if let Some(level) = self.levels.last_mut()
            && !level.has_base_url
        {
            level.has_base_url = true;
            level.base_url = joined(&level.base_url, url.trim());
        }
    }

    fn base_url_is_long(&self) -> bool {
        self.levels.last().is_some_and(|level| level.base_url.len() > URL_BYTES_MAX)
    }
}

impl Level {
    fn below(&self) -> Level {
        Level { has_base_url: false, ..self.clone() }
    }

    fn read_attributes(&mut self, element: &BytesStart<'_>) -> Option<()> {
        let track = &mut self.track;
        let fields = [
            ("contentType", &mut track.content_type),
            ("mimeType", &mut track.mime_type),
            ("codecs", &mut track.codecs),
            ("lang", &mut track.language),
            ("frameRate", &mut track.frame_rate),
        ];
        for (name, field) in fields {
            if let Some(value) = attribute(element, name)? {
                *field = Some(value);
            }
        }
        Some(())
    }

    fn into_track(self) -> Result<PushedTrack, ManifestError> {
        let mut track = self.track;
        for template in [&mut track.initialization, &mut track.media] {
            if let Some(text) = template {
                let filled = filled(text, &track.id, track.bandwidth)?;
                *template = Some(joined(&self.base_url, &filled));
            }
        }
        Ok(track)
    }
}

/// `$RepresentationID$` and `$Bandwidth$` are put in; other placeholders stay as they are.
fn filled(template: &str, id: &str, bandwidth: u64) -> Result<String, ManifestError> {
    if template.len() > URL_BYTES_MAX {
        return Err(ManifestError::UrlTooLong);
    }
    let mut text = String::with_capacity(template.len() + id.len());
    let mut rest = template;
    while let Some((before, behind)) = rest.split_once('$') {
        text.push_str(before);
        let Some((name, after)) = behind.split_once('$') else {
            text.push('$');
            rest = behind;
            break;
        };
        match name {
            "RepresentationID" => text.push_str(id),
            "Bandwidth" => text.push_str(itoa::Buffer::new().format(bandwidth)),
            name => text.extend(["$", name, "$"]),
        }
        if text.len() > URL_BYTES_MAX {
            return Err(ManifestError::UrlTooLong);
        }
        rest = after;
    }
    text.push_str(rest);
    Ok(text)
}

/// A URL relative to another: enough of RFC 3986 for manifests, dots are left to who uses it.
fn joined(base: &str, url: &str) -> String {
    if url.contains("://") || url.starts_with('/') {
        return url.to_owned();
    }
    let folder = base.rfind('/').map_or("", |at| &base[..=at]);
    [folder, url].concat()
}

/// The outer `None`: the element's attributes are broken.
fn attribute(element: &BytesStart<'_>, name: &str) -> Option<Option<String>> {
    let Some(found) = element.try_get_attribute(name).ok()? else {
        return Some(None);
    };
    let value = found.normalized_value(XmlVersion::Implicit1_0).ok()?;
    Some((value.len() <= ATTRIBUTE_BYTES_MAX).then(|| value.into_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As ffmpeg's dash muxer writes it (`-ldash 1 -use_template 1`), shortened.
    const FFMPEG: &str = r#"<?xml version="1.0" encoding="utf-8"?>
<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:isoff-live:2011" type="dynamic" minimumUpdatePeriod="PT500S">
	<ServiceDescription id="0"/>
	<Period id="0" start="PT0.0S">
		<AdaptationSet id="0" contentType="video" startWithSAP="1" frameRate="25/1" par="16:9">
			<Role schemeIdUri="urn:mpeg:dash:role:2011" value="main"/>
			<Representation id="0" mimeType="video/mp4" codecs="avc1.64001f" bandwidth="2000000" width="1280">
				<ProducerReferenceTime id="0"><UTCTiming value="x"/></ProducerReferenceTime>
				<SegmentTemplate timescale="1000000" duration="2000000" initialization="init-stream$RepresentationID$.m4s" media="chunk-stream$RepresentationID$-$Number%05d$.m4s" startNumber="1">
				</SegmentTemplate>
			</Representation>
		</AdaptationSet>
		<AdaptationSet id="1" contentType="audio" lang="eng">
			<SegmentTemplate initialization="a&amp;$RepresentationID$.mp4" media="$$-$Bandwidth$/$Time$.m4s"/>
			<Representation id="1" mimeType="audio/mp4" bandwidth="128000"/>
			<Representation id="2" bandwidth="x"><SegmentTemplate media="2-$Number$.m4s"/></Representation>
		</AdaptationSet>
	</Period>
</MPD>
"#;

    #[test]
    fn representations_inherit() {
        let pushed = pushed_tracks(FFMPEG).expect("it is good");
        assert!(!pushed.is_static);
        let [video, audio, other] = pushed.tracks.as_slice() else {
            panic!("three: {pushed:?}");
        };
        assert_eq!(video.initialization.as_deref(), Some("init-stream0.m4s"));
        assert_eq!(video.media.as_deref(), Some("chunk-stream0-$Number%05d$.m4s"));
        assert_eq!((video.content_type.as_deref(), video.bandwidth), (Some("video"), 2_000_000));
        assert_eq!(video.frame_rate.as_deref(), Some("25/1"));
        assert_eq!(video.roles, ["main"]);
        assert_eq!(audio.initialization.as_deref(), Some("a&1.mp4"));
        assert_eq!(audio.media.as_deref(), Some("$$-128000/$Time$.m4s"));
        assert_eq!((audio.language.as_deref(), audio.roles.len()), (Some("eng"), 0));
        assert_eq!(
            (other.id.as_str(), other.bandwidth, other.mime_type.as_deref()),
            ("2", 0, None)
        );
        assert_eq!(other.initialization.as_deref(), Some("a&2.mp4"));
        assert_eq!(other.media.as_deref(), Some("2-$Number$.m4s"));
    }

    #[test]
    fn urls_are_relative_to_their_base() {
        let text = "<MPD><BaseURL>live/&amp;/</BaseURL><BaseURL>b/</BaseURL><Period><AdaptationSet>\
            <Representation id='r'><BaseURL> v/x </BaseURL><SegmentTemplate media='s'/>\
            </Representation><Representation id='q'><BaseURL>http://h/p/</BaseURL>\
            <SegmentTemplate media='s' initialization='/i'/></Representation>\
            </AdaptationSet></Period></MPD>";
        let pushed = pushed_tracks(text).expect("it is good");
        assert!(pushed.is_static, "the default");
        assert_eq!(pushed.tracks[0].media.as_deref(), Some("live/&/v/s"));
        assert_eq!(pushed.tracks[1].media.as_deref(), Some("http://h/p/s"));
        assert_eq!(pushed.tracks[1].initialization.as_deref(), Some("/i"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str| pushed_tracks(text).expect_err("it is bad");
        assert_eq!(error(""), ManifestError::NotManifest);
        assert_eq!(error("<html/>"), ManifestError::NotManifest);
        assert!(matches!(error("<MPD><Period></MPD>"), ManifestError::BrokenXml { .. }));
        assert!(matches!(error("<MPD type='&x;'/>"), ManifestError::BrokenXml { .. }));
        assert_eq!(error(&" ".repeat(MPD_BYTES_MAX + 1)), ManifestError::TooLong);
        let many = "<Representation/>".repeat(REPRESENTATIONS_MAX + 1);
        let many = format!("<MPD><Period><AdaptationSet>{many}</AdaptationSet></Period></MPD>");
        assert_eq!(error(&many), ManifestError::TooManyRepresentations);
        let wide = FFMPEG.replace("eng", &"x".repeat(ATTRIBUTE_BYTES_MAX + 1));
        assert_eq!(pushed_tracks(&wide).expect("it is good").tracks[1].language, None);
        let long = FFMPEG.replace("init-stream", &"x".repeat(URL_BYTES_MAX));
        assert_eq!(error(&long), ManifestError::UrlTooLong);
    }

    #[test]
    fn what_we_write_is_read() {
        let pushed = pushed_tracks(include_str!("live_example.mpd")).expect("it is ours");
        assert_eq!(pushed.tracks[0].media.as_deref(), Some("video/e1/$Number$.m4s"));
        assert_eq!(pushed.tracks.len(), 2);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in any::<String>(), at in 0..FFMPEG.len(), cut in 0..40_usize) {
            let _ = pushed_tracks(&text);
            let _ = pushed_tracks(&format!("<MPD><Period><AdaptationSet>{text}"));
            let mut broken = FFMPEG.to_owned();
            broken.replace_range(at..(at + cut).min(FFMPEG.len()), &text);
            let _ = pushed_tracks(&broken);
            let _ = filled(&text, &text, 7);
        }
    }
}
