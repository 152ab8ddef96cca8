//! That the texts say what they are to say, as far as that can be seen without the hypervisors that they are for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use image_hosts::FILES;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn text(name: &str) -> &'static str {
    FILES.iter().find(|(file, _)| *file == name).unwrap_or_else(|| panic!("no {name}")).1
}

/// The Ethernet addresses in a text, in order, as twelve small digits.
fn addresses(text: &str) -> Vec<String> {
    let plain = |word: &str| word.replace(':', "").to_ascii_lowercase();
    let word = |letter: char| !(letter.is_ascii_hexdigit() || letter == ':');
    let mut found: Vec<String> = Vec::new();
    for address in text.split(word).map(plain).filter(|word| word.len() == 12) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

#[test]
fn every_file_is_known_and_has_a_row() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let files = files.filter(|entry| entry.file_type().unwrap().is_file());
    let names: BTreeSet<String> = files
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name != "Cargo.toml" && name != "README.md")
        .collect();
    let known: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names, known);
    for name in known {
        assert!(readme.contains(&format!("](./{name})")), "{name} has no row");
    }
}

#[test]
fn each_machine_has_two_nics_of_its_own_addresses() {
    for (name, text) in FILES {
        let addresses = addresses(text);
        let [host, service] = addresses.as_slice() else { panic!("{name}: {addresses:?}") };
        // As host.mac and service.mac have it: the first is on the host-only network, and nobody else's card has it.
        assert!(host.ends_with("be01") && service.ends_with("be02"), "{name}: {addresses:?}");
        assert_eq!(u8::from_str_radix(&host[..2], 16).unwrap() & 1, 0, "{name}: a group's address");
    }
}

/// Programs that do nothing but say how they were called.
struct Recorder(PathBuf);

