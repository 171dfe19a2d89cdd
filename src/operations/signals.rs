//! Signals as calls: TERM and INT ask for an orderly stop, a second one ends at once.

use std::io;

use signal_hook::consts::{SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

/// Exit status of a process that was told twice to stop.
const IMPATIENT_EXIT: i32 = 130;

/// Call `stop` at the first TERM or INT; exit at the second.
pub fn on_stop(stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // A write beyond RLIMIT_FSIZE is an error of that upload, not the end of the process.
    let ignored = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    signal_hook::flag::register(SIGXFSZ, ignored)?;
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let mut stop = Some(stop);
        for _ in signals.forever() {
            match stop.take() {
                Some(stop) => stop(),
                None => std::process::exit(IMPATIENT_EXIT),
            }
        }
    })?;
    Ok(())
}
