//! Snapshots, and going back to them.
//!
//! libvirtd goes back to memory that it kept by another process, made as the domain was then: with the size, the cables and
//! the networks of then, whatever was ordered since. So it is held against what is ordered first.

use super::super::described::Described;
use super::super::images::{Network, Section};
use super::super::request::{Afterwards, Request};
use super::super::{Libvirt, PAUSED, RUNNING, SHUT_OFF, document, unsent};
use super::{Work, cannot, seen};
use crate::hypervisor::{ATTACHED, Evidence, Fault};
use agent_protocol::{Nic, SnapshotName};
use std::collections::BTreeSet;

impl Libvirt {
    /// Have everything as a snapshot needs it.
    pub(super) fn prepare_snapshot(&self, work: &mut Work<'_>, state: i32) -> Result<(), Fault> {
        let machine = work.machine;
        if !machine.volumes.is_empty() {
            return Err(cannot(ATTACHED));
        }
        if state == SHUT_OFF {
            // What is defined, if anything is, may be older than what was ordered since.
            self.make_disks(machine, work.deadline)?;
            let definition = Request::Define(document::domain(machine, &self.section)?);
            return work.define(&definition).map_err(unsent);
        }
        if work.now.plugged {
            // It begins the process that loads the memory without them, and plugs them too late.
            let words =
                "processors were plugged into it since it started, and libvirt cannot go back to that";
            return Err(cannot(words));
        }
        Ok(())
    }
}

impl Work<'_> {
    pub(super) fn revert(
        &mut self,
        name: &SnapshotName,
        state: i32,
        section: &Section,
    ) -> Result<Evidence, Fault> {
        let found = self.session.snapshot(&self.domain, name.as_str()).map_err(self.fault())?;
        let kept = found.ok_or_else(|| cannot(format!("it has no snapshot {name}")))?;
        let volumes = self.machine.volumes.iter().map(|volume| &volume.volume).collect::<BTreeSet<_>>();
        let nics = self.machine.nics.iter().all(|nic| has(&kept, nic, section));
        if volumes != kept.volumes.keys().collect() || !nics || self.machine.nics.len() != kept.nics.len() {
            // It would get disks back that are somebody else's by now, and be on a network that it was taken from.
            return Err(cannot("it has other disks or interfaces than when the snapshot was made"));
        }
        if state != SHUT_OFF && kept.size != self.now.size {
            return Err(cannot("it has another size than when the snapshot was made"));
        }
        let cold = state == SHUT_OFF && kept.with_memory;
        let turned = |nic: &&Nic| kept.nics.get(&nic.nic).is_some_and(|then| then.link != nic.link);
        let turned: Vec<&Nic> = self.machine.nics.iter().filter(turned).collect();
        // A cable that is to be unplugged is before its guest can send anything.
        let held = state == RUNNING && !turned.is_empty();
        let afterwards = match state {
            RUNNING if !held => Afterwards::Running,
            RUNNING | PAUSED => Afterwards::Paused,
            _ if cold => Afterwards::Paused,
            _ => Afterwards::AsKept,
        };
        self.all(&[Request::Revert(name.clone(), afterwards)])?;
        if cold {
            // Its disks are those of then, and it goes on being stopped: nothing of the memory is for a machine that is.
            self.all(&[Request::Destroy])?;
            self.await_shut_off()?;
        }
        if state != SHUT_OFF {
            for nic in turned {
                self.all(&[Request::Update(document::nic(nic, section)?)])?;
            }
        }
        if held {
            self.all(&[Request::Resume])?;
        }
        match self.state()? {
            (after, _) if after == state => Ok(seen(format!("virDomainRevertToSnapshot; it is at {name}"))),
            (after, why) => Err(cannot(format!("it went to {name} and is in state {after}, reason {why}"))),
        }
    }
}

/// Whether a domain has an interface as it is ordered, but for its cable.
fn has(described: &Described, nic: &Nic, section: &Section) -> bool {
    let bridge = match section.networks.get(&nic.network) {
        Some(Network::Bridge(name)) => Some(name.as_str()),
        _ => None,
    };
    let there = described.nics.get(&nic.nic);
    there.is_some_and(|there| there.mac == nic.mac.to_string() && there.bridge.as_deref() == bridge)
}
