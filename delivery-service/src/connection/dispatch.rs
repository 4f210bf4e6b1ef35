//! What each frame of an authenticated device does.

use std::sync::Arc;

use conclave_order::op::append::Arrived;
use conclave_proto::codec::Varint;
use conclave_proto::frame::{Answer, ClientFrame, Request, Returned, ServiceFrame};
use conclave_proto::{DocumentId, GroupId, RecordHeader, Refusal};
use conclave_rules::LogId;
use tokio::sync::Semaphore;

use super::identity;
use crate::document::append;
use crate::document::open::{self, Opening};
use crate::document::{Document, presence, returned, snapshot};
use crate::error::OpError;
use crate::group::adopt::Brought;
use crate::group::returned::Given;
use crate::group::{
    Group, adopt, asks, commit, create, documents, entries, follow, group_info, join,
    returned as group_returned, status,
};
use crate::hub::Conn;
use crate::limits;
use crate::recovery;
use crate::shared::Shared;

/// One connection's frames.
pub(crate) struct Session {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    requests: Arc<Semaphore>,
}

/// An answer still to be sent, or none where it was sent in its place in a log.
type Outcome = Result<Option<Answer>, OpError>;

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, conn: Arc<Conn>) -> Self {
        let requests = Arc::new(Semaphore::new(limits::CONCURRENT_REQUESTS));
        Self {
            shared,
            conn,
            requests,
        }
    }

    /// Handles a frame of `bytes` bytes.
    ///
    /// # Errors
    /// The reason to end the connection.
    pub(crate) async fn handle(&mut self, frame: ClientFrame, bytes: usize) -> Result<(), Refusal> {
        match frame {
            ClientFrame::Append {
                channel,
                epoch,
                first_clock,
                records,
            } => {
                let arrived = Arrived {
                    epoch: epoch.0,
                    first_clock: first_clock.0,
                    records: records.0,
                };
                self.append(channel, arrived, bytes).await;
                Ok(())
            }
            ClientFrame::Request {
                id,
                body: Request::CloseDocument { channel },
            } => {
                let answer = self.close(channel);
                self.conn
                    .outbox
                    .push_frame(&ServiceFrame::Response { id, answer });
                Ok(())
            }
            ClientFrame::Request { id, body } => {
                self.request(id, body, bytes).await;
                Ok(())
            }
            ClientFrame::Show { channel, item } => {
                if let Some(open) = self.conn.channel(channel.0) {
                    presence::show(&self.shared, &self.conn, &open, item);
                }
                Ok(())
            }
            ClientFrame::Ping => {
                self.conn.outbox.push_frame(&ServiceFrame::Pong);
                Ok(())
            }
            ClientFrame::Hello { .. } | ClientFrame::Login { .. } => Err(Refusal::Malformed),
        }
    }

    /// Judges a snapshot of which only the beginning has come. Where it is refused, answers at once: the rest of it is not to be kept.
    pub(crate) async fn takes_snapshot(&self, id: Varint, header: &RecordHeader) -> bool {
        let (shared, conn) = (&self.shared, &self.conn);
        let judged = async {
            // Before anything is looked up for it.
            shared.rates.request(conn.device, 0)?;
            let (group, document) =
                document_of(shared, conn, header.group, header.document).await?;
            snapshot::judge_early(&group, &document, conn, header).await
        };
        let Err(error) = judged.await else {
            return true;
        };
        let refusal = error.into_refusal();
        let answer = Answer::Refused(refusal);
        conn.outbox
            .send_frame(&ServiceFrame::Response { id, answer })
            .await;
        false
    }

    async fn append(&self, channel: Varint, arrived: Arrived, bytes: usize) {
        let first_clock = arrived.first_clock;
        let Some(open) = self.conn.channel(channel.0) else {
            self.conn.outbox.push_frame(&ServiceFrame::AppendRefused {
                channel,
                first_clock: Varint(first_clock),
                refusal: Refusal::NoChannel,
            });
            return;
        };
        let records = arrived.records.len() as u64;
        if let Err(refusal) = self
            .shared
            .rates
            .append(self.conn.device, records, bytes as u64)
        {
            append::refuse(&self.conn, &open, first_clock, refusal).await;
            return;
        }
        append::append(&self.conn, &open, arrived).await;
    }

    fn close(&self, channel: Varint) -> Answer {
        match self.conn.remove_channel(channel.0) {
            Some(channel) => {
                channel.document.leave(&channel);
                Answer::Done
            }
            None => Answer::Refused(Refusal::NoChannel),
        }
    }

    /// Starts a request. Waits where too many are under way: the client's next frames wait with it.
    async fn request(&self, id: Varint, body: Request, bytes: usize) {
        let (shared, conn) = (self.shared.clone(), self.conn.clone());
        if let Err(refusal) = shared.rates.request(conn.device, bytes as u64) {
            let answer = Answer::Refused(refusal);
            conn.outbox
                .push_frame(&ServiceFrame::Response { id, answer });
            return;
        }
        let Ok(place) = self.requests.clone().acquire_owned().await else {
            return;
        };
        let tasks = shared.env.tasks.clone();
        tasks.spawn(async move {
            let answer = match run(&shared, &conn, id, body).await {
                Ok(answer) => answer,
                Err(error) => {
                    let refusal = error.into_refusal();
                    let now = shared.env.clock.now();
                    let misconduct = &shared.env.misconduct;
                    misconduct.refused(&conn.device, &refusal, now);
                    Some(Answer::Refused(refusal))
                }
            };
            if let Some(answer) = answer {
                conn.outbox
                    .send_frame(&ServiceFrame::Response { id, answer })
                    .await;
            }
            drop(place);
        });
    }
}

