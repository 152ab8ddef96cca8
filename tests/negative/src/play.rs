//! Plays cases, and compares what is heard with what has to be, byte for byte.

use crate::case::{Answer, Case, Edit, Place, Said, Sense, State, Step, Transferred};
use storage_iscsi::wire::text::pairs;
use storage_iscsi::wire::{
    Digests, Header, LoginRequest, NopOut, RESERVED_TAG, ReadyToTransfer, ScsiCommand, SerialNumber, opcode,
};

/// What a transport has brought.
#[derive(Debug)]
pub enum Received {
    /// Bytes.
    Bytes(Vec<u8>),
    /// The end of the stream, by FIN or by RST.
    Closed,
    /// Nothing, for as long as an answer may take.
    Nothing,
}

/// One connection to a target.
pub trait Wire {
    /// Sends bytes. That the target has closed already is no error.
    fn send(&mut self, bytes: &[u8]);
    /// Says that nothing more will be said.
    fn finish(&mut self);
    /// Waits for what comes next.
    fn receive(&mut self) -> Received;
}

const ISID: [u8; 6] = [0x80, 0, 0, 7, 0, 1];
/// Blocks from the first on that no case may change.
const CANARY: u32 = 64;
const BLOCK: u32 = 512;

/// One end of a connection, with the numbers that are due.
struct Player<'a> {
    wire: &'a mut dyn Wire,
    input: Vec<u8>,
    digests: Digests,
    cmd_sn: u32,
    stat_sn: u32,
    max_cmd_sn: u32,
    tag: u32,
    /// What the target takes in one data segment.
    segment: u32,
    wanted: Option<ReadyToTransfer>,
    /// R2Ts of the command that waits.
    r2ts: u32,
    /// The header of the last PDU, as it was said, and the length that its command expects to transfer.
    last: Header,
    /// The header of the last Login Request among them, which a refusal of something else answers as well.
    login: Header,
    expected: u32,
}

/// Plays a case on a new connection.
///
/// # Errors
/// What was heard instead of what has to be.
pub fn play(case: &Case, place: &Place, wire: &mut dyn Wire) -> Result<(), String> {
    let mut player = Player::new(wire);
    player.enter(case.state, place).map_err(|error| format!("on the way there: {error}"))?;
    for (index, step) in case.steps.iter().enumerate() {
        match step {
            Step::Say(said) => player.say(said),
            Step::Hear(answer) => {
                player.hear(answer).map_err(|error| format!("step {index}: {error}"))?;
                if answer.ends() {
                    return Ok(());
                }
            }
        }
    }
    match case.state {
        State::FullFeature(_) => player.proves(),
        State::Discovery => player.discovers(place),
        _ => Ok(()),
    }
    .map_err(|error| format!("afterwards: {error}"))
}

fn canary() -> Vec<u8> {
    (0..CANARY * BLOCK).map(|at| (at % 251) as u8 + 1).collect()
}

/// Fills the blocks that no case may change.
///
/// # Errors
/// When that does not work.
pub fn fill(place: &Place, wire: &mut dyn Wire) -> Result<(), String> {
    let mut player = Player::new(wire);
    player.enter(State::FullFeature(""), place)?;
    for (block, data) in (0..).zip(canary().chunks(4096)) {
        player.say(&write10(block * 8, data));
        player.hear(&Answer::Status(0))?;
    }
    Ok(())
}

/// Whether the blocks that no case may change are as [`fill`] left them.
///
/// # Errors
/// When they are not, or cannot be read.
pub fn is_as_filled(place: &Place, wire: &mut dyn Wire) -> Result<(), String> {
    let mut player = Player::new(wire);
    player.enter(State::FullFeature(""), place)?;
    for (block, data) in (0..).zip(canary().chunks(4096)) {
        if player.read(block * 8, data.len())? != data {
            return Err(format!("the blocks from {} on were changed", block * 8));
        }
    }
    Ok(())
}

fn write10(block: u32, data: &[u8]) -> Said {
    let command = ScsiCommand {
        last: true,
        write: true,
        attribute: 1,
        initiator_task_tag: 0x7000,
        expected_data_transfer_length: data.len() as u32,
        cdb: transfer10(0x2a, block, data.len()),
        ..ScsiCommand::default()
    };
    Said::new(command.header(), data)
}

fn transfer10(code: u8, block: u32, length: usize) -> [u8; 16] {
    let mut cdb = [0; 16];
    cdb[0] = code;
    cdb[2..6].copy_from_slice(&block.to_be_bytes());
    cdb[7..9].copy_from_slice(&((length as u32 / BLOCK) as u16).to_be_bytes());
    cdb
}

