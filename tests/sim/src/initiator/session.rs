//! One iSCSI session on one connection, from the initiator's end: sequence numbers, data and answers, each held to what
//! RFC 7143 promises.

use super::command::{Answer, GOOD, Op, Task};
use crate::bug::Bug;
use kernel_runtime::Instant;
use std::collections::BTreeMap;
use storage_iscsi::wire::text::{Writer, number, pairs};
use storage_iscsi::wire::{
    DataIn, DataOut, Digests, Header, LoginRequest, LoginResponse, NopIn, NopOut, RESERVED_TAG,
    ReadyToTransfer, ScsiCommand, ScsiResponse, SerialNumber, TaskManagementRequest, TaskManagementResponse,
    opcode,
};

/// Why a PDU was rejected (RFC 7143 section 11.17.1).
const DATA_DIGEST_ERROR: u8 = 2;
/// Every how many answers a planted bug strikes.
const STRIKES: u32 = 40;

/// What the initiator would like of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    pub(crate) digests: Digests,
    pub(crate) initial_r2t: bool,
    pub(crate) immediate_data: bool,
    /// Bytes we take in one Data-In.
    pub(crate) max_recv: u32,
    pub(crate) max_burst: u32,
    pub(crate) first_burst: u32,
    pub(crate) outstanding_r2t: u32,
    /// The first CmdSN: sequence numbers wrap.
    pub(crate) cmd_sn: u32,
}

/// What the session has become by negotiation.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    initial_r2t: bool,
    immediate_data: bool,
    max_send: usize,
    first_burst: usize,
}

/// A task management function under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Management {
    pub(crate) tag: u32,
    pub(crate) invoked: Instant,
    pub(crate) what: Function,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Function {
    Abort(u32),
    Reset(usize),
}

/// What came of bytes from the target.
#[derive(Debug)]
pub(crate) enum Heard {
    LoggedIn,
    /// The login was refused.
    Refused,
    Answered(Task, Answer),
    Managed(Management),
    Pong(Instant),
    /// The target wants us gone, or does not understand us.
    Farewell,
}

pub(crate) struct Session {
    input: Vec<u8>,
    pub(crate) output: Vec<u8>,
    pub(crate) wishes: Wishes,
    agreed: Agreed,
    digests: Digests,
    pub(crate) is_up: bool,
    cmd_sn: u32,
    exp_stat_sn: Option<u32>,
    max_cmd_sn: SerialNumber,
    tag: u32,
    pub(crate) tasks: BTreeMap<u32, Task>,
    pub(crate) managing: BTreeMap<u32, Management>,
    pub(crate) ping: Option<(u32, Instant)>,
    block: usize,
    bug: Option<Bug>,
    answers: u32,
    /// A digest did not match, at either end.
    is_damaged: bool,
}

impl Session {
    pub(crate) fn new(
        names: &[(&str, &str)],
        isid: [u8; 6],
        wishes: Wishes,
        block: usize,
        bug: Option<Bug>,
    ) -> Self {
        let mut session = Self {
            input: Vec::new(),
            output: Vec::new(),
            wishes,
            agreed: Agreed { initial_r2t: true, immediate_data: true, max_send: 8192, first_burst: 65_536 },
            digests: Digests::default(),
            is_up: false,
            cmd_sn: wishes.cmd_sn,
            exp_stat_sn: None,
            max_cmd_sn: SerialNumber(wishes.cmd_sn),
            tag: 0,
            tasks: BTreeMap::new(),
            managing: BTreeMap::new(),
            ping: None,
            block,
            bug,
            answers: 0,
            is_damaged: false,
        };
        let text = session.text(names);
        let request = LoginRequest {
            immediate: true,
            transit: true,
            current_stage: 1,
            next_stage: 3,
            isid,
            initiator_task_tag: 1,
            cmd_sn: wishes.cmd_sn,
            ..LoginRequest::default()
        };
        session.say(request.header(), &text);
        session
    }

    fn text(&self, names: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        let mut writer = Writer::new(&mut bytes);
        let yes = |yes: bool| if yes { "Yes" } else { "No" };
        let digest = |wanted: bool| if wanted { "CRC32C" } else { "None" };
        let wishes = &self.wishes;
        let mut put = |key: &str, value: &dyn core::fmt::Display| {
            writer.pair(key, value).expect("a login of ours is short");
        };
        for (key, value) in names {
            put(key, value);
        }
        put("HeaderDigest", &digest(wishes.digests.header));
        put("DataDigest", &digest(wishes.digests.data));
        put("InitialR2T", &yes(wishes.initial_r2t));
        put("ImmediateData", &yes(wishes.immediate_data));
        put("MaxRecvDataSegmentLength", &wishes.max_recv);
        put("MaxBurstLength", &wishes.max_burst);
        put("FirstBurstLength", &wishes.first_burst);
        put("MaxOutstandingR2T", &wishes.outstanding_r2t);
        put("MaxConnections", &1);
        put("ErrorRecoveryLevel", &0);
        put("DataPDUInOrder", &"Yes");
        put("DataSequenceInOrder", &"Yes");
        let length = writer.length();
        bytes.truncate(length);
        bytes
    }

