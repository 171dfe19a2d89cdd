//! From a request to a door: which one, with what, and what may be answered at once.
//!
//! Nothing here waits. What has to wait is returned as a [`Route`], and `http` does the waiting.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::camera_routes;
use super::fetched_routes;
use super::pull_routes;
use super::reply::{self, Frame, Reply};
use super::upgrade::{self, Upgrade};
use super::{AdminPages, Core, Doors, Role};
use crate::channels::Look;
use crate::egress::answer::{Ask, Got};
use crate::egress::http_get;
use crate::egress::live::{self, Hold, Live};
use crate::egress::transfer::Transfer;
use crate::egress::websocket_receive;
use crate::fetch::Flight;
use crate::ingest::http_put::{self, Upload};
use crate::ingest::upload::UploadError;
use crate::ingest::websocket_append::OFFSET;
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::runtime::socket::Socket;
use crate::store::{
    Life, NAME_BYTES_MAX, NAME_PART_BYTES_MAX, Object, fits_file_system, is_object_name,
};
use crate::wire::http1::{
    BodyDecoder, Framing, HeadWriter, Method, Request, Target, Version, etag_list_matches,
    parse_target,
};
use crate::wire::websocket::is_upgrade;

/// A body that is not wanted may have so many bytes.
pub(super) const UNWANTED_BODY_BYTES_MAX: u64 = 64 << 10;

/// What a request comes to.
pub(super) enum Route {
    /// The answer is in the output buffer.
    Answered {
        keep_alive: bool,
    },
    /// As `Answered`, but a body that nobody wants comes first.
    Discard {
        decoder: BodyDecoder,
        keep_alive: bool,
    },
    Transfer {
        transfer: Box<Transfer>,
        keep_alive: bool,
    },
    Upload {
        upload: Box<Upload>,
        keep_alive: bool,
    },
    /// Read this small object into memory and route the request again.
    Load(Arc<Object>),
    /// Wait for the object to appear and route the request again.
    Watch {
        name: String,
        wait_ms: u64,
    },
    /// Wait for news of a presentation and route the request again.
    Hold(Hold),
    /// Wait for what is fetched from elsewhere and route the request again.
    Fetch(Arc<Flight>),
    /// Go on as a WebSocket.
    Upgrade(Box<Upgrade>),
    Refuse(Reply),
}

impl Route {
    /// Nothing was written: the same request is routed again.
    pub(super) fn waits(&self) -> bool {
        matches!(self, Route::Load(_) | Route::Watch { .. } | Route::Hold(_) | Route::Fetch(_))
    }
}

/// What a request brings when it is routed again.
#[derive(Default)]
pub(super) struct Resume {
    pub(super) waited_ms: Option<u64>,
    /// When the request was held first.
    pub(super) held_since: Option<Instant>,
    /// The object that was loaded, so that what is answered is what was read.
    pub(super) loaded: Option<(Arc<Object>, Bytes)>,
    /// What was waited for, so that who waited gets it, however short it may be kept.
    pub(super) landed: Option<Arc<Flight>>,
}

/// A request, and all else that its answer depends on.
pub(super) struct Case<'c> {
    pub(super) core: &'c Core,
    pub(super) request: &'c Request<'c, 'c>,
    pub(super) socket: &'c Socket,
    resume: &'c Resume,
    /// Lines that only this request gets.
    own_lines: &'c [u8],
}

/// Route one request.
pub(super) fn route(
    core: &Core,
    (role, socket): (&Role, &Socket),
    request: &Request<'_, '_>,
    resume: &Resume,
    own_lines: &[u8],
    out: &mut Vec<u8>,
) -> Route {
    let case = Case { core, request, socket, resume, own_lines };
    let has_body = !matches!(request.framing, Framing::None | Framing::Length(0));
    match request.method {
        method if method != Method::Get && wants_get(role, request) => {
            return Route::Refuse(Reply::method_not_supported());
        }
        Method::NotAllowed => return Route::Refuse(Reply::method_not_allowed()),
        Method::Unknown => return Route::Refuse(Reply::not_implemented()),
        Method::Get | Method::Head if has_body => return Route::Refuse(Reply::unexpected_body()),
        Method::Options => return with_body_discarded(request, answer_options(&case, out)),
        _ => {}
    }
    if request.target == "*" {
        // RFC 9112 §3.2.4: the asterisk-form is for OPTIONS only.
        return Route::Refuse(Reply::method_not_allowed());
    }
    let target = match parse_target(request.target) {
        Ok(target) => target,
        Err(error) => return Route::Refuse(Reply::of_target(error)),
    };
    let doors = match role {
        Role::Admin(pages) => return answer_admin(&case, &**pages, &target, out),
        Role::Objects(doors) => *doors,
        Role::Cameras(_) => unreachable!("cameras speak no HTTP"),
    };
    let authorization = || upgrade::field(request, "Authorization");
    let access = core.options.access.check(&target.name, target.is_folder, authorization);
    if let Err(denied) = access {
        core.counters.add(Counter::AccessDenied, 1);
        return with_body_discarded(request, case.answer(&Reply::of_denied(&denied), out));
    }
    route_to_door(&case, doors, &target, out)
}

