//! What a name means in a presentation, and the door that answers it. Asked before the store is.

use super::answer::{Ask, Got};
use super::{Egress, http_playlist, http_view};
use crate::packager::{Asked, Found};
pub use crate::packager::{Hold, Refusal};
use crate::runtime::counters::Counter;

/// What a request for a name comes to.
pub enum Live {
    /// Nothing of a presentation: an object, or nothing.
    NotLive,
    Got(Got),
    /// Wait, then ask again.
    Hold(Hold),
    Refused(Refusal),
}

/// The file that tells the time, below each publishing point and at the root.
const TIME: &str = "time";

/// Ask the packager, and write what it has.
pub fn respond(
    egress: &Egress,
    ask: &Ask<'_>,
    name: &str,
    query: Option<&str>,
    out: &mut Vec<u8>,
) -> Live {
    let found = egress.packager.find(&Asked {
        name,
        query,
        has_range: ask.may_have_open_range(),
        held_ms: ask.held_ms.unwrap_or(0),
    });
    match found {
        Found::NotLive => Live::NotLive,
        Found::Text { text, max_age_s } => {
            Live::Got(http_playlist::respond(egress, ask, &text, max_age_s, out))
        }
        Found::View(view) => Live::Got(http_view::respond(egress, ask, *view, out)),
        Found::Growing(growing) => Live::Got(http_view::respond_growing(egress, ask, growing, out)),
        Found::Hold(hold) => Live::Hold(hold),
        Found::Refused(refusal) => {
            egress.counters.add(Counter::HoldsRefused, u64::from(refusal.status == 503));
            Live::Refused(refusal)
        }
    }
}

/// The name lies below a live prefix.
pub fn is_live(egress: &Egress, name: &str) -> bool {
    egress.packager.is_live(name)
}

/// True if the name is the clock's: an object of that name comes first.
pub fn is_time(egress: &Egress, name: &str) -> bool {
    let folder = name.strip_suffix(TIME).and_then(|folder| folder.strip_suffix('/'));
    name == TIME || folder.is_some_and(|folder| egress.packager.is_live(folder))
}

pub fn respond_time(egress: &Egress, ask: &Ask<'_>, out: &mut Vec<u8>) {
    http_playlist::respond_time(egress, ask, out);
}
