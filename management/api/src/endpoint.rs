//! The one table of requests: method, path, who may, and what is sent and answered.

use crate::problem::Kind;
use management_http::Method;

/// What a request wants to do, as far as rights are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Look at the appliance itself: its health and what it is.
    About,
    /// Look at its figures.
    Metrics,
    /// Look at instances, what they can be made of, and the operations on them.
    Read,
    /// Command instances.
    Instances,
    /// Look at targets.
    ReadTargets,
    /// Expose and withdraw targets.
    Targets,
    /// Look at networks.
    ReadNetworks,
    /// Say what networks look like.
    Networks,
    /// Read what has happened.
    Events,
    /// Read who did what.
    Audit,
    /// Give the appliance its first certificate.
    Enrol,
    /// See to the appliance's key and certificate.
    Keys,
}

/// The parameters that the query of a request may have, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters(pub u8);

impl Parameters {
    /// None.
    pub const NONE: Self = Self(0);
    /// `limit`: at most so many, from 1 to 200; 100 unless it says so.
    pub const LIMIT: Self = Self(1);
    /// `after`: those that come after this name.
    pub const AFTER: Self = Self(2);
    /// `after`: those that come after this number.
    pub const AFTER_SEQ: Self = Self(4);
    /// `wait`: how long the answer may be held back until there is something new, from `0s` to `25s`.
    pub const WAIT: Self = Self(8);
    /// `dry_run`: with `true` it is only looked at whether it would be carried out.
    pub const DRY_RUN: Self = Self(16);
    /// `grace`: seconds that initiators have to log out, from 0 to 3600.
    pub const GRACE: Self = Self(32);
    /// Taking a target away.
    pub const WITHDRAW: Self = Self(Self::GRACE.0 | Self::DRY_RUN.0);
    /// A page of what has names.
    pub const PAGE: Self = Self(Self::LIMIT.0 | Self::AFTER.0);
    /// A page of what has numbers.
    pub const SEQ_PAGE: Self = Self(Self::LIMIT.0 | Self::AFTER_SEQ.0);
    /// What comes after a place, and waiting for it.
    pub const FOLLOW: Self = Self(Self::AFTER_SEQ.0 | Self::WAIT.0);
    /// The same, and waiting for more.
    pub const STREAM: Self = Self(Self::SEQ_PAGE.0 | Self::WAIT.0);

    /// Whether all of `other` are among these.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The fields of its head, beside those of any, that a request is decided by, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers(pub u8);

impl Headers {
    /// None.
    pub const NONE: Self = Self(0);
    /// `If-Match`: the generation that has to be there.
    pub const IF_MATCH: Self = Self(1);
    /// `Signature-Input`, `Signature` and `Content-Digest`: the caller's signature (RFC 9421) of what changes something.
    pub const SIGNED: Self = Self(2);
    /// Those of what changes a document with generations.
    pub const DOCUMENT: Self = Self(Self::IF_MATCH.0 | Self::SIGNED.0);

    /// Whether all of `other` are among these.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// What it asks for.
    pub call: Call,
    /// The method; `HEAD` goes where `GET` does.
    pub method: Method,
    /// The path; a segment `{id}` stands for any name, and may have an action behind it after a colon.
    pub path: &'static str,
    /// Who may.
    pub right: Right,
    /// What the query may have.
    pub query: Parameters,
    /// What its head may have.
    pub headers: Headers,
}

macro_rules! endpoints {
    ($($(#[$doc:meta])* $call:ident: $method:ident $path:literal $right:ident $query:ident $headers:ident
        ($($request:ty)?) -> [$($status:literal $($response:ty)?),+] $problems:expr;)*) => {
        /// What a request asks for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Call {
            $($(#[$doc])* $call,)*
        }

        /// Every request that there is.
        pub const ENDPOINTS: &[Endpoint] = &[
            $(Endpoint {
                call: Call::$call,
                method: Method::$method,
                path: $path,
                right: Right::$right,
                query: Parameters::$query,
                headers: Headers::$headers,
            },)*
        ];

        impl Call {
            /// The problems that may be the answer, beside those of any request ([`ANY`]).
            pub const fn problems(self) -> &'static [&'static [Kind]] {
                match self {
                    $(Self::$call => $problems,)*
                }
            }

            /// The name of the row.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$call => stringify!($call),)*
                }
            }

            /// Schemas of the body that is sent, and of those that are answered by status.
            #[cfg(feature = "schema")]
            pub(crate) fn schemas(self, generator: &mut schemars::SchemaGenerator) -> crate::openapi::Bodies {
                match self {
                    $(Self::$call => crate::openapi::Bodies {
                        doc: crate::openapi::doc(&[$(stringify!($doc)),*]),
                        request: [$(generator.subschema_for::<$request>())?].into_iter().next(),
                        responses: [$(($status, [$(generator.subschema_for::<$response>())?].into_iter().next())),+]
                            .into_iter()
                            .collect(),
                    },)*
                }
            }
        }
    };
}

