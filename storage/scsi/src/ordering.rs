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
//! Whether anything stands in the way is seen by a look at all others only where it cannot be told without: no command is
//! ordered, and nothing that is under way lies near the range (see [`crate::crowd`]).
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

use crate::crowd::Crowd;
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

/// A command's place in the [`TaskSet`]. It goes stale when the command leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    place: u16,
    serial: u32,
}

/// No place.
const NONE: u16 = u16::MAX;

#[derive(Debug)]
struct Entry {
    /// That of the ticket, and counted up when the command leaves.
    serial: u32,
    nexus: Nexus,
    /// Its neighbours in the order of the set; of a free place, the next one.
    before: u16,
    after: u16,
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
    /// Places taken at start; those in use are linked in the order of the set, the others behind one another.
    entries: Vec<Entry>,
    capacity: usize,
    count: usize,
    free: u16,
    first: u16,
    last: u16,
    /// How many are ordered, and how many change the medium.
    ordered: usize,
    changes: usize,
    crowd: Crowd,
}

impl TaskSet {
    pub(crate) fn new(capacity: u16) -> Self {
        Self {
            entries: Vec::with_capacity(usize::from(capacity)),
            capacity: usize::from(capacity),
            count: 0,
            free: NONE,
            first: NONE,
            last: NONE,
            ordered: 0,
            changes: 0,
            crowd: Crowd::default(),
        }
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
        let range = Some((touch, start, start.saturating_add(length)));
        self.add(nexus, attribute, range)
    }

    /// Enter without a range, or `None` when the set is full.
    pub(crate) fn enter_unsettled(&mut self, nexus: Nexus, attribute: Attribute) -> Option<Ticket> {
        self.add(nexus, attribute, None)
    }

    fn add(
        &mut self,
        nexus: Nexus,
        attribute: Attribute,
        range: Option<(Touch, u64, u64)>,
    ) -> Option<Ticket> {
        if self.count == self.capacity {
            return None;
        }
        let after = match attribute {
            Attribute::HeadOfQueue => self.head(),
            Attribute::Simple | Attribute::Ordered => NONE,
        };
        let before = self.entries.get(usize::from(after)).map_or(self.last, |entry| entry.before);
        let ordered = attribute == Attribute::Ordered;
        let (touch, start, end) = match range {
            Some((touch, start, end)) => (Some(touch), start, end),
            None => (None, 0, 0),
        };
        let (started, stage, ahead) = (false, Stage::Wanting, false);
        let mut entry =
            Entry { serial: 0, nexus, before, after, touch, start, end, ordered, started, stage, ahead };
        let mut place = self.free;
        if let Some(free) = self.entries.get_mut(usize::from(place)) {
            self.free = free.after;
            entry.serial = free.serial;
            *free = entry;
        } else {
            place = self.entries.len() as u16;
            self.entries.push(entry);
        }
        let serial = self.entries[usize::from(place)].serial;
        *self.link_after(before) = place;
        *self.link_before(after) = place;
        self.count += 1;
        self.ordered += usize::from(ordered);
        if let Some(touch) = touch {
            self.touches(touch, start, end);
        }
        Some(Ticket { place, serial })
    }

    /// A command has a range.
    fn touches(&mut self, touch: Touch, start: u64, end: u64) {
        self.changes += usize::from(touch == Touch::Change);
        if touch != Touch::Flush {
            self.crowd.enter(start, end);
        }
    }

    /// The link that leads on from `place`, or into the set.
    fn link_after(&mut self, place: u16) -> &mut u16 {
        match self.entries.get_mut(usize::from(place)) {
            Some(entry) => &mut entry.after,
            None => &mut self.first,
        }
    }

    /// The link that leads back from `place`, or from the end of the set.
    fn link_before(&mut self, place: u16) -> &mut u16 {
        match self.entries.get_mut(usize::from(place)) {
            Some(entry) => &mut entry.before,
            None => &mut self.last,
        }
    }

    fn get(&self, ticket: Ticket) -> Option<&Entry> {
        self.entries.get(usize::from(ticket.place)).filter(|entry| entry.serial == ticket.serial)
    }

    fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Entry> {
        self.entries.get_mut(usize::from(ticket.place)).filter(|entry| entry.serial == ticket.serial)
    }

