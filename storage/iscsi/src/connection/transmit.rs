//! From what is to be said to bytes: which PDU is next, its numbers, its data where it lies, and digests.

mod messages;
mod straight;
mod tasks;

use messages::UnitEvent;
pub(super) use messages::{ASK_LOGOUT, Message};
pub use straight::Passage;

use super::Connection;
use crate::event::Event;
use crate::limits::{Limits, MAX_SENSE};
use crate::login::Status;
use crate::wire::{BASIC_HEADER, DIGEST, Header, RESERVED_TAG, opcode, padding};
use alloc::{boxed::Box, collections::VecDeque, vec};

/// Messages that may wait. Reading stops before they could be more.
const MESSAGES: usize = 32;
/// With so many waiting nothing more is read: what is being read makes at most a few of them.
const CONGESTED: usize = MESSAGES - 8;
/// Asynchronous events of logical units that may wait.
const UNIT_EVENTS: usize = 4;
/// The longest head: header, digest, data that is copied, padding, digest.
const HEAD: usize = BASIC_HEADER + DIGEST + (2 + MAX_SENSE).next_multiple_of(4) + DIGEST;

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

    /// How much memory the queues have taken.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> [usize; 3] {
        [self.messages.capacity(), self.unit_events.capacity(), self.ready.capacity()]
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
            other => other.is_last(),
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

    /// Put what there is to say into `room`, as far as it goes. Answers how many bytes that is.
    pub fn fill(&mut self, room: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < room.len() {
            if self.outgoing.is_idle() {
                if let Some(whole) = self.fill_data_and_status(&mut room[filled..]) {
                    filled += whole;
                    continue;
                }
                if !self.next_pdu() {
                    break;
                }
            }
            if let Some(whole) = self.fill_whole(&mut room[filled..]) {
                filled += whole;
                continue;
            }
            let Some(bytes) = self.poll_transmit() else { break };
            let count = bytes.len().min(room.len() - filled);
            room[filled..][..count].copy_from_slice(&bytes[..count]);
            filled += count;
            self.transmitted(count);
        }
        filled
    }

    /// Put the PDU into `room`, if nothing of it was sent yet and there is room for all of it.
    fn fill_whole(&mut self, room: &mut [u8]) -> Option<usize> {
        let out = &self.outgoing;
        let (head, trailer) = (out.head_length, out.trailer_length);
        let length = head + out.body_length + trailer;
        let body = self.body();
        if out.sent > 0 || length > room.len() || body.len() != out.body_length {
            return None;
        }
        let (header, digest) = room[..head].split_first_chunk_mut::<BASIC_HEADER>()?;
        let (basic, behind) = out.head.split_first_chunk()?;
        *header = *basic;
        if !digest.is_empty() {
            digest.copy_from_slice(&behind[..digest.len()]);
        }
        if !body.is_empty() {
            room[head..][..body.len()].copy_from_slice(body);
        }
        if trailer > 0 {
            room[length - trailer..length].copy_from_slice(&out.trailer[..trailer]);
        }
        self.pdu_is_sent();
        Some(length)
    }

    /// Whether there is something to say, or may be.
    pub fn wants_to_transmit(&self) -> bool {
        let out = &self.outgoing;
        !out.is_idle() || !out.last_of_all && !(out.messages.is_empty() && out.ready.is_empty())
    }

    /// Reject a PDU (11.17).
    pub(super) fn reject(&mut self, header: &Header, reason: u8) {
        self.counters.rejected += 1;
        self.outgoing.say(Message::Reject { reason, header: *header });
    }

    /// Have the transmitter look at a slot: what asks for data goes before what sends some.
    pub(super) fn queue(&mut self, index: u16) {
        if self.tasks[index].queued {
            return;
        }
        if self.to_solicit(index) > 0 {
            self.outgoing.ready.push_front(index);
        } else if self.has_answer(index) {
            self.outgoing.ready.push_back(index);
        } else {
            return;
        }
        self.tasks[index].queued = true;
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
        // A logout's answer is the last word, behind all responses, and so is that the connection is dropped.
        let last_word = self.outgoing.messages.front().is_some_and(Message::is_last);
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

    /// A status number for a response, and the command window as it is.
    fn numbers(&mut self) -> (u32, u32, u32) {
        (self.sequence.take_stat_sn(), self.sequence.exp_cmd_sn(), self.sequence.max_cmd_sn())
    }

    /// Lay out a PDU: the header with its digest and data that is copied in the head, longer data where it lies.
    fn frame(&mut self, header: &Header, body: Body, copied: &[u8]) {
        let length = header.data_segment() as usize;
        let login = header.opcode() == opcode::LOGIN_RESPONSE;
        let header_digest = !login && self.parameters().header_digest();
        let data_digest = !login && length > 0 && self.parameters().data_digest();
        let crc32c = self.limits.crc32c;
        let pad = padding(header.data_segment());
        let out = &mut self.outgoing;
        out.sent = 0;
        out.head[..BASIC_HEADER].copy_from_slice(&header.0);
        out.head_length = BASIC_HEADER;
        out.body = if copied.is_empty() && length > 0 { body } else { Body::None };
        out.body_length = if copied.is_empty() { length } else { 0 };
        out.trailer = [0; 3 + DIGEST];
        out.trailer_length = pad;
        if copied.is_empty() && !header_digest && !data_digest {
            // Nothing stands before or behind the data but the header and padding.
            return;
        }
        if header_digest {
            let digest = crc32c(0, &header.0).to_le_bytes();
            out.head[BASIC_HEADER..BASIC_HEADER + DIGEST].copy_from_slice(&digest);
            out.head_length += DIGEST;
        }
        let begin = out.head_length;
        out.head[begin..begin + copied.len()].copy_from_slice(copied);
        out.head_length += copied.len();
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
        if matches!(opcode, opcode::LOGIN_RESPONSE | opcode::TEXT_RESPONSE) {
            self.text.transmitted();
        }
        if self.outgoing.last_of_all {
            self.events.push_back(Event::Close);
        }
    }
}

/// Sense data as it stands in a data segment: behind its length (11.4.7).
fn with_sense_length(sense: &[u8]) -> ([u8; 2 + MAX_SENSE], usize) {
    let mut data = [0; 2 + MAX_SENSE];
    data[..2].copy_from_slice(&(sense.len() as u16).to_be_bytes());
    data[2..2 + sense.len()].copy_from_slice(sense);
    (data, 2 + sense.len())
}
