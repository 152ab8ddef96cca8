//! The appliance on the bare machine: what the kernel and the drivers have becomes what [`Appliance`] is put together
//! from, and then it turns until the machine ends.

use crate::disk::StateDisk;
use crate::nics;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::convert::Infallible;
use drivers::virtio::blk::Block;
use drivers::virtio::console::Console;
use drivers::{AnyNic, Inventory, Watchdog};
use image_appliance::assemble::{Appliance, Gauges, Next, Parts, Secrets};
use image_appliance::config::{self, Channel, Config};
use image_appliance::limits::Limits;
use kernel::power::{self, Exit, Request, TableWatchdog, Watch};
use kernel::{Machine, crc32c, day, entropy, figures};
use kernel_runtime::{Instant, Profile};
use network_nic::Nic;
use network_tls::{NoEntropy, Random};
use state::Records;

/// The file that QEMU may be given for us.
const FILE: &str = "opt/corbel/config";
/// The module as which the doors pass a file of this name on the disk that they were loaded from.
const BOOT_FILE: &str = "corbel.cfg";
/// Each NIC's part of what is free after boot, as a divisor.
const NIC_PART: usize = 6;
/// What a NIC can make use of, in bytes: all its frames as long as they can be.
const NIC_MOST: usize = 2560 << 10;

/// Be the appliance.
pub(crate) fn run(machine: Machine) -> ! {
    let mut text = Text::find(&machine);
    match serve(&machine, &mut text) {
        Ok(never) => match never {},
        Err(reason) => {
            log::error!("{reason}");
            text.say_all(&machine);
            power::exit(Exit::Failure)
        }
    }
}

/// Where log lines go on a machine without a serial port.
struct Text(Option<Console>);

/// How long the last lines may take, in microseconds.
const LAST_WORDS: u64 = 50_000;

impl Text {
    fn find(machine: &Machine) -> Self {
        let mut text = Self(None);
        if !machine.has_console() {
            text.0 = drivers::find_console(machine.command_line());
        }
        text.say(machine);
        text
    }

    /// Say what there is to say, as far as there is room.
    fn say(&mut self, machine: &Machine) -> bool {
        self.0.as_mut().is_none_or(|console| console.carry(|room| machine.take_log(room)))
    }

    /// Say all of it, unless nobody listens.
    fn say_all(&mut self, machine: &Machine) {
        let end = machine.now() + LAST_WORDS;
        while !self.say(machine) && machine.now() < end {}
    }
}

fn serve(machine: &Machine, text: &mut Text) -> Result<Infallible, String> {
    let config = configuration(machine)?;
    log::set_max_level(config.log);
    let Devices { host, service, disks, mut feeder } = devices(machine, &config)?;
    let seeds = seeds(machine)?;
    let now = || Instant::from_micros(machine.now());
    let state = config.state.as_deref().map(|serial| open_state(machine, disks, serial, &now)).transpose()?;
    let memory = machine.free_memory();
    let (time, tell) = config.time.of(|| day::read().map(|(seconds, _)| seconds));
    match day::read() {
        Some((seconds, source)) => log::info!("the time of day is {seconds} by {source}"),
        None => log::info!("nothing here tells the time of day"),
    }
    let secrets = Some(Secrets { random: Arc::new(KernelPool), time, tell });
    let profile = Profile::new(figures::cycles);
    let gauges =
        Gauges { hertz: figures::hertz, allocations: Some(figures::allocations), free: Some(figures::free) };
    let checksum = crc32c::by_instruction();
    let buffer = kernel::memory::stale_bytes;
    let parts =
        Parts { host, service, seeds, secrets, state, checksum, profile, gauges, memory, buffer, now: now() };
    let mut appliance = Appliance::assemble(&config, parts)?;
    log::info!(target: "corbel", "ready; {} KiB of memory are free", machine.free_memory() >> 10);
    let mut power = Watch::start();
    loop {
        let next = appliance.turn(now());
        feeder.feed(machine.now());
        text.say(machine);
        if let Some(request) = power.asked(machine.now()) {
            appliance.end(config.off, now());
            if appliance.has_ended() {
                text.say_all(machine);
                match request {
                    Request::Off => power::exit(Exit::Success),
                    Request::Reset => power::reset(),
                }
            }
        }
        if let Next::Idle(deadline) = next {
            let deadlines = [deadline.map(Instant::as_micros), power.deadline(), feeder.deadline()];
            machine.idle(deadlines.into_iter().flatten().min());
        }
    }
}

