//! `corbelctl` as a library: the program is its [`main`], and nothing else is meant for others.
#![forbid(unsafe_code)]

mod advice;
mod api;
mod arguments;
mod clock;
mod commands;
mod failure;
mod link;
mod plain;
mod progress;
mod screen;
mod settings;
mod span;
mod table;

use api::Api;
use arguments::{Arguments, Audit, AuditAction, Command};
use clap::FromArgMatches;
use failure::{Exit, Failure, Outcome};
use link::Link;
use progress::Interrupt;
use screen::Screen;
use std::ffi::OsString;
use std::process::ExitCode;

/// Do what the words of a command line say, the program's name first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = words.into_iter().collect();
    let program = arguments::command(false);
    let names_one =
        |word: &OsString| word.to_str().is_some_and(|word| program.find_subcommand(word).is_some());
    let of_one = words.iter().skip(1).any(names_one);
    let parsed = arguments::command(of_one).try_get_matches_from(words);
    let arguments = match parsed.and_then(|matches| Arguments::from_arg_matches(&matches)) {
        Ok(arguments) => arguments,
        Err(error) => {
            let _nobody_reads = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let screen = Screen::new(arguments.output.json, arguments.output.verbose, arguments.output.color);
    let exit = run(&arguments, &screen).unwrap_or_else(|failure| {
        failure.report(&screen);
        failure.exit()
    });
    exit.into()
}

fn run(arguments: &Arguments, screen: &Screen) -> Outcome<Exit> {
    match &arguments.command {
        Command::Completion { shell } => return commands::manual::completion(screen, *shell),
        Command::Man => return commands::manual::page(screen),
        // A file can be looked at where no appliance is.
        Command::Audit(Audit { action: Some(AuditAction::Verify(verify)), .. }) => {
            if let Some(file) = &verify.from {
                return commands::audit::verify_file(screen, file, verify);
            }
        }
        _ => {}
    }
    let here = |error: &dyn std::fmt::Display| Failure::Here(error.to_string());
    let interrupt = Interrupt::catch().map_err(|error| here(&error))?;
    let link = Link::new(arguments.connection.endpoint(screen)?).map_err(|error| here(&error))?;
    let mut api = Api::new(link, screen, interrupt);
    commands::run(&mut api, &arguments.command)
}
