//! What a program gets.

use crate::entropy::{self, NoEntropy};
use crate::interrupt::{self, APIC};
use crate::memory::ranges::Range;
use crate::{clock, console, fw_cfg, memory, pvh, vmware};
use alloc::string::String;
use alloc::vec::Vec;
use kernel_io::Mmio;

/// The longest table of firmware's that is copied.
const LONGEST_TABLE: u64 = 1 << 20;

/// The machine, ready: memory, interrupts, time, randomness. There is one, and the program is the only one to use it.
///
/// Times are microseconds since the first instruction, and never go back.
pub struct Machine {
    command_line: String,
    modules: Vec<Module>,
}

/// A file that the loader has put into memory for us: a PVH module.
#[derive(Debug)]
pub struct Module {
    /// Its own command line, by which loaders name it; bytes that are not UTF-8 are replaced.
    pub name: String,
    contents: Range,
}

impl Module {
    pub(crate) fn new(module: &pvh::Module) -> Self {
        let name = memory::copy_physical(module.command_line).unwrap_or_default();
        Self { name: String::from_utf8_lossy(&name).into_owned(), contents: module.contents }
    }

    /// Its length in bytes, as the loader says.
    pub fn length(&self) -> u64 {
        self.contents.length()
    }

    /// A copy of it; `None` when it cannot be mapped or memory is short.
    pub fn read(&self) -> Option<Vec<u8>> {
        memory::copy_physical(self.contents)
    }
}

impl Machine {
    pub(crate) fn new(command_line: String, modules: Vec<Module>) -> Self {
        Self { command_line, modules }
    }

    /// The kernel command line; bytes that are not UTF-8 are replaced.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }

    /// The loader's files, in its order.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// A file that QEMU was given for us (`-fw_cfg name=opt/…`); `None` on other hypervisors and without the file.
    ///
    /// # Errors
    /// See [`fw_cfg::Error`].
    pub fn fw_cfg(&self, name: &str) -> Result<Option<Vec<u8>>, fw_cfg::Error> {
        fw_cfg::read(name)
    }

    /// What VMware's guestinfo has as `key`, of at most `longest` bytes; `None` on other hypervisors and without it.
    ///
    /// # Errors
    /// See [`vmware::Error`].
    pub fn guestinfo(&self, key: &str, longest: usize) -> Result<Option<Vec<u8>>, vmware::Error> {
        vmware::guestinfo(key, longest)
    }

    /// Whether what is logged has a serial port to go to.
    pub fn has_console(&self) -> bool {
        console::is_present()
    }

    /// Take text that was logged and has no serial port to go to; answers how many bytes of `room` it takes.
    pub fn take_log(&self, room: &mut [u8]) -> usize {
        console::take(room)
    }

    /// Where last words go on a machine without a serial port, when it ends without the program, and with them all that was not
    /// taken before: a register of 32 bits that takes a character at any time (virtio-console's `emerg_wr`).
    pub fn say_last_by(&self, register: &Mmio) {
        console::set_last_resort(register);
    }

    /// A copy of what firmware left in physical memory, a table of its; `None` when it cannot be mapped, is longer than a MiB,
    /// or memory is short.
    pub fn firmware(&self, address: u64, length: u64) -> Option<Vec<u8>> {
        let range = Range::with_length(address, length);
        (range.length() <= LONGEST_TABLE).then(|| memory::copy_physical(range)).flatten()
    }

    /// Bytes of RAM that the hypervisor lets us use.
    pub fn memory(&self) -> u64 {
        memory::total()
    }

    /// Bytes of the heap that are free, in all; the largest block that can be had is smaller.
    pub fn free_memory(&self) -> usize {
        memory::free()
    }

    /// Microseconds since the first instruction.
    pub fn now(&self) -> u64 {
        clock::micros()
    }

    /// Sleep until `deadline` or an interrupt, whichever is first; without a deadline until an interrupt. It returns at
    /// once, and once, for an interrupt that has come since its driver last looked (`kernel_io::Irq::take`), and may return
    /// early; no wake-up is ever lost to drivers that look before each time that the machine idles.
    pub fn idle(&self, deadline: Option<u64>) {
        let deadline = interrupt::limit(deadline, clock::micros);
        if let Some(apic) = APIC.get()
            && clock::arm(apic, deadline)
        {
            interrupt::wait();
        }
        interrupt::tick();
    }

    /// Fill `out` with randomness fit for secrets.
    ///
    /// # Errors
    /// [`NoEntropy`] as long as no good source has been mixed in ([`entropy::add`]).
    pub fn random(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        entropy::fill(out)
    }
}
