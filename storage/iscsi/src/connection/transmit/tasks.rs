//! What is said for tasks: Ready To Transfer, Data-In and responses.

use super::{Body, with_sense_length};
use crate::connection::Connection;
use crate::task::{List, Phase, Purpose, Solicited};
use crate::wire::{
    BASIC_HEADER, DataIn, RESERVED_TAG, ReadyToTransfer, ScsiResponse, TaskManagementResponse, padding,
};

impl Connection {
    fn has_work(&self, index: u16) -> bool {
        self.to_solicit(index) > 0 || self.has_answer(index)
    }

    /// Whether there is Data-In or a response to be sent.
    pub(super) fn has_answer(&self, index: u16) -> bool {
        self.next_data(index).is_some() || self.may_respond(index)
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

    /// Make the next PDU of a task, if it has one now.
    pub(super) fn build_for_task(&mut self, index: u16) -> bool {
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
        self.owed.start();
        let slot = &mut self.tasks[index];
        let r2t = ReadyToTransfer {
            lun: slot.lun,
            initiator_task_tag: slot.initiator_task_tag,
            target_transfer_tag,
            stat_sn: self.sequence.stat_sn(),
            exp_cmd_sn: self.sequence.exp_cmd_sn(),
            max_cmd_sn: self.sequence.max_cmd_sn(),
            r2t_sn: slot.data_sn,
            buffer_offset: begin,
            desired_data_transfer_length: length,
        };
        slot.data_sn = slot.data_sn.wrapping_add(1);
        self.frame(&r2t.header(), Body::None, &[]);
    }

    /// A Data-In of as much as one PDU, one burst and one piece hold. The last one takes the status with it, if
    /// that is GOOD (11.7.3).
    fn build_data_in(&mut self, index: u16, at: u32) {
        let most_segment = self.parameters().max_recv_data_segment_length();
        let most_burst = self.parameters().max_burst_length();
        let burst = self.tasks[index].burst;
        let Some(piece) = self.tasks.piece_mut(at) else { return };
        let (begin, left) = (piece.done, piece.length - piece.done);
        let length = left.min(most_segment).min(most_burst - burst);
        let offset = piece.offset + begin;
        piece.done += length;
        let exhausted = length == left;
        if exhausted {
            self.tasks.unlink_data(index, at);
        }
        self.outgoing.last_of_piece = exhausted;
        self.outgoing.body = Body::Piece { at, begin: begin as usize };
        // More may follow at any time or never, so that each piece ends a sequence of its own.
        let last = exhausted || burst + length == most_burst;
        let slot = &mut self.tasks[index];
        slot.next_in = slot.next_in.max(offset + length);
        slot.burst = if last { 0 } else { burst + length };
        let mut data = DataIn {
            last,
            data_segment: length,
            initiator_task_tag: slot.initiator_task_tag,
            target_transfer_tag: RESERVED_TAG,
            data_sn: slot.data_sn,
            buffer_offset: offset,
            ..Default::default()
        };
        slot.data_sn = slot.data_sn.wrapping_add(1);
        if self.takes_status_along(index) {
            data.has_status = true;
            (data.overflow, data.underflow, data.residual_count) = self.residual(index);
            self.release(index);
            data.stat_sn = self.sequence.take_stat_sn();
        } else {
            self.queue_again(index);
        }
        data.exp_cmd_sn = self.sequence.exp_cmd_sn();
        data.max_cmd_sn = self.sequence.max_cmd_sn();
        self.frame(&data.header(), Body::Piece { at, begin: begin as usize }, &[]);
    }

    /// Put the only Data-In of a command that is over, and its GOOD with it, into `room` as a whole: what
    /// [`Self::build_data_in`] makes of it, without keeping anything in between. `None` if that is not what comes next, or
    /// there is no room; then nothing has changed.
    pub(super) fn fill_data_and_status(&mut self, room: &mut [u8]) -> Option<usize> {
        let out = &self.outgoing;
        let parameters = self.parameters();
        if out.last_of_all
            || !out.messages.is_empty()
            || parameters.header_digest()
            || parameters.data_digest()
        {
            return None;
        }
        let index = *out.ready.front()?;
        let slot = &self.tasks[index];
        let at = slot.data.first;
        let piece = self.tasks.piece(at).filter(|piece| piece.done == 0 && piece.is_last())?;
        let most = parameters.max_recv_data_segment_length().min(parameters.max_burst_length() - slot.burst);
        let over = slot.phase == Phase::Ending && slot.purpose == Purpose::Command && !slot.awaits_data();
        if !over || piece.length > most || !self.is_plain_good(index) {
            return None;
        }
        let bytes = piece.buffer.as_deref()?;
        let length = BASIC_HEADER + bytes.len() + padding(piece.length);
        let (header, body) = room.get_mut(..length)?.split_first_chunk_mut::<BASIC_HEADER>()?;
        let (body, pad) = body.split_at_mut(bytes.len());
        body.copy_from_slice(bytes);
        pad.fill(0);
        let (overflow, underflow, residual_count) = self.residual(index);
        let mut data = DataIn {
            last: true,
            has_status: true,
            overflow,
            underflow,
            residual_count,
            data_segment: piece.length,
            initiator_task_tag: slot.initiator_task_tag,
            target_transfer_tag: RESERVED_TAG,
            data_sn: slot.data_sn,
            buffer_offset: piece.offset,
            ..Default::default()
        };
        self.outgoing.ready.pop_front();
        let slot = &mut self.tasks[index];
        (slot.queued, slot.data) = (false, List::EMPTY);
        drop(self.tasks.take(at));
        self.release(index);
        (data.stat_sn, data.exp_cmd_sn, data.max_cmd_sn) = self.numbers();
        *header = data.header().0;
        self.counters.sent += 1;
        Some(length)
    }

    /// Whether nothing but a plain GOOD is left to say.
    fn takes_status_along(&self, index: u16) -> bool {
        self.is_plain_good(index) && self.may_respond(index)
    }

    /// Whether all that a command's answer says is GOOD.
    fn is_plain_good(&self, index: u16) -> bool {
        let slot = &self.tasks[index];
        slot.answer.status == 0 && slot.answer.sense_length == 0 && !slot.bidirectional
    }

    /// Stay in front: a task that has begun to send goes on.
    fn queue_again(&mut self, index: u16) {
        if !self.tasks[index].queued && self.has_work(index) {
            self.tasks[index].queued = true;
            self.outgoing.ready.push_front(index);
        }
    }

    /// Overflow, underflow and residual count of what a command transferred (11.4.5).
    pub(super) fn residual(&self, index: u16) -> (bool, bool, u32) {
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
        let length = match u32::from(answer.sense_length) {
            0 => 0,
            sense => 2 + sense,
        };
        let mut response = ScsiResponse {
            bidirectional_overflow,
            bidirectional_underflow,
            overflow,
            underflow,
            status: answer.status,
            data_segment: length,
            initiator_task_tag: slot.initiator_task_tag,
            exp_data_sn: slot.data_sn,
            bidirectional_residual_count,
            residual_count,
            ..Default::default()
        };
        // The slot is free with this very response, and its MaxCmdSN says so.
        self.release(index);
        (response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn) = self.numbers();
        if length == 0 {
            return self.frame(&response.header(), Body::None, &[]);
        }
        // What was with the slot is there until it is used again.
        let (data, length) = with_sense_length(self.tasks.sense(index));
        self.frame(&response.header(), Body::None, &data[..length]);
    }

    fn build_task_management_response(&mut self, index: u16) {
        let slot = &self.tasks[index];
        let mut response = TaskManagementResponse {
            response: slot.answer.status,
            additional: slot.answer.transferred as u32,
            initiator_task_tag: slot.initiator_task_tag,
            ..Default::default()
        };
        self.release(index);
        (response.stat_sn, response.exp_cmd_sn, response.max_cmd_sn) = self.numbers();
        self.frame(&response.header(), Body::None, &[]);
    }
}

/// Overflow, underflow and count of bytes transferred against bytes expected.
fn residual(transferred: u64, expected: u32) -> (bool, bool, u32) {
    let expected = u64::from(expected);
    let count = u32::try_from(transferred.abs_diff(expected)).unwrap_or(u32::MAX);
    (transferred > expected, transferred < expected, count)
}
