//! Maps of networks: what is taken, what is kept, and how the agent comes to have it.

use super::desk::*;
use super::resets::{disk, start};
use super::tasks::{World, http, welcome};
use crate::*;
use agent_protocol::{NetworkList, NetworkMap, NetworkName, NetworkState, Text, Uuid, decode, encode, path};
use kernel_runtime::Instant;
use management_http::{Method, Request};
use serde_json::{Value, json};
use state::Records;
use state::testing::RamDisk;
use std::collections::BTreeMap;
use std::time::Duration;

fn map(network: &str, generation: u64, vni: u32, interfaces: u32) -> String {
    let endpoint = |n: u32| {
        let (high, low) = (n / 200, n % 200 + 1);
        json!({ "mac": format!("52:54:00:{vni:02x}:{high:02x}:{low:02x}"), "ip": format!("10.5.{high}.{low}"),
                "underlay": format!("192.0.2.{low}") })
    };
    let endpoints: Vec<Value> = (0..interfaces).map(endpoint).collect();
    json!({ "network": network, "generation": generation, "vni": vni, "mtu": 1450, "endpoints": endpoints })
        .to_string()
}

const BLUE: &str = "PUT /v1/networks/blue/map";

#[test]
fn a_map_is_taken_whole_and_only_if_it_is_newer() {
    let desk = Desk::new();
    let (status, made) = desk.answer(BLUE, &map("blue", 5, 7, 2));
    assert_eq!(status, 201, "{made}");
    let desired = json!({ "generation": 5, "vni": 7, "mtu": 1450, "endpoints": 2, "durable": false });
    assert_eq!(made["desired"], desired);
    assert_eq!((&made["difference"], &made["applied"]), (&json!(["map"]), &Value::Null));
    assert_eq!(desk.answer(BLUE, &map("blue", 5, 7, 2)).0, 200, "the same again");
    assert_eq!(kind(&desk.answer(BLUE, &map("blue", 5, 7, 3))), (409, "stale-generation"));
    assert_eq!(kind(&desk.answer(BLUE, &map("blue", 4, 7, 2))), (409, "stale-generation"));
    assert_eq!(kind(&desk.answer(BLUE, &map("red", 6, 7, 2))), (422, "invalid-field"), "of another network");
    let red = desk.answer("PUT /v1/networks/red/map", &map("red", 1, 7, 0));
    assert_eq!(kind(&red), (409, "vni-taken"));
    let with = |fields: &str, generation| desk.answer_with(BLUE, fields, &map("blue", generation, 7, 1));
    assert_eq!(kind(&with("If-Match: \"4\"\r\n", 6)), (412, "generation-mismatch"));
    assert_eq!(with("If-Match: \"5\"\r\n", 6).1["desired"]["generation"], 6);
    for wrong in ["{}", "[]", &map("blue", 9, 7, 2).replace("1450", "99"), &map("blue", 9, 7, 513)] {
        assert_eq!(kind(&desk.answer(BLUE, wrong)), (400, "malformed-body"), "{wrong}");
    }
    assert_eq!(desk.answer(BLUE, &map("blue", 9, 7, 512)).1["desired"]["endpoints"], 512);
    let (status, shown) = desk.answer("GET /v1/networks/blue/map", "");
    assert_eq!((status, shown["map"]["endpoints"].as_array().unwrap().len()), (200, 512));
    assert!(shown["problems"][0].as_str().unwrap().contains("cannot be reached"), "{shown}");
    let red = desk.answer("GET /v1/networks/red/map", "");
    assert_eq!(kind(&red), (503, "agent-unavailable"), "the host may have it");
    let alone = Desk::with(configuration(None));
    assert_eq!(kind(&alone.answer(BLUE, &map("blue", 1, 7, 0))), (503, "agent-not-configured"));
}

