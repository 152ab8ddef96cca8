//! The agent's events among the appliance's own.

use super::desk::*;
use super::tasks::{World, http, welcome};
use agent_protocol::{Event, EventKind, EventPage, NetworkList, State, Text, Uuid, encode, path};
use management_http::{Method, Request};
use serde_json::Value;
use std::time::Duration;

/// An agent of which only its events are of interest.
struct Teller {
    boot: u128,
    events: Vec<Event>,
    /// Those up to this number are kept no more.
    forgotten: u64,
    asked: usize,
    looked: usize,
}

fn event(seq: u64, kind: EventKind, state: State) -> Event {
    Event {
        seq,
        at_ms: seq,
        instance: name("web-1"),
        uuid: Uuid(1),
        generation: 10 + seq,
        state,
        kind,
        op_id: None,
        detail: Some(Text::new("the process has ended")),
    }
}

impl Teller {
    fn new() -> Self {
        let events =
            vec![event(1, EventKind::Created, State::Stopped), event(2, EventKind::State, State::Running)];
        Self { boot: 7, events, forgotten: 0, asked: 0, looked: 0 }
    }

    fn answer(&mut self, request: &Request<'_>) -> Option<Vec<u8>> {
        let agent_boot = Uuid(self.boot);
        Some(match request.path {
            path::HELLO => welcome(agent_boot),
            path::NETWORKS => {
                self.looked += 1;
                http(200, &encode(&NetworkList { proto: 1, agent_boot, networks: vec![] }))
            }
            path::EVENTS => {
                self.asked += 1;
                let after: u64 = request.query.unwrap().strip_prefix("after=").unwrap().parse().unwrap();
                let last = self.events.last().map_or(0, |event| event.seq);
                let missed = after > last || after < self.forgotten;
                let events: Vec<Event> = self
                    .events
                    .iter()
                    .filter(|event| !missed && event.seq > after)
                    .take(2)
                    .cloned()
                    .collect();
                let next = if missed { last } else { events.last().map_or(after, |event| event.seq) };
                http(200, &encode(&EventPage { proto: 1, agent_boot, clock_ms: 0, events, next, missed }))
            }
            other => panic!("{other}"),
        })
    }
}

fn world() -> World {
    let mut world = World::over((2, 4), configuration(Some("10.0.0.1:7077")), None);
    world.tend();
    world
}

/// What is told of instances after this number, by now: kind, state and detail; and what to ask after next.
fn told(world: &mut World, after: Option<u64>) -> (Vec<(String, String)>, u64) {
    let after = after.map(|after| format!("?after={after}")).unwrap_or_default();
    let mut caller = world.client(Method::Get, &format!("/v1/events{after}"), None);
    let page = caller.answer().unwrap().1;
    caller.end.reset();
    let of_instances = |event: &&Value| event["kind"].as_str().unwrap().starts_with("instance");
    let words = |event: &Value| {
        (event["kind"].as_str().unwrap().to_owned(), event["state"].as_str().unwrap_or_default().to_owned())
    };
    let events = page["events"].as_array().unwrap().iter().filter(of_instances).map(words).collect();
    (events, page["next"].as_u64().unwrap())
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(kind, state)| ((*kind).to_owned(), (*state).to_owned())).collect()
}

#[test]
fn what_happens_to_instances_by_itself_is_told_once_and_in_order() {
    let (mut world, mut teller) = (world(), Teller::new());
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    let (events, next) = told(&mut world, None);
    assert_eq!(events, pairs(&[("instances-missed", "")]), "what was before nobody can have missed since");
    teller.events.extend([
        event(3, EventKind::Rebooted, State::Running),
        event(4, EventKind::DiskError, State::Running),
        event(5, EventKind::Operation, State::Running),
        event(6, EventKind::State, State::Stopped),
        event(7, EventKind::Terminated, State::Terminated),
    ]);
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    let (events, next) = told(&mut world, Some(next));
    let expected = [
        ("instance-rebooted", "running"),
        ("instance-disk-error", "running"),
        ("instance", "stopped"),
        ("instance", "terminated"),
    ];
    assert_eq!(events, pairs(&expected));
    world.live(Duration::from_secs(20), |request| teller.answer(request));
    assert_eq!(told(&mut world, Some(next)).0, []);
}

