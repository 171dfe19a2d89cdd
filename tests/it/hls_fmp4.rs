//! Fragmented MP4 for the HLS tests, in both directions and independent of `src/wire`.
//!
//! `Init` and `Media` read what a player would of an initialization segment, a part or a segment,
//! and refuse what RFC 8216bis 3.1.2 refuses (P16). `Film` makes deterministic tracks to be pushed
//! fragment by fragment: pictures that look like H.264, sound that looks like AAC.

use crate::client::noise;
use crate::hls_playlist::{Verdict, demand};

/// A box: four letters and what is in it, with its place in the bytes it was found in.
pub(crate) struct Box<'b> {
    pub(crate) kind: String,
    pub(crate) body: &'b [u8],
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The boxes that these bytes are; nothing may be left over.
pub(crate) fn boxes(bytes: &[u8]) -> Verdict<Vec<Box<'_>>> {
    let (mut start, mut found) = (0, Vec::new());
    while start < bytes.len() {
        let rest = &bytes[start..];
        demand!(rest.len() >= 8, "P16", "{} bytes are no box", rest.len());
        let (size, kind) = (number(rest, 0, 4)? as usize, String::from_utf8_lossy(&rest[4..8]));
        let (size, head) = if size == 1 { (number(rest, 8, 8)? as usize, 16) } else { (size, 8) };
        let whole = (head..=rest.len()).contains(&size);
        demand!(whole, "P16", "{kind} of {size} bytes in {} bytes at {start}", rest.len());
        let end = start + size;
        found.push(Box { kind: kind.into_owned(), body: &rest[head..size], start, end });
        start = end;
    }
    Ok(found)
}

/// A big-endian number.
fn number(bytes: &[u8], at: usize, length: usize) -> Verdict<u64> {
    let Some(digits) = bytes.get(at..at + length) else {
        return Err(format!("P16: {} bytes, {length} needed at {at}", bytes.len()));
    };
    Ok(digits.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)))
}

/// The boxes of one kind.
fn children<'b>(bytes: &'b [u8], kind: &str) -> Verdict<Vec<&'b [u8]>> {
    let all = boxes(bytes)?;
    Ok(all.into_iter().filter(|child| child.kind == kind).map(|child| child.body).collect())
}

/// The one box that a path leads to.
fn only<'b>(mut bytes: &'b [u8], path: &[&str]) -> Verdict<&'b [u8]> {
    for kind in path {
        let found = children(bytes, kind)?;
        demand!(found.len() == 1, "P16", "{} boxes {kind}", found.len());
        bytes = found[0];
    }
    Ok(bytes)
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Track {
    pub(crate) id: u64,
    pub(crate) timescale: u64,
    pub(crate) handler: String,
    /// Of the first sample entry: `avc1`.
    pub(crate) format: String,
    /// Width and height in whole pixels.
    pub(crate) size: (u64, u64),
    default_duration: u64,
    default_size: u64,
    default_flags: u64,
}

/// An initialization segment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Init {
    pub(crate) tracks: Vec<Track>,
}

impl Init {
    pub(crate) fn read(bytes: &[u8]) -> Verdict<Init> {
        let all = boxes(bytes)?;
        let first = all.first().map_or("nothing", |first| &first.kind);
        demand!(first == "ftyp", "P16", "{first} stands first");
        let odd = all.iter().find(|one| !["ftyp", "moov", "free", "sidx"].contains(&&*one.kind));
        demand!(odd.is_none(), "P16", "{} in an initialization segment", odd.unwrap().kind);
        let brands: Vec<_> = only(bytes, &["ftyp"])?.chunks(4).collect();
        let modern = |brand: &&&[u8]| {
            let iso = brand.starts_with(b"iso") && brand.get(3).is_some_and(|last| *last >= b'6');
            iso || brand.starts_with(b"cmf")
        };
        demand!(brands.iter().any(|brand| modern(&brand)), "P16", "no brand of iso6 or later");
        let moov = only(bytes, &["moov"])?;
        let mut defaults = Vec::new();
        for trex in children(only(moov, &["mvex"])?, "trex")? {
            let at = |at| number(trex, at, 4);
            defaults.push((at(4)?, at(12)?, at(16)?, at(20)?));
        }
        let mut tracks = Vec::new();
        for trak in children(moov, "trak")? {
            tracks.push(Track::read(trak, &defaults)?);
        }
        demand!(!tracks.is_empty(), "P16", "no track");
        Ok(Init { tracks })
    }

