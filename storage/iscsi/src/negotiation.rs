//! Negotiation of text keys (6.2): what is offered, what we would like, what comes out.

mod keys;

pub(crate) use keys::Key;
use keys::{KEYS, Kind, Phase, Row, find};

use crate::limits::Limits;
use crate::login::{Stage, Status};
use crate::wire::text::{Full, MAX_VALUE, Writer, number};

/// What was agreed upon; at the beginning the defaults of section 13.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameters([u32; KEYS.len()]);

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident = $key:ident,)*) => {
        impl Parameters {
            $($(#[$doc])* pub const fn $name(&self) -> u32 {
                self.0[Key::$key as usize]
            })*
        }
    };
}

macro_rules! switches {
    ($($(#[$doc:meta])* $name:ident = $key:ident,)*) => {
        impl Parameters {
            $($(#[$doc])* pub const fn $name(&self) -> bool {
                self.0[Key::$key as usize] != 0
            })*
        }
    };
}

numbers! {
    /// MaxRecvDataSegmentLength of the initiator, in bytes.
    max_recv_data_segment_length = MaxRecvDataSegmentLength,
    /// MaxBurstLength, in bytes.
    max_burst_length = MaxBurstLength,
    /// MaxOutstandingR2T.
    max_outstanding_r2t = MaxOutstandingR2T,
    /// DefaultTime2Wait, in seconds.
    default_time2wait = DefaultTime2Wait,
    /// DefaultTime2Retain, in seconds.
    default_time2retain = DefaultTime2Retain,
    /// ErrorRecoveryLevel, which is zero.
    error_recovery_level = ErrorRecoveryLevel,
    /// MaxConnections.
    max_connections = MaxConnections,
    /// iSCSIProtocolLevel (RFC 7144).
    protocol_level = ProtocolLevel,
}

switches! {
    /// HeaderDigest is CRC32C.
    header_digest = HeaderDigest,
    /// DataDigest is CRC32C.
    data_digest = DataDigest,
    /// InitialR2T: no unsolicited Data-Out.
    initial_r2t = InitialR2T,
    /// ImmediateData: commands may carry data.
    immediate_data = ImmediateData,
}

impl Parameters {
    /// FirstBurstLength in bytes; never more than MaxBurstLength, even if only one of the two was spoken of.
    pub fn first_burst_length(&self) -> u32 {
        self.0[Key::FirstBurstLength as usize].min(self.max_burst_length())
    }

    fn set(&mut self, key: Key, value: u32) {
        self.0[key as usize] = value;
    }
}

impl Default for Parameters {
    fn default() -> Self {
        let mut values = [0; KEYS.len()];
        for row in &KEYS {
            values[row.key as usize] = row.default;
        }
        Self(values)
    }
}

/// Why a negotiation ends badly.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// With this login status.
    Status(Status),
    /// There is no room for the answer.
    Full,
}

impl From<Full> for Refusal {
    fn from(_: Full) -> Self {
        Self::Full
    }
}

impl Refusal {
    pub(crate) const fn status(self) -> Status {
        match self {
            Self::Status(status) => status,
            Self::Full => Status::OUT_OF_RESOURCES,
        }
    }
}

/// The iSCSIProtocolLevel of RFC 7144.
pub(crate) const PROTOCOL_LEVEL: u32 = 2;

const INITIATOR_ERROR: Refusal = Refusal::Status(Status::INITIATOR_ERROR);

/// One negotiation: a login, or an exchange of text requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Negotiation {
    /// What comes out.
    pub(crate) parameters: Parameters,
    /// What was agreed upon before this exchange after the login.
    agreed: Parameters,
    /// What we would like, in the places of the keys.
    preferred: Parameters,
    /// Keys that were spoken of, by their bit.
    seen: u32,
    /// We have declared our own MaxRecvDataSegmentLength.
    declared: bool,
    max_recv_data_segment_length: u32,
    /// The session is for discovery.
    pub(crate) discovery: bool,
    /// The first request of the login was answered.
    pub(crate) named: bool,
    /// CHAP is the authentication method there is, and not None.
    pub(crate) chap: bool,
    /// It is that of a further connection of a session, whose keys stand.
    joined: bool,
}

