//! The Lua scripts, each with what it shares with others before it: the look at the store's form, the prelude, and for some the line
//! of those that wait and what records become.

use super::schema::Schema;
use deadpool_redis::redis::Script;

macro_rules! script {
    ($parts:expr, $file:literal) => {
        Script::new(&[&*$parts, include_str!(concat!("../lua/", $file))].concat())
    };
}

/// Before every script.
const PRELUDE: &str = concat!(include_str!("../lua/schema.lua"), include_str!("../lua/prelude.lua"));
/// After it, before those that make or remove records, or give them room or take it. The others, among them those that hosts call
/// most, are faster without: each call makes anew all functions that stand before its script.
const RECORDS: &str = concat!(include_str!("../lua/line.lua"), include_str!("../lua/records.lua"));

/// All scripts, hashed once.
pub(super) struct Scripts {
    pub(super) announce: Script,
    pub(super) renew: Script,
    pub(super) depart: Script,
    pub(super) claim: Script,
    pub(super) advance: Script,
    pub(super) release: Script,
    pub(super) list: Script,
    pub(super) hosts: Script,
    pub(super) assign: Script,
    pub(super) retire: Script,
    pub(super) forget: Script,
    pub(super) bring: Script,
    pub(super) settle: Script,
    pub(super) bury: Script,
    pub(super) oldest: Script,
    pub(super) lines: Script,
    pub(super) restore: Script,
    pub(super) remember: Script,
    pub(super) cordon: Script,
    pub(super) audit: Script,
    pub(super) rights: Script,
}

impl Scripts {
    pub(super) fn load(schema: &Schema) -> Self {
        let plain = [&*schema.lua(), PRELUDE].concat();
        let records = [&*plain, RECORDS].concat();
        Self {
            announce: script!(records, "announce.lua"),
            renew: script!(plain, "renew.lua"),
            depart: script!(plain, "depart.lua"),
            claim: script!(records, "claim.lua"),
            advance: script!(plain, "advance.lua"),
            release: script!(records, "release.lua"),
            list: script!(plain, "list.lua"),
            hosts: script!(plain, "hosts.lua"),
            assign: script!(records, "assign.lua"),
            retire: script!(plain, "retire.lua"),
            forget: script!(plain, "forget.lua"),
            bring: script!(records, "bring.lua"),
            settle: script!(plain, "settle.lua"),
            bury: script!(records, "bury.lua"),
            oldest: script!(plain, "oldest.lua"),
            lines: script!(plain, "lines.lua"),
            restore: script!(records, "restore.lua"),
            remember: script!(records, "remember.lua"),
            cordon: script!(plain, "cordon.lua"),
            audit: script!(records, "audit.lua"),
            rights: script!("", "rights.lua"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeSet, fs, path::Path};

    /// Words in capitals after each `before`.
    fn commands(text: &str, before: &str) -> BTreeSet<String> {
        let words = text.split(before).skip(1).map(|rest| rest.split(|c: char| !c.is_ascii_uppercase()).next());
        words.flatten().filter(|word| !word.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn every_command_of_a_script_is_tried_for_its_right_and_named_in_the_documents() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let (mut used, mut tried) = (BTreeSet::new(), BTreeSet::new());
        for entry in fs::read_dir(root.join("src/lua")).expect("it is there").flatten() {
            let text = fs::read_to_string(entry.path()).expect("a script");
            if entry.file_name() == "rights.lua" {
                tried = commands(&text, "{'");
            } else {
                used.extend(
                    [commands(&text, "redis.call('"), commands(&text, "redis.pcall('")].into_iter().flatten(),
                );
            }
        }
        assert_eq!(used, tried);
        let text = fs::read_to_string(root.join("../docs/redis.md")).expect("it is there");
        let rights = text.lines().find(|line| line.starts_with("ACL SETUSER rustic on")).expect("the command");
        let named: BTreeSet<_> = rights.split(" +").skip(1).map(str::to_uppercase).collect();
        // What services ask for beside their scripts.
        let beside = ["EVALSHA", "SCRIPT|LOAD", "PING", "SELECT", "UNWATCH", "XREAD"];
        assert_eq!(named, used.into_iter().chain(beside.map(str::to_owned)).collect());
    }

    #[test]
    fn scripts_of_two_versions_with_the_same_text_have_the_same_hash() {
        let hash = |schema: &Schema| Scripts::load(schema).claim.get_hash().to_owned();
        assert_eq!(hash(&Schema::new(1, vec![])), hash(&Schema::new(2, vec![])));
        assert_ne!(hash(&Schema::new(2, vec![])), hash(&Schema::new(2, vec![(2, "return")])));
    }
}
