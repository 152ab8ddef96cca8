//! That a read and a write allocate nothing on their way through the iSCSI and the SCSI engine, whatever was before.

use allocation_counter::measure;
use kernel_runtime::Instant;
use std::num::NonZeroU16;
use std::time::Duration;
use storage_block::{Buffer, Completion, Geometry, Pool, Request, Share};
use storage_iscsi::wire::{LoginRequest, ScsiCommand};
use storage_iscsi::{Admission, Connection, Event, Limits, Outcome, Task};
use storage_scsi::{
    Arrival, Attribute, Carrier, Command, Identity, Memory, Nexus, Rest, Target, Traits, TransportId, UnitId,
};

const BLOCK: u32 = 4096;
/// Commands in flight together.
const DEPTH: usize = 16;
const NOW: Instant = Instant::ZERO;

/// A connection with a session, a target with a disk, and what lies between them: all that is taken at start.
struct World {
    connection: Connection,
    target: Target,
    nexus: Nexus,
    data: Share,
    control: Share,
    commands: Vec<(Option<Task>, Command)>,
    requests: Vec<(usize, Request)>,
    room: Vec<u8>,
    cmd_sn: u32,
    /// Requests that came to the disk, and bytes that went to the initiator.
    issued: usize,
    heard: usize,
}

impl World {
    fn new() -> Self {
        let mut target = Target::new(
            "iqn.2001-04.com.example:disk",
            storage_scsi::Limits { units: 1, nexuses: 2, commands: 64 },
        );
        let unit = target.add_unit(0, Identity::new([1; 16]), Traits::default()).expect("room");
        target.unit_mut(unit).expect("there").set_geometry(geometry()).expect("a shape");
        let nexus = target.attach(&TransportId::iscsi("iqn.a", [0; 6]).expect("a name")).expect("room");
        let pool = Pool::new(&[(BLOCK as usize, 64), (256 << 10, 16)]);
        let mut world = Self {
            connection: Connection::new(&Limits::default(), NOW),
            target,
            nexus,
            data: pool.share(pool.capacity()),
            control: Pool::new(&[(BLOCK as usize, 4)]).share(usize::MAX / 2),
            commands: (0..DEPTH).map(|_| (None, Command::new())).collect(),
            requests: Vec::with_capacity(64),
            room: vec![0; 1 << 16],
            cmd_sn: 1,
            issued: 0,
            heard: 0,
        };
        world.log_in();
        world
    }

    fn log_in(&mut self) {
        let text = b"InitiatorName=iqn.2001-04.com.example:host\0TargetName=iqn.2001-04.com.example:disk\0\
            SessionType=Normal\0InitialR2T=No\0ImmediateData=Yes\0";
        let login = LoginRequest {
            immediate: true,
            transit: true,
            current_stage: 1,
            next_stage: 3,
            data_segment: text.len() as u32,
            isid: [0x80, 0, 0, 0, 0, 1],
            cmd_sn: self.cmd_sn,
            ..Default::default()
        };
        let mut bytes = login.header().0.to_vec();
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        self.initiator_says(&bytes);
        assert!(!self.connection.parameters().initial_r2t());
        // POWER ON OCCURRED is told once.
        self.initiator_says(&self.command(0, [0; 16], 0, 0));
    }

    /// A command of the initiator.
    fn command(&self, tag: u32, cdb: [u8; 16], write: u32, read: u32) -> [u8; 48] {
        let immediate_data = write.min(BLOCK);
        let command = ScsiCommand {
            last: true,
            read: read > 0,
            write: write > 0,
            attribute: 1,
            data_segment: immediate_data,
            initiator_task_tag: tag,
            expected_data_transfer_length: write + read,
            cmd_sn: self.cmd_sn,
            cdb,
            ..Default::default()
        };
        command.header().0
    }

    fn initiator_says(&mut self, mut bytes: &[u8]) {
        if bytes[0] & 0x40 == 0 {
            self.cmd_sn += 1;
        }
        while !bytes.is_empty() {
            let taken = self.connection.take(NOW, bytes).expect("the connection goes on");
            bytes = &bytes[taken..];
            let has_moved = self.go_on();
            assert!(taken > 0 || has_moved, "stuck");
        }
        self.listen();
    }

    /// Carry events down. Answers whether there were any.
    fn go_on(&mut self) -> bool {
        let mut moved = false;
        while let Some(event) = self.connection.poll_event() {
            moved = true;
            match event {
                Event::Login => {
                    let tsih = NonZeroU16::MIN;
                    self.connection.admit(Admission::Accept { tsih, portal_group_tag: 1 });
                    self.listen();
                }
                Event::Command(command) => {
                    let index =
                        self.commands.iter().position(|(task, _)| task.is_none()).expect("few enough");
                    let (task, slot) = &mut self.commands[index];
                    *task = Some(command.task);
                    let length = command.expected_data_transfer_length;
                    let (data_out, data_in) = if command.write { (length, 0) } else { (0, length) };
                    let (nexus, lun, attribute) = (self.nexus, command.lun, Attribute::Simple);
                    let arrival = Arrival { nexus, lun, cdb: &command.cdb, data_out, data_in, attribute };
                    self.target.begin(slot, &arrival);
                    self.step(index);
                }
                Event::Received { task, offset, buffer } => {
                    let index = self.commands.iter().position(|(of, _)| *of == Some(task)).expect("running");
                    self.commands[index].1.received(offset, buffer);
                    self.step(index);
                }
                _ => {}
            }
        }
        moved
    }

