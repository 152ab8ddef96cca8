//! Whole lives of real QEMU processes.

use crate::world::{World, changed, refusal, runs, signal, stop};
use agent_protocol::{Action, Failure, Outcome, Precondition, Refusal, State, Then, Uuid};
use std::time::{Duration, Instant};

#[test]
fn an_instance_is_made_runs_pauses_stops_starts_again_and_is_terminated() {
    let world = World::new("life");
    let created = world.act(
        "web-1",
        Action::Create {
            image: "microvm".parse().unwrap(),
            start: false,
            size: agent_protocol::Size::default(),
        },
    );
    assert!(changed(&created));
    assert_eq!(world.state("web-1"), State::Stopped);

    let Outcome::Done { changed: true, instance, evidence } = world.act("web-1", Action::Start {}) else {
        panic!()
    };
    assert_eq!((instance.state, instance.hypervisor.as_str()), (State::Running, "qemu"));
    assert!(evidence.iter().any(|text| text.as_str().contains("running")), "{evidence:?}");
    let pid = world.pid(&instance);
    assert!(runs(pid));
    assert!(!changed(&world.act("web-1", Action::Start {})), "already running");

    assert!(changed(&world.act("web-1", Action::Pause {})));
    assert!(!changed(&world.act("web-1", Action::Pause {})));
    let Outcome::Done { changed: false, instance, .. } = world.act("web-1", Action::Describe {}) else {
        panic!()
    };
    assert_eq!(instance.state, State::Paused, "query-status says so");
    assert!(changed(&world.act("web-1", Action::Resume {})));
    assert!(!changed(&world.act("web-1", Action::Resume {})));

    assert!(changed(&world.act("web-1", stop(false, 0, Then::Leave))));
    assert!(!runs(pid));
    assert!(!changed(&world.act("web-1", stop(false, 0, Then::Leave))));
    assert_eq!(refusal(&world.act("web-1", Action::Pause {})), Refusal::WrongState);

    assert!(changed(&world.act("web-1", Action::Start {})));
    let running = world.await_state("web-1", State::Running);
    assert_eq!(running.uuid, instance.uuid, "it is the same instance");
    let pid = world.pid(&running);
    let Outcome::Done { changed: true, instance, evidence } = world.act("web-1", Action::Terminate {}) else {
        panic!()
    };
    assert_eq!(instance.state, State::Terminated);
    assert!(
        evidence[0].as_str().contains(&format!("process {pid} exited with status 0 and is gone")),
        "{evidence:?}"
    );
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "reaped, not a zombie");
    assert!(!world.machine(&instance).exists());
}

#[test]
fn a_second_terminate_and_an_unknown_name_are_refused_each_in_its_own_way() {
    let world = World::new("twice");
    let first = world.create("a", "none");
    assert!(changed(&world.act("a", Action::Terminate {})));
    for action in [Action::Terminate {}, Action::Start {}, Action::Pause {}, stop(true, 0, Then::Leave)] {
        assert_eq!(refusal(&world.act("a", action)), Refusal::Terminated);
    }
    assert_eq!(refusal(&world.act("b", Action::Terminate {})), Refusal::UnknownInstance);
    assert_eq!(refusal(&world.act("b", Action::Describe {})), Refusal::UnknownInstance);
    assert_eq!(world.state("a"), State::Terminated);

    let second = world.create("a", "none");
    assert!(second.uuid != first.uuid && second.generation > first.generation, "the name is free again");
    let late = agent_protocol::Command {
        precondition: Precondition { uuid: Some(first.uuid), ..Precondition::default() },
        ..world.command("a", Action::Terminate {})
    };
    assert_eq!(
        refusal(&world.send(&late)),
        Refusal::PreconditionFailed,
        "a late command misses the successor"
    );
    assert_eq!(refusal(&world.act("a", create("none"))), Refusal::AlreadyExists);
}

fn create(image: &str) -> Action {
    Action::Create { image: image.parse().unwrap(), start: true, size: agent_protocol::Size::default() }
}

