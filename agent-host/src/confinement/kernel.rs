//! What the kernel has of what confinement needs.

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, Scope,
};
use rustic_registry::ConfinementLevel;
use std::path::Path;

/// What the kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kernel {
    /// Version of Landlock; 0: it has none, or it is not switched on.
    landlock: u8,
    /// Whether it has filters of system calls.
    seccomp: bool,
}

/// What came with a version of Landlock, for which levels, and what is open without it.
const STEPS: [(u8, bool, &str); 6] = [
    (1, false, "Landlock (Linux 5.13): files of others are open"),
    (2, false, "Landlock 2 (Linux 5.19): files cannot be moved between directories"),
    (3, false, "Landlock 3 (Linux 6.2): files of others can be truncated"),
    (4, true, "Landlock 4 (Linux 6.7): all TCP ports are open"),
    (5, false, "Landlock 5 (Linux 6.10): devices take any command"),
    (6, false, "Landlock 6 (Linux 6.12): processes and abstract sockets of others are open"),
];

impl Kernel {
    /// The kernel of this machine.
    pub fn here() -> Self {
        Self { landlock: landlock(), seccomp: Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() }
    }

    /// Version of Landlock; 0: none.
    pub fn landlock(self) -> u8 {
        self.landlock
    }

    /// What it lacks of a level, and what that leaves open.
    pub fn missing(self, level: ConfinementLevel) -> Vec<&'static str> {
        if level == ConfinementLevel::Off {
            return vec![];
        }
        let strict = level == ConfinementLevel::Strict;
        let steps = STEPS.iter().filter(|(version, of_strict, _)| self.landlock < *version && (strict || !of_strict));
        let filters = (!self.seccomp).then_some("seccomp: all system calls are open");
        steps.map(|(.., what)| *what).chain(filters).collect()
    }

    #[cfg(test)]
    pub(super) fn newest() -> Self {
        Self { landlock: 6, seccomp: true }
    }

    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self::default()
    }
}

/// The newest version of those that matter here.
fn landlock() -> u8 {
    let files = |abi: ABI| {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        ruleset.handle_access(AccessFs::from_all(abi)).and_then(Ruleset::create).is_ok()
    };
    let net = || {
        let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        ruleset.handle_access(AccessNet::from_all(ABI::V4)).and_then(Ruleset::create).is_ok()
    };
    let scopes = || {
        let all: BitFlags<Scope> = Scope::from_all(ABI::V6);
        Ruleset::default()
            .set_compatibility(CompatLevel::HardRequirement)
            .scope(all)
            .and_then(Ruleset::create)
            .is_ok()
    };
    let steps: [(u8, &dyn Fn() -> bool); 6] = [
        (6, &scopes),
        (5, &|| files(ABI::V5)),
        (4, &net),
        (3, &|| files(ABI::V3)),
        (2, &|| files(ABI::V2)),
        (1, &|| files(ABI::V1)),
    ];
    steps.iter().find(|(_, has)| has()).map_or(0, |(version, _)| *version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_kernel_lacks_more_and_strict_needs_more() {
        use ConfinementLevel::{Off, Standard, Strict};
        let of = |landlock| Kernel { landlock, seccomp: true };
        assert!(of(6).missing(Strict).is_empty());
        assert_eq!((of(3).missing(Standard).len(), of(3).missing(Strict).len()), (2, 3));
        assert_eq!(Kernel::none().missing(Standard).len(), 6);
        assert!(Kernel::none().missing(Off).is_empty());
    }
}
