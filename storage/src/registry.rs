//! Which targets there are, what is behind their logical units, and who is logged in.

mod sessions;

use crate::Limits;
use crate::control::{ControlError, Exposure};
use crate::reservations::Keeper;
use crate::shared::VolumeIndex;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use sessions::Session;
use storage_iscsi::chap::Access;
use storage_iscsi::{Peer, SessionType};
use storage_scsi::{AccessState, AddError, Identity, Target, UnitId};

/// A target's name: its slot, and in the higher bits how many targets had that slot before. Slots are used again and
/// names are not: commands that outlive their target are never taken for those of the next one.
pub(crate) type TargetIndex = usize;

/// Bits of a name that are the slot.
const SLOT_BITS: u32 = 16;

/// The slot of a target.
fn slot(target: TargetIndex) -> usize {
    target & ((1 << SLOT_BITS) - 1)
}

/// What a command works with.
pub(crate) struct Place<'a> {
    pub(crate) device: &'a mut Target,
    /// The volume behind its unit.
    pub(crate) volume: Option<VolumeIndex>,
    /// The volume behind each unit of the target, by [`UnitId::index`].
    pub(crate) volumes: &'a [Option<VolumeIndex>],
    /// How many connections sessions with the target have.
    pub(crate) connections: usize,
}

/// All targets, exposures and sessions.
pub(crate) struct Registry {
    scsi: storage_scsi::Limits,
    port_group: u16,
    targets: Vec<Option<TargetEntry>>,
    /// The name of each slot's target, or of the last it had.
    names: Vec<TargetIndex>,
    exposures: Vec<ExposureEntry>,
    capacity: usize,
    /// The session of each connection.
    sessions: Vec<Option<Session>>,
    /// Who looks for targets, by connections.
    discoveries: Vec<Option<Peer>>,
    /// What has to be proven to be told of targets, if anything.
    discovery: Option<Rc<Access>>,
    last_tsih: u16,
}

struct TargetEntry {
    iqn: String,
    initiators: Vec<String>,
    /// What they have to prove, if anything.
    access: Option<Rc<Access>>,
    /// An exposure of it waits for the sessions to end, and nobody may log in.
    is_leaving: bool,
    /// How many connections its sessions have.
    connections: usize,
    device: Target,
    /// The volume behind each unit, by [`UnitId::index`].
    volumes: Vec<Option<VolumeIndex>>,
}

/// One exposure and where it is.
pub(crate) struct ExposureEntry {
    pub(crate) exposure: Exposure,
    pub(crate) target: TargetIndex,
    pub(crate) unit: UnitId,
    pub(crate) volume: VolumeIndex,
    /// It is taken away with the last session of its target.
    is_leaving: bool,
}

/// Why a login is refused.
pub(crate) enum Refused {
    NoTarget,
    NotAllowed,
    Leaving,
    Full,
}

impl Registry {
    pub(crate) fn new(limits: &Limits) -> Self {
        assert!(limits.volumes <= 1 << SLOT_BITS, "a target's name has room for its slot");
        Self {
            scsi: limits.scsi,
            port_group: limits.port_group,
            targets: (0..limits.volumes).map(|_| None).collect(),
            names: (0..limits.volumes).collect(),
            exposures: Vec::with_capacity(limits.volumes),
            capacity: limits.volumes,
            sessions: (0..limits.connections).map(|_| None).collect(),
            discoveries: (0..limits.connections).map(|_| None).collect(),
            last_tsih: 0,
            discovery: None,
        }
    }

    /// Have initiators prove who they are before they are told of targets.
    pub(crate) fn guard_discovery(&mut self, access: Access) {
        self.discovery = Some(Rc::new(access));
    }

    /// Whether a secret would serve both ways if these accounts were there as well.
    pub(crate) fn clashes_with(&self, access: &Access) -> bool {
        let exposed = self.exposures.iter().filter_map(|entry| entry.exposure.chap.as_ref());
        exposed.chain(self.discovery.as_deref()).any(|there| there.clashes_with(access))
    }

    /// What a login has to prove, if it may be at all.
    pub(crate) fn access(&self, peer: &Peer) -> Result<Option<&Rc<Access>>, Refused> {
        if peer.session_type == SessionType::Discovery {
            return Ok(self.discovery.as_ref());
        }
        let target = self.admissible(peer)?;
        Ok(self.targets[slot(target)].as_ref().and_then(|entry| entry.access.as_ref()))
    }

    pub(crate) fn exposures(&self) -> &[ExposureEntry] {
        &self.exposures
    }

    pub(crate) fn device_mut(&mut self, target: TargetIndex) -> Option<&mut Target> {
        self.entry_mut(target).map(|entry| &mut entry.device)
    }

