//! A credential that is presented again and again.

use std::fmt;
use std::sync::{Arc, OnceLock};

use conclave_proto::codec::Bytes;
use tls_codec::{DeserializeBytes, Error, Serialize, Size};

use crate::certificate::DeviceCredential;
use crate::error::AuthError;

/// A credential as it was received, whatever it is. Its two signatures are checked when somebody first asks whose it is, and not again: its
/// copies share what was found. What depends on time or on who presents it is checked each time.
#[derive(Clone)]
pub struct ReceivedCredential(Arc<Inner>);

struct Inner {
    bytes: Bytes,
    verified: OnceLock<Result<DeviceCredential, AuthError>>,
}

impl ReceivedCredential {
    /// Its bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        self.0.bytes.as_slice()
    }

    /// The device credential that these bytes are, if all holds that does not depend on time or on who presents it.
    pub(crate) fn verified(&self) -> Result<&DeviceCredential, AuthError> {
        let check = || {
            let credential = DeviceCredential::from_bytes(self.as_slice())?;
            credential.verify()?;
            Ok(credential)
        };
        self.0
            .verified
            .get_or_init(check)
            .as_ref()
            .map_err(|error| *error)
    }
}

impl From<Bytes> for ReceivedCredential {
    fn from(bytes: Bytes) -> Self {
        let verified = OnceLock::new();
        Self(Arc::new(Inner { bytes, verified }))
    }
}

impl From<Vec<u8>> for ReceivedCredential {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&[u8]> for ReceivedCredential {
    fn from(bytes: &[u8]) -> Self {
        Bytes::from(bytes).into()
    }
}

impl fmt::Debug for ReceivedCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes.fmt(f)
    }
}

impl PartialEq for ReceivedCredential {
    fn eq(&self, other: &Self) -> bool {
        self.0.bytes == other.0.bytes
    }
}

impl Eq for ReceivedCredential {}

impl Size for ReceivedCredential {
    fn tls_serialized_len(&self) -> usize {
        self.0.bytes.tls_serialized_len()
    }
}

impl Serialize for ReceivedCredential {
    fn tls_serialize<W: std::io::Write>(&self, writer: &mut W) -> Result<usize, Error> {
        self.0.bytes.tls_serialize(writer)
    }
}

impl DeserializeBytes for ReceivedCredential {
    fn tls_deserialize_bytes(bytes: &[u8]) -> Result<(Self, &[u8]), Error> {
        let (bytes, rest) = Bytes::tls_deserialize_bytes(bytes)?;
        Ok((bytes.into(), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_shared_by_copies_and_nothing_is_found_twice() {
        let rubbish = ReceivedCredential::from(vec![7; 40]);
        let copy = rubbish.clone();
        assert!(copy.0.verified.get().is_none());
        let found = rubbish.verified().map(|_| ());
        assert!(found.is_err());
        assert_eq!(
            copy.0
                .verified
                .get()
                .map(|kept| kept.as_ref().map(|_| ()).map_err(|error| *error)),
            Some(found)
        );
        // Equal bytes that came another time are checked another time.
        let again = ReceivedCredential::from(vec![7; 40]);
        assert_eq!(again, rubbish);
        assert!(again.0.verified.get().is_none());
    }
}
