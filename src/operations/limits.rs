//! All limits in one table, for `headwater check` and docs/OPERATIONS.md: those that are options, and
//! those that are fixed. Values of layers that this one may not name stand here as numbers; a test of
//! `server` compares them.

use crate::runtime::line_budget::CAMERA_LINES_PER_S_MAX;
use crate::runtime::offload::ASIDE_BUFFERS_MAX;
use crate::store::{NAME_BYTES_MAX, NAME_PART_BYTES_MAX, RECORD_BYTES_MAX};
use crate::wire::fmp4::MOOF_BYTES_MAX;
use crate::wire::http1::{CHUNK_LINE_BYTES_MAX, HEADERS_MAX, RANGES_MAX, TRAILER_BYTES_MAX};
use crate::wire::mpegts::{GAP_PIDS_MAX, RESUMED_PACKETS_MAX};
use crate::wire::rtp::REORDER_PACKETS_MAX;
use crate::wire::tcp_framing::{CAMERA_FIRST_BYTES_MAX, CAMERA_SENDERS_MAX};
use crate::wire::upstream_url::{ANSWER_HEAD_BYTES_MAX, REDIRECTS_MAX};
use crate::wire::websocket::{ANSWERS_BYTES_MAX, CONTROL_BYTES_MAX, PROTOCOLS_MAX};

use super::config::{
    AppendSection, ChannelsSection, Config, LimitsSection, StoreSection, ViewersSection,
};
use super::config_cameras::CamerasSection;
use super::config_upstreams::{MirrorSection, PullSection, StaticSection};

/// Name, value, and what happens beyond it.
pub type Limit = (&'static str, u64, &'static str);

/// Limits that are not options.
pub const FIXED: &[Limit] = &[
    ("headers_max", HEADERS_MAX as u64, "fields of a request head; more: 431"),
    (
        "chunk_line_bytes_max",
        CHUNK_LINE_BYTES_MAX as u64,
        "a chunk-size line with extensions; longer: 400",
    ),
    ("trailer_bytes_max", TRAILER_BYTES_MAX as u64, "all trailer fields of a body; longer: 400"),
    ("ranges_max", RANGES_MAX as u64, "ranges of one request; more: the whole object"),
    ("name_bytes_max", NAME_BYTES_MAX as u64, "an object's name; longer: 414"),
    ("name_part_bytes_max", NAME_PART_BYTES_MAX as u64, "a name between two slashes; longer: 414"),
    (
        "record_bytes_max",
        RECORD_BYTES_MAX as u64,
        "an object's record on disk; stored header fields beyond a third of it: 431",
    ),
    (
        "websocket_control_bytes_max",
        CONTROL_BYTES_MAX as u64,
        "payload of a ping, pong or close; longer: close 1002",
    ),
    (
        "websocket_answers_bytes_max",
        ANSWERS_BYTES_MAX as u64,
        "pongs that wait to be sent; more: the newest stays",
    ),
    (
        "websocket_protocols_max",
        PROTOCOLS_MAX as u64,
        "subprotocols that a handshake may offer; more: 400",
    ),
    ("redirects_max", REDIRECTS_MAX as u64, "redirects of an upstream; more: 502"),
    (
        "answer_head_bytes_max",
        ANSWER_HEAD_BYTES_MAX as u64,
        "head of an upstream's answer; longer: 502",
    ),
    (
        "camera_senders_max",
        CAMERA_SENDERS_MAX as u64,
        "connections of one camera, with those that take over; more: refused",
    ),
    (
        "camera_first_bytes_max",
        CAMERA_FIRST_BYTES_MAX,
        "of all cameras whose first picture is not whole, or two pictures; more: refused",
    ),
    (
        "camera_lines_per_s_max",
        CAMERA_LINES_PER_S_MAX as u64,
        "lines of the log about connections of cameras, per second and core; more: counted",
    ),
    (
        "aside_buffers_max",
        ASIDE_BUFFERS_MAX as u64,
        "buffers of 1 MiB for a slow disk, per core; more wait",
    ),
    (
        "moof_bytes_max",
        MOOF_BYTES_MAX as u64,
        "a moof or moov that is looked into; longer: no marks",
    ),
    (
        "rtp_reorder_packets_max",
        REORDER_PACKETS_MAX as u64,
        "RTP datagrams held for a missing one; more: it is lost",
    ),
    (
        "gap_pids_max",
        GAP_PIDS_MAX as u64,
        "PIDs that state a gap of a pulled stream; others do not",
    ),
    (
        "resumed_packets_max",
        RESUMED_PACKETS_MAX as u64,
        "packets before a place to go on behind a gap; more: its counters may leap",
    ),
    ("pull_starts_max", 4096, "places to begin kept for burst_s; more: the oldest go"),
    (
        "pull_senders_waiting_max",
        16,
        "connections to a raw mpegts port without a packet; more: the oldest go",
    ),
    ("host_lookups_max", 16, "names of upstreams looked up at one moment; more wait"),
    ("notifications_max", 16, "notifications under way; more: dropped, with a warning"),
    ("events_waiting_max", 64, "events that wait to be told; more: dropped, with a warning"),
    ("fetch_threads_max", 128, "name lookups and file reads of mirrors at once; more wait"),
    ("pool_connections_max", 64, "idle connections kept to an upstream; more: closed"),
    ("manifest_bytes_max", 1 << 20, "a mirrored playlist that is compressed; longer: as it came"),
];

