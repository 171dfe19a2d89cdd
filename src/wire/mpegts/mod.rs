//! MPEG transport streams (ISO/IEC 13818-1) seen from outside: packets, the PAT and PMT that a late
//! joiner needs, the units at which it may start, the clocks, and what the streams are. It never
//! decodes media, never reorders packets, and does no I/O. Who receives a stream feeds a
//! [`TsScanner`] with bytes as they arrive; `publish` reads and rewrites clocks and continuity
//! counters packet by packet.
//!
//! `packet` (heads, clocks), `tables` (sections), `program` (PMT), `elementary` (a look into the
//! streams), `demux` (what each packet means), `ts_scanner` (packets from bytes), `aligner` (whole
//! packets from bytes of any source), `continuity` (where a stream breaks).

mod aligner;
mod continuity;
mod demux;
mod elementary;
mod packet;
mod program;
mod tables;
mod ts_scanner;

pub use aligner::PacketAligner;
pub use continuity::{Continuity, GAP_PIDS_MAX, RESUMED_PACKETS_MAX, Resumption};
pub use demux::{Fault, Found};
pub use packet::{
    CLOCK_HZ, CLOCK_WRAP, ContinuityRewriter, PACKET_BYTES, Packet, PacketHead, PesTimes, pcr,
    pes_times, shift_times, unwrap_clock,
};
pub use program::{Layout, Program, Stream, StreamKind};
pub(in crate::wire) use tables::crc32;
pub use ts_scanner::{TsScanner, UNSYNCED_BYTES_MAX};

#[cfg(test)]
mod test_streams;
