//! What a camera sends over TCP, as MultiStreamingServer takes it: a greeting of three numbers, then
//! each picture with its length in front. Numbers are signed, of 32 bits, little-endian. Nothing is
//! ever sent back.

pub const GREETING_BYTES: usize = 12;
const LENGTH_BYTES: usize = 4;
/// Connections of one camera that send, or are about to: two qualities, and one that follows each.
pub const CAMERA_SENDERS_MAX: usize = 4;
/// What all connections together have sent before their first picture was whole, or two pictures.
pub const CAMERA_FIRST_BYTES_MAX: u64 = 64 << 20;

/// What a camera says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Greeting {
    pub id: i32,
    pub kind: PictureKind,
    pub quality: Quality,
}

/// What a camera's pictures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PictureKind {
    /// A JPEG each.
    Mjpeg,
    /// Pieces of an H.264 elementary stream (ITU-T H.264 annex B).
    H264,
}

impl PictureKind {
    /// Of one picture behind the other.
    pub fn stream_type(self) -> &'static str {
        match self {
            PictureKind::Mjpeg => "video/x-motion-jpeg",
            PictureKind::H264 => "video/h264",
        }
    }

    /// In JSON, and as the extension of a file.
    pub fn word(self) -> &'static str {
        match self {
            PictureKind::Mjpeg => "mjpeg",
            PictureKind::H264 => "h264",
        }
    }
}

impl Quality {
    pub fn word(self) -> &'static str {
        match self {
            Quality::Low => "low",
            Quality::High => "high",
        }
    }

    pub fn from_word(word: &str) -> Option<Quality> {
        [Quality::Low, Quality::High].into_iter().find(|quality| quality.word() == word)
    }
}

/// A camera may send itself twice; the better one is the larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Quality {
    Low,
    High,
}

/// What no camera may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CameraError {
    #[error("its type is {0}: 0 is MJPEG, 1 is H.264")]
    Kind(i32),
    #[error("its quality is {0}: 0 is low, 1 is high")]
    Quality(i32),
    #[error("it announced a picture of {0} bytes")]
    NegativeLength(i32),
    #[error("it announced a picture of {bytes} bytes, and {max} are allowed")]
    TooLong { bytes: u32, max: u32 },
    #[error("a picture goes on behind {max} bytes, and no more are allowed")]
    Endless { max: u32 },
    #[error("a picture is no JPEG")]
    BrokenPicture,
}

impl Greeting {
    pub fn parse(bytes: &[u8; GREETING_BYTES]) -> Result<Greeting, CameraError> {
        let number = |at: usize| {
            i32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let kind = match number(4) {
            0 => PictureKind::Mjpeg,
            1 => PictureKind::H264,
            other => return Err(CameraError::Kind(other)),
        };
        let quality = match number(8) {
            0 => Quality::Low,
            1 => Quality::High,
            other => return Err(CameraError::Quality(other)),
        };
        Ok(Greeting { id: number(0), kind, quality })
    }

    /// `stream` and the id, which may be negative.
    pub fn stream_name(&self) -> String {
        format!("stream{}", self.id)
    }
}

/// What the bytes behind a greeting bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureEvent<'b> {
    /// The next bytes of a picture.
    Bytes { bytes: &'b [u8], is_last: bool },
    /// A length of 0: the camera ends in good order, and what follows means nothing.
    End,
}

/// Takes lengths and pictures apart, wherever the bytes are cut.
#[derive(Debug)]
pub struct PictureReader {
    picture_bytes_max: u32,
    /// The beginning of a length.
    length: [u8; LENGTH_BYTES],
    length_bytes: usize,
    /// Bytes that the picture still lacks.
    left: u32,
    is_over: bool,
}

impl PictureReader {
    pub fn new(picture_bytes_max: u32) -> PictureReader {
        let length = [0; LENGTH_BYTES];
        PictureReader { picture_bytes_max, length, length_bytes: 0, left: 0, is_over: false }
    }

    /// Look at the next bytes. Events in front of an error are good.
    pub fn push<'b>(
        &mut self,
        mut input: &'b [u8],
        take: &mut impl FnMut(PictureEvent<'b>),
    ) -> Result<(), CameraError> {
        while !input.is_empty() && !self.is_over {
            if self.left == 0 {
                input = self.read_length(input)?;
                if self.is_over {
                    take(PictureEvent::End);
                }
                continue;
            }
            let (bytes, rest) = input.split_at(input.len().min(self.left as usize));
            // At most what is left, which has 32 bits.
            self.left -= bytes.len() as u32;
            take(PictureEvent::Bytes { bytes, is_last: self.left == 0 });
            input = rest;
        }
        Ok(())
    }

    /// Nothing of a picture, or of a length, has come without the rest of it.
    pub fn is_at_boundary(&self) -> bool {
        self.left == 0 && self.length_bytes == 0
    }

