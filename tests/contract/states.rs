//! How each state that can be reached is reached, and how it looks from outside.

use crate::native::signal;
use crate::parent::Parent;
use agent_protocol::{Action, Instance, Outcome, Size, State, Then};
use rustix::process::Signal;

/// The state of a name that stands for nothing, beside those of instances.
pub(crate) type Standing = Option<State>;

/// The states in which the contract is tried. The others are passed through too quickly to be caught: `pending`, `saving`
/// and `shutting-down` last as long as one command of the hypervisor.
pub(crate) const STANDINGS: [Standing; 9] = [
    None,
    Some(State::Stopped),
    Some(State::Running),
    Some(State::Paused),
    Some(State::Stopping),
    Some(State::Saved),
    Some(State::Failed),
    Some(State::Terminated),
    Some(State::Unknown),
];

/// How a standing is called in the page.
pub(crate) fn name(standing: Standing) -> &'static str {
    standing.map_or("absent", State::as_str)
}

/// Makes an instance of that name that stands like this; `None` if there is to be none.
pub(crate) fn reach(parent: &Parent, id: &str, standing: Standing) -> Option<Instance> {
    let state = standing?;
    let made = done(parent.act(id, create("deaf", !matches!(state, State::Stopped | State::Terminated))));
    let uuid = made.uuid.to_string();
    match state {
        State::Running | State::Stopped => {}
        State::Paused => drop(done(parent.act(id, Action::Pause {}))),
        State::Stopping => {
            let stop = Action::Stop { graceful: true, timeout_ms: 600_000, then: Then::Leave };
            let asked = parent.send(&parent.command(id, stop));
            assert!(matches!(asked, Outcome::Accepted { .. }), "{asked:?}");
        }
        State::Saved => drop(done(parent.act(id, Action::Save {}))),
        State::Failed => signal(parent.native.pid(&uuid).unwrap(), Signal::KILL),
        State::Terminated => drop(done(parent.act(id, Action::Terminate {}))),
        State::Unknown => {
            signal(parent.native.pid(&uuid).unwrap(), Signal::STOP);
            let seen = done(parent.act(id, Action::Describe {}));
            assert_eq!(seen.state, State::Unknown, "its monitor hangs");
        }
        State::Pending | State::Saving | State::ShuttingDown => unreachable!("no test asks for it"),
    }
    Some(parent.await_state(id, state))
}

/// Makes an instance of an image.
pub(crate) fn create(image: &str, start: bool) -> Action {
    Action::Create { image: image.parse().unwrap(), start, size: Size::default() }
}

/// The instance of a command that was done.
pub(crate) fn done(outcome: Outcome) -> Instance {
    match outcome {
        Outcome::Done { instance, .. } => instance,
        other => panic!("not done: {other:?}"),
    }
}

/// How an instance in `state` looks from outside: what QEMU's process, if there is one, says of itself.
pub(crate) fn natively(state: State) -> &'static [Option<&'static str>] {
    match state {
        State::Running | State::Stopping => &[Some("running")],
        // One that was reset while it was held has not begun.
        State::Paused => &[Some("paused"), Some("prelaunch")],
        State::Stopped | State::Saved | State::Failed | State::Terminated => &[None],
        _ => &[Some("running"), Some("paused"), Some("prelaunch"), None],
    }
}
