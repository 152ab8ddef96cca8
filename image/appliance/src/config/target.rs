//! What is exposed from the start: the keys `target.N.…`, for N from 0 without a gap.

use super::{Error, Keys};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::SocketAddrV4;
use core::str::FromStr;
use core::time::Duration;
use storage::{AccessState, Exposure, Policy, Rate};

/// Seconds' worth that a limited disk may save up, unless told otherwise.
const BURST: u32 = 1;

pub(super) fn all(keys: &mut Keys<'_>) -> Result<Vec<Exposure>, Error> {
    let mut targets = Vec::new();
    loop {
        let prefix = format!("target.{}", targets.len());
        let text = |value: &str| Ok(value.to_string());
        let Some(iqn) = keys.take_with(&format!("{prefix}.iqn"), text)? else {
            return Ok(targets);
        };
        let volume_key = format!("{prefix}.volume");
        let Some(volume) = keys.take_with(&volume_key, text)? else {
            return Err(Error { channel: None, key: volume_key, reason: "missing".to_string() });
        };
        let lun = keys.take(&format!("{prefix}.lun"), "a number from 0 to 255")?.unwrap_or(0);
        let initiators_key = format!("{prefix}.initiators");
        let initiators = keys.take_with(&initiators_key, |value| {
            Ok(value.split(',').map(str::to_string).collect::<Vec<_>>())
        })?;
        let Some(initiators) = initiators else {
            return Err(Error {
                channel: None,
                key: initiators_key,
                reason: "missing (* for any)".to_string(),
            });
        };
        let mut flag =
            |name: &str| Ok(keys.take_with(&format!("{prefix}.{name}"), yes_or_no)?.unwrap_or(false));
        let (read_only, removable) = (flag("read-only")?, flag("removable")?);
        let access = keys.take_with(&format!("{prefix}.access"), |value| {
            let named = AccessState::NAMES.iter().find(|(name, _)| *name == value);
            named.map(|(_, access)| *access).ok_or("expected optimized, non-optimized or standby".to_string())
        })?;
        let access = access.unwrap_or_default();
        let policy = policy(keys, &prefix)?;
        let chap = super::chap::access(keys, &format!("{prefix}.chap"))?;
        let id = format!("target-{}", targets.len());
        targets.push(Exposure {
            id,
            iqn,
            lun,
            volume,
            initiators,
            chap,
            read_only,
            removable,
            access,
            policy,
        });
    }
}

fn policy(keys: &mut Keys<'_>, prefix: &str) -> Result<Policy, Error> {
    let key = |name: &str| format!("{prefix}.{name}");
    let portals = keys.take_with(&key("portals"), |value| {
        let portals: Result<Vec<SocketAddrV4>, _> = value.split(',').map(str::parse).collect();
        portals.map_err(|_| {
            "expected addresses and ports such as 10.1.0.9:10809, separated by commas".to_string()
        })
    })?;
    let iops = keys.take(&key("iops"), "a number of operations in a second")?.unwrap_or(0);
    let bandwidth = keys.take_with(&key("bandwidth"), bytes)?.unwrap_or(0);
    let burst = keys.take(&key("burst"), "a number of seconds")?.unwrap_or(BURST);
    Ok(Policy {
        portals_fence: keys.take_with(&key("portals-fence"), yes_or_no)?.unwrap_or(false),
        generation: keys.take(&key("generation"), "a number")?.unwrap_or(0),
        portals: portals.unwrap_or_default(),
        rate: Rate { iops, bandwidth, burst },
        hold: keys.take_with(&key("hold"), seconds)?,
        fail_after: keys
            .take_with(&key("fail-after"), |value| match value {
                "never" => Ok(None),
                _ => seconds(value).map(Some),
            })?
            .flatten(),
        assume_durable: keys.take_with(&key("assume-durable"), yes_or_no)?.unwrap_or(false),
    })
}

fn yes_or_no(value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("expected yes or no".to_string()),
    }
}

fn seconds(value: &str) -> Result<Duration, String> {
    u32::from_str(value)
        .map(|seconds| Duration::from_secs(seconds.into()))
        .map_err(|_| "expected a number of seconds".to_string())
}

/// A number of bytes, perhaps in KiB, MiB or GiB.
fn bytes(value: &str) -> Result<u64, String> {
    let (digits, shift) = match value.as_bytes().last() {
        Some(b'K') => (&value[..value.len() - 1], 10),
        Some(b'M') => (&value[..value.len() - 1], 20),
        Some(b'G') => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    let number = u64::from_str(digits).ok().and_then(|number| number.checked_mul(1 << shift));
    number.ok_or_else(|| "expected bytes in a second, such as 200M".to_string())
}
