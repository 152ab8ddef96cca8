//! Agent, appliance or hypervisor killed while commands are carried out: whatever was done was done once, and what is told
//! of it afterwards is true.
//!
//! A round has a machine for every command, sends them all at once and kills; rounds differ in the moment. `steps.rs` kills
//! at the places of the journal instead. What was done is counted in the hypervisor's own trace.

use crate::cells::{AT_ONCE, action, is_impossible, reach_for};
use crate::native::signal;
use crate::parent::{LIMIT, Parent};
use crate::states::{create, done, natively};
use agent_protocol::{Action, Backend, Command, Failure, Instance, Outcome, Refusal, State, Verb, decode};
use image_launch::{api, wait};
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

/// A command, the state it is sent in, and what it has the hypervisor do that must not be done twice: not each step on the
/// way, but the one with which it is done. A process that is made and ended before its processors begin, or a disk that
/// QEMU logs in to and out of again before its guest sees it, has no effect.
pub(crate) struct Case {
    pub(crate) verb: Verb,
    pub(crate) state: Option<State>,
    pub(crate) effects: &'static [&'static str],
}

const fn case(verb: Verb, state: State, effects: &'static [&'static str]) -> Case {
    Case { verb, state: Some(state), effects }
}

/// Every command that does something to a machine here: a move takes two hosts, and its ends are in the tests of the agent
/// (`agent/src/hypervisor/qemu/between.rs`) and in the simulation. Of the first nine every place of `steps.rs` comes to one
/// that has a process there. libvirt has QEMU keep snapshots by its human monitor.
pub(crate) const CASES: &[Case] = &[
    case(Verb::Resume, State::Paused, &["cont"]),
    case(Verb::Pause, State::Running, &["stop"]),
    case(Verb::ForceStop, State::Running, &["quit"]),
    case(Verb::Save, State::Running, &["migrate"]),
    Case { verb: Verb::Create, state: None, effects: &["cont"] },
    case(Verb::Reset, State::Running, &["system_reset"]),
    case(Verb::Start, State::Stopped, &["cont"]),
    case(Verb::NicDetach, State::Running, &["device_del"]),
    case(Verb::VolumeDetach, State::Running, &["device_del"]),
    case(Verb::Stop, State::Running, &["system_powerdown"]),
    case(Verb::Reboot, State::Running, &["system_powerdown"]),
    case(Verb::Terminate, State::Running, &["quit"]),
    case(Verb::Snapshot, State::Running, &["snapshot_save", "human_monitor_command"]),
    case(Verb::Restore, State::Saved, &["cont"]),
    case(Verb::VolumeAttach, State::Running, &["device_add"]),
    case(Verb::NicAttach, State::Running, &["device_add"]),
    case(Verb::NicUpdate, State::Running, &["set_link"]),
    case(Verb::Revert, State::Running, &["snapshot_load"]),
    case(Verb::Revert, State::Running, ANEW),
    case(Verb::Resize, State::Running, &["device_add"]),
    case(Verb::VolumeResize, State::Running, &["block_resize"]),
];

/// libvirt goes back to a snapshot by a new process.
const ANEW: &[&str] = &["start"];

/// How many commands it takes for every place.
const FOR_PLACES: usize = 9;

/// The moments of the kill after the commands were sent, in microseconds.
const MOMENTS: &[u64] = &[300, 1000, 2000, 4000, 8000, 16_000, 40_000, 120_000];

/// Whose end it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Agent,
    Hypervisor,
}

/// How often every moment and every place is to be played, if this is to be a long run: `CORBEL_CRASHES=N`.
pub(crate) fn long() -> Option<u64> {
    std::env::var("CORBEL_CRASHES").ok().map(|text| text.parse().expect("CORBEL_CRASHES is a number"))
}

/// The moments of this run: one, or in a long run all of them, each time a little later than before.
pub(crate) fn moments() -> Vec<Duration> {
    let Some(times) = long() else { return vec![Duration::from_micros(MOMENTS[4])] };
    let later =
        |time: u64| MOMENTS.iter().map(move |micros| Duration::from_micros(micros + micros * time / 7));
    (0..times).flat_map(later).collect()
}

