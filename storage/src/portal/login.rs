//! Connections come to sessions and leave them.

use super::{PORTAL_GROUP, Serving};
use crate::mailbox::Notice;
use crate::registry::Refused;
use crate::shared::ConnectionIndex;
use alloc::rc::Rc;
use core::num::NonZeroU16;
use storage_iscsi::chap::{Access, Nonce};
use storage_iscsi::{Admission, Join, LogoutReason, LogoutResponse, Peer, SessionType, Status};

impl Serving {
    pub(super) fn login(&mut self) {
        let peer = *self.connection.peer();
        let portal_group_tag = PORTAL_GROUP;
        let asked = self.asked(&peer);
        let admission = match &asked {
            Ok(Some((access, nonce))) => Admission::Authenticate { access, nonce: *nonce, portal_group_tag },
            Ok(None) => match self.admission(&peer) {
                Ok(tsih) => Admission::Accept { tsih, portal_group_tag },
                Err(status) => Admission::Refuse(status),
            },
            Err(status) => Admission::Refuse(*status),
        };
        self.connection.admit(admission);
    }

    /// What the initiator has to prove yet, and what its attempt is made of. Nothing of what is there is touched for it
    /// before it has.
    fn asked(&self, peer: &Peer) -> Result<Option<(Rc<Access>, Nonce)>, Status> {
        let registry = &self.shared.state.borrow().registry;
        let access = registry.access(peer).map_err(status)?;
        let Some(access) = access.filter(|access| !self.connection.has_proven(access)) else {
            return Ok(None);
        };
        let nonce = self.shared.nonce().ok_or(Status::SERVICE_UNAVAILABLE)?;
        Ok(Some((access.clone(), nonce)))
    }

    fn admission(&mut self, peer: &Peer) -> Result<NonZeroU16, Status> {
        let shared = self.shared.clone();
        if shared.is_draining.get() {
            return Err(Status::SERVICE_UNAVAILABLE);
        }
        let (target, existing, room) = {
            let registry = &mut shared.state.borrow_mut().registry;
            if peer.session_type == SessionType::Discovery {
                // Such a session has one connection, and nothing of it stays.
                if peer.tsih != 0 {
                    return Err(Status::SESSION_DOES_NOT_EXIST);
                }
                if let Some(replaced) = registry.begin_discovery(self.index, peer) {
                    shared.mailboxes[replaced].nudge();
                }
                self.discovers = true;
                return Ok(registry.next_tsih());
            }
            let target = registry.admissible(peer).map_err(status)?;
            let existing = registry.existing(target, peer);
            (target, existing, existing.and_then(|member| registry.room(member, peer.cid)))
        };
        match (peer.joins(room)?, existing, room) {
            (Join::Session, Some(member), Some((tsih, _))) => self.join(member, tsih, peer.cid)?,
            (_, _, replaced) => {
                if let Some((tsih, _)) = replaced {
                    shared.evict_session(tsih, None);
                }
                let registry = &mut shared.state.borrow_mut().registry;
                self.tsih = Some(registry.attach(self.index, target, peer).map_err(status)?);
            }
        }
        self.has_session = true;
        self.path.turn = shared.state.borrow().registry.turn(self.index).unwrap_or(self.index);
        self.tsih.ok_or(Status::TARGET_ERROR)
    }

    /// Be one more connection of a session, and take the place of the one with the same CID.
    fn join(&mut self, member: ConnectionIndex, tsih: NonZeroU16, cid: u16) -> Result<(), Status> {
        let shared = self.shared.clone();
        let replaced = shared.state.borrow().registry.with_cid(tsih, cid);
        let session = shared.state.borrow_mut().registry.join(self.index, member, cid);
        self.connection.join(&session.ok_or(Status::CANNOT_INCLUDE)?);
        self.tsih = Some(tsih);
        // Not before: with its last connection the session would end.
        if let Some(replaced) = replaced {
            shared.evict(replaced);
        }
        Ok(())
    }

    pub(super) fn logged_in(&mut self) {
        let session = self.connection.session();
        self.has_siblings = session.max_connections() > 1;
        self.shared.state.borrow_mut().registry.logged_in(self.index, session);
        // Asked to leave while it came, it is told now.
        if let Some(by) = self.leave_by {
            self.shared.mailboxes[self.index].notify(Notice::Leave(by));
        }
    }

    pub(super) fn log_out(&mut self, reason: LogoutReason) {
        match (reason, self.tsih) {
            (LogoutReason::CloseOther(cid), tsih) => {
                let find = |tsih| self.shared.state.borrow().registry.with_cid(tsih, cid);
                let other = tsih.and_then(find);
                if let Some(other) = other {
                    self.shared.evict(other);
                }
                return self.connection.logout_of_other_response(other.is_some());
            }
            (LogoutReason::CloseSession, Some(tsih)) => self.shared.evict_session(tsih, Some(self.index)),
            _ => {}
        }
        self.path.end_session(true);
        self.has_session = false;
        self.connection.logout_response(LogoutResponse::Closed);
    }

    /// Have the other connections of the session go on with what they have waited for, and the initiator know what has
    /// become of them.
    pub(super) fn look_after_siblings(&mut self) {
        self.connection.tell_reopened();
        if self.connection.frees_others()
            && let Some(tsih) = self.tsih
        {
            self.shared.nudge(tsih, self.index);
        }
    }
}

fn status(refused: Refused) -> Status {
    match refused {
        Refused::NoTarget => Status::NOT_FOUND,
        Refused::NotAllowed => Status::AUTHORIZATION_FAILURE,
        Refused::Leaving => Status::SERVICE_UNAVAILABLE,
        Refused::Full => Status::OUT_OF_RESOURCES,
    }
}
