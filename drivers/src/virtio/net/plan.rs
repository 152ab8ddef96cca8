//! How many buffers of which size a NIC gets for the memory it may use.
//!
//! With segmentation offload a frame is up to 64 KiB, and buffers of that size are worth more than any number of small
//! ones. With little memory there are small buffers only, and received segments are not merged.

use super::super::feature;
use crate::nic::{ETHERNET, USUAL_MTU, tagged};

/// The least MTU that IPv4 networks have (RFC 791).
pub(super) const LEAST_MTU: usize = 576;
/// The longest IP packet, in an Ethernet frame.
const LONGEST_FRAME: usize = ETHERNET + 65535;
/// Bytes of the header in front of a frame, at most.
const HEADER: usize = network_nic::offload::HEADER_LEN;
/// What a device that merges segments wants room for, its header not counted (virtio 1.2 section 5.1.6.3.1). That is a byte
/// more than it can fill, and Firecracker puts nothing into less.
const LONGEST_RECEIVED: usize = 65562 - HEADER;
/// Long buffers make sense from so many on, and more than so many bring nothing.
const LONG_LEAST: usize = 8;
const LONG_MOST: usize = 64;
/// Lengths of segments that are handed to the device, longest first.
const SEGMENTS: [usize; 3] = [LONGEST_FRAME, 32 * 1024 - HEADER, 16 * 1024 - HEADER];
/// Short buffers: at least and at most.
const SHORT_LEAST: usize = 8;
const SHORT_MOST: usize = 256;

/// What is offered by the device and may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    /// The features of the device that this driver has.
    pub(crate) features: u64,
    /// The IP packet its network carries.
    pub(crate) mtu: usize,
    /// Frames that fit into the receive and the transmit queue.
    pub(crate) queues: [usize; 2],
}

/// Buffers of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Buffers {
    pub(crate) count: usize,
    /// The longest frame that fits.
    pub(crate) frame: usize,
}

impl Buffers {
    /// Bytes that one takes.
    pub(super) fn length(&self) -> usize {
        HEADER + self.frame
    }
}

/// The buffers of a NIC, and the features that make sense with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) features: u64,
    pub(crate) mtu: usize,
    pub(crate) receive: Buffers,
    pub(crate) transmit: Buffers,
}

/// Choose for a NIC that may use `memory` bytes.
pub(crate) fn plan(offer: &Offer, memory: usize) -> Plan {
    let (mut features, half) = (offer.features, memory / 2);
    let mtu = if room(tagged(offer.mtu), half) >= SHORT_LEAST {
        offer.mtu
    } else {
        // Packets of such a network cost more than there is: TCP's peers are told a smaller size.
        features &= !feature::NET_MTU;
        offer.mtu.min(USUAL_MTU)
    };
    let short = tagged(mtu);
    let cut = wants(features, feature::NET_HOST_TSO4, feature::NET_CSUM);
    let merged = wants(features, feature::NET_GUEST_TSO4, feature::NET_GUEST_CSUM);
    // Receiving long frames gains most. It may take more than half, as long as sending gets the least it needs.
    let least = if cut { SEGMENTS[SEGMENTS.len() - 1].max(short) } else { short };
    let share =
        memory.saturating_sub(LONG_LEAST * cost(least)).min(half.max(LONG_LEAST * cost(LONGEST_RECEIVED)));
    let receive = merged.then(|| long(LONGEST_RECEIVED, short, share, offer.queues[0])).flatten();
    if receive.is_none() {
        features &= !feature::NET_GUEST_TSO4;
    }
    let receive = receive.unwrap_or_else(|| all_short(short, half, offer.queues[0]));
    let rest = memory.saturating_sub(receive.count * cost(receive.frame));
    let longest = || SEGMENTS.iter().find_map(|&frame| long(frame, short, rest, offer.queues[1]));
    let transmit = cut.then(longest).flatten();
    if transmit.is_none() {
        features &= !feature::NET_HOST_TSO4;
    }
    let transmit = transmit.unwrap_or_else(|| all_short(short, rest, offer.queues[1]));
    Plan { features, mtu, receive, transmit }
}

