//! The connection to the service: login, requests and their answers, frames.

mod document;
mod pending;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{
    Answer, ClientFrame, LOGIN_LABEL, LoginStatement, Request, ServiceFrame,
};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::service::Generation;
use conclave_proto::{DocumentId, GroupId, LifeToken, Refusal, UnixMs, UserId};

pub(crate) use self::document::{DocLink, NotOpen, Open, SnapshotLink};
pub(crate) use self::pending::{DocPending, GroupPending, IntentPending, Pending};
use crate::cx::{Cx, Post};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::event::Event;
use crate::finding::{About, End, FindingKind, Step, Suspect};
use crate::give_back::ToGiveBack;
use crate::life::Copy;
use crate::merge::Merging;
use crate::print::Hidden;
use crate::service::Meeting;
use crate::timers::TimerKind;
use crate::work::{DocFrame, DocWork, GroupWork};

/// Most unknown groups that are told of.
const MEMBERSHIPS: usize = 64;

/// Where something stands that this device publishes of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Publishing {
    #[default]
    Idle,
    /// It was sent, and is not answered yet.
    Sent,
    /// The service did not take it: it goes again when its timer comes.
    Planned,
}

/// State of the connection. All of it is forgotten when the connection goes.
#[derive(Debug, Default)]
pub(crate) struct Link {
    origin: String,
    token: Option<Hidden<Vec<u8>>>,
    up: bool,
    /// Nothing led to the service when it was tried last.
    unreachable: bool,
    pub(crate) online: bool,
    pub(crate) refused: Option<Refusal>,
    requests: BTreeMap<u64, Pending>,
    next_request: u64,
    channels: BTreeMap<u64, (GroupId, DocumentId)>,
    documents: BTreeMap<(GroupId, DocumentId), DocLink>,
    /// Documents of which the service delivered what it should have refused: first it is seen whether its log goes on from what is here.
    pub(crate) doubted: BTreeSet<(GroupId, DocumentId)>,
    /// Those of which it does.
    pub(crate) compared: BTreeSet<(GroupId, DocumentId)>,
    next_ask: u64,
    /// Documents whose turn to be opened again has come, in their order.
    pub(crate) to_open: VecDeque<(GroupId, DocumentId)>,
    /// When the last of them was.
    pub(crate) opened_again: UnixMs,
    pub(crate) key_packages: u32,
    /// Whether the service has a key package for when the others have run out.
    pub(crate) last_resort: bool,
    /// Key packages are put there.
    pub(crate) refilling: Publishing,
    /// Key packages are taken back.
    pub(crate) clearing: Publishing,
    /// The own device list is published.
    publishing: Publishing,
    /// The generation in which the service is, as it named itself.
    pub(crate) named: Option<Generation>,
    /// Logs of which the service was shown a head of its own that it does not lead to.
    pub(crate) reported: BTreeSet<(GroupId, Option<DocumentId>)>,
    /// Logs that a put-back service lacks something of, in their order.
    pub(crate) to_give_back: VecDeque<ToGiveBack>,
    /// The one whose turn it is.
    pub(crate) giving_back: Option<ToGiveBack>,
    /// Logs that the service was put back of, and that are to be returned to it.
    pub(crate) returning: BTreeSet<(GroupId, Option<DocumentId>)>,
    /// Logs that the service has taken something back of.
    pub(crate) returned: BTreeSet<(GroupId, Option<DocumentId>)>,
    /// Logs of which it takes nothing now, or of which this device has nothing to give.
    pub(crate) not_taken: BTreeSet<(GroupId, Option<DocumentId>)>,
    /// Documents that were asked for from their active snapshot on, since the service has what is before by hash only.
    pub(crate) from_base: BTreeSet<(GroupId, DocumentId)>,
    /// Documents that began anew since they were last looked at later.
    pub(crate) begun_anew: BTreeSet<(GroupId, DocumentId)>,
    /// Documents that are to begin anew from the service's log, in their order.
    pub(crate) to_merge: VecDeque<(GroupId, DocumentId)>,
    /// The one whose turn it is.
    pub(crate) merging: Option<Merging>,
    /// Key packages were replaced because the service may have lost or used up what it shows.
    pub(crate) packages_doubted: bool,
    /// Questions about the own user's newest device list.
    checking: usize,
    /// Users whose newest list the service has shown on this connection, and has told of no other since. By the list of another time a device
    /// would be taken for gone that has come since.
    pub(crate) lists_seen: BTreeSet<UserId>,
    /// Users whose lists are to be looked up.
    pub(crate) to_look_up: BTreeSet<UserId>,
    /// Those who were looked up on this connection, or are to be.
    pub(crate) looked_up: BTreeSet<UserId>,
    /// The service has not said yet which groups this device is in, and with that which invitations wait.
    pub(crate) memberships_asked: bool,
    /// Invitations that wait at the service, because there was no room for them here, and who invites.
    pub(crate) left_invitations: BTreeMap<GroupId, UserId>,
}