/// What may be the answer to any request.
pub const ANY: &[Kind] = &[
    Kind::NotFound,
    Kind::MethodNotAllowed,
    Kind::UnexpectedBody,
    Kind::MalformedQuery,
    Kind::Forbidden,
    Kind::ApiVersion,
];
/// To any that changes something.
pub const CHANGE: &[Kind] =
    &[Kind::SignatureRequired, Kind::SignatureInvalid, Kind::ClockUnknown, Kind::TooBusy];
/// To one with a body.
const BODY: &[Kind] = &[Kind::UnsupportedMediaType, Kind::MalformedBody, Kind::InvalidField];
/// To one for which the agent is asked.
const AGENT: &[Kind] = &[
    Kind::TooBusy,
    Kind::AgentNotConfigured,
    Kind::AgentUnavailable,
    Kind::AgentNonsense,
    Kind::AgentRefused,
    Kind::StaleEpoch,
];
/// To one that must be remembered.
const KEPT: &[Kind] = &[Kind::NoState, Kind::StateDiskFull];
/// To one about an instance.
const INSTANCE: &[Kind] = &[Kind::UnknownInstance, Kind::StateUnknown, Kind::InstanceTerminated];
/// To a command.
const COMMAND: &[Kind] = &[
    Kind::InstanceExists,
    Kind::UnknownImage,
    Kind::WrongState,
    Kind::PreconditionFailed,
    Kind::Unsupported,
    Kind::UnknownPart,
    Kind::PartExists,
    Kind::InstanceFrozen,
    Kind::NoCapacity,
    Kind::GuestIgnored,
    Kind::GuestDidNotRelease,
    Kind::HypervisorFailed,
    Kind::HypervisorTimeout,
    Kind::AgentStorage,
    Kind::TokenReused,
    Kind::DeadlinePassed,
    Kind::OutcomeUnknown,
    Kind::UnknownTarget,
    Kind::NotAdmitted,
    Kind::Draining,
];
/// To one that looks at an instance.
const LOOK: &[Kind] =
    &[Kind::HypervisorFailed, Kind::HypervisorTimeout, Kind::AgentStorage, Kind::DeadlinePassed];
/// To one that looks at what an instance does.
const USED: &[Kind] = &[Kind::WrongState, Kind::Unsupported, Kind::HypervisorFailed, Kind::HypervisorTimeout];
/// To one about an operation.
const OPERATION: &[Kind] = &[Kind::UnknownOperation];
/// To one that calls an operation off.
const CANCEL: &[Kind] = &[Kind::UnknownOperation, Kind::NotCancellable];
/// To one about a target.
const TARGET: &[Kind] = &[Kind::UnknownTarget];
/// To one that changes a target.
const EXPOSE: &[Kind] = &[
    Kind::InvalidField,
    Kind::TargetConflict,
    Kind::NoCapacity,
    Kind::StaleGeneration,
    Kind::GenerationMismatch,
];
/// To one that takes a target away.
const WITHDRAW: &[Kind] = &[Kind::UnknownTarget, Kind::TargetInUse, Kind::GenerationMismatch];
/// To one about a network.
const NETWORK: &[Kind] = &[Kind::UnknownNetwork];
/// To one that puts or takes away the map of a network.
const MAP: &[Kind] = &[
    Kind::VniTaken,
    Kind::NoCapacity,
    Kind::StaleGeneration,
    Kind::GenerationMismatch,
    Kind::AgentNotConfigured,
    Kind::StaleEpoch,
    Kind::TooBusy,
];
/// To one about keys.
const KEYS: &[Kind] = &[Kind::KeyState];

