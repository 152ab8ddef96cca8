//! Two initiators of one target, what they say step by step, and what must hold of all that they hear.
//!
//! A step is eight bytes, so that every input means something: who, what, which tag, which CDB, how far from right.

use core::num::NonZeroU16;
use kernel_runtime::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use storage_block::{Pool, Share};
use storage_iscsi::wire::{
    DataIn, DataOut, Digests, Header, LogoutRequest, NopOut, RESERVED_TAG, ReadyToTransfer, ScsiCommand,
    SnackRequest, TaskManagementRequest, TextRequest, opcode,
};
use storage_iscsi::{
    Admission, Command, Connection, Event, Function, Limits, LogoutResponse, Outcome, Referenced,
    TargetRecord, Task, TaskManagementResponse,
};
use storage_scsi::testing::Bench;

const START: Instant = Instant::ZERO;
/// Bytes of a step.
pub(crate) const STEP: usize = 8;
/// Steps of an input that are taken.
const STEPS: usize = 48;
/// Bytes that a command may move here.
const MOST: u32 = 8192;
/// Buffers that both sessions have together.
const BUFFERS: usize = 12;
/// Bytes that stand on a connection unread before no more is said on it.
const UNREAD: usize = 64 << 10;

/// A write that waits for its data.
struct Waiting {
    command: Command,
    length: u32,
}

/// One session, and its initiator's account of what it has said and heard.
struct Session {
    connection: Connection,
    nexus: usize,
    waiting: Vec<Waiting>,
    unread: VecDeque<u8>,
    output: Vec<u8>,
    is_over: bool,
    cmd_sn: u32,
    stat_sn: u32,
    wanted: Option<ReadyToTransfer>,
    /// Requests that were said and may still be answered, by code and tag.
    owed: BTreeMap<(u8, u32), u32>,
    /// Data-In that came of the tag, and the most that any command of that tag has room for.
    read: BTreeMap<u32, (u32, u32)>,
    heard: BTreeSet<u8>,
}

/// Two sessions on one target, of which the input is the script.
pub(crate) fn sessions(input: &[u8]) {
    play(input);
}

/// The same; answers the codes of all PDUs that were heard.
pub(crate) fn play(input: &[u8]) -> BTreeSet<u8> {
    let pool = Pool::new(&[(MOST as usize, BUFFERS)]);
    let share = pool.share(usize::MAX / 2);
    let mut bench = crate::lists::bench();
    let mut both = [0, 1].map(Session::new);
    for session in &mut both {
        session.log_in(&mut bench, &share);
    }
    for step in input.chunks_exact(STEP).take(STEPS) {
        let session = &mut both[usize::from(step[0] & 1)];
        if !session.is_over && session.unread.len() < UNREAD {
            session.say(step);
            session.go_on(&mut bench, &share);
        }
        assert!(share.used() <= BUFFERS * MOST as usize, "no more than there is");
    }
    for session in &mut both {
        session.waiting.clear();
        session.connection.close();
    }
    assert_eq!(share.used(), 0, "all buffers came back");
    assert_eq!(bench.data.used() + bench.control.used(), 0, "those of commands too");
    both.into_iter().flat_map(|session| session.heard).collect()
}

impl Session {
    fn new(nexus: usize) -> Self {
        let limits = Limits { commands: 6, immediate: 2, buffers: 16, text: 8192, ..Limits::default() };
        Self {
            connection: Connection::new(&limits, START),
            nexus,
            waiting: Vec::new(),
            unread: VecDeque::new(),
            output: Vec::new(),
            is_over: false,
            // Both numbers wrap soon, on one of them each.
            cmd_sn: if nexus == 0 { 1 } else { u32::MAX - 3 },
            stat_sn: if nexus == 0 { u32::MAX - 3 } else { 0 },
            wanted: None,
            owed: BTreeMap::new(),
            read: BTreeMap::new(),
            heard: BTreeSet::new(),
        }
    }

