//! The copies of a target: those under way, and what became of those that have ended, for as long as nobody else needs
//! their place.

use crate::copy::tokens::TokenId;
use crate::nexus::Nexus;
use crate::sense::{Refusal, Sense, code};
use crate::target::NO_UNIT;
use crate::unit::UnitId;
use alloc::vec::Vec;

/// Segment descriptors of one copy.
pub(crate) const MAX_SEGMENTS: usize = 16;
/// Copies of a target at once, and of those of one nexus.
pub(crate) const MAX_RUNNING: usize = 6;
pub(crate) const MAX_RUNNING_OF_ONE: usize = 4;
/// Copies that are known. Those beyond the running ones have ended.
const PLACES: usize = MAX_RUNNING + 2;

/// A range of one unit that goes to a range of a unit, which may be the same.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) source: UnitId,
    pub(crate) from: u64,
    pub(crate) destination: UnitId,
    pub(crate) to: u64,
    /// Bytes; whole blocks of both.
    pub(crate) length: u64,
}

impl Piece {
    pub(crate) const NONE: Self = Self { source: NO_UNIT, from: 0, destination: NO_UNIT, to: 0, length: 0 };

    /// Whether what is written of it may be what is yet to be read.
    pub(crate) fn overlaps(&self) -> bool {
        let touch = self.from < self.to + self.length && self.to < self.from + self.length;
        self.source == self.destination && touch
    }
}

/// Where a copy is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// There is none.
    Free,
    Running,
    Done,
    /// Ended well before its end.
    Partial,
    /// It was ended early, by an error or by who has begun it.
    Failed(Option<Sense>),
    Aborted,
}

/// By what a copy is asked for again: the nexus it came by, the unit it came to and its list identifier; none if it has
/// none.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) nexus: Nexus,
    pub(crate) unit: UnitId,
    pub(crate) id: Option<u32>,
    /// Its service action.
    pub(crate) action: u8,
}

/// A copy.
pub(crate) struct Operation {
    pub(crate) state: State,
    pub(crate) name: Name,
    age: u32,
    pub(crate) pieces: [Piece; MAX_SEGMENTS],
    pub(crate) count: usize,
    /// Pieces that are done, bytes of the next one that are, and bytes in all.
    pub(crate) done: usize,
    pub(crate) offset: u64,
    pub(crate) moved: u64,
    /// It is to end as soon as it can.
    pub(crate) is_stopped: bool,
    /// Its pieces are not all that was asked for.
    pub(crate) is_partial: bool,
    /// The token it has made or goes by, and whether that is of no use any more when it has ended well.
    pub(crate) token: Option<TokenId>,
    pub(crate) deletes_token: bool,
}

impl Operation {
    const FREE: Self = Self {
        state: State::Free,
        name: Name { nexus: Nexus(0), unit: NO_UNIT, id: None, action: 0 },
        age: 0,
        pieces: [Piece::NONE; MAX_SEGMENTS],
        count: 0,
        done: 0,
        offset: 0,
        moved: 0,
        is_stopped: false,
        is_partial: false,
        token: None,
        deletes_token: false,
    };

    /// The next piece of which something is left.
    pub(crate) fn next(&mut self) -> Option<Piece> {
        while self.done < self.count && self.offset == self.pieces[self.done].length {
            (self.done, self.offset) = (self.done + 1, 0);
        }
        self.pieces.get(self.done).copied().filter(|_| self.done < self.count)
    }
}

/// The copies of a target. What they take is taken when the target is made.
pub(crate) struct Operations {
    places: Vec<Operation>,
    age: u32,
}

impl core::fmt::Debug for Operations {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Operations({} running)", self.running(|_| true))
    }
}

impl Operations {
    pub(crate) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| Operation::FREE).collect(), age: 0 }
    }

    fn running(&self, is_meant: impl Fn(&Operation) -> bool) -> usize {
        self.places.iter().filter(|place| place.state == State::Running && is_meant(place)).count()
    }

    /// The copy at this place, which whoever carries it has.
    pub(crate) fn at(&mut self, place: u8) -> &mut Operation {
        &mut self.places[usize::from(place) % PLACES]
    }

    /// The copy of this list identifier, of one of these service actions.
    pub(crate) fn find(&self, name: Name, is_meant: impl Fn(u8) -> bool) -> Option<&Operation> {
        self.places.iter().find(|place| {
            let Name { nexus, unit, id, action } = place.name;
            let same = (nexus, unit) == (name.nexus, name.unit) && id.is_some() && id == name.id;
            place.state != State::Free && same && is_meant(action)
        })
    }

    /// The copy of this list identifier, whatever its service action, is to end as soon as it can. False if there is none.
    pub(crate) fn stop(&mut self, name: Name) -> bool {
        let found = self.find(name, |_| true).filter(|found| found.state == State::Running);
        let Some(found) = found.map(|found| found.age) else { return false };
        self.places.iter_mut().filter(|place| place.age == found).for_each(|place| place.is_stopped = true);
        true
    }

    /// Whether there is room for one more of this nexus.
    pub(crate) fn check_room(&self, nexus: Nexus) -> Result<(), Refusal> {
        let of_one = self.running(|place| place.name.nexus == nexus);
        if of_one < MAX_RUNNING_OF_ONE && self.running(|_| true) < MAX_RUNNING {
            Ok(())
        } else {
            Err(Refusal::FULL)
        }
    }

    /// Take a place for a copy that begins, with as many pieces as are put into it then.
    pub(crate) fn claim(&mut self, name: Name) -> Result<(u8, &mut Operation), Refusal> {
        self.check_room(name.nexus)?;
        let same = self.find(name, |_| true);
        if same.is_some_and(|same| same.state == State::Running) {
            return Err(Sense::illegal(code::OPERATION_IN_PROGRESS).into());
        }
        // That of the same name, or a free one, or that which has ended longest ago.
        let replaced = same.map(|same| same.age);
        self.age = self.age.wrapping_add(1);
        let age = self.age;
        let rank = |place: &Operation| match place.state {
            State::Running => None,
            _ if Some(place.age) == replaced => Some(u32::MAX),
            State::Free => Some(u32::MAX - 1),
            _ => Some(age.wrapping_sub(place.age)),
        };
        let found = (0_u8..).zip(&mut self.places).filter_map(|(at, place)| Some((rank(place)?, at, place)));
        let (_, at, place) = found.max_by_key(|&(rank, ..)| rank).ok_or(Refusal::FULL)?;
        *place = Operation { state: State::Running, name, age, ..Operation::FREE };
        Ok((at, place))
    }

    /// Forget what has ended of those that `is_meant` says of.
    pub(crate) fn forget(&mut self, is_meant: impl Fn(&Name) -> bool) {
        for place in &mut self.places {
            if place.state != State::Running && is_meant(&place.name) {
                place.state = State::Free;
            }
        }
    }
}
