//! A logical unit: one disk as initiators see it.

use crate::attention::{Attention, Attentions};
use crate::cache::Cache;
use crate::copy::tokens::{Extent, Tokens};
use crate::identity::Identity;
use crate::mode::Modes;
use crate::nexus::{Nexus, NexusSet};
use crate::ordering::TaskSet;
use crate::persistent::Persistent;
use crate::ports::AccessState;
use crate::sense::{Refusal, Sense, SenseKey, code};
use crate::target::Limits;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use storage_block::Geometry;

/// The name of a logical unit inside its target, never given to another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UnitId {
    pub(crate) slot: u16,
    pub(crate) generation: u32,
}

impl UnitId {
    /// Its place in a table of [`Limits::units`] entries. Places are used again, ids are not.
    pub fn index(self) -> usize {
        usize::from(self.slot)
    }
}

/// What is decided about a disk by who exposes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traits {
    /// The medium can be taken out (START STOP UNIT with LOEJ).
    pub removable: bool,
    /// Refuse writes, whatever the backend allows.
    pub read_only: bool,
    /// What is said when there is no space left behind a thin disk.
    pub no_space: NoSpace,
    /// Reservations can be kept through a loss of power: [`crate::Carrier::keep`] is heard.
    pub keeps: bool,
    /// How it can be used by this port, to begin with.
    pub access: AccessState,
}

/// Whether space can come, when there is none left behind a thin disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NoSpace {
    /// Somebody will make room: NOT READY, space allocation in progress (02h/04h/14h), at which initiators try again for
    /// a while.
    #[default]
    Temporary,
    /// Never: DATA PROTECT, space allocation failed write protect (07h/27h/07h), at which Windows takes the disk offline.
    Final,
}

/// Whether the way to the bytes is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Requests are being served.
    Ready,
    /// Soon. Commands go on if the geometry is known, their requests wait below; else they are held here.
    Connecting,
    /// For long: NOT READY, becoming ready (02h/04h/01h).
    BecomingReady,
    /// Until somebody acts: NOT READY, manual intervention required (02h/04h/03h). Requests are not served and none are
    /// lost by that: see [`LogicalUnit::replaced`] for a disk that is not the same any more.
    Down,
}

/// Why a [`Geometry`] is not one of a disk that can be exposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// The block size is no power of two between 512 and 65536.
    BlockSize,
    /// There is not one whole block, or there are more than READ CAPACITY can tell.
    Size,
    /// The preferred block is no power of two, or smaller than a block.
    PreferredBlock,
    /// The largest transfer is smaller than a block.
    MaxTransfer,
    /// It is smaller than the disk that initiators know.
    Shrunk,
    /// It has another block size than the disk that initiators know.
    OtherBlockSize,
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BlockSize => "the block size is no power of two between 512 and 65536",
            Self::Size => "the disk has no block, or too many",
            Self::PreferredBlock => "the preferred block is no power of two, or smaller than a block",
            Self::MaxTransfer => "the largest transfer is smaller than a block",
            Self::Shrunk => "the disk has shrunk",
            Self::OtherBlockSize => "the disk has another block size",
        })
    }
}

/// One logical unit.
#[derive(Debug)]
pub struct LogicalUnit {
    pub(crate) number: u16,
    pub(crate) identity: Identity,
    pub(crate) traits: Traits,
    geometry: Option<Geometry>,
    /// That of the disk which was there before the operator accepted another, until the other's is known.
    former: Option<Geometry>,
    readiness: Readiness,
    /// How often another disk was found behind it.
    replacements: u32,
    /// The last of them waits for the operator.
    is_replaced: bool,
    pub(crate) modes: Modes,
    pub(crate) cache: Cache,
    pub(crate) tasks: TaskSet,
    attentions: Vec<Attentions>,
    /// The medium is in; false after an eject.
    pub(crate) loaded: bool,
    /// Which nexuses prevent the removal of the medium.
    prevents: NexusSet,
    /// The nexus that holds an SPC-2 reservation (RESERVE).
    pub(crate) reserved_by: Option<Nexus>,
    pub(crate) persistent: Persistent,
    pub(crate) tokens: Tokens,
    /// How it can be used by this port, and how that came.
    pub(crate) access: AccessState,
    pub(crate) access_status: u8,
}

