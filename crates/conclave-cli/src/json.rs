//! JSON that people hand over: kept exactly, or refused with the place.

use std::fmt::Write;

use conclave_client::{MAX_JSON_DEPTH, is_unwritable};
use serde::de::IgnoredAny;
use serde_json::{Map, Number, Value};

use crate::failure::{Exit, Failure, Result};
use crate::input::position;

/// Reads JSON that a document can hold, exactly.
///
/// # Errors
/// It is no JSON, not an object, or holds something that would not read back as it is written: a key that stands twice, a number beyond what
/// 64 bits hold, half a character, or nesting that is too deep. The failure names the place.
pub fn read(text: &str, name: &str) -> Result<Value> {
    walk(text, name, false)
}

/// The same for a new document, which has nothing yet that an object with the reserved key could stand for.
///
/// # Errors
/// As [`read`]; such an object that cannot be written.
pub fn read_new(text: &str, name: &str) -> Result<Value> {
    walk(text, name, true)
}

fn walk(text: &str, name: &str, new: bool) -> Result<Value> {
    // Syntax first, so that the walk below meets valid JSON only.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| {
        refused(
            format!("{name} is not JSON: {error}"),
            "correct it and try again",
        )
    })?;
    let mut walk = Walk {
        text,
        at: 0,
        path: Vec::new(),
        new,
    };
    let value = walk
        .value()
        .map_err(|problem| problem.into_failure(text, name))?;
    if value.is_object() {
        return Ok(value);
    }
    Err(refused(
        format!("{name}: a JSON document is an object: {{…}}"),
        "put the value into an object, such as {\"value\": …}",
    ))
}

fn refused(message: String, hint: impl Into<String>) -> Failure {
    Failure::new("cli.json", Exit::Failed, message, hint)
}

/// What cannot be kept, and where.
struct Problem {
    offset: usize,
    /// Where in the value, as a JSON pointer.
    pointer: String,
    what: String,
    hint: String,
}

impl Problem {
    fn into_failure(self, text: &str, name: &str) -> Failure {
        let (line, column) = position(text, self.offset);
        let mut place = format!("line {line}, column {column}");
        if !self.pointer.is_empty() {
            // Keys may hold anything, and this goes to a terminal.
            let _ = write!(place, ", at {}", self.pointer.escape_debug());
        }
        refused(format!("{name}: {} ({place})", self.what), self.hint)
    }
}

enum Step {
    Key(String),
    Index(usize),
}

/// A walk over valid JSON.
struct Walk<'a> {
    text: &'a str,
    at: usize,
    path: Vec<Step>,
    new: bool,
}

