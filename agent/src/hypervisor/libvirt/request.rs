//! What a step is in libvirt's own words: a pure function to remote procedure calls with their arguments.

use super::described::Described;
use super::document;
use super::images::Section;
use super::xdr::Writer;
use crate::hypervisor::{Fault, Machine, Step};
use agent_protocol::{Failure, Nic, SnapshotName};

/// The change is to what runs (`VIR_DOMAIN_AFFECT_LIVE`). What is defined is made anew at each start.
const LIVE: u32 = 1;
/// The guest is asked by ACPI (`VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN`).
const POWER_BUTTON: u32 = 1;
/// Whatever held it when it was saved, it runs when it is restored (`VIR_DOMAIN_SAVE_RUNNING`).
const SAVE_RUNNING: u32 = 2;
/// A size in bytes (`VIR_DOMAIN_BLOCK_RESIZE_BYTES`).
const BYTES: u32 = 1;
/// With saved memory, the descriptions of snapshots and checkpoints, and firmware variables (`VIR_DOMAIN_UNDEFINE_`
/// `MANAGED_SAVE`, `SNAPSHOTS_METADATA`, `NVRAM`, `CHECKPOINTS_METADATA`).
const EVERY_TRACE: u32 = 1 | 2 | 4 | 16;

/// In which state a domain is left by going back to a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// As it was when the snapshot was made.
    AsKept,
    /// It runs (`VIR_DOMAIN_SNAPSHOT_REVERT_RUNNING`).
    Running,
    /// Its processors are held (`VIR_DOMAIN_SNAPSHOT_REVERT_PAUSED`).
    Paused,
}

/// A domain as libvirtd names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: [u8; 16],
    /// A number while it runs, else -1.
    pub id: i32,
}

/// One procedure with its arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make or replace the definition (`virDomainDefineXMLFlags`).
    Define(String),
    /// Run it (`virDomainCreateWithFlags`); from saved memory, if there is any.
    Create,
    /// Hold its processors (`virDomainSuspend`).
    Suspend,
    /// Let them go on (`virDomainResume`).
    Resume,
    /// Press its power button (`virDomainShutdownFlags`).
    Shutdown,
    /// Cut its power (`virDomainDestroyFlags`).
    Destroy,
    /// Restart its processors (`virDomainReset`).
    Reset,
    /// Write its memory to where libvirtd keeps it, and end it (`virDomainManagedSave`).
    ManagedSave,
    /// Keep disks and memory (`virDomainSnapshotCreateXML`).
    Snapshot(String),
    /// Go back to a snapshot (`virDomainRevertToSnapshot`).
    Revert(SnapshotName, Afterwards),
    /// Plug processors (`virDomainSetVcpusFlags`).
    SetProcessors(u32),
    /// Have the guest give memory back or take it, in KiB (`virDomainSetMemoryFlags`).
    SetMemory(u64),
    /// Plug a device (`virDomainAttachDeviceFlags`).
    Attach(String),
    /// Ask the guest to let go of a device (`virDomainDetachDeviceAlias`).
    Detach(String),
    /// Change a device (`virDomainUpdateDeviceFlags`).
    Update(String),
    /// Tell a disk its size, in bytes (`virDomainBlockResize`).
    BlockResize(String, u64),
    /// Remove the definition and all that belongs to it (`virDomainUndefineFlags`).
    Undefine,
}

impl Request {
    /// The number of the procedure.
    pub const fn procedure(&self) -> i32 {
        match self {
            Self::Define(_) => 350,
            Self::Create => 196,
            Self::Suspend => 34,
            Self::Resume => 28,
            Self::Shutdown => 258,
            Self::Destroy => 234,
            Self::Reset => 245,
            Self::ManagedSave => 182,
            Self::Snapshot(_) => 185,
            Self::Revert(..) => 192,
            Self::SetProcessors(_) => 199,
            Self::SetMemory(_) => 204,
            Self::Attach(_) => 160,
            Self::Detach(_) => 392,
            Self::Update(_) => 174,
            Self::BlockResize(..) => 251,
            Self::Undefine => 231,
        }
    }

