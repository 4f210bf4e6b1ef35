//! Making documents in one group through the real ordering core on SQLite, one transaction each: the last of many beside the first.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, ensure};
use conclave_bench::measure::{Bench, process_time, sure};
use conclave_testkit::database::InSqlite;
use conclave_testkit::founded::Founded;
use tokio::runtime::{Builder, Runtime};

fn main() {
    let mut bench = Bench::asked();
    let (all, part) = bench.form.pick((60, 10), (5_000, 1_000));
    let runs = std::cell::RefCell::new(sure(Runs::new(all, part)));
    bench.pair(
        "list",
        &format!("the last {part} of {all} documents"),
        part as u64,
        ("the first", &mut |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| sure(runs.borrow_mut().first())).sum());
        }),
        ("the last", &mut |bencher| {
            bencher.iter_custom(|times| (0..times).map(|_| sure(runs.borrow_mut().last())).sum());
        }),
    );
    bench.finish();
}

/// Runs, each of a new group: what their first and last documents took.
struct Runs {
    runtime: Runtime,
    all: usize,
    part: usize,
    first: VecDeque<Duration>,
    last: VecDeque<Duration>,
}

impl Runs {
    fn new(all: usize, part: usize) -> Result<Self> {
        Ok(Self {
            runtime: Builder::new_current_thread().enable_all().build()?,
            all,
            part,
            first: VecDeque::new(),
            last: VecDeque::new(),
        })
    }

    fn first(&mut self) -> Result<Duration> {
        match self.first.pop_front() {
            Some(first) => Ok(first),
            None => {
                let (first, last) = self.run()?;
                self.last.push_back(last);
                Ok(first)
            }
        }
    }

    fn last(&mut self) -> Result<Duration> {
        match self.last.pop_front() {
            Some(last) => Ok(last),
            None => {
                let (first, last) = self.run()?;
                self.first.push_back(first);
                Ok(last)
            }
        }
    }

    fn run(&self) -> Result<(Duration, Duration)> {
        self.runtime.block_on(async {
            let mut group = Founded::<InSqlite>::of(1).await?;
            let first = order(&mut group, self.part).await?;
            order(&mut group, self.all - 2 * self.part).await?;
            let last = order(&mut group, self.part).await?;
            ensure!(group.documents() == self.all, "some are missing");
            Ok((first, last))
        })
    }
}

/// Makes so many documents. What their author does is not counted.
async fn order(group: &mut Founded<InSqlite>, count: usize) -> Result<Duration> {
    let new = (0..count).map(|_| group.prepare());
    let new = new.collect::<Result<Vec<_>>>()?;
    let before = process_time();
    for document in new {
        group.order(document).await?;
    }
    Ok(process_time().saturating_sub(before))
}
