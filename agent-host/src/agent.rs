//! One agent on this host: a pure state machine ([`machine`]), the task that carries out what it decides ([`task`]), and
//! what others see of it ([`handle`]).

pub mod backoff;
pub mod handle;
pub mod machine;
pub mod task;

pub use handle::{AgentHandle, AgentStatus, StepTimes};
pub use machine::{Ending, FirstStart, StartFailure, StopKind};
pub use task::Launching;
