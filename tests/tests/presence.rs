//! Presence over a real service: windows of one device, an editor's awareness, and who goes.

use anyhow::{Context as _, Result, bail};
use conclave_client::{Awareness, Document, Presence, PresenceChange, Showing, ShowingKind};
use conclave_crdt::TextView as _;
use conclave_crdt::yjs::Yrs;
use conclave_proto::GroupPolicy;
use conclave_tests::{PATIENCE, World, admit, document, until, verify_all};
use yrs::Doc;
use yrs::sync::{Awareness as Yawareness, AwarenessUpdate};
use yrs::updates::decoder::Decode as _;
use yrs::updates::encoder::Encode as _;

/// Ana's text, where Ben has it too.
async fn pair(world: &World) -> Result<([conclave_client::Client; 2], [Document<Yrs>; 2])> {
    let (ana, ben) = (world.user("ana").await?, world.user("ben").await?);
    verify_all(&[&ana, &ben]).await?;
    let group = ana.create_group("Board", GroupPolicy::default()).await?;
    let made = group
        .create_document_with::<Yrs>("text", |yrs| yrs.splice(0, 0, "hello"))
        .await?;
    let joined = admit(&group, &[&ben]).await?;
    let joined = joined.first().context("Ben is no member")?;
    let theirs = document::<Yrs>(joined, &made.id()).await?;
    until("the text to be there", || async {
        let here = theirs.read(|yrs| yrs.len()).await?;
        Ok((here == 5).then_some(()))
    })
    .await?;
    Ok(([ana, ben], [made, theirs]))
}

fn note(text: &str) -> Showing {
    Showing {
        kind: ShowingKind::Application,
        value: format!("{{\"note\":\"{text}\"}}"),
    }
}

/// Reads changes until exactly these are shown, in whatever order.
async fn shows(presence: &mut Presence, all: &[&str]) -> Result<()> {
    let mut wanted: Vec<String> = all.iter().map(|text| note(text).value).collect();
    wanted.sort();
    let seen = async {
        loop {
            let mut there: Vec<String> =
                presence.others().map(|(_, it)| it.value.clone()).collect();
            there.sort();
            if there == wanted {
                return Ok(());
            }
            if presence.next().await.is_none() {
                bail!("the client stopped");
            }
        }
    };
    let seen = tokio::time::timeout(PATIENCE, seen).await;
    seen.with_context(|| format!("waited for {all:?}"))?
}

