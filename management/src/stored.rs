//! Operations as records on the state disk: `operations/` and the number, so that they are found in their order.

use crate::documents::ClientToken;
use crate::operations::{Kept, Meant, Operation, Stage};
use crate::problem::{Kind, Problem};
use agent_protocol::{Action, InstanceId, OpId, Precondition, Text, Uuid, decode, encode};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;
use kernel_runtime::Instant;
use serde::{Deserialize, Serialize};

/// What the records of operations begin with.
pub(crate) const OWNER: &str = "operations/";
/// After a restart nobody knows how much of its time a command has left; the agent does.
const PATIENCE: Duration = Duration::from_secs(60);

/// The key of the operation of this number.
pub(crate) fn key(number: u64) -> String {
    format!("{OWNER}{number:016x}")
}

/// One operation. Names are short, because there are many and all are in memory.
#[derive(Serialize, Deserialize)]
struct Stored {
    #[serde(rename = "o")]
    id: OpId,
    #[serde(rename = "c")]
    caller: Text,
    #[serde(rename = "i")]
    instance: InstanceId,
    #[serde(rename = "a")]
    action: Action,
    #[serde(rename = "p", default, skip_serializing_if = "Precondition::is_empty")]
    precondition: Precondition,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    token: Option<ClientToken>,
    #[serde(rename = "s")]
    stage: Stage,
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    changed: Option<bool>,
    #[serde(rename = "e", default, skip_serializing_if = "Vec::is_empty")]
    evidence: Vec<Text>,
    /// The name of a problem's kind, and its detail.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    problem: Option<(String, Text)>,
    /// [`Meant`].
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    meant: Option<(Uuid, u64, u64)>,
}

/// An operation as the disk is to have it: with the end that it is to have.
pub(crate) fn write(operation: &Operation) -> Vec<u8> {
    let end = operation.end.as_ref();
    let (stage, changed, evidence, problem) = match end {
        Some(end) => (end.stage, end.changed, &end.evidence, &end.problem),
        // What has not ended is asked for again, whatever was known of it.
        None if !operation.stage.is_final() => (Stage::Accepted, None, &Vec::new(), &None),
        None => (operation.stage, operation.changed, &operation.evidence, &operation.problem),
    };
    encode(&Stored {
        id: operation.id.clone(),
        caller: operation.caller.clone(),
        instance: operation.instance.clone(),
        action: operation.action.clone(),
        precondition: operation.precondition.clone(),
        token: operation.token.clone(),
        stage,
        changed,
        evidence: evidence.clone(),
        problem: problem.as_ref().map(|problem| (problem.kind.name().into(), problem.detail.clone())),
        meant: operation.meant.map(|meant| (meant.boot, meant.deadline_ms, meant.head)),
    })
}

/// The other way.
pub(crate) fn number(key: &[u8]) -> Option<u64> {
    let number = core::str::from_utf8(key).ok()?.strip_prefix(OWNER)?;
    u64::from_str_radix(number, 16).ok()
}

/// The operation of a record; `None` of one that this version cannot read.
pub(crate) fn read(key: &[u8], value: &[u8], now: Instant) -> Option<Operation> {
    let number = number(key)?;
    let stored: Stored = decode(value).ok()?;
    let problem = stored.problem.map(|(name, detail)| {
        let kind = Kind::ALL.iter().find(|kind| kind.name() == name);
        let problem = Problem::new(kind.copied().unwrap_or(Kind::OutcomeUnknown), detail.as_str());
        problem.at(&format!("/v1/{OWNER}{}", stored.id))
    });
    let is_final = stored.stage.is_final();
    Some(Operation {
        id: stored.id,
        number,
        caller: stored.caller,
        action: stored.action,
        instance: stored.instance,
        precondition: stored.precondition,
        token: stored.token,
        stage: if is_final { stored.stage } else { Stage::Accepted },
        changed: stored.changed,
        evidence: stored.evidence,
        problem,
        result: None,
        accepted: None,
        deadline: now + PATIENCE,
        ended: is_final.then_some(now),
        meant: stored.meant.map(|(boot, deadline_ms, head)| Meant { boot, deadline_ms, head }),
        kept: Kept::Yes,
        told: true,
        durable: true,
        end: None,
        // It may have been sent a moment before the end.
        tried: stored.meant.is_some(),
        sends: u32::from(stored.meant.is_some()),
        carried: false,
        due: now,
        pause: Duration::ZERO,
        heard: now,
    })
}
