//! What each packet of a transport stream means: tables, units of the leading stream, splices,
//! faults. Called by `ts_scanner` with whole packets in their order.
//!
//! Most packets go on with a unit of which nothing more is asked. One byte per PID tells them from
//! the others: its continuity counter, and whether the PID is watched.

use std::sync::Arc;

use bytes::Bytes;

use super::elementary::{Look, Probe};
use super::packet::{CLOCK_HZ, CLOCK_WRAP, Packet, PacketHead};
use super::packet::{pes_payload, pes_times, unwrap_clock};
use super::program::{self, Program, STREAM_TYPE_SPLICE, Stream, StreamKind};
use super::tables::{
    Collector, PRIVATE_SECTION_BYTES_MAX, PatEntry, Progress, Table, crc32, read_pat, u16_of,
};

/// A decoding time further ahead of the one before is a jump of the clock.
const STEP_TICKS_MAX: u64 = 10 * CLOCK_HZ;
/// The same where the stream has announced a discontinuity.
const ANNOUNCED_STEP_TICKS_MAX: u64 = CLOCK_HZ;
/// After this time what is known of the streams is told, though it is not complete: a PMT may list
/// streams that never come.
const PROBE_TICKS_MAX: u64 = 2 * CLOCK_HZ;
/// Splices that came before the first unit; it gives them their time.
const EARLY_SPLICES_MAX: usize = 8;

const PID_PAT: u16 = 0;
/// Up to here are tables for receivers, such as the SDT.
const PID_TABLES_LAST: u16 = 0x1f;
const PID_NULL: u16 = 0x1fff;
const PIDS: usize = 0x2000;
const SPLICE_TABLE_ID: u8 = 0xfc;

/// A PID as one byte.
const COUNTER: u8 = 0x0f;
const SEEN: u8 = 0x10;
/// Every packet is looked at.
const WATCHED: u8 = 0x20;
/// The first packets of units are.
const STARTS: u8 = 0x40;

/// What a `TsScanner` tells. An offset is that of a packet's first byte, counted from the first
/// byte that was pushed.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// PAT and PMT are known; told again when either changes.
    Program {
        /// Where the tables begin that say so.
        offset: u64,
        /// A PAT and a PMT stand there.
        has_tables: bool,
        program: Arc<Program>,
    },
    /// A unit of the leading stream begins. Told with its first packet, except where pictures to
    /// begin with have to be looked for: then at the latest when the next unit begins.
    Unit {
        /// Of the PAT, if a PAT and a PMT stand directly before the unit; else as
        /// `packet_offset`.
        offset: u64,
        /// Where the PES packet begins.
        packet_offset: u64,
        /// Ticks of 90 kHz that count on where 33 bits wrap.
        dts: u64,
        pts: u64,
        /// A decoder may start here: the stream says so, or, if it never does, the picture is an
        /// IDR, CRA or BLA. Always true where there are no pictures.
        random_access: bool,
        has_tables: bool,
    },
    /// A PES packet of the leading stream without a time in the clear: scrambled, or the second
    /// field of a picture.
    Untimed {
        packet_offset: u64,
        random_access: bool,
    },
    /// Codecs and resolution of all streams are known, or will not be soon; told again when they
    /// change.
    Streams(Arc<Program>),
    Fault {
        offset: u64,
        fault: Fault,
    },
    /// A splice_info_section whose CRC is right, for `scte35::parse`, and the newest time of
    /// presentation of the leading stream.
    Splice {
        section: Vec<u8>,
        pts: u64,
    },
    /// The stream is something else. Told once; nothing is told after it.
    NotTs,
}

/// Something to count and to say; scanning goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `lost` packets of the PID are missing, modulo 16.
    Continuity {
        pid: u16,
        lost: u8,
    },
    /// Decoding times of the leading stream go back, or far ahead. `announced`: with a
    /// discontinuity_indicator.
    ClockJump {
        from: u64,
        to: u64,
        announced: bool,
    },
    /// transport_error_indicator, or an adaptation field that does not fit; the packet was ignored.
    BadPacket,
    /// A table or splice whose CRC is wrong.
    BadSection {
        pid: u16,
    },
    /// A packet does not begin with a sync byte.
    SyncLost,
    SyncFound {
        skipped_bytes: u64,
    },
}

/// A PAT and a PMT with nothing behind them but other tables, null packets, packets without
/// payload.
#[derive(Debug, Clone, Copy)]
struct Run {
    offset: u64,
    has_pat: bool,
    has_pmt: bool,
}

