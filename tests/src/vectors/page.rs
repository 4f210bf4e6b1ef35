//! The structs of `docs/PROTOCOL.md`, read from the page itself: what a stranger reads there is what decodes here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};

/// What is written on the page.
#[derive(Debug)]
pub struct Page {
    types: BTreeMap<String, Definition>,
    /// Names of structs, in the order of the page.
    pub structs: Vec<String>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Definition {
    /// A struct.
    Struct(Vec<Member>),
    /// One byte: numbers and their names.
    Enum(Vec<(u8, String)>),
    /// Another name for a type.
    Alias(Type),
}

/// A type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    /// An unsigned integer of so many bytes.
    Uint(usize),
    /// An integer in its shortest form.
    Varint,
    /// So many bytes.
    Fixed(usize),
    /// Bytes with their length in front.
    Bytes,
    /// A list with its length in bytes in front.
    List(Box<Type>),
    /// A list up to the end.
    Tail(Box<Type>),
    /// Present or not.
    Optional(Box<Type>),
    /// As defined elsewhere.
    Named(String),
    /// As defined here.
    Struct(Vec<Member>),
}

/// A part of a struct.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Member {
    /// A field.
    Field(String, Type),
    /// One of several.
    Select(Vec<Case>),
}

/// A case of a select.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Its number.
    pub number: u8,
    /// Its name.
    pub name: String,
    /// What it holds.
    pub of: Type,
}

/// Enums whose numbers are in tables, and the sections of these.
const TABLES: &[(&str, &str)] = &[
    ("ForbiddenWhy", "### 15.1 "),
    ("CommitFault", "### 15.2 "),
    ("RecordFault", "### 15.3 "),
];

impl Page {
    /// Reads the page.
    ///
    /// # Errors
    /// Where a definition cannot be read, comes twice, or names a type that is nowhere.
    pub fn read(markdown: &str) -> Result<Self> {
        let mut page = Self {
            types: BTreeMap::new(),
            structs: Vec::new(),
        };
        // What stands between fences are the odd pieces.
        for block in markdown.split("\n```").skip(1).step_by(2) {
            page.read_block(&without_comments(block))?;
        }
        for (name, heading) in TABLES {
            let section = markdown.split(heading).nth(1).context("no table")?;
            let section = section.split("\n#").next().unwrap_or_default();
            let values = section.lines().filter_map(table_row).collect();
            page.define((*name).to_owned(), Definition::Enum(values))?;
        }
        page.check()?;
        Ok(page)
    }

    fn read_block(&mut self, block: &str) -> Result<()> {
        let mut rest = block;
        while let Some((line, after)) = rest.split_once('\n') {
            if starts_definition(line) {
                let mut reader = Reader { rest };
                let (name, definition) = reader.definition()?;
                rest = reader.rest;
                if matches!(definition, Definition::Struct(_)) {
                    self.structs.push(name.clone());
                }
                self.define(name, definition)?;
            } else {
                rest = after;
            }
        }
        Ok(())
    }

    fn define(&mut self, name: String, definition: Definition) -> Result<()> {
        ensure!(!self.types.contains_key(&name), "{name} is defined twice");
        self.types.insert(name, definition);
        Ok(())
    }

