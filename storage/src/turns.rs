//! Whose turn it is: sessions that all want more than there is get as much as each other.
//!
//! What a session finds on its connection it could begin at once, all of it; but then one that keeps a hundred commands
//! outstanding gets ten times as much as one that keeps ten, which stands behind it wherever something waits. So what
//! each session begins is added up, and none gets ahead of another by more than [`LEAD`] while that one is about: what it
//! may not begin stays where it is, and its window with its initiator closes. A session is about as long as it begins
//! commands and they do not take longer than the others could make them wait: one whose commands wait for a slow service,
//! or for their disk's limit, has nothing of another's being kept back.
//!
//! One that keeps few commands outstanding waits for its own answers most of the time, and nobody is to stand still
//! meanwhile. So one that is kept back while nothing happens may have one more command outstanding, whoever it is ahead
//! of, and one more the next time; what it begins takes that from it again. So it has as many outstanding as it takes to
//! keep the processor busy most of the time, and the other waits for no more than those. With [`Sharing::Equal`] it may
//! not: who waits for his own answers has as much as who does not, and the processor stands still meanwhile.

use crate::Sharing;
use crate::shared::ConnectionIndex;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;
use kernel_runtime::Instant;

/// How far a session may be ahead of another, in units.
const LEAD: u64 = 8;
/// A session is about for so long after it has begun a command, or wanted to, and for up to twice as long; unless its
/// commands take longer than that, once for each session that is about. It is longer than the queue that one session can
/// make for the processor.
const WINDOW: Duration = Duration::from_millis(16);
/// After how many turns in which nothing happens the processor stands still.
const IDLE: u32 = 16;
/// By how many units a session that is kept back begins it loses one of what it may have outstanding nevertheless.
const COST: u64 = 4;
/// Bytes of data that are as much work as a command itself.
const UNIT: u32 = 28 << 10;
/// The most units that a command counts for, whatever its initiator says it will transfer.
const LARGEST: u32 = 64;

/// The units that a command counts for.
pub(crate) fn units(expected_data_transfer_length: u32) -> u32 {
    (1 + expected_data_transfer_length / UNIT).min(LARGEST)
}

/// What each session has begun, and has outstanding.
pub(crate) struct Turns {
    sharing: Sharing,
    /// Which [`WINDOW`] it is.
    window: Cell<u64>,
    /// Counts what happens, but for polls of sessions that are kept back.
    happened: Cell<u64>,
    sessions: Vec<Session>,
    /// The two that have last begun a command.
    latest: Cell<[ConnectionIndex; 2]>,
    /// How often the processor stood still while somebody was kept back.
    standstills: Cell<u64>,
    /// How many others were about when that was last looked for.
    others: Cell<u32>,
}

#[derive(Default)]
struct Session {
    /// The window in which it last began a command or wanted to; zero if never.
    wanted: Cell<u64>,
    /// Its commands take longer than others can make them wait.
    is_slow: Cell<bool>,
    /// What it has begun, and what it might have, in units.
    units: Cell<u64>,
    /// Up to where these may go in its turn.
    bound: Cell<u64>,
    /// What it has outstanding, in units.
    outstanding: Cell<u64>,
    /// What of this has ended since its turn began, by which it makes no room in the same turn.
    ended: Cell<u64>,
    /// What it may have outstanding however far it is ahead.
    surplus: Cell<u64>,
    /// What it has begun since that was changed.
    spent: Cell<u64>,
    /// It would have begun more in the turn that it had.
    is_kept_back: Cell<bool>,
    /// What had happened by then, and how often the processor had stood still.
    seen: Cell<u64>,
    standstills: Cell<u64>,
    /// How often that was so.
    times_kept_back: Cell<u64>,
    /// In how many turns one after the other nothing has happened since.
    vain: Cell<u32>,
}

impl Turns {
    /// For so many connections.
    pub(crate) fn new(connections: usize, sharing: Sharing) -> Self {
        let sessions = (0..connections).map(|_| Session::default()).collect();
        let [window, happened, standstills] = [0; 3].map(Cell::new);
        Self {
            sharing,
            window,
            happened,
            sessions,
            latest: Cell::new([0, 0]),
            standstills,
            others: Cell::new(0),
        }
    }

    /// Something has happened for which there is no other sign here.
    pub(crate) fn happens(&self) {
        self.happened.set(self.happened.get().wrapping_add(1));
    }