#[test]
fn what_cannot_be_started_says_why() {
    let world = World::new("broken");
    assert_eq!(refusal(&world.act("a", create("windows-95"))), Refusal::UnknownImage);
    let Outcome::Failed { code: Failure::Spawn, detail, instance: Some(instance) } =
        world.act("a", create("broken"))
    else {
        panic!()
    };
    assert!(detail.as_str().contains("unsupported machine type"), "{detail}");
    assert_eq!(instance.state, State::Failed);
    assert!(changed(&world.act("a", Action::Terminate {})));
}

#[test]
fn a_process_that_dies_by_itself_is_noticed() {
    let world = World::new("dies");
    let instance = world.create("a", "none");
    signal(world.pid(&instance), "KILL");
    let failed = world.await_state("a", State::Failed);
    assert!(failed.reason.unwrap().as_str().ends_with("was killed by signal 9"));
    assert!(changed(&world.act("a", Action::Start {})), "it can be started again");

    let running = world.await_state("a", State::Running);
    signal(world.pid(&running), "TERM");
    let stopped = world.await_state("a", State::Stopped);
    assert!(
        stopped.reason.unwrap().as_str().ends_with("exited with status 0"),
        "as when a guest powers itself off"
    );
}

#[test]
fn a_graceful_stop_is_accepted_and_done_only_when_the_process_is_gone() {
    let world = World::new("graceful");
    let instance = world.create("a", "none");
    let command = world.command("a", stop(true, 20_000, Then::Leave));
    assert!(matches!(world.send(&command), Outcome::Accepted { .. }));
    assert_eq!(world.state("a"), State::Stopping);
    assert!(matches!(world.recall(&command.op_id), (200, Some(Outcome::Accepted { .. }))));
    assert!(!changed(&world.act("a", stop(true, 1, Then::Force))), "it is stopping already");
    assert_eq!(refusal(&world.act("a", Action::Start {})), Refusal::WrongState);
    let Outcome::Done { instance: seen, .. } = world.act("a", Action::Describe {}) else { panic!() };
    assert_eq!(seen.state, State::Stopping);

    // This machine has no guest that could hear the request; ending its process orderly is what a guest would do.
    signal(world.pid(&instance), "TERM");
    world.await_state("a", State::Stopped);
    let Some(Outcome::Done { changed: true, instance, evidence }) = world.recall(&command.op_id).1 else {
        panic!()
    };
    assert_eq!(instance.state, State::Stopped);
    assert!(evidence[0].as_str().contains("exited with status 0"), "{evidence:?}");
}

#[test]
fn a_guest_that_ignores_the_request_is_left_or_cut_off_as_the_command_says() {
    let world = World::new("ignores");
    let instance = world.create("a", "none");
    let leave = world.command("a", stop(true, 150, Then::Leave));
    assert!(matches!(world.send(&leave), Outcome::Accepted { .. }));
    world.await_state("a", State::Running);
    let ended = world.await_end(&leave.op_id);
    assert!(matches!(ended, Outcome::Failed { code: Failure::GuestIgnored, .. }), "{ended:?}");
    let force = world.command("a", stop(true, 150, Then::Force));
    assert!(matches!(world.send(&force), Outcome::Accepted { .. }));
    world.await_state("a", State::Stopped);
    assert!(!runs(world.pid_or_zero(&instance)));
    let Outcome::Done { evidence, .. } = world.await_end(&force.op_id) else { panic!() };
    assert!(evidence[0].as_str().contains("its power was cut"), "{evidence:?}");
}

