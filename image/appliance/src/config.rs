//! The boot configuration: text from outside becomes types here, once, or the boot stops.
//!
//! One format whatever the channel: `key=value` items separated by white space; in a file a `#` starts a comment
//! that ends with its line. `docs/configuration.md` beside this package lists the keys. An unknown key, a key given twice by one
//! document or with two values by two, and a value that cannot be meant each end the boot with a line that names channel and
//! key: an appliance that guesses would serve the wrong disk to the wrong host.

pub use access::{Agent, Api, Lock};
use alloc::collections::BTreeMap;
use alloc::collections::btree_map::Entry;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::{Ipv4Addr, SocketAddrV4};
use core::num::NonZeroU16;
use core::str::FromStr;
use core::time::Duration;
pub use metadata::{Asked, Metadata};
use network::{Addressing, Cidr};
use storage::chap::Access;
use storage::{Exposure, Sharing};
pub use time::{Tell, Time};
pub use tls::Tls;

/// The longest text any channel may hold, in bytes.
pub const LONGEST: usize = 64 * 1024;
/// How long the appliance may take to end, unless something else is said; and at most.
const OFF: Duration = Duration::from_secs(30);
const LONGEST_OFF: u64 = 3600;

/// All that the appliance is told at boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The network between the appliance and the parent partition.
    pub host: Interface,
    /// The provider's network.
    pub service: Interface,
    /// The agent of the parent partition.
    pub agent: Option<Agent>,
    /// The management API, if there is to be one.
    pub api: Option<Api>,
    /// What discovery answers as the target's portal, where it differs from the address an initiator came to.
    pub portal: Option<SocketAddrV4>,
    /// The number of its target port group: another one on each appliance that exposes the same disks.
    pub port_group: u16,
    /// The appliance's name as a writer of disks, to storage services that admit one only.
    pub owner: Option<String>,
    /// How sessions share the processor.
    pub sharing: Sharing,
    /// The disk for what outlives a restart: a serial number on the bare machine, a path of the hosted process.
    pub state: Option<String>,
    /// TLS to storage services, if it is to be had.
    pub tls: Option<Tls>,
    /// What initiators have to prove to be told of targets, if anything.
    pub discovery: Option<Access>,
    /// Within how many seconds a watchdog wants to hear of us; zero for not at all, `None` where nobody says.
    pub watchdog: Option<u16>,
    /// Who tells the time of day.
    pub time: Time,
    /// How long the appliance may take to end when it is asked to.
    pub off: Duration,
    /// What is exposed from the start.
    pub targets: Vec<Exposure>,
    /// How much is logged.
    pub log: log::LevelFilter,
}

/// What [`Config::first`] answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    /// How much is logged.
    pub log: log::LevelFilter,
    /// A metadata service that is to be asked for more.
    pub metadata: Option<Metadata>,
    /// Whether volumes labelled `cidata` are looked for.
    pub volumes: bool,
}

/// What `log` may be.
const LEVELS: &str = "one of off, error, warn, info, debug, trace";

/// One of the two networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Where the address comes from.
    pub addressing: Addressing,
    /// Which NIC it is on. Without it that is found out by asking on each NIC who is there ([`crate::neighbours`]).
    pub mac: Option<[u8; 6]>,
}

impl Interface {
    /// The network's prefix, when it is known before the first packet.
    pub fn cidr(&self) -> Option<Cidr> {
        match self.addressing {
            Addressing::Static { cidr, .. } => Some(cidr),
            Addressing::Dhcp => None,
        }
    }
}

