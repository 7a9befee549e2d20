//! What an agent asks for that no host could ever give, or that none has free now, and the most that there is. Pure.

use crate::fleet::FleetView;
use rustic_registry::{
    HostRecord, Resources,
    apart::{Spread, apart_from, is_apart},
    devices::{GPU_MEMORY, GPUS},
    resources,
};
use std::fmt;

/// Most resources that an error names, and most bytes of a name: a status travels in headers.
const NAMED: usize = 8;
const NAME: usize = 48;

/// What an agent asks for that no host has.
#[derive(Debug, Clone, PartialEq)]
pub struct Shortage {
    of: Of,
    lacking: Vec<Lacking>,
    /// Each of them is on some host, but not all on one.
    scattered: bool,
}

/// Of what there is too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// Of what hosts have at all.
    Capacity,
    /// Of what is free on them.
    Free,
    /// Of what one host has at all.
    CapacityHere,
    /// Of what is free on it.
    FreeHere,
}

impl Of {
    /// What the largest amount is the largest of: a share of a GPU, and its memory, are of one.
    fn most(self, name: &str, asked: f64) -> &'static str {
        let of_one_gpu = name == GPU_MEMORY || (name == GPUS && asked < 1.0);
        match (self, of_one_gpu) {
            (Self::Capacity, false) => "most on one host",
            (Self::Free, false) => "most that is free on one host",
            (Self::CapacityHere, false) => "it has",
            (Self::FreeHere, false) => "it has free",
            (Self::Capacity | Self::CapacityHere, true) => "most on one GPU",
            (Self::Free | Self::FreeHere, true) => "most that is free on one GPU",
        }
    }
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
pub fn ever(view: &FleetView, demand: &Resources) -> Option<Shortage> {
    let hosts = &view.registry.hosts;
    let could = |h: &HostRecord| h.capacity.fits(&Resources::default(), demand);
    if view.alive().next().is_none() || hosts.iter().any(could) {
        return None;
    }
    let most = |name: &str| hosts.iter().map(|h| h.capacity.most(&Resources::default(), demand, name)).max();
    Some(Shortage::between(Of::Capacity, demand, |name| most(name).unwrap_or(0)))
}

/// Looks whether any host that lives and takes agents has room for `demand` now. `None`: one has, as far as is known; or there is none.
pub fn now(view: &FleetView, demand: &Resources) -> Option<Shortage> {
    let hosts: Vec<_> = view.alive().filter(|h| h.takes_agents()).collect();
    let spread = spread(view, demand);
    if hosts.is_empty() || hosts.iter().any(|h| h.capacity.fits(&h.used, demand) && spread.allows(h)) {
        return None;
    }
    let most = |name: &str| hosts.iter().map(|h| free(h, demand, &spread, name)).max();
    Some(Shortage::between(Of::Free, demand, |name| most(name).unwrap_or(0)))
}

/// Where those are from whom `demand` stays apart.
pub fn spread<'a>(view: &'a FleetView, demand: &'a Resources) -> Spread<'a> {
    Spread::of(view.registry.hosts.iter(), demand)
}

/// What a host has free of a resource: no room for one who stays apart from somebody that is where it is.
fn free(host: &HostRecord, demand: &Resources, spread: &Spread<'_>, name: &str) -> u64 {
    if is_apart(name) && !spread.allows(host) { 0 } else { host.capacity.most(&host.used, demand, name) }
}

/// What a host has too little of for `demand`, at all or now; `None`: it has room.
pub fn on(host: &HostRecord, demand: &Resources, spread: &Spread<'_>) -> Option<(Shortage, Lasts)> {
    let nothing = Resources::default();
    if !host.capacity.fits(&nothing, demand) {
        let has = |name: &str| host.capacity.most(&nothing, demand, name);
        return Some((Shortage::between(Of::CapacityHere, demand, has), Lasts::Always));
    }
    let free = |name: &str| free(host, demand, spread, name);
    let has_room = host.capacity.fits(&host.used, demand) && spread.allows(host);
    (!has_room).then(|| (Shortage::between(Of::FreeHere, demand, free), Lasts::Now))
}

/// How long a host has too little.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasts {
    /// Until something ends there.
    Now,
    /// It is too small.
    Always,
}

impl Shortage {
    /// What of a demand is more than the most that there is of each resource; all of it if no host has it together.
    fn between(of: Of, demand: &Resources, most: impl Fn(&str) -> u64) -> Self {
        let mut asked: Vec<_> = demand.iter().map(|(name, milli)| (name, milli, most(name))).collect();
        let scattered = asked.iter().all(|(_, asked, largest)| asked <= largest);
        asked.retain(|(_, asked, largest)| scattered || asked > largest);
        let units = |milli: u64| milli as f64 / 1000.0;
        let lacking = asked.into_iter().take(NAMED).map(|(name, asked, largest)| Lacking {
            name: name[..name.floor_char_boundary(NAME)].to_owned(),
            asked: units(asked),
            largest: units(largest),
        });
        Self { of, lacking: lacking.collect(), scattered }
    }

