//! Telling the signed heads of logs that grow: the first at once, and then one a second at most.

use conclave_proto::frame::ServiceFrame;
use conclave_proto::limits::HEAD_PERIOD_MS;
use conclave_proto::{Head, UnixMs};
use conclave_rules::LogId;

use super::ConnId;
use super::desk::Desk;

/// What was told of a log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    at: UnixMs,
    /// Whether the log has grown since.
    grown: bool,
}

impl Desk {
    /// A log has grown.
    pub(super) fn grown(&mut self, log: LogId) {
        if self.listeners(&log).is_empty() {
            return;
        }
        let now = self.now;
        let is_due = |told: &Told| now.0.abs_diff(told.at.0) >= HEAD_PERIOD_MS;
        match self.told.get_mut(&log) {
            Some(told) if !is_due(told) => told.grown = true,
            _ => self.tell_head(log),
        }
    }

    /// Tells the heads that had to wait.
    pub(super) fn tell_heads(&mut self) {
        let now = self.now;
        let is_over = |told: &Told| now.0.abs_diff(told.at.0) >= HEAD_PERIOD_MS;
        let over = self.told.extract_if(.., |_, told| is_over(told));
        let due: Vec<LogId> = over
            .filter(|(_, told)| told.grown)
            .map(|(log, _)| log)
            .collect();
        for log in due {
            self.tell_head(log);
        }
    }

    fn tell_head(&mut self, log: LogId) {
        let Some(head) = self.head_of(&log) else {
            return;
        };
        let told = Told {
            at: self.now,
            grown: false,
        };
        self.told.insert(log, told);
        let frame = ServiceFrame::Head {
            log: log.name(),
            signed: self.signing.sign(&log, head),
        };
        for conn in self.listeners(&log) {
            self.push(conn, frame.clone());
        }
    }

    pub(super) fn head_of(&mut self, log: &LogId) -> Option<Head> {
        if log.is_group() {
            let core = self.core(log.group).ok()?;
            let head = core.state.state().frontier.head();
            self.keep(core);
            return Some(head);
        }
        let (row, _) = self.log(*log).stands().ok()?;
        Some(row.frontier.head())
    }

    fn listeners(&self, log: &LogId) -> Vec<ConnId> {
        let listens = |conn: &super::desk::Conn| match log.is_group() {
            true => conn.follows.contains(&log.group),
            false => conn.channels.values().any(|channel| channel.log == *log),
        };
        let conns = self.conns.iter().filter(|(_, conn)| listens(conn));
        conns.map(|(id, _)| *id).collect()
    }
}