    fn track(&self, id: u64) -> Verdict<&Track> {
        let found = self.tracks.iter().find(|track| track.id == id);
        found.ok_or_else(|| format!("P16: track {id} is not in the initialization segment"))
    }

    /// The track whose time counts: P18.
    pub(crate) fn lead(&self) -> &Track {
        let video = self.tracks.iter().find(|track| track.handler == "vide");
        video.unwrap_or(&self.tracks[0])
    }
}

impl Track {
    fn read(trak: &[u8], defaults: &[(u64, u64, u64, u64)]) -> Verdict<Track> {
        let tkhd = only(trak, &["tkhd"])?;
        let id = number(tkhd, if tkhd.first() == Some(&1) { 20 } else { 12 }, 4)?;
        let mdhd = only(trak, &["mdia", "mdhd"])?;
        let long = mdhd.first() == Some(&1);
        let timescale = number(mdhd, if long { 20 } else { 12 }, 4)?;
        let length = if long { number(mdhd, 24, 8)? } else { number(mdhd, 16, 4)? };
        demand!(timescale > 0, "P16", "track {id} has timescale 0");
        demand!(length == 0, "P16", "track {id} has duration {length} in its header");
        let hdlr = only(trak, &["mdia", "hdlr"])?;
        let handler = String::from_utf8_lossy(hdlr.get(8..12).unwrap_or(b"")).into_owned();
        let entries = only(trak, &["mdia", "minf", "stbl", "stsd"])?;
        let format = String::from_utf8_lossy(entries.get(12..16).unwrap_or(b"")).into_owned();
        let sides = tkhd.len().saturating_sub(8);
        let size = (number(tkhd, sides, 2)?, number(tkhd, sides + 4, 2)?);
        let table = only(trak, &["mdia", "minf", "stbl", "stts"])?;
        demand!(number(table, 4, 4)? == 0, "P16", "track {id} has samples in its header");
        let trex = defaults.iter().find(|(track, ..)| *track == id);
        let Some(&(_, default_duration, default_size, default_flags)) = trex else {
            return Err(format!("P16: no trex for track {id}"));
        };
        Ok(Track {
            id,
            timescale,
            handler,
            format,
            size,
            default_duration,
            default_size,
            default_flags,
        })
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sample {
    pub(crate) duration: u64,
    size: u64,
    pub(crate) is_sync: bool,
}

/// One traf.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Run {
    pub(crate) track: u64,
    pub(crate) decode_time: u64,
    pub(crate) samples: Vec<Sample>,
}

impl Run {
    pub(crate) fn end(&self) -> u64 {
        self.decode_time + self.samples.iter().map(|sample| sample.duration).sum::<u64>()
    }
}

/// What is in a part or a segment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Media {
    /// Of all tracks, in their order in the file.
    pub(crate) runs: Vec<Run>,
}

impl Media {
    pub(crate) fn read(bytes: &[u8], init: &Init) -> Verdict<Media> {
        let (all, mut runs) = (boxes(bytes)?, Vec::new());
        let known = ["styp", "sidx", "prft", "emsg", "moof", "mdat", "free", "mfra"];
        for (at, one) in all.iter().enumerate() {
            demand!(known.contains(&&*one.kind), "P9", "{} in a part or segment", one.kind);
            if one.kind != "moof" {
                continue;
            }
            let next = all.get(at + 1).filter(|next| next.kind == "mdat");
            let Some(data) = next else {
                return Err(format!("P9: the moof at {} has no mdat", one.start));
            };
            let room = (data.end - data.body.len() - one.start, data.end - one.start);
            for traf in children(one.body, "traf")? {
                runs.push(Run::read(traf, init, room)?);
            }
        }
        demand!(!runs.is_empty(), "P9", "no media in {} bytes", bytes.len());
        Ok(Media { runs })
    }

