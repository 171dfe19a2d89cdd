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
        if self.len == 0
            && let Some((head, head_bytes)) = read(input)?
        {
            return Ok((head_bytes, Some(head)));
        }
        let mut used = 0;
        while used < input.len() {
            let len = usize::from(self.len);
            let wanted = head_bytes(&self.bytes[..len]);
            let got = (wanted - len).min(input.len() - used);
            self.bytes[len..len + got].copy_from_slice(&input[used..used + got]);
            self.len += got as u8;
            used += got;
            if let Some((head, _)) = read(&self.bytes[..len + got])? {
                self.len = 0;
                return Ok((used, Some(head)));
            }
        }
        Ok((used, None))
    }
}

/// The head at the beginning of `bytes`, and its length, if it is complete. What is wrong is found
/// before that, as soon as it can be seen.
fn read(bytes: &[u8]) -> Result<Option<(MaskedHead, usize)>, Violation> {
    let Some(&first) = bytes.first() else { return Ok(None) };
    let opcode = check_first(first)?;
    let Some(&second) = bytes.get(1) else { return Ok(None) };
    check_second(opcode, second)?;
    let Some((front, mask)) =
        bytes.get(2..head_bytes(bytes)).and_then(|rest| rest.split_last_chunk())
    else {
        return Ok(None);
    };
    let payload_bytes = payload_bytes(second, front)?;
    let is_last = first & LAST_BIT != 0;
    let head = MaskedHead { opcode, is_last, payload_bytes, mask: *mask };
    Ok(Some((head, 2 + front.len() + mask.len())))
}

/// How long the head is, as far as its bytes tell.
fn head_bytes(bytes: &[u8]) -> usize {
    match bytes.get(1).map(|second| second & !MASK_BIT) {
        None => 2,
        Some(LENGTH_IN_2) => 2 + 2 + 4,
        Some(LENGTH_IN_8) => 2 + 8 + 4,
        Some(_) => 2 + 4,
    }
}

fn check_first(first: u8) -> Result<Opcode, Violation> {
    if first & RESERVED_BITS != 0 {
        return Err(Violation::ReservedBits);
    }
    let bits = first & OPCODE_BITS;
    let opcode = Opcode::from_bits(bits).ok_or(Violation::Opcode(bits))?;
    if opcode.is_control() && first & LAST_BIT == 0 {
        return Err(Violation::ControlFragmented);
    }
    Ok(opcode)
}

fn check_second(opcode: Opcode, second: u8) -> Result<(), Violation> {
    if second & MASK_BIT == 0 {
        return Err(Violation::NotMasked);
    }
    if opcode.is_control() && usize::from(second & !MASK_BIT) > CONTROL_BYTES_MAX {
        return Err(Violation::ControlTooLong);
    }
    Ok(())
}

/// The length that the second byte gives, or the two or eight behind it: of those forms the
/// shortest that can say it (RFC 6455 §5.2: MUST).
fn payload_bytes(second: u8, long: &[u8]) -> Result<u64, Violation> {
    let (value, shortest) = match *long {
        [] => (u64::from(second & !MASK_BIT), 0),
        [a, b] => (u64::from(u16::from_be_bytes([a, b])), u64::from(LENGTH_IN_2)),
        [a, b, c, d, e, f, g, h] => (u64::from_be_bytes([a, b, c, d, e, f, g, h]), 1 << 16),
        _ => unreachable!("a length has none, two or eight bytes of its own"),
    };
    if value >> 63 != 0 {
        return Err(Violation::LengthTopBit);
    }
    if value < shortest {
        return Err(Violation::LengthNotShortest);
    }
    Ok(value)
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
