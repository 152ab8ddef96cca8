//! A disk under random requests, a service that answers in random order and shape, and connections that die: what is
//! acknowledged is there, what is read is right, and ghosts change nothing where the quarantine is obeyed.

use super::{Random, drain, share};
use crate::testing::{Disk, Session, Settings, Shape};
use crate::{BlockSizes, Client, Event, Limits, Quarantine, TransmissionFlags};
use core::time::Duration;
use kernel_runtime::Instant;
use std::collections::{BTreeMap, VecDeque};
use storage_block::{Error, Extent, Operation, Request, Share};

const BLOCKS: usize = 128;
const BLOCK: usize = 512;
const HOLD: Duration = Duration::from_secs(30);

/// One run: the client, its services dead and alive, and what must be true of the disk.
struct World {
    random: Random,
    now: Instant,
    settings: Settings,
    client: Client,
    disk: Disk,
    session: Session,
    /// Sessions of dead connections, whose commands may still be executed until the given time.
    ghosts: Vec<(Instant, Session)>,
    quarantine: Quarantine,
    share: Share,
    /// What each block must hold; `None` after a trim.
    expected: Vec<Option<u8>>,
    pending: BTreeMap<u64, (Operation, usize, usize, u8)>,
    again: VecDeque<Request>,
    cookie: u64,
    verified: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut flags = Settings::default().flags.0;
        if random.below(4) == 0 {
            flags &= !TransmissionFlags::SEND_FUA.0;
        }
        let maximum = [512, 1024, 4096, 32 << 20][random.below(4)];
        let settings = Settings {
            flags: TransmissionFlags(flags),
            structured: random.below(3) != 0,
            extended: random.below(3) == 0,
            block_sizes: Some(BlockSizes { minimum: 512, preferred: 512, maximum }),
            ..Settings::default()
        };
        let disk = Disk::new(BLOCKS * BLOCK);
        let limits = Limits { slots: 1 + random.below(8), max_range: 2048, ..Limits::DEFAULT };
        let mut world = Self {
            client: Client::new(&limits, "disk").expect("sound limits"),
            session: Session::new(&settings, &disk),
            random,
            now: Instant::ZERO,
            settings,
            disk,
            ghosts: Vec::new(),
            quarantine: Quarantine::new(4, HOLD),
            share: share(),
            expected: vec![Some(0); BLOCKS],
            pending: BTreeMap::new(),
            again: VecDeque::new(),
            cookie: 0,
            verified: 0,
        };
        world.client.connected(world.now);
        world
    }

    fn submit(&mut self) {
        while let Some(request) = self.again.pop_front() {
            if let Err(request) = self.client.submit(self.now, request) {
                return self.again.push_front(request);
            }
        }
        if self.client.free_slots() == 0 || self.random.below(3) == 0 {
            return;
        }
        let fua = self.random.below(3) == 0;
        let operation = match self.random.below(9) {
            0 => Operation::Flush,
            8 => Operation::Status,
            1 => Operation::Trim { fua },
            2 => Operation::WriteZeroes { fua, no_hole: fua, fast: false },
            3..6 => Operation::Write { fua },
            _ => Operation::Read,
        };
        let length = if operation == Operation::Flush { 0 } else { 1 + self.random.below(12) };
        let start = if length == 0 { 0 } else { self.random.below(BLOCKS - length + 1) };
        let (offset, bytes) = ((start * BLOCK) as u64, (length * BLOCK) as u64);
        // What the maker of requests promises: nothing overlaps a write in flight.
        let clash = self.pending.values().any(|&(other, first, blocks, _)| {
            let both = start < first + blocks && first < start + length;
            both && (operation.changes_medium() || other.changes_medium())
        });
        let held = operation.changes_medium() && self.quarantine.blocked(self.now, offset, bytes).is_some();
        if clash || held {
            return;
        }
        self.cookie += 1;
        let fill = self.random.next() as u8;
        let buffer = operation.carries_data().then(|| {
            let mut buffer = self.share.take(bytes as usize).expect("a buffer");
            buffer.fill(fill);
            buffer
        });
        let room = || self.share.take(super::STATUS).expect("a buffer");
        let buffer = if operation == Operation::Status { Some(room()) } else { buffer };
        let request = Request { cookie: self.cookie, operation, offset, length: bytes, buffer };
        self.client.submit(self.now, request).expect("a slot is free");
        self.pending.insert(self.cookie, (operation, start, length, fill));
    }

    fn events(&mut self) {
        while let Some(event) = self.client.poll_event() {
            let Event::Completed(completion) = event else { continue };
            if completion.result == Err(Error::NotSupported) {
                // Extents, where there are no structured replies.
                let (operation, ..) = self.pending.remove(&completion.cookie).expect("each completes once");
                assert!(
                    operation == Operation::Status && !self.settings.structured && !self.settings.extended
                );
                continue;
            }
            assert_eq!(completion.result, Ok(()));
            let (operation, start, length, fill) =
                self.pending.remove(&completion.cookie).expect("each completes once");
            let range = start..start + length;
            match operation {
                Operation::Read => {
                    let read = completion.buffer.expect("it comes back");
                    for (block, expected) in read.chunks(BLOCK).zip(&self.expected[range]) {
                        let Some(expected) = expected else { continue };
                        assert!(block.iter().all(|byte| byte == expected), "a read found something else");
                        self.verified += 1;
                    }
                }
                Operation::Write { .. } => self.expected[range.clone()].fill(Some(fill)),
                Operation::WriteZeroes { .. } => self.expected[range.clone()].fill(Some(0)),
                Operation::Trim { .. } => self.expected[range.clone()].fill(None),
                Operation::Status => {
                    let told = completion.buffer.expect("it comes back");
                    let mut at = start;
                    for extent in Extent::all(&told) {
                        let blocks = (extent.length as usize).div_ceil(BLOCK);
                        // No write to the range is in flight, so what is zero must be known to be.
                        for expected in self.expected[at..].iter().take(blocks.min(start + length - at)) {
                            assert!(!extent.zero || expected.is_none_or(|expected| expected == 0));
                            self.verified += usize::from(extent.zero);
                        }
                        at = (start + length).min(at + blocks);
                    }
                }
                Operation::Flush | Operation::Cache => {}
            }
            let durable = match operation {
                Operation::Write { fua: true } => Some(fill),
                Operation::WriteZeroes { fua: true, .. } => Some(0),
                _ => None,
            };
            if let Some(fill) = durable {
                let bytes = &self.disk.durable()[start * BLOCK..(start + length) * BLOCK];
                assert!(bytes.iter().all(|&byte| byte == fill), "acknowledged as durable, and is not");
            }
        }
    }

    fn serve(&mut self) {
        let count = self.random.below(1 + self.session.waiting.len());
        for _ in 0..count {
            let index = self.random.below(self.session.waiting.len());
            let shape = Shape::Pieces(self.random.next());
            self.session.execute(&mut self.disk, index, shape);
        }
        // A ghost may strike at any time before its server is done with it.
        if let Some((until, ghost)) = self.ghosts.first_mut() {
            if *until <= self.now || ghost.waiting.is_empty() {
                self.ghosts.swap_remove(0);
            } else if self.random.below(40) == 0 {
                let index = self.random.below(ghost.waiting.len());
                ghost.execute(&mut self.disk, index, Shape::Plain);
            }
        }
    }

    fn transfer(&mut self) {
        if self.random.below(2) == 0 {
            let bytes = drain_some(&mut self.client, self.now, &mut self.random);
            self.session.receive(&bytes);
        }
        let count = match self.random.below(3) {
            0 => 0,
            1 => self.random.below(1 + self.session.output.len()),
            _ => self.session.output.len(),
        };
        let bytes: Vec<u8> = self.session.output.drain(..count).collect();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            if self.random.below(2) == 0 {
                let count = 1 + self.random.below(rest.len());
                let taken = self.client.take(self.now, &rest[..count], &mut ()).expect("a sound server");
                rest = &rest[taken..];
                continue;
            }
            let space = self.client.space();
            let count = space.len().min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            self.client.received(self.now, count).expect("a sound server");
        }
    }

    fn die(&mut self) {
        self.events();
        self.session.assert_obeyed();
        self.client.disconnected(self.now);
        while let Some(unfinished) = self.client.take_unfinished() {
            if let Some((offset, length)) = unfinished.ghost() {
                self.quarantine.hold(self.now, offset, length);
            }
            self.again.push_back(unfinished.request);
        }
        let next = Session::new(&self.settings, &self.disk);
        let mut dead = core::mem::replace(&mut self.session, next);
        // Reads of the dead harm nobody.
        dead.waiting.retain(|waiting| waiting.request.command != crate::wire::command::READ);
        self.ghosts.push((self.now + HOLD, dead));
        self.client.connected(self.now);
    }

    fn run(&mut self, steps: usize) {
        for _ in 0..steps {
            self.now = self.now + Duration::from_millis(10);
            self.submit();
            self.transfer();
            self.serve();
            self.transfer();
            self.events();
            if self.random.below(200) == 0 {
                self.die();
            }
            if self.random.below(400) == 0 {
                self.now = self.now + HOLD;
            }
        }
        // Faults stop: everything must end.
        for _ in 0..4000 {
            if self.pending.is_empty() && self.again.is_empty() {
                break;
            }
            while let Some(request) = self.again.pop_front() {
                if let Err(request) = self.client.submit(self.now, request) {
                    self.again.push_front(request);
                    break;
                }
            }
            self.session.receive(&drain(&mut self.client));
            while !self.session.waiting.is_empty() {
                self.session.execute(&mut self.disk, 0, Shape::Plain);
            }
            let output = core::mem::take(&mut self.session.output);
            super::feed(&mut self.client, &output, usize::MAX).expect("a sound server");
            self.events();
        }
        assert!(self.pending.is_empty() && self.again.is_empty(), "a request was forgotten");
        self.session.assert_obeyed();
    }
}

