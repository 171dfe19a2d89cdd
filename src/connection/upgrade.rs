//! Upgrades to WebSockets: which of the two systems' doors a request is for, in the order in which
//! the original of each looks at it, and the doors' run.

use std::net::IpAddr;

use super::pull_routes;
use super::reply::Reply;
use super::route::{Case, Route, check_name};
use super::{Core, Doors};
use crate::channels::{Admission, PublishRequest};
use crate::egress::websocket_follow::{self, Follow};
use crate::egress::websocket_receive::{self, Kind, Receive};
use crate::egress::websocket_view::{self, View};
use crate::ingest::websocket_append::{self, Append, OFFSET};
use crate::ingest::websocket_publish::{self, Publish};
use crate::runtime::deadlines::Deadline;
use crate::runtime::socket::Socket;
use crate::store::Life;
use crate::wire::http1::{HeadWriter, Request, Target, Version};
use crate::wire::websocket::{self, Handshake};

/// Names an appender over all its connections.
const SESSION: &str = "Headwater-Session";
/// Tells one object from another of the same name.
pub(super) const OBJECT: &str = "Headwater-Object";
/// The subprotocol of followers that want binary messages.
const BINARY: &str = "binary";
/// Longer session names are none.
const SESSION_BYTES_MAX: usize = 64;

/// A WebSocket that a request asks for, admitted as far as that needs no waiting.
pub(super) enum Upgrade {
    Append(Append),
    Follow(Follow),
    Publish(Publish, Admission),
    Receive(Receive, Admission),
    /// Of a camera.
    View(View),
}

/// `/CHANNEL/KEY/KIND`, as sent.
pub(super) struct ChannelPath<'t> {
    pub(super) channel: &'t str,
    pub(super) key: &'t str,
    pub(super) kind: &'t str,
}

/// Exactly three segments below the prefix of channels. A query is part of the last.
pub(super) fn channel_path<'t>(core: &Core, target: &'t str) -> Option<ChannelPath<'t>> {
    let below = target.strip_prefix(core.options.channels_prefix.as_str())?;
    let mut segments = below.split('/');
    let (channel, key, kind) = (segments.next()?, segments.next()?, segments.next()?);
    segments.next().is_none().then_some(ChannelPath { channel, key, kind })
}

/// The route of a request that wants another protocol; `None` if that is not ours to speak, and the
/// request is answered as if it had not asked (RFC 9110 §7.8).
pub(super) fn route(case: &Case<'_>, doors: Doors, target: &Target<'_>) -> Option<Route> {
    let request = case.request;
    // RFC 9110 §7.8: in HTTP/1.0 it means nothing.
    if request.version == Version::Http10 || !websocket::is_upgrade(request.headers) {
        return None;
    }
    if doors.channels
        && let Some(path) = channel_path(case.core, request.target)
        && (is_kind(path.kind) || doors.is_only_channels() || case.core.has_own_channel_prefix())
    {
        return Some(channel(case, &path).unwrap_or_else(Route::Refuse));
    }
    let prefix = case.core.options.append_prefix.trim_start_matches('/');
    if doors.append && target.name.starts_with(prefix) {
        return append_or_follow(case, target);
    }
    None
}

fn is_kind(kind: &str) -> bool {
    kind == PUBLISH || kind_of_receiver(kind).is_some()
}

const PUBLISH: &str = "publish";

fn kind_of_receiver(kind: &str) -> Option<Kind> {
    match kind {
        "receive" => Some(Kind::Receive),
        "receive-clear-cache" => Some(Kind::ReceiveClearCache),
        "probe" => Some(Kind::Probe),
        _ => None,
    }
}

