//! What clients send, from JSON to types that cannot say nonsense. Unknown and repeated fields are errors.

use crate::problem::{Kind, Problem};
use agent_protocol::{Action, ImageName, InstanceId, Object, Precondition, Size, Then};
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddrV4;
use core::time::Duration;
use management_http::Request;
use management_http::json::{self, Bounds};
use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use storage::chap::{Access, Account, Algorithms, Credentials, Secret};
use storage::{AccessState, Exposure, Policy, Rate};

/// How long a command may take to be begun when it does not say.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(25);
/// The longest it may ask for.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// How long a guest has to shut down when the command does not say, in milliseconds.
const STOP_TIMEOUT_DEFAULT: u32 = 60_000;
/// The longest it may be given: an hour.
const STOP_TIMEOUT_MAX: u32 = 3_600_000;
/// Longest text of a target's fields, in bytes: an iSCSI name has 223 (RFC 7143 section 4.2.7.1).
const NAME_MAX: usize = 223;
const VOLUME_MAX: usize = 1024;
const INITIATORS_MAX: usize = 32;
/// Seconds' worth that a limited disk may save up when the document does not say.
const BURST: u32 = 1;

/// The body of a request as a `T`.
pub(crate) fn parse<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, Problem> {
    if request.media_type().as_deref() != Some("application/json") {
        return Err(Problem::new(Kind::UnsupportedMediaType, "Send Content-Type: application/json."));
    }
    let malformed = |detail: String| Problem::new(Kind::MalformedBody, detail);
    json::check(request.body, &Bounds::REQUEST).map_err(|excess| malformed(excess.to_string()))?;
    agent_protocol::decode(request.body).map_err(|error| malformed(error.to_string()))
}

/// Chosen by a client to name one request: the same again is the same request, not another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClientToken(Box<str>);

impl ClientToken {
    /// The longest token, in bytes.
    pub const LIMIT: usize = 64;
}

impl<'de> Deserialize<'de> for ClientToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Token;
        impl Visitor<'_> for Token {
            type Value = ClientToken;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a client token: 1 to 64 of A-Z a-z 0-9 . _ -")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ClientToken, E> {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
                if text.is_empty() || text.len() > ClientToken::LIMIT || !text.bytes().all(plain) {
                    return Err(E::custom(format_args!("not {}", "1 to 64 of A-Z a-z 0-9 . _ -")));
                }
                Ok(ClientToken(text.into()))
            }
        }
        deserializer.deserialize_str(Token)
    }
}

/// A command of a client, ready to be decided on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// The instance concerned.
    pub(crate) instance: InstanceId,
    /// What to do to it.
    pub(crate) action: Action,
    /// What must hold for it.
    pub(crate) precondition: Precondition,
    /// The client's name for the request.
    pub(crate) token: Option<ClientToken>,
    /// From its arrival to the latest moment at which it may be begun.
    pub(crate) budget: Duration,
}

/// The body of `POST /v1/instances`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateDocument {
    id: InstanceId,
    image: ImageName,
    start: Option<bool>,
    client_token: Option<ClientToken>,
    deadline_ms: Option<u32>,
}

impl CreateDocument {
    pub(crate) fn order(self) -> Result<Order, Problem> {
        Ok(Order {
            instance: self.id,
            action: Action::Create {
                image: self.image,
                start: self.start.unwrap_or(true),
                size: Size::default(),
            },
            precondition: Precondition::default(),
            token: self.client_token,
            budget: budget(self.deadline_ms)?,
        })
    }
}

/// The body of `POST /v1/instances/{id}/commands`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CommandDocument {
    verb: VerbName,
    args: Option<Object<StopArguments>>,
    precondition: Option<Object<Precondition>>,
    client_token: Option<ClientToken>,
    deadline_ms: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum VerbName {
    Start,
    Stop,
    Pause,
    Resume,
    Terminate,
}

/// The arguments of `stop`, the only verb that has some.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StopArguments {
    graceful: Option<bool>,
    timeout_ms: Option<u32>,
    then: Option<Then>,
}

impl CommandDocument {
    pub(crate) fn order(self, instance: InstanceId) -> Result<Order, Problem> {
        let action = match self.verb {
            VerbName::Stop => self.args.unwrap_or_default().0.action()?,
            _ if self.args.is_some() => {
                return Err(Problem::new(Kind::InvalidField, "args: only stop takes arguments"));
            }
            VerbName::Start => Action::Start {},
            VerbName::Pause => Action::Pause {},
            VerbName::Resume => Action::Resume {},
            VerbName::Terminate => Action::Terminate {},
        };
        Ok(Order {
            instance,
            action,
            precondition: self.precondition.unwrap_or_default().0,
            token: self.client_token,
            budget: budget(self.deadline_ms)?,
        })
    }
}

impl StopArguments {
    fn action(self) -> Result<Action, Problem> {
        let graceful = self.graceful.unwrap_or(true);
        if !graceful && (self.timeout_ms.is_some() || self.then.is_some()) {
            let detail = "args: timeout_ms and then belong to a graceful stop";
            return Err(Problem::new(Kind::InvalidField, detail));
        }
        let timeout_ms = self.timeout_ms.unwrap_or(if graceful { STOP_TIMEOUT_DEFAULT } else { 0 });
        if timeout_ms > STOP_TIMEOUT_MAX {
            return Err(Problem::new(Kind::InvalidField, "args.timeout_ms: at most 3600000"));
        }
        Ok(Action::Stop { graceful, timeout_ms, then: self.then.unwrap_or_default() })
    }
}

