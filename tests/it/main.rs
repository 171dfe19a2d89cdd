//! The outside of Headwater: raw bytes and real programs against the built binary.
//!
//! Every test starts its own server on free ports in its own directory (`server`), speaks to it
//! with a client that shares no code with it (`client`), and ends only what it started. The clock
//! never decides whether a test passes: waits have generous guards, which only keep a server that
//! hangs from hanging the run. The modules below stand in the order of `docs/ARCHITECTURE.md`.

#![allow(clippy::disallowed_methods, reason = "a test may read the clock; the server may not")]
#![allow(clippy::unwrap_used, reason = "a test ends at its first surprise")]

mod client;
mod server;

mod http_condition;
mod http_errors;
mod http_get;
mod http_live;
mod http_prefix;
mod http_put;
mod http_range;
mod smuggling;

mod crash;
mod retention;
mod storage_faults;
mod store_restart;

mod fallback;
mod fanout;
mod limits;
mod shutdown;

mod append_fakes;
mod append_follow;

mod admin;
mod caches;
mod caches_live;
mod cli;
mod migrate;
mod publish;

mod camera_kit;
mod cameras;
mod cameras_h264;
mod pull_gaps;
mod pull_kit;
mod pull_readers;
mod pull_reports;
mod pull_sockets;
mod pull_starts;
mod pulls;

mod mirrors;
mod static_files;
mod upstream_faults;
mod upstream_kit;
mod upstream_ways;

mod autobahn;
mod coordinator;
mod coordinator_client;
mod coordinator_kit;
mod coordinator_servers;

mod cameras_page;
mod ffmpeg;
mod player_page;
mod publish_page;

mod websocket_append;
mod websocket_cache;
mod websocket_channel;
mod websocket_client;
mod websocket_follow;
mod websocket_interop;
mod websocket_live;
mod websocket_session;

mod hls_checker;
mod hls_checks;
mod hls_fmp4;
mod hls_input;
mod hls_mock;
mod hls_playlist;
mod hls_probe;
mod hls_push;
mod hls_rules;
mod hls_ts;

mod live_dash;
mod live_errors;
mod live_ingest;
mod live_kit;
mod live_pushers;
mod live_release;
mod live_text;