impl LogicalUnit {
    pub(crate) fn new(number: u16, identity: Identity, traits: Traits, limits: &Limits) -> Self {
        let nexuses = usize::from(limits.nexuses);
        Self {
            number,
            identity,
            traits,
            geometry: None,
            former: None,
            readiness: Readiness::Connecting,
            replacements: 0,
            is_replaced: false,
            modes: Modes::default(),
            cache: Cache::new(nexuses),
            tasks: TaskSet::new(limits.commands),
            attentions: vec![Attentions::default(); nexuses],
            loaded: true,
            prevents: NexusSet::default(),
            reserved_by: None,
            persistent: Persistent::new(nexuses),
            tokens: Tokens::new(),
            access: traits.access,
            access_status: 0,
        }
    }

    /// Its logical unit number.
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Its names.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The shape of the disk, once known.
    pub fn geometry(&self) -> Option<&Geometry> {
        self.geometry.as_ref()
    }

    /// Whether the way to the bytes is open.
    pub fn readiness(&self) -> Readiness {
        self.readiness
    }

    /// The way to the bytes has opened or closed. Commands in flight are not touched; step those that are held.
    pub fn set_readiness(&mut self, readiness: Readiness) {
        self.readiness = readiness;
    }

    /// The disk has this shape, for the first time or from now on. Every nexus is told of a difference: of another
    /// size by CAPACITY DATA HAS CHANGED, of a change between writable and read-only by MODE PARAMETERS CHANGED, of other
    /// features by INQUIRY DATA HAS CHANGED. A disk never becomes smaller and never has other blocks than before: an
    /// initiator would not notice, and what it writes would be elsewhere or nowhere.
    ///
    /// # Errors
    /// When no disk can have that shape, or not this one; the old one stays.
    pub fn set_geometry(&mut self, geometry: Geometry) -> Result<(), GeometryError> {
        check(&geometry)?;
        if let Some(old) = &self.geometry {
            if geometry.block_size != old.block_size {
                return Err(GeometryError::OtherBlockSize);
            }
            if geometry.size < old.size {
                return Err(GeometryError::Shrunk);
            }
        }
        let former = self.former.take();
        if let Some(old) = self.geometry.replace(geometry).or(former) {
            if (old.size, old.block_size) != (geometry.size, geometry.block_size) {
                self.raise_all(Attention::CapacityChanged, None);
            }
            if old.read_only != geometry.read_only {
                self.raise_all(Attention::ModeParametersChanged, None);
            }
            let told = |g: &Geometry| {
                (g.preferred_block, g.max_transfer, g.flush, g.trim, g.write_zeroes, g.cache, g.rotational)
            };
            if told(&old) != told(&geometry) {
                self.raise_all(Attention::InquiryDataChanged, None);
            }
        }
        Ok(())
    }

    /// Another disk is behind the same name: not one byte of it is the initiators'. Until the operator has acted every
    /// command on the medium ends with NOT READY, manual intervention required (02h/04h/03h), those that are under way as
    /// soon as nothing of them is in flight, and acknowledged writes that were not flushed count as lost. There is no
    /// unit attention for it yet (INQUIRY DATA HAS CHANGED and REPORTED LUNS DATA HAS CHANGED are of other things, which
    /// have not changed): a unit that is not ready tells each command.
    ///
    /// Either [`crate::Target::remove_unit`] ends it or [`LogicalUnit::accept_replacement`]. If the disk that belongs
    /// here comes back instead, that is accepted in the same way.
    pub fn replaced(&mut self) {
        self.backend_lost(self.is_dirty());
        self.is_replaced = true;
        self.tokens.revoke_all();
        self.replacements = self.replacements.wrapping_add(1);
    }

