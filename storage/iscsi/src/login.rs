//! The login phase (6.3): its stages as a table, its outcomes, and who is logging in.

use crate::name::Name;
use crate::negotiation::{Negotiation, Refusal};
use crate::wire::LoginRequest;
use crate::wire::text::{Writer, pairs};
use core::num::NonZeroU16;
use kernel_runtime::Instant;
use storage_chap::{Answer, Attempt, Failure, Key as ChapKey, Said};

/// Stages of a login, with the numbers of the CSG and NSG fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stage {
    /// 0: SecurityNegotiation.
    Security,
    /// 1: LoginOperationalNegotiation.
    Operational,
    /// 3: FullFeaturePhase.
    FullFeature,
}

impl Stage {
    pub(crate) const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::FullFeature),
            _ => None,
        }
    }

    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Security => 0,
            Self::Operational => 1,
            Self::FullFeature => 3,
        }
    }
}

// Forward only, and over the operational stage if the initiator likes (6.3). What moves a login is the stage that a
// request with the T bit names as the next.
storage_block::arrows! {
    pub(crate) Stage by Stage;
    "NSG=1" Security    --Operational--> Operational;
    "NSG=3" Security    --FullFeature--> FullFeature;
    "NSG=3" Operational --FullFeature--> FullFeature;
}

/// The first method of the initiator's list, if that is the one there is: CHAP where something has to be proven, None
/// where not (13.1, and section 12).
pub(crate) fn authentication_method(offered: &str, chap: bool) -> Option<&'static str> {
    let method = if chap { "CHAP" } else { "None" };
    offered.split(',').any(|offer| offer == method).then_some(method)
}

/// Status class and detail of a Login Response (11.13.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// 0 success, 1 redirection, 2 the initiator's fault, 3 the target's.
    pub class: u8,
    /// What exactly.
    pub detail: u8,
}

impl Status {
    /// All is well.
    pub const SUCCESS: Self = Self::new(0, 0);
    /// The target is at another address for now.
    pub const MOVED_TEMPORARILY: Self = Self::new(1, 1);
    /// The target is at another address for ever.
    pub const MOVED_PERMANENTLY: Self = Self::new(1, 2);
    /// The initiator made some mistake.
    pub const INITIATOR_ERROR: Self = Self::new(2, 0);
    /// The initiator could not prove who it is, or would not.
    pub const AUTHENTICATION_FAILURE: Self = Self::new(2, 1);
    /// The initiator may not use the target.
    pub const AUTHORIZATION_FAILURE: Self = Self::new(2, 2);
    /// There is no such target.
    pub const NOT_FOUND: Self = Self::new(2, 3);
    /// The target was taken away for ever.
    pub const TARGET_REMOVED: Self = Self::new(2, 4);
    /// No version in common.
    pub const UNSUPPORTED_VERSION: Self = Self::new(2, 5);
    /// The session has as many connections as it may have.
    pub const TOO_MANY_CONNECTIONS: Self = Self::new(2, 6);
    /// A key that must be there is not.
    pub const MISSING_PARAMETER: Self = Self::new(2, 7);
    /// The session cannot include this connection.
    pub const CANNOT_INCLUDE: Self = Self::new(2, 8);
    /// The target does not have this type of session.
    pub const SESSION_TYPE: Self = Self::new(2, 9);
    /// There is no session with this TSIH.
    pub const SESSION_DOES_NOT_EXIST: Self = Self::new(2, 10);
    /// The request is not one for a login.
    pub const INVALID_DURING_LOGIN: Self = Self::new(2, 11);
    /// The target made some mistake.
    pub const TARGET_ERROR: Self = Self::new(3, 0);
    /// The target cannot serve now.
    pub const SERVICE_UNAVAILABLE: Self = Self::new(3, 1);
    /// The target has no room for another session.
    pub const OUT_OF_RESOURCES: Self = Self::new(3, 2);

    const fn new(class: u8, detail: u8) -> Self {
        Self { class, detail }
    }
}

/// What a session is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SessionType {
    /// SCSI commands to the logical units of one target.
    #[default]
    Normal,
    /// Nothing but finding targets.
    Discovery,
}

/// Who is at the other end, by its own account until authentication says otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// The initiator's name.
    pub initiator: Name,
    /// The target it wants; empty in a discovery session that names none.
    pub target: Name,
    /// What the session is for.
    pub session_type: SessionType,
    /// The initiator's part of the session identifier.
    pub isid: [u8; 6],
    /// The target's part: as asked for until the login is accepted, then as assigned. Zero asks for a new
    /// session, which replaces an old one of the same names and ISID.
    pub tsih: u16,
    /// Connection identifier.
    pub cid: u16,
}

