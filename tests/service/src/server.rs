//! The service: its disk, its connections and what is ordered, in one thread that waits for all of them.
//!
//! One command is executed at a time, to its end. That makes the drain of a fence simple: when the claim of a writer is
//! decided, no command is being executed, and those of a cut connection that wait are thrown away. A service with
//! workers has to wait for them there.

mod execute;
mod fence;
mod order;

use crate::claim::Claim;
use crate::faults::Faults;
use crate::lease::Lease;
use crate::medium::{Cache, Medium};
use crate::options::Options;
use crate::record::Log;
use crate::session::{Command, Export, Heard, Session};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};
use storage_nbd::wire::TransmissionFlags;

/// Bytes taken from a connection at once.
const CHUNK: usize = 256 << 10;
/// Commands of one connection that may wait before no more is read from it.
const MAX_WAITING: usize = 1024;
/// Bytes of replies that may wait before no more is read.
const MAX_OUTPUT: usize = 64 << 20;
/// Letters of the longest line of control.
const MAX_LINE: usize = 4096;
/// Longest sleep, so that nothing depends on a timer that was forgotten.
const NAP: Duration = Duration::from_secs(1);

/// A command, and when it is its turn.
#[derive(Debug)]
struct Waiting {
    command: Command,
    due: Instant,
}

/// A connection, or what one that died has left to do.
#[derive(Debug)]
struct Connection {
    id: u64,
    /// `None` when it is dead and some of what it brought is still to be executed.
    stream: Option<TcpStream>,
    session: Session,
    waiting: Vec<Waiting>,
    /// The writer it belongs to.
    claim: Option<Claim>,
    /// It is to be closed as soon as its replies are out.
    is_ending: bool,
}

/// Somebody who gives orders.
#[derive(Debug)]
struct Commander {
    stream: UnixStream,
    line: Vec<u8>,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    accepted: u64,
    executed: u64,
    refused: u64,
    cut: u64,
    discarded: u64,
    late: u64,
    broken: u64,
}

/// The service.
#[derive(Debug)]
pub struct Server {
    export: Export,
    tells_incarnation: bool,
    /// What is told in place of the truth.
    lie: Option<String>,
    cache: Cache,
    medium: Medium,
    lease: Lease,
    log: Log,
    faults: Faults,
    listener: TcpListener,
    control: Option<UnixListener>,
    connections: Vec<Connection>,
    commanders: Vec<Commander>,
    /// Who was admitted last.
    writer: Option<Claim>,
    /// What was just read.
    input: Vec<u8>,
    next: u64,
    counts: Counts,
    is_stopping: bool,
}