    /// Whether another disk is behind it, which nobody has accepted.
    pub fn is_replaced(&self) -> bool {
        self.is_replaced
    }

    /// The operator means the other disk to be here. Every nexus is told by NOT READY TO READY CHANGE, MEDIUM MAY HAVE
    /// CHANGED (28h/00h). The new disk's shape is to be told by [`LogicalUnit::set_geometry`]; it may be any.
    pub fn accept_replacement(&mut self) {
        if core::mem::take(&mut self.is_replaced) {
            self.former = self.geometry.take().or(self.former);
            self.raise_all(Attention::MediumMayHaveChanged, None);
        }
    }

    /// A number that differs for every disk that is or was behind it.
    pub(crate) fn incarnation(&self) -> u32 {
        self.replacements
    }

    /// The connection to the storage service was lost. With `unflushed` acknowledged writes (see
    /// [`LogicalUnit::is_dirty`]) are gone with it for good, because nobody has kept them or the disk is another: from now
    /// on flushes fail, as told at [`crate`]. Call it before the completions of the lost requests are handed over.
    pub fn backend_lost(&mut self, unflushed: bool) {
        if unflushed {
            self.lose();
        }
    }

    /// Acknowledged writes may be gone, and with them what tokens are of.
    pub(crate) fn lose(&mut self) {
        self.tokens.revoke_all();
        self.cache.lose();
    }

    /// A command has asked for a change of these bytes: no token is of what stood there any more.
    #[inline]
    pub(crate) fn changes(&mut self, start: u64, length: u64) {
        if self.tokens.any() {
            self.tokens.changes(Extent { start, length });
        }
    }

    /// A write was acknowledged below. Without a flush to ask for it counts as durable.
    pub(crate) fn wrote(&mut self) {
        if self.geometry.is_some_and(|geometry| geometry.flush) {
            self.cache.wrote();
        }
    }

    /// Whether writes were acknowledged that no flush has made durable yet.
    pub fn is_dirty(&self) -> bool {
        self.cache.is_dirty()
    }

    /// Whether acknowledged writes may have been lost and that was not settled yet.
    pub fn has_loss(&self) -> bool {
        self.cache.has_loss()
    }

    /// The operator knows of the lost writes and has dealt with them: flushes may succeed again.
    pub fn accept_loss(&mut self) {
        self.cache.accept_loss();
    }

    /// Whether commands aborted on behalf of another nexus end with TASK ABORTED (the TAS bit) or silently.
    pub fn task_aborted_status(&self) -> bool {
        self.modes.task_aborted_status
    }

    /// Raise a unit attention condition for one nexus.
    pub fn raise(&mut self, nexus: Nexus, attention: Attention) {
        if let Some(queue) = self.attentions.get_mut(nexus.index()) {
            queue.raise(attention);
        }
    }

    /// Raise a unit attention condition for all nexuses but one.
    pub(crate) fn raise_all(&mut self, attention: Attention, except: Option<Nexus>) {
        for (index, queue) in self.attentions.iter_mut().enumerate() {
            if except.is_none_or(|nexus| nexus.index() != index) {
                queue.raise(attention);
            }
        }
    }

    pub(crate) fn attentions(&mut self, nexus: Nexus) -> &mut Attentions {
        // A nexus is only made by the target whose tables have its place.
        &mut self.attentions[nexus.index()]
    }

    /// The unit attention that a nexus would be told next, and how many it has.
    pub(crate) fn pending(&self, nexus: Nexus) -> Option<(Attention, u32)> {
        let queue = self.attentions.get(nexus.index())?;
        queue.next().map(|next| (next, queue.count()))
    }

    /// Whether blocks can be given back: UNMAP is offered.
    pub(crate) fn is_thin(&self) -> bool {
        self.geometry.is_some_and(|geometry| geometry.trim || geometry.write_zeroes)
    }

    /// Whether a write would be refused.
    pub(crate) fn is_write_protected(&self) -> bool {
        self.traits.read_only
            || self.modes.software_write_protect
            || self.geometry.is_some_and(|geometry| geometry.read_only)
    }