impl Recorder {
    fn new(name: &str) -> Self {
        let folder = env::temp_dir().join(format!("corbel-hosts-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("bin")).unwrap();
        fs::write(folder.join("a disk"), "").unwrap();
        fs::write(folder.join("a config"), "a=1 # one\n# two\nb=2\n").unwrap();
        Self(folder)
    }

    /// The script's calls of `program`, each as a line, its arguments in brackets.
    fn calls(&self, script: &str, program: &str, status: u8, arguments: &[&str]) -> Vec<String> {
        let path = self.0.join("bin").join(program);
        let code = format!("#!/bin/sh\n{{ printf '[%s]' \"$@\"; echo; }} >>\"$RECORD\"\nexit {status}\n");
        fs::write(&path, code).unwrap();
        assert!(Command::new("chmod").arg("+x").arg(&path).status().unwrap().success());
        // Another one that a script may call.
        if program == "bhyve" {
            fs::copy("/bin/true", self.0.join("bin/bhyvectl")).unwrap();
        }
        let record = self.0.join("record");
        let paths = format!("{}:{}", self.0.join("bin").display(), env::var("PATH").unwrap());
        let output = Command::new("sh")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script))
            .args(arguments)
            .current_dir(&self.0)
            .env("PATH", paths)
            .env("RECORD", &record)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(record).unwrap().lines().map(str::to_owned).collect()
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// That some call has all of these in this order.
fn has(calls: &[String], parts: &[&str]) {
    let in_order = |call: &String| {
        let mut rest = call.as_str();
        parts.iter().all(|part| rest.split_once(part).map(|(_, behind)| rest = behind).is_some())
    };
    assert!(calls.iter().any(in_order), "no {parts:?} in {calls:#?}");
}

#[test]
fn cloud_hypervisor_is_called_once() {
    let calls = Recorder::new("ch").calls(
        "cloud-hypervisor.sh",
        "cloud-hypervisor",
        0,
        &["an elf", "a config", "a disk"],
    );
    assert_eq!(calls.len(), 1);
    has(
        &calls,
        &["[--kernel][an elf]", "[--initramfs][a config]", "[--disk][path=a disk,serial=corbel-state"],
    );
    has(
        &calls,
        &["[--net][tap=corbel-host,mac=52:54:00:c0:be:01][tap=corbel-service,mac=52:54:00:c0:be:02]"],
    );
}

#[test]
fn proxmox_makes_the_machine_and_starts_it() {
    let calls = Recorder::new("qm").calls("proxmox.sh", "qm", 0, &["777", "a disk"]);
    assert_eq!(calls.len(), 2);
    has(&calls, &["[create][777]", "/a disk]", "[--net0][virtio=52:54:00:C0:BE:01,bridge=vmbr77]"]);
    has(
        &calls,
        &["[--net1][virtio=52:54:00:C0:BE:02,bridge=vmbr0]", "[--watchdog][model=i6300esb,action=reset]"],
    );
    assert_eq!(calls[1], "[start][777]");
}

#[test]
fn virtualbox_starts_the_machine_last() {
    let calls = Recorder::new("vbox").calls("virtualbox.sh", "VBoxManage", 0, &["a disk", "eth 7"]);
    has(
        &calls,
        &[
            "[modifyvm][corbel]",
            "[--nic1][hostonly]",
            "[--macaddress1][525400C0BE01]",
            "[--bridgeadapter2][eth 7]",
        ],
    );
    has(&calls, &["[storageattach][corbel]", "[--medium][a disk]"]);
    assert_eq!(calls.last().unwrap(), "[startvm][corbel][--type][headless]");
}

#[test]
fn vmware_is_told_the_configuration_without_its_comments() {
    let calls = Recorder::new("govc").calls("vmware.sh", "govc", 0, &["a disk", "a config"]);
    has(&calls, &["[import.ova][-name=corbel]", "[a disk]"]);
    has(&calls, &["[vm.network.change]", "[corbel-host]", "[00:50:56:00:be:01][ethernet-0]"]);
    has(&calls, &["[vm.network.change]", "[corbel-service]", "[00:50:56:00:be:02][ethernet-1]"]);
    has(&calls, &["[-e][guestinfo.corbel.config=a=1 b=2 ]"]);
    assert_eq!(calls.last().unwrap(), "[vm.power][-on][corbel]");
}

#[test]
fn bhyve_goes_round_until_the_machine_is_off() {
    let calls = Recorder::new("bhyve").calls("bhyve.sh", "bhyve", 1, &["a disk"]);
    assert_eq!(calls.len(), 1);
    has(
        &calls,
        &[
            "ahci-hd,a disk]",
            "e1000,tap0,mac=58:9c:fc:c0:be:01]",
            "e1000,tap1,mac=58:9c:fc:c0:be:02]",
            "[corbel]",
        ],
    );
}

/// Firecracker refuses what it does not know within a part, and a part that is missing.
#[test]
fn firecracker_knows_all_that_it_is_told() {
    let document: serde_json::Value = serde_json::from_str(text("firecracker.json")).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&document), ["boot-source", "drives", "entropy", "machine-config", "network-interfaces"]);
    assert_eq!(keys(&document["boot-source"]), ["boot_args", "initrd_path", "kernel_image_path"]);
    assert_eq!(keys(&document["machine-config"]), ["mem_size_mib", "vcpu_count"]);
    let nics = document["network-interfaces"].as_array().unwrap();
    assert_eq!(nics.len(), 2);
    for nic in nics {
        assert_eq!(keys(nic), ["guest_mac", "host_dev_name", "iface_id"]);
        // It takes letters, digits and `_` only in names; Linux takes 15 of them for a device.
        let name = nic["iface_id"].as_str().unwrap();
        assert!(name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_'), "{name}");
        assert!(nic["host_dev_name"].as_str().unwrap().len() <= 15);
    }
}

/// `key = "value"`, each once.
#[test]
fn a_vmx_file_has_no_key_twice() {
    let mut keys = BTreeSet::new();
    for line in text("corbel.vmx").lines().filter(|line| !line.starts_with('#')) {
        let (key, value) = line.split_once(" = ").unwrap_or_else(|| panic!("{line}"));
        let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        assert!(inner.is_some_and(|inner| !inner.contains('"')), "{line}");
        assert!(keys.insert(key.to_ascii_lowercase()), "{key} twice");
    }
}

/// The brackets and quotes of a text, outside of its comments and quoted words, come in pairs.
fn is_balanced(text: &str) -> bool {
    let (mut open, mut quote, mut comment) = (Vec::new(), None, false);
    for letter in text.chars() {
        match (letter, quote) {
            ('\n', None) => comment = false,
            _ if comment => {}
            (letter, Some(end)) if letter == end => quote = None,
            (_, Some(_)) => {}
            ('#', None) => comment = true,
            ('"' | '\'', None) => quote = Some(letter),
            ('(', None) => open.push(')'),
            ('[', None) => open.push(']'),
            ('{', None) => open.push('}'),
            (')' | ']' | '}', None) if open.pop() != Some(letter) => return false,
            _ => {}
        }
    }
    open.is_empty() && quote.is_none()
}

#[test]
fn brackets_and_quotes_come_in_pairs() {
    for name in ["hyperv.ps1", "xen-hvm.cfg", "xen-pvh.cfg", "firecracker.json"] {
        assert!(is_balanced(text(name)), "{name}");
    }
    assert!(["(", "(]", "'", "{\"}"].iter().all(|text| !is_balanced(text)));
}

/// PowerShell takes a name that it does not know for nothing, without a word.
#[test]
fn hyperv_uses_no_variable_that_nobody_has_set() {
    let script = text("hyperv.ps1");
    let names = script
        .split('$')
        .skip(1)
        .map(|behind| behind.split(|letter: char| !letter.is_ascii_alphanumeric()).next().unwrap());
    let builtin = ["true", "false", "ErrorActionPreference"];
    for name in names.filter(|name| !builtin.contains(name)) {
        let set = [format!("] ${name}"), format!("${name} = ")];
        assert!(set.iter().any(|set| script.contains(set.as_str())), "${name}");
    }
}

#[test]
fn xen_is_told_nothing_twice() {
    for name in ["xen-hvm.cfg", "xen-pvh.cfg"] {
        let lines = text(name).lines().filter(|line| !line.starts_with(['#', ' ']));
        let keys: Vec<&str> =
            lines.map(|line| line.split_once(" = ").unwrap_or_else(|| panic!("{line}")).0).collect();
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len(), "{name}");
        assert!(["name", "type", "memory", "vif"].iter().all(|key| keys.contains(key)), "{name}");
    }
}

/// `CORBEL_LIBVIRT_DISK` is a raw disk of the image: then it is tried for real, as root.
#[test]
fn libvirt_starts_the_machine_and_switches_it_off() {
    let Some(disk) = env::var_os("CORBEL_LIBVIRT_DISK") else {
        eprintln!("not run: CORBEL_LIBVIRT_DISK names no disk");
        return;
    };
    let folder = Recorder::new("libvirt");
    let output = Command::new("unshare")
        .args(["--mount", "--net", "sh"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libvirt.sh"))
        .args([Path::new(&disk), &folder.0])
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", said(&output.stdout), said(&output.stderr));
}
