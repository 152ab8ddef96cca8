//! libvirtd's remote procedure calls over its unix socket, small and suspicious.
//!
//! A message is its length, a header of six words, and what the procedure says in XDR. One connection carries one call at
//! a time, so an answer with another serial number is an error and not somebody else's. Every wait has a deadline, and
//! nothing is believed: a guest that has taken over its QEMU may have gone on to libvirtd.

use super::xdr::{Malformed, Reader, Writer};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// The program that manages domains.
const REMOTE: u32 = 0x2000_8086;
/// The program by which either end asks whether the other is still there.
const KEEPALIVE: u32 = 0x6b65_6570;
const PING: i32 = 1;
const PONG: i32 = 2;
const VERSION: u32 = 1;
const CALL: u32 = 0;
const REPLY: u32 = 1;
const MESSAGE: u32 = 2;
const OK: u32 = 0;
const ERROR: u32 = 1;
/// The length and the header.
const HEAD: usize = 28;
/// The longest message that is read. The protocol allows sixteen times as much; the longest answer that this agent asks
/// for is the description of one domain, some ten kilobytes.
const MESSAGE_MAX: usize = 1 << 20;
/// How much of libvirtd's own words is kept.
const WORDS_MAX: usize = 300;

/// Why a call was not carried out, or cannot be known to have been.
#[derive(Debug)]
pub(super) enum RpcError {
    /// Nobody listens there; nothing was sent.
    Unreachable(std::io::Error),
    /// It did not answer in time.
    Timeout,
    /// It closed the connection.
    Closed,
    /// It said something that is not its protocol.
    Malformed(&'static str),
    /// It refused the call.
    Refused {
        /// libvirt's number of the error (`virErrorNumber`).
        code: i32,
        /// Its words.
        message: String,
    },
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(error) => write!(f, "libvirtd cannot be reached: {error}"),
            Self::Timeout => f.write_str("libvirtd did not answer in time"),
            Self::Closed => f.write_str("libvirtd closed the connection"),
            Self::Malformed(what) => write!(f, "libvirtd sent {what}"),
            Self::Refused { message, .. } => write!(f, "libvirtd refused: {message}"),
        }
    }
}

impl From<Malformed> for RpcError {
    fn from(_: Malformed) -> Self {
        Self::Malformed("an answer that is not as the procedure has it")
    }
}

pub(super) type Answer<T> = Result<T, RpcError>;

/// Something libvirtd told of its own accord.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Notice {
    /// Which kind, as the number of a procedure.
    pub(super) procedure: i32,
    /// What it says.
    pub(super) payload: Vec<u8>,
}

struct Header {
    program: u32,
    procedure: i32,
    kind: u32,
    serial: u32,
    status: u32,
}

/// One connection.
pub(super) struct Link {
    stream: UnixStream,
    buffer: Vec<u8>,
    serial: u32,
    /// What is waited for must be over by then.
    pub(super) deadline: Instant,
    /// When something was last heard.
    heard: Instant,
    /// Every call so far has been answered.
    sound: bool,
}

impl Link {
    pub(super) fn connect(path: &Path, deadline: Instant) -> Answer<Self> {
        let stream = connect(path)?;
        Ok(Self { stream, buffer: Vec::new(), serial: 0, deadline, heard: Instant::now(), sound: true })
    }

    /// Carry out a procedure; what it returns. Notices that arrive meanwhile are dropped: who wants them has a connection
    /// of his own.
    pub(super) fn call(&mut self, procedure: i32, arguments: &Writer) -> Answer<Vec<u8>> {
        if !self.sound {
            return Err(RpcError::Closed);
        }
        self.sound = false;
        let outcome = self.ask(procedure, arguments);
        self.sound = matches!(outcome, Ok(_) | Err(RpcError::Refused { .. }));
        outcome
    }

    /// Whether another call can be made: after one that was not answered the next answer would be its.
    pub(super) const fn is_sound(&self) -> bool {
        self.sound
    }

    fn ask(&mut self, procedure: i32, arguments: &Writer) -> Answer<Vec<u8>> {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        self.send(&Header { program: REMOTE, procedure, kind: CALL, serial, status: OK }, arguments.bytes())?;
        loop {
            let (header, payload) = self.receive()?;
            if header.program != REMOTE || header.kind == MESSAGE {
                continue;
            }
            if header.kind != REPLY || header.serial != serial || header.procedure != procedure {
                return Err(RpcError::Malformed("an answer to something else"));
            }
            return match header.status {
                OK => Ok(payload),
                ERROR => Err(refusal(&payload)?),
                _ => Err(RpcError::Malformed("an answer that neither is one nor an error")),
            };
        }
    }

