//! The movie fragment (moof, 8.8.4): for each track when it is decoded, how long it lasts, whether a
//! decoder may start, and how many bytes it has. The samples themselves are never looked at.

use super::boxes::{TimeField, boxes, children, put, u32_at};
use super::init::Init;
use super::{Fmp4Error, TRACKS_MAX};

/// Flag of a sample that a decoder may not start at (8.8.3.1, `sample_is_non_sync_sample`).
pub(super) const NON_SYNC: u32 = 0x1_0000;

/// What a moof says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fragment {
    pub sequence: Option<SequenceField>,
    pub tracks: Vec<TrackFragment>,
}

/// Where the moof keeps its sequence number (mfhd, 8.8.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceField {
    pub position: usize,
    pub value: u32,
}

impl SequenceField {
    pub fn rewrite(&self, moof: &mut [u8], value: u32) -> Result<(), Fmp4Error> {
        put(moof, self.position, &value.to_be_bytes())
    }
}

/// One traf of a moof. Positions count from the first byte of the moof box.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrackFragment {
    pub track_id: u32,
    /// tfdt (8.8.12); some old writers leave it out.
    pub decode_time: Option<TimeField>,
    /// tfhd (8.8.7): an absolute place in the file, which an appended copy has to correct.
    pub base_data_offset: Option<TimeField>,
    /// Sum of the sample durations, in ticks of the track.
    pub duration: u64,
    pub samples: u64,
    /// Sum of the sample sizes.
    pub data_bytes: u64,
    /// How long most of the samples last.
    pub sample_duration: u32,
    /// The first sample may be decoded without those before it. False when nothing says so.
    pub starts_with_sync: bool,
    /// Some sample may.
    pub has_sync: bool,
    /// Composition time less decode time of the first sample, and the smallest of all; in ticks.
    pub first_composition: i64,
    pub composition_min: i64,
}

/// Reads a whole moof box. Positions in the answer count from its first byte.
pub fn parse_fragment(moof: &[u8], init: &Init) -> Result<Fragment, Fmp4Error> {
    let moof = boxes(moof).next().ok_or(Fmp4Error::Missing("moof"))??;
    if &moof.kind != b"moof" {
        return Err(Fmp4Error::Missing("moof"));
    }
    let mut fragment = Fragment::default();
    fill_fragment(&mut fragment, moof.payload, moof.position, Some(init))?;
    Ok(fragment)
}

/// Reads the payload of a moof, which begins `base` bytes behind the box, into `fragment`. A traf
/// that makes no sense is left out, the others are there even when the answer is an error.
pub(super) fn fill_fragment(
    fragment: &mut Fragment,
    moof: &[u8],
    base: usize,
    init: Option<&Init>,
) -> Result<(), Fmp4Error> {
    fragment.sequence = None;
    fragment.tracks.clear();
    let mut result = Ok(());
    for found in boxes(moof) {
        let found = found?;
        let base = base.saturating_add(found.position);
        match &found.kind {
            b"mfhd" => {
                let value = u32_at(found.payload, 4);
                fragment.sequence =
                    value.ok().map(|value| SequenceField { position: base + 4, value });
                result = result.and(value.map(drop));
            }
            b"traf" if fragment.tracks.len() == TRACKS_MAX => return Err(Fmp4Error::TooManyTracks),
            b"traf" => match parse_traf(found.payload, base, init) {
                Ok(track) => fragment.tracks.push(track),
                Err(error) => result = result.and(Err(error)),
            },
            _ => {}
        }
    }
    result
}

/// What tfhd says about the samples of its traf (8.8.7).
struct TrackHead {
    track_id: u32,
    base_data_offset: Option<TimeField>,
    sample_duration: u32,
    sample_size: u32,
    /// `None`: neither the tfhd nor a known trex says anything.
    sample_flags: Option<u32>,
}

fn parse_traf(traf: &[u8], base: usize, init: Option<&Init>) -> Result<TrackFragment, Fmp4Error> {
    let tfhd = children(traf, b"tfhd").next().ok_or(Fmp4Error::Missing("tfhd"))?;
    let head = parse_tfhd(tfhd.payload, base.saturating_add(tfhd.position), init)?;
    let decode_time = match children(traf, b"tfdt").next() {
        Some(tfdt) => {
            let wide = tfdt.payload.first().is_some_and(|&version| version > 0);
            Some(TimeField::read(tfdt.payload, 4, base.saturating_add(tfdt.position), wide)?)
        }
        None => None,
    };
    let mut parsed = TrackFragment {
        track_id: head.track_id,
        decode_time,
        base_data_offset: head.base_data_offset,
        sample_duration: head.sample_duration,
        ..TrackFragment::default()
    };
    let mut usual = Majority::default();
    for trun in children(traf, b"trun") {
        add_trun(&mut parsed, &mut usual, trun.payload, &head)?;
    }
    if parsed.samples > 0 {
        parsed.sample_duration = usual.value;
    }
    Ok(parsed)
}

