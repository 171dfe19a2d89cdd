//! What the tests of live pushes share: running encoders, boxes that `Film` does not make, an MPD as
//! a tree.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::client::{Answer, get};
use crate::hls_fmp4::{container, full, make};
use crate::server::{collect, needs, wait_for_child, wait_until};

/// A running encoder, killed when dropped.
pub(crate) struct Encoder {
    child: Child,
    log: Arc<Mutex<String>>,
}

impl Encoder {
    /// ffmpeg with these words; `~` is a space within one.
    pub(crate) fn ffmpeg(line: &str) -> Encoder {
        needs("ffmpeg");
        let mut command = Command::new("ffmpeg");
        command.args("-v warning -nostdin".split(' ')).args(words(line));
        Encoder::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()))
    }

    /// A program whose standard error is kept.
    pub(crate) fn spawn(command: &mut Command) -> Encoder {
        let mut child = command
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let log = collect(child.stderr.take().unwrap());
        Encoder { child, log }
    }

    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Ends it without giving it time to say so.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn succeed(mut self) {
        let status = wait_for_child(&mut self.child, "the encoder did not end");
        assert!(status.success(), "{status}: {}", self.log());
    }
}

fn words(line: &str) -> impl Iterator<Item = String> + '_ {
    line.split_whitespace().map(|word| word.replace('~', " "))
}

impl Drop for Encoder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until an address answers 200 with a text of which this is true.
pub(crate) fn until_text(
    address: SocketAddr,
    target: &str,
    what: &str,
    is: impl Fn(&str) -> bool,
) -> String {
    let mut last = String::new();
    wait_until(&format!("{target}: {what}"), || {
        let answer = get(address, target);
        last = answer.text();
        answer.status == 200 && is(&last)
    });
    last
}

/// The value of an attribute in the first line that begins so and contains that.
pub(crate) fn attribute(text: &str, tag: &str, has: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(tag) && line.contains(has))?;
    let from =
        line.find(&format!("{name}=")).filter(|at| b":,".contains(&line.as_bytes()[at - 1]))?;
    let value = &line[from + name.len() + 1..];
    Some(match value.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next()?.to_owned(),
        None => value.split(',').next()?.to_owned(),
    })
}

pub(crate) fn assert_status(answer: &Answer, statuses: &[u16], what: &str) {
    assert!(statuses.contains(&answer.status), "{what}: {answer:?} {}", answer.text());
}

// Boxes.

/// A styp with these brands.
pub(crate) fn styp(brands: &[&str]) -> Vec<u8> {
    let all: Vec<u8> = brands.iter().flat_map(|brand| brand.bytes()).collect();
    make("styp", &[&all[..4], &[0; 4], &all].concat())
}

/// The deprecated end of a track.
pub(crate) fn mfra() -> Vec<u8> {
    container("mfra", &[full("mfro", 0, &[24])])
}

/// An emsg of version 1.
pub(crate) fn emsg(scheme: &str, value: &str, time: u64, id: u32, data: &[u8]) -> Vec<u8> {
    let head = [0x0100_0000, 90_000, (time >> 32) as u32, time as u32, 450_000, id];
    let mut body: Vec<u8> = head.iter().flat_map(|number: &u32| number.to_be_bytes()).collect();
    for text in [scheme, value] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.extend_from_slice(data);
    make("emsg", &body)
}

/// A splice_insert (SCTE 35): out of the network at `pts`, for 10 seconds.
pub(crate) fn splice_out(event: u32, pts: u64) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 0, 0, 0, 0, 0xff, 0xf0, 20, 5];
    body.extend(event.to_be_bytes());
    // Not cancelled; out of network, program, duration, not immediate.
    body.extend([0x7f, 0xef]);
    body.extend([0xfe | (pts >> 32) as u8 & 1]);
    body.extend((pts as u32).to_be_bytes());
    let duration: u64 = 900_000;
    body.extend([0xfe | (duration >> 32) as u8 & 1]);
    body.extend((duration as u32).to_be_bytes());
    body.extend([0, 1, 0, 0]);
    body.extend([0, 0]);
    let length = body.len() + 4;
    let mut section = vec![0xfc, 0x30 | (length >> 8) as u8, length as u8];
    section.extend(body);
    let crc = crc32(&section);
    section.extend(crc.to_be_bytes());
    section
}

/// Of MPEG-2 sections.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0xffff_ffff, |mut crc, &byte| {
        crc ^= u32::from(byte) << 24;
        for _ in 0..8 {
            crc = if crc & 0x8000_0000 == 0 { crc << 1 } else { crc << 1 ^ 0x04c1_1db7 };
        }
        crc
    })
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

// XML.

/// An element.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) name: String,
    attributes: Vec<(String, String)>,
    pub(crate) children: Vec<Node>,
    pub(crate) text: String,
}

impl Node {
    /// The root of a document.
    pub(crate) fn parse(text: &str) -> Node {
        use quick_xml::events::Event;
        let mut reader = quick_xml::Reader::from_str(text);
        let mut open = vec![Node::default()];
        loop {
            let event = reader.read_event().unwrap_or_else(|why| panic!("{why}: {text}"));
            let (start, is_empty) = match event {
                Event::Start(start) => (start, false),
                Event::Empty(start) => (start, true),
                Event::End(_) => {
                    let done = open.pop().unwrap();
                    open.last_mut().unwrap().children.push(done);
                    continue;
                }
                Event::Text(words) => {
                    open.last_mut().unwrap().text += words.trim();
                    continue;
                }
                Event::Eof => break,
                _ => continue,
            };
            let attributes = start.attributes().map(|pair| {
                let pair = pair.unwrap();
                let value = pair.value.replace("&quot;", "\"").replace("&amp;", "&");
                (pair.key.as_ref().to_owned(), value)
            });
            let attributes = attributes.collect();
            let name = start.name().as_ref().to_owned();
            let node = Node { name, attributes, ..Node::default() };
            if is_empty {
                open.last_mut().unwrap().children.push(node);
            } else {
                open.push(node);
            }
        }
        assert_eq!(open.len(), 1, "an element is not closed: {text}");
        open.pop().unwrap().children.pop().unwrap()
    }

    /// All elements of this name, at any depth.
    pub(crate) fn all(&self, name: &str) -> Vec<&Node> {
        let own = self.children.iter().filter(|child| child.name == name);
        let deeper = self.children.iter().flat_map(|child| child.all(name));
        own.chain(deeper).collect()
    }

    pub(crate) fn one(&self, name: &str) -> &Node {
        let all = self.all(name);
        assert_eq!(all.len(), 1, "{name} in {self:#?}");
        all[0]
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    pub(crate) fn needed(&self, name: &str) -> &str {
        self.get(name).unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name).map(|value| value.parse().unwrap_or_else(|_| panic!("{name}={value}")))
    }
}

/// `PT1H2M3.5S` in seconds.
pub(crate) fn seconds(text: &str) -> f64 {
    let (mut sum, mut digits) = (0.0, String::new());
    for letter in text.strip_prefix("PT").unwrap_or_else(|| panic!("{text}")).chars() {
        let unit = match letter {
            'H' => 3600.0,
            'M' => 60.0,
            'S' => 1.0,
            _ => {
                digits.push(letter);
                continue;
            }
        };
        sum += unit * digits.parse::<f64>().unwrap();
        digits.clear();
    }
    sum
}