#[derive(Debug, Default)]
pub(super) struct Demux {
    /// One byte per PID; empty before the first packet, because most objects have none.
    pids: Vec<u8>,
    run: Option<Run>,
    pat: Table,
    pmt: Table,
    /// Where the PMT begins that came last.
    pmt_offset: u64,
    /// The first program of the PAT.
    chosen: Option<PatEntry>,
    program: Option<Arc<Program>>,
    /// One for each stream of the program.
    probes: Vec<Probe>,
    streams_told: bool,
    /// Decoding time of the first unit since the program was told.
    probed_since: Option<u64>,
    /// The leading stream uses random_access_indicator, so far as this encoder goes.
    says_random_access: bool,
    /// A unit of which is being found out whether it is one to begin with.
    pending: Option<Found>,
    clock: Clock,
    splices: Vec<(u16, Collector)>,
    early_splices: Vec<Vec<u8>>,
}

/// The times of the leading stream.
#[derive(Debug, Default)]
struct Clock {
    dts: Option<u64>,
    pts: u64,
    announced: bool,
}

impl Clock {
    /// Takes the time of the next unit; a fault if it does not follow the one before.
    fn advance(&mut self, dts: u64, pts: u64) -> (u64, Option<Fault>) {
        let to = near(self.dts.unwrap_or(dts), dts);
        self.pts = near(to, pts);
        let announced = std::mem::take(&mut self.announced);
        let Some(from) = self.dts.replace(to) else {
            return (to, None);
        };
        let step_max = if announced { ANNOUNCED_STEP_TICKS_MAX } else { STEP_TICKS_MAX };
        let jumps = to < from || to - from > step_max;
        (to, jumps.then_some(Fault::ClockJump { from, to, announced }))
    }
}

/// `unwrap_clock`, but a time below zero is taken for one a turn later.
fn near(near: u64, value: u64) -> u64 {
    let time = unwrap_clock(near, value);
    if time % CLOCK_WRAP == value { time } else { value }
}

impl Demux {
    pub(super) fn lead(&self) -> Option<&Stream> {
        self.program.as_ref()?.lead()
    }

    pub(super) fn latest_tables(&self) -> Bytes {
        if self.program.is_none() {
            return Bytes::new();
        }
        [self.pat.packets.as_slice(), &self.pmt.packets].concat().into()
    }

    #[inline]
    pub(super) fn packet(&mut self, packet: &Packet, offset: u64, found: &mut impl FnMut(Found)) {
        if !self.goes_on(packet) {
            self.other_packet(packet, offset, found);
        }
    }

    /// True for a packet that is just the next one of its unit, with nothing but payload.
    #[inline]
    fn goes_on(&mut self, packet: &Packet) -> bool {
        let [_, high, low, control, ..] = *packet;
        let number = usize::from(u16::from_be_bytes([high, low]) & 0x1fff);
        let Some(pid) = self.pids.get_mut(number) else {
            return false;
        };
        let unit_start = if high & 0x40 != 0 { STARTS } else { 0 };
        let before = control.wrapping_sub(1) & COUNTER;
        let follows = *pid & (COUNTER | SEEN | WATCHED | unit_start) == before | SEEN;
        if high & 0x80 != 0 || control & 0x30 != 0x10 || !follows {
            return false;
        }
        *pid = (*pid & !COUNTER) | control & COUNTER;
        self.run = None;
        true
    }

    #[cold]
    fn other_packet(&mut self, packet: &Packet, offset: u64, found: &mut impl FnMut(Found)) {
        let Some(head) = PacketHead::parse(packet) else {
            return found(Found::Fault { offset, fault: Fault::BadPacket });
        };
        if self.pids.is_empty() {
            self.pids = vec![0; PIDS];
            self.watch();
        }
        if head.pid == PID_NULL {
            return;
        }
        if head.discontinuity && self.keeps_time(head.pid) {
            self.clock.announced = true;
        }
        if !head.has_payload() {
            return;
        }
        let repeated = self.count(&head, offset, found);
        if head.pid == PID_PAT {
            self.pat_packet(packet, &head, offset, found);
        } else if self.chosen.is_some_and(|chosen| chosen.pmt_pid == head.pid) {
            self.pmt_packet(packet, &head, offset, found);
        } else if let Some(index) = self.splices.iter().position(|splice| splice.0 == head.pid) {
            if !repeated {
                self.splice_packet(packet, &head, (offset, index), found);
            }
        } else if head.pid > PID_TABLES_LAST {
            let run = self.run.take().filter(|run| run.has_pmt);
            self.stream_packet(packet, &head, (offset, run, repeated), found);
        }
    }

    fn keeps_time(&self, pid: u16) -> bool {
        let program = self.program.as_ref();
        let lead = program.and_then(|program| program.lead());
        program.is_some_and(|program| program.pcr_pid == pid)
            || lead.is_some_and(|lead| lead.pid == pid)
    }

