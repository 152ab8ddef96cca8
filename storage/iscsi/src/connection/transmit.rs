//! From what is to be said to bytes: which PDU is next, its numbers, its data where it lies, and digests.

use super::Connection;
use crate::event::Event;
use crate::limits::{Limits, MAX_SENSE};
use crate::login::Status;
use crate::state::Trigger;
use crate::task::{Phase, Purpose, Solicited};
use crate::wire::{
    AsyncMessage, BASIC_HEADER, DIGEST, DataIn, Header, LoginResponse, LogoutResponse, NopIn, RESERVED_TAG,
    ReadyToTransfer, Reject, ScsiResponse, TaskManagementResponse, TextResponse, padding,
};
use alloc::{boxed::Box, collections::VecDeque, vec};

/// Messages that may wait. Reading stops before they could be more.
const MESSAGES: usize = 32;
/// With so many waiting nothing more is read: what is being read makes at most a few of them.
const CONGESTED: usize = MESSAGES - 8;
/// Asynchronous events of logical units that may wait.
const UNIT_EVENTS: usize = 4;
/// The longest head: header, digest, data that is copied, padding, digest.
const HEAD: usize = BASIC_HEADER + DIGEST + (2 + MAX_SENSE).next_multiple_of(4) + DIGEST;

/// What is to be said apart from the business of tasks.
#[derive(Clone, Copy, Debug)]
pub(super) enum Message {
    Login {
        stage: u8,
        next: Option<u8>,
        to_be_continued: bool,
        status: Status,
    },
    Text {
        last: bool,
        to_be_continued: bool,
        lun: [u8; 8],
        initiator_task_tag: u32,
        target_transfer_tag: u32,
    },
    /// The answer to a ping, with so many bytes of the ping data.
    Echo {
        lun: [u8; 8],
        initiator_task_tag: u32,
        length: u32,
    },
    /// A ping of our own.
    Ping {
        target_transfer_tag: u32,
    },
    Logout {
        initiator_task_tag: u32,
        response: u8,
        closes: bool,
    },
    Reject {
        reason: u8,
        header: Header,
    },
    Async {
        event: u8,
        parameters: [u16; 3],
    },
    /// The oldest of the unit events.
    UnitEvent,
}

/// An event of a logical unit that waits to be told.
#[derive(Clone, Copy, Debug)]
struct UnitEvent {
    lun: [u8; 8],
    sense: [u8; MAX_SENSE],
    length: usize,
}

/// Where the data of the PDU being sent lies, if not in its head.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    None,
    Text,
    Ping,
    /// So many bytes of a piece, from this one on.
    Piece {
        at: u32,
        begin: usize,
    },
}

/// The PDU being sent and what waits behind it.
#[derive(Debug)]
pub(super) struct Outgoing {
    head: [u8; HEAD],
    head_length: usize,
    body: Body,
    body_length: usize,
    trailer: [u8; 3 + DIGEST],
    trailer_length: usize,
    /// Bytes of head, body and trailer that were transmitted.
    sent: usize,
    /// The piece is in no list any more and is given back when the PDU was sent.
    last_of_piece: bool,
    /// Nothing is to be said after this PDU, or after the messages that wait.
    last_of_all: bool,
    closing: bool,
    messages: VecDeque<Message>,
    unit_events: VecDeque<UnitEvent>,
    ready: VecDeque<u16>,
    ping: Box<[u8]>,
    pings_with_data: usize,
    pub(super) logout_tag: u32,
}

