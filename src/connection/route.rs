//! From a request to a door: which one, with what, and what may be answered at once.
//!
//! Nothing here waits. What has to wait is returned as a [`Route`], and `http` does the waiting.

use std::sync::Arc;

use bytes::Bytes;

use super::reply::{self, Frame, Reply};
use super::{AdminPages, Core, Role};
use crate::egress::http_get::{self, Ask, Got, Transfer};
use crate::ingest::http_put::{self, Upload};
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::store::{Life, NAME_BYTES_MAX, NAME_PART_BYTES_MAX, Object, fits_file_system};
use crate::wire::http1::{
    BodyDecoder, Framing, HeadWriter, Method, Request, Target, Version, etag_list_matches,
    parse_target,
};

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
    Refuse(Reply),
}

/// What a request brings when it is routed again.
#[derive(Default)]
pub(super) struct Resume {
    pub(super) waited_ms: Option<u64>,
    /// The object that was loaded, so that what is answered is what was read.
    pub(super) loaded: Option<(Arc<Object>, Bytes)>,
}

/// Route one request.
pub(super) fn route(
    core: &Core,
    role: &Role,
    request: &Request<'_, '_>,
    resume: &Resume,
    out: &mut Vec<u8>,
) -> Route {
    let has_body = !matches!(request.framing, Framing::None | Framing::Length(0));
    match request.method {
        Method::NotAllowed => return Route::Refuse(Reply::method_not_allowed()),
        Method::Unknown => return Route::Refuse(Reply::not_implemented()),
        Method::Get | Method::Head if has_body => return Route::Refuse(Reply::unexpected_body()),
        Method::Options => return with_body_discarded(request, answer_options(core, request, out)),
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
    if let Role::Admin(pages) = role {
        return answer_admin(core, &**pages, request, &target, out);
    }
    let name = match &target.query {
        Some(query) if core.options.query_in_name => format!("{}?{query}", target.name).into(),
        _ => target.name.clone(),
    };
    if let Err(reply) = check_name(&name) {
        return Route::Refuse(reply);
    }
    match request.method {
        Method::Get | Method::Head => get(core, request, &name, target.is_folder, resume, out),
        Method::Put | Method::Post => put(core, request, &name, target.is_folder),
        Method::Delete => with_body_discarded(request, delete(core, request, &name, out)),
        Method::Options | Method::NotAllowed | Method::Unknown => unreachable!("answered above"),
    }
}

fn check_name(name: &str) -> Result<(), Reply> {
    if !fits_file_system(name) {
        return Err(Reply::name_too_long(NAME_PART_BYTES_MAX, NAME_BYTES_MAX));
    }
    if name == ".headwater" || name.starts_with(".headwater/") {
        return Err(Reply::name_is_reserved());
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

fn frame_of<'c>(
    core: &'c Core,
    request: &Request<'_, '_>,
    resume: &Resume,
    own_lines: &'c [u8],
) -> Frame<'c> {
    Frame {
        is_head: request.method == Method::Head,
        is_http10: request.version == Version::Http10,
        keep_alive: keeps_alive(core, request),
        cache_control: &core.options.cache_error,
        common_lines: &core.options.common_lines,
        waited_ms: resume.waited_ms,
        own_lines,
    }
}

/// With several allowed origins, the line for this request's one (Fetch standard §3.2.5).
pub(super) fn origin_line(core: &Core, request: &Request<'_, '_>) -> Vec<u8> {
    let Some(origin) = request.fields.origin else {
        return Vec::new();
    };
    let is_listed =
        core.options.listed_origins.iter().any(|listed| listed == origin || listed == "*");
    if is_listed {
        format!("Access-Control-Allow-Origin: {origin}\r\n").into_bytes()
    } else {
        Vec::new()
    }
}

fn keeps_alive(core: &Core, request: &Request<'_, '_>) -> bool {
    request.keep_alive && !core.is_draining.get()
}

/// Write an error that leaves the connection usable.
fn answer(
    core: &Core,
    request: &Request<'_, '_>,
    resume: &Resume,
    reply: &Reply,
    out: &mut Vec<u8>,
) -> Route {
    let own_lines = origin_line(core, request);
    let mut frame = frame_of(core, request, resume, &own_lines);
    if reply.status == 404 {
        frame.cache_control = &core.options.cache_not_found;
    }
    core.counters.add(Counter::ResponsesClientError, 1);
    reply::write(out, reply, &frame, &mut core.egress.date.borrow_mut(), clock::unix_s());
    Route::Answered { keep_alive: frame.keep_alive }
}

fn answer_options(core: &Core, request: &Request<'_, '_>, out: &mut Vec<u8>) -> Route {
    let own_lines = origin_line(core, request);
    let frame = frame_of(core, request, &Resume::default(), &own_lines);
    let mut head = HeadWriter::new(out, 204);
    head.field("Allow", "GET, HEAD, PUT, POST, DELETE, OPTIONS");
    head.lines(frame.common_lines).lines(&core.options.preflight_lines);
    reply::finish(out, &frame, &mut core.egress.date.borrow_mut(), clock::unix_s());
    Route::Answered { keep_alive: frame.keep_alive }
}

fn answer_admin(
    core: &Core,
    pages: &AdminPages,
    request: &Request<'_, '_>,
    target: &Target<'_>,
    out: &mut Vec<u8>,
) -> Route {
    if !matches!(request.method, Method::Get | Method::Head) {
        return Route::Refuse(Reply::admin_is_read_only());
    }
    let resume = Resume::default();
    let Some(page) = pages(&target.name) else {
        return answer(core, request, &resume, &Reply::not_found(), out);
    };
    let frame = frame_of(core, request, &resume, &[]);
    let mut head = HeadWriter::new(out, page.status);
    head.field("Content-Type", page.content_type);
    head.number("Content-Length", page.body.len() as u64);
    head.field("Cache-Control", "no-store");
    reply::finish(out, &frame, &mut core.egress.date.borrow_mut(), clock::unix_s());
    if !frame.is_head {
        out.extend_from_slice(page.body.as_bytes());
    }
    Route::Answered { keep_alive: frame.keep_alive }
}

fn get(
    core: &Core,
    request: &Request<'_, '_>,
    name: &str,
    is_folder: bool,
    resume: &Resume,
    out: &mut Vec<u8>,
) -> Route {
    let loaded = resume.loaded.as_ref().map(|(object, _)| object.clone());
    let found =
        loaded.or_else(|| if is_folder { None } else { core.egress.store.lookup_or_adopt(name) });
    // Between its abort and its leaving the table an object is as good as absent.
    let found = found.filter(|object| matches!(object.life(), Life::Open | Life::Sealed));
    let Some(object) = found else {
        let may_wait = core.options.wait_absent && request.method == Method::Get && !is_folder;
        if may_wait && resume.waited_ms.is_none() && !core.is_draining.get() {
            return Route::Watch { name: name.to_owned(), wait_ms: wait_ms(core, request) };
        }
        return answer(core, request, resume, &Reply::not_found(), out);
    };
    let own_lines = origin_line(core, request);
    let ask = Ask {
        own_lines: &own_lines,
        fields: &request.fields,
        is_head: request.method == Method::Head,
        is_http10: request.version == Version::Http10,
        keep_alive: keeps_alive(core, request),
        waited_ms: resume.waited_ms,
        body: resume.loaded.as_ref().map(|(_, body)| body.clone()),
    };
    match http_get::respond(&core.egress, &ask, &object, out) {
        Got::Answered => Route::Answered { keep_alive: ask.keep_alive },
        Got::Load(object) => Route::Load(object),
        Got::Transfer(transfer) => {
            let keep_alive = ask.keep_alive && !transfer.ends_by_close();
            Route::Transfer { transfer, keep_alive }
        }
        Got::Unsatisfiable(length) => {
            answer(core, request, resume, &Reply::unsatisfiable(length), out)
        }
        Got::PreconditionFailed => {
            answer(core, request, resume, &Reply::precondition_failed(), out)
        }
    }
}

/// `Expires: in=N` (seconds) as go-chunked-streaming-server has it.
fn wait_ms(core: &Core, request: &Request<'_, '_>) -> u64 {
    let asked = request.fields.expires.and_then(|value| {
        let digits = value.split_once("in=")?.1;
        let digits = &digits[..digits.bytes().take_while(u8::is_ascii_digit).count()];
        digits.parse::<u64>().ok()
    });
    let wait_ms =
        asked.map_or(core.options.wait_default_ms, |seconds| seconds.saturating_mul(1000));
    wait_ms.min(core.options.wait_max_ms)
}

fn put(core: &Core, request: &Request<'_, '_>, name: &str, is_folder: bool) -> Route {
    if core.is_draining.get() {
        return Route::Refuse(Reply::draining());
    }
    if request.framing == Framing::None {
        return Route::Refuse(Reply::length_required());
    }
    if is_folder {
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
        Ok(upload) => {
            Route::Upload { upload: Box::new(upload), keep_alive: keeps_alive(core, request) }
        }
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

fn delete(core: &Core, request: &Request<'_, '_>, name: &str, out: &mut Vec<u8>) -> Route {
    if let Err(error) = core.ingest.store.remove(name, Some(core.ingest.core)) {
        return answer(core, request, &Resume::default(), &Reply::of_remove(&error), out);
    }
    let own_lines = origin_line(core, request);
    let frame = frame_of(core, request, &Resume::default(), &own_lines);
    HeadWriter::new(out, 204).lines(frame.common_lines);
    reply::finish(out, &frame, &mut core.egress.date.borrow_mut(), clock::unix_s());
    Route::Answered { keep_alive: frame.keep_alive }
}

/// A failure of the storage is ours: count it and say it, once per failed upload.
pub(super) fn log_storage(core: &Core, name: &str, error: &http_put::PutError) {
    use crate::store::{BeginError, StorageError, WriteError};
    let (http_put::PutError::Begin(BeginError::Storage(cause))
    | http_put::PutError::Write(WriteError::Storage(cause))) = error
    else {
        return;
    };
    core.counters.add(Counter::StorageErrors, 1);
    match cause {
        StorageError::NoSpace(cause) => tracing::warn!(object = name, %cause, "storage is full"),
        other => tracing::error!(object = name, error = %other, "storage failed"),
    }
}
