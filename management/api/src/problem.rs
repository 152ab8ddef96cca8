//! The closed catalogue of errors, as problem documents (RFC 9457).
//!
//! Whatever can go wrong has one name here, and a client can tell from it what to do: whether the same request may be
//! sent again, and whether anything was done. `GET /v1/problems` publishes the list.

use crate::InstanceView;
use agent_protocol::{Capability, Failure, Provision, Refusal, Text};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use management_http::{PROBLEM_NAMESPACE, Response};
use serde::{Deserialize, Serialize, Serializer};

macro_rules! catalogue {
    ($($(#[$doc:meta])* $kind:ident = $name:literal, $status:literal, $title:literal, $retryable:literal;)*) => {
        /// What can go wrong.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// Every kind.
            pub const ALL: &'static [Self] = &[$(Self::$kind),*];

            /// The last part of the type.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// The status code.
            pub const fn status(self) -> u16 {
                match self { $(Self::$kind => $status,)* }
            }

            /// What it is, in a few words that never change.
            pub const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)* }
            }

            /// Whether the same request may succeed later, unchanged, and is safe to send again.
            pub const fn is_retryable(self) -> bool {
                match self { $(Self::$kind => $retryable,)* }
            }
        }
    };
}

catalogue! {
    /// The path leads nowhere.
    NotFound = "not-found", 404, "There is nothing here", false;
    /// The resource does not have this method.
    MethodNotAllowed = "method-not-allowed", 405, "The resource does not have this method", false;
    /// A body came with a method that has none.
    UnexpectedBody = "unexpected-body", 400, "This method takes no body", false;
    /// The body is not JSON by its media type.
    UnsupportedMediaType = "unsupported-media-type", 415, "The body is to be application/json", false;
    /// The body is not the JSON that is expected here.
    MalformedBody = "malformed-body", 400, "The body is not what is expected here", false;
    /// The query is not understood.
    MalformedQuery = "malformed-query", 400, "The query is not understood", false;
    /// A field of the body holds what it must not.
    InvalidField = "invalid-field", 422, "A field holds what it must not", false;
    /// The caller may not do this.
    Forbidden = "forbidden", 403, "The caller may not do this", false;

    /// The caller has not signed the request, and policy says that it has to.
    SignatureRequired = "signature-required", 403, "The request has to be signed", false;
    /// The signature of the request is not accepted.
    SignatureInvalid = "signature-invalid", 403, "The signature of the request is not accepted", false;
    /// The appliance has no clock by which a signature could be checked.
    ClockUnknown = "clock-unknown", 403, "The appliance does not know the time", false;

    /// No instance has this name.
    UnknownInstance = "unknown-instance", 404, "There is no such instance", false;
    /// The instance was terminated.
    InstanceTerminated = "instance-terminated", 409, "The instance is already terminated", false;
    /// An instance of this name is there.
    InstanceExists = "instance-exists", 409, "There is already an instance of this name", false;
    /// No image has this name.
    UnknownImage = "unknown-image", 422, "There is no such image", false;
    /// The verb makes no sense in the instance's state.
    WrongState = "wrong-state", 409, "The instance is in another state", false;
    /// The instance's state is not known.
    StateUnknown = "state-unknown", 409, "The state of the instance is not known", true;
    /// The precondition does not hold.
    PreconditionFailed = "precondition-failed", 412, "The precondition does not hold", false;
    /// The hypervisor cannot do it.
    Unsupported = "unsupported", 422, "The hypervisor cannot do this", false;
    /// The instance has no disk, interface or snapshot of this name, or there is no such network.
    UnknownPart = "unknown-part", 422, "The instance has no such part", false;
    /// The instance has another disk, interface or snapshot of this name.
    PartExists = "part-exists", 409, "The instance has another part of this name", false;
    /// What became of an earlier command to the instance is not known.
    InstanceFrozen = "instance-frozen", 409, "It is not known what an earlier command to the instance has done", false;
    /// No room for another instance.
    NoCapacity = "no-capacity", 507, "There is no room for another one", true;
    /// The guest did not shut down.
    GuestIgnored = "guest-ignored", 409, "The guest did not shut down", false;
    /// The guest did not let go of a disk or an interface.
    GuestDidNotRelease = "guest-did-not-release", 409, "The guest did not let go of it", true;
    /// The hypervisor failed at it.
    HypervisorFailed = "hypervisor-failed", 502, "The hypervisor could not do this", false;
    /// The hypervisor did not answer the agent in time.
    HypervisorTimeout = "hypervisor-timeout", 504, "The hypervisor did not answer in time", false;

    /// No operation has this name, or it has been forgotten.
    UnknownOperation = "unknown-operation", 404, "There is no such operation", false;
    /// The client token stands for another command.
    TokenReused = "client-token-reused", 409, "The client token belongs to another command", false;
    /// The deadline passed before anything was done.
    DeadlinePassed = "deadline-passed", 504, "The deadline passed before anything was done", true;
    /// Whether the command was carried out is not known.
    OutcomeUnknown = "outcome-unknown", 504, "It is not known whether this was done", false;
    /// So many commands are under way.
    TooBusy = "too-busy", 503, "Too many commands are under way", true;

    /// No agent is configured.
    AgentNotConfigured = "agent-not-configured", 503, "This appliance has no agent", false;
    /// The agent cannot be reached; nothing was done.
    AgentUnavailable = "agent-unavailable", 503, "The agent cannot be reached", true;
    /// The agent answered something that is not the protocol.
    AgentNonsense = "agent-nonsense", 502, "The agent's answer makes no sense", false;
    /// The agent did not take the request; nothing was done.
    AgentRefused = "agent-refused", 502, "The agent did not take the request", false;
    /// The agent cannot write its records.
    AgentStorage = "agent-storage", 502, "The agent cannot write its records", true;
    /// Another appliance commands the agent.
    StaleEpoch = "stale-epoch", 503, "Another appliance has taken over", false;
    /// The appliance is enrolled, or no key waits for a certificate.
    KeyState = "key-state", 409, "The appliance's keys are not at that point", false;
    /// There is no state disk, or it has failed, and this must not be done unless it can be remembered.
    NoState = "no-state", 503, "This cannot be remembered, so it is not done", false;

    /// No target has this name.
    UnknownTarget = "unknown-target", 404, "There is no such target", false;
    /// The target contradicts another.
    TargetConflict = "target-conflict", 409, "The target contradicts another", false;
    /// A session is logged in.
    TargetInUse = "target-in-use", 409, "A session is logged in to the target", true;
    /// The target does not admit the initiator of the instance.
    NotAdmitted = "initiator-not-admitted", 409, "The target does not admit this initiator", false;
    /// No network has this name.
    UnknownNetwork = "unknown-network", 404, "There is no such network", false;
    /// Another network has this number.
    VniTaken = "vni-taken", 409, "Another network has this number", false;
    /// The document is not newer than the one that is there.
    StaleGeneration = "stale-generation", 409, "There is a newer document", false;
    /// `If-Match` names another generation than the one that is there (RFC 9110 section 13.1.1).
    GenerationMismatch = "generation-mismatch", 412, "The document has another generation", false;

    /// The operation has been sent already, or is over.
    NotCancellable = "not-cancellable", 409, "The operation cannot be called off any more", false;
    /// The operation was called off before the agent was asked.
    Cancelled = "cancelled", 409, "The operation was called off", false;
    /// The host takes no new instances.
    Draining = "draining", 409, "The host takes no new instances", false;
    /// The version of the API that was asked for is not spoken.
    ApiVersion = "unsupported-api-version", 400, "This version of the API is not spoken here", false;
    /// There is no room on the state disk for this.
    StateDiskFull = "state-disk-full", 507, "The state disk has no room for this", true;
}

