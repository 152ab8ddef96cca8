//! Commands to instances: what the words of the command line ask for.

use super::follow;
use super::order::{Envelope, Order, What, milliseconds};
use crate::api::Api;
use crate::arguments::{Command, Migrate, Nic, Stop, Terminate, Terms, Volume};
use crate::failure::{Exit, Failure, Outcome};
use agent_protocol::{InstanceId, Size, Then, Verb};
use management_api::Arguments;
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

/// More names are no list of one host's instances.
const NAMES_LIMIT: u64 = 1 << 20;

/// Carry out a command to one instance or several.
pub(super) fn run(api: &mut Api<'_>, command: &Command) -> Outcome<Exit> {
    let none = Arguments::default;
    match command {
        Command::Create(create) => {
            let size = Size { cpus: create.size.cpus, memory_mib: create.size.memory };
            let what = What::Create { image: create.image.clone(), start: create.start, size };
            one(api, &create.name, what, &create.terms)
        }
        Command::Start(of) => many(api, &of.names, Verb::Start, none(), &of.terms),
        Command::Pause(of) => many(api, &of.names, Verb::Pause, none(), &of.terms),
        Command::Resume(of) => many(api, &of.names, Verb::Resume, none(), &of.terms),
        Command::Reset(of) => many(api, &of.names, Verb::Reset, none(), &of.terms),
        Command::Save(of) => many(api, &of.names, Verb::Save, none(), &of.terms),
        Command::Restore(of) => many(api, &of.names, Verb::Restore, none(), &of.terms),
        // There is nothing to wait for then.
        Command::Stop(stop) if stop.force && stop.timeout.is_zero() => {
            many(api, &stop.names, Verb::ForceStop, none(), &stop.terms)
        }
        Command::Stop(stop) => many(api, &stop.names, Verb::Stop, patience(stop), &stop.terms),
        Command::Reboot(stop) => many(api, &stop.names, Verb::Reboot, patience(stop), &stop.terms),
        Command::Snapshot(of) => {
            let arguments = Arguments { snapshot: Some(of.snapshot.clone()), ..none() };
            one(api, &of.name, What::Command(Verb::Snapshot, arguments), &of.terms)
        }
        Command::Revert(of) => {
            let arguments = Arguments { snapshot: Some(of.snapshot.clone()), ..none() };
            one(api, &of.name, What::Command(Verb::Revert, arguments), &of.terms)
        }
        Command::Resize(resize) => {
            let arguments = Arguments { cpus: resize.size.cpus, memory_mib: resize.size.memory, ..none() };
            one(api, &resize.name, What::Command(Verb::Resize, arguments), &resize.terms)
        }
        Command::Terminate(options) => terminate(api, options),
        Command::Volume(volume) => self::volume(api, volume),
        Command::Nic(nic) => self::nic(api, nic),
        Command::Migrate(migrate) => self::migrate(api, migrate),
        _ => Ok(Exit::Done),
    }
}

/// How long a guest has, and what happens then.
fn patience(stop: &Stop) -> Arguments {
    let then = if stop.force { Then::Force } else { Then::Leave };
    Arguments { timeout_ms: Some(milliseconds(stop.timeout)), then: Some(then), ..Arguments::default() }
}

fn one(api: &mut Api<'_>, instance: &InstanceId, what: What, terms: &Terms) -> Outcome<Exit> {
    let order = Order { instance: instance.clone(), what };
    follow::one(api, &order, &Envelope::new(terms)?, terms)
}

fn many(
    api: &mut Api<'_>,
    names: &[InstanceId],
    verb: Verb,
    arguments: Arguments,
    terms: &Terms,
) -> Outcome<Exit> {
    let what = What::Command(verb, arguments);
    if let [name] = names {
        return one(api, name, what, terms);
    }
    let order = |name: &InstanceId| Order { instance: name.clone(), what: what.clone() };
    let orders: Vec<Order> = names.iter().map(order).collect();
    follow::several(api, &orders, &Envelope::new(terms)?, terms)
}

fn terminate(api: &mut Api<'_>, options: &Terminate) -> Outcome<Exit> {
    let mut names = options.names.clone();
    if let Some(file) = &options.from {
        names.extend(named_in(file)?);
    }
    names.sort();
    names.dedup();
    if names.is_empty() {
        let what = "there is nobody to terminate".into();
        return Err(Failure::Usage(what, "name instances, or a file with their names by --from."));
    }
    let asks = names.len() > 1 && !options.yes && !options.terms.dry_run && std::io::stdin().is_terminal();
    if asks && !is_meant(&names) {
        api.screen.note("nothing was done");
        return Ok(Exit::Failed);
    }
    many(api, &names, Verb::Terminate, Arguments::default(), &options.terms)
}