#[test]
fn the_first_gap_is_told_when_the_agent_has_said_from_where_on_it_tells() {
    let (mut world, mut teller) = (world(), Teller::new());
    // It is silent about its events at first, and something happens meanwhile.
    world.live(Duration::from_secs(2), |request| match request.path {
        path::EVENTS => None,
        _ => teller.answer(request),
    });
    let (before, next) = told(&mut world, None);
    teller.events.push(event(3, EventKind::State, State::Stopped));
    world.live(Duration::from_secs(30), |request| teller.answer(request));
    let behind = told(&mut world, Some(next)).0;
    assert_eq!((before, behind), (vec![], pairs(&[("instances-missed", "")])));
}

#[test]
fn somebody_who_waits_hears_of_it_soon_and_nobody_is_asked_often_for_nothing() {
    let (mut world, mut teller) = (world(), Teller::new());
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    let before = teller.asked;
    world.live(Duration::from_secs(50), |request| teller.answer(request));
    assert!((8..=11).contains(&(teller.asked - before)), "{}", teller.asked - before);
    let next = told(&mut world, None).1;
    let mut waiting = world.client(Method::Get, &format!("/v1/events?after={next}&wait=25s"), None);
    world.live(Duration::from_millis(300), |request| teller.answer(request));
    assert!(waiting.answer().is_none());
    teller.events.push(event(3, EventKind::State, State::Stopped));
    world.live(Duration::from_millis(1000), |request| teller.answer(request));
    let page = waiting.answer().unwrap().1;
    assert_eq!(page["events"][0]["state"], "stopped");
    assert_eq!(page["events"][0]["detail"], "the process has ended");
    assert_eq!(
        (&page["events"][0]["object"], &page["events"][0]["generation"]),
        (&"web-1".into(), &13.into())
    );
}

#[test]
fn an_agent_that_always_has_one_more_to_tell_leaves_time_for_networks() {
    let (mut world, mut teller) = (world(), Teller::new());
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    let (mut asked, mut seq) = (0, 2);
    teller.looked = 0;
    world.live(Duration::from_secs(12), |request| match request.path {
        path::EVENTS => {
            asked += 1;
            assert!(asked < 1000, "asked without a pause");
            seq += 1;
            teller.events = vec![event(seq, EventKind::State, State::Running)];
            teller.answer(request)
        }
        _ => teller.answer(request),
    });
    assert!(asked >= 60, "{asked}: it is asked soon for the next all the same");
    assert!(teller.looked >= 1);
}

#[test]
fn events_that_come_again_or_out_of_order_are_told_once() {
    let (mut world, mut teller) = (world(), Teller::new());
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    let next = told(&mut world, None).1;
    teller.events.push(event(3, EventKind::State, State::Stopped));
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    let mut asked = 0;
    for (numbers, next) in [(vec![3], 3), (vec![5, 4], 4), (vec![4], 0), (vec![], 1), (vec![], 9)] {
        let events: Vec<Event> =
            numbers.iter().map(|seq| event(*seq, EventKind::State, State::Paused)).collect();
        let page = EventPage { proto: 1, agent_boot: Uuid(7), clock_ms: 0, events, next, missed: false };
        world.live(Duration::from_secs(6), |request| match request.path {
            path::EVENTS => {
                asked += 1;
                assert!(asked < 20, "asked without a pause");
                Some(http(200, &encode(&page)))
            }
            _ => teller.answer(request),
        });
    }
    teller.events.push(event(4, EventKind::State, State::Running));
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    assert_eq!(told(&mut world, Some(next)).0, pairs(&[("instance", "stopped"), ("instance", "running")]));
}

#[test]
fn a_gap_is_told_where_the_agent_has_forgotten_some_or_has_started_anew() {
    let (mut world, mut teller) = (world(), Teller::new());
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    let next = told(&mut world, None).1;
    teller.events = vec![event(9, EventKind::State, State::Stopped)];
    teller.forgotten = 8;
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    let (events, next) = told(&mut world, Some(next));
    assert_eq!(events, pairs(&[("instances-missed", "")]));
    teller.events.push(event(10, EventKind::State, State::Running));
    world.live(Duration::from_secs(6), |request| teller.answer(request));
    let (events, next) = told(&mut world, Some(next));
    assert_eq!(events, pairs(&[("instance", "running")]), "and it goes on behind the gap");

    // Another run, whose numbers are larger already: all of it is told, behind a gap.
    teller.boot = 8;
    teller.forgotten = 0;
    teller.events = (1..=12).map(|seq| event(seq, EventKind::State, State::Paused)).collect();
    world.held.drain(..).for_each(|(end, _)| end.reset());
    world.live(Duration::from_secs(12), |request| teller.answer(request));
    let (events, _) = told(&mut world, Some(next));
    assert_eq!(events[0].0, "instances-missed");
    assert_eq!(events[1..], vec![("instance".to_string(), "paused".to_string()); 12]);
}
