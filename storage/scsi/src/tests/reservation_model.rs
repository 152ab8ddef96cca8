//! Persistent reservations against a reference: random histories of several initiator ports, resets, losses of power and
//! failures of what keeps them; each status, each unit attention and each right to read and to write is compared.
//!
//! The reference knows ports by their numbers and has nothing in common with the engine: it is a table of SPC-4 section
//! 5.13 in the form of code.

use super::*;
use crate::testing::{Bench, geometry};
use crate::{Identity, Limits, Nexus, Readiness, Target, Traits, TransportId, code};
use std::collections::{BTreeMap, BTreeSet};

const PORTS: usize = 5;
const KINDS: [u8; 6] = [1, 3, 5, 6, 7, 8];

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Good,
    Conflict,
    /// Sense key and additional sense code.
    Check(u8, u16),
}

const BAD_LIST: End = End::Check(5, code::INVALID_FIELD_IN_PARAMETER_LIST);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Reserved {
    /// The ports that are registered, with their keys.
    keys: BTreeMap<usize, u64>,
    /// Type, and who holds it where not all registrants do.
    held: Option<(u8, usize)>,
    aptpl: bool,
}

impl Reserved {
    fn all(&self) -> bool {
        self.held.is_some_and(|(kind, _)| kind >= 7)
    }

    fn holds(&self, port: usize) -> bool {
        match self.held {
            Some((7 | 8, _)) => self.keys.contains_key(&port),
            Some((_, holder)) => holder == port,
            None => false,
        }
    }

    /// SPC-4 tables 65 and 66: whether a port may read, and whether it may write.
    fn rights(&self, port: usize) -> (bool, bool) {
        let registered = self.keys.contains_key(&port);
        match self.held {
            None => (true, true),
            Some(_) if self.holds(port) => (true, true),
            Some((1, _)) => (true, false),
            Some((3, _)) => (false, false),
            Some((5 | 7, _)) => (true, registered),
            Some(_) => (registered, registered),
        }
    }
}

/// What a PERSISTENT RESERVE OUT says.
#[derive(Clone, Debug)]
struct Asked {
    action: u8,
    kind: u8,
    key: u64,
    action_key: u64,
    aptpl: bool,
    /// SPEC_I_PT, and whom it names.
    named: Option<Vec<usize>>,
    /// REGISTER AND MOVE: to whom, whether with UNREG, and by which target port.
    to: (usize, bool, u16),
}

struct Reference {
    now: Reserved,
    generation: u32,
    /// Who has an SPC-2 reservation.
    old: Option<usize>,
    /// What each port has yet to be told.
    untold: Vec<BTreeSet<u16>>,
    /// The ports that the target has heard of since it has power.
    known: BTreeSet<usize>,
    capable: bool,
    /// What a loss of power leaves.
    kept: Reserved,
}

impl Reference {
    fn new(capable: bool) -> Self {
        let mut new = Self {
            now: Reserved::default(),
            generation: 0,
            old: None,
            untold: Vec::new(),
            known: BTreeSet::new(),
            capable,
            kept: Reserved::default(),
        };
        new.lose_power();
        new
    }

    fn lose_power(&mut self) {
        self.now = self.kept.clone();
        (self.generation, self.old) = (0, None);
        self.untold = vec![BTreeSet::from([code::POWER_ON]); PORTS];
        self.known = self.now.keys.keys().copied().collect();
    }

    fn reset(&mut self) {
        self.old = None;
        for port in &self.known {
            self.untold[*port] = BTreeSet::from([code::DEVICE_RESET]);
        }
    }

    /// A command that changes reservations; `durable` tells whether what is to be kept can be.
    fn change(&mut self, port: usize, asked: &Asked, durable: bool) -> End {
        if self.old.is_some() {
            return End::Conflict;
        }
        let mut next = self.now.clone();
        let mut told = Vec::new();
        let counts = match self.decide(port, asked, &mut next, &mut told) {
            Ok(counts) => counts,
            Err(end) => return end,
        };
        if next != self.now && (next.aptpl || self.now.aptpl) {
            if !durable {
                return End::Check(4, code::INTERNAL_TARGET_FAILURE);
            }
            self.kept = if next.aptpl { next.clone() } else { Reserved::default() };
        }
        self.now = next;
        self.generation += u32::from(counts);
        for (port, what) in told {
            self.untold[port].insert(what);
        }
        End::Good
    }

