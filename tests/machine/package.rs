//! The Debian package: installed by dpkg on a system that is like this one, its units' commands run as its users.

use crate::fixture::Turn;
use image_launch::process;
use image_launch::scratch::Scratch;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The package with the programs that lie beside the launcher, and the image.
fn build(out: &Path) -> PathBuf {
    let binaries = Path::new(env!("CARGO_BIN_EXE_corbel")).parent().unwrap();
    for program in ["agent", "corbelctl"] {
        let hint = "`cargo build -p agent -p management_ctl` makes it";
        assert!(binaries.join(program).exists(), "{program} is not beside corbel; {hint}");
    }
    let mut command = process::command(format!("{HERE}/image/debian/build"));
    command
        .env("COMPRESSION", "-Zgzip -z1")
        .arg(out)
        .arg(binaries)
        .arg(image_launch::image().unwrap())
        .arg("1700000000");
    process::check(command, LIMIT).unwrap();
    let mut made = fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path());
    let package = made.next().unwrap();
    assert!(made.next().is_none());
    package
}

#[test]
fn the_package_is_the_same_whenever_it_is_built_and_works_where_it_is_installed() {
    let _turn = Turn::take();
    let scratch = Scratch::new().unwrap();
    let package = build(&scratch.file("one"));
    let again = build(&scratch.file("two"));
    assert!(fs::read(&package).unwrap() == fs::read(again).unwrap(), "two builds differ");

    let mut command = process::command("unshare");
    command.args(["--mount", "--net", "--pid", "--fork", "--kill-child"]);
    command.arg(format!("{HERE}/tests/machine/package.sh")).arg(&package).arg(scratch.file("host"));
    let said = process::check(command, LIMIT).unwrap();
    println!("{said}");
    let has = |line: &str| assert!(said.lines().any(|it| it.contains(line)), "no `{line}` in:\n{said}");
    has("refused: corbel: SERVICE_BRIDGE in /etc/corbel/host.env names no bridge");
    has("the agent is known");
    has("Target:iqn.2026-11.example:disk0");
    has("Lun:0 ");
    // Keys are for those who need them.
    has("keys: 600 root,600 corbel-appliance,600 corbel-agent");
    has("off when the stop command came back");
    has("with an agent: agent= agent.pin= agent.key=");
    has("without an agent: .");
    has("it serves without an agent");
    has("with an agent that is not known: agent=  agent.insecure=");
    has("upgraded");
    has("purged");
    assert!(!said.contains("left: "), "{said}");
}

#[test]
fn systemd_understands_every_unit_of_the_package() {
    let scratch = Scratch::new().unwrap();
    let files = Path::new(HERE).join("image/debian/files");
    for unit in ["corbel-network.service", "corbel-appliance.service"] {
        let text = fs::read_to_string(files.join(unit)).unwrap();
        // The programs are where the package puts them, which is not here.
        let text = text.replace("/usr/lib/corbel/", &format!("{}/", files.display()));
        fs::write(scratch.file(unit), text).unwrap();
    }
    let verify = |unit: &str| {
        let mut command = process::command("systemd-analyze");
        command.args(["verify", "--man=no"]).arg(scratch.file(unit));
        process::run(command, LIMIT).unwrap().text()
    };
    for unit in ["corbel-network.service", "corbel-appliance.service"] {
        assert_eq!(verify(unit).trim(), "", "{unit}");
    }
    // What cannot start is not started for ever: as many starts as are too many come within the time that they are counted in,
    // a boot of a second and the pause between two of them included.
    let text = fs::read_to_string(files.join("corbel-appliance.service")).unwrap();
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    let seconds: u32 = value("StartLimitIntervalSec=").trim_end_matches('s').parse().unwrap();
    let burst: u32 = value("StartLimitBurst=").parse().unwrap();
    assert_eq!((value("Restart="), value("RestartSec=")), ("always", "100ms"));
    assert!(burst > 0 && burst * 2 < seconds, "{burst} in {seconds} s are never reached");
    let mut command = process::command("systemd-analyze");
    command.args(["security", "--offline=true", "--no-pager", "--threshold=20"]);
    command.arg(scratch.file("corbel-appliance.service"));
    process::check(command, LIMIT).unwrap();
}
