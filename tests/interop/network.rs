//! Whatever is on the wires: forged, cut, senseless or too much of it, a session that runs goes on, and DHCP servers are
//! believed as far as they may be.

mod flood;
mod forged;
mod frame;
pub(crate) mod wire;

use crate::fixture::{Turn, stage_alone};
use crate::hostile::{body, three_disks};
use crate::inside::play;
use image_launch::net::Wire;
use image_launch::process::Process;
use image_launch::setup;
use image_launch::stage::Stage;
use std::fs;
use std::path::Path;

/// What can be played inside.
pub(crate) const SCENARIOS: &[(&str, fn())] = &[
    ("forged_frames", forged::forged_frames),
    ("strange_peers", forged::strange_peers),
    ("flood", flood::flood),
    ("renewals", forged::renewals),
];

#[test]
fn forged_and_senseless_frames_disturb_no_session() {
    let (mut stage, _turn) = stage_alone(&three_disks(body()));
    play(&mut stage, "forged_frames");
    play(&mut stage, "strange_peers");
}

#[test]
fn a_flood_of_syns_ends_no_session_and_leaves_no_trace() {
    let (mut stage, _turn) = stage_alone(&three_disks(body()));
    play(&mut stage, "flood");
}

#[test]
fn leases_are_taken_and_renewed_on_both_networks_and_the_host_network_stays_without_a_router() {
    let turn = Turn::alone();
    let mut script = three_disks(body());
    for wire in [Wire::Host, Wire::Service] {
        script.config.push((format!("{}.address", wire.name()), "dhcp".into()));
    }
    let mut stage = Stage::set(&script).unwrap();
    let servers = [Wire::Host, Wire::Service].map(|wire| lease(&stage, wire));
    stage.appliance.ready().unwrap();
    play(&mut stage, "renewals");
    let console = stage.appliance.console();
    let address = |wire: Wire| format!("{}/24", wire.appliance());
    for line in [
        format!("network HostOnly: address {}, gateway None", address(Wire::Host)),
        format!(
            "network Service: address {}, gateway Some({})",
            address(Wire::Service),
            Wire::Service.here()
        ),
    ] {
        assert!(console.contains(&line), "no `{line}` in\n{console}");
    }
    drop((servers, turn));
}

/// A DHCP server on `wire` with one address to give, for some seconds at a time, and a router to go with it.
fn lease(stage: &Stage, wire: Wire) -> Process {
    let name = wire.name();
    let file = |what: &str| stage.scratch.file(&format!("udhcpd-{name}.{what}"));
    fs::write(file("leases"), "").unwrap();
    let (address, here) = (wire.appliance(), wire.here());
    let text = format!(
        "start {address}\nend {address}\ninterface {name}\nlease_file {}\nmin_lease 1\nmax_leases 1\n\
         option subnet 255.255.255.0\noption router {here}\noption lease 6\n",
        file("leases").display()
    );
    fs::write(file("conf"), text).unwrap();
    let packages = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    setup::unpacked(&["busybox-static"], &packages).unwrap();
    let program = packages.join("busybox-static/bin/busybox");
    let mut busybox = stage.net.command(program);
    busybox.args(["udhcpd", "-f"]).arg(file("conf"));
    Process::start("udhcpd", busybox, &file("log")).unwrap()
}