    /// What becomes of it, whom it tells what, and whether it counts in PRGENERATION.
    fn decide(
        &mut self,
        port: usize,
        asked: &Asked,
        next: &mut Reserved,
        told: &mut Vec<(usize, u16)>,
    ) -> Result<bool, End> {
        let own = next.keys.get(&port).copied();
        if matches!(asked.action, 0 | 6) {
            return self.register(port, asked, next, told);
        }
        if own != Some(asked.key) {
            return Err(End::Conflict);
        }
        let others = |next: &Reserved, what| {
            next.keys.keys().filter(|other| **other != port).map(|other| (*other, what)).collect::<Vec<_>>()
        };
        match (asked.action, next.held) {
            (1, None) => next.held = Some((asked.kind, port)),
            (1, Some((kind, _))) if kind == asked.kind && next.holds(port) => {}
            (1, Some(_)) => return Err(End::Conflict),
            (2, Some((kind, _))) if next.holds(port) => {
                if kind != asked.kind {
                    return Err(End::Check(5, code::INVALID_RELEASE_OF_PERSISTENT_RESERVATION));
                }
                next.held = None;
                if kind >= 5 {
                    told.extend(others(next, code::RESERVATIONS_RELEASED));
                }
            }
            (2, _) => {}
            (3, _) => {
                told.extend(others(next, code::RESERVATIONS_PREEMPTED));
                (next.keys, next.held) = (BTreeMap::new(), None);
                return Ok(true);
            }
            (7, _) => return self.hand_over(port, asked, next),
            _ => return Self::preempt(port, asked, next, told),
        }
        Ok(false)
    }

    fn register(
        &mut self,
        port: usize,
        asked: &Asked,
        next: &mut Reserved,
        told: &mut Vec<(usize, u16)>,
    ) -> Result<bool, End> {
        let own = next.keys.get(&port).copied();
        if asked.aptpl && !self.capable || asked.named.is_some() && asked.action == 6 {
            return Err(BAD_LIST);
        }
        if asked.action == 0 && asked.key != own.unwrap_or(0) {
            return Err(End::Conflict);
        }
        if own.is_none() && asked.action_key == 0 {
            return Ok(false);
        }
        if let Some(named) = &asked.named {
            if own.is_some() {
                return Err(BAD_LIST);
            }
            for other in named {
                if *other == port || next.keys.contains_key(other) {
                    return Err(BAD_LIST);
                }
                self.known.insert(*other);
                next.keys.insert(*other, asked.action_key);
            }
        }
        if asked.action_key != 0 {
            next.keys.insert(port, asked.action_key);
        } else {
            let held = next.holds(port);
            next.keys.remove(&port);
            match next.held {
                Some((7 | 8, _)) if next.keys.is_empty() => next.held = None,
                Some((kind, _)) if held && kind < 7 => {
                    next.held = None;
                    if kind >= 5 {
                        told.extend(next.keys.keys().map(|other| (*other, code::RESERVATIONS_RELEASED)));
                    }
                }
                _ => {}
            }
        }
        next.aptpl = asked.aptpl;
        Ok(true)
    }

    fn hand_over(&mut self, port: usize, asked: &Asked, next: &mut Reserved) -> Result<bool, End> {
        let (to, unregister, target_port) = asked.to;
        let Some((kind, holder)) = next.held.filter(|_| !next.all()) else { return Err(End::Conflict) };
        if holder != port {
            return Err(End::Conflict);
        }
        if asked.aptpl && !self.capable || asked.action_key == 0 || target_port != 1 || to == port {
            return Err(BAD_LIST);
        }
        self.known.insert(to);
        next.keys.insert(to, asked.action_key);
        next.held = Some((kind, to));
        if unregister {
            next.keys.remove(&port);
        }
        next.aptpl = asked.aptpl;
        Ok(true)
    }

