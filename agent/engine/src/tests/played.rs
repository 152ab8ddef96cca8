//! A host that is played: machines, a journal, and a crash wherever it is wanted.

use crate::*;
use agent_protocol::{
    Action, Backend, Capability, Command, Facility, Failure, Instance, NicName, OpId, Outcome, Provision,
    State, Stats, Support, Text, Uuid, Verb, VolumeName,
};
use std::collections::BTreeMap;

/// A machine as it really is.
#[derive(Clone)]
pub(crate) struct Real {
    pub(crate) state: State,
    pub(crate) volumes: Vec<VolumeName>,
    pub(crate) nics: Vec<NicName>,
    /// What was done to it, in order.
    pub(crate) steps: Vec<Step>,
    /// Its guest does what it is asked.
    pub(crate) obeys: bool,
    /// Its hypervisor does not answer.
    pub(crate) hangs: bool,
    pub(crate) passage: Option<Passage>,
    /// What comes of moving it: it arrives, or breaks off in the middle.
    pub(crate) moves: bool,
    /// Its memory is saved.
    saved: bool,
    /// The guest is about to do what it was asked.
    asked: Option<Step>,
    ended: Option<Ended>,
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) machines: BTreeMap<Uuid, Real>,
    /// By which of the hypervisors each of them is run.
    pub(crate) by: BTreeMap<Uuid, usize>,
    /// What is durable.
    pub(crate) journal: Vec<Batch>,
    pub(crate) now_ms: u64,
    pub(crate) boots: u128,
    /// How many places to crash at were passed, and at which one to crash.
    pub(crate) passed: usize,
    pub(crate) crash_at: Option<usize>,
    pub(crate) crashes: usize,
    pub(crate) guests_obey: bool,
    random: u128,
    next: u64,
}

/// Two hypervisors, each with an image of its own and something that only the other can do.
fn hosts() -> Vec<Host> {
    let host = |name, image: &str, impossible| {
        let capability = |&verb: &Verb| Capability {
            verb,
            support: if verb == impossible { Support::Impossible } else { Support::Native },
            by: Text::new("played"),
        };
        let capabilities = Verb::ALL.iter().map(capability).collect();
        // The second tells nothing of consoles, and that it has no figures.
        let told = |facility: &&Facility| name == "fake" || **facility != Facility::Console;
        let provision = |&facility: &Facility| Provision {
            facility,
            support: match facility {
                Facility::Stats if name == "other" => Support::Impossible,
                _ => Support::Native,
            },
            by: Text::new("played"),
        };
        let facilities = Facility::ALL.iter().filter(told).map(provision).collect();
        let backend = Backend { name: Text::new(name), version: Text::new("1"), capabilities, facilities };
        Host { backend, images: vec![image.parse().unwrap()] }
    };
    vec![host("fake", "tiny", Verb::VolumeResize), host("other", "small", Verb::Pause)]
}

impl World {
    pub(crate) fn new() -> Self {
        let mut engine = Engine::new(Uuid(1), hosts(), Limits::DEFAULT);
        engine.open(0, 0);
        Self {
            engine,
            machines: BTreeMap::new(),
            by: BTreeMap::new(),
            journal: Vec::new(),
            now_ms: 0,
            boots: 1,
            passed: 0,
            crash_at: None,
            crashes: 0,
            guests_obey: true,
            random: 1,
            next: 0,
        }
    }

    /// The agent ends, and another one starts with what is durable.
    pub(crate) fn restart(&mut self) {
        self.restart_from(false);
    }

    /// The same; the journal may be damaged.
    pub(crate) fn restart_from(&mut self, damaged: bool) {
        self.boots += 1;
        self.now_ms = 0;
        self.engine = Engine::new(Uuid(self.boots), hosts(), Limits::DEFAULT);
        let mut head = 0;
        for batch in &self.journal {
            head = batch.last;
            batch.entries.iter().cloned().for_each(|entry| self.engine.replay(entry));
        }
        if damaged {
            self.engine.doubt();
        }
        self.engine.open(head, 0);
    }

