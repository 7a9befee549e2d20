//! Agents that no host could ever hold: what they ask for, and what there is. Pure.

use crate::fleet::FleetView;
use rustic_registry::{HostRecord, Resources};
use std::fmt;

/// Most resources that an error names, and most bytes of a name: a status travels in headers.
const NAMED: usize = 8;
const NAME: usize = 48;

/// What an agent asks for that no host has.
#[derive(Debug, Clone, PartialEq)]
pub struct TooLarge {
    lacking: Vec<Lacking>,
    /// Each of them is on some host, but not all on one.
    scattered: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Lacking {
    name: String,
    asked: f64,
    /// The most that any host has.
    largest: f64,
}

/// Looks whether any host could hold `demand` if it held nothing else; one that is silent, or that drains, may be back. Where no
/// host lives nobody knows.
pub fn too_large(view: &FleetView, demand: &Resources) -> Option<TooLarge> {
    let hosts = &view.registry.hosts;
    let could = |h: &HostRecord| h.capacity.fits(&Resources::default(), demand);
    if view.alive().next().is_none() || hosts.iter().any(could) {
        return None;
    }
    let units = |milli: u64| milli as f64 / 1000.0;
    let mut asked: Vec<_> = demand
        .iter()
        .map(|(name, milli)| (name, milli, hosts.iter().map(|h| h.capacity.milli(name)).max().unwrap_or(0)))
        .collect();
    let scattered = asked.iter().all(|(_, asked, largest)| asked <= largest);
    asked.retain(|(_, asked, largest)| scattered || asked > largest);
    let lacking = asked.into_iter().take(NAMED).map(|(name, asked, largest)| Lacking {
        name: name[..name.floor_char_boundary(NAME)].to_owned(),
        asked: units(asked),
        largest: units(largest),
    });
    Some(TooLarge { lacking: lacking.collect(), scattered })
}

impl TooLarge {
    /// For programs: `asked_` and `largest_` of each resource.
    pub fn metadata(&self) -> Vec<(String, String)> {
        let both = |l: &Lacking| {
            [
                (format!("asked_{}", l.name), l.asked.to_string()),
                (format!("largest_{}", l.name), l.largest.to_string()),
            ]
        };
        self.lacking.iter().flat_map(both).collect()
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Lacking { name, asked, largest }) in self.lacking.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}{asked} {name} (most on one host: {largest})")?;
        }
        if self.scattered { f.write_str(", which no single host has together") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fakes;
    use rustic_registry::{HostState, HostsView};

    fn host(id: &str, capacity: &str) -> HostRecord {
        let capacity = Resources::parse(capacity);
        HostRecord { state: HostState::Draining, ..fakes::host(id, capacity.clone(), capacity) }
    }

    /// Hosts that were heard of lately, and others that are silent.
    fn view(heard: &[&str], silent: &[&str]) -> FleetView {
        let named = |name: &'static str| move |(n, capacity): (usize, &&str)| host(&format!("{name}-{n}"), capacity);
        let silent: Vec<_> = silent.iter().enumerate().map(named("silent")).collect();
        let names = silent.iter().map(|h| h.host.clone()).collect();
        let hosts = heard.iter().enumerate().map(named("heard")).chain(silent).collect();
        FleetView { registry: HostsView { hosts, ..HostsView::default() }, silent: names }
    }

    fn lack_of(view: &FleetView, demand: &str) -> Option<String> {
        too_large(view, &Resources::parse(demand)).map(|lack| lack.to_string())
    }

    #[test]
    fn what_no_host_could_hold_is_named_with_the_most_that_there_is() {
        let hosts = view(&["slots=4000;cpus=2000", "slots=2000;cpus=8000;gpus=500"], &[]);
        assert_eq!(lack_of(&hosts, "slots=4000;cpus=2000"), None, "however full it is, and though it drains");
        let lack = lack_of(&hosts, "slots=1000;gpus=1500").expect("too large");
        assert_eq!(lack, "1.5 gpus (most on one host: 0.5)");
        let lack = lack_of(&hosts, "slots=4000;cpus=8000").expect("too large");
        assert_eq!(
            lack,
            "8 cpus (most on one host: 8), 4 slots (most on one host: 4), which no single host has together"
        );
    }

    #[test]
    fn where_no_host_lives_nobody_knows() {
        assert_eq!(lack_of(&view(&[], &[]), "gpus=1000"), None);
        assert_eq!(lack_of(&view(&[], &["slots=1000"]), "gpus=1000"), None);
        assert_eq!(lack_of(&view(&["slots=1000"], &["gpus=1000"]), "gpus=1000"), None, "it may be back");
    }

    #[test]
    fn the_error_fits_into_headers_whatever_is_asked_for() {
        let demand: Vec<_> = (0..500).map(|n| format!("{n}{}=1000", "%C3%A9".repeat(200))).collect();
        let demand = Resources::parse(&demand.join(";"));
        let lack = too_large(&view(&["slots=1000"], &[]), &demand).expect("too large");
        let key = rustic_registry::AgentKey::parse("default", "g", "a").expect("an id");
        let status = tonic::Status::from(crate::error::EngineError::TooLarge { key, lack });
        let response = status.into_http::<()>();
        let size: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(size < 8192, "{size}");
    }
}
