//! The threads that read upstreams, beside the cores.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use super::notifier::{self, NOTIFICATIONS_MAX};
use super::pull_table::Pulls;
use super::pull_task::PullTask;
use crate::fetch::HttpClient;
use crate::packager::Packager;

/// More threads would take processors from the cores.
const THREADS_MAX: usize = 2;

/// Regular files that are read from at one moment.
pub const FILES_READ_MAX: usize = 8;

/// Reads all upstreams until it is stopped.
pub struct PullThread {
    pulls: Arc<Pulls>,
    runtime: Mutex<Option<Runtime>>,
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
            .max_blocking_threads(NOTIFICATIONS_MAX + FILES_READ_MAX)
            .thread_name("pull")
            .enable_all()
            .build()?;
        if let Some(events) = pulls.told_events.lock().take().filter(|_| !notifications.is_empty())
        {
            let interval = pulls.options.heartbeat_interval;
            runtime.spawn(notifier::run(notifications.clone(), interval, events));
        }
        for pull in pulls.all() {
            let (pulls, pull, packager) = (pulls.clone(), pull.clone(), packager.clone());
            let http = http.clone();
            let pushed = Mutex::default();
            runtime.spawn(PullTask { pulls, pull, packager, http, pushed }.run());
        }
        let runtime = Mutex::new(Some(runtime));
        Ok(Some(PullThread { pulls: pulls.clone(), runtime }))
    }

    /// Commands are killed, readers see the end of what came.
    pub fn stop(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
            self.pulls.stop();
        }
    }
}
