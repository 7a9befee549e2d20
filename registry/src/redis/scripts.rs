//! The Lua scripts, each with what they share before it: the look at the store's form, the prelude, and the
//! line of those that wait.

use super::schema::Schema;
use deadpool_redis::redis::Script;

macro_rules! script {
    ($schema:expr, $file:literal) => {
        Script::new(&[$schema, SHARED, include_str!(concat!("../lua/", $file))].concat())
    };
}

const SHARED: &str =
    concat!(include_str!("../lua/schema.lua"), include_str!("../lua/prelude.lua"), include_str!("../lua/line.lua"),);

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
    pub(super) place: Script,
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
}

impl Scripts {
    pub(super) fn load(schema: &Schema) -> Self {
        let schema = &*schema.lua();
        Self {
            announce: script!(schema, "announce.lua"),
            renew: script!(schema, "renew.lua"),
            depart: script!(schema, "depart.lua"),
            claim: script!(schema, "claim.lua"),
            advance: script!(schema, "advance.lua"),
            release: script!(schema, "release.lua"),
            list: script!(schema, "list.lua"),
            hosts: script!(schema, "hosts.lua"),
            place: script!(schema, "place.lua"),
            retire: script!(schema, "retire.lua"),
            forget: script!(schema, "forget.lua"),
            bring: script!(schema, "bring.lua"),
            settle: script!(schema, "settle.lua"),
            bury: script!(schema, "bury.lua"),
            oldest: script!(schema, "oldest.lua"),
            lines: script!(schema, "lines.lua"),
            restore: script!(schema, "restore.lua"),
            remember: script!(schema, "remember.lua"),
            cordon: script!(schema, "cordon.lua"),
        }
    }
}
