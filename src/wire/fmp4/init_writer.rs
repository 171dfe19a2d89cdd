//! Writes the initialisation segment of a movie with one track of H.264 (14496-15): ftyp and moov. The
//! muxer's; what others wrote is read in `init`.

use super::box_writer::{push_box, push_full_box, push_u16s, push_u32s};
use super::fragment::NON_SYNC;
use super::muxer::{TIMESCALE, TRACK_ID};
use crate::wire::h264::ParameterSets;
use crate::wire::parameter_sets::has_samples;

/// No turn and no stretch (6.2.2).
const MATRIX: [u32; 9] = [0x1_0000, 0, 0, 0, 0x1_0000, 0, 0, 0, 0x4000_0000];
/// 72 samples an inch, 16.16.
const RESOLUTION: u32 = 72 << 16;
/// A sample of which nothing more is known is made from others, and no decoder may begin there.
pub(super) const DEPENDENT: u32 = 0x0100_0000 | NON_SYNC;
/// More do not fit into the record of the configuration.
const PICTURE_SETS_MAX: usize = 255;

/// `width` and `height` are those of the parameter sets.
pub(super) fn push_init(out: &mut Vec<u8>, sets: &ParameterSets, (width, height): (u16, u16)) {
    push_box(out, b"ftyp", |out| out.extend_from_slice(b"iso6\0\0\0\0iso6cmfc"));
    push_box(out, b"moov", |out| {
        push_full_box(out, b"mvhd", (0, 0), |out| {
            push_u32s(out, &[0, 0, TIMESCALE, 0, 0x1_0000, 0x0100_0000, 0, 0]);
            push_u32s(out, &MATRIX);
            push_u32s(out, &[0, 0, 0, 0, 0, 0, TRACK_ID + 1]);
        });
        push_box(out, b"trak", |out| {
            // Enabled, and part of the movie.
            push_full_box(out, b"tkhd", (0, 3), |out| {
                push_u32s(out, &[0, 0, TRACK_ID, 0, 0, 0, 0, 0, 0]);
                push_u32s(out, &MATRIX);
                push_u32s(out, &[u32::from(width) << 16, u32::from(height) << 16]);
            });
            push_box(out, b"mdia", |out| push_media(out, sets, (width, height)));
        });
        push_box(out, b"mvex", |out| {
            push_full_box(out, b"trex", (0, 0), |out| {
                push_u32s(out, &[TRACK_ID, 1, 0, 0, DEPENDENT]);
            });
        });
    });
}

fn push_media(out: &mut Vec<u8>, sets: &ParameterSets, size: (u16, u16)) {
    push_full_box(out, b"mdhd", (0, 0), |out| {
        push_u32s(out, &[0, 0, TIMESCALE, 0]);
        // Three letters of five bits: und.
        push_u16s(out, &[0x55c4, 0]);
    });
    push_full_box(out, b"hdlr", (0, 0), |out| {
        out.extend_from_slice(b"\0\0\0\0vide\0\0\0\0\0\0\0\0\0\0\0\0VideoHandler\0");
    });
    push_box(out, b"minf", |out| {
        push_full_box(out, b"vmhd", (0, 1), |out| push_u32s(out, &[0, 0]));
        push_box(out, b"dinf", |out| {
            push_full_box(out, b"dref", (0, 0), |out| {
                push_u32s(out, &[1]);
                // The samples are in the same file.
                push_full_box(out, b"url ", (0, 1), |_| {});
            });
        });
        push_box(out, b"stbl", |out| {
            push_full_box(out, b"stsd", (0, 0), |out| {
                push_u32s(out, &[1]);
                push_box(out, b"avc1", |out| push_sample_entry(out, sets, size));
            });
            for empty in [b"stts", b"stsc", b"stco"] {
                push_full_box(out, empty, (0, 0), |out| push_u32s(out, &[0]));
            }
            push_full_box(out, b"stsz", (0, 0), |out| push_u32s(out, &[0, 0]));
        });
    });
}

/// 12.1.3, and 5.4.2 of 14496-15.
fn push_sample_entry(out: &mut Vec<u8>, sets: &ParameterSets, (width, height): (u16, u16)) {
    push_u16s(out, &[0, 0, 0, 1]);
    push_u32s(out, &[0; 4]);
    push_u16s(out, &[width, height]);
    push_u32s(out, &[RESOLUTION, RESOLUTION, 0]);
    push_u16s(out, &[1]);
    // The name of the coder.
    out.extend_from_slice(&[0; 32]);
    push_u16s(out, &[0x18, 0xffff]);
    push_box(out, b"avcC", |out| push_configuration(out, sets));
}

/// 5.3.3.1 of 14496-15.
fn push_configuration(out: &mut Vec<u8>, sets: &ParameterSets) {
    let sequence = sets.sequence_set();
    let profile = sequence.get(1).copied().unwrap_or_default();
    out.push(1);
    // Profile, constraints and level stand in front in the sequence parameter set too.
    out.extend_from_slice(sequence.get(1..4).unwrap_or(&[0; 3]));
    // Lengths have four bytes, and there is one set.
    out.extend_from_slice(&[0xff, 0xe1]);
    push_set(out, sequence);
    let count = sets.picture_sets().len().min(PICTURE_SETS_MAX);
    out.push(count as u8);
    for set in sets.picture_sets().iter().take(count) {
        push_set(out, set);
    }
    if has_samples(profile) {
        let samples = sets.details().samples;
        let [luma, chroma] = samples.extra_bits;
        out.extend_from_slice(&[0xfc | samples.chroma_format, 0xf8 | luma, 0xf8 | chroma, 0]);
    }
}

fn push_set(out: &mut Vec<u8>, set: &[u8]) {
    // The table of sets has none that is longer.
    push_u16s(out, &[u16::try_from(set.len()).expect("a set is short")]);
    out.extend_from_slice(set);
}
