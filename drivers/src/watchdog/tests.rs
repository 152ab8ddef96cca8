//! The watchdog against one that counts, and is as strict as the datasheet.

use super::*;
use alloc::rc::Rc;
use core::cell::RefCell;
use kernel_io::emulated::{Registers, attach_ports, attach_registers};

const AT: DeviceFunction = DeviceFunction { bus: 0, device: 4, function: 0 };
const BASE: u64 = 0xfebf_1000;

#[derive(Default)]
struct Model {
    address: u32,
    configuration: u16,
    lock: u8,
    /// It takes nothing that switches it on.
    is_locked: bool,
    unlocked: usize,
    preload: [u32; 2],
    fed: u32,
    command: u16,
    /// What the base address reads as, from its address.
    moved: u32,
}

struct Space(Rc<RefCell<Model>>);
struct Own(Rc<RefCell<Model>>);

impl Registers for Space {
    fn read(&self, offset: u64, width: usize) -> u64 {
        let model = self.0.borrow();
        let (function, register) = (model.address >> 8 & 0xff_ffff, u64::from(model.address & 0xfc));
        if offset == 0 {
            return model.address.into();
        }
        if function != 0x80_0000 | u32::from(AT.device) << 3 {
            return u64::from(u32::MAX) & ((1 << (8 * width)) - 1);
        }
        match (register + offset - 4, width) {
            (0, 4) => 0x25ab_8086,
            (4, 4) => model.command.into(),
            (0x10, 4) => u64::from(BASE as u32 ^ model.moved),
            (0x68, 1) => model.lock.into(),
            _ => 0,
        }
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        let mut model = self.0.borrow_mut();
        if offset == 0 {
            model.address = value as u32;
            return;
        }
        match (u64::from(model.address & 0xfc) + offset - 4, width) {
            (4, 4) => model.command = value as u16,
            (0x10, 4) => model.moved = BASE as u32 ^ value as u32 & !15,
            (0x60, 2) => model.configuration = value as u16,
            (0x68, 1) if !model.is_locked => model.lock = value as u8,
            _ => {}
        }
    }
}

impl Registers for Own {
    fn read(&self, _: u64, _: usize) -> u64 {
        panic!("nothing there is to be read")
    }

    fn write(&self, offset: u64, width: usize, value: u64) {
        let mut model = self.0.borrow_mut();
        match (offset, width, value) {
            (0x0c, 2, 0x80) => model.unlocked = 1,
            (0x0c, 2, 0x86) if model.unlocked == 1 => model.unlocked = 2,
            _ if model.unlocked != 2 => panic!("{value:#x} at {offset:#x} without the sequence"),
            (0x00 | 0x04, 4, _) => {
                model.preload[offset as usize / 4] = value as u32;
                model.unlocked = 0;
            }
            (0x0c, 2, 0x100) => {
                model.fed += 1;
                model.unlocked = 0;
            }
            _ => panic!("{value:#x} at {offset:#x}"),
        }
    }
}

fn start(model: Model, seconds: u16) -> (Rc<RefCell<Model>>, Result<Watchdog, Error>) {
    let model = Rc::new(RefCell::new(model));
    attach_ports(0xcf8, 8, Rc::new(Space(model.clone())));
    attach_registers(BASE, 16, Rc::new(Own(model.clone())));
    let mut buses = Pci::find().expect("there is PCI");
    let function = buses.functions().into_iter().find(|function| is_one(&function.info));
    let watchdog = Watchdog::start(&mut buses, function.expect("it is found").at, seconds);
    (model, watchdog)
}

#[test]
fn it_is_on_for_the_whole_time_and_fed_by_its_sequence() {
    let (model, watchdog) = start(Model::default(), 60);
    let mut watchdog = watchdog.expect("on");
    let ticks = model.borrow().preload;
    let micros = u64::from(ticks[0] + ticks[1]) * 30 * 32_768 / 1000;
    assert!(micros.abs_diff(60_000_000) < 200_000, "{micros} us for a minute");
    let before = (model.borrow().lock, model.borrow().configuration, model.borrow().command & 2);
    assert_eq!(before, (ENABLED, 3, 2), "on, with a reset at its end, and answering");
    let fed = model.borrow().fed;
    watchdog.feed();
    watchdog.feed();
    assert_eq!(model.borrow().fed, fed + 2);
}

#[test]
fn no_time_is_more_than_it_can_count() {
    for (seconds, least) in [(0, 1), (u16::MAX, 900_000)] {
        let (model, watchdog) = start(Model::default(), seconds);
        assert!(watchdog.is_ok());
        assert!(model.borrow().preload.iter().all(|ticks| (least..1 << 20).contains(ticks)));
    }
}

#[test]
fn one_that_cannot_be_switched_on_is_not_taken_for_one_that_is() {
    let (_, watchdog) = start(Model { is_locked: true, ..Model::default() }, 60);
    assert_eq!(watchdog.err(), Some(Error::Unsupported("a watchdog that is locked")));
}
