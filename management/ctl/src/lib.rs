//! `corbelctl` as a library: the program is its [`main`], and nothing else is meant for others.
#![forbid(unsafe_code)]

mod advice;
mod api;
mod arguments;
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
use arguments::{Arguments, Command};
use clap::Parser;
use failure::{Exit, Failure, Outcome};
use link::Link;
use progress::Interrupt;
use screen::Screen;
use std::ffi::OsString;
use std::process::ExitCode;

/// Do what the words of a command line say, the program's name first.
pub fn main(words: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(words) {
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
        _ => {}
    }
    let here = |error: &dyn std::fmt::Display| Failure::Here(error.to_string());
    let interrupt = Interrupt::catch().map_err(|error| here(&error))?;
    let link = Link::new(arguments.connection.endpoint(screen)?).map_err(|error| here(&error))?;
    let mut api = Api::new(link, screen, interrupt);
    commands::run(&mut api, &arguments.command)
}
