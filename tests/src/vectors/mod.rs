//! The files of `docs/vectors`: what a stranger checks a program of their own against.
//!
//! The program makes the bytes; the page ([`page`]) names their fields. So each vector shows that the two mean the same. Everything but the
//! recorded session follows from fixed seeds and is the same each time.

mod basics;
mod content;
mod costs;
mod frames;
mod group;
mod identity;
mod keys;
mod logs;
pub mod page;
mod policy;
mod presence;
mod records;
mod service;
pub mod session;
pub mod value;

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use conclave_proto::Hash;
use conclave_proto::codec::{decode, encode};
use conclave_proto::hash::sign_content;
use tls_codec::{DeserializeBytes, Serialize, Size};

use page::Page;
use value::{Decoder, Shown, hex};

/// Larger than anything in a vector.
const LIMIT_BYTES: usize = 1 << 24;
/// When everything happens.
const NOW: conclave_proto::UnixMs = conclave_proto::UnixMs(1_700_000_000_000);

/// Where the page is.
#[must_use]
pub fn page_file() -> PathBuf {
    docs().join("PROTOCOL.md")
}

/// Where the vectors are.
#[must_use]
pub fn folder() -> PathBuf {
    docs().join("vectors")
}

fn docs() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs"))
}

/// Reads the page.
///
/// # Errors
/// Where it cannot be read.
pub fn read_page() -> Result<Page> {
    Page::read(&std::fs::read_to_string(page_file())?)
}

/// One file of vectors.
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// What it is about.
    about: &'static str,
    vectors: Vec<Shown>,
}

impl File {
    /// Its content.
    ///
    /// # Errors
    /// Where it cannot be written as JSON.
    pub fn content(&self) -> Result<String> {
        let fields = vec![
            ("about".to_owned(), self.about.into()),
            ("vectors".to_owned(), Shown::List(self.vectors.clone())),
        ];
        json(&Shown::Fields(fields))
    }
}

/// As JSON, with a line for each part.
///
/// # Errors
/// Where it cannot be written.
pub fn json(shown: &Shown) -> Result<String> {
    Ok(serde_json::to_string_pretty(shown)? + "\n")
}

/// All files that follow from fixed seeds, and what of the page their vectors are of: structs, and cases of selects as `Struct.case`.
///
/// # Errors
/// Where the page and the program differ.
pub fn files(page: &Page) -> Result<(Vec<File>, BTreeSet<String>)> {
    let mut book = Book {
        page,
        met: BTreeSet::new(),
        vectors: Vec::new(),
    };
    let mut all = Vec::new();
    for (name, about, write) in SUBJECTS {
        write(&mut book).with_context(|| (*name).to_owned())?;
        all.push(File {
            name,
            about,
            vectors: std::mem::take(&mut book.vectors),
        });
    }
    Ok((all, book.met))
}

type Subject = (&'static str, &'static str, fn(&mut Book<'_>) -> Result<()>);

const SUBJECTS: &[Subject] = &[
    (
        "basics.json",
        "PROTOCOL.md, sections 1 and 2: integers, lengths, labelled hashes, what signatures cover, derived ids",
        basics::write,
    ),
    (
        "logs.json",
        "PROTOCOL.md, section 4: leaves, nodes, heads, frontiers and consistency proofs of Merkle logs",
        logs::write,
    ),
    (
        "identity.json",
        "PROTOCOL.md, section 6: statements of users and devices, texts, and numbers that people compare",
        identity::write,
    ),
    (
        "policy.json",
        "PROTOCOL.md, sections 5 and 7: group policies, and the extensions of the GroupContext",
        policy::write,
    ),
    (
        "group.json",
        "PROTOCOL.md, section 8: entries of a group's log, data of commits, the roster, the public state",
        group::write,
    ),
    (
        "keys.json",
        "PROTOCOL.md, section 9: from an epoch's root to the keys of one record, and root wraps",
        keys::write,
    ),
    (
        "records.json",
        "PROTOCOL.md, sections 10 and 11: sealed records, what they seal, chains and snapshots, content",
        records::write,
    ),
    (
        "costs.json",
        "PROTOCOL.md, section 11.10: what updates cost, each after those before it; the balance of their one user, and the document's size",
        costs::write,
    ),
    (
        "presence.json",
        "PROTOCOL.md, section 11.11: messages of presence, sealed, from the presence root of their epoch",
        presence::write,
    ),
    (
        "service.json",
        "PROTOCOL.md, section 13: logins, generations, signed heads, losses and evidence",
        service::write,
    ),
    (
        "frames.json",
        "PROTOCOL.md, sections 13 to 15: every frame, request, answer and refusal. Shapes alone: no signature in them verifies",
        frames::write,
    ),
];

/// Vectors as they are written.
pub(crate) struct Book<'p> {
    pub(crate) page: &'p Page,
    met: BTreeSet<String>,
    vectors: Vec<Shown>,
}

impl Book<'_> {
    /// A vector of a struct that the program reads and writes. What the page makes of the bytes becomes its fields.
    pub(crate) fn of<T>(&mut self, name: &str, of: &str, value: &T) -> Result<Entry<'_>>
    where
        T: Serialize + Size + DeserializeBytes,
    {
        let bytes = encode(value);
        self.read_by::<T>(of, &bytes)?;
        self.bytes(name, of, &bytes)
    }

    /// The program reads the bytes, and writes the same.
    pub(crate) fn read_by<T>(&self, of: &str, bytes: &[u8]) -> Result<()>
    where
        T: Serialize + Size + DeserializeBytes,
    {
        let read: T = decode("vector", bytes, LIMIT_BYTES)?;
        ensure!(encode(&read) == bytes, "{of} has another encoding");
        Ok(())
    }

    /// A vector of a struct of which the caller has seen that the program reads it so.
    pub(crate) fn bytes(&mut self, name: &str, of: &str, bytes: &[u8]) -> Result<Entry<'_>> {
        let mut decoder = Decoder::new(self.page);
        let fields = decoder.decode(of, bytes).with_context(|| name.to_owned())?;
        self.met.extend(decoder.met);
        let parts = vec![
            part("name", name),
            part("struct", of),
            ("fields".to_owned(), fields),
            part("bytes", hex(bytes)),
        ];
        Ok(self.entry(parts))
    }

    /// A vector of something that is no struct.
    pub(crate) fn plain(&mut self, name: &str) -> Entry<'_> {
        self.entry(vec![part("name", name)])
    }

    fn entry(&mut self, parts: Vec<(String, Shown)>) -> Entry<'_> {
        Entry {
            vectors: &mut self.vectors,
            parts,
            given: Vec::new(),
            follows: Vec::new(),
        }
    }
}

