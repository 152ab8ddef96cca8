//! TEST UNIT READY (SPC-4 section 6.47) and REQUEST SENSE (section 6.39).

use crate::command::{Head, Task};
use crate::sense::{Refusal, Sense, SenseKey, code};
use crate::target::Target;
use crate::unit::LogicalUnit;

/// Ready it is, or the dispatcher had refused it.
pub(crate) fn test_unit_ready(_: &mut Target, _: &Head) -> Result<Task, Refusal> {
    Ok(Task::done())
}

/// Tells what TEST UNIT READY would fail with, as data and with GOOD; a unit attention told this way is told.
pub(crate) fn request_sense(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let sense = match target.unit_mut(head.unit) {
        None if head.report_luns => Sense::new(SenseKey::NoSense, code::NO_ADDITIONAL_SENSE),
        None => Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED),
        Some(unit) => pending(unit, head),
    };
    let descriptor = head.cdb[1] & 0x01 != 0;
    Ok(Task::sense(sense.encode(descriptor), u32::from(head.cdb[4])))
}

fn pending(unit: &mut LogicalUnit, head: &Head) -> Sense {
    if let Some(attention) = unit.attentions(head.nexus).take() {
        return attention.sense();
    }
    let refused = unit.medium().err().and_then(|refusal| refusal.sense);
    refused.unwrap_or(Sense::new(SenseKey::NoSense, code::NO_ADDITIONAL_SENSE))
}