fn budget(deadline_ms: Option<u32>) -> Result<Duration, Problem> {
    let Some(milliseconds) = deadline_ms else { return Ok(DEADLINE_DEFAULT) };
    let budget = Duration::from_millis(milliseconds.into());
    if budget.is_zero() || budget > DEADLINE_MAX {
        return Err(Problem::new(Kind::InvalidField, "deadline_ms: from 1 to 60000"));
    }
    Ok(budget)
}

/// The body of `PUT /v1/targets/{id}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetDocument {
    iqn: String,
    #[serde(default)]
    lun: u16,
    volume: String,
    initiators: Vec<String>,
    chap: Option<Object<AccessDocument>>,
    #[serde(default)]
    read_only: bool,
    #[serde(default)]
    removable: bool,
    #[serde(default)]
    access: Option<String>,
    #[serde(default)]
    policy: Option<Object<PolicyDocument>>,
}

/// What initiators have to prove. It is written and never read: a target that has it is shown with `"chap": true`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccessDocument {
    accounts: Vec<Object<AccountDocument>>,
    algorithms: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AccountDocument {
    user: String,
    secret: String,
    initiator: Option<String>,
    target_user: Option<String>,
    target_secret: Option<String>,
}

impl AccessDocument {
    fn access(self) -> Result<Access, Problem> {
        let invalid =
            |detail: &dyn fmt::Display| Problem::new(Kind::InvalidField, alloc::format!("chap: {detail}"));
        let credentials = |user: String, secret: &str| {
            let secret = Secret::new(secret).map_err(|error| invalid(&error))?;
            Ok(Credentials { user: user.into(), secret })
        };
        let mut accounts = Vec::with_capacity(self.accounts.len());
        for Object(account) in self.accounts {
            let from_target = match (account.target_user, account.target_secret) {
                (None, None) => None,
                (Some(user), Some(secret)) => Some(credentials(user, &secret)?),
                _ => return Err(invalid(&"target_user and target_secret belong together")),
            };
            accounts.push(Account {
                initiator: account.initiator.map(Into::into),
                from_initiator: credentials(account.user, &account.secret)?,
                from_target,
            });
        }
        let algorithms = match self.algorithms {
            None => Algorithms::ALL,
            Some(list) => Algorithms::parse(&list)
                .ok_or_else(|| invalid(&"algorithms: some of md5,sha1,sha-256,sha3-256"))?,
        };
        Access::new(accounts, algorithms).map_err(|error| invalid(&error))
    }
}

/// What is decided about the way to a target's bytes; `0` and `null` stand for what holds without it.
#[derive(Deserialize, Serialize, Debug, Default, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct PolicyDocument {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    portals: Vec<SocketAddrV4>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iops: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    burst_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_seconds: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fail_after_seconds: Option<u32>,
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    assume_durable: bool,
    #[serde(skip_serializing_if = "core::ops::Not::not")]
    portals_fence: bool,
}

impl PolicyDocument {
    /// The document of a policy.
    pub(crate) fn new(policy: &Policy) -> Self {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
        let Rate { iops, bandwidth, burst } = policy.rate;
        Self {
            portals: policy.portals.clone(),
            generation: (policy.generation > 0).then_some(policy.generation),
            iops: (iops > 0).then_some(iops),
            bandwidth: (bandwidth > 0).then_some(bandwidth),
            burst_seconds: (burst > BURST).then_some(burst),
            hold_seconds: policy.hold.map(seconds),
            fail_after_seconds: policy.fail_after.map(seconds),
            assume_durable: policy.assume_durable,
            portals_fence: policy.portals_fence,
        }
    }

    fn policy(self) -> Policy {
        let seconds = |number: u32| Duration::from_secs(number.into());
        Policy {
            portals: self.portals,
            generation: self.generation.unwrap_or(0),
            rate: Rate {
                iops: self.iops.unwrap_or(0),
                bandwidth: self.bandwidth.unwrap_or(0),
                burst: self.burst_seconds.unwrap_or(BURST),
            },
            hold: self.hold_seconds.map(seconds),
            fail_after: self.fail_after_seconds.map(seconds),
            assume_durable: self.assume_durable,
            portals_fence: self.portals_fence,
        }
    }
}

impl TargetDocument {
    /// What is asked of storage, which knows what names and volumes may be; here they are only bounded.
    pub(crate) fn exposure(self, id: &InstanceId) -> Result<Exposure, Problem> {
        let long = |text: &String| text.is_empty() || text.len() > NAME_MAX;
        let named = |text: &str| AccessState::NAMES.iter().find(|(name, _)| *name == text);
        let access = self.access.as_deref().map_or(Some(AccessState::default()), |text| Some(named(text)?.1));
        let wrong = if long(&self.iqn) {
            Some("iqn: 1 to 223 bytes")
        } else if self.volume.is_empty() || self.volume.len() > VOLUME_MAX {
            Some("volume: 1 to 1024 bytes")
        } else if self.initiators.is_empty() || self.initiators.len() > INITIATORS_MAX {
            Some("initiators: 1 to 32 names, or \"*\" for any")
        } else if self.initiators.iter().any(long) {
            Some("initiators: each has 1 to 223 bytes")
        } else if access.is_none() {
            Some("access: optimized, non-optimized or standby")
        } else {
            None
        };
        let (None, Some(access)) = (wrong, access) else {
            return Err(Problem::new(Kind::InvalidField, wrong.unwrap_or_default()));
        };
        Ok(Exposure {
            id: id.as_str().into(),
            iqn: self.iqn,
            lun: self.lun,
            volume: self.volume,
            initiators: self.initiators,
            chap: self.chap.map(|Object(access)| access.access()).transpose()?,
            read_only: self.read_only,
            removable: self.removable,
            access,
            policy: self.policy.map_or_else(PolicyDocument::default, |policy| policy.0).policy(),
        })
    }
}
