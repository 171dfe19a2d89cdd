//! HTTP/1.1 by hand (RFC 9110, RFC 9112): `request` reads a head, `target` makes it a name, `body`
//! undoes the framing, `range`, `condition` and `encoding` read what a reader asks for, `response`
//! writes heads.

mod body;
mod condition;
mod encoding;
mod range;
mod request;
mod response;
mod target;

pub use body::{BodyDecoder, BodyError, CHUNK_LINE_BYTES_MAX, Progress, TRAILER_BYTES_MAX};
pub use condition::{
    Precondition, date_matches, etag_list_matches, if_range_holds, parse_date, write_date,
};
pub use encoding::accepts_gzip;
pub use range::{FOLLOW_LAST_BYTE, RANGES_MAX, RangeSpec, Ranges, parse_range};
pub use request::{
    Fields, Framing, HEADERS_MAX, HeadError, HeadLimits, HeaderRoom, Method, Parsed, Request,
    Version, parse,
};
pub use response::{Chunk, DateLine, HeadWriter, LAST_CHUNK, reason};
pub use target::{Target, TargetError, parse_target};
