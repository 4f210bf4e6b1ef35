//! How the service lies: it leaves something out, says something else, or lets pass what it has to refuse. The honest service knows nothing
//! of it, and goes on from the truth.

use std::collections::{BTreeMap, BTreeSet};

use conclave_order::op::append::Arrived;
use conclave_order::op::seen::hint;
use conclave_order::{Asker, Bounds, Reader as _};
use conclave_proto::codec::Varint;
use conclave_proto::frame::{
    Answer, AppendedRecord, ClaimedKeyPackage, ClientFrame, Request, ServiceFrame,
};
use conclave_proto::group::{CommitBundle, GroupEntry, RootWrap};
use conclave_proto::record::{Chained, RECORD_VERSION, RecordBody, RecordHeader};
use conclave_proto::refusal::CommitFault;
use conclave_proto::service::SignedHead;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head, Record, Refusal, UserId};
use conclave_rules::LogId;

use super::{ConnId, Outgoing, Service, Signing};
use crate::rows::ready;

/// How the service lies.
#[derive(Clone, Default)]
pub struct Lies {
    /// Hands out this device's key packages for everybody's.
    pub packages_of: Option<DeviceId>,
    /// Says of every document and group that it has this many entries fewer.
    pub forget: u64,
    /// Says of every document that it begins there after what a device asks for.
    pub begins_later: bool,
    /// Takes commits for ordered that it has to refuse.
    pub order_anything: bool,
    /// Takes no snapshot but a document's first.
    pub refuse_snapshots: bool,
    /// Takes no list of devices.
    pub refuse_lists: bool,
    /// Takes no commit and no entry before so long, in milliseconds; zero: takes them.
    pub pace_ms: u64,
    /// Takes no external commit of a member.
    pub refuse_external: bool,
    /// Loses new groups before they are stored, and with them the answer.
    pub lose_creations: bool,
    /// Takes no new group.
    pub refuse_creations: bool,
    /// Lets a device be there more than once, and takes what its former connections bring: one of them is hidden from the other.
    pub unfenced: bool,
    /// Answers this to whoever asks for a GroupInfo, until a member puts another one there.
    pub group_info: Option<Answer>,
    /// Shows heads under wrong signatures.
    pub wrong_heads: bool,
    /// Shows signed heads of logs only to who asks for these.
    pub no_head_frames: bool,
    /// Takes no notice of being shown what it signed.
    pub deaf_to_reports: bool,
    /// Lists of devices that it shows in place of those that it took.
    lists: BTreeMap<UserId, Vec<u8>>,
    /// Entries that it shows at the end of logs where there are none.
    made_up: BTreeMap<GroupId, Vec<GroupEntry>>,
    /// Logs of which it shows a device no more than this.
    held: Option<Held>,
    /// Wraps that it has and does not show.
    hidden: BTreeSet<(GroupId, u64, DeviceId)>,
}

/// Whom it keeps the ends of logs from.
#[derive(Clone)]
struct Held {
    device: DeviceId,
    heads: BTreeMap<LogId, SignedHead>,
    /// Whether it signs what it shows in place of the truth at the time at which it is asked.
    signs: bool,
}

fn of(wrap: &RootWrap) -> (GroupId, u64, DeviceId) {
    let statement = &wrap.statement;
    (statement.group, statement.epoch, wrap.signer)
}

fn refused(frame: &ServiceFrame) -> Option<&Refusal> {
    match frame {
        ServiceFrame::Response {
            answer: Answer::Refused(refusal),
            ..
        } => Some(refusal),
        _ => None,
    }
}

fn signed(frame: &mut ServiceFrame) -> Option<&mut SignedHead> {
    match frame {
        ServiceFrame::Head { signed, .. } => Some(signed),
        ServiceFrame::Response { answer, .. } => match answer {
            Answer::Subscribed { signed, .. } => signed.as_mut(),
            Answer::Opened(opened) => Some(&mut opened.signed),
            Answer::Head { signed } => Some(signed),
            _ => None,
        },
        _ => None,
    }
}

impl Service {
    /// Shows an entry at the end of a group's log that was never ordered.
    pub fn make_up(&mut self, group: GroupId, entry: GroupEntry) -> Outgoing {
        let made_up = self.lies.made_up.entry(group).or_default();
        let before = made_up.len() as u64;
        made_up.push(entry.clone());
        let seq = self.size_of(&group).saturating_add(before);
        self.desk.publish_entry(group, seq, &entry, &[]);
        std::mem::take(&mut self.desk.out)
    }

