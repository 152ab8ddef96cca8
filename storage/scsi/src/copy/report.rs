//! What is told of copies: RECEIVE COPY RESULTS (SPC-4 sections 6.18 to 6.24), and COPY OPERATION ABORT (6.3).

use crate::command::{Call, Head, Task};
use crate::copy::list::{
    BLOCK_TO_BLOCK, IDENTIFICATION, LID1, LID4, MAX_CSCDS, MAX_DESCRIPTORS, MAX_SEGMENT_LENGTH,
};
use crate::copy::operations::{MAX_RUNNING, MAX_RUNNING_OF_ONE, MAX_SEGMENTS, Name, Operation, State};
use crate::field::{Answer, u8_at, u32_at};
use crate::sense::{Refusal, Sense, SenseData};
use crate::target::Target;
use crate::unit::LogicalUnit;

/// How long an initiator is advised to wait before it asks again for a copy that is under way, in milliseconds.
const ASK_AGAIN: u32 = 1000;
/// The transfer count is in bytes.
const BYTES: u8 = 0;

/// The exponent of what a segment's length is a multiple of: a block.
pub(crate) fn granularity(unit: &LogicalUnit) -> u8 {
    unit.geometry().map_or(9, |geometry| geometry.block_size.trailing_zeros()) as u8
}

/// The copy that the list identifier in a CDB is of, if its service action is one of these.
pub(crate) fn find<'a>(
    call: &Call<'a>,
    is_long: bool,
    is_meant: impl Fn(u8) -> bool,
) -> Result<&'a Operation, Refusal> {
    let cdb = call.cdb();
    let id = if is_long { u32_at(cdb, 2) } else { u32::from(u8_at(cdb, 2)) };
    let found = call.target.copies.find(call.name(Some(id)), is_meant);
    found.ok_or(Sense::in_cdb(2, None).into())
}

pub(crate) fn answer(head: &Head, make: crate::command::Make) -> Result<Task, Refusal> {
    Ok(Task::answer(make, u32_at(&head.cdb, 10)))
}

/// RECEIVE COPY STATUS (LID1).
pub(crate) fn status_1(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    answer(head, |call, answer| {
        let operation = find(call, false, |action| action == LID1)?;
        answer.put_u32(8);
        answer.put_u8(match operation.state {
            State::Running => 0x00,
            State::Done => 0x01,
            _ => 0x02,
        });
        answer.put_u16(operation.done as u16);
        // In units of 1024 bytes to the power of so many as it takes for the count to fit.
        let (mut units, mut count) = (BYTES, operation.moved);
        while count > u64::from(u32::MAX) {
            (units, count) = (units + 1, count >> 10);
        }
        answer.put_u8(units);
        answer.put_u32(count as u32);
        Ok(())
    })
}

/// RECEIVE COPY FAILURE DETAILS (LID1). Of a copy that has not failed there are none.
pub(crate) fn failure_details(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    answer(head, |call, answer| {
        const STATUS: usize = 56;
        let operation = find(call, false, |action| action == LID1)?;
        answer.put_u32(0);
        let State::Failed(sense) = operation.state else { return Ok(()) };
        let sense = encode(sense);
        answer.pad_to(STATUS);
        answer.put(&[0x02, 0]);
        answer.put_u16(sense.len() as u16);
        answer.put(&sense);
        answer.close_u32(0);
        Ok(())
    })
}

fn encode(sense: Option<Sense>) -> SenseData {
    sense.map_or(SenseData::default(), |sense| sense.encode(false))
}

/// RECEIVE COPY OPERATING PARAMETERS.
pub(crate) fn operating_parameters(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    answer(head, |call, answer| {
        // SNLID: a copy may have no list identifier.
        answer.put(&[0, 0, 0, 0, 0x01, 0, 0, 0]);
        answer.put_u16(MAX_CSCDS as u16);
        answer.put_u16(MAX_SEGMENTS as u16);
        answer.put_u32(MAX_DESCRIPTORS as u32);
        answer.put_u32(MAX_SEGMENT_LENGTH);
        // No inline data, no held data, no stream devices.
        answer.pad_to(34);
        answer.put_u16(MAX_RUNNING as u16);
        answer.put(&[MAX_RUNNING_OF_ONE as u8, granularity(call.unit()?), 0, 0]);
        answer.pad_to(43);
        answer.put(&[2, BLOCK_TO_BLOCK, IDENTIFICATION]);
        answer.close_u32(0);
        Ok(())
    })
}

/// RECEIVE COPY STATUS (LID4).
pub(crate) fn status_4(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    answer(head, |call, answer| {
        let operation = find(call, true, |action| action == LID4)?;
        put_status(operation, (BYTES, operation.moved), answer);
        answer.close_u32(0);
        Ok(())
    })
}

/// The beginning that the answers about copies with long list identifiers have in common, with the transfer count and its
/// units.
pub(crate) fn put_status(operation: &Operation, (units, count): (u8, u64), answer: &mut Answer<'_>) {
    let (status, sense) = match operation.state {
        State::Running => (0x11, None),
        State::Failed(sense) => (0x02, sense),
        State::Aborted => (0x60, None),
        State::Partial => (0x03, None),
        State::Done | State::Free => (0x01, None),
    };
    let sense = encode(sense);
    answer.put(&[0, 0, 0, 0, operation.name.action, status, 0, 0]);
    answer.put_u32(if operation.state == State::Running { ASK_AGAIN } else { 0 });
    // The status of a copy that has ended, and its sense data, padded to the field's length.
    let ended = if sense.is_empty() { 0x00 } else { 0x02 };
    let field = sense.len().next_multiple_of(4);
    answer.put(&[ended, field as u8, sense.len() as u8, units]);
    answer.put_u64(count);
    // Of segment descriptors: a copy by token has none.
    answer.put_u16(if operation.name.action == LID4 { operation.done as u16 } else { 0 });
    answer.pad_to(32);
    answer.put(&sense);
    answer.pad_to(32 + field);
}

/// COPY OPERATION ABORT: the copy ends before its next piece of data moves.
pub(crate) fn abort(target: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let id = Some(u32_at(&head.cdb, 2));
    let name = Name { nexus: head.nexus, unit: head.unit, id, action: 0 };
    if target.copies.stop(name) { Ok(Task::done()) } else { Err(Sense::in_cdb(2, None).into()) }
}
