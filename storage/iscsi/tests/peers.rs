//! Real initiators against the engine: a RAM disk on a loopback socket, libiscsi's tools and QEMU's iSCSI driver.
//!
//! A tool that is not installed is reported and passed over, except where `CI=true` says that it must be there.

#[path = "peers/disk.rs"]
mod disk;
#[path = "peers/target.rs"]
mod target;

use std::process::{Command, Output};
use storage_iscsi::chap::{Access, Account, Algorithms, Credentials, Secret};
use target::{IQN, Target};

/// Run a tool to its end, or say that it is not there.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(Output { status, stdout, stderr }) => {
            let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
            assert!(status.success(), "{program} {arguments:?} ended with {status}:\n{said}");
            Some(said)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            missing(program);
            None
        }
        Err(error) => panic!("{program}: {error}"),
    }
}

fn missing(program: &str) {
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{program} must be installed for this test");
    println!("passed over: {program} is not installed");
}

/// QEMU's iSCSI driver is a module of its own.
fn has_qemu_driver() -> bool {
    let Some(help) = run("qemu-io", &["--help"]).and_then(|_| run("qemu-img", &["--help"])) else {
        return false;
    };
    let there = help.contains("iscsi");
    if !there {
        missing("QEMU's iscsi driver (qemu-block-extra)");
    }
    there
}

#[test]
fn libiscsi_finds_the_target_and_its_disk() {
    let target = Target::start();
    let portal = format!("iscsi://{}", target.address());
    let Some(listed) = run("iscsi-ls", &["-s", &portal]) else { return };
    assert!(listed.contains(&format!("Target:{IQN} Portal:{},1", target.address())), "{listed}");
    assert!(listed.contains("Lun:1"), "{listed}");
    let unit = format!("{portal}/{IQN}/1");
    let Some(inquired) = run("iscsi-inq", &[&unit]) else { return };
    assert!(inquired.contains("Vendor:CORBEL"), "{inquired}");
    let Some(capacity) = run("iscsi-readcapacity16", &[&unit]) else { return };
    assert!(capacity.contains(&format!("Total size:{}", disk::SIZE)), "{capacity}");
}

/// One account, that can prove the target as well.
fn access(algorithms: &str) -> Access {
    let credentials = |user: &str, secret| Credentials {
        user: user.into(),
        secret: Secret::new(secret).expect("long enough"),
    };
    let account = Account {
        initiator: None,
        from_initiator: credentials("host", "open-sesame-open"),
        from_target: Some(credentials("ram", "sesame-is-open")),
    };
    Access::new(vec![account], Algorithms::parse(algorithms).expect("their names")).expect("safe")
}

/// Whether libiscsi gets to ask for the disk's size with these credentials before the address and behind the unit.
fn enters(target: &Target, before: &str, behind: &str) -> Option<(bool, String)> {
    let url = format!("iscsi://{before}{}/{IQN}/1{behind}", target.address());
    let asked = Command::new("iscsi-readcapacity16").arg(&url).output();
    let Ok(Output { status, stdout, stderr }) = asked else {
        missing("iscsi-readcapacity16");
        return None;
    };
    let said = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    Some((status.success() && said.contains(&format!("Total size:{}", disk::SIZE)), said))
}

#[test]
fn libiscsi_proves_itself_and_believes_the_target_or_is_kept_out() {
    let right = "?target_user=ram&target_password=sesame-is-open";
    let target = Target::guarded(Some(access("sha3-256,sha-256,sha1,md5")));
    for (before, behind, may_enter) in [
        ("host%open-sesame-open@", "", true),
        ("host%open-sesame-open@", right, true),
        ("host%open-sesame-shut@", "", false),
        ("guest%open-sesame-open@", "", false),
        ("", "", false),
        // The target would be believed, but it is not asked before the initiator has proven itself.
        ("host%open-sesame-shut@", right, false),
        // And now it is the initiator that does not believe.
        ("host%open-sesame-open@", "?target_user=ram&target_password=sesame-is-shut", false),
        ("host%open-sesame-open@", "?target_user=rom&target_password=sesame-is-open", false),
    ] {
        let Some((entered, said)) = enters(&target, before, behind) else { return };
        assert_eq!(entered, may_enter, "{before} {behind}:\n{said}");
    }
    let listed = run("iscsi-ls", &["-s", &format!("iscsi://host%open-sesame-open@{}", target.address())]);
    assert!(listed.is_none_or(|listed| listed.contains("Lun:1")));
    // It knows MD5 only.
    let strict = Target::guarded(Some(access("sha3-256,sha-256,sha1")));
    assert!(enters(&strict, "host%open-sesame-open@", "").is_none_or(|(entered, _)| !entered));
}

