//! A client of QEMU's monitor protocol (QMP), small and suspicious.
//!
//! The process at the other end may have been taken over by its guest. So lines are bounded, every wait has a
//! deadline, and an answer counts only with the id of the question.

use super::commands::{plain, with};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};
use serde_json::Value;
use std::fmt;
use std::io::{ErrorKind, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The longest line that is read. The longest answer this agent asks for lists the block nodes of a machine, of which
/// each has about a thousand bytes.
pub(crate) const LINE_LIMIT: usize = 256 * 1024;

/// Why a command was not carried out, or cannot be known to have been.
#[derive(Debug)]
pub(crate) enum QmpError {
    /// There is no monitor at that path.
    Unreachable(std::io::Error),
    /// It did not answer in time.
    Timeout,
    /// It closed the connection.
    Closed,
    /// It said something that is not QMP.
    Malformed(&'static str),
    /// It refused the command, in these words.
    Refused(String),
    /// It knows no device of that name, in these words.
    NotFound(String),
}

impl fmt::Display for QmpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "the monitor cannot be reached: {error}"),
            Self::Timeout => f.write_str("the monitor did not answer in time"),
            Self::Closed => f.write_str("the monitor closed the connection"),
            Self::Malformed(what) => write!(f, "the monitor sent {what}"),
            Self::Refused(description) | Self::NotFound(description) => {
                write!(f, "the hypervisor refused: {description}")
            }
        }
    }
}

/// One connection to a monitor. QEMU serves one at a time, so it is kept no longer than a command takes.
pub(crate) struct Qmp {
    stream: UnixStream,
    buffer: Vec<u8>,
    next_id: u64,
    deadline: Instant,
}

impl Qmp {
    /// Connect, read the greeting and leave negotiation mode; all that follows on this connection must be over by
    /// `deadline`.
    pub(crate) fn connect(path: &Path, deadline: Instant) -> Result<Self, QmpError> {
        let stream = connect(path)?;
        let mut qmp = Self { stream, buffer: Vec::new(), next_id: 1, deadline };
        let greeting = qmp.message()?;
        if greeting.get("QMP").is_none() {
            return Err(QmpError::Malformed("something other than its greeting"));
        }
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// From now on all must be over by that time.
    pub(crate) const fn until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// The time by which all must be over.
    pub(crate) const fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Carry out a command that takes no arguments; its return value.
    pub(crate) fn execute(&mut self, command: &'static str) -> Result<Value, QmpError> {
        self.call(plain(command))
    }

    /// Ask with these arguments; what is returned.
    pub(crate) fn ask(&mut self, command: &'static str, arguments: Value) -> Result<Value, QmpError> {
        self.call(with(command, arguments))
    }

    /// Carry out a command as `commands` makes them; its return value.
    pub(crate) fn call(&mut self, command: Value) -> Result<Value, QmpError> {
        self.exchange(command, None)
    }

    /// The same, and hand it a descriptor.
    pub(crate) fn hand(&mut self, command: Value, descriptor: BorrowedFd<'_>) -> Result<Value, QmpError> {
        self.exchange(command, Some(descriptor))
    }

    fn exchange(
        &mut self,
        mut command: Value,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> Result<Value, QmpError> {
        let id = self.next_id;
        self.next_id += 1;
        command["id"] = id.into();
        let mut line = command.to_string();
        line.push('\n');
        self.set_timeout()?;
        let sent = match descriptor {
            Some(descriptor) => self.send_with(line.as_bytes(), descriptor)?,
            None => 0,
        };
        self.stream.write_all(&line.as_bytes()[sent..]).map_err(broken)?;
        loop {
            let mut message = self.message()?;
            // Events, and answers to whatever somebody else asked, are not for us.
            if message.get("id").and_then(Value::as_u64) != Some(id) {
                continue;
            }
            if let Some(value) = message.get_mut("return") {
                return Ok(value.take());
            }
            let description = message.pointer("/error/desc").and_then(Value::as_str);
            let class = message.pointer("/error/class").and_then(Value::as_str);
            let words = description.map(|words| words.chars().take(200).collect());
            return Err(match words {
                Some(words) if class == Some("DeviceNotFound") => QmpError::NotFound(words),
                Some(words) => QmpError::Refused(words),
                None => QmpError::Malformed("an answer that is neither a result nor an error"),
            });
        }
    }

    /// What `query-status` says, such as `running`.
    pub(crate) fn status(&mut self) -> Result<String, QmpError> {
        let value = self.execute("query-status")?;
        let status = value.get("status").and_then(Value::as_str);
        status.map(str::to_owned).ok_or(QmpError::Malformed("a status without a name"))
    }

    /// Send the beginning of a line together with a descriptor; how much of it.
    fn send_with(&self, line: &[u8], descriptor: BorrowedFd<'_>) -> Result<usize, QmpError> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        if !message.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(QmpError::Malformed("nothing: a descriptor does not fit into a message"));
        }
        let flags = SendFlags::NOSIGNAL;
        let sent = rustix::net::sendmsg(self.stream.as_fd(), &[IoSlice::new(line)], &mut message, flags);
        sent.map_err(|error| broken(error.into()))
    }

    /// The next line, parsed.
    fn message(&mut self) -> Result<Value, QmpError> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=searched + at).collect();
                return serde_json::from_slice(&line)
                    .map_err(|_| QmpError::Malformed("a line that is not JSON"));
            }
            searched = self.buffer.len();
            if searched > LINE_LIMIT {
                return Err(QmpError::Malformed("a line without end"));
            }
            self.set_timeout()?;
            let mut piece = [0; 4096];
            let count = match self.stream.read(&mut piece) {
                Ok(0) => return Err(QmpError::Closed),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(broken(error)),
            };
            self.buffer.extend_from_slice(&piece[..count]);
        }
    }

    /// Bound the next read or write by what is left of the time.
    fn set_timeout(&self) -> Result<(), QmpError> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(QmpError::Timeout);
        }
        let left = Some(left.max(Duration::from_millis(1)));
        let set = self.stream.set_read_timeout(left).and_then(|()| self.stream.set_write_timeout(left));
        set.map_err(broken)
    }
}

