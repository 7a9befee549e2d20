//! Reads what Redis answers. What this version did not write is an error that names the place.

use crate::{
    error::RegistryError,
    ids::{AgentKey, Epoch, Incarnation, RequestId, UnixMillis},
    keys,
    ops::{
        AdvanceOutcome, ClaimOutcome, Claimed, Event, EventId, HostsView, Page, PlaceOutcome, ReleaseOutcome,
        Remembered, Renewal,
    },
    record::{
        AgentRecord, Documents, ExitStatus, HostRecord, HostState, LastExit, OnDisconnect, Phase, SpecDigest, View,
    },
    resources::Resources,
};
use bytes::Bytes;
use deadpool_redis::redis::{FromRedisValue, RedisError, Value, from_redis_value_ref};
use std::{collections::HashMap, str::FromStr};

/// One agent in a list: member and field values.
pub(super) type Row = (String, Vec<Option<Vec<u8>>>);

const ALL: [&str; 21] = [
    "phase",
    "host",
    "incarnation",
    "epoch",
    "name",
    "request_id",
    "digest",
    "demand",
    "machine_id",
    "restarts",
    "on_disconnect",
    "pid",
    "reason",
    "exit",
    "exit_at",
    "created",
    "accepted",
    "running",
    "spec",
    "last_lines",
    "launch",
];
const SPEC: usize = 18;
const LAST_LINES: usize = 19;
const LAUNCH: usize = 20;

/// Fields of an agent's hash to read for a view, in the order [`agent`] expects.
pub(super) fn fields(view: View) -> &'static [&'static str] {
    match view {
        View::Basic => &ALL[..SPEC],
        View::Spec => &ALL[..LAUNCH],
        View::Full => &ALL,
    }
}

/// Sorts an error of the client by what the caller can do about it.
pub(super) fn error(error: RedisError) -> RegistryError {
    if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() || error.is_connection_refusal() {
        RegistryError::Unreachable(Box::new(error))
    } else {
        let code = error.code().unwrap_or_default();
        RegistryError::Refused(refusal(&format!("{code} {error}")))
    }
}

/// What Redis refuses, by what it says, and what to do about it.
const REFUSALS: [(&str, &str); 6] = [
    ("NOAUTH", "NOAUTH, the password is missing in the Redis URL"),
    // What it says to a command of many words on a connection without a password.
    ("unauthenticated", "NOAUTH, the password is missing in the Redis URL"),
    ("WRONGPASS", "WRONGPASS, the password in the Redis URL is wrong"),
    ("OOM", "OOM, Redis is full; raise its maxmemory"),
    ("READONLY", "READONLY, this Redis is a replica; the Redis URL must name the primary"),
    ("LOADING", "LOADING, Redis reads its data; it serves when it is done"),
];

fn refusal(says: &str) -> String {
    let known = REFUSALS.iter().find(|(word, _)| says.contains(word));
    known.map_or_else(|| says.to_owned(), |(_, advice)| format!("{advice} ({says})"))
}

fn unreadable(place: impl Into<String>, what: impl std::fmt::Debug) -> RegistryError {
    RegistryError::Unreadable { place: place.into(), what: format!("{what:?}") }
}

fn words(answer: &[String]) -> Vec<&str> {
    answer.iter().map(String::as_str).collect()
}

fn epoch(text: &str) -> Option<Epoch> {
    text.parse().ok().map(Epoch)
}

pub(super) fn renewal(answer: &[String]) -> Result<Renewal, RegistryError> {
    match words(answer)[..] {
        ["held", generation] => Ok(Renewal::Held { generation: generation.to_owned() }),
        ["unknown"] => Ok(Renewal::Unknown),
        ["superseded"] => Ok(Renewal::Superseded),
        _ => Err(unreadable("renew", answer)),
    }
}

pub(super) fn claim(answer: &[String]) -> Result<ClaimOutcome, RegistryError> {
    let outcome = match words(answer)[..] {
        ["claimed", host, incarnation, at, machine] => {
            claimed(host, incarnation, at, machine).map(ClaimOutcome::Claimed)
        }
        ["conflict", phase] => Phase::parse(phase).map(ClaimOutcome::Conflict),
        ["stopping"] => Some(ClaimOutcome::Stopping),
        ["full"] => Some(ClaimOutcome::NoRoom),
        ["waits"] => Some(ClaimOutcome::Waits),
        ["held"] => Some(ClaimOutcome::Held),
        _ => None,
    };
    outcome.ok_or_else(|| unreadable("claim", answer))
}

