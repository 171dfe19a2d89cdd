//! When a picture is shown, as a number (8.2.1.1): slices carry its low bits, the rest follows from the
//! picture before. Only for type 0. For type 2 pictures are shown as they are decoded; type 1, a
//! pattern that no encoder of cameras is known to use, is taken as type 2.
//!
//! What a picture may order to be done with the numbers behind it (operation 5 of 8.2.5.4) stands far
//! behind in its slices and is not read: who uses the numbers has to bear that they begin anew.

use super::slice_head::SliceHead;
use crate::wire::parameter_sets::OrderKind;

/// Of the last picture that others are made from.
#[derive(Debug, Default)]
pub(super) struct PictureOrder {
    high: i64,
    low: i64,
}

impl PictureOrder {
    /// `None`: it is shown as it is decoded.
    pub(super) fn next(&mut self, slice: &SliceHead, kind: OrderKind) -> Option<i64> {
        let (OrderKind::LowBits(bits), Some(low)) = (kind, slice.order_low) else { return None };
        if slice.is_idr {
            *self = PictureOrder::default();
        }
        let (low, range) = (i64::from(low), 1 << bits);
        let high = match low - self.low {
            less if less <= -range / 2 => self.high + range,
            more if more > range / 2 => self.high - range,
            _ => self.high,
        };
        if slice.is_reference {
            *self = PictureOrder { high, low };
        }
        Some(high + low)
    }
}
