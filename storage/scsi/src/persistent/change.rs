//! PERSISTENT RESERVE OUT (SPC-4 section 6.16).

use super::keep::{LONGEST_KEPT, encode};
use super::{Change, Draft, Kind, Reservation};
use crate::attention::Attention;
use crate::command::{Head, Out, Rest, Task};
use crate::field::{u8_at, u16_at, u32_at, u64_at};
use crate::list::List;
use crate::nexus::{Nexus, NexusSet, TransportId};
use crate::sense::{Refusal, Sense, code};
use crate::target::Target;
use crate::unit::LogicalUnit;
use core::ops::ControlFlow::{self, Break, Continue};
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
    List::task(head, length, |_, _, list| {
        let list = list.ok_or(Sense::illegal(code::PARAMETER_LIST_LENGTH_ERROR))?;
        Ok(Task::Change(Pending { wanted: list.len() as u64, list: Some(list) }))
    })
}

/// A command whose parameter list is here: before its draft, or waiting for that to be durable.
pub(crate) struct Pending {
    list: Option<Buffer>,
    /// Bytes of Data-Out that it had use for.
    wanted: u64,
}

impl Pending {
    pub(crate) fn step(
        &mut self,
        target: &mut Target,
        head: &Head,
        out: &mut Out<'_>,
    ) -> ControlFlow<Rest, Task> {
        let result = match self.go_on(target, head, out) {
            Ok(None) => return Break(Rest::Blocked),
            Ok(Some(victims)) => Ok(victims),
            Err(refusal) => Err(Refusal { wanted_out: self.wanted, ..refusal }),
        };
        Continue(match result {
            Ok(victims) if victims.is_empty() => Task::done().wanting(self.wanted, 0),
            Ok(victims) => Task::abort(victims),
            Err(refusal) => Task::refused(refusal),
        })
    }

    /// Whose commands are to end, once the change is made.
    fn go_on(
        &mut self,
        target: &mut Target,
        head: &Head,
        out: &mut Out<'_>,
    ) -> Result<Option<NexusSet>, Refusal> {
        let unit = unit_of(target, head)?;
        if self.list.is_none() {
            return match core::mem::replace(&mut unit.persistent.change, Change::None) {
                Change::Settled(result) => result.map(Some),
                other => {
                    unit.persistent.change = other;
                    Ok(None)
                }
            };
        }
        // Another change is not made yet, or its command has yet to hear of it.
        if !matches!(unit.persistent.change, Change::None) {
            return Ok(None);
        }
        let Some(list) = self.list.take() else { return Ok(None) };
        let draft = draft(target, head, &list)?;
        let unit = unit_of(target, head)?;
        if draft.state.is_kept_as(&unit.persistent.now) {
            return Ok(Some(settle(unit, draft)));
        }
        if encode(&draft.state, &target.nexuses).len() > LONGEST_KEPT {
            return Err(Sense::illegal(code::INSUFFICIENT_REGISTRATION_RESOURCES).into());
        }
        unit_of(target, head)?.persistent.change = Change::Kept(draft.into(), true);
        out.keep();
        Ok(None)
    }

    /// The command is no more. What is being kept is kept, and then happens.
    pub(crate) fn disown(&self, unit: &mut LogicalUnit) {
        if self.list.is_none() {
            match &mut unit.persistent.change {
                Change::Kept(_, is_awaited) => *is_awaited = false,
                settled => *settled = Change::None,
            }
        }
    }
}

