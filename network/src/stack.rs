//! One TCP/IP stack: its interface, its sockets and how it got its address.

use crate::backlog::Backlog;
use crate::gate::{Rules, Side};
use crate::sockets::Sockets;
use crate::{Addressing, Cidr, Stream};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::Ipv4Addr;
use kernel_runtime::Instant;
use smoltcp::iface::{Config, Interface};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{EthernetAddress, IpCidr, Ipv4Cidr};

/// Headers of Ethernet, IPv4 and TCP, without options.
const HEADERS: usize = 14 + 20 + 20;

/// What a stack is told at start.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Which network it is on.
    pub side: Side,
    /// Where its address comes from.
    pub addressing: Addressing,
    /// The other stack's network, if known: its addresses are refused as sources here.
    pub foreign: Option<Cidr>,
    /// Randomness for sequence numbers and ports; different at each boot.
    pub seed: u64,
}

/// One stack. Clones are the same stack.
#[derive(Clone)]
pub struct Stack(pub(crate) Rc<RefCell<Inner>>);

pub(crate) struct Inner {
    pub(crate) interface: Interface,
    pub(crate) sockets: Sockets,
    pub(crate) rules: Rules,
    pub(crate) refused: u64,
    pub(crate) backlog: Backlog,
    ports: Ports,
}

impl Stack {
    pub(crate) fn new<D: network_nic::Nic>(settings: &Settings, nic: &mut D, now: Instant) -> Self {
        let mut config = Config::new(EthernetAddress(nic.mac()).into());
        config.random_seed = settings.seed;
        let interface = Interface::new(config, nic, timestamp(now));
        let segment = nic.capabilities().max_transmission_unit.saturating_sub(HEADERS);
        let mut inner = Inner {
            interface,
            sockets: Sockets::new(settings.addressing == Addressing::Dhcp, segment),
            rules: Rules {
                side: settings.side,
                dhcp: settings.addressing == Addressing::Dhcp,
                own: None,
                routed: false,
                foreign: settings.foreign,
            },
            refused: 0,
            backlog: Backlog::default(),
            ports: Ports(settings.seed.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15),
        };
        if let Addressing::Static { cidr, gateway } = settings.addressing {
            inner.configure(cidr, gateway);
        }
        Self(Rc::new(RefCell::new(inner)))
    }

    /// A stream slot with its own buffers, in bytes. Their memory is reserved now, touched by the first connection, and
    /// used for one connection after another; the receive buffer is also the largest TCP window that is offered.
    pub fn stream(&self, receive_bytes: usize, send_bytes: usize) -> Stream {
        self.stream_over(Vec::with_capacity(receive_bytes), Vec::with_capacity(send_bytes))
    }

    /// The same over buffers that the caller has, all that they have room for. What is in them never shows, so they need
    /// not be filled: what they lack of their length is, by the first connection.
    pub fn stream_over(&self, receive: Vec<u8>, send: Vec<u8>) -> Stream {
        Stream::new(self.clone(), receive, send)
    }

    /// The stack's own address, once it has one.
    pub fn address(&self) -> Option<Cidr> {
        self.0.borrow().rules.own
    }

    /// End all there is: peers see the end of the stream behind what was written, and nobody is listened to any more.
    pub fn close(&self) {
        self.0.borrow_mut().sockets.close();
    }

    /// Whether every connection has ended, at both ends.
    pub fn is_closed(&self) -> bool {
        self.0.borrow().sockets.are_closed()
    }

    /// Frames the gate refused since start.
    pub fn refused(&self) -> u64 {
        self.0.borrow().refused
    }
}

impl Inner {
    /// Take what DHCP has to say, if it is asked.
    pub(crate) fn follow_dhcp(&mut self) {
        if !self.rules.dhcp {
            return;
        }
        let Some(event) = self.sockets.dhcp().and_then(dhcpv4::Socket::poll) else { return };
        let lease = match event {
            dhcpv4::Event::Deconfigured => None,
            dhcpv4::Event::Configured(lease) => {
                let cidr = Cidr { address: lease.address.address(), prefix: lease.address.prefix_len() };
                Some((cidr, lease.router))
            }
        };
        match lease {
            None => self.deconfigure(),
            Some((cidr, router)) => self.configure(cidr, router),
        }
        self.sockets.touch_all();
    }

    fn configure(&mut self, cidr: Cidr, gateway: Option<Ipv4Addr>) {
        // The host-only network leads nowhere, whatever a DHCP server there says.
        let gateway = gateway.filter(|_| self.rules.side == Side::Service);
        self.deconfigure();
        self.interface.update_ip_addrs(|addresses| {
            // The list was just emptied and has room for several.
            let _ = addresses.push(IpCidr::Ipv4(Ipv4Cidr::new(cidr.address, cidr.prefix)));
        });
        if let Some(gateway) = gateway {
            // The only failure is a full table, and this table was just emptied.
            let _ = self.interface.routes_mut().add_default_ipv4_route(gateway);
        }
        self.rules.own = Some(cidr);
        self.rules.routed = gateway.is_some();
        log::info!("network {:?}: address {cidr}, gateway {gateway:?}", self.rules.side);
    }

    fn deconfigure(&mut self) {
        self.interface.update_ip_addrs(|addresses| addresses.clear());
        self.interface.routes_mut().remove_default_ipv4_route();
        self.rules.own = None;
        self.rules.routed = false;
    }

    /// A local port for an outgoing connection, and for no other: two connections to one portal that share their ports would
    /// be one, and each would reset the other.
    pub(crate) fn ephemeral_port(&mut self) -> u16 {
        let sockets = &self.sockets;
        self.ports.next(|port| sockets.is_taken(port))
    }
}

/// Ephemeral ports (RFC 6056): not in sequence, so that an outsider cannot guess the next one.
struct Ports(u64);

impl Ports {
    const FIRST: u16 = 49152;
    const COUNT: u16 = 16384;

    /// A port that is not taken. There are far more of them than sockets.
    fn next(&mut self, is_taken: impl Fn(u16) -> bool) -> u16 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let start = ((z ^ (z >> 31)) % u64::from(Self::COUNT)) as u16;
        let ports = (0..Self::COUNT).map(|step| Self::FIRST + (start + step) % Self::COUNT);
        ports.clone().find(|port| !is_taken(*port)).unwrap_or(Self::FIRST + start)
    }
}

pub(crate) fn timestamp(now: Instant) -> smoltcp::time::Instant {
    smoltcp::time::Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::Ports;
    use std::collections::BTreeSet;

    #[test]
    fn no_port_is_given_to_two_connections() {
        let mut ports = Ports(7);
        let mut taken = BTreeSet::new();
        for _ in 0..Ports::COUNT {
            let port = ports.next(|port| taken.contains(&port));
            assert!(port >= Ports::FIRST && taken.insert(port), "{port} was taken");
        }
    }

    #[test]
    fn ports_do_not_come_in_sequence() {
        let mut ports = Ports(7);
        let first = ports.next(|_| false);
        assert!(ports.next(|_| false).abs_diff(first) > 1);
    }
}
