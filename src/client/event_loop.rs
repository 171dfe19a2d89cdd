//! The thread behind an appender or a follower: an event loop for one connection, so that their
//! callers may block, read and write as with files, whether or not they have a runtime themselves.

use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::failure::ClientError;

/// Dropping it ends the work where it is.
pub(super) struct EventLoop<T> {
    thread: JoinHandle<Result<T, ClientError>>,
    _stop: oneshot::Sender<()>,
}

impl<T: Send + 'static> EventLoop<T> {
    pub(super) fn start<W>(
        name: &str,
        work: impl FnOnce() -> W + Send + 'static,
    ) -> Result<EventLoop<T>, ClientError>
    where
        W: Future<Output = Result<T, ClientError>>,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ClientError::Thread)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let outcome = runtime.block_on(async {
                tokio::select! {
                    _ = stopped => Err(ClientError::Ended),
                    outcome = work() => outcome,
                }
            });
            // A name that is being looked up holds nobody up.
            runtime.shutdown_background();
            outcome
        });
        Ok(EventLoop { thread: thread.map_err(ClientError::Thread)?, _stop: stop })
    }

    /// Wait for the work to end.
    pub(super) fn join(self) -> Result<T, ClientError> {
        match self.thread.join() {
            Ok(outcome) => outcome,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