    /// Follows the continuity counter (2.4.3.3). True: the counter is that of the packet before, so
    /// this may be the same packet again.
    fn count(&mut self, head: &PacketHead, offset: u64, found: &mut impl FnMut(Found)) -> bool {
        let Some(pid) = self.pids.get_mut(usize::from(head.pid)) else {
            return false;
        };
        let seen = *pid & SEEN != 0;
        let step = head.continuity.wrapping_sub(*pid & COUNTER) & COUNTER;
        *pid = (*pid & !COUNTER) | head.continuity | SEEN;
        if !seen || head.discontinuity {
            return false;
        }
        if step > 1 {
            let fault = Fault::Continuity { pid: head.pid, lost: step - 1 };
            found(Found::Fault { offset, fault });
        }
        step == 0
    }

    fn pat_packet(
        &mut self,
        packet: &Packet,
        head: &PacketHead,
        offset: u64,
        found: &mut impl FnMut(Found),
    ) {
        if head.unit_start && self.run.is_none() {
            self.run = Some(Run { offset, has_pat: false, has_pmt: false });
        }
        let progress = self.pat.packet(packet, head, |_| true);
        if let Some(run) = &mut self.run {
            run.has_pat |= matches!(progress, Progress::Repeated | Progress::Changed);
        }
        match progress {
            Progress::Damaged => {
                found(Found::Fault { offset, fault: Fault::BadSection { pid: head.pid } });
            }
            Progress::Changed => {
                let chosen = read_pat(&self.pat.section);
                if chosen != self.chosen {
                    self.chosen = chosen;
                    self.pmt = Table::default();
                    self.program = None;
                    self.watch();
                } else if self.program.is_some() {
                    self.take_program((offset, false), found);
                }
            }
            Progress::None | Progress::Repeated => {}
        }
    }

    fn pmt_packet(
        &mut self,
        packet: &Packet,
        head: &PacketHead,
        offset: u64,
        found: &mut impl FnMut(Found),
    ) {
        // Several programs may share a PID; only ours counts.
        let number = self.chosen.map_or(0, |chosen| chosen.number);
        if head.unit_start {
            self.pmt_offset = offset;
        }
        let progress = self.pmt.packet(packet, head, |section| u16_of(section, 3) == number);
        if let Some(run) = &mut self.run {
            let complete = matches!(progress, Progress::Repeated | Progress::Changed);
            run.has_pmt |= run.has_pat && complete;
        }
        match progress {
            Progress::Damaged => {
                found(Found::Fault { offset, fault: Fault::BadSection { pid: head.pid } });
            }
            Progress::Changed => {
                let run = self.run.filter(|run| run.has_pmt);
                let place = run.map_or((self.pmt_offset, false), |run| (run.offset, true));
                self.take_program(place, found);
            }
            Progress::None | Progress::Repeated => {}
        }
    }

    /// Makes the program anew from its tables; what is known of streams that stay is kept.
    fn take_program(&mut self, (offset, has_tables): (u64, bool), found: &mut impl FnMut(Found)) {
        self.tell_pending(false, found);
        let old = self.program.take();
        let mut old_probes = std::mem::take(&mut self.probes);
        let mut streams = Vec::new();
        for (mut stream, coding) in program::read_streams(&self.pmt.section) {
            let mut probe = Probe::new(coding);
            let old_streams = old.iter().flat_map(|old| old.streams.iter());
            for (old_stream, old_probe) in old_streams.zip(&mut old_probes) {
                let same = (old_stream.pid, old_probe.coding) == (stream.pid, coding);
                if same && old_stream.stream_type == stream.stream_type {
                    std::mem::swap(&mut probe, old_probe);
                }
            }
            if let Some(details) = probe.details() {
                details.write(&mut stream);
            }
            streams.push(stream);
            self.probes.push(probe);
        }
        if let (Some(lead), Some(chosen)) = (program::lead_of(&streams), self.chosen) {
            let program = Arc::new(Program {
                number: chosen.number,
                pmt_pid: chosen.pmt_pid,
                pcr_pid: u16_of(&self.pmt.section, 8) & 0x1fff,
                tables: [self.pat.packets.as_slice(), &self.pmt.packets].concat().into(),
                streams,
                lead,
            });
            self.program = Some(Arc::clone(&program));
            found(Found::Program { offset, has_tables, program });
        }
        self.says_random_access = false;
        self.streams_told = false;
        self.probed_since = None;
        self.watch();
        self.tell_streams(false, found);
    }

