//! PERSISTENT RESERVE OUT (SPC-4 section 6.16).

use super::{Kind, Persistent, Reservation};
use crate::attention::Attention;
use crate::command::{Head, Task};
use crate::field::{u8_at, u16_at, u32_at, u64_at};
use crate::list::List;
use crate::nexus::{Nexus, NexusSet, TransportId};
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;
use crate::unit::LogicalUnit;
use storage_block::Buffer;

/// The basic parameter list (SPC-4 table 220).
const BASIC_LENGTH: u32 = 24;

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;
const REGISTER_AND_MOVE: u8 = 7;

pub(crate) fn change(_: &mut Target, head: &Head) -> Result<Task, Refusal> {
    let length = u32_at(&head.cdb, 5);
    if length < BASIC_LENGTH {
        return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
    }
    List::task(head, length, apply)
}

/// The fields of a parameter list that all service actions have.
struct Fields<'a> {
    key: u64,
    action_key: u64,
    list: &'a [u8],
}

impl Fields<'_> {
    fn basic_only(&self) -> Result<(), Refusal> {
        if self.list.len() != BASIC_LENGTH as usize {
            return Err(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR).into());
        }
        Ok(())
    }
}

fn apply(target: &mut Target, head: &Head, list: Option<Buffer>) -> Result<Task, Refusal> {
    let list = list.ok_or(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR))?;
    let fields = Fields { key: u64_at(&list, 0), action_key: u64_at(&list, 8), list: &list };
    let action = head.cdb[1] & 0x1f;
    if action != REGISTER && action != REGISTER_AND_MOVE {
        fields.basic_only()?;
    }
    match action {
        REGISTER | REGISTER_AND_IGNORE => register(target, head, &fields, action == REGISTER_AND_IGNORE)?,
        REGISTER_AND_MOVE => register_and_move(target, head, &fields)?,
        _ => {
            let unit = unit_of(target, head)?;
            // All others are for registrants that know their key.
            if unit.persistent.key(head.nexus) != Some(fields.key) {
                return Err(Refusal::CONFLICT);
            }
            match action {
                RESERVE => reserve(unit, head.nexus, kind(head)?)?,
                RELEASE => release(unit, head.nexus, head.cdb[2])?,
                CLEAR => clear(unit, head.nexus),
                PREEMPT => preempt(unit, head, fields.action_key, &mut |_| {})?,
                PREEMPT_AND_ABORT => {
                    let mut victims = NexusSet::default();
                    preempt(unit, head, fields.action_key, &mut |nexus| victims.add(nexus))?;
                    return Ok(Task::abort(victims));
                }
                _ => return Err(Sense::in_cdb(1, Some(4)).into()),
            }
        }
    }
    Ok(Task::done())
}

fn unit_of<'a>(target: &'a mut Target, head: &Head) -> Result<&'a mut LogicalUnit, Refusal> {
    target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED).into())
}

/// Scope and type of the CDB.
fn kind(head: &Head) -> Result<Kind, Refusal> {
    Kind::decode(head.cdb[2]).ok_or(Sense::in_cdb(2, None).into())
}

/// REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 section 5.13.7).
fn register(target: &mut Target, head: &Head, fields: &Fields<'_>, ignore: bool) -> Result<(), Refusal> {
    const SPEC_I_PT: u8 = 0x08;
    const APTPL: u8 = 0x01;
    let flags = u8_at(fields.list, 20);
    let specific = flags & SPEC_I_PT != 0;
    // Registrations do not outlive a restart, and saying that they do would cost a cluster its quorum.
    if flags & APTPL != 0 {
        return Err(Sense::in_list(20, Some(0)).into());
    }
    if specific && ignore {
        return Err(Sense::in_list(20, Some(3)).into());
    }
    if !specific {
        fields.basic_only()?;
    }
    let unit = unit_of(target, head)?;
    match unit.persistent.key(head.nexus) {
        None if !ignore && fields.key != 0 => return Err(Refusal::CONFLICT),
        None if fields.action_key == 0 => return Ok(()),
        None => {
            if specific {
                register_others(target, head, fields)?;
            }
            unit_of(target, head)?.persistent.set_key(head.nexus, fields.action_key);
        }
        Some(key) if !ignore && fields.key != key => return Err(Refusal::CONFLICT),
        Some(_) if specific => return Err(Sense::in_list(20, Some(3)).into()),
        Some(_) if fields.action_key == 0 => unregister(unit, head.nexus),
        Some(_) => unit.persistent.set_key(head.nexus, fields.action_key),
    }
    let state = &mut unit_of(target, head)?.persistent;
    state.generation = state.generation.wrapping_add(1);
    Ok(())
}

