//! The client of a coordinator: asks it about publishers, tells it of their end, and ends those that
//! it wants to be rid of. It runs on a thread of its own and keeps one connection for ever.
//!
//! | state | publishers that come | publishers that run |
//! |---|---|---|
//! | connected | are asked about; no answer in time is a refusal | – |
//! | not connected | are refused | stay |
//! | connected again | – | are asked about with their `Stream-ID`: kept, renamed, or killed if denied |

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, Uri};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
};

use super::control_link::{self, OUTGOING_MESSAGES_MAX, Pace};
use super::control_token;
use crate::channels::{Answer, Gatekeeper, PublishRequest, Publishers, Running, Verdict};
use crate::runtime::side_thread::{SideThread, Stopper};
use crate::wire::channel_messages::ChannelMessage;

/// Publishers that wait for an answer; more are refused.
pub const ASKS_WAITING_MAX: usize = 4096;
/// Ends that are told after a reconnect; of more the oldest are left to the coordinator's grace.
const ENDS_KEPT_MAX: usize = 4096;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What the coordinator has to take the last messages, and the close frame.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone)]
pub struct ClientOptions {
    /// `ws://HOST:PORT` or `wss://…`; a path is replaced.
    pub url: String,
    pub secret: Option<String>,
    /// Under which address encoders reach this server, where it is not the connection's.
    pub external_ip: Option<String>,
    pub external_port: Option<u16>,
    pub external_tls: bool,
    pub pace: Pace,
    pub answer_timeout: Duration,
    pub reconnect_pause: Duration,
    /// How TLS is done, if not with the usual certificate authorities.
    pub connector: Option<Connector>,
}

impl ClientOptions {
    pub fn new(url: &str) -> ClientOptions {
        ClientOptions {
            url: url.to_owned(),
            secret: None,
            external_ip: None,
            external_port: None,
            external_tls: false,
            pace: Pace::default(),
            answer_timeout: Duration::from_secs(20),
            reconnect_pause: Duration::from_secs(10),
            connector: None,
        }
    }
}

/// Its [`Gatekeeper`] side never blocks. It knows the publishers, and they know it: it has to be
/// stopped.
pub struct ControlClient {
    orders: mpsc::UnboundedSender<Order>,
    asks_waiting: Arc<AtomicUsize>,
    thread: Mutex<Option<SideThread>>,
}

enum Order {
    Ask {
        request: PublishRequest,
        answer: Answer,
    },
    Ended(Running),
    /// The time for an answer is over.
    Expire(u64),
}

impl ControlClient {
    /// Start it. The coordinator need not be there; options that cannot be meant are an error.
    pub fn start(
        options: ClientOptions,
        publishers: Arc<dyn Publishers>,
    ) -> io::Result<Arc<ControlClient>> {
        let request = handshake(&options).map_err(io::Error::other)?;
        // Where several parts of a program bring a provider each, rustls would not know which to take.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (orders, taken) = mpsc::unbounded_channel();
        let asks_waiting = Arc::new(AtomicUsize::new(0));
        let desk = Desk {
            publishers,
            orders: orders.clone(),
            asks_waiting: asks_waiting.clone(),
            answer_timeout: options.answer_timeout,
            link: None,
            has_heard: false,
            requests_so_far: 0,
            pending: HashMap::new(),
            renamed: HashMap::new(),
            untold_ends: VecDeque::new(),
        };
        let thread = SideThread::start("coordinator-client", 2, |stop| async move {
            let desk = RefCell::new(desk);
            Connection { options, request, desk, stop }.keep(taken).await;
        })?;
        let thread = Mutex::new(Some(thread));
        Ok(Arc::new(ControlClient { orders, asks_waiting, thread }))
    }

    /// Leave the coordinator, and refuse everybody from now on.
    pub fn stop(&self) {
        if let Some(thread) = self.thread.lock().take() {
            thread.stopper().stop();
            thread.join();
        }
    }
}

