//! Room on a host: amounts by resource name, in exact thousandths.
//!
//! Thousandths as integers (like Kubernetes' milli-units) because reservations are added and taken away for months:
//! binary fractions would drift, and Lua and Rust would drift differently.

use crate::{apart, devices::is_of_device};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::{collections::BTreeMap, fmt};

/// Name of the resource that every agent takes one of.
pub const SLOTS: &str = "slots";
/// The resource whose amount is also the limit of what an agent may use, in bytes.
pub const MEMORY: &str = "memory";

/// How names of resources begin that stand for labels of hosts. A label is a resource of which a host has far more than all agents together
/// can take: so whatever holds for room, in claims, in the line of those that wait and in what is said of them, holds for labels.
const LABEL: &str = "label:";
/// What a host has of each of its labels, and what an agent takes that needs one, in thousandths.
const LABEL_CAPACITY: u64 = 1_000_000_000;
const LABEL_DEMAND: u64 = 1;

/// The resource that stands for the permission to move an agent. Every host has enough of it for all agents that it could ever run; so what
/// is in use of it says how many agents of a host may be moved.
const MOVABLE: &str = "may:move";
const MOVABLE_CAPACITY: u64 = 1_000_000_000;
const MOVABLE_DEMAND: u64 = 1;

/// What every host has of a resource, whatever it announces.
fn implied(resource: &str) -> Option<u64> {
    if resource == MOVABLE { Some(MOVABLE_CAPACITY) } else { apart::implied(resource) }
}

/// Whether every host has a resource: it is no room, and says something of the agent that takes it.
pub fn is_implied(resource: &str) -> bool {
    implied(resource).is_some()
}

/// Left as it is in a stored name: what no separator can be mistaken for.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b':');

/// Largest amount of one resource: what doubles, and so Lua, count exactly.
pub const MAX_AMOUNT: f64 = 9.0e12;

/// Amounts by resource name. A resource that is absent is zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources(BTreeMap<String, u64>);

/// The label `name=value` that a resource stands for, if it stands for one.
pub fn label_of(resource: &str) -> Option<&str> {
    resource.strip_prefix(LABEL)
}

/// Why an amount is refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("amount {amount} of {name:?} must be a number from 0 to {MAX_AMOUNT}")]
pub struct AmountError {
    /// The resource.
    pub name: String,
    /// What was asked for.
    pub amount: f64,
}

impl Resources {
    /// Room for one agent and nothing else.
    pub fn one_slot() -> Self {
        Self(BTreeMap::from([(SLOTS.to_owned(), 1000)]))
    }

    /// Sets one resource, rounded up to a thousandth. An amount that was written with three decimals is that amount, though
    /// no double holds it exactly.
    pub fn set(&mut self, name: &str, amount: f64) -> Result<(), AmountError> {
        if !(0.0..=MAX_AMOUNT).contains(&amount) {
            return Err(AmountError { name: name.to_owned(), amount });
        }
        // A product of doubles is off by a little in either direction: 4.03 * 1000 is more than 4030. A quotient is not: the
        // double nearest to n / 1000 is the one that the text of n thousandths is read as.
        let nearest = (amount * 1000.0).round();
        let milli = if nearest / 1000.0 < amount { nearest + 1.0 } else { nearest } as u64;
        self.put(name, milli);
        Ok(())
    }

    /// Sets one resource, in thousandths.
    pub(crate) fn put(&mut self, name: &str, milli: u64) {
        if milli == 0 {
            self.0.remove(name);
        } else {
            self.0.insert(name.to_owned(), milli);
        }
    }

    /// A host has this label.
    pub fn add_label(&mut self, name: &str, value: &str) {
        self.0.insert(format!("{LABEL}{name}={value}"), LABEL_CAPACITY);
    }

    /// An agent needs a host with this label.
    pub fn need_label(&mut self, name: &str, value: &str) {
        self.0.insert(format!("{LABEL}{name}={value}"), LABEL_DEMAND);
    }

    /// An agent may be moved to another host for the sake of others.
    pub fn allow_moves(&mut self) {
        self.0.insert(MOVABLE.to_owned(), MOVABLE_DEMAND);
    }

    /// Of an agent: whether it may be moved. Of what is in use on a host: whether any of its agents may.
    pub fn is_movable(&self) -> bool {
        self.milli(MOVABLE) > 0
    }

    /// The value that a host has of a label.
    pub fn label(&self, name: &str) -> Option<&str> {
        let value = |resource: &'_ str| label_of(resource)?.strip_prefix(name)?.strip_prefix('=').map(str::len);
        let (label, length) = self.0.keys().find_map(|resource| Some((resource, value(resource)?)))?;
        label.get(label.len() - length..)
    }

    /// What a host has of a resource, in thousandths.
    pub(crate) fn has(&self, name: &str) -> u64 {
        implied(name).unwrap_or_else(|| self.milli(name))
    }

    /// Amount of one resource in thousandths.
    pub fn milli(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or(0)
    }

