//! Network maps over the wire. Needs root, for a network namespace.

use crate::world::World;
use agent_protocol::{Facility, NetworkList, NetworkState, Support, decode, path};
use management_http::Method;
use std::process::Command;

fn map(generation: u64) -> Vec<u8> {
    format!(
        r#"{{"network":"blue","generation":{generation},"vni":100,"mtu":1450,"endpoints":[
            {{"mac":"52:54:00:00:00:01","ip":"10.5.0.1","underlay":"192.0.2.1"}},
            {{"mac":"52:54:00:00:00:02","ip":"10.5.0.2","underlay":"192.0.2.2"}}]}}"#
    )
    .into_bytes()
}

/// A map of as many interfaces as there may be.
fn full() -> Vec<u8> {
    let endpoints = (0..512).map(|number| {
        let (high, low) = (number / 256, number % 256);
        format!(
            r#"{{"mac":"52:54:00:01:{high:02x}:{low:02x}","ip":"10.6.{high}.{low}","underlay":"192.0.2.{}"}}"#,
            low.max(1)
        )
    });
    let endpoints: Vec<String> = endpoints.collect();
    let endpoints = endpoints.join(",");
    format!(r#"{{"network":"full","generation":1,"vni":101,"mtu":1450,"endpoints":[{endpoints}]}}"#)
        .into_bytes()
}

fn place(network: &str) -> String {
    format!("{}/{network}", path::NETWORKS)
}

fn blue(query: &str) -> String {
    place("blue") + query
}

#[test]
fn a_map_is_taken_from_the_appliance_that_commands_and_from_no_other() {
    let namespace = format!("cbnet{}", std::process::id());
    let ip = |arguments: &[&str]| assert!(Command::new("ip").args(arguments).status().unwrap().success());
    ip(&["netns", "add", &namespace]);
    let mut world = World::new("networks");
    let (status, body) = world.request(Method::Get, &blue(""), None);
    assert_eq!(status, 501, "no network between hosts was named");
    let told = |world: &World| {
        let mut backends = world.hello(1).1.unwrap().backends;
        let mut told = backends.remove(0).facilities;
        assert_eq!(told.iter().map(|one| one.facility).collect::<Vec<_>>(), Facility::ALL);
        told.retain(|one| one.facility == Facility::NetworkApply);
        told.remove(0)
    };
    let told_before = told(&world);
    assert_eq!(told_before.support, Support::Impossible);
    let problem: serde_json::Value = decode(&body).unwrap();
    assert_eq!(problem["detail"], told_before.by.as_str(), "what it says is what happens");

    world.stop_agent();
    let file = world.directory.join("images.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let section = format!(r#","network":{{"underlay":"192.0.2.1","namespace":"{namespace}"}}}}"#);
    std::fs::write(&file, text.strip_suffix('}').unwrap().to_owned() + &section).unwrap();
    world.start_agent();

    assert_eq!(told(&world).support, Support::Emulated);
    assert_eq!(world.request(Method::Get, &blue(""), None).0, 404);
    assert_eq!(world.request(Method::Put, &blue(""), Some(&map(1))).0, 400, "who says so?");
    let epoch = world.hello(1).1.unwrap().epoch;
    let put = |world: &World, epoch: u64, generation| {
        world.request(Method::Put, &blue(&format!("?epoch={epoch}")), Some(&map(generation)))
    };
    let (status, body) = put(&world, epoch, 5);
    let state: NetworkState = decode(&body).unwrap();
    assert_eq!((status, state.applied, state.endpoints, state.problems.len()), (200, Some(5), 2, 0));
    assert_eq!(put(&world, epoch, 4).0, 409, "an older generation");
    assert_eq!(put(&world, epoch, 5).0, 200, "the same again");

    let (status, body) = world.request(Method::Get, path::NETWORKS, None);
    let list: NetworkList = decode(&body).unwrap();
    assert_eq!((status, list.networks), (200, vec![state]), "the list says the same");
    let (status, body) =
        world.request(Method::Put, &format!("{}?epoch={epoch}", place("full")), Some(&full()));
    let state: NetworkState = decode(&body).unwrap_or_else(|_| panic!("{status}"));
    assert_eq!((status, state.applied, state.endpoints), (200, Some(1), 512), "as many as there may be");

    let newer = world.hello(2).1.unwrap().epoch;
    assert_eq!(put(&world, epoch, 6).0, 409, "another appliance has taken over");
    assert_eq!(put(&world, newer, 6).0, 200);
    world.stop_agent();
    world.start_agent();
    let (status, body) = world.request(Method::Get, &blue(""), None);
    let state: NetworkState = decode(&body).unwrap();
    assert_eq!((status, state.applied), (200, Some(6)), "it outlives the agent");
    let newest = world.hello(3).1.unwrap().epoch;
    assert_eq!(world.request(Method::Delete, &blue(&format!("?epoch={newest}")), None).0, 204);
    assert_eq!(world.request(Method::Get, &blue(""), None).0, 404);
    ip(&["netns", "del", &namespace]);
}
