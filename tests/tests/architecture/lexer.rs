//! A lexer for Rust, as small as the source scan needs it: comments, strings and character
//! literals disappear; words, lifetimes and punctuation stay, each with its line.

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An identifier or keyword, without `r#`.
    Word(String),
    /// One character of punctuation.
    Mark(char),
    /// A string, character or number; its content is of no interest.
    Literal,
}

/// A token and the line it begins on, counted from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub line: usize,
}

impl Token {
    /// Whether this is the given word.
    pub fn is_word(&self, word: &str) -> bool {
        matches!(&self.kind, Kind::Word(own) if own == word)
    }

    /// Whether this is the given punctuation character.
    pub fn is_mark(&self, mark: char) -> bool {
        self.kind == Kind::Mark(mark)
    }
}

/// The tokens of a source file.
pub fn lex(source: &str) -> Vec<Token> {
    let mut lexer = Lexer {
        chars: source.chars().collect(),
        at: 0,
        line: 1,
        tokens: Vec::new(),
    };
    while lexer.peek(0).is_some() {
        lexer.step();
    }
    lexer.tokens
}

struct Lexer {
    chars: Vec<char>,
    at: usize,
    line: usize,
    tokens: Vec<Token>,
}

fn starts_word(c: char) -> bool {
    c.is_alphabetic() || c == '_'
}

fn continues_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

impl Lexer {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek(0)?;
        self.at += 1;
        if c == '\n' {
            self.line += 1;
        }
        Some(c)
    }

    fn skip(&mut self, count: usize) {
        for _ in 0..count {
            self.next();
        }
    }

    fn push(&mut self, kind: Kind, line: usize) {
        self.tokens.push(Token { kind, line });
    }

    fn step(&mut self) {
        let line = self.line;
        match (self.peek(0), self.peek(1)) {
            (Some('/'), Some('/')) => while self.next().is_some_and(|c| c != '\n') {},
            (Some('/'), Some('*')) => self.block_comment(),
            (Some('"'), _) => {
                self.next();
                self.quoted('"');
                self.push(Kind::Literal, line);
            }
            (Some('\''), _) => self.quote(),
            (Some(c), _) if starts_word(c) => self.word(),
            (Some(c), _) if c.is_ascii_digit() => self.number(),
            (Some(c), _) => {
                self.next();
                if !c.is_whitespace() {
                    self.push(Kind::Mark(c), line);
                }
            }
            (None, _) => {}
        }
    }

    fn block_comment(&mut self) {
        self.skip(2);
        let mut depth = 1;
        while depth > 0 {
            match (self.peek(0), self.peek(1)) {
                (Some('/'), Some('*')) => {
                    depth += 1;
                    self.skip(2);
                }
                (Some('*'), Some('/')) => {
                    depth -= 1;
                    self.skip(2);
                }
                (Some(_), _) => self.skip(1),
                (None, _) => return,
            }
        }
    }

    /// The rest of a literal that ends with `end`; a backslash protects the next character.
    fn quoted(&mut self, end: char) {
        while let Some(c) = self.next() {
            if c == '\\' {
                self.next();
            } else if c == end {
                return;
            }
        }
    }

    /// A character literal, or the mark of a lifetime, whose name then is a word of its own.
    fn quote(&mut self) {
        let line = self.line;
        self.next();
        let is_char = match (self.peek(0), self.peek(1)) {
            (Some('\\'), _) => true,
            (_, after) => after == Some('\''),
        };
        if is_char {
            self.quoted('\'');
            self.push(Kind::Literal, line);
        } else {
            while self.peek(0).is_some_and(continues_word) {
                self.next();
            }
        }
    }

    fn number(&mut self) {
        let line = self.line;
        while self.peek(0).is_some_and(continues_word)
            || (self.peek(0) == Some('.') && self.peek(1).is_some_and(|c| c.is_ascii_digit()))
        {
            self.next();
        }
        self.push(Kind::Literal, line);
    }

    /// A word, or a literal with a prefix: `b'x'`, `b"x"`, `c"x"`, `r"x"`, `br#"x"#` and so on.
    fn word(&mut self) {
        let line = self.line;
        let mut word = String::new();
        while let Some(c) = self.peek(0).filter(|c| continues_word(*c)) {
            word.push(c);
            self.next();
        }
        let is_raw = matches!(word.as_str(), "r" | "br" | "cr");
        let hashes = (0..)
            .take_while(|ahead| self.peek(*ahead) == Some('#'))
            .count();
        match self.peek(0) {
            Some('"') if matches!(word.as_str(), "b" | "c") => {
                self.next();
                self.quoted('"');
            }
            Some('\'') if word == "b" => {
                self.next();
                self.quoted('\'');
            }
            Some(_) if is_raw && self.peek(hashes) == Some('"') => {
                self.skip(hashes + 1);
                self.raw_string(hashes);
            }
            // A raw identifier: the word itself follows.
            Some('#') if word == "r" && self.peek(1).is_some_and(starts_word) => {
                self.next();
                return;
            }
            _ => return self.push(Kind::Word(word), line),
        }
        self.push(Kind::Literal, line);
    }

    fn raw_string(&mut self, hashes: usize) {
        while let Some(c) = self.next() {
            if c == '"' && (0..hashes).all(|ahead| self.peek(ahead) == Some('#')) {
                return self.skip(hashes);
            }
        }
    }
}
