//! The agent's standing connections to a process: its events, on a monitor of their own, and its console.

use super::commands::plain;
use super::console::{Console, ConsolePage};
use super::qmp;
use agent_protocol::{EventKind, Text};
use serde_json::Value;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The longest line of events; the longest event that matters has some hundred bytes.
const LINE_LIMIT: usize = 64 * 1024;
/// How many bytes a second are taken from either. A guest that has more to say is slowed down, and a process that was
/// taken over by its guest cannot keep the agent busy.
const PACE: usize = 256 * 1024;
/// How many of the latest events are remembered.
const SEEN_MAX: usize = 16;

/// What is listened to.
pub(super) struct Link {
    events: Option<UnixStream>,
    console: Option<UnixStream>,
    /// Nobody is at the other end any more.
    events_ended: AtomicBool,
    console_ended: AtomicBool,
    events_pace: Mutex<Pace>,
    console_pace: Mutex<Pace>,
    /// What came of a line that is not whole yet.
    line: Mutex<Vec<u8>>,
    seen: Mutex<VecDeque<Seen>>,
    /// What nobody has asked for yet, one of a kind.
    incidents: Mutex<Vec<(EventKind, Text)>>,
    screen: Mutex<Console>,
}

/// An event of QEMU's, as far as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// Its name in QEMU's schema, such as `RESET`.
    pub(super) event: String,
    /// The device it is about, or the reason it gives.
    pub(super) about: Text,
}

/// The events that tell of a change which an observation or its reason would show.
const TOLD: [&str; 11] = [
    "MIGRATION",
    "STOP",
    "RESUME",
    "SHUTDOWN",
    "RESET",
    "DEVICE_DELETED",
    "DEVICE_UNPLUG_GUEST_ERROR",
    "GUEST_PANICKED",
    "BLOCK_IO_ERROR",
    "WATCHDOG",
    "MEMORY_FAILURE",
];

impl Link {
    /// Connect to what the process in `directory` offers. What it does not offer (it was started by an earlier version,
    /// or its board has no console) is not listened to.
    pub(super) fn open(directory: &Path) -> Self {
        let open = |name: &str| {
            let stream = qmp::connect(&directory.join(name)).ok()?;
            stream.set_nonblocking(true).ok()?;
            Some(stream)
        };
        let events = open("events").and_then(|mut stream| {
            // Events come once this has been said; the greeting need not be waited for.
            let hello = format!("{}\n", plain("qmp_capabilities"));
            stream.write_all(hello.as_bytes()).ok().map(|()| stream)
        });
        Self {
            events,
            console: open("console"),
            events_ended: AtomicBool::new(false),
            console_ended: AtomicBool::new(false),
            events_pace: Mutex::new(Pace::begin()),
            console_pace: Mutex::new(Pace::begin()),
            line: Mutex::default(),
            seen: Mutex::default(),
            incidents: Mutex::default(),
            screen: Mutex::default(),
        }
    }