    /// Shows a device from here on no more of these logs than there is now. Asked for a head it gives the old one: dated anew if it `signs`.
    pub fn withhold(&mut self, device: DeviceId, logs: &[LogId], signs: bool) {
        let mut heads = BTreeMap::new();
        for log in logs {
            if let Some(head) = self.desk.head_of(log) {
                heads.insert(*log, self.desk.signing.sign(log, head));
            }
        }
        self.lies.held = Some(Held {
            device,
            heads,
            signs,
        });
    }

    /// Whether a frame tells a device what is kept from it.
    fn is_withheld(&self, held: &Held, to: ConnId, frame: &ServiceFrame) -> bool {
        let conn = self.desk.conns.get(&to);
        let Some(conn) = conn.filter(|it| it.who.is_some_and(|by| by.device == held.device)) else {
            return false;
        };
        let log = match frame {
            ServiceFrame::Deliver { channel, .. } | ServiceFrame::NewAuthor { channel, .. } => {
                conn.channels.get(&channel.0).map(|channel| channel.log)
            }
            ServiceFrame::Head { log, .. } => Some(LogId::from(*log)),
            ServiceFrame::GroupEntries { group, .. } => Some(LogId::of_group(*group)),
            _ => None,
        };
        log.is_some_and(|log| held.heads.contains_key(&log))
    }

    /// Shows a list of a user's devices in place of the one that it took, to everybody, as a service would that is in league with whoever
    /// signed it.
    pub fn show_list(&mut self, user: UserId, list: Vec<u8>) -> Outgoing {
        self.lies.lists.insert(user, list);
        let frame = ServiceFrame::DeviceListChanged { user };
        let conns: Vec<ConnId> = self.desk.conns.keys().copied().collect();
        conns
            .into_iter()
            .map(|conn| (conn, frame.clone()))
            .collect()
    }

    /// Goes on under other keys, as another service would, or names itself otherwise.
    pub fn sign_as(&mut self, signing: Signing) {
        self.desk.signing = signing;
    }

    /// Shows no wrap of this group that is there now.
    pub fn hide_wraps(&mut self, group: &GroupId) {
        let wraps = self.wraps.iter().map(of);
        self.lies.hidden.extend(wraps.filter(|it| it.0 == *group));
    }

