//! Cores, sockets, timers and rings: the only folder that names monoio or io-uring. A leaf.
//!
//! House rules for monoio 0.2.4, kept here so that no door has to know them: the ring is set up with
//! SINGLE_ISSUER and COOP_TASKRUN and nothing else; nothing that moves bytes is ever cancelled
//! (sockets are only polled for readiness through the ring, the bytes move by non-blocking calls);
//! tasks yield by awaiting an empty task; a runtime is never dropped.

pub mod affinity;
#[allow(unsafe_code, reason = "memory registered with a ring")]
pub mod buffers;
pub mod clock;
pub mod counters;
pub mod deadlines;
pub mod file_ring;
pub mod line_budget;
pub mod mailbox;
pub mod offload;
#[allow(unsafe_code, reason = "the kernel owns what a submission points to")]
pub mod ring;
pub mod side_thread;
#[allow(unsafe_code, reason = "borrowing the descriptors that monoio's types own")]
pub mod socket;
pub mod timers;
pub mod worker;
