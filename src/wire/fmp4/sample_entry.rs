//! What the first sample entry of a track (stsd, 8.5.2) says about its coding: the codec string of
//! RFC 6381, the size of the picture, the channels and the rate of the sound. Nothing here is an
//! error: what cannot be read leaves the type of the entry as the codec.
//!
//! Configuration boxes are read by `mp4_atom`, and only up to [`CONFIG_BYTES_MAX`], an esds
//! only up to [`ESDS_BYTES_MAX`]: that bounds how deep nested descriptors can lead.

use std::fmt::Write as _;

use mp4_atom::{Ac3SpecificBox, Atom, Av1c, Avcc, Ec3SpecificBox, Esds, Hvcc, VpcC};

use super::boxes::{boxes, child, u16_at, u32_at};
use super::init::Handler;

/// A configuration box (parameter sets, decoder configuration) that is looked into. Real ones have
/// some hundred bytes, with the settings of x265 2.5 kB; an esds has less than 64 bytes.
const CONFIG_BYTES_MAX: usize = 16 * 1024;
const ESDS_BYTES_MAX: usize = 256;

/// Length of the fixed fields before the boxes of a picture's or a sound's entry (12.1.3, 12.2.3).
const VISUAL_BYTES: usize = 78;
const AUDIO_BYTES: usize = 28;

#[derive(Debug, Default)]
pub(super) struct SampleEntry {
    pub(super) kind: [u8; 4],
    pub(super) codec: String,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) channels: u16,
    pub(super) sample_rate: u32,
}

pub(super) fn parse_sample_entry(stsd: &[u8], handler: Handler) -> SampleEntry {
    let entries = stsd.get(8..).unwrap_or_default();
    let Some(Ok(first)) = boxes(entries).next() else {
        return SampleEntry::default();
    };
    let codec = first.kind.escape_ascii().to_string();
    let mut entry = SampleEntry { kind: first.kind, codec, ..SampleEntry::default() };
    match handler {
        Handler::Video => read_visual(&mut entry, first.payload),
        Handler::Audio => read_audio(&mut entry, first.payload, stsd.first() == Some(&0)),
        Handler::Text if &first.kind == b"stpp" => entry.codec = ttml_codec(first.payload),
        Handler::Text | Handler::Other => {}
    }
    entry
}

/// The format of the entry. An encrypted one (`encv`, `enca`) has it in its frma (8.12).
fn format_of(kind: [u8; 4], inner: &[u8]) -> [u8; 4] {
    let frma = match &kind {
        b"encv" | b"enca" => child(inner, b"sinf").and_then(|sinf| child(sinf, b"frma")),
        _ => None,
    };
    frma.and_then(|frma| frma.first_chunk::<4>()).map_or(kind, |format| *format)
}

/// The payload of a configuration box, decoded.
fn config<T: Atom>(inner: &[u8], kind: &'static [u8; 4], bytes_max: usize) -> Option<T> {
    let mut payload = child(inner, kind).filter(|payload| payload.len() <= bytes_max)?;
    T::decode_body(&mut payload).ok()
}

fn read_visual(entry: &mut SampleEntry, payload: &[u8]) {
    entry.width = u16_at(payload, 24).map_or(0, u32::from);
    entry.height = u16_at(payload, 26).map_or(0, u32::from);
    let inner = payload.get(VISUAL_BYTES..).unwrap_or_default();
    let format = format_of(entry.kind, inner);
    let name = format.escape_ascii().to_string();
    let codec = match &format {
        b"avc1" | b"avc2" | b"avc3" | b"avc4" => {
            config(inner, b"avcC", CONFIG_BYTES_MAX).map(|avcc| avc_codec(&name, &avcc))
        }
        b"hvc1" | b"hev1" => {
            config(inner, b"hvcC", CONFIG_BYTES_MAX).map(|hvcc| hevc_codec(&name, &hvcc))
        }
        b"av01" => config(inner, b"av1C", CONFIG_BYTES_MAX).map(|av1c| av1_codec(&av1c)),
        b"vp08" | b"vp09" => {
            config(inner, b"vpcC", CONFIG_BYTES_MAX).map(|vpcc| vp_codec(&name, &vpcc))
        }
        _ => None,
    };
    entry.codec = codec.unwrap_or(name);
}

