//! What was seen of members, judged and shown.

use super::member::Measured;

/// Most processor time and memory that refusing may take at a member beyond what an ordinary record takes there, and most time that what is within the
/// bound may.
const REFUSED_MS: f64 = 100.0;
const WITHIN_MS: f64 = 250.0;
const MEMORY_MIB: f64 = 64.0;
/// So much longer an edit of another document may take meanwhile, in the middle: other programs may be busy on one of two processors.
const DELAY: f64 = 2.0;
const DELAY_MS: f64 = 5.0;

/// What was seen of each member.
pub(super) struct Seen {
    /// What an ordinary record took.
    pub(super) usual: Vec<Measured>,
    /// What that took which is looked at.
    pub(super) took: Vec<Measured>,
    /// Edits of another document while nothing else happened.
    pub(super) quiet: Vec<Measured>,
}

/// One member and one thing.
pub(super) struct Row {
    name: String,
    bytes: usize,
    member: String,
    refused: bool,
    usual_ms: f64,
    took: Measured,
    quiet: Measured,
}

impl Measured {
    /// What was seen later is of the same.
    pub(super) fn add(&mut self, later: Self) {
        self.cpu_ms += later.cpu_ms;
        self.growth_mib = self.growth_mib.max(later.growth_mib);
    }
}

impl Seen {
    pub(super) fn rows<'a>(
        &'a self,
        names: impl Iterator<Item = &'a str> + 'a,
        (name, bytes, refused): (&'a str, usize, bool),
    ) -> impl Iterator<Item = Row> + 'a {
        // Whatever else a member did meanwhile is not the usual.
        let usual = self.usual.iter().map(|it| it.cpu_ms);
        let usual_ms = usual.fold(f64::INFINITY, f64::min);
        let all = names.zip(&self.took).zip(&self.quiet);
        all.map(move |((member, took), quiet)| Row {
            name: name.to_owned(),
            bytes,
            member: member.to_owned(),
            refused,
            usual_ms,
            took: *took,
            quiet: *quiet,
        })
    }
}

impl Row {
    /// How long edits elsewhere took while the same was done.
    pub(super) fn with_edits(&mut self, now: &Self) {
        self.quiet = now.quiet;
        (self.took.median_ms, self.took.slowest_ms) = (now.took.median_ms, now.took.slowest_ms);
    }

    /// Processor time beyond the usual.
    fn beyond_ms(&self) -> f64 {
        (self.took.cpu_ms - self.usual_ms).max(0.0)
    }

    fn holds(&self) -> bool {
        let most = if self.refused { REFUSED_MS } else { WITHIN_MS };
        let delay = self.quiet.median_ms * DELAY + DELAY_MS;
        self.beyond_ms() <= most
            && self.took.growth_mib <= MEMORY_MIB
            && self.took.median_ms <= delay
    }

    pub(super) fn show_head() {
        println!(
            "| what | bytes | member | refused | processor beyond an ordinary record, ms | memory, MiB | an edit elsewhere, ms: middle, slowest | while \
             nothing happens | ratio |"
        );
        println!("|---|---|---|---|---|---|---|---|---|");
    }

    /// Whether all bounds hold.
    pub(super) fn show_all(rows: &[Self]) -> bool {
        rows.iter().for_each(Self::show);
        rows.iter().all(Self::holds)
    }

    fn show(&self) {
        println!(
            "| {} | {} | {} | {} | {:.1} ({:.1} - {:.1}){} | {:.1} | {:.1}, {:.1} | {:.1}, {:.1} | {:.2} |",
            self.name,
            self.bytes,
            self.member,
            if self.refused { "yes" } else { "within" },
            self.beyond_ms(),
            self.took.cpu_ms,
            self.usual_ms,
            if self.holds() { "" } else { " OVER" },
            self.took.growth_mib,
            self.took.median_ms,
            self.took.slowest_ms,
            self.quiet.median_ms,
            self.quiet.slowest_ms,
            self.took.median_ms / self.quiet.median_ms.max(0.001),
        );
    }
}
