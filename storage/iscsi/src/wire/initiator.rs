//! What an initiator sends.

use super::header::{At, Bit, Bits, DataSegment, Header, Place, layout};
use super::opcode;

layout! {
    /// NOP-Out (11.18): a ping, or the answer to the target's ping.
    NopOut = opcode::NOP_OUT, 0x80 {
        /// I bit.
        immediate: bool = Bit(0, 0x40),
        /// Bytes of ping data.
        data_segment: u32 = DataSegment,
        /// Copied from the NOP-In that is answered.
        lun: [u8; 8] = At(8),
        /// Reserved when no answer is wanted.
        initiator_task_tag: u32 = At(16),
        /// Reserved unless this answers a NOP-In.
        target_transfer_tag: u32 = At(20),
        /// Command sequence number.
        cmd_sn: u32 = At(24),
        /// The next status number the initiator expects.
        exp_stat_sn: u32 = At(28),
    }
}

layout! {
    /// SCSI Command (11.3).
    ScsiCommand = opcode::SCSI_COMMAND, 0x00 {
        /// I bit.
        immediate: bool = Bit(0, 0x40),
        /// F bit: no unsolicited Data-Out follows.
        last: bool = Bit(1, 0x80),
        /// R bit: data is expected from the target.
        read: bool = Bit(1, 0x40),
        /// W bit: data is expected from the initiator.
        write: bool = Bit(1, 0x20),
        /// Task attribute, 0 untagged to 4 ACA.
        attribute: u8 = Bits(1, 0x07),
        /// Bytes of immediate data.
        data_segment: u32 = DataSegment,
        /// Logical unit number, eight bytes as SAM has them.
        lun: [u8; 8] = At(8),
        /// The initiator's name for the task.
        initiator_task_tag: u32 = At(16),
        /// Bytes the initiator has a place for, or has to give.
        expected_data_transfer_length: u32 = At(20),
        /// Command sequence number.
        cmd_sn: u32 = At(24),
        /// The next status number the initiator expects.
        exp_stat_sn: u32 = At(28),
        /// Command descriptor block, zero padded; longer ones go on in an additional header.
        cdb: [u8; 16] = At(32),
    }
}

layout! {
    /// Task Management Function Request (11.5).
    TaskManagementRequest = opcode::TASK_MANAGEMENT_REQUEST, 0x80 {
        /// I bit.
        immediate: bool = Bit(0, 0x40),
        /// Function code.
        function: u8 = Bits(1, 0x7f),
        /// Logical unit number.
        lun: [u8; 8] = At(8),
        /// The initiator's name for this request.
        initiator_task_tag: u32 = At(16),
        /// The task that is meant, or reserved.
        referenced_task_tag: u32 = At(20),
        /// Command sequence number.
        cmd_sn: u32 = At(24),
        /// The next status number the initiator expects.
        exp_stat_sn: u32 = At(28),
        /// CmdSN of the task that is meant.
        ref_cmd_sn: u32 = At(32),
        /// For TASK REASSIGN.
        exp_data_sn: u32 = At(36),
    }
}

layout! {
    /// Login Request (11.12).
    LoginRequest = opcode::LOGIN_REQUEST, 0x00 {
        /// I bit, always set by a correct initiator.
        immediate: bool = Bit(0, 0x40),
        /// T bit: go on to the next stage.
        transit: bool = Bit(1, 0x80),
        /// C bit: the text goes on in the next request.
        to_be_continued: bool = Bit(1, 0x40),
        /// Current stage: 0 security, 1 operational, 3 full feature.
        current_stage: u8 = Bits(1, 0x0c),
        /// Next stage.
        next_stage: u8 = Bits(1, 0x03),
        /// Highest version the initiator speaks.
        version_max: u8 = At(2),
        /// Lowest version the initiator speaks.
        version_min: u8 = At(3),
        /// Bytes of text.
        data_segment: u32 = DataSegment,
        /// The initiator's part of the session identifier.
        isid: [u8; 6] = At(8),
        /// Zero for a new session.
        tsih: u16 = At(14),
        /// The initiator's name for the whole login.
        initiator_task_tag: u32 = At(16),
        /// Connection identifier.
        cid: u16 = At(20),
        /// Number of the first command.
        cmd_sn: u32 = At(24),
        /// The next status number the initiator expects.
        exp_stat_sn: u32 = At(28),
    }
}

layout! {
    /// Text Request (11.10).
    TextRequest = opcode::TEXT_REQUEST, 0x00 {
        /// I bit.
        immediate: bool = Bit(0, 0x40),
        /// F bit: the initiator has said all it wanted.
        last: bool = Bit(1, 0x80),
        /// C bit: the text goes on in the next request.
        to_be_continued: bool = Bit(1, 0x40),
        /// Bytes of text.
        data_segment: u32 = DataSegment,
        /// Copied from the response before.
        lun: [u8; 8] = At(8),
        /// The initiator's name for the exchange.
        initiator_task_tag: u32 = At(16),
        /// Reserved at the beginning, then copied from the response before.
        target_transfer_tag: u32 = At(20),
        /// Command sequence number.
        cmd_sn: u32 = At(24),
        /// The next status number the initiator expects.
        exp_stat_sn: u32 = At(28),
    }
}

layout! {
    /// SCSI Data-Out (11.7).
    DataOut = opcode::DATA_OUT, 0x00 {
        /// F bit: the last of its sequence.
        last: bool = Bit(1, 0x80),
        /// Bytes of data.
        data_segment: u32 = DataSegment,
        /// Some initiators leave it zero.
        lun: [u8; 8] = At(8),
        /// The task it belongs to.
        initiator_task_tag: u32 = At(16),
        /// The R2T it answers, reserved for unsolicited data.
        target_transfer_tag: u32 = At(20),
        /// The next status number the initiator expects.
        exp_stat_sn: u32 = At(28),
        /// Counts the PDUs of one sequence.
        data_sn: u32 = At(36),
        /// Where in the task's data these bytes belong.
        buffer_offset: u32 = At(40),
    }
}

layout! {
    /// Logout Request (11.14).
    LogoutRequest = opcode::LOGOUT_REQUEST, 0x80 {
        /// I bit.
        immediate: bool = Bit(0, 0x40),
        /// 0 close the session, 1 close the connection, 2 remove the connection for recovery.
        reason: u8 = Bits(1, 0x7f),
        /// The initiator's name for this request.
        initiator_task_tag: u32 = At(16),
        /// The connection that is meant.
        cid: u16 = At(20),
        /// Command sequence number.
        cmd_sn: u32 = At(24),
        /// The next status number the initiator expects.
        exp_stat_sn: u32 = At(28),
    }
}

layout! {
    /// SNACK Request (11.16): retransmission, which error recovery level 0 does not have.
    SnackRequest = opcode::SNACK_REQUEST, 0x80 {
        /// What is asked for again.
        kind: u8 = Bits(1, 0x0f),
        /// Logical unit number.
        lun: [u8; 8] = At(8),
        /// The task that is meant, or reserved.
        initiator_task_tag: u32 = At(16),
        /// The transfer that is meant, or reserved.
        target_transfer_tag: u32 = At(20),
        /// The next status number the initiator expects.
        exp_stat_sn: u32 = At(28),
        /// First number missed.
        beg_run: u32 = At(40),
        /// How many.
        run_length: u32 = At(44),
    }
}
