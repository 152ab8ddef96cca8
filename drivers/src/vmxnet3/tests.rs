//! The NIC against an emulated device, honest and not.

use super::*;
use crate::emulated::frames::{at, frame, nothing, receive, segment, send, send_cut};
use crate::emulated::hostile::play_by_chance;
use crate::emulated::vmxnet3::{Emulated, Sent, VOUCHED, WHOLE};
use alloc::vec::Vec;
use kernel_io::emulated::{claims, faults, limit_memory};
use network_nic::Device as _;

/// Enough for long frames, and for short ones only.
const MUCH: usize = 4 << 20;
const LITTLE: usize = 64 << 10;
const NOT_CHECKED: u32 = 1 << 30;
/// Command: it neither reaches memory nor raises its line.
const HELD: u16 = 1 << 10;

fn deliver(device: &Emulated, frame: &[u8]) -> bool {
    device.deliver(frame, WHOLE | NOT_CHECKED, 0)
}

#[test]
fn frames_go_both_ways_unchanged_many_times_around_the_rings() {
    let device = Emulated::new();
    let mut nic = device.driver(LITTLE, 2).expect("an honest device");
    assert_eq!(nic.mac(), [0, 0x50, 0x56, 0, 0, 1]);
    for number in 0..if cfg!(miri) { 100 } else { 3000 } {
        let out = frame(number, 60);
        assert!(send(&mut nic, &out, at(0)));
        nic.flush();
        assert!(!nic.has_sent(), "the device has it still");
        let sent = device.sent().expect("a frame");
        assert!(nic.has_sent());
        assert_eq!((sent.frame, sent.offload, sent.pieces), (out, 0, 1));
        let back = frame(number, 16 + usize::from(number) % 1500);
        assert!(deliver(&device, &back));
        assert_eq!(receive(&mut nic, at(0)), Some(back));
        assert_eq!(receive(&mut nic, at(0)), None);
        assert_eq!(device.told()[1], 1);
    }
    assert_eq!((nic.counters().dropped, nic.counters().resets, faults()), (0, 0, nothing()));
}

#[test]
fn a_batch_is_one_notification_and_receive_buffers_are_told_of_only_who_asks() {
    for wants_told in [false, true] {
        let device = Emulated::new();
        device.change(|manner| manner.wants_told = wants_told);
        let mut nic = device.driver(LITTLE, 2).expect("an honest device");
        assert_eq!(device.told(), [1, 0]);
        for number in 0..10 {
            assert!(send(&mut nic, &frame(number, 60), at(0)));
        }
        assert_eq!(device.told(), [0, 0]);
        nic.flush();
        nic.flush();
        assert_eq!(device.told(), [2 * u64::from(wants_told), 1]);
    }
}

#[test]
fn a_long_segment_is_described_in_pieces_as_vmware_wants_it() {
    let device = Emulated::new();
    let mut nic = device.driver(MUCH, 2).expect("an honest device");
    assert!(nic.capabilities().segmentation.tcpv4.is_some());
    let rounds = if cfg!(miri) { 2 } else { 300 };
    for payload in [1, 1460, 1461, 16384 - 54, 16384 - 53, 65495].repeat(rounds) {
        let out = segment(payload);
        assert!(send_cut(&mut nic, &out, 1460, at(0)));
        nic.flush();
        let sent = device.sent().expect("a frame");
        let cut = payload > 1460;
        let offload = if cut { (3, 54, 1460) } else { (2, 34, 50) };
        assert_eq!((sent.offload, sent.header, sent.segment), offload);
        assert_eq!((sent.frame.len(), sent.pieces), (out.len(), out.len().div_ceil(16384)));
        // The sum over addresses and protocol, over the length only where it is that of the segment.
        let mut sum = 6 + 2 * 0x0a00 + 1 + 2 + if cut { 0 } else { 20 + payload };
        sum = (sum & 0xffff) + (sum >> 16);
        assert_eq!(sent.frame[50..52], (sum as u16).to_be_bytes());
        assert_eq!(sent.frame[24..26], if cut { [0, 0] } else { [0x12, 0x34] });
        assert_eq!((&sent.frame[26..50], &sent.frame[52..]), (&out[26..50], &out[52..]));
    }
    assert_eq!(faults(), nothing());
}

