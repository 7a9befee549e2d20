//! What the operator of a host has decided of its agents' confinement, and what that makes of a launch.

use super::Kernel;
use rustic_registry::{ConfinementLevel, ConfinementWish, Openings};
use std::path::{Path, PathBuf};

/// What holds for all agents of a host.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The level of agents that ask for none.
    pub level: ConfinementLevel,
    /// The loosest level that an agent may ask for; none: the one of agents that ask for none.
    pub loosest: Option<ConfinementLevel>,
    /// What every agent gets.
    pub given: Openings,
    /// What an agent may ask for.
    pub allowed: Openings,
    /// Agents are refused if the kernel lacks something of their level.
    pub required: bool,
    /// What the kernel has.
    pub kernel: Kernel,
}

/// What one agent gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// How far it is confined.
    pub level: ConfinementLevel,
    /// What is open beyond that.
    pub openings: Openings,
    /// What the kernel lacks of the level.
    pub missing: Vec<&'static str>,
}

/// Why an agent does not get what it asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The operator does not allow it.
    #[error("{0}")]
    NotAllowed(String),
    /// This host cannot confine it as far as it must be.
    #[error(
        "this host's kernel cannot confine an agent to {level}, which --confinement-required demands; it lacks {missing}"
    )]
    Lacking {
        /// The level.
        level: ConfinementLevel,
        /// What it lacks.
        missing: String,
    },
}

impl Policy {
    /// What nobody has changed.
    pub fn usual(kernel: Kernel) -> Self {
        let level = ConfinementLevel::Standard;
        Self {
            level,
            loosest: None,
            given: Openings::default(),
            allowed: Openings::default(),
            required: false,
            kernel,
        }
    }

    /// What the kernel lacks for agents that ask for nothing.
    pub fn missing(&self) -> Vec<&'static str> {
        self.kernel.missing(self.level)
    }

    /// What an agent gets that has this of its runtime profile, and asks for that.
    pub fn grant(&self, profile: &ConfinementWish, wish: &ConfinementWish) -> Result<Grant, Denied> {
        let usual = profile.level.unwrap_or(self.level);
        let level = wish.level.unwrap_or(usual);
        let loosest = self.loosest.unwrap_or(usual);
        if level.is_looser_than(usual) && level.is_looser_than(loosest) {
            return Err(Denied::NotAllowed(format!(
                "level {level} is looser than this host allows, which is {loosest} (--confinement-max)"
            )));
        }
        let missing = self.kernel.missing(level);
        if self.required && !missing.is_empty() {
            return Err(Denied::Lacking { level, missing: missing.join("; ") });
        }
        let asked = &wish.openings;
        let may_write = &self.allowed.write;
        let may_read: Vec<_> = self.allowed.read.iter().chain(may_write).cloned().collect();
        let read = paths(&asked.read, &may_read, "read_paths", "--confinement-allow-read")?;
        let write = paths(&asked.write, may_write, "write_paths", "--confinement-allow-write")?;
        if let Some(port) = asked.ports.iter().find(|port| !self.allowed.ports.contains(port)) {
            return Err(Denied::NotAllowed(format!(
                "connect_ports has {port}, which this host does not allow; --confinement-allow-port names those that it does"
            )));
        }
        let all = |parts: [&[PathBuf]; 3]| parts.concat();
        let openings = Openings {
            read: all([&self.given.read, &profile.openings.read, &read]),
            write: all([&self.given.write, &profile.openings.write, &write]),
            ports: [&self.given.ports[..], &profile.openings.ports, &asked.ports].concat(),
        };
        Ok(Grant { level, openings, missing })
    }

    /// What a zygote gets whose children may get anything of this; none where agents are not confined.
    pub fn of_zygotes(&self, profile: &ConfinementWish) -> Option<Grant> {
        let level = profile.level.unwrap_or(self.level);
        let all = |parts: [&[PathBuf]; 3]| parts.concat();
        (level != ConfinementLevel::Off).then(|| Grant {
            level: ConfinementLevel::Standard,
            openings: Openings {
                read: all([&self.given.read, &profile.openings.read, &self.allowed.read]),
                write: all([&self.given.write, &profile.openings.write, &self.allowed.write]),
                ports: vec![],
            },
            missing: self.kernel.missing(ConfinementLevel::Standard),
        })
    }
}

