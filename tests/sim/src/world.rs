//! The world in a box: who is in it, how time passes, and what goes wrong when.

use crate::bug::Bug;
use crate::history::History;
use crate::initiator::{Initiator, Order, Shared};
use crate::plan::{Fault, Net, Plan};
use crate::random::Random;
use crate::service::{self, Door, STREAMS, Service};
use crate::wire::{Port, Quality, Wire};
use image_appliance::assemble::{Appliance, Next, Parts};
use image_appliance::config::{Channel, Config};
use image_appliance::limits::Limits;
use kernel_runtime::{Executor, Instant, Signal};
use network::{Addressing, Attachment, Settings, Side};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::rc::Rc;
use std::time::Duration;

/// The one target of the world.
pub(crate) const TARGET: &str = "iqn.2026-11.example.sim:disks";
/// The appliance, and everybody else, on each network.
const HOST: [&str; 2] = ["10.77.0.2/24", "10.77.0.1/24"];
const SERVICE: [&str; 2] = ["10.78.0.2/24", "10.78.0.1/24"];
const ISCSI_PORT: u16 = 3260;
/// The port of the first storage service.
const NBD_PORT: u16 = 10_809;
/// The ends of each wire.
const APPLIANCE: usize = 0;
const OTHERS: usize = 1;
/// Bytes of each of our own sockets, in either direction.
const SOCKET: usize = 64 << 10;
/// How long after the last fault everything may take to finish.
const CALM: Duration = Duration::from_secs(900);
/// Rounds in which time stands still, before the world is taken to spin.
const SPIN: u32 = 20_000;

/// What came of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, if anything.
    pub violation: Option<String>,
    /// The virtual time at the end.
    pub time: Duration,
    /// Commands that were answered, and how many of them with GOOD.
    pub answered: (u64, u64),
    /// Blocks that were read and found right.
    pub blocks: u64,
    /// Frames on both wires.
    pub frames: u64,
    /// Two runs that agree in this are the same.
    pub digest: u64,
}

/// Something that ends.
#[derive(Clone, Copy, Debug)]
enum Relief {
    Wire(Net),
    Uncut(Net),
    Boot,
}

struct World {
    now: Rc<Cell<Instant>>,
    shared: Rc<Shared>,
    wires: [Wire; 2],
    others: [Attachment<Port>; 2],
    executor: Executor,
    appliance: Option<Appliance<Port, Port>>,
    config: Config,
    random: Random,
    faults: std::vec::IntoIter<(Instant, Fault)>,
    next_fault: Option<(Instant, Fault)>,
    reliefs: Vec<(Instant, Relief)>,
}

/// Run the world of `seed`, with a bug planted or without, for as long as it takes.
pub fn run(seed: u64, bug: Option<Bug>) -> Report {
    let mut random = Random::new(seed);
    let plan = Plan::new(&mut random);
    log::debug!("{plan:?}");
    let mut world = World::new(plan, bug, random);
    world.live();
    let shared = &world.shared;
    Report {
        violation: shared.violation.borrow().clone(),
        time: world.now.get().since(Instant::ZERO),
        answered: (shared.answered.get(), shared.good.get()),
        blocks: shared.history.borrow().reads(),
        frames: world.wires[0].frames() + world.wires[1].frames(),
        digest: world.wires[0].digest() ^ world.wires[1].digest().rotate_left(1),
    }
}

fn settings(address: &str, side: Side, seed: u64) -> Settings {
    let cidr = address.parse().expect("an address of ours");
    Settings { side, addressing: Addressing::Static { cidr, gateway: None }, foreign: None, seed }
}

