//! What has changed lately: the registry's stream of changes, read once for this engine and kept for all who follow it.
//!
//! ```text
//!                       ┌────────────── Changes ──────────────┐
//!   registry ─▶ reader ─▶ push   … │ 17 │ 18 │ 19 │ 20 │ 21   │ ─▶ the reconciler's loops: woken
//!                       │     ▲ floor        ▲ a follower     │ ─▶ WatchAgents, waits for one agent: at their own pace
//!                       └─────────────────────────────────────┘
//! ```
//!
//! As many changes are kept as the registry keeps. Who follows has a [`Cursor`], and nothing else: one that is slow finds that what it
//! has not read is gone ([`Expired`]), begins anew, and has cost nobody any memory. In another life of the store all cursors are expired.

use rustic_registry::{Event, EventId, Events, StoreLife, store::EVENTS_KEPT};
use std::{
    collections::VecDeque,
    fmt,
    str::FromStr,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::watch;

/// The changes.
pub struct Changes {
    kept: Mutex<Kept>,
    /// Grows with every change, and with every other reason to look again.
    moved: watch::Sender<u64>,
}

#[derive(Default)]
struct Kept {
    store: Option<StoreLife>,
    /// Number of the first one that is kept. Numbers are never given twice, whatever the store's life.
    first: u64,
    /// Place of the one before it.
    floor: EventId,
    entries: VecDeque<(EventId, Event)>,
}

/// How far somebody has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(u64);

/// Changes that a cursor has not read are gone, or were in another life of the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired;

/// A place in the stream, as callers get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision {
    store: StoreLife,
    id: EventId,
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.store, self.id)
    }
}

/// A text is no revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoRevision;

impl FromStr for Revision {
    type Err = NoRevision;

    fn from_str(text: &str) -> Result<Self, NoRevision> {
        let (store, id) = text.rsplit_once('/').filter(|(store, _)| !store.is_empty()).ok_or(NoRevision)?;
        Ok(Self { store: StoreLife(store.to_owned()), id: id.parse().map_err(|_| NoRevision)? })
    }
}

/// What a revision means to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resumed {
    /// What comes after it is kept.
    At(Cursor),
    /// This engine has not read as far yet.
    NotYet,
}

impl Default for Changes {
    fn default() -> Self {
        Self { kept: Mutex::default(), moved: watch::Sender::new(0) }
    }
}

impl Changes {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Held for single steps only; a panic cannot leave it half-changed.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another life of the store begins for this engine: all that was kept goes.
    pub fn begin(&self, store: Option<StoreLife>) {
        let mut kept = self.kept();
        // One number more: a cursor that had read everything is expired as well.
        let first = kept.first + kept.entries.len() as u64 + 1;
        *kept = Kept { store, first, ..Kept::default() };
        drop(kept);
        self.nudge();
    }

    /// Takes in what was read.
    pub fn push(&self, events: Events) {
        let mut kept = self.kept();
        let news = !events.entries.is_empty();
        kept.entries.extend(events.entries);
        while kept.entries.len() > EVENTS_KEPT {
            if let Some((id, _)) = kept.entries.pop_front() {
                (kept.floor, kept.first) = (id, kept.first + 1);
            }
        }
        drop(kept);
        if news {
            self.nudge();
        }
    }

    /// Wakes all who wait for a change.
    pub fn nudge(&self) {
        self.moved.send_modify(|number| *number += 1);
    }

    /// How often there was something to look at.
    pub fn moved(&self) -> u64 {
        *self.moved.borrow()
    }

    /// A receiver that is notified when there is something to look at; the first time at the next change.
    pub fn moves(&self) -> watch::Receiver<u64> {
        self.moved.subscribe()
    }

    /// The end of what was read.
    pub fn end(&self) -> Cursor {
        let kept = self.kept();
        Cursor(kept.first + kept.entries.len() as u64)
    }

    /// The beginning of what is kept.
    pub fn beginning(&self) -> Cursor {
        Cursor(self.kept().first)
    }

    /// Up to `limit` changes after a cursor, which goes on with them.
    pub fn read(&self, cursor: &mut Cursor, limit: usize) -> Result<Vec<Event>, Expired> {
        let kept = self.kept();
        let skip = cursor.0.checked_sub(kept.first).ok_or(Expired)?;
        let skip = usize::try_from(skip).map_err(|_| Expired)?;
        let read: Vec<_> = kept.entries.iter().skip(skip).take(limit).map(|(_, event)| event.clone()).collect();
        cursor.0 += read.len() as u64;
        Ok(read)
    }

    /// Where a cursor is, for callers. `None`: before anybody has come to the store.
    pub fn revision(&self, cursor: Cursor) -> Result<Option<Revision>, Expired> {
        let kept = self.kept();
        let read = cursor.0.checked_sub(kept.first).ok_or(Expired)?;
        let last = usize::try_from(read).ok().and_then(|read| read.checked_sub(1));
        let id = last.and_then(|last| kept.entries.get(last)).map_or(kept.floor, |(id, _)| *id);
        Ok(kept.store.clone().map(|store| Revision { store, id }))
    }

    /// Where to go on after a revision.
    pub fn resume(&self, Revision { store, id }: &Revision) -> Result<Resumed, Expired> {
        let kept = self.kept();
        match &kept.store {
            None => return Ok(Resumed::NotYet),
            Some(now) if now != store => return Err(Expired),
            Some(_) => {}
        }
        let read = kept.entries.partition_point(|(known, _)| known <= id);
        let is_kept = kept.entries.back().is_some_and(|(last, _)| id <= last) || *id == kept.floor;
        match is_kept {
            _ if *id < kept.floor => Err(Expired),
            true => Ok(Resumed::At(Cursor(kept.first + read as u64))),
            false => Ok(Resumed::NotYet),
        }
    }

