//! `corbel-service`: see the library.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--help") {
        print!("{}", tests_service::HELP);
        return ExitCode::SUCCESS;
    }
    match tests_service::run(words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("corbel-service: {reason}");
            ExitCode::FAILURE
        }
    }
}
