//! Hosts and guests as network namespaces of this machine's kernel; needs root.

use super::*;
use std::process::Command;

/// Hosts on one underlay, each with its agent's networks.
struct World {
    name: String,
    hosts: Vec<Networks>,
}

fn sh(line: &str) -> bool {
    let output = Command::new("sh").args(["-c", line]).output().expect("a shell");
    if !output.status.success() && !line.starts_with("ip netns exec") {
        println!("{line}: {}", String::from_utf8_lossy(&output.stderr));
    }
    output.status.success()
}

fn must(line: &str) {
    assert!(sh(line), "{line}");
}

impl World {
    fn new(name: &str, hosts: u8) -> Self {
        let name = format!("cb{name}{}", std::process::id());
        must(&format!(
            "ip netns add {name}s && ip -n {name}s link add u type bridge && ip -n {name}s link set u up"
        ));
        let hosts = (1..=hosts).map(|host| {
            must(&format!(
                "ip netns add {name}h{host} && ip -n {name}h{host} link add u0 type veth peer name p{host} netns {name}s \
                 && ip -n {name}s link set p{host} master u up && ip -n {name}h{host} addr add 192.0.2.{host}/24 dev u0 \
                 && ip -n {name}h{host} link set u0 up && ip -n {name}h{host} link set lo up"
            ));
            let overlay =
                Overlay { underlay: Ipv4Addr::new(192, 0, 2, host), port: VXLAN_PORT, namespace: Some(format!("{name}h{host}")) };
            Networks::new(&overlay).expect("iproute2")
        });
        let hosts = hosts.collect();
        Self { name, hosts }
    }

    /// A guest on a host, plugged into the bridge of a network.
    fn guest(&self, guest: &str, host: u8, vni: u32, last: u8) {
        let name = &self.name;
        must(&format!(
            "ip netns add {name}{guest} && ip -n {name}{guest} link add eth0 address {} type veth peer name t{guest} netns {name}h{host} \
             && ip -n {name}h{host} link set t{guest} master cbb{vni} up \
             && ip -n {name}{guest} link set eth0 mtu 1450 up && ip -n {name}{guest} addr add 10.5.0.{last}/24 dev eth0",
            mac(last)
        ));
    }

    fn pings(&self, from: &str, last: u8) -> bool {
        sh(&format!("ip netns exec {}{from} ping -q -c 5 -i 0.2 -W 1 10.5.0.{last}", self.name))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        sh(&format!(
            "for n in $(ip netns list | cut -d' ' -f1 | grep '^{}'); do ip netns del $n; done",
            self.name
        ));
    }
}

fn mac(last: u8) -> Mac {
    Mac([0x52, 0x54, 0, 5, 0, last])
}

fn endpoint(last: u8, host: u8) -> Endpoint {
    Endpoint { mac: mac(last), ip: Ipv4Addr::new(10, 5, 0, last), underlay: Ipv4Addr::new(192, 0, 2, host) }
}

fn map(network: &str, vni: u32, generation: u64, endpoints: &[(u8, u8)]) -> NetworkMap {
    NetworkMap {
        network: network.parse().expect("a name"),
        generation,
        vni: Vni::new(vni).expect("a number"),
        mtu: 1450,
        endpoints: endpoints.iter().map(|&(last, host)| endpoint(last, host)).collect(),
    }
}

/// By the appliance of this number, the order of that one.
fn order(appliance: u128, number: u64) -> Orderer {
    Orderer { epoch: 1, order: Some((Uuid(appliance), number)) }
}

impl Networks {
    /// A map, by an appliance that numbers nothing.
    fn put(&self, map: &NetworkMap) -> Result<InEffect, Refused> {
        let turn = self.turn(Orderer { epoch: 1, order: None }, || (1, None))?;
        self.apply(map, &turn)
    }

    fn take_away(&self, network: &NetworkName) -> Result<bool, Text> {
        let turn = self.turn(Orderer { epoch: 1, order: None }, || (1, None)).expect("a turn");
        self.remove(network, &turn)
    }
}

#[test]
fn what_was_ordered_before_a_change_never_comes_behind_it() {
    let world = World::new("o", 1);
    let networks = &world.hosts[0];
    let rule = || (1, Some(Uuid(7)));
    let blue: NetworkName = "blue".parse().expect("a name");
    let map = map("blue", 100, 5, &[(1, 1)]);
    let apply = |by| networks.turn(by, rule).and_then(|turn| networks.apply(&map, &turn));
    assert_eq!(apply(order(7, 1)).expect("taken").generation, Some(5));
    // The order of number 2 is on its way, while the appliance has given it up and has the network taken away.
    let turn = networks.turn(order(7, 3), rule).expect("a turn");
    let removed = std::thread::scope(|scope| {
        let late = scope.spawn(|| apply(order(7, 2)));
        let removed = networks.remove(&blue, &turn);
        drop(turn);
        assert_eq!(late.join().expect("no panic"), Err(Refused::Late));
        removed
    });
    assert_eq!(removed, Ok(true));
    assert_eq!(networks.state(&blue), Ok(None), "it is gone, and stays so");
    assert_eq!(apply(order(7, 3)), Err(Refused::Late), "nor is the same done twice");
    // What one that was replaced, or the same before it started anew, has left on the way is nobody's any more.
    assert_eq!(apply(order(6, 9)), Err(Refused::Replaced));
    assert_eq!(apply(Orderer { epoch: 2, ..order(7, 4) }), Err(Refused::Replaced));
    assert_eq!(apply(order(7, 4)).expect("taken").generation, Some(5), "the same generation once more");
    let newer =
        networks.turn(order(8, 1), || (1, Some(Uuid(8)))).and_then(|turn| networks.apply(&map, &turn));
    assert_eq!(newer.expect("numbers begin anew").generation, Some(5));
}