    /// Something to wait on until an event comes; nothing while too much has come.
    pub(super) fn events(&self) -> Option<BorrowedFd<'_>> {
        let open = !self.events_ended.load(Ordering::Relaxed) && locked(&self.events_pace).allows();
        self.events.as_ref().filter(|_| open).map(AsFd::as_fd)
    }

    /// Something to wait on until the guest writes to its console; nothing while it has written too much.
    pub(super) fn console(&self) -> Option<BorrowedFd<'_>> {
        let open = !self.console_ended.load(Ordering::Relaxed) && locked(&self.console_pace).allows();
        self.console.as_ref().filter(|_| open).map(AsFd::as_fd)
    }

    /// Take in the events that have come; whether any of them tells of a change.
    pub(super) fn listen(&self) -> bool {
        let Some(mut stream) = self.events.as_ref() else { return false };
        let mut line = locked(&self.line);
        let mut piece = [0; 4096];
        // One piece at a time: what a guest can cause without end must not hold up the rest.
        match stream.read(&mut piece) {
            Ok(count @ 1..) => {
                locked(&self.events_pace).took(count);
                line.extend_from_slice(&piece[..count]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return false;
            }
            _ => self.events_ended.store(true, Ordering::Relaxed),
        }
        let mut news = false;
        while let Some(end) = line.iter().position(|&byte| byte == b'\n') {
            let whole: Vec<u8> = line.drain(..=end).collect();
            let Ok(message) = serde_json::from_slice(&whole) else { continue };
            if let Some((kind, detail)) = incident(&message) {
                let mut incidents = locked(&self.incidents);
                incidents.retain(|(other, _)| *other != kind);
                incidents.push((kind, detail));
            }
            if let Some(seen) = told(&message) {
                let mut all = locked(&self.seen);
                if all.len() >= SEEN_MAX {
                    all.pop_front();
                }
                all.push_back(seen);
                news = true;
            }
        }
        if line.len() > LINE_LIMIT {
            self.events_ended.store(true, Ordering::Relaxed);
            line.clear();
        }
        news
    }

    /// What has happened since this was last asked that no observation shows.
    pub(super) fn incidents(&self) -> Vec<(EventKind, Text)> {
        std::mem::take(&mut locked(&self.incidents))
    }

    /// The latest event of this name.
    pub(super) fn last(&self, event: &str) -> Option<Seen> {
        locked(&self.seen).iter().rev().find(|seen| seen.event == event).cloned()
    }

    /// Whether the event of that name came that is about this.
    pub(super) fn has_seen(&self, event: &str, about: &str) -> bool {
        locked(&self.seen).iter().any(|seen| seen.event == event && seen.about.as_str() == about)
    }

    /// Forget the events about this.
    pub(super) fn forget(&self, about: &str) {
        locked(&self.seen).retain(|seen| seen.about.as_str() != about);
    }

    /// Take in what the guest has written to its console, and give it what it is to read.
    pub(super) fn relay(&self) {
        let Some(mut stream) = self.console.as_ref() else { return };
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(count @ 1..) => {
                locked(&self.console_pace).took(count);
                locked(&self.screen).wrote(&piece[..count]);
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            _ => self.console_ended.store(true, Ordering::Relaxed),
        }
        self.flush();
    }

    /// Give the guest what it is to read, as much as it takes now.
    pub(super) fn flush(&self) {
        let Some(mut stream) = self.console.as_ref() else { return };
        let mut screen = locked(&self.screen);
        while !screen.to_read().is_empty() {
            match stream.write(screen.to_read()) {
                Ok(count @ 1..) => screen.has_read(count),
                _ => return,
            }
        }
    }

    /// What the guest wrote after the first `after` bytes; `None` if it has no console.
    pub(super) fn page(&self, after: u64, most: usize) -> Option<ConsolePage> {
        self.console.as_ref()?;
        Some(locked(&self.screen).page(after, most))
    }

    /// Let the guest read this; how much of it there was room for, `None` if it has no console.
    pub(super) fn type_in(&self, bytes: &[u8]) -> Option<usize> {
        self.console.as_ref()?;
        let taken = locked(&self.screen).type_in(bytes);
        self.flush();
        Some(taken)
    }
}

/// How much was taken in this second.
struct Pace {
    since: Instant,
    bytes: usize,
}

impl Pace {
    fn begin() -> Self {
        Self { since: Instant::now(), bytes: 0 }
    }

    fn allows(&mut self) -> bool {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self::begin();
        }
        self.bytes < PACE
    }

    fn took(&mut self, count: usize) {
        self.bytes += count;
    }
}

/// What a message tells, if it is an event that matters.
fn told(message: &Value) -> Option<Seen> {
    let event = message.get("event")?.as_str().filter(|event| TOLD.contains(event))?;
    let words = |key: &str| message.get("data")?.get(key)?.as_str().filter(|words| !words.is_empty());
    let about = ["device", "node-name", "reason", "action", "status"].into_iter().find_map(words);
    if event == "DEVICE_DELETED" && message.pointer("/data/device").is_none() {
        // Of a part of the device, which comes before the whole.
        return None;
    }
    Some(Seen { event: event.to_owned(), about: Text::new(about.unwrap_or_default()) })
}

