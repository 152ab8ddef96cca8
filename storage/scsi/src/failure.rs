//! What an error below becomes above.

use crate::sense::{Refusal, Sense, SenseKey, code};
use crate::unit::{LogicalUnit, NoSpace};
use storage_block::{Error, Operation};

/// The end of a command one of whose requests, for `length` bytes from `offset` on, has failed.
///
/// The driver below has already done what can be done: tried again, waited, reconnected. So the answer is either "not
/// now", where trying again is of use and every initiator does, or an error that stands.
#[cold]
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
        Error::NoSpace => no_space(unit),
        Error::NoMemory => no_memory(unit),
        Error::Lost => lost(unit),
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

/// The end of a command whose flush has failed.
///
/// What could not be allocated at a flush was acknowledged before, so that it is told as what it is: those writes are not
/// where they should be. Only where space never comes the initiator is told of that.
#[cold]
pub(crate) fn of_flush(error: Error, unit: &LogicalUnit) -> Refusal {
    match error {
        Error::NoSpace if unit.traits.no_space == NoSpace::Final => no_space(unit),
        Error::NoMemory => no_memory(unit),
        Error::Lost => lost(unit),
        _ => write_loss(),
    }
}

/// Windows takes a disk offline for good that says 27h/07h, and tries again for a while at 04h/14h, as Linux does.
fn no_space(unit: &LogicalUnit) -> Refusal {
    match unit.traits.no_space {
        NoSpace::Temporary => Sense::new(SenseKey::NotReady, code::SPACE_ALLOCATION_IN_PROGRESS).into(),
        NoSpace::Final => Sense::new(SenseKey::DataProtect, code::SPACE_ALLOCATION_FAILED).into(),
    }
}

/// TASK SET FULL says "when another has ended", so there has to be another.
fn no_memory(unit: &LogicalUnit) -> Refusal {
    if unit.tasks.len() > 1 { Refusal::FULL } else { Refusal::BUSY }
}

/// The way to the bytes was lost: not an error, whatever the transport below may call it. Where it is closed for long
/// already, that is said; 08h/00h never is, at which Linux gives up at once.
fn lost(unit: &LogicalUnit) -> Refusal {
    unit.medium().err().unwrap_or(Refusal::BUSY)
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
