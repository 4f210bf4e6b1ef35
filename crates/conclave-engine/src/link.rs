//! The connection to the service: login, requests and their answers, frames.

use std::collections::{BTreeMap, BTreeSet};

use conclave_identity::SignedDeviceList;
use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{
    Answer, ClientFrame, LOGIN_LABEL, LoginStatement, Request, ServiceFrame,
};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::{DocumentId, GroupId, Refusal, UserId};

use crate::command::Event;
use crate::engine::{Engine, TimerKind};
use crate::finding::{About, End, FindingKind};

/// Most unknown groups that are told of.
const MEMBERSHIPS: usize = 64;

/// What to do with an answer.
pub(crate) type AnswerWork = Box<dyn FnOnce(&mut Engine, Answer) + Send>;

/// State of the connection. All of it is forgotten when the connection goes.
#[derive(Default)]
pub(crate) struct Link {
    origin: String,
    token: Option<Vec<u8>>,
    up: bool,
    pub(crate) online: bool,
    pub(crate) refused: Option<Refusal>,
    requests: BTreeMap<u64, AnswerWork>,
    next_request: u64,
    pub(crate) channels: BTreeMap<u64, (GroupId, DocumentId)>,
    pub(crate) key_packages: u32,
    /// Whether the service has a key package for when the others have run out.
    pub(crate) last_resort: bool,
    /// Key packages are on their way, or go again soon.
    pub(crate) refilling: bool,
    /// Key packages are being taken back.
    pub(crate) clearing: bool,
    /// The own device list is on its way.
    publishing: bool,
    /// Key packages were replaced because the service may have lost or used up what it shows.
    pub(crate) packages_doubted: bool,
    /// Questions about the own user's newest device list.
    checking: usize,
    /// The service has not said yet which groups this device is in, and with that which invitations wait.
    pub(crate) memberships_asked: bool,
    /// Invitations that wait at the service, because there was no room for them here, and who invites.
    pub(crate) left_invitations: BTreeMap<GroupId, UserId>,
    /// Documents that were looked at on this connection.
    pub(crate) visited: BTreeSet<(GroupId, DocumentId)>,
}

impl Link {
    /// What this device publishes of itself, and has not been answered yet.
    pub(crate) fn publishing_count(&self) -> usize {
        let flags = [self.publishing, self.refilling, self.clearing];
        flags.into_iter().filter(|flag| *flag).count() + self.checking
    }

    /// Whether others can add this device: its list is published, and key packages are there.
    pub(crate) fn is_invitable(&self) -> bool {
        let packages = self.key_packages > 0 || self.last_resort;
        self.online && packages && !self.publishing && !self.clearing
    }
}

impl Engine {
    pub(crate) fn connection_up(&mut self, origin: String, token: Option<Vec<u8>>) {
        self.connection_down();
        self.link.origin = origin;
        self.link.token = token;
        self.link.up = true;
        self.say_hello();
    }

