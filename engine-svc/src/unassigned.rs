//! Copies of the agents that no host runs: those that wait for room, and those that FAILED. When the registry is lost, hosts
//! report what they run; only an engine can restore these. Pure: it is given the registry's events and records.

use crate::changes::Cursor;
use rustic_registry::{AgentKey, AgentRecord, Epoch, Event, Phase, StoreLife};
use std::collections::BTreeMap;

/// Most memory that copies take, in bytes.
const MOST: usize = 64 << 20;
/// What a copy takes beside its texts, roughly.
const EACH: usize = 1 << 10;

/// Whether there is room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// It is kept.
    Yes,
    /// There are too many already.
    NoRoom,
}

/// The copies, and how far the registry's changes were followed for them.
#[derive(Debug, Default)]
pub struct Unassigned {
    /// The store's life that they are of, and how far its changes were followed; `None` before the first look.
    pub(crate) of: Option<(StoreLife, Cursor)>,
    copies: BTreeMap<AgentKey, AgentRecord>,
    size: usize,
}

impl Unassigned {
    /// None yet, of a store whose changes are followed from here.
    pub fn of(store: StoreLife, from: Cursor) -> Self {
        Self { of: Some((store, from)), ..Self::default() }
    }

    /// Takes in what happened, in order: forgets agents that went on. Returns those to read.
    pub fn follow(&mut self, events: impl IntoIterator<Item = Event>) -> Vec<AgentKey> {
        let of_agents = events.into_iter().filter_map(|event| match event {
            Event::Agent(agent) => Some((agent.key, (agent.phase, agent.epoch))),
            Event::Host(_) | Event::Store => None,
        });
        let latest: BTreeMap<_, _> = of_agents.collect();
        let mut to_read = vec![];
        for (key, (phase, epoch)) in latest {
            if !phase.is_some_and(is_unassigned) {
                // A store that was lost may show an older claim before it is known to be lost.
                if self.epoch(&key).is_some_and(|known| known <= epoch) {
                    self.forget(&key);
                }
            } else if self.epoch(&key) != Some(epoch) {
                to_read.push(key);
            }
        }
        to_read
    }

    /// Keeps a copy, read with all its texts. One that a host has by now is not kept.
    pub fn keep(&mut self, record: AgentRecord) -> Kept {
        self.forget(&record.key);
        if !is_unassigned(record.phase()) {
            return Kept::Yes;
        }
        let size = size(&record);
        if self.size + size > MOST {
            return Kept::NoRoom;
        }
        self.size += size;
        self.copies.insert(record.key.clone(), record);
        Kept::Yes
    }

    /// All copies.
    pub fn copies(&self) -> impl Iterator<Item = &AgentRecord> {
        self.copies.values()
    }

    fn epoch(&self, key: &AgentKey) -> Option<Epoch> {
        self.copies.get(key).map(|copy| copy.epoch)
    }

    fn forget(&mut self, key: &AgentKey) {
        if let Some(copy) = self.copies.remove(key) {
            self.size -= size(&copy);
        }
    }
}

/// Whether no host has an agent of this phase.
pub(crate) fn is_unassigned(phase: Phase) -> bool {
    matches!(phase, Phase::Pending | Phase::Failed)
}

fn size(record: &AgentRecord) -> usize {
    let texts = record.documents.as_ref().map_or(0, |d| d.spec.len() + d.launch.len());
    EACH + texts + record.last_lines.iter().map(String::len).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustic_registry::{
        AgentEvent, Assignment, Documents, FirstStart, OnDisconnect, Resources, SpecDigest, State, UnixMillis,
    };

    fn key(agent: &str) -> AgentKey {
        AgentKey::parse("default", "g", agent).expect("an id")
    }

    fn event(agent: &str, phase: Option<Phase>, epoch: u64) -> Event {
        Event::Agent(AgentEvent { key: key(agent), phase, epoch: Epoch(epoch), host: None, reason: None })
    }

    fn record(agent: &str, phase: Phase, epoch: u64, spec: usize) -> AgentRecord {
        let place =
            || Assignment::claimed("h-0".parse().expect("an id"), "i".parse().expect("an id"), Resources::one_slot());
        let assignment = phase.holds_room().then(place);
        AgentRecord {
            key: key(agent),
            name: agent.to_owned(),
            state: State::of(phase, assignment).expect("it has a place"),
            epoch: Epoch(epoch),
            request_id: "r".parse().expect("an id"),
            digest: SpecDigest("d".to_owned()),
            demand: Resources::one_slot(),
            machine_id: rustic_registry::MachineId::FIRST,
            restarts: 0,
            on_disconnect: OnDisconnect::Stop,
            condition: None,
            last_lines: vec![],
            last_exit: None,
            created: UnixMillis(1),
            running: None,
            first_start: FirstStart::MustSucceed,
            documents: Some(Documents { spec: " ".repeat(spec), launch: vec![].into() }),
        }
    }

    #[test]
    fn the_latest_event_of_an_agent_decides_and_what_is_known_is_not_read_again() {
        let mut unassigned = Unassigned::default();
        let placed = [event("a", Some(Phase::Pending), 1), event("a", Some(Phase::Starting), 2)];
        assert_eq!(unassigned.follow(placed), []);
        assert_eq!(unassigned.follow([event("a", Some(Phase::Failed), 2)]), [key("a")]);
        assert_eq!(unassigned.keep(record("a", Phase::Failed, 2, 0)), Kept::Yes);
        assert_eq!(unassigned.follow([event("a", Some(Phase::Failed), 2)]), []);
        assert_eq!(unassigned.follow([event("a", Some(Phase::Pending), 3)]), [key("a")], "it was created again");
        assert_eq!(unassigned.copies().count(), 1, "until it was read the older copy is better than none");
        assert_eq!(unassigned.follow([event("a", None, 3)]), []);
        assert_eq!(unassigned.copies().count(), 0, "it was stopped");
    }

    #[test]
    fn what_a_host_has_by_now_is_not_kept() {
        let mut unassigned = Unassigned::default();
        unassigned.keep(record("a", Phase::Pending, 1, 0));
        unassigned.keep(record("a", Phase::Starting, 2, 0));
        assert_eq!((unassigned.copies().count(), unassigned.size), (0, 0));
    }

    #[test]
    fn copies_are_bounded_by_what_they_take() {
        let mut unassigned = Unassigned::default();
        let half = MOST / 2 - EACH;
        assert_eq!(unassigned.keep(record("a", Phase::Pending, 1, half)), Kept::Yes);
        assert_eq!(unassigned.keep(record("b", Phase::Pending, 2, half)), Kept::Yes);
        assert_eq!(unassigned.keep(record("c", Phase::Pending, 3, 0)), Kept::NoRoom);
        unassigned.follow([event("a", None, 1)]);
        assert_eq!(unassigned.keep(record("c", Phase::Pending, 3, 0)), Kept::Yes);
    }
}
