//! The head of a frame from a client (RFC 6455 §5.2), gathered from whatever has arrived: two to
//! fourteen bytes. What a head forbids by itself is refused at the first byte that shows it.

use super::frame_head::{CONTROL_BYTES_MAX, LAST_BIT, LENGTH_IN_2, LENGTH_IN_8, Opcode};
use super::violation::Violation;

const MASK_BIT: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE_BITS: u8 = 0x0f;
/// Two bytes, a length of eight, the mask.
const MASKED_HEAD_BYTES_MAX: usize = 14;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MaskedHead {
    pub(super) opcode: Opcode,
    pub(super) is_last: bool,
    pub(super) payload_bytes: u64,
    pub(super) mask: [u8; 4],
}

/// The bytes of a head that is not complete yet.
#[derive(Debug, Default)]
pub(super) struct HeadParser {
    bytes: [u8; MASKED_HEAD_BYTES_MAX],
    len: u8,
}

impl HeadParser {
    /// Take of `input` what belongs to the head: how many bytes, and the head if that completes it.
    pub(super) fn push(&mut self, input: &[u8]) -> Result<(usize, Option<MaskedHead>), Violation> {
        let mut used = 0;
        loop {
            let wanted = self.wanted_bytes();
            let len = usize::from(self.len);
            let got = (wanted - len).min(input.len() - used);
            self.bytes[len..len + got].copy_from_slice(&input[used..used + got]);
            self.len += got as u8;
            used += got;
            let opcode = self.check()?;
            if usize::from(self.len) < wanted {
                return Ok((used, None));
            }
            if let Some(opcode) = opcode.filter(|_| wanted > 2) {
                let head = self.finish(opcode, wanted)?;
                self.len = 0;
                return Ok((used, Some(head)));
            }
        }
    }

    /// How long the head is, as far as its bytes tell.
    fn wanted_bytes(&self) -> usize {
        if self.len < 2 {
            return 2;
        }
        match self.bytes[1] & !MASK_BIT {
            LENGTH_IN_2 => 2 + 2 + 4,
            LENGTH_IN_8 => 2 + 8 + 4,
            _ => 2 + 4,
        }
    }

    /// Judge the first two bytes, as soon as they are there.
    fn check(&self) -> Result<Option<Opcode>, Violation> {
        if self.len == 0 {
            return Ok(None);
        }
        let first = self.bytes[0];
        if first & RESERVED_BITS != 0 {
            return Err(Violation::ReservedBits);
        }
        let bits = first & OPCODE_BITS;
        let opcode = Opcode::from_bits(bits).ok_or(Violation::Opcode(bits))?;
        if opcode.is_control() && first & LAST_BIT == 0 {
            return Err(Violation::ControlFragmented);
        }
        if self.len >= 2 {
            let second = self.bytes[1];
            if second & MASK_BIT == 0 {
                return Err(Violation::NotMasked);
            }
            if opcode.is_control() && usize::from(second & !MASK_BIT) > CONTROL_BYTES_MAX {
                return Err(Violation::ControlTooLong);
            }
        }
        Ok(Some(opcode))
    }

