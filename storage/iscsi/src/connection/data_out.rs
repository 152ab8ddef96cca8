//! Data from the initiator: unsolicited, and in answer to Ready To Transfer.

use super::Connection;
use super::command::Condition;
use super::receive::{Sink, Then};
use crate::task::{Owed, Phase, Purpose, Solicited};
use crate::wire::{DataOut, Header, RESERVED_TAG, reject};

impl Connection {
    /// The header of a Data-Out. Its LUN is not looked at: some initiators leave it empty.
    pub(super) fn data_out(&mut self, header: &Header) {
        let data = DataOut::read(header);
        let tagged = self.tasks.find_tag(data.initiator_task_tag);
        let Some(index) = tagged.filter(|&index| self.tasks[index].purpose == Purpose::Command) else {
            self.stray(header, &data);
            return;
        };
        let task = self.tasks.task(index);
        let checked = if data.target_transfer_tag == RESERVED_TAG {
            self.unsolicited(index, &data)
        } else {
            let outstanding = self.tasks[index].solicited();
            match outstanding.iter().position(|r2t| r2t.target_transfer_tag == data.target_transfer_tag) {
                Some(at) => solicited(&mut self.tasks[index].solicited[at], &data),
                None => {
                    self.stray(header, &data);
                    return;
                }
            }
        };
        let then = Then::DataOut(task, data.target_transfer_tag, data.last);
        match checked {
            Ok(()) => self.incoming.direct(Sink::Task(task), data.buffer_offset, then),
            Err(condition) => {
                self.fail(index, condition);
                self.incoming.direct(Sink::Swallow, 0, then);
            }
        }
    }

    fn unsolicited(&mut self, index: u16, data: &DataOut) -> Result<(), Condition> {
        let first_burst = self.negotiation.parameters.first_burst_length();
        let slot = &mut self.tasks[index];
        if !slot.unsolicited {
            // An end without data after the last byte that could come is idle, and does no harm.
            let idle = data.last && data.data_segment == 0;
            return if idle { Ok(()) } else { Err(Condition::UnexpectedUnsolicitedData) };
        }
        let most = first_burst.min(slot.expected_out);
        if data.data_sn != slot.unsolicited_data_sn || data.buffer_offset != slot.next_out {
            return Err(Condition::ProtocolServiceCrcError);
        }
        if data.data_segment > most.saturating_sub(slot.next_out) {
            return Err(Condition::IncorrectAmountOfData);
        }
        slot.unsolicited_data_sn = slot.unsolicited_data_sn.wrapping_add(1);
        slot.next_out += data.data_segment;
        Ok(())
    }

    /// Data for no task, or for an R2T that is not outstanding. What was aborted may have left some on its way;
    /// what never was gets a Reject.
    fn stray(&mut self, header: &Header, data: &DataOut) {
        let late = if data.target_transfer_tag == RESERVED_TAG {
            let at = self.swallowed.iter().position(|&tag| tag == data.initiator_task_tag);
            if let Some(at) = at.filter(|_| data.last) {
                self.swallowed.remove(at);
            }
            at.is_some()
        } else {
            self.gave_transfer_tag(data.target_transfer_tag)
        };
        if late {
            self.counters.late_data += 1;
        } else {
            self.reject(header, reject::INVALID_PDU_FIELD);
        }
    }

    /// The data of a Data-Out is in, whether it was used or swallowed.
    pub(super) fn data_out_is_whole(&mut self, index: u16, tag: u32, last: bool) {
        let first_burst = self.negotiation.parameters.first_burst_length();
        let slot = &mut self.tasks[index];
        if tag == RESERVED_TAG {
            let complete = slot.next_out >= first_burst.min(slot.expected_out);
            slot.unsolicited &= !last && !complete;
            if !slot.unsolicited {
                slot.owed = Owed::default();
            }
        } else if let Some(at) = slot.solicited().iter().position(|r2t| r2t.target_transfer_tag == tag)
            && (last || slot.solicited[at].next == slot.solicited[at].end)
        {
            slot.answered(at);
        }
        self.queue(index);
    }

    /// How many bytes the next R2T of a task would ask for: those that have a place, from the first byte that
    /// nobody has sent or asked for.
    pub(super) fn to_solicit(&self, index: u16) -> u32 {
        let slot = &self.tasks[index];
        if slot.places.is_empty() || slot.next_out >= slot.expected_out {
            return 0;
        }
        let parameters = &self.negotiation.parameters;
        let most = parameters.max_outstanding_r2t().min(u32::from(self.limits.max_outstanding_r2t));
        let may = slot.phase == Phase::Running && !slot.unsolicited && u32::from(slot.solicited_count) < most;
        if !may {
            return 0;
        }
        let until = self.tasks.covered_until(index, slot.next_out).min(slot.expected_out);
        until.saturating_sub(slot.next_out).min(parameters.max_burst_length())
    }
}

/// Check a Data-Out against its R2T and count it.
fn solicited(r2t: &mut Solicited, data: &DataOut) -> Result<(), Condition> {
    if r2t.spoilt {
        // The command has failed already; only the end of the sequence matters.
        return Ok(());
    }
    let left = r2t.end - r2t.next;
    let checked = if data.data_sn != r2t.data_sn || data.buffer_offset != r2t.next {
        Err(Condition::ProtocolServiceCrcError)
    } else if data.data_segment > left || data.last != (data.data_segment == left) {
        Err(Condition::IncorrectAmountOfData)
    } else {
        Ok(())
    };
    if checked.is_ok() {
        r2t.data_sn = r2t.data_sn.wrapping_add(1);
        r2t.next += data.data_segment;
    } else {
        r2t.spoilt = true;
        // All bytes are here, and only the F bit is not: there is nothing to wait for.
        if data.data_segment == left && data.buffer_offset == r2t.next {
            r2t.next = r2t.end;
        }
    }
    checked
}
