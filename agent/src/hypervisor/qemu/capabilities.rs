//! What this backend can do, how, and what it cannot and why.

use super::images::Images;
use crate::hypervisor::migration::Migration;
use agent_protocol::{Capability, Facility, Provision, Support, Text, Verb};

/// Every verb, with what becomes of it here.
pub(super) fn all(images: &Images) -> Vec<Capability> {
    Verb::ALL.iter().map(|&verb| one(images, verb)).collect()
}

/// Every facility that is the hypervisor's, likewise.
pub(super) fn facilities() -> Vec<Provision> {
    Facility::ALL.iter().filter_map(|&facility| provision(facility)).collect()
}

fn provision(facility: Facility) -> Option<Provision> {
    use Support::{Emulated, Native};
    let (support, by) = match facility {
        Facility::List => (Emulated, "kept by the agent, as each process was last seen"),
        Facility::Events => (Native, "events of QMP, on a monitor of their own; pidfds of the processes"),
        Facility::Stats => {
            (Native, "QMP query-blockstats, query-balloon; the host's figures of process and TAP devices")
        }
        Facility::Console => (
            Native,
            "the first serial port is a socket that the agent reads; not of an image that has a serial port of its own",
        ),
        // Of the host, whatever its hypervisor.
        Facility::NetworkApply => return None,
    };
    Some(Provision { facility, support, by: Text::new(by) })
}

fn one(images: &Images, verb: Verb) -> Capability {
    use Support::{Emulated, Impossible, Native};
    let portal = images.portal.is_some();
    let networks = !images.networks.is_empty();
    let migration = images.migration.as_ref();
    let encrypted = migration.is_some_and(|migration| migration.tls.is_some());
    let (support, by) = match verb {
        Verb::Create => (Emulated, "kept by the agent; a process exists only while it runs"),
        Verb::Start => (Native, "a new process with -S, then QMP cont"),
        Verb::Stop => (Native, "QMP system_powerdown, then the process is awaited"),
        Verb::ForceStop | Verb::Terminate => (Native, "QMP quit, after 2 s SIGKILL"),
        Verb::Reboot => (Emulated, "QMP system_powerdown, the process is awaited, then a new one"),
        Verb::Reset => (Native, "QMP system_reset"),
        Verb::Pause => (Native, "QMP stop"),
        Verb::Resume => (Native, "QMP cont"),
        Verb::Save => (Native, "QMP migrate into a file, durable before the process is ended"),
        Verb::Restore => {
            (Native, "a new process with -incoming, QMP migrate-incoming, the file removed, then cont")
        }
        Verb::Snapshot => (
            Native,
            "QMP snapshot-save, where all disks of the image are qcow2 and none of the appliance is attached",
        ),
        Verb::Revert => (Native, "QMP snapshot-load, where size and interfaces are as they were"),
        Verb::Resize => (
            Native,
            "while it runs QMP device_add of processors up to maxcpus, and the balloon within the memory it was \
             started with; otherwise at the next start",
        ),
        Verb::VolumeAttach | Verb::VolumeDetach | Verb::VolumeResize if !portal => {
            (Impossible, "the operator's file names no portal for disks")
        }
        Verb::VolumeAttach => (
            Native,
            "QMP blockdev-add of QEMU's own iSCSI initiator and device_add on pc and q35; on microvm at the next start",
        ),
        Verb::VolumeDetach => {
            (Native, "QMP device_del, the guest is awaited, then blockdev-del; on microvm at the next start")
        }
        Verb::VolumeResize => (Native, "QMP block_resize once the target has grown"),
        Verb::NicAttach | Verb::NicDetach | Verb::NicUpdate if !networks => {
            (Impossible, "the operator's file names no network")
        }
        Verb::NicAttach => {
            (Native, "QMP netdev_add and device_add on pc and q35; on microvm at the next start")
        }
        Verb::NicDetach => {
            (Native, "QMP device_del, the guest is awaited, then netdev_del; on microvm at the next start")
        }
        Verb::NicUpdate => (Native, "QMP set_link"),
        Verb::MigratePrepare if !migration.is_some_and(Migration::receives) => (
            Impossible,
            "the operator's file names no address on which machines are received (migration.listen)",
        ),
        Verb::MigrateStart | Verb::MigrateCancel if !migration.is_some_and(Migration::sends) => {
            (Impossible, "the operator's file names no host that machines may move to (migration.peers)")
        }
        Verb::MigratePrepare => {
            (Native, "a new process with -incoming, QMP migrate-incoming; cont when all has come")
        }
        Verb::MigrateStart if encrypted => (
            Native,
            "QMP migrate, encrypted; stop before the last part, and the process is ended when its peer has all",
        ),
        Verb::MigrateStart => (
            Native,
            "QMP migrate, in clear; stop before the last part, and the process is ended when its peer has all",
        ),
        Verb::MigrateCancel => (Native, "QMP migrate_cancel, then cont"),
        Verb::Describe => (Native, "QMP query-status, qom-list"),
    };
    Capability { verb, support, by: Text::new(by) }
}
