//! What the board shows of itself: the state file, and the answers of the commands.

use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::addresses::{ServerAddress, ServerKind};
use super::board::PeerId;
use super::outbox::Event;
use super::settings::StreamSettings;

/// What outlives a restart. There are no keys in it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) version: u32,
    pub(super) streams: Vec<ActiveRecord>,
    pub(super) endings: Vec<EndingRecord>,
    pub(super) events: Vec<Event>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct ActiveRecord {
    pub(super) channel: String,
    pub(super) stream_id: String,
    pub(super) server: ServerAddress,
    pub(super) encoder: Option<IpAddr>,
    pub(super) is_announced: bool,
    pub(super) is_killed: bool,
    /// Files of earlier versions do not have it.
    #[serde(default)]
    pub(super) settings: StreamSettings,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct EndingRecord {
    pub(super) channel: String,
    pub(super) stream_id: String,
    pub(super) encoder: Option<IpAddr>,
    pub(super) is_announced: bool,
}

impl Snapshot {
    pub(super) const VERSION: u32 = 1;

    /// Read the state file. One that cannot be understood is put aside, since starting with nothing
    /// is better than not starting.
    pub(super) fn load(path: &Path) -> io::Result<Snapshot> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Snapshot::default()),
            Err(error) => return Err(explain(path, "read", &error)),
        };
        let why = match serde_json::from_slice::<Snapshot>(&text) {
            Ok(snapshot) if snapshot.version == Snapshot::VERSION => return Ok(snapshot),
            Ok(snapshot) => format!("its version is {}", snapshot.version),
            Err(error) => error.to_string(),
        };
        let aside = with_ending(path, ".broken");
        tracing::error!(
            file = %path.display(), aside = %aside.display(), why,
            "the coordinator's state cannot be understood: it is put aside, and nothing is known"
        );
        std::fs::rename(path, &aside).map_err(|error| explain(path, "put aside", &error))?;
        Ok(Snapshot::default())
    }

    /// Replace the state file by one rename. It is not synced: it outlives the process, and after a
    /// loss of power it may be a little older.
    pub(super) fn store(&self, path: &Path) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        let draft = with_ending(path, ".tmp");
        let written = std::fs::File::create(&draft).and_then(|mut file| file.write_all(&text));
        let renamed = written.and_then(|()| std::fs::rename(&draft, path));
        renamed.map_err(|error| explain(path, "write", &error))
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}

fn explain(path: &Path, what: &str, error: &io::Error) -> io::Error {
    let text = format!("cannot {what} the state file {}: {error}", path.display());
    io::Error::new(error.kind(), text)
}

/// `GET /commands/capacity`.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Capacity {
    pub(super) load: usize,
    /// -1: without limit.
    pub(super) capacity: i64,
    pub(super) encoder_count: usize,
}

/// `GET /commands/report`; nobody has the id 0.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    streaming_servers: Vec<ServerRow>,
    encoders: Vec<EncoderRow>,
    active_streams: Vec<StreamRow>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerRow {
    id: PeerId,
    ip: IpAddr,
    port: u16,
    ssl: bool,
    server_type: &'static str,
}

#[derive(Debug, PartialEq, Serialize)]
struct EncoderRow {
    id: PeerId,
    capacity: i32,
    load: usize,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct StreamRow {
    channel: String,
    stream_id: String,
    stream_server: PeerId,
    encoder: PeerId,
}

impl Report {
    /// From servers, encoders (id, capacity, load) and streams (channel, id, server, encoder).
    pub(super) fn new(
        mut servers: Vec<(PeerId, ServerAddress)>,
        mut encoders: Vec<(PeerId, i32, usize)>,
        mut streams: Vec<(String, String, PeerId, PeerId)>,
    ) -> Report {
        servers.sort_by_key(|(id, _)| *id);
        encoders.sort_unstable();
        streams.sort_unstable();
        let server = |(id, address): (PeerId, ServerAddress)| ServerRow {
            id,
            ip: address.ip,
            port: address.port,
            ssl: address.is_tls,
            server_type: match address.kind {
                ServerKind::Rtmp => "RTMP",
                ServerKind::Ws => "WS",
            },
        };
        let encoder = |(id, capacity, load)| EncoderRow { id, capacity, load };
        let stream = |(channel, stream_id, stream_server, encoder)| StreamRow {
            channel,
            stream_id,
            stream_server,
            encoder,
        };
        Report {
            streaming_servers: servers.into_iter().map(server).collect(),
            encoders: encoders.into_iter().map(encoder).collect(),
            active_streams: streams.into_iter().map(stream).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::outbox::EventKind;

    fn sample() -> Snapshot {
        let kind = ServerKind::Ws;
        let ip = "::1".parse().unwrap();
        let server = ServerAddress { kind, ip, port: 80, is_tls: false };
        let active = ActiveRecord {
            channel: "c".into(),
            stream_id: "1".into(),
            server,
            encoder: Some(ip),
            is_announced: true,
            is_killed: false,
            settings: StreamSettings::default(),
        };
        let ending = EndingRecord {
            channel: "d".into(),
            stream_id: "2".into(),
            encoder: None,
            is_announced: true,
        };
        let event = Event { channel: "d".into(), stream_id: "2".into(), kind: EventKind::Closed };
        Snapshot {
            version: Snapshot::VERSION,
            streams: vec![active],
            endings: vec![ending],
            events: vec![event],
        }
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        assert_eq!(Snapshot::load(&path).unwrap(), Snapshot::default());
        sample().store(&path).unwrap();
        sample().store(&path).unwrap();
        assert_eq!(Snapshot::load(&path).unwrap(), sample());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn what_cannot_be_understood_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        for text in ["{", "", r#"{"version":9,"streams":[],"endings":[],"events":[]}"#] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Snapshot::load(&path).unwrap(), Snapshot::default(), "{text}");
            assert!(!path.exists() && dir.path().join("state.json.broken").exists());
        }
    }

    #[test]
    fn the_report_is_sorted_and_in_camel_case() {
        let server = sample().streams[0].server.clone();
        let streams = vec![("d".into(), "2".into(), 7, 0), ("c".into(), "1".into(), 7, 9)];
        let report = Report::new(vec![(7, server)], vec![(9, -1, 1)], streams);
        let text = r#"{"streamingServers":[{"id":7,"ip":"::1","port":80,"ssl":false,"serverType":"WS"}],"encoders":[{"id":9,"capacity":-1,"load":1}],"activeStreams":[{"channel":"c","streamId":"1","streamServer":7,"encoder":9},{"channel":"d","streamId":"2","streamServer":7,"encoder":0}]}"#;
        assert_eq!(serde_json::to_string(&report).unwrap(), text);
    }
}
