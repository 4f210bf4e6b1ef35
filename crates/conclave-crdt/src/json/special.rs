//! Values that JSON has no word for, as objects with one reserved key.

use data_encoding::BASE64;
use serde_json::{Value, json};

/// The reserved key; its value names what the object stands for.
pub(crate) const TAG: &str = "$conclave";

/// What a tagged object stands for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Special {
    Bytes(Vec<u8>),
    /// Not a number, or infinite.
    Number(f64),
    Undefined,
    /// Something that is only carried: it can be kept or removed as it stands, never written.
    Carried {
        kind: &'static str,
        shown: String,
    },
}

impl Special {
    /// XML, with its text for people to read.
    pub(crate) fn xml(shown: String) -> Self {
        Self::Carried { kind: "xml", shown }
    }

    /// A document inside the document, by its name.
    pub(crate) fn document(shown: String) -> Self {
        Self::Carried {
            kind: "document",
            shown,
        }
    }

    /// Something of a later version of the engine.
    pub(crate) fn unknown(shown: String) -> Self {
        Self::Carried {
            kind: "unknown",
            shown,
        }
    }

    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Bytes(bytes) => json!({ TAG: "bytes", "base64": BASE64.encode(bytes) }),
            Self::Number(number) => json!({ TAG: "number", "value": number_name(*number) }),
            Self::Undefined => json!({ TAG: "undefined" }),
            Self::Carried { kind, shown } => json!({ TAG: kind, "shown": shown }),
        }
    }

    /// What a value stands for, if it is tagged; nothing in it if it cannot be written.
    pub(crate) fn of(value: &Value) -> Option<Option<Self>> {
        let object = value.as_object()?;
        let kind = object.get(TAG)?;
        let member = |name: &str| match object.len() {
            2 => object.get(name)?.as_str(),
            _ => None,
        };
        Some(match kind.as_str() {
            Some("bytes") => member("base64")
                .and_then(|text| BASE64.decode(text.as_bytes()).ok())
                .map(Self::Bytes),
            Some("number") => member("value").and_then(named_number).map(Self::Number),
            Some("undefined") if object.len() == 1 => Some(Self::Undefined),
            _ => None,
        })
    }
}

/// Whether an object uses the reserved key `$conclave` and stands for nothing that can be written (see
/// [`JsonView`](crate::JsonView)): a document can keep it where it stands already, not take it as new.
#[must_use]
pub fn is_unwritable(value: &Value) -> bool {
    matches!(Special::of(value), Some(None))
}

fn number_name(number: f64) -> &'static str {
    match number {
        _ if number.is_nan() => "NaN",
        _ if number < 0.0 => "-Infinity",
        _ => "Infinity",
    }
}

fn named_number(name: &str) -> Option<f64> {
    match name {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_written_comes_back() {
        for special in [
            Special::Bytes(vec![0, 255, 7]),
            Special::Number(f64::NEG_INFINITY),
            Special::Undefined,
        ] {
            assert_eq!(Special::of(&special.to_json()), Some(Some(special)));
        }
        let nan = Special::of(&Special::Number(f64::NAN).to_json());
        assert!(matches!(nan, Some(Some(Special::Number(number))) if number.is_nan()));
        assert_eq!(Special::of(&json!({ "a": 1 })), None);
        for bad in [
            json!({ TAG: "bytes", "base64": "###" }),
            json!({ TAG: "bytes" }),
            json!({ TAG: "number", "value": "1" }),
            json!({ TAG: 5 }),
            Special::xml("<p></p>".into()).to_json(),
        ] {
            assert_eq!(Special::of(&bad), Some(None), "{bad}");
        }
    }
}
