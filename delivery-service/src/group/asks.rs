//! Pleas of devices for help by the members of a group: kept until they are answered, so that who was offline learns of them too.

use std::sync::Arc;

use bytes::Bytes;
use conclave_order::op::help::Ask;
use conclave_order::rows::PleaRow;
use conclave_order::{Event, Op, Reader};
use conclave_proto::DeviceId;
use conclave_proto::codec::encode;
use conclave_proto::frame::{Answer, Plea, ServiceFrame};

use super::{Group, follow};
use crate::error::OpError;
use crate::hub::Conn;
use crate::tell::From;

/// Where a plea came from.
pub(crate) struct PleaFrom {
    group: Arc<Group>,
    plea: PleaRow,
}

impl PleaFrom {
    /// Tells the members who follow the log. The same again is told again, but not sooner than after a pause: whoever could help may have been
    /// busy, or may have come only now.
    pub(crate) fn tell(&self, event: &Event) {
        let Event::Asked { is_new } = event else {
            return;
        };
        let plea = &self.plea;
        let key = (plea.group, plea.device, plea.what);
        let due = self.group.env.repeated_asks.take(key, 1, plea.at).is_ok();
        if *is_new || due {
            follow::tell(&self.group, &plea.device, &frame(plea));
        }
    }
}

fn frame(plea: &PleaRow) -> Bytes {
    Bytes::from(encode(&ServiceFrame::Asked {
        group: plea.group,
        device: plea.device,
        user: plea.user,
        what: plea.what,
    }))
}

/// Notes a plea and tells the members who follow the log.
pub(crate) async fn ask(group: &Arc<Group>, conn: &Conn, what: Plea) -> Result<Answer, OpError> {
    let now = group.env.clock.now();
    let op = Ask::judge(&group.view(), conn.asker(), what, now)?;
    let from = PleaFrom {
        group: group.clone(),
        plea: op.plea,
    };
    let asked = conn.asker().asks(Op::Ask(op));
    let from = From::Plea(Box::new(from));
    group.env.writer.run(asked, from).await?;
    Ok(Answer::Done)
}

/// Every plea but the device's own, as frames. None where they cannot be read: they are told again with the next subscription.
pub(crate) async fn open(group: &Group, but: &DeviceId) -> Vec<Bytes> {
    match read(group, but).await {
        Ok(frames) => frames,
        Err(error) => {
            let _ = error.into_refusal();
            Vec::new()
        }
    }
}

async fn read(group: &Group, but: &DeviceId) -> Result<Vec<Bytes>, OpError> {
    let mut reads = group.env.reads.acquire().await?;
    let pleas = reads.pleas(&group.id).await?;
    let others = pleas.iter().filter(|plea| plea.device != *but);
    Ok(others.map(frame).collect())
}