/// The draft happens. Answers whose commands are to end.
pub(super) fn settle(unit: &mut LogicalUnit, draft: Draft) -> NexusSet {
    for (attention, nexuses) in draft.told {
        nexuses.iter().for_each(|nexus| unit.raise(nexus, attention));
    }
    unit.persistent.now = draft.state;
    draft.victims
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

/// What the command makes of its unit's state.
fn draft(target: &mut Target, head: &Head, list: &[u8]) -> Result<Draft, Refusal> {
    let fields = Fields { key: u64_at(list, 0), action_key: u64_at(list, 8), list };
    let action = head.cdb[1] & 0x1f;
    // These look themselves: more may belong to them.
    if !matches!(action, REGISTER | REGISTER_AND_IGNORE | REGISTER_AND_MOVE) {
        fields.basic_only()?;
    }
    let mut draft = Draft::new(&unit_of(target, head)?.persistent.now);
    match action {
        REGISTER | REGISTER_AND_IGNORE => {
            register(target, head, &fields, action == REGISTER_AND_IGNORE, &mut draft)?;
        }
        REGISTER_AND_MOVE => register_and_move(target, head, &fields, &mut draft)?,
        // All others are for registrants that know their key.
        _ if draft.state.key(head.nexus) != Some(fields.key) => return Err(Refusal::CONFLICT),
        RESERVE => reserve(&mut draft, head.nexus, kind(head)?)?,
        RELEASE => release(&mut draft, head.nexus, head.cdb[2])?,
        CLEAR => clear(&mut draft, head.nexus),
        PREEMPT | PREEMPT_AND_ABORT => {
            let victims = preempt(&mut draft, head, fields.action_key)?;
            if action == PREEMPT_AND_ABORT {
                draft.victims = victims;
            }
        }
        _ => return Err(Sense::in_cdb(1, Some(4)).into()),
    }
    Ok(draft)
}

fn unit_of<'a>(target: &'a mut Target, head: &Head) -> Result<&'a mut LogicalUnit, Refusal> {
    target.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED).into())
}

/// Scope and type of the CDB.
fn kind(head: &Head) -> Result<Kind, Refusal> {
    Kind::decode(head.cdb[2]).ok_or(Sense::in_cdb(2, None).into())
}

/// Whether a registration outlives a loss of power, by the bit that asks for it.
fn outlives(target: &mut Target, head: &Head, flags: u8, byte: u16) -> Result<bool, Refusal> {
    const APTPL: u8 = 0x01;
    let asked = flags & APTPL != 0;
    // Saying that it does where it does not would cost a cluster its quorum.
    if asked && !unit_of(target, head)?.traits.keeps {
        return Err(Sense::in_list(byte, Some(0)).into());
    }
    Ok(asked)
}

/// REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 section 5.13.7).
fn register(
    target: &mut Target,
    head: &Head,
    fields: &Fields<'_>,
    ignore: bool,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    const SPEC_I_PT: u8 = 0x08;
    let flags = u8_at(fields.list, 20);
    let specific = flags & SPEC_I_PT != 0;
    let outlives = outlives(target, head, flags, 20)?;
    if specific && ignore {
        return Err(Sense::in_list(20, Some(3)).into());
    }
    if !specific {
        fields.basic_only()?;
    }
    match draft.state.key(head.nexus) {
        None if !ignore && fields.key != 0 => return Err(Refusal::CONFLICT),
        None if fields.action_key == 0 => return Ok(()),
        None => {
            if specific {
                register_others(target, head, fields, draft)?;
            }
            draft.state.set_key(head.nexus, fields.action_key);
        }
        Some(key) if !ignore && fields.key != key => return Err(Refusal::CONFLICT),
        Some(_) if specific => return Err(Sense::in_list(20, Some(3)).into()),
        Some(_) if fields.action_key == 0 => unregister(draft, head.nexus),
        Some(_) => draft.state.set_key(head.nexus, fields.action_key),
    }
    draft.state.outlives = outlives;
    draft.state.next_generation();
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
fn register_others(
    target: &mut Target,
    head: &Head,
    fields: &Fields<'_>,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    for port in specified_ports(fields.list)? {
        // None may be registered already, and none twice.
        let known = target.nexuses.find(&port);
        if known.is_some_and(|nexus| draft.state.is_registered(nexus) || nexus == head.nexus) {
            return Err(Sense::in_list(28, None).into());
        }
        let nexus = claim(target, &port, draft)?;
        draft.state.set_key(nexus, fields.action_key);
    }
    Ok(())
}

/// The place of a port that is to be registered, which is not that of one that is.
fn claim(target: &mut Target, port: &TransportId, draft: &Draft) -> Result<Nexus, Refusal> {
    let nexus = target.claim_beside(port, &|nexus| draft.state.is_registered(nexus));
    nexus.ok_or(Sense::illegal(code::INSUFFICIENT_REGISTRATION_RESOURCES).into())
}

