//! Cues for advertisements (ANSI/SCTE 35 2023): just enough of a splice_info_section to say when a
//! break begins and ends. The same section stands in a transport stream (stream type 0x86) and in
//! event messages of the scheme `urn:scte:scte35:2013:bin`. It is parsed, never written.

use crate::wire::bit_reader::BitReader;
use crate::wire::mpegts::{CLOCK_WRAP, crc32};

const TABLE_ID: u64 = 0xfc;
/// The `splice_command_length` of older encoders, which did not say it (9.6.1).
const LENGTH_UNKNOWN: usize = 0xfff;
const IDENTIFIER: u64 = u32::from_be_bytes(*b"CUEI") as u64;
const SEGMENTATION_DESCRIPTOR: u8 = 2;
/// Segmentation descriptors beyond so many are not told; a section has room for 200.
const SEGMENTATIONS_MAX: usize = 64;

/// All times are ticks of 90 kHz of the programme, 33 bits, with `pts_adjustment` applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Splice {
    /// As sent: 0 null, 5 insert, 6 time signal, 7 bandwidth reservation, 255 private.
    pub command_type: u8,
    pub command: Command,
    pub segmentations: Vec<Segmentation>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    Insert(Insert),
    /// `None`: now.
    TimeSignal {
        pts: Option<u64>,
    },
    /// Of another type, or encrypted.
    Other,
}

/// splice_insert (9.7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insert {
    pub event_id: u32,
    /// The event of this number is called off; nothing below is meant.
    pub cancelled: bool,
    pub out_of_network: bool,
    /// As soon as possible; there is no time.
    pub immediate: bool,
    /// Of the programme, or of the first component that has one.
    pub pts: Option<u64>,
    pub duration: Option<u64>,
    /// The break ends by itself after `duration`.
    pub auto_return: bool,
}

/// segmentation_descriptor (10.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segmentation {
    pub event_id: u32,
    /// As with [`Insert::cancelled`].
    pub cancelled: bool,
    /// Table 23: 0x34 is the start of a provider placement opportunity.
    pub type_id: u8,
    pub duration: Option<u64>,
}

impl Segmentation {
    /// A break, an advertisement, a placement opportunity or a block of advertisements starts: the
    /// picture leaves the programme. Overlays and promotions do not.
    pub fn is_out(&self) -> bool {
        !self.cancelled && matches!(self.type_id, 0x22 | 0x30 | 0x32 | 0x34 | 0x36 | 0x44 | 0x46)
    }

    /// What `is_out` told has ended; an end has the odd number after its start.
    pub fn is_in(&self) -> bool {
        !self.cancelled && matches!(self.type_id, 0x23 | 0x31 | 0x33 | 0x35 | 0x37 | 0x45 | 0x47)
    }
}

impl Splice {
    /// When it is meant to happen; `None`: now, or not said.
    pub fn pts(&self) -> Option<u64> {
        match self.command {
            Command::Insert(insert) => insert.pts,
            Command::TimeSignal { pts } => pts,
            Command::Other => None,
        }
    }
}

/// `None`: not a splice_info_section, damaged, or cut off. Of an encrypted one only the type of
/// the section is known, so it is told as `Command::Other`.
pub fn parse(section: &[u8]) -> Option<Splice> {
    let mut head = BitReader::new(section);
    if head.read(8)? != TABLE_ID {
        return None;
    }
    head.skip(4)?;
    let section = section.get(..3 + head.read(12)? as usize)?;
    let (body, _crc) = section.split_last_chunk::<4>()?;
    if crc32(section) != 0 {
        return None;
    }
    let mut bits = BitReader::new(body);
    bits.skip(3 * 8 + 8)?;
    let encrypted = bits.flag()?;
    bits.skip(6)?;
    let adjustment = bits.read(33)?;
    bits.skip(8 + 12)?;
    let length = bits.read(12)? as usize;
    let command_type = bits.byte()?;
    if encrypted {
        return Some(Splice { command_type, command: Command::Other, segmentations: Vec::new() });
    }
    let mut command_bits = bits.clone();
    let command = command(&mut command_bits, command_type, adjustment)?;
    if length == LENGTH_UNKNOWN {
        bits = command_bits;
    } else {
        bits.skip(length * 8)?;
    }
    // A command of unknown type and length cannot be passed over.
    let lost = length == LENGTH_UNKNOWN && !matches!(command_type, 0 | 5 | 6 | 7);
    let segmentations = if lost { Vec::new() } else { segmentations(bits).unwrap_or_default() };
    Some(Splice { command_type, command, segmentations })
}

