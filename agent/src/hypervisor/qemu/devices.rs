//! Disks and interfaces that come and go while a machine runs.
//!
//! A disk is QEMU's own iSCSI initiator with a virtio device in front of it. It is gone when the guest has let go of the
//! device *and* the block node behind it is deleted, with which QEMU logs out of the target; no sooner.

use super::commands::{self, Setting, commands, netdev_id, nic_id, node, volume_id};
use super::life::unknown_network;
use super::parts::Shape;
use super::qmp::{Qmp, QmpError};
use super::{Board, Qemu, fault};
use crate::hypervisor::{Evidence, Fault, Machine, Step};
use agent_protocol::{Failure, Nic, NicName, Text, Volume, VolumeName};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The most devices that are looked at; there are never more than there are slots, plus the image's own.
const DEVICES_MAX: usize = 512;

impl Qemu {
    pub(super) fn attach_volume(
        &self,
        machine: &Machine,
        volume: &Volume,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let deadline = Instant::now() + within;
        let board = self.pluggable(machine)?;
        self.reach_portal(deadline)?;
        let mut qmp = self.monitor_by(machine, deadline)?;
        let id = volume_id(&volume.volume);
        let ask = |error: QmpError| fault(&error);
        if devices(&mut qmp).map_err(ask)?.contains(&id) {
            return Ok(vec![Text::new("the guest has that device already")]);
        }
        let slot = self.reshape(machine, |parts| parts.now.volume_slot(&volume.volume))?;
        // What an attempt that was cut short may have left.
        let _ = release_node(&mut qmp, slot);
        let setting = self.setting(machine, board, slot);
        for command in commands(&Step::AttachVolume(volume.clone()), &setting) {
            if let Err(error) = qmp.call(command) {
                // If that does not come about either, the next observation sees to it.
                if matches!(release_node(&mut qmp, slot), Ok(true)) {
                    let _ = self.reshape(machine, |parts| Ok(parts.now.volumes.remove(&volume.volume)));
                }
                return Err(fault(&error));
            }
        }
        let bytes = length(&mut qmp, slot).map_err(ask)?;
        if !devices(&mut qmp).map_err(ask)?.contains(&id) {
            return Err(Fault::new(
                Failure::Hypervisor,
                "device_add was accepted, and no such device is there",
            ));
        }
        let serial = commands::serial(volume.volume.as_str());
        Ok(vec![
            Text::new(&format!("QEMU is logged in to {} as {}", volume.iqn, self.initiator(machine))),
            Text::new(&format!("device {id} with serial number {serial} has {bytes} bytes")),
        ])
    }

    pub(super) fn detach_volume(
        &self,
        machine: &Machine,
        volume: &VolumeName,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        self.unplug(machine, &Step::DetachVolume(volume.clone()), &volume_id(volume), within)
    }

    pub(super) fn detach_nic(
        &self,
        machine: &Machine,
        nic: &NicName,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        self.unplug(machine, &Step::DetachNic(nic.clone()), &nic_id(nic), within)
    }

    /// Ask the guest to let go of a device.
    fn unplug(&self, machine: &Machine, step: &Step, id: &str, within: Duration) -> Result<Evidence, Fault> {
        let board = self.board(machine);
        if let Some(why) = board.fixed().filter(|_| board == Board::Microvm) {
            return Err(Fault::new(Failure::Hypervisor, why));
        }
        let mut qmp = self.monitor(machine, within)?;
        if let Some(link) = self.link(machine) {
            link.forget(id);
        }
        for command in commands(step, &self.setting(machine, board, 0)) {
            match qmp.call(command) {
                Ok(_) => {}
                Err(QmpError::NotFound(_)) => {
                    return Ok(vec![Text::new(&format!("there is no device {id}"))]);
                }
                // The guest was asked before and has not answered yet.
                Err(QmpError::Refused(words)) if words.contains("in the process of unplug") => {}
                Err(error) => return Err(fault(&error)),
            }
        }
        Ok(vec![Text::new(&format!("the guest was asked to let go of {id}"))])
    }

