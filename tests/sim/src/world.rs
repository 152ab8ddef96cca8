//! The world in a box: who is in it, and how time passes.

mod events;

use crate::bug::Bug;
use crate::history::{History, SECTOR};
use crate::initiator::{Crowd, Initiator, Shared, Twin};
use crate::plan::{DISK, Fault, Net, Plan, Step};
use crate::random::Random;
use crate::service::{self, Door, SPARE_STREAMS, Service};
use crate::wire::{Port, Wire};
use image_appliance::assemble::{Appliance, Next};
use image_appliance::config::{Channel, Config};
use kernel_runtime::{Executor, Instant, Signal};
use network::{Addressing, Attachment, Settings, Side};
use std::cell::{Cell, RefCell};
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
/// And of those of strangers.
const NARROW: usize = 2 << 10;
/// How long after the last fault everything may take to finish.
const CALM: Duration = Duration::from_secs(900);
/// Rounds in which time stands still, before the world is taken to spin.
const SPIN: u32 = 20_000;
/// Strangers that may come at once.
const CROWD: usize = 12;

/// What came of a world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, if anything.
    pub violation: Option<String>,
    /// The virtual time at the end.
    pub time: Duration,
    /// Commands that were answered, and how many of them with GOOD.
    pub answered: (u64, u64),
    /// Sectors that were read and found right.
    pub sectors: u64,
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
    /// The appliance goes on after it stood still.
    GoOn,
    /// What goes on elsewhere is over.
    Nothing,
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
    /// Whose command is aborted at the next moment of a kind.
    watches: Vec<(Step, usize)>,
    /// The appliance stands still.
    is_paused: bool,
}

/// Run the world of `plan`, with a bug planted or without, for as long as it takes.
pub fn run(plan: &Plan, bug: Option<Bug>) -> Report {
    log::debug!("{plan}");
    let mut world = World::new(plan.clone(), bug);
    world.live();
    let shared = &world.shared;
    Report {
        violation: shared.violation.borrow().clone(),
        time: world.now.get().since(Instant::ZERO),
        answered: (shared.answered.get(), shared.good.get()),
        sectors: shared.history.borrow().reads(),
        frames: world.wires[0].frames() + world.wires[1].frames(),
        digest: world.wires[0].digest() ^ world.wires[1].digest().rotate_left(1),
    }
}

fn settings(address: &str, side: Side, seed: u64) -> Settings {
    let cidr = address.parse().expect("an address of ours");
    Settings { side, addressing: Addressing::Static { cidr, gateway: None }, foreign: None, seed }
}

