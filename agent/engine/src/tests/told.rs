//! What is told is so, also where that is not plain to see.

use super::played::{World, action, create, stop, volume_attach};
use crate::settle::{Verdict, verdict};
use crate::{Batch, Entry, Fault, Finding, Job, Known, Observation, Reply, Report, Step, Task};
use agent_protocol::{
    Action, Attachment, Command, Failure, Hello, Outcome, Refusal, State, Text, Uuid, Verb, VolumeName,
};

/// Do what is to be done; of each job this comes.
fn drive(world: &mut World, mut comes: impl FnMut(&Job) -> Finding) {
    loop {
        while let Some(batch) = world.engine.take() {
            world.engine.durable(batch.last);
            world.journal.push(batch);
        }
        let Some(job) = world.engine.next_job() else { return };
        let result = comes(&job);
        world.engine.report(job.id, Report { ended: None, result }, world.now_ms);
    }
}

/// Let time pass meanwhile.
fn drive_on(world: &mut World, ms: u64, mut comes: impl FnMut(&Job) -> Finding) {
    let until = world.now_ms + ms;
    while world.now_ms < until {
        world.now_ms += 500;
        world.engine.tick(world.now_ms);
        drive(world, &mut comes);
    }
}

fn late() -> Finding {
    Finding::Performed(Err(Fault::new(Failure::Timeout, "it does not answer")))
}

fn seen(state: State) -> Finding {
    Finding::Seen(Observation::of(state))
}

fn hello(boot: u128, epoch: Option<u64>) -> Hello {
    Hello { proto_min: 1, proto_max: 1, appliance_boot: Uuid(boot), epoch }
}

#[test]
fn a_command_of_an_appliance_that_is_replaced_while_it_waits_is_not_carried_out() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let (epoch, _) = world.engine.hello(&hello(1, None), None).unwrap();
    let by_first = |world: &mut World, action| Command { epoch: Some(epoch), ..world.command("a", action) };
    let pause = by_first(&mut world, Action::Pause {});
    let reset = by_first(&mut world, Action::Reset {});
    world.engine.command(&pause, 0, 0);
    world.engine.command(&reset, 0, 0);
    // The second appliance comes while the first command's step is out.
    let mut newer = 0;
    while newer == 0 {
        while let Some(batch) = world.engine.take() {
            world.engine.durable(batch.last);
        }
        let job = world.engine.next_job().unwrap();
        let result = match &job.task {
            Task::Perform(Step::Pause) => {
                newer = world.engine.hello(&hello(2, None), None).unwrap().0;
                Finding::Performed(Ok(Vec::new()))
            }
            _ => seen(State::Running),
        };
        world.engine.report(job.id, Report { ended: None, result }, 0);
    }
    let steps = world.real("a").steps.len();
    world.real("a").state = State::Paused;
    world.run();
    assert!(matches!(world.ended(&pause.op_id), Outcome::Done { changed: true, .. }), "it had begun");
    let refused = world.ended(&reset.op_id);
    assert!(matches!(refused, Outcome::Refused { code: Refusal::StaleEpoch, .. }), "{refused:?}");
    assert_eq!(world.real("a").steps.len(), steps);
    // Nor is one that holds an epoch which this agent never granted.
    let larger = Command { epoch: Some(newer + 1), ..world.command("a", Action::Resume {}) };
    let refused = world.send(&larger);
    assert!(matches!(refused, Known::Ended(Outcome::Refused { code: Refusal::StaleEpoch, .. })));
}

#[test]
fn who_was_replaced_stays_so_when_the_journal_is_written_anew() {
    let mut world = World::new();
    for boot in 1..=5 {
        world.engine.hello(&hello(boot, None), None).unwrap();
    }
    world.run();
    let entries = world.engine.snapshot();
    world.journal = vec![Batch { last: world.engine.head(), entries: entries.clone() }];
    world.restart();
    assert_eq!(world.engine.epoch(), 5);
    assert_eq!(world.engine.snapshot(), entries);
    for boot in 1..=4 {
        assert_eq!(world.engine.hello(&hello(boot, None), None), Err(Refusal::StaleEpoch), "{boot}");
    }
    assert_eq!(world.engine.hello(&hello(5, None), None).unwrap().0, 5);
}