/// What a message tells that no observation shows.
fn incident(message: &Value) -> Option<(EventKind, Text)> {
    let words = |key: &str| message.get("data")?.get(key)?.as_str();
    match message.get("event")?.as_str()? {
        // Not when it was told to from outside.
        "RESET" if message.pointer("/data/guest") == Some(&Value::Bool(true)) => {
            let reason = words("reason").unwrap_or("guest-reset");
            Some((EventKind::Rebooted, Text::new(&format!("the guest restarted itself ({reason})"))))
        }
        "BLOCK_IO_ERROR" => {
            let disk = words("device").filter(|device| !device.is_empty()).or_else(|| words("node-name"));
            let (disk, what) = (disk.unwrap_or("a disk"), words("operation").unwrap_or("access"));
            let reason = words("reason").unwrap_or("no reason given");
            Some((EventKind::DiskError, Text::new(&format!("{what} on {disk}: {reason}"))))
        }
        _ => None,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_restart_by_the_guest_and_an_error_of_a_disk_are_incidents() {
        let directory = std::env::temp_dir().join(format!("corbel-incidents-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("events");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let link = Link::open(&directory);
        let (mut monitor, _) = listener.accept().unwrap();
        let reset =
            |guest| format!("{{\"event\":\"RESET\",\"data\":{{\"guest\":{guest},\"reason\":\"x\"}}}}\n");
        let error = "{\"event\":\"BLOCK_IO_ERROR\",\"data\":{\"device\":\"\",\"node-name\":\"volume-a\",\
                     \"operation\":\"write\",\"action\":\"report\",\"reason\":\"No space left\"}}\n";
        let lines = [reset(false), reset(true), reset(true), error.to_owned(), reset(true)].concat();
        monitor.write_all(lines.as_bytes()).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while link.last("RESET").is_none() || link.listen() {
            assert!(Instant::now() < until, "nothing comes");
            link.listen();
        }
        let mut incidents = link.incidents();
        incidents.sort_by_key(|(kind, _)| *kind == EventKind::DiskError);
        assert_eq!(link.incidents(), [], "each is told once");
        let expected = [
            (EventKind::Rebooted, Text::new("the guest restarted itself (x)")),
            (EventKind::DiskError, Text::new("write on volume-a: No space left")),
        ];
        assert_eq!(incidents, expected);
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn events_are_told_once_and_noise_ends_the_connection() {
        let directory = std::env::temp_dir().join(format!("corbel-link-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("events");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let link = Link::open(&directory);
        assert!(link.console().is_none() && link.page(0, 10).is_none());
        let (mut monitor, _) = listener.accept().unwrap();
        let gone = "{\"event\":\"DEVICE_DELETED\",\"data\":{\"device\":\"volume-a\",\"path\":\"/x\"}}\r\n";
        monitor.write_all(b"{\"QMP\":{}}\r\n{\"event\":\"RTC_CHANGE\"}\r\nnonsense\n").unwrap();
        monitor.write_all(gone.as_bytes()).unwrap();
        let until = Instant::now() + Duration::from_secs(5);
        while !link.has_seen("DEVICE_DELETED", "volume-a") && Instant::now() < until {
            link.listen();
        }
        assert!(link.last("RTC_CHANGE").is_none());
        link.forget("volume-a");
        assert!(link.last("DEVICE_DELETED").is_none());
        let noise = std::thread::spawn(move || {
            let _ = monitor.write_all(&[b'x'; LINE_LIMIT * 2]);
            monitor
        });
        while !link.events_ended.load(Ordering::Relaxed) && Instant::now() < until {
            link.listen();
        }
        assert!(link.events().is_none(), "a line without end");
        drop((link, noise));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
