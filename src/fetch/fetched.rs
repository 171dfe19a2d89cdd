//! What was fetched: an answer of an upstream that is here, or arrives. It is never changed; an answer
//! that was confirmed is a new one with the same bytes.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::store::{Life, Millis, Object};

/// What of an answer's head is passed on. Neither what is between two neighbours (RFC 9110 §7.6.1),
/// nor what this server says itself (CORS), nor cookies.
const PASSED_FIELDS: [HeaderName; 6] = [
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CACHE_CONTROL,
    header::EXPIRES,
    header::VARY,
];
/// Of an error beside.
const RETRY_AFTER: HeaderName = header::RETRY_AFTER;
/// An answer stands in for an upstream that is down for so long.
pub(super) const STALE_MS_MAX: Millis = 86_400_000;
/// Longer values are left out.
const PASSED_VALUE_BYTES_MAX: usize = 256;

#[derive(Clone)]
pub struct Fetched {
    pub status: u16,
    pub body: FetchedBody,
    /// Fields that ask whether it is still the same.
    validators: Vec<(HeaderName, HeaderValue)>,
    times: Times,
    /// What it counts for in its table.
    share: Arc<Share>,
}

#[derive(Clone)]
pub enum FetchedBody {
    /// Of a 200. It arrives while it is open.
    Object { object: Arc<Object>, memory: Arc<Memory> },
    /// Of anything else.
    Text { fields: Vec<(String, String)>, bytes: Bytes },
}

/// A small body or a manifest beside its object, from its end on.
#[derive(Default)]
pub struct Memory {
    plain: OnceLock<Bytes>,
    zipped: OnceLock<Bytes>,
    /// Readers may have it in gzip.
    pub is_manifest: bool,
}

impl Memory {
    pub(super) fn new(is_manifest: bool) -> Arc<Memory> {
        Arc::new(Memory { is_manifest, ..Memory::default() })
    }

    pub(super) fn fill(&self, plain: Bytes) {
        let is_first = self.plain.set(plain).is_ok();
        assert!(is_first, "a body has one end");
    }

    pub fn plain(&self) -> Option<&Bytes> {
        self.plain.get()
    }

    /// The same in gzip, made when it is first asked for.
    pub fn zipped(&self) -> &Bytes {
        self.zipped.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            // Writing to memory cannot fail; an empty body is no form at all.
            let _ = encoder.write_all(self.plain().map_or(&[], |plain| plain));
            encoder.finish().unwrap_or_default().into()
        })
    }
}

/// Of the clock that the table goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) received_ms: Millis,
    /// Its age when it came.
    pub(super) age_ms: u64,
    /// From its making on.
    pub(super) lifetime_ms: u64,
}

impl Fetched {
    pub(super) fn new(
        status: u16,
        body: FetchedBody,
        validators: Vec<(HeaderName, HeaderValue)>,
        times: Times,
        share: Arc<Share>,
    ) -> Fetched {
        Fetched { status, body, validators, times, share }
    }

    /// The same bytes, confirmed now; without a new lifetime the one before.
    pub(super) fn renewed(&self, times: Times, has_lifetime: bool) -> Fetched {
        let lifetime_ms = if has_lifetime { times.lifetime_ms } else { self.times.lifetime_ms };
        Fetched { times: Times { lifetime_ms, ..times }, ..self.clone() }
    }

    /// How old it is now, in seconds: the field Age.
    pub fn age_s(&self, now_ms: Millis) -> u64 {
        self.age_ms(now_ms) / 1000
    }

    fn age_ms(&self, now_ms: Millis) -> u64 {
        now_ms.saturating_sub(self.times.received_ms).saturating_add(self.times.age_ms)
    }

    pub(super) fn is_fresh(&self, now_ms: Millis) -> bool {
        self.age_ms(now_ms) < self.times.lifetime_ms
    }

    /// Milliseconds since it was last fresh.
    pub(super) fn stale_ms(&self, now_ms: Millis) -> u64 {
        self.age_ms(now_ms).saturating_sub(self.times.lifetime_ms)
    }

    /// It is good enough while the upstream is down.
    pub(super) fn may_stand_in(&self, now_ms: Millis) -> bool {
        self.status < 500 && self.is_sound() && self.stale_ms(now_ms) < STALE_MS_MAX
    }

