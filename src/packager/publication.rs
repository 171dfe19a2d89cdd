//! Publications: one for each run of an encoder. When one begins, where its clock stands, and what it is
//! called; the names of two never agree, unless two origins get the same epoch-locked push.

use std::sync::Arc;

use super::naming::base36;
use super::point::State;
use super::track::{ChunkHead, LOCKED_US, Micros, Publication, Track};
use crate::store::Millis;

/// Clocks that differ by more belong to different runs of an encoder.
const SAME_CLOCK_US: Micros = 10_000_000;
/// A producer reference time further from our clock is not believed: half a day.
const PRODUCER_CLOCK_US_MAX: Micros = 43_200_000_000;

/// Wall time of media time 0, as the first chunk of a publication shows it.
pub(super) fn zero_of(track: &Track, head: &ChunkHead) -> Micros {
    let time_us = track.to_us(head.time);
    if (time_us - head.arrived_us).abs() < LOCKED_US {
        return 0;
    }
    let arrived_us = head.arrived_us - time_us - track.to_us(head.duration);
    // Some encoders write media time where the time of day belongs.
    let is_plausible = |zero_us: &Micros| (zero_us - arrived_us).abs() < PRODUCER_CLOCK_US_MAX;
    head.zero_us.filter(is_plausible).unwrap_or(arrived_us)
}

/// The publication that a chunk begins: the one that another track has begun since, if the clocks
/// agree, or a new one.
pub(super) fn publication_for(
    state: &mut State,
    index: usize,
    head: &ChunkHead,
    now_ms: Millis,
) -> Arc<Publication> {
    let track = &state.entries[index].track;
    let zero_us = zero_of(track, head);
    let own_run = track.publication.as_ref().map_or(0, |publication| publication.run);
    let init_digest = track.init.as_ref().map_or(0, |init| init.digest);
    let others = state.entries.iter().filter_map(|entry| entry.track.publication.as_ref());
    let joined = others
        .filter(|other| other.run > own_run && (other.zero_us - zero_us).abs() < SAME_CLOCK_US)
        .max_by_key(|other| other.run)
        .cloned();
    let (run, zero_us, stem) = match joined {
        Some(other) => (other.run, other.zero_us, other.stem.clone()),
        None => {
            // Dates never run backwards, however fast the encoder before was.
            let listed_end =
                track.listed().next_back().map(|last| last.wall_us() + last.duration_us());
            let earliest_us = listed_end.map_or(zero_us, |end_us| end_us - track.to_us(head.time));
            let zero_us = if zero_us == 0 { 0 } else { zero_us.max(earliest_us) };
            state.runs += 1;
            let track = &mut state.entries[index].track;
            let was_locked = track.is_locked();
            let announced = track.next_epoch.take().filter(|_| zero_us != 0 && !was_locked);
            let stem = announced.unwrap_or_else(|| state.new_stem(now_ms));
            (state.runs, zero_us, stem)
        }
    };
    // The names of an epoch-locked push are the same on every origin that receives it.
    let is_locked = zero_us == 0;
    let epoch = if is_locked { locked_epoch(init_digest).into() } else { Arc::clone(&stem) };
    Arc::new(Publication { run, epoch, stem, zero_us })
}

/// The names of an epoch-locked publication follow from what is pushed alone.
pub(super) fn locked_epoch(init_digest: u64) -> String {
    format!("e{}", base36(init_digest >> 24))
}

impl State {
    /// A name that no publication has had.
    pub(super) fn new_stem(&mut self, now_ms: Millis) -> Arc<str> {
        self.stem_ms = now_ms.max(self.stem_ms + 1);
        base36(self.stem_ms).into()
    }

    /// The name of the publication that a new init segment begins: the one that other tracks were
    /// promised, or have begun already.
    pub(super) fn announced_stem(&mut self, index: usize, now_ms: Millis) -> Arc<str> {
        let own_run = self.entries[index].track.publication.as_ref().map_or(0, |own| own.run);
        let promised = self.entries.iter().filter(|entry| !entry.track.is_locked());
        if let Some(stem) = promised.filter_map(|entry| entry.track.next_epoch.clone()).next() {
            return stem;
        }
        let publications = self.entries.iter().filter_map(|entry| entry.track.publication.as_ref());
        let newest = publications.filter(|other| other.run > own_run && !other.is_locked());
        match newest.max_by_key(|other| other.run) {
            Some(newest) => newest.stem.clone(),
            None => self.new_stem(now_ms),
        }
    }
}
