//! WebSocket frames as a client sees them, without I/O: those of the server are taken apart while
//! they arrive, its own are masked. Payloads are handed on in pieces and texts are not checked:
//! httpfstream sends a whole file as one text message, whatever its bytes are.

use std::hash::{BuildHasher, RandomState};
use std::io::Cursor;

use bytes::{Buf, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::failure::ClientError;

/// RFC 6455 §5.5.
const CONTROL_BYTES_MAX: u64 = 125;

/// What the server says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// The next bytes of a message; possibly none.
    Data(Bytes),
    Ping(Bytes),
    Pong,
    Close {
        code: Option<u16>,
        reason: String,
    },
}

/// Takes frames of the server apart.
#[derive(Default)]
pub(super) struct FrameReader {
    /// What is to come of the payload of a data frame.
    left: u64,
    /// The message goes on in another frame.
    is_in_message: bool,
}

impl FrameReader {
    /// The next event, if enough has been received.
    pub(super) fn next(&mut self, received: &mut BytesMut) -> Result<Option<Said>, ClientError> {
        if self.left > 0 {
            return Ok(self.payload(received));
        }
        let mut cursor = Cursor::new(&received[..]);
        let bad = |_| ClientError::BadAnswer("a frame has an unknown opcode");
        let Some((head, length)) = FrameHeader::parse(&mut cursor).map_err(bad)? else {
            return Ok(None);
        };
        let head_bytes = cursor.position() as usize;
        if head.mask.is_some() || head.rsv1 || head.rsv2 || head.rsv3 {
            return Err(ClientError::BadAnswer("a frame is masked or has reserved bits"));
        }
        match head.opcode {
            OpCode::Data(kind) => {
                if (kind == Data::Continue) != self.is_in_message {
                    return Err(ClientError::BadAnswer("fragments of messages are mixed up"));
                }
                received.advance(head_bytes);
                self.is_in_message = !head.is_final;
                self.left = length;
                if length == 0 {
                    return Ok(Some(Said::Data(Bytes::new())));
                }
                Ok(self.payload(received))
            }
            OpCode::Control(kind) => {
                if !head.is_final || length > CONTROL_BYTES_MAX {
                    return Err(ClientError::BadAnswer("a control frame is too long"));
                }
                if ((received.len() - head_bytes) as u64) < length {
                    return Ok(None);
                }
                received.advance(head_bytes);
                let payload = received.split_to(length as usize).freeze();
                Ok(Some(match kind {
                    Control::Ping => Said::Ping(payload),
                    Control::Close => close(&payload),
                    Control::Pong | Control::Reserved(_) => Said::Pong,
                }))
            }
        }
    }

    fn payload(&mut self, received: &mut BytesMut) -> Option<Said> {
        let length = self.left.min(received.len() as u64);
        if length == 0 {
            return None;
        }
        self.left -= length;
        Some(Said::Data(received.split_to(length as usize).freeze()))
    }
}

fn close(payload: &[u8]) -> Said {
    let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
    let reason = payload.get(2..).unwrap_or_default();
    let reason = String::from_utf8_lossy(reason).replace(char::is_control, " ");
    Said::Close { code, reason }
}

/// Makes the client's frames.
#[derive(Default)]
pub(super) struct FrameWriter {
    /// Hashes with a random key: nobody who chooses payloads foretells their masks.
    masks: RandomState,
    count: u64,
}

impl FrameWriter {
    pub(super) fn message(&mut self, is_text: bool, payload: &[u8]) -> Vec<u8> {
        self.frame(OpCode::Data(if is_text { Data::Text } else { Data::Binary }), payload)
    }

    pub(super) fn pong(&mut self, payload: &[u8]) -> Vec<u8> {
        self.frame(OpCode::Control(Control::Pong), payload)
    }

    pub(super) fn close(&mut self, code: u16) -> Vec<u8> {
        self.frame(OpCode::Control(Control::Close), &code.to_be_bytes())
    }

