//! Devices of a host, its GPUs, and which of them an agent takes.
//!
//! A device is two resources of its host: `gpu:<id>`, of which there is one, and `gpu_memory:<id>`, its bytes. An agent asks for `gpus` or
//! `gpu_memory`, and takes parts of devices in their place. So whatever adds, takes away, compares and stores room does the same
//! with devices.
//!
//! | asked for | taken |
//! | --- | --- |
//! | less than one of `gpus` | that share of one device, and of its memory |
//! | a whole number of `gpus` | so many devices of which nobody has anything |
//! | `gpu_memory`, in bytes | so much memory of one device, and as large a share of it |
//! | both | what is more, of each device |
//!
//! A share is taken from the fullest of the devices that have enough left: what is whole stays whole for as long as it can. Where
//! several are as full, the first by id. `lua/prelude.lua` says the same, to the bit.

use crate::resources::{AmountError, MAX_AMOUNT, Resources};

/// How many devices a host has, and how many an agent asks for.
pub const GPUS: &str = "gpus";
/// Memory of a device that an agent asks for, in bytes.
pub const GPU_MEMORY: &str = "gpu_memory";
/// How names of resources begin that stand for a device.
const DEVICE: &str = "gpu:";
/// How names of resources begin that are the memory of a device.
const DEVICE_MEMORY: &str = "gpu_memory:";
/// A whole device, in thousandths.
const WHOLE: u64 = 1000;

/// A device.
#[derive(Debug, Clone, PartialEq)]
pub struct Device {
    /// What its driver calls it: a UUID, as a rule.
    pub id: String,
    /// The share of it that is meant, from 0 to 1.
    pub share: f64,
    /// The memory of it that is meant, in whole bytes; 0: unknown.
    pub memory: f64,
}

/// Whether a resource belongs to one device. Such are shown with the device, and not with what else a host has.
pub fn is_of_device(resource: &str) -> bool {
    resource.starts_with(DEVICE) || resource.starts_with(DEVICE_MEMORY)
}

/// Whether a text may be the id of a device: what stands in the names of resources as it is.
pub fn is_id(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c))
}

/// Whether an agent may ask for so many devices, in thousandths.
pub fn is_possible(gpus: u64) -> bool {
    gpus <= WHOLE || gpus.is_multiple_of(WHOLE)
}

impl Resources {
    /// A host has these devices: all of each.
    pub fn add_devices<'a>(&mut self, devices: impl IntoIterator<Item = &'a Device>) {
        for device in devices {
            self.put_device(&device.id, WHOLE, as_milli(device.memory));
        }
    }

    /// What these are of devices, in order of their ids.
    pub fn devices(&self) -> impl Iterator<Item = Device> {
        self.iter().filter_map(|(name, milli)| {
            let id = name.strip_prefix(DEVICE)?.to_owned();
            let memory = self.milli(&format!("{DEVICE_MEMORY}{id}")) as f64 / 1000.0;
            Some(Device { id, share: milli as f64 / 1000.0, memory })
        })
    }

    /// What an agent of this demand takes on a host of this capacity beside `used`: the same, with devices in the place of what it asks
    /// of them. `None`: it does not fit.
    pub fn place(&self, used: &Self, demand: &Self) -> Option<Self> {
        let mut takes = Self::default();
        for (name, want) in demand.iter().filter(|(name, _)| !is_asked(name)) {
            (used.milli(name) + want <= self.has(name)).then(|| takes.put(name, want))?;
        }
        let Some(wish) = Wish::of(demand) else { return Some(takes) };
        let mut found = wish.possible(self, used);
        (found.len() as u64 >= wish.count).then(|| found.sort_unstable())?;
        for Part { id, share, memory, .. } in found.into_iter().take(usize::try_from(wish.count).ok()?) {
            takes.put_device(id, share, memory);
        }
        Some(takes)
    }

    fn put_device(&mut self, id: &str, share: u64, memory: u64) {
        self.put(&format!("{DEVICE}{id}"), share);
        self.put(&format!("{DEVICE_MEMORY}{id}"), memory);
        self.put(GPUS, self.milli(GPUS) + share);
    }

    /// What an agent of this demand takes that was given these parts of devices. `Err`: one is no amount.
    pub fn with_devices(&self, devices: impl IntoIterator<Item = Device>) -> Result<Self, AmountError> {
        let (mut takes, _) = self.parted();
        for Device { id, share, memory } in devices {
            let mut part = Self::default();
            part.set(GPUS, share)?;
            part.set(GPU_MEMORY, memory)?;
            takes.put_device(&id, part.milli(GPUS), part.milli(GPU_MEMORY));
        }
        Ok(takes)
    }

    /// Whether it asks for devices.
    pub fn asks_for_devices(&self) -> bool {
        self.iter().any(|(name, _)| is_asked(name))
    }

    /// A demand in two parts: all but devices, whose amounts say how many find room, and what it asks of devices.
    pub(crate) fn parted(&self) -> (Self, Self) {
        let (mut others, mut of_devices) = (Self::default(), Self::default());
        for (name, milli) in self.iter() {
            if is_asked(name) { &mut of_devices } else { &mut others }.put(name, milli);
        }
        (others, of_devices)
    }

    /// Whether both fit beside `used`, one after the other.
    pub(crate) fn fit_both(&self, used: &Self, first: &Self, then: &Self) -> bool {
        let Some(takes) = self.place(used, first) else { return false };
        let mut with = used.clone();
        with.add(&takes);
        self.fits(&with, then)
    }

    /// Whether a host of this capacity has every device that is taken.
    pub fn has_devices_of(&self, takes: &Self) -> bool {
        takes.iter().filter(|(name, _)| name.starts_with(DEVICE)).all(|(name, _)| self.milli(name) > 0)
    }

    /// The most of a resource that `demand` could have of it beside `used`, in thousandths: of devices as it asks for them.
    pub fn most(&self, used: &Self, demand: &Self, name: &str) -> u64 {
        let free = |name: &str| self.has(name).saturating_sub(used.milli(name));
        let each =
            |of: &'static str| self.iter().filter(move |(name, _)| name.starts_with(of)).map(|(name, _)| free(name));
        match name {
            GPUS if demand.milli(GPUS) < WHOLE => each(DEVICE).max().unwrap_or(0),
            GPUS => each(DEVICE).filter(|free| *free == WHOLE).count() as u64 * WHOLE,
            GPU_MEMORY => each(DEVICE_MEMORY).max().unwrap_or(0),
            _ => free(name),
        }
    }
}