/// Long frames, if they are longer than short ones and enough of them fit.
fn long(frame: usize, short: usize, memory: usize, queue: usize) -> Option<Buffers> {
    let count = room(frame, memory).min(LONG_MOST).min(queue);
    (frame > short && count >= LONG_LEAST.min(queue)).then_some(Buffers { count, frame })
}

fn all_short(frame: usize, memory: usize, queue: usize) -> Buffers {
    Buffers { count: room(frame, memory).clamp(SHORT_LEAST, SHORT_MOST).min(queue), frame }
}

/// Whether a feature is there with the one it needs (virtio 1.2 section 5.1.3.1).
fn wants(features: u64, feature: u64, needs: u64) -> bool {
    features & (feature | needs) == feature | needs
}

/// Bytes that a buffer for such a frame takes.
fn cost(frame: usize) -> usize {
    kernel_io::buffer_stride(HEADER + frame)
}

/// How many such buffers fit into `memory`.
fn room(frame: usize, memory: usize) -> usize {
    memory / cost(frame)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u64 = feature::NET_CSUM
        | feature::NET_GUEST_CSUM
        | feature::NET_HOST_TSO4
        | feature::NET_GUEST_TSO4
        | feature::NET_MTU;

    fn offer(features: u64, mtu: usize) -> Offer {
        Offer { features, mtu, queues: [256, 256] }
    }

    #[test]
    fn with_memory_both_directions_have_the_longest_frames() {
        let plan = plan(&offer(ALL, 1500), 16 << 20);
        assert_eq!(plan.features, ALL);
        assert_eq!(plan.receive, Buffers { count: 64, frame: 65550 });
        assert_eq!(plan.transmit, Buffers { count: 64, frame: 65549 });
    }

    #[test]
    fn what_is_planned_never_exceeds_the_memory_it_may_use() {
        for memory in (64..8192).step_by(if cfg!(miri) { 97 } else { 1 }).map(|kib| kib * 1024) {
            for mtu in [576, 1500, 9000, 65521] {
                let plan = plan(&offer(ALL, mtu), memory);
                let bytes = |buffers: Buffers| buffers.count * kernel_io::buffer_stride(buffers.length());
                assert!(bytes(plan.receive) + bytes(plan.transmit) <= memory, "{memory} {mtu}: {plan:?}");
                assert!(
                    plan.receive.frame >= plan.mtu + ETHERNET && plan.transmit.frame >= plan.mtu + ETHERNET
                );
                assert!(plan.mtu <= mtu);
            }
        }
    }

    #[test]
    fn receiving_long_frames_comes_before_sending_them() {
        let plan = plan(&offer(ALL, 1500), 704 * 1024);
        assert_eq!(plan.receive, Buffers { count: 8, frame: 65550 });
        assert_eq!(plan.transmit, Buffers { count: 8, frame: 16 * 1024 - 12 });
    }

    #[test]
    fn with_little_memory_nothing_is_merged_and_with_less_nothing_is_cut() {
        let little = plan(&offer(ALL, 1500), 512 * 1024);
        assert_eq!(
            little.features & (feature::NET_GUEST_TSO4 | feature::NET_HOST_TSO4),
            feature::NET_HOST_TSO4
        );
        assert_eq!((little.receive.frame, little.transmit.frame), (1518, 16 * 1024 - 12));
        let less = plan(&offer(ALL, 1500), 128 * 1024);
        assert_eq!(less.features & (feature::NET_GUEST_TSO4 | feature::NET_HOST_TSO4), 0);
        assert_eq!((less.receive.count, less.transmit.count), (42, 43));
    }

    #[test]
    fn a_feature_without_the_one_it_needs_is_not_used() {
        let plan = plan(&offer(feature::NET_HOST_TSO4 | feature::NET_GUEST_TSO4, 1500), 16 << 20);
        assert_eq!(plan.features, 0);
        assert_eq!((plan.receive.frame, plan.transmit.frame), (1518, 1518));
    }

    #[test]
    fn buffers_do_not_outnumber_descriptors() {
        let plan = plan(&Offer { features: 0, mtu: 1500, queues: [4, 2] }, 16 << 20);
        assert_eq!((plan.receive.count, plan.transmit.count), (4, 2));
    }
}