impl Gatekeeper for ControlClient {
    fn ask(&self, request: PublishRequest, answer: Answer) {
        if self.asks_waiting.fetch_add(1, Ordering::Relaxed) >= ASKS_WAITING_MAX {
            self.asks_waiting.fetch_sub(1, Ordering::Relaxed);
            return answer(Verdict::Deny);
        }
        // After a stop nobody takes it: the answer is dropped, which is a refusal.
        let _ = self.orders.send(Order::Ask { request, answer });
    }

    fn ended(&self, running: &Running) {
        let _ = self.orders.send(Order::Ended(running.clone()));
    }
}

/// The request that opens the control socket.
fn handshake(options: &ClientOptions) -> Result<Request, String> {
    let url = &options.url;
    let base: Uri = url.parse().map_err(|error| format!("{url:?} is no URL: {error}"))?;
    let scheme = base.scheme_str().filter(|scheme| matches!(*scheme, "ws" | "wss"));
    let (Some(scheme), Some(authority)) = (scheme, base.authority()) else {
        return Err(format!("{url:?} is no URL such as ws://host:8080"));
    };
    let target = format!("{scheme}://{authority}/ws/control/wss");
    let mut request = target.into_client_request().map_err(|error| format!("{url:?}: {error}"))?;
    let token = options.secret.as_deref().map(|secret| {
        control_token::sign(secret, "wss-control").ok_or("the token cannot be signed")
    });
    let fields = [
        ("x-control-auth-token", token.transpose()?),
        ("x-external-ip", options.external_ip.clone()),
        ("x-custom-port", options.external_port.map(|port| port.to_string())),
        ("x-ssl-use", options.external_tls.then(|| "true".to_owned())),
    ];
    for (name, value) in fields {
        let Some(value) = value else { continue };
        let value = HeaderValue::from_str(&value).map_err(|_| format!("{name}: {value:?}"))?;
        request.headers_mut().insert(HeaderName::from_static(name), value);
    }
    Ok(request)
}

