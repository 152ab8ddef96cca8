//! The agent as a program.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    agent::main(std::env::args_os().skip(1))
}
