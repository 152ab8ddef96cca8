//! A session in full feature phase: commands, their data and their answers, several at a time.

use super::peer::{Heard, Peer, SOON, Who};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};
use storage_iscsi::wire::{
    DataIn, DataOut, Header, LoginResponse, NopIn, NopOut, RESERVED_TAG, ReadyToTransfer, Reject,
    ScsiCommand, ScsiResponse, SerialNumber, TaskManagementRequest, TaskManagementResponse, opcode,
};

pub(crate) const GOOD: u8 = 0x00;
pub(crate) const CHECK_CONDITION: u8 = 0x02;
pub(crate) const BUSY: u8 = 0x08;
/// Every disk here has blocks of so many bytes.
pub(crate) const BLOCK: usize = 512;

/// What a session is opened with: data that nobody asked for may come with a command, and may be long.
const KEYS: &[(&str, &str)] = &[
    ("HeaderDigest", "None"),
    ("DataDigest", "None"),
    ("InitialR2T", "No"),
    ("ImmediateData", "Yes"),
    ("FirstBurstLength", "65536"),
    ("MaxBurstLength", "262144"),
    ("MaxRecvDataSegmentLength", "262144"),
];

/// How a command ended.
#[derive(Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u8,
    /// Key, code and qualifier.
    pub(crate) sense: Option<(u8, u8, u8)>,
    pub(crate) data: Vec<u8>,
    pub(crate) overflow: bool,
    pub(crate) underflow: bool,
    pub(crate) residual: u32,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, sense, data, overflow, underflow, residual } = self;
        let begin = &data[..data.len().min(4)];
        write!(f, "status {status:#04x}, sense {sense:x?}, {} bytes {begin:x?}, ", data.len())?;
        write!(f, "overflow {overflow}, underflow {underflow}, residual {residual}")
    }
}

impl Answer {
    /// Fails unless it is GOOD.
    pub(crate) fn good(self) -> Result<Self, String> {
        if self.status == GOOD {
            Ok(self)
        } else {
            Err(format!("status {:#04x}, sense {:x?}", self.status, self.sense))
        }
    }
}

/// A command that was sent.
#[derive(Default)]
struct Pending {
    lun: [u8; 8],
    out: Vec<u8>,
    read: Vec<u8>,
    answer: Option<Answer>,
}

/// A session with one connection.
pub(crate) struct Session {
    pub(crate) peer: Peer,
    pub(crate) cmd_sn: u32,
    /// Up to where the target takes commands; for who keeps to it.
    max_cmd_sn: u32,
    pub(crate) exp_stat_sn: u32,
    tag: u32,
    /// The longest data segment that the target takes.
    segment: usize,
    pending: BTreeMap<u32, Pending>,
    /// Answers to pings and to task management, by tag.
    answered: BTreeMap<u32, u8>,
    /// Reasons of the Rejects that came.
    pub(crate) rejects: Vec<u8>,
}

/// The LUN field of unit `n` below 256.
pub(crate) fn lun(n: u8) -> [u8; 8] {
    [0, n, 0, 0, 0, 0, 0, 0]
}

/// READ (10).
pub(crate) fn read10(block: u32, count: u16) -> [u8; 16] {
    transfer10(0x28, block, count)
}

/// WRITE (10).
pub(crate) fn write10(block: u32, count: u16) -> [u8; 16] {
    transfer10(0x2a, block, count)
}

/// SYNCHRONIZE CACHE (10) of the whole disk.
pub(crate) const SYNCHRONIZE_CACHE: [u8; 16] = [0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn transfer10(code: u8, block: u32, count: u16) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[2..6].copy_from_slice(&block.to_be_bytes());
    cdb[7..9].copy_from_slice(&count.to_be_bytes());
    cdb
}

impl Session {
    /// Logs in, and takes the unit attention that a new nexus begins with.
    pub(crate) fn open(who: &Who) -> Self {
        Self::open_with(Peer::connect(), who, &[]).unwrap()
    }

    /// Logs in on `peer`; `keys` take the place of those of the same name, or come behind.
    pub(crate) fn open_with(peer: Peer, who: &Who, keys: &[(&str, &str)]) -> Result<Self, String> {
        let mut session = Self::open_silently(peer, who, keys)?;
        session.settle()?;
        Ok(session)
    }

