//! What the image is told at boot, by each channel that QEMU has, what it does about a mistake, and how it finds out which
//! NIC is on which network.

use crate::fixture::{Turn, script, stage, target, targets};
use image_launch::appliance::{Channel, Kind, Nics, READY, REFUSED};
use image_launch::disk::Server;
use image_launch::initiator;
use image_launch::machine::Board;
use image_launch::net::Wire;
use image_launch::process::{self, Process};
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

/// Each channel once, and the slower ones on the boards where they are another thing.
const CHANNELS: [(Board, Channel); 6] = [
    (Board::Q35, Channel::Module),
    (Board::Q35, Channel::Smbios),
    (Board::Q35, Channel::CidataCd),
    (Board::Q35, Channel::CidataFat),
    (Board::Pc, Channel::Smbios),
    (Board::Microvm, Channel::CidataFat),
];

#[test]
fn the_same_document_comes_by_whichever_channel() {
    for (board, channel) in CHANNELS.into_iter().filter(|(board, _)| targets().contains(&Kind::Image(*board)))
    {
        let mut script = script(Kind::Image(board), 8 << 20, Server::QemuNbd);
        script.channel = channel;
        // Beside a disk that has nothing to say.
        script.state = true;
        let (stage, _turn) = stage(&script);
        let found = initiator::discover(&stage.net, stage.net.portal()).unwrap();
        assert_eq!(found[0].iqn, stage.disks[0].iqn, "{board:?} {channel:?}");
    }
}

/// A metadata service as Firecracker has one, of both versions: what it answers is not there for the first two questions.
const METADATA: &str = r#"
read -r method path rest
while read -r line; do
    line=${line%"$(printf '\r')"}
    case $line in
    "") break ;;
    "X-metadata-token: "*) token=${line#*: } ;;
    "X-metadata-token-ttl-seconds: "*) lifetime=${line#*: } ;;
    esac
done
answer() {
    printf 'HTTP/1.1 %s \r\nServer: Firecracker API\r\nConnection: keep-alive\r\nContent-Length: %s\r\n\r\n%s' "$1" "${#2}" "$2"
}
echo "$VERSION $method $path $token" >>"$LOG"
case $VERSION$method$path in
V1PUT*) answer 405 "" ;;
V2PUT/latest/api/token) answer 200 "token-of-$lifetime" ;;
V?GET/latest/user-data)
    if [ "$VERSION" = V2 ] && [ "$token" != token-of-60 ]; then answer 401 "no token"
    elif [ "$(grep -c GET "$LOG")" -lt 3 ]; then answer 404 "not there yet"
    else answer 200 "$(cat "$DOCUMENT")"; fi ;;
*) answer 404 "what?" ;;
esac
"#;

#[test]
fn a_metadata_service_is_asked_where_the_command_line_says_so() {
    for (board, version, wire) in [(Board::Microvm, "V2", Wire::Host), (Board::Q35, "V1", Wire::Service)] {
        if !targets().contains(&Kind::Image(board)) {
            continue;
        }
        let _turn = Turn::take();
        let mut script = script(Kind::Image(board), 8 << 20, Server::QemuNbd);
        script.channel = Channel::Metadata;
        let mut stage = Stage::set(&script).unwrap();
        let (program, log) = (stage.scratch.file("metadata.sh"), stage.scratch.file("questions"));
        fs::write(&program, METADATA).unwrap();
        fs::write(&log, "").unwrap();
        let mut address = stage.net.command("ip");
        address.args(["address", "add", "169.254.169.254/16", "dev", wire.name()]);
        process::check(address, LIMIT).unwrap();
        let mut socat = stage.net.command("/usr/bin/socat");
        socat
            .arg("TCP-LISTEN:80,bind=169.254.169.254,fork,reuseaddr")
            .arg(format!("EXEC:sh {}", program.display()));
        socat.env("VERSION", version).env("LOG", &log).env("DOCUMENT", stage.scratch.file("appliance.conf"));
        let _server = Process::start("metadata", socat, &stage.scratch.file("metadata.log")).unwrap();
        stage.appliance.ready().unwrap();
        let found = initiator::discover(&stage.net, stage.net.portal()).unwrap();
        assert_eq!(found[0].iqn, stage.disks[0].iqn, "{board:?} {version}");
        let asked = fs::read_to_string(&log).unwrap();
        let token = if version == "V2" { "token-of-60" } else { "" };
        assert!(asked.contains(&format!("{version} GET /latest/user-data {token}\n")), "{asked}");
    }
}

