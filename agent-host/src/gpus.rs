//! The GPUs of this host: named by the operator, or found by asking their driver.
//!
//! NVML, the library of NVIDIA's driver, is loaded when the host starts, if the machine has it: in a pod it lists what the pod was given.

use nvml_wrapper::{Nvml, error::NvmlError};
use rustic_registry::devices::{Device, is_id};
use std::{collections::BTreeSet, str::FromStr};
use tracing::{info, warn};

/// Most GPUs that can be named by their number.
const MOST: usize = 1024;

/// Which GPUs a host has, as its operator says.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Gpus {
    /// Those that their driver lists.
    #[default]
    Auto,
    /// These.
    Named(Vec<Device>),
}

/// Why a text does not say which.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum GpusError {
    /// An id is none.
    #[error("{0:?} cannot be the id of a GPU: letters, digits and the characters -_.: can")]
    Id(String),
    /// What follows an id is no amount of memory.
    #[error("{0:?} is no amount of memory in bytes")]
    Memory(String),
    /// It is named twice.
    #[error("{0:?} is named twice")]
    Twice(String),
    /// Too many.
    #[error("{0} GPUs are more than the {MOST} that a host can have")]
    TooMany(usize),
}

impl FromStr for Gpus {
    type Err = GpusError;

    /// `auto`, `none`, how many, or their ids, each with its memory in bytes if that is known: `GPU-8f…=24e9,GPU-01…=24e9`.
    fn from_str(text: &str) -> Result<Self, GpusError> {
        match (text, text.parse::<usize>()) {
            ("auto", _) => return Ok(Self::Auto),
            ("none", _) => return Ok(Self::Named(vec![])),
            (_, Ok(count)) if count > MOST => return Err(GpusError::TooMany(count)),
            (_, Ok(count)) => return Ok(Self::Named((0..count).map(|n| device(n.to_string(), 0.0)).collect())),
            _ => {}
        }
        let devices: Vec<_> = text.split(',').map(one).collect::<Result<_, _>>()?;
        let mut seen = BTreeSet::new();
        match devices.iter().find(|device| !seen.insert(&device.id)) {
            Some(twice) => Err(GpusError::Twice(twice.id.clone())),
            None => Ok(Self::Named(devices)),
        }
    }
}

fn one(text: &str) -> Result<Device, GpusError> {
    let (id, memory) = text.split_once('=').unwrap_or((text, "0"));
    let bytes = memory.parse().ok().filter(|bytes: &f64| bytes.is_finite() && *bytes >= 0.0);
    let memory = bytes.ok_or_else(|| GpusError::Memory(memory.to_owned()))?;
    if is_id(id) { Ok(device(id.to_owned(), memory)) } else { Err(GpusError::Id(id.to_owned())) }
}

fn device(id: String, memory: f64) -> Device {
    Device { id, share: 1.0, memory }
}

/// What lists GPUs.
trait Driver {
    /// All that there are; `None`: this machine has no such driver.
    fn list(&self) -> Result<Option<Vec<Device>>, NvmlError>;
}

/// NVIDIA's.
struct Nvidia;

impl Driver for Nvidia {
    fn list(&self) -> Result<Option<Vec<Device>>, NvmlError> {
        let nvml = match Nvml::init() {
            Err(NvmlError::LibloadingError(_) | NvmlError::LibraryNotFound | NvmlError::DriverNotLoaded) => {
                return Ok(None);
            }
            loaded => loaded?,
        };
        let one = |number| {
            let found = nvml.device_by_index(number)?;
            #[allow(clippy::cast_precision_loss, reason = "no GPU has that much memory")]
            Ok(device(found.uuid()?, found.memory_info()?.total as f64))
        };
        (0..nvml.device_count()?).map(one).collect::<Result<_, _>>().map(Some)
    }
}

impl Gpus {
    /// The GPUs that this host has. One whose driver fails has none, and says why.
    pub fn find(&self) -> Vec<Device> {
        match self {
            Self::Named(devices) => devices.clone(),
            Self::Auto => found(&Nvidia),
        }
    }
}

fn found(driver: &dyn Driver) -> Vec<Device> {
    match driver.list() {
        Ok(None) => vec![],
        Ok(Some(devices)) => {
            let (known, strange): (Vec<_>, Vec<_>) = devices.into_iter().partition(|device| is_id(&device.id));
            if !strange.is_empty() {
                warn!(?strange, "GPUs with such ids cannot be used; name them with --gpus");
            }
            info!(?known, "GPUs were found");
            known
        }
        Err(error) => {
            warn!(%error, "the driver of this machine's GPUs fails: the host has none; name them with --gpus");
            vec![]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(Result<Option<Vec<Device>>, ()>);

    impl Driver for Fake {
        fn list(&self) -> Result<Option<Vec<Device>>, NvmlError> {
            self.0.clone().map_err(|()| NvmlError::GpuLost)
        }
    }

    #[test]
    fn what_the_driver_lists_is_found_and_one_that_fails_or_is_not_there_has_none() {
        let all = vec![device("GPU-a".to_owned(), 24e9), device("GPU-b".to_owned(), 24e9)];
        assert_eq!(found(&Fake(Ok(Some(all.clone())))), all);
        let strange = [all.clone(), vec![device("a;b=c".to_owned(), 1.0)]].concat();
        assert_eq!(found(&Fake(Ok(Some(strange)))), all);
        assert_eq!(found(&Fake(Ok(None))), []);
        assert_eq!(found(&Fake(Err(()))), []);
    }

    #[test]
    fn gpus_are_named_by_number_or_by_id_with_their_memory() {
        let ids = |text: &str| match text.parse() {
            Ok(Gpus::Named(devices)) => devices.into_iter().map(|device| (device.id, device.memory)).collect(),
            other => panic!("{other:?}"),
        };
        let none: Vec<(String, f64)> = vec![];
        assert_eq!((ids("none"), ids("0")), (none.clone(), none));
        assert_eq!(ids("2"), [("0".to_owned(), 0.0), ("1".to_owned(), 0.0)]);
        assert_eq!(ids("GPU-a=24e9,GPU-b"), [("GPU-a".to_owned(), 24e9), ("GPU-b".to_owned(), 0.0)]);
        assert_eq!("auto".parse(), Ok(Gpus::Auto));
    }

    #[test]
    fn what_says_nothing_is_refused() {
        for (text, word) in [
            ("", "id"),
            ("a b", "id"),
            ("a=x", "memory"),
            ("a=-1", "memory"),
            ("a,a", "twice"),
            ("9999", "more than"),
        ] {
            let error = text.parse::<Gpus>().expect_err("it says nothing").to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
    }
}