    fn is_of_one_host(&self) -> bool {
        matches!(self.of, Of::CapacityHere | Of::FreeHere)
    }

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

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, Lacking { name, asked, largest }) in self.lacking.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            if let Some((across, from)) = apart_from(name) {
                let place = if across.is_empty() { "host" } else { across };
                write!(f, "{comma}a {place} without another agent of {from} that stays apart")?;
                continue;
            }
            match resources::label_of(name) {
                Some(label) if *largest > 0.0 => write!(f, "{comma}the label {label}")?,
                Some(label) if self.is_of_one_host() => {
                    write!(f, "{comma}the label {label}, which it does not have")?
                }
                Some(label) => write!(f, "{comma}the label {label}, which no host has")?,
                None => write!(f, "{comma}{asked} {name} ({}: {largest})", self.of.most(name, *asked))?,
            }
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
        ever(view, &Resources::parse(demand)).map(|lack| lack.to_string())
    }

    #[test]
    fn what_no_host_could_hold_is_named_with_the_most_that_there_is() {
        let hosts = view(&["slots=4000;cpus=2000", "slots=2000;cpus=8000;licences=500"], &[]);
        assert_eq!(lack_of(&hosts, "slots=4000;cpus=2000"), None, "however full it is, and though it drains");
        let lack = lack_of(&hosts, "slots=1000;licences=1500").expect("too large");
        assert_eq!(lack, "1.5 licences (most on one host: 0.5)");
        let lack = lack_of(&hosts, "slots=4000;cpus=8000").expect("too large");
        assert_eq!(
            lack,
            "8 cpus (most on one host: 8), 4 slots (most on one host: 4), which no single host has together"
        );
    }

    #[test]
    fn what_no_host_has_free_is_named_with_the_most_that_is() {
        let host = |id: &str, capacity: &str, used: &str| {
            fakes::host(id, Resources::parse(capacity), Resources::parse(used))
        };
        let drains = HostRecord { state: HostState::Draining, ..host("h-2", "slots=9000;licences=9000", "") };
        let hosts = vec![
            host("h-0", "slots=4000;licences=2000", "slots=1000;licences=1500"),
            host("h-1", "slots=4000;licences=1000", "slots=4000"),
            drains,
        ];
        let view = FleetView { registry: HostsView { hosts, ..HostsView::default() }, ..FleetView::default() };
        let short = |demand: &str| now(&view, &Resources::parse(demand)).map(|lack| lack.to_string());
        assert_eq!(short("slots=1000;licences=500"), None, "h-0 has it");
        assert_eq!(
            short("slots=1000;licences=1500").as_deref(),
            Some("1.5 licences (most that is free on one host: 1)")
        );
        let scattered = "1 licences (most that is free on one host: 1), 1 slots (most that is free on one host: 3), \
                         which no single host has together";
        assert_eq!(short("slots=1000;licences=1000").as_deref(), Some(scattered));
        assert_eq!(now(&FleetView::default(), &Resources::one_slot()), None, "where no host lives nobody knows");
    }

    #[test]
    fn a_label_that_no_host_has_is_named_as_one() {
        let mut demand = Resources::one_slot();
        demand.need_label("zone", "a");
        let plain = host("h-0", "slots=1000");
        let mut zone = host("h-1", "");
        zone.capacity.add_label("zone", "a");
        let of = |hosts: Vec<HostRecord>| FleetView {
            registry: HostsView { hosts, ..HostsView::default() },
            ..FleetView::default()
        };
        let lack = ever(&of(vec![plain.clone()]), &demand).expect("none has it");
        assert_eq!(lack.to_string(), "the label zone=a, which no host has");
        let lack = ever(&of(vec![plain.clone(), zone]), &demand).expect("none has both");
        assert_eq!(
            lack.to_string(),
            "the label zone=a, 1 slots (most on one host: 1), which no single host has together"
        );
        let (lack, _) = on(&plain, &demand, &Spread::of([].iter(), &demand)).expect("it has not");
        assert_eq!(lack.to_string(), "the label zone=a, which it does not have");
    }

    #[test]
    fn where_no_host_lives_nobody_knows() {
        assert_eq!(lack_of(&view(&[], &[]), "licences=1000"), None);
        assert_eq!(lack_of(&view(&[], &["slots=1000"]), "licences=1000"), None);
        assert_eq!(lack_of(&view(&["slots=1000"], &["licences=1000"]), "licences=1000"), None, "it may be back");
    }

    #[test]
    fn the_error_fits_into_headers_whatever_is_asked_for() {
        let demand: Vec<_> = (0..500).map(|n| format!("{n}{}=1000", "%C3%A9".repeat(200))).collect();
        let demand = Resources::parse(&demand.join(";"));
        let lack = ever(&view(&["slots=1000"], &[]), &demand).expect("too large");
        let key = rustic_registry::AgentKey::parse("default", "g", "a").expect("an id");
        let status = tonic::Status::from(crate::error::EngineError::TooLarge { key, lack });
        let response = status.into_http::<()>();
        let size: usize = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum();
        assert!(size < 8192, "{size}");
    }
}
