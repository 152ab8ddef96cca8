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
        let images: Map<String, Value> =
            guests.iter().map(|guest| (guest.name.into(), image(guest))).collect();
        json!({ "qemu": { "executable": host.native.program(), "images": images } })
    }
}

fn image(guest: &Guest) -> Value {
    let memory = guest.memory.to_string();
    let mut arguments = vec!["-machine", "pc,accel=tcg", "-m", &memory];
    let kernel = guest.kernel.display().to_string();
    arguments.extend(["-kernel", &kernel]);
    let initrd = guest.initrd.as_ref().map(|path| path.display().to_string());
    if let Some(initrd) = &initrd {
        arguments.extend(["-initrd", initrd, "-append", &guest.command_line]);
    }
    json!({ "arguments": arguments })
}