/// What a login asks to be to the sessions there are (6.3.1, 6.3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Join {
    /// A new session.
    New,
    /// The session that was there is to end, with all its tasks, before this login is admitted.
    SessionReinstatement,
    /// A further connection of a session, or one in the place of another with its CID: that is to end, with all its tasks,
    /// before this login is admitted.
    Session,
}

impl Peer {
    /// Judge a login beside the session of the same initiator, ISID and target, if there is one, given as its TSIH and
    /// whether it has room for this connection: by having fewer than MaxConnections, or one with its CID.
    ///
    /// # Errors
    /// The status to refuse it with.
    pub fn joins(&self, existing: Option<(NonZeroU16, bool)>) -> Result<Join, Status> {
        match (NonZeroU16::new(self.tsih), existing) {
            (None, None) => Ok(Join::New),
            (None, Some(_)) => Ok(Join::SessionReinstatement),
            (Some(tsih), Some((there, has_room))) if tsih == there => {
                if has_room {
                    Ok(Join::Session)
                } else {
                    Err(Status::TOO_MANY_CONNECTIONS)
                }
            }
            (Some(_), _) => Err(Status::SESSION_DOES_NOT_EXIST),
        }
    }
}

/// A login in progress.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) stage: Stage,
    /// The first request, with which all others must agree.
    pub(crate) first: Option<LoginRequest>,
    /// The request being answered.
    pub(crate) request: LoginRequest,
    /// Requests, pairs and bytes so far.
    pub(crate) requests: u16,
    pub(crate) keys: u16,
    pub(crate) bytes: u32,
    /// The end of the initiator's patience, and ours.
    pub(crate) deadline: Instant,
    /// The layer above was asked and has not answered yet.
    pub(crate) waiting: bool,
    /// It said yes, and gave this TSIH.
    pub(crate) admitted: Option<u16>,
    /// It wants a proof first, and this is how far that has come.
    pub(crate) attempt: Option<Attempt>,
    /// The portal group, until it has been told to the initiator.
    pub(crate) portal_group_tag: Option<u16>,
    /// How it has ended, if not well.
    pub(crate) refusal: Option<Status>,
}

impl Login {
    pub(crate) fn new(deadline: Instant) -> Self {
        Self {
            stage: Stage::Security,
            first: None,
            request: LoginRequest::default(),
            requests: 0,
            keys: 0,
            bytes: 0,
            deadline,
            waiting: false,
            admitted: None,
            attempt: None,
            portal_group_tag: None,
            refusal: None,
        }
    }

    /// Whether all was proven that has to be.
    pub(crate) fn is_authenticated(&self) -> bool {
        self.attempt.as_ref().is_none_or(Attempt::is_proven)
    }

    /// Whether it has just been proven, and the layer above is to say yes or no.
    pub(crate) fn awaits_admission(&self) -> bool {
        self.admitted.is_none() && self.attempt.as_ref().is_some_and(Attempt::is_proven)
    }

    /// Check the fixed part of a request against the stage we are in and the requests before.
    pub(crate) fn check(&mut self, request: &LoginRequest) -> Result<(), Status> {
        let stage = Stage::from_code(request.current_stage).ok_or(Status::INITIATOR_ERROR)?;
        match &self.first {
            None => {
                if request.version_min > 0 {
                    return Err(Status::UNSUPPORTED_VERSION);
                }
                self.first = Some(*request);
                self.stage = stage;
            }
            Some(first) => {
                let same = first.initiator_task_tag == request.initiator_task_tag
                    && first.isid == request.isid
                    && first.cid == request.cid
                    && first.tsih == request.tsih;
                if !same || stage != self.stage {
                    return Err(Status::INITIATOR_ERROR);
                }
            }
        }
        let next = Stage::from_code(request.next_stage);
        let may_transit = next.is_some_and(|next| stage.after(next).is_some()) && !request.to_be_continued;
        if stage == Stage::FullFeature || (request.transit && !may_transit) {
            return Err(Status::INITIATOR_ERROR);
        }
        Ok(())
    }
}

/// Take the names out of the first request of a login (6.3.1, 13.4 to 13.21).
pub(crate) fn declared(text: &[u8], request: &LoginRequest) -> Result<Peer, Refusal> {
    let mut peer = Peer { isid: request.isid, tsih: request.tsih, cid: request.cid, ..Default::default() };
    let wrong = Refusal::Status(Status::INITIATOR_ERROR);
    for pair in pairs(text) {
        let (key, value) = pair.map_err(|_| wrong)?;
        match key {
            "InitiatorName" => peer.initiator = Name::new(value).map_err(|_| wrong)?,
            // A name that cannot be a name is that of a target we do not have.
            "TargetName" => peer.target = Name::new(value).map_err(|_| Refusal::Status(Status::NOT_FOUND))?,
            "SessionType" => {
                peer.session_type = match value {
                    "Normal" => SessionType::Normal,
                    "Discovery" => SessionType::Discovery,
                    _ => return Err(Refusal::Status(Status::SESSION_TYPE)),
                }
            }
            _ => {}
        }
    }
    let target_missing = peer.session_type == SessionType::Normal && peer.target.is_empty();
    if peer.initiator.is_empty() || target_missing {
        return Err(Refusal::Status(Status::MISSING_PARAMETER));
    }
    Ok(peer)
}

