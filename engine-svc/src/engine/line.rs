//! Places for those that wait, first come, first served.
//!
//! Agents with the same demand stand in one line, and the registry hands out the oldest of each (`lua/line.lua`). A pass gives
//! them places in the order in which they were created, whatever their line. One that finds no room answers for all behind it,
//! so that a pass takes as long as there are demands, however many wait; and if there are more demands than one reading has, the
//! next pass begins where this one ended.

use super::{
    Engine,
    reconcile::{AT_ONCE, PAGE},
};
use crate::error::EngineError;
use futures_util::{TryStreamExt as _, stream};
use rustic_registry::{AgentRecord, AssignOutcome, Claimed, HostId, LINES, Queue, View};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError, atomic::Ordering},
};
use tracing::info;

/// Readings in one pass, each of a page: as long as agents find places.
const READINGS: usize = 10;

impl Engine {
    /// Gives a place to every agent that waits, as far as there is room.
    pub(super) async fn place_waiting(&self) -> Result<(), EngineError> {
        let skip = self.lines_seen.load(Ordering::Relaxed);
        let full = Mutex::new(BTreeSet::new());
        for _ in 0..READINGS {
            let mut waiting = self.registry.oldest(Queue::Lines, skip, PAGE, View::Basic).await?;
            let lines: BTreeSet<_> = waiting.iter().map(|record| record.demand.to_string()).collect();
            let seen_to_the_end = if lines.len() == LINES { skip + LINES } else { 0 };
            self.lines_seen.store(seen_to_the_end, Ordering::Relaxed);
            waiting.retain(|record| !lock(&full).contains(&line_of(record)));
            if waiting.is_empty() {
                break;
            }
            self.place_each(waiting, &full).await?;
        }
        Ok(())
    }

    /// Places are given one after the other; whoever has one starts while the next ones are looked for.
    async fn place_each(&self, waiting: Vec<AgentRecord>, full: &Mutex<BTreeSet<Line>>) -> Result<(), EngineError> {
        let places = stream::iter(waiting.into_iter().map(Ok::<_, EngineError>)).and_then(async |record| {
            let line = line_of(&record);
            if lock(full).contains(&line) {
                return Ok((None, record));
            }
            let found = self.find_room(&record, &BTreeSet::new()).await;
            match self.troubles.own("place", &record.key, found)? {
                Some(Found::Claimed(claimed)) => Ok((Some(claimed), record)),
                Some(Found::NoRoom) => {
                    lock(full).insert(line);
                    Ok((None, record))
                }
                Some(Found::Changed) | None => Ok((None, record)),
            }
        });
        places
            .try_for_each_concurrent(AT_ONCE, async |(claimed, record)| match claimed {
                Some(claimed) => {
                    let started = self.start_on(&record, claimed).await;
                    self.troubles.own("start", &record.key, started).map(|_| ())
                }
                None => Ok(()),
            })
            .await
    }

    /// Claims room for an agent that waits, on none of the hosts in `not_on`. `None`: there is none, or it does not wait any more.
    pub(super) async fn assign(
        &self,
        record: &AgentRecord,
        not_on: &BTreeSet<HostId>,
    ) -> Result<Option<Claimed>, EngineError> {
        match self.find_room(record, not_on).await? {
            Found::Claimed(claimed) => Ok(Some(claimed)),
            Found::NoRoom | Found::Changed => Ok(None),
        }
    }

    async fn find_room(&self, record: &AgentRecord, not_on: &BTreeSet<HostId>) -> Result<Found, EngineError> {
        // It waits rather than go from one exhausted host to the next.
        let offer = self.fleet.offer_willing(&record.demand, not_on);
        if offer.candidates.is_empty() {
            return Ok(Found::NoRoom);
        }
        match self.registry.assign(&record.key, record.epoch, &offer.candidates).await? {
            AssignOutcome::Assigned(claimed) => {
                let (host, epoch) = (&claimed.host, claimed.epoch);
                offer.taken(epoch, host, &claimed.takes);
                self.fleet.saw(epoch);
                info!(agent = %record.key, %host, %epoch, "assigned");
                Ok(Found::Claimed(claimed))
            }
            AssignOutcome::NoRoom | AssignOutcome::Held => Ok(Found::NoRoom),
            AssignOutcome::Changed => Ok(Found::Changed),
        }
    }
}

/// What came of looking for room.
enum Found {
    Claimed(Claimed),
    NoRoom,
    /// The agent does not wait any more.
    Changed,
}

/// What agents have in common of which one speaks for all: the demand, and whether they let those before them go first.
type Line = (String, bool);

fn line_of(record: &AgentRecord) -> Line {
    (record.demand.to_string(), record.running.is_some())
}

/// Held for one look, or one insertion; a panic cannot leave it half-changed.
fn lock<T>(full: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    full.lock().unwrap_or_else(PoisonError::into_inner)
}