impl Link {
    /// Number of the generation in which the service is.
    pub(crate) fn generation(&self) -> u64 {
        self.named.map_or(0, |generation| generation.number)
    }

    /// What this device publishes of itself, and has not been answered yet.
    pub(crate) fn publishing_count(&self) -> usize {
        let all = [self.publishing, self.refilling, self.clearing];
        let going = all.into_iter().filter(|it| *it != Publishing::Idle);
        going.count() + self.checking
    }

    /// Logs that are being returned, or begin anew: those of which the service was not asked yet whether it takes them, a group's log before its
    /// documents'.
    pub(crate) fn returning_count(&self) -> usize {
        let asks = |log: &&(GroupId, Option<DocumentId>)| {
            let (group, document) = **log;
            let waits = document.is_some() && self.returning.contains(&(group, None));
            !waits && !self.not_taken.contains(*log)
        };
        let returned = self.returning.iter().filter(asks).count();
        let merged = self.to_merge.len() + usize::from(self.merging.is_some());
        returned + merged
    }

    /// What is asked of the service.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Pending> {
        self.requests.values()
    }

    /// Whether others can add this device: its list is published, and key packages are there.
    pub(crate) fn is_invitable(&self) -> bool {
        let packages = self.key_packages > 0 || self.last_resort;
        let idle = [self.publishing, self.clearing] == [Publishing::Idle; 2];
        self.online && packages && idle
    }
}

impl Cx {
    pub(crate) fn say_hello(&mut self) {
        let leaves = self.device.life().copy == Copy::BecomesNew;
        if !self.link.up || self.link.online || leaves {
            return;
        }
        if let Some(credential) = self.device.credential() {
            let credential = credential.to_bytes().into();
            self.send(ClientFrame::Hello {
                versions: vec![PROTOCOL_VERSION],
                credential,
            });
        }
    }

