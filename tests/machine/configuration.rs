//! What the image is told at boot: by either channel, and what it does about a mistake.

use crate::fixture::{Turn, script, stage, target, targets};
use image_launch::appliance::{Channel, Kind, REFUSED};
use image_launch::disk::Server;
use image_launch::initiator;
use image_launch::net::Wire;
use image_launch::setup;
use image_launch::stage::{Script, Stage};
use std::fs;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn the_kernel_command_line_configures_as_well_as_a_file_does() {
    for kind in targets().into_iter().filter(|kind| matches!(kind, Kind::Image(_))) {
        let mut script = script(kind, 8 << 20, Server::QemuNbd);
        script.channel = Channel::CommandLine;
        let (stage, _turn) = stage(&script);
        let found = initiator::discover(&stage.net, stage.net.portal()).unwrap();
        assert_eq!(found[0].iqn, stage.disks[0].iqn, "{kind}");
    }
}

#[test]
fn an_unknown_key_stops_the_boot_with_a_line_that_names_it() {
    for channel in [Channel::FwCfg, Channel::CommandLine] {
        refused(channel, "colour", "blue");
    }
}

#[test]
fn a_value_that_cannot_be_meant_stops_the_boot_with_a_line_that_names_its_key() {
    refused(Channel::FwCfg, "service.address", "10.77.1.2/40");
    refused(Channel::FwCfg, "target.0.volume", "file:///etc/passwd");
    refused(Channel::FwCfg, "target.0.lun", "-1");
    refused(Channel::CommandLine, "log", "loud");
}

/// Boots with `key=value` wrong, and expects a refusal that names the key, and nothing that serves.
fn refused(channel: Channel, key: &str, value: &str) {
    let _turn = Turn::take();
    let mut script = script(target(), 8 << 20, Server::QemuNbd);
    script.channel = channel;
    script.config = vec![(key.into(), value.into())];
    let mut stage = Stage::set(&script).unwrap();
    let line = stage.appliance.wait_for(REFUSED, LIMIT).unwrap();
    // What storage refuses is named as `target.0: volume`, what the reader refuses as `target.0.volume`.
    let spelled = [format!("{key}: "), key.replacen(".volume", ": volume", 1)];
    assert!(spelled.iter().any(|key| line.contains(key)), "{line}");
    assert!(
        !stage.appliance.console().contains(image_launch::appliance::READY),
        "{}",
        stage.appliance.console()
    );
}

#[test]
fn an_address_can_come_from_a_dhcp_server() {
    let _turn = Turn::take();
    let mut stage = Stage::set(&with_dhcp(script(target(), 8 << 20, Server::nbdkit()))).unwrap();
    let conf = stage.scratch.file("udhcpd.conf");
    let address = Wire::Service.appliance();
    let leases = stage.scratch.file("leases");
    fs::write(&leases, "").unwrap();
    let text = format!(
        "start {address}\nend {address}\ninterface service\nlease_file {}\noption subnet 255.255.255.0\noption lease 600\n",
        leases.display()
    );
    fs::write(&conf, text).unwrap();
    let packages = Path::new(env!("CARGO_TARGET_TMPDIR")).join("packages");
    setup::unpacked(&["busybox-static"], &packages).unwrap();
    let mut busybox = stage.net.command(packages.join("busybox-static/bin/busybox"));
    busybox.args(["udhcpd", "-f"]).arg(&conf);
    let log = stage.scratch.file("udhcpd.log");
    let _server = image_launch::process::Process::start("udhcpd", busybox, &log).unwrap();
    stage.appliance.ready().unwrap();
    // The disk behind the service network is there, so the address is.
    let capacity = initiator::capacity(&stage.net, &stage.unit(0)).unwrap();
    assert_eq!(capacity.bytes(), 8 << 20);
}

fn with_dhcp(mut script: Script) -> Script {
    script.config = vec![("service.address".into(), "dhcp".into())];
    script
}