impl Kind {
    /// The kind that a refusal of the agent is to a client of this API.
    pub const fn of_refusal(refusal: Refusal) -> Self {
        match refusal {
            Refusal::UnknownInstance => Self::UnknownInstance,
            Refusal::UnknownImage => Self::UnknownImage,
            Refusal::Terminated => Self::InstanceTerminated,
            Refusal::AlreadyExists => Self::InstanceExists,
            Refusal::WrongState => Self::WrongState,
            Refusal::StateUnknown => Self::StateUnknown,
            Refusal::PreconditionFailed => Self::PreconditionFailed,
            Refusal::Expired => Self::DeadlinePassed,
            Refusal::StaleEpoch => Self::StaleEpoch,
            Refusal::StaleBoot => Self::AgentUnavailable,
            Refusal::Impossible => Self::Unsupported,
            Refusal::Full => Self::NoCapacity,
            Refusal::UnknownPart | Refusal::UnknownNetwork => Self::UnknownPart,
            Refusal::PartExists => Self::PartExists,
            Refusal::Frozen => Self::InstanceFrozen,
            Refusal::OpIdReused | Refusal::UnknownCritical | Refusal::Version | Refusal::Unrecognised => {
                Self::AgentRefused
            }
        }
    }

    /// The kind that a problem document of the agent is, by the last part of its type: that of a refusal or a failure.
    pub fn of_agent(name: &str) -> Option<Self> {
        let refusal = Refusal::ALL.iter().find(|refusal| refusal.as_str() == name);
        let failure = || Failure::ALL.iter().find(|failure| failure.as_str() == name);
        refusal
            .map(|refusal| Self::of_refusal(*refusal))
            .or_else(|| failure().map(|code| Self::of_failure(*code)))
    }

