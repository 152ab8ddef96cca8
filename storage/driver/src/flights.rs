//! What is under way on the connections, by the cookie it travels under.

use crate::journal::Room;
use alloc::boxed::Box;
use alloc::vec::Vec;
use kernel_runtime::Instant;
use storage_block::Operation;

/// Whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A request of the disk, with its own cookie.
    Request(u64),
    /// The flush there is at most one of.
    Flush,
    /// A part of the journal's entry at this place.
    Piece(usize),
}

/// One request given to a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) what: What,
    pub(crate) path: usize,
    /// As it was asked for; it may have been sent with `fua` beside.
    pub(crate) operation: Operation,
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// It was asked for at this time.
    pub(crate) since: Instant,
    /// How often it failed.
    pub(crate) tries: u8,
    /// It was on a connection before that died.
    pub(crate) again: bool,
    /// It was sent to be durable when it is answered.
    pub(crate) durable: bool,
}

#[derive(Debug)]
pub(crate) struct Flights {
    slots: Box<[Option<Flight>]>,
    /// The place in the journal of each that has one: apart, for reads have none.
    rooms: Box<[Option<Room>]>,
    free: Vec<usize>,
    /// Requests of the disk that change it.
    changes: usize,
    pieces: usize,
    requests: usize,
    /// Durable changes that were sent so far, and the number of each that is under way.
    order: u64,
    orders: Box<[u64]>,
}

impl Flights {
    pub(crate) fn new(capacity: usize) -> Self {
        let slots = (0..capacity).map(|_| None).collect();
        Self {
            slots,
            rooms: (0..capacity).map(|_| None).collect(),
            free: (0..capacity).rev().collect(),
            changes: 0,
            pieces: 0,
            requests: 0,
            order: 0,
            orders: (0..capacity).map(|_| 0).collect(),
        }
    }

    /// A cookie for it, which has this place in the journal. There are as many as the connections have slots.
    pub(crate) fn insert(&mut self, flight: &Flight, room: Option<Room>) -> Option<u64> {
        let index = self.free.pop()?;
        self.count(flight, 1);
        self.order += 1;
        self.orders[index] = self.order;
        self.slots[index] = Some(*flight);
        if room.is_some() {
            self.rooms[index] = room;
        }
        Some(index as u64)
    }

    /// Its place in the journal, if it has one. To be fetched before another one is inserted.
    pub(crate) fn take_room(&mut self, cookie: u64) -> Option<Room> {
        self.rooms.get_mut(usize::try_from(cookie).ok()?)?.take()
    }

    /// The own cookie of a read of the disk, which has no place in the journal; `None` for anything else.
    pub(crate) fn read(&self, cookie: u64) -> Option<u64> {
        match self.slots.get(usize::try_from(cookie).ok()?)? {
            Some(Flight { what: What::Request(own), operation: Operation::Read, .. }) => Some(*own),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn remove(&mut self, cookie: u64) -> Option<Flight> {
        let index = usize::try_from(cookie).ok()?;
        let flight = self.slots.get_mut(index)?.take()?;
        self.count(&flight, usize::MAX);
        self.free.push(index);
        Some(flight)
    }

    /// The same of a read of the disk, which has no place in the journal, and of nothing else. Answers its own cookie.
    pub(crate) fn end_read(&mut self, cookie: u64) -> Option<u64> {
        let index = usize::try_from(cookie).ok()?;
        let own = self.read(cookie)?;
        *self.slots.get_mut(index)? = None;
        self.requests -= 1;
        self.free.push(index);
        Some(own)
    }

    /// The connections that carry requests which are named by `is_meant` and change the disk.
    pub(crate) fn changes_of(&self, is_meant: impl Fn(u64) -> bool) -> impl Iterator<Item = usize> {
        let flights = self.slots.iter().flatten();
        let meant = flights.filter(move |flight| match flight.what {
            What::Request(cookie) => flight.operation.changes_medium() && is_meant(cookie),
            What::Flush | What::Piece(_) => false,
        });
        meant.map(|flight| flight.path)
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// The number of the last that was sent.
    pub(crate) fn order(&self) -> u64 {
        self.order
    }

    /// Whether a change that is to be durable is under way, and was sent before or as this one.
    pub(crate) fn has_durable(&self, order: u64) -> bool {
        let mut slots = self.slots.iter().zip(&self.orders);
        slots.any(|(slot, &at)| {
            let is_change = |flight: &Flight| flight.durable && matches!(flight.what, What::Request(_));
            at <= order && slot.as_ref().is_some_and(is_change)
        })
    }

    /// Requests of the disk that change it.
    pub(crate) fn changes(&self) -> usize {
        self.changes
    }

    /// Parts of the journal.
    pub(crate) fn pieces(&self) -> usize {
        self.pieces
    }

    /// Requests of the disk.
    pub(crate) fn requests(&self) -> usize {
        self.requests
    }

    #[inline]
    fn count(&mut self, flight: &Flight, by: usize) {
        let counter = match flight.what {
            What::Piece(_) => &mut self.pieces,
            What::Flush => return,
            What::Request(_) => {
                self.requests = self.requests.wrapping_add(by);
                if !flight.operation.changes_medium() {
                    return;
                }
                &mut self.changes
            }
        };
        *counter = counter.wrapping_add(by);
    }
}
