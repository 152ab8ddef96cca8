//! Who is logged in, and by which connections.

use super::{Refused, Registry, TargetIndex};
use crate::shared::ConnectionIndex;
use core::num::NonZeroU16;
use storage_iscsi::{Name, Peer, SessionState, SessionTrigger};
use storage_scsi::{Nexus, TransportId};

/// An I_T nexus that is logged in, as one of its connections has it.
#[derive(Clone)]
pub(super) struct Session {
    target: TargetIndex,
    nexus: Nexus,
    tsih: NonZeroU16,
    state: SessionState,
    initiator: Name,
    isid: [u8; 6],
    /// The connection's own identifier.
    cid: u16,
    /// Its place among those whose turn it can be.
    turn: ConnectionIndex,
    /// What further connections share with it, once the first is logged in.
    shared: Option<storage_iscsi::Session>,
}

impl Registry {
    pub(crate) fn has_tsih(&self, tsih: NonZeroU16) -> bool {
        self.members(tsih).next().is_some()
    }

    /// How many are logged in to a target.
    pub(crate) fn sessions_of(&self, target: TargetIndex) -> usize {
        let is_first_of_its = |(index, session): &(ConnectionIndex, &Session)| {
            session.target == target && self.members(session.tsih).next() == Some(*index)
        };
        let sessions = self.sessions.iter().enumerate();
        let sessions = sessions.filter_map(|(index, session)| Some((index, session.as_ref()?)));
        sessions.filter(is_first_of_its).count()
    }

    /// The connections of a session.
    pub(crate) fn members(&self, tsih: NonZeroU16) -> impl Iterator<Item = ConnectionIndex> {
        let sessions = self.sessions.iter().enumerate();
        let is_one = move |session: &Session| session.tsih == tsih;
        sessions.filter(move |(_, session)| session.as_ref().is_some_and(is_one)).map(|(index, _)| index)
    }

    /// A connection of the session that a login is for, or would replace (RFC 7143 section 6.3.5).
    pub(crate) fn existing(&self, target: TargetIndex, peer: &Peer) -> Option<ConnectionIndex> {
        self.sessions.iter().position(|session| {
            session.as_ref().is_some_and(|session| {
                session.target == target && session.isid == peer.isid && session.initiator == peer.initiator
            })
        })
    }

    /// The TSIH of a connection's session, and whether that has room for one with this CID.
    pub(crate) fn room(&self, connection: ConnectionIndex, cid: u16) -> Option<(NonZeroU16, bool)> {
        let session = self.sessions.get(connection)?.as_ref()?;
        let most = session.shared.as_ref().map_or(0, storage_iscsi::Session::max_connections);
        let is_known = most > 0 && self.with_cid(session.tsih, cid).is_some();
        Some((session.tsih, is_known || self.members(session.tsih).count() < most))
    }

    /// The connection of a session that has this CID.
    pub(crate) fn with_cid(&self, tsih: NonZeroU16, cid: u16) -> Option<ConnectionIndex> {
        let has = |&index: &ConnectionIndex| self.sessions[index].as_ref().is_some_and(|one| one.cid == cid);
        self.members(tsih).find(has)
    }

    /// Log in: from now on the connection's commands are this nexus's.
    pub(crate) fn attach(
        &mut self,
        connection: ConnectionIndex,
        target: TargetIndex,
        peer: &Peer,
    ) -> Result<NonZeroU16, Refused> {
        let id = TransportId::iscsi(peer.initiator.as_str(), peer.isid).ok_or(Refused::NotAllowed)?;
        let device = self.device_mut(target).ok_or(Refused::NoTarget)?;
        let nexus = device.attach(&id).ok_or(Refused::Full)?;
        let tsih = self.next_tsih();
        // A session that has lost the connection it began with may still have that one's place.
        let places = [connection].into_iter().chain(0..self.sessions.len());
        let turn = places.into_iter().find(|&place| !self.has_turn(place)).unwrap_or(connection);
        let Peer { initiator, isid, cid, .. } = *peer;
        let state = SessionState::Free;
        let session = Session { target, nexus, tsih, state, initiator, isid, cid, turn, shared: None };
        self.put(connection, session);
        self.step(connection, SessionTrigger::LoginBegan);
        Ok(tsih)
    }

    /// Make a connection one more of the session of `member`; answers what it shares with that.
    pub(crate) fn join(
        &mut self,
        connection: ConnectionIndex,
        member: ConnectionIndex,
        cid: u16,
    ) -> Option<storage_iscsi::Session> {
        let session = self.sessions.get(member)?.clone()?;
        let shared = session.shared.clone()?;
        self.put(connection, Session { cid, ..session });
        Some(shared)
    }