/// Negotiate all pairs of one complete request. Counts them, at most to `most` in a login.
pub(crate) fn negotiate(
    negotiation: &mut Negotiation,
    login: &mut Login,
    most: u16,
    initiator: &Name,
    text: &[u8],
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let stage = login.stage;
    let mut said = Said::default();
    let proves = stage == Stage::Security && login.attempt.is_some();
    negotiation.foresee(text);
    for pair in pairs(text) {
        let (key, value) = pair.map_err(|_| Refusal::Status(Status::INITIATOR_ERROR))?;
        login.keys += 1;
        if login.keys > most {
            return Err(Refusal::Status(Status::INITIATOR_ERROR));
        }
        match ChapKey::place(key).filter(|_| proves) {
            None => negotiation.offer(stage, key, value, out)?,
            Some(place) if said[place].is_none() => said[place] = Some(value),
            Some(_) => return Err(Refusal::Status(Status::INITIATOR_ERROR)),
        }
    }
    negotiation.named = true;
    negotiation.declare(stage, out)?;
    match &mut login.attempt {
        Some(attempt) if !attempt.is_proven() || said != Said::default() => {
            // Who does not even offer to prove anything, and wants to go on, is turned away.
            let wants_more = login.request.transit && !negotiation.chooses_chap();
            if stage != Stage::Security || wants_more {
                return Err(Refusal::Status(Status::AUTHENTICATION_FAILURE));
            }
            if said != Said::default() && !negotiation.chooses_chap() {
                return Err(Refusal::Status(Status::INITIATOR_ERROR));
            }
            authenticate(attempt, initiator, &said, out)
        }
        _ => Ok(()),
    }
}

/// One step of CHAP (12.1.3).
fn authenticate(
    attempt: &mut Attempt,
    initiator: &Name,
    said: &Said<'_>,
    out: &mut Writer<'_>,
) -> Result<(), Refusal> {
    let answer = attempt.take(initiator.as_str(), said).map_err(|failure| {
        Refusal::Status(match failure {
            Failure::Protocol => Status::INITIATOR_ERROR,
            Failure::Missing => Status::MISSING_PARAMETER,
            Failure::Authentication => Status::AUTHENTICATION_FAILURE,
        })
    })?;
    match answer {
        Answer::Nothing => {}
        Answer::Challenge { algorithm, identifier, challenge } => {
            out.pair(ChapKey::Algorithm.name(), algorithm)?;
            out.pair(ChapKey::Identifier.name(), identifier)?;
            out.pair(ChapKey::Challenge.name(), challenge)?;
        }
        Answer::Proof { user, response } => {
            out.pair(ChapKey::Name.name(), user)?;
            out.pair(ChapKey::Response.name(), response)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_go_forward_only_and_never_to_the_reserved_one() {
        let mut allowed = Vec::new();
        for current in 0..4 {
            for next in 0..4 {
                if let (Some(from), Some(to)) = (Stage::from_code(current), Stage::from_code(next))
                    && from.after(to).is_some()
                {
                    allowed.push((from.code(), to.code()));
                }
            }
        }
        assert_eq!(allowed, [(0, 1), (0, 3), (1, 3)]);
    }

    #[test]
    fn a_login_is_new_or_replaces_or_has_no_place() {
        let there = |has_room| NonZeroU16::new(7).map(|tsih| (tsih, has_room));
        for (tsih, existing, judged) in [
            (0, None, Ok(Join::New)),
            (0, there(true), Ok(Join::SessionReinstatement)),
            (0, there(false), Ok(Join::SessionReinstatement)),
            (7, there(true), Ok(Join::Session)),
            (7, there(false), Err(Status::TOO_MANY_CONNECTIONS)),
            (8, there(true), Err(Status::SESSION_DOES_NOT_EXIST)),
            (7, None, Err(Status::SESSION_DOES_NOT_EXIST)),
        ] {
            let peer = Peer { tsih, ..Peer::default() };
            assert_eq!(peer.joins(existing), judged, "{tsih} {existing:?}");
        }
    }

    #[test]
    fn the_one_method_there_is_has_to_be_in_the_list() {
        for (offered, open, closed) in [
            ("CHAP,None", Some("None"), Some("CHAP")),
            ("None", Some("None"), None),
            ("KRB5,CHAP", None, Some("CHAP")),
            ("", None, None),
            ("chap,none", None, None),
        ] {
            assert_eq!(authentication_method(offered, false), open, "{offered}");
            assert_eq!(authentication_method(offered, true), closed, "{offered}");
        }
    }
}
