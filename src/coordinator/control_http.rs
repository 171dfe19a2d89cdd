//! The coordinator's HTTP: control sockets of streaming servers and encoders, and the commands of
//! the application. The texts are those of the original.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::addresses::{SaidAddress, ServerAddress, ServerKind};
use super::control_link::{self, Pace};
use super::control_token::{self, Credentials};
use super::hub::Hub;
use crate::wire::channel_messages::ChannelMessage;

/// Connections to the coordinator, control sockets included; more wait to be accepted.
pub const COORDINATOR_CONNECTIONS_MAX: usize = 4096;
/// Bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEAD_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// All requests of a connection that does not become a control socket, and their answers.
const CONNECTION_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(60);
/// Of the acceptor, when the process has no descriptor left.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

const GREETING: &str = "Coordinator streaming server - Version 1.0.0";

type Answer = Response<Full<Bytes>>;

/// What requests are judged by.
pub(super) struct Door {
    pub(super) hub: Arc<Hub>,
    pub(super) secret: Option<String>,
    pub(super) commands: Option<Credentials>,
    pub(super) pace: Pace,
    pub(super) connections: Arc<Semaphore>,
}

/// Who opens a control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Party {
    Server(ServerKind),
    Encoder,
}

impl Party {
    fn of(path: &str) -> Option<Party> {
        match path {
            "/ws/control/wss" => Some(Party::Server(ServerKind::Ws)),
            "/ws/control/rtmp" => Some(Party::Server(ServerKind::Rtmp)),
            "/ws/control/hls" => Some(Party::Encoder),
            _ => None,
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Party::Server(ServerKind::Ws) => "wss-control",
            Party::Server(ServerKind::Rtmp) => "rtmp-control",
            Party::Encoder => "hls-control",
        }
    }
}

