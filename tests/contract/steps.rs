//! Agent, hypervisor or appliance killed just when the agent is at one place of its journal: every place, and in a long run
//! every place of every command.

use crate::crashes::{At, Case, Sent, Victim, judge, long, prepare};
use crate::native::{is_held, signal};
use crate::parent::{LIMIT, Parent};
use agent_protocol::{Backend, Outcome, Verb};
use image_launch::wait;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};

/// The places (`CrashPoint` of the agent) that every command passes that is carried out.
const PLACES: [&str; 7] = ["receiving", "received", "beginning", "begun", "performed", "ending", "ended"];
/// Those beside them of a command that asks a guest.
const ASKING: [&str; 2] = ["asking", "asked"];

/// Which place each of some commands is to be caught at in a round. In one round all places come up, and in as many as
/// there are places every one of every command.
pub(crate) fn places<'a>(cases: impl Iterator<Item = &'a Case>, round: usize) -> Vec<&'static str> {
    let all: Vec<_> = ASKING.into_iter().chain(PLACES).collect();
    let (mut others, mut askers) = (round, round);
    cases
        .map(|case| {
            let asks = matches!(case.verb, Verb::Stop | Verb::Reboot | Verb::VolumeDetach | Verb::NicDetach);
            let (places, next) = if asks { (&all[..], &mut askers) } else { (&PLACES[..], &mut others) };
            *next += 1;
            places[(*next - 1) % places.len()]
        })
        .collect()
}

/// How many rounds there are.
pub(crate) fn rounds() -> usize {
    long().map_or(1, |times| usize::try_from(times).unwrap() * (PLACES.len() + ASKING.len()))
}

/// Kills at every place.
pub(crate) fn kills(parent: &Parent, backend: &Backend, victim: Victim) {
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    let mut hit = BTreeSet::new();
    parent.kill_agent();
    parent.start_agent_that_obeys();
    for round in 0..rounds() {
        let mut sent =
            prepare(parent, backend, At::Places, &format!("{victim:?}-steps-{round}").to_lowercase());
        let places = places(sent.iter().map(|one| one.case), round);
        for (one, place) in sent.iter_mut().zip(places) {
            let killed = match victim {
                Victim::Agent => agent(parent, one, place),
                Victim::Hypervisor => hypervisor(parent, one, place),
            };
            if killed {
                hit.insert(place);
            }
            *told.entry(judge(parent, one, victim)).or_default() += 1;
        }
    }
    println!("{}, {victim:?} killed at {hit:?}: {told:?}", backend.name.as_str());
    all_places(&hit);
}

/// No place was left out.
pub(crate) fn all_places(hit: &BTreeSet<&'static str>) {
    let missed: Vec<_> = PLACES.iter().chain(&ASKING).filter(|place| !hit.contains(*place)).collect();
    assert!(missed.is_empty(), "nothing was killed at {missed:?}");
}

/// Sends a command to an agent that is killed at that place; whether it came there.
fn agent(parent: &Parent, one: &mut Sent, place: &str) -> bool {
    let order = parent.order(place);
    one.answered = parent.try_send(&one.command);
    let came = wait::until(format!("the agent at {place} of {}", one.id), LIMIT, || {
        let told = parent.try_recall(&one.command.op_id).flatten();
        let over = told.is_some_and(|told| !matches!(told, Outcome::Accepted { .. }));
        Ok((!order.is_open()).then_some(true).or(over.then_some(false)))
    });
    let came = came.unwrap() || !order.withdraw();
    if came {
        parent.await_end_of_agent();
        parent.start_agent_that_obeys();
    }
    came
}

/// Sends a command and kills its hypervisor while the agent is held at that place; whether there was one to kill.
fn hypervisor(parent: &Parent, one: &mut Sent, place: &str) -> bool {
    let mut killed = false;
    let (id, uuid, command) = (&one.id, one.uuid.as_ref(), &one.command);
    let send = || parent.try_send(command);
    let over = |answered: &Option<Outcome>| !matches!(answered, Some(Outcome::Accepted { .. }));
    one.answered = held(parent, place, send, over, || {
        let pid = match uuid {
            Some(uuid) => parent.native.pid(uuid),
            None => parent.native.pid_of(id),
        };
        if let Some(pid) = pid {
            signal(pid, Signal::KILL);
            killed = true;
        }
    });
    killed
}

/// Sends something, does `meanwhile` while the agent is held at that place if it comes there, and lets it go on; what was
/// answered. An answer that says that it is `over` without it having come there ends it.
fn held<T: Send>(
    parent: &Parent,
    place: &str,
    send: impl FnOnce() -> T + Send,
    over: impl Fn(&T) -> bool,
    meanwhile: impl FnOnce(),
) -> T {
    let order = parent.order(&format!("{place} hold"));
    std::thread::scope(|scope| {
        let mut sending = Some(scope.spawn(send));
        let mut answer = None;
        let came = await_hold(parent, place, || {
            if let Some(sent) = sending.take_if(|sending| sending.is_finished()) {
                answer = Some(sent.join().unwrap());
            }
            answer.as_ref().is_some_and(&over) && order.withdraw()
        });
        if came {
            meanwhile();
            signal(parent.agent(), Signal::CONT);
        }
        answer.unwrap_or_else(|| sending.unwrap().join().unwrap())
    })
}

/// Waits until the agent is held; whether it is, or it is over without.
pub(crate) fn await_hold(parent: &Parent, place: &str, mut over: impl FnMut() -> bool) -> bool {
    let agent = parent.agent();
    let came = wait::until(format!("the agent at {place}"), LIMIT, || {
        Ok(is_held(agent).then_some(true).or_else(|| over().then_some(false)))
    });
    came.unwrap_or_else(|error| panic!("{error}\n{}", parent.log()))
}
