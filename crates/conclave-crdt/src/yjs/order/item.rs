//! What is read of an item: numbers, and hashes of names.

use sha2::{Digest, Sha256};

use super::super::scan::{
    Block, Body, CONTENT_ANY, CONTENT_DELETED, CONTENT_DOC, CONTENT_EMBED, CONTENT_FORMAT,
    CONTENT_STRING, CONTENT_TYPE, Id, Parent, count_any,
};
use super::state::{Kind, Name};
use super::{READ_PER_UNIT, WHOLE};
use crate::error::Result;
use crate::reader::Reader;

/// Where an item says that it belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Home {
    Root(Name, Option<Name>),
    Type(Id, Option<Name>),
    /// Where its neighbours are.
    Beside,
}

/// Operations of one block of an update.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) at: Id,
    pub(super) len: u32,
    pub(super) origin: Option<Id>,
    pub(super) right: Option<Id>,
    pub(super) home: Home,
    pub(super) kind: Kind,
    /// What reading its content costs beyond its bytes.
    pub(super) weight: u64,
    pub(super) bytes: u64,
}

pub(super) fn name(text: &str) -> Name {
    let mut name = Name::default();
    let hash = Sha256::digest(text.as_bytes());
    name.copy_from_slice(hash.get(..16).unwrap_or(&[0; 16]));
    name
}

impl Item {
    /// The item of a block, if the block is no gap.
    pub(super) fn read(client: u64, block: &Block, update: &[u8]) -> Result<Option<Self>> {
        let mut read = Self {
            at: Id {
                client,
                clock: block.clock,
            },
            len: block.len,
            origin: None,
            right: None,
            home: Home::Beside,
            kind: Kind::Gone,
            weight: 0,
            bytes: block.raw(update).len() as u64,
        };
        let item = match block.body(update)? {
            Body::Skip => return Ok(None),
            Body::Gc => return Ok(Some(read)),
            Body::Item(item) => item,
        };
        read.origin = item.origin;
        read.right = item.right_origin;
        let key = item.parent_sub.map(name);
        read.home = match item.parent {
            Some(Parent::Root(root)) => Home::Root(name(root), key),
            Some(Parent::Item(id)) => Home::Type(id, key),
            None => Home::Beside,
        };
        read.kind = match item.content {
            CONTENT_STRING => Kind::Text,
            CONTENT_ANY => Kind::Values,
            CONTENT_TYPE => Kind::Type,
            CONTENT_DELETED => Kind::Deleted,
            _ => Kind::Single,
        };
        let values = match item.content {
            CONTENT_ANY => {
                let mut reader = Reader::new(item.data);
                let mut values = 0;
                for _ in 0..reader.uint(u64::from(u32::MAX))? {
                    values += count_any(&mut reader, 0)?;
                }
                values
            }
            // A value of JSON is at least two bytes.
            CONTENT_EMBED | CONTENT_FORMAT | CONTENT_DOC => item.data.len() as u64 / 2,
            _ => 0,
        };
        read.weight = values * WHOLE / READ_PER_UNIT;
        Ok(Some(read))
    }

    pub(super) fn end(&self) -> u32 {
        self.at.clock + self.len
    }

    /// The part from a clock on.
    pub(super) fn from(self, clock: u32) -> Self {
        if clock <= self.at.clock {
            return self;
        }
        let origin = Some(Id {
            clock: clock - 1,
            ..self.at
        });
        Self {
            at: Id { clock, ..self.at },
            len: self.end() - clock,
            origin,
            home: Home::Beside,
            ..self
        }
    }

    /// An operation that has to be known first, if it is not.
    pub(super) fn needs(&self, knows: impl Fn(Id) -> bool) -> Option<Id> {
        let home = match self.home {
            Home::Type(id, _) => Some(id),
            Home::Root(..) | Home::Beside => None,
        };
        let ids = [self.origin, self.right, home];
        ids.into_iter().flatten().find(|id| !knows(*id))
    }

    /// Whether `next` only goes on with it, so that an engine is given both as one item.
    pub(super) fn goes_on(&self, next: &Self) -> bool {
        let last = Id {
            clock: self.end().wrapping_sub(1),
            ..self.at
        };
        let follows = self.at.client == next.at.client && self.end() == next.at.clock;
        match (self.kind, next.kind) {
            (Kind::Gone, Kind::Gone) => follows,
            (kind, next_kind) => {
                follows
                    && kind == next_kind
                    && kind.joins()
                    && next.origin == Some(last)
                    && next.right == self.right
            }
        }
    }
}