#[test]
fn a_number_that_is_being_given_up_is_free_when_that_is_kept() {
    let desk = Desk::new();
    desk.answer(BLUE, &map("blue", 1, 5, 0));
    let Step::Keep(deed) = desk.step(BLUE, &map("blue", 2, 6, 0)) else { panic!() };
    for vni in [5, 6] {
        let red = desk.answer("PUT /v1/networks/red/map", &map("red", 1, vni, 0));
        assert_eq!(kind(&red), (409, "vni-taken"), "{vni}");
    }
    desk.finish(desk.management.carry_out(deed));
    assert_eq!(desk.answer("PUT /v1/networks/red/map", &map("red", 1, 5, 0)).0, 201);
}

#[test]
fn a_dry_run_says_what_would_be_and_changes_nothing() {
    let desk = Desk::new();
    let (status, would) = desk.answer("PUT /v1/networks/blue/map?dry_run=true", &map("blue", 5, 7, 2));
    assert_eq!((status, &would["desired"]["generation"]), (200, &5.into()));
    assert_eq!(desk.answer("GET /v1/networks", "").1["networks"], json!([]));
    desk.answer(BLUE, &map("blue", 5, 7, 2));
    let would = desk.answer("PUT /v1/networks/blue/map?dry_run=true", &map("blue", 4, 7, 2));
    assert_eq!(kind(&would), (409, "stale-generation"));
    let (status, would) = desk.answer("DELETE /v1/networks/blue/map?dry_run=true", "");
    assert_eq!((status, &would["desired"]), (200, &Value::Null));
    assert_eq!(desk.answer("GET /v1/networks/blue/map", "").1["desired"]["generation"], 5);
    let audit = desk.answer("GET /v1/audit", "").1;
    let outcomes: Vec<_> = audit["records"].as_array().unwrap().iter().map(|one| &one["outcome"]).collect();
    assert_eq!(outcomes, ["dry-run", "accepted", "stale-generation", "dry-run"]);
}

#[test]
fn networks_are_shown_in_pages_by_name() {
    let desk = Desk::new();
    for (vni, name) in ["c", "a", "b"].iter().enumerate() {
        let number = u32::try_from(vni).unwrap() + 1;
        assert_eq!(desk.answer(&format!("PUT /v1/networks/{name}/map"), &map(name, 1, number, 0)).0, 201);
    }
    let names = |page: &Value| -> Vec<String> {
        page["networks"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().into()).collect()
    };
    let first = desk.answer("GET /v1/networks?limit=2", "").1;
    assert_eq!((names(&first), &first["next"]), (vec!["a".into(), "b".into()], &"b".into()));
    let last = desk.answer("GET /v1/networks?limit=2&after=b", "").1;
    assert_eq!((names(&last), &last["next"]), (vec!["c".to_string()], &Value::Null));
    assert!(first["networks"][0]["map"].is_null(), "maps are not in lists");
}

#[test]
fn what_there_is_no_room_for_is_refused_and_what_is_there_stays() {
    let desk = Desk::with(Configuration { operations: 64, ..configuration(Some("10.0.0.1:7077")) });
    for (vni, name) in [(1, "a"), (2, "b")] {
        let put = format!("PUT /v1/networks/{name}/map");
        assert_eq!(desk.answer(&put, &map(name, 1, vni, 512)).0, 201, "16 KiB are two maps");
    }
    let full = desk.answer("PUT /v1/networks/c/map", &map("c", 1, 3, 512));
    assert_eq!(kind(&full), (507, "no-capacity"));
    assert!(full.1["detail"].as_str().unwrap().contains("room for 143 more interfaces"), "{}", full.1);
    assert_eq!(desk.answer("PUT /v1/networks/c/map", &map("c", 1, 3, 143)).0, 201);
    let (_, text) = figures(&desk);
    assert!(
        text.contains("corbel_networks 3\n") && text.contains("corbel_networks_not_applied 3\n"),
        "{text}"
    );
    let many = Desk::new();
    for vni in 1..=64 {
        let name = format!("n{vni}");
        assert_eq!(many.answer(&format!("PUT /v1/networks/{name}/map"), &map(&name, 1, vni, 0)).0, 201);
    }
    assert_eq!(kind(&many.answer("PUT /v1/networks/n65/map", &map("n65", 1, 65, 0))), (507, "no-capacity"));
    assert_eq!(many.answer("PUT /v1/networks/n64/map", &map("n64", 2, 64, 1)).0, 200, "not a new one");
}

