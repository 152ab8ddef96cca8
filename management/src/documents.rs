//! What clients send, from JSON to types that cannot say nonsense. Unknown and repeated fields are errors.

use crate::problem::{Kind, Problem};
use crate::targets::Targets;
use agent_protocol::{Action, InstanceId, Link, Nic, Object, Precondition, Size, Then, Verb, Volume};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;
pub use management_api::ClientToken;
use management_api::{
    self as api, AccessDocument, Arguments, CommandRequest, CreateRequest, PolicyDocument, TargetDocument,
    TargetId, argument, form,
};
use management_http::Request;
use management_http::json::{self, Bounds};
use serde::de::DeserializeOwned;
use storage::chap::{Access, Account, Algorithms, Credentials, Secret};
use storage::{AccessState, Exposed, Exposure, Policy, Rate};

/// How long a command may take to be begun when it does not say.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(25);
/// The longest it may ask for.
const DEADLINE_MAX: Duration = Duration::from_secs(60);
/// How long a guest has to shut down or to let go of something when the command does not say, in milliseconds.
const TIMEOUT_DEFAULT: u32 = 60_000;
/// The longest it may be given: an hour.
const TIMEOUT_MAX: u32 = 3_600_000;
/// Longest text of a target's fields, in bytes: an iSCSI name has 223 (RFC 7143 section 4.2.7.1).
const NAME_MAX: usize = 223;
const VOLUME_MAX: usize = 1024;
const INITIATORS_MAX: usize = 32;
/// Seconds' worth that a limited disk may save up when the document does not say.
const BURST: u32 = 1;

/// The body of a request as a `T`.
pub(crate) fn parse<T: DeserializeOwned>(request: &Request<'_>) -> Result<T, Problem> {
    parse_within(request, &Bounds::REQUEST)
}