    /// Whether nothing led to the service when it was tried last.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.link.unreachable
    }

    pub(crate) fn send(&mut self, frame: ClientFrame) {
        if self.link.up {
            self.out.sends.push(frame);
        }
    }

    /// Asks the service. The answer may never come: then the connection goes and durable state asks again.
    pub(crate) fn request(&mut self, body: Request, what: Pending) {
        if !self.link.online {
            return;
        }
        self.link.next_request += 1;
        let id = self.link.next_request;
        self.link.requests.insert(id, what);
        self.send(ClientFrame::Request {
            id: Varint(id),
            body,
        });
    }

    /// As [`Self::request`], for a group.
    pub(crate) fn request_for(&mut self, group: GroupId, body: Request, what: GroupPending) {
        self.request(body, Pending::Group(group, what));
    }

    /// Asks the service to open a document, or for the last record that is here before that.
    pub(crate) fn ask_document(
        &mut self,
        group: GroupId,
        id: DocumentId,
        body: Request,
        what: fn(DocumentId, u64) -> GroupPending,
    ) {
        if !self.link.online {
            return;
        }
        if self.is_receive_paused(group, id) {
            let link = DocLink::Refused(NotOpen::Paused);
            return self.link.set_document(group, id, link);
        }
        self.link.next_ask += 1;
        let ask = self.link.next_ask;
        self.link.set_document(group, id, DocLink::Asking { ask });
        self.request_for(group, body, what(id, ask));
    }

    /// A document is not asked for any more, and not open any more.
    pub(crate) fn close_document(&mut self, group: GroupId, id: DocumentId) {
        if let Some(channel) = self.link.forget_document(group, id) {
            self.leave_room(group, id);
            self.close_channel(channel);
        }
    }

    pub(crate) fn close_channel(&mut self, channel: u64) {
        let channel = Varint(channel);
        self.request(Request::CloseDocument { channel }, Pending::Quiet);
    }

    /// Hangs up, to connect again.
    pub(crate) fn hang_up(&mut self, why: &str) {
        if self.link.up {
            self.out.close_connection = Some(why.to_owned());
        }
    }

    fn login(&mut self, nonce: [u8; 32], service_key: [u8; 32]) {
        let life = *self.device.life();
        let statement = LoginStatement {
            nonce,
            origin: self.link.origin.as_bytes().into(),
            service_key,
            device: self.device.id(),
            life: life.number,
            life_token: life.token,
            take_over: u8::from(life.copy == Copy::TakesOver),
        };
        let signature = self.device.key().sign(LOGIN_LABEL, &encode(&statement));
        self.send(ClientFrame::Login {
            origin: statement.origin,
            signature,
            token: self.link.token.clone().map(|token| token.0.into()),
            life: statement.life,
            life_token: statement.life_token,
            take_over: statement.take_over,
        });
    }

    fn ready(&mut self, key_packages: u32, last_resort: bool, life: (u64, LifeToken)) {
        self.link.online = true;
        self.link.refused = None;
        self.link.key_packages = key_packages;
        self.link.last_resort = last_resort;
        self.event(Event::Online);
        self.let_in(life.0, life.1);
        if self.device.refresh_list(self.latest()) {
            self.device.save(&mut self.out.writes);
        }
        self.publish_list();
        self.clear_key_packages();
        self.refill(!last_resort);
        self.plan_packages(0);
        self.expect_siblings();
        self.compare_memberships();
    }

    /// A store that was restored from before it joined a group does not know of it; the service does.
    fn compare_memberships(&mut self) {
        self.link.memberships_asked = true;
        self.request(Request::GetMemberships, Pending::Memberships);
    }

    /// The service refused the own device list for a while, which is over.
    pub(crate) fn publish_again(&mut self) {
        if self.link.publishing == Publishing::Planned {
            self.link.publishing = Publishing::Idle;
            self.publish_list();
        }
    }

    /// Publishes the own device list; the service keeps the newest.
    pub(crate) fn publish_list(&mut self) {
        // One at a time: lists that overtake each other would be refused as old.
        if !self.link.online || self.link.publishing != Publishing::Idle {
            return;
        }
        let Some(list) = self.device.list() else {
            return;
        };
        let (seq, list) = (list.list.seq, list.to_bytes());
        self.link.publishing = Publishing::Sent;
        let list = list.into();
        self.request(Request::PutDeviceList { list }, Pending::OwnList { seq });
    }

    fn list_published(&mut self, sent: u64, answer: &Answer) {
        self.link.publishing = Publishing::Idle;
        if *answer == Answer::Done && self.device.list_published(sent) {
            self.device.save(&mut self.out.writes);
        }
        let newest = self.device.list().map_or(0, |list| list.list.seq);
        match answer {
            Answer::Refused(refusal) if refusal.is_retryable() && newest == sent => {
                self.link.publishing = Publishing::Planned;
                let delay = self.jitter_after(refusal, 500, 3_000);
                self.wake(delay, TimerKind::Publish);
            }
            _ if newest > sent => self.publish_list(),
            // Another list came before: the newest one is asked for. Who is off the list is let in no more, and is told so.
            Answer::Refused(Refusal::StaleDeviceList { .. } | Refusal::Forbidden { .. }) => {}
            Answer::Refused(refusal) => {
                let error = EngineError::Refused(refusal.clone());
                let what = FindingKind::failed(Step::DeviceList, &error);
                self.found_of_device(what, Some(Suspect::Service));
            }
            _ => {}
        }
        if let Some(user) = self.device.user() {
            self.check_devices(user);
        }
    }

    /// Looks at a user's newest device list: the own user's new devices are added to every group.
    pub(crate) fn check_devices(&mut self, user: UserId) {
        self.link.lists_seen.remove(&user);
        if Some(user) != self.device.user() {
            self.event(Event::DevicesChanged { user });
            self.post(Post::DevicesOf(user));
            return;
        }
        // Offline nothing is asked: with the next connection it is.
        self.link.checking += usize::from(self.link.online);
        self.request(Request::GetDeviceList { user }, Pending::Devices);
    }
}

