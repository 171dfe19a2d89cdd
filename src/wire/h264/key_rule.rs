//! Which pictures a decoder may begin with: those that say that nothing before them is needed (IDR), and
//! where an encoder sends none of them, its recovery points (D.2.8).

/// Without an IDR picture for so long, some seconds of most cameras, recovery points count.
const IDR_PICTURES_MAX: u32 = 100;
/// Recovery points are told in messages of this type (table D-1).
const RECOVERY_POINT: u32 = 6;
/// So much of a unit of messages is searched for one; what describes a picture stands in front.
pub(super) const MESSAGES_BYTES_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct KeyRule {
    pictures_since_idr: u32,
}

impl Default for KeyRule {
    fn default() -> KeyRule {
        KeyRule { pictures_since_idr: IDR_PICTURES_MAX }
    }
}

impl KeyRule {
    /// Of the next picture.
    pub(super) fn is_key(&mut self, is_idr: bool, has_recovery_point: bool) -> bool {
        if is_idr {
            self.pictures_since_idr = 0;
            return true;
        }
        self.pictures_since_idr = self.pictures_since_idr.saturating_add(1);
        has_recovery_point && self.pictures_since_idr > IDR_PICTURES_MAX
    }
}

/// Whether a unit of messages (7.3.2.3), from its header on, has that of a recovery point.
pub(super) fn has_recovery_point(nal: &[u8]) -> bool {
    let nal = nal.get(..MESSAGES_BYTES_MAX).unwrap_or(nal);
    let Some((_, mut rest)) = nal.split_first() else { return false };
    // The last byte ends the unit.
    while rest.len() > 1 {
        let (Some(kind), Some(bytes)) = (number(&mut rest), number(&mut rest)) else {
            return false;
        };
        if kind == RECOVERY_POINT {
            return true;
        }
        rest = rest.get(bytes as usize..).unwrap_or_default();
    }
    false
}

/// 255 as often as it fits, then the rest.
fn number(rest: &mut &[u8]) -> Option<u32> {
    let mut value = 0;
    loop {
        let (&byte, behind) = rest.split_first()?;
        *rest = behind;
        value += u32::from(byte);
        if byte != 255 {
            return Some(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recovery_points_among_messages() {
        assert!(has_recovery_point(&[6, 6, 1, 0xc4, 0x80]));
        assert!(has_recovery_point(&[6, 1, 2, 9, 9, 6, 1, 0xc4, 0x80]));
        let long = [&[6, 5, 255, 3][..], &[6; 258], &[6, 1, 0xc4, 0x80]].concat();
        assert!(!has_recovery_point(&long));
        assert!(!has_recovery_point(&[6, 5, 3, 6, 1, 6, 0x80]));
        assert!(!has_recovery_point(&[6, 255, 255]) && !has_recovery_point(&[]));
    }

    #[test]
    fn recovery_points_count_where_nothing_else_does() {
        let mut rule = KeyRule::default();
        assert!(!rule.is_key(false, false) && rule.is_key(false, true) && rule.is_key(true, false));
        assert!((0..IDR_PICTURES_MAX).all(|_| !rule.is_key(false, true)));
        assert!(rule.is_key(false, true));
    }
}