pub(super) fn place(answer: &[String]) -> Result<PlaceOutcome, RegistryError> {
    let outcome = match words(answer)[..] {
        ["claimed", host, incarnation, at, machine] => {
            claimed(host, incarnation, at, machine).map(PlaceOutcome::Placed)
        }
        ["full"] => Some(PlaceOutcome::NoRoom),
        ["changed"] => Some(PlaceOutcome::Changed),
        ["held"] => Some(PlaceOutcome::Held),
        _ => None,
    };
    outcome.ok_or_else(|| unreadable("place", answer))
}

fn claimed(host: &str, incarnation: &str, at: &str, machine: &str) -> Option<Claimed> {
    Some(Claimed {
        host: keys::parse_host(host)?,
        incarnation: incarnation.parse().ok()?,
        epoch: epoch(at)?,
        machine_id: machine.parse().ok()?,
    })
}

pub(super) fn advance(answer: &[String]) -> Result<AdvanceOutcome, RegistryError> {
    let outcome = match words(answer)[..] {
        ["done"] => Some(AdvanceOutcome::Done),
        ["gone"] => Some(AdvanceOutcome::Gone),
        ["lost"] => Some(AdvanceOutcome::StoreLost),
        ["stale", at] => epoch(at).map(AdvanceOutcome::Stale),
        ["illegal", phase] => Phase::parse(phase).map(AdvanceOutcome::Illegal),
        _ => None,
    };
    outcome.ok_or_else(|| unreadable("advance", answer))
}

pub(super) fn remember(answer: &[String]) -> Result<Remembered, RegistryError> {
    match words(answer)[..] {
        ["done"] => Ok(Remembered::Done),
        ["void"] => Ok(Remembered::Void),
        _ => Err(unreadable("remember", answer)),
    }
}

pub(super) fn release(key: &AgentKey, answer: &[String]) -> Result<ReleaseOutcome, RegistryError> {
    let outcome = match words(answer)[..] {
        ["released"] => Some(ReleaseOutcome::Released),
        ["gone"] => Some(ReleaseOutcome::Gone),
        ["lost"] => return Err(RegistryError::Lost(key.to_string())),
        ["stale", at] => epoch(at).map(ReleaseOutcome::Stale),
        ["guarded", phase] => Phase::parse(phase).map(ReleaseOutcome::Guarded),
        _ => None,
    };
    outcome.ok_or_else(|| unreadable("release", answer))
}

fn text(values: &[Option<Vec<u8>>], at: usize) -> &str {
    values.get(at).and_then(Option::as_deref).and_then(|v| std::str::from_utf8(v).ok()).unwrap_or_default()
}

fn parsed<T: FromStr>(values: &[Option<Vec<u8>>], at: usize) -> Option<T> {
    text(values, at).parse().ok()
}

fn exit(status: &str, at: Option<u64>) -> Option<LastExit> {
    let (kind, value) = status.split_once(':')?;
    let value = value.parse().ok()?;
    let status = match kind {
        "code" => ExitStatus::Code(value),
        "signal" => ExitStatus::Signal(value),
        _ => return None,
    };
    Some(LastExit { status, at: UnixMillis(at?) })
}