    /// Notes for each PID whether its packets are of interest.
    fn watch(&mut self) {
        let streams = self.program.as_ref().map_or(&[][..], |program| &program.streams);
        let is_splice = |stream: &&Stream| stream.stream_type == STREAM_TYPE_SPLICE;
        self.splices.retain(|splice| streams.iter().any(|stream| stream.pid == splice.0));
        for stream in streams.iter().filter(is_splice) {
            if !self.splices.iter().any(|splice| splice.0 == stream.pid) {
                self.splices.push((stream.pid, Collector::default()));
            }
        }
        for pid in &mut self.pids {
            *pid &= COUNTER | SEEN;
        }
        let mut set = |pid: u16, flag: u8| {
            if let Some(pid) = self.pids.get_mut(usize::from(pid)) {
                *pid |= flag;
            }
        };
        (0..=PID_TABLES_LAST).for_each(|pid| set(pid, WATCHED));
        set(PID_NULL, WATCHED);
        self.chosen.iter().for_each(|chosen| set(chosen.pmt_pid, WATCHED));
        streams.iter().for_each(|stream| set(stream.pid, STARTS));
        self.splices.iter().for_each(|splice| set(splice.0, WATCHED));
        for (stream, probe) in streams.iter().zip(&self.probes) {
            if probe.is_looking() {
                set(stream.pid, WATCHED);
            }
        }
    }

    fn splice_packet(
        &mut self,
        packet: &Packet,
        head: &PacketHead,
        (offset, index): (u64, usize),
        found: &mut impl FnMut(Found),
    ) {
        let collector = self.splices.get_mut(index).map(|splice| &mut splice.1);
        let bytes_max = PRIVATE_SECTION_BYTES_MAX;
        let Some(section) = collector.and_then(|one| one.packet(packet, head, bytes_max)) else {
            return;
        };
        // The same stream type means a sound of Blu-ray discs.
        if section.first() != Some(&SPLICE_TABLE_ID) {
            return;
        }
        if crc32(section) != 0 {
            let fault = Fault::BadSection { pid: head.pid };
            return found(Found::Fault { offset, fault });
        }
        let section = section.to_vec();
        if self.clock.dts.is_some() {
            found(Found::Splice { section, pts: self.clock.pts });
        } else if self.early_splices.len() < EARLY_SPLICES_MAX {
            self.early_splices.push(section);
        }
    }

    fn stream_packet(
        &mut self,
        packet: &Packet,
        head: &PacketHead,
        (offset, run, repeated): (u64, Option<Run>, bool),
        found: &mut impl FnMut(Found),
    ) {
        let Some(program) = &self.program else {
            return;
        };
        let Some(index) = program.streams.iter().position(|stream| stream.pid == head.pid) else {
            return;
        };
        let is_lead = program.lead == index;
        if is_lead && head.unit_start {
            if repeated && self.is_last_unit(packet) {
                return;
            }
            if repeated {
                // Another unit under the old counter: so many are missing that it came round.
                let fault = Fault::Continuity { pid: head.pid, lost: COUNTER };
                found(Found::Fault { offset, fault });
            }
            self.unit(packet, head, (offset, run), found);
        } else if repeated {
            return;
        }
        self.look(packet, head, (index, is_lead), found);
    }

    /// The packet begins the unit that was begun last.
    fn is_last_unit(&self, packet: &Packet) -> bool {
        let time = pes_times(packet).decode_time();
        time.is_none() || time == self.clock.dts.map(|dts| dts % CLOCK_WRAP)
    }

    fn unit(
        &mut self,
        packet: &Packet,
        head: &PacketHead,
        (offset, run): (u64, Option<Run>),
        found: &mut impl FnMut(Found),
    ) {
        self.tell_pending(false, found);
        let is_video = self.lead().is_some_and(|lead| lead.kind == StreamKind::Video);
        let random_access = head.random_access || !is_video;
        self.says_random_access |= head.random_access;
        let times = pes_times(packet);
        let (Some(dts), Some(pts)) = (times.decode_time(), times.pts) else {
            return found(Found::Untimed { packet_offset: offset, random_access });
        };
        let (dts, jump) = self.clock.advance(dts, pts);
        if let Some(fault) = jump {
            // Another encoder may be at work, with other habits.
            self.says_random_access = head.random_access;
            found(Found::Fault { offset, fault });
        }
        let unit = Found::Unit {
            offset: run.map_or(offset, |run| run.offset),
            packet_offset: offset,
            dts,
            pts: self.clock.pts,
            random_access,
            has_tables: run.is_some(),
        };
        if random_access || self.says_random_access {
            found(unit);
        } else {
            self.pending = Some(unit);
        }
        for section in self.early_splices.drain(..) {
            found(Found::Splice { section, pts: self.clock.pts });
        }
        let since = *self.probed_since.get_or_insert(dts);
        self.tell_streams(dts.saturating_sub(since) > PROBE_TICKS_MAX, found);
    }

