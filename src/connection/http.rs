//! One HTTP/1.1 connection: receive, parse, answer; pipelined requests are answered in order.
//!
//! | the connection | goes on with |
//! |---|---|
//! | has no complete request | `Step::Receive`: wait for bytes, under the keep-alive or the head deadline |
//! | has answers that did not fit the socket | `Step::Send` |
//! | owes a large or a live body | `Step::Transfer` → `transfer::stream` |
//! | receives an upload | `Step::Upload` → `http_put::receive` |
//! | waits for the disk, an absent object, news of a presentation, or an upstream | `Step::Load`, `Step::Watch`, `Step::Hold`, `Step::Fetch`, then the same request again |
//! | goes on as a WebSocket | `Step::Upgrade` → `upgrade::run` |
//! | was refused, or is done | `Step::Linger`, `Step::Close` |
//!
//! `step` is synchronous: it reads into the core's buffer, answers what it can into the core's output,
//! and sends that in one call, so an idle connection owns no buffer, and one that is held only its
//! request's head.

use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::reply::{self, Frame, Reply};
use super::route::{Resume, Route, UNWANTED_BODY_BYTES_MAX, log_storage, origin_line, route};
use super::upgrade::{self, Parted, Upgrade};
use super::{Core, Role};
use crate::egress::http_get;
use crate::egress::live::Hold;
use crate::egress::transfer::{self, CutReason, Ended, Transfer};
use crate::fetch::Flight;
use crate::ingest::http_put::{self, Outcome, Upload};
use crate::ingest::upload::UploadError;
use crate::runtime::clock;
use crate::runtime::counters::Counter;
use crate::runtime::deadlines::{Deadline, Phase};
use crate::runtime::socket::Socket;
use crate::runtime::timers;
use crate::store::Object;
use crate::wire::http1::{BodyDecoder, HeadWriter, HeaderRoom, Method, Parsed, Version, parse};

/// Received at once while requests are read.
const RECEIVE_BYTES_MAX: usize = 64 << 10;
/// Answers collected before they are sent.
const OUTPUT_BYTES_MAX: usize = 256 << 10;
/// After a refusal so much is still taken from the peer, so that it can read the answer.
const LINGER_BYTES_MAX: usize = 4 << 20;
const LINGER_S: u64 = 2;
/// A request is asked again no sooner without news.
const HOLD_MS_MIN: u64 = 1;

/// Said to a peer whose head did not come in time.
const TIMED_OUT: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n\
Content-Length: 37\r\nCache-Control: no-store\r\nAccess-Control-Allow-Origin: *\r\nConnection: close\r\n\r\n\
the head did not arrive within limit\n";

/// Serve a connection to its end.
pub(super) async fn serve(core: Rc<Core>, socket: Socket, role: Role) {
    let socket = Rc::new(socket);
    let table = match role {
        Role::Objects(_) | Role::Cameras(_) => &core.deadlines,
        Role::Admin(_) => &core.admin_deadlines,
    };
    let deadline = table.enter(socket.clone());
    let connection = Connection {
        core,
        role,
        socket,
        deadline,
        carry: Vec::new(),
        parse_first: false,
        head_is_timed: false,
        resume: Resume::default(),
        request: Traits::default(),
    };
    connection.run().await;
}

struct Connection {
    core: Rc<Core>,
    role: Role,
    socket: Rc<Socket>,
    deadline: Deadline,
    /// Received and not used yet: part of a head, or pipelined requests.
    carry: Vec<u8>,
    /// The carry may hold a whole request: look before receiving.
    parse_first: bool,
    /// The deadline of the current head is running.
    head_is_timed: bool,
    resume: Resume,
    request: Traits,
}

/// What the answer to the present request must know of it, whoever writes that answer.
#[derive(Default)]
struct Traits {
    is_head: bool,
    is_http10: bool,
    /// Lines that only this request gets.
    own_lines: Vec<u8>,
}

