//! Logging in: the device signs the service's nonce together with the origin it dialled.

use std::sync::Arc;

use axum::extract::ws::Message;
use bytes::Bytes;
use conclave_identity::{
    AuthError, CREDENTIAL_TYPE, DeviceCredential, Occasion, Presented, Reference,
};
use conclave_order::op::identity::{Admit, Door, Newcomer, Standing};
use conclave_order::op::packages::Stock;
use conclave_order::{Keys, Op, Rows};
use conclave_proto::codec::{decode, encode};
use conclave_proto::frame::{ClientFrame, LOGIN_LABEL, LoginStatement, ServiceFrame};
use conclave_proto::policy::PROTOCOL_VERSION;
use conclave_proto::refusal::ForbiddenWhy;
use conclave_proto::{DeviceId, Refusal, UserId, limits};
use futures_util::SinkExt;

use super::{Incoming, Sink};
use crate::config::Admission;
use crate::error::OpError;
use crate::invitation::token_hash;
use crate::limits::LOGIN_FIELD_BYTES;
use crate::shared::Shared;

/// A device that has logged in.
#[derive(Debug, Clone)]
pub(crate) struct LoggedIn {
    pub(crate) device: DeviceId,
    pub(crate) user: UserId,
    key: Vec<u8>,
    /// Number of the generation that it was told of.
    generation: u64,
}

/// Reads frames until there is one; before login nothing else is looked at.
async fn frame(incoming: &mut Incoming) -> Result<ClientFrame, Refusal> {
    loop {
        match incoming.next().await {
            Ok(Some(bytes)) => {
                let max = limits::UNAUTHENTICATED_FRAME_BYTES;
                return decode("frame", &bytes, max).map_err(|_| Refusal::Malformed);
            }
            Ok(None) => {}
            Err(_) => return Err(Refusal::Malformed),
        }
    }
}

/// Runs the handshake. Who is refused is named to the operator.
pub(crate) async fn login(
    shared: &Arc<Shared>,
    incoming: &mut Incoming,
    sink: &mut Sink,
) -> Result<LoggedIn, Refusal> {
    let mut claimed = None;
    let done = shake_hands(shared, incoming, sink, &mut claimed).await;
    if let Err(why) = &done {
        refused(shared, claimed.as_ref(), why);
    }
    done
}

/// Names to the operator who was refused, as far as it is known.
pub(crate) fn refused(shared: &Shared, claimed: Option<&LoggedIn>, why: &Refusal) {
    let env = &shared.env;
    let claimed = claimed.map(|who| (&who.device, &who.user));
    env.misconduct.login(claimed, why, env.clock.now());
}

async fn shake_hands(
    shared: &Arc<Shared>,
    incoming: &mut Incoming,
    sink: &mut Sink,
    claimed: &mut Option<LoggedIn>,
) -> Result<LoggedIn, Refusal> {
    let ClientFrame::Hello {
        versions,
        credential,
    } = frame(incoming).await?
    else {
        return Err(Refusal::Malformed);
    };
    if !versions.contains(&PROTOCOL_VERSION) {
        return Err(Refusal::UpgradeNeeded {
            minimum: PROTOCOL_VERSION,
        });
    }
    let mut who = identify(shared, credential.as_slice())?;
    *claimed = Some(who.clone());
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|_| Refusal::Storage)?;
    let generation = shared.env.heads.standing().generation;
    who.generation = generation.number;
    let challenge = ServiceFrame::Challenge {
        version: PROTOCOL_VERSION,
        nonce,
        service_key: shared.env.heads.service_key(),
        now: shared.env.clock.now(),
        generation,
    };
    let message = Message::Binary(Bytes::from(encode(&challenge)));
    sink.send(message).await.map_err(|_| Refusal::Malformed)?;

    let ClientFrame::Login {
        origin,
        signature,
        token,
    } = frame(incoming).await?
    else {
        return Err(Refusal::Malformed);
    };
    let token = token.map(conclave_proto::codec::Bytes::into_vec);
    let longest = origin.len().max(token.as_ref().map_or(0, Vec::len));
    if longest > LOGIN_FIELD_BYTES {
        return Err(Refusal::TooLarge {
            max: LOGIN_FIELD_BYTES as u64,
        });
    }
    let known = shared
        .origins
        .iter()
        .any(|own| own.as_bytes() == origin.as_slice());
    // Breakage: a login that was signed for another service is taken.
    if !known && !crate::broken("skip-origin") {
        return Err(Refusal::Forbidden {
            why: ForbiddenWhy::WrongOrigin,
        });
    }
    let statement = LoginStatement {
        nonce,
        origin,
        service_key: shared.env.heads.service_key(),
        device: who.device,
    };
    conclave_identity::verify(&who.key, LOGIN_LABEL, &encode(&statement), &signature)
        .map_err(|_| Refusal::Unauthenticated)?;
    admit(shared, &who, token)
        .await
        .map_err(OpError::into_refusal)?;
    Ok(who)
}

