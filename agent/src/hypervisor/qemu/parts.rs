//! What QEMU's end of a machine must remember: which slot each disk and interface has, how large the machine was
//! started, and what it was made of when a snapshot was taken.
//!
//! It lies beside the process's own files and is replaced atomically before anything is done that it tells of.

use super::board::SLOTS;
use super::process::there;
use crate::hypervisor::Machine;
use agent_protocol::{NicName, Size, SnapshotName, VOLUMES_MAX, VolumeName};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

/// The most snapshots of a machine that are remembered.
const SNAPSHOTS_MAX: usize = 64;

/// The slots in use, and the size: what its memory fits to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shape {
    pub(super) volumes: BTreeMap<VolumeName, u8>,
    pub(super) nics: BTreeMap<NicName, u8>,
    /// The size it was started with. Its image's own disks have as many queues as it had processors then.
    pub(super) size: Size,
    /// The processors that have been plugged in since, as they were added.
    #[serde(default)]
    pub(super) plugged: Vec<Map<String, Value>>,
    /// How much memory its balloon has left it since, in MiB.
    #[serde(default)]
    pub(super) balloon: Option<u32>,
    /// Of a snapshot: the addresses of its interfaces, which are in its memory.
    #[serde(default)]
    pub(super) macs: BTreeMap<NicName, String>,
}

/// All that is remembered of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parts {
    pub(super) now: Shape,
    pub(super) snapshots: BTreeMap<SnapshotName, Shape>,
    /// Its processors were stopped to save it, and are to go on should that not come about.
    #[serde(default)]
    pub(super) to_go_on: bool,
    /// It was reset while its processors were held. QEMU calls it `prelaunch` then, as one that was never let go.
    #[serde(default)]
    pub(super) held_anew: bool,
}

impl Shape {
    /// Give every disk and interface of the machine a slot, and nothing else; each keeps the one it had.
    pub(super) fn fit(&mut self, machine: &Machine) -> Result<(), &'static str> {
        self.volumes.retain(|name, _| machine.volumes.iter().any(|volume| volume.volume == *name));
        self.nics.retain(|name, _| machine.nics.iter().any(|nic| nic.nic == *name));
        for volume in &machine.volumes {
            self.volume_slot(&volume.volume)?;
        }
        for nic in &machine.nics {
            self.nic_slot(&nic.nic)?;
        }
        Ok(())
    }

    /// Forget which slots its disks have. Its guest finds them by their serial numbers; an interface may be called by its
    /// place, and stays there.
    pub(super) fn shuffle(&mut self) {
        self.volumes.clear();
    }

    /// Whether a process that is begun anew for the machine, at another host, has every device where this one has it.
    ///
    /// # Errors
    /// Why not. QEMU would find out only when its memory has been sent and it was handed over.
    pub(super) fn as_begun_anew(&self, machine: &Machine) -> Result<(), &'static str> {
        let mut anew = Self::default();
        anew.fit(machine)?;
        if !self.plugged.is_empty() {
            return Err("processors were plugged in since its start, and are not so at its peer");
        }
        if self.volumes != anew.volumes {
            return Err(
                "a disk was detached before others, which its peer has in other slots until it is started anew",
            );
        }
        if self.nics != anew.nics {
            return Err(
                "its interfaces are in other slots at its peer until they are detached and attached again",
            );
        }
        Ok(())
    }

    /// It is started anew with that size.
    pub(super) fn begin(&mut self, size: Size) {
        (self.size, self.balloon) = (size, None);
        self.plugged.clear();
    }

    /// As it is kept with a snapshot.
    pub(super) fn kept(&self, machine: &Machine) -> Self {
        let macs = machine.nics.iter().map(|nic| (nic.nic.clone(), nic.mac.to_string())).collect();
        Self { macs, ..self.clone() }
    }

    /// The disk's slot; a free one if it has none.
    pub(super) fn volume_slot(&mut self, name: &VolumeName) -> Result<u8, &'static str> {
        let free = self.free(0);
        let slot = self.volumes.get(name).copied().or(free).ok_or(FULL)?;
        self.volumes.insert(name.clone(), slot);
        Ok(slot)
    }

    /// The interface's slot; a free one if it has none.
    pub(super) fn nic_slot(&mut self, name: &NicName) -> Result<u8, &'static str> {
        let free = self.free(VOLUMES_MAX as u8);
        let slot = self.nics.get(name).copied().or(free).ok_or(FULL)?;
        self.nics.insert(name.clone(), slot);
        Ok(slot)
    }

    /// The first free one, beginning with `from`: interfaces have places of their own, so that which a disk gets does not
    /// depend on how many of them came before it.
    fn free(&self, from: u8) -> Option<u8> {
        let taken: BTreeSet<u8> = self.volumes.values().chain(self.nics.values()).copied().collect();
        (from..SLOTS).chain(0..from).find(|slot| !taken.contains(slot))
    }
}

