//! libvirt's daemon and its QEMU driver, as `qemu:///system`, in folders of its own.

use super::{Backend, Guest, Host};
use crate::parent::LIMIT;
use image_launch::process::Process;
use image_launch::wait;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};

pub(crate) struct Libvirt;

/// Its folders on a host: in the daemon's own view of the files each is one of the run's.
const FOLDERS: [(&str, &str); 5] = [
    ("etc", "/etc/libvirt"),
    ("run", "/run/libvirt"),
    ("lib", "/var/lib/libvirt"),
    ("log", "/var/log/libvirt"),
    ("cache", "/var/cache/libvirt"),
];

/// No cgroups and no namespaces for guests: the machine of a test may have neither to give.
const DRIVER: &str = "\
security_driver = \"none\"
user = \"root\"
group = \"root\"
dynamic_ownership = 0
remember_owner = 0
namespaces = [ ]
cgroup_controllers = [ ]
stdio_handler = \"file\"
";

/// The user its driver insists on, in its own view only.
const USERS: &str = "set -e
for table in passwd group; do
  grep -v -e '^libvirt-qemu:' -e '^kvm:' /etc/$table > $1/$table
done
echo 'libvirt-qemu:x:64055:64055::/:/bin/false' >> $1/passwd
echo 'libvirt-qemu:x:64055:' >> $1/group
echo 'kvm:x:64056:' >> $1/group
mount --bind $1/passwd /etc/passwd
mount --bind $1/group /etc/group
";

impl Backend for Libvirt {
    fn name(&self) -> &'static str {
        "libvirt"
    }

    fn daemon(&self, host: &Host<'_>) -> Option<Process> {
        let folder = folder(host);
        let mut script = String::from(USERS);
        for (name, place) in FOLDERS {
            // What it has learned of QEMU takes seconds to learn: that one is kept for the next run.
            let own = if name == "cache" { kept() } else { folder.join(name) };
            fs::create_dir_all(&own).unwrap();
            script += &format!("mkdir -p {place}\nmount --bind {} {place}\n", own.display());
        }
        fs::write(folder.join("etc/qemu.conf"), DRIVER).unwrap();
        let sockets = folder.join("sockets");
        fs::create_dir_all(&sockets).unwrap();
        let settings = format!(
            "unix_sock_dir = \"{}\"\nauth_unix_rw = \"none\"\nauth_unix_ro = \"none\"\n",
            sockets.display()
        );
        fs::write(folder.join("libvirtd.conf"), settings).unwrap();
        let path = folder.display();
        script += &format!("exec libvirtd -f {path}/libvirtd.conf -p {path}/pid\n");
        // A view of its own of the file system, so that nothing of the machine's own libvirt is touched.
        let mut command = host.stage.net.command("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]).arg(&folder);
        let mut daemon = Process::start("libvirtd", command, &folder.join("output")).unwrap();
        let socket = socket(host);
        wait::until("libvirtd listening", LIMIT, || {
            daemon.must_run()?;
            Ok(socket.exists().then_some(()))
        })
        .unwrap();
        Some(daemon)
    }

    fn operator(&self, host: &Host<'_>, guests: &[Guest]) -> Value {
        let image = |guest: &Guest| (guest.name.into(), image(guest, host));
        let images: Map<String, Value> = guests.iter().map(image).collect();
        json!({ "libvirt": {
            "socket": socket(host),
            "executable": host.native.program(),
            "images": images,
            "disks": host.disks,
            "portal": host.stage.net.portal(),
            "networks": { "net": "user" },
        } })
    }
}

fn folder(host: &Host<'_>) -> PathBuf {
    host.stage.scratch.file("libvirt")
}

fn socket(host: &Host<'_>) -> PathBuf {
    folder(host).join("sockets/libvirt-sock")
}

fn kept() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("libvirt-cache")
}

fn image(guest: &Guest, host: &Host<'_>) -> Value {
    let mut image = json!({
        "type": "qemu",
        "machine": "pc",
        "cpus": 1,
        "cpus_max": 2,
        "memory_mib": guest.memory,
        "kernel": guest.kernel,
        "console": false,
    });
    if let Some(initrd) = &guest.initrd {
        image["initrd"] = json!(initrd);
        image["command_line"] = json!(guest.command_line);
    } else {
        image["disks"] = json!([{ "file": host.template, "format": "qcow2", "private": true }]);
    }
    image
}
