//! Starts the built program for a test: configuration, ready lines, signals, restart, log.
//!
//! A `Setup` is what a server is started from, and owns its directory; a `Server` is one running
//! process of it. Dropping a server kills it and, if the test failed, prints the end of its log.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take before a test calls it a hang. Nothing healthy comes near it.
pub(crate) const HANG: Duration = Duration::from_secs(60);

/// The program under test.
pub(crate) const HEADWATER: &str = env!("CARGO_BIN_EXE_headwater");

/// What a server is started from; the directory lives as long as any copy of this.
#[derive(Clone)]
pub(crate) struct Setup {
    home: Arc<TempDir>,
    keys: String,
    tables: String,
    arguments: Vec<String>,
    wrapper: Vec<String>,
    cores: usize,
}

impl Setup {
    pub(crate) fn new() -> Setup {
        Setup {
            home: Arc::new(tempfile::Builder::new().prefix("headwater-it-").tempdir().unwrap()),
            keys: String::new(),
            tables: String::new(),
            arguments: Vec::new(),
            wrapper: Vec::new(),
            cores: 2,
        }
    }

    /// Adds a line `key = value` to the TOML file; the key may be dotted.
    pub(crate) fn key(mut self, key: &str, value: &str) -> Setup {
        self.keys += &format!("{key} = {value}\n");
        self
    }

    /// Adds a whole table, with its own header, to the end of the TOML file.
    pub(crate) fn table(mut self, text: &str) -> Setup {
        self.tables += &format!("\n{text}\n");
        self
    }

    /// Adds one command line argument.
    pub(crate) fn argument(mut self, argument: &str) -> Setup {
        self.arguments.push(argument.to_owned());
        self
    }

    /// How many workers the server has, instead of two.
    pub(crate) fn cores(mut self, cores: usize) -> Setup {
        self.cores = cores;
        self
    }

    /// Runs the server under another program, which must become it or be its tracer.
    pub(crate) fn under(mut self, wrapper: &[&str]) -> Setup {
        self.wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The directory of this test: configuration file, data directory, scratch files.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The server's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.home().join("data")
    }

    pub(crate) fn start(self) -> Server {
        let config = self.home().join("headwater.toml");
        std::fs::write(&config, format!("{}{}", self.keys, self.tables)).unwrap();
        let mut words = self.wrapper.clone();
        words.extend([HEADWATER.to_owned(), "serve".to_owned()]);
        words.extend(["--config".to_owned(), config.display().to_string()]);
        words.extend(["--data".to_owned(), self.data().display().to_string()]);
        for option in ["--listen", "--admin"] {
            words.extend([option.to_owned(), "127.0.0.1:0".to_owned()]);
        }
        words.extend(["--cores".to_owned(), self.cores.to_string()]);
        words.extend(self.arguments.iter().cloned());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).current_dir(self.home());
        Server::launch(self, command)
    }
}

/// One running server process.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) setup: Setup,
    child: Child,
    log: Arc<Mutex<String>>,
    /// What it has said, and what it says from now on.
    said: Mutex<(Vec<String>, mpsc::Receiver<String>)>,
}

impl Server {
    /// Starts a server with nothing but defaults.
    pub(crate) fn start() -> Server {
        Setup::new().start()
    }