/// Who the credential says this is; the signature to come shows whether it is true.
fn identify(shared: &Shared, credential: &[u8]) -> Result<LoggedIn, Refusal> {
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
    Ok(LoggedIn {
        device: identity.device,
        user: identity.user,
        key: key.to_vec(),
        generation: 0,
    })
}

impl LoggedIn {
    fn newcomer(&self) -> Newcomer {
        Newcomer {
            user: self.user,
            device: self.device,
            key: self.key.clone(),
        }
    }
}

/// Refuses devices that are revoked or not admitted; makes account and device known where they are new.
async fn admit(shared: &Shared, who: &LoggedIn, token: Option<Vec<u8>>) -> Result<(), OpError> {
    if check(shared, who).await? == Standing::Known {
        return Ok(());
    }
    let door = match shared.admission {
        Admission::Open => Door::Open,
        Admission::Invitation => Door::Invitation(token.map(|token| token_hash(&token))),
    };
    let op = Admit {
        who: who.newcomer(),
        door,
        now: shared.env.clock.now(),
    };
    shared.env.writer.ask(Op::Admit(op)).await?;
    Ok(())
}

async fn check(shared: &Shared, who: &LoggedIn) -> Result<Standing, OpError> {
    let newcomer = who.newcomer();
    let mut keys = Keys::default();
    newcomer.keys(&mut keys);
    let mut rows = Rows::default();
    shared.env.load(&keys, &mut rows).await?;
    Ok(newcomer.standing(&rows)?)
}

/// What says that the login is done.
pub(crate) async fn ready(shared: &Shared, who: &LoggedIn) -> Result<ServiceFrame, Refusal> {
    let now = shared.env.clock.now();
    let mut keys = Keys::default();
    keys.stocks.insert(who.device);
    let mut rows = Rows::default();
    let stock = async {
        shared.env.load(&keys, &mut rows).await?;
        Ok(Stock::of(rows.stock(&who.device)?, now))
    };
    let stock = stock.await.map_err(OpError::into_refusal)?;
    Ok(ServiceFrame::Ready {
        now,
        key_packages: stock.one_time,
        last_resort: u8::from(stock.last_resort),
    })
}

/// Judges the device once more, now that its connection is known: it may have been revoked, or the service told to stop, just before.
pub(crate) async fn confirm(shared: &Shared, who: &LoggedIn) -> Result<(), Refusal> {
    if shared.stop.is_cancelled() {
        return Err(Refusal::ShuttingDown);
    }
    // Another has begun since: what is signed from here on, it could not check.
    if shared.env.heads.standing().generation.number != who.generation {
        return Err(Refusal::ShuttingDown);
    }
    check(shared, who)
        .await
        .map(|_| ())
        .map_err(OpError::into_refusal)
}
