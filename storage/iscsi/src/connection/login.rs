//! Logging in (6.3, 11.12, 11.13): from the first request to full feature phase.

use super::Connection;
use super::receive::{Sink, Then};
use super::transmit::Message;
use crate::event::{Admission, Event, Fatal};
use crate::login::{SessionType, Stage, Status, declared, negotiate};
use crate::negotiation::Refusal;
use crate::state::{State, Trigger};
use crate::wire::text::Writer;
use crate::wire::{Header, LOGIN_DATA_SEGMENT, LoginRequest};
use alloc::rc::Rc;
use storage_chap::{Access, Attempt};

impl Connection {
    pub(super) fn count_login_bytes(&mut self, count: usize) -> Result<(), Fatal> {
        self.login.bytes = self.login.bytes.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        if self.login.bytes > self.limits.login_bytes { Err(Fatal::LoginTooLong) } else { Ok(()) }
    }

    pub(super) fn login_request(&mut self, header: &Header) -> Result<(), Fatal> {
        let request = LoginRequest::read(header);
        self.login.requests += 1;
        if self.login.requests > self.limits.login_requests {
            return Err(Fatal::LoginTooLong);
        }
        if self.state == State::TransportUp {
            self.step(Trigger::LoginRequest);
            // Who joins a session hears of its window, and of none that would be larger, when it has.
            let window = if request.tsih == 0 { self.limits.commands } else { 0 };
            self.sequence.begin(request.cmd_sn, request.exp_stat_sn, window);
        }
        self.login.request = request;
        if let Err(status) = self.login.check(&request) {
            self.refuse_login(status);
        } else if let Some(offset) = self.text.extend(request.data_segment) {
            self.incoming.direct(Sink::Text, offset, Then::Login);
        } else {
            self.refuse_login(Status::OUT_OF_RESOURCES);
        }
        Ok(())
    }

    pub(super) fn login_request_is_whole(&mut self) {
        let request = self.login.request;
        if self.text.has_unsent_output() {
            // The answer to the request before was cut; an empty request asks for the rest.
            if request.data_segment > 0 || request.to_be_continued {
                return self.refuse_login(Status::INITIATOR_ERROR);
            }
            return self.say_login();
        }
        if request.to_be_continued {
            // Not all was said yet: an empty answer asks for more (6.2).
            self.text.begin_output();
            return self.say_login();
        }
        if self.login.admitted.is_some() || self.login.attempt.is_some() {
            return self.negotiate_login();
        }
        match declared(self.text.input(), &request) {
            Ok(peer) => {
                self.peer = peer;
                self.negotiation.discovery = peer.session_type == SessionType::Discovery;
                self.login.waiting = true;
                self.events.push_back(Event::Login);
            }
            Err(refusal) => self.refuse_login(refusal.status()),
        }
    }

    /// Answer [`Event::Login`].
    pub fn admit(&mut self, admission: Admission<'_>) {
        if !core::mem::take(&mut self.login.waiting) {
            return;
        }
        match admission {
            Admission::Accept { tsih, portal_group_tag } => {
                self.login.admitted = Some(tsih.get());
                if self.login.attempt.is_some() {
                    // It was the proof that was waiting for this, with its answer written.
                    self.say_login();
                } else {
                    self.login.portal_group_tag = Some(portal_group_tag);
                    self.negotiate_login();
                }
            }
            // What was proven once is not proven twice.
            Admission::Authenticate { .. } if self.login.attempt.is_some() => {
                self.refuse_login(Status::TARGET_ERROR);
            }
            Admission::Authenticate { access, nonce, portal_group_tag } => {
                self.login.attempt = Some(Attempt::new(access.clone(), nonce));
                self.login.portal_group_tag = Some(portal_group_tag);
                self.negotiation.chap = true;
                self.negotiate_login();
            }
            Admission::Redirect { address, permanently } => {
                let status = if permanently { Status::MOVED_PERMANENTLY } else { Status::MOVED_TEMPORARILY };
                let (_, output) = self.text.begin_output();
                let mut writer = Writer::new(output);
                // An address is far shorter than the text buffer.
                let written = writer.pair("TargetAddress", address);
                let length = writer.length();
                self.text.end_output(length);
                debug_assert!(written.is_ok(), "the text buffer holds an address");
                self.end_login(status);
            }
            Admission::Refuse(status) => self.refuse_login(status),
        }
    }

    /// Whether the initiator has proven who it is to these accounts, as [`Admission::Authenticate`] has asked it to.
    pub fn has_proven(&self, access: &Rc<Access>) -> bool {
        self.login.attempt.as_ref().is_some_and(|attempt| attempt.has_proven(access))
    }

    /// The status with which the login was refused, if it was.
    pub const fn refusal(&self) -> Option<Status> {
        self.login.refusal
    }

    fn negotiate_login(&mut self) {
        match self.write_login_answers() {
            Ok(()) if self.login.awaits_admission() => {
                // Only now does it become anybody's: a session that it replaces was safe until here.
                self.login.waiting = true;
                self.events.push_back(Event::Login);
            }
            Ok(()) => self.say_login(),
            Err(refusal) => self.refuse_login(refusal.status()),
        }
    }

    fn write_login_answers(&mut self) -> Result<(), Refusal> {
        let (input, output) = self.text.begin_output();
        let mut writer = Writer::new(output);
        if let Some(portal_group_tag) = self.login.portal_group_tag.take() {
            writer.pair("TargetPortalGroupTag", portal_group_tag)?;
        }
        let most = self.limits.login_keys;
        negotiate(&mut self.negotiation, &mut self.login, most, &self.peer.initiator, input, &mut writer)?;
        let length = writer.length();
        self.text.end_output(length);
        Ok(())
    }

    /// Send as much of the answer as fits, and with its end do what the request asked for.
    fn say_login(&mut self) {
        let LoginRequest { transit, next_stage, to_be_continued, .. } = self.login.request;
        let more = self.text.next_output(LOGIN_DATA_SEGMENT);
        let may_go_on = transit && !more && !to_be_continued && self.login.is_authenticated();
        let next = Stage::from_code(next_stage).filter(|_| may_go_on);
        let stage = self.login.stage;
        if let Some(next) = next.and_then(|next| stage.after(next)) {
            self.login.stage = next;
            if next == Stage::FullFeature {
                self.step(Trigger::LoginAccepted);
                self.peer.tsih = self.login.admitted.unwrap_or_default();
                self.events.push_back(Event::LoggedIn);
            }
        }
        self.outgoing.say(Message::Login {
            stage: stage.code(),
            next: next.map(Stage::code),
            to_be_continued: more,
            status: Status::SUCCESS,
        });
    }

    pub(super) fn refuse_login(&mut self, status: Status) {
        self.text.begin_output();
        self.end_login(status);
    }

    fn end_login(&mut self, status: Status) {
        self.login.waiting = false;
        self.login.refusal = Some(status);
        self.text.next_output(LOGIN_DATA_SEGMENT);
        self.outgoing.say(Message::Login {
            stage: self.login.request.current_stage,
            next: None,
            to_be_continued: false,
            status,
        });
        self.step(Trigger::LoginFailed);
    }
}
