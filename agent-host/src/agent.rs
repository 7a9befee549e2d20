//! One agent on this host: a pure state machine ([`machine`]), the task that carries out what it decides ([`task`]), and
//! what others see of it ([`handle`]); over which messages it dies ([`poison`]); how long each step of its start took ([`steps`]); what is
//! written of it and how that survives a lost store (`record`).

pub mod backoff;
pub mod handle;
pub mod machine;
pub mod poison;
mod record;
pub mod steps;
pub mod task;
mod unwanted;

pub use handle::{AgentHandle, AgentStatus, Caller};
pub use machine::{Ending, FirstStart, Moving, StartFailure, StopPurpose};
pub use poison::{Deaths, Delivery, Exit, Poison, Skip};
pub use steps::StepTimes;
pub use task::{HostContext, Launching};
