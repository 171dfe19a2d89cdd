//! Upstreams that are local sockets of packets, and datagrams over IPv6.

use std::io::IoSlice;
use std::net::{Ipv6Addr, SocketAddrV6, UdpSocket};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::sockopt;
use rustix::net::{
    self, AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrUnix, SocketType,
};

use crate::client::assert_same;
use crate::pull_kit::{
    FIGURES, PACKET, Reader, assert_decodes, assert_start, has_flag, is_key, pids, pulling,
    received, sample,
};
use crate::server::{HANG, Setup, wait_until};

/// A datagram of packets as encoders send them.
const DATAGRAM: usize = 7 * PACKET;

/// Sends a stream in a thread, in datagrams, until it is dropped or nobody takes them.
struct Sender {
    is_over: Arc<AtomicBool>,
}

impl Sender {
    fn start(bytes: Vec<u8>, mut send: impl FnMut(&[u8]) -> bool + Send + 'static) -> Sender {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = is_over.clone();
        thread::spawn(move || {
            for datagram in bytes.chunks(DATAGRAM).cycle() {
                if told.load(Ordering::Relaxed) || !send(datagram) {
                    return;
                }
                thread::sleep(Duration::from_millis(2));
            }
        });
        Sender { is_over }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Reads on until a gap is stated and something comes behind it.
fn until_gap(reader: &mut Reader) {
    let from = reader.body.len() / PACKET * PACKET;
    wait_until("the gap is stated, and packets behind it", || {
        let more = reader.client.data();
        reader.body.extend(more);
        let mut packets = reader.body[from..].chunks_exact(PACKET);
        packets.any(|packet| has_flag(packet, 0x80)) && packets.any(is_key)
    });
    let count = reader.body.len() / PACKET;
    reader.packets(count);
}

/// Goal: whoever owns a datagram socket is told whom to send to, by an empty datagram, and what it sends
/// is the stream; when it is silent and another one is there, that one is told.
#[test]
fn unix_datagrams_are_an_upstream() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let path = setup.home().join("stream.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    let url = format!("\"unixgram://{}\"", path.display());
    let server = pulling(setup, &url, "read_timeout_s = 1\nhold_over_s = 60");
    let serve = |socket: UnixDatagram| {
        socket.set_read_timeout(Some(HANG)).unwrap();
        let (count, peer) = socket.recv_from(&mut [0; 16]).unwrap();
        assert_eq!(count, 0, "it only says where it is");
        Sender::start(bytes.clone(), move |datagram| socket.send_to_addr(datagram, &peer).is_ok())
    };
    let sender = serve(socket);
    let mut reader = Reader::open(server.address);
    let got = reader.packets(500).to_vec();
    assert_start(&got);
    assert_decodes(&server, &got, 20);
    drop(sender);
    std::fs::remove_file(&path).unwrap();
    let _sender = serve(UnixDatagram::bind(&path).unwrap());
    until_gap(&mut reader);
    assert!(server.log().contains("no whole packet"), "{}", server.log());
}

/// A listener for connections that keep the borders of messages.
fn listen_for_packets(path: &Path) -> OwnedFd {
    let socket = net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
    net::bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    net::listen(&socket, 16).unwrap();
    socket
}

/// Goal: a connection of messages is an upstream like one of bytes, however they cut the packets, and its
/// end is noticed at once.
#[test]
fn unix_messages_are_an_upstream() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let path = setup.home().join("stream.sock");
    let listener = listen_for_packets(&path);
    let url = format!("\"unixpacket://{}\"", path.display());
    let server =
        pulling(setup, &url, &format!("read_timeout_s = 600\nhold_over_s = 600\n{FIGURES}"));
    let send = |connection: &OwnedFd, message: usize| {
        for message in bytes.chunks(message) {
            let sent = net::send(connection, message, SendFlags::NOSIGNAL).unwrap();
            assert_eq!(sent, message.len());
        }
    };
    let connection = net::accept(&listener).unwrap();
    send(&connection, DATAGRAM);
    wait_until("all of it came", || received(&server) == bytes.len() / PACKET);
    let mut reader = Reader::open(server.address);
    for message in [DATAGRAM, 1000, 65_536] {
        send(&connection, message);
    }
    let key = bytes.chunks(PACKET).position(is_key).unwrap() * PACKET;
    let got = reader.packets(2 * bytes.len() / PACKET).to_vec();
    assert_start(&got);
    let wanted = [&bytes[key..], &bytes, &bytes].concat();
    assert_same(&got[2 * PACKET..], &wanted[..got.len() - 2 * PACKET]);
    drop(connection);
    let connection = net::accept(&listener).unwrap();
    send(&connection, DATAGRAM);
    until_gap(&mut reader);
    wait_until("the log says it", || server.log().contains("it has ended"));
}