/// Where a piece of configuration came from, in the order of `docs/configuration.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// The kernel command line.
    CommandLine,
    /// Any PVH module that is none of the next two.
    Module,
    /// The file `corbel.cfg` on the disk that it was started from; the doors pass it as a module of that name.
    BootDisk,
    /// A volume labelled `cidata`; the UEFI door passes what it finds as a module of that name.
    Cidata,
    /// SMBIOS, OEM strings (type 11).
    Smbios,
    /// QEMU's fw_cfg file `opt/corbel/config`.
    FwCfg,
    /// A metadata service, Firecracker's MMDS.
    Mmds,
    /// VMware's guestinfo, the variable `guestinfo.corbel.config`.
    GuestInfo,
    /// The arguments of the hosted process.
    Arguments,
    /// Its file, `--config`.
    File,
}

impl Channel {
    /// Whether others on the host can read what comes by it: it is, or ends up, among the arguments of a process.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::CommandLine | Self::Smbios | Self::Arguments)
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandLine => "command line",
            Self::Module => "PVH module",
            Self::BootDisk => "corbel.cfg",
            Self::Cidata => "cidata",
            Self::Smbios => "SMBIOS OEM strings",
            Self::FwCfg => "fw_cfg opt/corbel/config",
            Self::Mmds => "MMDS",
            Self::GuestInfo => "guestinfo.corbel.config",
            Self::Arguments => "arguments",
            Self::File => "--config",
        })
    }
}

/// Why the configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Where the key was given; `None` for a key that is missing.
    pub channel: Option<Channel>,
    /// The key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "configuration: ")?;
        if let Some(channel) = self.channel {
            write!(f, "{channel}: ")?;
        }
        write!(f, "{}: {}", self.key, self.reason)
    }
}

/// A key's value and where it came from.
struct Given<'a> {
    channel: Channel,
    /// Which of the documents it was in last.
    document: usize,
    value: &'a str,
}

/// All keys, each taken out by the one reader that knows it; what is left at the end is unknown.
struct Keys<'a>(BTreeMap<&'a str, Given<'a>>);

impl Config {
    /// Make the configuration of what the channels say.
    pub fn parse(channels: &[(Channel, &str)]) -> Result<Self, Error> {
        let mut keys = Keys::gather(channels)?;
        let log = keys.take("log", LEVELS)?.unwrap_or(log::LevelFilter::Info);
        let config = Self {
            host: interface(&mut keys, "host", false)?,
            service: interface(&mut keys, "service", true)?,
            agent: access::agent(&mut keys)?,
            api: access::api(&mut keys)?,
            port_group: keys
                .take::<NonZeroU16>("iscsi.port-group", "a number from 1 to 65535")?
                .map_or(1, NonZeroU16::get),
            portal: keys.take("iscsi.portal", "an IPv4 address and port such as 10.77.0.2:3260")?,
            owner: keys.take_with("owner", owner)?,
            sharing: keys.take_with("sharing", sharing)?.unwrap_or_default(),
            state: keys.take_with("state.disk", disk)?,
            tls: tls::all(&mut keys, "tls")?,
            discovery: chap::access(&mut keys, "discovery.chap")?,
            watchdog: keys.take_with("watchdog", watchdog)?,
            time: keys.take_with("time", time::time)?.unwrap_or_default(),
            off: keys.take_with("off.within", off)?.unwrap_or(OFF),
            targets: target::all(&mut keys)?,
            log,
        };
        // Whoever has called has done what it says.
        metadata::all(&mut keys, config.host.mac, config.service.mac)?;
        metadata::volumes(&mut keys)?;
        keys.finish()?;
        config.check()
    }

    /// What has to be known before all of it is, of what the channels say that are read first.
    ///
    /// # Errors
    /// A key that makes no sense, is given twice, or is one of these and cannot be meant.
    pub fn first(channels: &[(Channel, &str)]) -> Result<First, Error> {
        let mut keys = Keys::gather(channels)?;
        Ok(First {
            log: keys.take("log", LEVELS)?.unwrap_or(log::LevelFilter::Info),
            metadata: metadata::first(&mut keys)?,
            volumes: metadata::volumes(&mut keys)?,
        })
    }

