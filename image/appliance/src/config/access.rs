//! Who may come in, and how the agent is known: the keys `api…` and `agent…`.

use super::tls::{self, Tls};
use super::{Error, Keys, conflict};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddrV4;
use core::num::NonZeroU16;
use network_tls::{Pin, Token};

/// The longest trust domain (SPIFFE-ID section 2.1), in bytes.
const LONGEST_DOMAIN: usize = 255;

/// The management API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// Its port on the service address.
    pub port: u16,
    /// How callers are told apart; `None` where the operator says that they are not.
    pub lock: Option<Lock>,
}

/// How callers of the API are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    /// Who is believed, and who we are.
    pub tls: Tls,
    /// The trust domain of callers' SPIFFE IDs.
    pub trust_domain: String,
    /// What whoever enrols the appliance has to know, where its key is made here.
    pub join: Option<Token>,
    /// Requests that change something have to be signed.
    pub signatures: bool,
}

/// The agent of the parent partition.
#[derive(Clone, PartialEq, Eq)]
pub struct Agent {
    /// Where it listens, on the host-only network.
    pub address: SocketAddrV4,
    /// Its key; `None` where the operator says that it is not to be proved.
    pub pin: Option<Pin>,
    /// Our own key, PKCS#8 in DER, if it is given and not made.
    pub key: Option<Vec<u8>>,
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agent at {} with key {:?}", self.address, self.pin)
    }
}

fn yes(keys: &mut Keys<'_>, key: &str) -> Result<bool, Error> {
    let value = keys.take_with(key, |value| match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("expected yes or no".to_string()),
    })?;
    Ok(value.unwrap_or(false))
}

pub(super) fn api(keys: &mut Keys<'_>) -> Result<Option<Api>, Error> {
    let port = keys.take::<NonZeroU16>("api", "a port number")?.map(NonZeroU16::get);
    let insecure = yes(keys, "api.insecure")?;
    let tls = tls::all(keys, "api.tls")?;
    let trust_domain = keys.take_with("api.trust-domain", trust_domain)?;
    let join = keys.take_secret("api.tls.join", |value| {
        Token::new(value).ok_or_else(|| "expected 22 to 128 printable characters, at random".to_string())
    })?;
    let signatures = keys.take_with("api.signatures", |value| match value {
        "required" => Ok(true),
        "optional" => Ok(false),
        _ => Err("expected required or optional".to_string()),
    })?;
    let given = [
        ("api.insecure", insecure),
        ("api.tls.anchors", tls.is_some()),
        ("api.trust-domain", trust_domain.is_some()),
        ("api.tls.join", join.is_some()),
        ("api.signatures", signatures.is_some()),
    ];
    let Some(port) = port else {
        return match given.iter().find(|(_, given)| *given) {
            None => Ok(None),
            Some((beside, _)) => Err(tls::missing("api", beside)),
        };
    };
    let lock = match (tls, trust_domain) {
        _ if insecure => {
            if let Some((key, _)) = given.iter().skip(1).find(|(_, given)| *given) {
                let reason = format!("contradicts {key}, which says that callers are told apart");
                return Err(conflict("api.insecure", reason));
            }
            None
        }
        (Some(tls), Some(trust_domain)) => {
            if tls.identity.is_some() && join.is_some() {
                let reason = "contradicts api.tls.certificate: the appliance has no need to be enrolled";
                return Err(conflict("api.tls.join", reason.to_string()));
            }
            Some(Lock { tls, trust_domain, join, signatures: signatures.unwrap_or_default() })
        }
        (Some(_), None) => return Err(tls::missing("api.trust-domain", "api.tls.anchors")),
        (None, Some(_)) => return Err(tls::missing("api.tls.anchors", "api.trust-domain")),
        (None, None) => {
            let reason =
                "missing: callers have to prove who they are, unless api.insecure=yes says otherwise";
            return Err(conflict("api.tls.anchors", reason.to_string()));
        }
    };
    Ok(Some(Api { port, lock }))
}

pub(super) fn agent(keys: &mut Keys<'_>) -> Result<Option<Agent>, Error> {
    let address = keys.take::<SocketAddrV4>("agent", "an IPv4 address and port such as 10.77.0.1:4010")?;
    let insecure = yes(keys, "agent.insecure")?;
    let pin = keys.take_with("agent.pin", |value| value.parse::<Pin>().map_err(|error| error.to_string()))?;
    let key = keys.take_secret("agent.key", tls::base64)?;
    let given = [("agent.pin", pin.is_some()), ("agent.key", key.is_some()), ("agent.insecure", insecure)];
    let first = given.iter().find(|(_, given)| *given);
    let address = match (address, first) {
        (Some(address), _) => address,
        (None, Some((beside, _))) => return Err(tls::missing("agent", beside)),
        (None, None) => return Ok(None),
    };
    match (insecure, first) {
        (true, Some((key, _))) if *key != "agent.insecure" => {
            Err(conflict("agent.insecure", format!("contradicts {key}, which says that the agent is known")))
        }
        (false, _) if pin.is_none() => {
            let reason =
                "missing: the agent has to prove who it is, unless agent.insecure=yes says otherwise";
            Err(conflict("agent.pin", reason.to_string()))
        }
        _ => Ok(Some(Agent { address, pin, key })),
    }
}

fn trust_domain(text: &str) -> Result<String, String> {
    let is_one = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if (1..=LONGEST_DOMAIN).contains(&text.len()) && text.bytes().all(is_one) {
        Ok(text.to_string())
    } else {
        Err("expected a SPIFFE trust domain: up to 255 of a-z, 0-9, '.', '-' and '_'".to_string())
    }
}
