//! CMCD (CTA-5004): what players say about themselves with their requests, as lines of the log. The
//! server keeps nothing of it and acts on nothing of it.

use httparse::Header;
use percent_encoding::percent_decode_str;
use tracing::Level;

use crate::runtime::clock;
use crate::runtime::counters::{Counter, Counters};
use crate::runtime::line_budget::LineBudget;

/// One core's log of reports: so many lines a second, the rest is counted.
pub struct CmcdLog {
    lines_per_s_max: u32,
    budget: LineBudget,
}

impl CmcdLog {
    /// 0 lines: reports are not looked at.
    pub fn new(lines_per_s_max: u32) -> CmcdLog {
        CmcdLog { lines_per_s_max, budget: LineBudget::new(lines_per_s_max) }
    }

    /// Log what a request for `name` brings, if it brings anything.
    pub(super) fn note(
        &self,
        counters: &Counters,
        name: &str,
        query: Option<&str>,
        headers: &[Header<'_>],
    ) {
        if self.lines_per_s_max == 0 || !tracing::enabled!(target: "cmcd", Level::INFO) {
            return;
        }
        let Some(report) = report_of(query, headers) else {
            return;
        };
        if self.budget.admit(clock::monotonic_s()).is_none() {
            counters.add(Counter::CmcdLinesDropped, 1);
            return;
        }
        // With `?` whatever a player sends stays one line.
        tracing::info!(target: "cmcd", object = name, ?report, "a player reports");
    }
}

/// The key `CMCD` of the query, percent-decoded, or else the fields `CMCD-Request`, `-Object`,
/// `-Status` and `-Session`.
fn report_of(query: Option<&str>, headers: &[Header<'_>]) -> Option<String> {
    let mut pairs = query.unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    if let Some((_, value)) = pairs.find(|(key, _)| *key == "CMCD") {
        return Some(percent_decode_str(value).decode_utf8_lossy().into_owned());
    }
    let is_report =
        |name: &str| name.len() > 5 && name.as_bytes()[..5].eq_ignore_ascii_case(b"CMCD-");
    let reports = headers.iter().filter(|header| is_report(header.name));
    let values: Vec<_> = reports.map(|header| String::from_utf8_lossy(header.value)).collect();
    (!values.is_empty()).then(|| values.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_by_query_or_by_fields() {
        let query = Some("_HLS_msn=1&CMCD=bl%3D2000%2Csid%3D%22a%0Ab%22&x=y");
        assert_eq!(report_of(query, &[]).as_deref(), Some("bl=2000,sid=\"a\nb\""));
        let header = |name, value: &'static str| Header { name, value: value.as_bytes() };
        let headers =
            [header("Host", "h"), header("cmcd-request", "bl=1"), header("CMCD-Session", "sid=2")];
        assert_eq!(report_of(Some("CMCDx=1&cmcd=2"), &headers).as_deref(), Some("bl=1,sid=2"));
        assert_eq!(report_of(None, &headers[..1]), None);
    }
}
