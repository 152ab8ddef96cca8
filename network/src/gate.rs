//! The gate in front of a stack: which received frames it gets to see at all.
//!
//! Strong host model (RFC 1122 section 3.3.4.2): a stack answers for its own address on its own network and for
//! nothing else. What is dropped here costs no state and sends no answer.

use core::net::Ipv4Addr;
use network_nic::{Device, DeviceCapabilities, Instant, RxToken, TxToken};
use smoltcp::wire::{IpProtocol, Ipv4Packet, UdpPacket};

use crate::Cidr;
use crate::sockets::{Acknowledgement, Flow, Segment};

/// Which of the two networks a stack is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The network between the appliance and the parent partition. It has no router: a source outside its
    /// prefix is forged.
    HostOnly,
    /// The provider's network. It may have a router; the host-only prefix never comes from there.
    Service,
    /// Either, before it is known which: link-local addresses (RFC 3927), by which there is no router either.
    Link,
}

/// What the gate goes by; kept up to date by the stack.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) side: Side,
    /// Whether the address is asked for by DHCP, so that answers are to be let through.
    pub(crate) dhcp: bool,
    /// The stack's own address, once it has one.
    pub(crate) own: Option<Cidr>,
    /// Whether there is a router, so that any source may be genuine.
    pub(crate) routed: bool,
    /// The other stack's network, whose addresses are never genuine here.
    pub(crate) foreign: Option<Cidr>,
}

const DHCP_CLIENT_PORT: u16 = 68;

/// Bytes of an Ethernet header; its types of ARP and IPv4.
const ETHERNET: usize = 14;
const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
/// Version 4, five words of header: without options.
const PLAIN_IPV4: u8 = 0x45;
/// More fragments, and the upper bits of the offset.
const FRAGMENT: u8 = 0x3f;
/// Flags of TCP.
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// What a frame is that may be seen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Arrival {
    /// ARP from a neighbour.
    Neighbour,
    /// What may be an answer of a DHCP server.
    DhcpAnswer,
    /// A TCP segment.
    Segment(Segment),
    /// Anything else of IPv4.
    Other,
}

impl Rules {
    /// What `frame` is, if the stack may see it.
    pub(crate) fn admit(&self, frame: &[u8]) -> Option<Arrival> {
        let (ethernet, packet) = frame.split_first_chunk::<ETHERNET>()?;
        match [ethernet[12], ethernet[13]] {
            IPV4 => self.admit_ipv4(packet, ethernet[0] & 1 == 0),
            ARP => self.admit_arp(packet).then_some(Arrival::Neighbour),
            _ => None,
        }
    }

    /// An ARP packet (RFC 826) is for us when its sender is on our network and is not ourselves.
    fn admit_arp(&self, packet: &[u8]) -> bool {
        let Some(own) = self.own else { return false };
        let Some(sender) = packet.get(14..18).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()) else {
            return false;
        };
        let sender = Ipv4Addr::from(sender);
        own.contains(sender) && sender != own.address && Some(sender) != own.broadcast()
    }

    fn admit_ipv4(&self, packet: &[u8], sent_to_one: bool) -> Option<Arrival> {
        let (header, _) = packet.split_first_chunk::<20>()?;
        if header[0] != PLAIN_IPV4 || header[6] & FRAGMENT != 0 || header[7] != 0 {
            return None;
        }
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let payload = packet.get(20..length)?;
        let source = Ipv4Addr::new(header[12], header[13], header[14], header[15]);
        let destination = Ipv4Addr::new(header[16], header[17], header[18], header[19]);
        let Some(own) = self.own.filter(|own| own.address == destination) else {
            return (self.dhcp && is_dhcp_answer(packet)).then_some(Arrival::DhcpAnswer);
        };
        // What went to all stations is not for one address (RFC 1122 section 3.3.6).
        if !sent_to_one || !self.genuine(own, source) {
            return None;
        }
        match IpProtocol::from(header[9]) {
            IpProtocol::Tcp => segment(source, payload).map(Arrival::Segment),
            IpProtocol::Udp if self.dhcp && is_dhcp_answer(packet) => Some(Arrival::DhcpAnswer),
            _ => Some(Arrival::Other),
        }
    }

    fn genuine(&self, own: Cidr, source: Ipv4Addr) -> bool {
        let senseless = source == own.address
            || source.is_loopback()
            || source.is_multicast()
            || source.is_broadcast()
            || source.is_unspecified()
            || Some(source) == own.broadcast();
        if senseless || self.foreign.is_some_and(|foreign| foreign.contains(source)) {
            return false;
        }
        match self.side {
            Side::HostOnly | Side::Link => own.contains(source),
            Side::Service => self.routed || own.contains(source),
        }
    }
}

fn is_dhcp_answer(packet: &[u8]) -> bool {
    Ipv4Packet::new_checked(packet).is_ok_and(|packet| {
        packet.next_header() == IpProtocol::Udp
            && UdpPacket::new_checked(packet.payload()).is_ok_and(|udp| udp.dst_port() == DHCP_CLIENT_PORT)
    })
}

/// Where a TCP segment belongs; `None` for flags no TCP sends (RFC 9293 knows none): only a scanner or a fuzzer does.
fn segment(source: Ipv4Addr, segment: &[u8]) -> Option<Segment> {
    let (header, _) = segment.split_first_chunk::<20>()?;
    let has = |flag| header[13] & flag != 0;
    if has(SYN) && (has(FIN) || has(RST)) || has(FIN) && has(RST) {
        return None;
    }
    let [peer_port, port] = [0, 2].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    let acknowledgement = Acknowledgement {
        number: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        window: u16::from_be_bytes([header[14], header[15]]),
    };
    Some(Segment {
        flow: Flow::new(source, peer_port, port),
        port,
        opens: has(SYN) && !has(ACK),
        acknowledgement: has(ACK).then_some(acknowledgement),
        payload: segment.len().saturating_sub(usize::from(header[12] >> 4) * 4),
        ends: has(FIN),
    })
}

/// A device that has received one frame, already at hand, and takes one in answer.
pub(crate) struct Single<'a, T> {
    frame: Option<(&'a [u8], T)>,
}

impl<'a, T> Single<'a, T> {
    pub(crate) fn new(frame: &'a [u8], reply: T) -> Self {
        Self { frame: Some((frame, reply)) }
    }
}

/// The frame of a [`Single`].
pub(crate) struct SingleRx<'a>(&'a [u8]);

impl RxToken for SingleRx<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl<T: TxToken> Device for Single<'_, T> {
    type RxToken<'b>
        = SingleRx<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = T
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        self.frame.take().map(|(frame, reply)| (SingleRx(frame), reply))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        // The stack goes by those of the NIC it was made with.
        DeviceCapabilities::default()
    }
}
