//! What the server sends (RFC 6455 §5.2): the head of an unmasked frame, whose payload the caller
//! sends from where it lies, and whole control frames.

/// Payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_BYTES_MAX: usize = 125;
/// Text of a close frame behind its code.
pub const REASON_BYTES_MAX: usize = CONTROL_BYTES_MAX - 2;
/// An unmasked head: two bytes and a length of eight.
pub const FRAME_HEAD_BYTES_MAX: usize = 10;

/// Codes of a close frame that this server sends (RFC 6455 §7.4.1).
pub mod close_code {
    pub const NORMAL: u16 = 1000;
    pub const GOING_AWAY: u16 = 1001;
    pub const POLICY: u16 = 1008;
    pub const SERVER_ERROR: u16 = 1011;
}

/// A close frame for WebSockets that a stop of the server ends: 1001 and a reason.
pub const STOPPING: &[u8] = b"\x88\x18\x03\xe9the server is stopping";

pub(super) const LAST_BIT: u8 = 0x80;
/// Of the second byte: a length of two bytes follows, or one of eight.
pub(super) const LENGTH_IN_2: u8 = 126;
pub(super) const LENGTH_IN_8: u8 = 127;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Opcode {
    Continuation = 0x0,
    Text = 0x1,
    Binary = 0x2,
    Close = 0x8,
    Ping = 0x9,
    Pong = 0xa,
}

impl Opcode {
    /// The low four bits of a frame's first byte; `None` is reserved (RFC 6455 §5.2).
    pub fn from_bits(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return None,
        })
    }

    pub fn is_control(self) -> bool {
        self as u8 & 0x8 != 0
    }
}

/// The head of a frame from the server: never masked, no reserved bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHead {
    bytes: [u8; FRAME_HEAD_BYTES_MAX],
    len: u8,
}

impl FrameHead {
    pub fn new(opcode: Opcode, is_last: bool, payload_bytes: u64) -> FrameHead {
        assert!(payload_bytes >> 63 == 0, "a length of RFC 6455 has 63 bits");
        assert!(
            !opcode.is_control() || is_last && payload_bytes <= CONTROL_BYTES_MAX as u64,
            "a control frame is one frame and short"
        );
        let mut bytes = [0; FRAME_HEAD_BYTES_MAX];
        bytes[0] = opcode as u8 | if is_last { LAST_BIT } else { 0 };
        let len = if payload_bytes < u64::from(LENGTH_IN_2) {
            bytes[1] = payload_bytes as u8;
            2
        } else if let Ok(short) = u16::try_from(payload_bytes) {
            bytes[1] = LENGTH_IN_2;
            bytes[2..4].copy_from_slice(&short.to_be_bytes());
            4
        } else {
            bytes[1] = LENGTH_IN_8;
            bytes[2..].copy_from_slice(&payload_bytes.to_be_bytes());
            10
        };
        FrameHead { bytes, len }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A whole control frame. A payload of more than `CONTROL_BYTES_MAX` is the caller's mistake.
pub fn control_frame(opcode: Opcode, payload: &[u8]) -> Vec<u8> {
    assert!(opcode.is_control(), "{opcode:?} is for data");
    let head = FrameHead::new(opcode, true, payload.len() as u64);
    [head.as_bytes(), payload].concat()
}

/// A close frame with its code and as much of the reason as fits, in whole characters.
pub fn close_frame(code: u16, reason: &str) -> Vec<u8> {
    let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
    control_frame(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The unmasked examples of RFC 6455 §5.7, and both sides of each step in the length.
    #[test]
    fn heads_are_those_of_the_rfc() {
        use Opcode::*;
        let cases: &[(Opcode, bool, u64, &[u8])] = &[
            (Text, true, 5, b"\x81\x05"),
            (Text, false, 3, b"\x01\x03"),
            (Continuation, true, 2, b"\x80\x02"),
            (Ping, true, 5, b"\x89\x05"),
            (Pong, true, 5, b"\x8a\x05"),
            (Close, true, 0, b"\x88\x00"),
            (Binary, true, 256, b"\x82\x7e\x01\x00"),
            (Binary, true, 65536, b"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00"),
            (Text, true, 0, b"\x81\x00"),
            (Binary, true, 125, b"\x82\x7d"),
            (Binary, true, 126, b"\x82\x7e\x00\x7e"),
            (Binary, true, 65535, b"\x82\x7e\xff\xff"),
            (Binary, true, u64::MAX >> 1, b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff"),
        ];
        for &(opcode, is_last, payload_bytes, wanted) in cases {
            let head = FrameHead::new(opcode, is_last, payload_bytes);
            assert_eq!(head.as_bytes(), wanted, "{opcode:?} of {payload_bytes}");
        }
    }

    #[test]
    fn control_frames_are_whole() {
        assert_eq!(control_frame(Opcode::Ping, b"Hello"), b"\x89\x05Hello");
        assert_eq!(control_frame(Opcode::Close, b""), b"\x88\x00");
        assert_eq!(control_frame(Opcode::Pong, &[7; 125]).len(), 127);
        assert_eq!(close_frame(1000, ""), b"\x88\x02\x03\xe8");
        assert_eq!(close_frame(1002, "no"), b"\x88\x04\x03\xeano");
    }

    #[test]
    fn a_reason_is_cut_between_characters() {
        let frame = close_frame(1011, &"ä".repeat(100));
        assert_eq!(frame.len(), 2 + 2 + 122);
        assert_eq!(std::str::from_utf8(&frame[4..]).unwrap(), "ä".repeat(61));
        assert_eq!(close_frame(1011, &"x".repeat(200)).len(), 2 + CONTROL_BYTES_MAX);
    }

    #[test]
    #[should_panic(expected = "short")]
    fn a_long_control_frame_is_our_mistake() {
        control_frame(Opcode::Ping, &[0; 126]);
    }

    #[test]
    fn opcodes_are_the_six_of_the_rfc() {
        let known: Vec<u8> = (0..16).filter(|bits| Opcode::from_bits(*bits).is_some()).collect();
        assert_eq!(known, [0, 1, 2, 8, 9, 10]);
        for bits in known {
            let opcode = Opcode::from_bits(bits).unwrap();
            assert_eq!((opcode as u8, opcode.is_control()), (bits, bits >= 8));
        }
    }
}
