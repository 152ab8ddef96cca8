//! How a command ends: status (SAM-5 section 5.3), sense data (SPC-4 section 4.5) and what it wanted to transfer.

use core::ops::Deref;

/// Status of a finished command (SAM-5 section 5.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Not done as asked; the sense data says why.
    CheckCondition = 0x02,
    /// Done, and the condition asked for holds.
    ConditionMet = 0x04,
    /// Not now; every initiator tries again.
    Busy = 0x08,
    /// Another I_T nexus holds a reservation.
    ReservationConflict = 0x18,
    /// The task set has no room; try again when a command has ended.
    TaskSetFull = 0x28,
    /// Another I_T nexus aborted the command.
    TaskAborted = 0x40,
}

/// Sense key (SPC-4 table 27).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// The logical unit cannot be accessed.
    NotReady = 0x2,
    /// The medium failed.
    MediumError = 0x3,
    /// Something else below failed.
    HardwareError = 0x4,
    /// The command or its parameters are wrong.
    IllegalRequest = 0x5,
    /// Something has changed that the initiator must know.
    UnitAttention = 0x6,
    /// Writing is not allowed.
    DataProtect = 0x7,
    /// A copy between units has ended early.
    CopyAborted = 0xa,
    /// The command was aborted here.
    AbortedCommand = 0xb,
    /// The medium holds something else than the initiator has sent.
    Miscompare = 0xe,
}

/// Which field was wrong (sense-key specific data, SPC-4 section 4.5.2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldPointer {
    /// The field is in the CDB, else in the parameter list, or in a segment descriptor of it where a copy was aborted.
    pub in_cdb: bool,
    /// The field's first byte.
    pub byte: u16,
    /// The field's most significant bit, if it is not the whole byte.
    pub bit: Option<u8>,
}

/// Why a command did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code and its qualifier, as one number: `0x2400` is 24h/00h.
    pub code: u16,
    /// The INFORMATION field: an LBA, or the offset of a miscompare. Where a copy was aborted, the number of the segment
    /// descriptor, which is told as COMMAND-SPECIFIC INFORMATION (SPC-4 section 6.4.3.4).
    pub information: Option<u64>,
    /// The field at fault.
    pub pointer: Option<FieldPointer>,
}

