//! A camera as MultiStreamingServer knows them, and a viewer of MJPEG, from the wire up.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use crate::client::{Chunk, Client, Head};
use crate::server::{HANG, Server, Setup, run, wait_until};

/// A server that takes cameras with a greeting.
pub(crate) fn origin() -> Server {
    with_options("")
}

/// With further options of cameras.
pub(crate) fn with_options(options: &str) -> Server {
    Setup::new().table(&format!("[cameras]\nlisten = [\"127.0.0.1:0\"]\n{options}")).start()
}

/// Bytes that stand for a picture: its number is in it, and no two are alike.
pub(crate) fn jpeg(number: u32, bytes: usize) -> Vec<u8> {
    let mut picture = vec![0xff, 0xd8];
    picture.extend_from_slice(&number.to_le_bytes());
    picture.extend((picture.len()..bytes).map(|at| (at as u32 ^ number) as u8));
    picture.truncate(bytes);
    picture
}

/// A picture that ffmpeg made.
pub(crate) fn real_jpeg(server: &Server, number: u32) -> Vec<u8> {
    let path = server.setup.home().join(format!("{number}.jpg"));
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args("-nostdin -loglevel error -f lavfi -i testsrc2=size=160x120:rate=5 -ss".split(' '));
    ffmpeg.arg(number.to_string()).args("-frames:v 1 -update 1 -y".split(' ')).arg(&path);
    let ended = run(&mut ffmpeg);
    assert!(ended.status.success(), "{}", ended.stderr);
    std::fs::read(path).unwrap()
}

/// A camera's connection.
pub(crate) struct Camera {
    socket: TcpStream,
}

impl Camera {
    pub(crate) fn connect(server: &Server) -> Camera {
        let socket = TcpStream::connect(server.camera_door("cameras")).unwrap();
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(HANG)).unwrap();
        socket.set_write_timeout(Some(HANG)).unwrap();
        Camera { socket }
    }

    /// Id, type and quality.
    pub(crate) fn greet(server: &Server, numbers: [i32; 3]) -> Camera {
        let mut camera = Camera::connect(server);
        camera.raw(&numbers.map(i32::to_le_bytes).concat());
        camera
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub(crate) fn try_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes)
    }

    pub(crate) fn picture(&mut self, picture: &[u8]) {
        self.try_picture(picture).unwrap();
    }

    pub(crate) fn try_picture(&mut self, picture: &[u8]) -> io::Result<()> {
        let length = (picture.len() as u32).to_le_bytes();
        self.socket.write_all(&[&length[..], picture].concat())
    }

    pub(crate) fn end_sending(&self) {
        self.socket.shutdown(Shutdown::Write).unwrap();
    }

    /// Nothing is ever said to a camera, so reading only finds the end.
    pub(crate) fn assert_closed(&mut self) {
        match self.socket.read(&mut [0; 16]) {
            Ok(got) => assert_eq!(got, 0, "something was said to a camera"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "{error}"),
        }
    }

    /// As far as a short look shows.
    pub(crate) fn is_open(&self) -> bool {
        self.socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let looked = (&self.socket).read(&mut [0; 16]);
        self.socket.set_read_timeout(Some(HANG)).unwrap();
        looked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// Who reads `multipart/x-mixed-replace`.
pub(crate) struct Viewer {
    pub(crate) head: Head,
    client: Client,
    delimiter: String,
    body: Vec<u8>,
}

impl Viewer {
    pub(crate) fn open(server: &Server, path: &str) -> Viewer {
        Viewer::over(|| Client::connect(server.address), path)
    }

    pub(crate) fn with_small_window(server: &Server, path: &str) -> Viewer {
        Viewer::over(|| Client::with_small_window(server.address), path)
    }

    /// Once the camera is there: it may just have begun to send.
    fn over(connect: impl Fn() -> Client, path: &str) -> Viewer {
        let mut found = None;
        wait_until(path, || {
            let mut client = connect();
            client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            let head = client.head();
            assert!(matches!(head.status, 200 | 404), "{path}: {head:?}");
            found = (head.status == 200).then_some((client, head));
            found.is_some()
        });
        let (client, head) = found.unwrap();
        let boundary = head.needed("content-type").split_once("boundary=").unwrap().1;
        let delimiter = format!("--{boundary}\r\n");
        let mut viewer = Viewer { head, client, delimiter, body: Vec::new() };
        // The first delimiter comes before the first picture.
        let first = viewer.delimiter.clone();
        assert_eq!(viewer.take(first.len()).unwrap(), first.as_bytes());
        viewer
    }

    fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        while self.body.len() < bytes {
            match self.client.chunk() {
                Chunk::Data(data) => self.body.extend(data),
                Chunk::Last => return None,
                Chunk::Cut(end) => panic!("cut with {end:?}"),
            }
        }
        Some(self.body.drain(..bytes).collect())
    }

    fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.extend(self.take(1)?);
        }
        Some(String::from_utf8(line).unwrap())
    }

    /// The next picture, and the delimiter behind it.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        self.try_picture().expect("another picture")
    }

    pub(crate) fn try_picture(&mut self) -> Option<Vec<u8>> {
        assert_eq!(self.line()?, "Content-Type: image/jpeg\r\n");
        let length = self.line().unwrap();
        let length = length.strip_prefix("Content-Length: ").unwrap().trim_end().parse().unwrap();
        assert_eq!(self.line().unwrap(), "\r\n");
        let picture = self.take(length).unwrap();
        assert_eq!(self.line().unwrap(), "\r\n");
        let delimiter = self.delimiter.clone();
        assert_eq!(self.line().unwrap(), delimiter);
        Some(picture)
    }

    pub(crate) fn until(&mut self, is_it: impl Fn(&[u8]) -> bool) -> Vec<u8> {
        loop {
            let picture = self.picture();
            if is_it(&picture) {
                return picture;
            }
        }
    }

    /// Reads pictures to the end of the body.
    pub(crate) fn ends_properly(&mut self) -> bool {
        while self.try_picture().is_some() {}
        true
    }
}