/// Part of what the client wants to send.
fn drain_some(client: &mut Client, now: Instant, random: &mut Random) -> Vec<u8> {
    let limit = 1 + random.below(8192);
    if random.below(2) == 0 {
        let mut room = vec![0; limit];
        let count = client.fill(now, &mut room);
        room.truncate(count);
        return room;
    }
    let mut all = Vec::new();
    while let Some(bytes) = client.poll_transmit()
        && all.len() < limit
    {
        let count = bytes.len().min(limit - all.len());
        all.extend_from_slice(&bytes[..count]);
        client.transmitted(now, count);
    }
    all
}

#[test]
fn what_is_acknowledged_is_there_whatever_happens_to_connections() {
    let mut verified = 0;
    for seed in super::seeds(150) {
        let mut world = World::new(seed);
        world.run(1500);
        verified += world.verified;
        assert!(world.client.poll_timeout().is_some(), "a connection is never left to itself");
    }
    assert!(verified > 10_000, "the test must see something: {verified}");
}

#[test]
fn without_the_quarantine_ghosts_are_found() {
    // The test above proves something only if this one can fail it.
    let mut found = 0;
    for seed in super::seeds(150) {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.quarantine = Quarantine::new(1, Duration::ZERO);
            world.run(1500);
        });
        found += u32::from(outcome.is_err());
    }
    assert!(found > 3, "hardly a ghost was ever seen: {found}");
}