    /// A place where the agent may end; whether it does.
    fn crashes_here(&mut self) -> bool {
        self.passed += 1;
        let crashes = self.crash_at == Some(self.passed);
        if crashes {
            self.crashes += 1;
            self.restart();
        }
        crashes
    }

    /// Do what is to be done, until there is nothing more at this time.
    pub(crate) fn run(&mut self) {
        loop {
            if let Some(batch) = self.engine.take() {
                if self.crashes_here() {
                    continue;
                }
                let last = batch.last;
                self.journal.push(batch);
                if !self.crashes_here() {
                    self.engine.durable(last);
                }
                continue;
            }
            let Some(job) = self.engine.next_job() else { return };
            let performs = matches!(job.task, Task::Perform(_) | Task::Remove);
            if matches!(job.task, Task::Perform(Step::Start | Step::Restore)) {
                // It is there before it runs.
                self.machine(&job.machine).begin();
                if self.crashes_here() {
                    continue;
                }
            }
            let report = self.work(&job);
            if performs && self.crashes_here() {
                continue;
            }
            self.engine.report(job.id, report, self.now_ms);
        }
    }

    /// Let time pass.
    pub(crate) fn pass(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        let boots = self.boots;
        while self.now_ms < until && self.boots == boots {
            self.now_ms += 100;
            self.engine.tick(self.now_ms);
            self.run();
        }
    }

    fn machine(&mut self, machine: &Machine) -> &mut Real {
        self.machines.entry(machine.uuid).or_insert_with(|| Real {
            state: State::Stopped,
            volumes: Vec::new(),
            nics: Vec::new(),
            steps: Vec::new(),
            obeys: self.guests_obey,
            hangs: false,
            passage: None,
            moves: true,
            saved: false,
            asked: None,
            ended: None,
        })
    }

    pub(crate) fn work(&mut self, job: &Job) -> Report {
        let by = *self.by.entry(job.machine.uuid).or_insert(job.backend);
        assert_eq!(by, job.backend, "a machine is given to one hypervisor only");
        let real = self.machine(&job.machine);
        real.obey();
        let ended = if job.task == Task::Adopt { None } else { real.ended.take() };
        let result = match &job.task {
            Task::Adopt | Task::Look => Finding::Seen(real.look()),
            Task::Stats => Finding::Used(Ok(Stats { cpu_ms: 7, ..Stats::default() })),
            Task::Remove => {
                let outcome = real.step(&Step::End, &job.machine);
                real.passage = None;
                Finding::Performed(outcome)
            }
            Task::CallOff => Finding::Performed(Ok(Vec::new())),
            Task::Perform(step) if ended.is_some() && step.needs_running() => {
                Finding::Performed(Err(Fault::new(Failure::Ended, "it has ended")))
            }
            Task::Perform(step) => Finding::Performed(real.step(step, &job.machine)),
        };
        Report { ended, result }
    }

    pub(crate) fn real(&mut self, id: &str) -> &mut Real {
        let uuid = self.instance(id).uuid;
        self.machines.get_mut(&uuid).unwrap()
    }

    pub(crate) fn instance(&self, id: &str) -> Instance {
        let found = self.engine.instances(None, 9999).instances.into_iter().find(|one| one.id.as_str() == id);
        found.unwrap_or_else(|| panic!("{id} is not listed"))
    }

    pub(crate) fn command(&mut self, id: &str, action: Action) -> Command {
        self.next += 1;
        Command::new(format!("op-{}", self.next).parse().unwrap(), id.parse().unwrap(), action)
    }

    /// Hand over a command and do all that can be done now; what is known of it then.
    pub(crate) fn send(&mut self, command: &Command) -> Known {
        self.random += 1;
        let reply = self.engine.command(command, self.now_ms, self.random << 80);
        self.run();
        match reply {
            Reply::Now(outcome) => Known::Ended(outcome),
            Reply::Later => self.engine.outcome(&command.op_id),
            Reply::Looking(ticket) => Known::Ended(self.engine.described(&ticket).unwrap()),
        }
    }