    fn say(&mut self, header: Header, data: &[u8]) {
        self.digests.write(header, &[], data, &mut self.output);
    }

    fn next_tag(&mut self) -> u32 {
        self.tag += 1;
        self.tag
    }

    fn exp_stat_sn(&self) -> u32 {
        self.exp_stat_sn.unwrap_or(0)
    }

    /// Whether the target has room for another command.
    pub(crate) fn has_window(&self) -> bool {
        self.is_up && !self.max_cmd_sn.is_before(SerialNumber(self.cmd_sn))
    }

    /// Give a command.
    pub(crate) fn command(&mut self, now: Instant, unit: usize, op: Op, data: Vec<u8>) {
        let tag = self.next_tag();
        let takes = op.takes(self.block);
        let Agreed { initial_r2t, immediate_data, max_send, first_burst } = self.agreed;
        let immediate = if immediate_data { data.len().min(max_send).min(first_burst) } else { 0 };
        let unsolicited = if initial_r2t { immediate } else { data.len().min(first_burst).max(immediate) };
        let command = ScsiCommand {
            last: unsolicited == immediate,
            read: takes > 0,
            write: !data.is_empty(),
            attribute: 1,
            lun: lun(unit),
            initiator_task_tag: tag,
            expected_data_transfer_length: (takes + data.len()) as u32,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
            cdb: op.cdb(),
            ..ScsiCommand::default()
        };
        self.say(command.header(), &data[..immediate]);
        let task = Task {
            unit,
            op,
            invoked: now,
            cmd_sn: self.cmd_sn,
            data_out: data,
            data_in: vec![0; takes],
            got: 0,
            data_sn: 0,
            r2t_sn: 0,
            abort_at: None,
            is_aborting: false,
        };
        self.cmd_sn = self.cmd_sn.wrapping_add(1);
        if unsolicited > immediate {
            self.data_out(&task, tag, RESERVED_TAG, immediate..unsolicited);
        }
        self.tasks.insert(tag, task);
    }

    fn data_out(&mut self, task: &Task, tag: u32, transfer: u32, range: core::ops::Range<usize>) {
        let mut offset = range.start;
        let mut data_sn = 0;
        while offset < range.end {
            let length = (range.end - offset).min(self.agreed.max_send);
            let pdu = DataOut {
                last: offset + length == range.end,
                lun: lun(task.unit),
                initiator_task_tag: tag,
                target_transfer_tag: transfer,
                exp_stat_sn: self.exp_stat_sn(),
                data_sn,
                buffer_offset: offset as u32,
                ..DataOut::default()
            };
            self.digests.write(pdu.header(), &[], &task.data_out[offset..offset + length], &mut self.output);
            offset += length;
            data_sn += 1;
        }
    }

    pub(crate) fn abort(&mut self, now: Instant, tag: u32) {
        let Some(task) = self.tasks.get_mut(&tag) else { return };
        task.is_aborting = true;
        let (unit, ref_cmd_sn) = (task.unit, task.cmd_sn);
        self.manage(now, Function::Abort(tag), 1, unit, tag, ref_cmd_sn);
    }

    pub(crate) fn reset(&mut self, now: Instant, unit: usize) {
        self.manage(now, Function::Reset(unit), 5, unit, RESERVED_TAG, 0);
    }

    fn manage(
        &mut self,
        now: Instant,
        what: Function,
        code: u8,
        unit: usize,
        referenced: u32,
        ref_cmd_sn: u32,
    ) {
        let tag = self.next_tag();
        let request = TaskManagementRequest {
            immediate: true,
            function: code,
            lun: lun(unit),
            initiator_task_tag: tag,
            referenced_task_tag: referenced,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
            ref_cmd_sn,
            ..TaskManagementRequest::default()
        };
        self.say(request.header(), &[]);
        self.managing.insert(tag, Management { tag, invoked: now, what });
    }

    pub(crate) fn ping(&mut self, now: Instant) {
        let tag = self.next_tag();
        let ping = NopOut {
            immediate: true,
            initiator_task_tag: tag,
            target_transfer_tag: RESERVED_TAG,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn(),
            ..NopOut::default()
        };
        self.say(ping.header(), &tag.to_be_bytes());
        self.ping = Some((tag, now));
    }

