//! What operators touch: configuration, metrics, limits, the log, signals, systemd, the admin pages.

pub mod admin;
pub mod config;
pub mod config_cameras;
pub mod config_upstreams;
pub mod cors;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod player;
pub mod signals;
