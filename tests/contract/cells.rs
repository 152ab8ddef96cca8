//! Every command in every state, each sent three times: as a new command, again under the same name, and once more as
//! a new command. What it does the first time is what the life cycle says; the second time nothing may be done and the
//! answer is the same; the third time it finds what the first one left.

use crate::parent::Parent;
use crate::states::{self, STANDINGS, Standing, create, done, natively, reach};
use agent_protocol::lifecycle::{Effect, effect};
use agent_protocol::{
    Action, Backend, Failure, Link, Nic, Outcome, Refusal, Size, State, Support, Then, Verb, Volume, encode,
    path,
};
use image_launch::stage::IQN;
use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

/// How many machines are started at once: translated ones take a core each, and libvirt's wait 15 s for theirs.
pub(crate) const AT_ONCE: usize = 3;

/// How many cells or stories are played at once: most of their time they wait, for timeouts, for libvirtd, for a guest.
const CELLS_AT_ONCE: usize = 8;

/// What a command in one state has to come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    /// It is done and has changed something; the state after it.
    Changed(State),
    /// It is done, and nothing had to be.
    Unchanged,
    /// Nothing is done.
    Refused(Refusal),
    /// It is tried in vain, and the state stays.
    Failed(Failure),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed(state) => write!(f, "→ {state}"),
            Self::Unchanged => f.write_str("="),
            Self::Refused(code) => f.write_str(code.as_str()),
            Self::Failed(code) => write!(f, "✗ {}", code.as_str()),
        }
    }
}

/// What has come out for one verb: one text a standing, in the order of [`STANDINGS`].
pub(crate) type Row = (Verb, Vec<String>);

/// What each verb has come to in each standing when it was first sent.
type Seen = Mutex<BTreeMap<(Verb, Standing), Outcome>>;

/// An outcome as the page has it.
fn shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { changed: true, instance, .. } => Expected::Changed(instance.state).to_string(),
        Outcome::Done { .. } => Expected::Unchanged.to_string(),
        Outcome::Refused { code, .. } => Expected::Refused(*code).to_string(),
        Outcome::Failed { code, .. } => Expected::Failed(*code).to_string(),
        other => format!("{other:?}"),
    }
}

/// Some cells of the table that are played one after the other.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// All that changes nothing of what stands like this, on one instance.
    Quiet(Standing),
    /// One verb that changes something, on an instance of its own.
    Loud(Standing, Verb),
}

/// Plays the whole table.
pub(crate) fn play(parent: &Parent, backend: &Backend) -> Vec<Row> {
    let reached = |standing: Standing| standing != Some(State::Saved) || !is_impossible(backend, Verb::Save);
    let standings: Vec<Standing> = STANDINGS.into_iter().filter(|one| reached(*one)).collect();
    let mut parts = Vec::new();
    for standing in &standings {
        let loud = Verb::ALL.iter().filter(|verb| is_loud(backend, **verb, *standing));
        parts.extend(loud.map(|verb| Part::Loud(*standing, *verb)));
    }
    parts.extend(standings.iter().map(|standing| Part::Quiet(*standing)));
    // First those that sit a timeout out, so that nobody waits for them at the end.
    parts.sort_by_key(|part| match *part {
        Part::Loud(standing, verb) => !matches!(expected(backend, verb, standing), Expected::Failed(_)),
        Part::Quiet(standing) => standing != Some(State::Unknown),
    });
    let seen = Seen::default();
    at_once(parts, |part| match part {
        Part::Quiet(standing) => all_quiet(parent, backend, standing, &seen),
        Part::Loud(standing, verb) => {
            let outcome = loud(parent, backend, verb, standing);
            seen.lock().unwrap().insert((verb, standing), outcome);
        }
    });
    let seen = seen.into_inner().unwrap();
    let cell = |verb: Verb, standing: Standing| match seen.get(&(verb, standing)) {
        Some(outcome) => shown(outcome),
        None => "not reached".into(),
    };
    let row = |verb: Verb| STANDINGS.iter().map(|standing| cell(verb, *standing)).collect();
    Verb::ALL.iter().map(|verb| (*verb, row(*verb))).collect()
}