#[tokio::test(flavor = "multi_thread")]
async fn two_windows_of_one_device_show_each_their_own_and_the_last_to_close_is_the_last_seen()
-> Result<()> {
    let world = World::start().await?;
    let ([_ana, ben], [at_ana, at_ben]) = pair(&world).await?;
    let mut seen = at_ana.presence().await?;
    let (one, two) = (at_ben.presence().await?, at_ben.presence().await?);
    one.show(note("one")).await?;
    two.show(note("two")).await?;
    shows(&mut seen, &["one", "two"]).await?;
    two.clear().await?;
    shows(&mut seen, &["one"]).await?;
    two.show(note("again")).await?;
    shows(&mut seen, &["one", "again"]).await?;
    drop(one);
    shows(&mut seen, &["again"]).await?;
    // Ended in order, without a word from the window itself.
    let begun = tokio::time::Instant::now();
    ben.close().await?;
    shows(&mut seen, &[]).await?;
    anyhow::ensure!(
        begun.elapsed() < std::time::Duration::from_secs(20),
        "it expired"
    );
    drop(two);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_is_told_as_gone_and_no_more_is_seen_without_a_connection() -> Result<()> {
    let mut world = World::start().await?;
    let (_clients, [at_ana, at_ben]) = pair(&world).await?;
    let mut seen = at_ana.presence().await?;
    let other = at_ben.presence().await?;
    other.show(note("here")).await?;
    shows(&mut seen, &["here"]).await?;
    world.stop_service().await;
    let lost = tokio::time::timeout(PATIENCE, seen.next()).await?;
    anyhow::ensure!(lost == Some(PresenceChange::Lost), "{lost:?}");
    world.start_service().await?;
    shows(&mut seen, &["here"]).await?;
    Ok(())
}

/// An editor, of which nothing is known but its awareness.
struct Editor {
    awareness: Yawareness,
    bridge: Awareness,
}

impl Editor {
    async fn of(document: &Document<Yrs>) -> Result<Self> {
        Ok(Self {
            awareness: Yawareness::new(Doc::new()),
            bridge: document.presence().await?.awareness(),
        })
    }

    async fn shows(&mut self, state: &str) -> Result<()> {
        self.awareness.set_local_state_raw(state);
        // As an editor does at first: everything that it knows of.
        let update = self.awareness.update()?.encode_v1();
        Ok(self.bridge.apply(&update).await?)
    }

    fn sees(&self) -> Vec<String> {
        let own = self.awareness.client_id();
        let others = self.awareness.iter().filter(|(id, _)| *id != own);
        let mut states: Vec<String> = others
            .filter_map(|(_, state)| Some(state.data?.to_string()))
            .collect();
        states.sort();
        states
    }

    async fn until_it_sees(&mut self, wanted: &[&str]) -> Result<()> {
        let seen = async {
            while self.sees() != wanted {
                let update = self.bridge.next().await.context("the client stopped")?;
                self.awareness
                    .apply_update(AwarenessUpdate::decode_v1(&update)?)?;
            }
            anyhow::Ok(())
        };
        let seen = tokio::time::timeout(PATIENCE, seen).await;
        seen.with_context(|| format!("waited for {wanted:?}"))?
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn editors_see_each_others_awareness_under_other_ids() -> Result<()> {
    let world = World::start().await?;
    let (_clients, [at_ana, at_ben]) = pair(&world).await?;
    let (mut ana, mut ben) = (Editor::of(&at_ana).await?, Editor::of(&at_ben).await?);
    let mut second = Editor::of(&at_ben).await?;
    ana.shows(r#"{"user":"ana"}"#).await?;
    ben.shows(r#"{"user":"ben"}"#).await?;
    second.shows(r#"{"user":"ben too"}"#).await?;
    ana.until_it_sees(&[r#"{"user":"ben too"}"#, r#"{"user":"ben"}"#])
        .await?;
    ben.until_it_sees(&[r#"{"user":"ana"}"#]).await?;
    // No id of an editor is known to another.
    let ids = [&ana, &ben, &second].map(|editor| editor.awareness.client_id());
    for editor in [&ana, &ben] {
        let own = editor.awareness.client_id();
        let mut others = editor.awareness.iter().filter(|(id, _)| *id != own);
        anyhow::ensure!(others.all(|(id, _)| !ids.contains(&id)));
    }
    // What an editor was told comes back in its own updates, and is not shown as its own.
    ana.shows(r#"{"user":"ana","at":1}"#).await?;
    ben.until_it_sees(&[r#"{"user":"ana","at":1}"#]).await?;
    drop(second);
    ana.until_it_sees(&[r#"{"user":"ben"}"#]).await?;
    ben.awareness.clean_local_state();
    let id = ben.awareness.client_id();
    let gone = ben.awareness.update_with_clients([id])?.encode_v1();
    ben.bridge.apply(&gone).await?;
    ana.until_it_sees(&[]).await?;
    Ok(())
}

/// Where a cursor names what is not in the log, it is not shown; a place that everybody knows is.
#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_under_an_id_that_the_log_does_not_know_is_left_out() -> Result<()> {
    let world = World::start().await?;
    let (_clients, [at_ana, at_ben]) = pair(&world).await?;
    let (mut ana, mut ben) = (Editor::of(&at_ana).await?, Editor::of(&at_ben).await?);
    let at = |client: u64| {
        format!(
            r#"{{"user":"ben","cursor":{{"anchor":{{"item":{{"client":{client},"clock":0}},"assoc":0}},"head":{{"tname":"text","assoc":0}}}}}}"#
        )
    };
    ben.shows(&at(77)).await?;
    let left = r#"{"cursor":{"anchor":null,"head":{"assoc":0,"tname":"text"}},"user":"ben"}"#;
    ana.until_it_sees(&[left]).await?;
    let place = at_ben.as_any().selection(1, 2).await?;
    anyhow::ensure!(place.value.contains("item"), "{}", place.value);
    ben.shows(&place.value).await?;
    ana.until_it_sees(&[&place.value]).await
}