/// Ask whether so many are to end; only a person can answer.
fn is_meant(names: &[InstanceId]) -> bool {
    let shown: Vec<&str> = names.iter().take(8).map(InstanceId::as_str).collect();
    let more = if names.len() > shown.len() { ", …" } else { "" };
    let mut err = std::io::stderr().lock();
    let question = format!("End {} instances for good ({}{more})? [y/N] ", names.len(), shown.join(", "));
    let asked = err.write_all(question.as_bytes()).and_then(|()| err.flush());
    let mut answer = String::new();
    asked.is_ok()
        && std::io::stdin().read_line(&mut answer).is_ok()
        && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

/// The names in a file, one a line; empty lines and what follows `#` are read over.
fn named_in(file: &Path) -> Outcome<Vec<InstanceId>> {
    let shown = file.display();
    let here = |error: std::io::Error| Failure::Here(format!("{shown}: {error}"));
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(here)?)
    };
    let mut text = String::new();
    let read = source.take(NAMES_LIMIT + 1).read_to_string(&mut text).map_err(here)?;
    if read as u64 > NAMES_LIMIT {
        return Err(Failure::Here(format!("{shown}: it has more than {NAMES_LIMIT} bytes")));
    }
    let named = |(index, line): (usize, &str)| {
        let name = line.split('#').next().unwrap_or_default().trim();
        let wrong = |error: agent_protocol::TokenError| {
            let what = format!("{shown}, line {}: {error}", index + 1);
            Failure::Usage(what, "each line has the name of one instance; nothing was done.")
        };
        if name.is_empty() { None } else { Some(name.parse().map_err(wrong)) }
    };
    text.lines().enumerate().filter_map(named).collect()
}

fn volume(api: &mut Api<'_>, volume: &Volume) -> Outcome<Exit> {
    let (name, terms, verb, arguments) = match volume {
        Volume::Attach { name, target, called, read_only, terms } => {
            let arguments = Arguments {
                target: Some(target.clone()),
                volume: called.clone(),
                read_only: (*read_only).then_some(true),
                ..Arguments::default()
            };
            (name, terms, Verb::VolumeAttach, arguments)
        }
        Volume::Detach { of, timeout, terms } => {
            let timeout_ms = Some(milliseconds(*timeout));
            let arguments = Arguments { volume: Some(of.volume.clone()), timeout_ms, ..Arguments::default() };
            (&of.name, terms, Verb::VolumeDetach, arguments)
        }
        Volume::Resize { of, terms } => {
            let arguments = Arguments { volume: Some(of.volume.clone()), ..Arguments::default() };
            (&of.name, terms, Verb::VolumeResize, arguments)
        }
    };
    one(api, name, What::Command(verb, arguments), terms)
}

fn nic(api: &mut Api<'_>, nic: &Nic) -> Outcome<Exit> {
    let (of, terms, verb, arguments) = match nic {
        Nic::Attach { of, network, mac, link, terms } => {
            let arguments = Arguments {
                network: Some(network.clone()),
                mac: Some(*mac),
                link: Some(*link),
                ..Arguments::default()
            };
            (of, terms, Verb::NicAttach, arguments)
        }
        Nic::Detach { of, timeout, terms } => {
            let timeout_ms = Some(milliseconds(*timeout));
            (of, terms, Verb::NicDetach, Arguments { timeout_ms, ..Arguments::default() })
        }
        Nic::Update { of, link, terms } => {
            (of, terms, Verb::NicUpdate, Arguments { link: Some(*link), ..Arguments::default() })
        }
    };
    let arguments = Arguments { nic: Some(of.nic.clone()), ..arguments };
    one(api, &of.name, What::Command(verb, arguments), terms)
}

fn migrate(api: &mut Api<'_>, migrate: &Migrate) -> Outcome<Exit> {
    let (of, terms, verb, arguments) = match migrate {
        Migrate::Prepare { of, image, uuid, terms } => (
            of,
            terms,
            Verb::MigratePrepare,
            Arguments { image: Some(image.clone()), uuid: Some(*uuid), ..Arguments::default() },
        ),
        Migrate::Start { of, to, terms } => {
            (of, terms, Verb::MigrateStart, Arguments { peer: Some(to.clone()), ..Arguments::default() })
        }
        Migrate::Cancel { of, terms } => (of, terms, Verb::MigrateCancel, Arguments::default()),
    };
    one(api, &of.name, What::Command(verb, arguments), terms)
}
