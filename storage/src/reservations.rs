//! Persistent reservations through a restart: what units want kept goes to the appliance's own disk, under the UUID that
//! initiators know the disk by, and from there to the unit when the same disk is exposed again.

use crate::control::ControlError;
use crate::mailbox::CommandIndex;
use crate::registry::TargetIndex;
use crate::shared::Shared;
use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use core::cell::{Cell, OnceCell, RefCell};
use kernel_runtime::Signal;
use state::{Change, Records};
use storage_scsi::{Target, UnitId};

/// The name of this owner among the records.
const OWNER: &[u8; 13] = b"reservations/";

/// What keeps reservations, if there is a disk for it.
#[derive(Default)]
pub(crate) struct Keeper {
    records: OnceCell<Records>,
    /// Units whose change is to be durable before it happens, each once.
    waiting: RefCell<VecDeque<(TargetIndex, UnitId)>>,
    signal: Signal,
    /// The disk whose reservations are being written.
    writing: Cell<Option<[u8; 16]>>,
}

impl Keeper {
    pub(crate) fn set_records(&self, records: Records) {
        // Only the first are: nobody gives others.
        let _ = self.records.set(records);
    }

    /// Whether there is a disk for it.
    pub(crate) fn is_there(&self) -> bool {
        self.records.get().is_some()
    }

    /// A unit wants its change kept.
    pub(crate) fn keep(&self, target: TargetIndex, unit: UnitId) {
        self.waiting.borrow_mut().push_back((target, unit));
        self.signal.raise();
    }

    /// Give a new unit the reservations that were kept of its disk.
    pub(crate) fn restore(&self, device: &mut Target, unit: UnitId) -> Result<(), ControlError> {
        let Some(records) = self.records.get() else { return Ok(()) };
        let Some(uuid) = device.unit(unit).map(|unit| unit.identity().uuid()) else { return Ok(()) };
        if self.writing.get() == Some(uuid) {
            let reason = "a change of its reservations is still being written".to_string();
            return Err(ControlError::Conflict(reason));
        }
        let Some(bytes) = records.get(&key(uuid)) else { return Ok(()) };
        // Without them it would let in whom they keep out.
        device.restore(unit, &bytes).map_err(|error| ControlError::Conflict(format!("reservations: {error}")))
    }
}

fn key(uuid: [u8; 16]) -> [u8; OWNER.len() + 16] {
    let mut key = [0; OWNER.len() + 16];
    key[..OWNER.len()].copy_from_slice(OWNER);
    key[OWNER.len()..].copy_from_slice(&uuid);
    key
}

/// Keep what units want kept, one change after the other, for ever.
pub(crate) async fn run(shared: Rc<Shared>, records: Records) {
    let keeper = &shared.keeper;
    loop {
        let next = keeper.waiting.borrow_mut().pop_front();
        let Some((target, unit)) = next else {
            keeper.signal.wait().await;
            continue;
        };
        let found = shared.state.borrow_mut().registry.device_mut(target).and_then(|device| {
            let uuid = device.unit(unit)?.identity().uuid();
            Some((uuid, device.to_keep(unit)?))
        });
        // The unit may be gone.
        let Some((uuid, bytes)) = found else { continue };
        let key = key(uuid);
        let change = if bytes.is_empty() { Change::Delete(&key) } else { Change::Put(&key, &bytes) };
        keeper.writing.set(Some(uuid));
        let result = records.keep(&[change]).await;
        keeper.writing.set(None);
        if let Err(error) = result {
            log::warn!("a change of reservations is refused: {error}");
        }
        let state = &mut *shared.state.borrow_mut();
        if let Some(device) = state.registry.device_mut(target) {
            let orphans = device.kept(unit, result.is_ok());
            // None of the commands there are asked for it.
            orphans.for_each(|nexus| shared.abort_of(state, target, unit, nexus, CommandIndex::MAX));
            shared.wake_blocked(state, target, unit);
        }
    }
}
