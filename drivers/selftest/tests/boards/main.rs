//! The drivers under QEMU: every board, transport and set of features, with bytes carried both ways and compared.

#[path = "../../../../image/pack/src/elf.rs"]
mod elf;
#[path = "../../../../image/pack/src/inner.rs"]
mod inner;
mod machine;
mod place;

use machine::{Counters, Machine};
use place::{Network, inside};

/// Bytes carried each way.
const MUCH: usize = 4 << 20;

/// What is said in QEMU's terms about one run.
struct Case {
    name: &'static str,
    board: &'static str,
    /// Properties of both NICs, after their kind where that is not virtio; braces stand for the number of the NIC, 0 or 1.
    nic: &'static str,
    arguments: &'static [&'static str],
    /// MiB of memory, and what else is on the command line.
    memory: u32,
    line: &'static str,
    /// Whether segments are cut by the device, and merged.
    offloaded: bool,
    merged: bool,
}

const CASE: Case = Case {
    name: "",
    board: "",
    nic: "",
    arguments: &[],
    memory: 32,
    line: "",
    offloaded: true,
    merged: true,
};
/// Devices whose numbers differ by a multiple of four share an interrupt line.
const ONE_LINE: &str = "rtl8139,addr=0x{}4";
const QBOOT: &[&str] = &["-bios", "qboot.rom"];
const HEADER_ALONE: &str = ",disable-modern=on,disable-legacy=off,any_layout=off,event_idx=off";
const VERSION_2: &[&str] = &["-global", "virtio-mmio.force-legacy=false"];
const PLAIN: &str = ",csum=off,guest_csum=off,host_tso4=off,guest_tso4=off,host_tso6=off,guest_tso6=off,host_ecn=off,\
                     guest_ecn=off,guest_ufo=off,host_ufo=off,gso=off";
const NO_SEGMENTS: &str = ",host_tso4=off,guest_tso4=off,host_tso6=off,guest_tso6=off,gso=off";

const CASES: &[Case] = &[
    Case { name: "modern PCI", board: "q35", nic: ",disable-legacy=on", ..CASE },
    Case { name: "transitional PCI", board: "q35", nic: ",disable-legacy=off", ..CASE },
    Case { name: "PCI without ECAM", board: "pc", ..CASE },
    Case { name: "modern PCI by line", board: "pc", nic: ",disable-legacy=on,vectors=0", ..CASE },
    Case { name: "transitional PCI by line", board: "q35", nic: ",vectors=0", ..CASE },
    Case { name: "PCI without addresses, q35", board: "q35", arguments: QBOOT, ..CASE },
    Case { name: "PCI without addresses, pc", board: "pc", arguments: QBOOT, ..CASE },
    Case { name: "legacy mmio, searched, second controller", board: "microvm", ..CASE },
    Case { name: "legacy mmio, searched, first controller", board: "microvm,ioapic2=off", ..CASE },
    Case { name: "legacy mmio, named", board: "microvm,acpi=off", ..CASE },
    Case { name: "mmio version 2, searched", board: "microvm", arguments: VERSION_2, ..CASE },
    Case { name: "mmio version 2, named", board: "microvm,acpi=off", arguments: VERSION_2, ..CASE },
    Case { name: "header on its own", board: "microvm", nic: ",any_layout=off", ..CASE },
    Case { name: "flags instead of an event index", board: "q35", nic: ",event_idx=off", ..CASE },
    Case { name: "no event index on mmio", board: "microvm", nic: ",event_idx=off", ..CASE },
    Case { name: "long queues", board: "q35", nic: ",rx_queue_size=1024", ..CASE },
    Case { name: "no offloads", board: "q35", nic: PLAIN, offloaded: false, ..CASE },
    Case { name: "checksums only", board: "q35", nic: NO_SEGMENTS, offloaded: false, ..CASE },
    Case { name: "an MTU of 9000", board: "q35", nic: ",host_mtu=9000", ..CASE },
    Case { name: "vmxnet3, pc", board: "pc", nic: "vmxnet3", merged: false, ..CASE },
    Case {
        name: "vmxnet3 without addresses",
        board: "q35",
        nic: "vmxnet3",
        arguments: QBOOT,
        merged: false,
        ..CASE
    },
    Case { name: "rtl8139 on one line, pc", board: "pc", nic: ONE_LINE, offloaded: false, ..CASE },
    Case { name: "rtl8139, q35", board: "q35", nic: "rtl8139", offloaded: false, ..CASE },
    Case { name: "legacy PCI, pc", board: "pc", nic: ",disable-modern=on", ..CASE },
    Case { name: "legacy PCI, header on its own", board: "q35", nic: HEADER_ALONE, ..CASE },
    Case {
        name: "legacy PCI without ports, q35",
        board: "q35",
        nic: ",disable-modern=on",
        arguments: QBOOT,
        ..CASE
    },
    Case {
        name: "legacy PCI without ports, pc",
        board: "pc",
        nic: ",disable-modern=on",
        arguments: QBOOT,
        ..CASE
    },
    Case { name: "legacy PCI by line", board: "q35", nic: ",disable-modern=on,vectors=0", ..CASE },
    Case {
        name: "e1000 without address, and the wrong line",
        board: "pc",
        nic: "e1000",
        arguments: QBOOT,
        merged: false,
        ..CASE
    },
    Case { name: "e1000, pc", board: "pc", nic: "e1000", merged: false, ..CASE },
    Case { name: "e1000-82545em, q35", board: "q35", nic: "e1000-82545em", merged: false, ..CASE },
    Case { name: "e1000-82544gc, pc", board: "pc", nic: "e1000-82544gc", merged: false, ..CASE },
    Case { name: "e1000e, q35", board: "q35", nic: "e1000e", merged: false, ..CASE },
    Case { name: "e1000e, pc", board: "pc", nic: "e1000e", merged: false, ..CASE },
    Case {
        name: "little memory",
        board: "q35",
        memory: 4,
        line: "nic-memory=64 socket-memory=32",
        offloaded: false,
        ..CASE
    },
];

