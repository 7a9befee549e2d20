//! What is asked of the scripts that change hosts and the life of the store.

use super::{Ask, Text, host, life, new_life};
use crate::{
    ids::{HostId, Incarnation, StoreLife},
    keys,
    ops::{self, Cordon},
    resources::Resources,
};
use serde::Serialize;
use std::time::Duration;

#[derive(Serialize)]
struct Announce<'a> {
    host: String,
    incarnation: &'a str,
    address: &'a str,
    dns_name: &'a str,
    capacity: Text<&'a Resources>,
    labels: String,
    version: &'a str,
    state: &'static str,
    cordoned: bool,
    ttl: Text<u128>,
    lasts: Text<u128>,
    highest_epoch: Text<u64>,
    highest_life: Text<u64>,
    new_life: Text<uuid::Uuid>,
    succeeds: Option<&'a str>,
    store_life: Option<&'a str>,
    reported: Option<&'a str>,
}

/// For `announce.lua`.
pub(in crate::redis) fn announce(r: &ops::Announce) -> Ask {
    Ask::of(&Announce {
        host: host(&r.host),
        incarnation: r.incarnation.as_str(),
        address: &r.address,
        dns_name: &r.dns_name,
        capacity: Text(&r.capacity),
        labels: serde_json::to_string(&r.labels).unwrap_or_default(),
        version: &r.version,
        state: r.state.as_str(),
        cordoned: r.cordoned,
        ttl: millis(r.ttl),
        lasts: millis(r.lasts),
        highest_epoch: Text(r.highest_epoch.0),
        highest_life: Text(r.highest_life.0),
        new_life: new_life(),
        succeeds: r.succeeds.as_ref().map(Incarnation::as_str),
        store_life: r.store_life.as_ref().and_then(life),
        reported: r.reported.as_ref().and_then(life),
    })
}

#[derive(Serialize)]
struct Renew<'a> {
    host: String,
    incarnation: &'a str,
    life: Text<u64>,
    state: &'static str,
    highest_epoch: Text<u64>,
    store_life: Option<&'a str>,
    reported: bool,
}

/// For `renew.lua`.
pub(in crate::redis) fn renew(r: &ops::Renew) -> Ask {
    Ask::of(&Renew {
        host: host(&r.host),
        incarnation: r.incarnation.as_str(),
        life: Text(r.life.0),
        state: r.state.as_str(),
        highest_epoch: Text(r.highest_epoch.0),
        store_life: life(&r.store_life),
        reported: r.reported,
    })
}

#[derive(Serialize)]
struct Process<'a> {
    host: String,
    incarnation: &'a str,
}

/// For `depart.lua`.
pub(in crate::redis) fn depart(of: &HostId, incarnation: &Incarnation) -> Ask {
    Ask::of(&Process { host: host(of), incarnation: incarnation.as_str() })
}

/// For `forget.lua`.
pub(in crate::redis) fn forget(of: &HostId, incarnation: &Incarnation) -> Ask {
    Ask::of(&Process { host: host(of), incarnation: incarnation.as_str() })
}

#[derive(Serialize)]
struct Named {
    host: String,
}

/// For `audit.lua`.
pub(in crate::redis) fn audit(of: &HostId) -> Ask {
    Ask::of(&Named { host: host(of) })
}

#[derive(Serialize)]
struct Cordoned {
    host: String,
    cordoned: bool,
}

/// For `cordon.lua`.
pub(in crate::redis) fn cordon(of: &HostId, cordon: Cordon) -> Ask {
    Ask::of(&Cordoned { host: host(of), cordoned: cordon == Cordon::On })
}

#[derive(Serialize)]
struct Retire<'a> {
    host: String,
    incarnation: &'a str,
    life: Text<u64>,
    renewals: Text<u64>,
    store_life: Option<&'a str>,
}

/// For `retire.lua`.
pub(in crate::redis) fn retire(r: &ops::Retire) -> Ask {
    let (seen, renewals) = r.seen;
    Ask::of(&Retire {
        host: host(&r.host),
        incarnation: r.incarnation.as_str(),
        life: Text(seen.0),
        renewals: Text(renewals),
        store_life: life(&r.store_life),
    })
}

#[derive(Serialize)]
struct Bring<'a> {
    former_store_life: Option<&'a str>,
    new_life: Text<uuid::Uuid>,
    highest_epoch: Text<u64>,
    highest_life: Text<u64>,
    hosts: Vec<Brought<'a>>,
    stopped: Vec<Stopped>,
}

#[derive(Serialize)]
struct Brought<'a> {
    host: String,
    incarnation: &'a str,
    lasts: Text<u128>,
}

#[derive(Serialize)]
struct Stopped {
    member: String,
    epoch: Text<u64>,
}

/// For `bring.lua`.
pub(in crate::redis) fn bring(r: &ops::Bring) -> Ask {
    let hosts = r.hosts.iter().map(|(of, incarnation, lasts)| Brought {
        host: host(of),
        incarnation: incarnation.as_str(),
        lasts: millis(*lasts),
    });
    let stopped = r.stopped.iter().map(|(key, epoch)| Stopped { member: keys::member(key), epoch: Text(epoch.0) });
    Ask::of(&Bring {
        former_store_life: life(&r.former_store_life),
        new_life: new_life(),
        highest_epoch: Text(r.highest_epoch.0),
        highest_life: Text(r.highest_life.0),
        hosts: hosts.collect(),
        stopped: stopped.collect(),
    })
}

#[derive(Serialize)]
struct Settle<'a> {
    store_life: Option<&'a str>,
    watched: bool,
}

/// For `settle.lua`.
pub(in crate::redis) fn settle(store_life: &StoreLife, watched: bool) -> Ask {
    Ask::of(&Settle { store_life: life(store_life), watched })
}

fn millis(duration: Duration) -> Text<u128> {
    Text(duration.as_millis())
}