/// Route a request that is let in. Cameras come first, then WebSockets, then what is fetched from
/// elsewhere, then presentations and objects.
fn route_to_door(case: &Case<'_>, doors: Doors, target: &Target<'_>, out: &mut Vec<u8>) -> Route {
    let Case { core, request, .. } = *case;
    if let Some(route) = route_elsewhere(case, doors, target, out) {
        return route;
    }
    let is_live = live::is_live(&core.egress, &target.name);
    let name = match &target.query {
        Some(query) if core.options.query_in_name && !is_live => {
            format!("{}?{query}", target.name).into()
        }
        _ => target.name.clone(),
    };
    if let Err(reply) = check_name(&name) {
        return Route::Refuse(reply);
    }
    match request.method {
        Method::Get | Method::Head => {
            if doors.channels
                && let Some(route) = get_channel(case, out)
            {
                return route;
            }
            let route = get(case, &name, target, out);
            if is_live && !route.waits() {
                core.cmcd.note(&core.counters, &name, target.query, request.headers);
            }
            route
        }
        Method::Put | Method::Post => put(case, &name, target.is_folder, is_live),
        Method::Delete => with_body_discarded(request, delete(case, &name, is_live, out)),
        Method::Options | Method::NotAllowed | Method::Unknown => unreachable!("answered above"),
    }
}

/// What is no object: cameras, WebSockets, pulled streams, and what listeners of their own say.
fn route_elsewhere(
    case: &Case<'_>,
    doors: Doors,
    target: &Target<'_>,
    out: &mut Vec<u8>,
) -> Option<Route> {
    if doors.http
        && let Some(route) = camera_routes::route(case, target, out)
    {
        return Some(route);
    }
    if case.request.fields.upgrade.is_some()
        && let Some(route) = upgrade::route(case, doors, target)
    {
        return Some(route);
    }
    if !doors.http {
        return answer_alone(case, doors, out);
    }
    pull_routes::route(case, target, out).or_else(|| fetched_routes::route(case, target, out))
}

/// A method other than GET makes no sense here: with an upgrade, or on a listener of append's own.
fn wants_get(role: &Role, request: &Request<'_, '_>) -> bool {
    let Role::Objects(doors) = role else { return false };
    let is_upgrade = (doors.append || doors.channels)
        && request.fields.upgrade.is_some()
        && is_upgrade(request.headers);
    is_upgrade || doors.is_only_append()
}

/// What a listener of WebSockets alone says to other requests; `None` if it is a GET that both have.
fn answer_alone(case: &Case<'_>, doors: Doors, out: &mut Vec<u8>) -> Option<Route> {
    if doors.is_only_append() {
        return None;
    }
    if case.request.target == "/" {
        return Some(case.answer(&Reply::websocket_greeting(), out));
    }
    let path = upgrade::channel_path(case.core, case.request.target);
    match path {
        Some(path) if path.kind == RECEIVE && case.request.method == Method::Get => None,
        Some(path) => Some(Route::Refuse(upgrade::why_no_channel(case.core, &path))),
        None => Some(case.answer(&Reply::bare_not_found(), out)),
    }
}

/// The last segment of a channel's path that HTTP knows too.
const RECEIVE: &str = "receive";

pub(super) fn check_name(name: &str) -> Result<(), Reply> {
    if !fits_file_system(name) {
        return Err(Reply::name_too_long(NAME_PART_BYTES_MAX, NAME_BYTES_MAX));
    }
    if name == ".headwater" || name.starts_with(".headwater/") {
        return Err(Reply::name_is_reserved());
    }
    // What normalising leaves is sound, but for what stands before a question mark of its own.
    if name.contains('?') && !is_object_name(name) {
        return Err(Reply::no_name());
    }
    Ok(())
}

