//! Targets: the part of the API that storage answers.

use crate::Management;
use crate::documents::{self, Order};
use crate::policy::Principal;
use crate::problem::{Kind, Problem};
use agent_protocol::{InstanceId, Text};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;
use management_api::CommandRequest;
use storage::{Connected, ControlError, Exposed, Exposure};

/// What management asks of storage. `storage::Control` does it; tests put something else in its place.
pub trait Targets {
    /// Make a target as described; the same again changes nothing.
    fn expose(&self, exposure: Exposure) -> Result<Exposed, ControlError>;
    /// Take it away; refused while a session is logged in.
    fn withdraw(&self, id: &str) -> Result<(), ControlError>;
    /// Take it away when its initiators have logged out, as they are asked to, or when that time is over.
    fn withdraw_within(&self, id: &str, grace: Duration) -> Result<(), ControlError>;
    /// All of them.
    fn list(&self) -> Vec<Exposed>;
    /// One of them.
    fn get(&self, id: &str) -> Option<Exposed>;
    /// The connections of initiators that are logged in.
    fn connections(&self) -> Vec<Connected>;
}

impl Targets for storage::Control {
    fn expose(&self, exposure: Exposure) -> Result<Exposed, ControlError> {
        Self::expose(self, exposure)
    }
    fn withdraw(&self, id: &str) -> Result<(), ControlError> {
        Self::withdraw(self, id)
    }
    fn withdraw_within(&self, id: &str, grace: Duration) -> Result<(), ControlError> {
        Self::withdraw_within(self, id, grace)
    }
    fn list(&self) -> Vec<Exposed> {
        Self::list(self)
    }
    fn get(&self, id: &str) -> Option<Exposed> {
        Self::get(self, id)
    }
    fn connections(&self) -> Vec<Connected> {
        Self::connections(self)
    }
}

/// Have storage have it.
pub(crate) fn put(targets: &dyn Targets, exposure: Exposure) -> Result<(), Problem> {
    let id = exposure.id.clone();
    targets.expose(exposure).map(|_| ()).map_err(|error| problem(&id, error))
}

/// Whether two iSCSI names are one: letters of either case are the same (RFC 3722).
pub(crate) fn same_name(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other)
}

/// Whether two lists admit the same initiators, named in the same order.
pub(crate) fn same_names(some: &[String], others: &[String]) -> bool {
    some.len() == others.len() && some.iter().zip(others).all(|(one, other)| same_name(one, other))
}

/// The members of a document in which it differs from what is exposed and which cannot be changed there, as they are called
/// in it. `access` can.
pub(crate) fn fixed_differences(wanted: &Exposure, there: &Exposure) -> Vec<&'static str> {
    let (policy, other) = (&wanted.policy, &there.policy);
    let (rate, other_rate) = (&policy.rate, &other.rate);
    let members = [
        ("iqn", same_name(&wanted.iqn, &there.iqn)),
        ("lun", wanted.lun == there.lun),
        ("volume", wanted.volume == there.volume),
        ("initiators", same_names(&wanted.initiators, &there.initiators)),
        ("chap", wanted.chap == there.chap),
        ("read_only", wanted.read_only == there.read_only),
        ("removable", wanted.removable == there.removable),
        ("policy.portals", policy.portals == other.portals),
        ("policy.portals_fence", policy.portals_fence == other.portals_fence),
        ("policy.generation", policy.generation == other.generation),
        ("policy.iops", rate.iops == other_rate.iops),
        ("policy.bandwidth", rate.bandwidth == other_rate.bandwidth),
        ("policy.burst_seconds", rate.burst == other_rate.burst),
        ("policy.hold_seconds", policy.hold == other.hold),
        ("policy.fail_after_seconds", policy.fail_after == other.fail_after),
        ("policy.assume_durable", policy.assume_durable == other.assume_durable),
    ];
    members.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

/// Refuse what would change more of a target that is there than can be.
pub(crate) fn may_become(wanted: &Exposure, there: &Exposure) -> Result<(), Problem> {
    let differ = fixed_differences(wanted, there);
    if differ.is_empty() {
        return Ok(());
    }
    let (id, members) = (&there.id, differ.join(", "));
    let detail = format!(
        "Of {id}, which is exposed, only access can be changed, and this would change {members}. Withdraw it first."
    );
    Err(Problem::new(Kind::TargetConflict, detail))
}

/// Withdraw it, with `grace` seconds for its initiators.
pub(crate) fn delete(targets: &dyn Targets, id: &str, grace: Option<u16>) -> Result<(), Problem> {
    let done = match grace {
        None => targets.withdraw(id),
        Some(seconds) => targets.withdraw_within(id, Duration::from_secs(seconds.into())),
    };
    done.map_err(|error| problem(id, error))
}

impl Management {
    /// The order of a client's command. Whoever asks again for a disk to be attached is to hear what became of it, although
    /// its target may be gone since.
    pub(crate) fn order(
        &self,
        request: CommandRequest,
        instance: InstanceId,
        principal: Principal,
    ) -> Result<Order, Problem> {
        let before = request.client_token.as_ref().and_then(|token| {
            let caller = Text::new(&principal.to_string());
            self.operations.borrow().attached(token, &caller)
        });
        documents::command(request, instance, &*self.targets, before)
    }
}

fn unknown(id: &str) -> Problem {
    Problem::new(Kind::UnknownTarget, format!("There is no target {id}."))
}

/// Somebody uses it.
pub(crate) fn in_use(id: &str) -> Problem {
    Problem::new(Kind::TargetInUse, format!("A session is logged in to {id}; log it out first."))
}

fn problem(id: &str, error: ControlError) -> Problem {
    match error {
        ControlError::NotFound => unknown(id),
        ControlError::Invalid { .. } => Problem::new(Kind::InvalidField, error.to_string()),
        ControlError::Conflict(what) => Problem::new(Kind::TargetConflict, what),
        ControlError::Full => Problem::new(Kind::NoCapacity, "All target slots are taken."),
        ControlError::InUse => in_use(id),
    }
}
