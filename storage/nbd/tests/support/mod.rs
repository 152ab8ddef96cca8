//! A driver of the engine over a real socket, and the servers it talks to.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod model;
pub(crate) mod server;
pub(crate) mod service;

use kernel_runtime::Instant;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant as Wall};
use storage_block::{Completion, Request};
use storage_nbd::{Client, Event, Fatal};

/// A connected socket of either family.
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Unix(socket))
    }

    pub(crate) fn tcp(port: u16) -> io::Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        Ok(Self::Tcp(socket))
    }

    /// One that waits for bytes.
    pub(crate) fn blocking(self) -> Self {
        let done = match &self {
            Self::Unix(socket) => socket.set_nonblocking(false),
            Self::Tcp(socket) => socket.set_nonblocking(false),
        };
        done.expect("a socket");
        self
    }

    /// Another hold of the same socket.
    pub(crate) fn twin(&self) -> Self {
        match self {
            Self::Unix(socket) => Self::Unix(socket.try_clone().expect("a socket")),
            Self::Tcp(socket) => Self::Tcp(socket.try_clone().expect("a socket")),
        }
    }

    pub(crate) fn cut(&self) {
        // The peer may have been faster.
        let _ = match self {
            Self::Unix(socket) => socket.shutdown(Shutdown::Both),
            Self::Tcp(socket) => socket.shutdown(Shutdown::Both),
        };
    }

    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.read(buffer),
            Self::Tcp(socket) => socket.read(buffer),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(socket) => socket.write(bytes),
            Self::Tcp(socket) => socket.write(bytes),
        }
    }
}

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The engine gave it up.
    Fatal(Fatal),
    /// The server closed it.
    Eof,
}

/// The engine and its socket.
pub(crate) struct Driver {
    pub(crate) client: Client,
    socket: Option<Socket>,
    start: Wall,
    events: VecDeque<Event>,
}

/// Longer than anything here takes, shorter than a test run's patience.
const PATIENCE: Duration = Duration::from_secs(60);

impl Driver {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, socket: None, start: Wall::now(), events: VecDeque::new() }
    }

    pub(crate) fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as u64)
    }

    pub(crate) fn connect(&mut self, socket: Socket) {
        self.socket = Some(socket);
        self.client.connected(self.now());
    }

    /// Negotiate until requests are taken.
    pub(crate) fn open(&mut self, socket: Socket) -> Result<(), End> {
        self.connect(socket);
        match self.next()? {
            Event::Ready => Ok(()),
            other => panic!("{other:?} during the handshake"),
        }
    }

    /// The next event; waits for it.
    pub(crate) fn next(&mut self) -> Result<Event, End> {
        let begin = Wall::now();
        loop {
            if let Some(event) = self.events.pop_front().or_else(|| self.client.poll_event()) {
                return Ok(event);
            }
            let turn = self.turn();
            if !self.events.is_empty() {
                continue;
            }
            if !turn? {
                assert!(begin.elapsed() < PATIENCE, "nothing happens: {:?}", self.client.counters());
                std::thread::sleep(Duration::from_micros(20));
            }
        }
    }

    /// Move what can be moved; tells whether anything was.
    pub(crate) fn turn(&mut self) -> Result<bool, End> {
        let now = self.now();
        let Some(socket) = &mut self.socket else { return Err(End::Eof) };
        let mut moved = false;
        let mut end = None;
        while let Some(bytes) = self.client.poll_transmit() {
            match socket.write(bytes) {
                Ok(count) => {
                    self.client.transmitted(now, count);
                    moved = true;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // What the server said before it went is still to be read.
                Err(_) => break,
            }
        }
        for _ in 0..64 {
            match socket.read(self.client.space()) {
                Ok(0) => end = Some(End::Eof),
                Ok(count) => {
                    moved = true;
                    if let Err(fatal) = self.client.received(now, count) {
                        end = Some(End::Fatal(fatal));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => end = Some(End::Eof),
            }
            if end.is_some() {
                break;
            }
        }
        if end.is_none()
            && let Err(fatal) = self.client.handle_timeout(now)
        {
            end = Some(End::Fatal(fatal));
        }
        match end {
            Some(end) => {
                // What was told before the end stays told: a server may close right behind the farewell.
                while let Some(event) = self.client.poll_event() {
                    self.events.push_back(event);
                }
                self.cut();
                Err(end)
            }
            None => Ok(moved),
        }
    }

    /// Close the socket.
    pub(crate) fn cut(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.cut();
        }
        self.client.disconnected(self.now());
    }

    /// One request, and its completion.
    pub(crate) fn run(&mut self, request: Request) -> Completion {
        self.client.submit(self.now(), request).expect("a free slot");
        loop {
            match self.next().expect("a live connection") {
                Event::Completed(completion) => return completion,
                Event::Suspect => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// Say farewell and close.
    pub(crate) fn close(&mut self) {
        self.client.disconnect();
        match self.next().expect("a farewell") {
            Event::Closed => {}
            other => panic!("{other:?}"),
        }
        self.cut();
    }
}
