//! What `cargo run`, the tests and the benchmark share: a host's two networks, a storage service, an agent, a
//! hypervisor with the image in it, and the initiators that use it. Every part ends with the run that made it.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod appliance;
pub mod child;
pub mod disk;
mod error;
pub mod images;
pub mod initiator;
pub mod keys;
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
use std::sync::LazyLock;

/// Whether the environment's `CORBEL_SOFT` asks for the image that uses no vector registers.
#[must_use]
pub fn is_soft() -> bool {
    std::env::var_os("CORBEL_SOFT").is_some_and(|value| !value.is_empty())
}

/// The image to boot: the one the environment's `CORBEL_IMAGE` names, one without vector registers where
/// [`is_soft`], which is built then, or the one built with this program.
///
/// # Errors
/// When it is not there, or cannot be built.
pub fn image() -> Result<PathBuf> {
    static SOFT: LazyLock<std::result::Result<PathBuf, String>> = LazyLock::new(image_pack::elf_soft);
    let image = match std::env::var_os("CORBEL_IMAGE") {
        Some(image) => image.into(),
        None if is_soft() => SOFT.clone().map_err(Error::new)?,
        None => image_pack::elf().to_path_buf(),
    };
    if image.is_file() {
        return Ok(image);
    }
    Error::because(format!("there is no image at {}: cargo build makes one", image.display()))
}

pub use error::{Context, Error, Result};
