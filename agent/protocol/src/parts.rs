//! What an instance is made of beside its image: its size, its disks and its network interfaces.

use crate::{IscsiName, NetworkName, NicName, Text, VolumeName};
use alloc::boxed::Box;
use alloc::format;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The most disks that can be attached to an instance.
pub const VOLUMES_MAX: usize = 16;
/// The most network interfaces that can be attached to an instance.
pub const NICS_MAX: usize = 8;

/// How large an instance is. What is absent is as its image says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Size {
    /// Virtual processors, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u16>,
    /// Memory in MiB, at least one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_mib: Option<u32>,
}

impl Size {
    /// Whether it says nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// This size, with what `other` says in place of what it says itself.
    pub fn changed_by(self, other: Self) -> Self {
        Self { cpus: other.cpus.or(self.cpus), memory_mib: other.memory_mib.or(self.memory_mib) }
    }
}

/// A disk: a target of the appliance, by the names the appliance knows it by. Where the appliance is stands in the
/// operator's file and never crosses the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// What the disk is called; unique within its instance.
    pub volume: VolumeName,
    /// The target's iSCSI name.
    pub iqn: IscsiName,
    /// The logical unit.
    #[serde(default)]
    pub lun: u16,
    /// The guest may not write to it.
    #[serde(default)]
    pub read_only: bool,
}

/// A network interface of a guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// What the interface is called; unique within its instance.
    pub nic: NicName,
    /// The network it is on, by its name in the operator's file.
    pub network: NetworkName,
    /// Its address.
    pub mac: Mac,
    /// Whether its cable is plugged in.
    #[serde(default = "up")]
    pub link: Link,
}

const fn up() -> Link {
    Link::Up
}

/// Whether an interface's cable is plugged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Link {
    /// It is.
    Up,
    /// It is not.
    Down,
}

/// How far the attachment of a disk or an interface has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Attachment {
    /// The guest has it, or will have it when it starts.
    Attached,
    /// The guest was asked to let go of it and has not done so yet.
    Detaching,
}

/// A disk as it is shown of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "VolumeMembers")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(!from))]
pub struct AttachedVolume {
    /// The disk.
    #[serde(flatten)]
    pub volume: Volume,
    /// How it is attached.
    pub attachment: Attachment,
}

/// The members of [`AttachedVolume`] as they stand on the wire.
#[derive(Deserialize)]
struct VolumeMembers {
    volume: VolumeName,
    iqn: IscsiName,
    #[serde(default)]
    lun: u16,
    #[serde(default)]
    read_only: bool,
    attachment: Attachment,
}

impl From<VolumeMembers> for AttachedVolume {
    fn from(members: VolumeMembers) -> Self {
        let VolumeMembers { volume, iqn, lun, read_only, attachment } = members;
        Self { volume: Volume { volume, iqn, lun, read_only }, attachment }
    }
}

/// An interface as it is shown of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "NicMembers")]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(!from))]
pub struct AttachedNic {
    /// The interface.
    #[serde(flatten)]
    pub nic: Nic,
    /// How it is attached.
    pub attachment: Attachment,
}

/// The members of [`AttachedNic`] as they stand on the wire.
#[derive(Deserialize)]
struct NicMembers {
    nic: NicName,
    network: NetworkName,
    mac: Mac,
    #[serde(default = "up")]
    link: Link,
    attachment: Attachment,
}

impl From<NicMembers> for AttachedNic {
    fn from(members: NicMembers) -> Self {
        let NicMembers { nic, network, mac, link, attachment } = members;
        Self { nic: Nic { nic, network, mac, link }, attachment }
    }
}

/// What an instance has used since it was started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stats {
    /// Time that its processors ran, in milliseconds.
    pub cpu_ms: u64,
    /// Memory that its host gives it, in KiB, if that can be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kib: Option<u64>,
    /// Its disks.
    #[serde(default)]
    pub disks: Vec<Traffic>,
    /// Its network interfaces; reading is receiving here and writing is sending.
    #[serde(default)]
    pub nics: Vec<Traffic>,
}

/// What went through a disk or an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Traffic {
    /// The volume's or interface's name, or the hypervisor's for one of the image's own.
    pub name: Text,
    /// Reads, or packets received.
    pub reads: u64,
    /// Bytes of them.
    pub read_bytes: u64,
    /// Writes, or packets sent.
    pub writes: u64,
    /// Bytes of them.
    pub write_bytes: u64,
}

/// An Ethernet address of one station (IEEE 802-2014 section 8.2): six pairs of hexadecimal digits, written in lower
/// case with colons between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Mac {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let bytes: Box<[u8]> = text.bytes().collect();
        if bytes.len() != 17 {
            return Err(());
        }
        let mut mac = [0; 6];
        for (index, pair) in bytes.chunks(3).enumerate() {
            if pair.get(2).is_some_and(|byte| *byte != b':') {
                return Err(());
            }
            for digit in &pair[..2] {
                let value = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return Err(()),
                };
                mac[index] = mac[index] << 4 | value;
            }
        }
        // The lowest bit of the first byte is that of groups.
        if mac == [0; 6] || mac[0] & 1 == 1 { Err(()) } else { Ok(Self(mac)) }
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Address;
        impl Visitor<'_> for Address {
            type Value = Mac;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an Ethernet address of one station, such as 52:54:00:12:34:56")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Mac, E> {
                text.parse().map_err(|()| E::custom(format!("no Ethernet address, of {} bytes", text.len())))
            }
        }
        deserializer.deserialize_str(Address)
    }
}
