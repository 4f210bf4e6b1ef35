//! A small ordering service: the real public group state for groups, a plain ordered log for documents. Synchronous, in memory.

mod document;
mod group;
mod help;

use std::collections::{BTreeMap, BTreeSet};

use conclave_identity::{CREDENTIAL_TYPE, DeviceCredential, Occasion, Presented, SignedDeviceList};
use conclave_mls::check_key_package;
use conclave_proto::codec::{Bytes, Varint, encode};
use conclave_proto::frame::{
    Answer, ClaimedKeyPackage, ClientFrame, LOGIN_LABEL, LoginStatement, Request, ServiceFrame,
};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Refusal, UnixMs, UserId};

pub use document::DocLog;
pub use group::GroupLog;

pub const ORIGIN: &str = "wss://service.test";
const KEY: [u8; 32] = [9; 32];

/// Names a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnId(pub u64);

/// A document open on a connection.
#[derive(Clone)]
pub struct Channel {
    pub group: GroupId,
    pub document: DocumentId,
    pub author: Author,
    /// Position of the snapshot that delivery began with, and the size it covers.
    pub base: Option<(u64, u64)>,
}

#[derive(Clone, Default)]
pub struct Conn {
    hello: Option<(DeviceId, UserId, Vec<u8>)>,
    pub who: Option<(DeviceId, UserId)>,
    follows: BTreeSet<GroupId>,
    pub channels: BTreeMap<u64, Channel>,
}

#[derive(Clone, Default)]
struct Packages {
    one_time: Vec<Bytes>,
    last_resort: Option<Bytes>,
}

/// How the service lies.
#[derive(Clone, Default)]
pub struct Lies {
    /// Hands out this device's key packages for everybody's.
    pub packages_of: Option<DeviceId>,
    /// Says of every document and group that it has this many entries fewer.
    pub forget: u64,
    /// Orders commits without judging them.
    pub order_anything: bool,
    /// Takes no snapshot but a document's first.
    pub refuse_snapshots: bool,
    /// Takes no external commit.
    pub refuse_external: bool,
    /// Loses new groups before they are stored, and with them the answer.
    pub lose_creations: bool,
    /// Takes no new group.
    pub refuse_creations: bool,
    /// Answers this to whoever asks for a GroupInfo.
    pub group_info: Option<Answer>,
}

pub type Outgoing = Vec<(ConnId, ServiceFrame)>;

/// The service.
#[derive(Clone, Default)]
pub struct Service {
    pub conns: BTreeMap<ConnId, Conn>,
    lists: BTreeMap<UserId, SignedDeviceList>,
    packages: BTreeMap<DeviceId, Packages>,
    pub groups: BTreeMap<GroupId, GroupLog>,
    next_number: u64,
    pub lies: Lies,
    out: Outgoing,
}

impl Service {
    pub fn connect(&mut self, id: ConnId) {
        self.conns.insert(id, Conn::default());
    }

    pub fn disconnect(&mut self, id: ConnId) {
        self.conns.remove(&id);
    }

