//! On a terminal: colours, a line that moves while something takes long, and Ctrl-C.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod canned;

use canned::{Reply, Server};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

fn operation(state: &str) -> String {
    let result = json!({ "id": "web-1", "state": if state == "running" { "stopping" } else { "stopped" } });
    json!({ "id": "a-1", "verb": "stop", "instance": "web-1", "state": state, "result": result }).to_string()
}

/// An appliance on which a stop takes as many looks as that.
fn slow(looks: usize) -> Server {
    Server::start(move |asked, index| {
        std::thread::sleep(Duration::from_millis(if asked.line.starts_with("GET") { 200 } else { 0 }));
        let state = if index >= looks { "succeeded" } else { "running" };
        Reply::Json(202, operation(state))
    })
}

/// What the program writes to a terminal of 60 columns, and its exit code; `meanwhile` is told its process.
fn on_a_terminal(mut command: Command, meanwhile: impl FnOnce(Pid)) -> (String, i32) {
    let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&main).unwrap();
    unlockpt(&main).unwrap();
    let name = ptsname(&main, Vec::new()).unwrap();
    let side = open(&name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    tcsetwinsize(&side, Winsize { ws_row: 20, ws_col: 60, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    command.stdin(Stdio::null()).stdout(side.try_clone().unwrap()).stderr(side).env("TERM", "xterm");
    let mut child = command.spawn().unwrap();
    // It holds the terminal too, and would keep it open.
    drop(command);
    let reader = std::thread::spawn(move || {
        let (mut main, mut text, mut piece) = (File::from(main), Vec::new(), [0; 4096]);
        // The end of the other side is an error here (EIO).
        while let Ok(count @ 1..) = main.read(&mut piece) {
            text.extend_from_slice(&piece[..count]);
        }
        String::from_utf8(text).unwrap()
    });
    meanwhile(Pid::from_child(&child));
    let code = child.wait().unwrap().code().unwrap_or(-1);
    (reader.join().unwrap(), code)
}

#[test]
fn a_long_operation_shows_how_it_goes_and_cleans_up_behind_itself() {
    let (text, code) = on_a_terminal(slow(6).command(&["stop", "web-1", "--wait"]), |_| {});
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("⠋ stop web-1: running, "), "{text:?}");
    assert!(text.contains("running, 1s") && text.matches('\r').count() > 3, "{text:?}");
    let last = text.rsplit("\x1b[K").next().unwrap();
    assert_eq!(last, "web-1: stop \x1b[32msucceeded\x1b[0m; it is stopped\r\n");
}

#[test]
fn what_is_quick_shows_no_progress() {
    let (text, code) = on_a_terminal(slow(0).command(&["stop", "web-1", "--wait"]), |_| {});
    assert_eq!((code, text.as_str()), (0, "web-1: stop \x1b[32msucceeded\x1b[0m; it is stopped\r\n"));
}

#[test]
fn a_pipe_gets_neither_colours_nor_progress() {
    let run = slow(6).ctl(&["stop", "web-1", "--wait"]);
    assert_eq!((run.code, run.err.as_str()), (0, ""));
    assert_eq!(run.out, "web-1: stop succeeded; it is stopped\n");
}

#[test]
fn no_color_and_a_dumb_terminal_are_heard() {
    for (name, value) in [("NO_COLOR", "1"), ("CORBEL_UNUSED", "")] {
        let mut command = slow(0).command(&["stop", "web-1", "--wait"]);
        command.env(name, value);
        if name != "NO_COLOR" {
            command.arg("--color=never");
        }
        let (text, _) = on_a_terminal(command, |_| {});
        assert_eq!(text, "web-1: stop succeeded; it is stopped\r\n");
    }
    let run = slow(0).ctl(&["--color=always", "stop", "web-1"]);
    assert!(run.out.contains("\x1b[32m"), "{}", run.out);
}

#[test]
fn a_table_is_no_wider_than_the_terminal() {
    let server = Server::start(|_, _| {
        let reason = "the hypervisor ended by signal 11 while it was asked for its state by the agent";
        Reply::Json(
            200,
            json!({ "instances": [{ "id": "web-1", "state": "failed", "reason": reason }] }).to_string(),
        )
    });
    let mut command = server.command(&["instances"]);
    command.env("NO_COLOR", "1");
    let (text, _) = on_a_terminal(command, |_| {});
    assert_eq!(text.lines().nth(1).unwrap().chars().count(), 60, "{text}");
    assert!(text.ends_with("…\r\n"), "{text}");
}

#[test]
fn whoever_stops_waiting_is_told_that_the_operation_goes_on() {
    let server = slow(usize::MAX);
    let (text, code) = on_a_terminal(server.command(&["stop", "web-1", "--wait"]), |pid| {
        std::thread::sleep(Duration::from_millis(1200));
        kill_process(pid, Signal::INT).unwrap();
    });
    assert_eq!(code, 3, "{text:?}");
    assert!(text.contains("it goes on: corbelctl operation a-1 --wait"), "{text:?}");
}

#[test]
fn whoever_interrupts_a_command_is_told_how_to_find_out_what_became_of_it() {
    let server = Server::start(|_, _| {
        std::thread::sleep(Duration::from_secs(20));
        Reply::Hangup
    });
    let (text, code) = on_a_terminal(server.command(&["stop", "web-1", "--token", "t-1"]), |pid| {
        std::thread::sleep(Duration::from_millis(600));
        kill_process(pid, Signal::INT).unwrap();
    });
    assert_eq!(code, 3, "{text:?}");
    assert!(text.contains("interrupted before the answer") && text.contains("--token t-1"), "{text:?}");
}

#[test]
fn a_wait_with_a_limit_ends() {
    let server = slow(usize::MAX);
    let run = server.ctl(&["stop", "web-1", "--wait=1s"]);
    assert_eq!(run.code, 3);
    assert_eq!(run.err, "waited long enough; it goes on: corbelctl operation a-1 --wait\n");
}
