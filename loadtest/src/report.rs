//! The result of a run: one line for people or one JSON object for scripts, and the exit code.
//! Also the words and units that all scenarios share. Measures nothing.

use std::process::ExitCode;

use hdrhistogram::Histogram;
use serde::Serialize;

/// From this share of a core on, the result measures the client and no longer the server.
const CLIENT_BUSY_MAX: f64 = 0.9;
/// How many different faults a result quotes.
const FAULTS_QUOTED_MAX: usize = 5;

/// What every scenario's result can do.
pub(crate) trait Report: Serialize {
    const MODE: &'static str;
    fn line(&self) -> String;
    /// Whether bytes were lost or wrong or an operation failed: exit code 1.
    fn failed(&self) -> bool;
}

#[derive(Serialize)]
struct Envelope<'a, R> {
    mode: &'static str,
    ok: bool,
    #[serde(flatten)]
    report: &'a R,
}

pub(crate) fn print<R: Report>(report: &R, json: bool) -> anyhow::Result<ExitCode> {
    let ok = !report.failed();
    if json {
        println!("{}", serde_json::to_string(&Envelope { mode: R::MODE, ok, report })?);
    } else {
        let verdict = if ok { "" } else { "FAILED " };
        println!("{verdict}{}: {}", R::MODE, report.line());
    }
    Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A run that could not be carried out.
pub(crate) fn print_error(error: &anyhow::Error, json: bool) -> ExitCode {
    if json {
        println!("{}", serde_json::json!({ "ok": false, "error": format!("{error:#}") }));
    } else {
        eprintln!("error: {error:#}");
    }
    ExitCode::FAILURE
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct LatencyMs {
    p50: f64,
    p99: f64,
    p999: f64,
    max: f64,
}

/// Nanoseconds up to a minute, to three digits.
pub(crate) fn latency_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are valid")
}

impl LatencyMs {
    pub(crate) fn of(histogram: &Histogram<u64>) -> LatencyMs {
        let ms = |ns: u64| ns as f64 / 1e6;
        LatencyMs {
            p50: ms(histogram.value_at_quantile(0.5)),
            p99: ms(histogram.value_at_quantile(0.99)),
            p999: ms(histogram.value_at_quantile(0.999)),
            max: ms(histogram.max()),
        }
    }

    pub(crate) fn p50_text(&self) -> String {
        format!("{:.2}", self.p50)
    }

    pub(crate) fn text(&self) -> String {
        let LatencyMs { p50, p99, p999, max } = self;
        format!("latency p50 {p50:.2} p99 {p99:.2} p99.9 {p999:.2} max {max:.2} ms")
    }
}

/// How busy the client was, and whether its latencies can still be trusted.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct ClientShare {
    client_busy: f64,
    client_saturated: bool,
}

impl ClientShare {
    pub(crate) fn new(busy: f64) -> ClientShare {
        ClientShare { client_busy: busy, client_saturated: busy > CLIENT_BUSY_MAX }
    }

    pub(crate) fn text(&self) -> String {
        let percent = self.client_busy * 100.0;
        if self.client_saturated {
            format!(
                "client {percent:.0} % busy (WARNING: saturated, the result measures the client)"
            )
        } else {
            format!("client {percent:.0} % busy")
        }
    }
}

/// Faults by their text, most of which are alike.
#[derive(Debug, Default, Serialize)]
#[serde(transparent)]
pub(crate) struct Faults {
    quoted: Vec<String>,
}

impl Faults {
    pub(crate) fn add(&mut self, fault: String) {
        if self.quoted.len() < FAULTS_QUOTED_MAX && !self.quoted.contains(&fault) {
            self.quoted.push(fault);
        }
    }

    /// Empty, or a parenthesis to put behind a count.
    pub(crate) fn text(&self) -> String {
        if self.quoted.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.quoted.join("; "))
        }
    }
}

/// Server time per operation in microseconds, when the server is known and there were operations.
pub(crate) fn us_per(server_ns: Option<u64>, operations: f64) -> Option<f64> {
    server_ns.filter(|_| operations > 0.0).map(|ns| ns as f64 / 1e3 / operations)
}

/// `server 4.71 µs per delivery`, or that it was not measured.
pub(crate) fn server_text(us: Option<f64>, operation: &str) -> String {
    match us {
        Some(us) => format!("server {us:.2} µs per {operation}"),
        None => "server CPU not measured".to_owned(),
    }
}

pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

/// Bytes in the unit people would use.
pub(crate) fn bytes_text(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_few_and_different_faults() {
        let mut faults = Faults::default();
        for fault in 0..20 {
            faults.add(format!("fault {}", fault / 2));
        }
        assert_eq!(faults.quoted.len(), FAULTS_QUOTED_MAX);
        assert_eq!(Faults::default().text(), "");
    }

    #[test]
    fn costs_need_a_server_and_operations() {
        assert_eq!(us_per(Some(3000), 2.0), Some(1.5));
        assert_eq!(us_per(Some(3000), 0.0), None);
        assert_eq!(us_per(None, 2.0), None);
    }
}
