//! Secure Boot: firmware that starts what one key has signed, and nothing else.

use crate::doors::{Disk, VIRTIO, run};
use crate::qemu::{Firmware, Run};
use crate::{FAILURE, expect};
use std::fs;
use std::path::PathBuf;

/// The key that the firmware's variables believe, and its certificate. Debian ships both for tests, and says so by name.
const KEY: &str = "/usr/share/ovmf/PkKek-1-snakeoil.key";
const CERTIFICATE: &str = "/usr/share/ovmf/PkKek-1-snakeoil.pem";

/// What the appliance is told: it reads it, says so, and ends.
const DOCUMENT: &str = "host.address=10.77.0.2/24 service.address=10.78.0.2/24 colour=blue\n";

/// The UEFI door with the image in it, signed; `test` is whose it is.
fn signed(test: &str) -> Vec<u8> {
    let file = |name: &str| -> PathBuf {
        std::env::temp_dir().join(format!("corbel-secure-{}-{test}.{name}", std::process::id()))
    };
    let (key, signed) = (file("key"), file("efi"));
    let text = |path: &PathBuf| path.display().to_string();
    let (good, said) =
        run("/usr/bin/openssl", &["rsa", "-in", KEY, "-passin", "pass:snakeoil", "-out", &text(&key)]);
    assert!(good, "{said}");
    let efi = image_pack::efi().display().to_string();
    let words = ["--key", &text(&key), "--cert", CERTIFICATE, "--output", &text(&signed), &efi];
    let (good, said) = run("/usr/bin/sbsign", &words);
    let bytes = fs::read(&signed);
    let _ = fs::remove_file(&key).and_then(|()| fs::remove_file(&signed));
    assert!(good, "{said}");
    bytes.expect("what sbsign has made")
}

fn secure(name: &str, efi: &[u8]) -> (Disk, Run) {
    let disk =
        Disk::made(name, DOCUMENT, |document, path| image_pack::write_signed_disk(efi, document, path));
    let run = Run::product("q35,smm=on", "").on_disk(Firmware::Secure, VIRTIO).image(&disk.0);
    (disk, run)
}

#[test]
fn secure_boot_starts_what_the_providers_key_has_signed() {
    let (_disk, run) = secure("signed", &signed("starts"));
    let outcome = run.finish();
    expect(&outcome, FAILURE, "signed");
    assert!(outcome.text().contains("configuration: corbel.cfg: colour: unknown key"), "{}", outcome.text());
}

#[test]
fn secure_boot_starts_nothing_else() {
    let mut tampered = signed("refuses");
    // One bit, far behind the door: the image is covered too.
    let middle = tampered.len() / 2;
    tampered[middle] ^= 1;
    let unsigned = fs::read(image_pack::efi()).expect("it is built");
    for (name, efi) in [("tampered", tampered), ("unsigned", unsigned)] {
        let (_disk, run) = secure(name, &efi);
        run.start().wait_for(": Access Denied");
    }
}
