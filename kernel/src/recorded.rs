//! The ports of a test's machine: what is there answers, and all that is touched is written down.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// What a machine answers with, by port; all ones elsewhere.
pub(crate) type Answers = BTreeMap<u16, u32>;

std::thread_local! {
    static PORTS: RefCell<(Answers, BTreeSet<u16>)> = const { RefCell::new((BTreeMap::new(), BTreeSet::new())) };
}

/// The ports that `work` touches on a machine that answers so.
pub(crate) fn touched(answers: &Answers, work: impl FnOnce()) -> BTreeSet<u16> {
    PORTS.set((answers.clone(), BTreeSet::new()));
    work();
    PORTS.take().1
}

fn read(port: u16) -> u32 {
    PORTS.with_borrow_mut(|(answers, touched)| {
        touched.insert(port);
        answers.get(&port).copied().unwrap_or(u32::MAX)
    })
}

fn write(port: u16) {
    PORTS.with_borrow_mut(|(_, touched)| touched.insert(port));
}

macro_rules! width {
    ($read:ident, $write:ident, $type:ty) => {
        pub(crate) unsafe fn $read(port: u16) -> $type {
            read(port) as $type
        }

        pub(crate) unsafe fn $write(port: u16, _: $type) {
            write(port);
        }
    };
}

width!(read8, write8, u8);
width!(read16, write16, u16);
width!(read32, write32, u32);

pub(crate) unsafe fn read_string(port: u16, bytes: &mut [u8]) {
    bytes.fill(read(port) as u8);
}
