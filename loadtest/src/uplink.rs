//! The WebSocket of a publisher: opens it, sends its messages, answers pings and sends heartbeats
//! so that silence does not end it, and closes it. What is in the messages, `publish` knows.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_uring::net::TcpStream;

use crate::door::{Ingress, WriteDoor};
use crate::follow::HEARTBEAT_INTERVAL_S;
use crate::http::{self, Response};
use crate::session::HEARTBEAT;
use crate::websocket::{self, Event, Frames, Keys, Opcode};

const ANSWER_SECONDS_MAX: u64 = 10;
const READ_BYTES: usize = 4096;

/// Frames go out one after the other, whoever sends them.
#[derive(Clone)]
struct Sender {
    stream: Rc<TcpStream>,
    turn: Rc<Mutex<()>>,
}

impl Sender {
    /// Gives the frame back.
    async fn send(&self, frame: Vec<u8>) -> (io::Result<()>, Vec<u8>) {
        let _turn = self.turn.lock().await;
        self.stream.write_all(frame).await
    }
}

pub(crate) struct Uplink {
    sender: Sender,
    /// Ends with the code of the server's close frame, or with what went wrong.
    listener: JoinHandle<Result<Option<u16>>>,
    heart: Option<JoinHandle<()>>,
}

impl Uplink {
    pub(crate) async fn open(ingress: &Ingress) -> Result<Uplink> {
        let stream = ingress.target.connect().await?;
        let (result, _) = stream.write_all(ingress.request()).await;
        result.context("the handshake could not be sent")?;
        let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
        let first = timeout(limit, shake_hands(&stream))
            .await
            .map_err(|_| anyhow!("no answer to the handshake within {ANSWER_SECONDS_MAX} s"))??;
        let sender = Sender { stream: Rc::new(stream), turn: Rc::default() };
        let listener = tokio_uring::spawn(listen(sender.clone(), first));
        let is_channel = ingress.door == WriteDoor::Publish;
        let heart = is_channel.then(|| tokio_uring::spawn(beat(sender.clone())));
        Ok(Uplink { sender, listener, heart })
    }

    /// Sends a frame and gives it back to be filled again.
    pub(crate) async fn send(&mut self, frame: Vec<u8>) -> (Result<()>, Vec<u8>) {
        let (result, frame) = self.sender.send(frame).await;
        // A server that refuses says why before it closes; the first write after that succeeds.
        if result.is_err() || self.listener.is_finished() {
            return (Err(self.fault(result).await), frame);
        }
        (Ok(()), frame)
    }

    async fn fault(&mut self, sent: io::Result<()>) -> anyhow::Error {
        let limit = Duration::from_secs(1);
        match (timeout(limit, &mut self.listener).await, sent) {
            (Ok(Ok(Ok(code))), _) => anyhow!("the server closed with {}", code_text(code)),
            (Ok(Ok(Err(error))), _) => error,
            (Ok(Err(error)), _) => error.into(),
            (Err(_), Err(error)) => anyhow!("the WebSocket was cut: {error}"),
            (Err(_), Ok(())) => anyhow!("the WebSocket was cut"),
        }
    }

    /// Ends the messages properly and waits for the server's word on it: the code of its close
    /// frame, 1005 if there is none (RFC 6455 §7.1.5).
    pub(crate) async fn close(mut self) -> Result<u16> {
        let frame = websocket::close_frame(1000, &mut Keys::new());
        if let (Err(error), _) = self.send(frame).await {
            return Err(error.context("the close frame could not be sent"));
        }
        if let Some(heart) = &self.heart {
            heart.abort();
        }
        let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
        let code = timeout(limit, self.listener)
            .await
            .map_err(|_| anyhow!("no answer to the close frame within {ANSWER_SECONDS_MAX} s"))??;
        match code? {
            Some(1000) => Ok(1000),
            None => Ok(1005),
            code => bail!("the server closed with {}", code_text(code)),
        }
    }
}

/// Returns the bytes that came behind the head.
async fn shake_hands(stream: &TcpStream) -> Result<Vec<u8>> {
    let mut response = Response::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let (result, back) = stream.read(buffer).await;
        buffer = back;
        let length = result?;
        if length == 0 {
            bail!("the server closed the connection without an answer to the handshake");
        }
        let mut input = &buffer[..length];
        if let http::Event::Head(head) = response.next(&mut input)? {
            if head.status != 101 {
                bail!("the server answered {} to the handshake", head.status);
            }
            websocket::check_upgrade(&head.upgrade, "").map_err(anyhow::Error::msg)?;
            return Ok(input.to_vec());
        }
    }
}

/// Reads what a publisher is sent, heartbeats and pings, until the close frame.
async fn listen(sender: Sender, first: Vec<u8>) -> Result<Option<u16>> {
    let mut frames = Frames::new();
    let mut keys = Keys::new();
    let mut length = first.len();
    let mut buffer = first;
    loop {
        let mut input = &buffer[..length];
        loop {
            match frames.next(&mut input)? {
                Event::Ping(payload) => {
                    let pong = websocket::frame(Opcode::Pong, &payload, &mut keys);
                    sender.send(pong).await.0.context("a pong could not be sent")?;
                }
                Event::Close { code, reason } if !reason.is_empty() && code != Some(1000) => {
                    bail!("the server closed with {} \"{reason}\"", code_text(code));
                }
                Event::Close { code, .. } => return Ok(code),
                Event::Data { .. } | Event::Pong => {}
                Event::NeedMore => break,
            }
        }
        buffer.resize(READ_BYTES, 0);
        let (result, back) = sender.stream.read(buffer).await;
        buffer = back;
        length = result.context("the WebSocket was cut")?;
        if length == 0 {
            bail!("the server closed the connection without a close frame");
        }
    }
}

/// What keeps a publisher that has nothing to send from being taken for dead.
async fn beat(sender: Sender) {
    let mut keys = Keys::new();
    loop {
        sleep(Duration::from_secs(HEARTBEAT_INTERVAL_S)).await;
        let heartbeat = websocket::frame(Opcode::Text, HEARTBEAT, &mut keys);
        if sender.send(heartbeat).await.0.is_err() {
            return;
        }
    }
}

fn code_text(code: Option<u16>) -> String {
    code.map_or("no code".to_owned(), |code| code.to_string())
}