#[test]
fn terminate_is_always_open_even_while_stopping_and_while_the_monitor_hangs() {
    let world = World::new("force");
    world.create("a", "none");
    let waiting = world.command("a", stop(true, 60_000, Then::Leave));
    assert!(matches!(world.send(&waiting), Outcome::Accepted { .. }));
    assert!(changed(&world.act("a", Action::Terminate {})));
    assert!(
        matches!(world.recall(&waiting.op_id).1, Some(Outcome::Done { .. })),
        "who waited for the stop is told"
    );

    let hung = world.create("b", "none");
    let pid = world.pid(&hung);
    signal(pid, "STOP");
    let Outcome::Done { instance, .. } = world.act("b", Action::Describe {}) else { panic!() };
    assert_eq!(instance.state, State::Unknown, "it does not answer, so nobody knows");
    assert_eq!(refusal(&world.act("b", Action::Pause {})), Refusal::StateUnknown);
    let began = Instant::now();
    assert_eq!(world.inventory().instances.len(), 2);
    assert!(began.elapsed() < Duration::from_secs(1), "a hung machine does not hold up the list");
    let Outcome::Done { evidence, .. } = world.act("b", Action::Terminate {}) else { panic!() };
    assert!(evidence[0].as_str().contains("after SIGKILL"), "{evidence:?}");
    assert!(!runs(pid));
}

#[test]
fn a_command_sent_twice_is_carried_out_once() {
    let world = World::new("once");
    world.create("a", "none");
    let terminate = world.command("a", Action::Terminate {});
    let first = world.send(&terminate);
    assert!(changed(&first));
    world.create("a", "none");
    assert_eq!(world.send(&terminate), first, "the same answer, and the successor lives");
    assert_eq!(world.state("a"), State::Running);
    let other = agent_protocol::Command { action: Action::Pause {}, ..terminate.clone() };
    assert_eq!(refusal(&world.send(&other)), Refusal::OpIdReused);
    assert_eq!(world.recall(&terminate.op_id), (200, Some(first.clone())));
    let late = agent_protocol::Command { deadline_ms: Some(0), agent_boot: Some(Uuid(7)), ..terminate };
    assert_eq!(world.send(&late), first, "what was done is told as done, however late it is asked again");
    assert_eq!(world.recall(&"never-sent".parse().unwrap()).0, 404);
}

#[test]
fn late_stale_and_misunderstood_commands_are_refused_before_anything_is_done() {
    let world = World::new("late");
    world.create("a", "none");
    let welcome = world.hello(1).1.unwrap();
    assert_eq!(welcome.backends[0].name.as_str(), "qemu");
    let command =
        || agent_protocol::Command { epoch: Some(welcome.epoch), ..world.command("a", Action::Terminate {}) };
    let base = command();
    let cases = [
        (Refusal::StaleEpoch, agent_protocol::Command { epoch: None, ..base.clone() }),
        (Refusal::Expired, agent_protocol::Command { deadline_ms: Some(0), ..base.clone() }),
        (Refusal::StaleBoot, agent_protocol::Command { agent_boot: Some(Uuid(7)), ..base.clone() }),
        (Refusal::StaleEpoch, agent_protocol::Command { epoch: Some(welcome.epoch - 1), ..base.clone() }),
        (Refusal::Version, agent_protocol::Command { proto: 2, ..base.clone() }),
        (
            Refusal::UnknownCritical,
            agent_protocol::Command { critical: vec!["quota".into()], ..base.clone() },
        ),
    ];
    for (code, command) in cases {
        let command = agent_protocol::Command { op_id: world.op_id(), ..command };
        assert_eq!(refusal(&world.send(&command)), code);
    }
    for wanted in [
        Precondition { generation: Some(99), ..Precondition::default() },
        Precondition { state: Some(State::Paused), ..Precondition::default() },
    ] {
        let command = agent_protocol::Command { precondition: wanted, ..command() };
        assert_eq!(refusal(&world.send(&command)), Refusal::PreconditionFailed);
    }
    assert_eq!(world.state("a"), State::Running);
    let good = agent_protocol::Command {
        agent_boot: Some(welcome.agent_boot),
        deadline_ms: Some(welcome.clock_ms + 10_000),
        critical: vec!["epoch".into(), "deadline_ms".into()],
        ..base
    };
    assert!(changed(&world.send(&good)));
}

