//! One control connection, the same on both sides: messages in and out, heartbeats, and an end when
//! the other side has been silent for too long or takes nothing.

use std::pin::pin;
use std::time::Duration;

use futures_util::{SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::wire::channel_messages::{CONTROL_MESSAGE_BYTES_MAX, ChannelMessage};

/// Messages that wait for a slow peer; with one more it is given up. As many as there are streams, for
/// what becomes of all of them at once is said in one go.
pub const OUTGOING_MESSAGES_MAX: usize = 65_536;
/// What a peer has to take a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often to say something, and how long to wait for the other side to.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    pub heartbeat_interval: Duration,
    pub silence_timeout: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            heartbeat_interval: Duration::from_secs(20),
            silence_timeout: Duration::from_secs(60),
        }
    }
}

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkEnd {
    #[error("the other side has closed it")]
    Closed,
    #[error("no message came for too long")]
    Silence,
    #[error("the other side takes nothing")]
    Stalled,
    #[error("closed here")]
    ClosedHere,
    #[error("{0}")]
    Failed(#[from] Error),
    #[error("a message that cannot be read: {0}")]
    Nonsense(#[from] crate::wire::channel_messages::ChannelMessageError),
}

impl LinkEnd {
    fn close_code(&self) -> CloseCode {
        match self {
            LinkEnd::ClosedHere => CloseCode::Away,
            LinkEnd::Nonsense(_) => CloseCode::Policy,
            LinkEnd::Closed | LinkEnd::Silence | LinkEnd::Stalled => CloseCode::Normal,
            LinkEnd::Failed(Error::Capacity(_)) => CloseCode::Size,
            LinkEnd::Failed(_) => CloseCode::Protocol,
        }
    }
}

pub(super) fn web_socket_config() -> WebSocketConfig {
    WebSocketConfig::default()
        .max_message_size(Some(CONTROL_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(CONTROL_MESSAGE_BYTES_MAX))
        .read_buffer_size(16 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * CONTROL_MESSAGE_BYTES_MAX)
}

/// Run a connection to its end. `outgoing` closed means: close it.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    socket: WebSocketStream<S>,
    pace: Pace,
    mut outgoing: mpsc::Receiver<ChannelMessage>,
    mut take: impl FnMut(ChannelMessage),
) -> LinkEnd {
    let (mut sink, mut stream) = socket.split();
    let end = tokio::select! {
        end = send_all(&mut sink, pace, &mut outgoing) => end,
        end = receive_all(&mut stream, pace.silence_timeout, &mut take) => end,
    };
    let mut reason = end.to_string();
    reason.truncate(reason.floor_char_boundary(CLOSE_REASON_BYTES_MAX));
    let frame = CloseFrame { code: end.close_code(), reason: reason.into() };
    // After the other side's close frame this only sends the echo.
    let _ = timeout(CLOSE_TIMEOUT, sink.send(Message::Close(Some(frame)))).await;
    end
}

/// RFC 6455 §5.5: 125 bytes with the code.
const CLOSE_REASON_BYTES_MAX: usize = 123;

async fn send_all(
    sink: &mut (impl SinkExt<Message, Error = Error> + Unpin),
    pace: Pace,
    outgoing: &mut mpsc::Receiver<ChannelMessage>,
) -> LinkEnd {
    let mut heartbeats = interval(pace.heartbeat_interval);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    heartbeats.tick().await; // The first is at once.
    loop {
        let message = tokio::select! {
            _ = heartbeats.tick() => ChannelMessage::new("HEARTBEAT"),
            message = outgoing.recv() => match message {
                Some(message) => message,
                None => return LinkEnd::ClosedHere,
            },
        };
        let text = Message::text(message.to_text());
        match timeout(pace.silence_timeout, sink.send(text)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error_of(error),
            Err(_) => return LinkEnd::Stalled,
        }
    }
}

async fn receive_all(
    stream: &mut (impl Stream<Item = Result<Message, Error>> + Unpin),
    silence_timeout: Duration,
    take: &mut impl FnMut(ChannelMessage),
) -> LinkEnd {
    let mut silence = pin!(sleep(silence_timeout));
    loop {
        let next = tokio::select! {
            () = &mut silence => return LinkEnd::Silence,
            next = stream.next() => next,
        };
        match next {
            None => return LinkEnd::Closed,
            Some(Err(error)) => return error_of(error),
            Some(Ok(Message::Text(text))) => match ChannelMessage::parse(&text) {
                Ok(message) => take(message),
                Err(error) => return LinkEnd::Nonsense(error),
            },
            Some(Ok(Message::Close(_))) => return LinkEnd::Closed,
            // Pings are no messages, as in the original; their pongs go out by themselves.
            Some(Ok(_)) => continue,
        }
        silence.set(sleep(silence_timeout));
        // The answers have to leave before there are too many of them.
        tokio::task::yield_now().await;
    }
}

fn error_of(error: Error) -> LinkEnd {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => LinkEnd::Closed,
        error => LinkEnd::Failed(error),
    }
}
