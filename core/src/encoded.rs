//! Ids as text that no separator of a key, an index or a page token can be mistaken in: percent-encoded. Lists are in the order
//! of this text.

use crate::ids::{AgentId, AgentKey, GuildId, HostId};
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

/// How an agent is named inside keys and indexes: `<guild>:<agent>`, both encoded.
pub fn member(key: &AgentKey) -> String {
    format!("{}:{}", encode(key.guild.as_str()), encode(key.agent.as_str()))
}

/// Reads what [`member`] wrote.
pub fn parse_member(member: &str) -> Option<AgentKey> {
    let (guild, agent) = member.split_once(':')?;
    let guild = GuildId::try_from(decode(guild)?).ok()?;
    let agent = AgentId::try_from(decode(agent)?).ok()?;
    Some(AgentKey { guild, agent })
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
        fn a_member_reads_back_whatever_the_ids_hold(guild in "[^\\p{Cc}]{1,20}", agent in "[^\\p{Cc}]{1,20}") {
            let key = AgentKey {
                guild: guild.parse().expect("valid"),
                agent: agent.parse().expect("valid"),
            };
            let text = member(&key);
            prop_assert_eq!(text.matches(':').count(), 1);
            prop_assert_eq!(text.find(['{', '}']), None);
            prop_assert_eq!(parse_member(&text), Some(key));
        }
    }
}