/// The paths that were asked for, as they are without links: they must exist, and lie below one that is allowed.
fn paths(asked: &[PathBuf], allowed: &[PathBuf], field: &str, flag: &str) -> Result<Vec<PathBuf>, Denied> {
    let real = |path: &Path| path.canonicalize().ok();
    let allowed: Vec<_> = allowed.iter().filter_map(|path| real(path)).collect();
    asked
        .iter()
        .map(|path| {
            let shown = path.display();
            let found = real(path).ok_or_else(|| {
                Denied::NotAllowed(format!("{field} has {shown}, which this host does not have or cannot reach"))
            })?;
            if allowed.iter().any(|root| found.starts_with(root)) {
                return Ok(found);
            }
            Err(Denied::NotAllowed(format!(
                "{field} has {shown}, which this host does not allow; {flag} names what it does"
            )))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(level: Option<ConfinementLevel>, write: &[&Path], ports: &[u16]) -> ConfinementWish {
        let write = write.iter().map(|path| path.to_path_buf()).collect();
        ConfinementWish { level, openings: Openings { read: vec![], write, ports: ports.to_vec() } }
    }

    #[test]
    fn a_launch_may_tighten_and_loosen_as_far_as_the_operator_allows() {
        use ConfinementLevel::{Off, Standard, Strict};
        let none = ConfinementWish::default();
        let level =
            |policy: &Policy, level| policy.grant(&none, &wish(level, &[], &[])).map(|grant| grant.level).ok();
        let usual = Policy::usual(Kernel::newest());
        assert_eq!([None, Some(Strict), Some(Off)].map(|l| level(&usual, l)), [Some(Standard), Some(Strict), None]);
        let tight = Policy { level: Strict, ..usual.clone() };
        assert_eq!([None, Some(Standard)].map(|l| level(&tight, l)), [Some(Strict), None]);
        let open = Policy { loosest: Some(Off), ..usual };
        assert_eq!(level(&open, Some(Off)), Some(Off));
        // A profile is the operator's own, so it may be looser.
        let profile = ConfinementWish { level: Some(Off), ..ConfinementWish::default() };
        assert_eq!(tight.grant(&profile, &none).map(|grant| grant.level), Ok(Off));
    }

    #[test]
    fn paths_that_lead_out_of_what_is_allowed_are_denied() {
        let dir = tempfile::tempdir().expect("a folder");
        let (inside, outside) = (dir.path().join("data/in"), dir.path().join("other"));
        for path in [&inside, &outside] {
            std::fs::create_dir_all(path).expect("folders");
        }
        let link = dir.path().join("data/link");
        std::os::unix::fs::symlink(&outside, &link).expect("a link");
        let allowed = Openings { write: vec![dir.path().join("data")], ports: vec![443], ..Openings::default() };
        let policy = Policy { allowed, ..Policy::usual(Kernel::newest()) };
        let none = ConfinementWish::default();
        assert!(policy.grant(&none, &wish(None, &[&inside], &[443])).is_ok());
        for path in [&outside, &link, &dir.path().join("data/none")] {
            let denied = policy.grant(&none, &wish(None, &[path], &[])).expect_err("it is not allowed");
            assert!(denied.to_string().contains("write_paths"), "{denied}");
        }
        assert!(policy.grant(&none, &wish(None, &[], &[444])).is_err());
        let read = ConfinementWish { openings: Openings { read: vec![inside], ..Openings::default() }, level: None };
        assert!(policy.grant(&none, &read).is_ok(), "what may be written may be read");
    }

    #[test]
    fn a_kernel_that_lacks_something_is_named_or_refuses() {
        let none = ConfinementWish::default();
        let old = Policy::usual(Kernel::none());
        assert!(!old.grant(&none, &none).expect("it is told").missing.is_empty());
        let required = Policy { required: true, ..old };
        let denied = required.grant(&none, &none).expect_err("it is refused");
        assert!(matches!(denied, Denied::Lacking { .. }) && denied.to_string().contains("Landlock"), "{denied}");
        let off = ConfinementWish { level: Some(ConfinementLevel::Off), ..none.clone() };
        assert!(required.grant(&off, &none).is_ok(), "who is not confined lacks nothing");
    }
}
