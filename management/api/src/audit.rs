//! The audit trail: records that are chained by hashes, so that none can be altered, dropped or moved unseen.
//!
//! The hash of a record is the SHA-256 (FIPS 180-4) of all its other fields, the hash of the record before it among
//! them. Numbers go in as eight bytes, the highest first; texts and hashes go in behind their length in four; what is
//! absent is a length of `ffffffff`. The order is that of [`AuditRecord`].

use agent_protocol::{OpId, Text, Uuid};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha256};

/// What every hash begins with, so that it can be mistaken for no other.
const DOMAIN: &[u8] = b"corbel audit 1";

/// A SHA-256, written in 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A text is no hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoHash;

impl fmt::Display for NoHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not 64 hexadecimal digits in lower case")
    }
}

impl FromStr for Hash {
    type Err = NoHash;
    fn from_str(text: &str) -> Result<Self, NoHash> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NoHash),
        };
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(NoHash);
        }
        let mut hash = [0; 32];
        for (byte, pair) in hash.iter_mut().zip(text.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(hash))
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl Visitor<'_> for Digits {
            type Value = Hash;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("64 hexadecimal digits in lower case")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Hash, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Digits)
    }
}

/// Whether a request was let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// It was.
    Allowed,
    /// The caller may not do this.
    Denied,
}

impl Decision {
    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }
}

/// What somebody asked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditRecord {
    /// Its number: each record has the next one, over restarts too.
    pub seq: u64,
    /// The hash of the record before it; all zeroes for the first.
    pub prev_hash: Hash,
    /// The run of the appliance.
    pub boot: Uuid,
    /// When, in milliseconds since that run began.
    pub at_ms: u64,
    /// When, in seconds since 1970 (UTC), if the appliance knew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unix_time: Option<u64>,
    /// The number of the request in that run; of the end of an operation, that of the record.
    pub request: u64,
    /// Who asked.
    pub principal: Text,
    /// SHA-256 of the public key with which the caller proved that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_key: Option<Hash>,
    /// What was asked: a verb of instances, or the method.
    pub verb: Text,
    /// Of what: the path.
    pub object: Text,
    /// Whether it was let in.
    pub decision: Decision,
    /// What came of it: `accepted`, the state in which the operation ended, or the name of a problem.
    pub outcome: Text,
    /// The operation, if it has become one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OpId>,
    /// The hash of all that.
    pub hash: Hash,
}

impl AuditRecord {
    /// What its hash has to be.
    pub fn digest(&self) -> Hash {
        let mut hasher = Sha256::new_with_prefix(DOMAIN);
        let mut part = |bytes: Option<&[u8]>| {
            let length = bytes.map_or(u32::MAX, |bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX - 1));
            hasher.update(length.to_be_bytes());
            hasher.update(bytes.unwrap_or_default());
        };
        part(Some(&self.seq.to_be_bytes()));
        part(Some(&self.prev_hash.0));
        part(Some(&self.boot.0.to_be_bytes()));
        part(Some(&self.at_ms.to_be_bytes()));
        part(self.unix_time.map(u64::to_be_bytes).as_ref().map(|bytes| &bytes[..]));
        part(Some(&self.request.to_be_bytes()));
        part(Some(self.principal.as_str().as_bytes()));
        part(self.peer_key.as_ref().map(|hash| &hash.0[..]));
        part(Some(self.verb.as_str().as_bytes()));
        part(Some(self.object.as_str().as_bytes()));
        part(Some(self.decision.as_str().as_bytes()));
        part(Some(self.outcome.as_str().as_bytes()));
        part(self.operation.as_ref().map(|operation| operation.as_str().as_bytes()));
        Hash(hasher.finalize().into())
    }

    /// The same, chained to the record before it.
    #[must_use]
    pub fn chained(mut self, anchor: Anchor) -> Self {
        self.seq = anchor.seq.saturating_add(1);
        self.prev_hash = anchor.hash;
        self.hash = self.digest();
        self
    }

    /// What the next record is chained to.
    pub const fn anchor(&self) -> Anchor {
        Anchor { seq: self.seq, hash: self.hash }
    }
}

