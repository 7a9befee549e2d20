//! Registry records to messages, and filters back.

use crate::{
    agent::v1 as agent_pb,
    agent_host::v1 as pb,
    engine::v1::{Device, ForceMode, Host, HostState as PbHostState, PendingPolicy},
    violation::Violations,
};
use rustic_core::{
    AgentReason, AgentRecord, Condition, ExitStatus, HostRecord, HostState, LastExit, Phase, Resources, UnixMillis,
    UnreadableAgent, View, devices,
};
use std::{collections::BTreeMap, time::Duration};

/// A phase on the wire.
pub fn phase(phase: Phase) -> agent_pb::AgentPhase {
    match phase {
        Phase::Pending => agent_pb::AgentPhase::Pending,
        Phase::Starting => agent_pb::AgentPhase::Starting,
        Phase::Running => agent_pb::AgentPhase::Running,
        Phase::Restarting => agent_pb::AgentPhase::Restarting,
        Phase::Stopping => agent_pb::AgentPhase::Stopping,
        Phase::Failed => agent_pb::AgentPhase::Failed,
    }
}

/// A phase filter; `None` lets every phase through.
pub fn phase_filter(wire: i32) -> Result<Option<Phase>, Violations> {
    match agent_pb::AgentPhase::try_from(wire) {
        Ok(agent_pb::AgentPhase::Unspecified) => Ok(None),
        Ok(agent_pb::AgentPhase::Pending) => Ok(Some(Phase::Pending)),
        Ok(agent_pb::AgentPhase::Starting) => Ok(Some(Phase::Starting)),
        Ok(agent_pb::AgentPhase::Running) => Ok(Some(Phase::Running)),
        Ok(agent_pb::AgentPhase::Restarting) => Ok(Some(Phase::Restarting)),
        Ok(agent_pb::AgentPhase::Stopping) => Ok(Some(Phase::Stopping)),
        Ok(agent_pb::AgentPhase::Failed) => Ok(Some(Phase::Failed)),
        Err(_) => Err(unknown_enum("phase", "AgentPhase")),
    }
}

/// How much of a record an answer needs.
pub fn view(wire: i32) -> Result<View, Violations> {
    match agent_pb::AgentView::try_from(wire) {
        Ok(agent_pb::AgentView::Unspecified | agent_pb::AgentView::Basic) => Ok(View::Basic),
        Ok(agent_pb::AgentView::Full) => Ok(View::Full),
        Err(_) => Err(unknown_enum("view", "AgentView")),
    }
}

/// How long a create call waits.
pub fn wait_mode(wire: i32) -> Result<agent_pb::WaitMode, Violations> {
    match agent_pb::WaitMode::try_from(wire) {
        Ok(agent_pb::WaitMode::Unspecified | agent_pb::WaitMode::Running) => Ok(agent_pb::WaitMode::Running),
        Ok(mode @ (agent_pb::WaitMode::Accepted | agent_pb::WaitMode::Launched)) => Ok(mode),
        Err(_) => Err(unknown_enum("wait", "WaitMode")),
    }
}

/// What becomes of an agent that fails before it was ever ready.
pub fn first_start(wire: i32) -> Result<pb::FirstStart, Violations> {
    pb::FirstStart::try_from(wire).map_err(|_| unknown_enum("first_start", "FirstStart"))
}

/// What happens to an agent for which no host has room.
pub fn pending_policy(wire: i32) -> Result<PendingPolicy, Violations> {
    match PendingPolicy::try_from(wire) {
        Ok(PendingPolicy::Unspecified) => Ok(PendingPolicy::Refuse),
        Ok(policy) => Ok(policy),
        Err(_) => Err(unknown_enum("pending", "PendingPolicy")),
    }
}

/// Why a host is to stop an agent.
pub fn stop_purpose(wire: i32) -> Result<pb::StopPurpose, Violations> {
    pb::StopPurpose::try_from(wire).map_err(|_| unknown_enum("purpose", "StopPurpose"))
}

/// What a stop does while a handler is at work.
pub fn at_work_policy(wire: i32) -> Result<pb::AtWorkPolicy, Violations> {
    pb::AtWorkPolicy::try_from(wire).map_err(|_| unknown_enum("at_work", "AtWorkPolicy"))
}

/// Whether a host that is retired is overruled.
pub fn forces(wire: i32) -> Result<bool, Violations> {
    match ForceMode::try_from(wire) {
        Ok(ForceMode::Unspecified | ForceMode::None) => Ok(false),
        Ok(ForceMode::RetiredHost) => Ok(true),
        Err(_) => Err(unknown_enum("force", "ForceMode")),
    }
}

fn unknown_enum(field: &str, name: &str) -> Violations {
    let mut violations = Violations::default();
    violations.add(field, format!("is not one of {name}"));
    violations
}

