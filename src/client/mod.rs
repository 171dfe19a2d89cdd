//! CLIENT: append to and follow objects of Headwater and of httpfstream, for programs in Rust.
//!
//! A blocking interface, as files have it: [`append`] sends a reader's bytes, [`open_append`] gives a
//! writer, [`follow`] gives a reader. Each has a thread of its own with one connection. URLs are
//! `http`, `https`, `ws` or `wss`.
//!
//! Between two Headwaters a lost connection is resumed at the byte where it broke: the server says
//! how much it has, and bytes are kept until it does (16 MiB at most; then writing waits). So an
//! object gets each byte once, and a follower sees each byte once, or there is an error. A server
//! that does not tell offsets is httpfstream, and a lost connection to it is an error.
//!
//! ```
//! use std::io::Read;
//! use headwater::{Origin, client};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let origin = Origin::builder().listen("127.0.0.1:0").ram_only(true).start()?;
//! let url = format!("http://{}/log/today.txt", origin.addresses()[0]);
//!
//! let appended = client::append(&url, "one line\n".as_bytes())?;
//! assert_eq!(appended.bytes, 9);
//!
//! let mut text = String::new();
//! client::follow(&url)?.read_to_string(&mut text)?;
//! assert_eq!(text, "one line\n");
//! # Ok(())
//! # }
//! ```
//!
//! Nothing here knows the rest of the crate.

mod appender;
mod dial;
mod endpoint;
mod failure;
mod follower;
mod frames;
mod plain_body;
mod resume;
mod retry;
mod side_thread;

use std::io::{ErrorKind, Read};

pub use appender::{Appended, Appender};
pub use failure::ClientError;
pub use follower::Follower;

/// Bytes that [`append`] reads at once: one message, as in httpfstream.
const READ_BYTES_MAX: usize = 32 << 10;

/// How to append and follow; `Options::default()` is what the functions of this module use.
///
/// ```no_run
/// use headwater::client::Options;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let authorization = ("Authorization".to_owned(), "Bearer 1234".to_owned());
/// let options = Options { headers: vec![authorization], resume: false, ..Options::default() };
/// let appended = options.append("https://origin.example/log", std::io::stdin())?;
/// println!("{} bytes", appended.bytes);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Options {
    /// Reconnect and go on where a lost connection broke, if the server can.
    pub resume: bool,
    /// Append binary messages only. httpfstream drops them; without this it gets text messages, and
    /// Headwater binary ones where a message is not UTF-8.
    pub binary: bool,
    /// Fields of the request: names and values.
    pub headers: Vec<(String, String)>,
    /// Seconds until there is an answer.
    pub connect_timeout_s: u64,
    /// Seconds in which a server must take something of what is appended.
    pub write_timeout_s: u64,
    /// Seconds of silence after which a Headwater, which pings, is taken for lost.
    pub silence_timeout_s: u64,
    /// Seconds that a server has to answer the end of appending.
    pub close_timeout_s: u64,
    /// Seconds of attempts after a lost connection, all together.
    pub reconnect_max_s: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            resume: true,
            binary: false,
            headers: Vec::new(),
            connect_timeout_s: 10,
            write_timeout_s: 5,
            silence_timeout_s: 60,
            close_timeout_s: 10,
            reconnect_max_s: 60,
        }
    }
}

impl Options {
    /// As [`append`].
    pub fn append(&self, url: &str, mut input: impl Read) -> Result<Appended, ClientError> {
        let mut appender = self.open_append(url)?;
        let mut block = vec![0; READ_BYTES_MAX];
        loop {
            match input.read(&mut block) {
                Ok(0) => return appender.finish(),
                Ok(count) => appender.send(&block[..count])?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(ClientError::Input(error)),
            }
        }
    }

    /// As [`open_append`].
    pub fn open_append(&self, url: &str) -> Result<Appender, ClientError> {
        Appender::open(url, self)
    }

    /// As [`follow`].
    pub fn follow(&self, url: &str) -> Result<Follower, ClientError> {
        Follower::open(url, self)
    }
}

/// Append everything that `input` has to the object at `url`, and end in good order. Each read, of
/// up to 32 KiB, is one message.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let origin = headwater::Origin::builder().listen("127.0.0.1:0").ram_only(true).start()?;
/// # let address = origin.addresses()[0];
/// let url = format!("http://{address}/greeting.txt");
/// let appended = headwater::client::append(&url, "hello\n".as_bytes())?;
/// assert_eq!(appended.bytes, 6);
/// # Ok(())
/// # }
/// ```
pub fn append(url: &str, input: impl Read) -> Result<Appended, ClientError> {
    Options::default().append(url, input)
}

/// Append to the object at `url` as to a file. The object is there from the beginning, each write is
/// one message, and followers see it at once; [`Appender::finish`] ends it in good order.
///
/// ```
/// use std::io::Write;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let origin = headwater::Origin::builder().listen("127.0.0.1:0").ram_only(true).start()?;
/// # let address = origin.addresses()[0];
/// let mut log = headwater::client::open_append(&format!("http://{address}/log.txt"))?;
/// writeln!(log, "started")?;
/// writeln!(log, "{} tasks", 3)?;
/// assert_eq!(log.finish()?.bytes, 16);
/// # Ok(())
/// # }
/// ```
pub fn open_append(url: &str) -> Result<Appender, ClientError> {
    Options::default().open_append(url)
}

/// Read the object at `url` from its beginning, and what is appended to it while it is, up to its
/// end.
///
/// ```
/// use std::io::{BufRead, BufReader, Write};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let origin = headwater::Origin::builder().listen("127.0.0.1:0").ram_only(true).start()?;
/// # let address = origin.addresses()[0];
/// let url = format!("http://{address}/log.txt");
/// let mut log = headwater::client::open_append(&url)?;
/// writeln!(log, "started")?;
///
/// let mut lines = BufReader::new(headwater::client::follow(&url)?).lines();
/// assert_eq!(lines.next().unwrap()?, "started");
/// writeln!(log, "stopped")?;
/// assert_eq!(lines.next().unwrap()?, "stopped");
/// log.finish()?;
/// assert!(lines.next().is_none());
/// # Ok(())
/// # }
/// ```
pub fn follow(url: &str) -> Result<Follower, ClientError> {
    Options::default().follow(url)
}
