//! A line on standard error that says that something is going on, and the wish to wait no longer.

use crate::screen::Screen;
use crate::span;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What is over sooner needs no line.
const PATIENCE: Duration = Duration::from_millis(400);
/// Between two pictures.
const FRAME: Duration = Duration::from_millis(100);

/// The wish to wait no longer, by Ctrl-C. While nothing is at stake the program just ends; where an operation goes on
/// without us it is told first, and only a second Ctrl-C ends the program at once.
#[derive(Clone, Debug)]
pub(crate) struct Interrupt {
    came: Arc<AtomicBool>,
    ends_at_once: Arc<AtomicBool>,
}

impl Interrupt {
    /// Catch Ctrl-C from now on.
    pub(crate) fn catch() -> io::Result<Self> {
        use signal_hook::consts::{SIGINT, SIGTERM};
        let interrupt =
            Self { came: Arc::new(AtomicBool::new(false)), ends_at_once: Arc::new(AtomicBool::new(true)) };
        for signal in [SIGINT, SIGTERM] {
            // As a shell tells of a program that a signal has ended.
            let code = 128 + signal;
            signal_hook::flag::register_conditional_shutdown(signal, code, interrupt.ends_at_once.clone())?;
            signal_hook::flag::register(signal, interrupt.ends_at_once.clone())?;
            signal_hook::flag::register(signal, interrupt.came.clone())?;
        }
        Ok(interrupt)
    }

    /// From here on there is something to say before the end.
    pub(crate) fn hold(&self) {
        if !self.is_set() {
            self.ends_at_once.store(false, Ordering::Relaxed);
        }
    }

    /// Whether it came.
    pub(crate) fn is_set(&self) -> bool {
        self.came.load(Ordering::Relaxed)
    }

    /// Sleep, but not through it; whether the time is over without it.
    pub(crate) fn sleep(&self, time: Duration) -> bool {
        let until = Instant::now() + time;
        while !self.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(FRAME));
        }
        false
    }
}

/// The line. It goes away when it is dropped.
pub(crate) struct Progress<'a> {
    screen: &'a Screen,
    label: String,
    began: Instant,
    last: Option<Instant>,
    frame: usize,
    frames: &'static [&'static str],
}

impl<'a> Progress<'a> {
    pub(crate) fn new(screen: &'a Screen, label: impl Into<String>) -> Self {
        let frames: &[&str] = if speaks_utf8() {
            &["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"]
        } else {
            &["|", "/", "-", "\\"]
        };
        Self { screen, label: label.into(), began: Instant::now(), last: None, frame: 0, frames }
    }

    /// What is going on now.
    pub(crate) fn label(&mut self, label: impl Into<String>) {
        self.label = label.into();
    }

    /// How long it has been.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Draw it anew, if it is time.
    pub(crate) fn tick(&mut self) {
        let elapsed = self.began.elapsed();
        let soon = self.last.is_some_and(|last| last.elapsed() < FRAME);
        if !self.screen.shows_progress() || elapsed < PATIENCE || soon {
            return;
        }
        self.last = Some(Instant::now());
        let picture = self.frames[self.frame % self.frames.len()];
        self.frame += 1;
        let age = span::show(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        let mut text = format!("{picture} {}, {age}", self.label);
        // A line that wraps could not be drawn over.
        if let Some(width) = terminal_width()
            && text.chars().count() >= width
        {
            text = text.chars().take(width.saturating_sub(1)).collect();
        }
        let _nobody_reads = write!(io::stderr().lock(), "\r{text}\x1b[K");
    }

    /// Take it away for something that is to stay.
    pub(crate) fn clear(&mut self) {
        if self.last.take().is_some() {
            let _nobody_reads = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stderr()).ok()?;
    Some(usize::from(size.ws_col)).filter(|width| *width > 0)
}

/// By the locale, as POSIX ranks its variables.
fn speaks_utf8() -> bool {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(set).unwrap_or_default().to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}
