//! Headwater: the origin of live streams. Encoders push in, readers follow while the bytes arrive.
//!
//! ```text
//! main → commands → server → connection → {ingest, egress} → {packager, channels} → {store, wire}
//!                                └─► fetch           every layer may use {store, wire, runtime}
//! ```
//!
//! Reading order: `store` (what is kept and who is woken), `wire` (codecs without I/O), `runtime`
//! (cores, rings, sockets), then the doors, then `connection`, then `server`, which assembles them;
//! `fetch` brings what other servers have.
//! Beside all this, on threads of their own: `coordinator`, and `client`, which other programs may
//! use, as they may use [`Origin`].
//! `tests/tidy.rs` holds the arrows.

pub mod store;
pub mod wire;

pub mod runtime;

pub mod cameras;
pub mod channels;
pub mod fetch;
pub mod packager;
pub mod pulls;

pub mod coordinator;

pub mod egress;
pub mod ingest;

pub mod connection;
pub mod operations;

pub mod client;
pub mod commands;
pub mod origin;
pub mod server;

pub use origin::Origin;