    fn log_in(&mut self, bench: &mut Bench, share: &Share) {
        let mut login = crate::examples::login(crate::examples::NORMAL);
        login[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        login[28..32].copy_from_slice(&self.stat_sn.to_be_bytes());
        self.owed.insert((opcode::LOGIN_REQUEST, 0), 1);
        self.unread.extend(login);
        self.go_on(bench, share);
        assert!(!self.is_over, "an honest login");
    }

    /// Say what a step means.
    fn say(&mut self, step: &[u8]) {
        let [who, flags, tag, kind, place, count, room, more] = step else { return };
        let (immediate, tag) = (flags & 1 != 0, u32::from(tag & 7));
        // Mostly the right number.
        let is_wrong = flags >> 5 == 7;
        let cmd_sn = if is_wrong { self.cmd_sn.wrapping_add(u32::from(*more)) } else { self.cmd_sn };
        let exp_stat_sn = self.stat_sn;
        let length = u32::from(*room) * 64;
        let (header, data) = match who >> 1 & 7 {
            0..=2 => {
                let write = flags & 2 != 0;
                let carried = if write && flags & 4 != 0 { length.min(u32::from(*more) * 64) } else { 0 };
                let command = ScsiCommand {
                    immediate,
                    last: flags & 8 == 0,
                    read: !write || flags & 16 != 0,
                    write,
                    attribute: more & 7,
                    lun: [0, u8::from(*kind == 0xff), 0, 0, 0, 0, 0, 0],
                    initiator_task_tag: tag,
                    expected_data_transfer_length: length,
                    cmd_sn,
                    exp_stat_sn,
                    cdb: crate::lists::cdb(*kind, *place, *count),
                    ..ScsiCommand::default()
                };
                let (_, room) = self.read.entry(tag).or_default();
                *room = (*room).max(length);
                (command.header(), vec![*more; carried as usize])
            }
            3 | 4 => self.data_out(flags, tag, *count, *more),
            5 => {
                let request = TaskManagementRequest {
                    immediate,
                    function: kind & 15,
                    initiator_task_tag: tag | 8,
                    referenced_task_tag: u32::from(*place & 7),
                    cmd_sn,
                    exp_stat_sn,
                    ref_cmd_sn: cmd_sn.wrapping_sub(u32::from(*count & 7)),
                    ..TaskManagementRequest::default()
                };
                (request.header(), Vec::new())
            }
            6 => {
                let ping = NopOut {
                    immediate,
                    initiator_task_tag: if *kind == 0 { RESERVED_TAG } else { tag },
                    target_transfer_tag: RESERVED_TAG,
                    cmd_sn,
                    exp_stat_sn,
                    ..NopOut::default()
                };
                (ping.header(), vec![*more; usize::from(*room)])
            }
            _ => rare(*kind, (immediate, flags & 8 == 0, tag), (cmd_sn, exp_stat_sn)),
        };
        if !immediate
            && !is_wrong
            && header.opcode() != opcode::DATA_OUT
            && header.opcode() != opcode::SNACK_REQUEST
        {
            self.cmd_sn = cmd_sn.wrapping_add(1);
        }
        *self.owed.entry((header.opcode(), header.initiator_task_tag())).or_default() += 1;
        let mut bytes = Vec::new();
        Digests::default().write(header, &[], &data, &mut bytes);
        self.unread.extend(bytes);
    }

    /// A Data-Out for the last R2T, or nearly.
    fn data_out(&self, flags: &u8, tag: u32, count: u8, more: u8) -> (Header, Vec<u8>) {
        let wanted = self.wanted.unwrap_or_default();
        let is_right = flags & 0x60 != 0;
        let length = if is_right { wanted.desired_data_transfer_length } else { u32::from(count) * 64 };
        let data = DataOut {
            last: flags & 8 == 0,
            initiator_task_tag: if is_right { wanted.initiator_task_tag } else { tag },
            target_transfer_tag: match flags & 3 {
                0 if !is_right => RESERVED_TAG,
                1 if !is_right => wanted.target_transfer_tag.wrapping_add(u32::from(more)),
                _ => wanted.target_transfer_tag,
            },
            data_sn: if flags & 0x70 == 0x70 { u32::from(more) } else { 0 },
            buffer_offset: if is_right { wanted.buffer_offset } else { u32::from(more) * 64 },
            ..DataOut::default()
        };
        (data.header(), vec![more; length.min(MOST) as usize])
    }

    /// Let the target hear, do and say what it can.
    fn go_on(&mut self, bench: &mut Bench, share: &Share) {
        loop {
            let mut moved = false;
            while let Some(event) = self.connection.poll_event() {
                moved = true;
                self.handle(event, bench, share);
            }
            while let Some(bytes) = self.connection.poll_transmit() {
                moved = true;
                assert!(!bytes.is_empty(), "an empty piece would never be sent");
                self.output.extend(bytes);
                let count = bytes.len();
                self.connection.transmitted(count);
            }
            self.hear();
            if self.is_over {
                return;
            }
            let some = self.unread.make_contiguous();
            match self.connection.take(START, some) {
                Ok(0) if !moved => return self.turn_away(bench, share),
                Ok(count) => drop(self.unread.drain(..count)),
                Err(_) => self.is_over = true,
            }
        }
    }

    /// Data that stands next has no place: its command has to try again.
    fn turn_away(&mut self, bench: &mut Bench, share: &Share) {
        if let Some(task) = self.connection.starved() {
            self.waiting.retain(|waiting| waiting.command.task != task);
            self.connection.finish(task, Outcome { status: 8, ..Outcome::good(0) });
            self.go_on(bench, share);
        }
    }

    fn handle(&mut self, event: Event, bench: &mut Bench, share: &Share) {
        match event {
            Event::Login => {
                let tsih = NonZeroU16::MIN.saturating_add(self.nexus as u16);
                self.connection.admit(Admission::Accept { tsih, portal_group_tag: 1 });
            }
            Event::SendTargets => {
                let target = TargetRecord { name: "iqn.2024-01.test:disk", portals: &[] };
                self.connection.answer_send_targets([target]);
            }
            Event::Command(command) => self.begin(command, bench, share),
            Event::Received { task, buffer, .. } => {
                let at = self.waiting.iter().position(|waiting| waiting.command.task == task);
                if let Some(Waiting { command, length }) = at.map(|at| self.waiting.swap_remove(at)) {
                    assert_eq!(buffer.len(), length as usize, "a place is filled whole");
                    let data = buffer.to_vec();
                    drop(buffer);
                    self.execute(&command, &data, bench, share);
                }
            }
            Event::TaskManagement(request) => {
                let end = |session: &mut Self, task: Task| {
                    session.waiting.retain(|waiting| waiting.command.task != task);
                    session.connection.abort(task);
                };
                match (request.function, request.referenced) {
                    (Function::AbortTask, Referenced::Task(task)) => end(self, task),
                    (Function::AbortTask | Function::QueryTask, _) => {}
                    _ => {
                        let tasks: Vec<_> = self.waiting.iter().map(|waiting| waiting.command.task).collect();
                        tasks.into_iter().for_each(|task| end(self, task));
                    }
                }
                let done = TaskManagementResponse::FUNCTION_COMPLETE;
                self.connection.task_management_response(request.task, done);
            }
            Event::Dropped(task) => self.waiting.retain(|waiting| waiting.command.task != task),
            Event::Logout(_) => {
                self.waiting.clear();
                self.connection.logout_response(LogoutResponse::Closed);
            }
            Event::Close => self.is_over = true,
            Event::LoggedIn => {}
        }
    }

    fn begin(&mut self, command: Command, bench: &mut Bench, share: &Share) {
        let length = command.expected_data_transfer_length.min(MOST);
        if !command.write || length == 0 {
            return self.execute(&command, &[], bench, share);
        }
        match share.take(length as usize) {
            Some(buffer) => {
                self.connection.want(command.task, length);
                self.waiting.push(Waiting { command, length });
                self.connection.receive(command.task, 0, buffer);
            }
            None => self.connection.finish(command.task, Outcome { status: 8, ..Outcome::good(0) }),
        }
    }

    fn execute(&mut self, command: &Command, data: &[u8], bench: &mut Bench, share: &Share) {
        let room =
            if command.read && !command.write { command.expected_data_transfer_length.min(MOST) } else { 0 };
        let index = bench.start(bench.nexuses[self.nexus], command.lun, &command.cdb, data, room);
        bench.run_all();
        let slot = bench.slots.remove(index);
        let Some(end) = slot.outcome else { return };
        assert!(slot.data_in.len() <= room as usize, "no more than there is room for");
        if !slot.data_in.is_empty() {
            let Some(mut buffer) = share.take(slot.data_in.len()) else {
                return self.connection.finish(command.task, Outcome { status: 8, ..Outcome::good(0) });
            };
            buffer.copy_from_slice(&slot.data_in);
            self.connection.send(command.task, 0, buffer);
        }
        let transferred = if command.write { end.wanted_out } else { end.wanted_in };
        let outcome =
            Outcome { status: end.status as u8, sense: &end.sense, transferred, bidirectional_read: 0 };
        self.connection.finish(command.task, outcome);
    }

    /// What was said is what may be said: each answer once, for something that was asked, with the next status number.
    fn hear(&mut self) {
        let output = core::mem::take(&mut self.output);
        let mut rest = &output[..];
        while let Some(pdu) = Digests::default().read(rest).expect("no digests") {
            let (header, length) = (pdu.header, pdu.length);
            let tag = header.initiator_task_tag();
            let number = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|n| header.0[at + n]));
            self.cmd_sn = number(28);
            self.heard.insert(header.opcode());
            let answers = match header.opcode() {
                opcode::NOP_IN if tag == RESERVED_TAG => None,
                opcode::READY_TO_TRANSFER => {
                    let wanted = ReadyToTransfer::read(&header);
                    let end = wanted.buffer_offset + wanted.desired_data_transfer_length;
                    assert!(wanted.desired_data_transfer_length > 0 && end <= MOST);
                    self.wanted = Some(wanted);
                    None
                }
                opcode::DATA_IN => self.data_in(&DataIn::read(&header), pdu.data.len()),
                opcode::ASYNC_MESSAGE => panic!("nobody was to be told anything: {header:x?}"),
                opcode::REJECT => {
                    // It is the answer to what it repeats.
                    let rejected: [u8; 48] = pdu.data[..48].try_into().expect("a header");
                    let rejected = Header(rejected);
                    Some((rejected.opcode(), rejected.initiator_task_tag()))
                }
                code => Some((code & 0x1f, tag)),
            };
            if let Some(answered) = answers {
                assert_eq!(number(24), self.stat_sn, "status numbers are consecutive: {header:x?}");
                self.stat_sn = self.stat_sn.wrapping_add(1);
                let owed = self.owed.get_mut(&answered).filter(|owed| **owed > 0);
                *owed.unwrap_or_else(|| panic!("nobody asked for this: {header:x?}")) -= 1;
            }
            rest = &rest[length..];
        }
        self.output = rest.to_vec();
    }

    /// Data-In of a command: without gaps, no more than it has room for. Answers what it ends.
    fn data_in(&mut self, part: &DataIn, length: usize) -> Option<(u8, u32)> {
        let (come, room) = self.read.entry(part.initiator_task_tag).or_default();
        if part.buffer_offset == 0 {
            *come = 0;
        }
        assert_eq!(part.buffer_offset, *come, "no gaps");
        *come += length as u32;
        assert!(*come <= *room, "no more than there is room for");
        part.has_status.then_some((opcode::SCSI_COMMAND, part.initiator_task_tag))
    }
}

