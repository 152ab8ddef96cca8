//! The keys `config.…`: where more of the configuration is looked for. A metadata service (`config.mmds…`): where it is, and on
//! which NICs it is asked; and volumes labelled `cidata` (`config.cidata`).
//!
//! Of a metadata service whoever answers is believed, so as few as possible are asked: a network on which others are than the host is not, as far as
//! is known by then which NIC is on it.

use super::{Channel, Error, Keys, mac};
use alloc::string::{String, ToString};
use core::net::Ipv4Addr;

/// A metadata service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// Its address, one of the link (RFC 3927).
    pub address: Ipv4Addr,
    /// On which NICs it is asked.
    pub nics: Asked,
}

/// On which NICs a metadata service is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// All of them: nothing is known of any.
    All,
    /// The one of that address: it was named, or is on the host-only network.
    Only([u8; 6]),
    /// All but the one of that address, which is on the service network.
    Not([u8; 6]),
}

impl Asked {
    /// Whether the NIC of that address is one of them.
    pub fn includes(self, nic: [u8; 6]) -> bool {
        match self {
            Self::All => true,
            Self::Only(one) => nic == one,
            Self::Not(other) => nic != other,
        }
    }
}

/// What has to be known of it before all is read.
pub(super) fn first(keys: &mut Keys<'_>) -> Result<Option<Metadata>, Error> {
    let mut named = |key| keys.take_with(key, mac);
    let (host, service) = (named("host.mac")?, named("service.mac")?);
    all(keys, host, service)
}

/// The same where the addresses of the NICs on the two networks were taken already.
pub(super) fn all(
    keys: &mut Keys<'_>,
    host: Option<[u8; 6]>,
    service: Option<[u8; 6]>,
) -> Result<Option<Metadata>, Error> {
    let address = keys.take_with("config.mmds", address)?.flatten();
    let named = keys.take_with("config.mmds.mac", mac)?;
    let Some(address) = address else {
        return match named {
            None => Ok(None),
            Some(_) => Err(super::tls::missing("config.mmds", "config.mmds.mac")),
        };
    };
    let nics = match (named.or(host), service) {
        (Some(one), _) => Asked::Only(one),
        (None, Some(other)) => Asked::Not(other),
        (None, None) => Asked::All,
    };
    Ok(Some(Metadata { address, nics }))
}

/// Whether volumes labelled `cidata` are looked for.
pub(super) fn volumes(keys: &mut Keys<'_>) -> Result<bool, Error> {
    let wanted = keys.take_unseen("config.cidata", |channel, value| match value {
        "no" if channel == Channel::Cidata => Err("such a volume cannot say that there is none".to_string()),
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("expected yes or no".to_string()),
    })?;
    Ok(wanted.unwrap_or(true))
}

/// Where it is, if it is to be asked.
fn address(text: &str) -> Result<Option<Ipv4Addr>, String> {
    match text {
        "no" => Ok(None),
        "yes" => Ok(Some(image_channels::mmds::ADDRESS.into())),
        _ => match text.parse().ok().filter(Ipv4Addr::is_link_local) {
            Some(address) => Ok(Some(address)),
            None => Err("expected yes, no, or an address of the link such as 169.254.169.254".to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Channel, Config};

    const HOST: [u8; 6] = [0x52, 0x54, 0, 0, 0, 1];
    const SERVICE: [u8; 6] = [0x52, 0x54, 0, 0, 0, 2];
    const THIRD: [u8; 6] = [0x52, 0x54, 0, 0, 0, 3];
    const MACS: &str = "host.mac=52:54:00:00:00:01 service.mac=52:54:00:00:00:02";

    fn asked(text: &str) -> Result<Option<Asked>, String> {
        let first = Config::first(&[(Channel::CommandLine, text)]).map_err(|error| error.to_string())?;
        Ok(first.metadata.map(|metadata| metadata.nics))
    }

    #[test]
    fn no_nic_is_asked_that_is_known_to_be_on_the_providers_network() {
        let (host, service) = MACS.split_once(' ').expect("two");
        assert_eq!(asked("config.mmds=yes"), Ok(Some(Asked::All)));
        assert_eq!(asked(&format!("config.mmds=yes {MACS}")), Ok(Some(Asked::Only(HOST))));
        assert_eq!(asked(&format!("config.mmds=yes {host}")), Ok(Some(Asked::Only(HOST))));
        assert_eq!(asked(&format!("config.mmds=yes {service}")), Ok(Some(Asked::Not(SERVICE))));
        let named = format!("config.mmds=yes config.mmds.mac=52:54:00:00:00:03 {MACS}");
        assert_eq!(asked(&named), Ok(Some(Asked::Only(THIRD))));
        assert_eq!(asked(&format!("config.mmds=no {MACS}")), Ok(None));
        assert_eq!(asked(MACS), Ok(None));
        let [all, only, not] = [Asked::All, Asked::Only(HOST), Asked::Not(HOST)]
            .map(|asked| [HOST, SERVICE].map(|nic| asked.includes(nic)));
        assert_eq!((all, only, not), ([true, true], [true, false], [false, true]));
    }

    #[test]
    fn volumes_are_looked_for_unless_another_channel_says_that_there_are_none() {
        let volumes = |channel, text| Config::first(&[(channel, text)]).map(|first| first.volumes);
        assert_eq!(volumes(Channel::BootDisk, "config.cidata=no"), Ok(false));
        assert_eq!(volumes(Channel::BootDisk, "config.cidata=yes"), Ok(true));
        assert_eq!(volumes(Channel::Cidata, ""), Ok(true));
        for (channel, text) in [(Channel::Cidata, "config.cidata=no"), (Channel::FwCfg, "config.cidata=off")]
        {
            let error = volumes(channel, text).unwrap_err();
            assert_eq!((error.channel, &*error.key), (Some(channel), "config.cidata"));
        }
        let text = "host.address=10.77.0.2/24 service.address=dhcp config.cidata=no";
        assert!(Config::parse(&[(Channel::BootDisk, text)]).is_ok());
        // What a door looks for in it is this key.
        assert_eq!(image_channels::NO_VOLUMES, b"config.cidata=no");
    }

    #[test]
    fn a_nic_is_named_for_a_service_only() {
        let error = asked("config.mmds.mac=52:54:00:00:00:03").unwrap_err();
        assert_eq!(error, "configuration: config.mmds: missing beside config.mmds.mac");
        let error = asked("config.mmds=yes config.mmds.mac=52:54").unwrap_err();
        assert!(error.starts_with("configuration: command line: config.mmds.mac: expected six"), "{error}");
        let text = format!("host.address=10.77.0.2/24 service.address=dhcp config.mmds=yes {MACS}");
        let parse = |more: &str| Config::parse(&[(Channel::FwCfg, &format!("{text} {more}"))]);
        assert!(parse("config.mmds.mac=52:54:00:00:00:01").is_ok());
        assert!(parse("config.mmds.mac=x").is_err());
    }
}
