//! The NIC against an emulated device, honest and not.

use super::*;
use crate::emulated::frames::{at, frame, nothing, receive, send};
use crate::emulated::hostile::play_by_chance;
use crate::emulated::rtl8139::{Emulated, WHOLE};
use alloc::rc::Rc;
use alloc::vec;
use kernel_io::emulated::{claims, faults, limit_memory};
use network_nic::Device as _;

const MEMORY: usize = 64 << 10;

#[test]
fn frames_go_both_ways_unchanged_many_times_around_the_rings() {
    let device = Emulated::new();
    let mut nic = device.driver(MEMORY).expect("an honest device");
    assert_eq!((nic.mac(), device.buffers()), ([0, 0x16, 0x3e, 0, 0, 1], 21));
    for number in 0..if cfg!(miri) { 40 } else { 3000 } {
        let out = frame(number, 60 + usize::from(number) % 1455);
        assert!(send(&mut nic, &out, at(0)));
        nic.flush();
        assert!(!nic.has_sent(), "the device has it still");
        assert_eq!(device.sent(), Some(out));
        assert!(nic.has_sent());
        let back = frame(number, 16 + usize::from(number) % 1500);
        assert!(device.deliver(&back, WHOLE));
        assert_eq!(receive(&mut nic, at(0)), Some(back));
        assert_eq!(receive(&mut nic, at(0)), None);
        assert_eq!(device.polls_and_interrupts(), (1, 0));
    }
    assert_eq!((nic.counters().dropped, nic.counters().resets, faults()), (0, 0, nothing()));
}

#[test]
fn short_frames_are_lengthened_with_zeros() {
    let device = Emulated::new();
    let mut nic = device.driver(MEMORY).expect("an honest device");
    for length in [60, 59, 42] {
        for _ in 0..if cfg!(miri) { 5 } else { 50 } {
            assert!(send(&mut nic, &vec![0xff; length], at(0)));
            let mut expected = vec![0xff; length];
            expected.resize(60, 0);
            assert_eq!(device.sent(), Some(expected));
        }
    }
}

