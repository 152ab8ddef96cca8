//! What a hypervisor asks for in place of a button.

use crate::{hyperv, xen};

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// That the machine be switched off.
    Off,
    /// That it be started again.
    Restart,
}

/// Who hears of it.
#[derive(Debug)]
pub enum Shutdown {
    /// Hyper-V's integration component.
    HyperV(hyperv::shutdown::Shutdown),
    /// A word in Xen's store.
    Xen(xen::shutdown::Shutdown),
}

impl Shutdown {
    /// What was asked for since the last call. To be called whenever the machine has been idle, and before it is again.
    pub fn poll(&mut self) -> Option<Request> {
        match self {
            Self::HyperV(shutdown) => shutdown.poll(),
            Self::Xen(shutdown) => shutdown.poll(),
        }
    }
}