/// An answer that was given before the request's body was read must not leave that body to be read
/// as the next request.
fn with_body_discarded(request: &Request<'_, '_>, route: Route) -> Route {
    let decoder = BodyDecoder::new(request.framing);
    match route {
        Route::Answered { keep_alive } if !decoder.is_finished() => match request.framing {
            Framing::Length(length) if length > UNWANTED_BODY_BYTES_MAX => {
                Route::Refuse(Reply::body_too_large())
            }
            _ => Route::Discard { decoder, keep_alive },
        },
        other => other,
    }
}

impl<'c> Case<'c> {
    fn is_head(&self) -> bool {
        self.request.method == Method::Head
    }

    fn is_http10(&self) -> bool {
        self.request.version == Version::Http10
    }

    fn keeps_alive(&self) -> bool {
        self.request.keep_alive && !self.core.is_draining.get()
    }

    pub(super) fn held_ms(&self) -> Option<u64> {
        self.resume.held_since.map(|since| (clock::now() - since).as_millis() as u64)
    }

    pub(super) fn frame(&self) -> Frame<'c> {
        Frame {
            is_head: self.is_head(),
            is_http10: self.is_http10(),
            keep_alive: self.keeps_alive(),
            cache_control: &self.core.options.cache_error,
            common_lines: &self.core.options.common_lines,
            waited_ms: self.resume.waited_ms,
            held_ms: self.held_ms(),
            own_lines: self.own_lines,
        }
    }

    pub(super) fn ask(&self) -> Ask<'c> {
        Ask {
            own_lines: self.own_lines,
            fields: &self.request.fields,
            is_head: self.is_head(),
            is_http10: self.is_http10(),
            keep_alive: self.keeps_alive(),
            waited_ms: self.resume.waited_ms,
            held_ms: self.held_ms(),
            body: self.resume.loaded.as_ref().map(|(_, body)| body.clone()),
        }
    }

    /// Write an error that leaves the connection usable.
    pub(super) fn answer(&self, reply: &Reply, out: &mut Vec<u8>) -> Route {
        let core = self.core;
        let mut frame = self.frame();
        if reply.status == 404 {
            frame.cache_control = &core.options.cache_not_found;
        }
        self.count_status(reply.status);
        reply::write(out, reply, &frame, &mut core.egress.date.borrow_mut(), clock::unix_s());
        Route::Answered { keep_alive: frame.keep_alive }
    }

    /// A page that is made for this request, for everybody who may read answers.
    pub(super) fn answer_page(&self, status: u16, page: (&str, &[u8]), out: &mut Vec<u8>) -> Route {
        let common = &self.core.options.common_lines;
        let route = self.write_page(common, status, page, out);
        with_body_discarded(self.request, route)
    }

    fn write_page(
        &self,
        common_lines: &[u8],
        status: u16,
        (content_type, body): (&str, &[u8]),
        out: &mut Vec<u8>,
    ) -> Route {
        let own_lines = if common_lines.is_empty() { &[] } else { self.own_lines };
        let frame = Frame { own_lines, ..self.frame() };
        let mut head = HeadWriter::new(out, status);
        head.field("Content-Type", content_type);
        head.number("Content-Length", body.len() as u64);
        head.field("Cache-Control", "no-store").lines(common_lines);
        let route = self.finish(&frame, out);
        if !frame.is_head {
            out.extend_from_slice(body);
        }
        route
    }

    /// Of an answer that is no success.
    pub(super) fn count_status(&self, status: u16) {
        let counters = &self.core.counters;
        match status {
            ..400 => {}
            400..500 => counters.add(Counter::ResponsesClientError, 1),
            500.. => counters.add(Counter::ResponsesServerError, 1),
        }
    }

    /// What this request has waited for.
    pub(super) fn landed(&self) -> Option<&'c Arc<Flight>> {
        self.resume.landed.as_ref()
    }

    /// End a head that was begun.
    pub(super) fn finish(&self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Route {
        reply::finish(out, frame, &mut self.core.egress.date.borrow_mut(), clock::unix_s());
        Route::Answered { keep_alive: frame.keep_alive }
    }
}

/// With several allowed origins, the lines for this request's one (Fetch standard §3.2.5).
pub(super) fn origin_line(core: &Core, request: &Request<'_, '_>) -> Vec<u8> {
    let Some(origin) = request.fields.origin else {
        return Vec::new();
    };
    let is_listed =
        core.options.listed_origins.iter().any(|listed| listed == origin || listed == "*");
    if is_listed {
        format!("Access-Control-Allow-Origin: {origin}\r\nTiming-Allow-Origin: {origin}\r\n")
            .into_bytes()
    } else {
        Vec::new()
    }
}

