//! The boot, on one page.

use crate::console::{self, print_line};
use crate::memory::{self, BootMapping};
use crate::pvh::StartInfo;
use crate::{entry, power};
use alloc::string::String;

/// What a program gets: the machine, ready. There is one, and the program is the only one to use it.
pub struct Machine {
    command_line: String,
}

impl Machine {
    /// The kernel command line; bytes that are not UTF-8 are replaced.
    pub fn command_line(&self) -> &str {
        &self.command_line
    }
}

/// From the entry code to the program.
pub(crate) extern "C" fn start(start_info: u64) -> ! {
    console::init();
    let info = match StartInfo::read(&BootMapping, start_info) {
        Ok(info) => info,
        Err(reason) => panic!("{reason}"),
    };
    memory::init(&info);
    let command_line = memory::copy_physical(info.command_line).unwrap_or_default();
    let command_line = String::from_utf8_lossy(&command_line).into_owned();
    let machine = Machine { command_line };
    print_line!("{:?} total {} free {}", memory::check_rights(), memory::total(), memory::free());
    let _ = power::Exit::Success;
    entry::program(machine)
}
