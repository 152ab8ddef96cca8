//! What a hypervisor has to bring to be put to the contract: one file.

pub(crate) mod libvirt;
pub(crate) mod qemu;

use crate::native::Native;
use image_launch::process::Process;
use image_launch::stage::Stage;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A hypervisor of the contract.
pub(crate) trait Backend: Sync {
    /// Its name, as instances tell it.
    fn name(&self) -> &'static str;

    /// Starts what has to run beside the agent.
    fn daemon(&self, host: &Host<'_>) -> Option<Process>;

    /// The operator's file: it knows the images `deaf` and `obedient`, and the network `net`.
    fn operator(&self, host: &Host<'_>, guests: &[Guest]) -> Value;
}

/// Where a backend stands.
pub(crate) struct Host<'a> {
    pub(crate) stage: &'a Stage,
    /// What stands in QEMU's place.
    pub(crate) native: &'a Native,
    /// An empty disk, and where every instance has one of its own, `ID.qcow2`.
    pub(crate) template: &'a Path,
    pub(crate) disks: &'a Path,
}

/// What an image is made of.
#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) name: &'static str,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: Option<PathBuf>,
    pub(crate) command_line: String,
    pub(crate) memory: u32,
}
