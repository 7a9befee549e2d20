//! How far an agent is confined, and what it may reach beyond that.

use crate::record::text_enum;
use std::path::PathBuf;

text_enum! {
    /// How far an agent is confined.
    ConfinementLevel {
        /// Not at all: what the user of its host may do, it may do.
        Off = "off",
        /// To its own files and processes.
        Standard = "standard",
        /// The same; to named ports, and to the programs of its environment, too.
        Strict = "strict",
    }
}

impl ConfinementLevel {
    /// Whether this one leaves more open than another.
    pub fn is_looser_than(self, other: Self) -> bool {
        (self as u8) < (other as u8)
    }
}

impl std::str::FromStr for ConfinementLevel {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::parse(word).ok_or_else(|| "choose off, standard or strict".to_owned())
    }
}

/// What is open beside what a level leaves open.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Openings {
    /// Files and directories, with all that is in them, to read and to execute.
    pub read: Vec<PathBuf>,
    /// Those to write, too.
    pub write: Vec<PathBuf>,
    /// TCP ports to connect to.
    pub ports: Vec<u16>,
}

/// What a launch asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConfinementWish {
    /// The level; the host's own if it names none.
    pub level: Option<ConfinementLevel>,
    /// What else is to be open.
    pub openings: Openings,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_ordered_from_loose_to_tight() {
        use ConfinementLevel::{Off, Standard, Strict};
        assert!(Off.is_looser_than(Standard) && Standard.is_looser_than(Strict));
        assert!(!Strict.is_looser_than(Strict) && !Strict.is_looser_than(Off));
        assert_eq!("strict".parse(), Ok(Strict));
        assert!("loose".parse::<ConfinementLevel>().is_err());
    }
}
