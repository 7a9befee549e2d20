//! What a launch asks for of its confinement, as far as that can be checked without knowing the host.

use crate::{
    agent::v1::{Confinement, ConfinementLevel as Wire},
    violation::Violations,
};
use rustic_core::{ConfinementLevel, ConfinementWish, Openings};
use std::path::{Component, Path, PathBuf};

/// Where a launch asks for its confinement.
pub const CONFINEMENT_FIELD: &str = "launch.confinement";

/// Reads what a launch asks for.
pub(crate) fn read(wire: Option<&Confinement>, v: &mut Violations) -> ConfinementWish {
    let Some(wire) = wire else { return ConfinementWish::default() };
    let level = match Wire::try_from(wire.level) {
        Ok(Wire::Unspecified) => None,
        Ok(Wire::Off) => Some(ConfinementLevel::Off),
        Ok(Wire::Standard) => Some(ConfinementLevel::Standard),
        Ok(Wire::Strict) => Some(ConfinementLevel::Strict),
        Err(_) => {
            v.add("launch.confinement.level", "is not one of ConfinementLevel; use STANDARD, STRICT or OFF");
            None
        }
    };
    let read = paths("launch.confinement.read_paths", &wire.read_paths, v);
    let write = paths("launch.confinement.write_paths", &wire.write_paths, v);
    let port = |port: &u32| match u16::try_from(*port) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            v.add("launch.confinement.connect_ports", format!("has {port}, which is no port; use 1 to 65535"));
            None
        }
    };
    let ports = wire.connect_ports.iter().filter_map(port).collect();
    ConfinementWish { level, openings: Openings { read, write, ports } }
}

/// The level on the wire.
pub fn level_on_wire(level: ConfinementLevel) -> Wire {
    match level {
        ConfinementLevel::Off => Wire::Off,
        ConfinementLevel::Standard => Wire::Standard,
        ConfinementLevel::Strict => Wire::Strict,
    }
}

fn paths(field: &str, paths: &[String], v: &mut Violations) -> Vec<PathBuf> {
    let plain = |path: &Path| path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    for path in paths {
        if !Path::new(path).is_absolute() || !plain(Path::new(path)) || path.contains('\0') {
            v.add(field, format!("has {path:?}; give an absolute path without .."));
        }
    }
    paths.iter().map(PathBuf::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_ports_that_are_none_are_named() {
        let mut v = Violations::default();
        let good = Confinement {
            level: Wire::Strict.into(),
            read_paths: vec!["/data/in".to_owned()],
            write_paths: vec!["/data/out".to_owned()],
            connect_ports: vec![443],
        };
        let wish = read(Some(&good), &mut v);
        assert_eq!(wish.level, Some(ConfinementLevel::Strict));
        assert_eq!(wish.openings.ports, [443]);
        assert_eq!(v.iter().count(), 0);
        let bad = Confinement {
            level: 77,
            read_paths: vec!["data".to_owned(), "/a/../b".to_owned()],
            write_paths: vec![String::new()],
            connect_ports: vec![0, 65536],
        };
        read(Some(&bad), &mut v);
        let fields: Vec<_> = v.iter().map(|(field, _)| field.rsplit('.').next().unwrap_or_default()).collect();
        assert_eq!(fields, ["level", "read_paths", "read_paths", "write_paths", "connect_ports", "connect_ports"]);
        assert_eq!(read(None, &mut v), ConfinementWish::default());
    }
}