    fn preempt(
        port: usize,
        asked: &Asked,
        next: &mut Reserved,
        told: &mut Vec<(usize, u16)>,
    ) -> Result<bool, End> {
        let everybody = next.all() && asked.action_key == 0;
        if asked.action_key == 0 && !everybody {
            return Err(BAD_LIST);
        }
        let named: Vec<usize> = next
            .keys
            .iter()
            .filter(|(_, key)| everybody || **key == asked.action_key)
            .map(|(port, _)| *port)
            .collect();
        let old = next.held;
        let takes = everybody || !next.all() && old.is_some_and(|(_, holder)| named.contains(&holder));
        if named.is_empty() {
            return Err(End::Conflict);
        }
        for other in named {
            if other != port {
                told.push((other, code::REGISTRATIONS_PREEMPTED));
            }
            if other != port || !takes {
                next.keys.remove(&other);
            }
        }
        if takes {
            next.held = Some((asked.kind, port));
            if old.is_some_and(|(kind, _)| kind != asked.kind) {
                let rest = next.keys.keys().filter(|other| **other != port);
                told.extend(rest.map(|other| (*other, code::RESERVATIONS_RELEASED)));
            }
        } else if next.keys.is_empty() {
            next.held = None;
        }
        Ok(true)
    }

    /// RESERVE (6) and RELEASE (6).
    fn old_style(&mut self, port: usize, reserves: bool) -> End {
        if !self.now.keys.is_empty() {
            let shared = self.now.held.is_some_and(|(kind, _)| kind >= 5);
            let may = self.now.holds(port) || shared && self.now.keys.contains_key(&port);
            return if may { End::Good } else { End::Conflict };
        }
        match (self.old, reserves) {
            (Some(holder), true) if holder != port => return End::Conflict,
            (_, true) => self.old = Some(port),
            (holder, false) if holder == Some(port) => self.old = None,
            (_, false) => {}
        }
        End::Good
    }
}

/// The engine, with ports that come and go.
struct Engine {
    bench: Bench,
    attached: [Option<Nexus>; PORTS],
    capable: bool,
}

fn name(port: usize) -> TransportId {
    let name = if port == 3 { "iqn.2026-11.test:a-long-name-of-a-port" } else { "iqn.p" };
    TransportId::iscsi(name, [0x80, 0, 0, 0, 0, port as u8]).expect("a name")
}

impl Engine {
    fn new(capable: bool) -> Self {
        let bench = Bench::new(geometry(1000, 512));
        let mut engine = Self { bench, attached: [None; PORTS], capable };
        engine.lose_power();
        engine
    }

    fn lose_power(&mut self) {
        let bench = &mut self.bench;
        bench.target = Target::new("iqn.2026-11.test:disk", Limits { units: 2, nexuses: 8, commands: 64 });
        let traits = Traits { keeps: self.capable, ..Traits::default() };
        bench.unit = bench.target.add_unit(0, Identity::new([0x11; 16]), traits).expect("room");
        let unit = bench.target.unit_mut(bench.unit).expect("it");
        unit.set_geometry(geometry(1000, 512)).expect("a geometry");
        unit.set_readiness(Readiness::Ready);
        if !bench.kept.is_empty() {
            bench.target.restore(bench.unit, &bench.kept).expect("what it kept itself");
        }
        self.attached = [None; PORTS];
    }

    fn nexus(&mut self, port: usize) -> Nexus {
        let target = &mut self.bench.target;
        *self.attached[port].get_or_insert_with(|| target.attach(&name(port)).expect("room"))
    }

    fn run(&mut self, port: usize, cdb: &[u8], data: &[u8], room: u32, durable: bool) -> (End, Vec<u8>) {
        let nexus = self.nexus(port);
        let index = self.bench.start(nexus, [0; 8], cdb, data, room);
        self.bench.step_all();
        while !self.bench.slots[index].receives.is_empty() {
            self.bench.give(index);
            self.bench.step_all();
        }
        if self.bench.keeping {
            self.bench.keep(durable);
        }
        self.bench.run_all();
        let slot = self.bench.slots.remove(index);
        let outcome = slot.outcome.expect("an end");
        let end = match outcome.status {
            Status::Good => End::Good,
            Status::ReservationConflict => End::Conflict,
            _ => {
                let (key, code) = sense(&outcome);
                End::Check(key, code)
            }
        };
        (end, slot.data_in)
    }

