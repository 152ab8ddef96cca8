//! Where a test takes place: in a network namespace of its own with two TAP devices, if that is allowed.

use std::process::Command;

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "CORBEL_DRIVERS_INSIDE";

/// What the machine's two NICs are connected to.
pub(crate) struct Network {
    taps: bool,
}

impl Network {
    /// Whether the other end takes and gives segments longer than the network's.
    pub(crate) fn has_offloads(&self) -> bool {
        self.taps
    }

    /// QEMU's arguments for NIC `nic`, whose services are at the ports of this host given in `forwarded` unless there
    /// is a TAP.
    pub(crate) fn arguments(&self, nic: usize, forwarded: &[(u16, u16)]) -> String {
        if self.taps {
            return format!("tap,id=n{nic},ifname=tap{nic},script=no,downscript=no,vhost=off,vnet_hdr=on");
        }
        let forwards = forwarded
            .iter()
            .map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-10.9.{nic}.2:{there}"));
        format!("user,id=n{nic},net=10.9.{nic}.0/24,host=10.9.{nic}.1{}", forwards.collect::<String>())
    }
}

/// Run `test` inside, which is the test called `name` of this program.
pub(crate) fn inside(name: &str, test: impl FnOnce(&Network)) {
    if std::env::var_os(INSIDE).is_some() {
        for nic in 0..2 {
            let tap = format!("tap{nic}");
            ip(&["tuntap", "add", &tap, "mode", "tap", "vnet_hdr"]);
            ip(&["addr", "add", &format!("10.9.{nic}.1/24"), "dev", &tap]);
            ip(&["link", "set", &tap, "up"]);
        }
        return test(&Network { taps: true });
    }
    let program = std::env::current_exe().expect("a test has a program");
    for rights in [&["--net"][..], &["--user", "--map-root-user", "--net"]] {
        let allowed = Command::new("unshare")
            .args(rights)
            .args(["ip", "tuntap", "add", "tap9", "mode", "tap"])
            .output();
        if allowed.is_ok_and(|output| output.status.success()) {
            let mut run = Command::new("unshare");
            run.args(rights).arg(&program).args(["--exact", name, "--nocapture"]).env(INSIDE, "1");
            let status = run.status().expect("it ran just now");
            assert!(status.success(), "see above");
            return;
        }
    }
    println!("no TAP devices here: QEMU's user-mode network instead, without offloads");
    test(&Network { taps: false });
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}
