//! A disk in memory and a bench that drives commands against it, for tests.
//!
//! The disk checks what a backend is promised: that no two overlapping changes are in flight together, that each request
//! lies within the disk, and that a buffer comes with data and with nothing else. It keeps apart what is written and what
//! is durable. The bench checks what a transport is promised: that Data-In ascends without gaps and that nothing happens
//! after the end.

use crate::{
    Arrival, Attribute, Carrier, Command, Ended, Identity, Limits, Memory, Nexus, Outcome, Rest, SenseData,
    Status, Target, Traits, TransportId, UnitId,
};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;
use storage_block::{Buffer, Completion, Error, Extent, Geometry, Operation, Pool, Request, Share};

/// The geometry of a plain disk that offers everything.
pub fn geometry(blocks: u64, block_size: u32) -> Geometry {
    Geometry {
        size: blocks * u64::from(block_size),
        block_size,
        preferred_block: 4096.max(block_size),
        max_transfer: 32 << 20,
        read_only: false,
        flush: true,
        fua: true,
        trim: true,
        write_zeroes: true,
        cache: true,
        fast_zero: false,
        status: false,
        rotational: false,
    }
}

/// A disk in memory. Requests wait in it until they are completed, in any order.
#[derive(Debug)]
pub struct RamDisk {
    /// What a read returns.
    pub bytes: Vec<u8>,
    /// What a power failure would leave.
    pub durable: Vec<u8>,
    /// Requests that have come and are not completed.
    pub pending: Vec<Request>,
    /// The operations that were completed, with their ranges.
    pub log: Vec<(Operation, u64, u64)>,
    /// An error for the request that begins at this byte, once.
    pub faults: Vec<(Operation, u64, Error)>,
    /// What [`Operation::Status`] tells of the disk from its beginning on; all behind is allocated.
    pub extents: Vec<Extent>,
    /// Keep the buffers of writes that succeed, as a journal does.
    pub keeps: bool,
}

impl RamDisk {
    /// A disk of `size` zero bytes.
    pub fn new(size: u64) -> Self {
        let bytes = vec![0; size as usize];
        let durable = bytes.clone();
        let (pending, log, faults, extents) = Default::default();
        Self { bytes, durable, pending, log, faults, extents, keeps: false }
    }

    /// Take a request.
    ///
    /// # Panics
    /// When it breaks a promise of the engine's.
    pub fn submit(&mut self, request: Request) {
        let end = request.offset.checked_add(request.length).expect("no overflow");
        assert!(end <= self.bytes.len() as u64, "within the disk: {request:?}");
        let carried = request.buffer.as_ref().map(|buffer| buffer.len() as u64);
        if request.operation == Operation::Status {
            assert!(carried.is_some_and(|length| length >= Extent::SIZE as u64), "room: {request:?}");
            self.pending.push(request);
            return;
        }
        let carries = request.operation.carries_data().then_some(request.length);
        assert_eq!(carried, carries, "a buffer of the right length, if any: {request:?}");
        for other in &self.pending {
            let overlap = request.offset < other.offset + other.length && other.offset < end;
            let is_question = other.operation == Operation::Status;
            let changes = request.operation.changes_medium() || other.operation.changes_medium();
            let changes = changes && !is_question;
            assert!(!(overlap && changes), "in flight together: {request:?} and {other:?}");
        }
        self.pending.push(request);
    }

    /// Complete the `index`th of the pending requests.
    pub fn complete(&mut self, index: usize) -> Completion {
        let Request { cookie, operation, offset, length, mut buffer } = self.pending.remove(index);
        let fault = self.faults.iter().position(|&(o, at, _)| o == operation && at == offset);
        if let Some(fault) = fault {
            let (_, _, error) = self.faults.remove(fault);
            return Completion { cookie, result: Err(error), buffer };
        }
        let range = offset as usize..(offset + length) as usize;
        match (operation, buffer.as_deref_mut()) {
            (Operation::Read, Some(buffer)) => buffer.copy_from_slice(&self.bytes[range.clone()]),
            (Operation::Write { .. }, Some(buffer)) => self.bytes[range.clone()].copy_from_slice(buffer),
            (Operation::WriteZeroes { .. }, _) => self.bytes[range.clone()].fill(0),
            // Undefined afterwards, so anything but what a test might hope for.
            (Operation::Trim { .. }, _) => self.bytes[range.clone()].fill(0xdd),
            (Operation::Flush, _) => self.durable.copy_from_slice(&self.bytes),
            (Operation::Status, Some(place)) => {
                let length = self.tell_extents(offset, length, place);
                buffer = buffer.map(|mut buffer| {
                    buffer.truncate(length);
                    buffer
                });
            }
            _ => {}
        }
        if let Operation::Write { fua: true }
        | Operation::Trim { fua: true }
        | Operation::WriteZeroes { fua: true, .. } = operation
        {
            self.durable[range.clone()].copy_from_slice(&self.bytes[range]);
        }
        self.log.push((operation, offset, length));
        buffer.take_if(|_| self.keeps && matches!(operation, Operation::Write { .. }));
        Completion { cookie, result: Ok(()), buffer }
    }

