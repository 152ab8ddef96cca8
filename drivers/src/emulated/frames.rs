//! Frames, and how a NIC of any kind is given them and asked for them: for the tests of all kinds.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use network_nic::{Instant, Nic, PacketMeta, RxToken as _, TxToken as _};

pub(crate) fn at(milliseconds: i64) -> Instant {
    Instant::from_millis(milliseconds)
}

/// An Ethernet frame of no protocol we know, with a number in it.
pub(crate) fn frame(number: u16, length: usize) -> Vec<u8> {
    let mut frame = vec![0; length];
    (0_u8..=255).cycle().zip(frame.chunks_mut(7)).for_each(|(number, bytes)| bytes.fill(number));
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[length - 2..].copy_from_slice(&number.to_be_bytes());
    frame
}

/// A TCP segment over IPv4 with `payload` bytes: TCP's checksum left out, and some other of the header.
pub(crate) fn segment(payload: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; 54 + payload];
    let total = u16::try_from(40 + payload).expect("short").to_be_bytes();
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14..34].copy_from_slice(&[
        0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, 6, 0x12, 0x34, 10, 0, 0, 1, 10, 0, 0, 2,
    ]);
    frame[34..54].copy_from_slice(&[0, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 0, 9, 0, 0, 0, 0]);
    frame
}

/// The next frame.
pub(crate) fn receive(nic: &mut impl Nic, now: Instant) -> Option<Vec<u8>> {
    let waits = nic.waits();
    let (token, _) = nic.receive(now)?;
    assert!(waits, "who asks before would have missed it");
    Some(token.consume(<[u8]>::to_vec))
}

/// Whether there was room for it.
pub(crate) fn send(nic: &mut impl Nic, frame: &[u8], now: Instant) -> bool {
    let Some(token) = nic.transmit(now) else { return false };
    token.consume(frame.len(), |bytes| bytes.copy_from_slice(frame));
    true
}

/// The same, to be cut by the NIC into segments of so many bytes.
pub(crate) fn send_cut(nic: &mut impl Nic, frame: &[u8], segment: u16, now: Instant) -> bool {
    let Some(mut token) = nic.transmit(now) else { return false };
    let mut meta = PacketMeta::default();
    meta.segmentation_offload_size = NonZeroU16::new(segment);
    token.set_meta(meta);
    token.consume(frame.len(), |bytes| bytes.copy_from_slice(frame));
    true
}

/// No faults.
pub(crate) fn nothing() -> Vec<String> {
    Vec::new()
}
