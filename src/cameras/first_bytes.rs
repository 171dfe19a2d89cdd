//! What connections of cameras have sent before their first picture was whole: nothing of it is anywhere
//! else yet. The bytes of all of them together are limited.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Cameras;
use crate::wire::tcp_framing::CAMERA_FIRST_BYTES_MAX;

/// The first bytes of one connection.
pub struct FirstBytes {
    cameras: Arc<Cameras>,
    bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the first pictures of all cameras that come are {0} bytes already")]
pub struct TooManyBytes(u64);

impl FirstBytes {
    pub fn new(cameras: &Arc<Cameras>) -> FirstBytes {
        FirstBytes { cameras: cameras.clone(), bytes: Vec::new() }
    }

    pub fn extend(&mut self, bytes: &[u8]) -> Result<(), TooManyBytes> {
        let options = &self.cameras.options;
        let max = CAMERA_FIRST_BYTES_MAX.max(2 * u64::from(options.picture_bytes_max));
        let more = bytes.len() as u64;
        let before = self.cameras.first_bytes.fetch_add(more, Ordering::Relaxed);
        self.bytes.extend_from_slice(bytes);
        if before + more > max { Err(TooManyBytes(max)) } else { Ok(()) }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// From there on, to be looked at.
    pub fn from(&mut self, at: usize) -> &mut [u8] {
        &mut self.bytes[at..]
    }

    /// They are somebody else's from now on.
    pub fn take(mut self) -> Vec<u8> {
        self.release();
        std::mem::take(&mut self.bytes)
    }

    fn release(&self) {
        self.cameras.first_bytes.fetch_sub(self.bytes.len() as u64, Ordering::Relaxed);
    }
}

impl Drop for FirstBytes {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cameras::Options;
    use crate::store::{Store, StoreOptions};

    #[test]
    fn first_bytes_are_limited_together() {
        let store = Store::open(StoreOptions::in_memory()).unwrap();
        let options = Options { picture_bytes_max: 40 << 20, ..Options::default() };
        let cameras = Cameras::new(options, store);
        let half = vec![0; 40 << 20];
        let [mut one, mut other, mut third] = [(); 3].map(|()| FirstBytes::new(&cameras));
        assert!(one.extend(&half).is_ok() && other.extend(&half).is_ok());
        assert!(third.extend(&[0]).is_err());
        drop(third);
        assert_eq!(one.take().len(), 40 << 20);
        assert!(other.extend(&half).is_ok());
        drop(other);
        assert_eq!(cameras.first_bytes.load(Ordering::Relaxed), 0);
    }
}
