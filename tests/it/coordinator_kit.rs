//! What the coordinator is tested with: the built program, streaming servers and encoders that are
//! fakes of their own (tungstenite, blocking), tokens made by hand, and a web-hook that answers as
//! it is told.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustix::process::{Pid, Signal, kill_process};
use sha2::Digest;
use tempfile::TempDir;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::CloseFrame;
use tungstenite::{HandshakeError, Message, WebSocket};

use crate::server::{HANG, HEADWATER, collect, lines_of, wait_for_child, wait_until};

/// One running `headwater coordinator`. Restarted, it has the same address and state file.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    home: Arc<TempDir>,
    options: String,
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Program {
    /// Starts it with these lines in the section `[coordinator]`.
    pub(crate) fn start(options: &str) -> Program {
        let home = tempfile::Builder::new().prefix("headwater-it-").tempdir().unwrap();
        Program::launch(Arc::new(home), options, "127.0.0.1:0")
    }

    fn launch(home: Arc<TempDir>, options: &str, listen: &str) -> Program {
        let config = home.path().join("headwater.toml");
        std::fs::write(&config, format!("[coordinator]\n{options}\n")).unwrap();
        let mut command = Command::new(HEADWATER);
        command.args(["coordinator", "--listen", listen, "--config"]).arg(&config);
        command.current_dir(home.path()).stdin(Stdio::null());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = collect(child.stderr.take().unwrap());
        let lines = lines_of(child.stdout.take().unwrap());
        let Ok(line) = lines.recv_timeout(HANG) else {
            let _ = child.kill();
            panic!("no ready line; the log:\n{}", log.lock().unwrap());
        };
        let url = line.strip_prefix("coordinator on http://");
        let address = url.unwrap_or_else(|| panic!("{line}")).parse().unwrap();
        Program { address, home, options: options.to_owned(), child, log }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    pub(crate) fn state_file(&self) -> PathBuf {
        self.home.path().join("coordinator.json")
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// SIGKILL: nothing is flushed.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn terminate(&mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        wait_for_child(&mut self.child, "the coordinator did not end")
    }

    /// A new process, after this one has ended.
    pub(crate) fn again(&self) -> Program {
        let listen = self.address.to_string();
        Program::launch(self.home.clone(), &self.options, &listen)
    }

    /// A request with these lines behind the request line, and the whole answer.
    pub(crate) fn http(&self, request: &str, lines: &str) -> String {
        http(self.address, request, lines)
    }

    /// The body of `GET /commands/report` or `capacity`, with the credentials of [`COMMANDS`].
    pub(crate) fn shows(&self, what: &str) -> String {
        let answer = self.http(&format!("GET /commands/{what}"), COMMANDS_LINE);
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }

    pub(crate) fn wait_for_load(&self, load: usize) {
        let wanted = format!("{{\"load\":{load},");
        wait_until(&wanted, || self.shows("capacity").starts_with(&wanted));
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the coordinator's log:\n{}---", self.log());
        }
    }
}

/// The option that goes with [`COMMANDS_LINE`].
pub(crate) const COMMANDS: &str = "commands_auth = { type = \"bearer\", token = \"t\" }\n";
pub(crate) const COMMANDS_LINE: &str = "Authorization: Bearer t\r\n";

pub(crate) fn http(address: SocketAddr, request: &str, lines: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(HANG)).unwrap();
    let head = format!("{request} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{lines}\r\n");
    socket.write_all(head.as_bytes()).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

/// A fake streaming server or encoder.
pub(crate) struct Peer {
    socket: WebSocket<TcpStream>,
}

