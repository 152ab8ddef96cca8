//! One instance: how it stands, and what is under way for it.

use agent_protocol::{
    AttachedNic, AttachedVolume, Attachment, Instance, NicName, OpId, State, Stats, Text, Then, VolumeName,
};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::{Evidence, Fault, Observation, Passage, Record};

/// An instance and what is under way for it.
pub(crate) struct Lane {
    pub(crate) record: Record,
    pub(crate) backend: Option<usize>,
    pub(crate) since_ms: u64,
    pub(crate) observed_ms: u64,
    /// Its hypervisor was not read yet in this run of the agent: nobody knows how it stands.
    pub(crate) cold: bool,
    /// The job that is out, and what for.
    pub(crate) job: Option<(u64, Purpose)>,
    /// Commands that have not begun, in their order; what is forced goes first.
    pub(crate) queue: VecDeque<OpId>,
    /// Commands whose guest was asked.
    pub(crate) waiting: Vec<Waiting>,
    /// Commands that had begun when the agent ended, or of which the hypervisor has not told what became of them, in their
    /// order. There can be several where one waits for its guest, and where the journal is damaged.
    pub(crate) unsettled: VecDeque<Unsettled>,
    /// Somebody wants it looked at.
    pub(crate) wants_look: bool,
    /// How many looks have been begun, and how many have come back.
    pub(crate) looks: (u64, u64),
    /// When it is to be looked at again without anybody asking.
    pub(crate) look_at_ms: u64,
    /// The command for whose sake its move was given up.
    pub(crate) called_off: Option<OpId>,
    pub(crate) wants_stats: bool,
    pub(crate) stats: (u64, Option<Result<Stats, Fault>>),
}

/// What a job is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To see how it stands.
    Look,
    /// To see what it has used.
    Stats,
    /// To see how it stands before a command.
    Before(OpId),
    /// A command's step.
    Step(OpId),
    /// To see how it stands after a step that has failed.
    After(OpId, Fault),
    /// To cut the power of a guest that did not shut down in time.
    Cut(OpId),
    /// To run it again after it shut down for a reboot.
    Again(OpId),
    /// To remove what an earlier run of the agent had ended.
    Clear(OpId),
    /// To remove what has moved to another host, by this evidence.
    Left(OpId, Evidence),
    /// To end what there is of a machine whose start was cut short.
    Undo(OpId, Fault),
    /// To see how it stands after that.
    Undone(OpId, Fault),
}

/// A command that had begun, and of which looking is to tell what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsettled {
    pub(crate) op_id: OpId,
    /// The state before it.
    pub(crate) from: State,
    /// Until when a hypervisor that does not tell is asked again.
    pub(crate) until_ms: u64,
    /// Why it is not known.
    pub(crate) why: Fault,
}

/// A command whose guest was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) op_id: OpId,
    pub(crate) what: What,
    pub(crate) due_ms: u64,
    pub(crate) then: Then,
    /// Whether the guest is known to have been asked.
    pub(crate) asked: bool,
}

/// What the guest was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Stop,
    Reboot,
    Volume(VolumeName),
    Nic(NicName),
}

impl Waiting {
    /// Whether it is over when nothing of the machine runs.
    pub(crate) const fn is_stop(&self) -> bool {
        matches!(self.what, What::Stop | What::Reboot)
    }
}

impl Record {
    pub(crate) fn find_volume(&self, name: &VolumeName) -> Option<&AttachedVolume> {
        self.volumes.iter().find(|one| one.volume.volume == *name)
    }

    pub(crate) fn find_nic(&self, name: &NicName) -> Option<&AttachedNic> {
        self.nics.iter().find(|one| one.nic.nic == *name)
    }

    /// Whether something of it runs, or may.
    pub(crate) const fn lives(&self) -> bool {
        !matches!(self.state, State::Stopped | State::Saved | State::Failed | State::Terminated)
    }
}

impl Lane {
    pub(crate) fn new(record: Record, backend: Option<usize>, now_ms: u64) -> Self {
        Self {
            record,
            backend,
            since_ms: now_ms,
            observed_ms: now_ms,
            cold: false,
            job: None,
            queue: VecDeque::new(),
            waiting: Vec::new(),
            unsettled: VecDeque::new(),
            wants_look: false,
            looks: (0, 0),
            look_at_ms: u64::MAX,
            called_off: None,
            wants_stats: false,
            stats: (0, None),
        }
    }