    /// The extents from `offset` on, as far as there is room.
    fn tell_extents(&self, offset: u64, length: u64, place: &mut [u8]) -> usize {
        let (mut start, mut at, mut told) = (0, offset, 0);
        let rest = Extent { length: u64::MAX / 2, hole: false, zero: false };
        for extent in self.extents.iter().chain([&rest]) {
            let end = start + extent.length;
            if end > at && at < offset + length && told + Extent::SIZE <= place.len() {
                let extent = Extent { length: end - at, ..*extent };
                place[told..][..Extent::SIZE].copy_from_slice(&extent.to_bytes());
                (at, told) = (end, told + Extent::SIZE);
            }
            start = end;
        }
        told
    }
}

/// A command on the bench.
#[derive(Debug)]
pub struct Slot {
    /// The command.
    pub command: Command,
    /// What the initiator has for it.
    pub data_out: Vec<u8>,
    /// What has come of it.
    pub data_in: Vec<u8>,
    /// Data-Out that was asked for and not given.
    pub receives: Vec<(u32, Buffer)>,
    /// Its end.
    pub outcome: Option<Outcome>,
    /// What it last said.
    pub waits: &'static str,
}

/// A disk behind another unit of the bench's target, and whose its pending requests are.
#[derive(Debug)]
pub struct Other {
    /// The unit.
    pub unit: UnitId,
    /// Its disk.
    pub disk: RamDisk,
    owners: Vec<usize>,
}

/// What carries for a command on the bench.
struct Hands<'a> {
    index: usize,
    unit: UnitId,
    others: &'a mut Vec<Other>,
    now: Duration,
    random: &'a mut Option<u8>,
    /// Bytes of Data-Out that there are.
    offered: usize,
    moved: bool,
    disk: &'a mut RamDisk,
    owners: &'a mut Vec<usize>,
    receives: &'a mut Vec<(u32, Buffer)>,
    data_in: &'a mut Vec<u8>,
    keeping: &'a mut bool,
}

impl Carrier for Hands<'_> {
    fn receive(&mut self, offset: u32, buffer: Buffer) {
        assert!(offset as usize + buffer.len() <= self.offered, "no more Data-Out than there is");
        self.receives.push((offset, buffer));
        self.moved = true;
    }

    fn issue(&mut self, unit: UnitId, request: Request) {
        self.moved = true;
        if unit == self.unit {
            self.disk.submit(request);
            self.owners.push(self.index);
            return;
        }
        let other = self.others.iter_mut().find(|other| other.unit == unit).expect("a unit of the bench");
        other.disk.submit(request);
        other.owners.push(self.index);
    }

    fn released(&mut self) {
        self.moved = true;
    }

    fn now(&self) -> Duration {
        self.now
    }

    fn random(&mut self) -> Option<[u8; 32]> {
        let byte = (*self.random)?;
        *self.random = Some(byte.wrapping_add(1));
        Some([byte; 32])
    }

    fn send(&mut self, offset: u32, buffer: Buffer) {
        assert_eq!(offset as usize, self.data_in.len(), "Data-In ascends without gaps");
        self.data_in.extend_from_slice(&buffer);
        self.moved = true;
    }

    fn keep(&mut self, unit: UnitId) {
        assert_eq!(unit, self.unit);
        assert!(!core::mem::replace(self.keeping, true), "one at a time");
        self.moved = true;
    }
}

/// A target of one disk, two initiators, and commands between them.
#[derive(Debug)]
pub struct Bench {
    /// The target.
    pub target: Target,
    /// Its unit, number 0.
    pub unit: UnitId,
    /// Two initiators, whose power on unit attentions are out of the way.
    pub nexuses: [Nexus; 2],
    /// The disk behind the unit.
    pub disk: RamDisk,
    /// Buffers for data.
    pub data: Share,
    /// Buffers for parameter lists of commands on the medium.
    pub lists: Share,
    /// Buffers for answers and other parameter lists.
    pub control: Share,
    /// The commands.
    pub slots: Vec<Slot>,
    /// Disks behind more units.
    pub others: Vec<Other>,
    /// What was kept of the unit's reservations.
    pub kept: Vec<u8>,
    /// Whether something is to be kept, and is not.
    pub keeping: bool,
    /// What time it is.
    pub now: Duration,
    /// What the next random bytes are all, if there are any.
    pub random: Option<u8>,
    owners: Vec<usize>,
    aborts: Vec<(UnitId, Nexus)>,
    steps: usize,
}

