//! Integers, lengths, labelled hashes, what signatures cover, derived ids.

use anyhow::Result;
use conclave_identity::DeviceKey;
use conclave_proto::codec::{Bytes, Varint, encode};
use conclave_proto::hash::{labelled, sign_content};
use conclave_proto::{DocumentId, GroupId};

use super::Book;
use super::value::Shown;

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    for value in [
        0,
        63,
        64,
        16_383,
        16_384,
        (1 << 30) - 1,
        1 << 30,
        Varint::MAX,
    ] {
        let bytes = encode(&Varint(value));
        book.plain("varint")
            .given("value", value)
            .makes("bytes", "varint", &[], bytes);
    }
    for bytes in ["4001", "80000040", "c000000000004000", "40", "c0000000"] {
        book.plain("no varint: not in its shortest form, or cut off")
            .given("bytes", bytes);
    }
    for length in [0u8, 1, 63, 64] {
        let content: Vec<u8> = (0..length).collect();
        let bytes = encode(&Bytes::from(content.as_slice()));
        let of = [("x", content.as_slice())];
        book.plain("opaque x<V>")
            .makes("bytes", "opaque<V>", &of, bytes);
    }
    let parts: [&[u8]; 3] = [b"one", b"", b"three"];
    let hash = labelled("a label", &parts);
    book.plain("labelled hash")
        .labelled("hash", "a label", &parts, &hash)?;
    let key = DeviceKey::from_bytes(&[0x42; 32]);
    let signature = key.sign("a label", b"a content");
    book.bytes(
        "what a signature covers",
        "SignContent",
        &sign_content("a label", b"a content"),
    )?
    .given_hex("seed", key.to_bytes().as_slice())
    .signed(
        "signature",
        &key.public(),
        "a label",
        b"a content",
        &signature,
    )?;
    ids(book)
}

fn ids(book: &mut Book<'_>) -> Result<()> {
    let group = GroupId([1; 16]);
    let id = DocumentId::directory(&group);
    let whole = labelled("conclave 1.0 directory", &[group.as_bytes()]);
    book.plain("id of a group's directory")
        .given_hex("group", group.as_bytes())
        .labelled(
            "hash",
            "conclave 1.0 directory",
            &[group.as_bytes()],
            &whole,
        )?
        .makes("id", "first 16 bytes", &[("hash", &whole.0)], id.as_bytes());
    let (anew, old) = (GroupId([2; 16]), DocumentId([3; 16]));
    let label = "conclave 1.0 carried document";
    let parts = [anew.as_bytes(), old.as_bytes()];
    let whole = labelled(label, &parts);
    let id = DocumentId::carried(&anew, &old);
    book.plain("id of a document that a group founded anew takes over")
        .given("new group", Shown::hex(anew.as_bytes()))
        .given("old document", Shown::hex(old.as_bytes()))
        .labelled("hash", label, &parts, &whole)?
        .makes("id", "first 16 bytes", &[("hash", &whole.0)], id.as_bytes());
    Ok(())
}
