//! Requests for what is fetched from elsewhere: mirrors and static files. Such a path has nothing else: a
//! stored object of the same name is not seen, and nothing can be uploaded there.

use std::sync::Arc;

use bytes::Bytes;

use super::reply::{Frame, Reply};
use super::route::{Case, Route, route_of};
use crate::egress::answer::{Ask, Got};
use crate::egress::http_get;
use crate::egress::http_playlist::{self, Forms};
use crate::fetch::{Failure, Fetched, FetchedBody, Look, Memory, Outcome};
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::store::{Object, Seal};
use crate::wire::http1::{HeadWriter, Method, Target, accepts_gzip};
use crate::wire::media_type::by_extension;

/// The route of a request for such a name; `None` if it is none.
pub(super) fn route(case: &Case<'_>, target: &Target<'_>, out: &mut Vec<u8>) -> Option<Route> {
    let core = case.core;
    let (section, rest) = core.fetcher.find(&target.name, target.is_folder)?;
    if !matches!(case.request.method, Method::Get | Method::Head) {
        return Some(Route::Refuse(Reply::fetched_is_read_only()));
    }
    let outcome = match case.landed() {
        Some(flight) => flight.outcome().cloned().unwrap_or(Outcome::Failed(Failure::TimedOut)),
        None => match section.look(rest, target.is_folder, target.query) {
            Look::Coming(..) if core.is_draining.get() => {
                return Some(case.answer(&Reply::draining(), out));
            }
            Look::Coming(flight, is_shared) => {
                core.counters.add(Counter::FetchesCollapsed, u64::from(is_shared));
                return Some(Route::Fetch(flight));
            }
            Look::Now { outcome, is_stale } => {
                core.counters.add(Counter::FetchHits, 1);
                core.counters.add(Counter::FetchedStale, u64::from(is_stale));
                outcome
            }
        },
    };
    core.cmcd.note(&core.counters, &target.name, target.query, case.request.headers);
    Some(match outcome {
        Outcome::Answer(fetched) if fetched.is_sound() => answer(case, &fetched, out),
        // It was cut between its head and this.
        Outcome::Answer(_) => case.answer(&Reply::of_failure(Failure::Broken), out),
        Outcome::Failed(failure) => case.answer(&Reply::of_failure(failure), out),
    })
}

fn answer(case: &Case<'_>, fetched: &Arc<Fetched>, out: &mut Vec<u8>) -> Route {
    let ask = case.ask();
    // RFC 9111 §5.1: who keeps answers says how old they are.
    let age_s = fetched.age_s(clock::tick_ms());
    let aged =
        (age_s > 0).then(|| [ask.own_lines, format!("Age: {age_s}\r\n").as_bytes()].concat());
    let own_lines = aged.as_deref().unwrap_or(ask.own_lines);
    match &fetched.body {
        FetchedBody::Object { object, memory } => {
            let ask = Ask { own_lines, body: memory.plain().cloned(), ..ask };
            let got = match (memory.is_manifest, object.seal(), memory.plain()) {
                (true, Some(seal), Some(plain)) => {
                    manifest(case, &ask, (object, seal), (plain, memory), out)
                }
                _ => http_get::respond(&case.core.egress, &ask, object, out),
            };
            route_of(case, &ask, got, out)
        }
        FetchedBody::Text { fields, bytes } => {
            let frame = Frame { own_lines, ..case.frame() };
            case.count_status(fetched.status);
            let mut head = HeadWriter::new(out, fetched.status);
            for (name, value) in fields {
                head.field(name, value);
            }
            // RFC 9110 §8.6: a 204 has no Content-Length.
            if fetched.status != 204 {
                head.number("Content-Length", bytes.len() as u64);
            }
            head.lines(frame.common_lines);
            let route = case.finish(&frame, out);
            if !frame.is_head && fetched.status != 204 {
                out.extend_from_slice(bytes);
            }
            route
        }
    }
}

/// As a playlist of this server's own: in gzip if the request takes it, and no date is a condition.
fn manifest(
    case: &Case<'_>,
    ask: &Ask<'_>,
    (object, seal): (&Object, &Seal),
    (plain, memory): (&Bytes, &Memory),
    out: &mut Vec<u8>,
) -> Got {
    let takes_gzip = accepts_gzip(ask.fields.accept_encoding);
    let info = &object.info;
    let content_type = info.header("Content-Type").or_else(|| by_extension(&object.name));
    let forms = Forms {
        content_type: content_type.unwrap_or("application/octet-stream"),
        plain,
        zipped: takes_gzip.then(|| memory.zipped()),
        etag: &seal.etag,
        modified_ms: seal.modified_ms,
    };
    let told = info.headers.iter();
    let told = told.filter(|(name, _)| name != "Content-Type" && name != "Vary");
    let told = told.map(|(name, value)| (name.as_str(), value.as_str()));
    let varies = info.header("Vary").unwrap_or_default();
    let vary = match varies.to_ascii_lowercase().contains("accept-encoding") {
        true => varies.to_owned(),
        false if varies.is_empty() => "Accept-Encoding".to_owned(),
        false => format!("{varies}, Accept-Encoding"),
    };
    let egress = &case.core.egress;
    let mut fields: Vec<(&str, &str)> = told.chain([("Vary", vary.as_str())]).collect();
    if info.header("Cache-Control").is_none() {
        fields.push(("Cache-Control", &egress.options.cache_manifest));
    }
    http_playlist::respond_forms(egress, ask, &forms, &fields, out)
}
