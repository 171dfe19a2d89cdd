//! Requests for cameras: their pictures, their newest picture, H.264 as a byte stream or through a
//! WebSocket.

use super::reply::Reply;
use super::route::{Case, Route, route_of};
use crate::cameras::Wanted;
use crate::egress::mjpeg_follow;
use crate::wire::http1::{Method, Target};
use crate::wire::tcp_framing::{PictureKind, Quality};

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
        let wanted = match wanted(target) {
            Ok(wanted) => wanted,
            Err(reply) => return Some(case.answer(&reply, out)),
        };
        let ask = case.ask();
        let got = mjpeg_follow::respond(&case.core.egress, &ask, (watch, wanted), out);
        return Some(route_of(case, &ask, got, out));
    }
    let is_empty = cameras.options.has_empty_streams
        && cameras.options.is_camera_name(&target.name)
        && case.core.egress.store.lookup(&target.name).is_none();
    is_empty.then(|| case.answer(&Reply::empty_stream(), out))
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
