//! Checksum and segmentation offload as virtio means it: the header in front of each frame.
//!
//! virtio-net and a Linux TAP put the same `struct virtio_net_hdr` (virtio 1.2 section 5.1.6) before a frame. A
//! device that offers offloads takes segments larger than the MTU and frames without a TCP checksum, and gives us
//! the same. What it gives is not to be believed: [`check_received`] bounds it before the stack sees the frame.

use core::num::NonZeroU16;
use smoltcp::wire::{IpAddress, TcpPacket, checksum};

/// Bytes of the header with `num_buffers`, as under VIRTIO_F_VERSION_1 or VIRTIO_NET_F_MRG_RXBUF.
pub const HEADER_LEN: usize = 12;
/// Bytes of the legacy header, without `num_buffers`.
pub const LEGACY_HEADER_LEN: usize = 10;
/// Bytes in front of the IPv4 header.
const ETHERNET_LEN: usize = 14;
/// What says IPv4 there; what says TCP in an IPv4 header; more fragments, and the upper bits of a fragment's offset.
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const PROTOCOL_TCP: u8 = 6;
const FRAGMENT: u8 = 0x3f;
/// Where the checksum stands in a TCP header (RFC 9293 section 3.1).
const TCP_CHECKSUM_OFFSET: u16 = 16;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM: the checksum field holds the pseudo-header sum only.
pub const NEEDS_CSUM: u8 = 1;
/// VIRTIO_NET_HDR_F_DATA_VALID: the device has verified the checksum.
const DATA_VALID: u8 = 2;
/// VIRTIO_NET_HDR_GSO_NONE.
const GSO_NONE: u8 = 0;
/// VIRTIO_NET_HDR_GSO_TCPV4.
const GSO_TCPV4: u8 = 1;
/// VIRTIO_NET_HDR_GSO_ECN, a flag beside the type.
const GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr`, little-endian on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// VIRTIO_NET_HDR_F_*.
    pub flags: u8,
    /// VIRTIO_NET_HDR_GSO_*.
    pub gso_type: u8,
    /// Bytes of Ethernet, IP and TCP headers, repeated in each segment.
    pub hdr_len: u16,
    /// Payload bytes per segment.
    pub gso_size: u16,
    /// Where the checksummed range starts.
    pub csum_start: u16,
    /// Where the checksum goes, from `csum_start`.
    pub csum_offset: u16,
    /// Number of merged receive buffers; one otherwise. Not part of the legacy header.
    pub num_buffers: u16,
}

impl Header {
    /// Read the first ten bytes, and `num_buffers` where there are twelve.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (legacy, rest) = bytes.split_first_chunk::<LEGACY_HEADER_LEN>()?;
        let half = |at: usize| u16::from_le_bytes([legacy[at], legacy[at + 1]]);
        Some(Self {
            flags: legacy[0],
            gso_type: legacy[1],
            hdr_len: half(2),
            gso_size: half(4),
            csum_start: half(6),
            csum_offset: half(8),
            num_buffers: rest.first_chunk().map_or(1, |bytes| u16::from_le_bytes(*bytes)),
        })
    }

    /// Its twelve bytes; a legacy device takes the first ten.
    pub fn emit(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[0] = self.flags;
        bytes[1] = self.gso_type;
        let halves = [self.hdr_len, self.gso_size, self.csum_start, self.csum_offset, self.num_buffers];
        for (place, half) in bytes[2..].as_chunks_mut::<2>().0.iter_mut().zip(halves) {
            *place = half.to_le_bytes();
        }
        bytes
    }
}

/// A frame's TCP segment, found and bounded.
struct Segment {
    start: usize,
    header_len: usize,
    /// Bytes of TCP header and payload.
    length: usize,
}

/// Where TCP over IPv4 is in `frame`, if it is that and whole. This is asked for every frame, so each byte is looked at
/// once.
fn tcp_segment(frame: &[u8]) -> Option<Segment> {
    let (head, _) = frame.split_first_chunk::<{ ETHERNET_LEN + 20 }>()?;
    let ip = head.last_chunk::<20>()?;
    let is_ipv4 = head[12..14] == ETHERTYPE_IPV4 && ip[0] >> 4 == 4;
    let is_fragment = ip[6] & FRAGMENT != 0 || ip[7] != 0;
    if !is_ipv4 || is_fragment || ip[9] != PROTOCOL_TCP {
        return None;
    }
    let ip_header = usize::from(ip[0] & 0x0f) * 4;
    let length = usize::from(u16::from_be_bytes([ip[2], ip[3]])).checked_sub(ip_header)?;
    let start = ETHERNET_LEN + ip_header;
    let tcp = frame.get(start..start + length)?.first_chunk::<20>()?;
    let header_len = usize::from(tcp[12] >> 4) * 4;
    let is_whole = ip_header >= 20 && header_len >= 20 && header_len <= length;
    is_whole.then_some(Segment { start, header_len, length })
}

/// Prepare a frame that the stack has built without a TCP checksum: put the pseudo-header's sum in its place and
/// say in the header what the device has to do. `segment` is the payload per segment when the frame is to be cut.
/// A frame that is not TCP over IPv4 is complete already and gets an empty header.
pub fn prepare_transmit(frame: &mut [u8], segment: Option<NonZeroU16>) -> Header {
    let Some(tcp) = tcp_segment(frame) else {
        return Header { num_buffers: 0, ..Header::default() };
    };
    let sum = pseudo_header_sum(frame, &tcp);
    let at = tcp.start + usize::from(TCP_CHECKSUM_OFFSET);
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    // Frames are at most 64 KiB, so these fit.
    let narrow = |length: usize| u16::try_from(length).unwrap_or(u16::MAX);
    let headers = tcp.start + tcp.header_len;
    let cut = segment.filter(|size| frame.len() > headers + usize::from(size.get()));
    Header {
        flags: NEEDS_CSUM,
        gso_type: if cut.is_some() { GSO_TCPV4 } else { GSO_NONE },
        hdr_len: narrow(headers),
        gso_size: cut.map_or(0, NonZeroU16::get),
        csum_start: narrow(tcp.start),
        csum_offset: TCP_CHECKSUM_OFFSET,
        num_buffers: 0,
    }
}

/// The ones' complement sum over the pseudo-header (RFC 9293 section 3.1), not inverted.
fn pseudo_header_sum(frame: &[u8], tcp: &Segment) -> u16 {
    let addresses = &frame[ETHERNET_LEN + 12..ETHERNET_LEN + 20];
    let mut sum = 6 + u32::try_from(tcp.length).unwrap_or(0);
    for pair in addresses.as_chunks::<2>().0 {
        sum += u32::from(u16::from_be_bytes(*pair));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Why a received frame is not given to the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The header says something no device may say about this frame.
    Header,
    /// Nobody has vouched for the TCP checksum, and it is wrong.
    Checksum,
}

/// Whether a received frame may be given to a stack that does not verify TCP checksums itself, and does verify all
/// others.
///
/// A TCP segment that the device marks as checked, or whose checksum is still to be made (it came from the same
/// machine), is fine; any other is verified here. Where the checksum of something else is still to be made (UDP: a DHCP
/// server on the same machine), it is made here, in `frame`.
///
/// # Errors
/// See [`Refused`].
pub fn check_received(header: &Header, frame: &mut [u8]) -> Result<(), Refused> {
    check(header, frame, false)
}

/// The same for a frame of which [`Plain::parse`](crate::train::Plain::parse) has found that it is a whole segment of TCP.
///
/// # Errors
/// See [`Refused`].
#[inline]
pub fn check_plain(header: &Header, frame: &mut [u8]) -> Result<(), Refused> {
    check(header, frame, true)
}

#[inline]
fn check(header: &Header, frame: &mut [u8], is_segment: bool) -> Result<(), Refused> {
    match header.gso_type & !GSO_ECN {
        GSO_NONE => {}
        GSO_TCPV4 if header.gso_size > 0 => {}
        _ => return Err(Refused::Header),
    }
    if header.flags & NEEDS_CSUM != 0 {
        let start = usize::from(header.csum_start);
        let place = start + usize::from(header.csum_offset);
        if place + 2 > frame.len() {
            return Err(Refused::Header);
        }
        if !is_segment && tcp_segment(frame).is_none() {
            let sum = match !checksum::data(&frame[start..]) {
                // A UDP checksum of zero would mean that there is none; this is the other zero (RFC 768).
                0 => u16::MAX,
                sum => sum,
            };
            frame[place..place + 2].copy_from_slice(&sum.to_be_bytes());
        }
        return Ok(());
    }
    if header.flags & DATA_VALID != 0 {
        return Ok(());
    }
    verify(frame)
}

/// Whether the checksum of a segment of TCP is right, if it is one.
///
/// # Errors
/// [`Refused::Checksum`].
pub fn verify(frame: &[u8]) -> Result<(), Refused> {
    let Some(tcp) = tcp_segment(frame) else { return Ok(()) };
    let bytes = &frame[tcp.start..tcp.start + tcp.length];
    let [source, destination] = [12, 16].map(|at| {
        let address = &frame[ETHERNET_LEN + at..];
        IpAddress::v4(address[0], address[1], address[2], address[3])
    });
    match TcpPacket::new_checked(bytes) {
        Ok(packet) if packet.verify_checksum(&source, &destination) => Ok(()),
        _ => Err(Refused::Checksum),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{
        EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl, TcpRepr, TcpSeqNumber,
        UdpPacket, UdpRepr,
    };

    const FROM: [u8; 4] = [10, 77, 0, 1];
    const TO: [u8; 4] = [10, 77, 0, 2];

    /// A segment in the middle of a connection.
    pub(crate) const SEGMENT: TcpRepr<'static> = TcpRepr {
        src_port: 3260,
        dst_port: 1000,
        control: TcpControl::Psh,
        seq_number: TcpSeqNumber(7),
        ack_number: Some(TcpSeqNumber(9)),
        window_len: 100,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };

    /// The frame of a segment, with these checksums of TCP.
    pub(crate) fn frame_of(tcp: &TcpRepr<'_>, checksums: &ChecksumCapabilities) -> Vec<u8> {
        let ip = Ipv4Repr {
            src_addr: FROM.into(),
            dst_addr: TO.into(),
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let mut bytes = vec![0; ETHERNET_LEN + 20 + tcp.buffer_len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes);
        ethernet.set_ethertype(EthernetProtocol::Ipv4);
        let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
        ip.emit(&mut packet, &ChecksumCapabilities::default());
        tcp.emit(
            &mut TcpPacket::new_unchecked(packet.payload_mut()),
            &IpAddress::Ipv4(FROM.into()),
            &IpAddress::Ipv4(TO.into()),
            checksums,
        );
        bytes
    }

    fn frame(payload: &[u8], checksums: &ChecksumCapabilities) -> Vec<u8> {
        frame_of(&TcpRepr { payload, ..SEGMENT }, checksums)
    }

    /// What a device does with NEEDS_CSUM: sum from csum_start to the end, put the complement in place.
    fn complete(frame: &mut [u8], header: &Header) {
        let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
        let mut sum = 0_u32;
        for pair in frame[start..].chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        frame[start + offset..start + offset + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    }

    #[test]
    fn a_device_completes_the_checksum_that_is_left_to_it() {
        for payload in [&b""[..], b"x", b"some payload", &[0xff; 1001]] {
            let mut left = frame(payload, &ChecksumCapabilities::ignored());
            let header = prepare_transmit(&mut left, None);
            complete(&mut left, &header);
            assert_eq!(left, frame(payload, &ChecksumCapabilities::default()));
        }
    }

    #[test]
    fn only_a_frame_longer_than_a_segment_is_cut() {
        let mut long = frame(&[1; 3000], &ChecksumCapabilities::ignored());
        let header = prepare_transmit(&mut long, NonZeroU16::new(1460));
        assert_eq!((header.gso_type, header.gso_size, header.hdr_len), (GSO_TCPV4, 1460, 54));
        let mut short = frame(&[1; 1460], &ChecksumCapabilities::ignored());
        assert_eq!(prepare_transmit(&mut short, NonZeroU16::new(1460)).gso_type, GSO_NONE);
    }

    #[test]
    fn what_is_not_tcp_passes_untouched() {
        let mut arp = vec![0; 42];
        arp[12..14].copy_from_slice(&[8, 6]);
        let before = arp.clone();
        assert_eq!(prepare_transmit(&mut arp, None).flags, 0);
        assert_eq!(arp, before);
        assert_eq!(check_received(&Header::default(), &mut arp), Ok(()));
    }

    #[test]
    fn a_wrong_checksum_is_refused_unless_somebody_vouches_for_it() {
        let mut bad = frame(b"payload", &ChecksumCapabilities::default());
        assert_eq!(check_received(&Header::default(), &mut bad), Ok(()));
        *bad.last_mut().expect("not empty") ^= 1;
        assert_eq!(check_received(&Header::default(), &mut bad), Err(Refused::Checksum));
        let valid = Header { flags: DATA_VALID, ..Header::default() };
        assert_eq!(check_received(&valid, &mut bad), Ok(()));
    }

    #[test]
    fn a_checksum_that_is_still_to_be_made_and_that_the_stack_verifies_is_made() {
        // A DHCP server on the machine whose TAP this is: its UDP is left with the pseudo-header's sum.
        for payload in [&b"dhcp"[..], b"offer", &[0xff; 301]] {
            let udp = UdpRepr { src_port: 67, dst_port: 68 };
            let length = udp.header_len() + payload.len();
            let ip = Ipv4Repr {
                src_addr: FROM.into(),
                dst_addr: TO.into(),
                next_header: IpProtocol::Udp,
                payload_len: length,
                hop_limit: 64,
            };
            let mut whole = vec![0; 14 + 20 + length];
            let mut ethernet = EthernetFrame::new_unchecked(&mut whole);
            ethernet.set_ethertype(EthernetProtocol::Ipv4);
            let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
            ip.emit(&mut packet, &ChecksumCapabilities::default());
            udp.emit(
                &mut UdpPacket::new_unchecked(packet.payload_mut()),
                &IpAddress::Ipv4(FROM.into()),
                &IpAddress::Ipv4(TO.into()),
                payload.len(),
                |bytes| bytes.copy_from_slice(payload),
                &ChecksumCapabilities::default(),
            );
            let mut left = whole.clone();
            let mut sum = 17 + length as u32;
            for pair in whole[26..34].as_chunks::<2>().0 {
                sum += u32::from(u16::from_be_bytes(*pair));
            }
            left[40..42].copy_from_slice(&(((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
            let header = Header { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..Header::default() };
            assert_eq!(check_received(&header, &mut left), Ok(()));
            assert_eq!(left, whole);
        }
    }

    #[test]
    fn a_header_that_points_outside_its_frame_is_refused() {
        let mut good = frame(b"payload", &ChecksumCapabilities::default());
        let end = u16::try_from(good.len()).expect("short");
        for (csum_start, csum_offset) in [(end, 0), (end - 1, 0), (0xffff, 0xffff), (34, end)] {
            let header = Header { flags: NEEDS_CSUM, csum_start, csum_offset, ..Header::default() };
            assert_eq!(check_received(&header, &mut good), Err(Refused::Header));
        }
        for gso_type in [GSO_TCPV4, 3, 4, 5, 0x7f] {
            let header = Header { gso_type, gso_size: 0, ..Header::default() };
            assert_eq!(
                check_received(&header, &mut good),
                Err(Refused::Header),
                "type {gso_type} without size"
            );
        }
    }

    #[test]
    fn headers_survive_the_wire() {
        let header = Header {
            flags: 1,
            gso_type: 1,
            hdr_len: 54,
            gso_size: 1460,
            csum_start: 34,
            csum_offset: 16,
            num_buffers: 2,
        };
        assert_eq!(Header::parse(&header.emit()), Some(header));
        assert_eq!(Header::parse(&header.emit()[..10]).map(|header| header.num_buffers), Some(1));
        assert_eq!(Header::parse(&[0; 9]), None);
    }
}
