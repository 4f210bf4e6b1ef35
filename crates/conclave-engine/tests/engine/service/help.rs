//! Coming back, and asking for help.

use conclave_proto::codec::Bytes;
use conclave_proto::frame::{Answer, Plea, ServiceFrame};
use conclave_proto::group::RootWrap;
use conclave_proto::refusal::CommitFault;
use conclave_proto::{DeviceId, GroupId, Refusal, UserId};

use super::{ConnId, Service};

impl Service {
    pub(super) fn group_info(
        &mut self,
        device: DeviceId,
        user: UserId,
        group: GroupId,
    ) -> Result<Answer, Refusal> {
        if let Some(old) = self.lies.group_info.clone() {
            return Ok(old);
        }
        self.true_group_info(device, user, group)
    }

    /// What an honest service answers.
    pub fn true_group_info(
        &mut self,
        device: DeviceId,
        user: UserId,
        group: GroupId,
    ) -> Result<Answer, Refusal> {
        let log = self.group(group)?;
        let state = log.state();
        let recovers = state.is_alone(&user) && !state.is_tombstoned(&device);
        if !state.is_member(&device) && !recovers {
            return Err(Refusal::UnknownGroup);
        }
        let epoch = state.epoch;
        let mut wraps = log.wraps.range((epoch, DeviceId::ZERO)..);
        let wrap = log
            .begun
            .clone()
            .or_else(|| wraps.next().map(|(_, wrap)| wrap.clone()))
            .unwrap_or_else(no_wrap);
        Ok(Answer::GroupInfo {
            epoch,
            group_info: log.core.group_info().into(),
            tree: log.core.tree().into(),
            state: log.core.join_state(wrap, log.document_entries()),
        })
    }

    pub(super) fn put_group_info(
        &mut self,
        device: DeviceId,
        group: GroupId,
        info: &[u8],
    ) -> Result<Answer, Refusal> {
        let log = self.group(group)?;
        log.for_member(&device)?;
        log.core.replace_group_info(device, info)?;
        self.lies.group_info = None;
        Ok(Answer::Done)
    }

    pub(super) fn put_wrap(&mut self, device: DeviceId, wrap: RootWrap) -> Result<Answer, Refusal> {
        let group = wrap.statement.group;
        let log = self.group(group)?;
        log.for_member(&device)?;
        if wrap.statement.epoch != log.state().epoch {
            let current = log.state().epoch;
            return Err(Refusal::StaleEpoch { current });
        }
        if wrap.signer != device || log.state().judge_wrap(&wrap).is_err() {
            let fault = CommitFault::Wrap;
            return Err(Refusal::BadCommit { fault });
        }
        log.wraps.insert((wrap.statement.epoch, wrap.signer), wrap);
        log.asks
            .retain(|(who, what), _| *what != Plea::Wrap || *who == device);
        Ok(Answer::Done)
    }

    pub(super) fn ask(
        &mut self,
        device: DeviceId,
        user: UserId,
        group: GroupId,
        what: Plea,
    ) -> Result<Answer, Refusal> {
        let log = self.group(group)?;
        let state = log.state();
        let allowed = match what {
            Plea::Wrap => state.is_member(&device),
            Plea::ReAdd => state.role_of_user(&user).is_some() && !state.is_tombstoned(&device),
        };
        if !allowed {
            return Err(Refusal::UnknownGroup);
        }
        log.asks.insert((device, what), user);
        self.tell_asks(group, None);
        Ok(Answer::Done)
    }

    /// Tells those who follow, or one of them, who asks.
    pub(super) fn tell_asks(&mut self, group: GroupId, only: Option<ConnId>) {
        let asks = self.groups[&group].asks.clone();
        let conns: Vec<(ConnId, DeviceId)> = self
            .conns
            .iter()
            .filter(|(id, conn)| {
                conn.follows.contains(&group) && only.is_none_or(|only| only == **id)
            })
            .filter_map(|(id, conn)| Some((*id, conn.who?.0)))
            .collect();
        for (conn, to) in conns {
            for ((device, what), user) in &asks {
                if *device != to {
                    self.push(
                        conn,
                        ServiceFrame::Asked {
                            group,
                            device: *device,
                            user: *user,
                            what: *what,
                        },
                    );
                }
            }
        }
    }

    pub(super) fn memberships(&mut self, device: DeviceId) -> Answer {
        let member = |log: &super::GroupLog| {
            log.state().is_member(&device) && log.welcomes.iter().all(|it| it.device != device)
        };
        let groups = self.groups.iter().filter(|(_, log)| member(log));
        Answer::Memberships {
            groups: groups.map(|(id, _)| *id).collect(),
        }
    }

    pub(super) fn clear_packages(&mut self, device: DeviceId) -> Answer {
        self.packages.remove(&device);
        Answer::KeyPackageCount { left: 0 }
    }
}

fn no_wrap() -> RootWrap {
    RootWrap {
        statement: conclave_proto::group::WrapStatement {
            group: GroupId::ZERO,
            epoch: 0,
            commit: conclave_proto::Hash::ZERO,
            roster: conclave_proto::Hash::ZERO,
            nonce: [0; 24],
            ciphertext: Bytes::default(),
        },
        signer: DeviceId::ZERO,
        signature: [0; 64],
    }
}