    /// The same, and not a command yet.
    pub(crate) fn open_silently(mut peer: Peer, who: &Who, keys: &[(&str, &str)]) -> Result<Self, String> {
        let kept = KEYS.iter().filter(|(key, _)| keys.iter().all(|(other, _)| key != other));
        let all: Vec<_> = kept.chain(keys).copied().collect();
        let (response, segment) = peer.log_in(who, &all)?;
        peer.digests.header = keys.contains(&("HeaderDigest", "CRC32C"));
        peer.digests.data = keys.contains(&("DataDigest", "CRC32C"));
        Ok(Self::begun(peer, &response, segment))
    }

    /// The session that begins with the last response of a login; the target takes data segments of `segment` bytes.
    pub(crate) fn begun(peer: Peer, response: &LoginResponse, segment: usize) -> Self {
        Self {
            peer,
            cmd_sn: response.exp_cmd_sn,
            max_cmd_sn: response.max_cmd_sn,
            exp_stat_sn: response.stat_sn.wrapping_add(1),
            tag: 0x100,
            segment,
            pending: BTreeMap::new(),
            answered: BTreeMap::new(),
            rejects: Vec::new(),
        }
    }

    /// The longest data segment that the target takes.
    pub(crate) fn segment(&self) -> usize {
        self.segment
    }

    /// Names no unit in the data that R2Ts ask for this command's.
    pub(crate) fn leave_out_unit(&mut self, tag: u32) {
        self.pending.entry(tag).and_modify(|pending| pending.lun = lun(0));
    }

    /// TEST UNIT READY until there is no unit attention to tell.
    pub(crate) fn settle(&mut self) -> Result<(), String> {
        for _ in 0..8 {
            match self.run(lun(0), &[0; 16], &[], 0)? {
                Answer { sense: Some((6, ..)), .. } => {}
                _ => return Ok(()),
            }
        }
        Err("unit attentions without end".into())
    }

    /// A tag that no task has.
    pub(crate) fn tag(&mut self) -> u32 {
        self.tag += 1;
        self.tag
    }

    /// The next place in the command sequence, which is taken.
    pub(crate) fn number(&mut self) -> u32 {
        let number = self.cmd_sn;
        self.cmd_sn = number.wrapping_add(1);
        number
    }

    /// Whether the window has room for another command. What is sent all the same is ignored, its number with it.
    pub(crate) fn has_room(&self) -> bool {
        !SerialNumber(self.max_cmd_sn).is_before(SerialNumber(self.cmd_sn))
    }

    /// A command in sequence that is complete in itself: `out` goes with it, `expected` bytes may come back.
    pub(crate) fn command(&mut self, lun: [u8; 8], cdb: &[u8; 16], out: usize, expected: u32) -> ScsiCommand {
        ScsiCommand {
            last: true,
            read: out == 0 && expected > 0,
            write: out > 0,
            attribute: 1,
            lun,
            initiator_task_tag: self.tag(),
            expected_data_transfer_length: if out > 0 { u32::try_from(out).unwrap() } else { expected },
            cmd_sn: self.number(),
            exp_stat_sn: self.exp_stat_sn,
            cdb: *cdb,
            ..ScsiCommand::default()
        }
    }

    /// Makes a place for the answer to a command that was sent by hand.
    pub(crate) fn expect(&mut self, command: &ScsiCommand) {
        self.pending.insert(command.initiator_task_tag, Pending { lun: command.lun, ..Pending::default() });
    }

    /// Sends a command with `now` of its data `out`; the rest is given when it is asked for.
    pub(crate) fn send(&mut self, command: &ScsiCommand, out: &[u8], now: usize) -> u32 {
        let tag = command.initiator_task_tag;
        self.pending.insert(tag, Pending { lun: command.lun, out: out.to_vec(), ..Pending::default() });
        self.peer.say(command.header(), &out[..now]);
        tag
    }

    /// Begins a command whose data, if any, comes with it as far as a first burst allows.
    pub(crate) fn begin(&mut self, lun: [u8; 8], cdb: &[u8; 16], out: &[u8], expected: u32) -> u32 {
        let command = self.command(lun, cdb, out.len(), expected);
        self.send(&command, out, out.len().min(65536).min(self.segment))
    }

    /// Runs a command to its end.
    pub(crate) fn run(
        &mut self,
        lun: [u8; 8],
        cdb: &[u8; 16],
        out: &[u8],
        expected: u32,
    ) -> Result<Answer, String> {
        let tag = self.begin(lun, cdb, out, expected);
        self.finish(tag, SOON)
    }

