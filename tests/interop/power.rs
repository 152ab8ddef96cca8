//! The power button: whoever runs the machine presses it, initiators are asked to log out, what they wrote is durable, and
//! the machine is off. Of the process: SIGTERM.

use crate::fixture::{script, stage, targets};
use crate::hostile::peer::{Heard, Peer, SOON, Who, login};
use crate::hostile::session::{BLOCK, GOOD, Session, lun, read10, write10};
use crate::service::{FOLDER, Inside, PORT, Place, Service, expose};
use image_launch::appliance::{Appliance, Kind};
use image_launch::disk::Server;
use image_launch::machine::Board;
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::stage::Stage;
use image_launch::wait;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};
use storage_iscsi::wire::{AsyncMessage, LoginResponse, LogoutRequest, opcode};
use tests_service::medium::Cache;

const LIMIT: Duration = Duration::from_secs(40);
const SIZE: u64 = 16 << 20;
/// Where the initiator writes, in blocks, and how much.
const PLACE: u32 = 2048;
const BLOCKS: u16 = 64;
const FILL: u8 = 0xb7;
/// The asynchronous event that asks for a logout, and the login status "service unavailable".
const LOG_OUT: u8 = 1;
const UNAVAILABLE: (u8, u8) = (3, 1);

/// What can be played inside.
pub(crate) const SCENARIOS: &[(&str, fn())] = &[("asked-to-leave", asked_to_leave)];

#[test]
fn the_button_switches_the_machine_off_when_initiators_have_left_and_disks_are_flushed() {
    for kind in targets() {
        press(kind, &[]);
    }
}

#[test]
fn a_microvm_whose_tables_tell_of_its_button_ends_by_it_too() {
    if targets().contains(&Kind::Image(Board::Microvm)) {
        press(Kind::Image(Board::Microvm), &["-machine", "acpi=on"]);
    }
}

fn press(kind: Kind, arguments: &[&str]) {
    // Without tables a microvm has no button that anybody could look at.
    if kind == Kind::Image(Board::Microvm) && arguments.is_empty() || kind == Kind::Tgtd {
        return;
    }
    let mut script = script(kind, SIZE, Server::QemuNbd);
    script.disks.clear();
    script.arguments = arguments.iter().map(ToString::to_string).collect();
    expose(&mut script, 0, &[]);
    let (mut stage, _turn) = stage(&script);
    // What is not flushed is in the memory of the service only.
    let service = Service::start(&stage, 0, SIZE, |options| options.cache = Cache::Volatile { spill: 0 });
    let disk = service.options.file.clone();
    let mut initiator = initiator(&stage);
    let written = stage.file("written");
    wait::until("an initiator that has written", LIMIT, || {
        initiator.must_run()?;
        Ok(written.exists().then_some(()))
    })
    .unwrap();
    assert!(!holds(&disk), "without a flush nothing is on the disk");

    let start = Instant::now();
    let mut qmp = stage.appliance.machine().map(|machine| machine.qmp().unwrap());
    match &mut qmp {
        Some(qmp) => drop(qmp.execute("system_powerdown", &serde_json::json!({})).unwrap()),
        None => terminate(&mut stage.appliance),
    }
    let end = stage.appliance.process().wait(LIMIT);
    let console = stage.appliance.console();
    let said = format!("{}\nthe initiator:\n{}", console, initiator.output());
    assert!(end.as_ref().is_ok_and(std::process::ExitStatus::success), "{kind}: {end:?}\n{said}");
    println!("{kind}: off after {:?}", start.elapsed());
    if let Some(qmp) = &mut qmp {
        let event = qmp.event("SHUTDOWN").unwrap();
        assert_eq!(event["data"]["reason"], "guest-shutdown", "{event}");
    }
    assert!(holds(&disk), "{kind}: what was written is durable\n{said}");
    let end = initiator.wait(SOON).unwrap();
    assert!(end.success(), "{kind}: {said}");
    check_clock(kind, &console);
    assert!(console.contains("asked to end") && console.contains("corbel: ended"), "{said}");
    assert!(!stage.appliance.has_panicked(), "{said}");
}

/// How often a machine is switched off and on again: more often than the service takes connections.
const CYCLES: usize = 3;

#[test]
fn storage_services_hear_a_farewell_and_keep_no_connection_of_a_machine_that_is_off() {
    for kind in targets() {
        if matches!(kind, Kind::Hosted | Kind::Image(Board::Q35)) {
            switch_off_and_on(kind);
        }
    }
}

fn switch_off_and_on(kind: Kind) {
    let mut script = script(kind, SIZE, Server::QemuNbd);
    script.disks.clear();
    expose(&mut script, 0, &[]);
    expose(&mut script, 1, &[]);
    let (mut stage, _turn) = stage(&script);
    let mut nbdkit = serve(&stage, "nbdkit", 0, &["-f", "-v", "-i"], &["memory", "16M"]);
    let disk = stage.file("disk");
    image_launch::disk::empty(&disk, SIZE).unwrap();
    // Who is not heard to go has its place for ever, and there are two.
    let options = ["-t", "-e", "2", "-f", "raw", "-b"];
    let mut qemu_nbd = serve(&stage, "qemu-nbd", 1, &options, &[disk.to_str().unwrap()]);
    for cycle in 1..=CYCLES {
        wait::until("both disks", LIMIT, || {
            let said = stage.appliance.console();
            Ok((said.contains("volume 0: ready") && said.contains("volume 1: ready")).then_some(()))
        })
        .unwrap();
        match stage.appliance.machine().map(|machine| machine.qmp().unwrap()) {
            Some(mut qmp) => drop(qmp.execute("system_powerdown", &serde_json::json!({})).unwrap()),
            None => terminate(&mut stage.appliance),
        }
        let end = stage.appliance.process().wait(LIMIT);
        let said = format!("{}\n{}", stage.appliance.console(), nbdkit.output());
        assert!(end.as_ref().is_ok_and(std::process::ExitStatus::success), "{kind}: {end:?}\n{said}");
        nbdkit.must_run().and_then(|()| qemu_nbd.must_run()).unwrap();
        // What a connection has that was reset, or never ended, is neither.
        let heard = |text: &str| nbdkit.output().matches(text).count();
        wait::until("an end of all connections", SOON, || Ok(connections(&stage).is_empty().then_some(())))
            .unwrap_or_else(|_| panic!("{kind}: {}\n{said}", connections(&stage)));
        wait::until("a farewell", SOON, || Ok((heard("client sent NBD_CMD_DISC") == cycle).then_some(())))
            .unwrap_or_else(|_| panic!("{kind}, {cycle}: {said}"));
        assert_eq!(heard("reset by peer"), 0, "{kind}: {said}");
        stage.crash().unwrap();
    }
}

