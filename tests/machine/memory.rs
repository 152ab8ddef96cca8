//! A machine has memory for as many disks as it takes.

use crate::fixture::{script, stage};
use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::initiator;

const SIZE: u64 = 1 << 20;

#[test]
fn a_machine_of_any_size_bears_as_many_disks_as_it_takes() {
    // MiB of memory, and disks: the smallest machine, the usual one, and where more disks fit.
    for (memory, disks) in [(5, 2), (6, 2), (8, 2), (32, 8), (64, 8), (72, 12)] {
        let mut script = script(Kind::default(), SIZE, Server::QemuNbd);
        script.memory = memory;
        script.disks = vec![(SIZE, Server::QemuNbd); disks];
        let (stage, _turn) = stage(&script);
        // Each of them is logged in to, so that all that is made late is made.
        let found = initiator::discover(&stage.net, stage.net.portal()).unwrap();
        assert_eq!(found.len(), disks, "{memory} MiB: {found:?}");
        assert!(found.iter().all(|target| target.luns == [0]), "{memory} MiB: {found:?}");
        let console = stage.appliance.console();
        assert_eq!(console.matches("corbel: ready").count(), 1, "{memory} MiB:\n{console}");
        assert!(!stage.appliance.has_panicked(), "{memory} MiB:\n{console}");
    }
}
