//! The zygotes of a profile: the base, and the branches that have imported more.
//!
//! ```text
//!  base ─┬─ branch {numpy} ─┬─ branch {numpy, a}
//!        │                  └─ branch {numpy, b}
//!        └─ branch {c}
//! ```
//!
//! An agent is forked from the branch that has the most of what its class imports, and nothing else; and only if everything that
//! these modules asked the environment for is the same for the agent. A branch that ends leaves those that grew from it.

use super::{
    known::{Known, Shared, Wish},
    process::Live,
    wire::Hello,
};
use futures_util::future::{BoxFuture, FutureExt as _, pending, select_all};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::SystemTime,
};
use tokio::time::Instant;

/// What a zygote has imported.
#[derive(Debug, Clone, Default)]
pub(super) struct Has {
    /// Packages, and modules of classes.
    pub(super) units: Vec<String>,
    /// Modules that its children find loaded, beyond those of the base.
    pub(super) modules: Vec<String>,
    /// Where all that came from.
    files: Vec<PathBuf>,
    /// Variables of the environment that it asked for.
    reads: BTreeSet<String>,
}

impl Has {
    /// What a base has: its modules are there for everybody.
    pub(super) fn base(hello: &Hello) -> Self {
        Self { modules: vec![], ..Self::default().and(hello) }
    }

    /// What a branch has that grew from this.
    pub(super) fn and(&self, hello: &Hello) -> Self {
        let with = |own: &[String], new: &[String]| own.iter().chain(new).cloned().collect();
        Self {
            units: with(&self.units, &hello.shared),
            modules: with(&self.modules, &hello.modules),
            files: self.files.iter().chain(&hello.files).cloned().collect(),
            reads: self.reads.union(&hello.reads).cloned().collect(),
        }
    }

    /// The same, resting on what was known before of what it has.
    pub(super) fn resting_on(mut self, shared: &Shared) -> Self {
        self.files.extend(shared.files.iter().cloned());
        self.reads.extend(shared.reads.iter().cloned());
        self
    }

    /// What agents of a class share that are forked from it.
    pub(super) fn as_shared(&self) -> Shared {
        Shared { units: self.units.clone(), files: self.files.clone(), reads: self.reads.clone() }
    }

    /// Files that it came from.
    pub(super) fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// A variable that decides what its modules are, and is not the same for an agent.
    pub(super) fn reads_one_of<'a>(&self, differing: &[&'a str]) -> Option<&'a str> {
        differing.iter().find(|name| self.reads.contains(**name)).copied()
    }

    /// A file of these that it came from.
    pub(super) fn rests_on(&self, changed: &BTreeSet<PathBuf>) -> Option<&PathBuf> {
        self.files.iter().find(|file| changed.contains(*file))
    }

    /// Whether all of these are among its units.
    pub(super) fn has_all(&self, units: &[String]) -> bool {
        units.iter().all(|unit| self.units.contains(unit))
    }
}

/// Which zygote of the family: the base, or a branch by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Member {
    Base,
    Branch(u64),
}

/// A branch.
pub(super) struct Branch {
    pub(super) number: u64,
    pub(super) live: Live,
    pub(super) has: Has,
    /// Memory of its own, in bytes.
    pub(super) memory: u64,
    pub(super) used: Instant,
}

/// A branch that is being made: what its ancestor has, for whom, and the wait for its hello.
pub(super) struct Building {
    pub(super) has: Has,
    pub(super) wish: Wish,
    pub(super) began: (Instant, SystemTime),
    pub(super) hello: BoxFuture<'static, Result<(Live, Hello), String>>,
}

/// All zygotes of now.
pub(super) struct Family {
    pub(super) base: Live,
    pub(super) base_has: Has,
    pub(super) branches: Vec<Branch>,
    pub(super) building: Option<Building>,
    numbers: u64,
}

impl Family {
    /// A family of a base alone.
    pub(super) fn new(base: Live, hello: &Hello) -> Self {
        Self { base, base_has: Has::base(hello), branches: vec![], building: None, numbers: 0 }
    }

