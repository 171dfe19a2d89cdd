//! The initialisation segment (ftyp and moov): which tracks there are, how they count time, how they
//! are coded, and in which language. It can be cut down to one track, for views of a muxed push.
//! What no decoder here needs (sample tables, edit lists, user data) is passed over.

use super::box_writer::push_box;
use super::boxes::{BoxRef, boxes, child, children, u16_at, u32_at};
use super::sample_entry::{SampleEntry, parse_sample_entry};
use super::{Fmp4Error, TRACKS_MAX};

/// Brands of an ftyp or styp that are kept.
const BRANDS_MAX: usize = 32;
/// A longer language tag (BCP 47 needs 35) is not one.
const LANGUAGE_BYTES_MAX: usize = 64;

/// What the ftyp and the moov say about a fragmented movie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Init {
    pub tracks: Vec<Track>,
    /// The moov has an mvex box: samples come in fragments. Without it this is a plain MP4.
    pub fragmented: bool,
    /// The major brand and the compatible ones; empty without an ftyp.
    pub brands: Vec<[u8; 4]>,
}

impl Init {
    pub fn track(&self, track_id: u32) -> Option<&Track> {
        self.tracks.iter().find(|track| track.track_id == track_id)
    }

    pub fn has_video(&self) -> bool {
        self.tracks.iter().any(|track| track.handler == Handler::Video)
    }

