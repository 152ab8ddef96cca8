//! What is exposed to whom: the part of storage that management drives.

use crate::mailbox::Notice;
use crate::shared::Shared;
use crate::volume::{Assignment, Volume};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::net::SocketAddrV4;
use core::time::Duration;
use storage_driver::{Rate, Status};
use storage_iscsi::Name;
use storage_iscsi::chap::Access;
use storage_nbd::Uri;
use storage_scsi::AccessState;

/// The largest logical unit number an exposure can have: beyond it lies another LUN format.
const MAX_LUN: u16 = 255;
/// Addresses that may lead to one disk.
const MAX_PORTALS: usize = 8;
/// The bounds of how long commands are held: shorter ones would tell initiators of each hiccup, longer ones run into the
/// time-outs of all of them.
const MIN_HOLD: Duration = Duration::from_secs(1);
const MAX_HOLD: Duration = Duration::from_secs(170);
/// Seconds' worth that an idle disk may save up.
const MAX_BURST: u32 = 60;
/// Initiators one exposure can name.
const MAX_INITIATORS: usize = 64;

/// Why `nbds://` is refused: never is clear text spoken instead.
const NO_TLS: &str = "nbds:// needs TLS, and this appliance was not told whom to believe (tls.anchors)";

/// Exposes disks and withdraws them. Clones drive the same storage.
#[derive(Clone)]
pub struct Control(pub(crate) Rc<Shared>);

impl Control {
    /// Expose a disk. It can be logged in to at once; commands that need the disk wait until the storage service
    /// has answered. The same again changes nothing, but [`Exposure::access`] if that is another.
    ///
    /// # Errors
    /// When a field does not hold what it must, something else has the id or the logical unit, or all is taken.
    pub fn expose(&self, exposure: Exposure) -> Result<Exposed, ControlError> {
        if self.0.is_draining.get() {
            return Err(ControlError::Conflict("the appliance is being switched off".to_string()));
        }
        let (exposure, uri) = check(exposure)?;
        if uri.tls && self.0.tls.is_none() {
            return Err(ControlError::Invalid { field: "volume", reason: NO_TLS.to_string() });
        }
        if let Some(access) = &exposure.chap {
            self.check_access(access)?;
        }
        if let Some(there) = self.get(&exposure.id) {
            if (Exposure { access: exposure.access, ..there.exposure }) != exposure {
                return Err(ControlError::Conflict(format!(
                    "{} is there already, and different",
                    exposure.id
                )));
            }
            self.0.state.borrow_mut().registry.set_access(&exposure.id, exposure.access);
            return self.get(&exposure.id).ok_or(ControlError::NotFound);
        }
        let id = exposure.id.clone();
        let shared = &self.0;
        let volume = shared.volumes.iter().position(|volume| volume.is_free()).ok_or(ControlError::Full)?;
        let policy = exposure.policy.clone();
        let generation = (!exposure.read_only).then_some(policy.generation);
        let mut portals = alloc::vec![SocketAddrV4::new(uri.host, uri.port)];
        portals.extend(policy.portals);
        // Two journals of one disk would undo each other's writes.
        let writes = generation.is_some();
        if shared.volumes.iter().any(|other| other.conflicts(&portals, &uri.export, writes)) {
            let reason = format!("{} is exposed already, or is still being withdrawn", exposure.volume);
            return Err(ControlError::Conflict(reason));
        }
        {
            let state = &mut *shared.state.borrow_mut();
            let target = state.registry.add(exposure, volume, &shared.keeper)?;
            shared.notify(state, |session| session.0 == target, Notice::LunsChanged);
        }
        let assignment = Assignment {
            portals,
            tls: uri.tls,
            server_name: uri.tls_hostname().map(ToString::to_string),
            export: uri.export,
            share: shared.pool.share(shared.limits.share),
            lists: shared.lists(),
            generation,
            portals_fence: policy.portals_fence,
            rate: policy.rate,
            assume_durable: policy.assume_durable,
            hold: policy.hold.unwrap_or(shared.limits.hold),
            fail_after: policy.fail_after,
        };
        if let Err(reason) = shared.volumes[volume].assign(shared, assignment) {
            let _ = shared.state.borrow_mut().registry.remove(&id);
            return Err(ControlError::Invalid { field: "volume", reason });
        }
        self.get(&id).ok_or(ControlError::NotFound)
    }