    /// The store's life that is followed.
    #[cfg(test)]
    pub(crate) fn store(&self) -> Option<StoreLife> {
        self.kept().store.clone()
    }

    /// Place of the last change that was read.
    #[cfg(test)]
    pub(crate) fn last(&self) -> EventId {
        let kept = self.kept();
        kept.entries.back().map_or(kept.floor, |(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn store(name: &str) -> Option<StoreLife> {
        Some(StoreLife(name.to_owned()))
    }

    fn events(ids: impl IntoIterator<Item = u64>) -> Events {
        let entries: Vec<_> = ids.into_iter().map(|id| (EventId(id, 0), host(id))).collect();
        Events { last: entries.last().map_or(EventId::default(), |(id, _)| *id), entries }
    }

    fn host(id: u64) -> Event {
        Event::Host(format!("h-{id}").parse().expect("an id"))
    }

    fn changes(ids: impl IntoIterator<Item = u64>) -> Changes {
        let changes = Changes::default();
        changes.begin(store("s"));
        changes.push(events(ids));
        changes
    }

    #[test]
    fn a_follower_reads_each_change_once_and_in_order() {
        let changes = changes([5, 6]);
        let (mut cursor, mut late) = (changes.beginning(), changes.end());
        assert_eq!(changes.read(&mut cursor, 1), Ok(vec![host(5)]));
        changes.push(events([9]));
        assert_eq!(changes.read(&mut cursor, 10), Ok(vec![host(6), host(9)]));
        assert_eq!(changes.read(&mut cursor, 10), Ok(vec![]));
        assert_eq!(changes.read(&mut late, 10), Ok(vec![host(9)]));
    }

    #[test]
    fn who_is_too_slow_is_refused_and_nothing_is_kept_for_it() {
        let changes = changes([]);
        let (mut slow, kept) = (changes.end(), EVENTS_KEPT as u64);
        changes.push(events(1..=kept));
        let mut at_the_edge = slow;
        assert_eq!(changes.read(&mut at_the_edge, 1), Ok(vec![host(1)]));
        changes.push(events([kept + 1]));
        assert_eq!(changes.read(&mut slow, 1), Err(Expired));
        assert_eq!(changes.read(&mut at_the_edge, 1), Ok(vec![host(2)]));
        assert_eq!(changes.kept().entries.len(), EVENTS_KEPT);
    }

    #[test]
    fn in_another_life_of_the_store_all_begin_anew() {
        let changes = changes([5, 6]);
        let (mut first, mut last) = (changes.beginning(), changes.end());
        let revision = changes.revision(last).expect("kept").expect("there is a store");
        changes.begin(store("t"));
        for cursor in [&mut first, &mut last] {
            assert_eq!(changes.read(cursor, 1), Err(Expired));
            assert_eq!(changes.revision(*cursor), Err(Expired));
        }
        assert_eq!(changes.resume(&revision), Err(Expired));
        // The same places in it are others.
        changes.push(events([5, 6]));
        assert_eq!(changes.read(&mut last, 1), Err(Expired));
        assert_eq!(changes.resume(&revision), Err(Expired));
    }

    #[test]
    fn a_revision_leads_any_engine_to_what_comes_after_it() {
        let one = changes([5, 6, 9]);
        let mut cursor = one.beginning();
        one.read(&mut cursor, 2).expect("kept");
        let revision = one.revision(cursor).expect("kept").expect("there is a store");
        let parsed: Revision = revision.to_string().parse().expect("it is one");
        assert_eq!(parsed, revision);
        // One that has read less, and one that keeps less.
        let behind = changes([5]);
        assert_eq!(behind.resume(&parsed), Ok(Resumed::NotYet));
        behind.push(events([6, 9]));
        let Ok(Resumed::At(mut there)) = behind.resume(&parsed) else { panic!("it has read it now") };
        assert_eq!(behind.read(&mut there, 10), Ok(vec![host(9)]));
        let later = changes(7..=7 + EVENTS_KEPT as u64);
        assert_eq!(later.resume(&parsed), Err(Expired));
        assert_eq!(Changes::default().resume(&parsed), Ok(Resumed::NotYet));
    }

    #[test]
    fn what_is_no_revision_is_refused() {
        for text in ["", "/", "a", "a/", "a/b", "/1-0", "a/1-", "a/-1"] {
            assert_eq!(text.parse::<Revision>(), Err(NoRevision), "{text}");
        }
        let with_run = "0bdc4fc2.d1f0a/1764000000000-3";
        assert_eq!(with_run.parse::<Revision>().map(|revision| revision.to_string()), Ok(with_run.to_owned()));
    }

    proptest! {
        /// Whatever is read in which portions, a revision taken on the way leads to exactly the rest.
        #[test]
        fn nothing_is_lost_or_read_twice_over_a_resumption(ids in prop::collection::btree_set(1u64..500, 1..40), at in 0usize..40) {
            let ids: Vec<_> = ids.into_iter().collect();
            let at = at.min(ids.len());
            let changes = changes(ids.clone());
            let mut cursor = changes.beginning();
            changes.read(&mut cursor, at).expect("kept");
            let revision = changes.revision(cursor).expect("kept").expect("there is a store");
            let Ok(Resumed::At(mut there)) = changes.resume(&revision) else { panic!("it is kept") };
            let rest: Vec<_> = ids[at..].iter().copied().map(host).collect();
            prop_assert_eq!(changes.read(&mut there, 100), Ok(rest));
        }
    }
}
