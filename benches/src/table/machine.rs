//! What the figures were taken on.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, Result};

/// Facts of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Model of its processor.
    pub processor: String,
    /// Processors that a program may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel's release.
    pub kernel: String,
    /// The compiler.
    pub rustc: String,
}

impl Machine {
    /// This machine.
    ///
    /// # Errors
    /// Where it is no Linux, or has no compiler.
    pub fn read() -> Result<Self> {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let version = Command::new(rustc).arg("--version").output()?;
        Ok(Self {
            processor: field(&fs::read_to_string("/proc/cpuinfo")?, "model name")
                .unwrap_or("unknown")
                .to_owned(),
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: memory(&fs::read_to_string("/proc/meminfo")?)
                .context("no size of the memory")?,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            rustc: String::from_utf8(version.stdout)?.trim().to_owned(),
        })
    }
}

/// The first value of a field in lines of `name: value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn memory(meminfo: &str) -> Option<u64> {
    let kib = field(meminfo, "MemTotal")?.strip_suffix("kB")?;
    Some(kib.trim().parse::<u64>().ok()? / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_found_where_the_system_writes_them() {
        let text = "processor\t: 0\nmodel name\t: Some CPU: fast\n\nprocessor\t: 1\n";
        assert_eq!(field(text, "model name"), Some("Some CPU: fast"));
        assert_eq!(field(text, "model"), None);
        assert_eq!(
            memory("MemTotal:       24117248 kB\nMemFree: 1 kB\n"),
            Some(23_552)
        );
        assert_eq!(memory("MemFree: 1 kB\n"), None);
    }
}