    /// Have initiators prove who they are before they are told of targets.
    ///
    /// # Errors
    /// When they cannot be asked, or the accounts are not safe beside those of the targets.
    pub fn guard_discovery(&self, access: Access) -> Result<(), ControlError> {
        self.check_access(&access)?;
        self.0.state.borrow_mut().registry.guard_discovery(access);
        Ok(())
    }

    fn check_access(&self, access: &Access) -> Result<(), ControlError> {
        let invalid = |reason: &str| Err(ControlError::Invalid { field: "chap", reason: reason.to_string() });
        if self.0.challenger.get().is_none() {
            return invalid("there is no randomness here to make challenges of");
        }
        if access.initiators().any(|name| Name::new(name).is_err()) {
            return invalid("an initiator is no iSCSI name");
        }
        if self.0.state.borrow().registry.clashes_with(access) {
            return invalid("a secret of an initiator is also one of a target");
        }
        Ok(())
    }

    /// Withdraw an exposure.
    ///
    /// # Errors
    /// When there is none of that id, or a session is logged in to its target.
    pub fn withdraw(&self, id: &str) -> Result<(), ControlError> {
        let volume = self.0.state.borrow_mut().registry.remove(id)?;
        self.0.volumes[volume].withdraw(self.0.clock.now());
        Ok(())
    }

    /// Withdraw an exposure although sessions are logged in to its target: their initiators are asked to log out within so
    /// long a time, sessions that are left then end (RFC 7143 section 11.9), and with the last of them the exposure goes.
    /// Until then nobody can log in to the target. Without a session the exposure goes at once.
    ///
    /// # Errors
    /// When there is none of that id.
    pub fn withdraw_within(&self, id: &str, within: Duration) -> Result<(), ControlError> {
        match self.withdraw(id) {
            Err(ControlError::InUse) => {}
            done => return done,
        }
        let state = &mut *self.0.state.borrow_mut();
        let target = state.registry.remove_later(id)?;
        self.0.dismiss(state, target, within);
        Ok(())
    }

    /// The appliance is about to end: nobody can log in any more, and everything is withdrawn as by
    /// [`Self::withdraw_within`]. When all has gone is for [`Self::is_drained`] to say.
    pub fn drain(&self, within: Duration) {
        self.0.is_draining.set(true);
        for exposed in self.list() {
            // What is there can be withdrawn.
            let _ = self.withdraw_within(&exposed.exposure.id, within);
        }
    }

    /// Whether nobody is logged in and every disk was left: what was acknowledged is durable, unless its service is away
    /// for longer than a farewell may take.
    pub fn is_drained(&self) -> bool {
        self.0.volumes.iter().all(Volume::is_free)
    }

    /// All exposures, in the order in which they were made.
    pub fn list(&self) -> Vec<Exposed> {
        let state = self.0.state.borrow();
        let exposed = state.registry.exposures().iter().map(|entry| {
            let (volume, size, status) = self.0.volumes[entry.volume].state();
            let sessions = state.registry.sessions_of(entry.target);
            let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
            Exposed { exposure: entry.exposure.clone(), state: volume, size, sessions, status }
        });
        exposed.collect()
    }

    /// One exposure.
    pub fn get(&self, id: &str) -> Option<Exposed> {
        self.list().into_iter().find(|exposed| exposed.exposure.id == id)
    }
}

/// An exposure with its names in their canonical form, and its volume's address.
fn check(mut exposure: Exposure) -> Result<(Exposure, Uri), ControlError> {
    let invalid = |field, reason: String| ControlError::Invalid { field, reason };
    let name = |field, text: &str| {
        let name = Name::new(text).map_err(|_| invalid(field, format!("{text:?} is no iSCSI name")))?;
        Ok(name.as_str().to_string())
    };
    if exposure.id.is_empty() || exposure.id.len() > 63 {
        return Err(invalid("id", "must have 1 to 63 characters".to_string()));
    }
    if exposure.lun > MAX_LUN {
        return Err(invalid("lun", format!("must be at most {MAX_LUN}")));
    }
    exposure.iqn = name("iqn", &exposure.iqn)?;
    if exposure.initiators.is_empty() || exposure.initiators.len() > MAX_INITIATORS {
        return Err(invalid("initiators", format!("must name 1 to {MAX_INITIATORS} (* for any)")));
    }
    for initiator in exposure.initiators.iter_mut().filter(|initiator| *initiator != "*") {
        *initiator = name("initiators", initiator)?;
    }
    let policy = &exposure.policy;
    if policy.portals.len() >= MAX_PORTALS || policy.portals.iter().any(|portal| portal.port() == 0) {
        return Err(invalid("portals", format!("at most {} more, none with port 0", MAX_PORTALS - 1)));
    }
    let holds = MIN_HOLD..=MAX_HOLD;
    if policy.hold.is_some_and(|hold| !holds.contains(&hold)) {
        let (least, most) = (MIN_HOLD.as_secs(), MAX_HOLD.as_secs());
        return Err(invalid("hold", format!("must be {least} to {most} seconds")));
    }
    if policy.rate.burst > MAX_BURST {
        return Err(invalid("burst", format!("must be at most {MAX_BURST} seconds")));
    }
    let uri = Uri::parse(&exposure.volume).map_err(|error| invalid("volume", error.to_string()))?;
    Ok((exposure, uri))
}

