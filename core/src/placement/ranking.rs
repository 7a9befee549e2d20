//! The hosts in the order in which agents are placed on them, kept while hosts change: choosing costs as much with ten thousand hosts as
//! with ten.
//!
//! For every resource there is a list of the hosts that have some of it free, best first. A request goes through the shortest list
//! of the resources that it needs, until it has found enough hosts with room. So hosts that are full, that have none of a
//! rare resource, or that take no agents are passed over unseen. Hosts that have too little left of a resource, but not nothing, are looked
//! at; and a request that would rather be on some hosts than on others looks at all in its list.

use super::{Candidates, Policy, Request, load};
use crate::{
    apart::Spread,
    devices::{GPU_MEMORY, GPUS, is_of_device},
    ids::HostId,
    record::HostRecord,
    resources::{Resources, is_implied},
};
use std::collections::{BTreeMap, BTreeSet};

/// Hosts with room that are compared by their load with the agent: the least loaded ones without it.
pub(super) const LOOKS: usize = 32;

/// The name under which all hosts are listed that take agents.
const ANY: &str = "";

/// The order. It knows hosts by their positions in the list that it was made of.
#[derive(Debug)]
pub struct Ranking {
    policy: Policy,
    positions: BTreeMap<HostId, usize>,
    /// By ordinal, then by name: the positions of the hosts.
    named: Vec<usize>,
    /// By position: where the host stands.
    ranks: Vec<Rank>,
    /// By resource: those that have some of it free.
    free: BTreeMap<String, BTreeSet<Rank>>,
}

/// Where a host stands; smaller is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// Largest share of any resource in use, where the policy asks for it.
    load: u64,
    /// Index in the order of names.
    place: usize,
}

/// How good a host with room is for one request; smaller is better. The order of the fields is the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Score {
    avoided: bool,
    /// Preferred labels that it does not have.
    lacking: usize,
    /// Agents from whom it would rather stay apart.
    together: u64,
    /// Largest share of any resource in use with the agent on it, in millionths; in round robin how many come before it.
    load: u64,
    rank: Rank,
}

impl Ranking {
    /// Ranks hosts, which all hold leases.
    pub fn of(policy: Policy, hosts: &[HostRecord]) -> Self {
        let mut named: Vec<_> = (0..hosts.len()).collect();
        named.sort_by_key(|position| (hosts[*position].host.ordinal(), &hosts[*position].host));
        let mut ranks = vec![Rank { load: 0, place: 0 }; hosts.len()];
        named.iter().enumerate().for_each(|(place, position)| ranks[*position].place = place);
        let positions = hosts.iter().enumerate().map(|(position, host)| (host.host.clone(), position)).collect();
        let mut ranking = Self { policy, positions, named, ranks, free: BTreeMap::new() };
        hosts.iter().enumerate().for_each(|(position, host)| ranking.update(position, host));
        ranking
    }

    /// Where a host is in the list.
    pub fn position(&self, host: &HostId) -> Option<usize> {
        self.positions.get(host).copied()
    }

    /// What is in use on a host has changed.
    pub fn update(&mut self, position: usize, host: &HostRecord) {
        let before = self.ranks[position];
        let load = match self.policy {
            Policy::LeastLoaded => load(&host.capacity, &host.used, &Resources::default()),
            Policy::RoundRobin | Policy::Packed => 0,
        };
        let now = Rank { load, ..before };
        self.ranks[position] = now;
        let has = host.capacity.iter().filter(|(name, _)| !is_of_device(name));
        let some_free = has.map(|(name, all)| (name, host.used.milli(name) < all));
        for (name, has_some) in some_free.chain([(ANY, true)]) {
            if !self.free.contains_key(name) {
                self.free.insert(name.to_owned(), BTreeSet::new());
            }
            let list = self.free.get_mut(name).expect("it was just made");
            list.remove(&before);
            if has_some && host.takes_agents() {
                list.insert(now);
            }
        }
    }

    /// Where round robin goes on after an offer.
    pub fn turn_after(&self, offered: &Candidates) -> Option<usize> {
        let first = self.position(offered.hosts.first()?)?;
        Some(self.ranks[first].place + 1)
    }

    /// Those of the hosts that are heard of, take agents and seem to have room, best first. `hosts` is the list that is ranked.
    pub fn candidates(
        &self,
        hosts: &[HostRecord],
        is_heard: impl Fn(&HostRecord) -> bool,
        request: &Request<'_>,
    ) -> Candidates {
        let apart = Spread::of(hosts.iter(), request.demand);
        let compares_all = apart.prefers() || !request.preferred.is_empty();
        let enough = match self.policy {
            _ if compares_all => usize::MAX,
            Policy::LeastLoaded => request.limit.max(LOOKS),
            Policy::RoundRobin | Policy::Packed => request.limit,
        };
        let (mut scores, mut found) = (vec![], 0);
        for (turn, rank) in self.in_turn(request).enumerate() {
            let host = &hosts[self.named[rank.place]];
            let has_room = || host.capacity.fits(&host.used, request.demand) && apart.allows(host);
            if !is_heard(host) || request.excluded.contains(&host.host) || !has_room() {
                continue;
            }
            let lacks = |(name, value): &(&String, &String)| host.labels.get(*name) != Some(*value);
            let avoided = request.avoided.contains(&host.host);
            scores.push(Score {
                avoided,
                lacking: request.preferred.iter().filter(lacks).count(),
                together: apart.together(host),
                load: match self.policy {
                    Policy::LeastLoaded => load(&host.capacity, &host.used, request.demand),
                    Policy::RoundRobin => turn as u64,
                    Policy::Packed => 0,
                },
                rank: *rank,
            });
            found += usize::from(!avoided);
            if found >= enough {
                break;
            }
        }
        self.best(hosts, scores, request.limit)
    }

    /// The hosts that may have what a request needs: the shortest list.
    fn in_turn(&self, request: &Request<'_>) -> impl Iterator<Item = &Rank> {
        const NONE: &BTreeSet<Rank> = &BTreeSet::new();
        // Of devices, hosts count all together.
        let listed = |name| if name == GPU_MEMORY { GPUS } else { name };
        let needed = request.demand.iter().filter(|(name, _)| !is_implied(name)).map(|(name, _)| listed(name));
        let lists = needed.chain([ANY]).map(|name| self.free.get(name).unwrap_or(NONE));
        let list = lists.min_by_key(|list| list.len()).unwrap_or(NONE);
        let first = match self.policy {
            Policy::RoundRobin => request.turn % self.named.len().max(1),
            Policy::LeastLoaded | Policy::Packed => 0,
        };
        let first = Rank { load: 0, place: first };
        list.range(first..).chain(list.range(..first))
    }

    fn best(&self, hosts: &[HostRecord], mut scores: Vec<Score>, limit: usize) -> Candidates {
        if scores.len() > limit {
            scores.select_nth_unstable(limit);
            scores.truncate(limit);
        }
        scores.sort_unstable();
        // Those that are as good as the best but for their load.
        let best = scores.first().map_or((0, 0), |best| (best.lacking, best.together));
        let spread = match self.policy {
            Policy::LeastLoaded => {
                scores.partition_point(|score| !score.avoided && (score.lacking, score.together) == best)
            }
            Policy::RoundRobin | Policy::Packed => 0,
        };
        let named = |score: Score| hosts[self.named[score.rank.place]].host.clone();
        Candidates { hosts: scores.into_iter().map(named).collect(), spread }
    }
}

#[cfg(test)]
mod tests;
