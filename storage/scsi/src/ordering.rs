//! Which commands of a logical unit may touch the medium together.
//!
//! Every command that reads, changes or flushes the medium enters here when it begins and leaves when it has ended. It
//! may start when nothing that entered before it stands in its way:
//!
//! - two commands whose ranges overlap never run together if one of them changes the medium, so overlapping writes
//!   reach the backend in the order in which they came, and a read sees all of a write before it or nothing of it;
//! - a flush waits for the writes before it that wait for nothing but the backend;
//! - a command with the ORDERED attribute waits for all before it, and all after it wait for it (SAM-5 section 8.6.3).
//!
//! Waiting is first come, first served, so no command starves.
//!
//! # Which writes a flush waits for
//! It has to cover those that were answered before it came (SBC-3 section 5.22: what is in the cache), and these have
//! left already. Of those that are under way nobody can know whether it covers them. One that is with the backend it
//! waits for all the same: who sends both at once may mean both, and it costs no more than the write takes. One whose
//! data the initiator has yet to give, or that lacks a buffer, or that stands behind such a one, it does not wait for,
//! whichever nexus it is of: else an initiator that withholds data, or holds all its memory, would keep every other from
//! flushing. With the ORDERED attribute a flush waits for all before it, as SAM has it.
//!
//! # Data ahead of its turn
//! A command that waits may take in its data meanwhile (see [`crate::transfer`]), if every command in its way is *sated*,
//! which is to say that it needs no buffer any more, and has started or taken data ahead itself. Then whoever holds
//! buffers and waits waits for commands that need none, and those for such as need none: there is no circle to wait in,
//! however little memory there is. From then on nobody comes to stand before it, which is why ORDERED commands do not: a
//! HEAD OF QUEUE command could not pass them any more.
//!
//! A command that has yet to take in a parameter list has a place but no range: it stands in nobody's way but that of
//! ORDERED commands, until its list is here and it settles on a range. And it does not ask for its list while an ORDERED
//! command stands before it. So nobody sits on the memory of a list and waits for somebody who waits for such memory.

use crate::nexus::{Nexus, NexusSet};
use alloc::vec::Vec;

/// Task attribute (SAM-5 section 8.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Attribute {
    /// In any order with others.
    #[default]
    Simple,
    /// After all before it, before all after it.
    Ordered,
    /// Before everything that has not started.
    HeadOfQueue,
}

/// What a command does to the medium.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Touch {
    Read,
    Change,
    Flush,
}

/// A command's place in the [`TaskSet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Entry {
    ticket: Ticket,
    nexus: Nexus,
    /// `None` as long as it waits for its parameter list.
    touch: Option<Touch>,
    /// Bytes of the medium, the end exclusive.
    start: u64,
    end: u64,
    ordered: bool,
    started: bool,
    stage: Stage,
    /// It has taken in data although it waits.
    ahead: bool,
}

/// What a command has yet to get from others than the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Buffers, perhaps.
    Wanting,
    /// No buffers any more; data, perhaps.
    Sated,
    /// Nothing.
    Complete,
}

/// The commands of one logical unit that touch the medium, in the order in which they are to take effect.
#[derive(Debug)]
pub(crate) struct TaskSet {
    entries: Vec<Entry>,
    capacity: usize,
    next: u64,
}

impl TaskSet {
    pub(crate) fn new(capacity: u16) -> Self {
        let capacity = usize::from(capacity);
        Self { entries: Vec::with_capacity(capacity), capacity, next: 0 }
    }

    /// Enter with `length` bytes from `start` on, or `None` when the set is full.
    pub(crate) fn enter(
        &mut self,
        nexus: Nexus,
        touch: Touch,
        start: u64,
        length: u64,
        attribute: Attribute,
    ) -> Option<Ticket> {
        let ticket = self.enter_unsettled(nexus, attribute)?;
        self.settle(ticket, touch, start, length);
        Some(ticket)
    }