    fn change(&mut self, port: usize, asked: &Asked, durable: bool) -> End {
        let mut list = [asked.key.to_be_bytes(), asked.action_key.to_be_bytes(), [0; 8]].concat();
        if asked.action == 7 {
            let (to, unregister, target_port) = asked.to;
            let id = name(to);
            list[17] = u8::from(unregister) << 1 | u8::from(asked.aptpl);
            list[18..20].copy_from_slice(&target_port.to_be_bytes());
            list[20..24].copy_from_slice(&(id.as_bytes().len() as u32).to_be_bytes());
            list.extend(id.as_bytes());
        } else if let Some(named) = &asked.named {
            let ids: Vec<u8> = named.iter().flat_map(|port| name(*port).as_bytes().to_vec()).collect();
            list[20] = 8 | u8::from(asked.aptpl);
            list.extend((ids.len() as u32).to_be_bytes());
            list.extend(ids);
        } else {
            list[20] = u8::from(asked.aptpl);
        }
        let length = list.len() as u8;
        let cdb = [0x5f, asked.action, asked.kind, 0, 0, 0, 0, 0, length, 0];
        self.run(port, &cdb, &list, 0, durable).0
    }
}

/// What can be seen of the engine is what the reference says.
fn compare(engine: &mut Engine, reference: &mut Reference, what: &str) {
    let attached: Vec<usize> = (0..PORTS).filter(|port| engine.attached[*port].is_some()).collect();
    for &port in &attached {
        let mut told = BTreeSet::new();
        while let (End::Check(6, code), _) = engine.run(port, &[0; 6], &[], 0, true) {
            assert!(told.insert(code), "{what}: port {port} is told {code:04x} twice");
        }
        assert_eq!(told, core::mem::take(&mut reference.untold[port]), "{what}: port {port} is told");
    }
    for &port in &attached {
        let free = reference.old.is_none_or(|holder| holder == port);
        let (may_read, may_write) = reference.now.rights(port);
        let end = |may: bool| if may && free { End::Good } else { End::Conflict };
        let read = engine.run(port, &cdb10(0x28, 0, 0, 1), &[], 512, true).0;
        assert_eq!(read, end(may_read), "{what}: port {port} reads");
        let write = engine.run(port, &cdb10(0x2a, 0, 0, 1), &[0; 512], 0, true).0;
        assert_eq!(write, end(may_write), "{what}: port {port} writes");
    }
    let port = reference.old.or(attached.first().copied());
    let Some(port) = port else { return };
    let mut ask = |action: u8| {
        let (end, data) = engine.run(port, &cdb10(0x5e, action, 0, 4096), &[], 4096, true);
        assert_eq!(end, End::Good, "{what}");
        data
    };
    let state = &reference.now;
    let data = ask(0);
    assert_eq!(data[..4], reference.generation.to_be_bytes(), "{what}: the generation");
    let mut keys: Vec<u64> =
        data[8..].chunks(8).map(|key| u64::from_be_bytes(key.try_into().expect("eight"))).collect();
    keys.sort_unstable();
    let mut expected: Vec<u64> = state.keys.values().copied().collect();
    expected.sort_unstable();
    assert_eq!(keys, expected, "{what}: the keys");
    let data = ask(1);
    let shown =
        (data.len() > 8).then(|| (u64::from_be_bytes(data[8..16].try_into().expect("eight")), data[21]));
    let expected = state.held.map(|(kind, holder)| (if kind >= 7 { 0 } else { state.keys[&holder] }, kind));
    assert_eq!(shown, expected, "{what}: the reservation");
    let data = ask(2);
    let flags = (data[2] & 1 != 0, data[3] & 1 != 0);
    assert_eq!(flags, (reference.capable, state.aptpl), "{what}: PTPL_C and PTPL_A");
    compare_full_status(&ask(3), state, what);
}

