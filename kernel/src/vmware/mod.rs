//! VMware's door from a machine to its hypervisor: what the one who configures the machine has noted for it (guestinfo).
//!
//! The door is an I/O port, of which any other machine knows nothing or something else; so it is touched only where the
//! hypervisor calls itself VMware.

mod rpc;

use crate::hypervisor::Hypervisor;
use alloc::vec::Vec;
use core::arch::asm;
pub use rpc::Error;
use rpc::{Door, PORT, Registers};

/// The ports of the door, first and last; the later one is for many bytes at a time, and not used.
pub(crate) const PORTS: (u16, u16) = (PORT, PORT + 1);

struct Host;

impl Door for Host {
    fn call(&mut self, registers: Registers) -> Registers {
        let Registers { mut a, b, mut c, mut d, mut source, mut destination } = registers;
        let mut b = u64::from(b);
        // SAFETY: the hypervisor is VMware, so this is its door: it answers in these registers, and touches no memory by the
        // commands of `rpc`. The compiler keeps RBX for itself, so that is exchanged around it.
        unsafe {
            asm!(
                "xchg rbx, {b}",
                "in eax, dx",
                "xchg rbx, {b}",
                b = inout(reg) b,
                inout("eax") a,
                inout("ecx") c,
                inout("edx") d,
                inout("esi") source,
                inout("edi") destination,
                options(nomem, nostack, preserves_flags),
            );
        }
        Registers { a, b: b as u32, c, d, source, destination }
    }
}

/// What is noted for us as `key`, such as `guestinfo.corbel.config`; `None` where nothing is, and with other hypervisors than
/// VMware's. `longest` is how many bytes it may have.
///
/// # Errors
/// See [`Error`].
pub fn guestinfo(key: &str, longest: usize) -> Result<Option<Vec<u8>>, Error> {
    if Hypervisor::of_machine() != Some(Hypervisor::Vmware) {
        return Ok(None);
    }
    rpc::guestinfo(&mut Host, key, longest)
}
