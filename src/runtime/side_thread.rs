//! A thread with a tokio runtime of its own, beside the cores, that ends when it is told to: for what is
//! no data path. The coordinator and its client have one each, and all that is fetched shares one.

use std::future::Future;
use std::io;
use std::thread::JoinHandle;
use std::time::Duration;

use std::sync::Arc;
use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// What calls of web-hooks have to come back when the thread ends; nobody waits for their answers.
const BLOCKING_GRACE: Duration = Duration::from_millis(100);

/// Tells a [`SideThread`] to end, from any thread.
#[derive(Debug, Clone)]
pub struct Stopper(Arc<watch::Sender<bool>>);

impl Stopper {
    pub fn stop(&self) {
        self.0.send_replace(true);
    }

    pub async fn stopped(&self) {
        let mut told = self.0.subscribe();
        // The sender lives in self.
        let _ = told.wait_for(|is_told| *is_told).await;
    }
}

/// Dropped, it is told to end.
pub struct SideThread {
    stopper: Stopper,
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl SideThread {
    /// Run `work` to its end; it has to end soon after it was told to stop. What it has spawned ends
    /// with it.
    pub fn start<F: Future<Output = ()>>(
        name: &str,
        blocking_threads_max: usize,
        work: impl FnOnce(Stopper) -> F + Send + 'static,
    ) -> io::Result<SideThread> {
        let stopper = Stopper(Arc::new(watch::Sender::new(false)));
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(blocking_threads_max)
            .thread_name(format!("{name}-call"))
            .build()?;
        let (told, handle) = (stopper.clone(), runtime.handle().clone());
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            runtime.block_on(work(told));
            runtime.shutdown_timeout(BLOCKING_GRACE);
        })?;
        Ok(SideThread { stopper, handle, thread: Some(thread) })
    }

    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Starts tasks there, from any thread.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    pub fn join(mut self) {
        // With `panic = "abort"` a panic has ended the process already.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for SideThread {
    fn drop(&mut self) {
        self.stopper.stop();
    }
}
