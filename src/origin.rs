//! The origin inside another program: options, start, addresses, stop. What `headwater serve` adds to
//! it are files, flags, signals and a log.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;

use crate::operations::config::{Config, ConfigError};
use crate::server::{Server, Stopper};

/// A running origin. Dropping it stops it, without waiting.
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::TcpStream;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let origin = headwater::Origin::builder()
///     .listen("127.0.0.1:0")
///     .ram_only(true)
///     .set("limits.head_timeout_s", 5)
///     .start()?;
/// let address = origin.addresses()[0];
///
/// let ask = |text: &str| -> std::io::Result<String> {
///     let mut stream = TcpStream::connect(address)?;
///     stream.write_all(text.as_bytes())?;
///     let mut answer = String::new();
///     stream.read_to_string(&mut answer)?;
///     Ok(answer)
/// };
/// let end = "Host: h\r\nConnection: close\r\n";
/// let put = ask(&format!("PUT /a.txt HTTP/1.1\r\n{end}Content-Length: 5\r\n\r\nhello"))?;
/// assert!(put.starts_with("HTTP/1.1 201 "), "{put}");
/// let get = ask(&format!("GET /a.txt HTTP/1.1\r\n{end}\r\n"))?;
/// assert!(get.ends_with("\r\n\r\nhello"), "{get}");
///
/// origin.stop();
/// origin.join();
/// # Ok(())
/// # }
/// ```
///
/// What it does to the program around it: the soft limit of open files is raised to the hard one;
/// events go to whatever `tracing` subscriber there is; workers are bound to processors, as many as
/// there are unless [`cores`](OriginBuilder::cores) says otherwise. A worker that cannot run at all
/// ends the process. After the end the memory of the workers' event loops is not given back, since
/// the kernel may still write to it, and with it what a RAM-only origin held: start one, not one for
/// each request.
pub struct Origin {
    addresses: Vec<SocketAddr>,
    admin: SocketAddr,
    stopper: Stopper,
    server: Option<Server>,
}

/// What an origin is started from: see [`Origin::builder`].
#[derive(Debug, Clone)]
pub struct OriginBuilder {
    config: Config,
    listen: Vec<String>,
    /// Dotted keys and their values; the later wins.
    options: Vec<(String, toml::Value)>,
}

/// Why an origin did not start.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("the origin cannot start: {0}")]
    Start(#[from] std::io::Error),
}

impl Origin {
    /// The defaults of `headwater serve`, but an admin address with a port that is free.
    pub fn builder() -> OriginBuilder {
        let config = Config { admin: SocketAddr::from(([127, 0, 0, 1], 0)), ..Config::default() };
        OriginBuilder { config, listen: Vec::new(), options: Vec::new() }
    }

    /// Where it serves objects, with the ports that it got.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it serves /healthz, /readyz, /metrics and /player.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Stop in good order, without waiting: no new connections, uploads end, and readers of sealed
    /// objects have `shutdown_grace_s` to finish.
    pub fn stop(&self) {
        self.stopper.stop();
    }

    /// Wait until it has stopped. Its data directory is free then.
    pub fn join(mut self) {
        if let Some(server) = self.server.take() {
            server.join();
        }
    }
}

impl Drop for Origin {
    /// Stop as `stop` does; what there is to wait for is waited for elsewhere.
    fn drop(&mut self) {
        self.stopper.stop();
        if let Some(server) = self.server.take() {
            let end = std::thread::Builder::new().name("origin-end".to_owned());
            // Without a thread it ends all the same, but for the directory's lock.
            let _ = end.spawn(move || server.join());
        }
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Origin");
        shown.field("addresses", &self.addresses).field("admin", &self.admin);
        shown.finish_non_exhaustive()
    }
}

impl OriginBuilder {
    /// Serve objects on this address, IP:PORT; may be repeated. Port 0 takes one that is free.
    pub fn listen(mut self, address: impl ToString) -> OriginBuilder {
        self.listen.push(address.to_string());
        self
    }

    /// Serve /healthz, /readyz, /metrics and /player on this address.
    pub fn admin(self, address: impl ToString) -> OriginBuilder {
        self.set("admin", address.to_string())
    }

    /// Keep objects as files below this directory, instead of `./content`.
    pub fn data_dir(self, directory: impl AsRef<Path>) -> OriginBuilder {
        let directory = directory.as_ref().to_string_lossy().into_owned();
        self.set("data", directory)
    }

