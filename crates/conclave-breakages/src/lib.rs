//! Breakages: switches that take one property away each, so that a test can be seen to notice.
//!
//! A crate declares its switches in its build script, by [`declare`], takes in what that writes by
//! `include!(concat!(env!("OUT_DIR"), "/broken.rs"))`, and asks for one with `broken("…")`. In any build but the runner's that is a
//! constant `false`. The runner builds once with [`BREAKABLE`] set, which only a debug build takes that is hardly optimised, and names one switch in
//! [`VARIABLE`] each time that it runs a test. The table is `tests/breakages.tsv`.

use std::env;
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::Path;

/// The environment variable, at build time, that asks for a build whose switches can be thrown.
pub const BREAKABLE: &str = "CONCLAVE_BREAKABLE";
/// The environment variable, at run time, that throws a switch of such a build: `crate/switch`.
pub const VARIABLE: &str = "CONCLAVE_BREAK";

/// Why a build is refused: something that may be used is being built.
#[derive(Clone, PartialEq, Eq)]
pub struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{BREAKABLE}: properties could be taken away; only a debug build that is hardly optimised may be so"
        )
    }
}

/// A build script that returns an error prints it so.
impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error for Refused {}

/// What cargo tells a build script of the build.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// The crate that is built.
    pub package: &'a str,
    /// `debug`, or `release` for every profile that inherits from it.
    pub profile: &'a str,
    /// How much the code is optimised: a profile that inherits from `dev` may still be meant for use.
    pub opt_level: &'a str,
    /// Whether switches are to be there.
    pub breakable: bool,
}

/// The code by which a crate asks whether a switch is thrown.
///
/// # Errors
/// When the build may be used and asks for switches.
pub fn code(build: Build<'_>) -> Result<String, Refused> {
    if !build.breakable {
        return Ok(String::from(
            "/// Whether a property is taken away, for a test to notice: never, in this build.\n\
             #[inline(always)]\n\
             pub(crate) const fn broken(_switch: &str) -> bool {\n    false\n}\n",
        ));
    }
    if build.profile != "debug" || !["0", "1"].contains(&build.opt_level) {
        return Err(Refused);
    }
    Ok(format!(
        "/// Whether the property that `switch` stands for is taken away in this process.\n\
         pub(crate) fn broken(switch: &str) -> bool {{\n\
         \x20   static THROWN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();\n\
         \x20   let thrown = THROWN.get_or_init(|| std::env::var({VARIABLE:?}).ok());\n\
         \x20   let own = thrown.as_deref().and_then(|it| it.strip_prefix({owner:?}));\n\
         \x20   own == Some(switch)\n\
         }}\n",
        owner = format!("{}/", build.package),
    ))
}

/// What the build script of a crate with switches does. The names are for the table and the test that compares them.
///
/// # Errors
/// When the build may be used and asks for switches, or cannot be written to: it fails.
pub fn declare(_switches: &[&str]) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed={BREAKABLE}");
    let told = |name: &str| env::var(name).unwrap_or_default();
    let (package, profile, opt_level) =
        (told("CARGO_PKG_NAME"), told("PROFILE"), told("OPT_LEVEL"));
    let build = Build {
        package: &package,
        profile: &profile,
        opt_level: &opt_level,
        breakable: env::var_os(BREAKABLE).is_some(),
    };
    let code = code(build)?;
    if build.breakable {
        println!("cargo::warning=built so that it can be broken on purpose");
    }
    fs::write(Path::new(&told("OUT_DIR")).join("broken.rs"), code)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build<'a>(profile: &'a str, opt_level: &'a str, breakable: bool) -> Build<'a> {
        Build {
            package: "crate",
            profile,
            opt_level,
            breakable,
        }
    }

    #[test]
    fn a_build_that_asks_for_nothing_has_no_switch() -> Result<(), Refused> {
        for (profile, opt_level) in [("debug", "0"), ("release", "3")] {
            let code = code(build(profile, opt_level, false))?;
            assert!(code.contains("const fn broken(_switch: &str) -> bool {\n    false\n}"));
            assert!(!code.contains(VARIABLE));
        }
        Ok(())
    }

    #[test]
    fn a_breakable_debug_build_looks_for_its_own_switches() -> Result<(), Refused> {
        for opt_level in ["0", "1"] {
            let code = code(build("debug", opt_level, true))?;
            assert!(code.contains("std::env::var(\"CONCLAVE_BREAK\")"));
            assert!(code.contains("strip_prefix(\"crate/\")"));
        }
        Ok(())
    }

    #[test]
    fn what_may_be_used_is_never_built_breakable() {
        // Profiles of cargo's own and others, such as `wasm`: cargo says `release` for all that inherit from it.
        for (profile, opt_level) in [
            ("release", "3"),
            ("release", "0"),
            ("release", "1"),
            ("debug", "2"),
            ("debug", "3"),
            ("debug", "s"),
            ("", ""),
        ] {
            assert_eq!(code(build(profile, opt_level, true)), Err(Refused));
        }
    }
}
