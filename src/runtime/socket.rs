//! A TCP connection and its listener: readiness through the core's ring, bytes by non-blocking calls.
//!
//! A receive or send that would block returns `None` and the task waits for readiness. So no buffer
//! ever belongs to the kernel while a peer is slow, an idle connection holds none, and one hot buffer
//! per core serves all connections (docs/DECISIONS.md has the measurements). Readiness is a multishot
//! operation on the core's second ring; on the epoll fall-back it is monoio's own.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use monoio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, sockopt};

use super::ring::{Ring, Watch};

const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(60);
const LISTEN_BACKLOG: i32 = 4096;

pub struct Socket {
    // Before the descriptor: a watch is taken back before its socket closes.
    readiness: Readiness<TcpStream>,
    fd: Option<OwnedFd>,
    /// Close with a reset, so that the peer cannot take what it got for complete.
    reset: Cell<bool>,
}

/// What a socket that became readable has to offer.
enum Peeked {
    /// It was nothing.
    Nothing,
    /// Bytes wait to be received.
    Bytes,
    /// The peer has closed its side, or the connection is broken.
    PeerGone,
}

/// Who tells that something can be received or sent.
enum Readiness<S> {
    Ring(Watch),
    /// monoio's type owns the descriptor.
    Driver(S),
}

impl Socket {
    fn adopt(ring: Option<&Rc<Ring>>, fd: OwnedFd) -> io::Result<Socket> {
        let (readiness, fd) = match ring {
            Some(ring) => (Readiness::Ring(ring.watch(fd.as_fd())), Some(fd)),
            None => {
                let stream = TcpStream::from_std(std::net::TcpStream::from(fd))?;
                (Readiness::Driver(stream), None)
            }
        };
        Ok(Socket { readiness, fd, reset: Cell::new(false) })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match (&self.fd, &self.readiness) {
            (Some(fd), _) => fd.as_fd(),
            // SAFETY: the stream owns this descriptor and closes it only when it is dropped; the
            // borrow cannot outlive `self`, which holds the stream.
            (None, Readiness::Driver(stream)) => unsafe {
                BorrowedFd::borrow_raw(stream.as_raw_fd())
            },
            (None, Readiness::Ring(_)) => unreachable!("a watched socket holds its descriptor"),
        }
    }