    /// Keep everything in memory and nothing on disk.
    pub fn ram_only(self, is_ram_only: bool) -> OriginBuilder {
        self.set("ram_only", is_ram_only)
    }

    /// Worker threads; 0 is one for each processor.
    pub fn cores(self, cores: u16) -> OriginBuilder {
        self.set("cores", i64::from(cores))
    }

    /// Any option of the configuration file by its dotted key, such as `limits.head_timeout_s`. A
    /// key that does not exist is an error of [`start`](OriginBuilder::start).
    pub fn set(mut self, key: &str, value: impl Into<toml::Value>) -> OriginBuilder {
        self.options.push((key.to_owned(), value.into()));
        self
    }

    /// All options at once. What the other methods set, before or after, wins over it.
    pub fn config(mut self, config: Config) -> OriginBuilder {
        self.config = config;
        self
    }

    /// Recover what is in the data directory, bind the addresses, and serve.
    pub fn start(self) -> Result<Origin, OriginError> {
        let mut options = self.options;
        if !self.listen.is_empty() {
            options.push(("listen".to_owned(), self.listen.into()));
        }
        let server = Server::start(&self.config.with(&options)?)?;
        let (addresses, admin) = (server.listen.clone(), server.admin);
        Ok(Origin { addresses, admin, stopper: server.stopper(), server: Some(server) })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    fn connect(address: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream
    }

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = connect(address);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(address: SocketAddr, path: &str) -> String {
        ask(address, &format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"))
    }

    fn put(address: SocketAddr, path: &str, body: &str) -> String {
        let length = body.len();
        ask(
            address,
            &format!(
                "PUT {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            ),
        )
    }

    /// Goal: a stopped origin lets go of its directory, its ports and its peers. Method: start,
    /// fill, stop with an idle connection, and the same again on the same directory and port.
    #[test]
    fn an_origin_can_be_started_again() {
        let home = tempfile::tempdir().unwrap();
        let builder = Origin::builder().data_dir(home.path()).cores(2);
        let first = builder.clone().listen("127.0.0.1:0").start().unwrap();
        let (address, admin) = (first.addresses()[0], first.admin());
        assert!(put(address, "/a.txt", "hello").starts_with("HTTP/1.1 201 "));
        let mut idle = connect(address);
        assert!(builder.clone().start().is_err(), "the directory is taken");
        first.stop();
        first.join();
        assert_eq!(idle.read(&mut [0]).unwrap(), 0, "a connection is left open");
        for stopped in [address, admin] {
            assert!(TcpStream::connect(stopped).is_err(), "{stopped} still listens");
        }
        let second = builder.listen(address).start().unwrap();
        assert_eq!(second.addresses(), [address]);
        assert!(get(address, "/a.txt").ends_with("\r\n\r\nhello"));
        assert!(get(second.admin(), "/healthz").starts_with("HTTP/1.1 200 "));
        second.stop();
        second.join();
    }

    #[test]
    fn two_origins_run_beside_each_other() {
        let builder = Origin::builder().listen("127.0.0.1:0").ram_only(true).cores(1);
        let (one, other) = (builder.clone().start().unwrap(), builder.start().unwrap());
        put(one.addresses()[0], "/a", "1");
        put(other.addresses()[0], "/a", "2");
        assert!(get(one.addresses()[0], "/a").ends_with("\r\n\r\n1"));
        assert!(get(other.addresses()[0], "/a").ends_with("\r\n\r\n2"));
    }

    #[test]
    fn options_are_those_of_the_file() {
        let config = Config { ram_only: true, cores: 1, ..Config::default() };
        let builder = Origin::builder().listen("127.0.0.1:0").admin("127.0.0.1:0").config(config);
        let origin = builder.clone().set("limits.wait_max_s", 3).start().unwrap();
        assert!(get(origin.addresses()[0], "/absent").starts_with("HTTP/1.1 404 "));
        for (key, said) in [
            ("limits.wait_max", "unknown field `wait_max`"),
            ("cores.all", "cores is not a table"),
            ("data", "expected path string"),
        ] {
            let error = builder.clone().set(key, 3).start().unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        let error = builder.listen("nowhere").start().unwrap_err();
        assert!(matches!(error, OriginError::Config(_)), "{error}");
    }
}
