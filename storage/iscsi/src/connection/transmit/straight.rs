//! Data-In whose bytes never come to this engine: whoever has them sends them behind a header made here.

use crate::connection::Connection;
use crate::task::{Answer, Purpose, Task};
use crate::wire::{BASIC_HEADER, DataIn, RESERVED_TAG, padding};
use storage_block::Arrived;

/// What is to be sent before and behind bytes of Data-In.
#[derive(Clone, Copy, Debug)]
pub struct Passage {
    /// Before them.
    pub header: [u8; BASIC_HEADER],
    /// How many bytes they are to be.
    pub length: u32,
    /// So many zeroes behind them.
    pub padding: usize,
}

impl Connection {
    /// Have bytes of the task's Data-In sent by whoever has them: `length` from `offset` on, or as many of them as can go
    /// now, where the stream has `room` for so many bytes and there is nothing to be said before them. If all go and `ends`
    /// tells how many bytes the command has transferred, that has ended with GOOD. What is answered counts as sent, and is
    /// to be put into the stream at once; `None` if nothing can go in this way, and then nothing has changed.
    pub fn pass(
        &mut self,
        task: Task,
        offset: u32,
        length: u32,
        room: usize,
        ends: Option<u64>,
    ) -> Option<Passage> {
        let parameters = self.parameters();
        let has_digests = parameters.header_digest() || parameters.data_digest();
        if has_digests || self.wants_to_transmit() || self.outgoing.last_of_all {
            return None;
        }
        let (most_segment, most_burst) =
            (parameters.max_recv_data_segment_length(), parameters.max_burst_length());
        let index = self.tasks.find_running(task)?;
        let slot = &self.tasks[index];
        let is_next = slot.next_in == offset && slot.data.is_empty();
        if !is_next || slot.purpose != Purpose::Command || slot.bidirectional || slot.awaits_data() {
            return None;
        }
        let left = slot.expected_in.checked_sub(offset)?;
        let room = u32::try_from(room.checked_sub(BASIC_HEADER)?).unwrap_or(u32::MAX);
        let most = (room - room % 4).min(most_segment).min(most_burst - slot.burst);
        let is_all = length <= most;
        // So nothing is padded, either.
        let length = if is_all { length } else { most - most % Arrived::GRAIN };
        if length == 0 || length > left {
            return None;
        }
        let mut data = DataIn {
            // More may follow at any time or never.
            last: true,
            data_segment: length,
            initiator_task_tag: slot.initiator_task_tag,
            target_transfer_tag: RESERVED_TAG,
            data_sn: slot.data_sn,
            buffer_offset: offset,
            ..Default::default()
        };
        if let Some(transferred) = ends.filter(|_| is_all) {
            let answer = Answer { status: 0, transferred, bidirectional_read: 0, sense_length: 0 };
            self.tasks.answer(index, answer, &[]);
            data.has_status = true;
            (data.overflow, data.underflow, data.residual_count) = self.residual(index);
            self.release(index);
            data.stat_sn = self.sequence.take_stat_sn();
        } else {
            let slot = &mut self.tasks[index];
            (slot.next_in, slot.burst) = (offset + length, 0);
            slot.data_sn = slot.data_sn.wrapping_add(1);
        }
        (data.exp_cmd_sn, data.max_cmd_sn) = (self.sequence.exp_cmd_sn(), self.sequence.max_cmd_sn());
        self.counters.sent += 1;
        Some(Passage { header: data.header().0, length, padding: padding(length) })
    }
}