/// The same within other bounds.
pub(crate) fn parse_within<T: DeserializeOwned>(
    request: &Request<'_>,
    bounds: &Bounds,
) -> Result<T, Problem> {
    if request.media_type().as_deref() != Some("application/json") {
        return Err(Problem::new(Kind::UnsupportedMediaType, "Send Content-Type: application/json."));
    }
    let malformed = |detail: String| Problem::new(Kind::MalformedBody, detail);
    json::check(request.body, bounds).map_err(|excess| malformed(excess.to_string()))?;
    agent_protocol::decode(request.body).map_err(|error| malformed(error.to_string()))
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

/// What `POST /v1/instances` asks for.
pub(crate) fn create(request: CreateRequest) -> Result<Order, Problem> {
    Ok(Order {
        instance: request.id,
        action: Action::Create {
            image: request.image,
            start: request.start.unwrap_or(true),
            size: request.size.map(|Object(size)| sized(size)).transpose()?.unwrap_or_default(),
        },
        precondition: Precondition::default(),
        token: request.client_token,
        budget: budget(request.deadline_ms)?,
    })
}

/// What `POST /v1/instances/{id}/commands` asks for. A disk is looked up among `targets`; one
/// that is gone since is what it was when the same was asked `before`.
pub(crate) fn command(
    request: CommandRequest,
    instance: InstanceId,
    targets: &dyn Targets,
    before: Option<Volume>,
) -> Result<Order, Problem> {
    let Object(arguments) = request.args.unwrap_or_default();
    Ok(Order {
        instance,
        action: action(request.verb, arguments, targets, before)?,
        precondition: request.precondition.unwrap_or_default().0,
        token: request.client_token,
        budget: budget(request.deadline_ms)?,
    })
}

/// The action of a verb and its arguments, which are exactly those that the verb takes.
fn action(
    verb: Verb,
    args: Arguments,
    targets: &dyn Targets,
    before: Option<Volume>,
) -> Result<Action, Problem> {
    let invalid = |detail: String| Err(Problem::new(Kind::InvalidField, detail));
    let Some(form) = form(verb) else {
        return invalid(format!("verb: {verb} has a request of its own"));
    };
    let present = args.present();
    if let Some(name) = first(present & !(form.needs | form.takes)) {
        return invalid(format!("args.{name}: {verb} does not take it"));
    }
    if let Some(name) = first(form.needs & !present) {
        return invalid(format!("args.{name}: {verb} needs it"));
    }
    let timeout_ms = args.timeout_ms.unwrap_or(TIMEOUT_DEFAULT);
    if timeout_ms > TIMEOUT_MAX {
        return invalid("args.timeout_ms: at most 3600000".into());
    }
    let then = args.then.unwrap_or_default();
    let action = match verb {
        Verb::Create | Verb::Describe => None,
        Verb::Start => Some(Action::Start {}),
        Verb::Stop if args.graceful == Some(false) => {
            if present != argument::GRACEFUL {
                return invalid("args: timeout_ms and then belong to a graceful stop".into());
            }
            Some(CUT)
        }
        Verb::ForceStop => Some(CUT),
        Verb::Stop => Some(Action::Stop { graceful: true, timeout_ms, then }),
        Verb::Reboot => Some(Action::Reboot { timeout_ms, then }),
        Verb::Reset => Some(Action::Reset {}),
        Verb::Pause => Some(Action::Pause {}),
        Verb::Resume => Some(Action::Resume {}),
        Verb::Save => Some(Action::Save {}),
        Verb::Restore => Some(Action::Restore {}),
        Verb::Snapshot => args.snapshot.map(|snapshot| Action::Snapshot { snapshot }),
        Verb::Revert => args.snapshot.map(|snapshot| Action::Revert { snapshot }),
        Verb::Resize if present == 0 => return invalid("args: resize needs cpus or memory_mib".into()),
        Verb::Resize => {
            let size = sized(Size { cpus: args.cpus, memory_mib: args.memory_mib })?;
            Some(Action::Resize { size })
        }
        Verb::VolumeAttach => Some(Action::VolumeAttach { volume: volume(args, targets, before)? }),
        Verb::VolumeDetach => args.volume.map(|volume| Action::VolumeDetach { volume, timeout_ms }),
        Verb::VolumeResize => args.volume.map(|volume| Action::VolumeResize { volume }),
        Verb::NicAttach => nic(args).map(|nic| Action::NicAttach { nic }),
        Verb::NicDetach => args.nic.map(|nic| Action::NicDetach { nic, timeout_ms }),
        Verb::NicUpdate => args.nic.zip(args.link).map(|(nic, link)| Action::NicUpdate { nic, link }),
        Verb::MigratePrepare => {
            args.image.zip(args.uuid).map(|(image, uuid)| Action::MigratePrepare { image, uuid })
        }
        Verb::MigrateStart => args.peer.map(|peer| Action::MigrateStart { peer }),
        Verb::MigrateCancel => Some(Action::MigrateCancel {}),
        Verb::Terminate => Some(Action::Terminate {}),
    };
    // That what is needed is there was seen above.
    action.map_or_else(|| invalid(format!("args: {verb} needs others")), Ok)
}

/// A stop that does not ask the guest.
const CUT: Action = Action::Stop { graceful: false, timeout_ms: 0, then: Then::Leave };

/// The name of the first argument of these bits.
fn first(bits: u16) -> Option<&'static str> {
    argument::NAMES.get(bits.trailing_zeros() as usize).copied()
}

fn sized(size: Size) -> Result<Size, Problem> {
    if size.cpus == Some(0) || size.memory_mib == Some(0) {
        return Err(Problem::new(Kind::InvalidField, "cpus and memory_mib: at least 1"));
    }
    Ok(size)
}

/// The disk that a target of this appliance is.
fn volume(args: Arguments, targets: &dyn Targets, before: Option<Volume>) -> Result<Volume, Problem> {
    let id = args.target.as_ref().map_or("", |target| target.as_str());
    let Some(Exposed { exposure, .. }) = targets.get(id) else {
        if let Some(before) = before {
            return Ok(Volume {
                volume: args.volume.or_else(|| id.parse().ok()).unwrap_or(before.volume),
                read_only: args.read_only.unwrap_or(before.read_only),
                ..before
            });
        }
        return Err(Problem::new(Kind::UnknownTarget, format!("There is no target {id}.")));
    };
    let unusable = |what: &str| {
        let detail = format!("The target's {what} cannot be a disk's: use another for instances.");
        Problem::new(Kind::InvalidField, detail)
    };
    Ok(Volume {
        volume: match args.volume {
            Some(volume) => volume,
            None => id.parse().map_err(|_| unusable("name"))?,
        },
        iqn: exposure.iqn.parse().map_err(|_| unusable("iqn"))?,
        lun: exposure.lun,
        read_only: args.read_only.unwrap_or(exposure.read_only),
    })
}