#[test]
fn bytes_go_both_ways_on_every_board_and_transport() {
    inside("bytes_go_both_ways_on_every_board_and_transport", |network| {
        let named = std::env::var("CORBEL_BOARDS").unwrap_or_default();
        let wanted: Vec<&Case> = CASES.iter().filter(|case| case.name.contains(&named)).collect();
        assert!(!wanted.is_empty(), "no case is called {named:?}");
        for case in wanted {
            let machine =
                Machine::start(case.board, case.nic, case.memory, case.line, case.arguments, network);
            for nic in 0..2 {
                machine.echo(nic, MUCH / 4);
                machine.discard(nic, MUCH);
                machine.generate(nic, MUCH);
                let counters = machine.counters(nic);
                println!("{}: NIC {nic}: {counters:?}", case.name);
                check(case, &counters, network);
            }
            // What the second NIC has raised tells nothing about the first.
            machine.echo(0, MUCH / 64);
            machine.echo(1, MUCH / 64);
        }
    });
}

/// Nothing is lost in a driver, and with offloads a frame carries many segments.
fn check(case: &Case, counters: &Counters, network: &Network) {
    assert_eq!((counters.dropped, counters.resets), (0, 0), "{}", case.name);
    let segments = (2 * MUCH / 1460) as u64;
    if case.offloaded && network.has_offloads() {
        assert!(
            (!case.merged || counters.received < segments / 2) && counters.sent < segments / 2,
            "{}: {counters:?}",
            case.name
        );
    } else {
        assert!(counters.sent > segments / 8, "{}: {counters:?}", case.name);
    }
}

#[test]
fn randomness_comes_over_either_transport() {
    inside("randomness_comes_over_either_transport", |network| {
        for (board, device) in [
            ("q35", "virtio-rng-pci"),
            ("pc", "virtio-rng-pci,disable-modern=on"),
            ("microvm", "virtio-rng-device"),
        ] {
            let arguments = ["-device", device];
            let first = Machine::start(board, "", 32, "", &arguments, network).line("random ");
            let second = Machine::start(board, "", 32, "", &arguments, network).line("random ");
            assert!(first.len() > 300 && first != second, "{board}: {first}");
        }
    });
}

#[test]
fn a_line_is_tried_out_where_the_device_can_raise_it() {
    const NOT_HEARD: &str = "not heard when tried out";
    inside("a_line_is_tried_out_where_the_device_can_raise_it", |network| {
        let machine = Machine::start("pc", "e1000", 32, "", &[], network);
        assert!(!machine.has_said(NOT_HEARD));
        drop(machine);
        let machine = Machine::start("pc", "e1000", 32, "", QBOOT, network);
        assert!(machine.has_said(NOT_HEARD), "firmware has noted one line for both");
    });
}

#[test]
fn a_device_that_cannot_be_driven_is_named_and_the_others_work() {
    inside("a_device_that_cannot_be_driven_is_named_and_the_others_work", |network| {
        let arguments = ["-device", "virtio-net-pci,host_mtu=100,romfile="];
        let machine = Machine::start("pc", "", 32, "", &arguments, network);
        assert!(machine.line("its MTU is below 576").contains("not used"));
        machine.echo(0, MUCH / 16);
        machine.echo(1, MUCH / 16);
    });
}

