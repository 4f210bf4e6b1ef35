//! What was measured, what is claimed, and how both are shown. Pure: the claims can be checked on made-up measurements.

use std::fmt::Write;

use serde::Serialize;

use super::canary::Leak;
use super::narrate::Step;
use super::overhead::Overhead;

/// Most bytes that an update may cost beyond its content.
pub const OVERHEAD_BUDGET_BYTES: f64 = 160.0;

/// Everything that was measured.
#[derive(Debug, Clone, Default)]
pub struct Measured {
    /// What each remaining device shows of each document: device name, contents.
    pub shown: Vec<(String, Vec<String>)>,
    /// Devices that took part, the removed one included.
    pub devices: usize,
    /// Documents in the group, its directory of titles not counted.
    pub documents: usize,
    /// Positions in the documents' logs at the service.
    pub records: u64,
    /// Last epoch of the group.
    pub epochs: u64,
    /// Whether the group log holds the entry that says so.
    pub rotation_complete: bool,
    /// Edits typed.
    pub edits_typed: usize,
    /// Edits typed and not shown exactly once by every remaining device.
    pub edits_lost: usize,
    /// Documents that the late joiner read at once.
    pub joiner_read: usize,
    /// Records that the service accepted since the removal and still holds.
    pub records_after_removal: usize,
    /// How many of them the removed device opened, with any root it ever had.
    pub removed_device_opened_after_removal: usize,
    /// Records accepted before the removal that it opened: the control.
    pub records_opened_before_removal: usize,
    /// Records accepted after the removal that a remaining member opened by the same routine: another control.
    pub member_opened_after_removal: usize,
    /// Words planted.
    pub canaries_planted: usize,
    /// Words found where they belong: in what the members see.
    pub canaries_seen_by_members: usize,
    /// Words found where they must not be.
    pub leaks: Vec<Leak>,
    /// Bytes searched for them.
    pub searched_bytes: u64,
    /// Whether the recordings of all connections are whole and could be read.
    pub recordings_complete: bool,
    /// Overhead on the wire.
    pub overhead: Overhead,
    /// Processes killed with SIGKILL and started again.
    pub restarts: usize,
}

/// Something that the demonstration promises.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Claim {
    /// The promise.
    pub claim: &'static str,
    /// Whether it held.
    pub holds: bool,
    /// What was seen.
    pub seen: String,
}

impl Measured {
    /// Whether all remaining devices show the same, and show something.
    pub fn converged(&self) -> bool {
        let Some(((_, first), others)) = self.shown.split_first() else {
            return false;
        };
        let something = !first.is_empty() && first.iter().all(|content| !content.is_empty());
        something && !others.is_empty() && others.iter().all(|(_, content)| content == first)
    }

    /// Every claim, judged.
    pub fn claims(&self) -> Vec<Claim> {
        let claim = |claim, holds, seen: String| Claim { claim, holds, seen };
        let (mean, max) = (
            self.overhead.mean().unwrap_or(f64::INFINITY),
            self.overhead.max,
        );
        vec![
            claim(
                "all devices show identical documents",
                self.converged(),
                format!("{} devices, {} documents", self.shown.len(), self.documents),
            ),
            claim(
                "every edit arrived exactly once",
                self.edits_typed > 0 && self.edits_lost == 0,
                format!(
                    "{} typed, {} lost or doubled",
                    self.edits_typed, self.edits_lost
                ),
            ),
            claim(
                "killed processes came back and lost nothing",
                self.restarts >= 2 && self.edits_lost == 0,
                format!("{} killed with SIGKILL", self.restarts),
            ),
            claim(
                "who joins later reads everything live",
                self.documents > 0 && self.joiner_read == self.documents,
                format!("{} of {} documents", self.joiner_read, self.documents),
            ),
            claim(
                "the removal re-keyed every document",
                self.rotation_complete,
                format!(
                    "complete: {}, {} changes of keys",
                    self.rotation_complete, self.epochs
                ),
            ),
            claim(
                "the removed device opens nothing accepted after its removal",
                self.records_after_removal > 0 && self.removed_device_opened_after_removal == 0,
                format!(
                    "{} of {} opened",
                    self.removed_device_opened_after_removal, self.records_after_removal
                ),
            ),
            claim(
                "control: with the same routine it opens what came before",
                self.records_opened_before_removal > 0,
                format!("{} opened", self.records_opened_before_removal),
            ),
            claim(
                "control: with the same routine a remaining member opens what came after",
                self.member_opened_after_removal > 0,
                format!(
                    "{} of {} opened",
                    self.member_opened_after_removal, self.records_after_removal
                ),
            ),
            claim(
                "nothing readable at the service, on the wire or in a log",
                self.canaries_planted > 0 && self.leaks.is_empty() && self.recordings_complete,
                self.leaks_seen(),
            ),
            claim(
                "control: the same search finds the words in what members see",
                self.canaries_seen_by_members > 0,
                format!(
                    "{} of {} words",
                    self.canaries_seen_by_members, self.canaries_planted
                ),
            ),
            claim(
                "an update costs at most 160 bytes beyond its content",
                mean <= OVERHEAD_BUDGET_BYTES && max <= OVERHEAD_BUDGET_BYTES,
                format!(
                    "{mean:.1} bytes on average, {max:.1} at most, over {} updates",
                    self.overhead.updates
                ),
            ),
        ]
    }

