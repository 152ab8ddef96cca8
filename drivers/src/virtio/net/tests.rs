//! The NIC against an emulated device, honest and not.

use super::*;
use crate::emulated::frames::{at, frame, nothing, receive, segment, send};
use crate::emulated::hostile::play_by_chance;
use crate::emulated::{Emulated, Misbehaviour};
use alloc::vec;
use alloc::vec::Vec;
use core::num::NonZeroU16;
use kernel_io::emulated::{faults, limit_memory};
use network_nic::{Device as _, PacketMeta, TxToken as _};

const MODERN: u64 = feature::VERSION_1 | feature::EVENT_IDX | feature::NET_MAC | feature::NET_MTU;
const OFFLOADS: u64 =
    feature::NET_CSUM | feature::NET_GUEST_CSUM | feature::NET_HOST_TSO4 | feature::NET_GUEST_TSO4;
/// Enough for long frames, and for short ones only.
const MUCH: usize = if cfg!(miri) { 1280 << 10 } else { 4 << 20 };
const LITTLE: usize = 64 << 10;
/// How many of something, where Miri takes its time.
const MANY: u16 = if cfg!(miri) { 10 } else { 1000 };
const AROUND: u32 = if cfg!(miri) { 50 } else { 2 * 65536 + 1001 };

/// What the device puts in front of a frame when there is nothing to say.
fn bare(frame: &[u8]) -> Vec<u8> {
    [&[0; HEADER_LEN], frame].concat()
}

#[test]
fn frames_go_both_ways_unchanged() {
    for features in [MODERN, MODERN | OFFLOADS, feature::VERSION_1 | feature::NET_MAC] {
        let device = Emulated::nic(features);
        let mut nic = device.driver(MUCH).expect("an honest device");
        assert_eq!((nic.mac(), device.accepted()), ([0x52, 0x54, 0, 0, 0, 1], features));
        for number in 0..MANY {
            let out = frame(number, 60);
            assert!(send(&mut nic, &out, at(0)));
            nic.flush();
            assert!(!nic.has_sent(), "the device has it still");
            assert_eq!(device.sent(), Some(bare(&out)));
            assert!(nic.has_sent());
            let back = frame(number, 16 + usize::from(number));
            assert!(device.deliver(&bare(&back)));
            assert_eq!(receive(&mut nic, at(0)), Some(back));
            assert_eq!(receive(&mut nic, at(0)), None);
        }
        let counters = Counters { received: MANY.into(), sent: MANY.into(), dropped: 0, resets: 0 };
        assert_eq!((nic.counters(), faults()), (counters, nothing()));
    }
}

#[test]
fn twice_sixteen_bits_of_packets_go_by_while_both_sides_sleep_whenever_they_can() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("an honest device");
    let mut received = 0_u64;
    for number in 0..AROUND {
        let number = number as u16;
        assert!(!device.sleep(1), "nothing to send");
        assert!(send(&mut nic, &frame(number, 60), at(0)));
        nic.flush();
        assert_eq!(device.kicks(1), 1, "the device sleeps: {number}");
        assert_eq!(device.sent(), Some(bare(&frame(number, 60))));
        assert!(!nic.arm(), "nothing to receive");
        assert!(device.deliver(&bare(&frame(number, 60))));
        assert!(nic.arm(), "something to receive");
        received += u64::from(receive(&mut nic, at(0)) == Some(frame(number, 60)));
    }
    assert_eq!((received, nic.counters().received), (AROUND.into(), AROUND.into()));
    assert_eq!(faults(), nothing());
}

#[test]
fn a_batch_is_one_notification() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("an honest device");
    device.sleep(1);
    for number in 0..10 {
        assert!(send(&mut nic, &frame(number, 60), at(0)));
    }
    assert_eq!(device.kicks(1), 0);
    nic.flush();
    nic.flush();
    assert_eq!((device.kicks(1), device.available(1)), (1, 10));
}

#[test]
fn all_receive_buffers_are_at_the_device_and_come_back_to_it() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("an honest device");
    let count = device.available(0);
    assert_eq!(count, 21);
    for round in 0..if cfg!(miri) { 2 } else { 5 } {
        for number in 0..count as u16 {
            assert!(device.deliver(&bare(&frame(number, 60))), "{round}");
        }
        assert!(!device.deliver(&bare(&frame(0, 60))), "there are no more");
        // A token that is not used gives its buffer back as well.
        drop(nic.receive(at(0)));
        while receive(&mut nic, at(0)).is_some() {}
        assert_eq!(device.available(0), count);
    }
    assert_eq!(faults(), nothing());
}

