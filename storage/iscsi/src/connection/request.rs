//! Each kind of PDU to its place: what is legal now, what is in sequence, what is rejected.

use super::Connection;
use super::receive::Then;
use crate::event::Fatal;
use crate::login::{SessionType, Status};
use crate::session::Arrival;
use crate::state::State;
use crate::wire::{Header, LOGIN_DATA_SEGMENT, SerialNumber, opcode, reject};

/// What the command numbering says of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Order {
    /// It is the next one, or immediate.
    Take,
    /// It lies outside the window: as if it had never come.
    Ignore,
    /// Those before it come by other connections: its header waits, and is looked at again.
    Wait,
}

impl Connection {
    /// The headers of a PDU are in. Unless somebody directs its data, that is swallowed.
    pub(super) fn request(&mut self, header: &Header) -> Result<(), Fatal> {
        let opcode = header.opcode();
        if !header.from_initiator() {
            return Err(Fatal::UnexpectedPdu { opcode });
        }
        if self.state.is_before_full_feature() {
            return self.request_before_full_feature(header);
        }
        let length = header.data_segment();
        if length > self.negotiation.accepted_data_segment() {
            return Err(Fatal::DataSegmentTooLong { length });
        }
        if SerialNumber(self.sequence.stat_sn()).is_before(SerialNumber(header.exp_stat_sn())) {
            self.counters.status_from_the_future += 1;
        }
        if header.additional_headers() > 0 && opcode != opcode::SCSI_COMMAND {
            self.reject(header, reject::INVALID_PDU_FIELD);
            return Ok(());
        }
        // A discovery session is for finding targets and for leaving (4.3).
        let discovers = matches!(opcode, opcode::TEXT_REQUEST | opcode::LOGOUT_REQUEST);
        if self.peer.session_type == SessionType::Discovery && !discovers {
            self.reject(header, reject::PROTOCOL_ERROR);
            return Ok(());
        }
        match opcode {
            opcode::NOP_OUT => self.nop_out(header),
            opcode::SCSI_COMMAND => self.scsi_command(header),
            opcode::TASK_MANAGEMENT_REQUEST => self.task_management_request(header),
            opcode::TEXT_REQUEST => self.text_request(header),
            opcode::DATA_OUT => {
                self.data_out(header);
                Ok(())
            }
            opcode::LOGOUT_REQUEST => self.logout_request(header),
            opcode::SNACK_REQUEST => {
                self.reject(header, reject::SNACK_REJECT);
                Ok(())
            }
            opcode::LOGIN_REQUEST => {
                self.reject(header, reject::PROTOCOL_ERROR);
                Ok(())
            }
            _ => {
                self.reject(header, reject::COMMAND_NOT_SUPPORTED);
                Ok(())
            }
        }
    }

    /// Only login requests are legal before full feature phase (4.2.4), and 8,192 bytes are the most they carry (6.3).
    fn request_before_full_feature(&mut self, header: &Header) -> Result<(), Fatal> {
        let (opcode, length) = (header.opcode(), header.data_segment());
        if opcode != opcode::LOGIN_REQUEST {
            if self.state == State::TransportUp {
                return Err(Fatal::UnexpectedPdu { opcode });
            }
            self.refuse_login(Status::INVALID_DURING_LOGIN);
            return Ok(());
        }
        if header.additional_headers() > 0 {
            return Err(Fatal::AdditionalHeader);
        }
        if length > LOGIN_DATA_SEGMENT {
            return Err(Fatal::DataSegmentTooLong { length });
        }
        self.login_request(header)
    }

    /// Where a request stands in the command sequence, nothing being counted yet.
    pub(super) fn order(&mut self, header: &Header) -> Result<Order, Fatal> {
        if header.immediate() {
            return Ok(Order::Take);
        }
        match self.sequence.place(header.cmd_sn()) {
            Arrival::Next => Ok(Order::Take),
            Arrival::Ignored => {
                self.counters.ignored += 1;
                Ok(Order::Ignore)
            }
            Arrival::Gap if self.may_have_siblings() => {
                self.park();
                Ok(Order::Wait)
            }
            Arrival::Gap => {
                Err(Fatal::CommandGap { expected: self.sequence.exp_cmd_sn(), received: header.cmd_sn() })
            }
        }
    }

    /// Whether the session may have other connections.
    pub(super) fn may_have_siblings(&self) -> bool {
        self.parameters().max_connections() > 1
    }

    /// Let the header that is being looked at wait for what comes by other connections.
    #[cold]
    pub(super) fn park(&mut self) {
        self.sequence.wait();
        self.incoming.is_parked = true;
    }

    /// Look again at a command that waits for those before it, which come by other connections of the session: when
    /// [`Self::frees_others`] of one of these has said so. Answers whether it was taken.
    ///
    /// # Errors
    /// The connection must be dropped.
    pub fn retry(&mut self) -> Result<bool, Fatal> {
        if !self.incoming.is_parked || self.has_events() {
            return Ok(false);
        }
        self.incoming.is_parked = false;
        let header = self.incoming.header();
        self.header_is_whole(&header)?;
        Ok(!self.incoming.is_parked)
    }

    /// Whether commands have come by this connection, or count as if they had, for which others of its session wait: they
    /// are to [`Self::retry`]. Answered once.
    pub fn frees_others(&self) -> bool {
        self.sequence.take_progress(self.incoming.is_parked)
    }

    /// Tell the initiator if the end of another connection of the session has opened the window: nothing else may.
    pub fn tell_reopened(&mut self) {
        if self.state.is_full_feature() && self.sequence.take_reopened() {
            self.tell_window();
        }
    }

    /// Count a request that was taken, if it is not immediate. `hold` says that it keeps a slot of the window.
    pub(super) fn arrived(&mut self, header: &Header, hold: bool) {
        if !header.immediate() {
            self.sequence.arrived(hold);
        }
    }

    /// A data segment did not match its digest (7.8): the PDU is rejected and has no effect. A command that it
    /// belongs to ends with a status, when all its data is in.
    pub(super) fn data_digest_failed(&mut self, header: &Header, then: Then) {
        self.reject(header, reject::DATA_DIGEST_ERROR);
        match then {
            Then::Immediate(task) => self.spoil(task, None),
            Then::DataOut(task, tag, last) => self.spoil(task, Some((tag, last))),
            Then::Text => self.text_request_failed(),
            Then::Nothing | Then::Login | Then::Ping => {}
        }
    }
}
