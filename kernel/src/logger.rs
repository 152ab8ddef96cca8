//! Log lines on the console, each with the time since the start.

use crate::clock;
use crate::console::print_line;

struct Log;

impl log::Log for Log {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let micros = clock::micros();
        let (seconds, rest) = (micros / 1_000_000, micros % 1_000_000);
        print_line!("[{seconds:3}.{rest:06}] {:5} {}: {}", record.level(), record.target(), record.args());
    }

    fn flush(&self) {}
}

/// Send what is logged to the console, from "info" up until the program decides.
pub(crate) fn init() {
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(log::LevelFilter::Info);
    }
}