endpoints! {
    /// The appliance is alive.
    Health: Get "/healthz" About NONE NONE () -> [200 str] &[];
    /// Every part that is configured can do its work.
    Ready: Get "/readyz" About NONE NONE () -> [200 crate::ReadyView, 503 crate::ReadyView] &[];
    /// What the appliance is: version, clock, limits, agent.
    About: Get "/v1" About NONE NONE () -> [200 crate::AboutView] &[];
    /// All that can go wrong.
    Problems: Get "/v1/problems" About NONE NONE () -> [200 crate::Catalogue] &[];
    /// Counters, for Prometheus.
    Metrics: Get "/v1/metrics" Metrics NONE NONE () -> [200 str] &[];
    /// The same where Prometheus looks if it is not told otherwise.
    Scrape: Get "/metrics" Metrics NONE NONE () -> [200 str] &[];
    /// The host: hypervisors, agent, capacity, drain.
    Host: Get "/v1/hosts/self" Read NONE NONE () -> [200 crate::HostView] &[];
    /// Let the host take no new instances, or take them again.
    Drain: Post "/v1/hosts/self:drain" Instances DRY_RUN SIGNED (crate::DrainRequest) -> [200 crate::HostView] &[BODY, KEPT];
    /// What can be done with instances here.
    Capabilities: Get "/v1/capabilities" Read NONE NONE () -> [200 crate::Capabilities] &[AGENT];
    /// The images an instance can be made of.
    Images: Get "/v1/images" Read NONE NONE () -> [200 crate::ImageList] &[AGENT];
    /// Instances, sorted by name.
    Instances: Get "/v1/instances" Read PAGE NONE () -> [200 crate::InstancePage] &[AGENT];
    /// Make an instance.
    CreateInstance: Post "/v1/instances" Instances DRY_RUN SIGNED (crate::CreateRequest)
        -> [200 crate::Forecast, 201 crate::OperationView, 202 crate::OperationView] &[BODY, KEPT, AGENT, INSTANCE, COMMAND];
    /// One instance, looked at now.
    Instance: Get "/v1/instances/{id}" Read NONE NONE () -> [200 crate::InstanceView] &[AGENT, INSTANCE, LOOK];
    /// What an instance that runs has used since it was started.
    Stats: Get "/v1/instances/{id}/stats" Read NONE NONE () -> [200 agent_protocol::Stats] &[AGENT, INSTANCE, USED];
    /// What the guest of an instance that runs wrote to its console after the first so many bytes, at once or when it has
    /// written something, within five seconds.
    Console: Get "/v1/instances/{id}/console" Read FOLLOW NONE () -> [200 agent_protocol::ConsolePage]
        &[AGENT, INSTANCE, USED];
    /// Command an instance.
    Command: Post "/v1/instances/{id}/commands" Instances DRY_RUN SIGNED (crate::CommandRequest)
        -> [200 crate::Forecast, 202 crate::OperationView] &[BODY, KEPT, AGENT, INSTANCE, COMMAND];
    /// Command several instances; each command becomes an operation of its own, or a problem.
    Batch: Post "/v1/commands" Instances DRY_RUN SIGNED (crate::BatchRequest) -> [200 crate::BatchView, 202 crate::BatchView]
        &[BODY];
    /// Operations, the latest first.
    Operations: Get "/v1/operations" Read PAGE NONE () -> [200 crate::OperationPage] &[];
    /// One operation, at once or when it is over.
    Operation: Get "/v1/operations/{id}" Read WAIT NONE () -> [200 crate::OperationView] &[OPERATION];
    /// Call off an operation that has not been sent yet.
    Cancel: Post "/v1/operations/{id}:cancel" Instances DRY_RUN SIGNED () -> [200 crate::OperationView] &[CANCEL, KEPT];
    /// Targets, sorted by name.
    Targets: Get "/v1/targets" ReadTargets PAGE NONE () -> [200 crate::TargetPage] &[];
    /// One target: what is applied, and what is wanted.
    Target: Get "/v1/targets/{id}" ReadTargets NONE NONE () -> [200 crate::TargetView] &[TARGET];
    /// Say what is wanted of a target, whole.
    PutTarget: Put "/v1/targets/{id}" Targets DRY_RUN DOCUMENT (crate::TargetDocument)
        -> [200 crate::TargetView, 201 crate::TargetView] &[BODY, EXPOSE, KEPT];
    /// Withdraw a target.
    DeleteTarget: Delete "/v1/targets/{id}" Targets WITHDRAW DOCUMENT () -> [200 crate::TargetView, 202 crate::TargetView, 204] &[WITHDRAW, KEPT];
    /// Networks, sorted by name.
    Networks: Get "/v1/networks" ReadNetworks PAGE NONE () -> [200 crate::NetworkPage] &[];
    /// The map of a network: what is wanted, what is in effect, and in what they differ.
    Network: Get "/v1/networks/{id}/map" ReadNetworks NONE NONE () -> [200 crate::NetworkView] &[NETWORK, AGENT];
    /// Say what is wanted of a network, whole.
    PutNetwork: Put "/v1/networks/{id}/map" Networks DRY_RUN DOCUMENT (agent_protocol::NetworkMap)
        -> [200 crate::NetworkView, 201 crate::NetworkView] &[BODY, MAP, KEPT];
    /// Have the host have no such network any more.
    DeleteNetwork: Delete "/v1/networks/{id}/map" Networks DRY_RUN DOCUMENT ()
        -> [200 crate::NetworkView, 202 crate::NetworkView] &[NETWORK, MAP, KEPT];
    /// What the host has counted of a network, asked now.
    NetworkCounters: Get "/v1/networks/{id}/counters" ReadNetworks NONE NONE () -> [200 crate::NetworkCounters]
        &[NETWORK, AGENT];
    /// What has happened since, at once or when something has.
    Events: Get "/v1/events" Events STREAM NONE () -> [200 crate::EventPage] &[];
    /// What the appliance's first certificate is to be made of; only before it has one.
    EnrolmentRequest: Get "/v1/enrol" Enrol NONE NONE () -> [200 crate::CertificateRequestView] &[KEYS, KEPT];
    /// Give the appliance its first certificate.
    Enrol: Post "/v1/enrol" Enrol NONE SIGNED (crate::EnrolRequest) -> [200 crate::KeysView] &[BODY, KEYS, KEPT];
    /// How it is with the appliance's keys.
    Keys: Get "/v1/keys" Keys NONE NONE () -> [200 crate::KeysView] &[KEYS];
    /// Make a new key, or show again what the certificate of the last is to be made of.
    RotateKeys: Post "/v1/keys:rotate" Keys NONE SIGNED () -> [200 crate::CertificateRequestView] &[KEYS, KEPT];
    /// Give the new key its certificate, and use them for the connections to come.
    PutKeys: Put "/v1/keys" Keys NONE SIGNED (crate::CertificateDocument) -> [200 crate::KeysView] &[BODY, KEYS, KEPT];
    /// Who did what.
    Audit: Get "/v1/audit" Audit SEQ_PAGE NONE () -> [200 crate::audit::AuditPage] &[];
}

