//! Blocking playlist reload: the delivery directives of RFC 8216bis §6.2.5, without any waiting.

/// A held request is refused after so many target durations (§6.2.5.2).
pub(super) const HOLD_TARGET_DURATIONS: u64 = 3;

/// The directives of one request. Others (CMCD, tokens, `_HLS_pathway`) are not ours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Directives {
    pub(super) msn: Option<u64>,
    pub(super) part: Option<u64>,
    pub(super) skip: Option<Skip>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    Segments,
    /// `v2`: date ranges too.
    Dateranges,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ReloadError {
    #[error("_HLS_msn and _HLS_part are decimal numbers")]
    NotANumber,
    #[error("_HLS_part needs _HLS_msn")]
    PartAlone,
    #[error("_HLS_msn or _HLS_part lies too far in the future")]
    TooFar,
}

impl Directives {
    pub(super) fn of(query: Option<&str>) -> Result<Directives, ReloadError> {
        let mut found = Directives::default();
        let pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
        for (key, value) in pairs {
            match key {
                "_HLS_msn" => found.msn = Some(number(value)?),
                "_HLS_part" => found.part = Some(number(value)?),
                "_HLS_skip" => {
                    found.skip = match value {
                        "YES" => Some(Skip::Segments),
                        "v2" => Some(Skip::Dateranges),
                        _ => found.skip,
                    };
                }
                _ => {}
            }
        }
        if found.part.is_some() && found.msn.is_none() {
            return Err(ReloadError::PartAlone);
        }
        Ok(found)
    }

    pub(super) fn is_blocking(&self) -> bool {
        self.msn.is_some()
    }
}

fn number(value: &str) -> Result<u64, ReloadError> {
    let is_number = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    value.parse().ok().filter(|_| is_number).ok_or(ReloadError::NotANumber)
}

/// What a playlist lists at its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Edge {
    /// Number behind the last complete segment.
    pub(super) next_msn: u64,
    /// Parts listed of that next segment.
    pub(super) open_parts: u64,
    pub(super) part_target_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Now,
    Wait,
}

impl Edge {
    /// May the request be answered, must it wait, or is it refused? `parts_of` knows how many parts
    /// a complete segment has, if that is still listed.
    pub(super) fn judge(
        &self,
        directives: &Directives,
        parts_of: impl Fn(u64) -> Option<u64>,
    ) -> Result<Verdict, ReloadError> {
        let Some(mut msn) = directives.msn else { return Ok(Verdict::Now) };
        let mut part = directives.part;
        // "Greater than the last part of a finished segment" is part 0 of the next (§6.2.5.2); one
        // without parts is there as a whole.
        if msn < self.next_msn
            && let Some(wanted) = part
            && parts_of(msn).is_some_and(|count| count > 0 && wanted >= count)
        {
            msn += 1;
            part = Some(0);
        }
        let is_there = match part {
            None => msn < self.next_msn,
            Some(wanted) => msn < self.next_msn || msn == self.next_msn && wanted < self.open_parts,
        };
        if is_there {
            return Ok(Verdict::Now);
        }
        let last_listed = self.next_msn.saturating_sub(1);
        let is_far_part = part.is_some_and(|wanted| {
            let listed = if msn == self.next_msn { self.open_parts } else { 0 };
            wanted >= listed + self.advance_parts_max()
        });
        if msn > last_listed + 2 || is_far_part {
            Err(ReloadError::TooFar)
        } else {
            Ok(Verdict::Wait)
        }
    }

    /// The Advance Part Limit.
    fn advance_parts_max(&self) -> u64 {
        match self.part_target_ms {
            Some(target_ms) if (1..1000).contains(&target_ms) => 3000u64.div_ceil(target_ms),
            _ => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EDGE: Edge = Edge { next_msn: 100, open_parts: 3, part_target_ms: Some(200) };

    fn judge(msn: u64, part: Option<u64>) -> Result<Verdict, ReloadError> {
        let directives = Directives { msn: Some(msn), part, skip: None };
        EDGE.judge(&directives, |msn| (msn >= 95).then_some(10))
    }

    #[test]
    fn directives_come_in_any_order() {
        let found = Directives::of(Some("CMCD=a&_HLS_skip=v2&_HLS_part=3&_HLS_msn=7&x")).unwrap();
        let expected = Directives { msn: Some(7), part: Some(3), skip: Some(Skip::Dateranges) };
        assert_eq!(found, expected);
        assert_eq!(Directives::of(None), Ok(Directives::default()));
        assert_eq!(Directives::of(Some("_HLS_part=1")), Err(ReloadError::PartAlone));
        for wrong in ["_HLS_msn=", "_HLS_msn=-1", "_HLS_msn=+1", "_HLS_msn=1&_HLS_part=x"] {
            assert_eq!(Directives::of(Some(wrong)), Err(ReloadError::NotANumber), "{wrong}");
        }
    }

    #[test]
    fn what_is_listed_is_answered_at_once() {
        for (msn, part) in [(5, None), (99, None), (99, Some(9)), (100, Some(2)), (5, Some(99))] {
            assert_eq!(judge(msn, part), Ok(Verdict::Now), "{msn} {part:?}");
        }
    }

    #[test]
    fn what_comes_next_waits() {
        for (msn, part) in
            [(100, None), (101, None), (100, Some(3)), (100, Some(17)), (101, Some(0))]
        {
            assert_eq!(judge(msn, part), Ok(Verdict::Wait), "{msn} {part:?}");
        }
    }

    /// A part behind the last of a finished segment is part 0 of the next one.
    #[test]
    fn a_part_too_many_rolls_over() {
        assert_eq!(judge(99, Some(10)), Ok(Verdict::Now));
        let empty = Edge { open_parts: 0, ..EDGE };
        let directives = Directives { msn: Some(99), part: Some(10), skip: None };
        assert_eq!(empty.judge(&directives, |_| Some(10)), Ok(Verdict::Wait));
    }

    #[test]
    fn the_far_future_is_refused() {
        for (msn, part) in [(102, None), (1000, None), (100, Some(18)), (101, Some(15))] {
            assert_eq!(judge(msn, part), Err(ReloadError::TooFar), "{msn} {part:?}");
        }
    }
}
