//! What JavaScript sees. Errors arrive there as exceptions with a text.

use conclave_crdt::CrdtKind;
use conclave_proto::UnixMs;
use wasm_bindgen::JsError;
use wasm_bindgen::prelude::wasm_bindgen;

use crate::{Desk, Failure, Pair};

type Outcome<T> = Result<T, JsError>;

fn seed_of(bytes: &[u8]) -> Outcome<[u8; 32]> {
    Ok(<[u8; 32]>::try_from(bytes)?)
}

/// `Date.now()` is a whole number of milliseconds far below 2⁵³.
fn time_of(date_ms: f64) -> UnixMs {
    UnixMs(date_ms as u64)
}

fn kind_of(name: &str) -> Outcome<CrdtKind> {
    match name {
        "yjs" => Ok(CrdtKind::Yjs),
        "automerge" => Ok(CrdtKind::Automerge),
        _ => Err(Failure::Missing("such a CRDT").into()),
    }
}

/// Two members with one document. See [`Pair`].
#[wasm_bindgen(js_name = Pair)]
#[derive(Debug)]
pub struct JsPair(Pair);

#[wasm_bindgen(js_class = Pair)]
impl JsPair {
    /// See [`Pair::new`].
    #[wasm_bindgen(constructor)]
    pub fn new(kind: &str, text: &str, seed: &[u8], date_ms: f64) -> Outcome<JsPair> {
        let (seed, now) = (seed_of(seed)?, time_of(date_ms));
        Ok(Self(Pair::new(kind_of(kind)?, text, seed, now)?))
    }

    /// See [`Pair::seal`].
    pub fn seal(&mut self, text: &str) -> Outcome<Vec<u8>> {
        Ok(self.0.seal(text)?)
    }

    /// See [`Pair::open`].
    pub fn open(&mut self, record: &[u8]) -> Outcome<String> {
        Ok(self.0.open(record)?)
    }

    /// See [`Pair::shows`].
    pub fn shows(&self, record: &[u8], text: &str) -> bool {
        self.0.shows(record, text)
    }
}

/// Runs an engine: a group, a document, an edit; then a second engine over the same rows. Gives the text that the second one shows.
#[wasm_bindgen(js_name = runEngine)]
pub fn run_engine(kind: &str, text: &str, seed: &[u8], date_ms: f64) -> Outcome<String> {
    let mut desk = Desk::new(seed_of(seed)?, time_of(date_ms))?;
    let group = desk.create_group()?;
    let (first, rest) = text.split_at(text.len() / 2);
    let document = desk.create_document(group, kind_of(kind)?, first)?;
    desk.append(group, document, rest)?;
    let mut other_seed = seed_of(seed)?;
    other_seed.reverse();
    desk.reopen(other_seed)?;
    Ok(desk.text(group, document)?)
}