    /// Whether a write is only acknowledged when it is durable, by WCE=0.
    pub(crate) fn writes_through(&self) -> bool {
        self.modes.write_cache_disabled
    }

    /// The geometry for a command that reads or changes the medium, or why it cannot.
    pub(crate) fn medium(&self) -> Result<&Geometry, Refusal> {
        if self.access == AccessState::Standby {
            return Err(Sense::new(SenseKey::NotReady, code::TARGET_PORT_IN_STANDBY_STATE).into());
        }
        self.disk()
    }

    /// The geometry for a command that only tells of it, or why it cannot: initiators want to know the size of a disk
    /// behind any path to it.
    pub(crate) fn disk(&self) -> Result<&Geometry, Refusal> {
        if !self.loaded {
            return Err(Sense::new(SenseKey::NotReady, code::MEDIUM_NOT_PRESENT).into());
        }
        match self.readiness {
            _ if self.is_replaced => {
                Err(Sense::new(SenseKey::NotReady, code::MANUAL_INTERVENTION_REQUIRED).into())
            }
            Readiness::BecomingReady => Err(Sense::new(SenseKey::NotReady, code::BECOMING_READY).into()),
            Readiness::Down => Err(Sense::new(SenseKey::NotReady, code::MANUAL_INTERVENTION_REQUIRED).into()),
            Readiness::Ready | Readiness::Connecting => self.geometry.as_ref().ok_or(Refusal::BUSY),
        }
    }

    /// Whether a command that needs the geometry has to wait for it.
    pub(crate) fn is_unknown(&self) -> bool {
        self.geometry.is_none()
            && !self.is_replaced
            && matches!(self.readiness, Readiness::Ready | Readiness::Connecting)
    }

    pub(crate) fn set_prevent(&mut self, nexus: Nexus, prevent: bool) {
        if prevent {
            self.prevents.add(nexus);
        } else {
            self.prevents.remove(nexus);
        }
    }

    /// Whether any nexus prevents the removal of the medium.
    pub(crate) fn is_removal_prevented(&self) -> bool {
        !self.prevents.is_empty()
    }

    /// What is lost with a nexus: its SPC-2 reservation and its lock of the medium. Registrations stay.
    pub(crate) fn nexus_lost(&mut self, nexus: Nexus) {
        let prevented = self.prevents.contains(nexus);
        let reserved = self.reserved_by == Some(nexus);
        self.set_prevent(nexus, false);
        if reserved {
            self.reserved_by = None;
        }
        // Only if something is different for it: unit attentions for nothing have caused errors in the field.
        if prevented || reserved {
            self.raise(nexus, Attention::NexusLoss);
        }
    }

    /// A place in the table of nexuses was given to a port that was never seen before.
    pub(crate) fn nexus_new(&mut self, nexus: Nexus) {
        self.cache.forget(nexus);
        if let Some(queue) = self.attentions.get_mut(nexus.index()) {
            *queue = Attentions::default();
            queue.raise(Attention::PowerOn);
        }
    }

    /// Logical unit reset (SAM-5 section 6.3.3): everything but persistent reservations is as at the start. Commands
    /// are the caller's to abort.
    pub(crate) fn reset(&mut self) {
        self.reserved_by = None;
        self.prevents = NexusSet::default();
        self.modes = Modes::default();
        self.cache.reset();
        self.raise_all(Attention::Reset, None);
    }
}

fn check(geometry: &Geometry) -> Result<(), GeometryError> {
    let block = geometry.block_size;
    if !block.is_power_of_two() || !(512..=65536).contains(&block) {
        return Err(GeometryError::BlockSize);
    }
    if geometry.blocks() == 0 || geometry.size > i64::MAX as u64 {
        return Err(GeometryError::Size);
    }
    if !geometry.preferred_block.is_power_of_two() || geometry.preferred_block < block {
        return Err(GeometryError::PreferredBlock);
    }
    if geometry.max_transfer < block {
        return Err(GeometryError::MaxTransfer);
    }
    Ok(())
}
