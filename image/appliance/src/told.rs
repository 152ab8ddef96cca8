//! What the bare machine is told, by whichever channel: those that are in memory when it starts, then what is on its disks,
//! then what a metadata service says, if the others say that there is one.

use crate::disk;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use drivers::AnyNic;
use drivers::virtio::blk::Block;
use image_appliance::config::{self, Channel, Config, First, note, oem};
use image_channels::smbios::{self, Table};
use image_channels::volume::{self, Found};
use image_probe::metadata;
use kernel::{Machine, Module};
use kernel_runtime::Instant;

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
        if let Some(table) = table.or_else(|| find_table(machine))
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
        Ok(told)
    }

    /// What is on disks that are labelled `cidata`.
    ///
    /// # Errors
    /// A disk that cannot be read, or has something that cannot be understood: it may be what we are to be told.
    pub(crate) fn read_disks(&mut self, machine: &Machine, disks: &mut [Block]) -> Result<(), String> {
        if disks.is_empty() {
            return Ok(());
        }
        let mut buffer = vec![0; config::LONGEST];
        for disk in disks {
            let location = disk.location();
            let found = volume::read(&mut disk::Readable { disk, machine }, &mut buffer);
            match found.map_err(|fault| format!("configuration: {}: {location}: {fault}", Channel::Cidata))? {
                Found::Nothing => {}
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

    /// What a metadata service says, if the others say that there is one; by whichever of the NICs it is reached.
    ///
    /// # Errors
    /// When it says nothing.
    pub(crate) fn ask(
        &mut self,
        machine: &Machine,
        nics: Vec<AnyNic>,
        seed: u64,
    ) -> Result<Vec<AnyNic>, String> {
        let Some(address) = self.first()?.metadata else { return Ok(nics) };
        let now = || Instant::from_micros(machine.now());
        let mut idle = |until: Instant| machine.idle(Some(until.as_micros()));
        log::info!("asking the metadata service at {address} on {} NICs", nics.len());
        let (nics, document) = metadata::fetch(nics, address, seed, &now, &mut idle);
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

/// The SMBIOS table where a PC's firmware leaves word of it. A door that knows a better place passes the table.
fn find_table(machine: &Machine) -> Option<Vec<u8>> {
    let (start, end) = smbios::PLACE;
    let table = Table::search(&machine.firmware(start, end - start)?)?;
    machine.firmware(table.address, table.length.into())
}
