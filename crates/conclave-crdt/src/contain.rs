//! Containment of engine panics.
//!
//! Engines assert their invariants by panicking, and hostile bytes can reach some of those asserts. The text of such a
//! panic can quote the document, so the panic hook is silenced while foreign bytes are inside an engine. Built with
//! `panic = "abort"` (as on wasm) nothing can be contained: run documents in a worker that can be killed.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::error::{CrdtError, Result};

thread_local! {
    /// How many containments this thread is inside of.
    static SILENCED: Cell<u32> = const { Cell::new(0) };
}

static INSTALL_HOOK: Once = Once::new();

/// Wraps the process's panic hook, once, in one that says nothing while this thread is silenced.
fn install_hook() {
    INSTALL_HOOK.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let silenced = SILENCED.try_with(|depth| depth.get() > 0).unwrap_or(false);
            if !silenced {
                previous(info);
            }
        }));
    });
}

struct Silence;

impl Silence {
    fn start() -> Self {
        SILENCED.with(|depth| depth.set(depth.get().saturating_add(1)));
        Self
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        SILENCED.with(|depth| depth.set(depth.get().saturating_sub(1)));
    }
}

/// Runs `engine_call`; a panic inside becomes [`CrdtError::Panicked`] and is not printed. What the call borrowed
/// mutably must be treated as broken afterwards.
pub(crate) fn contained<T>(engine_call: impl FnOnce() -> T) -> Result<T> {
    // Breakage: an engine that panics on hostile bytes takes the program with it.
    if crate::broken("no-containment") {
        return Ok(engine_call());
    }
    install_hook();
    let silence = Silence::start();
    let outcome = catch_unwind(AssertUnwindSafe(engine_call));
    drop(silence);
    outcome.map_err(|payload| {
        // Dropping a payload is foreign code too.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(payload)));
        CrdtError::Panicked
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_and_silence_ends() {
        assert_eq!(
            contained(|| panic!("plaintext")).err(),
            Some(CrdtError::Panicked)
        );
        assert_eq!(SILENCED.with(Cell::get), 0);
        assert_eq!(contained(|| 7), Ok(7));
    }

    #[test]
    fn nested_containment_stays_silent_until_the_outermost_ends() {
        let inner = contained(|| {
            let _ = contained(|| panic!("inner"));
            SILENCED.with(Cell::get)
        });
        assert_eq!(inner, Ok(1));
        assert_eq!(SILENCED.with(Cell::get), 0);
    }
}
