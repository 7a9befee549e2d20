//! Those that wait for room; `lua/line.lua` says the same.

use super::Store;
use crate::{
    apart::Spread,
    encoded,
    ids::{Epoch, HostId},
    ops::LINES,
    record::AgentRecord,
    resources::Resources,
};
use std::collections::{BTreeMap, BTreeSet};

/// Claims that may overtake one that waits.
const MOST_OVERTAKEN: u64 = 32;
/// Lines that a claim looks at, by the age of their first.
const LINES_LOOKED_AT: usize = 32;

/// The lines, by the stored form of the demand.
#[derive(Clone, Default)]
pub(super) struct Lines {
    by_demand: BTreeMap<String, Line>,
    /// When an agent was created: the first epoch that it is known to have had.
    orders: BTreeMap<String, u64>,
}

#[derive(Clone, Default)]
struct Line {
    demand: Resources,
    /// Order, member, and how often the line was overtaken before.
    agents: BTreeMap<(u64, String), u64>,
    overtaken: u64,
    kept: Option<HostId>,
}

impl Line {
    fn first(&self) -> Option<(&(u64, String), &u64)> {
        self.agents.first_key_value()
    }

    fn order(&self) -> (u64, &str) {
        self.first().map_or((u64::MAX, ""), |((order, _), _)| (*order, ""))
    }

    fn is_due(&self) -> bool {
        self.first().is_some_and(|(_, before)| self.overtaken - before >= MOST_OVERTAKEN)
    }

    /// How many of `count` of it find room beside `used`.
    fn how_many(&self, count: u64, capacity: &Resources, used: &Resources) -> u64 {
        let (wanted, of_devices) = self.demand.parted();
        if !of_devices.is_empty() {
            let mut used = used.clone();
            let one_more = |_: &u64| capacity.place(&used, &self.demand).map(|takes| used.add(&takes)).is_some();
            return (0..count).take_while(one_more).count() as u64;
        }
        let free = |name: &str| capacity.has(name).saturating_sub(used.milli(name));
        let each = wanted.iter().map(|(name, want)| free(name) / want);
        each.chain([count]).min().unwrap_or(0)
    }

    /// Whether `demand` takes something of which one of it is short then.
    fn finds_in_its_way(&self, capacity: &Resources, used: &Resources, demand: &Resources) -> bool {
        let (wanted, of_devices) = self.demand.parted();
        let (taken, takes_of_devices) = demand.parted();
        let mut short = wanted.iter().filter(|(name, _)| taken.milli(name) > 0);
        let takes_both = !of_devices.is_empty() && !takes_of_devices.is_empty();
        short.any(|(name, want)| used.milli(name) + taken.milli(name) + want > capacity.has(name))
            || takes_both && !capacity.fit_both(used, &takes_of_devices, &of_devices)
    }
}

impl Lines {
    fn sorted(&self) -> Vec<&String> {
        let mut lines: Vec<_> = self.by_demand.iter().collect();
        lines.sort_by(|(a, line_a), (b, line_b)| (line_a.order(), *a).cmp(&(line_b.order(), *b)));
        lines.into_iter().map(|(demand, _)| demand).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_demand.values().map(|line| line.agents.len()).sum()
    }

    /// All that wait, in order.
    pub(super) fn members(&self) -> BTreeSet<(u64, String)> {
        self.by_demand.values().flat_map(|line| line.agents.keys().cloned()).collect()
    }

    /// The oldest of each line after the first `skip`.
    pub(super) fn oldest_of_each(&self, skip: usize, limit: usize) -> BTreeSet<(u64, String)> {
        let lines: Vec<_> = self.sorted().into_iter().skip(skip).take(LINES).collect();
        let each = (limit / lines.len().max(1)).max(1);
        let agents = lines.iter().filter_map(|demand| self.by_demand.get(*demand));
        agents.flat_map(|line| line.agents.keys().take(each).cloned()).collect()
    }