/// A moment on the wire.
pub fn timestamp(at: UnixMillis) -> prost_types::Timestamp {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    prost_types::Timestamp { seconds, nanos: (at.0 % 1000) as i32 * 1_000_000 }
}

/// A duration on the wire.
pub fn duration(duration: Duration) -> prost_types::Duration {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    prost_types::Duration { seconds, nanos: duration.subsec_nanos() as i32 }
}

/// An exit on the wire.
pub fn last_exit(exit: &LastExit) -> agent_pb::LastExit {
    let status = match exit.status {
        ExitStatus::Code(code) => agent_pb::last_exit::Status::Code(code),
        ExitStatus::Signal(signal) => agent_pb::last_exit::Status::Signal(signal),
    };
    agent_pb::LastExit { status: Some(status), exit_time: Some(timestamp(exit.at)) }
}

/// An agent on the wire.
pub fn agent(record: &AgentRecord) -> agent_pb::Agent {
    let (reason, message) = Condition::parts(record.condition.as_ref());
    agent_pb::Agent {
        organization_id: record.key.guild.organization.to_string(),
        guild_id: record.key.guild.id.to_string(),
        agent_id: record.key.agent.to_string(),
        name: record.name.clone(),
        phase: phase(record.phase()).into(),
        host_id: record.host().map(ToString::to_string).unwrap_or_default(),
        pid: record.pid().unwrap_or(0),
        epoch: record.epoch.0,
        restarts: record.restarts,
        reason: reason.to_owned(),
        last_exit: record.last_exit.as_ref().map(last_exit),
        create_time: Some(timestamp(record.created)),
        last_running_time: record.running.map(timestamp),
        machine_id: record.machine_id.into(),
        devices: record.assignment().map(|place| device_parts(&place.takes)).unwrap_or_default(),
        agent_spec: record.documents.as_ref().map(|d| d.spec.clone()).unwrap_or_default(),
        usage: None,
        confinement: None,
        last_lines: record.last_lines.clone(),
        message: message.to_owned(),
    }
}

/// An agent whose record another version wrote.
pub fn unreadable_agent(agent: &UnreadableAgent) -> agent_pb::Agent {
    agent_pb::Agent {
        organization_id: agent.key.guild.organization.to_string(),
        guild_id: agent.key.guild.id.to_string(),
        agent_id: agent.key.agent.to_string(),
        phase: agent_pb::AgentPhase::Unspecified.into(),
        reason: AgentReason::RecordUnreadable.to_string(),
        message: format!("this version cannot read the record: {}", agent.what),
        ..agent_pb::Agent::default()
    }
}

/// Amounts on the wire.
pub fn amounts(resources: &Resources) -> BTreeMap<String, f64> {
    resources.amounts().collect()
}

/// Parts of devices on the wire, by id.
pub fn device_parts(takes: &Resources) -> BTreeMap<String, agent_pb::DevicePart> {
    let part =
        |device: &devices::Device| agent_pb::DevicePart { share: device.share, memory_bytes: device.memory as u64 };
    takes.devices().map(|device| (device.id.clone(), part(&device))).collect()
}

/// Reads what [`device_parts`] wrote.
pub fn parts(devices: &BTreeMap<String, agent_pb::DevicePart>) -> impl Iterator<Item = devices::Device> {
    devices.iter().map(|(id, part)| devices::Device {
        id: id.clone(),
        share: part.share,
        memory: part.memory_bytes as f64,
    })
}

/// The devices of a host on the wire.
fn devices_of(record: &HostRecord) -> Vec<Device> {
    let used = device_parts(&record.used);
    let device = |device: devices::Device| {
        let used = used.get(&device.id).copied().unwrap_or_default();
        Device {
            device_id: device.id,
            memory_bytes: device.memory as u64,
            used: used.share,
            used_memory_bytes: used.memory_bytes,
        }
    };
    record.capacity.devices().map(device).collect()
}

/// A host on the wire; `silent`: it has not renewed its lease in time.
pub fn host(record: &HostRecord, silent: bool) -> Host {
    let state = match record.state {
        _ if silent => PbHostState::Expired,
        HostState::Ready if !record.cordoned => PbHostState::Ready,
        HostState::Ready | HostState::Draining => PbHostState::Draining,
    };
    let ttl = u64::try_from(record.ttl.as_millis()).unwrap_or(u64::MAX);
    let deadline = UnixMillis(record.renewed.0.saturating_add(ttl));
    Host {
        host_id: record.host.to_string(),
        address: record.address.clone(),
        dns_name: record.dns_name.clone(),
        state: state.into(),
        incarnation: record.incarnation.to_string(),
        lease_expiry_time: Some(timestamp(deadline)),
        capacity: amounts(&record.capacity),
        used: amounts(&record.used),
        devices: devices_of(record),
        labels: record.labels.clone(),
        version: record.version.clone(),
    }
}