    /// The next notice; `None` if there is none within the time. A connection on which nothing is heard for `patience`
    /// although libvirtd was asked is as good as closed.
    pub(super) fn notice(&mut self, within: Duration, patience: Duration) -> Answer<Option<Notice>> {
        self.deadline = Instant::now() + within;
        loop {
            let (header, payload) = match self.receive() {
                Err(RpcError::Timeout) if self.heard.elapsed() > patience => return Err(RpcError::Closed),
                Err(RpcError::Timeout) => return Ok(None),
                outcome => outcome?,
            };
            if header.program == REMOTE && header.kind == MESSAGE {
                return Ok(Some(Notice { procedure: header.procedure, payload }));
            }
            if header.program == REMOTE {
                return Err(RpcError::Malformed("an answer that nobody waits for"));
            }
        }
    }

    /// When something was last heard.
    pub(super) const fn heard(&self) -> Instant {
        self.heard
    }

    /// Ask libvirtd whether it is still there. It answers when it comes to it.
    pub(super) fn ping(&mut self, within: Duration) -> Answer<()> {
        self.deadline = Instant::now() + within;
        self.keep_alive(PING)
    }

    fn keep_alive(&mut self, procedure: i32) -> Answer<()> {
        self.send(&Header { program: KEEPALIVE, procedure, kind: MESSAGE, serial: 0, status: OK }, &[])
    }

    fn send(&mut self, header: &Header, payload: &[u8]) -> Answer<()> {
        let length = HEAD + payload.len();
        let mut message = Writer::default();
        // What is sent is made here and is far from four gigabytes.
        message.u32(length as u32).u32(header.program).u32(VERSION).i32(header.procedure);
        message.u32(header.kind).u32(header.serial).u32(header.status).fixed(payload);
        let bytes = message.bytes();
        let mut sent = 0;
        while sent < bytes.len() {
            self.set_timeout()?;
            match self.stream.write(&bytes[sent..]) {
                Ok(0) => return Err(RpcError::Closed),
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(&error)),
            }
        }
        Ok(())
    }

    /// The next message. What has arrived of one stays when the time is over.
    fn receive(&mut self) -> Answer<(Header, Vec<u8>)> {
        loop {
            if let Some(message) = self.complete()? {
                self.heard = Instant::now();
                let parsed = parse(&message)?;
                if parsed.0.program == KEEPALIVE && parsed.0.procedure == PING {
                    self.keep_alive(PONG)?;
                }
                return Ok(parsed);
            }
            self.set_timeout()?;
            let mut piece = [0; 8192];
            match self.stream.read(&mut piece) {
                Ok(0) => return Err(RpcError::Closed),
                Ok(count) => self.buffer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(&error)),
            }
        }
    }

    /// A whole message, if one has arrived. Its length is looked at before the rest is waited for.
    fn complete(&mut self) -> Answer<Option<Vec<u8>>> {
        let Some(length) = self.buffer.first_chunk() else { return Ok(None) };
        let length = u32::from_be_bytes(*length) as usize;
        if !(HEAD..=MESSAGE_MAX).contains(&length) {
            return Err(RpcError::Malformed("a message of a length that none has"));
        }
        if self.buffer.len() < length {
            return Ok(None);
        }
        Ok(Some(self.buffer.drain(..length).collect()))
    }

    /// Bound the next read or write by what is left of the time.
    fn set_timeout(&self) -> Answer<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(RpcError::Timeout);
        }
        let left = Some(left.max(Duration::from_millis(1)));
        let set = self.stream.set_read_timeout(left).and_then(|()| self.stream.set_write_timeout(left));
        set.map_err(|error| broken(&error))
    }
}

fn parse(message: &[u8]) -> Answer<(Header, Vec<u8>)> {
    let mut reader = Reader::new(message);
    reader.u32()?;
    let (program, version) = (reader.u32()?, reader.u32()?);
    let (procedure, kind) = (reader.i32()?, reader.u32()?);
    let header = Header { program, procedure, kind, serial: reader.u32()?, status: reader.u32()? };
    if version != VERSION || !matches!(header.program, REMOTE | KEEPALIVE) {
        return Err(RpcError::Malformed("a message of another program"));
    }
    Ok((header, message[HEAD..].to_vec()))
}

/// The error of an answer (`remote_error`): of all that it holds, the number and the words.
fn refusal(payload: &[u8]) -> Answer<RpcError> {
    let mut reader = Reader::new(payload);
    let code = reader.i32()?;
    let _domain = reader.i32()?;
    let message = reader.optional(Reader::string)?.unwrap_or_else(|| format!("error {code}"));
    Ok(RpcError::Refused { code, message: message.chars().take(WORDS_MAX).collect() })
}

fn broken(error: &std::io::Error) -> RpcError {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => RpcError::Timeout,
        _ => RpcError::Closed,
    }
}

/// Connect without ever waiting: a hung daemon accepts nobody, and once its queue is full a blocking connect would hang
/// with it.
fn connect(path: &Path) -> Answer<UnixStream> {
    let open = || -> rustix::io::Result<_> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(socket)
    };
    let socket = open().map_err(|error| RpcError::Unreachable(error.into()))?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).map_err(RpcError::Unreachable)?;
    Ok(stream)
}

#[cfg(test)]
mod tests;
