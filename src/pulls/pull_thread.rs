//! The threads that read upstreams, beside the cores.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use super::notifier::{self, NOTIFICATIONS_MAX};
use super::pull_table::Pulls;
use super::pull_task::PullTask;
use crate::fetch::{HttpClient, LOOKUPS_MAX};
use crate::packager::Packager;

/// More threads would take processors from the cores.
const THREADS_MAX: usize = 2;
/// Tasks end at once when they are told to, unless a thread of theirs is stuck.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Reads all upstreams until it is stopped.
pub struct PullThread {
    pulls: Arc<Pulls>,
    running: Mutex<Option<Running>>,
}

struct Running {
    runtime: Runtime,
    /// Closed when no task is left.
    tasks: Receiver<()>,
}

impl PullThread {
    /// `None` if there is nothing to pull.
    pub fn start(pulls: &Arc<Pulls>, packager: &Arc<Packager>) -> io::Result<Option<PullThread>> {
        let notifications = &pulls.options.notifications;
        if pulls.all().is_empty() && notifications.is_empty() {
            return Ok(None);
        }
        let http = HttpClient::new()?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS_MAX.min(pulls.all().len().max(1)))
            // One file for each stream. So nothing that hangs takes a thread from anything else.
            .max_blocking_threads(NOTIFICATIONS_MAX + LOOKUPS_MAX + pulls.all().len())
            .thread_name("pull")
            .enable_all()
            .build()?;
        if let Some(events) = pulls.told_events.lock().take().filter(|_| !notifications.is_empty())
        {
            let interval = pulls.options.heartbeat_interval;
            runtime.spawn(notifier::run(notifications.clone(), interval, events));
        }
        let (alive, tasks) = channel();
        for pull in pulls.all() {
            let alive = alive.clone();
            let (pulls, pull, packager) = (pulls.clone(), pull.clone(), packager.clone());
            let http = http.clone();
            let pushed = Mutex::default();
            runtime.spawn(async move {
                PullTask { pulls, pull, packager, http, pushed }.run().await;
                drop(alive);
            });
        }
        let running = Mutex::new(Some(Running { runtime, tasks }));
        Ok(Some(PullThread { pulls: pulls.clone(), running }))
    }

    /// Commands are killed, readers see the end of what came.
    pub fn stop(&self) {
        if let Some(Running { runtime, tasks }) = self.running.lock().take() {
            runtime.shutdown_background();
            // Nothing is ever sent. A command of a task that is gone is gone too.
            let _ = tasks.recv_timeout(STOP_GRACE);
            self.pulls.stop();
        }
    }
}
