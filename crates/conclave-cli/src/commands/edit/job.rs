//! The editor as a job: all that its line starts ends with this command, however the line is put together. It stays in this command's group, as
//! everything that a shell starts does: so the terminal, Ctrl-C and Ctrl-Z are the editor's without anything having to be handed over.

use std::collections::HashSet;
use std::io;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process, set_child_subreaper};
use tokio::time::sleep;

/// How long an editor has to end when it is asked to, in parts of [`LOOK`].
const LOOKS: usize = 100;
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// Runs a command until it ends, and gives how; none where `ended` comes first: then nothing that it started is left.
///
/// # Errors
/// It could not be started.
pub(super) async fn until_ended(
    command: Command,
    ended: impl Future<Output = ()>,
) -> io::Result<Option<ExitStatus>> {
    // What the line leaves without a parent is this process's child then, and found.
    let _ = set_child_subreaper(Some(getpid()));
    let before = below(getpid());
    let mut command = tokio::process::Command::from(command);
    let mut child = command.kill_on_drop(true).spawn()?;
    tokio::select! {
        status = child.wait() => status.map(Some),
        () = ended => {
            end(&before).await;
            Ok(None)
        }
    }
}

/// Ends what this process has started since: it is asked to, so that it can leave the terminal as it was, and is made to where it does not.
async fn end(before: &HashSet<Pid>) {
    for signal in [Signal::TERM, Signal::KILL] {
        let mut told = HashSet::new();
        for _ in 0..LOOKS {
            let all = below(getpid());
            let mut left = all.difference(before).copied().peekable();
            if left.peek().is_none() {
                return;
            }
            for process in left.filter(|it| told.insert(*it)) {
                let _ = kill_process(process, signal);
                // What is stopped hears nothing.
                let _ = kill_process(process, Signal::CONT);
            }
            sleep(LOOK).await;
        }
    }
}

/// All processes that run and descend from one.
fn below(ancestor: Pid) -> HashSet<Pid> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = entry.file_name();
        let id = id.to_str().and_then(|id| id.parse().ok());
        let stat = id.and_then(|_| std::fs::read_to_string(entry.path().join("stat")).ok());
        let parent = stat.as_deref().and_then(parent);
        if let (Some(id), Some(parent)) = (id.and_then(Pid::from_raw), parent) {
            parents.push((id, parent));
        }
    }
    let mut found = HashSet::new();
    loop {
        let known = found.len();
        for (id, parent) in &parents {
            if *parent == ancestor || found.contains(parent) {
                found.insert(*id);
            }
        }
        if found.len() == known {
            return found;
        }
    }
}

/// The parent that a process's `stat` names, unless the process has ended already. Its name may hold anything, and ends with the last bracket.
fn parent(stat: &str) -> Option<Pid> {
    let (_, after) = stat.rsplit_once(')')?;
    let mut words = after.split_whitespace();
    let state = words.next()?;
    let parent = words.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(())?;
    Pid::from_raw(parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_read_whatever_a_process_is_called() {
        let pid = |number| Pid::from_raw(number);
        assert_eq!(parent("7 (sh) S 5 7 7 0"), pid(5));
        assert_eq!(parent("7 (a) S 9 (b) R 5 7"), pid(5));
        assert_eq!(parent("7 (sh) Z 5 7 7 0"), None);
        assert_eq!(parent("7 (sh"), None);
        assert!(below(pid(1).unwrap()).contains(&getpid()) || getpid() == pid(1).unwrap());
    }
}
