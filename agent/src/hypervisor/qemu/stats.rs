//! What a machine has used: QEMU's own counters of its disks, the host's of its process and its TAP devices.

use super::commands::tap;
use super::images::Network;
use super::process::Process;
use super::qmp::{Qmp, QmpError};
use super::size::inflated;
use super::{Qemu, fault};
use crate::hypervisor::{Fault, Machine};
use agent_protocol::{Failure, Stats, Text, Traffic};
use serde_json::Value;
use std::fs;
use std::time::Duration;

/// The most disks that are told of.
const DISKS_MAX: usize = 64;

impl Qemu {
    pub(super) fn tell_stats(&self, machine: &Machine, within: Duration) -> Result<Stats, Fault> {
        let process = self.running(machine).ok_or_else(|| Fault::new(Failure::Ended, "it does not run"))?;
        let mut qmp = self.monitor(machine, within)?;
        let disks = disks(&mut qmp).map_err(|error| fault(&error))?;
        let memory = match inflated(&mut qmp) {
            Ok(bytes) => Some(bytes),
            Err(QmpError::Refused(_) | QmpError::NotFound(_)) => {
                let summary = qmp.execute("query-memory-size-summary").map_err(|error| fault(&error))?;
                summary.get("base-memory").and_then(Value::as_u64)
            }
            Err(error) => return Err(fault(&error)),
        };
        Ok(Stats {
            cpu_ms: cpu_ms(&process).ok_or_else(|| Fault::new(Failure::Ended, "its process has ended"))?,
            memory_kib: memory.map(|bytes| bytes / 1024),
            disks,
            nics: self.nics(machine),
        })
    }

    /// The interfaces that have a TAP device. What the host sends on it, the guest receives.
    fn nics(&self, machine: &Machine) -> Vec<Traffic> {
        let Ok(parts) = self.parts(machine) else { return Vec::new() };
        let slots = parts.now.nics;
        let tapped = machine
            .nics
            .iter()
            .filter(|nic| matches!(self.images.networks.get(&nic.network), Some(Network::Bridge(_))));
        let told = tapped.filter_map(|nic| {
            let folder = format!("/sys/class/net/{}/statistics", tap(machine.uuid, *slots.get(&nic.nic)?));
            let count = |name: &str| fs::read_to_string(format!("{folder}/{name}")).ok()?.trim().parse().ok();
            Some(Traffic {
                name: Text::new(nic.nic.as_str()),
                reads: count("tx_packets")?,
                read_bytes: count("tx_bytes")?,
                writes: count("rx_packets")?,
                write_bytes: count("rx_bytes")?,
            })
        });
        told.collect()
    }
}

/// The time that a process has had, all its threads together.
fn cpu_ms(process: &Process) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{}/stat", process.identity.pid)).ok()?;
    // Fields 14 and 15 of all, counted from behind the name, which may hold anything.
    let mut times = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks = times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?;
    Some(ticks * 1000 / rustix::param::clock_ticks_per_second().max(1))
}

fn disks(qmp: &mut Qmp) -> Result<Vec<Traffic>, QmpError> {
    let listed = qmp.execute("query-blockstats")?;
    let listed = listed.as_array().ok_or(QmpError::Malformed("a list of disks that is none"))?;
    Ok(listed.iter().take(DISKS_MAX).map(disk).collect())
}

fn disk(entry: &Value) -> Traffic {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
    let own = text("qdev").strip_prefix("/machine/peripheral/volume-");
    let own = own.map(|rest| rest.split('/').next().unwrap_or_default());
    let named = [text("device"), text("node-name"), text("qdev")].into_iter().find(|name| !name.is_empty());
    let count =
        |key: &str| entry.pointer(&format!("/stats/{key}")).and_then(Value::as_u64).unwrap_or_default();
    Traffic {
        name: Text::new(own.or(named).unwrap_or_default()),
        reads: count("rd_operations"),
        read_bytes: count("rd_bytes"),
        writes: count("wr_operations"),
        write_bytes: count("wr_bytes"),
    }
}
