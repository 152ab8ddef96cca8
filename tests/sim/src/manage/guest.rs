//! A guest of the simulated hypervisor, or what is left of it.

use super::hypervisor::{News, name};
use crate::random::Random;
use agent_engine::{Fault, Finding, Machine, Observation, Passage, Step};
use agent_protocol::{
    Attachment, Failure, Instance, Link, NicName, Size, SnapshotName, State, Text, VolumeName,
};
use kernel_runtime::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// What its guest can be asked to let go of.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Volume(VolumeName),
    Nic(NicName),
}

/// What a machine consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Parts {
    volumes: Vec<VolumeName>,
    nics: Vec<(NicName, Link)>,
    size: Size,
}

/// What becomes of one that moves to another host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The peer has said that it has all of it.
    Arrives,
    /// It has it and cannot say so, or has it not.
    Vanishes { arrives: bool },
    /// It never gets that far.
    Fails,
}

/// On its way to another host.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Move {
    op: String,
    /// From when on it may run there.
    handed_over: Instant,
    until: Instant,
    fate: Fate,
}

/// A guest, or what is left of it.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    /// How often its processors are held.
    holds: u32,
    runs: bool,
    /// It has ended by itself, and nobody was told: in an orderly way or not.
    pub(crate) unburied: Option<bool>,
    /// Its monitor says nothing until then.
    hung: Instant,
    /// What was asked of its monitor in that time, for which command, and happens after it.
    pub(crate) late: Vec<(String, Step)>,
    /// It was asked to shut down.
    asked: bool,
    /// How long it takes for that, and to let go of things; `None` of one that ignores it.
    obeys: Option<Duration>,
    /// It can be told what it has.
    tells: bool,
    parts: Parts,
    /// What it was asked to let go of, by which command, and when it does.
    asked_for: Vec<(Part, String, Option<Instant>)>,
    /// Its memory is being written out, for this command, until then.
    saving: Option<(String, Instant)>,
    saved: bool,
    snapshots: BTreeMap<SnapshotName, Parts>,
    moving: Option<Move>,
    /// It was handed over to its peer, which has said that it has it or has not.
    left: Option<bool>,
    /// The peer runs it.
    at_peer: bool,
    /// It is to come from another host, at that time if at all.
    awaited: Option<Option<Instant>>,
}

impl Guest {
    pub(crate) fn new(random: &mut Random) -> Self {
        let ignores = random.chance(200);
        let obeys = Duration::from_millis(random.range(20, 4000));
        Self {
            holds: 0,
            runs: false,
            unburied: None,
            hung: Instant::ZERO,
            late: Vec::new(),
            asked: false,
            obeys: (!ignores).then_some(obeys),
            tells: random.chance(900),
            parts: Parts::default(),
            asked_for: Vec::new(),
            saving: None,
            saved: false,
            snapshots: BTreeMap::new(),
            moving: None,
            left: None,
            at_peer: false,
            awaited: None,
        }
    }

    pub(crate) const fn runs(&self) -> bool {
        self.runs
    }

    pub(crate) fn is_hung(&self, now: Instant) -> bool {
        self.runs && self.hung > now
    }

    pub(crate) fn hang(&mut self, until: Instant) {
        self.hung = self.hung.max(until);
    }

    pub(crate) const fn is_held_twice(&self) -> bool {
        self.holds > 1
    }

    pub(crate) const fn is_saved(&self) -> bool {
        self.saved
    }

    /// Whether its peer has said that it has it, of one that was handed over.
    pub(crate) const fn has_left(&self) -> Option<bool> {
        self.left
    }

    pub(crate) const fn is_at_peer(&self) -> bool {
        self.at_peer
    }

    /// Whether a process is there that can die.
    pub(crate) fn lives(&self, now: Instant) -> bool {
        (self.runs || self.saving.is_some()) && self.left.is_none() && !self.is_handed_over(now)
    }

    fn is_handed_over(&self, now: Instant) -> bool {
        self.moving.as_ref().is_some_and(|moving| moving.handed_over <= now)
    }

    /// When it goes down, if it was asked to.
    pub(crate) fn goes_down(&self) -> Option<Duration> {
        self.obeys.filter(|_| self.asked && self.runs)
    }

