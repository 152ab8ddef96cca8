//! The operator's table: the only place where paths stand, and what a name that comes over the wire means here.

use super::super::operator::without_repetition;
use agent_protocol::{ImageName, NetworkName};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The most disks an image has of its own. With those that are attached, each has one letter.
const DISKS_MAX: usize = 8;

/// The part of the operator's file that concerns libvirt.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    /// libvirtd's socket.
    #[serde(default = "system_socket")]
    pub(super) socket: PathBuf,
    /// Which of its drivers.
    #[serde(default = "system_driver")]
    pub(super) uri: String,
    /// The QEMU that libvirtd is to start, if not the one it would take itself.
    #[serde(default)]
    pub(super) executable: Option<PathBuf>,
    /// Makes the disks of images that each instance has a copy of.
    #[serde(default = "qemu_img")]
    pub(super) qemu_img: PathBuf,
    /// Where these copies lie. The user as whom libvirtd runs QEMU must be able to get there.
    #[serde(default)]
    pub(super) disks: Option<PathBuf>,
    /// Where the appliance's targets are; without it no disk can be attached.
    #[serde(default)]
    pub(super) portal: Option<SocketAddr>,
    /// What interfaces can be attached to.
    #[serde(default, deserialize_with = "without_repetition")]
    pub(super) networks: BTreeMap<NetworkName, Network>,
    #[serde(deserialize_with = "without_repetition")]
    pub(super) images: BTreeMap<ImageName, Image>,
}

fn system_socket() -> PathBuf {
    "/run/libvirt/libvirt-sock".into()
}

fn system_driver() -> String {
    "qemu:///system".into()
}

fn qemu_img() -> PathBuf {
    "/usr/bin/qemu-img".into()
}

/// What a network name stands for.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Network {
    /// QEMU's own user-mode network, behind the host's address.
    User,
    /// A bridge of the host, by the name of its device.
    Bridge(String),
}

/// What an image name stands for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Image {
    /// How its processors are run.
    #[serde(rename = "type", default)]
    pub(super) kind: Kind,
    /// The board.
    #[serde(default)]
    pub(super) machine: Board,
    /// What the guest sees of the host's processors; libvirt's own choice if absent.
    #[serde(default)]
    pub(super) cpu: Option<Cpu>,
    #[serde(default = "one")]
    pub(super) cpus: u16,
    /// As many it can be given while it runs.
    #[serde(default)]
    pub(super) cpus_max: u16,
    pub(super) memory_mib: u32,
    /// As much it can be given while it runs.
    #[serde(default)]
    pub(super) memory_max_mib: u32,
    /// Boot by UEFI rather than by BIOS.
    #[serde(default)]
    pub(super) uefi: bool,
    #[serde(default)]
    pub(super) kernel: Option<PathBuf>,
    #[serde(default)]
    pub(super) initrd: Option<PathBuf>,
    #[serde(default)]
    pub(super) command_line: Option<String>,
    #[serde(default)]
    pub(super) disks: Vec<Disk>,
    /// It has a serial port, whose other end is a pseudo-terminal of the host.
    #[serde(default = "yes")]
    pub(super) console: bool,
}

/// How a guest's processors are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Kind {
    /// By the host's.
    #[default]
    Kvm,
    /// By translation.
    Qemu,
}

/// A board.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Board {
    /// i440FX.
    Pc,
    /// Q35.
    #[default]
    Q35,
}

/// What a guest sees of the host's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Cpu {
    /// All.
    HostPassthrough,
    /// What libvirt knows by name of it.
    HostModel,
    /// All that can be had, translated or not.
    Maximum,
}

/// A disk of an image.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Disk {
    pub(super) file: PathBuf,
    pub(super) format: Format,
    /// No guest may write to it.
    #[serde(default)]
    pub(super) read_only: bool,
    /// Each instance has a copy of its own, in which stands what differs.
    #[serde(default)]
    pub(super) private: bool,
    #[serde(default)]
    pub(super) bus: Bus,
}

/// How a disk's file is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Format {
    /// As it is.
    Raw,
    /// QEMU's own format.
    Qcow2,
}

/// What a disk is attached to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Bus {
    /// virtio.
    #[default]
    Virtio,
    /// The board's own SATA or IDE controller.
    Board,
}

const fn one() -> u16 {
    1
}

const fn yes() -> bool {
    true
}