impl Bench {
    /// A bench with a disk of this shape.
    pub fn new(geometry: Geometry) -> Self {
        Self::with(geometry, Traits::default(), &Pool::new(&[(4096, 32), (65536, 8), (262_144, 8)]))
    }

    /// A bench with everything chosen.
    ///
    /// # Panics
    /// When the geometry is none.
    pub fn with(geometry: Geometry, traits: Traits, pool: &Pool) -> Self {
        let mut target = Target::new("iqn.2024-01.test:disk", Limits { units: 4, nexuses: 4, commands: 64 });
        let unit = target.add_unit(0, Identity::new([0x11; 16]), traits).expect("room");
        target.unit_mut(unit).expect("it").set_geometry(geometry).expect("a geometry");
        target.unit_mut(unit).expect("it").set_readiness(crate::Readiness::Ready);
        let nexuses = ["iqn.a", "iqn.b"].map(|name| {
            let port = TransportId::iscsi(name, [0; 6]).expect("a name");
            target.attach(&port).expect("room")
        });
        let control = Pool::new(&[(4096, 16), (65536, 1)]).share(usize::MAX / 2);
        let lists = Pool::new(&[(4096, 16)]).share(usize::MAX / 2);
        let data = pool.share(usize::MAX / 2);
        let disk = RamDisk::new(geometry.size);
        let (slots, others, kept, owners, aborts) = Default::default();
        let (keeping, steps, now, random) = (false, 0, Duration::ZERO, Some(1));
        let mut bench = Self {
            target,
            unit,
            nexuses,
            disk,
            data,
            lists,
            control,
            slots,
            others,
            now,
            random,
            kept,
            keeping,
            owners,
            aborts,
            steps,
        };
        for nexus in nexuses {
            bench.run_as(nexus, &[0; 6], &[], 0);
        }
        bench
    }

    /// Add a unit with a disk of this shape. The initiators have taken its unit attentions.
    ///
    /// # Panics
    /// When there is no room for it, or the geometry is none.
    pub fn add(&mut self, number: u16, geometry: Geometry) -> UnitId {
        let identity = Identity::new([0x20 | number as u8; 16]);
        let unit = self.target.add_unit(number, identity, Traits::default()).expect("room");
        let added = self.target.unit_mut(unit).expect("it");
        added.set_geometry(geometry).expect("a geometry");
        added.set_readiness(crate::Readiness::Ready);
        self.others.push(Other { unit, disk: RamDisk::new(geometry.size), owners: Vec::new() });
        for nexus in self.nexuses {
            for lun in [0, number as u8] {
                let index = self.start(nexus, [0, lun, 0, 0, 0, 0, 0, 0], &[0; 6], &[], 0);
                self.run_all();
                self.slots.remove(index);
            }
        }
        unit
    }

    /// Begin a command of an initiator.
    pub fn start(&mut self, nexus: Nexus, lun: [u8; 8], cdb: &[u8], data_out: &[u8], room: u32) -> usize {
        self.start_with(nexus, lun, cdb, data_out, room, Attribute::Simple)
    }

    /// Begin a command with a task attribute.
    pub fn start_with(
        &mut self,
        nexus: Nexus,
        lun: [u8; 8],
        cdb: &[u8],
        data_out: &[u8],
        room: u32,
        attribute: Attribute,
    ) -> usize {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        let (cdb, offered) = (&whole, data_out.len() as u32);
        let mut command = Command::new();
        let arrival = Arrival { nexus, lun, cdb, data_out: offered, data_in: room, attribute };
        self.target.begin(&mut command, &arrival);
        self.slots.push(Slot {
            command,
            data_out: data_out.to_vec(),
            data_in: Vec::new(),
            receives: Vec::new(),
            outcome: None,
            waits: "",
        });
        self.slots.len() - 1
    }

