//! `cargo run -- images`: every form of the image, the same each time, signed if that is wanted.

use image_launch::process;
use image_launch::scratch::Scratch;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const CONFIG: &str = "host.address=10.77.0.2/24\nservice.address=dhcp\n";

fn images(folder: &Path, words: &[&str]) -> String {
    let mut corbel = process::command(env!("CARGO_BIN_EXE_corbel"));
    corbel.arg("images").arg(folder).args(words);
    process::check(corbel, LIMIT).unwrap()
}

/// The disk in `file`, read by QEMU.
fn raw(folder: &Path, file: &str, format: &str) -> Vec<u8> {
    let (from, to) = (folder.join(file), folder.join("read"));
    let mut convert = process::command("qemu-img");
    convert.args(["convert", "-f", format, "-O", "raw"]).arg(from).arg(&to);
    process::check(convert, LIMIT).unwrap();
    fs::read(to).unwrap()
}

#[test]
fn every_form_of_the_image_holds_the_same_disk_and_is_the_same_each_time() {
    let scratch = Scratch::new().unwrap();
    let (one, two) = (scratch.file("one"), scratch.file("two"));
    let config = scratch.file("config");
    fs::write(&config, CONFIG).unwrap();
    let words = ["--config", config.to_str().unwrap()];
    println!("{}", images(&one, &words));
    images(&two, &words);
    let mut check = process::command("sha256sum");
    check.args(["--check", "--strict", "SHA256SUMS"]).current_dir(&one);
    println!("{}", process::check(check, LIMIT).unwrap());
    let sums = fs::read(one.join("SHA256SUMS")).unwrap();
    assert!(sums == fs::read(two.join("SHA256SUMS")).unwrap(), "two builds differ");

    // Where the operator's document is nobody else looks; and scripts run.
    let mode = |file: &str| fs::metadata(one.join(file)).unwrap().permissions().mode() & 0o777;
    for file in ["raw", "qcow2", "vhd", "vhdx", "vmdk", "ova", "iso"] {
        assert_eq!(mode(&format!("corbel.{file}")), 0o600, "{file}");
    }
    for (file, text) in image_hosts::FILES {
        assert_eq!(fs::read_to_string(one.join(file)).unwrap(), text);
        assert_eq!(mode(file) & 0o100 != 0, file.ends_with(".sh"), "{file}");
        assert!(String::from_utf8_lossy(&sums).contains(&format!("  {file}\n")), "{file} has no checksum");
    }
    for entry in fs::read_dir(&one).unwrap() {
        let name = entry.unwrap().file_name();
        assert!(!name.to_string_lossy().ends_with(".new"), "{name:?} is left");
    }

    let disk = fs::read(one.join("corbel.raw")).unwrap();
    for (file, format) in
        [("corbel.qcow2", "qcow2"), ("corbel.vhd", "vpc"), ("corbel.vhdx", "vhdx"), ("corbel.vmdk", "vmdk")]
    {
        assert!(raw(&one, file, format) == disk, "{file} is another disk");
    }
    let iso = fs::read(one.join("corbel.iso")).unwrap();
    assert!(iso.ends_with(&disk), "the ISO holds another disk");
    let volume = format!("{}@@5242880", one.join("corbel.raw").display());
    let mut mcopy = process::command("/usr/bin/mcopy");
    mcopy.args(["-n", "-i", &volume, "::corbel.cfg", "-"]);
    assert_eq!(process::check(mcopy, LIMIT).unwrap(), CONFIG);

    let parts = fs::read_to_string(one.join("corbel.cdx.json")).unwrap();
    for part in ["\"pkg:cargo/rustls@", "\"pkg:cargo/smoltcp@", "storage_iscsi@", "\"CycloneDX\""] {
        assert!(parts.contains(part), "{part} is no part of the image");
    }
    assert!(!parts.contains("pkg:cargo/clap@"), "what is not in the image");
}

#[test]
fn a_signed_image_is_signed_by_who_was_named() {
    let scratch = Scratch::new().unwrap();
    let (key, certificate) = (scratch.file("key"), scratch.file("certificate"));
    let mut openssl = process::command("/usr/bin/openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=a provider"]);
    openssl.arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    process::check(openssl, LIMIT).unwrap();
    let folder = scratch.file("images");
    images(&folder, &["--sign", key.to_str().unwrap(), certificate.to_str().unwrap()]);
    let volume = format!("{}@@5242880", folder.join("corbel.raw").display());
    let mut mcopy = process::command("/usr/bin/mcopy");
    let door = scratch.file("door");
    mcopy.args(["-n", "-i", &volume, "::EFI/BOOT/BOOTX64.EFI"]).arg(&door);
    process::check(mcopy, LIMIT).unwrap();
    let mut verify = process::command("/usr/bin/sbverify");
    verify.arg("--cert").arg(&certificate).arg(&door);
    process::check(verify, LIMIT).unwrap();
}
