//! The Lua scripts, each with the shared prelude before it.

use deadpool_redis::redis::Script;

macro_rules! script {
    ($file:literal) => {
        Script::new(concat!(include_str!("../lua/prelude.lua"), include_str!(concat!("../lua/", $file))))
    };
}

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
    pub(super) restore: Script,
    pub(super) remember: Script,
    pub(super) cordon: Script,
}

impl Scripts {
    pub(super) fn load() -> Self {
        Self {
            announce: script!("announce.lua"),
            renew: script!("renew.lua"),
            depart: script!("depart.lua"),
            claim: script!("claim.lua"),
            advance: script!("advance.lua"),
            release: script!("release.lua"),
            list: script!("list.lua"),
            hosts: script!("hosts.lua"),
            place: script!("place.lua"),
            retire: script!("retire.lua"),
            forget: script!("forget.lua"),
            bring: script!("bring.lua"),
            settle: script!("settle.lua"),
            bury: script!("bury.lua"),
            oldest: script!("oldest.lua"),
            restore: script!("restore.lua"),
            remember: script!("remember.lua"),
            cordon: script!("cordon.lua"),
        }
    }
}