impl Peer {
    /// Opens a control socket; an answer that is none is given as status and body.
    pub(crate) fn connect(
        address: SocketAddr,
        path: &str,
        fields: &[(&'static str, &str)],
    ) -> Result<Peer, (u16, String)> {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        for (name, value) in fields {
            request.headers_mut().insert(*name, HeaderValue::from_str(value).unwrap());
        }
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(HANG)).unwrap();
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => Ok(Peer { socket }),
            Err(HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                let body = answer.body().clone().unwrap_or_default();
                Err((answer.status().as_u16(), String::from_utf8(body).unwrap()))
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// A streaming server that encoders reach at 192.0.2.1 and this port.
    pub(crate) fn server(program: &Program, port: &str) -> Peer {
        let fields = [("x-external-ip", "192.0.2.1"), ("x-custom-port", port)];
        Peer::connect(program.address, "/ws/control/wss", &fields).unwrap()
    }

    /// An encoder that has said how much it can do.
    pub(crate) fn encoder(program: &Program, capacity: i32) -> Peer {
        let mut peer = Peer::connect(program.address, "/ws/control/hls", &[]).unwrap();
        peer.say(&format!("REGISTER\nCapacity:{capacity}\n"));
        peer
    }

    pub(crate) fn say(&mut self, text: &str) {
        self.socket.send(Message::text(text)).unwrap();
    }

    /// The next message; heartbeats are passed over.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let text = self.hear_any().expect("a message and not the end");
            if text != "HEARTBEAT\n" {
                return text;
            }
        }
    }

    /// The next message, or the close frame.
    pub(crate) fn hear_any(&mut self) -> Result<String, Option<CloseFrame>> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Ok(text.to_string()),
                Ok(Message::Close(frame)) => return Err(frame),
                Ok(_) => {}
                Err(error) => panic!("neither a message nor a close frame: {error}"),
            }
        }
    }

    /// Asserts that nothing but heartbeats is waiting. What was said before on this connection has
    /// been carried out, since messages of one connection are taken in order.
    pub(crate) fn hears_nothing(&mut self) {
        let brief = Duration::from_millis(300);
        self.socket.get_ref().set_read_timeout(Some(brief)).unwrap();
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) if text.as_str() == "HEARTBEAT\n" => {}
                Ok(message) => panic!("{message:?}"),
                Err(tungstenite::Error::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
        self.socket.get_ref().set_read_timeout(Some(HANG)).unwrap();
    }

    pub(crate) fn request(&mut self, id: u32, channel: &str, key: &str, stream_id: &str) {
        let mut text = format!(
            "PUBLISH-REQUEST\nRequest-ID:{id}\nStream-Channel:{channel}\nStream-Key:{key}\n\
             User-IP:198.51.100.9\n"
        );
        if !stream_id.is_empty() {
            text += &format!("Stream-ID:{stream_id}\n");
        }
        self.say(&text);
    }

    /// Publishes, which must be accepted in these very bytes; returns the stream id.
    pub(crate) fn publish(&mut self, id: u32, channel: &str) -> String {
        self.request(id, channel, "key", "");
        self.hear_accept(id, channel)
    }

    pub(crate) fn hear_accept(&mut self, id: u32, channel: &str) -> String {
        let text = self.hear();
        let head = format!("PUBLISH-ACCEPT\nRequest-ID:{id}\nStream-Channel:{channel}\nStream-ID:");
        let stream_id = text.strip_prefix(&head).and_then(|rest| rest.strip_suffix('\n'));
        let stream_id = stream_id.unwrap_or_else(|| panic!("{text:?}"));
        assert!(stream_id.len() == 32 && stream_id.bytes().all(|c| c.is_ascii_hexdigit()));
        stream_id.to_owned()
    }

    pub(crate) fn hear_deny(&mut self, id: u32, channel: &str) {
        let wanted = format!("PUBLISH-DENY\nRequest-ID:{id}\nStream-Channel:{channel}\n");
        assert_eq!(self.hear(), wanted);
    }

    /// Says PUBLISH-END, STREAM-CLOSED and the like.
    pub(crate) fn tell(&mut self, method: &str, channel: &str, stream_id: &str) {
        self.say(&about(method, channel, stream_id));
    }

    pub(crate) fn leave(mut self) {
        let _ = self.socket.close(None);
    }
}

/// A message about a stream.
pub(crate) fn about(method: &str, channel: &str, stream_id: &str) -> String {
    format!("{method}\nStream-Channel:{channel}\nStream-ID:{stream_id}\n")
}

/// A JWT made by hand. `alg` is HS256, HS384, HS512, or anything else: then it has no signature.
pub(crate) fn token(alg: &str, claims: &str, secret: &str) -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let head = part(&format!("{{\"alg\":\"{alg}\",\"typ\":\"JWT\"}}"));
    let signed = format!("{head}.{}", part(claims));
    let mac = match alg {
        "HS256" => hmac::<sha2::Sha256>(64, secret, &signed),
        "HS384" => hmac::<sha2::Sha384>(128, secret, &signed),
        "HS512" => hmac::<sha2::Sha512>(128, secret, &signed),
        _ => Vec::new(),
    };
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac))
}

/// RFC 2104, for secrets that are no longer than a block.
fn hmac<D: Digest>(block: usize, secret: &str, text: &str) -> Vec<u8> {
    let pad = |fill: u8| -> Vec<u8> {
        let secret = secret.bytes().chain(std::iter::repeat(0));
        secret.take(block).map(|byte| byte ^ fill).collect()
    };
    let inner = D::digest([pad(0x36), text.as_bytes().to_vec()].concat());
    D::digest([pad(0x5c), inner.to_vec()].concat()).to_vec()
}

/// A web-hook server: keeps the heads of the requests, answers what `answer` says, or never.
pub(crate) struct HookServer {
    pub(crate) url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl HookServer {
    /// `answer` gets the number of the request, from 0, and its head; it gives status and fields.
    pub(crate) fn start(
        answer: impl Fn(usize, &str) -> Option<&'static str> + Send + Sync + 'static,
    ) -> HookServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/hook?a=b", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let kept = heads.clone();
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (kept.clone(), answer.clone());
                thread::spawn(move || serve_hook(stream, &kept, &*answer));
            }
        });
        HookServer { url, heads }
    }

    /// The requests so far, their field names in small letters.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }

    pub(crate) fn wait_for(&self, count: usize) -> Vec<String> {
        wait_until(&format!("{count} calls of the hook"), || self.heads().len() >= count);
        self.heads()
    }
}

fn serve_hook(
    mut stream: TcpStream,
    heads: &Mutex<Vec<String>>,
    answer: &(dyn Fn(usize, &str) -> Option<&'static str> + Send + Sync),
) {
    let mut head = String::new();
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let Ok(line) = line else { return };
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap_or((&line, ""));
        let is_field = head.contains('\n');
        head += &if is_field { format!("{}:{value}\n", name.to_lowercase()) } else { line + "\n" };
    }
    let index = {
        let mut heads = heads.lock().unwrap();
        heads.push(head.clone());
        heads.len() - 1
    };
    let Some(answer) = answer(index, &head) else {
        // Until the caller gives up.
        let _ = stream.read(&mut [0]);
        return;
    };
    let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
}

/// The value of a field in a head of [`HookServer`]; empty if it is not there.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> &'h str {
    let mut values = head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    values.next_back().unwrap_or("")
}
