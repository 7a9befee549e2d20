//! The restart policy of an agent, with its defaults filled in.

use crate::agent::v1 as agent_pb;
use crate::violation::Violations;
use std::time::Duration;

/// When a process that ended unasked is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartMode {
    /// Never.
    Never,
    /// After a non-zero exit code or a signal.
    OnFailure,
    /// Whatever the exit status.
    Always,
}

/// How a process that ended unasked is brought back in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// When.
    pub mode: RestartMode,
    /// How often before the agent becomes FAILED.
    pub max_restarts: u32,
    /// Delay before the first restart; doubles with each.
    pub initial_backoff: Duration,
    /// Upper bound of the delay.
    pub max_backoff: Duration,
    /// Health after which count and delay start anew.
    pub reset_after: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            mode: RestartMode::Always,
            max_restarts: 10,
            initial_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(60),
            reset_after: Duration::from_secs(60),
        }
    }
}

impl RestartPolicy {
    /// Reads the wire form, noting what is wrong with it.
    pub(crate) fn read(wire: Option<&agent_pb::RestartPolicy>, violations: &mut Violations) -> Self {
        let default = Self::default();
        let Some(wire) = wire else { return default };
        let mode = match agent_pb::RestartMode::try_from(wire.mode) {
            Ok(agent_pb::RestartMode::Unspecified | agent_pb::RestartMode::Always) => RestartMode::Always,
            Ok(agent_pb::RestartMode::OnFailure) => RestartMode::OnFailure,
            Ok(agent_pb::RestartMode::Never) => RestartMode::Never,
            Err(_) => {
                violations.add("launch.restart_policy.mode", "is not a restart mode; use one of RestartMode");
                default.mode
            }
        };
        let mut delay = |name: &str, wire: Option<&prost_types::Duration>, default: Duration| {
            let field = format!("launch.restart_policy.{name}");
            crate::request::duration(&field, wire, MAX_BACKOFF, violations).unwrap_or(default)
        };
        let policy = Self {
            mode,
            max_restarts: wire.max_restarts.unwrap_or(default.max_restarts),
            initial_backoff: delay("initial_backoff", wire.initial_backoff.as_ref(), default.initial_backoff),
            max_backoff: delay("max_backoff", wire.max_backoff.as_ref(), default.max_backoff),
            reset_after: delay("reset_after", wire.reset_after.as_ref(), default.reset_after),
        };
        if policy.initial_backoff > policy.max_backoff {
            violations.add("launch.restart_policy.initial_backoff", "must not be longer than max_backoff");
        }
        policy
    }
}

const MAX_BACKOFF: Duration = Duration::from_secs(24 * 3600);