    fn tell_pending(&mut self, key: bool, found: &mut impl FnMut(Found)) {
        let Some(mut unit) = self.pending.take() else {
            return;
        };
        if let Found::Unit { random_access, .. } = &mut unit {
            *random_access = key;
        }
        found(unit);
    }

    /// Looks into the stream, if there is something to find out.
    fn look(
        &mut self,
        packet: &Packet,
        head: &PacketHead,
        (index, is_lead): (usize, bool),
        found: &mut impl FnMut(Found),
    ) {
        let Some(probe) = self.probes.get_mut(index) else {
            return;
        };
        let look = if head.unit_start {
            let telling = head.random_access || is_lead && self.pending.is_some();
            let Some(payload) = pes_payload(packet, head) else {
                return self.tell_pending(false, found);
            };
            if !probe.is_curious(telling) {
                if is_lead {
                    self.tell_pending(false, found);
                }
                return;
            }
            probe.begin(payload)
        } else if probe.is_looking() {
            probe.more(packet.get(head.payload_at..).unwrap_or_default())
        } else {
            return;
        };
        if let Some(pid) = self.pids.get_mut(usize::from(head.pid)) {
            *pid = if probe.is_looking() { *pid | WATCHED } else { *pid & !WATCHED };
        }
        if let Look::Finished { key, news } = look {
            if is_lead {
                self.tell_pending(key, found);
            }
            if news {
                self.take_details(index, found);
            }
        }
    }

    fn take_details(&mut self, index: usize, found: &mut impl FnMut(Found)) {
        let details = self.probes.get(index).and_then(|probe| probe.details());
        let program = self.program.as_mut().map(Arc::make_mut);
        let stream = program.and_then(|program| program.streams.get_mut(index));
        if let (Some(details), Some(stream)) = (details, stream) {
            details.write(stream);
        }
        let again = std::mem::take(&mut self.streams_told);
        self.tell_streams(again, found);
    }