fn answer_options(case: &Case<'_>, out: &mut Vec<u8>) -> Route {
    let frame = case.frame();
    let mut head = HeadWriter::new(out, 204);
    head.field("Allow", "GET, HEAD, PUT, POST, DELETE, OPTIONS");
    head.lines(frame.common_lines).lines(&case.core.options.preflight_lines);
    case.finish(&frame, out)
}

fn answer_admin(
    case: &Case<'_>,
    pages: &AdminPages,
    target: &Target<'_>,
    out: &mut Vec<u8>,
) -> Route {
    if !matches!(case.request.method, Method::Get | Method::Head) {
        return Route::Refuse(Reply::admin_is_read_only());
    }
    let Some(page) = pages(&target.name) else {
        return case.answer(&Reply::not_found(), out);
    };
    case.write_page(&[], page.status, (page.content_type, &page.body), out)
}

/// The live tail of a channel that somebody publishes to.
fn get_channel(case: &Case<'_>, out: &mut Vec<u8>) -> Option<Route> {
    let path = upgrade::channel_path(case.core, case.request.target)?;
    if path.kind != RECEIVE {
        return None;
    }
    let egress = &case.core.egress;
    if !egress.channels.may_play(upgrade::ip_of(case.socket)) {
        return Some(case.answer(&Reply::not_whitelisted(), out));
    }
    match egress.channels.look(path.channel, path.key) {
        Look::Free => None,
        Look::WrongKey => Some(case.answer(&Reply::wrong_key(), out)),
        Look::Live(start) => {
            let ask = case.ask();
            let got = websocket_receive::respond(egress, &ask, &start, out);
            Some(route_of(case, &ask, got, out))
        }
    }
}

/// A name of a presentation, or else an object, or else the time.
fn get(case: &Case<'_>, name: &str, target: &Target<'_>, out: &mut Vec<u8>) -> Route {
    let egress = &case.core.egress;
    let ask = case.ask();
    let loaded = case.resume.loaded.as_ref().map(|(object, _)| object.clone());
    let mut listing = None;
    if loaded.is_none() && !target.is_folder {
        listing = pull_routes::lease(case, name);
        match live::respond(egress, &ask, name, target.query, out) {
            Live::NotLive => {}
            Live::Refused(refusal) if refusal.status == 503 && listing.is_some() => {}
            Live::Got(got) => return route_of(case, &ask, got, out),
            Live::Hold(_) if case.core.is_draining.get() => {
                case.core.counters.add(Counter::HoldsRefused, 1);
                return case.answer(&Reply::draining(), out);
            }
            Live::Hold(hold) => return Route::Hold(hold),
            Live::Refused(refusal) => return case.answer(&Reply::of_refusal(&refusal), out),
        }
    }
    let found =
        loaded.or_else(|| if target.is_folder { None } else { egress.store.lookup_or_adopt(name) });
    // Between its abort and its leaving the table an object is as good as absent.
    let found = found.filter(|object| matches!(object.life(), Life::Open | Life::Sealed));
    if let Some(object) = found {
        let own_lines = lines_of_object(case, &object);
        let ask = Ask { own_lines: own_lines.as_deref().unwrap_or(ask.own_lines), ..ask };
        let got = http_get::respond(egress, &ask, &object, out);
        return route_of(case, &ask, got, out);
    }
    if let Some(listing) = listing {
        return listing.hold();
    }
    if !target.is_folder && live::is_time(egress, name) {
        live::respond_time(egress, &ask, out);
        return Route::Answered { keep_alive: ask.keep_alive };
    }
    let may_wait = case.core.options.wait_absent && !ask.is_head && !target.is_folder;
    if may_wait && case.resume.waited_ms.is_none() && !case.core.is_draining.get() {
        return Route::Watch { name: name.to_owned(), wait_ms: wait_ms(case) };
    }
    case.answer(&Reply::not_found(), out)
}

/// A follower that resumes has to know whether the object is still the same.
fn lines_of_object(case: &Case<'_>, object: &Object) -> Option<Vec<u8>> {
    case.request.fields.upgrade?;
    upgrade::field(case.request, OFFSET)?;
    let line = format!("{}: {:016x}\r\n", upgrade::OBJECT, object.id);
    Some([case.own_lines, line.as_bytes()].concat())
}

pub(super) fn route_of(case: &Case<'_>, ask: &Ask<'_>, got: Got, out: &mut Vec<u8>) -> Route {
    match got {
        Got::Answered => Route::Answered { keep_alive: ask.keep_alive },
        Got::Load(object) => Route::Load(object),
        Got::Transfer(transfer) => {
            let keep_alive = ask.keep_alive && !transfer.ends_by_close();
            Route::Transfer { transfer, keep_alive }
        }
        Got::Unsatisfiable(length) => case.answer(&Reply::unsatisfiable(length), out),
        Got::PreconditionFailed => case.answer(&Reply::precondition_failed(), out),
    }
}

