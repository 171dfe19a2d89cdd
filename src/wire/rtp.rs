//! RTP (RFC 3550) with a transport stream as its payload (RFC 2250, payload type 33): what is in a
//! datagram, and datagrams in the order in which they were sent. Whole packets are `mpegts`'s matter. It
//! has no clock: who receives says with [`RtpReorder::flush`] when it has waited long enough.

use std::collections::VecDeque;

use super::mpegts::PACKET_BYTES;

/// RFC 3551 §6.
const PAYLOAD_TYPE_MP2T: u8 = 33;
const VERSION: u8 = 2;
const FIXED_HEAD_BYTES: usize = 12;
const EXTENSION_HEAD_BYTES: usize = 4;
const TS_SYNC: u8 = 0x47;

/// What a datagram carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carriage {
    /// Transport packets, and nothing in front of them.
    Plain,
    Rtp,
}

/// What a datagram carries, as far as its first bytes and its second packet tell. A sync byte is of
/// version 1 to RTP, so nothing can be both. `None`: neither, RTCP for example.
pub fn recognise(datagram: &[u8]) -> Option<Carriage> {
    let is_sync = |byte: Option<&u8>| byte.is_none_or(|byte| *byte == TS_SYNC);
    match datagram {
        [TS_SYNC, ..] if is_sync(datagram.get(PACKET_BYTES)) => Some(Carriage::Plain),
        [first, second, ..] if first >> 6 == VERSION && second & 0x7f == PAYLOAD_TYPE_MP2T => {
            Some(Carriage::Rtp)
        }
        _ => None,
    }
}

/// Why a datagram is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RtpError {
    #[error("its RTP version is {0}, and 2 is needed")]
    Version(u8),
    #[error("its RTP payload type is {0}; a transport stream has 33")]
    PayloadType(u8),
    #[error("it ends within its RTP head, after {0} bytes")]
    Short(usize),
    #[error("it says that {0} bytes of padding end it, and has not so many")]
    Padding(u8),
}

/// One datagram, its head taken apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpPacket<'b> {
    pub sequence: u16,
    /// Who sends: a number of its own choice.
    pub source: u32,
    /// Transport packets.
    pub payload: &'b [u8],
}

impl RtpPacket<'_> {
    pub fn parse(datagram: &[u8]) -> Result<RtpPacket<'_>, RtpError> {
        let short = RtpError::Short(datagram.len());
        let first = *datagram.first().ok_or(short)?;
        if first >> 6 != VERSION {
            return Err(RtpError::Version(first >> 6));
        }
        let &[_, second, s0, s1, _, _, _, _, c0, c1, c2, c3] =
            datagram.first_chunk::<FIXED_HEAD_BYTES>().ok_or(short)?;
        if second & 0x7f != PAYLOAD_TYPE_MP2T {
            return Err(RtpError::PayloadType(second & 0x7f));
        }
        let contributors_bytes = 4 * usize::from(first & 0x0f);
        let mut body = datagram.get(FIXED_HEAD_BYTES + contributors_bytes..).ok_or(short)?;
        if first & 0x10 != 0 {
            let &[_, _, high, low] = body.first_chunk::<EXTENSION_HEAD_BYTES>().ok_or(short)?;
            let words = usize::from(u16::from_be_bytes([high, low]));
            body = body.get(EXTENSION_HEAD_BYTES + 4 * words..).ok_or(short)?;
        }
        if first & 0x20 != 0 {
            // The last byte counts itself too (RFC 3550 §5.1).
            let padding_bytes = *body.last().ok_or(short)?;
            let end = body.len().checked_sub(usize::from(padding_bytes));
            let end = end.filter(|_| padding_bytes > 0);
            body = &body[..end.ok_or(RtpError::Padding(padding_bytes))?];
        }
        Ok(RtpPacket {
            sequence: u16::from_be_bytes([s0, s1]),
            source: u32::from_be_bytes([c0, c1, c2, c3]),
            payload: body,
        })
    }
}

/// A datagram may come so many behind its turn: no more are held for one that is missing.
pub const REORDER_PACKETS_MAX: u16 = 64;
/// A sequence number so far ahead is a loss, one beyond is another beginning (RFC 3550 A.1).
const DROPOUT_PACKETS_MAX: u16 = 3000;
/// A sequence number so far back is late or a copy, one before is another beginning (the same).
const MISORDER_PACKETS_MAX: u16 = 100;