/// Limits that are options, with their present values.
pub fn configured(config: &Config) -> Vec<Limit> {
    let websockets = websocket_limits(&config.append, &config.channels);
    let mirrors = config.mirror.iter().flat_map(mirror_limits).collect();
    let files = config.r#static.iter().flat_map(static_limits).collect();
    let pulls = config.pull.iter().flat_map(pull_limits).collect();
    let (cameras, viewers) = (camera_limits(&config.cameras), viewer_limits(&config.viewers));
    let others = [cameras, viewers, pulls, mirrors, files].concat();
    [store_limits(&config.store), connection_limits(&config.limits), websockets, others].concat()
}

fn camera_limits(cameras: &CamerasSection) -> Vec<Limit> {
    vec![
        ("cameras.streams_max", cameras.streams_max as u64, "cameras that send; more: refused"),
        (
            "cameras.picture_bytes_max",
            u64::from(cameras.picture_bytes_max),
            "a picture; longer: its camera is closed",
        ),
        (
            "cameras.window_bytes",
            cameras.window_bytes,
            "kept of a track, and of its movie; older pictures are given up",
        ),
        (
            "cameras.lag_pictures_max",
            cameras.lag_pictures_max,
            "pictures that a viewer is behind; more: skipped to the newest",
        ),
        (
            "cameras.silence_timeout_s",
            cameras.silence_timeout_s,
            "seconds without a whole picture; longer: closed",
        ),
    ]
}

fn websocket_limits(append: &AppendSection, channels: &ChannelsSection) -> Vec<Limit> {
    vec![
        (
            "append.idle_timeout_s",
            append.idle_timeout_s,
            "seconds of a silent appender; longer: closed",
        ),
        (
            "append.message_bytes_max",
            append.message_bytes_max,
            "a message; longer: its appender is closed",
        ),
        (
            "channels.message_bytes_max",
            channels.message_bytes_max,
            "a chunk; longer: its publisher is closed",
        ),
        (
            "channels.cache_bytes_max",
            channels.cache_bytes_max,
            "chunks for a new receiver; more: the oldest go",
        ),
        (
            "channels.lag_bytes_max",
            channels.lag_bytes_max,
            "chunks a receiver may be behind; more: skipped or closed",
        ),
        (
            "channels.id_length_max",
            channels.id_length_max as u64,
            "letters of a channel or key; more: 404",
        ),
        (
            "channels.connections_per_ip_max",
            channels.connections_per_ip_max as u64,
            "connections of an address; more: 429 (0: no limit)",
        ),
        (
            "channels.silence_timeout_s",
            channels.silence_timeout_s,
            "seconds of a silent peer; longer: closed",
        ),
    ]
}

fn viewer_limits(viewers: &ViewersSection) -> Vec<Limit> {
    vec![(
        "viewers.max",
        u64::from(viewers.max),
        "readers of pulled streams; more: 404 (0: no limit)",
    )]
}

fn pull_limits(pull: &PullSection) -> Vec<Limit> {
    vec![
        (
            "pull.connect_timeout_s",
            pull.connect_timeout_s,
            "seconds of connecting; longer: the next",
        ),
        (
            "pull.read_timeout_s",
            pull.read_timeout_s,
            "seconds of a silent upstream; longer: the next",
        ),
        (
            "pull.hold_over_s",
            pull.hold_over_s,
            "seconds without an upstream; longer: readers are sent away",
        ),
        ("pull.window_bytes", pull.window_bytes, "kept of a stream; slower readers skip"),
        (
            "pull.datagram_bytes_max",
            u64::from(pull.datagram_bytes_max),
            "a datagram; the rest of a longer one is lost",
        ),
    ]
}