    fn put(&mut self, connection: ConnectionIndex, session: Session) {
        if let Some(entry) = self.entry_mut(session.target) {
            entry.connections += 1;
        }
        self.sessions[connection] = Some(session);
    }

    /// A connection has logged in. What others can share with it is `shared`.
    pub(crate) fn logged_in(&mut self, connection: ConnectionIndex, shared: storage_iscsi::Session) {
        self.step(connection, SessionTrigger::LoginAccepted);
        if let Some(session) = &mut self.sessions[connection] {
            session.shared = Some(shared);
        }
    }

    /// A discovery session begins on a connection, and an old one of the same initiator, ISID and target, or for no target,
    /// ends (RFC 7143 section 7.4.2). Answers where that one was. Sessions for commands are not replaced by one that looks.
    pub(crate) fn begin_discovery(
        &mut self,
        connection: ConnectionIndex,
        peer: &Peer,
    ) -> Option<ConnectionIndex> {
        let key = |peer: &Peer| (peer.initiator, peer.isid, peer.target);
        let mut others = self.discoveries.iter();
        let replaced = others.position(|other| other.as_ref().is_some_and(|other| key(other) == key(peer)));
        if let Some(replaced) = replaced {
            self.discoveries[replaced] = None;
        }
        self.discoveries[connection] = Some(*peer);
        replaced
    }

    /// Whether a discovery session is on a connection.
    pub(crate) fn is_discovering(&self, connection: ConnectionIndex) -> bool {
        self.discoveries[connection].is_some()
    }

    /// What was on a connection is over.
    pub(crate) fn end_discovery(&mut self, connection: ConnectionIndex) {
        self.discoveries[connection] = None;
    }

    /// A TSIH that no session has.
    pub(crate) fn next_tsih(&mut self) -> NonZeroU16 {
        loop {
            self.last_tsih = self.last_tsih.wrapping_add(1);
            if let Some(tsih) = NonZeroU16::new(self.last_tsih)
                && !self.has_tsih(tsih)
            {
                return tsih;
            }
        }
    }

    /// The session on a connection.
    pub(crate) fn session(&self, connection: ConnectionIndex) -> Option<(TargetIndex, Nexus)> {
        self.sessions.get(connection)?.as_ref().map(|session| (session.target, session.nexus))
    }

    /// The names of initiator and target of the session on a connection.
    pub(crate) fn names_of(&self, connection: ConnectionIndex) -> Option<(&str, &str)> {
        let session = self.sessions.get(connection)?.as_ref()?;
        Some((session.initiator.as_str(), self.name(session.target)?))
    }

    /// Its TSIH.
    pub(crate) fn tsih(&self, connection: ConnectionIndex) -> Option<NonZeroU16> {
        self.sessions.get(connection)?.as_ref().map(|session| session.tsih)
    }

    /// The place of a connection's session among those whose turn it can be.
    pub(crate) fn turn(&self, connection: ConnectionIndex) -> Option<ConnectionIndex> {
        self.sessions.get(connection)?.as_ref().map(|session| session.turn)
    }

    /// Whether a session has that place.
    pub(crate) fn has_turn(&self, turn: ConnectionIndex) -> bool {
        self.sessions.iter().flatten().any(|session| session.turn == turn)
    }

    /// A connection is none of its session's any more, because it was logged out or another took its place, or because it
    /// was lost. With the last one the session is over: nobody can continue it.
    pub(crate) fn leave(&mut self, connection: ConnectionIndex, is_closed: bool) {
        let is_last = self.tsih(connection).is_some_and(|tsih| self.members(tsih).nth(1).is_none());
        if !is_last {
            self.take(connection);
        } else if is_closed {
            self.step(connection, SessionTrigger::Closed);
        } else {
            self.step(connection, SessionTrigger::Failed);
            self.step(connection, SessionTrigger::StateTimeout);
        }
    }

    /// Something happened to the session of a connection that is its only one, or its first. What that makes of it the table
    /// says (RFC 7143 section 8.3); a session that is free again is no more.
    fn step(&mut self, connection: ConnectionIndex, trigger: SessionTrigger) {
        let Some(session) = self.sessions.get_mut(connection).and_then(Option::as_mut) else { return };
        let Some(state) = session.state.after(trigger) else { return };
        session.state = state;
        if state == SessionState::Free
            && let Some(session) = self.take(connection)
            && let Some(device) = self.device_mut(session.target)
        {
            device.detach(session.nexus);
        }
    }

    fn take(&mut self, connection: ConnectionIndex) -> Option<Session> {
        let session = self.sessions.get_mut(connection)?.take()?;
        if let Some(entry) = self.entry_mut(session.target) {
            entry.connections -= 1;
        }
        Some(session)
    }
}
