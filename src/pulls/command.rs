//! A command as an upstream: what it writes is the stream, what it says to its standard error goes to
//! the log. It is the first of a process group, and with it all that it has started ends.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::time::sleep;

/// A longer line of a command's errors is cut.
const ERROR_LINE_BYTES_MAX: u64 = 4096;
/// Its last words are listened to for so long. Who left its process group may hold the pipe for ever.
const LAST_WORDS_GRACE: Duration = Duration::from_secs(1);

/// Dropped, it is killed, and all that it has started.
pub(super) struct Running {
    pub(super) output: ChildStdout,
    group: Option<Pid>,
    // Waited for by tokio once it is dropped, and not before: until then its number is nobody else's.
    _child: Child,
    _listener: oneshot::Sender<()>,
}

impl Running {
    pub(super) fn start(command: &str, arguments: &[String]) -> io::Result<Running> {
        let mut started = Command::new(command);
        started.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = started.process_group(0).kill_on_drop(true).spawn()?;
        let group = child.id().and_then(|id| Pid::from_raw(id as i32));
        let output = child.stdout.take().ok_or_else(|| io::Error::other("it has no output"))?;
        let (listener, end) = oneshot::channel();
        if let Some(errors) = child.stderr.take() {
            let command = command.to_owned();
            tokio::spawn(async move {
                let over = async {
                    // Nothing is sent: it ends with the command.
                    let _ = end.await;
                    sleep(LAST_WORDS_GRACE).await;
                };
                tokio::select! {
                    () = log_errors(&command, errors) => {}
                    () = over => {}
                }
            });
        }
        Ok(Running { output, group, _child: child, _listener: listener })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nobody may be left in it.
        let _ = self.group.map(|group| kill_process_group(group, Signal::KILL));
    }
}

async fn log_errors(command: &str, errors: ChildStderr) {
    let mut errors = BufReader::new(errors);
    loop {
        let mut line = Vec::new();
        let mut limited = (&mut errors).take(ERROR_LINE_BYTES_MAX);
        if !limited.read_until(b'\n', &mut line).await.is_ok_and(|bytes| bytes > 0) {
            return;
        }
        let line = String::from_utf8_lossy(&line);
        tracing::info!(command, line = line.trim_end(), "an upstream's command says");
    }
}