/// A place in the chain: the number and the hash of a record. Zero and zeroes are what the first record is chained to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Anchor {
    /// The number.
    pub seq: u64,
    /// The hash.
    pub hash: Hash,
}

/// Records of the audit trail, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditPage {
    /// The records after the number that was asked for.
    pub records: Vec<AuditRecord>,
    /// What the first record that is still kept is chained to. Whoever has read up to here before has lost nothing.
    pub anchor: Anchor,
    /// The last record there is.
    pub head: Anchor,
    /// Whether the records outlive a restart.
    pub durable: bool,
    /// What to pass as `after` for the next page, if there is more.
    pub next: Option<u64>,
}

/// How a chain is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// The hash of this record is not that of its content.
    Altered {
        /// The record.
        seq: u64,
    },
    /// Another record was to come here.
    Missing {
        /// The one that was to come.
        expected: u64,
        /// The one that came.
        found: u64,
    },
    /// This record was not made behind the one before it.
    Unchained {
        /// The record.
        seq: u64,
    },
}

impl fmt::Display for Break {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Altered { seq } => {
                write!(f, "record {seq} was altered: its hash is not that of its content")
            }
            Self::Missing { expected, found } => {
                write!(f, "record {expected} is missing; {found} stands in its place")
            }
            Self::Unchained { seq } => write!(f, "record {seq} does not follow from the one before it"),
        }
    }
}

impl core::error::Error for Break {}

/// Follows a chain, record by record.
#[derive(Clone, Copy, Debug)]
pub struct Verifier {
    head: Anchor,
}

impl Verifier {
    /// Begin behind this place: that of an earlier verification, or the one that a page tells of.
    pub const fn behind(anchor: Anchor) -> Self {
        Self { head: anchor }
    }

    /// The next record.
    ///
    /// # Errors
    /// When the chain is broken there; what was verified before stays so.
    pub fn push(&mut self, record: &AuditRecord) -> Result<(), Break> {
        let seq = record.seq;
        let expected = self.head.seq.saturating_add(1);
        if seq != expected {
            return Err(Break::Missing { expected, found: seq });
        }
        if record.hash != record.digest() {
            return Err(Break::Altered { seq });
        }
        if record.prev_hash != self.head.hash {
            return Err(Break::Unchained { seq });
        }
        self.head = record.anchor();
        Ok(())
    }

    /// The place up to which all is in order.
    pub const fn head(&self) -> Anchor {
        self.head
    }
}

