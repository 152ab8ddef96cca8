//! The smallest virtual machines there are: kernels of a few bytes that say one line and halt. One hears nothing of
//! what it is asked; the other does what an operating system would: it lets go of a device that is to be unplugged, and
//! powers off when its button is pressed.
//!
//! They are what the agent runs in the tour and in the tests of the command path: real guests in a real hypervisor,
//! made here rather than fetched.

use crate::{Context, Result};
use std::fs;
use std::path::Path;

/// What it says on its first serial port.
pub const GREETING: &str = "child: running\n";

/// Where it is loaded.
const BASE: u32 = 0x0010_0000;
const ELF_HEADER: usize = 52;
const PROGRAM_HEADER: usize = 32;
const NOTE: usize = 20;

/// Writes the kernel to `path`: an ELF that QEMU's `-kernel` boots by its PVH note, in 32-bit protected mode.
///
/// # Errors
/// When the file cannot be written.
pub fn write(path: &Path) -> Result<()> {
    fs::write(path, elf(code)).context(path.display())
}

/// Writes the kernel of a guest that obeys, for QEMU's board `pc` with SeaBIOS: eighteen times a second it looks whether
/// the power button was pressed (ACPI's PM1 status at port 0x600) and which devices of bus 0 are to be ejected
/// (`docs/specs/acpi_pci_hotplug` of QEMU: 0xae04 and 0xae08).
///
/// # Errors
/// When the file cannot be written.
pub fn write_obedient(path: &Path) -> Result<()> {
    fs::write(path, elf(obedient)).context(path.display())
}

fn elf(program: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    let note_at = ELF_HEADER + 2 * PROGRAM_HEADER;
    let code_at = note_at + NOTE;
    let address = |offset: usize| BASE + u32::try_from(offset).unwrap_or_default();
    let code = program(address(code_at));
    let length = u32::try_from(code_at + code.len()).unwrap_or_default();

    let mut bytes = b"\x7fELF\x01\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2, 0, 3, 0]); // an executable for the 80386
    words(&mut bytes, &[1, address(code_at), u32::try_from(ELF_HEADER).unwrap_or_default(), 0, 0]);
    for half in [ELF_HEADER, PROGRAM_HEADER, 2, 40, 0, 0] {
        bytes.extend(u16::try_from(half).unwrap_or_default().to_le_bytes());
    }
    // PT_LOAD: the whole file, readable, writable and executable. PT_NOTE: the entry point.
    words(&mut bytes, &[1, 0, BASE, BASE, length, length, 7, 4096]);
    let note = u32::try_from(note_at).unwrap_or_default();
    words(
        &mut bytes,
        &[4, note, address(note_at), address(note_at), u32::try_from(NOTE).unwrap_or_default(), 0, 4, 4],
    );
    // XEN_ELFNOTE_PHYS32_ENTRY
    words(&mut bytes, &[4, 4, 18]);
    bytes.extend(b"Xen\0");
    words(&mut bytes, &[address(code_at)]);
    bytes.extend(code);
    bytes
}

/// Machine code that is loaded at `at`.
fn code(at: u32) -> Vec<u8> {
    let mut code = vec![0xbe]; // mov esi, text
    let text = at + 20;
    code.extend(text.to_le_bytes());
    code.extend([0x66, 0xba, 0xf8, 0x03]); // mov dx, 0x3f8
    code.extend([0xac, 0x84, 0xc0]); // next: lodsb; test al, al
    code.extend([0x74, 0x03]); // jz halt
    code.extend([0xee, 0xeb, 0xf8]); // out dx, al; jmp next
    code.extend([0xf4, 0xeb, 0xfd]); // halt: hlt; jmp halt
    code.extend(GREETING.as_bytes());
    code.push(0);
    code
}

/// Machine code of the guest that obeys, loaded at `at`.
fn obedient(at: u32) -> Vec<u8> {
    let mut code = OBEDIENT.concat();
    for (place, target) in ADDRESSES {
        code[*place..*place + 4].copy_from_slice(&(at + target).to_le_bytes());
    }
    code.extend(GREETING.as_bytes());
    code.push(0);
    code
}

