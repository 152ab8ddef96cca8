//! The management world: clients, the real management of an appliance with its state disk, and the real engine of the
//! agent with its journal, in one thread and on virtual time, everything decided by a seed.
//!
//! The appliance's sessions, clerk and links run as they are, on connections in memory; the agent's engine is driven as
//! its shell drives it. `check.rs` is the law.

mod check;
mod client;
mod guest;
mod host;
mod hypervisor;
mod net;
mod networks;
mod plan;
mod shelf;

#[cfg(test)]
mod tests;

pub use plan::Plan;

use crate::random::Random;
use agent_engine::CrashPoint;
use agent_protocol::Uuid;
use check::Check;
use client::Client;
use host::Host;
use kernel_runtime::{Executor, Instant};
use management::{Configuration, Door, Gauges, LinkState, Management, Policy};
use net::{ACCEPTOR, DIALLER, Event, Kind, Net, Slot};
use plan::{Fault, Place, Point};
use shelf::Shelf;
use state::Records;
use state::testing::RamDisk;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::time::Duration;
use storage::AccessState;

/// How long after the last fault has passed every operation has its end.
const CALM: Duration = Duration::from_secs(150);
/// And every client.
const END: Duration = Duration::from_secs(400);
/// How long the agent has to come by the point at which it is to die.
const ARMED: Duration = Duration::from_secs(20);
/// How soon a machine is started again that could not start.
const REBOOT: Duration = Duration::from_millis(500);
/// Connections of the API at once.
const SESSIONS: usize = 3;
/// Rounds without time passing, after which the world is taken to spin.
const SPIN: u32 = 20_000;

/// A bug that a test plants. All are the world's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The disk of the agent's journal says that it has written what it has not.
    LostSync,
    /// The agent knows nothing of the commands of an earlier run.
    Amnesia,
    /// The agent carries out commands after their deadline.
    NoDeadline,
    /// The agent takes commands of an appliance that was replaced.
    NoFence,
    /// The agent tells what has failed as done.
    FalseDone,
    /// A native call is made twice.
    CallTwice,
    /// The appliance's state disk forgets what it has flushed.
    LyingStateDisk,
    /// The agent says that it has a map in effect that it has not.
    LostMap,
    /// The hypervisor shows a disk as gone that its guest was only asked for.
    HastyDetach,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::LostSync,
        Self::Amnesia,
        Self::NoDeadline,
        Self::NoFence,
        Self::FalseDone,
        Self::CallTwice,
        Self::LyingStateDisk,
        Self::LostMap,
        Self::HastyDetach,
    ];
}

/// What came of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, if anything.
    pub violation: Option<String>,
    /// The virtual time at the end.
    pub time: Duration,
    /// Answers about operations that were checked, and native calls that were made.
    pub checked: (u64, u64),
    /// Two runs that agree in this are the same.
    pub digest: u64,
}

/// An appliance that is up. Its clock began with it.
struct Appliance {
    executor: Executor,
    records: Option<Records>,
    management: Rc<Management>,
    shelf: Shelf,
    born: Instant,
    is_paused: bool,
}

struct World {
    plan: Plan,
    bug: Option<Bug>,
    net: Rc<Net>,
    random: Random,
    check: Check,
    host: Host,
    clients: Vec<Client>,
    appliances: [Option<Appliance>; 2],
    disks: [RamDisk; 2],
    /// The first disk does not answer.
    hangs: bool,
    /// What a disk that lies goes back to.
    image: Vec<u8>,
    lives: [u64; 2],
    /// The first appliance is reset the next time that an operation comes by there; and how often its disk had been flushed
    /// when it came as far as is needed before.
    reset_at: Option<(Place, Duration, Duration)>,
    flushed: u64,
}

/// Run the world of `plan`, with a bug planted or without.
pub fn run(plan: &Plan, bug: Option<Bug>) -> Report {
    log::debug!("{plan}");
    let mut world = World::new(plan.clone(), bug);
    world.live();
    Report {
        violation: world.check.violation.clone(),
        time: world.net.now.get().since(Instant::ZERO),
        checked: (world.check.answers, world.check.calls),
        digest: crate::random::mix(world.net.carried.get() ^ world.net.now.get().as_micros()),
    }
}

/// What is wrong in the world of `plan`, if anything; a panic is.
pub fn violation(plan: &Plan, bug: Option<Bug>) -> Option<String> {
    catch_unwind(|| run(plan, bug))
        .map_or_else(|panic| Some(crate::campaign::text_of(&panic)), |report| report.violation)
}

/// The smallest plan near `plan` in which something is wrong; `plan` itself if nothing is.
pub fn shrink(plan: &Plan, bug: Option<Bug>) -> Plan {
    plan::shrink(plan, |plan| violation(plan, bug).is_some())
}

