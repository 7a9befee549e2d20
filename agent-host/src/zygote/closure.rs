//! What a class imports, as its agents report it (`python/src/rustic_ai/k8s/runtime/proof/closure.py`).

use super::kind::Kind;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, path::PathBuf};

/// Most modules and files of one class that are kept; one that imports more is not learned from.
const MAX_MODULES: usize = 8192;
/// Longest name of a module, and of a file.
const MAX_NAME: usize = 1024;

/// Whose code a unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// The package of the agent's class.
    Own,
    /// A source folder that is no installed distribution.
    Local,
    /// An installed distribution, or Python itself.
    Installed,
}

/// A package, or a module that stands alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// The package.
    pub name: String,
    /// Whose code it is.
    pub place: Place,
    /// What of it was imported, in this order.
    pub modules: Vec<String>,
    /// Where that came from.
    pub files: Vec<PathBuf>,
}

impl Unit {
    /// A module that an operator named.
    pub fn named(module: &str) -> Self {
        let modules = vec![module.to_owned()];
        Self { name: module.to_owned(), place: Place::Installed, modules, files: vec![] }
    }
}

/// What an agent's class imports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Imports {
    /// Module of the class.
    pub own: String,
    /// What it imports, dependencies more or less first.
    pub units: Vec<Unit>,
    /// Variables of the environment that were asked for meanwhile.
    #[serde(default)]
    pub reads: BTreeSet<String>,
}

impl Imports {
    /// Whether this is small enough to be kept.
    pub fn is_bounded(&self) -> bool {
        let names = || self.units.iter().flat_map(|unit| unit.modules.iter().chain([&unit.name]));
        let files = || self.units.iter().flat_map(|unit| &unit.files);
        let short = names().chain([&self.own]).chain(&self.reads).all(|name| name.len() <= MAX_NAME);
        let short = short && files().all(|file| file.as_os_str().len() <= MAX_NAME);
        short && names().count() + files().count() + self.reads.len() <= 3 * MAX_MODULES
    }

    /// Whether this is what agents of a kind may report: an agent's own code could say anything.
    pub(super) fn is_of(&self, kind: &Kind) -> bool {
        let class = kind.to_string();
        let own = class.rsplit_once('.').map_or("", |(module, _class)| module);
        let belongs = |unit: &Unit, module: &String| {
            module.strip_prefix(&unit.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.own == own && self.units.iter().all(|unit| unit.modules.iter().all(|module| belongs(unit, module)))
    }

    /// Names of everything that it imports.
    pub fn modules(&self) -> BTreeSet<&str> {
        self.units.iter().flat_map(|unit| unit.modules.iter().map(String::as_str)).collect()
    }

    /// Where that comes from.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.units.iter().flat_map(|unit| &unit.files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_belong_to_its_class_or_its_package_is_not_believed() {
        let unit = |name: &str, module: &str| Unit { modules: vec![module.to_owned()], ..Unit::named(name) };
        let imports = |own: &str, unit| Imports { own: own.to_owned(), units: vec![unit], reads: BTreeSet::new() };
        let kind = Kind::named("my.agents.Class with=dependencies");
        assert!(imports("my.agents", unit("numpy", "numpy.linalg")).is_of(&kind));
        assert!(imports("my.agents", unit("numpy", "numpy")).is_of(&kind));
        assert!(!imports("other", unit("numpy", "numpy")).is_of(&kind));
        assert!(!imports("my.agents", unit("numpy", "evil")).is_of(&kind));
        assert!(!imports("my.agents", unit("numpy", "numpyevil")).is_of(&kind));
    }
}