fn channel(case: &Case<'_>, path: &ChannelPath<'_>) -> Result<Route, Reply> {
    let channels = &case.core.egress.channels;
    let ip = ip_of(case.socket);
    let admission = channels.admit(ip).map_err(|_| Reply::too_many_connections())?;
    check_ids(case.core, path)?;
    let own = |text: &str| text.to_owned();
    let head = || match websocket::handshake(case.request.headers) {
        Ok(offered) => Ok(ended(switching(&offered, None))),
        Err(_) => Err(Reply::bare_bad_handshake()),
    };
    let upgrade = match kind_of_receiver(path.kind) {
        None if path.kind != PUBLISH => return Err(Reply::unknown_kind()),
        None => {
            if channels.is_taken(path.channel) {
                return Err(Reply::already_publishing());
            }
            let head = head()?;
            let request = PublishRequest { channel: own(path.channel), key: own(path.key), ip };
            Upgrade::Publish(Publish { request, head }, admission)
        }
        Some(kind) => {
            if !channels.may_play(ip) {
                return Err(Reply::not_whitelisted());
            }
            let head = head()?;
            let (channel, key) = (own(path.channel), own(path.key));
            Upgrade::Receive(Receive { channel, key, kind, head }, admission)
        }
    };
    if case.core.is_draining.get() {
        return Err(Reply::draining());
    }
    Ok(Route::Upgrade(Box::new(upgrade)))
}

/// The answer to a request of a channel that does not ask for a WebSocket.
pub(super) fn why_no_channel(core: &Core, path: &ChannelPath<'_>) -> Reply {
    match check_ids(core, path) {
        Err(reply) => reply,
        Ok(()) if is_kind(path.kind) => Reply::bare_bad_handshake(),
        Ok(()) => Reply::unknown_kind(),
    }
}

fn check_ids(core: &Core, path: &ChannelPath<'_>) -> Result<(), Reply> {
    let options = &core.egress.channels.options;
    if !options.is_id(path.channel) {
        return Err(Reply::invalid_channel());
    }
    if !options.is_id(path.key) {
        return Err(Reply::invalid_key_name());
    }
    Ok(())
}

/// `None`: nobody appends, so the plain answer is the right one.
fn append_or_follow(case: &Case<'_>, target: &Target<'_>) -> Option<Route> {
    let request = case.request;
    if let Err(reply) = check_name(&target.name) {
        return Some(Route::Refuse(reply));
    }
    let upgrade = if wants_append(request, target) {
        append(case, target)
    } else {
        follow(case, target).transpose()?
    };
    let refuse = |reply| Route::Refuse(reply);
    Some(upgrade.map_or_else(refuse, |upgrade| Route::Upgrade(Box::new(upgrade))))
}

/// The header field counts, and if it is not there the query.
fn wants_append(request: &Request<'_, '_>, target: &Target<'_>) -> bool {
    if let Some(verb) = field(request, "X-Verb").filter(|verb| !verb.is_empty()) {
        return verb == "APPEND";
    }
    let pairs = target.query.unwrap_or_default().split('&');
    pairs.filter_map(|pair| pair.split_once('=')).any(|pair| pair == ("verb", "APPEND"))
}

fn append(case: &Case<'_>, target: &Target<'_>) -> Result<Upgrade, Reply> {
    if target.is_folder {
        return Err(Reply::append_failed("the name ends in a slash"));
    }
    if pull_routes::takes_nothing(case, target) {
        return Err(Reply::fetched_is_read_only());
    }
    let session = field(case.request, SESSION).filter(|name| name.len() <= SESSION_BYTES_MAX);
    let session = session.map(str::to_owned);
    let present = case.core.egress.store.lookup(&target.name);
    if session.is_none() && present.is_some_and(|object| object.is_open()) {
        return Err(Reply::appender_active());
    }
    let offered = websocket::handshake(case.request.headers).map_err(Reply::of_handshake)?;
    if case.core.is_draining.get() {
        return Err(Reply::draining());
    }
    let head = switching(&offered, None);
    Ok(Upgrade::Append(Append { name: target.name.clone().into_owned(), session, head }))
}