impl World {
    fn new(plan: Plan, bug: Option<Bug>, mut random: Random) -> Self {
        let now = Rc::new(Cell::new(Instant::ZERO));
        crate::log::set_clock(now.clone());
        let wires = [plan.host, plan.service].map(|quality| Wire::new(random.fork(), quality, now.clone()));
        let others = [(HOST[OTHERS], Side::HostOnly, &wires[0]), (SERVICE[OTHERS], Side::Service, &wires[1])]
            .map(|(address, side, wire)| {
                Attachment::new(&settings(address, side, random.next()), wire.port(OTHERS), Instant::ZERO)
            });
        let history = Rc::new(RefCell::new(History::new(plan.units, plan.blocks, plan.block)));
        let services: Vec<_> = (0..plan.units)
            .map(|unit| Rc::new(RefCell::new(Service::new(unit, &plan, bug, random.fork()))))
            .collect();
        let mut executor = Executor::new(plan.units * STREAMS + plan.initiators);
        for (unit, service) in services.iter().enumerate() {
            let door = Rc::new(Door { service: service.clone(), history: history.clone(), now: now.clone() });
            for index in 0..STREAMS {
                let stream = others[1].stack().stream(SOCKET, SOCKET);
                let port = NBD_PORT + unit as u16;
                executor.add("service", service::serve(door.clone(), index, port, stream));
            }
        }
        let shared = Rc::new(Shared {
            orders: (0..plan.initiators).map(|_| RefCell::default()).collect(),
            signals: (0..plan.initiators).map(|_| Signal::new()).collect(),
            told: RefCell::new(vec![vec![None; plan.units]; plan.initiators]),
            resets: RefCell::new(vec![Instant::ZERO; plan.units]),
            plan,
            bug,
            history,
            services,
            violation: RefCell::new(None),
            calm: Cell::new(None),
            is_down: Cell::new(true),
            restarted: Cell::new(Instant::ZERO),
            finished: Cell::new(0),
            answered: Cell::new(0),
            good: Cell::new(0),
            swapped: RefCell::new(BTreeSet::new()),
        });
        let target = format!("10.77.0.2:{ISCSI_PORT}").parse().expect("an address of ours");
        for index in 0..shared.plan.initiators {
            let initiator = Initiator::new(shared.clone(), index, executor.clock(), random.fork(), target);
            executor.add("initiator", initiator.run(others[0].stack().stream(SOCKET, SOCKET)));
        }
        let mut faults = shared.plan.faults.clone().into_iter();
        let next_fault = faults.next();
        let config = config(&shared.plan);
        Self {
            now,
            shared,
            wires,
            others,
            executor,
            appliance: None,
            config,
            random,
            faults,
            next_fault,
            reliefs: vec![(Instant::ZERO, Relief::Boot)],
        }
    }

    /// Let time pass until everything has finished or something is wrong.
    fn live(&mut self) {
        let mut spins = 0;
        loop {
            let now = self.now.get();
            self.happen(now);
            if self.shared.violation.borrow().is_some()
                || self.shared.finished.get() == self.shared.plan.initiators
            {
                return;
            }
            let (moved, next) = self.turn(now);
            if moved {
                spins += 1;
                if spins > SPIN {
                    return self.shared.fail("the world spins: time stands still".to_string());
                }
                continue;
            }
            spins = 0;
            if self.shared.calm.get().is_some_and(|calm| now > calm + CALM) {
                let living = self.executor.living().filter(|name| *name == "initiator").count();
                return self.shared.fail(format!("{living} initiators did not finish after all faults"));
            }
            let step = now + Duration::from_micros(1);
            self.now.set(next.unwrap_or(step).max(step));
        }
    }

    /// Everybody's turn. Answers whether anything moved, and when something is due otherwise.
    fn turn(&mut self, now: Instant) -> (bool, Option<Instant>) {
        let mut moved = false;
        for attachment in &mut self.others {
            moved |= attachment.receive(now);
        }
        for service in &self.shared.services {
            let service = &mut *service.borrow_mut();
            moved |= service.step(now, &mut self.shared.history.borrow_mut());
            if let Some(reason) = service.violation.take() {
                self.shared.fail(reason);
            }
        }
        moved |= self.executor.run_ready(now) > 0;
        for attachment in &mut self.others {
            moved |= attachment.transmit(now);
        }
        let mut due = self.executor.next_deadline();
        let mut earliest = |other: Option<Instant>| due = [due, other].into_iter().flatten().min();
        match self.appliance.as_mut().map(|appliance| appliance.turn(now)) {
            Some(Next::Again) => moved = true,
            Some(Next::Idle(deadline)) => earliest(deadline),
            // Nobody is there to receive.
            None => self.wires.iter().for_each(|wire| wire.clear(APPLIANCE)),
        }
        if moved || self.executor.has_ready() {
            return (true, None);
        }
        for attachment in &mut self.others {
            earliest(attachment.next_deadline(now));
        }
        for service in &self.shared.services {
            earliest(service.borrow().next_due());
        }
        for wire in &self.wires {
            earliest(wire.next_due());
        }
        earliest(self.next_fault.map(|(at, _)| at));
        earliest(self.reliefs.iter().map(|(at, _)| *at).min());
        (false, due)
    }

    /// Faults that are due, and what ends.
    fn happen(&mut self, now: Instant) {
        while let Some((at, fault)) = self.next_fault
            && at <= now
        {
            log::debug!("{fault:?}");
            if let Err(reason) = self.strike(now, fault) {
                self.shared.fail(reason);
            }
            self.next_fault = self.faults.next();
        }
        while let Some(place) = self.reliefs.iter().position(|(at, _)| *at <= now) {
            let (_, relief) = self.reliefs.swap_remove(place);
            self.relieve(now, relief);
        }
        let is_over = self.next_fault.is_none() && self.reliefs.is_empty() && self.appliance.is_some();
        if is_over && self.shared.calm.get().is_none() && now >= Instant::ZERO + self.shared.plan.horizon {
            log::debug!("calm");
            for service in &self.shared.services {
                service.borrow_mut().heal(now);
            }
            for wire in &self.wires {
                wire.set_quality(Quality::clean());
            }
            self.shared.calm.set(Some(now));
            self.shared.signals.iter().for_each(Signal::raise);
        } else if is_over && self.shared.calm.get().is_none() {
            self.reliefs.push((Instant::ZERO + self.shared.plan.horizon, Relief::Uncut(Net::Host)));
        }
    }

