//! What is asked of the scripts that change agents.

#[cfg(test)]
mod tests;

use super::{Ask, Candidates, Text, host, life};
use crate::{
    condition::Condition,
    ids::{AgentKey, Epoch, MachineId},
    keys,
    ops::{self, IfFull, IfNamesakes, ReleaseGuard},
    placement,
    record::ExitStatus,
    resources::Resources,
};
use serde::Serialize;

/// The field of the launch's bytes, beside the agent that it belongs to.
const LAUNCH: &str = "launch";

/// What an agent is, however its record comes to be: `write_agent` in `lua/prelude.lua` stores it. What is absent the script knows
/// itself, or the record keeps.
#[derive(Serialize)]
struct Agent<'a> {
    name: &'a str,
    request_id: &'a str,
    digest: &'a str,
    demand: Text<&'a Resources>,
    on_disconnect: &'static str,
    first_start: Option<&'static str>,
    spec: &'a str,
    machine_id: Option<Text<MachineId>>,
    created: Option<Text<u64>>,
}

#[derive(Serialize)]
struct Claim<'a> {
    member: String,
    agent: Agent<'a>,
    if_full: &'static str,
    waits: Option<String>,
    if_namesakes: &'static str,
    store_life: Option<&'a str>,
    asked: Text<u64>,
    candidates: Candidates,
}

impl<'a> From<&'a ops::Claim> for Claim<'a> {
    fn from(r: &'a ops::Claim) -> Self {
        let agent = Agent {
            name: &r.name,
            request_id: r.request_id.as_str(),
            digest: &r.digest.0,
            demand: Text(&r.demand),
            on_disconnect: r.on_disconnect.as_str(),
            first_start: Some(r.first_start.as_str()),
            spec: &r.documents.spec,
            machine_id: None,
            created: None,
        };
        Self {
            member: keys::member(&r.key),
            agent,
            if_full: match r.if_full {
                IfFull::Refuse => "refuse",
                IfFull::Wait => "wait",
            },
            waits: r.waits.as_ref().map(Condition::stored),
            if_namesakes: match r.if_namesakes {
                IfNamesakes::Report => "report",
                IfNamesakes::Ignore => "ignore",
            },
            store_life: r.store_life.as_ref().and_then(life),
            asked: Text(r.asked.0),
            candidates: Candidates::from(&r.candidates),
        }
    }
}

/// For `claim.lua`.
pub(in crate::redis) fn claim(r: &ops::Claim) -> Ask {
    Ask::of(&Claim::from(r)).with(LAUNCH, &r.documents.launch)
}

#[derive(Serialize)]
struct Advance<'a> {
    member: String,
    epoch: Text<Epoch>,
    phase: &'static str,
    pid: Option<Text<u32>>,
    restarts: Text<u32>,
    condition: String,
    last_lines: String,
    exit: Option<String>,
    store_life: Option<&'a str>,
    sequence: Text<u64>,
}

impl<'a> From<&'a ops::Advance> for Advance<'a> {
    fn from(r: &'a ops::Advance) -> Self {
        Self {
            member: keys::member(&r.key),
            epoch: Text(r.epoch),
            phase: r.phase.as_str(),
            pid: r.pid.map(Text),
            restarts: Text(r.restarts),
            condition: condition(r.condition.as_ref()),
            last_lines: r.last_lines.join("\n"),
            exit: r.exit.map(exit_word),
            store_life: r.store_life.as_ref().and_then(life),
            sequence: Text(r.sequence),
        }
    }
}

/// For `advance.lua`.
pub(in crate::redis) fn advance(r: &ops::Advance) -> Ask {
    Ask::of(&Advance::from(r))
}

#[derive(Serialize)]
struct Restore<'a> {
    #[serde(flatten)]
    advance: Advance<'a>,
    host: String,
    incarnation: &'a str,
    takes: Text<&'a Resources>,
    agent: Agent<'a>,
    former_store_life: Option<&'a str>,
}

impl<'a> From<&'a ops::Restore> for Restore<'a> {
    fn from(r: &'a ops::Restore) -> Self {
        let agent = Agent {
            name: &r.name,
            request_id: r.request_id.as_str(),
            digest: &r.digest.0,
            demand: Text(&r.demand),
            on_disconnect: r.on_disconnect.as_str(),
            first_start: None,
            spec: &r.documents.spec,
            machine_id: Some(Text(r.machine_id)),
            created: Some(Text(r.created.0)),
        };
        Self {
            advance: Advance::from(&r.advance),
            host: host(&r.host),
            incarnation: r.incarnation.as_str(),
            takes: Text(&r.takes),
            agent,
            former_store_life: r.former_store_life.as_ref().and_then(life),
        }
    }
}

