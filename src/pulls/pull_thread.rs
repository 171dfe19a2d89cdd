//! The threads that read upstreams, beside the cores.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};

use super::pull_table::Pulls;
use super::pull_task::PullTask;
use crate::packager::Packager;

/// More threads would take processors from the cores.
const THREADS_MAX: usize = 2;

/// Reads all upstreams until it is stopped.
pub struct PullThread {
    runtime: Mutex<Option<Runtime>>,
}

impl PullThread {
    /// `None` if there is nothing to pull.
    pub fn start(pulls: &Arc<Pulls>, packager: &Arc<Packager>) -> io::Result<Option<PullThread>> {
        if pulls.all().is_empty() {
            return Ok(None);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS_MAX.min(pulls.all().len()))
            .thread_name("pull")
            .enable_all()
            .build()?;
        for pull in pulls.all() {
            let (pulls, pull, packager) = (pulls.clone(), pull.clone(), packager.clone());
            runtime.spawn(PullTask { pulls, pull, packager }.run());
        }
        Ok(Some(PullThread { runtime: Mutex::new(Some(runtime)) }))
    }

    /// Commands are killed, readers see the end of what came.
    pub fn stop(&self) {
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}
