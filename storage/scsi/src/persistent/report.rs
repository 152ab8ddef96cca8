//! PERSISTENT RESERVE IN (SPC-4 section 6.15).

use super::{Kind, State};
use crate::command::{Call, Head, Task};
use crate::field::{Answer, u16_at};
use crate::sense::{Refusal, Sense};
use crate::target::Target;

/// The one target port there is (SPC-4 section 7.8.6.8).
const RELATIVE_PORT: u16 = 1;

pub(crate) fn read(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    Ok(Task::answer(answer, u32::from(u16_at(&head.cdb, 7))))
}

fn answer(call: &Call<'_>, answer: &mut Answer<'_>) -> Result<(), Refusal> {
    let unit = call.unit()?;
    let state = &unit.persistent.now;
    match call.cdb()[1] & 0x1f {
        0 => keys(state, answer),
        1 => reservation(state, answer),
        2 => capabilities(answer, unit.traits.keeps, state.outlives),
        3 => full_status(call, state, answer),
        _ => return Err(Sense::in_cdb(1, Some(4)).into()),
    }
    Ok(())
}

fn keys(state: &State, answer: &mut Answer<'_>) {
    answer.put_u32(state.generation);
    answer.put_u32(0);
    for (_, key) in state.registrants() {
        answer.put_u64(key);
    }
    answer.close_u32(4);
}

fn reservation(state: &State, answer: &mut Answer<'_>) {
    answer.put_u32(state.generation);
    answer.put_u32(0);
    if let Some(reservation) = state.reservation {
        let shared = reservation.kind.is_all_registrants();
        answer.put_u64(if shared { 0 } else { state.key(reservation.holder).unwrap_or(0) });
        answer.put(&[0, 0, 0, 0, 0, reservation.kind as u8, 0, 0]);
    }
    answer.close_u32(4);
}

/// `capable` of outliving a loss of power (PTPL_C), and `active` in it (PTPL_A).
fn capabilities(answer: &mut Answer<'_>, capable: bool, active: bool) {
    // Compatible reservation handling, SPEC_I_PT, ALL_TG_PT.
    const CRH_SIP_ATP: u8 = 0x10 | 0x08 | 0x04;
    const TMV: u8 = 0x80;
    let mask = Kind::ALL.into_iter().fold(0_u16, |mask, kind| {
        // Bit n of the first byte is type n, bit n of the second type 8 + n.
        mask | if (kind as u8) < 8 { 0x100 << kind as u8 } else { 1 << (kind as u8 - 8) }
    });
    answer.put_u16(8);
    answer.put(&[CRH_SIP_ATP | u8::from(capable), TMV | u8::from(active)]);
    answer.put_u16(mask);
    answer.put_u16(0);
}

fn full_status(call: &Call<'_>, state: &State, answer: &mut Answer<'_>) {
    answer.put_u32(state.generation);
    answer.put_u32(0);
    for (nexus, key) in state.registrants() {
        let holder = state.is_holder(nexus);
        let kind = state.reservation.filter(|_| holder).map_or(0, |reservation| reservation.kind as u8);
        answer.put_u64(key);
        answer.put_u32(0);
        answer.put(&[u8::from(holder), kind, 0, 0, 0, 0]);
        answer.put_u16(RELATIVE_PORT);
        let port = call.target.nexuses.id(nexus).map_or(&[][..], |id| id.as_bytes());
        answer.put_u32(port.len() as u32);
        answer.put(port);
    }
    answer.close_u32(4);
}
