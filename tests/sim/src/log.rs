//! The log of a world, with its own time.

use kernel_runtime::Instant;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

thread_local! {
    static CLOCK: RefCell<Option<Rc<Cell<Instant>>>> = const { RefCell::new(None) };
}

/// Lines carry the time of this clock from now on.
pub(crate) fn set_clock(clock: Rc<Cell<Instant>>) {
    CLOCK.with(|slot| *slot.borrow_mut() = Some(clock));
}

struct Log;

impl log::Log for Log {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        !metadata.target().starts_with("smoltcp")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let now = CLOCK.with(|slot| slot.borrow().as_ref().map_or(0, |clock| clock.get().as_micros()));
            let (seconds, micros) = (now / 1_000_000, now % 1_000_000);
            println!("[{seconds:4}.{micros:06}] {}: {}", record.target(), record.args());
        }
    }

    fn flush(&self) {}
}

/// Print everything from now on.
pub fn start() {
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(log::LevelFilter::Debug);
    }
}