enum Step {
    Receive,
    Send { rest: Vec<u8>, sent: usize, then: Then },
    Transfer { prefix: Vec<u8>, transfer: Box<Transfer>, keep_alive: bool },
    Upload { before: Vec<u8>, upload: Box<Upload>, keep_alive: bool },
    Discard { answer: Vec<u8>, decoder: BodyDecoder, keep_alive: bool },
    Load(std::sync::Arc<Object>),
    Watch { name: String, wait_ms: u64 },
    Hold(Hold),
    Fetch(std::sync::Arc<Flight>),
    Upgrade { before: Vec<u8>, upgrade: Box<Upgrade> },
    Close,
}

/// After the output is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Continue,
    Close,
    Linger,
}

/// Nothing more is to be done on this connection.
struct Over;

impl Connection {
    async fn run(mut self) {
        loop {
            let step = self.step();
            let outcome = match step {
                Step::Receive => {
                    self.wait_for_request().await;
                    Ok(())
                }
                Step::Send { rest, sent, then } => self.send(rest, sent, then).await,
                Step::Transfer { prefix, transfer, keep_alive } => {
                    Box::pin(self.transfer(prefix, transfer, keep_alive)).await
                }
                Step::Upload { before, upload, keep_alive } => {
                    Box::pin(self.upload(before, upload, keep_alive)).await
                }
                Step::Discard { answer, decoder, keep_alive } => {
                    Box::pin(self.discard(answer, decoder, keep_alive)).await
                }
                Step::Load(object) => Box::pin(self.load(object)).await,
                Step::Watch { name, wait_ms } => Box::pin(self.watch(name, wait_ms)).await,
                Step::Hold(hold) => Box::pin(self.hold(hold)).await,
                Step::Fetch(flight) => Box::pin(self.await_flight(flight)).await,
                Step::Upgrade { before, upgrade } => Box::pin(self.upgrade(before, *upgrade)).await,
                Step::Close => Err(Over),
            };
            if outcome.is_err() {
                return;
            }
        }
    }

    /// Wait until something arrives. The head's deadline starts with its first byte and is not moved
    /// by further ones.
    async fn wait_for_request(&mut self) {
        if self.carry.is_empty() {
            if self.core.is_draining.get() && matches!(self.role, Role::Objects(_)) {
                self.socket.shut();
            }
            self.head_is_timed = false;
            self.deadline.farewell(None);
            self.deadline.set(self.core.options.keep_alive_timeout_s);
        } else if !self.head_is_timed {
            self.head_is_timed = true;
            self.deadline.farewell(Some(TIMED_OUT));
            self.deadline.set(self.core.options.head_timeout_s);
        }
        self.socket.readable().await;
    }

    /// Receive if need be, answer what is complete, send the answers.
    fn step(&mut self) -> Step {
        let core = self.core.clone();
        let mut buffer = core.ingest.receive_buffer.borrow_mut();
        let carried = self.carry.len();
        buffer[..carried].copy_from_slice(&self.carry);
        let mut filled = carried;
        if !std::mem::take(&mut self.parse_first) {
            match self.socket.try_recv(&mut buffer[filled..filled + RECEIVE_BYTES_MAX]) {
                Ok(Some(0)) | Err(_) => return Step::Close,
                Ok(Some(got)) => filled += got,
                Ok(None) => return Step::Receive,
            }
        }
        let mut output = core.output.borrow_mut();
        output.clear();
        let (consumed, route) = self.answer(&core, &buffer[..filled], &mut output);
        self.carry.clear();
        self.carry.extend_from_slice(&buffer[consumed..filled]);
        if self.carry.is_empty() && self.carry.capacity() > 0 {
            self.carry = Vec::new();
        }
        self.next(route, &mut output)
    }

