//! Counting what Automerge columns declare.
//!
//! Columns are run-length encoded: a few bytes can declare 2^60 rows, and the engine would walk all of them. Every column
//! of foreign data is counted here first. What the values mean is left to the engine.

use std::borrow::Cow;
use std::io::Read;

use crate::error::{CrdtError, Result};
use crate::reader::Reader;

const TYPE_BOOLEAN: u64 = 4;
const TYPE_STRING: u64 = 5;
const TYPE_RAW_VALUE: u64 = 7;
const TYPE_DELTA: u64 = 3;
const TYPE_MASK: u64 = 7;
const DEFLATED: u64 = 8;
/// The column that holds the actor of each change of a document.
const ACTOR_COLUMN: u64 = 1;
/// The column of what each change of a document depends on.
const DEPENDENCY_COLUMN: u64 = 4 << 4 | TYPE_DELTA;
/// The column that holds the action of each operation of a change.
const ACTION_COLUMN: u64 = 4 << 4 | 2;
const ACTION_DELETE: u64 = 3;
/// The column of the counters of the operations that an operation of a change follows, or that follow one of a document.
const PREDECESSOR_COLUMN: u64 = 7 << 4 | TYPE_DELTA;
const SUCCESSOR_COLUMN: u64 = 8 << 4 | TYPE_DELTA;

/// Most columns in one table; the format defines fewer than 20.
const MAX_COLUMNS: u64 = 64;

/// The columns of one table: specification and length of each.
pub(super) struct Columns(Vec<(u64, usize)>);

/// Limits on one table.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    /// Rows in any column.
    pub(super) rows: u64,
    /// Whether columns may be deflated, and how many bytes they may inflate to.
    pub(super) inflated_bytes: Option<usize>,
}

/// What the columns of one table declare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Declared {
    /// Rows of the longest column.
    pub(super) rows: u64,
    /// Rows with an action.
    pub(super) operations: u64,
    /// Those of them that delete.
    pub(super) deletions: u64,
    /// Operations that others follow, counted once for each of those.
    pub(super) followed: u64,
    /// What changes depend on, counted once for each of those.
    pub(super) dependencies: u64,
}

impl Columns {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self> {
        let count = reader.uint(MAX_COLUMNS)?;
        let mut columns: Vec<(u64, usize)> = Vec::with_capacity(count as usize);
        for _ in 0..count {
            let specification = reader.uint(u64::from(u32::MAX))?;
            let length = reader.length()?;
            // Sorted, each once.
            if columns
                .last()
                .is_some_and(|last| last.0 & !DEFLATED >= specification & !DEFLATED)
            {
                return Err(CrdtError::Malformed);
            }
            columns.push((specification, length));
        }
        Ok(Self(columns))
    }

    /// Counts the data of all columns.
    pub(super) fn check(&self, reader: &mut Reader<'_>, limits: Limits) -> Result<Declared> {
        self.check_counting(reader, limits, &mut [])
    }

    /// The same of the table of a document's changes; adds up how many rows name each actor.
    pub(super) fn check_counting(
        &self,
        reader: &mut Reader<'_>,
        limits: Limits,
        actors: &mut [u64],
    ) -> Result<Declared> {
        let mut budget = limits.inflated_bytes;
        let mut declared = Declared::default();
        for (specification, length) in &self.0 {
            let mut data = Cow::Borrowed(reader.take(*length)?);
            if specification & DEFLATED != 0 {
                let left = budget.ok_or(CrdtError::Malformed)?;
                let inflated = inflate(&data, left)?;
                budget = Some(left - inflated.len());
                data = Cow::Owned(inflated);
            }
            let specification = specification & !DEFLATED;
            declared.add(
                specification,
                count_rows(specification, &data, limits.rows)?,
            );
            if specification == ACTOR_COLUMN && !actors.is_empty() {
                count_each(&data, actors)?;
            }
        }
        Ok(declared)
    }
}

impl Declared {
    fn add(&mut self, specification: u64, column: Rows) {
        self.rows = self.rows.max(column.all);
        match specification {
            ACTION_COLUMN => {
                self.operations = column.all;
                self.deletions = column.deletions;
            }
            DEPENDENCY_COLUMN => self.dependencies = column.all,
            PREDECESSOR_COLUMN | SUCCESSOR_COLUMN => self.followed = column.all,
            _ => {}
        }
    }
}

/// Inflates a raw deflate stream to at most `max` bytes.
pub(super) fn inflate(data: &[u8], max: usize) -> Result<Vec<u8>> {
    let mut inflated = Vec::new();
    let mut decoder = flate2::bufread::DeflateDecoder::new(data);
    let bound = max as u64 + 1;
    decoder
        .by_ref()
        .take(bound)
        .read_to_end(&mut inflated)
        .map_err(|_| CrdtError::Malformed)?;
    if inflated.len() > max {
        return Err(CrdtError::TooLarge);
    }
    // Nothing may hide behind the stream.
    if decoder.total_in() == data.len() as u64 {
        Ok(inflated)
    } else {
        Err(CrdtError::Malformed)
    }
}

