//! What can go wrong in the store, composed per operation. No status codes here: only
//! `connection/reply.rs` speaks HTTP.

use std::io;

/// A failure of the medium under the store: ours or the machine's, never the peer's.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// No room: ENOSPC, EDQUOT, EFBIG, or the configured total size.
    #[error("no space left for objects: {0}")]
    NoSpace(io::Error),
    /// The process or the system has no descriptor left.
    #[error("out of file descriptors: {0}")]
    NoDescriptors(io::Error),
    /// The file is not the one that was sealed: somebody changed it below us.
    #[error("the file of the object was changed by another program")]
    Changed,
    /// Anything else the system reports (EIO, EROFS, EACCES …).
    #[error("storage failed: {0}")]
    Io(io::Error),
}

impl From<io::Error> for StorageError {
    fn from(error: io::Error) -> Self {
        use rustix::io::Errno;
        match Errno::from_io_error(&error) {
            Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => StorageError::NoSpace(error),
            Some(Errno::MFILE | Errno::NFILE) => StorageError::NoDescriptors(error),
            _ => StorageError::Io(error),
        }
    }
}

impl From<rustix::io::Errno> for StorageError {
    fn from(errno: rustix::io::Errno) -> Self {
        io::Error::from(errno).into()
    }
}

/// Why an upload cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// Not a normalised path, or in the store's own folder, or too long.
    #[error("no object can have this name")]
    NoName,
    /// `/a/b` while `/a` is an object.
    #[error("a part of the path is an object")]
    BelowObject,
    /// `/a` while objects live below `/a/`.
    #[error("the name is a folder of objects")]
    IsFolder,
    /// Another writer holds the object and the rule is [`super::WriteRule::Refuse`].
    #[error("the object has an active writer")]
    WriterActive,
    /// The number of objects has reached `objects_max`.
    #[error("the store holds as many objects as it may")]
    TooManyObjects,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why an append or a seal failed. The object is aborted (or kept) when its writer is dropped.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A newer writer took the name over.
    #[error("another upload took the name over")]
    TakenOver,
    /// The object was deleted while it was written.
    #[error("the object was deleted while it was written")]
    Removed,
    /// While the object was written, its name became a folder, or a part of its path an object.
    #[error("the name was taken while the object was written")]
    NameTaken,
    /// The object would outgrow `object_bytes_max`.
    #[error("the object is larger than allowed")]
    TooLarge,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Why an object was not removed.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    #[error("no such object")]
    Absent,
    #[error(transparent)]
    Storage(#[from] StorageError),
}
