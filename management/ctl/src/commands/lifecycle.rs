//! Commands to instances: what the words of the command line ask for.

use super::follow;
use super::order::{Envelope, Order, milliseconds};
use crate::api::Api;
use crate::arguments::{Command, Migrate, Nic, Several, Size, Stop, Terminate, Terms, Volume};
use crate::failure::{Exit, Failure, Outcome};
use agent_protocol::{Action, InstanceId, Then};
use std::io::{IsTerminal, Read, Write};
use std::path::Path;

/// More names are no list of one host's instances.
const NAMES_LIMIT: u64 = 1 << 20;

/// Carry out a command to one instance or several.
pub(super) fn run(api: &mut Api<'_>, command: &Command) -> Outcome<Exit> {
    match command {
        Command::Create(create) => {
            let (image, size) = (create.image.clone(), size(&create.size));
            one(api, &create.name, Action::Create { image, start: create.start, size }, &create.terms)
        }
        Command::Start(several) => each(api, several, &Action::Start {}),
        Command::Pause(several) => each(api, several, &Action::Pause {}),
        Command::Resume(several) => each(api, several, &Action::Resume {}),
        Command::Reset(several) => each(api, several, &Action::Reset {}),
        Command::Save(several) => each(api, several, &Action::Save {}),
        Command::Restore(several) => each(api, several, &Action::Restore {}),
        Command::Stop(stop) => many(api, &stop.names, &stopped(stop), &stop.terms),
        Command::Reboot(stop) => {
            let action = Action::Reboot { timeout_ms: milliseconds(stop.timeout), then: then(stop) };
            many(api, &stop.names, &action, &stop.terms)
        }
        Command::Snapshot(of) => {
            let snapshot = of.snapshot.clone();
            one(api, &of.name, Action::Snapshot { snapshot }, &of.terms)
        }
        Command::Revert(of) => {
            let snapshot = of.snapshot.clone();
            one(api, &of.name, Action::Revert { snapshot }, &of.terms)
        }
        Command::Resize(resize) => {
            one(api, &resize.name, Action::Resize { size: size(&resize.size) }, &resize.terms)
        }
        Command::Terminate(options) => terminate(api, options),
        Command::Volume(volume) => self::volume(api, volume),
        Command::Nic(nic) => self::nic(api, nic),
        Command::Migrate(migrate) => self::migrate(api, migrate),
        _ => Ok(Exit::Done),
    }
}

fn size(size: &Size) -> agent_protocol::Size {
    agent_protocol::Size { cpus: size.cpus, memory_mib: size.memory }
}

fn then(stop: &Stop) -> Then {
    if stop.force { Then::Force } else { Then::Leave }
}

fn stopped(stop: &Stop) -> Action {
    let at_once = stop.force && stop.timeout.is_zero();
    Action::Stop { graceful: !at_once, timeout_ms: milliseconds(stop.timeout), then: then(stop) }
}

fn one(api: &mut Api<'_>, instance: &InstanceId, action: Action, terms: &Terms) -> Outcome<Exit> {
    let order = Order { instance: instance.clone(), action };
    follow::one(api, &order, &Envelope::new(terms)?, terms)
}

fn each(api: &mut Api<'_>, several: &Several, action: &Action) -> Outcome<Exit> {
    many(api, &several.names, action, &several.terms)
}

fn many(api: &mut Api<'_>, names: &[InstanceId], action: &Action, terms: &Terms) -> Outcome<Exit> {
    if let [name] = names {
        return one(api, name, action.clone(), terms);
    }
    let order = |name: &InstanceId| Order { instance: name.clone(), action: action.clone() };
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
    many(api, &names, &Action::Terminate {}, &options.terms)
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
    let mut text = String::new();
    let source: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file).map_err(here)?)
    };
    let read = source.take(NAMES_LIMIT + 1).read_to_string(&mut text).map_err(here)?;
    if read as u64 > NAMES_LIMIT {
        return Err(Failure::Here(format!("{shown}: it has more than {NAMES_LIMIT} bytes")));
    }
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.split('#').next().unwrap_or("").trim()));
    lines
        .filter(|(_, line)| !line.is_empty())
        .map(|(number, line)| {
            line.parse().map_err(|error| {
                let what = format!("{shown}, line {number}: {error}");
                Failure::Usage(what, "each line has the name of one instance; nothing was done.")
            })
        })
        .collect()
}

fn volume(api: &mut Api<'_>, volume: &Volume) -> Outcome<Exit> {
    let (of, terms, action) = match volume {
        Volume::Attach { of, iqn, lun, read_only, terms } => {
            let volume = agent_protocol::Volume {
                volume: of.volume.clone(),
                iqn: iqn.clone(),
                lun: *lun,
                read_only: *read_only,
            };
            (of, terms, Action::VolumeAttach { volume })
        }
        Volume::Detach { of, timeout, terms } => {
            let timeout_ms = milliseconds(*timeout);
            (of, terms, Action::VolumeDetach { volume: of.volume.clone(), timeout_ms })
        }
        Volume::Resize { of, terms } => (of, terms, Action::VolumeResize { volume: of.volume.clone() }),
    };
    one(api, &of.name, action, terms)
}

fn nic(api: &mut Api<'_>, nic: &Nic) -> Outcome<Exit> {
    let (of, terms, action) = match nic {
        Nic::Attach { of, network, mac, link, terms } => {
            let nic =
                agent_protocol::Nic { nic: of.nic.clone(), network: network.clone(), mac: *mac, link: *link };
            (of, terms, Action::NicAttach { nic })
        }
        Nic::Detach { of, timeout, terms } => {
            let timeout_ms = milliseconds(*timeout);
            (of, terms, Action::NicDetach { nic: of.nic.clone(), timeout_ms })
        }
        Nic::Update { of, link, terms } => {
            (of, terms, Action::NicUpdate { nic: of.nic.clone(), link: *link })
        }
    };
    one(api, &of.name, action, terms)
}

fn migrate(api: &mut Api<'_>, migrate: &Migrate) -> Outcome<Exit> {
    let (of, terms, action) = match migrate {
        Migrate::Prepare { of, image, terms } => (of, terms, Action::MigratePrepare { image: image.clone() }),
        Migrate::Start { of, to, terms } => (of, terms, Action::MigrateStart { peer: to.clone() }),
        Migrate::Cancel { of, terms } => (of, terms, Action::MigrateCancel {}),
    };
    one(api, &of.name, action, terms)
}
