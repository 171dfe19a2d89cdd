//! HLS playlists (RFC 8216, draft-pantos-hls-rfc8216bis-22): the values that the packager fills and
//! writes, and the reading of playlists that publishers push.
//!
//! `media_playlist` (the value and its delta update), `media_text` (its text), `multivariant`,
//! `attributes` (what is needed to write a tag), `pushed_playlist` (somebody else's text, and its
//! delta update). What is to be listed, and when, is not decided here.

mod attributes;
mod media_playlist;
mod media_text;
mod multivariant;
#[cfg(test)]
mod playlist_oracle;
mod pushed_playlist;

pub use media_playlist::{
    ByteRange, ClientValue, DateRange, Hint, Map, MediaPlaylist, Part, PlaylistKind, Report,
    Segment, ServerControl, Skip,
};
pub use multivariant::{ContentSteering, Media, MediaKind, MultivariantPlaylist, Variant};
pub use pushed_playlist::{PUSHED_PLAYLIST_BYTES_MAX, PlaylistError, Pushed, delta_text};
