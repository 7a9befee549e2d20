//! Reads what Redis answers. What this version did not write is an error that names the place; in a list such rows are left out, or
//! listed apart.

use super::reach;
use crate::{
    UnreadableAgent,
    condition::{AgentReason, Condition},
    error::{FormTrouble, RegistryError},
    ids::{AgentKey, Epoch, HostLife, MachineId, RequestId, Stops, StoreLife, UnixMillis},
    keys,
    ops::{
        AdvanceOutcome, AgentEvent, Announced, AssignOutcome, ClaimOutcome, Claimed, Drift, Event, EventId, Events,
        HostsView, Look, Page, ReleaseOutcome, Remembered, Renewal,
    },
    record::{
        AgentRecord, Assignment, Documents, ExitStatus, FirstStart, FormerProcess, FormerState, HostRecord,
        HostState, LastExit, OnDisconnect, Phase, SpecDigest, State, View,
    },
    resources::Resources,
    unreadable::{self, RowKind},
};
use bytes::Bytes;
use deadpool_redis::redis::RedisError;
use std::{
    collections::{BTreeMap, HashMap},
    str::FromStr,
    time::Duration,
};

/// One agent in a list: member and field values.
pub(super) type Row = (String, Vec<Option<Vec<u8>>>);

const ALL: [&str; 23] = [
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
    "condition",
    "exit",
    "exit_at",
    "created",
    "accepted",
    "running",
    "first_start",
    "takes",
    "spec",
    "last_lines",
    "launch",
];
/// Most bytes quoted of a word that cannot be read.
const WORD: usize = 100;
const SPEC: usize = 20;
const LAST_LINES: usize = 21;
const LAUNCH: usize = 22;

/// Fields of an agent's hash to read for a view, in the order [`agent`] expects.
pub(super) fn fields(view: View) -> &'static [&'static str] {
    match view {
        View::Basic => &ALL[..SPEC],
        View::Full => &ALL[..LAUNCH],
        View::Launch => &ALL,
    }
}

/// Sorts an error of the client by what the caller can do about it.
pub(super) fn error(error: RedisError) -> RegistryError {
    if error.is_io_error() || error.is_connection_dropped() || error.is_timeout() || error.is_connection_refusal() {
        RegistryError::Unreachable(reach::cause(&error))
    } else if let Some(trouble) = form_trouble(&error) {
        RegistryError::Form(trouble)
    } else {
        let code = error.code().unwrap_or_default();
        RegistryError::Refused(refusal(&format!("{code} {error}")))
    }
}

/// What `lua/schema.lua` says.
fn form_trouble(error: &RedisError) -> Option<FormTrouble> {
    let says = error.detail().filter(|_| error.code() == Some("SCHEMA"))?;
    let mut words = says.split_whitespace();
    let (kind, form) = (words.next()?, words.next().unwrap_or_default().to_owned());
    Some(match kind {
        "newer" => FormTrouble::Newer(form),
        "older" => FormTrouble::Older(form),
        _ => FormTrouble::Unnumbered,
    })
}