/// The TransportIDs of a SPEC_I_PT list, or where it is wrong.
fn specified_ports(list: &[u8]) -> Result<impl Iterator<Item = TransportId> + '_, Sense> {
    const START: usize = 28;
    let length = u32_at(list, 24) as usize;
    let bytes = list.get(START..).filter(|bytes| bytes.len() == length).ok_or(Sense::in_list(24, None))?;
    let mut rest = bytes;
    while !rest.is_empty() {
        rest = split_transport_id(rest).ok_or(Sense::in_list((list.len() - rest.len()) as u16, None))?.1;
    }
    let mut rest = bytes;
    Ok(core::iter::from_fn(move || {
        let (id, behind) = split_transport_id(rest)?;
        rest = behind;
        Some(id)
    }))
}

/// A TransportID from the front. Only those of iSCSI tell their length; all others have 24 bytes.
fn split_transport_id(bytes: &[u8]) -> Option<(TransportId, &[u8])> {
    const ISCSI: u8 = 0x05;
    let length = if bytes.first()? & 0x0f == ISCSI {
        4 + usize::from(u16_at(bytes, 2))
    } else {
        BASIC_LENGTH as usize
    };
    let (id, rest) = bytes.split_at_checked(length)?;
    Some((TransportId::new(id)?, rest))
}

/// Register the ports of a SPEC_I_PT list, all or none.
fn register_others(target: &mut Target, head: &Head, fields: &Fields<'_>) -> Result<(), Refusal> {
    // None may be registered already, and none twice.
    for (index, port) in specified_ports(fields.list)?.enumerate() {
        let known = target.nexuses.find(&port);
        let registered = known.is_some_and(|nexus| {
            target.unit(head.unit).is_some_and(|unit| unit.persistent.is_registered(nexus))
                || nexus == head.nexus
        });
        let twice = specified_ports(fields.list)?.take(index).any(|other| other == port);
        if registered || twice {
            return Err(Sense::in_list(28, None).into());
        }
    }
    for (index, port) in specified_ports(fields.list)?.enumerate() {
        if let Some(nexus) = target.claim(&port) {
            unit_of(target, head)?.persistent.set_key(nexus, fields.action_key);
            continue;
        }
        for done in specified_ports(fields.list)?.take(index) {
            if let Some(nexus) = target.nexuses.find(&done) {
                unit_of(target, head)?.persistent.set_key(nexus, 0);
            }
        }
        return Err(Sense::illegal(code::INSUFFICIENT_REGISTRATION_RESOURCES).into());
    }
    Ok(())
}

/// REGISTER AND MOVE (SPC-4 section 5.13.8).
fn register_and_move(target: &mut Target, head: &Head, fields: &Fields<'_>) -> Result<(), Refusal> {
    const UNREG: u8 = 0x02;
    const APTPL: u8 = 0x01;
    let (flags, port, length) =
        (u8_at(fields.list, 17), u16_at(fields.list, 18), u32_at(fields.list, 20) as usize);
    let unit = unit_of(target, head)?;
    if unit.persistent.key(head.nexus) != Some(fields.key) {
        return Err(Refusal::CONFLICT);
    }
    let movable = unit
        .persistent
        .reservation
        .filter(|reservation| !reservation.kind.is_all_registrants() && reservation.holder == head.nexus);
    let reservation = movable.ok_or(Refusal::CONFLICT)?;
    if flags & APTPL != 0 {
        return Err(Sense::in_list(17, Some(0)).into());
    }
    if fields.action_key == 0 {
        return Err(Sense::in_list(8, None).into());
    }
    if port != 1 {
        return Err(Sense::in_list(18, None).into());
    }
    let bytes = fields.list.get(24..).filter(|bytes| bytes.len() == length);
    let bytes = bytes.ok_or(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR))?;
    let id = split_transport_id(bytes).filter(|(_, rest)| rest.is_empty()).map(|(id, _)| id);
    let id = id.ok_or(Sense::in_list(24, None))?;
    if target.nexuses.find(&id) == Some(head.nexus) {
        return Err(Sense::in_list(24, None).into());
    }
    let other = target.claim(&id).ok_or(Sense::illegal(code::INSUFFICIENT_REGISTRATION_RESOURCES))?;
    let state = &mut unit_of(target, head)?.persistent;
    state.set_key(other, fields.action_key);
    state.reservation = Some(Reservation { holder: other, ..reservation });
    if flags & UNREG != 0 {
        state.set_key(head.nexus, 0);
    }
    state.generation = state.generation.wrapping_add(1);
    Ok(())
}

