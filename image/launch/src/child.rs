//! The smallest virtual machine there is: a kernel of a few bytes that says one line and halts for ever.
//!
//! It is what the agent runs in the tour and in the tests of the command path: a real guest in a real hypervisor,
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
    fs::write(path, elf()).context(path.display())
}

fn elf() -> Vec<u8> {
    let note_at = ELF_HEADER + 2 * PROGRAM_HEADER;
    let code_at = note_at + NOTE;
    let address = |offset: usize| BASE + u32::try_from(offset).unwrap_or_default();
    let code = code(address(code_at));
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
