//! What the tests of pulled streams share: a stream of ffmpeg's, upstreams that a test holds in its hands,
//! readers that look at whole packets.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::client::{Client, get};
use crate::server::{Server, Setup, run, wait_until};

pub(crate) const PACKET: usize = 188;
pub(crate) const TS: &str = "-c:v libx264 -preset ultrafast -tune zerolatency -g 10 -f mpegts";
pub(crate) const PICTURES: &str = "-re -f lavfi -i testsrc2=size=160x120:rate=25";

/// A transport stream of ffmpeg's: `seconds` of pictures, a key picture every 10.
pub(crate) fn sample(setup: &Setup, seconds: u32) -> PathBuf {
    made(setup, seconds, "")
}

/// The same with sound.
pub(crate) fn sample_with_sound(setup: &Setup, seconds: u32) -> PathBuf {
    made(setup, seconds, "-f lavfi -i sine=r=48000 -c:a aac ")
}

fn made(setup: &Setup, seconds: u32, more: &str) -> PathBuf {
    let path = setup.home().join("sample.ts");
    let line = format!(
        "-nostdin -loglevel error -f lavfi -i testsrc2=size=160x120:rate=25 {more}{TS} -t {seconds} -y"
    );
    let ended = run(Command::new("ffmpeg").args(line.split(' ')).arg(&path));
    assert!(ended.status.success(), "{}", ended.stderr);
    path
}

/// A server that pulls this; more options behind it.
pub(crate) fn pulling(setup: Setup, upstreams: &str, options: &str) -> Server {
    setup
        .table(&format!("[[pull]]\npath = \"/cam.ts\"\nupstreams = [{upstreams}]\n{options}"))
        .start()
}

/// A reader of a stream that is there, or is going to be.
pub(crate) struct Reader {
    pub(crate) client: Client,
    pub(crate) body: Vec<u8>,
}

impl Reader {
    pub(crate) fn open(address: SocketAddr) -> Reader {
        let mut found = None;
        wait_until("the stream is live", || {
            let mut client = Client::connect(address);
            let head = client.get("/cam.ts", "");
            assert!(matches!(head.status, 200 | 404), "{head:?}");
            found = (head.status == 200).then_some(client);
            found.is_some()
        });
        Reader { client: found.unwrap(), body: Vec::new() }
    }

    /// Reads until so many packets have come; each is whole.
    pub(crate) fn packets(&mut self, count: usize) -> &[u8] {
        while self.body.len() < count * PACKET {
            self.body.extend(self.client.data());
        }
        assert!(self.body.chunks(PACKET).all(|packet| packet[0] == 0x47), "out of step");
        &self.body
    }
}

/// The PIDs of packets, in their order.
pub(crate) fn pids(packets: &[u8]) -> Vec<u16> {
    let pid = |packet: &[u8]| u16::from_be_bytes([packet[1] & 0x1f, packet[2]]);
    packets.chunks_exact(PACKET).map(pid).collect()
}

/// The packet's adaptation field has this flag.
pub(crate) fn has_flag(packet: &[u8], flag: u8) -> bool {
    packet[3] & 0x20 != 0 && packet[4] > 0 && packet[5] & flag != 0
}

/// A decoder may begin with this picture.
pub(crate) fn is_key(packet: &[u8]) -> bool {
    pids(packet) == [256] && packet[1] & 0x40 != 0 && has_flag(packet, 0x40)
}

/// Begins with PAT, then PMT, then a picture with the random-access flag.
pub(crate) fn assert_start(packets: &[u8]) {
    assert_eq!(&pids(packets)[..2], [0, 4096], "PAT and PMT first");
    let first = packets.chunks_exact(PACKET).find(|packet| pids(packet) == [256]).unwrap();
    assert!(first[3] & 0x20 != 0 && first[5] & 0x40 != 0, "no random access: {:?}", &first[..8]);
}

/// Decodes what a reader got, without an error.
pub(crate) fn assert_decodes(server: &Server, bytes: &[u8], frames: usize) {
    let path = server.setup.home().join("got.ts");
    std::fs::write(&path, bytes).unwrap();
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args("-nostdin -hide_banner -loglevel warning -i".split(' ')).arg(&path);
    ffmpeg.args("-f framecrc -".split(' '));
    let ended = run(&mut ffmpeg);
    let decoded = ended.stdout.lines().filter(|line| line.starts_with("0,")).count();
    assert!(decoded >= frames, "{decoded} pictures: {}", ended.stderr);
}

/// A program that serves a stream in a thread until nobody takes it any more.
pub(crate) fn pump(mut sink: impl Write + Send + 'static, bytes: Vec<u8>) {
    std::thread::spawn(move || {
        for run in bytes.chunks(7 * PACKET).cycle() {
            if sink.write_all(run).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
}

/// A port that nobody has.
pub(crate) fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An upstream that a test holds in its hands.
pub(crate) struct Upstream {
    pub(crate) listener: TcpListener,
}

impl Upstream {
    pub(crate) fn new() -> Upstream {
        Upstream { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    pub(crate) fn url(&self) -> String {
        format!("\"tcp://{}\"", self.listener.local_addr().unwrap())
    }

    /// With a port that stays its own while it is [`Upstream::away`].
    pub(crate) fn with_own_port() -> Upstream {
        let bind = || {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            TcpListener::bind(port).ok()
        };
        // Somebody else may be quicker; one that was asked for by number is kept.
        Upstream { listener: std::iter::repeat_with(bind).flatten().next().unwrap() }
    }

    /// Who connects is refused, until it is [`Upstream::back`].
    pub(crate) fn away(&self) {
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).unwrap();
    }

    pub(crate) fn back(&self) {
        rustix::net::listen(&self.listener, 16).unwrap();
    }

    pub(crate) fn accept(&self) -> TcpStream {
        self.listener.accept().unwrap().0
    }
}

/// Of the only stream, at a path of its own.
pub(crate) const FIGURES: &str = "[[api]]\npath = \"/figures\"\nkind = \"prometheus\"";

/// Packets that have come from the only upstream.
pub(crate) fn received(server: &Server) -> usize {
    let text = get(server.address, "/figures").text();
    let line = text.lines().find(|line| line.starts_with("streaming_packets_received{")).unwrap();
    line.rsplit(' ').next().unwrap().parse().unwrap()
}
