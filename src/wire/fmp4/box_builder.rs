//! Boxes for the tests of this folder, built by hand, and the sample film of `publish`.

use super::{Found, FragmentScanner};

/// 8 s at 25 pictures per second and sound; a fragment every 200 ms, a key picture every second.
pub(super) const SAMPLE: &[u8] = include_bytes!("../../commands/sample.mp4");

pub(super) fn new_box(kind: &[u8; 4], payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32 + 8).to_be_bytes();
    [&size, kind.as_slice(), payload].concat()
}

pub(super) fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_be_bytes()).collect()
}

/// A trak whose mdhd has a timescale of 1000 and this language word; `inner` stands in its mdia.
pub(super) fn trak(id: u32, handler: &[u8; 4], language: u16, inner: &[u8]) -> Vec<u8> {
    let hdlr = [words(&[0, 0]), handler.to_vec(), words(&[0, 0, 0])].concat();
    let mdhd = words(&[0, 0, 0, 1000, 0, u32::from(language) << 16]);
    let mdia = [new_box(b"mdhd", &mdhd), new_box(b"hdlr", &hdlr), inner.to_vec()].concat();
    let trak = [new_box(b"tkhd", &words(&[0, 0, 0, id])), new_box(b"mdia", &mdia)];
    new_box(b"trak", &trak.concat())
}

/// The mdia's minf with one sample entry.
pub(super) fn minf(entry: &[u8]) -> Vec<u8> {
    let stsd = new_box(b"stsd", &[words(&[0, 1]), entry.to_vec()].concat());
    new_box(b"minf", &new_box(b"stbl", &stsd))
}

/// A moov with one track per handler, numbered from 1, whose samples are sync unless said
/// otherwise, last 40 ticks and have 5 bytes.
pub(super) fn moov(handlers: &[&[u8; 4]]) -> Vec<u8> {
    let mut content = Vec::new();
    let mut mvex = Vec::new();
    for (id, handler) in (1..).zip(handlers) {
        content.extend(trak(id, handler, 0, &[]));
        mvex.extend(new_box(b"trex", &words(&[0, id, 1, 40, 5, 0])));
    }
    content.extend(new_box(b"mvex", &mvex));
    new_box(b"moov", &content)
}

pub(super) fn init_segment(handlers: &[&[u8; 4]]) -> Vec<u8> {
    let ftyp = new_box(b"ftyp", b"iso6\0\0\0\x01iso6cmfc");
    [ftyp, moov(handlers)].concat()
}

/// A traf with these truns (flags, count, fields); a version stands in the flags' first byte.
pub(super) fn traf(id: u32, time: u32, truns: &[&[u32]]) -> Vec<u8> {
    let mut content = new_box(b"tfhd", &words(&[0x2_0000, id]));
    content.extend(new_box(b"tfdt", &words(&[0, time])));
    for trun in truns {
        content.extend(new_box(b"trun", &words(trun)));
    }
    new_box(b"traf", &content)
}

/// A moof with one sample per (track, time, flags of the sample).
pub(super) fn moof(trafs: &[(u32, u32, Option<u32>)]) -> Vec<u8> {
    let mut content = new_box(b"mfhd", &words(&[0, 7]));
    for &(id, time, flags) in trafs {
        match flags {
            Some(flags) => content.extend(traf(id, time, &[&[0x4, 1, flags]])),
            None => content.extend(traf(id, time, &[&[0, 1]])),
        }
    }
    new_box(b"moof", &content)
}

/// Version 1: texts behind the numbers.
pub(super) fn emsg(scheme: &[u8], time: u64, data: &[u8]) -> Vec<u8> {
    let mut payload = words(&[0x0100_0000, 1000, (time >> 32) as u32, time as u32, 500, 3]);
    payload.extend([scheme, b"\0v\0", data].concat());
    new_box(b"emsg", &payload)
}

/// What a scanner tells of a stream in these pieces, as text.
pub(super) fn told(mut scanner: FragmentScanner, pieces: &[&[u8]]) -> Vec<String> {
    let mut told = Vec::new();
    for piece in pieces {
        scanner.push(piece, &mut |found: Found<'_>| told.push(format!("{found:?}")));
    }
    told
}
