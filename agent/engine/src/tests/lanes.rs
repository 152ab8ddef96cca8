//! Single stories.

use super::played::{World, action, create, snapshot, stop, volume_attach};
use crate::{Batch, Entry, Fault, Finding, Known, Reply, Report};
use agent_protocol::{
    Action, Attachment, Command, EventKind, Facility, Failure, Hello, Outcome, Precondition, Refusal, State,
    Text, Then, Uuid, Verb,
};

fn refusal(known: Known) -> Refusal {
    match known {
        Known::Ended(Outcome::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_epoch_is_granted_once_and_an_older_one_is_refused_for_good() {
    let mut world = World::new();
    let hello = |boot, epoch| Hello { proto_min: 1, proto_max: 1, appliance_boot: Uuid(boot), epoch };
    assert_eq!(world.engine.hello(&hello(1, None), None).unwrap().0, 1);
    assert_eq!(world.engine.hello(&hello(1, None), None).unwrap().0, 1);
    assert_eq!(
        world.engine.hello(&hello(9, Some(1)), None).unwrap().0,
        1,
        "the same appliance, started anew"
    );
    assert_eq!(world.engine.hello(&hello(2, None), None).unwrap().0, 2);
    assert_eq!(world.engine.hello(&hello(9, Some(1)), None), Err(Refusal::StaleEpoch));
    assert_eq!(world.engine.hello(&hello(9, None), None), Err(Refusal::StaleEpoch));
    world.run();
    world.restart();
    let command = Command { epoch: Some(1), ..world.command("a", create(true)) };
    assert_eq!(refusal(world.send(&command)), Refusal::StaleEpoch, "it outlives the agent");
    assert_eq!(
        world.engine.hello(&hello(3, Some(7)), None).unwrap().0,
        7,
        "a journal was lost; the larger one holds"
    );
    assert_eq!(world.engine.hello(&hello(4, Some(u64::MAX)), None), Err(Refusal::StaleEpoch));
    assert_eq!(world.engine.hello(&hello(4, None), None).unwrap().0, 8);
}

#[test]
fn two_hypervisors_of_one_host_each_do_what_they_can_with_their_own_machines() {
    let mut world = World::new();
    let Action::Create { size, start, .. } = create(true) else { panic!() };
    let small = Action::Create { image: "small".parse().unwrap(), size, start };
    for (id, action) in [("a", create(true)), ("b", small)] {
        let create = world.command(id, action);
        assert!(matches!(world.send(&create), Known::Ended(Outcome::Done { changed: true, .. })));
    }
    let by = |world: &World, id: &str| {
        let instance = world.instance(id);
        (instance.hypervisor.as_str().to_owned(), world.by[&instance.uuid])
    };
    assert_eq!((by(&world, "a"), by(&world, "b")), (("fake".into(), 0), ("other".into(), 1)));
    // What one of them does not provide is not asked of it, and why is what its document says.
    let lacks = |world: &World, id: &str, facility| world.engine.lacks(&id.parse().unwrap(), facility);
    assert_eq!(lacks(&world, "b", Facility::Stats).as_deref(), Some("stats: played"));
    let silent = "console: the hypervisor does not say that it can";
    assert_eq!(lacks(&world, "b", Facility::Console).as_deref(), Some(silent));
    for facility in Facility::ALL {
        assert_eq!(lacks(&world, "a", *facility), None);
        assert_eq!(lacks(&world, "nobody", *facility), None);
    }
    assert_eq!(world.engine.ask_stats(&"b".parse().unwrap(), 0), Err(Refusal::Impossible));
    assert!(world.engine.ask_stats(&"a".parse().unwrap(), 0).is_ok());
    let attach = [volume_attach("v"), volume_attach("v")];
    for (id, action) in ["a", "b"].into_iter().zip(attach) {
        let attach = world.command(id, action);
        assert!(matches!(world.send(&attach), Known::Ended(Outcome::Done { .. })));
    }
    // Also when the agent has started anew: which hypervisor has a machine is in the journal.
    for _ in 0..2 {
        for (id, verb) in [("a", Verb::VolumeResize), ("b", Verb::Pause)] {
            let steps = world.real(id).steps.len();
            let command = world.command(id, action(verb));
            assert_eq!(refusal(world.send(&command)), Refusal::Impossible, "{id} {verb}");
            assert_eq!(world.real(id).steps.len(), steps, "{id}: nothing was done");
        }
        for (id, verbs) in [("a", [Verb::Pause, Verb::Resume]), ("b", [Verb::Save, Verb::Restore])] {
            for verb in verbs {
                let command = world.command(id, action(verb));
                let outcome = world.send(&command);
                assert!(
                    matches!(outcome, Known::Ended(Outcome::Done { changed: true, .. })),
                    "{id} {verb} {outcome:?}"
                );
            }
        }
        world.restart();
        world.run();
    }
    assert_eq!((by(&world, "a").1, by(&world, "b").1), (0, 1));
}

#[test]
fn nothing_leaves_the_engine_before_what_it_rests_on_is_durable() {
    let mut world = World::new();
    let command = world.command("a", create(true));
    assert_eq!(world.engine.command(&command, 0, 7 << 80), Reply::Later);
    assert!(world.engine.next_job().is_none(), "nothing is durable yet");
    let batch = world.engine.take().unwrap();
    assert!(world.engine.next_job().is_none());
    assert!(world.engine.events(0, 9).0.is_empty());
    world.engine.durable(batch.last);
    let job = world.engine.next_job().unwrap();
    let result = Finding::Performed(Ok(Vec::new()));
    world.engine.report(job.id, Report { ended: None, result: result.clone() }, 1);
    world.engine.report(job.id, Report { ended: None, result }, 1);
    assert!(matches!(world.engine.outcome(&command.op_id), Known::Working(_)));
    let batch = world.engine.take().unwrap();
    world.engine.durable(u64::MAX);
    assert!(!world.engine.is_durable(batch.last + 1), "what does not exist is not durable");
    assert!(matches!(
        world.engine.outcome(&command.op_id),
        Known::Ended(Outcome::Done { changed: true, .. })
    ));
    let kinds: Vec<EventKind> = world.engine.events(0, 9).0.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Created, EventKind::State, EventKind::State, EventKind::Operation]);
}

#[test]
fn a_journal_that_cannot_be_written_lets_nothing_begin() {
    let mut world = World::new();
    world.reach("a", State::Running);
    world.engine.set_stuck(true);
    let Outcome::Failed { code: Failure::Storage, .. } = world.act("a", Action::Pause {}) else { panic!() };
    assert!(matches!(world.act("a", Action::Describe {}), Outcome::Done { .. }));
    world.engine.set_stuck(false);
    assert!(matches!(world.act("a", Action::Pause {}), Outcome::Done { changed: true, .. }));
}

#[test]
fn a_command_that_waited_past_its_deadline_is_refused_and_never_carried_out_late() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let late = Command { deadline_ms: Some(50), ..world.command("a", Action::Pause {}) };
    assert_eq!(world.engine.command(&late, 40, 0), Reply::Later);
    world.now_ms = 60;
    world.run();
    assert_eq!(refusal(world.engine.outcome(&late.op_id)), Refusal::Expired);
    let later = Command { deadline_ms: Some(50), ..world.command("a", Action::Pause {}) };
    assert_eq!(refusal(world.send(&later)), Refusal::Expired);
    assert_eq!(world.instance("a").state, State::Running);
}