/// A login request of that stage: on to full feature phase, or not on at all.
pub(crate) fn login(stage: u8, transit: bool) -> LoginRequest {
    LoginRequest {
        immediate: true,
        transit,
        current_stage: stage,
        next_stage: if transit { 3 } else { 0 },
        isid: ISID,
        initiator_task_tag: 1,
        ..LoginRequest::default()
    }
}

/// The names that a login begins with.
pub(crate) fn names(place: &Place) -> String {
    format!("InitiatorName={}\0TargetName={}\0SessionType=Normal\0", place.initiator, place.target)
}

impl<'a> Player<'a> {
    fn new(wire: &'a mut dyn Wire) -> Self {
        Self {
            wire,
            input: Vec::new(),
            digests: Digests::default(),
            cmd_sn: 1,
            stat_sn: 0,
            max_cmd_sn: 0,
            tag: 0x7100,
            segment: 8192,
            wanted: None,
            r2ts: 0,
            last: Header([0; 48]),
            login: Header([0; 48]),
            expected: 0,
        }
    }

    /// Come to where a case is said.
    fn enter(&mut self, state: State, place: &Place) -> Result<(), String> {
        let names = names(place);
        let (request, text) = match state {
            State::TransportUp => return Ok(()),
            State::Security => (login(0, false), format!("{names}AuthMethod=None\0")),
            State::Operational => (login(1, false), names),
            State::FullFeature(keys) => (login(1, true), format!("{names}{keys}")),
            State::Discovery => {
                (login(1, true), format!("InitiatorName={}\0SessionType=Discovery\0", place.initiator))
            }
        };
        self.say(&Said::new(request.header(), text.as_bytes()));
        let (header, data) = self.next_pdu()?;
        self.login_goes_on(&header, &data)?;
        if let State::FullFeature(keys) = state {
            let has = |key: &str| keys.split('\0').any(|pair| pair == key);
            self.digests = Digests { header: has("HeaderDigest=CRC32C"), data: has("DataDigest=CRC32C") };
            self.settle()?;
        }
        Ok(())
    }

    /// A Login Response that refuses nothing; takes its numbers.
    fn login_goes_on(&mut self, header: &Header, data: &[u8]) -> Result<(), String> {
        if header.opcode() != opcode::LOGIN_RESPONSE || header.0[36..38] != [0, 0] {
            return Err(format!("the login went wrong: {:02x?}", header.0));
        }
        self.takes_status(header)?;
        let declared = pairs(data).filter_map(Result::ok).find(|(key, _)| *key == "MaxRecvDataSegmentLength");
        if let Some((_, value)) = declared {
            self.segment = value.parse().map_err(|_| format!("declares {value}"))?;
        }
        Ok(())
    }

    /// Take the unit attentions that a new nexus begins with.
    fn settle(&mut self) -> Result<(), String> {
        for _ in 0..8 {
            self.say(&self.test_unit_ready());
            let (header, data) = self.next_pdu()?;
            self.takes_status(&header)?;
            match (header.opcode(), header.0[3], data.get(4)) {
                (opcode::SCSI_RESPONSE, 0, _) => return Ok(()),
                (opcode::SCSI_RESPONSE, 2, Some(6)) => {}
                _ => return Err(format!("TEST UNIT READY: {:02x?} {data:02x?}", header.0)),
            }
        }
        Err("unit attentions without end".into())
    }

    fn test_unit_ready(&self) -> Said {
        let command = ScsiCommand {
            last: true,
            attribute: 1,
            initiator_task_tag: self.tag + 1,
            ..ScsiCommand::default()
        };
        Said::new(command.header(), &[])
    }

    fn read(&mut self, block: u32, length: usize) -> Result<Vec<u8>, String> {
        let command = ScsiCommand {
            last: true,
            read: true,
            attribute: 1,
            initiator_task_tag: 0x7001,
            expected_data_transfer_length: length as u32,
            cdb: transfer10(0x28, block, length),
            ..ScsiCommand::default()
        };
        self.say(&Said::new(command.header(), &[]));
        let mut read = Vec::new();
        while read.len() < length {
            let (header, data) = self.next_pdu()?;
            if header.opcode() != opcode::DATA_IN {
                return Err(format!("no data: {:02x?}", header.0));
            }
            read.extend(data);
            if header.0[1] & 1 != 0 {
                self.takes_status(&header)?;
            }
        }
        Ok(read)
    }

