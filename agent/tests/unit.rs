//! The unit file is one that systemd understands, and it leaves the agent little to do harm with.
#![allow(clippy::unwrap_used, reason = "only tests come here")]

use std::path::PathBuf;
use std::process::Command;

const SYSTEMD: &str = "/usr/bin/systemd-analyze";
/// The most exposure that systemd may see, in tenths: 0 is none, 10 all.
const MOST_EXPOSURE: &str = "20";

/// The unit in a directory of its own, with the agent that was just built.
fn unit(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("corbel-unit-{}-{name}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let text = include_str!("../corbel-agent.service");
    assert!(text.contains("ExecStart=/usr/bin/agent "));
    let file = directory.join("corbel-agent.service");
    std::fs::write(&file, text.replace("/usr/bin/agent", env!("CARGO_BIN_EXE_agent"))).unwrap();
    file
}

fn analyze(arguments: &[&str], file: &PathBuf) -> (bool, String) {
    assert!(std::path::Path::new(SYSTEMD).exists(), "this test needs {SYSTEMD} (Debian: systemd)");
    let output = Command::new(SYSTEMD).args(arguments).arg(file).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn systemd_understands_every_line() {
    let file = unit("verify");
    let (fine, said) = analyze(&["verify", "--man=no"], &file);
    assert!(fine && said.trim().is_empty(), "{said}");
    // One that it does not understand is told: the test can fail.
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("ProtectSystem=strict", "ProtectSystems=strict")).unwrap();
    assert!(analyze(&["verify", "--man=no"], &file).1.contains("ProtectSystems"));
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
}

#[test]
fn what_the_agent_cannot_need_it_does_not_have() {
    let file = unit("security");
    let threshold = format!("--threshold={MOST_EXPOSURE}");
    let (fine, said) = analyze(&["security", "--offline=true", "--no-pager", &threshold], &file);
    assert!(fine, "{said}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("CapabilityBoundingSet=\n", "")).unwrap();
    assert!(!analyze(&["security", "--offline=true", "--no-pager", &threshold], &file).0);
    std::fs::remove_dir_all(file.parent().unwrap()).unwrap();
}
