//! Whose turn it is: sessions that all want more than there is get as much as each other.
//!
//! A turn of the appliance is one poll of each task that has something to do. What a session finds on its connection it
//! could begin in its turn, all of it; but then one that keeps a hundred commands outstanding gets ten times as much as
//! one that keeps ten, and makes the turns so long that the other one, who gets its ten in two of them, has no more than
//! the rest. So what each session begins is added up, and none gets ahead of another by more than [`LEAD`] while that one
//! is about: what it may not begin stays where it is, and its window with its initiator closes. A session is about as long
//! as it begins commands and they end within few turns; one whose commands wait for a slow service, or for their disk's
//! limit, has nothing of shorter turns.
//!
//! Nobody stands still for that: a turn in which nothing happens but that a session is kept back is one too many, and so is one
//! in which the others have not begun anything for a while. What those who could have begun something and did not are
//! behind is then reckoned as theirs, some of it, and the more the longer that goes on. So those who want less than their equal part get what they want, and the others have the rest in equal
//! parts. A session that is alone is not counted at all.

use crate::shared::ConnectionIndex;
use alloc::vec::Vec;
use core::cell::Cell;

/// How far a session may be ahead of another, in units.
const LEAD: u64 = 32;
/// For how many turns after it has last begun a command, or wanted to, a session is about.
const ABOUT: u64 = 64;
/// In how many turns at most the commands of one end that has anything of shorter turns. Turns in which most are kept back
/// are short, and it takes some of them until a command has been to the service and the next one has come.
const QUICK: u64 = 48;
/// After how many turns without a command a session is waited for in vain.
const PATIENCE: u64 = 24;
/// After how many turns in which nothing happens at all it is.
const IDLE: u32 = 6;
/// What those who are behind are reckoned for a turn in which they are waited for in vain, twice as much for the next ...
const MISSED: u64 = 2;
/// ... so many times.
const DOUBLINGS: u32 = 5;
/// Bytes of data that are as much work as a command itself.
const UNIT: u32 = 28 << 10;
/// The most units that a command counts for, whatever its initiator says it will transfer.
const LARGEST: u64 = 64;

/// The units that a command counts for.
pub(crate) fn units(expected_data_transfer_length: u32) -> u64 {
    (1 + u64::from(expected_data_transfer_length / UNIT)).min(LARGEST)
}

/// What each session has begun.
pub(crate) struct Turns {
    turn: Cell<u64>,
    /// Counts what happens, but for polls of sessions that are kept back.
    happened: Cell<u64>,
    sessions: Vec<Session>,
    /// The two that have last begun a command.
    latest: Cell<[ConnectionIndex; 2]>,
}

#[derive(Default)]
struct Session {
    /// The turn it last had.
    polled: Cell<u64>,
    /// The turn in which it last began a command or wanted to; zero if never.
    wanted: Cell<u64>,
    /// The turn in which it last began one.
    begun: Cell<u64>,
    /// How many turns the command took that has ended last.
    took: Cell<u64>,
    /// What it has begun, and what it might have, in units.
    units: Cell<u64>,
    /// Up to where these may go in its turn.
    bound: Cell<u64>,
    /// It would have begun more in the turn that it had.
    is_kept_back: Cell<bool>,
    /// What had happened by then.
    seen: Cell<u64>,
    /// In how many turns one after the other nothing has happened since it was kept back.
    vain: Cell<u32>,
}

impl Turns {
    /// For so many connections.
    pub(crate) fn new(connections: usize) -> Self {
        let sessions = (0..connections).map(|_| Session::default()).collect();
        Self { turn: Cell::new(ABOUT + 1), happened: Cell::new(0), sessions, latest: Cell::new([0, 0]) }
    }

    /// Something has happened for which there is no other sign here.
    pub(crate) fn happens(&self) {
        self.happened.set(self.happened.get().wrapping_add(1));
    }

