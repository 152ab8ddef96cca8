//! A SCSI target device: its logical units and the initiators that know it.

use crate::attention::Attention;
use crate::command::{Command, Head, Task};
use crate::copy::operations::Operations;
use crate::copy::tokens::SECRET;
use crate::identity::Identity;
use crate::lun::{self, Address, MAX_LUN};
use crate::nexus::{Claim, MAX_NEXUSES, Nexus, Nexuses, TransportId};
use crate::opcode::{self, Access, Needs};
use crate::ordering::Attribute;
use crate::sense::{Refusal, Sense, code};
use crate::unit::{LogicalUnit, Traits, UnitId};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

/// How much of everything a target has room for. All of it is taken when the target and its units are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Logical units.
    pub units: u16,
    /// Initiator ports, attached or remembered; at most [`MAX_NEXUSES`]. Places of ports that are gone are used again, the longest unused first,
    /// unless a persistent reservation needs them.
    pub nexuses: u16,
    /// Commands of one unit that touch the medium; more are answered TASK SET FULL.
    pub commands: u16,
}

/// Why a logical unit was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// The number is larger than [`MAX_LUN`].
    Number,
    /// There is a unit of that number.
    Taken,
    /// There is no room.
    Full,
}

impl fmt::Display for AddError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Number => "no logical unit can have that number",
            Self::Taken => "there is a logical unit of that number",
            Self::Full => "the target has no room for another logical unit",
        })
    }
}

/// One SCSI target device.
#[derive(Debug)]
pub struct Target {
    name: String,
    limits: Limits,
    units: Vec<Place>,
    /// The target port group that its port is.
    pub(crate) port_group: u16,
    pub(crate) nexuses: Nexuses,
    pub(crate) copies: Operations,
    /// When the last parameter list came, and random bytes for one use.
    pub(crate) now: Duration,
    pub(crate) secret: Option<[u8; SECRET]>,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    /// The number of the unit, if one is there.
    number: Option<u16>,
    unit: Option<Box<LogicalUnit>>,
}

/// A command as it arrives.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The nexus it comes by.
    pub nexus: Nexus,
    /// The LUN it is for.
    pub lun: [u8; 8],
    /// Its CDB. Only the first bytes, as many as its opcode has, are looked at.
    pub cdb: &'a [u8; 16],
    /// The bytes that the initiator offers.
    pub data_out: u32,
    /// The bytes that it can take.
    pub data_in: u32,
    /// Its task attribute.
    pub attribute: Attribute,
}

/// The id of no unit: a generation that is never given out.
pub(crate) const NO_UNIT: UnitId = UnitId { slot: u16::MAX, generation: 0 };

impl Target {
    /// A target without units. `name` is its SCSI target device name (SAM-5 section 4.8), of which at most 220 bytes
    /// are told.
    pub fn new(name: &str, limits: Limits) -> Self {
        let limits = Limits { nexuses: limits.nexuses.min(MAX_NEXUSES), ..limits };
        let end = (0..=name.len().min(220)).rev().find(|&end| name.is_char_boundary(end)).unwrap_or(0);
        Self {
            name: String::from(&name[..end]),
            limits,
            units: (0..limits.units).map(|_| Place { generation: 0, number: None, unit: None }).collect(),
            port_group: 1,
            nexuses: Nexuses::new(limits.nexuses),
            copies: Operations::new(),
            now: Duration::ZERO,
            secret: None,
        }
    }

    /// The number of the target port group that its port is (SPC-4 section 5.15.2.2), 1 unless told otherwise: another
    /// one on each appliance that exposes the same disks.
    pub fn set_port_group(&mut self, group: u16) {
        self.port_group = group;
    }

    /// Its SCSI target device name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Add a logical unit; its geometry is told later. Every known nexus is told that there are other units now.
    ///
    /// # Errors
    /// When the number cannot be had or there is no room.
    pub fn add_unit(&mut self, number: u16, identity: Identity, traits: Traits) -> Result<UnitId, AddError> {
        if number > MAX_LUN {
            return Err(AddError::Number);
        }
        if self.numbers().any(|taken| taken == number) {
            return Err(AddError::Taken);
        }
        let slot = self.units.iter().position(|place| place.unit.is_none()).ok_or(AddError::Full)?;
        self.luns_changed();
        let mut unit = LogicalUnit::new(number, identity, traits, &self.limits);
        for nexus in (0..self.limits.nexuses).map(Nexus) {
            if self.nexuses.id(nexus).is_some() {
                unit.nexus_new(nexus);
            }
        }
        let place = &mut self.units[slot];
        place.generation = place.generation.wrapping_add(1).max(1);
        place.number = Some(number);
        place.unit = Some(Box::new(unit));
        Ok(UnitId { slot: slot as u16, generation: place.generation })
    }