    /// The kind that a failure at the agent is to a client of this API.
    pub const fn of_failure(failure: Failure) -> Self {
        match failure {
            Failure::Timeout => Self::HypervisorTimeout,
            Failure::GuestIgnored => Self::GuestIgnored,
            Failure::GuestDidNotRelease => Self::GuestDidNotRelease,
            Failure::Storage => Self::AgentStorage,
            Failure::Spawn
            | Failure::Interrupted
            | Failure::Hypervisor
            | Failure::Ended
            | Failure::Unrecognised => Self::HypervisorFailed,
        }
    }
}

/// A problem: its kind, and what is particular to this occurrence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which of the catalogue it is.
    pub kind: Kind,
    /// What happened this time, for people.
    pub detail: Text,
    /// The occurrence: the operation that failed, or else the path of the request.
    pub instance: String,
    /// The instance as it stands, when that is why.
    pub current: Option<Box<InstanceView>>,
    /// The capability that is missing, when that is why.
    pub capability: Option<Box<Capability>>,
    /// The facility that is missing, when that is why.
    pub facility: Option<Box<Provision>>,
    /// `Allow`, with [`Kind::MethodNotAllowed`].
    pub allow: Option<&'static str>,
}

impl Problem {
    /// A problem of this kind; `detail` says what happened this time.
    pub fn new(kind: Kind, detail: impl AsRef<str>) -> Self {
        Self {
            kind,
            detail: Text::new(detail.as_ref()),
            instance: String::new(),
            current: None,
            capability: None,
            facility: None,
            allow: None,
        }
    }

    /// The same, at `instance` unless it already says where.
    #[must_use]
    pub fn at(mut self, instance: &str) -> Self {
        if self.instance.is_empty() {
            self.instance = instance.into();
        }
        self
    }

    /// As it is written.
    pub fn document(&self) -> ProblemDocument {
        ProblemDocument {
            r#type: type_of(self.kind.name()),
            title: self.kind.title().into(),
            status: self.kind.status(),
            detail: self.detail.clone(),
            instance: self.instance.clone(),
            retryable: self.kind.is_retryable(),
            capability: self.capability.clone(),
            facility: self.facility.clone(),
            current: self.current.clone(),
        }
    }