/// Runs a request.
async fn run(shared: &Arc<Shared>, conn: &Arc<Conn>, id: Varint, body: Request) -> Outcome {
    match body {
        Request::PutDeviceList { list } => identity::put_device_list(shared, conn, list.into_vec())
            .await
            .map(Some),
        Request::GetDeviceList { user } => identity::device_list(shared, user).await.map(Some),
        Request::PutKeyPackages {
            one_time,
            last_resort,
        } => identity::put_key_packages(shared, conn, one_time, last_resort)
            .await
            .map(Some),
        Request::ClaimKeyPackages { user, devices } => {
            identity::claim_key_packages(shared, conn, user, devices)
                .await
                .map(Some)
        }
        Request::ClearKeyPackages => identity::clear_key_packages(shared, conn).await.map(Some),
        Request::ConfirmLife => identity::confirm_life(shared, conn).await.map(Some),
        Request::AckWelcome { id } => Ok(Some(join::acknowledge(&shared.env, conn, id).await?)),
        Request::GetMemberships => {
            // Whoever hears the answer has heard of every invitation that waited.
            tokio::select! {
                () = conn.welcomed.cancelled() => {}
                () = conn.outbox.closing().cancelled() => {}
            }
            join::memberships(&shared.env, conn.device).await.map(Some)
        }
        Request::CreateGroup {
            group_info,
            tree,
            founded,
        } => {
            let (info, tree) = (group_info.as_slice(), tree.as_slice());
            create::create(&shared.env, conn, info, tree, founded)
                .await
                .map(Some)
        }
        Request::AdoptGroup {
            group,
            group_info,
            tree,
            state,
            pending,
        } => {
            let brought = Brought {
                group,
                group_info,
                tree,
                state,
                pending,
            };
            adopt::adopt(&shared.env, conn, brought).await.map(Some)
        }
        Request::CloseDocument { .. } => Err(Refusal::Malformed.into()),
        Request::Report {
            generation,
            log,
            signed,
        } => recovery::report(shared, conn, (generation, log), signed)
            .await
            .map(Some),
        Request::GetHead { log } => {
            let group = joined(shared, conn, log.group).await?;
            let signed = match log.document {
                None => {
                    shared.rates.head(conn.device, log)?;
                    group.head_now()
                }
                Some(document) => {
                    let (_, document) = document_of(shared, conn, log.group, document).await?;
                    shared.rates.head(conn.device, log)?;
                    document.head_now()
                }
            };
            Ok(Some(Answer::Head { signed }))
        }
        Request::OpenDocument { .. }
        | Request::PutSnapshot { .. }
        | Request::GetRecords { .. }
        | Request::ReturnDocument { .. } => run_in_document(shared, conn, id, body).await,
        other => run_in_group(shared, conn, id, other).await,
    }
}