#[test]
fn a_machine_that_hangs_is_ended_by_its_watchdog_and_one_that_does_not_is_not() {
    inside("a_machine_that_hangs_is_ended_by_its_watchdog_and_one_that_does_not_is_not", |network| {
        // Without addresses from firmware, so that it gets one from us.
        let device = [&["-device", "i6300esb"], QBOOT].concat();
        is_watched("pc", &device, network);
        // The TCO timer of the other board, by a table that says what to write where.
        let table = std::env::temp_dir().join(format!("corbel-wdat-{}", std::process::id()));
        std::fs::write(&table, tco_table()).expect("a place for a file");
        let file = format!("sig=WDAT,rev=1,data={}", table.display());
        is_watched("q35", &["-global", "ICH9-LPC.noreboot=false", "-acpitable", &file], network);
        std::fs::remove_file(table).expect("it is there");
    });
}

fn is_watched(board: &str, arguments: &[&str], network: &Network) {
    let socket = std::env::temp_dir().join(format!("corbel-{board}-{}", std::process::id()));
    let qmp = format!("unix:{},server=on,wait=off", socket.display());
    let arguments = [&["-watchdog-action", "poweroff", "-qmp", &qmp], arguments].concat();
    let mut machine = Machine::start(board, "", 32, "watchdog=3 hang=5", &arguments, network);
    let mut events = machine::Events::connect(&socket);
    machine.line("hanging");
    assert_eq!(events.so_far("WATCHDOG"), 0, "{board}: while it is fed");
    assert!(machine.ends(), "{board}: when it hangs");
    assert_eq!(events.so_far("WATCHDOG"), 1, "{board}");
}

/// A watchdog action table, without its header, of the TCO timer of Intel's ICH9 where firmware puts it: it counts in 0.6
/// seconds, twice to its end.
fn tco_table() -> Vec<u8> {
    const WRITE: u8 = 2;
    const WRITE_COUNT: u8 = 3;
    const PRESERVE: u8 = 0x80;
    // Action and instruction; space, access size and address; value and mask.
    let entries = [
        ([0x01, WRITE], (1_u8, 2_u8, 0x660_u64), [1_u32, 1]),
        ([0x06, WRITE_COUNT], (1, 2, 0x672), [0, 0x3ff]),
        ([0x08, 0], (1, 2, 0x668), [0, 0x800]),
        ([0x09, WRITE | PRESERVE], (1, 2, 0x668), [0, 0x800]),
        // No-reboot of the general control and status register.
        ([0x11, WRITE | PRESERVE], (0, 3, 0xfed1_f410), [0, 0x20]),
    ];
    let mut table = Vec::new();
    // The length of this, the PCI function (none), the period in milliseconds, the most and the least, flags, how many.
    for word in [32, 0x00ff_ffff_u32, 0xff, 600, 1023, 4, 0, 5] {
        table.extend(word.to_le_bytes());
    }
    for ([action, instruction], (space, access, address), values) in entries {
        table.extend([action, instruction, 0, 0, space, if access == 3 { 32 } else { 16 }, 0, access]);
        table.extend(address.to_le_bytes());
        values.iter().for_each(|value| table.extend(value.to_le_bytes()));
    }
    table
}

#[test]
fn an_idle_machine_takes_no_time() {
    inside("an_idle_machine_takes_no_time", |network| {
        for (board, nic) in [
            ("q35", ""),
            ("microvm", ""),
            ("q35", "vmxnet3"),
            ("pc", ONE_LINE),
            ("pc", "e1000"),
            ("pc", ",vectors=0"),
        ] {
            let machine = Machine::start(board, nic, 32, "", &[], network);
            // Who shares a line and cannot try it out is looked at each millisecond until it was heard.
            (0..2).for_each(|nic| machine.echo(nic, 1000));
            let share = machine.load(std::time::Duration::from_secs(3));
            assert!(share < 0.05, "{board} {nic}: {share} of a CPU while nothing happens");
        }
    });
}

#[test]
fn what_a_machine_without_a_serial_port_panics_for_is_heard_on_a_virtio_console() {
    for (number, (board, bus)) in [
        ("q35", "virtio-serial-pci"),
        ("pc", "virtio-serial-pci"),
        ("microvm,isa-serial=off", "virtio-serial-device"),
    ]
    .into_iter()
    .enumerate()
    {
        let file = std::env::temp_dir().join(format!("corbel-panic-{}-{number}", std::process::id()));
        let said = machine::panic(board, bus, &file);
        std::fs::remove_file(&file).expect("QEMU made it");
        let [before, panic] = ["about to panic", "as it was told to"].map(|text| said.find(text));
        assert!(before.is_some() && before < panic && said.contains("  at 0x"), "{board}: {said}");
    }
}