    /// Waits for the end of a command.
    pub(crate) fn finish(&mut self, tag: u32, limit: Duration) -> Result<Answer, String> {
        let end = Instant::now() + limit;
        while !self.is_done(tag) {
            self.step(end).map_err(|error| format!("task {tag:#x}: {error}"))?;
        }
        let pending = self.pending.remove(&tag).unwrap();
        Ok(Answer { data: pending.read, ..pending.answer.unwrap() })
    }

    /// Forgets the commands that have ended, and tells how many there were.
    pub(crate) fn forget_ended(&mut self) -> usize {
        let before = self.pending.len();
        self.pending.retain(|_, pending| pending.answer.is_none());
        before - self.pending.len()
    }

    /// Whether a command has ended.
    pub(crate) fn is_done(&self, tag: u32) -> bool {
        self.pending.get(&tag).is_some_and(|pending| pending.answer.is_some())
    }

    /// Forgets a command that was aborted.
    pub(crate) fn forget(&mut self, tag: u32) {
        self.pending.remove(&tag);
    }

    /// Pings, and tells how long the answer took.
    pub(crate) fn ping(&mut self) -> Result<Duration, String> {
        let tag = self.tag();
        let ping = NopOut {
            immediate: true,
            initiator_task_tag: tag,
            target_transfer_tag: RESERVED_TAG,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ..NopOut::default()
        };
        let start = Instant::now();
        self.peer.say(ping.header(), b"ping");
        self.answer(tag).map_err(|error| format!("ping: {error}"))?;
        Ok(start.elapsed())
    }

    /// A task management function, and its response code.
    pub(crate) fn manage(&mut self, function: u8, lun: [u8; 8], task: (u32, u32)) -> Result<u8, String> {
        let tag = self.manage_later(function, lun, task);
        self.answer(tag).map_err(|error| format!("task management {function}: {error}"))
    }

    /// Sends a task management function whose response is for [`Self::answer`].
    pub(crate) fn manage_later(&mut self, function: u8, lun: [u8; 8], task: (u32, u32)) -> u32 {
        let tag = self.tag();
        let request = TaskManagementRequest {
            immediate: true,
            function,
            lun,
            initiator_task_tag: tag,
            referenced_task_tag: task.0,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ref_cmd_sn: task.1,
            ..TaskManagementRequest::default()
        };
        self.peer.say(request.header(), &[]);
        tag
    }

    /// Waits for the answer to a ping or to task management.
    pub(crate) fn answer(&mut self, tag: u32) -> Result<u8, String> {
        let end = Instant::now() + SOON;
        loop {
            if let Some(answer) = self.answered.remove(&tag) {
                return Ok(answer);
            }
            self.step(end)?;
        }
    }

    /// Whether a ping or a function has its answer.
    pub(crate) fn is_answered(&self, tag: u32) -> bool {
        self.answered.contains_key(&tag)
    }

    /// Takes in whatever comes for a while.
    pub(crate) fn listen(&mut self, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        while Instant::now() < end {
            match self.step(end) {
                Err(error) if error == SILENCE => return Ok(()),
                outcome => outcome?,
            }
        }
        Ok(())
    }

    /// Takes in the next PDU.
    pub(crate) fn step(&mut self, end: Instant) -> Result<(), String> {
        match self.peer.hear(end.saturating_duration_since(Instant::now())) {
            Heard::Pdu(header, data) => self.take(&header, &data),
            Heard::Closed => Err("the target closed the connection".into()),
            Heard::Nothing => Err(SILENCE.into()),
        }
    }