    /// Answer requests from `input` into `output` until one cannot be answered at once. Returns what
    /// was consumed, and that one's route; `None` if the input ran out or the output is full.
    fn answer(
        &mut self,
        core: &Core,
        input: &[u8],
        output: &mut Vec<u8>,
    ) -> (usize, Option<Route>) {
        let mut consumed = 0;
        while consumed < input.len() {
            if output.len() >= OUTPUT_BYTES_MAX {
                self.parse_first = true;
                return (consumed, None);
            }
            let mut headers = HeaderRoom::default();
            let request = match parse(&input[consumed..], &mut headers, &core.options.head) {
                Ok(Parsed::Request(request)) => request,
                Ok(Parsed::Partial) => return (consumed, None),
                Err(error) => {
                    core.counters.add(Counter::Requests, 1);
                    self.request = Traits::default();
                    return (input.len(), Some(Route::Refuse(Reply::of_head(error))));
                }
            };
            let head_bytes = request.head_bytes;
            self.request = Traits {
                is_head: request.method == Method::Head,
                is_http10: request.version == Version::Http10,
                own_lines: origin_line(core, &request),
            };
            let own_lines = &self.request.own_lines;
            let whence = (&self.role, &*self.socket);
            let mut route = route(core, whence, &request, &self.resume, own_lines, output);
            if route.waits() {
                // The same request is routed again: it stays in the input.
                return (consumed, Some(route));
            }
            core.counters.add(Counter::Requests, 1);
            self.resume = Resume::default();
            if std::mem::take(&mut self.head_is_timed) {
                self.deadline.farewell(None);
            }
            consumed += head_bytes;
            if let Route::Discard { decoder, keep_alive } = &mut route {
                match decoder.decode(&input[consumed..], &mut |_| {}) {
                    Ok(progress) => consumed += progress.consumed,
                    Err(_) => return (input.len(), Some(Route::Answered { keep_alive: false })),
                }
                if decoder.is_finished() {
                    route = Route::Answered { keep_alive: *keep_alive };
                }
            }
            if !matches!(route, Route::Answered { keep_alive: true }) {
                return (consumed, Some(route));
            }
        }
        (consumed, None)
    }

    /// Turn a route into a step; the output goes along, or is sent now.
    fn next(&mut self, route: Option<Route>, output: &mut Vec<u8>) -> Step {
        match route {
            None => self.send_now(output, Then::Continue),
            Some(Route::Answered { keep_alive }) => {
                self.send_now(output, if keep_alive { Then::Continue } else { Then::Close })
            }
            Some(Route::Refuse(reply)) => {
                self.write_refusal(&reply, output);
                self.send_now(output, Then::Linger)
            }
            Some(Route::Discard { decoder, keep_alive }) => {
                Step::Discard { answer: output.clone(), decoder, keep_alive }
            }
            Some(Route::Transfer { transfer, keep_alive }) => {
                Step::Transfer { prefix: output.clone(), transfer, keep_alive }
            }
            Some(Route::Upload { upload, keep_alive }) => {
                Step::Upload { before: output.clone(), upload, keep_alive }
            }
            // Answers to earlier requests first; then the same request is routed again.
            Some(ref route) if route.waits() && !output.is_empty() => {
                self.parse_first = true;
                self.send_now(output, Then::Continue)
            }
            Some(Route::Load(object)) => Step::Load(object),
            Some(Route::Watch { name, wait_ms }) => Step::Watch { name, wait_ms },
            Some(Route::Hold(hold)) => Step::Hold(hold),
            Some(Route::Fetch(flight)) => Step::Fetch(flight),
            Some(Route::Upgrade(upgrade)) => Step::Upgrade { before: output.clone(), upgrade },
        }
    }