fn command(bits: &mut BitReader<'_>, command_type: u8, adjustment: u64) -> Option<Command> {
    match command_type {
        5 => insert(bits, adjustment).map(Command::Insert),
        6 => splice_time(bits, adjustment).map(|pts| Command::TimeSignal { pts }),
        _ => Some(Command::Other),
    }
}

fn insert(bits: &mut BitReader<'_>, adjustment: u64) -> Option<Insert> {
    let event_id = bits.read(32)? as u32;
    let cancelled = bits.flag()?;
    bits.skip(7)?;
    let mut insert = Insert {
        event_id,
        cancelled,
        out_of_network: false,
        immediate: false,
        pts: None,
        duration: None,
        auto_return: false,
    };
    if cancelled {
        return Some(insert);
    }
    insert.out_of_network = bits.flag()?;
    let whole_programme = bits.flag()?;
    let has_duration = bits.flag()?;
    insert.immediate = bits.flag()?;
    bits.skip(4)?;
    if whole_programme {
        if !insert.immediate {
            insert.pts = splice_time(bits, adjustment)?;
        }
    } else {
        for _ in 0..bits.byte()? {
            bits.skip(8)?;
            if !insert.immediate {
                insert.pts = insert.pts.or(splice_time(bits, adjustment)?);
            }
        }
    }
    if has_duration {
        insert.auto_return = bits.flag()?;
        bits.skip(6)?;
        insert.duration = Some(bits.read(33)?);
    }
    // unique_program_id, avail_num, avails_expected.
    bits.skip(32)?;
    Some(insert)
}

fn splice_time(bits: &mut BitReader<'_>, adjustment: u64) -> Option<Option<u64>> {
    if !bits.flag()? {
        bits.skip(7)?;
        return Some(None);
    }
    bits.skip(6)?;
    Some(Some((bits.read(33)? + adjustment) % CLOCK_WRAP))
}

/// The descriptors of this kind; others, and those that do not fit, are passed over.
fn segmentations(mut bits: BitReader<'_>) -> Option<Vec<Segmentation>> {
    let loop_bytes = bits.read(16)? as usize;
    let mut rest = bits.rest().get(..loop_bytes)?;
    let mut found = Vec::new();
    while let Some((&[tag, length], after)) = rest.split_first_chunk::<2>() {
        let body = after.get(..usize::from(length))?;
        rest = after.get(usize::from(length)..)?;
        if tag == SEGMENTATION_DESCRIPTOR && found.len() < SEGMENTATIONS_MAX {
            found.extend(segmentation(body));
        }
    }
    Some(found)
}

