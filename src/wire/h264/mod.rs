//! H.264 as cameras send it (ITU-T H.264 annex B): a byte stream in which start codes stand in front
//! of NAL units. Where pictures begin and end, which ones a decoder may begin with, when they are
//! shown, and what it needs first. Nothing is decoded but the heads of slices, and there is no I/O.
//! `fmp4` makes movies of the pictures; doors ask a [`KeyFinder`] where a late viewer may begin.
//!
//! `nal_splitter` (start codes), `access_unit` (pictures), `slice_head` (what tells one picture from the
//! next), `picture_order` (when they are shown), `set_table` (parameter sets), `key_rule` (what is a key
//! picture), `key_finder` (messages to begin with).
//!
//! A NAL unit, as the splitter sees it:
//!
//! | state   | left when |
//! |---------|-----------|
//! | Between | a start code is complete: `NalSplitter::search` |
//! | Inside  | the next start code, or three zeros: `NalSplitter::pass`; or the end of the stream |
//!
//! A picture, as the reader sees it:
//!
//! | state     | left when |
//! |-----------|-----------|
//! | none      | a NAL unit begins: `Assembler::place` |
//! | gathered  | a NAL unit shows that the next has begun (7.4.1.2.3), or the stream ends: `Assembler::close` |
//! | too long  | the same; it is told, and the next one follows a loss |

mod access_unit;
mod key_finder;
mod key_rule;
mod nal_splitter;
mod picture_order;
mod set_table;
mod slice_head;

pub use access_unit::{AccessUnit, AccessUnitReader, UnitEvent};
pub use key_finder::{KeyFinder, KeyStart};
pub use nal_splitter::{NalEvent, NalSplitter};
pub use set_table::ParameterSets;

/// The types of NAL units (table 7-1).
mod nal_type {
    pub(super) const SLICE: u8 = 1;
    pub(super) const PARTITION_A: u8 = 2;
    pub(super) const IDR_SLICE: u8 = 5;
    pub(super) const SEI: u8 = 6;
    pub(super) const SEQUENCE_SET: u8 = 7;
    pub(super) const PICTURE_SET: u8 = 8;
    const AUXILIARY: u8 = 19;

    pub(super) fn has_slice_head(kind: u8) -> bool {
        matches!(kind, SLICE | PARTITION_A | IDR_SLICE)
    }

    /// A part of a picture.
    pub(super) fn is_picture(kind: u8) -> bool {
        (SLICE..=IDR_SLICE).contains(&kind)
    }

    /// Behind a picture it belongs to the next one (7.4.1.2.3). Not so 14, which stands in front of
    /// each slice where there are several layers.
    pub(super) fn is_ahead_of_picture(kind: u8) -> bool {
        matches!(kind, 6..=9 | 15..=18)
    }

    /// It goes into a file. Parameter sets have a place of their own there, delimiters are not needed,
    /// and the rest means nothing to who decodes one layer of one view.
    pub(super) fn is_kept(kind: u8) -> bool {
        matches!(kind, SLICE..=SEI | AUXILIARY)
    }
}

/// 24 pictures of x264, 25 in a second, of 128 × 96 samples: two slices each, B pyramids, no
/// delimiters; the first and the thirteenth are keys.
#[cfg(test)]
pub(in crate::wire) const SAMPLE: &[u8] = include_bytes!("pyramid.h264");