    /// Nothing of it runs any more.
    pub(crate) fn end(&mut self, machine: u128, now: Instant, news: &mut Vec<News>) {
        if self.runs || self.saving.is_some() {
            news.push(News::Over { machine });
        }
        (self.runs, self.holds, self.saving, self.awaited) = (false, 0, None, None);
        if let Some(moving) = self.moving.take_if(|moving| moving.handed_over <= now) {
            // What its peer has got nobody here knows.
            self.left = Some(false);
            self.at_peer = moving.fate != Fate::Fails && moving.fate != Fate::Vanishes { arrives: false };
        }
        self.moving = None;
        self.asked = false;
        self.late.clear();
        self.asked_for.clear();
        self.hung = Instant::ZERO;
    }

    /// Every trace of it is removed.
    pub(crate) fn clear(&mut self) {
        (self.saved, self.left, self.unburied) = (false, None, None);
        self.snapshots.clear();
    }

    pub(crate) fn die(&mut self, machine: u128, orderly: bool, now: Instant, news: &mut Vec<News>) {
        self.end(machine, now, news);
        self.unburied = Some(orderly);
    }

    /// A move that was not handed over is given up. Whether there was one.
    pub(crate) fn stays(&mut self, now: Instant) -> bool {
        self.moving.take_if(|moving| moving.handed_over > now).is_some()
    }

    /// It does what it was asked to, or will do so later.
    pub(crate) fn obey(&mut self, machine: u128, now: Instant, news: &mut Vec<News>) -> Option<Duration> {
        if self.hung > now {
            return Some(self.hung.since(now));
        }
        if core::mem::take(&mut self.asked) && self.runs && self.left.is_none() && self.moving.is_none() {
            self.end(machine, now, news);
            self.unburied = Some(true);
        }
        None
    }

    /// What has come about by now: a monitor that speaks again does what it was asked for meanwhile.
    pub(crate) fn pass(&mut self, machine: u128, now: Instant, news: &mut Vec<News>) {
        if let Some((op, _)) = self.saving.take_if(|(_, until)| *until <= now) {
            self.saved = true;
            news.push(News::Did { op, what: "save", machine });
        }
        if let Some(moving) = self.moving.take_if(|moving| moving.until <= now) {
            let arrives = matches!(moving.fate, Fate::Arrives | Fate::Vanishes { arrives: true });
            if moving.fate != Fate::Fails {
                (self.left, self.at_peer, self.holds) = (Some(moving.fate == Fate::Arrives), arrives, 1);
            }
            if arrives {
                news.push(News::Did { op: moving.op, what: "move", machine });
            }
        }
        if self.awaited.flatten().is_some_and(|at| at <= now) {
            (self.awaited, self.runs) = (None, true);
        }
        if !self.runs || self.hung > now {
            return;
        }
        if self.holds == 0 && self.left.is_none() {
            let all = core::mem::take(&mut self.asked_for);
            let (gone, rest) = all.into_iter().partition(|(.., at)| at.is_some_and(|at| at <= now));
            self.asked_for = rest;
            let gone: Vec<(Part, String, Option<Instant>)> = gone;
            for (part, op, _) in gone {
                self.parts.lose(&part);
                news.push(News::Did { op, what: "let go", machine });
            }
        }
        for (op, step) in core::mem::take(&mut self.late) {
            // Nobody hears what comes of it, nor when it would be done.
            if !matches!(step, Step::Save | Step::MigrateStart(_)) {
                self.perform(&step, None, (&op, machine), now, news);
            }
        }
    }

    /// How long a step takes that takes its time, and what will come of it.
    pub(crate) fn takes(
        &mut self,
        step: &Step,
        op: &str,
        random: &mut Random,
        now: Instant,
    ) -> Option<Duration> {
        let takes = Duration::from_millis(random.range(50, 5000));
        let until = now + takes;
        match step {
            Step::Save if self.runs && self.left.is_none() => self.saving = Some((op.into(), until)),
            Step::MigrateStart(_) if self.runs && self.moving.is_none() && self.left.is_none() => {
                let fate = match random.below(10) {
                    0 => Fate::Fails,
                    1 => Fate::Vanishes { arrives: random.chance(500) },
                    _ => Fate::Arrives,
                };
                let handed_over = if fate == Fate::Fails { until } else { now + takes * 4 / 5 };
                self.moving = Some(Move { op: op.into(), handed_over, until, fate });
            }
            Step::MigratePrepare if !self.runs && !self.saved && self.left.is_none() => {
                self.awaited = Some(random.chance(700).then_some(until));
                return None;
            }
            Step::Snapshot(_) | Step::Revert(_) => {}
            _ => return None,
        }
        Some(takes)
    }

