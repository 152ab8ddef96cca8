//! Moving between hosts: nothing lets a machine run here that may run elsewhere.

use super::played::{World, create, stop, volume_attach};
use crate::{Finding, Known, Passage, Report, Step, Task};
use agent_protocol::{
    Action, Command, Failure, OpId, Outcome, Precondition, Refusal, State, Text, Uuid, Verb,
};

fn start() -> Action {
    Action::MigrateStart { peer: "there".parse().unwrap() }
}

fn prepare(bits: u128) -> Action {
    Action::MigratePrepare { image: "tiny".parse().unwrap(), uuid: Uuid(bits) }
}

fn refusal(outcome: &Outcome) -> Refusal {
    let Outcome::Refused { code, .. } = outcome else { panic!("{outcome:?}") };
    *code
}

/// An instance that was handed over and of which nobody knows whether it has arrived.
fn broken_off(world: &mut World) -> Command {
    world.reach("a", State::Running);
    world.real("a").moves = false;
    let command = world.command("a", start());
    let Known::Ended(Outcome::Indeterminate { .. }) = world.send(&command) else { panic!() };
    command
}

#[test]
fn one_that_has_moved_is_terminated_here_with_its_evidence() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let Outcome::Done { changed: true, instance, evidence } = world.act("a", start()) else { panic!() };
    assert_eq!((instance.state, evidence.len()), (State::Terminated, 2), "it moved, and was removed");
    assert_eq!(refusal(&world.act("a", start())), Refusal::Terminated);
    // It may come back under its name and as what it was.
    let Outcome::Done { instance: back, .. } = world.act("a", prepare(instance.uuid.0)) else { panic!() };
    assert_eq!((back.state, back.uuid), (State::Pending, instance.uuid));
}

#[test]
fn one_that_came_back_under_another_name_is_looked_at_when_something_happens_to_it() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let Outcome::Done { instance, .. } = world.act("a", start()) else { panic!() };
    let Outcome::Done { instance: back, .. } = world.act("b", prepare(instance.uuid.0)) else { panic!() };
    assert_eq!((back.state, back.uuid), (State::Pending, instance.uuid));
    assert_eq!(world.engine.next_job(), None);
    world.engine.noticed(back.uuid, world.now_ms);
    let job = world.engine.next_job().expect("a look");
    assert_eq!((job.task, job.machine.id), (Task::Look, back.id));
}

#[test]
fn what_may_run_at_its_peer_is_had_back_only_by_whoever_names_how_it_stands() {
    let mut world = World::new();
    let command = broken_off(&mut world);
    for round in 0..2 {
        for action in
            [Action::Resume {}, Action::Start {}, start(), Action::MigrateCancel {}, Action::Reset {}]
        {
            assert_eq!(refusal(&world.act("a", action)), Refusal::Frozen);
        }
        assert_eq!(world.real("a").state, State::Paused);
        if round == 0 {
            world.restart();
            world.run();
        }
    }
    let told = world.engine.outcome(&command.op_id);
    assert_eq!(world.send(&command), told, "told the same again, and nothing is done");
    let old = Precondition { generation: Some(1), ..Precondition::default() };
    let late = Command { precondition: old, ..world.command("a", Action::MigrateCancel {}) };
    let Known::Ended(outcome) = world.send(&late) else { panic!() };
    assert_eq!(refusal(&outcome), Refusal::PreconditionFailed);

    let generation = Some(world.instance("a").generation);
    let seen = Precondition { generation, ..Precondition::default() };
    let back = Command { precondition: seen, ..world.command("a", Action::MigrateCancel {}) };
    let Known::Ended(Outcome::Done { changed: true, instance, .. }) = world.send(&back) else { panic!() };
    assert_eq!((instance.state, world.real("a").state), (State::Running, State::Running));
    assert!(matches!(world.act("a", Action::Pause {}), Outcome::Done { changed: true, .. }), "it is thawed");
}

