//! What the emulated machine punishes.

use super::*;
use crate::{Buffer, Error, Irq, Mmio, Ports, Shared, Synic, Trigger};

fn buffer(bytes: &[u8]) -> Buffer {
    let mut buffer = Buffer::allocate(1, bytes.len()).expect("memory").remove(0);
    buffer.copy_from_slice(bytes);
    buffer
}

#[test]
fn a_device_reads_what_was_lent_for_reading_and_only_that() {
    let lent = buffer(b"frame").lend(Direction::ToDevice);
    let (address, mut seen) = (lent.address(), [0; 5]);
    assert_eq!(read_memory(address, &mut seen), Ok(()));
    assert_eq!(&seen, b"frame");
    assert_eq!(write_memory(lent.address(), b"x"), Err(Forbidden));
    assert_eq!(read_memory(lent.address() + 1, &mut seen), Err(Forbidden), "one byte beyond the end");
    assert_eq!(faults().len(), 2);
    // SAFETY: the only device is this test.
    let back = unsafe { lent.reclaim() };
    assert_eq!(&*back, b"frame");
    assert_eq!(read_memory(address, &mut seen), Err(Forbidden), "it is the driver's again");
    assert_eq!(faults().len(), 1);
}

#[test]
fn old_contents_do_not_survive_lending_for_receiving() {
    let lent = buffer(b"old contents").lend(Direction::FromDevice);
    assert_eq!(write_memory(lent.address(), b"new"), Ok(()));
    // SAFETY: the only device is this test.
    let back = unsafe { lent.reclaim() };
    assert_eq!(&back[..3], b"new");
    assert!(!back[3..].iter().any(|byte| b"contents ".contains(byte)));
    assert!(faults().is_empty());
}

#[test]
fn shared_memory_is_seen_by_both_until_it_is_freed() {
    let ring = Shared::allocate(100).expect("memory");
    ring.write32(8, 0x0102_0304);
    let mut seen = [0; 4];
    read_memory(ring.address() + 8, &mut seen).expect("shared");
    assert_eq!(u32::from_le_bytes(seen), 0x0102_0304);
    write_memory(ring.address() + 16, &7_u16.to_le_bytes()).expect("shared");
    assert_eq!(ring.read_index(16), 7);
    ring.write_pair(32, [0x0102_0304_0506_0708, 9]);
    assert_eq!((ring.read_pair(32), ring.read_pair(36)), ([0x0506_0708, 0x0102_0304], [0x0102_0304, 9]));
    assert_eq!(ring.read64(40), 9);
    let address = ring.address();
    // SAFETY: the only device is this test.
    unsafe { ring.free() };
    assert_eq!(read_memory(address, &mut seen), Err(Forbidden));
    assert_eq!(faults().len(), 1);
}

#[test]
#[should_panic(expected = "outside")]
fn registers_end_where_they_end() {
    struct Zero;
    impl Registers for Zero {
        fn read(&self, _: u64, _: usize) -> u64 {
            0
        }
        fn write(&self, _: u64, _: usize, _: u64) {}
    }
    attach_registers(0x40_0000_0000, 0x100, Rc::new(Zero));
    let registers = Mmio::map(0x40_0000_0000, 0x100).expect("there");
    assert_eq!(Mmio::map(0x40_0000_0000, 0x101).err(), Some(Error::Unmappable));
    assert_eq!(registers.part(0xff, 2).err(), Some(Error::OutOfRange));
    registers.part(0x80, 0x80).expect("inside").read32(0x7e);
}

#[test]
fn an_interrupt_is_a_bit_by_message_or_by_line() {
    let (one, other) = (Irq::allocate().expect("a vector"), Irq::allocate().expect("a vector"));
    raise(one.message());
    assert!(one.take() && !one.take() && !other.take());
    raise_line(5);
    assert!(!other.take(), "not connected");
    other.connect(5, Trigger::Edge).expect("a line");
    assert_eq!(other.connect(24, Trigger::Edge), Err(Error::NoLine));
    raise_line(5);
    assert!(other.take());
    raise(Message { address: 0xfee0_0000, data: 0x99 });
    assert_eq!(faults().len(), 1);
}

#[test]
fn memory_ends() {
    limit_memory(3 * crate::PAGE);
    assert_eq!(Buffer::allocate(4, crate::PAGE).err(), Some(Error::OutOfMemory));
    assert!(Shared::allocate(3 * crate::PAGE).is_ok());
    assert_eq!(Shared::allocate(1).err(), Some(Error::OutOfMemory));
}

#[test]
fn ports_have_one_owner() {
    let ports = Ports::claim(0xcf8, 8).expect("free");
    assert_eq!(Ports::claim(0xcfc, 4).err(), Some(Error::PortsTaken));
    assert_eq!(ports.read32(4), u32::MAX, "nobody answers");
    drop(ports);
    assert!(Ports::claim(0xcfc, 4).is_ok());
}

/// A hypervisor that notes what it is told.
#[derive(Default)]
struct Noted {
    pages: Cell<(u64, u64)>,
    ends: Cell<u32>,
}

impl Hypervisor for Noted {
    fn start(&self, messages: u64, events: u64, _: Message) {
        self.pages.set((messages, events));
    }

    fn end_of_message(&self) {
        self.ends.set(self.ends.get() + 1);
    }

    fn post(&self, connection: u32, message: &[u8]) -> u16 {
        if message.is_empty() { 0 } else { connection as u16 }
    }

    fn signal(&self, connection: u32) -> u16 {
        connection as u16
    }
}

#[test]
fn a_message_is_taken_once_and_the_next_is_asked_for_where_one_waits() {
    assert_eq!(Synic::start().err(), Some(Error::NotThere));
    let noted = Rc::new(Noted::default());
    attach_hypervisor(noted.clone());
    let synic = Synic::start().expect("a hypervisor");
    let (messages, events) = noted.pages.get();
    let mut message = [0; crate::MESSAGE];
    assert_eq!(synic.receive(&mut message), None);
    // Of VMBus's, or not; with a length that may be too large; with another that waits, or without.
    for (kind, length, waits, taken) in [(1, 3, 0, 3), (1, 255, 1, 240), (7, 3, 1, 0), (1, 0, 0, 0)] {
        write_memory(messages + 512, &[kind, 0, 0, 0, length, waits]).expect("shared");
        write_memory(messages + 528, &[9; 240]).expect("shared");
        assert_eq!(synic.receive(&mut message), Some(taken));
        assert_eq!((synic.receive(&mut message), message[0]), (None, 9));
    }
    assert_eq!(noted.ends.get(), 2);
    // Flags are cleared with the interrupt that tells of them, those of VMBus's source alone.
    write_memory(events + 511, &[0xff, 0xff]).expect("shared");
    assert!(!synic.acknowledge());
    assert_eq!((synic.post(5, &[]), synic.post(5, &[1]), synic.signal(6)), (Ok(()), Err(5), Err(6)));
    assert_eq!(faults(), Vec::<String>::new());
}
