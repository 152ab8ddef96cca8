//! QEMU, driven through its monitor.

use super::{Backend, Guest, Host};
use image_launch::process::Process;
use serde_json::{Map, Value, json};

pub(crate) struct Qemu;

impl Backend for Qemu {
    fn name(&self) -> &'static str {
        "qemu"
    }

    fn daemon(&self, _: &Host<'_>) -> Option<Process> {
        None
    }

    fn operator(&self, host: &Host<'_>, guests: &[Guest]) -> Value {
        let image = |guest: &Guest| (guest.name.into(), image(guest, host));
        let images: Map<String, Value> = guests.iter().map(image).collect();
        json!({ "qemu": {
            "executable": host.native.program(),
            "images": images,
            "portal": host.stage.net.portal(),
            "networks": { "net": "user" },
        } })
    }
}

fn image(guest: &Guest, host: &Host<'_>) -> Value {
    let memory = guest.memory.to_string();
    let kernel = guest.kernel.display().to_string();
    let mut arguments = vec!["-machine", "pc,accel=tcg", "-m", &memory, "-smp", "1,maxcpus=2"];
    arguments.extend(["-kernel", &kernel]);
    let initrd = guest.initrd.as_ref().map(|path| path.display().to_string());
    if let Some(initrd) = &initrd {
        arguments.extend(["-initrd", initrd, "-append", &guest.command_line]);
    }
    // Snapshots are kept in it.
    let disk = format!("file={}/{{id}}.qcow2,format=qcow2,if=virtio", host.disks.display());
    if initrd.is_none() {
        arguments.extend(["-drive", &disk]);
    }
    json!({ "arguments": arguments })
}
