//! A network between guests of two hosts, said by the API of each host's appliance, whoever of them starts anew.

use crate::fixture::{Turn, script};
use image_launch::api::{self, Answer};
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::net::Wire;
use image_launch::process::{self, Process};
use image_launch::stage::Stage;
use image_launch::{keys, wait};
use management_http::Method;
use network_tls::Pin;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddrV4;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
const PORT: u16 = 4010;
const VNI: u32 = 100;

/// A host: its appliance, its agent, and a guest on the network.
struct Host {
    agent: Option<Process>,
    /// What the appliance's key is called.
    pin: Pin,
    stage: Stage,
    number: u8,
}

fn agent_address() -> SocketAddrV4 {
    SocketAddrV4::new(Wire::Host.here(), PORT)
}

fn sh(line: &str) {
    let mut shell = Command::new("sh");
    shell.args(["-c", line]);
    process::check(shell, LIMIT).unwrap();
}

impl Host {
    fn new(number: u8) -> Self {
        let mut script = script(Kind::Hosted, 1 << 20, Server::QemuNbd);
        script.state = true;
        let [agent, own] = [(); 2].map(|()| keys::make().unwrap());
        script.config = keys::config(agent_address(), agent.pin(), &own);
        let stage = Stage::start(&script).unwrap();
        keys::give(&stage.scratch.file("agent"), &agent).unwrap();
        let operator = json!({
            "qemu": { "executable": "/usr/bin/qemu-system-x86_64", "images": {} },
            "network": { "underlay": format!("192.0.2.{number}") },
        });
        fs::write(stage.scratch.file("operator.json"), operator.to_string()).unwrap();
        Self { agent: None, pin: own.pin(), stage, number }
    }

    /// The namespace that the host is.
    fn name(&self) -> String {
        let prompt = self.stage.net.prompt();
        prompt.split_whitespace().last().expect("this test needs to be root").to_owned()
    }

    fn guest_name(&self) -> String {
        format!("{}g", self.name())
    }

    fn start_agent(&mut self) {
        let scratch = &self.stage.scratch;
        let mut command = self.stage.net.command(env!("CARGO_BIN_EXE_corbel"));
        command.args([
            "agent",
            "--listen",
            &agent_address().to_string(),
            "--pin",
            &self.pin.to_string(),
            "--config",
        ]);
        command.arg(scratch.file("operator.json")).arg("--run-dir").arg(scratch.file("agent"));
        let mut agent = Process::start("agent", command, &scratch.file("agent.log")).unwrap();
        self.stage.net.listening(&mut agent, agent_address(), LIMIT).unwrap();
        self.agent = Some(agent);
    }

    /// As a host is that has been without power: no agent, and nothing of the network.
    fn lose_network(&mut self) {
        self.agent.take().unwrap().kill();
        let name = self.name();
        sh(&format!("ip -n {name} link del cbx{VNI} && ip -n {name} link del cbb{VNI}"));
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let answer = api::ask(&self.stage.net, method.as_str(), path, body).unwrap();
        println!("host {}: {method} {path}: {} {}", self.number, answer.status, answer.body);
        answer
    }

    fn place() -> &'static str {
        "/v1/networks/blue/map"
    }

    /// Waits until the host has this generation, nothing differs, and that is not what was seen before the agent was lost.
    fn await_map(&self, generation: u64) {
        wait::until(format!("generation {generation} on host {}", self.number), LIMIT, || {
            let shown = self.ask(Method::Get, Self::place(), None).body;
            let is_there = shown.pointer("/applied/generation") == Some(&generation.into());
            let is_so = is_there && shown.get("difference").is_none() && shown.get("problems").is_none();
            Ok(is_so.then_some(()))
        })
        .unwrap();
    }

    /// Plug the guest into the bridge of the network, again if that has gone.
    fn plug(&self) {
        let (name, guest, number) = (self.name(), self.guest_name(), self.number);
        sh(&format!(
            "ip -n {name} link del tap0 2>/dev/null; ip netns del {guest} 2>/dev/null; set -e; ip netns add {guest}; ip -n {guest} link add eth0 address {} type veth \
             peer name tap0 netns {name}; ip -n {name} link set tap0 master cbb{VNI} up; ip -n {guest} link set eth0 mtu 1450 up; \
             ip -n {guest} addr add 10.5.0.{number}/24 dev eth0",
            mac(number)
        ));
    }

    fn pings(&self, other: &Self) -> bool {
        let mut ping = Command::new("ip");
        ping.args(["netns", "exec", &self.guest_name(), "ping", "-q", "-c", "4", "-i", "0.2", "-W", "1"]);
        ping.arg(format!("10.5.0.{}", other.number));
        process::run(ping, LIMIT).unwrap().code == 0
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let mut delete = Command::new("ip");
        delete.args(["netns", "del", &self.guest_name()]);
        let _ = process::run(delete, LIMIT);
        if std::thread::panicking() {
            let log = fs::read_to_string(self.stage.scratch.file("agent.log")).unwrap_or_default();
            eprintln!("--- agent of host {}\n{}", self.number, process::last_lines(&log, 40));
            eprintln!("--- appliance of host {}\n{}", self.number, self.stage.appliance.console());
        }
    }
}