    /// Orders an update that `make` seals for the end of the log, under an instance of its own: as any device could have sent it.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn order_update(
        &mut self,
        group: GroupId,
        document: DocumentId,
        author: Author,
        make: impl FnOnce(RecordHeader) -> Record,
    ) -> Result<Outgoing, Refusal> {
        let log = LogId { group, document };
        let header = self.first_update(log, author)?;
        let (seen, epoch) = (header.seen, header.epoch);
        let record = make(header);
        let record = AppendedRecord {
            kind: 1,
            seen_size: Varint(seen.size),
            seen_hint: hint(&seen.root),
            sealed: record.sealed,
        };
        let arrived = Arrived {
            epoch,
            first_clock: 0,
            records: vec![record],
        };
        self.desk.append_for(log, author, &arrived, None)?;
        Ok(std::mem::take(&mut self.desk.out))
    }

    /// Header of an author's first update, at the end of a log.
    fn first_update(&mut self, log: LogId, author: Author) -> Result<RecordHeader, Refusal> {
        let core = self.desk.core(log.group)?;
        let epoch = core.state.state().epoch;
        self.desk.keep(core);
        let seen = self.desk.log(log).stands()?.0.frontier.head();
        Ok(RecordHeader {
            version: RECORD_VERSION,
            group: log.group,
            document: log.document,
            epoch,
            author,
            seen,
            body: RecordBody::Update(Chained {
                clock: 0,
                prev: Hash::ZERO,
            }),
        })
    }

    /// What is said at once, without asking the honest service.
    pub(super) fn instead(&mut self, conn: ConnId, frame: &ClientFrame) -> Option<Outgoing> {
        let ClientFrame::Request { id, body } = frame else {
            return None;
        };
        let by = self.desk.conns.get(&conn)?.who?;
        let mls = CommitFault::Mls;
        let answer = match body {
            Request::CreateGroup { .. } if self.lies.lose_creations => return Some(Vec::new()),
            Request::CreateGroup { .. } if self.lies.refuse_creations => {
                Answer::Refused(Refusal::BadCommit { fault: mls })
            }
            Request::PutSnapshot { .. } if self.lies.refuse_snapshots => {
                Answer::Refused(Refusal::Storage)
            }
            Request::PutDeviceList { .. } if self.lies.refuse_lists => {
                Answer::Refused(Refusal::BadIdentity)
            }
            Request::Commit(_) | Request::PutEntry { .. } if self.lies.pace_ms > 0 => {
                Answer::Refused(Refusal::RateLimited {
                    retry_after_ms: self.lies.pace_ms,
                })
            }
            Request::GetGroupInfo { .. } => self.lies.group_info.clone()?,
            Request::GetDeviceList { user } => Answer::DeviceList {
                list: self.lies.lists.get(user)?.clone().into(),
            },
            Request::ClaimKeyPackages { devices, .. } => {
                self.foreign_packages(by, self.lies.packages_of?, devices)?
            }
            Request::Commit(bundle) if self.lies.refuse_external => {
                if !self.is_external(by, bundle) {
                    return None;
                }
                let fault = CommitFault::External;
                Answer::Refused(Refusal::BadCommit { fault })
            }
            Request::Report { .. } if self.lies.deaf_to_reports => Answer::Done,
            _ => return None,
        };
        let id = *id;
        Some(vec![(conn, ServiceFrame::Response { id, answer })])
    }

    fn is_external(&mut self, by: Asker, bundle: &CommitBundle) -> bool {
        let Ok(core) = self.desk.core(bundle.group) else {
            return false;
        };
        let judged = core.state.judge_bundle(bundle, by.device, self.desk.now);
        let is_member = core.state.state().is_member(&by.device);
        self.desk.keep(core);
        is_member && judged.is_ok_and(|judged| judged.is_external())
    }

    fn foreign_packages(
        &mut self,
        by: Asker,
        whose: DeviceId,
        wanted: &[DeviceId],
    ) -> Option<Answer> {
        let user = self.user_of(whose)?;
        let mut packages = Vec::new();
        for device in wanted {
            let claimed = self.desk.claim(by.device, user, vec![whose]).ok()?;
            packages.extend(claimed.into_iter().map(|claimed| ClaimedKeyPackage {
                device: *device,
                ..claimed.into()
            }));
        }
        Some(Answer::KeyPackages { packages })
    }

    pub(super) fn user_of(&self, device: DeviceId) -> Option<UserId> {
        let rows = self
            .desk
            .load(|keys| _ = keys.devices.insert(device))
            .ok()?;
        Some(rows.devices.get(&device)?.as_ref()?.user)
    }

    /// What is said in place of the truth.
    pub(super) fn altered(
        &mut self,
        conn: ConnId,
        frame: &ClientFrame,
        mut out: Outgoing,
    ) -> Outgoing {
        if let Some(held) = &self.lies.held {
            out.retain(|(to, frame)| !self.is_withheld(held, *to, frame));
            let asker = self.desk.conns.get(&conn).and_then(|conn| conn.who);
            let is_kept_from = asker.is_some_and(|by| by.device == held.device);
            for (_, told) in out.iter_mut().filter(|_| is_kept_from) {
                if let ServiceFrame::Response {
                    answer: Answer::Head { signed },
                    ..
                } = told
                    && let ClientFrame::Request {
                        body: Request::GetHead { log },
                        ..
                    } = frame
                    && let Some(old) = held.heads.get(&LogId::from(*log))
                {
                    *signed = match held.signs {
                        true => self.desk.signing.sign(&LogId::from(*log), old.head),
                        false => *old,
                    };
                }
            }
        }
        if self.lies.no_head_frames {
            out.retain(|(_, frame)| !matches!(frame, ServiceFrame::Head { .. }));
        }
        if self.lies.wrong_heads {
            let heads = out.iter_mut().filter_map(|(_, frame)| signed(frame));
            heads.for_each(|head| head.signature[0] ^= 1);
        }
        let ClientFrame::Request { id, body } = frame else {
            return out;
        };
        match body {
            Request::Commit(bundle) if self.lies.order_anything => {
                let is_refused = out.iter().any(|(_, frame)| refused(frame).is_some());
                if !is_refused {
                    return out;
                }
                let entry = GroupEntry::Commit(bundle.commit.clone());
                let mut out = self.make_up(bundle.group, entry);
                let head = self.shown_head(&bundle.group);
                let seq = head.size.saturating_sub(1);
                let answer = Answer::Accepted { seq, head };
                out.push((conn, ServiceFrame::Response { id: *id, answer }));
                return out;
            }
            Request::SubscribeGroup { group, from } => {
                for (_, frame) in &mut out {
                    self.shorten_group(group, frame);
                }
                let more = self.made_up_from(group, *from);
                out.extend(more.map(|frame| (conn, frame)));
            }
            Request::OpenDocument {
                from: Some(from), ..
            } if self.lies.begins_later => {
                for (_, frame) in &mut out {
                    if let ServiceFrame::Response {
                        answer: Answer::Opened(opened),
                        ..
                    } = frame
                    {
                        opened.from = from.saturating_add(1);
                    }
                }
            }
            Request::OpenDocument {
                group, document, ..
            } if self.lies.forget > 0 => {
                let log = LogId {
                    group: *group,
                    document: *document,
                };
                for (_, frame) in &mut out {
                    self.shorten_document(log, frame);
                }
            }
            Request::GetWraps { .. } => {
                for (_, frame) in &mut out {
                    if let ServiceFrame::Response {
                        answer: Answer::Wraps { wraps },
                        ..
                    } = frame
                    {
                        wraps.retain(|wrap| !self.lies.hidden.contains(&of(wrap)));
                    }
                }
            }
            _ => return out,
        }
        out.retain(|(_, frame)| match frame {
            ServiceFrame::GroupEntries { entries, .. } => !entries.is_empty(),
            ServiceFrame::Deliver { records, .. } => !records.0.is_empty(),
            _ => true,
        });
        out
    }

    /// Notes what came to be, honestly or not.
    pub(super) fn watch(&mut self, conn: ConnId, frame: &ClientFrame, out: &Outgoing) {
        let ClientFrame::Request { body, .. } = frame else {
            return;
        };
        let own = out.iter().filter(|(to, _)| *to == conn);
        if own.map(|(_, frame)| frame).any(|it| refused(it).is_some()) {
            return;
        }
        match body {
            Request::PutGroupInfo { .. } => self.lies.group_info = None,
            Request::PutWrap { wrap } => self.has_wrap(wrap),
            Request::Commit(bundle) => self.has_wrap(&bundle.wrap),
            _ => {}
        }
    }

    fn has_wrap(&mut self, wrap: &RootWrap) {
        self.lies.hidden.remove(&of(wrap));
        self.wraps.push(wrap.clone());
    }

    fn made_up_from(&self, group: &GroupId, from: u64) -> Option<ServiceFrame> {
        let made_up = self.lies.made_up.get(group)?;
        let size = self.size_of(group);
        let known = usize::try_from(from.saturating_sub(size)).unwrap_or(usize::MAX);
        Some(ServiceFrame::GroupEntries {
            group: *group,
            first_seq: size.max(from),
            entries: made_up.iter().skip(known).cloned().collect(),
        })
    }

    /// The head of a group's log with what is made up.
    fn shown_head(&self, group: &GroupId) -> Head {
        let Some(state) = self.state(group) else {
            return Head::EMPTY;
        };
        let mut frontier = state.frontier;
        for entry in self.lies.made_up.get(group).into_iter().flatten() {
            frontier.push(entry.leaf());
        }
        frontier.head()
    }

    fn shorten_group(&self, group: &GroupId, frame: &mut ServiceFrame) {
        let forget = self.lies.forget;
        let made_up = self.lies.made_up.contains_key(group);
        match frame {
            ServiceFrame::Response {
                answer: Answer::Subscribed { head, signed, .. },
                ..
            } => {
                if forget > 0 {
                    *head = self.group_head_at(group, head.size.saturating_sub(forget));
                } else if made_up {
                    *head = self.shown_head(group);
                }
                if signed.is_some() {
                    let log = LogId::of_group(*group);
                    *signed = Some(self.desk.signing.sign(&log, *head));
                }
            }
            ServiceFrame::GroupEntries {
                first_seq, entries, ..
            } => {
                let size = self.size_of(group).saturating_sub(forget);
                let count = size.saturating_sub(*first_seq);
                entries.truncate(usize::try_from(count).unwrap_or(usize::MAX));
            }
            _ => {}
        }
    }

    fn group_head_at(&self, group: &GroupId, size: u64) -> Head {
        let bounds = Bounds {
            from: size.saturating_sub(1),
            end: size,
            bytes: usize::MAX,
        };
        let entries = ready(self.desk.store.clone().entries(group, bounds));
        let entry = entries.unwrap_or_default().pop();
        entry.map_or(Head::EMPTY, |entry| Head {
            size,
            root: entry.root,
        })
    }

    fn shorten_document(&self, log: LogId, frame: &mut ServiceFrame) {
        let document = self.desk.log(log);
        let Ok((row, _)) = document.stands() else {
            return;
        };
        let size = row.frontier.size().saturating_sub(self.lies.forget).max(1);
        match frame {
            ServiceFrame::Response {
                answer: Answer::Opened(opened),
                ..
            } => {
                let root = document.root_at(size).ok().flatten();
                let root = root.unwrap_or(Hash::ZERO);
                opened.signed = self.desk.signing.sign(&log, Head { size, root });
                opened.from = opened.from.min(size);
            }
            ServiceFrame::Deliver {
                first_seq, records, ..
            } => {
                let count = size.saturating_sub(first_seq.0);
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                records.0.truncate(count);
            }
            _ => {}
        }
    }
}