    /// Enter without a range, or `None` when the set is full.
    pub(crate) fn enter_unsettled(&mut self, nexus: Nexus, attribute: Attribute) -> Option<Ticket> {
        if self.entries.len() == self.capacity {
            return None;
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        let entry = Entry {
            ticket,
            nexus,
            touch: None,
            start: 0,
            end: 0,
            ordered: attribute == Attribute::Ordered,
            started: false,
            stage: Stage::Wanting,
            ahead: false,
        };
        let place = match attribute {
            Attribute::HeadOfQueue => self.head(),
            Attribute::Simple | Attribute::Ordered => self.entries.len(),
        };
        self.entries.insert(place, entry);
        Some(ticket)
    }

    /// Where a HEAD OF QUEUE command enters: before all that have not begun, be it only to take in data.
    fn head(&self) -> usize {
        let behind = self.entries.iter().rposition(|entry| entry.ahead).map_or(0, |last| last + 1);
        let waiting = self.entries[behind..].iter().position(|entry| !entry.started);
        waiting.map_or(self.entries.len(), |place| behind + place)
    }

    /// The parameter list is here, and with it the range.
    pub(crate) fn settle(&mut self, ticket: Ticket, touch: Touch, start: u64, length: u64) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.ticket == ticket) {
            entry.touch = Some(touch);
            entry.start = start;
            entry.end = start.saturating_add(length);
        }
    }

    /// Whether the command may ask for its parameter list.
    pub(crate) fn may_ask(&self, ticket: Ticket) -> bool {
        !self.entries.iter().take_while(|entry| entry.ticket != ticket).any(|entry| entry.ordered)
    }

    /// Whether the command may go on; once it may, it always may.
    pub(crate) fn may_start(&mut self, ticket: Ticket) -> bool {
        let Some(index) = self.entries.iter().position(|entry| entry.ticket == ticket) else {
            return true;
        };
        let (before, rest) = self.entries.split_at_mut(index);
        let Some((entry, after)) = rest.split_first_mut() else { return true };
        if !entry.started {
            // What came to the head of the queue, or settled late, may find running what stands behind it.
            let mut running = after.iter().filter(|other| other.started && other.touch != Some(Touch::Flush));
            let flush = entry.touch == Some(Touch::Flush);
            let clear = !before.iter().any(|earlier| stands_in_the_way(earlier, entry));
            entry.started = clear && (flush || !running.any(|other| stands_in_the_way(other, entry)));
        }
        entry.started
    }

    /// Whether a command that may not start yet may take its data in: see the head of this module.
    pub(crate) fn may_take_ahead(&self, ticket: Ticket) -> bool {
        let Some(index) = self.entries.iter().position(|entry| entry.ticket == ticket) else { return false };
        let (before, entry, after) =
            (&self.entries[..index], &self.entries[index], &self.entries[index + 1..]);
        // Others may still come to stand before it.
        if entry.ordered {
            return false;
        }
        // Who has no range yet may get any, and need anything.
        let harmless = |other: &Entry| {
            let ends = other.stage >= Stage::Sated && (other.started || other.ahead);
            other.touch.is_some() && (ends || !stands_in_the_way(other, entry))
        };
        before.iter().all(harmless) && after.iter().filter(|other| other.started).all(harmless)
    }

    /// The command has taken data in although it waits.
    pub(crate) fn took_ahead(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.ticket == ticket) {
            entry.ahead = true;
        }
    }

    /// The command has come so far.
    pub(crate) fn reached(&mut self, ticket: Ticket, stage: Stage) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.ticket == ticket) {
            entry.stage = stage;
        }
    }

    /// Leave for good.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        self.entries.retain(|entry| entry.ticket != ticket);
    }

    /// Whether a command of one of these nexuses is in the set.
    pub(crate) fn has_any_of(&self, nexuses: &NexusSet) -> bool {
        self.entries.iter().any(|entry| nexuses.contains(entry.nexus))
    }

    /// Commands in the set.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