#[test]
fn a_full_transmit_queue_gives_no_token_until_the_device_has_sent() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("an honest device");
    let mut sent = 0;
    while send(&mut nic, &frame(sent, 60), at(0)) {
        sent += 1;
    }
    assert_eq!(sent, 21);
    assert!(device.deliver(&bare(&frame(0, 60))));
    assert_eq!(receive(&mut nic, at(0)), None, "there would be no room for an answer");
    nic.flush();
    let chains: Vec<_> = core::iter::from_fn(|| device.take(1)).collect();
    assert_eq!(receive(&mut nic, at(0)), None);
    // A frame waits that it cannot take: it sleeps nevertheless, and hears of the room.
    assert!(!nic.arm());
    for (count, chain) in chains.iter().enumerate() {
        device.put(1, chain, 0);
        assert!(count > 0 || nic.arm());
    }
    assert_eq!(receive(&mut nic, at(0)), Some(frame(0, 60)));
    assert!(send(&mut nic, &frame(0, 60), at(0)));
    assert_eq!(faults(), nothing());
}

#[test]
fn a_checksum_that_a_device_vouches_for_unasked_is_made_again_by_the_stack() {
    // Linux's TAPs say so of what came from a NIC that has verified it, whatever was agreed.
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(MUCH).expect("an honest device");
    assert!(nic.capabilities().checksum.tcp.rx());
    assert!(device.deliver(&[&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &segment(50)[..]].concat()));
    assert_eq!(receive(&mut nic, at(0)), Some(segment(50)));
}

#[test]
fn room_for_sending_wakes_a_driver_that_waits_for_nothing_else() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("an honest device");
    while send(&mut nic, &frame(0, 60), at(0)) {}
    nic.flush();
    assert!(!nic.arm());
    let mut woken = 0;
    while let Some(chain) = device.take(1) {
        device.put(1, &chain, 0);
        woken += u32::from(nic.device.acknowledge().queues);
    }
    assert_eq!(woken, 1, "once, when half is sent");
    // Whoever looks at what waits sees to the room by that, and sleeps then.
    assert!(nic.arm() && nic.waits());
    assert_eq!(receive(&mut nic, at(0)), None);
    assert!(!nic.waits() && !nic.arm());
    assert!(send(&mut nic, &frame(0, 60), at(0)));
}

#[test]
fn segments_that_wait_come_as_one_and_what_does_not_follow_comes_after_them() {
    let device = Emulated::nic(MODERN | OFFLOADS);
    let mut nic = device.driver(MUCH).expect("an honest device");
    let numbered = |sequence: u8| {
        let mut frame = segment(50);
        (frame[24], frame[25], frame[41]) = (0x26, 0x9c, sequence);
        frame
    };
    // The device has looked at the checksum of TCP.
    let deliver =
        |sequence| device.deliver(&[&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0], &numbered(sequence)[..]].concat());
    for _ in 0..MANY / 10 {
        assert!([0, 50, 100, 7, 57].into_iter().all(deliver));
        let lengths = [(); 3].map(|()| receive(&mut nic, at(0)).map(|frame| (frame[41], frame.len())));
        assert_eq!(lengths, [Some((0, 204)), Some((7, 154)), None]);
        assert!(!nic.arm());
        nic.flush();
    }
    // One that is held back wakes the machine as one does that waits.
    assert!(deliver(0) && deliver(9));
    assert!(receive(&mut nic, at(0)).is_some() && nic.arm());
    device.need_reset();
    assert!(nic.arm() && receive(&mut nic, at(0)).is_some(), "what is here already comes before the reset");
    assert!(nic.arm() && receive(&mut nic, at(0)).is_none());
    assert_eq!((nic.counters().resets, nic.counters().dropped, faults()), (1, 0, nothing()));
}

#[test]
fn a_long_segment_is_cut_by_the_device_and_its_checksum_made_there() {
    let device = Emulated::nic(MODERN | OFFLOADS);
    let mut nic = device.driver(MUCH).expect("an honest device");
    let capabilities = nic.capabilities();
    assert_eq!(capabilities.segmentation.tcpv4.map(usize::from), Some(65549));
    assert!(
        !capabilities.checksum.tcp.tx() && !capabilities.checksum.tcp.rx() && capabilities.checksum.ipv4.tx()
    );
    let bytes = segment(20_000);
    let mut token = nic.transmit(at(0)).expect("room");
    let mut meta = PacketMeta::default();
    meta.segmentation_offload_size = NonZeroU16::new(1460);
    token.set_meta(meta);
    token.consume(bytes.len(), |frame| frame.copy_from_slice(&bytes));
    let sent = device.sent().expect("a frame");
    // NEEDS_CSUM, TCPV4, headers of 54, 1460 a segment, checksum from 34 at 16, no merged buffers.
    assert_eq!(sent[..12], [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0]);
    let sum = u16::from_be_bytes([sent[12 + 50], sent[12 + 51]]);
    assert_ne!(sum, 0, "the pseudo-header's sum stands in for the checksum");
    assert_eq!(sent[12..62], bytes[..50]);
    assert_eq!(sent[64..], bytes[52..]);
}

