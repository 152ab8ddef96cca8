//! A Linux virtual machine as the customer: Debian's kernel and open-iscsi, an ext4 file system, a reboot in between.

pub(crate) mod initramfs;
mod tools;

use crate::fixture::{script, stage_alone, target};
use image_launch::disk::Server;
use image_launch::machine::{Board, Machine, Spec};
use image_launch::net::{self, Wire};
use image_launch::stage::Stage;
use initramfs::Guest;
use std::path::Path;
use std::time::Duration;

/// From its start to the guest's last word, on a busy machine without virtualisation.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn a_linux_guest_finds_its_files_whole_after_the_appliance_was_rebooted() {
    let mut script = script(target(), 128 << 20, Server::QemuNbd);
    script.net = net::Options { guest: true, ..net::Options::default() };
    let (mut stage, _turn) = stage_alone(&script);
    let guest = Guest::build(Path::new(env!("CARGO_TARGET_TMPDIR")));
    let written = boot(&stage, &guest, "write");
    stage.reboot().unwrap();
    let verified = boot(&stage, &guest, "verify");
    assert!(verified.contains("guest: fsck clean"), "{verified}");
    assert_eq!(said(&written, "manifest"), said(&verified, "manifest"));
    assert_eq!(said(&written, "files"), said(&verified, "files"));
    println!("{}: {}", said(&written, "disk"), said(&verified, "files"));
}

/// Boots the guest for one phase and returns its console.
fn boot(stage: &Stage, guest: &Guest, phase: &str) -> String {
    let (portal, iqn) = (stage.net.portal(), &stage.disks[0].iqn);
    let command_line = format!(
        "console=ttyS0 quiet panic=-1 mitigations=off nokaslr clearcpuid=erms,fsrm \
         phase={phase} ip={}/24 portal={portal} iqn={iqn}",
        Wire::Host.address(3)
    );
    let board = Board::Q35;
    let device = board.device("net", "netdev=guest,mac=52:54:00:77:00:03");
    let arguments =
        ["-no-reboot", "-initrd", guest.initrd.to_str().unwrap(), "-netdev", &stage.net.guest_netdev()];
    let mut arguments = arguments.map(str::to_string).to_vec();
    arguments.extend(["-device".into(), device, "-device".into(), board.device("rng", "")]);
    let (name, kernel) = (format!("guest-{phase}"), guest.kernel.clone());
    let spec = Spec { name, board, memory: 384, kernel, command_line, arguments };
    let mut machine = Machine::start(&stage.net, &stage.scratch, &spec).unwrap();
    let ended = machine.wait_for("guest: done", LIMIT);
    let console = machine.console();
    ended.unwrap_or_else(|error| panic!("{error}\nappliance:\n{}", stage.appliance.console()));
    assert!(!stage.appliance.has_panicked(), "{}", stage.appliance.console());
    console
}

/// What the guest said after `word`.
fn said<'a>(console: &'a str, word: &str) -> &'a str {
    let line = console.lines().find_map(|line| line.strip_prefix("guest: ")?.strip_prefix(word));
    line.unwrap_or_else(|| panic!("the guest did not say {word}:\n{console}")).trim()
}