struct Connection {
    options: ClientOptions,
    request: Request,
    desk: RefCell<Desk>,
    stop: Stopper,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Connection {
    /// Connect, and connect again: at once after a connection that was one, else after a pause.
    async fn keep(&self, mut orders: mpsc::UnboundedReceiver<Order>) -> Option<Infallible> {
        let url = &self.options.url;
        let mut is_told = false;
        loop {
            match self.meanwhile(&mut orders, self.connect()).await? {
                Ok(socket) => {
                    tracing::info!(url, "connected to the coordinator");
                    is_told = false;
                    let link = self.desk.borrow_mut().open();
                    let take = |message| self.desk.borrow_mut().take(&message);
                    let run = control_link::run(socket, self.options.pace, link, take);
                    let end = self.meanwhile(&mut orders, run).await?;
                    tracing::warn!(url, %end, "the coordinator is lost: publishers are refused");
                    if self.desk.borrow_mut().close() {
                        continue;
                    }
                }
                Err(error) if !is_told => {
                    is_told = true;
                    tracing::warn!(
                        url,
                        error,
                        "the coordinator cannot be reached: publishers are refused until it can"
                    );
                }
                Err(error) => tracing::debug!(url, error, "the coordinator cannot be reached"),
            }
            self.meanwhile(&mut orders, sleep(self.options.reconnect_pause)).await?;
        }
    }

    /// Wait for something, and carry out orders until it is there. `None` is the stop: a connection
    /// has taken the last orders then, and its leave.
    async fn meanwhile<T>(
        &self,
        orders: &mut mpsc::UnboundedReceiver<Order>,
        something: impl Future<Output = T>,
    ) -> Option<T> {
        let mut something = std::pin::pin!(something);
        loop {
            tokio::select! {
                biased;
                // The desk has a sender: there is always another order.
                Some(order) = orders.recv() => self.desk.borrow_mut().carry_out(order),
                value = &mut something => return Some(value),
                () = self.stop.stopped() => break,
            }
        }
        // Without its sender the link ends when all is said.
        if self.desk.borrow_mut().link.take().is_some() {
            let _ = timeout(LEAVE_TIMEOUT, something).await;
        }
        None
    }

    async fn connect(&self) -> Result<Socket, String> {
        let config = Some(control_link::web_socket_config());
        let connector = self.options.connector.clone();
        let connect = connect_async_tls_with_config(self.request.clone(), config, true, connector);
        match timeout(CONNECT_TIMEOUT, connect).await {
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }
}

/// What is known here of publishers.
struct Desk {
    publishers: Arc<dyn Publishers>,
    orders: mpsc::UnboundedSender<Order>,
    asks_waiting: Arc<AtomicUsize>,
    answer_timeout: Duration,
    link: Option<mpsc::Sender<ChannelMessage>>,
    /// The coordinator has said something on this connection.
    has_heard: bool,
    requests_so_far: u64,
    /// By Request-ID.
    pending: HashMap<u64, Pending>,
    /// Channel and former stream id, as its publisher may still call itself; the id that it has now.
    renamed: HashMap<(String, String), String>,
    /// Of publishers that went while there was no connection.
    untold_ends: VecDeque<Running>,
}

enum Pending {
    New {
        answer: Answer,
    },
    /// A publisher that runs, after a reconnect.
    Again {
        running: Running,
        has_ended: bool,
    },
}

impl Desk {
    /// A connection is there: tell what it has missed, ask about what runs.
    fn open(&mut self) -> mpsc::Receiver<ChannelMessage> {
        let running = self.publishers.running();
        let (link, outgoing) = mpsc::channel(OUTGOING_MESSAGES_MAX);
        self.link = Some(link);
        self.has_heard = false;
        for ended in std::mem::take(&mut self.untold_ends) {
            self.tell_end(&ended.request.channel, &ended.stream_id);
        }
        for running in running {
            let request = running.request.clone();
            let stream_id = running.stream_id.clone();
            let id = self.expect(Pending::Again { running, has_ended: false });
            self.send(publish_request(id, &request).with("Stream-ID", &stream_id));
        }
        outgoing
    }

    /// The connection is lost; returns whether it was a good one.
    fn close(&mut self) -> bool {
        self.link = None;
        for (_, pending) in std::mem::take(&mut self.pending) {
            match pending {
                Pending::New { answer } => self.answer(answer, Verdict::Deny),
                Pending::Again { running, has_ended: true } => self.keep_end(running),
                Pending::Again { has_ended: false, .. } => {}
            }
        }
        self.has_heard
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Ask { answer, .. } if self.link.is_none() => self.answer(answer, Verdict::Deny),
            Order::Ask { request, answer } => {
                let id = self.expect(Pending::New { answer });
                self.send(publish_request(id, &request));
                let (orders, after) = (self.orders.clone(), self.answer_timeout);
                tokio::spawn(async move {
                    sleep(after).await;
                    let _ = orders.send(Order::Expire(id));
                });
            }
            Order::Ended(running) => self.publisher_ended(running),
            Order::Expire(id) => {
                if let Some(Pending::New { answer }) = self.pending.remove(&id) {
                    tracing::warn!("the coordinator has not answered in time: publisher refused");
                    self.answer(answer, Verdict::Deny);
                }
            }
        }
    }

    fn publisher_ended(&mut self, mut running: Running) {
        let channel = running.request.channel.clone();
        while let Some(new) = self.renamed.remove(&(channel.clone(), running.stream_id.clone())) {
            running.stream_id = new;
        }
        self.renamed.retain(|(own, _), _| *own != channel);
        for pending in self.pending.values_mut() {
            if let Pending::Again { running: asked, has_ended } = pending
                && asked.request.channel == channel
                && asked.stream_id == running.stream_id
            {
                // Its id is not certain before the answer.
                *has_ended = true;
                return;
            }
        }
        if self.link.is_some() {
            self.tell_end(&channel, &running.stream_id);
        } else {
            self.keep_end(running);
        }
    }

    fn keep_end(&mut self, running: Running) {
        if self.untold_ends.len() == ENDS_KEPT_MAX {
            self.untold_ends.pop_front();
        }
        self.untold_ends.push_back(running);
    }

    /// A message of the coordinator.
    fn take(&mut self, message: &ChannelMessage) {
        self.has_heard = true;
        let (channel, stream_id) = (message.get("Stream-Channel"), message.get("Stream-ID"));
        match message.method() {
            "PUBLISH-ACCEPT" => match self.answered(message) {
                Some(Pending::New { answer }) => {
                    let stream_id = stream_id.to_owned();
                    self.answer(answer, Verdict::Accept { stream_id });
                }
                Some(Pending::Again { running, has_ended: false }) => {
                    self.go_on(&running, stream_id);
                }
                // Nobody waits for it any more.
                Some(Pending::Again { .. }) | None => self.tell_end(channel, stream_id),
            },
            "PUBLISH-DENY" => match self.answered(message) {
                Some(Pending::New { answer }) => self.answer(answer, Verdict::Deny),
                Some(Pending::Again { running, has_ended: false }) => {
                    let channel = &running.request.channel;
                    tracing::warn!(channel, "the coordinator denies a publisher that runs");
                    self.publishers.kill(channel, Some(&running.stream_id));
                }
                Some(Pending::Again { .. }) | None => {}
            },
            "STREAM-KILL" => {
                let is_named = !matches!(stream_id, "" | "*");
                tracing::info!(channel, stream_id, "the coordinator kills a publisher");
                self.publishers.kill(channel, is_named.then_some(stream_id));
            }
            "ERROR" => {
                let (code, text) = (message.get("Error-Code"), message.get("Error-Message"));
                tracing::warn!(code, text, "the coordinator tells of an error");
            }
            _ => {}
        }
    }

    /// A running publisher was accepted, perhaps under another id.
    fn go_on(&mut self, running: &Running, stream_id: &str) {
        if stream_id == running.stream_id {
            return;
        }
        let channel = &running.request.channel;
        tracing::info!(channel, from = running.stream_id, to = stream_id, "a stream is renamed");
        self.publishers.rename(channel, &running.stream_id, stream_id);
        let former = (channel.clone(), running.stream_id.clone());
        self.renamed.insert(former, stream_id.to_owned());
    }

    fn answered(&mut self, message: &ChannelMessage) -> Option<Pending> {
        let id = message.get("Request-ID").parse().ok()?;
        self.pending.remove(&id)
    }

    fn answer(&self, answer: Answer, verdict: Verdict) {
        self.asks_waiting.fetch_sub(1, Ordering::Relaxed);
        answer(verdict);
    }

    fn expect(&mut self, pending: Pending) -> u64 {
        let id = self.requests_so_far;
        self.requests_so_far += 1;
        self.pending.insert(id, pending);
        id
    }

    fn tell_end(&mut self, channel: &str, stream_id: &str) {
        self.send(
            ChannelMessage::new("PUBLISH-END")
                .with("Stream-Channel", channel)
                .with("Stream-ID", stream_id),
        );
    }

    fn send(&mut self, message: ChannelMessage) {
        // A coordinator that takes nothing is one that is lost: without the sender the link ends.
        if self.link.as_ref().is_some_and(|link| link.try_send(message).is_err()) {
            self.link = None;
        }
    }
}

fn publish_request(id: u64, request: &PublishRequest) -> ChannelMessage {
    ChannelMessage::new("PUBLISH-REQUEST")
        .with("Request-ID", &id.to_string())
        .with("Stream-Channel", &request.channel)
        .with("Stream-Key", &request.key)
        .with("User-IP", &request.ip.to_string())
}