#[test]
fn a_precondition_is_held_against_what_is_seen_and_not_against_what_was_seen_last() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let seen = world.instance("a");
    world.real("a").die();
    for precondition in [
        Precondition { generation: Some(seen.generation), ..Precondition::default() },
        Precondition { state: Some(State::Running), ..Precondition::default() },
        Precondition { uuid: Some(Uuid(99)), ..Precondition::default() },
    ] {
        let command = Command { precondition, ..world.command("a", Action::Start {}) };
        assert_eq!(refusal(world.send(&command)), Refusal::PreconditionFailed);
    }
}

#[test]
fn what_is_forced_goes_before_what_waits_and_too_many_do_not() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let mut commands = Vec::new();
    for _ in 0..17 {
        let command = world.command("a", Action::Pause {});
        assert_eq!(world.engine.command(&command, 0, 0), Reply::Later);
        commands.push(command);
    }
    let more = world.command("a", Action::Pause {});
    let Reply::Now(Outcome::Refused { code: Refusal::Full, .. }) = world.engine.command(&more, 0, 0) else {
        panic!()
    };
    let terminate = world.command("a", Action::Terminate {});
    assert_eq!(world.engine.command(&terminate, 0, 0), Reply::Later);
    world.run();
    assert!(matches!(world.ended(&terminate.op_id), Outcome::Done { changed: true, .. }));
    assert!(
        matches!(world.ended(&commands[0].op_id), Outcome::Done { changed: true, .. }),
        "it had its turn"
    );
    assert_eq!(refusal(world.engine.outcome(&commands[1].op_id)), Refusal::Terminated);
    assert_eq!(world.engine.outcome(&more.op_id), Known::Never);
}

