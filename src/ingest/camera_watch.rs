//! Who looks at an H.264 camera's bytes: where late viewers may begin, and the movie that a publishing
//! point lists as LL-HLS and LL-DASH.
//!
//! | the movie is | left by |
//! |---|---|
//! | waiting | a key picture |
//! | an open upload below a live prefix | the camera's end; pictures that need another init segment: the next upload, with a discontinuity |
//! | given up | never: its publishing point refused it, or the store cannot have it; viewers are served all the same |

use std::io::IoSlice;
use std::sync::Arc;

use super::upload::{UploadError, Watcher};
use crate::packager::{Feed, Packager};
use crate::runtime::clock;
use crate::store::{Ending, MarkKind, NewObject, ObjectInfo, Store, Visibility, WriteRule, Writer};
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
    /// Of the object.
    pub(super) name: String,
    pub(super) open: Option<(Writer, Watcher)>,
}

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
            writer.set_preamble(start.preamble.into());
            writer.mark(start.offset, MarkKind::RandomAccess);
            writer.tell_marks();
        }
        let Some(movie) = &mut self.movie else { return };
        if let Err(error) = movie.push(bytes) {
            tracing::warn!(object = movie.upload.name, %error, "a camera is not listed");
            self.movie = None;
        }
    }

    /// The camera has ended in good order: what there is of its movie, to be sealed.
    pub(super) fn end(self) -> Option<(Writer, Watcher)> {
        let mut movie = self.movie?;
        match movie.flush() {
            Ok(()) => movie.upload.open,
            Err(error) => {
                tracing::warn!(object = movie.upload.name, %error, "a camera is not listed");
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
                tracing::warn!(object = self.name, "a picture is too long for its movie");
                return Ok(());
            }
        };
        let mut chunk = Vec::new();
        if muxer.push(&picture, &mut chunk) == Muxed::NewInit {
            // Dropped without its end, it leads to a discontinuity.
            self.open = None;
            muxer.push(&picture, &mut chunk);
        }
        if chunk.is_empty() { Ok(()) } else { self.append(&chunk) }
    }

    fn append(&mut self, chunk: &[u8]) -> Result<(), UploadError> {
        if self.open.is_none() {
            self.open = Some(self.begin()?);
        }
        let Some((writer, watcher)) = &mut self.open else { return Ok(()) };
        writer.append(&[IoSlice::new(chunk)])?;
        watcher.note(chunk, writer)
    }

    fn begin(&self) -> Result<(Writer, Watcher), UploadError> {
        let feed = self.packager.feed(&self.name).map_err(UploadError::Refused)?;
        let feed = feed.map(Feed::timed_by_arrival);
        let headers = vec![("Content-Type".to_owned(), "video/mp4".to_owned())];
        let info = ObjectInfo { headers, created_ms: clock::unix_ms(), ..ObjectInfo::default() };
        let writer = self.store.begin(NewObject {
            name: &self.name,
            info,
            visibility: Visibility::AtOnce,
            rule: WriteRule::TakeOver,
            ending: Ending::Torn,
            // The connection's core may change; whoever it is, all cores are told.
            core: None,
        })?;
        Ok((writer, Watcher::new(feed, Class::Segment)))
    }
}
