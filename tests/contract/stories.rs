//! Commands that follow on each other, which no table of states shows: what one leaves behind for the next, and several at
//! once.

use crate::cells::{action, at_once};
use crate::parent::Parent;
use crate::states::{create, done};
use agent_protocol::{Action, Attachment, Failure, Instance, Outcome, Refusal, Size, State, Verb};

/// One story, told of an instance of this name.
type Story = fn(&Parent, &str);

const STORIES: &[(&str, Story)] = &[
    ("sleeps-twice", sleeps_twice),
    ("begins-anew", begins_anew),
    ("goes-back", goes_back),
    ("goes-back-to-before-its-start", goes_back_to_before_its_start),
    ("grows", grows),
    ("goes-back-to-another-size", goes_back_to_another_size),
    ("is-asked-at-once", is_asked_at_once),
    ("keeps-what-it-was-asked-for", keeps_what_it_was_asked_for),
    ("lets-go-when-it-is-reset", lets_go_when_it_is_reset),
    ("has-a-disk-that-no-snapshot-holds", has_a_disk_that_no_snapshot_holds),
    ("goes-back-without-its-interface", goes_back_without_its_interface),
    ("sleeps-with-all-it-has", sleeps_with_all_it_has),
    ("is-ended-while-it-sleeps", is_ended_while_it_sleeps),
];

/// Tells all of them.
pub(crate) fn tell(parent: &Parent) {
    at_once(STORIES.to_vec(), |(name, story)| story(parent, name));
}

impl Parent {
    /// Do what is to be done and to change something; the instance after it.
    fn does(&self, id: &str, action: Action, after: State) -> Instance {
        let said = format!("{action:?}");
        let outcome = self.act(id, action);
        assert!(matches!(outcome, Outcome::Done { changed: true, .. }), "{said} {id}: {outcome:?}");
        let instance = done(outcome);
        assert_eq!(instance.state, after, "{said} {id}");
        assert_eq!(self.find(id).map(|one| one.state), Some(after), "{said} {id}");
        instance
    }

    /// One that runs and whose guest listens.
    fn runs(&self, id: &str) {
        self.does(id, create("obedient", true), State::Running);
        self.await_guest(id);
    }

    /// End it, whatever it does.
    fn ends(&self, id: &str) {
        self.does(id, Action::Terminate {}, State::Terminated);
    }

    /// That it obeys: its guest goes on, and has not been forgotten by its hypervisor.
    fn obeys(&self, id: &str) {
        self.does(id, action(Verb::Stop), State::Stopped);
    }
}

fn failed(outcome: &Outcome, code: Failure) {
    assert!(matches!(outcome, Outcome::Failed { code: is, .. } if *is == code), "{outcome:?}");
}

fn sleeps_twice(parent: &Parent, id: &str) {
    parent.runs(id);
    for _ in 0..2 {
        parent.does(id, Action::Save {}, State::Saved);
        parent.does(id, Action::Restore {}, State::Running);
    }
    parent.does(id, Action::Pause {}, State::Paused);
    parent.does(id, Action::Save {}, State::Saved);
    parent.does(id, Action::Restore {}, State::Running);
    parent.obeys(id);
    // Nothing of its sleep is left.
    parent.does(id, Action::Start {}, State::Running);
    parent.await_guest(id);
    parent.obeys(id);
    parent.ends(id);
}

fn begins_anew(parent: &Parent, id: &str) {
    parent.runs(id);
    parent.does(id, Action::Pause {}, State::Paused);
    parent.does(id, Action::Reset {}, State::Paused);
    parent.does(id, Action::Save {}, State::Saved);
    parent.does(id, Action::Restore {}, State::Running);
    parent.await_guest(id);
    parent.does(id, Action::Pause {}, State::Paused);
    parent.does(id, Action::Reset {}, State::Paused);
    parent.does(id, action(Verb::Snapshot), State::Paused);
    parent.does(id, action(Verb::Revert), State::Paused);
    parent.does(id, Action::Resume {}, State::Running);
    parent.does(id, Action::Reset {}, State::Running);
    parent.does(id, action(Verb::Revert), State::Running);
    parent.ends(id);
}

fn goes_back(parent: &Parent, id: &str) {
    parent.runs(id);
    parent.does(id, action(Verb::Snapshot), State::Running);
    parent.does(id, Action::Pause {}, State::Paused);
    parent.does(id, action(Verb::Revert), State::Paused);
    parent.does(id, Action::Resume {}, State::Running);
    parent.does(id, action(Verb::Revert), State::Running);
    parent.does(id, Action::Save {}, State::Saved);
    parent.does(id, Action::Restore {}, State::Running);
    parent.does(id, action(Verb::Revert), State::Running);
    parent.obeys(id);
    parent.does(id, action(Verb::Revert), State::Stopped);
    parent.does(id, Action::Start {}, State::Running);
    parent.does(id, action(Verb::Revert), State::Running);
    parent.obeys(id);
    parent.ends(id);
}

