//! The watchdog action table ("Hardware Watchdog Timers Design Specification", Microsoft 2006): what to do to which register for
//! each action.

use super::fadt::Register;
use super::table::Table;
use alloc::vec::Vec;

/// What the table says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wdat {
    /// Milliseconds of a count.
    pub(crate) period: u32,
    /// The least and the most that it counts from.
    pub(crate) counts: (u32, u32),
    /// What is done, in this order as far as it belongs to the same action.
    pub(crate) entries: Vec<Entry>,
}

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) action: u8,
    /// [`Entry::WRITES`], [`Entry::TAKES_COUNT`] and [`Entry::PRESERVES`].
    pub(crate) instruction: u8,
    pub(crate) register: Register,
    /// Bytes of the access: 1, 2 or 4.
    pub(crate) width: u8,
    /// How far up the field lies that the mask is for.
    pub(crate) shift: u8,
    pub(crate) value: u32,
    pub(crate) mask: u32,
}

impl Entry {
    pub(crate) const WRITES: u8 = 2;
    pub(crate) const TAKES_COUNT: u8 = 1;
    pub(crate) const PRESERVES: u8 = 0x80;
}

const ENTRIES: usize = 68;
const ENTRY: usize = 24;
/// More than any table has.
const MOST: usize = 64;

impl Wdat {
    /// Read the table; `None` when any of it cannot be meant, for half of it is worse than none.
    pub(super) fn parse(table: &Table) -> Option<Self> {
        let number = |offset| table.number::<4>(offset).map(|number| number as u32);
        let (period, most, least) = (number(48)?, number(52)?, number(56)?);
        let count = number(64)? as usize;
        if period == 0 || most == 0 || least > most || !(1..=MOST).contains(&count) {
            return None;
        }
        let entries = (0..count).map(|index| entry(table, ENTRIES + index * ENTRY));
        Some(Self { period, counts: (least, most), entries: entries.collect::<Option<_>>()? })
    }
}

fn entry(table: &Table, at: usize) -> Option<Entry> {
    let byte = |offset| table.number::<1>(at + offset).map(|byte| byte as u8);
    let known = Entry::WRITES | Entry::TAKES_COUNT | Entry::PRESERVES;
    // The size of the access is told in two ways, of which the first may be left out.
    let width = match (byte(7)?, byte(5)?) {
        (1, _) | (0, 1..=8) => 1,
        (2, _) | (0, 9..=16) => 2,
        (3, _) | (0, 17..=32) => 4,
        _ => return None,
    };
    let (instruction, shift) = (byte(1)?, byte(6)?);
    let register = Register::generic(table, at + 4)?;
    let is_possible =
        instruction & !known == 0 && shift < 32 && register.address.is_multiple_of(width.into());
    is_possible.then_some(Entry {
        action: byte(0)?,
        instruction,
        register,
        width,
        shift,
        value: table.number::<4>(at + 16)? as u32,
        mask: table.number::<4>(at + 20)? as u32,
    })
}
