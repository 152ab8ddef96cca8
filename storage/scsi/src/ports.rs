//! Asymmetric logical unit access (SPC-4 section 5.15): what REPORT TARGET PORT GROUPS (6.37) tells and SET TARGET PORT
//! GROUPS (6.45) may change.
//!
//! An appliance is one target port group of one port. Where a disk is exposed by two appliances, each tells of its own
//! group, and whoever runs them says which of the two an initiator should use.

use crate::attention::Attention;
use crate::command::{Call, Head, Task};
use crate::field::{Answer, u16_at, u32_at};
use crate::list::List;
use crate::nexus::Nexus;
use crate::sense::{Refusal, Sense, SenseKey, code};
use crate::target::Target;
use crate::unit::LogicalUnit;
use storage_block::Buffer;

/// How a logical unit can be used by this port (SPC-4 section 5.15.2.4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessState {
    /// Active/optimized: as well as anywhere.
    #[default]
    Optimized = 0,
    /// Active/non-optimized: everything works, another way is better.
    NonOptimized = 1,
    /// Standby: the medium cannot be reached this way (NOT READY, 04h/0Bh), all that is said of it can be asked.
    Standby = 2,
}

impl AccessState {
    /// Each state under the name that configuration and management have for it.
    pub const NAMES: [(&'static str, Self); 3] =
        [("optimized", Self::Optimized), ("non-optimized", Self::NonOptimized), ("standby", Self::Standby)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize].0
    }
}

/// The STATUS CODE field: by which way a state has come that was not there from the start.
const BY_COMMAND: u8 = 1;
const BY_ITSELF: u8 = 2;

/// The relative target port identifier of the one port.
pub(crate) const RELATIVE_PORT: u16 = 1;

impl LogicalUnit {
    /// Change how the unit can be used by this port. Every nexus is told of a difference by ASYMMETRIC ACCESS STATE
    /// CHANGED (2Ah/06h). Commands that are under way are not touched.
    pub fn set_access(&mut self, access: AccessState) {
        self.change_access(access, None);
    }

    /// How the unit can be used by this port.
    pub fn access(&self) -> AccessState {
        self.access
    }

    fn change_access(&mut self, access: AccessState, except: Option<Nexus>) {
        if core::mem::replace(&mut self.access, access) != access {
            self.access_status = if except.is_some() { BY_COMMAND } else { BY_ITSELF };
            self.raise_all(Attention::AccessStateChanged, except);
        }
    }
}

pub(crate) fn report(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    Ok(Task::answer(answer_report, u32_at(&head.cdb, 6)))
}

fn answer_report(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    // S_SUP, AN_SUP, AO_SUP: a state changes at once, so that there is no transition to be told of.
    const SUPPORTED: u8 = 0x04 | 0x02 | 0x01;
    let unit = call.unit()?;
    answer.put_u32(0);
    if call.cdb()[1] & 0x20 != 0 {
        // The extended header; a change takes no time.
        answer.put(&[0x10, 0, 0, 0]);
    }
    answer.put(&[unit.access as u8, SUPPORTED]);
    answer.put_u16(call.target.port_group);
    // STATUS CODE: how it came to be in this state, if it was ever in another. One port.
    answer.put(&[0, unit.access_status, 0, 1, 0, 0]);
    answer.put_u16(RELATIVE_PORT);
    answer.close_u32(0);
    Ok(())
}

pub(crate) fn set(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    List::task(head, u32_at(&head.cdb, 6), apply)
}

fn apply(target: &mut Target, head: &Head, list: Option<Buffer>) -> Result<Task, Refusal> {
    let group = target.port_group;
    let unit = target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED))?;
    let Some(list) = list else { return Ok(Task::done()) };
    let mut wanted = unit.access;
    if list.len() < 4 || list.len() & 3 != 0 {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    for at in (4..list.len()).step_by(4) {
        let state = list[at] & 0x0f;
        let known = AccessState::NAMES.iter().find(|(_, known)| *known as u8 == state);
        let (_, known) = known.ok_or(Sense::in_list(at as u16, Some(3)))?;
        if u16_at(&list, at + 2) != group {
            return Err(Sense::in_list(at as u16 + 2, None).into());
        }
        wanted = *known;
    }
    // Which of two appliances may write is for those to say who run them: an initiator knows nothing of the other.
    if wanted != unit.access && [wanted, unit.access].contains(&AccessState::Standby) {
        return Err(Sense::new(SenseKey::HardwareError, code::SET_TARGET_PORT_GROUPS_FAILED).into());
    }
    if wanted != unit.access {
        unit.change_access(wanted, Some(head.nexus));
    }
    Ok(Task::done())
}
