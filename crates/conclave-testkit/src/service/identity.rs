//! Logging in, device lists, key packages.

use conclave_identity::{CREDENTIAL_TYPE, DeviceCredential, Occasion, Presented, Reference};
use conclave_order::op::identity::{Claim, ConfirmLife, Door, Newcomer, PutDeviceList};
use conclave_order::op::packages::{
    ClaimKeyPackages, Claimed, ClearKeyPackages, PutKeyPackages, Stock,
};
use conclave_order::{Asker, Event, Op, query, revoked};
use conclave_proto::codec::encode;
use conclave_proto::frame::{
    Answer, ClientFrame, LOGIN_LABEL, LoginStatement, Request, ServiceFrame,
};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, Refusal, UserId, limits};

use super::desk::Desk;
use super::{ConnId, ORIGIN};
use crate::rows::ready;
use crate::world::log_in;

const NONCE: [u8; 32] = [3; 32];

impl Desk {
    /// Takes a frame of a connection that has not logged in.
    pub(super) fn log_in(&mut self, conn: ConnId, frame: ClientFrame) -> Result<(), Refusal> {
        let hello = self.conns.get(&conn).and_then(|conn| conn.hello.clone());
        match (frame, hello) {
            (ClientFrame::Hello { credential, .. }, None) => {
                let who = self.identify(credential.as_slice())?;
                if let Some(conn) = self.conns.get_mut(&conn) {
                    conn.hello = Some(who);
                }
                let challenge = ServiceFrame::Challenge {
                    version: PROTOCOL_VERSION,
                    nonce: NONCE,
                    service_key: self.signing.service_key(),
                    now: self.now,
                    generation: self.signing.generation(),
                };
                self.push(conn, challenge);
                Ok(())
            }
            (
                ClientFrame::Login {
                    origin,
                    signature,
                    life,
                    life_token,
                    take_over,
                    ..
                },
                Some(who),
            ) => {
                if origin.as_slice() != ORIGIN.as_bytes() {
                    let why = ForbiddenWhy::WrongOrigin;
                    return Err(Refusal::Forbidden { why });
                }
                let statement = LoginStatement {
                    nonce: NONCE,
                    origin,
                    service_key: self.signing.service_key(),
                    device: who.device,
                    life,
                    life_token,
                    take_over,
                };
                let signed = encode(&statement);
                conclave_identity::verify(&who.key, LOGIN_LABEL, &signed, &signature)
                    .map_err(|_| Refusal::Unauthenticated)?;
                let claim = Claim {
                    life,
                    token: life_token,
                    take_over: take_over == 1,
                };
                self.admit(conn, who, claim)
            }
            _ => Err(Refusal::Malformed),
        }
    }

    fn identify(&self, credential: &[u8]) -> Result<Newcomer, Refusal> {
        let parsed = DeviceCredential::from_bytes(credential);
        let parsed = parsed.map_err(|_| Refusal::Unauthenticated)?;
        let key = parsed.certificate.device_key.as_slice();
        let presented = Presented {
            credential_type: CREDENTIAL_TYPE,
            credential: credential.into(),
            scheme: parsed.certificate.scheme,
            signature_key: key,
        };
        let reference = Reference::default();
        let who = conclave_identity::authenticate(
            &presented,
            Occasion::Login,
            &reference,
            self.now,
            None,
        );
        let who = who.map_err(|_| Refusal::Unauthenticated)?;
        Ok(Newcomer {
            user: who.user,
            device: who.device,
            key: key.to_vec(),
        })
    }

    fn admit(&mut self, conn: ConnId, who: Newcomer, claim: Claim) -> Result<(), Refusal> {
        let (device, user) = (who.device, who.user);
        let Event::LoggedIn {
            at,
            session,
            life,
            next,
            ..
        } = self.run(log_in(who, Door::Open, claim, self.now))?
        else {
            return Err(Refusal::Storage);
        };
        if !self.is_unfenced {
            for older in self.conns_of(&device) {
                self.hang_up(older, Refusal::OtherLife { since: at });
            }
        }
        if let Some(conn) = self.conns.get_mut(&conn) {
            conn.who = Some(Asker {
                device,
                user,
                session,
            });
        }
        let rows = self.load(|keys| _ = keys.stocks.insert(device))?;
        let stock = rows.stocks.get(&device).and_then(Option::as_ref);
        let stock = Stock::of(stock, self.now);
        let ready = ServiceFrame::Ready {
            now: self.now,
            key_packages: stock.one_time,
            last_resort: u8::from(stock.last_resort),
            life,
            next,
        };
        self.push(conn, ready);
        self.hand_welcomes(conn, device, None)
    }

