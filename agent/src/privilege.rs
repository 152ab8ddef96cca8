//! The one capability that the agent may be given (`CAP_NET_ADMIN`, as an ambient one), lent to those programs that need it
//! and to no others.
//!
//! An ambient capability passes to every program that is started (capabilities(7)), and so to the QEMU of each guest, where
//! whoever broke out of a guest would have it. It belongs to a thread, and threads get it from the one that starts them.

use rustix::thread::{CapabilitySet, capability_is_in_ambient_set, configure_capability_in_ambient_set};
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the agent was given it.
static GIVEN: AtomicBool = AtomicBool::new(false);

/// Let no program inherit it from here on. To be called before there are other threads.
pub(crate) fn withhold() {
    let given = capability_is_in_ambient_set(CapabilitySet::NET_ADMIN).unwrap_or(false);
    if given {
        match configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, false) {
            Ok(()) => GIVEN.store(true, Ordering::Release),
            Err(error) => log::warn!("every program that is started inherits CAP_NET_ADMIN: {error}"),
        }
    }
}

/// Do this, which starts a program, so that the program has what the agent was given, if `needed`.
pub(crate) fn lend<T>(needed: bool, work: impl FnOnce() -> T) -> T {
    let lent = needed && GIVEN.load(Ordering::Acquire);
    // A program that does not get it says itself what it could not do.
    let _ = lent.then(|| configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, true));
    let outcome = work();
    let _ = lent.then(|| configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, false));
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::thread::{capabilities, set_capabilities};
    use std::process::Command;

    /// What a program that is started now inherits.
    fn inherited() -> String {
        let output = Command::new("grep").args(["CapAmb", "/proc/self/status"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().nth(1).unwrap_or_default().to_owned()
    }

    #[test]
    fn no_program_inherits_it_but_those_that_need_it() {
        // As systemd starts the agent; needs root.
        let mut sets = capabilities(None).unwrap();
        sets.inheritable |= CapabilitySet::NET_ADMIN;
        set_capabilities(None, sets).unwrap();
        configure_capability_in_ambient_set(CapabilitySet::NET_ADMIN, true).unwrap();
        assert_eq!(inherited(), "0000000000001000");
        withhold();
        assert_eq!(inherited(), "0000000000000000");
        std::thread::spawn(|| {
            assert_eq!(lend(true, inherited), "0000000000001000");
            assert_eq!(lend(false, inherited), "0000000000000000");
            assert_eq!(inherited(), "0000000000000000");
        })
        .join()
        .unwrap();
    }
}
