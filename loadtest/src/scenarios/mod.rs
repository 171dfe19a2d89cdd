//! One file per mode, each with its arguments, its run and its result; here is only what they
//! share: the context of a run and the load of the paced modes.

pub(crate) mod churn;
pub(crate) mod get;
pub(crate) mod held;
pub(crate) mod idle;
pub(crate) mod limit;
pub(crate) mod live;
pub(crate) mod packets;
pub(crate) mod pictures;
pub(crate) mod put;
pub(crate) mod slow;

use std::sync::Arc;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cpu::Server;
use crate::pattern::Plan;

/// Listeners, timers, the ring and the standard streams, with room to spare.
const FILES_APART_FROM_SOCKETS: u64 = 64;
const APPENDS_MAX: f64 = 10_000_000.0;

/// What a run knows from the command line, whatever its mode.
pub(crate) struct Context {
    pub(crate) server: Server,
    /// The core of this client, if it is pinned.
    pub(crate) cpu: Option<usize>,
    pub(crate) open_files_max: u64,
}

impl Context {
    /// Refuses, with the reason, more sockets than this process may open.
    pub(crate) fn check_sockets(&self, sockets: usize) -> Result<()> {
        let most = self.open_files_max.saturating_sub(FILES_APART_FROM_SOCKETS);
        if sockets as u64 > most {
            bail!(
                "{sockets} sockets do not fit: the hard limit of open files is {}, which leaves {most} (see ulimit -Hn)",
                self.open_files_max
            );
        }
        Ok(())
    }

    /// A bar on standard error, shown only if that is a terminal.
    pub(crate) fn progress(&self, length: u64, what: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{msg} {bar:40} {pos}/{len} {elapsed}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(length).with_style(style).with_message(what.to_owned())
    }
}

/// A steady stream of appends.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Load {
    /// Appends per second
    #[arg(long, default_value_t = 30.0, value_parser = parse_rate)]
    pub(crate) rate: f64,
    /// Bytes of each append (K and M are understood)
    #[arg(long, default_value = "4K", value_parser = parse_append_bytes)]
    pub(crate) size: usize,
    /// Length of the paced phase
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
}

impl Load {
    pub(crate) fn period_ns(&self) -> u64 {
        (1e9 / self.rate) as u64
    }

    pub(crate) fn plan(&self) -> Arc<Plan> {
        // Within APPENDS_MAX by the limits of the two arguments.
        let appends = (self.rate * f64::from(self.seconds)).round().clamp(1.0, APPENDS_MAX);
        Plan::new(self.size, appends as u32)
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=2000.0).contains(&rate) { Ok(rate) } else { Err("not within 0.1 to 2000".to_owned()) }
}

fn parse_append_bytes(text: &str) -> Result<usize, String> {
    match parse_bytes(text)? {
        bytes @ 16..=16_777_216 => Ok(bytes as usize),
        _ => Err("not within 16 bytes and 16 MiB".to_owned()),
    }
}

/// A number of bytes, with K, M or G for powers of 1024.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    let digits_end = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let unit = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        _ => return Err("not a number of bytes".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number of bytes".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "too many bytes".to_owned())
}

/// A count between one and a million, for readers and connections.
pub(crate) fn parse_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count @ 1..=1_000_000) => Ok(count),
        _ => Err("not within 1 and 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_counts() {
        for (text, bytes) in
            [("7", 7), ("7B", 7), ("4K", 4096), ("4KiB", 4096), ("2m", 2 << 20), ("1G", 1 << 30)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "K", "-1", "4X", "4KK", "99999999999G"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sockets_that_do_not_fit_are_refused() {
        let context = Context { server: Server::default(), cpu: None, open_files_max: 1000 };
        assert!(context.check_sockets(900).is_ok());
        assert!(context.check_sockets(990).is_err());
    }
}
