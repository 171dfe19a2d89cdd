//! The only place that asks for the time; `clippy.toml` bans the standard calls elsewhere.

use std::time::{Duration, Instant, SystemTime};

/// Monotonic time.
#[allow(clippy::disallowed_methods, reason = "the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// Milliseconds since the Unix epoch.
#[allow(clippy::disallowed_methods, reason = "the one place")]
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_millis() as u64
}

/// Microseconds since the Unix epoch.
#[allow(clippy::disallowed_methods, reason = "the one place")]
pub fn unix_us() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Seconds since the Unix epoch, from the kernel's tick: a few nanoseconds.
pub fn unix_s() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    u64::try_from(time.tv_sec).unwrap_or(0)
}

/// Seconds of monotonic time, from the kernel's tick: for deadlines.
pub fn monotonic_s() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(time.tv_sec).unwrap_or(0)
}

/// Milliseconds of monotonic time, from the kernel's tick: steps of some milliseconds.
pub fn tick_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1000 + time.tv_nsec as u64 / 1_000_000
}