    /// A device's key packages have passed their shelf life.
    pub fn expire_packages(&mut self, device: &DeviceId) {
        self.packages.remove(device);
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn push(&mut self, conn: ConnId, frame: ServiceFrame) {
        if self.conns.contains_key(&conn) {
            self.out.push((conn, frame));
        }
    }

    fn of_device(&self, device: DeviceId) -> Vec<ConnId> {
        let is = |conn: &Conn| conn.who.is_some_and(|(who, _)| who == device);
        let found = self.conns.iter().filter(|(_, conn)| is(conn));
        found.map(|(id, _)| *id).collect()
    }

    /// Takes a frame; gives what it makes the service send, in order.
    pub fn handle(&mut self, conn: ConnId, frame: ClientFrame, now: UnixMs) -> Outgoing {
        if self.conns.contains_key(&conn) {
            match frame {
                ClientFrame::Hello { credential, .. } => {
                    self.hello(conn, credential.as_slice(), now)
                }
                ClientFrame::Login {
                    origin, signature, ..
                } => self.login(conn, origin, &signature, now),
                ClientFrame::Request { id, body } => {
                    if let Some(answer) = self.request(conn, id, body, now) {
                        let answer = answer.unwrap_or_else(Answer::Refused);
                        self.push(conn, ServiceFrame::Response { id, answer });
                    }
                }
                ClientFrame::Append {
                    channel,
                    epoch,
                    first_clock,
                    records,
                } => self.append(conn, channel.0, epoch.0, first_clock.0, records.0),
                ClientFrame::Ping => self.push(conn, ServiceFrame::Pong),
            }
        }
        std::mem::take(&mut self.out)
    }

    fn hello(&mut self, conn: ConnId, credential: &[u8], now: UnixMs) {
        let parsed = DeviceCredential::from_bytes(credential).unwrap();
        let key = parsed.certificate.device_key.as_slice();
        let presented = Presented {
            credential_type: CREDENTIAL_TYPE,
            credential,
            scheme: parsed.certificate.scheme,
            signature_key: key,
        };
        let who = conclave_identity::authenticate(
            &presented,
            Occasion::Login,
            &conclave_identity::Reference::default(),
            now,
            None,
        )
        .unwrap();
        let hello = (who.device, who.user, key.to_vec());
        self.conns.get_mut(&conn).unwrap().hello = Some(hello);
        let challenge = ServiceFrame::Challenge {
            version: PROTOCOL_VERSION,
            nonce: [3; 32],
            service_key: KEY,
            now,
        };
        self.push(conn, challenge);
    }

    fn login(&mut self, conn: ConnId, origin: Bytes, signature: &[u8; 64], now: UnixMs) {
        let (device, user, key) = self.conns[&conn].hello.clone().unwrap();
        assert_eq!(origin.as_slice(), ORIGIN.as_bytes());
        let statement = LoginStatement {
            nonce: [3; 32],
            origin,
            service_key: KEY,
            device,
        };
        conclave_identity::verify(&key, LOGIN_LABEL, &encode(&statement), signature).unwrap();
        self.conns.get_mut(&conn).unwrap().who = Some((device, user));
        let packages = self.packages.entry(device).or_default();
        let ready = ServiceFrame::Ready {
            now,
            key_packages: packages.one_time.len() as u32,
            last_resort: u8::from(packages.last_resort.is_some()),
        };
        self.push(conn, ready);
        self.deliver_welcomes(conn, device);
    }

    /// None: answered already.
    fn request(
        &mut self,
        conn: ConnId,
        id: Varint,
        body: Request,
        now: UnixMs,
    ) -> Option<Result<Answer, Refusal>> {
        let (device, user) = self.conns[&conn].who.expect("a request before login");
        let answer = match body {
            Request::PutDeviceList { list } => self.put_list(user, list.as_slice()),
            Request::GetDeviceList { user } => match self.lists.get(&user) {
                Some(list) => Ok(Answer::DeviceList {
                    list: list.to_bytes().into(),
                }),
                None => Err(Refusal::UnknownUser),
            },
            Request::PutKeyPackages {
                one_time,
                last_resort,
            } => self.put_packages(device, one_time, last_resort, now),
            Request::ClaimKeyPackages { devices, .. } => Ok(self.claim(&devices)),
            Request::CreateGroup {
                group_info,
                tree,
                founded,
            } => {
                if self.lies.lose_creations {
                    return None;
                }
                if self.lies.refuse_creations {
                    let fault = conclave_proto::refusal::CommitFault::Mls;
                    return Some(Err(Refusal::BadCommit { fault }));
                }
                let offer = (group_info.as_slice(), tree.as_slice());
                self.create_group(device, offer, founded, now)
            }
            Request::Commit(bundle) => self.commit(device, bundle, now),
            Request::Propose { group, message } => self.propose(device, group, message.as_slice()),
            Request::PutEntry { entry } => self.put_entry(device, entry),
            Request::CreateDocument { entry, snapshot } => {
                self.create_document(device, entry, snapshot)
            }
            Request::SubscribeGroup { group, from } => {
                return self.subscribe(conn, device, group, from, id, now);
            }
            Request::OpenDocument {
                group,
                document,
                instance,
                from,
            } => {
                let author = Author { device, instance };
                return self.open(conn, id, group, document, author, from);
            }
            Request::CloseDocument { channel } => {
                let conn = self.conns.get_mut(&conn).unwrap();
                conn.channels.remove(&channel.0);
                Ok(Answer::Done)
            }
            Request::PutSnapshot { .. } if self.lies.refuse_snapshots => Err(Refusal::Storage),
            Request::PutSnapshot { record } => self.put_snapshot(conn, device, record),
            Request::GetRecords {
                group,
                document,
                from,
                count,
            } => self.records(conn, device, group, document, from, count),
            Request::GetWraps { group, epoch } => self.wraps(device, group, epoch),
            Request::AckWelcome { id } => {
                for log in self.groups.values_mut() {
                    let mine = |other: &group::Waiting| other.device == device;
                    log.welcomes
                        .retain(|other| !(mine(other) && other.delivery.id == id));
                }
                Ok(Answer::Done)
            }
            Request::PutWrap { wrap } => self.put_wrap(device, wrap),
            Request::GetGroupInfo { group } => self.group_info(device, user, group),
            Request::PutGroupInfo { group, group_info } => {
                self.put_group_info(device, group, group_info.as_slice())
            }
            Request::Ask { group, what } => self.ask(device, user, group, what),
            Request::GetMemberships => Ok(self.memberships(device)),
            Request::ClearKeyPackages => Ok(self.clear_packages(device)),
            Request::GetStatus { .. } => Err(Refusal::Malformed),
        };
        Some(answer)
    }

    /// A key package of a device, as for somebody who adds it.
    pub fn package_of(&mut self, device: DeviceId) -> Vec<u8> {
        let Answer::KeyPackages { packages } = self.claim(&[device]) else {
            panic!("no packages")
        };
        packages[0].key_package.as_slice().to_vec()
    }

    /// A user's device list.
    pub fn list(&self, user: &UserId) -> &SignedDeviceList {
        &self.lists[user]
    }

    fn put_list(&mut self, user: UserId, bytes: &[u8]) -> Result<Answer, Refusal> {
        let list = SignedDeviceList::from_bytes(bytes).map_err(|_| Refusal::BadIdentity)?;
        list.verify().map_err(|_| Refusal::BadIdentity)?;
        if let Some(stored) = self.lists.get(&user) {
            match list.supersedes(stored) {
                Ok(true) => {}
                Ok(false) => return Ok(Answer::Done),
                Err(_) => {
                    let newest = stored.list.seq;
                    return Err(Refusal::StaleDeviceList { newest });
                }
            }
        }
        self.lists.insert(user, list);
        self.devices_changed(user, None);
        Ok(Answer::Done)
    }

    /// Tells the user's connections.
    fn devices_changed(&mut self, user: UserId, except: Option<DeviceId>) {
        let told: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| {
                conn.who
                    .is_some_and(|(device, of)| of == user && Some(device) != except)
            })
            .map(|(id, _)| *id)
            .collect();
        for conn in told {
            self.push(conn, ServiceFrame::DeviceListChanged { user });
        }
    }

