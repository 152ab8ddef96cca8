//! Checks of the tree itself. Each test states one rule of ARCHITECTURE.md or CONTRIBUTING.md and prints who breaks it.
#![forbid(unsafe_code)]
#![cfg(test)]

mod mission;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Which packages of this repository each package may depend on, tests included.
const ARROWS: &[(&str, &[&str])] = &[
    ("kernel", &["kernel_io"]),
    ("kernel_io", &[]),
    ("kernel_runtime", &[]),
    ("kernel_selftest", &["kernel"]),
    ("drivers_selftest", &["kernel", "drivers", "network_nic"]),
    ("drivers", &["kernel_io", "network_nic"]),
    ("state", &["kernel_runtime"]),
    ("network_nic", &[]),
    ("network", &["kernel_runtime", "network_nic"]),
    ("network_tls", &["network_tls_cipher"]),
    ("network_tls_cipher", &[]),
    ("storage_block", &[]),
    ("storage_chap", &[]),
    ("storage_iscsi", &["storage_block", "storage_chap", "kernel_runtime"]),
    ("storage_scsi", &["storage_block"]),
    ("storage_nbd", &["storage_block", "kernel_runtime"]),
    ("storage_driver", &["storage_block", "storage_nbd", "kernel_runtime"]),
    (
        "storage",
        &[
            "storage_block",
            "storage_iscsi",
            "storage_scsi",
            "storage_nbd",
            "storage_driver",
            "network",
            "network_tls",
            "network_nic",
            "state",
            "kernel_runtime",
        ],
    ),
    ("management_http", &[]),
    ("agent_protocol", &[]),
    ("agent_engine", &["agent_protocol"]),
    // Itself in tests only, with the schemas that the OpenAPI document is made of.
    ("management_api", &["agent_protocol", "management_http", "management_api"]),
    (
        "management",
        // The agent in tests only: they drive a real one.
        &[
            "management_http",
            "management_api",
            "agent_protocol",
            "agent",
            "storage",
            "state",
            "network",
            "network_nic",
            "network_tls",
            "kernel_runtime",
            "tests_pki",
        ],
    ),
    ("management_ctl", &["management_api", "management_http", "agent_protocol", "network_tls"]),
    ("agent", &["agent_engine", "agent_protocol", "management_http", "network_tls"]),
    ("image_channels", &[]),
    ("image_probe", &["image_channels", "kernel_runtime", "network", "network_nic"]),
    (
        "image_appliance",
        &[
            "image_channels",
            "image_probe",
            "kernel",
            "kernel_io",
            "kernel_runtime",
            "drivers",
            "network",
            "network_nic",
            "network_tls",
            "storage",
            "state",
            "management",
            "agent_protocol",
        ],
    ),
    ("image_pack", &[]),
    ("image_unpack", &[]),
    ("image_efi", &["image_channels"]),
    ("image_bios", &[]),
    ("image_formats", &[]),
    ("image_hosts", &[]),
    (
        "image_launch",
        // The two engines in tests only: hostile peers are made of their wire types; the client of the agent's protocol; and
        // the service that is told to fail.
        &[
            "management_ctl",
            "image_formats",
            "image_hosts",
            "image_pack",
            "image_appliance",
            "agent",
            "agent_protocol",
            "management_http",
            "network_tls",
            "storage_iscsi",
            "storage_nbd",
            "tests_negative",
            "tests_pki",
            "tests_service",
        ],
    ),
    ("tests_tidy", &[]),
    ("tests_pki", &["network_tls"]),
    ("tests_spec", &[]),
    ("tests_service", &["storage_nbd"]),
    // All but the first in tests only: the world in which the table is played.
    (
        "tests_negative",
        &["storage_iscsi", "storage", "storage_nbd", "network", "network_nic", "kernel_runtime"],
    ),
    (
        "tests_sim",
        &[
            "agent_engine",
            "agent_protocol",
            "image_appliance",
            "kernel_runtime",
            "management",
            "management_http",
            "network",
            "network_nic",
            "state",
            "storage",
            "storage_block",
            "storage_iscsi",
            "storage_nbd",
        ],
    ),
    (
        "tests_fuzz",
        &[
            "agent_protocol",
            "drivers",
            "image_appliance",
            "image_channels",
            "image_probe",
            "kernel_io",
            "kernel_runtime",
            "management_http",
            "network",
            "network_nic",
            "storage_block",
            "storage_iscsi",
            "storage_nbd",
            "storage_scsi",
        ],
    ),
];

/// Packages that may contain `unsafe`, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("kernel", "it is the machine"),
    ("kernel_selftest", "it breaks the rules on purpose"),
    ("drivers_selftest", "the entry is a symbol with a fixed name"),
    ("kernel_io", "it is what drivers hold of the machine"),
    ("drivers", "the virtio-drivers crate asks for an unsafe Hal"),
    ("network_tls_cipher", "a processor's AES may be used only after asking whether it is there"),
    ("image_appliance", "hosted: system calls; machine: the entry point"),
    ("image_unpack", "it is assembly, and runs before there is a stack"),
    ("image_bios", "it is assembly, and speaks to a BIOS"),
    ("image_efi", "it calls firmware, and puts the image where it belongs"),
];