    fn send_now(&mut self, output: &[u8], then: Then) -> Step {
        if output.is_empty() {
            return match then {
                Then::Continue if self.parse_first => {
                    Step::Send { rest: Vec::new(), sent: 0, then }
                }
                Then::Continue => Step::Receive,
                Then::Close | Then::Linger => Step::Close,
            };
        }
        self.deadline.phase(Phase::Idle);
        match self.socket.try_send(output) {
            Ok(sent) => {
                let sent = sent.unwrap_or(0);
                self.core.counters.add(Counter::BytesOut, sent as u64);
                if sent == output.len() && then == Then::Continue && !self.parse_first {
                    return Step::Receive;
                }
                Step::Send { rest: output[sent..].to_vec(), sent: 0, then }
            }
            Err(_) => Step::Close,
        }
    }

    /// Send what is left, then do as told.
    async fn send(&mut self, rest: Vec<u8>, mut sent: usize, then: Then) -> Result<(), Over> {
        while sent < rest.len() {
            match self.socket.try_send(&rest[sent..]) {
                Ok(Some(bytes)) => {
                    self.core.counters.add(Counter::BytesOut, bytes as u64);
                    sent += bytes;
                }
                Ok(None) => {
                    self.deadline.set(self.core.egress.options.send_stall_timeout_s);
                    self.socket.writable().await;
                    self.deadline.clear();
                }
                Err(_) => return Err(Over),
            }
        }
        match then {
            Then::Continue => Ok(()),
            Then::Close => Err(Over),
            Then::Linger => self.linger().await,
        }
    }

    /// Let the peer read a refusal: closing with unread bytes would reset the connection and could
    /// take the answer away (RFC 9112 §9.6).
    async fn linger(&mut self) -> Result<(), Over> {
        self.socket.end_sending();
        self.deadline.farewell(None);
        self.deadline.set(LINGER_S);
        let mut taken = 0;
        while taken < LINGER_BYTES_MAX {
            let received = self.socket.try_recv(&mut self.core.ingest.receive_buffer.borrow_mut());
            match received {
                Ok(Some(0)) | Err(_) => break,
                Ok(Some(got)) => taken += got,
                Ok(None) => self.socket.readable().await,
            }
        }
        Err(Over)
    }

    async fn transfer(
        &mut self,
        prefix: Vec<u8>,
        transfer: Box<Transfer>,
        keep_alive: bool,
    ) -> Result<(), Over> {
        self.deadline.farewell(None);
        self.deadline.clear();
        let ended =
            transfer::stream(&self.core.egress, *transfer, prefix, &self.socket, &self.deadline)
                .await;
        match ended {
            Ended::Complete if keep_alive && !self.core.is_draining.get() => {
                self.parse_first = !self.carry.is_empty();
                Ok(())
            }
            Ended::Complete => Err(Over),
            Ended::Cut(reason) => {
                if let CutReason::Storage(error) = reason {
                    tracing::error!(%error, "a reader was cut: its object cannot be read");
                }
                Err(Over)
            }
            Ended::Unsent(CutReason::Storage(error)) => {
                tracing::error!(%error, "a sealed object cannot be read");
                self.refuse(&Reply::of_storage(&error)).await
            }
            // Its upload was aborted between the look at its name and this.
            Ended::Unsent(_) => self.refuse(&Reply::not_found()).await,
        }
    }

    async fn upload(
        &mut self,
        before: Vec<u8>,
        upload: Box<Upload>,
        keep_alive: bool,
    ) -> Result<(), Over> {
        self.deadline.farewell(None);
        self.send(before, 0, Then::Continue).await?;
        let name = upload.name().to_owned();
        let input = std::mem::take(&mut self.carry);
        let core = self.core.clone();
        let received =
            http_put::receive(&core.ingest, *upload, input, &self.socket, &self.deadline).await;
        self.deadline.clear();
        let received = match received {
            Ok(received) => received,
            Err(error) => return self.upload_failed(&name, &error).await,
        };
        let is_upload = !matches!(received.outcome, Outcome::Probed);
        core.counters.add(Counter::UploadsSealed, u64::from(is_upload));
        let keep_alive = keep_alive && !core.is_draining.get();
        let mut answer = Vec::with_capacity(256);
        self.write_received(&received.outcome, keep_alive, &mut answer);
        self.carry = received.leftover;
        self.parse_first = !self.carry.is_empty();
        self.deadline.phase(Phase::Idle);
        self.send(answer, 0, if keep_alive { Then::Continue } else { Then::Close }).await
    }

