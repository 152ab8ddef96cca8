//! The appliance on the bare machine: what the kernel and the drivers have becomes what [`Appliance`] is put together
//! from, and then it turns until the machine ends.

use crate::beside::{Beside, Feeder};
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
use drivers::{AnyNic, Found, Inventory};
use image_appliance::assemble::{Appliance, Gauges, Next, Parts, Secrets};
use image_appliance::config::Config;
use image_appliance::limits::Limits;
use image_appliance::neighbours;
use image_probe::{Probe, Shown};
use kernel::power::{self, Exit};
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
    let mut beside = Beside::start(&machine);
    match serve(&machine, &mut beside) {
        Ok(never) => match never {},
        Err(reason) => {
            log::error!("{reason}");
            beside.text.say_all(&machine);
            power::exit(Exit::Failure)
        }
    }
}

/// Where log lines go on a machine without a serial port.
pub(crate) struct Text(Option<Console>);

/// How long the last lines may take, in microseconds.
const LAST_WORDS: u64 = 50_000;

impl Text {
    pub(crate) fn find(machine: &Machine) -> Self {
        let mut text = Self(None);
        if !machine.has_console() {
            text.0 = drivers::find_console(machine.command_line());
            if let Some(register) = text.0.as_ref().and_then(Console::emergency) {
                machine.say_last_by(register);
            }
        }
        text.say(machine);
        text
    }

    /// Say what there is to say, as far as there is room.
    pub(crate) fn say(&mut self, machine: &Machine) -> bool {
        self.0.as_mut().is_none_or(|console| console.carry(|room| machine.take_log(room)))
    }

    /// Say all of it, unless nobody listens.
    pub(crate) fn say_all(&mut self, machine: &Machine) {
        let end = machine.now() + LAST_WORDS;
        while !self.say(machine) && machine.now() < end {}
    }
}

fn serve(machine: &Machine, beside: &mut Beside) -> Result<Infallible, String> {
    let mut told = Told::read(machine)?;
    log::set_max_level(told.first()?.log);
    let Found { nics, mut disks, watchdog, shutdown, .. } = devices(machine);
    beside.shutdown = shutdown;
    told.read_disks(machine, &mut disks)?;
    beside.look_or_end(machine);
    let seeds = seeds(machine)?;
    let nics = told.ask(machine, nics, seeds[0].rotate_left(32), beside)?;
    let config = told.config()?;
    log::set_max_level(config.log);
    beside.feeder = Some(Feeder::start(watchdog, config.watchdog)?);
    let (host, service) = assign(machine, nics, &config, seeds[1].rotate_left(32), beside)?;
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
        if let Some(request) = beside.look(machine) {
            appliance.end(config.off, now());
            if appliance.has_ended() {
                beside.end(machine, request);
            }
        }
        if let Next::Idle(deadline) = next {
            let deadlines = [deadline.map(Instant::as_micros), beside.deadline()];
            machine.idle(deadlines.into_iter().flatten().min());
        }
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
    beside: &mut Beside,
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
            let mut rest = |until: Option<Instant>| beside.rest(machine, until.map(Instant::as_micros));
            let (host, service) = image_probe::find(&mut nics, &mut probe, &now, &mut rest)?;
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