    /// Send a PDU, with its numbers and edits.
    fn say(&mut self, said: &Said) {
        let mut header = said.header;
        let opcode = header.opcode();
        let is_numbered = !matches!(opcode, opcode::DATA_OUT | opcode::SNACK_REQUEST);
        if is_numbered {
            header.0[24..28].copy_from_slice(&self.cmd_sn.to_be_bytes());
        }
        header.0[28..32].copy_from_slice(&self.stat_sn.to_be_bytes());
        let mut data = said.data.clone();
        for edit in &said.edits {
            self.edit(edit, &mut header, &mut data);
        }
        let has_length = said.edits.iter().any(|edit| matches!(edit, Edit::Beyond(_) | Edit::Put(4..8, _)));
        let digests = if said.edits.iter().any(|edit| matches!(edit, Edit::Bare)) {
            Digests::default()
        } else {
            self.digests
        };
        let mut bytes = Vec::new();
        if has_length {
            bytes.extend(header.0);
            bytes.extend(&said.additional);
            bytes.extend(&data);
        } else {
            digests.write(header, &said.additional, &data, &mut bytes);
            header.0.copy_from_slice(&bytes[..48]);
        }
        for edit in &said.edits {
            if let Edit::Damage(at, bits) = edit {
                bytes[*at] ^= bits;
            }
        }
        if opcode == opcode::SCSI_COMMAND && said.is_taken {
            self.expected = if header.0[1] & 0x60 == 0 {
                0
            } else {
                ScsiCommand::read(&header).expected_data_transfer_length
            };
            (self.wanted, self.r2ts) = (None, 0);
        }
        if said.is_taken && is_numbered && opcode != opcode::LOGIN_REQUEST && !header.immediate() {
            self.cmd_sn = self.cmd_sn.wrapping_add(1);
        }
        self.last = header;
        if opcode == opcode::LOGIN_REQUEST {
            self.login = header;
        }
        let cut = said.edits.iter().find_map(|edit| match edit {
            Edit::Cut(length) => Some(*length),
            _ => None,
        });
        self.wire.send(&bytes[..cut.unwrap_or(bytes.len())]);
        if cut.is_some() {
            self.wire.finish();
        }
    }

    fn edit(&self, edit: &Edit, header: &mut Header, data: &mut Vec<u8>) {
        match edit {
            Edit::Put(at, bytes) => header.0[*at..*at + bytes.len()].copy_from_slice(bytes),
            Edit::Add(at, more) => {
                let value = number(header, *at).wrapping_add(*more);
                header.0[*at..*at + 4].copy_from_slice(&value.to_be_bytes());
            }
            Edit::Copy(from, to) => header.0.copy_within(*from..*from + 4, *to),
            Edit::AnswerR2t => {
                let wanted = self.wanted.unwrap_or_default();
                header.0[16..20].copy_from_slice(&wanted.initiator_task_tag.to_be_bytes());
                header.0[20..24].copy_from_slice(&wanted.target_transfer_tag.to_be_bytes());
                header.0[40..44].copy_from_slice(&wanted.buffer_offset.to_be_bytes());
                *data = vec![0x5a; wanted.desired_data_transfer_length as usize];
            }
            Edit::Resize(more) => data.resize(data.len().saturating_add_signed(*more as isize), 0x5a),
            Edit::Beyond(more) => *header = header.with_data_segment(self.segment + more),
            Edit::Damage(..) | Edit::Bare | Edit::Cut(_) => {}
        }
    }

    /// The next PDU.
    fn next_pdu(&mut self) -> Result<(Header, Vec<u8>), String> {
        self.try_next()?.ok_or_else(|| "the target closed the connection".into())
    }

    /// The next PDU, or none at the end.
    fn try_next(&mut self) -> Result<Option<(Header, Vec<u8>)>, String> {
        loop {
            let is_login = self.input.first().is_some_and(|first| first & 0x3f == opcode::LOGIN_RESPONSE);
            let digests = if is_login { Digests::default() } else { self.digests };
            let pdu =
                digests.read(&self.input).map_err(|damaged| format!("{damaged:?} digest of the target's"))?;
            if let Some(pdu) = pdu {
                let (header, data, length) = (pdu.header, pdu.data.to_vec(), pdu.length);
                self.input.drain(..length);
                return Ok(Some((header, data)));
            }
            match self.wire.receive() {
                Received::Bytes(bytes) => self.input.extend(bytes),
                Received::Closed if self.input.is_empty() => return Ok(None),
                Received::Closed => return Err(format!("half a PDU: {:02x?}", self.input)),
                Received::Nothing => return Err("silence".into()),
            }
        }
    }

