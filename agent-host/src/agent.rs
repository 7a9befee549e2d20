//! One agent on this host: a pure state machine ([`machine`]) and the task that carries out what it decides ([`task`]).

pub mod backoff;
pub mod machine;
pub mod task;

pub use machine::{Ending, FirstStart, StartFailure, StopKind};
pub use task::{AgentHandle, AgentStatus, Launching, StepTimes};