/// For `restore.lua`.
pub(in crate::redis) fn restore(r: &ops::Restore) -> Ask {
    Ask::of(&Restore::from(r)).with(LAUNCH, &r.documents.launch)
}

#[derive(Serialize)]
struct Remember<'a> {
    member: String,
    epoch: Text<Epoch>,
    phase: &'static str,
    restarts: Text<u32>,
    condition: String,
    last_lines: String,
    exit: Option<String>,
    exit_at: Option<Text<u64>>,
    running: Option<Text<u64>>,
    agent: Agent<'a>,
    former_store_life: Option<&'a str>,
}

impl<'a> From<&'a ops::Remember> for Remember<'a> {
    fn from(r: &'a ops::Remember) -> Self {
        let record = &r.record;
        let agent = Agent {
            name: &record.name,
            request_id: record.request_id.as_str(),
            digest: &record.digest.0,
            demand: Text(&record.demand),
            on_disconnect: record.on_disconnect.as_str(),
            first_start: Some(record.first_start.as_str()),
            spec: record.documents.as_ref().map(|documents| &*documents.spec).unwrap_or_default(),
            machine_id: Some(Text(record.machine_id)),
            created: Some(Text(record.created.0)),
        };
        Self {
            member: keys::member(&record.key),
            epoch: Text(record.epoch),
            phase: record.phase().as_str(),
            restarts: Text(record.restarts),
            condition: condition(record.condition.as_ref()),
            last_lines: record.last_lines.join("\n"),
            exit: record.last_exit.map(|exit| exit_word(exit.status)),
            exit_at: record.last_exit.map(|exit| Text(exit.at.0)),
            running: record.running.map(|at| Text(at.0)),
            agent,
            former_store_life: life(&r.former_store_life),
        }
    }
}

/// For `remember.lua`.
pub(in crate::redis) fn remember(r: &ops::Remember) -> Ask {
    let launch = r.record.documents.as_ref().map(|documents| &*documents.launch).unwrap_or_default();
    Ask::of(&Remember::from(r)).with(LAUNCH, launch)
}

fn condition(condition: Option<&Condition>) -> String {
    condition.map(Condition::stored).unwrap_or_default()
}

fn exit_word(exit: ExitStatus) -> String {
    match exit {
        ExitStatus::Code(code) => format!("code:{code}"),
        ExitStatus::Signal(signal) => format!("signal:{signal}"),
    }
}

#[derive(Serialize)]
struct Release<'a> {
    member: String,
    epoch: Text<Epoch>,
    guard: &'static str,
    store_life: Option<&'a str>,
    pending: Option<String>,
}

/// For `release.lua`: the record goes.
pub(in crate::redis) fn release(key: &AgentKey, epoch: Epoch, guard: ReleaseGuard) -> Ask {
    let (member, guard) = (keys::member(key), guard_word(guard));
    Ask::of(&Release { member, epoch: Text(epoch), guard, store_life: None, pending: None })
}

/// For `release.lua`: the agent becomes PENDING.
pub(in crate::redis) fn unassign(r: &ops::Unassign) -> Ask {
    Ask::of(&Release {
        member: keys::member(&r.key),
        epoch: Text(r.epoch),
        guard: guard_word(r.guard),
        store_life: r.store_life.as_ref().and_then(life),
        pending: Some(r.condition.stored()),
    })
}

fn guard_word(guard: ReleaseGuard) -> &'static str {
    match guard {
        ReleaseGuard::Reaped => "reaped",
        ReleaseGuard::Vouched => "vouched",
        ReleaseGuard::Failed => "failed",
        ReleaseGuard::Unaccepted => "unaccepted",
        ReleaseGuard::Unassigned => "unassigned",
        ReleaseGuard::Retired => "retired",
        ReleaseGuard::Ended => "ended",
    }
}

#[derive(Serialize)]
struct Assign {
    member: String,
    epoch: Text<Epoch>,
    candidates: Candidates,
}

/// For `assign.lua`.
pub(in crate::redis) fn assign(key: &AgentKey, epoch: Epoch, candidates: &placement::Candidates) -> Ask {
    Ask::of(&Assign { member: keys::member(key), epoch: Text(epoch), candidates: candidates.into() })
}

#[derive(Serialize)]
struct Bury {
    member: String,
}

/// For `bury.lua`.
pub(in crate::redis) fn bury(key: &AgentKey) -> Ask {
    Ask::of(&Bury { member: keys::member(key) })
}
