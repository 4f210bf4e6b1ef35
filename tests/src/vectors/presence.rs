//! Presence: each message, sealed, from the presence root of its epoch.

use anyhow::{Context as _, Result, ensure};
use conclave_doc::DocKeys;
use conclave_identity::DeviceKey;
use conclave_mls::Secret32;
use conclave_presence::{open, seal_with_nonce};
use conclave_proto::codec::{Bytes, encode};
use conclave_proto::presence::{
    BeatHead, PRESENCE_LABEL, PRESENCE_VERSION, PresenceBody, PresenceContent, PresenceHeader,
    Shown, ShownItem, ShownState, presence_core,
};
use conclave_proto::service::SignedHead;
use conclave_proto::{Author, DeviceId, DocumentId, GroupId, Hash, Head, InstanceId, SessionId};

use super::Book;

const DOCUMENT: DocumentId = DocumentId([0x44; 16]);
const SESSION: SessionId = SessionId([0x5e; 16]);
const OTHER: SessionId = SessionId([0x5f; 16]);

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    let now = || {
        let cursor = br#"{"cursor":{"anchor":{"tname":"text","assoc":0},"head":{"tname":"text","assoc":0}}}"#;
        let states = [(0, 1, cursor.as_slice()), (2, 3, br#"{"note":"reading"}"#)];
        let states = states.map(|(index, kind, value)| ShownState {
            index,
            kind,
            value: Bytes::from(value),
        });
        Shown {
            states: states.into(),
        }
    };
    let (nonce, echo) = ([0x11; 16], [0x12; 16]);
    let messages = [
        ("hello", PresenceBody::Hello { nonce }, None),
        (
            "reply",
            PresenceBody::Reply {
                nonce,
                echo,
                now: now(),
            },
            Some(OTHER),
        ),
        (
            "answer",
            PresenceBody::Answer { echo, now: now() },
            Some(OTHER),
        ),
        ("state", PresenceBody::State(now()), None),
        ("gone", PresenceBody::Gone, None),
    ];
    for (counter, (name, body, to)) in (1 << 32..).zip(messages) {
        let content = PresenceContent {
            session: SESSION,
            counter,
            body,
        };
        book.of(
            &format!("{name}, as it is sealed"),
            "PresenceContent",
            &content,
        )?;
        message(book, name, &content, to)?;
    }
    let signed = |size| SignedHead {
        head: Head {
            size,
            root: Hash([0xab; 32]),
        },
        seconds: 1_700_000_001,
        signature: [0x5a; 64],
    };
    let beat = PresenceContent {
        session: SESSION,
        counter: 1 << 32,
        body: PresenceBody::Beat {
            generation: 1_700_000_000_123,
            heads: vec![
                BeatHead {
                    document: DocumentId::ZERO,
                    head: signed(9),
                },
                BeatHead {
                    document: DOCUMENT,
                    head: signed(5_210),
                },
            ],
        },
    };
    book.of("beat, as it is sealed", "PresenceContent", &beat)?;
    Ok(())
}

/// A sealed message, with every step from the presence root.
fn message(
    book: &mut Book<'_>,
    name: &str,
    content: &PresenceContent,
    to: Option<SessionId>,
) -> Result<()> {
    let root = Secret32::new([0x67; 32]);
    let signer = DeviceKey::from_bytes(&[0x77; 32]);
    let keys = DocKeys::of_presence(&root, &DOCUMENT);
    let author = Author {
        device: DeviceId([0x11; 16]),
        instance: InstanceId([0x22; 8]),
    };
    let header = PresenceHeader {
        version: PRESENCE_VERSION,
        group: GroupId([0x33; 16]),
        document: DOCUMENT,
        epoch: 5,
        author,
        seen: Head {
            size: 3,
            root: Hash([0x55; 32]),
        },
        session: SESSION,
        to,
    };
    let nonce = [content.counter as u8; 24];
    let item = seal_with_nonce(&header, content, &keys, &signer, nonce).context("too long")?;
    let opened = open(&header, &item.sealed, &keys)?;
    ensure!(opened == *content, "another content");
    let core = presence_core(&header, &item.sealed);
    book.of(&format!("{name}: the header"), "PresenceHeader", &header)?;
    let mut entry = book.of(
        &format!("{name}: as it is shown"),
        "ShownItem",
        &ShownItem {
            author,
            item: item.clone(),
        },
    )?;
    entry
        .given_hex("presence_root", root.as_bytes())
        .given_hex("content", encode(content))
        .given_hex("seed of the device key", signer.to_bytes().as_slice());
    let (header, tag) = (encode(&header), item.sealed.tag);
    let parts = [
        header.as_slice(),
        nonce.as_slice(),
        item.sealed.ciphertext.as_slice(),
        tag.as_slice(),
        item.sealed.commitment.as_slice(),
    ];
    let (key, signature) = (signer.public(), item.sealed.signature);
    entry
        .labelled("core", "conclave 1.0 presence core", &parts, &core)?
        .signed("signature", &key, PRESENCE_LABEL, &core.0, &signature)?;
    Ok(())
}
