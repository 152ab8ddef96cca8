//! SIGTERM and SIGINT: the process is asked to end.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

/// How many signals came.
static CAME: AtomicUsize = AtomicUsize::new(0);
/// Where they are told: a wait on the other end is over with them, however early they come.
static TOLD: OnceLock<UnixStream> = OnceLock::new();

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

extern "C" fn handle(_: i32) {
    CAME.fetch_add(1, Ordering::Relaxed);
    if let Some(mut told) = TOLD.get() {
        // If it is full enough was told.
        let _ = told.write(&[0]);
    }
}

/// Hear of the signals from now on: what is answered becomes readable with each.
pub(super) fn listen() -> io::Result<UnixStream> {
    let (told, heard) = UnixStream::pair()?;
    told.set_nonblocking(true)?;
    heard.set_nonblocking(true)?;
    let _ = TOLD.set(told);
    for number in [SIGINT, SIGTERM] {
        // SAFETY: The function is libc's, of that signature. The handler does what a handler may: it changes an atomic, loads
        // one that was stored before, and makes one system call; errno is changed only when that finds no room, which takes
        // thousands of signals.
        unsafe { signal(number, handle) };
    }
    Ok(heard)
}

/// How many signals have come.
pub(super) fn asked(mut heard: &UnixStream) -> usize {
    let came = CAME.load(Ordering::Relaxed);
    if came > 0 {
        // So that the next wait is one.
        let _ = heard.read(&mut [0; 16]);
    }
    came
}