fn figures(desk: &Desk) -> (u16, String) {
    let Step::Answer(response) = desk.step("GET /v1/metrics", "") else { panic!() };
    (response.status, String::from_utf8(response.body).unwrap())
}

#[test]
fn what_cannot_be_kept_is_not_wanted() {
    let disk = disk();
    let desk = start(&disk, 1);
    assert_eq!(desk.answer(BLUE, &map("blue", 1, 7, 2)).1["desired"]["durable"], true);
    disk.fail_after(Some(0));
    assert_eq!(kind(&desk.answer(BLUE, &map("blue", 2, 7, 2))), (503, "no-state"));
    assert_eq!(kind(&desk.answer("PUT /v1/networks/red/map", &map("red", 1, 8, 2))), (503, "no-state"));
    let red = desk.answer("GET /v1/networks/red/map", "");
    assert_eq!(kind(&red), (503, "agent-unavailable"), "the host may have it");
    assert_eq!(desk.answer("GET /v1/networks/blue/map", "").1["desired"]["generation"], 1);
}

/// The networks of a host, and its agent as far as they are concerned.
#[derive(Default)]
struct Host {
    boot: u128,
    networks: BTreeMap<NetworkName, (NetworkMap, Option<Text>)>,
    puts: usize,
    /// Which appliance has ordered something last, and the number of its order.
    last: (String, u64),
    /// Nothing comes about, for this reason.
    trouble: Option<&'static str>,
}

