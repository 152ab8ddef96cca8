//! The handles inside a host test, and the machine they stand on.
//!
//! Each thread has a machine of its own, so tests run side by side. A test builds devices ([`attach_registers`],
//! [`attach_ports`]), runs the driver against them and asks for [`faults`] at the end. Devices reach memory through
//! [`read_memory`] and [`write_memory`] only, by the addresses that the driver told them, and only while it is lent.

pub(crate) mod dma;
pub(crate) mod irq;
pub(crate) mod registers;

#[cfg(test)]
mod tests;

use crate::xen::{Event, Parameter};
use crate::{Direction, Ecam, Message, MmioSlot};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

/// The registers of an emulated device: what reading and writing them does.
pub trait Registers {
    /// Read `width` bytes (1, 2, 4 or 8) at `offset`.
    fn read(&self, offset: u64, width: usize) -> u64;
    /// Write `width` bytes at `offset`.
    fn write(&self, offset: u64, width: usize, value: u64);
}

/// Hyper-V, as a partition sees it.
pub trait Hypervisor {
    /// Deliver messages and event flags to the pages at these addresses, and raise `interrupt` for those of VMBus.
    fn start(&self, messages: u64, events: u64, interrupt: Message);
    /// A message was taken, and another may be delivered.
    fn end_of_message(&self);
    /// Take a message posted to a connection; answers the status.
    fn post(&self, connection: u32, message: &[u8]) -> u16;
    /// The event of a connection is signalled; answers the status.
    fn signal(&self, connection: u32) -> u16;
}

/// Xen, as a guest sees it.
pub trait Xen {
    /// Let each event raise `interrupt`.
    fn start_events(&self, interrupt: Message);
    /// All events have been seen.
    fn clear_events(&self);
    /// Do something about event channels; answers the port, or what is wrong.
    ///
    /// # Errors
    /// Xen's, negative.
    fn event(&self, event: Event) -> Result<u32, i32>;
    /// A parameter of the machine.
    fn parameter(&self, parameter: Parameter) -> Option<u64>;
    /// The grant table is at this address from now on; answers whether it may be as long.
    fn map_grants(&self, address: u64, frames: usize) -> bool;
    /// The guest lets others run.
    fn rest(&self);
}

/// A range of addresses or ports and the device that answers there.
struct Attached {
    first: u64,
    length: u64,
    device: Rc<dyn Registers>,
}

/// Memory by the address that devices know it by.
enum Memory {
    Shared(Rc<RefCell<Box<[u8]>>>),
    Lent {
        bytes: Box<[u8]>,
        direction: Direction,
        /// What it held when it was lent for receiving.
        held: Box<[u8]>,
    },
}

/// Where memory begins for devices: far from anything that a pointer or a small number could be.
const FIRST_ADDRESS: u64 = 0x10_0000_0000;

struct Machine {
    registers: Vec<Attached>,
    ports: Vec<Attached>,
    claimed: Vec<(u16, u16)>,
    ecam: Option<Ecam>,
    memory: BTreeMap<u64, Memory>,
    next_address: u64,
    /// Bytes that may still be allocated.
    left: usize,
    /// One flag per vector, by its message.
    vectors: Vec<Rc<Cell<bool>>>,
    lines: BTreeMap<u32, Rc<Cell<bool>>>,
    ticks: Vec<Rc<Cell<bool>>>,
    /// How often drivers said that they had taken a cause of their device's.
    claims: u64,
    /// How many inputs the interrupt controllers have.
    line_count: u32,
    microseconds: u64,
    on_delay: Option<Rc<dyn Fn()>>,
    hypervisor: Option<Rc<dyn Hypervisor>>,
    xen: Option<Rc<dyn Xen>>,
    faults: Vec<String>,
}

std::thread_local! {
    static MACHINE: RefCell<Machine> = const {
        RefCell::new(Machine {
            registers: Vec::new(),
            ports: Vec::new(),
            claimed: Vec::new(),
            ecam: None,
            memory: BTreeMap::new(),
            next_address: FIRST_ADDRESS,
            left: usize::MAX,
            vectors: Vec::new(),
            lines: BTreeMap::new(),
            ticks: Vec::new(),
            claims: 0,
            line_count: 24,
            microseconds: 0,
            on_delay: None,
            hypervisor: None,
            xen: None,
            faults: Vec::new(),
        })
    };
}

fn with<R>(f: impl FnOnce(&mut Machine) -> R) -> R {
    MACHINE.with_borrow_mut(f)
}

/// Let a device answer at `length` bytes from the physical address `first`.
pub fn attach_registers(first: u64, length: u64, device: Rc<dyn Registers>) {
    with(|machine| machine.registers.push(Attached { first, length, device }));
}

/// Let a device answer at `count` ports from `first`.
pub fn attach_ports(first: u16, count: u16, device: Rc<dyn Registers>) {
    with(|machine| machine.ports.push(Attached { first: first.into(), length: count.into(), device }));
}

/// Let the machine be a partition of Hyper-V's.
pub fn attach_hypervisor(hypervisor: Rc<dyn Hypervisor>) {
    with(|machine| machine.hypervisor = Some(hypervisor));
}

/// Let the machine be a guest of Xen's.
pub fn attach_xen(xen: Rc<dyn Xen>) {
    with(|machine| machine.xen = Some(xen));
}

/// Xen, if the machine is a guest of it; it may well access memory.
pub(crate) fn with_xen<R>(f: impl FnOnce(&dyn Xen) -> R) -> Option<R> {
    let xen = with(|machine| machine.xen.clone());
    xen.map(|xen| f(&*xen))
}