fn mac(number: u8) -> String {
    format!("52:54:00:05:00:{number:02x}")
}

fn map(generation: u64, hosts: &[u8]) -> Value {
    let endpoint = |host: &u8| json!({ "mac": mac(*host), "ip": format!("10.5.0.{host}"), "underlay": format!("192.0.2.{host}") });
    let endpoints: Vec<Value> = hosts.iter().map(endpoint).collect();
    json!({ "network": "blue", "generation": generation, "vni": VNI, "mtu": 1450, "endpoints": endpoints })
}

#[test]
fn guests_of_two_hosts_reach_each_other_as_the_api_says_whatever_starts_anew() {
    let _turn = Turn::take();
    let mut hosts = [Host::new(1), Host::new(2)];
    let [one, two] = [0, 1].map(|n: usize| hosts[n].name());
    sh(&format!(
        "ip -n {one} link add u0 type veth peer name u0 netns {two} && ip -n {one} addr add 192.0.2.1/24 dev u0 && \
         ip -n {two} addr add 192.0.2.2/24 dev u0 && ip -n {one} link set u0 up && ip -n {two} link set u0 up"
    ));
    for host in &mut hosts {
        host.start_agent();
        let answer = host.ask(Method::Put, Host::place(), Some(&map(1, &[host.number])));
        assert_eq!(answer.status, 201);
        assert_eq!(answer.body.pointer("/desired/durable"), Some(&true.into()));
        host.await_map(1);
        host.plug();
    }
    assert!(!hosts[0].pings(&hosts[1]), "nobody has said where that is");
    for host in &hosts {
        assert_eq!(host.ask(Method::Put, Host::place(), Some(&map(2, &[1, 2]))).status, 200);
        host.await_map(2);
    }
    assert!(hosts[0].pings(&hosts[1]) && hosts[1].pings(&hosts[0]));
    assert_eq!(
        hosts[0].ask(Method::Put, Host::place(), Some(&map(1, &[1]))).text("/type"),
        "urn:corbel:problem:stale-generation"
    );

    // The agent's host has been without power; then the appliance's as well, in the middle of whatever it did.
    hosts[0].lose_network();
    hosts[0].start_agent();
    hosts[0].await_map(2);
    hosts[0].plug();
    assert!(hosts[0].pings(&hosts[1]));
    hosts[0].lose_network();
    hosts[0].stage.crash().unwrap();
    let shown = hosts[0].ask(Method::Get, Host::place(), None);
    assert_eq!(shown.body.pointer("/desired/generation"), Some(&2.into()), "it is kept");
    assert_eq!(shown.body.pointer("/map/endpoints/1/underlay"), Some(&"192.0.2.2".into()));
    hosts[0].start_agent();
    hosts[0].await_map(2);
    hosts[0].plug();
    assert!(hosts[0].pings(&hosts[1]));
    let by_tool = ctl(&hosts[0], &["networks"]);
    assert!(by_tool.contains("blue     100  1450  2           2    yes"), "{by_tool}");

    // Taken away on one host, it is gone there.
    let removed = ctl(&hosts[0], &["networks", "remove", "blue", "--wait=30s"]);
    assert_eq!(removed, "blue: gone from the host\n");
    assert_eq!(hosts[0].ask(Method::Get, Host::place(), None).status, 404);
    assert!(!hosts[1].pings(&hosts[0]));
    let mut devices = Command::new("ip");
    devices.args(["-n", &one, "link", "show", "type", "vxlan"]);
    assert_eq!(process::check(devices, LIMIT).unwrap(), "");
    let counters = hosts[1].ask(Method::Get, "/v1/networks/blue/counters", None);
    assert!(counters.body.pointer("/drops/unknown_destination").is_some_and(Value::is_u64), "{counters:?}");
}

fn ctl(host: &Host, words: &[&str]) -> String {
    let mut command = host.stage.net.command(env!("CARGO_BIN_EXE_corbel"));
    command.arg("ctl").args(words).env("CORBEL_URL", format!("http://{}", host.stage.net.api()));
    process::check(command, LIMIT).unwrap()
}