#[test]
fn who_was_replaced_by_another_key_does_not_come_back_by_starting_anew() {
    let mut world = World::new();
    let key = |name: &str| Text::new(name);
    let (old, new) = (key("aa"), key("bb"));
    let both = [old.clone(), new.clone()];
    // One that remembers nothing starts anew as often as it likes: it has its own key.
    assert_eq!(world.engine.hello(&hello(1, None), Some(&old)).unwrap().0, 1);
    assert_eq!(world.engine.hello(&hello(2, None), Some(&old)).unwrap().0, 2);
    assert_eq!(world.engine.hello(&hello(1, None), Some(&old)), Err(Refusal::StaleEpoch), "its run before");
    assert_eq!(world.engine.hello(&hello(3, None), Some(&new)).unwrap().0, 3, "another takes over");
    let stale = |world: &mut World, boot, epoch| {
        assert_eq!(world.engine.hello(&hello(boot, epoch), Some(&old)), Err(Refusal::StaleEpoch), "{boot}");
    };
    stale(&mut world, 2, None);
    stale(&mut world, 4, None);
    stale(&mut world, 5, Some(2));
    stale(&mut world, 6, Some(3));
    stale(&mut world, 7, Some(9));
    // So it is when the agent starts anew, when its journal is written anew, and however often the other starts anew.
    for boot in 100..200 {
        world.engine.hello(&hello(boot, None), Some(&new)).unwrap();
    }
    world.run();
    world.restart();
    world.engine.believe(&both);
    stale(&mut world, 8, None);
    let entries = world.engine.snapshot();
    world.journal = vec![Batch { last: world.engine.head(), entries: entries.clone() }];
    world.restart();
    world.engine.believe(&both);
    assert_eq!(world.engine.snapshot(), entries);
    stale(&mut world, 9, None);
    assert_eq!(world.engine.hello(&hello(200, None), Some(&new)).unwrap().0, 104, "the other is let in");
    // Until the operator takes the other's key away. Then that one is the one who was replaced.
    world.run();
    world.restart();
    world.engine.believe(&both[..1]);
    assert_eq!(world.engine.hello(&hello(10, None), Some(&old)).unwrap().0, 105);
    let mut start = |believed: &[Text]| {
        world.run();
        world.restart();
        world.engine.believe(believed);
        world.engine.hello(&hello(201, None), Some(&new)).map(|(epoch, _)| epoch)
    };
    assert_eq!(start(&both), Err(Refusal::StaleEpoch), "it does not come back by itself either");
    let _ = start(&both[..1]);
    assert_eq!(start(&both), Ok(106), "a key that was taken away and given anew");
}

#[test]
fn a_key_that_is_made_anew_under_the_same_epoch_replaces_nobody() {
    let mut world = World::new();
    let (old, new) = (Text::new("aa"), Text::new("bb"));
    assert_eq!(world.engine.hello(&hello(1, None), Some(&old)).unwrap().0, 1);
    assert_eq!(world.engine.hello(&hello(2, Some(1)), Some(&new)).unwrap().0, 1);
    assert_eq!(world.engine.hello(&hello(3, Some(1)), Some(&old)).unwrap().0, 1);
    // Nor does an agent that asks nobody who it is, for a while.
    assert_eq!(world.engine.hello(&hello(4, None), None).unwrap().0, 2);
    assert_eq!(world.engine.hello(&hello(5, None), Some(&old)).unwrap().0, 3);
    assert_eq!(world.engine.hello(&hello(6, None), Some(&new)).unwrap().0, 4);
}

#[test]
fn a_command_without_an_epoch_is_refused_once_one_was_granted_and_may_still_look() {
    let mut world = World::new();
    let create = world.command("a", create(true));
    let waits = world.command("b", super::played::create(false));
    assert!(matches!(world.send(&create), Known::Ended(Outcome::Done { .. })), "nobody commands yet");
    assert_eq!(world.engine.command(&waits, 0, 0), Reply::Later);
    assert_eq!(world.engine.hello(&hello(1, None), None).unwrap().0, 1);
    let late = world.command("a", Action::Terminate {});
    let refused = world.send(&late);
    assert!(
        matches!(refused, Known::Ended(Outcome::Refused { code: Refusal::StaleEpoch, .. })),
        "{refused:?}"
    );
    assert_eq!(world.real("a").state, State::Running);
    assert!(matches!(world.send(&create), Known::Ended(Outcome::Done { .. })), "what was done is still told");
    let look = world.command("a", Action::Describe {});
    assert!(!matches!(world.engine.command(&look, 0, 0), Reply::Now(Outcome::Refused { .. })));
    let good = Command { epoch: Some(1), ..world.command("a", Action::Pause {}) };
    assert!(matches!(world.send(&good), Known::Ended(Outcome::Done { .. })));
}

#[test]
fn a_detach_whose_answer_was_late_is_waited_for_and_what_the_guest_lets_go_of_is_gone() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let detach = world.command("a", action(Verb::VolumeDetach));
    world.engine.command(&detach, 0, 0);
    let has = |names: &[&str]| {
        let volumes = names.iter().map(|name| name.parse().unwrap()).collect();
        let nics = Some(vec!["n".parse().unwrap()]);
        Finding::Seen(Observation { volumes: Some(volumes), nics, ..Observation::of(State::Running) })
    };
    let asked = |job: &Job| if let Task::Perform(_) = job.task { late() } else { has(&["d"]) };
    drive(&mut world, asked);
    assert!(matches!(world.engine.outcome(&detach.op_id), Known::Working(_)), "it may come about");
    assert_eq!(world.instance("a").volumes[0].attachment, Attachment::Detaching);
    drive_on(&mut world, 1000, |_| has(&[]));
    assert!(matches!(world.ended(&detach.op_id), Outcome::Done { changed: true, .. }));
    assert!(world.instance("a").volumes.is_empty());
    // A guest that does not obey has its time, and the disk can still go afterwards.
    world.run();
    assert!(matches!(world.act("a", volume_attach("d")), Outcome::Done { .. }));
    let again = world.command("a", action(Verb::VolumeDetach));
    world.engine.command(&again, world.now_ms, 0);
    drive(&mut world, asked);
    drive_on(&mut world, 8000, asked);
    assert!(matches!(world.ended(&again.op_id), Outcome::Failed { code: Failure::Interrupted, .. }));
    drive_on(&mut world, 61_000, |_| has(&[]));
    assert!(world.instance("a").volumes.is_empty());
}