    fn of(&self, track: u64) -> impl DoubleEndedIterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.track == track)
    }

    /// Where the leading track begins and ends, in its timescale; times follow without a hole.
    pub(crate) fn span(&self, init: &Init) -> Verdict<Option<(u64, u64)>> {
        let (lead, mut span) = (init.lead(), None);
        for run in self.of(lead.id) {
            if let Some((_, end)) = span {
                let at = run.decode_time;
                let slack = lead.timescale / 500;
                let joined = at.abs_diff(end) <= slack;
                demand!(joined, "P9", "decode time {at} after {end} in track {}", lead.id);
            }
            span = Some((span.map_or(run.decode_time, |(start, _)| start), run.end()));
        }
        Ok(span)
    }

    /// In seconds, as EXTINF and EXT-X-PART count it.
    pub(crate) fn length(&self, init: &Init) -> Verdict<f64> {
        let (start, end) = self.span(init)?.unwrap_or((0, 0));
        Ok((end - start) as f64 / init.lead().timescale as f64)
    }

    /// Of the leading track.
    pub(crate) fn samples(&self, init: &Init) -> usize {
        self.of(init.lead().id).map(|run| run.samples.len()).sum()
    }

    /// An independent frame is in it.
    pub(crate) fn has_sync(&self, init: &Init) -> bool {
        self.of(init.lead().id).flat_map(|run| &run.samples).any(|sample| sample.is_sync)
    }

    pub(crate) fn begins_with_sync(&self, init: &Init) -> bool {
        let first = self.of(init.lead().id).find_map(|run| run.samples.first());
        first.is_some_and(|sample| sample.is_sync)
    }
}

impl Run {
    /// `room` is where the sample bytes may be, counted from the moof.
    fn read(traf: &[u8], init: &Init, room: (usize, usize)) -> Verdict<Run> {
        let tfhd = only(traf, &["tfhd"])?;
        let (flags, id) = (number(tfhd, 1, 3)?, number(tfhd, 4, 4)?);
        let track = init.track(id)?;
        demand!(flags & 1 == 0, "P16", "track {id} has an absolute data offset");
        let mut at = 8 + if flags & 2 == 0 { 0 } else { 4 };
        let mut default = [track.default_duration, track.default_size, track.default_flags];
        for (bit, value) in default.iter_mut().enumerate() {
            if flags & (8 << bit) != 0 {
                *value = number(tfhd, at, 4)?;
                at += 4;
            }
        }
        let tfdt = only(traf, &["tfdt"])?;
        let long = tfdt.first() == Some(&1);
        let decode_time = number(tfdt, 4, if long { 8 } else { 4 })?;
        let mut samples = Vec::new();
        for trun in children(traf, "trun")? {
            read_trun(trun, default, room, &mut samples)?;
        }
        demand!(!samples.is_empty(), "P9", "a fragment of track {id} without samples");
        Ok(Run { track: id, decode_time, samples })
    }
}

fn read_trun(
    trun: &[u8],
    default: [u64; 3],
    room: (usize, usize),
    samples: &mut Vec<Sample>,
) -> Verdict<()> {
    let (flags, count) = (number(trun, 1, 3)?, number(trun, 4, 4)?);
    let (mut at, mut first_flags, mut offset) = (8, None, None);
    if flags & 0x1 != 0 {
        offset = Some(number(trun, at, 4)? as usize);
        at += 4;
    }
    if flags & 0x4 != 0 {
        first_flags = Some(number(trun, at, 4)?);
        at += 4;
    }
    let mut bytes = 0;
    for index in 0..count {
        let mut values = default;
        for (bit, value) in values.iter_mut().enumerate() {
            if flags & (0x100 << bit) != 0 {
                *value = number(trun, at, 4)?;
                at += 4;
            }
        }
        at += if flags & 0x800 == 0 { 0 } else { 4 };
        let [duration, size, mut sample_flags] = values;
        if index == 0 {
            sample_flags = first_flags.unwrap_or(sample_flags);
        }
        bytes += size as usize;
        samples.push(Sample { duration, size, is_sync: sample_flags & 0x0001_0000 == 0 });
    }
    if let Some(offset) = offset {
        let inside = offset >= room.0 && offset + bytes <= room.1;
        demand!(inside, "P16", "{bytes} bytes at {offset} are not in the mdat {room:?}");
    }
    Ok(())
}

// Making.

pub(crate) fn make(kind: &str, body: &[u8]) -> Vec<u8> {
    let mut made = (body.len() as u32 + 8).to_be_bytes().to_vec();
    made.extend_from_slice(kind.as_bytes());
    made.extend_from_slice(body);
    made
}

/// A full box: version, flags, and numbers of four bytes.
pub(crate) fn full(kind: &str, version_and_flags: u32, numbers: &[u32]) -> Vec<u8> {
    let all = std::iter::once(&version_and_flags).chain(numbers);
    make(kind, &all.flat_map(|number| number.to_be_bytes()).collect::<Vec<u8>>())
}

