//! From bytes to PDUs: a header, its data into the place where it belongs, padding and digests.

use super::Connection;
use crate::event::{Event, Fatal};
use crate::state::State;
use crate::task::{Phase, Task};
use crate::wire::{BASIC_HEADER, DIGEST, Header, MAX_ADDITIONAL_HEADERS, padding};
use alloc::{boxed::Box, vec};
use kernel_runtime::Instant;

/// Where swallowed bytes go.
const SINK: usize = 4096;

/// Which part of a PDU comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Basic header, additional headers, header digest.
    Header,
    Data,
    /// Padding and data digest.
    Trailer,
}

/// Where the data segment of the current PDU belongs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sink {
    /// Nowhere.
    Swallow,
    /// Into the text of a login or text request.
    Text,
    /// Into the ping data.
    Ping,
    /// Into the places of a task.
    Task(Task),
}

/// What to do when the PDU is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Then {
    Nothing,
    Login,
    Text,
    Ping,
    /// Immediate data of a command.
    Immediate(Task),
    /// Data-Out of a task: the transfer tag, and whether it was the last of its sequence.
    DataOut(Task, u32, bool),
}

/// The PDU being received.
#[derive(Debug)]
pub(super) struct Incoming {
    part: Part,
    head: Box<[u8]>,
    have: usize,
    need: usize,
    sink: Sink,
    then: Then,
    /// Where the next data byte belongs in the task's data, or in the text or ping.
    offset: u32,
    /// Data bytes still to come.
    left: u32,
    checksum: u32,
    trailer: [u8; 3 + DIGEST],
    swallowed: Box<[u8]>,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            part: Part::Header,
            head: vec![0; BASIC_HEADER + MAX_ADDITIONAL_HEADERS + DIGEST].into_boxed_slice(),
            have: 0,
            need: BASIC_HEADER,
            sink: Sink::Swallow,
            then: Then::Nothing,
            offset: 0,
            left: 0,
            checksum: 0,
            trailer: [0; 3 + DIGEST],
            swallowed: vec![0; SINK].into_boxed_slice(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.part = Part::Header;
        self.have = 0;
        self.need = BASIC_HEADER;
    }

    /// The basic header of the PDU being received.
    pub(super) fn header(&self) -> Header {
        let mut header = [0; BASIC_HEADER];
        header.copy_from_slice(&self.head[..BASIC_HEADER]);
        Header(header)
    }

    /// Its additional headers.
    pub(super) fn additional_headers(&self) -> &[u8] {
        let length = usize::from(self.head[4]) * 4;
        &self.head[BASIC_HEADER..BASIC_HEADER + length]
    }

    /// Say where the data belongs, from `offset` on, and what comes after it.
    pub(super) fn direct(&mut self, sink: Sink, offset: u32, then: Then) {
        self.sink = sink;
        self.offset = offset;
        self.then = then;
    }
}

impl Connection {
    /// The place for the next bytes from the peer. Empty means that nothing may be read now: events wait, a
    /// buffer is missing, or the connection is at its end.
    pub fn space(&mut self) -> &mut [u8] {
        if !self.may_read() {
            return &mut [];
        }
        let Incoming { part, have, need, .. } = self.incoming;
        match part {
            Part::Header => &mut self.incoming.head[have..need],
            Part::Trailer => &mut self.incoming.trailer[have..need],
            Part::Data => self.data_space(),
        }
    }

    /// `count` bytes of [`Self::space`] were filled.
    ///
    /// # Errors
    /// The connection must be dropped.
    pub fn received(&mut self, now: Instant, count: usize) -> Result<(), Fatal> {
        if count == 0 {
            return Ok(());
        }
        if count > self.space().len() {
            return Err(Fatal::Overrun);
        }
        self.alive(now);
        if self.state.is_before_full_feature() {
            self.count_login_bytes(count)?;
        }
        match self.incoming.part {
            Part::Header => {
                self.incoming.have += count;
                self.header_grew()
            }
            Part::Data => {
                self.data_grew(count);
                Ok(())
            }
            Part::Trailer => {
                self.incoming.have += count;
                if self.incoming.have == self.incoming.need {
                    self.pdu_is_whole();
                }
                Ok(())
            }
        }
    }

    /// The command whose data stands next on the connection and has no place. Until it gets one by
    /// [`Self::receive`], or is ended, nothing is read, not even a ping.
    pub fn starved(&mut self) -> Option<Task> {
        let Sink::Task(task) = self.incoming.sink else { return None };
        (self.may_read() && self.incoming.part == Part::Data && self.data_space().is_empty()).then_some(task)
    }

    /// Whether reading is held up by us, so that the peer's silence means nothing.
    pub(super) fn is_held_up(&mut self) -> bool {
        self.space().is_empty()
    }

    fn may_read(&self) -> bool {
        let open = self.state.is_before_full_feature() || self.state.is_full_feature();
        if !open || !self.events.is_empty() || self.outgoing.is_closing() {
            return false;
        }
        // Between PDUs, one that needs what an earlier one still occupies could come.
        let between = self.incoming.part == Part::Header && self.incoming.have == 0;
        !between || !(self.login.waiting || self.text.is_busy() || self.outgoing.is_congested())
    }