/// Its instructions, with zeros where an address goes.
const OBEDIENT: &[&[u8]] = &[
    &[0xbc, 0, 0, 0, 0],                         // mov esp, stack
    &[0x0f, 0x01, 0x15, 0, 0, 0, 0],             // lgdt [gdtr]
    &[0xea, 0, 0, 0, 0, 8, 0],                   // jmp 8:flat
    &[0x66, 0xb8, 0x10, 0],                      // flat: mov ax, 16
    &[0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xd0],       // mov ds, ax; mov es, ax; mov ss, ax
    &[0xbf, 0, 0, 0, 0],                         // mov edi, gates
    &[0xb9, 48, 0, 0, 0],                        // mov ecx, 48
    &[0xb8, 0, 0, 0, 0],                         // gate: mov eax, tick
    &[0x66, 0x89, 0x07],                         // mov [edi], ax
    &[0x66, 0xc7, 0x47, 2, 8, 0],                // mov word [edi + 2], 8
    &[0x66, 0xc7, 0x47, 4, 0, 0x8e],             // mov word [edi + 4], 0x8e00
    &[0xc1, 0xe8, 16, 0x66, 0x89, 0x47, 6],      // shr eax, 16; mov [edi + 6], ax
    &[0x83, 0xc7, 8, 0xe2, 0xe0],                // add edi, 8; loop gate
    &[0x0f, 0x01, 0x1d, 0, 0, 0, 0],             // lidt [idtr]
    &[0xb0, 0x11, 0xe6, 0x20],                   // the interrupt controller begins anew,
    &[0xb0, 0x20, 0xe6, 0x21],                   // its interrupts from 32 on,
    &[0xb0, 0x04, 0xe6, 0x21],                   //
    &[0xb0, 0x01, 0xe6, 0x21],                   //
    &[0xb0, 0xfe, 0xe6, 0x21],                   // and lets only the timer through
    &[0xbe, 0, 0, 0, 0],                         // mov esi, text
    &[0x66, 0xba, 0xf8, 0x03],                   // mov dx, 0x3f8
    &[0xac, 0x84, 0xc0, 0x74, 3],                // next: lodsb; test al, al; jz said
    &[0xee, 0xeb, 0xf8],                         // out dx, al; jmp next
    &[0x66, 0xba, 0x02, 0x06],                   // said: mov dx, 0x602
    &[0x66, 0xb8, 0x00, 0x01, 0x66, 0xef],       // mov ax, 0x100; out dx, ax: the power button is heard
    &[0xfb, 0xf4],                               // wait: sti; hlt
    &[0x66, 0xba, 0x00, 0x06, 0x66, 0xed],       // mov dx, 0x600; in ax, dx
    &[0xf6, 0xc4, 1, 0x74, 10],                  // test ah, 1; jz on
    &[0x66, 0xba, 0x04, 0x06],                   // mov dx, 0x604
    &[0x66, 0xb8, 0x00, 0x20, 0x66, 0xef],       // mov ax, 0x2000; out dx, ax: off
    &[0x31, 0xc0, 0x66, 0xba, 0x10, 0xae, 0xef], // on: xor eax, eax; mov dx, 0xae10; out dx, eax: bus 0
    &[0x66, 0xba, 0x04, 0xae, 0xed],             // mov dx, 0xae04; in eax, dx: what is to go
    &[0x85, 0xc0, 0x74, 0xd9],                   // test eax, eax; jz wait
    &[0x66, 0xba, 0x08, 0xae, 0xef],             // mov dx, 0xae08; out dx, eax: let it go
    &[0xeb, 0xd2],                               // jmp wait
    &[0x50, 0xb0, 0x20, 0xe6, 0x20, 0x58, 0xcf], // tick: push eax; mov al, 0x20; out 0x20, al; pop eax; iret
    &[0, 0, 0, 0, 0, 0, 0, 0],                   // the segments: none,
    &[0xff, 0xff, 0, 0, 0, 0x9a, 0xcf, 0],       // code
    &[0xff, 0xff, 0, 0, 0, 0x92, 0xcf, 0],       // and data, all of memory
    &[23, 0, 0, 0, 0, 0],                        // gdtr
    &[0x7f, 1, 0, 0, 0, 0],                      // idtr
];

/// Where an address stands in it, and what it is the address of, both from its start.
const ADDRESSES: &[(usize, u32)] = &[
    (0x01, 0x2000),
    (0x08, 0xca),
    (0x0d, 0x13),
    (0x1e, 0x1000),
    (0x28, 0xab),
    (0x4a, 0xd0),
    (0x63, 0xd6),
    (0xcc, 0xb2),
    (0xd2, 0x1000),
];

fn words(bytes: &mut Vec<u8>, words: &[u32]) {
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::{Board, Machine, Spec};
    use crate::net::{self, Net};
    use crate::scratch::Scratch;
    use std::time::Duration;

    #[test]
    fn the_text_stands_where_the_code_looks_for_it() {
        let code = code(0x1000);
        assert_eq!(&code[20..20 + GREETING.len()], GREETING.as_bytes());
        assert_eq!(u32::from_le_bytes([code[1], code[2], code[3], code[4]]), 0x1000 + 20);
    }

    #[test]
    fn the_one_that_obeys_powers_off_when_its_button_is_pressed() {
        assert_eq!(OBEDIENT.concat().len(), 0xd6);
        crate::setup::ensure(crate::setup::RUN).unwrap();
        let scratch = Scratch::new().unwrap();
        let net = Net::new(net::Options { user_mode: true, ..net::Options::default() }, &scratch).unwrap();
        let kernel = scratch.file("child.elf");
        write_obedient(&kernel).unwrap();
        let (command_line, arguments) =
            (String::new(), ["-bios", "bios-256k.bin"].map(String::from).to_vec());
        let spec =
            Spec { name: "obedient".into(), board: Board::Pc, memory: 16, kernel, command_line, arguments };
        let mut machine = Machine::start(&net, &scratch, &spec).unwrap();
        machine.wait_for(GREETING.trim(), Duration::from_secs(60)).unwrap();
        machine.qmp().unwrap().execute("system_powerdown", &serde_json::json!({})).unwrap();
        assert!(machine.process().wait(Duration::from_secs(20)).unwrap().success());
    }

    #[test]
    fn it_boots_on_every_board() {
        crate::setup::ensure(crate::setup::RUN).unwrap();
        let scratch = Scratch::new().unwrap();
        let net = Net::new(net::Options { user_mode: true, ..net::Options::default() }, &scratch).unwrap();
        let kernel = scratch.file("child.elf");
        write(&kernel).unwrap();
        for board in Board::ALL {
            let (name, kernel) = (board.name().to_string(), kernel.clone());
            let (command_line, arguments) = (String::new(), Vec::new());
            let spec = Spec { name, board, memory: 16, kernel, command_line, arguments };
            let mut machine = Machine::start(&net, &scratch, &spec).unwrap();
            machine.wait_for(GREETING.trim(), Duration::from_secs(60)).unwrap();
        }
    }
}
