//! Another size for a machine that runs: as many more processors as its board has room for, and memory within what it
//! was started with, which the guest gives and takes by its balloon. Anything else waits for the next start.

use super::commands::commands;
use super::qmp::{Qmp, QmpError};
use super::{Qemu, fault};
use crate::hypervisor::{Evidence, Fault, Machine, Step};
use agent_protocol::{Failure, Size, Text};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};

/// How long to wait between two looks at the balloon.
const PACE: Duration = Duration::from_millis(50);
/// How much of the time is kept back for giving up in order.
const RESERVE: Duration = Duration::from_millis(500);
/// The most processors that are looked at.
const PROCESSORS_MAX: usize = 4096;

impl Qemu {
    pub(super) fn resize(&self, machine: &Machine, size: Size, within: Duration) -> Result<Evidence, Fault> {
        if self.running(machine).is_none() {
            return Ok(vec![Text::new("it does not run; it will have that size when it starts")]);
        }
        let mut qmp = self.monitor(machine, within)?;
        // First whether all of it can be done, then any of it.
        let (has, places) = processors(&mut qmp).map_err(|error| fault(&error))?;
        let wanted = size.cpus.map_or(has, usize::from);
        if wanted < has {
            return Err(impossible("processors cannot be taken from it while it runs"));
        }
        if wanted - has > places.len() {
            let room = has + places.len();
            return Err(impossible(&format!("its board has room for {room} processors while it runs")));
        }
        if let Some(mib) = size.memory_mib {
            can_balloon(&mut qmp, mib)?;
        }
        let mut evidence = Vec::new();
        if let Some(mib) = size.memory_mib {
            evidence.push(self.balloon(machine, &mut qmp, size, mib)?);
        }
        for (number, place) in (has..wanted).zip(places) {
            let mut device = place.place;
            device.insert("driver".into(), place.kind.into());
            device.insert("id".into(), format!("corbel-cpu{number}").into());
            qmp.ask("device_add", Value::Object(device.clone())).map_err(|error| fault(&error))?;
            self.reshape(machine, |parts| {
                parts.now.plugged.push(device);
                Ok(())
            })?;
        }
        if size.cpus.is_some() {
            let (has, _) = processors(&mut qmp).map_err(|error| fault(&error))?;
            if has != wanted {
                return Err(Fault::new(Failure::Hypervisor, format!("it has {has} processors now")));
            }
            evidence.push(Text::new(&format!("query-hotpluggable-cpus shows {has} processors")));
        }
        Ok(evidence)
    }

    /// Have the guest give or take memory, and see that it has.
    fn balloon(&self, machine: &Machine, qmp: &mut Qmp, size: Size, mib: u32) -> Result<Text, Fault> {
        let ask = |error: QmpError| fault(&error);
        let before = inflated(qmp).map_err(ask)?;
        let wanted = u64::from(mib) << 20;
        for command in commands(&Step::Resize(size), &self.setting(machine, self.board(machine), 0)) {
            qmp.call(command).map_err(ask)?;
        }
        let until = qmp.deadline().checked_sub(RESERVE).unwrap_or_else(Instant::now);
        loop {
            let actual = inflated(qmp).map_err(ask)?;
            if actual == wanted {
                self.reshape(machine, |parts| {
                    parts.now.balloon = Some(mib);
                    Ok(())
                })?;
                return Ok(Text::new(&format!("query-balloon says {mib} MiB")));
            }
            if Instant::now() >= until {
                qmp.ask("balloon", json!({ "value": before })).map_err(ask)?;
                let words = format!("the guest has {} MiB and does not go to {mib} MiB", actual >> 20);
                return Err(Fault::new(Failure::GuestIgnored, words));
            }
            std::thread::sleep(PACE);
        }
    }
}

fn impossible(words: &str) -> Fault {
    Fault::new(Failure::Hypervisor, format!("{words}; it can be done while it is stopped"))
}

/// Where a processor can be plugged in.
struct Place {
    kind: String,
    place: Map<String, Value>,
}

/// How many processors there are, and where more can go, the next one first.
fn processors(qmp: &mut Qmp) -> Result<(usize, Vec<Place>), QmpError> {
    let listed = match qmp.execute("query-hotpluggable-cpus") {
        Ok(listed) => listed,
        // A board whose processors cannot be told apart so.
        Err(QmpError::Refused(_)) => {
            let all = qmp.execute("query-cpus-fast")?;
            return Ok((all.as_array().map_or(0, Vec::len), Vec::new()));
        }
        Err(error) => return Err(error),
    };
    let listed = listed.as_array().ok_or(QmpError::Malformed("a list of processors that is none"))?;
    if listed.len() > PROCESSORS_MAX {
        return Err(QmpError::Malformed("more processors than a machine has"));
    }
    let free = listed.iter().filter(|entry| entry.get("qom-path").is_none());
    let place = |entry: &Value| {
        let kind = entry.get("type")?.as_str()?.to_owned();
        Some(Place { kind, place: entry.get("props")?.as_object()?.clone() })
    };
    // The last one listed is the one with the lowest number. A machine that is started with one more has that one.
    let places: Vec<Place> = free.clone().rev().filter_map(place).collect();
    Ok((listed.len() - free.count(), places))
}

/// Whether its balloon could take it there.
fn can_balloon(qmp: &mut Qmp, mib: u32) -> Result<(), Fault> {
    let summary = qmp.execute("query-memory-size-summary").map_err(|error| fault(&error))?;
    let boot = summary.get("base-memory").and_then(Value::as_u64).unwrap_or_default();
    if u64::from(mib) << 20 > boot {
        let words = format!("it was started with {} MiB and cannot have more while it runs", boot >> 20);
        return Err(impossible(&words));
    }
    match inflated(qmp) {
        Ok(_) => Ok(()),
        Err(QmpError::Refused(_) | QmpError::NotFound(_)) => {
            Err(impossible("its image has no memory balloon"))
        }
        Err(error) => Err(fault(&error)),
    }
}

/// How many bytes the guest has.
pub(super) fn inflated(qmp: &mut Qmp) -> Result<u64, QmpError> {
    let said = qmp.execute("query-balloon")?;
    said.get("actual").and_then(Value::as_u64).ok_or(QmpError::Malformed("a balloon without a size"))
}
