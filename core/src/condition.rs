//! Why an agent is in its phase: one word for programs, and a sentence for people, as a condition of Kubernetes has them.
//!
//! The words are part of the contract: a word keeps its meaning for ever. Services of several versions share one registry, so that
//! a reader may meet a word that it does not know; it passes it on.

use crate::record::Phase;
use std::{borrow::Cow, fmt};

/// Writes down each word once: meaning, name, the phases in which it is seen, and what to do.
macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $name:ident, [$($phase:ident)*], $cure:literal;)+) => {
        /// Why an agent is in its phase.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum AgentReason {
            $($(#[doc = $meaning])+ $name,)+
        }

        impl AgentReason {
            /// Every word there is.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// The word on the wire, in the registry and in logs.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// The phases in which it is seen; none: the phase is not known.
            pub const fn phases(self) -> &'static [Phase] {
                match self {
                    $(Self::$name => &[$(Phase::$phase),*],)+
                }
            }

            /// What it means, in one sentence or two.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($meaning),+),)+
                }
            }

            /// What whoever reads it can do.
            pub const fn cure(self) -> &'static str {
                match self {
                    $(Self::$name => $cure,)+
                }
            }
        }
    };
}

reasons! {
    /// No host has room for the agent.
    NoRoom, [Pending],
        "Nothing, if room comes free; else stop agents or add hosts. ListHosts shows what each host has and what its agents reserve.";
    /// The chosen host could not take the agent; another one is looked for.
    HostRefused, [Pending],
        "Nothing, if it passes; the message says what the host answered.";
    /// The agent's host has ended, or was retired; the agent moves to another one.
    HostLost, [Pending Restarting],
        "Nothing for the agent; find out why the host ended.";
    /// The agent's host gave the agent away, because it drains or ends.
    HostDrained, [Pending],
        "Nothing; the agent starts as soon as another host has room.";
    /// The agent's host gave the agent away to even out the load of hosts, as `movable` of its launch allows.
    Rebalanced, [Pending],
        "Nothing; the agent starts at once on a host with less load.";
    /// The agent's host came back without a device that the agent had; the agent moves to another one.
    DeviceLost, [Pending],
        "Nothing for the agent; see whether a GPU of the host has failed, or was taken from it.";
    /// The agent's host does not renew its lease. The agent may run on there, as its `on_disconnect` = KEEP asks for.
    HostSilent, [Starting Running Restarting Stopping],
        "See whether the host, or its way to the registry, is down. If its machine is gone for good, DrainHost with `force` moves the agent.";
    /// RestartAgent was called.
    RestartRequested, [Pending],
        "Nothing; the agent starts as soon as a host has room.";
    /// The registry lost how the agent had ended; the agent starts anew.
    RecordLost, [Pending],
        "Nothing for the agent; see to it that the registry keeps its data.";
    /// The launch cannot work on any host: its spec, class, client type or program is wrong.
    LaunchInvalid, [Restarting Failed],
        "Mend what the message names, and create the agent again.";
    /// No process could be made for the agent.
    ProcessNotCreated, [Restarting Failed],
        "The message says what the host lacks, and which limit to raise.";
    /// The agent's own initialization raised an error.
    InitializationFailed, [Restarting Failed],
        "The message has the error; the host's log has its traceback.";
    /// The process ended before the agent was ready.
    ExitedBeforeReady, [Restarting Failed],
        "Read `last_exit`, the message, and `last_lines` (view FULL) or the host's log.";
    /// The agent was not ready within its `start_timeout`.
    StartTimeout, [Restarting Failed],
        "Find out what its start waits for, or allow it more: `start_timeout` of the launch, `--start-timeout` of the host.";
    /// The agent got no turn to start within its `start_timeout`, because too many agents start on its host.
    StartQueueTimeout, [Restarting Failed],
        "Add hosts, or allow more: `start_timeout` of the launch, `--start-timeout` or `--concurrent-starts` of the host.";
    /// The process of an agent that was ready ended, and nobody had asked it to.
    ProcessExited, [Restarting Failed],
        "Read `last_exit`, the message, and `last_lines` (view FULL) or the host's log. After FAILED, RestartAgent starts the agent anew.";
    /// The agent's handling loop did not come round within `liveness_timeout`, and its process was killed.
    LivenessTimeout, [Restarting Failed],
        "The message names what was handled: mend that handler, or raise `liveness_timeout`.";
    /// The agent's directories took more on disk than `--agent-scratch` of its host allows, and its process was ended.
    ScratchExceeded, [Restarting Failed],
        "Have the agent remove what it does not need, write elsewhere, or raise `--agent-scratch`.";
    /// The agent had more processes and threads than `--agent-processes` of its host allows, and its process was ended.
    ProcessesExceeded, [Restarting Failed],
        "Have the agent end what it starts, or raise `--agent-processes`.";
    /// The memory of all agents of the host was nearly used up, and this one had the most beyond what it asked for; its process was ended.
    MemoryPressure, [Restarting Failed],
        "Ask for the memory that the agent needs (`custom_resources.memory`), give hosts more, or fewer agents.";
    /// The agent's host lost its lease, and ended the process in time.
    LeaseLost, [Restarting],
        "Nothing for the agent; find out why the host could not reach the registry.";
    /// The agent runs. Messages over which it died again and again are not handed to it any more.
    MessagesSetAside, [Running],
        "The message names them; they are in the guild's topic `dead_letter_queue`. Mend the handler, then send them again.";
    /// The agent runs, less confined than it should be: the kernel of its host lacks what the message names.
    ConfinementIncomplete, [Running],
        "Run hosts on a newer kernel, with Landlock among its security modules; `--confinement-required` has agents refused instead.";
    /// The host failed to look after the agent, which is a bug.
    HostFault, [Failed],
        "Report it, with the host's log; RestartAgent starts the agent anew.";
    /// Another version of the services wrote the agent's record, and this one cannot read it.
    RecordUnreadable, [],
        "Bring all services to the same version.";
}