    fn data_space(&mut self) -> &mut [u8] {
        let incoming = &mut self.incoming;
        let left = incoming.left as usize;
        let at = incoming.offset;
        match incoming.sink {
            Sink::Text => self.text.input_space(at, left),
            Sink::Ping => self.outgoing.ping_space(at, left),
            Sink::Task(task) => {
                let Some(index) =
                    self.tasks.find_running(task).filter(|&index| at < self.tasks[index].wanted)
                else {
                    return &mut incoming.swallowed[..left.min(SINK)];
                };
                let Some(place) = self.tasks.place_at(index, at) else { return &mut [] };
                let Some(piece) = self.tasks.piece_mut(place) else { return &mut [] };
                let begin = (at - piece.offset) as usize;
                let Some(buffer) = &mut piece.buffer else { return &mut [] };
                let end = buffer.len().min(begin + left);
                &mut buffer[begin..end]
            }
            Sink::Swallow => &mut incoming.swallowed[..left.min(SINK)],
        }
    }

    fn header_grew(&mut self) -> Result<(), Fatal> {
        let incoming = &mut self.incoming;
        if incoming.have < incoming.need {
            return Ok(());
        }
        let digest = if self.state == State::TransportUp || self.state == State::InLogin {
            0
        } else {
            DIGEST * usize::from(self.negotiation.parameters.header_digest())
        };
        let whole = BASIC_HEADER + usize::from(incoming.head[4]) * 4 + digest;
        if incoming.need < whole {
            incoming.need = whole;
            return Ok(());
        }
        self.counters.received += 1;
        let (covered, stated) = self.incoming.head[..whole].split_at(whole - digest);
        if digest > 0 && (self.limits.crc32c)(0, covered).to_le_bytes() != stated {
            return Err(Fatal::HeaderDigest);
        }
        let header = self.incoming.header();
        self.incoming.left = header.data_segment();
        self.incoming.checksum = 0;
        self.incoming.direct(Sink::Swallow, 0, Then::Nothing);
        self.request(&header)?;
        self.incoming.part = Part::Data;
        if self.incoming.left == 0 {
            self.pdu_is_whole();
        }
        Ok(())
    }

    fn data_grew(&mut self, count: usize) {
        let digest = self.has_data_digest();
        if digest {
            let checksum = (self.limits.crc32c)(self.incoming.checksum, &self.data_space()[..count]);
            self.incoming.checksum = checksum;
        }
        let count = count as u32;
        let at = self.incoming.offset;
        self.incoming.offset += count;
        self.incoming.left -= count;
        if let Sink::Task(task) = self.incoming.sink
            && let Some(index) = self.tasks.find(task)
        {
            self.tasks[index].owed.has_progressed = true;
        }
        if let Sink::Task(task) = self.incoming.sink
            && let Some(index) = self.tasks.find_running(task)
            && let Some(place) = self.tasks.place_at(index, at)
            && at < self.tasks[index].wanted
            && let Some(piece) = self.tasks.piece_mut(place)
        {
            piece.done += count;
            if !digest {
                self.hand_up(task, index);
            }
        }
        if self.incoming.left == 0 {
            let length = self.incoming.header().data_segment();
            self.incoming.part = Part::Trailer;
            self.incoming.have = 0;
            self.incoming.need = padding(length) + if digest { DIGEST } else { 0 };
            if self.incoming.need == 0 {
                self.pdu_is_whole();
            }
        }
    }

    fn has_data_digest(&self) -> bool {
        !self.state.is_before_full_feature() && self.negotiation.parameters.data_digest()
    }

    /// Hand up the places of a task that are full.
    fn hand_up(&mut self, task: Task, index: u16) {
        while let Some((offset, buffer)) = self.tasks.take_full_place(index) {
            self.events.push_back(Event::Received { task, offset, buffer });
        }
    }

    fn pdu_is_whole(&mut self) {
        let header = self.incoming.header();
        let length = header.data_segment();
        let mut intact = true;
        if length > 0 && self.has_data_digest() {
            let (pad, stated) = self.incoming.trailer[..self.incoming.need].split_at(padding(length));
            intact = (self.limits.crc32c)(self.incoming.checksum, pad).to_le_bytes() == stated;
        }
        let then = self.incoming.then;
        self.incoming.clear();
        if !intact {
            self.counters.data_digest_errors += 1;
            self.data_digest_failed(&header, then);
            return;
        }
        match then {
            Then::Nothing => {}
            Then::Login => self.login_request_is_whole(),
            Then::Text => self.text_request_is_whole(),
            Then::Ping => self.ping_is_whole(&header),
            Then::Immediate(task) => {
                if let Some(index) = self.tasks.find(task) {
                    if self.tasks[index].phase == Phase::Running {
                        self.hand_up(task, index);
                    }
                    self.queue(index);
                }
            }
            Then::DataOut(task, tag, last) => {
                if let Some(index) = self.tasks.find(task) {
                    if self.tasks[index].phase == Phase::Running {
                        self.hand_up(task, index);
                    }
                    self.data_out_is_whole(index, tag, last);
                }
            }
        }
    }
}
