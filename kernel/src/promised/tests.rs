//! What is touched on the machine of each hypervisor, of all that is asked or used whatever tables there are.

use super::*;
use crate::acpi::{Fadt, IoApic, Madt, Named, Register, Space};
use crate::clock::Reference;
use crate::cpu::port::{Answers, touched};
use crate::power::{self, Exit, Ways};
use crate::{console, fw_cfg, interrupt, platform};
use std::collections::BTreeSet;

/// A machine as its hypervisor describes it.
struct Row {
    name: &'static str,
    hypervisor: Option<Hypervisor>,
    acpi: Acpi,
    /// What may be touched of the ports that no table gives the number of.
    ports: &'static [&'static [u16]],
    /// Where I/O APICs are looked for.
    io_apics: &'static [u64],
    /// Whether the place where QEMU's microvm has its devices is looked at.
    microvm: bool,
}

/// By what is always asked, and by which of the rest.
const SERIAL: &[u16] = &[0x3ff];
const DEBUG: &[u16] = &[0xe9, 0x402, 0xf4];
const FW_CFG: &[u16] = &[0x510, 0x511];
const CHIP: &[u16] = &[0x40, 0x43];
const KEYBOARD: &[u16] = &[0x64];
const PCI: &[u16] = &[0xcf8];

fn fadt() -> Fadt {
    Fadt {
        dsdt: 0,
        timer: None,
        control: (None, None),
        enable: None,
        sleep: None,
        reset: None,
        is_reduced: false,
        keyboard: false,
        battery_clock: None,
        button: None,
    }
}

fn madt(is_pc: bool, io_apics: &[u64]) -> Option<Madt> {
    let io_apics = io_apics.iter().map(|address| IoApic { address: *address, first: 0 }).collect();
    Some(Madt { is_pc, io_apics, overrides: Vec::new() })
}

/// A PC of old: its chips, a bridge, a keyboard controller.
fn pc() -> Acpi {
    let named = Named { host_bridge: true, keyboard: true, ..Named::default() };
    Acpi { is_there: true, fadt: Some(fadt()), madt: madt(true, &[0xfec0_0000]), named, ..Acpi::default() }
}

/// Reduced hardware, of which the tables say all.
fn reduced(is_pc: bool, io_apics: &[u64], named: Named) -> Acpi {
    let fadt = Some(Fadt { is_reduced: true, ..fadt() });
    Acpi { is_there: true, fadt, madt: madt(is_pc, io_apics), named, ..Acpi::default() }
}

/// Of PCI's configuration space it is said by the MCFG, as well, where that is; whether the ports are used is for drivers.
fn rows() -> Vec<Row> {
    use Hypervisor::{Kvm, Other, Tcg, Vmware, Xen};
    let qemu = |named: Named| Named { fw_cfg: true, ..named };
    let row = |name, hypervisor, acpi, ports, io_apics| Row {
        name,
        hypervisor,
        acpi,
        ports,
        io_apics,
        microvm: false,
    };
    let first: &[u64] = &[0xfec0_0000];
    let keyboard = Named { keyboard: true, ..Named::default() };
    let bridge = Named { host_bridge: true, ..Named::default() };
    let of_qemu = || Acpi { named: qemu(pc().named), ..pc() };
    vec![
        row("QEMU, q35 and pc", Some(Tcg), of_qemu(), &[SERIAL, DEBUG, FW_CFG, CHIP, KEYBOARD, PCI], first),
        row("QEMU that hides", None, of_qemu(), &[SERIAL, FW_CFG, CHIP, KEYBOARD, PCI], first),
        row(
            "microvm",
            Some(Kvm),
            reduced(true, &[0xfec0_0000, 0xfec1_0000], qemu(Named::default())),
            &[SERIAL, DEBUG, FW_CFG, CHIP],
            &[0xfec0_0000, 0xfec1_0000],
        ),
        Row {
            microvm: true,
            ..row(
                "microvm without tables",
                Some(Tcg),
                Acpi::default(),
                &[SERIAL, DEBUG, FW_CFG, CHIP, KEYBOARD, PCI],
                &[0xfec0_0000, 0xfec1_0000],
            )
        },
        row(
            "Firecracker",
            Some(Kvm),
            reduced(false, first, keyboard),
            &[SERIAL, DEBUG, FW_CFG, KEYBOARD],
            first,
        ),
        row("Cloud Hypervisor", Some(Kvm), reduced(false, &[], bridge), &[SERIAL, DEBUG, FW_CFG, PCI], &[]),
        row("Xen PVH", Some(Xen), reduced(true, &[], Named::default()), &[SERIAL], &[]),
        row("Xen PVH without tables", Some(Xen), Acpi::default(), &[SERIAL], &[]),
        row("Xen HVM", Some(Xen), pc(), &[SERIAL, CHIP, KEYBOARD, PCI], first),
        row("Hyper-V, generation 1", Some(Other), pc(), &[SERIAL, CHIP, KEYBOARD, PCI], first),
        row(
            "Hyper-V, generation 2",
            Some(Other),
            Acpi { madt: madt(false, first), named: Named::default(), ..pc() },
            &[SERIAL],
            first,
        ),
        row("VMware", Some(Vmware), pc(), &[SERIAL, CHIP, KEYBOARD, PCI], first),
        row("VirtualBox", Some(Other), pc(), &[SERIAL, CHIP, KEYBOARD, PCI], first),
        row(
            "bhyve",
            Some(Other),
            Acpi { named: qemu(pc().named), ..pc() },
            &[SERIAL, FW_CFG, CHIP, KEYBOARD, PCI],
            first,
        ),
        row("some other without tables", Some(Other), Acpi::default(), &[SERIAL], &[]),
        Row {
            io_apics: &[0xfec0_0000, 0xfec1_0000],
            ..row("a PC", None, Acpi::default(), &[SERIAL, CHIP, KEYBOARD, PCI], first)
        },
    ]
}

