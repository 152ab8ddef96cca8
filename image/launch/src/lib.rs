//! What `cargo run`, the tests and the benchmark share: a host's two networks, a storage service, an agent, a
//! hypervisor with the image in it, and the initiators that use it. Every part ends with the run that made it.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod appliance;
pub mod child;
pub mod disk;
mod error;
pub mod initiator;
pub mod machine;
pub mod net;
pub mod process;
pub mod qmp;
pub mod sbom;
pub mod scratch;
pub mod setup;
pub mod stage;
pub mod tour;
pub mod wait;

use std::path::PathBuf;

/// The image to boot: the one the environment's `CORBEL_IMAGE` names, or the one built with this program.
///
/// # Errors
/// When it is not there.
pub fn image() -> Result<PathBuf> {
    let image =
        std::env::var_os("CORBEL_IMAGE").map_or_else(|| image_pack::elf().to_path_buf(), PathBuf::from);
    if image.is_file() {
        return Ok(image);
    }
    Error::because(format!("there is no image at {}: cargo build makes one", image.display()))
}

pub use error::{Context, Error, Result};