    fn finish(&self, opcode: Opcode, head_bytes: usize) -> Result<MaskedHead, Violation> {
        let (front, mask) = self.bytes[..head_bytes].split_at(head_bytes - 4);
        let long = &front[2..];
        let payload_bytes = if long.is_empty() {
            u64::from(front[1] & !MASK_BIT)
        } else {
            long.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
        };
        if payload_bytes >> 63 != 0 {
            return Err(Violation::LengthTopBit);
        }
        // RFC 6455 §5.2: the minimal number of bytes MUST be used.
        let shortest = match long.len() {
            0 => 0,
            2 => u64::from(LENGTH_IN_2),
            _ => 1 << 16,
        };
        if payload_bytes < shortest {
            return Err(Violation::LengthNotShortest);
        }
        Ok(MaskedHead {
            opcode,
            is_last: front[0] & LAST_BIT != 0,
            payload_bytes,
            mask: [mask[0], mask[1], mask[2], mask[3]],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Push byte by byte; the head with the bytes it took, or the violation and the byte that showed it.
    fn read(input: &[u8]) -> (usize, Result<Option<MaskedHead>, Violation>) {
        let mut parser = HeadParser::default();
        for (at, byte) in input.iter().enumerate() {
            match parser.push(&[*byte]) {
                Ok((1, None)) => {}
                Ok((used, head)) => {
                    assert_eq!(used, 1);
                    return (at + 1, Ok(head));
                }
                Err(violation) => return (at + 1, Err(violation)),
            }
        }
        (input.len(), Ok(None))
    }

    #[test]
    fn lengths_are_read_in_each_form() {
        let cases: &[(&[u8], u64)] = &[
            (b"\x82\x80", 0),
            (b"\x82\xfd", 125),
            (b"\x82\xfe\x00\x7e", 126),
            (b"\x82\xfe\x01\x00", 256),
            (b"\x82\xfe\xff\xff", 65535),
            (b"\x82\xff\0\0\0\0\x00\x01\x00\x00", 65536),
            (b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff", u64::MAX >> 1),
        ];
        for &(start, payload_bytes) in cases {
            let input = [start, b"\x01\x02\x03\x04", b"payload"].concat();
            let head_bytes = start.len() + 4;
            let wanted = MaskedHead {
                opcode: Opcode::Binary,
                is_last: true,
                payload_bytes,
                mask: [1, 2, 3, 4],
            };
            assert_eq!(read(&input), (head_bytes, Ok(Some(wanted))));
            let whole = HeadParser::default().push(&input);
            assert_eq!(whole, Ok((head_bytes, Some(wanted))), "at once");
        }
    }

    #[test]
    fn what_a_head_forbids_is_refused_at_once() {
        use Violation::*;
        let cases: &[(&[u8], usize, Violation)] = &[
            (b"\xc1\x80", 1, ReservedBits),
            (b"\xa1\x80", 1, ReservedBits),
            (b"\x91\x80", 1, ReservedBits),
            (b"\xf1\x80", 1, ReservedBits),
            (b"\x83\x80", 1, Opcode(3)),
            (b"\x07\x80", 1, Opcode(7)),
            (b"\x8b\x80", 1, Opcode(11)),
            (b"\x8f\x80", 1, Opcode(15)),
            (b"\x09\x80", 1, ControlFragmented),
            (b"\x08\x80", 1, ControlFragmented),
            (b"\x81\x05Hello", 2, NotMasked),
            (b"\x89\x00", 2, NotMasked),
            (b"\x89\xfe\x00\x7e", 2, ControlTooLong),
            (b"\x88\xff", 2, ControlTooLong),
            (b"\x82\xfe\x00\x7dmask", 8, LengthNotShortest),
            (b"\x82\xfe\x00\x00mask", 8, LengthNotShortest),
            (b"\x82\xff\0\0\0\0\0\0\xff\xffmask", 14, LengthNotShortest),
            (b"\x82\xff\x80\0\0\0\0\0\0\0mask", 14, LengthTopBit),
            (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xffmask", 14, LengthTopBit),
        ];
        for &(input, shown_by, violation) in cases {
            assert_eq!(read(input), (shown_by, Err(violation)), "{input:x?}");
            assert_eq!(HeadParser::default().push(input), Err(violation), "{input:x?} at once");
        }
    }

    #[test]
    fn one_parser_reads_head_after_head() {
        let mut parser = HeadParser::default();
        for _ in 0..3 {
            assert_eq!(parser.push(b""), Ok((0, None)));
            assert_eq!(parser.push(b"\x01"), Ok((1, None)));
            let (used, head) = parser.push(b"\x83\x09\x08\x07\x06abc").unwrap();
            let head = head.unwrap();
            assert_eq!((used, head.opcode, head.is_last), (5, Opcode::Text, false));
            assert_eq!((head.payload_bytes, head.mask), (3, [9, 8, 7, 6]));
        }
    }
}