#[test]
fn a_wrong_checksum_passes_only_if_the_device_vouches_for_it() {
    let device = Emulated::new();
    let mut nic = device.driver(LITTLE, 2).expect("an honest device");
    let wrong = segment(100);
    assert!(device.deliver(&wrong, WHOLE, VOUCHED));
    assert_eq!(receive(&mut nic, at(0)), Some(wrong.clone()));
    let fragment = 1 << 22;
    for (first, last) in [
        (WHOLE | NOT_CHECKED, VOUCHED),
        (WHOLE, VOUCHED | fragment),
        (WHOLE, VOUCHED & !(1 << 16)),
        (WHOLE, VOUCHED & !(1 << 18)),
        (WHOLE, VOUCHED & !(1 << 21)),
    ] {
        assert!(device.deliver(&wrong, first, last));
        assert_eq!(receive(&mut nic, at(0)), None, "{first:#x} {last:#x}");
    }
    assert_eq!((nic.counters().dropped, nic.counters().resets), (5, 0));
}

#[test]
fn frames_that_are_none_are_dropped_and_their_buffers_given_back() {
    let device = Emulated::new();
    let mut nic = device.driver(LITTLE, 2).expect("an honest device");
    let count = device.buffers();
    let rounds = if cfg!(miri) { 3 } else { 20 };
    let bad = [(1 << 14, 60), (1 << 15, 60), (0, 60), (WHOLE, 0), (WHOLE, 13), (WHOLE, 60 | 1 << 14)];
    for (first, third) in bad.repeat(rounds) {
        let (index, ..) = device.take().expect("a buffer");
        device.complete_receive([index | first, 0, third, 0]);
        assert_eq!(receive(&mut nic, at(0)), None);
    }
    assert_eq!(
        (device.buffers(), nic.counters().dropped, nic.counters().resets),
        (count, 6 * rounds as u64, 0)
    );
    assert!(deliver(&device, &frame(1, 60)) && receive(&mut nic, at(0)) == Some(frame(1, 60)));
    assert_eq!(faults(), nothing());
}

#[test]
fn every_lie_is_a_reset_after_which_it_works_again() {
    let lies: [fn(&Emulated); 8] = [
        // Never given, out of range, of a ring that is not there, too long.
        |device| device.complete_receive([31 | WHOLE, 0, 60, 0]),
        |device| device.complete_receive([0xfff | WHOLE, 0, 60, 0]),
        |device| device.complete_receive([1 << 16 | WHOLE, 0, 60, 0]),
        |device| device.complete_receive([WHOLE, 0, 1519, 0]),
        // Twice.
        |device| {
            device.complete_receive([2 | WHOLE, 0, 60, 0]);
            device.complete_receive([2 | WHOLE, 0, 60, 0]);
        },
        // Sent what was not to be sent; the second before the first; what does not exist.
        |device| device.complete_send(30),
        |device| device.complete_send(1),
        |device| device.complete_send(0xfff),
    ];
    for (number, lie) in lies.into_iter().enumerate() {
        let device = Emulated::new();
        let mut nic = device.driver(LITTLE, 2).expect("it behaves at first");
        let count = device.buffers();
        let mut room = 0;
        while send(&mut nic, &frame(9, 60), at(0)) {
            room += 1;
        }
        if number < 5 {
            while let Some(sent) = device.take_sent() {
                device.complete_send(sent.index);
            }
        }
        lie(&device);
        for _ in 0..2 {
            receive(&mut nic, at(0));
        }
        assert_eq!((nic.counters().resets, device.resets()), (1, 1), "lie {number}");
        assert_eq!(device.buffers(), count, "lie {number}");
        for number in 0..room {
            assert!(send(&mut nic, &frame(number, 60), at(0)));
        }
        assert!(!send(&mut nic, &frame(0, 60), at(0)));
        for number in 0..room {
            assert_eq!(device.sent().map(|sent| sent.frame), Some(frame(number, 60)));
        }
        assert!(deliver(&device, &frame(3, 60)) && receive(&mut nic, at(0)) == Some(frame(3, 60)));
        assert_eq!(faults(), nothing());
    }
}

