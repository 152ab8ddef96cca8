//! A server that answers as it is told and remembers what it was asked, and the program under test.
#![allow(dead_code, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use network_tls::{Buffers, Connection, ServerConfig};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) line: String,
    /// The header fields.
    pub(crate) fields: String,
    pub(crate) body: String,
}

/// What becomes of a request.
pub(crate) enum Reply {
    /// An answer of this status.
    Json(u16, String),
    /// A problem document.
    Problem(u16, String),
    /// Plain text.
    Text(u16, String),
    /// These very bytes.
    Raw(Vec<u8>),
    /// Nothing: the connection is closed, in TLS without a farewell.
    Hangup,
    /// Nothing: the connection is closed in order.
    Farewell,
}

type Script = dyn Fn(&Asked, usize) -> Reply + Send + Sync;

/// The server; its thread ends with the test.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    scheme: &'static str,
}

impl Server {
    /// One for plain HTTP; `script` is asked with each request and its number.
    pub(crate) fn start(script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::with(None, script)
    }

    /// The same behind TLS.
    pub(crate) fn with(
        tls: Option<ServerConfig>,
        script: impl Fn(&Asked, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (memory, script): (_, Arc<Script>) = (asked.clone(), Arc::new(script));
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (memory, script, tls) = (memory.clone(), script.clone(), tls.clone());
                std::thread::spawn(move || serve(tcp, tls.as_ref(), &memory, &*script));
            }
        });
        Self { address, asked, scheme }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// All it was asked so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// The program, with no settings but this server's address.
    pub(crate) fn ctl(&self, words: &[&str]) -> Run {
        run(self.command(words))
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = command(words);
        command.env("CORBEL_URL", self.url());
        command
    }
}

/// The program under test in a world without settings.
pub(crate) fn command(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_corbelctl"));
    command.args(words).env_clear().env("HOME", folder()).env("LANG", "C.UTF-8");
    command
}

/// What a run of it has left.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) fn run(mut command: Command) -> Run {
    let Output { status, stdout, stderr } = command.output().unwrap();
    Run {
        code: status.code().unwrap_or(-1),
        out: String::from_utf8(stdout).unwrap(),
        err: String::from_utf8(stderr).unwrap(),
    }
}

/// A folder of this test's own.
pub(crate) fn folder() -> PathBuf {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The bytes of one client.
enum Stream {
    Plain(TcpStream),
    Tls(TcpStream, Box<Connection>),
}

impl Stream {
    fn flush(tcp: &mut TcpStream, tls: &mut Connection) -> io::Result<()> {
        loop {
            let count = tls.poll_transmit().len();
            if count == 0 {
                return Ok(());
            }
            tcp.write_all(tls.poll_transmit())?;
            tls.transmitted(count);
        }
    }

    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(tcp) => tcp.read(out),
            Self::Tls(tcp, tls) => loop {
                Self::flush(tcp, tls)?;
                let count = tls.read(out).map_err(io::Error::other)?;
                if count > 0 {
                    return Ok(count);
                }
                let came = tcp.read(tls.space())?;
                if came == 0 {
                    return Ok(0);
                }
                if let Err(fatal) = tls.received(came) {
                    Self::flush(tcp, tls)?;
                    return Err(io::Error::other(fatal));
                }
            },
        }
    }

    fn farewell(mut self) {
        if let Self::Tls(tcp, tls) = &mut self {
            tls.close();
            let _gone = Self::flush(tcp, tls);
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.write_all(bytes),
            Self::Tls(tcp, tls) => {
                let mut sent = 0;
                while sent < bytes.len() {
                    sent += tls.write(&bytes[sent..]).map_err(io::Error::other)?;
                    Self::flush(tcp, tls)?;
                }
                Ok(())
            }
        }
    }
}

fn serve(tcp: TcpStream, tls: Option<&ServerConfig>, memory: &Mutex<Vec<Asked>>, script: &Script) {
    tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut stream = match tls {
        None => Stream::Plain(tcp),
        Some(config) => {
            let connection = Connection::server(config, Some(now), Buffers::default()).unwrap();
            Stream::Tls(tcp, Box::new(connection))
        }
    };
    while let Some(asked) = request(&mut stream) {
        let index = {
            let mut memory = memory.lock().unwrap();
            memory.push(asked.clone());
            memory.len() - 1
        };
        let (status, media, body) = match script(&asked, index) {
            Reply::Json(status, body) => (status, "application/json", body),
            Reply::Problem(status, body) => (status, "application/problem+json", body),
            Reply::Text(status, body) => (status, "text/plain", body),
            Reply::Raw(bytes) => {
                let _gone = stream.write(&bytes);
                continue;
            }
            Reply::Hangup => return,
            Reply::Farewell => return stream.farewell(),
        };
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Type: {media}\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

fn request(stream: &mut Stream) -> Option<Asked> {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
            if body.len() == length.map_or(0, |length| length.parse().unwrap()) {
                let (line, fields) = head.split_once("\r\n").unwrap_or((head, ""));
                return Some(Asked { line: line.into(), fields: fields.into(), body: body.into() });
            }
        }
        let count = stream.read(&mut piece).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&piece[..count]);
    }
}