    /// Tells what is known of the streams, once it is all or nobody waits any longer.
    fn tell_streams(&mut self, no_longer: bool, found: &mut impl FnMut(Found)) {
        let Some(program) = &self.program else {
            return;
        };
        if !self.streams_told && (no_longer || self.probes.iter().all(Probe::is_done)) {
            self.streams_told = true;
            found(Found::Streams(Arc::clone(program)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::mpegts::test_streams::{
        AUDIO_PID, PMT_PID, SPLICE_PID, VIDEO_PID, null, packet, packets_of, pat, pes, pes_with,
        pmt, pmt_with, scan, stream,
    };
    use crate::wire::mpegts::{StreamKind, TsScanner};

    /// SCTE 35, 14.2.
    const SPLICE: &[u8] = b"\xfc\x30\x2f\x00\x00\x00\x00\x00\x00\xff\xff\xf0\x14\x05\x48\x00\x00\
        \x8f\x7f\xef\xfe\x73\x69\xc0\x2e\xfe\x00\x52\xcc\xf5\x00\x00\x00\x00\x00\x0a\x00\x08\x43\
        \x55\x45\x49\x00\x00\x01\x35\x62\xdb\xa3\x0a";
    /// x264, 1280x720, 25 pictures in a second.
    const SET: &[u8] = b"\0\0\0\x01\x67\x42\xc0\x1f\xda\x01\x40\x16\xec\x04\x40\x00\x00\x03\x00\
        \x40\x00\x00\x0c\x83\xc6\x0c\xa8";
    const IDR: &[u8] = &[0, 0, 1, 0x65, 0x88];
    const SLICE: &[u8] = &[0, 0, 1, 0x41, 0x9a];
    const ADTS: &[u8] = &[0xff, 0xf1, 0x4c, 0x80, 0x01, 0x7f, 0xfc, 0x21];

    fn faults(found: &[Found]) -> Vec<(u64, Fault)> {
        let fault = |found: &Found| match found {
            Found::Fault { offset, fault } => Some((*offset / 188, *fault)),
            _ => None,
        };
        found.iter().filter_map(fault).collect()
    }

    /// Offset and packet offset in packets, DTS, random access.
    fn units(found: &[Found]) -> Vec<(u64, u64, u64, bool)> {
        let unit = |found: &Found| match found {
            &Found::Unit { offset, packet_offset, dts, random_access, has_tables, .. } => {
                assert_eq!(has_tables, offset != packet_offset);
                Some((offset / 188, packet_offset / 188, dts, random_access))
            }
            _ => None,
        };
        found.iter().filter_map(unit).collect()
    }

    fn video(streams: &[Vec<u8>]) -> Vec<Found> {
        let tables = [pat(), pmt(&[(0x1b, VIDEO_PID)])].concat();
        scan(&[tables, streams.concat()].concat(), 1000)
    }

    #[test]
    fn tables_and_pictures_are_told() {
        let stream = stream();
        let found = scan(&stream, stream.len());
        let Found::Program { program, offset: 0, has_tables: true } = &found[0] else {
            panic!("the program comes first");
        };
        assert_eq!(program.tables, stream[..376]);
        assert_eq!((program.number, program.pmt_pid, program.pcr_pid), (9, PMT_PID, VIDEO_PID));
        assert_eq!(program.lead().map(|lead| lead.kind), Some(StreamKind::Video));
        let (dts, pts) = (9000, 12600);
        let first = Found::Unit {
            offset: 0,
            packet_offset: 376,
            dts: 5400,
            pts: 9000,
            random_access: true,
            has_tables: true,
        };
        let second = Found::Unit {
            offset: 940,
            packet_offset: 940,
            dts,
            pts,
            random_access: false,
            has_tables: false,
        };
        assert_eq!(found[1..], [first, second]);
    }

    #[test]
    fn a_run_of_tables_belongs_to_the_unit_behind_it() {
        let (tables, sdt) = (pmt(&[(0x1b, VIDEO_PID)]), packets_of(0x11, &[0x42; 90]));
        let pcr_only = packet(VIDEO_PID, false, 1, &[0x10, 0, 0, 0, 0, 0, 0], &[]).to_vec();
        let picture = |counter: u8| {
            let dts = u64::from(counter) * 3600;
            pes(VIDEO_PID, true, counter, dts, dts).to_vec()
        };
        let other = packet(AUDIO_PID, false, 0, &[], &[1; 184]).to_vec();
        let head = || vec![sdt.clone(), pat(), null(), tables.clone(), null()];
        let pieces = [
            [head(), vec![picture(1)]].concat(),
            [head(), vec![pcr_only, picture(2)]].concat(),
            [head(), vec![other, picture(3)]].concat(),
            // Without the PAT, and in the wrong order, they are of no use to a joiner.
            vec![tables.clone(), picture(4), tables.clone(), pat(), picture(5)],
        ];
        let found = scan(&pieces.concat().concat(), 999);
        let starts: Vec<_> = units(&found).iter().map(|unit| (unit.0, unit.1)).collect();
        assert_eq!(starts, [(1, 5), (7, 12), (19, 19), (21, 21), (24, 24)]);
        assert_eq!(faults(&found), []);
    }

    #[test]
    fn tables_are_told_again_only_when_they_change() {
        let audio = pmt(&[(0x0f, AUDIO_PID)]);
        let sound = pes(AUDIO_PID, false, 1, 1, 1).to_vec();
        let stream = [stream(), stream(), pat(), audio.clone(), sound].concat();
        let found = scan(&stream, 100);
        let programs: Vec<_> = found
            .iter()
            .filter_map(|found| match found {
                Found::Program { program, offset, .. } => Some((program, *offset)),
                _ => None,
            })
            .collect();
        assert_eq!(programs.len(), 2);
        let (program, offset) = &programs[1];
        assert_eq!(program.tables, [pat(), audio].concat());
        assert_eq!(*offset, 12 * 188, "where the PAT stands before the new PMT");
        assert_ne!(program.layout(), programs[0].0.layout());
        // Without pictures every unit of sound is a place to join.
        assert!(units(&found).last().is_some_and(|unit| unit.3));
    }

    #[test]
    fn a_new_version_in_flight_keeps_what_is_known() {
        let key =
            |counter, dts| pes_with(VIDEO_PID, 0x40, counter, (dts, dts), &[SET, IDR].concat());
        let german = [0x0a, 4, b'd', b'e', b'u', 0];
        let more = pmt_with(1, &[(0x1b, VIDEO_PID, &[]), (0x0f, AUDIO_PID, &german)]);
        let sound = pes_with(AUDIO_PID, 0, 0, (900, 900), ADTS).to_vec();
        let found = video(&[key(0, 900).to_vec(), more, sound, key(1, 1800).to_vec()]);
        let streams: Vec<_> = found
            .iter()
            .filter_map(|found| match found {
                Found::Streams(program) => Some(&program.streams),
                _ => None,
            })
            .collect();
        assert_eq!(streams.len(), 2);
        assert_eq!((streams[0].len(), streams[1].len()), (1, 2));
        let (first, second) = (&streams[1][0], &streams[1][1]);
        assert_eq!(first, &streams[0][0]);
        assert_eq!(first.codec.as_deref(), Some("avc1.42C01F"));
        assert_eq!((first.width, first.height, first.frame_rate), (1280, 720, Some(25.0)));
        assert_eq!(second.codec.as_deref(), Some("mp4a.40.2"));
        assert_eq!((second.channels, second.sample_rate), (2, 48_000));
        assert_eq!(second.language.as_deref(), Some("deu"));
        assert_eq!(units(&found).len(), 2);
    }

    #[test]
    fn streams_are_told_without_those_that_do_not_come() {
        let tables = [pat(), pmt(&[(0x1b, VIDEO_PID), (0x0f, AUDIO_PID)])].concat();
        let mut stream = tables;
        for counter in 0..100_u8 {
            let dts = u64::from(counter) * 3600;
            stream.extend(pes_with(VIDEO_PID, 0x40, counter, (dts, dts), &[SET, IDR].concat()));
        }
        let found = scan(&stream, 188);
        let told = found.iter().filter(|found| matches!(found, Found::Streams(_)));
        assert_eq!(told.count(), 1);
    }

    #[test]
    fn a_table_may_span_packets() {
        let descriptors = [0; 200];
        let streams = [(0x0f, AUDIO_PID, &descriptors[..]), (0x1b, VIDEO_PID, &descriptors)];
        let tables = [pat(), pmt_with(0, &streams)].concat();
        assert_eq!(tables.len(), 4 * 188);
        let stream = [tables.clone(), pes(VIDEO_PID, true, 0, 1, 1).to_vec()].concat();
        let found = scan(&stream, 61);
        assert!(matches!(&found[0], Found::Program { program, .. } if program.tables == tables));
        assert_eq!(units(&found), [(0, 4, 1, true)]);
    }

    #[test]
    fn damaged_tables_are_ignored() {
        let mut stream = stream();
        stream[188 + 20] ^= 1;
        assert_eq!(faults(&scan(&stream, 188)), [(1, Fault::BadSection { pid: PMT_PID })]);
        assert_eq!(scan(&stream, 188).len(), 1);
    }

    #[test]
    fn the_newest_tables_keep_their_counters() {
        let mut scanner = TsScanner::new();
        assert!(scanner.latest_tables().is_empty());
        scanner.push(&stream(), &mut |_| {});
        let mut again = [pat(), pmt(&[(0x0f, AUDIO_PID), (0x1b, VIDEO_PID)])].concat();
        again[3] |= 1;
        again[188 + 3] |= 1;
        scanner.push(&again, &mut |found| panic!("{found:?} is not new"));
        assert_eq!(scanner.latest_tables(), again);
    }

    #[test]
    fn clocks_count_on_over_the_wrap() {
        let last = CLOCK_WRAP - 1800;
        let pictures = [(0, last), (1, 1800), (2, 5400)];
        let pictures = pictures.map(|(counter, dts)| {
            let pts = (dts + 7200) % CLOCK_WRAP;
            pes(VIDEO_PID, counter == 0, counter, pts, dts).to_vec()
        });
        let found = video(&pictures);
        assert_eq!(faults(&found), []);
        let times: Vec<_> = found
            .iter()
            .filter_map(|found| match found {
                Found::Unit { dts, pts, .. } => Some((*dts - last, *pts - last)),
                _ => None,
            })
            .collect();
        assert_eq!(times, [(0, 7200), (3600, 10800), (7200, 14400)]);
    }

    #[test]
    fn jumps_of_the_clock_are_faults() {
        let times = [0, 3600, 3600 + 11 * CLOCK_HZ, 3600, 7200 + 2 * CLOCK_HZ];
        let pictures = times.iter().enumerate().map(|(index, &dts)| {
            let flags = if index == 4 { 0xc0 } else { 0x40 };
            pes_with(VIDEO_PID, flags, index as u8, (dts, dts), &[1; 9]).to_vec()
        });
        let found = video(&pictures.collect::<Vec<_>>());
        let jump = |from, to, announced| Fault::ClockJump { from, to, announced };
        let expected = [
            (4, jump(times[1], times[2], false)),
            (5, jump(times[2], times[3], false)),
            (6, jump(times[3], times[4], true)),
        ];
        assert_eq!(faults(&found), expected);
        assert!(units(&found).iter().map(|unit| unit.2).eq(times));
        // One that goes below zero is told as one of the turn after.
        let late = CLOCK_WRAP - 90;
        let pictures = [(0, 90), (1, late)]
            .map(|(counter, dts)| pes(VIDEO_PID, true, counter, dts, dts).to_vec());
        assert_eq!(faults(&video(&pictures)), [(3, jump(90, late, false))]);
    }

    #[test]
    fn counters_are_followed() {
        let next = |counter| packet(VIDEO_PID, false, counter, &[], &[1; 184]).to_vec();
        let empty = packet(VIDEO_PID, false, 3, &[0; 7], &[]).to_vec();
        let announced = packet(VIDEO_PID, false, 9, &[0x80], &[1; 100]).to_vec();
        let picture = |counter, dts| pes(VIDEO_PID, true, counter, dts, dts).to_vec();
        let mut damaged = next(12);
        damaged[1] |= 0x80;
        let stream = [
            picture(2, 0),
            picture(2, 0),
            next(3),
            next(3),
            empty,
            next(6),
            announced,
            next(10),
            picture(10, 3600),
            damaged,
        ];
        let found = video(&stream);
        let expected = [
            (7, Fault::Continuity { pid: VIDEO_PID, lost: 2 }),
            (10, Fault::Continuity { pid: VIDEO_PID, lost: 15 }),
            (11, Fault::BadPacket),
        ];
        assert_eq!(faults(&found), expected);
        assert_eq!(units(&found), [(0, 2, 0, true), (10, 10, 3600, true)]);
    }

    #[test]
    fn pictures_to_begin_with_are_found_where_they_are_not_told() {
        let picture = |counter, data: &[u8]| {
            let dts = u64::from(counter) * 3600;
            pes_with(VIDEO_PID, 0, counter, (dts, dts), data).to_vec()
        };
        // A start code across two packets, behind much else.
        let cut = 150;
        let long = [SET, &[9; 300], &[0, 0, 1, 6], &[9; 200], IDR].concat();
        let rest = &long[cut..];
        let at = rest.len() - 3;
        let second = [
            picture(3, &long[..cut]),
            packet(VIDEO_PID, false, 4, &[], &rest[..at - 170 * 2]).to_vec(),
            packet(VIDEO_PID, false, 5, &[], &rest[at - 340..at - 170]).to_vec(),
            packet(VIDEO_PID, false, 6, &[], &rest[at - 170..at]).to_vec(),
            packet(VIDEO_PID, false, 7, &[], &rest[at..]).to_vec(),
        ]
        .concat();
        let pictures =
            [picture(1, &[SET, IDR].concat()), picture(2, SLICE), second, picture(8, SLICE)];
        let found = video(&pictures);
        assert_eq!(faults(&found), []);
        let keys: Vec<_> = units(&found).iter().map(|unit| (unit.1, unit.3)).collect();
        assert_eq!(keys, [(2, true), (3, false), (4, true), (9, false)]);
    }

    #[test]
    fn another_encoder_may_not_tell() {
        let times = [(0x40, 90_000, SLICE), (0, 93_600, IDR), (0, 0, IDR), (0, 3600, SLICE)];
        let pictures = times.iter().enumerate().map(|(index, &(flags, dts, data))| {
            pes_with(VIDEO_PID, flags, index as u8, (dts, dts), data).to_vec()
        });
        let found = video(&pictures.collect::<Vec<_>>());
        let keys: Vec<_> = units(&found).iter().map(|unit| unit.3).collect();
        assert_eq!(keys, [true, false, true, false]);
    }

    #[test]
    fn a_picture_without_slices_is_told_with_the_next() {
        let picture = |counter| pes(VIDEO_PID, false, counter, 9, 9).to_vec();
        let pieces = [[picture(0), picture(1)].concat(), picture(2)];
        assert_eq!(units(&video(&pieces[..1])).len(), 1);
        assert_eq!(units(&video(&pieces)).len(), 2);
    }

    #[test]
    fn splices_come_with_the_time_of_the_picture() {
        let tables = [pat(), pmt(&[(0x1b, VIDEO_PID), (0x86, SPLICE_PID)])].concat();
        let mut damaged = packets_of(SPLICE_PID, SPLICE);
        damaged[30] ^= 1;
        damaged[3] |= 2;
        let mut second = packets_of(SPLICE_PID, SPLICE);
        second[3] |= 1;
        let stream = [
            tables,
            packets_of(SPLICE_PID, SPLICE),
            pes(VIDEO_PID, true, 0, 9000, 5400).to_vec(),
            second,
            damaged,
        ];
        let found = scan(&stream.concat(), 55);
        let splice = Found::Splice { section: SPLICE.to_vec(), pts: 9000 };
        assert_eq!(found.iter().filter(|&found| *found == splice).count(), 2);
        assert_eq!(faults(&found), [(5, Fault::BadSection { pid: SPLICE_PID })]);
        // The one before the first picture does not part it from its tables.
        assert_eq!(units(&found), [(0, 3, 5400, true)]);
    }

    #[test]
    fn units_without_a_time_are_told_apart() {
        let mut scrambled = pes(VIDEO_PID, true, 0, 1, 1);
        scrambled[3] |= 0x80;
        let found = video(&[scrambled.to_vec()]);
        let expected = Found::Untimed { packet_offset: 376, random_access: true };
        assert_eq!(found.last(), Some(&expected));
    }
}