    fn step(&mut self, index: usize) {
        let Self { connection, target, data, control, commands, requests, issued, .. } = self;
        let (task, command) = &mut commands[index];
        let Some(running) = *task else { return };
        let before = requests.len();
        let mut hands = Hands { connection, task: running, index, requests };
        match command.step(target, &Memory { data, lists: control, control }, &mut hands) {
            Rest::Finish(outcome) => {
                let transferred = outcome.wanted_in.max(outcome.wanted_out);
                let (status, sense) = (outcome.status as u8, &*outcome.sense);
                let outcome = Outcome { status, sense, transferred, bidirectional_read: 0 };
                connection.finish(running, outcome);
                *task = None;
            }
            Rest::Wait => {}
            rest => panic!("nothing else is to happen: {rest:?}"),
        }
        *issued += requests.len() - before;
    }

    /// The disk answers all that it was asked.
    fn disk_answers(&mut self) {
        while let Some((index, request)) = self.requests.pop() {
            let Request { cookie, buffer, .. } = request;
            self.commands[index].1.completed(Completion { cookie, result: Ok(()), buffer });
            self.step(index);
        }
        self.listen();
    }

    /// The initiator hears all there is to hear.
    fn listen(&mut self) {
        while self.connection.wants_to_transmit() {
            self.heard += self.connection.fill(&mut self.room);
        }
    }
}

/// What carries for a command.
struct Hands<'a> {
    connection: &'a mut Connection,
    task: Task,
    index: usize,
    requests: &'a mut Vec<(usize, Request)>,
}

impl Carrier for Hands<'_> {
    fn receive(&mut self, offset: u32, buffer: Buffer) {
        self.connection.receive(self.task, offset, buffer);
    }

    fn issue(&mut self, _unit: UnitId, request: Request) {
        self.requests.push((self.index, request));
    }

    fn send(&mut self, offset: u32, buffer: Buffer) {
        self.connection.send(self.task, offset, buffer);
    }

    fn keep(&mut self, _unit: UnitId) {
        panic!("reads and writes keep nothing");
    }
}

fn geometry() -> Geometry {
    Geometry {
        size: 1 << 30,
        block_size: BLOCK,
        preferred_block: BLOCK,
        max_transfer: 32 << 20,
        read_only: false,
        flush: true,
        fua: true,
        trim: false,
        write_zeroes: false,
        fast_zero: false,
        cache: false,
        status: false,
        rotational: false,
    }
}

/// READ (10) or WRITE (10).
fn cdb(opcode: u8, first: u8, blocks: u8) -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[5], cdb[8]) = (opcode, first, blocks);
    cdb
}

/// Allocations of so many rounds of commands, all in flight together.
fn allocations(world: &mut World, rounds: usize, opcode: u8, blocks: u8) -> u64 {
    let bytes = u32::from(blocks) * BLOCK;
    let payload = [7; BLOCK as usize];
    let mut pdu = Vec::with_capacity(48 + payload.len());
    let measured = measure(|| {
        for _ in 0..rounds {
            for tag in 0..DEPTH as u8 {
                let writes = opcode == 0x2a;
                let (write, read) = if writes { (bytes, 0) } else { (0, bytes) };
                pdu.clear();
                pdu.extend(world.command(u32::from(tag), cdb(opcode, 8 * tag, blocks), write, read));
                if writes {
                    pdu.extend(payload);
                }
                world.initiator_says(&pdu);
            }
            world.disk_answers();
        }
    });
    measured.count_total
}

#[test]
fn a_read_and_a_write_allocate_nothing() {
    let mut world = World::new();
    // Buffers are touched when they are first used.
    for (opcode, blocks) in [(0x28, 1), (0x2a, 1), (0x28, 64)] {
        allocations(&mut world, 1, opcode, blocks);
        let (issued, heard) = (world.issued, world.heard);
        assert_eq!(allocations(&mut world, 100, opcode, blocks), 0, "{opcode:#x}, {blocks} blocks");
        assert_eq!(world.issued - issued, 100 * DEPTH, "they came to the disk");
        // In pieces of 8 KiB, as the initiator has said nothing of larger ones.
        let data = if opcode == 0x28 { usize::from(blocks) * BLOCK as usize } else { 0 };
        let expected = data + 48 * data.div_ceil(8192).max(1);
        assert_eq!(world.heard - heard, 100 * DEPTH * expected, "and were answered");
    }
    let due = world.connection.poll_timeout().expect("a session has a clock");
    assert!(due <= NOW + Duration::from_secs(60));
}
