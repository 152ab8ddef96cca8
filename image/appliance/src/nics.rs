//! Which NIC is on which network: those that the configuration names, and where it names none, what is found out.

#[cfg(not(test))]
use alloc::{format, string::String};
#[cfg(test)]
use std::{format, string::String};

use image_appliance::config::Config;
use image_probe::{Mac, Shown, list};

/// What the configuration says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Assignment {
    /// The places, in the list of them, of the NIC of the host-only and of the service network.
    Known(usize, usize),
    /// It has to be found out; of these it is known.
    Open([Option<usize>; 2]),
}

/// What the configuration says of the NICs with these addresses.
///
/// # Errors
/// A sentence that names the key, and what there is.
pub(crate) fn assign(macs: &[Mac], config: &Config) -> Result<Assignment, String> {
    let named = |key: &str, mac: Option<Mac>| match mac {
        None => Ok(None),
        Some(mac) => match macs.iter().position(|there| *there == mac) {
            // Which network such a one is on would be a guess.
            Some(place) if macs[place + 1..].contains(&mac) => {
                Err(format!("configuration: {key}: more than one NIC has the address {}", Shown(&mac)))
            }
            Some(place) => Ok(Some(place)),
            None => Err(format!(
                "configuration: {key}: no NIC has the address {}; {}",
                Shown(&mac),
                there_are(macs)
            )),
        },
    };
    let host = named("host.mac", config.host.mac)?;
    let service = named("service.mac", config.service.mac)?;
    match (host, service, macs.len()) {
        (Some(host), Some(service), _) => Ok(Assignment::Known(host, service)),
        (_, _, 0 | 1) => Err(format!("the appliance needs two NICs; {}", there_are(macs))),
        (Some(host), None, 2) => Ok(Assignment::Known(host, 1 - host)),
        (None, Some(service), 2) => Ok(Assignment::Known(1 - service, service)),
        _ => Ok(Assignment::Open([host, service])),
    }
}

fn there_are(macs: &[Mac]) -> String {
    if macs.is_empty() { "there are none".into() } else { list(macs) }
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

    fn known(host: usize, service: usize) -> Result<Assignment, String> {
        Ok(Assignment::Known(host, service))
    }

    #[test]
    fn without_addresses_nothing_is_known() {
        assert_eq!(assign(&[A, B, C], &config("")), Ok(Assignment::Open([None, None])));
        assert_eq!(assign(&[A, B], &config("")), Ok(Assignment::Open([None, None])));
    }

    #[test]
    fn a_named_nic_is_taken_wherever_it_is_and_of_two_the_other_is_the_other() {
        assert_eq!(assign(&[A, B], &config("host.mac=52:54:00:00:00:0b")), known(1, 0));
        assert_eq!(assign(&[A, B], &config("service.mac=52:54:00:00:00:0a")), known(1, 0));
        let one = config("service.mac=52:54:00:00:00:0c");
        assert_eq!(assign(&[A, B, C], &one), Ok(Assignment::Open([None, Some(2)])));
        let both = config("host.mac=52:54:00:00:00:0c service.mac=52:54:00:00:00:0b");
        assert_eq!(assign(&[A, B, C], &both), known(2, 1));
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
