//! The XOR of RFC 6455 §5.3, where the bytes lie: in words of eight, which the compiler turns into
//! vector instructions.

/// Undo `mask`, whose first byte belongs to the first of `bytes`. The mask for what follows them is
/// returned: the same four bytes, turned to the next one's phase.
pub fn unmask(bytes: &mut [u8], mask: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = mask;
    let word_mask = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ word_mask).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
    let mut next = mask;
    next.rotate_left(rest.len() % 4);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

    /// The definition, byte by byte.
    fn by_hand(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().enumerate().map(|(at, byte)| byte ^ MASK[at % 4]).collect()
    }

    #[test]
    fn the_example_of_the_rfc() {
        let mut bytes = *b"\x7f\x9f\x4d\x51\x58";
        let next = unmask(&mut bytes, MASK);
        assert_eq!((&bytes, next), (b"Hello", [0xfa, 0x21, 0x3d, 0x37]));
    }

    #[test]
    fn every_length_place_and_split_has_its_phase() {
        let input: Vec<u8> = (0..200u8).collect();
        for start in 0..8 {
            for end in start..start + 70 {
                let wanted = by_hand(&input[start..end]);
                for split in start..=end {
                    let mut bytes = input.clone();
                    let next = unmask(&mut bytes[start..split], MASK);
                    unmask(&mut bytes[split..end], next);
                    assert_eq!(bytes[start..end], wanted, "{start}..{split}..{end}");
                    assert_eq!(bytes[..start], input[..start]);
                    assert_eq!(bytes[end..], input[end..]);
                }
            }
        }
    }
}
