//! A launch as its sender wrote it, field by field.
//!
//! A service may be older than its caller. It then does not know all fields of a launch; but whether two launches are the same must not
//! depend on the version of whoever looks, and a newer host must get what a newer caller has sent. So a launch is decoded to be
//! checked, and stored, compared and passed on as it came.

use crate::agent::v1::AgentLaunch;
use prost::{
    DecodeError, Message,
    bytes::{Buf, BufMut},
    encoding::{self, DecodeContext, WireType},
};

/// The wire form of an [`AgentLaunch`], unknown fields included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RawLaunch(Vec<Field>);

/// One field with its key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Field {
    tag: u32,
    bytes: Vec<u8>,
}

impl Message for RawLaunch {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        for field in &self.0 {
            buf.put_slice(&field.bytes);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        let mut bytes = vec![];
        match wire_type {
            WireType::Varint => {
                encoding::uint64::encode(tag, &merged(encoding::uint64::merge, wire_type, buf, ctx)?, &mut bytes)
            }
            WireType::SixtyFourBit => {
                encoding::fixed64::encode(tag, &merged(encoding::fixed64::merge, wire_type, buf, ctx)?, &mut bytes);
            }
            WireType::ThirtyTwoBit => {
                encoding::fixed32::encode(tag, &merged(encoding::fixed32::merge, wire_type, buf, ctx)?, &mut bytes);
            }
            WireType::LengthDelimited => {
                let mut value = vec![];
                encoding::bytes::merge(wire_type, &mut value, buf, ctx)?;
                encoding::bytes::encode(tag, &value, &mut bytes);
            }
            // Of a language that proto3 does not have.
            WireType::StartGroup | WireType::EndGroup => return encoding::skip_field(wire_type, tag, buf, ctx),
        }
        self.0.push(Field { tag, bytes });
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.iter().map(|field| field.bytes.len()).sum()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// What one of prost's functions reads.
fn merged<T: Default, B: Buf>(
    merge: impl Fn(WireType, &mut T, &mut B, DecodeContext) -> Result<(), DecodeError>,
    wire_type: WireType,
    buf: &mut B,
    ctx: DecodeContext,
) -> Result<T, DecodeError> {
    let mut value = T::default();
    merge(wire_type, &mut value, buf, ctx)?;
    Ok(value)
}

impl From<AgentLaunch> for RawLaunch {
    fn from(launch: AgentLaunch) -> Self {
        Self::decode(&*launch.encode_to_vec()).expect("what was encoded can be decoded")
    }
}

impl RawLaunch {
    /// The fields that this version knows.
    pub fn known(&self) -> Result<AgentLaunch, DecodeError> {
        AgentLaunch::decode(&*self.encode_to_vec())
    }

    /// The same without some fields.
    pub fn without(&self, tags: &[u32]) -> Self {
        Self(self.0.iter().filter(|field| !tags.contains(&field.tag)).cloned().collect())
    }

    /// The same with a text field, in the place of the one that it has.
    pub(crate) fn with_text(&self, tag: u32, text: &str) -> Self {
        let mut bytes = vec![];
        encoding::string::encode(tag, &text.to_owned(), &mut bytes);
        let mut fields = self.without(&[tag]);
        fields.0.push(Field { tag, bytes });
        fields
    }

    /// The same bytes for every launch with the same fields: entries of maps come in any order, and so may fields.
    pub(crate) fn canonical(&self) -> Vec<u8> {
        let mut fields = self.0.clone();
        fields.sort();
        Self(fields).encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// A launch of a newer version, with three fields of kinds that this one does not know.
    pub(crate) fn newer(text: &str) -> RawLaunch {
        let environment = BTreeMap::from([("A".to_owned(), "1".to_owned()), ("B".to_owned(), "2".to_owned())]);
        let known = AgentLaunch { agent_spec: "{}".to_owned(), environment, ..AgentLaunch::default() };
        let mut bytes = known.encode_to_vec();
        encoding::string::encode(1000, &text.to_owned(), &mut bytes);
        encoding::uint64::encode(1001, &u64::MAX, &mut bytes);
        encoding::double::encode(1002, &0.5, &mut bytes);
        encoding::fixed32::encode(1003, &7, &mut bytes);
        RawLaunch::decode(&*bytes).expect("a launch")
    }

    #[test]
    fn what_is_not_known_is_kept_byte_for_byte() {
        let raw = newer("new");
        let bytes = raw.encode_to_vec();
        assert_eq!((bytes.len(), RawLaunch::decode(&*bytes)), (raw.encoded_len(), Ok(raw.clone())));
        assert_eq!(raw.known().expect("decodes").agent_spec, "{}");
        assert_ne!(raw.canonical(), newer("other").canonical());
        assert_ne!(raw.canonical(), RawLaunch::from(raw.known().expect("decodes")).canonical());
        assert_eq!(raw.without(&[1000, 1001, 1002, 1003]), RawLaunch::from(raw.known().expect("decodes")));
    }

    #[test]
    fn order_is_no_difference() {
        let mut shuffled = newer("new");
        shuffled.0.reverse();
        assert_ne!(shuffled, newer("new"));
        assert_eq!(shuffled.canonical(), newer("new").canonical());
        assert_eq!(shuffled.with_text(1, "{}").canonical(), newer("new").canonical());
    }

    #[test]
    fn what_is_no_message_is_refused() {
        for wrong in [&[0x0a, 0x05, b'x'][..], &[0x08], &[0xff; 11], &[0x0d, 1]] {
            assert!(RawLaunch::decode(wrong).is_err(), "{wrong:?}");
        }
        let not_text = RawLaunch::decode(&[0x0a, 0x01, 0xff][..]).expect("bytes are bytes");
        assert!(not_text.known().is_err(), "but no text");
    }
}
