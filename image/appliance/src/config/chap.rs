//! Who has to prove what: the keys `target.N.chap.…` and `discovery.chap.…`.

use super::{Error, Keys, conflict};
use alloc::boxed::Box;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use storage::chap::{Access, Account, Algorithms, Credentials, Secret};

/// The accounts under `prefix`, if there are any: each has its number, from 0 without a gap.
pub(super) fn access(keys: &mut Keys<'_>, prefix: &str) -> Result<Option<Access>, Error> {
    let mut accounts = Vec::new();
    loop {
        let of = format!("{prefix}.{}", accounts.len());
        let Some(from_initiator) = credentials(keys, &of, "")? else { break };
        let from_target = credentials(keys, &of, "target-")?;
        let initiator = keys.take_with(&format!("{of}.initiator"), boxed)?;
        accounts.push(Account { initiator, from_initiator, from_target });
    }
    let algorithms = keys.take_with(&format!("{prefix}.algorithms"), |value| {
        Algorithms::parse(value).ok_or_else(|| {
            "expected some of md5, sha1, sha-256 and sha3-256, separated by commas".to_string()
        })
    })?;
    match algorithms {
        None if accounts.is_empty() => Ok(None),
        _ => Access::new(accounts, algorithms.unwrap_or_default())
            .map(Some)
            .map_err(|error| conflict(prefix, error.to_string())),
    }
}

/// A user and a secret that is never repeated in a message, and not taken where others can read it.
fn credentials(keys: &mut Keys<'_>, of: &str, whose: &str) -> Result<Option<Credentials>, Error> {
    let [user_key, secret_key] = ["user", "secret"].map(|name| format!("{of}.{whose}{name}"));
    let user = keys.take_with(&user_key, boxed)?;
    let secret =
        keys.take_secret(&secret_key, |value| Secret::new(value).map_err(|error| error.to_string()))?;
    match (user, secret) {
        (None, None) => Ok(None),
        (Some(user), Some(secret)) => Ok(Some(Credentials { user, secret })),
        (Some(_), None) => Err(conflict(&secret_key, format!("missing beside {user_key}"))),
        (None, Some(_)) => Err(conflict(&user_key, format!("missing beside {secret_key}"))),
    }
}

fn boxed(value: &str) -> Result<Box<str>, String> {
    Ok(value.into())
}