/// What the command line, QEMU's file and the loader's files say.
fn configuration(machine: &Machine) -> Result<Config, String> {
    let mut files = Vec::new();
    if let Some(file) = machine.fw_cfg(FILE).map_err(|error| alloc::format!("fw_cfg {FILE}: {error}"))? {
        files.push((Channel::FwCfg, file));
    }
    for module in machine.modules() {
        let channel = if module.name == BOOT_FILE { Channel::BootDisk } else { Channel::Module };
        let file = (module.length() <= config::LONGEST as u64).then(|| module.read()).flatten();
        files.push((
            channel,
            file.ok_or_else(|| alloc::format!("configuration: {channel}: too long to be read"))?,
        ));
    }
    let mut channels = alloc::vec![(Channel::CommandLine, machine.command_line())];
    for (channel, file) in &files {
        let text = core::str::from_utf8(file);
        channels
            .push((*channel, text.map_err(|_| alloc::format!("configuration: {channel}: not UTF-8 text"))?));
    }
    Config::parse(&channels).map_err(|error| error.to_string())
}

/// What was found.
struct Devices {
    host: AnyNic,
    service: AnyNic,
    disks: Vec<Block>,
    feeder: Feeder,
}

/// Within how many seconds a watchdog that is there wants to be fed, unless something else is said.
const WATCHDOG: u16 = 60;

/// Feeds the watchdog, if there is one, from the turn of the machine and from nowhere else: one that hangs is reset.
struct Feeder {
    watchdog: Option<Watchdog>,
    /// One that ACPI describes. Nobody has chosen it for this machine, so it is switched on only if the configuration says so.
    table: Option<TableWatchdog>,
    /// Microseconds from one time to the next: a quarter of what it waits.
    period: u64,
    next: u64,
}

impl Feeder {
    fn feed(&mut self, now: u64) {
        if now >= self.next && self.deadline().is_some() {
            self.watchdog.iter_mut().for_each(Watchdog::feed);
            self.table.iter().for_each(TableWatchdog::feed);
            self.next = now + self.period;
        }
    }

    fn deadline(&self) -> Option<u64> {
        (self.watchdog.is_some() || self.table.is_some()).then_some(self.next)
    }
}

/// The records on the state disk. Without them the appliance does not start: it would let in whom reservations keep out.
fn open_state(
    machine: &Machine,
    disks: Vec<Block>,
    serial: &str,
    now: &dyn Fn() -> Instant,
) -> Result<Records, String> {
    let disk = StateDisk::choose(disks, serial)?;
    let (mut identity, mut seed) = ([0; 16], [0; 8]);
    let random = machine.random(&mut identity).and_then(|()| machine.random(&mut seed));
    random.map_err(|error| error.to_string())?;
    let limit = Limits::for_memory(machine.free_memory()).state();
    let records = Records::open(Box::new(disk), limit, (identity, u64::from_le_bytes(seed)), now);
    records.map_err(|error| alloc::format!("configuration: state.disk: {serial}: {error}"))
}

/// The NICs of the host-only and of the service network, and the state disk. A source of randomness is used on the way.
fn devices(machine: &Machine, config: &Config) -> Result<Devices, String> {
    let free = machine.free_memory();
    let nic_memory = (free / NIC_PART).min(NIC_MOST).min(Limits::for_nics(free) / 2);
    let seconds = config.watchdog.unwrap_or(WATCHDOG);
    let found = drivers::find(&Inventory {
        command_line: machine.command_line(),
        nic_memory,
        disk: config.state.as_deref().map(|serial| (serial, state::MAX_REQUEST)),
        watchdog: (seconds != 0).then_some(seconds),
    });
    if let Some(mut source) = found.rng {
        let mut bytes = [0; 64];
        match source.fill(&mut bytes) {
            Ok(()) => entropy::add(&bytes, 256),
            Err(error) => log::warn!("{error}"),
        }
    }
    let macs: Vec<_> = found.nics.iter().map(Nic::mac).collect();
    let (host, service) = nics::assign(&macs, config)?;
    let (mut nics, disks) = (found.nics, found.disks);
    // The later one first, so that the other keeps its place.
    let later = nics.remove(host.max(service));
    let earlier = nics.remove(host.min(service));
    let (host, service) = if host < service { (earlier, later) } else { (later, earlier) };
    let wanted = config.watchdog.filter(|seconds| *seconds != 0 && found.watchdog.is_none());
    let table = wanted.and_then(TableWatchdog::start);
    if wanted.is_some() && table.is_none() {
        return Err("configuration: watchdog: this machine has none that there is a driver for".to_string());
    }
    let feeder = Feeder { watchdog: found.watchdog, table, period: u64::from(seconds) * 250_000, next: 0 };
    Ok(Devices { host, service, disks, feeder })
}

fn seeds(machine: &Machine) -> Result<[u64; 9], String> {
    let mut bytes = [0; 72];
    machine.random(&mut bytes).map_err(|error| error.to_string())?;
    let mut seeds = [0; 9];
    let words = bytes.as_chunks::<8>().0;
    seeds.iter_mut().zip(words).for_each(|(seed, word)| *seed = u64::from_le_bytes(*word));
    Ok(seeds)
}

/// The kernel's randomness, for keys.
#[derive(Debug)]
struct KernelPool;

impl Random for KernelPool {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        entropy::fill(out).map_err(|_| NoEntropy)
    }
}