fn goes_back_to_before_its_start(parent: &Parent, id: &str) {
    parent.does(id, create("obedient", false), State::Stopped);
    parent.does(id, action(Verb::Snapshot), State::Stopped);
    parent.does(id, Action::Start {}, State::Running);
    parent.await_guest(id);
    parent.does(id, action(Verb::Revert), State::Running);
    parent.does(id, Action::Pause {}, State::Paused);
    parent.does(id, action(Verb::Revert), State::Paused);
    parent.does(id, Action::Resume {}, State::Running);
    parent.ends(id);
}

fn grows(parent: &Parent, id: &str) {
    let size = |cpus| Action::Resize { size: Size { cpus: Some(cpus), memory_mib: None } };
    parent.runs(id);
    parent.does(id, size(2), State::Running);
    parent.does(id, Action::Save {}, State::Saved);
    parent.does(id, Action::Restore {}, State::Running);
    failed(&parent.act(id, size(1)), Failure::Hypervisor);
    assert_eq!(parent.find(id).unwrap().size.cpus, Some(2));
    parent.obeys(id);
    parent.does(id, action(Verb::Snapshot), State::Stopped);
    parent.does(id, size(1), State::Stopped);
    parent.does(id, action(Verb::Revert), State::Stopped);
    parent.does(id, Action::Start {}, State::Running);
    parent.does(id, size(2), State::Running);
    parent.ends(id);
}

fn goes_back_to_another_size(parent: &Parent, id: &str) {
    parent.runs(id);
    parent.does(id, action(Verb::Snapshot), State::Running);
    parent.does(id, action(Verb::Resize), State::Running);
    failed(&parent.act(id, action(Verb::Revert)), Failure::Hypervisor);
    assert_eq!(parent.find(id).unwrap().state, State::Running);
    parent.obeys(id);
    parent.ends(id);
}

fn is_asked_at_once(parent: &Parent, id: &str) {
    parent.does(id, create("obedient", false), State::Stopped);
    let all = [Verb::Start, Verb::Start, Verb::Pause, Verb::Pause, Verb::Save, Verb::Save];
    for (index, outcome) in all_at_once(parent, id, &all).iter().enumerate() {
        let first = index % 2 == 0;
        let as_expected = matches!(outcome, Outcome::Done { changed, .. } if *changed == first);
        assert!(as_expected, "{}: {outcome:?}", all[index]);
    }
    let uuid = parent.find(id).unwrap().uuid.to_string();
    assert_eq!(parent.native.started(&uuid).len(), 1);
    // What is forced goes before what waits.
    let all = [Verb::Restore, Verb::Pause, Verb::Resume, Verb::Terminate];
    let outcomes = all_at_once(parent, id, &all);
    for index in [0, 3] {
        assert!(matches!(outcomes[index], Outcome::Done { changed: true, .. }), "{outcomes:?}");
    }
    for outcome in &outcomes[1..3] {
        assert!(matches!(outcome, Outcome::Refused { code: Refusal::Terminated, .. }), "{outcomes:?}");
    }
    assert_eq!(parent.native.pid(&uuid), None);
}