/// What the datagrams amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtpEvent<'b> {
    /// The next transport packets.
    Payload(&'b [u8]),
    /// So many datagrams are missing here.
    Lost(u16),
    /// Another sender, or the same one with other numbers: what comes does not go on from what was.
    Restarted,
}

/// Puts datagrams in order.
///
/// | state | left by |
/// |---|---|
/// | nothing has come | the first datagram: in order from there |
/// | in order: nothing is held | a number ahead of its turn, which is held |
/// | waiting for a number, others are held | that number; [`REORDER_PACKETS_MAX`]; `flush`: in order again |
/// | in either, a stranger has come: another source, or a number far off | a second one that goes on from it takes over; a datagram of ours that is in its place sends it away |
#[derive(Debug, Default)]
pub struct RtpReorder {
    /// The source, once something has come.
    source: Option<u32>,
    /// The number whose turn it is.
    next: u16,
    /// What came ahead of its turn, from `next` on. The first is never there, the last always.
    held: VecDeque<Option<Vec<u8>>>,
    stranger: Option<Stranger>,
    lost: u64,
    late: u64,
}

/// A datagram that does not belong to the others. One proves nothing; a second that follows it does.
#[derive(Debug)]
struct Stranger {
    source: u32,
    next: u16,
    payload: Vec<u8>,
}