impl Outgoing {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            head: [0; HEAD],
            head_length: 0,
            body: Body::None,
            body_length: 0,
            trailer: [0; 3 + DIGEST],
            trailer_length: 0,
            sent: 0,
            last_of_piece: false,
            last_of_all: false,
            closing: false,
            messages: VecDeque::with_capacity(MESSAGES),
            unit_events: VecDeque::with_capacity(UNIT_EVENTS),
            ready: VecDeque::with_capacity(limits.slots()),
            ping: vec![0; limits.text as usize].into_boxed_slice(),
            pings_with_data: 0,
            logout_tag: RESERVED_TAG,
        }
    }

    pub(super) fn clear(&mut self) {
        self.head_length = 0;
        self.body = Body::None;
        self.body_length = 0;
        self.trailer_length = 0;
        self.sent = 0;
        self.last_of_piece = false;
        self.last_of_all = false;
        self.closing = false;
        self.messages.clear();
        self.unit_events.clear();
        self.ready.clear();
        self.pings_with_data = 0;
    }

    /// Whether the last PDU of the connection is on its way.
    pub(super) const fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether so much waits that nothing more should be read.
    pub(super) fn is_congested(&self) -> bool {
        self.messages.len() >= CONGESTED || self.pings_with_data > 0
    }

    /// The piece whose bytes are being sent.
    pub(super) const fn piece(&self) -> Option<u32> {
        match self.body {
            Body::Piece { at, .. } => Some(at),
            Body::None | Body::Text | Body::Ping => None,
        }
    }

    /// The piece whose bytes are being sent is in no list any more.
    pub(super) const fn orphan_piece(&mut self) {
        self.last_of_piece = true;
    }

    /// Bytes of ping data there is room for.
    pub(super) fn ping_capacity(&self) -> usize {
        self.ping.len()
    }

    pub(super) fn ping_space(&mut self, at: u32, left: usize) -> &mut [u8] {
        &mut self.ping[at as usize..at as usize + left]
    }

    /// Answer a ping with so many bytes of its data.
    pub(super) fn echo(&mut self, lun: [u8; 8], initiator_task_tag: u32, length: u32) {
        self.pings_with_data += usize::from(length > 0);
        self.say(Message::Echo { lun, initiator_task_tag, length });
    }

    pub(super) fn say(&mut self, message: Message) {
        self.closing |= match message {
            Message::Login { status, .. } => status != Status::SUCCESS,
            Message::Logout { closes, .. } => closes,
            _ => false,
        };
        self.messages.push_back(message);
    }

    /// Tell of an event of a logical unit, if there is room.
    pub(super) fn say_event(&mut self, lun: [u8; 8], sense: &[u8]) -> bool {
        if self.unit_events.len() == UNIT_EVENTS || sense.len() > MAX_SENSE {
            return false;
        }
        let mut event = UnitEvent { lun, sense: [0; MAX_SENSE], length: sense.len() };
        event.sense[..sense.len()].copy_from_slice(sense);
        self.unit_events.push_back(event);
        self.say(Message::UnitEvent);
        true
    }

    /// Take a slot out of the queue.
    pub(super) fn unqueue(&mut self, index: u16) {
        self.ready.retain(|&other| other != index);
    }

    fn is_idle(&self) -> bool {
        self.sent == self.head_length + self.body_length + self.trailer_length
    }
}

impl Connection {
    /// The next bytes for the peer, or `None` when there is nothing to say now.
    pub fn poll_transmit(&mut self) -> Option<&[u8]> {
        if self.outgoing.is_idle() && !self.next_pdu() {
            return None;
        }
        let out = &self.outgoing;
        let (head, body) = (out.head_length, out.head_length + out.body_length);
        if out.sent < head {
            return Some(&out.head[out.sent..head]);
        }
        if out.sent >= body {
            return Some(&out.trailer[out.sent - body..out.trailer_length]);
        }
        let whole = self.body();
        Some(&whole[out.sent - head..])
    }

    /// `count` bytes of [`Self::poll_transmit`] were handed to the peer's stream.
    pub fn transmitted(&mut self, count: usize) {
        let out = &mut self.outgoing;
        let whole = out.head_length + out.body_length + out.trailer_length;
        out.sent = whole.min(out.sent + count);
        if out.sent == whole && whole > 0 {
            self.pdu_is_sent();
        }
    }

    /// Reject a PDU (11.17).
    pub(super) fn reject(&mut self, header: &Header, reason: u8) {
        self.counters.rejected += 1;
        self.outgoing.say(Message::Reject { reason, header: *header });
    }