/// Sends each when the agent has the one before it, and waits for all.
fn all_at_once(parent: &Parent, id: &str, verbs: &[Verb]) -> Vec<Outcome> {
    let commands: Vec<_> = verbs.iter().map(|verb| parent.command(id, action(*verb))).collect();
    std::thread::scope(|scope| {
        let mut waiting = Vec::new();
        for command in &commands {
            waiting.push(scope.spawn(|| parent.settled(command)));
            while parent.recall(&command.op_id).is_none() {
                std::thread::yield_now();
            }
        }
        waiting.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn keeps_what_it_was_asked_for(parent: &Parent, id: &str) {
    parent.does(id, create("deaf", true), State::Running);
    parent.does(id, action(Verb::VolumeAttach), State::Running);
    parent.does(id, action(Verb::NicAttach), State::Running);
    let long = |verb| match action(verb) {
        Action::VolumeDetach { volume, .. } => Action::VolumeDetach { volume, timeout_ms: 60_000 },
        Action::NicDetach { nic, .. } => Action::NicDetach { nic, timeout_ms: 60_000 },
        other => other,
    };
    let detaches = [Verb::VolumeDetach, Verb::NicDetach].map(|verb| parent.command(id, long(verb)));
    for detach in &detaches {
        assert!(matches!(parent.send(detach), Outcome::Accepted { .. }));
    }
    let attached = parent.find(id).unwrap();
    assert_eq!(attached.volumes[0].attachment, Attachment::Detaching);
    // It is asked for it still while it is held, and has it when it wakes.
    parent.does(id, Action::Pause {}, State::Paused);
    parent.does(id, Action::Resume {}, State::Running);
    parent.does(id, Action::Save {}, State::Saved);
    for detach in &detaches {
        failed(&parent.await_end(&detach.op_id), Failure::GuestDidNotRelease);
    }
    let saved = parent.does(id, Action::Restore {}, State::Running);
    assert_eq!((saved.volumes.len(), saved.nics.len()), (1, 1), "{saved:?}");
    // Its power is cut, and with it all that it kept.
    let detaches = [Verb::VolumeDetach, Verb::NicDetach].map(|verb| parent.command(id, long(verb)));
    for detach in &detaches {
        assert!(matches!(parent.send(detach), Outcome::Accepted { .. }));
    }
    let ended = parent.does(id, action(Verb::ForceStop), State::Stopped);
    for detach in &detaches {
        let outcome = parent.await_end(&detach.op_id);
        assert!(matches!(outcome, Outcome::Done { changed: true, .. }), "{outcome:?}");
    }
    drop(ended);
    let started = parent.does(id, Action::Start {}, State::Running);
    assert_eq!((started.volumes.len(), started.nics.len()), (0, 0), "{started:?}");
    parent.ends(id);
}

fn lets_go_when_it_is_reset(parent: &Parent, id: &str) {
    parent.does(id, create("deaf", true), State::Running);
    parent.does(id, action(Verb::VolumeAttach), State::Running);
    let detach = match action(Verb::VolumeDetach) {
        Action::VolumeDetach { volume, .. } => {
            parent.command(id, Action::VolumeDetach { volume, timeout_ms: 60_000 })
        }
        _ => unreachable!(),
    };
    assert!(matches!(parent.send(&detach), Outcome::Accepted { .. }));
    parent.does(id, Action::Reset {}, State::Running);
    let outcome = parent.await_end(&detach.op_id);
    assert!(matches!(outcome, Outcome::Done { changed: true, .. }), "{outcome:?}");
    parent.ends(id);
}

fn has_a_disk_that_no_snapshot_holds(parent: &Parent, id: &str) {
    parent.runs(id);
    parent.does(id, action(Verb::VolumeAttach), State::Running);
    failed(&parent.act(id, action(Verb::Snapshot)), Failure::Hypervisor);
    parent.obeys(id);
    failed(&parent.act(id, action(Verb::Snapshot)), Failure::Hypervisor);
    parent.does(id, action(Verb::VolumeDetach), State::Stopped);
    parent.does(id, action(Verb::Snapshot), State::Stopped);
    parent.does(id, action(Verb::VolumeAttach), State::Stopped);
    failed(&parent.act(id, action(Verb::Revert)), Failure::Hypervisor);
    parent.does(id, Action::Start {}, State::Running);
    parent.await_guest(id);
    failed(&parent.act(id, action(Verb::Revert)), Failure::Hypervisor);
    parent.does(id, action(Verb::VolumeDetach), State::Running);
    parent.does(id, action(Verb::Revert), State::Running);
    parent.ends(id);
}

fn goes_back_without_its_interface(parent: &Parent, id: &str) {
    parent.runs(id);
    parent.does(id, action(Verb::NicAttach), State::Running);
    parent.does(id, action(Verb::Snapshot), State::Running);
    let turned = parent.does(id, action(Verb::NicUpdate), State::Running);
    // The cable was plugged in then, and is not before its guest goes on.
    parent.does(id, action(Verb::Revert), State::Running);
    let effects = parent.native.effects(&turned.uuid.to_string());
    let back = effects.iter().rposition(|effect| matches!(effect.as_str(), "start" | "snapshot_load"));
    let since = &effects[back.unwrap()..];
    let place = |name: &str| since.iter().position(|effect| effect == name);
    assert!(place("set_link").is_some() && place("set_link") < place("cont"), "{effects:?}");
    parent.does(id, action(Verb::NicDetach), State::Running);
    failed(&parent.act(id, action(Verb::Revert)), Failure::Hypervisor);
    assert_eq!(parent.find(id).unwrap().state, State::Running);
    parent.obeys(id);
    parent.ends(id);
}

fn sleeps_with_all_it_has(parent: &Parent, id: &str) {
    parent.runs(id);
    parent.does(id, action(Verb::VolumeAttach), State::Running);
    parent.does(id, action(Verb::NicAttach), State::Running);
    parent.does(id, action(Verb::NicUpdate), State::Running);
    for _ in 0..2 {
        parent.does(id, Action::Save {}, State::Saved);
        parent.does(id, Action::Restore {}, State::Running);
    }
    parent.does(id, action(Verb::VolumeDetach), State::Running);
    parent.does(id, action(Verb::NicDetach), State::Running);
    parent.obeys(id);
    parent.ends(id);
}

fn is_ended_while_it_sleeps(parent: &Parent, id: &str) {
    parent.runs(id);
    parent.does(id, Action::Save {}, State::Saved);
    parent.ends(id);
    parent.does(id, create("obedient", false), State::Stopped);
    let outcome = parent.act(id, Action::Restore {});
    assert!(matches!(outcome, Outcome::Refused { code: Refusal::WrongState, .. }), "{outcome:?}");
    parent.does(id, Action::Start {}, State::Running);
    parent.await_guest(id);
    parent.obeys(id);
    parent.ends(id);
}