    pub(super) fn is_arriving(&self) -> bool {
        matches!(&self.body, FetchedBody::Object { object, .. } if object.is_open())
    }

    /// False if it was cut.
    pub fn is_sound(&self) -> bool {
        match &self.body {
            FetchedBody::Object { object, .. } => {
                matches!(object.life(), Life::Open | Life::Sealed)
            }
            FetchedBody::Text { .. } => true,
        }
    }

    /// What the upstream is asked with whether it is still the same; nothing if it cannot be.
    pub(super) fn validators(&self) -> &[(HeaderName, HeaderValue)] {
        let is_whole = self.status == 200 && self.is_sound() && !self.is_arriving();
        if is_whole { &self.validators } else { &[] }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.share.bytes.load(Ordering::Relaxed)
    }
}

/// The fields to ask with later (RFC 9110 §13.1).
pub(super) fn validators_of(headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
    let condition = |name: HeaderName, from: HeaderName| Some((name, headers.get(from)?.clone()));
    let all = [
        condition(header::IF_NONE_MATCH, header::ETAG),
        condition(header::IF_MODIFIED_SINCE, header::LAST_MODIFIED),
    ];
    all.into_iter().flatten().collect()
}

/// What is passed on of an answer, in the usual spelling.
pub(super) fn passed_fields(headers: &HeaderMap, status: u16) -> Vec<(String, String)> {
    let of_error = (status >= 400).then_some(RETRY_AFTER);
    let names = PASSED_FIELDS.into_iter().chain(of_error);
    let passed = names.filter_map(|name| {
        let all: Vec<&str> =
            headers.get_all(&name).iter().filter_map(|value| value.to_str().ok()).collect();
        let value = all.join(", ");
        let fits = !value.is_empty() && value.len() <= PASSED_VALUE_BYTES_MAX;
        fits.then(|| (usual_spelling(name.as_str()), value))
    });
    passed.collect()
}

/// `content-type` as `Content-Type`.
fn usual_spelling(name: &str) -> String {
    let part = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
    name.split('-').map(part).collect::<Vec<_>>().join("-")
}

/// What an answer counts for, for as long as it is held.
pub(super) struct Share {
    used: Arc<AtomicU64>,
    bytes: AtomicU64,
}

impl Share {
    pub(super) fn new(used: Arc<AtomicU64>) -> Arc<Share> {
        Arc::new(Share { used, bytes: AtomicU64::new(0) })
    }

    /// Counts so many more; what all have together now.
    pub(super) fn add(&self, bytes: u64) -> u64 {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.used.fetch_add(bytes, Ordering::Relaxed) + bytes
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.used.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_cookies_and_long_values_are_not_passed_on() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "video/mp4"),
            ("cache-control", "max-age=6"),
            ("cache-control", "immutable"),
            ("set-cookie", "a=b"),
            ("connection", "close"),
            ("access-control-allow-origin", "*"),
            ("etag", "\"x\""),
            ("age", "5"),
            ("retry-after", "1"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append("vary", HeaderValue::from_str(&"x".repeat(300)).unwrap());
        let text = |status| {
            let fields = passed_fields(&headers, status);
            fields.iter().map(|(name, value)| format!("{name}: {value};")).collect::<String>()
        };
        let wanted = "Content-Type: video/mp4;Cache-Control: max-age=6, immutable;";
        assert_eq!(text(200), wanted);
        assert_eq!(text(503), format!("{wanted}Retry-After: 1;"));
        assert_eq!(validators_of(&headers).len(), 1);
    }

    #[test]
    fn age_counts_from_the_making() {
        let share = Share::new(Arc::default());
        let times = Times { received_ms: 10_000, age_ms: 2000, lifetime_ms: 6000 };
        let body = FetchedBody::Text { fields: Vec::new(), bytes: Bytes::new() };
        let fetched = Fetched::new(404, body, Vec::new(), times, share);
        assert_eq!((fetched.age_s(10_000), fetched.age_s(11_500)), (2, 3));
        assert!(fetched.is_fresh(13_999) && !fetched.is_fresh(14_000));
        assert_eq!(fetched.stale_ms(15_000), 1000);
    }
}