#[test]
fn one_that_hangs_holds_up_nobody_and_can_be_ended() {
    let mut world = World::new();
    world.reach("a", State::Running);
    world.reach("b", State::Running);
    let pause = world.command("a", Action::Pause {});
    world.engine.command(&pause, 0, 0);
    while let Some(batch) = world.engine.take() {
        world.engine.durable(batch.last);
    }
    let held = world.engine.next_job().unwrap();
    assert!(matches!(world.act("b", Action::Pause {}), Outcome::Done { changed: true, .. }));
    assert_eq!(world.engine.instances(None, 9).instances.len(), 2);
    let Known::Working(Outcome::Accepted { .. }) = world.engine.outcome(&pause.op_id) else { panic!() };
    world.real("a").hangs = true;
    let seen = crate::Observation::of(State::Unknown);
    world.engine.report(held.id, Report { ended: None, result: Finding::Seen(seen) }, 3000);
    world.run();
    assert_eq!(refusal(world.engine.outcome(&pause.op_id)), Refusal::StateUnknown);
    assert!(matches!(world.act("a", Action::Terminate {}), Outcome::Done { changed: true, .. }));
}

#[test]
fn a_machine_that_dies_before_a_snapshot_is_made_of_it_is_not_told_as_running() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let kept = world.command("a", snapshot("t"));
    world.engine.command(&kept, 0, 0);
    for job in 0..2 {
        while let Some(batch) = world.engine.take() {
            world.engine.durable(batch.last);
        }
        let next = world.engine.next_job().unwrap();
        if job == 1 {
            // It ran when it was looked at; its disks can be kept all the same.
            world.real("a").die();
        }
        let report = world.work(&next);
        world.engine.report(next.id, report, 0);
    }
    world.run();
    let Outcome::Done { changed: true, instance, .. } = world.ended(&kept.op_id) else { panic!() };
    assert_eq!(instance.state, State::Failed);
    assert_eq!(world.instance("a").state, State::Failed);
}

