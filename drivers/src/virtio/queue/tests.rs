//! The ring against a device that is only slow, and against devices that lie.

use super::super::{Device, feature};
use super::*;
use crate::emulated::{Chain, Description, Emulated};
use kernel_io::emulated::faults;

/// A device with one queue, running, and the driver's end of both.
fn queue(size: u16, parts: u16, features: u64, direction: Direction) -> (Emulated, Device, Queue) {
    let description = Description {
        kind: 4,
        features,
        configuration: Vec::new(),
        queues: alloc::vec![size.into()],
        legacy: false,
    };
    let emulated = Emulated::new(description);
    let mut device = emulated.device().expect("vectors");
    let agreed = device.negotiate(feature::EVENT_IDX).expect("nothing against it");
    let event_index = agreed & feature::EVENT_IDX != 0;
    let mut queue = Queue::allocate(size, parts, event_index, direction).expect("memory");
    device.attach(0, &mut queue).expect("a queue");
    device.start();
    (emulated, device, queue)
}

const MODERN: u64 = feature::VERSION_1 | feature::EVENT_IDX;

fn buffers(count: usize) -> Vec<Buffer> {
    Buffer::allocate(count, 64).expect("memory")
}

/// SplitMix64: a test that fails names its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Driver and device take turns at random and sleep whenever they can.
struct Turns {
    random: Random,
    emulated: Emulated,
    device: Device,
    queue: Queue,
    free: Vec<Buffer>,
    /// Numbers of the buffers that are at the device.
    under_way: Vec<u64>,
    held: Vec<Chain>,
    sent: u64,
    back: u64,
    /// The device sleeps until it is told.
    device_sleeps: bool,
    /// The driver sleeps until the device has returned so many more.
    driver_sleeps_for: Option<usize>,
}

impl Turns {
    fn new(seed: u64, parts: u16, features: u64) -> Self {
        let mut random = Random(seed);
        let size = parts.max(2) << random.below(5);
        let (emulated, device, queue) = queue(size, parts, features, Direction::ToDevice);
        let free = buffers(queue.capacity());
        let (under_way, held) = (Vec::new(), Vec::new());
        let (device_sleeps, driver_sleeps_for) = (false, None);
        Self {
            random,
            emulated,
            device,
            queue,
            free,
            under_way,
            held,
            sent: 0,
            back: 0,
            device_sleeps,
            driver_sleeps_for,
        }
    }

    fn driver_sends(&mut self) {
        for _ in 0..self.random.below(self.free.len() + 1) {
            let mut buffer = self.free.pop().expect("counted");
            buffer[16..24].copy_from_slice(&self.sent.to_le_bytes());
            self.queue.push(buffer, 24, 16).expect("as many buffers as places");
            self.under_way.push(self.sent);
            self.sent += 1;
        }
        self.queue.notify();
        if self.device_sleeps && self.emulated.available(0) > 0 {
            assert!(self.emulated.kicks(0) > 0, "the device sleeps on after {} buffers", self.sent);
            self.device_sleeps = false;
        }
    }

    fn driver_looks(&mut self) {
        self.queue.disarm();
        while let Some((buffer, _)) = self.queue.pop().expect("an honest device") {
            let number = u64::from_le_bytes(buffer[16..24].try_into().expect("eight"));
            let place = self.under_way.iter().position(|&sent| sent == number).expect("not twice");
            self.under_way.swap_remove(place);
            self.free.push(buffer);
            self.back += 1;
        }
        let count = 1 + self.random.below(self.queue.outstanding().max(1)) / 2;
        let sleeps = self.random.below(2) == 0 && !self.queue.arm(count as u16);
        self.device.acknowledge();
        self.driver_sleeps_for = sleeps.then_some(count);
    }

    fn device_works(&mut self) {
        self.emulated.work(0);
        for _ in 0..self.random.below(20) {
            self.held.extend(self.emulated.take(0));
        }
        self.device_sleeps = self.random.below(2) == 0 && !self.emulated.sleep(0);
    }