#[test]
fn a_full_ring_of_frames_either_way_arrives_in_order_and_one_more_waits() {
    let device = Emulated::new();
    let mut nic = device.driver(MEMORY).expect("an honest device");
    for round in 0..if cfg!(miri) { 2 } else { 5 } {
        let mut count = 0;
        while send(&mut nic, &frame(count, 60), at(0)) {
            count += 1;
        }
        assert_eq!(count, 21, "{round}");
        nic.flush();
        nic.flush();
        assert_eq!(device.polls_and_interrupts().0, 1);
        for number in 0..count {
            assert_eq!(device.sent(), Some(frame(number, 60)));
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
        assert_eq!((receive(&mut nic, at(0)), device.buffers()), (None, usize::from(count)));
    }
    assert_eq!(faults(), nothing());
}

#[test]
fn frames_that_are_none_are_dropped_and_their_buffers_given_back() {
    let device = Emulated::new();
    let mut nic = device.driver(MEMORY).expect("an honest device");
    let first = 1 << 29;
    let rounds = if cfg!(miri) { 4 } else { 30 };
    for _ in 0..rounds {
        for (bits, length) in
            [(0, 60), (first, 60), (WHOLE & !first, 60), (WHOLE | 1 << 20, 60), (WHOLE, 0), (WHOLE, 13)]
        {
            assert!(device.deliver(&vec![0; length], bits));
        }
        assert!(device.deliver(&frame(1, 14), WHOLE));
        assert_eq!(receive(&mut nic, at(0)), Some(frame(1, 14)));
    }
    assert_eq!((nic.counters().dropped, nic.counters().resets, device.buffers()), (6 * rounds, 0, 21));
}

#[test]
fn a_length_that_cannot_be_is_a_reset_after_which_it_works_again() {
    for length in [1523, 0x1fff] {
        let device = Emulated::new();
        let mut nic = device.driver(MEMORY).expect("it behaves at first");
        while send(&mut nic, &frame(1, 60), at(0)) {}
        device.sent();
        let (place, ..) = device.take(0).expect("a buffer");
        device.lie().write(0, place, WHOLE | length);
        assert_eq!(receive(&mut nic, at(0)), None);
        assert_eq!((nic.counters().resets, device.resets(), device.buffers()), (1, 1, 21));
        assert!(device.is_running() && device.sent().is_none(), "what was under way is lost");
        for number in 0..if cfg!(miri) { 5 } else { 50 } {
            assert!(send(&mut nic, &frame(number, 60), at(0)));
            assert_eq!(device.sent(), Some(frame(number, 60)));
            assert!(device.deliver(&frame(number, 60), WHOLE));
            assert_eq!(receive(&mut nic, at(0)), Some(frame(number, 60)));
        }
        assert_eq!(faults(), nothing());
    }
}

#[test]
fn an_armed_nic_interrupts_for_what_it_waits_for() {
    let device = Emulated::new();
    let mut nic = device.driver(MEMORY).expect("an honest device");
    assert!(!nic.arm() && !nic.arm());
    assert_eq!(device.polls_and_interrupts().1, 0);
    // Sending with room left is no reason.
    assert!(send(&mut nic, &frame(2, 60), at(0)) && device.sent().is_some());
    assert_eq!(device.polls_and_interrupts().1, 0);
    assert!(device.deliver(&frame(1, 60), WHOLE));
    assert_eq!(device.polls_and_interrupts().1, 1);
    assert!(nic.arm(), "it waits");
    assert_eq!(receive(&mut nic, at(0)), Some(frame(1, 60)));
    while send(&mut nic, &frame(2, 60), at(0)) {}
    nic.flush();
    assert!(!nic.arm() && nic.waits());
    // What is left from before may wake it once, and no more.
    assert!(!nic.arm());
    device.polls_and_interrupts();
    assert!(device.sent().is_some());
    assert_eq!(device.polls_and_interrupts().1, 1);
    assert!(nic.arm() && send(&mut nic, &frame(2, 60), at(0)));
    // What was received, and what was sent; not what it is not to interrupt for.
    assert!(!nic.arm());
    assert_eq!(claims(), 2);
    device.happen(SENT);
    assert!(!nic.arm());
    assert_eq!(claims(), 0);
}

#[test]
fn the_link_is_looked_at_and_a_failed_bus_is_a_reset() {
    let device = Emulated::new();
    let mut nic = device.driver(MEMORY).expect("an honest device");
    assert!(nic.link && !nic.arm());
    device.set_link(false);
    assert!(!nic.arm() && !nic.link);
    device.happen(1 << 15);
    assert!(nic.arm() && nic.waits());
    assert_eq!(receive(&mut nic, at(0)), None);
    assert_eq!((nic.counters().resets, device.is_running(), nic.arm()), (1, true, false));
}

#[test]
fn a_device_that_only_lies_gets_a_rest() {
    let device = Emulated::new();
    let mut nic = device.driver(MEMORY).expect("it behaves at first");
    for time in 0..20 {
        if device.is_running() {
            device.lie().write(0, 0, WHOLE | 0x1fff);
        }
        receive(&mut nic, at(2000 + time));
    }
    assert_eq!((nic.counters().resets, device.is_running()), (9, false));
    assert!(!nic.arm() && nic.waits() && nic.transmit(at(2999)).is_none());
    assert_eq!(nic.rests_until(), Some(at(3000)));
    assert!(nic.transmit(at(3000)).is_some() && device.is_running());
    assert!(device.deliver(&frame(3, 60), WHOLE) && receive(&mut nic, at(3001)) == Some(frame(3, 60)));
    assert_eq!(faults(), nothing());
}

#[test]
fn a_device_that_does_not_come_back_is_given_up_and_keeps_its_memory() {
    let device = Emulated::new();
    let mut nic = device.driver(MEMORY).expect("it behaves at first");
    let (_, _, stolen) = device.take(0).expect("a buffer");
    device.lie().write(0, 0, WHOLE | 0x1fff);
    device.stick();
    assert_eq!(receive(&mut nic, at(0)), None);
    for time in 0..if cfg!(miri) { 100 } else { 3000 } {
        assert!(receive(&mut nic, at(time)).is_none() && nic.transmit(at(time)).is_none());
    }
    nic.flush();
    assert!(!nic.arm());
    assert_eq!(device.bus(), 1 << 10, "it neither reaches memory nor raises its line");
    drop(nic);
    // All but the one that was looked at when it lied.
    let (_, _, other) = device.take(0).expect("another");
    assert_ne!(stolen, other);
    kernel_io::emulated::write_memory(other, &[0; 60]).expect("it is still lent");
    assert_eq!(faults(), nothing());
}

#[test]
fn what_cannot_be_brought_up_is_refused() {
    for mac in [[1, 0, 0, 0, 0, 1], [0; 6], [0xff; 6]] {
        let device = Emulated::new();
        device.set_mac(mac);
        assert!(matches!(device.driver(MEMORY).err(), Some(Error::Layout(_))));
    }
    let device = Emulated::new();
    device.stick();
    let registers = Mmio::map(0x60_0000_3000, REGISTERS).expect("the fourth device");
    let (interrupt, leash) = (Irq::allocate().expect("one"), Leash::emulated(&Rc::default()));
    let wires = Wires { location: device_location(), registers, interrupt, leash };
    assert_eq!(wires.reset(), Err(Error::Reset));
    let device = Emulated::new();
    limit_memory(8 << 10);
    assert_eq!(device.driver(MEMORY).err(), Some(Error::Io(kernel_io::Error::OutOfMemory)));
}

fn device_location() -> Location {
    Location::Mmio(0)
}

#[test]
fn whatever_a_device_does_the_driver_neither_stops_nor_loses_its_buffers() {
    let (seeds, steps) = if cfg!(miri) { (2, 100) } else { (30, 3000) };
    play_by_chance(hostile::play, seeds, steps, 20);
}