async fn run_in_group(
    shared: &Arc<Shared>,
    conn: &Arc<Conn>,
    id: Varint,
    body: Request,
) -> Outcome {
    match body {
        Request::Commit(bundle) => {
            let group = known(shared, conn, bundle.group).await?;
            commit::commit(&group, conn, bundle).await.map(Some)
        }
        Request::Propose { group, message } => {
            let group = joined(shared, conn, group).await?;
            entries::propose(&group, conn, message.as_slice())
                .await
                .map(Some)
        }
        Request::PutEntry { entry } => {
            let group = joined(shared, conn, entry.header.group).await?;
            entries::put(&group, conn, entry).await.map(Some)
        }
        Request::CreateDocument { entry, snapshot } => {
            let group = joined(shared, conn, entry.header.group).await?;
            documents::create(&group, conn, entry, snapshot)
                .await
                .map(Some)
        }
        Request::ReturnGroup {
            group,
            from,
            entries,
            group_info,
            wrap,
            bundles,
        } => {
            // What comes back may be what makes it a member.
            let group = shared.groups.get(&shared.env, group).await?;
            let given = Given {
                from,
                entries,
                group_info,
                wrap,
                bundles,
            };
            group_returned::give_back(&group, conn, given)
                .await
                .map(Some)
        }
        Request::SubscribeGroup { group, from } => {
            let group = shared.groups.get(&shared.env, group).await?;
            follow::follow(&group, conn, from, id).await?;
            Ok(None)
        }
        Request::GetWraps { group, epoch } => {
            let group = joined(shared, conn, group).await?;
            join::wraps(&group, epoch).await.map(Some)
        }
        Request::PutWrap { wrap } => {
            let group = joined(shared, conn, wrap.statement.group).await?;
            join::offer_wrap(&group, conn, wrap).await.map(Some)
        }
        Request::GetGroupInfo { group } => {
            let group = shared.groups.get(&shared.env, group).await?;
            group_info::get(&group, conn).await.map(Some)
        }
        Request::PutGroupInfo { group, group_info } => {
            let group = joined(shared, conn, group).await?;
            let now = shared.env.clock.now();
            shared.rates.repairs.take(conn.device, 1, now)?;
            group_info::replace(&group, conn, group_info.as_slice())
                .await
                .map(Some)
        }
        Request::Ask { group, what } => {
            let group = shared.groups.get(&shared.env, group).await?;
            asks::ask(&group, conn, what).await.map(Some)
        }
        Request::GetStatus { group } => {
            let group = joined(shared, conn, group).await?;
            status::status(&group).await.map(Some)
        }
        _ => Err(Refusal::Malformed.into()),
    }
}

async fn run_in_document(
    shared: &Arc<Shared>,
    conn: &Arc<Conn>,
    id: Varint,
    body: Request,
) -> Outcome {
    match body {
        Request::OpenDocument {
            group,
            document,
            instance,
            from,
        } => {
            let (group, document) = document_of(shared, conn, group, document).await?;
            let opening = Opening { instance, from };
            open::open(conn, &group, &document, opening, id).await?;
            Ok(None)
        }
        Request::ReturnDocument {
            group,
            document,
            base,
            from,
            items,
        } => {
            let group = joined(shared, conn, group).await?;
            let log = LogId {
                group: group.id,
                document,
            };
            let document = shared.documents.find(&shared.env, log).await?;
            let records = Returned::records(items)?;
            returned::give_back(&group, (log, document), conn, (base, from), records)
                .await
                .map(Some)
        }
        Request::PutSnapshot { record } => {
            let header = &record.header;
            let (group, document) =
                document_of(shared, conn, header.group, header.document).await?;
            snapshot::put(&group, &document, conn, record, id).await?;
            Ok(None)
        }
        Request::GetRecords {
            group,
            document,
            from,
            count,
        } => {
            let (_, document) = document_of(shared, conn, group, document).await?;
            open::records(conn, &document, from, count).await.map(Some)
        }
        _ => Err(Refusal::Malformed.into()),
    }
}

/// A group that the device is a member of. It does not exist for others.
async fn joined(shared: &Shared, conn: &Conn, group: GroupId) -> Result<Arc<Group>, OpError> {
    let group = shared.groups.get(&shared.env, group).await?;
    group.for_member(&conn.device)?;
    Ok(group)
}

/// A group that the device may send a commit to: as a member, or to return.
async fn known(shared: &Shared, conn: &Conn, group: GroupId) -> Result<Arc<Group>, OpError> {
    let group = shared.groups.get(&shared.env, group).await?;
    let view = group.view();
    let was_there = view
        .roster
        .rows()
        .iter()
        .any(|row| row.device == conn.device);
    if was_there || view.is_alone(&conn.user) {
        Ok(group)
    } else {
        Err(Refusal::UnknownGroup.into())
    }
}

async fn document_of(
    shared: &Shared,
    conn: &Conn,
    group: GroupId,
    document: DocumentId,
) -> Result<(Arc<Group>, Arc<Document>), OpError> {
    let group = joined(shared, conn, group).await?;
    let log = LogId {
        group: group.id,
        document,
    };
    let document = shared.documents.get(&shared.env, log).await?;
    Ok((group, document))
}
