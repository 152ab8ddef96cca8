//! Frames made by hand, right unless told otherwise.

use std::net::Ipv4Addr;

/// Flags of a TCP header.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

pub(crate) const ARP: u16 = 0x0806;
pub(crate) const IPV4: u16 = 0x0800;

/// Two stations and what lies between them.
#[derive(Clone, Copy)]
pub(crate) struct Route {
    pub(crate) to_mac: [u8; 6],
    pub(crate) from_mac: [u8; 6],
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
}

/// A TCP header.
#[derive(Clone, Copy)]
pub(crate) struct Tcp {
    pub(crate) from: u16,
    pub(crate) to: u16,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
}

impl Route {
    pub(crate) fn ethernet(&self, kind: u16, payload: &[u8]) -> Vec<u8> {
        let mut frame = [self.to_mac, self.from_mac].concat();
        frame.extend(kind.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// An IPv4 packet without options.
    pub(crate) fn packet(&self, protocol: u8, fragment: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend(u16::try_from(20 + payload.len()).unwrap().to_be_bytes());
        packet.extend([0x77, 0x77]);
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0]);
        packet.extend(self.from.octets());
        packet.extend(self.to.octets());
        seal(&mut packet);
        packet.extend(payload);
        packet
    }

    /// A TCP segment with its checksums. `options` is a multiple of four bytes.
    pub(crate) fn tcp(&self, tcp: &Tcp, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut segment = [tcp.from.to_be_bytes(), tcp.to.to_be_bytes()].concat();
        segment.extend(tcp.seq.to_be_bytes());
        segment.extend(tcp.ack.to_be_bytes());
        segment.push(u8::try_from(5 + options.len() / 4).unwrap() << 4);
        segment.push(tcp.flags);
        segment.extend(tcp.window.to_be_bytes());
        segment.extend([0; 4]);
        segment.extend(options);
        segment.extend(payload);
        let mut pseudo = [self.from.octets(), self.to.octets()].concat();
        pseudo.extend([0, 6]);
        pseudo.extend(u16::try_from(segment.len()).unwrap().to_be_bytes());
        pseudo.extend(&segment);
        segment[16..18].copy_from_slice(&checksum(&pseudo).to_be_bytes());
        self.ethernet(IPV4, &self.packet(6, 0, &segment))
    }

    /// An ICMP message; `message` begins with type and code, its checksum is put in.
    pub(crate) fn icmp(&self, message: &[u8]) -> Vec<u8> {
        let mut message = message.to_vec();
        message[2..4].fill(0);
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        self.ethernet(IPV4, &self.packet(1, 0, &message))
    }

    /// Who has `to`? asks `from`.
    pub(crate) fn arp_request(&self) -> Vec<u8> {
        let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
        body.extend(self.from_mac);
        body.extend(self.from.octets());
        body.extend([0; 6]);
        body.extend(self.to.octets());
        self.ethernet(ARP, &body)
    }
}

/// Puts the header's checksum into an IPv4 packet.
pub(crate) fn seal(packet: &mut [u8]) {
    packet[10..12].fill(0);
    let length = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
    let sum = checksum(&packet[..length]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
}

/// The TCP header and payload of a frame, with the addresses it goes between, if that is what it carries.
pub(crate) fn read_tcp(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr, Tcp, &[u8])> {
    if frame.get(12..14)? != IPV4.to_be_bytes() || *frame.get(23)? != 6 {
        return None;
    }
    let packet = &frame[14..];
    let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
    let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
    let segment = packet.get(usize::from(packet[0] & 15) * 4..total.min(packet.len()))?;
    let short = |at: usize| Some(u16::from_be_bytes(segment.get(at..at + 2)?.try_into().ok()?));
    let long = |at: usize| Some(u32::from_be_bytes(segment.get(at..at + 4)?.try_into().ok()?));
    let tcp = Tcp {
        from: short(0)?,
        to: short(2)?,
        seq: long(4)?,
        ack: long(8)?,
        flags: *segment.get(13)?,
        window: short(14)?,
    };
    Some((address(12)?, address(16)?, tcp, segment.get(usize::from(segment[12] >> 4) * 4..)?))
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
fn a_segment_is_read_as_it_was_written() {
    let route = Route {
        to_mac: [2; 6],
        from_mac: [4; 6],
        from: Ipv4Addr::new(10, 77, 0, 1),
        to: Ipv4Addr::new(10, 77, 0, 2),
    };
    let tcp = Tcp { from: 1, to: 3260, seq: 7, ack: 9, flags: ACK, window: 100 };
    let frame = route.tcp(&tcp, &[2, 4, 5, 0xb4], b"hello");
    let (from, to, read, payload) = read_tcp(&frame).unwrap();
    assert_eq!((from, to, read.seq, read.ack, read.flags), (route.from, route.to, 7, 9, ACK));
    assert_eq!(payload, b"hello");
    assert_eq!(checksum(&frame[14..34]), 0);
}