#[test]
fn a_hypervisor_that_falls_silent_in_the_middle_freezes_that_machine_and_no_other() {
    let mut world = World::new();
    world.reach("a", State::Running);
    world.reach("b", State::Running);
    let pause = world.command("a", Action::Pause {});
    world.engine.command(&pause, 0, 0);
    // The look before it was well, and then it hangs.
    let mut jobs = 0;
    while jobs < 2 {
        while let Some(batch) = world.engine.take() {
            world.engine.durable(batch.last);
        }
        let job = world.engine.next_job().unwrap();
        jobs += 1;
        let result = match jobs {
            1 => Finding::Seen(crate::Observation::of(State::Running)),
            _ => Finding::Performed(Err(Fault::new(Failure::Timeout, "it does not answer"))),
        };
        world.real("a").hangs = jobs == 2;
        world.engine.report(job.id, Report { ended: None, result }, 0);
    }
    world.run();
    assert!(matches!(world.engine.outcome(&pause.op_id), Known::Working(_)), "it may still tell");
    world.pass(40_000);
    assert!(matches!(world.ended(&pause.op_id), Outcome::Indeterminate { .. }));
    world.real("a").hangs = false;
    let resume = world.command("a", Action::Resume {});
    assert_eq!(refusal(world.send(&resume)), Refusal::Frozen);
    assert!(matches!(world.act("b", Action::Pause {}), Outcome::Done { changed: true, .. }));
    world.run();
    world.restart();
    world.run();
    let resume = world.command("a", Action::Resume {});
    assert_eq!(refusal(world.send(&resume)), Refusal::Frozen, "it outlives the agent");
    assert!(matches!(world.act("a", stop(false)), Outcome::Done { changed: true, .. }));
    assert!(matches!(world.act("a", Action::Start {}), Outcome::Done { changed: true, .. }), "it has thawed");
}

#[test]
fn a_detach_is_done_when_the_guest_has_let_go_and_never_before() {
    let mut world = World::new();
    world.reach("a", State::Running);
    world.real("a").obeys = false;
    let detach = world.command("a", action(Verb::VolumeDetach));
    assert!(matches!(world.send(&detach), Known::Accepted(_)));
    assert_eq!(world.instance("a").volumes[0].attachment, Attachment::Detaching);
    let second = world.command("a", action(Verb::VolumeDetach));
    assert!(matches!(world.send(&second), Known::Accepted(_)), "it waits with the first");
    let attach = world.command("a", volume_attach("d"));
    assert_eq!(refusal(world.send(&attach)), Refusal::WrongState);
    world.pass(3000);
    assert!(matches!(world.engine.outcome(&detach.op_id), Known::Accepted(_)));
    world.pass(3000);
    for op_id in [&detach.op_id, &second.op_id] {
        let Outcome::Failed { code: Failure::GuestDidNotRelease, .. } = world.ended(op_id) else { panic!() };
    }
    assert_eq!(world.instance("a").volumes.len(), 1, "it is still there");
    // The guest lets go after all: that is seen, and the disk is not shown any more.
    world.real("a").obeys = true;
    world.act("a", Action::Describe {});
    assert!(world.instance("a").volumes.is_empty());
    let third = world.command("a", action(Verb::VolumeDetach));
    assert_eq!(refusal(world.send(&third)), Refusal::UnknownPart);
}

#[test]
fn what_is_saved_before_its_guest_has_let_go_is_not_detached_and_is_there_when_it_goes_on() {
    let mut saved = 0;
    // Not at all, and at every place where the agent can end meanwhile.
    for crash_at in 0..12 {
        let mut world = World::new();
        world.reach("a", State::Running);
        world.real("a").obeys = false;
        let detaches = [Verb::VolumeDetach, Verb::NicDetach].map(|verb| world.command("a", action(verb)));
        for detach in &detaches {
            assert!(matches!(world.send(detach), Known::Accepted(_)));
        }
        let save = world.command("a", Action::Save {});
        (world.passed, world.crash_at) = (0, Some(crash_at));
        world.send(&save);
        world.crash_at = None;
        world.pass(20_000);
        for detach in &detaches {
            let told = world.ended(&detach.op_id);
            let kept = matches!(told, Outcome::Failed { code: Failure::GuestDidNotRelease, .. });
            assert!(kept, "{crash_at}: {told:?}");
        }
        // Its memory would fit nothing without them.
        let instance = world.instance("a");
        assert_eq!((instance.volumes.len(), instance.nics.len()), (1, 1), "{crash_at}");
        if instance.state == State::Saved {
            saved += 1;
            let restored = world.act("a", Action::Restore {});
            assert!(matches!(restored, Outcome::Done { changed: true, .. }), "{crash_at}: {restored:?}");
        }
        world.real("a").obeys = true;
        for detach in detaches {
            let again = world.command("a", detach.action);
            world.send(&again);
            world.pass(1000);
        }
        let instance = world.instance("a");
        assert!(instance.volumes.is_empty() && instance.nics.is_empty(), "it lets go now");
    }
    assert!(saved > 4, "{saved}");
}

