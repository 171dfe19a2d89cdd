//! Whole packets out of bytes that may begin anywhere, be damaged, or have 16 bytes of parity behind
//! each packet (204 bytes, ETSI EN 300 421). A sync byte alone proves nothing, for any byte of a payload
//! may be one: three at the distance of packets are asked for.

use super::packet::{PACKET_BYTES, SYNC};

/// With the outer code's parity.
const LONG_PACKET_BYTES: usize = 204;
/// So many bytes show three packets' beginnings, whichever length they have.
const PROOF_BYTES: usize = 2 * LONG_PACKET_BYTES + 1;

/// Finds packets, and finds them again.
#[derive(Debug, Default)]
pub struct PacketAligner {
    /// From packet to packet, once that is known.
    stride: Option<usize>,
    /// The beginning of a packet; or what cannot be judged yet.
    carry: Vec<u8>,
}

impl PacketAligner {
    /// Look at the next bytes; `take` gets runs of whole packets of 188 bytes, each with its sync byte.
    pub fn push(&mut self, mut input: &[u8], take: &mut impl FnMut(&[u8])) {
        while !input.is_empty() {
            input = match self.stride {
                None => self.search(input),
                Some(stride) if !self.carry.is_empty() => self.complete(input, stride, take),
                Some(stride) => self.run(input, stride, take),
            };
        }
        // A search may have left packets behind, and no more bytes to call for them.
        while let Some(stride) = self.stride.filter(|stride| self.carry.len() >= *stride) {
            self.complete(&[], stride, take);
        }
    }

    /// Nothing but whole packets has come, so far.
    pub fn is_at_boundary(&self) -> bool {
        self.carry.is_empty()
    }

    /// Gather enough bytes to see where packets begin, and drop those in front.
    fn search<'b>(&mut self, input: &'b [u8]) -> &'b [u8] {
        let rest = self.carry_up_to(PROOF_BYTES + LONG_PACKET_BYTES, input);
        let decided = self.carry.len().saturating_sub(PROOF_BYTES - 1);
        let found = (0..decided).find_map(|at| Some((at, stride_at(&self.carry[at..])?)));
        let start = found.map_or(decided, |(at, _)| at);
        self.carry.drain(..start);
        self.stride = found.map(|(_, stride)| stride);
        rest
    }

    /// Carry so many bytes, as far as there are; returns the others.
    fn carry_up_to<'b>(&mut self, bytes: usize, input: &'b [u8]) -> &'b [u8] {
        let (now, rest) = input.split_at(input.len().min(bytes.saturating_sub(self.carry.len())));
        self.carry.extend_from_slice(now);
        rest
    }

    /// The packet whose beginning is carried.
    fn complete<'b>(
        &mut self,
        input: &'b [u8],
        stride: usize,
        take: &mut impl FnMut(&[u8]),
    ) -> &'b [u8] {
        let rest = self.carry_up_to(stride, input);
        if self.carry[0] != SYNC {
            self.stride = None;
        } else if self.carry.len() >= stride {
            take(&self.carry[..PACKET_BYTES]);
            self.carry.drain(..stride);
        }
        rest
    }

    /// All packets that are whole in the input.
    fn run<'b>(
        &mut self,
        input: &'b [u8],
        stride: usize,
        take: &mut impl FnMut(&[u8]),
    ) -> &'b [u8] {
        let packets = input.chunks_exact(stride);
        let good = packets.take_while(|packet| packet[0] == SYNC).count() * stride;
        let (now, rest) = input.split_at(good);
        if stride == PACKET_BYTES {
            if !now.is_empty() {
                take(now);
            }
        } else {
            now.chunks_exact(stride).for_each(|packet| take(&packet[..PACKET_BYTES]));
        }
        if rest.len() < stride {
            self.carry.extend_from_slice(rest);
            return &[];
        }
        self.stride = None;
        rest
    }
}