#[test]
fn without_offloads_the_stack_does_it_all() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(MUCH).expect("an honest device");
    let capabilities = nic.capabilities();
    assert!(capabilities.segmentation.tcpv4.is_none());
    assert!(capabilities.checksum.tcp.tx() && capabilities.checksum.tcp.rx());
    assert_eq!(capabilities.max_transmission_unit, 1514);
    let bytes = segment(100);
    assert!(send(&mut nic, &bytes, at(0)));
    assert_eq!(device.sent(), Some(bare(&bytes)));
    assert!(device.deliver(&bare(&bytes)));
    assert_eq!(receive(&mut nic, at(0)), Some(bytes), "the stack verifies it");
}

#[test]
fn a_legacy_device_gets_the_short_header_alone_if_it_wants() {
    for (features, parts) in [(0, 2), (feature::ANY_LAYOUT, 1)] {
        let device = Emulated::nic(features | feature::NET_MAC | feature::EVENT_IDX);
        device.describe(|description| description.legacy = true);
        let mut nic = device.driver(LITTLE).expect("an honest device");
        assert!(send(&mut nic, &frame(7, 60), at(0)));
        let chain = device.take(1).expect("a frame");
        assert_eq!(chain.parts.len(), parts);
        assert_eq!(chain.parts[0].1, if parts == 2 { 10 } else { 70 });
        assert_eq!(chain.read(), [&[0; LEGACY_HEADER_LEN], &frame(7, 60)[..]].concat());
        device.put(1, &chain, 0);
        assert!(device.deliver(&[&[0; LEGACY_HEADER_LEN], &frame(8, 60)[..]].concat()));
        assert_eq!(receive(&mut nic, at(0)), Some(frame(8, 60)));
        assert_eq!(faults(), nothing());
    }
}

#[test]
fn received_frames_that_cannot_be_are_dropped_and_nothing_else_is_lost() {
    let device = Emulated::nic(MODERN | OFFLOADS);
    let mut nic = device.driver(MUCH).expect("an honest device");
    let with = |header: [u8; 10], frame: &[u8]| [&header[..], &[0, 0], frame].concat();
    let mut wrong_sum = segment(50);
    wrong_sum[50] = 0x12;
    let long = frame(0, 1519);
    let bad: [(&str, Vec<u8>); 11] = [
        ("nothing", vec![]),
        ("half a header", vec![0; 11]),
        ("a header and no frame", vec![0; 12]),
        ("a runt", bare(&[0; 13])),
        ("longer than the network's", bare(&long)),
        ("a checksum nobody vouches for", bare(&wrong_sum)),
        ("segmentation of no known kind", with([1, 2, 54, 0, 0, 5, 34, 0, 16, 0], &segment(9000))),
        ("segmentation over IPv6", with([1, 4, 54, 0, 0, 5, 34, 0, 16, 0], &segment(9000))),
        ("segments of nothing", with([1, 1, 54, 0, 0, 0, 34, 0, 16, 0], &segment(9000))),
        ("a checksum outside", with([1, 0, 0, 0, 0, 0, 104, 0, 0, 0], &segment(50))),
        ("a checksum far outside", with([1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], &segment(50))),
    ];
    for (count, (what, bytes)) in bad.iter().enumerate() {
        assert!(device.deliver(bytes));
        let good = with([1, 1, 54, 0, 0, 5, 34, 0, 16, 0], &segment(9000));
        assert!(device.deliver(&good));
        assert_eq!(receive(&mut nic, at(0)), Some(segment(9000)), "{what}");
        assert_eq!(nic.counters().dropped, count as u64 + 1, "{what}");
    }
    assert_eq!((nic.counters().resets, faults()), (0, nothing()));
}

