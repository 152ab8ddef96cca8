//! Who may come in to the API, and how the agent is known, as the configuration wants it.

use crate::assemble::Voice;
use crate::config::{Agent, Api, Config};
use crate::limits::API_TLS;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use kernel_runtime::Clock;
use management::{Dialling, Door, Enrolment, Lock};
use network_tls::{Algorithm, Anchors, ClientConfig, Pin, PrivateKey};
use state::{Change, Records};

/// The record that holds our key to the agent.
const AGENT_KEY: &[u8] = b"identity/agent-key";

/// Whether anybody of the management is spoken to in TLS.
pub(crate) fn has_tls(config: &Config) -> bool {
    config.api.as_ref().is_some_and(|api| api.lock.is_some())
        || config.agent.as_ref().is_some_and(|agent| agent.pin.is_some())
}

/// The door of the API.
pub(crate) fn door(
    config: &Config,
    api: &Api,
    voice: Option<&Voice>,
    state: Option<&Records>,
    name: &str,
) -> Result<Door, String> {
    let (Some(lock), Some(voice)) = (&api.lock, voice) else {
        log::warn!(
            "API on port {}: WITHOUT AUTHENTICATION (api.insecure=yes): whoever reaches it may do all",
            api.port
        );
        return Ok(Door::OPEN);
    };
    let fail =
        |key: &str, reason: &dyn ToString| format!("configuration: api.tls.{key}: {}", reason.to_string());
    let anchors = Anchors::from_der(lock.tls.anchors.clone()).map_err(|error| fail("anchors", &error))?;
    if lock.signatures && voice.day.is_none() {
        let reason = "this machine does not know the time, so no signature could be checked";
        return Err(format!("configuration: api.signatures: {reason}"));
    }
    let (identity, token) = (lock.tls.identity.clone(), lock.join.clone());
    let lock = Lock {
        crypto: voice.crypto.clone(),
        anchors,
        trust_domain: lock.trust_domain.clone(),
        signatures: lock.signatures,
        dates: lock.tls.dates,
        day: voice.day.clone(),
        buffers: API_TLS,
    };
    let door = match (identity, state) {
        (Some((chain, key)), _) => {
            Door::locked(lock, chain, key).map_err(|error| fail("certificate", &error))?
        }
        (None, Some(state)) => {
            let address = config.service.cidr().map(|cidr| cidr.address);
            let enrolment = Enrolment { token, name: name.to_string(), address };
            Door::enrolled(lock, state.clone(), enrolment).map_err(|error| fail("join", &error))?
        }
        (None, None) => return Err(fail("certificate", &"missing")),
    };
    log::info!("API on port {}, in TLS for callers with a certificate", api.port);
    Ok(door)
}

/// How the agent is dialled in TLS, and what is to be kept before it is.
pub(crate) struct Agents {
    pub(crate) dialling: Option<Rc<Dialling>>,
    /// What our key is called.
    pin: Option<Pin>,
    /// A key of ours that was just made.
    fresh: Option<(Records, Vec<u8>)>,
}

/// How the agent is dialled.
pub(crate) fn agent(
    agent: Option<&Agent>,
    voice: Option<&Voice>,
    state: Option<&Records>,
) -> Result<Agents, String> {
    let fail =
        |key: &str, reason: &dyn ToString| format!("configuration: agent.{key}: {}", reason.to_string());
    let Some(agent) = agent else { return Ok(Agents { dialling: None, pin: None, fresh: None }) };
    let (Some(pin), Some(voice)) = (agent.pin, voice) else {
        log::warn!("agent {}: WITHOUT AUTHENTICATION (agent.insecure=yes)", agent.address);
        return Ok(Agents { dialling: None, pin: None, fresh: None });
    };
    let kept = state.and_then(|state| state.get(AGENT_KEY));
    let mut fresh = None;
    let key = match (agent.key.clone().or(kept), state) {
        (Some(key), _) => PrivateKey::from_pkcs8(&voice.crypto, key.into()),
        (None, None) => {
            let reason = "missing beside agent.pin: without state.disk a key of our own cannot be kept";
            return Err(fail("key", &reason));
        }
        (None, Some(state)) => PrivateKey::generate(&voice.crypto, Algorithm::P256).inspect(|key| {
            fresh = Some((state.clone(), key.pkcs8().to_vec()));
        }),
    };
    let key = key.map_err(|error| fail("key", &error))?;
    let identity = key.self_signed("corbel appliance").map_err(|error| fail("key", &error))?;
    let config =
        ClientConfig::pinned(&voice.crypto, &[pin], identity).map_err(|error| fail("pin", &error))?;
    let dialling = Some(Rc::new(Dialling { config, buffers: API_TLS }));
    Ok(Agents { dialling, pin: Some(key.pin()), fresh })
}

/// How long to wait before a key is tried to be kept again.
const RETRY: core::time::Duration = core::time::Duration::from_secs(5);

impl Agents {
    /// Keep our key, if it was just made, and say what it is called: one that the agent's operator is told of must not be
    /// lost.
    pub(crate) async fn keep(&mut self, clock: &Clock) {
        if let Some((records, key)) = self.fresh.take() {
            while let Err(error) = records.keep(&[Change::Put(AGENT_KEY, &key)]).await {
                log::error!("our key to the agent cannot be kept: {error}");
                clock.sleep(RETRY).await;
            }
        }
        if let Some(pin) = self.pin {
            log::info!("our key to the agent is --pin {pin}");
        }
    }
}
