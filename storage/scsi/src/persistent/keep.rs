//! What of the state outlives a loss of power: as bytes, and from them.

use super::change::settle;
use super::{Change, Kind, Reservation, State};
use crate::field::{u8_at, u16_at, u64_at};
use crate::nexus::{Nexus, NexusSet, Nexuses, TransportId};
use crate::sense::{Refusal, Sense, SenseKey, code};
use crate::target::Target;
use crate::unit::{LogicalUnit, UnitId};
use alloc::vec::Vec;
use core::fmt;

/// The most bytes that [`Target::to_keep`] answers: room for 64 registrants of the longest names. More are refused.
pub const LONGEST_KEPT: usize = 20 << 10;

const VERSION: u8 = 1;
/// Bytes before the registrants: version, type, the place of the holder among them, their number.
const HEAD: usize = 6;
/// Bytes of a registrant before its TransportID: key, relative target port identifier, length.
const REGISTRANT: usize = 12;
/// The place of no holder.
const NOBODY: u16 = u16::MAX;
/// The one target port there is.
const RELATIVE_PORT: u16 = 1;

/// Why a unit's reservations are not those that were kept. It must not be used: it would let in whom they keep out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotRestored {
    /// The bytes are none of [`Target::to_keep`].
    Malformed,
    /// There are more registrants than the target has places for.
    NoPlace,
}

impl fmt::Display for NotRestored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "the kept reservations cannot be read",
            Self::NoPlace => "there are more kept registrations than places for initiator ports",
        })
    }
}

/// The bytes that are kept of `state`, none if it does not outlive a loss of power.
pub(super) fn encode(state: &State, nexuses: &Nexuses) -> Vec<u8> {
    let mut bytes = Vec::new();
    if !state.outlives {
        return bytes;
    }
    let holder = state.reservation.filter(|held| !held.kind.is_all_registrants()).map(|held| held.holder);
    let place = state.registrants().position(|(nexus, _)| Some(nexus) == holder);
    bytes.push(VERSION);
    bytes.push(state.reservation.map_or(0, |held| held.kind as u8));
    bytes.extend_from_slice(&place.map_or(NOBODY, |place| place as u16).to_be_bytes());
    bytes.extend_from_slice(&(state.registrants().count() as u16).to_be_bytes());
    for (nexus, key) in state.registrants() {
        // A registrant has a place in the table as long as it is one.
        let id = nexuses.id(nexus).map_or(&[][..], TransportId::as_bytes);
        bytes.extend_from_slice(&key.to_be_bytes());
        bytes.extend_from_slice(&RELATIVE_PORT.to_be_bytes());
        bytes.extend_from_slice(&(id.len() as u16).to_be_bytes());
        bytes.extend_from_slice(id);
    }
    bytes
}

impl Target {
    /// What a unit's reservations are to be kept as, after [`crate::Carrier::keep`]: the bytes that
    /// [`Target::restore`] makes them of, none if nothing is to be kept any more. `None` when nothing waits for it.
    pub fn to_keep(&self, id: UnitId) -> Option<Vec<u8>> {
        let draft = self.unit(id)?.persistent.draft()?;
        Some(encode(&draft.state, &self.nexuses))
    }

    /// What [`Target::to_keep`] has answered last is durable and now happens; or it is not, and nothing has happened: the
    /// command ends with HARDWARE ERROR. Step those that are held.
    ///
    /// Answers whose commands for the unit are to be aborted now: those of whom PREEMPT AND ABORT has preempted, if that
    /// command is no more itself. Else it sees to them.
    pub fn kept(&mut self, id: UnitId, durable: bool) -> impl Iterator<Item = Nexus> + use<> {
        let mut victims = NexusSet::default();
        if let Some(unit) = self.unit_mut(id) {
            victims = made(unit, durable);
        }
        victims.iter()
    }

    /// Give a new unit the reservations that were kept of it.
    ///
    /// # Errors
    /// The unit must not be used then.
    pub fn restore(&mut self, id: UnitId, bytes: &[u8]) -> Result<(), NotRestored> {
        let nexuses = self.unit(id).map_or(0, |unit| unit.persistent.now.keys.len());
        let mut state =
            State { keys: alloc::vec![0; nexuses], generation: 0, reservation: None, outlives: true };
        if u8_at(bytes, 0) != VERSION {
            return Err(NotRestored::Malformed);
        }
        let (kind, place, count) = (u8_at(bytes, 1), u16_at(bytes, 2), u16_at(bytes, 4));
        let mut holder = None;
        let mut rest = bytes.get(HEAD..).ok_or(NotRestored::Malformed)?;
        for index in 0..count {
            let (key, port, length) = (u64_at(rest, 0), u16_at(rest, 8), u16_at(rest, 10).into());
            let (name, behind) = rest
                .get(REGISTRANT..)
                .and_then(|rest| rest.split_at_checked(length))
                .filter(|_| key != 0 && port == RELATIVE_PORT)
                .ok_or(NotRestored::Malformed)?;
            rest = behind;
            let name = TransportId::new(name).ok_or(NotRestored::Malformed)?;
            let nexus = self.claim_beside(&name, &|nexus| state.is_registered(nexus));
            let nexus = nexus.ok_or(NotRestored::NoPlace)?;
            state.set_key(nexus, key);
            if index == place {
                holder = Some(nexus);
            }
        }
        if kind != 0 {
            let kind = Kind::decode(kind).ok_or(NotRestored::Malformed)?;
            // Of a type that all registrants hold nobody is asked for the holder.
            let anybody = state.registrants().next().map(|(nexus, _)| nexus);
            let holder = if kind.is_all_registrants() { anybody } else { holder };
            state.reservation = Some(Reservation { kind, holder: holder.ok_or(NotRestored::Malformed)? });
        }
        if let Some(unit) = self.unit_mut(id).filter(|_| rest.is_empty()) {
            unit.persistent.now = state;
            return Ok(());
        }
        Err(NotRestored::Malformed)
    }
}

/// The draft of `unit` is durable and happens, or it does not. Answers whose commands nobody else aborts.
fn made(unit: &mut LogicalUnit, durable: bool) -> NexusSet {
    match core::mem::replace(&mut unit.persistent.change, Change::None) {
        Change::Kept(draft, is_awaited) => {
            let result = if durable {
                Ok(settle(unit, *draft))
            } else {
                let failure = Sense::new(SenseKey::HardwareError, code::INTERNAL_TARGET_FAILURE);
                Err(Refusal::from(failure))
            };
            if !is_awaited {
                return result.unwrap_or_default();
            }
            unit.persistent.change = Change::Settled(result);
        }
        other => unit.persistent.change = other,
    }
    NexusSet::default()
}