#[test]
fn ended_by_force_it_is_still_not_started_and_terminated_it_is_over() {
    let mut world = World::new();
    broken_off(&mut world);
    assert!(matches!(world.act("a", stop(false)), Outcome::Done { changed: true, .. }));
    assert_eq!(refusal(&world.act("a", Action::Start {})), Refusal::Frozen);
    world.restart();
    world.run();
    assert_eq!(refusal(&world.act("a", Action::Start {})), Refusal::Frozen);
    assert!(matches!(world.act("a", Action::Terminate {}), Outcome::Done { changed: true, .. }));
    assert!(matches!(world.act("a", create(true)), Outcome::Done { .. }), "the name is free");
}

/// Play until the move is out at its hypervisor; its job.
fn under_way(world: &mut World, command: &Command) -> crate::Job {
    world.engine.command(command, world.now_ms, 7 << 80);
    loop {
        if let Some(batch) = world.engine.take() {
            let last = batch.last;
            world.journal.push(batch);
            world.engine.durable(last);
        }
        let job = world.engine.next_job().expect("a move");
        if matches!(job.task, Task::Perform(Step::MigrateStart(_))) {
            return job;
        }
        let report = world.work(&job);
        world.engine.report(job.id, report, world.now_ms);
    }
}

#[test]
fn a_move_under_way_is_called_off_at_once_by_whatever_ends_it() {
    for verb in [Verb::MigrateCancel, Verb::Terminate, Verb::ForceStop] {
        let mut world = World::new();
        world.reach("a", State::Running);
        let moving = world.command("a", start());
        let job = under_way(&mut world, &moving);
        let action = super::played::action(verb);
        let other = world.command("a", action);
        world.engine.command(&other, world.now_ms, 0);
        assert_eq!(world.engine.next_job(), None, "not before it is written down");
        let batch = world.engine.take().unwrap();
        world.engine.durable(batch.last);
        world.journal.push(batch);
        let calls = world.engine.next_job().unwrap();
        assert_eq!((&calls.task, &calls.machine), (&Task::CallOff, &job.machine));
        let ok = Report { ended: None, result: Finding::Performed(Ok(Vec::new())) };
        world.engine.report(calls.id, ok, world.now_ms);
        let fault = crate::Fault { code: Failure::Interrupted, detail: Text::new("called off") };
        let report = Report { ended: None, result: Finding::Performed(Err(fault)) };
        world.engine.report(job.id, report, world.now_ms);
        world.run();
        let ended = |op_id: &OpId| world.ended(op_id);
        assert!(matches!(ended(&moving.op_id), Outcome::Failed { code: Failure::Interrupted, .. }));
        let Outcome::Done { changed: true, instance, .. } = ended(&other.op_id) else { panic!("{verb}") };
        let state = match verb {
            Verb::MigrateCancel => State::Running,
            Verb::Terminate => State::Terminated,
            _ => State::Stopped,
        };
        assert_eq!(instance.state, state, "{verb}");
    }
}

#[test]
fn a_cancel_that_comes_too_late_is_told_so() {
    let mut world = World::new();
    world.reach("a", State::Running);
    let moving = world.command("a", start());
    let job = under_way(&mut world, &moving);
    let cancel = world.command("a", Action::MigrateCancel {});
    world.engine.command(&cancel, world.now_ms, 0);
    let report = world.work(&job);
    world.engine.report(job.id, report, world.now_ms);
    world.run();
    assert!(matches!(world.ended(&moving.op_id), Outcome::Done { changed: true, .. }));
    assert_eq!(refusal(&world.ended(&cancel.op_id)), Refusal::Terminated);
}

