//! The rule book: what the words mean and what may follow on what. Pure: it knows neither gRPC nor Redis, starts no task and reads no
//! clock.
//!
//! | module | what |
//! | --- | --- |
//! | [`apart`] | agents that stay apart |
//! | [`ids`] | names: guild, agent, host, incarnation, epoch |
//! | [`condition`] | why an agent is in its phase |
//! | [`confinement`] | what an agent may reach |
//! | [`devices`] | GPUs: which an agent takes |
//! | [`encoded`] | ids in keys, indexes and page tokens |
//! | [`resources`] | room, as exact thousandths |
//! | [`record`] | what is known of an agent and of a host |
//! | [`ops`] | the operations on the registry: requests and outcomes |
//! | [`rules`] | what each of them does |
//! | [`observe`] | how long a host has been silent, as its callers see it |
//! | [`placement`] | which hosts to try for an agent |
//! | [`signal`] | names of signals |
//!
//! ```text
//!             claim                 advance            advance                advance
//!   (nothing) ─────▶ STARTING ───────────────▶ RUNNING ◀──────▶ RESTARTING ─────────▶ FAILED
//!     │ ▲            ▲  │                         │                 │                   │
//!     │ │    release │  ▼                         ▼                 ▼      release      │
//!     │ └────────────┼─ STOPPING ◀────────────────┴─────────────────┘ ┌─────────────────┘
//!     │ ▲            │                            │                   │  (room already given back)
//!     │ └────────────┼────────────────────────────┼───────────────────┘
//!     │ claim, full  │ assign                     │ unassign: its host is gone, or it moves
//!     └─────────▶ PENDING ◀───────────────────────┘
//! ```

pub mod apart;
pub mod condition;
pub mod confinement;
pub mod devices;
pub mod encoded;
pub mod ids;
pub mod observe;
pub mod ops;
pub mod placement;
pub mod record;
pub mod resources;
pub mod rules;
pub mod signal;

pub use condition::{AgentReason, Condition};
pub use confinement::{ConfinementLevel, ConfinementWish, Openings};
pub use ids::{
    AgentId, AgentKey, Epoch, GuildId, GuildKey, HostId, HostLife, IdError, Incarnation, MachineId, OrganizationId,
    RequestId, Scope, Stops, StoreLife, UnixMillis,
};
pub use observe::Observer;
pub use ops::{
    Advance, AdvanceOutcome, AgentEvent, Announce, Announced, AssignOutcome, Bring, Claim, ClaimOutcome, Claimed,
    Cordon, Drift, Event, EventId, Events, HostsView, IfFull, IfNamesakes, Index, LINES, Look, Page, Queue,
    ReleaseGuard, ReleaseOutcome, Remember, Remembered, Renew, Renewal, Restore, Retire, StoreLost, Unassign,
    UnreadableAgent,
};
pub use placement::Candidates;
pub use record::{
    AgentRecord, Assignment, Documents, ExitStatus, FirstStart, FormerProcess, FormerState, HostRecord, HostState,
    LastExit, OnDisconnect, Phase, SpecDigest, State, View,
};
pub use resources::Resources;