#[test]
fn another_appliance_takes_over_and_the_first_does_not_get_back() {
    let mut world = World::new("epoch");
    let first = world.hello(1).1.unwrap();
    assert_eq!(world.hello(1).1.unwrap().epoch, first.epoch);
    let second = world.hello(2).1.unwrap();
    assert_eq!(second.epoch, first.epoch + 1);
    assert_eq!(world.hello(1).0, 409);
    world.stop_agent();
    world.start_agent();
    let third = world.hello(3).1.unwrap();
    assert!(third.epoch > second.epoch, "it outlives the agent");
    assert_ne!(third.agent_boot, second.agent_boot);
}

#[test]
fn a_restarted_agent_takes_over_what_runs_and_nothing_else() {
    let mut world = World::new("restart");
    let running = world.create("runs", "none");
    world.create("paused", "none");
    assert!(changed(&world.act("paused", Action::Pause {})));
    let died = world.create("died", "none");
    let unrecorded = world.create("unrecorded", "none");
    let recycled = world.create("recycled", "none");
    world.create("gone", "none");
    assert!(changed(&world.act("gone", Action::Terminate {})));
    let pid = world.pid(&running);
    world.stop_agent();
    assert!(runs(pid), "guests outlive their management");

    signal(world.pid(&died), "KILL");
    // As if the agent had been killed right after the spawn: QEMU's own pid file is all there is.
    std::fs::remove_file(world.machine(&unrecorded).join("process")).unwrap();
    // The record of a process whose id has since been given to another: this test program.
    signal(world.pid(&recycled), "KILL");
    world.record_recycled(&recycled);
    world.start_agent();

    assert_eq!(world.state("runs"), State::Running);
    assert_eq!(world.state("paused"), State::Paused);
    assert_eq!(world.state("died"), State::Stopped);
    assert_eq!(world.state("unrecorded"), State::Running);
    assert_eq!(world.state("gone"), State::Terminated);
    assert_eq!(world.state("recycled"), State::Stopped);
    assert_eq!(refusal(&world.act("gone", Action::Terminate {})), Refusal::Terminated);
    assert!(changed(&world.act("paused", Action::Resume {})));
    for name in ["runs", "paused", "died", "unrecorded", "recycled"] {
        assert!(changed(&world.act(name, Action::Terminate {})), "{name}");
    }
    let until = Instant::now() + Duration::from_secs(5);
    while runs(pid) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!runs(pid));
}

#[test]
fn an_adopted_process_that_dies_is_noticed() {
    let mut world = World::new("adopted");
    let instance = world.create("a", "none");
    world.stop_agent();
    world.start_agent();
    assert_eq!(world.state("a"), State::Running);
    signal(world.pid(&instance), "KILL");
    let ended = world.await_state("a", State::Stopped);
    assert!(ended.reason.is_some());
}

#[test]
fn two_agents_cannot_share_a_run_directory() {
    let world = World::new("shared");
    let error = agent::Agent::bind(&world.config()).err().unwrap();
    assert!(error.to_string().contains("another agent"), "{error}");
}

#[test]
fn a_run_directory_that_others_can_write_to_is_not_trusted() {
    use std::os::unix::fs::PermissionsExt;
    let mut world = World::new("open");
    world.stop_agent();
    let run = world.directory.join("run");
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert!(agent::Agent::bind(&world.config()).is_err());
    std::fs::set_permissions(&run, std::fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn an_agent_told_to_end_its_guests_does() {
    let mut world = World::new("end");
    let instance = world.create("a", "none");
    let pid = world.pid(&instance);
    world.stop_agent();
    let config = agent::Config { end_guests: true, ..world.config() };
    let shutdown = agent::Shutdown::default();
    shutdown.request();
    agent::run(&config, &shutdown).unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    while runs(pid) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(!runs(pid));
    world.start_agent();
    assert_eq!(world.state("a"), State::Terminated);
}
