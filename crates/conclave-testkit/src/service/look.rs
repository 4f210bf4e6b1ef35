//! What tests look at: what is durable at the service.

use conclave_identity::SignedDeviceList;
use conclave_order::op::packages::ClearKeyPackages;
use conclave_order::rows::PleaRow;
use conclave_order::{Asker, Bounds, Op, Reader as _, WholeRecord, query};
use conclave_proto::frame::{Answer, WelcomeDelivery};
use conclave_proto::group::{GroupEntry, RootWrap};
use conclave_proto::{DeviceId, DocumentId, GroupId, Record, Refusal, UserId};
use conclave_rules::{GroupState, LogId};

use super::Service;
use crate::rows::ready;

const ALL: Bounds = Bounds {
    from: 0,
    end: u64::MAX,
    bytes: usize::MAX,
};

impl Service {
    /// A group's public state.
    #[must_use]
    pub fn state(&self, group: &GroupId) -> Option<GroupState> {
        let core = self.desk.restore(*group).ok()?;
        Some(core.state.state().clone())
    }

    /// A group's GroupInfo.
    #[must_use]
    pub fn group_info_of(&self, group: &GroupId) -> Option<Vec<u8>> {
        let core = self.desk.restore(*group).ok()?;
        Some(core.state.group_info().to_vec())
    }

    /// What it answers who asks for a GroupInfo.
    ///
    /// # Errors
    /// Why it does not.
    pub fn true_group_info(
        &mut self,
        device: DeviceId,
        user: UserId,
        group: GroupId,
    ) -> Result<Answer, Refusal> {
        let session = 0;
        let by = Asker {
            device,
            user,
            session,
        };
        self.desk.group_info(by, group)
    }

    /// A group's log.
    #[must_use]
    pub fn entries(&self, group: &GroupId) -> Vec<GroupEntry> {
        let mut reads = self.desk.store.clone();
        let entries = ready(query::group::entries(&mut reads, group, ALL));
        entries.unwrap_or_default()
    }

    /// How many entries a group's log has.
    pub(super) fn size_of(&self, group: &GroupId) -> u64 {
        let rows = self.desk.load(|keys| _ = keys.groups.insert(*group));
        let row = rows.ok().and_then(|rows| rows.groups.get(group).copied());
        row.flatten().map_or(0, |row| row.size)
    }

    /// Every wrap of a group that it ever had.
    #[must_use]
    pub fn wraps(&self, group: &GroupId) -> Vec<RootWrap> {
        let of_group = |wrap: &&RootWrap| wrap.statement.group == *group;
        self.wraps.iter().filter(of_group).cloned().collect()
    }

    /// Welcomes to a group that were not acknowledged.
    #[must_use]
    pub fn welcomes(&self, group: &GroupId) -> Vec<WelcomeDelivery> {
        let mut reads = self.desk.store.clone();
        let rows = self.state(group).map(|state| state.roster.rows().to_vec());
        let mut devices: Vec<DeviceId> = rows.into_iter().flatten().map(|row| row.device).collect();
        devices.sort();
        devices.dedup();
        let mut found = Vec::new();
        for device in devices {
            let waiting = ready(query::group::waiting(&mut reads, device));
            for row in waiting.unwrap_or_default() {
                if row.group == *group {
                    let welcome = ready(query::group::welcome(&mut reads, &row));
                    found.extend(welcome.ok().flatten());
                }
            }
        }
        found
    }

    /// Pleas in a group that nobody has answered.
    #[must_use]
    pub fn pleas(&self, group: &GroupId) -> Vec<PleaRow> {
        ready(self.desk.store.clone().pleas(group)).unwrap_or_default()
    }

    /// A group's documents, with whether they are open.
    #[must_use]
    pub fn documents(&self, group: &GroupId) -> Vec<(DocumentId, bool)> {
        let Some(state) = self.state(group) else {
            return Vec::new();
        };
        let documents = state.documents.iter();
        documents
            .map(|(id, entry)| (*id, entry.closed.is_none()))
            .collect()
    }

    /// Size of a document's log.
    #[must_use]
    pub fn size_of_document(&self, group: &GroupId, document: &DocumentId) -> u64 {
        let (group, document) = (*group, *document);
        let stands = self.desk.log(LogId { group, document }).stands();
        stands.map_or(0, |(row, _)| row.frontier.size())
    }

    /// A document's log.
    #[must_use]
    pub fn records(&self, group: &GroupId, document: &DocumentId) -> Vec<Record> {
        let (group, document) = (*group, *document);
        let log = LogId { group, document };
        let mut reads = self.desk.store.clone();
        let rows = ready(reads.records(&log, ALL)).unwrap_or_default();
        let whole = rows
            .iter()
            .filter_map(|row| ready(reads.whole(&log, row.seq)).ok().flatten());
        whole
            .filter_map(|found| match found {
                WholeRecord::Whole { record, .. } => Some(*record),
                WholeRecord::Leaf(_) => None,
            })
            .collect()
    }

    /// A user's device list.
    #[must_use]
    pub fn list(&self, user: UserId) -> Option<SignedDeviceList> {
        match self.desk.device_list(user) {
            Ok(Answer::DeviceList { list }) => SignedDeviceList::from_bytes(list.as_slice()).ok(),
            _ => None,
        }
    }

    /// A key package of a device, as for somebody who adds it.
    pub fn package_of(&mut self, device: DeviceId) -> Option<Vec<u8>> {
        let user = self.user_of(device)?;
        let claimed = self.desk.claim(device, user, vec![device]).ok()?;
        claimed.into_iter().next().map(|package| package.bytes)
    }

    /// A device's key packages are gone, as once they have passed their shelf life.
    pub fn expire_packages(&mut self, device: DeviceId) {
        let op = Op::ClearKeyPackages(ClearKeyPackages { device });
        // A device that is not known has none.
        let _ = self.desk.run(op);
    }
}
