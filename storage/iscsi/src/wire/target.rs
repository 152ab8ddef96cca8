//! What a target sends.

use super::header::{At, Bit, Bits, DataSegment, Header, Place, layout};
use super::opcode;

layout! {
    /// NOP-In (11.19): the answer to a ping, or a ping of the target's own.
    NopIn = opcode::NOP_IN, 0x80 {
        /// Bytes of ping data.
        data_segment: u32 = DataSegment,
        /// To be copied by who answers.
        lun: [u8; 8] = At(8),
        /// Reserved when this answers nothing.
        initiator_task_tag: u32 = At(16),
        /// Reserved when no answer is wanted.
        target_transfer_tag: u32 = At(20),
        /// Status number; consumed only by an answer.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
    }
}

layout! {
    /// SCSI Response (11.4).
    ScsiResponse = opcode::SCSI_RESPONSE, 0x80 {
        /// o bit: overflow of a bidirectional command's read data.
        bidirectional_overflow: bool = Bit(1, 0x10),
        /// u bit: underflow of a bidirectional command's read data.
        bidirectional_underflow: bool = Bit(1, 0x08),
        /// O bit: more data than the initiator expected.
        overflow: bool = Bit(1, 0x04),
        /// U bit: less data than the initiator expected.
        underflow: bool = Bit(1, 0x02),
        /// 0 command completed, 1 target failure.
        response: u8 = At(2),
        /// SCSI status.
        status: u8 = At(3),
        /// Bytes of sense and response data.
        data_segment: u32 = DataSegment,
        /// The task it ends.
        initiator_task_tag: u32 = At(16),
        /// Reserved at error recovery level 0.
        snack_tag: u32 = At(20),
        /// Status number.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
        /// Data-In PDUs, or R2Ts, that the task had.
        exp_data_sn: u32 = At(36),
        /// Bytes over or under a bidirectional command's expected read data.
        bidirectional_residual_count: u32 = At(40),
        /// Bytes over or under the Expected Data Transfer Length.
        residual_count: u32 = At(44),
    }
}

layout! {
    /// Task Management Function Response (11.6).
    TaskManagementResponse = opcode::TASK_MANAGEMENT_RESPONSE, 0x80 {
        /// How it went.
        response: u8 = At(2),
        /// Additional response information in the upper three bytes, of functions that have some (RFC 7144).
        additional: u32 = At(8),
        /// The request it answers.
        initiator_task_tag: u32 = At(16),
        /// Status number.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
    }
}

layout! {
    /// Login Response (11.13).
    LoginResponse = opcode::LOGIN_RESPONSE, 0x00 {
        /// T bit: the next stage begins.
        transit: bool = Bit(1, 0x80),
        /// C bit: the text goes on in the next response.
        to_be_continued: bool = Bit(1, 0x40),
        /// Current stage.
        current_stage: u8 = Bits(1, 0x0c),
        /// Next stage.
        next_stage: u8 = Bits(1, 0x03),
        /// Highest version the target speaks.
        version_max: u8 = At(2),
        /// The version in use.
        version_active: u8 = At(3),
        /// Bytes of text.
        data_segment: u32 = DataSegment,
        /// Copied from the request.
        isid: [u8; 6] = At(8),
        /// The target's part of the session identifier; zero until the login ends.
        tsih: u16 = At(14),
        /// Copied from the request.
        initiator_task_tag: u32 = At(16),
        /// Status number.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
        /// 0 success, 1 redirection, 2 the initiator's fault, 3 the target's.
        status_class: u8 = At(36),
        /// What exactly.
        status_detail: u8 = At(37),
    }
}

layout! {
    /// Text Response (11.11).
    TextResponse = opcode::TEXT_RESPONSE, 0x00 {
        /// F bit: the exchange is over.
        last: bool = Bit(1, 0x80),
        /// C bit: the text goes on in the next response.
        to_be_continued: bool = Bit(1, 0x40),
        /// Bytes of text.
        data_segment: u32 = DataSegment,
        /// To be copied by who goes on.
        lun: [u8; 8] = At(8),
        /// Copied from the request.
        initiator_task_tag: u32 = At(16),
        /// Reserved when the exchange is over.
        target_transfer_tag: u32 = At(20),
        /// Status number.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
    }
}