/// Do all that a boot, drivers and both ends of a machine do at ports that no table has the numbers of.
fn live(row: &Row, promised: Promised) {
    console::find_serial();
    let _ = console::find_debug(row.hypervisor);
    assert_eq!(fw_cfg::read_if(promised, "opt/any"), Ok(None), "{}", row.name);
    Reference::chip(promised);
    Reference::rest(promised);
    if platform::claim(promised, 0xcf8, 8).is_ok() {
        // SAFETY: in a test nothing is there.
        unsafe { crate::cpu::port::write32(0xcf8, 0) };
    }
    let ways = Ways::of(&row.acpi, promised);
    power::say(Exit::Success, row.hypervisor);
    ways.off();
    ways.reset();
    ways.reset_by_keyboard();
}

#[test]
#[cfg_attr(miri, ignore = "reads the time-stamp counter")]
fn no_port_and_no_controller_is_touched_that_is_not_promised() {
    for row in rows() {
        let promised = Promised::of(&row.acpi, row.hypervisor);
        let expected: BTreeSet<u16> = row.ports.iter().copied().flatten().copied().collect();
        assert_eq!(touched(&Answers::new(), || live(&row, promised)), expected, "{}", row.name);
        let places = interrupt::io_apic_places(row.acpi.madt.as_ref(), promised);
        let places: Vec<u64> = places.iter().map(|place| place.address).collect();
        assert_eq!(places, row.io_apics, "{}", row.name);
        assert_eq!(promised.microvm, row.microvm, "{}", row.name);
    }
}

#[test]
fn byte_code_that_cannot_be_read_may_name_a_bridge_but_not_on_reduced_hardware() {
    let unread = Acpi { is_unread: true, named: Named::default(), ..pc() };
    assert!(Promised::of(&unread, None).pci_ports);
    let unread = Acpi { is_unread: true, ..reduced(false, &[], Named::default()) };
    assert!(!Promised::of(&unread, Some(Hypervisor::Kvm)).pci_ports);
}

#[test]
#[cfg_attr(miri, ignore = "reads the time-stamp counter")]
fn what_a_table_gives_the_number_of_is_used_as_it_says() {
    let port = |address| Some(Register { space: Space::Port, address });
    let fadt = Fadt {
        control: (port(0x604), None),
        reset: port(0xcf9).map(|register| (register, 6)),
        keyboard: true,
        ..fadt()
    };
    let acpi = Acpi { is_there: true, fadt: Some(fadt), soft_off: Some((0, 0)), ..Acpi::default() };
    let ways = Ways::of(&acpi, Promised::of(&acpi, Some(Hypervisor::Other)));
    let ends = || {
        ways.off();
        ways.reset();
        ways.reset_by_keyboard();
    };
    assert_eq!(touched(&Answers::new(), ends), [0x64, 0x604, 0xcf9].into());
}

#[test]
fn a_debug_console_is_found_where_it_says_that_it_is_there() {
    let find = |answers: &[(u16, u32)], hypervisor| {
        let mut found = None;
        touched(&answers.iter().copied().collect(), || found = console::find_debug(hypervisor));
        found
    };
    let both = [(0xe9, 0xe9), (0x402, 0xe9)];
    assert_eq!(find(&both, Some(Hypervisor::Tcg)), Some(0xe9));
    assert_eq!(find(&both[1..], Some(Hypervisor::Kvm)), Some(0x402));
    assert_eq!(find(&[], Some(Hypervisor::Tcg)), None);
    assert_eq!(find(&[(0xe9, 0)], Some(Hypervisor::Kvm)), None);
    assert_eq!((find(&both, None), find(&both, Some(Hypervisor::Other))), (None, None));
}