/// A call of the hypervisor's; it may well access memory.
fn call<R>(call: impl FnOnce(&dyn Hypervisor) -> R) -> Option<R> {
    let hypervisor = with(|machine| machine.hypervisor.clone());
    hypervisor.map(|hypervisor| call(&*hypervisor))
}

/// Whether there is Hyper-V's interrupt controller.
pub(crate) fn has_synic() -> bool {
    with(|machine| machine.hypervisor.is_some())
}

/// A message has been taken out of the slot of Hyper-V's interrupt controller.
pub(crate) fn end_of_message() {
    call(|hypervisor| hypervisor.end_of_message());
}

/// Post a message to a connection of VMBus's; answers the hypervisor's status where it is not success.
pub(crate) fn post_message(connection: u32, message: &[u8]) -> Result<(), u16> {
    match call(|hypervisor| hypervisor.post(connection, message)) {
        Some(0) => Ok(()),
        status => Err(status.unwrap_or(u16::MAX)),
    }
}

/// Signal the event of a connection.
pub(crate) fn signal_event(connection: u32) -> Result<(), u16> {
    match call(|hypervisor| hypervisor.signal(connection)) {
        Some(0) => Ok(()),
        status => Err(status.unwrap_or(u16::MAX)),
    }
}

/// Say where PCI configuration space is mapped.
pub fn set_ecam(ecam: Option<Ecam>) {
    with(|machine| machine.ecam = ecam);
}

/// Say how many inputs the interrupt controllers have together.
pub fn set_line_count(count: u32) {
    with(|machine| machine.line_count = count);
}

/// Leave so many bytes for allocations.
pub fn limit_memory(bytes: usize) {
    with(|machine| machine.left = bytes);
}

/// Where PCI configuration space is mapped into memory, if it is.
pub fn ecam() -> Option<Ecam> {
    with(|machine| machine.ecam)
}

/// The places of virtio devices with registers in memory that tables name: none.
pub fn mmio_slots() -> Option<&'static [MmioSlot]> {
    Some(&[])
}

/// Let so much time pass, and devices work meanwhile.
pub fn delay(microseconds: u32) {
    let work = with(|machine| {
        machine.microseconds += u64::from(microseconds);
        machine.on_delay.clone()
    });
    if let Some(work) = work {
        work();
    }
}

/// What devices do whenever a driver waits.
pub fn on_delay(work: impl Fn() + 'static) {
    with(|machine| machine.on_delay = Some(Rc::new(work)));
}

/// How much time drivers have waited.
pub fn microseconds() -> u64 {
    with(|machine| machine.microseconds)
}

/// What has been done against the rules since the last call. A test ends by asserting that it is nothing.
pub fn faults() -> Vec<String> {
    with(|machine| core::mem::take(&mut machine.faults))
}

/// A device raises a message-signalled interrupt.
pub fn raise(message: Message) {
    with(|machine| match irq::vector(message).and_then(|vector| machine.vectors.get(vector)) {
        Some(flag) => flag.set(true),
        None => machine.faults.push(std::format!("nobody has allocated {message:x?}")),
    });
}

/// A device raises an interrupt line. Nothing happens when the line is not connected, as in a real machine.
pub fn raise_line(gsi: u32) {
    with(|machine| {
        if let Some(flag) = machine.lines.get(&gsi) {
            flag.set(true);
        }
    });
}

/// How often drivers have said that they had taken a cause of their device's, since the last call.
pub fn claims() -> u64 {
    with(|machine| core::mem::take(&mut machine.claims))
}

/// The machine has idled, for those who are looked at for want of an interrupt.
pub fn tick() {
    with(|machine| machine.ticks.iter().for_each(|flag| flag.set(true)));
}

/// A device accesses memory that it must not; written down as a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden;

/// A device reads memory.
///
/// # Errors
/// [`Forbidden`] when not all of it is shared or lent for reading at this moment.
pub fn read_memory(address: u64, bytes: &mut [u8]) -> Result<(), Forbidden> {
    access(address, bytes.len(), Direction::ToDevice, |memory| bytes.copy_from_slice(memory))
}

/// A device writes memory.
///
/// # Errors
/// [`Forbidden`] when not all of it is shared or lent for writing at this moment.
pub fn write_memory(address: u64, bytes: &[u8]) -> Result<(), Forbidden> {
    access(address, bytes.len(), Direction::FromDevice, |memory| memory.copy_from_slice(bytes))
}

/// What a buffer held when it was lent for receiving, which whoever may write to it may be able to read on the bare machine.
pub fn held(address: u64) -> Option<Vec<u8>> {
    with(|machine| match machine.memory.get(&address) {
        Some(Memory::Lent { held, .. }) => Some(held.to_vec()),
        _ => None,
    })
}

fn access(
    address: u64,
    length: usize,
    wanted: Direction,
    f: impl FnOnce(&mut [u8]),
) -> Result<(), Forbidden> {
    with(|machine| {
        let found = machine.memory.range_mut(..=address).next_back().and_then(|(start, memory)| {
            let offset = usize::try_from(address - start).ok()?;
            let range = offset..offset.checked_add(length)?;
            match memory {
                Memory::Shared(bytes) => bytes.borrow_mut().get_mut(range).map(f),
                Memory::Lent { bytes, direction, .. } if *direction == wanted => bytes.get_mut(range).map(f),
                Memory::Lent { .. } => None,
            }
        });
        found.ok_or_else(|| {
            machine.faults.push(std::format!("a device touched {length} bytes at {address:#x} ({wanted:?})"));
            Forbidden
        })
    })
}
