//! What is said apart from the business of tasks.

use super::{Body, with_sense_length};
use crate::connection::Connection;
use crate::limits::MAX_SENSE;
use crate::login::{Stage, Status};
use crate::state::Trigger;
use crate::wire::{
    AsyncMessage, BASIC_HEADER, Header, LoginResponse, LogoutResponse, NopIn, RESERVED_TAG, Reject,
    TextResponse,
};

/// The asynchronous event after which the connection goes on.
pub(in crate::connection) const ASK_LOGOUT: u8 = 1;

/// What is to be said apart from the business of tasks.
#[derive(Clone, Copy, Debug)]
pub(in crate::connection) enum Message {
    Login {
        stage: u8,
        next: Option<u8>,
        to_be_continued: bool,
        status: Status,
    },
    Text {
        last: bool,
        to_be_continued: bool,
        lun: [u8; 8],
        initiator_task_tag: u32,
        target_transfer_tag: u32,
    },
    /// The answer to a ping, with so many bytes of the ping data.
    Echo {
        lun: [u8; 8],
        initiator_task_tag: u32,
        length: u32,
    },
    /// A ping of our own.
    Ping {
        target_transfer_tag: u32,
    },
    Logout {
        initiator_task_tag: u32,
        response: u8,
        closes: bool,
    },
    Reject {
        reason: u8,
        header: Header,
    },
    Async {
        event: u8,
        parameters: [u16; 3],
    },
    /// The oldest of the unit events.
    UnitEvent,
}

impl Message {
    /// Whether nothing is said behind it.
    pub(super) const fn is_last(&self) -> bool {
        match self {
            Self::Logout { closes, .. } => *closes,
            Self::Async { event, .. } => *event != ASK_LOGOUT,
            _ => false,
        }
    }
}

/// An event of a logical unit that waits to be told.
#[derive(Clone, Copy, Debug)]
pub(super) struct UnitEvent {
    pub(super) lun: [u8; 8],
    pub(super) sense: [u8; MAX_SENSE],
    pub(super) length: usize,
}

impl Connection {
    pub(super) fn build_message(&mut self, message: Message) {
        match message {
            Message::Login { stage, next, to_be_continued, status } => {
                self.build_login_response(stage, next, to_be_continued, status);
            }
            Message::Text { last, to_be_continued, lun, initiator_task_tag, target_transfer_tag } => {
                let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
                let response = TextResponse {
                    last,
                    to_be_continued,
                    data_segment: self.text.saying().len() as u32,
                    lun,
                    initiator_task_tag,
                    target_transfer_tag,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                };
                self.frame(&response.header(), Body::Text, &[]);
            }
            Message::Echo { lun, initiator_task_tag, length } => {
                let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
                let echo = NopIn {
                    data_segment: length,
                    lun,
                    initiator_task_tag,
                    target_transfer_tag: RESERVED_TAG,
                    stat_sn,
                    exp_cmd_sn,
                    max_cmd_sn,
                };
                self.frame(&echo.header(), Body::Ping, &[]);
            }
            Message::Ping { target_transfer_tag } => self.build_ping(target_transfer_tag),
            Message::Logout { initiator_task_tag, response, closes } => {
                self.build_logout_response(initiator_task_tag, response, closes);
            }
            Message::Reject { reason, header } => self.build_reject(reason, &header),
            Message::Async { event, parameters: [parameter1, parameter2, parameter3] } => {
                let message =
                    AsyncMessage { event, parameter1, parameter2, parameter3, ..self.async_message() };
                self.outgoing.last_of_all = event != ASK_LOGOUT;
                self.frame(&message.header(), Body::None, &[]);
            }
            Message::UnitEvent => self.build_unit_event(),
        }
    }

    fn build_login_response(&mut self, stage: u8, next: Option<u8>, to_be_continued: bool, status: Status) {
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
        let request = self.login.request;
        // The session has its name when the login is done (11.13.3).
        let is_done = next == Some(Stage::FullFeature.code());
        let response = LoginResponse {
            transit: next.is_some(),
            to_be_continued,
            current_stage: stage,
            next_stage: next.unwrap_or_default(),
            // Version 0 is the only one there is.
            version_max: 0,
            version_active: 0,
            data_segment: self.text.saying().len() as u32,
            isid: request.isid,
            tsih: if is_done { self.peer.tsih } else { request.tsih },
            initiator_task_tag: request.initiator_task_tag,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            status_class: status.class,
            status_detail: status.detail,
        };
        self.outgoing.last_of_all = status != Status::SUCCESS;
        self.frame(&response.header(), Body::Text, &[]);
    }

    /// A ping shows the numbers and consumes none (11.19).
    fn build_ping(&mut self, target_transfer_tag: u32) {
        let ping = NopIn {
            initiator_task_tag: RESERVED_TAG,
            target_transfer_tag,
            stat_sn: self.sequence.stat_sn(),
            exp_cmd_sn: self.sequence.exp_cmd_sn(),
            max_cmd_sn: self.sequence.max_cmd_sn(),
            ..Default::default()
        };
        self.frame(&ping.header(), Body::None, &[]);
    }

    fn build_logout_response(&mut self, initiator_task_tag: u32, response: u8, closes: bool) {
        if closes {
            self.outgoing.last_of_all = true;
            self.step(Trigger::LogoutResponse);
        }
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
        let response = LogoutResponse {
            response,
            initiator_task_tag,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            time2wait: self.parameters().default_time2wait() as u16,
            time2retain: self.parameters().default_time2retain() as u16,
        };
        self.frame(&response.header(), Body::None, &[]);
    }

    fn build_reject(&mut self, reason: u8, rejected: &Header) {
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
        let reject = Reject {
            reason,
            data_segment: BASIC_HEADER as u32,
            initiator_task_tag: RESERVED_TAG,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            data_sn: 0,
        };
        self.frame(&reject.header(), Body::None, &rejected.0);
    }

    fn async_message(&mut self) -> AsyncMessage {
        let (stat_sn, exp_cmd_sn, max_cmd_sn) = self.numbers();
        AsyncMessage {
            initiator_task_tag: RESERVED_TAG,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            ..Default::default()
        }
    }

    fn build_unit_event(&mut self) {
        let Some(event) = self.outgoing.unit_events.pop_front() else { return };
        let (data, length) = with_sense_length(&event.sense[..event.length]);
        let message = AsyncMessage { lun: event.lun, data_segment: length as u32, ..self.async_message() };
        self.frame(&message.header(), Body::None, &data[..length]);
    }
}
