//! Any byte string as a name: it is refused where it comes in, or what the hypervisor is told is well-formed and holds the
//! name as one string, whatever it is made of.

use agent::hypervisor::libvirt::{Described, Request, Section, requests};
use agent::hypervisor::qemu::{self, Board, Network, Part, Setting};
use agent::hypervisor::{Machine, Step};
use agent_protocol::{IscsiName, Link, Nic, NicName, SnapshotName, Uuid, Volume, VolumeName};
use roxmltree::Document;
use serde_json::{Value, json};

/// How many byte strings are tried.
const STRINGS: u64 = 6_000;

/// What has broken other programs.
const HOSTILE: &[&str] = &[
    "a\r\nb",
    "a\0b",
    "'; rm -rf /; '",
    "`reboot`",
    "$(reboot)",
    "..\\..\\",
    "../../etc/passwd",
    "a,b=c",
    "a\",\"b\":\"c",
    "</name><name>",
    "]]>",
    "&lt;",
    "<!--",
    "\u{202e}gnp.exe",
    "\u{feff}",
    "\u{fffe}",
    "%s%n",
    "-S",
    "",
];

/// Byte strings: the hostile ones, then noise, then almost-names with one byte that does not belong.
fn strings() -> impl Iterator<Item = Vec<u8>> {
    let long = "\u{1f600}".repeat(300);
    let known = HOSTILE.iter().map(|text| text.as_bytes().to_vec()).chain([long.into_bytes()]);
    let noise = (0..STRINGS).map(|seed| {
        let length = mix(seed) % 70;
        let mut bytes: Vec<u8> = (0..length).map(|n| mix(seed * 71 + n) as u8).collect();
        if seed % 2 == 0 {
            const PLAIN: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-";
            bytes.iter_mut().for_each(|byte| *byte = PLAIN[usize::from(*byte) % PLAIN.len()]);
            if seed % 4 == 0 && !bytes.is_empty() {
                let at = mix(seed + 1) as usize % bytes.len();
                bytes[at] = mix(seed + 2) as u8;
            }
        }
        bytes
    });
    known.chain(noise)
}

/// SplitMix64.
fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What comes in under a name, if it is one: everything that a command can name.
struct Named {
    text: String,
    volume: Volume,
    nic: Nic,
    snapshot: SnapshotName,
}

fn named(bytes: &[u8]) -> Option<Named> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let volume: VolumeName = text.parse().ok()?;
    let nic: NicName = text.parse().ok()?;
    let iqn: IscsiName = format!("iqn.2026-11.example:{text}").parse().unwrap();
    Some(Named {
        volume: Volume { volume, iqn, lun: 1, read_only: false },
        nic: Nic {
            nic,
            network: text.parse().unwrap(),
            mac: "52:54:00:00:00:01".parse().unwrap(),
            link: Link::Down,
        },
        snapshot: text.parse().unwrap(),
        text,
    })
}

impl Named {
    fn machine(&self) -> Machine {
        let (id, image) = (self.text.parse().unwrap(), self.text.parse().unwrap());
        let mut machine = Machine::new(id, Uuid(7), image);
        machine.volumes.push(self.volume.clone());
        machine.nics.push(self.nic.clone());
        machine
    }

    fn steps(&self) -> Vec<Step> {
        vec![
            Step::AttachVolume(self.volume.clone()),
            Step::DetachVolume(self.volume.volume.clone()),
            Step::ResizeVolume(self.volume.volume.clone()),
            Step::AttachNic(self.nic.clone()),
            Step::DetachNic(self.nic.nic.clone()),
            Step::UpdateNic(self.nic.nic.clone(), Link::Up),
            Step::Snapshot(self.snapshot.clone()),
            Step::Revert(self.snapshot.clone()),
        ]
    }
}

/// Where a step is to take place, with what the operator's file may hold.
fn setting(board: Board, text: &str) -> Setting {
    Setting {
        board,
        slot: 3,
        portal: "10.77.0.2:3260".parse().ok(),
        initiator: "iqn.2026-11.example:host".parse().ok(),
        network: Some(Network::Bridge(text.into())),
        uuid: Uuid(7),
        nodes: vec![text.into()],
        length: 4096,
    }
}