    fn check(&self) -> Result<()> {
        let mut named = BTreeSet::new();
        for definition in self.types.values() {
            match definition {
                Definition::Struct(members) => members.iter().for_each(|it| it.names(&mut named)),
                Definition::Alias(of) => of.names(&mut named),
                Definition::Enum(values) => ensure!(!values.is_empty(), "an empty enum"),
            }
        }
        named.retain(|name| !self.types.contains_key(name));
        ensure!(named.is_empty(), "not on the page: {named:?}");
        Ok(())
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// Where the page does not say.
    pub fn get(&self, name: &str) -> Result<&Definition> {
        let found = self.types.get(name);
        found.with_context(|| format!("{name} is not on the page"))
    }

    /// Every case of every select in a named struct, as `Struct.case`.
    #[must_use]
    pub fn cases(&self) -> BTreeSet<String> {
        let mut all = BTreeSet::new();
        for (name, definition) in &self.types {
            let Definition::Struct(members) = definition else {
                continue;
            };
            for member in members {
                if let Member::Select(cases) = member {
                    all.extend(cases.iter().map(|case| format!("{name}.{}", case.name)));
                }
            }
        }
        all
    }
}

impl Type {
    fn names(&self, all: &mut BTreeSet<String>) {
        match self {
            Self::Named(name) => {
                all.insert(name.clone());
            }
            Self::List(of) | Self::Tail(of) | Self::Optional(of) => of.names(all),
            Self::Struct(members) => members.iter().for_each(|it| it.names(all)),
            _ => {}
        }
    }
}

impl Member {
    fn names(&self, all: &mut BTreeSet<String>) {
        match self {
            Self::Field(_, of) => of.names(all),
            Self::Select(cases) => cases.iter().for_each(|case| case.of.names(all)),
        }
    }
}

fn starts_definition(line: &str) -> bool {
    let is_alias = |words: &str| {
        let mut words = words.split(' ');
        let (first, second) = (words.next(), words.next());
        let of = first.is_some_and(|it| it == "opaque" || it.starts_with("uint"));
        of && second.is_some_and(|it| it.starts_with(char::is_uppercase) && it.contains(';'))
    };
    line.starts_with("struct {") || line.starts_with("enum {") || is_alias(line)
}

fn without_comments(block: &str) -> String {
    let mut out = String::new();
    for line in block.lines() {
        let line = line.split("//").next().unwrap_or_default();
        let line = match line.split_once("/*") {
            Some((before, after)) => {
                [before, after.split("*/").nth(1).unwrap_or_default()].concat()
            }
            None => line.to_owned(),
        };
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// A row of a table whose first cell is a number.
fn table_row(line: &str) -> Option<(u8, String)> {
    let mut cells = line.strip_prefix('|')?.split('|').map(str::trim);
    Some((cells.next()?.parse().ok()?, cells.next()?.to_owned()))
}

/// Reads definitions token by token.
struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> &'a str {
        let rest = self.rest.trim_start();
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let word = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let end = match word {
            0 => rest.chars().next().map_or(0, char::len_utf8),
            word => word,
        };
        rest.get(..end).unwrap_or_default()
    }

    fn next(&mut self) -> &'a str {
        let token = self.peek();
        let rest = self.rest.trim_start();
        self.rest = rest.get(token.len()..).unwrap_or_default();
        token
    }

    fn take(&mut self, wanted: &str) -> Result<()> {
        let found = self.next();
        ensure!(found == wanted, "{found:?} where {wanted:?} was to come");
        Ok(())
    }

    fn takes(&mut self, wanted: &str) -> bool {
        let is_next = self.peek() == wanted;
        if is_next {
            self.next();
        }
        is_next
    }

    fn word(&mut self) -> Result<String> {
        let word = self.next();
        let is_word = word.starts_with(|c: char| c.is_ascii_alphabetic());
        ensure!(is_word, "{word:?} where a name was to come");
        Ok(word.to_owned())
    }

    fn definition(&mut self) -> Result<(String, Definition)> {
        let definition = match self.peek() {
            "struct" => Definition::Struct(self.braced()?),
            "enum" => Definition::Enum(self.values()?),
            _ => {
                let of = self.plain()?;
                let name = self.word()?;
                let of = self.suffixed(of)?;
                self.take(";")?;
                return Ok((name, Definition::Alias(of)));
            }
        };
        let name = self.word()?;
        self.take(";")?;
        Ok((name, definition))
    }

    fn braced(&mut self) -> Result<Vec<Member>> {
        self.take("struct")?;
        self.take("{")?;
        let mut members = Vec::new();
        while !self.takes("}") {
            if self.takes("select") {
                members.push(Member::Select(self.select()?));
            } else {
                let (name, of) = self.field()?;
                members.push(Member::Field(name, of));
            }
        }
        Ok(members)
    }

    fn select(&mut self) -> Result<Vec<Case>> {
        self.take("{")?;
        let mut cases = Vec::new();
        while !self.takes("}") {
            self.take("(")?;
            let number = self.next().parse().context("the number of a case")?;
            self.take(")")?;
            let (name, of) = self.field()?;
            cases.push(Case { number, name, of });
        }
        // Some selects end like a field.
        self.takes(";");
        Ok(cases)
    }