/// REGISTER AND MOVE (SPC-4 section 5.13.8).
fn register_and_move(
    target: &mut Target,
    head: &Head,
    fields: &Fields<'_>,
    draft: &mut Draft,
) -> Result<(), Refusal> {
    const UNREG: u8 = 0x02;
    let (flags, port, length) =
        (u8_at(fields.list, 17), u16_at(fields.list, 18), u32_at(fields.list, 20) as usize);
    if draft.state.key(head.nexus) != Some(fields.key) {
        return Err(Refusal::CONFLICT);
    }
    let movable = draft
        .state
        .reservation
        .filter(|reservation| !reservation.kind.is_all_registrants() && reservation.holder == head.nexus);
    let reservation = movable.ok_or(Refusal::CONFLICT)?;
    let outlives = outlives(target, head, flags, 17)?;
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
    let other = claim(target, &id, draft)?;
    let state = &mut draft.state;
    state.set_key(other, fields.action_key);
    state.reservation = Some(Reservation { holder: other, ..reservation });
    if flags & UNREG != 0 {
        state.set_key(head.nexus, 0);
    }
    state.outlives = outlives;
    state.next_generation();
    Ok(())
}

/// A registrant goes, and with it what it holds (SPC-4 section 5.13.11.2).
fn unregister(draft: &mut Draft, nexus: Nexus) {
    let held = draft.state.reservation.filter(|_| draft.state.is_holder(nexus));
    draft.state.set_key(nexus, 0);
    let Some(Reservation { kind, .. }) = held else { return };
    if kind.is_all_registrants() {
        if !draft.state.any_registered() {
            draft.state.reservation = None;
        }
        return;
    }
    draft.state.reservation = None;
    if kind.is_for_registrants() {
        draft.tell_registrants(nexus, Attention::ReservationsReleased);
    }
}

fn reserve(draft: &mut Draft, nexus: Nexus, kind: Kind) -> Result<(), Refusal> {
    let state = &mut draft.state;
    match state.reservation {
        None => state.reservation = Some(Reservation { kind, holder: nexus }),
        Some(held) if held.kind == kind && state.is_holder(nexus) => {}
        Some(_) => return Err(Refusal::CONFLICT),
    }
    Ok(())
}

fn release(draft: &mut Draft, nexus: Nexus, scope_and_type: u8) -> Result<(), Refusal> {
    // Nothing to release is no error.
    let Some(held) = draft.state.reservation.filter(|_| draft.state.is_holder(nexus)) else {
        return Ok(());
    };
    if held.kind as u8 != scope_and_type {
        return Err(Sense::illegal(code::INVALID_RELEASE_OF_PERSISTENT_RESERVATION).into());
    }
    draft.state.reservation = None;
    if held.kind.is_for_registrants() {
        draft.tell_registrants(nexus, Attention::ReservationsReleased);
    }
    Ok(())
}

fn clear(draft: &mut Draft, nexus: Nexus) {
    draft.tell_registrants(nexus, Attention::ReservationsPreempted);
    draft.state.keys.fill(0);
    draft.state.reservation = None;
    draft.state.next_generation();
}

/// PREEMPT and PREEMPT AND ABORT (SPC-4 section 5.13.11.4). Answers who has lost its registration to another.
fn preempt(draft: &mut Draft, head: &Head, key: u64) -> Result<NexusSet, Refusal> {
    let kind = kind(head)?;
    let state = &draft.state;
    let held = state.reservation;
    let shared = held.is_some_and(|held| held.kind.is_all_registrants());
    let everybody = shared && key == 0;
    if key == 0 && !everybody {
        return Err(Sense::in_list(8, None).into());
    }
    // Whether the reservation itself is taken over, or registrations are removed and nothing else.
    let holder_key = held.and_then(|held| state.key(held.holder));
    let takes_over = everybody || (!shared && holder_key == Some(key));
    let (mut removed, mut any) = (NexusSet::default(), false);
    for index in 0..draft.state.keys.len() {
        let nexus = Nexus(index as u16);
        let named = draft.state.key(nexus).is_some_and(|there| everybody || there == key);
        // Who takes over stays; who only removes may remove itself.
        if named && !(takes_over && nexus == head.nexus) {
            draft.state.set_key(nexus, 0);
            any = true;
            if nexus != head.nexus {
                removed.add(nexus);
                draft.tell(Attention::RegistrationsPreempted, nexus);
            }
        }
    }
    if !takes_over && !any {
        return Err(Refusal::CONFLICT);
    }
    if takes_over {
        draft.state.reservation = Some(Reservation { kind, holder: head.nexus });
        if held.is_some_and(|held| held.kind != kind) {
            draft.tell_registrants(head.nexus, Attention::ReservationsReleased);
        }
    } else if !draft.state.any_registered() {
        draft.state.reservation = None;
    }
    draft.state.next_generation();
    Ok(removed)
}