/// A logical unit's UUID: of its target's name and its number, so that it is the same after a restart and on another
/// appliance that exposes the same (RFC 9562 section 5.8, a custom hash).
pub(crate) fn uuid(exposure: &Exposure) -> [u8; 16] {
    // FNV-1a over 128 bits.
    let mut hash = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128;
    let number = exposure.lun.to_be_bytes();
    for byte in exposure.iqn.bytes().chain([0]).chain(number) {
        hash = (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
    }
    let mut uuid = hash.to_be_bytes();
    uuid[6] = 0x80 | uuid[6] & 0x0f;
    uuid[8] = 0x80 | uuid[8] & 0x3f;
    uuid
}

/// One disk exposed as one logical unit of one iSCSI target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposure {
    /// The name management knows it by.
    pub id: String,
    /// The iSCSI target's name (RFC 7143 section 4.2.7).
    pub iqn: String,
    /// The logical unit's number under that target.
    pub lun: u16,
    /// Where its bytes are: an NBD URI.
    pub volume: String,
    /// Names of the initiators that may log in; `*` stands for any.
    pub initiators: Vec<String>,
    /// What they have to prove to be let in, and what is proven to them; without it nothing is.
    pub chap: Option<Access>,
    /// Refuse writes.
    pub read_only: bool,
    /// The medium can be taken out and put back by initiators (RMB, START STOP UNIT with LOEJ).
    pub removable: bool,
    /// How initiators should use this way to the disk, where there is another by another appliance. It may change
    /// while the disk is exposed.
    pub access: AccessState,
    /// What holds for the way to its bytes.
    pub policy: Policy,
}

/// What an operator decides about the way to a disk's bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// Addresses beside the volume's own that lead to the same disk, tried in turn when a connection is lost.
    pub portals: Vec<SocketAddrV4>,
    /// A portal that is given its first command makes sure that no other can change the disk any more.
    pub portals_fence: bool,
    /// Counts the appliances that the disk was given to: a storage service that knows generations refuses all but the
    /// highest.
    pub generation: u64,
    /// How much the disk may do.
    pub rate: Rate,
    /// How long commands wait for a lost storage service before they end with BUSY, which every initiator tries again:
    /// less than the initiator's own time-out. `None` for the appliance's default.
    pub hold: Option<Duration>,
    /// After how long without a storage service commands end with NOT READY; `None` for never.
    pub fail_after: Option<Duration>,
    /// What the storage service acknowledges is durable although it offers neither FLUSH nor FUA. Without this such an
    /// export is not written to.
    pub assume_durable: bool,
}

/// An exposure and how it fares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exposed {
    /// What was asked for.
    pub exposure: Exposure,
    /// The state of the way to its bytes.
    pub state: VolumeState,
    /// Bytes on the disk, once known.
    pub size: Option<u64>,
    /// Sessions logged in to its target.
    pub sessions: u32,
    /// How the way to its bytes fares, in figures.
    pub status: Status,
}

/// The state of the way to a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeState {
    /// No connection yet, or again.
    Connecting,
    /// Requests are being served.
    Ready,
    /// The storage service cannot be used as it is; the reason is for people.
    Down(String),
}

/// Why an exposure was not made or not withdrawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlError {
    /// A field does not hold what it must.
    Invalid {
        /// The field's name in [`Exposure`].
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// It contradicts what is there: what, is for people.
    Conflict(String),
    /// There is no exposure of that id.
    NotFound,
    /// All slots are taken.
    Full,
    /// A session is logged in to its target.
    InUse,
}

impl fmt::Display for ControlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid { field, reason } => write!(f, "{field}: {reason}"),
            Self::Conflict(what) => f.write_str(what),
            Self::NotFound => f.write_str("no such target"),
            Self::Full => f.write_str("all target slots are taken"),
            Self::InUse => f.write_str("a session is logged in to the target"),
        }
    }
}
