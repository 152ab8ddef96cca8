//! Storage, as far as an appliance's management can tell: targets that are there for as long as the appliance lives, two of
//! them from its beginning, so that instances can be given disks.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use storage::{AccessState, Connected, ControlError, Exposed, Exposure, VolumeState};

/// The targets that are there from the beginning.
pub(crate) const DISKS: [&str; 2] = ["disk-0", "disk-1"];
/// There is room for so many.
const SLOTS: usize = 8;

/// The targets of one life of an appliance. Clones are the same.
#[derive(Clone)]
pub(crate) struct Shelf(Rc<RefCell<Vec<Exposed>>>);

impl Shelf {
    pub(crate) fn new() -> Self {
        let shelf = Self(Rc::default());
        for id in DISKS {
            let document = format!("iqn.2026-01.example:{id}");
            shelf.0.borrow_mut().push(exposed(Exposure {
                id: id.into(),
                iqn: document,
                lun: 0,
                volume: "nbd://10.1.0.9/disk".into(),
                initiators: vec!["*".into()],
                chap: None,
                read_only: false,
                removable: false,
                access: AccessState::default(),
                policy: storage::Policy::default(),
            }));
        }
        shelf
    }

    /// How initiators may use a target that is there.
    pub(crate) fn access(&self, id: &str) -> Option<AccessState> {
        self.0.borrow().iter().find(|one| one.exposure.id == id).map(|one| one.exposure.access)
    }
}

fn exposed(exposure: Exposure) -> Exposed {
    let status = storage::Status::default();
    Exposed { exposure, state: VolumeState::Ready, size: None, sessions: 0, status }
}

impl management::Targets for Shelf {
    fn expose(&self, exposure: Exposure) -> Result<Exposed, ControlError> {
        let mut shelf = self.0.borrow_mut();
        if let Some(there) = shelf.iter_mut().find(|one| one.exposure.id == exposure.id) {
            if (Exposure { access: exposure.access, ..there.exposure.clone() }) != exposure {
                return Err(ControlError::Conflict("it differs".into()));
            }
            there.exposure = exposure;
            return Ok(there.clone());
        }
        if shelf.len() == SLOTS {
            return Err(ControlError::Full);
        }
        shelf.push(exposed(exposure.clone()));
        Ok(exposed(exposure))
    }

    fn withdraw(&self, id: &str) -> Result<(), ControlError> {
        let mut shelf = self.0.borrow_mut();
        let count = shelf.len();
        shelf.retain(|one| one.exposure.id != id);
        if shelf.len() < count { Ok(()) } else { Err(ControlError::NotFound) }
    }

    fn withdraw_within(&self, id: &str, _: Duration) -> Result<(), ControlError> {
        self.withdraw(id)
    }

    fn list(&self) -> Vec<Exposed> {
        self.0.borrow().clone()
    }

    fn get(&self, id: &str) -> Option<Exposed> {
        self.0.borrow().iter().find(|one| one.exposure.id == id).cloned()
    }

    fn connections(&self) -> Vec<Connected> {
        Vec::new()
    }
}