fn mirror_limits(mirror: &MirrorSection) -> Vec<Limit> {
    vec![
        ("mirror.timeout_s", mirror.timeout_s, "seconds of a silent upstream; longer: 504, or cut"),
        ("mirror.bytes_max", mirror.bytes_max, "one answer; longer: 502, or cut"),
        ("mirror.cache_bytes_max", mirror.cache_bytes_max, "all answers; more: the oldest go"),
        ("mirror.answers_max", mirror.answers_max as u64, "answers kept; more: the oldest go"),
        ("mirror.fetches_max", mirror.fetches_max as u64, "requests upstream at once; more: 503"),
    ]
}

fn static_limits(file: &StaticSection) -> Vec<Limit> {
    vec![
        ("static.timeout_s", file.timeout_s, "seconds of fetching it; longer: 502"),
        ("static.bytes_max", file.bytes_max, "the file; longer: 502"),
    ]
}

fn store_limits(store: &StoreSection) -> Vec<Limit> {
    vec![
        ("store.extent_bytes", store.extent_bytes, "one extent file; a longer object gets another"),
        ("store.object_bytes_max", store.object_bytes_max, "one object; longer: 413"),
        ("store.objects_max", store.objects_max as u64, "objects; more: 507"),
        (
            "store.total_bytes_max",
            store.total_bytes_max,
            "all objects; more: the oldest go (0: no limit)",
        ),
        (
            "store.body_cache_bytes_max",
            store.body_cache_bytes_max,
            "small objects in memory; more: the oldest go",
        ),
        (
            "store.open_files_max",
            store.open_files_max as u64,
            "open files; more: the least used is closed",
        ),
        (
            "store.mappings_max",
            store.mappings_max as u64,
            "mapped extents; more: the least used is unmapped",
        ),
    ]
}

fn connection_limits(limits: &LimitsSection) -> Vec<Limit> {
    vec![
        (
            "limits.connections_max",
            limits.connections_max as u64,
            "connections; more: a silent one goes, or 503",
        ),
        (
            "limits.request_line_bytes_max",
            limits.request_line_bytes_max as u64,
            "request line; longer: 414",
        ),
        ("limits.head_bytes_max", limits.head_bytes_max as u64, "request head; longer: 431"),
        ("limits.head_timeout_s", limits.head_timeout_s, "seconds for a head; longer: 408"),
        (
            "limits.keep_alive_timeout_s",
            limits.keep_alive_timeout_s,
            "seconds between requests; longer: closed",
        ),
        (
            "limits.body_idle_timeout_s",
            limits.body_idle_timeout_s,
            "seconds of a silent upload; longer: aborted",
        ),
        (
            "limits.send_stall_timeout_s",
            limits.send_stall_timeout_s,
            "seconds of a stuck reader; longer: cut",
        ),
        ("limits.lag_bytes_max", limits.lag_bytes_max, "bytes a live reader may lose; more: cut"),
        (
            "limits.wait_max_s",
            limits.wait_max_s,
            "seconds of waiting for an absent object; longer: 404",
        ),
        (
            "limits.watched_names_max",
            limits.watched_names_max as u64,
            "absent names waited for; more: 503",
        ),
        (
            "limits.read_buffers",
            u64::from(limits.read_buffers),
            "buffers of 256 KiB per core; more reads wait",
        ),
        (
            "limits.cmcd_lines_per_s_max",
            u64::from(limits.cmcd_lines_per_s_max),
            "CMCD reports logged per second and core; more: counted",
        ),
    ]
}

/// The table of fixed limits as docs/OPERATIONS.md shows it.
pub fn document() -> String {
    let mut out = String::from("\n| limit | value | beyond it |\n|---|---|---|\n");
    for (name, value, beyond) in FIXED {
        out += &format!("| `{name}` | {value} | {beyond} |\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_document_has_every_fixed_limit() {
        let text = include_str!("../../docs/OPERATIONS.md");
        assert!(text.contains(&document()), "put this into docs/OPERATIONS.md:\n{}", document());
    }
}
