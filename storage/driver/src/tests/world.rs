//! The world of the tests: a driver, its connections, and the service they lead to.

use crate::driver::Limits;
use crate::{Dial, Driver, Event, Rate, Settings, Status};
use kernel_runtime::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use storage_block::{Error, Operation, Pool, Request, Share};
use storage_nbd::testing::{self, Admission, Disk, Lease, Session, Shape};
use storage_nbd::wire::{command, error};
use storage_nbd::{Retry, TransmissionFlags, Writer};

const BLOCKS: usize = 96;
const BLOCK: usize = 512;
const HOLD_OFF: Duration = Duration::from_secs(30);

/// What may go wrong.
#[derive(Clone, Copy, Default)]
pub(super) struct Faults {
    pub(super) kills: bool,
    pub(super) crashes: bool,
    pub(super) flushes: bool,
    /// The service can do with several connections.
    pub(super) shared: bool,
    pub(super) errors: bool,
    /// The service knows incarnations and fences.
    pub(super) fences: bool,
}

/// What is wrong with the driver or the service, to see that it is found.
#[derive(Clone, Copy, Default)]
pub(super) struct Defects {
    /// The journal is emptied before each replay.
    pub(super) forgets: bool,
    pub(super) no_hold_off: bool,
    /// The service keeps its incarnation although it has lost its cache.
    pub(super) lies: bool,
}

pub(super) struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() >> 11) as usize % end
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// A request that was not answered yet.
struct Pending {
    operation: Operation,
    start: usize,
    length: usize,
    fill: u8,
    /// When it was asked for.
    asked: u64,
}

/// What is known of a block.
#[derive(Clone, Copy)]
struct Known {
    /// What it must hold; `None` when nobody can know.
    content: Option<u8>,
    /// When a change of it was last asked for or answered.
    touched: u64,
}

pub(super) struct World {
    random: Random,
    now: Instant,
    faults: Faults,
    defects: Defects,
    driver: Driver,
    settings: testing::Settings,
    incarnation: u64,
    lease: Lease,
    disk: Disk,
    sessions: Vec<Option<Session>>,
    ghosts: Vec<(Instant, Session)>,
    share: Share,
    blocks: Vec<Known>,
    pending: BTreeMap<u64, Pending>,
    cookie: u64,
    /// Counts what happens, to tell before from after.
    tick: u64,
    failing_flushes: usize,
    pub(super) verified: u64,
    pub(super) executed: u64,
}

impl World {
    pub(super) fn new(seed: u64, faults: Faults, defects: Defects) -> Self {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let mut flags = testing::Settings::default().flags.0;
        if random.one_in(4) {
            flags &= !TransmissionFlags::SEND_FUA.0;
        }
        if faults.shared {
            flags |= TransmissionFlags::CAN_MULTI_CONN.0;
        }
        let settings = testing::Settings {
            flags: TransmissionFlags(flags),
            structured: !random.one_in(3),
            ..testing::Settings::default()
        };
        let paths = if faults.shared { 1 + random.below(4) } else { 1 };
        let limits = Limits {
            nbd: storage_nbd::Limits { slots: 1 + random.below(8), ..storage_nbd::Limits::DEFAULT },
            paths,
            entries: [4, 16, 200][random.below(3)],
            hold: Duration::from_secs(25),
            hold_off: if defects.no_hold_off { Duration::ZERO } else { HOLD_OFF },
            flush_after: Duration::from_secs(10),
        };
        let journal = Pool::new(&[(2048, [4, 16, 64][random.below(3)]), (8192, 4)]);
        let share = Pool::new(&[(512, 16), (2048, 64), (8192, 64)]).share(1 << 30);
        let journal = journal.share(journal.capacity());
        let driver = Driver::new(Instant::ZERO, &limits, &nbd_settings(seed, Rate::default()), journal);
        Self {
            random,
            now: Instant::ZERO,
            faults,
            defects,
            driver: driver.expect("sound settings"),
            settings,
            incarnation: 1,
            lease: Lease::default(),
            disk: Disk::new(BLOCKS * BLOCK),
            sessions: (0..paths).map(|_| None).collect(),
            ghosts: Vec::new(),
            share,
            blocks: vec![Known { content: Some(0), touched: 0 }; BLOCKS],
            pending: BTreeMap::new(),
            cookie: 0,
            tick: 0,
            failing_flushes: 0,
            verified: 0,
            executed: 0,
        }
    }

