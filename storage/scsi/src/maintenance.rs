//! REPORT SUPPORTED OPERATION CODES (SPC-4 section 6.35) and REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (6.36).

use crate::command::{Call, Head, Task};
use crate::field::{Answer, u16_at, u32_at};
use crate::management::Function;
use crate::opcode::{COMMANDS, Command};
use crate::sense::{Refusal, Sense};
use crate::target::Target;

pub(crate) fn operation_codes(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    Ok(Task::answer(answer_codes, u32_at(&head.cdb, 6)))
}

fn answer_codes(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    let cdb = call.cdb();
    let (opcode, action) = (cdb[3], u16_at(cdb, 4));
    let (timeouts, options) = (cdb[2] & 0x80 != 0, cdb[2] & 0x07);
    if options == 0 {
        return all(call, timeouts, answer);
    }
    let unit = call.unit()?;
    let mut same = COMMANDS.iter().filter(|row| row.opcode == opcode && row.is_offered(Some(unit)));
    let has_actions = same.clone().any(|row| row.action.is_some());
    let known = same.clone().next().is_some();
    let found = match options {
        // By opcode alone; one with service actions must be asked for with one.
        1 if has_actions => return Err(Sense::in_cdb(2, Some(2)).into()),
        1 => same.next(),
        2 if known && !has_actions => return Err(Sense::in_cdb(2, Some(2)).into()),
        2 => same.find(|row| row.action == Some(action)),
        // By both, and an opcode without service actions goes with service action zero.
        3 => same.find(|row| row.action.unwrap_or(0) == action),
        _ => return Err(Sense::in_cdb(2, Some(2)).into()),
    };
    one(call, found, timeouts, answer)
}

fn all(call: &Call<'_>, timeouts: bool, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    let unit = call.unit()?;
    answer.put_u32(0);
    for row in COMMANDS.iter().filter(|row| row.is_offered(Some(unit))) {
        answer.put(&[row.opcode, 0]);
        answer.put_u16(row.action.unwrap_or(0));
        answer.put(&[0, u8::from(timeouts) << 1 | u8::from(row.action.is_some())]);
        answer.put_u16(row.length() as u16);
        if timeouts {
            put_timeouts(answer);
        }
    }
    answer.close_u32(0);
    Ok(())
}

fn one(
    call: &Call<'_>,
    row: Option<&Command>,
    timeouts: bool,
    answer: &mut Answer<'_>,
) -> Result<(), Refusal> {
    const SUPPORTED: u8 = 3;
    const NOT_SUPPORTED: u8 = 1;
    let Some(row) = row else {
        answer.put(&[0, NOT_SUPPORTED, 0, 0]);
        return Ok(());
    };
    answer.put(&[0, u8::from(timeouts) << 7 | SUPPORTED]);
    answer.put_u16(row.length() as u16);
    answer.put(&row.usage_for(call.unit()?)[..row.length()]);
    if timeouts {
        put_timeouts(answer);
    }
    Ok(())
}

/// A command timeouts descriptor that says nothing: how long a command takes is the storage service's doing.
fn put_timeouts(answer: &mut Answer<'_>) {
    answer.put_u16(10);
    answer.put(&[0; 10]);
}

/// What the layers above and this one do together: see [`Function`].
pub(crate) fn task_management(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    Ok(Task::answer(answer_task_management, u32_at(&head.cdb, 6)))
}

fn answer_task_management(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    let extended = call.cdb()[2] & 0x80 != 0;
    answer.put_u16(Function::BITS);
    answer.put(&[0, if extended { 12 } else { 0 }]);
    if extended {
        answer.put(&[0; 12]);
    }
    Ok(())
}