    /// Have the transmitter look at a slot: what asks for data goes before what sends some.
    pub(super) fn queue(&mut self, index: u16) {
        if self.tasks[index].queued || !self.has_work(index) {
            return;
        }
        self.tasks[index].queued = true;
        if self.to_solicit(index) > 0 {
            self.outgoing.ready.push_front(index);
        } else {
            self.outgoing.ready.push_back(index);
        }
    }

    fn has_work(&self, index: u16) -> bool {
        self.to_solicit(index) > 0 || self.next_data(index).is_some() || self.may_respond(index)
    }

    fn may_respond(&self, index: u16) -> bool {
        let slot = &self.tasks[index];
        slot.phase == Phase::Ending && !slot.awaits_data() && slot.data.is_empty()
    }

    /// The piece of Data-In that may be sent next: that which follows what was sent, or the first one if the layer
    /// above says that there is nothing between.
    fn next_data(&self, index: u16) -> Option<u32> {
        let slot = &self.tasks[index];
        let at = slot.data.first;
        let piece = self.tasks.piece(at)?;
        let follows = piece.offset + piece.done <= slot.next_in;
        (follows || slot.phase == Phase::Ending).then_some(at)
    }

    fn body(&self) -> &[u8] {
        let length = self.outgoing.body_length;
        match self.outgoing.body {
            Body::None => &[],
            Body::Text => self.text.saying(),
            Body::Ping => &self.outgoing.ping[..length],
            Body::Piece { at, begin } => self
                .tasks
                .piece(at)
                .and_then(|piece| piece.buffer.as_ref())
                .and_then(|buffer| buffer.get(begin..begin + length))
                .unwrap_or_default(),
        }
    }

    fn next_pdu(&mut self) -> bool {
        if self.outgoing.last_of_all {
            return false;
        }
        // A logout's answer is the last word, behind all responses.
        let last_word = matches!(self.outgoing.messages.front(), Some(Message::Logout { closes: true, .. }));
        (!last_word && self.next_message()) || self.next_of_task() || self.next_message()
    }

    fn next_message(&mut self) -> bool {
        let message = self.outgoing.messages.pop_front();
        message.map(|message| self.build_message(message)).is_some()
    }

    fn next_of_task(&mut self) -> bool {
        while let Some(index) = self.outgoing.ready.pop_front() {
            self.tasks[index].queued = false;
            if self.build_for_task(index) {
                return true;
            }
        }
        false
    }

    fn build_message(&mut self, message: Message) {
        let (header, body) = match message {
            Message::Login { .. } => (self.login_response(message), Body::Text),
            Message::Text { last, to_be_continued, lun, initiator_task_tag, target_transfer_tag } => {
                let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
                let response = TextResponse {
                    last,
                    to_be_continued,
                    data_segment: self.text.saying().len() as u32,
                    lun,
                    initiator_task_tag,
                    target_transfer_tag,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                };
                (response.header(), Body::Text)
            }
            Message::Echo { lun, initiator_task_tag, length } => {
                let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
                let echo = NopIn {
                    data_segment: length,
                    lun,
                    initiator_task_tag,
                    target_transfer_tag: RESERVED_TAG,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                };
                (echo.header(), Body::Ping)
            }
            Message::Ping { target_transfer_tag } => {
                let ping = NopIn {
                    initiator_task_tag: RESERVED_TAG,
                    target_transfer_tag,
                    stat_sn: self.sequence.stat_sn(),
                    exp_cmd_sn: self.sequence.exp_cmd_sn(),
                    max_cmd_sn: self.sequence.max_cmd_sn(),
                    ..Default::default()
                };
                (ping.header(), Body::None)
            }
            Message::Logout { initiator_task_tag, response, closes } => {
                self.outgoing.last_of_all = closes;
                if closes {
                    self.step(Trigger::LogoutResponse);
                }
                let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
                let response = LogoutResponse {
                    response,
                    initiator_task_tag,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                    time2wait: self.parameters().default_time2wait() as u16,
                    time2retain: self.parameters().default_time2retain() as u16,
                };
                (response.header(), Body::None)
            }
            Message::Reject { reason, header } => return self.build_reject(reason, &header),
            Message::Async { event, parameters } => {
                let [parameter1, parameter2, parameter3] = parameters;
                let message =
                    AsyncMessage { event, parameter1, parameter2, parameter3, ..self.async_message() };
                (message.header(), Body::None)
            }
            Message::UnitEvent => return self.build_unit_event(),
        };
        self.frame(&header, body, &[]);
    }