    fn put_packages(
        &mut self,
        device: DeviceId,
        one_time: Vec<Bytes>,
        last_resort: Option<Bytes>,
        now: UnixMs,
    ) -> Result<Answer, Refusal> {
        let reference = conclave_identity::Reference {
            device: Some(device),
            ..Default::default()
        };
        for package in one_time.iter().chain(&last_resort) {
            check_key_package(package.as_slice(), &reference, now)
                .map_err(|_| Refusal::BadIdentity)?;
        }
        let stored = self.packages.entry(device).or_default();
        let first = stored.last_resort.is_none();
        stored.one_time.extend(one_time);
        stored.last_resort = last_resort.or(stored.last_resort.take());
        let left = stored.one_time.len() as u32;
        let user = self
            .conns
            .values()
            .filter_map(|conn| conn.who)
            .find(|who| who.0 == device);
        if let (true, Some((_, user))) = (first, user) {
            self.devices_changed(user, Some(device));
        }
        Ok(Answer::KeyPackageCount { left })
    }

    fn claim(&mut self, devices: &[DeviceId]) -> Answer {
        let lie = self.lies.packages_of;
        let mut packages = Vec::new();
        for device in devices {
            let Some(stored) = self.packages.get_mut(&lie.unwrap_or(*device)) else {
                continue;
            };
            let one_time = (!stored.one_time.is_empty()).then(|| stored.one_time.remove(0));
            let last_resort = u8::from(one_time.is_none());
            if let Some(key_package) = one_time.or_else(|| stored.last_resort.clone()) {
                packages.push(ClaimedKeyPackage {
                    device: *device,
                    key_package,
                    last_resort,
                });
            }
        }
        Answer::KeyPackages { packages }
    }
}