fn nic(args: Arguments) -> Option<Nic> {
    let link = args.link.unwrap_or(Link::Up);
    Some(Nic { nic: args.nic?, network: args.network?, mac: args.mac?, link })
}

fn budget(deadline_ms: Option<u32>) -> Result<Duration, Problem> {
    let Some(milliseconds) = deadline_ms else { return Ok(DEADLINE_DEFAULT) };
    let budget = Duration::from_millis(milliseconds.into());
    if budget.is_zero() || budget > DEADLINE_MAX {
        return Err(Problem::new(Kind::InvalidField, "deadline_ms: from 1 to 60000"));
    }
    Ok(budget)
}

fn access(document: AccessDocument) -> Result<Access, Problem> {
    let invalid =
        |detail: &dyn fmt::Display| Problem::new(Kind::InvalidField, alloc::format!("chap: {detail}"));
    let credentials = |user: String, secret: &str| {
        let secret = Secret::new(secret).map_err(|error| invalid(&error))?;
        Ok(Credentials { user: user.into(), secret })
    };
    let mut accounts = Vec::with_capacity(document.accounts.len());
    for Object(account) in document.accounts {
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
    let algorithms = match document.algorithms {
        None => Algorithms::ALL,
        Some(list) => Algorithms::parse(&list)
            .ok_or_else(|| invalid(&"algorithms: some of md5,sha1,sha-256,sha3-256"))?,
    };
    Access::new(accounts, algorithms).map_err(|error| invalid(&error))
}

/// The document of a policy.
pub(crate) fn policy_document(policy: &Policy) -> PolicyDocument {
    let seconds = |time: Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let Rate { iops, bandwidth, burst } = policy.rate;
    PolicyDocument {
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

/// The policy of a document.
pub(crate) fn policy(document: PolicyDocument) -> Policy {
    let seconds = |number: u32| Duration::from_secs(number.into());
    Policy {
        portals: document.portals,
        generation: document.generation.unwrap_or(0),
        rate: Rate {
            iops: document.iops.unwrap_or(0),
            bandwidth: document.bandwidth.unwrap_or(0),
            burst: document.burst_seconds.unwrap_or(BURST),
        },
        hold: document.hold_seconds.map(seconds),
        fail_after: document.fail_after_seconds.map(seconds),
        assume_durable: document.assume_durable,
        portals_fence: document.portals_fence,
    }
}

/// What is asked of storage, which knows what names and volumes may be; here they are only bounded.
pub(crate) fn exposure(document: TargetDocument, id: &TargetId) -> Result<Exposure, Problem> {
    let long = |text: &String| text.is_empty() || text.len() > NAME_MAX;
    let wrong = if long(&document.iqn) {
        Some("iqn: 1 to 223 bytes")
    } else if document.volume.is_empty() || document.volume.len() > VOLUME_MAX {
        Some("volume: 1 to 1024 bytes")
    } else if document.initiators.is_empty() || document.initiators.len() > INITIATORS_MAX {
        Some("initiators: 1 to 32 names, or \"*\" for any")
    } else if document.initiators.iter().any(long) {
        Some("initiators: each has 1 to 223 bytes")
    } else {
        None
    };
    if let Some(wrong) = wrong {
        return Err(Problem::new(Kind::InvalidField, wrong));
    }
    Ok(Exposure {
        id: id.as_str().into(),
        iqn: document.iqn,
        lun: document.lun,
        volume: document.volume,
        initiators: document.initiators,
        chap: document.chap.map(|Object(document)| access(document)).transpose()?,
        read_only: document.read_only,
        removable: document.removable,
        access: document.access.map_or_else(AccessState::default, |access| match access {
            api::Access::Optimized => AccessState::Optimized,
            api::Access::NonOptimized => AccessState::NonOptimized,
            api::Access::Standby => AccessState::Standby,
        }),
        policy: policy(document.policy.unwrap_or_default().0),
    })
}