    /// A member to fork from, now; the base in the place of a branch that is gone.
    pub(super) fn use_member(&mut self, member: Member, now: Instant) -> (&mut Live, &Has) {
        let number = match member {
            Member::Base => None,
            Member::Branch(number) => Some(number),
        };
        match self.branches.iter_mut().find(|branch| Some(branch.number) == number) {
            Some(branch) => {
                branch.used = now;
                (&mut branch.live, &branch.has)
            }
            None => (&mut self.base, &self.base_has),
        }
    }

    /// The zygote that has the most of what a class imports and nothing else, for an agent that differs in these variables
    /// from the zygotes. The base if nothing is known of the class.
    pub(super) fn best(&self, known: Option<&Known>, differing: &[&str]) -> Member {
        let Some(known) = known else { return Member::Base };
        let fits = |has: &Has| has.reads_one_of(differing).is_none() && known.imports_all(&has.modules);
        let best =
            self.branches.iter().filter(|branch| fits(&branch.has)).max_by_key(|branch| branch.has.modules.len());
        best.map_or(Member::Base, |branch| Member::Branch(branch.number))
    }

    /// Whether some zygote has all that agents of a kind share, and nothing else.
    pub(super) fn has_branch_of(&self, known: &Known) -> bool {
        let Some(shared) = &known.shared else { return false };
        let fits = |has: &Has| has.has_all(&shared.units) && known.imports_all(&has.modules);
        fits(&self.base_has) || self.branches.iter().any(|branch| fits(&branch.has))
    }

    /// Takes a branch in, and gives up the least used ones if there are too many now, or they use too much.
    pub(super) fn adopt(&mut self, live: Live, has: Has, memory: u64, most: usize, most_memory: u64) {
        self.numbers += 1;
        self.branches.push(Branch { number: self.numbers, live, has, memory, used: Instant::now() });
        let used = |branches: &[Branch]| branches.iter().map(|branch| branch.memory).sum::<u64>();
        while self.branches.len() > most.max(1) || (self.branches.len() > 1 && used(&self.branches) > most_memory) {
            let oldest =
                self.branches.iter().enumerate().min_by_key(|(_, branch)| branch.used).map_or(0, |(place, _)| place);
            // Dropped, which kills it; what was forked from it lives on.
            self.branches.remove(oldest);
        }
    }

    /// Takes a branch out.
    pub(super) fn remove(&mut self, number: u64) -> Option<Branch> {
        let place = self.branches.iter().position(|branch| branch.number == number)?;
        Some(self.branches.remove(place))
    }

    /// Waits for the branch that is being made. Cancel-safe: it is kept until it is there.
    pub(super) async fn built(building: &mut Option<Building>) -> Built {
        let Some(b) = building else { return pending().await };
        let hello = (&mut b.hello).await;
        match building.take() {
            Some(Building { has, wish, began, hello: _ }) => Built { has, wish, began, hello },
            None => pending().await,
        }
    }

    /// Waits for the end of any branch: its number, and how it ended. Cancel-safe.
    pub(super) async fn branch_ended(branches: &mut [Branch]) -> (u64, String) {
        if branches.is_empty() {
            return pending().await;
        }
        let ends = branches.iter_mut().map(|branch| async { (branch.number, branch.live.ended().await) }.boxed());
        select_all(ends).await.0
    }
}

/// What became of a branch.
pub(super) struct Built {
    pub(super) has: Has,
    pub(super) wish: Wish,
    pub(super) began: (Instant, SystemTime),
    pub(super) hello: Result<(Live, Hello), String>,
}

/// Names of variables that are not the same in two environments.
pub(super) fn differing<'a>(one: &'a BTreeMap<String, String>, other: &'a BTreeMap<String, String>) -> Vec<&'a str> {
    let changed = one.iter().filter(|(name, value)| other.get(*name) != Some(value)).map(|(name, _)| name);
    let missing = other.keys().filter(|name| !one.contains_key(*name));
    changed.chain(missing).map(String::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments_differ_in_what_only_one_has_and_in_other_values() {
        let environment = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let one = environment(&[("A", "1"), ("B", "1"), ("C", "1")]);
        let other = environment(&[("B", "1"), ("C", "2"), ("D", "1")]);
        assert_eq!(differing(&one, &other), ["A", "C", "D"]);
        assert!(differing(&one, &one).is_empty());
    }
}
