//! The registry: which host may run which agent, told in one place.
//!
//! This crate owns the keys, records and scripts in Redis and nothing else: no gRPC, no processes, no policy. Every
//! change is one script, atomic and compare-and-set, so that any number of engines and hosts may call it at once.
//!
//! | module | what |
//! | --- | --- |
//! | [`ids`] | names: guild, agent, host, incarnation, epoch |
//! | [`resources`] | room, as exact thousandths |
//! | [`record`] | what is stored of an agent and of a host |
//! | [`ops`] | the operations: requests and outcomes |
//! | [`observe`] | how long a host has been silent, as its callers see it |
//! | [`unreadable`] | rows that another version wrote |
//! | [`redis`] | the store over deadpool-redis and Lua |
//! | [`memory`] | the deterministic twin, held to the same conformance tests |
//! | [`dev_server`] | a private Redis for development and tests |
//!
//! ```text
//!             claim                 advance            advance                advance
//!   (nothing) ─────▶ STARTING ───────────────▶ RUNNING ◀──────▶ RESTARTING ─────────▶ FAILED
//!     │ ▲            ▲  │                         │                 │                   │
//!     │ │    release │  ▼                         ▼                 ▼      release      │
//!     │ └────────────┼─ STOPPING ◀────────────────┴─────────────────┘ ┌─────────────────┘
//!     │ ▲            │                            │                   │  (room already given back)
//!     │ └────────────┼────────────────────────────┼───────────────────┘
//!     │ claim, full  │ place                      │ unplace: its host is gone, or it moves
//!     └─────────▶ PENDING ◀───────────────────────┘
//! ```

pub mod dev_server;
pub mod ids;
pub mod keys;
pub mod memory;
pub mod observe;
pub mod ops;
pub mod record;
pub mod redis;
pub mod resources;
pub mod signal;
pub mod unreadable;

mod error;

pub use error::{FormTrouble, RegistryError};
pub use ids::{
    AgentId, AgentKey, Epoch, GuildId, HostId, HostLife, IdError, Incarnation, RequestId, Stops, StoreLife,
    UnixMillis,
};
pub use memory::MemoryRegistry;
pub use observe::Observer;
pub use ops::{
    Advance, AdvanceOutcome, Announce, Announced, Bring, Claim, ClaimOutcome, Claimed, Cordon, Event, EventId,
    HostsView, IfFull, Index, LINES, Page, PlaceOutcome, Queue, Registry, ReleaseGuard, ReleaseOutcome, Remember,
    Remembered, Renew, Renewal, Restore, Retire, Unplace,
};
pub use record::{
    AgentRecord, Documents, ExitStatus, FirstStart, FormerProcess, FormerState, HostRecord, HostState, LastExit,
    OnDisconnect, Phase, SpecDigest, View,
};
pub use redis::{RedisRegistry, RedisSettings, Schema};
pub use resources::Resources;
pub use unreadable::UnreadableAgent;