impl RtpReorder {
    /// Look at the next datagram. Payloads that are in order are handed on as they are; only what comes
    /// ahead of its turn is copied.
    pub fn push(&mut self, packet: &RtpPacket<'_>, take: &mut impl FnMut(RtpEvent<'_>)) {
        if self.source.is_none() {
            self.source = Some(packet.source);
            self.next = packet.sequence;
        }
        let ahead = packet.sequence.wrapping_sub(self.next);
        let behind = self.next.wrapping_sub(packet.sequence);
        if self.source != Some(packet.source) {
            self.meet(packet, take);
        } else if ahead == 0 {
            self.stranger = None;
            self.hand_on(packet.payload, take);
        } else if ahead < DROPOUT_PACKETS_MAX {
            self.stranger = None;
            self.hold(packet, take);
        } else if behind <= MISORDER_PACKETS_MAX {
            self.late += 1;
        } else {
            self.meet(packet, take);
        }
        assert!(self.held.len() <= usize::from(REORDER_PACKETS_MAX));
    }

    /// Wait no longer: hand on all that is held. To be called when something [`is held`](Self::is_holding)
    /// for longer than a datagram may take.
    pub fn flush(&mut self, take: &mut impl FnMut(RtpEvent<'_>)) {
        self.advance(self.held.len() as u16, take);
        assert!(!self.is_holding());
    }

    /// Something came ahead of its turn, and what is missing has not come.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Datagrams that never came, or too late.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Datagrams that came twice, or after they were given up.
    pub fn late(&self) -> u64 {
        self.late
    }

    /// The datagram whose turn it is, and those behind it that are there.
    fn hand_on(&mut self, payload: &[u8], take: &mut impl FnMut(RtpEvent<'_>)) {
        take(RtpEvent::Payload(payload));
        self.next = self.next.wrapping_add(1);
        self.held.pop_front();
        self.hand_on_held(take);
    }

    fn hand_on_held(&mut self, take: &mut impl FnMut(RtpEvent<'_>)) {
        while let Some(Some(payload)) = self.held.front() {
            take(RtpEvent::Payload(payload));
            self.next = self.next.wrapping_add(1);
            self.held.pop_front();
        }
    }

    /// Keep what came ahead of its turn; what is too far behind it is given up.
    fn hold(&mut self, packet: &RtpPacket<'_>, take: &mut impl FnMut(RtpEvent<'_>)) {
        let ahead = packet.sequence.wrapping_sub(self.next);
        self.advance((ahead + 1).saturating_sub(REORDER_PACKETS_MAX), take);
        // That may have handed on more, up to the very turn of this one.
        let place = usize::from(packet.sequence.wrapping_sub(self.next));
        if place == 0 {
            return self.hand_on(packet.payload, take);
        }
        if self.held.len() <= place {
            self.held.resize_with(place + 1, || None);
        }
        match &mut self.held[place] {
            Some(_) => self.late += 1,
            free => *free = Some(packet.payload.to_vec()),
        }
    }

    /// Go so many numbers on at least, over those that are not there.
    fn advance(&mut self, packets: u16, take: &mut impl FnMut(RtpEvent<'_>)) {
        let mut missing = 0;
        for _ in 0..packets {
            match self.held.pop_front().flatten() {
                None => missing += 1,
                Some(payload) => {
                    self.give_up(std::mem::take(&mut missing), take);
                    take(RtpEvent::Payload(&payload));
                }
            }
            self.next = self.next.wrapping_add(1);
        }
        self.give_up(missing, take);
        self.hand_on_held(take);
    }

    fn give_up(&mut self, packets: u16, take: &mut impl FnMut(RtpEvent<'_>)) {
        if packets > 0 {
            self.lost += u64::from(packets);
            take(RtpEvent::Lost(packets));
        }
    }

    /// A datagram that does not belong to the others.
    fn meet(&mut self, packet: &RtpPacket<'_>, take: &mut impl FnMut(RtpEvent<'_>)) {
        let goes_on = |stranger: &mut Stranger| {
            (stranger.source, stranger.next) == (packet.source, packet.sequence)
        };
        let Some(first) = self.stranger.take_if(goes_on) else {
            let (source, next) = (packet.source, packet.sequence.wrapping_add(1));
            self.stranger = Some(Stranger { source, next, payload: packet.payload.to_vec() });
            return;
        };
        self.flush(take);
        take(RtpEvent::Restarted);
        self.source = Some(packet.source);
        self.next = packet.sequence;
        take(RtpEvent::Payload(&first.payload));
        self.hand_on(packet.payload, take);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A head with these first two bytes, and what follows it.
    fn datagram(first: u8, second: u8, sequence: u16, rest: &[u8]) -> Vec<u8> {
        let head = [first, second, (sequence >> 8) as u8, sequence as u8, 0, 0, 0, 9, 0, 0, 0, 7];
        [&head, rest].concat()
    }

    #[derive(Debug, Clone, PartialEq, Eq)]
    enum Heard {
        /// By the number that the payload holds.
        Payload(u16),
        Lost(u16),
        Restarted,
    }

    use Heard::{Lost, Payload, Restarted};

    #[derive(Default)]
    struct Listener {
        reorder: RtpReorder,
        heard: Vec<Heard>,
    }

    impl Listener {
        fn send(&mut self, source: u32, sequence: u16) {
            let payload = sequence.to_be_bytes();
            let packet = RtpPacket { sequence, source, payload: &payload };
            self.reorder.push(&packet, &mut |event| self.heard.push(heard(event)));
        }

        fn flush(&mut self) {
            self.reorder.flush(&mut |event| self.heard.push(heard(event)));
        }
    }

    fn heard(event: RtpEvent<'_>) -> Heard {
        match event {
            RtpEvent::Payload(payload) => Payload(u16::from_be_bytes(payload.try_into().unwrap())),
            RtpEvent::Lost(packets) => Lost(packets),
            RtpEvent::Restarted => Restarted,
        }
    }

    /// What comes of numbers of one source, without a flush.
    fn sent(sequences: impl IntoIterator<Item = u16>) -> Listener {
        let mut listener = Listener::default();
        sequences.into_iter().for_each(|sequence| listener.send(1, sequence));
        listener
    }

    fn payloads(sequences: impl IntoIterator<Item = u16>) -> Vec<Heard> {
        sequences.into_iter().map(Payload).collect()
    }

    #[test]
    fn heads_are_taken_apart() {
        let packet = datagram(0x80, 0xa1, 0xfffe, b"media");
        let expected = RtpPacket { sequence: 0xfffe, source: 7, payload: b"media" };
        assert_eq!(RtpPacket::parse(&packet), Ok(expected));
        // Two contributors, an extension of one word, three bytes of padding.
        let rest = [&[1; 8][..], &[0xbe, 0xde, 0, 1], &[2; 4], b"media", &[0, 0, 3]].concat();
        let full = datagram(0xb2, 0x21, 1, &rest);
        assert_eq!(RtpPacket::parse(&full).unwrap().payload, b"media");
        let empty = datagram(0xa0, 0x21, 1, &[0, 0, 0, 4]);
        assert_eq!(RtpPacket::parse(&empty).unwrap().payload, b"");
    }

    #[test]
    fn wrong_heads_are_told_apart() {
        let parse = |datagram: &[u8]| RtpPacket::parse(datagram).unwrap_err();
        assert_eq!(parse(&datagram(0x47, 33, 1, b"x")), RtpError::Version(1));
        assert_eq!(parse(&datagram(0x80, 96, 1, b"x")), RtpError::PayloadType(96));
        // RTCP, of which the second byte is 200.
        assert_eq!(parse(&datagram(0x80, 200, 1, b"x")), RtpError::PayloadType(72));
        assert_eq!(parse(&datagram(0x81, 33, 1, b"xyz")), RtpError::Short(15));
        assert_eq!(parse(&datagram(0x90, 33, 1, b"xyz")), RtpError::Short(15));
        assert_eq!(parse(&datagram(0x90, 33, 1, &[0, 0, 0, 1, 9])), RtpError::Short(17));
        assert_eq!(parse(&datagram(0xa0, 33, 1, b"")), RtpError::Short(12));
        assert_eq!(parse(&datagram(0xa0, 33, 1, &[1, 0])), RtpError::Padding(0));
        assert_eq!(parse(&datagram(0xa0, 33, 1, &[1, 3])), RtpError::Padding(3));
        assert_eq!(parse(b""), RtpError::Short(0));
        assert_eq!(parse(&datagram(0x80, 33, 1, b"")[..11]), RtpError::Short(11));
    }

    #[test]
    fn carriage_is_recognised() {
        let mut packets = vec![0; 2 * PACKET_BYTES];
        packets[0] = TS_SYNC;
        assert_eq!(recognise(&packets[..PACKET_BYTES]), Some(Carriage::Plain));
        assert_eq!(recognise(&packets[..100]), Some(Carriage::Plain));
        assert_eq!(recognise(&packets), None);
        packets[PACKET_BYTES] = TS_SYNC;
        assert_eq!(recognise(&packets), Some(Carriage::Plain));
        assert_eq!(recognise(&datagram(0xb0, 0xa1, 1, &packets)), Some(Carriage::Rtp));
        for other in [&[][..], &[0x80], &[0x80, 200], &[0x40, 33], b"HTTP"] {
            assert_eq!(recognise(other), None, "{other:?}");
        }
    }

    #[test]
    fn order_is_kept_over_the_wrap() {
        let numbers = (0..200).map(|index: u16| index.wrapping_add(0xffa0));
        let listener = sent(numbers.clone());
        assert_eq!(listener.heard, payloads(numbers));
        assert_eq!((listener.reorder.lost(), listener.reorder.late()), (0, 0));
        assert_eq!(sent([0xffff, 1, 2, 0]).heard, payloads([0xffff, 0, 1, 2]));
    }

    #[test]
    fn what_is_missing_is_waited_for_and_then_told() {
        let mut listener = sent([10, 12, 13, 16]);
        assert_eq!(listener.heard, payloads([10]));
        assert!(listener.reorder.is_holding());
        listener.flush();
        let told = [Payload(10), Lost(1), Payload(12), Payload(13), Lost(2), Payload(16)];
        assert_eq!(listener.heard, told);
        assert_eq!((listener.reorder.lost(), listener.reorder.is_holding()), (3, false));
        // Given up is given up.
        listener.send(1, 11);
        listener.send(1, 17);
        assert_eq!(listener.heard.split_off(told.len()), payloads([17]));
        assert_eq!(listener.reorder.late(), 1);
        listener.flush();
        assert!(listener.heard.ends_with(&[Payload(16)]), "nothing is told where nothing is held");
    }

    #[test]
    fn copies_are_dropped() {
        let listener = sent([5, 5, 7, 7, 5, 6, 7, 6, 8]);
        assert_eq!(listener.heard, payloads([5, 6, 7, 8]));
        assert_eq!((listener.reorder.lost(), listener.reorder.late()), (0, 5));
    }

    /// Goal: the window is bounded: the datagram that would widen it beyond ends the wait for the oldest.
    #[test]
    fn a_full_window_gives_the_oldest_up() {
        let mut listener = sent((0..=REORDER_PACKETS_MAX).filter(|number| *number != 1));
        assert_eq!(listener.heard, payloads([0]));
        listener.send(1, REORDER_PACKETS_MAX + 1);
        let all = 2..=REORDER_PACKETS_MAX + 1;
        assert_eq!(listener.heard, [vec![Payload(0), Lost(1)], payloads(all)].concat());
        assert!(!listener.reorder.is_holding());
    }

    #[test]
    fn a_long_loss_is_counted() {
        let mut listener = sent([0, 2, 1000]);
        let held_from = 1000 - REORDER_PACKETS_MAX + 1;
        let told = [Payload(0), Lost(1), Payload(2), Lost(held_from - 3)];
        assert_eq!(listener.heard, told);
        listener.flush();
        assert_eq!(listener.heard[told.len()..], [Lost(1000 - held_from), Payload(1000)]);
        assert_eq!(listener.reorder.lost(), 998);
    }

    #[test]
    fn a_jump_is_another_beginning_once_it_goes_on() {
        for (first, second) in [(30_000, 30_001), (5000, 5001), (0xff00, 0xff01)] {
            let listener = sent([10, 11, 13, first, second]);
            let told = [
                Payload(10),
                Payload(11),
                Lost(1),
                Payload(13),
                Restarted,
                Payload(first),
                Payload(second),
            ];
            assert_eq!(listener.heard, told);
        }
        // One that is lost on its way, or forged, takes nothing over.
        assert_eq!(sent([10, 30_000, 11, 30_001, 12]).heard, payloads([10, 11, 12]));
    }

    #[test]
    fn another_source_takes_over_when_the_first_is_silent() {
        let mut listener = sent([10]);
        for (source, sequence) in [(2, 11), (1, 11), (2, 12), (1, 12), (2, 13), (2, 14), (1, 13)] {
            listener.send(source, sequence);
        }
        let told = [payloads(10..=12), vec![Restarted], payloads(13..=14)].concat();
        assert_eq!(listener.heard, told);
    }

    proptest! {
        /// Method: each datagram is sent at its number plus a delay below the window, so none is overtaken
        /// by more than the window holds. The first stays first: nothing can be known of what was before.
        #[test]
        fn any_order_within_the_window_is_mended(
            start: u16,
            delays in prop::collection::vec(0..REORDER_PACKETS_MAX, 1..400),
        ) {
            let numbers: Vec<u16> =
                (0..=delays.len()).map(|index| start.wrapping_add(index as u16)).collect();
            let mut order: Vec<usize> = (0..delays.len()).collect();
            order.sort_by_key(|index| index + usize::from(delays[*index]));
            let sent_first = std::iter::once(numbers[0]);
            let listener = sent(sent_first.chain(order.into_iter().map(|index| numbers[index + 1])));
            prop_assert_eq!(&listener.heard, &payloads(numbers));
            prop_assert!(!listener.reorder.is_holding() && listener.reorder.lost() == 0);
        }

        /// Each payload comes once and in order, and payloads and losses add up to what was numbered.
        #[test]
        fn losses_and_copies_add_up(
            start: u16,
            fates in prop::collection::vec(0usize..4, 1..400),
        ) {
            let numbers = fates.iter().enumerate().flat_map(|(index, copies)| {
                std::iter::repeat_n(start.wrapping_add(index as u16), *copies)
            });
            let mut listener = sent(numbers);
            listener.flush();
            let mut next = None;
            for event in &listener.heard {
                next = match (event, next) {
                    (Payload(number), Some(next)) if *number != next => {
                        return Err(TestCaseError::fail(format!("{number} and not {next}")));
                    }
                    (Payload(number), _) => Some(number.wrapping_add(1)),
                    (Lost(packets), Some(next)) => Some(packets.wrapping_add(next)),
                    _ => return Err(TestCaseError::fail(format!("{event:?} at {next:?}"))),
                };
            }
        }

        #[test]
        fn no_bytes_are_too_odd(
            mut bytes in prop::collection::vec(any::<u8>(), 0..60),
            is_ours: bool,
        ) {
            if let [first, second, ..] = bytes.as_mut_slice() && is_ours {
                *first = 0x80 | *first & 0x3f;
                *second = 33;
            }
            let parsed = RtpPacket::parse(&bytes);
            prop_assert!(parsed.is_err() || recognise(&bytes) == Some(Carriage::Rtp));
        }

        #[test]
        fn no_numbers_are_too_odd(
            packets in prop::collection::vec(
                (0u32..2, prop_oneof![0u16..200, 2900u16..3100, any::<u16>()], 0u8..20),
                0..300,
            ),
        ) {
            let mut listener = Listener::default();
            for (source, sequence, flush) in packets {
                listener.send(source, sequence);
                if flush == 0 {
                    listener.flush();
                }
            }
        }
    }
}
