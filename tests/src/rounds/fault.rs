//! What is done to a device, to its network, to the service or to the group in a round.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::RngCore as _;

/// Clocks that devices are given, as `faketime -f` takes them.
const CLOCKS: [&str; 8] = ["-2h", "-1d", "-365d", "-10m", "+10m", "+2h", "+1d", "+20y"];

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A device is killed with SIGKILL and started again.
    KillDevice,
    /// The service is killed with SIGKILL and started again.
    KillService,
    /// Both at once.
    KillBoth,
    /// Every process is killed.
    KillAll,
    /// A device is stopped (SIGSTOP) for a while.
    StopDevice,
    /// The service is stopped for a while.
    StopService,
    /// A device's connection is cut.
    Cut,
    /// A device's connection stays, and nothing flows.
    HalfOpen,
    /// A device's connection is cut again and again.
    Flap,
    /// Nothing reaches the service.
    StallUp,
    /// Nothing reaches the device.
    StallDown,
    /// The service still has a device's old connection, with bytes on their way, while the device is there anew.
    Double,
    /// An editor becomes a viewer while it writes, and an editor again.
    Role,
    /// A member is removed while it writes, and invited again.
    Member,
    /// A device's clock is wrong while members change, and right again.
    Clock(&'static str),
    /// A device's files cannot grow.
    FullDevice,
    /// The service's files cannot grow.
    FullService,
}

/// Every kind, once.
const KINDS: [Fault; 17] = [
    Fault::KillDevice,
    Fault::KillService,
    Fault::KillBoth,
    Fault::KillAll,
    Fault::StopDevice,
    Fault::StopService,
    Fault::Cut,
    Fault::HalfOpen,
    Fault::Flap,
    Fault::StallUp,
    Fault::StallDown,
    Fault::Double,
    Fault::Role,
    Fault::Member,
    Fault::Clock(CLOCKS[0]),
    Fault::FullDevice,
    Fault::FullService,
];

impl Fault {
    /// The name that figures are listed under, and that `--only` takes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillDevice => "kill-device",
            Self::KillService => "kill-service",
            Self::KillBoth => "kill-both",
            Self::KillAll => "kill-all",
            Self::StopDevice => "stop-device",
            Self::StopService => "stop-service",
            Self::Cut => "cut",
            Self::HalfOpen => "half-open",
            Self::Flap => "flap",
            Self::StallUp => "stall-up",
            Self::StallDown => "stall-down",
            Self::Double => "double",
            Self::Role => "role",
            Self::Member => "member",
            Self::Clock(_) => "clock",
            Self::FullDevice => "full-device",
            Self::FullService => "full-service",
        }
    }
}

/// The names of all kinds.
#[must_use]
pub fn names() -> Vec<&'static str> {
    KINDS.iter().map(|kind| kind.name()).collect()
}

/// Faults for so many rounds: each kind comes once before any comes again, in an order that the generator draws. Empty when `only` leaves none.
#[must_use]
pub fn schedule(rounds: usize, only: &[String], rng: &mut ChaCha20Rng) -> Vec<Fault> {
    let kinds: Vec<Fault> = KINDS
        .into_iter()
        .filter(|kind| only.is_empty() || only.iter().any(|name| name == kind.name()))
        .collect();
    let mut schedule = Vec::with_capacity(rounds);
    let mut clocks = 0..;
    while schedule.len() < rounds && !kinds.is_empty() {
        let mut turn = kinds.clone();
        while !turn.is_empty() && schedule.len() < rounds {
            let fault = turn.swap_remove(below(turn.len(), rng));
            schedule.push(match fault {
                Fault::Clock(_) => {
                    let next = clocks.next().unwrap_or(0);
                    Fault::Clock(CLOCKS.into_iter().cycle().nth(next).unwrap_or("-2h"))
                }
                fault => fault,
            });
        }
    }
    schedule
}

/// A number below `bound`, or 0.
pub fn below(bound: usize, rng: &mut ChaCha20Rng) -> usize {
    let drawn = usize::try_from(rng.next_u32()).unwrap_or(0);
    drawn.checked_rem(bound).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn every_kind_comes_before_any_comes_again() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let schedule = schedule(KINDS.len() * 2, &[], &mut rng);
        for turn in schedule.chunks(KINDS.len()) {
            let mut names: Vec<_> = turn.iter().map(|fault| fault.name()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), KINDS.len());
        }
        let clocks: Vec<_> = schedule
            .iter()
            .filter(|fault| matches!(fault, Fault::Clock(_)))
            .collect();
        assert_ne!(clocks.first(), clocks.last(), "{clocks:?}");
    }

    #[test]
    fn only_what_is_named_comes() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let only = ["cut".to_owned()];
        assert_eq!(schedule(3, &only, &mut rng), [Fault::Cut; 3]);
        assert!(schedule(3, &["nonsense".to_owned()], &mut rng).is_empty());
    }
}