const FULL: &str = "all slots of its board are taken";

impl Parts {
    /// What is remembered in the machine's directory; nothing if nothing was kept yet.
    ///
    /// # Errors
    /// It cannot be read, or is damaged ([`io::ErrorKind::InvalidData`]): what the machine has is not known.
    pub(super) fn read(directory: &Path) -> io::Result<Self> {
        let kept = there(fs::read(directory.join("parts.json")))?;
        let Some(bytes) = kept else { return Ok(Self::default()) };
        let parts: Self = serde_json::from_slice(&bytes).map_err(|_| io::ErrorKind::InvalidData)?;
        // The file is the agent's own, but a slot is part of the name of what gets deleted.
        let fits = parts.now.volumes.values().chain(parts.now.nics.values()).all(|slot| *slot < SLOTS);
        if fits { Ok(parts) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Remember it in the machine's directory.
    pub(super) fn keep(&self, directory: &Path) -> io::Result<()> {
        let fresh = directory.join("parts.new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(fresh, directory.join("parts.json"))
    }

    /// Remember what the machine is made of as a snapshot is taken; whether there is room for another.
    pub(super) fn remember(&mut self, name: &SnapshotName, machine: &Machine) -> bool {
        let room = self.snapshots.len() < SNAPSHOTS_MAX || self.snapshots.contains_key(name);
        if room {
            self.snapshots.insert(name.clone(), self.now.kept(machine));
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::{Uuid, Volume};

    fn volume(name: &str) -> Volume {
        let (volume, iqn) = (name.parse().unwrap(), "iqn.2026-11.example:d".parse().unwrap());
        Volume { volume, iqn, lun: 0, read_only: false }
    }

    #[test]
    fn each_keeps_its_slot_and_nothing_gets_one_that_is_taken() {
        let mut machine = Machine::new("a".parse().unwrap(), Uuid(1), "b".parse().unwrap());
        machine.volumes = vec![volume("x"), volume("y"), volume("z")];
        let mut shape = Shape::default();
        shape.fit(&machine).unwrap();
        let last = shape.volumes[&"z".parse().unwrap()];
        machine.volumes.remove(0);
        machine.volumes.push(volume("w"));
        shape.fit(&machine).unwrap();
        assert_eq!(shape.volumes[&"z".parse().unwrap()], last);
        assert_eq!(shape.volumes.values().collect::<BTreeSet<_>>().len(), 3);
        for number in 3..SLOTS {
            shape.nic_slot(&format!("nic{number}").parse().unwrap()).unwrap();
        }
        assert_eq!(shape.nic_slot(&"one-more".parse().unwrap()), Err(FULL));
    }

    #[test]
    fn what_was_plugged_in_later_is_where_it_is_from_the_start_at_another_host() {
        let mut machine = Machine::new("a".parse().unwrap(), Uuid(1), "b".parse().unwrap());
        let nic = |name: &str| agent_protocol::Nic {
            nic: name.parse().unwrap(),
            network: "blue".parse().unwrap(),
            mac: "52:54:00:00:00:01".parse().unwrap(),
            link: agent_protocol::Link::Up,
        };
        (machine.volumes, machine.nics) = (vec![volume("a")], vec![nic("m")]);
        let mut shape = Shape::default();
        shape.fit(&machine).unwrap();
        machine.volumes.push(volume("b"));
        machine.nics.push(nic("n"));
        shape.volume_slot(&"b".parse().unwrap()).unwrap();
        shape.nic_slot(&"n".parse().unwrap()).unwrap();
        assert_eq!(shape.as_begun_anew(&machine), Ok(()));
        // A disk that was detached before another leaves a gap until the next start, and an interface for good.
        machine.volumes.remove(0);
        shape.fit(&machine).unwrap();
        assert!(shape.as_begun_anew(&machine).unwrap_err().contains("disk"));
        shape.shuffle();
        shape.fit(&machine).unwrap();
        assert_eq!(shape.as_begun_anew(&machine), Ok(()));
        machine.nics.remove(0);
        shape.fit(&machine).unwrap();
        assert!(shape.as_begun_anew(&machine).unwrap_err().contains("interfaces"));
        shape.nics.clear();
        shape.fit(&machine).unwrap();
        shape.plugged.push(Map::new());
        assert!(shape.as_begun_anew(&machine).unwrap_err().contains("processors"));
    }
}
