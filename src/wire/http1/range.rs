//! The Range field (RFC 9110 §14), and its use on objects that still grow (RFC 8673).

/// More ranges in one request are not taken (RFC 9110 §14.2 lets a server ignore the field).
pub const RANGES_MAX: usize = 16;

/// 2^53 − 1: as last-byte-pos it asks to follow the object to its end (RFC 8673 §2.2).
pub const FOLLOW_LAST_BYTE: u64 = (1 << 53) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeSpec {
    /// First byte, and last byte if given.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Suffix(u64),
}

/// What a range field means for a sealed object of known length.
#[derive(Debug, PartialEq, Eq)]
pub enum Ranges {
    /// No usable range: answer with the whole.
    Whole,
    /// One or more `[start, end)`, none empty.
    Parts(Vec<(u64, u64)>),
    /// 416.
    Unsatisfiable,
}

/// The specs of a `bytes` range field; `None` if the field is to be ignored: another unit, bad
/// syntax, too many (RFC 9110 §14.2).
pub fn parse_range(value: &str) -> Option<Vec<RangeSpec>> {
    let (unit, set) = value.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for spec in set.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        if specs.len() == RANGES_MAX {
            return None;
        }
        specs.push(parse_spec(spec)?);
    }
    (!specs.is_empty()).then_some(specs)
}

fn parse_spec(spec: &str) -> Option<RangeSpec> {
    let (first, last) = spec.split_once('-')?;
    match (first, last) {
        ("", last) => Some(RangeSpec::Suffix(position(last)?)),
        (first, "") => Some(RangeSpec::From(position(first)?, None)),
        (first, last) => {
            let (first, last) = (position(first)?, position(last)?);
            (first <= last).then_some(RangeSpec::From(first, Some(last)))
        }
    }
}

/// Digits; a number too large for 64 bits is beyond every object.
fn position(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

impl Ranges {
    /// Apply the specs to a sealed object of `length` bytes.
    pub fn of(specs: &[RangeSpec], length: u64) -> Ranges {
        let parts: Vec<_> = specs.iter().filter_map(|spec| satisfy(*spec, length)).collect();
        if parts.is_empty() {
            return Ranges::Unsatisfiable;
        }
        // Overlapping ranges that ask for more than there is cost more than the whole (RFC 9110
        // §17.15).
        let asked: u64 = parts.iter().map(|(start, end)| end - start).sum();
        if parts.len() > 1 && asked > length { Ranges::Whole } else { Ranges::Parts(parts) }
    }
}

fn satisfy(spec: RangeSpec, length: u64) -> Option<(u64, u64)> {
    let (start, end) = match spec {
        RangeSpec::From(first, None) => (first, length),
        RangeSpec::From(first, Some(last)) => (first, length.min(last.saturating_add(1))),
        RangeSpec::Suffix(count) => (length.saturating_sub(count), length),
    };
    (start < end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ranges::*;

    fn of(value: &str, length: u64) -> Ranges {
        parse_range(value).map_or(Whole, |specs| Ranges::of(&specs, length))
    }

    #[test]
    fn ranges_of_a_sealed_object() {
        assert_eq!(of("bytes=0-0", 10), Parts(vec![(0, 1)]));
        assert_eq!(of("bytes=5-", 10), Parts(vec![(5, 10)]));
        assert_eq!(of("bytes=5-99", 10), Parts(vec![(5, 10)]));
        assert_eq!(of("bytes=-3", 10), Parts(vec![(7, 10)]));
        assert_eq!(of("bytes=-99", 10), Parts(vec![(0, 10)]));
        assert_eq!(of("Bytes = 1-2, 4-5", 10), Parts(vec![(1, 3), (4, 6)]));
        assert_eq!(of("bytes=10-", 10), Unsatisfiable);
        assert_eq!(of("bytes=-0", 10), Unsatisfiable);
        assert_eq!(of("bytes=0-", 0), Unsatisfiable);
        assert_eq!(of("bytes=99999999999999999999-", 10), Unsatisfiable);
        assert_eq!(of("bytes=0-99999999999999999999", 10), Parts(vec![(0, 10)]));
    }

    #[test]
    fn what_is_not_a_range_is_ignored() {
        for value in [
            "lines=0-1",
            "bytes=",
            "bytes=a-b",
            "bytes=5-1",
            "bytes=--1",
            "bytes=+1-2",
            "bytes",
            "bytes=1",
        ] {
            assert_eq!(of(value, 10), Whole, "{value}");
        }
        assert_eq!(of("bytes=0-9,0-9,0-9", 10), Whole, "more than the whole");
        assert_eq!(of(&format!("bytes={}", "0-0,".repeat(20)), 10), Whole);
    }
}