impl World {
    fn new(plan: Plan, bug: Option<Bug>) -> Self {
        let mut random = Random::new(plan.shape.dice);
        let net = Net::new(random.fork());
        crate::log::set_clock(net.now.clone());
        let calm =
            plan.faults.iter().map(|(at, fault)| *at + lasts(fault)).max().unwrap_or(Instant::ZERO) + CALM;
        let clients = (0..plan.shape.clients)
            .map(|number| {
                Client::new(number, &net, random.fork(), (plan.shape.commands, plan.shape.instances), calm)
            })
            .collect();
        let host = Host::new(&net, random.fork(), bug);
        for (fault, (at, _)) in plan.faults.iter().enumerate() {
            net.at(*at, Event::Fault { fault });
        }
        net.at(Instant::ZERO, Event::Agent { run: 1 });
        net.at(Instant::ZERO, Event::Boot { who: 0, life: 1 });
        let second = plan.faults.iter().any(|(_, fault)| matches!(fault, Fault::TakeOver {}));
        let disks = [true, second].map(|is_used| RamDisk::new(if is_used { state::LEAST_BLOCKS } else { 0 }));
        let image = Vec::new();
        Self {
            plan,
            bug,
            net,
            random,
            check: Check::default(),
            host,
            clients,
            appliances: [None, None],
            disks,
            hangs: false,
            image,
            lives: [0, 0],
            reset_at: None,
            flushed: 0,
        }
    }

    fn live(&mut self) {
        let end = self.net.now.get() + self.plan.shape.horizon + lasts_all(&self.plan) + CALM + END;
        let mut spins = 0;
        loop {
            let before = self.net.now.get();
            while let Some(event) = self.net.next_event() {
                self.happens(event);
            }
            let deadline = self.run_appliances();
            if self.host.hypervisor.is_held_twice() {
                self.check.wrong("a guest is held twice".into());
            }
            let is_over = self.clients.iter().all(|client| client.left == 0) && self.late().is_empty();
            if is_over && let Some(untrue) = self.host.untrue(&self.check) {
                self.check.wrong(format!("what is shown is not how it is: {untrue}"));
            }
            if self.check.violation.is_some() || is_over {
                return;
            }
            let next = kernel_runtime::earliest(deadline, self.net.next_time());
            let next = next.map_or(end, |next| next.max(before));
            spins = if next == before { spins + 1 } else { 0 };
            if spins > SPIN {
                return self.check.wrong("time stands still".into());
            }
            if next >= end {
                let open: Vec<String> =
                    self.clients.iter().filter(|client| client.left > 0).map(Client::describe).collect();
                let all = [open, self.late()].concat();
                return self.check.wrong(format!("it does not end: {}", all.join("; ")));
            }
            self.net.now.set(next);
        }
    }

    /// The maps that the host has not, although they were promised by the appliance that commands it, and the targets that
    /// an appliance has not as it has promised.
    fn late(&self) -> Vec<String> {
        [self.late_maps(), self.late_targets()].concat()
    }

