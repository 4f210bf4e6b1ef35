//! Records that were lost and come back.

use std::sync::Arc;

use conclave_order::op::returned::{Offer, ReturnDocument};
use conclave_order::{Event, Op, Rows, Stop};
use conclave_proto::frame::{Answer, DocumentBase};
use conclave_proto::{Head, Record, Refusal};
use conclave_rules::LogId;

use super::{Document, history};
use crate::error::OpError;
use crate::group::Group;
use crate::hub::Conn;
use crate::limits;
use crate::tell::From;

/// Takes what a device brings back of a document's log. Of one of which nothing is stored nobody is told: nobody has it open.
pub(crate) async fn give_back(
    group: &Arc<Group>,
    (log, document): (LogId, Option<Arc<Document>>),
    conn: &Conn,
    (base, from): (Option<DocumentBase>, u64),
    records: Vec<Record>,
) -> Result<Answer, OpError> {
    let env = &group.env;
    let (user, device, now) = (conn.user, conn.device, env.clock.now());
    let (mut view, mut refreshes) = (group.view(), 0);
    let is_long = records.len() > limits::RECORDS_JUDGED_AT_ONCE;
    let (base, records) = (Arc::new(base), Arc::new(records));
    let mut rows = Rows::default();
    let op = loop {
        let (seen, base, records) = (view.clone(), base.clone(), records.clone());
        let judge = move || {
            let offer = Offer {
                device,
                log,
                base: base.as_ref().as_ref(),
                from,
                records: &records,
            };
            let judged = ReturnDocument::judge(offer, &seen, now, &rows);
            (judged, rows)
        };
        let judged = match is_long {
            true => env.apart.turn(user).await.judge(judge).await?,
            false => judge(),
        };
        rows = judged.1;
        match judged.0 {
            Ok(op) => break op,
            Err(Stop::Lacks(keys)) => env.load(&keys, &mut rows).await?,
            // Nobody is refused by what is not so any more.
            Err(Stop::Refused(_))
                if refreshes < limits::VIEW_REFRESHES && group.refresh().await? =>
            {
                refreshes += 1;
                view = group.view();
                rows = Rows::default();
            }
            Err(stop) => return Err(stop.into()),
        }
    };
    let asked = conn.asker().asks(Op::ReturnDocument(Box::new(op)));
    let from = document.map_or(From::Asker, From::Returned);
    match env.writer.run(asked, from).await? {
        Event::Returned { seq, head } => Ok(Answer::Accepted { seq, head }),
        _ => Err(Refusal::Storage.into()),
    }
}

/// The log has grown by what came back, once that is durable: whoever listens reads on from where the telling stopped.
pub(crate) fn tell(document: &Arc<Document>, event: &Event) {
    let Event::Returned {
        head: Head { size, root },
        ..
    } = event
    else {
        return;
    };
    let mut live = document.live();
    let published = live.roots.size();
    live.advance(size.saturating_sub(1), &[*root]);
    // Its authors and its active snapshot may be others.
    live.is_behind = true;
    document.grown(&mut live);
    for listener in &mut live.listeners {
        // Its author's chain may be among what came back.
        let (generation, _) = listener.channel.chain();
        listener.channel.reset(generation, None);
        if std::mem::take(&mut listener.live) {
            history::start(document, listener, published);
        }
    }
}
