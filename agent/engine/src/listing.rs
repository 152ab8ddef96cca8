//! What those who only look are told.

use agent_protocol::{Event, ImageName, Instance, InstanceId, Outcome, Refusal, State, Stats, Uuid};
use alloc::vec::Vec;

use crate::lane::Lane;
use crate::{Engine, Fault, Machine, Record, Ticket};

/// Some of the instances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// They, sorted by name.
    pub instances: Vec<Instance>,
    /// There are more: ask after this name.
    pub next: Option<InstanceId>,
    /// The entry that must be durable before they are told.
    pub after: u64,
}

impl Engine {
    /// Up to `limit` instances after that name, as they were last seen.
    pub fn instances(&self, after: Option<&InstanceId>, limit: usize) -> Page {
        use core::ops::Bound::{Excluded, Unbounded};
        let range = (after.map_or(Unbounded, Excluded), Unbounded);
        let mut lanes = self.lanes.range::<InstanceId, _>(range).map(|(_, lane)| lane);
        let instances: Vec<Instance> = lanes.by_ref().take(limit).map(Lane::instance).collect();
        let more = lanes.next().is_some();
        let next = if more { instances.last().map(|one| one.id.clone()) } else { None };
        Page { instances, next, after: self.head }
    }

    /// How many instances there are, those included that were terminated lately.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Whether some instance has not been read yet since the agent started.
    pub fn is_cold(&self) -> bool {
        self.lanes.values().any(|lane| lane.cold && lane.backend.is_some())
    }

    /// Every image of every hypervisor, sorted.
    pub fn images(&self) -> Vec<ImageName> {
        let mut images: Vec<_> = self.hosts.iter().flat_map(|host| host.images.iter().cloned()).collect();
        images.sort();
        images.dedup();
        images
    }

    /// What changes whenever the instances do.
    pub fn digest(&self) -> u64 {
        // FNV-1a over what names each of them and counts its changes.
        let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
        let mut mix = |value: u64| {
            for byte in value.to_le_bytes() {
                hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        for lane in self.lanes.values() {
            let bits = lane.record.uuid.0;
            mix((bits >> 64) as u64);
            mix(bits as u64);
            mix(lane.record.generation << 1 | u64::from(lane.cold));
        }
        hash
    }

    /// Up to `limit` events after that number; what to ask after next; whether some are not kept any more, so that
    /// everything has to be listed anew.
    pub fn events(&self, after: u64, limit: usize) -> (Vec<Event>, u64, bool) {
        self.events.after(after, self.durable, limit)
    }

    /// What a look that was asked for has shown; `None` until it has come back.
    pub fn described(&self, ticket: &Ticket) -> Option<Outcome> {
        let lane = self.lanes.get(&ticket.id).filter(|lane| lane.record.uuid == ticket.uuid);
        if lane.is_some_and(|lane| lane.looks.1 < ticket.number) {
            return None;
        }
        Some(self.described_now(&ticket.id))
    }

    /// The same without waiting for it: as the instance was last seen.
    pub fn described_now(&self, id: &InstanceId) -> Outcome {
        match self.lanes.get(id) {
            Some(lane) => Outcome::Done { changed: false, instance: lane.instance(), evidence: Vec::new() },
            None => crate::engine::refused(agent_protocol::Refusal::UnknownInstance, "it is gone", None),
        }
    }

    /// What an instance has used, once that has come back; `None` until then.
    pub fn used(&self, ticket: &Ticket) -> Option<Result<Stats, Fault>> {
        let lane = self.lanes.get(&ticket.id).filter(|lane| lane.record.uuid == ticket.uuid);
        let gone = || Err(Fault::new(agent_protocol::Failure::Ended, "it is gone"));
        let Some(lane) = lane else { return Some(gone()) };
        if lane.stats.0 < ticket.number {
            return None;
        }
        Some(lane.stats.1.clone().unwrap_or_else(gone))
    }

    /// The hypervisor and the machine of an instance that runs, for whoever looks on without asking the hypervisor.
    ///
    /// # Errors
    /// There is no such instance, or nothing of it runs.
    pub fn machine(&self, id: &InstanceId) -> Result<(usize, Machine), Refusal> {
        let lane = self.lanes.get(id).ok_or(Refusal::UnknownInstance)?;
        let backend = lane.backend.filter(|_| lane.record.lives());
        backend.map(|backend| (backend, lane.record.machine())).ok_or(Refusal::WrongState)
    }

    /// The UUIDs of all living instances.
    pub fn uuids(&self) -> impl Iterator<Item = Uuid> {
        self.of_the_living().map(|(_, record)| record.uuid)
    }

    /// Every living instance.
    pub fn living(&self) -> Vec<InstanceId> {
        self.of_the_living().map(|(id, _)| id.clone()).collect()
    }

    fn of_the_living(&self) -> impl Iterator<Item = (&InstanceId, &Record)> {
        let all = self.lanes.iter().map(|(id, lane)| (id, &lane.record));
        all.filter(|(_, record)| record.state != State::Terminated)
    }
}