    /// A turn of session `index` begins.
    pub(crate) fn enter(&self, index: ConnectionIndex, now: Instant) {
        let session = &self.sessions[index];
        session.outstanding.update(|outstanding| outstanding.saturating_sub(session.ended.take()));
        let was_kept_back = session.is_kept_back.take();
        if !was_kept_back {
            self.happens();
        }
        session.bound.set(u64::MAX);
        let [last, before] = self.latest.get();
        let other = if last == index { before } else { last };
        if other == index {
            return;
        }
        // Before the second of them nobody has been about.
        let window = 2 + now.as_micros() / WINDOW.as_micros() as u64;
        self.window.set(window);
        if !self.sessions[other].is_about(window) {
            return;
        }
        let Some(least) = self.least(index) else { return };
        if was_kept_back && self.sharing == Sharing::WorkConserving {
            self.reckon(session);
        }
        // What it did not want while it was away it does not get now, and what nobody else wanted it is not charged.
        let from = if session.is_about(window) { 0 } else { least };
        session.units.update(|units| units.clamp(from, least + LEAD));
        session.bound.set(least + LEAD);
    }

    /// Whether session `index` may begin another command in its turn.
    pub(crate) fn may_begin(&self, index: ConnectionIndex) -> bool {
        let session = &self.sessions[index];
        session.wanted.set(self.window.get());
        let is_ahead = session.units.get() >= session.bound.get();
        let may = !is_ahead || session.outstanding.get() < session.surplus.get();
        if !may {
            session.is_kept_back.set(true);
            session.times_kept_back.set(session.times_kept_back.get() + 1);
            session.seen.set(self.happened.get());
            session.standstills.set(self.standstills.get());
        }
        may
    }

    /// Session `index` has begun a command of so many `units`.
    pub(crate) fn begun(&self, index: ConnectionIndex, units: u32) {
        let (session, [last, _], units) = (&self.sessions[index], self.latest.get(), u64::from(units));
        session.units.set(session.units.get() + units);
        session.outstanding.set(session.outstanding.get() + units);
        if session.surplus.get() > 0 {
            let spent = session.spent.get() + units;
            session.surplus.update(|surplus| surplus.saturating_sub(spent / COST));
            session.spent.set(spent % COST);
        }
        self.happens();
        if last != index {
            self.latest.set([index, last]);
        }
    }

    /// A command of session `index` that counted for so many `units` has ended, after so many microseconds.
    pub(crate) fn ended(&self, index: ConnectionIndex, units: u32, took: u64) {
        let session = &self.sessions[index];
        session.ended.set(session.ended.get() + u64::from(units));
        session.is_slow.set(took > WINDOW.as_micros() as u64 * u64::from(1 + self.others.get()));
    }

    /// The session is over, and all its commands with it.
    pub(crate) fn leave(&self, index: ConnectionIndex) {
        let session = &self.sessions[index];
        session.wanted.set(0);
        session.is_slow.set(false);
        session.outstanding.set(0);
        session.ended.set(0);
        session.surplus.set(0);
        session.is_kept_back.set(false);
        session.times_kept_back.set(0);
    }

    /// How often session `index` might not begin what it would have begun.
    pub(crate) fn kept_back(&self, index: ConnectionIndex) -> u64 {
        self.sessions[index].times_kept_back.get()
    }

    /// `session` was kept back in the turn before. If nothing has happened for some turns, all who are may have one more.
    fn reckon(&self, session: &Session) {
        let vain = if session.seen.get() == self.happened.get() { session.vain.get() + 1 } else { 0 };
        session.vain.set(vain % IDLE);
        if vain == IDLE {
            self.standstills.set(self.standstills.get() + 1);
        }
        if session.standstills.get() != self.standstills.get() {
            // One more than it has, so that it makes a difference at once.
            let surplus = session.surplus.get().max(session.outstanding.get());
            session.surplus.set(surplus + 1);
            session.spent.set(0);
        }
    }

    /// What the one has begun that has begun least of those that are about, but for `index`.
    fn least(&self, index: ConnectionIndex) -> Option<u64> {
        let (mut least, mut others) = (None, 0);
        for (other, session) in self.sessions.iter().enumerate() {
            if other != index && session.is_about(self.window.get()) {
                let units = session.units.get();
                least = Some(least.map_or(units, |least: u64| least.min(units)));
                others += 1;
            }
        }
        self.others.set(others);
        least
    }
}

