//! The frames of the questions, and what is looked for in answers: ARP (RFC 826) and DHCP (RFC 2131) over UDP over IPv4.

use super::Mac;
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;

const ARP: [u8; 2] = [0x08, 0x06];
const IPV4: [u8; 2] = [0x08, 0x00];
/// Ethernet and IPv4, with addresses of six and of four bytes.
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ETHERNET: usize = 14;
const IP: usize = 20;
const UDP: usize = 8;
/// Fields of BOOTP before its options, which begin with these four bytes.
const BOOTP: usize = 236;
const COOKIE: [u8; 4] = [0x63, 0x82, 0x53, 0x63];
/// The least that old servers take.
const LEAST_BOOTP: usize = 300;
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;

/// An Ethernet header of a frame to everybody.
fn to_all(from: Mac, kind: [u8; 2]) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(from);
    frame.extend(kind);
    frame
}

/// The question who has that address, without saying which we have: a probe.
pub(super) fn arp(from: Mac, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = to_all(from, ARP);
    frame.extend(ARP_KIND);
    frame.extend([0, 1]);
    frame.extend(from);
    frame.extend([0; 4]);
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame.resize(60, 0);
    frame
}

/// Who says of himself in an ARP packet, question or answer, that he has which address.
pub(super) fn speaker(frame: &[u8]) -> Option<(Mac, Ipv4Addr)> {
    let packet = frame.get(ETHERNET..ETHERNET + 28)?;
    let is_arp = frame[12..14] == ARP && packet[..6] == ARP_KIND && matches!(packet[6..8], [0, 1 | 2]);
    let (mac, address): (Mac, [u8; 4]) = (packet[8..14].try_into().ok()?, packet[14..18].try_into().ok()?);
    (is_arp && mac[0] & 1 == 0).then(|| (mac, address.into()))
}

/// The question which DHCP servers there are.
pub(super) fn discover(from: Mac, transaction: u32) -> Vec<u8> {
    let mut frame = to_all(from, IPV4);
    let length = (IP + UDP + LEAST_BOOTP) as u16;
    let mut header = [0; IP];
    (header[0], header[8], header[9]) = (0x45, 64, 17);
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[16..].fill(0xff);
    let sum = header.as_chunks::<2>().0.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum::<u32>();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend([0, 68, 0, 67]);
    frame.extend((length - IP as u16).to_be_bytes());
    // No checksum: that is allowed (RFC 768).
    frame.extend([0, 0]);
    let start = frame.len();
    frame.extend([1, 1, 6, 0]);
    frame.extend(transaction.to_be_bytes());
    // The answer goes to everybody, since the address that it offers is not ours.
    frame.extend([0, 0, 0x80, 0]);
    frame.extend([0; 16]);
    frame.extend(from);
    frame.resize(start + BOOTP, 0);
    frame.extend(COOKIE);
    // The kind of message; that a mask and a router are wanted; the end.
    frame.extend([53, 1, DISCOVER, 55, 2, 1, 3, 255]);
    frame.resize(start + LEAST_BOOTP, 0);
    frame
}

/// The address that a DHCP server offers, if this is its answer to our question.
pub(super) fn offer(frame: &[u8], to: Mac, transaction: u32) -> Option<Ipv4Addr> {
    let packet = frame.get(ETHERNET..).filter(|_| frame[12..14] == IPV4)?;
    let first = *packet.first()?;
    let header = usize::from(first & 0xf) * 4;
    let is_udp = first >> 4 == 4 && header >= IP && *packet.get(9)? == 17;
    let is_whole = packet.get(6..8)? == [0x40, 0] || packet[6..8] == [0, 0];
    let udp = packet.get(header..).filter(|_| is_udp && is_whole)?;
    let bootp = udp.get(UDP..).filter(|_| udp[..4] == [0, 67, 0, 68])?;
    let is_ours = bootp.len() > BOOTP
        && bootp[..3] == [2, 1, 6]
        && bootp[4..8] == transaction.to_be_bytes()
        && bootp[28..34] == to;
    if !is_ours {
        return None;
    }
    let mut options = bootp[BOOTP..].strip_prefix(&COOKIE)?;
    loop {
        match options {
            [0, rest @ ..] => options = rest,
            [53, 1, OFFER, ..] => break,
            [255, ..] | [_] | [] => return None,
            [_, length, rest @ ..] => options = rest.get(usize::from(*length)..)?,
        }
    }
    let address: [u8; 4] = bootp[16..20].try_into().ok()?;
    let address = Ipv4Addr::from(address);
    (!address.is_unspecified()).then_some(address)
}