    fn device_returns(&mut self) {
        for _ in 0..self.random.below(self.held.len() + 1) {
            let chain = self.held.swap_remove(self.random.below(self.held.len()));
            assert_eq!(chain.length(), 24);
            self.emulated.put(0, &chain, 0);
            if let Some(left) = &mut self.driver_sleeps_for {
                *left -= 1;
                if *left == 0 {
                    assert!(self.device.acknowledge().queues, "the driver sleeps on after {}", self.back);
                    self.driver_sleeps_for = None;
                }
            }
        }
    }
}

/// What goes in comes out once, in whatever order the device likes, and nobody sleeps while there is something for him
/// that he was not told of.
fn both_sides_at_random(seed: u64, parts: u16, features: u64, goal: u64) {
    let mut turns = Turns::new(seed, parts, features);
    while turns.back < goal {
        match turns.random.below(4) {
            0 => turns.driver_sends(),
            1 => turns.driver_looks(),
            2 if !turns.device_sleeps => turns.device_works(),
            _ => turns.device_returns(),
        }
    }
    assert_eq!(faults(), Vec::<alloc::string::String>::new(), "seed {seed}");
}

#[test]
fn an_event_index_survives_the_wrap_at_sixteen_bits() {
    let (seeds, goal) = if cfg!(miri) { (2, 50) } else { (4, 3 * 65536) };
    for seed in 0..seeds {
        both_sides_at_random(seed, 1, MODERN, goal);
    }
}

#[test]
fn chains_of_two_and_flags_instead_of_an_event_index_work_as_well() {
    let (seeds, goal) = if cfg!(miri) { (2, 50) } else { (4, 70_000) };
    for seed in 10..10 + seeds {
        both_sides_at_random(seed, 2, MODERN, goal);
        both_sides_at_random(seed, 1, feature::VERSION_1, goal);
    }
}

#[test]
fn the_standards_own_condition_holds_for_every_distance() {
    for new in [0_u16, 1, 5, 255, 256, 0x7fff, 0x8000, 0xfffe, 0xffff] {
        for distance in [0_u16, 1, 2, 100, 0x7fff, 0xffff] {
            let old = new.wrapping_sub(distance);
            for event in
                [0, 1, new, old, new.wrapping_sub(1), old.wrapping_sub(1), old.wrapping_add(1), 0xffff]
            {
                // The event is passed when it lies among old, old + 1, … new - 1.
                let among = event.wrapping_sub(old) < distance;
                assert_eq!(passed(event, new, old), among, "{event} {new} {old}");
            }
        }
    }
}

#[test]
fn a_batch_is_announced_once_and_only_to_a_device_that_sleeps() {
    let (emulated, _device, mut queue) = queue(16, 1, MODERN, Direction::ToDevice);
    assert!(!emulated.sleep(0));
    for buffer in buffers(5) {
        queue.push(buffer, 24, 0).expect("room");
    }
    assert_eq!(emulated.kicks(0), 0, "nothing before the notification");
    assert!(queue.notify() && !queue.notify());
    assert_eq!(emulated.kicks(0), 1);
    queue.push(buffers(1).remove(0), 24, 0).expect("room");
    assert!(!queue.notify(), "the device is awake");
    assert_eq!(emulated.available(0), 6);
}

#[test]
fn an_armed_queue_interrupts_once() {
    let (emulated, mut device, mut queue) = queue(16, 1, MODERN, Direction::FromDevice);
    for buffer in buffers(16) {
        queue.push(buffer, 64, 0).expect("room");
    }
    assert!(!queue.arm(1));
    for _ in 0..3 {
        let chain = emulated.take(0).expect("available");
        let written = chain.write(b"frame");
        emulated.put(0, &chain, written);
    }
    assert!(device.acknowledge().queues && queue.arm(1), "there are some already");
    let mut count = 0;
    while let Some((buffer, length)) = queue.pop().expect("honest") {
        assert_eq!(&buffer[..length], b"frame");
        count += 1;
    }
    assert_eq!(count, 3);
    assert!(!device.acknowledge().queues);
    assert!(!queue.arm(2));
    for expected in [false, true, false] {
        let chain = emulated.take(0).expect("available");
        emulated.put(0, &chain, 1);
        assert_eq!(device.acknowledge().queues, expected, "after the second only");
    }
}