pub(crate) fn container(kind: &str, parts: &[Vec<u8>]) -> Vec<u8> {
    make(kind, &parts.concat())
}

/// A track that is made as it is pushed; its state is where the next fragment begins.
#[derive(Clone)]
pub(crate) struct Film {
    track: u32,
    is_audio: bool,
    timescale: u32,
    frame: u32,
    frame_bytes: usize,
    /// Part of the decoder configuration: another one is another initialization segment.
    pub(crate) variant: u8,
    pub(crate) decode_time: u64,
    /// Composition less decode time of the pictures in turn, in pictures; none if it is empty.
    pub(crate) reordering: &'static [i32],
    sequence: u32,
    seed: u64,
}

impl Film {
    /// Pictures: 25 a second.
    pub(crate) fn video(seed: u64) -> Film {
        let (timescale, frame) = (90_000, 3_600);
        let (track, frame_bytes, variant) = (1, 300, 30);
        let (is_audio, decode_time, sequence) = (false, 0, 0);
        Film {
            track,
            is_audio,
            timescale,
            frame,
            frame_bytes,
            variant,
            decode_time,
            reordering: &[],
            sequence,
            seed,
        }
    }

    /// Sound: frames of 1024 samples at 48 kHz.
    pub(crate) fn audio(seed: u64) -> Film {
        let (timescale, frame, frame_bytes) = (48_000, 1_024, 100);
        Film { is_audio: true, timescale, frame, frame_bytes, ..Film::video(seed) }
    }

    pub(crate) fn with_track(self, track: u32) -> Film {
        Film { track, ..self }
    }

    pub(crate) fn seconds(&self) -> f64 {
        self.decode_time as f64 / f64::from(self.timescale)
    }

    pub(crate) fn init(&self) -> Vec<u8> {
        init_of(&[self])
    }

    /// Leaves frames out.
    pub(crate) fn leap(&mut self, frames: u32) {
        self.decode_time += u64::from(frames * self.frame);
    }

    /// The next frames as one moof and mdat; the first is a key frame if told so.
    pub(crate) fn fragment(&mut self, frames: u32, begins_with_key: bool) -> Vec<u8> {
        self.sequence += 1;
        let mut data = Vec::new();
        let mut table = vec![frames, 0];
        for index in 0..frames {
            let is_sync = self.is_audio || (index == 0 && begins_with_key);
            let frame = self.next_frame(is_sync);
            let flags = if is_sync { 0x0200_0000 } else { 0x0101_0000 };
            table.extend([self.frame, frame.len() as u32, flags]);
            let offset = self.reordering.get(index as usize % self.reordering.len().max(1));
            table.extend(offset.map(|pictures| (pictures * self.frame as i32) as u32));
            data.extend(frame);
        }
        // Version 1: the offsets have signs.
        let trun = if self.reordering.is_empty() { 0x0701 } else { 0x0100_0f01 };
        let traf = |table: &[u32]| {
            let time = [(self.decode_time >> 32) as u32, self.decode_time as u32];
            container(
                "traf",
                &[
                    full("tfhd", 0x0002_0000, &[self.track]),
                    full("tfdt", 0x0100_0000, &time),
                    full("trun", trun, table),
                ],
            )
        };
        let moof =
            |table: &[u32]| container("moof", &[full("mfhd", 0, &[self.sequence]), traf(table)]);
        table[1] = moof(&table).len() as u32 + 8;
        let made = [moof(&table), make("mdat", &data)].concat();
        self.leap(frames);
        made
    }

    fn next_frame(&mut self, is_sync: bool) -> Vec<u8> {
        self.seed += 1;
        let mut frame = noise(self.seed, self.frame_bytes + (self.seed % 7) as usize);
        if !self.is_audio {
            let length = frame.len() as u32 - 4;
            frame[..4].copy_from_slice(&length.to_be_bytes());
            frame[4] = if is_sync { 0x65 } else { 0x41 };
        }
        frame
    }