impl AgentReason {
    /// The reason of this word, unless a newer version wrote it.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
    }
}

impl fmt::Display for AgentReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an agent is in its phase, in both forms. Displayed, it is the sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    reason: Cow<'static, str>,
    message: String,
}

/// What stands between the two in the registry.
const BETWEEN: &str = ": ";

impl Condition {
    /// This reason, in these words.
    pub fn new(reason: AgentReason, message: impl Into<String>) -> Self {
        Self { reason: Cow::Borrowed(reason.as_str()), message: message.into() }
    }

    /// The word for programs; a newer version may have written one that is not in [`AgentReason`].
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The sentence for people.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Both, of an agent that has one; empty: all is well.
    pub fn parts(condition: Option<&Self>) -> (&str, &str) {
        condition.map_or(("", ""), |c| (c.reason(), c.message()))
    }

    /// What is stored.
    pub fn stored(&self) -> String {
        [&*self.reason, BETWEEN, &self.message].concat()
    }

    /// Reads what is stored; nothing: all is well.
    pub fn parse(stored: &str) -> Option<Self> {
        let (reason, message) = stored.split_once(BETWEEN)?;
        Some(Self { reason: Cow::Owned(reason.to_owned()), message: message.to_owned() })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_read_again_whatever_the_sentence_holds() {
        for reason in AgentReason::ALL {
            let condition = Condition::new(*reason, "a: b: c\nd");
            assert_eq!(Condition::parse(&condition.stored()), Some(condition));
        }
        assert_eq!(Condition::parse(""), None);
    }

    #[test]
    fn a_word_of_a_newer_version_is_passed_on() {
        let newer = Condition::parse("Hibernates: it sleeps").unwrap();
        assert_eq!((newer.reason(), newer.message()), ("Hibernates", "it sleeps"));
        assert_eq!(newer.stored(), "Hibernates: it sleeps");
    }

    #[test]
    fn words_are_words() {
        for reason in AgentReason::ALL {
            let word = reason.as_str();
            assert_eq!(AgentReason::parse(word), Some(*reason));
            assert!(
                word.starts_with(|c: char| c.is_ascii_uppercase()) && word.chars().all(|c| c.is_ascii_alphabetic())
            );
        }
    }
}
