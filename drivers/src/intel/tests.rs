//! The NIC against an emulated device, honest and not.

use super::*;
use crate::emulated::frames::{self, at, frame, nothing, segment, send, send_cut};
use crate::emulated::hostile::play_by_chance;
use crate::emulated::intel::{DONE, END, Emulated, IGNORE, Manner, VERIFIED};
use alloc::vec;
use alloc::vec::Vec;
use kernel_io::emulated::{claims, faults, limit_memory};
use network_nic::Device as _;

/// Enough for long frames, and for short ones only.
const MUCH: usize = 4 << 20;
const LITTLE: usize = 64 << 10;
/// One with a line, and one with a message.
const OLD: u16 = 0x100e;
const NEW: u16 = 0x10d3;
const WHOLE: u16 = DONE | END;

/// The next frame, whose buffer is given back at once.
fn receive(nic: &mut Intel, now: Instant) -> Option<Vec<u8>> {
    let frame = frames::receive(nic, now)?;
    nic.flush();
    Some(frame)
}

#[test]
fn frames_go_both_ways_unchanged_many_times_around_the_rings() {
    for kind in [OLD, NEW] {
        let device = Emulated::new();
        device.change(|manner| manner.shallow = kind == OLD);
        let mut nic = device.driver(kind, LITTLE).expect("an honest device");
        assert_eq!((nic.mac(), device.buffers()), ([0, 0x50, 0x56, 0, 0, 2], 15));
        device.told_and_interrupts();
        for number in 0..if cfg!(miri) { 40 } else { 3000 } {
            let out = frame(number, 60 + usize::from(number) % 1455);
            assert!(send(&mut nic, &out, at(0)));
            assert!(device.sent().is_none(), "before it was told");
            nic.flush();
            assert!(!nic.has_sent(), "the device has it still");
            let sent = device.sent().expect("a frame");
            assert!(nic.has_sent());
            assert_eq!((sent.frame, sent.checksum, sent.cut, sent.pieces), (out, None, None, 1));
            let back = frame(number, 16 + usize::from(number) % 1500);
            assert!(device.deliver(&back, WHOLE | IGNORE));
            assert_eq!(receive(&mut nic, at(0)), Some(back));
            assert_eq!(receive(&mut nic, at(0)), None);
            assert_eq!(device.told_and_interrupts(), ([1, 1], 0));
        }
        assert_eq!((nic.counters().dropped, nic.counters().resets, faults()), (0, 0, nothing()));
    }
}

#[test]
fn a_full_ring_of_frames_either_way_arrives_in_order_and_one_more_waits() {
    let device = Emulated::new();
    let mut nic = device.driver(OLD, LITTLE).expect("an honest device");
    for round in 0..if cfg!(miri) { 2 } else { 5 } {
        device.told_and_interrupts();
        let mut count = 0;
        while send(&mut nic, &frame(count, 60), at(0)) {
            count += 1;
        }
        assert!(count > 15, "{round}");
        nic.flush();
        nic.flush();
        assert_eq!(device.told_and_interrupts().0[1], 1);
        for number in 0..count {
            assert_eq!(device.sent().map(|sent| sent.frame), Some(frame(number, 60)));
        }
        let count = device.buffers() as u16;
        for number in 0..count {
            assert!(device.deliver(&frame(number, 60), WHOLE));
        }
        assert!(!device.deliver(&frame(0, 60), WHOLE), "there are no more");
        // A token that is not used gives its buffer back as well.
        drop(nic.receive(at(0)).expect("the first"));
        for number in 1..count {
            assert_eq!(receive(&mut nic, at(0)), Some(frame(number, 60)));
        }
        nic.flush();
        assert_eq!((receive(&mut nic, at(0)), device.buffers()), (None, usize::from(count)));
    }
    assert_eq!(faults(), nothing());
}

#[test]
fn a_long_segment_is_described_in_pieces_behind_its_context() {
    let device = Emulated::new();
    let mut nic = device.driver(NEW, MUCH).expect("an honest device");
    assert!(nic.capabilities().segmentation.tcpv4.is_some());
    let rounds = if cfg!(miri) { 2 } else { 300 };
    for payload in [1, 1460, 1461, 8192 - 54, 8192 - 53, 65495].repeat(rounds) {
        let out = segment(payload);
        assert!(send_cut(&mut nic, &out, 1460, at(0)));
        nic.flush();
        let sent = device.sent().expect("a frame");
        let cut = payload > 1460;
        assert_eq!((sent.checksum, sent.cut), (Some((34, 50)), cut.then_some((54, 1460))));
        assert_eq!((sent.frame.len(), sent.pieces), (out.len(), out.len().div_ceil(8192)));
        // The sum over addresses and protocol, over the length only where it is that of the segment.
        let mut sum = 6 + 2 * 0x0a00 + 1 + 2 + if cut { 0 } else { 20 + payload };
        sum = (sum & 0xffff) + (sum >> 16);
        assert_eq!(sent.frame[50..52], (sum as u16).to_be_bytes());
        assert_eq!(sent.frame[24..26], if cut { [0, 0] } else { [0x12, 0x34] });
        assert_eq!((&sent.frame[26..50], &sent.frame[52..]), (&out[26..50], &out[52..]));
    }
    assert_eq!(faults(), nothing());
    let device = Emulated::new();
    let nic = device.driver(0x1004, MUCH).expect("an honest device");
    assert_eq!(nic.capabilities().segmentation.tcpv4, None, "an 82543GC cuts nothing");
}

