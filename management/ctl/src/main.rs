//! `corbelctl`: commands an appliance from a terminal or a script.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    management_ctl::main(std::env::args_os())
}