/// Whether a resource is one that an agent asks for and takes devices in the place of.
fn is_asked(name: &str) -> bool {
    name == GPUS || name == GPU_MEMORY
}

/// Whole bytes, in thousandths.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is no more than the largest amount")]
fn as_milli(bytes: f64) -> u64 {
    bytes.clamp(0.0, MAX_AMOUNT) as u64 * 1000
}

/// What a demand asks of devices.
struct Wish {
    /// How many.
    count: u64,
    /// Of each at least this share, in thousandths.
    share: u64,
    /// Of each at least this memory, in thousandths of a byte.
    memory: u64,
}

/// What would be taken of a device; ordered by how good it is.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Part<'a> {
    /// The share that is free.
    free: u64,
    id: &'a str,
    share: u64,
    memory: u64,
}

impl Wish {
    fn of(demand: &Resources) -> Option<Self> {
        let (gpus, memory) = (demand.milli(GPUS), demand.milli(GPU_MEMORY));
        // More than one that is no whole number is refused before it comes here.
        let wish = Self { count: gpus.div_ceil(WHOLE).max(1), share: gpus.min(WHOLE), memory };
        (gpus + memory > 0).then_some(wish)
    }

    /// What it would take of each device that has enough left.
    fn possible<'a>(&self, capacity: &'a Resources, used: &Resources) -> Vec<Part<'a>> {
        let devices = capacity.iter().filter_map(|(name, all)| Some((name.strip_prefix(DEVICE)?, name, all)));
        let each = devices.filter_map(|(id, name, all)| {
            let name_of_memory = format!("{DEVICE_MEMORY}{id}");
            let all_memory = capacity.milli(&name_of_memory);
            let share = self.share.max(share_of(self.memory, all_memory)?);
            let memory = self.memory.max(memory_of(self.share, all_memory));
            let free = all.saturating_sub(used.milli(name));
            let fits = share <= free && used.milli(&name_of_memory) + memory <= all_memory;
            fits.then_some(Part { free, id, share, memory })
        });
        each.collect()
    }
}

/// The share of a device that this memory of it is, but not nothing; `None`: it has less.
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "as Lua counts"
)]
fn share_of(memory: u64, all: u64) -> Option<u64> {
    match memory {
        0 => Some(0),
        _ => (memory <= all).then(|| ((memory as f64 / all as f64 * WHOLE as f64).floor() as u64).max(1)),
    }
}

