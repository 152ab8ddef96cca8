//! Persistent reservations (SPC-4 section 5.13): who is registered, who holds the unit, and what that allows.
//!
//! A command that changes the state makes a draft of the new one, and all or nothing becomes of it. Where the state is to
//! outlive a loss of power (APTPL), the draft is made durable first: until then nobody sees any of it, other changes of the
//! unit wait, and all other commands go on by what there is.

mod change;
mod keep;
mod report;

pub(crate) use change::{Pending, change};
pub use keep::{LONGEST_KEPT, NotRestored};
pub(crate) use report::read;

use crate::attention::Attention;
use crate::nexus::{Nexus, NexusSet};
use crate::opcode::Access;
use crate::sense::Refusal;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;

/// The type of a reservation (SPC-4 table 65); its scope is always the logical unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    WriteExclusive = 1,
    ExclusiveAccess = 3,
    WriteExclusiveRegistrantsOnly = 5,
    ExclusiveAccessRegistrantsOnly = 6,
    WriteExclusiveAllRegistrants = 7,
    ExclusiveAccessAllRegistrants = 8,
}

impl Kind {
    const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// From the byte that holds scope and type.
    fn decode(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == byte)
    }

    /// Every registrant is a holder.
    fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Whoever is registered may do what the holder may.
    fn is_for_registrants(self) -> bool {
        self.is_all_registrants()
            || matches!(self, Self::WriteExclusiveRegistrantsOnly | Self::ExclusiveAccessRegistrantsOnly)
    }

    /// Everybody may read.
    fn is_write_exclusive(self) -> bool {
        matches!(
            self,
            Self::WriteExclusive | Self::WriteExclusiveRegistrantsOnly | Self::WriteExclusiveAllRegistrants
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reservation {
    kind: Kind,
    /// Who made it; with an all-registrants kind it is everybody's.
    holder: Nexus,
}

/// Who is registered, and what is reserved.
#[derive(Clone, Debug)]
struct State {
    /// The key of each nexus; zero where it is not registered, which no registered key is.
    keys: Vec<u64>,
    /// PRGENERATION.
    generation: u32,
    reservation: Option<Reservation>,
    /// It outlives a loss of power (PTPL_A): what the last registration has asked for.
    outlives: bool,
}

impl State {
    /// The key of a nexus that is registered.
    fn key(&self, nexus: Nexus) -> Option<u64> {
        self.keys.get(nexus.index()).copied().filter(|&key| key != 0)
    }

    fn set_key(&mut self, nexus: Nexus, key: u64) {
        if let Some(place) = self.keys.get_mut(nexus.index()) {
            *place = key;
        }
    }

    /// Every registered nexus with its key.
    fn registrants(&self) -> impl Iterator<Item = (Nexus, u64)> + '_ {
        let registered = self.keys.iter().enumerate().filter(|(_, key)| **key != 0);
        registered.map(|(index, key)| (Nexus(index as u16), *key))
    }

    fn is_registered(&self, nexus: Nexus) -> bool {
        self.key(nexus).is_some()
    }

    fn any_registered(&self) -> bool {
        self.registrants().next().is_some()
    }

    fn is_holder(&self, nexus: Nexus) -> bool {
        self.reservation.is_some_and(|reservation| {
            if reservation.kind.is_all_registrants() {
                self.is_registered(nexus)
            } else {
                reservation.holder == nexus
            }
        })
    }

    /// Whether a restart makes the same of both.
    fn is_kept_as(&self, other: &Self) -> bool {
        let same = self.reservation == other.reservation && self.keys == other.keys;
        self.outlives == other.outlives && (same || !self.outlives)
    }

    fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

/// The persistent reservation state of one logical unit.
#[derive(Debug)]
pub(crate) struct Persistent {
    now: State,
    change: Change,
}

/// A change that is to be durable before it is made. There is one at a time.
#[derive(Debug)]
enum Change {
    None,
    /// It is being kept, for a command that waits for it or is no more.
    Kept(Box<Draft>, bool),
    /// It was made or not; the command has yet to hear it, and whose commands it is to end.
    Settled(Result<NexusSet, Refusal>),
}

/// What a command would make of the state, and whom it would tell.
#[derive(Debug)]
struct Draft {
    state: State,
    /// Who is to be told of what.
    told: [(Attention, NexusSet); 3],
    /// Whose commands are to end.
    victims: NexusSet,
}

impl Draft {
    fn new(state: &State) -> Self {
        let kinds = [
            Attention::ReservationsReleased,
            Attention::ReservationsPreempted,
            Attention::RegistrationsPreempted,
        ];
        let told = kinds.map(|attention| (attention, NexusSet::default()));
        Self { state: state.clone(), told, victims: NexusSet::default() }
    }

    fn tell(&mut self, attention: Attention, nexus: Nexus) {
        self.told.iter_mut().filter(|(kind, _)| *kind == attention).for_each(|(_, set)| set.add(nexus));
    }

    /// Tell every registrant but `except`.
    fn tell_registrants(&mut self, except: Nexus, attention: Attention) {
        for index in 0..self.state.keys.len() {
            let nexus = Nexus(index as u16);
            if nexus != except && self.state.is_registered(nexus) {
                self.tell(attention, nexus);
            }
        }
    }
}

impl Persistent {
    pub(crate) fn new(nexuses: usize) -> Self {
        let now = State { keys: vec![0; nexuses], generation: 0, reservation: None, outlives: false };
        Self { now, change: Change::None }
    }

    /// Whether a nexus is registered, or is about to be.
    pub(crate) fn is_registered(&self, nexus: Nexus) -> bool {
        let kept = |draft: &Draft| draft.state.is_registered(nexus);
        self.now.is_registered(nexus) || self.draft().is_some_and(kept)
    }

    /// Whether anybody is registered, or is about to be.
    pub(crate) fn any_registered(&self) -> bool {
        self.now.any_registered() || self.draft().is_some_and(|draft| draft.state.any_registered())
    }

    fn draft(&self) -> Option<&Draft> {
        match &self.change {
            Change::Kept(draft, _) => Some(draft),
            _ => None,
        }
    }

    /// Whether a RESERVE or RELEASE of SPC-2 by this nexus ends with GOOD and does nothing (SPC-4 section 5.13.3).
    pub(crate) fn allows_compatible(&self, nexus: Nexus) -> bool {
        let shared = self.now.reservation.is_some_and(|reservation| reservation.kind.is_for_registrants());
        self.now.is_holder(nexus) || (shared && self.now.is_registered(nexus))
    }

    /// Whether the reservation lets this nexus do it.
    pub(crate) fn check(&self, nexus: Nexus, access: Access) -> Result<(), Refusal> {
        let Some(Reservation { kind, .. }) = self.now.reservation else { return Ok(()) };
        let allowed = access == Access::Always
            || self.now.is_holder(nexus)
            || (kind.is_for_registrants() && self.now.is_registered(nexus))
            || (kind.is_write_exclusive() && access == Access::Read);
        if allowed { Ok(()) } else { Err(Refusal::CONFLICT) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_allows_what_table_66_says() {
        // Kind; then for a stranger and for a registrant that is no holder: may it read, may it write.
        let table = [
            (Kind::WriteExclusive, (true, false), (true, false)),
            (Kind::ExclusiveAccess, (false, false), (false, false)),
            (Kind::WriteExclusiveRegistrantsOnly, (true, false), (true, true)),
            (Kind::ExclusiveAccessRegistrantsOnly, (false, false), (true, true)),
            (Kind::WriteExclusiveAllRegistrants, (true, false), (true, true)),
            (Kind::ExclusiveAccessAllRegistrants, (false, false), (true, true)),
        ];
        for (kind, stranger, registrant) in table {
            let reservation = Some(Reservation { kind, holder: Nexus(0) });
            let now = State { keys: vec![1, 2, 0], generation: 0, reservation, outlives: false };
            let state = Persistent { now, change: Change::None };
            let may = |nexus, access| state.check(Nexus(nexus), access).is_ok();
            assert!(may(0, Access::Read) && may(0, Access::Change), "{kind:?}: the holder");
            assert_eq!((may(1, Access::Read), may(1, Access::Change)), registrant, "{kind:?}: a registrant");
            assert_eq!((may(2, Access::Read), may(2, Access::Change)), stranger, "{kind:?}: a stranger");
            assert!(may(2, Access::Always));
            assert_eq!(Kind::decode(kind as u8), Some(kind));
        }
        assert_eq!(Kind::decode(0x15), None, "another scope");
        assert_eq!(Kind::decode(2), None);
    }
}
