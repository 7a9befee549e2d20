//! A caller who wants one agent to run, or not to run, and asks until an answer says that it is so.

use crate::lives::Wish;
use engine_svc::engine::PendingPolicy;
use rand::{Rng as _, rngs::StdRng};
use rustic_proto::{
    agent::v1::{self as agent_pb, AgentLaunch, CommandRuntime, OnDisconnect, Placement, Runtime, runtime::Kind},
    launch::Launch,
};
use rustic_registry::{AgentKey, RequestId};
use std::time::Duration;

/// Longest wait for a create.
const CREATES: Duration = Duration::from_secs(6);
/// Time after which an answer that did not come is given up.
pub(crate) const GIVES_UP: u64 = 14_000;
/// Time between two tries.
const TRIES_AGAIN: u64 = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Run,
    Gone,
}

/// A call under way.
struct Asked {
    call: u64,
    at: u64,
    want: Want,
}

/// The caller.
pub(crate) struct Client {
    pub(crate) key: AgentKey,
    launch: Launch,
    wait: agent_pb::WaitMode,
    pending: PendingPolicy,
    want: Want,
    /// What was answered OK last.
    has: Option<Want>,
    asked: Option<Asked>,
    request: u32,
    next_try: u64,
    /// When the store forgot something last.
    doubted: u64,
    /// A stop was asked for and not answered: it may take effect at any time, so that it is asked for until it was.
    stopping: bool,
    /// Until then a create may still be carried out: never after its deadline, wherever it is held up.
    creating_until: u64,
    /// The last answer that was no OK.
    pub(crate) trouble: String,
}

impl Client {
    /// A caller that wants its agent to run.
    pub(crate) fn new(n: usize, keep: bool, rng: &mut StdRng) -> Self {
        let message = AgentLaunch {
            agent_spec: format!(r#"{{"id": "a{n}", "name": "a{n}"}}"#),
            guild_spec: r#"{"id": "g"}"#.to_owned(),
            on_disconnect: if keep { OnDisconnect::Keep.into() } else { OnDisconnect::Stop.into() },
            runtime: Some(Runtime { kind: Some(Kind::Command(CommandRuntime { argv: vec!["x".to_owned()] })) }),
            // Engines even out load all the time.
            placement: Some(Placement { movable: rng.random_bool(0.7), ..Placement::default() }),
            ..AgentLaunch::default()
        };
        let launch = Launch::check(Some(message.into())).expect("a launch");
        Self {
            key: launch.key.clone(),
            launch,
            wait: if rng.random() { agent_pb::WaitMode::Running } else { agent_pb::WaitMode::Accepted },
            pending: if rng.random_bool(0.7) { PendingPolicy::WaitForRoom } else { PendingPolicy::Refuse },
            want: Want::Run,
            has: None,
            asked: None,
            request: 0,
            next_try: rng.random_range(50..2_000),
            doubted: 0,
            stopping: false,
            creating_until: 0,
            trouble: String::new(),
        }
    }

    /// Changes its mind.
    pub(crate) fn change(&mut self) {
        self.want = match self.want {
            Want::Run => Want::Gone,
            Want::Gone => Want::Run,
        };
    }

    /// From now on it is glad of room later, so that everything settles.
    pub(crate) fn be_patient(&mut self) {
        self.pending = PendingPolicy::WaitForAnyHost;
    }

    /// What the store forgot, and no host can report, is asked for anew.
    pub(crate) fn forgotten(&mut self) {
        if self.has == Some(Want::Run) {
            self.has = None;
            self.request += 1;
        }
    }

    /// The store forgot its last writes: what was stopped may be there again, and what an answer says may be so no more.
    pub(crate) fn doubts(&mut self, now: u64) {
        self.doubted = now;
        if self.has == Some(Want::Gone) {
            self.has = None;
        }
    }

    /// Whether it wants the agent to run.
    pub(crate) fn wants_it(&self) -> bool {
        self.want == Want::Run
    }

    /// Whether an answer said that it has what it wants.
    pub(crate) fn is_settled(&self) -> bool {
        self.has == Some(self.want)
    }

    /// What it asks for now, under the number `call`.
    pub(crate) fn asks(&mut self, now: u64, call: u64) -> Option<(Wish, Duration)> {
        if self.asked.as_ref().is_some_and(|asked| asked.at + GIVES_UP <= now) {
            self.asked = None;
        }
        if self.asked.is_some() || self.is_settled() || now < self.next_try {
            return None;
        }
        // It does not race itself: what it wants last must be what it asked for last.
        let want = if self.stopping { Want::Gone } else { self.want };
        if want == Want::Gone && now < self.creating_until {
            return None;
        }
        self.asked = Some(Asked { call, at: now, want });
        // Until it is answered nobody knows.
        self.has = None;
        Some(match want {
            Want::Run => {
                self.creating_until = now + CREATES.as_millis() as u64;
                let request_id: RequestId = format!("{}-{}", self.key.agent, self.request).parse().expect("an id");
                let (launch, wait, pending) = (Box::new(self.launch.clone()), self.wait, self.pending);
                (Wish::Create { launch, request_id, wait, pending }, CREATES)
            }
            Want::Gone => {
                self.stopping = true;
                self.request += 1;
                (Wish::Stop { key: self.key.clone() }, CREATES)
            }
        })
    }

    /// Whether it waits for this answer.
    pub(crate) fn awaits(&self, call: u64) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.call == call)
    }

    /// Takes an answer. If it is the OK to a stop, returns when that stop was asked for.
    pub(crate) fn answered(&mut self, now: u64, call: u64, answer: Result<(), String>) -> Option<u64> {
        let asked = self.asked.take_if(|asked| asked.call == call)?;
        match answer {
            Ok(()) => {
                self.stopping = false;
                self.has = Some(asked.want).filter(|_| asked.at > self.doubted);
                if asked.want == Want::Run {
                    self.creating_until = now;
                }
                (asked.want == Want::Gone && asked.at > self.doubted).then_some(asked.at)
            }
            Err(trouble) => {
                // What failed for good needs a request of its own.
                if trouble.contains("FAILED") || trouble.contains("failed") {
                    self.request += 1;
                }
                self.trouble = trouble;
                self.next_try = now + TRIES_AGAIN;
                None
            }
        }
    }
}
