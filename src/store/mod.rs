//! The core: append-only objects that can be read while they are written.
//!
//! A leaf: it knows no protocol and no runtime. Readers are woken through `std::task::Waker`; time
//! is an argument; the signal to another core is a closure that `server` supplies. Reading order:
//! `object` (the life of one), `writer`, `reader`, `wake_list`, `messages`, then `extent` and
//! `mapping` (where bytes are), `digest`, `format` (what is on disk), `directory` (names), `reopening`,
//! `retention`, `recovery`.

mod digest;
mod directory;
mod error;
mod extent;
mod format;
#[allow(unsafe_code, reason = "slices of mapped files, and mincore")]
mod mapping;
mod messages;
mod object;
mod reader;
mod recovery;
mod reopening;
#[cfg(test)]
mod reopening_tests;
mod retention;
mod sealed_caches;
mod wake_list;
mod writer;
#[cfg(test)]
mod writer_tests;

pub use digest::{Base, Fingerprint};
pub use directory::{Gauges, NewObject, Store, StoreOptions, Visibility, WriteRule};
pub use error::{BeginError, RemoveError, StorageError, WriteError};
pub use extent::ReadAt;
pub use format::{
    NAME_BYTES_MAX, NAME_PART_BYTES_MAX, RECORD_BYTES_MAX, Record, fits_file_system, is_object_name,
};
pub use messages::{
    MESSAGE_OVERHEAD_BYTES, Message, MessageEnd, MessageKind, MessageLook, MessageWindow, Partial,
};
pub use object::{Ending, Life, Mark, MarkKind, Object, ObjectInfo, Seal};
pub use reader::{Available, Reader};
pub use recovery::Recovered;
pub use retention::{RetentionRule, Swept};
pub use wake_list::{CoreList, News, NewsWait, Signal};
pub use writer::{Sealing, Writer};

/// Milliseconds since the Unix epoch. The store never asks for the time: callers pass it.
pub type Millis = u64;