    pub(super) fn ask_of_devices(
        &mut self,
        by: Asker,
        request: Request,
    ) -> Result<Answer, Refusal> {
        let op = match request {
            Request::GetDeviceList { user } => return self.device_list(user),
            Request::PutDeviceList { list } => {
                let rows = self.load(|keys| _ = keys.lists.insert(by.user))?;
                let stored = rows.lists.get(&by.user).and_then(Option::as_ref);
                let judged = PutDeviceList::judge(by, list.into_vec(), stored, self.now);
                match judged.map_err(super::log::refusal)? {
                    Some(op) => Op::PutDeviceList(op),
                    None => return Ok(Answer::Done),
                }
            }
            Request::PutKeyPackages {
                one_time,
                last_resort,
            } => {
                let op = PutKeyPackages::judge(by, one_time, last_resort, self.now)?;
                Op::PutKeyPackages(op)
            }
            Request::ClaimKeyPackages { user, devices } => {
                let packages = self.claim(by.device, user, devices)?;
                let packages = packages.into_iter().map(Into::into).collect();
                return Ok(Answer::KeyPackages { packages });
            }
            Request::ClearKeyPackages => {
                let device = by.device;
                self.run(Op::ClearKeyPackages(ClearKeyPackages { device }))?;
                return Ok(Answer::KeyPackageCount { left: 0 });
            }
            Request::ConfirmLife => {
                let device = by.device;
                self.run(Op::ConfirmLife(ConfirmLife { device }))?;
                return Ok(Answer::Done);
            }
            _ => return Err(Refusal::Malformed),
        };
        match self.run(op)? {
            Event::ListChanged { user, told, gone } => {
                self.tell_changed(&told, user);
                for device in gone {
                    for conn in self.conns_of(&device) {
                        self.hang_up(conn, revoked());
                    }
                }
                Ok(Answer::Done)
            }
            Event::PackagesPut {
                user,
                left,
                siblings,
            } => {
                self.tell_changed(&siblings, user);
                Ok(Answer::KeyPackageCount { left })
            }
            _ => Err(Refusal::Storage),
        }
    }

    fn tell_changed<'a>(&mut self, told: impl IntoIterator<Item = &'a DeviceId>, user: UserId) {
        for device in told {
            for conn in self.conns_of(device) {
                self.push(conn, ServiceFrame::DeviceListChanged { user });
            }
        }
    }

    /// A user's newest device list.
    pub(super) fn device_list(&self, user: UserId) -> Result<Answer, Refusal> {
        let mut rows = self.load(|keys| _ = keys.lists.insert(user))?;
        let list = rows.lists.remove(&user).flatten();
        let list = list.ok_or(Refusal::UnknownUser)?.bytes.into();
        Ok(Answer::DeviceList { list })
    }

    /// Hands out a package of each of these devices.
    pub(super) fn claim(
        &mut self,
        by: DeviceId,
        user: UserId,
        wanted: Vec<DeviceId>,
    ) -> Result<Vec<Claimed>, Refusal> {
        let op = ClaimKeyPackages::judge(by, user, wanted, self.now)?;
        let Event::Claimed(claimed) = self.run(Op::ClaimKeyPackages(op))? else {
            return Err(Refusal::Storage);
        };
        for Claimed { device, left, .. } in &claimed {
            if (*left as usize) < limits::KEY_PACKAGES_LOW {
                for conn in self.conns_of(device) {
                    self.push(conn, ServiceFrame::KeyPackagesLow { left: *left });
                }
            }
        }
        Ok(claimed)
    }

    /// Hands a connection the Welcomes of its device, or those of one epoch.
    pub(super) fn hand_welcomes(
        &mut self,
        conn: ConnId,
        device: DeviceId,
        only: Option<(conclave_proto::GroupId, u64)>,
    ) -> Result<(), Refusal> {
        let mut reads = self.store.clone();
        let waiting = ready(query::group::waiting(&mut reads, device));
        for row in waiting.map_err(|_| Refusal::Storage)? {
            if only.is_none_or(|only| only == (row.group, row.epoch)) {
                let welcome = ready(query::group::welcome(&mut reads, &row));
                if let Some(delivery) = welcome.map_err(|_| Refusal::Storage)? {
                    self.push(conn, ServiceFrame::Welcome(delivery));
                }
            }
        }
        Ok(())
    }
}