impl Walk<'_> {
    fn problem(&self, offset: usize, what: impl Into<String>, hint: impl Into<String>) -> Problem {
        let mut pointer = String::new();
        for step in &self.path {
            let _ = match step {
                Step::Key(key) => write!(pointer, "/{}", key.replace('~', "~0").replace('/', "~1")),
                Step::Index(index) => write!(pointer, "/{index}"),
            };
        }
        Problem {
            offset,
            pointer,
            what: what.into(),
            hint: hint.into(),
        }
    }

    fn peek(&self) -> u8 {
        self.text
            .as_bytes()
            .get(self.at)
            .copied()
            .unwrap_or_default()
    }

    /// Goes on to what is neither blank nor a separator.
    fn skip(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r' | b',' | b':') {
            self.at += 1;
        }
    }

    /// Takes bytes as long as they are wanted.
    fn take_while(&mut self, wanted: impl Fn(u8) -> bool) -> &str {
        let start = self.at;
        while self.at < self.text.len() && wanted(self.peek()) {
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn value(&mut self) -> std::result::Result<Value, Problem> {
        self.skip();
        // As the document counts: the object itself is at depth 0.
        if self.path.len() > MAX_JSON_DEPTH {
            return Err(self.problem(
                self.at,
                format!("the value is nested more than {MAX_JSON_DEPTH} levels deep"),
                "keep it flatter, or as a text",
            ));
        }
        match self.peek() {
            b'{' => self.object(),
            b'[' => self.array(),
            b'"' => self.string().map(Value::String),
            b'-' | b'0'..=b'9' => self.number(),
            _ => Ok(match self.take_while(|byte| byte.is_ascii_lowercase()) {
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                _ => Value::Null,
            }),
        }
    }

    fn object(&mut self) -> std::result::Result<Value, Problem> {
        let mut object = Map::new();
        let began = self.at;
        self.at += 1;
        loop {
            self.skip();
            if self.peek() != b'"' {
                self.at += 1;
                let value = Value::Object(object);
                if self.new && is_unwritable(&value) {
                    return Err(self.problem(
                        began,
                        "an object with \"$conclave\" stands for something that JSON cannot hold, and this one for nothing that can be written",
                        "rename that key; what can be written is explained in the documentation of JSON documents",
                    ));
                }
                return Ok(value);
            }
            let start = self.at;
            let key = self.string()?;
            let is_new = !object.contains_key(&key);
            self.path.push(Step::Key(key));
            if !is_new {
                return Err(self.problem(
                    start,
                    "the same key stands twice in one object",
                    "only one of them could be kept: remove or rename the other",
                ));
            }
            let value = self.value()?;
            if let Some(Step::Key(key)) = self.path.pop() {
                object.insert(key, value);
            }
        }
    }

    fn array(&mut self) -> std::result::Result<Value, Problem> {
        let mut items = Vec::new();
        self.at += 1;
        loop {
            self.skip();
            if self.peek() == b']' {
                self.at += 1;
                return Ok(Value::Array(items));
            }
            self.path.push(Step::Index(items.len()));
            items.push(self.value()?);
            self.path.pop();
        }
    }

    fn string(&mut self) -> std::result::Result<String, Problem> {
        let start = self.at;
        self.at += 1;
        while self.peek() != b'"' {
            self.at += if self.peek() == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
        let literal = self.text.get(start..self.at).unwrap_or_default();
        // Its syntax has been read: what is left is a surrogate without its partner.
        serde_json::from_str(literal).map_err(|_| {
            self.problem(
                start,
                "the string holds half a character: a surrogate without its partner",
                "correct the escape, such as \\ud83d\\ude00 for a whole pair",
            )
        })
    }

    fn number(&mut self) -> std::result::Result<Value, Problem> {
        let start = self.at;
        let literal = self
            .take_while(|byte| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))
            .to_owned();
        match exact(&literal) {
            Ok(number) => Ok(Value::Number(number)),
            Err(nearest) => {
                let near = nearest
                    .map(|nearest| format!(" (the nearest number that can is {nearest})"))
                    .unwrap_or_default();
                Err(self.problem(
                    start,
                    format!("the number {literal} cannot be kept exactly"),
                    format!("write it in quotes, as a string, or shorter{near}"),
                ))
            }
        }
    }
}

/// The number that reads back as it is written; otherwise the nearest one, where there is one.
fn exact(literal: &str) -> std::result::Result<Number, Option<Number>> {
    // Zero has a sign as a float only.
    if literal != "-0" {
        if let Ok(value) = literal.parse::<i64>() {
            return Ok(value.into());
        }
        if let Ok(value) = literal.parse::<u64>() {
            return Ok(value.into());
        }
    }
    let float = literal.parse::<f64>().ok().and_then(Number::from_f64);
    let float = float.ok_or(None)?;
    match decimal(literal) == decimal(&float.to_string()) {
        true => Ok(float),
        false => Err(Some(float)),
    }
}

/// Sign, digits without zeros around them, and the power of ten of the last one.
fn decimal(literal: &str) -> (bool, String, i64) {
    let (negative, literal) = match literal.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, literal),
    };
    let (mantissa, power) = literal.split_once(['e', 'E']).unwrap_or((literal, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let kept = digits.trim_end_matches('0');
    let power = power
        .parse::<i64>()
        .unwrap_or(i64::MAX)
        .saturating_sub(fraction.len() as i64)
        .saturating_add((digits.len() - kept.len()) as i64);
    let kept = kept.trim_start_matches('0');
    let power = if kept.is_empty() { 0 } else { power };
    (negative, kept.to_owned(), power)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        let failure = read(text, "f.json").unwrap_err();
        assert_eq!(failure.code, "cli.json");
        failure.message
    }

    #[test]
    fn what_is_read_is_what_serde_reads() {
        for text in [
            "{}",
            r#" { "a" : [ 1 , -2.5 , true , false , null , "x\"\\\n\u00e9" , [] , {} ] , "" : { "b" : "c,:]}" } } "#,
            r#"{"__proto__":{"x":1},"constructor":"c","pair":"\ud83d\ude00"}"#,
            r#"{"u64":18446744073709551615,"i64":-9223372036854775808,"tiny":5e-324,"max":1.7976931348623157e308}"#,
        ] {
            let expected: Value = serde_json::from_str(text).unwrap();
            assert_eq!(read(text, "f").unwrap(), expected);
        }
    }

    #[test]
    fn what_stands_for_nothing_is_refused_in_a_new_document_only() {
        let text = r#"{"a": [1, {"$conclave": "xml", "shown": "<p/>"}]}"#;
        assert!(read(text, "f.json").is_ok());
        let failure = read_new(text, "f.json").unwrap_err();
        assert!(failure.message.ends_with("(line 1, column 11, at /a/1)"));
        let bytes = r#"{"a": {"$conclave": "bytes", "base64": "AP8H"}}"#;
        assert!(read_new(bytes, "f.json").is_ok());
    }

    #[test]
    fn numbers_are_exact_or_refused() {
        for kept in [
            "0",
            "-0",
            "-0.0",
            "1.0",
            "1e2",
            "1E+2",
            "0.1",
            "100.250",
            "5e-324",
            "9007199254740993",
            "18446744073709551615",
            "-9223372036854775808",
            "1e22",
            "0.30000000000000004",
            "0e5",
        ] {
            let number = exact(kept).unwrap();
            assert_eq!(decimal(&number.to_string()), decimal(kept), "{kept}");
        }
        for lost in [
            "18446744073709551616",
            "12345678901234567890123",
            "1.2345678901234567890123",
            "1e400",
            "-1e400",
            "2e-324",
            "-9223372036854775809",
            "0.1000000000000000055511151231257827",
        ] {
            assert!(exact(lost).is_err(), "{lost}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_its_place() {
        let message = refusal("{\n  \"a\": {\"x/y\": 1, \"x/y\": 2}}");
        assert!(
            message.contains("stands twice") && message.contains("line 2, column 19"),
            "{message}"
        );
        assert!(message.contains("at /a/x~1y"), "{message}");
        let message = refusal(r#"{"ids":[1,12345678901234567890123]}"#);
        assert!(
            message.contains("12345678901234567890123") && message.contains("at /ids/1"),
            "{message}"
        );
        let message = refusal(r#"{"a":"ok","b":"\ud83d"}"#);
        assert!(
            message.contains("half a character") && message.contains("column 15, at /b"),
            "{message}"
        );
        let message = refusal(r#"{"x":NaN}"#);
        assert!(message.contains("line 1 column 6"), "{message}");
        assert!(refusal("[1]").contains("a JSON document is an object"));
        assert!(refusal("").contains("is not JSON"));
        assert!(refusal("{\"a\":1} x").contains("is not JSON"));
    }

    #[test]
    fn nesting_is_bounded_as_the_document_bounds_it() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(read(&nested(MAX_JSON_DEPTH), "f").is_ok());
        for depth in [MAX_JSON_DEPTH + 1, 126, 100_000] {
            assert!(refusal(&nested(depth)).contains("levels deep"));
        }
    }
}
