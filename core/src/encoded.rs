//! Ids as text that no separator of a key, an index or a page token can be mistaken in: percent-encoded. Lists are in the order
//! of this text.

use crate::ids::{AgentId, AgentKey, GuildId, GuildKey, HostId, OrganizationId, Scope};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Left as it is in a key: what cannot be mistaken for a separator or a hash tag.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Percent-encodes an id for use in a key.
pub fn encode(id: &str) -> String {
    utf8_percent_encode(id, PLAIN).to_string()
}

fn decode(text: &str) -> Option<String> {
    percent_decode_str(text).decode_utf8().ok().map(Into::into)
}

/// How a guild is named inside keys and indexes: `<organization>:<guild>`, both encoded.
pub fn guild(key: &GuildKey) -> String {
    format!("{}:{}", encode(key.organization.as_str()), encode(key.id.as_str()))
}

/// How an agent is named inside keys and indexes: `<organization>:<guild>:<agent>`, all encoded.
pub fn member(key: &AgentKey) -> String {
    format!("{}:{}", guild(&key.guild), encode(key.agent.as_str()))
}

/// What the members of these agents begin with, and of no others.
pub fn prefix(scope: &Scope) -> String {
    match scope {
        Scope::All => String::new(),
        Scope::Organization(organization) => format!("{}:", encode(organization.as_str())),
        Scope::Guild(key) => format!("{}:", guild(key)),
    }
}

/// Reads what [`member`] wrote.
pub fn parse_member(member: &str) -> Option<AgentKey> {
    let mut ids = member.split(':').map(decode);
    let organization = OrganizationId::try_from(ids.next()??).ok()?;
    let id = GuildId::try_from(ids.next()??).ok()?;
    let agent = AgentId::try_from(ids.next()??).ok()?;
    ids.next().is_none().then_some(AgentKey { guild: GuildKey { organization, id }, agent })
}

/// Reads an encoded organization id.
pub fn parse_organization(text: &str) -> Option<OrganizationId> {
    OrganizationId::try_from(decode(text)?).ok()
}

/// Reads an encoded host id.
pub fn parse_host(text: &str) -> Option<HostId> {
    HostId::try_from(decode(text)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_member_reads_back_whatever_the_ids_hold(
            organization in "[^\\p{Cc}]{1,20}",
            guild in "[^\\p{Cc}]{1,20}",
            agent in "[^\\p{Cc}]{1,20}",
        ) {
            let key = AgentKey::parse(&organization, &guild, &agent).expect("valid");
            let text = member(&key);
            prop_assert_eq!(text.matches(':').count(), 2);
            prop_assert_eq!(text.find(['{', '}']), None);
            prop_assert_eq!(parse_member(&text), Some(key));
        }
    }
}