    /// The same ftyp and moov with only this track: its trak, and of mvex its trex. Whatever else
    /// the moov has stays as it is. `None`: no such track, or no moov that can be read.
    pub fn single_track(init_bytes: &[u8], track_id: u32) -> Option<Vec<u8>> {
        let mut cut = Vec::with_capacity(init_bytes.len());
        for found in boxes(init_bytes) {
            let found = found.ok()?;
            match &found.kind {
                b"ftyp" => cut.extend_from_slice(found.whole),
                b"moov" => {
                    copy_box(&mut cut, b"moov", &moov_of(found.payload, track_id)?);
                    return Some(cut);
                }
                _ => {}
            }
        }
        None
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Track {
    pub track_id: u32,
    /// Ticks per second; never 0.
    pub timescale: u32,
    pub handler: Handler,
    /// From trex (8.8.3): what a fragment's samples are if the fragment does not say.
    pub default_sample_duration: u32,
    pub default_sample_size: u32,
    pub default_sample_flags: u32,
    /// Type of the first sample entry (`avc1`); zeros if there is none.
    pub sample_entry: [u8; 4],
    /// As in RFC 6381 (`avc1.64001F`). The sample entry's type where nothing more is known; empty
    /// if there is no sample entry.
    pub codec: String,
    /// Of a coded picture; 0 if it has none.
    pub width: u32,
    pub height: u32,
    /// Of sound; 0 if unknown.
    pub channels: u16,
    pub sample_rate: u32,
    /// A BCP 47 tag (elng) or three letters of ISO 639-2 (mdhd); never `und`.
    pub language: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Handler {
    Video,
    Audio,
    /// Subtitles and captions.
    Text,
    #[default]
    Other,
}

/// Reads an initialisation segment: any boxes, then the moov, then anything.
pub fn parse_init(bytes: &[u8]) -> Result<Init, Fmp4Error> {
    let mut brands = Vec::new();
    for found in boxes(bytes) {
        let found = found?;
        match &found.kind {
            b"ftyp" => brands = parse_brands(found.payload),
            b"moov" => return parse_moov(found.payload, brands),
            _ => {}
        }
    }
    Err(Fmp4Error::Missing("moov"))
}

/// The brands of an ftyp or styp (4.3): the major one, then, behind its version, the others.
pub(super) fn parse_brands(payload: &[u8]) -> Vec<[u8; 4]> {
    brands_of(payload).collect()
}

pub(super) fn brands_of(payload: &[u8]) -> impl Iterator<Item = [u8; 4]> {
    let (fields, _) = payload.as_chunks::<4>();
    fields.iter().enumerate().filter(|&(at, _)| at != 1).map(|(_, brand)| *brand).take(BRANDS_MAX)
}

pub(super) fn parse_moov(moov: &[u8], brands: Vec<[u8; 4]>) -> Result<Init, Fmp4Error> {
    let mut init = Init { brands, ..Init::default() };
    for found in boxes(moov) {
        let found = found?;
        match &found.kind {
            b"trak" if init.tracks.len() == TRACKS_MAX => return Err(Fmp4Error::TooManyTracks),
            b"trak" => init.tracks.push(parse_trak(found.payload)?),
            b"mvex" => init.fragmented = true,
            _ => {}
        }
    }
    // After the tracks, wherever mvex stands in the moov.
    for trex in children(moov, b"mvex").flat_map(|mvex| children(mvex.payload, b"trex")) {
        let track_id = u32_at(trex.payload, 4)?;
        if let Some(track) = init.tracks.iter_mut().find(|track| track.track_id == track_id) {
            track.default_sample_duration = u32_at(trex.payload, 12)?;
            track.default_sample_size = u32_at(trex.payload, 16)?;
            track.default_sample_flags = u32_at(trex.payload, 20)?;
        }
    }
    Ok(init)
}

fn parse_trak(trak: &[u8]) -> Result<Track, Fmp4Error> {
    let only = |parent, kind, name| child(parent, kind).ok_or(Fmp4Error::Missing(name));
    let mdia = only(trak, b"mdia", "mdia")?;
    let mdhd = only(mdia, b"mdhd", "mdhd")?;
    let hdlr = only(mdia, b"hdlr", "hdlr")?;
    let timescale = u32_at(mdhd, after_times(mdhd))?;
    if timescale == 0 {
        return Err(Fmp4Error::Missing("timescale of the mdhd"));
    }
    let handler = match &u32_at(hdlr, 8)?.to_be_bytes() {
        b"vide" => Handler::Video,
        b"soun" => Handler::Audio,
        b"text" | b"subt" | b"sbtl" | b"clcp" => Handler::Text,
        _ => Handler::Other,
    };
    let stbl = child(mdia, b"minf").and_then(|minf| child(minf, b"stbl"));
    let stsd = stbl.and_then(|stbl| child(stbl, b"stsd"));
    let entry = stsd.map_or_else(SampleEntry::default, |stsd| parse_sample_entry(stsd, handler));
    Ok(Track {
        track_id: track_id_of(trak).ok_or(Fmp4Error::Missing("tkhd"))?,
        timescale,
        handler,
        default_sample_duration: 0,
        default_sample_size: 0,
        default_sample_flags: 0,
        sample_entry: entry.kind,
        codec: entry.codec,
        width: entry.width,
        height: entry.height,
        channels: entry.channels,
        sample_rate: entry.sample_rate,
        language: extended_language(mdia).or_else(|| packed_language(mdhd)),
    })
}

/// Where the fields behind the times of a tkhd or mdhd begin: version 1 has 64-bit creation and
/// modification times (8.3.2, 8.4.2).
fn after_times(full_box: &[u8]) -> usize {
    if full_box.first() == Some(&1) { 20 } else { 12 }
}

fn track_id_of(trak: &[u8]) -> Option<u32> {
    let tkhd = child(trak, b"tkhd")?;
    u32_at(tkhd, after_times(tkhd)).ok()
}

/// elng (8.4.6), which is more exact than mdhd.
fn extended_language(mdia: &[u8]) -> Option<String> {
    let text = child(mdia, b"elng")?.get(4..)?.split(|&byte| byte == 0).next()?;
    let is_tag = text.iter().all(|&byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_tag || text.is_empty() || text.len() > LANGUAGE_BYTES_MAX || text == b"und" {
        return None;
    }
    String::from_utf8(text.to_vec()).ok()
}

/// Three letters of five bits behind the duration of the mdhd (8.4.2).
fn packed_language(mdhd: &[u8]) -> Option<String> {
    let duration_bytes = if mdhd.first() == Some(&1) { 8 } else { 4 };
    let packed = u16_at(mdhd, after_times(mdhd) + 4 + duration_bytes).ok()?;
    let letters = [10, 5, 0].map(|shift| 0x60 + ((packed >> shift) & 0x1f) as u8);
    let is_language = letters.iter().all(u8::is_ascii_lowercase) && &letters != b"und";
    is_language.then(|| letters.iter().copied().map(char::from).collect())
}

fn moov_of(moov: &[u8], track_id: u32) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(moov.len());
    let mut found_track = false;
    for found in boxes(moov) {
        let BoxRef { kind, payload, .. } = found.ok()?;
        match &kind {
            b"trak" if track_id_of(payload) != Some(track_id) => {}
            b"trak" => {
                found_track = true;
                copy_box(&mut kept, b"trak", payload);
            }
            b"mvex" => copy_box(&mut kept, b"mvex", &mvex_of(payload, track_id)?),
            _ => copy_box(&mut kept, &kind, payload),
        }
    }
    found_track.then_some(kept)
}

fn mvex_of(mvex: &[u8], track_id: u32) -> Option<Vec<u8>> {
    let mut kept = Vec::with_capacity(mvex.len());
    for found in boxes(mvex) {
        let found = found.ok()?;
        let is_per_track = matches!(&found.kind, b"trex" | b"trep");
        if !is_per_track || u32_at(found.payload, 4) == Ok(track_id) {
            copy_box(&mut kept, &found.kind, found.payload);
        }
    }
    Some(kept)
}

/// With a size of 32 bits, whatever the box had before: it is or lies in a moov.
fn copy_box(out: &mut Vec<u8>, kind: &[u8; 4], payload: &[u8]) {
    push_box(out, kind, |out| out.extend_from_slice(payload));
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Decode, Moov};

    use super::super::box_builder::{SAMPLE, init_segment, minf, new_box, trak, words};
    use super::*;

    const DEU: u16 = (4 << 10) | (5 << 5) | 21;
    const UND: u16 = (21 << 10) | (14 << 5) | 4;

    #[test]
    fn agrees_with_mp4_atom() {
        let init = parse_init(SAMPLE).unwrap();
        let moov_at = SAMPLE.windows(4).position(|kind| kind == b"moov").unwrap() - 4;
        let moov = Moov::decode(&mut &SAMPLE[moov_at..]).unwrap();
        assert_eq!(init.tracks.len(), moov.trak.len());
        for (ours, theirs) in init.tracks.iter().zip(&moov.trak) {
            assert_eq!(ours.track_id, theirs.tkhd.track_id);
            assert_eq!(ours.timescale, theirs.mdia.mdhd.timescale);
        }
        let [video, audio] = init.tracks.as_slice() else { panic!("{init:?}") };
        assert_eq!((video.handler, audio.handler), (Handler::Video, Handler::Audio));
        assert!(video.codec.starts_with("avc1.") && audio.codec == "mp4a.40.2");
        let visual = moov.trak[0].mdia.minf.stbl.stsd.codecs[0].visual().unwrap();
        assert_eq!((video.width, video.height), (visual.width.into(), visual.height.into()));
        assert!(init.brands.contains(b"iso6") && init.fragmented);
    }

    #[test]
    fn languages_are_told_unless_undetermined() {
        let of = |language, inner: &[u8]| {
            let moov = new_box(b"moov", &trak(1, b"soun", language, inner));
            parse_init(&moov).unwrap().tracks[0].language.clone()
        };
        assert_eq!(of(DEU, &[]).as_deref(), Some("deu"));
        assert_eq!(of(UND, &[]), None);
        assert_eq!(of(0, &[]), None);
        let elng = |tag: &[u8]| new_box(b"elng", &[&[0; 4], tag].concat());
        assert_eq!(of(DEU, &elng(b"de-CH-1996\0")).as_deref(), Some("de-CH-1996"));
        assert_eq!(of(DEU, &elng(b"de\"\r\n\0")).as_deref(), Some("deu"));
        assert_eq!(of(UND, &elng(&[b'a'; 100])), None);
    }

    #[test]
    fn one_track_is_cut_out() {
        let segment = init_segment(&[b"vide", b"soun", b"text"]);
        let whole = parse_init(&segment).unwrap();
        assert_eq!(whole.brands, [*b"iso6", *b"iso6", *b"cmfc"]);
        for track in &whole.tracks {
            let cut = Init::single_track(&segment, track.track_id).unwrap();
            let init = parse_init(&cut).unwrap();
            assert_eq!(init.tracks, std::slice::from_ref(track));
            assert_eq!((&init.brands, init.fragmented), (&whole.brands, true));
            let sizes: usize = boxes(&cut).map(|found| found.unwrap().whole.len()).sum();
            assert_eq!(sizes, cut.len());
        }
        assert_eq!(Init::single_track(&segment, 4), None);
        assert_eq!(Init::single_track(&segment[..segment.len() - 1], 1), None);
        let cut = Init::single_track(SAMPLE, 2).unwrap();
        let moov_at = cut.windows(4).position(|kind| kind == b"moov").unwrap() - 4;
        let moov = Moov::decode(&mut &cut[moov_at..]).unwrap();
        assert_eq!((moov.trak.len(), moov.trak[0].tkhd.track_id), (1, 2));
        assert_eq!(moov.mvex.unwrap().trex.len(), 1);
    }

    #[test]
    fn defaults_come_from_trex_wherever_it_stands() {
        let trex = new_box(b"trex", &words(&[0, 1, 1, 40, 5, 6]));
        let content = [new_box(b"mvex", &trex), trak(1, b"subt", 0, &minf(&[]))].concat();
        let init = parse_init(&new_box(b"moov", &content)).unwrap();
        let track = &init.tracks[0];
        assert_eq!((track.default_sample_duration, track.default_sample_size), (40, 5));
        assert_eq!((track.default_sample_flags, track.handler), (6, Handler::Text));
        assert_eq!((track.codec.as_str(), track.sample_entry), ("", [0; 4]));
    }
}
