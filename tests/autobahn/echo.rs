//! What the Autobahn suite talks to: each message comes back as it was. Blocking sockets and a thread
//! for each connection, and of the crate only `wire::websocket`: what is judged is the codec.
//!
//! Listens on a free port of the loopback, prints it, and ends when its standard input does.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use headwater::wire::websocket::{
    FrameHead, MessageKind, Opcode, Peer, PeerEvent, PeerLimits, accept_key, close_frame, handshake,
};
use httparse::{EMPTY_HEADER, Request, Status};

const HEAD_BYTES_MAX: usize = 8 << 10;
/// The suite's longest has 16 MiB.
const MESSAGE_BYTES_MAX: u64 = 32 << 20;
const READ_BYTES: usize = 64 << 10;
/// How long a client may take to close its side.
const LINGER: Duration = Duration::from_secs(2);

fn main() -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?.port());
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            // A client that goes away in the middle is nobody's fault here.
            thread::spawn(move || serve(socket).ok());
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut early = accept(&mut socket)?;
    let mut echo = Echo::new();
    let mut goes_on = early.is_empty() || echo.answer(&mut early, &mut socket)?;
    let mut room = vec![0; READ_BYTES];
    while goes_on {
        let len = socket.read(&mut room)?;
        goes_on = len > 0 && echo.answer(&mut room[..len], &mut socket)?;
    }
    // Read on to the client's end: a socket closed over unread bytes is reset, and the reset can
    // overtake the close frame.
    socket.shutdown(Shutdown::Write)?;
    socket.set_read_timeout(Some(LINGER))?;
    while socket.read(&mut room)? > 0 {}
    Ok(())
}

/// Answer the upgrade; what has come behind its head.
fn accept(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut room = [0; 1024];
    loop {
        let len = socket.read(&mut room)?;
        head.extend_from_slice(&room[..len]);
        if len == 0 || head.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut headers = [EMPTY_HEADER; 32];
        let mut request = Request::new(&mut headers);
        if let Status::Complete(head_bytes) = request.parse(&head).map_err(io::Error::other)? {
            let upgrade = handshake(request.headers).map_err(io::Error::other)?;
            let answer = format!(
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                 Connection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
                accept_key(upgrade.key)
            );
            socket.write_all(answer.as_bytes())?;
            return Ok(head.split_off(head_bytes));
        }
    }
}

/// A connection after its handshake.
struct Echo {
    peer: Peer,
    /// What has come of a message.
    message: Vec<u8>,
}

impl Echo {
    fn new() -> Echo {
        let limits = PeerLimits { message_bytes_max: MESSAGE_BYTES_MAX, checks_text: true };
        Echo { peer: Peer::new(limits), message: Vec::new() }
    }

    /// Answer what has come; whether the connection goes on.
    fn answer(&mut self, input: &mut [u8], socket: &mut TcpStream) -> io::Result<bool> {
        let Echo { peer, message } = self;
        let mut echoes = Vec::new();
        let result = peer.push(input, &mut |event| {
            if let PeerEvent::Data { kind, bytes, is_last, .. } = event {
                message.extend_from_slice(bytes);
                if is_last {
                    let opcode = match kind {
                        MessageKind::Text => Opcode::Text,
                        MessageKind::Binary => Opcode::Binary,
                    };
                    let head = FrameHead::new(opcode, true, message.len() as u64);
                    echoes.extend_from_slice(head.as_bytes());
                    echoes.append(message);
                }
            }
        });
        let mut answers = peer.take_answers();
        if let Err(violation) = result {
            answers.extend(close_frame(violation.code(), &violation.to_string()));
        }
        let is_over = peer.is_closed() || result.is_err();
        // A pong may overtake messages, a close frame may not.
        let order = if is_over { [&echoes, &answers] } else { [&answers, &echoes] };
        socket.write_all(&order.map(|bytes| &bytes[..]).concat())?;
        Ok(!is_over)
    }
}
