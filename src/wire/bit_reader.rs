//! Bits in the order in which standards write them, with the Exp-Golomb codes of H.264 and H.265
//! (9.1, 9.2 in either). What is not there is `None`; nothing here panics or allocates.

#[derive(Debug, Clone)]
pub(in crate::wire) struct BitReader<'a> {
    data: &'a [u8],
    /// In bits, from the start of `data`.
    at: usize,
}

impl<'a> BitReader<'a> {
    pub(in crate::wire) fn new(data: &'a [u8]) -> BitReader<'a> {
        BitReader { data, at: 0 }
    }

    /// At most 64 bits, the first the highest.
    pub(in crate::wire) fn read(&mut self, bits: usize) -> Option<u64> {
        assert!(bits <= 64);
        let end = self.at.checked_add(bits).filter(|&end| end <= self.data.len() * 8)?;
        let mut value = 0;
        while self.at < end {
            let byte = u64::from(*self.data.get(self.at / 8)?);
            let taken = (8 - self.at % 8).min(end - self.at);
            let unused = 8 - self.at % 8 - taken;
            value = value << taken | (byte >> unused) & ((1 << taken) - 1);
            self.at += taken;
        }
        Some(value)
    }

    pub(in crate::wire) fn flag(&mut self) -> Option<bool> {
        self.read(1).map(|bit| bit == 1)
    }

    pub(in crate::wire) fn byte(&mut self) -> Option<u8> {
        self.read(8).map(|value| value as u8)
    }

    pub(in crate::wire) fn skip(&mut self, bits: usize) -> Option<()> {
        self.at = self.at.checked_add(bits).filter(|&end| end <= self.data.len() * 8)?;
        Some(())
    }

    /// ue(v), of at most 32 bits.
    pub(in crate::wire) fn unsigned(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let value = (1 << zeros) - 1 + self.read(zeros)?;
        u32::try_from(value).ok()
    }

    /// se(v).
    pub(in crate::wire) fn signed(&mut self) -> Option<i64> {
        let code = i64::from(self.unsigned()?);
        Some(if code % 2 == 1 { code / 2 + 1 } else { -(code / 2) })
    }

    /// Whole bytes from here on, if here is the start of a byte.
    pub(in crate::wire) fn rest(&self) -> &'a [u8] {
        assert!(self.at.is_multiple_of(8));
        self.data.get(self.at / 8..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_codes() {
        let mut bits = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0001, 0xff]);
        assert_eq!(bits.read(1), Some(1));
        // 010 = 1, 011 = 2, 00100 = 3, 00101 = 4.
        assert_eq!([bits.unsigned(), bits.unsigned()], [Some(1), Some(2)]);
        assert_eq!([bits.signed(), bits.signed()], [Some(2), Some(-2)]);
        assert_eq!(bits.read(7), Some(1));
        assert_eq!(bits.rest(), [0xff]);
        assert_eq!((bits.read(9), bits.read(8), bits.read(1)), (None, Some(0xff), None));
        assert_eq!(BitReader::new(&[0; 8]).unsigned(), None);
        let widest = [0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(BitReader::new(&widest).unsigned(), Some(u32::MAX - 1));
        assert_eq!(BitReader::new(&[0xff; 8]).read(64), Some(u64::MAX));
    }
}