impl World {
    fn new(plan: Plan, bug: Option<Bug>) -> Self {
        let mut random = Random::new(plan.shape.dice);
        let shape = plan.shape.clone();
        let now = Rc::new(Cell::new(Instant::ZERO));
        crate::log::set_clock(now.clone());
        let wires = [shape.host, shape.service].map(|quality| Wire::new(random.fork(), quality, now.clone()));
        let others = [(HOST[OTHERS], Side::HostOnly, &wires[0]), (SERVICE[OTHERS], Side::Service, &wires[1])]
            .map(|(address, side, wire)| {
                Attachment::new(&settings(address, side, random.next()), wire.port(OTHERS), Instant::ZERO)
            });
        let history = Rc::new(RefCell::new(History::new(shape.units, DISK / SECTOR, shape.block)));
        let services: Vec<_> = (0..shape.units)
            .map(|unit| Rc::new(RefCell::new(Service::new(unit, &plan, bug, random.fork()))))
            .collect();
        let streams = shape.connections + SPARE_STREAMS;
        let mut executor =
            Executor::new(shape.units * shape.gateways * streams + shape.initiators * 2 + CROWD);
        for (unit, service) in services.iter().enumerate() {
            let door = Rc::new(Door { service: service.clone(), history: history.clone(), now: now.clone() });
            for index in 0..shape.gateways * streams {
                let stream = others[1].stack().stream(SOCKET, SOCKET);
                let gateway = index / streams;
                let port = port(unit, gateway);
                executor.add("service", service::serve(door.clone(), gateway, index, port, stream));
            }
        }
        let [has_twins, has_crowds] = [
            |fault: &Fault| matches!(fault, Fault::Twin { .. }),
            |fault: &Fault| matches!(fault, Fault::Crowd { .. }),
        ]
        .map(|is_meant| plan.faults.iter().any(|(_, fault)| is_meant(fault)));
        let shared = Rc::new(Shared {
            // Those of the initiators, then those of their twins.
            orders: (0..2 * shape.initiators).map(|_| RefCell::default()).collect(),
            signals: (0..2 * shape.initiators).map(|_| Signal::new()).collect(),
            crowd: Crowd::default(),
            sizes: (0..shape.units).map(|_| Cell::new(DISK)).collect(),
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
        });
        let target = format!("10.77.0.2:{ISCSI_PORT}").parse().expect("an address of ours");
        for index in 0..shape.initiators {
            let initiator = Initiator::new(shared.clone(), index, executor.clock(), random.fork(), target);
            executor.add("initiator", initiator.run(others[0].stack().stream(SOCKET, SOCKET)));
            let twin = Twin::new(shared.clone(), index, executor.clock(), random.fork(), target);
            if has_twins {
                executor.add("twin", twin.run(others[0].stack().stream(NARROW, NARROW)));
            }
        }
        for index in 0..if has_crowds { CROWD } else { 0 } {
            let stream = others[0].stack().stream(NARROW, NARROW);
            executor.add(
                "stranger",
                crate::initiator::stranger(shared.clone(), index, executor.clock(), target, stream),
            );
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
            watches: Vec::new(),
            is_paused: false,
        }
    }

    /// Let time pass until everything has finished or something is wrong.
    fn live(&mut self) {
        let mut spins = 0;
        loop {
            let now = self.now.get();
            self.happen(now);
            if self.shared.violation.borrow().is_some()
                || self.shared.finished.get() == self.shared.plan.shape.initiators
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
        self.watch();
        moved |= self.executor.run_ready(now) > 0;
        for attachment in &mut self.others {
            moved |= attachment.transmit(now);
        }
        let mut due = self.executor.next_deadline();
        let mut earliest = |other: Option<Instant>| due = [due, other].into_iter().flatten().min();
        match &mut self.appliance {
            Some(_) if self.is_paused => {}
            Some(appliance) => match appliance.turn(now) {
                Next::Again => moved = true,
                Next::Idle(deadline) => earliest(deadline),
            },
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
            // What lies before an appliance that stands still wakes nobody.
            earliest(wire.next_due(if self.is_paused { OTHERS..OTHERS + 1 } else { APPLIANCE..OTHERS + 1 }));
        }
        earliest(self.next_fault.as_ref().map(|(at, _)| *at));
        earliest(self.reliefs.iter().map(|(at, _)| *at).min());
        (false, due)
    }
}

/// Where a gateway to a unit listens.
const fn port(unit: usize, gateway: usize) -> u16 {
    NBD_PORT + (100 * gateway + unit) as u16
}

/// The configuration text of the world.
fn config(plan: &Plan) -> Config {
    let mut text = format!("host.address={} service.address={}\n", HOST[APPLIANCE], SERVICE[APPLIANCE]);
    for unit in 0..plan.shape.units {
        let first = port(unit, 0);
        let _ = writeln!(
            text,
            "target.{unit}.iqn={TARGET} target.{unit}.lun={unit} target.{unit}.initiators=* \
             target.{unit}.volume=nbd://10.78.0.1:{first}/disk"
        );
        if plan.shape.gateways > 1 {
            let _ = writeln!(text, "target.{unit}.portals=10.78.0.1:{}", port(unit, 1));
        }
        if plan.shape.iops > 0 {
            let _ = writeln!(text, "target.{unit}.iops={}", plan.shape.iops);
        }
        if plan.shape.cacheless {
            let _ = writeln!(text, "target.{unit}.assume-durable=yes");
        }
    }
    Config::parse(&[(Channel::Arguments, &text)]).expect("a configuration of ours")
}