/// Names of the additional sense codes in use (SPC-4 annex F.2).
#[allow(missing_docs, reason = "the names are the standard's own")]
pub mod code {
    pub const NO_ADDITIONAL_SENSE: u16 = 0x0000;
    pub const OPERATION_IN_PROGRESS: u16 = 0x0016;
    pub const BECOMING_READY: u16 = 0x0401;
    pub const MANUAL_INTERVENTION_REQUIRED: u16 = 0x0403;
    pub const TARGET_PORT_IN_STANDBY_STATE: u16 = 0x040b;
    pub const SPACE_ALLOCATION_IN_PROGRESS: u16 = 0x0414;
    pub const UNREACHABLE_COPY_TARGET: u16 = 0x0804;
    pub const WRITE_ERROR: u16 = 0x0c00;
    pub const THIRD_PARTY_DEVICE_FAILURE: u16 = 0x0d01;
    pub const COPY_TARGET_DEVICE_NOT_REACHABLE: u16 = 0x0d02;
    pub const INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT: u16 = 0x0e03;
    pub const UNRECOVERED_READ_ERROR: u16 = 0x1100;
    pub const PARAMETER_LIST_LENGTH_ERROR: u16 = 0x1a00;
    pub const MISCOMPARE_DURING_VERIFY: u16 = 0x1d00;
    pub const INVALID_OPERATION_CODE: u16 = 0x2000;
    pub const LBA_OUT_OF_RANGE: u16 = 0x2100;
    pub const INVALID_TOKEN_OPERATION: u16 = 0x2300;
    pub const UNSUPPORTED_TOKEN_TYPE: u16 = 0x2301;
    pub const TOKEN_UNKNOWN: u16 = 0x2304;
    pub const TOKEN_REVOKED: u16 = 0x2306;
    pub const TOKEN_EXPIRED: u16 = 0x2307;
    pub const INVALID_FIELD_IN_CDB: u16 = 0x2400;
    pub const LOGICAL_UNIT_NOT_SUPPORTED: u16 = 0x2500;
    pub const INVALID_FIELD_IN_PARAMETER_LIST: u16 = 0x2600;
    pub const INVALID_RELEASE_OF_PERSISTENT_RESERVATION: u16 = 0x2604;
    pub const TOO_MANY_TARGET_DESCRIPTORS: u16 = 0x2606;
    pub const UNSUPPORTED_TARGET_DESCRIPTOR_TYPE: u16 = 0x2607;
    pub const TOO_MANY_SEGMENT_DESCRIPTORS: u16 = 0x2608;
    pub const UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE: u16 = 0x2609;
    pub const UNEXPECTED_INEXACT_SEGMENT: u16 = 0x260a;
    pub const INLINE_DATA_LENGTH_EXCEEDED: u16 = 0x260b;
    pub const WRITE_PROTECTED: u16 = 0x2700;
    pub const SPACE_ALLOCATION_FAILED: u16 = 0x2707;
    pub const MEDIUM_MAY_HAVE_CHANGED: u16 = 0x2800;
    pub const POWER_ON: u16 = 0x2900;
    pub const DEVICE_RESET: u16 = 0x2903;
    pub const NEXUS_LOSS: u16 = 0x2907;
    pub const MODE_PARAMETERS_CHANGED: u16 = 0x2a01;
    pub const RESERVATIONS_PREEMPTED: u16 = 0x2a03;
    pub const RESERVATIONS_RELEASED: u16 = 0x2a04;
    pub const REGISTRATIONS_PREEMPTED: u16 = 0x2a05;
    pub const ASYMMETRIC_ACCESS_STATE_CHANGED: u16 = 0x2a06;
    pub const CAPACITY_CHANGED: u16 = 0x2a09;
    pub const COMMANDS_CLEARED: u16 = 0x2f00;
    pub const SAVING_PARAMETERS_NOT_SUPPORTED: u16 = 0x3900;
    pub const MEDIUM_NOT_PRESENT: u16 = 0x3a00;
    pub const INQUIRY_DATA_CHANGED: u16 = 0x3f03;
    pub const REPORTED_LUNS_CHANGED: u16 = 0x3f0e;
    pub const INTERNAL_TARGET_FAILURE: u16 = 0x4400;
    pub const MEDIUM_REMOVAL_PREVENTED: u16 = 0x5302;
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: u16 = 0x5504;
    pub const INSUFFICIENT_RESOURCES_TO_CREATE_ROD_TOKEN: u16 = 0x550d;
    pub const SET_TARGET_PORT_GROUPS_FAILED: u16 = 0x670a;
}

impl Sense {
    /// Sense of a key and a code.
    pub const fn new(key: SenseKey, code: u16) -> Self {
        Self { key, code, information: None, pointer: None }
    }

    /// ILLEGAL REQUEST with `code`.
    pub const fn illegal(code: u16) -> Self {
        Self::new(SenseKey::IllegalRequest, code)
    }

    /// INVALID FIELD IN CDB, with where.
    pub const fn in_cdb(byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::illegal(code::INVALID_FIELD_IN_CDB);
        sense.pointer = Some(FieldPointer { in_cdb: true, byte, bit });
        sense
    }

    /// INVALID FIELD IN PARAMETER LIST, with where.
    pub const fn in_list(byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::illegal(code::INVALID_FIELD_IN_PARAMETER_LIST);
        sense.pointer = Some(FieldPointer { in_cdb: false, byte, bit });
        sense
    }

    /// The same with an INFORMATION field.
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// Encode, in descriptor format if `descriptor` (the D_SENSE bit), else in fixed format.
    pub fn encode(&self, descriptor: bool) -> SenseData {
        if descriptor { self.encode_descriptor() } else { self.encode_fixed() }
    }

    /// The three sense-key specific bytes.
    fn specific(&self) -> Option<[u8; 3]> {
        let pointer = self.pointer?;
        let bit = pointer.bit.map_or(0, |bit| 0x08 | (bit & 7));
        let [high, low] = pointer.byte.to_be_bytes();
        // SD: counted from the beginning of the segment descriptor.
        let segment = u8::from(self.key == SenseKey::CopyAborted) << 5;
        Some([0x80 | (u8::from(pointer.in_cdb) << 6) | segment | bit, high, low])
    }

