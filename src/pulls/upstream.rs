//! Connects to an upstream, whatever its kind, and receives from it.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::unix::pipe;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};
use tokio::time::{Instant, sleep_until};

use super::command::Running;
use super::paced_file::PacedFile;
use super::pushed_stream::Pushed;
use super::{DatagramFigures, PullOptions};
use crate::fetch::{Answer, HttpClient};
use crate::wire::rtp::{Carriage, RtpEvent, RtpPacket, RtpReorder, recognise};
use crate::wire::upstream_url::{HostPort, UnixKind, UpstreamUrl};

/// Received at once.
const RECEIVE_BYTES: usize = 64 << 10;
/// What the kernel keeps of datagrams for us.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// A datagram that is missing is waited for so long.
const REORDER_WAIT: Duration = Duration::from_millis(50);

/// An open upstream.
pub(super) enum Source {
    Bytes(Pin<Box<dyn AsyncRead + Send>>),
    File(PacedFile),
    Command(Running),
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
    /// Since when a datagram is waited for.
    held_since: Option<Instant>,
    figures: Arc<DatagramFigures>,
    now: fn() -> std::time::Instant,
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
            let addresses = http.names().look_up(host, *port).await?;
            let stream = TcpStream::connect(&*addresses).await?;
            Ok(Source::Bytes(Box::pin(stream)))
        }
        UpstreamUrl::Udp(place) => listen(place, None, (options, http)).await,
        UpstreamUrl::Rtp(place) => listen(place, Some(true), (options, http)).await,
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
        UpstreamUrl::Fork { command, arguments } => {
            Ok(Source::Command(Running::start(command, arguments)?))
        }
    }
}

/// What was opened at a path, by its kind.
enum Opened {
    Regular(File),
    /// To be waited for as a socket is.
    Stream(File),
}

async fn open_file(path: &Path, options: &PullOptions) -> io::Result<Source> {
    let path = path.to_owned();
    match options.file_thread.run(move || open_path(&path)).await? {
        Opened::Regular(file) => {
            Ok(Source::File(PacedFile::new(file, options.file_thread.clone(), options.now)))
        }
        // Unchecked, for a character device is read as a FIFO is.
        Opened::Stream(file) => {
            Ok(Source::Bytes(Box::pin(pipe::Receiver::from_file_unchecked(file)?)))
        }
    }
}

/// Waits for nobody but the file system. A FIFO is opened for writing too, so it has no end.
fn open_path(path: &Path) -> io::Result<Opened> {
    let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits() as i32;
    let open = |is_writer: bool| {
        OpenOptions::new().read(true).write(is_writer).custom_flags(flags).open(path)
    };
    let file = open(false)?;
    let kind = file.metadata()?.file_type();
    if kind.is_file() {
        Ok(Opened::Regular(file))
    } else if kind.is_fifo() {
        // The first one is closed behind it: who writes already always has a reader.
        Ok(Opened::Stream(open(true)?))
    } else if kind.is_char_device() {
        Ok(Opened::Stream(file))
    } else {
        Err(io::Error::other("it is neither a file, a FIFO nor a character device"))
    }
}