    fn strike(&mut self, now: Instant, fault: Fault) -> Result<(), String> {
        let service = |unit: usize| self.shared.services[unit].borrow_mut();
        match fault {
            Fault::Crash { unit, loses_cache, keeps_requests, down } => {
                self.shared.swapped.borrow_mut().clear();
                let history = &mut *self.shared.history.borrow_mut();
                service(unit).crash(now, down, loses_cache, keeps_requests, history)?;
            }
            Fault::Kill { unit, lingers } => service(unit).kill(now, lingers),
            Fault::Stuck { unit, time } => service(unit).stick(now + time),
            Fault::Slow { unit, time, delay } => service(unit).slow_down(now + time, delay),
            Fault::FlushErrors { unit, count, drops } => {
                self.shared.swapped.borrow_mut().clear();
                service(unit).fail_flushes(count, drops);
            }
            Fault::Errors { unit, count, code } => service(unit).fail(count, code),
            Fault::Cut { net, ends, time } => {
                for (end, is_cut) in ends.into_iter().enumerate() {
                    self.wires[net as usize].cut(end, is_cut);
                }
                self.reliefs.push((now + time, Relief::Uncut(net)));
            }
            Fault::Weather { net, quality, time } => {
                self.wires[net as usize].set_quality(quality);
                self.reliefs.push((now + time, Relief::Wire(net)));
            }
            Fault::Drop { initiator, is_silent } => self.order(initiator, Order::Drop { is_silent }),
            Fault::Abort { initiator } => self.order(initiator, Order::Abort),
            Fault::Reset { initiator, unit } => self.order(initiator, Order::Reset { unit }),
            Fault::Restart => self.shut_down(now),
        }
        Ok(())
    }

    fn order(&self, initiator: usize, order: Order) {
        self.shared.orders[initiator].borrow_mut().push_back(order);
        self.shared.signals[initiator].raise();
    }

    fn relieve(&mut self, now: Instant, relief: Relief) {
        match relief {
            Relief::Wire(net) => {
                let plan = &self.shared.plan;
                self.wires[net as usize].set_quality(if net == Net::Host { plan.host } else { plan.service });
            }
            Relief::Uncut(net) => {
                self.wires[net as usize].cut(APPLIANCE, false);
                self.wires[net as usize].cut(OTHERS, false);
            }
            Relief::Boot => self.boot(now),
        }
    }

    /// The appliance goes down without a word, and boots again soon.
    fn shut_down(&mut self, now: Instant) {
        if self.appliance.take().is_none() {
            return;
        }
        self.shared.is_down.set(true);
        let history = &mut *self.shared.history.borrow_mut();
        for (unit, service) in self.shared.services.iter().enumerate() {
            let service = &mut *service.borrow_mut();
            service.orphan();
            history.forgive_unflushed(unit, service.disk.durable());
        }
        let down = Duration::from_millis(self.random.below(3000));
        self.reliefs.push((now + down, Relief::Boot));
    }

    fn boot(&mut self, now: Instant) {
        for wire in &self.wires {
            wire.clear(APPLIANCE);
        }
        let [host, service] = [0, 1].map(|wire| self.wires[wire].port(APPLIANCE));
        let seeds = [(); 5].map(|()| self.random.next());
        let memory = self.shared.plan.memory;
        let parts = Parts { host, service, seeds, memory, now };
        let limits = Limits::for_memory(memory);
        let mut storage = limits.storage();
        if self.shared.bug == Some(Bug::NoHoldOff) {
            storage.hold_off = Duration::ZERO;
        }
        match Appliance::assemble_within(&self.config, parts, &limits, &storage) {
            Ok(appliance) => self.appliance = Some(appliance),
            Err(reason) => self.shared.fail(reason),
        }
        self.shared.is_down.set(false);
        self.shared.restarted.set(now);
    }
}

/// The configuration text of the world.
fn config(plan: &Plan) -> Config {
    let mut text = format!("host.address={} service.address={}\n", HOST[APPLIANCE], SERVICE[APPLIANCE]);
    for unit in 0..plan.units {
        let port = NBD_PORT + unit as u16;
        let _ = writeln!(
            text,
            "target.{unit}.iqn={TARGET} target.{unit}.lun={unit} target.{unit}.initiators=* \
             target.{unit}.volume=nbd://10.78.0.1:{port}/disk"
        );
    }
    Config::parse(&[(Channel::Arguments, &text)]).expect("a configuration of ours")
}