    /// Another turn of session `index` begins.
    pub(crate) fn enter(&self, index: ConnectionIndex) {
        let session = &self.sessions[index];
        if session.polled.get() == self.turn.get() {
            // Nobody is polled twice in a turn, so this is the next.
            self.turn.set(self.turn.get() + 1);
        }
        let turn = self.turn.get();
        session.polled.set(turn);
        let was_kept_back = session.is_kept_back.take();
        if !was_kept_back {
            self.happens();
        }
        session.bound.set(u64::MAX);
        let [last, before] = self.latest.get();
        let other = if last == index { before } else { last };
        if other == index || !self.sessions[other].is_about(turn) {
            return;
        }
        if was_kept_back {
            self.reckon(session, turn);
        }
        let Some(least) = self.least(index) else { return };
        if !session.is_about(turn) {
            // What it did not want while it was away it does not get now.
            session.units.set(session.units.get().max(least));
        }
        session.bound.set(least + LEAD);
    }

    /// Whether session `index` may begin another command in its turn.
    pub(crate) fn may_begin(&self, index: ConnectionIndex) -> bool {
        let session = &self.sessions[index];
        session.wanted.set(self.turn.get());
        let may = session.units.get() < session.bound.get();
        if !may {
            session.is_kept_back.set(true);
            session.seen.set(self.happened.get());
        }
        may
    }

    /// Which turn it is.
    pub(crate) fn now(&self) -> u64 {
        self.turn.get()
    }

    /// A command of session `index` has ended that was begun in turn `begun`.
    pub(crate) fn ended(&self, index: ConnectionIndex, begun: u64) {
        self.sessions[index].took.set(self.turn.get() - begun);
    }

    /// Session `index` has begun a command of so many `units`.
    pub(crate) fn begun(&self, index: ConnectionIndex, units: u64) {
        let (session, [last, _]) = (&self.sessions[index], self.latest.get());
        session.units.set(session.units.get() + units);
        session.begun.set(self.turn.get());
        self.happens();
        if last != index {
            self.latest.set([index, last]);
        }
    }

    /// The session is over.
    pub(crate) fn leave(&self, index: ConnectionIndex) {
        let session = &self.sessions[index];
        session.wanted.set(0);
        session.took.set(0);
        session.is_kept_back.set(false);
    }

    /// `session` was kept back in the turn before. If that was in vain, the others might have begun more than they did.
    fn reckon(&self, session: &Session, turn: u64) {
        let (vain, own) = (session.vain.get(), session.units.get());
        let nothing_happens = session.seen.get() == self.happened.get();
        let is_idle = nothing_happens && vain >= IDLE;
        let missed = MISSED << vain.saturating_sub(IDLE).min(DOUBLINGS);
        let mut is_vain = nothing_happens;
        for other in self.sessions.iter().filter(|other| other.is_about(turn) && !other.is_kept_back.get()) {
            let units = other.units.get();
            if units < own && (is_idle || other.begun.get() + PATIENCE < turn) {
                other.units.set(own.min(units + missed));
                is_vain = true;
            }
        }
        session.vain.set(if is_vain { vain + 1 } else { 0 });
    }

    /// What the one has begun that has begun least of those that are about, but for `index`.
    fn least(&self, index: ConnectionIndex) -> Option<u64> {
        let others = self.sessions.iter().enumerate().filter(|(other, _)| *other != index);
        let about = others.map(|(_, session)| session).filter(|session| session.is_about(self.turn.get()));
        about.map(|session| session.units.get()).min()
    }
}