/// An interface through which groups of IPv6 reach this machine itself, if there is one. What is sent has
/// no hops left, so it never leaves the machine.
fn multicast_interface() -> Option<(String, u32)> {
    let group: Ipv6Addr = "ff02::4857".parse().unwrap();
    let names = std::fs::read_dir("/sys/class/net").ok()?.flatten();
    names.filter_map(|entry| entry.file_name().into_string().ok()).find_map(|name| {
        let socket = net::socket(AddressFamily::INET6, SocketType::DGRAM, None).ok()?;
        let index = net::netdevice::name_to_index(&socket, &name).ok()?;
        net::bind(&socket, &SocketAddrV6::new(group, 0, 0, index)).ok()?;
        let receiver = UdpSocket::from(socket);
        receiver.join_multicast_v6(&group, index).ok()?;
        receiver.set_read_timeout(Some(Duration::from_secs(2))).ok()?;
        let place = SocketAddrV6::new(group, receiver.local_addr().ok()?.port(), 0, index);
        group_sender(index)?.send_to(&[1], place).ok()?;
        receiver.recv(&mut [0; 4]).ok()?;
        Some((name, index))
    })
}

fn group_sender(index: u32) -> Option<UdpSocket> {
    let socket = UdpSocket::bind("[::]:0").ok()?;
    sockopt::set_ipv6_multicast_if(&socket, index).ok()?;
    sockopt::set_ipv6_multicast_hops(&socket, 0).ok()?;
    Some(socket)
}

fn free_port() -> u16 {
    UdpSocket::bind("[::]:0").unwrap().local_addr().unwrap().port()
}

/// Payloads with the head of RTP in front (RFC 3550, payload type 33).
fn rtp(mut send: impl FnMut(&[u8]) -> bool + Send) -> impl FnMut(&[u8]) -> bool + Send {
    let mut sequence = u16::MAX - 20;
    move |payload: &[u8]| {
        sequence = sequence.wrapping_add(1);
        let [high, low] = sequence.to_be_bytes();
        send(&[&[0x80, 33, high, low, 0, 0, 0, 0, 1, 2, 3, 4][..], payload].concat())
    }
}

/// Goal: datagrams over IPv6: to one address, and, where this machine can, to groups of the interface, of
/// the link and of the site, with RTP and without.
#[test]
fn datagrams_of_ipv6_are_upstreams() {
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let interface = multicast_interface();
    let mut cases = vec![("udp", "::1", None), ("rtp", "::1", None)];
    match &interface {
        Some((name, index)) => {
            let groups = ["ff01::4857:1", "ff02::4857:2", "ff15::4857:3"];
            cases.extend(groups.map(|group| ("udp", group, Some((name, *index)))));
            cases.push(("rtp", groups[1], Some((name, *index))));
        }
        None => eprintln!("no interface gives groups of IPv6 back: only one address is tested"),
    }
    for (scheme, host, interface) in cases {
        let port = free_port();
        let options =
            interface.map_or_else(String::new, |(name, _)| format!("interface = \"{name}\""));
        let server = pulling(Setup::new(), &format!("\"{scheme}://[{host}]:{port}\""), &options);
        let index = interface.map_or(0, |(_, index)| index);
        let socket = interface.map_or_else(
            || UdpSocket::bind("[::1]:0").unwrap(),
            |(_, index)| group_sender(index).unwrap(),
        );
        let place = SocketAddrV6::new(host.parse().unwrap(), port, 0, index);
        // Nobody may listen yet: that is an error of the next send.
        let send =
            move |datagram: &[u8]| socket.send_to(datagram, place).is_ok() || place.port() != 0;
        let _sender = match scheme {
            "rtp" => Sender::start(bytes.clone(), rtp(send)),
            _ => Sender::start(bytes.clone(), send),
        };
        let got = Reader::open(server.address).packets(400).to_vec();
        assert_start(&got);
        assert_eq!(
            pids(&got).into_iter().filter(|pid| *pid == 0x1fff).count(),
            0,
            "{scheme} {host}"
        );
        assert_decodes(&server, &got, 10);
    }
}

