//! Requests for pulled streams.

use super::reply::Reply;
use super::route::{Case, Route, route_of};
use crate::egress::live::Hold;
use crate::egress::ts_follow;
use crate::pulls::Join;
use crate::wire::http1::{Method, Target};

/// The route of a request for a pulled stream; `None` if the name is none of one.
pub(super) fn route(case: &Case<'_>, target: &Target<'_>, out: &mut Vec<u8>) -> Option<Route> {
    let pulls = &case.core.egress.pulls;
    if !matches!(case.request.method, Method::Get | Method::Head) {
        return None;
    }
    let pull = pulls.find(&target.name)?;
    match pulls.join(pull) {
        Join::Reading(reading) => {
            let ask = case.ask();
            let got = ts_follow::respond(&case.core.egress, &ask, reading, out);
            Some(route_of(case, &ask, got, out))
        }
        // As restreamer answers, and not 503.
        Join::Offline | Join::Full => Some(case.answer(&Reply::not_found(), out)),
        Join::Starting(news) => {
            let patience = pull.options.hold_over.max(pull.options.connect_timeout);
            let held_ms = case.held_ms().unwrap_or(0);
            let wait_ms_max = (patience.as_millis() as u64).saturating_sub(held_ms);
            if wait_ms_max == 0 || case.core.is_draining.get() {
                return Some(case.answer(&Reply::not_found(), out));
            }
            Some(Route::Hold(Hold::new(news, wait_ms_max)))
        }
    }
}
