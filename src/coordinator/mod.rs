//! The coordinator of ws-stream-server, and its client. The coordinator decides who publishes what,
//! gives streams to encoders and tells the application; the client is how a server asks it.
//!
//! Both run on an ordinary thread of their own with a tokio runtime, never on a core: nothing here
//! touches media. [`board`] decides, [`hub`] carries out, [`control_http`] lets in.

mod addresses;
mod board;
mod control_client;
mod control_http;
mod control_link;
mod control_token;
mod hub;
mod outbox;
mod settings;
mod snapshot;
mod stream_id;
mod web_hooks;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;

pub use board::{KEY_CHECKS_WAITING_MAX, STREAMS_MAX};
pub use control_client::{ASKS_WAITING_MAX, ClientOptions, ControlClient};
pub use control_http::COORDINATOR_CONNECTIONS_MAX;
pub use control_link::{OUTGOING_MESSAGES_MAX, Pace};
pub use control_token::Credentials;
pub use outbox::EVENTS_WAITING_MAX;
pub use web_hooks::{EVENT_CALLS_MAX, Hook, KEY_CHECKS_MAX};

pub use crate::runtime::side_thread::Stopper;

use board::{Board, Rules};
use control_http::Door;
use hub::Hub;
use snapshot::Snapshot;
use web_hooks::WebHooks;

use crate::runtime::side_thread::SideThread;

/// What control connections have for their close frames when the coordinator stops.
const CLOSE_GRACE: Duration = Duration::from_secs(1);

#[derive(Clone)]
pub struct Options {
    pub listen: Vec<SocketAddr>,
    /// Without it every control connection is let in.
    pub secret: Option<String>,
    pub require_encoder: bool,
    pub state_file: PathBuf,
    pub id_length_max: usize,
    pub hook_timeout: Duration,
    pub reconnect_grace: Duration,
    pub key_verification: Option<Hook>,
    pub event_callback: Option<Hook>,
    /// Without it every command gets 401.
    pub commands: Option<Credentials>,
    pub pace: Pace,
    /// Between two attempts to tell the application of an event.
    pub event_retry: Duration,
    /// Milliseconds since the Unix epoch.
    pub clock: fn() -> u64,
}

/// A coordinator that runs.
pub struct Coordinator {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    thread: SideThread,
}

impl Coordinator {
    /// Read the state, bind the addresses and start.
    pub fn start(options: Options) -> io::Result<Coordinator> {
        let snapshot = Snapshot::load(&options.state_file)?;
        // It must be possible to write it, too.
        snapshot.store(&options.state_file)?;
        let mut listeners = Vec::new();
        let mut listen = Vec::new();
        for address in &options.listen {
            let bound = std::net::TcpListener::bind(address).map_err(|error| {
                let text = format!("cannot listen on {address} (coordinator): {error}");
                io::Error::new(error.kind(), text)
            })?;
            bound.set_nonblocking(true)?;
            listen.push(bound.local_addr()?);
            listeners.push(bound);
        }
        let blocking_threads = KEY_CHECKS_MAX + EVENT_CALLS_MAX;
        let thread = SideThread::start("coordinator", blocking_threads, |stop| async move {
            if let Err(error) = run(options, snapshot, listeners, stop).await {
                tracing::error!(%error, "the coordinator cannot run");
            }
        })?;
        Ok(Coordinator { listen, thread })
    }

    pub fn stopper(&self) -> Stopper {
        self.thread.stopper()
    }

    /// Wait until it has stopped.
    pub fn join(self) {
        self.thread.join();
    }
}

async fn run(
    options: Options,
    snapshot: Snapshot,
    listeners: Vec<std::net::TcpListener>,
    stop: Stopper,
) -> io::Result<()> {
    let rules = Rules {
        require_encoder: options.require_encoder,
        id_length_max: options.id_length_max,
        reconnect_grace: options.reconnect_grace,
        event_retry: options.event_retry,
        checks_keys: options.key_verification.is_some(),
        tells_events: options.event_callback.is_some(),
    };
    let board = Board::new(rules, options.clock);
    let hooks =
        WebHooks::new(options.key_verification, options.event_callback, options.hook_timeout);
    let hub = Hub::start(board, hooks, snapshot, options.state_file);
    let door = Door {
        hub: hub.clone(),
        secret: options.secret,
        commands: options.commands,
        pace: options.pace,
        connections: Arc::new(Semaphore::new(COORDINATOR_CONNECTIONS_MAX)),
    };
    let door = Arc::new(door);
    let mut acceptors = Vec::new();
    for listener in listeners {
        let listener = TcpListener::from_std(listener)?;
        acceptors.push(tokio::spawn(control_http::accept_forever(door.clone(), listener)));
    }
    stop.stopped().await;
    acceptors.iter().for_each(tokio::task::JoinHandle::abort);
    hub.flush();
    hub.close_all_links();
    // With all of them free, every connection has ended.
    let all = COORDINATOR_CONNECTIONS_MAX as u32;
    let ended = door.connections.acquire_many(all);
    let _ = tokio::time::timeout(CLOSE_GRACE, ended).await;
    Ok(())
}
