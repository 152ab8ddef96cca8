//! What does not fit into a table of states: guests that ignore what they are asked, machines that die by themselves and
//! monitors that hang.

use crate::cells::action;
use crate::native::{runs, signal};
use crate::parent::Parent;
use crate::states::{create, done};
use agent_protocol::{Action, Failure, Outcome, State, Then, Verb};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// How many instances are listed while one hangs, and how many of them run.
const LISTED: usize = 200;
const RUNNING: usize = 8;

/// A guest that does not shut down is left running or cut off, as the command says, and neither is called the other.
pub(crate) fn ignored(parent: &Parent) {
    let instance = done(parent.act("ignores", create("deaf", true)));
    let uuid = instance.uuid.to_string();
    let stop = |then| Action::Stop { graceful: true, timeout_ms: 300, then };
    let left = parent.act("ignores", stop(Then::Leave));
    assert!(matches!(left, Outcome::Failed { code: Failure::GuestIgnored, .. }), "{left:?}");
    parent.await_state("ignores", State::Running);
    assert_eq!(parent.native.calls(&uuid, "system_powerdown"), 1, "it was asked once");
    let cut = parent.act("ignores", stop(Then::Force));
    assert!(matches!(cut, Outcome::Done { changed: true, .. }), "{cut:?}");
    assert_eq!(done(cut).state, State::Stopped);
    assert_eq!(parent.native.pid(&uuid), None);
    done(parent.act("ignores", Action::Terminate {}));
}

/// A machine that dies by itself is noticed, told with how, not brought back, and can be started again.
pub(crate) fn dies(parent: &Parent) {
    let instance = done(parent.act("dies", create("obedient", true)));
    let uuid = instance.uuid.to_string();
    signal(parent.native.pid(&uuid).unwrap(), Signal::KILL);
    let failed = parent.await_state("dies", State::Failed);
    assert!(failed.reason.is_some(), "{failed:?}");
    assert!(failed.generation > instance.generation, "{failed:?}");
    assert_eq!(parent.native.started(&uuid).len(), 1, "nobody asked for it to be started again");
    done(parent.act("dies", Action::Start {}));
    parent.await_guest("dies");
    // And one whose guest powers itself off has stopped, not failed. It is asked from outside, behind the agent's back.
    signal(parent.native.pid(&uuid).unwrap(), Signal::TERM);
    let stopped = parent.await_state("dies", State::Stopped);
    assert!(stopped.reason.is_some(), "{stopped:?}");
    done(parent.act("dies", Action::Terminate {}));
}

/// While one machine's monitor hangs and a command waits for it, 200 others are listed as quickly as before, and are
/// commanded.
pub(crate) fn hangs(parent: &Parent) {
    let names: Vec<String> = (0..LISTED).map(|n| format!("crowd-{n:03}")).collect();
    for (n, name) in names.iter().enumerate() {
        done(parent.act(name, create("deaf", n < RUNNING)));
    }
    let hung = done(parent.act("hung", create("deaf", true)));
    let list = || {
        let began = Instant::now();
        assert!(parent.instances().len() > LISTED);
        began.elapsed()
    };
    let other = || {
        let began = Instant::now();
        done(parent.act(&names[0], Action::Pause {}));
        done(parent.act(&names[0], Action::Resume {}));
        began.elapsed()
    };
    let (listed, commanded) = (median(list), median(other));
    let pid = parent.native.pid(&hung.uuid.to_string()).unwrap();
    signal(pid, Signal::STOP);
    let waiting = parent.command("hung", action(Verb::Pause));
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| parent.settled(&waiting));
        let (listed_meanwhile, commanded_meanwhile) = (median(list), median(other));
        println!(
            "listed in {listed:?}, beside a hung one in {listed_meanwhile:?}; commanded in {commanded:?}, {commanded_meanwhile:?}"
        );
        // Ratios, and a floor: a busy machine takes its time, waiting for the hung one takes seconds.
        let slack = Duration::from_millis(300);
        assert!(listed_meanwhile < listed * 5 + slack, "{listed:?} and {listed_meanwhile:?}");
        assert!(commanded_meanwhile < commanded * 5 + slack, "{commanded:?} and {commanded_meanwhile:?}");
        let outcome = blocked.join().unwrap();
        assert!(!matches!(outcome, Outcome::Done { .. }), "its monitor hangs: {outcome:?}");
    });
    // The way out is open, and ends in proof.
    done(parent.act("hung", Action::Terminate {}));
    assert!(!runs(pid));
    for name in names {
        done(parent.act(&name, Action::Terminate {}));
    }
}

fn median(mut what: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..9).map(|_| what()).collect();
    times.sort_unstable();
    times[4]
}
