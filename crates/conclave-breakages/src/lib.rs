//! Breakages: switches that take one property away each, so that a test can be seen to notice.
//!
//! A crate declares its switches in its build script, by [`declare`], and asks for one with `cfg!(conclave_break = "…")`. The runner of
//! breakages names one in [`VARIABLE`]; nothing else sets one, and no build but an unoptimised debug build takes one. The table is
//! `tests/breakages.tsv`.

use std::env;
use std::fmt;

/// The environment variable that asks for a switch: `crate/switch`.
pub const VARIABLE: &str = "CONCLAVE_BREAK";

/// Why a build is refused.
#[derive(Clone, PartialEq, Eq)]
pub enum Refused {
    /// The variable does not have the form `crate/switch`.
    Form(String),
    /// The crate has no such switch.
    Unknown(String),
    /// Something that may be used is being built.
    Release(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Form(asked) => write!(f, "{VARIABLE} is {asked:?} and not crate/switch"),
            Self::Unknown(asked) => write!(f, "{VARIABLE}: there is no switch {asked}"),
            Self::Release(asked) => write!(
                f,
                "{VARIABLE}: {asked} takes a property away; only an unoptimised debug build may have it"
            ),
        }
    }
}

/// A build script that returns an error prints it so.
impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Refused {}

/// What cargo tells a build script of the build.
#[derive(Debug, Clone, Copy)]
pub struct Build<'a> {
    /// The crate that is built.
    pub package: &'a str,
    /// `debug`, or `release` for every profile that inherits from it.
    pub profile: &'a str,
    /// How much the code is optimised: a profile that inherits from `dev` may still be meant for use.
    pub opt_level: &'a str,
}

/// The directives for cargo.
///
/// # Errors
/// When the switch that was asked for is unknown or not for this build.
pub fn directives(
    build: Build<'_>,
    switches: &[&str],
    asked: Option<&str>,
) -> Result<Vec<String>, Refused> {
    let values: Vec<String> = switches.iter().map(|it| format!("{it:?}")).collect();
    let mut lines = vec![
        format!("cargo::rerun-if-env-changed={VARIABLE}"),
        format!(
            "cargo::rustc-check-cfg=cfg(conclave_break, values({}))",
            values.join(", ")
        ),
    ];
    let Some(asked) = asked else {
        return Ok(lines);
    };
    let (owner, switch) = match asked.split_once('/') {
        Some((owner, switch)) if !owner.is_empty() && !switch.is_empty() => (owner, switch),
        _ => return Err(Refused::Form(asked.to_owned())),
    };
    if owner != build.package {
        return Ok(lines);
    }
    if !switches.contains(&switch) {
        return Err(Refused::Unknown(asked.to_owned()));
    }
    if build.profile != "debug" || build.opt_level != "0" {
        return Err(Refused::Release(asked.to_owned()));
    }
    lines.push(format!("cargo::rustc-cfg=conclave_break={switch:?}"));
    lines.push(format!("cargo::warning=broken on purpose: {asked}"));
    Ok(lines)
}

/// What the build script of a crate with switches does.
///
/// # Errors
/// When the switch that was asked for is unknown or not for this build: the build fails.
pub fn declare(switches: &[&str]) -> Result<(), Refused> {
    let told = |name: &str| env::var(name).unwrap_or_default();
    let asked = env::var_os(VARIABLE).map(|it| it.to_string_lossy().into_owned());
    let (package, profile, opt_level) =
        (told("CARGO_PKG_NAME"), told("PROFILE"), told("OPT_LEVEL"));
    let build = Build {
        package: &package,
        profile: &profile,
        opt_level: &opt_level,
    };
    for line in directives(build, switches, asked.as_deref())? {
        println!("{line}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SWITCHES: &[&str] = &["one", "other"];

    fn build<'a>(profile: &'a str, opt_level: &'a str) -> Build<'a> {
        Build {
            package: "crate",
            profile,
            opt_level,
        }
    }

    #[test]
    fn a_build_that_asks_for_nothing_breaks_nothing() -> Result<(), Refused> {
        let plain = [
            "cargo::rerun-if-env-changed=CONCLAVE_BREAK",
            "cargo::rustc-check-cfg=cfg(conclave_break, values(\"one\", \"other\"))",
        ];
        for build in [build("debug", "0"), build("release", "3")] {
            assert_eq!(directives(build, SWITCHES, None)?, plain);
            // Somebody else's switch.
            assert_eq!(directives(build, SWITCHES, Some("crate-b/one"))?, plain);
        }
        Ok(())
    }

    #[test]
    fn a_debug_build_gets_the_one_that_it_asks_for() -> Result<(), Refused> {
        let lines = directives(build("debug", "0"), SWITCHES, Some("crate/other"))?;
        let set: Vec<_> = lines
            .iter()
            .filter(|it| it.contains("rustc-cfg="))
            .collect();
        assert_eq!(set, ["cargo::rustc-cfg=conclave_break=\"other\""]);
        Ok(())
    }

    #[test]
    fn what_may_be_used_is_never_built_broken() {
        // Profiles of cargo's own and others, such as `wasm`: cargo says `release` for all that inherit from it.
        for (profile, opt_level) in [
            ("release", "3"),
            ("release", "0"),
            ("debug", "3"),
            ("debug", "s"),
            ("", ""),
        ] {
            let refused = directives(build(profile, opt_level), SWITCHES, Some("crate/one"));
            assert_eq!(refused, Err(Refused::Release("crate/one".to_owned())));
        }
    }

    #[test]
    fn a_switch_that_does_not_exist_is_refused() {
        let refused = directives(build("debug", "0"), SWITCHES, Some("crate/two"));
        assert_eq!(refused, Err(Refused::Unknown("crate/two".to_owned())));
        for asked in ["", "one", "/one", "crate/"] {
            let refused = directives(build("debug", "0"), SWITCHES, Some(asked));
            assert_eq!(refused, Err(Refused::Form(asked.to_owned())));
        }
    }
}