async fn listen(
    HostPort { host, port }: &HostPort,
    is_rtp: Option<bool>,
    (options, http): (&PullOptions, &HttpClient),
) -> io::Result<Source> {
    let mut address = http.names().look_up(host, *port).await?[0];
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
            Source::Command(running) => read_some(&mut running.output, out).await,
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
        Datagrams {
            socket,
            is_rtp,
            has_end: false,
            reorder: RtpReorder::default(),
            held_since: None,
            figures: options.datagrams.clone(),
            now: options.now,
            buffer: vec![0; options.datagram_bytes_max],
        }
    }

    async fn receive(&mut self, out: &mut Vec<u8>) -> io::Result<Received> {
        let before = out.len();
        loop {
            let Datagrams { socket, held_since, buffer, .. } = self;
            let count = match *held_since {
                Some(since) => tokio::select! {
                    // What goes on coming must not hide that it is time.
                    biased;
                    () = sleep_until(since + REORDER_WAIT) => None,
                    count = socket.receive(buffer) => Some(count?),
                },
                None => Some(socket.receive(buffer).await?),
            };
            let lost_late = (self.reorder.lost(), self.reorder.late());
            let is_restarted = match count {
                Some(0) if self.has_end => return Ok(Received::End),
                Some(count) => self.take(count, out),
                None => flush(&mut self.reorder, out),
            };
            self.note(lost_late, out.len() > before);
            if is_restarted {
                return Ok(Received::Restarted);
            }
            if out.len() > before {
                return Ok(Received::Bytes);
            }
        }
    }

    /// Count what is missing, and begin to wait for it; each has its own time.
    fn note(&mut self, (lost, late): (u64, u64), has_gone_on: bool) {
        let Datagrams { reorder, figures, .. } = self;
        figures.lost.fetch_add(reorder.lost() - lost, Ordering::Relaxed);
        figures.late.fetch_add(reorder.late() - late, Ordering::Relaxed);
        let since = self.held_since.filter(|_| !has_gone_on);
        let is_holding = reorder.is_holding();
        self.held_since = is_holding.then(|| since.unwrap_or_else(|| (self.now)().into()));
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU16;

    use tokio::time::sleep;

    use super::*;

    /// Datagrams that come at this pace, one number left out; at last nothing more.
    struct Sender {
        next: AtomicU16,
        pace: Duration,
    }

    const MISSING: u16 = 1;
    const SENT: u16 = 60;

    impl Socket for Sender {
        async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
            sleep(self.pace).await;
            // Not before the wait: this may be dropped while it waits.
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let number = number + u16::from(number >= MISSING);
            if number > SENT {
                std::future::pending::<()>().await;
            }
            let [high, low] = number.to_be_bytes();
            let datagram = [0x80, 33, high, low, 0, 0, 0, 0, 0, 0, 0, 7, high, low];
            buffer[..datagram.len()].copy_from_slice(&datagram);
            Ok(datagram.len())
        }
    }

    /// Goal: a datagram that is lost is waited for so long, however many come meanwhile. Method: they come
    /// faster than that, and the wait ends in time before the window is full.
    #[tokio::test]
    async fn a_lost_datagram_is_waited_for_once() {
        let figures = Arc::<DatagramFigures>::default();
        let socket = Sender { next: AtomicU16::new(0), pace: REORDER_WAIT / 4 };
        let mut datagrams = Datagrams {
            socket,
            is_rtp: Some(true),
            has_end: false,
            reorder: RtpReorder::default(),
            held_since: None,
            figures: figures.clone(),
            now: || sleep(Duration::ZERO).deadline().into_std(),
            buffer: vec![0; 1500],
        };
        let mut out = Vec::new();
        assert_eq!(datagrams.receive(&mut out).await.unwrap(), Received::Bytes);
        assert_eq!(out, [0, 0]);
        assert_eq!(datagrams.receive(&mut out).await.unwrap(), Received::Bytes);
        assert!(out.starts_with(&[0, 0, 0, 2]), "{out:?}");
        let held = (out.len() - 2) / 2;
        assert!(held < 20, "{held} waited behind it");
        assert_eq!(figures.lost.load(Ordering::Relaxed), 1);
        assert!(datagrams.held_since.is_none());
    }

    #[tokio::test]
    async fn only_what_can_be_read_in_pieces_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let error = open_path(folder.path()).err().unwrap();
        assert!(error.to_string().contains("neither a file"), "{error}");
        let file = folder.path().join("file");
        std::fs::write(&file, b"x").unwrap();
        assert!(matches!(open_path(&file), Ok(Opened::Regular(_))));
        let fifo = folder.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::RWXU).unwrap();
        assert!(matches!(open_path(&fifo), Ok(Opened::Stream(_))), "nobody writes, nobody waits");
        assert!(matches!(open_path(Path::new("/dev/null")), Ok(Opened::Stream(_))));
    }
}