    pub(super) fn resize_volume(
        &self,
        machine: &Machine,
        volume: &VolumeName,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let mut qmp = self.monitor(machine, within)?;
        let slot = self.parts(machine)?.now.volumes.get(volume).copied();
        let slot = slot.ok_or_else(|| Fault::new(Failure::Hypervisor, format!("it has no disk {volume}")))?;
        let ask = |error: QmpError| fault(&error);
        let before = length(&mut qmp, slot).map_err(ask)?;
        let setting = Setting { length: before, ..self.setting(machine, self.board(machine), slot) };
        for command in commands(&Step::ResizeVolume(volume.clone()), &setting) {
            qmp.call(command).map_err(ask)?;
        }
        let after = length(&mut qmp, slot).map_err(ask)?;
        Ok(vec![Text::new(&format!(
            "its target says {after} bytes, and said {before} before; the guest was told"
        ))])
    }

    pub(super) fn attach_nic(
        &self,
        machine: &Machine,
        nic: &Nic,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let board = self.pluggable(machine)?;
        let network = self.images.networks.get(&nic.network).cloned();
        let network = network.ok_or_else(|| unknown_network(nic))?;
        let mut qmp = self.monitor(machine, within)?;
        let id = nic_id(&nic.nic);
        if devices(&mut qmp).map_err(|error| fault(&error))?.contains(&id) {
            return Ok(vec![Text::new("the guest has that device already")]);
        }
        let slot = self.reshape(machine, |parts| parts.now.nic_slot(&nic.nic))?;
        let _ = release_netdev(&mut qmp, &nic.nic);
        let setting = Setting { network: Some(network), ..self.setting(machine, board, slot) };
        let undo = |qmp: &mut Qmp| {
            if matches!(release_netdev(qmp, &nic.nic), Ok(true)) {
                let _ = self.reshape(machine, |parts| Ok(parts.now.nics.remove(&nic.nic)));
            }
        };
        for (index, command) in commands(&Step::AttachNic(nic.clone()), &setting).into_iter().enumerate() {
            let sent = qmp.call(command).map(|_| ()).map_err(|error| fault(&error));
            // The device comes when the host's end is on its network already.
            let joined = sent.and_then(|()| if index == 0 { self.join_bridge(machine, nic) } else { Ok(()) });
            if let Err(fault) = joined {
                undo(&mut qmp);
                return Err(fault);
            }
        }
        if !devices(&mut qmp).map_err(|error| fault(&error))?.contains(&id) {
            return Err(Fault::new(
                Failure::Hypervisor,
                "device_add was accepted, and no such device is there",
            ));
        }
        Ok(vec![Text::new(&format!("device {id} with address {} is on {}", nic.mac, nic.network))])
    }

    pub(super) fn update_nic(
        &self,
        machine: &Machine,
        step: &Step,
        within: Duration,
    ) -> Result<Evidence, Fault> {
        let mut qmp = self.monitor(machine, within)?;
        let board = self.board(machine);
        for command in commands(step, &self.setting(machine, board, 0)) {
            qmp.call(command).map_err(|error| fault(&error))?;
        }
        Ok(vec![Text::new("set_link was accepted")])
    }

