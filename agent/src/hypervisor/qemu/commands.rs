//! What a step is in QEMU's own words: a pure function to QMP commands, and to the arguments of a machine that starts
//! with what it has.
//!
//! Everything that came over the wire gets into JSON as the string or the number that it is. Nothing is ever pasted into
//! an option of the kind `a=b,c=d`, where a comma would begin another.

use super::board::Board;
use super::images::Network;
use crate::hypervisor::{Machine, Step};
use agent_protocol::{IscsiName, Link, Nic, NicName, Uuid, Volume, VolumeName};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// How long a target may take to answer one request, in seconds. While QEMU logs in to it, it does nothing else: neither
/// its guest nor its monitor goes on; but the appliance answers a login whatever hangs behind it. A request of the guest
/// that has got no answer is sent again on another connection, seven times, before the guest is told of an error: after
/// about as long as open-iscsi lets pass.
const TARGET_PATIENCE: u32 = 20;
/// As fast as it goes, in bytes a second: a machine is held while it is saved.
const FULL_SPEED: u64 = 1 << 40;
/// The name that a descriptor goes by which QEMU was handed.
pub(super) const DESCRIPTOR: &str = "corbel-memory";
/// The job of a snapshot.
pub(super) const JOB: &str = "corbel-snapshot";

/// Where a step is to take place.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The machine's board.
    pub board: Board,
    /// The slot of the disk or interface that is concerned.
    pub slot: u8,
    /// Where the appliance's targets are.
    pub portal: Option<SocketAddr>,
    /// The name to log in by.
    pub initiator: Option<IscsiName>,
    /// The interface's network.
    pub network: Option<Network>,
    /// Which machine it is.
    pub uuid: Uuid,
    /// The block nodes that a snapshot is of; the memory goes into the first.
    pub nodes: Vec<String>,
    /// How many bytes the disk has.
    pub length: u64,
}

/// The commands of a step, in their order. A step that needs several answers between them (as a change of size does) has
/// only those that follow from the step alone.
pub fn commands(step: &Step, setting: &Setting) -> Vec<Value> {
    match step {
        Step::Start | Step::Resume => vec![plain("cont")],
        Step::Pause => vec![plain("stop")],
        Step::AskToStop => vec![plain("system_powerdown")],
        Step::End => vec![plain("quit")],
        Step::Reset => vec![plain("system_reset")],
        Step::Save => vec![
            plain("stop"),
            with("migrate-set-parameters", json!({ "max-bandwidth": FULL_SPEED })),
            with("getfd", json!({ "fdname": DESCRIPTOR })),
            with("migrate", json!({ "uri": format!("fd:{DESCRIPTOR}") })),
        ],
        Step::Restore => vec![
            with("getfd", json!({ "fdname": DESCRIPTOR })),
            with("migrate-incoming", json!({ "uri": format!("fd:{DESCRIPTOR}") })),
        ],
        Step::Snapshot(name) => vec![with("snapshot-save", snapshot(name.as_str(), setting))],
        Step::Revert(name) => vec![with("snapshot-load", snapshot(name.as_str(), setting))],
        Step::Resize(size) => {
            let bytes = size.memory_mib.map(|mib| u64::from(mib) << 20);
            bytes.map(|bytes| with("balloon", json!({ "value": bytes }))).into_iter().collect()
        }
        Step::AttachVolume(volume) => {
            let device = with("device_add", volume_device(volume, setting));
            blockdev(volume, setting).map(|node| vec![with("blockdev-add", node), device]).unwrap_or_default()
        }
        Step::DetachVolume(volume) => vec![with("device_del", json!({ "id": volume_id(volume) }))],
        // Not the size it is to have: the target is asked for that. Any that is not larger makes QEMU ask.
        Step::ResizeVolume(_) => {
            vec![with("block_resize", json!({ "node-name": node(setting.slot), "size": setting.length }))]
        }
        Step::AttachNic(nic) => attach_nic(nic, setting),
        Step::DetachNic(nic) => vec![with("device_del", json!({ "id": nic_id(nic) }))],
        Step::UpdateNic(nic, link) => vec![set_link(nic, *link)],
        // What they send depends on the operator's file and on how far it is: `moving.rs`.
        Step::MigratePrepare | Step::MigrateStart(_) | Step::MigrateCancel => Vec::new(),
    }
}