#[test]
fn a_hypervisor_that_is_slow_is_asked_again_before_anything_is_frozen() {
    for (comes, told) in [(State::Saved, true), (State::Running, false)] {
        let mut world = World::new();
        world.reach("a", State::Running);
        let save = world.command("a", Action::Save {});
        world.engine.command(&save, 0, 0);
        let mut began = false;
        drive(&mut world, |job| match &job.task {
            Task::Perform(_) => {
                began = true;
                late()
            }
            _ if began => seen(State::Saving),
            _ => seen(State::Running),
        });
        // However long it takes, and then nothing is heard for a while.
        drive_on(&mut world, 200_000, |_| seen(State::Saving));
        drive_on(&mut world, 20_000, |_| seen(State::Unknown));
        assert!(matches!(world.engine.outcome(&save.op_id), Known::Working(_)), "it is in the middle of it");
        drive_on(&mut world, 2000, |_| seen(comes));
        match world.ended(&save.op_id) {
            Outcome::Done { changed: true, instance, .. } if told => assert_eq!(instance.state, State::Saved),
            Outcome::Failed { code: Failure::Timeout, .. } if !told => {}
            other => panic!("{comes}: {other:?}"),
        }
        assert!(world.engine.record(&save.instance).unwrap().frozen.is_none());
    }
    // One that does not come back is frozen as before.
    let mut world = World::new();
    world.reach("a", State::Running);
    let pause = world.command("a", Action::Pause {});
    world.engine.command(&pause, 0, 0);
    let mut began = false;
    let silent = |job: &Job| match &job.task {
        Task::Perform(_) => {
            began = true;
            late()
        }
        _ if began => seen(State::Unknown),
        _ => seen(State::Running),
    };
    drive_on(&mut world, 40_000, silent);
    assert!(matches!(world.ended(&pause.op_id), Outcome::Indeterminate { .. }));
    // A forced stop that is seen to have come about thaws it, also if its answer was late.
    let end = world.command("a", stop(false));
    world.engine.command(&end, world.now_ms, 0);
    drive(&mut world, |job| if let Task::Perform(_) = job.task { late() } else { seen(State::Stopped) });
    assert!(matches!(world.ended(&end.op_id), Outcome::Done { changed: true, .. }));
    assert!(world.engine.record(&end.instance).unwrap().frozen.is_none());
}

#[test]
fn a_command_whose_instance_is_lost_with_the_journal_is_not_told_as_not_done() {
    let mut world = World::new();
    let begun = world.command("a", create(true));
    let received = world.command("b", Action::Pause {});
    for command in [&begun, &received] {
        let entries = vec![Entry::Received { command: command.clone().into() }];
        world.journal.push(Batch { last: world.journal.len() as u64 + 1, entries });
    }
    let entries = vec![Entry::Begun { op_id: begun.op_id.clone(), from: State::Stopped }];
    world.journal.push(Batch { last: 3, entries });
    world.restart();
    world.run();
    assert!(matches!(world.ended(&begun.op_id), Outcome::Indeterminate { .. }));
    let Outcome::Failed { code: Failure::Interrupted, .. } = world.ended(&received.op_id) else { panic!() };
    let received = world.command("c", Action::Pause {});
    let entries = vec![Entry::Received { command: received.clone().into() }];
    world.journal.push(Batch { last: 9, entries });
    world.restart_from(true);
    world.run();
    assert!(matches!(world.ended(&received.op_id), Outcome::Indeterminate { .. }), "it may have begun");
}

#[test]
fn a_disk_that_the_hypervisor_still_has_is_not_detached_whatever_its_guest_does() {
    let volume: VolumeName = "d".parse().unwrap();
    let detach = Action::VolumeDetach { volume: volume.clone(), timeout_ms: 1000 };
    for state in [State::Pending, State::Running, State::Paused, State::Stopping] {
        let seen = Observation { volumes: Some(vec![volume.clone()]), ..Observation::of(state) };
        assert_eq!(verdict(&detach, State::Running, &seen), Verdict::MayCome, "{state}");
        let seen = Observation { volumes: Some(vec![]), ..seen };
        assert_eq!(verdict(&detach, State::Running, &seen), Verdict::Done, "{state}");
    }
    assert_eq!(verdict(&detach, State::Running, &Observation::of(State::Stopped)), Verdict::Done);
}
