//! What a process gets on its standard input: one JSON object on one line, then end of file.

use super::Order;
use crate::agent::poison::Skip;
use serde::Serialize;
use std::path::Path;

/// Version of the document; a runtime refuses one it does not know.
const VERSION: u32 = 1;

/// The launch. JSON documents in it are strings that hold the caller's text, never re-encoded.
#[derive(Serialize)]
struct Document<'a> {
    version: u32,
    guild_id: &'a str,
    agent_id: &'a str,
    organization_id: &'a str,
    epoch: u64,
    /// The machine of Rustic AI's ids, and which part of its sequence.
    machine_id: u8,
    share: u16,
    agent_spec: &'a str,
    guild_spec: &'a str,
    messaging_config: &'a str,
    client_type: &'a str,
    client_properties: &'a str,
    /// Where the process writes what it is at work on; a command has no such place.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a Path>,
    /// Its host watches whether it comes round.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    watched: bool,
    /// Memory that the process may use beyond what its interpreter takes, in bytes; a command's is bounded already.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_limit: Option<u64>,
    /// Messages that are set aside instead of being handled.
    #[serde(skip_serializing_if = "<[Skip]>::is_empty")]
    skip: &'a [Skip],
}

/// Writes the document of an order.
pub(super) fn document(order: &Order) -> Vec<u8> {
    let message = &order.launch.message;
    let document = Document {
        version: VERSION,
        guild_id: order.launch.key.guild.id.as_str(),
        agent_id: order.launch.key.agent.as_str(),
        organization_id: order.launch.key.guild.organization.as_str(),
        epoch: order.epoch.0,
        machine_id: order.machine_id.machine(),
        share: order.machine_id.share(),
        agent_spec: &message.agent_spec,
        guild_spec: &message.guild_spec,
        messaging_config: &message.messaging_config,
        client_type: &message.client_type,
        client_properties: &message.client_properties,
        state: order.state.as_deref(),
        watched: order.launch.liveness_timeout.is_some(),
        memory_limit: order.memory,
        skip: &order.skip,
    };
    let mut text = serde_json::to_vec(&document)
        .expect("strings and numbers always serialize, and so does a path that came from a flag");
    // A line end, for programs that read line by line.
    text.push(b'\n');
    text
}