/// Tell every registrant but `nexus`.
fn tell_registrants(unit: &mut LogicalUnit, nexus: Nexus, attention: Attention) {
    for index in 0..unit.persistent.keys.len() {
        let other = Nexus(index as u16);
        if other != nexus && unit.persistent.is_registered(other) {
            unit.raise(other, attention);
        }
    }
}

/// A registrant takes its registration back, and with it what it holds (SPC-4 section 5.13.11.3).
fn unregister(unit: &mut LogicalUnit, nexus: Nexus) {
    let held = unit.persistent.reservation.filter(|_| unit.persistent.is_holder(nexus));
    unit.persistent.set_key(nexus, 0);
    let Some(Reservation { kind, .. }) = held else { return };
    if kind.is_all_registrants() {
        if !unit.persistent.any_registered() {
            unit.persistent.reservation = None;
        }
        return;
    }
    unit.persistent.reservation = None;
    if kind.is_for_registrants() {
        tell_registrants(unit, nexus, Attention::ReservationsReleased);
    }
}

fn reserve(unit: &mut LogicalUnit, nexus: Nexus, kind: Kind) -> Result<(), Refusal> {
    let state = &mut unit.persistent;
    match state.reservation {
        None => state.reservation = Some(Reservation { kind, holder: nexus }),
        Some(held) if held.kind == kind && state.is_holder(nexus) => {}
        Some(_) => return Err(Refusal::CONFLICT),
    }
    Ok(())
}

fn release(unit: &mut LogicalUnit, nexus: Nexus, scope_and_type: u8) -> Result<(), Refusal> {
    // Nothing to release is no error.
    let Some(held) = unit.persistent.reservation.filter(|_| unit.persistent.is_holder(nexus)) else {
        return Ok(());
    };
    if held.kind as u8 != scope_and_type {
        return Err(Sense::illegal(code::INVALID_RELEASE_OF_PERSISTENT_RESERVATION).into());
    }
    unit.persistent.reservation = None;
    if held.kind.is_for_registrants() {
        tell_registrants(unit, nexus, Attention::ReservationsReleased);
    }
    Ok(())
}

fn clear(unit: &mut LogicalUnit, nexus: Nexus) {
    tell_registrants(unit, nexus, Attention::ReservationsPreempted);
    let state = &mut unit.persistent;
    state.keys.fill(0);
    state.reservation = None;
    state.generation = state.generation.wrapping_add(1);
}

/// PREEMPT and PREEMPT AND ABORT (SPC-4 section 5.13.11.4). `victim` is called for each nexus that loses its
/// registration.
fn preempt(
    unit: &mut LogicalUnit,
    head: &Head,
    key: u64,
    victim: &mut dyn FnMut(Nexus),
) -> Result<(), Refusal> {
    let kind = kind(head)?;
    let held = unit.persistent.reservation;
    let holder_key = held.and_then(|held| unit.persistent.key(held.holder));
    let shared = held.is_some_and(|held| held.kind.is_all_registrants());
    let everybody = shared && key == 0;
    if key == 0 && !everybody {
        return Err(Sense::in_list(8, None).into());
    }
    // Whether the reservation itself is taken over, or registrations are removed and nothing else.
    let takes_over = everybody || (!shared && held.is_some() && holder_key == Some(key));
    let removed = remove(&mut unit.persistent, head.nexus, |other| everybody || other == key);
    if !takes_over && !unit_had(&removed, unit, head.nexus, key) {
        return Err(Refusal::CONFLICT);
    }
    for nexus in removed.iter() {
        unit.raise(nexus, Attention::RegistrationsPreempted);
        victim(nexus);
    }
    if takes_over {
        unit.persistent.reservation = Some(Reservation { kind, holder: head.nexus });
        if held.is_some_and(|held| held.kind != kind) {
            tell_registrants(unit, head.nexus, Attention::ReservationsReleased);
        }
    }
    unit.persistent.generation = unit.persistent.generation.wrapping_add(1);
    Ok(())
}

/// Whether the key named anybody: somebody who was removed, or the asker.
fn unit_had(removed: &NexusSet, unit: &LogicalUnit, asker: Nexus, key: u64) -> bool {
    !removed.is_empty() || unit.persistent.key(asker) == Some(key)
}

fn remove(state: &mut Persistent, except: Nexus, matches: impl Fn(u64) -> bool) -> NexusSet {
    let mut removed = NexusSet::default();
    for index in 0..state.keys.len() {
        let nexus = Nexus(index as u16);
        if nexus != except && state.key(nexus).is_some_and(&matches) {
            state.set_key(nexus, 0);
            removed.add(nexus);
        }
    }
    removed
}