/// Plays each, several at once, and fails when all are over if one did.
pub(crate) fn at_once<T: Copy + Debug + Send>(all: Vec<T>, play: impl Fn(T) + Sync) {
    let (rest, wrong) = (Mutex::new(all.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CELLS_AT_ONCE {
            scope.spawn(|| {
                loop {
                    let Some(one) = rest.lock().unwrap().next() else { return };
                    if catch_unwind(AssertUnwindSafe(|| play(one))).is_err() {
                        wrong.lock().unwrap().push(one);
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "not as the contract says, each with its reason above: {wrong:?}");
}

/// Whether a verb is to change something of what stands like this.
fn is_loud(backend: &Backend, verb: Verb, standing: Standing) -> bool {
    // Of what is impossible, which of two reasons is told does not matter; that nothing was sent does.
    !is_impossible(backend, verb)
        && !matches!(expected(backend, verb, standing), Expected::Refused(_) | Expected::Unchanged)
}

/// All that changes nothing of what stands like this.
fn all_quiet(parent: &Parent, backend: &Backend, standing: Standing, seen: &Seen) {
    let shared = format!("quiet-{}", states::name(standing));
    reach(parent, &shared, standing);
    for verb in Verb::ALL.iter().filter(|verb| !is_loud(backend, **verb, standing)) {
        let expected = expected(backend, *verb, standing);
        let outcome = if is_impossible(backend, *verb) {
            refused(parent, &shared, *verb, expected)
        } else {
            quiet(parent, &shared, *verb, expected)
        };
        seen.lock().unwrap().insert((*verb, standing), outcome);
    }
    finish(parent, &shared);
}

/// A command that changes nothing: so it does not, however often it is sent.
fn quiet(parent: &Parent, id: &str, verb: Verb, expected: Expected) -> Outcome {
    let before = Look::at(parent, id);
    let command = parent.command(id, action(verb));
    let first = parent.settled(&command);
    check(id, verb, &first, expected);
    if verb != Verb::Describe {
        assert_eq!(parent.settled(&command), first, "{verb} {id}, sent again");
    }
    check(id, verb, &parent.act(id, action(verb)), expected);
    assert_eq!(Look::at(parent, id), before, "{verb} {id} is to change nothing");
    first
}

/// A command that the hypervisor cannot carry out: no state of the instance makes anything be sent.
fn refused(parent: &Parent, id: &str, verb: Verb, expected: Expected) -> Outcome {
    let before = Look::at(parent, id);
    let outcome = parent.act(id, action(verb));
    if !matches!(outcome, Outcome::Refused { .. }) {
        check(id, verb, &outcome, expected);
    }
    assert_eq!(Look::at(parent, id), before, "{verb} {id} is impossible");
    outcome
}

/// A command that changes something, on an instance of its own.
fn loud(parent: &Parent, backend: &Backend, verb: Verb, standing: Standing) -> Outcome {
    let expected = expected(backend, verb, standing);
    let id = format!("{}-{verb}", states::name(standing)).replace('.', "-");
    reach_for(parent, &id, verb, standing);
    let command = parent.command(&id, action(verb));
    let first = parent.settled(&command);
    check(&id, verb, &first, expected);
    let after = Look::at(parent, &id);
    if let Expected::Changed(state) = expected {
        // A migration that is made ready waits for the other host, and whatever else is done is seen at once.
        assert_eq!(after.state, Some(state), "{verb} {id}");
    }
    assert_eq!(parent.settled(&command), first, "{verb} {id}, sent again");
    assert_eq!(Look::at(parent, &id), after, "{verb} {id}, sent again, is to change nothing");
    let again = twice(backend, verb, expected);
    if verb == Verb::Reboot {
        // Its guest hears nothing before it is up again.
        parent.await_guest(&id);
    }
    check(&id, verb, &parent.act(&id, action(verb)), again);
    if matches!(again, Expected::Refused(_) | Expected::Unchanged) {
        assert_eq!(Look::at(parent, &id).effects, after.effects, "{verb} {id}, asked for anew");
    }
    finish(parent, &id);
    first
}

/// What is seen of an instance, by the agent and from outside.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    state: Standing,
    effects: Vec<String>,
}

impl Look {
    /// Looks, and holds what the agent says against what the hypervisor's process says.
    fn at(parent: &Parent, id: &str) -> Self {
        let Some(instance) = parent.find(id) else { return Self { state: None, effects: Vec::new() } };
        let uuid = instance.uuid.to_string();
        let native = parent.native.state(&uuid);
        let fitting = natively(instance.state);
        assert!(
            fitting.contains(&native.as_deref()),
            "{id} is {} to the agent and {native:?} to QEMU",
            instance.state
        );
        Self { state: Some(instance.state), effects: parent.native.effects(&uuid) }
    }
}

/// What the life cycle says that a verb comes to.
fn expected(backend: &Backend, verb: Verb, standing: Standing) -> Expected {
    let impossible = is_impossible(backend, verb);
    let Some(state) = standing else {
        return match verb {
            Verb::Create => Expected::Changed(State::Stopped),
            Verb::MigratePrepare if impossible => Expected::Refused(Refusal::Impossible),
            Verb::MigratePrepare => Expected::Changed(State::Pending),
            _ => Expected::Refused(Refusal::UnknownInstance),
        };
    };
    match (effect(state, verb), verb) {
        (Effect::Change(_) | Effect::Keep, _) if impossible => Expected::Refused(Refusal::Impossible),
        // A guest whose processors are held cannot let go of anything.
        (Effect::Keep, Verb::VolumeDetach | Verb::NicDetach) if state == State::Paused => {
            Expected::Failed(Failure::GuestDidNotRelease)
        }
        // Nothing moves that could be stopped from moving.
        (Effect::Keep, Verb::MigrateCancel) => Expected::Unchanged,
        // It is asked, and has done it when the command ends.
        (Effect::Change(State::Stopping), _) => Expected::Changed(State::Stopped),
        (Effect::Change(state), _) => Expected::Changed(state),
        (Effect::Keep, _) => Expected::Changed(state),
        // It has no such disk.
        (Effect::Already, Verb::VolumeResize) => Expected::Refused(Refusal::UnknownPart),
        (Effect::Already, _) => Expected::Unchanged,
        (Effect::Refuse(code), _) => Expected::Refused(code),
    }
}

/// What the same verb comes to on what it has left behind.
fn twice(backend: &Backend, verb: Verb, first: Expected) -> Expected {
    match (verb, first) {
        (Verb::VolumeDetach | Verb::NicDetach, Expected::Changed(_)) => {
            Expected::Refused(Refusal::UnknownPart)
        }
        (Verb::VolumeAttach | Verb::NicAttach | Verb::NicUpdate | Verb::Resize, Expected::Changed(_)) => {
            Expected::Unchanged
        }
        (Verb::Snapshot, Expected::Changed(_)) => Expected::Refused(Refusal::PartExists),
        (_, Expected::Changed(state)) => expected(backend, verb, Some(state)),
        (_, other) => other,
    }
}

pub(crate) fn is_impossible(backend: &Backend, verb: Verb) -> bool {
    let found = backend.capabilities.iter().find(|capability| capability.verb == verb);
    found.is_none_or(|capability| capability.support == Support::Impossible)
}

/// Holds an outcome against what it has to be.
fn check(id: &str, verb: Verb, outcome: &Outcome, expected: Expected) {
    let as_expected = match (outcome, expected) {
        (Outcome::Done { changed: true, instance, evidence }, Expected::Changed(state)) => {
            assert!(!evidence.is_empty(), "{verb} {id} is done and nothing proves it");
            instance.state == state
        }
        (Outcome::Done { changed: false, .. }, Expected::Unchanged) => true,
        (Outcome::Refused { code, .. }, Expected::Refused(wanted)) => *code == wanted,
        (Outcome::Failed { code, .. }, Expected::Failed(wanted)) => *code == wanted,
        _ => false,
    };
    assert!(as_expected, "{verb} {id} is to be {expected:?} and is {outcome:?}");
}

/// An instance of that standing with what the verb is about.
pub(crate) fn reach_for(parent: &Parent, id: &str, verb: Verb, standing: Standing) {
    let part = match verb {
        Verb::VolumeDetach | Verb::VolumeResize => Some(Verb::VolumeAttach),
        Verb::NicDetach | Verb::NicUpdate => Some(Verb::NicAttach),
        Verb::Revert => Some(Verb::Snapshot),
        _ => None,
    };
    let asks_the_guest = matches!(verb, Verb::Stop | Verb::Reboot | Verb::VolumeDetach | Verb::NicDetach);
    if standing == Some(State::Running) && asks_the_guest {
        done(parent.act(id, create("obedient", true)));
        parent.await_guest(id);
    } else {
        reach(parent, id, standing);
    }
    if let Some(part) = part {
        done(parent.act(id, action(part)));
    }
}

/// Ends an instance, which has to be possible however it stands.
fn finish(parent: &Parent, id: &str) {
    let Some(instance) = parent.find(id).filter(|instance| instance.state != State::Terminated) else {
        return;
    };
    let ended = done(parent.act(id, Action::Terminate {}));
    assert_eq!(ended.state, State::Terminated, "{id}");
    assert_eq!(
        parent.native.pid(&instance.uuid.to_string()),
        None,
        "{id} is terminated and its process runs"
    );
}

/// A verb with arguments that make sense.
pub(crate) fn action(verb: Verb) -> Action {
    let volume = Volume {
        volume: "data".parse().unwrap(),
        iqn: format!("{IQN}:disk0").parse().unwrap(),
        lun: 0,
        read_only: false,
    };
    let nic = Nic {
        nic: "nic".parse().unwrap(),
        network: "net".parse().unwrap(),
        mac: "52:54:00:00:00:77".parse().unwrap(),
        link: Link::Up,
    };
    let (snapshot, timeout_ms) = ("snap".parse().unwrap(), 4000);
    match verb {
        Verb::Create => create("deaf", false),
        Verb::Start => Action::Start {},
        Verb::Stop => Action::Stop { graceful: true, timeout_ms: 20_000, then: Then::Leave },
        Verb::ForceStop => Action::Stop { graceful: false, timeout_ms: 0, then: Then::Leave },
        Verb::Reboot => Action::Reboot { timeout_ms: 20_000, then: Then::Leave },
        Verb::Reset => Action::Reset {},
        Verb::Pause => Action::Pause {},
        Verb::Resume => Action::Resume {},
        Verb::Save => Action::Save {},
        Verb::Restore => Action::Restore {},
        Verb::Snapshot => Action::Snapshot { snapshot },
        Verb::Revert => Action::Revert { snapshot },
        Verb::Resize => Action::Resize { size: Size { cpus: Some(2), memory_mib: None } },
        Verb::VolumeAttach => Action::VolumeAttach { volume },
        Verb::VolumeDetach => Action::VolumeDetach { volume: volume.volume, timeout_ms },
        Verb::VolumeResize => Action::VolumeResize { volume: volume.volume },
        Verb::NicAttach => Action::NicAttach { nic },
        Verb::NicDetach => Action::NicDetach { nic: nic.nic, timeout_ms },
        Verb::NicUpdate => Action::NicUpdate { nic: nic.nic, link: Link::Down },
        Verb::MigratePrepare => Action::MigratePrepare {
            image: "deaf".parse().unwrap(),
            uuid: agent_protocol::Uuid::from_random(7),
        },
        Verb::MigrateStart => Action::MigrateStart { peer: "peer".parse().unwrap() },
        Verb::MigrateCancel => Action::MigrateCancel {},
        Verb::Terminate => Action::Terminate {},
        Verb::Describe => Action::Describe {},
    }
}

/// What the agent says that its hypervisor can do.
pub(crate) fn capabilities(parent: &Parent) -> Backend {
    let hello = agent_protocol::Hello {
        proto_min: 1,
        proto_max: agent_protocol::VERSION,
        appliance_boot: agent_protocol::Uuid(1),
        // That of the appliance, from which nothing is taken.
        epoch: Some(parent.epoch),
    };
    let (status, body) =
        parent.request(management_http::Method::Post, path::HELLO, Some(&encode(&hello))).unwrap();
    assert_eq!(status, 200, "{}", String::from_utf8_lossy(&body));
    let welcome: agent_protocol::Welcome = agent_protocol::decode(&body).unwrap();
    let mut backends = welcome.backends.into_iter();
    backends.find(|one| one.name.as_str() == parent.backend.name()).unwrap()
}