/// Reads one agent's fields; `None` when there is no such agent.
pub(super) fn agent(
    key: AgentKey,
    view: View,
    mut v: Vec<Option<Vec<u8>>>,
) -> Result<Option<AgentRecord>, RegistryError> {
    if v.first().is_none_or(Option::is_none) {
        return Ok(None);
    }
    let documents = match view {
        View::Basic => None,
        View::Spec | View::Full => Some(Documents {
            spec: text(&v, SPEC).to_owned(),
            launch: v.get_mut(LAUNCH).and_then(Option::take).map(Bytes::from).unwrap_or_default(),
        }),
    };
    let place = format!("agent {key}");
    let missing = |field: &str| unreadable(place.clone(), field);
    let record = AgentRecord {
        phase: Phase::parse(text(&v, 0)).ok_or_else(|| missing("phase"))?,
        host: keys::parse_host(text(&v, 1)),
        incarnation: parsed::<Incarnation>(&v, 2),
        epoch: epoch(text(&v, 3)).ok_or_else(|| missing("epoch"))?,
        name: text(&v, 4).to_owned(),
        request_id: parsed::<RequestId>(&v, 5).ok_or_else(|| missing("request_id"))?,
        digest: SpecDigest(text(&v, 6).to_owned()),
        demand: Resources::parse(text(&v, 7)),
        machine_id: parsed(&v, 8).ok_or_else(|| missing("machine_id"))?,
        restarts: parsed(&v, 9).ok_or_else(|| missing("restarts"))?,
        on_disconnect: OnDisconnect::parse(text(&v, 10)).ok_or_else(|| missing("on_disconnect"))?,
        pid: parsed::<u32>(&v, 11).filter(|pid| *pid != 0),
        reason: text(&v, 12).to_owned(),
        last_lines: text(&v, LAST_LINES).lines().map(ToOwned::to_owned).collect(),
        last_exit: exit(text(&v, 13), parsed(&v, 14)),
        created: UnixMillis(parsed(&v, 15).ok_or_else(|| missing("created"))?),
        accepted: parsed(&v, 16).map(UnixMillis),
        running: parsed(&v, 17).map(UnixMillis),
        documents,
        key,
    };
    Ok(Some(record))
}

pub(super) fn page(rows: Vec<Row>, limit: usize, view: View) -> Result<Page, RegistryError> {
    let full = rows.len() == limit;
    let mut agents = Vec::with_capacity(rows.len());
    let mut last = None;
    for (member, values) in rows {
        let key = keys::parse_member(&member).ok_or_else(|| unreadable("index of agents", &member))?;
        last = Some(key.clone());
        agents.extend(agent(key, view, values)?);
    }
    Ok(Page { agents, next: last.filter(|_| full) })
}

fn host(row: &Value) -> Option<HostRecord> {
    let (id, deadline, values): (String, f64, Vec<Option<Vec<u8>>>) = from_redis_value_ref(row).ok()?;
    Some(HostRecord {
        host: keys::parse_host(&id)?,
        deadline: UnixMillis(deadline as u64),
        incarnation: parsed(&values, 0)?,
        address: text(&values, 1).to_owned(),
        state: HostState::parse(text(&values, 2))?,
        capacity: Resources::parse(text(&values, 3)),
        used: Resources::parse(text(&values, 4)),
        labels: serde_json::from_str(text(&values, 5)).unwrap_or_default(),
        version: text(&values, 6).to_owned(),
        former_until: UnixMillis(parsed(&values, 7).unwrap_or(0)),
        cordoned: text(&values, 8) == "1",
        dns_name: text(&values, 9).to_owned(),
    })
}

pub(super) fn hosts(rows: Vec<Value>) -> Result<HostsView, RegistryError> {
    let mut rows = rows.iter();
    let mut text = || rows.next().and_then(|v| String::from_redis_value_ref(v).ok());
    let now = text().and_then(|t| t.parse().ok()).ok_or_else(|| unreadable("hosts", "no time"))?;
    let generation = text().filter(|generation| !generation.is_empty());
    let held = text().is_some_and(|held| held == "1");
    let pending = text().and_then(|t| t.parse().ok()).ok_or_else(|| unreadable("hosts", "no queue"))?;
    let mut view = HostsView { now: UnixMillis(now), generation, held, pending, hosts: vec![] };
    for row in rows {
        view.hosts.push(host(row).ok_or_else(|| unreadable("hosts", row))?);
    }
    view.hosts.sort_by(|a, b| a.host.cmp(&b.host));
    Ok(view)
}

pub(super) fn events(
    rows: Vec<(String, HashMap<String, String>)>,
    after: &EventId,
) -> Result<(Vec<Event>, EventId), RegistryError> {
    let mut last = after.clone();
    let mut events = Vec::with_capacity(rows.len());
    for (id, fields) in rows {
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        let key = keys::parse_member(field("agent")).zip(epoch(field("epoch")));
        let (key, epoch) = key.ok_or_else(|| unreadable("events", &fields))?;
        events.push(Event { key, epoch, phase: Phase::parse(field("phase")), host: keys::parse_host(field("host")) });
        last = EventId(id);
    }
    Ok((events, last))
}