impl Negotiation {
    pub(crate) fn new(limits: &Limits) -> Self {
        let mut preferred = Parameters::default();
        preferred.set(Key::InitialR2T, u32::from(limits.initial_r2t));
        preferred.set(Key::ImmediateData, u32::from(limits.immediate_data));
        preferred.set(Key::MaxBurstLength, limits.max_burst_length);
        preferred.set(Key::FirstBurstLength, limits.first_burst_length);
        preferred.set(Key::DefaultTime2Wait, u32::from(limits.default_time2wait));
        preferred.set(Key::DefaultTime2Retain, u32::from(limits.default_time2retain));
        preferred.set(Key::MaxOutstandingR2T, u32::from(limits.max_outstanding_r2t));
        preferred.set(Key::ProtocolLevel, PROTOCOL_LEVEL);
        preferred.set(Key::MaxConnections, u32::from(limits.max_connections));
        Self {
            parameters: Parameters::default(),
            agreed: Parameters::default(),
            preferred,
            seen: 0,
            declared: false,
            max_recv_data_segment_length: limits.max_recv_data_segment_length,
            discovery: false,
            named: false,
            chap: false,
            joined: false,
        }
    }

    /// Whether CHAP was agreed upon.
    pub(crate) const fn chooses_chap(&self) -> bool {
        self.parameters.0[Key::AuthMethod as usize] != 0
    }

    /// The keys of the session are these, and are not negotiated again.
    pub(crate) fn join(&mut self, session: &Parameters) {
        self.joined = true;
        for row in KEYS.iter().filter(|row| row.is_of_session()) {
            self.parameters.set(row.key, session.0[row.key as usize]);
        }
        self.preferred = self.parameters;
    }

    /// Begin an exchange after the login: what was agreed upon stays.
    pub(crate) fn begin_text(&mut self) {
        self.seen = 0;
        self.agreed = self.parameters;
    }

    /// The exchange came to nothing: what was agreed upon before it holds (7.12).
    pub(crate) fn abandon(&mut self) {
        self.parameters = self.agreed;
    }

    /// Look at all offers of a request before any is answered: FirstBurstLength is bounded by MaxBurstLength, in
    /// whichever order they come.
    pub(crate) fn foresee(&mut self, pairs: &[u8]) {
        let offers = crate::wire::text::pairs(pairs).map_while(Result::ok);
        if self.joined {
            return;
        }
        for (_, value) in offers.filter(|(key, _)| *key == KEYS[Key::MaxBurstLength as usize].name) {
            if let Some(offer) = number(value).filter(|offer| *offer >= 512) {
                let burst = offer.min(self.preferred.max_burst_length());
                let first = self.preferred.0[Key::FirstBurstLength as usize].min(burst);
                self.preferred.set(Key::FirstBurstLength, first);
            }
        }
    }

    /// Take note of one pair and write the answer, if there is one.
    pub(crate) fn offer(
        &mut self,
        stage: Stage,
        key: &str,
        value: &str,
        out: &mut Writer<'_>,
    ) -> Result<(), Refusal> {
        // The answer to something we said. We offer nothing that needs one, so it changes nothing.
        if matches!(value, "NotUnderstood" | "Irrelevant" | "Reject") {
            return Ok(());
        }
        let Some(row) = find(key) else {
            // What belongs to CHAP is known, and comes here only where it has no place.
            let is_chap = storage_chap::Key::place(key).is_some();
            return Ok(out.pair(key, if is_chap { "Reject" } else { "NotUnderstood" })?);
        };
        let bit = 1 << row.key as u32;
        if self.seen & bit != 0 {
            return Err(INITIATOR_ERROR);
        }
        self.seen |= bit;
        if row.phase == Phase::First && self.named && stage != Stage::FullFeature {
            return Err(INITIATOR_ERROR);
        }
        if value.len() > MAX_VALUE || !row.phase.allows(stage) {
            return Ok(out.pair(key, "Reject")?);
        }
        if self.discovery && row.irrelevant_in_discovery {
            return Ok(out.pair(key, "Irrelevant")?);
        }
        self.settle(row, value, out)
    }

