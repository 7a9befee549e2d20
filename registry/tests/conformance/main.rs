//! The registry's promises, held to by the store in Redis and by its twin in memory.
//!
//! `claims.rs`, `devices.rs`, `apart.rs`, `agents.rs`, `hosts.rs`, `lines.rs`, `reads.rs` and `fields.rs` say what every registry must do and run against
//! both; `twins.rs` applies the same random operations to both and compares every answer and everything they hold; `lives.rs` puts
//! both into another life. `forms.rs`, `unreadable.rs` and `sentinels.rs` are about Redis alone, where other versions may have been at work,
//! and another server may take its place.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

/// Runs each promise, written once, against both stores.
macro_rules! promises {
    ($($name:ident),+ $(,)?) => {
        mod in_memory { $(#[tokio::test] async fn $name() { super::$name(crate::requests::memory()).await })+ }
        mod in_redis { $(#[tokio::test] async fn $name() {
            let redis = crate::requests::TestRedis::start();
            super::$name(redis.registry()).await
        })+ }
    };
}

mod agents;
mod apart;
mod claims;
mod devices;
mod fields;
mod forms;
mod hosts;
mod lines;
mod lives;
mod reads;
mod requests;
mod sentinels;
mod twins;
mod unreadable;