/// Code lines (blank lines, comments and test modules aside) a file may have before it is split by state or by PDU.
const LONGEST_FILE: usize = 500;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Folder and manifest of each member of the workspace.
fn packages() -> BTreeMap<String, (PathBuf, String)> {
    let manifest = read(&root().join("Cargo.toml"));
    let start = manifest.find("members = [").expect("a list of members");
    let list = &manifest[start..];
    // The first bracket that closes the list; `default-members` has one of its own.
    let list = &list[..list.find(']').expect("its end")];
    let folders = list.split('"').skip(1).step_by(2);
    folders
        .map(|folder| {
            let folder = root().join(folder);
            let manifest = read(&folder.join("Cargo.toml"));
            let name = field(&manifest, "name").expect("a package has a name");
            (name, (folder, manifest))
        })
        .collect()
}

fn field(manifest: &str, key: &str) -> Option<String> {
    let line =
        manifest.lines().find(|line| line.starts_with(key) && line[key.len()..].trim().starts_with('='))?;
    Some(line.split('"').nth(1)?.to_string())
}

/// Names in all dependency tables of a manifest.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.contains("dependencies]");
        } else if inside && let Some((name, _)) = line.split_once(['.', '=', ' ']) {
            names.push(name.trim().to_string());
        }
    }
    names.retain(|name| !name.is_empty() && !name.starts_with('#'));
    names
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(path);
            } else if name.ends_with(".rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "\nrule: {rule}\nbroken by:\n  {}\n", broken.join("\n  "));
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

#[test]
fn arrows_point_down() {
    let packages = packages();
    let mut broken = Vec::new();
    for (name, (_, manifest)) in &packages {
        let Some((_, allowed)) = ARROWS.iter().find(|(from, _)| from == name) else {
            broken.push(format!("{name} has no row in ARROWS: give it one, and ARCHITECTURE.md an arrow"));
            continue;
        };
        for to in dependencies(manifest).iter().filter(|to| packages.contains_key(*to)) {
            if !allowed.contains(&to.as_str()) {
                broken.push(format!("{name} -> {to}"));
            }
        }
    }
    report(
        "arrows: a package depends only on what ARCHITECTURE.md draws below it, so that each can be tested alone",
        &broken,
    );
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let mut broken = Vec::new();
    for (name, (folder, _)) in packages() {
        if UNSAFE.iter().any(|(allowed, _)| *allowed == name) {
            continue;
        }
        for crate_root in ["src/lib.rs", "src/main.rs"].map(|file| folder.join(file)) {
            if crate_root.exists() && !read(&crate_root).contains("#![forbid(unsafe_code)]") {
                broken.push(shown(&crate_root));
            }
        }
    }
    report(
        "unsafe: only the kernel and the drivers may; every other crate root says #![forbid(unsafe_code)]",
        &broken,
    );
}

#[test]
fn every_file_says_what_it_is() {
    let undocumented = |file: &PathBuf| {
        let text = read(file);
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
        !first.starts_with("//!")
    };
    let broken: Vec<_> =
        rust_files(&root()).iter().filter(|file| undocumented(file)).map(|file| shown(file)).collect();
    report("docs: a file begins with a module comment that says what it is for", &broken);
}

#[test]
fn every_room_has_a_readme() {
    let broken: Vec<_> = packages()
        .values()
        .map(|(folder, _)| folder.join("README.md"))
        .filter(|readme| !readme.exists() || !read(readme).starts_with("# "))
        .map(|readme| shown(&readme))
        .collect();
    report("readme: a folder says what lives there and what it may depend on", &broken);
}

#[test]
fn files_are_short_enough_to_read() {
    let mut broken = Vec::new();
    for file in rust_files(&root()) {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name == "tests.rs" || file.components().any(|part| part.as_os_str() == "tests") {
            continue;
        }
        let text = read(&file);
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        let lines =
            code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//")).count();
        if lines > LONGEST_FILE {
            broken.push(format!("{}: {lines} lines", shown(&file)));
        }
    }
    report(
        "length: a file has at most 500 lines of code; above that it is split by state or by PDU",
        &broken,
    );
}

#[test]
fn nothing_is_called_a_helper() {
    let mut broken = Vec::new();
    for file in rust_files(&root()) {
        let banned = ["util", "utils", "common", "helpers", "helper", "misc"];
        if file.components().any(|part| {
            let name = part.as_os_str().to_str().unwrap_or_default();
            banned.contains(&name.trim_end_matches(".rs"))
        }) {
            broken.push(shown(&file));
        }
    }
    report("names: a module is named by what it is; `util` and its kin are where things get lost", &broken);
}

#[test]
fn every_outside_dependency_has_a_reason() {
    let packages = packages();
    let reasons = read(&root().join("deny.toml"));
    let mut broken = Vec::new();
    for (name, (_, manifest)) in &packages {
        for dependency in dependencies(manifest) {
            if !packages.contains_key(&dependency) && !reasons.contains(&format!("\n# {dependency}: ")) {
                broken.push(format!("{name} -> {dependency}"));
            }
        }
    }
    report("dependencies: deny.toml names every outside package we use directly, with the reason", &broken);
}

#[test]
fn every_package_takes_the_one_lint_table() {
    let broken: Vec<_> = packages()
        .into_iter()
        .filter(|(_, (_, manifest))| !manifest.contains("[lints]\nworkspace = true"))
        .map(|(name, _)| name)
        .collect();
    report("lints: there is one table, in the root manifest", &broken);
}
