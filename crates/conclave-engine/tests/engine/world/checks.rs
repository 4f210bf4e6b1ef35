//! What must hold.

use conclave_engine::FindingInfo;
use conclave_proto::group::GroupEntry;

use super::*;

impl World {
    /// A device's state as it prints.
    pub fn print(&self, at: usize) -> String {
        format!("{:?}", self.devices[at].shell.engine())
    }

    /// What is durable of a device's groups, as it prints, once all are in memory.
    pub fn durable(&mut self, at: usize) -> String {
        self.look(at, || Command::Status);
        self.devices[at].shell.engine().durable()
    }

    /// What a device has done so far.
    pub fn work_done(&self, at: usize) -> (u64, u64) {
        self.devices[at].shell.engine().work_done()
    }

    pub fn documents_in_memory(&self, at: usize) -> usize {
        self.devices[at].shell.engine().documents_in_memory()
    }

    pub fn findings(&self, at: usize) -> Vec<String> {
        let code = |event: &Event| match event {
            Event::Finding(found) => Some(format!("{}: {}", found.code, found.text)),
            _ => None,
        };
        self.devices[at].events.iter().filter_map(code).collect()
    }

    /// Exactly these codes were found by a device, in this order.
    pub fn found_only(&self, at: usize, codes: &[&str]) {
        let found = self.findings(at);
        let found: Vec<&str> = found
            .iter()
            .filter_map(|text| text.split_once(": "))
            .map(|(code, _)| code)
            .collect();
        assert_eq!(found, codes, "seed {}", self.seed);
    }

    pub fn no_findings(&self) {
        for at in 0..self.devices.len() {
            assert_eq!(self.findings(at), [""; 0], "seed {}", self.seed);
        }
    }

    /// What a device tells that waits for somebody.
    pub fn open_findings(&mut self, at: usize) -> Vec<FindingInfo> {
        let (group, dismissed) = (None, false);
        let Reply::Findings(mut found) = self.look(at, || Command::Findings { group, dismissed })
        else {
            panic!("no findings")
        };
        found.retain(|it| !it.settled && !it.finding.what.is_note());
        found
    }

    fn rows_in(&self, at: usize, group: &GroupId, table: u8) -> usize {
        let prefix = [&[4], group.as_bytes(), &[table][..]].concat();
        self.devices[at].rows.read(&prefix).len()
    }

    pub fn intents(&self, at: usize, group: &GroupId) -> usize {
        self.rows_in(at, group, b'i')
    }

    pub fn roots(&self, at: usize, group: &GroupId) -> usize {
        self.rows_in(at, group, b'r')
    }

    /// What is listed as kept of a device's logs is there, and nothing else.
    pub fn check_kept(&self, at: usize) {
        let against = conclave_engine::kept::violated(&self.devices[at].rows.read(&[]));
        assert_eq!(against, None, "seed {}: device {at}", self.seed);
    }

    /// Members agree on the group, hold equal documents, and nothing is left to do.
    pub fn converged(&mut self, group: GroupId, members: &[usize]) {
        let seed = self.seed;
        let mut seen: Option<(u64, String)> = None;
        for at in members {
            let info = self.info(*at, group).unwrap();
            assert!(
                info.active && info.frozen.is_none(),
                "seed {seed}: {info:?}"
            );
            self.check_kept(*at);
            let code = (info.epoch, info.code.clone());
            let first = seen.get_or_insert(code.clone());
            assert_eq!(*first, code, "seed {seed}: forked");
            assert_eq!(
                self.intents(*at, &group),
                0,
                "seed {seed}: intents are left"
            );
            assert_eq!(self.rows_in(*at, &group, b'o'), 0, "seed {seed}: unsent");
            let mut told = self.open_findings(*at);
            // What nobody can open they agree on, too.
            told.retain(|it| it.group == Some(group) && it.code != "document.set_aside");
            told.retain(|it| it.finding.what.is_state());
            let told: Vec<String> = told.into_iter().map(|it| it.happened).collect();
            assert_eq!(told, [""; 0], "seed {seed}: device {at} still tells");
        }
        let epoch = self.state(group).epoch;
        assert_eq!(seen.unwrap().0, epoch, "seed {seed}: behind");
        for (document, open) in self.service.documents(&group) {
            if !open || document == DocumentId::directory(&group) {
                continue;
            }
            let mut first: Option<String> = None;
            for at in members {
                let text = self.text(*at, group, document);
                assert_eq!(*first.get_or_insert(text.clone()), text, "seed {seed}");
                self.look(*at, || Command::Synced { group, document });
            }
        }
    }

    pub fn count(&self, at: usize, what: &str) -> usize {
        let same = |(who, name): &&(usize, &'static str)| *who == at && *name == what;
        self.arrived.iter().filter(same).count()
    }

    /// A device goes as soon as the service has its commit.
    pub fn go_offline_after_commit(&mut self, at: usize) {
        let before = self.count(at, "commit");
        self.until(|world| world.count(at, "commit") > before);
        self.go_offline(at);
    }

    /// The service changes the last byte of a commit that waits for a device: it is under no signature.
    pub fn garble_held_commit(&mut self, at: usize) -> bool {
        for frame in &mut self.devices[at].down {
            if let ServiceFrame::GroupEntries { entries, .. } = frame {
                for entry in entries {
                    if let GroupEntry::Commit(bytes) = entry {
                        let mut garbled = bytes.as_slice().to_vec();
                        *garbled.last_mut().unwrap() ^= 1;
                        *bytes = garbled.into();
                        return true;
                    }
                }
            }
        }
        false
    }

    /// The service gets a frame on a device's connection that its engine did not send.
    pub fn send_past(&mut self, at: usize, frame: ClientFrame) {
        let conn = self.devices[at].conn.unwrap();
        let out = self.service.handle(conn, frame, self.now);
        self.post(out);
    }

    /// Sends a frame to a device on its present connection.
    pub fn push(&mut self, at: usize, frame: ServiceFrame) {
        self.devices[at].down.push_back(frame);
    }
    /// Welcomes that wait for a device come behind everything else that does.
    pub fn delay_welcomes(&mut self, at: usize) {
        let is_welcome = |frame: &ServiceFrame| matches!(frame, ServiceFrame::Welcome(_));
        let down = self.devices[at].down.make_contiguous();
        down.sort_by_key(is_welcome);
    }
    /// Whether a device has heard all that was sent to it.
    pub fn is_heard(&self, at: usize) -> bool {
        self.devices[at].down.is_empty()
    }
}