fn segmentation(body: &[u8]) -> Option<Segmentation> {
    let mut bits = BitReader::new(body);
    if bits.read(32)? != IDENTIFIER {
        return None;
    }
    let event_id = bits.read(32)? as u32;
    let cancelled = bits.flag()?;
    bits.skip(7)?;
    if cancelled {
        return Some(Segmentation { event_id, cancelled, type_id: 0, duration: None });
    }
    let whole_programme = bits.flag()?;
    let has_duration = bits.flag()?;
    bits.skip(6)?;
    if !whole_programme {
        let components = usize::from(bits.byte()?);
        bits.skip(components * 48)?;
    }
    let duration = if has_duration { Some(bits.read(40)?) } else { None };
    bits.skip(8)?;
    let upid_bytes = usize::from(bits.byte()?);
    bits.skip(upid_bytes * 8)?;
    Some(Segmentation { event_id, cancelled, type_id: bits.byte()?, duration })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The samples of SCTE 35, chapter 14.
    const PLACEMENT_START: &str = "FC3034000000000000FFFFF00506FE72BD0050001E021C435545494800008E7F\
        CF0001A599B00808000000002CA0A18A3402009AC9D17E";
    const INSERT: &str = "FC302F000000000000FFFFF014054800008F7FEFFE7369C02EFE0052CCF50000000000\
        0A0008435545490000013562DBA30A";
    const PLACEMENT_END: &str = "FC302F000000000000FFFFF00506FE746290A000190217435545494800008E7F9F\
        0808000000002CA0A18A350200A9CC6758";
    const PROGRAM_START_AND_END: &str = "FC3048000000000000FFFFF00506FE7A4D88B60032021743554549480000\
        187F9F0808000000002CCBC344110000021743554549480000197F9F0808000000002CA4DBA01000009972E343";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    fn sealed(section: &[u8]) -> Vec<u8> {
        let mut section = section[..section.len() - 4].to_vec();
        let length = (section.len() + 1) as u16 | 0x3000;
        section[1..3].copy_from_slice(&length.to_be_bytes());
        section.extend(crc32(&section).to_be_bytes());
        section
    }

    #[test]
    fn time_signals_of_the_standard() {
        let start = parse(&bytes(PLACEMENT_START)).unwrap();
        assert_eq!(start.command, Command::TimeSignal { pts: Some(0x0_72bd_0050) });
        let segmentation = Segmentation {
            event_id: 0x4800_008e,
            cancelled: false,
            type_id: 0x34,
            duration: Some(307 * 90_000),
        };
        assert_eq!(start.segmentations, [segmentation]);
        assert!(segmentation.is_out() && !segmentation.is_in());
        let end = parse(&bytes(PLACEMENT_END)).unwrap();
        assert_eq!(end.pts(), Some(0x0_7462_90a0));
        let segmentation = Segmentation { type_id: 0x35, duration: None, ..segmentation };
        assert_eq!(end.segmentations, [segmentation]);
        assert!(segmentation.is_in() && !segmentation.is_out());
        let two = parse(&bytes(PROGRAM_START_AND_END)).unwrap();
        let types: Vec<u8> = two.segmentations.iter().map(|one| one.type_id).collect();
        assert_eq!(types, [0x11, 0x10]);
        assert!(!two.segmentations.iter().any(|one| one.is_in() || one.is_out()));
    }

    #[test]
    fn an_insert_of_the_standard() {
        let splice = parse(&bytes(INSERT)).unwrap();
        let insert = Insert {
            event_id: 0x4800_008f,
            cancelled: false,
            out_of_network: true,
            immediate: false,
            pts: Some(0x0_7369_c02e),
            duration: Some(0x0_0052_ccf5),
            auto_return: true,
        };
        assert_eq!(splice.command, Command::Insert(insert));
        assert_eq!((splice.command_type, splice.segmentations.len()), (5, 0));
    }

    #[test]
    fn the_adjustment_is_applied_and_wraps() {
        let mut section = bytes(INSERT);
        section[4] |= 1;
        section[5..9].copy_from_slice(&0xffff_ffff_u32.to_be_bytes());
        assert_eq!(parse(&sealed(&section)).unwrap().pts(), Some(0x0_7369_c02d));
    }

    #[test]
    fn commands_without_length_are_read_to_their_end() {
        let mut section = bytes(PLACEMENT_START);
        let whole = parse(&section);
        section[11] |= 0x0f;
        section[12] = 0xff;
        assert_eq!(parse(&sealed(&section)), whole);
    }

    #[test]
    fn cancelled_immediate_encrypted() {
        let mut section = bytes(INSERT);
        section[4] |= 0x80;
        assert_eq!(parse(&sealed(&section)).unwrap().command, Command::Other);
        let command = [0x05, 0, 0, 0, 9, 0xff];
        let head = [&bytes(INSERT)[..11], &[0xf0, 5]].concat();
        let called_off = [&head, command.as_slice(), &[0, 0], &[0; 4]].concat();
        let splice = parse(&sealed(&called_off)).unwrap();
        assert!(matches!(
            splice.command,
            Command::Insert(Insert { event_id: 9, cancelled: true, .. })
        ));
        let now = [0x05, 0, 0, 0, 9, 0x7f, 0x5f, 0, 1, 0, 0, 0, 0];
        let head = [&bytes(INSERT)[..11], &[0xf0, 10]].concat();
        let splice = parse(&sealed(&[&head, now.as_slice(), &[0; 4]].concat())).unwrap();
        let Command::Insert(insert) = splice.command else { panic!("it is an insert") };
        assert!(insert.immediate && !insert.out_of_network && insert.pts.is_none());
    }

    #[test]
    fn damage_is_refused() {
        for sample in [PLACEMENT_START, INSERT, PLACEMENT_END, PROGRAM_START_AND_END] {
            let section = bytes(sample);
            assert!(parse(&section).is_some());
            for cut in 0..section.len() {
                assert_eq!(parse(&section[..cut]), None);
            }
            for at in 0..section.len() {
                let mut damaged = section.clone();
                damaged[at] ^= 0x10;
                assert_eq!(parse(&damaged), None);
            }
            // What follows the section does not matter.
            assert_eq!(parse(&[&section, [0xff; 9].as_slice()].concat()), parse(&section));
        }
    }

    proptest! {
        #[test]
        fn random_sections_do_not_panic(
            kind in 0u8..8,
            body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut section = bytes(INSERT)[..13].to_vec();
            section.push(kind);
            section.extend(&body);
            section.extend([0; 4]);
            let _ = parse(&sealed(&section));
            let _ = parse(&body);
        }
    }
}
