//! The appliance on the bare machine: what the kernel and the drivers have becomes what [`Appliance`] is put together
//! from, and then it turns until the machine ends.

use crate::disk::StateDisk;
use crate::nics::{self, Assignment};
use crate::told::Told;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::convert::Infallible;
use drivers::virtio::blk::Block;
use drivers::virtio::console::Console;
use drivers::{AnyNic, Asleep, Found, Inventory, Shutdown, Watchdog};
use image_appliance::assemble::{Appliance, Gauges, Next, Parts, Secrets};
use image_appliance::config::Config;
use image_appliance::limits::Limits;
use image_appliance::neighbours;
use image_probe::{Probe, Shown};
use kernel::power::{self, Exit, Request, TableWatchdog, Watch};
use kernel::{Machine, crc32c, day, entropy, figures};
use kernel_runtime::{Instant, Profile};
use network_nic::Nic;
use network_tls::{NoEntropy, Random};
use state::Records;

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
    let mut told = Told::read(machine)?;
    log::set_max_level(told.first()?.log);
    let Found { nics, mut disks, watchdog, mut shutdown, .. } = devices(machine);
    told.read_disks(machine, &mut disks)?;
    let seeds = seeds(machine)?;
    let nics = told.ask(machine, nics, seeds[0].rotate_left(32))?;
    let config = told.config()?;
    log::set_max_level(config.log);
    let mut feeder = Feeder::start(watchdog, config.watchdog)?;
    let mut power = Watch::start();
    let mut beside = |machine: &Machine| {
        feeder.feed(machine.now());
        text.say(machine);
        // There is nothing yet that would have to end in order.
        match power.asked(machine.now()) {
            None => {}
            Some(Request::Off) => power::exit(Exit::Success),
            Some(Request::Reset) => power::reset(),
        }
        [power.deadline(), feeder.deadline()].into_iter().flatten().min()
    };
    let (host, service) = assign(machine, nics, &config, seeds[1].rotate_left(32), &mut beside)?;
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
    // Portals and the API begin to listen in the first turn: who has read this is not refused.
    appliance.turn(now());
    log::info!(target: "corbel", "ready; {} KiB of memory are free", machine.free_memory() >> 10);
    loop {
        let next = appliance.turn(now());
        feeder.feed(machine.now());
        text.say(machine);
        match shutdown.as_mut().and_then(Shutdown::poll) {
            Some(drivers::Request::Off) => power::ask(Request::Off),
            Some(drivers::Request::Restart) => power::ask(Request::Reset),
            None => {}
        }
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

/// Within how many seconds a watchdog that is there wants to be fed, unless something else is said.
const WATCHDOG: u16 = 60;

/// Feeds the watchdog, if there is one, from the turn of the machine, and while it waits for its networks to be found, and from
/// nowhere else: one that hangs is reset.
struct Feeder {
    watchdog: Option<Watchdog>,
    /// One that ACPI describes. Nobody has chosen it for this machine, so it is switched on only if the configuration says so.
    table: Option<TableWatchdog>,
    /// Microseconds from one time to the next: a quarter of what it waits.
    period: u64,
    next: u64,
}

impl Feeder {
    /// Switch the watchdog on that was found, if that is wanted.
    fn start(found: Option<Asleep>, wanted: Option<u16>) -> Result<Self, String> {
        let seconds = wanted.unwrap_or(WATCHDOG);
        let started = found.filter(|_| seconds != 0).map(|found| found.start(seconds)).transpose();
        let watchdog = started.unwrap_or_else(|error| {
            log::warn!("watchdog: not used: {error}");
            None
        });
        let wanted = wanted.filter(|seconds| *seconds != 0 && watchdog.is_none());
        let table = wanted.and_then(TableWatchdog::start);
        if wanted.is_some() && table.is_none() {
            return Err(
                "configuration: watchdog: this machine has none that there is a driver for".to_string()
            );
        }
        Ok(Self { watchdog, table, period: u64::from(seconds) * 250_000, next: 0 })
    }

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

/// All devices there are drivers for. A source of randomness is used on the way.
fn devices(machine: &Machine) -> Found {
    let free = machine.free_memory();
    let nic_memory = (free / NIC_PART).min(NIC_MOST).min(Limits::for_nics(free) / 2);
    let command_line = machine.command_line();
    let mut found =
        drivers::find(&Inventory { command_line, nic_memory, disk_request: Some(state::MAX_REQUEST) });
    if let Some(source) = &mut found.rng {
        let mut bytes = [0; 64];
        match source.fill(&mut bytes) {
            Ok(()) => entropy::add(&bytes, 256),
            Err(error) => log::warn!("{error}"),
        }
    }
    found
}

/// The NICs of the host-only and of the service network: those that the configuration names, or else those on which these
/// networks answer.
fn assign(
    machine: &Machine,
    mut nics: Vec<AnyNic>,
    config: &Config,
    seed: u64,
    beside: &mut dyn FnMut(&Machine) -> Option<u64>,
) -> Result<(AnyNic, AnyNic), String> {
    if nics.len() > image_probe::MOST_NICS {
        log::warn!("of {} NICs the first {} are used", nics.len(), image_probe::MOST_NICS);
        nics.truncate(image_probe::MOST_NICS);
    }
    let macs: Vec<_> = nics.iter().map(Nic::mac).collect();
    let (host, service) = match nics::assign(&macs, config)? {
        Assignment::Known(host, service) => (host, service),
        Assignment::Open(named) => {
            let now = || Instant::from_micros(machine.now());
            let mut probe = Probe::new(neighbours::networks(config, named), &macs, seed as u32, now())?;
            let mut idle = |until: Instant| {
                let until = beside(machine).into_iter().fold(until.as_micros(), u64::min);
                machine.idle(Some(until));
            };
            let (host, service) = image_probe::find(&mut nics, &mut probe, &now, &mut idle)?;
            let (one, other) = (Shown(&macs[host]), Shown(&macs[service]));
            log::info!(
                "by who answers there {one} is on the host-only network and {other} on the service network"
            );
            (host, service)
        }
    };
    // The later one first, so that the other keeps its place.
    let later = nics.remove(host.max(service));
    let earlier = nics.remove(host.min(service));
    Ok(if host < service { (earlier, later) } else { (later, earlier) })
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
