//! ROD tokens (SPC-4 section 5.17.6): names for what stood in some ranges of a unit when they were asked for.
//!
//! There are no snapshots below, so a token is good for as long as nobody has asked for a change of its ranges: "point in
//! time copy, change vulnerable" is what the standard calls it. From then on it is revoked, and whoever comes with it
//! copies some other way. It names data of this target only, to whoever is logged in there; that nobody can guess one is
//! due to 32 random bytes in it.

use crate::copy::list::IDENTIFICATION;
use crate::field::Answer;
use crate::sense::code;
use crate::unit::LogicalUnit;
use alloc::vec::Vec;
use core::time::Duration;

/// The ROD type of what a token here is of, and of zeroes, which have a token of their own.
pub(crate) const POINT_IN_TIME: u32 = 0x0080_0001;
pub(crate) const ZEROES: u32 = 0xffff_0001;
/// Bytes of a token, and those of them that are random.
pub(crate) const LENGTH: usize = 512;
pub(crate) const SECRET: usize = 32;
/// Range descriptors of one command.
pub(crate) const MAX_RANGES: usize = 16;
/// How long a token that is not used is kept at most, and if nothing else is asked for, in seconds.
pub(crate) const MAX_TIMEOUT: u32 = 600;
pub(crate) const DEFAULT_TIMEOUT: u32 = 60;
/// Tokens of one unit. Another takes the place of that which was used longest ago.
const PLACES: usize = 8;
/// Where in a token the random bytes are: the identifier, and the rest at its end.
const IDENTIFIER: usize = 8;
const REST: usize = LENGTH - (SECRET - 8);

/// Bytes of the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

impl Extent {
    pub(crate) const NONE: Self = Self { start: 0, length: 0 };

    pub(crate) fn end(&self) -> u64 {
        self.start + self.length
    }

    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.start < other.end() && other.start < self.end()
    }
}

/// Ranges, in the order in which their bytes are counted.
#[derive(Clone, Copy)]
pub(crate) struct Ranges {
    pub(crate) extents: [Extent; MAX_RANGES],
    pub(crate) count: usize,
}

impl Ranges {
    pub(crate) fn all(&self) -> &[Extent] {
        &self.extents[..self.count]
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.all().iter().map(|extent| extent.length).sum()
    }

    /// The `offset`th byte's place, and how many bytes there are from it on in one piece.
    pub(crate) fn locate(&self, mut offset: u64) -> Option<(u64, u64)> {
        for extent in self.all() {
            if offset < extent.length {
                return Some((extent.start + offset, extent.length - offset));
            }
            offset -= extent.length;
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Good,
    /// What it names has changed, or may have.
    Revoked,
}

struct Token {
    state: State,
    serial: u32,
    secret: [u8; SECRET],
    ranges: Ranges,
    timeout: Duration,
    used: Duration,
}

/// A token's place among those of its unit. It goes stale when another takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenId {
    place: u8,
    serial: u32,
}

/// The tokens of a unit. What they take is taken when the unit is made.
#[derive(Default)]
pub(crate) struct Tokens {
    places: Vec<Token>,
    /// Those that are good.
    good: usize,
    serial: u32,
}

impl core::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Tokens({} good)", self.good)
    }
}

impl Tokens {
    pub(crate) fn new() -> Self {
        Self { places: Vec::with_capacity(PLACES), good: 0, serial: 0 }
    }

    /// Make one of these ranges.
    pub(crate) fn make(
        &mut self,
        secret: [u8; SECRET],
        ranges: Ranges,
        timeout: Duration,
        now: Duration,
    ) -> TokenId {
        self.serial = self.serial.wrapping_add(1);
        let token = Token { state: State::Good, serial: self.serial, secret, ranges, timeout, used: now };
        let place = if self.places.len() < PLACES {
            self.places.push(token);
            self.places.len() - 1
        } else {
            let age = |&(_, token): &(usize, &Token)| (token.state == State::Good, token.used);
            let place = self.places.iter().enumerate().min_by_key(age).map_or(0, |(place, _)| place);
            self.places[place] = token;
            place
        };
        self.count();
        TokenId { place: place as u8, serial: self.serial }
    }

    fn count(&mut self) {
        self.good = self.places.iter().filter(|token| token.state == State::Good).count();
    }