    pub(crate) fn say_hello(&mut self) {
        if !self.link.up || self.link.online {
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

    pub(crate) fn connection_down(&mut self) {
        let was_online = self.link.online;
        self.clocks.disconnected();
        self.link = Link {
            refused: self.link.refused.take(),
            ..Link::default()
        };
        if was_online {
            self.event(Event::Offline);
        }
        self.groups_offline();
        self.documents_offline();
    }

    pub(crate) fn send(&mut self, frame: ClientFrame) {
        if self.link.up {
            self.out.sends.push(frame);
        }
    }

    /// Asks the service. The answer may never come: then the connection goes and durable state asks again.
    pub(crate) fn request(&mut self, body: Request, work: AnswerWork) {
        if !self.link.online {
            return;
        }
        self.link.next_request += 1;
        let id = self.link.next_request;
        self.link.requests.insert(id, work);
        self.send(ClientFrame::Request {
            id: Varint(id),
            body,
        });
    }

    /// Hangs up, to connect again.
    pub(crate) fn hang_up(&mut self, why: &str) {
        if self.link.up {
            self.out.close_connection = Some(why.to_owned());
        }
    }

    pub(crate) fn frame(&mut self, frame: ServiceFrame) {
        match frame {
            ServiceFrame::Challenge {
                version: _,
                nonce,
                service_key,
                now,
            } => {
                self.note_clock(now);
                self.login(nonce, service_key);
            }
            ServiceFrame::Ready {
                now,
                key_packages,
                last_resort,
            } => {
                self.note_clock(now);
                self.ready(key_packages, last_resort != 0);
            }
            ServiceFrame::Response { id, answer } => match self.link.requests.remove(&id.0) {
                Some(work) => work(self, answer),
                // Before login the service answers refusals without a request.
                None => {
                    if let Answer::Refused(refusal) = answer {
                        self.link.refused = Some(refusal);
                    }
                }
            },
            ServiceFrame::GroupEntries {
                group,
                first_seq,
                entries,
            } => {
                self.group_entries(group, first_seq, entries);
            }
            ServiceFrame::NewAuthor { channel, author } => self.on_channel(
                channel.0,
                Box::new(move |_, _, doc| doc.document.new_author(author)),
            ),
            ServiceFrame::Deliver {
                channel,
                first_seq,
                records,
            } => {
                self.deliver(channel.0, first_seq.0, records.0);
            }
            ServiceFrame::Ack {
                channel,
                next_clock,
                first_seq,
                count,
            } => {
                self.acked(channel.0, next_clock.0, first_seq.0, count.0);
            }
            ServiceFrame::AppendRefused {
                channel,
                first_clock,
                refusal,
            } => {
                self.append_refused(channel.0, first_clock.0, refusal);
            }
            ServiceFrame::Welcome(delivery) => self.welcome(delivery),
            ServiceFrame::KeyPackagesLow { left } => {
                self.link.key_packages = left;
                self.refill(false);
            }
            ServiceFrame::Pong => {}
            ServiceFrame::Goodbye { why, .. } => {
                self.link.refused = Some(why);
                self.out.close_connection = Some("the service said goodbye".to_owned());
            }
            ServiceFrame::DeviceListChanged { user } => self.check_devices(user),
            ServiceFrame::Asked {
                group,
                device,
                what,
                ..
            } => self.asked(group, device, what),
        }
    }

    fn login(&mut self, nonce: [u8; 32], service_key: [u8; 32]) {
        let statement = LoginStatement {
            nonce,
            origin: self.link.origin.as_bytes().into(),
            service_key,
            device: self.device.id(),
        };
        let signature = self.device.key().sign(LOGIN_LABEL, &encode(&statement));
        self.send(ClientFrame::Login {
            origin: statement.origin,
            signature,
            token: self.link.token.clone().map(Into::into),
        });
    }

    fn ready(&mut self, key_packages: u32, last_resort: bool) {
        self.link.online = true;
        self.link.refused = None;
        self.link.key_packages = key_packages;
        self.link.last_resort = last_resort;
        self.event(Event::Online);
        if self.device.refresh_list(self.latest()) {
            self.device.save(&mut self.out.writes);
        }
        self.publish_list();
        self.clear_key_packages();
        self.refill(!last_resort);
        self.plan_packages();
        self.expect_siblings();
        self.groups_online();
        self.compare_memberships();
    }

    /// A store that was restored from before it joined a group does not know of it; the service does.
    fn compare_memberships(&mut self) {
        self.link.memberships_asked = true;
        self.request(
            Request::GetMemberships,
            Box::new(|engine, answer| {
                engine.link.memberships_asked = false;
                let Answer::Memberships { groups } = answer else {
                    return;
                };
                let named: BTreeSet<GroupId> = groups.into_iter().collect();
                for group in engine.findings.groups_in_state(End::Known) {
                    if engine.knows_of(&group) || !named.contains(&group) {
                        engine.ended(About::Group(group), End::Known);
                    }
                }
                for group in named.into_iter().take(MEMBERSHIPS) {
                    if !engine.knows_of(&group) {
                        let what = FindingKind::MembershipUnknown { invited: false };
                        engine.finding(group, None, what, None);
                    }
                }
            }),
        );
    }

    /// Whether a group is, or was, one of this device's, or an invitation to it waits.
    fn knows_of(&self, group: &GroupId) -> bool {
        self.index.contains_key(group)
            || self.invitations.contains_key(group)
            || self.link.left_invitations.contains_key(group)
    }

    /// The service refused the own device list for a while, which is over.
    pub(crate) fn publish_again(&mut self) {
        self.link.publishing = false;
        self.publish_list();
    }

    /// Publishes the own device list; the service keeps the newest.
    pub(crate) fn publish_list(&mut self) {
        // One at a time: lists that overtake each other would be refused as old.
        if !self.link.online || self.link.publishing {
            return;
        }
        let Some(list) = self.device.list() else {
            return;
        };
        let (seq, list) = (list.list.seq, list.to_bytes());
        self.link.publishing = true;
        self.request(
            Request::PutDeviceList { list: list.into() },
            Box::new(move |engine, answer| engine.list_published(seq, &answer)),
        );
    }

    fn list_published(&mut self, sent: u64, answer: &Answer) {
        self.link.publishing = false;
        let newest = self.device.list().map_or(0, |list| list.list.seq);
        match answer {
            Answer::Refused(refusal) if refusal.is_retryable() && newest == sent => {
                self.link.publishing = true;
                let delay = self.jitter(500, 3_000);
                self.wake(delay, TimerKind::Publish);
            }
            _ if newest > sent => self.publish_list(),
            _ => {}
        }
        if let Some(user) = self.device.user() {
            self.check_devices(user);
        }
    }

    /// Looks at a user's newest device list: the own user's new devices are added to every group.
    pub(crate) fn check_devices(&mut self, user: UserId) {
        if Some(user) != self.device.user() {
            self.event(Event::DevicesChanged { user });
            return;
        }
        self.link.checking += 1;
        self.request(
            Request::GetDeviceList { user },
            Box::new(move |engine, answer| {
                engine.link.checking = engine.link.checking.saturating_sub(1);
                if let Answer::DeviceList { list } = answer {
                    engine.own_list_arrived(list.as_slice());
                }
            }),
        );
    }

    fn own_list_arrived(&mut self, bytes: &[u8]) {
        let Ok(list) = SignedDeviceList::from_bytes(bytes) else {
            return;
        };
        if let Ok(true) = self.device.adopt_list(list) {
            self.device.save(&mut self.out.writes);
            if let Some(user) = self.device.user() {
                self.event(Event::DevicesChanged { user });
            }
        }
        self.add_own_devices_everywhere();
    }
}