    /// Spawns `command` and waits for its two ready lines.
    pub(crate) fn launch(setup: Setup, mut command: Command) -> Server {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let log = collect(child.stderr.take().unwrap());
        let lines = lines_of(child.stdout.take().unwrap());
        let (mut address, mut admin, mut said) = (None, None, Vec::new());
        let deadline = Instant::now() + HANG;
        while address.is_none() || admin.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok(line) = lines.recv_timeout(left) else {
                let _ = child.kill();
                let status = child.wait();
                thread::sleep(Duration::from_millis(100));
                panic!("no ready lines ({status:?}); its log:\n{}", log.lock().unwrap());
            };
            if let Some(url) = line.strip_prefix("listening on http://") {
                address.get_or_insert(reachable(url));
            } else if let Some(url) = line.strip_prefix("admin on http://") {
                admin = Some(reachable(url));
            }
            said.push(line);
        }
        let said = Mutex::new((said, lines));
        Server { address: address.unwrap(), admin: admin.unwrap(), setup, child, log, said }
    }

    /// Where a door with listeners of its own is: "append" or "channels".
    pub(crate) fn door(&self, name: &str) -> SocketAddr {
        self.said_address(&format!("{name} on http://"))
    }

    /// Where cameras push: "cameras", or "camera /PATH".
    pub(crate) fn camera_door(&self, name: &str) -> SocketAddr {
        self.said_address(&format!("{name} on tcp://"))
    }

    fn said_address(&self, start: &str) -> SocketAddr {
        let (said, lines) = &mut *self.said.lock().unwrap();
        loop {
            if let Some(url) = said.iter().find_map(|line| line.strip_prefix(start)) {
                return reachable(url);
            }
            said.push(lines.recv_timeout(HANG).expect("the address of a door is not said"));
        }
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.setup.data()
    }

    /// The next line of standard output, after the two that say where it listens.
    pub(crate) fn next_line(&self) -> String {
        self.said.lock().unwrap().1.recv_timeout(HANG).expect("another line")
    }

    /// Its open descriptors, once each core has its two rings: cores may start later than they say,
    /// and the second ring is the last that a core opens.
    pub(crate) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid());
        let mut all = 0;
        wait_until("all cores run", || {
            let links = std::fs::read_dir(&folder).unwrap().flatten();
            let links: Vec<_> = links.map(|entry| std::fs::read_link(entry.path())).collect();
            let is_ring = |link: &&std::io::Result<PathBuf>| {
                link.as_ref().is_ok_and(|link| link.to_string_lossy().contains("io_uring"))
            };
            all = links.len();
            links.iter().filter(is_ring).count() == 2 * self.setup.cores
        });
        all
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What the server has written to its standard error so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGKILL, as a crash: nothing is flushed, nothing is said.
    pub(crate) fn kill(mut self) -> Setup {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.setup.clone()
    }

    /// SIGTERM, and the status that the process ends with.
    pub(crate) fn terminate(mut self) -> (ExitStatus, Setup) {
        self.signal(Signal::TERM);
        (self.wait(), self.setup.clone())
    }

    /// SIGTERM, which must end well, and a new process on the same directory.
    pub(crate) fn restart(self) -> Server {
        let (status, setup) = self.terminate();
        assert!(status.success(), "SIGTERM ended the server with {status}");
        setup.start()
    }

    /// Waits for the end of the process and of its log.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let status = wait_for_child(&mut self.child, "the server did not end");
        wait_until("the end of the log", || Arc::strong_count(&self.log) == 1);
        status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let early = self.child.try_wait().ok().flatten();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4000);
            let tail = log.get(from..).unwrap_or(&log);
            eprintln!("--- the server (ended before: {early:?}), end of its log:\n{tail}---");
        }
    }
}

/// Turns the address of a ready line into one that can be connected to.
fn reachable(url: &str) -> SocketAddr {
    let mut address: SocketAddr = url.trim().trim_end_matches('/').parse().unwrap();
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    address
}

/// Gathers a stream in the background.
pub(crate) fn collect(mut stream: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&text);
    thread::spawn(move || {
        let mut block = [0; 4096];
        while let Ok(count @ 1..) = stream.read(&mut block) {
            *sink.lock().unwrap() += &String::from_utf8_lossy(&block[..count]);
        }
    });
    text
}

/// The lines of a stream as they come; the channel closes at its end.
pub(crate) fn lines_of(stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines() {
            let Ok(line) = line else { return };
            // The receiver leaves once the server is ready; the pipe is drained all the same.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Waits for a process, and kills it when it hangs.
pub(crate) fn wait_for_child(child: &mut Child, complaint: &str) -> ExitStatus {
    let deadline = Instant::now() + HANG;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{complaint}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// What a program said and how it ended.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// Runs a program to its end.
pub(crate) fn run(command: &mut Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let mut stdout = child.stdout.take().unwrap();
    let output = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stdout.read_to_end(&mut bytes);
        bytes
    });
    let mut stderr = child.stderr.take().unwrap();
    let errors = thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stderr.read_to_end(&mut bytes);
        bytes
    });
    let status = wait_for_child(&mut child, &format!("{command:?} did not end"));
    Ended {
        status,
        stdout: String::from_utf8_lossy(&output.join().unwrap()).into_owned(),
        stderr: String::from_utf8_lossy(&errors.join().unwrap()).into_owned(),
    }
}

/// Runs the program under test with these arguments, which must make it end by itself.
pub(crate) fn headwater(arguments: &[&str]) -> Ended {
    run(Command::new(HEADWATER).args(arguments))
}

/// Polls until `ready`, or fails with `what` was waited for.
pub(crate) fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + HANG;
    while !ready() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Asserts that a program is installed, and says who installs it.
pub(crate) fn needs(program: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    assert!(found, "{program} is not installed; run scripts/check as root, which installs it");
}

/// Asserts that the test runs as root, which name spaces and mounts need.
pub(crate) fn needs_root() {
    assert!(rustix::process::geteuid().is_root(), "this test mounts a file system: run it as root");
}

/// Every file below a folder, with its path relative to it.
pub(crate) fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else {
        return files;
    };
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            files.extend(files_below(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}