    /// Names and amounts in thousandths, in order of the name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, milli)| (name.as_str(), *milli))
    }

    /// Names and amounts in whole units, for people and for the wire; labels, single devices and who stays apart from whom are left out.
    pub fn amounts(&self) -> impl Iterator<Item = (String, f64)> {
        self.0
            .iter()
            .filter(|(name, _)| label_of(name).is_none() && !is_of_device(name) && !is_implied(name))
            .map(|(name, milli)| (name.clone(), *milli as f64 / 1000.0))
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both have the same amount of everything; none of something is as good as nothing said of it.
    pub fn same_amounts(&self, other: &Self) -> bool {
        let named = self.0.keys().chain(other.0.keys());
        named.into_iter().all(|name| self.milli(name) == other.milli(name))
    }

    /// Whether `demand` fits beside `used`.
    pub fn fits(&self, used: &Self, demand: &Self) -> bool {
        self.place(used, demand).is_some()
    }

    /// Adds `other`.
    pub fn add(&mut self, other: &Self) {
        for (name, milli) in other.iter() {
            *self.0.entry(name.to_owned()).or_default() += milli;
        }
    }

    /// Takes `other` away, never below zero.
    pub fn take(&mut self, other: &Self) {
        for (name, milli) in other.iter() {
            self.put(name, self.milli(name).saturating_sub(milli));
        }
    }

    /// Reads the stored form; what is not in that form is left out.
    pub fn parse(text: &str) -> Self {
        let pairs = text.split(';').filter_map(|pair| {
            let (name, milli) = pair.split_once('=')?;
            let name = percent_decode_str(name).decode_utf8().ok()?.into_owned();
            Some((name, milli.parse::<u64>().ok()?)).filter(|(_, milli)| *milli > 0)
        });
        Self(pairs.collect())
    }
}

/// The stored form, `name=thousandths;…`, names percent-encoded. The scripts read and write the same.
impl fmt::Display for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, milli)) in self.iter().enumerate() {
            let separator = if i == 0 { "" } else { ";" };
            write!(f, "{separator}{}={milli}", utf8_percent_encode(name, PLAIN))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_label_is_room_that_does_not_run_out_and_is_not_shown_as_room() {
        let mut host = Resources::one_slot();
        host.add_label("zone", "a=b");
        let demand = |value: &str| {
            let mut demand = Resources::one_slot();
            demand.need_label("zone", value);
            demand
        };
        let mut used = Resources::default();
        (0..100_000)
            .for_each(|_| used.add(&Resources(BTreeMap::from([("label:zone=a=b".to_owned(), LABEL_DEMAND)]))));
        assert!(host.fits(&used, &demand("a=b")));
        assert!(!host.fits(&used, &demand("a")));
        assert_eq!(host.amounts().map(|(name, _)| name).collect::<Vec<_>>(), [SLOTS]);
        assert_eq!(Resources::parse(&host.to_string()), host);
        assert_eq!((label_of("label:zone=a"), label_of("gpus")), (Some("zone=a"), None));
    }

    proptest! {
        #[test]
        fn the_stored_form_reads_back(pairs in prop::collection::btree_map(".{1,8}", 1u64..1_000_000, 0..5)) {
            let resources = Resources(pairs);
            prop_assert_eq!(Resources::parse(&resources.to_string()), resources);
        }

        #[test]
        fn taking_what_was_added_leaves_what_was(a in 0u64..5000, b in 1u64..5000) {
            let mut used = Resources::parse(&format!("cpus={a}"));
            let before = used.clone();
            let demand = Resources::parse(&format!("cpus={b};gpus=100"));
            used.add(&demand);
            used.take(&demand);
            prop_assert_eq!(used, before);
        }

        #[test]
        fn an_amount_with_three_decimals_is_that_amount(units in 0u64..1_000_000_000, thousandths in 0u64..1000) {
            let mut resources = Resources::default();
            let text = format!("{units}.{thousandths:03}");
            resources.set("cpus", text.parse().expect("a number")).expect("in range");
            prop_assert_eq!(resources.milli("cpus"), units * 1000 + thousandths);
        }

        #[test]
        fn any_other_amount_is_rounded_up_by_less_than_a_thousandth(amount in 0.0..1e9f64) {
            let mut resources = Resources::default();
            resources.set("cpus", amount).expect("in range");
            let set = resources.milli("cpus") as f64;
            prop_assert!(set / 1000.0 >= amount && (set - 1.0) / 1000.0 < amount, "{} became {}", amount, set);
        }

        #[test]
        fn a_whole_amount_is_exact_up_to_the_largest(amount in 0u64..=9_000_000_000_000) {
            let mut resources = Resources::default();
            resources.set("memory", amount as f64).expect("in range");
            prop_assert_eq!(resources.milli("memory"), amount * 1000);
        }
    }

    #[test]
    fn a_tenth_of_a_cpu_fits_ten_times() {
        let mut capacity = Resources::default();
        capacity.set("cpus", 1.0).expect("in range");
        let mut tenth = Resources::default();
        tenth.set("cpus", 0.1).expect("in range");
        let mut used = Resources::default();
        for _ in 0..10 {
            assert!(capacity.fits(&used, &tenth));
            used.add(&tenth);
        }
        assert!(!capacity.fits(&used, &tenth));
    }

    #[test]
    fn what_is_less_than_a_thousandth_is_not_nothing() {
        let mut resources = Resources::default();
        for (amount, milli) in [(4.03, 4030), (0.000_1, 1), (0.0, 0), (2.000_000_001, 2001)] {
            resources.set("cpus", amount).expect("in range");
            assert_eq!(resources.milli("cpus"), milli, "{amount}");
        }
    }

    #[test]
    fn amounts_that_are_not_numbers_are_refused() {
        let mut resources = Resources::default();
        assert!(resources.set("cpus", f64::NAN).is_err());
        assert!(resources.set("cpus", -1.0).is_err());
        assert!(resources.set("cpus", 1e300).is_err());
    }
}
