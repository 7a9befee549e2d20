//! What is known of what agents import, and which branch is due. Pure: it is given the time.
//!
//! ```text
//!  unknown ──an agent reports──▶ Imported ──a branch was tried──▶ Settled ──its branch is gone, and it is used──▶ due again
//!                                   ▲                               │
//!                                   └─────── files have changed ────┘
//! ```
//!
//! Bounded in kinds, refusals and rate: a proof costs processor time, so that the next one waits the longer the longer the last one
//! took, and whoever invents names of modules cannot make a host prove all day.

use super::{
    closure::{Imports, Unit},
    kind::Kind,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
    time::Duration,
};
use tokio::time::Instant;

/// Kinds that are remembered; the one that was not used for the longest time goes.
const MAX_KINDS: usize = 128;
/// Units that are remembered as refused.
const MAX_REFUSED: usize = 1024;
/// Trials of a kind that may come to nothing because files change meanwhile.
const MAX_IN_VAIN: u32 = 3;
/// Longest reason of a refusal, in bytes.
const MAX_REASON: usize = 2048;
/// Shortest time between two proofs, and how many times as long as what the last one took of the processor.
const EVERY: Duration = Duration::from_millis(500);
const REST: u32 = 5;

/// What is known of a kind.
#[derive(Debug, Clone)]
pub(super) struct Known {
    /// What its class imports.
    pub(super) imports: Imports,
    /// What of it is shared; none as long as nobody tried.
    pub(super) shared: Option<Shared>,
    /// What is not shared for a reason that may pass, or holds for this kind only.
    postponed: BTreeMap<String, String>,
    /// Trials that came to nothing because files changed meanwhile.
    in_vain: u32,
    modules: HashSet<String>,
    used: Instant,
    /// Its agents have been forked since its branch was lost.
    wanted: bool,
}

impl Known {
    /// Whether its class imports all of these.
    pub(super) fn imports_all(&self, modules: &[String]) -> bool {
        modules.len() <= self.modules.len() && modules.iter().all(|module| self.modules.contains(module))
    }
}

/// What agents of a kind share, and what that rests on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shared {
    /// Units, in this order.
    pub(super) units: Vec<String>,
    /// Files that were read, beyond those of the modules.
    pub(super) files: Vec<PathBuf>,
    /// Variables of the environment that were asked for.
    pub(super) reads: BTreeSet<String>,
}

/// A unit that is not shared.
#[derive(Debug, Clone)]
struct Refused {
    why: String,
    files: Vec<PathBuf>,
}

/// What a new branch should preload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wish {
    /// For whom.
    pub(super) kind: Kind,
    /// Module of the class.
    pub(super) own: String,
    /// What it imports.
    pub(super) units: Vec<Unit>,
    /// Units whose proof is known to hold.
    pub(super) proven: Vec<String>,
    /// Units that are known to fail.
    pub(super) refused: Vec<String>,
}

/// Everything that is known.
#[derive(Debug, Default)]
pub(super) struct Knowledge {
    kinds: BTreeMap<Kind, Known>,
    refused: BTreeMap<String, Refused>,
    not_before: Option<Instant>,
}

impl Knowledge {
    /// What is known of a kind; it is being used.
    pub(super) fn of(&mut self, kind: &Kind, now: Instant) -> Option<&Known> {
        let known = self.kinds.get_mut(kind)?;
        known.used = now;
        Some(known)
    }

    /// All kinds whose branch was tried, the latest used first.
    pub(super) fn settled(&self) -> Vec<(&Kind, &Known)> {
        let mut settled: Vec<_> = self.kinds.iter().filter(|(_, known)| known.shared.is_some()).collect();
        settled.sort_by_key(|(_, known)| std::cmp::Reverse(known.used));
        settled
    }

