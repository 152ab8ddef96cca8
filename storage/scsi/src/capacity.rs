//! What there is of the disk: READ CAPACITY (SBC-3 sections 5.16, 5.17), READ DEFECT DATA (5.18).

use crate::command::{Call, Head, Task};
use crate::field::{Answer, u16_at, u32_at};
use crate::sense::Refusal;
use crate::target::Target;

pub(crate) fn read_10(_: &mut Target, _: &Head) -> Result<Task, Refusal> {
    Ok(Task::answer(answer_10, 8))
}

fn answer_10(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    let geometry = call.unit()?.disk()?;
    // All ones sends the initiator to READ CAPACITY(16).
    answer.put_u32(u32::try_from(geometry.blocks() - 1).unwrap_or(u32::MAX));
    answer.put_u32(geometry.block_size);
    Ok(())
}

pub(crate) fn read_16(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    Ok(Task::answer(answer_16, u32_at(&head.cdb, 10)))
}

fn answer_16(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    let unit = call.unit()?;
    let geometry = unit.disk()?;
    answer.put_u64(geometry.blocks() - 1);
    answer.put_u32(geometry.block_size);
    answer.put_u8(0);
    answer.put_u8((geometry.preferred_block / geometry.block_size).ilog2().min(15) as u8);
    // LBPME, and LBPRZ where what was given back reads as zero.
    answer.put_u8(u8::from(unit.is_thin()) << 7 | u8::from(geometry.write_zeroes) << 6);
    answer.pad_to(32);
    Ok(())
}

pub(crate) fn read_defect_data_10(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    Ok(Task::answer(answer_defects_10, u32::from(u16_at(&head.cdb, 7))))
}

/// Empty lists in the format asked for: a disk behind a network has no defects it could show.
fn answer_defects_10(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    answer.put(&[0, call.cdb()[2] & 0x1f, 0, 0]);
    Ok(())
}

pub(crate) fn read_defect_data_12(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    Ok(Task::answer(answer_defects_12, u32_at(&head.cdb, 6)))
}

fn answer_defects_12(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    answer.put(&[0, call.cdb()[1] & 0x1f, 0, 0, 0, 0, 0, 0]);
    Ok(())
}