/// What Redis refuses, by what it says, and what to do about it.
const REFUSALS: [(&str, &str); 10] = [
    ("NOAUTH", "NOAUTH, Redis wants a password; name its file by --redis-password-file"),
    // What it says to a command of many words on a connection without a password.
    ("unauthenticated", "NOAUTH, Redis wants a password; name its file by --redis-password-file"),
    (
        "WRONGPASS",
        "WRONGPASS, Redis knows no such user with this password; see --redis-username and --redis-password-file",
    ),
    // The client's own words for the same.
    (
        "AuthenticationFailed",
        "WRONGPASS, Redis knows no such user with this password; see --redis-username and --redis-password-file",
    ),
    ("NOPERM", "NOPERM, the user of Redis may not do this; docs/redis.md says what it needs"),
    // The same within a script.
    (
        "can't run this command",
        "NOPERM, the user of Redis may not run a command of a script; docs/redis.md says what it needs",
    ),
    (
        "can't access at least one",
        "NOPERM, the user of Redis may not use these keys; docs/redis.md says what it needs",
    ),
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

pub(super) fn announced(store: String, numbers: &[&str; 4]) -> Result<Announced, RegistryError> {
    let [life, returned, stops, epoch] = numbers.map(|text| text.parse::<u64>().ok());
    let announced = || {
        Some(Announced {
            store_life: StoreLife(store),
            life: HostLife(life?),
            returned: u32::try_from(returned?).ok()?,
            stops: Stops(stops?),
            highest_epoch: Epoch(epoch?),
        })
    };
    announced().ok_or_else(|| unreadable("announce", numbers))
}

pub(super) fn renewal(answer: &[Option<String>]) -> Result<Renewal, RegistryError> {
    let words: Vec<_> = answer.iter().map(|word| word.as_deref().unwrap_or_default()).collect();
    let outcome = match words[..] {
        ["held", cordoned, stops, highest] => stops
            .parse()
            .ok()
            .map(Stops)
            .zip(epoch(highest))
            .map(|(stops, highest_epoch)| Renewal::Held { cordoned: cordoned == "1", stops, highest_epoch }),
        ["lost"] => Some(Renewal::StoreLost),
        ["retired"] => Some(Renewal::Retired),
        ["unknown"] => Some(Renewal::Unknown),
        ["superseded"] => Some(Renewal::Superseded),
        _ => None,
    };
    outcome.ok_or_else(|| unreadable("renew", answer))
}

pub(super) fn buried(key: &AgentKey, answer: &[String]) -> Result<bool, RegistryError> {
    match words(answer)[..] {
        ["done"] => Ok(true),
        ["known"] => Ok(false),
        ["held"] => Err(RegistryError::Lost(key.to_string())),
        _ => Err(unreadable("bury", answer)),
    }
}

pub(super) fn claim(answer: &[String]) -> Result<ClaimOutcome, RegistryError> {
    let outcome = match words(answer)[..] {
        ["claimed", host, incarnation, at, machine, takes] => {
            claimed(host, incarnation, at, machine, takes).map(ClaimOutcome::Claimed)
        }
        ["conflict", phase] => Phase::parse(phase).map(ClaimOutcome::Conflict),
        ["stopping"] => Some(ClaimOutcome::Stopping),
        ["full"] => Some(ClaimOutcome::NoRoom),
        ["crowded"] => Some(ClaimOutcome::NoMachineId),
        ["namesakes", ref others @ ..] => others
            .iter()
            .map(|other| keys::parse_organization(other))
            .collect::<Option<_>>()
            .map(ClaimOutcome::Namesakes),
        ["waits"] => Some(ClaimOutcome::Waits),
        ["held"] => Some(ClaimOutcome::Held),
        ["late", stops] => stops.parse().ok().map(|stops| ClaimOutcome::Late(Stops(stops))),
        _ => None,
    };
    outcome.ok_or_else(|| unreadable("claim", answer))
}

pub(super) fn assigned(answer: &[String]) -> Result<AssignOutcome, RegistryError> {
    let outcome = match words(answer)[..] {
        ["claimed", host, incarnation, at, machine, takes] => {
            claimed(host, incarnation, at, machine, takes).map(AssignOutcome::Assigned)
        }
        ["full"] => Some(AssignOutcome::NoRoom),
        ["changed"] => Some(AssignOutcome::Changed),
        ["held"] => Some(AssignOutcome::Held),
        _ => None,
    };
    outcome.ok_or_else(|| unreadable("place", answer))
}

/// What was reserved and what is claimed, unless they were the same.
pub(super) fn drift(answer: &[String]) -> Option<Drift> {
    match words(answer)[..] {
        [reserved, claimed] => {
            Some(Drift { reserved: Resources::parse(reserved), claimed: Resources::parse(claimed) })
        }
        _ => None,
    }
}

fn claimed(host: &str, incarnation: &str, at: &str, machine: &str, takes: &str) -> Option<Claimed> {
    Some(Claimed {
        host: keys::parse_host(host)?,
        incarnation: incarnation.parse().ok()?,
        epoch: epoch(at)?,
        machine_id: MachineId::new(machine.parse().ok()?)?,
        takes: Resources::parse(takes),
    })
}

pub(super) fn advance(answer: &[String]) -> Result<AdvanceOutcome, RegistryError> {
    let outcome = match words(answer)[..] {
        ["done"] => Some(AdvanceOutcome::Done),
        ["gone"] => Some(AdvanceOutcome::Gone),
        ["lost"] => Some(AdvanceOutcome::StoreLost),
        ["retired"] => Some(AdvanceOutcome::Retired),
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

/// The assignment that an agent's fields hold.
fn assignment(v: &[Option<Vec<u8>>]) -> Option<Assignment> {
    Some(Assignment {
        host: keys::parse_host(text(v, 1))?,
        incarnation: parsed(v, 2)?,
        takes: Resources::parse(text(v, 19)),
        accepted: parsed(v, 16).map(UnixMillis),
        pid: parsed::<u32>(v, 11).filter(|pid| *pid != 0),
    })
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
        View::Full | View::Launch => Some(Documents {
            spec: text(&v, SPEC).to_owned(),
            launch: v.get_mut(LAUNCH).and_then(Option::take).map(Bytes::from).unwrap_or_default(),
        }),
    };
    let place = format!("agent {key}");
    let missing = |field: &'static str| {
        let at = ALL.iter().position(|known| *known == field).unwrap_or_default();
        let word = text(&v, at);
        let what = format!("{field} {:?}", &word[..word.floor_char_boundary(WORD)]);
        RegistryError::Unreadable { place: place.clone(), what }
    };
    let phase = Phase::parse(text(&v, 0)).ok_or_else(|| missing("phase"))?;
    let record = AgentRecord {
        state: State::of(phase, assignment(&v)).ok_or_else(|| missing("host"))?,
        epoch: epoch(text(&v, 3)).ok_or_else(|| missing("epoch"))?,
        name: text(&v, 4).to_owned(),
        request_id: parsed::<RequestId>(&v, 5).ok_or_else(|| missing("request_id"))?,
        digest: SpecDigest(text(&v, 6).to_owned()),
        demand: Resources::parse(text(&v, 7)),
        machine_id: parsed(&v, 8).and_then(MachineId::new).ok_or_else(|| missing("machine_id"))?,
        restarts: parsed(&v, 9).ok_or_else(|| missing("restarts"))?,
        on_disconnect: OnDisconnect::parse(text(&v, 10)).ok_or_else(|| missing("on_disconnect"))?,
        condition: Condition::parse(text(&v, 12)),
        last_lines: text(&v, LAST_LINES).lines().map(ToOwned::to_owned).collect(),
        last_exit: exit(text(&v, 13), parsed(&v, 14)),
        created: UnixMillis(parsed(&v, 15).ok_or_else(|| missing("created"))?),
        running: parsed(&v, 17).map(UnixMillis),
        // A record that a host reported does not say.
        first_start: FirstStart::parse(text(&v, 18)).unwrap_or(FirstStart::FollowsPolicy),
        documents,
        key,
    };
    Ok(Some(record))
}

/// A page of an index, and the last name looked at, whether or not it can be read.
pub(super) fn page(rows: Vec<Row>, limit: usize, view: View) -> (Page, Option<String>) {
    let full = rows.len() == limit;
    let end = rows.last().map(|(member, _)| member.clone()).filter(|_| full);
    let mut page = Page { agents: Vec::with_capacity(rows.len()), unreadable: vec![], next: None, settled: None };
    for (member, values) in rows {
        let Some(key) = keys::parse_member(&member) else {
            unreadable::skip(RowKind::Agent, &unreadable("index of agents", &member));
            continue;
        };
        page.next = Some(key.clone());
        match agent(key.clone(), view, values) {
            Ok(record) => page.agents.extend(record),
            Err(error) => {
                unreadable::skip(RowKind::Agent, &error);
                page.unreadable.push(UnreadableAgent { key, what: what_of(error) });
            }
        }
    }
    page.next = page.next.filter(|_| full);
    (page, end)
}

fn what_of(error: RegistryError) -> String {
    match error {
        RegistryError::Unreadable { what, .. } => what,
        other => other.to_string(),
    }
}

/// A host's name, its lease and its hash.
type HostRow = (String, String, Vec<Option<Vec<u8>>>);

fn host((id, lease, values): &HostRow) -> Option<HostRecord> {
    let millis = |at| parsed(values, at).map(Duration::from_millis);
    let (life, renewals) = parse_lease(lease)?;
    Some(HostRecord {
        host: keys::parse_host(id)?,
        incarnation: parsed(values, 0)?,
        address: text(values, 1).to_owned(),
        state: HostState::parse(text(values, 2))?,
        capacity: Resources::parse(text(values, 3)),
        used: Resources::parse(text(values, 4)),
        labels: serde_json::from_str(text(values, 5)).unwrap_or_default(),
        version: text(values, 6).to_owned(),
        cordoned: text(values, 7) == "1",
        dns_name: text(values, 8).to_owned(),
        life,
        renewals,
        lasts: millis(9)?,
        ttl: millis(10)?,
        renewed: UnixMillis(parsed(values, 11)?),
    })
}

fn former(process: &str, text: &str) -> Option<FormerProcess> {
    let (host, incarnation) = process.split_once('|')?;
    let mut words = text.split('|');
    let state = words.next()?;
    let mut number = || words.next()?.parse().ok();
    Some(FormerProcess {
        host: keys::parse_host(host)?,
        incarnation: incarnation.parse().ok()?,
        state: FormerState::parse(state)?,
        lasts: Duration::from_millis(number()?),
        renewal: (HostLife(number()?), number()?),
    })
}

pub(super) fn hosts(
    store: Vec<String>,
    hosts: Vec<HostRow>,
    formers: BTreeMap<String, String>,
) -> Result<HostsView, RegistryError> {
    let number = |at: usize| store.get(at).and_then(|text| text.parse().ok());
    let head = || Some((number(0)?, number(3)?, number(4)?, number(5)?));
    let (now, pending, stops, epoch) = head().ok_or_else(|| unreadable("hosts", &store))?;
    let life = store.get(1).filter(|life| !life.is_empty()).cloned().map(StoreLife);
    let held = store.get(2).is_some_and(|held| held == "1");
    let mut view = HostsView {
        now: UnixMillis(now),
        store_life: life,
        held,
        pending,
        stops: Stops(stops),
        highest_epoch: Epoch(epoch),
        ..HostsView::default()
    };
    for row in &hosts {
        match host(row) {
            Some(host) => view.hosts.push(host),
            None => unreadable::skip(RowKind::Host, &unreadable("hosts", row)),
        }
    }
    for (process, text) in &formers {
        match former(process, text) {
            Some(former) => view.former.push(former),
            None => unreadable::skip(RowKind::Host, &unreadable("former processes", (process, text))),
        }
    }
    view.hosts.sort_by(|a, b| a.host.cmp(&b.host));
    view.former.sort_by(|a, b| (&a.host, &a.incarnation).cmp(&(&b.host, &b.incarnation)));
    Ok(view)
}

/// The field of the leases that names the store's life: no host's name has a colon there.
const STORE: &str = ":store";

/// A lease and its renewals, `life renewals`.
fn parse_lease(text: &str) -> Option<(HostLife, u64)> {
    let (life, renewals) = text.split_once(' ')?;
    Some((HostLife(life.parse().ok()?), renewals.parse().ok()?))
}

/// The leases, as they stand beside the name of the store's life.
pub(super) fn look(fields: HashMap<String, String>) -> Result<Look, RegistryError> {
    let mut look = Look::default();
    for (name, text) in fields {
        if name == STORE {
            look.store_life = Some(StoreLife(text));
            continue;
        }
        let lease = || Some((keys::parse_host(&name)?, parse_lease(&text)?));
        match lease() {
            Some((host, lease)) => drop(look.leases.insert(host, lease)),
            None => unreadable::skip(RowKind::Host, &unreadable("leases", (&name, &text))),
        }
    }
    Ok(look)
}

/// What XREAD answers for one stream: its name, and of each entry the id and the fields.
pub(super) type Streams = Option<Vec<(String, Vec<(String, HashMap<String, String>)>)>>;

/// The changes that can be read, and the last one looked at.
pub(super) fn events(streams: Streams, after: EventId) -> Events {
    let mut events = Events { entries: vec![], last: after };
    for (id, fields) in streams.into_iter().flatten().flat_map(|(_name, entries)| entries) {
        let Ok(id) = id.parse() else {
            unreadable::skip(RowKind::Event, &unreadable("events", &id));
            continue;
        };
        match event(&fields) {
            Some(event) => events.entries.push((id, event)),
            None => unreadable::skip(RowKind::Event, &unreadable("events", &fields)),
        }
        events.last = id;
    }
    events
}

fn event(fields: &HashMap<String, String>) -> Option<Event> {
    let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
    if fields.contains_key("store") {
        return Some(Event::Store);
    }
    if !fields.contains_key("agent") {
        return keys::parse_host(fields.get("host")?).map(Event::Host);
    }
    let phase = match field("phase") {
        "" => None,
        // One that this version does not know is not the end of the agent.
        word => Some(Phase::parse(word)?),
    };
    let (key, epoch) = (keys::parse_member(field("agent"))?, epoch(field("epoch"))?);
    let (host, reason) = (keys::parse_host(field("host")), AgentReason::parse(field("reason")));
    Some(Event::Agent(AgentEvent { key, epoch, phase, host, reason }))
}