    /// What no single key can show.
    fn check(self) -> Result<Self, Error> {
        if let (Some(host), Some(service)) = (self.host.cidr(), self.service.cidr())
            && host.overlaps(service)
        {
            return Err(conflict("service.address", format!("{service} overlaps host.address={host}")));
        }
        if self.host.mac.is_some() && self.host.mac == self.service.mac {
            return Err(conflict("service.mac", "is the host network's as well".to_string()));
        }
        let lock = self.api.as_ref().and_then(|api| api.lock.as_ref());
        if lock.is_some_and(|lock| lock.tls.identity.is_none()) && self.state.is_none() {
            let reason = "missing: without state.disk there is nowhere to keep a key that is made here";
            return Err(conflict("api.tls.certificate", reason.to_string()));
        }
        let agent = self.agent.as_ref().map(|agent| agent.address);
        for (key, address) in [("agent", agent), ("iscsi.portal", self.portal)] {
            if address.is_some_and(|address| address.port() == 0) {
                return Err(conflict(key, "nobody can be reached at port 0".to_string()));
            }
        }
        if let Some(agent) = agent
            && self.host.cidr().is_some_and(|host| !host.contains(*agent.ip()))
        {
            return Err(conflict("agent", format!("{} is not on the host-only network", agent.ip())));
        }
        Ok(self)
    }
}

fn conflict(key: &str, reason: String) -> Error {
    Error { channel: None, key: key.to_string(), reason }
}

impl<'a> Keys<'a> {
    fn gather(channels: &[(Channel, &'a str)]) -> Result<Self, Error> {
        let mut keys = BTreeMap::new();
        for (document, &(channel, text)) in channels.iter().enumerate() {
            let fail = |key: &str, reason: String| Error { channel: Some(channel), key: named(key), reason };
            if text.len() > LONGEST {
                return Err(fail("", format!("longer than {LONGEST} bytes")));
            }
            let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
            for item in lines.flat_map(str::split_ascii_whitespace) {
                let Some((key, value)) = item.split_once('=') else {
                    return Err(fail(item, "expected key=value".to_string()));
                };
                // QEMU's microvm and Firecracker name their devices here, which the drivers read, and that there is no PCI.
                if channel == Channel::CommandLine && (key == "virtio_mmio.device" || item == "pci=off") {
                    continue;
                }
                match keys.entry(key) {
                    Entry::Vacant(vacant) => drop(vacant.insert(Given { channel, document, value })),
                    Entry::Occupied(mut given)
                        if given.get().value == value && given.get().document != document =>
                    {
                        // What anybody can read of a secret is no secret any more.
                        if channel.is_open() {
                            given.get_mut().channel = channel;
                        }
                        given.get_mut().document = document;
                    }
                    Entry::Occupied(given) if given.get().document == document => {
                        return Err(fail(key, "given twice".to_string()));
                    }
                    Entry::Occupied(given) => {
                        return Err(fail(key, format!("contradicts {}", given.get().channel)));
                    }
                }
            }
        }
        Ok(Self(keys))
    }

    /// Take a key whose value is parsed as `T`; `expected` tells people what it should have been.
    fn take<T: FromStr>(&mut self, key: &str, expected: &str) -> Result<Option<T>, Error> {
        self.take_with(key, |value| value.parse().map_err(|_| format!("expected {expected}")))
    }

    fn take_with<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        let Some(Given { channel, value, .. }) = self.0.remove(key) else { return Ok(None) };
        parse(value).map(Some).map_err(|reason| Error {
            channel: Some(channel),
            key: key.to_string(),
            reason: format!("{reason}, not {:?}", printable(value)),
        })
    }

    /// Take a key whose value is not for the log.
    fn take_unseen<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(Channel, &'a str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        let Some(Given { channel, value, .. }) = self.0.remove(key) else { return Ok(None) };
        let fail = |reason| Error { channel: Some(channel), key: key.to_string(), reason };
        parse(channel, value).map(Some).map_err(fail)
    }

    /// Take a key whose value is a secret, which is refused where others can read it.
    fn take_secret<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&'a str) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        self.take_unseen(key, |channel, value| match channel.is_open() {
            true => Err("a secret belongs into a file".to_string()),
            false => parse(value),
        })
    }

    fn finish(self) -> Result<(), Error> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((key, Given { channel, .. })) => {
                Err(Error { channel: Some(channel), key: named(key), reason: "unknown key".to_string() })
            }
        }
    }
}

