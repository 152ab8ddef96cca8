//! The boot, on one page.

use crate::acpi::Acpi;
use crate::interrupt::{self, Apic};
use crate::machine::{Machine, Module};
use crate::memory::{self, BootMapping};
use crate::promised::Promised;
use crate::pvh::StartInfo;
use crate::{clock, console, cpu, entropy, entry, features, hyperv, logger, platform, power, xen};
use alloc::string::String;

/// From the entry code to the program. Each step stands on those before it.
pub(crate) extern "C" fn start(start_info: u64) -> ! {
    let first = cpu::tsc();
    // From here on there is a place to say what is wrong, and faults say where they are.
    console::init();
    interrupt::init();
    features::require();
    let copies = memory::copy::choose();

    // Copied before any memory is given away: it may lie anywhere in it.
    let info = match StartInfo::read(&BootMapping, start_info) {
        Ok(info) => info,
        Err(reason) => panic!("{reason}"),
    };
    memory::init(&info);
    features::protect();
    xen::start();
    hyperv::start();
    let command_line = memory::copy_physical(info.command_line).unwrap_or_default();
    let modules = info.modules().iter().map(Module::new).collect();

    // Now there is a heap, and what lies anywhere can be mapped.
    let acpi = Acpi::read(info.rsdp);
    let promised = Promised::init(&acpi);
    power::init(&acpi, promised);
    let apic = Apic::init();
    interrupt::find_io_apics(acpi.madt.as_ref(), promised);
    let clock = clock::init(first, &acpi, promised, apic);
    logger::init();
    platform::init(&acpi, promised);
    let sources = entropy::init();

    let rights = memory::check_rights();
    log::info!("{} KiB of memory, {} KiB of it free", memory::total() >> 10, memory::free() >> 10);
    log::debug!("memory is copied with {copies}");
    log::info!("clock: {} kHz by {}, timer {} kHz", clock.rate / 1000, clock.source, clock.timer_rate / 1000);
    log::debug!("page rights: {rights:?}; randomness: {sources:?}; {promised:?}; {acpi:?}");
    let command_line = String::from_utf8_lossy(&command_line).into_owned();
    entry::program(Machine::new(command_line, modules))
}
