//! Requests for pulled streams.

use std::sync::Arc;

use super::reply::Reply;
use super::route::{Case, Route, route_of};
use crate::egress::live::{self, Hold};
use crate::egress::ts_follow;
use crate::pulls::{ApiKind, Join, Pull};
use crate::store::NewsWait;
use crate::wire::http1::{Method, Target};

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
/// Of Prometheus.
const EXPOSITION: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The route of a request for a pulled stream; `None` if the name is none of one.
pub(super) fn route(case: &Case<'_>, target: &Target<'_>, out: &mut Vec<u8>) -> Option<Route> {
    let pulls = &case.core.egress.pulls;
    if let Some((kind, pull)) = pulls.find_api(target) {
        return Some(api(case, (kind, pull), target.query.unwrap_or_default(), out));
    }
    if !matches!(case.request.method, Method::Get | Method::Head) {
        let is_taken = takes_nothing(case, target);
        return is_taken.then(|| Route::Refuse(Reply::fetched_is_read_only()));
    }
    let pull = pulls.find(target)?;
    match pulls.join(pull, case.held_ms().unwrap_or(0)) {
        Join::Reading(reading) => {
            let ask = case.ask();
            let got = ts_follow::respond(&case.core.egress, &ask, reading, out);
            Some(route_of(case, &ask, got, out))
        }
        // As restreamer answers, and not 503.
        Join::Offline | Join::Full => Some(case.answer(&Reply::not_found(), out)),
        Join::Starting(news, wait_ms_max) => {
            if case.core.is_draining.get() {
                return Some(case.answer(&Reply::not_found(), out));
            }
            Some(Route::Hold(Hold::new(news, wait_ms_max)))
        }
    }
}

/// A stream and its publishing point are what its upstream says, and nobody else. What is pushed to
/// another publishing point is not hidden by a stream that has a whole folder.
pub(super) fn takes_nothing(case: &Case<'_>, target: &Target<'_>) -> bool {
    let (egress, name) = (&case.core.egress, &*target.name);
    match live::is_live(egress, name) {
        true => egress.pulls.all().iter().any(|pull| pull.lists(name, target.is_folder)),
        false => egress.pulls.find(target).is_some(),
    }
}

/// A request below the folder where a stream on demand is listed keeps it; one for a playlist or a
/// manifest makes it begin, and is told how to wait while there is none, as readers are.
pub(super) fn lease(case: &Case<'_>, name: &str) -> Option<Listing> {
    let pulls = &case.core.egress.pulls;
    let pull = pulls.find_listed(name).filter(|pull| !pull.is_off())?;
    let is_list = name.ends_with(".m3u8") || name.ends_with(".mpd");
    let news = pull.news();
    let wait_ms_max = pulls.lease(pull, is_list, case.held_ms().unwrap_or(0));
    let may_wait = wait_ms_max > 0 && !case.core.is_draining.get();
    may_wait.then(|| Listing { pull: pull.clone(), news, wait_ms_max })
}

/// A stream whose playlist is asked for.
pub(super) struct Listing {
    pull: Arc<Pull>,
    news: NewsWait,
    wait_ms_max: u64,
}

impl Listing {
    /// There is no playlist yet, or an old one: more bytes, and perhaps there is.
    pub(super) fn hold(self) -> Route {
        self.pull.await_bytes();
        Route::Hold(Hold::new(self.news, self.wait_ms_max))
    }
}

/// An answer of an API, as restreamer gives it; a body that came along means nothing.
fn api(
    case: &Case<'_>,
    (kind, pull): (ApiKind, Option<&Arc<Pull>>),
    query: &str,
    out: &mut Vec<u8>,
) -> Route {
    let pulls = &case.core.egress.pulls;
    let text = |status: u16, text: &str| (status, TEXT, text.as_bytes().to_vec());
    let has = |word: &str| query.split('&').any(|pair| pair.split('=').next() == Some(word));
    let (status, content_type, body) = match (kind, pull) {
        (ApiKind::Health, _) => (200, JSON, pulls.health()),
        (ApiKind::Statistics, _) => (200, JSON, pulls.statistics()),
        (ApiKind::Prometheus, _) => (200, EXPOSITION, pulls.exposition().into_bytes()),
        (ApiKind::Check, Some(pull)) if pull.connected().is_some() => text(200, "200 ok"),
        (ApiKind::Control, Some(pull)) if has("offline") || has("online") => {
            // Both: it is off.
            pulls.switch(pull, has("offline"));
            text(202, "202 accepted")
        }
        (ApiKind::Control, Some(_)) => text(400, "400 bad request"),
        (ApiKind::Check | ApiKind::Control, _) => text(404, "404 not found"),
    };
    case.answer_page(status, (content_type, &body), out)
}