    /// As an HTTP response.
    pub fn response(&self) -> Response {
        let body = agent_protocol::encode(&self.document());
        // A second is long for the agent's link, which tries again by itself, and short for a person.
        let retry_after = (self.kind.is_retryable() && self.kind.status() == 503).then_some(1);
        Response { retry_after, allow: self.allow, ..Response::problem(self.kind.status(), body) }
    }
}

impl Serialize for Problem {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document().serialize(serializer)
    }
}

/// A problem as it is written (RFC 9457 section 3). One that the HTTP engine answers with has the first four only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ProblemDocument {
    /// Which of the catalogue it is; `GET /v1/problems` lists them.
    pub r#type: String,
    /// What it is, in a few words that never change.
    pub title: String,
    /// The status code.
    pub status: u16,
    /// What happened this time, for people.
    pub detail: Text,
    /// The occurrence: the operation that failed, or else the path of the request.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub instance: String,
    /// Whether the same request may succeed later, unchanged, and is safe to send again.
    #[serde(default)]
    pub retryable: bool,
    /// The capability that is missing, when that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capability: Option<Box<Capability>>,
    /// The facility that is missing, when that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facility: Option<Box<Provision>>,
    /// The instance as it stands, when that is why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<Box<InstanceView>>,
}

impl ProblemDocument {
    /// The last part of the type: the name in the catalogue.
    pub fn name(&self) -> &str {
        self.r#type.strip_prefix(PROBLEM_NAMESPACE).unwrap_or(&self.r#type)
    }

    /// Which of the catalogue it is; `None` of one of the HTTP engine, or of a newer appliance.
    pub fn kind(&self) -> Option<Kind> {
        Kind::ALL.iter().copied().find(|kind| kind.name() == self.name())
    }
}

fn type_of(name: &str) -> String {
    alloc::format!("{PROBLEM_NAMESPACE}{name}")
}

/// One of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CatalogueEntry {
    /// The type.
    pub r#type: String,
    /// The status code.
    pub status: u16,
    /// What it is, in a few words that never change.
    pub title: String,
    /// Whether the same request may succeed later, unchanged, and is safe to send again.
    pub retryable: bool,
}

/// All that can go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Catalogue {
    /// Those of the plane, and those that the HTTP engine answers with.
    pub problems: Vec<CatalogueEntry>,
}

/// The published catalogue.
pub fn catalogue() -> Catalogue {
    let entry = |name, status, title: &str, retryable| CatalogueEntry {
        r#type: type_of(name),
        status,
        title: title.into(),
        retryable,
    };
    let own =
        Kind::ALL.iter().map(|kind| entry(kind.name(), kind.status(), kind.title(), kind.is_retryable()));
    let engine = management_http::Refusal::ALL.iter().map(|refusal| {
        let (name, status, title, _) = refusal.describe();
        entry(name, status, title, status == 408)
    });
    Catalogue { problems: own.chain(engine).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_has_a_name_of_its_own_and_an_error_status() {
        let mut names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
        names.extend(management_http::Refusal::ALL.iter().map(|refusal| refusal.describe().0));
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
        for kind in Kind::ALL {
            assert!((400..600).contains(&kind.status()), "{kind:?}");
            assert_ne!(management_http::reason(kind.status()), "Status", "{kind:?} needs a reason phrase");
        }
    }

    #[test]
    fn hostile_words_in_a_detail_stay_words() {
        let problem = Problem::new(Kind::NotFound, "a\"b\\c\r\n\u{202e}</script>");
        let document = String::from_utf8(problem.at("/x").response().body).unwrap();
        assert_eq!(
            document,
            r#"{"type":"urn:corbel:problem:not-found","title":"There is nothing here","status":404,"detail":"a\"b\\c   </script>","instance":"/x","retryable":false}"#
        );
    }
}
