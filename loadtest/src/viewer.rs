//! A viewer of something without an end, over HTTP: a connection, and what its body shows, which is
//! checked byte by byte.

use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::time::sleep;
use tokio_uring::net::TcpStream;

use crate::follow::{Reads, Tally};
use crate::http::{Event, Response};
use crate::outcome::Fault;
use crate::sys;
use crate::target::Target;

/// How long what is sent may take to become visible.
const APPEAR_MS_MAX: u64 = 3000;

/// What a viewer makes of the body.
pub(crate) trait Sight {
    fn take(&mut self, body: &[u8], tally: &Tally) -> Result<(), Fault>;

    /// Whether something whole has been seen.
    fn has_begun(&self) -> bool;

    /// The body has ended.
    fn end(&self) -> Result<(), Fault>;

    /// How far it has come, for a fault.
    fn place(&self) -> String;
}

pub(crate) struct Viewer<S> {
    stream: Rc<TcpStream>,
    buffer: Vec<u8>,
    response: Response,
    sight: S,
    ended: bool,
}

impl<S: Sight> Viewer<S> {
    /// On a connection over which the request has not gone out yet. `whole_bytes` are read at once, with
    /// their framing.
    pub(crate) fn new(stream: TcpStream, sight: S, whole_bytes: usize) -> Viewer<S> {
        let buffer_bytes = (whole_bytes + 512).next_multiple_of(4096).min(256 * 1024);
        Viewer {
            stream: Rc::new(stream),
            buffer: vec![1; buffer_bytes],
            response: Response::new(),
            sight,
            ended: false,
        }
    }

    /// Connects and reads until something is there.
    pub(crate) async fn join(
        target: &Target,
        sight: S,
        whole_bytes: usize,
        tally: &Tally,
    ) -> Result<Viewer<S>> {
        let mut viewer = Viewer::new(target.connect().await?, sight, whole_bytes);
        viewer.request(target).await?;
        while !viewer.sight.has_begun() && !viewer.ended {
            viewer.step(tally).await?;
        }
        Ok(viewer)
    }

    pub(crate) async fn request(&self, target: &Target) -> Result<()> {
        let (result, _) = self.stream.write_all(target.get_request()).await;
        result.context("the request could not be sent")
    }

    async fn step(&mut self, tally: &Tally) -> Result<(), Fault> {
        let (result, buffer) = self.stream.read(std::mem::take(&mut self.buffer)).await;
        self.buffer = buffer;
        match result {
            Ok(0) if self.response.ends_with_connection() => self.end(),
            Ok(0) => Err(self.lost("the connection was closed")),
            Ok(length) => self.take(length, tally),
            Err(error) => Err(self.lost(&error.to_string())),
        }
    }

    fn take(&mut self, length: usize, tally: &Tally) -> Result<(), Fault> {
        let mut input = &self.buffer[..length];
        loop {
            match self.response.next(&mut input) {
                Ok(Event::Head(head)) if head.status == 200 => {}
                Ok(Event::Head(head)) => {
                    return Err(Fault::Lost(format!("the server answered {}", head.status)));
                }
                Ok(Event::Body(body)) => {
                    tally.bytes.set(tally.bytes.get() + body.len() as u64);
                    self.sight.take(body, tally)?;
                }
                Ok(Event::End) => return self.end(),
                Ok(Event::NeedMore) => return Ok(()),
                Err(error) => return Err(Fault::Corrupt(error.to_string())),
            }
        }
    }

    fn end(&mut self) -> Result<(), Fault> {
        self.ended = true;
        self.sight.end()
    }

    fn lost(&self, why: &str) -> Fault {
        Fault::Lost(format!("{why} {}", self.sight.place()))
    }
}

/// Joins until it can be done: nothing tells who sends when readers may come. `what` cannot be seen
/// otherwise.
pub(crate) async fn wait_until_visible<V>(
    what: &'static str,
    join: impl AsyncFn() -> Result<V>,
) -> Result<()> {
    let deadline = sys::monotonic_ns() + APPEAR_MS_MAX * 1_000_000;
    loop {
        let Err(error) = join().await else { return Ok(()) };
        if sys::monotonic_ns() > deadline {
            return Err(error.context(format!("{what} cannot be seen")));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

impl<S: Sight> Reads for Viewer<S> {
    fn stream(&self) -> Rc<TcpStream> {
        self.stream.clone()
    }

    async fn follow(&mut self, tally: &Tally) -> Result<(), Fault> {
        while !self.ended {
            self.step(tally).await?;
        }
        Ok(())
    }
}
