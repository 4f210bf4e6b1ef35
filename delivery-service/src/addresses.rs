//! How many connections come from where, so that nobody takes all the places of a service alone.
//!
//! Of IPv6 a network of 64 bits counts as one: whoever has one address there has all of them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::CONNECTIONS_SPARE;

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    V4([u8; 4]),
    V6([u8; 8]),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => Self::V4(v4.octets()),
            IpAddr::V6(v6) => {
                let [a, b, c, d, e, f, g, h, ..] = v6.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

/// Connections by where they come from.
#[derive(Debug)]
pub(crate) struct Addresses {
    most: usize,
    held: Mutex<HashMap<Source, usize>>,
}

/// What a connection finds.
#[derive(Debug)]
pub(crate) enum Place {
    /// A place.
    Free(Held),
    /// None, but it is told so.
    Told(Held),
    /// None, nor are more told.
    Closed,
}

impl Addresses {
    /// At most so many from one.
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            held: Mutex::default(),
        })
    }

    /// A place for another connection from there, until it is dropped.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr) -> Place {
        let source = Source::from(address);
        let mut held = self.held();
        let count = held.get(&source).copied().unwrap_or(0);
        if count >= self.most.saturating_add(CONNECTIONS_SPARE) {
            return Place::Closed;
        }
        held.insert(source, count + 1);
        let place = Held {
            addresses: Arc::clone(self),
            source,
        };
        if count < self.most {
            return Place::Free(place);
        }
        if count == self.most {
            tracing::warn!(
                most = self.most,
                "one address has as many connections as one may have; if a proxy stands there, name it with --trusted-proxy"
            );
        }
        Place::Told(place)
    }

    fn held(&self) -> MutexGuard<'_, HashMap<Source, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is taken.
#[derive(Debug)]
pub(crate) struct Held {
    addresses: Arc<Addresses>,
    source: Source,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.addresses.held();
        if let Some(count) = held.get_mut(&self.source) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                held.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_places_and_gets_them_back() {
        let addresses = Addresses::new(2);
        let take = |text| addresses.take(address(text));
        let mut taken = vec![take("10.0.0.1"), take("10.0.0.1")];
        assert!(taken.iter().all(|place| matches!(place, Place::Free(_))));
        taken.extend((0..CONNECTIONS_SPARE).map(|_| take("10.0.0.1")));
        let told = taken.iter().filter(|place| matches!(place, Place::Told(_)));
        assert_eq!(told.count(), CONNECTIONS_SPARE);
        assert!(matches!(take("10.0.0.1"), Place::Closed));
        // Written otherwise it is the same, and others have their own.
        assert!(matches!(take("::ffff:10.0.0.1"), Place::Closed));
        assert!(matches!(take("10.0.0.2"), Place::Free(_)));
        taken.clear();
        assert!(matches!(take("10.0.0.1"), Place::Free(_)));
        assert!(
            addresses.held().is_empty(),
            "nothing is kept of who has gone"
        );
    }

    #[test]
    fn a_network_of_64_bits_is_one() {
        let addresses = Addresses::new(1);
        let first = addresses.take(address("2001:db8:0:1::1"));
        assert!(matches!(first, Place::Free(_)));
        let same = addresses.take(address("2001:db8:0:1:ffff::2"));
        assert!(matches!(same, Place::Told(_)));
        let other = addresses.take(address("2001:db8:0:2::1"));
        assert!(matches!(other, Place::Free(_)));
    }
}
