//! What drivers on Xen share: events, the store, the grant table; and the steps by which a frontend and its backend agree (`io/xenbus.h`).

use super::grants::Grants;
use super::store::Store;
use crate::Error;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;
use kernel_io::xen::{Event, Guest};

/// States of either side.
pub(super) const INITIALISING: u32 = 1;
pub(super) const WAITS: u32 = 2;
pub(super) const CONNECTED: u32 = 4;
pub(super) const CLOSING: u32 = 5;
pub(super) const CLOSED: u32 = 6;

/// Events, store and grant table of the machine.
#[derive(Debug)]
pub(super) struct Bus {
    pub(super) guest: Rc<Guest>,
    pub(super) store: Store,
    pub(super) grants: Grants,
}

impl Bus {
    /// Connect; `None` on a machine that is no guest of Xen's, or has no store.
    pub(super) fn connect() -> Result<Option<Rc<Self>>, Error> {
        let guest = match Guest::start() {
            Err(kernel_io::Error::NotThere) => return Ok(None),
            guest => Rc::new(guest?),
        };
        let Some(store) = Store::connect(&guest)? else { return Ok(None) };
        let grants = Grants::new(&guest)?;
        Ok(Some(Rc::new(Self { guest, store, grants })))
    }

    /// Take what an event may stand for. Whoever asks looks at his own rings afterwards.
    pub(super) fn acknowledge(&self) {
        if self.guest.acknowledge() {
            self.store.poll();
        }
    }

    /// Tell whoever is at the other end of a port.
    pub(super) fn notify(&self, port: u32) {
        // There is nothing to be done about an event that does not arrive.
        let _ = self.guest.event(Event::Notify(port));
    }
}

/// A device of ours, and who is behind it.
#[derive(Debug)]
pub(super) struct Frontend {
    pub(super) bus: Rc<Bus>,
    /// Where it is in the store, and where the other side is.
    path: String,
    backend: String,
    /// The domain of the other side.
    pub(super) domain: u16,
    /// Something about the other side has changed.
    changed: Rc<Cell<bool>>,
}

impl Frontend {
    /// The device at a path, as the tools have written it there.
    pub(super) fn new(bus: &Rc<Bus>, path: String) -> Result<Self, Error> {
        let Some(backend) = bus.store.read(&format!("{path}/backend"))? else {
            return Err(Error::Layout("there is no backend"));
        };
        let domain = bus.store.read(&format!("{path}/backend-id"))?.and_then(|id| id.parse().ok());
        let domain = domain.ok_or(Error::Layout("the domain of the backend"))?;
        let changed = bus.store.watch(&format!("{backend}/state"))?;
        Ok(Self { bus: bus.clone(), path, backend, domain, changed })
    }

    /// What stands there of ours.
    pub(super) fn own(&self, key: &str) -> Result<Option<String>, Error> {
        self.bus.store.read(&format!("{}/{key}", self.path))
    }

    /// Whether the other side has something.
    pub(super) fn has(&self, feature: &str) -> Result<bool, Error> {
        let value = self.bus.store.read(&format!("{}/{feature}", self.backend))?;
        Ok(value.is_some_and(|value| value == "1"))
    }

    /// Say something about our side.
    pub(super) fn say(&self, key: &str, value: u32) -> Result<(), Error> {
        self.bus.store.write(&format!("{}/{key}", self.path), &format!("{value}"))
    }

    /// Let our side be in a state.
    pub(super) fn enter(&self, state: u32) -> Result<(), Error> {
        self.say("state", state)
    }

    /// The state of the other side. One that is not there any more is closed.
    pub(super) fn state(&self) -> Result<u32, Error> {
        self.changed.set(false);
        let state = self.bus.store.read(&format!("{}/state", self.backend));
        if matches!(state, Err(Error::Refused(_))) {
            self.look_again();
        }
        Ok(state?.and_then(|state| state.parse().ok()).unwrap_or(CLOSED))
    }

    /// Whether something about the other side has changed since its state was asked for.
    pub(super) fn has_changed(&self) -> bool {
        self.changed.get()
    }

    /// Its state is to be asked for in any case.
    pub(super) fn look_again(&self) {
        self.changed.set(true);
    }
}