#[test]
fn a_wrong_checksum_passes_only_if_the_device_vouches_for_it() {
    let device = Emulated::new();
    let mut nic = device.driver(OLD, LITTLE).expect("an honest device");
    let wrong = segment(100);
    assert!(device.deliver(&wrong, WHOLE | VERIFIED));
    assert_eq!(receive(&mut nic, at(0)), Some(wrong.clone()));
    for status in [0, IGNORE, IGNORE | VERIFIED, VERIFIED | 0x2000, VERIFIED | 0x4000] {
        assert!(device.deliver(&wrong, WHOLE | status));
        assert_eq!(receive(&mut nic, at(0)), None, "{status:#x}");
    }
    assert_eq!((nic.counters().dropped, nic.counters().resets), (5, 0));
}

#[test]
fn frames_that_are_none_are_dropped_and_their_buffers_given_back() {
    let device = Emulated::new();
    let mut nic = device.driver(OLD, LITTLE).expect("an honest device");
    let rounds = if cfg!(miri) { 4 } else { 30 };
    for _ in 0..rounds {
        for (status, length) in
            [(WHOLE, 0), (WHOLE, 13), (WHOLE, 1519), (WHOLE | 0x100, 60), (WHOLE | 0x8000, 60)]
        {
            assert!(device.deliver(&vec![0; length], status));
        }
        // One in several buffers, of which the last looks as if it were whole.
        assert!(device.deliver(&frame(1, 2048), DONE) && device.deliver(&frame(1, 60), WHOLE));
        assert!(device.deliver(&frame(1, 14), WHOLE));
        assert_eq!(receive(&mut nic, at(0)), Some(frame(1, 14)));
    }
    assert_eq!((nic.counters().dropped, nic.counters().resets, device.buffers()), (7 * rounds, 0, 15));
    assert_eq!(faults(), nothing());
}

#[test]
fn a_length_that_cannot_be_is_a_reset_after_which_it_works_again() {
    for length in [2049, 0xffff] {
        let device = Emulated::new();
        let mut nic = device.driver(OLD, LITTLE).expect("it behaves at first");
        while send(&mut nic, &frame(1, 60), at(0)) {}
        nic.flush();
        device.sent();
        let (place, _) = device.take().expect("a buffer");
        device.lie().complete(place, length, WHOLE);
        assert_eq!(receive(&mut nic, at(0)), None);
        assert_eq!((nic.counters().resets, device.resets(), device.buffers()), (1, 1, 15));
        assert!(device.is_running() && device.sent().is_none(), "what was under way is lost");
        for number in 0..if cfg!(miri) { 5 } else { 50 } {
            assert!(send(&mut nic, &frame(number, 60), at(0)));
            nic.flush();
            assert_eq!(device.sent().map(|sent| sent.frame), Some(frame(number, 60)));
            assert!(device.deliver(&frame(number, 60), WHOLE));
            assert_eq!(receive(&mut nic, at(0)), Some(frame(number, 60)));
        }
        assert_eq!(faults(), nothing());
    }
}

#[test]
fn an_armed_nic_interrupts_for_what_it_waits_for() {
    for kind in [OLD, NEW] {
        let device = Emulated::new();
        let mut nic = device.driver(kind, LITTLE).expect("an honest device");
        assert!(!nic.arm() && !nic.arm());
        assert_eq!(device.told_and_interrupts().1, 0);
        // Sending with room left is no reason.
        assert!(send(&mut nic, &frame(2, 60), at(0)));
        nic.flush();
        assert!(device.sent().is_some());
        assert_eq!(device.told_and_interrupts().1, 0);
        for _ in 0..3 {
            assert!(device.deliver(&frame(1, 60), WHOLE));
            assert_eq!(device.told_and_interrupts().1, 1);
            assert!(nic.arm(), "it waits");
            assert_eq!(receive(&mut nic, at(0)), Some(frame(1, 60)));
            assert!(!nic.arm());
        }
        while send(&mut nic, &frame(2, 60), at(0)) {}
        nic.flush();
        assert!(!nic.arm() && nic.waits());
        // What is left from before may wake it once, and no more.
        assert!(!nic.arm());
        device.told_and_interrupts();
        assert!(device.sent().is_some());
        assert_eq!(device.told_and_interrupts().1, 1);
        assert!(nic.arm() && send(&mut nic, &frame(2, 60), at(0)));
    }
}