/// `Expires: in=N` (seconds) as go-chunked-streaming-server has it.
fn wait_ms(case: &Case<'_>) -> u64 {
    let options = &case.core.options;
    let asked = case.request.fields.expires.and_then(|value| {
        let digits = value.split_once("in=")?.1;
        let digits = &digits[..digits.bytes().take_while(u8::is_ascii_digit).count()];
        digits.parse::<u64>().ok()
    });
    let wait_ms = asked.map_or(options.wait_default_ms, |seconds| seconds.saturating_mul(1000));
    wait_ms.min(options.wait_max_ms)
}

fn put(case: &Case<'_>, name: &str, is_folder: bool, is_live: bool) -> Route {
    let Case { core, request, .. } = case;
    if core.is_draining.get() {
        return Route::Refuse(Reply::draining());
    }
    if request.framing == Framing::None {
        return Route::Refuse(Reply::length_required());
    }
    // An encoder may ask with an empty body whether its publishing point is there.
    let is_probe = is_live && request.framing == Framing::Length(0);
    if is_folder && !is_probe {
        return Route::Refuse(Reply::name_is_folder());
    }
    if !upload_precondition_holds(core, request, name) {
        return Route::Refuse(Reply { closes: true, ..Reply::precondition_failed() });
    }
    let expects_continue = request.fields.expect_continue;
    match http_put::plan(
        &core.ingest.options,
        name,
        request.headers,
        request.framing,
        expects_continue,
    ) {
        Ok(upload) => Route::Upload { upload: Box::new(upload), keep_alive: case.keeps_alive() },
        Err(error) => Route::Refuse(Reply::of_put(&error)),
    }
}

/// `If-None-Match: *` creates only, `If-Match` replaces only what is known (RFC 9110 §13.1).
fn upload_precondition_holds(core: &Core, request: &Request<'_, '_>, name: &str) -> bool {
    let (if_match, if_none_match) = (request.fields.if_match, request.fields.if_none_match);
    if if_match.is_none() && if_none_match.is_none() {
        return true;
    }
    let current = core.ingest.store.lookup_or_adopt(name);
    let etag = current.as_ref().map(|object| object.seal().map_or("", |seal| &seal.etag));
    let matches = |list: &str| etag.is_some_and(|etag| etag_list_matches(list, etag, true));
    if_match.is_none_or(matches) && !if_none_match.is_some_and(matches)
}

/// 204, and 200 below a live prefix, where DASH-IF Live Media Ingest wants it.
fn delete(case: &Case<'_>, name: &str, is_live: bool, out: &mut Vec<u8>) -> Route {
    let ingest = &case.core.ingest;
    if let Err(error) = ingest.store.remove(name, Some(ingest.core)) {
        return case.answer(&Reply::of_remove(&error), out);
    }
    let frame = case.frame();
    let mut head = HeadWriter::new(out, if is_live { 200 } else { 204 });
    if is_live {
        head.number("Content-Length", 0);
    }
    head.lines(frame.common_lines);
    case.finish(&frame, out)
}

/// A failure of the storage is ours: count it and say it, once per failed upload.
pub(super) fn log_storage(core: &Core, name: &str, error: &UploadError) {
    use crate::store::{BeginError, StorageError, WriteError};
    let (UploadError::Begin(BeginError::Storage(cause))
    | UploadError::Write(WriteError::Storage(cause))) = error
    else {
        return;
    };
    core.counters.add(Counter::StorageErrors, 1);
    match cause {
        StorageError::NoSpace(cause) => tracing::warn!(object = name, %cause, "storage is full"),
        other => tracing::error!(object = name, error = %other, "storage failed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::http1::parse_target;

    proptest::proptest! {
        /// What passes here the store can have as a name.
        #[test]
        fn a_checked_name_is_one_of_the_store(
            target in "/([/.%a2eEfF3?#:]|%3F|%2e|\\.headwater|é){0,20}",
            is_query_in_name: bool,
        ) {
            let Ok(target) = parse_target(&target) else { return Ok(()) };
            let mut name = target.name.into_owned();
            if let Some(query) = target.query.filter(|_| is_query_in_name) {
                name = format!("{name}?{query}");
            }
            let is_checked = !name.is_empty() && check_name(&name).is_ok();
            proptest::prop_assert!(!is_checked || is_object_name(&name), "{name:?}");
        }
    }
}
