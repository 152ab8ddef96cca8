//! SCSI commands: from their header to their end.

use super::Connection;
use super::receive::{Sink, Then};
use super::request::Order;
use crate::event::{Attribute, Command, Event, Fatal, Outcome};
use crate::task::{Answer, Phase, Purpose, Task};
use crate::wire::{Header, RESERVED_TAG, ScsiCommand, reject};

/// Conditions of the transport that end a command with sense data of the target's own (11.4.7.2), as additional
/// sense code and qualifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Condition {
    /// Data came that was not agreed upon.
    UnexpectedUnsolicitedData,
    /// More or less data came than was announced, or at another place.
    IncorrectAmountOfData,
    /// Data was damaged or lost on its way.
    ProtocolServiceCrcError,
}

impl Condition {
    /// Fixed format sense data: ABORTED COMMAND, with the condition's code.
    const fn sense(self) -> [u8; 18] {
        let (code, qualifier) = match self {
            Self::UnexpectedUnsolicitedData => (0x0c, 0x0c),
            Self::IncorrectAmountOfData => (0x0c, 0x0d),
            Self::ProtocolServiceCrcError => (0x47, 0x05),
        };
        [0x70, 0, 0x0b, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0]
    }
}

const CHECK_CONDITION: u8 = 2;

/// What the additional header segments of a command say.
#[derive(Clone, Copy, Default)]
struct Additional {
    extended_cdb: u16,
    bidirectional_read_length: u32,
    /// There is one of a type we do not know.
    unknown: bool,
}