/// The memory that belongs to a share of a device, in whole bytes.
fn memory_of(share: u64, all: u64) -> u64 {
    let memory = all / 1000 * share;
    memory - memory % 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A host with so many devices of 24 GB.
    fn host(count: usize) -> Resources {
        let mut capacity = Resources::parse("slots=1000000");
        let devices: Vec<_> =
            (0..count).map(|n| Device { id: format!("GPU-{n:02}"), share: 1.0, memory: 24e9 }).collect();
        capacity.add_devices(&devices);
        capacity
    }

    fn asks(gpus: f64, memory: f64) -> Resources {
        let mut demand = Resources::one_slot();
        demand.set(GPUS, gpus).expect("a number");
        demand.set(GPU_MEMORY, memory).expect("a number");
        demand
    }

    /// Places one agent after the other until one finds no room: the devices of each.
    fn placed(capacity: &Resources, used: &mut Resources, demands: &[Resources]) -> Vec<Vec<(String, f64)>> {
        let mut all = vec![];
        for demand in demands {
            let Some(takes) = capacity.place(used, demand) else { break };
            used.add(&takes);
            all.push(takes.devices().map(|device| (device.id, device.share)).collect());
        }
        all
    }

    #[test]
    fn shares_pack_onto_devices_and_never_across_two() {
        for (share, agents, devices) in [(0.18, 80, 16), (0.6, 10, 10), (0.5, 8, 4), (0.34, 20, 10)] {
            let (capacity, mut used) = (host(devices), Resources::default());
            let all = placed(&capacity, &mut used, &vec![asks(share, 0.0); agents]);
            assert_eq!(all.len(), agents, "{agents} times {share} on {devices}");
            assert!(all.iter().all(|devices| devices.len() == 1 && (devices[0].1 - share).abs() < 1e-9), "{all:?}");
            assert!(capacity.place(&used, &asks(share, 0.0)).is_none(), "no device has {share} left");
        }
    }

    #[test]
    fn whole_devices_are_whole_and_are_kept_whole() {
        let (capacity, mut used) = (host(4), Resources::default());
        let demands = [asks(0.3, 0.0), asks(2.0, 0.0), asks(0.3, 0.0), asks(1.0, 0.0), asks(0.4, 0.0)];
        let all = placed(&capacity, &mut used, &demands);
        let ids: Vec<Vec<_>> = all.iter().map(|devices| devices.iter().map(|(id, _)| &**id).collect()).collect();
        assert_eq!(ids, [vec!["GPU-00"], vec!["GPU-01", "GPU-02"], vec!["GPU-00"], vec!["GPU-03"], vec!["GPU-00"]]);
        assert!(capacity.place(&used, &asks(0.001, 0.0)).is_none());
        assert_eq!(used.milli(GPUS), 4000);
        let devices = ["GPU-01", "GPU-02"].map(|id| Device { id: id.to_owned(), share: 1.0, memory: 24e9 });
        used.take(&asks(2.0, 0.0).with_devices(devices).expect("amounts"));
        assert!(capacity.place(&used, &asks(2.0, 0.0)).is_some());
        assert!(!is_possible(1500) && is_possible(2000) && is_possible(999));
    }

    #[test]
    fn memory_may_be_the_unit() {
        let (capacity, mut used) = (host(2), Resources::default());
        let all = placed(&capacity, &mut used, &vec![asks(0.0, 8e9); 7]);
        assert_eq!(all.len(), 6, "three on each");
        assert_eq!(all[0], [("GPU-00".to_owned(), 0.333)]);
        assert_eq!(used.milli("gpu_memory:GPU-00"), 24_000_000_000_000);
        assert!(capacity.place(&Resources::default(), &asks(0.0, 25e9)).is_none());
        let both = capacity.place(&Resources::default(), &asks(0.9, 12e9)).expect("it fits");
        assert_eq!((both.milli("gpu:GPU-00"), both.milli("gpu_memory:GPU-00")), (900, 21_600_000_000_000));
        let tiny = capacity.place(&Resources::default(), &asks(0.0, 1.0)).expect("it fits");
        assert_eq!((tiny.milli("gpu:GPU-00"), tiny.milli("gpu_memory:GPU-00")), (1, 1000));
        let unknown = Device { id: "0".to_owned(), share: 1.0, memory: 0.0 };
        let mut without = Resources::parse("slots=1000");
        without.add_devices([&unknown]);
        assert!(without.place(&Resources::default(), &asks(0.0, 1.0)).is_none());
        assert!(without.place(&Resources::default(), &asks(0.5, 0.0)).is_some());
    }

    #[test]
    fn what_is_left_is_told_as_it_is_asked_for() {
        let (capacity, mut used) = (host(2), Resources::default());
        used.add(&Resources::parse(
            "slots=2000;gpus=1000;gpu:GPU-00=400;gpu:GPU-01=600;gpu_memory:GPU-00=9600000000000",
        ));
        let most = |demand: &Resources, name| capacity.most(&used, demand, name);
        assert_eq!(most(&asks(0.7, 0.0), GPUS), 600);
        assert_eq!(most(&asks(1.0, 0.0), GPUS), 0);
        assert_eq!(most(&asks(0.0, 20e9), GPU_MEMORY), 24_000_000_000_000);
        assert_eq!(most(&asks(0.0, 20e9), "slots"), 998_000);
    }

    proptest! {
        #[test]
        fn no_device_is_given_twice(wishes in prop::collection::vec((0u64..=3000, 0u64..30), 1..60), devices in 1usize..6) {
            let (capacity, mut used) = (host(devices), Resources::default());
            let mut taken = vec![];
            for (gpus, gigabytes) in wishes {
                let gpus = if is_possible(gpus) { gpus } else { gpus / 1000 * 1000 };
                let demand = asks(gpus as f64 / 1000.0, gigabytes as f64 * 1e9);
                if let Some(takes) = capacity.place(&used, &demand) {
                    let count = if gpus + gigabytes == 0 { 0 } else { (gpus / 1000).max(1) };
                    prop_assert_eq!(takes.devices().count() as u64, count);
                    used.add(&takes);
                    taken.push(takes);
                }
                prop_assert!(used.iter().all(|(name, milli)| milli <= capacity.milli(name)), "{}", used);
            }
            taken.iter().for_each(|takes| used.take(takes));
            prop_assert_eq!(used, Resources::default());
        }
    }
}
