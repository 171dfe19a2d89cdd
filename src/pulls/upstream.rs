//! Connects to an upstream, whatever its kind, and receives from it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::process::Stdio;
use std::time::Duration;

use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream, lookup_host};
use tokio::process::{Child, Command};
use tokio::time::sleep;

use super::PullOptions;
use super::paced_file::PacedFile;
use super::pushed_stream::Pushed;
use crate::fetch::{Answer, HttpClient};
use crate::wire::rtp::{Carriage, RtpEvent, RtpPacket, RtpReorder, recognise};
use crate::wire::upstream_url::{HostPort, UnixKind, UpstreamUrl};

/// Received at once.
const RECEIVE_BYTES: usize = 64 << 10;
/// What the kernel keeps of datagrams for us.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// A datagram that is missing is waited for so long.
const REORDER_WAIT: Duration = Duration::from_millis(50);
/// A longer line of a command's errors is cut.
const ERROR_LINE_BYTES_MAX: u64 = 4096;

/// An open upstream.
pub(super) enum Source {
    Bytes(Pin<Box<dyn AsyncRead + Send>>),
    File(PacedFile),
    Command { child: Child },
    Http(Answer),
    Udp(Datagrams<UdpSocket>),
    Unix(Datagrams<UnixDatagram>),
    Pushed(Pushed),
}

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    Bytes,
    /// Another sender, or the same from its beginning.
    Restarted,
    End,
}

/// Transport packets in datagrams, with RTP or without.
pub(super) struct Datagrams<S> {
    socket: S,
    /// `None`: the first one tells.
    is_rtp: Option<bool>,
    /// An empty one is the end.
    has_end: bool,
    reorder: RtpReorder,
    buffer: Vec<u8>,
}

pub(super) async fn open(
    url: &UpstreamUrl,
    options: &PullOptions,
    http: &HttpClient,
) -> io::Result<Source> {
    match url {
        UpstreamUrl::Http(url) => {
            let asked = http.get(url, &[], options.connect_timeout).await;
            let answer = asked.map_err(io::Error::other)?;
            match answer.status {
                200..300 => Ok(Source::Http(answer)),
                status => Err(io::Error::other(format!("it answered {status}"))),
            }
        }
        UpstreamUrl::Tcp(HostPort { host, port }) => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            Ok(Source::Bytes(Box::pin(stream)))
        }
        UpstreamUrl::Udp(place) => listen(place, None, options).await,
        UpstreamUrl::Rtp(place) => listen(place, Some(true), options).await,
        UpstreamUrl::File(path) => open_file(path, options).await,
        UpstreamUrl::Unix { kind: UnixKind::Stream, path } => {
            Ok(Source::Bytes(Box::pin(UnixStream::connect(path).await?)))
        }
        UpstreamUrl::Unix { kind, path } => {
            let socket = std::os::unix::net::UnixDatagram::from(connect_unix(*kind, path)?);
            let mut datagrams =
                Datagrams::new(UnixDatagram::from_std(socket)?, Some(false), options);
            datagrams.has_end = *kind == UnixKind::SequencedPacket;
            Ok(Source::Unix(datagrams))
        }
        UpstreamUrl::Fork { command, arguments } => run(command, arguments),
    }
}

/// A FIFO is opened for writing too: so opening it waits for nobody, and it has no end.
async fn open_file(path: &Path, options: &PullOptions) -> io::Result<Source> {
    use std::os::unix::fs::FileTypeExt;
    if tokio::fs::metadata(path).await?.file_type().is_fifo() {
        let fifo = pipe::OpenOptions::new().read_write(true).open_receiver(path)?;
        return Ok(Source::Bytes(Box::pin(fifo)));
    }
    Ok(Source::File(PacedFile::new(tokio::fs::File::open(path).await?, options.now)))
}

fn run(command: &str, arguments: &[String]) -> io::Result<Source> {
    let mut started = Command::new(command);
    started.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = started.kill_on_drop(true).spawn()?;
    if let Some(errors) = child.stderr.take() {
        let command = command.to_owned();
        tokio::spawn(async move {
            let mut errors = BufReader::new(errors);
            loop {
                let mut line = Vec::new();
                let mut limited = (&mut errors).take(ERROR_LINE_BYTES_MAX);
                if !limited.read_until(b'\n', &mut line).await.is_ok_and(|bytes| bytes > 0) {
                    return;
                }
                let line = String::from_utf8_lossy(&line);
                tracing::info!(command, line = line.trim_end(), "an upstream's command says");
            }
        });
    }
    Ok(Source::Command { child })
}

async fn listen(
    HostPort { host, port }: &HostPort,
    is_rtp: Option<bool>,
    options: &PullOptions,
) -> io::Result<Source> {
    let unknown = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let mut address = lookup_host((host.as_str(), *port)).await?.next().ok_or_else(unknown)?;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if address.ip().is_multicast() {
        // Others on this machine may listen to the same group.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    // Less than that is what the system allows.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    let index = match &options.interface {
        Some(name) => net::netdevice::name_to_index(&socket, name)?,
        None => 0,
    };
    if let SocketAddr::V6(address) = &mut address
        && address.ip().is_multicast()
    {
        // A group of one link (ff02::) is none without it.
        address.set_scope_id(index);
    }
    net::bind(&socket, &address)?;
    join_group(&socket, &address, index)?;
    let socket = UdpSocket::from_std(std::net::UdpSocket::from(socket))?;
    Ok(Source::Udp(Datagrams::new(socket, is_rtp, options)))
}