impl Session {
    fn is_about(&self, window: u64) -> bool {
        self.wanted.get() + 1 >= window && !self.is_slow.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the processor takes for a unit, and for a turn beside.
    const WORK: u64 = 40;
    const TURN: u64 = 4;

    /// Sessions on one processor whose initiators keep commands outstanding.
    struct World {
        turns: Turns,
        sessions: Vec<Load>,
        now: u64,
    }

    struct Load {
        units: u32,
        /// How long a command waits for others than the processor, in microseconds.
        away: u64,
        /// When what is outstanding comes back, and how many wait to begin.
        out: Vec<u64>,
        waiting: usize,
        begun: u64,
    }

    impl World {
        fn new(loads: &[(usize, u32, u64)]) -> Self {
            Self::sharing(Sharing::WorkConserving, loads)
        }

        fn sharing(sharing: Sharing, loads: &[(usize, u32, u64)]) -> Self {
            let load =
                |&(depth, units, away)| Load { units, away, out: Vec::new(), waiting: depth, begun: 0 };
            Self {
                turns: Turns::new(loads.len(), sharing),
                sessions: loads.iter().map(load).collect(),
                now: 0,
            }
        }

        /// Answers how many units each session begins in so many milliseconds.
        fn run(&mut self, milliseconds: u64) -> Vec<u64> {
            let before: Vec<u64> = self.sessions.iter().map(|load| load.begun).collect();
            let end = self.now + milliseconds * 1000;
            while self.now < end {
                self.turn();
            }
            self.sessions.iter().zip(before).map(|(load, before)| load.begun - before).collect()
        }

        fn turn(&mut self) {
            let start = self.now;
            for (index, load) in self.sessions.iter_mut().enumerate() {
                let outstanding = load.out.len();
                load.out.retain(|&back| back > start);
                for _ in load.out.len()..outstanding {
                    self.turns.happens();
                    self.turns.ended(index, load.units, load.away);
                    load.waiting += 1;
                    self.now += WORK / 2 * u64::from(load.units);
                }
                if load.waiting == 0 {
                    continue;
                }
                self.turns.enter(index, Instant::from_micros(start));
                while load.waiting > 0 && self.turns.may_begin(index) {
                    self.turns.begun(index, load.units);
                    load.begun += u64::from(load.units);
                    load.waiting -= 1;
                    self.now += WORK / 2 * u64::from(load.units);
                    load.out.push(self.now + load.away);
                }
            }
            self.now += TURN;
        }
    }

    /// Whether one of the two is within 5 % of the other.
    fn equal(one: u64, other: u64) -> bool {
        one.abs_diff(other) <= one.max(other) / 20
    }

    #[test]
    fn a_session_that_is_alone_is_not_kept_back() {
        let mut world = World::new(&[(0, 1, 0), (128, 1, 200), (0, 1, 0)]);
        let begun = world.run(100);
        assert_eq!(world.turns.sessions[1].outstanding.get(), 128);
        assert!(begun[1] > 2400, "{begun:?}");
    }

    #[test]
    fn a_greedy_session_gets_no_more_than_one_with_less_outstanding() {
        for depth in [4, 8, 32] {
            let mut world = World::new(&[(128, 1, 200), (depth, 1, 200)]);
            world.run(100);
            let begun = world.run(1000);
            assert!(equal(begun[0], begun[1]) && begun[1] > 11_000, "{depth}: {begun:?}");
        }
    }

    #[test]
    fn large_commands_count_for_what_they_are() {
        let mut world = World::new(&[(128, 1, 200), (4, units(1 << 20), 200)]);
        world.run(100);
        let begun = world.run(1000);
        assert!(equal(begun[0], begun[1]), "{begun:?}");
    }

    #[test]
    fn four_greedy_sessions_leave_a_modest_one_its_part() {
        let mut world =
            World::new(&[(128, 1, 200), (128, 1, 200), (128, 1, 200), (128, 1, 200), (8, 1, 200)]);
        world.run(100);
        let begun = world.run(1000);
        assert!(begun.iter().all(|&part| equal(part, begun[4])), "{begun:?}");
    }

    #[test]
    fn one_command_at_a_time_waits_for_few_others_and_they_do_not_stand_still() {
        let alone = World::new(&[(1, 1, 200)]).run(1000)[0];
        let mut world = World::new(&[(128, 1, 200), (1, 1, 200)]);
        world.run(100);
        let begun = world.run(1000);
        assert!(begun[1] > alone / 10 * 9 && begun[0] > 2 * begun[1], "{begun:?}, alone {alone}");
    }

    #[test]
    fn where_parts_are_equal_a_greedy_session_gets_no_more_than_one_of_one_command() {
        for depth in [1, 2, 8, 32] {
            let mut world = World::sharing(Sharing::Equal, &[(128, 1, 200), (depth, 1, 200)]);
            world.run(100);
            let begun = world.run(1000);
            assert!(equal(begun[0], begun[1]), "{depth}: {begun:?}");
        }
    }

    #[test]
    fn where_parts_are_equal_nobody_waits_for_one_that_is_not_about() {
        let mut world = World::sharing(Sharing::Equal, &[(128, 1, 200), (8, 1, 200)]);
        world.run(100);
        world.sessions[1].waiting = 0;
        world.sessions[1].out.clear();
        world.run(2 * WINDOW.as_millis() as u64);
        assert!(world.run(1000)[0] > 24_000);
        world.sessions[1] = Load { units: 1, away: 1_000_000, out: Vec::new(), waiting: 8, begun: 0 };
        world.run(2000);
        assert!(world.run(1000)[0] > 23_000, "whose commands take a second");
    }

    #[test]
    fn who_waits_for_a_slow_service_loses_nothing_and_costs_the_others_some() {
        let mut world = World::new(&[(128, 1, 200), (1, 1, 10_000)]);
        world.run(100);
        let begun = world.run(1000);
        assert!(begun[1] > 95 && begun[0] > 12_000, "{begun:?}");
    }

    #[test]
    fn nobody_waits_for_a_session_whose_commands_wait_for_their_limit() {
        let alone = World::new(&[(32, 1, 200)]).run(1000)[0];
        let mut world = World::new(&[(32, 1, 200), (128, 1, 256_000)]);
        world.run(1000);
        let begun = world.run(1000);
        assert!(equal(begun[0] + begun[1], alone), "{begun:?}, alone {alone}");
    }

    #[test]
    fn two_that_are_kept_back_do_not_wait_for_each_other() {
        let mut world = World::new(&[(128, 1, 200), (128, 1, 200), (1, 1, 1000)]);
        world.run(100);
        let begun = world.run(1000);
        assert!(begun[0].abs_diff(begun[1]) < begun[0] / 3 && begun[0] > 4 * begun[2], "{begun:?}");
    }

    #[test]
    fn a_session_that_was_away_has_no_claim_to_what_it_did_not_want() {
        let mut world = World::new(&[(128, 1, 200), (0, 1, 200)]);
        world.run(1000);
        world.sessions[1].waiting = 128;
        let begun = world.run(200);
        assert!(begun[0].abs_diff(begun[1]) < 2 * 128, "{begun:?}");
    }

    #[test]
    fn a_session_that_is_over_is_waited_for_by_nobody() {
        let mut world = World::new(&[(128, 1, 200), (8, 1, 200)]);
        world.run(100);
        world.sessions[1].out.clear();
        world.sessions[1].waiting = 0;
        world.turns.leave(1);
        world.turn();
        world.turn();
        assert_eq!(world.turns.sessions[0].outstanding.get(), 128);
    }

    /// What it has outstanding may be waiting for data that stands behind the command it may not begin.
    #[test]
    fn one_that_is_kept_back_begins_something_when_nothing_else_happens() {
        let turns = Turns::new(2, Sharing::WorkConserving);
        let turn = |index| {
            turns.enter(index, Instant::ZERO);
            let may = turns.may_begin(index);
            if may {
                turns.begun(index, 1);
            }
            may
        };
        turn(1);
        let ahead = (0..100).take_while(|_| turn(0)).count() as u64;
        assert_eq!(ahead, LEAD);
        let waits = (0..100).take_while(|_| !turn(0)).count() as u32;
        assert_eq!(waits, IDLE - 1);
    }

    #[test]
    fn what_an_initiator_says_it_will_transfer_is_bounded() {
        assert_eq!([units(0), units(4096), units(u32::MAX)], [1, 1, LARGEST]);
    }
}
