//! Logging in: the device signs the service's nonce together with the origin it dialled.

use std::sync::Arc;

use axum::extract::ws::Message;
use bytes::Bytes;
use conclave_identity::{
    AuthError, CREDENTIAL_TYPE, DeviceCredential, Occasion, Presented, Reference,
};
use conclave_order::op::identity::{Claim, Door, LogIn, Newcomer};
use conclave_order::op::packages::Stock;
use conclave_order::{Asked, Asker, Event, Keys, Op, Rows};
use conclave_proto::codec::{decode, encode};
use conclave_proto::frame::{ClientFrame, LOGIN_LABEL, LoginStatement, ServiceFrame};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, LifeToken, Refusal, UserId, limits};
use futures_util::SinkExt;

use super::{Ended, Incoming, Sink, Unadmitted};
use crate::config::Admission;
use crate::error::OpError;
use crate::invitation::token_hash;
use crate::limits::LOGIN_FIELD_BYTES;
use crate::shared::Shared;
use crate::tell::From;

/// A device that has logged in.
#[derive(Debug, Clone)]
pub(crate) struct LoggedIn {
    by: Asker,
    /// Number of the generation that it was told of.
    generation: u64,
    /// Number and token of the life that begins when it is confirmed.
    next: (u64, LifeToken),
}

impl LoggedIn {
    /// Who asks on the connection.
    pub(crate) fn asker(&self) -> Asker {
        self.by
    }
}

/// Reads frames until there is one; before login nothing else is looked at.
async fn frame(incoming: &mut Incoming) -> Result<ClientFrame, Unadmitted> {
    loop {
        match incoming.next().await {
            Ok(Some(bytes)) => {
                let max = limits::UNAUTHENTICATED_FRAME_BYTES;
                return Ok(decode("frame", &bytes, max).map_err(|_| Refusal::Malformed)?);
            }
            Ok(None) => {}
            Err(Ended::Gone) => return Err(Unadmitted::Gone),
            Err(Ended::Broken | Ended::Busy) => return Err(Refusal::Malformed.into()),
        }
    }
}

/// Runs the handshake. Who is refused is named to the operator.
pub(crate) async fn login(
    shared: &Arc<Shared>,
    incoming: &mut Incoming,
    sink: &mut Sink,
) -> Result<LoggedIn, Unadmitted> {
    let mut claimed = None;
    let done = shake_hands(shared, incoming, sink, &mut claimed).await;
    if let Err(Unadmitted::Refused(why)) = &done {
        let claimed = claimed.as_ref().map(|who| (&who.device, &who.user));
        refused(shared, claimed, why);
    }
    done
}

/// Names to the operator who was refused, as far as it is known.
pub(crate) fn refused(shared: &Shared, claimed: Option<(&DeviceId, &UserId)>, why: &Refusal) {
    let env = &shared.env;
    env.misconduct.login(claimed, why, env.clock.now());
}

async fn shake_hands(
    shared: &Arc<Shared>,
    incoming: &mut Incoming,
    sink: &mut Sink,
    claimed: &mut Option<Newcomer>,
) -> Result<LoggedIn, Unadmitted> {
    let ClientFrame::Hello {
        versions,
        credential,
    } = frame(incoming).await?
    else {
        return Err(Refusal::Malformed.into());
    };
    if !versions.contains(&PROTOCOL_VERSION) {
        return Err(Refusal::UpgradeNeeded {
            minimum: PROTOCOL_VERSION,
        }
        .into());
    }
    let who = identify(shared, credential.as_slice())?;
    *claimed = Some(who.clone());
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|_| Refusal::Storage)?;
    let generation = shared.env.heads.standing().generation;
    let challenge = ServiceFrame::Challenge {
        version: PROTOCOL_VERSION,
        nonce,
        service_key: shared.env.heads.service_key(),
        now: shared.env.clock.now(),
        generation,
    };
    let message = Message::Binary(Bytes::from(encode(&challenge)));
    sink.send(message).await.map_err(|_| Unadmitted::Gone)?;

    let ClientFrame::Login {
        origin,
        signature,
        token,
        life,
        life_token,
        take_over,
    } = frame(incoming).await?
    else {
        return Err(Refusal::Malformed.into());
    };
    let token = token.map(conclave_proto::codec::Bytes::into_vec);
    let longest = origin.len().max(token.as_ref().map_or(0, Vec::len));
    if longest > LOGIN_FIELD_BYTES {
        return Err(Refusal::TooLarge {
            max: LOGIN_FIELD_BYTES as u64,
        }
        .into());
    }
    let known = shared
        .origins
        .iter()
        .any(|own| own.as_bytes() == origin.as_slice());
    // Breakage: a login that was signed for another service is taken.
    if !known && !crate::broken("skip-origin") {
        return Err(Refusal::Forbidden {
            why: ForbiddenWhy::WrongOrigin,
        }
        .into());
    }
    let statement = LoginStatement {
        nonce,
        origin,
        service_key: shared.env.heads.service_key(),
        device: who.device,
        life,
        life_token,
        take_over,
    };
    conclave_identity::verify(&who.key, LOGIN_LABEL, &encode(&statement), &signature)
        .map_err(|_| Refusal::Unauthenticated)?;
    if take_over > 1 {
        return Err(Refusal::Malformed.into());
    }
    let claim = Claim {
        life,
        token: life_token,
        take_over: take_over == 1,
    };
    Ok(log_in(shared, who, claim, (token, generation.number)).await?)
}