/// 14496-15, annex E.2: profile, constraints and level in hexadecimal.
fn avc_codec(name: &str, avcc: &Avcc) -> String {
    let Avcc { avc_profile_indication, profile_compatibility, avc_level_indication, .. } = avcc;
    format!(
        "{name}.{avc_profile_indication:02X}{profile_compatibility:02X}{avc_level_indication:02X}"
    )
}

/// 14496-15, annex E.3: profile space and profile, compatibility bits in reverse order, tier and
/// level, then the constraint bytes without trailing zeros.
fn hevc_codec(name: &str, hvcc: &Hvcc) -> String {
    let space = ["", "A", "B", "C"].get(usize::from(hvcc.general_profile_space)).unwrap_or(&"");
    let compatible = u32::from_be_bytes(hvcc.general_profile_compatibility_flags).reverse_bits();
    let tier = if hvcc.general_tier_flag { 'H' } else { 'L' };
    let (profile, level) = (hvcc.general_profile_idc, hvcc.general_level_idc);
    let mut codec = format!("{name}.{space}{profile}.{compatible:X}.{tier}{level}");
    let constraints = &hvcc.general_constraint_indicator_flags;
    let used = constraints.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    for byte in constraints.iter().take(used) {
        let _ = write!(codec, ".{byte:X}");
    }
    codec
}

/// AV1 Codec ISO Media File Format Binding, section 5: profile, level and tier, bit depth.
fn av1_codec(av1c: &Av1c) -> String {
    let tier = if av1c.seq_tier_0 { 'H' } else { 'M' };
    let depth = match (av1c.high_bitdepth, av1c.twelve_bit && av1c.seq_profile == 2) {
        (false, _) => 8,
        (true, false) => 10,
        (true, true) => 12,
    };
    format!("av01.{}.{:02}{tier}.{depth:02}", av1c.seq_profile, av1c.seq_level_idx_0)
}

/// VP Codec ISO Media File Format Binding: profile, level, bit depth.
fn vp_codec(name: &str, vpcc: &VpcC) -> String {
    format!("{name}.{:02}.{:02}.{:02}", vpcc.profile, vpcc.level, vpcc.bit_depth)
}

fn read_audio(entry: &mut SampleEntry, payload: &[u8], is_stsd_0: bool) {
    entry.channels = u16_at(payload, 16).unwrap_or(0);
    // 16.16; the fraction is never used.
    entry.sample_rate = u32_at(payload, 24).unwrap_or(0) >> 16;
    // QuickTime's versions 1 and 2 have more fields; so has none in a stsd of version 1 (12.2.3).
    let extra = match (is_stsd_0, u16_at(payload, 8)) {
        (true, Ok(1)) => 16,
        (true, Ok(2)) => 36,
        _ => 0,
    };
    let inner = payload.get(AUDIO_BYTES + extra..).unwrap_or_default();
    let format = format_of(entry.kind, inner);
    entry.codec = format.escape_ascii().to_string();
    match &format {
        b"mp4a" => {
            if let Some(esds) = config::<Esds>(inner, b"esds", ESDS_BYTES_MAX) {
                read_esds(entry, &esds);
            }
        }
        b"ac-3" => {
            if let Some(dac3) = config::<Ac3SpecificBox>(inner, b"dac3", CONFIG_BYTES_MAX) {
                entry.channels = ac3_channels(dac3.acmod, dac3.lfeon);
            }
        }
        b"ec-3" => {
            let dec3 = config::<Ec3SpecificBox>(inner, b"dec3", CONFIG_BYTES_MAX);
            if let Some(main) = dec3.as_ref().and_then(|dec3| dec3.substreams.first()) {
                entry.channels = ac3_channels(main.acmod, main.lfeon);
            }
        }
        // Opus always decodes to 48 kHz; its entry says so, and its channels.
        _ => {}
    }
}