impl Format {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

impl Section {
    /// Whether the table can be used; otherwise what is wrong with it.
    pub(super) fn check(&self) -> Result<(), String> {
        let wrong = |what: String| Err(format!("libvirt.{what}"));
        let paths = [Some(&self.socket), self.executable.as_ref(), Some(&self.qemu_img), self.disks.as_ref()];
        if let Some(path) = paths.into_iter().flatten().find(|path| !is_plain(path)) {
            return wrong(format!("{} is not an absolute path of printable characters", path.display()));
        }
        if let Some((name, _)) = self.networks.iter().find(|(_, network)| !network.is_possible()) {
            return wrong(format!("networks.{name}: that is not the name of a device of this host"));
        }
        for (name, image) in &self.images {
            if let Err(what) = image.check(self.disks.is_some()) {
                return wrong(format!("images.{name}: {what}"));
            }
        }
        Ok(())
    }
}

impl Network {
    /// Whether the host can have a device of that name.
    fn is_possible(&self) -> bool {
        let Self::Bridge(name) = self else { return true };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        (1..=15).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with(['-', '.'])
    }
}

impl Image {
    fn check(&self, has_place: bool) -> Result<(), String> {
        let kernel = [self.kernel.as_ref(), self.initrd.as_ref()].into_iter().flatten();
        let mut paths = kernel.chain(self.disks.iter().map(|disk| &disk.file));
        if let Some(path) = paths.find(|path| !is_plain(path)) {
            return Err(format!("{} is not an absolute path of printable characters", path.display()));
        }
        if self.command_line.as_deref().is_some_and(|line| line.chars().any(char::is_control)) {
            return Err("the command line holds a control character".into());
        }
        if self.kernel.is_none() && (self.initrd.is_some() || self.command_line.is_some()) {
            return Err("what is for a kernel needs one".into());
        }
        if self.cpus == 0 || self.memory_mib == 0 {
            return Err("it needs a processor and memory".into());
        }
        if self.disks.len() > DISKS_MAX {
            return Err(format!("it has more than {DISKS_MAX} disks"));
        }
        if !has_place && self.disks.iter().any(|disk| disk.private) {
            return Err("a private disk needs a place: libvirt.disks".into());
        }
        Ok(())
    }
}

/// Whether a path is the same in XML as here, and means the same wherever libvirtd runs.
fn is_plain(path: &Path) -> bool {
    path.is_absolute() && path.to_str().is_some_and(|text| !text.chars().any(char::is_control))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Section, String> {
        let section: Section = serde_json::from_str(text).map_err(|error| error.to_string())?;
        section.check().map(|()| section)
    }

    #[test]
    fn a_table_says_only_what_is_not_as_usual() {
        let section = parse(r#"{"images":{"a":{"memory_mib":64}}}"#).unwrap();
        assert_eq!(section.socket, Path::new("/run/libvirt/libvirt-sock"));
        assert_eq!(section.uri, "qemu:///system");
        let image = &section.images[&"a".parse().unwrap()];
        assert_eq!((image.kind, image.machine, image.cpus), (Kind::Kvm, Board::Q35, 1));
        let networks =
            r#"{"images":{},"networks":{"a":"user","b":{"bridge":"br0"}},"portal":"10.77.0.2:3260"}"#;
        assert_eq!(parse(networks).unwrap().networks[&"b".parse().unwrap()], Network::Bridge("br0".into()));
    }

    #[test]
    fn a_table_that_cannot_be_meant_is_refused() {
        for images in [
            r#"{"a":{}}"#,
            r#"{"a":{"memory_mib":0}}"#,
            r#"{"a":{"memory_mib":64,"cpus":0}}"#,
            r#"{"a":{"memory_mib":64},"a":{"memory_mib":64}}"#,
            r#"{"../a":{"memory_mib":64}}"#,
            r#"{"a":{"memory_mib":64,"xml":"<x/>"}}"#,
            r#"{"a":{"memory_mib":64,"kernel":"vmlinuz"}}"#,
            r#"{"a":{"memory_mib":64,"command_line":"quiet"}}"#,
            r#"{"a":{"memory_mib":64,"kernel":"/k","command_line":"a\u0001"}}"#,
            r#"{"a":{"memory_mib":64,"disks":[{"file":"/x","format":"raw","private":true}]}}"#,
            r#"{"a":{"memory_mib":64,"disks":[{"file":"/a\u0000b","format":"raw"}]}}"#,
            r#"{"a":{"memory_mib":64,"disks":[{"file":"/x"}]}}"#,
        ] {
            assert!(parse(&format!(r#"{{"images":{images}}}"#)).is_err(), "{images}");
        }
        for rest in [r#""socket":"libvirt-sock""#, r#""networks":{"n":{"bridge":"a b"}}"#, r#""colour":1"#] {
            assert!(parse(&format!(r#"{{"images":{{}},{rest}}}"#)).is_err(), "{rest}");
        }
    }
}