    /// What libvirt calls it, for people.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Define(_) => "virDomainDefineXMLFlags",
            Self::Create => "virDomainCreateWithFlags",
            Self::Suspend => "virDomainSuspend",
            Self::Resume => "virDomainResume",
            Self::Shutdown => "virDomainShutdownFlags",
            Self::Destroy => "virDomainDestroyFlags",
            Self::Reset => "virDomainReset",
            Self::ManagedSave => "virDomainManagedSave",
            Self::Snapshot(_) => "virDomainSnapshotCreateXML",
            Self::Revert(..) => "virDomainRevertToSnapshot",
            Self::SetProcessors(_) => "virDomainSetVcpusFlags",
            Self::SetMemory(_) => "virDomainSetMemoryFlags",
            Self::Attach(_) => "virDomainAttachDeviceFlags",
            Self::Detach(_) => "virDomainDetachDeviceAlias",
            Self::Update(_) => "virDomainUpdateDeviceFlags",
            Self::BlockResize(..) => "virDomainBlockResize",
            Self::Undefine => "virDomainUndefineFlags",
        }
    }

    /// The arguments as they go over the wire.
    pub fn arguments(&self, domain: &Domain) -> Vec<u8> {
        self.written(domain).bytes().to_vec()
    }

    pub(super) fn written(&self, domain: &Domain) -> Writer {
        let mut writer = Writer::default();
        match self {
            Self::Define(xml) => {
                writer.string(xml).u32(0);
                return writer;
            }
            Self::Revert(name, afterwards) => {
                writer.string(name.as_str());
                write_domain(&mut writer, domain);
                writer.u32(match afterwards {
                    Afterwards::AsKept => 0,
                    Afterwards::Running => 1,
                    Afterwards::Paused => 2,
                });
                return writer;
            }
            _ => write_domain(&mut writer, domain),
        }
        match self {
            Self::Suspend | Self::Resume | Self::Define(_) | Self::Revert(..) => {}
            Self::Create | Self::Destroy | Self::Reset => drop(writer.u32(0)),
            Self::Shutdown => drop(writer.u32(POWER_BUTTON)),
            Self::ManagedSave => drop(writer.u32(SAVE_RUNNING)),
            Self::Undefine => drop(writer.u32(EVERY_TRACE)),
            Self::Snapshot(xml) => drop(writer.string(xml).u32(0)),
            Self::SetProcessors(count) => drop(writer.u32(*count).u32(LIVE)),
            Self::SetMemory(kib) => drop(writer.u64(*kib).u32(LIVE)),
            Self::Attach(text) | Self::Detach(text) | Self::Update(text) => {
                writer.string(text).u32(LIVE);
            }
            Self::BlockResize(disk, bytes) => drop(writer.string(disk).u64(*bytes).u32(BYTES)),
        }
        writer
    }
}

pub(super) fn write_domain(writer: &mut Writer, domain: &Domain) {
    writer.string(&domain.name).fixed(&domain.uuid).i32(domain.id);
}

/// The calls of a step, in their order, for a domain that `now` is described so. A step that needs more answers (how large
/// a disk is, in which state the domain was) has further calls between and after them.
///
/// # Errors
/// When the operator's file has not what the step needs.
pub fn requests(
    machine: &Machine,
    step: &Step,
    section: &Section,
    now: &Described,
) -> Result<Vec<Request>, Fault> {
    Ok(match step {
        Step::Start => vec![Request::Define(document::domain(machine, section)?), Request::Create],
        Step::Restore => vec![Request::Create],
        Step::Pause => vec![Request::Suspend],
        Step::Resume => vec![Request::Resume],
        Step::AskToStop => vec![Request::Shutdown],
        Step::End => vec![Request::Destroy],
        Step::Reset => vec![Request::Reset],
        Step::Save => vec![Request::ManagedSave],
        Step::Snapshot(name) => vec![Request::Snapshot(document::snapshot(name))],
        Step::Revert(name) => vec![Request::Revert(name.clone(), Afterwards::AsKept)],
        Step::Resize(size) => {
            let processors = size.cpus.map(|count| Request::SetProcessors(u32::from(count)));
            let memory = size.memory_mib.map(|mib| Request::SetMemory(u64::from(mib) << 10));
            processors.into_iter().chain(memory).collect()
        }
        Step::AttachVolume(volume) => {
            vec![Request::Attach(document::volume(machine, volume, section, &now.free_target())?)]
        }
        Step::AttachNic(nic) => vec![Request::Attach(document::nic(nic, section)?)],
        Step::DetachVolume(name) => vec![Request::Detach(document::volume_alias(name))],
        Step::DetachNic(name) => vec![Request::Detach(document::nic_alias(name))],
        Step::UpdateNic(name, link) => {
            let nic = machine.nics.iter().find(|nic| nic.nic == *name);
            let nic = nic.ok_or_else(|| Fault::new(Failure::Hypervisor, "it has no such interface"))?;
            vec![Request::Update(document::nic(&Nic { link: *link, ..nic.clone() }, section)?)]
        }
        Step::ResizeVolume(_) => Vec::new(),
        Step::MigratePrepare | Step::MigrateStart(_) | Step::MigrateCancel => {
            return Err(Fault::new(Failure::Hypervisor, super::capabilities::NO_MIGRATION));
        }
    })
}

#[cfg(test)]
mod tests;
