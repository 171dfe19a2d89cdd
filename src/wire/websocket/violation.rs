//! What a client did that RFC 6455 or a limit forbids, and the close code that says so. After one of
//! these the connection is failed: a close frame with the code, then the end of the socket.

use thiserror::Error;

use super::frame_head::CONTROL_BYTES_MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Violation {
    #[error("reserved bits are set, and no extension was agreed")]
    ReservedBits,
    #[error("the opcode {0:#x} is reserved")]
    Opcode(u8),
    #[error("a frame from a client is not masked")]
    NotMasked,
    #[error("a length takes more bytes than it needs")]
    LengthNotShortest,
    #[error("a length has its top bit set")]
    LengthTopBit,
    #[error("a control frame is fragmented")]
    ControlFragmented,
    #[error("a control frame has more than {CONTROL_BYTES_MAX} bytes")]
    ControlTooLong,
    #[error("a continuation without a message to continue")]
    NothingToContinue,
    #[error("a new message inside a fragmented one")]
    MessageInterrupted,
    #[error("a close frame with half a code")]
    HalfCloseCode,
    #[error("the close code {0} must not be sent")]
    CloseCode(u16),
    #[error("the reason of a close frame is not UTF-8")]
    ReasonNotUtf8,
    #[error("a text message is not UTF-8")]
    TextNotUtf8,
    #[error("a message has more than {bytes_max} bytes")]
    MessageTooBig { bytes_max: u64 },
}

impl Violation {
    /// The status code for the close frame (RFC 6455 §7.4.1).
    pub fn code(&self) -> u16 {
        match self {
            Violation::ReasonNotUtf8 | Violation::TextNotUtf8 => 1007,
            Violation::MessageTooBig { .. } => 1009,
            Violation::ReservedBits
            | Violation::Opcode(_)
            | Violation::NotMasked
            | Violation::LengthNotShortest
            | Violation::LengthTopBit
            | Violation::ControlFragmented
            | Violation::ControlTooLong
            | Violation::NothingToContinue
            | Violation::MessageInterrupted
            | Violation::HalfCloseCode
            | Violation::CloseCode(_) => 1002,
        }
    }
}

/// Codes that may stand in a close frame: those of RFC 6455 §7.4.1 and the three that were
/// registered with IANA later (1012 to 1014), and what §7.4.2 leaves to others. 1004, 1005, 1006
/// and 1015 are reserved for things that are never sent.
pub(super) fn is_close_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_are_those_of_the_registry() {
        let edges: &[(u16, bool)] = &[
            (0, false),
            (999, false),
            (1000, true),
            (1003, true),
            (1004, false),
            (1005, false),
            (1006, false),
            (1007, true),
            (1011, true),
            (1014, true),
            (1015, false),
            (1016, false),
            (1100, false),
            (2000, false),
            (2999, false),
            (3000, true),
            (3999, true),
            (4000, true),
            (4999, true),
            (5000, false),
            (65535, false),
        ];
        for &(code, wanted) in edges {
            assert_eq!(is_close_code(code), wanted, "{code}");
        }
        assert_eq!((0..=u16::MAX).filter(|code| is_close_code(*code)).count(), 12 + 2000);
    }
}