#[test]
fn a_full_queue_gives_the_buffer_back() {
    let (_emulated, _device, mut queue) = queue(2, 1, MODERN, Direction::ToDevice);
    let mut buffers = buffers(3).into_iter();
    assert!(queue.push(buffers.next().expect("three"), 24, 0).is_ok());
    assert!(queue.push(buffers.next().expect("three"), 24, 0).is_ok());
    assert!(queue.push(buffers.next().expect("three"), 24, 0).is_err());
    assert_eq!((queue.outstanding(), queue.capacity()), (2, 2));
}

/// A queue of four with two buffers at the device, of which it has taken both.
fn two_out() -> (Emulated, Device, Queue, [Chain; 2]) {
    let (emulated, device, mut queue) = queue(4, 1, MODERN, Direction::FromDevice);
    for buffer in buffers(2) {
        queue.push(buffer, 64, 0).expect("room");
    }
    let chains = [0, 1].map(|_| emulated.take(0).expect("available"));
    (emulated, device, queue, chains)
}

#[test]
fn each_lie_of_a_used_ring_is_found() {
    // Each returns an identifier, a length and how far the index moves.
    type Says = fn(&[Chain; 2]) -> (u32, u32, u16);
    let lies: [(Says, Lie); 9] = [
        (|_| (4, 0, 1), Lie::Id),
        (|_| (u32::MAX, 0, 1), Lie::Id),
        (|_| (0x1_0000, 0, 1), Lie::Id),
        (|chains| (3 - u32::from(chains[0].head), 0, 1), Lie::Id),
        (|chains| (chains[0].head.into(), 65, 1), Lie::Length),
        (|chains| (chains[0].head.into(), u32::MAX, 1), Lie::Length),
        (|chains| (chains[0].head.into(), 0, 3), Lie::Index),
        (|chains| (chains[0].head.into(), 0, 5), Lie::Index),
        (|chains| (chains[0].head.into(), 0, u16::MAX), Lie::Index),
    ];
    for (lie, expected) in lies {
        let (emulated, mut device, mut queue, chains) = two_out();
        let (id, written, advance) = lie(&chains);
        emulated.lie(0, id, written, advance);
        assert_eq!(queue.pop().map(|_| ()), Err(expected), "{id} {written} {advance}");
        assert_eq!(queue.pop().map(|_| ()), Err(expected), "it stays a lie");
        device.reset().expect("it does");
        // SAFETY: the device has just been reset.
        assert_eq!(unsafe { queue.recover() }.len(), 2, "nothing is lost");
    }
}

#[test]
fn what_was_returned_cannot_be_returned_again() {
    let (emulated, _device, mut queue, chains) = two_out();
    emulated.put(0, &chains[0], 10);
    assert_eq!(queue.pop().map(|answer| answer.map(|(_, length)| length)), Ok(Some(10)));
    emulated.put(0, &chains[0], 10);
    assert_eq!(queue.pop().map(|_| ()), Err(Lie::Id));
}

#[test]
fn with_chains_of_two_only_heads_are_returned() {
    let (emulated, _device, mut queue) = queue(4, 2, MODERN, Direction::FromDevice);
    queue.push(buffers(1).remove(0), 64, 10).expect("room");
    let chain = emulated.take(0).expect("available");
    assert_eq!(chain.parts.iter().map(|part| part.1).collect::<Vec<_>>(), [10, 54]);
    emulated.lie(0, u32::from(chain.head) + 1, 0, 1);
    assert_eq!(queue.pop().map(|_| ()), Err(Lie::Id));
}

#[test]
fn a_recovered_queue_works_again() {
    let (emulated, mut device, mut queue, chains) = two_out();
    emulated.lie(0, 77, 0, 1);
    assert!(queue.pop().is_err());
    device.reset().expect("it does");
    // SAFETY: the device has just been reset.
    let recovered = unsafe { queue.recover() };
    assert!(kernel_io::emulated::read_memory(chains[0].parts[0].0, &mut [0]).is_err(), "it is the driver's");
    assert_eq!(faults().len(), 1);
    device.negotiate(feature::EVENT_IDX).expect("as before");
    device.attach(0, &mut queue).expect("as before");
    device.start();
    for buffer in recovered {
        queue.push(buffer, 64, 0).expect("room");
    }
    let chain = emulated.take(0).expect("available");
    emulated.put(0, &chain, 1);
    assert!(matches!(queue.pop(), Ok(Some((_, 1)))));
}