    /// Remove a logical unit. Its commands should be aborted first; those that are left end when they are stepped.
    /// Every known nexus is told at the other units. False when there is no such unit.
    pub fn remove_unit(&mut self, id: UnitId) -> bool {
        let there = self.unit(id).is_some();
        if there {
            let place = &mut self.units[id.index()];
            (place.number, place.unit) = (None, None);
            self.luns_changed();
        }
        there
    }

    fn luns_changed(&mut self) {
        self.each_unit(|unit| unit.raise_all(Attention::ReportedLunsChanged, None));
    }

    /// The unit of this id.
    pub fn unit(&self, id: UnitId) -> Option<&LogicalUnit> {
        let place = self.units.get(id.index())?;
        place.unit.as_deref().filter(|_| place.generation == id.generation)
    }

    /// The unit of this id.
    pub fn unit_mut(&mut self, id: UnitId) -> Option<&mut LogicalUnit> {
        let place = self.units.get_mut(id.index())?;
        place.unit.as_deref_mut().filter(|_| place.generation == id.generation)
    }

    /// The unit that a LUN leads to, for task management functions.
    pub fn find(&self, lun: [u8; 8]) -> Option<UnitId> {
        match lun::decode(&lun) {
            Address::Unit(number) => self.by_number(number),
            Address::ReportLuns | Address::Nowhere => None,
        }
    }

    fn by_number(&self, number: u16) -> Option<UnitId> {
        let slot = self.units.iter().position(|place| place.number == Some(number))?;
        Some(UnitId { slot: slot as u16, generation: self.units[slot].generation })
    }

    /// The ids of all units.
    pub fn ids(&self) -> impl Iterator<Item = UnitId> + '_ {
        let id = |(slot, place): (usize, &Place)| UnitId { slot: slot as u16, generation: place.generation };
        self.units.iter().enumerate().filter(|(_, place)| place.unit.is_some()).map(id)
    }

    /// The numbers of all units, ascending.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u16> + '_ {
        let numbers = || self.units.iter().filter_map(|place| place.unit.as_ref().map(|unit| unit.number));
        let next = move |after: &Option<u16>| numbers().filter(|number| Some(*number) > *after).min();
        core::iter::successors(Some(None), move |last| next(last).map(Some)).flatten()
    }

    pub(crate) fn each_unit(&mut self, mut action: impl FnMut(&mut LogicalUnit)) {
        self.units.iter_mut().filter_map(|place| place.unit.as_deref_mut()).for_each(&mut action);
    }

    /// An initiator port has logged in. If it is attached already its old nexus is lost first; its commands must have
    /// been aborted.
    ///
    /// # Errors
    /// `None` when all places are taken by ports that are attached or hold registrations.
    pub fn attach(&mut self, port: &TransportId) -> Option<Nexus> {
        let nexus = self.claim_beside(port, &|_| false)?;
        if self.nexuses.is_attached(nexus) {
            self.detach(nexus);
        }
        self.nexuses.set_attached(nexus, true);
        Some(nexus)
    }

    /// The place of a port, for a login or for a registration on its behalf. It is none of those that `is_needed` says are.
    pub(crate) fn claim_beside(
        &mut self,
        port: &TransportId,
        is_needed: &dyn Fn(Nexus) -> bool,
    ) -> Option<Nexus> {
        let units = &self.units;
        let any =
            |test: &dyn Fn(&LogicalUnit) -> bool| units.iter().flat_map(|place| &place.unit).any(|u| test(u));
        let is_registered = |nexus| is_needed(nexus) || any(&|unit| unit.persistent.is_registered(nexus));
        // Who has yet to be told that its writes may be lost is forgotten last.
        let is_owed = |nexus| any(&|unit| unit.cache.owes(nexus));
        let found = self
            .nexuses
            .claim(port, |nexus| !is_registered(nexus) && !is_owed(nexus))
            .or_else(|| self.nexuses.claim(port, |nexus| !is_registered(nexus)));
        match found? {
            Claim::Known(nexus) => Some(nexus),
            Claim::New(nexus) => {
                self.each_unit(|unit| unit.nexus_new(nexus));
                Some(nexus)
            }
        }
    }

    /// The nexus is lost, by logout or otherwise (SAM-5 section 6.3.4): its SPC-2 reservations and locks of media fall
    /// now. Its commands are the caller's to abort, and to wait for before the port attaches again.
    pub fn detach(&mut self, nexus: Nexus) {
        self.each_unit(|unit| unit.nexus_lost(nexus));
        self.copies.forget(|name| name.nexus == nexus);
        self.nexuses.set_attached(nexus, false);
    }

    /// LOGICAL UNIT RESET (SAM-5 section 7.7), after all commands of the unit were aborted and are quiet. False when
    /// there is no such unit.
    pub fn lun_reset(&mut self, id: UnitId) -> bool {
        self.copies.forget(|name| name.unit == id);
        self.unit_mut(id).map(LogicalUnit::reset).is_some()
    }

    /// TARGET RESET, warm or cold: a reset of every unit, after all commands were aborted and are quiet.
    pub fn target_reset(&mut self) {
        self.copies.forget(|_| true);
        self.each_unit(LogicalUnit::reset);
    }

    /// A command has arrived: put it into a slot that is free.
    pub fn begin(&mut self, command: &mut Command, arrival: &Arrival<'_>) {
        let Arrival { nexus, lun, cdb, data_out, data_in, attribute } = *arrival;
        let address = lun::decode(&lun);
        let unit = match address {
            Address::Unit(number) => self.by_number(number),
            Address::ReportLuns | Address::Nowhere => None,
        };
        // REPORT LUNS is answered at LUN 0 even when there is nothing else (SPC-4 section 6.33.1).
        let report_luns = address == Address::ReportLuns;
        let lists_luns = report_luns || address == Address::Unit(0);
        let (head, task) = command.arrive(Head {
            nexus,
            unit: unit.unwrap_or(NO_UNIT),
            report_luns,
            cdb: *cdb,
            data_out,
            data_in,
            attribute,
            ticket: None,
        });
        match unit {
            Some(_) => self.dispatch(head, task),
            None => *task = dispatch_without_unit(self, head, lists_luns),
        }
    }

    /// Check a command in the order that SAM-5 section 5.14.1 and SPC-4 section 5.12.1 give, and begin it.
    pub(crate) fn dispatch(&mut self, head: &Head, task: &mut Task) {
        match self.checked(head) {
            Ok(Some(command)) => *task = (command.handler)(self, head).unwrap_or_else(Task::refused),
            Ok(None) => *task = Task::Held,
            Err(refusal) => *task = Task::refused(refusal),
        }
    }

    /// What a command is, if it may begin; none if it has to wait until its unit is known.
    fn checked(&mut self, head: &Head) -> Result<Option<&'static opcode::Command>, Refusal> {
        let found = opcode::find(&head.cdb);
        let unit = self.unit_mut(head.unit).ok_or(Sense::illegal(code::LOGICAL_UNIT_NOT_SUPPORTED))?;
        let needs = found.as_ref().map_or(Needs::Unit, |command| command.needs);
        if needs != Needs::Nothing
            && let Some(attention) = unit.attentions(head.nexus).take()
        {
            return Err(attention.sense().into());
        }
        let command = found?;
        if !command.is_offered(Some(unit)) {
            return Err(Sense::illegal(code::INVALID_OPERATION_CODE).into());
        }
        check_reservations(unit, head, command)?;
        command.check_usage(&head.cdb)?;
        if matches!(needs, Needs::Geometry | Needs::Medium) && unit.is_unknown() && unit.loaded {
            return Ok(None);
        }
        // Where there is no geometry, the reason why the medium is out of reach is the reason for that too.
        if needs == Needs::Medium {
            unit.medium()?;
        } else if needs == Needs::Geometry && unit.geometry().is_none() {
            unit.disk()?;
        }
        Ok(Some(command))
    }
}