impl Engine {
    pub(crate) fn connection_up(&mut self, origin: String, token: Option<Vec<u8>>) {
        self.end_connection();
        self.cx.link.origin = origin;
        self.cx.link.token = token.map(Hidden);
        self.cx.link.up = true;
        self.cx.say_hello();
    }

    pub(crate) fn connection_down(&mut self) {
        if !self.end_connection() {
            // It led to nothing that lets this device in.
            self.unreachable();
        }
    }

    /// Whether this device had been let in.
    fn end_connection(&mut self) -> bool {
        let was_online = self.cx.link.online;
        self.cx.clocks.disconnected();
        self.cx.leave_rooms();
        self.cx.pulses.disconnected();
        self.cx.link = Link {
            refused: self.cx.link.refused.take(),
            ..Link::default()
        };
        if was_online {
            self.cx.event(Event::Offline);
        }
        self.groups_offline();
        was_online
    }

    pub(crate) fn unreachable(&mut self) {
        if !self.cx.link.up && !std::mem::replace(&mut self.cx.link.unreachable, true) {
            self.answer_offline();
        }
    }

    pub(crate) fn frame(&mut self, frame: ServiceFrame) {
        match frame {
            ServiceFrame::Challenge {
                version: _,
                nonce,
                service_key,
                now,
                generation,
            } => {
                self.cx.note_clock(now);
                if self.cx.meet(service_key, generation) == Meeting::LogIn {
                    self.cx.login(nonce, service_key);
                }
            }
            ServiceFrame::Ready {
                now,
                key_packages,
                last_resort,
                life,
                next,
            } => {
                self.cx.note_clock(now);
                self.cx.ready(key_packages, last_resort != 0, (life, next));
                self.groups_online();
            }
            ServiceFrame::Response { id, answer } => self.answered(id.0, answer),
            ServiceFrame::GroupEntries {
                group,
                first_seq,
                entries,
            } => self.with_group(group, GroupWork::Entries { first_seq, entries }),
            ServiceFrame::NewAuthor { channel, author } => {
                self.on_channel(channel.0, DocFrame::NewAuthor(author));
            }
            ServiceFrame::Deliver {
                channel,
                first_seq,
                records,
            } => {
                let (first_seq, records) = (first_seq.0, records.0);
                self.on_channel(channel.0, DocFrame::Deliver { first_seq, records });
            }
            ServiceFrame::Ack {
                channel,
                next_clock,
                first_seq,
                count,
            } => self.on_channel(
                channel.0,
                DocFrame::Acked {
                    next_clock: next_clock.0,
                    first_seq: first_seq.0,
                    count: count.0,
                },
            ),
            ServiceFrame::AppendRefused {
                channel,
                first_clock,
                refusal,
            } => self.on_channel(
                channel.0,
                DocFrame::Refused {
                    first_clock: first_clock.0,
                    refusal,
                },
            ),
            ServiceFrame::Welcome(delivery) => self.welcome(delivery),
            ServiceFrame::KeyPackagesLow { left } => {
                self.cx.link.key_packages = left;
                self.cx.refill(false);
            }
            ServiceFrame::Shown { channel, items } => self.presence_came(channel.0, items.0),
            ServiceFrame::Pong => {}
            ServiceFrame::Head { log, signed } => {
                let work = GroupWork::Head(log.document, Box::new(signed));
                self.with_group(log.group, work);
            }
            ServiceFrame::Goodbye { why, .. } => {
                match why {
                    // Another copy of this store has logged in, or this very one over another connection: the next login shows which.
                    Refusal::OtherLife { .. } if self.cx.link.online => {}
                    why => self.cx.kept_out(why),
                }
                self.cx.out.close_connection = Some("the service said goodbye".to_owned());
            }
            ServiceFrame::DeviceListChanged { user } => self.cx.check_devices(user),
            ServiceFrame::Asked {
                group,
                device,
                what,
                ..
            } => self.with_group(group, GroupWork::Plea(device, what)),
        }
    }