    fn late_targets(&self) -> Vec<String> {
        let as_promised = |(name, (who, _, access)): &(&String, &(usize, u64, &'static str))| {
            let Some(appliance) = &self.appliances[*who] else { return false };
            let there = appliance.shelf.access(name).map(|access| match access {
                AccessState::Optimized => "optimized",
                AccessState::NonOptimized => "non-optimized",
                AccessState::Standby => "standby",
            });
            there == Some(*access)
        };
        let late = self.check.targets.iter().filter(|one| !as_promised(one));
        late.map(|(name, (who, ..))| format!("{name} is not as appliance {who} has promised")).collect()
    }

    fn late_maps(&self) -> Vec<String> {
        let who = usize::from(self.check.is_replaced);
        let commands = |one: &Appliance| one.management.link_state() != LinkState::Superseded;
        if !self.appliances[who].as_ref().is_none_or(commands) {
            return Vec::new();
        }
        let promised = self.check.maps.iter().filter(|(_, (by, _))| *by == who);
        let late = promised.filter(|(name, (_, generation))| {
            self.host.networks.generation(name).is_none_or(|there| there < *generation)
        });
        late.map(|(name, (_, generation))| format!("{name} is not at generation {generation}")).collect()
    }

    /// Let appliances do what they can at this moment. Answers when they want to go on.
    fn run_appliances(&mut self) -> Option<Instant> {
        let now = self.net.now.get();
        let mut deadline = None;
        for appliance in self.appliances.iter_mut().flatten().filter(|appliance| !appliance.is_paused) {
            let own = Instant::ZERO + now.since(appliance.born);
            loop {
                let polls = appliance.executor.run_ready(own);
                if let Some(records) = &appliance.records {
                    records.turn(own);
                }
                if let Some((place, ..)) = self.reset_at
                    && came_by(place, &self.net, self.disks[0].requests().1, &mut self.flushed)
                {
                    self.net.at(now, Event::ResetNow);
                    return Some(now);
                }
                if polls == 0 && !appliance.executor.has_ready() {
                    break;
                }
            }
            let next = kernel_runtime::earliest(
                appliance.executor.next_deadline(),
                appliance.records.as_ref().and_then(Records::next_deadline),
            );
            let next = next.map(|next| appliance.born + next.since(Instant::ZERO));
            deadline = kernel_runtime::earliest(deadline, next);
        }
        deadline
    }

    fn boot(&mut self, who: usize, life: u64) {
        if self.appliances[who].is_some() || life != self.lives[who] + 1 {
            return;
        }
        // A machine whose disk does not let it start is started again.
        let again = Event::Boot { who, life };
        if self.hangs && who == 0 {
            return self.net.after(REBOOT, again);
        }
        let born = self.net.now.get();
        let seed = self.random.next();
        let disk = self.disks[who].clone();
        let records = (!self.plan.shape.diskless)
            .then(|| Records::open(Box::new(disk), 65_536, ([1; 16], seed), || Instant::ZERO));
        let records = match records.transpose() {
            Ok(records) => records,
            Err(state::Error::Disk) => return self.net.after(REBOOT, again),
            Err(error) => return self.check.wrong(format!("the state disk cannot be read: {error}")),
        };
        self.lives[who] = life;
        let mut executor = Executor::new(12);
        let configuration = Configuration {
            agent: Some(std::net::SocketAddrV4::new([10, 0, 0, 1].into(), 7077)),
            boot: Uuid::from_random(u128::from(self.random.next()) << 64 | u128::from(seed)),
            policy: Policy::OPEN,
            door: Door::OPEN,
            dialling: None,
            gauges: Gauges::NONE,
            operations: 128,
        };
        let shelf = Shelf::new();
        let management =
            Rc::new(Management::new(configuration, shelf.clone(), records.clone(), executor.clock()));
        log::debug!("appliance {who}: life {life} begins");
        executor.add("operations", management::keep(management.clone()));
        for _ in 0..SESSIONS {
            let (slot, management) = (Slot::new(&self.net, who), management.clone());
            executor.add("session", async move { management::serve_on(slot, 80, &management).await });
        }
        for _ in 0..self.plan.shape.links {
            let (slot, management) = (Slot::new(&self.net, who), management.clone());
            executor.add("link", async move { management::link_on(slot, &management).await });
        }
        executor.add("networks", management::tend(management.clone()));
        self.appliances[who] =
            Some(Appliance { executor, records, management, shelf, born, is_paused: false });
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Bytes { conn, end, bytes } => match (self.net.kind(conn), end) {
                (Kind::Link, ACCEPTOR) => self.host.received(conn, &bytes, &mut self.check),
                (Kind::Client(client), DIALLER) => {
                    self.clients[client].received(conn, &bytes, &mut self.check);
                }
                _ => self.net.arrive(conn, end, &bytes),
            },
            Event::Finish { conn, end } => match (self.net.kind(conn), end) {
                (Kind::Link, ACCEPTOR) => self.host.gone(conn),
                (Kind::Client(client), DIALLER) => self.clients[client].gone(conn),
                _ => self.net.finished(conn, end),
            },
            Event::Reset { conn, end } => {
                self.net.was_reset(conn, end);
                match (self.net.kind(conn), end) {
                    (Kind::Link, ACCEPTOR) => self.host.gone(conn),
                    (Kind::Client(client), DIALLER) => self.clients[client].gone(conn),
                    _ => {}
                }
            }
            Event::Synced { run } => self.host.synced(run, &mut self.check),
            Event::Job { run, job } => self.host.came_back(run, job, &mut self.check),
            Event::Tick { run } => self.host.tick(run, &mut self.check),
            Event::Patience { run } => self.host.waited(run, &mut self.check),
            Event::Guest { machine } => self.host.obey(machine, &mut self.check),
            Event::Client { client } => self.clients[client].go_on(),
            Event::Fault { fault } => {
                let fault = self.plan.faults[fault].1.clone();
                log::debug!("{fault:?}");
                self.fault(&fault);
            }
            Event::Boot { who, life } => self.boot(who, life),
            Event::GoOn { who } => {
                if let Some(appliance) = &mut self.appliances[who] {
                    appliance.is_paused = false;
                }
            }
            Event::Agent { run } => self.host.start(run, &mut self.check),
            Event::Mended { who } => {
                self.disks[who].fail_after(None);
                self.disks[who].hang(false);
                self.hangs = false;
            }
            Event::Disarm => {
                (self.host.crash_at, self.host.die_at, self.reset_at) = (None, None, None);
            }
            Event::ResetNow => {
                if let Some((_, down, lingers)) = self.reset_at.take() {
                    self.reset(down, lingers);
                }
            }
            Event::Uncut => {
                self.net.cut.set(false);
                self.net.delay.set(Duration::ZERO);
            }
        }
    }