    /// Whether something was said that a digest has shown to be damaged.
    pub(crate) fn was_damaged(&self) -> bool {
        self.is_damaged
    }

    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next thing that the target has said, or what is wrong with it.
    pub(crate) fn hear(&mut self) -> Result<Option<Heard>, String> {
        loop {
            let input = core::mem::take(&mut self.input);
            let pdu = self.digests.read(&input).map_err(|damaged| {
                self.is_damaged = true;
                format!("a digest does not match: {damaged:?}")
            })?;
            let Some(pdu) = pdu else {
                self.input = input;
                return Ok(None);
            };
            let heard = self.pdu(&pdu.header, pdu.data);
            self.input = input[pdu.length..].to_vec();
            if let Some(heard) = heard? {
                return Ok(Some(heard));
            }
        }
    }

    fn pdu(&mut self, header: &Header, data: &[u8]) -> Result<Option<Heard>, String> {
        match header.opcode() {
            opcode::LOGIN_RESPONSE => self.login(&LoginResponse::read(header), data),
            opcode::SCSI_RESPONSE => self.response(&ScsiResponse::read(header), data),
            opcode::DATA_IN => self.data_in(&DataIn::read(header), data),
            opcode::READY_TO_TRANSFER => self.ready(&ReadyToTransfer::read(header)),
            opcode::NOP_IN => self.nop(&NopIn::read(header), data),
            opcode::TASK_MANAGEMENT_RESPONSE => self.managed(&TaskManagementResponse::read(header)),
            opcode::REJECT => {
                self.is_damaged = header.0[2] == DATA_DIGEST_ERROR;
                Err(format!("rejected: {header:02x?}"))
            }
            _ => Ok(Some(Heard::Farewell)),
        }
    }

    /// Every status has the next number.
    fn status(&mut self, stat_sn: u32) -> Result<(), String> {
        if let Some(expected) = self.exp_stat_sn
            && expected != stat_sn
        {
            return Err(format!("StatSN {stat_sn} instead of {expected}"));
        }
        self.exp_stat_sn = Some(stat_sn.wrapping_add(1));
        Ok(())
    }

    fn window(&mut self, exp_cmd_sn: u32, max_cmd_sn: u32) -> Result<(), String> {
        if SerialNumber(self.cmd_sn).is_before(SerialNumber(exp_cmd_sn)) {
            return Err(format!("ExpCmdSN {exp_cmd_sn} although the next command is {}", self.cmd_sn));
        }
        if SerialNumber(max_cmd_sn).is_before(self.max_cmd_sn) {
            return Err(format!("MaxCmdSN went back from {:?} to {max_cmd_sn}", self.max_cmd_sn));
        }
        self.max_cmd_sn = SerialNumber(max_cmd_sn);
        Ok(())
    }

    fn login(&mut self, response: &LoginResponse, data: &[u8]) -> Result<Option<Heard>, String> {
        if self.is_up {
            return Err("a login response in full feature phase".to_string());
        }
        if response.status_class != 0 {
            return Ok(Some(Heard::Refused));
        }
        if !response.transit || response.next_stage != 3 {
            return Err(format!("a login of one request was not answered in one: {response:?}"));
        }
        self.exp_stat_sn = Some(response.stat_sn.wrapping_add(1));
        self.max_cmd_sn = SerialNumber(response.max_cmd_sn);
        for pair in pairs(data) {
            let (key, value) = pair.map_err(|malformed| format!("login text: {malformed:?}"))?;
            let length = number(value).unwrap_or(0) as usize;
            match key {
                "InitialR2T" => self.agreed.initial_r2t = value == "Yes",
                "ImmediateData" => self.agreed.immediate_data = value == "Yes",
                "MaxRecvDataSegmentLength" => self.agreed.max_send = length,
                "FirstBurstLength" => self.agreed.first_burst = length,
                "HeaderDigest" => self.digests.header = value == "CRC32C",
                "DataDigest" => self.digests.data = value == "CRC32C",
                _ => {}
            }
        }
        if self.digests != self.wishes.digests {
            return Err(format!("digests {:?} instead of {:?}", self.digests, self.wishes.digests));
        }
        self.is_up = true;
        Ok(Some(Heard::LoggedIn))
    }

    fn response(&mut self, response: &ScsiResponse, data: &[u8]) -> Result<Option<Heard>, String> {
        self.window(response.exp_cmd_sn, response.max_cmd_sn)?;
        self.status(response.stat_sn)?;
        let tag = response.initiator_task_tag;
        let residual = (response.underflow, response.overflow, response.residual_count);
        if response.response != 0 {
            return Err(format!("target failure: {response:?}"));
        }
        self.finish(tag, Answer::new(response.status, data)?, residual, response.exp_data_sn)
    }

