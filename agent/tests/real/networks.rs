//! Network maps over the wire. Needs root, for a network namespace.

use crate::world::World;
use agent_protocol::{NetworkState, decode, path};
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

fn blue(query: &str) -> String {
    format!("{}/blue{query}", path::NETWORKS)
}

#[test]
fn a_map_is_taken_from_the_appliance_that_commands_and_from_no_other() {
    let namespace = format!("cbnet{}", std::process::id());
    let ip = |arguments: &[&str]| assert!(Command::new("ip").args(arguments).status().unwrap().success());
    ip(&["netns", "add", &namespace]);
    let mut world = World::new("networks");
    assert_eq!(world.request(Method::Get, &blue(""), None).0, 501, "no network between hosts was named");

    world.stop_agent();
    let file = world.directory.join("images.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let section = format!(r#","network":{{"underlay":"192.0.2.1","namespace":"{namespace}"}}}}"#);
    std::fs::write(&file, text.strip_suffix('}').unwrap().to_owned() + &section).unwrap();
    world.start_agent();

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
