//! What the APIs of pulled streams say, with the fields that restreamer's have.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use super::DatagramFigures;
use super::pull_table::{Pull, Pulls};
use crate::store::Millis;
use crate::wire::mpegts::PACKET_BYTES;

/// Rates are of the time since the last look that is so long ago.
const RATE_MS_MIN: Millis = 1000;

/// Sums over all streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    received: u64,
    sent: u64,
    dropped: u64,
}

/// The last look at the sums, and the rates that it gave.
#[derive(Debug, Default)]
pub(super) struct Rates {
    looked_ms: Millis,
    totals: Totals,
    /// Packets in a second.
    per_second: Totals,
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    viewer: usize,
    limit: usize,
    max: usize,
    /// In kbit/s.
    bandwidth: u64,
}

#[derive(Serialize)]
struct Statistics {
    status: &'static str,
    connections: usize,
    max_connections: usize,
    full_connections: usize,
    total_packets_received: u64,
    total_packets_sent: u64,
    total_packets_dropped: u64,
    total_bytes_received: u64,
    total_bytes_sent: u64,
    total_bytes_dropped: u64,
    total_stream_time_ns: u64,
    packets_per_second_received: u64,
    packets_per_second_sent: u64,
    packets_per_second_dropped: u64,
    bytes_per_second_received: u64,
    bytes_per_second_sent: u64,
    bytes_per_second_dropped: u64,
}

impl Totals {
    fn of(pulls: &Pulls) -> Totals {
        let mut totals = Totals::default();
        for pull in pulls.all() {
            totals.received += pull.figures.packets_received.load(Ordering::Relaxed);
            totals.sent += pull.figures.packets_sent.load(Ordering::Relaxed);
            totals.dropped += pull.figures.packets_dropped.load(Ordering::Relaxed);
        }
        totals
    }
}

impl Rates {
    fn look(&mut self, now_ms: Millis, totals: Totals) -> Totals {
        let passed_ms = now_ms.saturating_sub(self.looked_ms);
        if passed_ms >= RATE_MS_MIN {
            let rate = |now: u64, before: u64| (now - before) * 1000 / passed_ms;
            self.per_second = Totals {
                received: rate(totals.received, self.totals.received),
                sent: rate(totals.sent, self.totals.sent),
                dropped: rate(totals.dropped, self.totals.dropped),
            };
            (self.looked_ms, self.totals) = (now_ms, totals);
        }
        self.per_second
    }
}

const fn bytes(packets: u64) -> u64 {
    packets * PACKET_BYTES as u64
}

fn json(report: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(report).expect("numbers and words are JSON")
}

impl Pulls {
    fn is_full(&self) -> bool {
        let (viewers, options) = (self.viewers(), &self.options);
        let reaches = |limit: usize| limit != 0 && viewers >= limit;
        reaches(options.viewers_full) || self.is_over()
    }

    fn is_over(&self) -> bool {
        let max = self.options.viewers_max;
        max != 0 && self.viewers() >= max
    }

    fn rates(&self) -> (Totals, Totals) {
        let totals = Totals::of(self);
        (totals, self.rates.lock().look(self.now_ms(), totals))
    }

    /// Name, help and value of what is counted of all streams together.
    pub fn counts(&self) -> [(&'static str, &'static str, u64); 2] {
        let sum = |of: fn(&DatagramFigures) -> &AtomicU64| {
            let all = self.all().iter().map(|pull| of(&pull.options.datagrams));
            all.map(|count| count.load(Ordering::Relaxed)).sum()
        };
        let (lost, late) = (sum(|figures| &figures.lost), sum(|figures| &figures.late));
        [
            (
                "pull_datagrams_lost",
                "RTP datagrams of upstreams that never came, or too late",
                lost,
            ),
            (
                "pull_datagrams_late",
                "RTP datagrams that came twice, or after they were given up",
                late,
            ),
        ]
    }

    /// For load balancers.
    pub fn health(&self) -> Vec<u8> {
        let (_, rates) = self.rates();
        json(&Health {
            status: if self.is_full() { "full" } else { "ok" },
            viewer: self.viewers(),
            limit: self.options.viewers_full,
            max: self.options.viewers_max,
            bandwidth: bytes(rates.sent) * 8 / 1000,
        })
    }

