//! Connections, and the way from their frames to what is ordered and back.

use std::collections::{BTreeMap, BTreeSet};

use conclave_order::memory::Memory;
use conclave_order::op::identity::Newcomer;
use conclave_order::op::returned_group::Offer as GroupOffer;
use conclave_order::query::document::Base;
use conclave_order::query::group::Core;
use conclave_order::turn::Turns;
use conclave_order::{Asked, Asker, Event, Keys, Op, Rows, Session, query};
use conclave_proto::codec::{Bytes, Varint};
use conclave_proto::frame::{Answer, ClientFrame, Request, ServiceFrame};
use conclave_proto::{Author, DeviceId, GroupId, Refusal, SessionId, UnixMs};
use conclave_rules::LogId;

use super::heads::Told;
use super::log::{self, Log};
use super::{ConnId, Outgoing, Signing};
use crate::rows::ready;

/// A document open on a connection.
#[derive(Clone, Copy)]
pub(super) struct Channel {
    pub(super) log: LogId,
    pub(super) author: Author,
    /// The snapshot that delivery began with, if it did.
    pub(super) base: Option<Base>,
}

#[derive(Clone, Default)]
pub(super) struct Conn {
    pub(super) hello: Option<Newcomer>,
    pub(super) who: Option<Asker>,
    pub(super) follows: BTreeSet<GroupId>,
    pub(super) channels: BTreeMap<u64, Channel>,
    /// Under which session presence was shown last on each channel.
    pub(super) sessions: BTreeMap<u64, SessionId>,
}

/// The honest service.
pub(super) struct Desk {
    pub(super) now: UnixMs,
    pub(super) signing: Signing,
    /// All that is kept.
    pub(super) store: Memory,
    pub(super) conns: BTreeMap<ConnId, Conn>,
    /// Documents that were opened, in the order of their channels.
    pub(super) numbers: Vec<LogId>,
    /// Public states as they are stored, where they are still at hand.
    cores: BTreeMap<GroupId, Core>,
    /// Who may begin each group's next epoch.
    pub(super) turns: BTreeMap<GroupId, Turns>,
    /// Logs whose heads were told within a second.
    pub(super) told: BTreeMap<LogId, Told>,
    /// The session of whoever asks now.
    session: Option<Session>,
    /// It takes what comes over older sessions too.
    pub(super) is_unfenced: bool,
    pub(super) out: Outgoing,
}

impl Default for Desk {
    fn default() -> Self {
        let mut desk = Self {
            now: UnixMs::default(),
            signing: Signing::default(),
            store: Memory::new(),
            conns: BTreeMap::new(),
            numbers: Vec::new(),
            cores: BTreeMap::new(),
            session: None,
            is_unfenced: false,
            turns: BTreeMap::new(),
            told: BTreeMap::new(),
            out: Vec::new(),
        };
        desk.found();
        desk
    }
}

impl Clone for Desk {
    fn clone(&self) -> Self {
        Self {
            now: self.now,
            signing: self.signing.clone(),
            store: self.store.copy(),
            conns: self.conns.clone(),
            numbers: self.numbers.clone(),
            cores: BTreeMap::new(),
            turns: self.turns.clone(),
            told: self.told.clone(),
            session: None,
            is_unfenced: self.is_unfenced,
            out: self.out.clone(),
        }
    }
}

impl Desk {
    pub(super) fn connect(&mut self, id: ConnId) {
        self.conns.insert(id, Conn::default());
    }

    pub(super) fn disconnect(&mut self, id: ConnId) {
        self.conns.remove(&id);
    }

    pub(super) fn disconnect_all(&mut self) {
        self.conns.clear();
    }

    pub(super) fn take_group(&mut self, group: &GroupId, from: &Self) {
        self.store.take_group(group, &from.store);
        self.cores.remove(group);
    }

    pub(super) fn push(&mut self, conn: ConnId, frame: ServiceFrame) {
        if self.conns.contains_key(&conn) {
            self.out.push((conn, frame));
        }
    }

    /// Says why, and hangs up.
    pub(super) fn hang_up(&mut self, conn: ConnId, why: Refusal) {
        let is_in = self.conns.get(&conn).is_some_and(|conn| conn.who.is_some());
        let retry_after_ms = match why {
            // Only a person changes what it is.
            Refusal::OtherLife { .. } if !is_in => 300_000,
            _ => 0,
        };
        let goodbye = ServiceFrame::Goodbye {
            why,
            retry_after_ms,
        };
        self.push(conn, goodbye);
        self.disconnect(conn);
    }

    pub(super) fn conns_of(&self, device: &DeviceId) -> Vec<ConnId> {
        let is = |conn: &Conn| conn.who.is_some_and(|who| who.device == *device);
        let found = self.conns.iter().filter(|(_, conn)| is(conn));
        found.map(|(id, _)| *id).collect()
    }

    /// Runs an operation for whoever asks now.
    pub(super) fn run(&mut self, op: Op) -> Result<Event, Refusal> {
        let session = self.session;
        log::run(&mut self.store, Asked { session, op })
    }

    /// Loads rows.
    pub(super) fn load(&self, want: impl FnOnce(&mut Keys) + Send) -> Result<Rows, Refusal> {
        log::load(&self.store, want)
    }

    /// A document's log.
    pub(super) fn log(&self, id: LogId) -> Log {
        Log::of(&self.store, id).over(self.session)
    }

    /// A group's public state as it is stored. It is given back with [`Desk::keep`] unless something was refused on the way.
    pub(super) fn core(&mut self, group: GroupId) -> Result<Core, Refusal> {
        let rows = self.load(|keys| _ = keys.groups.insert(group))?;
        let row = rows.groups.get(&group).copied().flatten();
        let row = row.ok_or(Refusal::UnknownGroup)?;
        match self.cores.remove(&group) {
            Some(core) if core.version == row.version => Ok(core),
            _ => self.restore(group),
        }
    }

