//! Targets: the document that describes one, and how one is shown.

use agent_protocol::{Object, Text};
use alloc::string::String;
use alloc::vec::Vec;
use core::net::SocketAddrV4;
use serde::{Deserialize, Serialize};

/// The body of `PUT /v1/targets/{id}`: the whole of what is wanted of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TargetDocument {
    /// The number of this document, larger than that of the one before; the next one unless it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The target's iSCSI name (RFC 7143 section 4.2.7.1), 1 to 223 bytes.
    pub iqn: String,
    /// The logical unit.
    #[serde(default)]
    pub lun: u16,
    /// Where its bytes are: the URI of an export of a storage service, such as `nbd://10.1.0.9/disk`.
    pub volume: String,
    /// The initiators that may log in, by name, 1 to 32; `*` is any.
    pub initiators: Vec<String>,
    /// What initiators have to prove.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chap: Option<Object<AccessDocument>>,
    /// Nobody may write to it.
    #[serde(default)]
    pub read_only: bool,
    /// It is shown as a removable medium.
    #[serde(default)]
    pub removable: bool,
    /// How initiators should use this way to the disk, where another appliance is another; `optimized` unless it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// What is decided about the way to its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Object<PolicyDocument>>,
}

/// How initiators should use a way to a disk (ALUA, SPC-4 section 5.15.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// At best.
    #[default]
    Optimized,
    /// It works, and another is better.
    NonOptimized,
    /// Not for reading and writing now.
    Standby,
}

/// What initiators have to prove (RFC 7143 section 12). It is written and never read: a target that has it is shown with
/// `"chap": true`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AccessDocument {
    /// Who may log in.
    pub accounts: Vec<Object<AccountDocument>>,
    /// The hashes that are agreed to, with commas between them: some of `md5`, `sha1`, `sha-256`, `sha3-256`; all unless
    /// it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithms: Option<String>,
}

/// One account of CHAP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct AccountDocument {
    /// The name that the initiator gives.
    pub user: String,
    /// What the initiator has to know.
    pub secret: String,
    /// The initiator whose account it is; anybody's who may log in unless it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<String>,
    /// The name that the target gives when it has to prove itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_user: Option<String>,
    /// What the target proves to know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_secret: Option<String>,
}

/// What is decided about the way to a target's bytes; `0` and `null` stand for what holds without it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct PolicyDocument {
    /// Other portals of the same storage, as `address:port`, to go to when the first fails.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub portals: Vec<SocketAddrV4>,
    /// Which appliance serves the disk: a larger number takes over from a smaller one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Commands in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<u32>,
    /// Bytes in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// Seconds' worth of both that may be saved up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub burst_seconds: Option<u32>,
    /// How long commands wait for a storage service that is lost, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hold_seconds: Option<u32>,
    /// How long the storage service may be lost before commands fail for good, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fail_after_seconds: Option<u32>,
    /// What the storage service has acknowledged counts as durable, although it has no flush.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub assume_durable: bool,
    /// The other portals let nothing of a lost connection through any more.
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    pub portals_fence: bool,
}

/// A target: what is applied at storage, and what is wanted where that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TargetView {
    /// Its name.
    pub id: String,
    /// Its iSCSI name.
    pub iqn: String,
    /// The logical unit.
    pub lun: u16,
    /// Where its bytes are.
    pub volume: String,
    /// Who may log in.
    pub initiators: Vec<String>,
    /// Initiators have to prove who they are.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub chap: bool,
    /// Nobody may write to it.
    pub read_only: bool,
    /// It is shown as a removable medium.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub removable: bool,
    /// How initiators should use this way to the disk; absent when that is `optimized`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// What is decided about the way to its bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<PolicyDocument>,
    /// How the way to the volume fares.
    pub state: VolumeState,
    /// Why it is in that state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Text>,
    /// How large the disk is, once that is known.
    pub size_bytes: Option<u64>,
    /// Sessions that are logged in.
    pub sessions: u32,
    /// What is wanted, where a document says so; a target of the appliance's configuration has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desired: Option<TargetDesired>,
}

/// How the way to a volume fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum VolumeState {
    /// There is no target yet: what is wanted has not been applied.
    Absent,
    /// The storage service has not answered yet.
    Connecting,
    /// It can be read and written.
    Ready,
    /// The storage service cannot be reached.
    Down,
}

/// What is wanted of a target, against what is applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TargetDesired {
    /// The number of the document that is wanted.
    pub generation: u64,
    /// Whether it is kept on the state disk, so that it outlives a restart.
    pub durable: bool,
    /// Whether storage has it as it is wanted.
    pub applied: bool,
    /// The fields in which what is applied differs, by name; `id` when there is no target yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub difference: Vec<Text>,
    /// Why it could not be applied so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Text>,
}

/// One page of targets, sorted by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TargetPage {
    /// The targets.
    pub targets: Vec<TargetView>,
    /// What to pass as `after` for the next page, if there is one.
    #[serde(default)]
    pub next: Option<String>,
}
