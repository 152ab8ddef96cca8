//! What every test here begins with.

use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::setup;
use image_launch::stage::{Script, Stage};
use std::fs::File;

/// The bodies the tests run against: all of them, or the one `CORBEL_TARGET` names.
pub(crate) fn targets() -> Vec<Kind> {
    match std::env::var("CORBEL_TARGET") {
        Ok(name) => vec![name.parse().unwrap()],
        Err(_) => ["q35", "pc", "microvm", "hosted"].iter().map(|name| name.parse().unwrap()).collect(),
    }
}

/// The body for a test that needs only one: the image on q35, or what `CORBEL_TARGET` names.
pub(crate) fn target() -> Kind {
    targets()[0]
}

/// A host with one disk, as the test wants it.
pub(crate) fn script(kind: Kind, bytes: u64, server: Server) -> Script {
    Script::new(env!("CARGO_BIN_EXE_corbel"), kind, bytes, server)
}

/// Takes a turn (an emulated machine wants a core) and starts the host.
pub(crate) fn stage(script: &Script) -> (Stage, Turn) {
    let turn = Turn::take();
    (Stage::start(script).unwrap(), turn)
}

/// One of the turns that tests of this machine take, so that no more emulated hosts run than it has cores; across
/// test programs too.
pub(crate) struct Turn {
    _lock: File,
}

impl Turn {
    /// Waits for a turn.
    pub(crate) fn take() -> Self {
        let user = std::env::var("USER").unwrap_or_default();
        let path = std::env::temp_dir().join(format!("corbel-turn-{user}"));
        let lock = File::create(path).unwrap();
        lock.lock().unwrap();
        setup::ensure(setup::RUN).unwrap();
        setup::ensure(setup::TESTS).unwrap();
        Self { _lock: lock }
    }
}
