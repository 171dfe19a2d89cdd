//! A file as if it were sent: packets go out when their clock says so (PCR, ISO/IEC 13818-1 2.4.2.2).

use std::io;

use tokio::fs::File;
use tokio::io::AsyncReadExt;
use tokio::time::{Duration, Instant, sleep_until};

use super::upstream::Received;
use crate::wire::mpegts::{CLOCK_HZ, CLOCK_WRAP, PACKET_BYTES, PacketAligner, PacketHead, pcr};

/// Read at once.
const READ_BYTES: usize = 64 << 10;
/// Clocks that differ by more have begun anew.
const LEAP_TICKS: u64 = 10 * CLOCK_HZ;

pub(super) struct PacedFile {
    file: File,
    now: fn() -> std::time::Instant,
    aligner: PacketAligner,
    /// Whole packets that were read and not sent, from `at` on.
    packets: Vec<u8>,
    at: usize,
    clock: Option<Clock>,
}

/// Which time a value of the stream's clock is.
struct Clock {
    pid: u16,
    zero: Instant,
    first: u64,
    last: u64,
}

impl PacedFile {
    pub(super) fn new(file: File, now: fn() -> std::time::Instant) -> PacedFile {
        let (aligner, packets) = (PacketAligner::default(), Vec::new());
        PacedFile { file, now, aligner, packets, at: 0, clock: None }
    }

    pub(super) async fn receive(&mut self, out: &mut Vec<u8>) -> io::Result<Received> {
        loop {
            if self.at == self.packets.len() && !self.read().await? {
                return Ok(Received::End);
            }
            let now = (self.now)().into();
            let before = self.at;
            let due = self.pass(now);
            if self.at > before {
                out.extend_from_slice(&self.packets[before..self.at]);
                return Ok(Received::Bytes);
            }
            if let Some(due) = due {
                sleep_until(due).await;
            }
        }
    }

    /// False at the end of the file.
    async fn read(&mut self) -> io::Result<bool> {
        self.packets.clear();
        self.at = 0;
        let mut block = vec![0; READ_BYTES];
        while self.packets.is_empty() {
            let count = self.file.read(&mut block).await?;
            if count == 0 {
                return Ok(false);
            }
            let packets = &mut self.packets;
            self.aligner.push(&block[..count], &mut |run| packets.extend_from_slice(run));
        }
        Ok(true)
    }

    /// Move over the packets whose time has come; when that of the next one is.
    fn pass(&mut self, now: Instant) -> Option<Instant> {
        while let Some(packet) = self.packets[self.at..].first_chunk::<PACKET_BYTES>() {
            let pid = PacketHead::parse(packet).map(|head| head.pid);
            if let (Some(pid), Some(ticks)) = (pid, pcr(packet))
                && let Some(due) = self.due(pid, ticks, now)
                && due > now
            {
                return Some(due);
            }
            self.at += PACKET_BYTES;
        }
        None
    }

    fn due(&mut self, pid: u16, ticks: u64, now: Instant) -> Option<Instant> {
        let begin = Clock { pid, zero: now, first: ticks, last: ticks };
        let clock = self.clock.get_or_insert(begin);
        if clock.pid != pid {
            return None;
        }
        let since = |from: u64| ticks.wrapping_sub(from) & (CLOCK_WRAP - 1);
        if since(clock.last) > LEAP_TICKS {
            *clock = Clock { pid, zero: now, first: ticks, last: ticks };
        }
        clock.last = ticks;
        let passed = Duration::from_micros(since(clock.first).saturating_mul(1_000_000) / CLOCK_HZ);
        Some(clock.zero + passed)
    }
}
