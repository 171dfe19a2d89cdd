//! The pictures of a camera, as one viewer gets them: parts that replace each other. Finds what is torn;
//! pictures that never came are counted, for a viewer that is slow may miss some.

use std::sync::Arc;

use anyhow::Result;

use crate::follow::Tally;
use crate::multipart::{Event, Malformed, Parts};
use crate::outcome::Fault;
use crate::pattern::{HEADER_BYTES, Plan, Verifier, sequence_of};
use crate::viewer::Sight;

pub(crate) struct PictureSight {
    parts: Parts,
    picture: Picture,
}

/// The one that is coming.
struct Picture {
    plan: Arc<Plan>,
    verifier: Verifier,
    /// Of the picture that is coming, as far as it has come.
    header: Vec<u8>,
    /// What its part told.
    length: u64,
    /// Of the last whole one.
    newest: Option<u32>,
}

impl PictureSight {
    pub(crate) fn new(plan: &Arc<Plan>) -> PictureSight {
        PictureSight { parts: Parts::new(), picture: Picture::new(plan.clone()) }
    }
}

impl Sight for PictureSight {
    fn take(&mut self, mut body: &[u8], tally: &Tally) -> Result<(), Fault> {
        let picture = &mut self.picture;
        loop {
            match self.parts.next(&mut body) {
                Ok(Event::Part { length }) => picture.begin(length),
                Ok(Event::Bytes { bytes, is_last }) => {
                    picture.take(bytes, tally)?;
                    if is_last {
                        picture.end()?;
                    }
                }
                Ok(Event::NeedMore) => return Ok(()),
                Err(Malformed(why)) => return Err(Fault::Corrupt(why.to_owned())),
            }
        }
    }

    fn has_begun(&self) -> bool {
        self.picture.newest.is_some()
    }

    /// Properly, if that is between two pictures.
    fn end(&self) -> Result<(), Fault> {
        match self.parts.is_between() {
            true => Ok(()),
            false => Err(Fault::Corrupt("the body ends within a picture".to_owned())),
        }
    }

    fn place(&self) -> String {
        self.picture.place()
    }
}

impl Picture {
    fn new(plan: Arc<Plan>) -> Picture {
        let verifier = Verifier::new(plan.clone());
        let header = Vec::with_capacity(HEADER_BYTES);
        Picture { plan, verifier, header, length: 0, newest: None }
    }

    fn begin(&mut self, length: u64) {
        self.length = length;
        self.header.clear();
    }

    fn take(&mut self, mut bytes: &[u8], tally: &Tally) -> Result<(), Fault> {
        if self.header.len() < HEADER_BYTES {
            let (head, rest) = bytes.split_at(bytes.len().min(HEADER_BYTES - self.header.len()));
            self.header.extend_from_slice(head);
            bytes = rest;
            if self.header.len() < HEADER_BYTES {
                return Ok(());
            }
            self.turn_to_picture(tally)?;
            let header = std::mem::take(&mut self.header);
            self.verify(&header, tally)?;
            self.header = header;
        }
        self.verify(bytes, tally)
    }

    /// The verifier goes to the picture that this header is of.
    fn turn_to_picture(&mut self, tally: &Tally) -> Result<(), Fault> {
        let expected = self.newest.map_or(0, |newest| newest + 1);
        let sequence = sequence_of(&self.header).filter(|at| *at <= self.plan.appends());
        let sequence = sequence.filter(|at| self.length == self.plan.bytes_of(*at));
        let Some(sequence) = sequence else {
            return Err(self.corrupt("what begins there is no picture"));
        };
        if sequence < expected {
            return Err(self.corrupt(&format!("picture {sequence} comes there")));
        }
        if self.newest.is_some() {
            tally.skipped.set(tally.skipped.get() + u64::from(sequence - expected));
        }
        self.verifier.turn_to(sequence);
        self.newest = Some(sequence);
        Ok(())
    }

    fn verify(&mut self, bytes: &[u8], tally: &Tally) -> Result<(), Fault> {
        let Err(corrupt) = self.verifier.push(bytes, |stamp_ns| tally.delivered(stamp_ns)) else {
            return Ok(());
        };
        Err(Fault::Corrupt(corrupt.to_string()))
    }

    fn end(&self) -> Result<(), Fault> {
        match self.verifier.is_between_appends() && self.header.len() == HEADER_BYTES {
            true => Ok(()),
            false => Err(self.corrupt("it is not whole")),
        }
    }

    fn corrupt(&self, why: &str) -> Fault {
        Fault::Corrupt(format!("{why}, {}", self.place()))
    }

    fn place(&self) -> String {
        self.newest
            .map_or("before any picture".to_owned(), |newest| format!("after picture {newest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(plan: &Plan, sequence: u32) -> Vec<u8> {
        let mut picture = vec![0; plan.bytes_of(sequence) as usize];
        plan.fill(sequence, &mut picture);
        plan.stamp(sequence, 1, &mut picture);
        let mut part = format!("Content-Length: {}\r\n\r\n", picture.len()).into_bytes();
        part.extend(picture);
        part.extend(b"\r\n--x\r\n");
        part
    }

    /// What a viewer makes of these bytes: pictures, and how many are missing.
    fn watch(plan: &Arc<Plan>, body: &[u8], piece: usize) -> Result<(u64, u64), Fault> {
        let (tally, mut sight) = (Tally::new(), PictureSight::new(plan));
        for bytes in body.chunks(piece) {
            sight.take(bytes, &tally)?;
        }
        sight.end()?;
        Ok((tally.deliveries.get(), tally.skipped.get()))
    }

    fn body(plan: &Plan, pictures: &[u32]) -> Vec<u8> {
        let parts = pictures.iter().flat_map(|sequence| part(plan, *sequence));
        b"--x\r\n".iter().copied().chain(parts).collect()
    }

    #[test]
    fn pictures_are_counted_and_so_are_missing_ones() {
        let plan = Plan::new(50, 9);
        for piece in [1, 7, 100, 10_000] {
            assert_eq!(watch(&plan, &body(&plan, &[0, 1, 2, 3]), piece), Ok((3, 0)));
            assert_eq!(
                watch(&plan, &body(&plan, &[4, 5, 8]), piece),
                Ok((3, 2)),
                "from the middle"
            );
        }
    }

    #[test]
    fn torn_pictures_are_found() {
        let plan = Plan::new(50, 9);
        for order in [[1, 2, 2], [1, 3, 2]] {
            assert!(watch(&plan, &body(&plan, &order), 33).is_err(), "{order:?}");
        }
        let good = body(&plan, &[1, 2]);
        let picture_at = good.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
        for at in [0, 5, 9, 16, 49] {
            let mut bad = good.clone();
            bad[picture_at + at] ^= 1;
            assert!(watch(&plan, &bad, 33).is_err(), "byte {at}");
        }
        // The beginning of one and the end of another.
        let mut torn = good.clone();
        let second_at = good.len() - 50 - 7;
        torn.copy_within(second_at + 20..second_at + 50, picture_at + 20);
        assert!(watch(&plan, &torn, 33).is_err());
        let text = b"--x\r\nContent-Length: 3\r\n\r\nabc\r\n--x\r\n";
        assert!(watch(&plan, text, 33).is_err());
    }
}
