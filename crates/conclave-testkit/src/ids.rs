//! Ids that are told apart by a number.

use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, InstanceId, UserId, hash};
use conclave_rules::LogId;

/// A user.
#[must_use]
pub fn user(n: u8) -> UserId {
    UserId([n; 32])
}

/// A device; its user is the number's tens.
#[must_use]
pub fn device(n: u8) -> DeviceId {
    DeviceId([n; 16])
}

/// The user of a device.
#[must_use]
pub fn user_of(device: u8) -> UserId {
    user(device / 10)
}

/// A group.
#[must_use]
pub fn group(n: u8) -> GroupId {
    GroupId([0xa0 | n; 16])
}

/// A document's log.
#[must_use]
pub fn log(of: u8, document: u8) -> LogId {
    LogId {
        group: group(of),
        document: DocumentId([0x50 | document; 16]),
    }
}

/// A device's author, by instance.
#[must_use]
pub fn author(of: u8, instance: u8) -> Author {
    Author {
        device: device(of),
        instance: InstanceId([instance; 8]),
    }
}

/// A hash.
#[must_use]
pub fn some_hash(n: u64) -> Hash {
    hash::labelled("test", &[&n.to_be_bytes()])
}