fn part(name: &str, value: impl Into<Shown>) -> (String, Shown) {
    (name.to_owned(), value.into())
}

/// One vector. It is in the book once it is dropped.
pub(crate) struct Entry<'b> {
    vectors: &'b mut Vec<Shown>,
    parts: Vec<(String, Shown)>,
    given: Vec<(String, Shown)>,
    follows: Vec<Shown>,
}

impl Entry<'_> {
    /// What else is known.
    pub(crate) fn given(&mut self, name: &str, value: impl Into<Shown>) -> &mut Self {
        self.given.push(part(name, value));
        self
    }

    /// Bytes that else are known.
    pub(crate) fn given_hex(&mut self, name: &str, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.given(name, Shown::hex(bytes.as_ref()))
    }

    /// What follows, by which function of the page, of which arguments.
    pub(crate) fn follows(
        &mut self,
        what: &str,
        by: &str,
        of: &[(&str, Shown)],
        is: impl Into<Shown>,
    ) -> &mut Self {
        let mut parts = vec![part("what", what), part("by", by)];
        parts.extend(of.iter().map(|(name, value)| part(name, value.clone())));
        parts.push(part("is", is));
        self.follows.push(Shown::Fields(parts));
        self
    }

    /// A labelled hash.
    pub(crate) fn labelled(
        &mut self,
        what: &str,
        label: &str,
        parts: &[&[u8]],
        is: &Hash,
    ) -> Result<&mut Self> {
        ensure!(
            conclave_proto::hash::labelled(label, parts) == *is,
            "{what} is another hash"
        );
        let list = parts.iter().map(|it| Shown::hex(it)).collect();
        let of = [("label", label.into()), ("parts", Shown::List(list))];
        Ok(self.follows(what, "labelled", &of, Shown::hex(&is.0)))
    }

    /// A signature under a label.
    pub(crate) fn signed(
        &mut self,
        what: &str,
        key: &[u8; 32],
        label: &str,
        content: &[u8],
        is: &[u8; 64],
    ) -> Result<&mut Self> {
        conclave_identity::verify(key, label, content, is)
            .with_context(|| format!("{what} does not verify"))?;
        let of = [
            ("key", Shown::hex(key)),
            ("label", label.into()),
            ("content", Shown::hex(content)),
            ("SignContent", Shown::hex(&sign_content(label, content))),
        ];
        Ok(self.follows(what, "Sign", &of, Shown::hex(is)))
    }

    /// Bytes of other bytes.
    pub(crate) fn makes(
        &mut self,
        what: &str,
        by: &str,
        of: &[(&str, &[u8])],
        is: impl AsRef<[u8]>,
    ) -> &mut Self {
        let of: Vec<_> = of
            .iter()
            .map(|(name, bytes)| (*name, Shown::hex(bytes)))
            .collect();
        self.follows(what, by, &of, Shown::hex(is.as_ref()))
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        let mut parts = std::mem::take(&mut self.parts);
        if !self.given.is_empty() {
            let given = Shown::Fields(std::mem::take(&mut self.given));
            parts.push(("given".to_owned(), given));
        }
        if !self.follows.is_empty() {
            let follows = Shown::List(std::mem::take(&mut self.follows));
            parts.push(("follows".to_owned(), follows));
        }
        self.vectors.push(Shown::Fields(parts));
    }
}