/// What the hypervisor can do, as the appliance tells it: to greet the agent oneself would take it from the appliance.
pub(crate) fn capabilities(parent: &Parent) -> Backend {
    let listed = wait::until("the appliance knowing its agent", LIMIT, || {
        let answer = api::ask(&parent.stage.net, "GET", "/v1/capabilities", None)?;
        Ok((answer.status == 200).then_some(answer))
    });
    let listed = listed.unwrap().body["hypervisors"].as_array().unwrap().clone();
    let mut backends =
        listed.iter().map(|one| decode::<Backend>(one.to_string().as_bytes()).expect("a hypervisor"));
    backends.find(|one| one.name.as_str() == parent.backend.name()).unwrap()
}

/// What the commands of a round are killed at.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    Moments,
    Places,
}

/// The commands of a round that the hypervisor knows: all of them in a long run, and else each in one of the two.
fn cases(backend: &Backend, at: At) -> impl Iterator<Item = &'static Case> {
    let possible = |verb: Verb| !is_impossible(backend, verb);
    let (places, moments) = CASES.split_at(FOR_PLACES);
    let some = match at {
        _ if long().is_some() => CASES,
        At::Moments => moments,
        At::Places => places,
    };
    let anew = backend.name.as_str() == "libvirt";
    let fits = move |case: &Case| case.verb != Verb::Revert || (case.effects == ANEW) == anew;
    some.iter()
        .filter(move |case| fits(case))
        .filter(move |case| possible(case.verb) && (case.state != Some(State::Saved) || possible(Verb::Save)))
}

/// One command of a round, and its machine.
pub(crate) struct Sent {
    pub(crate) id: String,
    pub(crate) case: &'static Case,
    pub(crate) command: Command,
    /// The machine's UUID, if there is one already.
    pub(crate) uuid: Option<String>,
    /// How often the hypervisor had done it before, and how many processes it had started.
    before: (usize, usize),
    /// What was answered, if anything was.
    pub(crate) answered: Option<Outcome>,
}

impl Sent {
    /// A machine that stands as the command needs it.
    fn ready(parent: &Parent, case: &'static Case, id: String) -> Self {
        let action = match case.state {
            None => create("deaf", true),
            Some(_) => action(case.verb),
        };
        reach_for(parent, &id, case.verb, case.state);
        let command = parent.command(&id, action);
        let uuid = parent.find(&id).map(|instance| instance.uuid.to_string());
        let mut one = Self { id, case, command, uuid, before: (0, 0), answered: None };
        one.before = (one.times(parent), one.started(parent));
        one
    }

    /// The machine's UUID, once it has one.
    fn uuid(&self, parent: &Parent) -> Option<String> {
        let made = || Some(parent.find(&self.id)?.uuid.to_string());
        self.uuid.clone().or_else(made)
    }

    /// How often it was done.
    pub(crate) fn times(&self, parent: &Parent) -> usize {
        let uuid = self.uuid(parent).unwrap_or_default();
        let times = |effect: &&str| parent.native.calls(&uuid, effect);
        self.case.effects.iter().map(times).sum::<usize>() - self.before.0
    }

    /// How many processes were started.
    fn started(&self, parent: &Parent) -> usize {
        self.uuid(parent).map_or(0, |uuid| parent.native.started(&uuid).len()) - self.before.1
    }
}

