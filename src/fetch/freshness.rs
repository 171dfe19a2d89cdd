//! How long an answer may be kept: RFC 9111, as far as a cache needs it that sends the same fields with
//! every request and none of a reader's. Pure.

use std::time::{Duration, SystemTime};

use hyper::header::HeaderMap;

/// Seconds that an answer is fresh from when it was made; 0 if it may not be used again, `None` if it
/// does not say.
pub(super) fn lifetime_s(headers: &HeaderMap) -> Option<u64> {
    let mut shared = None;
    let mut common = None;
    for value in values(headers, "cache-control") {
        for directive in value.split(',').map(str::trim) {
            let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
            let number = || seconds(value.trim_matches('"'));
            match name.to_ascii_lowercase().as_str() {
                "no-store" | "no-cache" | "private" => return Some(0),
                "s-maxage" => shared = number(),
                "max-age" => common = number(),
                _ => {}
            }
        }
    }
    shared.or(common).or_else(|| expires_s(headers))
}

/// Seconds that the answer had been in caches when it came.
pub(super) fn age_s(headers: &HeaderMap) -> u64 {
    values(headers, "age").next().and_then(seconds).unwrap_or(0)
}

/// Behind the date of the answer; one that cannot be read is over (§5.3).
fn expires_s(headers: &HeaderMap) -> Option<u64> {
    let expires = values(headers, "expires").next()?;
    let Ok(expires) = httpdate::parse_http_date(expires) else { return Some(0) };
    let date = values(headers, "date").next().and_then(|date| httpdate::parse_http_date(date).ok());
    let left = date.map(|date: SystemTime| expires.duration_since(date).unwrap_or(Duration::ZERO));
    left.map(|left| left.as_secs())
}

/// §1.2.2: digits; more than can be counted is the most that can.
fn seconds(text: &str) -> Option<u64> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().unwrap_or(u64::from(u32::MAX)).min(u64::from(u32::MAX)))
}

fn values<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    type Fields = &'static [(&'static str, &'static str)];

    fn headers(fields: Fields) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn answers_say_how_long_they_last() {
        const DATE: &str = "Fri, 31 Dec 2027 00:00:00 GMT";
        const LATER: &str = "Fri, 31 Dec 2027 00:00:30 GMT";
        let cases: &[(Fields, Option<u64>)] = &[
            (&[], None),
            (&[("cache-control", "max-age=6")], Some(6)),
            (&[("cache-control", "public, Max-Age=\"6\" , immutable")], Some(6)),
            (&[("cache-control", "max-age=6, s-maxage=2")], Some(2)),
            (&[("cache-control", "max-age=6"), ("cache-control", "no-store")], Some(0)),
            (&[("cache-control", "no-cache")], Some(0)),
            (&[("cache-control", "private, max-age=6")], Some(0)),
            (&[("cache-control", "max-age=x")], None),
            (&[("cache-control", "max-age=-1")], None),
            (&[("cache-control", "max-age=99999999999999999999")], Some(u32::MAX.into())),
            (&[("expires", LATER), ("date", DATE)], Some(30)),
            (&[("expires", DATE), ("date", LATER)], Some(0)),
            (&[("expires", "0")], Some(0)),
            (&[("expires", LATER)], None),
            (&[("expires", LATER), ("date", DATE), ("cache-control", "max-age=1")], Some(1)),
        ];
        for (fields, wanted) in cases {
            assert_eq!(lifetime_s(&headers(fields)), *wanted, "{fields:?}");
        }
        assert_eq!(age_s(&headers(&[("age", "7")])), 7);
        assert_eq!(age_s(&headers(&[("age", "x")])), 0);
    }
}
