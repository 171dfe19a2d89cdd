//! The parameter sets that a stream has sent, by their numbers, and those that are in force.

use std::sync::Arc;

use super::nal_type;
use crate::wire::bit_reader::BitReader;
use crate::wire::parameter_sets::{self, SequenceSet, unescaped};

/// A longer set is not one: with all its lists it has some hundred bytes.
pub(super) const SET_BYTES_MAX: usize = 1024;
/// Sets that are kept. A stream that sends more begins again with none.
const SETS_BYTES_MAX: usize = 8 * 1024;
/// Numbers that sets may have (7.4.2.1.1, 7.4.2.2).
const SEQUENCE_ID_MAX: u32 = 31;
const PICTURE_ID_MAX: u32 = 255;

const START_CODE: [u8; 4] = [0, 0, 0, 1];

/// What a decoder has to know of the pictures that follow.
#[derive(Debug, Clone, PartialEq)]
pub struct ParameterSets {
    sequence: Vec<u8>,
    pictures: Vec<Vec<u8>>,
    details: SequenceSet,
}

impl ParameterSets {
    /// A whole NAL unit, as are the others.
    pub fn sequence_set(&self) -> &[u8] {
        &self.sequence
    }

    /// All that belong to the sequence, in the order of their numbers.
    pub fn picture_sets(&self) -> &[Vec<u8>] {
        &self.pictures
    }

    /// As in RFC 6381.
    pub fn codec(&self) -> &str {
        &self.details.pictures.codec
    }

    /// In samples, as they are shown.
    pub fn size(&self) -> (u32, u32) {
        (self.details.pictures.width, self.details.pictures.height)
    }

    /// What the encoder says; a camera may send fewer.
    pub fn frame_rate(&self) -> Option<f64> {
        self.details.pictures.frame_rate
    }

    /// All of them as a byte stream.
    pub fn annex_b(&self) -> Vec<u8> {
        let sets = std::iter::once(&self.sequence).chain(&self.pictures);
        sets.flat_map(|set| [&START_CODE[..], set].concat()).collect()
    }

    pub(in crate::wire) fn details(&self) -> &SequenceSet {
        &self.details
    }
}

#[derive(Debug, Default)]
pub(super) struct SetTable {
    sequences: Vec<(SequenceSet, Vec<u8>)>,
    /// In the order of their numbers.
    pictures: Vec<PictureSet>,
    in_force: Option<Arc<ParameterSets>>,
}

#[derive(Debug)]
struct PictureSet {
    id: u32,
    sequence: u32,
    nal: Vec<u8>,
}

impl SetTable {
    /// Note a set of either kind; `nal` is the whole unit. What makes no sense is passed over.
    pub(super) fn add(&mut self, nal: &[u8]) {
        if nal.len() > SET_BYTES_MAX || self.is_known(nal) {
            return;
        }
        if self.bytes() + nal.len() > SETS_BYTES_MAX {
            *self = SetTable::default();
        }
        let is_sequence = nal.first().is_some_and(|header| header & 0x1f == nal_type::SEQUENCE_SET);
        let added = if is_sequence { self.add_sequence(nal) } else { self.add_picture(nal) };
        if added.is_some() {
            self.in_force = None;
        }
    }

    /// The sequence that pictures with this set belong to.
    pub(super) fn sequence_of(&self, picture_set: u32) -> Option<&SequenceSet> {
        self.find(picture_set).map(|(details, _)| details)
    }

    /// What is in force for pictures with this set; the same value until something else is.
    pub(super) fn in_force(&mut self, picture_set: u32) -> Option<Arc<ParameterSets>> {
        let (details, nal) = self.find(picture_set)?;
        let known = self.in_force.as_ref().filter(|known| known.details.id == details.id);
        if let Some(known) = known {
            return Some(Arc::clone(known));
        }
        let own = self.pictures.iter().filter(|set| set.sequence == details.id);
        let sets = ParameterSets {
            sequence: nal.clone(),
            pictures: own.map(|set| set.nal.clone()).collect(),
            details: details.clone(),
        };
        Some(Arc::clone(self.in_force.insert(Arc::new(sets))))
    }

    fn find(&self, picture_set: u32) -> Option<&(SequenceSet, Vec<u8>)> {
        let set = self.pictures.iter().find(|set| set.id == picture_set)?;
        self.sequences.iter().find(|(details, _)| details.id == set.sequence)
    }

    fn is_known(&self, nal: &[u8]) -> bool {
        self.nals().any(|known| known == nal)
    }

    fn bytes(&self) -> usize {
        self.nals().map(Vec::len).sum()
    }

    fn nals(&self) -> impl Iterator<Item = &Vec<u8>> {
        let sequences = self.sequences.iter().map(|(_, nal)| nal);
        sequences.chain(self.pictures.iter().map(|set| &set.nal))
    }

    fn add_sequence(&mut self, nal: &[u8]) -> Option<()> {
        let details = parameter_sets::h264(nal).filter(|details| details.id <= SEQUENCE_ID_MAX)?;
        self.sequences.retain(|(known, _)| known.id != details.id);
        self.sequences.push((details, nal.to_vec()));
        Some(())
    }

    fn add_picture(&mut self, nal: &[u8]) -> Option<()> {
        let payload = unescaped(nal.get(1..)?);
        let mut bits = BitReader::new(&payload);
        let id = bits.unsigned().filter(|&id| id <= PICTURE_ID_MAX)?;
        let set = PictureSet { id, sequence: bits.unsigned()?, nal: nal.to_vec() };
        self.pictures.retain(|known| known.id != id);
        let at = self.pictures.partition_point(|known| known.id < id);
        self.pictures.insert(at, set);
        Some(())
    }
}