    /// Bytes received, 0 at the peer's end; `None` if there are none now.
    pub fn try_recv(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::net::recv(self.fd(), &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((got, _)) => {
                    if got < buffer.len() {
                        self.is_drained();
                    }
                    return Ok(Some(got));
                }
                Err(Errno::AGAIN) => {
                    self.is_drained();
                    return Ok(None);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn is_drained(&self) {
        if let Readiness::Ring(watch) = &self.readiness {
            watch.is_drained();
        }
    }

    /// Bytes taken by the kernel; `None` if it has no room now.
    pub fn try_send(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            match rustix::net::send(self.fd(), bytes, flags) {
                Ok(sent) => return Ok(Some(sent)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As `try_send`, several pieces in one call.
    pub fn try_send_pieces(&self, pieces: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        loop {
            let mut none = SendAncillaryBuffer::default();
            match rustix::net::sendmsg(self.fd(), pieces, &mut none, flags) {
                Ok(sent) => return Ok(Some(sent)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Something can be received, or the peer is gone.
    pub async fn readable(&self) {
        match &self.readiness {
            Readiness::Ring(watch) => {
                std::future::poll_fn(|context| watch.poll_readable(context)).await
            }
            // An error here shows again, better named, at the receive.
            Readiness::Driver(stream) => drop(stream.readable(false).await),
        }
    }

    /// Something can be sent, or the peer is gone.
    pub async fn writable(&self) {
        match &self.readiness {
            Readiness::Ring(watch) => {
                std::future::poll_fn(|context| watch.poll_writable(context)).await
            }
            Readiness::Driver(stream) => drop(stream.writable(false).await),
        }
    }

    /// What is behind a readiness that was not asked for by a receive. Bytes stay where they are.
    fn peek(&self) -> Peeked {
        let mut byte = [0u8; 1];
        match rustix::net::recv(self.fd(), &mut byte, RecvFlags::DONTWAIT | RecvFlags::PEEK) {
            Ok((0, _)) => Peeked::PeerGone,
            Ok(_) => Peeked::Bytes,
            Err(Errno::AGAIN | Errno::INTR) => {
                self.is_drained();
                Peeked::Nothing
            }
            Err(_) => Peeked::PeerGone,
        }
    }

    /// Returns when the peer has closed its side. If it sends instead (the next, pipelined request),
    /// that waits in the socket and this waits for ever.
    pub async fn peer_gone(&self) {
        loop {
            self.readable().await;
            match self.peek() {
                Peeked::PeerGone => return,
                Peeked::Nothing => {}
                Peeked::Bytes => std::future::pending().await,
            }
        }
    }

    /// The peer's address; an IPv4 address that came through an IPv6 socket is one of IPv4.
    pub fn peer_ip(&self) -> io::Result<IpAddr> {
        let address = rustix::net::getpeername(self.fd())?.ok_or(Errno::NOTCONN)?;
        let address = SocketAddr::try_from(address)?;
        Ok(address.ip().to_canonical())
    }

    /// The kernel takes bytes while about so many are left that it has not sent. What is on its way to the
    /// peer does not count, so this limits no speed, as a limit of the send buffer would.
    pub fn limit_unsent(&self, bytes: u32) {
        let length = size_of_val(&bytes) as libc::socklen_t;
        // SAFETY: `bytes` outlives the call, and its true size is passed; the descriptor is open.
        let _ = unsafe {
            // Not done, the peer sees older pictures: nothing worse.
            libc::setsockopt(
                self.fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_NOTSENT_LOWAT,
                (&raw const bytes).cast(),
                length,
            )
        };
    }

    /// A peer whose bytes stay unacknowledged for long is not gone for that: it may read slowly. Whoever
    /// sends to it judges by `unacknowledged`.
    pub fn allow_slow_peer(&self) {
        // Not done, the kernel breaks a connection of which nothing was acknowledged for a while.
        let _ = sockopt::set_tcp_user_timeout(self.fd(), 0);
    }

    /// Bytes that the kernel has taken and the peer has not acknowledged (SIOCOUTQ).
    pub fn unacknowledged(&self) -> u64 {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open, and the kernel writes one int to where `bytes` is.
        let done = unsafe { libc::ioctl(self.fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
        if done == 0 { u64::try_from(bytes).unwrap_or(0) } else { 0 }
    }

    /// Nothing has come from the peer for `ms` though it was asked for an answer: its network is gone. One
    /// that only takes nothing answers the kernel's probes.
    pub fn is_unanswered(&self, ms: u32) -> bool {
        // SAFETY: a `tcp_info` is plain numbers, for which zeros are a value.
        let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
        let mut length = size_of_val(&info) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `info`; both outlive the call, and the
        // descriptor is open.
        let done = unsafe {
            libc::getsockopt(
                self.fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                (&raw mut info).cast(),
                &raw mut length,
            )
        };
        let is_asked = info.tcpi_probes > 0 || info.tcpi_retransmits > 0;
        done == 0 && is_asked && info.tcpi_last_ack_recv >= ms
    }

    /// No more bytes to the peer; it sees an orderly end.
    pub fn end_sending(&self) {
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Write);
    }

    /// Wake whoever waits on this socket: nothing more is received or sent.
    pub fn shut(&self) {
        let _ = rustix::net::shutdown(self.fd(), Shutdown::Both);
    }

    /// When the socket is closed, reset it instead of ending it.
    pub fn reset_on_close(&self) {
        self.reset.set(true);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.get() {
            // RFC 9112 §8: how an incomplete message without a length is told from a complete one.
            let _ = sockopt::set_socket_linger(self.fd(), Some(Duration::ZERO));
        }
    }
}

/// The sockets that one core accepts from.
pub struct Listener {
    readiness: Readiness<TcpListener>,
    bound: StdListener,
    ring: Option<Rc<Ring>>,
}

/// Bind an address so that every core can bind it too. Bytes that a peer leaves unacknowledged for
/// `user_timeout_s` break its connection: its network is gone.
pub fn bind(address: SocketAddr, user_timeout_s: u64) -> io::Result<StdListener> {
    use rustix::net::{AddressFamily, SocketType, ipproto};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    sockopt::set_socket_reuseport(&fd, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&fd, false)?;
    }
    // Accepted sockets inherit these.
    sockopt::set_tcp_nodelay(&fd, true)?;
    sockopt::set_socket_keepalive(&fd, true)?;
    sockopt::set_tcp_keepidle(&fd, KEEP_ALIVE_AFTER)?;
    let user_timeout_ms = u32::try_from(user_timeout_s.saturating_mul(1000)).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(&fd, user_timeout_ms)?;
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, LISTEN_BACKLOG)?;
    Ok(StdListener::from(fd))
}

impl Listener {
    /// Take over a bound listener on the calling core.
    pub fn new(ring: Option<Rc<Ring>>, bound: StdListener) -> io::Result<Listener> {
        let readiness = match &ring {
            Some(ring) => Readiness::Ring(ring.watch(bound.as_fd())),
            None => Readiness::Driver(TcpListener::from_std(bound.try_clone()?)?),
        };
        Ok(Listener { readiness, bound, ring })
    }

    /// A connection that waits to be accepted; `None` if there is none now.
    pub fn try_accept(&self) -> io::Result<Option<Socket>> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::accept_with(&self.bound, flags) {
            Ok(fd) => Ok(Some(Socket::adopt(self.ring.as_ref(), fd)?)),
            Err(Errno::AGAIN) => {
                if let Readiness::Ring(watch) = &self.readiness {
                    watch.is_drained();
                }
                Ok(None)
            }
            // The peer was gone before it was accepted: look again at once.
            Err(Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Refuse new connections from now on; whoever waits in `acceptable` is woken.
    pub fn stop(&self) {
        let _ = rustix::net::shutdown(&self.bound, Shutdown::Both);
    }

    pub async fn acceptable(&self) {
        match &self.readiness {
            Readiness::Ring(watch) => {
                std::future::poll_fn(|context| watch.poll_readable(context)).await
            }
            Readiness::Driver(listener) => drop(listener.readable(false).await),
        }
    }
}