    pub(super) fn set_order(&mut self, member: &str, epoch: Epoch) {
        self.orders.insert(member.to_owned(), epoch.0);
    }

    pub(super) fn order(&self, member: &str) -> Option<u64> {
        self.orders.get(member).copied()
    }

    pub(super) fn forget_order(&mut self, member: &str) {
        self.orders.remove(member);
    }
}

impl Store {
    pub(super) fn join_line(&mut self, record: &AgentRecord, order: u64) {
        let member = encoded::member(&record.key);
        let line = self.lines.by_demand.entry(record.demand.to_string()).or_default();
        line.demand = record.demand.clone();
        // What overtook the line before does not count for it.
        line.agents.insert((order, member), line.overtaken);
    }

    pub(super) fn leave_line(&mut self, record: &AgentRecord) {
        let (member, demand) = (encoded::member(&record.key), record.demand.to_string());
        let Some(line) = self.lines.by_demand.get_mut(&demand) else { return };
        let Some(place) = line.agents.keys().find(|(_, m)| *m == member).cloned() else { return };
        if line.first().is_some_and(|(first, _)| *first == place) {
            line.kept = None;
        }
        line.agents.remove(&place);
        if line.agents.is_empty() {
            self.lines.by_demand.remove(&demand);
        }
    }

    /// Whether those that came before `order` let `demand` have room on a host. Counts whom it overtakes. Asked of one host after the
    /// other: who has found room on one, by `found`, needs none on the next.
    pub(super) fn is_let_pass(
        &mut self,
        host: &HostId,
        demand: &Resources,
        order: u64,
        found: &mut BTreeMap<String, u64>,
    ) -> bool {
        let Some(h) = self.hosts.get(host) else { return false };
        let (capacity, mut taken) = (h.capacity.clone(), h.used.clone());
        let sorted: Vec<_> = self.lines.sorted().into_iter().cloned().collect();
        let before = sorted.into_iter().filter(|line| self.lines.by_demand[line].order().0 < order);
        let mut overtakes = vec![];
        for text in before.take(LINES_LOOKED_AT).collect::<Vec<_>>() {
            let Some(line) = self.lines.by_demand.get(&text).filter(|l| self.could_hold(host, l)) else { continue };
            let count = line.agents.len() as u64 - found.get(&text).copied().unwrap_or(0);
            let now = line.how_many(count, &capacity, &taken);
            *found.entry(text.clone()).or_default() += now;
            for last in (1..=now).rev() {
                // Whoever comes last of those that find room here has it as well.
                if last == 1 && line.finds_in_its_way(&capacity, &taken, demand) {
                    return false;
                }
                capacity.place(&taken, &line.demand).iter().for_each(|takes| taken.add(takes));
            }
            if now < count && line.finds_in_its_way(&capacity, &taken, demand) {
                let keeps = |kept: &HostId| {
                    self.hosts.get(kept).is_some_and(|h| h.takes_agents()) && self.could_hold(kept, line)
                };
                let (due, is_kept) = (line.is_due(), line.kept.as_ref().is_some_and(keeps));
                let line = self.lines.by_demand.get_mut(&text).expect("it was there a moment ago");
                if due && !is_kept {
                    line.kept = Some(host.clone());
                }
                if due && line.kept.as_ref() == Some(host) {
                    return false;
                }
                overtakes.push(text);
            }
        }
        for text in overtakes {
            self.lines.by_demand.entry(text).and_modify(|line| line.overtaken += 1);
        }
        true
    }

    /// Whether a host could hold one of the line, if it held only those from whom it stays apart.
    fn could_hold(&self, host: &HostId, line: &Line) -> bool {
        let here = self.hosts.get(host);
        here.is_some_and(|h| {
            h.capacity.fits(&Resources::default(), &line.demand)
                && Spread::of(self.hosts.values(), &line.demand).allows(h)
        })
    }
}