/// Text, a SNACK, a logout, or something that is none of an initiator's business.
fn rare(
    kind: u8,
    (immediate, last, tag): (bool, bool, u32),
    (cmd_sn, exp_stat_sn): (u32, u32),
) -> (Header, Vec<u8>) {
    match kind {
        0..=99 => {
            let text = TextRequest {
                immediate,
                last,
                to_be_continued: kind & 1 != 0,
                initiator_task_tag: tag | 16,
                target_transfer_tag: RESERVED_TAG,
                cmd_sn,
                exp_stat_sn,
                ..TextRequest::default()
            };
            (text.header(), b"SendTargets=All\0"[..usize::from(kind & 16)].to_vec())
        }
        100..=179 => {
            let kind = kind & 15;
            (
                SnackRequest { kind, initiator_task_tag: tag, exp_stat_sn, ..SnackRequest::default() }
                    .header(),
                vec![],
            )
        }
        180..=199 => {
            let reason = kind & 3;
            let logout = LogoutRequest {
                immediate,
                reason,
                initiator_task_tag: tag | 32,
                cmd_sn,
                exp_stat_sn,
                ..LogoutRequest::default()
            };
            (logout.header(), vec![])
        }
        _ => {
            let mut header =
                NopOut { immediate, initiator_task_tag: tag, cmd_sn, exp_stat_sn, ..NopOut::default() }
                    .header();
            header.0[0] = header.0[0] & 0x40 | (kind & 0x1f);
            (header, vec![])
        }
    }
}