layout! {
    /// SCSI Data-In (11.7).
    DataIn = opcode::DATA_IN, 0x00 {
        /// F bit: the last of its sequence.
        last: bool = Bit(1, 0x80),
        /// A bit: acknowledge; error recovery level 1 and above.
        acknowledge: bool = Bit(1, 0x40),
        /// O bit, valid with `has_status`.
        overflow: bool = Bit(1, 0x04),
        /// U bit, valid with `has_status`.
        underflow: bool = Bit(1, 0x02),
        /// S bit: status travels in this PDU.
        has_status: bool = Bit(1, 0x01),
        /// SCSI status, valid with `has_status`.
        status: u8 = At(3),
        /// Bytes of data.
        data_segment: u32 = DataSegment,
        /// Valid with a transfer tag only.
        lun: [u8; 8] = At(8),
        /// The task it belongs to.
        initiator_task_tag: u32 = At(16),
        /// Reserved without `acknowledge`.
        target_transfer_tag: u32 = At(20),
        /// Status number, valid with `has_status`.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
        /// Counts the Data-In PDUs of the task.
        data_sn: u32 = At(36),
        /// Where in the task's data these bytes belong.
        buffer_offset: u32 = At(40),
        /// Bytes over or under the Expected Data Transfer Length, valid with `has_status`.
        residual_count: u32 = At(44),
    }
}

layout! {
    /// Logout Response (11.15).
    LogoutResponse = opcode::LOGOUT_RESPONSE, 0x80 {
        /// 0 closed, 1 CID not found, 2 recovery not supported, 3 cleanup failed.
        response: u8 = At(2),
        /// Copied from the request.
        initiator_task_tag: u32 = At(16),
        /// Status number.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
        /// Seconds to wait before the session is re-established.
        time2wait: u16 = At(40),
        /// Seconds the session's state is kept.
        time2retain: u16 = At(42),
    }
}

layout! {
    /// Ready To Transfer (11.8).
    ReadyToTransfer = opcode::READY_TO_TRANSFER, 0x80 {
        /// Logical unit number of the task.
        lun: [u8; 8] = At(8),
        /// The task it belongs to.
        initiator_task_tag: u32 = At(16),
        /// To be copied into the Data-Outs that answer it.
        target_transfer_tag: u32 = At(20),
        /// The next status number, not consumed.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
        /// Counts the R2Ts of the task.
        r2t_sn: u32 = At(36),
        /// First byte wanted.
        buffer_offset: u32 = At(40),
        /// How many.
        desired_data_transfer_length: u32 = At(44),
    }
}

layout! {
    /// Asynchronous Message (11.9).
    AsyncMessage = opcode::ASYNC_MESSAGE, 0x80 {
        /// Bytes of sense and event data.
        data_segment: u32 = DataSegment,
        /// Logical unit, for a SCSI event.
        lun: [u8; 8] = At(8),
        /// Always the reserved tag.
        initiator_task_tag: u32 = At(16),
        /// Status number.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
        /// 0 SCSI, 1 logout requested, 2 connection dropped, 3 session dropped, 4 negotiation, 255 vendor.
        event: u8 = At(36),
        /// Vendor code.
        vendor_code: u8 = At(37),
        /// CID, for event 2.
        parameter1: u16 = At(38),
        /// Time2Wait in seconds, for events 2 and 3.
        parameter2: u16 = At(40),
        /// Time2Retain in seconds, for events 2 and 3; seconds to log out in, for events 1 and 4.
        parameter3: u16 = At(42),
    }
}

layout! {
    /// Reject (11.17); the rejected header is its data.
    Reject = opcode::REJECT, 0x80 {
        /// Why.
        reason: u8 = At(2),
        /// Bytes of the rejected header.
        data_segment: u32 = DataSegment,
        /// Always the reserved tag.
        initiator_task_tag: u32 = At(16),
        /// Status number.
        stat_sn: u32 = At(24),
        /// The next command the target expects.
        exp_cmd_sn: u32 = At(28),
        /// The last command the target has room for.
        max_cmd_sn: u32 = At(32),
        /// The R2T or Data-Out that is meant; valid for some reasons only.
        data_sn: u32 = At(36),
    }
}
