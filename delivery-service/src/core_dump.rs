//! What a program leaves behind when it is ended by a signal: both programs begin with this.

/// Keys and texts in memory are not to be left in a file where the program is ended by a signal. For the beginning of a program's `main`.
#[cfg(unix)]
pub fn leave_no_core() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Lowering a limit of one's own cannot fail.
    let _ = setrlimit(Resource::Core, none);
    // A collector of crashes that the kernel pipes to is not kept off by the limit; nor are other programs of this user, which could read the memory
    // and what it was started with.
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, set_dumpable_behavior};
        let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    }
}

/// Where there are no such files.
#[cfg(not(unix))]
pub fn leave_no_core() {}
