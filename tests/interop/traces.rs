//! What Windows, a Hyper-V cluster, ESXi, Linux, QEMU and iPXE send, line by line, and the answers that they need. The
//! lines are files of their own in `traces/`, each of which says where its facts are from.

mod data;
mod player;
mod script;

use crate::fixture::{script, stage_alone};
use crate::hostile::body;
use crate::inside::play;
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::stage::{IQN, Script};
use player::Player;

/// The traces by name, each with a disk of its own.
const TRACES: &[(&str, &str)] = &[
    ("windows", include_str!("traces/windows.trace")),
    ("failover-cluster", include_str!("traces/failover-cluster.trace")),
    ("esxi", include_str!("traces/esxi.trace")),
    ("linux", include_str!("traces/linux.trace")),
    ("qemu", include_str!("traces/qemu.trace")),
    ("ipxe", include_str!("traces/ipxe.trace")),
];

/// Bytes of each disk.
const SIZE: u64 = 16 << 20;
/// The unit of each target: Windows sends commands to it, and data to none.
const LUN: u8 = 1;

/// What can be played inside.
pub(crate) const SCENARIOS: &[(&str, fn())] = &[("traces", traces)];

fn traces() {
    let mut failed = Vec::new();
    for (number, (name, text)) in TRACES.iter().enumerate() {
        let steps = script::parse(text).unwrap_or_else(|error| panic!("{name}.trace, {error}"));
        match Player::play(&format!("{IQN}:disk{number}"), &steps) {
            Ok(()) => println!("{name}: {} steps", steps.len()),
            Err(error) => failed.push(format!("{name}.trace, {error}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// A disk for each trace.
fn disks(kind: Kind) -> Script {
    let mut script = script(kind, SIZE, Server::QemuNbd);
    script.disks = vec![(SIZE, Server::QemuNbd); TRACES.len()];
    let lun = |number| (format!("target.{number}.lun"), LUN.to_string());
    script.config = (0..TRACES.len()).map(lun).collect();
    script
}

#[test]
fn initiators_of_every_kind_get_the_answers_they_need() {
    let (mut stage, _turn) = stage_alone(&disks(body()));
    play(&mut stage, "traces");
}

#[test]
fn the_image_answers_them_as_the_process_does() {
    if std::env::var_os("CORBEL_TARGET").is_some() {
        return; // the test above has played on that body
    }
    let (mut stage, _turn) = stage_alone(&disks(Kind::default()));
    play(&mut stage, "traces");
}
