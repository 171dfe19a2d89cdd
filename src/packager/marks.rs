//! Finds the boundaries in the media that an upload carries, and notes them as marks of its object.
//!
//! Recognised by content: fragmented MP4 and MPEG-TS. Anything else has no marks. The bytes have been
//! appended already; only box and packet heads are looked at.

use crate::store::{MarkKind, Writer};
use crate::wire::{fmp4, mpegts};

/// A longer preamble is not one.
const PREAMBLE_BYTES_MAX: u64 = 256 << 10;

pub struct Marker {
    format: Format,
}

enum Format {
    /// Both look on until one gives up or finds itself.
    Unknown(Box<fmp4::FragmentScanner>, Box<mpegts::TsScanner>),
    Fmp4(Box<fmp4::FragmentScanner>),
    MpegTs(Box<mpegts::TsScanner>),
    Neither,
}

impl Default for Marker {
    fn default() -> Self {
        let (fmp4, ts) = (fmp4::FragmentScanner::new(), mpegts::TsScanner::new());
        Marker { format: Format::Unknown(Box::new(fmp4), Box::new(ts)) }
    }
}

impl Marker {
    /// Note the boundaries in bytes that were just appended.
    pub fn note(&mut self, bytes: &[u8], writer: &mut Writer) {
        let mut seen = Seen::Nothing;
        match &mut self.format {
            Format::Neither => {}
            Format::Fmp4(scanner) => {
                scanner.push(bytes, &mut |found| note_fmp4(found, writer, &mut seen))
            }
            Format::MpegTs(scanner) => {
                push_ts(scanner, bytes, writer, &mut seen);
            }
            Format::Unknown(fmp4, ts) => {
                fmp4.push(bytes, &mut |found| note_fmp4(found, writer, &mut seen));
                if !matches!(seen, Seen::Fmp4) {
                    push_ts(ts, bytes, writer, &mut seen);
                }
            }
        }
        self.settle(seen);
    }

    fn settle(&mut self, seen: Seen) {
        self.format = match (std::mem::replace(&mut self.format, Format::Neither), seen) {
            (Format::Unknown(fmp4, _), Seen::Fmp4) => Format::Fmp4(fmp4),
            (Format::Unknown(_, ts), Seen::MpegTs) => Format::MpegTs(ts),
            (Format::Unknown(fmp4, ts), Seen::Nothing) if fmp4.is_stopped() && ts.is_stopped() => {
                Format::Neither
            }
            (unchanged, _) => unchanged,
        };
    }
}

/// Which format a push has shown itself to be.
enum Seen {
    Nothing,
    Fmp4,
    MpegTs,
}

fn note_fmp4(found: fmp4::Found<'_>, writer: &mut Writer, seen: &mut Seen) {
    use fmp4::Found::{Chunk, ChunkEnd, ChunkExtent, Init, Lost, MovieEnd, NotFmp4};
    match found {
        NotFmp4 | Lost { .. } | ChunkExtent { .. } | ChunkEnd { .. } | MovieEnd { .. } => return,
        Chunk { start, chunk } => writer.mark(start, kind_of(chunk.random_access)),
        Init { start, end, .. } if end - start <= PREAMBLE_BYTES_MAX => {
            writer.set_preamble_from(start, end);
        }
        Init { .. } => {}
    }
    *seen = Seen::Fmp4;
}

fn push_ts(scanner: &mut mpegts::TsScanner, bytes: &[u8], writer: &mut Writer, seen: &mut Seen) {
    let mut begins = false;
    scanner.push(bytes, &mut |found| begins |= note_ts(found, writer, seen));
    if begins {
        // Their counters go on in those that follow.
        writer.set_preamble(scanner.latest_tables());
    }
}

/// True where decoding can start.
fn note_ts(found: mpegts::Found, writer: &mut Writer, seen: &mut Seen) -> bool {
    use mpegts::Found::{Fault, NotTs, Program, Splice, Streams, Unit, Untimed};
    let mut begins = false;
    match found {
        NotTs | Fault { .. } | Streams(_) | Splice { .. } => return false,
        Program { program, .. } => writer.set_preamble(program.tables.clone()),
        Unit { packet_offset, random_access, .. } | Untimed { packet_offset, random_access } => {
            writer.mark(packet_offset, kind_of(random_access));
            begins = random_access;
        }
    }
    *seen = Seen::MpegTs;
    begins
}

fn kind_of(random_access: bool) -> MarkKind {
    if random_access { MarkKind::RandomAccess } else { MarkKind::Boundary }
}