    /// An agent has reported what its class imports. The first report is believed until files change.
    pub(super) fn saw(&mut self, kind: Kind, imports: Imports, now: Instant) {
        if self.kinds.contains_key(&kind) || !imports.is_bounded() {
            return;
        }
        let oldest = self.kinds.iter().min_by_key(|(_, known)| known.used).map(|(kind, _)| kind.clone());
        if let Some(oldest) = oldest.filter(|_| self.kinds.len() >= MAX_KINDS) {
            self.kinds.remove(&oldest);
        }
        let modules = imports.modules().into_iter().map(str::to_owned).collect();
        self.kinds.insert(
            kind,
            Known { imports, shared: None, postponed: BTreeMap::new(), in_vain: 0, modules, used: now, wanted: true },
        );
    }

    /// A former life of this host knew this already.
    pub(super) fn recall(&mut self, kind: Kind, imports: Imports, shared: Shared, now: Instant) {
        self.saw(kind.clone(), imports, now);
        if let Some(known) = self.kinds.get_mut(&kind) {
            (known.shared, known.wanted) = (Some(shared), false);
        }
    }

    /// Nothing of this kind can be shared.
    pub(super) fn refuse(&mut self, kind: &Kind, why: String) {
        let Some(known) = self.kinds.get(kind) else { return };
        let refused = BTreeMap::from([(known.imports.own.clone(), why)]);
        self.tried(kind, Shared::default(), refused, BTreeMap::new());
    }

    /// Files changed while its branch was made: it is made anew, unless that happens all the time.
    pub(super) fn tried_in_vain(&mut self, kind: &Kind) {
        let Some(known) = self.kinds.get_mut(kind) else { return };
        known.in_vain += 1;
        known.wanted = true;
        if known.in_vain >= MAX_IN_VAIN {
            self.refuse(kind, "its files changed each time while it was tried".to_owned());
        }
    }

    /// Its branch is gone, and an agent of the kind has just been forked from somewhere else.
    pub(super) fn miss(&mut self, kind: &Kind) {
        if let Some(known) = self.kinds.get_mut(kind) {
            known.wanted = true;
        }
    }

    /// All branches are gone. Those that were used last are made anew.
    pub(super) fn lost(&mut self, most: usize) {
        let latest: Vec<Kind> = self.settled().into_iter().take(most).map(|(kind, _)| kind.clone()).collect();
        latest.iter().for_each(|kind| self.miss(kind));
        // And those whose first one was being made.
        self.kinds.values_mut().filter(|known| known.shared.is_none()).for_each(|known| known.wanted = true);
    }

    /// When the next branch may be begun; none while nothing is missing.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let missing = self.kinds.values().any(Known::is_missing);
        missing.then(|| self.not_before.unwrap_or(now))
    }

    /// Begins with the kind that was used last.
    pub(super) fn begin(&mut self) -> Option<Wish> {
        let missing = self.kinds.iter_mut().filter(|(_, known)| known.is_missing());
        let (kind, known) = missing.max_by_key(|(_, known)| known.used)?;
        known.wanted = false;
        let wish = Wish {
            kind: kind.clone(),
            own: known.imports.own.clone(),
            units: known.imports.units.clone(),
            proven: known.shared.as_ref().map(|shared| shared.units.clone()).unwrap_or_default(),
            refused: vec![],
        };
        let names: BTreeSet<&str> = wish.units.iter().map(|unit| unit.name.as_str()).chain(wish.imports()).collect();
        let refused = self.refused.keys().filter(|name| names.contains(name.as_str())).cloned().collect();
        Some(Wish { refused, ..wish })
    }

    /// A branch was tried: what is shared of it, what is not and why, and what is not for now.
    pub(super) fn tried(
        &mut self,
        kind: &Kind,
        shared: Shared,
        refused: BTreeMap<String, String>,
        postponed: BTreeMap<String, String>,
    ) {
        let Some(known) = self.kinds.get_mut(kind) else { return };
        for (name, why) in refused {
            // What a unit does depends on what it imports, too.
            let files = known.imports.files().cloned().collect();
            if self.refused.len() < MAX_REFUSED || self.refused.contains_key(&name) {
                self.refused.insert(name, Refused { why: cut(why), files });
            }
        }
        known.postponed = postponed.into_iter().map(|(name, why)| (name, cut(why))).collect();
        known.shared = Some(shared);
    }

    /// A proof took so much of the processor: the next one waits.
    pub(super) fn rest(&mut self, now: Instant, took: Duration) {
        self.not_before = Some(now + EVERY.max(took * REST));
    }

    /// What is not shared, and why.
    pub(super) fn refusals(&self) -> BTreeMap<String, String> {
        let postponed = self.kinds.values().flat_map(|known| known.postponed.clone());
        let refused = self.refused.iter().map(|(name, refused)| (name.clone(), refused.why.clone()));
        postponed.take(MAX_REFUSED).chain(refused).collect()
    }

    /// These files have changed: what was known of those who read them is known no more.
    pub(super) fn heed(&mut self, changed: &BTreeSet<PathBuf>) {
        let rests_on = |known: &Known| {
            let files = known.shared.iter().flat_map(|shared| &shared.files);
            known.imports.files().chain(files).any(|file| changed.contains(file))
        };
        self.kinds.retain(|_, known| !rests_on(known));
        self.refused.retain(|_, refused| !refused.files.iter().any(|file| changed.contains(file)));
    }
}