/// Whether `records` follow from `anchor`, and each from the one before it; the place of the last.
///
/// # Errors
/// Where the chain is broken first.
pub fn verify<'a>(
    anchor: Anchor,
    records: impl IntoIterator<Item = &'a AuditRecord>,
) -> Result<Anchor, Break> {
    let mut verifier = Verifier::behind(anchor);
    records.into_iter().try_for_each(|record| verifier.push(record))?;
    Ok(verifier.head())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trail(count: u64) -> Vec<AuditRecord> {
        let mut anchor = Anchor::default();
        let next = |request| {
            let record = AuditRecord {
                seq: 0,
                prev_hash: Hash::default(),
                boot: Uuid(7),
                at_ms: request * 10,
                unix_time: (request % 2 == 0).then_some(1_800_000_000 + request),
                request,
                principal: Text::new("spiffe://example/svc/vm"),
                peer_key: Some(Hash([3; 32])),
                verb: Text::new("terminate"),
                object: Text::new("/v1/instances/web-1/commands"),
                decision: Decision::Allowed,
                outcome: Text::new("succeeded"),
                operation: "op-1".parse().ok(),
                hash: Hash::default(),
            };
            let record = record.chained(anchor);
            anchor = record.anchor();
            record
        };
        (1..=count).map(next).collect()
    }

    #[test]
    fn a_chain_holds_from_its_beginning_and_from_any_place_that_is_known() {
        let records = trail(9);
        let head = verify(Anchor::default(), &records).unwrap();
        assert_eq!((head.seq, head.hash), (9, records[8].hash));
        assert_eq!(verify(records[3].anchor(), &records[4..]), Ok(head));
        assert_eq!(verify(head, &[]), Ok(head));
    }

    #[test]
    fn a_chain_is_the_same_after_a_journey_as_json() {
        for record in trail(3) {
            let bytes = agent_protocol::encode(&record);
            assert_eq!(agent_protocol::decode::<AuditRecord>(&bytes).unwrap(), record);
        }
    }

    #[test]
    fn any_field_that_is_altered_is_seen() {
        type Change = (&'static str, fn(&mut AuditRecord));
        let changes: [Change; 13] = [
            ("boot", |record| record.boot = Uuid(8)),
            ("at_ms", |record| record.at_ms += 1),
            ("unix_time", |record| record.unix_time = Some(1)),
            ("unix_time", |record| record.unix_time = None),
            ("request", |record| record.request += 1),
            ("principal", |record| record.principal = Text::new("spiffe://example/svc/net")),
            ("peer_key", |record| record.peer_key = None),
            ("verb", |record| record.verb = Text::new("start")),
            ("object", |record| record.object = Text::new("/v1/instances/web-2/commands")),
            ("decision", |record| record.decision = Decision::Denied),
            ("outcome", |record| record.outcome = Text::new("failed")),
            ("operation", |record| record.operation = None),
            ("hash", |record| record.hash.0[31] ^= 1),
        ];
        for (field, change) in changes {
            let mut records = trail(4);
            change(&mut records[1]);
            assert_eq!(verify(Anchor::default(), &records), Err(Break::Altered { seq: 2 }), "{field}");
        }
    }

    #[test]
    fn what_moves_between_two_texts_is_seen() {
        let mut records = trail(1);
        records[0].verb = Text::new("terminat");
        records[0].object = Text::new("e/v1/instances/web-1/commands");
        assert_eq!(verify(Anchor::default(), &records), Err(Break::Altered { seq: 1 }));
    }

    #[test]
    fn a_record_that_is_altered_with_its_own_hash_breaks_the_next_one() {
        let mut records = trail(4);
        records[1].outcome = Text::new("failed");
        records[1].hash = records[1].digest();
        assert_eq!(verify(Anchor::default(), &records), Err(Break::Unchained { seq: 3 }));
    }

    #[test]
    fn a_record_that_is_dropped_repeated_or_moved_is_seen() {
        let mut dropped = trail(4);
        dropped.remove(1);
        assert_eq!(verify(Anchor::default(), &dropped), Err(Break::Missing { expected: 2, found: 3 }));
        let mut renumbered = trail(4);
        renumbered.remove(1);
        for (record, seq) in renumbered.iter_mut().zip(1..) {
            record.seq = seq;
            record.hash = record.digest();
        }
        assert_eq!(verify(Anchor::default(), &renumbered), Err(Break::Unchained { seq: 2 }));
        let mut repeated = trail(2);
        repeated.push(repeated[1].clone());
        assert_eq!(verify(Anchor::default(), &repeated), Err(Break::Missing { expected: 3, found: 2 }));
        let mut swapped = trail(4);
        swapped.swap(1, 2);
        assert_eq!(verify(Anchor::default(), &swapped), Err(Break::Missing { expected: 2, found: 3 }));
    }

    #[test]
    fn an_end_that_was_cut_off_is_seen_by_whoever_knows_a_later_place() {
        let records = trail(4);
        let known = records[3].anchor();
        assert_ne!(verify(Anchor::default(), &records[..3]), Ok(known));
        let other = trail(6);
        let forged = AuditRecord { outcome: Text::new("failed"), ..other[4].clone() };
        let forged = forged.chained(Anchor { hash: Hash([1; 32]), ..other[3].anchor() });
        assert_eq!(verify(known, &[forged]), Err(Break::Unchained { seq: 5 }));
    }
}