#[test]
fn buffers_may_come_back_in_another_order_but_none_may_be_kept_for_ever() {
    let device = Emulated::new();
    let mut nic = device.driver(LITTLE, 2).expect("an honest device");
    let back = |(index, address, _): (u32, u64, usize)| {
        kernel_io::emulated::write_memory(address, &frame(7, 60)).expect("a buffer");
        device.complete_receive([index | WHOLE | NOT_CHECKED, 0, 60, 0]);
    };
    for _ in 0..if cfg!(miri) { 10 } else { 100 } {
        let (first, second) = (device.take().expect("a buffer"), device.take().expect("another"));
        back(second);
        back(first);
        assert_eq!(receive(&mut nic, at(0)), Some(frame(7, 60)));
        assert_eq!(receive(&mut nic, at(0)), Some(frame(7, 60)));
    }
    assert_eq!(nic.counters().resets, 0);
    device.take().expect("the one that is kept");
    for _ in 0..100 {
        if nic.counters().resets == 0 {
            back(device.take().expect("it is reset before it has none"));
            receive(&mut nic, at(0));
        }
    }
    assert_eq!((nic.counters().resets, faults()), (1, nothing()));
}

#[test]
fn an_armed_nic_interrupts_once_and_only_for_what_it_waits_for() {
    for (interrupts, masked_by_driver) in [(0, false), (0, true), (1, false), (2, false), (2, true)] {
        let device = Emulated::new();
        device.change(|manner| manner.masked_by_driver = masked_by_driver);
        let mut nic = device.driver(LITTLE, interrupts).expect("an honest device");
        assert!(!nic.arm());
        assert!(deliver(&device, &frame(1, 60)));
        assert_eq!(device.raised(), [1, 0]);
        assert!(nic.arm(), "it waits");
        assert_eq!(receive(&mut nic, at(0)), Some(frame(1, 60)));
        // Full: what is sent wakes the machine then.
        while send(&mut nic, &frame(2, 60), at(0)) {}
        nic.flush();
        assert!(!nic.arm() && nic.waits());
        assert!(device.sent().is_some());
        let second = u64::from(interrupts == 2);
        assert_eq!(device.raised(), [1 - second, second]);
        assert!(nic.arm() && send(&mut nic, &frame(2, 60), at(0)));
        // Of a line each of them is told, for it may be others' as well; of messages none.
        assert!(!nic.arm());
        assert_eq!(claims(), if interrupts == 0 { 2 } else { 0 });
        device.change(|manner| manner.gone = true);
        nic.arm();
        assert_eq!(claims(), 0);
    }
}

#[test]
fn events_are_looked_at_and_a_queue_that_has_stopped_is_a_reset() {
    let device = Emulated::new();
    let mut nic = device.driver(LITTLE, 2).expect("an honest device");
    assert!(nic.link && !nic.arm());
    device.change(|manner| manner.link = false);
    device.happen(4 | 1 << 20);
    assert!(!nic.arm() && !nic.link && !nic.arm());
    // An event of an error without one.
    device.happen(3);
    assert!(!nic.arm());
    device.stop_queue();
    assert!(nic.arm() && nic.waits());
    assert_eq!(receive(&mut nic, at(0)), None);
    assert_eq!((nic.counters().resets, device.is_running(), nic.arm()), (1, true, false));
}

#[test]
fn a_device_that_only_lies_gets_a_rest() {
    let device = Emulated::new();
    let mut nic = device.driver(LITTLE, 2).expect("it behaves at first");
    for time in 0..20 {
        device.complete_receive([0xfff, 0, 0, 0]);
        receive(&mut nic, at(2000 + time));
    }
    assert_eq!((nic.counters().resets, device.is_running(), device.bus()), (9, false, HELD));
    assert!(!nic.arm() && nic.waits() && nic.transmit(at(2999)).is_none());
    assert_eq!(nic.rests_until(), Some(at(3000)));
    assert!(nic.transmit(at(3000)).is_some() && device.is_running() && device.bus() == 4);
    assert!(deliver(&device, &frame(3, 60)) && receive(&mut nic, at(3001)) == Some(frame(3, 60)));
}

