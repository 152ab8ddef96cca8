//! What an error below becomes above.

use crate::sense::{Refusal, Sense, SenseKey, Status, code};
use crate::unit::LogicalUnit;
use storage_block::{Error, Operation};

/// The end of a command one of whose requests, for `length` bytes from `offset` on, has failed.
///
/// The driver below has already done what can be done: tried again, waited, reconnected. So the answer is either "not
/// now", where trying again is of use and every initiator does, or an error that stands.
pub(crate) fn refusal(
    error: Error,
    operation: Operation,
    offset: u64,
    length: u64,
    unit: &LogicalUnit,
) -> Refusal {
    let block_size = unit.geometry().map_or(512, |geometry| u64::from(geometry.block_size));
    let at = |key, code| Refusal::from(Sense::new(key, code).with_information(offset / block_size));
    match error {
        // Linux does not retry 11h/00h, so a block that cannot be read is known as such at once.
        Error::Io if operation == Operation::Read => at(SenseKey::MediumError, code::UNRECOVERED_READ_ERROR),
        Error::Io => at(SenseKey::MediumError, code::WRITE_ERROR),
        Error::NotPermitted => Sense::new(SenseKey::DataProtect, code::WRITE_PROTECTED).into(),
        Error::NoSpace => Sense::new(SenseKey::DataProtect, code::SPACE_ALLOCATION_FAILED).into(),
        Error::NoMemory if unit.tasks.len() > 1 => Refusal { status: Status::TaskSetFull, ..Refusal::BUSY },
        Error::NoMemory | Error::Lost => Refusal::BUSY,
        Error::Invalid if is_beyond_end(offset, length, unit) => {
            Sense::illegal(code::LBA_OUT_OF_RANGE).into()
        }
        // An initiator that is refused these does without them; Linux writes zeroes itself.
        Error::NotSupported
            if matches!(operation, Operation::Trim { .. } | Operation::WriteZeroes { .. }) =>
        {
            Sense::illegal(code::INVALID_OPERATION_CODE).into()
        }
        Error::Invalid | Error::NotSupported => {
            Sense::new(SenseKey::HardwareError, code::INTERNAL_TARGET_FAILURE).into()
        }
    }
}

/// The disk has shrunk since the command was checked.
fn is_beyond_end(offset: u64, length: u64, unit: &LogicalUnit) -> bool {
    unit.geometry().is_none_or(|geometry| offset.saturating_add(length) > geometry.size)
}

/// The sense data of a command that can no longer say its writes are durable.
pub(crate) fn write_loss() -> Refusal {
    Sense::new(SenseKey::MediumError, code::WRITE_ERROR).into()
}

/// Something that the layers around this one never do was done.
pub(crate) fn internal() -> Refusal {
    Sense::new(SenseKey::HardwareError, code::INTERNAL_TARGET_FAILURE).into()
}
