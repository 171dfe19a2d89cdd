//! Pulled transport streams over HTTP, as restreamer has them: without an end, from the next place where
//! a decoder may begin.

use super::Egress;
use super::answer::{Ask, Got, endless_head};
use super::packets_out::PacketsOut;
use super::transfer::{Body, Transfer};
use crate::pulls::Reading;
use crate::runtime::counters::Counter;

pub fn respond(egress: &Egress, ask: &Ask<'_>, reading: Reading, out: &mut Vec<u8>) -> Got {
    let framing = endless_head(egress, ask, &reading.pull.options.content_type, out);
    if ask.is_head {
        return Got::Answered;
    }
    egress.counters.add(Counter::PullReaders, 1);
    let body = Body::Packets(Box::new(PacketsOut::new(reading)));
    Got::Transfer(Box::new(Transfer { body, framing }))
}