/// Full-bandwidth channels of `acmod` (ETSI TS 102 366, table 4.3) and the low one.
fn ac3_channels(acmod: u8, has_low: bool) -> u16 {
    let full = [2, 1, 2, 3, 3, 4, 4, 5].get(usize::from(acmod)).copied().unwrap_or(2);
    full + u16::from(has_low)
}

/// The object type, and for AAC what the AudioSpecificConfig knows better than the sample entry,
/// where many writers put two channels whatever there are.
fn read_esds(entry: &mut SampleEntry, esds: &Esds) {
    const AUDIO_14496_3: u8 = 0x40;
    let decoder = &esds.es_desc.dec_config;
    let object_type = decoder.object_type_indication;
    let format = std::mem::take(&mut entry.codec);
    entry.codec = format!("{format}.{object_type:02X}");
    let Some(aac) = &decoder.dec_specific else {
        return;
    };
    if object_type != AUDIO_14496_3 || aac.profile == 0 {
        return;
    }
    entry.codec = format!("{format}.40.{}", hidden_extension(&aac.raw).unwrap_or(aac.profile));
    match aac.chan_conf {
        0 => {} // In the stream; the entry's number stays.
        7 | 12 | 14 => entry.channels = 8,
        11 => entry.channels = 7,
        channels => entry.channels = u16::from(channels),
    }
    if entry.sample_rate == 0 {
        entry.sample_rate = aac_rate(aac.freq_index);
    }
}

/// SBR (5) or parametric stereo (29) that the configuration of AAC-LC appends instead of
/// announcing, so that old decoders do not stumble over it (14496-3, 1.6.5.2).
fn hidden_extension(config: &[u8]) -> Option<u8> {
    const SYNC_SBR: u64 = 0x2b7;
    const SYNC_PS: u64 = 0x548;
    let (head, rest) = config.split_first_chunk::<2>()?;
    let [first, second] = *head;
    let (is_aac_lc, escapes_rate) = (first >> 3 == 2, first & 7 == 7 && second >> 7 == 1);
    if !is_aac_lc || escapes_rate || rest.len() < 3 {
        return None;
    }
    let mut padded = [0; 8];
    padded.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let bits = u64::from_be_bytes(padded);
    let field = |at: u32, width: u32| (bits >> (64 - at - width)) & ((1 << width) - 1);
    if field(0, 11) != SYNC_SBR || field(11, 5) != 5 || field(16, 1) != 1 {
        return None;
    }
    let has_ps = field(17, 4) != 15 && field(21, 11) == SYNC_PS && field(32, 1) == 1;
    Some(if has_ps { 29 } else { 5 })
}

/// 14496-3, table 1.18.
fn aac_rate(index: u8) -> u32 {
    const RATES: [u32; 13] = [
        96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
        8_000, 7_350,
    ];
    RATES.get(usize::from(index)).copied().unwrap_or(0)
}