    /// A target's iSCSI name.
    fn name(&self, target: TargetIndex) -> Option<&str> {
        let entry = self.targets.get(slot(target))?.as_ref();
        entry.filter(|_| self.names[slot(target)] == target).map(|entry| entry.iqn.as_str())
    }

    fn entry_mut(&mut self, target: TargetIndex) -> Option<&mut TargetEntry> {
        let entry = self.targets.get_mut(slot(target))?.as_mut();
        entry.filter(|_| self.names[slot(target)] == target)
    }

    /// The device, and the volume behind one of its units.
    pub(crate) fn place(&mut self, target: TargetIndex, unit: UnitId) -> Option<Place<'_>> {
        let TargetEntry { device, volumes, connections, .. } = self.entry_mut(target)?;
        // The place of a unit that is gone may be another's by now.
        let volume = volumes.get(unit.index()).copied().flatten().filter(|_| device.unit(unit).is_some());
        Some(Place { device, volume, volumes, connections: *connections })
    }

    /// The volume behind a unit.
    pub(crate) fn volume(&mut self, target: TargetIndex, unit: UnitId) -> Option<VolumeIndex> {
        self.place(target, unit)?.volume
    }

    /// Whether a volume is behind a unit.
    pub(crate) fn is_behind(&self, volume: VolumeIndex, target: TargetIndex, unit: UnitId) -> bool {
        let mut exposures = self.exposures.iter().filter(|entry| entry.volume == volume);
        exposures.any(|entry| entry.target == target && entry.unit == unit)
    }

    /// Each unit that a volume is behind.
    pub(crate) fn for_each_unit(&mut self, volume: VolumeIndex, mut f: impl FnMut(&mut Target, UnitId)) {
        for entry in self.exposures.iter().filter(|entry| entry.volume == volume) {
            if let Some(target) = self.targets[slot(entry.target)].as_mut() {
                f(&mut target.device, entry.unit);
            }
        }
    }

    /// Add an exposure, for which `volume` was chosen; answers its target.
    pub(crate) fn add(
        &mut self,
        exposure: Exposure,
        volume: VolumeIndex,
        keeper: &Keeper,
    ) -> Result<TargetIndex, ControlError> {
        if self.exposures.len() == self.capacity {
            return Err(ControlError::Full);
        }
        if self.exposures.iter().any(|entry| entry.exposure.id == exposure.id) {
            return Err(ControlError::Conflict(format!("the id {} is in use", exposure.id)));
        }
        let target = self.target_for(&exposure)?;
        let identity = Identity::new(crate::control::uuid(&exposure));
        let keeps = keeper.is_there();
        let Exposure { removable, read_only, access, .. } = exposure;
        let traits =
            storage_scsi::Traits { removable, read_only, access, keeps, ..storage_scsi::Traits::default() };
        let Some(entry) = self.entry_mut(target) else { return Err(ControlError::Full) };
        let unit = match entry.device.add_unit(exposure.lun, identity, traits) {
            Ok(unit) => unit,
            Err(error) => {
                self.drop_if_empty(target);
                return Err(match error {
                    AddError::Number => ControlError::Invalid { field: "lun", reason: error.to_string() },
                    AddError::Taken => ControlError::Conflict(format!("{}: {error}", exposure.iqn)),
                    AddError::Full => ControlError::Full,
                });
            }
        };
        if let Err(error) = keeper.restore(&mut entry.device, unit) {
            entry.device.remove_unit(unit);
            self.drop_if_empty(target);
            return Err(error);
        }
        entry.volumes[unit.index()] = Some(volume);
        self.exposures.push(ExposureEntry { exposure, target, unit, volume, is_leaving: false });
        Ok(target)
    }

    /// Change how initiators should use an exposure.
    pub(crate) fn set_access(&mut self, id: &str, access: AccessState) {
        let Some(entry) = self.exposures.iter_mut().find(|entry| entry.exposure.id == id) else { return };
        entry.exposure.access = access;
        let (target, unit) = (entry.target, entry.unit);
        if let Some(unit) = self.device_mut(target).and_then(|device| device.unit_mut(unit)) {
            unit.set_access(access);
        }
    }

    /// How initiators are told to use an exposure.
    #[cfg(test)]
    pub(crate) fn access_state(&mut self, id: &str) -> Option<AccessState> {
        let entry = self.exposures.iter().find(|entry| entry.exposure.id == id)?;
        let (target, unit) = (entry.target, entry.unit);
        self.device_mut(target)?.unit(unit).map(storage_scsi::LogicalUnit::access)
    }

    /// The target of that name, made if it is not there.
    fn target_for(&mut self, exposure: &Exposure) -> Result<TargetIndex, ControlError> {
        let named =
            |entry: &Option<TargetEntry>| entry.as_ref().is_some_and(|entry| entry.iqn == exposure.iqn);
        if let Some(slot) = self.targets.iter().position(named) {
            // Who may log in, and by what, is a property of the target, not of a unit.
            let is_same = self.targets[slot].as_ref().is_some_and(|entry| {
                entry.initiators == exposure.initiators && entry.access.as_deref() == exposure.chap.as_ref()
            });
            if !is_same {
                let reason =
                    format!("{} is exposed to other initiators or with other accounts", exposure.iqn);
                return Err(ControlError::Conflict(reason));
            }
            return Ok(self.names[slot]);
        }
        let slot = self.targets.iter().position(Option::is_none).ok_or(ControlError::Full)?;
        self.names[slot] += 1 << SLOT_BITS;
        let mut device = Target::new(&exposure.iqn, self.scsi);
        device.set_port_group(self.port_group);
        self.targets[slot] = Some(TargetEntry {
            iqn: exposure.iqn.clone(),
            initiators: exposure.initiators.clone(),
            access: exposure.chap.clone().map(Rc::new),
            is_leaving: false,
            connections: 0,
            device,
            volumes: (0..self.scsi.units).map(|_| None).collect(),
        });
        Ok(self.names[slot])
    }

    /// Take an exposure away; answers the volume that is free now.
    pub(crate) fn remove(&mut self, id: &str) -> Result<VolumeIndex, ControlError> {
        let place = self.find(id)?;
        if self.sessions_of(self.exposures[place].target) > 0 {
            return Err(ControlError::InUse);
        }
        Ok(self.remove_at(place))
    }

    fn find(&self, id: &str) -> Result<usize, ControlError> {
        self.exposures.iter().position(|entry| entry.exposure.id == id).ok_or(ControlError::NotFound)
    }

    /// Take an exposure away with the last session of its target, which nobody may log in to until then; answers the target.
    pub(crate) fn remove_later(&mut self, id: &str) -> Result<TargetIndex, ControlError> {
        let place = self.find(id)?;
        let entry = &mut self.exposures[place];
        entry.is_leaving = true;
        let target = entry.target;
        if let Some(entry) = self.entry_mut(target) {
            entry.is_leaving = true;
        }
        Ok(target)
    }

    /// Take away an exposure that waited for the sessions of its target to end, if there is one.
    pub(crate) fn remove_left(&mut self) -> Option<VolumeIndex> {
        let left = |entry: &ExposureEntry| entry.is_leaving && self.sessions_of(entry.target) == 0;
        let place = self.exposures.iter().position(left)?;
        Some(self.remove_at(place))
    }

    fn remove_at(&mut self, place: usize) -> VolumeIndex {
        let ExposureEntry { target, unit, volume, .. } = self.exposures.remove(place);
        let others_leave = self.exposures.iter().any(|entry| entry.target == target && entry.is_leaving);
        if let Some(entry) = self.entry_mut(target) {
            entry.device.remove_unit(unit);
            entry.volumes[unit.index()] = None;
            entry.is_leaving = others_leave;
        }
        self.drop_if_empty(target);
        volume
    }

    fn drop_if_empty(&mut self, target: TargetIndex) {
        if !self.exposures.iter().any(|entry| entry.target == target) {
            self.targets[slot(target)] = None;
        }
    }

    /// Names of the targets that an initiator may see.
    pub(crate) fn visible<'a>(&'a self, initiator: &'a str) -> impl Iterator<Item = &'a str> {
        let targets = self.targets.iter().flatten();
        targets.filter(move |entry| entry.allows(initiator)).map(|entry| entry.iqn.as_str())
    }

    /// The target a login asks for, if it may have it.
    pub(crate) fn admissible(&self, peer: &Peer) -> Result<TargetIndex, Refused> {
        let wanted = peer.target.as_str();
        // Both are in lower case: the engine folds names, and exposures are made with folded ones.
        let named = |entry: &Option<TargetEntry>| entry.as_ref().is_some_and(|entry| entry.iqn == wanted);
        let slot = self.targets.iter().position(named).ok_or(Refused::NoTarget)?;
        let entry = self.targets[slot].as_ref().ok_or(Refused::NoTarget)?;
        if !entry.allows(peer.initiator.as_str()) {
            return Err(Refused::NotAllowed);
        }
        if entry.is_leaving { Err(Refused::Leaving) } else { Ok(self.names[slot]) }
    }
}

impl TargetEntry {
    fn allows(&self, initiator: &str) -> bool {
        self.initiators.iter().any(|allowed| allowed == "*" || allowed == initiator)
    }
}