#[test]
fn guests_of_two_hosts_reach_each_other_by_the_map_and_not_without_it() {
    let world = World::new("a", 2);
    let alone: Vec<NetworkMap> = (1..=2).map(|host| map("blue", 100, 1, &[(host, host)])).collect();
    for (networks, map) in world.hosts.iter().zip(&alone) {
        assert_eq!(networks.put(map).expect("taken").generation, Some(1));
    }
    world.guest("g1", 1, 100, 1);
    world.guest("g2", 2, 100, 2);
    assert!(!world.pings("g1", 2), "nobody has said where that is");
    let both = map("blue", 100, 2, &[(1, 1), (2, 2)]);
    for networks in &world.hosts {
        let state = networks.put(&both).expect("taken");
        assert_eq!((state.generation, state.endpoints, state.problem), (Some(2), 2, None));
    }
    assert!(world.pings("g1", 2) && world.pings("g2", 1));

    let stale = map("blue", 100, 1, &[]);
    assert_eq!(world.hosts[0].put(&stale), Err(Refused::Stale(2)));
    let other = map("blue", 100, 2, &[(1, 1)]);
    assert_eq!(world.hosts[0].put(&other), Err(Refused::Differs));
    assert!(matches!(world.hosts[0].put(&map("red", 100, 1, &[])), Err(Refused::VniTaken(_))));
    assert!(world.pings("g1", 2), "what was refused has changed nothing");

    for networks in &world.hosts {
        networks.put(&map("blue", 100, 3, &[(1, 1)])).expect("taken");
    }
    assert!(!world.pings("g1", 2), "it is on the network no more");
    assert_eq!(world.hosts[0].take_away(&"blue".parse().expect("a name")), Ok(true));
    assert_eq!(world.hosts[0].state(&"blue".parse().expect("a name")), Ok(None));
}

#[test]
fn the_same_addresses_in_two_networks_are_strangers() {
    let world = World::new("b", 2);
    for networks in &world.hosts {
        for map in [map("blue", 7, 1, &[(1, 1), (2, 2)]), map("red", 8, 1, &[(1, 1), (3, 2)])] {
            assert_eq!(networks.put(&map).expect("taken").problem, None);
        }
    }
    world.guest("b1", 1, 7, 1);
    world.guest("b2", 2, 7, 2);
    world.guest("r1", 1, 8, 1);
    world.guest("r3", 2, 8, 3);
    assert!(world.pings("b1", 2));
    assert!(world.pings("r1", 3));
    assert!(!world.pings("b1", 3) && !world.pings("r1", 2));
}

#[test]
fn a_guest_that_has_moved_is_found_at_its_new_host() {
    let world = World::new("c", 3);
    for networks in &world.hosts {
        networks.put(&map("blue", 9, 1, &[(1, 1), (2, 2)])).expect("taken");
    }
    world.guest("g1", 1, 9, 1);
    world.guest("old", 2, 9, 2);
    assert!(world.pings("g1", 2));
    must(&format!("ip netns del {}old", world.name));
    for networks in &world.hosts {
        networks.put(&map("blue", 9, 2, &[(1, 1), (2, 3)])).expect("taken");
    }
    world.guest("new", 3, 9, 2);
    assert!(world.pings("g1", 2));
}

#[test]
fn a_map_that_was_applied_half_way_is_applied_whole_the_next_time() {
    let world = World::new("d", 1);
    let networks = &world.hosts[0];
    let whole = map("blue", 11, 5, &[(1, 1), (2, 2), (3, 2)]);
    networks.put(&whole).expect("taken");
    let name = format!("{}h1", world.name);
    // As an agent leaves it that is killed between two steps, and somebody's hand in the tables beside.
    let label = Label { is_whole: false, ..Label::of(&whole, false) };
    must(&format!("ip -n {name} link set dev cbx11 alias '{}'", label.text()));
    must(&format!("bridge -n {name} fdb del {} dev cbx11 self", mac(2)));
    must(&format!("bridge -n {name} fdb add {} dev cbx11 dst 192.0.2.77 self permanent", mac(9)));
    must(&format!("ip -n {name} neigh del 10.5.0.3 dev cbb11"));
    let blue = "blue".parse().expect("a name");
    assert_eq!(networks.state(&blue).expect("asked").expect("there").generation, None);
    assert_eq!(networks.put(&whole).expect("taken").generation, Some(5));
    let kernel = Kernel::new(Some(&name)).expect("iproute2");
    let expected: BTreeMap<Mac, Ipv4Addr> =
        [(mac(2), Ipv4Addr::new(192, 0, 2, 2)), (mac(3), Ipv4Addr::new(192, 0, 2, 2))].into();
    assert_eq!(kernel.places("cbx11"), Ok(expected));
    assert_eq!(kernel.answered("cbb11").map(|answered| answered.len()), Ok(3));
}