    fn encode_fixed(&self) -> SenseData {
        let mut bytes = [0; SenseData::MAX];
        bytes[0] = 0x70;
        bytes[2] = self.key as u8;
        // Fixed format has 32 bits for it; what does not fit is not valid rather than wrong.
        if let Some(information) = self.information.and_then(|value| u32::try_from(value).ok()) {
            let is_command_specific = self.key == SenseKey::CopyAborted;
            let at = if is_command_specific { 8 } else { 3 };
            bytes[0] |= u8::from(!is_command_specific) << 7;
            bytes[at..at + 4].copy_from_slice(&information.to_be_bytes());
        }
        bytes[7] = 10;
        bytes[12..14].copy_from_slice(&self.code.to_be_bytes());
        if let Some(specific) = self.specific() {
            bytes[15..18].copy_from_slice(&specific);
        }
        SenseData { bytes, length: 18 }
    }

    fn encode_descriptor(&self) -> SenseData {
        let mut bytes = [0; SenseData::MAX];
        bytes[0] = 0x72;
        bytes[1] = self.key as u8;
        bytes[2..4].copy_from_slice(&self.code.to_be_bytes());
        let mut end = 8;
        if let Some(information) = self.information {
            let is_command_specific = self.key == SenseKey::CopyAborted;
            let head = if is_command_specific { [0x01, 0x0a, 0, 0] } else { [0x00, 0x0a, 0x80, 0] };
            bytes[end..end + 4].copy_from_slice(&head);
            bytes[end + 4..end + 12].copy_from_slice(&information.to_be_bytes());
            end += 12;
        }
        if let Some(specific) = self.specific() {
            bytes[end..end + 2].copy_from_slice(&[0x02, 0x06]);
            bytes[end + 4..end + 7].copy_from_slice(&specific);
            end += 8;
        }
        bytes[7] = (end - 8) as u8;
        SenseData { bytes, length: end as u8 }
    }
}

/// Encoded sense data; empty where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SenseData {
    bytes: [u8; Self::MAX],
    length: u8,
}

impl SenseData {
    /// The longest sense data this engine makes.
    pub const MAX: usize = 28;
}

impl Deref for SenseData {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its status.
    pub status: Status,
    /// Sense data, with [`Status::CheckCondition`].
    pub sense: SenseData,
    /// Data-In bytes the command had for the initiator. A transport takes the residual from the difference to what
    /// the initiator offered room for.
    pub wanted_in: u64,
    /// Data-Out bytes the command had use for.
    pub wanted_out: u64,
}

/// Why a command is not carried out: what a handler returns instead of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: Status,
    pub(crate) sense: Option<Sense>,
    /// Data-Out bytes it would have had use for, where a residual must say so.
    pub(crate) wanted_out: u64,
}

impl Refusal {
    pub(crate) const BUSY: Self = Self::status(Status::Busy);
    pub(crate) const CONFLICT: Self = Self::status(Status::ReservationConflict);
    pub(crate) const FULL: Self = Self::status(Status::TaskSetFull);
    pub(crate) const ABORTED: Self = Self::status(Status::TaskAborted);

    const fn status(status: Status) -> Self {
        Self { status, sense: None, wanted_out: 0 }
    }

    /// The initiator offers `offered` Data-Out bytes and the command needs `wanted`, which is more: refused rather
    /// than done by half.
    pub(crate) fn short_of_data(wanted: u64) -> Self {
        let sense = Sense::illegal(code::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
        Self { wanted_out: wanted, ..Self::from(sense) }
    }
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self { status: Status::CheckCondition, sense: Some(sense), wanted_out: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_sense_holds_information_only_if_it_fits() {
        let sense = Sense::new(SenseKey::MediumError, code::WRITE_ERROR).with_information(0x1234);
        let bytes = sense.encode(false);
        assert_eq!(&bytes[..], &[0xf0, 0, 3, 0, 0, 0x12, 0x34, 10, 0, 0, 0, 0, 0x0c, 0, 0, 0, 0, 0]);
        assert_eq!(sense.with_information(1 << 32).encode(false)[0], 0x70);
    }

    #[test]
    fn descriptor_sense_holds_all_of_it() {
        let sense = Sense::in_cdb(2, Some(7)).with_information(1 << 40);
        let bytes = sense.encode(true);
        assert_eq!(&bytes[..8], &[0x72, 5, 0x24, 0, 0, 0, 0, 20]);
        assert_eq!(&bytes[8..20], &[0, 0x0a, 0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[20..28], &[2, 6, 0, 0, 0xcf, 0, 2, 0]);
        assert_eq!(bytes.len(), SenseData::MAX);
    }

    #[test]
    fn a_field_pointer_says_where() {
        assert_eq!(&Sense::in_list(0x0102, None).encode(false)[15..18], &[0x80, 1, 2]);
    }
}