fn parse_tfhd(tfhd: &[u8], base: usize, init: Option<&Init>) -> Result<TrackHead, Fmp4Error> {
    let flags = u32_at(tfhd, 0)?;
    let track_id = u32_at(tfhd, 4)?;
    let track = init.and_then(|init| init.track(track_id));
    let mut head = TrackHead {
        track_id,
        base_data_offset: None,
        sample_duration: track.map_or(0, |track| track.default_sample_duration),
        sample_size: track.map_or(0, |track| track.default_sample_size),
        sample_flags: track.map(|track| track.default_sample_flags),
    };
    let mut at = 8;
    if flags & 0x1 != 0 {
        head.base_data_offset = Some(TimeField::read(tfhd, at, base, true)?);
        at += 8;
    }
    if flags & 0x2 != 0 {
        at += 4; // sample_description_index
    }
    if flags & 0x8 != 0 {
        head.sample_duration = u32_at(tfhd, at)?;
        at += 4;
    }
    if flags & 0x10 != 0 {
        head.sample_size = u32_at(tfhd, at)?;
        at += 4;
    }
    if flags & 0x20 != 0 {
        head.sample_flags = Some(u32_at(tfhd, at)?);
    }
    Ok(head)
}

/// Adds the samples of one trun (8.8.8). Their number is believed only as far as there are bytes
/// for them, or when they have no bytes and are all alike.
fn add_trun(
    parsed: &mut TrackFragment,
    usual: &mut Majority,
    trun: &[u8],
    head: &TrackHead,
) -> Result<(), Fmp4Error> {
    let flags = u32_at(trun, 0)?;
    let count = u32_at(trun, 4)?;
    let first_flags_at = 8 + 4 * usize::from(flags & 0x1 != 0);
    let samples_at = first_flags_at + 4 * usize::from(flags & 0x4 != 0);
    let (fields, _) = trun.get(samples_at..).ok_or(Fmp4Error::BoxSize)?.as_chunks::<4>();
    let samples = Samples { fields, flags, count: count as usize };
    if u64::from(count) * samples.width() as u64 > fields.len() as u64 {
        return Err(Fmp4Error::BoxSize);
    }
    if count == 0 {
        return Ok(());
    }
    let first_flags = match flags & 0x4 {
        0 => None,
        _ => Some(u32_at(trun, first_flags_at)?),
    };
    let is_first = parsed.samples == 0;
    parsed.samples = parsed.samples.saturating_add(u64::from(count));
    add_durations(parsed, usual, &samples, head.sample_duration);
    let bytes = match samples.column(0x200) {
        Some(sizes) => sizes.map(u64::from).sum(),
        None => u64::from(head.sample_size) * u64::from(count),
    };
    parsed.data_bytes = parsed.data_bytes.saturating_add(bytes);
    add_sync(parsed, &samples, first_flags, head.sample_flags, is_first);
    add_compositions(parsed, &samples, trun.first() != Some(&0), is_first);
    Ok(())
}

fn add_durations(
    parsed: &mut TrackFragment,
    usual: &mut Majority,
    samples: &Samples<'_>,
    default: u32,
) {
    let count = samples.count as u64;
    let column = || samples.column(0x100).into_iter().flatten();
    let first = column().next().unwrap_or(default);
    // Nearly always all are alike.
    let sum = if column().all(|duration| duration == first) {
        usual.add(first, count);
        u64::from(first) * count
    } else {
        column().for_each(|duration| usual.add(duration, 1));
        column().map(u64::from).sum()
    };
    parsed.duration = parsed.duration.saturating_add(sum);
}

/// The first sample's flags may stand before all samples, and are then the stronger ones.
fn add_sync(
    parsed: &mut TrackFragment,
    samples: &Samples<'_>,
    first: Option<u32>,
    default: Option<u32>,
    is_first: bool,
) {
    let is_sync = |flags: u32| flags & NON_SYNC == 0;
    let own = samples.column(0x400).and_then(|mut flags| flags.next());
    let starts_with_sync = first.or(own).or(default).is_some_and(is_sync);
    let others = match samples.column(0x400) {
        Some(flags) => flags.skip(1).any(is_sync),
        None => samples.count > 1 && default.is_some_and(is_sync),
    };
    if is_first {
        parsed.starts_with_sync = starts_with_sync;
    }
    parsed.has_sync |= starts_with_sync || others;
}

