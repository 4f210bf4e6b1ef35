//! Typing: every edit is a planted word, so that afterwards each can be looked for, in the documents and everywhere else.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use conclave_client::proto::{DocumentId, GroupId};
use conclave_client::{Error, Operation, Outcome, View};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::cast::Device;

/// Key of the JSON document under which edits are written.
const EDITS: &str = "edits";

/// The documents that are typed into.
#[derive(Debug, Clone, Copy)]
pub struct Desk {
    /// The group.
    pub group: GroupId,
    /// A Yjs text.
    pub text: DocumentId,
    /// An Automerge JSON document.
    pub json: DocumentId,
}

/// What both documents show.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The text.
    pub text: String,
    /// The JSON.
    pub json: Value,
}

impl Desk {
    /// What a device shows.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn page(&self, device: &Device) -> Result<Page> {
        let text = device.show_text(self.group, self.text).await?;
        let json = device.show_json(self.group, self.json).await?;
        Ok(Page { text, json })
    }

    /// Waits until the service holds everything that the device wrote, and the device has everything that the service holds.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn synced(&self, device: &Device) -> Result<()> {
        for document in [self.text, self.json] {
            device
                .run(Operation::Synced {
                    group: self.group,
                    document,
                    limit_ms: None,
                })
                .await?;
        }
        Ok(())
    }

    /// Types words, one edit each. `typed` counts them for whoever waits for the middle of it. When the device's process dies under an edit,
    /// the typist waits until it runs again, looks whether the word is there, and types it again if it is not, as a person would.
    ///
    /// # Errors
    /// When an edit is refused.
    pub async fn type_words(
        &self,
        device: &Device,
        words: &[String],
        typed: &watch::Sender<usize>,
    ) -> Result<()> {
        for (at, word) in words.iter().enumerate() {
            while let Err(error) = self.type_word(device, at, word).await {
                if !is_gone(&error) {
                    bail!("{}: an edit was refused: {error}", device.name);
                }
                device.is_running().await;
                if self.page(device).await?.count(word) > 0 {
                    break;
                }
            }
            typed.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    /// One edit: a line at the very beginning, where everybody else types too; an entry of the JSON document; or a word amid the text.
    async fn type_word(&self, device: &Device, at: usize, word: &str) -> Result<(), Error> {
        let group = self.group;
        let operation = match at % 4 {
            0 | 2 => Operation::Splice {
                group,
                document: self.text,
                position: 0,
                delete: 0,
                insert: format!("{word}\n"),
            },
            1 => {
                let shown = device
                    .try_run(Operation::Show {
                        group,
                        document: self.json,
                        view: View::Json,
                    })
                    .await?;
                let Outcome::Json(base) = shown else {
                    return Err(Error::UnexpectedAnswer);
                };
                Operation::EditJson {
                    group,
                    document: self.json,
                    value: with_entry(&base, word),
                    base: Some(base),
                }
            }
            _ => {
                let shown = device
                    .try_run(Operation::Show {
                        group,
                        document: self.text,
                        view: View::Text,
                    })
                    .await?;
                let Outcome::Text(base) = shown else {
                    return Err(Error::UnexpectedAnswer);
                };
                Operation::EditText {
                    group,
                    document: self.text,
                    text: with_word_amid(&base, word),
                    base: Some(base),
                }
            }
        };
        device.try_run(operation).await.map(|_| ())
    }
}

/// Whether the other process is gone, rather than unwilling.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Local { .. })
        || matches!(
            error.code(),
            "client.closed" | "client.local" | "client.crashed"
        )
}

fn with_entry(base: &Value, word: &str) -> Value {
    let mut value = base.clone();
    if let Some(fields) = value.as_object_mut() {
        let edits = fields.entry(EDITS).or_insert_with(|| json!({}));
        if let Some(edits) = edits.as_object_mut() {
            edits.insert(word.to_owned(), json!(true));
        }
    }
    value
}

/// The text with a word after one of the blanks of its second half; which one, the word decides.
fn with_word_amid(base: &str, word: &str) -> String {
    let blanks: Vec<usize> = base.match_indices(' ').map(|(at, _)| at).collect();
    let later = blanks.get(blanks.len() / 2..).unwrap_or_default();
    let spread: usize = word.bytes().map(usize::from).sum();
    let at = match later.len() {
        0 => base.len(),
        count => later.get(spread % count).copied().unwrap_or(base.len()),
    };
    let (before, after) = base.split_at_checked(at).unwrap_or((base, ""));
    format!("{before} {word}{after}")
}

impl Page {
    /// How often a word stands in it.
    pub fn count(&self, word: &str) -> usize {
        let in_json = self
            .json
            .get(EDITS)
            .and_then(Value::as_object)
            .is_some_and(|edits| edits.contains_key(word));
        self.text.matches(word).count() + usize::from(in_json)
    }

    /// Words that do not stand in it exactly once.
    pub fn not_once<'a>(&self, words: impl IntoIterator<Item = &'a String>) -> usize {
        words
            .into_iter()
            .filter(|word| self.count(word) != 1)
            .count()
    }

    /// Everything in one text, to search.
    pub fn everything(&self) -> String {
        format!("{}\n{}", self.text, self.json)
    }

    /// Both documents as strings that are equal only if the documents are.
    pub fn contents(&self) -> Vec<String> {
        vec![self.text.clone(), sorted(&self.json).to_string()]
    }
}

/// Objects with their keys in order, so that equal values print alike.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields: BTreeMap<&String, Value> = fields
                .iter()
                .map(|(key, value)| (key, sorted(value)))
                .collect();
            Value::Object(
                fields
                    .into_iter()
                    .map(|(key, value)| (key.clone(), value))
                    .collect(),
            )
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_counted_in_both_documents() {
        let page = Page {
            text: "one two one".into(),
            json: json!({"edits": {"three": true, "two": true}}),
        };
        assert_eq!(
            (
                page.count("one"),
                page.count("two"),
                page.count("three"),
                page.count("four")
            ),
            (2, 2, 1, 0)
        );
        let words: Vec<String> = ["one", "three", "four"].map(str::to_owned).into();
        assert_eq!(page.not_once(&words), 2);
    }

    #[test]
    fn a_word_amid_the_text_changes_nothing_else() {
        let base = "one two three four five";
        let text = with_word_amid(base, "word");
        assert_eq!(text.replacen(" word", "", 1), base);
        assert_eq!(with_word_amid("", "word"), " word");
        assert_eq!(with_word_amid("größer ärger", "word"), "größer word ärger");
    }

    #[test]
    fn entries_are_added_and_others_stay() {
        let value = with_entry(&json!({"a": 1, "edits": {"x": true}}), "y");
        assert_eq!(value, json!({"a": 1, "edits": {"x": true, "y": true}}));
        assert_eq!(with_entry(&json!({}), "y"), json!({"edits": {"y": true}}));
    }

    #[test]
    fn key_order_does_not_matter_and_content_does() {
        let page = |json: &str| Page {
            text: String::new(),
            json: serde_json::from_str(json).unwrap(),
        };
        assert_eq!(
            page(r#"{"a":1,"b":[{"c":1,"d":2}]}"#).contents(),
            page(r#"{"b":[{"d":2,"c":1}],"a":1}"#).contents()
        );
        assert_ne!(page(r#"{"a":1}"#).contents(), page(r#"{"a":2}"#).contents());
    }
}