impl Server {
    /// Opens the disk and the sockets.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub fn open(options: &Options) -> io::Result<Self> {
        let medium = Medium::open(&options.file, options.size, options.cache)?;
        let lease = Lease::open(&options.file, options.cache != Cache::None)?;
        let listener = TcpListener::bind(options.listen)?;
        listener.set_nonblocking(true)?;
        let control = options.control.as_ref().map(|path| {
            // One that an earlier life left behind.
            let _ = std::fs::remove_file(path);
            let listener = UnixListener::bind(path)?;
            listener.set_nonblocking(true).map(|()| listener)
        });
        let export = Export {
            name: options.name.clone(),
            description: options.description.clone(),
            size: medium.size(),
            flags: flags(options),
            block_sizes: options.block_sizes,
            incarnation: None,
            knows_writers: options.knows_writers,
            headers: options.headers,
        };
        let mut log = Log::open(options.log.as_deref())?;
        log.note(0, "start", (0, medium.size()), (true, 0), &[]);
        let mut server = Self {
            export,
            tells_incarnation: options.tells_incarnation,
            lie: options.incarnation.clone(),
            cache: options.cache,
            medium,
            lease,
            log,
            faults: Faults::default(),
            listener,
            control: control.transpose()?,
            connections: Vec::new(),
            commanders: Vec::new(),
            writer: None,
            input: vec![0; CHUNK],
            next: 1,
            counts: Counts::default(),
            is_stopping: false,
        };
        server.tell_incarnation();
        Ok(server)
    }

    /// Where it listens, if it was left to the system.
    ///
    /// # Errors
    /// Those of the socket.
    pub fn address(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is told to stop.
    ///
    /// # Errors
    /// When waiting, the listener or the log fails.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            self.wait()?;
            let now = Instant::now();
            self.take_orders(now);
            if self.is_stopping {
                self.medium.flush()?;
                return self.log.write();
            }
            if self.faults.hang_until.is_some_and(|until| now < until) {
                continue;
            }
            self.accept()?;
            for index in 0..self.connections.len() {
                self.listen(index, now);
            }
            self.execute_due(now);
            // What a checker reads is written before anybody hears of it.
            self.log.write()?;
            self.speak();
            self.bury();
        }
    }

    /// Sleeps until there is something to do.
    fn wait(&mut self) -> io::Result<()> {
        let now = Instant::now();
        let hangs = self.faults.hang_until.filter(|until| now < *until);
        let mut fds = Vec::new();
        fds.extend(self.control.iter().map(|control| PollFd::new(control, PollFlags::IN)));
        fds.extend(self.commanders.iter().map(|commander| PollFd::new(&commander.stream, PollFlags::IN)));
        if hangs.is_none() {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
            for connection in &self.connections {
                let Some(stream) = &connection.stream else { continue };
                let mut wanted = PollFlags::empty();
                if connection.listens() {
                    wanted |= PollFlags::IN;
                }
                if !connection.session.output.is_empty() {
                    wanted |= PollFlags::OUT;
                }
                fds.push(PollFd::from_borrowed_fd(stream.as_fd(), wanted));
            }
        }
        let due = self
            .connections
            .iter()
            .flat_map(|connection| &connection.waiting)
            .map(|waiting| waiting.due)
            .min();
        let due = due.map(|due| self.faults.stall_until.map_or(due, |until| due.max(until)));
        let nap = hangs.or(due).map_or(NAP, |due| due.saturating_duration_since(now).min(NAP));
        let nap = Timespec { tv_sec: nap.as_secs() as i64, tv_nsec: i64::from(nap.subsec_nanos()) };
        match poll(&mut fds, Some(&nap)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => {
                    // One that is gone already is noticed when it is read.
                    let _ = stream.set_nodelay(true);
                    stream.set_nonblocking(true)?;
                    let (id, session) = (self.next, Session::new());
                    self.next += 1;
                    self.counts.accepted += 1;
                    self.connections.push(Connection {
                        id,
                        stream: Some(stream),
                        session,
                        waiting: Vec::new(),
                        claim: None,
                        is_ending: false,
                    });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes in what a connection says.
    fn listen(&mut self, index: usize, now: Instant) {
        if !self.connections[index].listens() {
            return;
        }
        let connection = &mut self.connections[index];
        let Some(stream) = &mut connection.stream else { return };
        match stream.read(&mut self.input) {
            Ok(0) => return self.died(index, now),
            Ok(count) => connection.session.receive(&self.input[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => return self.died(index, now),
        }
        while let Some(heard) = self.connections[index].session.hear(&self.export) {
            match heard {
                Heard::Command(command) => {
                    let due = self.faults.due(command.code, now);
                    self.connections[index].waiting.push(Waiting { command, due });
                }
                Heard::Claim(claim) => self.decide(index, claim),
                Heard::End(reason) => {
                    if let Some(reason) = reason {
                        self.counts.broken += 1;
                        eprintln!("connection {}: {reason}", self.connections[index].id);
                    }
                    self.connections[index].is_ending = true;
                }
            }
        }
    }

    /// A connection is gone. What it brought waits for its time, if there is such a time, or is thrown away.
    fn died(&mut self, index: usize, now: Instant) {
        let connection = &mut self.connections[index];
        connection.stream = None;
        match self.faults.late {
            Some(late) => connection.waiting.iter_mut().for_each(|waiting| waiting.due = now + late),
            None => self.counts.discarded += connection.waiting.drain(..).count() as u64,
        }
    }

    fn speak(&mut self) {
        let now = Instant::now();
        for index in 0..self.connections.len() {
            let connection = &mut self.connections[index];
            let Some(stream) = &mut connection.stream else { continue };
            let output = &mut connection.session.output;
            let mut sent = 0;
            let mut is_dead = false;
            while sent < output.len() {
                match stream.write(&output[sent..]) {
                    Ok(count) => sent += count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => {
                        is_dead = error.kind() != ErrorKind::WouldBlock;
                        break;
                    }
                }
            }
            output.drain(..sent);
            let is_through = connection.is_ending && output.is_empty() && connection.waiting.is_empty();
            if is_dead || is_through {
                self.died(index, now);
            }
        }
    }

    /// Forgets the connections that have nothing left to do.
    fn bury(&mut self) {
        self.connections.retain(|connection| connection.stream.is_some() || !connection.waiting.is_empty());
    }
}

impl Connection {
    /// Whether it is read from.
    fn listens(&self) -> bool {
        self.stream.is_some()
            && !self.is_ending
            && self.waiting.len() < MAX_WAITING
            && self.session.output.len() < MAX_OUTPUT
    }
}

fn flags(options: &Options) -> TransmissionFlags {
    let flags = [
        (TransmissionFlags::HAS_FLAGS, true),
        (TransmissionFlags::READ_ONLY, options.read_only),
        (TransmissionFlags::SEND_FLUSH, options.flush),
        (TransmissionFlags::SEND_FUA, options.fua),
        (TransmissionFlags::SEND_TRIM, true),
        (TransmissionFlags::SEND_WRITE_ZEROES, true),
        (TransmissionFlags::SEND_DF, options.headers > 0),
        // One medium and one cache behind all of them.
        (TransmissionFlags::CAN_MULTI_CONN, options.flush),
        (TransmissionFlags::SEND_CACHE, true),
        (TransmissionFlags::SEND_FAST_ZERO, true),
    ];
    let set = flags.iter().filter(|(_, is_set)| *is_set);
    TransmissionFlags(set.fold(0, |all, (flag, _)| all | flag.0))
}
