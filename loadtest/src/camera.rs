//! A camera that pushes over TCP as MultiStreamingServer has it: a greeting, then pictures with a length
//! before each. Nothing is ever said to it. The pictures are the appends of a plan.

use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use tokio_uring::net::TcpStream;

use crate::pattern::{HEADER_BYTES, PREAMBLE_BYTES, Plan};
use crate::publish::Source;
use crate::sys;
use crate::target::Target;

/// As in the greeting.
const MJPEG: u32 = 0;
const HIGH: u32 = 1;
const LENGTH_BYTES: usize = 4;

pub(crate) struct Camera {
    stream: TcpStream,
    plan: Arc<Plan>,
    /// A length and a picture; only the picture changes.
    frame: Vec<u8>,
    sequence: u32,
}

/// Where cameras push: the ready line of the server has it.
pub(crate) fn door(url: &str) -> Result<Target> {
    let rest = url.strip_prefix("tcp://").filter(|rest| !rest.contains('/'));
    let rest = rest.ok_or_else(|| anyhow!("{url}: not of the form tcp://HOST:PORT"))?;
    Target::parse(&format!("http://{rest}"))
}

impl Camera {
    /// Connects, and pushes the preamble as the first picture.
    pub(crate) async fn open(door: &Target, id: u32, plan: &Arc<Plan>) -> Result<Camera> {
        let stream = door.connect().await?;
        let mut preamble = vec![0; PREAMBLE_BYTES];
        plan.fill(0, &mut preamble);
        plan.stamp(0, sys::monotonic_ns(), &mut preamble);
        let greeting = [id, MJPEG, HIGH, PREAMBLE_BYTES as u32].map(u32::to_le_bytes).concat();
        let (result, _) = stream.write_all([greeting, preamble].concat()).await;
        result.with_context(|| format!("camera {id} could not greet"))?;
        let length = u32::try_from(plan.append_bytes()).context("too large a picture")?;
        let mut frame = length.to_le_bytes().to_vec();
        frame.resize(LENGTH_BYTES + plan.append_bytes(), 0);
        Ok(Camera { stream, plan: plan.clone(), frame, sequence: 1 })
    }

    /// Says that no more pictures come.
    pub(crate) async fn end(self) -> Result<()> {
        let (result, _) = self.stream.write_all(vec![0; LENGTH_BYTES]).await;
        result.context("a camera could not end")
    }
}

impl Source for Camera {
    fn appends(&self) -> u64 {
        u64::from(self.plan.appends())
    }

    async fn append(&mut self) -> Result<u64> {
        let mut frame = std::mem::take(&mut self.frame);
        let picture = &mut frame[LENGTH_BYTES..];
        self.plan.fill(self.sequence, picture);
        let now = sys::monotonic_ns();
        self.plan.stamp(self.sequence, now, &mut picture[..HEADER_BYTES]);
        let (result, frame) = self.stream.write_all(frame).await;
        self.frame = frame;
        result.with_context(|| format!("picture {} could not be sent", self.sequence))?;
        self.sequence += 1;
        Ok(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doors_are_on_this_machine() {
        assert_eq!(door("tcp://127.0.0.1:9").unwrap().address, "127.0.0.1:9".parse().unwrap());
        for url in ["127.0.0.1:9", "http://127.0.0.1:9", "tcp://127.0.0.1:9/x", "tcp://192.0.2.1:9"]
        {
            assert!(door(url).is_err(), "{url}");
        }
    }
}
