//! The manual page and the completions, made of the very command line that is parsed.

use crate::arguments;
use crate::failure::{Exit, Failure, Outcome};
use crate::screen::Screen;

/// A completion script.
pub(crate) fn completion(screen: &Screen, shell: clap_complete::Shell) -> Outcome<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut arguments::command(false), "corbelctl", &mut script);
    screen.put(&String::from_utf8_lossy(&script));
    Ok(Exit::Done)
}

/// When what the page describes last changed.
const DATE: &str = "2026-11-26";

/// The manual page: the whole, and a section for each command.
pub(crate) fn page(screen: &Screen) -> Outcome<Exit> {
    let mut page = Vec::new();
    write(&mut page).map_err(|error| Failure::Here(error.to_string()))?;
    screen.put(&String::from_utf8_lossy(&page));
    Ok(Exit::Done)
}

fn write(page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut command = arguments::command(false);
    command.build();
    let man = clap_mangen::Man::new(command.clone()).date(DATE).source("Corbel").manual("Corbel");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        section(page, sub)?;
    }
    man.render_extra_section(page)?;
    man.render_version_section(page)
}

/// A section of one command, and those of what is below it.
fn section(page: &mut Vec<u8>, command: &clap::Command) -> std::io::Result<()> {
    use std::io::Write;
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name()).to_uppercase();
    writeln!(page, ".SH \"{name}\"")?;
    let own = command.clone().args([] as [clap::Arg; 0]);
    let about = own.get_about().map(ToString::to_string).unwrap_or_default();
    writeln!(page, "{}", roff(&about))?;
    for argument in own.get_arguments().filter(|argument| !argument.is_global_set() && !is_help(argument)) {
        writeln!(page, ".TP\n{}", roff(&argument.to_string()))?;
        writeln!(page, "{}", roff(&argument.get_help().map(ToString::to_string).unwrap_or_default()))?;
    }
    for sub in own.get_subcommands().filter(|sub| sub.get_name() != "help") {
        section(page, sub)?;
    }
    Ok(())
}

fn is_help(argument: &clap::Arg) -> bool {
    matches!(argument.get_id().as_str(), "help" | "version")
}

/// Text that roff takes for nothing else.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('-', "\\-").replace('\n', " ");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