    /// The commands from a place on, in order.
    fn from(&self, mut place: u16) -> impl Iterator<Item = (u16, &Entry)> + '_ {
        core::iter::from_fn(move || {
            let entry = self.entries.get(usize::from(place))?;
            Some((core::mem::replace(&mut place, entry.after), entry))
        })
    }

    /// The commands before a place.
    fn before(&self, place: u16) -> impl Iterator<Item = &Entry> + '_ {
        self.from(self.first).take_while(move |&(at, _)| at != place).map(|(_, entry)| entry)
    }

    /// Before whom a HEAD OF QUEUE command enters: before all that have not begun, be it only to take in data.
    fn head(&self) -> u16 {
        self.from(self.first).fold(NONE, |head, (place, entry)| match entry {
            Entry { ahead: true, .. } => NONE,
            Entry { started: false, .. } if head == NONE => place,
            _ => head,
        })
    }

    /// The parameter list is here, and with it the range.
    pub(crate) fn settle(&mut self, ticket: Ticket, touch: Touch, start: u64, length: u64) {
        let Some(entry) = self.get_mut(ticket).filter(|entry| entry.touch.is_none()) else { return };
        let end = start.saturating_add(length);
        entry.touch = Some(touch);
        (entry.start, entry.end) = (start, end);
        self.touches(touch, start, end);
    }

    /// Whether the command may ask for its parameter list.
    pub(crate) fn may_ask(&self, ticket: Ticket) -> bool {
        self.ordered == 0
            || self.get(ticket).is_none()
            || !self.before(ticket.place).any(|entry| entry.ordered)
    }

    /// Whether the command may go on; once it may, it always may.
    pub(crate) fn may_start(&mut self, ticket: Ticket) -> bool {
        let Some(entry) = self.get(ticket) else { return true };
        if entry.started {
            return true;
        }
        let may = self.is_alone(entry) || self.is_clear(entry, ticket.place);
        if let Some(entry) = self.get_mut(ticket) {
            entry.started = may;
        }
        may
    }

    /// What [`TaskSet::may_start`] would answer, for a command that begins only if it may in another set as well.
    pub(crate) fn could_start(&self, ticket: Ticket) -> bool {
        let clear = |entry: &Entry| entry.started || self.is_clear(entry, ticket.place);
        self.get(ticket).is_none_or(clear)
    }

    /// Whether nothing can stand in the way of this command, as can be seen without a look at any other.
    fn is_alone(&self, entry: &Entry) -> bool {
        let nobody_else = || self.crowd.is_alone(entry.start, entry.end);
        self.ordered == 0
            && match entry.touch {
                None => true,
                Some(Touch::Flush) => self.changes == 0,
                Some(Touch::Read) => self.changes == 0 || nobody_else(),
                Some(Touch::Change) => nobody_else(),
            }
    }

    /// Whether nothing stands in the way of the command at this place.
    fn is_clear(&self, entry: &Entry, place: u16) -> bool {
        if self.before(place).any(|earlier| stands_in_the_way(earlier, entry)) {
            return false;
        }
        // What came to the head of the queue, or settled late, may find running what stands behind it.
        let mut running = self.from(entry.after).map(|(_, other)| other);
        entry.touch == Some(Touch::Flush)
            || !running.any(|other| {
                other.started && other.touch != Some(Touch::Flush) && stands_in_the_way(other, entry)
            })
    }

    /// Whether a command behind this one that has yet to start changes something between these bytes.
    pub(crate) fn will_change(&self, ticket: Ticket, start: u64, end: u64) -> bool {
        let meant = |entry: &Entry| {
            let changes = entry.touch == Some(Touch::Change) && !entry.started;
            changes && entry.start < end && start < entry.end
        };
        self.get(ticket).is_some_and(|entry| self.from(entry.after).any(|(_, behind)| meant(behind)))
    }

    /// Whether a command that may not start yet may take its data in: see the head of this module.
    pub(crate) fn may_take_ahead(&self, ticket: Ticket) -> bool {
        let Some(entry) = self.get(ticket) else { return false };
        // Others may still come to stand before it.
        if entry.ordered {
            return false;
        }
        // Who has no range yet may get any, and need anything.
        let harmless = |other: &Entry| {
            let ends = other.stage >= Stage::Sated && (other.started || other.ahead);
            other.touch.is_some() && (ends || !stands_in_the_way(other, entry))
        };
        let mut after = self.from(entry.after).map(|(_, other)| other);
        self.before(ticket.place).all(harmless) && after.all(|other| !other.started || harmless(other))
    }

    /// The command has taken data in although it waits.
    pub(crate) fn took_ahead(&mut self, ticket: Ticket) {
        if let Some(entry) = self.get_mut(ticket) {
            entry.ahead = true;
        }
    }

    /// The command has come so far.
    pub(crate) fn reached(&mut self, ticket: Ticket, stage: Stage) {
        if let Some(entry) = self.get_mut(ticket) {
            entry.stage = stage;
        }
    }

    /// Leave for good.
    pub(crate) fn leave(&mut self, ticket: Ticket) {
        let free = self.free;
        let Some(entry) = self.get_mut(ticket) else { return };
        let Entry { before, after, touch, start, end, ordered, .. } = *entry;
        entry.serial = entry.serial.wrapping_add(1);
        entry.after = free;
        self.free = ticket.place;
        *self.link_after(before) = after;
        *self.link_before(after) = before;
        self.count -= 1;
        self.ordered -= usize::from(ordered);
        self.changes -= usize::from(touch == Some(Touch::Change));
        if matches!(touch, Some(Touch::Read | Touch::Change)) {
            self.crowd.leave(start, end);
        }
    }

    /// Whether a command of one of these nexuses is in the set.
    pub(crate) fn has_any_of(&self, nexuses: &NexusSet) -> bool {
        self.from(self.first).any(|(_, entry)| nexuses.contains(entry.nexus))
    }

    /// Commands in the set.
    pub(crate) fn len(&self) -> usize {
        self.count
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
    fn a_place_is_used_again_and_its_old_ticket_says_nothing() {
        let mut set = TaskSet::new(3);
        let [first, second, third] = [0, 100, 200].map(|start| enter(&mut set, Touch::Change, start, 10));
        set.leave(second);
        let again = enter(&mut set, Touch::Change, 5, 10);
        set.leave(second);
        assert_eq!(set.len(), 3);
        assert!(set.may_start(third) && set.may_start(first) && !set.may_start(again));
        set.leave(first);
        assert!(set.may_start(again), "in the order of entering, not of places");
        set.leave(third);
        set.leave(again);
        assert_eq!((set.len(), set.first, set.last), (0, NONE, NONE));
        assert!(set.crowd.is_empty());
    }

    /// A set without short cuts, as the head of this module has it.
    fn may_start_by_definition(set: &TaskSet, ticket: Ticket) -> bool {
        let entry = set.get(ticket).expect("in the set");
        entry.started || set.is_clear(entry, ticket.place)
    }

    #[test]
    fn the_short_cut_says_what_a_look_at_all_others_says() {
        let mut seed = 7_u64;
        let mut random = move |below: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) % below
        };
        let mut set = TaskSet::new(24);
        let mut tickets = Vec::new();
        for _ in 0..200_000 {
            let touch = [Touch::Read, Touch::Change, Touch::Change, Touch::Flush][random(4) as usize];
            let attribute = match random(64) {
                0 => Attribute::Ordered,
                1 | 2 => Attribute::HeadOfQueue,
                _ => Attribute::Simple,
            };
            let (start, length) =
                (random(64) << [9, 16, 24][random(3) as usize], 1 << [9, 16, 18][random(3) as usize]);
            if random(2) == 0 {
                tickets.extend(set.enter(Nexus(0), touch, start, length, attribute));
            } else if !tickets.is_empty() {
                set.leave(tickets.swap_remove(random(tickets.len() as u64) as usize));
            }
            if !tickets.is_empty() {
                let ticket = tickets[random(tickets.len() as u64) as usize];
                let expected = may_start_by_definition(&set, ticket);
                assert_eq!(set.may_start(ticket), expected);
            }
        }
    }

    #[test]
    fn a_full_set_takes_nobody() {
        let mut set = TaskSet::new(1);
        enter(&mut set, Touch::Read, 0, 1);
        assert_eq!(set.enter(Nexus(0), Touch::Read, 0, 1, Attribute::Simple), None);
        assert_eq!(set.len(), 1);
    }
}
