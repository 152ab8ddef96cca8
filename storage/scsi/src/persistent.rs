//! Persistent reservations (SPC-4 section 5.13): who is registered, who holds the unit, and what that allows.

mod change;
mod report;

pub(crate) use change::change;
pub(crate) use report::read;

use crate::nexus::Nexus;
use crate::opcode::Access;
use crate::sense::Refusal;
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

/// The persistent reservation state of one logical unit.
#[derive(Debug)]
pub(crate) struct Persistent {
    /// The key of each nexus; zero where it is not registered, which no registered key is.
    keys: Vec<u64>,
    /// PRGENERATION.
    generation: u32,
    reservation: Option<Reservation>,
}

impl Persistent {
    pub(crate) fn new(nexuses: usize) -> Self {
        Self { keys: vec![0; nexuses], generation: 0, reservation: None }
    }

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

    pub(crate) fn is_registered(&self, nexus: Nexus) -> bool {
        self.key(nexus).is_some()
    }

    pub(crate) fn any_registered(&self) -> bool {
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

    /// Whether a RESERVE or RELEASE of SPC-2 by this nexus ends with GOOD and does nothing (SPC-4 section 5.13.3).
    pub(crate) fn allows_compatible(&self, nexus: Nexus) -> bool {
        let shared = self.reservation.is_some_and(|reservation| reservation.kind.is_for_registrants());
        self.is_holder(nexus) || (shared && self.is_registered(nexus))
    }

    /// Whether the reservation lets this nexus do it.
    pub(crate) fn check(&self, nexus: Nexus, access: Access) -> Result<(), Refusal> {
        let Some(Reservation { kind, .. }) = self.reservation else { return Ok(()) };
        let allowed = access == Access::Always
            || self.is_holder(nexus)
            || (kind.is_for_registrants() && self.is_registered(nexus))
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
            let state = Persistent { keys: vec![1, 2, 0], generation: 0, reservation };
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
