//! Segments that others have overtaken.
//!
//! A segment that was under way for long acknowledges what a later one, which came before it, has acknowledged already.
//! smoltcp throws it away for that, data and all (its issue 12), and the peer sends the data again when its patience
//! ends: a second without progress, wherever frames are reordered and both sides send. By RFC 9293 section 3.10.7.4 such
//! an acknowledgement is ignored and the data are taken. So it is renewed before smoltcp sees it, if it is not older than
//! RFC 5961 section 5.2 allows: by more than what we may have had under way.

use crate::sockets::Acknowledgement;
use alloc::vec::Vec;

/// Where a TCP header begins in a frame without IP options, and where in it acknowledgement, window and checksum are.
const TCP: usize = 14 + 20;
const NUMBER: usize = 8;
const WINDOW: usize = 14;
const CHECKSUM: usize = 16;

/// `frame`, a TCP segment, with another acknowledgement. Its checksum is right if it was before. `None` without memory.
pub(crate) fn renewed(frame: &[u8], acknowledgement: Acknowledgement) -> Option<Vec<u8>> {
    let mut renewed = Vec::new();
    renewed.try_reserve_exact(frame.len()).ok()?;
    renewed.extend_from_slice(frame);
    let header = renewed.get_mut(TCP..)?.first_chunk_mut::<20>()?;
    let word = |header: &[u8; 20], at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let Acknowledgement { number, window } = acknowledgement;
    // RFC 1624: the sum, less what was there, plus what is.
    let mut sum = u32::from(!word(header, CHECKSUM));
    for (at, new) in [(NUMBER, (number >> 16) as u16), (NUMBER + 2, number as u16), (WINDOW, window)] {
        sum += u32::from(!word(header, at)) + u32::from(new);
        header[at..at + 2].copy_from_slice(&new.to_be_bytes());
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    header[CHECKSUM..CHECKSUM + 2].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    Some(renewed)
}

#[cfg(test)]
mod tests {
    use super::{Acknowledgement, renewed};
    use smoltcp::wire::{Ipv4Packet, TcpPacket};

    #[test]
    fn a_renewed_segment_differs_in_nothing_else_and_its_checksum_is_right() {
        for (number, window) in
            [(0, 0), (1, 100), (0xffff, 0xffff), (0x1_0000, 1), (0x8000_0000, 0xfffe), (u32::MAX, 7)]
        {
            let frame = crate::tests::gate::syn_from("10.77.0.1");
            let renewed = renewed(&frame, Acknowledgement { number, window }).expect("memory");
            let packet = Ipv4Packet::new_checked(&renewed[14..]).expect("a packet");
            let tcp = TcpPacket::new_checked(packet.payload()).expect("a segment");
            assert_eq!((tcp.ack_number().0 as u32, tcp.window_len()), (number, window));
            assert!(tcp.verify_checksum(&packet.src_addr().into(), &packet.dst_addr().into()));
            let beside = |frame: &[u8]| [&frame[..42], &frame[46..48], &frame[52..]].concat();
            assert_eq!(beside(&frame), beside(&renewed));
        }
    }
}