#[test]
fn what_was_made_and_never_ran_can_await_a_machine_with_its_disks_and_nothing_else_can() {
    let mut world = World::new();
    assert!(matches!(world.act("a", create(false)), Outcome::Done { .. }));
    assert!(matches!(world.act("a", volume_attach("d")), Outcome::Done { .. }));
    let command = world.command("a", prepare(5));
    let Known::Ended(Outcome::Done { changed: true, instance, .. }) = world.send(&command) else { panic!() };
    assert_eq!((instance.state, instance.uuid, instance.volumes.len()), (State::Pending, Uuid(5), 1));
    assert_eq!(refusal(&world.act("a", prepare(5))), Refusal::AlreadyExists);
    assert!(matches!(world.send(&command), Known::Ended(Outcome::Done { .. })), "the same is told the same");
    for action in [Action::Start {}, Action::Resume {}, start()] {
        let code = refusal(&world.act("a", action));
        assert!(matches!(code, Refusal::Frozen), "it runs elsewhere: {code:?}");
    }
    assert_eq!(
        refusal(&world.act("b", prepare(5))),
        Refusal::AlreadyExists,
        "one incarnation is one instance"
    );
    // It comes, and is one like any other.
    (world.real("a").state, world.real("a").passage) = (State::Running, None);
    assert!(matches!(world.act("a", Action::Pause {}), Outcome::Done { changed: true, .. }));

    assert!(matches!(world.act("c", create(true)), Outcome::Done { .. }));
    assert!(matches!(world.act("c", stop(false)), Outcome::Done { .. }));
    assert_eq!(refusal(&world.act("c", prepare(6))), Refusal::AlreadyExists, "it has run here");
}

#[test]
fn one_whose_awaited_machine_did_not_come_is_not_started_in_its_place() {
    let mut world = World::new();
    world.act("a", prepare(5));
    world.real("a").state = State::Failed;
    world.act("a", Action::Describe {});
    assert_eq!(world.instance("a").state, State::Failed);
    assert_eq!(refusal(&world.act("a", Action::Start {})), Refusal::Frozen);
    world.act("a", stop(false));
    assert_eq!(refusal(&world.act("a", Action::Start {})), Refusal::Frozen);
    assert!(matches!(world.act("a", Action::Terminate {}), Outcome::Done { .. }));
}

#[test]
fn an_agent_that_ends_between_the_last_trace_and_its_record_knows_that_it_has_left() {
    let mut places = 0;
    for crash in 1.. {
        let mut world = World::new();
        world.reach("a", State::Running);
        world.passed = 0;
        world.crash_at = Some(crash);
        let command = world.command("a", start());
        world.send(&command);
        if world.crashes == 0 {
            break;
        }
        places += 1;
        world.pass(1000);
        let started = world
            .machines
            .values()
            .any(|real| real.steps.contains(&Step::MigrateStart("there".parse().unwrap())));
        match world.engine.outcome(&command.op_id) {
            Known::Never => assert!(!started),
            Known::Ended(Outcome::Done { .. }) => assert_eq!(world.instance("a").state, State::Terminated),
            Known::Ended(Outcome::Failed { .. }) => assert!(!started, "crash at {crash}"),
            other => panic!("crash at {crash}: {other:?}"),
        }
        if started {
            assert_eq!(refusal(&world.act("a", Action::Start {})), Refusal::Terminated, "crash at {crash}");
        }
    }
    assert!(places > 8, "{places}");
}

#[test]
fn wherever_the_agent_ends_what_broke_off_after_it_was_handed_over_is_not_let_run() {
    let mut held = 0;
    for crash in 1.. {
        let mut world = World::new();
        world.reach("a", State::Running);
        world.real("a").moves = false;
        world.passed = 0;
        world.crash_at = Some(crash);
        let command = world.command("a", start());
        world.send(&command);
        let crashed = world.crashes > 0;
        world.crash_at = None;
        world.pass(60_000);
        let handed_over = world.real("a").passage == Some(Passage::HandedOver);
        let told = world.engine.outcome(&command.op_id);
        match &told {
            Known::Ended(Outcome::Indeterminate { .. }) => assert!(handed_over, "crash at {crash}"),
            Known::Never | Known::Ended(Outcome::Failed { .. }) => assert!(!handed_over, "crash at {crash}"),
            other => panic!("crash at {crash}: {other:?}"),
        }
        if handed_over {
            held += 1;
            for action in [Action::Resume {}, Action::Start {}, Action::MigrateCancel {}, start()] {
                assert_eq!(refusal(&world.act("a", action)), Refusal::Frozen, "crash at {crash}");
            }
            assert_eq!(world.real("a").state, State::Paused);
        }
        let steps = world.real("a").steps.len();
        if told != Known::Never {
            assert_eq!(world.send(&command), told);
            assert_eq!(world.real("a").steps.len(), steps, "crash at {crash}: nothing is done twice");
        }
        if !crashed {
            break;
        }
    }
    assert!(held > 3, "{held}");
}