#[test]
fn libiscsi_measures_that_its_reads_come_back() {
    let target = Target::start();
    let unit = format!("iscsi://{}/{IQN}/1", target.address());
    run("iscsi-perf", &["-b", "256", "-m", "32", "-t", "2", &unit]);
}

#[test]
fn libiscsi_s_suite_passes_where_the_transport_is_tested() {
    let target = Target::start();
    let unit = format!("iscsi://{}/{IQN}/1", target.address());
    // One process for each: a test can leave its hooks armed.
    for suite in ["iSCSIcmdsn", "iSCSIdatasn", "iSCSIResiduals", "iSCSITMF"] {
        let arguments = ["--dataloss", "--fail", &format!("--test=ALL.{suite}"), &unit];
        let Some(said) = run("iscsi-test-cu", &arguments) else { return };
        let score = said.lines().find(|line| line.trim_start().starts_with("tests")).unwrap_or_default();
        let numbers: Vec<_> = score.split_whitespace().collect();
        // Type, total, ran, passed, failed, inactive.
        assert_eq!(numbers.get(4), Some(&"0"), "{suite}:\n{said}");
        // What it looks for before and after each suite is none of the transport's.
        let preamble = ["PERSISTENT RESERVE IN", "REPORT_SUPPORTED_OPCODES"];
        let skipped = said
            .lines()
            .filter(|line| line.contains("[SKIPPED]") && !preamble.iter().any(|name| line.contains(name)));
        assert_eq!(skipped.count(), 0, "{suite}:\n{said}");
        println!("{suite}: {score}");
    }
}

#[test]
fn qemu_reads_what_it_wrote() {
    if !has_qemu_driver() {
        return;
    }
    for digest in ["none", "crc32c"] {
        let target = Target::start();
        let options = format!(
            "driver=iscsi,transport=tcp,portal={},target={IQN},lun=1,header-digest={digest},\
             initiator-name=iqn.2001-04.com.example:qemu",
            target.address()
        );
        let lines = [
            "write -P 0xa5 0 1M",
            "write -P 0x5a 1M 4k",
            "write -P 0x11 3145728 8M",
            "write -P 0x33 512 512",
            "flush",
            "read -P 0xa5 1024 1047552",
            "read -P 0x33 512 512",
            "read -P 0x5a 1M 4k",
            "read -P 0x11 3145728 8M",
            "read -P 0 12M 4M",
            "aio_write -P 0x77 16M 1M",
            "aio_write -P 0x78 17M 1M",
            "aio_write -P 0x79 18M 64k",
            "aio_flush",
            "read -P 0x77 16M 1M",
            "read -P 0x78 17M 1M",
            "read -P 0x79 18M 64k",
        ];
        let mut arguments = vec!["--image-opts", &options];
        for line in &lines {
            arguments.extend(["-c", line]);
        }
        let said = run("qemu-io", &arguments).expect("qemu-io is there");
        assert!(!said.contains("verification failed") && !said.contains("error"), "{digest}:\n{said}");
    }
}

#[test]
fn qemu_copies_an_image_there_and_back() {
    if !has_qemu_driver() {
        return;
    }
    let target = Target::start();
    let unit = format!("iscsi://{}/{IQN}/1", target.address());
    let path = std::env::temp_dir().join(format!("corbel-iscsi-peers-{}", std::process::id()));
    let bytes: Vec<u8> = (0..disk::SIZE / 8).flat_map(|n: usize| (n * 2_654_435_761).to_le_bytes()).collect();
    std::fs::write(&path, &bytes).expect("a temporary file");
    let file = path.to_string_lossy();
    run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &file, &unit]);
    let compared = run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &file, &unit]);
    std::fs::remove_file(&path).expect("the temporary file goes");
    assert!(compared.is_none_or(|said| said.contains("identical")));
    assert!(target.disk() == bytes, "what QEMU wrote is what the disk has");
}