/// The row whose path matches, and the name in it; the path matches but has other methods: those, as bits of [`methods`].
///
/// # Errors
/// The methods that the path has; none when the path leads nowhere.
pub fn find(method: Method, path: &str) -> Result<(&'static Endpoint, &str), u8> {
    let method = if method == Method::Head { Method::Get } else { method };
    let mut others = 0;
    for endpoint in ENDPOINTS {
        let Some(name) = matches(endpoint.path, path) else { continue };
        if endpoint.method == method {
            return Ok((endpoint, name));
        }
        others |= 1 << endpoint.method as u8;
    }
    Err(others)
}

/// The name that stands for `{id}`, or nothing, if `path` is one of `template`.
fn matches<'a>(template: &str, path: &'a str) -> Option<&'a str> {
    let Some((before, after)) = template.split_once("{id}") else {
        return (template == path).then_some("");
    };
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains(['/', ':'])).then_some(name)
}

/// The value of `Allow` for these methods.
pub const fn methods(bits: u8) -> Option<&'static str> {
    const GET: u8 = 1 << Method::Get as u8;
    const POST: u8 = 1 << Method::Post as u8;
    const PUT: u8 = 1 << Method::Put as u8;
    const DELETE: u8 = 1 << Method::Delete as u8;
    const GET_POST: u8 = GET | POST;
    const GET_PUT: u8 = GET | PUT;
    const DOCUMENT: u8 = GET | PUT | DELETE;
    match bits {
        GET => Some("GET, HEAD"),
        POST => Some("POST"),
        GET_POST => Some("GET, HEAD, POST"),
        GET_PUT => Some("GET, HEAD, PUT"),
        DOCUMENT => Some("GET, HEAD, PUT, DELETE"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_own_path_and_no_two_are_the_same() {
        for endpoint in ENDPOINTS {
            let path = endpoint.path.replace("{id}", "web-1");
            let (found, name) = find(endpoint.method, &path).unwrap();
            assert_eq!(found, endpoint);
            assert_eq!(name, if endpoint.path.contains("{id}") { "web-1" } else { "" });
        }
    }

    #[test]
    fn every_path_names_its_methods_to_whoever_uses_another() {
        for endpoint in ENDPOINTS {
            let path = endpoint.path.replace("{id}", "web-1");
            let bits = find(Method::Patch, &path).unwrap_err();
            let allow = methods(bits).unwrap_or_else(|| panic!("{path}: {bits:b}"));
            assert!(allow.split(", ").any(|method| method == endpoint.method.as_str()), "{path}: {allow}");
        }
    }

    #[test]
    fn what_only_looks_like_a_path_leads_nowhere() {
        for path in [
            "/",
            "/v1/",
            "/v2",
            "/v1/instances/",
            "/v1/instances/a/b",
            "/v1/instances/a/b/commands",
            "/v1/instances/a:b",
            "/v1/operations/:cancel",
            "/v1/operations/a/b:cancel",
            "/v1/hosts/other",
        ] {
            assert_eq!(find(Method::Get, path), Err(0), "{path}");
        }
    }
}