fn check_reservations(unit: &LogicalUnit, head: &Head, command: &opcode::Command) -> Result<(), Refusal> {
    const RELEASES: [u8; 2] = [0x17, 0x57];
    let exempt = command.needs == Needs::Nothing || RELEASES.contains(&command.opcode);
    if unit.reserved_by.is_some_and(|holder| holder != head.nexus) && !exempt {
        return Err(Refusal::CONFLICT);
    }
    // A persistent reservation cannot be made while there is one of the old kind, even the asker's own.
    if unit.reserved_by.is_some() && command.opcode == 0x5f {
        return Err(Refusal::CONFLICT);
    }
    match command.access {
        Access::Always => Ok(()),
        access => unit.persistent.check(head.nexus, access),
    }
}

/// A command to a number that no unit has, or to the well-known unit that lists all (SAM-5 section 5.11).
fn dispatch_without_unit(target: &mut Target, head: &Head, lists_luns: bool) -> Task {
    const INQUIRY: u8 = 0x12;
    const REPORT_LUNS: u8 = 0xa0;
    const REQUEST_SENSE: u8 = 0x03;
    const TEST_UNIT_READY: u8 = 0x00;
    let answered = match head.cdb[0] {
        INQUIRY | REQUEST_SENSE => true,
        REPORT_LUNS => lists_luns,
        TEST_UNIT_READY => head.report_luns,
        _ => false,
    };
    let refusal =
        if head.report_luns { code::INVALID_OPERATION_CODE } else { code::LOGICAL_UNIT_NOT_SUPPORTED };
    let mut attempt = || {
        if !answered {
            return Err(Refusal::from(Sense::illegal(refusal)));
        }
        let command = opcode::find(&head.cdb)?;
        command.check_usage(&head.cdb)?;
        (command.handler)(target, head)
    };
    attempt().unwrap_or_else(Task::refused)
}
