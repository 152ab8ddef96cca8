//! The descriptions that libvirt takes, made of the operator's file and of names, and of nothing else.

use super::images::{Board, Bus, Cpu, Disk, Image, Kind, Network, Section};
use super::xml::Xml;
use crate::hypervisor::{Fault, Machine};
use agent_protocol::{Failure, Link, NICS_MAX, Nic, NicName, SnapshotName, VOLUMES_MAX, Volume, VolumeName};
use std::path::PathBuf;

/// The namespace of the mark by which the agent knows its own domains.
pub(super) const NAMESPACE: &str = "https://corbel.dev/agent/1";
/// The mark.
pub(super) const MARK: &str = "instance";
/// What the names of disks and interfaces begin with in libvirt, which wants "ua-" for names that are not its own.
pub(super) const VOLUME: &str = "ua-volume-";
/// The same of interfaces.
pub(super) const NIC: &str = "ua-nic-";
/// The longest serial number of a virtio disk.
const SERIAL_MAX: usize = 20;

/// What libvirt calls the machine. With its UUID, so that an incarnation that has not been removed yet is not in the way
/// of the next.
pub(super) fn name(machine: &Machine) -> String {
    format!("{}-{}", machine.id, machine.uuid)
}

pub(super) fn volume_alias(name: &VolumeName) -> String {
    format!("{VOLUME}{name}")
}

pub(super) fn nic_alias(name: &NicName) -> String {
    format!("{NIC}{name}")
}

/// The machine's own copy of a disk of its image.
pub(super) fn private_disk(section: &Section, machine: &Machine, index: usize) -> Option<PathBuf> {
    Some(section.disks.as_ref()?.join(format!("{}-{index}.qcow2", machine.uuid)))
}

/// The image of a machine.
pub(super) fn image<'a>(machine: &Machine, section: &'a Section) -> Result<&'a Image, Fault> {
    section.images.get(&machine.image).ok_or_else(|| {
        Fault::new(Failure::Spawn, format!("the image {} is in the table no more", machine.image))
    })
}

/// The whole domain (`<domain>`).
pub(super) fn domain(machine: &Machine, section: &Section) -> Result<String, Fault> {
    let image = image(machine, section)?;
    let mut devices = Xml::default();
    for (index, volume) in machine.volumes.iter().enumerate() {
        write_volume(&mut devices, machine, volume, section, &target(image.disks.len() + index))?;
    }
    for nic in &machine.nics {
        write_nic(&mut devices, nic, section)?;
    }
    let attached = devices.finish();
    let kind = match image.kind {
        Kind::Kvm => "kvm",
        Kind::Qemu => "qemu",
    };
    let mut xml = Xml::default();
    xml.within("domain", &[("type", kind)], |xml| {
        xml.text("name", &[], &name(machine));
        xml.text("uuid", &[], &machine.uuid.to_string());
        xml.within("metadata", &[], |xml| {
            let prefixed = format!("corbel:{MARK}");
            xml.empty(&prefixed, &[("xmlns:corbel", NAMESPACE), ("id", machine.id.as_str())]);
        });
        write_size(xml, machine, image);
        write_boot(xml, image);
        xml.within("features", &[], |xml| {
            xml.empty("acpi", &[]);
            xml.empty("apic", &[]);
        });
        if let Some(cpu) = image.cpu {
            let mode = match cpu {
                Cpu::HostPassthrough => "host-passthrough",
                Cpu::HostModel => "host-model",
                Cpu::Maximum => "maximum",
            };
            xml.empty("cpu", &[("mode", mode)]);
        }
        // A guest that ends has ended: whether it is started again is for the appliance to say.
        xml.text("on_poweroff", &[], "destroy");
        xml.text("on_reboot", &[], "restart");
        xml.text("on_crash", &[], "destroy");
        xml.within("devices", &[], |xml| {
            write_board(xml, image, section);
            for (index, disk) in image.disks.iter().enumerate() {
                write_disk(xml, disk, private_disk(section, machine, index), index, image.machine);
            }
            xml.already_written(&attached);
        });
    });
    Ok(xml.finish())
}

fn write_size(xml: &mut Xml, machine: &Machine, image: &Image) {
    let mib = machine.size.memory_mib.unwrap_or(image.memory_mib);
    xml.text("memory", &[("unit", "MiB")], &mib.max(image.memory_max_mib).to_string());
    xml.text("currentMemory", &[("unit", "MiB")], &mib.to_string());
    let cpus = machine.size.cpus.unwrap_or(image.cpus);
    xml.text("vcpu", &[("current", &cpus.to_string())], &cpus.max(image.cpus_max).to_string());
}

fn write_boot(xml: &mut Xml, image: &Image) {
    let firmware: &[_] = if image.uefi { &[("firmware", "efi")] } else { &[] };
    xml.within("os", firmware, |xml| {
        let board = match image.machine {
            Board::Pc => "pc",
            Board::Q35 => "q35",
        };
        xml.text("type", &[("arch", "x86_64"), ("machine", board)], "hvm");
        let lossy = |path: &PathBuf| path.to_string_lossy().into_owned();
        if let Some(kernel) = &image.kernel {
            xml.text("kernel", &[], &lossy(kernel));
        }
        if let Some(initrd) = &image.initrd {
            xml.text("initrd", &[], &lossy(initrd));
        }
        if let Some(line) = &image.command_line {
            xml.text("cmdline", &[], line);
        }
        xml.empty("boot", &[("dev", "hd")]);
    });
}

