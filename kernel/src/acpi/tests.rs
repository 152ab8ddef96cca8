//! Tables as hypervisors write them, and as they must not be.

use super::fadt::Button;
use super::sleep::soft_off;
use super::*;

/// A table with the signature and the fields, and a right sum.
fn bytes(signature: &[u8; 4], length: usize, fields: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; length];
    bytes[..4].copy_from_slice(signature);
    bytes[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    for (offset, field) in fields {
        bytes[*offset..offset + field.len()].copy_from_slice(field);
    }
    bytes[9] = 0u8.wrapping_sub(table::sum(&bytes));
    bytes
}

fn parsed(signature: &[u8; 4], length: usize, fields: &[(usize, &[u8])]) -> Table {
    Table::parse(bytes(signature, length, fields)).unwrap()
}

#[test]
fn a_table_with_a_wrong_sum_or_length_is_none() {
    let good = bytes(b"FACP", 116, &[]);
    assert!(Table::parse(good.clone()).is_some());
    let mut changed = good.clone();
    changed[50] ^= 1;
    assert!(Table::parse(changed).is_none());
    for length in 0..good.len() {
        assert!(Table::parse(good[..length].to_vec()).is_none(), "{length}");
    }
}

#[test]
fn the_fadt_of_the_old_board_has_ports_only() {
    let table = parsed(
        b"FACP",
        116,
        &[
            (40, &0x7fe_0000u32.to_le_bytes()),
            (46, &[9, 0]),
            (48, &0xb2u32.to_le_bytes()),
            (52, &[0xf1]),
            (56, &0x600u32.to_le_bytes()),
            (64, &0x604u32.to_le_bytes()),
            (76, &0x608u32.to_le_bytes()),
        ],
    );
    let fadt = Fadt::parse(&table).unwrap();
    let port = |address| Some(Register { space: Space::Port, address });
    assert_eq!(fadt.dsdt, 0x7fe_0000);
    assert_eq!(fadt.control, (port(0x604), None));
    assert!(!fadt.is_reduced);
    assert_eq!(fadt.button, Some(Button { blocks: (port(0x600), None), width: 2, interrupt: 9 }));
    assert_eq!(fadt.timer, port(0x608).map(|register| (register, 24)));
    assert_eq!(fadt.enable, Some((0xb2, 0xf1)));
    assert_eq!((fadt.reset, fadt.sleep), (None, None));
}

#[test]
fn the_fadt_of_reduced_hardware_has_no_ports_of_the_old_kind() {
    let flags = 1u32 << 20 | 1 << 10;
    let register = |address: u64| [&[0u8, 8, 0, 1][..], &address.to_le_bytes()].concat();
    let table = parsed(
        b"FACP",
        268,
        &[
            (56, &0x600u32.to_le_bytes()),
            (64, &0x604u32.to_le_bytes()),
            (112, &flags.to_le_bytes()),
            (116, &register(0xfea0_0202)),
            (128, &[0x42]),
            (140, &0x1234u64.to_le_bytes()),
            (244, &register(0xfea0_0200)),
        ],
    );
    let fadt = Fadt::parse(&table).unwrap();
    let memory = |address| Register { space: Space::Memory, address };
    assert_eq!(fadt.control, (None, None));
    assert_eq!(fadt.sleep, Some(memory(0xfea0_0200)));
    assert_eq!(fadt.reset, Some((memory(0xfea0_0202), 0x42)));
    assert_eq!(fadt.dsdt, 0x1234);
    assert!(fadt.is_reduced);
    assert_eq!((fadt.button, fadt.battery_clock), (None, None));
}

#[test]
fn a_button_that_is_none_of_the_fixed_kind_is_not_looked_for_there() {
    let table = |flags: u32, length: u8| {
        let fields: [(usize, &[u8]); 3] =
            [(56, &0x600u32.to_le_bytes()), (88, &[length]), (112, &flags.to_le_bytes())];
        Fadt::parse(&parsed(b"FACP", 116, &fields)).unwrap().button
    };
    assert_eq!(table(1 << 4, 4), None);
    assert_eq!(table(0, 8).unwrap().width, 4);
    assert_eq!(table(0, 255).unwrap().width, 16, "absurd lengths reach nothing far away");
}

#[test]
fn the_clock_with_a_battery_is_there_unless_it_is_denied() {
    let clock = |flags: u16| {
        let fields: [(usize, &[u8]); 2] = [(108, &[0x32]), (109, &flags.to_le_bytes())];
        Fadt::parse(&parsed(b"FACP", 116, &fields)).unwrap().battery_clock
    };
    assert_eq!((clock(0), clock(3), clock(1 << 5)), (Some(0x32), Some(0x32), None));
}

#[test]
fn an_interrupt_that_arrives_under_another_number_is_found_there() {
    let entries = [2u8, 10, 0, 0, 2, 0, 0, 0, 0, 0, 2, 10, 0, 9, 20, 0, 0, 0, 13, 0];
    let madt = Madt::parse(&parsed(b"APIC", 44 + entries.len(), &[(44, &entries)]));
    assert_eq!((madt.global(9), madt.global(0), madt.global(5)), (20, 2, 5));
}