    fn get(&self, id: TokenId) -> Option<&Token> {
        self.places.get(usize::from(id.place)).filter(|token| token.serial == id.serial)
    }

    fn get_mut(&mut self, id: TokenId) -> Option<&mut Token> {
        self.places.get_mut(usize::from(id.place)).filter(|token| token.serial == id.serial)
    }

    /// Whether there is one that a change could revoke.
    #[inline]
    pub(crate) fn any(&self) -> bool {
        self.good > 0
    }

    /// Somebody has asked for a change of these bytes.
    #[cold]
    pub(crate) fn changes(&mut self, changed: Extent) {
        for token in &mut self.places {
            if token.ranges.all().iter().any(|extent| extent.overlaps(&changed)) {
                token.state = State::Revoked;
            }
        }
        self.count();
    }

    /// Nothing is known any more of what they name.
    pub(crate) fn revoke_all(&mut self) {
        self.places.iter_mut().for_each(|token| token.state = State::Revoked);
        self.good = 0;
    }

    /// What one names will have changed when it is known.
    #[cold]
    pub(crate) fn revoke(&mut self, id: TokenId) {
        if let Some(token) = self.get_mut(id) {
            token.state = State::Revoked;
        }
        self.count();
    }

    /// Forget one.
    pub(crate) fn delete(&mut self, id: TokenId) {
        if let Some(token) = self.get_mut(id) {
            (token.state, token.secret, token.ranges.count) = (State::Free, [0; SECRET], 0);
        }
        self.count();
    }

    /// What a token names, if it is good at this time, or the code of why it is not.
    pub(crate) fn use_at(&mut self, id: TokenId, now: Duration) -> Result<Ranges, u16> {
        let Some(token) = self.get_mut(id) else { return Err(code::TOKEN_UNKNOWN) };
        match token.state {
            State::Free => Err(code::TOKEN_UNKNOWN),
            State::Revoked => Err(code::TOKEN_REVOKED),
            State::Good if now.saturating_sub(token.used) > token.timeout => Err(code::TOKEN_EXPIRED),
            State::Good => {
                token.used = now;
                Ok(token.ranges)
            }
        }
    }
}

/// The token of these bytes among those of a unit, if it is one of them.
pub(crate) fn find(target: &str, unit: &LogicalUnit, given: &[u8]) -> Option<TokenId> {
    let tokens = unit.tokens.places.iter().enumerate().filter(|(_, token)| token.state != State::Free);
    tokens.map(|(place, token)| TokenId { place: place as u8, serial: token.serial }).find(|&id| {
        let mut bytes = [0; LENGTH];
        write(target, unit, id, &mut Answer::new(&mut bytes, 0));
        // However much of it is right, the answer takes as long.
        given.len() == LENGTH && given.iter().zip(bytes).fold(0, |all, (a, b)| all | (a ^ b)) == 0
    })
}

/// Write a token (SPC-4 section 5.17.6.5.3). False if it is not there any more.
pub(crate) fn write(target: &str, unit: &LogicalUnit, id: TokenId, answer: &mut Answer<'_>) -> bool {
    let Some(token) = unit.tokens.get(id) else { return false };
    let at = answer.length();
    let block_size = unit.geometry().map_or(0, |geometry| geometry.block_size);
    answer.put_u32(POINT_IN_TIME);
    answer.put_u16(0);
    answer.put_u16((LENGTH - 8) as u16);
    answer.put(&token.secret[..IDENTIFIER]);
    // The creator's CSCD descriptor.
    answer.put(&[IDENTIFICATION, 0, 0, 0, 1, 0x03, 0, 16]);
    answer.put(&unit.identity.naa());
    answer.pad_to(at + 44);
    answer.put_u32(block_size);
    answer.put_u64(0);
    answer.put_u64(token.ranges.bytes());
    // What READ CAPACITY (16) tells behind the last block's number.
    answer.pad_to(at + 96);
    answer.put_u32(block_size);
    answer.pad_to(at + 128);
    let name = target.as_bytes();
    let length = (name.len() + 1).next_multiple_of(4);
    answer.put(&[3, 0x28, 0, length as u8]);
    answer.put(name);
    answer.pad_to(at + REST);
    answer.put(&token.secret[IDENTIFIER..]);
    true
}
