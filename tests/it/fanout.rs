//! One live object, a thousand readers: all end with the same SHA-256.
//!
//! The readers are non-blocking sockets in one poll loop, each with its own little decoder, so
//! that the test costs one thread and the server does the work.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use sha2::{Digest, Sha256};

use crate::client::{Client, Noise, Upload, noise};
use crate::server::{HANG, Server, Setup};

/// What a follower waits for next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Head,
    Size,
    /// This much of a chunk, then its CRLF.
    Data(usize),
    /// This much of an answer with a length: the object was sealed before the request came.
    Plain(usize),
    Done,
}

/// One reader, which hashes the bytes before its start as if it had read them.
struct Follower {
    stream: TcpStream,
    first: usize,
    position: usize,
    unread: Vec<u8>,
    step: Step,
    hash: Sha256,
}

impl Follower {
    fn join(address: SocketAddr, target: &str, first: usize, body: &[u8]) -> Follower {
        let mut client = Client::connect(address);
        let range = format!("Range: bytes={first}-\r\n");
        client.request("GET", target, if first == 0 { "" } else { &range });
        let stream = client.into_stream();
        stream.set_nonblocking(true).unwrap();
        let mut hash = Sha256::new();
        hash.update(&body[..first]);
        let (unread, step) = (Vec::new(), Step::Head);
        Follower { stream, first, position: first, unread, step, hash }
    }

    /// Reads what is there and takes it apart.
    fn advance(&mut self) {
        let mut block = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut block) {
                Ok(0) => panic!("reader from {} was cut at {}", self.first, self.position),
                Ok(count) => self.unread.extend_from_slice(&block[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("reader from {}: {error}", self.first),
            }
            while self.take() {}
            if self.step == Step::Done {
                assert!(self.unread.is_empty(), "bytes after the last chunk");
                return;
            }
        }
    }

    /// One step; false when more bytes are needed.
    fn take(&mut self) -> bool {
        match self.step {
            Step::Head => {
                let Some(line) = self.line(b"\r\n\r\n") else {
                    return false;
                };
                let status = if self.first == 0 { "HTTP/1.1 200" } else { "HTTP/1.1 206" };
                assert!(line.starts_with(status), "{line}");
                let lower = line.to_ascii_lowercase();
                let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
                self.step = match length {
                    Some(length) => Step::Plain(length.trim().parse().unwrap()),
                    None => Step::Size,
                };
            }
            Step::Size => {
                let Some(line) = self.line(b"\r\n") else {
                    return false;
                };
                let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
                self.step = Step::Data(size);
            }
            Step::Data(size) => {
                if self.unread.len() < size + 2 {
                    return false;
                }
                self.hash.update(&self.unread[..size]);
                self.position += size;
                assert_eq!(&self.unread[size..size + 2], b"\r\n");
                self.unread.drain(..size + 2);
                self.step = if size == 0 { Step::Done } else { Step::Size };
            }
            Step::Plain(left) => {
                let count = left.min(self.unread.len());
                self.hash.update(&self.unread[..count]);
                self.position += count;
                self.unread.drain(..count);
                self.step = if count == left { Step::Done } else { Step::Plain(left - count) };
                return false;
            }
            Step::Done => return false,
        }
        true
    }

    fn line(&mut self, end: &[u8]) -> Option<String> {
        let at = self.unread.windows(end.len()).position(|bytes| bytes == end)?;
        let line = self.unread.drain(..at + end.len()).collect();
        Some(String::from_utf8(line).unwrap())
    }
}

/// Lets every follower read that can, waiting at most `wait_ms` for the first.
fn advance_all(followers: &mut [Follower], wait_ms: i64) {
    let waiting = |follower: &Follower| follower.step != Step::Done;
    let mut entries: Vec<PollFd> = followers
        .iter()
        .filter(|follower| waiting(follower))
        .map(|follower| PollFd::new(&follower.stream, PollFlags::IN))
        .collect();
    let wait = Timespec { tv_sec: 0, tv_nsec: wait_ms * 1_000_000 };
    poll(&mut entries, Some(&wait)).unwrap();
    let ready: Vec<bool> = entries.iter().map(|entry| !entry.revents().is_empty()).collect();
    let followers = followers.iter_mut().filter(|follower| waiting(follower));
    for (follower, _) in followers.zip(ready).filter(|(_, ready)| *ready) {
        follower.advance();
    }
}

/// Writes `body` to a live object in small appends while `count` readers join at random offsets,
/// some beyond the tail, and returns the digests of all.
fn fan_out(server: &Server, body: &[u8], count: usize) -> Vec<[u8; 32]> {
    let mut random = Noise::new(7);
    let mut upload = Upload::open(server.address, "/fan.ts", "");
    let mut followers: Vec<Follower> = Vec::new();
    let parts: Vec<&[u8]> = body.chunks(4096).collect();
    for (index, part) in parts.iter().enumerate() {
        let until = (count * (index + 1)).div_ceil(parts.len() * 3 / 4).min(count);
        while followers.len() < until {
            let tail = index * 4096 + 1;
            let first = match followers.len() % 4 {
                0 => 0,
                1 => (tail + random.below(20_000)).min(body.len() - 1),
                _ => random.below(tail),
            };
            followers.push(Follower::join(server.address, "/fan.ts", first, body));
        }
        upload.append(part);
        advance_all(&mut followers, 0);
    }
    assert_eq!(upload.seal().status, 201);
    let deadline = Instant::now() + HANG;
    while followers.iter().any(|follower| follower.step != Step::Done) {
        let left = followers.iter().filter(|follower| follower.step != Step::Done).count();
        assert!(Instant::now() < deadline, "{left} readers never got the end");
        advance_all(&mut followers, 100);
    }
    followers.into_iter().map(|follower| follower.hash.finalize().into()).collect()
}

/// Goal: 1000 readers that joined at random offsets of a live object all get every byte. Method:
/// each hashes the known bytes before its start and everything that it is sent.
#[test]
fn a_thousand_readers_end_with_the_same_digest() {
    let server = Server::start();
    let body = noise(8, 320 * 1024);
    let digests = fan_out(&server, &body, 1000);
    let expected: [u8; 32] = Sha256::digest(&body).into();
    assert_eq!(digests.len(), 1000);
    let wrong = digests.iter().filter(|&&digest| digest != expected).count();
    assert_eq!(wrong, 0, "{wrong} readers got other bytes");
}

/// Goal: the same across the borders of extents. Method: extents of 16 pages, 200 readers.
#[test]
fn readers_over_many_extents_end_with_the_same_digest() {
    let server = Setup::new().key("store.extent_bytes", "65536").start();
    let body = noise(9, 600_001);
    let digests = fan_out(&server, &body, 200);
    let expected: [u8; 32] = Sha256::digest(&body).into();
    assert!(digests.iter().all(|&digest| digest == expected));
}
