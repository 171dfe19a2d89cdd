//! What readers get of a presentation: bytes of objects under other names, and texts made once.

use std::io::Write;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;

use super::point::Point;
use crate::store::{Millis, NewsWait, Object};

/// The bytes `[start, end)` of an object, all accepted.
#[derive(Clone)]
pub struct Slice {
    pub object: Arc<Object>,
    pub start: u64,
    pub end: u64,
}

impl Slice {
    pub fn bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// What an answer says about a view besides its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    pub content_type: &'static str,
    /// A strong entity tag with its quotes, made of the publication and the position in it, so that
    /// two origins with the same push agree.
    pub etag: String,
    /// When the media was (by its own clock): Last-Modified.
    pub modified_ms: Millis,
    /// Cache-Control: how long the bytes may be kept, in seconds.
    pub max_age_s: u64,
    /// Expires: when a segment that will leave the window is forgotten (RFC 8216bis §6.2.2).
    pub expires_ms: Option<Millis>,
    /// The value of CMSD-Static (CTA-5006), empty for none.
    pub cmsd: String,
}

/// A part, a complete segment or an init segment.
pub struct View {
    pub about: About,
    /// Bytes in front that no object has: a made init segment, PAT and PMT.
    pub made: Bytes,
    pub slices: Vec<Slice>,
}

impl View {
    pub fn bytes(&self) -> u64 {
        self.made.len() as u64 + self.slices.iter().map(Slice::bytes).sum::<u64>()
    }
}

/// How the bytes of a segment in progress are handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// As they arrive: LL-DASH.
    Bytes,
    /// Whole parts only: LL-HLS (RFC 8216bis §6.2.6).
    Parts,
}

/// A segment in progress.
pub struct Growing {
    pub about: About,
    /// Readers are cut when nothing comes for so long.
    pub silence_s_max: u64,
    pub(super) point: Arc<Point>,
    pub(super) track: usize,
    pub(super) msn: u64,
    pub(super) epoch: Arc<str>,
    pub(super) gate: Gate,
    /// Bytes of the segment handed out so far.
    pub(super) position: u64,
    pub(super) wait: Option<NewsWait>,
}

/// What comes next of a segment in progress.
pub enum Next {
    /// Bytes that no object has.
    Made(Bytes),
    /// Bytes that are all there.
    Slice(Slice),
    /// Bytes `[start, end)` of a chunk that is still arriving: they are followed at the object's tail.
    Arriving(Slice),
    /// The segment is complete and was handed out.
    End,
    /// The encoder was lost in the middle of a chunk: the answer cannot be completed.
    Torn,
}

impl Growing {
    /// The next bytes to send; pending until there are any. Whatever is returned counts as sent.
    pub fn poll_next(&mut self, core: usize, context: &mut Context<'_>) -> Poll<Next> {
        loop {
            let point = self.point.clone();
            let (seen, next) = point.next_of(self);
            if let Some(next) = next {
                return Poll::Ready(next);
            }
            let wait = NewsWait::new(point.growth_of(self.track), seen);
            if self.wait.insert(wait).poll_news(core, context).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// The bytes `[start, end)` of the segment, if they can all be had now.
    pub fn view(&self, start: u64, end: u64) -> Option<View> {
        let (made, slices) = self.point.bytes_of(self, start, end)?;
        Some(View { about: self.about.clone(), made, slices })
    }

    /// Begin at this byte of the segment (a range).
    pub fn skip_to(&mut self, position: u64) {
        self.position = position;
    }
}

/// A playlist, an MPD: one version, made once, shared by all who ask for it.
pub struct Text {
    pub content_type: &'static str,
    pub plain: Bytes,
    pub etag: String,
    pub modified_ms: Millis,
    gzip: OnceLock<Bytes>,
}

impl Text {
    pub(super) fn new(content_type: &'static str, plain: String, modified_ms: Millis) -> Arc<Text> {
        let digest = xxhash_rust::xxh3::xxh3_64(plain.as_bytes());
        let etag = format!("\"{:x}-{digest:016x}\"", plain.len());
        let plain = Bytes::from(plain);
        Arc::new(Text { content_type, plain, etag, modified_ms, gzip: OnceLock::new() })
    }

    /// The same in gzip, made when it is first asked for.
    pub fn gzip(&self) -> &Bytes {
        self.gzip.get_or_init(|| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
            // Writing to memory cannot fail; an empty body would be seen at once.
            let _ = encoder.write_all(&self.plain);
            encoder.finish().unwrap_or_default().into()
        })
    }
}

/// A request that has to wait: it is asked again when there is news, or after `wait_ms_max`.
pub struct Hold {
    pub(super) news: NewsWait,
    pub wait_ms_max: u64,
}

impl Hold {
    pub fn new(news: NewsWait, wait_ms_max: u64) -> Hold {
        Hold { news, wait_ms_max }
    }

    pub fn poll_news(&mut self, core: usize, context: &mut Context<'_>) -> Poll<()> {
        self.news.poll_news(core, context)
    }
}
