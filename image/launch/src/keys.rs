//! The keys by which the agent and the appliance know each other, made and handed over as an operator does it.

use crate::{Context, Result};
use network_tls::{Algorithm, Crypto, NoEntropy, Pin, PrivateKey, Random, pem};
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddrV4;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// What stands before the pin in the log of each.
const AGENT: &str = "our key is agent.pin=";
const APPLIANCE: &str = "our key to the agent is --pin ";

/// The operating system's randomness.
#[derive(Debug)]
struct Urandom(File);

impl Random for Urandom {
    fn fill(&self, out: &mut [u8]) -> std::result::Result<(), NoEntropy> {
        (&self.0).read_exact(out).map_err(|_| NoEntropy)
    }
}

/// What TLS rests on here.
///
/// # Errors
/// When there is no randomness.
pub fn crypto() -> Result<Crypto> {
    let source = File::open("/dev/urandom").context("/dev/urandom")?;
    Crypto::new(Box::new(Urandom(source))).context("keys")
}

/// Makes a key.
///
/// # Errors
/// When there is no randomness.
pub fn make() -> Result<PrivateKey> {
    PrivateKey::generate(&crypto()?, Algorithm::P256).context("a key")
}

/// The key as an appliance is given its own, `agent.key`.
#[must_use]
pub fn base64(key: &PrivateKey) -> String {
    let text = pem("PRIVATE KEY", key.pkcs8());
    text.lines().filter(|line| !line.starts_with("-----")).collect()
}

/// What an appliance is told of an agent with the key `agent` at `address`, and of its own key.
#[must_use]
pub fn config(address: SocketAddrV4, agent: Pin, own: &PrivateKey) -> Vec<(String, String)> {
    let items =
        [("agent", address.to_string()), ("agent.pin", agent.to_string()), ("agent.key", base64(own))];
    items.map(|(key, value)| (key.to_string(), value)).to_vec()
}

/// Gives an agent that was not started yet its key, in the folder `run` where it keeps it.
///
/// # Errors
/// When it cannot be written.
pub fn give(run: &Path, key: &PrivateKey) -> Result<()> {
    fs::create_dir_all(run).context(run.display())?;
    let path = run.join("key.pem");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let text = pem("PRIVATE KEY", key.pkcs8());
    file.and_then(|mut file| file.write_all(text.as_bytes())).context(path.display())
}

/// What the agent's key is called, of which this is the log.
#[must_use]
pub fn of_agent(log: &str) -> Option<Pin> {
    pin(log, AGENT)
}

/// What the appliance's key is called, of which this is the console.
#[must_use]
pub fn of_appliance(console: &str) -> Option<Pin> {
    pin(console, APPLIANCE)
}

/// The last pin that was said, if its line is all there.
fn pin(text: &str, words: &str) -> Option<Pin> {
    let (_, rest) = text.rsplit_once(words)?;
    rest.lines().next()?.trim_end().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_taken_from_a_log_when_all_of_it_is_there() {
        let key = make().unwrap();
        let log = format!("[info] {AGENT}{}\n", key.pin());
        assert_eq!(of_agent(&log), Some(key.pin()));
        assert_eq!(of_agent(&log[..log.len() - 2]), None);
        assert_eq!(of_appliance(&log), None);
        assert_eq!(of_appliance(&format!("0.1 {APPLIANCE}{}\r\n", key.pin())), Some(key.pin()));
    }
}