fn add_compositions(
    parsed: &mut TrackFragment,
    samples: &Samples<'_>,
    is_signed: bool,
    is_first: bool,
) {
    let offset = |value: u32| match is_signed {
        true => i64::from(value.cast_signed()),
        false => i64::from(value),
    };
    let first = samples.column(0x800).and_then(|mut offsets| offsets.next()).map_or(0, offset);
    let lowest = samples.column(0x800).and_then(|offsets| offsets.map(offset).min()).unwrap_or(0);
    if is_first {
        parsed.first_composition = first;
        parsed.composition_min = lowest;
    } else {
        parsed.composition_min = parsed.composition_min.min(lowest);
    }
}

/// The table of a trun: one row per sample, one column per field that its flags announce.
struct Samples<'a> {
    fields: &'a [[u8; 4]],
    flags: u32,
    count: usize,
}

impl Samples<'_> {
    const COLUMNS: u32 = 0xf00;

    /// Columns of a row.
    fn width(&self) -> usize {
        (self.flags & Self::COLUMNS).count_ones() as usize
    }

    /// A field of all samples, if the samples have it. Rows hold fields in the order of their bits.
    fn column(&self, bit: u32) -> Option<impl Iterator<Item = u32>> {
        let at = (self.flags & Self::COLUMNS & (bit - 1)).count_ones() as usize;
        if self.flags & bit == 0 {
            return None;
        }
        let rows = self.fields.chunks_exact(self.width()).take(self.count);
        Some(rows.filter_map(move |row| row.get(at)).map(|field| u32::from_be_bytes(*field)))
    }
}

/// The value that more than half of the samples have, found in one pass without a table (Boyer and
/// Moore); where no value has, one of those that are there.
#[derive(Default)]
struct Majority {
    value: u32,
    votes: u64,
}

impl Majority {
    fn add(&mut self, value: u32, count: u64) {
        if value == self.value {
            self.votes = self.votes.saturating_add(count);
        } else if self.votes >= count {
            self.votes -= count;
        } else {
            *self = Majority { value, votes: count - self.votes };
        }
    }
}

#[cfg(test)]
mod tests {
    use mp4_atom::{Decode, Moof};

    use super::super::box_builder::{SAMPLE, moof, moov, new_box, traf};
    use super::super::{Found, FragmentScanner, parse_init};
    use super::*;

