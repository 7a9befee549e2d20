//! Explains SIGKILL that this host did not send. Pure.

use crate::cgroups::{BEGINS_WITH, OutOfMemory};
use rustic_registry::ExitStatus;
use std::time::Duration;

/// SIGKILL, which no process can catch.
const SIGKILL: ExitStatus = ExitStatus::Signal(9);

/// Who ended a process, as far as its host knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Killer {
    /// This host, or its watchdog.
    Host,
    /// The kernel, which counted it.
    Kernel,
    /// The kernel, because the agent's own control group had used up its memory.
    OwnLimit(OutOfMemory),
    /// Somebody else.
    Unknown,
}

/// Memory of a process as it was seen last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemorySeen {
    /// Resident bytes.
    pub(super) bytes: u64,
    /// How long ago.
    pub(super) ago: Duration,
}

/// Whether the end of a process calls for an explanation.
pub(super) fn is_unwanted_kill(status: ExitStatus, killed_by_us: bool) -> bool {
    status == SIGKILL && !killed_by_us
}

/// What is to be said beside the exit status; empty when it says all.
pub(super) fn explain(status: ExitStatus, killer: Killer, memory: Option<MemorySeen>) -> String {
    let why = match killer {
        _ if status != SIGKILL => return String::new(),
        Killer::Host => return String::new(),
        Killer::OwnLimit(OutOfMemory { used, limit }) => {
            return format!(
                ", sent by the kernel: with all that it had started it had {used} bytes of memory, and {limit} are the limit \
                 (custom_resources.memory, or --agent-memory of its host, and {BEGINS_WITH} for what it begins with)"
            );
        }
        Killer::Kernel => "sent by the kernel, because its container ran out of memory",
        Killer::Unknown => "which its host did not send: the kernel may have been out of memory",
    };
    let seen = memory.map(|MemorySeen { bytes, ago }| {
        format!("; memory last seen: {} MB ({} s before)", bytes.div_ceil(1_000_000), ago.as_secs())
    });
    format!(", {why}{}", seen.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kill_that_nobody_here_sent_is_explained() {
        let memory = Some(MemorySeen { bytes: 122_400_001, ago: Duration::from_millis(41_900) });
        assert_eq!(
            explain(SIGKILL, Killer::Unknown, memory),
            ", which its host did not send: the kernel may have been out of memory; memory last seen: 123 MB (41 s before)"
        );
        assert_eq!(
            explain(SIGKILL, Killer::Kernel, None),
            ", sent by the kernel, because its container ran out of memory"
        );
        let own = Killer::OwnLimit(OutOfMemory { used: 1_001, limit: 1_002 });
        assert!(
            explain(SIGKILL, own, memory)
                .starts_with(", sent by the kernel: with all that it had started it had 1001")
        );
        assert_eq!(explain(SIGKILL, Killer::Host, memory), "");
        for status in [ExitStatus::Code(9), ExitStatus::Code(0), ExitStatus::Signal(11)] {
            assert_eq!(explain(status, Killer::Unknown, memory), "");
        }
    }
}
