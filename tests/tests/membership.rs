//! Who may do what, and what coming and going does.

use anyhow::{Context as _, Result, ensure};
use conclave_client::{Client, Document, Error, Group};
use conclave_crdt::{TextView as _, yjs::Yrs};
use conclave_proto::record::CloseReason;
use conclave_proto::{GroupPolicy, Role};
use conclave_tests::{PATIENCE, World, admit, document, online, until, user_id, verify_all};

fn code<T: std::fmt::Debug>(result: Result<T, impl Into<Error>>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => error.into().code().to_owned(),
    }
}

async fn in_time<T>(what: &str, work: impl Future<Output = Result<T, Error>>) -> Result<T> {
    Ok(tokio::time::timeout(PATIENCE, work)
        .await
        .with_context(|| what.to_owned())??)
}

async fn role(group: &Group, client: &Client, role: Role) -> Result<()> {
    let user = user_id(client).await?;
    until("the role to be known", || async {
        let members = group.members().await?;
        Ok(members
            .iter()
            .any(|one| one.user == user && one.role == role)
            .then_some(()))
    })
    .await
}

async fn gone(client: &Client) -> Result<()> {
    until("the group to be left", || async {
        Ok(client
            .groups()
            .await?
            .iter()
            .all(|group| !group.active)
            .then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_decide_and_refusals_are_typed() -> Result<()> {
    let world = World::start().await?;
    let (ana, ben, cleo) = (
        world.user("ana").await?,
        world.user("ben").await?,
        world.user("cleo").await?,
    );
    let stranger = world.user("stranger").await?;
    verify_all(&[&ana, &ben, &cleo]).await?;
    let group = ana.create_group("Roles", GroupPolicy::default()).await?;
    let notes: Document<Yrs> = group.create_document("Notes").await?;
    let at_ben = admit(&group, &[&ben]).await?.remove(0);
    let at_cleo = admit(&group, &[&cleo]).await?.remove(0);
    let (ben_id, cleo_id) = (user_id(&ben).await?, user_id(&cleo).await?);

    assert_eq!(
        code(group.invite(&user_id(&stranger).await?).await),
        "engine.not_verified"
    );
    // An editor neither invites nor removes others.
    ben.verify(&stranger.whoami().await?.contact.context("contact")?, true)
        .await?;
    assert_eq!(
        code(
            in_time("invite", at_ben.invite(&user_id(&stranger).await?))
                .await
                .map_err(down)
        ),
        "mls.forbidden"
    );
    assert_eq!(
        code(
            in_time("remove", at_ben.remove(&cleo_id))
                .await
                .map_err(down)
        ),
        "mls.forbidden"
    );

    // A viewer reads and does not write.
    in_time("set role", group.set_role(&ben_id, Role::Viewer)).await?;
    role(&at_ben, &ben, Role::Viewer).await?;
    let ben_notes: Document<Yrs> = document(&at_ben, &notes.id()).await?;
    assert_eq!(
        code(
            ben_notes
                .edit(|yrs| yrs.splice(0, 0, "no"))
                .await
                .map_err(Error::from)
        ),
        "engine.forbidden"
    );
    notes.edit(|yrs| yrs.splice(0, 0, "read me")).await?;
    until("the viewer to read", || async {
        Ok((ben_notes.read(|yrs| yrs.text()).await? == "read me").then_some(()))
    })
    .await?;

    // Renamed and archived for everybody; an archived document takes no edits.
    notes.rename("Old notes").await?;
    let cleo_notes: Document<Yrs> = document(&at_cleo, &notes.id()).await?;
    until("the new title", || async {
        let documents = at_cleo.documents().await?;
        Ok(documents
            .iter()
            .any(|one| one.title.as_deref() == Some("Old notes"))
            .then_some(()))
    })
    .await?;
    in_time("archive", notes.archive()).await?;
    until("the document to be archived", || async {
        let documents = at_cleo.documents().await?;
        Ok(documents
            .iter()
            .any(|one| one.closed == Some(CloseReason::Archived))
            .then_some(()))
    })
    .await?;
    assert_eq!(
        code(
            cleo_notes
                .edit(|yrs| yrs.splice(0, 0, "late"))
                .await
                .map_err(Error::from)
        ),
        "refused.document_closed"
    );
    assert_eq!(cleo_notes.read(|yrs| yrs.text()).await?, "read me");
    Ok(())
}

/// The client's error inside a timeout's.
fn down(error: anyhow::Error) -> Error {
    error.downcast::<Error>().unwrap_or(Error::TimedOut)
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_and_declining_take_the_leaf_out_and_rekey() -> Result<()> {
    let world = World::start().await?;
    let (ana, ben, cleo) = (
        world.user("ana").await?,
        world.user("ben").await?,
        world.user("cleo").await?,
    );
    verify_all(&[&ana, &ben, &cleo]).await?;
    let group = ana.create_group("Comings", GroupPolicy::default()).await?;
    let notes: Document<Yrs> = group.create_document("Notes").await?;
    let at_ben = admit(&group, &[&ben]).await?.remove(0);
    in_time("invite", group.invite(&user_id(&cleo).await?)).await?;
    until("the invitation", || async {
        Ok((!cleo.invitations().await?.is_empty()).then_some(()))
    })
    .await?;

    in_time("decline", cleo.decline(&group.id())).await?;
    until("cleo's leaf to go", || async {
        Ok((group.members().await?.len() == 2).then_some(()))
    })
    .await?;
    ensure!(
        cleo.groups().await?.is_empty(),
        "a declined group leaves nothing behind"
    );

    let epoch = group.info().await?.epoch;
    in_time("leave", at_ben.leave()).await?;
    gone(&ben).await?;
    until("re-keying after the leave", || async {
        let info = group.info().await?;
        Ok((info.epoch > epoch && info.users == 1 && info.rotating_since.is_none()).then_some(()))
    })
    .await?;
    notes.edit(|yrs| yrs.splice(0, 0, "alone now")).await?;
    in_time("sync", notes.synced()).await?;

    // Back again, by invitation only.
    let again = admit(&group, &[&ben]).await?.remove(0);
    let ben_notes: Document<Yrs> = document(&again, &notes.id()).await?;
    until("ben to read", || async {
        Ok((ben_notes.read(|yrs| yrs.text()).await? == "alone now").then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_work_survives_restarts_of_everything() -> Result<()> {
    let mut world = World::start().await?;
    let (ana, ben) = (world.user("ana").await?, world.user("ben").await?);
    verify_all(&[&ana, &ben]).await?;
    world.stop_service().await;
    // A group, a document and an edit, all made while nobody answers.
    let group = ana.create_group("Offline", GroupPolicy::default()).await?;
    let notes: Document<Yrs> = group.create_document("Notes").await?;
    notes.edit(|yrs| yrs.splice(0, 0, "made offline")).await?;
    let (id, notes_id) = (group.id(), notes.id());
    ana.close().await?;
    let ana = Client::open(world.config("ana")).await?;
    world.start_service().await?;
    online(&ana).await?;
    let group = ana.group(&id).await?;
    let notes: Document<Yrs> = document(&group, &notes_id).await?;
    in_time("sync", notes.synced()).await?;
    let at_ben = admit(&group, &[&ben]).await?.remove(0);
    let ben_notes: Document<Yrs> = document(&at_ben, &notes_id).await?;
    until("ben to read", || async {
        Ok((ben_notes.read(|yrs| yrs.text()).await? == "made offline").then_some(()))
    })
    .await?;

    // A removal intended while the service is away is done when it is back.
    world.stop_service().await;
    let removing = {
        let (group, ben) = (group.clone(), user_id(&ben).await?);
        tokio::spawn(async move { group.remove(&ben).await })
    };
    ben_notes.edit(|yrs| yrs.splice(0, 0, "too late? ")).await?;
    world.start_service().await?;
    tokio::time::timeout(PATIENCE, removing)
        .await
        .context("the removal")???;
    gone(&ben).await?;
    ensure!(group.info().await?.users == 1);
    Ok(())
}
