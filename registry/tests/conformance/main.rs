//! The registry's promises, held to by the store in Redis and by its twin in memory.
//!
//! `suite.rs` says what every registry must do and runs against both; `twins.rs` applies the same random operations
//! to both and compares every answer and everything they hold; `lives.rs` puts both into another run of Redis.

#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod lives;
mod requests;
mod suite;
mod twins;
