//! Pings both ways (11.18, 11.19), and the clocks that end a connection.

use super::Connection;
use super::receive::{Sink, Then};
use super::request::Order;
use super::transmit::Message;
use crate::event::Fatal;
use crate::login::SessionType;
use crate::state::State;
use crate::wire::{Header, NopOut, RESERVED_TAG, reject};
use kernel_runtime::Instant;

/// When something was last heard, and what waits for an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Liveness {
    heard: Instant,
    /// The tag of our ping, and when it was sent.
    ping: Option<(u32, Instant)>,
    /// Since when, at the latest, the last response waits to be transmitted.
    closing: Option<Instant>,
}

impl Liveness {
    pub(super) const fn new(now: Instant) -> Self {
        Self { heard: now, ping: None, closing: None }
    }
}

impl Connection {
    /// Bytes came: the peer lives, whatever they say.
    pub(super) fn alive(&mut self, now: Instant) {
        self.liveness.heard = now;
        if let Some((_, sent)) = &mut self.liveness.ping {
            *sent = now;
        }
    }

    pub(super) fn nop_out(&mut self, header: &Header) -> Result<(), Fatal> {
        let nop = NopOut::read(header);
        if nop.initiator_task_tag == RESERVED_TAG {
            // No answer is wanted, and no number is consumed (11.18).
            if self.liveness.ping.is_some_and(|(tag, _)| tag == nop.target_transfer_tag) {
                self.liveness.ping = None;
            }
            return Ok(());
        }
        if self.order(header)? != Order::Take {
            return Ok(());
        }
        if nop.data_segment as usize > self.outgoing.ping_capacity() {
            self.reject(header, reject::COMMAND_NOT_SUPPORTED);
            return Ok(());
        }
        self.arrived(header, false);
        self.incoming.direct(Sink::Ping, 0, Then::Ping);
        Ok(())
    }

    pub(super) fn ping_is_whole(&mut self, header: &Header) {
        let nop = NopOut::read(header);
        // What the initiator cannot receive in one PDU is not echoed (11.19).
        let length = nop.data_segment.min(self.parameters().max_recv_data_segment_length());
        self.outgoing.echo(nop.lun, nop.initiator_task_tag, length);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.silence_timeout(), self.owed_timeout()].into_iter().flatten().min()
    }

    /// When bytes were last received, at the earliest.
    pub(super) fn heard(&self) -> Instant {
        self.liveness.heard
    }

    fn silence_timeout(&self) -> Option<Instant> {
        let Liveness { heard, ping, closing } = self.liveness;
        let limits = &self.limits;
        if self.outgoing.is_closing() {
            return Some(closing.unwrap_or(heard) + limits.dead_after);
        }
        if self.incoming.is_parked {
            return Some(heard + limits.gap_within / 2);
        }
        match self.state {
            State::Free | State::CleanupWait | State::InCleanup => None,
            State::TransportUp | State::InLogin => Some(self.login.deadline),
            // The layer above is at work, and the initiator waits for us.
            State::InLogout => None,
            State::LoggedIn | State::LogoutRequested => Some(match ping {
                Some((_, sent)) => sent + limits.dead_after,
                None if self.peer.session_type == SessionType::Discovery => {
                    heard + limits.ping_after + limits.dead_after
                }
                None => heard + limits.ping_after,
            }),
        }
    }

    /// Do what is due at `now`: send a ping, or give up.
    ///
    /// # Errors
    /// The connection must be dropped.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Fatal> {
        self.check_owed(now)?;
        if self.silence_timeout().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        if self.outgoing.is_closing() {
            // The first time the peer gets as long again from now, the answer may have been late.
            let waited = self.liveness.closing.replace(now).is_some();
            return if waited { Err(Fatal::PeerSilent) } else { Ok(()) };
        }
        if self.incoming.is_parked {
            // As long as those before it come it waits for them, and whoever was stopped meanwhile may have them here.
            let expected = self.sequence.exp_cmd_sn();
            if self.incoming.awaited.replace(expected) != Some(expected) {
                self.alive(now);
                return Ok(());
            }
            return Err(Fatal::CommandGap { expected, received: self.incoming.header().cmd_sn() });
        }
        if self.login.waiting {
            // It is the layer above that takes its time; the peer gets its own again.
            self.login.deadline = now + self.limits.login_deadline;
            return Ok(());
        }
        if self.state.is_before_full_feature() {
            return Err(Fatal::LoginTimeout);
        }
        if self.is_held_up() {
            // It is we who do not listen.
            self.alive(now);
            return Ok(());
        }
        if self.liveness.ping.is_some() || self.peer.session_type == SessionType::Discovery {
            return Err(Fatal::PeerSilent);
        }
        let tag = self.take_transfer_tag();
        self.liveness.ping = Some((tag, now));
        self.outgoing.say(Message::Ping { target_transfer_tag: tag });
        Ok(())
    }
}