    fn login_response(&mut self, message: Message) -> Header {
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
        let request = self.login.request;
        let mut response = LoginResponse {
            data_segment: self.text.saying().len() as u32,
            isid: request.isid,
            tsih: request.tsih,
            initiator_task_tag: request.initiator_task_tag,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            ..Default::default()
        };
        if let Message::Login { stage, next, to_be_continued, status } = message {
            response.current_stage = stage;
            response.transit = next.is_some();
            response.next_stage = next.unwrap_or_default();
            response.to_be_continued = to_be_continued;
            response.status_class = status.class;
            response.status_detail = status.detail;
            // The session has its name when the login is done (11.13.3).
            if next == Some(crate::login::Stage::FullFeature.code()) {
                response.tsih = self.peer.tsih;
            }
            self.outgoing.last_of_all = status != Status::SUCCESS;
        }
        response.header()
    }

    fn build_reject(&mut self, reason: u8, rejected: &Header) {
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
        let reject = Reject {
            reason,
            data_segment: BASIC_HEADER as u32,
            initiator_task_tag: RESERVED_TAG,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data_sn: 0,
        };
        self.frame(&reject.header(), Body::None, &rejected.0);
    }

    fn async_message(&mut self) -> AsyncMessage {
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
        AsyncMessage {
            initiator_task_tag: RESERVED_TAG,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            ..Default::default()
        }
    }

    fn build_unit_event(&mut self) {
        let Some(event) = self.outgoing.unit_events.pop_front() else { return };
        let (data, length) = with_sense_length(&event.sense[..event.length]);
        let message = AsyncMessage { lun: event.lun, data_segment: length as u32, ..self.async_message() };
        self.frame(&message.header(), Body::None, &data[..length]);
    }

    /// Make the next PDU of a task, if it has one now.
    fn build_for_task(&mut self, index: u16) -> bool {
        let length = self.to_solicit(index);
        if length > 0 {
            self.build_ready_to_transfer(index, length);
            self.queue(index);
        } else if let Some(at) = self.next_data(index) {
            self.build_data_in(index, at);
        } else if self.may_respond(index) {
            match self.tasks[index].purpose {
                Purpose::Command => self.build_response(index),
                Purpose::TaskManagement => self.build_task_management_response(index),
            }
        } else {
            return false;
        }
        true
    }

    fn build_ready_to_transfer(&mut self, index: u16, length: u32) {
        let target_transfer_tag = self.take_transfer_tag();
        let slot = &mut self.tasks[index];
        let begin = slot.next_out;
        slot.next_out += length;
        slot.solicit(Solicited {
            target_transfer_tag,
            next: begin,
            end: slot.next_out,
            ..Default::default()
        });
        let r2t = ReadyToTransfer {
            lun: slot.lun,
            initiator_task_tag: slot.initiator_task_tag,
            target_transfer_tag,
            stat_sn: self.sequence.stat_sn(),
            exp_cmd_sn: self.sequence.exp_cmd_sn(),
            max_cmd_sn: self.sequence.max_cmd_sn(),
            r2t_sn: slot.r2t_sn,
            buffer_offset: begin,
            desired_data_transfer_length: length,
        };
        slot.r2t_sn = slot.r2t_sn.wrapping_add(1);
        self.frame(&r2t.header(), Body::None, &[]);
    }