/// The rows of one column.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Rows {
    all: u64,
    /// Those whose value is [`ACTION_DELETE`].
    deletions: u64,
}

/// Refuses a column with more than `max` rows.
fn count_rows(specification: u64, data: &[u8], max: u64) -> Result<Rows> {
    let mut reader = Reader::new(data);
    match specification & TYPE_MASK {
        TYPE_RAW_VALUE => Ok(Rows::default()),
        TYPE_BOOLEAN => {
            let mut rows = Rows::default();
            while !reader.is_empty() {
                rows.all = add(rows.all, reader.uint(u64::MAX)?, max)?;
            }
            Ok(rows)
        }
        kind => count_runs(&mut reader, kind, max),
    }
}

/// Counts a run-length encoded column.
fn count_runs(reader: &mut Reader<'_>, kind: u64, max: u64) -> Result<Rows> {
    let mut rows = Rows::default();
    while !reader.is_empty() {
        match reader.int()? {
            // Nulls.
            0 => rows.all = add(rows.all, reader.uint(u64::MAX)?, max)?,
            // One value, repeated.
            run if run > 0 => {
                rows.all = add(rows.all, run.unsigned_abs(), max)?;
                if read_value(reader, kind)? == ACTION_DELETE {
                    rows.deletions += run.unsigned_abs();
                }
            }
            // Single values.
            run => {
                rows.all = add(rows.all, run.unsigned_abs(), max)?;
                for _ in 0..run.unsigned_abs() {
                    rows.deletions += u64::from(read_value(reader, kind)? == ACTION_DELETE);
                }
            }
        }
    }
    Ok(rows)
}

/// Counts the rows of each value of a column of small numbers, whose rows were counted before.
fn count_each(data: &[u8], counts: &mut [u64]) -> Result<()> {
    let mut reader = Reader::new(data);
    let mut count = |value: u64, rows: u64| {
        let value = usize::try_from(value).map_err(|_| CrdtError::Malformed)?;
        *counts.get_mut(value).ok_or(CrdtError::Malformed)? += rows;
        Ok(())
    };
    while !reader.is_empty() {
        match reader.int()? {
            0 => return Err(CrdtError::Malformed),
            run if run > 0 => count(reader.uint(u64::MAX)?, run.unsigned_abs())?,
            run => {
                for _ in 0..run.unsigned_abs() {
                    count(reader.uint(u64::MAX)?, 1)?;
                }
            }
        }
    }
    Ok(())
}

fn read_value(reader: &mut Reader<'_>, kind: u64) -> Result<u64> {
    match kind {
        TYPE_STRING => reader.buffer().map(|_| 0),
        TYPE_DELTA => reader.int().map(|_| 0),
        _ => reader.uint(u64::MAX),
    }
}

fn add(rows: u64, more: u64, max: u64) -> Result<u64> {
    rows.checked_add(more)
        .filter(|sum| *sum <= max)
        .ok_or(CrdtError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_counted_without_being_walked() {
        // A run of 2^62 times the value 1.
        let run = [
            0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0xc0, 0x00, 1,
        ];
        assert_eq!(count_rows(0x02, &run, 1_000), Err(CrdtError::TooLarge));
        let nulls = [0, 0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(count_rows(0x02, &nulls, 1_000), Err(CrdtError::TooLarge));
        let booleans = [0xff, 0xff, 0xff, 0xff, 0x0f];
        assert_eq!(count_rows(0x34, &booleans, 1_000), Err(CrdtError::TooLarge));
        let rows = count_rows(ACTION_COLUMN, &[2, 1, 0x7f, 3, 2, 3], 1_000);
        assert_eq!(
            rows,
            Ok(Rows {
                all: 5,
                deletions: 3
            })
        );
    }

    #[test]
    fn inflation_stops_at_its_limit() {
        use std::io::Write;
        let mut encoder =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 1 << 20]).unwrap();
        let bomb = encoder.finish().unwrap();
        assert!(bomb.len() < 4_096);
        assert_eq!(inflate(&bomb, 1 << 16).err(), Some(CrdtError::TooLarge));
        assert_eq!(
            inflate(&bomb, 1 << 20).map(|bytes| bytes.len()),
            Ok(1 << 20)
        );
        let longer = [&bomb[..], &[0]].concat();
        assert_eq!(inflate(&longer, 1 << 20).err(), Some(CrdtError::Malformed));
        assert!(inflate(&bomb[..bomb.len() - 1], 1 << 20).is_err());
    }
}