#[test]
fn a_guest_that_ignores_a_reboot_is_left_or_cut_off_and_started_again_as_the_command_says() {
    let mut world = World::new();
    world.reach("a", State::Running);
    world.real("a").obeys = false;
    let reboot = |then| Action::Reboot { timeout_ms: 1000, then };
    let leave = world.command("a", reboot(Then::Leave));
    assert!(matches!(world.send(&leave), Known::Accepted(_)));
    world.pass(2000);
    let Outcome::Failed { code: Failure::GuestIgnored, .. } = world.ended(&leave.op_id) else { panic!() };
    assert_eq!(world.instance("a").state, State::Running);
    let force = world.command("a", reboot(Then::Force));
    assert!(matches!(world.send(&force), Known::Accepted(_)));
    world.pass(2000);
    let Outcome::Done { changed: true, instance, .. } = world.ended(&force.op_id) else { panic!() };
    assert_eq!(instance.state, State::Running);
    let stopped = world.command("a", reboot(Then::Leave));
    world.send(&stopped);
    world.act("a", stop(false));
    let Outcome::Failed { code: Failure::Ended, .. } = world.ended(&stopped.op_id) else { panic!() };
    assert_eq!(
        world.instance("a").state,
        State::Stopped,
        "it was not started behind the other command's back"
    );
}

#[test]
fn an_agent_that_has_just_started_says_unknown_until_it_has_read_the_hypervisor_and_ends_nothing() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let generation = world.instance("a").generation;
    world.restart();
    assert!(world.engine.is_cold());
    assert_eq!(world.instance("a").state, State::Unknown);
    world.run();
    assert!(!world.engine.is_cold());
    assert_eq!(world.instance("a").state, State::Running);
    assert!(world.instance("a").generation >= generation);
    assert_eq!(world.real("a").steps.iter().filter(|step| **step == crate::Step::Start).count(), 1);
}

#[test]
fn what_hung_over_a_restart_is_asked_for_a_while_and_can_be_ended_meanwhile() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let pause = world.command("a", Action::Pause {});
    // The agent ends right after the native call.
    let mut probe = 0;
    loop {
        probe += 1;
        world.passed = 0;
        world.crash_at = Some(probe);
        world.send(&pause);
        let stage = world.engine.memory.get(&pause.op_id);
        if stage.is_some_and(|one| matches!(one.stage, crate::memory::Stage::Ended(..))) {
            break;
        }
        assert!(probe < 20);
    }
    assert!(matches!(world.ended(&pause.op_id), Outcome::Done { .. } | Outcome::Failed { .. }));

    let mut world = World::new();
    world.reach("a", State::Running);
    let pause = world.command("a", Action::Pause {});
    world.engine.command(&pause, 0, 0);
    for _ in 0..2 {
        while let Some(batch) = world.engine.take() {
            world.engine.durable(batch.last);
            world.journal.push(batch);
        }
        let Some(job) = world.engine.next_job() else { break };
        if let crate::Task::Look = job.task {
            let seen = crate::Observation::of(State::Running);
            world.engine.report(job.id, Report { ended: None, result: Finding::Seen(seen) }, 0);
        }
    }
    world.real("a").hangs = true;
    world.restart();
    world.run();
    assert!(matches!(world.engine.outcome(&pause.op_id), Known::Working(_)), "it may still answer");
    let terminate = world.command("a", Action::Terminate {});
    assert!(matches!(world.send(&terminate), Known::Ended(Outcome::Done { changed: true, .. })));
    assert!(matches!(world.ended(&pause.op_id), Outcome::Indeterminate { .. }));
}