impl Host {
    fn state(&self, (map, problem): &(NetworkMap, Option<Text>)) -> NetworkState {
        NetworkState {
            proto: 1,
            agent_boot: Uuid(self.boot),
            network: map.network.clone(),
            applied: problem.is_none().then_some(map.generation),
            endpoints: u32::try_from(map.endpoints.len()).unwrap(),
            unknown_destinations: 3,
            problems: problem.iter().cloned().collect(),
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Option<Vec<u8>> {
        let unknown = || http(404, br#"{"type":"urn:corbel:problem:unknown-network","detail":"no"}"#);
        let Some(name) = request.path.strip_prefix(path::NETWORKS) else {
            return Some(match request.path {
                path::HELLO => welcome(Uuid(self.boot)),
                path::EVENTS => http(404, b"{}"),
                other => panic!("{other}"),
            });
        };
        let Some(name) = name.strip_prefix('/') else {
            let networks = self.networks.values().map(|one| self.state(one)).collect();
            return Some(http(
                200,
                &encode(&NetworkList { proto: 1, agent_boot: Uuid(self.boot), networks }),
            ));
        };
        if request.method != Method::Get {
            let query = request.query.unwrap();
            let order = query.strip_prefix("epoch=3&appliance=").unwrap();
            let (appliance, order) = order.split_once("&order=").unwrap();
            let order = (appliance.to_owned(), order.parse().unwrap());
            assert!(order.0 != self.last.0 || order.1 > self.last.1, "each is behind those before it");
            self.last = order;
        }
        let name: NetworkName = name.parse().unwrap();
        let there = self.networks.get(&name);
        Some(match request.method {
            Method::Put => {
                self.puts += 1;
                let map: NetworkMap = decode(request.body).unwrap();
                if let Some((there, _)) = there
                    && (there.generation > map.generation
                        || there.generation == map.generation && *there != map)
                {
                    return Some(http(409, br#"{"type":"x","detail":"another is here already"}"#));
                }
                let state = (map, self.trouble.map(Text::new));
                let answer = http(200, &encode(&self.state(&state)));
                self.networks.insert(name, state);
                answer
            }
            Method::Delete => self.networks.remove(&name).map_or_else(unknown, |_| http(204, b"")),
            _ => there.map_or_else(unknown, |state| http(200, &encode(&self.state(state)))),
        })
    }

    fn generation(&self, name: &str) -> Option<u64> {
        self.networks.get(&name.parse().unwrap()).map(|(map, _)| map.generation)
    }
}

/// An appliance in its run of this number, over the disk.
fn appliance(disk: &RamDisk, run: u128) -> World {
    let records = Records::open(Box::new(disk.clone()), 65536, ([1; 16], run as u64), || Instant::ZERO);
    let configuration = Configuration { boot: Uuid(run), ..configuration(Some("10.0.0.1:7077")) };
    let mut world = World::over((2, 4), configuration, Some(records.unwrap()));
    world.tend();
    world
}

/// A request, and its answer once the host has done its part.
fn ask(world: &mut World, host: &mut Host, method: Method, path: &str, body: Option<&str>) -> (u16, Value) {
    let mut caller = world.client(method, path, body);
    for _ in 0..10 {
        world.live(Duration::from_millis(100), |request| host.answer(request));
        if let Some(answer) = caller.answer() {
            caller.end.reset();
            return answer;
        }
    }
    panic!("{path}: no answer");
}

const PLACE: &str = "/v1/networks/blue/map";

#[test]
fn the_agent_has_the_map_and_has_it_again_after_a_restart_of_either() {
    let (disk, mut host) = (disk(), Host { boot: 7, ..Host::default() });
    let mut world = appliance(&disk, 1);
    let (status, _) = ask(&mut world, &mut host, Method::Put, PLACE, Some(&map("blue", 5, 7, 2)));
    assert_eq!(status, 201);
    world.live(Duration::from_secs(1), |request| host.answer(request));
    assert_eq!(host.generation("blue"), Some(5));
    let shown = ask(&mut world, &mut host, Method::Get, PLACE, None).1;
    assert_eq!(shown["applied"]["generation"], 5);
    assert_eq!((&shown["difference"], &shown["problems"]), (&Value::Null, &Value::Null), "{shown}");
    let counters = ask(&mut world, &mut host, Method::Get, "/v1/networks/blue/counters", None).1;
    assert_eq!(counters, json!({ "id": "blue", "drops": { "unknown_destination": 3 } }));
    let puts = host.puts;
    world.live(Duration::from_secs(40), |request| host.answer(request));
    assert_eq!(host.puts, puts, "what is in effect is not told again and again");

    // The agent starts anew and has lost its networks.
    (host.boot, host.networks) = (8, BTreeMap::new());
    world.held.drain(..).for_each(|(end, _)| end.reset());
    world.live(Duration::from_secs(10), |request| host.answer(request));
    assert_eq!(host.generation("blue"), Some(5));
    // Somebody has removed the devices by hand.
    host.networks.clear();
    world.live(Duration::from_secs(15), |request| host.answer(request));
    assert_eq!(host.generation("blue"), Some(5));

    drop(world);
    host.networks.clear();
    let mut world = appliance(&disk, 2);
    world.live(Duration::from_secs(2), |request| host.answer(request));
    assert_eq!(host.generation("blue"), Some(5), "the appliance starts anew");
    ask(&mut world, &mut host, Method::Put, PLACE, Some(&map("blue", 6, 7, 3)));
    world.live(Duration::from_secs(1), |request| host.answer(request));
    assert_eq!(host.generation("blue"), Some(6));
}

#[test]
fn a_host_that_had_no_networks_at_first_is_looked_at_all_the_same() {
    let (disk, mut host) = (disk(), Host { boot: 7, ..Host::default() });
    let mut world = appliance(&disk, 1);
    world.live(Duration::from_secs(1), |request| host.answer(request));
    ask(&mut world, &mut host, Method::Put, PLACE, Some(&map("blue", 5, 7, 2)));
    world.live(Duration::from_secs(1), |request| host.answer(request));
    assert_eq!(host.generation("blue"), Some(5));
    // Somebody has removed the devices by hand.
    host.networks.clear();
    world.live(Duration::from_secs(15), |request| host.answer(request));
    assert_eq!(host.generation("blue"), Some(5));
}

#[test]
fn a_kernel_that_hangs_over_its_networks_holds_one_link_and_the_other_carries_operations() {
    let mut world = appliance(&disk(), 1);
    let mut heard = false;
    let mut hang = |request: &Request<'_>| {
        heard |= request.path.starts_with(path::COMMAND);
        match request.path {
            path::HELLO => Some(welcome(Uuid(7))),
            path::EVENTS => Some(http(404, b"{}")),
            _ => None,
        }
    };
    world.live(Duration::from_secs(1), &mut hang);
    let asking = [(); 2].map(|()| world.client(Method::Get, PLACE, None));
    world.live(Duration::from_millis(500), &mut hang);
    let command = Some(r#"{"verb":"terminate"}"#);
    let terminate = world.client(Method::Post, "/v1/instances/web-1/commands", command);
    world.live(Duration::from_secs(1), &mut hang);
    drop((asking, terminate));
    assert!(heard, "it has reached the agent");
}

#[test]
fn networks_that_hang_do_not_keep_out_those_behind_them() {
    let (mut host, mut world) = (Host { boot: 7, ..Host::default() }, appliance(&disk(), 1));
    world.live(Duration::from_secs(1), |request| host.answer(request));
    let mut hang = |request: &Request<'_>| {
        let is_last = request.path.ends_with("/e");
        if request.method == Method::Put && !is_last { None } else { host.answer(request) }
    };
    for (number, name) in (1..).zip(["a", "b", "c", "d", "e"]) {
        let mut caller =
            world.client(Method::Put, &format!("/v1/networks/{name}/map"), Some(&map(name, 1, number, 0)));
        world.live(Duration::from_millis(100), &mut hang);
        assert_eq!(caller.answer().unwrap().0, 201);
        caller.end.reset();
    }
    world.live(Duration::from_secs(90), &mut hang);
    assert_eq!(host.generation("e"), Some(1));
}

#[test]
fn a_network_that_is_to_be_gone_stays_known_until_the_host_has_it_no_more() {
    let (disk, mut host) = (disk(), Host { boot: 7, ..Host::default() });
    let mut world = appliance(&disk, 1);
    ask(&mut world, &mut host, Method::Put, PLACE, Some(&map("blue", 5, 7, 2)));
    world.live(Duration::from_secs(1), |request| host.answer(request));
    // The agent says nothing any more.
    let mut caller = world.client(Method::Delete, PLACE, None);
    world.live(Duration::from_millis(100), |_| None);
    let (status, left) = caller.answer().unwrap();
    assert_eq!((status, &left["desired"], &left["applied"]["generation"]), (202, &Value::Null, &5.into()));
    let mut caller = world.client(Method::Put, PLACE, Some(&map("blue", 5, 7, 2)));
    world.live(Duration::from_millis(100), |_| None);
    assert_eq!(kind(&caller.answer().unwrap()), (409, "stale-generation"), "what was taken away stays away");
    drop(world);

    let mut world = appliance(&disk, 2);
    let mut caller = world.client(Method::Get, PLACE, None);
    world.live(Duration::from_millis(100), |_| None);
    assert_eq!(caller.answer().map(|(status, _)| status), Some(200), "also over a restart");
    world.live(Duration::from_secs(8), |request| host.answer(request));
    assert_eq!(host.generation("blue"), None);
    assert_eq!(ask(&mut world, &mut host, Method::Get, PLACE, None).0, 404);
    assert_eq!(ask(&mut world, &mut host, Method::Put, PLACE, Some(&map("blue", 1, 7, 2))).0, 201);
    world.live(Duration::from_secs(1), |request| host.answer(request));
    assert_eq!(host.generation("blue"), Some(1), "it is a new one");
    drop(world);
    let records = Records::open(Box::new(disk.clone()), 65536, ([1; 16], 3), || Instant::ZERO).unwrap();
    let mut count = 0;
    records.each(b"networks/", |_, _| count += 1);
    assert_eq!(count, 1, "nothing is left of what is gone");
}

#[test]
fn what_the_agent_cannot_do_is_told_and_tried_again() {
    let (disk, mut host) = (disk(), Host { boot: 7, trouble: Some("no kernel"), ..Host::default() });
    let mut world = appliance(&disk, 1);
    ask(&mut world, &mut host, Method::Put, PLACE, Some(&map("blue", 5, 7, 2)));
    world.live(Duration::from_secs(1), |request| host.answer(request));
    let shown = ask(&mut world, &mut host, Method::Get, PLACE, None).1;
    assert_eq!((&shown["difference"], &shown["problems"]), (&json!(["generation"]), &json!(["no kernel"])));
    host.trouble = None;
    world.live(Duration::from_secs(10), |request| host.answer(request));
    assert_eq!(host.networks.values().next().unwrap().1, None);
    let shown = ask(&mut world, &mut host, Method::Get, PLACE, None).1;
    assert_eq!((&shown["difference"], &shown["problems"]), (&Value::Null, &Value::Null));
    let events = ask(&mut world, &mut host, Method::Get, "/v1/events", None).1;
    let of = |event: &&Value| event["kind"] == "network";
    let events: Vec<_> = events["events"].as_array().unwrap().iter().filter(of).collect();
    let words: Vec<_> = events.iter().map(|event| event["detail"].as_str().unwrap()).collect();
    assert_eq!(words, ["wanted", "no kernel", "in effect"]);
    assert!(events.iter().all(|event| event["object"] == "blue"));
}

#[test]
fn a_network_that_nobody_wants_is_shown_and_left_alone_until_somebody_takes_it_away() {
    let (disk, mut host) = (disk(), Host { boot: 7, ..Host::default() });
    let left: NetworkMap = decode(map("left", 9, 99, 1).as_bytes()).unwrap();
    host.networks.insert("left".parse().unwrap(), (left, None));
    let mut world = appliance(&disk, 1);
    world.live(Duration::from_secs(15), |request| host.answer(request));
    let list = ask(&mut world, &mut host, Method::Get, "/v1/networks", None).1;
    assert_eq!(
        (&list["networks"][0]["id"], &list["networks"][0]["applied"]["generation"]),
        (&"left".into(), &9.into())
    );
    assert_eq!(host.generation("left"), Some(9));
    // The agent says nothing any more.
    let mut quiet = |method, body: Option<&str>| {
        let mut caller = world.client(method, "/v1/networks/left/map", body);
        world.live(Duration::from_millis(100), |_| None);
        caller.answer().unwrap()
    };
    assert_eq!(quiet(Method::Delete, None).0, 202);
    let older = quiet(Method::Put, Some(&map("left", 1, 99, 1)));
    assert_eq!(kind(&older), (409, "stale-generation"), "it could never replace what the host has");
    world.live(Duration::from_secs(12), |request| host.answer(request));
    assert_eq!(host.generation("left"), None);
    world.live(Duration::from_secs(1), |request| host.answer(request));
    assert_eq!(host.generation("left"), None);
    assert_eq!(ask(&mut world, &mut host, Method::Get, "/v1/networks", None).1["networks"], json!([]));
}

#[test]
fn an_older_map_than_the_host_has_is_told_as_such() {
    let (disk, mut host) = (disk(), Host { boot: 7, ..Host::default() });
    let newer: NetworkMap = decode(map("blue", 9, 7, 1).as_bytes()).unwrap();
    host.networks.insert("blue".parse().unwrap(), (newer, None));
    let mut world = appliance(&disk, 1);
    ask(&mut world, &mut host, Method::Put, PLACE, Some(&map("blue", 5, 7, 1)));
    world.live(Duration::from_secs(1), |request| host.answer(request));
    let shown = ask(&mut world, &mut host, Method::Get, PLACE, None).1;
    assert_eq!((&shown["applied"]["generation"], &shown["difference"]), (&9.into(), &json!(["generation"])));
    assert!(shown["problems"][0].as_str().unwrap().contains("another is here already"), "{shown}");
}
