//! Agent, appliance or hypervisor killed while commands are carried out: whatever was done was done once, and what is told
//! of it afterwards is true.
//!
//! A round has a machine for every command, sends them all at once and kills; rounds differ in the moment. What was done is
//! counted in the hypervisor's own trace.

use crate::cells::{AT_ONCE, action, is_impossible, reach_for};
use crate::native::signal;
use crate::parent::Parent;
use crate::states::{done, natively};
use agent_protocol::{Action, Backend, Command, Failure, Outcome, Refusal, State, Verb};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A command, the state it is sent in, and what it has the hypervisor do that must not be done twice.
pub(crate) const COMMANDS: &[(Verb, State, &str)] = &[
    (Verb::Start, State::Stopped, "start"),
    (Verb::Pause, State::Running, "stop"),
    (Verb::Resume, State::Paused, "cont"),
    (Verb::Stop, State::Running, "system_powerdown"),
    (Verb::ForceStop, State::Running, "quit"),
    (Verb::Reset, State::Running, "system_reset"),
    (Verb::Reboot, State::Running, "system_powerdown"),
    (Verb::Save, State::Running, "migrate"),
    (Verb::Restore, State::Saved, "start"),
    (Verb::VolumeAttach, State::Running, "blockdev_add"),
    (Verb::VolumeDetach, State::Running, "device_del"),
    (Verb::Terminate, State::Running, "quit"),
];

/// The moments of the kill after the commands were sent, in microseconds.
const MOMENTS: &[u64] = &[300, 1000, 2000, 4000, 8000, 16_000, 40_000, 120_000];

/// Whose end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Agent,
    Hypervisor,
}

/// The moments of this run: a few, or with `CORBEL_CRASHES=N` all of them N times, each time a little later than before.
pub(crate) fn moments() -> Vec<Duration> {
    let times: Option<u64> = std::env::var("CORBEL_CRASHES").ok().and_then(|text| text.parse().ok());
    let Some(times) = times else {
        return [1, 3, 6].map(|index| Duration::from_micros(MOMENTS[index])).to_vec();
    };
    let later =
        |time: u64| MOMENTS.iter().map(move |micros| Duration::from_micros(micros + micros * time / 7));
    (0..times).flat_map(later).collect()
}

/// One command of a round.
struct Sent {
    command: Command,
    verb: Verb,
    effect: &'static str,
    uuid: String,
    /// How often the hypervisor had done it before.
    before: usize,
    /// What was answered, if anything was.
    answered: Option<Outcome>,
}

impl Sent {
    fn times(&self, parent: &Parent) -> usize {
        parent.native.calls(&self.uuid, self.effect) - self.before
    }

    fn id(&self) -> &str {
        self.command.instance.as_str()
    }
}

/// Kills at every moment.
pub(crate) fn rounds(parent: &Parent, backend: &Backend, victim: Victim) {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for (round, moment) in moments().into_iter().enumerate() {
        let round = format!("{victim:?}-{round}").to_lowercase();
        let mut sent = prepare(parent, backend, &round);
        strike(parent, &mut sent, moment, victim);
        if victim == Victim::Agent {
            parent.start_agent(&[]);
        }
        for one in &sent {
            *told.entry(judge(parent, one, victim)).or_default() += 1;
        }
    }
    println!("{}, {victim:?} killed: {told:?}", backend.name.as_str());
}

/// A machine for every command.
fn prepare(parent: &Parent, backend: &Backend, round: &str) -> Vec<Sent> {
    let possible = |verb: Verb| !is_impossible(backend, verb);
    let cases = COMMANDS
        .iter()
        .filter(|(verb, state, _)| possible(*verb) && (*state != State::Saved || possible(Verb::Save)));
    let cases: Vec<_> = cases.collect();
    let ready = |(verb, state, effect): &(Verb, State, &'static str)| {
        let id = format!("{round}-{verb}").replace('.', "-");
        reach_for(parent, &id, *verb, Some(*state));
        let uuid = parent.find(&id).unwrap().uuid.to_string();
        let before = parent.native.calls(&uuid, effect);
        Sent {
            command: parent.command(&id, action(*verb)),
            verb: *verb,
            effect,
            uuid,
            before,
            answered: None,
        }
    };
    let mut sent = Vec::new();
    for some in cases.chunks(AT_ONCE) {
        sent.extend(std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|case| scope.spawn(|| ready(case))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        }));
    }
    sent
}

