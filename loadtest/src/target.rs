//! Where the load goes: a URL taken apart, proven to be loopback, connections to it and the
//! request heads sent there. Says nothing about what is sent after the head.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use socket2::{Domain, Socket, Type};
use tokio::time::timeout;
use tokio_uring::net::TcpStream;

/// A SYN that meets a full accept queue is sent again after 1, 3 and 7 seconds.
const CONNECT_SECONDS_MAX: u64 = 8;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    authority: String,
    path: String,
}

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Target> {
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| anyhow!("{url}: only http:// URLs are supported"))?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let printable = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if authority.is_empty() || !printable(authority) || !printable(path) {
            bail!("{url}: not a valid URL (other characters must be percent-encoded)");
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let host_and_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let addresses: Vec<SocketAddr> = host_and_port
            .to_socket_addrs()
            .with_context(|| format!("{url}: cannot resolve {authority}"))?
            .collect();
        if let Some(address) = addresses.iter().find(|address| !address.ip().is_loopback()) {
            bail!(
                "{url}: {} is not a loopback address; this tool loads only its own machine",
                address.ip()
            );
        }
        // `localhost` often means ::1 first, but most servers here listen on 127.0.0.1 only.
        let first_v4 = addresses.iter().find(|address| address.is_ipv4());
        let address = first_v4.or(addresses.first());
        let address = *address.ok_or_else(|| anyhow!("{url}: {authority} has no address"))?;
        Ok(Target { address, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// A target for a listener of this process.
    pub(crate) fn local(address: SocketAddr) -> Target {
        Target { address, authority: address.to_string(), path: "/".to_owned() }
    }

    /// Object `index` of `count`: the number stands in place of `{n}`, or else behind the path,
    /// where a single object needs none.
    pub(crate) fn numbered(&self, index: u32, count: u32) -> Target {
        let path = if self.path.contains("{n}") {
            self.path.replace("{n}", &index.to_string())
        } else if count == 1 {
            self.path.clone()
        } else {
            format!("{}/{index}", self.path.trim_end_matches('/'))
        };
        Target { path, ..self.clone() }
    }

    /// The same with one more segment.
    pub(crate) fn below(&self, segment: &str) -> Target {
        let path = format!("{}/{segment}", self.path.trim_end_matches('/'));
        Target { path, ..self.clone() }
    }

    pub(crate) fn get_request(&self) -> Vec<u8> {
        self.get_request_with("")
    }

    /// `headers` are whole lines.
    pub(crate) fn get_request_with(&self, headers: &str) -> Vec<u8> {
        self.request("GET", headers)
    }

    pub(crate) fn put_request(&self) -> Vec<u8> {
        let headers = "Transfer-Encoding: chunked\r\nContent-Type: application/octet-stream\r\n";
        self.request("PUT", headers)
    }

    fn request(&self, method: &str, headers: &str) -> Vec<u8> {
        let Target { authority, path, .. } = self;
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: loadtest\r\nAccept: */*\r\n{headers}\r\n"
        )
        .into_bytes()
    }

    pub(crate) async fn connect(&self) -> Result<TcpStream> {
        let connecting = TcpStream::connect(self.address);
        let limit = Duration::from_secs(CONNECT_SECONDS_MAX);
        let connected = timeout(limit, connecting).await.map_err(|_| {
            anyhow!("no connection to {} within {CONNECT_SECONDS_MAX} s", self.address)
        })?;
        let stream = connected.map_err(|error| self.explain(&error))?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// Connects without the event loop; with a small receive buffer if one is given, which must
    /// be set before the window is negotiated.
    pub(crate) fn connect_blocking(&self, receive_bytes: Option<usize>) -> Result<Socket> {
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        if let Some(bytes) = receive_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        let limit = Duration::from_secs(CONNECT_SECONDS_MAX);
        socket
            .connect_timeout(&self.address.into(), limit)
            .map_err(|error| self.explain(&error))?;
        socket.set_tcp_nodelay(true)?;
        Ok(socket)
    }

    fn explain(&self, error: &std::io::Error) -> anyhow::Error {
        match error.kind() {
            std::io::ErrorKind::ConnectionRefused => {
                anyhow!("connection refused at {}: is the server running?", self.address)
            }
            std::io::ErrorKind::AddrNotAvailable => {
                anyhow!("no free local port towards {}: too many connections", self.address)
            }
            _ => anyhow!("cannot connect to {}: {error}", self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_url_apart() {
        let target = Target::parse("http://127.0.0.1:9094/live/a?b").unwrap();
        assert_eq!(target.address, "127.0.0.1:9094".parse().unwrap());
        let head = String::from_utf8(target.get_request()).unwrap();
        assert!(head.starts_with("GET /live/a?b HTTP/1.1\r\nHost: 127.0.0.1:9094\r\n"));
        assert_eq!(Target::parse("http://[::1]").unwrap().address, "[::1]:80".parse().unwrap());
    }

    #[test]
    fn refuses_what_is_not_loopback_or_not_a_url() {
        for url in [
            "http://192.0.2.1/a",
            "https://127.0.0.1/",
            "127.0.0.1",
            "http:///a",
            "http://127.0.0.1/a b",
        ] {
            assert!(Target::parse(url).is_err(), "{url}");
        }
    }

    #[test]
    fn numbers_paths() {
        let path = |url, count| Target::parse(url).unwrap().numbered(0, count).path;
        assert_eq!(path("http://127.0.0.1/a", 2), "/a/0");
        assert_eq!(path("http://127.0.0.1/a", 1), "/a");
        assert_eq!(path("http://127.0.0.1/a/{n}.ts", 1), "/a/0.ts");
    }
}
