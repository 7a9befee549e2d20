//! Checks shared by all requests: names, page size and token, durations.

use crate::violation::Violations;
use rustic_core::{AgentId, AgentKey, GuildId, GuildKey, HostId, OrganizationId, RequestId, Scope, encoded};
use std::time::Duration;

/// Agents or hosts in a page unless asked for otherwise.
pub const DEFAULT_PAGE_SIZE: usize = 100;
/// Largest page.
pub const MAX_PAGE_SIZE: usize = 1000;
/// Time between SIGTERM and SIGKILL unless asked for otherwise.
pub const DEFAULT_STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time between SIGTERM and SIGKILL.
pub const MAX_STOP_TIMEOUT: Duration = Duration::from_secs(600);

/// Reads the id of an organization in `field`; whoever names none means the default one.
pub(crate) fn organization(field: &str, id: &str, violations: &mut Violations) -> Option<OrganizationId> {
    if id.is_empty() { Some(OrganizationId::default()) } else { violations.id(field, id) }
}

fn guild(organization_id: &str, guild_id: &str, violations: &mut Violations) -> Option<GuildKey> {
    let organization = organization("organization_id", organization_id, violations);
    let id = violations.id::<GuildId>("guild_id", guild_id);
    organization.zip(id).map(|(organization, id)| GuildKey { organization, id })
}

/// Reads what names an agent.
pub fn agent_key(organization_id: &str, guild_id: &str, agent_id: &str) -> Result<AgentKey, Violations> {
    let mut violations = Violations::default();
    let guild = guild(organization_id, guild_id, &mut violations);
    let agent = violations.id::<AgentId>("agent_id", agent_id);
    let key = guild.zip(agent).map(|(guild, agent)| AgentKey { guild, agent });
    violations.into_result(key)
}

/// Reads what names a guild.
pub fn guild_key(organization_id: &str, guild_id: &str) -> Result<GuildKey, Violations> {
    let mut violations = Violations::default();
    let key = guild(organization_id, guild_id, &mut violations);
    violations.into_result(key)
}

/// Reads whose agents are meant: those of a guild, of an organization, or everybody's.
pub fn scope(organization_id: &str, guild_id: &str) -> Result<Scope, Violations> {
    match (organization_id, guild_id) {
        ("", "") => Ok(Scope::All),
        (_, "") => {
            let mut violations = Violations::default();
            let organization = violations.id("organization_id", organization_id);
            violations.into_result(organization).map(Scope::Organization)
        }
        _ => guild_key(organization_id, guild_id).map(Scope::Guild),
    }
}

/// Reads the id of a host.
pub fn host_id(host: &str) -> Result<HostId, Violations> {
    let mut violations = Violations::default();
    let id = violations.id("host_id", host);
    violations.into_result(id)
}

/// Reads an optional host id.
pub fn host_filter(host: &str) -> Result<Option<HostId>, Violations> {
    if host.is_empty() {
        return Ok(None);
    }
    let mut violations = Violations::default();
    let id = violations.id("host_id", host);
    violations.into_result(id).map(Some)
}

/// Reads a request id, or makes one up.
pub fn request_id(text: &str) -> Result<RequestId, Violations> {
    let mut violations = Violations::default();
    let made_up = uuid::Uuid::new_v4().to_string();
    let id = violations.id("request_id", if text.is_empty() { &made_up } else { text });
    violations.into_result(id)
}

/// Reads the time between SIGTERM and SIGKILL.
pub fn stop_timeout(wire: Option<&prost_types::Duration>) -> Result<Duration, Violations> {
    let mut violations = Violations::default();
    let timeout = duration("timeout", wire, MAX_STOP_TIMEOUT, &mut violations).unwrap_or(DEFAULT_STOP_TIMEOUT);
    violations.into_result(Some(timeout))
}

/// Reads an optional duration of at most `max`.
pub fn duration(
    field: &str,
    wire: Option<&prost_types::Duration>,
    max: Duration,
    violations: &mut Violations,
) -> Option<Duration> {
    let wire = wire?;
    match Duration::try_from(*wire) {
        Ok(duration) if duration <= max => Some(duration),
        Ok(_) => {
            violations.add(field, format!("must be at most {} s", max.as_secs()));
            None
        }
        Err(_) => {
            violations.add(field, "must not be negative");
            None
        }
    }
}

/// Reads a page size.
pub fn page_size(wire: u32) -> Result<usize, Violations> {
    match usize::try_from(wire) {
        Ok(0) => Ok(DEFAULT_PAGE_SIZE),
        Ok(size) if size <= MAX_PAGE_SIZE => Ok(size),
        _ => {
            let mut violations = Violations::default();
            violations.add("page_size", format!("is {wire}; ask for at most {MAX_PAGE_SIZE}"));
            Err(violations)
        }
    }
}

/// What is wrong with the revision of a watch.
pub fn unknown_revision() -> Violations {
    let mut violations = Violations::default();
    violations.add("revision", "is not one this service gave out; watch without one");
    violations
}

fn unknown_token() -> Violations {
    let mut violations = Violations::default();
    violations.add("page_token", "is not one this service gave out; start again without a token");
    violations
}

/// Token of the page of agents that follows `key`.
pub fn agent_token(key: Option<&AgentKey>) -> String {
    key.map(|key| format!("a1.{}", encoded::member(key))).unwrap_or_default()
}

/// Reads what [`agent_token`] wrote.
pub fn read_agent_token(token: &str) -> Result<Option<AgentKey>, Violations> {
    if token.is_empty() {
        return Ok(None);
    }
    token.strip_prefix("a1.").and_then(encoded::parse_member).map(Some).ok_or_else(unknown_token)
}

/// Token of the page of hosts that follows `host`.
pub fn host_token(host: Option<&HostId>) -> String {
    host.map(|host| format!("h1.{}", encoded::encode(host.as_str()))).unwrap_or_default()
}

/// Reads what [`host_token`] wrote.
pub fn read_host_token(token: &str) -> Result<Option<HostId>, Violations> {
    if token.is_empty() {
        return Ok(None);
    }
    token.strip_prefix("h1.").and_then(encoded::parse_host).map(Some).ok_or_else(unknown_token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_read_back_and_strange_ones_are_refused() {
        let key = agent_key("o/1", "g:1", "a b").expect("valid");
        assert_eq!(read_agent_token(&agent_token(Some(&key))), Ok(Some(key)));
        assert_eq!(read_agent_token(""), Ok(None));
        for strange in ["a1.", "a1.x", "h1.host", "zzz", "a1.%00:g:a", "a1.g:a"] {
            assert!(read_agent_token(strange).is_err(), "{strange}");
        }
    }

    #[test]
    fn whoever_names_no_organization_means_the_default_one() {
        let key = agent_key("", "g", "a").expect("valid");
        assert_eq!(key, agent_key("default", "g", "a").expect("valid"));
        assert_ne!(key, agent_key("other", "g", "a").expect("valid"));
        assert_eq!(scope("", ""), Ok(Scope::All));
        assert_eq!(scope("", "g"), Ok(Scope::Guild(key.guild.clone())));
        assert_eq!(scope("default", ""), Ok(Scope::Organization(key.guild.organization)));
    }

    #[test]
    fn a_duration_is_neither_negative_nor_endless() {
        let wire = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        assert_eq!(stop_timeout(None), Ok(DEFAULT_STOP_TIMEOUT));
        assert_eq!(stop_timeout(wire(0).as_ref()), Ok(Duration::ZERO));
        assert!(stop_timeout(wire(-1).as_ref()).is_err());
        assert!(stop_timeout(wire(601).as_ref()).is_err());
    }
}