#[test]
fn without_an_address_a_nic_is_on_the_network_that_answers_there() {
    for (board, host_first) in [(Board::Q35, true), (Board::Q35, false), (Board::Microvm, false)] {
        if !targets().contains(&Kind::Image(board)) {
            continue;
        }
        let mut script = script(Kind::Image(board), 8 << 20, Server::QemuNbd);
        script.nics = Nics::Found { host_first };
        let (stage, _turn) = stage(&script);
        let macs = [Wire::Host, Wire::Service].map(Wire::mac);
        let line = format!("{} is on the host-only network and {} on the service network", macs[0], macs[1]);
        assert!(stage.appliance.console().contains(&line), "{}", stage.appliance.console());
        let capacity = initiator::capacity(&stage.net, &stage.unit(0)).unwrap();
        assert_eq!(capacity.bytes(), 8 << 20, "{board:?} {host_first}");
    }
}

#[test]
fn where_nobody_answers_the_image_waits_and_says_for_whom() {
    if !matches!(target(), Kind::Image(_)) {
        return;
    }
    let _turn = Turn::take();
    let mut script = script(target(), 8 << 20, Server::QemuNbd);
    script.nics = Nics::Found { host_first: false };
    let elsewhere = [("host.address", "10.97.0.2/24"), ("service.address", "10.98.0.2/24")];
    script.config = elsewhere.map(|(key, value)| (key.into(), value.into())).to_vec();
    let mut stage = Stage::set(&script).unwrap();
    let line = stage.appliance.wait_for("nobody has answered yet", LIMIT).unwrap();
    for part in ["host.mac and service.mac", &Wire::Service.mac(), "10.97.0.1 of the host-only", "10.98.0.1"]
    {
        assert!(line.contains(part), "{line}");
    }
    assert!(!stage.appliance.console().contains(READY));
    let add = |address: &str, wire: Wire| {
        let mut command = stage.net.command("ip");
        command.args(["address", "add", address, "dev", wire.name()]);
        process::check(command, LIMIT).unwrap();
    };
    add("10.98.0.1/24", Wire::Service);
    // That one answers says nothing about the NIC on which nobody does.
    std::thread::sleep(Duration::from_secs(4));
    assert!(!stage.appliance.console().contains(READY));
    add("10.97.0.1/24", Wire::Host);
    stage.appliance.ready().unwrap();
    let line = format!("{} on the service network", Wire::Service.mac());
    assert!(stage.appliance.console().contains(&line), "{}", stage.appliance.console());
}

#[test]
fn two_channels_that_contradict_each_other_stop_the_boot_with_a_line_that_names_both() {
    if !matches!(target(), Kind::Image(_)) {
        return;
    }
    let _turn = Turn::take();
    let mut script = script(target(), 8 << 20, Server::QemuNbd);
    script.arguments = ["-append", "api=8081"].map(String::from).to_vec();
    let mut stage = Stage::set(&script).unwrap();
    let line = stage.appliance.wait_for(REFUSED, LIMIT).unwrap();
    assert!(line.contains("fw_cfg opt/corbel/config: api: contradicts command line"), "{line}");
}

#[test]
fn an_unknown_key_stops_the_boot_with_a_line_that_names_it() {
    for channel in [Channel::FwCfg, Channel::CommandLine, Channel::CidataCd, Channel::Smbios] {
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
