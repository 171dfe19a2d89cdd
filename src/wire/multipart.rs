//! Bodies of several parts: `multipart/byteranges` (RFC 9110 §14.6), what goes between its parts and how
//! long it all is; `multipart/x-mixed-replace`, of which each part replaces the one before.

/// The layout of an answer with several ranges.
pub struct Byteranges {
    boundary: String,
    content_type: Option<String>,
    complete_length: u64,
}

impl Byteranges {
    /// `unique` makes the boundary; it must not be guessable from the content.
    pub fn new(unique: u64, content_type: Option<&str>, complete_length: u64) -> Byteranges {
        let boundary = format!("headwater-{unique:016x}");
        Byteranges { boundary, content_type: content_type.map(str::to_owned), complete_length }
    }

    /// The value of the answer's Content-Type.
    pub fn content_type(&self) -> String {
        format!("multipart/byteranges; boundary={}", self.boundary)
    }

    /// What stands before the bytes `[start, end)`.
    pub fn part_head(&self, start: u64, end: u64) -> String {
        let mut head = format!("\r\n--{}\r\n", self.boundary);
        if let Some(content_type) = &self.content_type {
            head += &format!("Content-Type: {content_type}\r\n");
        }
        head + &format!("Content-Range: bytes {start}-{}/{}\r\n\r\n", end - 1, self.complete_length)
    }

    pub fn close(&self) -> String {
        format!("\r\n--{}--\r\n", self.boundary)
    }

    /// Content-Length of the whole answer.
    pub fn length(&self, parts: &[(u64, u64)]) -> u64 {
        let part =
            |(start, end): &(u64, u64)| self.part_head(*start, *end).len() as u64 + end - start;
        parts.iter().map(part).sum::<u64>() + self.close().len() as u64
    }
}

/// Pictures that replace each other, without an end.
///
/// The delimiter goes out behind each picture at once: viewers show a picture when they see that it is
/// over. Chromium waits for the head of the next part too, which cannot be told before its length: what
/// it shows in an image is one picture behind.
pub struct MixedReplace;

impl MixedReplace {
    pub const CONTENT_TYPE: &str = "multipart/x-mixed-replace; boundary=headwater-picture";
    /// In front of the first part.
    pub const BEGIN: &[u8] = b"--headwater-picture\r\n";
    /// Behind each part.
    pub const NEXT: &[u8] = b"\r\n--headwater-picture\r\n";
    /// The same, and what stands behind it if it is the end of an HTTP chunk.
    pub const NEXT_CHUNKED: &[u8] = b"\r\n--headwater-picture\r\n\r\n";

    /// What stands in front of a picture's bytes.
    pub fn part_head(content_type: &str, length: u64) -> String {
        format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_what_is_written() {
        let ranges = Byteranges::new(7, Some("video/mp4"), 100);
        let parts = [(0, 1), (50, 100)];
        let written: u64 =
            parts.iter().map(|(s, e)| ranges.part_head(*s, *e).len() as u64 + e - s).sum();
        assert_eq!(ranges.length(&parts), written + ranges.close().len() as u64);
        assert!(ranges.part_head(50, 100).contains("Content-Range: bytes 50-99/100\r\n"));
    }

    #[test]
    fn each_picture_ends_with_the_next_delimiter() {
        let picture = |name: &str| MixedReplace::part_head("image/jpeg", name.len() as u64) + name;
        let mut body = MixedReplace::BEGIN.to_vec();
        for name in ["one", "two!"] {
            body.extend(picture(name).as_bytes());
            body.extend(MixedReplace::NEXT);
        }
        let boundary = MixedReplace::CONTENT_TYPE.split_once("boundary=").unwrap().1;
        let text = String::from_utf8(body).unwrap();
        let delimiter = format!("--{boundary}\r\n");
        let parts: Vec<&str> = text.split(&delimiter).collect();
        assert_eq!((parts.len(), parts[0], parts[3]), (4, "", ""));
        assert_eq!(parts[2], "Content-Type: image/jpeg\r\nContent-Length: 4\r\n\r\ntwo!\r\n");
    }
}