    fn read_length<'b>(&mut self, input: &'b [u8]) -> Result<&'b [u8], CameraError> {
        let (bytes, rest) = input.split_at(input.len().min(LENGTH_BYTES - self.length_bytes));
        self.length[self.length_bytes..][..bytes.len()].copy_from_slice(bytes);
        self.length_bytes += bytes.len();
        if self.length_bytes < LENGTH_BYTES {
            return Ok(rest);
        }
        self.length_bytes = 0;
        let length = i32::from_le_bytes(self.length);
        let bytes = u32::try_from(length).map_err(|_| CameraError::NegativeLength(length))?;
        if bytes > self.picture_bytes_max {
            return Err(CameraError::TooLong { bytes, max: self.picture_bytes_max });
        }
        self.left = bytes;
        self.is_over = bytes == 0;
        Ok(rest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::test_pieces::pieces;

    fn greeting(numbers: [i32; 3]) -> Result<Greeting, CameraError> {
        Greeting::parse(&numbers.map(i32::to_le_bytes).concat().try_into().unwrap())
    }

    fn framed(pictures: &[Vec<u8>]) -> Vec<u8> {
        let length = |picture: &Vec<u8>| (picture.len() as i32).to_le_bytes();
        let each = |picture: &Vec<u8>| [&length(picture)[..], picture].concat();
        pictures.iter().flat_map(each).collect()
    }

    /// Pictures, and whether the end was said.
    fn read(reader: &mut PictureReader, input: &[u8]) -> Result<(Vec<Vec<u8>>, bool), CameraError> {
        let (mut pictures, mut picture, mut is_over) = (Vec::new(), Vec::new(), false);
        reader.push(input, &mut |event| match event {
            PictureEvent::Bytes { bytes, is_last } => {
                picture.extend_from_slice(bytes);
                if is_last {
                    pictures.push(std::mem::take(&mut picture));
                }
            }
            PictureEvent::End => is_over = true,
        })?;
        Ok((pictures, is_over))
    }

    /// Goal: the greeting of PiCameleon, `[id, type, quality]` packed as `<III`, and of others.
    #[test]
    fn greetings_say_what_is_sent() {
        let camera = greeting([3, 0, 1]).unwrap();
        let expected = Greeting { id: 3, kind: PictureKind::Mjpeg, quality: Quality::High };
        assert_eq!((camera, camera.stream_name().as_str()), (expected, "stream3"));
        let negative = greeting([-1, 1, 0]).unwrap();
        assert_eq!((negative.kind, negative.quality), (PictureKind::H264, Quality::Low));
        assert_eq!(negative.stream_name(), "stream-1");
        assert_eq!(greeting([0, 2, 0]), Err(CameraError::Kind(2)));
        assert_eq!(greeting([0, 0, -1]), Err(CameraError::Quality(-1)));
        assert!(Quality::Low < Quality::High);
    }

    #[test]
    fn a_length_of_nothing_is_the_end() {
        let mut reader = PictureReader::new(100);
        let input = [framed(&[b"one".to_vec(), b"two!".to_vec(), Vec::new()]), b"more".to_vec()];
        let (pictures, is_over) = read(&mut reader, &input.concat()).unwrap();
        assert_eq!((pictures, is_over), (vec![b"one".to_vec(), b"two!".to_vec()], true));
        assert_eq!(read(&mut reader, b"\xff\xff\xff\xff"), Ok((Vec::new(), false)));
    }

    #[test]
    fn absurd_lengths_are_errors() {
        let length = |length: i32| read(&mut PictureReader::new(100), &length.to_le_bytes());
        assert_eq!(length(100), Ok((Vec::new(), false)));
        assert_eq!(length(101), Err(CameraError::TooLong { bytes: 101, max: 100 }));
        assert_eq!(length(-1), Err(CameraError::NegativeLength(-1)));
        assert_eq!(length(i32::MIN), Err(CameraError::NegativeLength(i32::MIN)));
    }

    proptest! {
        #[test]
        fn pictures_survive_any_cut(
            pictures in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..8),
            cuts in prop::collection::vec(1usize..20, 1..100),
        ) {
            let input = framed(&pictures);
            let mut reader = PictureReader::new(50);
            let (mut got, mut picture) = (Vec::new(), Vec::new());
            for piece in pieces(&input, &cuts) {
                reader.push(piece, &mut |event| if let PictureEvent::Bytes { bytes, is_last } = event {
                    picture.extend_from_slice(bytes);
                    if is_last {
                        got.push(std::mem::take(&mut picture));
                    }
                }).unwrap();
            }
            prop_assert_eq!(got, pictures);
            prop_assert!(reader.is_at_boundary());
        }
    }
}