    /// The moofs of the sample.
    fn sample_moofs() -> Vec<&'static [u8]> {
        let mut moofs = Vec::new();
        FragmentScanner::new().push(SAMPLE, &mut |found| {
            if let Found::Chunk { start, .. } = found {
                let bytes = &SAMPLE[start as usize..];
                moofs.push(&bytes[..u32_at(bytes, 0).unwrap() as usize]);
            }
        });
        moofs
    }

    /// Every fragment of the sample agrees with an independent decoder.
    #[test]
    fn agrees_with_mp4_atom() {
        let init = parse_init(SAMPLE).unwrap();
        let moofs = sample_moofs();
        assert_eq!(moofs.len(), 40);
        for moof in moofs {
            let ours = parse_fragment(moof, &init).unwrap();
            let theirs = Moof::decode(&mut &*moof).unwrap();
            assert_eq!(ours.sequence.unwrap().value, theirs.mfhd.sequence_number);
            assert_eq!(ours.tracks.len(), theirs.traf.len());
            for (ours, theirs) in ours.tracks.iter().zip(&theirs.traf) {
                compare_traf(ours, theirs);
            }
        }
    }

    fn compare_traf(ours: &TrackFragment, theirs: &mp4_atom::Traf) {
        let tfhd = &theirs.tfhd;
        assert_eq!(ours.track_id, tfhd.track_id);
        let time = theirs.tfdt.as_ref().unwrap().base_media_decode_time;
        assert_eq!(ours.decode_time.unwrap().value, time);
        let entries = || theirs.trun.iter().flat_map(|trun| trun.samples.iter());
        assert_eq!(ours.samples, entries().count() as u64);
        let default = tfhd.default_sample_duration.unwrap_or(0);
        let duration = entries().map(|entry| u64::from(entry.duration.unwrap_or(default)));
        assert_eq!(ours.duration, duration.sum::<u64>());
        let default = tfhd.default_sample_size.unwrap_or(0);
        let bytes = entries().map(|entry| u64::from(entry.size.unwrap_or(default)));
        assert_eq!(ours.data_bytes, bytes.sum::<u64>());
        let is_sync =
            |flags: Option<u32>| flags.or(tfhd.default_sample_flags).unwrap() & NON_SYNC == 0;
        assert_eq!(ours.starts_with_sync, is_sync(entries().next().unwrap().flags));
        assert_eq!(ours.has_sync, entries().any(|entry| is_sync(entry.flags)));
        let offsets = || entries().map(|entry| entry.cts.unwrap_or(0));
        assert_eq!(ours.first_composition, offsets().next().unwrap());
        assert_eq!(ours.composition_min, offsets().min().unwrap());
    }

    #[test]
    fn rewritten_fields_are_read_back() {
        let init = parse_init(SAMPLE).unwrap();
        let mut moof = sample_moofs()[0].to_vec();
        let fragment = parse_fragment(&moof, &init).unwrap();
        fragment.sequence.unwrap().rewrite(&mut moof, 77).unwrap();
        let field = fragment.tracks[1].decode_time.unwrap();
        field.rewrite(&mut moof, u64::MAX / 3).unwrap();
        let theirs = Moof::decode(&mut moof.as_slice()).unwrap();
        assert_eq!(theirs.mfhd.sequence_number, 77);
        let tfdt = theirs.traf[1].tfdt.as_ref().unwrap();
        assert_eq!(tfdt.base_media_decode_time, u64::MAX / 3);
    }

    #[test]
    fn a_narrow_time_stays_narrow() {
        let init = parse_init(&moov(&[b"vide"])).unwrap();
        let mut bytes = moof(&[(1, 5, None)]);
        let field = parse_fragment(&bytes, &init).unwrap().tracks[0].decode_time.unwrap();
        assert_eq!((field.value, field.wide), (5, false));
        field.rewrite(&mut bytes, u64::from(u32::MAX)).unwrap();
        assert_eq!(field.rewrite(&mut bytes, 1 << 32), Err(Fmp4Error::TimeOverflow));
        let again = parse_fragment(&bytes, &init).unwrap().tracks[0].decode_time.unwrap();
        assert_eq!(again.value, u64::from(u32::MAX));
    }

    #[test]
    fn sample_counts_are_not_believed() {
        let init = parse_init(&moov(&[b"vide"])).unwrap();
        let bytes = new_box(b"moof", &traf(1, 0, &[&[0x100, u32::MAX, 40]]));
        assert_eq!(parse_fragment(&bytes, &init), Err(Fmp4Error::BoxSize));
        let mut fragment = Fragment::default();
        let content = [traf(1, 0, &[&[0x100, 2, 40]]), traf(1, 9, &[&[0, u32::MAX]])].concat();
        assert!(fill_fragment(&mut fragment, &content, 8, Some(&init)).is_err());
        let [track] = fragment.tracks.as_slice() else { panic!("{fragment:?}") };
        assert_eq!((track.samples, track.duration), (u32::MAX.into(), u64::from(u32::MAX) * 40));
    }

    fn only_track(truns: &[&[u32]]) -> TrackFragment {
        let init = parse_init(&moov(&[b"vide"])).unwrap();
        parse_fragment(&new_box(b"moof", &traf(1, 0, truns)), &init).unwrap().tracks[0]
    }

    #[test]
    fn samples_are_summed_over_truns() {
        // Duration, size, flags and composition of each; the second trun leaves it to the trex.
        let own = [0x0100_0f00, 3, 30, 7, NON_SYNC, 80, 41, 8, NON_SYNC, 1_u32.wrapping_neg()];
        let own = [own.as_slice(), &[30, 9, NON_SYNC, 0]].concat();
        let track = only_track(&[&own]);
        assert_eq!((track.samples, track.duration, track.data_bytes), (3, 101, 24));
        assert_eq!(
            (track.sample_duration, track.starts_with_sync, track.has_sync),
            (30, false, false)
        );
        assert_eq!((track.first_composition, track.composition_min), (80, -1));
        let track = only_track(&[&own, &[0, 5]]);
        assert_eq!((track.samples, track.duration, track.data_bytes), (8, 301, 49));
        assert_eq!(
            (track.sample_duration, track.starts_with_sync, track.has_sync),
            (40, false, true)
        );
        let track = only_track(&[&[0x800, 1, u32::MAX]]);
        assert_eq!(track.first_composition, i64::from(u32::MAX));
    }

    #[test]
    fn the_flags_before_all_samples_are_those_of_the_first() {
        let track = only_track(&[&[0x4, 2, NON_SYNC]]);
        assert!(!track.starts_with_sync && track.has_sync);
        let track = only_track(&[&[0x404, 2, 0, NON_SYNC, NON_SYNC]]);
        assert!(track.starts_with_sync && track.has_sync);
        let track = only_track(&[&[0x404, 2, NON_SYNC, 0, NON_SYNC]]);
        assert!(!track.starts_with_sync && !track.has_sync);
        let bytes = new_box(b"moof", &traf(9, 0, &[&[0, 1]]));
        let unknown = parse_fragment(&bytes, &Init::default()).unwrap().tracks[0];
        assert!(!unknown.starts_with_sync && !unknown.has_sync);
        assert_eq!(only_track(&[&[0, 0]]).sample_duration, 40);
    }
}