    fn frame(&mut self, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
        self.count += 1;
        let mask = (self.masks.hash_one(self.count) as u32).to_ne_bytes();
        let head = FrameHeader { opcode, mask: Some(mask), ..FrameHeader::default() };
        let length = payload.len() as u64;
        let mut frame = Vec::with_capacity(head.len(length) + payload.len());
        head.format(length, &mut frame).expect("a vector takes all");
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::tungstenite::protocol::frame::FrameSocket;

    use super::*;

    /// Everything that `bytes` say, given in pieces of `step`.
    fn said(bytes: &[u8], step: usize) -> Result<Vec<Said>, ClientError> {
        let (mut reader, mut received) = (FrameReader::default(), BytesMut::new());
        let mut all: Vec<Said> = Vec::new();
        for piece in bytes.chunks(step) {
            received.extend_from_slice(piece);
            while let Some(said) = reader.next(&mut received)? {
                all.push(said);
            }
        }
        assert!(received.is_empty());
        Ok(all)
    }

    fn data(all: &[Said]) -> Vec<u8> {
        let pieces = all.iter().filter_map(|said| match said {
            Said::Data(bytes) => Some(&bytes[..]),
            _ => None,
        });
        pieces.collect::<Vec<_>>().concat()
    }

    #[test]
    fn frames_of_httpfstream_are_taken_apart() {
        // The file so far in fragments, the empty message, a ping, a message, the end.
        let bytes =
            b"\x01\x02ab\x00\x7e\x00\x02c\xff\x80\x01d\x81\x00\x89\x00\x81\x01e\x88\x02\x03\xe8";
        for step in 1..bytes.len() {
            let all = said(bytes, step).unwrap();
            assert_eq!(data(&all), b"abc\xffde", "step {step}");
            assert!(all.contains(&Said::Ping(Bytes::new())));
            let close = Said::Close { code: Some(1000), reason: String::new() };
            assert_eq!(all.last(), Some(&close));
        }
        // A long message as a frame that is not the last, and an empty one.
        let mut long = b"\x01\x7f\x00\x00\x00\x00\x00\x01\x00\x00".to_vec();
        long.extend([b'x'; 65536]);
        long.extend(b"\x80\x00\x82\x01y");
        assert_eq!(data(&said(&long, 1000).unwrap()).len(), 65537);
    }

    #[test]
    fn closes_are_read() {
        let close = |bytes| said(bytes, 100).unwrap().pop().unwrap();
        assert_eq!(close(b"\x88\x00"), Said::Close { code: None, reason: String::new() });
        let reason = "a b".to_owned();
        assert_eq!(close(b"\x88\x05\x03\xf3a\nb"), Said::Close { code: Some(1011), reason });
    }

    #[test]
    fn wrong_frames_are_errors() {
        for bytes in [
            &b"\x81\x81\0\0\0\0a"[..],
            b"\xc1\x01a",
            b"\x83\x01a",
            b"\x80\x01a",
            b"\x01\x01a\x81\x01b",
            b"\x09\x00",
            b"\x89\x7e\x00\x7e",
        ] {
            assert!(said(bytes, 100).is_err(), "{bytes:?}");
        }
    }

    /// Method: an independent reader takes them apart.
    #[test]
    fn own_frames_are_masked_and_whole() {
        let mut writer = FrameWriter::default();
        let long = vec![200; 70_000];
        let mut wire = writer.message(true, b"ab");
        wire.extend(writer.message(false, &long));
        wire.extend(writer.pong(b"7"));
        wire.extend(writer.close(1000));
        let mut socket = FrameSocket::new(Cursor::new(wire));
        let mut payloads = Vec::new();
        let mut masks = Vec::new();
        while let Some(frame) = socket.read(None).unwrap() {
            let mask = frame.header().mask.expect("a client masks");
            let unmask = |(at, byte): (usize, &u8)| byte ^ mask[at % 4];
            let payload: Vec<u8> = frame.payload().iter().enumerate().map(unmask).collect();
            payloads.push((u8::from(frame.header().opcode), payload));
            masks.push(mask);
        }
        let wanted = [(1, b"ab".to_vec()), (2, long), (10, b"7".to_vec()), (8, vec![3, 0xe8])];
        assert_eq!(payloads, wanted);
        masks.dedup();
        assert_eq!(masks.len(), 4);
    }
}