    /// The rest of the connection is a WebSocket.
    async fn upgrade(&mut self, before: Vec<u8>, upgrade: Upgrade) -> Result<(), Over> {
        self.deadline.farewell(None);
        self.deadline.clear();
        self.send(before, 0, Then::Continue).await?;
        let input = std::mem::take(&mut self.carry);
        let core = self.core.clone();
        let parted = upgrade::run(&core, upgrade, input, &self.socket, &self.deadline).await;
        self.deadline.parting(None);
        match parted {
            Parted::Words(words) => self.send(words, 0, Then::Linger).await,
            Parted::Refused(reply) => self.refuse(&reply).await,
        }
    }

    async fn upload_failed(&mut self, name: &str, error: &UploadError) -> Result<(), Over> {
        self.core.counters.add(Counter::UploadsAborted, 1);
        log_storage(&self.core, name, error);
        tracing::debug!(object = name, %error, "an upload was aborted");
        let reply = Reply::of_put(error);
        self.refuse(&reply).await
    }

    /// Read a body that nobody wants, then send the answer.
    async fn discard(
        &mut self,
        answer: Vec<u8>,
        mut decoder: BodyDecoder,
        keep_alive: bool,
    ) -> Result<(), Over> {
        let mut taken = 0;
        self.deadline.set(self.core.options.head_timeout_s);
        while !decoder.is_finished() && taken <= UNWANTED_BODY_BYTES_MAX {
            match self.discard_some(&mut decoder)? {
                Some(got) => taken += got,
                None => self.socket.readable().await,
            }
        }
        self.deadline.clear();
        if !decoder.is_finished() {
            return self.refuse(&Reply::body_too_large()).await;
        }
        self.parse_first = !self.carry.is_empty();
        self.send(answer, 0, if keep_alive { Then::Continue } else { Then::Close }).await
    }

    /// Bytes received and thrown away; `None` if there are none now. What lies behind the body is
    /// carried.
    fn discard_some(&mut self, decoder: &mut BodyDecoder) -> Result<Option<u64>, Over> {
        let mut buffer = self.core.ingest.receive_buffer.borrow_mut();
        let got = match self.socket.try_recv(&mut buffer[..RECEIVE_BYTES_MAX]) {
            Ok(Some(0)) | Err(_) => return Err(Over),
            Ok(Some(got)) => got,
            Ok(None) => return Ok(None),
        };
        let progress = decoder.decode(&buffer[..got], &mut |_| {}).map_err(|_| Over)?;
        self.carry = buffer[progress.consumed..got].to_vec();
        Ok(Some(got as u64))
    }

    async fn load(&mut self, object: std::sync::Arc<Object>) -> Result<(), Over> {
        self.deadline.clear();
        self.parse_first = true;
        match http_get::load(&self.core.egress, &object).await {
            Ok(body) => {
                self.resume.loaded = Some((object, body));
                Ok(())
            }
            Err(error) => {
                self.core.counters.add(Counter::StorageErrors, 1);
                tracing::error!(object = %object.name, %error, "a sealed object cannot be read");
                self.refuse(&Reply::of_storage(&error)).await
            }
        }
    }

    async fn watch(&mut self, name: String, wait_ms: u64) -> Result<(), Over> {
        self.deadline.clear();
        let started = clock::now();
        self.parse_first = true;
        let Some(mut watch) = self.core.egress.store.watch(&name, self.core.egress.core) else {
            return self.refuse(&Reply::too_many_waiting()).await;
        };
        self.core.counters.add(Counter::WaitedRequests, 1);
        self.wait_for(wait_ms, |context| watch.poll_present(context).map(drop)).await?;
        self.resume.waited_ms = Some(started.elapsed().as_millis() as u64);
        Ok(())
    }