/// The distance of packets, if one begins here.
fn stride_at(bytes: &[u8]) -> Option<usize> {
    let begins = |stride: usize| (0..3).all(|index| bytes[index * stride] == SYNC);
    [PACKET_BYTES, LONG_PACKET_BYTES].into_iter().find(|stride| begins(*stride))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::test_pieces::pieces;

    /// Packets without a sync byte in their payload.
    fn packets(count: usize, stride: usize) -> Vec<u8> {
        let packet = |index: usize| {
            let mut packet = vec![index as u8 & 0x3f; stride];
            packet[0] = SYNC;
            packet
        };
        (0..count).flat_map(packet).collect()
    }

    fn align(pieces: &[&[u8]]) -> (Vec<u8>, PacketAligner) {
        let (mut aligner, mut out) = (PacketAligner::default(), Vec::new());
        for piece in pieces {
            aligner.push(piece, &mut |run| {
                assert!(!run.is_empty() && run.len() % PACKET_BYTES == 0);
                assert!(run.chunks(PACKET_BYTES).all(|packet| packet[0] == SYNC));
                out.extend_from_slice(run);
            });
        }
        (out, aligner)
    }

    #[test]
    fn whole_packets_pass() {
        let stream = packets(20, PACKET_BYTES);
        let (out, aligner) = align(&[&stream]);
        assert_eq!(out, stream);
        assert!(aligner.is_at_boundary());
    }

    #[test]
    fn parity_is_cut_off() {
        let (out, _) = align(&[b"\x47x", &packets(20, LONG_PACKET_BYTES)]);
        assert_eq!(out, packets(20, PACKET_BYTES));
    }

    /// Goal: a sync byte in front of the packets, and those of a payload, mislead nobody. Method: a head of
    /// sync bytes that end where no packet begins.
    #[test]
    fn one_sync_byte_is_no_packet() {
        let stream = packets(20, PACKET_BYTES);
        for head in [&b"\x47"[..], b"zz\x47zz", &[SYNC; 100]] {
            let mut bad = head.to_vec();
            bad.push(0);
            let (out, _) = align(&[&bad, &stream]);
            assert_eq!(out, stream, "{head:?}");
        }
    }

    /// Goal: behind a loss in the middle of a packet the next whole packets are found, none is made up.
    #[test]
    fn a_loss_costs_the_packets_it_hit() {
        let stream = packets(30, PACKET_BYTES);
        for (from, to) in [(1000, 1001), (1000, 1100), (1128, 1700), (0, 47)] {
            let (out, _) = align(&[&stream[..from], &stream[to..]]);
            let lost = (to.div_ceil(PACKET_BYTES) - from / PACKET_BYTES) * PACKET_BYTES;
            // The packet in front of the loss has a sync byte, so it is found out one later.
            let kept = stream.len() - lost;
            assert!(out.len() >= kept - PACKET_BYTES && out.len() <= kept + PACKET_BYTES);
            assert!(out.ends_with(&stream[to.next_multiple_of(PACKET_BYTES) + PACKET_BYTES..]));
        }
    }

    #[test]
    fn what_is_no_transport_stream_is_skipped() {
        let (out, aligner) = align(&[&[0; 10_000], &[SYNC]]);
        assert!(out.is_empty());
        assert!(aligner.carry.len() <= PROOF_BYTES + LONG_PACKET_BYTES);
    }

    proptest! {
        #[test]
        fn packets_survive_any_cut(
            count in 3usize..12,
            is_long: bool,
            cuts in prop::collection::vec(1usize..400, 1..60),
        ) {
            let stream = packets(count, if is_long { LONG_PACKET_BYTES } else { PACKET_BYTES });
            let (out, _) = align(&pieces(&stream, &cuts));
            prop_assert_eq!(out, packets(count, PACKET_BYTES));
        }

        #[test]
        fn no_bytes_are_too_odd(
            pieces in prop::collection::vec(
                prop::collection::vec(prop_oneof![Just(SYNC), any::<u8>()], 0..600), 0..8,
            ),
        ) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            align(&pieces);
        }
    }
}
