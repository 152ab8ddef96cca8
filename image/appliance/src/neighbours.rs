//! Whom the configuration knows on each of the two networks: by who answers it is found out which NIC is on which.

use crate::config::Config;
use core::net::Ipv4Addr;
use image_probe::Network;
use network::Addressing;

/// The host-only and the service network, each with the place of its NIC where that is known.
pub fn networks(config: &Config, [host, service]: [Option<usize>; 2]) -> [Network; 2] {
    let agent = config.agent.as_ref().map(|agent| *agent.address.ip());
    let gateway = match config.service.addressing {
        Addressing::Static { gateway, .. } => gateway,
        Addressing::Dhcp => None,
    };
    let volumes = config.targets.iter().flat_map(|target| {
        let portals = target.policy.portals.iter().map(|portal| *portal.ip());
        address(&target.volume).into_iter().chain(portals)
    });
    [
        Network::new(config.host.cidr(), host, &mut agent.into_iter()),
        Network::new(config.service.cidr(), service, &mut gateway.into_iter().chain(volumes)),
    ]
}

/// The address in the URI of a volume.
fn address(volume: &str) -> Option<Ipv4Addr> {
    let (_, rest) = volume.split_once("://")?;
    rest.split(['/', ':', '?']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Channel;

    #[test]
    fn those_whom_keys_name_are_known() {
        let text = "host.address=10.77.0.2/24 agent=10.77.0.9:1 agent.insecure=yes service.address=10.77.1.2/24 \
            service.gateway=10.77.1.254 target.0.iqn=iqn.a:b target.0.initiators=* target.0.volume=nbd://10.77.1.7:1/x \
            target.0.portals=10.77.1.8:1,10.9.9.9:1 target.1.iqn=iqn.a:c target.1.initiators=* \
            target.1.volume=nbds://10.77.1.6/x target.2.iqn=iqn.a:d target.2.initiators=* target.2.volume=none";
        let config = Config::parse(&[(Channel::File, text)]).unwrap();
        let known = [[10, 77, 1, 254], [10, 77, 1, 7], [10, 77, 1, 8], [10, 77, 1, 6]].map(Ipv4Addr::from);
        let host = Network::new(
            "10.77.0.2/24".parse().ok(),
            Some(1),
            &mut [Ipv4Addr::new(10, 77, 0, 9)].into_iter(),
        );
        let service = Network::new("10.77.1.2/24".parse().ok(), None, &mut known.into_iter());
        assert_eq!(networks(&config, [Some(1), None]), [host, service]);
        let dhcp = Config::parse(&[(Channel::File, "host.address=dhcp service.address=dhcp")]).unwrap();
        let nobody = || Network::new(None, None, &mut core::iter::empty());
        assert_eq!(networks(&dhcp, [None; 2]), [nobody(), nobody()]);
    }
}