    /// Step one command as far as it goes. True if it did anything.
    ///
    /// # Panics
    /// When it breaks a promise of the engine's.
    pub fn step(&mut self, index: usize) -> bool {
        let mut moved = false;
        while self.slots[index].outcome.is_none() {
            let Self {
                target,
                unit,
                disk,
                data,
                lists,
                control,
                slots,
                others,
                now,
                random,
                owners,
                aborts,
                steps,
                keeping,
                ..
            } = self;
            let memory = Memory { data, lists, control };
            let Slot { command, data_out, data_in, receives, outcome, waits } = &mut slots[index];
            let (unit, offered) = (*unit, data_out.len());
            let mut hands = Hands {
                index,
                unit,
                others,
                now: *now,
                random,
                offered,
                moved: false,
                disk,
                owners,
                receives,
                data_in,
                keeping,
            };
            // Every other time the short way is tried before the long one, as a transport does.
            *steps += 1;
            let ended = if *steps % 2 == 0 { command.end(target) } else { None };
            let rest = match ended {
                Some(Ended { data, wanted_out, wanted_in }) => {
                    if let Some(buffer) = data {
                        hands.send(0, buffer);
                    }
                    let (status, sense) = (Status::Good, SenseData::default());
                    Rest::Finish(Outcome { status, sense, wanted_out, wanted_in })
                }
                None => command.step(target, &memory, &mut hands),
            };
            moved |= hands.moved;
            match rest {
                Rest::Abort { unit, nexus } => aborts.push((unit, nexus)),
                Rest::Finish(end) => {
                    assert!(command.is_quiet(), "nothing is in flight at the end");
                    *outcome = Some(end);
                }
                Rest::Starved | Rest::Blocked | Rest::Wait => {
                    *waits = match rest {
                        Rest::Starved => "starved",
                        Rest::Blocked => "blocked",
                        _ => "waits",
                    };
                    break;
                }
            }
            moved = true;
        }
        for (unit, nexus) in core::mem::take(&mut self.aborts) {
            for slot in &mut self.slots {
                if slot.outcome.is_none() && slot.command.concerns(unit) && slot.command.nexus() == nexus {
                    slot.command.abort();
                    slot.receives.clear();
                }
            }
        }
        moved
    }

    /// Step all commands until none moves.
    pub fn step_all(&mut self) {
        loop {
            let moved = (0..self.slots.len()).filter(|&index| self.step(index)).count();
            if moved == 0 {
                break;
            }
        }
    }

    /// Give a command the first Data-Out it has asked for.
    pub fn give(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let (offset, mut buffer) = slot.receives.remove(0);
        let start = offset as usize;
        let end = start + buffer.len();
        buffer.copy_from_slice(&slot.data_out[start..end]);
        slot.command.received(offset, buffer);
    }

    /// Complete the `index`th pending request of the disk.
    pub fn complete(&mut self, index: usize) {
        let completion = self.disk.complete(index);
        let owner = self.owners.remove(index);
        self.slots[owner].command.completed(completion);
    }

    /// Complete the `index`th pending request of the `other`th other disk.
    pub fn complete_other(&mut self, other: usize, index: usize) {
        let Other { disk, owners, .. } = &mut self.others[other];
        let (completion, owner) = (disk.complete(index), owners.remove(index));
        self.slots[owner].command.completed(completion);
    }

    /// What is to be kept of the unit's reservations is, or cannot be. Answers whose commands nobody aborts.
    pub fn keep(&mut self, durable: bool) -> Vec<Nexus> {
        if durable && let Some(bytes) = self.target.to_keep(self.unit) {
            assert!(bytes.len() <= crate::LONGEST_KEPT, "no more than was said");
            self.kept = bytes;
        }
        self.keeping = false;
        self.target.kept(self.unit, durable).collect()
    }

    /// Run everything to its end. Requests are completed last in, first out, which is as good an order as any.
    ///
    /// # Panics
    /// When commands wait for each other, or for nothing.
    pub fn run_all(&mut self) {
        loop {
            self.step_all();
            let asks = self.slots.iter().position(|slot| !slot.receives.is_empty());
            if let Some(index) = asks {
                self.give(index);
            } else if !self.disk.pending.is_empty() {
                self.complete(self.disk.pending.len() - 1);
            } else if let Some(other) = self.others.iter().position(|other| !other.disk.pending.is_empty()) {
                self.complete_other(other, self.others[other].disk.pending.len() - 1);
            } else if self.keeping {
                self.keep(true);
            } else {
                break;
            }
        }
        for slot in &self.slots {
            assert!(slot.outcome.is_some(), "stuck: {:?} {}", slot.command, slot.waits);
        }
    }

    /// Run one command of the first initiator.
    pub fn run(&mut self, cdb: &[u8], data_out: &[u8], room: u32) -> (Outcome, Vec<u8>) {
        self.run_as(self.nexuses[0], cdb, data_out, room)
    }

    /// Run one command.
    ///
    /// # Panics
    /// When it does not come to an end.
    pub fn run_as(&mut self, nexus: Nexus, cdb: &[u8], data_out: &[u8], room: u32) -> (Outcome, Vec<u8>) {
        let index = self.start(nexus, [0; 8], cdb, data_out, room);
        self.run_all();
        assert_eq!(self.data.used() + self.lists.used() + self.control.used(), 0, "all buffers are back");
        let slot = self.slots.remove(index);
        (slot.outcome.expect("run to its end"), slot.data_in)
    }
}