    /// It as the wire shows it.
    pub(crate) fn instance(&self) -> Instance {
        let instance = self.record.instance(self.since_ms, self.observed_ms);
        if self.cold && instance.state != State::Terminated {
            let reason = Some(Text::new("its hypervisor has not been read yet"));
            return Instance { state: State::Unknown, reason, ..instance };
        }
        instance
    }

    /// Let it be in that state, whether that is new.
    pub(crate) fn set(&mut self, state: State, reason: Option<Text>, now_ms: u64) -> bool {
        self.observed_ms = now_ms;
        if self.record.state == state && self.record.reason == reason {
            return false;
        }
        if self.record.state != state {
            self.since_ms = now_ms;
        }
        self.record.generation += 1;
        self.record.state = state;
        self.record.reason = reason;
        self.record.fresh &= state == State::Stopped;
        true
    }

    /// Where it stands between two hosts, by what was seen. Whether that is new.
    pub(crate) fn passes(&mut self, seen: &Observation) -> bool {
        // What has arrived elsewhere is not taken back by there being nothing of it here any more.
        let is_left = self.record.passage == Some(Passage::Arrived) && seen.passage.is_none();
        let news = seen.state != State::Unknown && self.record.passage != seen.passage && !is_left;
        if news {
            self.record.passage = seen.passage;
            self.record.generation += 1;
        }
        news
    }

    /// Whether a command could be overtaken by making it anew: nothing is under way but a look.
    pub(crate) fn is_idle(&self) -> bool {
        let looks =
            self.job.as_ref().is_none_or(|(_, purpose)| matches!(purpose, Purpose::Look | Purpose::Stats));
        looks && self.queue.is_empty() && self.waiting.is_empty() && self.unsettled.is_empty()
    }

    /// What an observation comes to, given what is under way.
    pub(crate) fn meaning(&self, seen: &Observation) -> (State, Option<Text>) {
        let stopping = self.waiting.iter().any(|one| one.is_stop() && one.asked);
        let before = self.record.state;
        match seen.state {
            State::Running if stopping => (State::Stopping, None),
            // What it has stopped for stays known.
            State::Stopped | State::Failed if matches!(before, State::Stopped | State::Failed) => {
                (before, self.record.reason.clone())
            }
            state => (state, seen.reason.clone()),
        }
    }

    /// Show disks and interfaces that a guest was asked for as such. Whether that is new.
    pub(crate) fn mark_detaching(&mut self, what: &What) -> bool {
        let detaching = Attachment::Detaching;
        let place = match what {
            What::Volume(name) => self
                .record
                .volumes
                .iter_mut()
                .find(|one| one.volume.volume == *name)
                .map(|one| &mut one.attachment),
            What::Nic(name) => {
                self.record.nics.iter_mut().find(|one| one.nic.nic == *name).map(|one| &mut one.attachment)
            }
            What::Stop | What::Reboot => None,
        };
        let Some(place) = place.filter(|place| **place != detaching) else { return false };
        *place = detaching;
        self.record.generation += 1;
        true
    }

    /// Disks and interfaces that its guest was asked to let go of and does not have any more.
    pub(crate) fn released(&mut self, seen: &Observation) -> bool {
        let count = self.record.volumes.len() + self.record.nics.len();
        // One that is saved has them all: its guest is to find them when it goes on.
        let runs = !matches!(seen.state, State::Stopped | State::Failed);
        let gone = |list: &Option<Vec<VolumeName>>, name: &VolumeName| match list {
            Some(list) => !list.contains(name),
            None => !runs,
        };
        let nic_gone = |list: &Option<Vec<NicName>>, name: &NicName| match list {
            Some(list) => !list.contains(name),
            None => !runs,
        };
        self.record.volumes.retain(|one| {
            one.attachment != Attachment::Detaching || !gone(&seen.volumes, &one.volume.volume)
        });
        self.record
            .nics
            .retain(|one| one.attachment != Attachment::Detaching || !nic_gone(&seen.nics, &one.nic.nic));
        let changed = self.record.volumes.len() + self.record.nics.len() != count;
        self.record.generation += u64::from(changed);
        changed
    }
}