fn stands_in_the_way(earlier: &Entry, later: &Entry) -> bool {
    if earlier.ordered || later.ordered {
        return true;
    }
    let overlap = earlier.start < later.end && later.start < earlier.end;
    let is_with_backend = earlier.started && earlier.stage == Stage::Complete;
    let (Some(earlier), Some(later)) = (earlier.touch, later.touch) else { return false };
    match (earlier, later) {
        (Touch::Change, Touch::Flush) => is_with_backend,
        (Touch::Flush, _) | (_, Touch::Flush) | (Touch::Read, Touch::Read) => false,
        (Touch::Change, _) | (_, Touch::Change) => overlap,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(set: &mut TaskSet, touch: Touch, start: u64, length: u64) -> Ticket {
        set.enter(Nexus(0), touch, start, length, Attribute::Simple).expect("room")
    }

    #[test]
    fn overlapping_commands_wait_unless_both_read() {
        let table = [
            (Touch::Read, Touch::Read, true),
            (Touch::Read, Touch::Change, false),
            (Touch::Change, Touch::Read, false),
            (Touch::Change, Touch::Change, false),
            (Touch::Flush, Touch::Change, true),
            (Touch::Read, Touch::Flush, true),
            (Touch::Flush, Touch::Flush, true),
        ];
        for (earlier, later, together) in table {
            let mut set = TaskSet::new(2);
            let first = enter(&mut set, earlier, 0, 512);
            let second = enter(&mut set, later, 511, 1);
            assert!(set.may_start(first));
            assert_eq!(set.may_start(second), together, "{earlier:?} then {later:?}");
            set.leave(first);
            assert!(set.may_start(second));
        }
    }

    #[test]
    fn ranges_that_touch_do_not_overlap() {
        let mut set = TaskSet::new(2);
        enter(&mut set, Touch::Change, 0, 512);
        let second = enter(&mut set, Touch::Change, 512, 512);
        assert!(set.may_start(second));
    }

    #[test]
    fn a_reader_does_not_overtake_a_waiting_writer() {
        let mut set = TaskSet::new(3);
        let reader = enter(&mut set, Touch::Read, 0, 10);
        let writer = enter(&mut set, Touch::Change, 0, 10);
        let late = enter(&mut set, Touch::Read, 0, 10);
        assert!(set.may_start(reader));
        assert!(!set.may_start(writer));
        assert!(!set.may_start(late));
    }

    #[test]
    fn ordered_stands_between_all_before_and_all_after() {
        let mut set = TaskSet::new(3);
        let before = enter(&mut set, Touch::Read, 0, 1);
        let ordered = set.enter(Nexus(0), Touch::Read, 100, 1, Attribute::Ordered).expect("room");
        let after = enter(&mut set, Touch::Read, 200, 1);
        assert!(set.may_start(before));
        assert!(!set.may_start(ordered) && !set.may_start(after));
        set.leave(before);
        assert!(set.may_start(ordered) && !set.may_start(after));
        set.leave(ordered);
        assert!(set.may_start(after));
    }

    #[test]
    fn head_of_queue_passes_what_waits_but_not_what_runs() {
        let mut set = TaskSet::new(4);
        let running = enter(&mut set, Touch::Change, 0, 10);
        assert!(set.may_start(running));
        let ordered = set.enter(Nexus(0), Touch::Change, 50, 1, Attribute::Ordered).expect("room");
        let head = set.enter(Nexus(0), Touch::Change, 50, 1, Attribute::HeadOfQueue).expect("room");
        let clash = set.enter(Nexus(0), Touch::Change, 5, 1, Attribute::HeadOfQueue).expect("room");
        assert!(set.may_start(head), "the ordered one has not started");
        assert!(!set.may_start(clash) && !set.may_start(ordered));
    }

    #[test]
    fn head_of_queue_waits_for_what_runs_behind_it() {
        let mut set = TaskSet::new(4);
        let running = enter(&mut set, Touch::Change, 0, 10);
        let waiting = enter(&mut set, Touch::Change, 5, 10);
        let beside = enter(&mut set, Touch::Change, 100, 10);
        assert!(set.may_start(running) && !set.may_start(waiting) && set.may_start(beside));
        let head = set.enter(Nexus(0), Touch::Read, 100, 10, Attribute::HeadOfQueue).expect("room");
        assert!(!set.may_start(head), "it stands before what waits, but what it reads is being written");
        set.leave(beside);
        assert!(set.may_start(head));
    }

    #[test]
    fn a_flush_waits_for_writes_before_it_that_are_with_the_backend() {
        let mut set = TaskSet::new(4);
        let write = enter(&mut set, Touch::Change, 0, 10);
        assert!(set.may_start(write));
        set.reached(write, Stage::Complete);
        let flush = enter(&mut set, Touch::Flush, 0, 0);
        let later = enter(&mut set, Touch::Change, 100, 10);
        assert!(!set.may_start(flush) && set.may_start(later));
        set.reached(later, Stage::Complete);
        set.leave(write);
        assert!(set.may_start(flush), "not for one that came later");
    }

    #[test]
    fn a_flush_does_not_wait_for_whom_an_initiator_can_hold_up() {
        let mut set = TaskSet::new(4);
        let withheld = enter(&mut set, Touch::Change, 0, 10);
        let behind = enter(&mut set, Touch::Change, 5, 10);
        assert!(set.may_start(withheld) && !set.may_start(behind));
        set.reached(withheld, Stage::Sated);
        set.reached(behind, Stage::Complete);
        let flush = enter(&mut set, Touch::Flush, 0, 0);
        assert!(set.may_start(flush), "neither its data nor its turn has come");
        let ordered = set.enter(Nexus(1), Touch::Flush, 0, 0, Attribute::Ordered).expect("room");
        assert!(!set.may_start(ordered));
    }

    #[test]
    fn data_is_taken_ahead_only_behind_those_that_need_no_buffer() {
        let mut set = TaskSet::new(8);
        let first = enter(&mut set, Touch::Change, 0, 10);
        let second = enter(&mut set, Touch::Change, 5, 10);
        let third = enter(&mut set, Touch::Change, 8, 10);
        assert!(set.may_start(first) && !set.may_start(second));
        assert!(!set.may_take_ahead(second), "the first may still need a buffer that the second would hold");
        set.reached(first, Stage::Sated);
        assert!(set.may_take_ahead(second) && !set.may_take_ahead(third));
        set.took_ahead(second);
        set.reached(second, Stage::Sated);
        assert!(set.may_take_ahead(third), "all before it are sated");
        let unsettled = set.enter_unsettled(Nexus(0), Attribute::Simple).expect("room");
        let behind = enter(&mut set, Touch::Change, 8, 1);
        assert!(!set.may_take_ahead(behind));
        set.settle(unsettled, Touch::Change, 100, 1);
        assert!(!set.may_take_ahead(behind), "the third is not sated");
    }

    #[test]
    fn nobody_comes_to_stand_before_one_that_holds_data() {
        let mut set = TaskSet::new(8);
        let first = enter(&mut set, Touch::Change, 0, 10);
        let waiting = enter(&mut set, Touch::Change, 0, 10);
        let ahead = enter(&mut set, Touch::Change, 0, 10);
        assert!(set.may_start(first));
        set.reached(first, Stage::Sated);
        set.reached(waiting, Stage::Sated);
        set.took_ahead(ahead);
        let head = set.enter(Nexus(0), Touch::Change, 0, 10, Attribute::HeadOfQueue).expect("room");
        set.leave(first);
        set.leave(waiting);
        assert!(!set.may_start(head) && set.may_start(ahead));
    }

    #[test]
    fn who_waits_for_a_list_stands_in_the_way_of_ordered_commands_only() {
        let mut set = TaskSet::new(4);
        let unsettled = set.enter_unsettled(Nexus(0), Attribute::Simple).expect("room");
        let write = enter(&mut set, Touch::Change, 0, 10);
        assert!(set.may_ask(unsettled) && set.may_start(write));
        let ordered = set.enter(Nexus(0), Touch::Read, 50, 1, Attribute::Ordered).expect("room");
        let behind = set.enter_unsettled(Nexus(0), Attribute::Simple).expect("room");
        set.leave(write);
        assert!(!set.may_start(ordered) && !set.may_ask(behind));
        set.settle(unsettled, Touch::Change, 0, 10);
        assert!(set.may_start(unsettled));
        set.leave(unsettled);
        assert!(set.may_start(ordered) && !set.may_ask(behind));
        set.leave(ordered);
        assert!(set.may_ask(behind));
    }

    #[test]
    fn who_settles_late_waits_for_what_runs_already() {
        let mut set = TaskSet::new(4);
        let unsettled = set.enter_unsettled(Nexus(0), Attribute::Simple).expect("room");
        let write = enter(&mut set, Touch::Change, 0, 10);
        assert!(set.may_start(write));
        set.settle(unsettled, Touch::Change, 5, 10);
        assert!(!set.may_start(unsettled));
        set.leave(write);
        assert!(set.may_start(unsettled));
    }

    #[test]
    fn a_full_set_takes_nobody() {
        let mut set = TaskSet::new(1);
        enter(&mut set, Touch::Read, 0, 1);
        assert_eq!(set.enter(Nexus(0), Touch::Read, 0, 1, Attribute::Simple), None);
        assert_eq!(set.len(), 1);
    }
}
