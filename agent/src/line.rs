//! A connection to the appliance: in TLS 1.3 with the keys of both known beforehand, unless the operator wants it in clear.

use crate::Error;
use network_tls::{
    Algorithm, Buffers, Clients, Connection, Crypto, Dates, Leaf, NoEntropy, Pin, PrivateKey, Random,
    ServerConfig,
};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a peer may take over its handshake.
const HANDSHAKE_TIME: Duration = Duration::from_secs(5);
/// What each connection takes in TLS.
const BUFFERS: Buffers = Buffers { receive: 20 << 10, transmit: 20 << 10 };
/// The most of a key file that is read, in bytes.
const LONGEST_KEY: u64 = 64 << 10;

/// The operating system's randomness.
#[derive(Debug)]
struct Urandom(File);

impl Random for Urandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), NoEntropy> {
        (&self.0).read_exact(out).map_err(|_| NoEntropy)
    }
}

/// How the appliance proves who it is.
#[derive(Clone, Debug)]
pub(crate) struct Security(Option<ServerConfig>);

impl Security {
    /// It need not.
    pub(crate) const NONE: Self = Self(None);

    /// By one of these keys; ours is kept at `path`, and made if there is none. Answers what ours is called as well.
    pub(crate) fn new(path: &Path, pins: &[Pin]) -> Result<(Self, Pin), Error> {
        let at = |error: &dyn std::fmt::Display| Error(format!("{}: {error}", path.display()));
        let source = File::open("/dev/urandom").map_err(|error| Error(format!("/dev/urandom: {error}")))?;
        let crypto = Crypto::new(Box::new(Urandom(source))).map_err(|error| Error(error.to_string()))?;
        let key = match File::open(path) {
            Ok(file) => {
                let mut text = String::new();
                file.take(LONGEST_KEY).read_to_string(&mut text).map_err(|error| at(&error))?;
                let body: String = text.lines().filter(|line| !line.starts_with("-----")).collect();
                let der = network_tls::der(&body).ok_or_else(|| at(&"no private key in PEM"))?;
                PrivateKey::from_pkcs8(&crypto, der.into()).map_err(|error| at(&error))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = PrivateKey::generate(&crypto, Algorithm::P256).map_err(|error| at(&error))?;
                keep(path, &network_tls::pem("PRIVATE KEY", key.pkcs8())).map_err(|error| at(&error))?;
                key
            }
            Err(error) => return Err(at(&error)),
        };
        if pins.is_empty() {
            return Err(Error(format!(
                "--pin is missing: the name of the appliance's key, which its log tells. Our own is agent.pin={}",
                key.pin()
            )));
        }
        let identity = key.self_signed("corbel agent").map_err(|error| at(&error))?;
        let clients = Clients::Pinned(pins.to_vec());
        let config = ServerConfig::new(&crypto, identity, &clients, Dates::CheckedWhenTimeIsKnown);
        Ok((Self(Some(config.map_err(|error| at(&error))?)), key.pin()))
    }

    /// Whether anybody has to prove anything.
    pub(crate) fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

/// Write a file that is there whole or not at all, and that nobody else reads.
fn keep(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("new");
    // One that is there already would keep its mode.
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    File::open(folder(path))?.sync_all()
}

/// Where a file lies; one that is named without a folder lies here.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// One connection.
pub(crate) struct Line {
    stream: TcpStream,
    tls: Option<Box<Connection>>,
}

fn broken(why: impl std::fmt::Display) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why.to_string())
}

impl Line {
    /// Shake hands, if that is wanted. Whoever is not the appliance gets no further.
    pub(crate) fn open(stream: TcpStream, security: &Security) -> io::Result<Self> {
        let mut line = Self { stream, tls: None };
        let Some(config) = &security.0 else { return Ok(line) };
        let connection = Connection::server(config, None, BUFFERS).map_err(broken)?;
        line.tls = Some(Box::new(connection));
        let until = Instant::now() + HANDSHAKE_TIME;
        while line.tls.as_ref().is_some_and(|tls| !tls.is_established()) {
            line.flush()?;
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            line.stream.set_read_timeout(Some(left))?;
            line.fill()?;
        }
        line.flush()?;
        Ok(line)
    }

    /// What the peer's key is called; `None` where it needs none.
    pub(crate) fn key(&self) -> Option<Pin> {
        let certificate = self.tls.as_ref()?.peer_certificate()?;
        Leaf::parse(certificate).ok().map(|leaf| leaf.pin)
    }

    /// Send what TLS has to send.
    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        loop {
            let count = match tls.poll_transmit() {
                [] => return Ok(()),
                bytes => self.stream.write(bytes)?,
            };
            tls.transmitted(count);
        }
    }

    /// Give TLS what arrives next.
    fn fill(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        let count = self.stream.read(tls.space())?;
        let taken = if count == 0 { tls.end_of_stream() } else { tls.received(count) };
        taken.map_err(|fatal| {
            // The alert, if it costs no waiting.
            let _ = self.stream.write(tls.poll_transmit());
            broken(fatal)
        })
    }

    /// Read some, within `patience`; zero when the peer has finished.
    pub(crate) fn read(&mut self, into: &mut [u8], patience: Duration) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(patience))?;
        loop {
            let Some(tls) = &mut self.tls else { return self.stream.read(into) };
            match tls.read(into).map_err(broken)? {
                0 if tls.peer_closed() => return Ok(0),
                0 => {}
                count => return Ok(count),
            }
            self.flush()?;
            self.fill()?;
        }
    }

    /// Write all of it.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return self.stream.write_all(bytes) };
        while !bytes.is_empty() {
            let count = tls.write(bytes).map_err(broken)?;
            bytes = &bytes[count..];
            while let pending @ [_, ..] = tls.poll_transmit() {
                let sent = self.stream.write(pending)?;
                tls.transmitted(sent);
            }
        }
        Ok(())
    }

    /// Say farewell; what the peer still says may be read.
    pub(crate) fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.close();
            let _ = self.flush();
        }
        let _ = self.stream.shutdown(Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_wherever_it_is_named_and_nobody_else_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(folder(Path::new("key.pem")), Path::new("."));
        assert_eq!(folder(Path::new("/key.pem")), Path::new("/"));
        let directory = std::env::temp_dir().join(format!("corbel-key-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join("key.pem");
        std::fs::write(path.with_extension("new"), "left").expect("a file that anybody reads");
        keep(&path, "secret").expect("kept");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::remove_dir_all(directory).expect("removed");
    }
}
