//! One thread of a core: its ring, and the tasks on it.

use std::future::Future;
use std::io;

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use super::affinity;

/// Entries of a core's submission queue; the completion queue has twice as many and overflows into
/// kernel memory, so a burst larger than this costs a little and loses nothing.
const RING_ENTRIES: u32 = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    IoUring,
    /// Where io_uring is forbidden or missing.
    Epoll,
}

/// The best driver that this machine allows.
pub fn detect_driver() -> Driver {
    let forced = std::env::var_os("MONOIO_FORCE_LEGACY_DRIVER").is_some_and(|value| value == "1");
    if !forced && io_uring::IoUring::new(8).is_ok() && monoio::utils::detect_uring() {
        Driver::IoUring
    } else {
        Driver::Epoll
    }
}

/// Run `make`'s future to its end on this thread, bound to `cpu`.
pub fn run<F: Future>(
    driver: Driver,
    cpu: Option<usize>,
    make: impl FnOnce() -> F,
) -> io::Result<F::Output> {
    if let Some(cpu) = cpu
        && let Err(error) = affinity::bind_to(cpu)
    {
        tracing::warn!(cpu, %error, "cannot bind a worker to its processor");
    }
    match driver {
        Driver::IoUring => {
            let mut runtime = ring_runtime()?;
            let output = runtime.block_on(async { make().await });
            // Dropping it would free buffers that the kernel may still write to.
            std::mem::forget(runtime);
            Ok(output)
        }
        Driver::Epoll => {
            let mut runtime = RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?;
            let output = runtime.block_on(async { make().await });
            std::mem::forget(runtime);
            Ok(output)
        }
    }
}

fn ring_runtime() -> io::Result<monoio::Runtime<monoio::time::TimeDriver<IoUringDriver>>> {
    // 40 % less CPU per request than the default ring (docs/DECISIONS.md).
    let mut tuned = io_uring::IoUring::builder();
    tuned.setup_single_issuer().setup_coop_taskrun();
    let builder = RuntimeBuilder::<IoUringDriver>::new().enable_timer().with_entries(RING_ENTRIES);
    builder.uring_builder(tuned).build().or_else(|_| {
        // Linux before 6.0 refuses the flags.
        RuntimeBuilder::<IoUringDriver>::new().enable_timer().with_entries(RING_ENTRIES).build()
    })
}

/// Start a task on this core.
pub fn spawn(task: impl Future<Output = ()> + 'static) {
    drop(monoio::spawn(task));
}

/// Let other tasks and the ring have their turn. (A task that wakes itself would keep the ring from
/// being served in monoio 0.2.4.)
pub async fn yield_now() {
    monoio::spawn(async {}).await;
}