/// XML subtitles (14496-30): the namespace tells TTML, the auxiliary types tell whether there are
/// pictures. Namespace, schema location and auxiliary types end with a zero each.
fn ttml_codec(payload: &[u8]) -> String {
    let text = payload.get(8..).unwrap_or_default();
    let mut texts = text.split(|&byte| byte == 0);
    let namespace = texts.next().unwrap_or_default();
    let has_pictures = texts.nth(1).is_some_and(|types| types.starts_with(b"image/"));
    let profile = match (namespace.starts_with(b"http://www.w3.org/ns/ttml"), has_pictures) {
        (false, _) => return "stpp".to_owned(),
        (true, false) => "im1t",
        (true, true) => "im1i",
    };
    format!("stpp.ttml.{profile}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::box_builder::{new_box, words};
    use super::*;

    /// Configuration boxes as ffmpeg 5.1 writes them; of the hvcC only its head, without the
    /// parameter sets.
    const AVCC: &str = "0164000cffe1001a6764000cacd941419f9f011000000300100000030320f142996001000668ebe3\
                        cb22c0fdf8f800";
    const HVCC: &str = "0101600000009000000000003cf000fcfdf8f800000f00";
    const AV1C: &str = "81000c000a0b000000043cfecc02f80040";
    const VPCC: &str = "01000000000b820202020000";
    const AAC_5_1: &str = "000000000380808025000100048080801740150000000005340800053408058080800511b056\
                           e500068080800102";
    const MP3: &str = "00000000038080801b000100048080800d6b150000000000000000000000068080800102";

    fn bytes_of(hex: &str) -> Vec<u8> {
        let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
        digits.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
    }

    fn parse(handler: Handler, entry: &[u8]) -> SampleEntry {
        parse_sample_entry(&[&words(&[0, 1]), entry].concat(), handler)
    }

    fn video(kind: &[u8; 4], inner: &[u8]) -> SampleEntry {
        let mut payload = [0; VISUAL_BYTES];
        payload[24..28].copy_from_slice(&[0x07, 0x80, 0x04, 0x38]);
        parse(Handler::Video, &new_box(kind, &[&payload, inner].concat()))
    }

    /// An entry of 44.1 kHz that speaks of two channels, like most.
    fn audio(kind: &[u8; 4], inner: &[u8]) -> SampleEntry {
        let mut payload = [0; AUDIO_BYTES];
        payload[17] = 2;
        payload[24..28].copy_from_slice(&(44_100_u32 << 16).to_be_bytes());
        parse(Handler::Audio, &new_box(kind, &[&payload, inner].concat()))
    }

    /// An esds with this AudioSpecificConfig.
    fn esds(config: &[u8]) -> Vec<u8> {
        let length = config.len() as u8;
        let head = [0, 0, 0, 0, 3, 23 + length, 0, 1, 0, 4, 15 + length, 0x40, 0x15];
        new_box(b"esds", &[&head, [0; 11].as_slice(), &[5, length], config, &[6, 1, 2]].concat())
    }

    #[test]
    fn pictures_have_codec_and_size() {
        let cases = [
            (b"avc1", b"avcC", AVCC, "avc1.64000C"),
            (b"avc3", b"avcC", AVCC, "avc3.64000C"),
            (b"hvc1", b"hvcC", HVCC, "hvc1.1.6.L60.90"),
            (b"hev1", b"hvcC", HVCC, "hev1.1.6.L60.90"),
            (b"av01", b"av1C", AV1C, "av01.0.00M.08"),
            (b"vp09", b"vpcC", VPCC, "vp09.00.11.08"),
        ];
        for (kind, config_kind, config, codec) in cases {
            let config = new_box(config_kind, &bytes_of(config));
            let entry = video(kind, &[new_box(b"btrt", &[0; 12]), config.clone()].concat());
            assert_eq!((entry.codec.as_str(), entry.width, entry.height), (codec, 1920, 1080));
            assert_eq!(&entry.kind, kind);
            let frma = new_box(b"sinf", &new_box(b"frma", kind));
            let encrypted = video(b"encv", &[config, frma].concat());
            assert_eq!((encrypted.codec.as_str(), &encrypted.kind), (codec, b"encv"));
        }
    }

    #[test]
    fn rare_profiles_are_written_out() {
        // Main 10, high tier, level 5.1, a profile space, constraints with a gap.
        let mut hvcc = bytes_of(HVCC);
        hvcc[1] = 0x62;
        hvcc[2..6].copy_from_slice(&[0x20, 0, 0, 0]);
        hvcc[6..12].copy_from_slice(&[0xb0, 0, 0x0c, 0, 0, 0]);
        hvcc[12] = 153;
        assert_eq!(video(b"hvc1", &new_box(b"hvcC", &hvcc)).codec, "hvc1.A2.4.H153.B0.0.C");
        let av1c = new_box(b"av1C", &[0x81, 0x4d, 0xe0, 0]);
        assert_eq!(video(b"av01", &av1c).codec, "av01.2.13H.12");
    }

    #[test]
    fn sound_has_codec_channels_and_rate() {
        let read = |kind, inner: &[u8]| {
            let entry = audio(kind, inner);
            (entry.codec, entry.channels, entry.sample_rate)
        };
        let wanted = |codec: &str, channels| (codec.to_owned(), channels, 44_100);
        let of_hex = |kind, hex| new_box(kind, &bytes_of(hex));
        assert_eq!(read(b"mp4a", &of_hex(b"esds", AAC_5_1)), wanted("mp4a.40.2", 6));
        assert_eq!(read(b"mp4a", &of_hex(b"esds", MP3)), wanted("mp4a.6B", 2));
        assert_eq!(read(b"ac-3", &of_hex(b"dac3", "103de0")), wanted("ac-3", 6));
        assert_eq!(read(b"ec-3", &of_hex(b"dec3", "0e00200f00")), wanted("ec-3", 6));
        assert_eq!(read(b"Opus", &[]), wanted("Opus", 2));
        // SBR and PS: announced (AOT 5, 29), appended (0x2b7, 0x548), and switched off.
        assert_eq!(read(b"mp4a", &esds(&[0x2b, 0x8a, 0x08, 0])), wanted("mp4a.40.5", 1));
        assert_eq!(read(b"mp4a", &esds(&[0xeb, 0x8a, 0x08, 0])), wanted("mp4a.40.29", 1));
        let sbr = [0x13, 0x90, 0x56, 0xe5, 0xa0];
        assert_eq!(read(b"mp4a", &esds(&sbr)), wanted("mp4a.40.5", 2));
        let ps = [0x13, 0x88, 0x56, 0xe5, 0xa5, 0x48, 0x80];
        assert_eq!(read(b"mp4a", &esds(&ps)), wanted("mp4a.40.29", 1));
        assert_eq!(read(b"mp4a", &esds(&[0x12, 0x10, 0x56, 0xe5, 0])), wanted("mp4a.40.2", 2));
        assert_eq!(read(b"mp4a", &esds(&[0x12, 0x38])), wanted("mp4a.40.2", 8));
    }

    #[test]
    fn texts_have_a_codec() {
        let text = |kind, texts: &[u8]| {
            parse(Handler::Text, &new_box(kind, &[&[0; 8], texts].concat())).codec
        };
        assert_eq!(text(b"wvtt", &[]), "wvtt");
        assert_eq!(text(b"stpp", b"http://www.w3.org/ns/ttml\0\0\0"), "stpp.ttml.im1t");
        assert_eq!(text(b"stpp", b"http://www.w3.org/ns/ttml\0\0image/png\0"), "stpp.ttml.im1i");
        assert_eq!(text(b"stpp", b"urn:other\0\0\0"), "stpp");
    }

    #[test]
    fn what_is_unknown_or_broken_keeps_its_four_characters() {
        assert_eq!(video(b"zzzz", &[]).codec, "zzzz");
        assert_eq!(video(b"avc1", &new_box(b"avcC", &[1, 2])).codec, "avc1");
        assert_eq!(video(b"av01", &new_box(b"av1C", &[9; 4])).codec, "av01");
        assert_eq!(parse(Handler::Video, &new_box(b"avc1", &[])).width, 0);
        assert_eq!(parse(Handler::Audio, &new_box(b"mp4a", &[])).codec, "mp4a");
        assert_eq!(parse(Handler::Video, &[]).codec, "");
        // Descriptors in descriptors: too long to be followed down.
        let nested = [3, 0x7f, 0, 0, 0].repeat(20_000);
        let nested = [vec![0; 4], nested].concat();
        assert_eq!(audio(b"mp4a", &new_box(b"esds", &nested)).codec, "mp4a");
        assert_eq!(audio(b"mp4a", &new_box(b"esds", &nested[..ESDS_BYTES_MAX])).codec, "mp4a");
    }

    proptest! {
        #[test]
        fn arbitrary_entries_do_not_panic(
            kind in 0usize..7,
            inner in 0usize..7,
            payload in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let kinds = [b"avc1", b"hvc1", b"av01", b"vp09", b"mp4a", b"ac-3", b"ec-3"];
            let inners = [b"avcC", b"hvcC", b"av1C", b"vpcC", b"esds", b"dac3", b"dec3"];
            let config = new_box(inners[inner], &payload);
            video(kinds[kind], &config);
            audio(kinds[kind], &config);
            parse(Handler::Text, &new_box(b"stpp", &payload));
            parse(Handler::Video, &payload);
        }
    }
}
