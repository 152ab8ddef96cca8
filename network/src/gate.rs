//! The gate in front of a stack: which received frames it gets to see at all.
//!
//! Strong host model (RFC 1122 section 3.3.4.2): a stack answers for its own address on its own network and for
//! nothing else. What is dropped here costs no state and sends no answer.

use core::cell::Cell;
use core::net::Ipv4Addr;
use network_nic::{Device, DeviceCapabilities, Instant, PacketMeta, RxToken};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpPacket, UdpPacket};

use crate::Cidr;

/// Which of the two networks a stack is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The network between the appliance and the parent partition. It has no router: a source outside its
    /// prefix is forged.
    HostOnly,
    /// The provider's network. It may have a router; the host-only prefix never comes from there.
    Service,
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

impl Rules {
    /// Whether the stack may see `frame`.
    pub(crate) fn admit(&self, frame: &[u8]) -> bool {
        let Ok(frame) = EthernetFrame::new_checked(frame) else { return false };
        match frame.ethertype() {
            EthernetProtocol::Arp => self.admit_arp(frame.payload()),
            EthernetProtocol::Ipv4 => self.admit_ipv4(frame.payload(), frame.dst_addr().is_unicast()),
            EthernetProtocol::Ipv6 | EthernetProtocol::Unknown(_) => false,
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

    fn admit_ipv4(&self, packet: &[u8], sent_to_one: bool) -> bool {
        // A segment the device merged may be longer than its length field can say; the headers are what counts.
        let Ok(packet) = Ipv4Packet::new_checked(packet) else { return false };
        if packet.version() != 4
            || packet.header_len() != 20
            || packet.more_frags()
            || packet.frag_offset() != 0
        {
            return false;
        }
        let Some(own) = self.own else {
            return self.dhcp && is_dhcp_answer(&packet);
        };
        let (source, destination) = (packet.src_addr(), packet.dst_addr());
        if destination != own.address {
            return self.dhcp && is_dhcp_answer(&packet);
        }
        // What went to all stations is not for one address (RFC 1122 section 3.3.6).
        sent_to_one && self.genuine(own, source) && !is_senseless_tcp(&packet)
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
            Side::HostOnly => own.contains(source),
            Side::Service => self.routed || own.contains(source),
        }
    }
}

fn is_dhcp_answer(packet: &Ipv4Packet<&[u8]>) -> bool {
    packet.next_header() == IpProtocol::Udp
        && UdpPacket::new_checked(packet.payload()).is_ok_and(|udp| udp.dst_port() == DHCP_CLIENT_PORT)
}

/// Flag combinations no TCP sends (RFC 9293 knows none): only a scanner or a fuzzer does.
fn is_senseless_tcp(packet: &Ipv4Packet<&[u8]>) -> bool {
    packet.next_header() == IpProtocol::Tcp
        && TcpPacket::new_checked(packet.payload())
            .is_ok_and(|tcp| (tcp.syn() && (tcp.fin() || tcp.rst())) || (tcp.fin() && tcp.rst()))
}

/// The port to which a frame wants to open a connection.
fn opened_port(frame: &[u8]) -> Option<u16> {
    let frame = EthernetFrame::new_checked(frame).ok()?;
    let packet = (frame.ethertype() == EthernetProtocol::Ipv4).then(|| frame.payload())?;
    let packet = Ipv4Packet::new_checked(packet).ok()?;
    let tcp = (packet.next_header() == IpProtocol::Tcp).then(|| packet.payload())?;
    let tcp = TcpPacket::new_checked(tcp).ok()?;
    (tcp.syn() && !tcp.ack()).then(|| tcp.dst_port())
}

/// A device behind a gate.
pub(crate) struct Gated<'a, D> {
    pub(crate) device: &'a mut D,
    pub(crate) rules: Rules,
    pub(crate) refused: &'a mut u64,
    /// The port of the last frame that asked for a connection.
    pub(crate) opening: &'a Cell<Option<u16>>,
    /// The port that has no room for another connection at the moment.
    pub(crate) full: &'a Cell<Option<u16>>,
}

/// A received frame that the gate has yet to look at.
pub(crate) struct GatedRx<'a, R> {
    token: R,
    rules: Rules,
    refused: &'a mut u64,
    opening: &'a Cell<Option<u16>>,
    full: &'a Cell<Option<u16>>,
}

impl<D: Device> Device for Gated<'_, D> {
    type RxToken<'b>
        = GatedRx<'b, D::RxToken<'b>>
    where
        Self: 'b;
    type TxToken<'b>
        = D::TxToken<'b>
    where
        Self: 'b;

    fn receive(&mut self, timestamp: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let (token, reply) = self.device.receive(timestamp)?;
        let Self { rules, refused, opening, full, .. } = self;
        Some((GatedRx { token, rules: *rules, refused, opening, full }, reply))
    }

    fn transmit(&mut self, timestamp: Instant) -> Option<Self::TxToken<'_>> {
        self.device.transmit(timestamp)
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.device.capabilities()
    }
}

impl<R: RxToken> RxToken for GatedRx<'_, R> {
    fn consume<T, F: FnOnce(&[u8]) -> T>(self, f: F) -> T {
        let Self { token, rules, refused, opening, full } = self;
        token.consume(|frame| {
            let port = opened_port(frame);
            if rules.admit(frame) && (port.is_none() || port != full.get()) {
                opening.set(port);
                return f(frame);
            }
            *refused += 1;
            // The stack takes an empty frame for none.
            f(&[])
        })
    }

    fn meta(&self) -> PacketMeta {
        self.token.meta()
    }
}
