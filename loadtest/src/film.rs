//! Hand-made fragmented MP4: an init segment and parts of one or more chunks, with a key picture at the
//! start of every segment. Enough of it for a packager to find boundaries and times; no decoder would see a
//! picture. No I/O.

const PICTURES_PER_PART: u32 = 5;
const TIMESCALE: u32 = 1000;
/// `sample_depends_on` 2, no non-sync flag; and the opposite.
const KEY: u32 = 0x0200_0000;
const NO_KEY: u32 = 0x0101_0000;

/// A track of pictures, part after part.
pub(crate) struct Film {
    part_ms: u32,
    part_bytes: usize,
    chunks_per_part: u32,
    parts_per_segment: u64,
    next: u64,
}

impl Film {
    /// A part of several chunks has one for each picture.
    pub(crate) fn new(
        part_ms: u32,
        part_bytes: usize,
        is_in_pictures: bool,
        parts_per_segment: u64,
    ) -> Film {
        let chunks_per_part = if is_in_pictures { PICTURES_PER_PART } else { 1 };
        Film { part_ms, part_bytes, chunks_per_part, parts_per_segment, next: 0 }
    }

    /// How many parts were made.
    pub(crate) fn parts(&self) -> u64 {
        self.next
    }

    /// The chunks of the next part: a moof and an mdat each, `part_bytes` in all.
    pub(crate) fn next_part(&mut self) -> Vec<Vec<u8>> {
        let number = self.next;
        self.next += 1;
        let count = self.chunks_per_part;
        let chunk_bytes = self.part_bytes / count as usize;
        let chunk = |index| {
            let head_bytes = self.chunk(number, index, &[]).len();
            let data_bytes = chunk_bytes.saturating_sub(head_bytes).max(64) as u64;
            // Of this part alone, so that a part in another's place is seen.
            let data: Vec<u8> =
                (0..data_bytes).map(|at| (number * 31 + (at >> 6) * 7 + at) as u8).collect();
            self.chunk(number, index, &data)
        };
        (0..count).map(chunk).collect()
    }

    fn chunk(&self, part: u64, index: u32, data: &[u8]) -> Vec<u8> {
        let picture_ms = self.part_ms / PICTURES_PER_PART;
        let pictures = PICTURES_PER_PART / self.chunks_per_part;
        let first = part * u64::from(PICTURES_PER_PART) + u64::from(index * pictures);
        let time = first * u64::from(picture_ms);
        let is_key = index == 0 && part.is_multiple_of(self.parts_per_segment);
        let each = data.len() as u32 / pictures;
        let moof = |data_at: u32| {
            let mut run = vec![pictures, data_at];
            for picture in 0..pictures {
                let rest = data.len() as u32 - each * (pictures - 1);
                let bytes = if picture + 1 == pictures { rest } else { each };
                let flags = if is_key && picture == 0 { KEY } else { NO_KEY };
                run.extend([picture_ms, bytes, flags]);
            }
            let traf = [
                full("tfhd", 0x0002_0000, &[1]),
                full("tfdt", 0x0100_0000, &[(time >> 32) as u32, time as u32]),
                full("trun", 0x0701, &run),
            ];
            let head = full("mfhd", 0, &[first as u32 + 1]);
            boxed("moof", &[head, boxed("traf", &traf.concat())].concat())
        };
        let data_at = moof(0).len() as u32 + 8;
        [moof(data_at), boxed("mdat", data)].concat()
    }

    pub(crate) fn init() -> Vec<u8> {
        let matrix = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];
        let mvhd = [&[0, 0, 1000, 0, 0x10000, 0x0100_0000, 0, 0][..], &matrix, &[0; 6], &[2]];
        let tkhd = [&[0, 0, 1, 0, 0, 0, 0, 0, 0][..], &matrix, &[1280 << 16, 720 << 16]];
        let mdhd = full("mdhd", 0, &[0, 0, TIMESCALE, 0, 0x55c4_0000]);
        let hdlr = boxed("hdlr", &[&[0; 8][..], b"vide", &[0; 13]].concat());
        let dref = boxed("dref", &[&[0, 0, 0, 0, 0, 0, 0, 1][..], &full("url ", 1, &[])].concat());
        let stsd = boxed("stsd", &[&[0, 0, 0, 0, 0, 0, 0, 1][..], &sample_entry()].concat());
        let tables = [
            stsd,
            full("stts", 0, &[0]),
            full("stsc", 0, &[0]),
            full("stsz", 0, &[0, 0]),
            full("stco", 0, &[0]),
        ];
        let inner =
            [full("vmhd", 1, &[0, 0]), boxed("dinf", &dref), boxed("stbl", &tables.concat())];
        let mdia = boxed("mdia", &[mdhd, hdlr, boxed("minf", &inner.concat())].concat());
        let trak = boxed("trak", &[full("tkhd", 3, &tkhd.concat()), mdia].concat());
        let mvex = boxed("mvex", &full("trex", 0, &[1, 1, 40, 0, NO_KEY]));
        let moov = boxed("moov", &[full("mvhd", 0, &mvhd.concat()), trak, mvex].concat());
        [boxed("ftyp", b"iso6\0\0\0\0iso6cmfcmp41"), moov].concat()
    }
}

fn sample_entry() -> Vec<u8> {
    let sps = [0x67, 0x42, 0xc0, 0x1f, 0xd9, 0x00, 0xa0, 0x47, 0xfe, 0xc8];
    let pps = [0x68, 0xce, 0x3c, 0x80];
    let head = [1, 0x42, 0xc0, 0x1f, 0xff, 0xe1, 0, sps.len() as u8];
    let avcc = [&head[..], &sps, &[1, 0, pps.len() as u8], &pps].concat();
    let start = [&[0; 6][..], &[0, 1], &[0; 16], &[5, 0, 2, 0xd0]].concat();
    let middle = [&[0, 0x48, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 32]].concat();
    let end = [0, 0x18, 0xff, 0xff];
    boxed("avc1", &[start, middle, end.to_vec(), boxed("avcC", &avcc)].concat())
}

fn boxed(kind: &str, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 8).to_be_bytes()[..], kind.as_bytes(), body].concat()
}

/// A full box: version and flags, then numbers of four bytes.
fn full(kind: &str, version_and_flags: u32, numbers: &[u32]) -> Vec<u8> {
    let words = std::iter::once(&version_and_flags).chain(numbers);
    boxed(kind, &words.flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_have_their_size_and_differ() {
        for (in_pictures, chunks) in [(false, 1), (true, 5)] {
            let mut film = Film::new(200, 5000, in_pictures, 10);
            let (first, second) = (film.next_part(), film.next_part());
            assert_eq!((first.len(), second.len()), (chunks, chunks));
            assert_eq!((first.concat().len(), second.concat().len()), (5000, 5000));
            assert_ne!(first, second);
            assert_eq!(film.parts(), 2);
        }
        assert_eq!(&Film::init()[4..8], b"ftyp");
    }
}