#[test]
fn lists_come_in_pages_and_their_digest_changes_with_the_instances() {
    let mut world = World::new();
    for number in 0..1000 {
        world.act(&format!("vm-{number:03}"), create(false));
    }
    let mut seen = 0;
    let mut after = None;
    loop {
        let page = world.engine.instances(after.as_ref(), 300);
        seen += page.instances.len();
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert_eq!(seen, 1000);
    let before = world.engine.digest();
    assert_eq!(world.engine.digest(), before);
    world.act("vm-500", Action::Start {});
    assert_ne!(world.engine.digest(), before);
}

#[test]
fn what_an_instance_has_used_is_asked_once_it_runs() {
    let mut world = World::new();
    world.reach("a", State::Stopped);
    let id = "a".parse().unwrap();
    assert_eq!(world.engine.ask_stats(&id, 0), Err(Refusal::WrongState));
    assert_eq!(world.engine.ask_stats(&"b".parse().unwrap(), 0), Err(Refusal::UnknownInstance));
    world.act("a", Action::Start {});
    let ticket = world.engine.ask_stats(&id, 0).unwrap();
    assert!(world.engine.used(&ticket).is_none());
    world.run();
    assert_eq!(world.engine.used(&ticket).unwrap().unwrap().cpu_ms, 7);
}

#[test]
fn what_is_noticed_while_a_machine_is_removed_does_not_bring_it_back() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let uuid = world.instance("a").uuid;
    let terminate = world.command("a", Action::Terminate {});
    assert_eq!(world.engine.command(&terminate, 0, 0), Reply::Later);
    world.engine.noticed(uuid, 0);
    world.run();
    world.engine.noticed(uuid, 0);
    world.pass(100_000);
    assert_eq!(world.instance("a").state, State::Terminated);
    assert!(matches!(world.act("a", create(true)), Outcome::Done { changed: true, .. }), "the name is free");
}

#[test]
fn tombstones_are_few() {
    let mut world = World::new();
    for number in 0..300 {
        world.act(&format!("vm-{number:03}"), create(false));
        world.act(&format!("vm-{number:03}"), Action::Terminate {});
    }
    assert_eq!(world.engine.count(), 256);
    world.restart();
    assert_eq!(world.engine.count(), 256);
}

#[test]
fn every_command_that_a_damaged_journal_leaves_in_doubt_comes_to_an_end() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let ends = [Action::Reset {}, stop(true), Action::Pause {}, Action::Resume {}];
    let commands = ends.map(|action| world.command("a", action));
    let last = world.journal.last().map_or(0, |batch| batch.last);
    let entries =
        commands.iter().map(|command| Entry::Received { command: command.clone().into() }).collect();
    world.journal.push(Batch { entries, last: last + commands.len() as u64 });
    world.restart_from(true);
    world.run();
    world.pass(120_000);
    for command in &commands {
        world.ended(&command.op_id);
    }
}

#[test]
fn what_a_guest_does_by_itself_is_told_and_no_oftener_than_once_in_a_second() {
    let mut world = World::new();
    world.act("a", create(true));
    let uuid = *world.machines.keys().next().unwrap();
    let told = |world: &World| {
        let (events, ..) = world.engine.events(0, 100);
        let kinds = [EventKind::Rebooted, EventKind::DiskError];
        events.into_iter().filter(|event| kinds.contains(&event.kind)).collect::<Vec<_>>()
    };
    let words = Text::new("the guest restarted itself");
    for _ in 0..5 {
        world.engine.happened(uuid, EventKind::Rebooted, words.clone(), world.now_ms);
        world.engine.happened(uuid, EventKind::DiskError, words.clone(), world.now_ms);
        world.engine.happened(Uuid(99), EventKind::Rebooted, words.clone(), world.now_ms);
    }
    let events = told(&world);
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(
        (events[0].uuid, events[0].state, &events[0].detail),
        (uuid, State::Running, &Some(words.clone()))
    );
    world.engine.happened(uuid, EventKind::Rebooted, words, world.now_ms + 1001);
    assert_eq!(told(&world).len(), 3);
}
