//! What every test here begins with.

use image_launch::appliance::Kind;
use image_launch::disk::Server;
use image_launch::setup;
use image_launch::stage::{Script, Stage};
use std::fs::File;
use std::time::Duration;

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
#[allow(dead_code, reason = "some programs have only tests of the other kind")]
pub(crate) fn stage(script: &Script) -> (Stage, Turn) {
    let turn = Turn::take();
    (Stage::start(script).unwrap(), turn)
}

/// The same for a test that looks at how long something takes, or that needs both cores.
#[allow(dead_code, reason = "some programs have only tests of the other kind")]
pub(crate) fn stage_alone(script: &Script) -> (Stage, Turn) {
    let turn = Turn::alone();
    (Stage::start(script).unwrap(), turn)
}

/// One of the turns that tests of this machine take, so that no more emulated hosts run than it has cores; across
/// test programs too.
pub(crate) struct Turn {
    _locks: Vec<File>,
}

impl Turn {
    /// Waits for a turn.
    #[allow(dead_code, reason = "some programs have only tests of the other kind")]
    pub(crate) fn take() -> Self {
        // Whoever came first is served first: those who want one turn do not go by one who wants all.
        let _queue = queue();
        let places: Vec<_> = (0..turns()).map(|number| file(&number.to_string())).collect();
        loop {
            for place in &places {
                if place.try_lock().is_ok() {
                    return Self::ready(vec![place.try_clone().unwrap()]);
                }
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until nobody else has one.
    pub(crate) fn alone() -> Self {
        let _queue = queue();
        let places: Vec<_> = (0..turns()).map(|number| file(&number.to_string())).collect();
        places.iter().for_each(|place| place.lock().unwrap());
        Self::ready(places)
    }

    fn ready(locks: Vec<File>) -> Self {
        setup::ensure(setup::RUN).unwrap();
        setup::ensure(setup::TESTS).unwrap();
        Self { _locks: locks }
    }
}

/// How many there are.
fn turns() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4)
}

fn queue() -> File {
    let queue = file("queue");
    queue.lock().unwrap();
    queue
}

fn file(name: &str) -> File {
    let user = std::env::var("USER").unwrap_or_default();
    File::create(std::env::temp_dir().join(format!("corbel-turn-{user}-{name}"))).unwrap()
}
