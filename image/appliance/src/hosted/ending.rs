//! SIGTERM and SIGINT: the process is asked to end.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level::pipe};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What hears of the signals.
pub(super) struct Ending {
    asked: Arc<AtomicBool>,
    /// Readable with each signal, so that a wait is over with it, however early it comes.
    woken: UnixStream,
}

impl Ending {
    /// Hear of the signals from now on.
    pub(super) fn new() -> io::Result<Self> {
        let (waker, woken) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let asked = Arc::new(AtomicBool::new(false));
        for number in [SIGINT, SIGTERM] {
            flag::register(number, asked.clone())?;
            pipe::register(number, waker.try_clone()?)?;
        }
        Ok(Self { asked, woken })
    }

    /// Whether there was a signal since the last time.
    pub(super) fn is_asked(&mut self) -> bool {
        // A turn has no time for more than a look.
        let asked = self.asked.load(Ordering::Relaxed) && self.asked.swap(false, Ordering::Relaxed);
        if asked {
            // So that the next wait is one.
            let _ = self.woken.read(&mut [0; 16]);
        }
        asked
    }
}

impl AsFd for Ending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }
}