/// A Generic Event Device as QEMU's microvm has it; the address of its register, an integer, stands at the end.
const EVENT_DEVICE: &[u8] = b"\x5b\x82\x30GED_\x08_HID\x0dACPI0013\0\x08_UID\x0dGED\0\x08_CRS\x11\x0e\x0a\x0b\x89\x06\0\x03\x01\x09\0\0\0\x79\0\x5b\x80EREG\0";

#[test]
fn the_event_devices_that_are_known_are_found_and_no_others() {
    let code = [EVENT_DEVICE, b"\x0c\0\0\xa0\xfe\x0a\x04"].concat();
    let event = Event { address: 0xfea0_0000, width: 4, button: 2, interrupt: Some(9) };
    assert_eq!(Event::find(&code), Some(event));
    // Cloud Hypervisor's has a wider integer and lies before the device.
    let region = [b"\x5b\x80GDST\0\x0e".as_slice(), &0x3f_0000_0000u64.to_le_bytes(), b"\x01"].concat();
    let device =
        b"\x08_HID\x0dACPI0013\0\x08_UID\0\x08_CRS\x11\x0b\x0a\x09\x89\x06\0\x03\x01\x0b\0\0\0\x79\0";
    let event = Event { address: 0x3f_0000_0000, width: 1, button: 8, interrupt: Some(11) };
    assert_eq!(Event::find(&[&region[..], device].concat()), Some(event));
    assert_eq!(Event::find(&region), None, "without the device");
    // An address that is none, and every place to be cut off at.
    assert_eq!(Event::find(&[EVENT_DEVICE, b"\x0c\x01\0\xa0\xfe"].concat()), None);
    assert_eq!(Event::find(&[EVENT_DEVICE, b"\x0c\0\0\0\0"].concat()), None);
    let integer = code.len() - 2;
    assert!((0..integer).all(|length| Event::find(&code[..length]).is_none()));
}

#[test]
fn a_register_in_a_space_we_do_not_know_is_none() {
    let table =
        parsed(b"FACP", 268, &[(112, &(1u32 << 10).to_le_bytes()), (116, &[2, 8, 0, 1, 1]), (128, &[6])]);
    assert_eq!(Fadt::parse(&table).unwrap().reset, None);
}

#[test]
fn the_madt_is_read_as_far_as_its_entries_make_sense() {
    let io_apic = |address: u32, first: u32| {
        [&[1u8, 12, 0, 0][..], &address.to_le_bytes(), &first.to_le_bytes()].concat()
    };
    let entries = [
        vec![0u8, 8, 0, 0, 1, 0, 0, 0],
        io_apic(0xfec0_0000, 0),
        vec![2, 10, 0, 0, 2, 0, 0, 0, 0, 0],
        io_apic(0xfec1_0000, 24),
        vec![2, 10, 0, 11, 19, 0, 0, 0, 0xd, 0],
        vec![2, 10, 0, 10, 18, 0, 0, 0, 0xf, 0],
        // Too short to say anything.
        vec![2, 8, 0, 5, 5, 0, 0, 0],
        vec![1, 0],
    ]
    .concat();
    let table = parsed(b"APIC", 44 + entries.len(), &[(40, &[1]), (44, &entries)]);
    let madt = Madt::parse(&table);
    assert!(madt.is_pc);
    assert_eq!(
        madt.io_apics,
        [IoApic { address: 0xfec0_0000, first: 0 }, IoApic { address: 0xfec1_0000, first: 24 }]
    );
    let other = |source, global, is_high| Override { source, global, is_high };
    assert_eq!(madt.overrides, [other(0, 2, false), other(11, 19, true), other(10, 18, false)]);
}

#[test]
fn the_event_timers_are_where_their_table_says_if_they_can_be() {
    let table = |space: u8, address: u64| {
        event_timer(&parsed(b"HPET", 56, &[(40, &[space, 64, 0, 0]), (44, &address.to_le_bytes())]))
    };
    assert_eq!(table(0, 0xfed0_0000), Some(0xfed0_0000));
    assert_eq!((table(1, 0xfed0_0000), table(0, 0), table(0, 0xfed0_0004)), (None, None, None));
}

#[test]
fn the_mcfg_entry_of_segment_zero_is_taken() {
    let entry =
        |base: u64, segment: u8| [&base.to_le_bytes()[..], &[segment, 0, 0, 255, 0, 0, 0, 0]].concat();
    let entries = [entry(0x1_0000_0000, 1), entry(0xb000_0000, 0)].concat();
    let table = parsed(b"MCFG", 44 + entries.len(), &[(44, &entries)]);
    assert_eq!(ecam(&table), Some(Ecam { base: 0xb000_0000, buses: (0, 255) }));
    assert_eq!(ecam(&parsed(b"MCFG", 50, &[])), None);
    for nowhere in [0, 0xb000_0001, 0xffff_ffff_fff0_0000_u64] {
        let entry = [&nowhere.to_le_bytes()[..], &[0, 0, 0, 255, 0, 0, 0, 0]].concat();
        assert_eq!(ecam(&parsed(b"MCFG", 60, &[(44, &entry)])), None, "{nowhere:#x}");
    }
}