    pub fn statistics(&self) -> Vec<u8> {
        let (totals, rates) = self.rates();
        let streams = self.all().iter();
        let reading_ms = streams.map(|pull| pull.figures.reading_ms.load(Ordering::Relaxed));
        json(&Statistics {
            status: match (self.is_over(), self.is_full()) {
                (true, _) => "overload",
                (false, true) => "full",
                (false, false) => "ok",
            },
            connections: self.viewers(),
            max_connections: self.options.viewers_max,
            full_connections: self.options.viewers_full,
            total_packets_received: totals.received,
            total_packets_sent: totals.sent,
            total_packets_dropped: totals.dropped,
            total_bytes_received: bytes(totals.received),
            total_bytes_sent: bytes(totals.sent),
            total_bytes_dropped: bytes(totals.dropped),
            total_stream_time_ns: reading_ms.sum::<u64>().saturating_mul(1_000_000),
            packets_per_second_received: rates.received,
            packets_per_second_sent: rates.sent,
            packets_per_second_dropped: rates.dropped,
            bytes_per_second_received: bytes(rates.received),
            bytes_per_second_sent: bytes(rates.sent),
            bytes_per_second_dropped: bytes(rates.dropped),
        })
    }

    /// In the text format of Prometheus, with the names that restreamer gives.
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        let mut family = |name: &str, kind: &str, help: &str, value: &dyn Fn(&Pull) -> String| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for pull in self.all() {
                let _ = write!(text, "{}", value(pull));
            }
        };
        type Figure = fn(&Pull) -> u64;
        let of_stream: [(&str, &str, &str, Figure); 7] = [
            ("streaming_connections", "gauge", "Readers.", |pull| pull.readers() as u64),
            (
                "streaming_duration",
                "counter",
                "Nanoseconds that readers who left have read.",
                |pull| pull.figures.reading_ms.load(Ordering::Relaxed).saturating_mul(1_000_000),
            ),
            ("streaming_packets_sent", "counter", "Packets sent to readers.", |pull| {
                pull.figures.packets_sent.load(Ordering::Relaxed)
            }),
            ("streaming_bytes_sent", "counter", "Bytes sent to readers.", |pull| {
                bytes(pull.figures.packets_sent.load(Ordering::Relaxed))
            }),
            ("streaming_packets_dropped", "counter", "Packets that slow readers lost.", |pull| {
                pull.figures.packets_dropped.load(Ordering::Relaxed)
            }),
            ("streaming_bytes_dropped", "counter", "Bytes that slow readers lost.", |pull| {
                bytes(pull.figures.packets_dropped.load(Ordering::Relaxed))
            }),
            ("streaming_gaps", "counter", "Times that a live stream came back.", |pull| {
                pull.figures.gaps.load(Ordering::Relaxed)
            }),
        ];
        for (name, kind, help, figure) in of_stream {
            family(name, kind, help, &|pull| {
                format!("{name}{{stream={:?}}} {}\n", pull.path(), figure(pull))
            });
        }
        type UpstreamFigure = fn(&Pull, usize) -> u64;
        let of_upstream: [(&str, &str, &str, UpstreamFigure); 3] = [
            ("streaming_source_connected", "gauge", "Whether it is connected.", |pull, at| {
                u64::from(pull.connected() == Some(at))
            }),
            ("streaming_packets_received", "counter", "Packets that came.", |pull, at| {
                pull.received_of(at)
            }),
            ("streaming_bytes_received", "counter", "Bytes that came.", |pull, at| {
                bytes(pull.received_of(at))
            }),
        ];
        for (name, kind, help, figure) in of_upstream {
            family(name, kind, help, &|pull| {
                let of_one = |(at, upstream): (usize, &super::Upstream)| {
                    let (path, url, value) = (pull.path(), &upstream.shown, figure(pull, at));
                    format!("{name}{{stream={path:?},url={url:?}}} {value}\n")
                };
                pull.options.upstreams.iter().enumerate().map(of_one).collect()
            });
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_of_a_second_at_least() {
        let mut rates = Rates::default();
        let totals = |sent: u64| Totals { sent, ..Totals::default() };
        assert_eq!(rates.look(10_000, totals(0)), totals(0));
        assert_eq!(rates.look(10_999, totals(500)), totals(0), "too soon");
        assert_eq!(rates.look(12_000, totals(500)), totals(250));
        assert_eq!(rates.look(12_100, totals(900)), totals(250));
        assert_eq!(rates.look(13_000, totals(900)), totals(400));
    }
}