    fn field(&mut self) -> Result<(String, Type)> {
        let of = self.plain()?;
        // A case may have no name of its own.
        if self.takes(";") {
            bail!("a field without a name");
        }
        let name = self.word()?;
        let of = self.suffixed(of)?;
        self.take(";")?;
        Ok((name, of))
    }

    fn values(&mut self) -> Result<Vec<(u8, String)>> {
        self.take("enum")?;
        self.take("{")?;
        let mut values = Vec::new();
        while !self.takes("}") {
            let name = match self.peek() {
                // The width of an enum, where it is written.
                "(" => None,
                _ => Some(self.word()?),
            };
            self.take("(")?;
            let number = self.next().parse().context("the number of a value")?;
            self.take(")")?;
            self.takes(",");
            values.extend(name.map(|name| (number, name)));
        }
        Ok(values)
    }

    /// A type without what stands behind the name of its field.
    fn plain(&mut self) -> Result<Type> {
        if self.peek() == "struct" {
            return Ok(Type::Struct(self.braced()?));
        }
        let word = self.word()?;
        Ok(match word.as_str() {
            "uint8" => Type::Uint(1),
            "uint16" => Type::Uint(2),
            "uint32" => Type::Uint(4),
            "uint64" => Type::Uint(8),
            "varint" => Type::Varint,
            "opaque" => Type::Fixed(0),
            "optional" => {
                self.take("<")?;
                let of = self.plain()?;
                let of = self.suffixed(of)?;
                self.take(">")?;
                Type::Optional(Box::new(of))
            }
            _ => Type::Named(word),
        })
    }

    /// With what stands behind its name: a length, one or more `<V>`, or `[*]`.
    fn suffixed(&mut self, mut of: Type) -> Result<Type> {
        loop {
            let is_opaque = of == Type::Fixed(0);
            if self.takes("[") {
                of = match self.next() {
                    "*" => Type::Tail(Box::new(of)),
                    length if is_opaque => Type::Fixed(length.parse().context("a length")?),
                    other => bail!("{other:?} where a length was to come"),
                };
                self.take("]")?;
            } else if self.peek() == "<" {
                self.take("<")?;
                self.take("V")?;
                self.take(">")?;
                of = match is_opaque {
                    true => Type::Bytes,
                    false => Type::List(Box::new(of)),
                };
            } else {
                ensure!(!is_opaque, "bytes without a length");
                return Ok(of);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "# A page\n\n```\nopaque Id[4];\nuint8 Flag;       // 0 or 1\n\nenum { a(1), b(2), (255) } Kind;\n\n\
        struct {\n    Id id;          // of it\n    select {\n        (1) struct { opaque x<V>; Kind kinds<V>; } one;\n\
        \x20       (2) Flag two;\n    }\n} Thing;\n\nid = labelled(Thing)\nstruct { optional<opaque<V>> maybe; opaque all<V><V>; Thing rest[*]; } More;\n```\n\
        ### 15.1 Whys\n\n| No. | Name |\n|---|---|\n| 1 | First | \n\n### 15.2 Faults\n| 1 | A |\n### 15.3 Others\n| 2 | B |\n";

    #[test]
    fn structs_enums_and_tables_are_read_from_a_page() {
        let page = Page::read(SMALL).unwrap();
        assert_eq!(page.structs, ["Thing", "More"]);
        let kinds = vec![(1, "a".to_owned()), (2, "b".to_owned())];
        assert_eq!(page.get("Kind").unwrap(), &Definition::Enum(kinds));
        assert_eq!(page.get("Id").unwrap(), &Definition::Alias(Type::Fixed(4)));
        let cases: Vec<String> = page.cases().into_iter().collect();
        assert_eq!(cases, ["Thing.one", "Thing.two"]);
        let Definition::Struct(more) = page.get("More").unwrap() else {
            panic!("no struct")
        };
        let all = Type::List(Box::new(Type::Bytes));
        assert_eq!(more[1], Member::Field("all".to_owned(), all));
    }

    #[test]
    fn a_page_that_names_what_it_does_not_define_is_refused() {
        for (from, to) in [
            ("Kind kinds", "Sort kinds"),
            ("opaque all<V><V>", "opaque all"),
            ("} More", "} Thing"),
            ("(2) Flag two", "(x) Flag two"),
        ] {
            assert!(Page::read(&SMALL.replace(from, to)).is_err(), "{to}");
        }
    }
}