#[test]
fn soft_off_is_found_in_byte_code() {
    // As on QEMU's boards with and without PCI, and written by hand with a word and a root prefix.
    assert_eq!(soft_off(b"\x10\x08_S5_\x12\x06\x04\x00\x00\x00\x00"), Some((0, 0)));
    assert_eq!(soft_off(b"\x08_S5_\x12\x08\x04\x0a\x05\x00\x00\x00"), Some((5, 0)));
    assert_eq!(soft_off(b"\x08\\_S5_\x12\x40\x09\x02\x0b\x07\x00\x01"), Some((7, 1)));
    assert_eq!(soft_off(b"\x08_S5_\x12\x02\x01\x01"), Some((1, 1)));
}

#[test]
fn what_only_looks_like_soft_off_is_passed_by() {
    assert_eq!(soft_off(b"_S5_"), None);
    assert_eq!(soft_off(b"\x08_S5_\x12\x06\x04\x0a\x09\x00"), None);
    assert_eq!(soft_off(b"call _S5_ here"), None);
    let code = b"\x08_S5_\x12\x08\x04\x0a\x05\x00\x00\x00";
    for length in 0..code.len() - 4 {
        assert_eq!(soft_off(&code[..length]), None, "{length}");
    }
    assert_eq!(soft_off(b"_S5_\x08_S5_\x12\x08\x04\x0a\x05\x0a\x03\x00\x00"), Some((5, 3)));
}

#[test]
fn the_root_prefers_the_wide_list() {
    let mut old = b"RSD PTR \0BOCHS \0\x11\x22\x33\x04".to_vec();
    old[8] = 0u8.wrapping_sub(table::sum(&old));
    let root = Root::parse(&old, Vec::new).unwrap();
    assert_eq!((root.list, root.wide), (0x0433_2211, false));
    old[15] = 2;
    old[8] = old[8].wrapping_sub(2);
    let mut new = old.clone();
    new.extend([36, 0, 0, 0]);
    new.extend(0x1_0000_0000u64.to_le_bytes());
    new.extend([0; 4]);
    new[32] = 0u8.wrapping_sub(table::sum(&new));
    let root = Root::parse(&old, || new.clone()).unwrap();
    assert_eq!((root.list, root.wide), (0x1_0000_0000, true));
    new[33] ^= 1;
    assert!(!Root::parse(&old, || new.clone()).unwrap().wide);
    old[9] ^= 1;
    assert!(Root::parse(&old, Vec::new).is_none());
}

/// The table of a TCO timer, of which `entries` are another number and `change` changes the last.
fn watchdog(count: u32, change: &[(usize, &[u8])]) -> Option<Wdat> {
    let entry = |action: u8, instruction: u8, port: u16, value: u32, mask: u32| {
        let mut entry = vec![action, instruction, 0, 0, 1, 16, 0, 2];
        entry.extend(u64::from(port).to_le_bytes());
        entry.extend(value.to_le_bytes());
        entry.extend(mask.to_le_bytes());
        entry
    };
    let mut last = entry(0x09, 0x82, 0x668, 0, 0x800);
    change.iter().for_each(|(at, bytes)| last[*at..at + bytes.len()].copy_from_slice(bytes));
    let entries = [entry(0x01, 2, 0x660, 1, 1), entry(0x06, 3, 0x672, 0, 0x3ff), last].concat();
    let fields: [(usize, &[u8]); 5] = [
        (48, &600u32.to_le_bytes()),
        (52, &1023u32.to_le_bytes()),
        (56, &4u32.to_le_bytes()),
        (64, &count.to_le_bytes()),
        (68, &entries),
    ];
    Wdat::parse(&parsed(b"WDAT", 68 + entries.len(), &fields))
}

#[test]
fn a_watchdog_table_is_read_whole_or_not_at_all() {
    let table = watchdog(3, &[]).unwrap();
    assert_eq!((table.period, table.counts, table.entries.len()), (600, (4, 1023), 3));
    let last = table.entries[2];
    assert_eq!((last.action, last.width, last.shift, last.mask), (9, 2, 0, 0x800));
    assert_eq!(last.instruction, Entry::WRITES | Entry::PRESERVES);
    assert_eq!(watchdog(2, &[]).unwrap().entries.len(), 2);
    for count in [0, 4, 65, u32::MAX] {
        assert_eq!(watchdog(count, &[]), None, "{count} entries");
    }
    for (at, bytes) in [(1, &[4][..]), (4, &[2]), (6, &[32]), (7, &[4]), (7, &[3, 0x6a]), (8, &[0; 8])] {
        assert_eq!(watchdog(3, &[(at, bytes)]), None, "{at}: {bytes:?}");
    }
    // Without the size of the access that of the register counts.
    assert_eq!(watchdog(3, &[(7, &[0])]).unwrap().entries[2].width, 2);
}