/// Starts a program on the port of service `n`, with what comes before its address and behind its port.
fn serve(stage: &Stage, program: &str, n: u16, before: &[&str], behind: &[&str]) -> Process {
    let mut command = stage.net.command(program);
    let port = (PORT + n).to_string();
    command.args(before).arg(Wire::Service.here().to_string()).args(["-p", &port]).args(behind);
    Process::start(program, command, &stage.file(&format!("{program}.log"))).unwrap()
}

/// The connections of both services, except those of which their ends have yet to forget.
fn connections(stage: &Stage) -> String {
    let mut command = stage.net.command("ss");
    let [first, second] = [PORT, PORT + 1].map(|port| format!("sport = :{port}"));
    command.args([
        "-Htan",
        "exclude",
        "listening",
        "exclude",
        "time-wait",
        &format!("( {first} or {second} )"),
    ]);
    process::check(command, LIMIT).unwrap()
}

/// Boards with a PC's clock tell the time of day, the same as this system's.
fn check_clock(kind: Kind, console: &str) {
    if let Kind::Image(Board::Q35 | Board::Pc) = kind {
        let told = console
            .split_once("the time of day is ")
            .and_then(|(_, rest)| rest.split_once(" by the clock with a battery"));
        let told: u64 = told.unwrap_or_else(|| panic!("no time in {console}")).0.parse().unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!((now.saturating_sub(120)..=now + 1).contains(&told), "{kind}: {told} at {now}");
    }
}

/// As whoever runs a process asks it to end.
fn terminate(appliance: &mut Appliance) {
    let pid = Pid::from_raw(appliance.process().pid().cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
}

fn initiator(stage: &Stage) -> Process {
    let mut command = stage.command();
    command.args(["inside::inside", "--exact", "--ignored", "--nocapture"]);
    command.env(crate::inside::SCENARIO, "asked-to-leave").env(FOLDER, stage.scratch.path());
    Process::start("initiator", command, &stage.file("initiator.log")).unwrap()
}

/// Whether the medium itself has what the initiator wrote.
fn holds(disk: &Path) -> bool {
    let mut bytes = vec![0; usize::from(BLOCKS) * BLOCK];
    let file = fs::File::open(disk).unwrap();
    file.read_exact_at(&mut bytes, u64::from(PLACE) * BLOCK as u64).unwrap();
    bytes.iter().all(|byte| *byte == FILL)
}

/// An initiator with data that is acknowledged and not flushed: it hears that it is to leave, still reads, and leaves.
fn asked_to_leave() {
    let who = Who::new("leaver", 0);
    let mut session = Session::open(&who);
    let data = vec![FILL; usize::from(BLOCKS) * BLOCK];
    session.run(lun(0), &write10(PLACE, BLOCKS), &data, 0).unwrap().good().unwrap();
    fs::write(Inside.file("written"), "").unwrap();
    let message = loop {
        match session.peer.hear(LIMIT) {
            Heard::Pdu(header, _) if header.opcode() == opcode::ASYNC_MESSAGE => {
                break AsyncMessage::read(&header);
            }
            Heard::Pdu(..) => {}
            other => panic!("no request to log out: {other:?}"),
        }
    };
    assert_eq!(message.event, LOG_OUT);
    assert_eq!(message.parameter3, 19, "of thirty seconds the disks have ten, and connections one");
    session.exp_stat_sn = message.stat_sn.wrapping_add(1);
    // Who is there already is served to the end; nobody else is let in.
    let answer = session.run(lun(0), &read10(PLACE, 1), &[], 512).unwrap();
    assert_eq!((answer.status, answer.data), (GOOD, data[..BLOCK].to_vec()));
    let response = refused(&Who::new("late", 0));
    assert_eq!((response.status_class, response.status_detail), UNAVAILABLE);
    let request = LogoutRequest {
        immediate: true,
        initiator_task_tag: session.tag(),
        cmd_sn: session.cmd_sn,
        exp_stat_sn: session.exp_stat_sn,
        ..LogoutRequest::default()
    };
    session.peer.say(request.header(), &[]);
    assert_eq!(session.answer(request.initiator_task_tag), Ok(0));
}

/// What a login is answered with that is not to succeed.
fn refused(who: &Who) -> LoginResponse {
    let mut peer = Peer::connect();
    peer.say(login(who).header(), &who.declares());
    match peer.hear(SOON) {
        Heard::Pdu(header, _) => LoginResponse::read(&header),
        other => panic!("no answer to a login: {other:?}"),
    }
}