    fn leaks_seen(&self) -> String {
        let searched = format!(
            "{} words, {} bytes searched",
            self.canaries_planted, self.searched_bytes
        );
        match self.leaks.first() {
            None if self.recordings_complete => searched,
            None => format!("{searched}, but a recording is incomplete"),
            Some(leak) => format!(
                "{} found; first: the word of the {} in {} at byte {} ({:?})",
                self.leaks.len(),
                leak.planted_in,
                leak.found_in,
                leak.offset_bytes,
                leak.encoding
            ),
        }
    }
}

/// The object that `--json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether every claim holds.
    pub ok: bool,
    /// All remaining devices show the same.
    pub converged: bool,
    /// Devices that took part.
    pub devices: usize,
    /// Documents.
    pub documents: usize,
    /// Records at the service.
    pub records: u64,
    /// Last epoch.
    pub epochs: u64,
    /// The removal re-keyed every document.
    pub rotation_complete: bool,
    /// Edits typed.
    pub edits_typed: usize,
    /// Edits missing or doubled.
    pub edits_lost: usize,
    /// Records accepted after the removal.
    pub records_after_removal: usize,
    /// What the removed device opened of them.
    pub removed_device_opened_after_removal: usize,
    /// What it opened of the earlier ones.
    pub records_opened_before_removal: usize,
    /// What a remaining member opened of the later ones.
    pub member_opened_after_removal: usize,
    /// A planted word, or eight bytes of one, was found.
    pub plaintext_found: bool,
    /// Words planted.
    pub canaries_planted: usize,
    /// Bytes searched for them.
    pub searched_bytes: u64,
    /// Mean, in bytes.
    pub overhead_bytes_per_update: Option<f64>,
    /// Largest of any frame, in bytes.
    pub overhead_bytes_per_update_max: f64,
    /// Updates measured.
    pub updates_measured: u64,
    /// Killed and started again.
    pub restarts_survived: usize,
    /// Everything, in seconds.
    pub seconds: f64,
    /// Each step.
    pub steps: Vec<Step>,
    /// Each claim.
    pub claims: Vec<Claim>,
}

impl Report {
    /// Puts measurements and judgements together.
    pub fn new(measured: &Measured, steps: Vec<Step>, seconds: f64) -> Self {
        let claims = measured.claims();
        Self {
            ok: claims.iter().all(|claim| claim.holds),
            converged: measured.converged(),
            devices: measured.devices,
            documents: measured.documents,
            records: measured.records,
            epochs: measured.epochs,
            rotation_complete: measured.rotation_complete,
            edits_typed: measured.edits_typed,
            edits_lost: measured.edits_lost,
            records_after_removal: measured.records_after_removal,
            removed_device_opened_after_removal: measured.removed_device_opened_after_removal,
            records_opened_before_removal: measured.records_opened_before_removal,
            member_opened_after_removal: measured.member_opened_after_removal,
            plaintext_found: !measured.leaks.is_empty(),
            canaries_planted: measured.canaries_planted,
            searched_bytes: measured.searched_bytes,
            overhead_bytes_per_update: measured.overhead.mean().map(tenth),
            overhead_bytes_per_update_max: tenth(measured.overhead.max),
            updates_measured: measured.overhead.updates,
            restarts_survived: measured.restarts,
            seconds,
            steps,
            claims,
        }
    }

    /// The closing table.
    pub fn table(&self) -> String {
        let overhead = self
            .overhead_bytes_per_update
            .map_or("none measured".to_owned(), |mean| {
                format!(
                    "{mean} bytes on average, {} at most",
                    self.overhead_bytes_per_update_max
                )
            });
        let rows = [
            ("records at the service", self.records.to_string()),
            ("edits typed", self.edits_typed.to_string()),
            (
                "devices, documents",
                format!("{}, {}", self.devices, self.documents),
            ),
            ("changes of keys", self.epochs.to_string()),
            ("overhead of an update", overhead),
            ("time", format!("{:.1} s", self.seconds)),
        ];
        let mut out = String::new();
        for (what, value) in rows {
            // Writing into a string does not fail.
            let _ = writeln!(out, "  {what:<24} {value}");
        }
        let _ = writeln!(out, "\n  steps (seconds)");
        for step in &self.steps {
            let _ = writeln!(out, "  {:>9.3}  {}", step.seconds, step.step);
        }
        let _ = writeln!(out, "\n  claims");
        for claim in &self.claims {
            let mark = if claim.holds { "holds" } else { "FAILS" };
            let _ = writeln!(out, "  {mark}  {}: {}", claim.claim, claim.seen);
        }
        out
    }
}

fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::super::canary::Encoding;
    use super::*;

    fn good() -> Measured {
        let content = vec!["text".to_owned(), "{}".to_owned()];
        Measured {
            shown: vec![("a".into(), content.clone()), ("b".into(), content)],
            devices: 5,
            documents: 2,
            records: 100,
            epochs: 7,
            rotation_complete: true,
            edits_typed: 50,
            edits_lost: 0,
            joiner_read: 2,
            records_after_removal: 9,
            removed_device_opened_after_removal: 0,
            records_opened_before_removal: 60,
            member_opened_after_removal: 9,
            canaries_planted: 8,
            canaries_seen_by_members: 6,
            leaks: Vec::new(),
            searched_bytes: 1000,
            recordings_complete: true,
            overhead: Overhead {
                frames: 10,
                updates: 20,
                frame_bytes: 4000,
                plaintext_bytes: 1000,
                max: 158.0,
            },
            restarts: 2,
        }
    }

    fn leak() -> Leak {
        Leak {
            planted_in: "title".into(),
            found_in: "db".into(),
            offset_bytes: 1,
            encoding: Encoding::Utf8,
        }
    }

    #[test]
    fn good_measurements_satisfy_every_claim() {
        let report = Report::new(&good(), Vec::new(), 1.5);
        assert!(report.ok, "{:?}", report.claims);
        assert_eq!(report.overhead_bytes_per_update, Some(150.0));
        assert!(!report.plaintext_found);
    }

    /// Each of these must make the demonstration fail.
    #[test]
    fn bad_measurements_fail_and_name_the_claim() {
        type Spoil = fn(&mut Measured);
        let cases: &[(&str, Spoil)] = &[
            ("identical documents", |m| m.shown[1].1[0].push('!')),
            ("identical documents", |m| m.shown.truncate(1)),
            ("identical documents", |m| m.shown.clear()),
            ("identical documents", |m| {
                m.shown.iter_mut().for_each(|shown| shown.1[0].clear())
            }),
            ("exactly once", |m| m.edits_lost = 1),
            ("exactly once", |m| m.edits_typed = 0),
            ("killed processes", |m| m.restarts = 1),
            ("joins later", |m| m.joiner_read = 1),
            ("re-keyed", |m| m.rotation_complete = false),
            ("opens nothing accepted after", |m| {
                m.removed_device_opened_after_removal = 1
            }),
            ("opens nothing accepted after", |m| {
                m.records_after_removal = 0
            }),
            ("opens what came before", |m| {
                m.records_opened_before_removal = 0
            }),
            ("remaining member opens", |m| {
                m.member_opened_after_removal = 0
            }),
            ("nothing readable", |m| m.leaks.push(leak())),
            ("nothing readable", |m| m.recordings_complete = false),
            ("nothing readable", |m| m.canaries_planted = 0),
            ("finds the words", |m| m.canaries_seen_by_members = 0),
            ("at most 160 bytes", |m| m.overhead.frame_bytes = 4201),
            ("at most 160 bytes", |m| m.overhead.max = 160.1),
            ("at most 160 bytes", |m| m.overhead = Overhead::default()),
        ];
        for (claim, spoil) in cases {
            let mut measured = good();
            spoil(&mut measured);
            let report = Report::new(&measured, Vec::new(), 1.0);
            assert!(!report.ok, "{claim}");
            assert!(
                report
                    .claims
                    .iter()
                    .any(|c| !c.holds && c.claim.contains(claim)),
                "{claim}"
            );
            assert!(report.table().contains("FAILS"), "{claim}");
        }
    }

    #[test]
    fn the_object_has_the_promised_fields() {
        let object = serde_json::to_value(Report::new(&good(), Vec::new(), 1.5)).unwrap();
        for field in [
            "converged",
            "devices",
            "documents",
            "records",
            "epochs",
            "rotation_complete",
            "removed_device_opened_after_removal",
            "records_opened_before_removal",
            "plaintext_found",
            "canaries_planted",
            "overhead_bytes_per_update",
            "overhead_bytes_per_update_max",
            "restarts_survived",
            "seconds",
        ] {
            assert!(object.get(field).is_some(), "{field}");
        }
    }
}