#[test]
fn what_was_not_agreed_is_not_believed() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(MUCH).expect("an honest device");
    for header in [[1, 0, 0, 0, 0, 0, 34, 0, 16, 0], [0, 1, 54, 0, 0, 5, 0, 0, 0, 0]] {
        assert!(device.deliver(&[&header[..], &[0, 0], &segment(50)].concat()));
        assert_eq!(receive(&mut nic, at(0)), None);
    }
    assert_eq!(nic.counters().dropped, 2);
}

#[test]
fn a_flood_of_bad_frames_does_not_hold_up_the_machine() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("an honest device");
    let rounds = device.available(0);
    for _ in 0..rounds {
        assert!(device.deliver(&[0; 3]));
    }
    assert_eq!(receive(&mut nic, at(0)), None);
    assert_eq!((nic.counters().dropped, device.available(0)), (rounds as u64, rounds));
    assert!(!nic.arm());
}

/// A lie about a queue: identifier, length, advance of the index.
const LIES: [(u32, u32, u16); 6] =
    [(9999, 0, 1), (u32::MAX, 0, 1), (0, 0, 999), (0, 0, 0x8000), (0, u32::MAX, 1), (0, 70_000, 1)];

#[test]
fn every_lie_of_either_ring_resets_the_device_and_traffic_goes_on() {
    for queue in [0, 1] {
        for (id, length, advance) in LIES {
            let device = Emulated::nic(MODERN | OFFLOADS);
            let mut nic = device.driver(MUCH).expect("it behaves at first");
            let (accepted, resets) = (device.accepted(), device.resets());
            // What was sent is looked at only when there is no room any more.
            while send(&mut nic, &frame(1, 60), at(0)) && queue == 1 {}
            nic.flush();
            device.lie(queue, id, length, advance);
            let lied = queue == 0 || length == 0;
            assert_eq!(receive(&mut nic, at(1)), None);
            // A length on the transmit queue says nothing, and nothing is done with it.
            assert_eq!(nic.counters().resets, u64::from(lied), "{queue} {id} {length} {advance}");
            if !lied {
                continue;
            }
            assert_eq!((device.resets(), device.accepted()), (resets + 2, accepted));
            assert!(device.is_running());
            while device.sent().is_some() {}
            assert!(device.deliver(&bare(&frame(3, 60))));
            assert_eq!(receive(&mut nic, at(2)), Some(frame(3, 60)));
            assert!(send(&mut nic, &frame(4, 60), at(2)));
            assert_eq!(faults(), nothing());
        }
    }
}

#[test]
fn a_buffer_returned_twice_is_a_lie() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("it behaves at first");
    while send(&mut nic, &frame(1, 60), at(0)) {}
    let chain = device.take(1).expect("a frame");
    device.put(1, &chain, 0);
    device.put(1, &chain, 0);
    assert_eq!(receive(&mut nic, at(0)), None);
    assert_eq!((nic.counters().resets, faults()), (1, nothing()));
}

#[test]
fn a_receive_buffer_returned_again_once_it_was_given_again_is_at_worst_a_bad_frame() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("it behaves at first");
    let chain = device.take(0).expect("a buffer");
    let written = chain.write(&bare(&frame(1, 60)));
    device.put(0, &chain, written);
    device.put(0, &chain, written);
    assert_eq!(receive(&mut nic, at(0)), Some(frame(1, 60)));
    assert_eq!(receive(&mut nic, at(0)), None);
    assert_eq!((nic.counters().dropped, nic.counters().resets, faults()), (1, 0, nothing()));
}

#[test]
fn a_device_that_only_lies_gets_a_rest() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("it behaves at first");
    for time in 0..if cfg!(miri) { 20 } else { 500 } {
        if device.is_running() {
            device.lie(0, 9999, 0, 1);
        }
        assert_eq!(receive(&mut nic, at(2000 + time)), None);
    }
    assert_eq!(nic.counters().resets, 9);
    assert!(!device.is_running() && !nic.arm(), "the machine may sleep");
    assert_eq!(nic.rests_until(), Some(at(3000)), "and nobody else would wake it");
    assert!(nic.transmit(at(2999)).is_none());
    assert!(nic.transmit(at(3000)).is_some() && device.is_running());
    assert!(device.deliver(&bare(&frame(3, 60))));
    assert_eq!(receive(&mut nic, at(3001)), Some(frame(3, 60)));
    assert_eq!(faults(), nothing());
}

#[test]
fn whatever_a_device_does_the_driver_neither_stops_nor_loses_its_buffers() {
    let (seeds, steps) = if cfg!(miri) { (2, 100) } else { (30, 2000) };
    play_by_chance(hostile::play, seeds, steps, 30);
}

