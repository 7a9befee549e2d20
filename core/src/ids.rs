//! Names of things. Every id is a type of its own, so that none can stand in for another.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Longest id in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing there.
    #[error("must not be empty")]
    Empty,
    /// Over [`MAX_ID_BYTES`].
    #[error("is {0} bytes long; at most {MAX_ID_BYTES} are allowed")]
    TooLong(usize),
    /// Has a control character, named by its code point.
    #[error("contains the control character U+{0:04X}; remove it")]
    Control(u32),
}

fn check(text: &str) -> Result<(), IdError> {
    if text.is_empty() {
        return Err(IdError::Empty);
    }
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong(text.len()));
    }
    match text.chars().find(|c| c.is_control()) {
        Some(c) => Err(IdError::Control(c.into())),
        None => Ok(()),
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                check(&text).map(|()| Self(text))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// An organization: 1 to 256 bytes of UTF-8 without control characters.
    OrganizationId
}
id! {
    /// A guild within its organization (same rules as [`OrganizationId`]); ids repeat across organizations.
    GuildId
}
id! {
    /// An agent within its guild (same rules as [`GuildId`]); ids repeat across guilds.
    AgentId
}
id! {
    /// A host: the pod's name (same rules as [`GuildId`]).
    HostId
}
id! {
    /// One process of a host: pod UID and boot nonce (same rules as [`GuildId`]).
    Incarnation
}
id! {
    /// A create request: a retry carries the id of the first try (same rules as [`GuildId`]).
    RequestId
}

impl HostId {
    /// The number at the end of a StatefulSet pod's name; a name without one sorts last.
    pub fn ordinal(&self) -> u32 {
        let digits = self.0.rsplit('-').next().unwrap_or_default();
        digits.parse().unwrap_or(u32::MAX)
    }
}

impl Default for OrganizationId {
    /// The organization of whoever names none.
    fn default() -> Self {
        Self("default".to_owned())
    }
}

/// Names one guild everywhere: organization and guild id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuildKey {
    /// The organization.
    pub organization: OrganizationId,
    /// The guild in it.
    pub id: GuildId,
}

impl fmt::Display for GuildKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.organization, self.id)
    }
}

/// Names one agent everywhere: organization, guild and agent id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey {
    /// The guild.
    pub guild: GuildKey,
    /// The agent in it.
    pub agent: AgentId,
}

impl AgentKey {
    /// The key that these ids make.
    pub fn parse(organization: &str, guild: &str, agent: &str) -> Result<Self, IdError> {
        let guild = GuildKey { organization: organization.parse()?, id: guild.parse()? };
        Ok(Self { guild, agent: agent.parse()? })
    }
}

impl fmt::Display for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.guild, self.agent)
    }
}