    pub(crate) fn act(&mut self, id: &str, action: Action) -> Outcome {
        let command = self.command(id, action);
        match self.send(&command) {
            Known::Ended(outcome) | Known::Accepted(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn ended(&self, op_id: &OpId) -> Outcome {
        match self.engine.outcome(op_id) {
            Known::Ended(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// An instance that has a disk `d`, an interface `n` and a snapshot `s`, and stands like this.
    pub(crate) fn reach(&mut self, id: &str, state: State) {
        self.act(id, create(!matches!(state, State::Stopped | State::Terminated)));
        for action in [volume_attach("d"), nic_attach("n"), snapshot("s")] {
            assert!(matches!(self.act(id, action), Outcome::Done { changed: true, .. }));
        }
        match state {
            State::Paused => drop(self.act(id, Action::Pause {})),
            State::Saved => drop(self.act(id, Action::Save {})),
            State::Terminated => drop(self.act(id, Action::Terminate {})),
            State::Stopping => {
                self.real(id).obeys = false;
                self.act(id, stop(true));
            }
            State::Failed => {
                self.real(id).die();
                self.act(id, Action::Describe {});
            }
            State::Unknown => {
                self.real(id).hangs = true;
                self.act(id, Action::Describe {});
            }
            _ => {}
        }
        assert_eq!(self.instance(id).state, state);
        self.run();
    }
}

impl Real {
    fn obey(&mut self) {
        if !self.obeys || self.state != State::Running {
            return;
        }
        match self.asked.take() {
            Some(Step::AskToStop) => {
                self.state = State::Stopped;
                self.ended = Some(Ended { orderly: true, how: Text::new("it powered off") });
            }
            Some(Step::DetachVolume(name)) => self.volumes.retain(|one| *one != name),
            Some(Step::DetachNic(name)) => self.nics.retain(|one| *one != name),
            _ => {}
        }
    }

    /// The first half of a start.
    fn begin(&mut self) {
        if !self.hangs && matches!(self.state, State::Stopped | State::Saved) {
            self.state = State::Pending;
        }
    }

    pub(crate) fn die(&mut self) {
        self.state = State::Stopped;
        self.ended = Some(Ended { orderly: false, how: Text::new("it died") });
    }

    fn look(&self) -> Observation {
        if self.hangs {
            return Observation::of(State::Unknown);
        }
        let runs = matches!(self.state, State::Running | State::Paused);
        Observation {
            volumes: runs.then(|| self.volumes.clone()),
            nics: runs.then(|| self.nics.clone()),
            passage: self.passage,
            ..Observation::of(self.state)
        }
    }

    fn step(&mut self, step: &Step, machine: &Machine) -> Result<Evidence, Fault> {
        self.steps.push(step.clone());
        if self.hangs && *step != Step::End {
            return Err(Fault::new(Failure::Timeout, "it does not answer"));
        }
        match step {
            Step::Start => {
                self.state = State::Running;
                self.volumes = machine.volumes.iter().map(|one| one.volume.clone()).collect();
                self.nics = machine.nics.iter().map(|one| one.nic.clone()).collect();
            }
            Step::Restore => {
                let volumes = machine.volumes.iter().map(|one| one.volume.clone());
                let nics = machine.nics.iter().map(|one| one.nic.clone());
                if !(volumes.eq(self.volumes.iter().cloned()) && nics.eq(self.nics.iter().cloned())) {
                    self.state = State::Saved;
                    return Err(Fault::new(Failure::Hypervisor, "its memory is that of another machine"));
                }
                (self.state, self.saved) = (State::Running, false);
            }
            Step::Resume => self.state = State::Running,
            Step::Pause => self.state = State::Paused,
            Step::End => {
                let state = if self.saved { State::Saved } else { State::Stopped };
                (self.state, self.hangs, self.ended) = (state, false, None);
            }
            Step::MigratePrepare => {
                (self.state, self.passage) = (State::Pending, Some(Passage::Awaited));
            }
            Step::MigrateStart(_) if !self.moves => {
                (self.state, self.passage) = (State::Paused, Some(Passage::HandedOver));
                return Err(Fault::new(Failure::Hypervisor, "it broke off"));
            }
            Step::MigrateStart(_) => {
                (self.state, self.passage) = (State::Stopped, Some(Passage::Arrived));
            }
            Step::MigrateCancel => {
                self.passage = None;
                if self.state == State::Paused {
                    self.state = State::Running;
                }
            }
            Step::Save => (self.state, self.saved) = (State::Saved, true),
            Step::AttachVolume(volume) => self.volumes.push(volume.volume.clone()),
            Step::AttachNic(nic) => self.nics.push(nic.nic.clone()),
            Step::AskToStop | Step::DetachVolume(_) | Step::DetachNic(_) => self.asked = Some(step.clone()),
            _ => {}
        }
        Ok(vec![Text::new("played")])
    }
}

pub(crate) fn create(start: bool) -> Action {
    Action::Create { image: "tiny".parse().unwrap(), start, size: agent_protocol::Size::default() }
}

pub(crate) fn stop(graceful: bool) -> Action {
    Action::Stop { graceful, timeout_ms: 5000, then: agent_protocol::Then::Leave }
}

pub(crate) fn volume_attach(name: &str) -> Action {
    let text = format!(r#"{{"volume":"{name}","iqn":"iqn.2026-11.dev.corbel:{name}"}}"#);
    Action::VolumeAttach { volume: agent_protocol::decode(text.as_bytes()).unwrap() }
}

pub(crate) fn nic_attach(name: &str) -> Action {
    let text = format!(r#"{{"nic":"{name}","network":"net","mac":"52:54:00:00:00:01"}}"#);
    Action::NicAttach { nic: agent_protocol::decode(text.as_bytes()).unwrap() }
}

pub(crate) fn snapshot(name: &str) -> Action {
    Action::Snapshot { snapshot: name.parse().unwrap() }
}

/// A command of each verb, for an instance that was made by [`World::reach`].
pub(crate) fn action(verb: Verb) -> Action {
    let name = |name: &str| name.parse().unwrap();
    let timeout_ms = 5000;
    match verb {
        Verb::Create => create(true),
        Verb::Start => Action::Start {},
        Verb::Stop => stop(true),
        Verb::ForceStop => stop(false),
        Verb::Reboot => Action::Reboot { timeout_ms, then: agent_protocol::Then::Leave },
        Verb::Reset => Action::Reset {},
        Verb::Pause => Action::Pause {},
        Verb::Resume => Action::Resume {},
        Verb::Save => Action::Save {},
        Verb::Restore => Action::Restore {},
        Verb::Snapshot => snapshot("t"),
        Verb::Revert => Action::Revert { snapshot: "s".parse().unwrap() },
        Verb::Resize => Action::Resize { size: agent_protocol::Size { cpus: Some(2), memory_mib: None } },
        Verb::VolumeAttach => volume_attach("e"),
        Verb::VolumeDetach => Action::VolumeDetach { volume: name("d"), timeout_ms },
        Verb::VolumeResize => Action::VolumeResize { volume: name("d") },
        Verb::NicAttach => nic_attach("m"),
        Verb::NicDetach => Action::NicDetach { nic: "n".parse().unwrap(), timeout_ms },
        Verb::NicUpdate => Action::NicUpdate { nic: "n".parse().unwrap(), link: agent_protocol::Link::Down },
        Verb::MigratePrepare => Action::MigratePrepare { image: "tiny".parse().unwrap(), uuid: Uuid(0xabc) },
        Verb::MigrateStart => Action::MigrateStart { peer: "there".parse().unwrap() },
        Verb::MigrateCancel => Action::MigrateCancel {},
        Verb::Terminate => Action::Terminate {},
        Verb::Describe => Action::Describe {},
    }
}
