//! Conditional requests (RFC 9110 §13): entity tags and dates, in the order that §13.2.2 fixes.

use std::time::{Duration, SystemTime};

use super::request::Fields;

/// What the preconditions of a request come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precondition {
    Proceed,
    /// 304 for GET and HEAD.
    NotModified,
    /// 412.
    Failed,
}

impl Precondition {
    /// Evaluate for a sealed representation with this tag and time of change (ms since the epoch).
    pub fn of(fields: &Fields<'_>, etag: &str, modified_ms: u64) -> Precondition {
        match (fields.if_match, fields.if_unmodified_since) {
            (Some(list), _) if !etag_list_matches(list, etag, true) => return Precondition::Failed,
            (None, Some(date))
                if parse_date(date).is_some_and(|date| modified_ms / 1000 > date) =>
            {
                return Precondition::Failed;
            }
            _ => {}
        }
        match (fields.if_none_match, fields.if_modified_since) {
            (Some(list), _) if etag_list_matches(list, etag, false) => Precondition::NotModified,
            (None, Some(date))
                if parse_date(date).is_some_and(|date| modified_ms / 1000 <= date) =>
            {
                Precondition::NotModified
            }
            _ => Precondition::Proceed,
        }
    }
}

/// True if `list` is `*` or names `etag` (RFC 9110 §8.8.3.2); `strong` refuses weak tags.
pub fn etag_list_matches(list: &str, etag: &str, strong: bool) -> bool {
    if list.trim() == "*" {
        return true;
    }
    list.split(',').map(str::trim).any(|candidate| match candidate.strip_prefix("W/") {
        Some(opaque) => !strong && opaque == etag,
        None => candidate == etag,
    })
}

/// If-Range (RFC 9110 §13.1.5): the same strong tag, or exactly the same date, which is a strong
/// validator only when it is at least a second old.
pub fn if_range_holds(value: &str, etag: &str, modified_ms: u64, now_ms: u64) -> bool {
    if value.starts_with(['"', 'W']) && value.contains('"') {
        return value == etag;
    }
    date_matches(value, modified_ms) && now_ms.saturating_sub(modified_ms) >= 1000
}

pub fn date_matches(value: &str, modified_ms: u64) -> bool {
    parse_date(value).is_some_and(|date| date == modified_ms / 1000)
}

/// Seconds since the epoch of an HTTP date in any of its three forms (RFC 9110 §5.6.7).
pub fn parse_date(value: &str) -> Option<u64> {
    let time = httpdate::parse_http_date(value).ok()?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

/// Append an IMF-fixdate.
pub fn write_date(out: &mut Vec<u8>, seconds: u64) {
    // The year 9999 ends at this second; httpdate takes nothing later.
    const SECONDS_MAX: u64 = 253_402_300_799;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds.min(SECONDS_MAX));
    out.extend_from_slice(httpdate::fmt_http_date(time).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_come_before_dates() {
        let of = |fields: Fields<'_>| Precondition::of(&fields, "\"a\"", 784_111_777_500);
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        let earlier = Some("Sun, 06 Nov 1994 08:49:36 GMT");
        assert_eq!(of(Fields::default()), Precondition::Proceed);
        let inm = |list| Fields {
            if_none_match: Some(list),
            if_modified_since: date,
            ..Fields::default()
        };
        assert_eq!(of(inm("\"a\"")), Precondition::NotModified);
        assert_eq!(of(inm("\"x\", W/\"a\"")), Precondition::NotModified);
        assert_eq!(of(inm("*")), Precondition::NotModified);
        assert_eq!(of(inm("\"b\"")), Precondition::Proceed, "the date must not count");
        assert_eq!(
            of(Fields { if_modified_since: date, ..Fields::default() }),
            Precondition::NotModified
        );
        assert_eq!(
            of(Fields { if_modified_since: earlier, ..Fields::default() }),
            Precondition::Proceed
        );
        assert_eq!(
            of(Fields { if_modified_since: Some("x"), ..Fields::default() }),
            Precondition::Proceed
        );
        assert_eq!(
            of(Fields { if_match: Some("\"b\""), ..Fields::default() }),
            Precondition::Failed
        );
        assert_eq!(
            of(Fields { if_match: Some("W/\"a\""), ..Fields::default() }),
            Precondition::Failed
        );
        assert_eq!(
            of(Fields { if_unmodified_since: earlier, ..Fields::default() }),
            Precondition::Failed
        );
    }

    #[test]
    fn if_range_needs_a_strong_validator() {
        let modified = 784_111_777_000;
        assert!(if_range_holds("\"a\"", "\"a\"", modified, modified));
        assert!(!if_range_holds("W/\"a\"", "\"a\"", modified, modified));
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        assert!(if_range_holds(date, "\"a\"", modified, modified + 5000));
        assert!(!if_range_holds(date, "\"a\"", modified, modified + 10));
        assert!(!if_range_holds(
            "Sun, 06 Nov 1994 08:49:38 GMT",
            "\"a\"",
            modified,
            modified + 5000
        ));
    }
}