    fn sample_entry(&self) -> Vec<u8> {
        if self.is_audio {
            let esds = [
                &[0, 0, 0, 0, 3, 25, 0, 1, 0, 4, 17, 0x40, 0x15, 0, 0, 0][..],
                &[0, 1, 0xf4, 0, 0, 1, 0xf4, 0, 5, 2, 0x11, 0x90, 6, 1, 2],
            ];
            let head = [&[0; 6][..], &[0, 1], &[0; 8], &[0, 2, 0, 16, 0, 0, 0, 0]].concat();
            let rate = [0xbb, 0x80, 0, 0];
            return make("mp4a", &[head, rate.to_vec(), make("esds", &esds.concat())].concat());
        }
        let sps = [0x67, 0x42, 0xc0, self.variant, 0xd9, 0x00, 0xa0, 0x47, 0xfe, 0xc8];
        let pps = [0x68, 0xce, 0x3c, 0x80];
        let head = [1, 0x42, 0xc0, self.variant, 0xff, 0xe1, 0, sps.len() as u8];
        let avcc = [&head[..], &sps, &[1, 0, pps.len() as u8], &pps].concat();
        let size = [0, 160, 0, 90];
        let middle = [&[0, 0x48, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0, 1][..], &[0; 32]].concat();
        let start = [&[0; 6][..], &[0, 1], &[0; 16], &size].concat();
        let end = [0, 0x18, 0xff, 0xff];
        make("avc1", &[start, middle, end.to_vec(), make("avcC", &avcc)].concat())
    }

    fn trak(&self) -> Vec<u8> {
        let matrix = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];
        let mut tkhd = vec![0, 0, self.track, 0, 0, 0, 0, 0, 0];
        tkhd.extend(matrix);
        tkhd.extend(if self.is_audio { [0, 0] } else { [160 << 16, 90 << 16] });
        let handler = if self.is_audio { *b"soun" } else { *b"vide" };
        let hdlr = [&[0; 8][..], &handler, &[0; 13]].concat();
        let header = if self.is_audio { full("smhd", 0, &[0]) } else { full("vmhd", 1, &[0, 0]) };
        let dref = [&[0, 0, 0, 0, 0, 0, 0, 1][..], &full("url ", 1, &[])].concat();
        let stsd = [&[0, 0, 0, 0, 0, 0, 0, 1][..], &self.sample_entry()].concat();
        let stbl = [
            make("stsd", &stsd),
            full("stts", 0, &[0]),
            full("stsc", 0, &[0]),
            full("stsz", 0, &[0, 0]),
            full("stco", 0, &[0]),
        ];
        let dinf = container("dinf", &[make("dref", &dref)]);
        let minf = container("minf", &[header, dinf, container("stbl", &stbl)]);
        let language = 0x55c4_0000;
        let mdhd = full("mdhd", 0, &[0, 0, self.timescale, 0, language]);
        let mdia = container("mdia", &[mdhd, make("hdlr", &hdlr), minf]);
        container("trak", &[full("tkhd", 3, &tkhd), mdia])
    }
}

