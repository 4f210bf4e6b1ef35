//! Who may write under which replica id.

use conclave_crdt::{OpRange, ReplicaId};
use conclave_proto::refusal::RecordFault;
use conclave_proto::{DeviceId, limits};

use crate::payload::Tables;

/// The rules for replica ids. An id belongs to the device that introduced it, and operations begin exactly at its next counter. A record whose
/// operations are all known (`None`) does nothing: what an engine still holds of the first ones depends on what it has tidied away, so
/// comparing would judge differently from member to member. For the same reason nothing new may come with known ones.
pub(crate) fn judge_replicas(
    tables: &Tables,
    first_counter: u64,
    device: DeviceId,
    ranges: &[OpRange],
) -> Result<Option<Vec<(ReplicaId, u64)>>, RecordFault> {
    // Breakage: anybody may write under any id.
    if crate::broken("skip-replica-rules") {
        let claim = |range: &OpRange| (range.replica.clone(), range.end);
        return Ok(Some(ranges.iter().map(claim).collect()));
    }
    let mut claims: Vec<(ReplicaId, u64)> = Vec::new();
    let mut known = 0usize;
    for range in ranges {
        let next = match tables.owners.get(&range.replica) {
            Some(owner) if owner.device != device => return Err(RecordFault::Replica),
            Some(owner) => owner.next,
            None => first_counter,
        };
        if range.end <= next {
            known += 1;
        } else if range.start == next && claims.iter().all(|(replica, _)| *replica != range.replica)
        {
            claims.push((range.replica.clone(), range.end));
        } else {
            return Err(RecordFault::Replica);
        }
    }
    match (known, claims.len()) {
        (0, introduced) if introduced <= limits::REPLICAS_PER_RECORD => Ok(Some(claims)),
        (_, 0) => Ok(None),
        _ => Err(RecordFault::Replica),
    }
}

/// Whether operations are written under an id that belongs to another device.
pub(crate) fn squats(tables: &Tables, device: DeviceId, ranges: &[OpRange]) -> bool {
    let owner = |range: &OpRange| tables.owners.get(&range.replica);
    ranges
        .iter()
        .any(|range| owner(range).is_some_and(|owner| owner.device != device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::ReplicaOwner;

    fn replica(id: u16) -> ReplicaId {
        ReplicaId::from_bytes(&id.to_be_bytes()).unwrap()
    }

    fn range(id: u16, start: u64, end: u64) -> OpRange {
        OpRange {
            replica: replica(id),
            start,
            end,
        }
    }

    fn judge(ranges: &[OpRange]) -> Result<Option<usize>, RecordFault> {
        let mut tables = Tables::default();
        let (mine, other) = (DeviceId([1; 16]), DeviceId([2; 16]));
        tables.owners.insert(
            replica(1),
            ReplicaOwner {
                device: mine,
                next: 5,
            },
        );
        tables.owners.insert(
            replica(2),
            ReplicaOwner {
                device: other,
                next: 5,
            },
        );
        judge_replicas(&tables, 0, mine, ranges).map(|claims| claims.map(|claims| claims.len()))
    }

    #[test]
    fn operations_follow_their_replica_and_belong_to_its_owner() {
        let refused = Err(RecordFault::Replica);
        assert_eq!(judge(&[]), Ok(Some(0)), "deletions alone claim nothing");
        assert_eq!(judge(&[range(1, 5, 9), range(3, 0, 2)]), Ok(Some(2)));
        assert_eq!(judge(&[range(1, 6, 9)]), refused);
        assert_eq!(judge(&[range(3, 1, 2)]), refused);
        assert_eq!(judge(&[range(2, 5, 6)]), refused);
        assert_eq!(judge(&[range(2, 0, 2)]), refused, "known or not");
        assert_eq!(judge(&[range(1, 2, 5)]), Ok(None));
        assert_eq!(judge(&[range(1, 2, 6)]), refused);
        assert_eq!(judge(&[range(1, 2, 5), range(3, 0, 1)]), refused);
        assert_eq!(judge(&[range(1, 5, 6), range(1, 7, 8)]), refused);
        let many: Vec<OpRange> = (10..75).map(|id| range(id, 0, 1)).collect();
        assert_eq!(judge(&many[..64]), Ok(Some(64)));
        assert_eq!(judge(&many), refused);
    }
}
