//! The doors of the server: how appends come in, how readers get them, where each of them stands
//! below the URL of a run, and what a reader says there first. Moves no bytes.

use anyhow::{Result, bail};
use clap::ValueEnum;
use serde::Serialize;

use crate::target::Target;
use crate::websocket::KEY;

/// How readers come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ReadDoor {
    /// GET
    Http,
    /// WebSocket on the object itself, in binary messages (httpfstream)
    Follow,
    /// WebSocket on URL/receive (ws-stream-server)
    Receive,
}

/// How appends come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WriteDoor {
    /// PUT, a chunk for each append
    Http,
    /// WebSocket with X-Verb: APPEND, a message for each append (httpfstream); an object of that
    /// name would be continued, so it needs a new one
    Append,
    /// WebSocket on URL/publish, a message for each append (ws-stream-server)
    Publish,
}

#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Doors {
    /// How the readers come
    #[arg(long, value_enum, default_value_t = ReadDoor::Http)]
    door: ReadDoor,
    /// How the appends come [default: http, append, publish for --door http, follow, receive]
    #[arg(long, value_enum)]
    publish: Option<WriteDoor>,
}

impl Doors {
    pub(crate) fn read(&self) -> ReadDoor {
        self.door
    }

    pub(crate) fn write(&self) -> WriteDoor {
        self.publish.unwrap_or(match self.door {
            ReadDoor::Http => WriteDoor::Http,
            ReadDoor::Follow => WriteDoor::Append,
            ReadDoor::Receive => WriteDoor::Publish,
        })
    }

    /// Both ends of an object or channel.
    pub(crate) fn of(&self, url: &str) -> Result<(Ingress, Egress)> {
        let target = Target::parse(url)?;
        let (read, write) = (self.read(), self.write());
        let is_channel = write == WriteDoor::Publish;
        if is_channel && read == ReadDoor::Follow || !is_channel && read == ReadDoor::Receive {
            let name = |value: clap::builder::PossibleValue| value.get_name().to_owned();
            let names = (read.to_possible_value().map(name), write.to_possible_value().map(name));
            let (read, write) = (names.0.unwrap_or_default(), names.1.unwrap_or_default());
            bail!("--door {read} cannot read what --publish {write} writes");
        }
        if !is_channel {
            let ingress = Ingress { target: target.clone(), door: write };
            let in_messages = write == WriteDoor::Append;
            return Ok((ingress, Egress { target, door: read, in_messages }));
        }
        let ingress = Ingress { target: target.below("publish"), door: write };
        let target = target.below("receive");
        Ok((ingress, Egress { target, door: read, in_messages: true }))
    }
}

/// Where the appends of a run go in.
#[derive(Clone, Debug)]
pub(crate) struct Ingress {
    pub(crate) target: Target,
    pub(crate) door: WriteDoor,
}

impl Ingress {
    pub(crate) fn http(target: Target) -> Ingress {
        Ingress { target, door: WriteDoor::Http }
    }

    /// What opens the upload or the WebSocket.
    pub(crate) fn request(&self) -> Vec<u8> {
        match self.door {
            WriteDoor::Http => self.target.put_request(),
            WriteDoor::Append => upgrade_request(&self.target, "X-Verb: APPEND\r\n"),
            WriteDoor::Publish => upgrade_request(&self.target, ""),
        }
    }
}

/// Where the readers of a run come out.
#[derive(Clone, Debug)]
pub(crate) struct Egress {
    pub(crate) target: Target,
    pub(crate) door: ReadDoor,
    /// Each append came in as one message, and must go out as one through a WebSocket.
    pub(crate) in_messages: bool,
}

impl Egress {
    pub(crate) fn http(target: Target) -> Egress {
        Egress { target, door: ReadDoor::Http, in_messages: false }
    }

    pub(crate) fn request(&self) -> Vec<u8> {
        match self.door {
            ReadDoor::Http => self.target.get_request(),
            ReadDoor::Follow => {
                let protocol = format!("Sec-WebSocket-Protocol: {}\r\n", self.protocol());
                upgrade_request(&self.target, &protocol)
            }
            ReadDoor::Receive => upgrade_request(&self.target, ""),
        }
    }

    /// The subprotocol to agree on; empty is none. Without it a follower would get text wherever
    /// the bytes happen to be UTF-8.
    pub(crate) fn protocol(&self) -> &'static str {
        if self.door == ReadDoor::Follow { "binary" } else { "" }
    }
}

fn upgrade_request(target: &Target, headers: &str) -> Vec<u8> {
    let upgrade = format!(
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}"
    );
    target.get_request_with(&upgrade)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heads(door: ReadDoor, publish: Option<WriteDoor>) -> Result<(String, String)> {
        let (ingress, egress) = Doors { door, publish }.of("http://127.0.0.1:1/a/b")?;
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ok((text(ingress.request()), text(egress.request())))
    }

    #[test]
    fn each_door_has_its_own_place_and_head() {
        let (put, get) = heads(ReadDoor::Http, None).unwrap();
        assert!(
            put.starts_with("PUT /a/b HTTP/1.1\r\n") && get.starts_with("GET /a/b HTTP/1.1\r\n")
        );
        let (append, follow) = heads(ReadDoor::Follow, None).unwrap();
        assert!(append.starts_with("GET /a/b HTTP/1.1\r\n"), "{append}");
        assert!(append.contains("\r\nX-Verb: APPEND\r\n"), "{append}");
        assert!(follow.contains("\r\nSec-WebSocket-Protocol: binary\r\n"), "{follow}");
        let (publish, receive) = heads(ReadDoor::Receive, None).unwrap();
        assert!(publish.starts_with("GET /a/b/publish HTTP/1.1\r\n"), "{publish}");
        assert!(receive.starts_with("GET /a/b/receive HTTP/1.1\r\n"), "{receive}");
        for head in [append, follow, publish, receive] {
            assert!(head.contains("\r\nUpgrade: websocket\r\n") && head.ends_with("\r\n\r\n"));
        }
    }

    #[test]
    fn doors_that_do_not_meet_are_refused() {
        assert!(heads(ReadDoor::Follow, Some(WriteDoor::Publish)).is_err());
        assert!(heads(ReadDoor::Receive, Some(WriteDoor::Append)).is_err());
        assert!(heads(ReadDoor::Receive, Some(WriteDoor::Http)).is_err());
        let (put, follow) = heads(ReadDoor::Follow, Some(WriteDoor::Http)).unwrap();
        assert!(put.starts_with("PUT ") && follow.contains("Upgrade"));
        let (_, get) = heads(ReadDoor::Http, Some(WriteDoor::Publish)).unwrap();
        assert!(get.starts_with("GET /a/b/receive ") && !get.contains("Upgrade"));
    }
}