    /// Wait for news of a presentation; the request's time counts from when it was held first.
    async fn hold(&mut self, mut hold: Hold) -> Result<(), Over> {
        self.deadline.clear();
        self.parse_first = true;
        if self.resume.held_since.is_none() {
            self.resume.held_since = Some(clock::now());
            self.core.counters.add(Counter::HeldRequests, 1);
        }
        let core = self.core.egress.core;
        let wait_ms = hold.wait_ms_max.max(HOLD_MS_MIN);
        self.wait_for(wait_ms, |context| hold.poll_news(core, context)).await
    }

    /// Wait for what is fetched from elsewhere: whoever waited gets what comes of it.
    async fn await_flight(&mut self, flight: std::sync::Arc<Flight>) -> Result<(), Over> {
        self.deadline.clear();
        self.parse_first = true;
        let core = self.core.egress.core;
        let mut wait = flight.wait();
        self.wait_for(flight.wait_ms_max, |context| wait.poll_landed(core, context)).await?;
        self.resume.landed = Some(flight);
        Ok(())
    }

    /// Wait until `poll_news` is ready or the time is over, with an eye on the peer.
    async fn wait_for(
        &self,
        wait_ms: u64,
        mut poll_news: impl FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Result<(), Over> {
        self.deadline.phase(Phase::Waiting);
        let mut peer_gone = pin!(self.socket.peer_gone());
        let news = std::future::poll_fn(|context| {
            if peer_gone.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(Over));
            }
            poll_news(context).map(Ok)
        });
        timers::within(Duration::from_millis(wait_ms), news).await.unwrap_or(Ok(()))?;
        self.deadline.phase(Phase::Idle);
        Ok(())
    }

    /// Send a refusal and let the peer read it.
    async fn refuse(&mut self, reply: &Reply) -> Result<(), Over> {
        let mut answer = Vec::with_capacity(512);
        self.write_refusal(reply, &mut answer);
        self.send(answer, 0, Then::Linger).await
    }

    fn write_refusal(&self, reply: &Reply, output: &mut Vec<u8>) {
        let core = &self.core;
        let is_ours = reply.status >= 500;
        let class =
            if is_ours { Counter::ResponsesServerError } else { Counter::ResponsesClientError };
        core.counters.add(class, 1);
        core.counters.add(Counter::RequestsRefused, 1);
        let frame = Frame { common_lines: &core.options.common_lines, ..self.frame(false) };
        reply::write(output, reply, &frame, &mut core.egress.date.borrow_mut(), clock::unix_s());
    }

    /// 201 for a new object, 204 for a replaced one, 200 for a probe.
    fn write_received(&self, outcome: &Outcome, keep_alive: bool, output: &mut Vec<u8>) {
        let core = &self.core;
        let (status, etag) = match outcome {
            Outcome::Created { etag } => (201, Some(etag)),
            Outcome::Replaced { etag } => (204, Some(etag)),
            Outcome::Probed => (200, None),
        };
        let mut head = HeadWriter::new(output, status);
        if status != 204 {
            // RFC 9110 §8.6: a 204 has no Content-Length.
            head.number("Content-Length", 0);
        }
        if let Some(etag) = etag {
            head.field("ETag", etag);
        }
        head.lines(&core.options.common_lines);
        let frame = self.frame(keep_alive);
        reply::finish(output, &frame, &mut core.egress.date.borrow_mut(), clock::unix_s());
    }

    fn frame(&self, keep_alive: bool) -> Frame<'_> {
        Frame {
            is_head: self.request.is_head,
            is_http10: self.request.is_http10,
            keep_alive,
            cache_control: &self.core.options.cache_error,
            common_lines: &[],
            waited_ms: None,
            held_ms: None,
            own_lines: &self.request.own_lines,
        }
    }
}
