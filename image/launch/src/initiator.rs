//! The initiators everybody has: libiscsi's tools and QEMU's own iSCSI driver.

use crate::net::Net;
use crate::{Context, Error, Result, process};
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(30);
/// A whole disk through an emulated machine on a busy host.
const WHOLE: Duration = Duration::from_secs(180);

/// A logical unit as an initiator is told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The portal.
    pub portal: SocketAddrV4,
    /// The target's iSCSI name.
    pub iqn: String,
    /// The logical unit's number.
    pub lun: u16,
}

impl Unit {
    /// The URL by which libiscsi and QEMU name it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("iscsi://{}/{}/{}", self.portal, self.iqn, self.lun)
    }
}

/// What discovery says of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its iSCSI name.
    pub iqn: String,
    /// The portal it advertises, `ADDRESS:PORT,GROUP`.
    pub portal: String,
    /// Its logical units of the type "direct access".
    pub luns: Vec<u16>,
}

/// What READ CAPACITY (16) says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Bytes of a logical block.
    pub block: u64,
    /// Number of logical blocks.
    pub blocks: u64,
}

impl Capacity {
    /// Bytes of the whole unit.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.block * self.blocks
    }
}

/// Discovers targets and their logical units (`iscsi-ls --show-luns`).
///
/// # Errors
/// When discovery or one of the logins it makes fails.
pub fn discover(net: &Net, portal: SocketAddrV4) -> Result<Vec<Found>> {
    let mut ls = net.command("iscsi-ls");
    ls.args(["--show-luns", &format!("iscsi://{portal}")]);
    parse_discovery(&process::check(ls, LIMIT)?)
}

fn parse_discovery(text: &str) -> Result<Vec<Found>> {
    let mut found: Vec<Found> = Vec::new();
    for line in text.lines() {
        if let Some((iqn, portal)) = line.strip_prefix("Target:").and_then(|rest| rest.split_once(" Portal:"))
        {
            found.push(Found { iqn: iqn.into(), portal: portal.trim().into(), luns: Vec::new() });
        } else if let Some((lun, kind)) =
            line.trim().strip_prefix("Lun:").and_then(|rest| rest.split_once("Type:"))
        {
            let target = found.last_mut().ok_or_else(|| Error::new(format!("iscsi-ls: {line}")))?;
            if kind.starts_with("DIRECT_ACCESS") {
                target.luns.push(lun.trim().parse().context(format!("iscsi-ls: {line}"))?);
            }
        }
    }
    Ok(found)
}

/// The standard INQUIRY data in words (`iscsi-inq`).
///
/// # Errors
/// When it fails.
pub fn inquiry(net: &Net, unit: &Unit) -> Result<String> {
    let mut inq = net.command("iscsi-inq");
    inq.arg(unit.url());
    process::check(inq, LIMIT)
}

/// One page of vital product data in words (`iscsi-inq -e 1 -c PAGE`).
///
/// # Errors
/// When it fails.
pub fn vital_product_data(net: &Net, unit: &Unit, page: u8) -> Result<String> {
    let mut inq = net.command("iscsi-inq");
    inq.args(["-e", "1", "-c", &page.to_string()]).arg(unit.url());
    process::check(inq, LIMIT)
}

/// The size (`iscsi-readcapacity16`).
///
/// # Errors
/// When it fails.
pub fn capacity(net: &Net, unit: &Unit) -> Result<Capacity> {
    let mut tool = net.command("iscsi-readcapacity16");
    tool.arg(unit.url());
    parse_capacity(&process::check(tool, LIMIT)?)
}

fn parse_capacity(text: &str) -> Result<Capacity> {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.trim().strip_prefix(name)?.trim().strip_prefix(':'));
        let value =
            value.ok_or_else(|| Error::new(format!("iscsi-readcapacity16 names no `{name}`:\n{text}")))?;
        value.trim().parse::<u64>().context(format!("iscsi-readcapacity16: {name}"))
    };
    let last = field("RETURNED LOGICAL BLOCK ADDRESS")?;
    Ok(Capacity { block: field("LOGICAL BLOCK LENGTH IN BYTES")?, blocks: last + 1 })
}

/// Copies a file over the unit, from its first byte on, and flushes (`qemu-img convert`).
///
/// # Errors
/// When it fails.
pub fn write(net: &Net, from: &Path, unit: &Unit) -> Result<()> {
    let mut convert = net.command("qemu-img");
    convert.args(["convert", "-n", "-t", "writeback", "-f", "raw", "-O", "raw"]).arg(from).arg(unit.url());
    process::check(convert, WHOLE).map(drop)
}

/// Copies the whole unit into a file (`qemu-img convert`).
///
/// # Errors
/// When it fails.
pub fn read(net: &Net, unit: &Unit, to: &Path) -> Result<()> {
    let mut convert = net.command("qemu-img");
    convert.args(["convert", "-T", "none", "-f", "raw", "-O", "raw"]).arg(unit.url()).arg(to);
    process::check(convert, WHOLE).map(drop)
}

/// Runs commands of `qemu-io` on the unit, in order, on one session; any that fails fails all.
///
/// # Errors
/// When one fails; the sentence carries what it said.
pub fn qemu_io(net: &Net, unit: &Unit, commands: &[&str]) -> Result<String> {
    let mut io = net.command("qemu-io");
    io.args(["-f", "raw"]);
    for command in commands {
        io.args(["-c", command]);
    }
    io.arg(unit.url());
    process::check(io, WHOLE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discovery_lists_disks_and_leaves_out_controllers() {
        let text = "Target:iqn.2026-11.example.a:d Portal:10.77.0.2:3260,1\n\
                    Lun:0    Type:STORAGE_ARRAY_CONTROLLER\n\
                    Lun:1    Type:DIRECT_ACCESS (Size:63M)\n\
                    Target:iqn.2026-11.example.a:e Portal:10.77.0.2:3260,1\n";
        let found = parse_discovery(text).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].luns, [1]);
        assert_eq!((found[1].iqn.as_str(), found[1].luns.len()), ("iqn.2026-11.example.a:e", 0));
        assert_eq!(found[0].portal, "10.77.0.2:3260,1");
    }

    #[test]
    fn a_capacity_counts_the_last_block_too() {
        let text =
            "RETURNED LOGICAL BLOCK ADDRESS:131071\nLOGICAL BLOCK LENGTH IN BYTES:512\nP_TYPE:0 PROT_EN:0\n";
        assert_eq!(parse_capacity(text).unwrap().bytes(), 64 << 20);
        assert!(parse_capacity("nothing").is_err());
    }
}
