//! A connection, an initiator that types by hand, and a layer above that does what the script says.

use crate::wire::{Digests, Header, LoginRequest, LoginResponse, ScsiCommand, ScsiResponse, opcode};
use crate::{Admission, Command, Connection, Event, Fatal, Limits, Outcome, Task};
use kernel_runtime::Instant;
use std::num::NonZeroU16;
use storage_block::{Buffer, Pool, Share};

pub(super) const NORMAL: &str = "InitiatorName=iqn.2001-04.com.example:host\0\
    TargetName=iqn.2001-04.com.example:disk\0SessionType=Normal\0";
pub(super) const DISCOVERY: &str = "InitiatorName=iqn.2001-04.com.example:host\0SessionType=Discovery\0";
pub(super) const LUN: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];

/// A PDU from the target.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Heard {
    pub(super) header: Header,
    pub(super) data: Vec<u8>,
}

pub(super) struct Bench {
    pub(super) connection: Connection,
    pub(super) now: Instant,
    pub(super) share: Share,
    /// Bytes handed over at a time.
    pub(super) chunk: usize,
    pub(super) digests: Digests,
    pub(super) cmd_sn: u32,
    pub(super) exp_stat_sn: u32,
    unread: Vec<u8>,
    by_place: bool,
}

impl Bench {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            connection: Connection::new(limits, Instant::ZERO),
            now: Instant::ZERO,
            share: Pool::new(&[(4096, 64), (256 << 10, 32)]).share(usize::MAX >> 1),
            chunk: usize::MAX,
            digests: Digests::default(),
            cmd_sn: 100,
            exp_stat_sn: 500,
            unread: Vec::new(),
            by_place: false,
        }
    }

    /// A connection in full feature phase, after a login in one request with these operational keys.
    pub(super) fn logged_in(keys: &str) -> Self {
        Self::logged_in_with(&Limits::default(), keys)
    }

    pub(super) fn logged_in_with(limits: &Limits, keys: &str) -> Self {
        let mut bench = Self::new(limits);
        bench.log_in(NORMAL, keys);
        bench
    }

    pub(super) fn log_in(&mut self, names: &str, keys: &str) {
        self.send(self.login_request(1, Some(3)).header(), format!("{names}{keys}").as_bytes());
        assert!(matches!(self.connection.poll_event(), Some(Event::Login)), "a login is announced");
        self.accept();
        assert!(matches!(self.connection.poll_event(), Some(Event::LoggedIn)));
        let heard = self.hear();
        let response = LoginResponse::read(&heard.header);
        assert_eq!((response.status_class, response.transit, response.next_stage), (0, true, 3));
        assert_eq!(response.tsih, 7);
        self.exp_stat_sn = response.stat_sn.wrapping_add(1);
        let parameters = self.connection.parameters();
        self.digests = Digests { header: parameters.header_digest(), data: parameters.data_digest() };
    }

    pub(super) fn accept(&mut self) {
        let tsih = NonZeroU16::new(7).unwrap();
        self.connection.admit(Admission::Accept { tsih, portal_group_tag: 1 });
    }

    pub(super) fn login_request(&self, stage: u8, next: Option<u8>) -> LoginRequest {
        LoginRequest {
            immediate: true,
            transit: next.is_some(),
            current_stage: stage,
            next_stage: next.unwrap_or_default(),
            isid: [0x40, 0, 1, 0x37, 0, 0],
            initiator_task_tag: 1,
            cid: 3,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ..Default::default()
        }
    }

    /// A PDU as it stands on the wire.
    pub(super) fn bytes(&self, header: Header, data: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.digests.write(header, &[], data, &mut bytes);
        bytes
    }

    pub(super) fn send(&mut self, header: Header, data: &[u8]) {
        self.try_send(header, data).expect("the connection goes on");
    }

    pub(super) fn try_send(&mut self, header: Header, data: &[u8]) -> Result<(), Fatal> {
        let bytes = self.bytes(header, data);
        self.feed(&bytes)
    }

    /// Hand bytes over. What the connection does not want to read yet is kept for the next time.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<(), Fatal> {
        self.unread.extend(bytes);
        loop {
            let some = self.unread.len().min(self.chunk);
            // By either door, in turn.
            self.by_place = !self.by_place;
            let count = if self.by_place {
                let space = self.connection.space();
                let count = space.len().min(some);
                space[..count].copy_from_slice(&self.unread[..count]);
                self.connection.received(self.now, count)?;
                count
            } else {
                self.connection.take(self.now, &self.unread[..some])?
            };
            self.unread.drain(..count);
            if count == 0 {
                return Ok(());
            }
        }
    }

    /// Go on reading what was kept.
    pub(super) fn resume(&mut self) {
        self.feed(&[]).expect("the connection goes on");
    }

    pub(super) fn unread(&self) -> usize {
        self.unread.len()
    }

    /// The next PDU the target sends.
    pub(super) fn hear(&mut self) -> Heard {
        self.try_hear().expect("the target has something to say")
    }

    pub(super) fn try_hear(&mut self) -> Option<Heard> {
        let mut bytes = Vec::new();
        loop {
            let some = self.connection.poll_transmit()?;
            let count = some.len().min(self.chunk);
            assert!(count > 0, "an empty slice says nothing");
            bytes.extend(&some[..count]);
            self.connection.transmitted(count);
            let is_login = bytes[0] & 0x3f == opcode::LOGIN_RESPONSE;
            let digests = if is_login { Digests::default() } else { self.digests };
            if let Some(pdu) = digests.read(&bytes).expect("digests match") {
                assert_eq!(pdu.length, bytes.len(), "a slice ends with its PDU at the latest");
                return Some(Heard { header: pdu.header, data: pdu.data.to_vec() });
            }
        }
    }

    pub(super) fn silence(&mut self) {
        let heard = self.try_hear();
        assert!(heard.is_none(), "nothing was to be heard: {heard:?}");
    }

    pub(super) fn no_event(&mut self) {
        let event = self.connection.poll_event();
        assert!(event.is_none(), "nothing was to happen: {event:?}");
    }

    /// A command in sequence, with `tag`.
    pub(super) fn command(&mut self, tag: u32) -> ScsiCommand {
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.wrapping_add(1);
        ScsiCommand {
            last: true,
            attribute: 1,
            lun: LUN,
            initiator_task_tag: tag,
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            ..Default::default()
        }
    }

    pub(super) fn read_command(&mut self, tag: u32, length: u32) -> ScsiCommand {
        ScsiCommand { read: true, expected_data_transfer_length: length, ..self.command(tag) }
    }

    pub(super) fn write_command(&mut self, tag: u32, length: u32) -> ScsiCommand {
        ScsiCommand { write: true, expected_data_transfer_length: length, ..self.command(tag) }
    }

    /// Send a command and take its event.
    pub(super) fn begin(&mut self, command: ScsiCommand, data: &[u8]) -> Command {
        self.send(command.header(), data);
        self.taken()
    }

    /// The command whose event waits.
    pub(super) fn taken(&mut self) -> Command {
        match self.connection.poll_event() {
            Some(Event::Command(command)) => command,
            other => panic!("a command was to come: {other:?}"),
        }
    }

    pub(super) fn read(&mut self, tag: u32, length: u32) -> Task {
        let command = self.read_command(tag, length);
        self.begin(command, &[]).task
    }

    pub(super) fn write(&mut self, tag: u32, length: u32) -> Task {
        let command = self.write_command(tag, length);
        self.begin(command, &[]).task
    }

    pub(super) fn buffer(&self, length: usize) -> Buffer {
        self.share.take(length).expect("a buffer")
    }

    /// A buffer with the bytes that belong at `offset`.
    pub(super) fn filled(&self, offset: usize, length: usize) -> Buffer {
        let mut buffer = self.buffer(length);
        buffer.copy_from_slice(&pattern(offset, length));
        buffer
    }

    /// Take a filled place, check that its bytes are the ones that belong there.
    pub(super) fn filled_place(&mut self) -> (u32, usize) {
        match self.connection.poll_event() {
            Some(Event::Received { offset, buffer, .. }) => {
                assert_eq!(*buffer, pattern(offset as usize, buffer.len()), "at {offset}");
                (offset, buffer.len())
            }
            other => panic!("a place was to be full: {other:?}"),
        }
    }

    pub(super) fn good(&mut self, task: Task, transferred: u64) {
        self.connection.finish(task, Outcome::good(transferred));
    }

    /// A SCSI Response with this tag and status.
    pub(super) fn hear_response(&mut self, tag: u32, status: u8) -> ScsiResponse {
        let heard = self.hear();
        assert_eq!(heard.header.opcode(), opcode::SCSI_RESPONSE, "{heard:?}");
        let response = ScsiResponse::read(&heard.header);
        assert_eq!((response.initiator_task_tag, response.status), (tag, status));
        assert_eq!(response.stat_sn, self.exp_stat_sn);
        self.exp_stat_sn = self.exp_stat_sn.wrapping_add(1);
        response
    }

    /// A CHECK CONDITION made by the engine, with this additional sense code and qualifier.
    pub(super) fn hear_condition(&mut self, tag: u32, code: [u8; 2]) {
        let heard = self.hear();
        let response = ScsiResponse::read(&heard.header);
        assert_eq!(heard.header.opcode(), opcode::SCSI_RESPONSE, "{heard:?}");
        assert_eq!((response.initiator_task_tag, response.status), (tag, 2));
        assert_eq!(heard.data[..5], [0, 18, 0x70, 0, 0x0b], "aborted command");
        assert_eq!(heard.data[14..16], code);
        self.exp_stat_sn = response.stat_sn.wrapping_add(1);
    }

    /// A Reject for this reason that repeats `header`.
    pub(super) fn hear_reject(&mut self, reason: u8, header: Header) {
        let heard = self.hear();
        assert_eq!(heard.header.opcode(), opcode::REJECT, "{heard:?}");
        assert_eq!(heard.header.0[2], reason);
        assert_eq!(heard.header.initiator_task_tag(), 0xffff_ffff);
        assert_eq!(heard.data[..4], header.0[..4]);
        assert_eq!(heard.data[8..], header.0[8..]);
        self.exp_stat_sn = self.exp_stat_sn.wrapping_add(1);
    }
}

/// The bytes that belong at `offset`.
pub(super) fn pattern(offset: usize, length: usize) -> Vec<u8> {
    (offset..offset + length).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}