fn compare_full_status(data: &[u8], state: &Reserved, what: &str) {
    let mut rest = &data[8..];
    let mut seen = BTreeMap::new();
    while !rest.is_empty() {
        let length = u32::from_be_bytes(rest[20..24].try_into().expect("four")) as usize;
        let id = &rest[24..24 + length];
        let port = (0..PORTS).find(|port| name(*port).as_bytes() == id).expect("a port that there is");
        let key = u64::from_be_bytes(rest[..8].try_into().expect("eight"));
        assert_eq!(rest[18..20], [0, 1], "{what}: the target port");
        seen.insert(port, (key, rest[12] & 1 != 0, rest[13]));
        rest = &rest[24 + length..];
    }
    let kind = state.held.map_or(0, |(kind, _)| kind);
    let expected: BTreeMap<_, _> = state
        .keys
        .iter()
        .map(|(port, key)| (*port, (*key, state.holds(*port), if state.holds(*port) { kind } else { 0 })))
        .collect();
    assert_eq!(seen, expected, "{what}: the full status");
}

fn asked(random: &mut Random, own: Option<u64>) -> Asked {
    const ACTIONS: [u8; 16] = [0, 0, 0, 6, 6, 6, 1, 1, 1, 1, 2, 4, 4, 5, 7, 3];
    let key = |random: &mut Random| random.below(4);
    let right = random.below(6) > 0;
    let action = ACTIONS[random.below(16) as usize];
    let named = (matches!(action, 0 | 6) && random.below(8) == 0)
        .then(|| (0..random.below(3)).map(|_| random.below(PORTS as u64) as usize).collect());
    Asked {
        action,
        kind: KINDS[random.below(6) as usize],
        key: if right { own.unwrap_or(0) } else { key(random) },
        action_key: key(random),
        aptpl: random.below(2) == 0,
        named,
        to: (random.below(PORTS as u64) as usize, random.below(2) == 0, u16::from(random.below(8) > 0)),
    }
}

#[test]
fn every_history_of_reservations_is_that_of_the_standard() {
    for seed in 0..2500_u64 {
        let random = &mut Random(seed);
        let capable = random.below(4) > 0;
        let (mut engine, mut reference) = (Engine::new(capable), Reference::new(capable));
        for step in 0..24 {
            let port = random.below(PORTS as u64) as usize;
            let choice = random.below(24);
            let mut what = format!("seed {seed}, step {step}, port {port}");
            // Whoever says something is there, and has heard what was to be heard.
            if choice > 3 {
                engine.nexus(port);
                reference.known.insert(port);
                compare(&mut engine, &mut reference, &what);
            }
            match choice {
                0 => {
                    engine.lose_power();
                    reference.lose_power();
                }
                1 => {
                    engine.bench.target.lun_reset(engine.bench.unit);
                    reference.reset();
                }
                2..=3 => {
                    if let Some(nexus) = engine.attached[port].take() {
                        engine.bench.target.detach(nexus);
                        if reference.old.take_if(|holder| *holder == port).is_some() {
                            reference.untold[port].insert(code::NEXUS_LOSS);
                        }
                    }
                }
                4..=5 => {
                    let reserves = choice == 4;
                    let cdb = [if reserves { 0x16 } else { 0x17 }, 0, 0, 0, 0, 0];
                    what = format!("{what}, reserves {reserves}");
                    let end = engine.run(port, &cdb, &[], 0, true).0;
                    assert_eq!(end, reference.old_style(port, reserves), "{what}");
                }
                _ => {
                    let asked = asked(random, reference.now.keys.get(&port).copied());
                    let durable = random.below(8) > 0;
                    what = format!("{what}, {asked:?}, durable {durable}");
                    let end = engine.change(port, &asked, durable);
                    assert_eq!(end, reference.change(port, &asked, durable), "{what}");
                }
            }
            compare(&mut engine, &mut reference, &what);
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % bound
    }
}
