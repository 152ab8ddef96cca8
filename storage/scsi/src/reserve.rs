//! RESERVE and RELEASE of SPC-2 (sections 7.21 and 7.22): the whole unit for one nexus, until it lets go or is lost.

use crate::command::{Head, Task};
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;

pub(crate) fn reserve(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED))?;
    // Compatible reservation handling (SPC-4 section 5.13.3): a registrant's RESERVE succeeds and changes nothing.
    if unit.persistent.any_registered() {
        let compatible = unit.persistent.allows_compatible(head.nexus);
        return if compatible { Ok(Task::done()) } else { Err(Refusal::CONFLICT) };
    }
    // Whether another nexus has it was checked by the dispatcher.
    unit.reserved_by = Some(head.nexus);
    Ok(Task::done())
}

pub(crate) fn release(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED))?;
    if unit.persistent.any_registered() {
        let compatible = unit.persistent.allows_compatible(head.nexus);
        return if compatible { Ok(Task::done()) } else { Err(Refusal::CONFLICT) };
    }
    // A release by somebody else is no error and releases nothing.
    if unit.reserved_by == Some(head.nexus) {
        unit.reserved_by = None;
    }
    Ok(Task::done())
}