/// Sends all of them, and kills meanwhile.
fn strike(parent: &Parent, sent: &mut [Sent], moment: Duration, victim: Victim) {
    let pids: Vec<u32> = sent.iter().filter_map(|one| parent.native.pid(&one.uuid)).collect();
    std::thread::scope(|scope| {
        let began = Instant::now();
        for one in sent.iter_mut() {
            scope.spawn(|| one.answered = parent.try_send(&one.command));
        }
        std::thread::sleep(moment.saturating_sub(began.elapsed()));
        match victim {
            Victim::Agent => parent.kill_agent(),
            Victim::Hypervisor => pids.iter().filter(|pid| crate::native::runs(**pid)).for_each(|pid| {
                signal(*pid, Signal::KILL);
            }),
        }
    });
}

/// Holds what is told of a command against what was done; in a word what was told.
fn judge(parent: &Parent, one: &Sent, victim: Victim) -> String {
    let recalled = parent.recall(&one.command.op_id);
    if recalled.is_none() {
        assert_eq!(victim, Victim::Agent, "{}: an agent that lives forgets nothing", one.id());
        assert!(one.answered.is_none(), "{}: {:?} was answered and is forgotten", one.id(), one.answered);
        assert_eq!(one.times(parent), 0, "{}: the agent has never heard of it, and it was done", one.id());
    }
    // Who was not answered sends again: as the appliance does.
    let outcome = parent.settled(&one.command);
    let times = one.times(parent);
    assert!(times <= 1, "{}: {} was done {times} times; {outcome:?}\n{}", one.id(), one.effect, parent.log());
    if let Some(answered) = one.answered.as_ref().filter(|answer| !matches!(answer, Outcome::Accepted { .. }))
    {
        assert_eq!(&outcome, answered, "{}: it was told otherwise before", one.id());
    }
    let word = match &outcome {
        Outcome::Done { changed: true, .. } => {
            // A process that ended another way needed no command to end it.
            let needs = !matches!(one.verb, Verb::ForceStop | Verb::Terminate | Verb::Stop);
            assert!(times == 1 || !needs, "{}: told as done, and it was not: {outcome:?}", one.id());
            "done".into()
        }
        Outcome::Done { .. } => "already so".into(),
        Outcome::Refused { code, .. } => {
            assert_eq!(times, 0, "{}: refused, and it was done: {outcome:?}", one.id());
            format!("refused {}", code.as_str())
        }
        Outcome::Failed { code, .. } => {
            let asked = matches!(code, Failure::GuestIgnored | Failure::GuestDidNotRelease | Failure::Ended);
            assert!(times == 0 || asked || victim == Victim::Hypervisor, "{}: {outcome:?}", one.id());
            format!("failed {}", code.as_str())
        }
        Outcome::Indeterminate { .. } => {
            frozen(parent, one);
            "indeterminate".into()
        }
        Outcome::Accepted { .. } => panic!("{}: it does not end", one.id()),
    };
    the_state_is_true(parent, one.id());
    terminate(parent, one);
    if recalled.is_none() { format!("{word}, sent anew") } else { word }
}

/// A machine of which nobody knows what became of the last command: it can be looked at and ended, and nothing else.
fn frozen(parent: &Parent, one: &Sent) {
    done(parent.act(one.id(), Action::Describe {}));
    let outcome = parent.act(one.id(), Action::Pause {});
    let refused = matches!(outcome, Outcome::Refused { code: Refusal::Frozen | Refusal::Terminated, .. });
    assert!(refused, "{}: {outcome:?}", one.id());
}

/// What the agent says of the machine is what its process says, after a moment in which it notices.
fn the_state_is_true(parent: &Parent, id: &str) {
    let mut seen = None;
    let fits =
        image_launch::wait::until(format!("the agent knowing how {id} is"), crate::parent::LIMIT, || {
            let Some(instance) = parent.find(id) else { return Ok(Some(())) };
            let native = parent.native.state(&instance.uuid.to_string());
            let fitting = natively(instance.state).contains(&native.as_deref());
            seen = Some((instance.state, native));
            Ok(fitting.then_some(()))
        });
    fits.unwrap_or_else(|error| panic!("{error}: {seen:?}\n{}", parent.log()));
}

/// Ends it, however it stands.
fn terminate(parent: &Parent, one: &Sent) {
    let outcome = parent.act(one.id(), Action::Terminate {});
    let gone = matches!(
        outcome,
        Outcome::Done { .. } | Outcome::Refused { code: Refusal::Terminated | Refusal::UnknownInstance, .. }
    );
    assert!(gone, "{}: {outcome:?}", one.id());
    assert_eq!(parent.native.pid(&one.uuid), None, "{}", one.id());
}
