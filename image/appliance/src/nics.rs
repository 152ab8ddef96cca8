//! Which NIC is on which network.

#[cfg(test)]
use std::{format, string::String};

#[cfg(not(test))]
use alloc::{format, string::String};
use core::fmt::Write;
use image_appliance::config::Config;

/// An Ethernet address.
type Mac = [u8; 6];

/// The places, in `macs`, of the NIC of the host-only and of the service network: those that the configuration names,
/// else in the order in which they were found.
///
/// # Errors
/// A sentence that names the key, and what there is.
pub(crate) fn assign(macs: &[Mac], config: &Config) -> Result<(usize, usize), String> {
    let named = |key: &str, mac: Option<Mac>| match mac {
        None => Ok(None),
        Some(mac) => match macs.iter().position(|there| *there == mac) {
            // Which network such a one is on would be a guess.
            Some(place) if macs[place + 1..].contains(&mac) => {
                Err(format!("configuration: {key}: more than one NIC has the address {}", Shown(&mac)))
            }
            Some(place) => Ok(Some(place)),
            None => Err(format!(
                "configuration: {key}: no NIC has the address {}; there are {}",
                Shown(&mac),
                list(macs)
            )),
        },
    };
    let host = named("host.mac", config.host.mac)?;
    let service = named("service.mac", config.service.mac)?;
    let free = |taken: Option<usize>| (0..macs.len()).find(|place| Some(*place) != taken);
    let pair = match (host, service) {
        (Some(host), service) => Some(host).zip(service.or(free(Some(host)))),
        (None, Some(service)) => free(Some(service)).zip(Some(service)),
        (None, None) => free(None).zip(free(Some(0))),
    };
    pair.ok_or_else(|| format!("the appliance needs two NICs; there are {}", list(macs)))
}

struct Shown<'a>(&'a Mac);

impl core::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

fn list(macs: &[Mac]) -> String {
    if macs.is_empty() {
        return "none".into();
    }
    let mut text = String::new();
    for (index, mac) in macs.iter().enumerate() {
        let separator = if index == 0 { "" } else { ", " };
        // Writing to a string does not fail.
        let _ = write!(text, "{separator}{}", Shown(mac));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use image_appliance::config::Channel;

    const A: Mac = [0x52, 0x54, 0, 0, 0, 0xa];
    const B: Mac = [0x52, 0x54, 0, 0, 0, 0xb];
    const C: Mac = [0x52, 0x54, 0, 0, 0, 0xc];

    fn config(more: &str) -> Config {
        let text = format!("host.address=10.77.0.2/24 service.address=10.78.0.2/24 {more}");
        Config::parse(&[(Channel::CommandLine, &text)]).unwrap()
    }

    #[test]
    fn without_addresses_the_first_is_the_host_networks() {
        assert_eq!(assign(&[A, B, C], &config("")), Ok((0, 1)));
    }

    #[test]
    fn a_named_nic_is_taken_wherever_it_is_and_the_other_network_gets_one_that_is_left() {
        assert_eq!(assign(&[A, B], &config("host.mac=52:54:00:00:00:0b")), Ok((1, 0)));
        assert_eq!(assign(&[A, B], &config("service.mac=52:54:00:00:00:0a")), Ok((1, 0)));
        assert_eq!(assign(&[A, B, C], &config("service.mac=52:54:00:00:00:0c")), Ok((0, 2)));
        let both = config("host.mac=52:54:00:00:00:0c service.mac=52:54:00:00:00:0b");
        assert_eq!(assign(&[A, B, C], &both), Ok((2, 1)));
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = assign(&[A, B], &config("host.mac=52:54:00:00:00:0c")).unwrap_err();
        assert!(
            error.contains("host.mac") && error.contains("52:54:00:00:00:0a, 52:54:00:00:00:0b"),
            "{error}"
        );
        let twice = assign(&[A, B, B], &config("host.mac=52:54:00:00:00:0b")).unwrap_err();
        assert!(twice.contains("host.mac: more than one NIC has the address 52:54:00:00:00:0b"), "{twice}");
        assert!(assign(&[A], &config("")).unwrap_err().contains("two NICs; there are 52:54:00:00:00:0a"));
        assert!(assign(&[], &config("")).unwrap_err().contains("none"));
        assert!(assign(&[A], &config("host.mac=52:54:00:00:00:0a")).is_err());
    }
}