    /// As [`Desk::core`], read anew.
    pub(super) fn restore(&self, group: GroupId) -> Result<Core, Refusal> {
        let restored = ready(query::group::restore(
            &mut self.store.clone(),
            group,
            usize::MAX,
        ));
        let core = restored.map_err(|_| Refusal::Storage)?;
        core.ok_or(Refusal::UnknownGroup)
    }

    pub(super) fn keep(&mut self, core: Core) {
        self.cores.insert(core.state.state().group, core);
    }

    /// A group that the device is a member of. It does not exist for others.
    pub(super) fn joined(&mut self, group: GroupId, by: Asker) -> Result<Core, Refusal> {
        let core = self.core(group)?;
        if core.state.state().is_member(&by.device) {
            return Ok(core);
        }
        self.keep(core);
        Err(Refusal::UnknownGroup)
    }

    /// Takes a frame; gives what it makes the service send, in order.
    pub(super) fn handle(&mut self, conn: ConnId, frame: ClientFrame) -> Outgoing {
        self.end_holds();
        let who = self.conns.get(&conn).and_then(|conn| conn.who);
        let fenced = who.filter(|_| !self.is_unfenced);
        self.session = fenced.map(|who| who.session());
        let done = match (frame, who) {
            _ if !self.conns.contains_key(&conn) => Ok(()),
            (frame, None) => self.log_in(conn, frame),
            (ClientFrame::Request { id, body }, Some(by)) => {
                match self.request(conn, by, id, body) {
                    Ok(None) => {}
                    Ok(Some(answer)) => self.push(conn, ServiceFrame::Response { id, answer }),
                    Err(refusal) => {
                        let answer = Answer::Refused(refusal);
                        self.push(conn, ServiceFrame::Response { id, answer });
                    }
                }
                Ok(())
            }
            (
                ClientFrame::Append {
                    channel,
                    epoch,
                    first_clock,
                    records,
                },
                Some(_),
            ) => {
                let arrived = conclave_order::op::append::Arrived {
                    epoch: epoch.0,
                    first_clock: first_clock.0,
                    records: records.0,
                };
                self.append(conn, channel.0, &arrived);
                Ok(())
            }
            (ClientFrame::Show { channel, item }, Some(_)) => {
                self.show(conn, channel.0, item);
                Ok(())
            }
            (ClientFrame::Ping, Some(_)) => {
                self.push(conn, ServiceFrame::Pong);
                Ok(())
            }
            (ClientFrame::Hello { .. } | ClientFrame::Login { .. }, Some(_)) => {
                Err(Refusal::Malformed)
            }
        };
        if let Err(why) = done {
            self.hang_up(conn, why);
        }
        self.tell_heads();
        self.session = None;
        std::mem::take(&mut self.out)
    }

    /// None: answered already, in its place in a log.
    fn request(
        &mut self,
        conn: ConnId,
        by: Asker,
        id: Varint,
        body: Request,
    ) -> Result<Option<Answer>, Refusal> {
        match body {
            Request::OpenDocument {
                group,
                document,
                instance,
                from,
            } => {
                let log = LogId { group, document };
                self.open(conn, by, id, (log, instance), from)?;
                Ok(None)
            }
            Request::SubscribeGroup { group, from } => {
                self.follow(conn, by, id, group, from)?;
                Ok(None)
            }
            Request::CloseDocument { channel } => {
                let open = self.conns.get_mut(&conn);
                let closed = open.and_then(|conn| conn.channels.remove(&channel.0));
                closed.ok_or(Refusal::NoChannel)?;
                Ok(Some(Answer::Done))
            }
            Request::GetHead { log } => {
                let core = self.core(log.group)?;
                let is_member = core.state.state().is_member(&by.device);
                self.keep(core);
                if !is_member {
                    return Err(Refusal::UnknownGroup);
                }
                let log = LogId::from(log);
                let head = self.head_of(&log).ok_or(Refusal::UnknownDocument)?;
                let signed = self.signing.sign(&log, head);
                Ok(Some(Answer::Head { signed }))
            }
            Request::Report {
                generation,
                log,
                signed,
            } => self.report(by, (generation, log), signed).map(Some),
            Request::ReturnGroup {
                group,
                from,
                entries,
                group_info,
                wrap,
                bundles,
            } => {
                let group_info = group_info.as_ref().map(Bytes::as_slice);
                let offer = GroupOffer {
                    device: by.device,
                    group,
                    from,
                    entries: &entries,
                    group_info,
                    wrap: wrap.as_ref(),
                    bundles: &bundles,
                    now: self.now,
                };
                self.give_back_group(offer).map(Some)
            }
            Request::ReturnDocument {
                group,
                document,
                base,
                from,
                items,
            } => {
                let log = LogId { group, document };
                self.give_back(by, (log, base), from, items).map(Some)
            }
            Request::PutSnapshot { record } => self.put_snapshot(conn, by, record).map(Some),
            Request::GetRecords {
                group,
                document,
                from,
                count,
            } => {
                let log = LogId { group, document };
                self.records(conn, by, log, from, count).map(Some)
            }
            Request::PutDeviceList { .. }
            | Request::GetDeviceList { .. }
            | Request::PutKeyPackages { .. }
            | Request::ClaimKeyPackages { .. }
            | Request::ClearKeyPackages
            | Request::ConfirmLife => self.ask_of_devices(by, body).map(Some),
            other => self.ask_of_group(by, other).map(Some),
        }
    }
}