/// What was given in the place of a key, as far as it looks like one: it may be a piece of a secret whose line was broken.
fn named(text: &str) -> String {
    let is_of_key = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-_".contains(*c);
    let mut key: String = text.chars().take_while(is_of_key).take(40).collect();
    if key.len() < text.len() {
        key.push('…');
    }
    key
}

/// Text from outside on its way into a message: bounded, and without control characters.
fn printable(text: &str) -> String {
    text.chars().take(80).map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn interface(keys: &mut Keys<'_>, name: &str, routed: bool) -> Result<Interface, Error> {
    let key = format!("{name}.address");
    let gateway: Option<Ipv4Addr> =
        if routed { keys.take(&format!("{name}.gateway"), "an IPv4 address")? } else { None };
    let addressing = keys.take_with(&key, |value| match value {
        "dhcp" if gateway.is_some() => Err("expected an address beside a gateway".to_string()),
        "dhcp" => Ok(Addressing::Dhcp),
        _ => value
            .parse()
            .map(|cidr| Addressing::Static { cidr, gateway })
            .map_err(|error: network::ParseError| format!("{error} or dhcp")),
    })?;
    let Some(addressing) = addressing else {
        return Err(Error { channel: None, key, reason: "missing".to_string() });
    };
    if let Addressing::Static { cidr, gateway: Some(gateway) } = addressing
        && (!cidr.contains(gateway) || gateway == cidr.address)
    {
        return Err(conflict(&format!("{name}.gateway"), format!("{gateway} is not a neighbour in {cidr}")));
    }
    let mac = keys.take_with(&format!("{name}.mac"), mac)?;
    Ok(Interface { addressing, mac })
}

fn owner(text: &str) -> Result<String, String> {
    let is_token = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-'));
    if is_token && (1..=32).contains(&text.len()) {
        Ok(text.to_string())
    } else {
        Err("expected 1 to 32 of 0-9, a-z and -".to_string())
    }
}

fn sharing(text: &str) -> Result<Sharing, String> {
    match text {
        "work-conserving" => Ok(Sharing::WorkConserving),
        "equal" => Ok(Sharing::Equal),
        _ => Err("expected work-conserving or equal".to_string()),
    }
}

fn watchdog(text: &str) -> Result<u16, String> {
    match text.parse() {
        _ if text == "off" => Ok(0),
        Ok(seconds) if (5..=600).contains(&seconds) => Ok(seconds),
        _ => Err("expected off, or 5 to 600 seconds".to_string()),
    }
}

fn off(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (1..=LONGEST_OFF).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(|| format!("expected 1 to {LONGEST_OFF} seconds"))
}

fn disk(text: &str) -> Result<String, String> {
    if (1..=255).contains(&text.len()) {
        Ok(text.to_string())
    } else {
        Err("expected a serial number or a path".to_string())
    }
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2);
        let value = part.and_then(|part| u8::from_str_radix(part, 16).ok());
        *byte =
            value.ok_or_else(|| "expected six hexadecimal bytes such as 52:54:00:77:00:02".to_string())?;
    }
    match parts.next() {
        None if mac[0] & 1 == 0 => Ok(mac),
        _ => Err("expected the address of one NIC".to_string()),
    }
}

mod access;
mod chap;
mod metadata;
pub mod note;
pub mod oem;
mod target;
#[cfg(test)]
mod tests;
mod time;
mod tls;
