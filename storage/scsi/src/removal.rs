//! Media that can be taken out: START STOP UNIT (SBC-3 section 5.25) and PREVENT ALLOW MEDIUM REMOVAL (section 5.15).

use crate::attention::Attention;
use crate::command::{Head, Task};
use crate::job::{Job, Work};
use crate::medium;
use crate::ordering::Touch;
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;

const LOEJ: u8 = 0x02;
const START: u8 = 0x01;
const NO_FLUSH: u8 = 0x04;

pub(crate) fn start_stop(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let flags = head.cdb[4];
    let unit = target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED))?;
    // Another initiator's persistent reservation stands against anything but a plain start (SPC-4 table 66).
    if flags & 0xf3 != START {
        unit.persistent.check(head.nexus, crate::opcode::Access::Change)?;
    }
    // With a power condition START and LOEJ say nothing, and there is no power to save here.
    let (power_condition, load_eject, start) = (flags >> 4, flags & LOEJ != 0, flags & START != 0);
    if power_condition == 0 && load_eject {
        if !unit.traits.removable {
            return if start { Ok(Task::done()) } else { Err(Sense::in_cdb(4, Some(1)).into()) };
        }
        if unit.is_removal_prevented() {
            return Err(Sense::illegal(code::MEDIUM_REMOVAL_PREVENTED).into());
        }
        if start == unit.loaded {
            return Ok(Task::done());
        }
        unit.loaded = start;
        if start {
            // Who has put it in knows; to all others it may be any.
            unit.raise_all(Attention::MediumMayHaveChanged, Some(head.nexus));
            return Ok(Task::done());
        }
    } else if start || power_condition != 0 {
        return Ok(Task::done());
    }
    // Stopping leaves nothing behind in the cache, unless told to.
    let cached = unit.geometry().is_some_and(|geometry| geometry.flush);
    if flags & NO_FLUSH != 0 || !cached || !unit.is_dirty() {
        return Ok(Task::done());
    }
    medium::check_loss(unit, head.nexus)?;
    Job::begin(unit, head, (Touch::Flush, 0..0), Work::None, medium::Durability::FLUSH, (0, 0))
}

pub(crate) fn prevent_allow(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let unit = target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED))?;
    let prevent = match head.cdb[4] & 0x03 {
        0 => false,
        1 => true,
        _ => return Err(Sense::in_cdb(4, Some(1)).into()),
    };
    if prevent {
        unit.persistent.check(head.nexus, crate::opcode::Access::Change)?;
    }
    unit.set_prevent(head.nexus, prevent);
    Ok(Task::done())
}
