//! Leaving (11.14, 11.15), and being asked to leave (11.9).

use super::Connection;
use super::request::Order;
use super::transmit::{ASK_LOGOUT, Message};
use crate::event::{Announcement, Event, Fatal, LogoutReason, LogoutResponse};
use crate::limits::MAX_SENSE;
use crate::state::Trigger;
use crate::task::{Phase, Purpose};
use crate::wire::{Header, LogoutRequest, RESERVED_TAG, reject};

const CID_NOT_FOUND: u8 = 1;
const RECOVERY_NOT_SUPPORTED: u8 = 2;

impl Connection {
    pub(super) fn logout_request(&mut self, header: &Header) -> Result<(), Fatal> {
        let request = LogoutRequest::read(header);
        if self.order(header)? != Order::Take {
            return Ok(());
        }
        if header.data_segment() > 0 || request.initiator_task_tag == RESERVED_TAG {
            self.reject(header, reject::INVALID_PDU_FIELD);
            return Ok(());
        }
        self.arrived(header, false);
        let reason = match request.reason {
            0 => LogoutReason::CloseSession,
            1 if request.cid == self.peer.cid => LogoutReason::CloseConnection,
            1 if self.may_have_siblings() => {
                self.outgoing.logout_tag = request.initiator_task_tag;
                self.events.push_back(Event::Logout(LogoutReason::CloseOther(request.cid)));
                return Ok(());
            }
            1 => return self.refuse_logout(&request, CID_NOT_FOUND),
            2 => return self.refuse_logout(&request, RECOVERY_NOT_SUPPORTED),
            _ => {
                self.reject(header, reject::INVALID_PDU_FIELD);
                return Ok(());
            }
        };
        self.step(Trigger::LogoutRequest);
        self.outgoing.logout_tag = request.initiator_task_tag;
        self.events.push_back(Event::Logout(reason));
        Ok(())
    }

    fn refuse_logout(&mut self, request: &LogoutRequest, response: u8) -> Result<(), Fatal> {
        let initiator_task_tag = request.initiator_task_tag;
        self.outgoing.say(Message::Logout { initiator_task_tag, response, closes: false });
        Ok(())
    }

    /// Answer [`Event::Logout`] for another connection: it was ended, or there is none with that CID.
    pub fn logout_of_other_response(&mut self, ended: bool) {
        let (initiator_task_tag, response) =
            (self.outgoing.logout_tag, if ended { 0 } else { CID_NOT_FOUND });
        self.outgoing.say(Message::Logout { initiator_task_tag, response, closes: false });
    }

    /// Answer [`Event::Logout`]. Commands that were not answered are ended without a response; those that were,
    /// leave before.
    pub fn logout_response(&mut self, response: LogoutResponse) {
        if self.state != crate::State::InLogout || self.outgoing.is_closing() {
            return;
        }
        for index in 0..self.limits.slots() {
            self.abort_running(index as u16);
        }
        let response = match response {
            LogoutResponse::Closed => 0,
            LogoutResponse::CleanupFailed => 3,
        };
        let initiator_task_tag = self.outgoing.logout_tag;
        self.outgoing.say(Message::Logout { initiator_task_tag, response, closes: true });
    }

    fn abort_running(&mut self, index: u16) {
        let slot = &self.tasks[index];
        if slot.phase == Phase::Running && slot.purpose == Purpose::Command {
            self.forget(index);
        }
    }

    /// Send an asynchronous message. False if the session has no full feature phase now, if the last word was said, or if too
    /// much waits to be sent already; then nothing was done.
    pub fn announce(&mut self, announcement: Announcement<'_>) -> bool {
        if !self.is_open() || !self.state.is_full_feature() || self.outgoing.is_congested() {
            return false;
        }
        let wait = self.parameters().default_time2wait() as u16;
        let retain = self.parameters().default_time2retain() as u16;
        let (event, parameters) = match announcement {
            Announcement::Scsi { lun, sense } => {
                let length = sense.len().min(MAX_SENSE);
                let mut stored = [0; MAX_SENSE];
                stored[..length].copy_from_slice(&sense[..length]);
                return self.outgoing.say_event(lun, &stored[..length]);
            }
            Announcement::RequestLogout { within } => {
                self.step(Trigger::AskLogout);
                (ASK_LOGOUT, [0, 0, within])
            }
            Announcement::DropConnection => (2, [self.peer.cid, wait, retain]),
            Announcement::DropSession => (3, [0, wait, retain]),
        };
        self.outgoing.say(Message::Async { event, parameters });
        true
    }
}
