//! Why an agent is, or would be, placed where. Reads what placing reads, and decides nothing.

use super::{Engine, EngineError};
use crate::{
    fleet::FleetView,
    shortage::{self, Lasts},
};
use rustic_core::placement;
use rustic_proto::engine::v1::Verdict;
use rustic_registry::{AgentKey, HostId, HostRecord, Resources, View, apart::Spread};
use std::collections::{BTreeMap, BTreeSet};

/// What every host is to an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The hosts on which it could be placed, best first, and then the others.
    pub hosts: Vec<Explained>,
    /// What is reserved for it.
    pub demand: Resources,
    /// Why it finds no room; empty: it finds some.
    pub message: String,
    /// Where it is.
    pub host: Option<HostId>,
}

/// What one host is to an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Explained {
    /// The host.
    pub host: HostId,
    /// Whether it could be placed there.
    pub verdict: Verdict,
    /// Why.
    pub message: String,
    /// Share of the scarcest resource with it, 0 to 1.
    pub load: f64,
}

impl Engine {
    /// Explains an agent that is known.
    pub async fn explain(&self, key: &AgentKey) -> Result<Explanation, EngineError> {
        let record = self.read(key, View::Basic).await?;
        let explanation = self.explain_demand(&record.demand, &BTreeMap::new()).await?;
        Ok(Explanation { host: record.host().cloned(), ..explanation })
    }

    /// Explains an agent that would need so much.
    pub async fn explain_demand(
        &self,
        demand: &Resources,
        preferred: &BTreeMap<String, String>,
    ) -> Result<Explanation, EngineError> {
        self.fleet.refresh().await?;
        let order = self.fleet.order(demand, preferred);
        let view = self.fleet.view();
        let message = match (shortage::ever(&view, demand), shortage::now(&view, demand)) {
            _ if !order.is_empty() => String::new(),
            (Some(ever), _) => ever.to_string(),
            (None, Some(now)) => now.to_string(),
            (None, None) => "no host takes agents".to_owned(),
        };
        let avoided = self.fleet.avoided_now();
        let hosts = explained(&view, &order, &avoided, demand);
        Ok(Explanation { hosts, demand: demand.clone(), message, host: None })
    }
}

/// Every host, those of `order` first.
fn explained(view: &FleetView, order: &[HostId], avoided: &BTreeSet<HostId>, demand: &Resources) -> Vec<Explained> {
    let place = |host: &HostId| order.iter().position(|one| one == host).unwrap_or(usize::MAX);
    let mut hosts: Vec<_> = view.registry.hosts.iter().collect();
    let spread = shortage::spread(view, demand);
    hosts.sort_by_key(|h| (place(&h.host), h.host.clone()));
    hosts
        .into_iter()
        .map(|h| explained_one(h, view.silent.contains(&h.host), avoided.contains(&h.host), demand, &spread))
        .collect()
}

#[allow(clippy::cast_precision_loss, reason = "millionths")]
fn explained_one(
    host: &HostRecord,
    silent: bool,
    avoided: bool,
    demand: &Resources,
    spread: &Spread<'_>,
) -> Explained {
    let (verdict, message) = match shortage::on(host, demand, spread) {
        _ if silent => (Verdict::Silent, "it has not renewed its lease in time".to_owned()),
        _ if host.cordoned => {
            (Verdict::Draining, "DrainHost was called for it; UndrainHost lets it take agents again".to_owned())
        }
        _ if !host.takes_agents() => (Verdict::Draining, "it stops, and gives its agents away".to_owned()),
        Some((lack, Lasts::Always)) => (Verdict::TooSmall, format!("it is too small: {lack}")),
        Some((lack, Lasts::Now)) => (Verdict::NoRoom, format!("it has no room: {lack}")),
        None if avoided => {
            (Verdict::Fits, "it has room; it lacked something else a moment ago, and is tried last".to_owned())
        }
        None => (Verdict::Fits, "it has room".to_owned()),
    };
    let load = match verdict {
        Verdict::Fits => placement::load(&host.capacity, &host.used, demand) as f64 / 1_000_000.0,
        _ => 0.0,
    };
    Explained { host: host.host.clone(), verdict, message, load }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes;
    use rustic_registry::{HostState, HostsView};

    #[test]
    fn every_host_has_its_verdict_and_those_with_room_come_first_in_their_order() {
        let host = |id: &str, capacity: &str, used: &str| {
            fakes::host(id, Resources::parse(capacity), Resources::parse(used))
        };
        let hosts = vec![
            host("full", "slots=4000;licences=1000", "slots=4000"),
            host("small", "slots=4000", ""),
            HostRecord { state: HostState::Draining, ..host("stops", "slots=4000;licences=1000", "") },
            HostRecord { cordoned: true, ..host("kept", "slots=4000;licences=1000", "") },
            host("silent", "slots=4000;licences=1000", ""),
            host("b", "slots=4000;licences=2000", "slots=1000;licences=500"),
            host("a", "slots=4000;licences=1000", "slots=1000;licences=500"),
        ];
        let id = |name: &str| name.parse::<HostId>().expect("valid");
        let view = FleetView { registry: HostsView { hosts, ..HostsView::default() }, silent: [id("silent")].into() };
        let demand = Resources::parse("slots=1000;licences=500");
        let all = explained(&view, &[id("b"), id("a")], &[id("a")].into(), &demand);
        let told: Vec<_> = all.iter().map(|e| (e.host.as_str(), e.verdict, e.load)).collect();
        assert_eq!(
            told,
            [
                ("b", Verdict::Fits, 0.5),
                ("a", Verdict::Fits, 1.0),
                ("full", Verdict::NoRoom, 0.0),
                ("kept", Verdict::Draining, 0.0),
                ("silent", Verdict::Silent, 0.0),
                ("small", Verdict::TooSmall, 0.0),
                ("stops", Verdict::Draining, 0.0),
            ]
        );
        let message = |name: &str| &all.iter().find(|e| e.host.as_str() == name).expect("listed").message;
        assert_eq!(message("full"), "it has no room: 1 slots (it has free: 0)");
        assert_eq!(message("small"), "it is too small: 0.5 licences (it has: 0)");
        assert!(message("kept").contains("UndrainHost") && message("a").contains("tried last"));
    }
}