/// Every string in a value.
fn texts<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => found.push(text),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(items) => items.values().for_each(|item| texts(item, found)),
        _ => {}
    }
}

#[test]
fn any_byte_string_as_a_name_gives_qemu_well_formed_commands() {
    let mut names = 0;
    for bytes in strings() {
        // Names of block nodes and bridges come from the hypervisor and the operator, and may be anything.
        let lossy = String::from_utf8_lossy(&bytes).into_owned();
        for board in [Board::Pc, Board::Q35, Board::Microvm] {
            let setting = setting(board, &lossy);
            let Some(named) = named(&bytes) else { continue };
            names += 1;
            for step in named.steps() {
                let commands = qemu::commands(&step, &setting);
                assert!(!commands.is_empty(), "{step:?}");
                for command in commands {
                    // One line, one object, one command, and the name in it as one string, or as part of an id.
                    let line = command.to_string();
                    assert!(!line.contains(['\n', '\r', '\0']), "{line}");
                    let parsed: Value = serde_json::from_str(&line).unwrap();
                    assert_eq!(parsed, command);
                    assert!(parsed["execute"].is_string(), "{line}");
                }
            }
            let mut held = Vec::new();
            let commands = qemu::commands(&Step::DetachVolume(named.volume.volume.clone()), &setting);
            commands.iter().for_each(|command| texts(command, &mut held));
            assert!(held.contains(&format!("volume-{}", named.text).as_str()), "{held:?}");
            let arguments = qemu::arguments(&named.machine(), |part| match part {
                Part::Volume(_) | Part::Nic(_) => setting.clone(),
            });
            for pair in arguments.chunks(2) {
                assert!(["-blockdev", "-device", "-netdev"].contains(&pair[0].as_str()), "{pair:?}");
                assert!(serde_json::from_str::<Value>(&pair[1]).unwrap().is_object(), "{pair:?}");
            }
        }
    }
    assert!(names > 1000, "only {names} of the strings were names: the rest proved the door and no more");
}

/// An operator's file with this in every place where it may be anything.
fn section(image: &str, text: &str) -> Section {
    // What is not a file name is none to the operator either.
    let path = format!("/srv/{}", text.replace('\0', ""));
    let section = json!({
        "portal": "10.77.0.2:3260",
        "disks": path,
        "executable": path,
        "networks": { image: { "bridge": text } },
        "images": { image: {
            "memory_mib": 16,
            "kernel": path,
            "command_line": text,
            "disks": [{ "file": path, "format": "qcow2", "private": true }],
        } },
    });
    serde_json::from_value(section).unwrap()
}

#[test]
fn any_byte_string_as_a_name_gives_libvirt_well_formed_documents() {
    let (mut names, mut documents) = (0, 0);
    for (bytes, noise) in strings().zip(strings().skip(7)) {
        let Some(named) = named(&bytes) else { continue };
        names += 1;
        let (machine, noise) = (named.machine(), String::from_utf8_lossy(&noise).into_owned());
        let section = section(&named.text, &noise);
        for step in named.steps().into_iter().chain([Step::Start]) {
            let Ok(requests) = requests(&machine, &step, &section, &Described::default()) else { continue };
            for request in requests {
                let (Request::Define(text)
                | Request::Attach(text)
                | Request::Update(text)
                | Request::Snapshot(text)) = &request
                else {
                    continue;
                };
                documents += 1;
                let document = Document::parse(text).unwrap_or_else(|error| panic!("{error}: {text}"));
                // The name is one value in it, whatever else stands beside it.
                let held = document.descendants().any(|node| {
                    let values = node.attributes().map(|attribute| attribute.value().to_string());
                    let text = node.text().map(str::to_string);
                    values.chain(text).any(|value| value.contains(&named.text))
                });
                assert!(held, "{} is not in {text}", named.text);
            }
        }
    }
    assert!(names > 500 && documents > names, "{names} names in {documents} documents");
}