    fn fault(&mut self, fault: &Fault) {
        let net = &self.net;
        let now = net.now.get();
        match *fault {
            Fault::Reset { down, lingers } => self.reset(down, lingers),
            Fault::ResetAt { place, down, lingers } => {
                net.passed.set(net::Passed::default());
                (self.reset_at, self.flushed) = (Some((place, down, lingers)), self.disks[0].requests().1);
                net.after(ARMED, Event::Disarm);
            }
            Fault::Pause { time } => {
                if let Some(appliance) = &mut self.appliances[0] {
                    appliance.is_paused = true;
                    net.after(time, Event::GoOn { who: 0 });
                }
            }
            Fault::Kill { down } => self.host.kill(down, &mut self.check),
            Fault::KillAt { point, down } => {
                (self.host.crash_at, self.host.down) = (crash_point(point), down);
                net.after(ARMED, Event::Disarm);
            }
            Fault::DieAt { point } => {
                self.host.die_at = crash_point(point);
                net.after(ARMED, Event::Disarm);
            }
            Fault::Break {} => net.break_links(),
            Fault::Cut { time } => {
                net.cut.set(true);
                net.after(time, Event::Uncut);
            }
            Fault::Slow { delay, time } => {
                net.delay.set(delay);
                net.after(time, Event::Uncut);
            }
            Fault::DiskFails { after, time } => {
                self.disks[0].fail_after(Some(after));
                net.after(time, Event::Mended { who: 0 });
            }
            Fault::DiskHangs { time } => {
                self.disks[0].hang(true);
                self.hangs = true;
                net.after(time, Event::Mended { who: 0 });
            }
            Fault::Die { which, orderly } => {
                self.host.hypervisor.die(which, orderly, now);
                self.check.happened(self.host.hypervisor.news());
            }
            Fault::Hang { which, time } => self.host.hypervisor.hang(which, now + time),
            Fault::TakeOver {} => {
                self.check.is_replaced = true;
                net.after(Duration::ZERO, Event::Boot { who: 1, life: 1 });
            }
        }
    }

    /// The appliance is reset: what its disk was not told to keep is kept or not, sector by sector.
    fn reset(&mut self, down: Duration, lingers: Duration) {
        if self.appliances[0].take().is_none() {
            return;
        }
        self.net.abandon(0);
        self.net.linger(0, lingers);
        let random = &mut self.random;
        self.disks[0].power_failure(|| random.next());
        if self.bug == Some(Bug::LyingStateDisk) {
            let image = &mut self.image;
            self.disks[0].edit(|bytes| {
                if !image.is_empty() {
                    bytes.copy_from_slice(image);
                }
                *image = bytes.to_vec();
            });
        }
        self.net.after(down, Event::Boot { who: 0, life: self.lives[0] + 1 });
    }
}

/// Whether an operation has come by that place: what was flushed after it had come was it.
fn came_by(place: Place, net: &Net, flushes: u64, before: &mut u64) -> bool {
    let passed = net.passed.get();
    let has_begun = match place {
        Place::Sent => return passed.sent,
        Place::Kept => passed.asked,
        Place::Concluded => passed.answered,
    };
    if !has_begun {
        *before = flushes;
    }
    flushes > *before
}

fn crash_point(point: Point) -> Option<CrashPoint> {
    CrashPoint::ALL.iter().zip(Point::ALL).find(|(_, word)| **word == point).map(|(point, _)| *point)
}

/// How long a fault lasts.
fn lasts(fault: &Fault) -> Duration {
    match *fault {
        Fault::Reset { down, lingers } => down.max(lingers),
        Fault::ResetAt { down, lingers, .. } => ARMED + down.max(lingers),
        Fault::DieAt { .. } => ARMED,
        Fault::Kill { down } => down,
        Fault::KillAt { down, .. } => ARMED + down,
        Fault::Pause { time }
        | Fault::Cut { time }
        | Fault::Slow { time, .. }
        | Fault::DiskFails { time, .. }
        | Fault::DiskHangs { time }
        | Fault::Hang { time, .. } => time,
        Fault::Break {} | Fault::Die { .. } | Fault::TakeOver {} => Duration::ZERO,
    }
}

fn lasts_all(plan: &Plan) -> Duration {
    plan.faults.iter().map(|(_, fault)| lasts(fault)).sum()
}
