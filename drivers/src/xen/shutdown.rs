//! How Xen's tools ask a guest to end: by a word in the store.

use super::bus::Bus;
use crate::Error;
use crate::shutdown::Request;
use alloc::rc::Rc;
use alloc::string::String;
use core::cell::Cell;

const PATH: &str = "control/shutdown";
/// What we do of it, for the tools.
const FEATURES: [&str; 2] = ["control/feature-poweroff", "control/feature-reboot"];

/// Characters of a word that nobody knows, for the log.
const LONGEST: usize = 16;

/// Hears of it.
#[derive(Debug)]
pub struct Shutdown {
    bus: Rc<Bus>,
    changed: Rc<Cell<bool>>,
}

impl Shutdown {
    pub(super) fn new(bus: &Rc<Bus>) -> Result<Self, Error> {
        for feature in FEATURES {
            // Tools that do not want to know have not made the place.
            bus.store.write(feature, "1").or_else(|error| match error {
                Error::Refused(_) => Ok(()),
                error => Err(error),
            })?;
        }
        Ok(Self { bus: bus.clone(), changed: bus.store.watch(PATH)? })
    }

    /// What was asked for since the last call. To be called whenever the machine has been idle, and before it is again.
    pub fn poll(&mut self) -> Option<Request> {
        self.bus.acknowledge();
        if !self.changed.take() {
            return None;
        }
        let word = self.bus.store.read(PATH).ok().flatten()?;
        let request = match word.as_str() {
            "poweroff" | "halt" => Some(Request::Off),
            "reboot" => Some(Request::Restart),
            // That is what we have left there, or it was empty from the beginning.
            "" => return None,
            other => {
                // It stays there, so that the tools do not take it for done. They take it away.
                let other: String = other.chars().take(LONGEST).collect();
                log::warn!("xen: nothing is done that is asked for by {other:?}");
                return None;
            }
        };
        // So that it is seen that it was read. There is nothing to be done if it cannot be written.
        let _ = self.bus.store.write(PATH, "");
        request
    }
}