    fn on_channel(&mut self, channel: u64, frame: DocFrame) {
        if let Some((group, document)) = self.cx.link.channels.get(&channel).copied() {
            self.with_document(group, document, DocWork::Frame { channel, frame });
        }
    }

    /// An answer finds what it is for once. One that was not asked for is passed over.
    fn answered(&mut self, id: u64, answer: Answer) {
        let Some(what) = self.cx.link.requests.remove(&id) else {
            // Before login the service answers refusals without a request.
            if let Answer::Refused(refusal) = answer
                && !self.cx.link.online
            {
                self.cx.link.refused = Some(refusal);
            }
            return;
        };
        match what {
            Pending::Quiet => {}
            Pending::Memberships => self.memberships_answered(answer),
            Pending::OwnList { seq } => self.cx.list_published(seq, &answer),
            Pending::ClearPackages => self.cx.packages_cleared(&answer),
            Pending::Refill { made, last_resort } => {
                self.cx.packages_put(made, last_resort, answer);
            }
            Pending::Devices => {
                self.cx.link.checking = self.cx.link.checking.saturating_sub(1);
                self.own_list_answered(&answer);
            }
            Pending::DevicesOf(user) => self.list_answered(user, &answer),
            Pending::Report(group, document) => {
                let again = matches!(&answer, Answer::Refused(refusal) if refusal.is_retryable());
                if again {
                    // It is shown again when the log is looked at again.
                    self.cx.link.reported.remove(&(group, document));
                }
            }
            Pending::GiveBack(group, document) => {
                self.cx.give_back_answered(group, document, &answer);
            }
            Pending::Stray(group) => self.stray_offered(group, answer),
            Pending::Group(group, what) => {
                self.with_group(group, GroupWork::Answer(what, Box::new(answer)))
            }
            Pending::Document(group, document, what) => {
                self.with_document(group, document, DocWork::Answer(what, Box::new(answer)));
            }
        }
    }

    fn memberships_answered(&mut self, answer: Answer) {
        self.cx.link.memberships_asked = false;
        let Answer::Memberships { groups } = answer else {
            return;
        };
        let named: BTreeSet<GroupId> = groups.into_iter().collect();
        for group in self.cx.findings.groups_in_state(End::Known) {
            if self.knows_of(&group) || !named.contains(&group) {
                self.cx.ended(About::Group(group), End::Known);
            }
        }
        for group in named.into_iter().take(MEMBERSHIPS) {
            if !self.knows_of(&group) {
                let what = FindingKind::MembershipUnknown { invited: false };
                self.cx.finding(group, None, what, None);
            }
        }
    }

    /// Whether a group is, or was, one of this device's, or an invitation to it waits.
    fn knows_of(&self, group: &GroupId) -> bool {
        self.groups.contains_key(group)
            || self.invitations.contains_key(group)
            || self.cx.link.left_invitations.contains_key(group)
    }
}
