//! Every frame, request, answer and refusal; chunks; what one update costs.

use anyhow::{Context as _, Result, ensure};
use conclave_proto::chunk::{Assembler, split};
use conclave_proto::codec::{Tail, Varint, encode};
use conclave_proto::frame::{
    AppendedRecord, ClientFrame, DeliveredRecord, ElidedRecord, ServiceFrame,
};
use conclave_proto::limits::{FRAME_BYTES, WIRE_MESSAGE_BYTES};
use conclave_proto::record::Sealed;
use conclave_proto::refusal::Refusal;
use conclave_testkit::decoders::{client_frames, refusals, service_frames};

use super::Book;
use super::value::{Decoder, Shown};

pub(super) fn write(book: &mut Book<'_>) -> Result<()> {
    for bytes in client_frames() {
        book.read_by::<ClientFrame>("ClientFrame", &bytes)?;
        frame(book, "ClientFrame", &bytes)?;
    }
    for bytes in service_frames() {
        book.read_by::<ServiceFrame>("ServiceFrame", &bytes)?;
        frame(book, "ServiceFrame", &bytes)?;
    }
    for bytes in refusals() {
        book.read_by::<Refusal>("Refusal", &bytes)?;
        frame(book, "Refusal", &bytes)?;
    }
    chunks(book)?;
    budget(book)
}

/// A frame, named by the cases that it is of.
fn frame(book: &mut Book<'_>, of: &str, bytes: &[u8]) -> Result<()> {
    let shown = Decoder::new(book.page).decode(of, bytes)?;
    let mut name = of.to_owned();
    name_of(&shown, &mut name);
    book.bytes(&name, of, bytes)?;
    Ok(())
}

/// The case, and the request's or the answer's case in it.
pub(super) fn name_of(shown: &Shown, name: &mut String) {
    let Shown::Fields(fields) = shown else {
        return;
    };
    let [(case, held)] = fields.as_slice() else {
        return;
    };
    name.push_str(": ");
    name.push_str(case);
    if let Shown::Fields(inner) = held {
        let within = inner
            .iter()
            .find(|(name, _)| ["body", "answer"].contains(&name.as_str()));
        if let Some((_, within)) = within {
            name_of(within, name);
        }
        if case == "refused" {
            name_of(held, name);
        }
    }
}

/// A frame that is larger than a message.
fn chunks(book: &mut Book<'_>) -> Result<()> {
    let length = WIRE_MESSAGE_BYTES + 10;
    let whole: Vec<u8> = [vec![3], vec![0xaa; length - 1]].concat();
    let messages = split(whole.clone());
    let mut assembler = Assembler::new(FRAME_BYTES);
    let mut joined = None;
    for message in &messages {
        joined = assembler.take(message.clone())?;
    }
    ensure!(joined.as_ref() == Some(&whole), "another frame");
    let parts = messages.iter().map(|message| {
        let first = message.first().copied().unwrap_or_default();
        Shown::Fields(vec![
            ("first byte".to_owned(), Shown::hex(&[first])),
            ("bytes".to_owned(), (message.len() as u64).into()),
        ])
    });
    book.plain("a frame of a byte 03 and then bytes aa, in messages")
        .given("bytes of the frame", length as u64)
        .follows(
            "messages, as this program cuts them",
            "",
            &[],
            Shown::List(parts.collect()),
        );
    Ok(())
}

/// One update alone in its frame, at the top of the small column of section 17.
fn budget(book: &mut Book<'_>) -> Result<()> {
    const PAYLOAD: usize = 62;
    let sealed = Sealed {
        nonce: [1; 24],
        // With the mark of the padding.
        ciphertext: vec![2; PAYLOAD + 1].into(),
        tag: [3; 16],
        commitment: [4; 32],
        signature: [5; 64],
    };
    let append = ClientFrame::Append {
        channel: Varint(63),
        epoch: Varint(63),
        first_clock: Varint(16_383),
        records: Tail(vec![AppendedRecord {
            kind: 1,
            seen_size: Varint(16_383),
            seen_hint: [6; 8],
            sealed: sealed.clone(),
        }]),
    };
    let deliver = ServiceFrame::Deliver {
        channel: Varint(63),
        first_seq: Varint(16_383),
        records: Tail(vec![DeliveredRecord::Update(ElidedRecord {
            author: Varint(63),
            epoch: Varint(63),
            seen_back: Varint(63),
            seen_hint: [6; 8],
            sealed,
        })]),
    };
    for (name, of, bytes) in [
        ("one update upstream", "ClientFrame", encode(&append)),
        ("one update downstream", "ServiceFrame", encode(&deliver)),
    ] {
        let overhead = bytes.len().checked_sub(PAYLOAD).context("short")?;
        book.bytes(name, of, &bytes)?
            .given("bytes of the payload", PAYLOAD as u64)
            .follows("overhead in bytes", "", &[], overhead as u64);
    }
    Ok(())
}
