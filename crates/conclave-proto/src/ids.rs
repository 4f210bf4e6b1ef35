//! Typed identifiers. Each is a fixed-size byte string; text form is lower-case hexadecimal.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use tls_codec::{TlsDeserializeBytes, TlsSerialize, TlsSize};

/// Why the text form of an identifier could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseIdError {
    /// The text is not hexadecimal.
    #[error("an identifier is written in hexadecimal digits")]
    NotHex,
    /// The text has the wrong number of digits.
    #[error("this identifier has {expected} hexadecimal digits, not {found}")]
    WrongLength {
        /// Digits expected.
        expected: usize,
        /// Digits found.
        found: usize,
    },
}

macro_rules! byte_id {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash,
            TlsSize, TlsSerialize, TlsDeserializeBytes,
        )]
        pub struct $name(pub [u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;
            /// All bytes zero.
            pub const ZERO: Self = Self([0; $len]);

            /// The bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8] {
                &self.0
            }

            /// Reads exactly [`Self::LEN`] bytes.
            #[must_use]
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// The first eight hexadecimal digits, for people.
            #[must_use]
            pub fn short(&self) -> String {
                self.to_string().chars().take(8).collect()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let bytes = data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .map_err(|_| ParseIdError::NotHex)?;
                Self::from_slice(&bytes).ok_or(ParseIdError::WrongLength {
                    expected: 2 * $len,
                    found: text.len(),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_bytes(&self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> de::Visitor<'de> for Visitor {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        write!(f, "{} bytes", $len)
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<$name, E> {
                        $name::from_slice(bytes)
                            .ok_or_else(|| E::invalid_length(bytes.len(), &self))
                    }
                }
                if deserializer.is_human_readable() {
                    deserializer.deserialize_str(Visitor)
                } else {
                    deserializer.deserialize_bytes(Visitor)
                }
            }
        }
    };
}

byte_id!(
    /// A group: drawn at random by its creator.
    GroupId, 16
);
byte_id!(
    /// A document of a group: drawn at random by the client that creates it.
    DocumentId, 16
);
byte_id!(
    /// A user: the hash of the user's genesis statement, so it survives key rotation.
    UserId, 32
);
byte_id!(
    /// A device: drawn at random when its store is created.
    DeviceId, 16
);
byte_id!(
    /// One life of a device's store. Clocks count within it (see `docs/PROTOCOL.md`, Clocks).
    InstanceId, 8
);
/// Names one life of a device's store to the service: who holds the newest goes on, an older copy of the store does not. Not printed.
#[derive(
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
pub struct LifeToken(pub [u8; 16]);

impl fmt::Debug for LifeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LifeToken(..)")
    }
}

byte_id!(
    /// A realm: statements signed for one are worthless in another.
    RealmId, 16
);
byte_id!(
    /// One presence session: one device on one connection.
    SessionId, 16
);
byte_id!(
    /// A commit's own id, drawn by its author.
    CommitId, 16
);
byte_id!(
    /// A rescue copy in one device's store: drawn at random there, never sent.
    RescueId, 16
);
byte_id!(
    /// Evidence in one device's store: the first bytes of the hash of what is shown. Never sent.
    EvidenceId, 16
);
byte_id!(
    /// A SHA-256 hash: a Merkle node, a record's id, a roster hash.
    Hash, 32
);

impl DocumentId {
    /// The document that holds a group's titles, derived from the group id.
    #[must_use]
    pub fn directory(group: &GroupId) -> Self {
        Self::derived("conclave 1.0 directory", &[group.as_bytes()])
    }

    /// The copy of a document in a group that is founded anew: always the same, so that nothing is carried over twice.
    #[must_use]
    pub fn carried(anew: &GroupId, old: &Self) -> Self {
        let parts = [anew.as_bytes(), old.as_bytes()];
        Self::derived("conclave 1.0 carried document", &parts)
    }

    /// The first bytes of a labelled hash.
    fn derived(label: &str, parts: &[&[u8]]) -> Self {
        let hash = crate::hash::labelled(label, parts);
        let mut id = Self::ZERO;
        for (to, from) in id.0.iter_mut().zip(hash.0) {
            *to = from;
        }
        id
    }
}

/// A point in time: milliseconds since 1970-01-01T00:00:00Z. Always an argument, never read from a clock.
#[derive(
    Debug,
    Clone,
    Copy,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    TlsSize,
    TlsSerialize,
    TlsDeserializeBytes,
)]
#[serde(transparent)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// This time moved forward, saturating.
    #[must_use]
    pub fn plus_ms(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// Milliseconds from `earlier` to `self`, zero when `earlier` is later.
    #[must_use]
    pub fn since_ms(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let id = DeviceId([0xa5; 16]);
        assert_eq!(id.to_string().parse::<DeviceId>().unwrap(), id);
        assert_eq!("zz".parse::<DeviceId>(), Err(ParseIdError::NotHex));
        assert!("a5".parse::<DeviceId>().is_err());
        assert_eq!(format!("{id:?}"), "DeviceId(a5a5a5a5)");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<DeviceId>(&json).unwrap(), id);
    }
}
