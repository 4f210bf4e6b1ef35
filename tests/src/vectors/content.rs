//! What records say: updates and states of both engines, and what a reader makes of them.

use anyhow::{Context as _, Result, ensure};
use conclave_crdt::{Applied, Crdt, CrdtKind, ReplicaId, load};
use conclave_proto::{DocumentId, GroupId};
use serde_json::json;

use super::Book;
use super::records::{at, ranges, replica, written};
use super::value::Shown;

const YJS: [u8; 8] = [0, 0, 0, 0, 0, 0, 0, 7];
const AUTOMERGE: [u8; 16] = [0x0a; 16];

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    text(book, "Yjs", CrdtKind::Yjs, &YJS)?;
    text(book, "Automerge", CrdtKind::Automerge, &AUTOMERGE)?;
    values(book, "Yjs", CrdtKind::Yjs, &YJS)?;
    values(book, "Automerge", CrdtKind::Automerge, &AUTOMERGE)?;
    first_change(book)?;
    directory(book)
}

fn said(crdt: &mut dyn Crdt) -> Result<(String, String)> {
    let text = crdt.text().context("no text")?.text()?;
    let json = crdt.json().context("no JSON")?.to_json()?;
    Ok((text, json.to_string()))
}

/// Another id of the same length.
fn sibling(id: &[u8], last: u8) -> Vec<u8> {
    let mut other = id.to_vec();
    other.pop();
    other.push(last);
    other
}

/// One update, what it is to who gets it, and the state that a snapshot of it holds.
fn shown(book: &mut Book<'_>, name: &str, id: &[u8], crdt: &mut dyn Crdt) -> Result<()> {
    let update = written(crdt)?;
    let kind = crdt.kind();
    let mut other = replica(kind, &sibling(id, 1))?;
    ensure!(
        other.apply(&[&update])? == Applied::Complete,
        "something waits"
    );
    let (text, json) = said(other.as_mut())?;
    ensure!(
        said(crdt)? == (text.clone(), json.clone()),
        "another content"
    );
    let state = crdt.snapshot()?;
    let mut loaded = load(kind, &state, ReplicaId::from_bytes(&sibling(id, 2))?)?;
    ensure!(said(loaded.as_mut())? == (text.clone(), json.clone()));
    ensure!(loaded.content_digest()? == crdt.content_digest()?);
    let rows = crdt.replicas().into_iter().map(|(replica, next)| {
        Shown::Fields(vec![
            ("replica".to_owned(), Shown::hex(replica.as_bytes())),
            ("next".to_owned(), next.into()),
        ])
    });
    let rows = Shown::List(rows.collect());
    book.plain(name)
        .given_hex("replica id", id)
        .given_hex("update", &update)
        .follows(
            "ranges of the update",
            "",
            &[],
            ranges(other.as_ref(), &update)?,
        )
        .follows("text", "", &[], text)
        .follows("JSON", "", &[], json)
        .follows("replica ids of the document", "", &[], rows)
        .makes("a state that a snapshot may hold", "", &[], state);
    Ok(())
}

fn text(book: &mut Book<'_>, engine: &str, kind: CrdtKind, id: &[u8]) -> Result<()> {
    let mut crdt = replica(kind, id)?;
    let empty = crdt.snapshot()?;
    book.plain(&format!("{engine}: a document before anything is in it"))
        .makes("a state that a snapshot may hold", "", &[], empty);
    crdt.text().context("no text")?.splice(0, 0, "Grüße, 🌍")?;
    shown(
        book,
        &format!("{engine}: text is written"),
        id,
        crdt.as_mut(),
    )?;
    crdt.text().context("no text")?.splice(0, 7, "Hallo ")?;
    let update = written(crdt.as_mut())?;
    let (text, _) = said(crdt.as_mut())?;
    book.plain(&format!(
        "{engine}: its first seven characters are replaced"
    ))
    .given_hex("update", &update)
    .follows(
        "ranges of the update",
        "",
        &[],
        ranges(crdt.as_ref(), &update)?,
    )
    .follows("text", "", &[], text);
    Ok(())
}

fn values(book: &mut Book<'_>, engine: &str, kind: CrdtKind, id: &[u8]) -> Result<()> {
    let mut crdt = replica(kind, id)?;
    let view = crdt.json().context("no JSON")?;
    view.put(&at("done"), &json!(true))?;
    view.put(&at("nothing"), &json!(null))?;
    view.put(&at("count"), &json!(-3))?;
    view.put(&at("share"), &json!(0.25))?;
    view.put(&at("title"), &json!("Plan"))?;
    view.put(&at("rows"), &json!([{"name": "one"}, "two", 3]))?;
    let bytes = json!({"$conclave": "bytes", "base64": "AQID"});
    view.put(&at("raw"), &bytes)?;
    shown(
        book,
        &format!("{engine}: JSON is written"),
        id,
        crdt.as_mut(),
    )
}

/// The change that every document of Automerge begins with.
fn first_change(book: &mut Book<'_>) -> Result<()> {
    let state = replica(CrdtKind::Automerge, &AUTOMERGE)?.snapshot()?;
    let mut document = automerge::AutoCommit::load(&state)?;
    let changes = document.get_changes(&[]);
    ensure!(changes.len() == 1, "{} changes", changes.len());
    let mut first = changes.into_iter().next().context("no change")?;
    let hash = first.hash();
    book.plain("Automerge: the first change of every document")
        .makes("change", "", &[], first.bytes().as_ref())
        .makes("its hash", "", &[], hash.as_ref());
    Ok(())
}

fn directory(book: &mut Book<'_>) -> Result<()> {
    let (group, document) = (GroupId([1; 16]), DocumentId([2; 16]));
    let mut crdt = replica(CrdtKind::Yjs, &YJS)?;
    let view = crdt.json().context("no JSON")?;
    view.put(&at("name"), &json!("Board"))?;
    view.put(&at(&document.to_string()), &json!("Minutes"))?;
    let name = format!("the directory of group {group}, with the title of document {document}");
    shown(book, &name, &YJS, crdt.as_mut())
}
