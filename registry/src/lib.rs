//! The registry: the one place that says which host may run which agent.
//!
//! This crate owns the keys, the scripts in Redis and how they are asked, and nothing else: no gRPC, no processes, no policy. What an
//! operation means stands in the rule book (`rustic_core`). Every change is one script, atomic and compare-and-set, so that any number of
//! engines and hosts may call it at once.
//!
//! | module | what |
//! | --- | --- |
//! | [`store`] | the operations, as a trait |
//! | [`redis`] | the store over deadpool-redis and Lua |
//! | [`memory`] | the twin in memory: the rule book itself; both are held to the same conformance tests |
//! | [`unreadable`] | rows that another version wrote |
//! | [`dev_server`] | a private Redis for development and tests |

pub mod dev_server;
pub mod keys;
pub mod memory;
pub mod redis;
pub mod store;
pub mod unreadable;

mod error;

pub use error::{FormTrouble, RegistryError};
pub use memory::MemoryRegistry;
pub use redis::{AccessError, RedisAccess, RedisRegistry, RedisSettings, Schema, Sentinel};
pub use rustic_core::*;
pub use store::Registry;