    /// A Data-In of as much as one PDU, one burst and one piece hold. The last one takes the status with it, if
    /// that is GOOD (11.7.3).
    fn build_data_in(&mut self, index: u16, at: u32) {
        let most_segment = self.parameters().max_recv_data_segment_length();
        let most_burst = self.parameters().max_burst_length();
        let Some(piece) = self.tasks.piece_mut(at) else { return };
        let (begin, left) = (piece.done, piece.length - piece.done);
        let slot_burst = self.tasks[index].burst;
        let length = left.min(most_segment).min(most_burst.saturating_sub(slot_burst).max(1));
        let Some(piece) = self.tasks.piece_mut(at) else { return };
        piece.done += length;
        let offset = piece.offset + begin;
        let exhausted = length == left;
        if exhausted {
            self.tasks.unlink_data(index, at);
        }
        let ends = self.may_respond(index);
        let slot = &mut self.tasks[index];
        slot.next_in = slot.next_in.max(offset + length);
        slot.burst += length;
        let last = exhausted || slot.burst >= most_burst;
        if last {
            slot.burst = 0;
        }
        let data_sn = slot.data_in_sn;
        slot.data_in_sn = slot.data_in_sn.wrapping_add(1);
        let has_status =
            ends && slot.answer.status == 0 && slot.answer.sense_length == 0 && !slot.bidirectional;
        let mut data = DataIn {
            last,
            data_segment: length,
            initiator_task_tag: slot.initiator_task_tag,
            target_transfer_tag: RESERVED_TAG,
            data_sn,
            buffer_offset: offset,
            ..Default::default()
        };
        self.outgoing.last_of_piece = exhausted;
        self.outgoing.body = Body::Piece { at, begin: begin as usize };
        if has_status {
            let residual = self.residual(index);
            data.has_status = true;
            (data.overflow, data.underflow, data.residual_count) = residual;
            self.release(index);
            data.stat_sn = self.sequence.take_stat_sn();
        } else {
            data.stat_sn = 0;
            self.queue_again(index);
        }
        data.exp_cmd_sn = self.sequence.exp_cmd_sn();
        data.max_cmd_sn = self.sequence.max_cmd_sn();
        self.frame(&data.header(), Body::Piece { at, begin: begin as usize }, &[]);
    }

    /// Stay in front: a task that has begun to send goes on.
    fn queue_again(&mut self, index: u16) {
        if !self.tasks[index].queued && self.has_work(index) {
            self.tasks[index].queued = true;
            self.outgoing.ready.push_front(index);
        }
    }

    /// Overflow, underflow and residual count of what a command transferred (11.4.5).
    fn residual(&self, index: u16) -> (bool, bool, u32) {
        let slot = &self.tasks[index];
        let expected =
            if slot.bidirectional { slot.expected_out } else { slot.expected_out.max(slot.expected_in) };
        residual(slot.answer.transferred, expected)
    }

    fn build_response(&mut self, index: u16) {
        let (overflow, underflow, residual_count) = self.residual(index);
        let slot = &self.tasks[index];
        let answer = slot.answer;
        let (bidirectional_overflow, bidirectional_underflow, bidirectional_residual_count) =
            if slot.bidirectional {
                residual(answer.bidirectional_read, slot.expected_in)
            } else {
                (false, false, 0)
            };
        let (data, length) = match usize::from(answer.sense_length) {
            0 => ([0; 2 + MAX_SENSE], 0),
            sense => with_sense_length(&answer.sense[..sense]),
        };
        let mut response = ScsiResponse {
            bidirectional_overflow,
            bidirectional_underflow,
            overflow,
            underflow,
            status: answer.status,
            data_segment: length as u32,
            initiator_task_tag: slot.initiator_task_tag,
            exp_data_sn: if slot.data_in_sn > 0 { slot.data_in_sn } else { slot.r2t_sn },
            bidirectional_residual_count,
            residual_count,
            ..Default::default()
        };
        // The slot is free with this very response, and its MaxCmdSN says so.
        self.release(index);
        (response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn) = self.numbers();
        self.frame(&response.header(), Body::None, &data[..length]);
    }