/// An agent's fencing token: grows with every claim, never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// Largest epoch: what doubles, and so Lua, count exactly. At a million claims a second it lasts for centuries.
    pub const MAX: Self = Self((1 << 53) - 1);

    /// More claims than a store makes between two answers to a host, and so more than are lost with the store unheard of. Whoever hands the
    /// highest epoch that it heard of to another store life, or to the next life of a host, adds as many.
    pub const UNHEARD: u64 = 1_000_000;

    /// The highest epoch that may have been given, when this is the highest that was heard of.
    #[must_use]
    pub const fn with_unheard(self) -> Self {
        Self(self.0.saturating_add(Self::UNHEARD))
    }

    /// Reads the wire form, where zero means "none given".
    pub fn from_wire(value: u64) -> Option<Self> {
        (value != 0).then_some(Self(value))
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One lease of a host: the store hands out a larger number at every announcement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HostLife(pub u64);

impl fmt::Display for HostLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One life of the store's data: wiped, rolled back or served by another Redis it is in another one. Opaque.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreLife(pub String);

impl StoreLife {
    /// No life at all: whoever knew this one has lost nothing.
    pub const NONE: Self = Self(String::new());
}

impl fmt::Display for StoreLife {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How many stops the store has counted: it shows whether a request came before a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stops(pub u64);

/// The number of an agent in its guild, from which the ids of its messages are made: two agents of a guild never have one at the same time.
///
/// Rustic AI has a byte for the machine in an id, and twelve bits for a sequence within a millisecond. 255 agents have a machine of their
/// own; more of them share one, and each of those has a part of its sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineId(u16);

impl MachineId {
    /// Machines of Rustic AI's ids; 0 is for whoever is no agent of ours.
    const MACHINES: u16 = 255;
    /// Agents that share one. The first of 64 parts of its sequence is for whoever is no agent of ours.
    pub const SHARES: u16 = 63;
    /// The smallest.
    pub const FIRST: Self = Self(1);
    /// The largest.
    pub const LAST: Self = Self(Self::MACHINES * Self::SHARES);

    /// The number `number`, if it is one.
    pub fn new(number: u32) -> Option<Self> {
        let number = u16::try_from(number).ok()?;
        (Self::FIRST.0..=Self::LAST.0).contains(&number).then_some(Self(number))
    }

    /// All of them, from the smallest.
    pub fn all() -> impl Iterator<Item = Self> {
        (Self::FIRST.0..=Self::LAST.0).map(Self)
    }

    /// The machine in Rustic AI's ids, 1 to 255.
    pub fn machine(self) -> u8 {
        u8::try_from((self.0 - 1) % Self::MACHINES + 1).expect("it is no more than 255")
    }

    /// Which part of the machine's sequence it has, below [`MachineId::SHARES`].
    pub fn share(self) -> u16 {
        (self.0 - 1) / Self::MACHINES
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<MachineId> for u32 {
    fn from(id: MachineId) -> Self {
        id.0.into()
    }
}

/// Whose agents are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everybody's.
    All,
    /// Those of an organization.
    Organization(OrganizationId),
    /// Those of a guild.
    Guild(GuildKey),
}

impl Scope {
    /// Whether an agent is one of them.
    pub fn holds(&self, key: &AgentKey) -> bool {
        match self {
            Self::All => true,
            Self::Organization(organization) => key.guild.organization == *organization,
            Self::Guild(guild) => key.guild == *guild,
        }
    }
}

/// A moment on the store's clock, in milliseconds since the Unix epoch. For showing: the clock may step, and nothing rests on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_agents_of_a_guild_share_a_part_of_a_machines_sequence() {
        let parts: std::collections::BTreeSet<_> = MachineId::all().map(|id| (id.machine(), id.share())).collect();
        assert_eq!(parts.len(), usize::from(MachineId::LAST.0));
        assert!(parts.iter().all(|(machine, share)| *machine > 0 && *share < MachineId::SHARES));
        let parts = |number| MachineId::new(number).map(|id| (id.machine(), id.share()));
        assert_eq!((parts(255), parts(256)), (Some((255, 0)), Some((1, 1))));
        assert_eq!((MachineId::new(0), MachineId::new(u32::from(MachineId::LAST) + 1)), (None, None));
    }

    #[test]
    fn an_id_is_short_printable_and_not_empty() {
        assert_eq!("".parse::<GuildId>(), Err(IdError::Empty));
        assert_eq!("a\u{7}b".parse::<AgentId>(), Err(IdError::Control(7)));
        assert_eq!("é".repeat(129).parse::<AgentId>(), Err(IdError::TooLong(258)));
        assert!("é".repeat(128).parse::<AgentId>().is_ok());
    }

    #[test]
    fn the_ordinal_is_the_number_at_the_end() {
        let ordinal = |text: &str| text.parse::<HostId>().map(|h| h.ordinal());
        assert_eq!(ordinal("agent-host-12"), Ok(12));
        assert_eq!(ordinal("laptop"), Ok(u32::MAX));
        assert_eq!(ordinal("laptop-x1"), Ok(u32::MAX));
    }
}
