//! Servers that only a test has, for `headwater append` and `headwater follow`: one that answers as
//! it is told, and a proxy that cuts connections at chosen bytes. Frames are those of tungstenite.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tungstenite::WebSocket;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::Role;

use crate::server::{Ended, HANG, HEADWATER, wait_for_child};

/// What a client has asked, with its connection.
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) stream: TcpStream,
}

impl Asked {
    fn read(mut stream: TcpStream) -> Option<Asked> {
        stream.set_read_timeout(Some(HANG)).unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read(&mut byte).ok()? == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        Some(Asked { head: String::from_utf8(head).unwrap(), stream })
    }

    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(':'));
        let found = fields.find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        self.field(name)?.parse().ok()
    }

    /// Accept the handshake, with more header lines.
    pub(crate) fn upgrade(mut self, lines: &str) -> WebSocket<TcpStream> {
        let accept = derive_accept_key(self.field("Sec-WebSocket-Key").unwrap().as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
        );
        let _ = self.stream.write_all(answer.as_bytes());
        WebSocket::from_raw_socket(self.stream, Role::Server, None)
    }

    /// Answer with exactly these bytes, and end the connection.
    pub(crate) fn answer(mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }
}

/// A server that hands each request to a function, with its number.
pub(crate) struct Fake {
    pub(crate) address: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl Fake {
    pub(crate) fn start(serve: impl Fn(usize, Asked) + Send + Sync + 'static) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, serve) = (Arc::new(AtomicUsize::new(0)), Arc::new(serve));
        let count = asked.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (serve, count) = (serve.clone(), count.clone());
                thread::spawn(move || {
                    if let Some(asked) = Asked::read(stream.unwrap()) {
                        serve(count.fetch_add(1, Ordering::SeqCst), asked);
                    }
                });
            }
        });
        Fake { address, asked }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/f.txt", self.address)
    }

    /// Requests so far.
    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Where a connection is cut: after so many bytes towards the server, or towards the client.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    Up(usize),
    Down(usize),
}

/// Forwards connections, and cuts the first ones.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    target: Arc<Mutex<SocketAddr>>,
    cuts: Arc<Mutex<Vec<Cut>>>,
}

impl Proxy {
    pub(crate) fn start(target: SocketAddr, cuts: &[Cut]) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = Arc::new(Mutex::new(cuts.iter().rev().copied().collect::<Vec<_>>()));
        let target = Arc::new(Mutex::new(target));
        let (left, goal) = (cuts.clone(), target.clone());
        thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.unwrap();
                let Ok(server) = TcpStream::connect(*goal.lock().unwrap()) else { continue };
                let (up, down) = match left.lock().unwrap().pop() {
                    Some(Cut::Up(bytes)) => (bytes, usize::MAX),
                    Some(Cut::Down(bytes)) => (usize::MAX, bytes),
                    None => (usize::MAX, usize::MAX),
                };
                forward(client.try_clone().unwrap(), server.try_clone().unwrap(), up);
                forward(server, client, down);
            }
        });
        Proxy { address, target, cuts }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/f.txt", self.address)
    }

    /// Forward new connections to another server.
    pub(crate) fn lead_to(&self, target: SocketAddr) {
        *self.target.lock().unwrap() = target;
    }

    /// Cuts that have not been made.
    pub(crate) fn left(&self) -> usize {
        self.cuts.lock().unwrap().len()
    }
}

/// Copy until the end or the limit; then both sides lose the connection.
fn forward(mut from: TcpStream, mut to: TcpStream, bytes_max: usize) {
    thread::spawn(move || {
        let (mut left, mut block) = (bytes_max, vec![0; 16 << 10]);
        while left > 0 {
            let room = block.len().min(left);
            let Ok(count @ 1..) = from.read(&mut block[..room]) else { break };
            left -= count;
            if to.write_all(&block[..count]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
    });
}

/// `headwater append` or `follow` with pipes at all three ends.
pub(crate) fn spawn(arguments: &[&str]) -> Child {
    let mut command = Command::new(HEADWATER);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Runs `headwater append` with this input.
pub(crate) fn append(arguments: &[&str], input: &[u8]) -> Ended {
    let mut child = spawn(&[&["append"], arguments].concat());
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // One that ends early closes the pipe.
    thread::spawn(move || stdin.write_all(&input));
    let (bytes, ended) = finish(child);
    assert!(bytes.is_empty());
    ended
}

/// Runs `headwater follow`; its output as bytes.
pub(crate) fn follow(arguments: &[&str]) -> (Vec<u8>, Ended) {
    finish(spawn(&[&["follow"], arguments].concat()))
}

/// Gathers what a program still says, and waits for its end.
pub(crate) fn finish(mut child: Child) -> (Vec<u8>, Ended) {
    let mut stderr = child.stderr.take().unwrap();
    let errors = thread::spawn(move || {
        let mut text = String::new();
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let stdout = child.stdout.take();
    let output = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.map(|mut stdout| stdout.read_to_end(&mut bytes));
        bytes
    });
    let status = wait_for_child(&mut child, "headwater did not end");
    let bytes = output.join().unwrap();
    (bytes, Ended { status, stdout: String::new(), stderr: errors.join().unwrap() })
}
