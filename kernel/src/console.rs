//! The console: the first serial port, if there is one, else QEMU's debug console, else Xen's (`xen/console.rs`).
//!
//! It is written to without a lock and without interrupts, so that it works in a panic as well. Every wait is bounded:
//! what a port does not take is lost, the machine goes on, and is heard again once whoever reads has caught up.
//!
//! Where there is neither the text is kept, up to [`KEPT`] bytes, for whoever can say it in another way; what is said behind
//! that is lost until some was taken, and a mark stands in its place.

use crate::cpu::{port, relax};
use crate::hypervisor::Hypervisor;
use crate::xen;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use kernel_io::Mmio;
use spin::Mutex;

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

/// Where the debug consoles of QEMU and of its firmware are, and what is read there.
const DEBUG: [u16; 2] = [0xe9, 0x402];
const DEBUG_IS_THERE: u8 = 0xe9;

/// Bytes that are kept where there is no port: a boot says a fifth of it.
pub(crate) const KEPT: usize = 8192;
/// What stands where text was lost.
const LOST: &[u8] = b"\n[...]\n";

/// Text that waits to be taken.
struct Kept {
    bytes: [u8; KEPT],
    start: usize,
    length: usize,
    /// Something was lost behind what is here.
    is_cut: bool,
}

static WAITING: Mutex<Kept> = Mutex::new(Kept::EMPTY);

impl Kept {
    const EMPTY: Self = Self { bytes: [0; KEPT], start: 0, length: 0, is_cut: false };

    /// Keep all of `text`, or none of it.
    fn keep(&mut self, text: &[u8]) {
        let mark = if self.is_cut { LOST } else { &[] };
        if mark.len() + text.len() > KEPT - self.length {
            self.is_cut = true;
            return;
        }
        self.is_cut = false;
        for byte in mark.iter().chain(text) {
            self.bytes[(self.start + self.length) % KEPT] = *byte;
            self.length += 1;
        }
    }

    fn take(&mut self, room: &mut [u8]) -> usize {
        let count = room.len().min(self.length);
        for place in &mut room[..count] {
            *place = self.bytes[self.start];
            self.start = (self.start + 1) % KEPT;
        }
        self.length -= count;
        count
    }
}

/// Take text that no port was there for; answers how many bytes it was.
pub(crate) fn take(room: &mut [u8]) -> usize {
    WAITING.try_lock().map_or(0, |mut kept| kept.take(room))
}

/// Whether there is a port, or what Xen has for one.
pub(crate) fn is_present() -> bool {
    PRESENT.load(Ordering::Relaxed) || debug_port() != 0 || xen::console::is_present()
}

/// Say what was kept, for there is a console now.
pub(crate) fn catch_up() {
    let mut room = [0; 256];
    while is_present() {
        match take(&mut room) {
            0 => return,
            count => xen::console::write(&room[..count]),
        }
    }
}

/// A register that takes characters at any time; zero for none.
static LAST_RESORT: AtomicU64 = AtomicU64::new(0);

/// Where last words go as well: a register of 32 bits that takes a character at any time.
pub(crate) fn set_last_resort(register: &Mmio) {
    if register.len() >= 4
        && let Some(pointer) = register.pointer()
    {
        LAST_RESORT.store(pointer.expose_provenance().get() as u64, Ordering::Relaxed);
    }
}

/// Say what was kept to whoever hears a machine that has no console, for it ends.
pub(crate) fn last_words() {
    let register = LAST_RESORT.load(Ordering::Relaxed);
    let mut room = [0; 256];
    while !is_present() {
        let count = take(&mut room);
        if count == 0 {
            return;
        }
        xen::say(&room[..count]);
        for byte in room[..count].iter().filter(|_| register != 0) {
            // SAFETY: who drives the device has given us a handle to this register, and they are mapped for ever. It is long
            // enough, and takes characters whatever state the device is in.
            unsafe { (register as *mut u32).write_volatile(u32::from(*byte)) };
        }
    }
}

static PRESENT: AtomicBool = AtomicBool::new(false);
/// The port of a debug console, where there is no serial port; zero for none.
static DEBUG_PORT: AtomicU16 = AtomicU16::new(0);
/// Whether it took no more the last time. Until it does again nothing waits for it.
static STALLED: AtomicBool = AtomicBool::new(false);

/// Find out whether there is a port, or what QEMU has for one.
pub(crate) fn init() {
    let present = find_serial();
    PRESENT.store(present, Ordering::Relaxed);
    let debug = if present { None } else { find_debug(Hypervisor::of_machine()) };
    DEBUG_PORT.store(debug.unwrap_or(0), Ordering::Relaxed);
}

/// Whether there is a serial port, which is set to 115200 baud, eight bits, no parity.
pub(crate) fn find_serial() -> bool {
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
    present
}

/// The port of a debug console that says that it is there: it reads as QEMU's has it. Elsewhere nobody is asked.
pub(crate) fn find_debug(hypervisor: Option<Hypervisor>) -> Option<u16> {
    // SAFETY: reading has no effect on the device, and nothing else is at these ports of QEMU's and KVM's machines.
    let is_there = |port: &u16| unsafe { port::read8(*port) } == DEBUG_IS_THERE;
    hypervisor.filter(|hypervisor| hypervisor.may_be_qemu())?;
    DEBUG.into_iter().find(is_there)
}

fn debug_port() -> u16 {
    DEBUG_PORT.load(Ordering::Relaxed)
}

/// Write text; line ends become CR LF, but on a debug console, which is a file mostly.
pub(crate) fn write(text: &str) {
    if !PRESENT.load(Ordering::Relaxed) {
        let debug = debug_port();
        if debug != 0 {
            // SAFETY: the debug console is there (it was asked); it takes all at once.
            return text.bytes().for_each(|byte| unsafe { port::write8(debug, byte) });
        }
        if xen::console::is_present() {
            return xen::console::write(text.as_bytes());
        }
        // Nothing waits for it: a panic may have come in the middle of it.
        if let Some(mut kept) = WAITING.try_lock() {
            kept.keep(text.as_bytes());
        }
        return;
    }
    let mut room = 0;
    for byte in text.bytes() {
        if byte == b'\n' {
            put(b'\r', &mut room);
        }
        put(byte, &mut room);
    }
}

fn put(byte: u8, room: &mut usize) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn all(kept: &mut Kept, portion: usize) -> Vec<u8> {
        let (mut text, mut room) = (Vec::new(), vec![0; portion]);
        loop {
            let count = kept.take(&mut room);
            text.extend(&room[..count]);
            if count == 0 {
                return text;
            }
        }
    }

    #[test]
    fn what_is_kept_comes_back_in_order_however_it_is_taken() {
        let mut kept = Kept::EMPTY;
        for round in 0..50_usize {
            let text: Vec<u8> = (0..400).map(|at| (at + round) as u8).collect();
            kept.keep(&text);
            assert_eq!(all(&mut kept, round + 1), text);
        }
    }

    #[test]
    fn nothing_grows_and_where_text_was_lost_there_is_a_mark() {
        let mut kept = Kept::EMPTY;
        (0..1000).for_each(|_| kept.keep(b"a line of sixteen"));
        let text = all(&mut kept, 100);
        assert_eq!(text.len(), KEPT / 17 * 17);
        kept.keep(b"and on");
        kept.keep(b" and on");
        assert_eq!(all(&mut kept, 5), b"\n[...]\nand on and on");
    }
}