/// A machine for every command.
pub(crate) fn prepare(parent: &Parent, backend: &Backend, at: At, round: &str) -> Vec<Sent> {
    let cases: Vec<_> = cases(backend, at).collect();
    let ready = |case| Sent::ready(parent, case, format!("{round}-{}", case.verb).replace('.', "-"));
    let mut sent = Vec::new();
    for some in cases.chunks(AT_ONCE) {
        sent.extend(std::thread::scope(|scope| {
            let threads: Vec<_> = some.iter().map(|case| scope.spawn(|| ready(case))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        }));
    }
    sent
}

/// Kills at every moment.
pub(crate) fn rounds(parent: &Parent, backend: &Backend, victim: Victim) {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for (round, moment) in moments().into_iter().enumerate() {
        let round = format!("{victim:?}-{round}").to_lowercase();
        let mut sent = prepare(parent, backend, At::Moments, &round);
        strike(parent, &mut sent, moment, victim);
        if victim == Victim::Agent {
            parent.start_agent(&[]);
        }
        for one in &sent {
            *told.entry(judge(parent, one, victim)).or_default() += 1;
        }
    }
    println!("{}, {victim:?} killed at moments: {told:?}", backend.name.as_str());
}

/// Sends all of them, and kills meanwhile.
fn strike(parent: &Parent, sent: &mut [Sent], moment: Duration, victim: Victim) {
    let pid = |one: &Sent| parent.native.pid(one.uuid.as_ref()?);
    let pids: Vec<u32> = sent.iter().filter_map(pid).collect();
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
pub(crate) fn judge(parent: &Parent, one: &Sent, victim: Victim) -> String {
    let recalled = parent.recall(&one.command.op_id);
    if recalled.is_none() {
        assert_eq!(victim, Victim::Agent, "{}: an agent that lives forgets nothing", one.id);
        assert!(one.answered.is_none(), "{}: {:?} was answered and is forgotten", one.id, one.answered);
        assert_eq!(one.times(parent), 0, "{}: the agent has never heard of it, and it was done", one.id);
    }
    // Who was not answered sends again: as the appliance does.
    let outcome = parent.settled(&one.command);
    if let Some(answered) = one.answered.as_ref().filter(|answer| !matches!(answer, Outcome::Accepted { .. }))
    {
        assert_eq!(&outcome, answered, "{}: it was told otherwise before", one.id);
    }
    at_most_once(parent, one, &format!("{outcome:?}"));
    let word = match &outcome {
        Outcome::Done { changed: true, instance, .. } => is_done(parent, one, victim, instance).into(),
        Outcome::Done { .. } => "already so".into(),
        Outcome::Refused { code, .. } => {
            assert_eq!(one.times(parent), 0, "{}: refused, and it was done: {outcome:?}", one.id);
            format!("refused {}", code.as_str())
        }
        Outcome::Failed { code, .. } => {
            let asked = matches!(code, Failure::GuestIgnored | Failure::GuestDidNotRelease | Failure::Ended);
            is_not_done(parent, one, victim, asked, &format!("{outcome:?}"));
            format!("failed {}", code.as_str())
        }
        Outcome::Indeterminate { .. } => {
            frozen(parent, one);
            "indeterminate".into()
        }
        Outcome::Accepted { .. } => panic!("{}: it does not end", one.id),
    };
    the_state_is_true(parent, &one.id);
    terminate(parent, &one.id);
    if recalled.is_none() { format!("{word}, sent anew") } else { word }
}

/// It was done once at most, and no other process runs for the machine than the one that was started for it.
pub(crate) fn at_most_once(parent: &Parent, one: &Sent, told: &str) {
    let (times, started) = (one.times(parent), one.started(parent));
    let seen = || parent.native.effects(&one.uuid(parent).unwrap_or_default());
    assert!(times <= 1, "{}: done {times} times: {:?}; {told}\n{}", one.id, seen(), parent.log());
    // A snapshot of one that has died is made, and gone back to, by a process that runs no guest.
    let starts = matches!(
        one.case.verb,
        Verb::Create | Verb::Start | Verb::Restore | Verb::Reboot | Verb::Snapshot | Verb::Revert
    );
    assert!(started <= usize::from(starts), "{}: {started} processes: {:?}; {told}", one.id, seen());
    if let Some(uuid) = one.uuid(parent) {
        let running = parent.native.running(&uuid);
        assert!(running.len() <= 1, "{}: {running:?} run", one.id);
    }
}

/// What is told as done was done; how.
fn is_done(parent: &Parent, one: &Sent, victim: Victim, instance: &Instance) -> &'static str {
    let verb = one.case.verb;
    let times = one.times(parent);
    // A process that ended another way needed no command to end it.
    let ends = matches!(verb, Verb::ForceStop | Verb::Terminate | Verb::Stop);
    if times == 1 || ends {
        return "done";
    }
    // Of a machine that had died, what it is made of is changed for its next start, and that says what is told; a snapshot
    // is of its disks, and needs no QEMU that could have traced it.
    let changes = matches!(
        verb,
        Verb::VolumeAttach
            | Verb::VolumeDetach
            | Verb::NicAttach
            | Verb::NicDetach
            | Verb::NicUpdate
            | Verb::Resize
            | Verb::Snapshot
            | Verb::Revert
    );
    let died = victim == Victim::Hypervisor && matches!(instance.state, State::Failed | State::Stopped);
    let seen = || parent.native.effects(&instance.uuid.to_string());
    assert!(changes && died, "{}: told as done, and it was not: {instance:?}; {:?}", one.id, seen());
    if matches!(verb, Verb::Snapshot | Verb::Revert) {
        done(parent.act(&one.id, action(Verb::Revert)));
        return "done to its disks";
    }
    at_the_next_start(parent, one);
    "done for the next start"
}

/// A machine that is started has the disk or the interface that it was given while it was down, and none that was taken.
fn at_the_next_start(parent: &Parent, one: &Sent) {
    let started = done(parent.act(&one.id, Action::Start {}));
    let pid = parent.native.pid(&started.uuid.to_string()).unwrap();
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    let arguments = String::from_utf8_lossy(&arguments);
    if one.case.verb == Verb::Resize {
        let words: Vec<&str> = arguments.split('\0').collect();
        let sizes: Vec<&str> =
            words.windows(2).filter(|pair| pair[0] == "-smp").map(|pair| pair[1]).collect();
        let is_two = |size: &&str| size.trim_start_matches("cpus=").split(',').next() == Some("2");
        return assert!(sizes.last().is_some_and(is_two), "{}: {sizes:?}", one.id);
    }
    let (name, wanted) = match one.case.verb {
        Verb::VolumeAttach => (image_launch::stage::IQN, true),
        Verb::VolumeDetach => (image_launch::stage::IQN, false),
        Verb::NicDetach => ("52:54:00:00:00:77", false),
        _ => ("52:54:00:00:00:77", true),
    };
    assert_eq!(arguments.contains(name), wanted, "{}: {arguments}", one.id);
}

/// What is told as not done was not done; that its guest was `asked` may be what is told.
pub(crate) fn is_not_done(parent: &Parent, one: &Sent, victim: Victim, asked: bool, told: &str) {
    let state = parent.find(&one.id).map(|instance| instance.state);
    let so = match one.case.verb {
        _ if one.times(parent) == 0 => true,
        _ if asked => true,
        // It was given up, and the guest goes on as if it had never been held.
        Verb::Save if state == Some(State::Running) => true,
        // Its first half was done, and that it is off is told.
        Verb::Reboot => matches!(state, Some(State::Stopped | State::Failed)),
        // There is nothing left that it could have been done to.
        _ => victim == Victim::Hypervisor && matches!(state, Some(State::Stopped | State::Failed)),
    };
    assert!(so, "{}: it is {state:?}; {told}\n{}", one.id, parent.log());
}

/// A machine of which nobody knows what became of the last command: it can be looked at and ended, and nothing else.
pub(crate) fn frozen(parent: &Parent, one: &Sent) {
    done(parent.act(&one.id, Action::Describe {}));
    let outcome = parent.act(&one.id, Action::Pause {});
    let refused = matches!(outcome, Outcome::Refused { code: Refusal::Frozen | Refusal::Terminated, .. });
    assert!(refused, "{}: {outcome:?}", one.id);
}

/// What the agent says of the machine is what its process says, after a moment in which it notices. It is in a state that
/// lasts.
pub(crate) fn the_state_is_true(parent: &Parent, id: &str) {
    let mut seen = None;
    let fits = wait::until(format!("the agent knowing how {id} is"), LIMIT, || {
        let Some(instance) = parent.find(id) else { return Ok(Some(())) };
        let native = parent.native.state(&instance.uuid.to_string());
        let lasts = !matches!(instance.state, State::Pending | State::Saving | State::ShuttingDown);
        let fitting = lasts && natively(instance.state).contains(&native.as_deref());
        seen = Some((instance.state, native));
        Ok(fitting.then_some(()))
    });
    fits.unwrap_or_else(|error| panic!("{error}: {seen:?}\n{}", parent.log()));
}

/// Ends it, however it stands.
pub(crate) fn terminate(parent: &Parent, id: &str) {
    let uuid = parent.find(id).map(|instance| instance.uuid.to_string());
    let outcome = parent.act(id, Action::Terminate {});
    let gone = matches!(
        outcome,
        Outcome::Done { .. } | Outcome::Refused { code: Refusal::Terminated | Refusal::UnknownInstance, .. }
    );
    assert!(gone, "{id}: {outcome:?}");
    if let Some(uuid) = uuid {
        assert_eq!(parent.native.running(&uuid), Vec::<u32>::new(), "{id}");
    }
}