fn follow(case: &Case<'_>, target: &Target<'_>) -> Result<Option<Upgrade>, Reply> {
    let found = case.core.egress.store.lookup(&target.name).filter(|_| !target.is_folder);
    let Some(object) = found.filter(|object| object.life() == Life::Open) else {
        return Ok(None);
    };
    let offset = field(case.request, OFFSET).and_then(|offset| offset.parse().ok());
    let offered = websocket::handshake(case.request.headers).map_err(Reply::of_handshake)?;
    let is_binary = offered.protocols.contains(&BINARY);
    // In the middle of a character there is no text.
    let is_there = |at: &u64| is_binary && *at >= object.head() && *at <= object.tail();
    let resume_at = offset.filter(is_there);
    let mut head = switching(&offered, is_binary.then_some(BINARY));
    if offset.is_some() {
        let mut lines = HeadWriter::resume(&mut head);
        lines.field(OBJECT, &format!("{:016x}", object.id));
        if let Some(at) = resume_at {
            lines.number(OFFSET, at);
        }
    }
    Ok(Some(Upgrade::Follow(Follow { object, is_binary, resume_at, head: ended(head) })))
}

/// The answer to the handshake (RFC 6455 §4.2.2), without the empty line.
pub(super) fn switching(offered: &Handshake<'_>, protocol: Option<&str>) -> Vec<u8> {
    let mut head = Vec::with_capacity(192);
    let mut lines = HeadWriter::new(&mut head, 101);
    lines.field("Upgrade", "websocket");
    lines.field("Connection", "Upgrade");
    lines.field("Sec-WebSocket-Accept", &websocket::accept_key(offered.key));
    if let Some(protocol) = protocol {
        lines.field("Sec-WebSocket-Protocol", protocol);
    }
    head
}

pub(super) fn ended(mut head: Vec<u8>) -> Vec<u8> {
    head.extend_from_slice(b"\r\n");
    head
}

/// The value of a field that only these doors know.
pub(super) fn field<'b>(request: &Request<'_, 'b>, name: &str) -> Option<&'b str> {
    let found = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(found.value).ok()
}

/// The end of a connection that was upgraded.
pub(super) enum Parted {
    /// Say this and close.
    Words(Vec<u8>),
    /// It was not upgraded after all.
    Refused(Reply),
}

/// Run a door to its end. `input` is what came behind the request.
///
/// Writers are few and their tasks large: boxed, they are no part of each reader's task.
pub(super) async fn run(
    core: &Core,
    upgrade: Upgrade,
    input: Vec<u8>,
    socket: &Socket,
    deadline: &Deadline,
) -> Parted {
    match upgrade {
        Upgrade::Follow(follow) => {
            let words =
                websocket_follow::follow(&core.egress, follow, input, socket, deadline).await;
            Parted::Words(words)
        }
        Upgrade::Receive(receive, _admission) => {
            let words =
                websocket_receive::receive(&core.egress, receive, input, socket, deadline).await;
            Parted::Words(words)
        }
        Upgrade::View(view) => {
            let viewing = websocket_view::follow(&core.egress, view, input, socket, deadline);
            Parted::Words(Box::pin(viewing).await)
        }
        Upgrade::Append(append) => {
            let name = append.name.clone();
            let writing = websocket_append::append(&core.ingest, append, input, socket, deadline);
            let ended = Box::pin(writing).await;
            ended.map_or_else(
                |error| {
                    super::route::log_storage(core, &name, &error);
                    Parted::Refused(Reply::of_append(&error))
                },
                Parted::Words,
            )
        }
        Upgrade::Publish(publish, _admission) => {
            let name = publish.request.channel.clone();
            let writing =
                websocket_publish::publish(&core.ingest, publish, input, socket, deadline);
            let ended = Box::pin(writing).await;
            ended.map_or_else(
                |error| {
                    if let websocket_publish::PublishError::Upload(error) = &error {
                        super::route::log_storage(core, &name, error);
                    }
                    Parted::Refused(Reply::of_publish(&error))
                },
                Parted::Words,
            )
        }
    }
}

/// The address of a connection that cannot be asked: nobody's.
pub(super) fn ip_of(socket: &Socket) -> IpAddr {
    socket.peer_ip().unwrap_or(IpAddr::from([0, 0, 0, 0]))
}