impl Session {
    fn is_about(&self, turn: u64) -> bool {
        self.wanted.get() + ABOUT >= turn && self.took.get() <= QUICK
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sessions that keep so many commands outstanding, of so many units each, which come back after so many turns.
    struct World {
        turns: Turns,
        sessions: Vec<Load>,
        turn: u64,
    }

    struct Load {
        depth: usize,
        units: u64,
        back_after: u64,
        /// When those that are outstanding were begun.
        out: Vec<u64>,
        waits: bool,
        begun: u64,
    }

    impl World {
        fn new(loads: &[(usize, u64, u64)]) -> Self {
            let load = |&(depth, units, back_after)| {
                let (out, waits, begun) = (Vec::new(), true, 0);
                Load { depth, units, back_after, out, waits, begun }
            };
            Self { turns: Turns::new(loads.len()), sessions: loads.iter().map(load).collect(), turn: 0 }
        }

        /// Let so many turns go by, and answer how many units each session has begun in them.
        fn run(&mut self, turns: u64) -> Vec<u64> {
            let before: Vec<u64> = self.sessions.iter().map(|load| load.begun).collect();
            for _ in 0..turns {
                self.turn += 1;
                for (index, load) in self.sessions.iter_mut().enumerate() {
                    let outstanding = load.out.len();
                    load.out.retain(|&begun| {
                        let is_over = begun + load.back_after <= self.turn;
                        if is_over {
                            self.turns.ended(index, self.turns.now() - load.back_after);
                        }
                        !is_over
                    });
                    if outstanding > load.out.len() {
                        self.turns.happens();
                    }
                    if outstanding == load.out.len() && !load.waits {
                        continue;
                    }
                    self.turns.enter(index);
                    load.waits = false;
                    while load.out.len() < load.depth && !load.waits {
                        load.waits = !self.turns.may_begin(index);
                        if !load.waits {
                            self.turns.begun(index, load.units);
                            load.begun += load.units;
                            load.out.push(self.turn);
                        }
                    }
                }
            }
            self.sessions.iter().zip(before).map(|(load, before)| load.begun - before).collect()
        }
    }

    #[test]
    fn a_session_that_is_alone_begins_all_it_has() {
        let mut world = World::new(&[(0, 1, 1), (128, 1, 1), (0, 1, 1)]);
        assert_eq!(world.run(100), [0, 12_800, 0]);
    }

    #[test]
    fn a_greedy_session_gets_no_more_than_one_that_asks_for_little_at_a_time() {
        let mut world = World::new(&[(128, 1, 1), (8, 1, 1)]);
        let begun = world.run(3000);
        assert!(begun[1] == 24_000 && begun[0] < 25_200, "{begun:?}");
    }

    #[test]
    fn a_greedy_session_gets_what_one_that_is_slow_leaves() {
        let mut world = World::new(&[(128, 1, 1), (1, 1, 1000)]);
        let begun = world.run(10_000);
        assert!(begun[1] == 10 && begun[0] > 128 * 9000, "{begun:?}");
    }

    #[test]
    fn nobody_waits_for_a_session_whose_commands_wait_for_something_else() {
        let mut world = World::new(&[(32, 1, 1), (128, 1, 640)]);
        world.run(1000);
        let begun = world.run(10_000);
        assert_eq!(begun[0], 320_000, "{begun:?}");
    }

    #[test]
    fn large_commands_count_for_what_they_are() {
        let mut world = World::new(&[(4, units(1 << 20), 1), (128, 1, 1)]);
        let begun = world.run(10_000);
        assert!(begun[0].abs_diff(begun[1]) < begun[1] / 20, "{begun:?}");
    }

    #[test]
    fn two_that_are_kept_back_do_not_wait_for_each_other() {
        let mut world = World::new(&[(128, 1, 1), (128, 1, 1), (1, 1, 40)]);
        let begun = world.run(4000);
        assert!(begun[0].abs_diff(begun[1]) < begun[1] / 20, "{begun:?}");
        assert!(begun[0] > 2000, "{begun:?}");
    }

    #[test]
    fn many_slow_sessions_do_not_starve_a_quick_one() {
        let mut loads = [(1, 1, 30); 16];
        loads[0] = (128, 1, 1);
        let begun = World::new(&loads).run(3000);
        assert!(begun[1..].iter().all(|&slow| slow >= 95), "{begun:?}");
        assert!(begun[0] > 3000, "{begun:?}");
    }

    #[test]
    fn a_session_that_was_away_has_no_claim_to_what_it_did_not_want() {
        let mut world = World::new(&[(128, 1, 1), (0, 1, 1)]);
        world.run(1000);
        world.sessions[1].depth = 128;
        world.sessions[1].waits = true;
        let begun = world.run(1000);
        assert!(begun[0].abs_diff(begun[1]) <= 2 * LEAD + 128, "{begun:?}");
    }

    #[test]
    fn a_session_that_is_over_is_waited_for_by_nobody() {
        let mut world = World::new(&[(128, 1, 1), (8, 1, 2)]);
        world.run(100);
        world.sessions[1].depth = 0;
        world.turns.leave(1);
        assert!(world.run(100)[0] >= 99 * 128);
    }

    #[test]
    fn what_an_initiator_says_it_will_transfer_is_bounded() {
        assert_eq!([units(0), units(4096), units(u32::MAX)], [1, 1, LARGEST]);
    }
}
