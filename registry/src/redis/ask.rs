//! What the scripts are asked: of each operation the one document that its script takes, a MessagePack map.
//!
//! `lua/prelude.lua` reads it into `ask`; the head of each script names the fields that the script reads. Owns how a request becomes
//! a document, and nothing of what it means. The rules for all of them:
//!
//! - **Ids** of guilds, agents and hosts are percent-encoded ([`keys`]), as they are in keys and indexes. Room is in its stored form.
//! - **What is stored is text**, also numbers ([`Text`]): epochs, leases, renewals, sequences, milliseconds, machine ids. Scripts
//!   compare them with what is stored as text; and a number in Lua is a double, of which Lua makes `1e+17` when it stores it.
//! - **Numbers** are only limits: Redis reads one of 2^63 and more as negative.
//! - **Yes or no** is a boolean, which a script may not hand to Redis as it is.
//! - **What is absent** is nil in MessagePack, and so in Lua. An empty text is not absent, and is true in Lua.
//! - **Bytes** that need not be UTF-8, as those of a launch, are a field that is added to the encoded map ([`Ask::with`]).

mod agents;
mod hosts;
mod reads;

pub(super) use agents::{advance, assign, bury, claim, release, remember, restore, unassign};
pub(super) use hosts::{announce, audit, bring, cordon, depart, forget, renew, retire, settle};
pub(super) use reads::{list, nothing, oldest};

use crate::{
    ids::{HostId, StoreLife},
    keys, placement,
};
use serde::{Serialize, Serializer};
use std::fmt::Display;

/// What one call of a script is asked.
pub(super) struct Ask(Vec<u8>);

impl Ask {
    fn of(ask: &impl Serialize) -> Self {
        Self(rmp_serde::to_vec_named(ask).expect("memory takes it, and no field can fail"))
    }

    /// Adds a field of any bytes. The cmsgpack of Redis does not know `bin`, the type of MessagePack for bytes that are no text: it
    /// refuses the whole map. It reads `str` as it is, whatever its bytes, but serde writes only what is UTF-8 as one.
    fn with(self, field: &str, bytes: &[u8]) -> Self {
        let mut fields = &*self.0;
        let count = rmp::decode::read_map_len(&mut fields).expect("it is a map");
        let length = u32::try_from(bytes.len()).expect("Redis takes no argument of 4 GiB");
        let mut out = Vec::with_capacity(self.0.len() + field.len() + bytes.len() + 16);
        let add = |out: &mut Vec<u8>| {
            rmp::encode::write_map_len(out, count + 1)?;
            out.extend_from_slice(fields);
            rmp::encode::write_str(out, field)?;
            rmp::encode::write_str_len(out, length)
        };
        add(&mut out).expect("memory takes it");
        out.extend_from_slice(bytes);
        Self(out)
    }

    /// The first argument of its script.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A value as the text that the store has of it, and no number.
struct Text<T>(T);

impl<T: Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn host(id: &HostId) -> String {
    keys::encode(id.as_str())
}

/// Hosts to try.
#[derive(Serialize)]
struct Candidates {
    hosts: Vec<String>,
    spread: usize,
}

impl From<&placement::Candidates> for Candidates {
    fn from(candidates: &placement::Candidates) -> Self {
        Self { hosts: candidates.hosts.iter().map(host).collect(), spread: candidates.spread }
    }
}

/// The life of the store that a caller names; [`StoreLife::NONE`] names none.
fn life(store: &StoreLife) -> Option<&str> {
    Some(store.0.as_str()).filter(|life| !life.is_empty())
}

/// A name for a life of the store, if there is none.
fn new_life() -> Text<uuid::Uuid> {
    Text(uuid::Uuid::new_v4())
}