fn join_group(socket: &OwnedFd, address: &SocketAddr, index: u32) -> io::Result<()> {
    match address.ip() {
        ip if !ip.is_multicast() => Ok(()),
        IpAddr::V4(group) => {
            let anywhere = std::net::Ipv4Addr::UNSPECIFIED;
            sockopt::set_ip_add_membership_with_ifindex(socket, &group, &anywhere, index)
                .map_err(io::Error::from)
        }
        IpAddr::V6(group) => {
            sockopt::set_ipv6_add_membership(socket, &group, index).map_err(io::Error::from)
        }
    }
}

/// Who sends datagrams must know where to: we have an address of our own and say so.
fn connect_unix(kind: UnixKind, path: &Path) -> io::Result<OwnedFd> {
    let packets = kind == UnixKind::SequencedPacket;
    let of_kind = if packets { SocketType::SEQPACKET } else { SocketType::DGRAM };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, of_kind, flags, None)?;
    if !packets {
        net::bind(&socket, &SocketAddrUnix::new_unnamed())?;
    }
    net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    if !packets {
        let _ = net::send(&socket, &[], net::SendFlags::empty());
    }
    Ok(socket)
}

impl Source {
    /// Receive some bytes behind those in `out`. Nothing is lost if this is dropped while it waits.
    pub(super) async fn receive(&mut self, out: &mut Vec<u8>) -> io::Result<Received> {
        match self {
            Source::Bytes(stream) => read_some(stream, out).await,
            Source::File(file) => file.receive(out).await,
            // Whoever asks has a time-out of its own.
            Source::Http(answer) => {
                let chunk = answer.chunk(Duration::MAX).await.map_err(io::Error::other)?;
                out.extend_from_slice(chunk.as_deref().unwrap_or_default());
                Ok(if chunk.is_some() { Received::Bytes } else { Received::End })
            }
            Source::Command { child } => match &mut child.stdout {
                Some(stdout) => read_some(stdout, out).await,
                None => Ok(Received::End),
            },
            Source::Udp(datagrams) => datagrams.receive(out).await,
            Source::Unix(datagrams) => datagrams.receive(out).await,
            Source::Pushed(pushed) => pushed.receive(out).await,
        }
    }
}

pub(super) async fn read_some(
    stream: &mut (impl AsyncRead + Unpin),
    out: &mut Vec<u8>,
) -> io::Result<Received> {
    out.reserve(RECEIVE_BYTES);
    let count = stream.read_buf(out).await?;
    Ok(if count == 0 { Received::End } else { Received::Bytes })
}

/// A socket that gives datagrams.
pub(super) trait Socket {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;
}

impl Socket for UdpSocket {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.recv(buffer).await
    }
}

impl Socket for UnixDatagram {
    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.recv(buffer).await
    }
}

impl<S: Socket> Datagrams<S> {
    fn new(socket: S, is_rtp: Option<bool>, options: &PullOptions) -> Datagrams<S> {
        let buffer = vec![0; options.datagram_bytes_max];
        Datagrams { socket, is_rtp, has_end: false, reorder: RtpReorder::default(), buffer }
    }

    async fn receive(&mut self, out: &mut Vec<u8>) -> io::Result<Received> {
        let before = out.len();
        loop {
            let Datagrams { socket, reorder, buffer, .. } = self;
            let count = if reorder.is_holding() {
                tokio::select! {
                    count = socket.receive(buffer) => Some(count?),
                    () = sleep(REORDER_WAIT) => None,
                }
            } else {
                Some(socket.receive(buffer).await?)
            };
            let is_restarted = match count {
                Some(0) if self.has_end => return Ok(Received::End),
                Some(count) => self.take(count, out),
                None => flush(&mut self.reorder, out),
            };
            if is_restarted {
                return Ok(Received::Restarted);
            }
            if out.len() > before {
                return Ok(Received::Bytes);
            }
        }
    }

    /// True if what came is of another sender.
    fn take(&mut self, count: usize, out: &mut Vec<u8>) -> bool {
        let datagram = &self.buffer[..count];
        if self.is_rtp.is_none() {
            self.is_rtp = recognise(datagram).map(|carriage| carriage == Carriage::Rtp);
        }
        match self.is_rtp {
            Some(true) => {}
            Some(false) => {
                out.extend_from_slice(datagram);
                return false;
            }
            None => return false,
        }
        let mut is_restarted = false;
        match RtpPacket::parse(datagram) {
            Ok(packet) => self.reorder.push(&packet, &mut |event| {
                is_restarted |= take_event(event, out);
            }),
            Err(error) => tracing::debug!(%error, "a datagram is not RTP with MPEG-TS"),
        }
        is_restarted
    }
}

fn flush(reorder: &mut RtpReorder, out: &mut Vec<u8>) -> bool {
    let mut is_restarted = false;
    reorder.flush(&mut |event| is_restarted |= take_event(event, out));
    is_restarted
}

/// What came before another sender is given up: it is a few packets.
fn take_event(event: RtpEvent<'_>, out: &mut Vec<u8>) -> bool {
    match event {
        RtpEvent::Payload(packets) => out.extend_from_slice(packets),
        RtpEvent::Lost(datagrams) => tracing::debug!(datagrams, "datagrams are missing"),
        RtpEvent::Restarted => {
            out.clear();
            return true;
        }
    }
    false
}