#[test]
fn whatever_there_is_of_a_network_it_is_whole_after_it_was_applied_again() {
    let world = World::new("f", 2);
    let both = map("blue", 13, 5, &[(1, 1), (2, 2)]);
    for networks in &world.hosts {
        networks.put(&both).expect("taken");
    }
    let networks = &world.hosts[0];
    let name = format!("{}h1", world.name);
    let begun = Label { is_whole: false, ..Label::of(&both, false) }.text();
    let kernel = Kernel::new(Some(&name)).expect("iproute2");
    let blue = "blue".parse().expect("a name");
    for what in [
        // Killed between the two programs, before the bridge was made, and before the device had its label.
        format!(
            "ip -n {name} link set dev cbx13 alias '{begun}' && bridge -n {name} link set dev cbx13 \
                 learning on neigh_suppress off mcast_flood on bcast_flood on"
        ),
        format!("ip -n {name} link set dev cbx13 alias '{begun}' && ip -n {name} link del cbb13"),
        format!(
            "ip -n {name} link del cbx13 && ip -n {name} link del cbb13 && \
                 ip -n {name} link add cbx13 type vxlan id 13 local 192.0.2.1 dstport 4789 && \
                 ip -n {name} link add cbx99 type vxlan id 99 local 192.0.2.1 dstport 4789"
        ),
        // The operator's file was another one.
        format!(
            "ip -n {name} link del cbx13 && ip -n {name} link add cbx13 type vxlan id 13 local 192.0.2.9 \
                 dstport 4790 && ip -n {name} link set dev cbx13 alias '{begun}'"
        ),
    ] {
        must(&what);
        assert!(networks.state(&blue).is_ok(), "{what}");
        let state = networks.put(&both).expect("taken");
        assert_eq!((state.generation, state.endpoints, state.problem), (Some(5), 2, None), "{what}");
        let devices = kernel.devices().expect("asked");
        let [device] = &devices[..] else { panic!("{devices:?}") };
        assert_eq!((device.local, device.port), (Some(Ipv4Addr::new(192, 0, 2, 1)), Some(VXLAN_PORT)));
        let shown = Command::new("bridge").args(["-n", &name, "-d", "link", "show", "dev", "cbx13"]).output();
        let shown = String::from_utf8(shown.expect("bridge").stdout).expect("text");
        for flag in ["learning off", "neigh_suppress on", "mcast_flood off", "bcast_flood off"] {
            assert!(shown.contains(flag), "{what}: {flag} in {shown}");
        }
    }
    world.guest("g1", 1, 13, 1);
    world.guest("g2", 2, 13, 2);
    assert!(world.pings("g1", 2) && world.pings("g2", 1));
    // What cannot be made is a problem, and not told as if nothing had been done.
    must(&format!("ip -n {name} link del cbb13 && ip -n {name} link add cbb13 type veth peer name other"));
    let state = networks.put(&both).expect("taken");
    assert!(state.problem.is_some() && state.generation.is_none(), "{state:?}");
}

#[test]
fn a_packet_for_nobody_is_dropped_and_counted() {
    let world = World::new("e", 1);
    let networks = &world.hosts[0];
    networks.put(&map("blue", 12, 1, &[(1, 1)])).expect("taken");
    world.guest("g1", 1, 12, 1);
    must(&format!("ip -n {}g1 neigh add 10.5.0.99 lladdr {} dev eth0", world.name, mac(99)));
    let blue = "blue".parse().expect("a name");
    let count = || networks.state(&blue).expect("asked").expect("there").unknown_destinations;
    let before = count();
    assert!(!world.pings("g1", 99));
    assert!(count() > before);
}

#[test]
fn a_label_is_read_as_it_was_written_and_nothing_else_is_one() {
    let label = Label::of(&map("blue", 1, u64::MAX, &[(1, 1)]), true);
    assert_eq!(Label::parse(&label.text()), Some(label));
    for wrong in [
        "",
        "corbel",
        "corbel blue 1 0 whole more",
        "corbel BLUE 1 0 whole",
        "corbel blue x 0 whole",
        "corbel blue 1 0 torn",
    ] {
        assert_eq!(Label::parse(wrong), None, "{wrong}");
    }
}