fn write_board(xml: &mut Xml, image: &Image, section: &Section) {
    if let Some(executable) = &section.executable {
        xml.text("emulator", &[], &executable.to_string_lossy());
    }
    xml.empty("controller", &[("type", "usb"), ("model", "none")]);
    if image.machine == Board::Q35 {
        // Where devices can be plugged while it runs: a port for each that may come, and for those it begins with.
        xml.empty("controller", &[("type", "pci"), ("index", "0"), ("model", "pcie-root")]);
        for _ in 0..VOLUMES_MAX + NICS_MAX + image.disks.len() + 2 {
            xml.empty("controller", &[("type", "pci"), ("model", "pcie-root-port")]);
        }
    }
    if image.console {
        xml.within("serial", &[("type", "pty")], |xml| xml.empty("target", &[("port", "0")]));
    }
    xml.empty("memballoon", &[("model", "virtio")]);
}

/// What the disk of that number is called within libvirt; the guest may call it otherwise.
pub(super) fn target(index: usize) -> String {
    // There are fewer of them than letters: `DISKS_MAX` and `VOLUMES_MAX`.
    let letter = char::from(b'a' + (index % 26) as u8);
    format!("vd{letter}")
}

fn write_disk(xml: &mut Xml, disk: &Disk, private: Option<PathBuf>, index: usize, board: Board) {
    let (file, format) = match private {
        Some(file) if disk.private => (file, "qcow2"),
        _ => (disk.file.clone(), disk.format.name()),
    };
    let letter = target(index);
    let (prefix, bus) = match (disk.bus, board) {
        (Bus::Virtio, _) => ("vd", "virtio"),
        (Bus::Board, Board::Pc) => ("hd", "ide"),
        (Bus::Board, Board::Q35) => ("sd", "sata"),
    };
    xml.within("disk", &[("type", "file"), ("device", "disk")], |xml| {
        xml.empty("driver", &[("name", "qemu"), ("type", format)]);
        xml.empty("source", &[("file", &file.to_string_lossy())]);
        xml.empty("target", &[("dev", &letter.replacen("vd", prefix, 1)), ("bus", bus)]);
        if disk.read_only {
            xml.empty("readonly", &[]);
        }
    });
}

/// A disk of the appliance (`<disk type='network'>`), which QEMU's own initiator logs in to by the machine's name.
pub(super) fn volume(
    machine: &Machine,
    volume: &Volume,
    section: &Section,
    target: &str,
) -> Result<String, Fault> {
    let mut xml = Xml::default();
    write_volume(&mut xml, machine, volume, section, target)?;
    Ok(xml.finish())
}

fn write_volume(
    xml: &mut Xml,
    machine: &Machine,
    volume: &Volume,
    section: &Section,
    target: &str,
) -> Result<(), Fault> {
    let missing = |what| Fault::new(Failure::Hypervisor, what);
    let portal = section.portal.ok_or_else(|| missing("the operator's file names no portal for disks"))?;
    let initiator = machine.initiator().ok_or_else(|| missing("it has no name to log in by"))?;
    xml.within("disk", &[("type", "network"), ("device", "disk")], |xml| {
        // Nothing may stay in a cache of the host: what a guest was told is written is written.
        xml.empty("driver", &[("name", "qemu"), ("type", "raw"), ("cache", "none"), ("discard", "unmap")]);
        let unit = format!("{}/{}", volume.iqn, volume.lun);
        xml.within("source", &[("protocol", "iscsi"), ("name", &unit)], |xml| {
            let (address, port) = (portal.ip().to_string(), portal.port().to_string());
            xml.empty("host", &[("name", &address), ("port", &port)]);
            xml.within("initiator", &[], |xml| xml.empty("iqn", &[("name", initiator.as_str())]));
        });
        xml.empty("target", &[("dev", target), ("bus", "virtio")]);
        if volume.read_only {
            xml.empty("readonly", &[]);
        }
        if volume.volume.as_str().len() <= SERIAL_MAX {
            xml.text("serial", &[], volume.volume.as_str());
        }
        xml.empty("alias", &[("name", &volume_alias(&volume.volume))]);
    });
    Ok(())
}

/// A network interface (`<interface>`).
pub(super) fn nic(nic: &Nic, section: &Section) -> Result<String, Fault> {
    let mut xml = Xml::default();
    write_nic(&mut xml, nic, section)?;
    Ok(xml.finish())
}

fn write_nic(xml: &mut Xml, nic: &Nic, section: &Section) -> Result<(), Fault> {
    let network = section.networks.get(&nic.network).ok_or_else(|| {
        Fault::new(Failure::Hypervisor, format!("the operator's file has no network {}", nic.network))
    })?;
    let kind = match network {
        Network::User => "user",
        Network::Bridge(_) => "bridge",
    };
    xml.within("interface", &[("type", kind)], |xml| {
        xml.empty("mac", &[("address", &nic.mac.to_string())]);
        if let Network::Bridge(name) = network {
            xml.empty("source", &[("bridge", name)]);
        }
        xml.empty("model", &[("type", "virtio")]);
        let state = match nic.link {
            Link::Up => "up",
            Link::Down => "down",
        };
        xml.empty("link", &[("state", state)]);
        xml.empty("alias", &[("name", &nic_alias(&nic.nic))]);
        // The guest is shown no boot ROM that would have to be found on the host.
        xml.empty("rom", &[("enabled", "no")]);
    });
    Ok(())
}

/// A snapshot (`<domainsnapshot>`), kept within the disks.
pub(super) fn snapshot(name: &SnapshotName) -> String {
    let mut xml = Xml::default();
    xml.within("domainsnapshot", &[], |xml| xml.text("name", &[], name.as_str()));
    xml.finish()
}