    pub(super) fn limit(&mut self, rate: Rate) {
        self.driver.meter = crate::rate::Meter::new(self.now, rate);
    }

    pub(super) fn status(&self) -> Status {
        self.driver.status()
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.now.since(Instant::ZERO)
    }

    /// Run for so many steps of ten milliseconds, then without faults until everything has ended.
    pub(super) fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.now = self.now + Duration::from_millis(10);
            self.tick += 1;
            self.submit();
            self.step();
            self.misfortune();
        }
        self.failing_flushes = 0;
        for _ in 0..20_000 {
            if self.pending.is_empty() {
                break;
            }
            self.now = self.now + Duration::from_millis(10);
            self.tick += 1;
            self.step();
        }
        assert!(self.pending.is_empty(), "{} requests were forgotten", self.pending.len());
        for session in self.sessions.iter().flatten() {
            assert!(session.violations.is_empty(), "{:?}", session.violations);
        }
    }

    pub(super) fn close(&mut self, limit: Duration) {
        self.driver.close();
        let end = self.now + limit;
        while !(self.driver.is_drained() && !self.driver.is_connected()) {
            assert!(self.now < end, "it does not come to an end");
            self.now = self.now + Duration::from_millis(10);
            self.step();
        }
    }

    /// Whether all that was acknowledged is on stable storage.
    pub(super) fn is_durable(&self) -> bool {
        self.blocks.iter().enumerate().all(|(index, block)| {
            let bytes = &self.disk.durable()[index * BLOCK..(index + 1) * BLOCK];
            block.content.is_none_or(|content| bytes.iter().all(|&byte| byte == content))
        })
    }

    fn submit(&mut self) {
        if self.pending.len() >= 24 || self.random.one_in(3) {
            return;
        }
        let fua = self.random.one_in(6);
        let operation = match self.random.below(16) {
            0 => Operation::Flush,
            1 => Operation::Trim { fua },
            2 => Operation::WriteZeroes { fua, no_hole: self.random.one_in(2), fast: false },
            3..10 => Operation::Write { fua },
            _ => Operation::Read,
        };
        let length = if operation == Operation::Flush { 0 } else { 1 + self.random.below(12) };
        let start = if length == 0 { 0 } else { self.random.below(BLOCKS - length + 1) };
        // What the maker of requests promises: nothing overlaps a change in flight.
        let clash = self.pending.values().any(|other| {
            let both = start < other.start + other.length && other.start < start + length;
            both && (operation.changes_medium() || other.operation.changes_medium())
        });
        if clash {
            return;
        }
        self.cookie += 1;
        let fill = self.random.next() as u8;
        let bytes = length * BLOCK;
        let buffer = operation.carries_data().then(|| {
            let mut buffer = self.share.take(bytes).expect("a buffer");
            buffer.fill(fill);
            buffer
        });
        let request = Request {
            cookie: self.cookie,
            operation,
            offset: (start * BLOCK) as u64,
            length: bytes as u64,
            buffer,
        };
        self.driver.push(self.now, request);
        self.touch(operation, start, length);
        let pending = Pending { operation, start, length, fill, asked: self.tick };
        self.pending.insert(self.cookie, pending);
    }

    fn touch(&mut self, operation: Operation, start: usize, length: usize) {
        if operation.changes_medium() {
            for block in &mut self.blocks[start..start + length] {
                block.touched = self.tick;
            }
        }
    }

    fn step(&mut self) {
        for path in 0..self.sessions.len() {
            self.connect(path);
            self.driver.dispatch(self.now);
            self.carry(path);
            self.serve(path);
            self.carry(path);
        }
        self.fence();
        self.haunt();
        self.events();
    }

    fn connect(&mut self, path: usize) {
        if self.sessions[path].is_none()
            && let Dial::Now(portal) = self.driver.dial(path, self.now)
        {
            assert_eq!(portal, 0);
            if self.random.one_in(8) && self.faults.kills {
                return self.driver.disconnected(path, self.now, Retry::Soon);
            }
            self.driver.connected(path, self.now);
            let mut settings = self.settings.clone();
            if self.faults.fences {
                settings.incarnation = Some(format!("life-{}", self.incarnation));
                settings.fencing = true;
            }
            self.sessions[path] = Some(Session::new(&settings, &self.disk));
        }
    }

    /// Bytes both ways.
    fn carry(&mut self, path: usize) {
        if self.sessions[path].is_none() {
            return;
        }
        if let Err(end) = self.driver.handle_timeout(path, self.now) {
            return self.lose(path, end.retry());
        }
        let Some(session) = &mut self.sessions[path] else { return };
        let mut budget = if self.random.one_in(4) { self.random.below(2000) } else { usize::MAX };
        let mut end = None;
        if self.random.one_in(2) {
            let mut room = vec![0; budget.min(1 + self.random.below(20_000))];
            budget = 0;
            match self.driver.fill(path, self.now, &mut room) {
                Ok(count) => session.receive(&room[..count]),
                Err(reason) => end = Some(reason),
            }
        }
        while budget > 0
            && let Some(bytes) = self.driver.poll_transmit(path)
        {
            let count = bytes.len().min(budget);
            session.receive(&bytes[..count]);
            budget -= count;
            if let Err(reason) = self.driver.transmitted(path, self.now, count) {
                end = Some(reason);
                break;
            }
        }
        let take = if self.random.one_in(4) {
            self.random.below(1 + session.output.len())
        } else {
            session.output.len()
        };
        let bytes: Vec<u8> = session.output.drain(..take).collect();
        let mut rest = &bytes[..];
        let goes_at_once = self.random.one_in(2);
        while goes_at_once && end.is_none() && !rest.is_empty() {
            match self.driver.take(path, self.now, rest, &mut ()) {
                Ok(count) => rest = &rest[count..],
                Err(reason) => end = Some(reason),
            }
        }
        while end.is_none() && !rest.is_empty() {
            let space = self.driver.space(path);
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            end = self.driver.received(path, self.now, count).err();
        }
        if let Some(end) = end {
            self.lose(path, end.retry());
        } else if self.sessions[path]
            .as_ref()
            .is_some_and(|session| session.has_ended() && session.output.is_empty())
        {
            self.lose(path, Retry::Soon);
        }
    }

    fn serve(&mut self, path: usize) {
        let Some(session) = &mut self.sessions[path] else { return };
        for _ in 0..self.random.below(1 + session.waiting.len()) {
            let index = self.random.below(session.waiting.len());
            let is_flush = session.waiting[index].request.command == command::FLUSH;
            let shape = if is_flush && self.failing_flushes > 0 {
                self.failing_flushes -= 1;
                // What it should have made durable is gone.
                self.disk.crash();
                Shape::Error(error::EIO)
            } else if self.faults.errors && self.random.one_in(300) {
                Shape::Error([error::ENOSPC, error::ENOMEM][self.random.below(2)])
            } else {
                Shape::Pieces(self.random.next())
            };
            self.executed += u64::from(!is_flush);
            session.execute(&mut self.disk, index, shape);
        }
    }

    /// The service answers who claims to be the only writer: others are cut, and what they brought is over.
    fn fence(&mut self) {
        for path in 0..self.sessions.len() {
            let Some(fence) = self.sessions[path].as_ref().and_then(Session::fence_request).cloned() else {
                continue;
            };
            let admission = self.lease.admit(&fence);
            assert_ne!(admission, Admission::Refused);
            // What came by connections that the claim says are alive goes on, though they may have died meanwhile.
            self.ghosts
                .retain(|(_, ghost)| ghost.claim().is_some_and(|claim| !fence.cuts(admission, Some(claim))));
            for other in 0..self.sessions.len() {
                let claim = self.sessions[other].as_ref().and_then(Session::claim);
                if other != path && claim.is_some_and(|claim| fence.cuts(admission, Some(claim))) {
                    self.lose(other, Retry::Soon);
                    self.ghosts.pop();
                }
            }
            if let Some(session) = &mut self.sessions[path] {
                session.fence(true);
            }
        }
    }

    /// What dead connections brought is executed, late.
    fn haunt(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        let which = self.random.below(self.ghosts.len());
        let (until, ghost) = &mut self.ghosts[which];
        if *until <= self.now || ghost.waiting.is_empty() {
            self.ghosts.swap_remove(which);
        } else if self.random.one_in(20) {
            let index = self.random.below(ghost.waiting.len());
            ghost.execute(&mut self.disk, index, Shape::Plain);
        }
    }

    fn lose(&mut self, path: usize, retry: Retry) {
        self.driver.disconnected(path, self.now, retry);
        if let Some(mut dead) = self.sessions[path].take() {
            assert!(dead.violations.is_empty(), "{:?}", dead.violations);
            dead.waiting.retain(|waiting| waiting.request.command != command::READ);
            self.ghosts.push((self.now + HOLD_OFF, dead));
        }
    }

    fn misfortune(&mut self) {
        if self.faults.kills && self.random.one_in(150) {
            let path = self.random.below(self.sessions.len());
            if self.sessions[path].is_some() {
                self.lose(path, Retry::Soon);
            }
        }
        if self.faults.crashes && self.random.one_in(250) {
            self.disk.crash();
            if !self.defects.lies {
                self.incarnation += 1;
            }
            for path in 0..self.sessions.len() {
                if self.sessions[path].is_some() {
                    self.lose(path, Retry::Soon);
                }
            }
            if self.defects.forgets {
                self.driver.journal.forget(u64::MAX);
            }
        }
        if self.faults.flushes && self.random.one_in(150) {
            self.failing_flushes = 1 + self.random.below(2);
        }
        if self.faults.kills && self.random.one_in(500) {
            self.now = self.now + Duration::from_secs(40);
        }
    }

    fn events(&mut self) {
        let mut completions = VecDeque::new();
        while let Some(event) = self.driver.poll_event() {
            if let Event::Completed(completion) = event {
                completions.push_back(completion);
            }
        }
        for completion in completions {
            let pending = self.pending.remove(&completion.cookie).expect("each completes once");
            match completion.result {
                Ok(()) => self.succeeded(&pending, completion.buffer.as_deref()),
                Err(Error::Io) if self.faults.flushes => self.failed(&pending),
                Err(Error::NoSpace | Error::NoMemory) if self.faults.errors => self.failed(&pending),
                Err(other) => panic!("{:?} failed: {other}", pending.operation),
            }
        }
    }

    fn failed(&mut self, pending: &Pending) {
        if pending.operation.changes_medium() {
            for block in &mut self.blocks[pending.start..pending.start + pending.length] {
                *block = Known { content: None, touched: self.tick };
            }
        }
    }

    fn succeeded(&mut self, pending: &Pending, read: Option<&[u8]>) {
        let &Pending { operation, start, length, fill, asked } = pending;
        let range = start..start + length;
        let content = match operation {
            Operation::Read => {
                let read = read.expect("a read's buffer comes back");
                // A failed flush may show old bytes before it is told of.
                let settled = self.failing_flushes == 0 && !self.faults.flushes;
                for (index, block) in range.clone().zip(read.chunks(BLOCK)) {
                    if let Some(content) = self.blocks[index].content.filter(|_| settled) {
                        assert!(
                            block.iter().all(|&byte| byte == content),
                            "block {index} holds something else"
                        );
                        self.verified += 1;
                    }
                }
                return;
            }
            Operation::Flush => {
                for (index, block) in self.blocks.iter().enumerate() {
                    let bytes = &self.disk.durable()[index * BLOCK..(index + 1) * BLOCK];
                    let changes = |other: &Pending| {
                        other.operation.changes_medium()
                            && (other.start..other.start + other.length).contains(&index)
                    };
                    let settled = block.touched < asked && !self.pending.values().any(changes);
                    if let Some(content) = block.content.filter(|_| settled) {
                        assert!(
                            bytes.iter().all(|&byte| byte == content),
                            "block {index} was flushed, and is not"
                        );
                        self.verified += 1;
                    }
                }
                return;
            }
            Operation::Write { .. } => Some(fill),
            Operation::WriteZeroes { .. } => Some(0),
            _ => None,
        };
        for index in range {
            self.blocks[index] = Known { content, touched: self.tick };
            let bytes = &self.disk.durable()[index * BLOCK..(index + 1) * BLOCK];
            let durable = matches!(
                operation,
                Operation::Write { fua: true } | Operation::WriteZeroes { fua: true, .. }
            );
            if let Some(content) = content.filter(|_| durable) {
                assert!(bytes.iter().all(|&byte| byte == content), "block {index} is not durable");
            }
        }
    }
}

fn nbd_settings(seed: u64, rate: Rate) -> Settings<'static> {
    Settings {
        nbd: storage_nbd::Settings {
            writer: Some(Writer { generation: 1, owner: "test" }),
            ..storage_nbd::Settings::of("disk")
        },
        portals: 1,
        seed,
        rate,
        portals_fence: false,
        assume_durable: false,
    }
}