/// Sends datagrams in one call, so that nothing comes between them.
fn send_at_once(socket: &UdpSocket, datagrams: &[Vec<u8>]) {
    let slices: Vec<_> = datagrams.iter().map(|datagram| [IoSlice::new(datagram)]).collect();
    let mut controls: Vec<_> = slices.iter().map(|_| SendAncillaryBuffer::default()).collect();
    let heads = slices.iter().zip(&mut controls);
    let mut heads: Vec<_> = heads.map(|(slice, control)| MMsgHdr::new(slice, control)).collect();
    assert_eq!(net::sendmmsg(socket, &mut heads, SendFlags::empty()).unwrap(), datagrams.len());
}

/// Goal: datagrams of RTP that change places are put back, those that come twice count once, and a lost
/// one costs its own packets and no others. Method: a few at a time, so that the kernel drops none.
#[test]
fn rtp_is_put_in_order() {
    const BATCH: usize = 8;
    let setup = Setup::new();
    let bytes = std::fs::read(sample(&setup, 2)).unwrap();
    let port = free_port();
    let server = pulling(setup, &format!("\"rtp://[::1]:{port}\""), FIGURES);
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    socket.connect(("::1", port)).unwrap();
    wait_until("it listens", || server.log().contains("an upstream is connected"));
    let mut all = Vec::new();
    let mut wrap = rtp(|datagram: &[u8]| {
        all.push(datagram.to_vec());
        true
    });
    for _ in 0..3 {
        bytes.chunks(DATAGRAM).for_each(|payload| assert!(wrap(payload)));
    }
    drop(wrap);
    let (lost, mut sent) = (all.len() - 3 * BATCH / 2, 0);
    let mut reader = None;
    for (number, batch) in all.chunks(BATCH).enumerate() {
        let mut batch: Vec<_> = batch.to_vec();
        let places = number * BATCH..number * BATCH + batch.len();
        if places.contains(&lost) {
            batch.remove(lost - places.start);
        }
        sent += batch.iter().map(|datagram| (datagram.len() - 12) / PACKET).sum::<usize>();
        // The first of all says where it begins.
        batch[usize::from(number == 0)..].reverse();
        batch.extend(batch.first().cloned());
        send_at_once(&socket, &batch);
        wait_until("all of it came", || received(&server) == sent);
        if number == 0 {
            reader = Some(Reader::open(server.address));
        }
    }
    let mut reader = reader.unwrap();
    let mut stream: Vec<u8> = bytes.repeat(3);
    stream.drain(lost_bytes(&bytes, lost));
    let key = BATCH * 7 + stream[BATCH * DATAGRAM..].chunks(PACKET).position(is_key).unwrap();
    let wanted = &stream[key * PACKET..];
    let got = reader.packets(2 + wanted.len() / PACKET);
    assert_same(&got[2 * PACKET..], wanted);
}

/// Where the payload of this datagram is in the repeated sample.
fn lost_bytes(sample: &[u8], number: usize) -> Range<usize> {
    let in_one = sample.len().div_ceil(DATAGRAM);
    let (round, at) = (number / in_one * sample.len(), number % in_one * DATAGRAM);
    round + at..round + (at + DATAGRAM).min(sample.len())
}
