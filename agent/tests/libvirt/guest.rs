//! The two smallest guests: boot sectors. One obeys, as an operating system would; the other hears nothing.
//!
//! The obedient one is for the board `pc` with SeaBIOS. Eighteen times a second, at each tick of the timer, it looks
//! whether the power button was pressed (ACPI's PM1 status, port 0x600, after its enable bit at 0x602 was set) and which
//! devices of bus 0 are to be ejected (0xae04 and 0xae08 of QEMU's `acpi_pci_hotplug`).

use std::path::Path;

const OBEDIENT: &[u8] = &[
    0xba, 0x02, 0x06, 0xb8, 0x00, 0x01, 0xef, // mov dx, 0x602; mov ax, 0x100; out dx, ax
    0xba, 0x10, 0xae, 0x66, 0x31, 0xc0, 0x66, 0xef, // mov dx, 0xae10; xor eax, eax; out dx, eax
    // look:
    0xfb, 0xf4, // sti; hlt
    0xba, 0x04, 0xae, 0x66, 0xed, // mov dx, 0xae04; in eax, dx
    0x66, 0x85, 0xc0, 0x74, 0x05, // test eax, eax; jz button
    0xba, 0x08, 0xae, 0x66, 0xef, // mov dx, 0xae08; out dx, eax
    // button:
    0xba, 0x00, 0x06, 0xed, // mov dx, 0x600; in ax, dx
    0xf6, 0xc4, 0x01, 0x74, 0xe6, // test ah, 1; jz look
    0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, // mov dx, 0x604; mov ax, 0x2000; out dx, ax
    0xeb, 0xdd, // jmp look
];

const DEAF: &[u8] = &[0xfa, 0xf4, 0xeb, 0xfc]; // cli; hlt; jmp back

/// Write the disk of a guest.
pub(crate) fn write(path: &Path, obedient: bool) {
    let mut disk = if obedient { OBEDIENT } else { DEAF }.to_vec();
    disk.resize(510, 0);
    disk.extend([0x55, 0xaa]);
    // The BIOS boots from no disk that is smaller than a cylinder.
    disk.resize(4 << 20, 0);
    std::fs::write(path, disk).unwrap();
}