/// The initialization segment of several tracks.
pub(crate) fn init_of(films: &[&Film]) -> Vec<u8> {
    let matrix = [0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x4000_0000];
    let mut mvhd = vec![0, 0, 1000, 0, 0x10000, 0x0100_0000, 0, 0];
    mvhd.extend(matrix);
    mvhd.extend([0; 6]);
    mvhd.push(films.len() as u32 + 1);
    let trex = |film: &&Film| full("trex", 0, &[film.track, 1, film.frame, 0, 0x0101_0000]);
    let mut moov = vec![full("mvhd", 0, &mvhd)];
    moov.extend(films.iter().map(|film| film.trak()));
    moov.push(container("mvex", &films.iter().map(trex).collect::<Vec<_>>()));
    [make("ftyp", b"iso6\0\0\0\0iso6cmfcmp41"), container("moov", &moov)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::{needs, run};

    /// Goal: what `Film` makes is what `Media` reads, and wrong bytes are seen.
    #[test]
    fn made_media_are_read() {
        let (mut film, mut sound) = (Film::video(1), Film::audio(2).with_track(2));
        let init = Init::read(&init_of(&[&film, &sound])).unwrap();
        let kinds: Vec<_> = init.tracks.iter().map(|track| &*track.handler).collect();
        assert_eq!((kinds, init.lead().id), (vec!["vide", "soun"], 1));
        let bytes = [film.fragment(5, true), sound.fragment(9, true), film.fragment(5, false)];
        let media = Media::read(&bytes.concat(), &init).unwrap();
        assert_eq!((media.runs.len(), media.length(&init)), (3, Ok(0.4)));
        assert!(media.begins_with_sync(&init) && media.has_sync(&init));
        assert!(!Media::read(&bytes[2], &init).unwrap().has_sync(&init));
        let hole = [film.fragment(5, false), {
            film.leap(1);
            film.fragment(5, false)
        }]
        .concat();
        let hole = Media::read(&hole, &init).unwrap();
        assert!(hole.length(&init).unwrap_err().starts_with("P9: decode time"));
        let cut = &bytes[0][..bytes[0].len() - 1];
        assert!(Media::read(cut, &init).unwrap_err().starts_with("P16: mdat"));
        let alone = Init::read(&Film::video(1).init()).unwrap();
        assert!(Media::read(&bytes[1], &alone).unwrap_err().starts_with("P16: track 2"));
        let no_mvex = init_of(&[&film]);
        let at = no_mvex.windows(4).position(|letters| letters == b"mvex").unwrap();
        let spoilt = [&no_mvex[..at], b"free", &no_mvex[at + 4..]].concat();
        assert!(Init::read(&spoilt).unwrap_err().starts_with("P16: 0 boxes mvex"));
    }

    /// Goal: the header is right for a stricter reader than this one. Method: mp4-atom.
    #[test]
    fn made_headers_are_known_to_mp4_atom() {
        use mp4_atom::{Codec, ReadFrom};
        let (film, sound) = (Film::video(1), Film::audio(2).with_track(2));
        let bytes = init_of(&[&film, &sound]);
        let mut rest = &bytes[boxes(&bytes).unwrap()[0].end..];
        let moov = mp4_atom::Moov::read_from(&mut rest).unwrap();
        let codecs = moov.trak.iter().map(|trak| &trak.mdia.minf.stbl.stsd.codecs[0]);
        let codecs: Vec<_> = codecs.collect();
        let [Codec::Avc1(video), Codec::Mp4a(audio)] = codecs[..] else {
            panic!("{codecs:?}");
        };
        assert_eq!((video.avcc.avc_profile_indication, video.avcc.avc_level_indication), (66, 30));
        assert_eq!((video.visual.width, audio.audio.channel_count), (160, 2));
        assert_eq!(audio.esds.es_desc.dec_config.object_type_indication, 0x40);
        assert_eq!(audio.esds.es_desc.dec_config.dec_specific.as_ref().unwrap().profile, 2);
    }

    /// Goal: others take the made films for what they should be. Method: ffprobe.
    #[test]
    fn made_media_are_known_to_ffprobe() {
        needs("ffprobe");
        let folder = tempfile::tempdir().unwrap();
        let (mut film, mut sound) = (Film::video(1), Film::audio(2).with_track(2));
        let mut bytes = init_of(&[&film, &sound]);
        for _ in 0..5 {
            bytes.extend(film.fragment(25, true));
            bytes.extend(sound.fragment(47, true));
        }
        let file = folder.path().join("film.mp4");
        std::fs::write(&file, bytes).unwrap();
        let mut probe = std::process::Command::new("ffprobe");
        probe.args("-v quiet -show_entries packet=codec_type,flags -of csv=p=0".split(' '));
        let said = run(probe.arg(&file)).stdout;
        let count = |line: &str| said.lines().filter(|other| other.starts_with(line)).count();
        assert_eq!((count("video,K"), count("video"), count("audio,K")), (5, 125, 235), "{said}");
    }

    /// Goal: what ffmpeg makes is read: pictures and sound of three seconds, fragment by fragment.
    #[test]
    fn fragments_of_ffmpeg_are_read() {
        needs("ffmpeg");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("film.mp4");
        let line = "-v error -nostdin -f lavfi -i testsrc2=size=160x90:rate=25 \
                    -f lavfi -i sine=sample_rate=48000 -t 3 -c:v libx264 -preset ultrafast \
                    -tune zerolatency -g 25 -c:a aac -f mp4 -frag_duration 200000 \
                    -movflags cmaf+empty_moov+default_base_moof+separate_moof";
        let mut ffmpeg = std::process::Command::new("ffmpeg");
        let ended = run(ffmpeg.args(line.split_whitespace()).arg(&file));
        assert!(ended.status.success(), "{}", ended.stderr);
        let bytes = std::fs::read(&file).unwrap();
        let all = boxes(&bytes).unwrap();
        let start = all.iter().find(|one| one.kind == "moof").unwrap().start;
        let init = Init::read(&bytes[..start]).unwrap();
        let media = Media::read(&bytes[start..], &init).unwrap();
        assert_eq!(media.length(&init), Ok(3.0));
        let key = |run: &&Run| run.track == init.lead().id && run.samples[0].is_sync;
        assert_eq!(media.runs.iter().filter(key).count(), 3, "{:?}", media.runs);
    }
}
