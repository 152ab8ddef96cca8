//! The engine with a hypervisor and a journal that are played.

mod crashes;
mod lanes;
mod moving;
mod played;
mod told;

use crate::Record;
use agent_protocol::{Size, State, Text, Uuid};

pub(crate) fn record(name: &str) -> Record {
    Record {
        id: name.parse().unwrap(),
        uuid: Uuid(1),
        image: "tiny".parse().unwrap(),
        hypervisor: Text::new("fake"),
        size: Size::default(),
        volumes: Vec::new(),
        nics: Vec::new(),
        snapshots: Vec::new(),
        generation: 1,
        state: State::Stopped,
        reason: None,
        frozen: None,
        passage: None,
        fresh: false,
    }
}