    fn take(&mut self, header: &Header, data: &[u8]) -> Result<(), String> {
        let tag = header.initiator_task_tag();
        // It stands at the same place in all that a target says.
        let max_cmd_sn = NopIn::read(header).max_cmd_sn;
        if SerialNumber(self.max_cmd_sn).is_before(SerialNumber(max_cmd_sn)) {
            self.max_cmd_sn = max_cmd_sn;
        }
        match header.opcode() {
            opcode::SCSI_RESPONSE => {
                let response = ScsiResponse::read(header);
                self.exp_stat_sn = response.stat_sn.wrapping_add(1);
                if let Some(pending) = self.pending.get_mut(&tag) {
                    pending.answer = Some(Answer {
                        status: response.status,
                        sense: data.get(2..).and_then(sense),
                        overflow: response.overflow,
                        underflow: response.underflow,
                        residual: response.residual_count,
                        data: Vec::new(),
                    });
                }
            }
            opcode::DATA_IN => self.data_in(&DataIn::read(header), data)?,
            opcode::READY_TO_TRANSFER => self.give(&ReadyToTransfer::read(header)),
            opcode::NOP_IN => self.pong(&NopIn::read(header), data),
            opcode::TASK_MANAGEMENT_RESPONSE => {
                let response = TaskManagementResponse::read(header);
                self.exp_stat_sn = response.stat_sn.wrapping_add(1);
                self.answered.insert(tag, response.response);
            }
            opcode::REJECT => {
                let reject = Reject::read(header);
                self.exp_stat_sn = reject.stat_sn.wrapping_add(1);
                self.rejects.push(reject.reason);
            }
            opcode::TEXT_RESPONSE | opcode::LOGOUT_RESPONSE => {
                self.exp_stat_sn = self.exp_stat_sn.wrapping_add(1);
                self.answered.insert(tag, header.0[2]);
            }
            other => return Err(format!("a PDU of code {other:#04x}")),
        }
        Ok(())
    }

    fn data_in(&mut self, part: &DataIn, data: &[u8]) -> Result<(), String> {
        if part.has_status {
            self.exp_stat_sn = part.stat_sn.wrapping_add(1);
        }
        let Some(pending) = self.pending.get_mut(&part.initiator_task_tag) else { return Ok(()) };
        if usize::try_from(part.buffer_offset).unwrap() != pending.read.len() {
            return Err(format!("data for {} where {} was next", part.buffer_offset, pending.read.len()));
        }
        pending.read.extend(data);
        if part.has_status {
            pending.answer = Some(Answer {
                status: part.status,
                overflow: part.overflow,
                underflow: part.underflow,
                residual: part.residual_count,
                ..Answer::default()
            });
        }
        Ok(())
    }

    /// Gives the data that an R2T asks for, if its task has any.
    fn give(&mut self, wanted: &ReadyToTransfer) {
        let Some(pending) = self.pending.get(&wanted.initiator_task_tag) else { return };
        let start = usize::try_from(wanted.buffer_offset).unwrap();
        let end = start + usize::try_from(wanted.desired_data_transfer_length).unwrap();
        let Some(data) = pending.out.get(start..end) else { return };
        let first = DataOut { lun: pending.lun, last: false, ..data_out(wanted, self.exp_stat_sn) };
        let mut offset = wanted.buffer_offset;
        for (data_sn, part) in (0..).zip(data.chunks(self.segment)) {
            let next = offset + u32::try_from(part.len()).unwrap();
            let last = next == wanted.buffer_offset + wanted.desired_data_transfer_length;
            self.peer.say(DataOut { last, data_sn, buffer_offset: offset, ..first }.header(), part);
            offset = next;
        }
    }

    fn pong(&mut self, ping: &NopIn, data: &[u8]) {
        if ping.initiator_task_tag != RESERVED_TAG {
            self.exp_stat_sn = ping.stat_sn.wrapping_add(1);
            self.answered.insert(ping.initiator_task_tag, 0);
        }
        if ping.target_transfer_tag != RESERVED_TAG {
            let answer = NopOut {
                immediate: true,
                lun: ping.lun,
                initiator_task_tag: RESERVED_TAG,
                target_transfer_tag: ping.target_transfer_tag,
                cmd_sn: self.cmd_sn,
                exp_stat_sn: self.exp_stat_sn,
                ..NopOut::default()
            };
            self.peer.say(answer.header(), data);
        }
    }
}

/// What [`Session::step`] says when nothing came.
pub(crate) const SILENCE: &str = "nothing came in time";

/// The one Data-Out that answers an R2T.
pub(crate) fn data_out(wanted: &ReadyToTransfer, exp_stat_sn: u32) -> DataOut {
    DataOut {
        last: true,
        initiator_task_tag: wanted.initiator_task_tag,
        target_transfer_tag: wanted.target_transfer_tag,
        buffer_offset: wanted.buffer_offset,
        exp_stat_sn,
        ..DataOut::default()
    }
}

/// Key, code and qualifier of sense data in either format.
fn sense(bytes: &[u8]) -> Option<(u8, u8, u8)> {
    match bytes.first()? & 0x7f {
        0x72 | 0x73 => Some((bytes.get(1)? & 15, *bytes.get(2)?, *bytes.get(3)?)),
        _ => Some((bytes.get(2)? & 15, *bytes.get(12)?, *bytes.get(13)?)),
    }
}