#[test]
fn a_device_that_does_not_start_again_is_stopped_and_tried_again_later() {
    let device = Emulated::new();
    let mut nic = device.driver(LITTLE, 2).expect("it behaves at first");
    device.change(|manner| manner.refuses = true);
    device.complete_receive([0xfff, 0, 0, 0]);
    assert_eq!(receive(&mut nic, at(0)), None);
    assert!(nic.transmit(at(999)).is_none() && !device.is_running() && device.bus() == HELD);
    assert!(nic.transmit(at(1000)).is_none() && nic.transmit(at(2999)).is_none());
    device.change(|manner| manner.refuses = false);
    assert!(nic.transmit(at(3000)).is_some() && device.is_running());
    assert!(deliver(&device, &frame(3, 60)) && receive(&mut nic, at(3001)) == Some(frame(3, 60)));
    assert_eq!((nic.counters().resets, faults()), (1, nothing()));
}

#[test]
fn a_device_that_is_gone_is_given_up_and_keeps_its_memory() {
    let device = Emulated::new();
    let mut nic = device.driver(LITTLE, 2).expect("it behaves at first");
    let (_, stolen, _) = device.take().expect("a buffer");
    device.complete_receive([0xfff, 0, 0, 0]);
    device.change(|manner| manner.gone = true);
    assert_eq!(receive(&mut nic, at(0)), None);
    for time in 0..if cfg!(miri) { 100 } else { 3000 } {
        assert!(receive(&mut nic, at(time)).is_none() && nic.transmit(at(time)).is_none());
    }
    nic.flush();
    assert!(!nic.arm());
    assert_eq!(device.bus(), 1 << 10, "it neither reaches memory nor raises its line");
    drop(nic);
    kernel_io::emulated::write_memory(stolen, &[0; 60]).expect("it is still lent");
    assert_eq!(faults(), nothing());
}

#[test]
fn what_cannot_be_brought_up_is_refused() {
    let refused = |change: fn(&mut crate::emulated::vmxnet3::Manner)| {
        let device = Emulated::new();
        device.change(change);
        let error = device.driver(LITTLE, 2).err();
        assert!(!device.is_running());
        error.expect("it is refused")
    };
    assert!(matches!(refused(|manner| manner.revisions = 2), Error::Unsupported(_)));
    assert!(matches!(refused(|manner| manner.gone = true), Error::Layout(_)));
    assert!(matches!(refused(|manner| manner.mac = [1, 0, 0, 0, 0, 1]), Error::Layout(_)));
    assert!(matches!(refused(|manner| manner.mac = [0; 6]), Error::Layout(_)));
    assert_eq!(refused(|manner| manner.refuses = true), Error::Features);
    let device = Emulated::new();
    limit_memory(8 << 10);
    assert_eq!(device.driver(LITTLE, 2).err(), Some(Error::Io(kernel_io::Error::OutOfMemory)));
}

#[test]
fn whatever_a_device_does_the_driver_neither_stops_nor_loses_its_buffers() {
    let (seeds, steps) = if cfg!(miri) { (2, 100) } else { (30, 3000) };
    play_by_chance(hostile::play, seeds, steps, 50);
}

#[test]
fn nothing_of_what_is_sent_is_lost_when_all_buffers_are_in_use() {
    let device = Emulated::new();
    let mut nic = device.driver(if cfg!(miri) { LITTLE } else { MUCH }, 2).expect("an honest device");
    let mut count = 0;
    while send(&mut nic, &frame(count, 60), at(0)) {
        count += 1;
    }
    let frames: Vec<Sent> = core::iter::from_fn(|| device.sent()).collect();
    assert_eq!(frames.len(), usize::from(count));
    assert!(frames.iter().zip(0..).all(|(sent, number)| sent.frame == frame(number, 60)));
    assert!(send(&mut nic, &frame(0, 60), at(0)));
}
