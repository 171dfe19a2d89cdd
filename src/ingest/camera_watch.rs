//! Who looks at an H.264 camera's bytes: where late viewers may begin, and the movie that a publishing
//! point lists as LL-HLS and LL-DASH.
//!
//! | the movie is | left by |
//! |---|---|
//! | waiting | a key picture |
//! | an open upload of a publishing point | the camera's end; pictures that need another init segment: the next upload, with a discontinuity |
//! | waiting again | a key picture, once it may begin anew |
//! | given up | never: its publishing point refused it, or the store cannot have it; viewers are served all the same |

use std::io::IoSlice;
use std::sync::Arc;

use super::upload::{UploadError, Watcher};
use crate::packager::Packager;
use crate::runtime::clock;
use crate::runtime::line_budget::LineBudget;
use crate::store::{Ending, NewObject, ObjectInfo, Store, Visibility, WriteRule, Writer};
use crate::wire::fmp4::{Muxed, Muxer};
use crate::wire::h264::{AccessUnitReader, KeyFinder, UnitEvent};
use crate::wire::media_type::Class;

pub(super) struct H264Watch {
    keys: KeyFinder,
    movie: Option<Movie>,
}

struct Movie {
    pictures: AccessUnitReader,
    muxer: Muxer,
    upload: MovieUpload,
}

/// Where the movie goes.
pub(super) struct MovieUpload {
    pub(super) store: Arc<Store>,
    pub(super) packager: Arc<Packager>,
    /// The publishing point.
    pub(super) point: String,
    /// Of the object below it.
    pub(super) file: String,
    /// What its playlist and its object keep; `None` if the object is kept for ever, or by a rule.
    pub(super) window_bytes: Option<u64>,
    pub(super) open: Option<(Writer, Watcher)>,
    pub(super) lines: LineBudget,
}

/// Lines of the log about pictures that a movie cannot have, per second.
pub(super) const MOVIE_LINES_PER_S_MAX: u32 = 1;

impl H264Watch {
    /// `upload` is where the movie goes, if anywhere.
    pub(super) fn new(upload: Option<MovieUpload>, picture_bytes_max: u32) -> H264Watch {
        let movie = upload.map(|upload| Movie {
            pictures: AccessUnitReader::new(picture_bytes_max as usize),
            muxer: Muxer::new(),
            upload,
        });
        H264Watch { keys: KeyFinder::new(), movie }
    }

    /// Bytes that were just appended by `writer`.
    pub(super) fn note(&mut self, bytes: &[u8], writer: &mut Writer) {
        if let Some(start) = self.keys.push(bytes) {
            writer.mark_key(start.offset, start.preamble.into());
            writer.tell_marks();
        }
        let Some(movie) = &mut self.movie else { return };
        if let Err(error) = movie.push(bytes) {
            tracing::warn!(point = movie.upload.point, %error, "a camera is not listed");
            self.movie = None;
        }
    }

    /// The camera has ended in good order: what there is of its movie, to be sealed.
    pub(super) fn end(self) -> Option<(Writer, Watcher)> {
        let mut movie = self.movie?;
        match movie.flush() {
            Ok(()) => movie.upload.open,
            Err(error) => {
                tracing::warn!(point = movie.upload.point, %error, "a camera is not listed");
                None
            }
        }
    }
}

impl Movie {
    fn push(&mut self, bytes: &[u8]) -> Result<(), UploadError> {
        let (muxer, upload) = (&mut self.muxer, &mut self.upload);
        let mut outcome = Ok(());
        self.pictures.push(bytes, clock::unix_us(), &mut |event| {
            if outcome.is_ok() {
                outcome = upload.take(muxer, event);
            }
        });
        outcome
    }

    fn flush(&mut self) -> Result<(), UploadError> {
        let (muxer, upload) = (&mut self.muxer, &mut self.upload);
        let mut outcome = Ok(());
        self.pictures.flush(&mut |event| {
            if outcome.is_ok() {
                outcome = upload.take(muxer, event);
            }
        });
        outcome
    }
}

impl MovieUpload {
    fn take(&mut self, muxer: &mut Muxer, event: UnitEvent) -> Result<(), UploadError> {
        let picture = match event {
            UnitEvent::Unit(picture) => picture,
            UnitEvent::TooLong { .. } => {
                if let Some(left_out) = self.lines.admit(clock::monotonic_s()) {
                    let point = &self.point;
                    tracing::warn!(point, left_out, "a picture is too long for its movie");
                }
                return Ok(());
            }
        };
        let mut chunk = Vec::new();
        if muxer.push(&picture, &mut chunk) == Muxed::NewInit {
            // Dropped without its end, it leads to a discontinuity.
            self.open = None;
            muxer.push(&picture, &mut chunk);
        }
        if chunk.is_empty() {
            return Ok(());
        }
        if self.open.is_none() {
            self.open = self.begin()?;
        }
        let Some((writer, watcher)) = &mut self.open else {
            // Movies began too often lately: another key picture is waited for.
            *muxer = Muxer::new();
            return Ok(());
        };
        writer.append(&[IoSlice::new(&chunk)])?;
        watcher.note(&chunk, writer)
    }

    /// `None` if it may not begin yet.
    fn begin(&self) -> Result<Option<(Writer, Watcher)>, UploadError> {
        let place = (&*self.point, &*self.file);
        let track_bytes_max = self.window_bytes.unwrap_or(u64::MAX);
        let feed = self.packager.feed_of_movie(place, track_bytes_max);
        let Some(feed) = feed.map_err(UploadError::Refused)? else { return Ok(None) };
        let name = format!("{}/{}", self.point, self.file);
        let headers = vec![("Content-Type".to_owned(), "video/mp4".to_owned())];
        let info = ObjectInfo { headers, created_ms: clock::unix_ms(), ..ObjectInfo::default() };
        // The connection's core may change; whoever it is, all cores are told.
        let core = None;
        let writer = if let Some(bytes) = self.window_bytes {
            // What is not listed any more goes, and nothing is left of a camera that went.
            let mut writer = self.store.begin_unnamed(&name, info, core)?;
            writer.keep_window(bytes);
            writer
        } else {
            let (visibility, rule) = (Visibility::AtOnce, WriteRule::TakeOver);
            let ending = Ending::Torn;
            self.store.begin(NewObject { name: &name, info, visibility, rule, ending, core })?
        };
        let feed = Some(feed.timed_by_arrival());
        Ok(Some((writer, Watcher::new(feed, Class::Segment))))
    }
}
