//! Requests for cameras: their pictures, their newest picture, H.264 as a byte stream or through a
//! WebSocket.

use super::reply::Reply;
use super::route::{Case, Route, route_of};
use super::upgrade::{self, Upgrade};
use crate::cameras::{Wanted, Watch};
use crate::egress::websocket_view::View;
use crate::egress::{h264_follow, mjpeg_follow};
use crate::wire::http1::{Method, Target, Version};
use crate::wire::tcp_framing::{PictureKind, Quality};
use crate::wire::websocket;

/// What the newest picture of a camera is called, behind the camera's name.
const NEWEST: &str = ".jpg";

/// The route of a request for a camera; `None` if the name is none of a camera that sends.
pub(super) fn route(case: &Case<'_>, target: &Target<'_>, out: &mut Vec<u8>) -> Option<Route> {
    let cameras = &case.core.egress.cameras;
    let is_get = matches!(case.request.method, Method::Get | Method::Head);
    if !cameras.options.is_enabled || !is_get || target.is_folder {
        return None;
    }
    if let Some(name) = target.name.strip_suffix(NEWEST)
        && let Some(route) = newest(case, name, out)
    {
        return Some(route);
    }
    if let Some(watch) = cameras.watch(&target.name) {
        let route = wanted(target).and_then(|wanted| pictures(case, (watch, wanted), out));
        return Some(route.unwrap_or_else(|reply| case.answer(&reply, out)));
    }
    let is_empty = cameras.options.has_empty_streams
        && cameras.options.is_camera_name(&target.name)
        && case.core.egress.store.lookup(&target.name).is_none();
    is_empty.then(|| case.answer(&Reply::empty_stream(), out))
}

/// As the viewer asks for it, and as the camera has it.
fn pictures(
    case: &Case<'_>,
    (watch, wanted): (Watch, Wanted),
    out: &mut Vec<u8>,
) -> Result<Route, Reply> {
    let egress = &case.core.egress;
    let tracks = watch.tracks();
    let quality = match wanted {
        Wanted::Auto => Quality::High,
        Wanted::Fixed(quality) => quality,
    };
    let h264 = tracks.nearest(PictureKind::H264, quality);
    let has_mjpeg = tracks.nearest(PictureKind::Mjpeg, quality).is_some();
    if wants_websocket(case) {
        let kind = if h264.is_some() { PictureKind::H264 } else { PictureKind::Mjpeg };
        let view = View { watch, kind, wanted, head: websocket_head(case)? };
        return Ok(Route::Upgrade(Box::new(Upgrade::View(view))));
    }
    let ask = case.ask();
    let got = match h264 {
        Some(track) if !has_mjpeg => h264_follow::respond(egress, &ask, track, out),
        _ if has_mjpeg => mjpeg_follow::respond(egress, &ask, (watch, wanted), out),
        // It has just ended: what comes in its place may be of either kind.
        _ => return Err(Reply::not_found()),
    };
    Ok(route_of(case, &ask, got, out))
}

/// RFC 9110 §7.8: in HTTP/1.0 it means nothing.
fn wants_websocket(case: &Case<'_>) -> bool {
    let request = case.request;
    request.version != Version::Http10
        && request.fields.upgrade.is_some()
        && websocket::is_upgrade(request.headers)
}

/// The answer to the handshake. A page from elsewhere must be one that may read answers (`[cors]`).
fn websocket_head(case: &Case<'_>) -> Result<Vec<u8>, Reply> {
    if let Some(origin) = case.request.fields.origin {
        let host = origin.split_once("://").map_or(origin, |(_, host)| host);
        let is_own = upgrade::field(case.request, "Host").is_some_and(|own| own == host);
        let may_read = |allowed: &String| allowed == "*" || allowed == origin;
        if !is_own && !case.core.options.allowed_origins.iter().any(may_read) {
            return Err(Reply::foreign_origin());
        }
    }
    let offered =
        websocket::handshake(case.request.headers).map_err(|_| Reply::bare_bad_handshake())?;
    if case.core.is_draining.get() {
        return Err(Reply::draining());
    }
    Ok(upgrade::ended(upgrade::switching(&offered, None)))
}

fn newest(case: &Case<'_>, name: &str, out: &mut Vec<u8>) -> Option<Route> {
    let tracks = case.core.egress.cameras.find(name)?;
    let track = tracks.nearest(PictureKind::Mjpeg, Quality::High)?;
    let ask = case.ask();
    let got = mjpeg_follow::respond_newest(&case.core.egress, &ask, track, out)?;
    Some(route_of(case, &ask, got, out))
}

/// `?quality=low` or `high`; without it the viewer gets what it keeps up with.
fn wanted(target: &Target<'_>) -> Result<Wanted, Reply> {
    let pairs = target.query.unwrap_or_default().split('&');
    let quality = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == "quality");
    match quality {
        None | Some((_, "auto")) => Ok(Wanted::Auto),
        Some((_, word)) => match Quality::from_word(word) {
            Some(quality) => Ok(Wanted::Fixed(quality)),
            None => Err(Reply::unknown_quality()),
        },
    }
}
