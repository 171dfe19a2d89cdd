//! How many connections an address may have, and which addresses may receive.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use parking_lot::Mutex;

/// Connections by address.
#[derive(Default)]
pub(super) struct Addresses {
    counts: Mutex<HashMap<IpAddr, usize>>,
}

/// The address has as many connections as it may.
#[derive(Debug)]
pub struct TooManyConnections;

/// One connection of an address, counted until this is dropped.
pub struct Admission {
    counted: Option<(Arc<Addresses>, IpAddr)>,
}

impl Addresses {
    /// Count one more connection; `max` 0 counts nothing.
    pub(super) fn admit(
        self: &Arc<Self>,
        ip: IpAddr,
        max: usize,
    ) -> Result<Admission, TooManyConnections> {
        if max == 0 {
            return Ok(Admission { counted: None });
        }
        let mut counts = self.counts.lock();
        let count = counts.entry(ip).or_default();
        if *count >= max {
            return Err(TooManyConnections);
        }
        *count += 1;
        Ok(Admission { counted: Some((self.clone(), ip)) })
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        let Some((addresses, ip)) = &self.counted else { return };
        let mut counts = addresses.counts.lock();
        if let Some(count) = counts.get_mut(ip) {
            *count -= 1;
            if *count == 0 {
                counts.remove(ip);
            }
        }
    }
}

/// One of the ranges holds the address.
pub(super) fn contains(ranges: &[IpNet], ip: IpAddr) -> bool {
    ranges.iter().any(|range| range.contains(&ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_address_until_they_go() {
        let addresses: Arc<Addresses> = Arc::default();
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "::1".parse().unwrap());
        let first = addresses.admit(a, 2).unwrap();
        let _second = addresses.admit(a, 2).unwrap();
        assert!(addresses.admit(a, 2).is_err());
        assert!(addresses.admit(b, 2).is_ok());
        drop(first);
        assert!(addresses.admit(a, 2).is_ok());
        assert!((0..9).all(|_| addresses.admit(a, 0).is_ok()), "0 is no limit");
        assert_eq!(addresses.counts.lock().len(), 1, "what is gone is forgotten");
    }

    #[test]
    fn ranges_hold_addresses() {
        let ranges: Vec<IpNet> =
            ["10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"].map(|r| r.parse().unwrap()).into();
        for (ip, is_in) in [
            ("10.1.200.3", true),
            ("10.2.0.1", false),
            ("192.0.2.7", true),
            ("2001:db8::9", true),
            ("::1", false),
        ] {
            assert_eq!(contains(&ranges, ip.parse().unwrap()), is_in, "{ip}");
        }
    }
}
