//! The console: the first serial port, if there is one.
//!
//! It is written to without a lock and without interrupts, so that it works in a panic as well. Every wait is bounded:
//! what a port does not take is lost, the machine goes on, and is heard again once whoever reads has caught up.

use crate::cpu::{port, relax};
use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

/// COM1.
const BASE: u16 = 0x3f8;
const DATA: u16 = BASE;
const INTERRUPT_ENABLE: u16 = BASE + 1;
const FIFO_CONTROL: u16 = BASE + 2;
const LINE_CONTROL: u16 = BASE + 3;
const MODEM_CONTROL: u16 = BASE + 4;
const LINE_STATUS: u16 = BASE + 5;
const SCRATCH: u16 = BASE + 7;

const TRANSMITTER_EMPTY: u8 = 1 << 5;
/// Bytes that fit when the transmitter is empty.
const FIFO: usize = 16;
/// How often the line status is read before the port counts as stalled: a few milliseconds on any hypervisor, and longer
/// than sixteen bytes take at 115200 baud.
const PATIENCE: u32 = 20_000;

static PRESENT: AtomicBool = AtomicBool::new(false);
/// Whether it took no more the last time. Until it does again nothing waits for it.
static STALLED: AtomicBool = AtomicBool::new(false);

/// Find out whether there is a port, and set it to 115200 baud, eight bits, no parity.
pub(crate) fn init() {
    // SAFETY: these ports belong to the first serial port on every PC, by convention as old as the PC; where there is
    // none, nothing listens. Nobody else uses it.
    let write = |port, value| unsafe { port::write8(port, value) };
    let present = [0x5a, 0xa5].into_iter().all(|value| {
        write(SCRATCH, value);
        // SAFETY: as above; reading the scratch register has no effect.
        value == unsafe { port::read8(SCRATCH) }
    });
    if present {
        write(INTERRUPT_ENABLE, 0);
        // With the divisor latch open the first two registers are the divisor.
        write(LINE_CONTROL, 0x80);
        write(DATA, 1);
        write(INTERRUPT_ENABLE, 0);
        write(LINE_CONTROL, 0x03);
        write(FIFO_CONTROL, 0x07);
        write(MODEM_CONTROL, 0x03);
    }
    PRESENT.store(present, Ordering::Relaxed);
}

/// Write text; line ends become CR LF.
pub(crate) fn write(text: &str) {
    let mut room = 0;
    for byte in text.bytes() {
        if byte == b'\n' {
            put(b'\r', &mut room);
        }
        put(byte, &mut room);
    }
}

fn put(byte: u8, room: &mut usize) {
    if !PRESENT.load(Ordering::Relaxed) {
        return;
    }
    if *room == 0 {
        // SAFETY: the port is there (it was probed) and ours.
        let empty = || unsafe { port::read8(LINE_STATUS) } & TRANSMITTER_EMPTY != 0;
        let patience = if STALLED.load(Ordering::Relaxed) { 1 } else { PATIENCE };
        let ready = (0..patience).any(|_| {
            relax();
            empty()
        });
        STALLED.store(!ready, Ordering::Relaxed);
        if !ready {
            return;
        }
        *room = FIFO;
    }
    *room -= 1;
    // SAFETY: as above.
    unsafe { port::write8(DATA, byte) };
}

/// The console as something to format into.
pub(crate) struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(text);
        Ok(())
    }
}

/// Write a formatted line.
macro_rules! print_line {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        // The console takes everything, so there is no error to handle.
        let _ = writeln!($crate::console::Console, $($argument)*);
    }};
}
pub(crate) use print_line;
