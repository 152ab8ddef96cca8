//! libiscsi's tools and QEMU's iSCSI driver: find, ask, write everything, read everything.

use crate::fixture::{script, stage, target, targets};
use image_launch::appliance::Kind;
use image_launch::disk::{Pattern, Server};
use image_launch::initiator;
use image_launch::stage::Stage;

const SIZE: u64 = 48 << 20;

#[test]
fn every_body_is_found_asked_and_measured() {
    for kind in targets() {
        let (stage, _turn) = stage(&script(kind, SIZE, Server::QemuNbd));
        let unit = stage.unit(0);
        let found = initiator::discover(&stage.net, stage.net.portal()).unwrap();
        assert_eq!(found.len(), 1, "{kind}: {found:?}");
        assert_eq!(found[0].iqn, unit.iqn, "{kind}");
        assert_eq!(found[0].luns, [unit.lun], "{kind}");
        assert!(found[0].portal.starts_with(&stage.net.portal().to_string()), "{kind}: {}", found[0].portal);
        let inquiry = initiator::inquiry(&stage.net, &unit).unwrap();
        assert!(inquiry.contains("DIRECT_ACCESS"), "{kind}: {inquiry}");
        let capacity = initiator::capacity(&stage.net, &unit).unwrap();
        assert_eq!(capacity.bytes(), SIZE, "{kind}");
        no_panic(&stage);
    }
}

#[test]
fn a_pattern_over_the_whole_disk_comes_back_and_lies_in_the_file_behind_every_body() {
    for (seed, kind) in (1..).zip(targets()) {
        carries(kind, Server::QemuNbd, seed);
    }
}

#[test]
fn a_pattern_over_the_whole_disk_comes_back_and_lies_in_the_file_behind_nbdkit() {
    carries(target(), Server::nbdkit(), 77);
}

fn carries(kind: Kind, server: Server, seed: u64) {
    let (mut stage, _turn) = stage(&script(kind, SIZE, server));
    let unit = stage.unit(0);
    let pattern = Pattern::write(stage.scratch.file("pattern"), seed, SIZE).unwrap();
    initiator::write(&stage.net, pattern.path(), &unit).unwrap();
    pattern.must_equal(&stage.disks[0].file).unwrap();
    let back = stage.scratch.file("back");
    initiator::read(&stage.net, &unit, &back).unwrap();
    pattern.must_equal(&back).unwrap();
    // And what it says after a reset is what the disk says, not what it remembers.
    stage.reboot().unwrap();
    std::fs::remove_file(&back).unwrap();
    initiator::read(&stage.net, &unit, &back).unwrap();
    pattern.must_equal(&back).unwrap();
    no_panic(&stage);
}

fn no_panic(stage: &Stage) {
    assert!(!stage.appliance.has_panicked(), "{}", stage.appliance.console());
}
