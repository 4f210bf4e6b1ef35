//! The connection to the service: login, requests and their answers, frames.

use std::collections::{BTreeMap, BTreeSet};

use conclave_identity::SignedDeviceList;
use conclave_proto::codec::{Varint, encode};
use conclave_proto::frame::{
    Answer, ClientFrame, LOGIN_LABEL, LoginStatement, Request, ServiceFrame,
};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::{DocumentId, GroupId, Refusal, UserId, limits};

use crate::command::Event;
use crate::engine::{Engine, TimerKind};
use crate::finding::FindingKind;

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
    /// Key packages are on their way.
    refilling: bool,
    /// The own device list is on its way.
    publishing: bool,
    /// Key packages were replaced because the service may have lost or used up what it shows.
    pub(crate) packages_doubted: bool,
    /// Documents that were looked at on this connection.
    pub(crate) visited: BTreeSet<(GroupId, DocumentId)>,
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
        self.event(Event::Online);
        if self.device.refresh_list(self.latest()) {
            self.device.save(&mut self.out.writes);
        }
        self.publish_list();
        self.clear_key_packages();
        self.refill(!last_resort);
        self.groups_online();
        self.compare_memberships();
    }

    /// A store that was restored from before it joined a group does not know of it; the service does.
    fn compare_memberships(&mut self) {
        self.request(
            Request::GetMemberships,
            Box::new(|engine, answer| {
                let Answer::Memberships { groups } = answer else {
                    return;
                };
                for group in groups.into_iter().take(MEMBERSHIPS) {
                    let known = engine.index.contains_key(&group)
                        || engine.invitations.contains_key(&group);
                    if !known {
                        let what = FindingKind::MembershipUnknown { invited: false };
                        engine.finding(group, None, what, None);
                    }
                }
            }),
        );
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

    /// This store does not hold the private halves of what was published last: all of it is replaced.
    pub(crate) fn replace_key_packages(&mut self) {
        self.device.set_packages_lost(true);
        self.device.save(&mut self.out.writes);
        self.clear_key_packages();
    }

    fn clear_key_packages(&mut self) {
        if !self.device.packages_lost() {
            return;
        }
        self.request(
            Request::ClearKeyPackages,
            Box::new(|engine, answer| {
                if let Answer::KeyPackageCount { left } = answer {
                    engine.device.set_packages_lost(false);
                    engine.device.save(&mut engine.out.writes);
                    engine.link.key_packages = left;
                    engine.refill(true);
                }
            }),
        );
    }

    /// Publishes key packages up to the target.
    pub(crate) fn refill(&mut self, last_resort: bool) {
        if !self.link.online || self.link.refilling {
            return;
        }
        let left = usize::try_from(self.link.key_packages).unwrap_or(usize::MAX);
        let missing = if left < limits::KEY_PACKAGES_LOW {
            limits::KEY_PACKAGES_TARGET - left
        } else {
            0
        };
        // Whatever the service says it lost, a device keeps no more private halves than this.
        let full = self.keystore.count() >= 2 * limits::KEY_PACKAGES_MAX;
        if (missing == 0 && !last_resort) || full {
            return;
        }
        // The service takes none that is made in its future.
        let now = self.service_now();
        let Ok(context) = self.device.context() else {
            return;
        };
        let Ok(made) = self.keystore.generate(&context, missing, last_resort, now) else {
            self.keystore.rollback();
            return;
        };
        self.link.refilling = true;
        self.request(
            Request::PutKeyPackages {
                one_time: made.one_time.into_iter().map(Into::into).collect(),
                last_resort: made.last_resort.map(Into::into),
            },
            Box::new(|engine, answer| {
                engine.link.refilling = false;
                if let Answer::KeyPackageCount { left } = answer {
                    engine.link.key_packages = left;
                }
            }),
        );
    }

    /// Looks at a user's newest device list: the own user's new devices are added to every group.
    pub(crate) fn check_devices(&mut self, user: UserId) {
        if Some(user) != self.device.user() {
            self.event(Event::DevicesChanged { user });
            return;
        }
        self.request(
            Request::GetDeviceList { user },
            Box::new(move |engine, answer| {
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
