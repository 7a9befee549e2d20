//! Agents that stay apart, so that what ends one host, or one zone, does not end all of them.
//!
//! Who stays apart from others takes a resource of its host that stands for them, `apart:<label>:<whom>`, of which every host has one: so a
//! second one of them does not fit. With a label the same holds for all hosts that have the same value of it, which no single host
//! knows: [`Spread`] looks at all of them, and `pick` in `lua/records.lua` does the same. Who would only rather stay apart takes
//! `rather-apart:<label>:<whom>`, of which there is enough for all, and is tried elsewhere first.

use crate::{record::HostRecord, resources::Resources};
use std::collections::BTreeMap;

/// How names of resources begin that keep agents apart.
const APART: &str = "apart:";
/// How names of resources begin that count who would rather stay apart.
const RATHER: &str = "rather-apart:";
/// Of the one every host has one, and of the other enough for all that it could ever run.
const ONE: u64 = 1000;
const ENOUGH: u64 = 1_000_000_000;

/// How firmly an agent stays apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmness {
    /// It waits rather than not.
    Required,
    /// It goes elsewhere if it can.
    Preferred,
}

/// What every host has of a resource that says who stays apart from whom.
pub(crate) fn implied(resource: &str) -> Option<u64> {
    match resource {
        apart if apart.starts_with(APART) => Some(ONE),
        rather if rather.starts_with(RATHER) => Some(ENOUGH),
        _ => None,
    }
}

/// Whether a resource only says who stays apart from whom.
pub fn is_apart(resource: &str) -> bool {
    implied(resource).is_some()
}

/// The label, empty for the host itself, and the others that a resource keeps an agent apart from.
pub fn apart_from(resource: &str) -> Option<(&str, &str)> {
    resource.strip_prefix(APART)?.split_once(':')
}

impl Resources {
    /// An agent stays apart from all that say the same: on hosts that differ in the label `across`, which has no colon, or on different
    /// hosts if that is empty.
    pub fn stay_apart(&mut self, across: &str, from: &str, firmness: Firmness) {
        let prefix = match firmness {
            Firmness::Required => APART,
            Firmness::Preferred => RATHER,
        };
        self.put(&format!("{prefix}{across}:{from}"), ONE);
    }
}

/// Where those are from whom an agent stays apart.
pub struct Spread<'a> {
    terms: Vec<Term<'a>>,
}

struct Term<'a> {
    across: &'a str,
    firmness: Firmness,
    /// How many, by host or by value of the label.
    there: BTreeMap<Option<&'a str>, u64>,
}

impl<'a> Spread<'a> {
    /// Looks at all hosts, if `demand` says that it stays apart from anybody.
    pub fn of(hosts: impl Iterator<Item = &'a HostRecord> + Clone, demand: &'a Resources) -> Self {
        let term = |(name, _): (&'a str, u64)| {
            let (firmness, rest) = match name.strip_prefix(APART) {
                Some(rest) => (Firmness::Required, rest),
                None => (Firmness::Preferred, name.strip_prefix(RATHER)?),
            };
            let (across, _) = rest.split_once(':')?;
            let mut there = BTreeMap::new();
            for host in hosts.clone().filter(|host| host.used.milli(name) > 0) {
                *there.entry(place_of(host, across)).or_default() += host.used.milli(name);
            }
            Some(Term { across, firmness, there })
        };
        Self { terms: demand.iter().filter_map(term).collect() }
    }

    /// Whether some hosts that have room are better than others.
    pub fn prefers(&self) -> bool {
        self.terms.iter().any(|term| term.firmness == Firmness::Preferred)
    }

    /// Whether an agent may be on a host.
    pub fn allows(&self, host: &HostRecord) -> bool {
        self.count(host, Firmness::Required) == 0
    }

    /// How many of those from whom an agent would rather stay apart are where a host is.
    pub fn together(&self, host: &HostRecord) -> u64 {
        self.count(host, Firmness::Preferred)
    }

    fn count(&self, host: &HostRecord, firmness: Firmness) -> u64 {
        let terms = self.terms.iter().filter(|term| term.firmness == firmness);
        terms.filter_map(|term| term.there.get(&place_of(host, term.across))).sum()
    }
}

/// Where a host is, by a label; itself, if that is empty.
fn place_of<'a>(host: &'a HostRecord, across: &str) -> Option<&'a str> {
    if across.is_empty() { Some(host.host.as_str()) } else { host.capacity.label(across) }
}
