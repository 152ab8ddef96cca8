//! Ethernet frames made by hand, each with room for a marker that is looked for on both wires.

use std::net::Ipv4Addr;

/// The sender's address on every frame: nobody's.
const SENDER: &str = "52:54:00:77:ee:ee";
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
/// IEEE 802: for experiments within an organisation.
const LOCAL_EXPERIMENT: u16 = 0x88b5;

/// A frame without its marker.
pub(crate) struct Frame {
    head: Vec<u8>,
    body: Body,
}

/// What the marker becomes the payload of.
enum Body {
    Bare,
    Arp(Vec<u8>),
    V4 { from: Ipv4Addr, to: Ipv4Addr, protocol: u8, head: Vec<u8>, checksum_at: Option<usize> },
    V6,
}

/// The six bytes of a MAC address as it is written.
pub(crate) fn mac(text: &str) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (byte, part) in bytes.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(part, 16).unwrap();
    }
    bytes
}

impl Frame {
    fn new(to: &str, kind: u16, body: Body) -> Self {
        let mut head = mac(to).to_vec();
        head.extend(mac(SENDER));
        head.extend(kind.to_be_bytes());
        Self { head, body }
    }

    /// A frame of no protocol at all.
    pub(crate) fn local_experiment(to: &str) -> Self {
        Self::new(to, LOCAL_EXPERIMENT, Body::Bare)
    }

    /// Who has `wanted`? The marker is in the padding.
    pub(crate) fn arp_request(to: &str, from: Ipv4Addr, wanted: Ipv4Addr) -> Self {
        let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
        body.extend(mac(SENDER));
        body.extend(from.octets());
        body.extend([0; 6]);
        body.extend(wanted.octets());
        Self::new(to, ARP, Body::Arp(body))
    }

    /// An ICMP echo request.
    pub(crate) fn ping(mac: &str, from: Ipv4Addr, to: Ipv4Addr) -> Self {
        let head = vec![8, 0, 0, 0, 0x77, 0x77, 0, 1];
        Self::new(mac, IPV4, Body::V4 { from, to, protocol: 1, head, checksum_at: Some(2) })
    }

    /// A datagram (without a checksum, which IPv4 allows).
    pub(crate) fn udp(mac: &str, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Self {
        let mut head = 40_000_u16.to_be_bytes().to_vec();
        head.extend(port.to_be_bytes());
        head.extend([0; 4]);
        Self::new(mac, IPV4, Body::V4 { from, to, protocol: 17, head, checksum_at: None })
    }

    /// A request to open a TCP connection, the marker in data that comes with it.
    pub(crate) fn syn(mac: &str, from: Ipv4Addr, to: Ipv4Addr, port: u16) -> Self {
        let mut head = 40_001_u16.to_be_bytes().to_vec();
        head.extend(port.to_be_bytes());
        head.extend([0x11, 0x22, 0x33, 0x44, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0]);
        Self::new(mac, IPV4, Body::V4 { from, to, protocol: 6, head, checksum_at: Some(16) })
    }

    /// An IPv6 packet without a next header, to every node of the link.
    pub(crate) fn ipv6_to_all_nodes() -> Self {
        Self::new("33:33:00:00:00:01", IPV6, Body::V6)
    }

    /// The frame's bytes, with `marker` in it.
    pub(crate) fn marked(&self, marker: &str) -> Vec<u8> {
        let mut bytes = self.head.clone();
        match &self.body {
            Body::Bare => bytes.extend(marker.as_bytes()),
            Body::Arp(body) => {
                bytes.extend(body);
                bytes.extend(marker.as_bytes());
            }
            Body::V6 => {
                let mut packet = vec![0x60, 0, 0, 0, 0, u8::try_from(marker.len()).unwrap(), 59, 1];
                packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
                bytes.extend(packet);
                bytes.extend(marker.as_bytes());
            }
            Body::V4 { from, to, protocol, head, checksum_at } => {
                let mut segment = head.clone();
                segment.extend(marker.as_bytes());
                let length = u16::try_from(segment.len()).unwrap();
                if *protocol == 17 {
                    segment[4..6].copy_from_slice(&length.to_be_bytes());
                }
                if let Some(at) = *checksum_at {
                    let mut pseudo = Vec::new();
                    if *protocol == 6 {
                        pseudo = [from.octets(), to.octets()].concat();
                        pseudo.extend([0, *protocol]);
                        pseudo.extend(length.to_be_bytes());
                    }
                    pseudo.extend(&segment);
                    segment[at..at + 2].copy_from_slice(&checksum(&pseudo).to_be_bytes());
                }
                let mut packet = vec![0x45, 0];
                packet.extend((20 + length).to_be_bytes());
                packet.extend([0, 1, 0, 0, 64, *protocol, 0, 0]);
                packet.extend(from.octets());
                packet.extend(to.octets());
                let sum = checksum(&packet).to_be_bytes();
                packet[10..12].copy_from_slice(&sum);
                bytes.extend(packet);
                bytes.extend(segment);
            }
        }
        bytes.resize(bytes.len().max(60), 0);
        bytes
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

#[test]
fn a_frame_by_hand_has_right_checksums() {
    let bytes = Frame::ping("ff:ff:ff:ff:ff:ff", [10, 77, 0, 1].into(), [10, 77, 0, 2].into()).marked("<x>");
    assert_eq!(checksum(&bytes[14..34]), 0);
    assert_eq!(checksum(&bytes[34..34 + 8 + 3]), 0);
    assert_eq!(bytes.len(), 60);
}
