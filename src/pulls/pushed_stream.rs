//! A stream that is pushed: who connects and sends packets is its sender, from its first packets on, and
//! takes the place of the one before. Who sends none disturbs nobody.

use std::collections::VecDeque;
use std::io;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Duration, timeout};

use super::upstream::{Received, read_some};
use crate::wire::mpegts::PacketAligner;

/// Connections that have not sent a packet; for one more the oldest has to go.
pub const SENDERS_WAITING_MAX: usize = 16;
/// Bytes in which packets are found, or there are none.
const FIRST_BYTES_MAX: usize = 64 << 10;

pub(super) struct Pushed {
    waiting: Waiting,
    sender: Option<TcpStream>,
    /// What it has sent first.
    unread: Vec<u8>,
}

/// Who has connected and sent no packet.
struct Waiting {
    listener: TcpListener,
    /// How long one may take for its first packet.
    patience: Duration,
    tasks: JoinSet<io::Result<(TcpStream, Vec<u8>)>>,
    /// The same, the oldest first, with some that are over.
    oldest: VecDeque<AbortHandle>,
}

impl Pushed {
    pub(super) fn new(listener: &std::net::TcpListener, patience: Duration) -> io::Result<Pushed> {
        let listener = TcpListener::from_std(listener.try_clone()?)?;
        let (tasks, oldest) = (JoinSet::new(), VecDeque::new());
        let waiting = Waiting { listener, patience, tasks, oldest };
        Ok(Pushed { waiting, sender: None, unread: Vec::new() })
    }

    /// Wait for somebody who sends.
    pub(super) async fn until_live(&mut self) -> io::Result<()> {
        if self.sender.is_none() {
            let (sender, unread) = self.waiting.next().await?;
            (self.sender, self.unread) = (Some(sender), unread);
        }
        Ok(())
    }

    /// Nothing more is wanted of who sends now.
    pub(super) fn let_go(&mut self) {
        self.sender = None;
        self.unread.clear();
    }

    /// Receive from who sends; what comes behind [`Received::Restarted`] is of another. Nothing is lost if
    /// this is dropped while it waits.
    pub(super) async fn receive(&mut self, out: &mut Vec<u8>) -> io::Result<Received> {
        if !self.unread.is_empty() {
            out.append(&mut self.unread);
            return Ok(Received::Bytes);
        }
        let Some(sender) = &mut self.sender else { return Ok(Received::End) };
        tokio::select! {
            received = read_some(sender, out) => received,
            next = self.waiting.next() => {
                let (sender, unread) = next?;
                (self.sender, self.unread) = (Some(sender), unread);
                Ok(Received::Restarted)
            }
        }
    }
}

impl Waiting {
    /// The next that sends packets, with the first of them. Nothing is lost if this is dropped.
    async fn next(&mut self) -> io::Result<(TcpStream, Vec<u8>)> {
        loop {
            tokio::select! {
                Some(first) = self.tasks.join_next() => {
                    // An error is of one that has not sent anything.
                    if let Ok(Ok(first)) = first {
                        return Ok(first);
                    }
                }
                accepted = self.listener.accept() => self.meet(accepted?.0),
            }
        }
    }

    fn meet(&mut self, stream: TcpStream) {
        self.oldest.retain(|task| !task.is_finished());
        if self.oldest.len() >= SENDERS_WAITING_MAX
            && let Some(oldest) = self.oldest.pop_front()
        {
            oldest.abort();
        }
        let patience = self.patience;
        self.oldest.push_back(self.tasks.spawn(async move {
            let silent = |_| Err(io::ErrorKind::TimedOut.into());
            timeout(patience, first_packets(stream)).await.unwrap_or_else(silent)
        }));
    }
}

/// The first bytes of a connection, with packets among them.
async fn first_packets(mut stream: TcpStream) -> io::Result<(TcpStream, Vec<u8>)> {
    let (mut aligner, mut bytes, mut is_found) = (PacketAligner::default(), Vec::new(), false);
    while !is_found {
        let before = bytes.len();
        if stream.read_buf(&mut bytes).await? == 0 || before >= FIRST_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        aligner.push(&bytes[before..], &mut |_| is_found = true);
    }
    Ok((stream, bytes))
}