#[test]
fn a_device_that_asks_for_a_reset_gets_one() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("an honest device");
    assert!(!nic.arm());
    device.need_reset();
    assert!(nic.arm(), "there is something to do");
    assert_eq!(receive(&mut nic, at(0)), None);
    assert!(device.is_running() && !nic.arm());
    assert_eq!(nic.counters().resets, 1);
}

#[test]
fn a_device_that_does_not_come_back_is_given_up_and_keeps_its_memory() {
    let device = Emulated::nic(MODERN);
    let mut nic = device.driver(LITTLE).expect("it behaves at first");
    let stolen = device.take(0).expect("a buffer");
    assert!(!nic.arm());
    device.lie(0, 9999, 0, 1);
    device.misbehave(Misbehaviour { stuck: true, ..Misbehaviour::default() });
    assert_eq!(receive(&mut nic, at(0)), None);
    for time in 0..10 * i64::from(MANY) {
        assert!(receive(&mut nic, at(time)).is_none() && nic.transmit(at(time)).is_none());
    }
    nic.flush();
    assert!(!nic.arm(), "the machine may sleep");
    assert!(!nic.device.acknowledge().queues, "which it does not while an interrupt has not been taken");
    drop(nic);
    stolen.write(b"late");
    assert_eq!(faults(), nothing(), "what a device has is nobody else's until it is reset");
}

#[test]
fn a_device_that_comes_back_as_another_is_given_up() {
    let device = Emulated::nic(MODERN | OFFLOADS);
    let mut nic = device.driver(MUCH).expect("it behaves at first");
    device.describe(|description| description.features &= !feature::NET_GUEST_CSUM);
    device.lie(1, 9999, 0, 1);
    while nic.transmit(at(0)).is_some_and(|token| token.consume(60, |_| true)) {}
    assert!(nic.transmit(at(5000)).is_none() && !nic.arm());
    drop(nic);
    assert_eq!(faults(), nothing());
}

#[test]
fn devices_that_cannot_be_used_are_refused_and_left_alone() {
    let refused = |change: fn(&Emulated)| {
        let device = Emulated::nic(MODERN | OFFLOADS);
        change(&device);
        let error = device.driver(MUCH).err();
        assert!(!device.is_running());
        error
    };
    assert_eq!(
        refused(|device| device.misbehave(Misbehaviour { stuck: true, ..Misbehaviour::default() })),
        Some(Error::Reset)
    );
    assert_eq!(
        refused(|device| device.misbehave(Misbehaviour { refuses: true, ..Misbehaviour::default() })),
        Some(Error::Features)
    );
    assert!(matches!(
        refused(|device| device.misbehave(Misbehaviour { restless: true, ..Misbehaviour::default() })),
        Some(Error::Layout(_))
    ));
    assert_eq!(
        refused(|device| device.describe(|it| it.features = feature::NET_MAC)),
        Some(Error::Features),
        "neither legacy nor modern"
    );
    assert_eq!(refused(|device| device.describe(|it| it.queues[1] = 0)), Some(Error::NoQueue(1)));
    assert_eq!(refused(|device| device.describe(|it| it.queues = vec![1, 256])), Some(Error::NoQueue(0)));
    assert!(matches!(
        refused(|device| device.describe(|it| it.configuration[0] |= 1)),
        Some(Error::Layout(_))
    ));
    assert!(matches!(
        refused(|device| device.describe(|it| it.configuration.truncate(5))),
        Some(Error::Layout(_))
    ));
    assert!(matches!(
        refused(|device| device.describe(|it| it.configuration[10..].fill(0))),
        Some(Error::Layout(_))
    ));
    assert!(matches!(
        refused(|device| device.describe(|it| it.features &= !feature::NET_MAC)),
        Some(Error::Unsupported(_))
    ));
}

#[test]
fn queues_of_odd_sizes_are_used_as_far_as_they_go() {
    for size in [2, 3, 5, 255, 65535, u32::MAX] {
        let device = Emulated::nic(MODERN);
        device.describe(|it| it.queues = vec![size, size]);
        let mut nic = device.driver(MUCH).expect("enough");
        assert!(device.available(0) >= 2 && device.available(0) <= size as usize);
        assert!(device.deliver(&bare(&frame(3, 60))));
        assert_eq!(receive(&mut nic, at(0)), Some(frame(3, 60)));
    }
}

#[test]
fn without_memory_there_is_an_error_and_no_nic() {
    let device = Emulated::nic(MODERN);
    limit_memory(30_000);
    assert_eq!(device.driver(LITTLE).err(), Some(Error::Io(kernel_io::Error::OutOfMemory)));
    assert!(!device.is_running());
}
