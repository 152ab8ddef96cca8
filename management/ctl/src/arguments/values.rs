//! Values of arguments, and what to say of those that are none.

use agent_protocol::{IscsiName, Link, Mac, State, TokenError, Uuid};
use management_api::Access;
use management_api::audit::Anchor;
use std::str::FromStr;

/// A name by the rules of the API.
pub(super) fn name<T: FromStr<Err = TokenError>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: TokenError| error.to_string())
}

pub(super) fn iscsi_name(text: &str) -> Result<IscsiName, String> {
    let rule = "an iSCSI name begins with iqn., eui. or naa. and has at most 223 of a-z 0-9 . : -";
    text.parse().map_err(|_| rule.to_string())
}

pub(super) fn mac(text: &str) -> Result<Mac, String> {
    let lower = text.to_ascii_lowercase();
    lower.parse().map_err(|()| "an address of one station, such as 52:54:00:12:34:56".to_string())
}

pub(super) fn state(text: &str) -> Result<State, String> {
    let names: Vec<&str> = State::ALL.iter().map(|state| state.as_str()).collect();
    State::ALL
        .into_iter()
        .find(|state| state.as_str() == text)
        .ok_or_else(|| format!("a state is one of {}", names.join(", ")))
}

pub(super) fn uuid(text: &str) -> Result<Uuid, String> {
    text.parse().map_err(|_| "a UUID as `corbelctl instance NAME` shows it".to_string())
}

pub(super) fn anchor(text: &str) -> Result<Anchor, String> {
    let rule = || "a place in the trail as `corbelctl audit verify` tells it: NUMBER:HASH".to_string();
    let (seq, hash) = text.split_once(':').ok_or_else(rule)?;
    Ok(Anchor { seq: seq.parse().map_err(|_| rule())?, hash: hash.parse().map_err(|_| rule())? })
}

pub(super) fn token(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(plain) {
        return Err("a token has 1 to 64 of A-Z a-z 0-9 . _ -".into());
    }
    Ok(text.into())
}

pub(super) fn link(text: &str) -> Result<Link, String> {
    match text {
        "up" => Ok(Link::Up),
        "down" => Ok(Link::Down),
        _ => Err("a link is up or down".into()),
    }
}

pub(super) fn access(text: &str) -> Result<Access, String> {
    serde_json::from_value(text.into()).map_err(|_| "it is optimized, non-optimized or standby".to_string())
}

/// `512`, `512M` or `4G`, in MiB.
pub(super) fn memory(text: &str) -> Result<u32, String> {
    let rule = || "memory is written in MiB, like 512 or 512M, or in GiB, like 4G".to_string();
    let (digits, factor) = match text.strip_suffix(['G', 'g']) {
        Some(digits) => (digits, 1024),
        None => (text.strip_suffix(['M', 'm']).unwrap_or(text), 1),
    };
    let number = digits.parse::<u32>().ok().and_then(|number| number.checked_mul(factor));
    number.filter(|mebibytes| *mebibytes > 0).ok_or_else(rule)
}
