//! `corbel`: the appliance on this machine, for a look at it, and the roles that the look needs.
#![forbid(unsafe_code)]

use image_launch::{Error, Result, setup};
use std::process::ExitCode;

const HELP: &str = "\
corbel: the control-plane appliance of a cloud host, on this machine

cargo run [-- OPTIONS]          boots the appliance between a storage service and a hypervisor of its own, shows
                                what runs where and what to try, and ends it all on Ctrl-C
  --once                        takes the tour by itself, prints what it saw, and ends; non-zero on any surprise
  --machine NAME                q35 (default), pc or microvm
  --hosted                      the same appliance as a process instead of a virtual machine
  --memory MIB                  memory of the virtual machine (default 64)
  --user-network                QEMU's user-mode network even where TAP devices could be had
  --keep                        leaves consoles, logs and disks behind, and says where

cargo run -- setup [tests|bench]    only installs what is needed (for the tests, for the benchmark)
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match words.first().map(String::as_str) {
        Some("--help" | "-h" | "help") => {
            print!("{HELP}");
            Ok(())
        }
        Some("setup") => install(words.get(1).map(String::as_str)),
        _ => Error::because(format!("unknown\n\n{HELP}")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corbel: {error}");
            ExitCode::FAILURE
        }
    }
}

fn install(what: Option<&str>) -> Result<()> {
    let more = match what {
        None => &[],
        Some("tests") => setup::TESTS,
        Some("bench") => setup::BENCH,
        Some(other) => {
            return Error::because(format!(
                "there is `setup`, `setup tests` and `setup bench`, no `{other}`"
            ));
        }
    };
    setup::ensure(&[setup::RUN, more].concat())?;
    println!("all that is needed is there");
    Ok(())
}
