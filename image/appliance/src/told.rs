//! What the bare machine is told, by whichever channel: those that are in memory when it starts, then what is on its disks,
//! then what a metadata service says, if the others say that there is one.

use crate::beside::Beside;
use crate::disk;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use drivers::AnyNic;
use drivers::virtio::blk::Block;
use image_appliance::config::{self, Channel, Config, First, Metadata, note, oem};
use image_channels::smbios::{self, Table};
use image_channels::volume::{self, Found};
use image_probe::metadata;
use kernel::{Machine, Module};
use kernel_runtime::Instant;
use network_nic::Nic;

/// The file that QEMU may be given for us.
const FILE: &str = "opt/corbel/config";
/// The modules as which the doors pass a file of this name on the disk that they were loaded from, the document of a `cidata`
/// volume, and the firmware's SMBIOS table.
const BOOT_FILE: &str = "corbel.cfg";
const CIDATA: &str = "cidata";
const SMBIOS: &str = "smbios";

/// The documents, in the order of `docs/configuration.md`.
pub(crate) struct Told {
    documents: Vec<(Channel, String)>,
}

impl Told {
    /// What is in memory.
    ///
    /// # Errors
    /// A sentence that names the channel of what cannot be read.
    pub(crate) fn read(machine: &Machine) -> Result<Self, String> {
        let mut told = Self { documents: vec![(Channel::CommandLine, machine.command_line().to_string())] };
        let mut table = None;
        for module in machine.modules() {
            let channel = match &*module.name {
                BOOT_FILE => Channel::BootDisk,
                CIDATA => Channel::Cidata,
                SMBIOS => {
                    table = Some(contents(module, Channel::Smbios, smbios::LONGEST_TABLE.into())?);
                    continue;
                }
                _ => Channel::Module,
            };
            told.push(channel, contents(module, channel, config::LONGEST as u64)?)?;
        }
        let found = table.map(Ok).or_else(|| find_table(machine)).transpose();
        let table = found.unwrap_or_else(|Table { address, length }| {
            log::warn!("{}: the table of {length} bytes at {address:#x} cannot be read", Channel::Smbios);
            None
        });
        if let Some(table) = table
            && let Some(document) = oem::document(&table).map_err(|error| error.to_string())?
        {
            told.push(Channel::Smbios, document)?;
        }
        if let Some(file) = machine.fw_cfg(FILE).map_err(|error| format!("fw_cfg {FILE}: {error}"))? {
            told.push(Channel::FwCfg, file)?;
        }
        let noted = note::document(|key, longest| machine.guestinfo(key, longest));
        if let Some(note) = noted.map_err(|error| error.to_string())? {
            told.push(Channel::GuestInfo, note)?;
        }
        // A door that was told nothing of it may have passed some.
        let others = told.channels().into_iter().filter(|(channel, _)| *channel != Channel::Cidata);
        let first = Config::first(&others.collect::<Vec<_>>()).map_err(|error| error.to_string())?;
        if !first.volumes {
            told.documents.retain(|(channel, _)| *channel != Channel::Cidata);
        }
        Ok(told)
    }

    /// What is on disks that are labelled `cidata`.
    ///
    /// # Errors
    /// One of that label that cannot be read, or has something that cannot be understood: it is what we are to be told. What
    /// cannot be read and has not shown the label is somebody else's disk.
    pub(crate) fn read_disks(&mut self, machine: &Machine, disks: &mut [Block]) -> Result<(), String> {
        if disks.is_empty() || !self.first()?.volumes {
            return Ok(());
        }
        let mut buffer = vec![0; config::LONGEST];
        for disk in disks {
            let location = disk.location();
            let found = volume::read(&mut disk::Readable { disk, machine }, &mut buffer);
            match found.map_err(|fault| format!("configuration: {}: {location}: {fault}", Channel::Cidata))? {
                Found::Nothing => {}
                Found::Unreadable => log::warn!(
                    "{location}: cannot be read, and has not shown the label cidata: what is on it is not looked at"
                ),
                Found::ForOthers => {
                    log::warn!(
                        "{location}: labelled cidata, with nothing for us: no corbel.cfg, no user-data that begins with #corbel"
                    );
                }
                Found::Document(length) => self.push(Channel::Cidata, buffer[..length].to_vec())?,
            }
        }
        Ok(())
    }

    /// What a metadata service says, if the others say that there is one; by whichever it is reached of the NICs that it is asked
    /// on.
    ///
    /// # Errors
    /// When it says nothing.
    pub(crate) fn ask(
        &mut self,
        machine: &Machine,
        nics: Vec<AnyNic>,
        seed: u64,
        beside: &mut Beside,
    ) -> Result<Vec<AnyNic>, String> {
        let Some(Metadata { address, nics: asked }) = self.first()?.metadata else { return Ok(nics) };
        let now = || Instant::from_micros(machine.now());
        let mut rest = |until: Option<Instant>| beside.rest(machine, until.map(Instant::as_micros));
        let count = nics.iter().filter(|nic| asked.includes(nic.mac())).count();
        log::info!("asking the metadata service at {address} on {count} of {} NICs", nics.len());
        let (nics, document) =
            metadata::fetch(nics, address, &|mac| asked.includes(mac), seed, &now, &mut rest);
        let fail = |reason| format!("configuration: {}: {reason}", Channel::Mmds);
        self.push(Channel::Mmds, document.map_err(fail)?)?;
        Ok(nics)
    }

    /// What has to be known before all of it is.
    ///
    /// # Errors
    /// As [`Config::first`].
    pub(crate) fn first(&self) -> Result<First, String> {
        Config::first(&self.channels()).map_err(|error| error.to_string())
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Config::parse`].
    pub(crate) fn config(&self) -> Result<Config, String> {
        Config::parse(&self.channels()).map_err(|error| error.to_string())
    }

    fn channels(&self) -> Vec<(Channel, &str)> {
        self.documents.iter().map(|(channel, text)| (*channel, text.as_str())).collect()
    }

    fn push(&mut self, channel: Channel, document: Vec<u8>) -> Result<(), String> {
        let text = String::from_utf8(document);
        let text = text.map_err(|_| format!("configuration: {channel}: not UTF-8 text"))?;
        self.documents.push((channel, text));
        // Those of one channel stay as they came.
        self.documents.sort_by_key(|(channel, _)| *channel);
        Ok(())
    }
}

/// A module that is not longer than may be.
fn contents(module: &Module, channel: Channel, longest: u64) -> Result<Vec<u8>, String> {
    let file = (module.length() <= longest).then(|| module.read()).flatten();
    file.ok_or_else(|| format!("configuration: {channel}: too long to be read"))
}

/// The SMBIOS table where a PC's firmware leaves word of it, or where it would be and cannot be read. A door that knows a better
/// place passes the table.
fn find_table(machine: &Machine) -> Option<Result<Vec<u8>, Table>> {
    let (start, end) = smbios::PLACE;
    let table = Table::search(&machine.firmware(start, end - start)?)?;
    Some(machine.firmware(table.address, table.length.into()).ok_or(table))
}
