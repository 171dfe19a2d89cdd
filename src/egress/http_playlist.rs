//! GET and HEAD of the texts of a presentation, or of one that is mirrored: playlists, MPDs, steering
//! manifests; and the clock that players set themselves by. A text was made once, whoever waits for it; here its head is written
//! and its bytes are copied behind it.

use std::sync::Arc;

use bytes::Bytes;

use super::Egress;
use super::answer::{Ask, Got, Validators, finish_head};
use super::transfer::{Body, BodyFraming, Piece, Transfer};
use crate::packager::Text;
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::store::Millis;
use crate::wire::http1::{Fields, HeadWriter, Precondition, accepts_gzip};
use crate::wire::numbers::UtcTime;

/// Longer texts are sent from where they are.
const COPIED_BYTES_MAX: usize = 64 << 10;

/// A text in both of its forms.
pub struct Forms<'t> {
    pub content_type: &'t str,
    pub plain: &'t Bytes,
    /// Needed if the request takes gzip.
    pub zipped: Option<&'t Bytes>,
    /// Of the plain form.
    pub etag: &'t str,
    pub modified_ms: Millis,
}

pub(super) fn respond(
    egress: &Egress,
    ask: &Ask<'_>,
    text: &Arc<Text>,
    max_age_s: u64,
    out: &mut Vec<u8>,
) -> Got {
    let takes_gzip = accepts_gzip(ask.fields.accept_encoding);
    let forms = Forms {
        content_type: text.content_type,
        plain: &text.plain,
        zipped: takes_gzip.then(|| text.gzip()),
        etag: &text.etag,
        modified_ms: text.modified_ms,
    };
    egress.counters.add(Counter::LivePlaylists, 1);
    let cache_control = format!("max-age={max_age_s}");
    let fields = [("Cache-Control", &*cache_control), ("Vary", "Accept-Encoding")];
    respond_forms(egress, ask, &forms, &fields, out)
}

/// The form that the request takes, with these fields beside those of its version.
pub fn respond_forms(
    egress: &Egress,
    ask: &Ask<'_>,
    forms: &Forms<'_>,
    fields: &[(&str, &str)],
    out: &mut Vec<u8>,
) -> Got {
    let takes_gzip = accepts_gzip(ask.fields.accept_encoding);
    let is_less = |zipped: &&Bytes| !zipped.is_empty() && zipped.len() < forms.plain.len();
    let zipped = forms.zipped.filter(|_| takes_gzip).filter(is_less);
    let zipped_etag = zipped.map(|_| etag_of_gzip(forms.etag));
    let etag = zipped_etag.as_deref().unwrap_or(forms.etag);
    let status = match Precondition::of(&without_dates(ask.fields), etag, forms.modified_ms) {
        Precondition::Failed => return Got::PreconditionFailed,
        Precondition::NotModified => 304,
        Precondition::Proceed => 200,
    };
    let body = zipped.unwrap_or(forms.plain);
    let mut head = HeadWriter::new(out, status);
    if status == 200 {
        head.field("Content-Type", forms.content_type);
        head.number("Content-Length", body.len() as u64);
        if zipped.is_some() {
            head.field("Content-Encoding", "gzip");
        }
    }
    Validators { etag, modified_ms: forms.modified_ms }.write(&mut head);
    for (name, value) in fields {
        head.field(name, value);
    }
    head.lines(&egress.options.common_lines);
    finish_head(egress, ask, out);
    if status == 304 || ask.is_head {
        return Got::Answered;
    }
    if body.len() <= COPIED_BYTES_MAX {
        out.extend_from_slice(body);
        return Got::Answered;
    }
    let body = Body::Pieces(vec![Piece::Made(body.clone())]);
    Got::Transfer(Box::new(Transfer { body, framing: BodyFraming::Length }))
}

/// The two forms of a text are different representations: different strong tags (RFC 9110 §8.8.3.3).
fn etag_of_gzip(etag: &str) -> String {
    format!("{}-gz\"", etag.trim_end_matches('"'))
}

/// A playlist changes several times in the second that a date can tell: only its tag is a condition.
fn without_dates<'f>(fields: &Fields<'f>) -> Fields<'f> {
    Fields { if_modified_since: None, if_unmodified_since: None, ..*fields }
}

/// The time (23009-1 5.8.4.11, `urn:mpeg:dash:utc:http-iso:2014`).
pub(super) fn respond_time(egress: &Egress, ask: &Ask<'_>, out: &mut Vec<u8>) {
    let time = UtcTime { unix_ms: clock::unix_ms() as i64 }.to_string();
    let mut head = HeadWriter::new(out, 200);
    head.field("Content-Type", "text/plain");
    head.number("Content-Length", time.len() as u64);
    head.field("Cache-Control", "no-store");
    head.lines(&egress.options.common_lines);
    finish_head(egress, ask, out);
    if !ask.is_head {
        out.extend_from_slice(time.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_forms_have_two_tags() {
        assert_eq!(etag_of_gzip("\"1f-ab\""), "\"1f-ab-gz\"");
    }

    #[test]
    fn a_date_never_says_that_a_text_is_unchanged() {
        let date = Some("Fri, 31 Dec 2027 00:00:00 GMT");
        let fields = Fields { if_modified_since: date, ..Fields::default() };
        let judged = |fields: &Fields<'_>| Precondition::of(&without_dates(fields), "\"a\"", 0);
        assert_eq!(judged(&fields), Precondition::Proceed);
        let tagged = Fields { if_none_match: Some("\"a\""), ..fields };
        assert_eq!(judged(&tagged), Precondition::NotModified);
    }
}