/// Who the credential says this is; the signature to come shows whether it is true.
fn identify(shared: &Shared, credential: &[u8]) -> Result<Newcomer, Refusal> {
    let parsed = DeviceCredential::from_bytes(credential).map_err(|_| Refusal::Unauthenticated)?;
    let key = parsed.certificate.device_key.as_slice();
    let presented = Presented {
        credential_type: CREDENTIAL_TYPE,
        credential: credential.into(),
        scheme: parsed.certificate.scheme,
        signature_key: key,
    };
    let identity = conclave_identity::authenticate(
        &presented,
        Occasion::Login,
        &Reference::default(),
        shared.env.clock.now(),
        None,
    )
    .map_err(|error| match error {
        AuthError::NotYetValid | AuthError::Expired => Refusal::Forbidden {
            why: ForbiddenWhy::CertificateTime,
        },
        _ => Refusal::Unauthenticated,
    })?;
    Ok(Newcomer {
        user: identity.user,
        device: identity.device,
        key: key.to_vec(),
    })
}

/// Refuses devices that are revoked or not admitted, and copies of a store that is used elsewhere; makes account and device known where they are
/// new. Its older connections are closed then.
async fn log_in(
    shared: &Shared,
    who: Newcomer,
    claim: Claim,
    (token, generation): (Option<Vec<u8>>, u64),
) -> Result<LoggedIn, Refusal> {
    let door = match shared.admission {
        Admission::Open => Door::Open,
        Admission::Invitation => Door::Invitation(token.map(|token| token_hash(&token))),
    };
    let mut fresh = LifeToken::default();
    getrandom::fill(&mut fresh.0).map_err(|_| Refusal::Storage)?;
    let (device, user) = (who.device, who.user);
    let op = LogIn {
        who,
        door,
        claim,
        fresh,
        now: shared.env.clock.now(),
    };
    let asked = Asked::from(Op::LogIn(Box::new(op)));
    let from = From::Devices(shared.env.clone());
    match shared.env.writer.run(asked, from).await? {
        Event::LoggedIn {
            session,
            life,
            next,
            ..
        } => Ok(LoggedIn {
            by: Asker {
                device,
                user,
                session,
            },
            generation,
            next: (life, next),
        }),
        _ => Err(Refusal::Storage),
    }
}

/// What says that the login is done.
pub(crate) async fn ready(shared: &Shared, who: &LoggedIn) -> Result<ServiceFrame, Refusal> {
    let now = shared.env.clock.now();
    let device = who.by.device;
    let mut keys = Keys::default();
    keys.stocks.insert(device);
    let mut rows = Rows::default();
    let stock = async {
        shared.env.load(&keys, &mut rows).await?;
        Ok(Stock::of(rows.stock(&device)?, now))
    };
    let stock = stock.await.map_err(OpError::into_refusal)?;
    let (life, next) = who.next;
    Ok(ServiceFrame::Ready {
        now,
        key_packages: stock.one_time,
        last_resort: u8::from(stock.last_resort),
        life,
        next,
    })
}

/// Judges the device once more, now that its connection is known: it may have been revoked, have logged in again, or the service been told to
/// stop, just before.
pub(crate) async fn confirm(shared: &Shared, who: &LoggedIn) -> Result<(), Refusal> {
    if shared.stop.is_cancelled() {
        return Err(Refusal::ShuttingDown);
    }
    // Another has begun since: what is signed from here on, it could not check.
    if shared.env.heads.standing().generation.number != who.generation {
        return Err(Refusal::ShuttingDown);
    }
    let session = who.by.session();
    let mut keys = Keys::default();
    keys.devices.insert(session.device);
    let mut rows = Rows::default();
    let newest = async {
        shared.env.load(&keys, &mut rows).await?;
        Ok(rows.ensure_current(&session)?)
    };
    newest.await.map_err(OpError::into_refusal)
}