fn broken(error: std::io::Error) -> QmpError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => QmpError::Timeout,
        _ => QmpError::Closed,
    }
}

/// Connect without ever waiting: a hung QEMU accepts nobody, and once its short queue is full a blocking connect
/// would hang with it.
pub(crate) fn connect(path: &Path) -> Result<UnixStream, QmpError> {
    let open = || -> rustix::io::Result<_> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    let socket = open().map_err(|error| match error {
        rustix::io::Errno::AGAIN => QmpError::Timeout,
        error => QmpError::Unreachable(error.into()),
    })?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).map_err(QmpError::Unreachable)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    const GREETING: &str = "{\"QMP\":{}}\r\n";
    const READY: &str = "{\"return\":{},\"id\":1}\r\n";

    /// What a client makes of a monitor that says `script` and then closes, or is silent if `hang`.
    fn against(name: &str, script: &str, hang: bool) -> Result<String, QmpError> {
        let directory = std::env::temp_dir().join(format!("corbel-qmp-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("s");
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).unwrap();
        let script = script.to_owned();
        let monitor = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.write_all(script.as_bytes());
            if hang {
                std::thread::sleep(Duration::from_millis(400));
            } else {
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let deadline = Instant::now() + Duration::from_millis(if hang { 150 } else { 5000 });
        let outcome = Qmp::connect(&path, deadline).and_then(|mut qmp| qmp.status());
        monitor.join().unwrap();
        std::fs::remove_dir_all(&directory).unwrap();
        outcome
    }

    #[test]
    fn events_and_foreign_answers_are_passed_over() {
        let script = format!(
            "{GREETING}{{\"event\":\"STOP\"}}\n{READY}{{\"return\":{{\"status\":\"wrong\"}},\"id\":9}}\n\
             {{\"return\":{{\"status\":\"running\"}},\"id\":2}}\n"
        );
        assert_eq!(against("events", &script, false).unwrap(), "running");
    }

    #[test]
    fn a_monitor_that_lies_or_hangs_is_an_error_and_no_more() {
        let refused =
            format!("{GREETING}{READY}{{\"error\":{{\"class\":\"X\",\"desc\":\"no\"}},\"id\":2}}\n");
        assert!(matches!(against("refused", &refused, false), Err(QmpError::Refused(text)) if text == "no"));
        let endless = format!("{GREETING}{READY}{}", "x".repeat(LINE_LIMIT * 3));
        assert!(matches!(
            against("endless", &endless, false),
            Err(QmpError::Malformed("a line without end"))
        ));
        let noise = format!("{GREETING}{READY}\x00\x01\n");
        assert!(matches!(against("noise", &noise, false), Err(QmpError::Malformed(_))));
        assert!(matches!(against("silent", "", true), Err(QmpError::Timeout)));
        assert!(matches!(against("gone", "", false), Err(QmpError::Closed)));
        assert!(matches!(against("other", "{}\n", false), Err(QmpError::Malformed(_))));
        let half = format!("{GREETING}{READY}{{\"return\":{{}},\"id\":2}}\n");
        assert!(matches!(against("half", &half, false), Err(QmpError::Malformed(_))));
    }

    #[test]
    fn a_monitor_that_accepts_nobody_does_not_hang_its_client() {
        let directory = std::env::temp_dir().join(format!("corbel-qmp-{}-full", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("s");
        let _listener = UnixListener::bind(&path).unwrap();
        let began = Instant::now();
        // Far more than the queue of the listener holds.
        let mut held = Vec::new();
        for _ in 0..10_000 {
            match connect(&path) {
                Ok(stream) => held.push(stream),
                Err(QmpError::Timeout) => break,
                Err(other) => panic!("{other}"),
            }
            if held.len() > 900 {
                break;
            }
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
