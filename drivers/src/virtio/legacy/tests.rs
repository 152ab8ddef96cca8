//! The drivers over a device's ports, honest and not.

use super::hostile::{driver, nic};
use super::*;
use crate::emulated::frames::{self, at, frame, receive};
use crate::emulated::hostile::play_by_chance;
use crate::emulated::legacy::{Front, Manner};
use crate::emulated::{Description, Emulated, Misbehaviour};
use crate::virtio::blk::{Block, Request};
use crate::virtio::feature;
use crate::virtio::net::VirtioNet;
use crate::virtio::rng::Rng;
use alloc::vec;
use core::task::Poll;
use kernel_io::emulated::{claims, faults, on_delay};
use network_nic::{Device as _, Instant, Nic as _};

const HEADER: usize = 10;
/// Frames, to see that it works; Miri takes its time for each.
const FEW: u16 = if cfg!(miri) { 5 } else { 20 };

fn send(nic: &mut VirtioNet, frame: &[u8], now: Instant) -> bool {
    let sent = frames::send(nic, frame, now);
    nic.flush();
    sent
}

fn carry(device: &Emulated, nic: &mut VirtioNet, numbers: core::ops::Range<u16>) {
    for number in numbers {
        assert!(send(nic, &frame(number, 60), at(0)));
        assert_eq!(device.sent().map(|bytes| bytes[HEADER..].to_vec()), Some(frame(number, 60)));
        assert!(device.deliver(&[&[0; HEADER][..], &frame(number, 60)].concat()));
        assert_eq!(receive(nic, at(0)), Some(frame(number, 60)));
    }
}

#[test]
fn frames_go_both_ways_in_rings_of_the_devices_size() {
    for has_vectors in [false, true] {
        let (device, front) = nic(has_vectors);
        let mut nic = driver(&front).expect("an honest device");
        assert_eq!(nic.mac(), [0x52, 0x54, 0, 0, 0, 1]);
        carry(&device, &mut nic, 0..if cfg!(miri) { FEW } else { 3000 });
        // Woken by what comes, and by nothing twice.
        assert!(!nic.arm() && !nic.arm());
        assert!(device.deliver(&[&[0; HEADER][..], &frame(1, 60)].concat()));
        assert!(nic.arm());
        assert_eq!(receive(&mut nic, at(0)), Some(frame(1, 60)));
        assert!(!nic.arm());
        device.need_reset();
        assert!(nic.arm(), "it asks for a reset");
        assert!(nic.receive(at(0)).is_none());
        assert_eq!(nic.counters().resets, 1);
        // Of a line each interrupt is told, for it may be others' as well.
        assert_eq!(claims(), if has_vectors { 0 } else { 2 });
        carry(&device, &mut nic, 0..FEW);
        assert_eq!(faults().len(), 0);
    }
}

#[test]
fn a_lie_is_a_reset_after_which_it_works_again() {
    let (device, front) = nic(true);
    let mut nic = driver(&front).expect("it behaves at first");
    for (id, length, advance) in [(1023, 60, 1), (0, 70_000, 1), (0, 60, 1000)] {
        device.lie(0, id, length, advance);
        assert!(nic.receive(at(0)).is_none());
        carry(&device, &mut nic, 0..FEW);
    }
    assert_eq!((nic.counters().resets, faults().len()), (3, 0));
}

#[test]
fn what_cannot_be_is_refused() {
    let refused = |change: &dyn Fn(&Emulated, &Front)| {
        let (device, front) = nic(true);
        change(&device, &front);
        driver(&front).err().expect("it is refused")
    };
    for (size, error) in [
        (0, Error::NoQueue(0)),
        (1, Error::NoQueue(0)),
        (100, Error::NoQueue(0)),
        (8, Error::NoQueue(0)),
        (8192, Error::Unsupported("a queue that long")),
    ] {
        let queues = |device: &Emulated, _: &Front| device.describe(|it| it.queues = vec![size, 256]);
        // Eight are enough for the frames that fit into so little.
        let refusal = if size == 8 { None } else { Some(refused(&queues)) };
        assert!(refusal.is_none_or(|refusal| refusal == error), "{size}: {refusal:?}");
    }
    let no_vectors = |_: &Emulated, front: &Front| front.change(Manner { no_vectors: true, raving: None });
    assert_eq!(refused(&no_vectors), Error::NoInterrupt);
    let restless = Misbehaviour { restless: true, ..Misbehaviour::default() };
    assert!(matches!(refused(&|device, _| device.misbehave(restless)), Error::Layout(_)));
    let stuck = Misbehaviour { stuck: true, ..Misbehaviour::default() };
    let refusal = {
        let (device, front) = nic(true);
        // What it was at before.
        device.device().expect("vectors").start();
        device.misbehave(stuck);
        driver(&front).err()
    };
    assert_eq!(refusal, Some(Error::Reset));
    let device = Emulated::nic(feature::NET_MAC);
    let front = Front::new(&device, 24, true);
    assert!(matches!(driver(&front).err(), Some(Error::Layout(_))), "no ports for its address");
}

#[test]
fn randomness_and_a_disk_come_over_ports() {
    for has_vectors in [false, true] {
        let description = |kind, configuration| Description {
            kind,
            features: feature::BLK_FLUSH,
            configuration,
            queues: vec![64],
            legacy: true,
        };
        let source = Emulated::new(description(4, vec![]));
        let front = Front::new(&source, 24, has_vectors);
        let mut rng = Rng::new(front.device(DeviceType::EntropySource).expect("ports")).expect("a source");
        let device = source.clone();
        on_delay(move || {
            while device.is_running()
                && let Some(chain) = device.take(0)
            {
                let written = chain.write(&[0x5a; 64]);
                device.put(0, &chain, written);
            }
        });
        let mut bytes = [0; 100];
        assert_eq!(rng.fill(&mut bytes), Ok(()));
        assert_eq!(bytes, [0x5a; 100]);

        let disk = Emulated::new(description(2, 100_u64.to_le_bytes().to_vec()));
        let front = Front::new(&disk, 32, has_vectors);
        let device = disk.clone();
        let answer = move || {
            while device.is_running()
                && let Some(mut chain) = device.take(0)
            {
                // The header stays; data, if there are any, and the status are written.
                chain.parts.retain(|part| part.2);
                let data = chain.length() - 1;
                let written = chain.write(&[&vec![0x77; data][..], &[0]].concat());
                device.put(0, &chain, written);
            }
        };
        on_delay(answer.clone());
        let mut block = Block::new(front.device(DeviceType::Block).expect("ports"), 4096).expect("a disk");
        assert_eq!(block.size(), 51_200);
        let mut sector = [0; 512];
        for _ in 0..FEW {
            assert_eq!(block.carry(Request::Read(512, &mut sector), 0), Poll::Pending);
            answer();
            assert_eq!(block.carry(Request::Read(512, &mut sector), 0), Poll::Ready(Ok(())));
            assert_eq!(sector, [0x77; 512]);
        }
        assert_eq!(faults().len(), 0);
    }
}

#[test]
fn whatever_its_registers_say_nothing_stops() {
    let (seeds, steps) = if cfg!(miri) { (2, 50) } else { (60, 1000) };
    play_by_chance(hostile::play, seeds, steps, 1);
}