    fn data_in(&mut self, pdu: &DataIn, data: &[u8]) -> Result<Option<Heard>, String> {
        self.window(pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
        let tag = pdu.initiator_task_tag;
        let Some(task) = self.tasks.get_mut(&tag) else {
            return Err(format!("Data-In for task {tag}, which has ended"));
        };
        let offset = pdu.buffer_offset as usize;
        let limit = self.wishes.max_recv as usize;
        if offset != task.got || pdu.data_sn != task.data_sn || data.len() > limit || data.is_empty() {
            return Err(format!("Data-In out of order or too long: {pdu:?} for {} of {task:?}", task.got));
        }
        let Some(place) = task.data_in.get_mut(offset..offset + data.len()) else {
            return Err(format!("Data-In beyond what was asked for: {pdu:?}"));
        };
        place.copy_from_slice(data);
        task.got += data.len();
        task.data_sn += 1;
        if !pdu.has_status {
            return Ok(None);
        }
        let data_sn = task.data_sn;
        self.status(pdu.stat_sn)?;
        let residual = (pdu.underflow, pdu.overflow, pdu.residual_count);
        self.finish(tag, Answer { status: pdu.status, sense: None }, residual, data_sn)
    }

    fn finish(
        &mut self,
        tag: u32,
        answer: Answer,
        residual: (bool, bool, u32),
        exp_data_sn: u32,
    ) -> Result<Option<Heard>, String> {
        self.answers += 1;
        let strikes = self.answers.is_multiple_of(STRIKES);
        if strikes && self.bug == Some(Bug::LostStatus) {
            return Ok(None);
        }
        let Some(task) = self.tasks.remove(&tag) else {
            return Err(format!("a status for task {tag}, which has ended: {answer:?}"));
        };
        if strikes && self.bug == Some(Bug::DoubledStatus) {
            return self.finish(tag, answer, residual, exp_data_sn);
        }
        if answer.status == GOOD {
            let counted = task.data_sn + task.r2t_sn;
            if exp_data_sn != counted {
                return Err(format!("ExpDataSN {exp_data_sn} instead of {counted} for {:?}", task.op));
            }
            if task.got != task.data_in.len() || residual != (false, false, 0) {
                return Err(format!("GOOD for {} bytes, residual {residual:?}, of {task:?}", task.got));
            }
        }
        Ok(Some(Heard::Answered(task, answer)))
    }

    fn ready(&mut self, pdu: &ReadyToTransfer) -> Result<Option<Heard>, String> {
        self.window(pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
        let tag = pdu.initiator_task_tag;
        let Some(mut task) = self.tasks.remove(&tag) else {
            return Err(format!("R2T for task {tag}, which has ended"));
        };
        let start = pdu.buffer_offset as usize;
        let range = start..start + pdu.desired_data_transfer_length as usize;
        let is_long = pdu.desired_data_transfer_length > self.wishes.max_burst;
        if range.end > task.data_out.len() || range.is_empty() || is_long || pdu.r2t_sn != task.r2t_sn {
            return Err(format!("senseless R2T {pdu:?} for {task:?}"));
        }
        task.r2t_sn += 1;
        self.data_out(&task, tag, pdu.target_transfer_tag, range);
        self.tasks.insert(tag, task);
        Ok(None)
    }

    fn nop(&mut self, pdu: &NopIn, data: &[u8]) -> Result<Option<Heard>, String> {
        self.window(pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
        if pdu.initiator_task_tag == RESERVED_TAG {
            if pdu.target_transfer_tag != RESERVED_TAG {
                let pong = NopOut {
                    immediate: true,
                    lun: pdu.lun,
                    initiator_task_tag: RESERVED_TAG,
                    target_transfer_tag: pdu.target_transfer_tag,
                    cmd_sn: self.cmd_sn,
                    exp_stat_sn: self.exp_stat_sn(),
                    ..NopOut::default()
                };
                self.say(pong.header(), &[]);
            }
            return Ok(None);
        }
        self.status(pdu.stat_sn)?;
        match self.ping.take() {
            Some((tag, sent)) if tag == pdu.initiator_task_tag && data == tag.to_be_bytes() => {
                Ok(Some(Heard::Pong(sent)))
            }
            ping => Err(format!("{pdu:?} answers no ping of ours: {ping:?}")),
        }
    }

    fn managed(&mut self, pdu: &TaskManagementResponse) -> Result<Option<Heard>, String> {
        self.window(pdu.exp_cmd_sn, pdu.max_cmd_sn)?;
        self.status(pdu.stat_sn)?;
        let Some(management) = self.managing.remove(&pdu.initiator_task_tag) else {
            return Err(format!("{pdu:?} answers no request of ours"));
        };
        if pdu.response != 0 {
            return Err(format!("{management:?} was answered {}", pdu.response));
        }
        Ok(Some(Heard::Managed(management)))
    }
}

fn lun(unit: usize) -> [u8; 8] {
    [0, unit as u8, 0, 0, 0, 0, 0, 0]
}
