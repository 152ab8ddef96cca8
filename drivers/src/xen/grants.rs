//! The grant table: which domain may access which page of ours (`grant_table.h`, version 1).

use crate::Error;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::sync::atomic::{Ordering, fence};
use kernel_io::xen::Guest;
use kernel_io::{PAGE, Shared};

/// Pages of the table, enough for as many NICs as there may be, and bytes of an entry: flags, domain, page. The first entries are the
/// tools'.
const FRAMES: usize = 9;
const ENTRY: usize = 8;
const RESERVED: u16 = 8;
const DOMAIN: usize = 2;
const FRAME: usize = 4;

/// Flags: access is allowed, for reading only. Xen sets others as long as the page is in use.
const PERMIT: u16 = 1;
const READ_ONLY: u16 = 4;

/// What a domain may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Access {
    Read = PERMIT | READ_ONLY,
    Write = PERMIT,
}

/// The table, and which entries are free.
#[derive(Debug)]
pub(super) struct Grants {
    table: Shared,
    free: RefCell<Vec<u16>>,
}

impl Grants {
    pub(super) fn new(guest: &Guest) -> Result<Self, Error> {
        let table = guest.grant_table(FRAMES)?;
        let entries = (FRAMES * PAGE / ENTRY) as u16;
        Ok(Self { table, free: RefCell::new((RESERVED..entries).rev().collect()) })
    }

    /// Take entries, so many.
    pub(super) fn take(&self, count: usize) -> Result<Vec<u16>, Error> {
        let mut free = self.free.borrow_mut();
        let left = free.len().checked_sub(count).ok_or(Error::Refused("as many grants"))?;
        Ok(free.split_off(left))
    }

    /// Give back entries that allow nothing.
    pub(super) fn give_back(&self, entries: impl Iterator<Item = u16>) {
        self.free.borrow_mut().extend(entries);
    }

    /// Allow a domain to access the page at `address`, by an entry that allows nothing.
    #[inline]
    pub(super) fn allow(&self, entry: u16, domain: u16, address: u64, access: Access) {
        let place = usize::from(entry) * ENTRY;
        self.table.write16(place + DOMAIN, domain);
        // In the first version of the table a page's number has 32 bits: memory of ours ends far below.
        self.table.write32(place + FRAME, (address / PAGE as u64) as u32);
        fence(Ordering::Release);
        self.table.write16(place, access as u16);
    }

    /// Allow nothing any more by an entry. Answers whether the page is ours alone: it is not as long as it is in use.
    #[inline]
    pub(super) fn revoke(&self, entry: u16, access: Access) -> bool {
        let place = usize::from(entry) * ENTRY;
        self.table.replace16(place, access as u16, 0) || self.table.read16(place) == 0
    }
}