    fn settle(&mut self, row: &Row, value: &str, out: &mut Writer<'_>) -> Result<(), Refusal> {
        let preferred = self.preferred.0[row.key as usize];
        let number = number(value);
        let settled = match row.kind {
            // The names were taken before; here they only count as spoken of.
            Kind::Declared | Kind::Question => return Ok(()),
            Kind::DeclaredNumber(low, high) => {
                let declared = number.filter(|n| (low..=high).contains(n)).ok_or(INITIATOR_ERROR)?;
                self.parameters.set(row.key, declared);
                return Ok(());
            }
            Kind::FromTarget | Kind::Refused => None,
            Kind::No => return Ok(out.pair(row.name, "No")?),
            Kind::Authentication => {
                let method = crate::login::authentication_method(value, self.chap)
                    .ok_or(Refusal::Status(Status::AUTHENTICATION_FAILURE))?;
                self.parameters.set(row.key, u32::from(self.chap));
                return Ok(out.pair(row.name, method)?);
            }
            Kind::Reporting => {
                let known = value.split(',').any(|report| report == "RFC3720");
                return Ok(out.pair(row.name, if known { "RFC3720" } else { "Reject" })?);
            }
            Kind::Digest => {
                let digest = value.split(',').find(|digest| matches!(*digest, "CRC32C" | "None"));
                self.parameters.set(row.key, u32::from(digest == Some("CRC32C")));
                return Ok(out.pair(row.name, digest.unwrap_or("Reject"))?);
            }
            Kind::Or => yes_or_no(value).map(|offer| offer | preferred),
            Kind::And => yes_or_no(value).map(|offer| offer & preferred),
            Kind::Minimum(low, high) => number.filter(|n| (low..=high).contains(n)).map(|n| n.min(preferred)),
            Kind::Maximum(low, high) => number.filter(|n| (low..=high).contains(n)).map(|n| n.max(preferred)),
        };
        let stands = self.joined && row.is_of_session();
        let fits = |result: &u32| !stands || *result == self.parameters.0[row.key as usize];
        let Some(result) = settled.filter(fits) else {
            return Ok(out.pair(row.name, "Reject")?);
        };
        self.parameters.set(row.key, result);
        match row.kind {
            Kind::Or | Kind::And => out.pair(row.name, if result != 0 { "Yes" } else { "No" })?,
            _ => out.pair(row.name, result)?,
        }
        Ok(())
    }

    /// Say what a target says unasked in the operational stage, once.
    pub(crate) fn declare(&mut self, stage: Stage, out: &mut Writer<'_>) -> Result<(), Refusal> {
        if stage == Stage::Operational && !self.declared {
            let row = &KEYS[Key::MaxRecvDataSegmentLength as usize];
            out.pair(row.name, self.max_recv_data_segment_length)?;
            self.declared = true;
        }
        Ok(())
    }

    /// Bytes of data in one PDU that the initiator may send in full feature phase.
    pub(crate) const fn accepted_data_segment(&self) -> u32 {
        if self.declared { self.max_recv_data_segment_length } else { crate::wire::LOGIN_DATA_SEGMENT }
    }
}

impl Phase {
    fn allows(self, stage: Stage) -> bool {
        match self {
            Self::First | Self::Login => stage != Stage::FullFeature,
            Self::Security => stage == Stage::Security,
            Self::Operational => stage == Stage::Operational,
            Self::Any => true,
            Self::FullFeature => stage == Stage::FullFeature,
        }
    }
}

fn yes_or_no(value: &str) -> Option<u32> {
    match value {
        "Yes" => Some(1),
        "No" => Some(0),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
