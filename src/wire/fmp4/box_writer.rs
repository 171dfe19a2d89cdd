//! Boxes as they are written: one behind or inside the other, each with a size of 32 bits.

/// The payload is what `write` appends.
pub(super) fn push_box(out: &mut Vec<u8>, kind: &[u8; 4], write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(kind);
    write(out);
    // What is written here is made of a moov or of one picture.
    let size = u32::try_from(out.len() - start).unwrap_or(u32::MAX);
    out[start..][..4].copy_from_slice(&size.to_be_bytes());
}

/// A box with a version and flags (4.2).
pub(super) fn push_full_box(
    out: &mut Vec<u8>,
    kind: &[u8; 4],
    (version, flags): (u8, u32),
    write: impl FnOnce(&mut Vec<u8>),
) {
    assert!(flags >> 24 == 0);
    push_box(out, kind, |out| {
        push_u32s(out, &[u32::from(version) << 24 | flags]);
        write(out);
    });
}

pub(super) fn push_u32s(out: &mut Vec<u8>, values: &[u32]) {
    out.extend(values.iter().flat_map(|value| value.to_be_bytes()));
}

pub(super) fn push_u16s(out: &mut Vec<u8>, values: &[u16]) {
    out.extend(values.iter().flat_map(|value| value.to_be_bytes()));
}

pub(super) fn push_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}
