//! From bytes to PDUs: a header, its data into the place where it belongs, padding and digests.

use super::Connection;
use crate::event::{Event, Fatal};
use crate::state::State;
use crate::task::{Phase, Task};
use crate::wire::{BASIC_HEADER, DIGEST, Header, MAX_ADDITIONAL_HEADERS, opcode, padding};
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
    /// A whole header waits for commands that come by other connections.
    pub(super) is_parked: bool,
    /// Which command those before it were at when that was last looked at.
    pub(super) awaited: Option<u32>,
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
            is_parked: false,
            awaited: None,
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
        self.is_parked = false;
        self.awaited = None;
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

    /// Whether [`Self::space`] is not empty: for those who need no more than that.
    pub fn has_space(&self) -> bool {
        self.may_read() && (self.incoming.part != Part::Data || self.has_place())
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
        self.grew(count)
    }

    fn grew(&mut self, count: usize) -> Result<(), Fatal> {
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

    /// Take as many of these bytes from the peer as can be taken now: those there is a place for, up to the next event that
    /// has to be heard before anything else is read. Commands that come one behind the other are taken all at once.
    /// Answers how many they were.
    ///
    /// # Errors
    /// The connection must be dropped.
    pub fn take(&mut self, now: Instant, bytes: &[u8]) -> Result<usize, Fatal> {
        self.take_while(now, bytes, |connection, rest| {
            connection.may_read() || connection.may_read_command(rest)
        })
    }

    /// Take what stands behind commands that the layer above keeps waiting in [`Self::poll_event`]: pings, which wait for
    /// no command, and, to get to them, commands without data of their own, which wait there as well. Data for those that
    /// wait has no place yet, so that this is as far as it goes. Answers how many bytes that were.
    ///
    /// # Errors
    /// The connection must be dropped.
    pub fn take_behind(&mut self, now: Instant, bytes: &[u8]) -> Result<usize, Fatal> {
        self.take_while(now, bytes, Self::may_read_behind)
    }

    /// Take of these bytes what may be read, as long as something is taken.
    #[inline]
    fn take_while(
        &mut self,
        now: Instant,
        bytes: &[u8],
        may_read: impl Fn(&Self, &[u8]) -> bool,
    ) -> Result<usize, Fatal> {
        let mut rest = bytes;
        while !rest.is_empty() && may_read(self, rest) {
            let taken = self.take_part(rest)?;
            if taken == 0 {
                break;
            }
            rest = &rest[taken..];
        }
        let taken = bytes.len() - rest.len();
        if taken > 0 {
            self.alive(now);
        }
        Ok(taken)
    }

    /// Whether these bytes, which come next, begin a SCSI command.
    pub fn begins_command(&self, bytes: &[u8]) -> bool {
        self.is_between() && bytes.first().is_some_and(|first| first & 0x3f == opcode::SCSI_COMMAND)
    }

    /// Take of these bytes those of the part of a PDU that comes next.
    fn take_part(&mut self, bytes: &[u8]) -> Result<usize, Fatal> {
        let Incoming { part, have, need, .. } = self.incoming;
        // Nearly all headers lie there as a whole: no copy of a length to be found out.
        if part == Part::Header
            && (have, need) == (0, BASIC_HEADER)
            && let (Some(head), Some(header)) =
                (self.incoming.head.first_chunk_mut::<BASIC_HEADER>(), bytes.first_chunk())
        {
            *head = *header;
            self.grew(BASIC_HEADER)?;
            return Ok(BASIC_HEADER);
        }
        let place = match part {
            Part::Header => &mut self.incoming.head[have..need],
            Part::Trailer => &mut self.incoming.trailer[have..need],
            Part::Data => self.data_space(),
        };
        let count = place.len().min(bytes.len());
        place[..count].copy_from_slice(&bytes[..count]);
        if count > 0 {
            self.grew(count)?;
        }
        Ok(count)
    }

    /// Whether a command may be read although events wait: a plain one, whole and without data of its own, behind nothing
    /// but commands and their data. It is in nobody's way, and cannot end anything that is being told of. Where there may be
    /// other connections they are taken one by one: what was taken is in order among theirs and cannot wait.
    fn may_read_command(&self, bytes: &[u8]) -> bool {
        let is_plain = matches!(bytes, [first, _, _, _, 0, 0, 0, 0, ..] if first & 0x3f == opcode::SCSI_COMMAND)
            && bytes.len() >= self.incoming.need;
        let waits = matches!(self.events.back(), Some(Event::Command(_) | Event::Received { .. }));
        is_plain
            && waits
            && self.is_between()
            && self.may_begin()
            && self.events.len() < self.events.capacity()
            && !self.may_have_siblings()
    }

    /// Whether these bytes may be read although events wait: of a ping, whose answer tells of nothing else and may be given
    /// first, or of a command as [`Self::may_read_command`] has it, be they a part of its header.
    fn may_read_behind(&self, bytes: &[u8]) -> bool {
        let Incoming { part, have, is_parked, ref head, .. } = self.incoming;
        let have = if part == Part::Header { have } else { BASIC_HEADER };
        let byte = |at: usize| if at < have { head.get(at) } else { bytes.get(at - have) };
        let may = if self.is_between() { self.may_begin() } else { self.is_open() && !is_parked };
        let waits = matches!(self.events.back(), Some(Event::Command(_) | Event::Received { .. }));
        let is_meant = match byte(0).map(|first| first & 0x3f) {
            Some(opcode::NOP_OUT) => true,
            Some(opcode::SCSI_COMMAND) => {
                part == Part::Header
                    && (4..8).all(|at| byte(at).is_none_or(|length| *length == 0))
                    && self.events.len() < self.events.capacity()
                    && !self.may_have_siblings()
            }
            _ => false,
        };
        waits && may && is_meant
    }

    /// The command whose data stands next on the connection and has no place. Until it gets one by
    /// [`Self::receive`], or is ended, nothing is read, not even a ping.
    pub fn starved(&self) -> Option<Task> {
        let Sink::Task(task) = self.incoming.sink else { return None };
        (self.may_read() && self.incoming.part == Part::Data && !self.has_place()).then_some(task)
    }

    /// Whether reading is held up by us, so that the peer's silence means nothing.
    pub(super) fn is_held_up(&self) -> bool {
        !self.has_space()
    }

    fn may_read(&self) -> bool {
        self.events.is_empty()
            && if self.is_between() { self.may_begin() } else { self.is_open() && !self.incoming.is_parked }
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn is_open(&self) -> bool {
        let open = self.state.is_before_full_feature() || self.state.is_full_feature();
        open && !self.outgoing.is_closing()
    }

    fn is_between(&self) -> bool {
        self.incoming.part == Part::Header && self.incoming.have == 0
    }

    /// Whether another PDU may be read: one that needs what an earlier one still occupies could come.
    fn may_begin(&self) -> bool {
        self.is_open() && !(self.login.waiting || self.text.is_busy() || self.outgoing.is_congested())
    }

    /// Whether the data that comes next has somewhere to go.
    fn has_place(&self) -> bool {
        let Incoming { sink, offset, .. } = self.incoming;
        let Sink::Task(task) = sink else { return true };
        match self.tasks.find_running(task).filter(|&index| offset < self.tasks[index].wanted) {
            Some(index) => self.tasks.place_at(index, offset).is_some(),
            None => true,
        }
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
        self.header_is_whole(&header)
    }

    pub(super) fn header_is_whole(&mut self, header: &Header) -> Result<(), Fatal> {
        self.incoming.left = header.data_segment();
        self.incoming.checksum = 0;
        self.incoming.direct(Sink::Swallow, 0, Then::Nothing);
        self.request(header)?;
        if self.incoming.is_parked {
            return Ok(());
        }
        self.incoming.part = Part::Data;
        if self.incoming.left > 0 {
            return Ok(());
        }
        if self.incoming.then == Then::Nothing {
            self.incoming.clear();
        } else {
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
            self.task_data_grew((task, index), at, count, !digest);
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

    /// `count` bytes of a task's data came, which belong at `at`. A place that is full by that goes up, unless something may
    /// be wrong with them yet.
    fn task_data_grew(&mut self, (task, index): (Task, u16), at: u32, count: u32, is_sure: bool) {
        let slot = &mut self.tasks[index];
        slot.owed.has_progressed = true;
        if slot.phase != Phase::Running || at >= slot.wanted {
            return;
        }
        let Some(place) = self.tasks.place_at(index, at) else { return };
        let Some(piece) = self.tasks.piece_mut(place) else { return };
        piece.done += count;
        let (is_full, offset) = (piece.done >= piece.length, piece.offset);
        if is_sure
            && is_full
            && let Some(buffer) = self.tasks.take_place(index, place)
        {
            self.events.push_back(Event::Received { task, offset, buffer });
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
