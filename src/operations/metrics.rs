//! The metrics page (Prometheus/OpenMetrics text). Counters are the rows of `runtime::counters`; gauges
//! are the rows here. Everything is read at the time of the scrape: cores never share a counter.

use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::log;
use crate::runtime::counters::{Counter, Counters};
use crate::store::Store;

/// Name and help of each gauge, in the order of [`Page::gauge_values`].
const GAUGES: &[(&str, &str)] = &[
    ("objects", "Objects, sealed and open"),
    ("open_objects", "Objects that are being written"),
    ("sealed_bytes", "Bytes of sealed objects"),
    ("body_cache_bytes", "Bytes of small sealed objects held in memory"),
    ("watched_names", "Absent names that requests wait for"),
    ("live_points", "Publishing points"),
    ("live_tracks", "Tracks of all publishing points"),
    ("channels", "Channels that somebody publishes to or waits for"),
    ("channels_live", "Channels that somebody publishes to"),
    ("cores", "Worker threads"),
    ("io_uring", "1 if cores run on io_uring, 0 on the epoll fall-back"),
];

/// What the packager tells of its presentations.
#[derive(Debug, Clone, Default)]
pub struct LiveFigures {
    pub points: u64,
    pub tracks: u64,
    /// Channels that somebody publishes to or waits for.
    pub channels: u64,
    pub channels_live: u64,
    /// Counters of events: name, help, value.
    pub events: Vec<(&'static str, &'static str, u64)>,
}

/// Asked at each scrape.
pub type AskLive = dyn Fn() -> LiveFigures + Send + Sync;

/// Makes the page.
pub struct Page {
    registry: Registry,
}

#[derive(Debug)]
struct Source {
    parts: Parts,
}

struct Parts {
    store: Arc<Store>,
    live: Box<AskLive>,
    cores: Vec<Arc<Counters>>,
    is_io_uring: bool,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Parts({} cores)", self.cores.len())
    }
}

impl Page {
    pub fn new(
        store: Arc<Store>,
        live: Box<AskLive>,
        cores: Vec<Arc<Counters>>,
        is_io_uring: bool,
    ) -> Page {
        let mut registry = Registry::with_prefix("headwater");
        let parts = Parts { store, live, cores, is_io_uring };
        registry.register_collector(Box::new(Source { parts }));
        Page { registry }
    }

    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    pub fn render(&self) -> String {
        let mut out = String::with_capacity(8 << 10);
        // Writing to a string fails only if a collector does, and ours does not.
        if text::encode(&mut out, &self.registry).is_err() {
            tracing::error!("the metrics page could not be written");
        }
        out
    }
}

impl Collector for Source {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for counter in Counter::ALL {
            let total: u64 = self.parts.cores.iter().map(|core| core.get(*counter)).sum();
            write_counter(&mut encoder, counter.name(), counter.help(), total)?;
        }
        write_counter(
            &mut encoder,
            "log_lines_dropped",
            "Log lines dropped because stderr was stuck",
            log::dropped_lines(),
        )?;
        let live = (self.parts.live)();
        for (name, help, value) in &live.events {
            write_counter(&mut encoder, name, help, *value)?;
        }
        for ((name, help), value) in GAUGES.iter().zip(self.gauge_values(&live)) {
            let gauge = ConstGauge::new(value);
            let metric = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

impl Source {
    fn gauge_values(&self, live: &LiveFigures) -> [i64; GAUGES.len()] {
        let gauges = self.parts.store.gauges();
        [
            gauges.objects as i64,
            gauges.open_objects as i64,
            gauges.sealed_bytes as i64,
            gauges.body_cache_bytes as i64,
            gauges.watched_names as i64,
            live.points as i64,
            live.tracks as i64,
            live.channels as i64,
            live.channels_live as i64,
            self.parts.cores.len() as i64,
            i64::from(self.parts.is_io_uring),
        ]
    }
}

fn write_counter(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    value: u64,
) -> std::fmt::Result {
    let counter = ConstCounter::new(value);
    let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
    counter.encode(metric)
}

/// The metric tables of docs/OPERATIONS.md.
pub fn document() -> String {
    let mut out = String::from("\n| metric | meaning |\n|---|---|\n");
    for counter in Counter::ALL {
        out += &format!("| `headwater_{}_total` | {} |\n", counter.name(), counter.help());
    }
    out += "| `headwater_log_lines_dropped_total` | Log lines dropped because stderr was stuck |\n";
    for (name, help) in GAUGES {
        out += &format!("| `headwater_{name}` | {help} |\n");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_document_has_every_metric() {
        let text = include_str!("../../docs/OPERATIONS.md");
        assert!(text.contains(&document()), "put this into docs/OPERATIONS.md:\n{}", document());
    }
}