/// The arguments of QEMU for the disks and interfaces that a machine starts with; for each the setting it is in.
pub fn arguments(machine: &Machine, setting: impl Fn(Part<'_>) -> Setting) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut push = |option: &str, value: Value| {
        arguments.push(option.to_owned());
        arguments.push(value.to_string());
    };
    for volume in &machine.volumes {
        let setting = setting(Part::Volume(volume));
        if let Some(node) = blockdev(volume, &setting) {
            push("-blockdev", node);
            push("-device", volume_device(volume, &setting));
        }
    }
    for nic in &machine.nics {
        let setting = setting(Part::Nic(nic));
        if let Some(netdev) = netdev(nic, &setting) {
            push("-netdev", netdev);
            push("-device", nic_device(nic, &setting));
        }
    }
    arguments
}

/// A disk or an interface.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// A disk.
    Volume(&'a Volume),
    /// An interface.
    Nic(&'a Nic),
}

pub(super) fn plain(command: &str) -> Value {
    json!({ "execute": command })
}

pub(super) fn with(command: &str, arguments: Value) -> Value {
    json!({ "execute": command, "arguments": arguments })
}

/// What the device of a disk is called.
pub(super) fn volume_id(volume: &VolumeName) -> String {
    format!("volume-{volume}")
}

/// What the device of an interface is called.
pub(super) fn nic_id(nic: &NicName) -> String {
    format!("nic-{nic}")
}

/// What the host's end of an interface is called.
pub(super) fn netdev_id(nic: &NicName) -> String {
    format!("net-{nic}")
}

/// What the block node in a slot is called. A volume's name would be too long: QEMU allows 31 bytes.
pub(super) fn node(slot: u8) -> String {
    format!("corbel-disk{slot}")
}

/// What the TAP device of the interface in a slot is called; Linux allows 15 bytes.
pub(super) fn tap(uuid: Uuid, slot: u8) -> String {
    format!("cb{:010x}{slot:02x}", uuid.0 >> 88)
}

/// The snapshot's name, and what it is of.
fn snapshot(name: &str, setting: &Setting) -> Value {
    json!({ "job-id": JOB, "tag": name, "vmstate": setting.nodes.first(), "devices": setting.nodes })
}

fn blockdev(volume: &Volume, setting: &Setting) -> Option<Value> {
    let (portal, initiator) = (setting.portal?, setting.initiator.as_ref()?);
    Some(json!({
        "driver": "iscsi",
        "node-name": node(setting.slot),
        "transport": "tcp",
        "portal": portal.to_string(),
        "target": volume.iqn.as_str(),
        "lun": volume.lun,
        "initiator-name": initiator.as_str(),
        "timeout": TARGET_PATIENCE,
        "read-only": volume.read_only,
        "discard": "unmap",
    }))
}

fn volume_device(volume: &Volume, setting: &Setting) -> Value {
    let mut device = setting.board.device("blk", setting.slot);
    device.insert("id".into(), volume_id(&volume.volume).into());
    device.insert("drive".into(), node(setting.slot).into());
    device.insert("serial".into(), serial(volume.volume.as_str()).into());
    Value::Object(device)
}

/// What the guest reads as the disk's serial number, of which virtio has 20 bytes: the name, or its beginning and a hash
/// of it.
pub(super) fn serial(name: &str) -> String {
    if name.len() <= 20 {
        return name.to_owned();
    }
    // FNV-1a, 32 bits: it is to tell a few disks of one guest apart, not to withstand anybody.
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    format!("{}-{hash:08x}", &name[..11])
}

fn attach_nic(nic: &Nic, setting: &Setting) -> Vec<Value> {
    let Some(netdev) = netdev(nic, setting) else { return Vec::new() };
    let mut commands = vec![with("netdev_add", netdev), with("device_add", nic_device(nic, setting))];
    if nic.link == Link::Down {
        commands.push(set_link(&nic.nic, Link::Down));
    }
    commands
}

fn netdev(nic: &Nic, setting: &Setting) -> Option<Value> {
    let id = netdev_id(&nic.nic);
    Some(match setting.network.as_ref()? {
        Network::User => json!({ "type": "user", "id": id }),
        // It is gone with the process or with `netdev_del`, whichever is first.
        Network::Bridge(_) => json!({
            "type": "tap",
            "id": id,
            "ifname": tap(setting.uuid, setting.slot),
            "script": "no",
            "downscript": "no",
        }),
    })
}

fn nic_device(nic: &Nic, setting: &Setting) -> Value {
    let mut device = setting.board.device("net", setting.slot);
    device.insert("id".into(), nic_id(&nic.nic).into());
    device.insert("netdev".into(), netdev_id(&nic.nic).into());
    device.insert("mac".into(), nic.mac.to_string().into());
    if setting.board != Board::Microvm {
        // It does not boot from there, so its host need not have the firmware for it.
        device.insert("romfile".into(), "".into());
    }
    Value::Object(device)
}

pub(super) fn set_link(nic: &NicName, link: Link) -> Value {
    with("set_link", json!({ "name": nic_id(nic), "up": link == Link::Up }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use agent_protocol::Size;

    fn setting(board: Board) -> Setting {
        Setting {
            board,
            slot: 3,
            portal: "10.77.0.2:3260".parse().ok(),
            initiator: "iqn.2026-11.example:host".parse().ok(),
            network: Some(Network::User),
            uuid: Uuid(0x1234_5678_9abc_4ef0_8234_5678_9abc_def0),
            nodes: vec!["system".into()],
            length: 4096,
        }
    }

    fn volume() -> Volume {
        Volume {
            volume: "data".parse().unwrap(),
            iqn: "iqn.2026-11.example:disk".parse().unwrap(),
            lun: 2,
            read_only: true,
        }
    }

    #[test]
    fn a_disk_becomes_a_node_and_a_device_in_its_slot() {
        let commands = commands(&Step::AttachVolume(volume()), &setting(Board::Pc));
        let [add, device] = commands.as_slice() else { panic!("{commands:?}") };
        assert_eq!(add["execute"], "blockdev-add");
        assert_eq!(add["arguments"]["target"], "iqn.2026-11.example:disk");
        assert_eq!(add["arguments"]["portal"], "10.77.0.2:3260");
        assert_eq!(add["arguments"]["lun"], 2);
        assert_eq!(add["arguments"]["read-only"], true);
        assert_eq!(device["arguments"]["drive"], add["arguments"]["node-name"]);
        assert_eq!(device["arguments"]["addr"], "0x1c");
        assert_eq!(device["arguments"]["id"], "volume-data");
    }

    #[test]
    fn without_a_portal_or_a_network_nothing_is_sent() {
        let nowhere = Setting { portal: None, network: None, ..setting(Board::Q35) };
        assert!(commands(&Step::AttachVolume(volume()), &nowhere).is_empty());
        let nic = Nic {
            nic: "lan".parse().unwrap(),
            network: "blue".parse().unwrap(),
            mac: "52:54:00:00:00:01".parse().unwrap(),
            link: Link::Down,
        };
        assert!(commands(&Step::AttachNic(nic.clone()), &nowhere).is_empty());
        assert_eq!(commands(&Step::AttachNic(nic), &setting(Board::Q35)).len(), 3);
    }

    #[test]
    fn names_stay_within_what_qemu_and_linux_and_virtio_allow() {
        let longest = "a".repeat(63);
        assert!(node(u8::MAX).len() <= 31);
        assert!(tap(Uuid(u128::MAX), u8::MAX).len() <= 15);
        assert_eq!(serial("data"), "data");
        assert_eq!(serial(&longest).len(), 20);
        assert_ne!(serial(&longest), serial(&longest[..62]));
    }

    #[test]
    fn memory_is_given_in_bytes() {
        let size = Size { cpus: Some(2), memory_mib: Some(u32::MAX) };
        let commands = commands(&Step::Resize(size), &setting(Board::Pc));
        assert_eq!(commands[0]["arguments"]["value"], u64::from(u32::MAX) << 20);
    }
}