/// Read the additional headers of a command (11.2.2): each a length without its first three bytes, a type, and
/// padding to four bytes.
fn additional(mut segments: &[u8]) -> Result<Additional, Fatal> {
    let mut found = Additional::default();
    while !segments.is_empty() {
        let [high, low, kind, rest @ ..] = segments else { return Err(Fatal::AdditionalHeader) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let body = rest.get(..length).ok_or(Fatal::AdditionalHeader)?;
        match (kind & 0x3f, body) {
            (1, [_, cdb @ ..]) => found.extended_cdb = cdb.len() as u16,
            (2, [_, a, b, c, d]) => found.bidirectional_read_length = u32::from_be_bytes([*a, *b, *c, *d]),
            (1 | 2, _) => return Err(Fatal::AdditionalHeader),
            _ => found.unknown = true,
        }
        segments = segments.get((3 + length).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(found)
}

impl Connection {
    pub(super) fn scsi_command(&mut self, header: &Header) -> Result<(), Fatal> {
        let command = ScsiCommand::read(header);
        let additional = match header.additional_headers() {
            0 => Additional::default(),
            _ => additional(self.incoming.additional_headers())?,
        };
        match self.order(header)? {
            Order::Take => {}
            Order::Ignore => {
                self.swallow_unsolicited(command.write && !command.last, command.initiator_task_tag);
                return Ok(());
            }
            Order::Wait => return Ok(()),
        }
        if additional.unknown || command.initiator_task_tag == RESERVED_TAG {
            self.reject(header, reject::INVALID_PDU_FIELD);
            return Ok(());
        }
        if self.tasks.find_tag(command.initiator_task_tag).is_some() {
            self.reject(header, reject::TASK_IN_PROGRESS);
            return Ok(());
        }
        let begun = self.tasks.begin(Purpose::Command, command.immediate, command.initiator_task_tag);
        let Some(index) = begun else {
            self.swallow_unsolicited(command.write && !command.last, command.initiator_task_tag);
            self.reject(header, reject::IMMEDIATE_COMMAND);
            return Ok(());
        };
        self.arrived(header, true);
        // The tag is in new hands; what is left of an old command does not count any more.
        if !self.swallowed.is_empty() {
            self.swallowed.retain(|&tag| tag != command.initiator_task_tag);
        }
        self.begin_command(index, &command, &additional);
        Ok(())
    }

    fn begin_command(&mut self, index: u16, command: &ScsiCommand, additional: &Additional) {
        let length = command.expected_data_transfer_length;
        let bidirectional = command.read && command.write;
        let most = length.min(self.negotiation.parameters.first_burst_length());
        let task = self.tasks.task(index);
        let slot = &mut self.tasks[index];
        slot.cmd_sn = command.cmd_sn;
        slot.lun = command.lun;
        slot.bidirectional = bidirectional;
        slot.expected_out = if command.write { length } else { 0 };
        slot.expected_in = match (command.read, command.write) {
            (true, true) => additional.bidirectional_read_length,
            (true, false) => length,
            (false, _) => 0,
        };
        slot.wanted = slot.expected_out;
        // Where no byte more can come, none is waited for, whatever the F bit says.
        slot.unsolicited = command.write && !command.last && command.data_segment < most;
        slot.next_out = command.data_segment;
        if slot.unsolicited {
            self.owed.start();
        }
        if let Some(condition) = self.unfit(command) {
            self.end_by(index, condition);
            return;
        }
        if command.data_segment > 0 {
            self.incoming.direct(Sink::Task(task), 0, Then::Immediate(task));
        }
        self.counters.commands += 1;
        self.events.push_back(Event::Command(Command {
            task,
            lun: command.lun,
            cdb: command.cdb,
            extended_cdb: additional.extended_cdb,
            attribute: Attribute::from_code(command.attribute),
            immediate: command.immediate,
            read: command.read,
            write: command.write,
            expected_data_transfer_length: if command.read || command.write { length } else { 0 },
            bidirectional_read_length: if bidirectional { additional.bidirectional_read_length } else { 0 },
        }));
    }

    /// What is wrong with the data a command brings or announces.
    fn unfit(&self, command: &ScsiCommand) -> Option<Condition> {
        let parameters = &self.negotiation.parameters;
        let carries = command.data_segment > 0;
        if carries && !(command.write && parameters.immediate_data()) {
            return Some(Condition::UnexpectedUnsolicitedData);
        }
        if command.write && !command.last && parameters.initial_r2t() {
            return Some(Condition::UnexpectedUnsolicitedData);
        }
        let most = parameters.first_burst_length().min(command.expected_data_transfer_length);
        (command.data_segment > most).then_some(Condition::IncorrectAmountOfData)
    }

    /// The layer above, or the engine itself, has ended a command.
    pub(super) fn end_command(&mut self, index: u16, outcome: Outcome<'_>) {
        if !self.tasks[index].places.is_empty() {
            self.tasks.drop_places(index);
        }
        let Outcome { status, sense, transferred, bidirectional_read } = outcome;
        self.tasks.answer(index, Answer { status, transferred, bidirectional_read, sense_length: 0 }, sense);
        self.queue(index);
    }

    /// End a running command with a condition of the transport. Its data is not sent any more.
    pub(super) fn fail(&mut self, index: u16, condition: Condition) {
        if self.tasks[index].phase != Phase::Running {
            return;
        }
        let task = self.tasks.task(index);
        self.drop_data(index);
        self.events.push_back(Event::Dropped(task));
        self.end_by(index, condition);
    }

    fn end_by(&mut self, index: u16, condition: Condition) {
        self.counters.dropped += 1;
        let sense = condition.sense();
        self.end_command(
            index,
            Outcome { status: CHECK_CONDITION, sense: &sense, transferred: 0, bidirectional_read: 0 },
        );
    }

    /// A PDU with data of this command was damaged. `data_out` is the tag and the F bit if it was a Data-Out.
    pub(super) fn spoil(&mut self, task: Task, data_out: Option<(u32, bool)>) {
        let Some(index) = self.tasks.find(task) else { return };
        self.fail(index, Condition::ProtocolServiceCrcError);
        match data_out {
            Some((tag, last)) => self.data_out_is_whole(index, tag, last),
            None => self.queue(index),
        }
    }

    /// Free a slot and all that is in it, without a response.
    pub(super) fn forget(&mut self, index: u16) {
        let slot = &self.tasks[index];
        let (unsolicited, tag) = (slot.unsolicited, slot.initiator_task_tag);
        self.swallow_unsolicited(unsolicited, tag);
        self.outgoing.unqueue(index);
        self.release(index);
    }

    /// Free a slot, which opens the window by one if it was one of the window's.
    pub(super) fn release(&mut self, index: u16) {
        if !self.tasks[index].data.is_empty() {
            self.drop_data(index);
        }
        let immediate = self.tasks.end(index);
        if !immediate {
            self.sequence.release();
        }
    }

    /// Give back the Data-In of a task, a piece that is just being sent as soon as its PDU is out.
    fn drop_data(&mut self, index: u16) {
        if self.tasks.drop_data(index, self.outgoing.piece()) {
            self.outgoing.orphan_piece();
        }
    }

    /// Remember that unsolicited data for this tag is on its way and belongs nowhere.
    fn swallow_unsolicited(&mut self, expected: bool, tag: u32) {
        if !expected {
            return;
        }
        if self.swallowed.len() == self.limits.slots() {
            self.swallowed.pop_front();
        }
        self.swallowed.push_back(tag);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additional_headers_are_read_within_their_bounds() {
        let read_length = [0, 5, 2, 0, 0, 0, 2, 0];
        assert_eq!(additional(&read_length).map(|a| a.bidirectional_read_length), Ok(512));
        let mut cdb = vec![0, 17, 1, 0];
        cdb.extend([0; 16]);
        assert_eq!(additional(&cdb).map(|a| a.extended_cdb), Ok(16));
        assert_eq!(additional(&[0, 1, 0x3f, 0]).map(|a| a.unknown), Ok(true));
        assert!(additional(&[]).is_ok());
    }

    #[test]
    fn additional_headers_that_reach_beyond_their_area_end_the_connection() {
        for wrong in
            [&[0xff, 0xff, 1, 0][..], &[0, 2, 1, 0], &[0, 0, 1, 0], &[0, 4, 2, 0, 0, 0, 2, 0], &[0, 5]]
        {
            assert_eq!(additional(wrong).map(|_| ()), Err(Fatal::AdditionalHeader), "{wrong:?}");
        }
    }

    #[test]
    fn every_length_of_every_additional_header_is_survived() {
        for total in (0..=1020).step_by(4) {
            for length in 0..=u16::MAX {
                if length > 300 && length % 997 != 0 {
                    continue;
                }
                let mut area = vec![0; total];
                for (place, byte) in area.iter_mut().zip(length.to_be_bytes()) {
                    *place = byte;
                }
                let _ = additional(&area);
            }
        }
    }
}
