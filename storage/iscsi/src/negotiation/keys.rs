//! The keys of RFC 7143, section 13, as one table.

/// Every key this target knows. The discriminant is the key's row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Key {
    HeaderDigest,
    DataDigest,
    MaxConnections,
    SendTargets,
    TargetName,
    InitiatorName,
    TargetAlias,
    InitiatorAlias,
    TargetAddress,
    TargetPortalGroupTag,
    InitialR2T,
    ImmediateData,
    MaxRecvDataSegmentLength,
    MaxBurstLength,
    FirstBurstLength,
    DefaultTime2Wait,
    DefaultTime2Retain,
    MaxOutstandingR2T,
    DataPDUInOrder,
    DataSequenceInOrder,
    ErrorRecoveryLevel,
    SessionType,
    TaskReporting,
    ProtocolLevel,
    AuthMethod,
    IFMarker,
    OFMarker,
    IFMarkInt,
    OFMarkInt,
    NodeArchitecture,
}

/// How a key is negotiated (6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// The initiator says it, nobody answers.
    Declared,
    /// The initiator says a number in this range, nobody answers.
    DeclaredNumber(u32, u32),
    /// Only a target says it.
    FromTarget,
    /// A list of digests, the first one known is taken.
    Digest,
    /// A list of authentication methods; the security stage has its own table.
    Authentication,
    /// A list of reports, of which we know the one that is the default.
    Reporting,
    /// Yes if one side says so.
    Or,
    /// Yes if both sides say so.
    And,
    /// The smaller number, both in this range.
    Minimum(u32, u32),
    /// The larger number, both in this range.
    Maximum(u32, u32),
    /// Markers, which RFC 7143 took out (13.25): the answer is No.
    No,
    /// Marker intervals: the answer is Reject.
    Refused,
    /// A question for full feature phase.
    Question,
}

/// When a key may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// In the first request of a login: who it is and what for holds from there on.
    First,
    /// In any login stage.
    Login,
    /// In the security stage.
    Security,
    /// In the operational stage.
    Operational,
    /// In the operational stage and in full feature phase.
    Any,
    /// In full feature phase.
    FullFeature,
}

/// One row.
pub(crate) struct Row {
    pub(crate) key: Key,
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) phase: Phase,
    /// What holds if nobody speaks of it.
    pub(crate) default: u32,
    /// Means nothing in a discovery session, and is answered so.
    pub(crate) irrelevant_in_discovery: bool,
}

const fn row(key: Key, name: &'static str, kind: Kind, phase: Phase, default: u32) -> Row {
    Row { key, name, kind, phase, default, irrelevant_in_discovery: false }
}

/// A key of sessions that carry commands.
const fn normal(key: Key, name: &'static str, kind: Kind, default: u32) -> Row {
    Row { key, name, kind, phase: Phase::Operational, default, irrelevant_in_discovery: true }
}

const LENGTH_MAX: u32 = 0x00ff_ffff;

impl Row {
    /// Whether it is negotiated once for a session, by its leading connection ("LO" in section 13).
    pub(crate) fn is_of_session(&self) -> bool {
        let of_both =
            matches!(self.key, Key::DefaultTime2Wait | Key::DefaultTime2Retain | Key::ErrorRecoveryLevel);
        of_both || self.irrelevant_in_discovery
    }
}

/// The table, in the order of [`Key`].
pub(crate) static KEYS: [Row; 30] = [
    row(Key::HeaderDigest, "HeaderDigest", Kind::Digest, Phase::Operational, 0),
    row(Key::DataDigest, "DataDigest", Kind::Digest, Phase::Operational, 0),
    normal(Key::MaxConnections, "MaxConnections", Kind::Minimum(1, 65_535), 1),
    row(Key::SendTargets, "SendTargets", Kind::Question, Phase::FullFeature, 0),
    row(Key::TargetName, "TargetName", Kind::Declared, Phase::First, 0),
    row(Key::InitiatorName, "InitiatorName", Kind::Declared, Phase::First, 0),
    row(Key::TargetAlias, "TargetAlias", Kind::FromTarget, Phase::Any, 0),
    row(Key::InitiatorAlias, "InitiatorAlias", Kind::Declared, Phase::Any, 0),
    row(Key::TargetAddress, "TargetAddress", Kind::FromTarget, Phase::Any, 0),
    row(Key::TargetPortalGroupTag, "TargetPortalGroupTag", Kind::FromTarget, Phase::Login, 0),
    normal(Key::InitialR2T, "InitialR2T", Kind::Or, 1),
    normal(Key::ImmediateData, "ImmediateData", Kind::And, 1),
    row(
        Key::MaxRecvDataSegmentLength,
        "MaxRecvDataSegmentLength",
        Kind::DeclaredNumber(512, LENGTH_MAX),
        Phase::Any,
        8192,
    ),
    normal(Key::MaxBurstLength, "MaxBurstLength", Kind::Minimum(512, LENGTH_MAX), 262_144),
    normal(Key::FirstBurstLength, "FirstBurstLength", Kind::Minimum(512, LENGTH_MAX), 65_536),
    row(Key::DefaultTime2Wait, "DefaultTime2Wait", Kind::Maximum(0, 3600), Phase::Operational, 2),
    row(Key::DefaultTime2Retain, "DefaultTime2Retain", Kind::Minimum(0, 3600), Phase::Operational, 20),
    normal(Key::MaxOutstandingR2T, "MaxOutstandingR2T", Kind::Minimum(1, 65_535), 1),
    normal(Key::DataPDUInOrder, "DataPDUInOrder", Kind::Or, 1),
    normal(Key::DataSequenceInOrder, "DataSequenceInOrder", Kind::Or, 1),
    row(Key::ErrorRecoveryLevel, "ErrorRecoveryLevel", Kind::Minimum(0, 2), Phase::Operational, 0),
    row(Key::SessionType, "SessionType", Kind::Declared, Phase::First, 0),
    normal(Key::TaskReporting, "TaskReporting", Kind::Reporting, 0),
    normal(Key::ProtocolLevel, "iSCSIProtocolLevel", Kind::Minimum(0, 31), 1),
    row(Key::AuthMethod, "AuthMethod", Kind::Authentication, Phase::Security, 0),
    normal(Key::IFMarker, "IFMarker", Kind::No, 0),
    normal(Key::OFMarker, "OFMarker", Kind::No, 0),
    normal(Key::IFMarkInt, "IFMarkInt", Kind::Refused, 0),
    normal(Key::OFMarkInt, "OFMarkInt", Kind::Refused, 0),
    row(Key::NodeArchitecture, "X#NodeArchitecture", Kind::Declared, Phase::Any, 0),
];

/// The row of a key by its name. Keys are case-sensitive (6.1).
pub(crate) fn find(name: &str) -> Option<&'static Row> {
    KEYS.iter().find(|row| row.name == name)
}