    fn build_task_management_response(&mut self, index: u16) {
        let slot = &self.tasks[index];
        let mut response = TaskManagementResponse {
            response: slot.answer.status,
            initiator_task_tag: slot.initiator_task_tag,
            ..Default::default()
        };
        self.release(index);
        (response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn) = self.numbers();
        self.frame(&response.header(), Body::None, &[]);
    }

    /// A status number for a response, and the command window as it is.
    fn numbers(&mut self) -> (u32, u32, u32) {
        (self.sequence.take_stat_sn(), self.sequence.exp_cmd_sn(), self.sequence.max_cmd_sn())
    }

    /// Lay out a PDU: the header with its digest and data that is copied in the head, longer data where it lies.
    fn frame(&mut self, header: &Header, body: Body, copied: &[u8]) {
        let length = header.data_segment() as usize;
        let login = header.opcode() == crate::wire::opcode::LOGIN_RESPONSE;
        let header_digest = !login && self.parameters().header_digest();
        let data_digest = !login && length > 0 && self.parameters().data_digest();
        let crc32c = self.limits.crc32c;
        let out = &mut self.outgoing;
        out.sent = 0;
        out.head[..BASIC_HEADER].copy_from_slice(&header.0);
        out.head_length = BASIC_HEADER;
        if header_digest {
            let digest = crc32c(0, &header.0).to_le_bytes();
            out.head[BASIC_HEADER..BASIC_HEADER + DIGEST].copy_from_slice(&digest);
            out.head_length += DIGEST;
        }
        let begin = out.head_length;
        out.head[begin..begin + copied.len()].copy_from_slice(copied);
        out.head_length += copied.len();
        out.body = if copied.is_empty() && length > 0 { body } else { Body::None };
        out.body_length = if copied.is_empty() { length } else { 0 };
        let pad = padding(header.data_segment());
        out.trailer = [0; 3 + DIGEST];
        out.trailer_length = pad;
        if data_digest {
            let over = crc32c(0, if copied.is_empty() { self.body() } else { copied });
            let digest = crc32c(over, &[0; 3][..pad]).to_le_bytes();
            self.outgoing.trailer[pad..pad + DIGEST].copy_from_slice(&digest);
            self.outgoing.trailer_length += DIGEST;
        }
    }

    fn pdu_is_sent(&mut self) {
        self.counters.sent += 1;
        let out = &mut self.outgoing;
        match core::mem::replace(&mut out.body, Body::None) {
            Body::None => {}
            Body::Text => {}
            Body::Ping => out.pings_with_data = 0,
            Body::Piece { at, .. } => {
                if core::mem::take(&mut out.last_of_piece) {
                    drop(self.tasks.take(at));
                }
            }
        }
        let opcode = out.head[0] & 0x3f;
        out.head_length = 0;
        out.body_length = 0;
        out.trailer_length = 0;
        out.sent = 0;
        if matches!(opcode, crate::wire::opcode::LOGIN_RESPONSE | crate::wire::opcode::TEXT_RESPONSE) {
            self.text.transmitted();
        }
        if self.outgoing.last_of_all {
            self.events.push_back(Event::Close);
        }
    }
}

/// Overflow, underflow and count of bytes transferred against bytes expected.
fn residual(transferred: u64, expected: u32) -> (bool, bool, u32) {
    let expected = u64::from(expected);
    let count = u32::try_from(transferred.abs_diff(expected)).unwrap_or(u32::MAX);
    (transferred > expected, transferred < expected, count)
}

/// Sense data as it stands in a data segment: behind its length (11.4.7).
fn with_sense_length(sense: &[u8]) -> ([u8; 2 + MAX_SENSE], usize) {
    let mut data = [0; 2 + MAX_SENSE];
    data[..2].copy_from_slice(&(sense.len() as u16).to_be_bytes());
    data[2..2 + sense.len()].copy_from_slice(sense);
    (data, 2 + sense.len())
}