    /// Which disks and interfaces the guest has. What it has let go of is cleared away first: the block node, with
    /// which QEMU logs out of the target, or the host's end of the interface.
    pub(super) fn settle_parts(
        &self,
        machine: &Machine,
        now: &Shape,
        qmp: &mut Qmp,
    ) -> Result<(Vec<VolumeName>, Vec<NicName>), QmpError> {
        let present = devices(qmp)?;
        let (mut volumes, mut nics) = (Vec::new(), Vec::new());
        let mut gone = false;
        for (name, &slot) in &now.volumes {
            if present.contains(&volume_id(name)) || !release_node(qmp, slot)? {
                volumes.push(name.clone());
            } else {
                gone = true;
                self.tell_gone(machine, &volume_id(name), "and QEMU has logged out of its target");
            }
        }
        for name in now.nics.keys() {
            if present.contains(&nic_id(name)) || !release_netdev(qmp, name)? {
                nics.push(name.clone());
            } else {
                gone = true;
                self.tell_gone(machine, &nic_id(name), "and so is the host's end of it");
            }
        }
        if gone {
            let kept = self.reshape(machine, |parts| {
                parts.now.volumes.retain(|name, _| volumes.contains(name));
                parts.now.nics.retain(|name, _| nics.contains(name));
                Ok(())
            });
            if let Err(fault) = kept {
                log::warn!("{}: {}", machine.id, fault.detail);
            }
        }
        // What the guest has it has, whatever is remembered.
        let more = present.iter().filter_map(|id| id.strip_prefix("volume-")?.parse().ok());
        volumes.extend(more.filter(|name| !now.volumes.contains_key(name)));
        let more = present.iter().filter_map(|id| id.strip_prefix("nic-")?.parse().ok());
        nics.extend(more.filter(|name| !now.nics.contains_key(name)));
        Ok((volumes, nics))
    }

    fn tell_gone(&self, machine: &Machine, id: &str, more: &str) {
        let event = self.link(machine).is_some_and(|link| link.has_seen("DEVICE_DELETED", id));
        let how = if event { "DEVICE_DELETED came for it" } else { "it is not in the machine any more" };
        log::info!("{}: {id} is gone: {how}, {more}", machine.id);
    }
}

/// The devices that were given a name.
fn devices(qmp: &mut Qmp) -> Result<BTreeSet<String>, QmpError> {
    let listed = qmp.ask("qom-list", json!({ "path": "/machine/peripheral" }))?;
    let listed = listed.as_array().ok_or(QmpError::Malformed("a list of devices that is none"))?;
    let names = listed.iter().take(DEVICES_MAX).filter_map(|entry| entry.get("name")?.as_str());
    Ok(names.map(str::to_owned).collect())
}

/// All block nodes of a machine.
pub(super) fn nodes(qmp: &mut Qmp) -> Result<Vec<Value>, QmpError> {
    match qmp.ask("query-named-block-nodes", json!({ "flat": true }))? {
        Value::Array(nodes) => Ok(nodes),
        _ => Err(QmpError::Malformed("a list of block nodes that is none")),
    }
}

fn find_node(qmp: &mut Qmp, slot: u8) -> Result<Option<Value>, QmpError> {
    let name = node(slot);
    let is_it = |entry: &Value| entry.get("node-name").and_then(Value::as_str) == Some(&name);
    Ok(nodes(qmp)?.into_iter().find(is_it))
}

/// How many bytes the disk in a slot has.
fn length(qmp: &mut Qmp, slot: u8) -> Result<u64, QmpError> {
    let entry = find_node(qmp, slot)?;
    let bytes = entry.as_ref().and_then(|entry| entry.pointer("/image/virtual-size")).and_then(Value::as_u64);
    bytes.ok_or(QmpError::Malformed("no size of a block node"))
}

/// Delete the block node in a slot; whether there is none now.
fn release_node(qmp: &mut Qmp, slot: u8) -> Result<bool, QmpError> {
    match qmp.ask("blockdev-del", json!({ "node-name": node(slot) })) {
        Ok(_) => Ok(true),
        Err(QmpError::Refused(_) | QmpError::NotFound(_)) => Ok(find_node(qmp, slot)?.is_none()),
        Err(error) => Err(error),
    }
}

/// Delete the host's end of an interface; whether there is none now.
fn release_netdev(qmp: &mut Qmp, nic: &NicName) -> Result<bool, QmpError> {
    match qmp.ask("netdev_del", json!({ "id": netdev_id(nic) })) {
        Ok(_) | Err(QmpError::NotFound(_)) => Ok(true),
        Err(QmpError::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