    /// Carry out a step for that command, of the machine as the agent says it is.
    pub(crate) fn perform(
        &mut self,
        step: &Step,
        machine: Option<&Machine>,
        (op, number): (&str, u128),
        now: Instant,
        news: &mut Vec<News>,
    ) -> Finding {
        let result = self.change(step, machine, op, now);
        let later = matches!(step, Step::Save | Step::MigrateStart(_));
        if result.is_ok() && !later {
            news.push(News::Did { op: op.into(), what: name(step), machine: number });
        }
        match result {
            Ok(()) => Finding::Performed(Ok(vec![Text::new("it was done")])),
            Err(why) => Finding::Performed(Err(Fault::new(Failure::Hypervisor, why))),
        }
    }

    fn change(
        &mut self,
        step: &Step,
        machine: Option<&Machine>,
        op: &str,
        now: Instant,
    ) -> Result<(), &'static str> {
        let parts = machine.map(Parts::of);
        match step {
            Step::Start | Step::Restore | Step::MigratePrepare if self.runs => return Err("it runs already"),
            Step::Start | Step::Restore | Step::MigratePrepare if self.left.is_some() => {
                return Err("it was handed over, and may run at its peer");
            }
            Step::Start | Step::MigratePrepare if self.saved => return Err("it has saved memory"),
            Step::Restore if !self.saved => return Err("it has no saved memory"),
            Step::Start => {
                (self.runs, self.holds) = (true, 0);
                self.parts = parts.unwrap_or_default();
            }
            Step::MigratePrepare => self.parts = parts.unwrap_or_default(),
            Step::Restore => (self.runs, self.saved) = (true, false),
            Step::Snapshot(name) if self.snapshots.contains_key(name) => {
                return Err("there is one of that name");
            }
            Step::Snapshot(name) => {
                let parts = if self.runs { self.parts.clone() } else { parts.unwrap_or_default() };
                self.snapshots.insert(name.clone(), parts);
            }
            Step::Revert(name) => {
                let parts = if self.runs { self.parts.clone() } else { parts.unwrap_or_default() };
                match self.snapshots.get(name) {
                    None => return Err("there is no such snapshot"),
                    Some(then) if *then != parts => return Err("it was another machine then"),
                    Some(_) => {}
                }
            }
            _ if !self.runs => return Err("it does not run"),
            _ if self.left.is_some() => return Err("it was handed over"),
            Step::Save => (self.runs, self.holds, self.asked) = (false, 0, false),
            Step::Pause => self.holds += 1,
            Step::Resume if self.holds == 0 => return Err("it is not held"),
            Step::Resume => self.holds -= 1,
            Step::AskToStop => self.asked |= self.holds == 0,
            Step::Reset | Step::MigrateStart(_) => {}
            Step::Resize(size) if size.memory_mib.is_some() => {
                return Err("its memory cannot change while it runs");
            }
            Step::Resize(size) => self.parts.size = self.parts.size.changed_by(*size),
            _ => return self.change_part(step, op, now),
        }
        Ok(())
    }

    fn change_part(&mut self, step: &Step, op: &str, now: Instant) -> Result<(), &'static str> {
        let parts = &mut self.parts;
        let part = match step {
            Step::AttachVolume(volume) => {
                if parts.volumes.contains(&volume.volume) {
                    return Err("there is a disk of that name");
                }
                parts.volumes.push(volume.volume.clone());
                return Ok(());
            }
            Step::AttachNic(nic) => {
                if parts.nics.iter().any(|(name, _)| *name == nic.nic) {
                    return Err("there is an interface of that name");
                }
                parts.nics.push((nic.nic.clone(), nic.link));
                return Ok(());
            }
            Step::UpdateNic(nic, link) => {
                let there = parts.nics.iter_mut().find(|(name, _)| name == nic);
                there.ok_or("there is no such interface")?.1 = *link;
                return Ok(());
            }
            Step::DetachVolume(volume) | Step::ResizeVolume(volume) => Part::Volume(volume.clone()),
            Step::DetachNic(nic) => Part::Nic(nic.clone()),
            _ => return Err("this hypervisor cannot do that"),
        };
        if !parts.has(&part) {
            return Err("there is no such thing");
        }
        if !matches!(step, Step::ResizeVolume(_)) {
            self.asked_for.push((part, op.into(), self.obeys.map(|wait| now + wait)));
        }
        Ok(())
    }

    /// What its monitor shows of it. In a hurry it shows nothing that its guest was asked for.
    pub(crate) fn seen(&self, now: Instant, hastens: bool) -> Observation {
        let kept = |part: &Part| !(hastens && self.asked_for.iter().any(|(asked, ..)| asked == part));
        let volumes = self.parts.volumes.iter().filter(|name| kept(&Part::Volume((*name).clone())));
        let nics =
            self.parts.nics.iter().map(|(name, _)| name).filter(|name| kept(&Part::Nic((*name).clone())));
        let tells = self.runs && self.tells;
        Observation {
            state: self.state(now),
            reason: None,
            volumes: tells.then(|| volumes.cloned().collect()),
            nics: tells.then(|| nics.cloned().collect()),
            passage: match self.left {
                Some(true) => Some(Passage::Arrived),
                Some(false) => Some(Passage::HandedOver),
                None if self.is_handed_over(now) => Some(Passage::HandedOver),
                None => self.awaited.map(|_| Passage::Awaited),
            },
        }
    }

    fn state(&self, now: Instant) -> State {
        match (self.runs, self.holds) {
            _ if self.saving.is_some() || self.is_handed_over(now) => State::Saving,
            _ if self.awaited.is_some() => State::Pending,
            (false, _) if self.left == Some(false) => State::Failed,
            (false, _) if self.saved => State::Saved,
            (false, _) => State::Stopped,
            (true, 0) => State::Running,
            (true, _) => State::Paused,
        }
    }

    /// In what it differs from what is shown of it, if in anything. Of what it was asked for both are right.
    pub(crate) fn difference(&self, shown: &Instance) -> Option<String> {
        if !self.runs || self.left.is_some() || self.moving.is_some() {
            return None;
        }
        let attached = |attachment: Attachment| attachment == Attachment::Attached;
        let mut volumes: Vec<VolumeName> = self.parts.volumes.clone();
        let mut nics = self.parts.nics.clone();
        let shown_volumes = shown.volumes.iter().filter(|one| attached(one.attachment));
        let mut shown_volumes: Vec<VolumeName> = shown_volumes.map(|one| one.volume.volume.clone()).collect();
        let shown_nics = shown.nics.iter().filter(|one| attached(one.attachment));
        let mut shown_nics: Vec<(NicName, Link)> =
            shown_nics.map(|one| (one.nic.nic.clone(), one.nic.link)).collect();
        let detaching = |name: &VolumeName| {
            shown.volumes.iter().any(|one| one.volume.volume == *name && !attached(one.attachment))
        };
        volumes.retain(|name| !detaching(name));
        let detaching =
            |name: &NicName| shown.nics.iter().any(|one| one.nic.nic == *name && !attached(one.attachment));
        nics.retain(|(name, _)| !detaching(name));
        volumes.sort();
        shown_volumes.sort();
        let by_name = |one: &(NicName, Link), other: &(NicName, Link)| one.0.cmp(&other.0);
        nics.sort_by(by_name);
        shown_nics.sort_by(by_name);
        if (&volumes, &nics, self.parts.size) == (&shown_volumes, &shown_nics, shown.size) {
            return None;
        }
        Some(format!(
            "it has {volumes:?}, {nics:?}, {:?}; shown are {shown_volumes:?}, {shown_nics:?}, {:?}",
            self.parts.size, shown.size
        ))
    }
}

impl Parts {
    fn of(machine: &Machine) -> Self {
        Self {
            volumes: machine.volumes.iter().map(|volume| volume.volume.clone()).collect(),
            nics: machine.nics.iter().map(|nic| (nic.nic.clone(), nic.link)).collect(),
            size: machine.size,
        }
    }

    fn has(&self, part: &Part) -> bool {
        match part {
            Part::Volume(name) => self.volumes.contains(name),
            Part::Nic(name) => self.nics.iter().any(|(other, _)| other == name),
        }
    }

    fn lose(&mut self, part: &Part) {
        match part {
            Part::Volume(name) => self.volumes.retain(|other| other != name),
            Part::Nic(name) => self.nics.retain(|(other, _)| other != name),
        }
    }
}