#[test]
fn a_line_is_tried_out_and_what_is_no_reason_to_raise_it_is_not_claimed() {
    for kind in [OLD, NEW] {
        let device = Emulated::new();
        let mut nic = device.driver(kind, LITTLE).expect("an honest device");
        assert_eq!(nic.wires.interrupt.is_heard(), kind == OLD);
        assert!(!nic.arm() && !nic.wires.interrupt.take());
        // What it is not to interrupt for may have happened while another raised the line.
        device.happen(SENT);
        assert!(!nic.arm());
        assert_eq!(claims(), 0);
        device.happen(LINK);
        assert!(!nic.arm());
        assert_eq!(claims(), u64::from(kind == OLD));
        device.change(|manner| manner.gone = true);
        nic.arm();
        assert_eq!(claims(), 0);
    }
}

#[test]
fn the_link_is_looked_at_and_registers_of_all_ones_are_a_device_that_is_gone() {
    let device = Emulated::new();
    let mut nic = device.driver(OLD, LITTLE).expect("an honest device");
    assert!(nic.link && !nic.arm());
    device.change(|manner| manner.link = false);
    device.happen(1 << 2);
    assert!(!nic.arm() && !nic.link);
    let (_, stolen) = device.take().expect("a buffer");
    device.change(|manner| manner.gone = true);
    assert!(nic.arm() && nic.waits());
    for time in 0..if cfg!(miri) { 100 } else { 3000 } {
        assert!(receive(&mut nic, at(time)).is_none() && nic.transmit(at(time)).is_none());
    }
    nic.flush();
    assert_eq!((nic.counters().resets, nic.arm()), (1, false));
    assert_eq!(device.command(), 1 << 10, "it neither reaches memory nor raises its line");
    drop(nic);
    kernel_io::emulated::write_memory(stolen, &[0; 60]).expect("it is still lent");
    assert_eq!(faults(), nothing());
}

#[test]
fn a_device_that_only_lies_gets_a_rest() {
    let device = Emulated::new();
    let mut nic = device.driver(OLD, LITTLE).expect("it behaves at first");
    for time in 0..20 {
        if device.is_running() {
            device.lie().write(0, 0, 1 << 32 | 0xffff);
        }
        receive(&mut nic, at(2000 + time));
    }
    assert_eq!((nic.counters().resets, device.is_running(), device.command()), (9, false, 1 << 10));
    assert!(!nic.arm() && nic.waits() && nic.transmit(at(2999)).is_none());
    assert_eq!(nic.rests_until(), Some(at(3000)));
    assert!(nic.transmit(at(3000)).is_some() && device.is_running() && device.command() == 4);
    assert!(device.deliver(&frame(3, 60), WHOLE) && receive(&mut nic, at(3001)) == Some(frame(3, 60)));
    assert_eq!(faults(), nothing());
}

#[test]
fn an_address_is_taken_from_the_eeprom_where_the_device_has_not_done_so() {
    for kind in [OLD, NEW] {
        let device = Emulated::new();
        device.change(|manner| manner.only_eeprom = true);
        let nic = device.driver(kind, LITTLE).expect("an honest device");
        assert_eq!(nic.mac(), [0, 0x50, 0x56, 0, 0, 2]);
    }
}

#[test]
fn what_cannot_be_brought_up_is_refused() {
    let refused = |change: fn(&mut Manner)| {
        let device = Emulated::new();
        device.change(change);
        device.driver(OLD, LITTLE).err().expect("it is refused")
    };
    assert_eq!(refused(|manner| manner.stuck = true), Error::Reset);
    assert_eq!(refused(|manner| manner.unstoppable = true), Error::Reset);
    assert_eq!(refused(|manner| manner.gone = true), Error::Reset);
    let none = |manner: &mut Manner| (manner.only_eeprom, manner.no_eeprom) = (true, true);
    assert!(matches!(refused(none), Error::Layout(_)));
    assert!(matches!(refused(|manner| manner.mac = [1, 0, 0, 0, 0, 1]), Error::Layout(_)));
    assert!(matches!(refused(|manner| manner.mac = [0xff; 6]), Error::Layout(_)));
    assert_eq!(kind(0x8086, 0x1000), None);
    assert_eq!(kind(0x8087, 0x100e), None);
    let device = Emulated::new();
    limit_memory(8 << 10);
    assert_eq!(device.driver(OLD, LITTLE).err(), Some(Error::Io(kernel_io::Error::OutOfMemory)));
}

#[test]
fn whatever_a_device_does_the_driver_neither_stops_nor_loses_its_buffers() {
    let (seeds, steps) = if cfg!(miri) { (2, 100) } else { (30, 3000) };
    play_by_chance(hostile::play, seeds, steps, 1);
}