pub(super) async fn accept_forever(door: Arc<Door>, listener: TcpListener) {
    loop {
        let turn = door.connections.clone().acquire_owned().await;
        match listener.accept().await {
            Ok((stream, from)) => {
                let door = door.clone();
                tokio::spawn(async move {
                    serve(door, stream, from).await;
                    drop(turn);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the coordinator cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve(door: Arc<Door>, stream: TcpStream, from: SocketAddr) {
    let _ = stream.set_nodelay(true);
    // What an upgrade leaves to be run when hyper is done with the connection.
    let (upgrades, mut upgraded) = tokio::sync::mpsc::unbounded_channel();
    let service = service_fn(|request| {
        let (answer, upgrade) = answer(&door, request, from.ip());
        if let Some(upgrade) = upgrade {
            let _ = upgrades.send(upgrade);
        }
        async move { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::debug!(%from, %error, "a connection to the coordinator has failed");
        }
        Err(_) => tracing::debug!(%from, "a connection to the coordinator was cut"),
    }
    if let Ok((session, upgrade)) = upgraded.try_recv() {
        session.run(&door, upgrade).await;
    }
}

type Upgrade = (Session, OnUpgrade);

/// A control socket.
struct Session {
    party: Party,
    ip: IpAddr,
    address: Option<ServerAddress>,
}

impl Session {
    async fn run(&self, door: &Door, upgrade: OnUpgrade) {
        let Ok(socket) = upgrade.await else { return };
        let Some((peer, outgoing)) = door.hub.open_link() else { return };
        let config = control_link::web_socket_config();
        let socket = TokioIo::new(socket);
        let socket = WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await;
        tracing::info!(peer, ip = %self.ip, party = ?self.party, "a control connection begins");
        door.hub.with_board(|board| match &self.address {
            Some(address) => board.server_joined(peer, address.clone()),
            None => board.encoder_joined(peer, self.ip),
        });
        let take = |message: ChannelMessage| self.take(door, peer, &message);
        let end = control_link::run(socket, door.pace, outgoing, take).await;
        tracing::info!(peer, %end, "a control connection has ended");
        if !door.hub.close_link(peer) {
            return;
        }
        door.hub.with_board(|board| match self.party {
            Party::Server(_) => board.server_left(peer),
            Party::Encoder => board.encoder_left(peer),
        });
    }

    fn take(&self, door: &Door, peer: u64, message: &ChannelMessage) {
        if message.method() == "ERROR" {
            let (code, text) = (message.get("Error-Code"), message.get("Error-Message"));
            tracing::warn!(peer, code, text, "a control connection tells of an error");
            return;
        }
        door.hub.with_board(|board| match self.party {
            Party::Server(_) => board.server_says(peer, message),
            Party::Encoder => board.encoder_says(peer, message),
        });
    }
}

fn answer(door: &Door, request: Request<Incoming>, ip: IpAddr) -> (Answer, Option<Upgrade>) {
    let path = request.uri().path();
    if let Some(party) = Party::of(path) {
        return open_socket(door, party, request, ip);
    }
    let answer = match (request.method(), path) {
        (_, "/") => text(StatusCode::OK, GREETING),
        (&Method::POST, "/commands/close") => command(door, request.headers(), close),
        (&Method::GET, "/commands/capacity") => command(door, request.headers(), |door, _| {
            json(&door.hub.with_board(|board| board.capacity()))
        }),
        (&Method::GET, "/commands/report") => command(door, request.headers(), |door, _| {
            json(&door.hub.with_board(|board| board.report()))
        }),
        _ => text(StatusCode::NOT_FOUND, "Not found."),
    };
    (answer, None)
}

fn command(door: &Door, headers: &HeaderMap, run: fn(&Door, &HeaderMap) -> Answer) -> Answer {
    let said = field(headers, AUTHORIZATION.as_str());
    match &door.commands {
        Some(wanted) if wanted.accept(said) => run(door, headers),
        _ => text(StatusCode::UNAUTHORIZED, "Invalid authorization header."),
    }
}

fn close(door: &Door, headers: &HeaderMap) -> Answer {
    let (channel, id) = (field(headers, "x-streaming-channel"), field(headers, "x-streaming-id"));
    door.hub.with_board(|board| board.close_command(channel, id));
    text(StatusCode::OK, "SUCCESS")
}

fn open_socket(
    door: &Door,
    party: Party,
    mut request: Request<Incoming>,
    ip: IpAddr,
) -> (Answer, Option<Upgrade>) {
    let headers = request.headers();
    let token = field(headers, "x-control-auth-token");
    let is_known = door
        .secret
        .as_deref()
        .is_none_or(|secret| control_token::is_good(secret, party.subject(), token));
    if !is_known {
        tracing::warn!(%ip, ?party, "a control connection with a wrong token");
        return (text(StatusCode::FORBIDDEN, "Invalid authentication token."), None);
    }
    let Some(accept) = accept_key(request.method(), headers) else {
        let mut answer = text(StatusCode::BAD_REQUEST, "Bad Request");
        answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        return (answer, None);
    };
    let said = SaidAddress {
        external_ip: field(headers, "x-external-ip"),
        custom_port: field(headers, "x-custom-port"),
        ssl_use: field(headers, "x-ssl-use"),
    };
    let address = match party {
        Party::Server(kind) => Some(ServerAddress::new(kind, ip, &said)),
        Party::Encoder => None,
    };
    let ip = said.ip_or(ip);
    let upgrade = hyper::upgrade::on(&mut request);
    (switching(accept), Some((Session { party, ip, address }, upgrade)))
}

/// RFC 6455 §4.2: the answer to a handshake, if it is one.
fn accept_key(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    let has_token = |name: &str, token: &str| {
        let mut values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| value.split(',').any(|one| one.trim().eq_ignore_ascii_case(token)))
    };
    let is_handshake = method == Method::GET
        && has_token(CONNECTION.as_str(), "upgrade")
        && has_token(UPGRADE.as_str(), "websocket")
        && field(headers, SEC_WEBSOCKET_VERSION.as_str()) == "13";
    let key = field(headers, SEC_WEBSOCKET_KEY.as_str());
    if !is_handshake || key.is_empty() {
        return None;
    }
    HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()
}

fn switching(accept: HeaderValue) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = answer.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    answer
}

/// The value of a header field; empty if it is not there or no text.
fn field<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, plain);
    answer
}

fn json(value: &impl Serialize) -> Answer {
    let Ok(body) = serde_json::to_vec(value) else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "Internal error.");
    };
    let mut answer = Response::new(Full::from(body));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    answer
}
