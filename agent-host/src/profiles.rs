//! Runtime profiles: the Python environments of this host. Each names an interpreter, what its zygote preloads, and
//! environment variables; a launch picks one by name.
//!
//! ```toml
//! [vision]                               # the profile's name
//! python = "/opt/vision/bin/python"      # has rusticai-k8s installed; default: --python
//! preload = ["torch"]                    # default: none
//! environment = { OMP_NUM_THREADS = "1" }
//! confinement = "strict"                 # default: --confinement
//! read = ["/models"]                     # beside what that leaves open; default: none
//! write = ["/scratch"]
//! connect = [443, 6379]
//! ```

use anyhow::{Context as _, ensure};
use rustic_proto::profile::ProfileName;
use rustic_registry::{ConfinementWish, Openings};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// One Python environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Interpreter.
    pub python: PathBuf,
    /// Modules that its zygote imports beside Rustic AI's own.
    pub preload: Vec<String>,
    /// Added to the environment of its zygote and its agents.
    pub environment: BTreeMap<String, String>,
    /// What its agents may reach.
    pub confinement: ConfinementWish,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    python: Option<PathBuf>,
    #[serde(default)]
    preload: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    confinement: Option<String>,
    #[serde(default)]
    read: Vec<PathBuf>,
    #[serde(default)]
    write: Vec<PathBuf>,
    #[serde(default)]
    connect: Vec<u16>,
}

/// All profiles of the host: `default`, and those of the file. Errors: the file cannot be read, or breaks a rule.
pub fn read(default: Profile, file: Option<&Path>) -> anyhow::Result<BTreeMap<ProfileName, Profile>> {
    let entries = match file {
        Some(file) => {
            let context = || format!("--runtime-profiles {}", file.display());
            parse(&fs::read_to_string(file).with_context(context)?).with_context(context)?
        }
        None => BTreeMap::new(),
    };
    let mut profiles = BTreeMap::new();
    for (name, entry) in entries {
        let confinement = confinement(&name, &entry)?;
        let Entry { python, preload, environment, .. } = entry;
        let python = python.unwrap_or_else(|| default.python.clone());
        profiles.insert(name, Profile { python, preload, environment, confinement });
    }
    profiles.insert(ProfileName::default(), default);
    Ok(profiles)
}

fn confinement(name: &ProfileName, entry: &Entry) -> anyhow::Result<ConfinementWish> {
    let level = entry.confinement.as_deref().map(str::parse).transpose();
    let level = level.map_err(|why| anyhow::anyhow!("[{name}] confinement: {why}"))?;
    let relative = entry.read.iter().chain(&entry.write).find(|path| !path.is_absolute());
    ensure!(relative.is_none(), "[{name}]: {relative:?} is no absolute path");
    let openings = Openings { read: entry.read.clone(), write: entry.write.clone(), ports: entry.connect.clone() };
    Ok(ConfinementWish { level, openings })
}

fn parse(text: &str) -> anyhow::Result<BTreeMap<ProfileName, Entry>> {
    let mut entries = BTreeMap::new();
    for (name, entry) in toml::from_str::<BTreeMap<String, Entry>>(text)? {
        let parsed: ProfileName = name.parse().with_context(|| format!("[{name}]"))?;
        ensure!(parsed != ProfileName::default(), "[{name}]: set the default profile by --python and --preload");
        let odd = entry.environment.keys().find(|key| key.is_empty() || key.contains(['=', '\0']));
        ensure!(odd.is_none(), "[{name}]: {odd:?} is no name for an environment variable");
        entries.insert(parsed, entry);
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default() -> Profile {
        Profile {
            python: "python3".into(),
            preload: vec!["json".to_owned()],
            environment: BTreeMap::new(),
            confinement: ConfinementWish::default(),
        }
    }

    fn read_text(text: &str) -> anyhow::Result<BTreeMap<ProfileName, Profile>> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("profiles.toml");
        fs::write(&file, text)?;
        read(default(), Some(&file))
    }

    #[test]
    fn a_file_adds_profiles_to_the_default_one() {
        let text = "[vision]\npython = '/v/bin/python'\npreload = ['torch']\n[tuned]\nenvironment = { A = '1' }\n";
        let profiles = read_text(text).expect("a good file");
        let names: Vec<_> = profiles.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["default", "tuned", "vision"]);
        let of = |name: &str| &profiles[&name.parse::<ProfileName>().expect("a name")];
        assert_eq!(of("vision").python, Path::new("/v/bin/python"));
        assert_eq!(of("tuned").python, Path::new("python3"), "the default interpreter");
        assert_eq!(of("tuned").environment["A"], "1");
        assert_eq!(of("default"), &default());
    }

    #[test]
    fn a_file_that_breaks_a_rule_is_refused_with_the_reason() {
        let why = |text: &str| format!("{:#}", read_text(text).expect_err("must be refused"));
        assert!(why("[a]\npyhton = 'x'\n").contains("pyhton"));
        assert!(why("[default]\n").contains("--python"));
        assert!(why("['a b']\n").contains("a b"));
        assert!(why("[a]\nconfinement = 'loose'\n").contains("standard"));
        assert!(why("[a]\nread = ['data']\n").contains("data"));
        assert!(why("[a]\nenvironment = { 'A=B' = '1' }\n").contains("A=B"));
        let missing = read(default(), Some(Path::new("/no/such/file"))).expect_err("must be refused");
        assert!(format!("{missing:#}").contains("/no/such/file"));
    }
}
