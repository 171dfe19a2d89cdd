//! What the sequence parameter sets of H.264 (7.3.2.1.1) and H.265 (7.3.2.2) say about a stream:
//! its RFC 6381 name, the size of its pictures, and how many there are in a second. By hand: two
//! readers of one structure each are smaller than the crates that read all structures. `mpegts` and
//! `h264` look through it.

use super::bit_reader::BitReader;

/// A longer parameter set is read only so far; the interesting part stands in front.
const SET_BYTES_MAX: usize = 2048;
/// More pictures in a second are not believed.
const FRAME_RATE_MAX: f64 = 1000.0;
/// Limits of the standard, which end the loops over what a peer claims (H.265 7.4.3.2.1).
const REFERENCE_SETS_MAX: u32 = 64;
const PICTURES_MAX: u32 = 16;

/// What a stream shows.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::wire) struct Pictures {
    /// As in RFC 6381.
    pub(in crate::wire) codec: String,
    pub(in crate::wire) width: u32,
    pub(in crate::wire) height: u32,
    pub(in crate::wire) frame_rate: Option<f64>,
}

/// A sequence parameter set of H.264, as far as somebody asks for it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::wire) struct SequenceSet {
    pub(in crate::wire) id: u32,
    pub(in crate::wire) pictures: Pictures,
    pub(in crate::wire) samples: Samples,
    /// The pictures are frames: no slice says that it belongs to a field.
    pub(in crate::wire) is_frames_only: bool,
    pub(in crate::wire) frame_number_bits: usize,
    pub(in crate::wire) order: OrderKind,
    /// So many pictures at most are decoded before one that is shown earlier; if the set says so.
    pub(in crate::wire) reordered_max: Option<u32>,
}

/// Of what a picture is made (7.4.2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::wire) struct Samples {
    pub(in crate::wire) chroma_format: u8,
    pub(in crate::wire) has_separate_planes: bool,
    /// Bits of a sample of light and of one of colour, beyond 8.
    pub(in crate::wire) extra_bits: [u8; 2],
}

/// What tells when a picture is shown (8.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::wire) enum OrderKind {
    /// Type 0: so many low bits of its number stand in each slice.
    LowBits(usize),
    /// Type 1, from a pattern in the sequence parameter set.
    Pattern,
    /// Type 2: as it is decoded.
    Decoding,
}

/// `nal` begins with its header of one byte.
pub(in crate::wire) fn h264(nal: &[u8]) -> Option<SequenceSet> {
    let payload = unescaped(nal.get(1..)?);
    let &[profile, constraints, level, ..] = payload.as_slice() else {
        return None;
    };
    let codec = format!("avc1.{profile:02X}{constraints:02X}{level:02X}");
    let mut bits = BitReader::new(payload.get(3..)?);
    let id = bits.unsigned()?;
    let samples = h264_samples(&mut bits, profile)?;
    let frame_number_bits = low_bits(&mut bits)?;
    let order = h264_order(&mut bits)?;
    // The number of reference frames, and whether there may be gaps.
    bits.unsigned()?;
    bits.skip(1)?;
    let (width, height, is_frames_only) = h264_size(&mut bits, samples.chroma_format)?;
    let (frame_rate, reordered_max) = h264_usability(&mut bits);
    // Baseline has no pictures of the kind that is reordered (A.2.1).
    let reordered_max = if profile == 66 { Some(0) } else { reordered_max };
    let pictures = Pictures { codec, width, height, frame_rate };
    Some(SequenceSet {
        id,
        pictures,
        samples,
        is_frames_only,
        frame_number_bits,
        order,
        reordered_max,
    })
}

