//! Upstreams for the tests of what is fetched from elsewhere: a hand-written server of which a test says
//! what each request gets, and when.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use crate::client::get;
use crate::server::{Server, Setup, wait_until};

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) target: String,
    pub(crate) fields: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let found = self.fields.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// A server that answers as it is told; it ends with the process.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Upstream {
    /// `answer` writes whole answers; false closes the connection behind one.
    pub(crate) fn start(
        answer: impl Fn(&Seen, &mut TcpStream) -> bool + Send + Sync + 'static,
    ) -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (seen, answer) = (Arc::<Mutex<Vec<Seen>>>::default(), Arc::new(answer));
        let noted = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, answer) = (noted.clone(), answer.clone());
                thread::spawn(move || serve(stream, &noted, &*answer));
            }
        });
        Upstream { address, seen }
    }

    /// Everything gets this text as an answer.
    pub(crate) fn saying(answer: impl Into<Vec<u8>>) -> Upstream {
        let answer = answer.into();
        Upstream::start(move |_, stream| stream.write_all(&answer).is_ok())
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Requests for this target.
    pub(crate) fn count(&self, target: &str) -> usize {
        self.seen().iter().filter(|seen| seen.target == target).count()
    }
}

fn serve(
    mut stream: TcpStream,
    noted: &Mutex<Vec<Seen>>,
    answer: &(dyn Fn(&Seen, &mut TcpStream) -> bool + Send + Sync),
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).unwrap_or(0) == 0 {
                return;
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let target = lines[0].split(' ').nth(1).unwrap().to_owned();
        assert!(lines[0].starts_with("GET ") && lines[0].ends_with(" HTTP/1.1"), "{lines:?}");
        let pair = |line: &String| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        };
        let seen = Seen { target, fields: lines[1..].iter().map(pair).collect() };
        noted.lock().unwrap().push(seen.clone());
        if !answer(&seen, &mut stream) {
            return;
        }
    }
}

/// An answer of 200 with a length and these further lines.
pub(crate) fn ok(lines: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{lines}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// One chunk of a chunked body.
pub(crate) fn chunk(data: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat()
}

/// Holds whoever waits, until it is open.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(crate) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    pub(crate) fn wait(&self) {
        let guard = self.0.0.lock().unwrap();
        let _open = self.0.1.wait_while(guard, |is_open| !*is_open).unwrap();
    }
}

/// A server with these tables.
pub(crate) fn serving(tables: &str) -> Server {
    Setup::new().table(tables).start()
}

/// A `[[static]]` or a `[[mirror]]`.
pub(crate) fn section(kind: &str, path: &str, upstream: &str, more: &str) -> String {
    format!("[[{kind}]]\npath = \"{path}\"\nupstream = \"{upstream}\"\n{more}\n")
}

/// The value of a counter on the metrics page.
pub(crate) fn counter(server: &Server, name: &str) -> u64 {
    let page = get(server.admin, "/metrics").text();
    let start = format!("headwater_{name}_total ");
    let line = page.lines().find_map(|line| line.strip_prefix(&*start));
    line.unwrap_or_else(|| panic!("no {name} in {page}")).parse().unwrap()
}

pub(crate) fn until_counted(server: &Server, name: &str, count: u64) {
    wait_until(&format!("{name} is {count}"), || counter(server, name) >= count);
}