impl Known {
    fn is_missing(&self) -> bool {
        self.wanted && self.shared.as_ref().is_none_or(|shared| !shared.units.is_empty())
    }
}

fn cut(mut why: String) -> String {
    why.truncate(why.floor_char_boundary(MAX_REASON));
    why
}

impl Wish {
    fn imports(&self) -> impl Iterator<Item = &str> {
        self.units.iter().flat_map(|unit| unit.modules.iter().map(String::as_str))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zygote::closure::Place;

    fn imports(own: &str, others: &[&str]) -> Imports {
        let unit = |name: &str, place| Unit {
            name: name.to_owned(),
            place,
            modules: vec![name.to_owned()],
            files: vec![format!("/{name}.py").into()],
        };
        let others = others.iter().map(|name| unit(name, Place::Installed));
        let units = others.chain([unit(own, Place::Own)]).collect();
        Imports { own: own.to_owned(), units, reads: BTreeSet::new() }
    }

    fn shared(units: &[&str]) -> Shared {
        Shared { units: names(units), ..Shared::default() }
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_branch_is_due_when_a_kind_is_new_and_when_its_branch_is_missed() {
        let (mut known, now, kind) = (Knowledge::default(), Instant::now(), Kind::named("m.C"));
        assert_eq!(known.due(now), None);
        known.saw(kind.clone(), imports("m", &["numpy"]), now);
        assert_eq!(known.due(now), Some(now), "the first one at once");
        let wish = known.begin().expect("one is due");
        assert_eq!((wish.kind, wish.own.as_str(), wish.units.len()), (kind.clone(), "m", 2));
        assert_eq!(known.due(now), None, "it has begun");
        known.tried(&kind, shared(&["m"]), BTreeMap::new(), BTreeMap::new());
        assert_eq!(known.due(now), None);
        known.miss(&kind);
        assert_eq!(known.begin().expect("due again").proven, names(&["m"]), "and proven already");
    }

    #[test]
    fn a_kind_of_which_nothing_can_be_shared_is_tried_once() {
        let (mut known, now, kind) = (Knowledge::default(), Instant::now(), Kind::named("m.C"));
        known.saw(kind.clone(), imports("m", &[]), now);
        known.begin();
        known.refuse(&kind, "it starts threads".to_owned());
        known.miss(&kind);
        assert_eq!(known.due(now), None);
        assert_eq!(known.refusals()["m"], "it starts threads");
        known.heed(&BTreeSet::from(["/m.py".into()]));
        assert!(known.refusals().is_empty(), "until its file changes");
        assert!(known.of(&kind, now).is_none());
    }

    #[test]
    fn what_was_refused_for_one_kind_is_not_tried_for_another() {
        let (mut known, now) = (Knowledge::default(), Instant::now());
        let (one, two) = (Kind::named("m.C"), Kind::named("n.C"));
        known.saw(one.clone(), imports("m", &["bad"]), now);
        known.begin();
        let refused = BTreeMap::from([("bad".to_owned(), "it differs".to_owned())]);
        known.tried(&one, shared(&[]), refused, BTreeMap::new());
        known.saw(two, imports("n", &["bad", "good"]), now);
        assert_eq!(known.begin().expect("due").refused, names(&["bad"]));
    }

    #[test]
    fn what_may_pass_is_shown_and_holds_for_its_kind_only() {
        let (mut known, now) = (Knowledge::default(), Instant::now());
        let (one, two) = (Kind::named("m.C"), Kind::named("n.C"));
        known.saw(one.clone(), imports("m", &["slow"]), now);
        known.begin();
        let postponed = BTreeMap::from([("slow".to_owned(), "it was not proven in time".to_owned())]);
        known.tried(&one, shared(&["m"]), BTreeMap::new(), postponed);
        assert_eq!(known.refusals()["slow"], "it was not proven in time");
        known.saw(two, imports("n", &["slow"]), now);
        assert!(known.begin().expect("due").refused.is_empty());
    }

    #[test]
    fn a_kind_whose_files_change_all_the_time_is_given_up_in_the_end() {
        let (mut known, now, kind) = (Knowledge::default(), Instant::now(), Kind::named("m.C"));
        known.saw(kind.clone(), imports("m", &[]), now);
        for _ in 0..MAX_IN_VAIN {
            known.begin().expect("due");
            known.tried_in_vain(&kind);
        }
        assert_eq!(known.due(now), None);
        assert!(known.refusals()["m"].contains("changed each time"));
    }

    #[test]
    fn of_many_kinds_that_are_recalled_only_the_latest_get_their_branches_at_once() {
        let (mut known, now) = (Knowledge::default(), Instant::now());
        for n in 0..9 {
            let (kind, own) = (Kind::named(&format!("m{n}.C")), format!("m{n}"));
            known.recall(kind, imports(&own, &[]), shared(&[&own]), now + Duration::from_secs(n));
        }
        known.lost(2);
        let begun: Vec<_> = std::iter::from_fn(|| known.begin()).map(|wish| wish.own).collect();
        assert_eq!(begun, names(&["m8", "m7"]));
    }

    #[test]
    fn proofs_keep_their_distance_the_more_the_longer_they_take() {
        let (mut known, now) = (Knowledge::default(), Instant::now());
        known.saw(Kind::named("m.C"), imports("m", &[]), now);
        known.rest(now, Duration::from_secs(2));
        assert_eq!(known.due(now), Some(now + Duration::from_secs(10)));
        known.rest(now, Duration::ZERO);
        assert_eq!(known.due(now), Some(now + EVERY));
    }

    #[test]
    fn kinds_and_refusals_are_bounded_however_many_names_are_invented() {
        let (mut known, now) = (Knowledge::default(), Instant::now());
        for n in 0..2000 {
            let kind = Kind::named(&format!("m{n}.C"));
            known.saw(kind.clone(), imports(&format!("m{n}"), &[]), now + Duration::from_millis(n));
            known.refuse(&kind, "é".repeat(5000));
        }
        assert_eq!((known.kinds.len(), known.refused.len()), (MAX_KINDS, MAX_REFUSED));
        assert!(known.of(&Kind::named("m1999.C"), now).is_some(), "the latest are kept");
        assert!(known.refusals().values().all(|why| why.len() <= MAX_REASON));
        let endless = Imports { own: "m".repeat(5000), ..imports("m", &[]) };
        known.saw(Kind::named("long"), endless, now);
        assert!(known.of(&Kind::named("long"), now).is_none());
    }
}