    /// Compare StatSN, ExpCmdSN and MaxCmdSN with what they have to be. The status number is used up.
    fn takes_status(&mut self, header: &Header) -> Result<(), String> {
        let is_login = header.opcode() == opcode::LOGIN_RESPONSE;
        let (stat_sn, exp_cmd_sn) = (number(header, 24), number(header, 28));
        if stat_sn != self.stat_sn {
            return Err(format!("StatSN {stat_sn} where {} is next: {:02x?}", self.stat_sn, header.0));
        }
        self.stat_sn = stat_sn.wrapping_add(1);
        if exp_cmd_sn != self.cmd_sn {
            return Err(format!("ExpCmdSN {exp_cmd_sn} where {} is next: {:02x?}", self.cmd_sn, header.0));
        }
        let max_cmd_sn = number(header, 32);
        if !is_login && SerialNumber(max_cmd_sn).is_before(SerialNumber(self.max_cmd_sn)) {
            return Err(format!("MaxCmdSN went back from {} to {max_cmd_sn}", self.max_cmd_sn));
        }
        self.max_cmd_sn = max_cmd_sn;
        Ok(())
    }

    /// Hear an answer, which must be this one.
    fn hear(&mut self, answer: &Answer) -> Result<(), String> {
        match answer {
            Answer::Closed => match self.try_next()? {
                None => Ok(()),
                Some((header, data)) => Err(format!("answered: {:02x?} {data:02x?}", header.0)),
            },
            Answer::Refused(class, detail) => self.hear_refusal([*class, *detail]),
            Answer::Settled(pair) => self.hear_settled(pair),
            // Nothing else may stand before the answer to a ping.
            Answer::Nothing => self.proves(),
            Answer::Wanted => {
                let (header, _) = self.next_pdu()?;
                if header.opcode() != opcode::READY_TO_TRANSFER {
                    return Err(format!("no R2T: {:02x?}", header.0));
                }
                self.r2ts += 1;
                self.wanted = Some(ReadyToTransfer::read(&header));
                Ok(())
            }
            Answer::Reject(_)
            | Answer::Condition(_)
            | Answer::Status(_)
            | Answer::Conflict
            | Answer::Managed(_)
            | Answer::LoggedOut(_) => self.hear_exactly(answer),
        }
    }

    /// A Login Response with that status, and the end.
    fn hear_refusal(&mut self, status: [u8; 2]) -> Result<(), String> {
        let (header, data) = self.next_pdu()?;
        let mut due = [0; 48];
        due[0] = opcode::LOGIN_RESPONSE;
        // CSG as it was said; no transit, no next stage.
        due[1] = self.login.0[1] & 0x0c;
        due[8..14].copy_from_slice(&self.login.0[8..14]);
        due[16..20].copy_from_slice(&self.login.0[16..20]);
        due[36..38].copy_from_slice(&status);
        // TSIH is that of the request where there is one, and no number is valid (11.13.4).
        due[14..16].copy_from_slice(&self.login.0[14..16]);
        due[24..36].copy_from_slice(&header.0[24..36]);
        if header.0 != due || !data.is_empty() {
            return Err(format!("{:02x?} {data:02x?}\ninstead of {due:02x?}", header.0));
        }
        match self.try_next()? {
            None => Ok(()),
            Some((header, _)) => Err(format!("more after the refusal: {:02x?}", header.0)),
        }
    }

    /// A Login Response that goes on, with that pair; what else it says is the target's own.
    fn hear_settled(&mut self, pair: &str) -> Result<(), String> {
        let (header, data) = self.next_pdu()?;
        self.login_goes_on(&header, &data)?;
        if pair.is_empty() && data.is_empty() {
            return Ok(());
        }
        let said = pairs(&data).collect::<Result<Vec<_>, _>>().map_err(|error| format!("{error:?}"))?;
        let own = ["TargetPortalGroupTag", "MaxRecvDataSegmentLength", "AuthMethod", "TargetAlias"];
        let (key, _) = pair.split_once('=').unwrap_or_default();
        let due = |(found, value): &(&str, &str)| format!("{found}={value}") == pair;
        let meant: Vec<_> = said.iter().filter(|(found, _)| *found == key).collect();
        let rest = said.iter().filter(|(found, _)| *found != key).all(|(found, _)| own.contains(found));
        if meant.len() == 1 && due(meant[0]) && rest {
            return Ok(());
        }
        Err(format!("{:?} instead of {pair}", String::from_utf8_lossy(&data)))
    }

