//! What all doors in share: who looks at bytes once they are appended, how an object is sealed, and why
//! an upload fails. No door is named here.

use std::sync::Arc;

use super::Ingest;
use super::camera_watch::H264Watch;
use crate::packager::marks::Marker;
use crate::packager::{Feed, Refusal};
use crate::store::{BeginError, Object, RECORD_BYTES_MAX, StorageError, WriteError, Writer};
use crate::wire::http1::BodyError;
use crate::wire::media_type::Class;

/// Stored header fields of one object together; with the name they must fit the record.
pub(super) const STORED_BYTES_MAX: usize = RECORD_BYTES_MAX / 3;

#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// The packager does not want it.
    #[error("{}", .0.text)]
    Refused(Refusal),
    #[error("the stored header fields are longer than {STORED_BYTES_MAX} bytes together")]
    StoredHeadersTooLarge,
    #[error(transparent)]
    Framing(#[from] BodyError),
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The uploader closed, reset, or fell silent before the body was complete.
    #[error("the upload ended before its body was complete")]
    PeerGone,
}

impl From<StorageError> for UploadError {
    fn from(error: StorageError) -> UploadError {
        UploadError::Write(WriteError::Storage(error))
    }
}

/// Who looks at bytes once they are appended.
pub(super) enum Watcher {
    /// Of a publishing point. Dropped without its `end`, it takes the upload for torn.
    Feed(Box<Feed>),
    Marker(Box<Marker>),
    /// Of a camera's byte stream.
    H264(Box<H264Watch>),
    Nobody,
}

impl Watcher {
    pub(super) fn new(feed: Option<Feed>, class: Class) -> Watcher {
        match feed {
            Some(feed) => Watcher::Feed(Box::new(feed)),
            None if class == Class::Segment => Watcher::Marker(Box::default()),
            None => Watcher::Nobody,
        }
    }

    pub(super) fn note(&mut self, bytes: &[u8], writer: &mut Writer) -> Result<(), UploadError> {
        match self {
            Watcher::Feed(feed) => feed.note(bytes, writer).map_err(UploadError::Refused),
            Watcher::Marker(marker) => {
                marker.note(bytes, writer);
                Ok(())
            }
            Watcher::H264(watch) => {
                watch.note(bytes, writer);
                Ok(())
            }
            Watcher::Nobody => Ok(()),
        }
    }

    /// The orderly end of an upload.
    pub(super) fn end(self, object: &Arc<Object>, core: usize) {
        if let Watcher::Feed(feed) = self {
            feed.end(object, core);
        }
    }
}

/// An object that was sealed.
pub(super) struct Sealed {
    pub(super) etag: String,
    /// A sealed version of the same name existed before.
    pub(super) replaced: bool,
}

/// Seal what a writer has brought, on disk if that is wanted.
pub(super) async fn seal(
    ingest: &Ingest,
    writer: Writer,
    mut watcher: Watcher,
) -> Result<Sealed, UploadError> {
    if let Watcher::Feed(feed) = &mut watcher {
        feed.check().map_err(UploadError::Refused)?;
    }
    let object = writer.object().clone();
    let sealing = ingest.disk.run(|| writer.finish()).await?;
    if ingest.options.is_durable && !ingest.store.is_memory_only() {
        for file in sealing.files()? {
            ingest.ring.sync(file).await.map_err(StorageError::from)?;
        }
    }
    let committed = ingest.disk.run(|| sealing.commit()).await?;
    if ingest.options.is_durable {
        for folder in committed.folders {
            let folder = std::fs::File::open(folder).map_err(StorageError::from)?;
            ingest.ring.sync(Arc::new(folder)).await.map_err(StorageError::from)?;
        }
    }
    watcher.end(&object, ingest.core);
    let etag = object.seal().map(|seal| seal.etag.clone()).unwrap_or_default();
    Ok(Sealed { etag, replaced: committed.replaced })
}