fn h264_samples(bits: &mut BitReader<'_>, profile: u8) -> Option<Samples> {
    let mut samples = Samples { chroma_format: 1, has_separate_planes: false, extra_bits: [0; 2] };
    if !has_samples(profile) {
        return Some(samples);
    }
    // At most 3 and 6 (7.4.2.1.1): more cannot be written on.
    samples.chroma_format = u8::try_from(bits.unsigned()?).ok().filter(|&format| format <= 3)?;
    if samples.chroma_format == 3 {
        samples.has_separate_planes = bits.flag()?;
    }
    for extra in &mut samples.extra_bits {
        *extra = u8::try_from(bits.unsigned()?).ok().filter(|&extra| extra <= 6)?;
    }
    bits.skip(1)?;
    if bits.flag()? {
        for list in 0..if samples.chroma_format == 3 { 12 } else { 8 } {
            if bits.flag()? {
                h264_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Some(samples)
}

/// Profiles whose sets say of what pictures are made (7.3.2.1.1).
pub(in crate::wire) fn has_samples(profile: u8) -> bool {
    matches!(profile, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135)
}

/// A number that is written less 4, of at most 16.
fn low_bits(bits: &mut BitReader<'_>) -> Option<usize> {
    bits.unsigned().map(|less| less as usize + 4).filter(|&bits| bits <= 16)
}

fn h264_order(bits: &mut BitReader<'_>) -> Option<OrderKind> {
    match bits.unsigned()? {
        0 => low_bits(bits).map(OrderKind::LowBits),
        1 => {
            bits.skip(1)?;
            bits.signed()?;
            bits.signed()?;
            for _ in 0..bits.unsigned()?.min(255) {
                bits.signed()?;
            }
            Some(OrderKind::Pattern)
        }
        _ => Some(OrderKind::Decoding),
    }
}

fn h264_size(bits: &mut BitReader<'_>, chroma: u8) -> Option<(u32, u32, bool)> {
    let columns = bits.unsigned()?;
    let rows = bits.unsigned()?;
    let is_frames_only = bits.flag()?;
    let fields = if is_frames_only { 1 } else { 2 };
    if fields == 2 {
        bits.skip(1)?;
    }
    bits.skip(1)?;
    let width = columns.checked_add(1)?.checked_mul(16)?;
    let height = rows.checked_add(1)?.checked_mul(16 * fields)?;
    let (width, height) = cropped(bits, (width, height), u32::from(chroma), fields)?;
    Some((width, height, is_frames_only))
}

fn h264_scaling_list(bits: &mut BitReader<'_>, size: usize) -> Option<()> {
    let (mut last, mut next) = (8, 8);
    for _ in 0..size {
        if next != 0 {
            next = (last + bits.signed()?).rem_euclid(256);
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

/// The flag and the four offsets that cut a picture to its size, alike in both standards.
fn cropped(
    bits: &mut BitReader<'_>,
    (width, height): (u32, u32),
    chroma: u32,
    fields: u32,
) -> Option<(u32, u32)> {
    if !bits.flag()? {
        return Some((width, height));
    }
    let mut offset = || bits.unsigned();
    let (left, right, top, bottom) = (offset()?, offset()?, offset()?, offset()?);
    let unit_x = if matches!(chroma, 1 | 2) { 2 } else { 1 };
    let unit_y = if chroma == 1 { 2 } else { 1 } * fields;
    let cut_x = left.checked_add(right)?.checked_mul(unit_x)?;
    let cut_y = top.checked_add(bottom)?.checked_mul(unit_y)?;
    Some((width.checked_sub(cut_x)?, height.checked_sub(cut_y)?))
}

/// Annex E of either: the part of the VUI that both begin with.
fn pass_picture_description(bits: &mut BitReader<'_>) -> Option<()> {
    if bits.flag()? && bits.read(8)? == 255 {
        bits.skip(32)?;
    }
    if bits.flag()? {
        bits.skip(1)?;
    }
    if bits.flag()? {
        bits.skip(4)?;
        if bits.flag()? {
            bits.skip(24)?;
        }
    }
    if bits.flag()? {
        bits.unsigned()?;
        bits.unsigned()?;
    }
    Some(())
}

/// Annex E.1.1: how many pictures there are in a second, and how many are reordered.
fn h264_usability(bits: &mut BitReader<'_>) -> (Option<f64>, Option<u32>) {
    let frame_rate = h264_frame_rate(bits);
    let reordered_max = frame_rate.and_then(|_| h264_reordered_max(bits));
    (frame_rate.flatten(), reordered_max)
}

fn h264_frame_rate(bits: &mut BitReader<'_>) -> Option<Option<f64>> {
    if !bits.flag()? {
        return None;
    }
    pass_picture_description(bits)?;
    let is_timed = bits.clone().flag()?;
    // Ticks are fields.
    let frame_rate = timing(bits, 2.0)?;
    // What is missing from here on takes nothing from the rate.
    let _ = is_timed.then(|| bits.skip(1));
    Some(frame_rate)
}

fn h264_reordered_max(bits: &mut BitReader<'_>) -> Option<u32> {
    let (nal_buffers, video_buffers) = (pass_buffers(bits)?, pass_buffers(bits)?);
    if nal_buffers || video_buffers {
        bits.skip(1)?;
    }
    bits.skip(1)?;
    if !bits.flag()? {
        return None;
    }
    bits.skip(1)?;
    for _ in 0..4 {
        bits.unsigned()?;
    }
    bits.unsigned().filter(|&pictures| pictures <= PICTURES_MAX)
}

/// hrd_parameters (E.1.2), if they are there.
fn pass_buffers(bits: &mut BitReader<'_>) -> Option<bool> {
    if !bits.flag()? {
        return Some(false);
    }
    let buffers = bits.unsigned()?.min(31);
    bits.skip(8)?;
    for _ in 0..=buffers {
        bits.unsigned()?;
        bits.unsigned()?;
        bits.skip(1)?;
    }
    bits.skip(20)?;
    Some(true)
}

fn timing(bits: &mut BitReader<'_>, ticks_per_picture: f64) -> Option<Option<f64>> {
    if !bits.flag()? {
        return Some(None);
    }
    let (tick, scale) = (bits.read(32)?, bits.read(32)?);
    let rate = scale as f64 / (tick as f64 * ticks_per_picture);
    Some((tick > 0 && rate > 0.0 && rate <= FRAME_RATE_MAX).then_some(rate))
}

/// `nal` begins with its header of two bytes.
pub(in crate::wire) fn h265(nal: &[u8]) -> Option<Pictures> {
    let payload = unescaped(nal.get(2..)?);
    let mut bits = BitReader::new(&payload);
    bits.skip(4)?;
    let layers = bits.read(3)? as usize;
    bits.skip(1)?;
    let codec = h265_codec(&mut bits)?;
    pass_sub_layers(&mut bits, layers)?;
    bits.unsigned()?;
    let chroma = bits.unsigned()?;
    if chroma == 3 {
        bits.skip(1)?;
    }
    let size = (bits.unsigned()?, bits.unsigned()?);
    let (width, height) = cropped(&mut bits, size, chroma, 1)?;
    let frame_rate = h265_frame_rate(&mut bits, layers).flatten();
    Some(Pictures { codec, width, height, frame_rate })
}

/// ISO/IEC 14496-15 annex E.3, from profile_tier_level (7.3.3).
fn h265_codec(bits: &mut BitReader<'_>) -> Option<String> {
    let space = ["", "A", "B", "C"].get(bits.read(2)? as usize)?;
    let tier = if bits.flag()? { 'H' } else { 'L' };
    let profile = bits.read(5)?;
    let compatible = (bits.read(32)? as u32).reverse_bits();
    let constraints = bits.read(48)?.to_be_bytes();
    let level = bits.byte()?;
    let mut codec = format!("hvc1.{space}{profile}.{compatible:X}.{tier}{level}");
    let constraints = constraints.get(2..)?;
    let count = constraints.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    for byte in constraints.iter().take(count) {
        codec.push_str(&format!(".{byte:X}"));
    }
    Some(codec)
}

fn pass_sub_layers(bits: &mut BitReader<'_>, layers: usize) -> Option<()> {
    let mut present_bits = 0;
    for _ in 0..layers {
        present_bits += if bits.flag()? { 88 } else { 0 };
        present_bits += if bits.flag()? { 8 } else { 0 };
    }
    let padding_bits = if layers > 0 { (8 - layers) * 2 } else { 0 };
    bits.skip(padding_bits + present_bits)
}

/// All that stands between the size and the VUI has to be read to get there.
fn h265_frame_rate(bits: &mut BitReader<'_>, layers: usize) -> Option<Option<f64>> {
    bits.unsigned()?;
    bits.unsigned()?;
    let order_bits = bits.unsigned()? as usize + 4;
    let every_layer = bits.flag()?;
    for _ in 0..3 * if every_layer { layers + 1 } else { 1 } {
        bits.unsigned()?;
    }
    for _ in 0..6 {
        bits.unsigned()?;
    }
    if bits.flag()? && bits.flag()? {
        h265_scaling_lists(bits)?;
    }
    bits.skip(2)?;
    if bits.flag()? {
        bits.skip(8)?;
        bits.unsigned()?;
        bits.unsigned()?;
        bits.skip(1)?;
    }
    pass_reference_sets(bits)?;
    if bits.flag()? {
        for _ in 0..bits.unsigned()?.min(32) {
            bits.skip(order_bits + 1)?;
        }
    }
    bits.skip(2)?;
    if !bits.flag()? {
        return Some(None);
    }
    pass_picture_description(bits)?;
    bits.skip(3)?;
    if bits.flag()? {
        for _ in 0..4 {
            bits.unsigned()?;
        }
    }
    timing(bits, 1.0)
}

/// 7.3.4.
fn h265_scaling_lists(bits: &mut BitReader<'_>) -> Option<()> {
    for size in 0..4 {
        for _ in 0..if size == 3 { 2 } else { 6 } {
            if !bits.flag()? {
                bits.unsigned()?;
                continue;
            }
            if size > 1 {
                bits.signed()?;
            }
            for _ in 0..64.min(1 << (4 + (size << 1))) {
                bits.signed()?;
            }
        }
    }
    Some(())
}

/// 7.3.7: each set may be told by its difference from the one before, so their sizes are kept.
fn pass_reference_sets(bits: &mut BitReader<'_>) -> Option<()> {
    let mut pictures_before = 0;
    let sets = bits.unsigned()?;
    if sets > REFERENCE_SETS_MAX {
        return None;
    }
    for set in 0..sets {
        let predicted = set > 0 && bits.flag()?;
        let mut pictures = 0;
        if predicted {
            bits.skip(1)?;
            bits.unsigned()?;
            for _ in 0..=pictures_before {
                let used = bits.flag()?;
                pictures += u32::from(used || bits.flag()?);
            }
        } else {
            let (before, after) = (bits.unsigned()?, bits.unsigned()?);
            if before > PICTURES_MAX || after > PICTURES_MAX {
                return None;
            }
            pictures = before + after;
            for _ in 0..pictures {
                bits.unsigned()?;
                bits.skip(1)?;
            }
        }
        pictures_before = pictures;
    }
    Some(())
}

/// Without the 3 that stands after two zeros so that no start code appears (7.4.1.1).
pub(in crate::wire) fn unescaped(payload: &[u8]) -> Vec<u8> {
    let mut zeros = 0;
    let kept = payload.iter().take(SET_BYTES_MAX).filter(|&&byte| {
        let escape = zeros >= 2 && byte == 3;
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        !escape
    });
    kept.copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let pair =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        hex.as_bytes().chunks(2).map(pair).collect()
    }

    // From x264 and x265 by ffmpeg 5.1; ffprobe says the same of them.
    const H264: [(&str, &str, u32, u32, f64); 3] = [
        ("6742c01fda014016ec0440000003004000000c83c60ca8", "avc1.42C01F", 1280, 720, 25.0),
        (
            "67640028acd940780227e5c04400000fa40003a9803c60c658",
            "avc1.640028",
            1920,
            1080,
            30_000.0 / 1001.0,
        ),
        // Interlaced.
        ("6764001eacd940b424d8088000000300800000190f8a14cb", "avc1.64001E", 720, 576, 25.0),
    ];
    const H265: [(&str, &str, u32, u32, f64); 2] = [
        (
            "42010101600000030090000003000003005da00280802d16595952930bc05a020000030002000003003210",
            "hvc1.1.6.L93.90",
            1280,
            720,
            25.0,
        ),
        (
            "4201020408000003009d080000030000780000b00280802d13659598acd24995e02d01000003000100000\
             3003208",
            "hvc1.4.10.L120.9D.8",
            1280,
            720,
            50.0,
        ),
    ];

    #[test]
    fn sets_of_encoders() {
        for (set, codec, width, height, rate) in H264 {
            let details = h264(&bytes(set)).unwrap().pictures;
            assert_eq!(details.codec, codec);
            assert_eq!(
                (details.width, details.height, details.frame_rate),
                (width, height, Some(rate))
            );
        }
        for (set, codec, width, height, rate) in H265 {
            let details = h265(&bytes(set)).unwrap();
            assert_eq!(details.codec, codec);
            assert_eq!(
                (details.width, details.height, details.frame_rate),
                (width, height, Some(rate))
            );
        }
    }

    /// Goal: what a reader of slices asks for. The second set is of a stream with B pyramids.
    #[test]
    fn how_slices_are_numbered() {
        let numbers = H264.map(|(set, ..)| {
            let set = h264(&bytes(set)).unwrap();
            (set.frame_number_bits, set.order, set.is_frames_only, set.reordered_max)
        });
        assert_eq!(
            numbers,
            [
                (4, OrderKind::Decoding, true, Some(0)),
                (4, OrderKind::LowBits(6), true, Some(2)),
                (4, OrderKind::LowBits(6), false, Some(2)),
            ]
        );
        let samples = Samples { chroma_format: 1, has_separate_planes: false, extra_bits: [0; 2] };
        assert!(H264.iter().all(|(set, ..)| h264(&bytes(set)).unwrap().samples == samples));
    }

    #[test]
    fn cut_sets_have_no_size() {
        let set = bytes(H264[0].0);
        assert_eq!(h264(&set[..6]), None);
        // Cut in the VUI: only the rate is missing.
        let details = h264(&set[..14]).unwrap().pictures;
        assert_eq!((details.width, details.frame_rate), (1280, None));
    }

    proptest! {
        #[test]
        fn random_sets_do_not_panic(
            set in proptest::collection::vec(any::<u8>(), 0..300),
            changes in proptest::collection::vec((1usize..23, any::<u8>()), 1..6),
        ) {
            let _ = (h264(&set), h265(&set));
            for mut set in [bytes(H264[0].0), bytes(H264[1].0), bytes(H265[0].0), bytes(H265[1].0)] {
                for &(at, value) in &changes {
                    set[at] = value;
                }
                let _ = (h264(&set), h265(&set));
            }
        }
    }
}