    /// An answer of which every byte is known before.
    fn hear_exactly(&mut self, answer: &Answer) -> Result<(), String> {
        let (header, data) = self.next_pdu()?;
        let mut due = [0; 48];
        let mut due_data = Vec::new();
        due[1] = 0x80;
        due[16..20].copy_from_slice(&self.last.0[16..20]);
        match *answer {
            Answer::Reject(reason) => {
                (due[0], due[2], due[7]) = (opcode::REJECT, reason, 48);
                due[16..20].fill(0xff);
                due_data = self.last.0.to_vec();
            }
            Answer::Managed(code) => (due[0], due[2]) = (opcode::TASK_MANAGEMENT_RESPONSE, code),
            Answer::LoggedOut(code) => {
                (due[0], due[2]) = (opcode::LOGOUT_RESPONSE, code);
                // Time2Wait and Time2Retain are what was agreed upon.
                due[40..44].copy_from_slice(&header.0[40..44]);
            }
            Answer::Condition(sense) => due_data = self.condition(&mut due, sense),
            Answer::Status(0) => self.status(&mut due, 0, Transferred::All),
            Answer::Status(status) => self.status(&mut due, status, Transferred::Nothing),
            Answer::Conflict => self.status(&mut due, 0x18, Transferred::All),
            _ => {}
        }
        // MaxCmdSN is the target's to choose; takes_status() sees to it that it does not go back.
        due[24..28].copy_from_slice(&self.stat_sn.to_be_bytes());
        due[28..32].copy_from_slice(&self.cmd_sn.to_be_bytes());
        due[32..36].copy_from_slice(&header.0[32..36]);
        if header.0 != due || data != due_data {
            return Err(format!("{:02x?} {data:02x?}\ninstead of {due:02x?} {due_data:02x?}", header.0));
        }
        self.takes_status(&header)
    }

    fn status(&self, due: &mut [u8; 48], status: u8, transferred: Transferred) {
        (due[0], due[3]) = (opcode::SCSI_RESPONSE, status);
        due[36..40].copy_from_slice(&self.r2ts.to_be_bytes());
        let (residual, flag) = match transferred {
            Transferred::Nothing => (self.expected, 0x02),
            Transferred::All => (0, 0),
            Transferred::Beyond(count) => (count, 0x04),
        };
        if residual > 0 {
            due[1] |= flag;
            due[44..48].copy_from_slice(&residual.to_be_bytes());
        }
    }

    fn condition(&self, due: &mut [u8; 48], sense: Sense) -> Vec<u8> {
        self.status(due, 2, sense.transferred);
        due[7] = 20;
        let [code, qualifier] = sense.code.to_be_bytes();
        let [a, b, c] = sense.specific;
        vec![0, 18, 0x70, 0, sense.key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, a, b, c]
    }

    /// The session goes on: a ping is answered at once, and a command behind it.
    fn proves(&mut self) -> Result<(), String> {
        self.tag += 2;
        let ping = NopOut {
            immediate: true,
            initiator_task_tag: self.tag,
            target_transfer_tag: RESERVED_TAG,
            ..NopOut::default()
        };
        self.say(&Said::new(ping.header(), b"ping"));
        let (header, data) = self.next_pdu()?;
        if header.opcode() != opcode::NOP_IN || header.initiator_task_tag() != self.tag || data != b"ping" {
            return Err(format!("no answer to a ping: {:02x?} {data:02x?}", header.0));
        }
        self.takes_status(&header)?;
        self.settle()
    }

    /// A discovery session goes on: it tells its targets.
    fn discovers(&mut self, place: &Place) -> Result<(), String> {
        let request = storage_iscsi::wire::TextRequest {
            immediate: true,
            last: true,
            initiator_task_tag: 0x7200,
            target_transfer_tag: RESERVED_TAG,
            ..Default::default()
        };
        self.say(&Said::new(request.header(), b"SendTargets=All\0"));
        let (header, data) = self.next_pdu()?;
        self.takes_status(&header)?;
        let is_there = pairs(&data).filter_map(Result::ok).any(|pair| pair == ("TargetName", &*place.target));
        if is_there { Ok(()) } else { Err(format!("no targets: {:?}", String::from_utf8_lossy(&data))) }
    }
}

fn number(header: &Header, at: usize) -> u32 {
    let bytes = [header.0[at], header.0[at + 1], header.0[at + 2], header.0[at + 3]];
    u32::from_be_bytes(bytes)
}
