//! The thread of a stream that may wait for a file. It does one thing at a time: so a file system that
//! hangs costs its stream one thread, however often it is tried again, and other streams nothing.

use std::io;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

/// Clones are the same thread.
#[derive(Debug, Clone)]
pub struct FileThread {
    turn: Arc<Semaphore>,
}

impl Default for FileThread {
    fn default() -> FileThread {
        FileThread { turn: Arc::new(Semaphore::new(1)) }
    }
}

impl FileThread {
    /// Waits until what was asked for before is done, also if nobody waits for that any more.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let turn = self.turn.clone().acquire_owned().await.map_err(io::Error::other)?;
        let done = spawn_blocking(move || {
            let done = work();
            drop(turn);
            done
        });
        done.await.map_err(io::Error::other)?
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Goal: what hangs is the only thing that its stream does, and nothing to another one. Method: only
    /// two threads, and as many tries as would take all of them.
    #[test]
    fn what_hangs_takes_one_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (stuck, sound) = (FileThread::default(), FileThread::default());
            let (release, hold) = mpsc::channel::<()>();
            let hangs = stuck.run(move || Ok(hold.recv().is_ok()));
            assert!(timeout(Duration::from_millis(10), hangs).await.is_err());
            for _ in 0..3 {
                let waits = timeout(Duration::from_millis(10), stuck.run(|| Ok(())));
                assert!(waits.await.is_err(), "the first is not done");
                assert_eq!(sound.run(|| Ok(7)).await.unwrap(), 7);
            }
            release.send(()).unwrap();
            assert_eq!(stuck.run(|| Ok(8)).await.unwrap(), 8);
        });
    }
}
