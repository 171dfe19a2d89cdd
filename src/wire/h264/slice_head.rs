//! The head of a slice (7.3.3), as far as it tells one picture from the next and when it is shown.

use super::nal_type;
use super::set_table::SetTable;
use crate::wire::bit_reader::BitReader;
use crate::wire::parameter_sets::{OrderKind, SequenceSet, unescaped};

/// All that is read of a slice has at most 20 bytes, a third more with escapes.
pub(super) const SLICE_HEAD_BYTES_MAX: usize = 32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SliceHead {
    pub(super) is_idr: bool,
    /// Others are made from it.
    pub(super) is_reference: bool,
    /// Where it begins in the picture.
    first_block: u32,
    pub(super) picture_set: u32,
    frame_number: u64,
    /// Which of the two fields of a frame it belongs to; `None`: the whole.
    is_bottom: Option<bool>,
    idr_id: Option<u32>,
    /// Low bits of the picture's order number.
    pub(super) order_low: Option<u32>,
}

impl SliceHead {
    /// `nal` is the beginning of a NAL unit, from its header on. `None`: it is too short, or its
    /// parameter sets are not known.
    pub(super) fn parse(nal: &[u8], sets: &SetTable) -> Option<SliceHead> {
        let (header, payload) = nal.split_first()?;
        let payload = unescaped(payload.get(..SLICE_HEAD_BYTES_MAX).unwrap_or(payload));
        let mut bits = BitReader::new(&payload);
        let first_block = bits.unsigned()?;
        // Its type.
        bits.unsigned()?;
        let picture_set = bits.unsigned()?;
        let sequence = sets.sequence_of(picture_set)?;
        let is_idr = header & 0x1f == nal_type::IDR_SLICE;
        let mut head = SliceHead {
            is_idr,
            is_reference: header & 0x60 != 0,
            first_block,
            picture_set,
            frame_number: 0,
            is_bottom: None,
            idr_id: None,
            order_low: None,
        };
        head.read_numbers(&mut bits, sequence)?;
        Some(head)
    }

    fn read_numbers(&mut self, bits: &mut BitReader<'_>, sequence: &SequenceSet) -> Option<()> {
        if sequence.samples.has_separate_planes {
            bits.skip(2)?;
        }
        self.frame_number = bits.read(sequence.frame_number_bits)?;
        if !sequence.is_frames_only && bits.flag()? {
            self.is_bottom = Some(bits.flag()?);
        }
        if self.is_idr {
            self.idr_id = Some(bits.unsigned()?);
        }
        if let OrderKind::LowBits(order_bits) = sequence.order {
            // At most 16 bits.
            self.order_low = Some(bits.read(order_bits)? as u32);
        }
        Some(())
    }

    /// It is the first of another picture than `last` (7.4.1.2.4). A slice at the beginning of a
    /// picture is believed without a difference: slices in any order, and pictures sent twice, are
    /// of a profile that no camera has.
    pub(super) fn begins_picture(&self, last: &SliceHead) -> bool {
        self.first_block == 0 || SliceHead { first_block: last.first_block, ..*self } != *last
    }
}

/// The same without knowing the parameter sets: the first number is 0, which is a single bit.
pub(super) fn is_at_beginning(nal: &[u8]) -> bool {
    nal.get(1).is_some_and(|byte| byte & 0x80 != 0)
}
