//! Where machines may move to, and on which address they are received: the operator's word, and nobody else's.

use super::operator::without_repetition;
use agent_protocol::{InstanceId, PeerName};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// What the operator's file says of moving machines between hosts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Migration {
    /// This host's address on the network between hosts, on which machines are received; without it none is.
    #[serde(default)]
    listen: Option<IpAddr>,
    /// The first and the last port, the same on all hosts.
    #[serde(default = "usual_ports")]
    ports: (u16, u16),
    /// The hosts that machines may move to; without any none does.
    #[serde(default, deserialize_with = "without_repetition")]
    peers: BTreeMap<PeerName, IpAddr>,
    /// How the stream is encrypted, if it is.
    #[serde(default)]
    pub(super) tls: Option<Tls>,
    /// As fast as a machine may be sent, in MiB a second.
    #[serde(default = "usual_speed")]
    pub(super) mib_per_s: u32,
    /// As long as its guest may stand still, in milliseconds.
    #[serde(default = "usual_downtime")]
    pub(super) downtime_ms: u32,
    /// How long a host that was made ready waits until something comes, in seconds.
    #[serde(default = "usual_patience")]
    pub(super) patience_s: u32,
}

/// By what the stream is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tls {
    pub(super) kind: Kind,
    /// Where QEMU finds it: `ca-cert.pem`, `server-cert.pem`, `server-key.pem`, `client-cert.pem` and `client-key.pem`, or
    /// `keys.psk`.
    pub(super) directory: PathBuf,
}

/// Of which kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// Certificates, on both ends.
    X509,
    /// A key that all hosts share.
    Psk,
}

const fn usual_ports() -> (u16, u16) {
    (49152, 49215)
}

const fn usual_speed() -> u32 {
    1024
}

const fn usual_downtime() -> u32 {
    300
}

const fn usual_patience() -> u32 {
    600
}

impl Migration {
    /// Whether it can be meant; otherwise what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("migration.{what}"));
        let one = |address: &IpAddr| !(address.is_unspecified() || address.is_multicast());
        if !self.listen.iter().all(one) {
            return wrong("listen: one address of this host, never all of them");
        }
        if let Some((name, _)) = self.peers.iter().find(|(_, address)| !one(address)) {
            return wrong(&format!("peers.{name}: the address of one host"));
        }
        if !(1024..=self.ports.1).contains(&self.ports.0) {
            return wrong("ports: the first and the last one, from 1024 on");
        }
        if !(1..=1 << 20).contains(&self.mib_per_s) || !(1..=60_000).contains(&self.downtime_ms) {
            return wrong("mib_per_s: from 1 to 1048576, downtime_ms: from 1 to 60000");
        }
        if !(1..=86_400).contains(&self.patience_s) {
            return wrong("patience_s: from 1 to 86400");
        }
        let plain = |tls: &Tls| tls.directory.is_absolute() && tls.directory.to_str().is_some();
        if self.tls.as_ref().is_some_and(|tls| !plain(tls)) {
            return wrong("tls.directory: an absolute path");
        }
        Ok(())
    }

    /// Where this host receives a machine, if it does.
    pub(super) fn own(&self, id: &InstanceId) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.listen?, self.port(id)))
    }

    /// Where a peer receives a machine, if there is that peer.
    pub(super) fn of(&self, peer: &PeerName, id: &InstanceId) -> Option<SocketAddr> {
        Some(SocketAddr::new(*self.peers.get(peer)?, self.port(id)))
    }

    pub(super) const fn receives(&self) -> bool {
        self.listen.is_some()
    }

    pub(super) fn sends(&self) -> bool {
        !self.peers.is_empty()
    }

    /// The same for a machine of that name on every host, which have no other way to agree on it.
    fn port(&self, id: &InstanceId) -> u16 {
        // FNV-1a, 32 bits: it spreads a few names over a few ports.
        let hash = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193);
        let hash = id.as_str().bytes().fold(0x811c_9dc5, hash);
        let count = u32::from(self.ports.1 - self.ports.0) + 1;
        self.ports.0 + (hash % count) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Migration, String> {
        let migration: Migration = serde_json::from_str(text).map_err(|error| error.to_string())?;
        migration.check().map(|()| migration)
    }

    #[test]
    fn both_ends_agree_on_the_port_and_stay_within_the_range() {
        let here = parse(r#"{"listen":"192.0.2.1","ports":[50000,50007]}"#).unwrap();
        let there = parse(r#"{"peers":{"a":"192.0.2.1","b":"2001:db8::1"},"ports":[50000,50007]}"#).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for number in 0..200 {
            let id = format!("web-{number}").parse().unwrap();
            let address = here.own(&id).unwrap();
            assert_eq!(there.of(&"a".parse().unwrap(), &id), Some(address));
            assert!((50000..=50007).contains(&address.port()));
            seen.insert(address.port());
        }
        assert_eq!(seen.len(), 8);
        let id = "web".parse().unwrap();
        assert!(there.of(&"b".parse().unwrap(), &id).unwrap().to_string().starts_with("[2001:db8::1]:"));
        assert_eq!((there.own(&id), there.of(&"c".parse().unwrap(), &id)), (None, None));
        assert!(here.receives() && !here.sends() && there.sends() && !there.receives());
        let all = parse(r#"{"listen":"::1","ports":[1024,65535]}"#).unwrap();
        assert!(all.own(&id).unwrap().port() >= 1024);
    }

    #[test]
    fn a_table_that_cannot_be_meant_is_refused() {
        for text in [
            r#"{"listen":"0.0.0.0"}"#,
            r#"{"listen":"::"}"#,
            r#"{"listen":"host"}"#,
            r#"{"listen":"192.0.2.1:4"}"#,
            r#"{"peers":{"a":"0.0.0.0"}}"#,
            r#"{"peers":{"a":"224.0.0.1"}}"#,
            r#"{"peers":{"A":"192.0.2.1"}}"#,
            r#"{"peers":{"a":"192.0.2.1","a":"192.0.2.2"}}"#,
            r#"{"ports":[2000,1999]}"#,
            r#"{"ports":[80,90]}"#,
            r#"{"mib_per_s":0}"#,
            r#"{"downtime_ms":0}"#,
            r#"{"patience_s":0}"#,
            r#"{"tls":{"kind":"x509","directory":"here"}}"#,
            r#"{"tls":{"kind":"none","directory":"/x"}}"#,
            r#"{"colour":"red"}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
